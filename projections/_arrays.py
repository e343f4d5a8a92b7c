"""Columns of rows as arrays in PostgreSQL's binary format.

psycopg would look at every element for its type, and send most of them as text that it escapes; here the declaration
of the column says what it holds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

from commands._arrays import bytea_array, nullable_array


class Array(bytes):
    """An array; of what, the statement's cast says."""


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Array) -> Array:
        return obj


psycopg.adapters.register_dumper(Array, _ArrayDumper)


@functools.cache
def array_of(sql_type: str, nullable: bool = False) -> Callable[[Sequence[Any]], Array]:
    """What makes an array of a column's values. Raises OverflowError where a whole number has more than 64 bits."""
    oid = psycopg.adapters.types[plain(sql_type)].oid
    dump: Any = psycopg.adapters.get_dumper_by_oid(oid, Format.BINARY)(object).dump
    if nullable:
        return lambda values: Array(nullable_array([None if v is None else dump(v) for v in values], oid))
    return lambda values: Array(bytea_array(list(map(dump, values)), oid))


def plain(sql_type: str) -> str:
    """The type without its collation or its digits."""
    return sql_type.partition(" ")[0].partition("(")[0]
