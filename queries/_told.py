"""Queries whose answers do not come from read models: what Valkey knows of queues and workers, and what this process is
set to. They are asked, paged and answered like all others; they have neither a past nor an ETag."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.responses import Response

from commands._codec import encode_json
from ops.problems import Problem
from ops.web import App
from queries._as_of import no_past
from queries._http import DEFAULT_LIMIT, QueryApi, add_query
from queries._parameters import (
    cursor_behind,
    decode_cursor,
    malformed_cursor,
    parameters_of,
    whole_number,
)
from queries._query import NoParameters, Query
from queries._rows import encoder_of
from queries._sql import MOST_LIMIT
from queries._watch import HEAD

Tell = Callable[[], Awaitable[Sequence[Any]]]
"""All rows, in their order. Raises Problem."""

POSITION = "SELECT position FROM heads WHERE zone = %s"


@dataclass(frozen=True, slots=True)
class Told:
    query: Query
    tell: Callable[[Any], Tell]
    """Of whom it is asked: something that runs between start-up and shutdown."""


TOLD: dict[str, Told] = {}


def told(context: str, name: str, row: type, roles: frozenset[str], tell: Callable[[Any], Tell]) -> None:
    """Declare a query; `row` is a dataclass, as those of all queries are."""
    query = Query(
        context, name, row, "", HEAD, ("number",), False, NoParameters, "", roles, False, False, row, None
    )
    TOLD[query.path] = Told(query, tell)


async def answer(each: Told, api: QueryApi, source: Any, request: Request) -> Response:
    query = each.query
    _, zone = await api.caller(request, query.roles, query.scope)
    parameters_of(NoParameters, request)
    if not request.query_params.keys().isdisjoint(("as_of", "diff")):
        raise no_past()
    limit = whole_number(request, "limit", DEFAULT_LIMIT, MOST_LIMIT) or 1
    begin = _begin(request.query_params.get("after"))
    async with api.pool.connection() as connection:
        row = await (await connection.execute(POSITION, (zone,))).fetchone()
    if row is None:
        raise Problem(404, "zone-not-found", "There is no such zone.", zone=zone)
    rows = await each.tell(source)()
    end = begin + limit
    show = encoder_of(query.row)
    body = b'{"position":%d,"items":[%b],"next":%b,"quarantined":0}' % (
        row[0],
        b", ".join([show(each) for each in rows[begin:end]]),
        encode_json(cursor_behind([str(end)]) if len(rows) > end else None),
    )
    headers = {
        "fogbook-position": str(row[0]),
        "cache-control": "private, no-store",
        "vary": "Authorization, Fogbook-Zone",
    }
    return Response(body, 200, headers, "application/json")


def _begin(after: str | None) -> int:
    if after is None:
        return 0
    (number,) = decode_cursor(after, 1)
    if not number.isascii() or not number.isdecimal() or len(number) > len(str(MOST_LIMIT**2)):
        raise malformed_cursor()
    return int(number)


def register_told(app: App, api: Callable[[], QueryApi], source: Callable[[], Any]) -> None:
    for each in TOLD.values():
        add_query(app, each.query, _handler(each, api, source))


def _handler(each: Told, api: Callable[[], QueryApi], source: Callable[[], Any]) -> Any:
    async def handle(request: Request) -> Response:
        return await answer(each, api(), source(), request)

    return handle
