"""A bound on how long a handler may take: an endless loop becomes an error, a stuck C call ends the process."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

EXIT_HUNG = 70
LOOK_EVERY_S = 0.1

log = structlog.get_logger("fogbook.projections")


class HandlerHung(Exception):
    """A handler did not come back in time."""


@dataclass(eq=False)
class _Guard:
    thread: int
    seconds: float
    took_s: float = 0.0
    interrupted: bool = False


_guards: set[_Guard] = set()
_lock = threading.Lock()


@contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """Raise HandlerHung in this thread after `seconds`; end the process when even that does not help.

    Ending the process is safe: what was not committed is done again, and counted as an attempt.
    """
    _start()
    guard = _Guard(threading.get_ident(), seconds)
    with _lock:
        _guards.add(guard)
    try:
        yield
    finally:
        with _lock:
            _guards.discard(guard)


@functools.cache
def _start() -> None:
    """One thread watches for all, for good: a thread a batch would cost a tenth of the batch."""
    threading.Thread(target=_watch, name="watchdog", daemon=True).start()


def _watch() -> None:
    while True:
        time.sleep(LOOK_EVERY_S)
        passed(LOOK_EVERY_S)


def passed(seconds: float) -> None:
    """So much time went by for all who are watched.

    What the watching thread slept beyond that counts for nobody: a machine that was asleep, or had no time for this
    process, says nothing about a handler.
    """
    with _lock:  # Held meanwhile, so that nobody is interrupted who has just come back.
        for guard in _guards:
            guard.took_s += seconds
            _look_at(guard)


def _look_at(guard: _Guard) -> None:
    if guard.took_s > 2 * guard.seconds:
        log.critical("handler_hung", seconds=guard.took_s)
        os._exit(EXIT_HUNG)
    elif guard.took_s > guard.seconds and not guard.interrupted:
        guard.interrupted = True
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(guard.thread), ctypes.py_object(HandlerHung)
        )
