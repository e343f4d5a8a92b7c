"""Quantiles of what a histogram counted lately."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Histogram

from ops import lately
from ops.lately import Lately


class Answered(dict[str, Histogram]):
    """Histograms by route, as the applications count."""

    def __init__(self) -> None:
        self._all = Histogram(
            "took_seconds", "Time", ["route"], buckets=(0.01, 0.1, 1), registry=CollectorRegistry()
        )

    def observe(self, route: str, seconds: float) -> None:
        self.setdefault(route, self._all.labels(route)).observe(seconds)


@pytest.fixture
def answered() -> Answered:
    return Answered()


def test_nothing_was_measured_yet(answered: Answered) -> None:
    answered.observe("/queries/x", 0.5)
    assert Lately(answered, "/commands/").quantiles(0.5) is None


def test_quantiles_lie_within_the_buckets_of_all_routes_with_the_prefix(answered: Answered) -> None:
    for route in ("/commands/a", "/commands/b"):
        for _ in range(50):
            answered.observe(route, 0.005)
    answered.observe("/commands/a", 0.5)
    half, most, all_of_them = Lately(answered, "/commands/").quantiles(0.5, 0.99, 1.0) or ()
    assert half == pytest.approx(0.01 * 50.5 / 100)
    assert most < 0.01
    assert all_of_them == pytest.approx(1)


def test_what_took_longer_than_any_bound_is_told_as_the_last(answered: Answered) -> None:
    answered.observe("/commands/a", 5)
    assert Lately(answered, "/commands/").quantiles(0.5) == [1]


def test_only_the_last_minute_counts(answered: Answered, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(lately.time, "monotonic", lambda: now)
    told = Lately(answered, "/commands/")
    answered.observe("/commands/a", 0.5)
    assert told.quantiles(1.0) == [pytest.approx(1)]
    for _ in range(3):
        now += 31
        answered.observe("/commands/a", 0.005)
        assert told.quantiles(1.0) == [pytest.approx(0.01)], "the slow one was before all that was counted"
    now += 200
    assert told.quantiles(1.0) is None
