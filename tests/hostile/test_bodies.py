"""Malformed bodies: each is refused by a problem document, none is a defect, and nothing of them stays."""

from __future__ import annotations

import pytest

from tests.hostile import bodies
from tests.hostile.place import Place

pytestmark = pytest.mark.xdist_group("hostile")

SEED = 1
NUMBER = 2_000
MOST_GROWTH_MB = 64


def test_whatever_a_body_holds_the_answer_is_documented_and_the_log_holds_only_what_was_accepted(
    here: Place, told: list[str]
) -> None:
    here.run(bodies.play(here, 0, NUMBER // 10))  # What is made once is made now.
    before = bodies.memory_mb()
    tally = here.run(bodies.play(here, SEED, NUMBER))
    assert tally.wrong == [], f"{len(tally.wrong)}: " + "\n".join(tally.wrong[:20])
    assert bodies.memory_mb() - before < MOST_GROWTH_MB
    assert {200, 400, 401, 403, 404, 409, 413, 415, 422} <= set(tally.statuses), tally.statuses
