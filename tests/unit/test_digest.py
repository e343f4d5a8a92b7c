"""Digests of read models: what a row's bytes are, how they add up, and that only the history decides the sum."""

from __future__ import annotations

import functools
import json
import signal
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, fields
from datetime import UTC, datetime, timedelta, timezone
from itertools import cycle
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from commands._codec import EPOCH
from projections import _adhash, _digest, _stored
from projections._digest import (
    MODULUS,
    WIDTH,
    Sum,
    expand,
    from_bytes,
    row_bytes,
    row_lines,
    shown,
    to_bytes,
    total,
)
from projections._engine import HistoryRows, Projection, Record, Rows, all_projections, fold
from projections._follower import Fed
from projections._stored import flush, fold_batch
from projections._tables import Money, Row, Total, table, table_of
from tests.history import history
from workers.sweep import _is_newer


@table("test_everything", key=("id",))
class Everything(Row):
    id: str
    count: int = 0
    flag: bool = False
    amount: Money = 0
    share: Total | None = None
    at: datetime = EPOCH
    until: datetime | None = None
    note: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)


@table("test_something", key=("id",))
class Something(Row):
    id: str
    amount: Money = 0


@table("test_something_else", key=("id",))
class SomethingElse(Row):
    id: str
    amount: Money = 0


def made(row: Any, position: int = 1, incomplete: bool = False) -> Any:
    row.position, row.incomplete = position, incomplete
    return row


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
TIMES = st.datetimes(
    datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC) | st.just(timezone(timedelta(hours=-7)))
)
ROWS = st.builds(
    made,
    st.builds(
        Everything,
        id=TEXTS,
        count=st.integers(-(2**63), 2**63 - 1),
        flag=st.booleans(),
        amount=st.integers(-(10**38) + 1, 10**38 - 1),
        share=st.none() | st.integers(-(10**60), 10**60),
        at=TIMES,
        until=st.none() | TIMES,
        note=st.none() | TEXTS,
        facts=st.dictionaries(TEXTS, JSON, max_size=3),
        items=st.lists(JSON, max_size=3),
    ),
    position=st.integers(1, 2**62),
    incomplete=st.booleans(),
)

bytes_of = row_bytes(table_of(Everything))


lines_of = row_lines(table_of(Everything))


def values_of(row: Row) -> list[Any]:
    return [getattr(row, f.name) for f in fields(row)] + [row.position, row.incomplete]  # type: ignore[arg-type]


# Bytes


def test_the_bytes_of_a_row_are_written_down() -> None:
    """Whoever changes them raises FORMAT: accumulators that are kept were made of these."""
    row = Everything(
        'a"é',
        -3,
        True,
        10**30,
        None,
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2026, 1, 2, 3, 4, 5, 6, timezone(timedelta(hours=1))),
        None,
        {"b": 2**70, "a": [1, {"d": None, "c": True}]},
        ["x"],
    )
    assert bytes_of(made(row, 7, True)) == (
        b'["test_everything","a\\"\xc3\xa9",-3,true,"1000000000000000000000000000000",null,'
        b'"2026-01-02T03:04:05.000000Z","2026-01-02T02:04:05.000006Z",null,'
        b'{"a":[1,{"c":true,"d":null}],"b":1180591620717411303424},["x"],7,true]'
    )
    assert _digest.FORMAT == 2
    assert (
        shown(expand(bytes_of(made(row, 7, True))))
        == "d1d94d81db8003b256a2ca45be87bc15ff94384e205fdfe1916db46f18ce5ac3"
    )


@given(ROWS, ROWS)
def test_rows_have_the_same_bytes_when_they_hold_the_same_and_never_otherwise(a: Any, b: Any) -> None:
    assert (bytes_of(a) == bytes_of(b)) == (values_of(a) == values_of(b))


@given(st.lists(ROWS, max_size=4))
def test_many_rows_at_once_have_the_bytes_of_each(rows: list[Any]) -> None:
    assert lines_of(rows) == b"".join(bytes_of(row) + b"\n" for row in rows)
    assert lines_of(rows).count(b"\n") == len(rows)


