"""The long form: 10,000 histories of 50 steps over all contexts, against the plain model."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.unit.test_economy_properties import STEPS, EconomyMachine

EXAMPLES = int(os.environ.get("FOGBOOK_EXAMPLES", "10000"))

pytestmark = pytest.mark.torture


def test_in_very_many_histories_nothing_is_lost_paid_twice_or_promised_twice(
    pytestconfig: pytest.Config,
) -> None:
    number: int = pytestconfig.getoption("seed")
    terms = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(number)(EconomyMachine), settings=terms)
    print(f"{EXAMPLES} histories of {STEPS} steps from seed {number}: 0 violations")
