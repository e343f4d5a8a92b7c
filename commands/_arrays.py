"""Arrays in PostgreSQL's binary format, for what an append and the projections send.

An array begins with five 32-bit numbers: its dimensions, whether it holds nulls, the type of its elements, how many
they are and the index of the first one; an empty array has no dimensions and only the first three. Each element
stands behind its length in bytes, -1 for a null. All numbers are big-endian (`array_recv` in PostgreSQL's
arrayfuncs.c). psycopg's own dumpers look at every element for its type; here the column says it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from psycopg.postgres import types

_pack_head = struct.Struct(">5i").pack
_pack_length = struct.Struct(">i").pack
_pack_bigint = struct.Struct(">iq").pack
_NULL = _pack_length(-1)

TEXT, BYTEA, INT2, INT4, INT8 = (types[name].oid for name in ("text", "bytea", "int2", "int4", "int8"))


def _head(oid: int, count: int, nulls: bool = False) -> bytes:
    return _pack_head(1, nulls, oid, count, 1) if count else _pack_head(0, 0, oid, 0, 0)[:12]


def bytea_array(values: Sequence[bytes], oid: int = BYTEA) -> bytes:
    """bytea[], or an array of another type whose elements are in binary format already."""
    parts = [_head(oid, len(values))] * (1 + 2 * len(values))
    parts[1::2] = map(_pack_length, map(len, values))
    parts[2::2] = values
    return b"".join(parts)


def text_array(values: Sequence[str]) -> bytes:
    """text[]"""
    return bytea_array([value.encode() for value in values], TEXT)


def integer_array(oid: int, format: str) -> Callable[[Sequence[int]], bytes]:
    """A dumper of arrays of integers; `format` is that of `struct`. It raises struct.error where one does not fit."""
    size = struct.calcsize(format)

    def dump(values: Sequence[int]) -> bytes:
        numbers = [size] * (2 * len(values))
        numbers[1::2] = values
        return _head(oid, len(values)) + struct.pack(f">{f'i{format}' * len(values)}", *numbers)

    return dump


smallint_array = integer_array(INT2, "h")
int_array = integer_array(INT4, "i")
bigint_array = integer_array(INT8, "q")


def nullable_bigint_array(values: Sequence[int | None]) -> bytes:
    """bigint[] that may hold nulls."""
    elements = [_NULL if value is None else _pack_bigint(8, value) for value in values]
    return _head(INT8, len(values), _NULL in elements) + b"".join(elements)


def nullable_array(values: Sequence[bytes | None], oid: int) -> bytes:
    """An array of elements that are in binary format already, and may be null."""
    elements = [_NULL if value is None else _pack_length(len(value)) + value for value in values]
    return _head(oid, len(values), None in values) + b"".join(elements)
