"""Connections to PostgreSQL on which nobody waits beyond a deadline.

A link may go silent without ending: a proxy or a router forgets it, and nothing tells either side. The kernel's own
deadlines see only what is not acknowledged, so each wait for the server has one of its own here. A connection that
misses it is closed, not used again: what it still owes nobody knows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Any, Self, TypeVar

import psycopg
from psycopg import waiting
from psycopg.abc import PQGen
from psycopg.errors import ConnectionTimeout, _WaitTimeout

T = TypeVar("T")

WAIT_S = 5.0
"""How long anything waits for the database where no setting says otherwise (`FOGBOOK_DATABASE_WAIT_S`)."""
LOOK_EVERY_S = 0.1
"""How exactly a deadline is kept."""
MOST_SILENT_LOOKS = 2

GIVING_UP: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""So that a connection whose other end is gone ends as well, whoever waits for it (s, s, s, number, ms)."""

AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
    psycopg.errors.ReadOnlySqlTransaction,
)
"""How it shows that the database is away or takes nothing for now, whatever was asked of it. psycopg counts the last
ones among its caller's errors: a process that was stopped in a transaction has lost it, a server that stands by takes
no writes."""

AT_WORK = """
SELECT state = 'active' AND wait_event_type IS DISTINCT FROM 'Client' FROM pg_stat_activity WHERE pid = %s
"""
BACKEND = "SELECT pg_backend_pid()"


class DatabaseSilent(psycopg.OperationalError):
    """The database did not answer in time; what became of the statement is unknown, and the connection closed."""


def connection_options(role: str | None = None, wait_s: float = WAIT_S) -> str:
    """Bounds that keep a stopped process from holding a zone's head for long. The server gives up first: what it
    then says is known, and the connection stays."""
    settings = {
        "statement_timeout": str(int(900 * wait_s)),
        "lock_timeout": str(int(800 * wait_s)),
        "idle_in_transaction_session_timeout": "5000",
        "timezone": "UTC",
    }
    if role:
        settings["role"] = role
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


class AsyncConnection(psycopg.AsyncConnection[Any]):
    """A connection for an event loop. Whoever is cancelled while he waits leaves it closed."""

    wait_s = WAIT_S

    @classmethod
    async def connect(cls, conninfo: str = "", *, wait_s: float = WAIT_S, **terms: Any) -> Self:  # type: ignore[override]
        """Within `wait_s`; raises psycopg.OperationalError."""
        try:
            async with asyncio.timeout(wait_s):
                made = await super().connect(conninfo, **GIVING_UP, **terms)
        except TimeoutError:
            raise ConnectionTimeout("the database takes no connection in time") from None
        made.wait_s = wait_s
        return made

    async def wait(  # psycopg's own signature
        self,
        gen: PQGen[T],
        interval: float = LOOK_EVERY_S,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> T:
        if timeout is not None:
            return await super().wait(gen, interval, timeout)
        try:
            # The interval's timer is there anyway: the deadline costs nothing.
            return await waiting.wait_async(
                gen, self.pgconn.socket, interval=min(interval, self.wait_s), timeout=self.wait_s
            )
        except _WaitTimeout:
            self.pgconn.finish()
            raise DatabaseSilent("the database did not answer in time") from None
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise


class Connection(psycopg.Connection[Any]):
    """A connection for threads. Without `wait_s` it is for long work: that lasts as long as the server is at it."""

    wait_s: float | None = WAIT_S
    _url = ""
    _backend = 0
    """The server's process; 0 where the deadline is what counts, or where a pooler stands in between."""

    @classmethod
    def connect(cls, conninfo: str = "", *, wait_s: float | None = WAIT_S, **terms: Any) -> Self:  # type: ignore[override]
        made = super().connect(conninfo, **(GIVING_UP | terms))
        made.wait_s = WAIT_S if wait_s is None else wait_s
        if wait_s is None:
            row = made.execute(BACKEND).fetchone()
            made._url, made.wait_s = conninfo, None
            made._backend = row[0] if row and row[0] == made.info.backend_pid else 0
            if not made.autocommit:
                made.rollback()
        return made

    def wait(self, gen: PQGen[T], interval: float = LOOK_EVERY_S, timeout: float | None = None) -> T:
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        if self.wait_s is None:
            return super().wait(self._watched(gen) if self._backend else gen, interval)
        try:
            return super().wait(gen, interval, self.wait_s)
        except _WaitTimeout:
            self.pgconn.finish()
            raise DatabaseSilent("the database did not answer in time") from None

    def _watched(self, gen: PQGen[T]) -> Generator[Any, Any, T]:
        """The same, asking from outside whether the server is still at it whenever it was silent for long."""
        heard, idle = time.monotonic(), 0
        try:
            waits = next(gen)
            while True:
                ready = yield waits
                now = time.monotonic()
                if ready:
                    heard, idle = now, 0
                elif now - heard > WAIT_S:
                    idle = 0 if self._is_at_work() else idle + 1
                    heard = time.monotonic()
                    if idle >= MOST_SILENT_LOOKS:
                        self.pgconn.finish()
                        raise DatabaseSilent("the database has nothing to do for us, and says nothing")
                waits = gen.send(ready)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _is_at_work(self) -> bool:
        try:
            with Connection.connect(self._url, autocommit=True) as other:
                row = other.execute(AT_WORK, (self._backend,)).fetchone()
        except psycopg.Error:
            return False
        return row is not None and row[0] is not False
