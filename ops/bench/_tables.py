"""Figures as tables: the same ones for people at a terminal and for README."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ops.bench._plots import short
from ops.bench.goals import GOALS

ORDER = "order of events"
BY_CONCURRENCY = re.compile(r"(?P<who>\w+?)_c(?P<level>\d+(x\d+)?)(_p(?P<processes>\d))?")
"""`transfer_c8x100_p2`: transfers over 8 connections in batches of 100, with two processes."""

TITLES = {
    "transfer": "transfer over HTTP",
    "noop": "no-op, plain FastAPI",
    "noop_same_route": "no-op on our command route",
    "noop_bursts": "no-op on our command route, in bursts of 2 ms",
    "library_app": "FastAPI + eventsourcing",
    "library_tuned": "FastAPI + eventsourcing, tuned",
    "library_tuned_unordered": "FastAPI + eventsourcing, tuned, without its lock",
    "emmett": "express + emmett",
    "transfer_beside_peers": "transfer over HTTP, in turns with these",
    "message_db": "FastAPI + message-db",
    "append_single": "append of one command at a time",
    "write_message": "message-db's write_message",
    "one_row": "commits of one row",
    "one_row_8": "commits of one row, 8 connections",
    "projection_runner": "rebuild by eventsourcing's ProjectionRunner",
    "emmett_consumer": "rebuild by emmett's consumer",
    "append": "append of batches of 32 commands",
    "raw_batch": "raw INSERT of the same rows",
    "raw_events_only": "raw INSERT of the events alone",
}

Figures = Mapping[str, Any]
"""As in JSON."""


@dataclass
class Table:
    title: str
    heads: list[str]
    rows: list[list[str]] = field(default_factory=list)


def tables(figures: Figures) -> list[Table]:
    """Those that the run has something for."""
    makers: tuple[Callable[[Figures], Table], ...]
    makers = (_goals, _sides, _commands, _lag, _hashing, _growth, _panels, _open_pages, _ratios)
    return [table for make in makers if (table := make(figures)).rows]


def measured(goals: Table) -> Table:
    """The goals of parts that ran, without the rates of both sides, which stand in a table of their own."""
    kept = [i for i, head in enumerate(goals.heads) if head not in ("ours", "theirs")]
    rows = [[row[i] for i in kept] for row in goals.rows if row[-1]]
    return Table(goals.title, [goals.heads[i] for i in kept], rows)


def title_of(name: str) -> str:
    return TITLES.get(name, name.replace("_", " "))


def _goals(figures: Figures) -> Table:
    table = Table("Goals", ["work", "ours", "against", "theirs", "must reach", "measured", "reached"])
    for goal in GOALS:
        ours, theirs = (_per_s(figures, name) for name in (goal.ours, goal.theirs))
        value = goal.value(figures)
        measured = "not in this run" if value is None else f"{value:g}"
        reached = "" if value is None else "yes" if goal.reached(value) else "no"
        table.rows.append([goal.work, ours, goal.against, theirs, goal.must, measured, reached])
    return table


def _per_s(figures: Figures, name: str) -> str:
    rate = figures["per_s"].get(name)
    return "" if rate is None else f"{rate:,.0f}/s"


def _sides(figures: Figures) -> Table:
    """What each of a ratio's sides did, and what it cost."""
    heads = [
        "medians of rounds",
        "/s",
        "p50, p99, p99.9 ms",
        "CPU us: server, PostgreSQL, client",
        "MiB",
        ORDER,
    ]
    table = Table("Sides", heads)
    rates = {name.removesuffix("_events"): rate for name, rate in figures["per_s"].items()}
    for name in dict.fromkeys((*figures["latency_ms"], *rates, *figures["cpu_us"], *figures["memory_mib"])):
        if BY_CONCURRENCY.fullmatch(name):
            continue
        latency, cpu = figures["latency_ms"].get(name, {}), figures["cpu_us"].get(name, {})
        memory = figures["memory_mib"].get(name)
        table.rows.append(
            [
                title_of(name) + (", events" if f"{name}_events" in figures["per_s"] else ""),
                f"{rates[name]:,.0f}" if name in rates else "",
                ", ".join(_ms(latency[part]) for part in ("p50", "p99", "p999") if part in latency),
                ", ".join(f"{spent:.0f}" for spent in cpu.values()),
                "" if memory is None else f"{memory:.0f}",
                figures["ordering"].get(name, ""),
            ]
        )
    return table


