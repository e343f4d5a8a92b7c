"""Following a zone's log: reads the tail once, feeds every projection, commits rows and checkpoint together.

Exclusion rests on the checkpoint row (`FOR UPDATE SKIP LOCKED` and compare-and-set), so a second follower, a
killed one or one with a skewed clock can do no harm. The lease in `tenure` only spares useless work, and tells
that a predecessor died: then events are taken one command at a time, and each attempt is counted beforehand.
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

from commands._codec import stored_types
from projections._arrays import array_of
from projections._digest import to_bytes
from projections._engine import HandlerFailed, Projection, Record, all_projections, fold, keys_of
from projections._stored import StoredRows, flush, fold_batch, load_for, needs_copy
from projections._watchdog import HandlerHung, watchdog

BATCH = 2_000
MOST_ATTEMPTS = 5
TRIES = 5
LEASE_S = 3
RAISED = "raised: "
FOLD_LIMIT_S = 10.0
CAREFUL_LIMIT_S = 3.0

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

TAKE_LEASE = """
WITH mine AS (
    SELECT zone, projection, generation, tenure FROM checkpoints
    WHERE zone = %s AND live AND (tenure IS NULL OR tenure < clock_timestamp())
    FOR UPDATE
)
UPDATE checkpoints c SET tenure = clock_timestamp() + make_interval(secs => %s)
FROM mine WHERE (c.zone, c.projection, c.generation) = (mine.zone, mine.projection, mine.generation)
RETURNING c.projection, c.generation, c.position, mine.tenure IS NOT NULL,
    CASE WHEN EXISTS (
        SELECT 1 FROM digests d
        WHERE (d.zone, d.projection, d.generation) = (c.zone, c.projection, c.generation)
    ) THEN c.code END
