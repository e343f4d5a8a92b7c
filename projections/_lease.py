"""The lease of a zone's follower: it spares useless work, and tells that a predecessor died. Nothing else rests on it.

A lease that ran out without being given back was a dead follower's. So is one whose session is gone, which is seen at
once: for as long as a follower is connected it holds a lock that ends with its session. A pooler may keep the session,
and the lock with it; then the lease has to run out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg

LEASE_S = 3
TRIES = 5

LOCK_CLASS = 7_045_061
HOLD = "SELECT pg_try_advisory_lock_shared(%s, hashtext(%s))"
RELEASE = "SELECT pg_advisory_unlock_shared(%s, hashtext(%s))"

IS_HELD = f"""
EXISTS (
    SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid = {LOCK_CLASS} AND l.objsubid = 2
      AND l.objid = (hashtext({{zone}})::bigint & 4294967295)::oid AND l.pid <> pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
"""  # noqa: S608
"""Whether the session of another follower of the zone is there."""

TAKE = f"""
WITH mine AS (
    SELECT zone, projection, generation, tenure FROM checkpoints
    WHERE zone = %(zone)s AND live
      AND (tenure IS NULL OR tenure < clock_timestamp() OR NOT {IS_HELD.format(zone="%(zone)s")})
    FOR UPDATE
)
UPDATE checkpoints c SET tenure = clock_timestamp() + make_interval(secs => %(lease_s)s)
FROM mine WHERE (c.zone, c.projection, c.generation) = (mine.zone, mine.projection, mine.generation)
RETURNING c.projection, c.generation, c.position, mine.tenure IS NOT NULL,
    CASE WHEN EXISTS (
        SELECT 1 FROM digests d
        WHERE (d.zone, d.projection, d.generation) = (c.zone, c.projection, c.generation)
    ) THEN c.code END
"""  # noqa: S608

LEASED = "SELECT 1 FROM checkpoints WHERE zone = %s AND live AND tenure >= clock_timestamp()"

KEEP = """
UPDATE checkpoints SET tenure = clock_timestamp() + make_interval(secs => %s)
WHERE zone = %s AND live AND projection = ANY(%s)
"""

GIVE_BACK = "UPDATE checkpoints SET tenure = NULL WHERE zone = %s AND projection = ANY(%s) AND live"


class Lease:
    """Of one follower, over the connection that it works on."""

    def __init__(self, connection: psycopg.Connection[Any], zone: str) -> None:
        self._connection = connection
        self._zone = zone

    def take(self) -> list[Any]:
        """Each projection that is free: its name, generation and position, whether its follower died, and the code of
        its rows where they have a digest. Nothing where another follower is at work."""
        self._connection.execute(HOLD, (LOCK_CLASS, self._zone))
        for _ in range(TRIES):
            wanted = {"zone": self._zone, "lease_s": LEASE_S}
            taken = self._connection.execute(TAKE, wanted).fetchall()
            if taken or self._connection.execute(LEASED, (self._zone,)).fetchone():
                return taken
            # Otherwise a rebuild was just swapping generations.
        return []

    def keep(self, names: Iterable[str]) -> None:
        self._connection.execute(KEEP, (LEASE_S, self._zone, list(names)))

    def give_back(self, names: Iterable[str]) -> None:
        self._connection.execute(GIVE_BACK, (self._zone, list(names)))
        self.release()

    def release(self) -> None:
        self._connection.execute(RELEASE, (LOCK_CLASS, self._zone))
