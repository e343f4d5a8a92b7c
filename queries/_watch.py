"""Waiting until something has reached a position: one poll for all who wait, and none when nobody does.

A waiting request holds no database connection, so any number of them cannot starve those that could be answered.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ops.pool import Pool

LEAST_PAUSE_S = 0.003
MOST_PAUSE_S = 0.05

HEAD = ""
"""Stands for the log itself where a projection is named."""

PAST = "past/"
"""Stands before a projection's name where its archive is meant."""

NUMBER = "#"
"""Stands for the number of the newest command."""
SIGNED = {"events": "#events", "fates": "#fates"}
"""Stands for how much of a log is signed."""

POSITIONS = """
SELECT w.zone, w.projection,
       coalesce(c.position, CASE w.projection WHEN '#' THEN h.number ELSE h.position END, a.position, s.size, 0)
FROM unnest(%s::text[], %s::text[]) AS w(zone, projection)
LEFT JOIN checkpoints c ON c.zone = w.zone AND c.projection = w.projection AND c.live
LEFT JOIN heads h ON h.zone = w.zone AND w.projection IN ('', '#')
LEFT JOIN archives a ON a.zone = w.zone AND 'past/' || a.projection = w.projection AND a.live
LEFT JOIN LATERAL (SELECT size FROM signed_checkpoints WHERE zone = w.zone AND log = substr(w.projection, 2)
                   ORDER BY size DESC LIMIT 1) s ON starts_with(w.projection, '#')
"""

Place = tuple[str, str]
"""A zone and a projection, its archive, HEAD, NUMBER or one of SIGNED."""


class Stopping(Exception):
    """The server stops; nobody waits any longer."""


class Positions:
    """The positions of projections, logs and checkpoints, as far as somebody waits for them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: dict[Place, set[tuple[int, asyncio.Future[int]]]] = {}
        self._seen: dict[Place, int] = {}
        self._fresh = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None
        self._stopped = False

    async def reach(self, zone: str, projection: str, wanted: int, timeout_s: float) -> int:
        """The position, as soon as it is at least `wanted`; a lower one when the time is over.

        Raises Stopping, and psycopg.OperationalError when the database is away.
        """
        if self._stopped:
            raise Stopping
        place = (zone, projection)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiter = (wanted, future)
        self._waiting.setdefault(place, set()).add(waiter)
        self._fresh.set()
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="positions")
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            return self._seen.get(place, 0)
        finally:
            self._forget(place, waiter)

    def let_go(self) -> None:
        """Nobody waits any longer: the server stops."""
        self._stopped = True
        self._fail(Stopping())

    async def stop(self) -> None:
        self.let_go()
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)

    async def _poll(self) -> None:
        pause_s = LEAST_PAUSE_S
        try:
            while self._waiting:
                moved = await self._look()
                pause_s = LEAST_PAUSE_S if moved else min(pause_s * 1.2, MOST_PAUSE_S)
                self._fresh.clear()
                try:
                    async with asyncio.timeout(pause_s):
                        await self._fresh.wait()
                    pause_s = LEAST_PAUSE_S
                except TimeoutError:
                    pass
        except Exception as error:
            self._fail(error)

    async def _look(self) -> bool:
        """Ask once; True when a position had moved."""
        places = list(self._waiting)
        async with self._pool.connection() as connection:
            cursor = await connection.execute(POSITIONS, ([p[0] for p in places], [p[1] for p in places]))
            rows = await cursor.fetchall()
        moved = False
        for zone, projection, position in rows:
            place = (zone, projection)
            moved = moved or self._seen.get(place) != position
            self._seen[place] = position
            for wanted, future in self._waiting.get(place, ()):
                if position >= wanted and not future.done():
                    future.set_result(position)
        return moved

    def _forget(self, place: Place, waiter: tuple[int, asyncio.Future[int]]) -> None:
        waiters = self._waiting[place]
        waiters.discard(waiter)
        if not waiters:
            del self._waiting[place]
            self._seen.pop(place, None)

    def _fail(self, error: Exception) -> None:
        for waiters in self._waiting.values():
            for _, future in waiters:
                if not future.done():
                    future.set_exception(error)


@contextmanager
def on_stop_signals(react: Callable[[], None]) -> Iterator[None]:
    """React to the signals that stop the server, before it waits for its open responses to end by themselves.

    A server tells its application of the end only after that wait, so whoever follows live would use it up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    replaced: list[tuple[signal.Signals, Any, Any]] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)
        if callable(before):
            ours = _before(before, react, loop)
            signal.signal(number, ours)
            replaced.append((number, ours, before))
    try:
        yield
    finally:
        for number, ours, before in replaced:
            if signal.getsignal(number) is ours:
                signal.signal(number, before)


def _before(handler: Any, react: Callable[[], None], loop: asyncio.AbstractEventLoop) -> Any:
    def handle(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(react)
        handler(number, frame)

    return handle
