"""Many connections that see one moment of the database, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from ops import waits
from ops.home import Refused

R = TypeVar("R")
Connection = psycopg.Connection[Any]

AHEAD = 2
"""Tasks that wait at each other process, so that it is never idle."""
MOST_WAITING = 64
"""Results that wait for those before them."""

ONE_MOMENT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
FOR_LONG = "SET LOCAL idle_in_transaction_session_timeout = 0"


class Readers:
    """Runs tasks `(connection, *arguments)`: here, or spread over processes that import this snapshot."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._others = 0
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Readers:
        connection = self._connection
        connection.execute(ONE_MOMENT)
        connection.execute(FOR_LONG)
        return self

    def spread(self, processes: int) -> None:
        """Let so many processes run the tasks, this one included."""
        self._others = processes - 1
        connection = self._connection
        if self._others:
            row = connection.execute("SELECT pg_export_snapshot()").fetchone()
            assert row is not None
            info = connection.info
            url = make_conninfo(info.dsn, password=info.password) if info.password else info.dsn
            self._pool = ProcessPoolExecutor(
                self._others, multiprocessing.get_context("spawn"), _join, (url, row[0])
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, task: Callable[..., R], arguments: Iterable[tuple[Any, ...]]) -> Iterator[R]:
        """The tasks' results in order. This process works as well: others take a second to begin."""
        left = iter(arguments)
        waiting: deque[Future[R]] = deque()
        try:
            while True:
                missing = self._others * AHEAD - sum(not each.done() for each in waiting)
                waiting += (self._submit(task, each) for each in islice(left, max(missing, 0)))
                if waiting and (waiting[0].done() or len(waiting) >= MOST_WAITING):
                    yield waiting.popleft().result()
                elif (own := next(left, None)) is not None:
                    waiting.append(_done(task(self._connection, *own)))
                elif waiting:
                    yield waiting.popleft().result()
                else:
                    return
        except BrokenProcessPool as error:
            raise Refused("A process that read the log has died.") from error

    def _submit(self, task: Callable[..., R], arguments: tuple[Any, ...]) -> Future[R]:
        assert self._pool is not None, "there are others"
        return self._pool.submit(_run, task, arguments)


def _done(result: R) -> Future[R]:
    future: Future[R] = Future()
    future.set_result(result)
    return future


# In the processes

_joined: Connection | None = None


def _join(url: str, snapshot: str) -> None:
    """Begin a transaction that sees what the first one sees; it lasts as long as the process."""
    global _joined
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Whoever presses Ctrl-C means the process that began.
    _joined = waits.Connection.connect(url, wait_s=None)
    _joined.execute(ONE_MOMENT)
    _joined.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
    _joined.execute(FOR_LONG)


def _run(task: Callable[..., R], arguments: tuple[Any, ...]) -> R:
    assert _joined is not None, "the process has begun"
    return task(_joined, *arguments)
