"""Logging, set up once at the root of each process: JSON lines, or colours where a person is looking."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

import structlog

from commands._codec import encode_json
from ops.traces import trace_id

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

_SECRET_NAMES = frozenset({"password", "pepper", "secret", "authorization", "admin_key", "worker_key"})
_SECRETS = re.compile(
    r"(?P<key>fog_[0-9a-f]+_)[A-Za-z0-9_-]{8,}"
    r"|(?P<url>://[^\s:/@\"]*:)[^\s@/\"]+(?=@)"
    r"|(?P<conninfo>password=)[^\s\"]+"
    r"|(?P<token>eyJ[A-Za-z0-9_-]{5,}\.)[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*",
    re.IGNORECASE,
)

Event = MutableMapping[str, Any]


def configure_logging(level: str = "info") -> None:
    """Send structlog and the standard library's loggers to stderr. A call below the level costs next to nothing."""
    number = LEVELS.get(level.lower(), logging.INFO)
    person = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if person else _render_json
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _add_trace,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(() if person else (_render_exception,)),
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *names: _Lines(sys.stderr),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_ToStructlog()]
    root.setLevel(max(number, logging.WARNING))
    for name in ("uvicorn", "dramatiq"):
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def _add_trace(logger: object, method: str, event: Event) -> Event:
    """Where the request or batch at work is traced, its lines lead to the trace."""
    if trace := trace_id():
        event["trace_id"] = trace
    return event


def redact(logger: object, method: str, event: Event) -> Event:
    """Nothing secret reaches a log: neither under its name nor within a text, such as a database's URL."""
    for name, value in event.items():
        if name in _SECRET_NAMES:
            event[name] = "***"
        elif isinstance(value, str):
            event[name] = hide_secrets(value)
    return event


def hide_secrets(text: str) -> str:
    return _SECRETS.sub(lambda found: f"{found[found.lastgroup or 0]}***", text)


def _render_exception(logger: object, method: str, event: Event) -> Event:
    error = event.pop("exc_info", None)
    if error:
        if not isinstance(error, BaseException):
            error = error[1] if isinstance(error, tuple) else sys.exc_info()[1]
        event["exception"] = "".join(traceback.format_exception(error))
    return event


def _render_json(logger: object, method: str, event: Event) -> str:
    try:
        return encode_json(event).decode()
    except TypeError:
        return encode_json(
            {name: value if isinstance(value, int) else str(value) for name, value in event.items()}
        ).decode()


class _Lines(structlog.PrintLogger):
    """A line that cannot be written is lost. Whoever wrote it goes on: the disk that is full may be the database's
    too, and just then its clients need an answer."""

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError):
            super().msg(message)

    log = debug = info = warning = error = critical = msg


class _ToStructlog(logging.Handler):
    """Lines of libraries, in the same form as ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            structlog.get_logger().log(
                record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info
            )
        except Exception:
            self.handleError(record)
