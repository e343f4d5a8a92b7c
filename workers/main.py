"""The worker process, `fogbook work`: followers on Dramatiq, the sweeper, rebuilds, operators' acts and timers.

PostgreSQL and Valkey may both be away, at the start or later: everything here waits for them and goes on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dramatiq
import psycopg
import structlog

from ops import traces
from ops.pool import connect
from ops.pooled import find_direct
from ops.settings import Settings, SettingsIncomplete
from projections._engine import all_projections
from projections._follower import Follower
from workers._broker import Wakes, make_broker
from workers.acts import Acts
from workers.follow import Followers
from workers.sweep import Sweeper
from workers.timers import Timers

THREADS = 8
POLL_MS = 20
FOLLOWERS_STOP_WITHIN_S = 3.0
STOP_WITHIN_MS = 2_000

log = structlog.get_logger("fogbook.workers")


def work(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    with followers_of(settings) as make:
        _work(settings, make)


@contextmanager
def followers_of(settings: Settings) -> Iterator[Callable[..., Follower]]:
    """What makes followers: where traces are on, such as make spans of their batches."""
    with traces.tracing(settings, "fogbook-worker") as spans:
        if spans is None:
            yield Follower
        else:
            from workers._traced import traced_followers

            with traced_followers(spans, settings.redis_url) as make:
                yield make


def _work(settings: Settings, make: Callable[..., Follower]) -> None:
    if not settings.database_url:
        raise SettingsIncomplete("DATABASE_URL must be set.")
    if not settings.redis_url:
        raise SettingsIncomplete("REDIS_URL must be set.")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopping.set())

    wait_s = settings.database_wait_s

    def open_connection(bounded: bool = True) -> psycopg.Connection[Any]:
        return connect(settings.database_url, "fogbook worker", bounded=bounded, wait_s=2 * wait_s)

    find_direct(settings, stopping)
    all_projections()  # Imported by one thread, before several need them.
    broker = make_broker(settings.redis_url)
    followers = Followers(open_connection, Wakes(settings.redis_url), stopping, make)
    followers.declare(broker)
    # Clients of its own: the sweeper must not wait for a follower's.
    sweeper = Sweeper(open_connection, Wakes(settings.redis_url), stopping)
    loops = [followers.keep_flags, sweeper.run, sweeper.run_rebuilds, Acts(open_connection, stopping).run]
    worker_key = settings.worker_key.get_secret_value()
    if settings.api_url and worker_key:
        timers = Timers(open_connection, settings.api_url, worker_key, settings.pepper_bytes, stopping)
        loops.append(timers.run)
    else:
        log.warning("no_timers", reason="FOGBOOK_API_URL and FOGBOOK_WORKER_KEY are not both set")
    threads = [_start(loop) for loop in loops]
    worker = dramatiq.Worker(broker, worker_threads=THREADS, worker_timeout=POLL_MS)
    worker.start()
    log.info("worker_started", projections=list(all_projections()))
    stopping.wait()
    _stop(worker, followers, threads)


def _start(loop: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=loop, name=loop.__qualname__, daemon=True)
    thread.start()
    return thread


def _stop(worker: dramatiq.Worker, followers: Followers, threads: list[threading.Thread]) -> None:
    """Let followers give their leases back first; Valkey, which may be away, is not waited for long."""
    if not followers.finish(FOLLOWERS_STOP_WITHIN_S):
        log.warning("follower_does_not_stop")
    for thread in threads:
        thread.join(1.0)
    try:
        worker.stop(STOP_WITHIN_MS)
    except Exception as error:
        # Dramatiq returns messages to Valkey, which need not be there; the messages hold nothing.
        log.warning("worker_stop_failed", error=str(error))
    log.info("worker_stopped")
