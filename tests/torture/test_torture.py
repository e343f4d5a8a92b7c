"""`make torture SEED= MINUTES= [ONLY=]`: scenarios take turns until the minutes are over, at least one turn each.

The minutes are shared out: a turn has as much to do as its share of them allows, less what it takes to judge it, and
not more than MOST_TURN_S; so a long run comes back to each scenario with other seeds. A scenario that provoked nothing
of what it should have, fails.
Each turn has a seed of its own, made from SEED and its number, and is repeated by that: the output names it.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

import tests.faults.all as scenarios
from ops.servers import Servers
from tests.faults.stage import SCENARIOS, Scenario, Turn, check_loud, say, take_turn
from tests.torture import hostile, others

assert scenarios
assert hostile
assert others

MOST_TURN_S = 120.0
PLAYED = 0.7
"""Of a scenario's share of the time; in the rest its log and its read models are judged."""

pytestmark = pytest.mark.torture


def chosen(only: str) -> list[Scenario]:
    names = only.split(",") if only else list(SCENARIOS)
    unknown = [name for name in names if name not in SCENARIOS]
    assert not unknown, f"no scenario is called {unknown}; there are {', '.join(SCENARIOS)}"
    return [SCENARIOS[name] for name in names]


def test_whatever_happens_the_promises_hold(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    option = request.config.getoption
    seed, minutes, selected = int(option("seed")), float(option("minutes")), chosen(str(option("only")))
    seconds = min(PLAYED * 60 * minutes / len(selected), MOST_TURN_S)
    begun = time.monotonic()
    end = begun + 60 * minutes

    def servers() -> Servers:
        request.getfixturevalue("_template")
        found: Servers = request.getfixturevalue("servers")
        return found

    totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
    spent: defaultdict[str, float] = defaultdict(float)
    for number in itertools.count():
        scenario = next_of(selected, spent)
        turn_begun = time.monotonic()
        if scenario.name in spent and turn_begun + least_of(scenario, spent, totals) > end:
            break
        folder = tmp_path / f"turn {number}"
        folder.mkdir()
        turn = Turn(folder, 1_000 * seed + number, True, servers, seconds)
        print(f"\n{round(turn_begun - begun)} s: {scenario.name}, promises {scenario.promises}", flush=True)
        add(totals[scenario.name], take_turn(scenario, turn))
        spent[scenario.name] += time.monotonic() - turn_begun
        shutil.rmtree(folder)
    print(f"\nAll of {round(time.monotonic() - begun)} s, seed {seed}:")
    for scenario in selected:
        totals[scenario.name]["seconds"] = round(spent[scenario.name])
        say(scenario.name, seed, totals[scenario.name])
    for scenario in selected:
        check_loud(scenario, totals[scenario.name], True)


def next_of(selected: list[Scenario], spent: Mapping[str, float]) -> Scenario:
    """Whoever had the least time so far, the first of them: all come round, and long turns do not crowd out others."""
    return min(selected, key=lambda scenario: spent.get(scenario.name, 0.0))


def least_of(scenario: Scenario, spent: Mapping[str, float], totals: Mapping[str, Counter[str]]) -> float:
    """How long another turn will take, as far as one knows (s)."""
    return spent[scenario.name] / totals[scenario.name]["turns"]


def add(total: Counter[str], counts: Counter[str]) -> None:
    total["turns"] += 1
    for what, count in counts.items():
        total[what] = max(total[what], count) if what.endswith("most ms") else total[what] + count
