"""Processes and servers are killed at named points between read, append, commit and answer, and at random."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.faults.proxy import Much, Trap, Way, answers, anything, asks, wait_any
from tests.faults.stage import Stage, scenario


class Point(NamedTuple):
    """Where in the way of a command somebody is killed."""

    name: str
    link: str
    way: Way
    at: Callable[[Any, bytes], bool]
    forward: Much
    victim: str


THERE, BACK = Way.THERE, Way.BACK

POINTS = (
    Point("before the append arrives", "postgres", THERE, asks("append"), Much.NOTHING, "api"),
    Point("half of the append arrived", "postgres", THERE, asks("append"), Much.HALF, "api"),
    Point("the append arrived", "postgres", THERE, asks("append"), Much.ALL, "api"),
    Point("the append is answered", "postgres", BACK, answers("append"), Much.NOTHING, "api"),
    Point("before the commit arrives", "postgres", THERE, asks("commit"), Much.NOTHING, "api"),
    Point("the commit arrived", "postgres", THERE, asks("commit"), Much.ALL, "api"),
    Point("the commit is answered", "postgres", BACK, answers("commit"), Much.NOTHING, "api"),
    Point("the answer is on its way", "client", BACK, anything, Much.NOTHING, "api"),
    Point("half of the answer arrived", "client", BACK, anything, Much.HALF, "api"),
    Point("the append reached PostgreSQL", "postgres", THERE, asks("append"), Much.AND_ON, "postgres"),
    Point("PostgreSQL said yes", "postgres", BACK, answers("append"), Much.AND_ON, "postgres"),
    Point("PostgreSQL said yes to nobody", "postgres", BACK, answers("append"), Much.NOTHING, "postgres"),
)

SHORT = (
    *("before the append arrives", "the append is answered"),
    *("half of the answer arrived", "PostgreSQL said yes to nobody"),
)

BETWEEN, BETWEEN_LONG = 15, 400
"""Commands from one point to the next; two hundred points of a long form see a hundred thousand commands."""
ROUNDS = 20
"""Most times that a long form comes by every point."""


async def strike(stage: Stage, point: Point) -> None:
    """Kill at one point, and wait until commands are answered again."""
    world = stage.world
    await stage.in_thread(world.wait_running, *world.apis)
    sprung: list[str] = []

    def act(api: str, victim: str) -> None:
        sprung.append(api)
        world.kill_at_once(victim)

    traps = []
    for api in world.apis:
        victim = api if point.victim == "api" else point.victim
        link = world.links["client-api" if point.link == "client" else f"{api}-{point.link}"]
        trap = Trap(point.way, point.at, functools.partial(act, api, victim), point.forward)
        traps.append((link, link.lay(trap)))
    assert await stage.in_thread(wait_any, [trap for _, trap in traps], 60.0), f"{point.name}: nobody came by"
    for link, trap in traps:
        link.lift(trap)
    stage.counts[f"killed when {point.name}"] += 1
    stage.counts["named points"] += 1
    await go_on(stage)


async def go_on(stage: Stage) -> None:
    await stage.traffic.more(BETWEEN_LONG if stage.long else BETWEEN)


async def strike_at_random(stage: Stage) -> None:
    world = stage.world
    await asyncio.sleep(stage.rng.uniform(0.02, 0.4))
    choices = [*world.apis, *world.workers, *world.workers, "postgres", "valkey", "all", "paused"]
    name = stage.rng.choice(choices)
    if name == "all":
        for each in (*world.apis, *world.workers, "postgres", "valkey"):
            await stage.in_thread(world.kill, each)
    elif name == "paused":
        paused = stage.rng.choice([*world.apis, *world.workers])
        await stage.in_thread(world.pause, paused, stage.rng.uniform(0.5, 6.0))
    else:
        await stage.in_thread(world.kill, name)
    stage.counts["random points"] += 1
    await go_on(stage)


@scenario(
    "killed",
    promises=(1, 3),
    provokes=(
        *("api killed", "worker killed", "postgres killed", "named points", "random points", "unanswered"),
        *("answered again", "refused"),
    ),
    provokes_long=("conflicts", "valkey killed"),
    apis=2,
    workers=2,
)
async def killed(stage: Stage) -> None:
    """kill -9 at every named point and at random ones, under load."""
    points = [point for point in POINTS if stage.long or point.name in SHORT]
    points = [
        point for _ in range(ROUNDS if stage.long else 1) for point in stage.rng.sample(points, len(points))
    ]
    async with stage.traffic.flowing(people=12):
        await stage.traffic.more(50)
        for point in stage.while_time_lasts(points, len(SHORT)):
            await strike(stage, point)
            if stage.long:
                await strike_at_random(stage)
        for each in ("worker1", "valkey") if stage.long else ("worker1",):
            await stage.in_thread(stage.world.kill, each)
            stage.counts["random points"] += 1
            await go_on(stage)
        await stage.in_thread(stage.world.pause, "api", 6.0 if stage.long else 0.3)
        await go_on(stage)
