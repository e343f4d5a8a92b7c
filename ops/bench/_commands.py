"""Commands over HTTP by kind, concurrency and number of server processes; batches; against routes that do nothing.

Two processes sequence the same zone and share the connections evenly: correct, but each batch then meets the other's
under the lock of the zone's head. What batches send is NDJSON, and their latency is that of a whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ops.bench._economy import found_economy
from ops.bench._figures import Figures, Plot
from ops.bench._measure import median_ratio
from ops.bench._rounds import GAPLESS, NOTHING_STORED, Side, note, take_turns
from ops.bench._stage import OUR_HTTP, App, Stage, found_zone

KINDS = {
    "transfer": "ledger/transfer",
    "delegate": "staking/delegate",
    "meter_usage": "marketplace/meter-usage",
}
IDLE = {
    "noop": ("noop", "httptools"),
    "noop_same_route": ("same_route", OUR_HTTP),
    "noop_bursts": ("bursts", OUR_HTTP),
}
"""The applications that do nothing: their modules, and the protocol they are served under."""
MOST_REQUESTS = 8_192
"""Different ones in a round, about."""
BATCH = 100
BATCH_CONNECTIONS = 8
SINGLE = 32
"""Connections of the single commands that batches are compared with."""
GAPLESS_OF_TWO = f"{GAPLESS}, by the lock on the zone's head"
OWN_ZONE = "commands"
"""Fresh, so that no contract has ended and no device has fallen silent meanwhile."""


@dataclass
class Point:
    """A side with its place in the plot and in the table."""

    name: str
    line: str
    connections: int
    batch: int
    ordering: str
    side: Side


def commands(stage: Stage, figures: Figures) -> None:
    """Each kind of command at each concurrency with one and two processes, and in batches of 100."""
    ours = (stage.fogbook(), stage.start_fogbook("second"))
    idle = {
        name: stage.start_peer(name, f"ops.bench.peers.{module}:app", http)
        for name, (module, http) in IDLE.items()
    }
    found_zone(stage, OWN_ZONE, stage.scale.wallets)
    found_economy(stage, OWN_ZONE)
    plot = Plot("Latency against concurrency", "connections", "p50, ms", log_y=True)
    for kind, command in KINDS.items():
        points = _points(stage, kind, command, ours, idle if kind == "transfer" else {})
        sides = {point.name: point.side for point in points}
        take_turns(stage, sides, stage.scale.command_rounds, f"Commands over HTTP: {command}")
        for point in points:
            note(figures, point.name, point.side, point.ordering)
            if not point.batch:
                plot.add(point.line, point.connections, figures.latency_ms[point.name]["p50"])
        _compare(figures, kind, sides)
    figures.plots["latency_against_concurrency"] = plot
    figures.conditions["commands_rounds"] = stage.scale.command_rounds
    figures.conditions["commands_batches"] = (
        f"{BATCH_CONNECTIONS} connections with batches of {BATCH} against {SINGLE} with single commands"
    )
    for name in ("second", *IDLE):
        stage.running.pop(name).stop()


def _points(
    stage: Stage, kind: str, command: str, ours: tuple[App, App], idle: Mapping[str, App]
) -> list[Point]:
    """Neighbours are those that are compared: all at the same concurrency, batches after single commands."""
    devices = stage.scale.devices
    terms = {
        "zone": OWN_ZONE,
        "mix": {command: 1},
        "devices": devices,
        # Whole turns of the devices, so that a contract's numbers stay in order where requests begin anew.
        "pairs": devices * -(-MOST_REQUESTS // devices),
        "seconds": stage.scale.command_s,
    }
    points = []
    for connections, batch in [
        *((c, 0) for c in stage.scale.command_connections),
        (BATCH_CONNECTIONS, BATCH),
    ]:
        level = f"c{connections}x{batch}" if batch else f"c{connections}"
        changed = terms | {"connections": connections, "batch": batch}
        for count, order in ((1, GAPLESS), (2, GAPLESS_OF_TWO)):
            line = f"{kind}, {count} process{'es' if count > 1 else ''}"
            side = Side(ours[:count], changed)
            points.append(Point(f"{kind}_{level}_p{count}", line, connections, batch, order, side))
        for name, app in idle.items() if not batch else ():
            points.append(
                Point(f"{name}_{level}", name, connections, 0, NOTHING_STORED, Side((app,), changed))
            )
    return points


def _compare(figures: Figures, kind: str, sides: Mapping[str, Side]) -> None:
    for name, side in sides.items():
        what, _, level = name.rpartition("_c")
        if what in IDLE:
            ours = sides[f"{kind}_c{level}_p1"]
            figures.ratios[f"{kind}_vs_{name}"] = median_ratio(ours.rates, side.rates)
    batches, single = sides[f"{kind}_c{BATCH_CONNECTIONS}x{BATCH}_p1"], sides[f"{kind}_c{SINGLE}_p1"]
    figures.ratios[f"{kind}_batches_vs_single"] = median_ratio(batches.rates, single.rates)
    two = sides[f"{kind}_c{SINGLE}_p2"]
    figures.ratios[f"{kind}_two_processes_vs_one"] = median_ratio(two.rates, single.rates)
