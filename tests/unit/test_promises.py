"""The page of promises names tests and scenarios that there are, and all scenarios."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import tests.faults.all as in_a_world
from tests.faults.stage import SCENARIOS
from tests.torture import hostile, others

assert in_a_world
assert hostile
assert others

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "tests" / "PROMISES.md").read_text()
ROWS = {int(number): text for number, text in re.findall(r"^### (\d+)\. (.*?)(?=^##)", PAGE, re.M | re.S)}
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def part(row: str, name: str) -> str:
    """What a row says after one of its words."""
    found = re.search(rf"^- {name}: (.*?)(?=^- |\Z)", row, re.M | re.S)
    assert found, f"{row.splitlines()[0]}: {name} is missing"
    return found[1]


def test_every_test_that_the_page_names_is_there() -> None:
    found = TEST.findall(PAGE)
    assert len(found) > 50
    for file, name in found:
        if name:
            assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.M), f"{file}::{name}"
        else:
            assert (
                "\ndef test_" in (ROOT / file).read_text() or "\nasync def test_" in (ROOT / file).read_text()
            )


def test_every_promise_has_a_short_form_a_long_form_and_what_was_recorded() -> None:
    assert list(ROWS) == list(range(1, 20))
    for row in ROWS.values():
        assert TEST.search(part(row, "Short"))
        assert part(row, "Recorded").strip()
        named = part(row, "Long")
        assert named.startswith("none: ") or set(re.findall(r"`(\w+)`", named)) & set(SCENARIOS)


def test_scenarios_and_promises_name_each_other() -> None:
    named: defaultdict[str, list[int]] = defaultdict(list)
    for number, row in ROWS.items():
        for scenario in re.findall(r"`(\w+)`", part(row, "Long")):
            named[scenario].append(number)
    assert named == {name: sorted(scenario.promises) for name, scenario in SCENARIOS.items()}


def test_every_failure_seen_elsewhere_has_a_test() -> None:
    lines = PAGE.partition("## What went wrong elsewhere")[2].splitlines()
    failures = [line for line in lines if line.startswith("| ") and "failure seen" not in line]
    assert len(failures) == 14
    assert all(TEST.search(line) for line in failures)
