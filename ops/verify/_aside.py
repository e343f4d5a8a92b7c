"""Events that a read model has set aside: each is tried once more, for only one that fails may be missing there."""

from __future__ import annotations

import os
import signal
import time
from enum import IntEnum
from typing import Any, NamedTuple

import psycopg

from commands._codec import decode_json
from domain.operations import projections
from projections._engine import Record, Rows, fold, keys_of
from projections._quarantine import CAREFUL_LIMIT_S

QUARANTINED = """
SELECT position, stream, error, discarded FROM quarantine
WHERE zone = %s AND projection = %s AND generation = %s AND quarantined
"""

DISCARDED = """
SELECT data FROM events WHERE zone = %s AND stream = %s AND type = 'EventDiscarded'
"""

LOOK_EVERY_S = 0.002


class Aside(NamedTuple):
    """What is stored of an event that was set aside."""

    stream: str
    error: str
    discarded: bool


def discarded_in(connection: psycopg.Connection[Any], zone: str, projection: str) -> set[int]:
    """The positions of events of which an operator said in the log that the projection is to do without them."""
    rows = connection.execute(DISCARDED, (zone, projections.name(projection)))
    return {decode_json(data)["position"] for (data,) in rows}


class Ended(IntEnum):
    """How a trial ended; a process that ended itself in any other way was killed by its handler."""

    WELL = 87
    RAISED = 88
    DIED = -1


def attempt(rows: Rows, record: Record) -> Ended:
    """Fold an event in a copy of this process: whatever comes of it, rows stay as they are, and so does the verifier.

    A handler that does not come back within the follower's limit counts as one that died.
    """
    child = os.fork()
    if child == 0:
        code = Ended.RAISED
        try:
            keys_of(rows, [record])
            fold(rows, (record,))
            code = Ended.WELL
        finally:
            os._exit(code)  # Nothing of the parent, such as its connections, is closed here.
    return _ended(child, time.monotonic() + CAREFUL_LIMIT_S)


def _ended(child: int, until: float) -> Ended:
    try:
        while time.monotonic() < until:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                child = 0
                code = os.waitstatus_to_exitcode(status)
                return Ended(code) if code in (Ended.WELL, Ended.RAISED) else Ended.DIED
            time.sleep(LOOK_EVERY_S)
        return Ended.DIED
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
