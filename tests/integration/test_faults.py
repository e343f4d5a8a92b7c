"""Short forms of the torture scenarios, one after another in one system; `make torture` runs the long ones.

After each, the log is held against the acknowledgements that were kept outside the system, and against plain models.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.faults.all as scenarios
from tests.faults import disk
from tests.faults.check import check_read_models
from tests.faults.stage import SCENARIOS, Turn, check_loud, perform, say, take_turn
from tests.faults.world import World, world

assert scenarios

SEED = 1

pytestmark = pytest.mark.xdist_group("faults")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("faults") / "fog home", workers=2) as made:
        yield made


def play(system: World, name: str) -> None:
    scenario = SCENARIOS[name]
    assert scenario.play is not None
    counts = perform(system, scenario.play, SEED, False, system.home / "acks")
    say(name, SEED, counts)
    check_loud(scenario, counts, False)


def test_killed_between_append_and_answer_nothing_acknowledged_is_lost_and_nothing_counts_twice(
    system: World,
) -> None:
    play(system, "killed")


def test_one_command_sent_many_times_over_cut_connections_has_one_effect_and_one_answer(
    system: World,
) -> None:
    play(system, "once")


def test_wake_ups_that_are_lost_doubled_and_shuffled_change_nothing(system: World) -> None:
    play(system, "wakes")


def test_commands_do_not_wait_for_valkey_and_read_models_are_soon_current(system: World) -> None:
    play(system, "valkey")


def test_while_postgresql_restarts_clients_are_told_to_come_back_and_then_all_is_well(system: World) -> None:
    play(system, "postgres")


def test_nothing_hangs_when_links_are_cut(system: World) -> None:
    play(system, "network")


def test_clocks_that_jump_reorder_nothing_and_pay_nothing_twice(system: World) -> None:
    play(system, "clocks")


def test_poison_is_set_aside_while_others_stay_current_and_a_repair_heals(system: World) -> None:
    play(system, "poison")


def test_honest_clients_do_not_notice_hundreds_of_slow_ones(system: World) -> None:
    play(system, "slow")


def test_after_all_of_it_read_models_equal_a_fresh_rebuild(system: World) -> None:
    check_read_models(system)


@pytest.mark.skipif(disk.why_not() != "", reason=disk.why_not() or "a disk can be filled here")
def test_a_full_disk_stops_commands_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    take_turn(SCENARIOS["disk"], Turn(tmp_path, SEED, long=False))
