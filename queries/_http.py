"""Queries over HTTP: one SQL statement against read-model tables, its position, and nothing computed twice.

A query is a name, the dataclass of its rows and a SELECT over `read.*` tables joined with `live`, which stands
for the live generation of the query's projection. Pages, amounts as strings, times and the answer's JSON are
added here, around the SELECT, in the same statement: rows and position are of one snapshot.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import inspect
import re
import time
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from fastapi import Request
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from commands._codec import cache, encode_json
from commands._models import KINDS
from domain.ledger import owner_of
from ops.access import Access, Caller
from ops.problems import Problem, documented
from ops.web import App, zone_of

DEFAULT_LIMIT = 50
MOST_LIMIT = 500
RESERVED = frozenset({"limit", "after", "min_position"})
SEES_ALL = frozenset({"operator", "auditor"})
EVERYBODY = frozenset({"operator", "auditor", "participant", "provider", "worker"})

LIVE = """
SELECT zone, generation, position FROM checkpoints
WHERE zone = %(zone)s AND projection = %(projection)s AND live
"""


@dataclass(frozen=True, slots=True)
class NoParameters:
    pass


@dataclass(frozen=True, slots=True)
class Query:
    context: str
    name: str
    row: type
    select: str
    projection: str
    key: tuple[str, ...]
    """The columns that order the items, and that pages continue after."""
    descending: bool
    parameters: type
    own: str
    """The parameter that names whose affair it is: a wallet or a principal. Others get 404."""
    roles: frozenset[str]
    timeless: bool
    """False when the answer depends on the current time, so that it has no ETag."""

    @property
    def path(self) -> str:
        return f"/queries/{self.context}/{self.name}"


QUERIES: dict[str, Query] = {}


class Context:
    """The queries of one context."""

    def __init__(self, name: str) -> None:
        self.name = name.rpartition(".")[2]

    def get(
        self,
        name: str,
        row: type,
        select: str,
        *,
        key: tuple[str, ...],
        parameters: type = NoParameters,
        own: str = "",
        roles: frozenset[str] = EVERYBODY,
        descending: bool = False,
        timeless: bool = True,
        projection: str = "",
    ) -> None:
        """Declare a query. `row` is a dataclass whose fields are the SELECT's columns, by name."""
        query = Query(
            self.name,
            name,
            row,
            select,
            projection or self.name,
            key,
            descending,
            parameters,
            own,
            roles,
            timeless,
        )
        QUERIES[query.path] = query


# SQL around a query's SELECT


def _shown(name: str, hint: Any) -> str:
    """A column as JSON shows it: amounts are strings, times RFC 3339."""
    plain = (
        [part for part in get_args(hint) if part is not type(None)]
        if None.__class__ in get_args(hint)
        else []
    )
    hint = plain[0] if plain else hint
    if get_origin(hint) is Annotated and hint.__metadata__[0] in ("amount", "quantity", "numeric(38,0)"):
        return f"q.{name}::text AS {name}"
    if hint is datetime:
        return f"""to_char(q.{name} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS {name}"""
    return f"q.{name}"


def _cast(hint: Any) -> str:
    if get_origin(hint) is Annotated and hint.__metadata__[0] in ("amount", "quantity", "numeric(38,0)"):
        return "numeric"
    return {int: "bigint", datetime: "timestamptz"}.get(hint, 'text COLLATE "C"')


@cache
def statement(query: Query, continued: bool) -> str:
    """The whole statement; `continued` when a page before it was read."""
    hints = get_type_hints(query.row, include_extras=True)
    shown = ", ".join(_shown(f.name, hints[f.name]) for f in fields(query.row))
    order = ", ".join(f"q.{name}{' DESC' if query.descending else ''}" for name in query.key)
    keys = ", ".join(f"q.{name}::text" for name in query.key)
    after = ""
    if continued:
        columns = ", ".join(f"q.{name}" for name in query.key)
        values = ", ".join(f"%(after_{i})s::{_cast(hints[name])}" for i, name in enumerate(query.key))
        after = f"WHERE ({columns}) {'<' if query.descending else '>'} ({values})"
    return f"""
WITH live AS ({LIVE}),
page AS (
    SELECT row_number() OVER (ORDER BY {order}) AS place, json_build_array({keys}) AS cursor, {shown}
    FROM ({query.select}) q {after} ORDER BY {order} LIMIT %(limit)s + 1
)
SELECT live.generation, live.position,
       (SELECT coalesce(json_agg(to_jsonb(page) - 'place' - 'cursor' ORDER BY place)
                        FILTER (WHERE place <= %(limit)s), '[]')::text FROM page),
       (SELECT cursor::text FROM page WHERE place = %(limit)s AND (SELECT count(*) FROM page) > %(limit)s),
       (SELECT count(*) FROM quarantine
        WHERE zone = %(zone)s AND projection = %(projection)s AND generation = live.generation AND quarantined)
FROM live
"""  # noqa: S608 - made of our own declarations only; what callers send goes in as parameters


