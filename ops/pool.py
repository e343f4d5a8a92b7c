"""Connections to the database, one by one and in pools, with deadlines on everything."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from select import POLLIN, poll
from typing import Any

import psycopg
from prometheus_client import Counter, Gauge
from psycopg.pq import TransactionStatus

from ops.settings import APP_ROLE, SIGNER_ROLE, Settings
from ops.waits import WAIT_S, AsyncConnection, Connection, DatabaseSilent, connection_options

WORK_S = 2 * WAIT_S
"""Work in the background takes longer than anything that a person waits for."""
MOST_WAITING = 1_000
MOST_AGE_S = 3_600.0
"""What a server's process remembers of its statements grows: a connection is used for an hour."""

IDLE = TransactionStatus.IDLE

SIZE = Gauge("fogbook_pool_size", "Connections that a pool may open", ["pool"])
IN_USE = Gauge("fogbook_pool_in_use", "Connections of a pool at work", ["pool"])
WAITING = Gauge("fogbook_pool_waiting", "Requests that wait for a connection", ["pool"])
REFUSED = Counter("fogbook_pool_refused_total", "Requests that got no connection in time", ["pool"])


class NoConnection(psycopg.OperationalError):
    """All connections are in use, and none came free in time."""


class Pool:
    """Connections that are opened when they are needed: whoever asks for one tries the database himself.

    So nobody is told that it is away once it is there again, and nobody waits while it is not. Where one connection
    goes silent, those that were idle meanwhile go with it, and so do those in use as they come back: they went the
    same way, and each of them would cost somebody his deadline.
    """

    def __init__(self, conninfo: str, size: int, wait_s: float = WAIT_S, **terms: Any) -> None:
        self._conninfo = conninfo
        self._wait_s = wait_s
        self._terms = terms
        self.name = str(terms.get("application_name", ""))
        self.size = self._free = size
        self._idle: list[tuple[float, AsyncConnection]] = []
        """With the time at which each was opened; the last one back is the first one out."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._suspected_at = 0.0
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """Raises psycopg.OperationalError when there is none in time."""
        await self._turn()
        begun = time.monotonic()
        opened, connection = begun, None
        try:
            opened, connection = self._kept() or (begun, await self._open())
            yield connection
        except DatabaseSilent:
            self._suspect()
            raise
        finally:
            if connection is not None:
                await self._take_back(opened, begun, connection)
            self._let_next()

    @property
    def in_use(self) -> int:
        return self.size - self._free

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def close(self) -> None:
        """Connections in use are closed when they come back."""
        self._closed = True
        await self._drop_idle()

    async def _turn(self) -> None:
        if self._free > 0:
            self._free -= 1
            return
        if len(self._waiting) >= MOST_WAITING:
            REFUSED.labels(self.name).inc()
            raise NoConnection("too many wait for a connection")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._let_next()
            if isinstance(error, TimeoutError):
                REFUSED.labels(self.name).inc()
                raise NoConnection("no connection came free in time") from None
            raise

    def _let_next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _kept(self) -> tuple[float, AsyncConnection] | None:
        while self._idle:
            opened, connection = self._idle.pop()
            if not _has_ended(connection):
                return opened, connection
            connection.pgconn.finish()
        return None

    async def _open(self) -> AsyncConnection:
        return await AsyncConnection.connect(self._conninfo, wait_s=self._wait_s, **self._terms)

    async def _take_back(self, opened: float, begun: float, connection: AsyncConnection) -> None:
        usable = not connection.closed and connection.pgconn.transaction_status == IDLE
        fresh = begun > self._suspected_at and time.monotonic() - opened < MOST_AGE_S
        if usable and fresh and not self._closed:
            self._idle.append((opened, connection))
        else:
            await connection.close()

    def _suspect(self) -> None:
        self._suspected_at = time.monotonic()
        for _, connection in self._idle:
            connection.pgconn.finish()
        self._idle.clear()

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop()[1].close()


def _has_ended(connection: AsyncConnection) -> bool:
    """An idle connection has nothing to say but that its server ends it; to ask it would cost a round trip."""
    said = poll()
    said.register(connection.fileno(), POLLIN)
    return bool(said.poll(0))


_open: set[Pool] = set()


def measure_pools() -> None:
    """Tell how busy this process's pools are, now."""
    for pool in list(_open):
        SIZE.labels(pool.name).set(pool.size)
        IN_USE.labels(pool.name).set(pool.in_use)
        WAITING.labels(pool.name).set(pool.waiting)


@asynccontextmanager
async def open_pool(settings: Settings, name: str, size: int) -> AsyncIterator[Pool]:
    pool = Pool(
        settings.database_url,
        size,
        settings.database_wait_s,
        autocommit=True,
        prepare_threshold=1 if settings.prepare_statements else None,
        application_name=name,
        options=connection_options(APP_ROLE, settings.database_wait_s),
    )
    _open.add(pool)
    try:
        yield pool
    finally:
        _open.discard(pool)
        await pool.close()


def connect(database_url: str, name: str, *, bounded: bool = True, wait_s: float = WORK_S) -> Connection:
    """One autocommit connection in Fogbook's role; `bounded=False` for long maintenance."""
    return _connect(database_url, name, APP_ROLE, bounded, wait_s)


def connect_as_signer(
    database_url: str, name: str, *, bounded: bool = True, wait_s: float = WORK_S
) -> Connection:
    """The same in the role that signs."""
    return _connect(database_url, name, SIGNER_ROLE, bounded, wait_s)


def _connect(database_url: str, name: str, role: str, bounded: bool, wait_s: float) -> Connection:
    options = connection_options(role, wait_s)
    if not bounded:
        options += " -c statement_timeout=0"
    return Connection.connect(
        database_url,
        wait_s=wait_s if bounded else None,
        autocommit=True,
        application_name=name,
        options=options,
    )
