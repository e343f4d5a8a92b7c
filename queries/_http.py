"""Queries over HTTP: one SQL statement against read-model tables, its position, and nothing computed twice.

Pages, amounts as strings, times and the answer's JSON are added around the SELECT, in the same statement: rows and
position are of one snapshot.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from fastapi import Request
from psycopg import AsyncConnection
from starlette.responses import Response

from commands._codec import encode_json
from commands._subjects import MARK
from domain.ledger import owner_of, wallet_of
from ops.access import Access, Caller
from ops.limits import enter
from ops.pool import Pool
from ops.problems import Problem
from ops.web import App, headers_of, zone_of
from queries._as_of import Archive, no_difference, no_past, with_min_position
from queries._openapi import parameters_shown, responses_of
from queries._parameters import (
    cursor_behind,
    decode_cursor,
    encode_cursor,
    malformed_cursor,
    parameters_of,
    terms_of,
    whole_number,
)
from queries._query import QUERIES, SEES_ALL, Query
from queries._rows import derived, derived_differences, shows
from queries._sql import LIVE, MOST_LIMIT, difference, given_of, has_a_past, statement
from queries._watch import Positions, Stopping

DEFAULT_LIMIT = 50
SEALED = MARK.encode()


@dataclass(frozen=True, slots=True)
class Asked:
    """A query that somebody asks."""

    query: Query
    caller: Caller
    zone: str
    values: dict[str, Any]
    continued: bool
    request: Request

    @property
    def as_of(self) -> str | None:
        return self.request.query_params.get("as_of")

    @property
    def diff(self) -> str | None:
        return self.request.query_params.get("diff")

    @property
    def tags(self) -> list[str]:
        return entity_tags(self.request.headers.get("if-none-match"))

    def statement(self, past: bool = False) -> bytes:
        given, sees_all = given_of(self.query, self.values), self.caller.role in SEES_ALL
        return statement(self.query, self.continued, past, given, sees_all)

    def has(self, etag: str) -> bool:
        return etag in self.tags

    def etag(self, generation: int | str, position: int) -> str:
        """Of zone, generation and position; and of the caller where the answer depends on who asks."""
        query, caller = self.query, self.caller
        whose = f".{caller.principal}" if query.own or "%(principal)s" in query.select else ""
        if "%(sees_all)s" in query.select and caller.role in SEES_ALL:
            whose += ".all"
        return f'"{self.zone}.{query.projection}.{generation}.{position}{whose}"'


class QueryApi:
    """Answers queries for all zones."""

    def __init__(
        self,
        pool: Pool,
        access: Access,
        wait_s: float,
        reveal: Callable[[str], str],
        archive: bool = True,
    ) -> None:
        """`reveal` opens the personal texts in items: whoever a query shows a row to may read it. `archive` says
        whether past rows are kept here."""
        self.reveal = reveal
        self.pool = pool
        self.access = access
        self.positions = Positions(pool)
        self.wait_s = wait_s
        self.archive = Archive(pool, self.positions, wait_s, archive)

    async def caller(self, request: Request, roles: frozenset[str], scope: str) -> tuple[Caller, str]:
        """Who asks, and about which zone. Raises Problem 401 and 403."""
        headers = headers_of(request)
        caller = await self.access.admit(request, headers)
        await enter(request, headers, caller)
        zone = zone_of(headers)
        if not caller.may_enter(zone):
            raise Problem(403, "zone-not-allowed", "The key is not for this zone.", zone=zone)
        if caller.role not in roles:
            raise Problem(
                403,
                "role-not-allowed",
                "The key's role does not allow this.",
                role=caller.role,
                roles=sorted(roles),
            )
        caller.needs(scope)
        return caller, zone

    async def answer(self, query: Query, request: Request) -> Response:
        caller, zone = await self.caller(request, query.roles, query.scope)
        values = parameters_of(query.parameters, request)
        _own(query, caller, values)
        limit = whole_number(request, "limit", DEFAULT_LIMIT, MOST_LIMIT) or 1
        after = request.query_params.get("after")
        values |= {
            "zone": zone,
            "projection": query.projection,
            "limit": limit,
            "principal": caller.principal,
            "sees_all": caller.role in SEES_ALL,
        }
        if after is not None:
            cursor = decode_cursor(after, len(query.key))
            values |= {f"after_{i}": key for i, key in enumerate(cursor)}
        wanted = whole_number(request, "min_position", 0, 2**62)
        asked = Asked(query, caller, zone, values, after is not None, request)
        if asked.as_of is not None or asked.diff is not None:
            if "min_position" in request.query_params:
                raise with_min_position()
            return await (self._as_of(asked) if asked.diff is None else self._difference(asked))
        if wanted:
            await self._reach(zone, query.projection, wanted)
        return await self._now(asked)

    async def _now(self, asked: Asked) -> Response:
        query = asked.query
        async with self.pool.connection() as connection:
            if query.timeless and asked.tags:
                row = await _one(connection, LIVE, asked.values)
                if row is not None and asked.has(etag := asked.etag(row[1], row[2])):
                    return _not_modified(etag, row[2])
            rows = await self._rows(connection, asked, asked.statement())
        if not rows:
            raise await self._no_projection(asked.zone)
        return self._finished(asked, rows, "")

    async def _as_of(self, asked: Asked) -> Response:
        """The same as of a position, from the archive."""
        query = asked.query
        if not has_a_past(query):
            raise no_past()
        assert asked.as_of is not None
        moment = await self.archive.moment(asked.zone, query, asked.as_of)
        position = moment.position
        if query.timeless and moment.archived >= position:
            etag = asked.etag(f"past{moment.generation}", position)
            if asked.has(etag):
                return _not_modified(etag, position)
        asked.values.update(moment.values())
        async with self.pool.connection() as connection:
            rows = await self._rows(connection, asked, asked.statement(past=True))
        if not rows:
            raise self.archive.not_there_yet(moment.archived, position)
        return self._finished(asked, rows, "past")

    def _finished(self, asked: Asked, rows: list[Any], past: str) -> Response:
        query = asked.query
        generation, position, quarantined, first_key, *_ = rows[0]
        begin = 3 + len(query.key)
        if first_key is None:
            rows = []
            if query.single and not asked.continued:
                raise _not_found(position)
        page, show = rows[: asked.values["limit"]], shows(query)
        following = cursor_behind(page[-1][3:begin]) if len(rows) > len(page) else None
        items = b"[%b]" % b", ".join([show(row[begin:]) for row in page])
        if query.derive is not None:
            items = derived(query, items, asked.values)
        etag = asked.etag(f"{past}{generation}", position) if query.timeless else ""
        return self._response(position, items, following, quarantined, etag)

    async def _difference(self, asked: Asked) -> Response:
        """What is not the same as of two positions."""
        query = asked.query
        if not query.timeless:
            raise no_difference()
        assert asked.diff is not None
        was, now = await self.archive.moments(asked.zone, query, asked.diff, asked.as_of)
        asked.values.update(was.values("was_") | now.values())
        async with self.pool.connection() as connection:
            rows = await self._rows(connection, asked, difference(query, asked.continued))
        if not rows:
            raise self.archive.not_there_yet(now.archived, now.position)
        generation, position, text, keys, quarantined, is_known = rows[0]
        if query.single and not is_known and not asked.continued:
            raise _not_found(position)
        items = text.encode() if query.derive is None else derived_differences(query, text, asked.values)
        etag = asked.etag(f"past{generation}-{was.position}", position)
        return self._response(position, items, keys and encode_cursor(keys), quarantined, etag)

    async def _rows(self, connection: AsyncConnection[Any], asked: Asked, text: str | bytes) -> list[Any]:
        try:
            cursor = await connection.execute(text, asked.values)
            return await cursor.fetchall()
        except psycopg.DataError as error:
            if not asked.continued:
                raise
            raise malformed_cursor() from error

    def _response(
        self, position: int, items: bytes, following: str | None, quarantined: int, etag: str
    ) -> Response:
        # What is opened here may be erased while the position stays: nobody keeps it, and no tag says it still holds.
        sealed = SEALED in items
        headers = {
            "fogbook-position": str(position),
            "cache-control": "private, no-store" if sealed else "private, no-cache",
            "vary": "Authorization, Fogbook-Zone",
        }
        if etag and not sealed:
            headers["etag"] = etag
        body = b'{"position":%d,"items":%b,"next":%b,"quarantined":%d}' % (
            position,
            self.reveal(items.decode()).encode() if sealed else items,
            encode_json(following),
            quarantined,
        )
        return Response(body, 200, headers, "application/json")

    async def _reach(self, zone: str, projection: str, wanted: int) -> None:
        """Wait, bounded, until the projection has reached a position. Raises Problem 504 and 503."""
        try:
            position = await self.positions.reach(zone, projection, wanted, self.wait_s)
        except Stopping:
            raise Problem(
                503, "unavailable", "The server is stopping.", headers={"Retry-After": "1"}
            ) from None
        if position < wanted:
            raise Problem(
                504,
                "position-not-reached",
                "The projection did not reach min_position in time.",
                position=position,
                wanted=str(wanted),
                waited_s=str(self.wait_s),
            )

    async def _no_projection(self, zone: str) -> Problem:
        async with self.pool.connection() as connection:
            row = await _one(connection, "SELECT 1 FROM heads WHERE zone = %(zone)s", {"zone": zone})
        if row is None:
            return Problem(404, "zone-not-found", "There is no such zone.", zone=zone)
        return Problem(
            503, "projection-not-ready", "The projection has not started yet.", headers={"Retry-After": "1"}
        )


async def _one(connection: AsyncConnection[Any], sql: Any, values: dict[str, Any]) -> Any:
    cursor = await connection.execute(sql, values)
    return await cursor.fetchone()


def _own(query: Query, caller: Caller, values: dict[str, Any]) -> None:
    """Participants see their own affairs; an empty parameter means the caller's. Raises Problem 404.

    Those who see everything leave it empty for everybody's, where the SELECT provides for them.
    """
    sees_all = caller.role in SEES_ALL
    if not query.own or (sees_all and not values[query.own] and "%(sees_all)s" in query.select):
        return
    is_account = terms_of(query.parameters)[query.own][0] == "account"
    named = values[query.own]
    if not named:
        values[query.own] = wallet_of(caller.principal) if is_account else caller.principal
    elif not sees_all and caller.principal != (owner_of(named) if is_account else named):
        raise _not_found()


def _not_found(position: int | None = None) -> Problem:
    return Problem(404, "not-found", "There is no such thing, or it is not yours to see.", position=position)


def _not_modified(etag: str, position: int) -> Response:
    return Response(b"", 304, {"etag": etag, "fogbook-position": str(position)})


def entity_tags(header: str | None) -> list[str]:
    """The tags of an If-None-Match header; weak ones compare like strong ones there (RFC 9110, 13.1.2)."""
    tags = (each.strip().removeprefix("W/").strip() for each in (header or "").split(","))
    return [tag for tag in tags if tag]


# Registration


def register(app: App, api: Callable[[], QueryApi]) -> None:
    for query in QUERIES.values():
        add_query(app, query, _handler(query, api))


def add_query(app: App, query: Query, handler: Callable[..., Awaitable[Response]]) -> None:
    app.add(
        "GET",
        query.path,
        handler,
        tags=[query.context],
        summary=query.name.replace("-", " ").capitalize(),
        description=inspect.getdoc(query.row) or "",
        operation_id=f"{query.context}_{query.name}".replace("-", "_"),
        responses=responses_of(query),
        openapi_extra={
            "security": [{"key": []}],
            "parameters": parameters_shown(query),
            "x-roles": sorted(query.roles),
            "x-scope": query.scope,
        },
    )


def _handler(query: Query, api: Callable[[], QueryApi]) -> Any:
    async def handle(request: Request) -> Response:
        return await api().answer(query, request)

    return handle