@given(ROWS)
def test_the_bytes_are_what_a_plain_json_encoder_makes_of_them(row: Any) -> None:
    """So that an auditor needs no library of ours."""
    parsed = json.loads(bytes_of(row))
    plain = json.dumps(parsed, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    assert plain.encode() == bytes_of(row)
    assert parsed[:5] == ["test_everything", row.id, row.count, row.flag, str(row.amount)]
    assert datetime.fromisoformat(parsed[6]) == row.at
    assert parsed[9:] == [row.facts, row.items, row.position, row.incomplete]


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    if isinstance(value, list):
        return tuple(map(reversed_keys, value))
    return value


@given(ROWS)
def test_what_a_handler_holds_has_the_bytes_of_what_is_loaded_later(row: Any) -> None:
    """`jsonb` orders keys, makes numbers that are keys texts, and tuples lists; a time's zone is the reader's."""
    held = made(Everything(*values_of(row)[:-2]), row.position, row.incomplete)
    held.facts, held.items = reversed_keys(row.facts), reversed_keys(row.items)
    held.at = row.at.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert bytes_of(held) == bytes_of(row)


@example({1: "a", 10: "b", 9: (2**70,)})
@given(st.dictionaries(st.integers(), st.integers(), max_size=5))
def test_keys_that_are_numbers_are_texts_once_they_are_stored(facts: dict[Any, Any]) -> None:
    stored = json.loads(json.dumps(facts))
    assert bytes_of(made(Everything("x", facts=facts))) == bytes_of(made(Everything("x", facts=stored)))


@given(TEXTS, st.integers())
def test_rows_of_distinct_tables_are_distinct(id: str, amount: int) -> None:
    one, other = made(Something(id, amount)), made(SomethingElse(id, amount))
    assert row_bytes(table_of(Something))(one) != row_bytes(table_of(SomethingElse))(other)


@pytest.mark.parametrize(
    ("code", "newer"),
    [
        ("3.d1", True),
        ("2.d2", True),
        ("10.d1", True),
        ("2.d1", False),
        ("2", False),
        ("1.d9", False),
        ("", False),
    ],
)
def test_a_projection_s_code_tells_the_order_of_its_versions(code: str, newer: bool) -> None:
    """A digest of another form is other code: whoever keeps none must not feed the rows that have one."""
    assert _is_newer(code, "2.d1") is newer
    assert all(p.code.endswith(f".d{_digest.FORMAT}") for p in all_projections().values())


# Sums


@given(st.lists(ROWS, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[Any], random: Any) -> None:
    shuffled = random.sample(rows, len(rows))
    assert to_bytes(total(rows, table_of(Everything))) == to_bytes(total(shuffled, table_of(Everything)))


@given(st.lists(ROWS, max_size=4), ROWS)
def test_a_row_that_is_taken_away_leaves_no_trace(rows: list[Any], row: Any) -> None:
    before = total(rows, table_of(Everything)) % MODULUS
    with_it = (before + expand(bytes_of(row))) % MODULUS
    assert with_it != before
    assert (with_it - expand(bytes_of(row))) % MODULUS == before
    assert from_bytes(to_bytes(before - expand(bytes_of(row)) + expand(bytes_of(row)))) == before


@given(ROWS, ROWS)
def test_a_row_counts_as_often_as_it_is_there(a: Any, b: Any) -> None:
    """A sum of exclusive ors would lose a row that is there twice."""
    assert total([a, a], table_of(Everything)) % MODULUS not in (
        0,
        total([b], table_of(Everything)) % MODULUS,
    )
    assert total([a, a, b], table_of(Everything)) % MODULUS != total([b], table_of(Everything)) % MODULUS


@given(st.integers())
def test_an_accumulator_has_one_form(accumulator: int) -> None:
    stored = to_bytes(accumulator)
    assert len(stored) == WIDTH
    assert from_bytes(stored) == accumulator % MODULUS
    assert shown(accumulator) == shown(from_bytes(stored)) == shown(accumulator + MODULUS)


@pytest.mark.parametrize("number", [0, 1, 3, 4, 5, 6, 7, 50])
def test_very_many_rows_are_summed_in_a_process_of_their_own(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_adhash, "FEW", 4)
    something = table_of(Something)
    rows = [made(Something(f"line\n{i}", i)) for i in range(number)]
    with Sum() as summed:
        for row in rows:
            summed.add(row_lines(something)([row]))
        assert (summed._process is not None) == (number > 4)
        assert summed.result() == total(rows, something) % MODULUS
    assert summed._process is None or summed._process.returncode == 0


def test_a_system_that_grants_no_wider_pipe_sums_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(pipe: Any, what: int, wanted: int) -> int:
        asked.append(wanted)
        raise PermissionError

    monkeypatch.setattr("fcntl.fcntl", refuse)
    monkeypatch.setattr(_adhash, "FEW", 0)
    with Sum() as summed:
        summed.add(b"[1]\n[2]\n")
        assert summed.result() == (expand(b"[1]") + expand(b"[2]")) % MODULUS
    assert asked == [_adhash.PIPE_BYTES]


def test_a_sum_that_is_given_up_leaves_no_process_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_adhash, "FEW", 0)
    with Sum() as summed:
        summed.add(b"[]\n")
    assert summed._process is not None
    assert summed._process.returncode == -signal.SIGKILL


def test_a_sum_whose_process_is_killed_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_adhash, "FEW", 0)
    with Sum() as summed:
        summed.add(b"[]\n")
        assert summed._process is not None
        summed._process.kill()
        with pytest.raises(OSError, match=r"Broken pipe|ended with"):
            summed.result()


# Determinism: one history, one digest a projection, however it is cut, in whatever order, by how many ever


