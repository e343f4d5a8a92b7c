"""Commands that principals signed: each signature is verified once more, from the log alone.

The log holds what was signed (in the event `CommandSigned`, the first of its command), for whom and under which name
(in the event's meta), by which keys he signed then and whether he signed everything (in his stream `signer:...`), and
what was done (the command's request). What the rules refused then, they refuse now.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec
import psycopg

from commands._codec import cache, context_of, decode_event, decode_json, event_encoder, modules
from commands._models import command_from
from commands._signatures import verify
from commands._signed import canonical
from commands._subjects import personal_fields
from domain._kernel import Decision, Issued, Rejected, Stream, kebab, snake
from domain.principals import (
    EPOCH,
    CommandSigned,
    RegisterSigningKey,
    SignatureIsRequired,
    Signed,
    Signer,
    SigningKeyRegistered,
    command_statement,
    may_act_unsigned,
    signatures,
    signed,
    signers,
)
from ops.problems import Problem
from ops.verify._found import Found

SIGNED = CommandSigned.__name__
REGISTER = f"{context_of(RegisterSigningKey)}/{kebab(RegisterSigningKey.__name__)}"

SIGNERS = """
SELECT stream, position, type, data FROM events WHERE zone = %s AND stream = ANY(%s) ORDER BY position
"""

SIGNED_BEFORE = """
SELECT w.stream, e.data FROM unnest(%s::text[], %s::bigint[]) AS w(stream, version)
CROSS JOIN LATERAL (
    SELECT data FROM events WHERE zone = %s AND stream = w.stream AND version < w.version
    ORDER BY version DESC LIMIT 1
) e
"""

BROKEN = (msgspec.DecodeError, RecursionError, ValueError, LookupError, TypeError, AttributeError)
"""What reading something raises that is not what it should be."""


class Brought(NamedTuple):
    """A signed command: where its signature stands, and what is said beside it."""

    position: int
    first: int
    """Of the command's events."""
    stream: str
    version: int
    event: CommandSigned
    by: str
    name: str
    at_us: int
    request: bytes


class Commands:
    """What a span's commands say of their signatures."""

    def __init__(self) -> None:
        self.signed: list[Brought] = []
        self.unsigned: dict[str, list[tuple[int, str]]] = defaultdict(list)
        """By principal: position of the first event, and the command's name."""


def check_signed(connection: psycopg.Connection[Any], zone: str, commands: Commands, found: Found) -> None:
    """All commands of a span."""
    by = {each.by for each in commands.signed} | commands.unsigned.keys()
    if not by:
        return
    check = _Check(zone, found)
    check.read_keys(connection.execute(SIGNERS, (zone, [signers(each).name for each in by])))
    check.read_nonces(connection, commands.signed)
    for each in commands.signed:
        found.signatures += 1
        check.brought(each)
    for principal in commands.unsigned.keys() & check.known.keys():
        for position, name in commands.unsigned[principal]:
            check.unsigned(principal, position, name)


