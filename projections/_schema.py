"""The tables of all read models, as DDL that is made from the rows' declarations."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import MISSING, fields
from datetime import datetime
from typing import Any, NamedTuple

from projections._archive import past_name
from projections._engine import all_projections
from projections._tables import Column, Table


@functools.cache
def tables() -> tuple[Table, ...]:
    """All tables of all projections, found by walking this package."""
    return tuple(table for projection in all_projections().values() for table in projection.tables)


class Present(NamedTuple):
    """What a database has of the schemas `read` and `past`."""

    columns: dict[str, set[str]]
    """Of each table, by its name with its schema."""
    indexes: set[str]
    """Those that are whole."""


class Lacking(NamedTuple):
    """The DDL that a database lacks. Whoever runs it beside a version that is at work locks no more than it takes."""

    at_once: list[str]
    """For one transaction."""
    one_by_one: list[str]
    """Indexes of tables that are there already: each by itself, outside of any transaction, while the table is used."""


PRESENT_COLUMNS = """
SELECT table_schema || '.' || table_name, array_agg(column_name::text)
FROM information_schema.columns WHERE table_schema IN ('read', 'past') GROUP BY 1
"""
PRESENT_INDEXES = """
SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = ANY(ARRAY(SELECT oid FROM pg_namespace WHERE nspname IN ('read', 'past'))) AND i.indisvalid
"""


def lacking(present: Present) -> Lacking:
    """What is to be added for the read models to be as they are declared; nothing of it disturbs an older version."""
    found = Lacking([], [])
    for t in tables():
        for name, statements in (
            (t.name, list(statements_of(t))),
            (past_name(t), list(past_statements_of(t))),
        ):
            have = present.columns.get(name)
            if have is None:
                found.at_once.extend(statements)
                continue
            found.at_once.extend(_columns_added(name, t, have))
            found.one_by_one.extend(_indexes_added(name.partition(".")[0], statements, present.indexes))
    return found


def _indexes_added(schema: str, statements: Iterable[str], have: set[str]) -> Iterator[str]:
    """Each behind a statement that removes what is left of one whose making was broken off."""
    for statement in statements:
        made = CREATE_INDEX.match(statement)
        if made and made[1] not in have:
            yield f"DROP INDEX CONCURRENTLY IF EXISTS {schema}.{made[1]}"
            yield statement.replace("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1)


CREATE_INDEX = re.compile(r"CREATE INDEX IF NOT EXISTS (\S+) ON ")


def drop_statement() -> str:
    """Drops the indexes that are declared no more; an older version may still want them."""
    declared = (f"{t.name.removeprefix('read.')}_{i}" for t in tables() for i, _ in enumerate(t.indexes, 1))
    return DROP_INDEXES.format(declared=",".join(declared))


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


def _columns_added(name: str, t: Table, have: Collection[str] = ()) -> Iterator[str]:
    """What an older table lacks, in one statement: each would lock and rewrite the catalogue on its own."""
    wanted = [c for c in t.columns if c.name not in t.key and c.name not in have]
    added = [f"ADD COLUMN IF NOT EXISTS {_column_sql(t, c)}" for c in wanted]
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
