"""Scenarios: what is broken, what must come of it, and what must have happened for that to prove anything."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ops.servers import Servers
from tests.faults.check import check_log, check_read_models, timers_settled
from tests.faults.client import Clients
from tests.faults.ledger import Acks
from tests.faults.traffic import Traffic
from tests.faults.world import World, world

SHORT_PAUSE_S = 0.04
"""Between a person's commands in short forms, which have a machine to share."""

Play = Callable[["Stage"], Coroutine[Any, Any, None]]
T = TypeVar("T")


def no_servers() -> Servers:
    raise AssertionError("this scenario has a system of its own")


@dataclass
class Turn:
    """What a turn of any scenario gets: an empty folder of its own, its seed, whether it may take its time, and
    servers for those that need no more than a database."""

    folder: Path
    seed: int
    long: bool
    servers: Callable[[], Servers] = no_servers
    seconds: float = 0.0
    """How long a long one shall take, all but what judges it; it takes longer where its least needs that."""
    begun: float = field(default_factory=time.monotonic)

    @property
    def ends_at(self) -> float:
        """When it shall begin nothing more (s, monotonic)."""
        return self.begun + self.seconds

    def is_over(self) -> bool:
        return time.monotonic() > self.ends_at

    def until(self, least: int, most: int) -> Callable[[int], bool]:
        """Whether so many are enough: when its time is over, but within these bounds."""
        return lambda done: done >= most or (done >= least and self.is_over())

    def enough(self, each_s: float, least: int, most: int) -> int:
        """How many rounds of so many seconds it has time for, within these bounds."""
        return min(max(least, int(self.seconds / each_s)), most)


@dataclass(frozen=True)
class Scenario:
    name: str
    promises: tuple[int, ...]
    """Rows of the promises that it proves."""
    provokes: tuple[str, ...]
    """Counts that no turn may leave at 0."""
    provokes_long: tuple[str, ...]
    """The same for all long turns of a run together."""
    run: Callable[[Turn], Counter[str]]
    """One turn in a system of its own."""
    play: Play | None = None
    """What happens in a world that is there already."""


SCENARIOS: dict[str, Scenario] = {}


@dataclass
class Stage:
    """One turn in a world."""

    world: World
    clients: Clients
    traffic: Traffic
    rng: random.Random
    long: bool
    counts: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    """The longest time (s) that something took."""
    ends_at: float = 0.0
    """When a long turn shall begin nothing more (s, monotonic)."""

    def while_time_lasts(self, items: Iterable[T], least: int) -> Iterator[T]:
        """The first few of the items in any case, and the others for as long as the turn has time; short forms
        have few items, and play them all."""
        for number, item in enumerate(items):
            if self.long and number >= least and time.monotonic() > self.ends_at:
                return
            yield item

    def took(self, what: str, seconds: float) -> None:
        self.slowest[what] = max(self.slowest.get(what, 0.0), seconds)

    async def until_counted(self, what: str, more: int, within_s: float = 60.0) -> None:
        """Until the clients saw so many more of something."""
        wanted = self.clients.counts[what] + more
        for _ in range(int(within_s / 0.02)):
            if self.clients.counts[what] >= wanted:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{what} does not happen")

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.to_thread(function, *arguments)


def scenario(
    name: str,
    promises: tuple[int, ...],
    provokes: tuple[str, ...],
    provokes_long: tuple[str, ...] = (),
    **needs: Any,
) -> Callable[[Play], Play]:
    """Declare a scenario that plays in a world; `needs` says in which (see `tests.faults.world.world`)."""

    def register(play: Play) -> Play:
        def run(turn: Turn) -> Counter[str]:
            with world(turn.folder / "fog home", **needs) as made:
                counts = perform(made, play, turn.seed, turn.long, turn.folder / "acks", turn.ends_at)
                check_read_models(made)
            return counts

        SCENARIOS[name] = Scenario(name, promises, provokes, provokes_long, run, play)
        return play

    return register


def perform(
    made: World, play: Play, seed: int, long: bool, acks_path: Path, ends_at: float = 0.0
) -> Counter[str]:
    """Play a scenario, heal the world, and hold the log against everything that was acknowledged in this world."""
    acks = Acks(acks_path)
    clients = Clients(made, acks)
    rng = random.Random(seed)
    name = f"{play.__name__}{time.monotonic_ns():x}"
    traffic = Traffic(clients, name, rng, pause_s=0.0 if long else SHORT_PAUSE_S)
    stage = Stage(made, clients, traffic, rng, long, ends_at=ends_at)
    before = _totals(made)
    try:
        asyncio.run(play(stage))
    finally:
        made.heal()
    acks.close()
    assert clients.hung == [], f"{len(clients.hung)} requests hang: {clients.hung[:5]}"
    assert clients.odd == [], f"{len(clients.odd)} answers are no 503 with Retry-After: {clients.odd[:3]}"
    assert made.errors == [], made.errors[:3]
    timers_settled(made)
    judged = check_log(made, Acks(acks_path))
    counts = stage.counts + clients.counts
    counts.update(_totals(made) - before)
    counts["judged"] = judged.total()
    for what, seconds in stage.slowest.items():
        counts[f"{what}, most ms"] = round(1000 * seconds)
    counts["answer, most ms"] = round(1000 * clients.slowest_s)
    return counts


def _totals(made: World) -> Counter[str]:
    """What faults there were, on all links."""
    found = Counter(made.faults)
    for name, proxy in made.links.items():
        for what in ("resets", "drops", "refusals", "silences", "delays", "traps", "cut links"):
            found[what] += proxy.counts[what]
        if name.startswith("api"):
            found["conflicts"] += proxy.counts["commit"]
    return found


def take_turn(scenario: Scenario, turn: Turn) -> Counter[str]:
    counts = scenario.run(turn)
    say(scenario.name, turn.seed, counts)
    check_loud(scenario, counts, False)
    return counts


def check_loud(scenario: Scenario, counts: Counter[str], long: bool) -> None:
    """A quiet turn proves nothing, so it fails."""
    wanted = scenario.provokes + (scenario.provokes_long if long else ())
    quiet = [what for what in wanted if not counts[what]]
    assert quiet == [], f"{scenario.name}: {quiet} never happened"


def say(name: str, seed: int, counts: Counter[str]) -> None:
    shown = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()) if count)
    print(f"{name}, seed {seed}: {shown}", flush=True)
