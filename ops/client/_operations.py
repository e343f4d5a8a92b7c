"""The client's operations, each written once, for threads and for loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar, get_origin

import msgspec

from commands._codec import cache
from ops.client._batches import Batch, batches, lines_of
from ops.client._errors import LATER, FogbookError, Later, error_in, given_up
from ops.client._proofs import check_that_proven
from ops.client._steps import Broken, Feed, Give, Io, Listing, Reply, Request, Steps
from ops.client._values import (
    Accepted,
    Command,
    Difference,
    Event,
    Page,
    Stretch,
    Terms,
    body_of,
    fresh,
    name_of,
)

R = TypeVar("R")

PAGE = 200
LOG_PAGE = 1_000
AT_ONCE = 1_000
"""Commands of a batch."""
ACCEPTED = 200
MOST_LINE_BYTES = 8 * 1024 * 1024
"""Larger than any event: a server takes 4 MiB at once."""
BREATH_S = 0.1
"""Between two connections that brought nothing."""

_accepted = msgspec.json.Decoder(Accepted).decode
_event = msgspec.json.Decoder(Event).decode


class Session(NamedTuple):
    """What every operation works with."""

    io: Io
    terms: Terms

    def asked(self, request: Request) -> Steps[Reply]:
        """The answer to a request that may go twice. Raises FogbookError."""
        reply: Reply = yield from self.patiently(partial(_decided, self.io, request))
        if reply.status != ACCEPTED:
            error = error_in(*reply)
            self.terms.saw(error.position)
            raise error
        return reply

    def patiently(self, attempt: Callable[[], Steps[R]]) -> Steps[R]:
        """Attempts until one is decided; the first costs no more than itself. Raises FogbookError."""
        try:
            return (yield from attempt())
        except (Later, Broken) as error:
            attempts = _after(error, attempt)
        try:
            result: R = yield partial(self.io.patiently, lambda: next(attempts))
        except (Later, Broken) as error:
            raise given_up(error) from error
        return result


def _after(first: Exception, attempt: Callable[[], Steps[R]]) -> Any:
    """The first attempt again, as it failed, and then new ones: so its failure says what to wait for."""
    yield _failed(first)
    while True:
        yield attempt()


def _failed(error: Exception) -> Steps[Any]:
    raise error
    yield


def _decided(io: Io, request: Request) -> Steps[Reply]:
    """Raises Later and Broken."""
    reply: Reply = yield partial(io.exchange, request)
    if reply.status in LATER:
        raise Later(error_in(*reply))
    return reply


def _given(**named: Any) -> dict[str, str]:
    """What was given, as texts, by names with hyphens."""
    return {name.replace("_", "-"): _text(value) for name, value in named.items() if value not in (None, "")}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else str(value)


# Commands


def send(
    session: Session,
    /,
    command: Command,
    *,
    key: str = "",
    if_match: int | None = None,
    act_as: str | None = None,
    at: datetime | None = None,
    dry_run: bool = False,
    correlation: str = "",
) -> Steps[Accepted]:
    """Issue a command, a dataclass of the domain, and wait until it is decided and durable.

    `key`: its idempotency key; a new one where it is missing, so that what got no answer is sent again and happens
    once. Name one yourself where the program itself may be started again. `if_match`: the version that the command's
    main stream must have. `act_as`: for whom, in place of the client's own `act_as`. `at`: the time, in a zone with a
    manual clock. `dry_run`: say what it would do, and do nothing. `correlation`: a name that ties commands together.

    Raises Refused by a rule of the domain, Stale, NotFound, Invalid, Forbidden, Unauthenticated; TooMany and
    Unavailable when patience has ended.
    """
    terms = session.terms
    name, body = name_of(command), body_of(command)
    signed = terms.signer.signed(terms.zone, command, body) if terms.signer is not None else None
    headers = _given(
        content_type="application/json",
        idempotency_key="" if dry_run else key or fresh(),
        fogbook_act_as=_acting(terms, act_as),
        fogbook_at=at,
        fogbook_correlation=correlation,
        if_match="" if if_match is None else f'"{if_match}"',
        fogbook_signed=msgspec.json.encode(signed).decode() if signed else "",
    )
    query = {"dry_run": "true"} if dry_run else {}
    reply = yield from session.asked(Request("POST", f"/commands/{name}", query, headers, body))
    accepted = _accepted(reply.body)
    if not dry_run:
        terms.saw(accepted.position)
    if reply.headers.get("idempotency-hit") == "true":
        accepted = Accepted(accepted.command_id, accepted.zone, accepted.position, accepted.events, True)
    return accepted


def _acting(terms: Terms, act_as: str | None) -> str:
    """Who signs acts for himself."""
    return "" if terms.signer is not None else terms.act_as if act_as is None else act_as


def send_many(
    session: Session,
    /,
    commands: Sequence[Command],
    *,
    keys: Sequence[str] = (),
    act_as: str | None = None,
    at: datetime | None = None,
    correlation: str = "",
    at_once: int = AT_ONCE,
) -> Steps[list[Accepted | FogbookError]]:
    """Issue commands in order, up to `at_once` of them in one request: much cheaper than one by one.

    Each is decided on its own, and what became of it stands in its place: Accepted, or the error that `send` would have
    raised. Those that were too much for the server (429, 503) are sent again, behind the others. `keys`: an idempotency
    key for each. Raises FogbookError where nothing was decided.
    """
    terms = session.terms
    headers = _given(
        content_type="application/x-ndjson",
        fogbook_act_as=_acting(terms, act_as),
        fogbook_at=at,
        fogbook_correlation=correlation,
    )
    outcomes: list[Accepted | FogbookError] = []
    for lines in batches(lines_of(terms, commands, keys), at_once):
        batch = Batch(session.io, headers, lines)
        try:
            yield from session.patiently(batch.attempt)
        except FogbookError as error:
            if not outcomes and not batch.is_begun:
                raise
            batch.give_up(error)
        outcomes += batch.told()
    for outcome in outcomes:
        terms.saw(outcome.position)
    return outcomes


# Queries


def page(
    session: Session,
    /,
    query: str,
    row: type[R],
    *,
    after: str | None = None,
    limit: int = PAGE,
    as_of: str | int | datetime = "",
    min_position: int = 0,
    **parameters: Any,
) -> Steps[Page[R]]:
    """A page of a query, such as `ledger/statement`, as rows of its dataclass, or `dict` for rows as they came.

    The answer reflects at least what this client wrote and read before, and `min_position`. `as_of`: what it was as of
    a position or a time. `parameters`: the query's own. Raises TypeError where the query has no such row or parameter;
    NotFound, Invalid, ...
    """
    asked = _parameters(query, row, parameters) | _given(after=after, limit=limit)
    # Names of parameters have strokes, those of headers have none.
    asked |= {"as_of": _text(as_of)} if as_of != "" else _reached(session.terms, min_position)
    reply = yield from session.asked(Request("GET", f"/queries/{query}", asked))
    found = _found(reply.body)
    if as_of == "":
        session.terms.saw(found.position)
    return Page(found.position, _rows_of(row)(found.items), found.next, found.quarantined)


def items(
    session: Session,
    /,
    query: str,
    row: type[R],
    *,
    limit: int = PAGE,
    as_of: str | int | datetime = "",
    min_position: int = 0,
    **parameters: Any,
) -> Listing[R]:
    """All items of a query, page by page, `limit` at a time. See `page`."""
    after: str | None = None
    while True:
        found: Page[R] = yield from page(
            session,
            query,
            row,
            after=after,
            limit=limit,
            as_of=as_of,
            min_position=min_position,
            **parameters,
        )
        yield Give(found.items)
        if (after := found.next) is None:
            return


def differences(
    session: Session,
    /,
    query: str,
    row: type[R],
    *,
    was: str | int | datetime,
    now: str | int | datetime = "",
    limit: int = PAGE,
    **parameters: Any,
) -> Listing[Difference[R]]:
    """The rows of a query that are not the same as of two moments, each a position or a time; `now` is the newest rows
    where it is missing."""
    asked = _parameters(query, row, parameters) | {"diff": _text(was), "limit": str(limit)}
    asked |= {"as_of": _text(now)} if now != "" else {}
    side = _row_of(row)
    while True:
        reply = yield from session.asked(Request("GET", f"/queries/{query}", asked))
        found = _found(reply.body)
        sides = msgspec.json.decode(found.items, type=list[_Sides])
        yield Give([Difference(each.key, side(each.was), side(each.now)) for each in sides])
        if found.next is None:
            return
        asked["after"] = found.next


def get(session: Session, /, path: str, **parameters: Any) -> Steps[Any]:
    """What any other path answers, such as `/history/streams/wallet:ana/state`, as JSON was read."""
    asked = {name: _text(value) for name, value in parameters.items()}
    reply = yield from session.asked(Request("GET", path, asked))
    return msgspec.json.decode(reply.body)


class _Found(msgspec.Struct):
    position: int
    items: msgspec.Raw
    next: str | None
    quarantined: int


class _Sides(msgspec.Struct):
    key: dict[str, Any]
    was: msgspec.Raw
    now: msgspec.Raw = msgspec.field(name="is")


_found = msgspec.json.Decoder(_Found).decode


def _reached(terms: Terms, min_position: int) -> dict[str, str]:
    wanted = max(terms.seen, min_position)
    return {"min_position": str(wanted)} if wanted else {}


@cache
def _rows_of(row: type[R]) -> Callable[[Any], list[R]]:
    return msgspec.json.Decoder(list[row], strict=False).decode  # type: ignore[valid-type]


@cache
def _row_of(row: type[R]) -> Callable[[Any], R | None]:
    return msgspec.json.Decoder(row | None, strict=False).decode


def _parameters(query: str, row: type, parameters: dict[str, Any]) -> dict[str, str]:
    """Raises TypeError where the query does not know them; one that is asked for rows as they come is not looked up."""
    if row is not dict and get_origin(row) is not dict:
        names = _names_of(query, row)
        if unknown := parameters.keys() - names:
            raise TypeError(f"{query} has no parameter {min(unknown)}; it has {sorted(names)}")
    return {name: _text(value) for name, value in parameters.items()}


@cache
def _names_of(query: str, row: type) -> frozenset[str]:
    # Whoever names a row has imported the queries; others do without, and without all that answers queries.
    from queries._query import QUERIES
    from queries.api import load_queries

    path = f"/queries/{query}"
    if path not in QUERIES:
        load_queries()
    known = QUERIES.get(path)
    if known is None or known.row is not row:
        raise TypeError(f"no query {query} gives rows of {row.__module__}.{row.__qualname__}")
    return frozenset(f.name for f in fields(known.parameters))


# History


def log(
    session: Session, /, after: int = 0, *, type: str = "", stream: str = "", limit: int = LOG_PAGE
) -> Steps[Stretch]:
    """A page of the log behind a position. See `events`."""
    asked = _given(after=after or None, limit=limit, type=type, stream=stream)
    reply = yield from session.asked(Request("GET", "/history/events", asked))
    following = reply.headers.get("fogbook-next")
    found = [_event(line) for line in reply.body.splitlines()]
    if found:
        session.terms.saw(found[-1].position)
    return Stretch(
        int(reply.headers.get("fogbook-position", 0)), found, int(following) if following else None
    )


def events(
    session: Session, /, after: int = 0, *, type: str = "", stream: str = "", limit: int = LOG_PAGE
) -> Listing[Event]:
    """The log behind a position, up to where it is now, `limit` events at a time; only those of a `type` (`Debited`) or
    a `stream` (`wallet:ana`) where one is named. For auditors and operators."""
    behind: int | None = after
    while behind is not None:
        stretch = yield from log(session, behind, type=type, stream=stream, limit=limit)
        yield Give(stretch.events)
        behind = stretch.next


def follow(session: Session, /, after: int = 0, *, type: str = "", stream: str = "") -> Listing[Event]:
    """The log behind a position, and on as it grows, for ever. A connection that breaks or falls silent is resumed
    where it was: each event is given once. Raises Unavailable when patience ends before the server is there again."""
    asked = _given(type=type, stream=stream)
    while True:
        came = False
        headers = {"accept": "text/event-stream", "last-event-id": str(after)}
        request = Request("GET", "/history/events", asked, headers)
        feed: Feed = yield from session.patiently(partial(_opened, session.io, request))
        rest = b""
        try:
            while data := (yield feed.more):
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > MOST_LINE_BYTES:
                    raise given_up(Broken(f"A line of the feed is larger than {MOST_LINE_BYTES} bytes."))
                found = [_event(line[6:]) for line in lines if line.startswith(b"data: ")]
                if found:
                    came, after = True, found[-1].position
                    session.terms.saw(after)
                    yield Give(found)
        except Broken:
            pass
        finally:
            yield feed.close
        if not came:
            yield partial(session.io.pause, BREATH_S)


def _opened(io: Io, request: Request) -> Steps[Feed]:
    """Raises FogbookError, Later and Broken."""
    opened: Feed | Reply = yield partial(io.open, request)
    if not isinstance(opened, Reply):
        return opened
    error = error_in(*opened)
    raise Later(error) if error.status in LATER else error


# Receipts


def prove(session: Session, /, done: Accepted, *, trust: Sequence[str] = ()) -> Steps[dict[str, Any]]:
    """The receipt of a command, checked here: the zone's signed log holds this command with this answer, and one of the
    verifier keys in `trust` (in place of the client's own) has signed it. Keep it as JSON: `fogbook verify RECEIPT` and
    `ops/auditor.py` check it again without any server.

    Waits until a checkpoint covers the command. Raises NotProven where the receipt does not prove this answer.
    """
    request = Request("GET", f"/history/receipts/{done.command_id}", {"wait": "true"})
    reply = yield from session.asked(request)
    receipt: dict[str, Any] = msgspec.json.decode(reply.body)
    check_that_proven(receipt, done, trust or session.terms.trust)
    return receipt
