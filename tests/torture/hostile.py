"""Hostile input at length; the short forms are tests under tests/hostile."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec

from tests.conftest import TEMPLATE
from tests.faults.stage import SCENARIOS, Scenario, Turn
from tests.hostile import bodies, raw, schemas
from tests.hostile.place import Place, place
from tests.hostile.serving import serving
from tests.hostile.targets import TARGETS
from tests.hostile.telling import tell
from tests.running import ROOT

BODIES = 50_000
MOST_GROWTH_MB = 128
LEAST_SECONDS_A_TARGET = 5


def _told(here: Place) -> Place:
    wrong: list[str] = []
    here.run(tell(here, wrong))
    assert wrong == [], wrong[:5]
    here.catch_up()
    return here


def malformed(turn: Turn) -> Counter[str]:
    """Malformed bodies: no 5xx, bounded memory, and a log that holds what was accepted and nothing else."""
    number = turn.enough(0.004, BODIES // 10, BODIES)
    with place(turn.servers(), TEMPLATE, f"bodies{turn.seed}") as here:
        _told(here)
        here.run(bodies.play(here, 0, number // 20))
        before = bodies.memory_mb()
        tally = here.run(bodies.play(here, turn.seed, number))
        grown = bodies.memory_mb() - before
    assert tally.wrong == [], tally.wrong[:5]
    assert grown < MOST_GROWTH_MB, f"{grown} MB more"
    counts = Counter({f"answered {status}": number for status, number in tally.statuses.items()})
    return counts + Counter({"bodies": number, "accepted events": tally.accepted_events, "MB more": grown})


def documented(turn: Turn) -> Counter[str]:
    """Sound and unsound requests of every operation from every role, as its schema says and does not say."""
    with place(turn.servers(), TEMPLATE, f"schemas{turn.seed}") as here:
        examples = turn.enough(60, 1, 50)
        counts, wrong = schemas.hold(_told(here), turn.seed, examples, len(schemas.ROLES))
    assert wrong == [], "\n".join(wrong[:5])
    return counts


def wire(turn: Turn) -> Counter[str]:
    """Every shape of hostile HTTP, many times over, against one process."""
    with (
        place(turn.servers(), TEMPLATE, f"wire{turn.seed}") as here,
        serving(turn.folder) as (child, address),
    ):
        shapes = 0
        for number in range(turn.enough(3, 3, 100)):
            made = raw.shapes(here.keys["ana"], f"wire{turn.seed}-{number}", raw.payment())
            wrong = asyncio.run(raw.send_all(address, made))
            assert wrong == [], wrong[:5]
            shapes += len(made)
        assert child.poll() is None
    return Counter({"shapes": shapes})


def fuzz(turn: Turn) -> Counter[str]:
    """atheris on each target."""
    assert find_spec("atheris"), "`pip install '.[fuzz]'` first"
    counts: Counter[str] = Counter()
    seconds = max(LEAST_SECONDS_A_TARGET, int(turn.seconds / len(TARGETS)))
    for name in TARGETS:
        argv = [sys.executable, "-m", "tests.hostile.fuzz", name, str(seconds), str(turn.seed)]
        done = subprocess.run([*argv, str(turn.folder / name)], cwd=ROOT, capture_output=True, check=False)
        said = done.stderr.decode("utf-8", "replace")
        assert done.returncode == 0, f"{name}: {said[-3_000:]}"
        for what, label in (("executed_units", "runs"), ("new_units_added", "new inputs")):
            counts[label] += sum(int(each) for each in re.findall(rf"stat::number_of_{what}:\s*(\d+)", said))
            counts[label] += sum(int(each) for each in re.findall(rf"stat::{what}:\s*(\d+)", said))
        counts["targets"] += 1
    return counts


for _name, _promises, _run, _provokes in (
    (
        "bodies",
        (16,),
        malformed,
        ("bodies", "accepted events", "answered 400", "answered 409", "answered 422"),
    ),
    ("schemas", (15, 16), documented, ("requests", "200", "404", "409", "422")),
    ("wire", (16,), wire, ("shapes",)),
    ("fuzz", (16,), fuzz, ("runs", "targets")),
):
    SCENARIOS[_name] = Scenario(_name, _promises, _provokes, (), _run)
