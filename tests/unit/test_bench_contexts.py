"""The history that the console is measured on: that nothing in it is refused, however long it gets."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace
from typing import Any

from commands._deciding import Command
from commands._log import Entry, Head
from domain.platform import CreateZone, create_zone
from ops.bench._contexts import MIX, MOST_OWED, all_contexts, two_hours
from ops.bench._figures import Figures
from ops.bench._history import _decided
from ops.bench._scales import TINY
from ops.bench._tables import tables
from ops.bench.goals import missed

EVENTS = 9_000


def test_a_history_of_all_contexts_refuses_nothing() -> None:
    stage: Any = SimpleNamespace(scale=replace(TINY, wallets=20, devices=50), principals=5, seed=3)
    clock = two_hours(EVENTS)
    found = CreateZone("main", "manual")
    head, known = Head(0, 0, clock(0), "manual"), dict[str, Entry]()
    begun = [Command("platform/create-zone", found, create_zone, "admin", "admin", "operator", "zone", b"{}")]
    sent, categories = Counter[str](), Counter[str]()
    for batch in chain([begun], all_contexts(stage)):
        if head.position >= EVENTS:
            break
        at = max(clock(head.position), head.at)
        decided = _decided("main", known, head, at, batch)  # Raises BenchFailed when one is refused.
        sent.update(command.name.partition("/")[2] for command in batch)
        assert len(set(decided.batch.keys)) == len(batch)
        head = Head(decided.position, head.number + len(decided.batch.keys), at, "manual")
    categories.update(name.partition(":")[0] for name in known)
    assert head.position >= EVENTS
    assert clock(head.position) > head.at > clock(0)
    assert {"wallet", "device", "contribution", "contract", "validator", "obligation"} <= set(categories)
    assert sent["record-contribution"] > sent["meter-usage"] > sent["delegate"] > len(MIX)
    assert 0 < sent["record-obligation"] <= MOST_OWED


# What is shown of the console, and what it has to reach


def figures(http_p99_ms: float = 49.0, connections: int = 1) -> Figures:
    slow = {
        "query_p50_ms": 3.0,
        "query_p99_ms": 9.0,
        "round_trips": 1,
        "http_p50_ms": 5.0,
        "http_p99_ms": http_p99_ms,
    }
    made = Figures(console={"accounts/supply": slow | {"http_p99_ms": 4.0}, "market/offerings": slow})
    made.console_pages = {
        "connections_used": connections,
        "command_p99_ratio": 1.1,
        "first_load_bytes": 150 * 1024,
    }
    made.conditions = {"console_events": 1_000_000}
    return made


def test_panels_are_shown_with_the_slowest_first() -> None:
    panels, pages = (table for table in tables(vars(figures())) if table.title.startswith("The console"))
    assert panels.title == "The console beside 1M events: the slowest of 2 panels"
    assert [row[0] for row in panels.rows] == ["market: offerings", "accounts: supply"]
    assert panels.rows[0] == ["market: offerings", "3, 9", "5, 49", "1"]
    assert [row[0] for row in pages.rows] == ["connections used", "command p99 ratio", "first load bytes"]


def test_one_slow_panel_or_one_more_connection_misses_a_goal() -> None:
    assert missed(figures()) == []
    assert [goal.work for goal in missed(figures(http_p99_ms=50.1))] == ["slowest panel of the console"]
    assert [goal.work for goal in missed(figures(connections=2))] == ["500 open pages"]
