"""What is sent and what an answer means, without a network: each operation yields a request and gets its reply."""

from __future__ import annotations

import base64
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from uuid_utils import uuid7

from commands._codec import EPOCH, context_of, decode_event, event_encoder
from commands._signatures import public_key, sign
from commands._signed import canonical
from domain._kernel import kebab
from domain.principals import command_statement
from ops.client._errors import FogbookError, error_of, problem_in
from queries._http import QUERIES
from queries._receipts import FAILURES, check_receipt
from queries.api import load_queries

R = TypeVar("R")
T = TypeVar("T")

PAGE = 200
SIGNED_FOR_S = 300
MOST_AT_ONCE = 1_000
ACCEPTED = 200


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


Operation = Generator[Request, Reply, T]
"""Ends with a value, or raises FogbookError; nothing in it waits."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event as the log holds it; `data` is what the event says, and `domain` makes the domain's own event of it."""

    position: int
    stream: str
    version: int
    type: str
    data: dict[str, Any]
    meta: dict[str, Any] = field(default_factory=dict)
    recorded_at: datetime = EPOCH
    leaf: str = ""

    @property
    def domain(self) -> Any:
        return decode_event(self.type, msgspec.json.encode(self.data))


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a command came to: its events are durable at their positions. `again`: it was sent before."""

    command_id: str
    zone: str
    position: int
    events: list[Event]
    again: bool = False


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """Some items of a query, the position that they reflect, and the cursor of the next page."""

    position: int
    items: list[R]
    next: str | None
    quarantined: int


@dataclass(slots=True)
class Signer:
    """Signs commands in a principal's name (`register-signing-key` has made the key known). Nonces rise with the time,
    so that two signers of the same principal do not need to know of each other."""

    principal: str
    key: Ed25519PrivateKey
    last_nonce: int = 0

    def header(self, zone: str, command: str, body: bytes, now: float) -> str:
        self.last_nonce = max(self.last_nonce + 1, int(now * 1_000_000))
        expires = int(now) + SIGNED_FOR_S
        said = canonical(msgspec.json.decode(body))
        statement = command_statement(zone, self.principal, command, self.last_nonce, expires, said)
        signed = {
            "principal": self.principal,
            "key": public_key(self.key),
            "nonce": self.last_nonce,
            "expires": expires,
            "signature": sign(self.key, statement),
        }
        return msgspec.json.encode(signed).decode()


@dataclass(slots=True)
class Terms:
    """On which a client speaks: as whom, about which zone, and what it has seen of it."""

    key: str
    zone: str = "main"
    act_as: str = ""
    trust: Sequence[str] = ()
    """Verifier keys of the zone's log that were got elsewhere."""
    signer: Signer | None = None
    seen: int = 0
    """The position that queries wait for: that of what this client wrote last."""

    def headers(self, **more: str) -> dict[str, str]:
        named = {"authorization": f"Bearer {self.key}", "fogbook-zone": self.zone}
        return named | {name.replace("_", "-"): value for name, value in more.items() if value}

    def saw(self, position: int) -> None:
        self.seen = max(self.seen, position)


def name_of(command: Any) -> str:
    """`ledger/transfer`"""
    return f"{context_of(type(command))}/{kebab(type(command).__name__)}"


def body_of(command: Any) -> bytes:
    """A command as a client sends it: amounts as decimal strings, times as RFC 3339."""
    return msgspec.json.encode(_renamed(msgspec.json.decode(event_encoder(type(command))(command))))


def _renamed(said: Any) -> Any:
    """Fields whose names are words of Python, such as `from_`, have theirs without the stroke."""
    if isinstance(said, dict):
        return {name.removesuffix("_"): _renamed(value) for name, value in said.items()}
    return [_renamed(each) for each in said] if isinstance(said, list) else said


# Commands


def send(
    terms: Terms,
    command: Any,
    key: str,
    if_match: int | None = None,
    at: datetime | None = None,
    dry_run: bool = False,
    correlation: str = "",
) -> Operation[Accepted]:
    name, body = name_of(command), body_of(command)
    headers = terms.headers(
        content_type="application/json",
        idempotency_key="" if dry_run else key or str(uuid7()),
        fogbook_act_as=terms.act_as if terms.signer is None else "",
        fogbook_at=at.isoformat() if at else "",
        fogbook_correlation=correlation,
        if_match="" if if_match is None else f'"{if_match}"',
        fogbook_signed=terms.signer.header(terms.zone, name, body, time.time()) if terms.signer else "",
    )
    reply = yield Request("POST", f"/commands/{name}", {"dry_run": "true"} if dry_run else {}, headers, body)
    if reply.status != ACCEPTED:
        raise problem_in(reply.status, reply.body)
    accepted = msgspec.json.decode(reply.body, type=Accepted)
    if not dry_run:
        terms.saw(accepted.position)
    return _again(accepted, reply)


def _again(accepted: Accepted, reply: Reply) -> Accepted:
    known = reply.headers.get("idempotency-hit") == "true"
    return Accepted(accepted.command_id, accepted.zone, accepted.position, accepted.events, known)


