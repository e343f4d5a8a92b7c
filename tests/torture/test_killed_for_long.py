"""The long form: kill -9 of API and workers for as long as `--minutes` says, a fresh system each round."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.integration.test_killed import check, play, report
from tests.running import running

POINTS_A_ROUND = 40

pytestmark = pytest.mark.torture


def test_kill_9_for_long_loses_nothing_and_repeats_nothing(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    seed: int = pytestconfig.getoption("seed")
    end = time.monotonic() + 60 * float(pytestconfig.getoption("minutes"))
    rounds = acknowledged = kills = 0
    while rounds == 0 or time.monotonic() < end:
        with running(tmp_path / f"fog home {rounds}") as up:
            load, killed = asyncio.run(play(up, seed + rounds, POINTS_A_ROUND))
            check(up, load)
        report(load, killed)
        rounds += 1
        acknowledged += len(load.acknowledged)
        kills += sum(killed.values())
    print(f"{rounds} rounds from seed {seed}: {kills} kills, {acknowledged} acknowledged")