class _Check:
    def __init__(self, zone: str, found: Found) -> None:
        self._zone = zone
        self._found = found
        self.known: dict[str, list[tuple[int, Signer]]] = {}
        """Of principals who have or had keys: what held from behind which position on."""
        self._registered: set[int] = set()
        self._nonces: dict[str, Signed] = {}

    def _differs(self, position: int, what: str, stream: str) -> None:
        self._found.add(self._zone, what, position, stream=stream)

    def read_keys(self, rows: Iterable[tuple[str, int, str, bytes]]) -> None:
        for stream, position, type, data in rows:
            try:
                event = decode_event(type, data)
            except BROKEN:
                continue  # That it cannot be read was said.
            if not isinstance(event, signers.events):
                self._differs(position, "it is no event of a signer", stream)
                continue
            line = self.known.setdefault(stream.partition(":")[2], [(0, Signer())])
            line.append((position, signers.evolve(line[-1][1], event)))
            if isinstance(event, SigningKeyRegistered):
                self._registered.add(position)

    def read_nonces(self, connection: psycopg.Connection[Any], brought: list[Brought]) -> None:
        first: dict[str, int] = {}
        for each in brought:
            first.setdefault(each.stream, each.version)
        rows = connection.execute(SIGNED_BEFORE, (list(first), list(first.values()), self._zone))
        for stream, data in rows:
            try:
                event = decode_event(SIGNED, data)
            except BROKEN:
                continue  # That it cannot be read was said.
            if event is not None:
                self._nonces[stream] = Signed(event.nonce)

    def _signer(self, principal: str, position: int) -> Signer:
        """As of before a position."""
        line = self.known.get(principal)
        return line[bisect_left(line, position, key=lambda at: at[0]) - 1][1] if line else Signer()

    def brought(self, each: Brought) -> None:
        event, stream = each.event, each.stream
        if each.position != each.first or stream != signatures(each.by).name:
            self._differs(each.position, f"it does not begin a command of {each.by}", stream)
        try:
            statement = command_statement(
                self._zone, each.by, each.name, event.nonce, event.expires, event.body
            )
            if not verify(event.key, statement, event.signature):
                self._differs(each.position, f"{each.by} did not sign the command that it stands for", stream)
            if not _is_what_was_signed(each):
                self._differs(each.position, "its command's request is not what was signed", stream)
        except (*BROKEN, Problem) as error:
            self._differs(each.position, f"what was signed cannot be read: {error}", stream)

        def read(kind: Stream[Any], id: str) -> Any:
            if kind is signers:
                return self._signer(id, each.position)
            return self._nonces.get(stream, Signed())

        issued = Issued(each.by, EPOCH + timedelta(microseconds=each.at_us))
        try:
            list(signed(_nothing, event)(None, issued, read))
        except Rejected as rule:
            what = f"its signature did not count: {rule.sentence()} {json.dumps(rule.facts)}"
            self._differs(each.position, what, stream)
        self._nonces[stream] = Signed(event.nonce)

    def unsigned(self, principal: str, position: int, name: str) -> None:
        signer = self._signer(principal, position)
        stream = signers(principal).name

        def read(kind: Stream[Any], id: str) -> Any:
            return signer

        try:
            kind = RegisterSigningKey if name == REGISTER else object
            may_act_unsigned(kind, Issued(principal, EPOCH), read)
            if position in self._registered and signer.keys:
                raise SignatureIsRequired
        except SignatureIsRequired as rule:
            self._differs(position, f"{principal} did not sign its command: {rule.sentence()}", stream)


def _nothing(*_: Any) -> Decision:
    return iter(())


def _is_what_was_signed(each: Brought) -> bool:
    """Whether the request that was decided on is what the signed body means, personal texts apart: of those the log
    holds only the hash here, and the sealed text there."""
    request = decode_json(each.request)
    said, stored = decode_json(each.event.body), request["body"]
    kind = _command_types()[each.name]
    # Fields that commands got since then are in what it means today only.
    meant = decode_json(event_encoder(kind)(command_from(kind, said)))
    personal = personal_fields(kind)
    return (
        (request["command"], request["act_as"]) == (each.name, each.by)
        and request["signed"] == decode_json(event_encoder(CommandSigned)(each.event))
        and canonical(said) == each.event.body
        and said.keys() <= {name.removesuffix("_") for name in stored}
        and all(
            bool(value) == bool(meant[name]) if name in personal else value == meant[name]
            for name, value in stored.items()
        )
    )


@cache
def _command_types() -> dict[str, type]:
    """By name, such as `ledger/transfer`: the classes that a decision is named after."""
    return {f"{context_of(kind)}/{kebab(kind.__name__)}": kind for kind in _commands()}


def _commands() -> Iterator[type]:
    for module in modules().values():
        for value in vars(module).values():
            if not isinstance(value, type) or value.__module__ != module.__name__:
                continue
            if callable(getattr(module, snake(value.__name__), None)):
                yield value
