"""What a run of the bench found out: all that is printed, and the plots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Plot:
    """Lines over one pair of axes. `--plots DIR` draws each as `DIR/<its name in Figures.plots>.svg`."""

    title: str
    x: str
    """What the axis counts, with its unit; so does `y`."""
    y: str
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Points of each line, by x."""
    log_x: bool = True
    log_y: bool = False

    def add(self, line: str, x: float, y: float) -> None:
        self.series.setdefault(line, []).append((x, y))


@dataclass
class Figures:
    """Each part fills in its own."""

    ratios: dict[str, float] = field(default_factory=dict)
    """Fogbook against what the name says: higher is better."""
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    """p50, p99 and p999 of a request, by who answers it: medians over rounds."""
    per_s: dict[str, float] = field(default_factory=dict)
    cpu_us: dict[str, dict[str, float]] = field(default_factory=dict)
    """CPU time of a command in the server, in PostgreSQL and in the client."""
    memory_mib: dict[str, float] = field(default_factory=dict)
    """Resident memory of each server after its rounds."""
    ordering: dict[str, str] = field(default_factory=dict)
    """Which order the events of each are sure to have."""
    lag_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    """Commit to visible, by commands a second."""
    lag_mixed_ms: dict[str, float] = field(default_factory=dict)
    timers_late_ms: dict[str, float] = field(default_factory=dict)
    hashing: dict[str, float] = field(default_factory=dict)
    console: dict[str, dict[str, float]] = field(default_factory=dict)
    """By page and panel: milliseconds of its query alone and over HTTP, and round trips to PostgreSQL."""
    console_pages: dict[str, float] = field(default_factory=dict)
    """Of the first load, and of pages that are open."""
    growth: dict[str, dict[str, float]] = field(default_factory=dict)
    """Each figure by the number of events that the log holds, or of what else there is much of."""
    growth_ratios: dict[str, float] = field(default_factory=dict)
    """Each at the largest size against the smallest; 1.0 is no growth at all."""
    plots: dict[str, Plot] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)

    def put_growth(self, name: str, size: str, value: float) -> None:
        self.growth.setdefault(name, {})[size] = round(value, 3)
