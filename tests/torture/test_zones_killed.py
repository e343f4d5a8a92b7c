"""The long form: two zones exchange tokens under kill -9 for as long as `--minutes` says, a fresh system each round."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.test_zones_exchange import PEERS, run_exchange

POINTS_A_ROUND = 25

pytestmark = pytest.mark.torture


def test_zones_killed_for_long_keep_every_token_in_one_place(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    seed: int = pytestconfig.getoption("seed")
    end = time.monotonic() + 60 * float(pytestconfig.getoption("minutes"))
    rounds = 0
    total: Counter[str] = Counter()
    while rounds == 0 or time.monotonic() < end:
        exchange, killed = run_exchange(tmp_path / f"fog home {rounds}", seed + rounds, POINTS_A_ROUND)
        rounds += 1
        total["transfers"] += sum(exchange.accepted[zone] for zone in PEERS)
        total["kills"] += killed.total()
    print(f"{rounds} rounds from seed {seed}: {total['kills']} kills, {total['transfers']} transfers")
