"""Clocks jump by an hour and by a year, and those of workers are wrong for good: order and payouts stay right."""

from __future__ import annotations

import asyncio

from tests.faults.check import timers_settled
from tests.faults.servers import current, serves
from tests.faults.stage import Stage, scenario

HOUR_S = 3_600.0
YEAR_S = 365 * 24 * HOUR_S
SHORT = ((-YEAR_S, "api"), (HOUR_S, "api"), (HOUR_S, "worker"), (-YEAR_S, "worker"))
LONG = tuple((sign * size, who) for sign in (1, -1) for size in (HOUR_S, YEAR_S) for who in ("api", "worker"))
ROUNDS = 20


def one_round(stage: Stage) -> list[tuple[float, str]]:
    jumps = LONG if stage.long else SHORT
    return stage.rng.sample(jumps, len(jumps))


@scenario(
    "clocks",
    promises=(12,),
    provokes=("clock jumps", "status 503", "holds expired", "acknowledged"),
)
async def clocks(stage: Stage) -> None:
    """An API whose clock is ahead of PostgreSQL's says 503 until it is right again; one behind goes on."""
    world = stage.world
    jumps = [jump for _ in range(ROUNDS if stage.long else 1) for jump in one_round(stage)]
    async with stage.traffic.flowing():
        for wrong_by_s, who in stage.while_time_lasts(jumps, len(LONG)):
            await stage.traffic.more(20)
            names = world.apis if who == "api" else stage.rng.sample(world.workers, 1)
            ahead = who == "api" and wrong_by_s > 0
            world.set_clock(wrong_by_s, *names)
            if ahead:
                await stage.until_counted("status 503", 5)
            else:
                await stage.traffic.more(40)
                await asyncio.sleep(3.0 if stage.long else 0.5)
                await current(stage)
            world.set_clock(0.0, *names)
            await serves(stage)
            await current(stage)
    await stage.in_thread(timers_settled, world)
    with world.connect() as connection:
        row = connection.execute("SELECT count(*) FROM events WHERE type = 'HoldExpired'").fetchone()
        twice = connection.execute(
            "SELECT stream FROM events WHERE type IN ('HoldExpired', 'HoldReleased', 'HoldCaptured')"
            " GROUP BY stream HAVING count(*) FILTER (WHERE type <> 'HoldReleased') > 1"
        ).fetchall()
        future = connection.execute(
            "SELECT count(*) FROM events WHERE recorded_at > clock_timestamp() + interval '2 seconds'"
        ).fetchone()
    assert row is not None
    stage.counts["holds expired"] = row[0]
    assert twice == [], "holds that ended twice"
    assert future == (0,), "events from the future"