# Parameters


def _parameter(kind: Any, value: str) -> Any:
    _, check, schema = KINDS[kind]
    given: Any = value
    if schema["type"] == "integer":
        given = int(value) if re.fullmatch(r"[0-9]{1,18}", value) else value
    elif schema["type"] == "boolean":
        given = {"true": True, "false": False}.get(value, value)
    return check(given)


def _kind(hint: Any) -> Any:
    return hint.__metadata__[0] if get_origin(hint) is Annotated else hint


def parameters_of(declared: type, request: Request) -> dict[str, Any]:
    """The query string as typed values. Raises Problem 422."""
    given = request.query_params
    if len(given.multi_items()) != len(given):
        raise Problem(422, "repeated-parameter", "A parameter is given once.")
    hints = get_type_hints(declared, include_extras=True)
    if set(given) - set(hints) - RESERVED:
        raise Problem(422, "unknown-parameter", "There is no such parameter.", known=sorted(hints))
    values: dict[str, Any] = {}
    for f in fields(declared):
        if f.name in given:
            try:
                values[f.name] = _parameter(_kind(hints[f.name]), given[f.name])
            except PydanticCustomError as error:
                raise Problem(422, "invalid-parameter", error.message(), parameter=f.name) from None
        elif f.default is MISSING:
            raise Problem(422, "missing-parameter", "A parameter is missing.", parameter=f.name)
        else:
            values[f.name] = f.default
    return values


def whole_number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) > most:
        raise Problem(
            422,
            "invalid-parameter",
            f"{name} is a whole number from 0 to {most}.",
            parameter=name,
        )
    return int(text)


def _encode_cursor(keys: str) -> str:
    return base64.urlsafe_b64encode(keys.encode()).decode().rstrip("=")


def _decode_cursor(text: str, length: int) -> list[str]:
    try:
        padded = text + "=" * (-len(text) % 4)
        keys = msgspec.json.decode(base64.urlsafe_b64decode(padded.encode("ascii")), type=list[str])
    except (ValueError, binascii.Error, UnicodeError, msgspec.MsgspecError):
        keys = []
    if len(keys) != length or any("\0" in key for key in keys):
        raise Problem(422, "invalid-cursor", "after is a cursor that an earlier page gave as next.")
    return keys


# Answers


class QueryApi:
    """Answers queries for all zones."""

    def __init__(self, pool: AsyncConnectionPool[Any], access: Access, wait_s: float) -> None:
        self.pool = pool
        self.access = access
        self._wait_s = wait_s

    async def caller(self, request: Request, roles: frozenset[str]) -> tuple[Caller, str]:
        """Who asks, and about which zone. Raises Problem 401 and 403."""
        caller = await self.access.caller(request.headers.get("authorization"))
        zone = zone_of(request.headers)
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
        return caller, zone

    async def answer(self, query: Query, request: Request) -> Response:
        caller, zone = await self.caller(request, query.roles)
        values = parameters_of(query.parameters, request)
        _own(query, caller, values)
        limit = whole_number(request, "limit", DEFAULT_LIMIT, MOST_LIMIT) or 1
        after = request.query_params.get("after")
        values |= {
            "zone": zone,
            "projection": query.projection,
            "limit": limit,
            "principal": caller.principal,
        }
        if after is not None:
            cursor = _decode_cursor(after, len(query.key))
            values |= {f"after_{i}": key for i, key in enumerate(cursor)}
        wanted = whole_number(request, "min_position", 0, 2**62)
        async with self.pool.connection() as connection:
            if wanted:
                await self._reach(connection, zone, query.projection, wanted)
            etag = request.headers.get("if-none-match")
            if etag is not None and query.timeless:
                position = await self._unchanged(connection, query, caller, zone, etag)
                if position is not None:
                    return Response(b"", 304, {"etag": etag, "fogbook-position": str(position)})
            row = await _one(connection, statement(query, after is not None), values)
        if row is None:
            raise await self._no_projection(zone)
        generation, position, items, following, quarantined = row
        headers = {
            "fogbook-position": str(position),
            "cache-control": "private, no-cache",
            "vary": "Authorization, Fogbook-Zone",
        }
        if query.timeless:
            headers["etag"] = _etag(query, caller, zone, generation, position)
        body = b'{"position":%d,"items":%b,"next":%b,"quarantined":%d}' % (
            position,
            items.encode(),
            encode_json(_encode_cursor(following) if following else None),
            quarantined,
        )
        return Response(body, 200, headers, "application/json")

    async def _reach(self, connection: AsyncConnection[Any], zone: str, projection: str, wanted: int) -> None:
        """Wait, bounded, until the projection has reached a position. Raises Problem 504."""
        end = time.monotonic() + self._wait_s
        pause_s = 0.003
        while True:
            row = await _one(connection, LIVE, {"zone": zone, "projection": projection})
            position = row[2] if row else 0
            if position >= wanted:
                return
            if time.monotonic() >= end:
                raise Problem(
                    504,
                    "position-not-reached",
                    "The projection did not reach min_position in time.",
                    position=position,
                    wanted=str(wanted),
                    waited_s=str(self._wait_s),
                )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.05)

    async def _unchanged(
        self, connection: AsyncConnection[Any], query: Query, caller: Caller, zone: str, etag: str
    ) -> int | None:
        row = await _one(connection, LIVE, {"zone": zone, "projection": query.projection})
        if row is not None and etag == _etag(query, caller, zone, row[1], row[2]):
            return int(row[2])
        return None

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
    """Participants see their own affairs; an empty parameter means theirs."""
    if not query.own:
        return
    named = values[query.own]
    if not named and caller.role not in SEES_ALL:
        values[query.own] = named = caller.principal
    principal = owner_of(named) if ":" in named else named
    if caller.role not in SEES_ALL and principal != caller.principal:
        raise Problem(404, "not-found", "There is no such thing, or it is not yours to see.")