def _commands(figures: Figures) -> Table:
    """A row for each kind and number of processes, a column for each concurrency."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    orders: dict[tuple[str, str], str] = {}
    for name, latency in figures["latency_ms"].items():
        if match := BY_CONCURRENCY.fullmatch(name):
            side = (match["who"], match["processes"] or "1")
            cell = f"{figures['per_s'][name]:,.0f}, {_ms(latency['p50'])}, {_ms(latency['p99'])}"
            found.setdefault(side, {})[match["level"]] = cell
            orders[side] = figures["ordering"].get(name, "")
    levels = sorted({level for cells in found.values() for level in cells}, key=_by_size)
    heads = ["commands/s, p50, p99 ms", "processes", *map(_level, levels), ORDER]
    table = Table("Commands by concurrency", heads)
    for side, cells in found.items():
        table.rows.append(
            [title_of(side[0]), side[1], *(cells.get(level, "") for level in levels), orders[side]]
        )
    return table


def _by_size(level: str) -> tuple[int, int]:
    connections, _, batch = level.partition("x")
    return int(batch or 0), int(connections)


def _level(level: str) -> str:
    return level.replace("x", " batches of ") if "x" in level else f"c = {level}"


def _lag(figures: Figures) -> Table:
    table = Table("Commit to visible, through Dramatiq", ["at", "p50 ms", "p99 ms", "p99.9 ms", "most ms"])
    lags = {f"{rate} transfers/s": lag for rate, lag in figures["lag_ms"].items()}
    if figures["lag_mixed_ms"]:
        lags["mixed commands"] = figures["lag_mixed_ms"]
        lags["timers after their time, meanwhile"] = figures["timers_late_ms"]
    for name, lag in lags.items():
        table.rows.append([name, *(_ms(lag[part]) for part in ("p50", "p99", "p999", "max"))])
    return table


def _hashing(figures: Figures) -> Table:
    """What leaf hashes are of a command's CPU time."""
    table = Table("Leaf hashes of a transfer", ["CPU", ""])
    for name, value in figures["hashing"].items():
        what, _, unit = name.rpartition("_")
        cells = [what, f"{value:.1f} us"] if unit == "us" else [name.replace("_", " "), f"{value:.1%}"]
        table.rows.append(cells)
    return table


def _growth(figures: Figures) -> Table:
    """A row for each figure, a column for each size."""
    sizes = sorted({int(size) for series in figures["growth"].values() for size in series})
    table = Table("Growth", ["beside that many", *map(short, sizes), "growth"])
    for name, series in figures["growth"].items():
        cells = (f"{series[str(size)]:,.4g}" if str(size) in series else "" for size in sizes)
        grown = figures["growth_ratios"].get(name)
        table.rows.append([name.replace("_", " "), *cells, "" if grown is None else f"{grown:.2f}"])
    return table


MOST_PANELS = 10


def _panels(figures: Figures) -> Table:
    """The console's panels that take longest, the slowest first."""
    heads = ["panel", "query p50, p99 ms", "over HTTP p50, p99 ms", "round trips"]
    panels, events = figures.get("console", {}), short(figures["conditions"].get("console_events", 0))
    table = Table(f"The console beside {events} events: the slowest of {len(panels)} panels", heads)
    slowest = sorted(panels.items(), key=lambda each: -each[1]["http_p99_ms"])[:MOST_PANELS]
    for name, panel in slowest:
        pairs = (
            ", ".join(_ms(panel[f"{how}_{part}_ms"]) for part in ("p50", "p99")) for how in ("query", "http")
        )
        table.rows.append([name.replace("/", ": "), *pairs, f"{panel['round_trips']:.0f}"])
    return table


def _open_pages(figures: Figures) -> Table:
    table = Table("The console's pages", ["", ""])
    for name, value in figures.get("console_pages", {}).items():
        table.rows.append([name.replace("_", " "), f"{value:,.4g}"])
    return table


def _ratios(figures: Figures) -> Table:
    table = Table("Ratios, higher is better", ["ratio", ""])
    table.rows = [[name.replace("_", " "), f"{ratio:.2f}"] for name, ratio in figures["ratios"].items()]
    return table


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
