"""Dramatiq on Valkey: the broker, and the coalesced wake-ups that it carries.

Messages carry no data. A wake-up says that a zone has moved; while its flag stands, no further one is sent.
Losing any of it costs a moment at most: the truth is in the checkpoints, and the sweeper sends what was lost.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence

import dramatiq
import redis
import structlog
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AgeLimit, Callbacks, Retries, ShutdownNotifications, TimeLimit
from redis.backoff import NoBackoff
from redis.retry import Retry

NAMESPACE = "fogbook"
QUEUE = "fogbook"
WORKERS = "fogbook:worker:"
"""Behind it the name of a worker process: what it says of itself, as long as it is there."""
HEARD_MS = 10_000
FLAG_MS = 10_000
"""A flag that nobody cleared (its follower was killed) goes by itself."""
SEND_EVERY_S = 0.02

log = structlog.get_logger("fogbook.workers")


def make_broker(redis_url: str) -> RedisBroker:
    """A broker that gives a killed worker's message to another within seconds, not minutes."""
    broker = RedisBroker(  # type: ignore[no-untyped-call]
        client=client_of(redis_url),
        namespace=NAMESPACE,
        heartbeat_timeout=5_000,
        maintenance_chance=1_000_000,
        dead_message_ttl=3_600_000,
        middleware=[
            AgeLimit(max_age=60_000),
            TimeLimit(time_limit=3_600_000),
            ShutdownNotifications(notify_shutdown=True),
            Callbacks(),
            Retries(max_retries=0),
        ],
    )
    broker.declare_queue(QUEUE)
    return broker


def client_of(redis_url: str) -> redis.Redis:
    """A client that gives up within seconds."""
    return redis.Redis.from_url(
        redis_url,
        socket_timeout=2,
        socket_connect_timeout=1,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 0),  # Whoever calls decides whether to try again.
    )


def flag_name(zone: str) -> str:
    return f"fogbook:wake:{zone}"


class Wakes:
    """Sends wake-ups, at most one outstanding a zone."""

    def __init__(self, redis_url: str) -> None:
        self._broker = make_broker(redis_url)
        self._redis = client_of(redis_url)

    def send(self, zone: str) -> bool:
        """Wake the zone's follower; False when a wake-up is outstanding. Raises redis.RedisError."""
        if not self._redis.set(flag_name(zone), 1, nx=True, px=FLAG_MS):
            return False
        message: dramatiq.Message[None] = dramatiq.Message(
            queue_name=QUEUE, actor_name="follow", args=(zone,), kwargs={}, options={}
        )
        self._broker.enqueue(message)
        return True

    def keep_flag(self, zone: str) -> None:
        """While a follower is at work, nobody needs to wake it."""
        self._redis.set(flag_name(zone), 1, px=FLAG_MS)

    def beat(self, worker: str, since: float, zones: Sequence[str]) -> None:
        """Tell whoever looks that a worker process is there, and which zones it follows. Times are seconds since
        1970."""
        said = {"worker": worker, "since": since, "at": time.time(), "zones": sorted(zones)}
        self._redis.set(WORKERS + worker, json.dumps(said), px=HEARD_MS)

    def clear_flag(self, zone: str) -> None:
        self._redis.delete(flag_name(zone))

    def close(self) -> None:
        self._redis.close()
        self._broker.close()


class Waker:
    """Wakes followers after commits, from an event loop, without a command ever waiting for Valkey."""

    def __init__(self, redis_url: str) -> None:
        self._wakes = Wakes(redis_url)
        self._zones: set[str] = set()
        self._moved = asyncio.Event()
        self._quiet_until = 0.0

    def moved(self, zone: str, position: int) -> None:
        self._zones.add(zone)
        self._moved.set()

    async def run(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            zones, self._zones = self._zones, set()
            await asyncio.to_thread(self._send, zones)
            await asyncio.sleep(SEND_EVERY_S)

    def _send(self, zones: set[str]) -> None:
        if time.monotonic() < self._quiet_until:
            return  # The sweeper sends it once Valkey is back.
        try:
            for zone in zones:
                self._wakes.send(zone)
        except (redis.RedisError, dramatiq.BrokerError) as error:
            self._quiet_until = time.monotonic() + 0.5
            log.warning("wake_up_failed", error=str(error))

    def close(self) -> None:
        self._wakes.close()
