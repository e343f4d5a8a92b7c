"""The statement by which everything is stored: one call of `append_to_log`, with a batch's columns as arrays.

It is sent below psycopg's cursors. They find out the type of every element of every array and look up every parameter
again for each batch, which was a quarter of what a command cost this process beyond HTTP; here both are known.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

from commands._arrays import (
    bigint_array,
    bytea_array,
    int_array,
    nullable_bigint_array,
    smallint_array,
    text_array,
)
from commands._codec import MICROSECOND

# The zone, the head that is expected, the time; then columns of commands, of events and of snapshots.
_SCALARS = ("text", "bigint", "bigint", "timestamptz")
_COLUMNS: tuple[tuple[str, Callable[[Any], bytes]], ...] = (
    ("text[]", text_array),  # principals
    ("text[]", text_array),  # keys
    ("text[]", text_array),  # act_as
    ("bytea[]", bytea_array),  # requests
    ("bigint[]", nullable_bigint_array),  # if_match
    ("smallint[]", smallint_array),  # statuses
    ("bytea[]", bytea_array),  # answers
    ("bigint[]", bigint_array),  # positions
    ("integer[]", int_array),  # event_counts
    ("bytea[]", bytea_array),  # fate_leaves
    ("text[]", text_array),  # streams
    ("bigint[]", bigint_array),  # versions
    ("text[]", text_array),  # types
    ("bytea[]", bytea_array),  # data
    ("bytea[]", bytea_array),  # meta
    ("bytea[]", bytea_array),  # leaves
    ("text[]", text_array),  # snapshot_streams
    ("bigint[]", bigint_array),  # snapshot_versions
    ("bigint[]", bigint_array),  # snapshot_positions
    ("text[]", text_array),  # snapshot_schemas
    ("bytea[]", bytea_array),  # snapshot_states
)
_KINDS = (*_SCALARS, *(kind for kind, _ in _COLUMNS))
_DUMPERS = tuple(dump for _, dump in _COLUMNS)

APPEND = f"SELECT append_to_log({', '.join(f'%b::{kind}' for kind in _KINDS)})"
"""For a cursor. Binary, because psycopg escapes every string of a text array by a regular expression."""

_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_pack_number = struct.Struct(">q").pack


def parameters(
    zone: str, position: int, number: int, at: datetime, columns: Sequence[Sequence[Any]]
) -> list[bytes]:
    """Everything in binary format, in the statement's order."""
    numbers = (position, number, (at - _POSTGRES_EPOCH) // MICROSECOND)
    arrays = [dump(column) for dump, column in zip(_DUMPERS, columns, strict=True)]
    return [zone.encode(), *map(_pack_number, numbers), *arrays]


class Statement:
    """A statement whose parameters and results are all in binary format, run without a cursor."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name.encode()
        self._text = text.encode()

    async def prepare(self, connection: AsyncConnection[Any]) -> None:
        """Once for each connection."""
        connection.pgconn.send_prepare(self._name, self._text)
        await _result(connection)

    async def run(
        self, connection: AsyncConnection[Any], sent: Sequence[bytes], prepared: bool = True
    ) -> PGresult:
        """Raises psycopg.Error, as a cursor does."""
        formats = [Format.BINARY] * len(sent)
        if prepared:
            connection.pgconn.send_query_prepared(self._name, sent, formats, Format.BINARY)
        else:
            connection.pgconn.send_query_params(self._text, sent, None, formats, Format.BINARY)
        return await _result(connection)


async def _result(connection: AsyncConnection[Any]) -> PGresult:
    results: list[PGresult] = await connection.wait(execute(connection.pgconn))
    if results[-1].status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
        raise error_from_result(results[-1])
    return results[-1]


APPEND_TO_LOG = Statement(
    "append_to_log",
    f"SELECT append_to_log({', '.join(f'${n}::{kind}' for n, kind in enumerate(_KINDS, 1))})",
)
