"""Rates that processes share: each leases tokens from Valkey in chunks, ahead of need, and spends them by itself.

A bucket holds `burst` tokens and gets `per_s` new ones a second (GCRA: all of its state is the time at which it will be
full again). A process spends its first chunk on credit and charges it with the first lease, so nobody waits for Valkey
who has not just spent a whole chunk. All processes together admit at most `burst + per_s * seconds`, and a chunk more
for each process. While Valkey is away each process applies the rate by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis
import structlog
from prometheus_client import Gauge
from redis.backoff import NoBackoff
from redis.retry import Retry

CHUNKS = 20
"""A chunk is so small a part of the burst."""
MOST_BUCKETS = 20_000
MOST_A_CALL = 500
MOST_ROUNDS = 8
PAUSE_S = 0.02
"""Between calls of Valkey, as long as nobody waits for one."""
WAIT_S = 0.1
"""How long a request waits for a lease; then the process applies the rate by itself."""
QUIET_S = 1.0
"""Valkey was away: how long until it is asked again."""

SHARED = Gauge("fogbook_rates_shared", "1 while rates are shared with other processes through Valkey")

log = structlog.get_logger("fogbook.limits")

# What `charged` does, for any number of buckets at once and by Valkey's clock. A clock that was set back must not keep
# a bucket empty for ever; one that was wiped is at least as empty as whoever asks knows (`missing`, in us).
TAKE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local answer = {}
for i, key in ipairs(KEYS) do
  local interval, burst, worth = tonumber(ARGV[6*i-5]), tonumber(ARGV[6*i-4]), tonumber(ARGV[6*i-3])
  local missing, owed, wanted = tonumber(ARGV[6*i-2]), tonumber(ARGV[6*i-1]), tonumber(ARGV[6*i])
  local full_at = math.max(now + math.max(0, missing), tonumber(redis.call('GET', key) or now))
  full_at = math.min(full_at + owed * interval, now + 2 * burst * interval)
  local free = math.floor((now - full_at) / interval + burst + 0.000001)
  local granted = math.max(0, math.min(wanted, free))
  full_at = full_at + granted * interval
  redis.call('SET', key, string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000) + 1000)
  answer[2*i-1] = granted
  answer[2*i] = math.ceil(math.max(0, full_at - now - (burst - worth) * interval))
end
return answer
"""