class Memory:
    """What PostgreSQL does for the engine: rows as they come back from it, digests, checkpoints."""

    def __init__(self) -> None:
        self.tables: defaultdict[type, dict[tuple[Any, ...], tuple[Any, ...]]] = defaultdict(dict)
        self.digests = dict.fromkeys(all_projections(), 0)
        self.positions = dict.fromkeys(all_projections(), 0)

    def load(self, rows: Rows, row: type[Row], keys: Sequence[tuple[Any, ...]]) -> None:
        for key in keys:
            stored = self.tables[row].get(key)
            rows.kept[row][key] = self.row(row, stored) if stored else None

    def row(self, row: type[Row], stored: tuple[Any, ...]) -> Any:
        json_columns = [c.sql_type == "jsonb" for c in table_of(row).columns]
        *values, position, incomplete = stored
        loaded = (
            json.loads(v) if j and v is not None else v for v, j in zip(values, json_columns, strict=True)
        )
        return made(row(*loaded), position, incomplete)

    def put(self, row: Row) -> tuple[Any, ...]:
        declared = table_of(type(row))
        values = [
            json.dumps(v, sort_keys=True) if c.sql_type == "jsonb" and v is not None else v
            for c, v in zip(declared.columns, values_of(row), strict=False)
        ]
        key = tuple(getattr(row, name) for name in declared.key)
        self.tables[type(row)][key] = (*values, row.position, row.incomplete)
        return key

    def write(self, rows: Rows) -> None:
        for row in rows.projection.rows:
            for key in rows.deleted[row]:
                self.tables[row].pop(key, None)
            for key, each in rows.changed[row].items():
                assert self.put(each) == key
            for each in rows.added[row]:
                known = len(self.tables[row])
                self.put(each)
                assert len(self.tables[row]) == known + 1, "an added row is new"

    def store(self, zone: str, sums: Sequence[tuple[str, int, int]]) -> None:
        self.digests.update({projection: sum % MODULUS for projection, _, sum in sums})

    def recompute(self, projection: Projection) -> int:
        sums = (
            total((self.row(row, stored) for stored in self.tables[row].values()), table_of(row))
            for row in projection.rows
        )
        return sum(sums) % MODULUS


@contextmanager
def in_memory() -> Iterator[Memory]:
    with (
        patch.object(_stored, "load", Memory.load),
        patch.object(_stored, "_write", Memory.write),
        patch.object(
            _digest, "find", lambda memory, zone, projection, generation: memory.digests[projection]
        ),
        patch.object(_digest, "store", Memory.store),
    ):
        yield Memory()


@functools.cache
def digests_of_a_rebuild() -> dict[str, int]:
    found = {}
    for name, projection in all_projections().items():
        found[name] = (
            sum(expand(row_bytes(table_of(type(row)))(row)) for row in rebuilt(projection)) % MODULUS
        )
    return found


def rebuilt(projection: Projection) -> list[Row]:
    written: list[Row] = []
    rows = HistoryRows(projection, "main", 1, lambda rows, row: written.append)
    fold(rows, history())
    rows.write_kept()
    return written


def next_batch(after: int, events: int) -> Sequence[Record]:
    """As the follower reads the log: up to the end of a command."""
    records = history()[after : after + events]
    while not records[-1].ends_command:
        records += history()[records[-1].position : records[-1].position + 1]
    return records


CUTS = st.lists(st.sampled_from((1, 2, 3, 5, 17, 60, 250, 1_000)), min_size=1, max_size=6)


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    cuts=CUTS,
    order=st.permutations(sorted(all_projections())),
    followers=st.lists(st.integers(0, 2), min_size=1, max_size=7),
    dies=st.lists(st.booleans(), max_size=6).map(lambda some: [*some, False]),
)
def test_one_history_gives_one_digest_however_it_is_cut_and_by_whomever_it_is_folded(
    cuts: list[int], order: list[str], followers: list[int], dies: list[bool]
) -> None:
    """Followers take turns: each keeps its rows in memory for as long as nobody else moved the checkpoint. Some
    turns end before they are committed."""
    chances = zip(cycle(cuts), cycle(followers), cycle(dies), strict=False)
    fed: dict[tuple[int, str], Fed] = {}
    with in_memory() as memory:
        behind = list(order)
        while behind:
            for name in list(behind):
                cut, who, died = next(chances)
                projection, position = all_projections()[name], memory.positions[name]
                mine = fed.setdefault(
                    (who, name), Fed(projection, _stored.StoredRows(projection, "main", 1), 0)
                )
                mine.at(position)
                records = next_batch(position, cut)
                fold_batch(memory, mine.rows, records)  # type: ignore[arg-type]
                if died:
                    mine.rows.forget()
                    continue
                flush(memory, mine.rows)  # type: ignore[arg-type]
                mine.position = memory.positions[name] = records[-1].position
                if mine.position == len(history()):
                    behind.remove(name)
        assert memory.digests == digests_of_a_rebuild()
        assert {name: memory.recompute(p) for name, p in all_projections().items()} == memory.digests


def test_the_history_is_one_of_all_contexts() -> None:
    """A quiet history would prove nothing."""
    for name, projection in all_projections().items():
        assert any(record.type in projection.handlers for record in history()), name
        assert digests_of_a_rebuild()[name] != 0, name
