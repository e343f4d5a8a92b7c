"""Keeping archives: each follows its live projection, chunk by chunk, and is built anew when its ground changes.

An archive's code is that of its handlers, and of the events that the live projection set aside: when either differs,
the next generation begins at position 0, and takes over once it stands where the one before it stood. How far each has
come is in `archives`, so whatever was under way goes on after a restart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
import structlog
from psycopg import sql

from projections._archive import StoredPastRows, archive_chunk, past_name
from projections._engine import Projection, Record, all_projections
from projections._follower import known_of, read_tail
from projections._rebuild import paused_collector

CHUNK = 10_000
MOST_SWEPT = 10_000
"""Rows of one table that are removed at once."""
MOST_ZONES_IN_MEMORY = 4

log = structlog.get_logger("fogbook.archive")

_FINGERPRINT = """
SELECT left(encode(sha256(convert_to(string_agg(q.position::text, ',' ORDER BY q.position), 'UTF8')), 'hex'), 16)
FROM quarantine q WHERE q.zone = {place}.zone AND q.projection = {place}.projection AND q.quarantined
"""

LOOK = f"""
SELECT c.zone, c.projection, c.generation, c.position, a.generation, a.position, a.live, a.code,
       ({_FINGERPRINT.format(place="c")} AND q.generation = c.generation AND q.position <= a.position),
       (SELECT min(o.generation) FROM archives o WHERE (o.zone, o.projection) = (c.zone, c.projection)),
       (SELECT o.position FROM archives o WHERE (o.zone, o.projection) = (c.zone, c.projection) AND o.live)
FROM checkpoints c JOIN unnest(%s::text[], %s::text[]) AS known(projection, code) USING (projection, code)
LEFT JOIN LATERAL (
    SELECT * FROM archives WHERE (zone, projection) = (c.zone, c.projection) ORDER BY generation DESC LIMIT 1
) a ON true
WHERE c.live ORDER BY c.zone, c.projection
"""  # noqa: S608 - made of our own text only

BEGIN = """
INSERT INTO archives (zone, projection, generation, code, live)
SELECT %(zone)s, %(projection)s, coalesce(max(generation), 0) + 1, %(code)s, count(*) = 0
FROM archives WHERE zone = %(zone)s AND projection = %(projection)s
ON CONFLICT DO NOTHING
"""

LOCK = """
SELECT 1 FROM archives
WHERE zone = %s AND projection = %s AND generation = %s AND position = %s FOR UPDATE SKIP LOCKED
"""

# In one statement, for both must be of one moment: a rebuild takes the quarantine of the generation before it away.
SET_ASIDE = """
SELECT q.position, q.error FROM checkpoints c
LEFT JOIN quarantine q ON q.zone = c.zone AND q.projection = c.projection AND q.generation = c.generation
     AND q.quarantined AND q.position > %s AND q.position <= %s
WHERE c.zone = %s AND c.projection = %s AND c.live AND c.generation = %s
"""

MOVE = f"""
UPDATE archives a SET position = %s, recorded_at = %s, updated_at = clock_timestamp(),
    code = concat_ws('-', %s::text, ({_FINGERPRINT.format(place="a")} AND q.generation = %s AND q.position <= %s))
WHERE zone = %s AND projection = %s AND generation = %s AND position = %s
"""  # noqa: S608

LOCK_ALL = """
SELECT generation, position, live FROM archives
WHERE zone = %s AND projection = %s ORDER BY generation FOR UPDATE
"""

# Two statements in this order: only one archive may be live at a time, at the end of each.
RETIRE = "UPDATE archives SET live = false WHERE zone = %s AND projection = %s AND live"
PROMOTE = "UPDATE archives SET live = true WHERE zone = %s AND projection = %s AND generation = %s"

DROP_OLDER = "DELETE FROM archives WHERE zone = %s AND projection = %s AND generation < %s AND NOT live"


class Place(NamedTuple):
    """Where the newest archive of a projection stands, and the live projection."""

    zone: str
    projection: str
    live_generation: int
    live_position: int
    generation: int | None
    position: int
    live: bool
    code: str
    fingerprint: str | None
    """Of the events set aside up to the archive's position."""
    oldest: int
    served: int
    """How far the archive has come that answers now."""

    @property
    def wanted(self) -> str:
        code = all_projections()[self.projection].code
        return f"{code}-{self.fingerprint}" if self.fingerprint else code

    @property
    def key(self) -> tuple[str, str, int]:
        assert self.generation is not None
        return self.zone, self.projection, self.generation


