"""A query's rows as a Parquet file: the rows that the query answers, all of them, as of one position.

They come by a cursor in one snapshot and leave through a pipe to DuckDB, so memory stays bounded however many they
are. Amounts are DECIMAL(38,0), times TIMESTAMP WITH TIME ZONE, what is JSON in the answer is its text. Personal texts
stay sealed: a file outlives what is erased later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import msgspec
import psycopg

from commands._codec import encode_json
from ops.export import ExportRefused, Tick
from ops.files import replacing
from ops.parquet import literal, piped
from ops.problems import Problem
from queries._parameters import values_of
from queries._query import QUERIES, Query
from queries._rows import derived, shows
from queries._sql import given_of, is_amount, plain, whole

ROWS_A_FETCH = 2_000
MOST_ROW_BYTES = 1 << 20
TYPES: dict[Any, str] = {int: "BIGINT", bool: "BOOLEAN", float: "DOUBLE", datetime: "TIMESTAMPTZ"}

WRITE = """
COPY (
    SELECT {columns}
    FROM read_json(?, columns = ?, format = 'newline_delimited', maximum_object_size = {most_bytes})
) TO {file} (FORMAT parquet, COMPRESSION zstd, KV_METADATA {{fogbook: {about}}})
"""


class Exported(NamedTuple):
    """What a file holds; it says so itself, but for the number of rows, as JSON under `fogbook` in its metadata."""

    query: str
    parameters: dict[str, str]
    zone: str
    position: int
    generation: int
    quarantined: int
    rows: int


def query_named(name: str) -> Query:
    """`marketplace/prices`. Raises ExportRefused."""
    query = QUERIES.get(f"/queries/{name}")
    if query is None:
        raise ExportRefused(
            f"There is no query {name}; it is named as in its address, such as ledger/balances."
        )
    return query


def export_query(
    connection: psycopg.Connection[Any],
    query: Query,
    zone: str,
    parameters: Mapping[str, str],
    path: Path,
    tick: Tick,
) -> Exported:
    """Write all rows that an operator is shown, or no file at all; inside `one_moment`. Raises ExportRefused."""
    values = _values(query, zone, parameters)
    with connection.cursor("rows") as cursor:
        cursor.itersize = ROWS_A_FETCH
        cursor.execute(whole(query, given_of(query, values), True), values)
        first = cursor.fetchone()
        if first is None:
            raise ExportRefused(f"The projection {query.projection} of zone {zone} has not started yet.")
        generation, position, quarantined, key = first[:4]
        about = Exported(
            f"{query.context}/{query.name}", dict(parameters), zone, position, generation, quarantined, 0
        )
        with replacing(path) as unfinished:
            lines = _lines(query, values, cursor, first) if key is not None else iter(())
            number = _write(path, unfinished, query, about, lines, tick)
        return about._replace(rows=number)


def _values(query: Query, zone: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    try:
        values = values_of(query.parameters, parameters)
    except Problem as problem:
        facts = problem.body["facts"]
        named = facts.get("parameter") or f"known are {', '.join(facts['known'])}"
        raise ExportRefused(f"{problem.body['detail']} ({named})") from None
    if query.own and not values[query.own] and "%(sees_all)s" not in query.select:
        raise ExportRefused(f"It is about one {query.own}: name it by --param {query.own}=...")
    return values | {"zone": zone, "projection": query.projection, "principal": "", "sees_all": True}


def _lines(
    query: Query, values: dict[str, Any], cursor: Iterator[tuple[Any, ...]], first: tuple[Any, ...]
) -> Iterator[bytes]:
    """Each row as the query's answer has it."""
    show, chunk = shows(query), [first]
    while chunk:
        if query.derive is None:
            yield from (show(row[4:]) for row in chunk)
        else:
            items = derived(query, b"[%b]" % b",".join([show(row[4:]) for row in chunk]), values)
            yield from (bytes(item) for item in msgspec.json.decode(items, type=list[msgspec.Raw]))
        chunk = [row for row, _ in zip(cursor, range(ROWS_A_FETCH), strict=False)]


def _write(
    path: Path, unfinished: Path, query: Query, about: Exported, lines: Iterator[bytes], tick: Tick
) -> int:
    number = 0
    with piped(path, *_statement(unfinished, query, about)) as pipe:
        for line in lines:
            pipe.write(line + b"\n")
            number += 1
            if number % ROWS_A_FETCH == 0:
                tick(number, 0)
    return number


def _statement(file: Path, query: Query, about: Exported) -> tuple[str, dict[str, str]]:
    """How a file is made of lines, and the columns of these."""
    hints = get_type_hints(query.row, include_extras=True)
    types = {f.name: _type(hints[f.name]) for f in fields(query.row)}
    shown = [
        f'CAST("{name}" AS {"VARCHAR" if type == "JSON" else type}) AS "{name}"'
        for name, type in types.items()
    ]
    said = {name: value for name, value in about._asdict().items() if name != "rows"}
    statement = WRITE.format(
        columns=", ".join(shown),
        most_bytes=MOST_ROW_BYTES,
        file=literal(str(file)),
        about=literal(encode_json(said).decode()),
    )
    return statement, {name: "JSON" if type == "JSON" else "VARCHAR" for name, type in types.items()}


def _type(hint: Any) -> str:
    bare = plain(hint)
    if is_amount(bare):
        return "DECIMAL(38,0)"
    return "VARCHAR" if bare is str else TYPES.get(bare, "JSON")
