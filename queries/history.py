"""History for auditors: the log as it is stored, any stream at any moment, what became of a command.

Everything here is read from the log itself, never from a read model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from fastapi import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from commands._codec import ZONE_SCHEMA, encode_json
from domain._kernel import Text
from ops.limits import live
from ops.problems import Problem, documented
from ops.waits import AWAY
from ops.web import App
from queries._events import Event, ndjson, plain, rfc3339
from queries._http import QueryApi
from queries._parameters import parameters_of, whole_number
from queries._past import Past, no_stream
from queries._query import SEES_ALL
from queries._watch import HEAD, Stopping

HISTORY = "history"
"""The scope of all routes here."""
DEFAULT_LIMIT = 1_000
MOST_LIMIT = 10_000
MOST_POSITION = 2**62
MOST_NAME = 256
NEEDED = frozenset({"from", "key"})
"""Parameters of a query string without which there is no answer."""
LIVE_PAGE = 200
KEEP_ALIVE_S = 15.0
MOST_FOLDS = 2
"""Folds of the whole log that run at a time; further ones wait for their turn."""

Handle = Callable[[Request, Past], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Nothing:
    pass


@dataclass(frozen=True, slots=True)
class OfEvents:
    type: Text = ""
    stream: Text = ""


@dataclass(frozen=True, slots=True)
class Moment:
    at: Text = ""


class Live(StreamingResponse):
    """A feed; whatever ends it, it is told to `ended`."""

    def __init__(self, feed: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(feed, media_type="text/event-stream", headers=headers)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


class History:
    """Answers the routes under /history."""

    def __init__(self, api: Callable[[], QueryApi]) -> None:
        self._api = api
        self._folds = asyncio.Semaphore(MOST_FOLDS)

    def route(self, handle: Handle) -> Callable[[Request], Awaitable[Response]]:
        """Auditors and operators only; `handle` gets the log of the zone that is asked about."""

        async def answer(request: Request) -> Response:
            api = self._api()
            _, zone = await api.caller(request, SEES_ALL, HISTORY)
            return await handle(request, Past(api.pool, zone))

        return answer

    # Events

    async def events(self, request: Request, past: Past) -> Response:
        wanted = parameters_of(OfEvents, request, frozenset({"after", "limit"}))
        after = whole_number(request, "after", 0, MOST_POSITION)
        limit = whole_number(request, "limit", DEFAULT_LIMIT, MOST_LIMIT) or 1
        seen = _last_seen(request, after)
        head, _ = await past.head()
        if "text/event-stream" in request.headers.get("accept", ""):
            return Live(self._follow(past, seen, wanted["type"], wanted["stream"]), live(request))
        events, looked = await past.page(after, head, limit, wanted["type"], wanted["stream"])
        return _lines(events, head, looked if looked < head else None)

    async def _follow(self, past: Past, after: int, type: str, stream: str) -> AsyncIterator[bytes]:
        """Events as they are appended, until the caller leaves, the server stops or the database goes away;
        whoever comes back names the last id that it saw."""
        positions = self._api().positions
        try:
            yield b": the log of zone %b behind position %d\n\n" % (past.zone.encode(), after)
            while True:
                head = await positions.reach(past.zone, HEAD, after + 1, KEEP_ALIVE_S)
                if head <= after:
                    yield b": keep-alive\n\n"
                    continue
                while after < head:
                    events, looked = await past.page(after, head, LIVE_PAGE, type, stream)
                    after = max(looked, after)
                    if events:
                        yield b"".join(b"id: %d\ndata: %b\n\n" % (e.position, e.line()) for e in events)
        except (Stopping, *AWAY):
            return

    # Streams

    async def stream(self, request: Request, past: Past) -> Response:
        parameters_of(Nothing, request, frozenset({"after", "limit"}))
        after = whole_number(request, "after", 0, MOST_POSITION)
        limit = whole_number(request, "limit", DEFAULT_LIMIT, MOST_LIMIT) or 1
        head, _ = await past.head()
        events, last = await past.page_of_versions(_stream_named(request), after, head, limit)
        end = events[-1].version if events else last
        return _lines(events, head, end if end < last else None)

    async def state(self, request: Request, past: Past) -> Response:
        at = parameters_of(Moment, request, frozenset())["at"]
        name = _stream_named(request)
        folded = await past.state(name, at)
        body = {
            "zone": past.zone,
            "stream": name,
            "kind": type(folded.state).__name__,
            "version": folded.version,
            "position": folded.position,
            "recorded_at": rfc3339(folded.recorded_at) if folded.recorded_at else None,
            "state": plain(folded.state),
        }
        return _json(body, folded.position)

    # Commands and sums

    async def command(self, request: Request, past: Past) -> Response:
        parameters_of(Nothing, request, frozenset())
        id = request.path_params["id"]
        number = _number(id.removeprefix("c"), "id")
        head, _ = await past.head()
        fate = await past.fate(number)
        if fate is None:
            raise Problem(404, "command-not-found", "The log holds no such command.")
        return _json(fate, head)

    async def trial_balance(self, request: Request, past: Past) -> Response:
        at = parameters_of(Moment, request, frozenset({"after", "limit"}))["at"]
        limit = whole_number(request, "limit", DEFAULT_LIMIT, MOST_LIMIT) or 1
        after = request.query_params.get("after", "")
        head, _ = await past.head()
        upto = await past.position_at(at, head) if at else head
        async with self._folds:
            sums = await past.balances(upto)
        lines = sorted((asset, account, amount) for (asset, account), amount in sums.items() if amount)
        assets = [
            _asset_sums(asset, [(account, amount) for _, account, amount in group])
            for asset, group in groupby(sorted((a, n, v) for (a, n), v in sums.items()), lambda each: each[0])
        ]
        page = [line for line in lines if f"{line[0]} {line[1]}" > after]
        body = {
            "zone": past.zone,
            "position": upto,
            "assets": assets,
            "accounts": [{"asset": a, "account": n, "posted": str(v)} for a, n, v in page[:limit]],
            "next": f"{page[limit - 1][0]} {page[limit - 1][1]}" if len(page) > limit else None,
        }
        return _json(body, upto)


def _asset_sums(asset: str, accounts: list[tuple[str, int]]) -> dict[str, Any]:
    return {
        "asset": asset,
        "accounts": sum(1 for _, amount in accounts if amount),
        "positive": str(sum(amount for _, amount in accounts if amount > 0)),
        "negative": str(sum(amount for _, amount in accounts if amount < 0)),
        "sum": str(sum(amount for _, amount in accounts)),
    }


def _number(text: str, name: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise Problem(422, "invalid-parameter", f"The {name} is a whole number.", parameter=name)
    return int(text)


def _stream_named(request: Request) -> str:
    name: str = request.path_params["stream"]
    if not name.isprintable() or len(name) > MOST_NAME:
        raise no_stream()
    return name


def _last_seen(request: Request, after: int) -> int:
    """Where a caller that comes back left off."""
    header = request.headers.get("last-event-id", "")
    return _number(header, "Last-Event-ID") if header else after


def _json(body: dict[str, Any], position: int) -> Response:
    headers = {"fogbook-position": str(position), "cache-control": "private, no-cache"}
    return Response(encode_json(body), 200, headers, "application/json")


def _lines(events: list[Event], head: int, following: int | None) -> Response:
    headers = {"fogbook-position": str(head), "cache-control": "private, no-cache"}
    if following is not None:
        headers["fogbook-next"] = str(following)
    return Response(ndjson(events), 200, headers, "application/x-ndjson")


# Registration and documentation

_TEXT = {"type": "string"}
_WHOLE = {"type": "integer", "minimum": 0}
_PAGED = (
    ("after", "query", {**_WHOLE, "default": 0}, "Only what lies behind this number."),
    (
        "limit",
        "query",
        {**_WHOLE, "maximum": MOST_LIMIT, "default": DEFAULT_LIMIT},
        "At most so many; a page also ends at 4 MiB.",
    ),
)
_STREAM = ("stream", "path", _TEXT, "A stream's name, such as `wallet:ana`.")
_EVENT = {
    "type": "object",
    "required": ["position", "stream", "version", "type", "data", "meta", "recorded_at", "leaf"],
    "properties": {
        "position": {"type": "integer"},
        "stream": _TEXT,
        "version": {"type": "integer"},
        "type": _TEXT,
        "data": {
            "type": "object",
            "description": '{"base64": ...} where the bytes are not JSON on one line.',
        },
        "meta": {"type": "object"},
        "recorded_at": {"type": "string", "format": "date-time"},
        "leaf": {"type": "string", "description": "SHA-256 leaf hash of the entry, in hex."},
    },
}
_NDJSON = {"application/x-ndjson": {"schema": _EVENT}}
_NEXT = {
    "Fogbook-Position": {"schema": {"type": "integer"}, "description": "The log's head."},
    "Fogbook-Next": {
        "schema": {"type": "integer"},
        "description": "`after` of the next page, if there is one.",
    },
}


def adder(app: App, history: History) -> Callable[..., None]:
    """Adds routes under /history, with their documentation."""

    def add(
        path: str,
        handle: Handle,
        name: str,
        summary: str,
        description: str,
        *parameters: tuple[str, str, dict[str, Any], str],
        content: dict[str, Any] | None = None,
        headers: dict[str, Any] | None = None,
        more: tuple[int, ...] = (),
    ) -> None:
        shown = content or {"application/json": {"schema": {"type": "object"}}}
        app.add(
            "GET",
            path,
            history.route(handle),
            tags=["history"],
            summary=summary,
            description=description,
            operation_id=f"history_{name}",
            responses={200: {"description": summary, "content": shown, "headers": headers or {}}}
            | documented(400, 401, 403, 404, 422, *more),
            openapi_extra={
                "security": [{"key": []}],
                "parameters": [
                    *(_documented(*parameter) for parameter in parameters),
                    _documented(
                        "Fogbook-Zone", "header", ZONE_SCHEMA, "The zone; `main` where it is missing."
                    ),
                ],
                "x-roles": sorted(SEES_ALL),
                "x-scope": HISTORY,
            },
        )

    return add


def register_history(app: App, api: Callable[[], QueryApi]) -> None:
    history = History(api)
    add = adder(app, history)
    add(
        "/history/events",
        history.events,
        "events",
        "The log",
        "Events in the order of the log, one a line. With `Accept: text/event-stream` the log is followed live: "
        "ids are positions, and `Last-Event-ID` resumes behind one.",
        *_PAGED,
        ("type", "query", _TEXT, "Only events of this type."),
        ("stream", "query", _TEXT, "Only events of this stream."),
        ("Last-Event-ID", "header", _WHOLE, "The last position that was seen (live only)."),
        content=_NDJSON | {"text/event-stream": {"schema": _TEXT}},
        headers=_NEXT,
    )
    add(
        "/history/streams/{stream:path}/state",
        history.state,
        "state",
        "A stream's state at any moment",
        "Folded from the stream's first event. Whole numbers are decimal strings. A position inside a command means "
        "the end of the command before it; the answer names the position that it reflects.",
        _STREAM,
        ("at", "query", _TEXT, "A version, `position:N` or an RFC 3339 time; the head where it is missing."),
    )
    add(
        "/history/streams/{stream:path}",
        history.stream,
        "stream",
        "A stream's events",
        "One a line, by version; `after` is a version here.",
        _STREAM,
        *_PAGED,
        content=_NDJSON,
        headers=_NEXT,
    )
    add(
        "/history/commands/{id}",
        history.command,
        "command",
        "What became of a command",
        "Accepted (200) or refused by a rule (409): the request, the answer that it got, and its events' positions.",
        ("id", "path", _TEXT, "The command's id, such as `c17`."),
    )
    add(
        "/history/trial-balance",
        history.trial_balance,
        "trial_balance",
        "The sum of all postings",
        "From the log itself, as of the end of a command. The sum of each asset over all accounts is 0.",
        ("at", "query", _TEXT, "`position:N` or an RFC 3339 time; the head where it is missing."),
        ("after", "query", _TEXT, "`next` of the page of accounts before."),
        _PAGED[1],
    )


def _documented(name: str, place: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": place == "path" or name in NEEDED,
        "schema": schema,
        "description": description,
    }
