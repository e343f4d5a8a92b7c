"""Hostile input at length; the short forms are tests under tests/hostile."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
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
AT_ONCE = 500
MOST_GROWTH_MB = 128
LEAST_OPERATIONS, MOST_OPERATIONS = 30, 10_000
ROUNDS = 50
LEAST_S, STARTS_S = 2, 3
"""Of a target: its time, and what it takes before that."""


def _told(here: Place) -> Place:
    wrong: list[str] = []
    here.run(tell(here, wrong))
    assert wrong == [], wrong[:5]
    here.catch_up()
    return here


def malformed(turn: Turn) -> Counter[str]:
    """Malformed bodies: no 5xx, bounded memory, and a log that holds what was accepted and nothing else."""
    number, enough, tally = 0, turn.until(BODIES // 20, BODIES), bodies.Tally()
    with place(turn.servers(), TEMPLATE, f"bodies{turn.seed}") as here:
        _told(here)
        here.run(bodies.play(here, 0, AT_ONCE))
        before = bodies.memory_mb()
        while not enough(number):
            tally += here.run(bodies.play(here, 1_000 * turn.seed + number // AT_ONCE, AT_ONCE))
            number += AT_ONCE
        grown = bodies.memory_mb() - before
    assert tally.wrong == [], tally.wrong[:5]
    assert grown < MOST_GROWTH_MB, f"{grown} MB more"
    counts = Counter({f"answered {status}": number for status, number in tally.statuses.items()})
    return counts + Counter({"bodies": number, "accepted events": tally.accepted_events, "MB more": grown})


def documented(turn: Turn) -> Counter[str]:
    """Sound and unsound requests of every operation from every role, as its schema says and does not say."""
    with place(turn.servers(), TEMPLATE, f"schemas{turn.seed}") as here:
        _told(here)
        counts: Counter[str] = Counter()
        enough = turn.until(LEAST_OPERATIONS, MOST_OPERATIONS)
        for number in range(ROUNDS):
            seed = 1_000 * turn.seed + number
            more, wrong = schemas.hold(here, seed, 1, len(schemas.ROLES), enough)
            assert wrong == [], "\n".join(wrong[:5])
            counts += more
            if turn.is_over():
                break
    return counts


def wire(turn: Turn) -> Counter[str]:
    """Every shape of hostile HTTP, many times over, against one process."""
    with (
        place(turn.servers(), TEMPLATE, f"wire{turn.seed}") as here,
        serving(turn.folder) as (child, address),
    ):
        shapes, rounds, enough = 0, 0, turn.until(3, 100)
        while not enough(rounds):
            made = raw.shapes(here.keys["ana"], f"wire{turn.seed}-{rounds}", raw.payment())
            wrong = asyncio.run(raw.send_all(address, made))
            assert wrong == [], wrong[:5]
            shapes, rounds = shapes + len(made), rounds + 1
        assert child.poll() is None
    return Counter({"shapes": shapes})


def fuzz(turn: Turn) -> Counter[str]:
    """atheris on each target."""
    assert find_spec("atheris"), "`pip install '.[fuzz]'` first"
    counts: Counter[str] = Counter()
    for number, name in enumerate(TARGETS):
        share_s = (turn.ends_at - time.monotonic()) / (len(TARGETS) - number)
        seconds = max(LEAST_S, int(share_s - STARTS_S))
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
