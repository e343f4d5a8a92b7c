"""All contexts at once against a plain model of what must always hold: random histories, timers and reactions included.

`FOGBOOK_EXAMPLES` sets the number of histories of 50 steps; they are shared out over four tests. `make torture
ONLY=economy` plays many more.
"""

from __future__ import annotations

import os
from collections import Counter
from random import Random

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.economy import act, founded

EXAMPLES = int(os.environ.get("FOGBOOK_EXAMPLES", "800"))
STEPS = 50
SHARDS = 4


class EconomyMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.economy = founded()

    @rule(chance=st.integers(0, 2**32 - 1))
    def something_happens(self, chance: int) -> None:
        act(self.economy, Random(chance))

    def teardown(self) -> None:
        if hasattr(self, "economy"):
            self.economy.model.check_all()


@pytest.mark.parametrize("shard", range(SHARDS))
def test_whatever_happens_in_the_economy_nothing_is_lost_paid_twice_or_promised_twice(shard: int) -> None:
    machine = seed(shard)(EconomyMachine)
    terms = settings(
        max_examples=EXAMPLES // SHARDS,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=terms)


def test_in_these_histories_the_whole_economy_happens() -> None:
    """A quiet history would prove nothing."""
    accepted: Counter[str] = Counter()
    rng = Random(7)
    for _ in range(60):
        economy = founded()
        for _ in range(150):
            act(economy, rng)
        economy.model.check_all()
        accepted.update(economy.accepted)
    for name in (
        *("RewardPaid", "ApproveReward", "RecordReputation", "StopHarvestSession", "DecideContribution"),
        *("SettlePeriod", "ExpireContract", "TerminateContract", "ReportServiceLevel", "RenewContract"),
        *("AcceptBid", "CloseBidding", "AllocateBurst", "ExpireRequest", "ResolveDispute", "Slash"),
        *(
            "RecordObligation",
            "ReservePositions",
            "FinaliseSettlement",
            "CompleteUnbonding",
            "ReviewProvider",
        ),
    ):
        if name != "RewardPaid":
            assert accepted[name] > 0, f"{name} never happened"
