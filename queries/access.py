"""The access log for operators and auditors: who was refused, and what administrators did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from fastapi import Request
from starlette.responses import Response

from commands._codec import encode_json
from ops.access import Caller
from ops.web import App
from queries._events import rfc3339
from queries._http import QueryApi
from queries._parameters import whole_number
from queries._past import Past
from queries.history import _PAGED, DEFAULT_LIMIT, MOST_LIMIT, MOST_POSITION
from queries.proofs import SHORT, VARIES, adder, known_parameters

COLUMNS = ("id", "at", "kind", "route", "zone", "key_id", "issuer", "principal", "problem", "count", "facts")

PAGE = f"""
SELECT {", ".join(COLUMNS)} FROM access_log
WHERE id > %(after)s AND (%(zone)s::text IS NULL OR zone = %(zone)s)
ORDER BY id LIMIT %(limit)s
"""  # noqa: S608 - made of our own text only


def read_log(connection: psycopg.Connection[Any], after: int, limit: int) -> list[dict[str, Any]]:
    """Rows of all zones behind an id, oldest first."""
    rows = connection.execute(PAGE, {"after": after, "limit": limit, "zone": None})
    return [_shown(row) for row in rows]


def _shown(row: tuple[Any, ...]) -> dict[str, Any]:
    named = dict(zip(COLUMNS, row, strict=True))
    return named | {"at": rfc3339(named["at"])}


async def _access(request: Request, caller: Caller, past: Past) -> Response:
    """A key for all zones reads everything; another one what happened in the zone that is asked about."""
    known_parameters(request, "after", "limit")
    after = whole_number(request, "after", 0, MOST_POSITION)
    limit = whole_number(request, "limit", DEFAULT_LIMIT, MOST_LIMIT) or 1
    zone = None if "*" in caller.zones else past.zone
    rows = await past.rows(PAGE, {"after": after, "limit": limit + 1, "zone": zone})
    page = [_shown(row) for row in rows[:limit]]
    headers = {"cache-control": SHORT, "vary": VARIES}
    if len(rows) > limit:
        headers["fogbook-next"] = str(page[-1]["id"])
    return Response(b"".join(encode_json(row) + b"\n" for row in page), 200, headers, "application/x-ndjson")


_TEXT = {"type": "string"}
_ROW = {
    "type": "object",
    "required": list(COLUMNS),
    "properties": {
        "id": {"type": "integer"},
        "at": {"type": "string", "format": "date-time", "description": "Of refusals, to the second."},
        "kind": {"type": "string", "enum": ["authentication", "denial", "administration", "dropped"]},
        "route": {**_TEXT, "description": "The route, or the command line's name of an administrative act."},
        "zone": _TEXT,
        "key_id": {**_TEXT, "description": "An API key's id, or `token:<subject>` of a token."},
        "issuer": _TEXT,
        "principal": {
            **_TEXT,
            "description": "Who was refused, or the user of the machine who administered.",
        },
        "problem": _TEXT,
        "count": {"type": "integer", "description": "How often, within a second."},
        "facts": {"type": "object"},
    },
}


def register_access(app: App, api: Callable[[], QueryApi]) -> None:
    adder(app, api)(
        "/history/access",
        _access,
        "access",
        "Who was refused, and what administrators did",
        "One a line, oldest first: failed authentications, denials (403) and administrative acts. `Fogbook-Next` is "
        "`after` of the next page, if there is one. A key for all zones sees all of it, another one what happened in "
        "the zone. Kind `dropped` counts refusals that found no room.",
        *_PAGED,
        content={"application/x-ndjson": {"schema": _ROW}},
    )
