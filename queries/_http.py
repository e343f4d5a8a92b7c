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
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime
from typing import Any, get_type_hints

import msgspec
import psycopg
from fastapi import Request
from psycopg import AsyncConnection
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from commands._codec import cache, encode_json
from commands._models import KINDS
from commands._subjects import MARK
from domain.ledger import owner_of, wallet_of
from ops.access import Access, Caller
from ops.limits import enter
from ops.pool import Pool
from ops.problems import Problem
from ops.web import App, headers_of, zone_of
from queries._as_of import Archive, no_difference, no_past, with_min_position
from queries._openapi import kind_of, parameters_shown, responses_of
from queries._sql import (
    LIVE,
    MOST_LIMIT,
    difference,
    given_of,
    has_a_past,
    is_amount,
    is_json,
    plain,
    statement,
)
from queries._watch import Positions, Stopping

FOR_EVER = datetime(9999, 1, 1, tzinfo=UTC)
"""The end of a time that is left open."""
DEFAULT_LIMIT = 50
SEALED = MARK.encode()
RESERVED = frozenset({"limit", "after", "min_position", "as_of", "diff"})
SEES_ALL = frozenset({"operator", "auditor"})
EVERYBODY = frozenset({"operator", "auditor", "participant", "provider", "worker"})


@dataclass(frozen=True, slots=True)
class NoParameters:
    pass


@dataclass(frozen=True, slots=True, eq=False)
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

    @property
    def scope(self) -> str:
        """What a key that is restricted to scopes needs one of: this, or `queries`."""
        return f"queries:{self.context}"


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


# Parameters


def _parameter(kind: Any, value: str) -> Any:
    _, check, schema = KINDS[kind]
    given: Any = value
    if schema["type"] == "integer":
        given = int(value) if re.fullmatch(r"[0-9]{1,18}", value) else value
    elif schema["type"] == "boolean":
        given = {"true": True, "false": False}.get(value, value)
    return check(given)


def parameters_of(declared: type, request: Request, reserved: frozenset[str] = RESERVED) -> dict[str, Any]:
    """The query string as typed values; `reserved` names are read elsewhere. Raises Problem 422."""
    given = request.query_params
    if len(given.multi_items()) != len(given):
        raise Problem(422, "repeated-parameter", "A parameter is given once.")
    terms = _terms(declared)
    if not given.keys() <= terms.keys() | reserved:
        raise Problem(422, "unknown-parameter", "There is no such parameter.", known=sorted(terms))
    values: dict[str, Any] = {}
    for name, (kind, default) in terms.items():
        if name in given:
            try:
                values[name] = _parameter(kind, given[name])
            except PydanticCustomError as error:
                raise Problem(422, "invalid-parameter", error.message(), parameter=name) from None
        elif default is MISSING:
            raise Problem(422, "missing-parameter", "A parameter is missing.", parameter=name)
        else:
            values[name] = default
    return values


@cache
def _terms(declared: type) -> dict[str, tuple[Any, Any]]:
    """Of each parameter what KINDS knows its type by, and its default."""
    hints = get_type_hints(declared, include_extras=True)
    return {f.name: (kind_of(hints[f.name]), f.default) for f in fields(declared)}


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


def _following(keys: Sequence[str]) -> str:
    """The cursor behind a row with these keys, written as PostgreSQL writes an array."""
    return _encode_cursor(json.dumps(keys, ensure_ascii=False))


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


@cache
def shows(query: Query) -> Callable[[Sequence[Any]], bytes]:
    """A row of the statement as JSON: its columns are text and numbers already, and JSON where they are JSON."""
    hints = get_type_hints(query.inputs, include_extras=True)
    names = [f.name for f in fields(query.inputs)]
    json_at = [i for i, name in enumerate(names) if is_json(hints[name])]
    item = msgspec.defstruct("Item", names)
    encode = msgspec.json.Encoder().encode

    def show(columns: Sequence[Any]) -> bytes:
        return encode(item(*columns))

    def show_with_json(columns: Sequence[Any]) -> bytes:
        values = list(columns)
        for i in json_at:
            if values[i] is not None:
                values[i] = msgspec.Raw(values[i].encode())
        return encode(item(*values))

    return show_with_json if json_at else show


def derived(query: Query, items: bytes, values: dict[str, Any]) -> bytes:
    """Items as JSON, each made by the query's rule of what its SELECT gave; None leaves one out."""
    assert query.derive is not None
    given = msgspec.json.decode(items, type=list[query.inputs], strict=False)  # type: ignore[name-defined]
    show = _encoder_of(query.row)
    rows = (query.derive(item, values) for item in given)
    return b"[%b]" % b",".join([show(row) for row in rows if row is not None])


@cache
def _encoder_of(row: type) -> Callable[[Any], bytes]:
    """Rows as JSON the way that PostgreSQL shows them: amounts are strings, times have all their microseconds."""
    hints = get_type_hints(row, include_extras=True)
    shows: dict[str, Callable[[Any], str]] = {}
    for f in fields(row):
        if is_amount(plain(hints[f.name])):
            shows[f.name] = str
        elif plain(hints[f.name]) is datetime:
            shows[f.name] = lambda at: at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def encode(item: Any) -> bytes:
        shown = {f.name: getattr(item, f.name) for f in fields(row)}
        for name, show in shows.items():
            if shown[name] is not None:
                shown[name] = show(shown[name])
        return encode_json(shown)

    return encode


def derived_differences(query: Query, items: str, values: dict[str, Any]) -> bytes:
    """Differences of what the SELECT gave, as differences of the rows made of it. What is equal there is none."""
    shown = []
    for item in msgspec.json.decode(items, type=list[dict[str, msgspec.Raw]]):
        sides = {}
        for side in ("was", "is"):
            given = bytes(item[side])
            made = derived(query, b"[%b]" % given, values)[1:-1] if given != b"null" else b""
            sides[side] = msgspec.Raw(made or b"null")
        if bytes(sides["was"]) != bytes(sides["is"]):
            shown.append({"key": item["key"], **sides})
    return encode_json(shown)


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
            cursor = _decode_cursor(after, len(query.key))
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
        following = _following(page[-1][3:begin]) if len(rows) > len(page) else None
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
        return self._response(position, items, keys and _encode_cursor(keys), quarantined, etag)

    async def _rows(self, connection: AsyncConnection[Any], asked: Asked, text: str | bytes) -> list[Any]:
        try:
            cursor = await connection.execute(text, asked.values)
            return await cursor.fetchall()
        except psycopg.DataError as error:
            if not asked.continued:
                raise
            raise _malformed_cursor() from error

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
    is_account = _terms(query.parameters)[query.own][0] == "account"
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
    return [tag.strip().removeprefix("W/") for tag in (header or "").split(",") if tag.strip()]


# Registration


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
