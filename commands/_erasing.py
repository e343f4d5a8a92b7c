"""What a zone's log says is erased is erased: the keys there of those whose erasure was recorded are destroyed.

The recorded act comes first, the destruction after it. A process that ends in between leaves a key behind; it is
found here, at the next start or by another process that runs, because the log is asked and not a list of what is left
to do. The same holds for a folder that was brought back from a copy.
"""

from __future__ import annotations

import asyncio

import psycopg
import structlog

from commands._subjects import Keyring, KeyringUnavailable
from ops.pool import Pool

LOOK_EVERY_S = 10.0

HEADS = "SELECT zone, position FROM heads"
ERASED = """
SELECT substr(stream, length('principal:') + 1) FROM events
WHERE zone = %s AND position > %s AND stream >= 'principal:' AND stream < 'principal;' AND type = 'SubjectErased'
ORDER BY position
"""

log = structlog.get_logger("fogbook.commands")


class Eraser:
    """Looks at every zone's log from where it looked last."""

    def __init__(self, pool: Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._keyring = keyring
        self._seen: dict[str, int] = {}

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except (psycopg.Error, KeyringUnavailable) as error:
                log.warning("erasures_wait", error=str(error))
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Destroy the keys of all who were erased since the last look, or ever: in each zone those that it recorded."""
        async with self._pool.connection() as connection:
            heads = await (await connection.execute(HEADS)).fetchall()
            for zone, position in heads:
                seen = self._seen.get(zone, 0)
                if position > seen:
                    rows = await (await connection.execute(ERASED, (zone, seen))).fetchall()
                    for (principal,) in rows:
                        await asyncio.to_thread(self._keyring.destroy, zone, principal)
                    self._seen[zone] = position