def _etag(query: Query, caller: Caller, zone: str, generation: int, position: int) -> str:
    whose = f".{caller.principal}" if query.own or "%(principal)s" in query.select else ""
    return f'"{zone}.{query.projection}.{generation}.{position}{whose}"'


# Registration and documentation


def register(app: App, api: Callable[[], QueryApi]) -> None:
    for query in QUERIES.values():
        app.add(
            "GET",
            query.path,
            _handler(query, api),
            tags=[query.context],
            summary=query.name.replace("-", " ").capitalize(),
            description=inspect.getdoc(query.row) or "",
            operation_id=f"{query.context}_{query.name}".replace("-", "_"),
            responses={
                200: {"content": {"application/json": {"schema": _answer_schema(query.row)}}},
                304: {"description": "Nothing changed."},
            }
            | documented(400, 401, 403, 404, 422, 504),
            openapi_extra={"security": [{"key": []}], "parameters": _documented_parameters(query)},
        )


def _handler(query: Query, api: Callable[[], QueryApi]) -> Any:
    async def handle(request: Request) -> Response:
        return await api().answer(query, request)

    return handle


def _responses(query: Query) -> dict[int | str, dict[str, Any]]:
    ok = {"application/json": {"schema": _answer_schema(query.row)}}
    return {
        200: {"description": "The items and the position they reflect.", "content": ok},
        304: {"description": "Nothing changed."},
        **documented(400, 401, 403, 404, 422, 504),
    }


def _json_schema(hint: Any) -> dict[str, Any]:
    arguments = get_args(hint)
    if type(None) in arguments:
        inner = _json_schema(next(part for part in arguments if part is not type(None)))
        return {"anyOf": [inner, {"type": "null"}]}
    if get_origin(hint) is Annotated:
        kind = hint.__metadata__[0]
        if kind in ("amount", "quantity", "numeric(38,0)"):
            return {"type": "string", "pattern": "^-?(0|[1-9][0-9]*)$"}
        return _json_schema(arguments[0])
    if hint is datetime:
        return {"type": "string", "format": "date-time"}
    names = {str: "string", int: "integer", bool: "boolean", float: "number", dict: "object", list: "array"}
    return {"type": names[get_origin(hint) or hint]}


def _answer_schema(row: type) -> dict[str, Any]:
    hints = get_type_hints(row, include_extras=True)
    item = {
        "type": "object",
        "properties": {f.name: _json_schema(hints[f.name]) for f in fields(row)},
        "required": [f.name for f in fields(row)],
    }
    return {
        "type": "object",
        "required": ["position", "items", "next", "quarantined"],
        "properties": {
            "position": {"type": "integer", "description": "The log position that the answer reflects."},
            "items": {"type": "array", "items": item},
            "next": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "quarantined": {
                "type": "integer",
                "description": "Events that this projection could not digest.",
            },
        },
    }


def _documented_parameters(query: Query) -> list[dict[str, Any]]:
    hints = get_type_hints(query.parameters, include_extras=True)
    own = [
        {
            "name": f.name,
            "in": "query",
            "required": f.default is MISSING,
            "schema": KINDS[_kind(hints[f.name])][2],
        }
        for f in fields(query.parameters)
    ]
    return [
        *own,
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": MOST_LIMIT}},
        {
            "name": "after",
            "in": "query",
            "schema": {"type": "string"},
            "description": "`next` of the page before.",
        },
        {
            "name": "min_position",
            "in": "query",
            "schema": {"type": "integer", "minimum": 0},
            "description": "Wait, bounded, until the projection has reached this position.",
        },
        {"name": "Fogbook-Zone", "in": "header", "schema": {"type": "string"}},
        {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}},
    ]
