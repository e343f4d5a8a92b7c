"""PostgreSQL and Valkey are restarted, killed, wiped, evicted and away, while people go on."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from redis.exceptions import OutOfMemoryError

from tests.faults.stage import Stage, scenario

CURRENT_WITHIN_S = 10.0
SERVING_WITHIN_S = 10.0
RESTARTS = 50
ROUNDS = 50
EVICTED = 2_000
QUERY = "/queries/ledger/accounts?limit=5"


async def serves(stage: Stage) -> None:
    """Until a command and a query are answered as if nothing had been; which must not take long."""
    begun = time.monotonic()
    connection = stage.clients.connection()
    await stage.traffic.more(1)
    while await stage.clients.query(connection, QUERY) != 200:
        assert time.monotonic() - begun < 2 * SERVING_WITHIN_S, "queries do not come back"
        await asyncio.sleep(0.02)
    connection.close()
    stage.took("serving again", time.monotonic() - begun)


# Row 9


@scenario(
    "postgres",
    promises=(9,),
    provokes=("postgres restarted", "postgres killed", "status 503", "queries", "acknowledged"),
)
async def postgres(stage: Stage) -> None:
    """Restarts in order and by kill -9: only 503 with Retry-After meanwhile, and then everything as before."""
    world = stage.world
    async with stage.traffic.flowing(readers=3):
        for number in stage.while_time_lasts(range(RESTARTS if stage.long else 1), 2):
            await stage.traffic.more(20)
            if number % 2:
                await stage.in_thread(world.kill, "postgres")
                await stage.in_thread(world.wait_running, "postgres")
            else:
                await stage.in_thread(world.restart_postgres)
            await ready(stage)
            await serves(stage)
        # A request that meets no database is told so, by every side of the API.
        await stage.in_thread(world.keep_away, "postgres")
        await stage.until_counted("status 503", 5)
        await stage.in_thread(world.bring_back, "postgres")
        await ready(stage)
        await serves(stage)
    assert stage.slowest["serving again"] < SERVING_WITHIN_S, stage.slowest


async def ready(stage: Stage) -> None:
    """Until PostgreSQL itself accepts connections."""

    def wait() -> None:
        end = time.monotonic() + 60
        while True:
            try:
                stage.world.superuser().close()
                return
            except Exception:
                assert time.monotonic() < end, "PostgreSQL does not come back"
                time.sleep(0.02)

    await stage.in_thread(wait)


# Row 8


@scenario(
    "valkey",
    promises=(8,),
    provokes=("valkey wiped", "valkey killed", "valkey evicted", "valkey absent", "acknowledged"),
)
async def valkey(stage: Stage) -> None:
    """Whatever becomes of Valkey, commands are decided, and read models are current soon after it is back."""
    async with stage.traffic.flowing():
        for _ in stage.while_time_lasts(range(ROUNDS if stage.long else 1), 1):
            for harm in (wipe, evict, restart, absent, silent):
                await stage.traffic.more(20)
                before = stage.clients.counts["status 503"]
                await harm(stage)
                await stage.traffic.more(20)
                assert stage.clients.counts["status 503"] == before, (
                    f"commands wait for Valkey: {harm.__name__}"
                )
                await current(stage)
    assert stage.slowest["current again"] < CURRENT_WITHIN_S, stage.slowest


async def wipe(stage: Stage) -> None:
    def flush() -> None:
        with stage.world.valkey() as client:
            client.flushall()

    await stage.in_thread(flush)
    stage.counts["valkey wiped"] += 1


async def evict(stage: Stage) -> None:
    """A server that was set up wrongly throws away what it likes."""

    def crowd() -> None:
        with stage.world.valkey() as client:
            used = client.info("memory")["used_memory"]
            client.config_set("maxmemory-policy", "allkeys-random")
            client.config_set("maxmemory", used + 200_000)
            for number in range(EVICTED):
                # Connections take room, too: there may be nothing left to evict.
                with suppress(OutOfMemoryError):
                    client.set(f"crowd:{number}", "x" * 500)
            stage.counts["valkey evicted"] += client.info("stats")["evicted_keys"]
            client.config_set("maxmemory", 256 * 2**20)
            client.config_set("maxmemory-policy", "noeviction")
            client.flushall()

    await stage.in_thread(crowd)


async def restart(stage: Stage) -> None:
    await stage.in_thread(stage.world.kill, "valkey")
    await stage.in_thread(stage.world.wait_running, "valkey")


async def absent(stage: Stage) -> None:
    await stage.in_thread(stage.world.keep_away, "valkey")
    await stage.traffic.more(40)
    await asyncio.sleep(stage.rng.uniform(1.0, 4.0) if stage.long else 0.5)
    await stage.in_thread(stage.world.bring_back, "valkey")
    stage.counts["valkey absent"] += 1


async def silent(stage: Stage) -> None:
    """Connections that stay, and say nothing."""
    links = [link for name, link in stage.world.links.items() if name.endswith("-valkey")]
    for link in links:
        link.silence()
    await stage.traffic.more(40)
    await asyncio.sleep(stage.rng.uniform(1.0, 6.0) if stage.long else 0.5)
    for link in links:
        link.heal()


async def current(stage: Stage) -> None:
    """Until what is in the log now is in all read models."""

    def wait() -> float:
        begun = time.monotonic()
        with stage.world.connect() as connection:
            row = connection.execute("SELECT position FROM heads WHERE zone = 'main'").fetchone()
            assert row is not None
            while connection.execute(
                "SELECT 1 FROM checkpoints WHERE zone = 'main' AND live AND position < %s", row
            ).fetchone():
                assert time.monotonic() - begun < 3 * CURRENT_WITHIN_S, "read models do not come back"
                time.sleep(0.02)
        return time.monotonic() - begun

    stage.took("current again", await stage.in_thread(wait))