class Rate(NamedTuple):
    per_s: float
    burst: int

    @property
    def chunk(self) -> int:
        return max(1, self.burst // CHUNKS)

    def __str__(self) -> str:
        return f"{self.per_s:g}/s, burst {self.burst}"


def charged(rate: Rate, full_at: float, now: float, owed: int, wanted: int) -> tuple[int, float, float]:
    """Tokens granted, when the bucket is full again, and how long (s) until it has half a chunk; times are seconds.

    What is owed was spent already and is charged even if it is not there.
    """
    interval = 1 / rate.per_s
    full_at = min(max(now, full_at) + owed * interval, now + 2 * rate.burst * interval)
    granted = max(0, min(wanted, int((now - full_at) / interval + rate.burst + 0.000001)))
    full_at += granted * interval
    return granted, full_at, max(0.0, full_at - now - (rate.burst - worth_asking(rate)) * interval)


def worth_asking(rate: Rate) -> int:
    """Tokens for which an empty bucket is asked again: whoever is refused must not ask Valkey for each of them."""
    return max(1, rate.chunk // 2)


@dataclass(slots=True, eq=False)
class Bucket:
    """What this process may still admit under one name."""

    limit: str
    """What it limits, as people read it."""
    name: str
    rate: Rate
    left: int
    owed: int
    low: int
    full_at: float
    """By this process alone, in its own time: what counts while Valkey is away."""
    wanted: int = 0
    refused_until: float = 0.0
    waiting: asyncio.Future[None] | None = None


class Rates:
    """The buckets of one process. Without a URL it applies the rates by itself."""

    def __init__(self, redis_url: str = "", prefix: str = "fogbook:rate:") -> None:
        self._prefix = prefix
        self._client = _client(redis_url) if redis_url else None
        self._script = self._client.register_script(TAKE) if self._client is not None else None
        self._buckets: dict[str, Bucket] = {}
        self._wants: dict[Bucket, None] = {}
        self._wanted = asyncio.Event()
        self._urgent = asyncio.Event()
        self._quiet_until = 0.0
        self._running = False
        self._shared = self._client is not None

    def bucket(self, limit: str, whose: str, rate: Rate) -> Bucket:
        """Somebody's bucket under a limit; a new one begins with a chunk on credit."""
        name = f"{limit}:{whose}"
        found = self._buckets.get(name)
        if found is None:
            if len(self._buckets) >= MOST_BUCKETS:
                # What it knew is in Valkey, but for a chunk.
                self._buckets.pop(next(iter(self._buckets)))
            chunk = rate.chunk
            full_at = time.monotonic() + chunk / rate.per_s
            found = Bucket(limit, name, rate, chunk, chunk, chunk // 2, full_at)
            self._buckets[name] = found
        return found

    def spend(self, bucket: Bucket) -> bool:
        """Spend one token of those that are here, and see that more come in time."""
        left = bucket.left
        if left <= bucket.low:
            self._want(bucket, 0)
        if left <= 0:
            return False
        bucket.left = left - 1
        return True

    async def take(self, bucket: Bucket, count: int) -> int:
        """Spend up to so many tokens, waiting for a lease where that takes one; returns how many it were."""
        taken = 0
        for _ in range(MOST_ROUNDS):
            here = min(count - taken, bucket.left)
            bucket.left -= here
            taken += here
            if taken == count or bucket.refused_until > time.monotonic():
                break
            await self._refill(bucket, count - taken)
        return taken

    async def reaches_valkey(self) -> bool:
        """Whether Valkey answers; True where this process uses none."""
        if self._client is None:
            return True
        try:
            return bool(await asyncio.to_thread(self._client.ping))
        except (redis.RedisError, OSError):
            return False

    def give_back(self, bucket: Bucket, count: int) -> None:
        bucket.left += count

    def retry_after_s(self, bucket: Bucket) -> float:
        return max(0.0, bucket.refused_until - time.monotonic())

    # Leases

    def _want(self, bucket: Bucket, count: int) -> None:
        if self._running and bucket.refused_until <= time.monotonic():
            bucket.wanted += count
            self._wants[bucket] = None
            self._wanted.set()

    async def _refill(self, bucket: Bucket, count: int) -> None:
        """Wait until a lease was granted or refused."""
        if not self._running or time.monotonic() < self._quiet_until:
            bucket.wanted += count
            self._alone([bucket])
            return
        if bucket.waiting is None:
            bucket.waiting = asyncio.get_running_loop().create_future()
        self._want(bucket, count)
        self._urgent.set()
        try:
            async with asyncio.timeout(WAIT_S):
                await asyncio.shield(bucket.waiting)
        except TimeoutError:
            self._lost("it does not answer in time")
            self._alone([bucket])

    async def run(self) -> None:
        """Lease what is wanted, for ever."""
        if self._client is None:
            return
        self._running = True
        SHARED.set(self._shared)
        try:
            while True:
                await self._wanted.wait()
                self._urgent.clear()
                asked = list(self._wants)[:MOST_A_CALL]
                for bucket in asked:
                    del self._wants[bucket]
                if not self._wants:
                    self._wanted.clear()
                await self._lease(asked)
                try:
                    async with asyncio.timeout(PAUSE_S):
                        await self._urgent.wait()
                except TimeoutError:
                    pass
        finally:
            self._running = False
            await asyncio.to_thread(self._client.close)

    async def _lease(self, asked: Sequence[Bucket]) -> None:
        if time.monotonic() < self._quiet_until:
            self._alone(asked)
            return
        terms = [(b, b.owed, b.wanted + b.rate.chunk) for b in asked]
        for bucket in asked:
            bucket.owed = bucket.wanted = 0
        try:
            answer = await asyncio.to_thread(self._ask, terms)
        except (redis.RedisError, OSError) as error:
            self._lost(str(error))
            for bucket, owed, wanted in terms:
                bucket.owed += owed
                bucket.wanted += wanted - bucket.rate.chunk
            self._alone(asked)
            return
        if not self._shared:
            self._shared = True
            SHARED.set(1)
            log.info("rates_shared_again")
        now = time.monotonic()
        for (bucket, _, _), granted, wait_us in zip(terms, answer[::2], answer[1::2], strict=True):
            bucket.full_at = max(now, bucket.full_at) + granted / bucket.rate.per_s
            self._granted(bucket, granted, now, wait_us / 1e6)

    def _ask(self, terms: Sequence[tuple[Bucket, int, int]]) -> list[int]:
        assert self._script is not None
        arguments: list[Any] = []
        now = time.monotonic()
        for bucket, owed, wanted in terms:
            rate = bucket.rate
            missing = bucket.full_at - now - owed / rate.per_s
            arguments += (1e6 / rate.per_s, rate.burst, worth_asking(rate), 1e6 * missing, owed, wanted)
        answer: list[int] = self._script([self._prefix + b.name for b, _, _ in terms], arguments)
        return answer

    def _alone(self, buckets: Sequence[Bucket]) -> None:
        """Apply the rate in this process."""
        now = time.monotonic()
        for bucket in buckets:
            wanted, bucket.wanted = bucket.wanted + bucket.rate.chunk, 0
            granted, bucket.full_at, wait_s = charged(bucket.rate, bucket.full_at, now, 0, wanted)
            self._granted(bucket, granted, now, wait_s)

    def _granted(self, bucket: Bucket, granted: int, now: float, wait_s: float) -> None:
        bucket.left += granted
        if not granted:
            bucket.refused_until = now + wait_s
        if bucket.waiting is not None:
            if not bucket.waiting.done():
                bucket.waiting.set_result(None)
            bucket.waiting = None

    def _lost(self, why: str) -> None:
        self._quiet_until = time.monotonic() + QUIET_S
        if self._shared:
            self._shared = False
            SHARED.set(0)
            log.warning("rates_not_shared", error=why)


def _client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(
        redis_url,
        socket_timeout=1,
        socket_connect_timeout=1,
        retry=Retry(NoBackoff(), 0),
    )
