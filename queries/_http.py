"""Queries over HTTP: one SQL statement against read-model tables, its position, and nothing computed twice.

A query is a name, the dataclass of its rows and a SELECT over `read.*` tables joined with `live`, which stands
for the live generation of the query's projection (`live.as_of` is the time of the last event that it reflects).
Pages, amounts as strings, times and the answer's JSON are added here, around the SELECT, in the same statement:
rows and position are of one snapshot.
"""

from __future__ import annotations

import base64
import binascii
import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import psycopg
from fastapi import Request
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from commands._codec import cache, encode_json
from commands._models import KINDS
from domain.ledger import owner_of, wallet_of
from ops.access import Access, Caller
from ops.problems import Problem, documented
from ops.web import App, zone_of
from queries._watch import Positions, Stopping

FOR_EVER = datetime(9999, 1, 1, tzinfo=UTC)
"""The end of a time that is left open."""
DEFAULT_LIMIT = 50
MOST_LIMIT = 500
RESERVED = frozenset({"limit", "after", "min_position"})
SEES_ALL = frozenset({"operator", "auditor"})
EVERYBODY = frozenset({"operator", "auditor", "participant", "provider", "worker"})

LIVE = """
SELECT zone, generation, position, recorded_at AS as_of FROM checkpoints
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
    """The parameter that names whose affair it is: an account or a principal. Empty means the caller's own;
    somebody else's is 404, except for those who see everything."""
    roles: frozenset[str]
    timeless: bool
    """False when the answer depends on the current time, so that it has no ETag."""
    single: bool
    """The query is about one thing: where there are no rows, there is no such thing (404)."""
    inputs: type
    """What the SELECT gives: the row, or what `derive` makes the row of."""
    derive: Callable[[Any, dict[str, Any]], Any] | None

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
        single: bool = False,
        projection: str = "",
        inputs: type | None = None,
        derive: Callable[[Any, dict[str, Any]], Any] | None = None,
    ) -> None:
        """Declare a query. `row` is a dataclass whose fields are the SELECT's columns, by name.

        Where a row follows from a rule of the domain, the SELECT's columns are the fields of `inputs`, and `derive`
        makes a row of these and of the parameters, or none: a pure function, so that no formula is written twice.

        Beside its parameters a SELECT may use `zone`, `principal` and `sees_all` (the caller is an operator or
        auditor).
        """
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
            single,
            inputs or row,
            derive,
        )
        QUERIES[query.path] = query


# SQL around a query's SELECT


_AMOUNTS = ("amount", "quantity", "numeric(38,0)", "numeric")


def _plain(hint: Any) -> Any:
    """The hint without `| None`."""
    return (
        next((part for part in get_args(hint) if part is not type(None)), hint) if _optional(hint) else hint
    )


def _optional(hint: Any) -> bool:
    return type(None) in get_args(hint)


def _is_amount(hint: Any) -> bool:
    return get_origin(hint) is Annotated and hint.__metadata__[0] in _AMOUNTS


def _shown(name: str, hint: Any) -> str:
    """A column as JSON shows it: amounts are strings, times RFC 3339."""
    if _is_amount(_plain(hint)):
        return f"q.{name}::text AS {name}"
    if _plain(hint) is datetime:
        return f"""to_char(q.{name} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS {name}"""
    return f"q.{name}"


def _cast(hint: Any) -> str:
    if _is_amount(hint):
        return "numeric"
    return {int: "bigint", datetime: "timestamptz"}.get(hint, 'text COLLATE "C"')


LIVE_JOIN = re.compile(r"read\.(\w+) (\w+) JOIN live USING \(zone, generation\)")


def _narrowed(select: str) -> str:
    """The planner does not know that `live` is one row, and would sort a whole table for a page of it; so the table
    is narrowed to the live generation first, and an index in the order of the key serves."""
    return LIVE_JOIN.sub(
        r"(SELECT * FROM read.\1 WHERE zone = %(zone)s AND generation = (SELECT generation FROM live)) \2"
        r" JOIN live USING (zone, generation)",
        select,
    )


@cache
def statement(query: Query, continued: bool) -> str:
    """The whole statement; `continued` when a page before it was read."""
    hints = get_type_hints(query.inputs, include_extras=True)
    shown = ", ".join(_shown(f.name, hints[f.name]) for f in fields(query.inputs))
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
    SELECT row_number() OVER (ORDER BY {order}) AS place, json_build_array({keys}) AS cursor,
           (SELECT row_to_json(item) FROM (SELECT {shown}) item) AS item
    FROM ({_narrowed(query.select)}) q {after} ORDER BY {order} LIMIT %(limit)s + 1
)
SELECT live.generation, live.position,
       (SELECT coalesce(json_agg(item ORDER BY place) FILTER (WHERE place <= %(limit)s), '[]')::text FROM page),
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


def parameters_of(declared: type, request: Request, reserved: frozenset[str] = RESERVED) -> dict[str, Any]:
    """The query string as typed values; `reserved` names are read elsewhere. Raises Problem 422."""
    given = request.query_params
    if len(given.multi_items()) != len(given):
        raise Problem(422, "repeated-parameter", "A parameter is given once.")
    hints = get_type_hints(declared, include_extras=True)
    if set(given) - set(hints) - reserved:
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
        raise _malformed_cursor()
    return keys


def _malformed_cursor() -> Problem:
    return Problem(422, "invalid-cursor", "after is a cursor that an earlier page gave as next.")


