"""What every page says of the installation itself: that read models are being rebuilt, that Valkey does not answer."""

from __future__ import annotations

import time

import psycopg

from ops.limits import Limits
from ops.pool import Pool

KEPT_S = 5.0
"""So long what was found counts, for all readers."""

REBUILT = """
SELECT array_agg(DISTINCT n.projection ORDER BY n.projection) FROM checkpoints n
JOIN checkpoints c ON (c.zone, c.projection) = (n.zone, n.projection) AND c.live AND c.generation < n.generation
WHERE n.zone = %s AND NOT n.live
"""
ALONE = (
    "Valkey does not answer. What is shown here is complete; read models follow the log more slowly, and each process"
    " applies the limits by itself."
)


class Notices:
    def __init__(self, pool: Pool, limits: Limits) -> None:
        self._pool = pool
        self._limits = limits
        self._found: dict[str, tuple[float, tuple[str, ...]]] = {}

    async def of(self, zone: str) -> tuple[str, ...]:
        until, found = self._found.get(zone, (0.0, ()))
        if until < time.monotonic():
            found = await self._look(zone)
            self._found[zone] = (time.monotonic() + KEPT_S, found)
        return found

    async def _look(self, zone: str) -> tuple[str, ...]:
        found = []
        try:
            async with self._pool.connection() as connection:
                row = await (await connection.execute(REBUILT, (zone,))).fetchone()
        except psycopg.Error:
            row = None  # Each panel says so itself.
        if row and row[0]:
            found.append(
                f"Being rebuilt: {', '.join(row[0])}. Until that is done, figures are those of the former rows, which"
                " are kept up to date."
            )
        if not await self._limits.rates.reaches_valkey():
            found.append(ALONE)
        return tuple(found)
