"""A zone's spans put together: what reaches from one to the next, and the trees over both of its logs."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import msgspec
import psycopg

from commands._codec import EntryTooLarge, attestation_leaf, microseconds, zone_prefix
from domain.ledger import WORLD
from ops.verify._found import Found
from ops.verify._spans import Walked
from ops.verify._trees import Held, LogTree
from projections._tree import EMPTY_ROOT, HASH_BYTES

T = TypeVar("T")

ATTESTATIONS = """
SELECT ordinal, after_number, kind, body, recorded_at, leaf FROM attestations
WHERE zone = %s AND ordinal > %s ORDER BY ordinal
"""


class Attestation(NamedTuple):
    ordinal: int
    after_number: int
    kind: str
    body: bytes


def said_of(
    zone: str, attestations: Iterable[Attestation], kind: str, decode: Callable[[bytes], T], found: Found
) -> Iterator[T]:
    """What the attestations of a kind say, in their order; one that cannot be read is named."""
    for each in attestations:
        if each.kind == kind:
            try:
                said = decode(each.body)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                found.add(zone, f"it cannot be read: {error}", table="attestations", row=[zone, each.ordinal])
            else:
                yield said


@dataclass
class Standing:
    """How far a zone is verified, and all that the rest of it builds on."""

    position: int = 0
    number: int = 0
    ordinal: int = 0
    root: bytes = EMPTY_ROOT
    fates_size: int = 0
    fates_root: bytes = EMPTY_ROOT
    time: int | None = None
    fate_time: int | None = None
    versions: dict[str, int] = field(default_factory=dict)
    sums: dict[str, dict[str, str]] = field(default_factory=dict)
    """Account, asset, posted: as decimal strings, since they outgrow JSON's numbers."""


class Book:
    """One zone; spans come in order."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        zone: str,
        keys: Sequence[bytes],
        held: dict[str, list[Held]],
        found: Found,
        begin: Standing,
    ) -> None:
        self._connection = connection
        self._zone = zone
        self._found = found
        at = (begin.position, begin.root), (begin.fates_size, begin.fates_root)
        self._events = LogTree(connection, zone, "events", keys, held.get("events", ()), found, at[0])
        self._fates = LogTree(connection, zone, "fates", keys, held.get("fates", ()), found, at[1])
        self._position = begin.position
        self._number = begin.number
        self._time = begin.time
        self._fate_time = begin.fate_time
        self._versions = dict(begin.versions)
        self._sums = {(a, asset): int(n) for a, line in begin.sums.items() for asset, n in line.items()}
        self._ordinal = begin.ordinal
        self._attested: list[tuple[int, bytes]] = []
        """What stands behind which fate, of the attestations that are not in the tree yet."""
        self.attestations: list[Attestation] = []
        self._read_attestations()

    def standing(self) -> Standing:
        sums: dict[str, dict[str, str]] = {}
        for (account, asset), amount in self._sums.items():
            if amount:
                sums.setdefault(account, {})[asset] = str(amount)
        return Standing(
            self._position,
            self._number,
            self._ordinal,
            self._events.root(),
            self._fates.size,
            self._fates.root(),
            self._time,
            self._fate_time,
            dict(self._versions),
            sums,
        )

    def take(self, walked: Walked) -> None:
        """The next span."""
        self._found.take(walked.found)
        self._check_times(walked)
        for stream, (first, position, last) in walked.streams.items():
            version = self._versions.get(stream, 0) + 1
            if first != version:
                what = f"it has version {first} instead of {version}"
                self._found.add(self._zone, what, position, stream=stream)
            self._versions[stream] = last
        for (account, asset), (sum, low, at) in walked.sums.items():
            before = self._sums.get((account, asset), 0)
            if before + low < 0 and account != WORLD:
                self._found.add(
                    self._zone,
                    f"it comes to {before + low} {asset}, and may not be below zero",
                    at,
                    stream=account,
                )
            self._sums[account, asset] = before + sum
        self._events.append(walked.leaves)
        self._append_fates(walked.fate_leaves)
        self._position = walked.last
        self._number = walked.last_number

    def _check_times(self, walked: Walked) -> None:
        if walked.times is not None:
            first, last = walked.times
            if self._time is not None and first < self._time:
                what = "its time is before that of the event before it"
                self._found.add(self._zone, what, walked.span.after + 1)
            self._time = last
        if walked.fate_times is not None:
            first, last = walked.fate_times
            if self._fate_time is not None and first < self._fate_time:
                what = "its time is before that of the command before it"
                self._found.add(self._zone, what, walked.span.after, command=walked.span.after_number + 1)
            self._fate_time = last

    # The second log

    def _read_attestations(self) -> None:
        prefix, before, last = zone_prefix(self._zone), self._ordinal, None
        with self._connection.cursor(binary=True) as cursor:
            rows = cursor.execute(ATTESTATIONS, (self._zone, before)).fetchall()
        number = 0
        for ordinal, after_number, kind, body, recorded_at, leaf in rows:
            self._found.attestations += 1
            try:
                computed = attestation_leaf(
                    prefix, ordinal, after_number, kind, microseconds(recorded_at), body
                )
            except (EntryTooLarge, struct.error):
                computed = bytes(HASH_BYTES)
            if ordinal != before + 1:
                self._attestation_differs(ordinal, f"the ordinal before it is {before}")
            if computed != leaf:
                self._attestation_differs(ordinal, "its stored bytes do not give its leaf hash")
            if after_number < number or (last is not None and recorded_at < last):
                self._attestation_differs(ordinal, "it stands before the one before it")
            before, number, last = ordinal, after_number, recorded_at
            self._attested.append((after_number, computed))
            self.attestations.append(Attestation(ordinal, after_number, kind, body))
        self._ordinal = before

    def _attestation_differs(self, ordinal: int, what: str) -> None:
        self._found.add(self._zone, what, table="attestations", row=[self._zone, ordinal])

    def _append_fates(self, leaves: bytes) -> None:
        """Fates, and behind each what was attested then."""
        done, count = 0, len(leaves) // HASH_BYTES
        while self._attested and self._attested[0][0] < self._number + count:
            after, leaf = self._attested.pop(0)
            upto = max(done, after - self._number)
            self._fates.append(leaves[done * HASH_BYTES : upto * HASH_BYTES] + leaf)
            done = upto
        self._fates.append(leaves[done * HASH_BYTES :])

    # The end

    def finish(self, position: int, number: int, time: int) -> None:
        """The log has ended; the head row must say so as well."""
        for after, leaf in self._attested:
            if after > self._number:
                what = f"an attestation stands behind command {after}, the commands end at {self._number}"
                self._found.add(self._zone, what, self._position, table="attestations")
            self._fates.append(leaf)
        self._attested = []
        self._events.finish()
        self._fates.finish()
        if (self._position, self._number) != (position, number):
            self._found.add(
                self._zone,
                f"the head is at position {position} and command {number}, the log ends at {self._position} "
                f"and {self._number}",
                min(self._position, position) + 1,
                table="heads",
                row=[self._zone],
            )
        last = max((at for at in (self._time, self._fate_time) if at is not None), default=time)
        if time != last:
            what = "the head's time is not that of what was appended last"
            self._found.add(self._zone, what, table="heads", row=[self._zone], field="recorded_at")
