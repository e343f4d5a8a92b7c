"""The actor behind a wake-up: it follows one zone's log for a while, then lets others have their turn.

While a follower is at work its zone's flag stands, so that nobody sends further wake-ups. The flag is kept by a
thread of its own: when Valkey hangs, followers go on.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dramatiq
import psycopg
import redis
import structlog

from ops.waits import AWAY
from projections._follower import Follower
from projections._quarantine import Excused
from projections._wanted import OPERATED
from workers._broker import QUEUE, Wakes

TENURE_S = 10.0
IDLE_S = 1.5
KEEP_FLAG_EVERY_S = 2.0
TIME_LIMIT_MS = 300_000

BEHIND = f"""
SELECT EXISTS (SELECT 1 FROM heads h JOIN checkpoints c USING (zone)
               WHERE zone = %s AND c.live AND c.position < h.position
                 AND (zone, c.projection) NOT IN (SELECT zone, projection FROM ({OPERATED}) held))
"""  # noqa: S608 - made of our own text only

log = structlog.get_logger("fogbook.workers")


class Followers:
    """The followers of this process, and the flags of the zones they are at work on."""

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        wakes: Wakes,
        stopping: threading.Event,
        make: Callable[..., Follower] = Follower,
    ) -> None:
        self._connect = connect
        self._make = make
        self._wakes = wakes
        self._stopping = stopping
        self._excused: Excused = set()
        self._zones: set[str] = set()
        self._lock = threading.Lock()

    def declare(self, broker: dramatiq.Broker) -> None:
        declare = dramatiq.actor(
            actor_name="follow", queue_name=QUEUE, broker=broker, max_retries=0, time_limit=TIME_LIMIT_MS
        )
        declare(self.follow)

    def follow(self, zone: str) -> None:
        """Follow the zone's log. Whatever goes wrong, the sweeper sends the next wake-up."""
        if self._stopping.is_set():
            return
        try:
            worked = self._tenure(zone)
        except AWAY as error:
            log.warning("database_unavailable", zone=zone, error=str(error))
            self._let_go(zone)
            return
        if worked:
            self._hand_over(zone)

    def _tenure(self, zone: str) -> bool:
        """False when another follower is at work, whose own the flag is then, or is to be."""
        follower = self._make(self._connect, zone, self._excused)
        try:
            if not follower.begin():
                return False
            with self._at_work(zone):
                try:
                    follower.run(TENURE_S, IDLE_S, self._stopping.is_set)
                finally:
                    follower.end()
            if follower.outdated:
                self._let_go(zone)  # The sweeper wakes somebody else, by and by.
            return not follower.outdated
        finally:
            follower.close()

    @contextmanager
    def _at_work(self, zone: str) -> Iterator[None]:
        self._zones.add(
            zone
        )  # Not under the lock: a follower never waits for Valkey while it holds its lease.
        try:
            yield
        finally:
            with self._lock:
                self._zones.discard(zone)

    def _hand_over(self, zone: str) -> None:
        """Clear the flag, then look once more: what was appended while it stood had nobody to wake."""
        try:
            self._wakes.clear_flag(zone)
            with self._connect() as connection:
                row = connection.execute(BEHIND, (zone,)).fetchone()
            if row is not None and row[0] and not self._stopping.is_set():
                self._wakes.send(zone)
        except (redis.RedisError, dramatiq.BrokerError, *AWAY) as error:
            log.warning("hand_over_failed", zone=zone, error=str(error))

    def _let_go(self, zone: str) -> None:
        """Whoever wakes a follower next is not to be held up by the flag of one that failed."""
        try:
            self._wakes.clear_flag(zone)
        except redis.RedisError as error:
            log.warning("flag_not_cleared", zone=zone, error=str(error))

    def keep_flags(self) -> None:
        """A thread: while followers are at work, nobody needs to wake them. It also says that this process is there."""
        name, since = f"{socket.gethostname()}:{os.getpid()}", time.time()
        while not self._stopping.wait(KEEP_FLAG_EVERY_S):
            # Under the lock, so that no flag is set again after its follower cleared it.
            with self._lock:
                try:
                    for zone in tuple(self._zones):
                        self._wakes.keep_flag(zone)
                    self._wakes.beat(name, since, tuple(self._zones))
                except redis.RedisError as error:
                    log.warning("flag_not_kept", error=str(error))

    def finish(self, timeout_s: float) -> bool:
        """Wait until no follower is at work; they were told to stop."""
        end = time.monotonic() + timeout_s
        while self._zones and time.monotonic() < end:
            time.sleep(0.02)
        return not self._zones
