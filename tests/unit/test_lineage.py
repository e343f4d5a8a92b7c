"""Lineage: which commands get a row, what causes are called in other zones, and what keys of timers tell."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands._codec import encode_json
from projections._engine import Record
from projections.lineage import Caused, lineage
from queries._effects import differing
from queries._tree import Tree, timer_of
from tests.scenario import START
from tests.unit.test_projections import folded
from workers.timers import Due, named_in


def event(position: int, **meta: Any) -> Record:
    data = encode_json({"owner": "ana"})
    return Record(position, "wallet:ana", position, "WalletOpened", data, encode_json(meta), START)


def rows(*records: Record) -> list[tuple[int, str, str]]:
    found = folded(lineage, [list(records)])[Caused].values()
    return [(row.number, row.caused_by, row.correlation) for row in found]


def test_only_what_follows_from_something_has_a_row() -> None:
    own = {"command": "c1", "correlation": "c1", "causation": "c1", "i": 1, "n": 1}
    assert rows(event(1, **own)) == []
    # Logs that other tools made may not name a cause.
    assert rows(event(1, command="c1", i=1, n=1)) == []
    assert rows(event(1)) == []
    assert rows(event(1, command="?", correlation="x", causation="c1", i=1, n=1)) == []


def test_a_command_has_one_row_however_many_its_events() -> None:
    meta = {"command": "c7", "correlation": "c2", "causation": "c5", "n": 2}
    assert rows(event(1, **meta, i=1), event(2, **meta, i=2)) == [(7, "c5", "c2")]


def test_a_correlation_alone_is_no_cause() -> None:
    meta = {"command": "c7", "correlation": "order/7", "causation": "c7", "i": 1, "n": 1}
    assert rows(event(1, **meta)) == [(7, "", "order/7")]
    meta = {"command": "c8", "correlation": "c8", "causation": "c7", "i": 1, "n": 1}
    assert rows(event(1, **meta)) == [(8, "c7", "c8")]


@pytest.mark.parametrize(
    ("target", "name", "called"),
    [
        ("main", "c17", "c17"),
        ("south", "c17", "main/c17"),
        ("south", "south/c17", "c17"),
        ("south", "west/c17", "west/c17"),
        ("south", "order/7", "order/7"),
        ("main", "south/c17", "south/c17"),
        ("south", "south/order", "south/order"),
        ("south", "c017", "c017"),
    ],
)
def test_a_command_of_another_zone_bears_its_name(target: str, name: str, called: str) -> None:
    assert named_in(target, "main", name) == called


@given(st.lists(st.sampled_from(["main", "south", "west"]), min_size=1, max_size=6))
def test_whatever_way_a_name_went_it_means_the_same_at_home(zones: list[str]) -> None:
    name, here = "c17", "main"
    for there in (*zones, "main"):
        name, here = named_in(there, here, name), there
        assert name == ("c17" if here == "main" else "main/c17")


def test_a_line_says_whence_it_comes_only_where_that_is_known() -> None:
    due = Due("main", "south", "hold:h1", 0, "ledger", "expire-hold", {}, "", "c7", "order/7")
    assert due.line({"hold": "h1"}) == encode_json(
        {
            "context": "ledger",
            "command": "expire-hold",
            "key": "timer:main:hold:h1:1",
            "body": {"hold": "h1"},
            "causation": "main/c7",
            "correlation": "order/7",
        }
    )
    assert b"caus" not in due._replace(causation="", correlation="").line({})


def test_keys_tell_which_timer_sent_a_command() -> None:
    assert timer_of("timer:hold:h1:3") == {"id": "hold:h1", "attempt": 3}
    assert timer_of("timer:main:transfer:t1:1", "main/c4") == {
        "id": "transfer:t1",
        "attempt": 1,
        "zone": "main",
    }
    # Without a cause in another zone, the zone's name may as well be the timer's.
    assert timer_of("timer:main:transfer:t1:1", "c4") == {"id": "main:transfer:t1", "attempt": 1}
    for key in ("timer:hold:h1", "timer:hold:h1:0", "timer::1", "pay-1", "a:timer:hold:h1:1", ""):
        assert timer_of(key) is None, key


def test_rows_differ_in_fields_or_altogether() -> None:
    before, after = {"id": "a", "sum": "1", "at": None}, {"id": "a", "sum": "2", "at": None}
    assert differing(before, after) == {"sum": {"was": "1", "is": "2"}}
    assert differing(before, before) == differing(None, None) == {}
    assert differing(None, {"id": "a"}) == {"id": {"was": None, "is": "a"}}
    assert differing({"id": "a"}, None) == {"id": {"was": "a", "is": None}}


@given(st.dictionaries(st.integers(1, 50), st.just("c1")), st.integers(1, 7))
def test_pages_of_a_tree_are_all_of_it_in_order(causes: dict[int, str], limit: int) -> None:
    tree = Tree("c1", 1, causes)
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        page, after = tree.page(after, limit)
        assert len(page) <= limit
        seen += page
    assert seen == sorted(causes)
    assert tree.children().get("c1", []) == [f"c{number}" for number in sorted(causes)]
