"""Rebuilding a read model against what other libraries offer for that: rates are compared, not durations."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ops._supervise import spawn
from ops.bench._figures import Figures
from ops.bench._measure import median_ratio, tree_cpu_s
from ops.bench._node import NodeMissing, node, node_folder
from ops.bench._peers import database_url
from ops.bench._stage import ZONE, BenchFailed, Stage, grow, make_database, tail_of
from projections._engine import all_projections
from projections._rebuild import rebuild, sweep

PATIENCE_S = 900.0
LIBRARY = [sys.executable, "-m", "ops.bench.peers.library_projection"]


@dataclass
class Rebuilds:
    """One side's rounds, each of a whole rebuild."""

    events: int = 0
    rates: list[float] = field(default_factory=list)
    """Events a second."""
    server_s: float = 0.0
    postgres_s: float = 0.0

    def count(self, seconds: float, server_s: float, postgres_s: float) -> None:
        self.rates.append(self.events / seconds)
        self.server_s += server_s
        self.postgres_s += postgres_s

    def note(self, figures: Figures, name: str) -> None:
        """CPU time is that of an event."""
        figures.per_s[f"{name}_events"] = round(statistics.median(self.rates), 1)
        events = self.events * len(self.rates)
        spent = {"server": self.server_s, "postgres": self.postgres_s}
        figures.cpu_us[name] = {who: round(seconds / events * 1e6, 1) for who, seconds in spent.items()}


@dataclass
class Peer:
    """A program with a read model of wallets over a history of its own."""

    name: str
    argv: Sequence[str]
    env: dict[str, str]
    rebuilds: Rebuilds = field(default_factory=Rebuilds)
    money: str = ""
    """In all balances, at the end of its history."""

    def make(self, stage: Stage) -> None:
        stage.say(f"Making a history for {self.name}.")
        made = self._run(stage, "make", str(stage.scale.peer_events))
        self.rebuilds.events, self.money = made["events"], made["money"]

    def rebuild(self, stage: Stage) -> None:
        """One round. Raises BenchFailed."""
        before = _postgres_s(stage)
        found = self._run(stage, "rebuild")
        if (found["events"], found["money"]) != (self.rebuilds.events, self.money):
            raise BenchFailed(f"{self.name} has not projected its {self.rebuilds.events} events: {found}")
        self.rebuilds.count(found["seconds"], found["cpu_s"], _postgres_s(stage) - before)

    def _run(self, stage: Stage, *arguments: str) -> dict[str, Any]:
        log = stage.folder / f"{self.name}-{arguments[0]}.log"
        log.unlink(missing_ok=True)
        child = spawn([*self.argv, *arguments], log=log, env=stage.environment() | self.env, cwd=stage.folder)
        if child.wait(PATIENCE_S) is None:
            child.stop(5)
        if child.poll() != 0:
            raise BenchFailed(f"{self.name} cannot {arguments[0]}: {tail_of(log)}")
        found: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
        return found


def peer_projections(stage: Stage, figures: Figures) -> None:
    """Rebuild of `ledger` against ProjectionRunner of the `eventsourcing` library, and against emmett's rebuild."""
    stage.main_zone()
    stage.say("Making history for the rebuild.")
    head = grow(stage, ZONE, stage.scale.events, 0.75)
    peers = _peers(stage, figures)
    for peer in peers:
        peer.make(stage)
    ours = Rebuilds(head)
    for number in range(stage.scale.rebuilds):
        stage.say(f"Rebuilds by peers, round {number + 1} of {stage.scale.rebuilds}.")
        _rebuild_ours(stage, ours)
        for peer in peers:
            peer.rebuild(stage)
    if "rebuild_events" not in figures.per_s:
        ours.note(figures, "rebuild")
    for peer in peers:
        figures.ratios[f"rebuild_vs_{peer.name}"] = median_ratio(ours.rates, peer.rebuilds.rates)
        figures.conditions[f"{peer.name}_history"] = peer.rebuilds.events
        peer.rebuilds.note(figures, peer.name)


def _rebuild_ours(stage: Stage, ours: Rebuilds) -> None:
    ledger = all_projections()["ledger"]
    postgres, cpu, begun = _postgres_s(stage), sum(os.times()[:4]), time.monotonic()
    rebuild(stage.connect, ZONE, ledger)
    ours.count(time.monotonic() - begun, sum(os.times()[:4]) - cpu, _postgres_s(stage) - postgres)
    with stage.connect() as connection:
        sweep(connection, ZONE, ledger)  # Nobody waits for it, so it is not counted.


def _postgres_s(stage: Stage) -> float:
    return tree_cpu_s(stage.servers.pids["postgres"])


def _peers(stage: Stage, figures: Figures) -> list[Peer]:
    wallets = {"BENCH_WALLETS": str(stage.scale.wallets), "BENCH_PRINCIPALS": str(stage.principals)}
    library = make_database(stage, "bench_projection_runner") | wallets
    library["PERSISTENCE_MODULE"] = "eventsourcing.postgres"
    peers = [Peer("projection_runner", LIBRARY, library)]
    try:
        program = [node(), str(node_folder(stage.folder, stage.say) / "projection.mjs")]
    except NodeMissing as missing:
        figures.conditions["peer_projections_without_node"] = str(missing)
        return peers
    make_database(stage, "bench_emmett_projection")
    emmett = {"EMMETT_URL": database_url(stage, "bench_emmett_projection")} | wallets
    return [*peers, Peer("emmett_consumer", program, emmett)]
