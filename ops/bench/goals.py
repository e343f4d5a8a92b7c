"""What Fogbook has to reach, and whether a run did: on one machine of 2 cores that all sides share, in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from commands._log import SNAPSHOT_EVERY
from ops.bench._figures import Figures

Measured = Mapping[str, Any]
"""Figures as in JSON."""


@dataclass(frozen=True)
class Goal:
    """A bound for one figure."""

    work: str
    against: str
    figure: Callable[[Measured], float]
    """From the figures of a run; raises KeyError when it has no such part."""
    bound: float
    at_most: bool = False
    """Otherwise it is a least."""
    ours: str = ""
    """Of rates: which of `per_s` the figure compares, and with which."""
    theirs: str = ""

    def value(self, figures: Measured) -> float | None:
        """What was measured; None where the run had no such part."""
        try:
            return round(self.figure(figures), 3)
        except (KeyError, ValueError):
            return None

    def reached(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    @property
    def must(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.bound:g}"


def ratio(work: str, against: str, name: str, bound: float, ours: str, theirs: str) -> Goal:
    return Goal(work, against, lambda figures: figures["ratios"][name], bound, ours=ours, theirs=theirs)


def over(theirs: str, against: str, bound: float, ours: str = "transfer") -> Goal:
    """A transfer, against that peer's."""
    return ratio(TRANSFER, against, f"transfer_vs_{theirs}", bound, ours, theirs)


def query(kind: str, what: str) -> Goal:
    name = f"query_{kind}"
    return ratio(what, "a hand-written endpoint", f"{name}_vs_handwritten", 1.0, name, f"{name}_handwritten")


def _tail(figures: Measured) -> float:
    latency = figures["latency_ms"]["transfer"]
    return float(latency["p99"] / latency["p50"])


def _cpu_growth(figures: Measured) -> float:
    cost = figures["growth"]["command_cpu_us"]
    return float(cost["10000000"] / cost["10000"])


def _slowest_panel(figures: Measured) -> float:
    return float(max(panel["http_p99_ms"] for panel in figures["console"].values()))


TRANSFER = "transfer over HTTP, c=32"
REBUILD = "rebuild of `ledger`, digests on"

GOALS = (
    over("noop", "a plain FastAPI no-op", 1.2),
    over("noop_same_route", "a no-op on our command route", 0.75),
    over("library_app", "FastAPI and `eventsourcing`, plain", 30),
    over("library_tuned", "FastAPI and `eventsourcing`, tuned", 15, "transfer_beside_peers"),
    over("emmett", "emmett behind express", 4, "transfer_beside_peers"),
    ratio(
        "transfers in batches of 100",
        "single ones, c=32",
        "transfer_batches_vs_single",
        4,
        "transfer_c8x100_p1",
        "transfer_c32_p1",
    ),
    Goal(f"p99 of a {TRANSFER}", "its p50", _tail, 3, at_most=True),
    ratio(
        "append of batches of 32 commands, events",
        "raw insert of the same rows",
        "append_vs_raw_batch",
        0.6,
        "append_events",
        "raw_batch_events",
    ),
    ratio(
        f"{REBUILD}, events",
        "COPY out and decode",
        "rebuild_vs_copy_decode",
        0.5,
        "rebuild_events",
        "copy_decode_events",
    ),
    ratio(
        f"{REBUILD}, events",
        "ProjectionRunner of `eventsourcing`",
        "rebuild_vs_projection_runner",
        100,
        "rebuild_events",
        "projection_runner_events",
    ),
    Goal(
        "commit to visible at 500 commands/s",
        "ms at p99",
        lambda f: f["lag_ms"]["500"]["p99"],
        25,
        at_most=True,
    ),
    query("point", "query of one row"),
    query("page", "query of a page of 50"),
    query("next_page", "query of a page behind a cursor"),
    query("analytics", "analytics"),
    query("point_beside_writes", "query of one row, beside writes"),
    query("page_beside_writes", "query of a page of 50, beside writes"),
    Goal("CPU of a command beside 10M events", "beside 10k", _cpu_growth, 1.15, at_most=True),
    Goal("slowest panel of the console", "ms at p99", _slowest_panel, 50, at_most=True),
    Goal(
        "500 open pages",
        "connections to PostgreSQL at work",
        lambda figures: figures["console_pages"]["connections_used"],
        1,
        at_most=True,
    ),
    Goal(
        "p99 of a command beside 500 open pages",
        "without them",
        lambda figures: figures["console_pages"]["command_p99_ratio"],
        1.1,
        at_most=True,
    ),
    Goal(
        "first load of the overview",
        "KB",
        lambda figures: figures["console_pages"]["first_load_bytes"] / 1024,
        150,
        at_most=True,
    ),
    Goal(
        "loading a stream of 1M events",
        "events read",
        lambda figures: figures["growth"]["stream_load_rows"]["1000000"],
        SNAPSHOT_EVERY,
        at_most=True,
    ),
)


def missed(figures: Figures) -> list[Goal]:
    """Goals that were measured and not reached."""
    found = asdict(figures)
    return [goal for goal in GOALS if (value := goal.value(found)) is not None and not goal.reached(value)]
