"""Following a zone's log: reads the tail once, feeds every projection, commits rows and checkpoint together.

Exclusion rests on the checkpoint row (`FOR UPDATE SKIP LOCKED` and compare-and-set), so a second follower, a
killed one or one with a skewed clock can do no harm. The lease in `tenure` only spares useless work, and tells
that a predecessor died: then each projection takes a batch by itself, counted beforehand, and only the one that dies
over it again takes its events one by one. That a predecessor is gone is seen by its session's lock, which ends with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import starmap
from typing import Any

import psycopg
import structlog

from commands._codec import event_decoder, stored_types
from domain.operations import OPERATIONS
from projections import _lease
from projections._arrays import array_of
from projections._digest import to_bytes
from projections._engine import HandlerFailed, Projection, Record, all_projections, fold
from projections._lease import Lease
from projections._quarantine import BATCH as BATCH_NOTE
from projections._quarantine import (
    CAREFUL_LIMIT_S,
    MOST_ATTEMPTS,
    NOTHING,
    TRIED_WITH_OTHERS,
    Excused,
    Quarantine,
    Streams,
    before,
    ends,
    through,
)
from projections._stored import DATA, StoredRows, flush, flush_one, fold_batch, load_for, needs_copy
from projections._wanted import paused
from projections._watchdog import watchdog

BATCH = 2_000
MOST_POSITION = 2**62
CAREFUL_BATCH = 100
"""Events of one transaction where they are taken one by one."""
FOLD_LIMIT_S = 10.0

log = structlog.get_logger("fogbook.projections")

ENSURE = """
WITH made AS (
    INSERT INTO checkpoints (zone, projection, generation, code, live)
    SELECT %s, projection, 1, code, true FROM unnest(%s::text[], %s::text[]) AS p(projection, code)
    WHERE NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.zone = %s AND c.projection = p.projection)
    ON CONFLICT DO NOTHING
    RETURNING zone, projection, generation
)
INSERT INTO digests (zone, projection, generation, accumulator) SELECT *, %s FROM made
ON CONFLICT (zone, projection, generation) DO UPDATE SET accumulator = excluded.accumulator
"""

LOCK = """
SELECT projection, generation, position, code FROM checkpoints
WHERE zone = %s AND live AND projection = ANY(%s)
ORDER BY projection FOR UPDATE SKIP LOCKED
"""

MOVE = """
UPDATE checkpoints c
SET position = %s, recorded_at = %s, updated_at = clock_timestamp(),
    tenure = CASE WHEN tenure IS NULL THEN NULL ELSE clock_timestamp() + make_interval(secs => %s) END
FROM unnest(%s::text[], %s::integer[], %s::bigint[]) AS fed(projection, generation, position)
WHERE c.zone = %s
  AND (c.projection, c.generation, c.position) = (fed.projection, fed.generation, fed.position)
