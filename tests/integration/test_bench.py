"""The bench at a tiny scale: that it runs, ends and says what it should; never how fast anything is."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ops.bench._measure import median_ratio, quantile

RATIOS = {
    "transfer_vs_noop",
    "transfer_vs_noop_same_route",
    "transfer_vs_library_app",
    "append_vs_raw_batch",
    "rebuild_vs_copy_decode",
    "verify_vs_copy_decode",
    "mixed_vs_transfer",
    "transfer_vs_unhashed",
    "live_vs_as_of_balance",
    "live_vs_as_of_statement",
}


def run(home: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL")}
    argv = [sys.executable, "-m", "ops.bench.run", "--tiny", "--json", "--home", str(home), *arguments]
    return subprocess.run(argv, env=inherited | env, capture_output=True, text=True, timeout=120)


def positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


@pytest.mark.timeout(150)
def test_a_tiny_bench_measures_every_part_and_leaves_nothing_behind(home: Path) -> None:
    done = run(home, "--seed", "7")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert set(figures["ratios"]) == RATIOS
    assert all(positive(ratio) for ratio in figures["ratios"].values())
    for latency in figures["latency_ms"].values():
        assert 0 < latency["p50"] <= latency["p99"]
    assert 0 <= figures["lag_ms"]["p50"] <= figures["lag_ms"]["p99"] <= figures["lag_ms"]["max"]
    assert all(positive(figure) for figure in figures["hashing"].values())
    assert figures["hashing"]["share_of_command"] < figures["hashing"]["share_of_server"] < 1
    assert positive(figures["per_s"]["tree_leaves"])
    assert positive(figures["memory_mib"])
    conditions = figures["conditions"]
    assert {"cores", "python", "postgres", "seed", "rounds", "c", "quick"} <= set(conditions)
    assert (conditions["seed"], conditions["quick"]) == (7, False)
    assert list(home.iterdir()) == []


def test_an_unknown_part_is_named(home: Path) -> None:
    done = run(home, "--part", "nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no part nonsense" in done.stderr


def test_servers_of_others_are_never_loaded(home: Path) -> None:
    done = run(home, DATABASE_URL="postgresql://nowhere/fogbook")
    assert (done.returncode, done.stdout) == (2, "")
    assert "DATABASE_URL" in done.stderr


def test_figures_are_medians_of_rounds_and_nearest_ranks() -> None:
    assert median_ratio([2, 3, 100], [1, 3, 10]) == 2
    assert quantile([1, 2, 3, 4], 0.5) == 3
    assert quantile([1], 0.99) == 1
