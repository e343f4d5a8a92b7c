"""Every link is cut, reset, refused, silenced, delayed and cut in the middle of what it carries."""

from __future__ import annotations

import asyncio
import time

from tests.faults.proxy import Much, Proxy, Trap, Way, anything, wait_any
from tests.faults.servers import current, serves
from tests.faults.stage import Stage, scenario

HARMS = ("reset", "drop", "refuse", "silence", "delay", "middle")
SHORT = (
    *(("api-postgres", "reset"), ("api-postgres", "middle"), ("api-valkey", "refuse")),
    *(("client-api", "reset"), ("client-api", "silence"), ("worker-valkey", "reset")),
    *(("worker-api", "middle"), ("worker-postgres", "drop")),
)
"""In long forms every link meets every harm."""
FIRST = {"reset": "client-api", "silence": "api-postgres"}
"""Where those are met that nobody can make up for: clients are cut off, and told to come back."""


@scenario(
    "network",
    promises=(10,),
    provokes=("resets", "drops", "refusals", "silences", "traps", "cut links", "unanswered", "acknowledged"),
    provokes_long=("delays", "status 503"),
)
async def network(stage: Stage) -> None:
    """Nothing hangs past its deadline, and everything goes on as soon as the link does."""
    pairs = every_harm_first(stage) if stage.long else stage.rng.sample(SHORT, len(SHORT))
    silent = stage.world.links["client-api"]
    stage.traffic.excused = lambda: silent.was_silent
    async with stage.traffic.flowing(readers=2):
        await stage.traffic.more(20)
        for name, harm in stage.while_time_lasts(pairs, len(HARMS)):
            await suffer(stage, stage.world.links[name], harm)
            stage.counts["harms"] += 1
            begun = time.monotonic()
            await serves(stage)
            await current(stage)
            stage.took(f"back after {harm} on {name}", time.monotonic() - begun)


def every_harm_first(stage: Stage) -> list[tuple[str, str]]:
    """Every link with every harm, in any order, but so that few are enough to meet each harm."""
    links = list(stage.world.links)
    pairs = [(FIRST.get(harm) or stage.rng.choice(links), harm) for harm in HARMS]
    others = [(name, harm) for name in links for harm in HARMS if (name, harm) not in pairs]
    return pairs + stage.rng.sample(others, len(others))


async def suffer(stage: Stage, link: Proxy, harm: str) -> None:
    lasting_s = stage.rng.choice((1.0, 3.0, 15.0, 30.0)) if stage.long else 0.5
    if stage.long and (link.name, harm) == ("api-postgres", "silence"):
        lasting_s = 15.0  # Longer than any deadline.
    match harm:
        case "reset":
            await stage.in_thread(link.reset)
        case "drop":
            await stage.in_thread(link.drop)
        case "middle":
            way = stage.rng.choice((Way.THERE, Way.BACK))
            trap = link.lay(Trap(way, anything, lambda: None, Much.HALF))
            if not await stage.in_thread(wait_any, [trap], 20.0):
                link.lift(trap)
        case "refuse":
            await stage.in_thread(link.refuse)
            await asyncio.sleep(lasting_s)
        case "silence":
            await stage.in_thread(link.silence)
            await asyncio.sleep(lasting_s)
        case "delay":
            await stage.in_thread(link.delay, min(lasting_s / 10, 1.0))
            await asyncio.sleep(lasting_s)
    await stage.in_thread(link.heal)