"""

HEAD = "SELECT position FROM heads WHERE zone = %s"

TAIL = """
SELECT position, stream, version, type, data, meta, recorded_at
FROM events WHERE zone = %s AND position > %s AND position <= %s ORDER BY position LIMIT %s
"""


class CheckpointMoved(Exception):
    """Somebody else moved the checkpoint meanwhile; nothing of this batch was kept."""


class NotStored(Exception):
    """Rows of a batch hold what their tables do not; nobody knows yet which event made them."""


@dataclass
class Fed:
    """One projection that this follower feeds, with the rows that it keeps in memory."""

    projection: Projection
    rows: StoredRows
    position: int
    alone: bool = False
    """Whether its next batch is shared with no other projection."""
    careful_from: int = 0
    careful_until: int = 0
    """In between, both included, events are taken one by one."""
    quarantined: Streams = field(default_factory=Streams)

    @property
    def key(self) -> tuple[str, str, int]:
        return self.rows.zone, self.projection.name, self.rows.generation

    def at(self, position: int) -> None:
        """The checkpoint stands at `position`: what is in memory is good for that only."""
        if position != self.position:
            self.rows.forget()
            self.position = position


def ensure_checkpoints(connection: psycopg.Connection[Any], zone: str) -> None:
    """A zone or projection that is new starts at position 0, live."""
    projections = all_projections()
    codes = [p.code for p in projections.values()]
    connection.execute(ENSURE, (zone, list(projections), codes, zone, to_bytes(0)))


def read_tail(
    connection: psycopg.Connection[Any],
    zone: str,
    after: int,
    limit: int = BATCH,
    *,
    upto: int = MOST_POSITION,
) -> list[Record]:
    """The next events, up to the end of a command: nobody ever sees half of one. So `upto` is the end of one, too."""
    while True:
        with connection.cursor(binary=True) as cursor:
            # Positions have no gaps. Without this bound PostgreSQL may sort all that is behind it, each time.
            cursor.execute(TAIL, (zone, after, min(upto, after + limit), limit))
            records = list(starmap(Record, cursor.fetchall()))
        full = len(records) == limit
        while full and records and not records[-1].ends_command:
            records.pop()
        if records or not full:
            return records
        limit *= 2


def known_of(records: list[Record]) -> list[Record]:
    """Those before the first event of ours that this version does not know, up to the end of a command.

    While versions change, a newer one may append what only its own workers can fold.
    """
    if all(event_decoder(type) for type in {record.type for record in records}):
        return records
    known: list[Record] = []
    for record in records:
        if record.meta and not event_decoder(record.type):  # Events of other applications have no metadata.
            break
        known.append(record)
    else:
        return known
    while known and not known[-1].ends_command:
        known.pop()
    return known


class Follower:
    """Feeds the projections of one zone; not for concurrent use. `connect` gives autocommit connections, `excused` is
    what all followers of a process share."""

    outdated = False
    """Whether it met what only a newer version can go on with, so that others are to take its place."""

    def __init__(
        self, connect: Callable[[], psycopg.Connection[Any]], zone: str, excused: Excused | None = None
    ) -> None:
        self._connection = connect()
        self._quarantine = Quarantine(self._connection, connect, set() if excused is None else excused)
        self._lease = Lease(self._connection, zone)
        self._zone = zone
        self._fed: dict[str, Fed] = {}
        self._paused: frozenset[str] = frozenset()
        """The projections that operators hold, as of the event that the next field names."""
        self._operated = 0

    # Tenure

    def begin(self) -> bool:
        """Take the lease; False when another follower is at work."""
        stored_types()  # To import the domain takes its time, which must not count as that of the first handler.
        ensure_checkpoints(self._connection, self._zone)
        self._quarantine.take_back(self._zone)
        self._paused = paused(self._connection, self._zone)
        known = all_projections()
        taken = self._lease.take()
        if taken:
            self._quarantine.forget_passed(self._zone, [name for name, _, _, died, _ in taken if not died])
        for name, generation, position, predecessor_died, code in taken:
            if name not in known or known[name].code != code:
                continue  # A rebuild by today's code, or for a digest, is due; the sweeper asks for it.
            rows = StoredRows(known[name], self._zone, generation)
            fed = Fed(known[name], rows, position)
            fed.quarantined = self._quarantine.streams(fed.key)
            if predecessor_died:
                self._mind(fed)
            self._fed[name] = fed
        if not self._fed:
            self._lease.release()
        return bool(self._fed)

    def _mind(self, fed: Fed) -> None:
        """A predecessor died; what it noted tells where, if it was an event's fault."""
        suspects = self._quarantine.suspects(fed.key)
        fed.alone = True
        if suspects.position:
            fed.careful_from = fed.careful_until = suspects.position
        elif suspects.batch:
            fed.alone = False
            fed.careful_until = min(self._head(), fed.position + BATCH)
        log.warning(
            "predecessor_died",
            zone=self._zone,
            projection=fed.projection.name,
            position=fed.position,
            at=suspects.position,
        )

    def keep(self) -> None:
        self._lease.keep(self._fed)
        self._paused = paused(self._connection, self._zone)

    def end(self) -> None:
        """Give the lease back."""
        self._lease.give_back(self._fed)

    def close(self) -> None:
        self._connection.close()
        self._quarantine.close()

    def run(self, tenure_s: float, idle_s: float, stop: Callable[[], bool], poll_s: float = 0.003) -> None:
        """Follow for a bounded time, less when nothing happens."""
        end = time.monotonic() + tenure_s
        last = kept = time.monotonic()
        seen = -1
        while (now := time.monotonic()) < end and now - last < idle_s and not (self.outdated or stop()):
            head = self._head()
            read = self.advance() if head != seen else 0
            if read:
                last = now
            seen = head if self.caught_up(head) else -1
            if now - kept > _lease.LEASE_S / 3:
                self.keep()
                kept = now
            if seen == head or not read:
                # Young silence is polled closely, older silence less so.
                time.sleep(min(poll_s + (now - last) / 50, 0.02))

    def caught_up(self, head: int) -> bool:
        """Those that are held excepted: they stand still."""
        return all(
            fed.position >= head for fed in self._fed.values() if fed.projection.name not in self._paused
        )

    def _mind_operators(self) -> None:
        """Read who is held, wherever this follower took in that operators wanted something."""
        fed = self._fed.get(OPERATIONS)
        if fed is not None and fed.rows.position != self._operated:
            self._paused = paused(self._connection, self._zone)
            self._operated = fed.rows.position

    def _head(self) -> int:
        row = self._connection.execute(HEAD, (self._zone,)).fetchone()
        return int(row[0]) if row else 0

    def _tail(self, after: int, *limit: int, upto: int = MOST_POSITION) -> list[Record]:
        """What is next, as far as this version knows it: nothing is passed over in silence."""
        records = read_tail(self._connection, self._zone, after, *limit, upto=upto)
        known = known_of(records)
        if len(known) < len(records) and not self.outdated:
            self.outdated = True
            log.warning("older_than_log", zone=self._zone, position=known[-1].position if known else after)
        return known

    # Batches

    def advance(self) -> int:
        """One pass over what is new; returns how many events were read. Projections at one position share it."""
        read = 0
        standing: dict[int, list[Fed]] = {}
        suspected: list[Fed] = []
        for fed in self._fed.values():
            if fed.projection.name in self._paused:
                continue
            if fed.alone or fed.position < fed.careful_until:
                suspected.append(fed)
            else:
                standing.setdefault(fed.position, []).append(fed)
        read += self._advance_standing(standing)
        upto = self._head() if suspected else 0  # So that they stand together afterwards.
        # Those under the least suspicion first: whoever kills the worker keeps only himself from going on.
        for fed in sorted(suspected, key=lambda fed: (fed.careful_until > 0, fed.careful_from > 0)):
            careful = not fed.alone or fed.careful_from <= fed.position + 1 <= fed.careful_until
            read += self._advance_carefully(fed) if careful else self._advance_alone(fed, upto)
        self._mind_operators()
        return read

    def _advance_standing(self, standing: dict[int, list[Fed]]) -> int:
        """Those that stand behind the first ones come up to them, who wait for those that are near: together they
        cost least."""
        read = near = 0
        lead = max(standing, default=0)
        for position in sorted(standing):
            if position < lead:
                taken = self._advance_together(standing[position], lead)
                near += taken if lead - position <= BATCH else 0
                read += taken
            elif not near:
                read += self._advance_together(standing[position])
        return read

    def _advance_together(self, group: Sequence[Fed], upto: int = MOST_POSITION) -> int:
        failed: Fed | None = None
        records: list[Record] = []
        try:
            with self._connection.transaction():
                locked = self._lock(group)
                if not locked:
                    return 0
                records = self._tail(locked[0].position, upto=upto)
                with watchdog(FOLD_LIMIT_S):
                    for fed in locked:
                        failed = fed
                        self._fold(fed, records)
                failed = None
                self._store(locked, records)
        except HandlerFailed as error:
            self._forget(group)
            assert failed is not None
            self._suspect(failed, error.record, records)
            return len(records)
        except NotStored as error:
            self._forget(group)
            log.warning("batch_not_stored", zone=self._zone, error=repr(error.__cause__))
            for fed in group:
                fed.alone = True
            return len(records)
        except BaseException:
            self._forget(group)
            raise
        self._moved(locked, records)
        return len(records)

    def _lock(self, group: Sequence[Fed]) -> list[Fed]:
        names = [fed.projection.name for fed in group]
        rows = self._connection.execute(LOCK, (self._zone, names)).fetchall()
        locked = []
        for name, generation, position, code in rows:
            fed = self._fed[name]
            if code != fed.projection.code:  # A rebuild by another version: its rows are not ours to change.
                self.outdated = True
                continue
            if generation != fed.rows.generation:  # A rebuild swapped generations meanwhile.
                fed.rows = StoredRows(fed.projection, self._zone, generation)
                fed.quarantined = self._quarantine.streams(fed.key)
                fed.alone, fed.careful_from, fed.careful_until = False, 0, 0
            fed.at(position)
            locked.append(fed)
        first = min((fed.position for fed in locked), default=0)
        return [fed for fed in locked if fed.position == first]

    def _fold(self, fed: Fed, records: Sequence[Record]) -> None:
        if not fed.quarantined:
            fold_batch(self._connection, fed.rows, records)
            return
        healthy = [r for r in records if r.stream not in fed.quarantined]
        load_for(self._connection, fed.rows, healthy)
        for record in records:
            if record.stream not in fed.quarantined:
                fold(fed.rows, (record,))
            elif record.type in fed.projection.handlers:
                reason = fed.quarantined.reason(record.stream)
                self._quarantine.set_aside(fed.rows, record, reason)

    def _store(self, group: Sequence[Fed], records: Sequence[Record]) -> None:
        """Write rows and checkpoints, in one round trip where nothing needs COPY. Raises NotStored."""
        if not records:
            return
        last = records[-1]
        stood = [(fed.projection.name, fed.rows.generation, fed.position) for fed in group]
        kinds = ("text", "integer", "bigint")
        columns = [array_of(kind)(c) for kind, c in zip(kinds, zip(*stood, strict=True), strict=True)]
        try:
            with nullcontext() if any(needs_copy(fed.rows) for fed in group) else self._connection.pipeline():
                flush(self._connection, *(fed.rows for fed in group))
                moved = self._connection.execute(
                    MOVE, (last.position, last.recorded_at, _lease.LEASE_S, *columns, self._zone)
                )
        except DATA as error:
            raise NotStored from error
        if moved.rowcount != len(group):
            raise CheckpointMoved

    def _moved(self, group: Sequence[Fed], records: Sequence[Record]) -> None:
        if records:
            for fed in group:
                fed.position = records[-1].position

    def _forget(self, group: Sequence[Fed]) -> None:
        for fed in group:
            fed.rows.forget()

    # Poison

    def _advance_alone(self, fed: Fed, upto: int) -> int:
        """Take a batch of this projection only, up to an event that is under suspicion. It is counted beforehand, so
        that whoever comes after its death knows that it was this one."""
        records: list[Record] = []
        noted = False
        try:
            with self._connection.transaction():
                if not self._lock([fed]):
                    return 0
                self._quarantine.note_batch(fed.key)
                noted = True
                records = before(fed.careful_from, self._tail(fed.position, upto=upto))
                with watchdog(FOLD_LIMIT_S):
                    self._fold(fed, records)
                self._quarantine.forget_batch(fed.key)
                self._store([fed], records)
        except HandlerFailed as failed:
            self._forget([fed])
            self._suspect(fed, failed.record, records)
            self._quarantine.forget(fed.key, BATCH_NOTE)
            return len(records)
        except NotStored:
            self._forget([fed])
            fed.alone, fed.careful_from, fed.careful_until = False, 0, records[-1].position
            self._quarantine.forget(fed.key, BATCH_NOTE)
            return len(records)
        except BaseException:
            self._forget([fed])
            if noted:
                self._quarantine.excuse(fed.key, BATCH_NOTE)
            raise
        fed.alone = False
        self._moved([fed], records)
        return len(records)

    def _suspect(self, fed: Fed, suspect: Record, records: Sequence[Record]) -> None:
        """The command that a handler failed at is to be taken by itself."""
        self._quarantine.suspect(fed.key, suspect)
        fed.careful_from = max(
            (r.position + 1 for r in ends(records) if r.position < suspect.position), default=0
        )
        fed.careful_until = min(r.position for r in ends(records) if r.position >= suspect.position)
        fed.alone = fed.position + 1 < fed.careful_from
        log.warning("handler_failed", projection=fed.projection.name, zone=self._zone, at=suspect.position)

    def _advance_carefully(self, fed: Fed) -> int:
        """Take events one by one. After enough attempts the one that fails is set aside, and the rest goes on."""
        records: list[Record] = []
        tried, noted = NOTHING, list[int]()
        try:
            with self._connection.transaction():
                if not self._lock([fed]):
                    return 0
                records = self._tail(fed.position, CAREFUL_BATCH)
                records = through(fed.careful_until, records)
                for record in records:
                    if record.type in fed.projection.handlers:
                        noted.append(record.position)
                        if self._attempt(fed, record, tried):
                            tried = record.position
                self._quarantine.forget_batch(fed.key)
                self._store([fed], records)
        except HandlerFailed as failed:
            self._forget([fed])
            self._suspect(fed, failed.record, records)
            reason = self._quarantine.note_error(fed.key, failed.record.position, failed)
            for before in noted[:-1]:
                self._quarantine.forget(fed.key, before)
            fed.quarantined = self._quarantine.streams(fed.key)
            log.warning(
                "attempt_failed",
                zone=self._zone,
                at=str(failed),
                error=reason,
                projection=fed.projection.name,
            )
            return 1
        except BaseException:
            self._forget([fed])
            if noted:
                self._quarantine.excuse(fed.key, noted[-1])
            raise
        self._quarantine.forget(fed.key, tried)
        if not records:
            fed.careful_until = 0
        self._moved([fed], records)
        return len(records)

    def _attempt(self, fed: Fed, record: Record, before: int) -> bool:
        """One event, or the marks of the rows that miss it where its stream is set aside; False when it is, too.
        The event `before` it did no harm."""
        is_later = record.stream in fed.quarantined
        most = 1 if is_later else MOST_ATTEMPTS - TRIED_WITH_OTHERS
        error = self._quarantine.tries(fed.key, record, most, before)
        if error is None and not is_later:
            with watchdog(CAREFUL_LIMIT_S):
                fold_batch(self._connection, fed.rows, [record])
            flush_one(self._connection, fed.rows, record)
            return True
        reason = error or fed.quarantined.reason(record.stream)
        if not is_later:
            log.error(
                "event_quarantined",
                zone=self._zone,
                position=record.position,
                projection=fed.projection.name,
                error=reason,
            )
        self._quarantine.set_aside(fed.rows, record, reason)
        fed.quarantined.add(record.stream, reason)
        return False
