"""Traces for OpenTelemetry, where FOGBOOK_TRACES_URL names a collector. Off, nothing of them is even imported.

A request's span continues the trace that its `traceparent` names. Who works on it further finds the span in `current`.
What is on the way of every command asks `active` and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if (
    TYPE_CHECKING
):  # Each line of a log looks here: that is to cost a program neither a web framework nor settings.
    from fastapi import Request

    from ops.settings import Settings


class RequestSpan(Protocol):
    """The span of a request that is traced."""

    @property
    def trace_id(self) -> str: ...

    @property
    def traceparent(self) -> str: ...

    def end(self, status: int) -> None: ...


class Closing(Protocol):
    def close(self) -> None: ...


class Tracing(Protocol):
    def request(self, request: Request, route: str) -> RequestSpan | None:
        """Begin the span of a request; None where it is not traced."""
        ...


active: Tracing | None = None
"""What traces this process's requests."""
current: ContextVar[RequestSpan | None] = ContextVar("fogbook_span", default=None)


def begin(request: Request, route: str) -> RequestSpan | None:
    """Begin a request's span, if it is to be traced; until `end` it is the current one."""
    span = None if active is None else active.request(request, route)
    if span is not None:
        current.set(span)
    return span


def end(span: RequestSpan, status: int) -> None:
    current.set(None)
    span.end(status)


@contextmanager
def tracing(settings: Settings, service: str) -> Iterator[Any]:
    """Send traces until the block ends, if the settings say so. Gives what makes spans (ops/traces/_otel.py), or None.
    Raises SettingsIncomplete where what sends them is not installed."""
    global active  # A process has one collector, as it has one registry of metrics.
    if not settings.traces_url:
        yield None
        return
    try:
        from ops.traces._otel import Spans
    except ImportError as error:
        from ops.settings import SettingsIncomplete

        raise SettingsIncomplete(
            f"FOGBOOK_TRACES_URL is set, but {error.name} is missing: pip install 'fogbook[traces]'."
        ) from None
    spans = Spans(settings.traces_url, settings.traces_a_second, service)
    before, active = active, spans
    try:
        yield spans
    finally:
        active = before
        spans.close()


def trace_id() -> str:
    """That of the request or batch at work; empty where none is traced."""
    span = current.get()
    return "" if span is None else span.trace_id
