"""Wake-ups come twice, late, in another order and not at all, to workers that are killed: each event counts once."""

from __future__ import annotations

import asyncio
from typing import Any

import dramatiq

from tests.faults.servers import current
from tests.faults.stage import Stage, scenario
from workers._broker import QUEUE, flag_name, make_broker

ROUNDS = 1_000
LEAST_ROUNDS = 60
ROUNDS_SHORT = 12
MOST_COPIES = 5
DEATH_EVERY = 20


@scenario(
    "wakes",
    promises=(6,),
    provokes=("wake-ups added", "wake-ups lost", "wake-ups shuffled", "worker killed", "acknowledged"),
    workers=4,
)
async def wakes(stage: Stage) -> None:
    rounds = ROUNDS if stage.long else ROUNDS_SHORT
    every = DEATH_EVERY if stage.long else ROUNDS_SHORT // 2 + 1
    meddler = Meddler(stage)
    async with stage.traffic.flowing():
        for number in stage.while_time_lasts(range(rounds), LEAST_ROUNDS):
            await stage.traffic.more(5)
            await stage.in_thread(stage.rng.choice((meddler.add, meddler.lose, meddler.shuffle)))
            if number % every == every - 1:
                await stage.in_thread(stage.world.kill, stage.rng.choice(stage.world.workers))
            if number % 10 == 9:
                await current(stage)
            await asyncio.sleep(stage.rng.uniform(0.0, 0.1))
        for meddle in (meddler.add, meddler.lose, meddler.shuffle):
            await stage.in_thread(meddle)
    await current(stage)
    meddler.close()


class Meddler:
    """Somebody with access to the queue."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._broker = make_broker(stage.world.servers.redis_url)

    def add(self) -> None:
        """Up to five copies, for this zone and for one that there is not."""
        copies = self._stage.rng.randint(1, MOST_COPIES)
        for _ in range(copies):
            self._send(self._stage.rng.choice(("main", "main", "nowhere")))
        self._stage.counts["wake-ups added"] += copies

    def lose(self) -> None:
        """The flag stands, and the message that it stands for is gone."""
        with self._stage.world.valkey() as client:
            client.set(flag_name("main"), 1, px=10_000)
            client.delete(f"fogbook:{QUEUE}")
        self._stage.counts["wake-ups lost"] += 1

    def shuffle(self) -> None:
        """What waits is put back in another order, with some that come much later."""
        with self._stage.world.valkey() as client:
            waiting: list[Any] = client.lrange(f"fogbook:{QUEUE}", 0, -1)
            self._stage.rng.shuffle(waiting)
            if waiting:
                with client.pipeline() as pipe:
                    pipe.delete(f"fogbook:{QUEUE}").rpush(f"fogbook:{QUEUE}", *waiting).execute()
        self._send("main", delay_ms=self._stage.rng.randint(1, 2_000))
        self._stage.counts["wake-ups shuffled"] += 1

    def _send(self, zone: str, delay_ms: int | None = None) -> None:
        message: dramatiq.Message[None] = dramatiq.Message(
            queue_name=QUEUE, actor_name="follow", args=(zone,), kwargs={}, options={}
        )
        self._broker.enqueue(message, delay=delay_ms)

    def close(self) -> None:
        self._broker.close()
