"""Sides taking turns under load: in every round each runs once, so that a ratio's two sides meet the same machine."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ops.bench._figures import Figures
from ops.bench._load import Result
from ops.bench._measure import cpu_s, rss_mib, tree_cpu_s
from ops.bench._stage import App, Stage

WARM_S = 0.2
GAPLESS = "gapless, in commit order; strictly serializable"
NOTHING_STORED = "nothing is stored"


@dataclass
class Side:
    """The processes that answer, what is asked of them, and what came of it."""

    apps: tuple[App, ...]
    terms: dict[str, Any] = field(default_factory=dict)
    """What differs from the stage's usual round, see `_load.Round`."""
    rounds: list[Result] = field(default_factory=list)
    server_s: float = 0.0
    postgres_s: float = 0.0

    @property
    def rates(self) -> list[float]:
        return [round.per_s for round in self.rounds]

    @property
    def p50_ms(self) -> list[float]:
        return [round.p50_ms for round in self.rounds]


def take_turns(stage: Stage, sides: Mapping[str, Side], rounds: int, say: str, late: float = 1.0) -> None:
    """Warm up, then run each side once a round; after two rounds until that share of the time is used up."""
    postgres = stage.servers.pids["postgres"]
    for side in {tuple(app.port for app in side.apps): side for side in sides.values()}.values():
        for app in side.apps:
            app.ready()
        stage.load.run(stage.round(*side.apps, **side.terms))
    for number in range(rounds):
        if number >= 2 and stage.late(late):
            break
        stage.say(f"{say}, round {number + 1} of {rounds}.")
        # Every other round in reverse, so that nobody always follows the same neighbour.
        for side in list(sides.values())[:: 1 if number % 2 else -1]:
            server, database = sum(cpu_s(app.pid) for app in side.apps), tree_cpu_s(postgres)
            side.rounds.append(stage.load.run(stage.round(*side.apps, **({"warm_s": WARM_S} | side.terms))))
            side.server_s += sum(cpu_s(app.pid) for app in side.apps) - server
            side.postgres_s += tree_cpu_s(postgres) - database


def note(figures: Figures, name: str, side: Side, ordering: str) -> None:
    """Medians over a side's rounds; CPU time a command over all of them; what its servers hold in memory.

    `ordering` says which order its events are sure to have.
    """
    commands = sum(round.commands for round in side.rounds)
    client_s = sum(round.client_cpu_s for round in side.rounds)
    figures.per_s[name] = round(statistics.median(side.rates), 1)
    figures.latency_ms[name] = {
        short: statistics.median(getattr(round, f"{short}_ms") for round in side.rounds)
        for short in ("p50", "p99", "p999")
    }
    costs = {"server": side.server_s, "postgres": side.postgres_s, "client": client_s}
    figures.cpu_us[name] = {who: round(spent / commands * 1e6, 1) for who, spent in costs.items()}
    figures.ordering[name] = ordering
    figures.memory_mib[name] = round(sum(rss_mib(app.pid) for app in side.apps), 1)
