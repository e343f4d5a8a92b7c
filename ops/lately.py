"""How long something took lately, as a histogram of this process counted it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping

from prometheus_client import Histogram

LATELY_S = 60.0
PAUSE_S = 1.0
"""It is not counted together more often."""

Counts = Counter[float]
"""Of each upper bound in seconds how many took no longer."""


class Lately:
    """Quantiles over the routes that begin with a prefix, of the last minute; of all that was counted where nobody
    asked before. `answered` has the histogram of each route that there is something to count of."""

    def __init__(self, answered: Mapping[str, Histogram], prefix: str) -> None:
        self._answered = answered
        self._prefix = prefix
        self._counted: deque[tuple[float, Counts]] = deque()

    def quantiles(self, *parts: float) -> list[float] | None:
        """In seconds, within the histogram's buckets; None where nothing was measured."""
        now = time.monotonic()
        if not self._counted or now - self._counted[-1][0] >= PAUSE_S:
            self._counted.append((now, self._count()))
        while len(self._counted) > 1 and now - self._counted[1][0] >= LATELY_S:
            self._counted.popleft()
        newest, oldest = self._counted[-1][1], self._counted[0][1]
        counts = Counter({bound: count - oldest[bound] for bound, count in newest.items()})
        if len(self._counted) == 1:
            counts = newest
        return quantiles(counts, parts)

    def _count(self) -> Counts:
        counts: Counts = Counter()
        for route, histogram in self._answered.items():
            if route.startswith(self._prefix):
                for sample in (each for metric in histogram.collect() for each in metric.samples):
                    if sample.name.endswith("_bucket"):
                        counts[float(sample.labels["le"])] += int(sample.value)
        return counts


def quantiles(counts: Counts, parts: Iterable[float]) -> list[float] | None:
    """Straight lines within the buckets, as Prometheus draws them; what is above the last bound is told as that."""
    bounds = sorted(counts)
    total = counts[bounds[-1]] if bounds else 0
    if not total:
        return None
    return [_quantile(counts, bounds, part * total) for part in parts]


def _quantile(counts: Counts, bounds: list[float], rank: float) -> float:
    below, count_below = 0.0, 0
    for bound in bounds:
        if counts[bound] >= rank and counts[bound] > count_below:
            if bound == float("inf"):
                return below
            return below + (bound - below) * (rank - count_below) / (counts[bound] - count_below)
        below, count_below = bound, counts[bound]
    return below
