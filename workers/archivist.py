"""The archivist, the process of `fogbook archive`: it signs checkpoints, and keeps past rows of read models.

PostgreSQL may be away, at the start or later: it waits and goes on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable
from typing import Any

import psycopg
import structlog

from ops.pool import connect, connect_as_signer
from ops.pooled import find_direct
from ops.settings import Settings, SettingsIncomplete
from ops.signed import SignedFolder
from ops.signing import log_origin
from workers.archive import Archive
from workers.checkpoints import Checkpoints

STOP_WITHIN_S = 3.0

log = structlog.get_logger("fogbook.workers")


def keep_archive(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    if not settings.database_url:
        raise SettingsIncomplete("DATABASE_URL must be set.")
    pepper, origin = settings.pepper_bytes, log_origin(settings)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopping.set())

    find_direct(settings, stopping)

    def as_signer() -> psycopg.Connection[Any]:
        return connect_as_signer(
            settings.database_url, "fogbook archivist", wait_s=2 * settings.database_wait_s
        )

    def unbounded() -> psycopg.Connection[Any]:
        return connect(settings.database_url, "fogbook archivist", bounded=False)

    keeper = SignedFolder(settings.signed.expanduser()) if settings.signed else None
    if keeper is None:
        log.warning("forks_go_unnoticed", reason="FOGBOOK_SIGNED names no folder that survives a restore.")
    checkpoints = Checkpoints(as_signer, pepper, origin, settings.checkpoint_every_s, stopping, keeper)
    loops = [checkpoints.run]
    if settings.archive:
        loops.append(Archive(unbounded, stopping).run)
    log.info("archivist_started", origin=origin, archive=settings.archive)
    if not run_all(loops, stopping):
        raise SystemExit(1)
    log.info("archivist_stopped")


def run_all(loops: Iterable[Callable[[], None]], stopping: threading.Event) -> bool:
    """Run each in a thread until told to stop; False when one failed, which ends all: they are started again."""
    failed = []

    def guarded(loop: Callable[[], None]) -> None:
        try:
            loop()
        except Exception as error:
            log.critical("archivist_failed", loop=loop.__qualname__, exc_info=error)
            failed.append(error)
            stopping.set()

    threads = [
        threading.Thread(target=guarded, args=(loop,), name=loop.__qualname__, daemon=True) for loop in loops
    ]
    for thread in threads:
        thread.start()
    stopping.wait()
    for thread in threads:
        thread.join(STOP_WITHIN_S)
    return not failed
