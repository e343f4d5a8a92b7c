"""What grows with the log, and what does not: the same work beside 10 thousand, a million and ten million events.

Each size is a database of its own on one server, with a process of the API of its own, so that the smallest one
has small indexes. All of them take turns, round by round. A zone has a wallet for ten of its events; commands go
between the same number of wallets in each, and are measured apart for streams that nobody has in memory.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

from ops.bench._databases import drop, nobody_vacuums, stage_in
from ops.bench._figures import Figures, Plot
from ops.bench._growth_queries import queries
from ops.bench._history import economy, make_history, wallets_of
from ops.bench._lag import following, lags_at
from ops.bench._long_stream import long_stream
from ops.bench._measure import quantile
from ops.bench._open_timers import open_timers
from ops.bench._rounds import Side, take_turns
from ops.bench._stage import ZONE, App, Stage
from projections._engine import all_projections
from projections._rebuild import rebuild

LAG_RATE = 500
BATCH = 100
WARM_UP = 100
"""A command for that many events: more than the index of keys has pages."""
LEAST_WARM_UP = 5
"""Commands for each wallet: then all of them are in memory, and the process has done everything often."""
COLD_PER_S = 20_000
"""Requests for a second of a round: enough that none of them is sent twice."""


@dataclass
class Grown:
    """A database of one size."""

    events: int
    stage: Stage
    app: App
    position: int
    """Of the head, before anything is measured."""

    @property
    def label(self) -> str:
        return str(self.events)


def growth(stage: Stage, figures: Figures) -> None:
    """Every figure by the number of events, and the largest against the smallest: 1.0 is no growth at all."""
    terms = stage.scale.growth
    with stage.superuser() as superuser, nobody_vacuums(superuser):
        grown = [_grown(stage, figures, number, events) for number, events in enumerate(terms.events, 1)]
        _rebuilt(stage, figures, grown)
        _settled(stage, grown)
        stages = {size.label: size.stage for size in grown}
        queries(stage, figures, stages)
        _lag(stage, figures, grown)
        for name in KINDS:
            _commands(stage, figures, grown, name)
        _compare(figures, grown)
        _draw(figures)
        figures.conditions["growth"] = _conditions(stage, grown)
        for size in grown:
            drop(stage, size.stage, _name(size.events))
    long_stream(stage, figures, len(grown) + 1)
    open_timers(stage, figures, len(grown) + 2)


def _grown(stage: Stage, figures: Figures, number: int, events: int) -> Grown:
    stage.say(f"Making a history of {events} events.")
    own = stage_in(stage, _name(events), number)
    begun = time.monotonic()
    batches = economy(events, wallets_of(events), own.principals, stage.seed)
    position = make_history(own.servers.database_url, ZONE, batches)
    figures.put_growth("history_events_per_s", str(events), position / (time.monotonic() - begun))
    return Grown(events, own, own.start_fogbook("transfer"), position)


def _name(events: int) -> str:
    return f"grown_{events}"


def _rebuilt(stage: Stage, figures: Figures, grown: list[Grown]) -> None:
    """All read models; small ones several times."""
    for size in grown:
        for name, projection in all_projections().items():
            stage.say(f"Rebuilding {name} over {size.events} events.")
            took = []
            for _ in range(stage.scale.rebuilds if name == "ledger" and size is not grown[-1] else 1):
                begun = time.monotonic()
                rebuild(size.stage.connect, ZONE, projection)
                took.append(time.monotonic() - begun)
            if name == "ledger":
                figures.put_growth(
                    "rebuild_events_per_s", size.label, size.position / statistics.median(took)
                )


def _settled(stage: Stage, grown: list[Grown]) -> None:
    """What the history left to do is done before anything is measured, in all sizes alike."""
    for size in grown:
        stage.say(f"Vacuuming {size.events} events.")
        with size.stage.superuser() as connection:
            connection.execute("VACUUM (ANALYZE)")


def _lag(stage: Stage, figures: Figures, grown: list[Grown]) -> None:
    for size in grown:
        stage.say(f"Commit-to-visible lag beside {size.events} events.")
        with following(size.stage) as poller:
            # There was nothing to do so far: the worker may not be up.
            lags_at(size.stage, poller, LAG_RATE, 0.5)
            lags, _ = lags_at(size.stage, poller, LAG_RATE, stage.scale.growth.lag_s)
        for name, q in (("p50", 0.5), ("p99", 0.99)):
            figures.put_growth(f"lag_{name}_ms", size.label, quantile(sorted(lags), q))


COLD = "command_on_cold_streams"
KINDS: dict[str, dict[str, Any]] = {
    "command": {},
    "command_after_checkpoint": {},
    "command_ordered_keys": {"ordered_keys": True},
    "command_of_batch": {"batch": BATCH},
    COLD: {},
}
"""What is sent, each time after a checkpoint: transfers between the same wallets in each size, on cold streams between
all that there are. Only the first kind waits until what a checkpoint costs is over: images of the pages that are then
written to for the first time, of which a large index has many more."""


def _commands(stage: Stage, figures: Figures, grown: list[Grown], name: str) -> None:
    """Transfers, in turns between the sizes."""
    terms = stage.scale.growth
    sides = {size.label: Side((size.app,), KINDS[name] | {"seconds": terms.round_s}) for size in grown}
    with stage.superuser() as connection:
        connection.execute("CHECKPOINT")
    for size in grown:
        side = sides[size.label]
        if name == COLD:
            side.terms |= {"wallets": wallets_of(size.events), "pairs": int(COLD_PER_S * terms.round_s)}
        if name == "command":
            _warm_up(stage, side, max(size.events // WARM_UP, LEAST_WARM_UP * stage.scale.wallets))
    take_turns(stage, sides, terms.rounds, f"Growth: {name.replace('_', ' ')}")
    for label, side in sides.items():
        commands = sum(round.commands for round in side.rounds)
        costs = {"server": side.server_s, "postgres": side.postgres_s}
        costs["cpu"] = side.server_s + side.postgres_s
        for who, spent in costs.items():
            figures.put_growth(f"{name}_{who}_us", label, 1e6 * spent / commands)
        for short in ("p50", "p99"):
            median = statistics.median(getattr(round, f"{short}_ms") for round in side.rounds)
            figures.put_growth(f"{name}_{short}_ms", label, median)
        figures.put_growth(f"{name}_wal_bytes", label, _wal_bytes(stage, side))


def _warm_up(stage: Stage, side: Side, commands: int) -> None:
    """At least so many commands."""
    stage.say(f"Growth: warming up with {commands} commands.")
    left = commands
    while left > 0:
        left -= stage.load.run(stage.round(*side.apps, **side.terms)).commands


def _wal_bytes(stage: Stage, side: Side) -> float:
    """What a command writes to PostgreSQL's log, in one more round."""
    lsn = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
    with stage.superuser() as connection:
        before = connection.execute(lsn).fetchone()
        result = stage.load.run(stage.round(*side.apps, **side.terms))
        after = connection.execute(lsn).fetchone()
    assert before is not None
    assert after is not None
    return float(after[0] - before[0]) / result.commands


