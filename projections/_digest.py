"""The digest of a read model: a sum over its rows, in whatever order they come, that nobody can forge.

AdHash (Bellare, Micciancio: "A New Paradigm for Collision-Free Hashing: Incrementality at Reduced Cost",
EUROCRYPT 1997): each row is hashed to a number, and the numbers are added. So a row that changes costs two hashes,
whatever else the table holds. Rows with a wanted sum can be looked for with Wagner's generalized birthday attack
(CRYPTO 2002), which breaks sums of a hash's usual length (2^(2 sqrt(n)) steps for n bits: 2^32 for 256 bits); at
n = 5,376 it takes 2^146, and a table of 2^73 rows. SHAKE-128, which itself gives 2^128, stretches a row's bytes to that
length. No row may count twice: the sums of many copies are easy to choose (ADR 13). Rows have keys, so none does.

A row's bytes are a compact JSON array: the table's name without its schema, the values of its columns, `position`
and `incomplete`. Amounts are decimal strings, times RFC 3339 in UTC with six digits, objects have their keys in the
order of their code points. The zone and the generation are no part of it: two folds of one history give one digest.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
from psycopg import sql

from projections._adhash import MODULUS, WIDTH, Sum, expand, from_bytes, to_bytes
from projections._arrays import array_of, plain
from projections._tables import Column, Row, Table, from_sql, table_of

if TYPE_CHECKING:
    from projections._engine import Projection

FORMAT = 2
"""Raise it when the bytes of a row change, or what they add to the sum: then every projection is rebuilt."""

__all__ = ["MODULUS", "WIDTH", "Sum", "expand", "from_bytes", "to_bytes"]

COPY_OUT = """
COPY (SELECT {columns} FROM {table} WHERE zone = {zone} AND generation = {generation})
TO STDOUT (FORMAT BINARY)
"""

FIND = "SELECT accumulator FROM digests WHERE zone = %s AND projection = %s AND generation = %s"

STORE = """
INSERT INTO digests (zone, projection, generation, accumulator)
SELECT %s, * FROM unnest(%s::text[], %s::integer[], %s::bytea[])
ON CONFLICT (zone, projection, generation) DO UPDATE SET accumulator = excluded.accumulator
"""

DROP = "DELETE FROM digests WHERE zone = %s AND projection = %s AND generation = %s"
DROP_BEFORE = "DELETE FROM digests WHERE zone = %s AND projection = %s AND generation < %s"

_encoder = msgspec.json.Encoder(order="deterministic")
_encode, _encode_lines = _encoder.encode, _encoder.encode_lines


# Rows as bytes


@functools.cache
def row_bytes(table: Table) -> Callable[[Any], bytes]:
    """An encoder compiled for one table: the bytes of a row that count in the digest."""
    names: dict[str, Any] = {"encode": _encode, "plain": _encode_as_stored, "time": time_text}
    source = (
        f"def encoder(r):\n"
        f"    values = {_values_source(table)}\n"
        f"    try: return encode(values)\n"
        f"    except (OverflowError, TypeError): return plain(values)"
    )
    exec(source, names)  # noqa: S102 - the source is made of column names of our own classes
    encoder: Callable[[Any], bytes] = names["encoder"]
    return encoder


@functools.cache
def row_lines(table: Table) -> Callable[[Sequence[Any]], bytes]:
    """The same for many rows at once, each with a line feed behind it; JSON escapes those of its own."""
    bytes_of = row_bytes(table)
    names: dict[str, Any] = {"time": time_text}
    source = f"def values_of(rows): return [{_values_source(table)} for r in rows]"
    exec(source, names)  # noqa: S102 - as above
    values_of: Callable[[Sequence[Any]], list[tuple[Any, ...]]] = names["values_of"]

    def lines(rows: Sequence[Any]) -> bytes:
        try:
            return _encode_lines(values_of(rows))
        except (OverflowError, TypeError):
            return b"".join(bytes_of(row) + b"\n" for row in rows)

    return lines


def _values_source(table: Table) -> str:
    columns = ", ".join(map(_source, table.columns))
    return f"({table.name.partition('.')[2]!r}, {columns}, r.position, r.incomplete)"


def _source(column: Column) -> str:
    value = f"r.{column.name}"
    if column.sql_type.startswith("numeric"):
        source = f"str({value})"
    elif column.sql_type == "timestamptz":
        source = f"time({value})"
    else:
        return value
    return f"(None if {value} is None else {source})" if column.nullable else source


@functools.lru_cache(maxsize=4_096)
def time_text(at: datetime) -> str:
    """RFC 3339, always in UTC and with six digits; most rows that change at once share their times."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def _encode_as_stored(values: tuple[Any, ...]) -> bytes:
    """For a `jsonb` whose whole numbers have more than 64 bits, or whose keys are numbers until it is stored."""
    stored = json.loads(json.dumps(values))
    return json.dumps(stored, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


# Sums


expand_kept = functools.lru_cache(maxsize=4_096)(expand)
"""For rows that are in memory: what a change writes now, the next change takes away again."""


def total(rows: Iterable[Row], table: Table) -> int:
    """The sum of a table's rows, not reduced."""
    return sum(map(expand, map(row_bytes(table), rows)))


def shown(accumulator: int) -> str:
    """What an attestation says of a digest."""
    return hashlib.sha256(to_bytes(accumulator)).hexdigest()


# The table `digests`


def find(connection: psycopg.Connection[Any], zone: str, projection: str, generation: int) -> int | None:
    """The accumulator of a generation; None where nobody knows it, or it is of another form (and so is the code)."""
    row = connection.execute(FIND, (zone, projection, generation)).fetchone()
    return from_bytes(row[0]) if row and len(row[0]) == WIDTH else None


def store(connection: psycopg.Connection[Any], zone: str, sums: Iterable[tuple[str, int, int]]) -> None:
    """Keep accumulators: (projection, generation, sum), with the rows and checkpoints that they belong to."""
    rows = [(projection, generation, to_bytes(sum)) for projection, generation, sum in sums]
    if rows:
        columns = zip(("text", "integer", "bytea"), zip(*rows, strict=True), strict=True)
        connection.execute(STORE, (zone, *(array_of(kind)(values) for kind, values in columns)))


def stored_rows(
    connection: psycopg.Connection[Any], zone: str, table: Table, generation: int
) -> Iterator[Row]:
    """A generation's rows as they are stored now, streamed, in no order."""
    names = [*(c.name for c in table.columns), "position", "incomplete"]
    types = [plain(c.sql_type) for c in table.columns]
    statement = sql.SQL(COPY_OUT).format(
        columns=sql.SQL(", ").join(map(sql.Identifier, names)),
        table=sql.SQL(table.name),
        zone=sql.Literal(zone),
        generation=sql.Literal(generation),
    )
    with connection.cursor().copy(statement) as copy:
        copy.set_types([*types, "bigint", "boolean"])
        for *values, position, incomplete in copy.rows():
            row = table.row(*map(from_sql, values))
            row.position, row.incomplete = position, incomplete
            yield row


def recompute(connection: psycopg.Connection[Any], zone: str, projection: Projection, generation: int) -> int:
    """The accumulator as it follows from the stored rows. For one moment's tables, ask in one transaction."""
    tables = map(table_of, projection.rows)
    return sum(total(stored_rows(connection, zone, t, generation), t) for t in tables) % MODULUS
