"""The bench at a tiny scale: that it runs, ends and says what it should; never how fast anything is."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ops.bench._measure import median_ratio, quantile
from ops.bench._parts import PARTS, QUICK_PARTS
from ops.bench._requests import MIX
from queries._console._pages import load_pages
from queries._console._panels import PAGES

PATIENCE_S = 280

Json = dict[str, Any]


def run(home: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL")}
    argv = [sys.executable, "-m", "ops.bench.run", "--tiny", "--json", "--home", str(home), *arguments]
    return subprocess.run(argv, env=inherited | env, capture_output=True, text=True, timeout=PATIENCE_S)


def measured(home: Path, *parts: str, options: tuple[str, ...] = ()) -> Json:
    """The figures of a run of these parts, which leaves nothing behind."""
    done = run(home, *options, *(word for part in parts for word in ("--part", part)))
    assert done.returncode == 0, done.stderr
    figures: Json = json.loads(done.stdout)
    assert all(positive(ratio) for ratio in figures["ratios"].values())
    for latency in figures["latency_ms"].values():
        assert 0 < latency["p50"] <= latency["p99"] <= latency.get("p999", math.inf)
    assert {f"{part}_took_s" for part in parts} <= set(figures["conditions"])
    assert list(home.iterdir()) == []
    return figures


def positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


@pytest.mark.long
def test_transfers_appends_and_memory_are_measured_against_their_peers(home: Path) -> None:
    figures = measured(home, "transfer", "append", "rebuild", "memory", options=("--seed", "7"))
    assert set(figures["ratios"]) == {
        "transfer_vs_noop",
        "transfer_vs_noop_same_route",
        "transfer_vs_library_app",
        "append_vs_raw_batch",
        "rebuild_vs_copy_decode",
    }
    sides = {"transfer", "noop", "noop_same_route", "library_app"}
    for name in sides:
        assert set(figures["latency_ms"][name]) == {"p50", "p99", "p999"}
        assert set(figures["cpu_us"][name]) == {"server", "postgres", "client"}
        assert positive(figures["memory_mib"][name])
    assert sides | {"append", "raw_batch", "raw_events_only"} == set(figures["ordering"])
    assert positive(figures["memory_mib"]["transfer_over_all_streams"])
    conditions = figures["conditions"]
    assert {"taken", "cores", "python", "postgres", "seed", "rounds", "c", "quick"} <= set(conditions)
    assert (conditions["seed"], conditions["quick"]) == (7, False)


@pytest.mark.long
def test_commands_are_measured_by_kind_concurrency_and_processes_and_drawn(
    home: Path, tmp_path: Path
) -> None:
    out, plots = tmp_path / "figures.json", tmp_path / "plots"
    figures = measured(home, "commands", options=("--out", str(out), "--plots", str(plots)))
    kinds, levels = ("transfer", "delegate", "meter_usage"), ("c8", "c32", "c8x100")
    ours = {f"{kind}_{level}_p{count}" for kind in kinds for level in levels for count in (1, 2)}
    idle = {f"noop{kind}_{level}" for kind in ("", "_same_route", "_bursts") for level in ("c8", "c32")}
    assert set(figures["per_s"]) == set(figures["ordering"]) == ours | idle
    assert all(figures["ordering"][name].startswith("gapless") for name in ours)
    assert {figures["ordering"][name] for name in idle} == {"nothing is stored"}
    assert set(figures["ratios"]) == (
        {f"transfer_vs_{name}" for name in idle}
        | {f"{kind}_{what}" for kind in kinds for what in ("batches_vs_single", "two_processes_vs_one")}
    )
    # Two processes have twice the memory of one, about; so both are counted.
    memory = figures["memory_mib"]
    assert memory["transfer_c8_p2"] > 1.5 * memory["transfer_c8_p1"]
    assert json.loads(out.read_text()) == figures
    root = ElementTree.fromstring((plots / "latency_against_concurrency.svg").read_text())
    lines = list(root.iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == 2 * len(kinds) + 3


@pytest.mark.long
def test_the_lag_is_measured_at_each_rate_and_beside_a_mixed_workload(home: Path) -> None:
    figures = measured(home, "lag", "mixed")
    assert set(figures["lag_ms"]) == set(figures["conditions"]["lag_samples"]) == {"100", "500"}
    for lag in (*figures["lag_ms"].values(), figures["lag_mixed_ms"], figures["timers_late_ms"]):
        assert lag["p50"] <= lag["p99"] <= lag["max"]
    assert all(lag["p50"] >= 0 for lag in figures["lag_ms"].values())
    assert set(figures["ratios"]) == {"mixed_vs_transfer"}
    assert figures["conditions"]["mix"] == MIX


@pytest.mark.long
def test_verification_the_archive_and_hashing_are_measured(home: Path) -> None:
    figures = measured(home, "verify", "as_of", "hashing")
    assert set(figures["ratios"]) == {
        "verify_vs_copy_decode",
        "transfer_vs_unhashed",
        "live_vs_as_of_balance",
        "live_vs_as_of_statement",
    }
    assert all(positive(figure) for figure in figures["hashing"].values())
    assert figures["hashing"]["share_of_command"] < figures["hashing"]["share_of_server"] < 1
    assert positive(figures["per_s"]["tree_leaves"])


@pytest.mark.long
def test_panels_and_open_pages_of_the_console_are_measured(home: Path) -> None:
    figures = measured(home, "console")
    load_pages()
    assert set(figures["console"]) == {
        f"{page.name}/{panel.id}" for page in PAGES.values() for panel in page.panels
    }
    for panel in figures["console"].values():
        for how in ("query", "http"):
            assert 0 < panel[f"{how}_p50_ms"] <= panel[f"{how}_p99_ms"]
    assert figures["console"]["accounts/accounts"]["round_trips"] >= 1
    pages = figures["console_pages"]
    assert pages["open_pages"] <= pages["events_sent"]
    assert all(positive(pages[name]) for name in ("first_load_bytes", "command_p99_ratio"))


def test_a_quick_run_has_the_parts_that_the_five_ratios_need() -> None:
    assert {"transfer", "append", "rebuild"} <= set(QUICK_PARTS) <= set(PARTS)


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