"""

LEASED = "SELECT 1 FROM checkpoints WHERE zone = %s AND live AND tenure >= clock_timestamp()"

KEEP_LEASE = """
UPDATE checkpoints SET tenure = clock_timestamp() + make_interval(secs => %s)
WHERE zone = %s AND live AND projection = ANY(%s)
"""

GIVE_BACK = "UPDATE checkpoints SET tenure = NULL WHERE zone = %s AND projection = ANY(%s) AND live"

LOCK = """
SELECT projection, generation, position FROM checkpoints
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
FROM events WHERE zone = %s AND position > %s ORDER BY position LIMIT %s
"""

QUARANTINED_STREAMS = """
SELECT DISTINCT stream FROM quarantine
WHERE zone = %s AND projection = %s AND generation = %s AND quarantined
"""

NOTE_ATTEMPT = """
INSERT INTO quarantine (zone, projection, generation, position, stream, attempts, quarantined, error)
VALUES (%s, %s, %s, %s, %s, 1, false, 'its worker died')
ON CONFLICT (zone, projection, generation, position) DO UPDATE SET attempts = quarantine.attempts + 1
RETURNING attempts, error
"""

NOTE_ERROR = """
UPDATE quarantine SET error = %s WHERE zone = %s AND projection = %s AND generation = %s AND position = %s
"""

FORGET_ATTEMPT = """
DELETE FROM quarantine
WHERE zone = %s AND projection = %s AND generation = %s AND position = %s AND NOT quarantined
"""

QUARANTINE = """
INSERT INTO quarantine (zone, projection, generation, position, stream, attempts, quarantined, error)
VALUES (%s, %s, %s, %s, %s, 0, true, %s)
ON CONFLICT (zone, projection, generation, position) DO UPDATE SET quarantined = true
"""


class CheckpointMoved(Exception):
    """Somebody else moved the checkpoint meanwhile; nothing of this batch was kept."""


@dataclass
class Fed:
    """One projection that this follower feeds, with the rows that it keeps in memory."""

    projection: Projection
    rows: StoredRows
    position: int
    careful_until: int = 0
    """Up to here events are taken one command at a time."""
    quarantined: set[str] = field(default_factory=set)

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


def read_tail(connection: psycopg.Connection[Any], zone: str, after: int, limit: int = BATCH) -> list[Record]:
    """The next events, up to the end of a command: nobody ever sees half of one."""
    while True:
        with connection.cursor(binary=True) as cursor:
            cursor.execute(TAIL, (zone, after, limit))
            records = list(starmap(Record, cursor.fetchall()))
        full = len(records) == limit
        while full and records and not records[-1].ends_command:
            records.pop()
        if records or not full:
            return records
        limit *= 2


class Follower:
    """Feeds the projections of one zone; not for concurrent use. `connect` gives autocommit connections."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], zone: str) -> None:
        self._connect = connect
        self._connection = connect()
        self._second: psycopg.Connection[Any] | None = None
        self._zone = zone
        self._fed: dict[str, Fed] = {}

    # Tenure

    def begin(self) -> bool:
        """Take the lease; False when another follower is at work."""
        stored_types()  # To import the domain takes its time, which must not count as that of the first handler.
        ensure_checkpoints(self._connection, self._zone)
        known = all_projections()
        taken: list[Any] = []
        for _ in range(TRIES):
            taken = self._connection.execute(TAKE_LEASE, (self._zone, LEASE_S)).fetchall()
            if taken or self._connection.execute(LEASED, (self._zone,)).fetchone():
                break  # Otherwise a rebuild was just swapping generations.
        for name, generation, position, predecessor_died, code in taken:
            if name not in known or known[name].code != code:
                continue  # A rebuild by today's code, or for a digest, is due; the sweeper asks for it.
            rows = StoredRows(known[name], self._zone, generation)
            fed = Fed(known[name], rows, position)
            streams = self._connection.execute(QUARANTINED_STREAMS, fed.key).fetchall()
            fed.quarantined = {row[0] for row in streams}
            if predecessor_died:
                fed.careful_until = min(self._head(), position + BATCH)
                log.warning("predecessor_died", zone=self._zone, projection=name, position=position)
            self._fed[name] = fed
        return bool(self._fed)

    def keep(self) -> None:
        self._connection.execute(KEEP_LEASE, (LEASE_S, self._zone, list(self._fed)))

    def end(self) -> None:
        """Give the lease back."""
        self._connection.execute(GIVE_BACK, (self._zone, list(self._fed)))

    def close(self) -> None:
        self._connection.close()
        if self._second is not None:
            self._second.close()

    def run(self, tenure_s: float, idle_s: float, stop: Callable[[], bool], poll_s: float = 0.003) -> None:
        """Follow for a bounded time, less when nothing happens."""
        end = time.monotonic() + tenure_s
        last = kept = time.monotonic()
        seen = -1
        while (now := time.monotonic()) < end and now - last < idle_s and not stop():
            head = self._head()
            if head != seen and self.advance():
                last = now
            seen = head if self.caught_up(head) else -1
            if now - kept > LEASE_S / 3:
                self.keep()
                kept = now
            if seen == head:
                # Young silence is polled closely, older silence less so.
                time.sleep(min(poll_s + (now - last) / 50, 0.02))

    def caught_up(self, head: int) -> bool:
        return all(fed.position >= head for fed in self._fed.values())

    def _head(self) -> int:
        row = self._connection.execute(HEAD, (self._zone,)).fetchone()
        return int(row[0]) if row else 0

    # Batches

    def advance(self) -> int:
        """One pass over what is new; returns how many events were read. Projections at one position share it."""
        read = 0
        standing: dict[int, list[Fed]] = {}
        for fed in self._fed.values():
            if fed.position < fed.careful_until:
                read += self._advance_carefully(fed)
            else:
                standing.setdefault(fed.position, []).append(fed)
        for group in standing.values():
            read += self._advance_together(group)
        return read

    def _advance_together(self, group: Sequence[Fed]) -> int:
        failed: Fed | None = None
        records: list[Record] = []
        try:
            with self._connection.transaction():
                locked = self._lock(group)
                if not locked:
                    return 0
                records = read_tail(self._connection, self._zone, locked[0].position)
                with watchdog(FOLD_LIMIT_S):
                    for fed in locked:
                        failed = fed
                        self._fold(fed, records)
                failed = None
                self._store(locked, records)
        except HandlerFailed as error:
            self._forget(group)
            assert failed is not None
            failed.careful_until = records[-1].position
            log.warning("handler_failed", projection=failed.projection.name, at=str(error), zone=self._zone)
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
        for name, generation, position in rows:
            fed = self._fed[name]
            if generation != fed.rows.generation:  # A rebuild swapped generations meanwhile.
                fed.rows = StoredRows(fed.projection, self._zone, generation)
                fed.quarantined = set()
                fed.careful_until = 0
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
                self._quarantine(fed, record, "an earlier event of its stream is quarantined")

    def _store(self, group: Sequence[Fed], records: Sequence[Record]) -> None:
        """Write rows and checkpoints, in one round trip where nothing needs COPY."""
        if not records:
            return
        last = records[-1]
        stood = [(fed.projection.name, fed.rows.generation, fed.position) for fed in group]
        kinds = ("text", "integer", "bigint")
        columns = [array_of(kind)(c) for kind, c in zip(kinds, zip(*stood, strict=True), strict=True)]
        with nullcontext() if any(needs_copy(fed.rows) for fed in group) else self._connection.pipeline():
            flush(self._connection, *(fed.rows for fed in group))
            moved = self._connection.execute(
                MOVE, (last.position, last.recorded_at, LEASE_S, *columns, self._zone)
            )
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

    def _advance_carefully(self, fed: Fed) -> int:
        """Take one command's events. Each attempt is counted before it is made, so that a handler that kills
        its worker is counted too; after MOST_ATTEMPTS the event is set aside and the rest goes on."""
        records: list[Record] = []
        try:
            with self._connection.transaction():
                if not self._lock([fed]):
                    return 0
                records = read_tail(self._connection, self._zone, fed.position)
                end = next((i for i, r in enumerate(records, 1) if r.ends_command), len(records))
                records = records[:end]
                for record in records:
                    self._attempt(fed, record)
                self._store([fed], records)
        except HandlerFailed as failed:
            self._forget([fed])
            hung = isinstance(failed.__cause__, HandlerHung)
            reason = ("hung: " if hung else RAISED) + repr(failed.__cause__)
            self._connection.execute(NOTE_ERROR, (reason, *fed.key, failed.record.position))
            log.warning("attempt_failed", at=str(failed), error=reason, projection=fed.projection.name)
            return 1
        except BaseException:
            self._forget([fed])
            raise
        if not records:
            fed.careful_until = 0
        self._moved([fed], records)
        return len(records)

    def _attempt(self, fed: Fed, record: Record) -> None:
        if record.type not in fed.projection.handlers:
            return
        if record.stream not in fed.quarantined:
            place = (*fed.key, record.position)
            noted = self._notes.execute(NOTE_ATTEMPT, (*place, record.stream)).fetchone()
            assert noted is not None
            attempts, error = noted
            if attempts <= MOST_ATTEMPTS:
                with watchdog(CAREFUL_LIMIT_S):
                    fold_batch(self._connection, fed.rows, [record])
                self._notes.execute(FORGET_ATTEMPT, place)
                return
            log.error(
                "event_quarantined", position=record.position, projection=fed.projection.name, error=error
            )
            fed.quarantined.add(record.stream)
            self._quarantine(fed, record, error, mark=error.startswith(RAISED))
            return
        self._quarantine(fed, record, "an earlier event of its stream is quarantined")

    @property
    def _notes(self) -> psycopg.Connection[Any]:
        """A second connection: attempts are counted outside the transaction that may be lost with us."""
        if self._second is None:
            self._second = self._connect()
        return self._second

    def _quarantine(self, fed: Fed, record: Record, reason: str, mark: bool = True) -> None:
        """Set an event aside, and mark the rows that miss it. To learn which those are means to run its handler
        on blank rows; that is not tried again with one that hung or killed its worker."""
        self._connection.execute(QUARANTINE, (*fed.key, record.position, record.stream, reason))
        if mark:
            fed.rows.connection = self._connection
            fed.rows.position = record.position
            for row, keys in keys_of(fed.rows, [record]).items():
                for key in keys:
                    fed.rows.of(row, *key).incomplete = True
