"""A bound on how long a handler may take: an endless loop becomes an error, a stuck C call ends the process."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

EXIT_HUNG = 70

log = structlog.get_logger("fogbook.projections")


class HandlerHung(Exception):
    """A handler did not come back in time."""


@contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """Raise HandlerHung in this thread after `seconds`; end the process when even that does not help.

    Ending the process is safe: what was not committed is done again, and counted as an attempt.
    """
    thread = threading.get_ident()
    lock = threading.Lock()
    done = False

    def interrupt() -> None:
        with lock:
            if not done:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread), ctypes.py_object(HandlerHung)
                )

    def give_up() -> None:
        with lock:
            if not done:
                log.critical("handler_hung", seconds=2 * seconds)
                os._exit(EXIT_HUNG)

    timers = [threading.Timer(seconds, interrupt), threading.Timer(2 * seconds, give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        with lock:
            done = True
        for timer in timers:
            timer.cancel()
