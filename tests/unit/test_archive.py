"""The archive of past rows: where versions lie, and that those valid at a position are what a fold up to it gives."""

from __future__ import annotations

import itertools
from dataclasses import field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from projections._archive import OPEN, OPEN_NODE, PastRows, fork_node, path_of
from projections._engine import Projection
from projections._tables import Row, table

positions = st.integers(1, 2**61)


def brute_path(position: int, height: int) -> list[int]:
    """From the root of a tree over 1 to 2^height - 1 down to the position."""
    node, step, path = 1 << (height - 1), 1 << (height - 1), []
    while True:
        path.append(node)
        if node == position:
            return path
        step >>= 1
        node += step if position > node else -step


def brute_fork(since: int, until: int, height: int) -> int:
    """The first node, from the root on, that lies in the interval."""
    node = step = 1 << (height - 1)
    while not since <= node < until:
        step >>= 1
        node += step if node < since else -step
    return node


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_version_lies_at_the_first_node_in_its_interval(since: int, length: int):
    assert fork_node(since, since + length) == brute_fork(since, since + length, 12)


@given(positions, positions)
def test_a_fork_node_lies_in_its_interval_however_long_that_is(one: int, other: int):
    since, until = min(one, other), max(one, other) + 1
    assert since <= fork_node(since, until) < until


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
def test_whatever_is_valid_at_a_position_lies_on_its_path(since: int, length: int, at: int):
    until = since + length
    position = since + at % length
    head = max(until - 1, position)
    assert fork_node(since, until) in path_of(position, head)
    assert fork_node(since, until) in path_of(position)


@given(st.integers(1, 4000))
def test_a_path_is_that_of_the_tree_and_no_longer(position: int):
    assert sorted(brute_path(position, 12)) == sorted(path_of(position, 4095)[1:])


@given(positions, st.integers(0, 2**61))
def test_a_path_is_as_long_as_the_heads_number_has_digits(position: int, more: int):
    head = position + more
    nodes = path_of(position, head)
    assert nodes[0] == OPEN_NODE
    assert len(set(nodes)) == len(nodes) <= 1 + head.bit_length()
    assert all(0 < node <= head for node in nodes[1:])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.data())
def test_no_two_versions_of_a_row_lie_at_one_node(lengths: list[int], data: st.DataObject):
    bounds = [1]
    for length in lengths:
        bounds.append(bounds[-1] + length)
    versions = list(itertools.pairwise(bounds))
    nodes = [fork_node(since, until) for since, until in versions]
    assert len(set(nodes)) == len(nodes)
    position = data.draw(st.integers(1, bounds[-1] - 1))
    path = set(path_of(position, bounds[-1]))
    valid = [v for v, node in zip(versions, nodes, strict=True) if node in path and v[0] <= position < v[1]]
    assert valid == [v for v in versions if v[0] <= position < v[1]]


def test_before_the_first_position_nothing_is_valid_and_the_path_says_so():
    assert all(node == OPEN_NODE or node > 0 for node in path_of(0, 100))


def test_the_tree_reaches_as_far_as_positions_do():
    assert fork_node(1, OPEN) == 2**61
    assert 2**61 in path_of(1)


# Versions


@table("test_notes", key=("name",))
class Note(Row):
    name: str
    words: list[str] = field(default_factory=list)


def notes() -> PastRows:
    projection = Projection.__new__(Projection)
    projection.name, projection.rows, projection.handlers = "test", (Note,), {}
    return PastRows(projection, "main", 1)


def told(rows: PastRows) -> list[tuple[Any, ...]]:
    """Words, position of the row, and the interval of each version; None while it lasts."""
    versions = rows.versions[Note]
    done = [(v[1].obj, v[2], v[4], v[5] if v[5] != OPEN else None) for v in versions.done]
    return done + [(values[1].obj, values[2], since, None) for since, values in versions.begun.values()]


def test_what_a_command_left_of_a_row_is_one_version() -> None:
    rows = notes()
    rows.position = 1
    rows.of(Note, "a").words.append("one")
    rows.position = 2
    rows.of(Note, "a").words.append("two")
    rows.end_command(3)
    rows.position = 4
    rows.of(Note, "a").words.append("three")
    rows.end_command(5)
    assert told(rows) == [('["one", "two"]', 2, 3, 5), ('["one", "two", "three"]', 4, 5, None)]


def test_a_row_that_is_deleted_has_no_open_version() -> None:
    rows = notes()
    rows.position = 1
    rows.of(Note, "a")
    rows.of(Note, "b")
    rows.delete(Note, "b")
    rows.end_command(2)
    rows.position = 3
    rows.delete(Note, "a")
    rows.end_command(3)
    assert told(rows) == [("[]", 1, 2, 3)]
    rows.position = 4
    rows.of(Note, "a")
    rows.end_command(4)
    assert told(rows) == [("[]", 1, 2, 3), ("[]", 4, 4, None)]


def test_a_line_that_nobody_asks_for_lasts() -> None:
    rows = notes()
    rows.position = 1
    rows.add(Note("a", ["x"]))
    rows.end_command(2)
    rows.end_command(3)
    assert told(rows) == [('["x"]', 1, 2, None)]
