"""The tables of all read models, as DDL that is made from the rows' declarations."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import MISSING, fields
from datetime import datetime
from typing import Any

from projections._archive import past_name
from projections._engine import all_projections
from projections._tables import Column, Table


@functools.cache
def tables() -> tuple[Table, ...]:
    """All tables of all projections, found by walking this package."""
    return tuple(table for projection in all_projections().values() for table in projection.tables)


def table_statements() -> Iterator[str]:
    """The DDL of all read models; safe to run again: adds the columns that are new, and drops the indexes that are
    declared no more."""
    for t in tables():
        yield from statements_of(t)
        yield from past_statements_of(t)
    declared = (f"{t.name.removeprefix('read.')}_{i}" for t in tables() for i, _ in enumerate(t.indexes, 1))
    yield DROP_INDEXES.format(declared=",".join(declared))


# Indexes that somebody added by hand have other names, and stay.
DROP_INDEXES = """
DO $$
DECLARE
    undeclared text;
BEGIN
    FOR undeclared IN
        SELECT format('%I.%I', schemaname, indexname) FROM pg_indexes
        WHERE schemaname IN ('read', 'past') AND indexname ~ ('^' || tablename || '_[0-9]+$')
          AND indexname <> ALL ('{{{declared}}}')
    LOOP
        EXECUTE 'DROP INDEX ' || undeclared;
    END LOOP;
END
$$
"""


def statements_of(t: Table) -> Iterator[str]:
    columns = ", ".join(_column_sql(t, c) for c in t.columns)
    key = ", ".join(("zone", "generation", *map(_quoted, t.key)))
    yield (
        f'CREATE TABLE IF NOT EXISTS {t.name} (zone text COLLATE "C" NOT NULL, generation integer NOT NULL, '
        f"{columns}, position bigint NOT NULL, incomplete boolean NOT NULL DEFAULT false, PRIMARY KEY ({key}))"
    )
    yield from _columns_added(t.name, t)
    short = t.name.removeprefix("read.")
    for i, index in enumerate(t.indexes, 1):
        yield f"CREATE INDEX IF NOT EXISTS {short}_{i} ON {t.name} (zone, generation, {index})"


def _columns_added(name: str, t: Table) -> Iterator[str]:
    """What an older table lacks, in one statement: each would lock and rewrite the catalogue on its own."""
    added = [f"ADD COLUMN IF NOT EXISTS {_column_sql(t, c)}" for c in t.columns if c.name not in t.key]
    if added:
        yield f"ALTER TABLE {name} {', '.join(added)}"


def past_statements_of(t: Table) -> Iterator[str]:
    """The table of a row's versions (projections/_archive.py). A question as of a position names the few nodes at
    which the answer may lie: `node` ends each index of the read table, and has its own for questions about all rows."""
    past = past_name(t)
    columns = ", ".join(_column_sql(t, c) for c in t.columns)
    key = ", ".join(("zone", "generation", *map(_quoted, t.key), "node"))
    yield (
        f'CREATE TABLE IF NOT EXISTS {past} (zone text COLLATE "C" NOT NULL, generation integer NOT NULL, '
        f"{columns}, position bigint NOT NULL, incomplete boolean NOT NULL DEFAULT false, "
        f"since bigint NOT NULL, until bigint NOT NULL, node bigint NOT NULL, PRIMARY KEY ({key}))"
    )
    yield from _columns_added(past, t)
    short = past.removeprefix("past.")
    yield f"CREATE INDEX IF NOT EXISTS {short}_node ON {past} (zone, generation, node)"
    for i, index in enumerate(t.indexes, 1):
        yield f"CREATE INDEX IF NOT EXISTS {short}_{i} ON {past} (zone, generation, {index}, node)"


def _column_sql(t: Table, column: Column) -> str:
    if column.name in t.key:
        return f"{_quoted(column.name)} {column.sql_type} NOT NULL"
    if column.nullable:
        return f"{_quoted(column.name)} {column.sql_type}"
    f = next(f for f in fields(t.row) if f.name == column.name)
    default = f.default_factory() if f.default_factory is not MISSING else f.default
    return f"{_quoted(column.name)} {column.sql_type} NOT NULL DEFAULT {_literal(default)}"


def _quoted(name: str) -> str:
    """Some good names, such as window, are words of SQL's own."""
    return f'"{name}"'


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if value in ({}, []):
        return f"'{value}'"
    if isinstance(value, datetime):
        return f"'{value.isoformat()}'"
    return "'" + str(value).replace("'", "''") + "'"
