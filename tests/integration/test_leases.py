"""Rates that processes share through Valkey: how much all of them admit, and what they do without it."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from ops.leases import TAKE, Bucket, Rate, Rates, charged, worth_asking
from ops.servers import Servers
from tests.logs import captured_logs

SLOW = Rate(0.001, 400)
"""Nothing worth mentioning comes back while a test lasts."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy is no Valkey that is away."""
    monkeypatch.setattr("ops.leases.WAIT_S", 10.0)


@asynccontextmanager
async def processes(count: int, redis_url: str, prefix: str) -> AsyncIterator[list[Rates]]:
    made = [Rates(redis_url, prefix=f"fogbook:rate:{prefix}:") for _ in range(count)]
    tasks = [asyncio.create_task(rates.run()) for rates in made]
    await asyncio.sleep(0)
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def admitted(rates: Rates, bucket: Bucket, requests: int) -> int:
    """How many of so many requests, one after the other, are within the rate."""
    count = 0
    for _ in range(requests):
        count += 1 if rates.spend(bucket) else await rates.take(bucket, 1)
    return count


def test_all_processes_together_admit_the_burst_and_at_most_a_chunk_each_beyond(servers: Servers) -> None:
    async def scenario() -> int:
        async with processes(4, servers.redis_url, "together") as made:
            each = await asyncio.gather(*(admitted(r, r.bucket("rate", "ana", SLOW), 400) for r in made))
            assert all(each), "nobody is left out"
            return sum(each)

    # What the last leases were asked for in advance may lie unspent.
    assert 400 - 4 * SLOW.chunk <= asyncio.run(scenario()) <= 400 + 4 * SLOW.chunk


def test_one_process_admits_exactly_the_burst(servers: Servers) -> None:
    async def scenario() -> int:
        async with processes(1, servers.redis_url, "one") as (rates,):
            return await admitted(rates, rates.bucket("rate", "ana", SLOW), 1_000)

    assert asyncio.run(scenario()) == SLOW.burst


def test_many_at_once_are_within_the_rate_as_far_as_it_goes(servers: Servers) -> None:
    async def scenario() -> tuple[int, int]:
        async with processes(1, servers.redis_url, "many") as (rates,):
            bucket = rates.bucket("rate", "ana", SLOW)
            return await rates.take(bucket, 300), await rates.take(bucket, 300)

    assert asyncio.run(scenario()) == (300, 100)


def test_whoever_is_refused_is_told_when_he_is_admitted_again(servers: Servers) -> None:
    async def scenario() -> None:
        async with processes(1, servers.redis_url, "told") as (rates,):
            bucket = rates.bucket("rate", "ana", Rate(5, 20))
            for _ in range(1_000):
                if await admitted(rates, bucket, 1) == 0:
                    break
            await asyncio.sleep(rates.retry_after_s(bucket) + 0.01)
            assert await admitted(rates, bucket, 1) == 1

    asyncio.run(scenario())


def test_without_valkey_each_process_applies_the_rate_by_itself() -> None:
    async def scenario() -> list[int]:
        async with processes(2, "", "alone") as made:
            return [await admitted(r, r.bucket("rate", "ana", SLOW), 1_000) for r in made]

    assert asyncio.run(scenario()) == [400, 400]


def test_a_valkey_that_is_away_is_said_once_and_costs_nobody_his_request() -> None:
    async def scenario() -> int:
        async with processes(1, "redis://127.0.0.1:1", "away") as (rates,):
            return await admitted(rates, rates.bucket("rate", "ana", SLOW), 1_000)

    with captured_logs() as logs:
        assert asyncio.run(scenario()) == SLOW.burst
    assert [entry["event"] for entry in logs] == ["rates_not_shared"]


def test_a_valkey_that_says_nothing_holds_nobody_up_for_long(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.leases.WAIT_S", 0.02)
    answered = threading.Event()

    async def scenario() -> int:
        async with processes(1, servers.redis_url, "silent") as (rates,):
            monkeypatch.setattr(rates, "_ask", lambda terms: answered.wait(10) and [0, 0] * len(terms))
            count = await admitted(rates, rates.bucket("rate", "ana", SLOW), 1_000)
            answered.set()
            return count

    with captured_logs() as logs:
        assert asyncio.run(scenario()) == SLOW.burst
    assert logs[0]["event"] == "rates_not_shared"


def test_a_valkey_that_comes_back_is_used_again(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.leases.QUIET_S", 0.02)

    async def scenario() -> None:
        async with processes(1, servers.redis_url, "back") as (rates,):
            asked, bucket = rates._ask, rates.bucket("rate", "ana", SLOW)

            def away(terms: object) -> list[int]:
                raise redis.ConnectionError("it is away")

            monkeypatch.setattr(rates, "_ask", away)
            assert await admitted(rates, bucket, 100) == 100
            monkeypatch.setattr(rates, "_ask", asked)
            await asyncio.sleep(0.03)
            assert await admitted(rates, bucket, 400) == 300

    with captured_logs() as logs:
        asyncio.run(scenario())
    assert [entry["event"] for entry in logs] == ["rates_not_shared", "rates_shared_again"]


def test_a_valkey_that_is_wiped_hears_again_what_each_process_has_spent(servers: Servers) -> None:
    async def scenario() -> None:
        async with processes(1, servers.redis_url, "wiped") as (rates,):
            bucket = rates.bucket("rate", "ana", SLOW)
            assert await admitted(rates, bucket, 300) == 300
            with redis.Redis.from_url(servers.valkey_admin_url) as client:
                client.flushall()
                client.script_flush()
            assert await admitted(rates, bucket, 700) == 100

    asyncio.run(scenario())


def test_what_nobody_remembers_any_more_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.leases.MOST_BUCKETS", 10)
    rates = Rates()
    for number in range(100):
        rates.bucket("rate", f"w{number}", SLOW)
    assert len(rates._buckets) == 10


STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), min_size=1, max_size=20)


@given(burst=st.integers(1, 50), steps=STEPS)
def test_a_bucket_never_grants_more_than_its_burst_and_what_comes_back_in_the_meantime(
    burst: int, steps: list[tuple[int, int]]
) -> None:
    rate, full_at, now, sum_granted = Rate(10, burst), 0.0, 1_000.0, 0
    for seconds, wanted in steps:
        now += seconds
        granted, full_at, wait_s = charged(rate, full_at, now, 0, wanted)
        sum_granted += granted
        assert 0 <= granted <= wanted
        assert sum_granted <= burst + 10 * (now - 1_000)
        assert granted == wanted or wait_s > 0


def test_valkey_and_a_process_by_itself_count_alike(servers: Servers) -> None:
    """The script against the function: their clocks differ, so nothing comes back meanwhile."""
    rng, rate, full_at, now = random.Random(1), SLOW, 0.0, time.monotonic()
    with redis.Redis.from_url(servers.redis_url) as client:
        for _ in range(30):
            owed, wanted = rng.choice((0, 0, 20)), rng.randrange(40)
            terms = (1e6 / rate.per_s, rate.burst, worth_asking(rate), 0, owed, wanted)
            granted, wait_us = client.register_script(TAKE)(["fogbook:rate:alike"], terms)
            expected, full_at, wait_s = charged(rate, full_at, now, owed, wanted)
            assert granted == expected
            assert wait_us / 1e6 == pytest.approx(wait_s, abs=60)