def send_many(
    terms: Terms, commands: Sequence[Any], keys: Sequence[str]
) -> Operation[list[Accepted | FogbookError]]:
    """Each is decided on its own, in order; what a rule refused is in its place, not raised."""
    if len(commands) > MOST_AT_ONCE:
        raise ValueError(f"at most {MOST_AT_ONCE} commands are sent at once")
    given = keys or [str(uuid7()) for _ in commands]
    lines = [
        msgspec.json.encode(
            {
                "context": name.partition("/")[0],
                "command": name.partition("/")[2],
                "key": key,
                "body": msgspec.Raw(body_of(command)),
            }
        )
        for command, name, key in zip(commands, map(name_of, commands), given, strict=True)
    ]
    headers = terms.headers(content_type="application/x-ndjson", fogbook_act_as=terms.act_as)
    reply = yield Request("POST", "/commands", {}, headers, b"\n".join(lines))
    if reply.status != ACCEPTED:
        raise problem_in(reply.status, reply.body)
    return [_outcome(terms, msgspec.json.decode(line)) for line in reply.body.splitlines()]


def _outcome(terms: Terms, line: dict[str, Any]) -> Accepted | FogbookError:
    if line["status"] != ACCEPTED:
        return error_of(line["status"], line["body"])
    accepted = msgspec.convert(line["body"], Accepted)
    terms.saw(accepted.position)
    return accepted


# Queries


def page(
    terms: Terms,
    query: str,
    row: type[R],
    after: str | None,
    limit: int,
    as_of: str,
    parameters: dict[str, Any],
) -> Operation[Page[R]]:
    """Raises TypeError where the query has no such row or parameter."""
    load_queries()
    known = QUERIES.get(f"/queries/{query}")
    if known is None or known.row is not row:
        raise TypeError(f"no query {query} gives rows of {row.__module__}.{row.__qualname__}")
    names = {f.name for f in fields(known.parameters)}
    if unknown := parameters.keys() - names:
        raise TypeError(f"{query} has no parameter {min(unknown)}; it has {sorted(names)}")
    asked = {name: _text(value) for name, value in parameters.items()} | {"limit": str(limit)}
    asked |= {"after": after} if after else {}
    asked |= {"as_of": as_of} if as_of else {"min_position": str(terms.seen)} if terms.seen else {}
    reply = yield Request("GET", known.path, asked, terms.headers())
    if reply.status != ACCEPTED:
        raise problem_in(reply.status, reply.body)
    found = msgspec.json.decode(reply.body, type=_Found)
    items = msgspec.json.decode(found.items, type=list[row], strict=False)  # type: ignore[valid-type]
    terms.saw(found.position if not as_of else 0)
    return Page(found.position, items, found.next, found.quarantined)


class _Found(msgspec.Struct):
    position: int
    items: msgspec.Raw
    next: str | None
    quarantined: int


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else str(value)


# History


def events(
    terms: Terms, after: int, limit: int, type: str, stream: str
) -> Operation[tuple[list[Event], int | None]]:
    """A page of the log, and behind which position the next one begins."""
    asked = {"after": str(after), "limit": str(limit), "type": type, "stream": stream}
    query = {name: value for name, value in asked.items() if value}
    reply = yield Request("GET", "/history/events", query, terms.headers())
    if reply.status != ACCEPTED:
        raise problem_in(reply.status, reply.body)
    following = reply.headers.get("fogbook-next")
    return [msgspec.json.decode(line, type=Event) for line in reply.body.splitlines()], int(
        following
    ) if following else None


def live(terms: Terms, after: int, type: str, stream: str) -> Request:
    """The request for the log as it grows, behind a position."""
    asked = {"type": type, "stream": stream}
    query = {name: value for name, value in asked.items() if value}
    return Request(
        "GET", "/history/events", query, terms.headers(accept="text/event-stream", last_event_id=str(after))
    )


def event_of(line: str) -> Event | None:
    """Of a line of server-sent events the event, if it is one."""
    return msgspec.json.decode(line[len("data: ") :], type=Event) if line.startswith("data: ") else None


# Receipts


class NotProven(Exception):
    """A receipt does not prove what the server said."""


def prove(terms: Terms, done: Accepted) -> Operation[dict[str, Any]]:
    """The receipt of a command, checked here under the keys that the client trusts. Raises NotProven."""
    reply = yield Request(
        "GET", f"/history/receipts/{quote(done.command_id)}", {"wait": "true"}, terms.headers()
    )
    if reply.status != ACCEPTED:
        raise problem_in(reply.status, reply.body)
    receipt: dict[str, Any] = msgspec.json.decode(reply.body)
    try:
        fate = check_receipt(receipt, terms.trust)
    except FAILURES as error:
        raise NotProven(str(error)) from error
    answer = msgspec.json.decode(base64.b64decode(receipt["fate"]["answer"]), type=Accepted)
    said = [asdict(event) | {"meta": {}, "recorded_at": None, "leaf": ""} for event in done.events]
    held = [asdict(event) | {"meta": {}, "recorded_at": None, "leaf": ""} for event in answer.events]
    if fate.status != ACCEPTED or (answer.command_id, answer.position, held) != (
        done.command_id,
        done.position,
        said,
    ):
        raise NotProven("The log holds another answer to this command than the one that came.")
    return receipt
