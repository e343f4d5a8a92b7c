"""`make torture SEED= MINUTES= [ONLY=]`: scenarios take turns until the minutes are over, at least one turn each.

Each turn has a seed of its own, made from SEED and its number, and is repeated by that: the output names it.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import tests.faults.all as scenarios
from ops.servers import Servers
from tests.faults.stage import SCENARIOS, Scenario, Turn, say, take_turn
from tests.torture import others

assert scenarios
assert others

pytestmark = pytest.mark.torture


def chosen(only: str) -> list[Scenario]:
    names = only.split(",") if only else list(SCENARIOS)
    unknown = [name for name in names if name not in SCENARIOS]
    assert not unknown, f"no scenario is called {unknown}; there are {', '.join(SCENARIOS)}"
    return [SCENARIOS[name] for name in names]


def test_whatever_happens_the_promises_hold(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    option = request.config.getoption
    seed, only = int(option("seed")), str(option("only"))
    begun = time.monotonic()
    end = begun + 60 * float(option("minutes"))

    def servers() -> Servers:
        request.getfixturevalue("_template")
        found: Servers = request.getfixturevalue("servers")
        return found

    selected = chosen(only)
    totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for number in itertools.count():
        scenario = selected[number % len(selected)]
        if number >= len(selected) and time.monotonic() > end:
            break
        folder = tmp_path / f"turn {number}"
        folder.mkdir()
        turn = Turn(folder, 1_000 * seed + number, True, servers)
        print(
            f"\n{round(time.monotonic() - begun)} s: {scenario.name}, promises {scenario.promises}",
            flush=True,
        )
        counts = take_turn(scenario, turn)
        totals[scenario.name]["turns"] += 1
        for what, count in counts.items():
            if what.endswith("most ms"):
                totals[scenario.name][what] = max(totals[scenario.name][what], count)
            else:
                totals[scenario.name][what] += count
        shutil.rmtree(folder)
    print(f"\nAll of {round(time.monotonic() - begun)} s, seed {seed}:")
    for name, counts in totals.items():
        say(name, seed, counts)
