"""Which span accepted which position, told by sequencers to followers through Valkey.

The log stores the same bytes whether somebody traces or not, so the way from a command to what folds its events is not
in it. A follower knows the positions of its batch: it looks up here whose they were. Neither waits for Valkey, and a
note that is lost costs a span.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import redis
import structlog

KEPT_S = 60
MOST_KEPT = 10_000
"""Of a zone, in Valkey."""
MOST_WAITING = 1_000
GATHER_S = 0.01
LOOK_AFTER_S = 0.25
"""What was noted is there by then, although followers may be faster than the note."""

SAY_EVERY_S = 60.0

log = structlog.get_logger("fogbook.traces")


def trail_name(zone: str) -> str:
    return f"fogbook:trail:{zone}"


class Trail:
    """Of a process that sequences, or that follows: a thread sends its notes, or looks others' up."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._waiting: deque[Callable[[], None]] = deque(maxlen=MOST_WAITING)
        self._work = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trail", daemon=True)
        self._said_at = -SAY_EVERY_S
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._work.set()
        self._thread.join(2.0)
        self._redis.close()

    def note(self, zone: str, accepted: list[tuple[int, str]]) -> None:
        """The ends of commands, each with the traceparent of the span that had it."""
        members = {f"{position} {traceparent}": position for position, traceparent in accepted}

        def send() -> None:
            name = trail_name(zone)
            self._redis.zadd(name, members)
            self._redis.zremrangebyrank(name, 0, -MOST_KEPT - 1)
            self._redis.expire(name, KEPT_S)

        self._later(send)

    def find(self, zone: str, after: int, upto: int, most: int, found: Callable[[list[str]], None]) -> None:
        """Call `found` with the traceparents of commands that ended behind `after` and not behind `upto`, if any."""

        def look() -> None:
            self._closing.wait(LOOK_AFTER_S)
            noted: Any = self._redis.zrangebyscore(trail_name(zone), after + 1, upto, start=0, num=most)
            if noted:
                found([member.decode().partition(" ")[2] for member in noted])

        self._later(look)

    def _later(self, work: Callable[[], None]) -> None:
        self._waiting.append(work)
        self._work.set()

    def _run(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            self._closing.wait(GATHER_S)
            while self._waiting:
                try:
                    self._waiting.popleft()()
                except redis.RedisError as error:
                    self._lost(error)
            if self._closing.is_set():
                return

    def _lost(self, error: redis.RedisError) -> None:
        if time.monotonic() - self._said_at >= SAY_EVERY_S:
            self._said_at = time.monotonic()
            log.warning("trail_lost", error=str(error))
