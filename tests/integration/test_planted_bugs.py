"""The tests bite: known bugs that are planted into a copy of Fogbook make them fail.

`make torture ONLY=bugs` plants all of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.planted import BUGS, Bug, Edit, copied, hunt, plant

CHEAPEST = ("alphabetical-tiers", "key-not-bound-to-its-body", "refusal-on-stale-state")


def test_there_are_twelve_of_them_and_each_can_still_be_planted(tmp_path: Path) -> None:
    assert len(BUGS) == 12
    copy = copied(tmp_path)
    for bug in BUGS:
        plant(bug, copy)


def test_the_cheapest_of_them_are_caught(tmp_path: Path) -> None:
    chosen = [bug for bug in BUGS if bug.name in CHEAPEST]
    assert hunt(tmp_path, chosen)["bugs caught"] == len(CHEAPEST)


def test_a_bug_that_no_test_catches_is_an_error(tmp_path: Path) -> None:
    harmless = Edit("domain/ledger.py", '"""Accounts, holds', '"""Holds, accounts')
    bug = Bug("harmless", "a harmless bug", ("tests/unit/test_domain_is_pure.py",), (harmless,))
    with pytest.raises(AssertionError, match="a harmless bug"):
        hunt(tmp_path, [bug])


def test_a_bug_whose_place_is_gone_is_an_error(tmp_path: Path) -> None:
    bug = Bug("gone", "a bug without a place", (), (Edit("domain/ledger.py", "nowhere to be found", ""),))
    with pytest.raises(AssertionError, match="plant it anew"):
        hunt(tmp_path, [bug])
