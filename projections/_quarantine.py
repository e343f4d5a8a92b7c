"""Events that are set aside, and how often those were tried that are under suspicion.

Attempts are counted over a connection of their own, outside the transaction that may be lost with the worker, and
before they are made: so a handler that kills its worker is counted too. What the database failed at, is taken back.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg
import structlog

from ops.waits import AWAY
from projections._engine import HandlerFailed, Record, Rows, keys_of
from projections._stored import StoredRows
from projections._watchdog import HandlerHung, watchdog

MOST_ATTEMPTS = 5
"""An event that fails is tried no more often than this, by whomever."""
TRIED_WITH_OTHERS = 2
"""So often a handler may have failed at it before anybody knew that it was this event: in a batch of all projections,
and in one of its own."""
CAREFUL_LIMIT_S = 3.0

RAISED = "raised: "
HUNG = "hung: "
DIED = "its worker died"
EARLIER = "an earlier event of its stream is quarantined"

MOST_ERROR = 2_000
MOST_STACK = 4_000
"""Characters that are kept of it."""

BATCH = 0
"""Stands for the position where a whole batch behind the checkpoint is tried."""
NOTHING = -1
"""Stands for the position where there is no attempt to forget."""

Key = tuple[str, str, int]
"""Zone, projection and generation."""

Excused = set[tuple[Key, int]]
"""Attempts of this process that are to be taken back as soon as the database allows."""

log = structlog.get_logger("fogbook.projections")

STREAMS = """
SELECT stream, error FROM quarantine
WHERE zone = %s AND projection = %s AND generation = %s AND quarantined AND NOT discarded ORDER BY position
"""

SUSPECTS = """
SELECT position FROM quarantine
WHERE zone = %s AND projection = %s AND generation = %s AND NOT quarantined ORDER BY position
"""

NOTE = """
WITH gone AS (
    DELETE FROM quarantine
    WHERE zone = %s AND projection = %s AND generation = %s AND position = %s AND NOT quarantined
)
INSERT INTO quarantine (zone, projection, generation, position, stream, attempts, quarantined, error)
VALUES (%s, %s, %s, %s, %s, 1, false, %s)
ON CONFLICT (zone, projection, generation, position) DO UPDATE SET attempts = quarantine.attempts + 1
RETURNING attempts, error
"""

SUSPECT = """
INSERT INTO quarantine (zone, projection, generation, position, stream, attempts, quarantined, error)
VALUES (%s, %s, %s, %s, %s, 0, false, %s) ON CONFLICT DO NOTHING
"""

NOTE_ERROR = """
UPDATE quarantine SET error = %s, stack = %s WHERE zone = %s AND projection = %s AND generation = %s AND position = %s
"""

FORGET = """
DELETE FROM quarantine
WHERE zone = %s AND projection = %s AND generation = %s AND position = %s AND NOT quarantined
"""

FORGET_PASSED = """
DELETE FROM quarantine q USING checkpoints c
WHERE c.zone = %s AND c.live AND (q.zone, q.projection, q.generation) = (c.zone, c.projection, c.generation)
  AND NOT q.quarantined AND (q.position BETWEEN 1 AND c.position OR q.position = 0 AND q.projection = ANY(%s))
