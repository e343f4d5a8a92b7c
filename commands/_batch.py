"""Many commands in one request: a line of NDJSON a command, each answered by a line of its own."""

from __future__ import annotations

from typing import Any

from commands._codec import encode_json
from commands._deciding import Outcome
from commands._envelope import Envelope, key_of, trace_of
from commands._models import strict_json
from commands._routes import ROUTES, Route
from commands._signed import signed_from
from ops.problems import Problem
from ops.web import MOST_BODY_BYTES

MOST_LINES = 1_000
LINE = frozenset({"context", "command", "key", "body"})
MORE = frozenset({"correlation", "causation", "signed"})
"""What may stand in a line as well."""


def lines_of(body: bytes) -> list[bytes]:
    """Those that are not empty. Raises Problem 413."""
    lines = body.splitlines()
    if len(lines) > MOST_LINES:
        limit = str(MOST_LINES)
        raise Problem(413, "too-many-commands", f"A batch has at most {limit} commands.", limit=limit)
    return [line for line in lines if line.strip()]


def parse_line(line: bytes) -> dict[str, Any]:
    """Raises Problem 400 and 413."""
    if len(line) > MOST_BODY_BYTES:
        limit = str(MOST_BODY_BYTES)
        raise Problem(413, "body-too-large", f"A line is at most {limit} bytes.", limit=limit)
    parsed = strict_json(line)
    if not isinstance(parsed, dict) or not LINE <= set(parsed) <= LINE | MORE:
        raise Problem(
            400,
            "malformed-line",
            "A line is an object with context, command, key and body; perhaps correlation, causation and signed.",
        )
    return parsed


def route_of(parsed: dict[str, Any]) -> Route:
    """Raises Problem 404."""
    context, command = parsed["context"], parsed["command"]
    route = ROUTES.get(f"{context}/{command}")
    if not isinstance(context, str) or not isinstance(command, str) or route is None:
        raise Problem(404, "unknown-command", "There is no such command.")
    return route


def envelope_of_line(parsed: dict[str, Any], base: Envelope) -> Envelope:
    """The terms of the whole batch with those of a line in it. Raises Problem 400 and 403."""
    signed = signed_from(parsed["signed"]) if "signed" in parsed else None
    return Envelope(
        base.caller,
        base.zone,
        base.by if signed is None else signed.principal,
        "" if base.dry_run else key_of(parsed["key"], base.caller),
        None,
        base.dry_run,
        base.at,
        trace_of(parsed["correlation"], "correlation") if "correlation" in parsed else base.correlation,
        trace_of(parsed["causation"], "causation") if "causation" in parsed else base.causation,
        signed,
    )


def line_answer(key: Any, outcome: Outcome) -> bytes:
    shown = encode_json(key if isinstance(key, str) and key.isprintable() else "")
    return b'{"key":%b,"status":%d,"body":%b}\n' % (shown, outcome.status, outcome.body)
