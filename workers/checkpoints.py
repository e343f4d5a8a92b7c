"""Signs checkpoints: of every zone that has moved at an interval, and at once where somebody waits for one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import structlog

from projections._kept import Keeper
from projections._transparency import Signed, Unsignable, extend_and_sign

LOOK_EVERY_S = 0.1
AGAIN_S = 1.0
"""Until the next attempt, where the database is away or a tree may not be signed."""

MOST_SAID = 1_000

# Sizes beyond what a log can have by now are not waited for here: they would never be reached.
WANTED = """
SELECT DISTINCT h.zone
FROM heads h
LEFT JOIN trees t USING (zone)
LEFT JOIN LATERAL (SELECT size FROM signed_checkpoints s WHERE s.zone = t.zone AND s.log = t.log
                   ORDER BY size DESC LIMIT 1) signed ON true
LEFT JOIN LATERAL (SELECT ordinal FROM attestations a WHERE a.zone = t.zone AND t.log = 'fates'
                   ORDER BY ordinal DESC LIMIT 1) last ON true
WHERE t.zone IS NULL
   OR least(t.wanted, CASE t.log WHEN 'events' THEN h.position ELSE h.number + coalesce(last.ordinal, 0) END)
      > coalesce(signed.size, 0)
"""

# Where everything stands that a checkpoint or an attestation speaks of.
ZONES = """
SELECT h.zone, (h.position, h.number, k.keys, c.generations, c.updated_at)::text
FROM heads h
CROSS JOIN LATERAL (SELECT count(*) + count(retired_at) AS keys FROM signing_keys k WHERE k.zone = h.zone) k
CROSS JOIN LATERAL (SELECT sum(generation) AS generations, max(updated_at) AS updated_at
                    FROM checkpoints c WHERE c.zone = h.zone AND c.live) c
ORDER BY h.zone
"""

REFUSED = "UPDATE trees SET refused = %s WHERE zone = %s"

log = structlog.get_logger("fogbook.workers")


class Checkpoints:
    """One thread, over one connection at a time."""

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        pepper: bytes,
        origin: str,
        every_s: float,
        stopping: threading.Event,
        keeper: Keeper | None = None,
    ) -> None:
        self._connect = connect
        self._pepper = pepper
        self._origin = origin
        self._every_s = every_s
        self._stopping = stopping
        self._keeper = keeper
        self._connection: psycopg.Connection[Any] | None = None
        self._due = 0.0
        self._stood: dict[str, str] = {}
        """Where zones stood when they were signed last."""
        self._not_before: dict[str, float] = {}
        """Zones whose trees may not or cannot be signed, and until when that is not tried again."""

    def run(self) -> None:
        """A thread: sign until told to stop, whatever is away meanwhile."""
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            pause_s = LOOK_EVERY_S
            try:
                self.look()
            except psycopg.Error as error:
                log.warning("checkpoints_failed", error=str(error))
                self.close()
                pause_s = AGAIN_S
        self.close()

    def look(self) -> None:
        """Sign what is due: all that has moved at the interval, what is waited for or new in between."""
        if self._connection is None:
            self._connection = self._connect()
        if time.monotonic() >= self._due:
            for zone, stands in self._connection.execute(ZONES).fetchall():
                if self._stood.get(zone) != stands and self._sign(self._connection, zone, attesting=True):
                    self._stood[zone] = stands
            self._due = time.monotonic() + self._every_s
        for (zone,) in self._connection.execute(WANTED).fetchall():
            self._sign(self._connection, zone, attesting=False)

    def _sign(self, connection: psycopg.Connection[Any], zone: str, attesting: bool) -> bool:
        """Whether it could be done."""
        if self._stopping.is_set() or time.monotonic() < self._not_before.get(zone, 0.0):
            return False
        try:
            signed = extend_and_sign(
                connection, self._pepper, self._origin, zone, attesting=attesting, keeper=self._keeper
            )
        except Exception as error:
            if connection.closed:  # Then it is not the zone that is broken.
                raise
            # Somebody has to look at it; until then nothing of this zone is signed, and the others go on.
            trace = None if isinstance(error, Unsignable) else error
            log.critical(
                "nothing_is_signed",
                zone=zone,
                reason=str(error),
                kind=type(error).__name__,
                exc_info=trace,
            )
            self._not_before[zone] = time.monotonic() + max(self._every_s, AGAIN_S)
            said = f"{type(error).__name__}: {error}".replace("\0", "")[:MOST_SAID]
            connection.execute(REFUSED, (said, zone))
            return False
        self._not_before.pop(zone, None)
        if new := [name for name, each in signed.items() if each.is_new]:
            log.debug("signed", zone=zone, logs=new, sizes=_sizes(signed))
        return True

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _sizes(signed: dict[str, Signed]) -> dict[str, int]:
    return {name: each.size for name, each in signed.items()}