"""

TAKE_BACK = """
WITH gone AS (
    DELETE FROM quarantine
    WHERE zone = %s AND projection = %s AND generation = %s AND position = %s AND NOT quarantined AND attempts <= 1
)
UPDATE quarantine SET attempts = attempts - 1
WHERE zone = %s AND projection = %s AND generation = %s AND position = %s AND NOT quarantined AND attempts > 1
"""

SET_ASIDE = """
INSERT INTO quarantine (zone, projection, generation, position, stream, attempts, quarantined, error)
VALUES (%s, %s, %s, %s, %s, 0, true, %s)
ON CONFLICT (zone, projection, generation, position)
DO UPDATE SET quarantined = true, error = excluded.error
"""


class Suspects(NamedTuple):
    """What attempts left behind whose worker died."""

    batch: bool
    """Whether it died over a batch of which nobody knows which event it was."""
    position: int
    """The event that it died at, or 0."""


class Streams:
    """The streams of one projection of which an event is set aside: all later ones are, too."""

    def __init__(self) -> None:
        self._broken: set[str] = set()
        self._untouched: set[str] = set()
        """Those of which a later event hung or killed its worker as well: none of them is run again."""

    def add(self, stream: str, error: str) -> None:
        if stream in self._broken and error.startswith((HUNG, DIED)):
            self._untouched.add(stream)
        self._broken.add(stream)

    def __contains__(self, stream: str) -> bool:
        return stream in self._broken

    def __bool__(self) -> bool:
        return bool(self._broken)

    def reason(self, stream: str) -> str:
        """Why a later event is set aside."""
        return f"{HUNG}so did others of its stream" if stream in self._untouched else EARLIER


class Quarantine:
    """Of one follower; `connect` gives autocommit connections, the first one is that of its batches. `excused` outlives
    it: a database that failed may well not take anything back."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        connect: Callable[[], psycopg.Connection[Any]],
        excused: Excused,
    ) -> None:
        self._connection = connection
        self._connect = connect
        self._excused = excused
        self._second: psycopg.Connection[Any] | None = None

    @property
    def _notes(self) -> psycopg.Connection[Any]:
        if self._second is None:
            self._second = self._connect()
            # A note that is lost with the whole server costs one attempt more; to wait for the disk, all the time.
            self._second.execute("SET synchronous_commit = off")
        return self._second

    def close(self) -> None:
        if self._second is not None:
            self._second.close()

    def streams(self, key: Key) -> Streams:
        streams = Streams()
        for stream, error in self._connection.execute(STREAMS, key):
            streams.add(stream, error)
        return streams

    # Attempts

    def suspects(self, key: Key) -> Suspects:
        """What a predecessor left that died."""
        noted = [position for (position,) in self._connection.execute(SUSPECTS, key).fetchall()]
        suspect = next((position for position in noted if position != BATCH), 0)
        if suspect and BATCH in noted:
            self.forget(key, BATCH)
        return Suspects(BATCH in noted and not suspect, suspect)

    def forget_passed(self, zone: str, ended_well: Sequence[str]) -> None:
        """Attempts at events that are behind the checkpoint, and at batches of projections that nobody died over, mean
        nothing any more, whyever they are still there."""
        self._connection.execute(FORGET_PASSED, (zone, list(ended_well)))

    def suspect(self, key: Key, record: Record) -> None:
        """Whoever comes next knows, also where the batch's connection was lost while the handler hung."""
        self._notes.execute(SUSPECT, (*key, record.position, record.stream, DIED))

    def note_batch(self, key: Key) -> None:
        self._notes.execute(NOTE, (*key, NOTHING, *key, BATCH, "", DIED))

    def forget(self, key: Key, position: int) -> None:
        if position != NOTHING:
            self._notes.execute(FORGET, (*key, position))

    def forget_batch(self, key: Key) -> None:
        """With the batch itself, in its transaction."""
        self._connection.execute(FORGET, (*key, BATCH))

    def excuse(self, key: Key, position: int) -> None:
        """The last attempt says nothing of the event: it is the database that failed."""
        self._excused.add((key, position))
        with suppress(*AWAY):
            self.take_back(key[0])

    def take_back(self, zone: str) -> None:
        """Count no longer what was excused."""
        for key, position in [each for each in self._excused.copy() if each[0][0] == zone]:
            self._notes.execute(TAKE_BACK, (*key, position, *key, position))
            self._excused.discard((key, position))

    def note_error(self, key: Key, position: int, failed: HandlerFailed) -> str:
        reason, stack = told(failed)
        self._connection.execute(NOTE_ERROR, (reason, stack, *key, position))
        return reason

    def tries(self, key: Key, record: Record, most: int, before: int) -> str | None:
        """Count an attempt, and forget that of the event `before`; what became of the last one, where there were
        enough of them."""
        place = (*key, record.position, record.stream, DIED)
        noted = self._notes.execute(NOTE, (*key, before, *place)).fetchone()
        assert noted is not None
        return noted[1] if noted[0] > most else None

    # Setting aside

    def set_aside(self, rows: StoredRows, record: Record, reason: str) -> None:
        """Set an event aside, and mark the rows that miss it. To learn which those are means to run its handler on
        blank rows; that is not tried again with one that hung or killed its worker. Raises HandlerFailed."""
        key = rows.zone, rows.projection.name, rows.generation
        if not reason.startswith((HUNG, DIED)):
            rows.connection = self._connection
            mark_incomplete(rows, record)
        self._connection.execute(SET_ASIDE, (*key, record.position, record.stream, reason))


def mark_incomplete(rows: Rows, record: Record) -> None:
    """Mark the rows that miss an event. Raises HandlerFailed."""
    rows.position = record.position
    with watchdog(CAREFUL_LIMIT_S):
        found = keys_of(rows, [record])
    for row, keys in found.items():
        for each in keys:
            rows.of(row, *each).incomplete = True


def told(failed: HandlerFailed) -> tuple[str, str]:
    """Why a handler failed, and where: the end of its stack."""
    cause = failed.__cause__
    assert cause is not None, "it is raised from what the handler raised"
    reason = (HUNG if isinstance(cause, HandlerHung) else RAISED) + repr(cause)
    return plain(reason[:MOST_ERROR]), plain("".join(traceback.format_exception(cause))[-MOST_STACK:])


def plain(text: str) -> str:
    """As PostgreSQL stores it."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


# Whole commands


def before(position: int, records: list[Record]) -> list[Record]:
    """Whole commands that end before a position; all of them where that is behind."""
    if not records or position <= records[0].position:
        return records
    while records and (records[-1].position >= position or not records[-1].ends_command):
        records.pop()
    return records


def through(position: int, records: list[Record]) -> list[Record]:
    """Up to the end of the command that a position is in."""
    end = next((i for i, r in enumerate(records, 1) if r.position >= position and r.ends_command), None)
    return records[:end]


def ends(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.ends_command]
