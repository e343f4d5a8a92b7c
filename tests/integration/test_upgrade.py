"""Two versions side by side: the next one takes over process by process, under load, and nothing is lost."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from projections._engine import Record
from projections._follower import known_of
from tests.faults.stage import SCENARIOS, Turn, take_turn
from tests.faults.upgrade import upgrade

assert upgrade

pytestmark = pytest.mark.xdist_group("upgrade")

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def records(*kinds: tuple[str, int, int]) -> list[Record]:
    """Events by their type, each the i-th of the n of its command."""
    return [
        Record(position, "wallet:ana", position, kind, b"{}", b'{"i":%d,"n":%d}' % (i, n), NOW)
        for position, (kind, i, n) in enumerate(kinds, 1)
    ]


def test_a_follower_takes_whole_commands_in_front_of_what_it_does_not_know() -> None:
    known = records(("WalletOpened", 1, 1), ("Debited", 1, 2), ("Credited", 2, 2))
    assert known_of(known) == known
    mixed = records(("WalletOpened", 1, 1), ("Debited", 1, 3), ("FromTheFuture", 2, 3), ("Credited", 3, 3))
    assert known_of(mixed) == mixed[:1]
    assert known_of(records(("FromTheFuture", 1, 1))) == []


def test_events_of_other_applications_hold_nobody_up() -> None:
    foreign = Record(1, "dog:1", 1, "Dog.Registered", b"{}", b"", NOW)
    assert known_of([foreign, *records(("WalletOpened", 1, 1))])[0] is foreign


def test_a_rolling_upgrade_under_load_loses_nothing_and_does_nothing_twice(tmp_path: Path) -> None:
    take_turn(SCENARIOS["upgrade"], Turn(tmp_path, 1, False))