# Answers


def derived(query: Query, items: str, values: dict[str, Any]) -> str:
    """Items as JSON, each made by the query's rule of what its SELECT gave; None leaves one out."""
    assert query.derive is not None
    given = msgspec.json.decode(items, type=list[query.inputs], strict=False)  # type: ignore[name-defined]
    show = _encoder_of(query.row)
    rows = (query.derive(item, values) for item in given)
    return f"[{','.join(show(row).decode() for row in rows if row is not None)}]"


@cache
def _encoder_of(row: type) -> Callable[[Any], bytes]:
    """Rows as JSON the way that PostgreSQL shows them: amounts are strings, times have all their microseconds."""
    hints = get_type_hints(row, include_extras=True)
    shows: dict[str, Callable[[Any], str]] = {}
    for f in fields(row):
        if _is_amount(_plain(hints[f.name])):
            shows[f.name] = str
        elif _plain(hints[f.name]) is datetime:
            shows[f.name] = lambda at: at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def encode(item: Any) -> bytes:
        shown = {f.name: getattr(item, f.name) for f in fields(row)}
        for name, show in shows.items():
            if shown[name] is not None:
                shown[name] = show(shown[name])
        return encode_json(shown)

    return encode


class QueryApi:
    """Answers queries for all zones."""

    def __init__(self, pool: AsyncConnectionPool[Any], access: Access, wait_s: float) -> None:
        self.pool = pool
        self.access = access
        self.positions = Positions(pool)
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
            "sees_all": caller.role in SEES_ALL,
        }
        if after is not None:
            cursor = _decode_cursor(after, len(query.key))
            values |= {f"after_{i}": key for i, key in enumerate(cursor)}
        if wanted := whole_number(request, "min_position", 0, 2**62):
            await self._reach(zone, query.projection, wanted)
        async with self.pool.connection() as connection:
            if query.timeless:
                tags = entity_tags(request.headers.get("if-none-match"))
                found = await self._unchanged(connection, query, caller, zone, tags) if tags else None
                if found is not None:
                    etag, position = found
                    return Response(b"", 304, {"etag": etag, "fogbook-position": str(position)})
            try:
                row = await _one(connection, statement(query, after is not None), values)
            except psycopg.DataError as error:
                if after is None:
                    raise
                raise _malformed_cursor() from error
        if row is None:
            raise await self._no_projection(zone)
        generation, position, items, following, quarantined = row
        if query.single and items == "[]" and after is None:
            raise _not_found(position)
        if query.derive is not None:
            items = derived(query, items, values)
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

    async def _reach(self, zone: str, projection: str, wanted: int) -> None:
        """Wait, bounded, until the projection has reached a position. Raises Problem 504 and 503."""
        try:
            position = await self.positions.reach(zone, projection, wanted, self._wait_s)
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
                waited_s=str(self._wait_s),
            )

    async def _unchanged(
        self, connection: AsyncConnection[Any], query: Query, caller: Caller, zone: str, tags: list[str]
    ) -> tuple[str, int] | None:
        """The current ETag and position, if the caller's answer is still good."""
        row = await _one(connection, LIVE, {"zone": zone, "projection": query.projection})
        if row is not None:
            etag = _etag(query, caller, zone, row[1], row[2])
            if etag in tags:
                return etag, int(row[2])
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
    """Participants see their own affairs; an empty parameter means the caller's. Raises Problem 404.

    Those who see everything leave it empty for everybody's, where the SELECT provides for them.
    """
    sees_all = caller.role in SEES_ALL
    if not query.own or (sees_all and not values[query.own] and "%(sees_all)s" in query.select):
        return
    hint = get_type_hints(query.parameters, include_extras=True)[query.own]
    is_account = _kind(hint) == "account"
    named = values[query.own]
    if not named:
        values[query.own] = wallet_of(caller.principal) if is_account else caller.principal
    elif not sees_all and caller.principal != (owner_of(named) if is_account else named):
        raise _not_found()


def _not_found(position: int | None = None) -> Problem:
    return Problem(404, "not-found", "There is no such thing, or it is not yours to see.", position=position)


def _etag(query: Query, caller: Caller, zone: str, generation: int, position: int) -> str:
    """Of zone, generation and position; and of the caller where the answer depends on who asks."""
    whose = f".{caller.principal}" if query.own or "%(principal)s" in query.select else ""
    if "%(sees_all)s" in query.select and caller.role in SEES_ALL:
        whose += ".all"
    return f'"{zone}.{query.projection}.{generation}.{position}{whose}"'


def entity_tags(header: str | None) -> list[str]:
    """The tags of an If-None-Match header; weak ones compare like strong ones there (RFC 9110, 13.1.2)."""
    return [tag.strip().removeprefix("W/") for tag in (header or "").split(",") if tag.strip()]


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
            responses=_responses(query),
            openapi_extra={
                "security": [{"key": []}],
                "parameters": _documented_parameters(query),
                "x-roles": sorted(query.roles),
            },
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
        if _is_amount(hint):
            return {"type": "string", "pattern": "^-?(0|[1-9][0-9]*)$"}
        return _json_schema(arguments[0])
    if hint is datetime:
        return {"type": "string", "format": "date-time"}
    if is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        return {"type": "object", "properties": {f.name: _json_schema(hints[f.name]) for f in fields(hint)}}
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