def _compare(figures: Figures, grown: list[Grown]) -> None:
    """The largest size against the smallest, of what costs more when it grows."""
    small, large = grown[0].label, grown[-1].label
    for name, series in figures.growth.items():
        if not name.endswith("_per_s") and series.get(small):
            figures.growth_ratios[name] = round(series[large] / series[small], 3)


def _draw(figures: Figures) -> None:
    """What commands and queries cost, and how long what happens is not seen, by the number of events."""
    drawn = {
        "growth_cpu": (
            "CPU of a command",
            "us",
            {name.replace("_", " "): f"{name}_cpu_us" for name in KINDS},
        ),
        "growth_latency": (
            "Latencies at p50",
            "ms",
            {
                **{name.replace("_", " "): f"{name}_p50_ms" for name in ("command", COLD)},
                **{"balance": "balance_p50_ms", "page of a statement": "statement_p50_ms"},
                "commit to visible": "lag_p50_ms",
            },
        ),
    }
    for plot, (title, unit, lines) in drawn.items():
        figures.plots[plot] = Plot(f"{title} by the size of the log", "events", unit)
        for line, series in lines.items():
            for size, value in figures.growth[series].items():
                figures.plots[plot].add(line, int(size), value)


SIZES = """
SELECT pg_database_size(current_database()), (SELECT position FROM heads WHERE zone = %s),
       (SELECT string_agg(name || ' = ' || current_setting(name), ', ' ORDER BY name) FROM pg_settings
        WHERE name IN ('wal_compression', 'shared_buffers', 'max_wal_size', 'checkpoint_timeout'))
"""


def _conditions(stage: Stage, grown: list[Grown]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "wallets_of_commands": stage.scale.wallets,
        "vacuumed_before": True,
        "autovacuum": "off",
        "checkpoint": "before each kind of command; `command` itself only when its page images are written",
        "rounds": stage.scale.growth.rounds,
    }
    for size in grown:
        with size.stage.connect() as connection:
            row = connection.execute(SIZES, (ZONE,)).fetchone()
        assert row is not None
        found[size.label] = {
            "streams": wallets_of(size.events),
            "events_before": size.position,
            "events_after": row[1],
            "database_mib": row[0] // 2**20,
        }
        found["postgres"] = row[2]
    return found
