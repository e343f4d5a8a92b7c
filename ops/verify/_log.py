"""A span of a zone's log: stored bytes are hashed again, and events, commands and postings are held together.

Spans begin and end at ends of commands, so that processes can walk them apart; `_book` puts them together. Most of
the time of a verification is spent in this file's loops, so they read pages in binary and hash without calls between.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import msgspec
import psycopg
from psycopg.types.numeric import Int8BinaryLoader

from commands._codec import (
    EPOCH,
    encode_json,
    microseconds,
    zone_prefix,
)
from ops.verify._found import Found
from ops.verify._packets import check_packets
from ops.verify._signed import Brought, Commands, check_signed
from ops.verify._spans import (
    END,
    Fate,
    Kind,
    Meta,
    Place,
    Span,
    Walked,
    decode_meta,
    decode_refusal,
    prefixed,
    u16,
)
from projections._rebuild import paused_collector

ROWS_A_FETCH = 2_000

EVENTS = """
SELECT position, stream, version, type, data, meta, recorded_at, leaf FROM events
WHERE zone = %s AND position > %s AND position <= %s ORDER BY position
"""

FATES = """
SELECT number, principal, act_as, key, request, if_match, status, answer, position, events, recorded_at, leaf
FROM commands WHERE zone = %s AND number > %s AND number <= %s ORDER BY number
"""

POSTGRES_EPOCH_US = 946_684_800_000_000
"""PostgreSQL counts its microseconds from 2000-01-01."""
assert microseconds(EPOCH.replace(year=2000)) == POSTGRES_EPOCH_US

NO_LEAF = bytes(32)
"""In the place of a hash that cannot be: its fields do not fit into an entry."""

AND = b'},{"position":'
"""Of an answer, what stands between two events."""

_u64 = struct.Struct(">Q").pack
_at_meta = struct.Struct(">qH").pack
_match_status = struct.Struct(">qH").pack
_fate_end = struct.Struct(">QIq").pack


def walk(connection: psycopg.Connection[Any], zone: str, span: Span) -> Walked:
    """Check a span by itself."""
    with paused_collector():
        return Walk(connection, zone, span).run()


Moved = tuple[int, Place, Kind, Any]
"""Position, stream, type and event, of one that moves value, or that a signature stands behind."""


class Walk:
    def __init__(self, connection: psycopg.Connection[Any], zone: str, span: Span) -> None:
        self._connection = connection
        self._zone = zone
        self._span = span
        self._prefix = zone_prefix(zone)
        self._zone_json = encode_json(zone)
        self._found = Found()
        self._walked = Walked(span, self._found, last=span.after, last_number=span.after_number)
        self._fates: dict[int, Fate] = {}
        self._places: dict[str, Place] = {}
        self._alone = not span.upto_number
        """Whether this is another application's zone: it has no commands, and each event stands alone."""
        self._packets: list[tuple[int, str, Any, bytes]] = []
        """Events that a signature of another zone stands behind: position, stream, event, and its request."""
        self._commands = Commands()

    def run(self) -> Walked:
        fates = list(self._read_fates())
        self._fates = {fate.number: fate for fate in fates if fate.events}
        self._events()
        self._order_of(fates)
        for fate in self._fates.values():
            self._of(fate, f"the {fate.events} events of command {fate.number} are not in the log")
        check_packets(self._connection, self._zone, self._packets, self._found)
        check_signed(self._connection, self._zone, self._commands, self._found)
        self._walked.sums = {
            (place.name, asset): (line[0], line[1], line[2])
            for place in self._places.values()
            for asset, line in place.sums.items()
        }
        return self._walked

    def _rows(self, statement: str, after: int, upto: int) -> Iterator[tuple[Any, ...]]:
        """Rows of the span. A cursor's pages are decoded at a third of what each row of a COPY costs this process."""
        with self._connection.cursor("span", binary=True) as cursor:
            cursor.itersize = ROWS_A_FETCH
            # Times as the number that they are stored as: that is what is hashed.
            cursor.adapters.register_loader("timestamptz", Int8BinaryLoader)
            upto = END if self._span.is_last else upto
            cursor.execute(statement, (self._zone, after or -END, upto))
            yield from cursor

    def _differs(self, position: int, what: str, **where: Any) -> None:
        self._found.add(self._zone, what, position, **where)

    def _of(self, fate: Fate, what: str) -> None:
        self._found.add(self._zone, what, fate.position, command=fate.number)

    # Events

    def _hashed(self) -> Iterator[tuple[int, Place, int, Kind, bytes, bytes, int]]:
        """Every event, counted and hashed: position, stream, version, type, data, meta and time."""
        before, last_at = self._span.after, None
        head = b"\x00" + self._prefix
        leaves: list[bytes] = []
        append = leaves.append
        places: dict[str, Place] = {}
        kinds: dict[str, Kind] = {}
        for row in self._rows(EVENTS, self._span.after, self._span.upto):
            position, stream, version, type, data, meta, at, leaf = row
            if position != before + 1:
                self._gap(before, position)
            before = position
            kind = kinds.get(type) or kinds.setdefault(type, Kind(type))
            place = places.get(stream) or places.setdefault(stream, Place(stream, version, position, head))
            if version != place.version + 1:
                what = f"it has version {version} instead of {place.version + 1}"
                self._differs(position, what, stream=place.name)
            place.version = version
            if last_at is None:
                self._walked.times = (at, at)
            elif at < last_at:
                self._differs(position, "its time is before that of the event before it")
            last_at = at
            try:
                begin = place.pack(head, position, place.prefix, version)
                time = _at_meta(at + POSTGRES_EPOCH_US, len(meta))
                computed = sha256(b"".join((begin, kind.prefix, time, meta, u16(len(data)), data))).digest()
            except struct.error:
                computed = NO_LEAF
            append(computed)
            if computed != leaf:
                self._differs(position, "its stored bytes do not give its leaf hash", stream=place.name)
            yield position, place, version, kind, data, meta, at
        if before < self._span.upto:
            self._gap(before, self._span.upto + 1)
        walked = self._walked
        walked.found.events += len(leaves)
        walked.last = before
        walked.leaves = b"".join(leaves)
        walked.streams = {n: (p.first, p.position, p.version) for n, p in places.items()}
        self._places = places
        if walked.times is not None and last_at is not None:
            walked.times = (walked.times[0], last_at)

    def _gap(self, before: int, position: int) -> None:
        if position > before + 1:
            more = f"; the next one is at {position}" if position > before + 2 else ""
            self._differs(before + 1, f"there is no such event{more}")
        else:
            self._differs(position, f"the position before it is {before}")

    def _events(self) -> None:
        """Events of a command stand together; with its last one, `_end` looks at all of them."""
        mine: list[Moved] = []
        shown: list[bytes] = []
        command, of, done = "", 0, 0
        at_position = 0
        for position, place, version, kind, data, meta, at in self._hashed():
            at_position = position
            try:
                known = decode_meta(meta) if meta else None
                if known is None or not known.command:
                    if not self._alone or kind.decode is not None:
                        self._differs(position, "no command tells of it", stream=place.name)
                    continue
                if kind.decode is None:
                    self._differs(position, f"this code knows no type {kind.name}", stream=place.name)
                    continue
                event = kind.decode(data)
            except (msgspec.DecodeError, RecursionError, ValueError) as error:
                self._differs(position, f"it cannot be read: {error}", stream=place.name)
                continue
            if known.i != done + 1 or (done and (known.command != command or known.n != of)):
                what = f"it is {known.i} of {known.n} of command {known.command}, behind {done} of {of}"
                self._differs(position, f"{what} of {command or 'nothing'}", stream=place.name)
                mine, shown = [], []
            command, of, done = known.command, known.n, known.i
            if kind.matters:
                mine.append((position, place, kind, event))
            shown += (b"%d" % position, place.shown, b"%d" % version, kind.shown, data, AND)
            if done >= of:
                self._end(position, known, at, mine, shown)
                mine, shown = [], []
                command, of, done = "", 0, 0
        if done:
            self._differs(at_position, f"command {command} ends after {done} of {of} events")

    def _end(
        self,
        position: int,
        meta: Meta,
        at: int,
        mine: list[Moved],
        shown: list[bytes],
    ) -> None:
        """The end of a command: its postings balance, and its fate tells of these events."""
        if mine:
            self._balance(position, meta.command, mine)
        fate = self._fate(meta.command)
        if fate is None:
            self._differs(position, f"its command {meta.command} is not stored as one with events")
            return
        if (fate.position, fate.events, fate.status, fate.at) != (position, meta.n, 200, at):
            what = (
                f"command {meta.command} is stored with status {fate.status} and {fate.events} events up to "
                f"position {fate.position}, the log has {meta.n} up to {position}, or their times differ"
            )
            self._of(fate, what)
        elif (fate.principal, fate.act_as) != (meta.principal, meta.by):
            self._of(fate, "it is stored as somebody else's than its events say")
        shown[-1] = b"}]}"
        answer = b'{"command_id":"%b","zone":%b,"position":%d,"events":[{"position":' % (
            meta.command.encode(),
            self._zone_json,
            position,
        )
        if answer + b"".join(shown) != fate.answer:
            self._of(fate, f"the answer of command {fate.number} does not hold its events' bytes")
        first = position - meta.n + 1
        is_signed = False
        for at_position, place, kind, event in mine:
            if kind.is_proven:
                self._packets.append((at_position, place.name, event, fate.request))
            elif kind.is_signature:
                is_signed = True
                said = (event, meta.by, meta.name, at + POSTGRES_EPOCH_US, fate.request)
                self._commands.signed.append(Brought(at_position, first, place.name, place.version, *said))
        if not is_signed:
            self._commands.unsigned[meta.by].append((first, meta.name))

    def _fate(self, command: str) -> Fate | None:
        try:
            return self._fates.pop(
                int(command[1:]), None
            )  # Its answer holds the id as well: it has one way to be.
        except ValueError:
            return None

    def _balance(self, position: int, command: str, mine: list[Moved]) -> None:
        sums: dict[str, int] = {}
        touched = []
        for _, place, kind, event in mine:
            if kind.has_posting:
                asset, amount = event.posting
                sums[asset] = sums.get(asset, 0) + amount
                line = place.sums.get(asset)
                if line is None:
                    line = place.sums[asset] = [0, 0, 0]
                line[0] += amount
                touched.append(line)
        for line in touched:
            if line[0] < line[1]:
                line[1], line[2] = line[0], position
        if any(sums.values()):
            self._differs(position, f"the postings of command {command} do not balance: {sums}")

    # Commands

    def _read_fates(self) -> Iterator[Fate]:
        """Hash and count every command of the span."""
        before, last_at = self._span.after_number, None
        head = b"\x00" + self._prefix
        leaves: list[bytes] = []
        names: dict[str, bytes] = {}
        span = self._span
        for row in self._rows(FATES, span.after_number, span.upto_number):
            number, principal, act_as, key, request, if_match, status, answer, position, events, at, leaf = (
                row
            )
            if number != before + 1:
                self._no_command(before, number)
            before = number
            try:
                entry = (
                    head,
                    _u64(number),
                    names.get(principal) or names.setdefault(principal, prefixed(principal)),
                    names.get(act_as) or names.setdefault(act_as, prefixed(act_as)),
                    prefixed(key),
                    sha256(request).digest(),
                    _match_status(-1 if if_match is None else if_match, status),
                    sha256(answer).digest(),
                    _fate_end(position, events, at + POSTGRES_EPOCH_US),
                )
                computed = sha256(b"".join(entry)).digest()
            except struct.error:
                computed = NO_LEAF
            leaves.append(computed)
            fate = Fate._make(row)
            if computed != leaf:
                self._of(fate, f"the stored bytes of command {number} do not give its leaf hash")
            if last_at is None:
                self._walked.fate_times = (at, at)
            elif at < last_at:
                self._of(fate, "its time is before that of the command before it")
            last_at = at
            yield fate
        if before < span.upto_number:
            self._no_command(before, span.upto_number + 1)
        walked = self._walked
        walked.found.commands += len(leaves)
        walked.last_number = before
        walked.fate_leaves = b"".join(leaves)
        if walked.fate_times is not None and last_at is not None:
            walked.fate_times = (walked.fate_times[0], last_at)

    def _no_command(self, before: int, number: int) -> None:
        if number > before + 1:
            more = f"; the next one is {number}" if number > before + 2 else ""
            self._found.add(self._zone, f"there is no such command{more}", command=before + 1)
        else:
            self._found.add(self._zone, f"the command before it is {before}", command=number)

    def _order_of(self, fates: list[Fate]) -> None:
        """Each command was decided where the one before it left the log; refusals and answers say so too."""
        before = self._span.after
        for fate in fates:
            position = before + fate.events
            if fate.position != position:
                self._of(
                    fate, f"command {fate.number} was decided at {fate.position}, the log stood at {before}"
                )
            before = fate.position
            if fate.events:
                continue
            if fate.status == 200:
                answer = b'{"command_id":"c%d","zone":%b,"position":%d,"events":[]}' % (
                    fate.number,
                    self._zone_json,
                    fate.position,
                )
                is_so = answer == fate.answer
            else:
                is_so = fate.status == 409 and _refusal(fate.answer) == (409, fate.position)
            if not is_so:
                self._of(fate, f"the answer of command {fate.number} does not say what is stored of it")


def _refusal(answer: bytes) -> tuple[int, int] | None:
    try:
        said = decode_refusal(answer)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return said.status, said.position
