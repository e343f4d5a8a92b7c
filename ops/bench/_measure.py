"""Reading what processes cost (from /proc, no library needed) and summing up rounds."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """The fields behind the program's name, which may itself contain spaces; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_s(pid: int) -> float:
    """CPU time of one process with all its threads."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S if fields else 0.0


def tree_cpu_s(pid: int) -> float:
    """CPU time of a process, of its children, and of those of them that ended (PostgreSQL: its backends)."""
    own = _stat(pid)
    if not own:
        return 0.0
    ended = (int(own[13]) + int(own[14])) / TICKS_PER_S
    children = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    return cpu_s(pid) + ended + sum(cpu_s(c) for c in children if _parent(c) == pid)


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def quantile(ordered: Sequence[float], q: float) -> float:
    """The nearest-rank quantile of values that are sorted already."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def spread(values: Iterable[float], digits: int = 3) -> dict[str, float]:
    """p50, p99, p99.9 and the largest value."""
    ordered = sorted(values)
    named = {name: quantile(ordered, q) for name, q in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))}
    return {name: round(value, digits) for name, value in (named | {"max": ordered[-1]}).items()}


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over rounds of ours / theirs: each round's two sides ran right after each other."""
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)