class Archives:
    """The archives of all zones; not for concurrent use."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._rows: OrderedDict[str, dict[str, StoredPastRows]] = OrderedDict()
        self._stand: dict[tuple[str, str], tuple[int, int]] = {}
        """For which generation and position the rows in memory are good."""

    def look(self) -> list[Place]:
        """All places, of projections whose live generation is of today's code; others are rebuilt first."""
        projections = all_projections()
        codes = [p.code for p in projections.values()]
        return [Place(*row) for row in self._connection.execute(LOOK, (list(projections), codes))]

    def begin(self, place: Place) -> bool:
        """Where there is no archive yet, or its ground has changed, begin the next one."""
        if place.generation is not None and (
            place.code == place.wanted or place.live_position < place.position
        ):
            return False
        code = all_projections()[place.projection].code
        log.info("archive_begins", zone=place.zone, projection=place.projection, code=code)
        self._connection.execute(BEGIN, {"zone": place.zone, "projection": place.projection, "code": code})
        return True

    # Chunks

    def read(self, zone: str, position: int) -> list[Record]:
        """The next chunk of whole commands."""
        return known_of(read_tail(self._connection, zone, position, CHUNK))

    def advance(self, place: Place, records: Sequence[Record]) -> int:
        """Archive what the live projection has folded of these records; returns how many. Raises HandlerFailed."""
        own = [r for r in records if r.position <= place.live_position]
        rows = self._rows_for(place)
        try:
            with self._connection.transaction(), paused_collector():
                if not own or not self._archive(place, rows, own):
                    return 0
        except BaseException:
            rows.forget()
            self._stand.pop((place.zone, place.projection), None)
            raise
        assert place.generation is not None
        self._stand[place.zone, place.projection] = (place.generation, own[-1].position)
        return len(own)

    def _archive(self, place: Place, rows: StoredPastRows, records: Sequence[Record]) -> bool:
        last = records[-1]
        if self._connection.execute(LOCK, (*place.key, place.position)).fetchone() is None:
            return False
        found = self._connection.execute(
            SET_ASIDE,
            (place.position, last.position, place.zone, place.projection, place.live_generation),
        ).fetchall()
        if not found:  # A rebuild swapped generations meanwhile.
            return False
        set_aside = {position: error for position, error in found if position is not None}
        archive_chunk(self._connection, rows, records, set_aside)
        code = all_projections()[place.projection].code
        values = (last.position, last.recorded_at, code, place.live_generation, last.position)
        moved = self._connection.execute(MOVE, (*values, *place.key, place.position))
        assert moved.rowcount == 1, "it was locked"
        return True

    def _rows_for(self, place: Place) -> StoredPastRows:
        """The rows in memory, if they are good for where the archive stands."""
        of_zone = self._rows.setdefault(place.zone, {})
        self._rows.move_to_end(place.zone)
        while len(self._rows) > MOST_ZONES_IN_MEMORY:
            self._rows.popitem(last=False)
        rows = of_zone.get(place.projection)
        stand = self._stand.get((place.zone, place.projection))
        if rows is None or stand != (place.generation, place.position):
            assert place.generation is not None
            projection = all_projections()[place.projection]
            rows = of_zone[place.projection] = StoredPastRows(projection, place.zone, place.generation)
        return rows

    # Generations

    def swap(self, place: Place) -> bool:
        """Let the newest archive answer, once it stands where the one before it stands."""
        if place.generation is None or place.live or place.position < place.served:
            return False
        with self._connection.transaction():
            found = self._connection.execute(LOCK_ALL, (place.zone, place.projection)).fetchall()
            newest, position, _ = found[-1]
            if newest != place.generation or any(live and stood > position for _, stood, live in found):
                return False
            self._connection.execute(RETIRE, (place.zone, place.projection))
            self._connection.execute(PROMOTE, place.key)
        log.info("archive_rebuilt", zone=place.zone, projection=place.projection, generation=newest)
        return True

    def sweep(self, place: Place) -> bool:
        """Remove some of what older archives hold, once a newer one answers."""
        if not place.live or place.oldest == place.generation:
            return False
        projection = all_projections()[place.projection]
        if not any(self._sweep(place, statement) for statement in _sweep_statements(projection)):
            self._connection.execute(DROP_OLDER, place.key)
        return True

    def _sweep(self, place: Place, statement: sql.Composed) -> int:
        return self._connection.execute(statement, (place.zone, place.generation, MOST_SWEPT)).rowcount


def _sweep_statements(projection: Projection) -> list[sql.Composed]:
    return [
        sql.SQL(
            "DELETE FROM {table} WHERE ctid = ANY(ARRAY("
            "SELECT ctid FROM {table} WHERE zone = %s AND generation < %s LIMIT %s))"
        ).format(table=sql.SQL(past_name(table)))
        for table in projection.tables
    ]
