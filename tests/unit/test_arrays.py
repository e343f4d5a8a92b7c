"""Arrays in PostgreSQL's binary format, against psycopg's own way of writing them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.numeric import Int2, Int4, Int8

from commands._arrays import (
    bigint_array,
    bytea_array,
    int_array,
    nullable_bigint_array,
    smallint_array,
    text_array,
)


def by_psycopg(values: Sequence[Any]) -> bytes:
    dumped = Transformer().get_dumper(list(values), PyFormat.BINARY).dump(list(values))
    assert dumped is not None
    return bytes(dumped)


def integers(bits: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), min_size=1)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1))
def test_texts_are_written_as_psycopg_writes_them(values: list[str]) -> None:
    assert text_array(values) == by_psycopg(values)


@given(st.lists(st.binary(), min_size=1))
def test_bytes_are_written_as_psycopg_writes_them(values: list[bytes]) -> None:
    assert bytea_array(values) == by_psycopg(values)


@given(integers(16), integers(32), integers(64))
def test_integers_are_written_as_psycopg_writes_them(
    small: list[int], middle: list[int], large: list[int]
) -> None:
    assert smallint_array(small) == by_psycopg([Int2(value) for value in small])
    assert int_array(middle) == by_psycopg([Int4(value) for value in middle])
    assert bigint_array(large) == by_psycopg([Int8(value) for value in large])


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=1))
def test_nulls_are_written_as_psycopg_writes_them(values: list[int | None]) -> None:
    if any(value is not None for value in values):
        assert nullable_bigint_array(values) == by_psycopg([v if v is None else Int8(v) for v in values])
    else:
        # Without a value psycopg cannot tell a type; the column does.
        assert nullable_bigint_array(values) == struct.pack(">5i", 1, 1, 20, len(values), 1) + (
            b"\xff" * 4 * len(values)
        )


@pytest.mark.parametrize(
    ("dump", "oid"),
    [
        (text_array, 25),
        (bytea_array, 17),
        (smallint_array, 21),
        (int_array, 23),
        (bigint_array, 20),
        (nullable_bigint_array, 20),
    ],
)
def test_an_empty_array_has_no_dimensions(dump: Any, oid: int) -> None:
    assert dump([]) == struct.pack(">3i", 0, 0, oid)


def test_a_number_that_does_not_fit_is_refused() -> None:
    with pytest.raises(struct.error):
        smallint_array([2**15])
