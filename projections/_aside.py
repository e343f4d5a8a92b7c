"""What a rebuild passes over: events that an operator discarded, and, where only one stream is to be taken in again,
those that are set aside in the others.

The new generation says of them what the old one says, so its digest names the positions that it misses.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from projections._engine import Record, Rows, fold
from projections._quarantine import DIED, HUNG, Key, Streams, mark_incomplete
from projections._stored import StoredRows, load_for
from projections._wanted import DISCARDED

MISSING = f"""
SELECT q.position, q.stream, q.attempts, q.error, q.stack, d.event IS NOT NULL, q.first_at
FROM quarantine q JOIN checkpoints c USING (zone, projection, generation)
LEFT JOIN ({DISCARDED}) d ON (d.zone, d.projection, d.event) = (q.zone, q.projection, q.position)
WHERE q.zone = %s AND q.projection = %s AND c.live AND q.quarantined ORDER BY q.position
"""  # noqa: S608 - made of our own text only

STORE = """
INSERT INTO quarantine
    (zone, projection, generation, position, stream, attempts, quarantined, error, stack, discarded, first_at)
SELECT %s, %s, %s, position, stream, attempts, true, error, stack, discarded, coalesce(first_at, now())
FROM unnest(%s::bigint[], %s::text[], %s::integer[], %s::text[], %s::text[], %s::boolean[], %s::timestamptz[])
    AS m(position, stream, attempts, error, stack, discarded, first_at)
ON CONFLICT DO NOTHING
"""


class Missing(NamedTuple):
    """An event that a read model is without."""

    position: int
    stream: str
    attempts: int
    error: str
    stack: str = ""
    discarded: bool = False
    first_at: datetime | None = None


class Aside:
    """Of one rebuild."""

    def __init__(self, missing: Iterable[Missing] = ()) -> None:
        self._at = {each.position: each for each in missing}
        self._streams = Streams()
        self._found: list[Missing] = []

    @classmethod
    def of(
        cls, connection: psycopg.Connection[Any], zone: str, projection: str, but: int | None = None
    ) -> Aside:
        """What was discarded. With `but`, the position of an event, also what is set aside in other streams than its
        own."""
        missing = [Missing(*row) for row in connection.execute(MISSING, (zone, projection))]
        if but is None:
            return cls(each for each in missing if each.discarded)
        again = next((each.stream for each in missing if each.position == but), "")
        return cls(each for each in missing if each.discarded or each.stream != again)

    def fold(self, rows: Rows, records: Iterable[Record]) -> None:
        """Raises HandlerFailed."""
        if not self._at:
            fold(rows, records)
            return
        run: list[Record] = []
        for record in records:
            if record.position in self._at or record.stream in self._streams:
                fold(rows, run)
                run.clear()
                self._pass_over(rows, record)
            else:
                run.append(record)
        fold(rows, run)

    def fold_batch(
        self, connection: psycopg.Connection[Any], rows: StoredRows, records: list[Record]
    ) -> None:
        load_for(connection, rows, [r for r in records if r.position not in self._at])
        self.fold(rows, records)

    def _pass_over(self, rows: Rows, record: Record) -> None:
        """The rows that miss it are marked, as the follower does."""
        if record.type not in rows.projection.handlers:
            return
        missing = self._at.get(record.position)
        if missing is None:
            missing = Missing(record.position, record.stream, 0, self._streams.reason(record.stream))
        if not missing.discarded:
            self._streams.add(record.stream, missing.error)
        if not missing.error.startswith((HUNG, DIED)):
            mark_incomplete(rows, record)
        self._found.append(missing)

    def store(self, connection: psycopg.Connection[Any], key: Key) -> None:
        """Say of the new generation what it misses, with the rows that miss it."""
        if self._found:
            connection.execute(STORE, (*key, *map(list, zip(*self._found, strict=True))))
            self._found.clear()
