"""Rows of read models as PostgreSQL keeps them: loaded by key, and written back with their digest, set-based."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from projections import _digest
from projections._arrays import Array, array_of, plain
from projections._digest import expand, expand_kept, row_bytes
from projections._engine import HandlerFailed, Projection, R, Record, Rows, fold, keys_of
from projections._tables import Column, Row, Table, from_sql, table_of

DATA = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,
    ValueError,
    TypeError,
    OverflowError,
)
"""Why rows could not be stored, where it is what they hold that is wrong."""

COPY_ABOVE = 1_000
"""From about this many new rows on, COPY is faster than INSERT ... SELECT unnest."""


class StoredRows(Rows):
    """Rows over a connection: a key that the probe did not foresee is loaded when it is asked for.

    They carry their generation's digest along, as of the checkpoint that they are good for.
    """

    connection: psycopg.Connection[Any]

    def __init__(self, projection: Projection, zone: str, generation: int) -> None:
        super().__init__(projection, zone, generation)
        self.digest: int | None = None
        self._bytes_of = {row: row_bytes(table_of(row)) for row in projection.rows}
        self._before: dict[type, dict[tuple[Any, ...], bytes | None]] = {}
        """The bytes of each row that this batch took, as it is stored; None where there is none."""
        self.clear_changes()

    def _take(self, row: type[R], key: tuple[Any, ...]) -> Any:
        kept = self.kept[row]
        if key not in kept:
            load(self.connection, self, row, [key])
        found, before = kept[key], self._before[row]
        if key not in before:
            before[key] = None if found is None else self._bytes_of[row](found)
        return found

    def clear_changes(self) -> None:
        super().clear_changes()
        self._before = {row: {} for row in self.projection.rows}

    def forget(self) -> None:
        super().forget()
        self.digest = None

    def change_of_digest(self) -> int:
        """What this batch's changes add to the sum over all rows; rows that stay as they were cost no hash."""
        change = 0
        for row, before in self._before.items():
            bytes_of = self._bytes_of[row]
            for key in self.deleted[row]:
                change -= expand_kept(old) if (old := before[key]) is not None else 0
            for key, each in self.changed[row].items():
                old, new = before[key], bytes_of(each)
                if new != old:
                    change += expand_kept(new) - (expand_kept(old) if old is not None else 0)
            change += sum(map(expand, map(bytes_of, self.added[row])))
        return change


def fold_batch(connection: psycopg.Connection[Any], rows: StoredRows, records: Sequence[Record]) -> None:
    """Fold a batch on rows that are loaded with one query a table."""
    load_for(connection, rows, records)
    fold(rows, records)


def load_for(connection: psycopg.Connection[Any], rows: StoredRows, records: Sequence[Record]) -> None:
    """Bring the rows into memory that a batch needs, as far as the probe can tell."""
    rows.connection = connection
    for row, keys in keys_of(rows, records).items():
        missing = [key for key in keys if key not in rows.kept[row]]
        if missing:
            load(connection, rows, row, missing)


# SQL, all of it derived from the rows' declarations


def load(
    connection: psycopg.Connection[Any], rows: Rows, row: type[Row], keys: Sequence[tuple[Any, ...]]
) -> None:
    """Bring rows into memory; a key without a row is remembered as such."""
    table = table_of(row)
    kept = rows.kept[row]
    kept.update(dict.fromkeys(keys))
    statement = load_statement(table)
    with connection.cursor(binary=True) as cursor:
        cursor.execute(statement, (*_key_columns(table, keys), rows.zone, rows.generation))
        for *values, position, incomplete in cursor.fetchall():
            found = row(*map(from_sql, values))
            found.position, found.incomplete = position, incomplete
            kept[tuple(getattr(found, name) for name in table.key)] = found


def needs_copy(rows: Rows) -> bool:
    """Whether `flush` will use COPY, which has no place in a pipeline."""
    return any(len(added) > COPY_ABOVE for added in rows.added.values())


class DigestLost(Exception):
    """A generation has rows and no digest: it must be built anew."""


def flush(connection: psycopg.Connection[Any], *several: StoredRows) -> None:
    """Write all changed rows of a zone's projections back, with their digests. The caller's transaction also
    moves the checkpoints."""
    for rows in several:
        _write(connection, rows)
    _digest.store(connection, several[0].zone, list(_changed_digests(connection, several)))
    for rows in several:
        rows.clear_changes()
        rows.trim()


def flush_one(connection: psycopg.Connection[Any], rows: StoredRows, record: Record) -> None:
    """Write what one event made. Raises HandlerFailed where no table takes it."""
    try:
        flush(connection, rows)
    except DATA as error:
        raise HandlerFailed(record) from error


def _changed_digests(
    connection: psycopg.Connection[Any], several: Iterable[StoredRows]
) -> Iterator[tuple[str, int, int]]:
    for rows in several:
        change = rows.change_of_digest()
        if change:
            place = rows.projection.name, rows.generation
            if rows.digest is None:
                rows.digest = _digest.find(connection, rows.zone, *place)
            if rows.digest is None:
                raise DigestLost(*place)
            rows.digest = (rows.digest + change) % _digest.MODULUS
            yield *place, rows.digest


def _write(connection: psycopg.Connection[Any], rows: Rows) -> None:
    for row in rows.projection.rows:
        table = table_of(row)
        if rows.deleted[row]:
            keys = _key_columns(table, list(rows.deleted[row]))
            connection.execute(_delete_statement(table), (*keys, rows.zone, rows.generation))
        if rows.changed[row]:
            _upsert(connection, table, rows, list(rows.changed[row].values()))
        if rows.added[row]:
            if len(rows.added[row]) > COPY_ABOVE:
                copy_in(connection, rows, row, rows.added[row])
            else:
                _upsert(connection, table, rows, rows.added[row])


def _upsert(connection: psycopg.Connection[Any], table: Table, rows: Rows, changed: list[Row]) -> None:
    arrays = [array([getattr(row, name) for row in changed]) for name, array in _column_arrays(table)]
    connection.execute(_upsert_statement(table), (rows.zone, rows.generation, *arrays), binary=False)


def copy_in(connection: psycopg.Connection[Any], rows: Rows, row: type[Row], added: Iterable[Row]) -> None:
    """COPY rows in that are known to be new."""
    with copying(connection, rows, row) as write:
        write(added)


@contextmanager
def copying(
    connection: psycopg.Connection[Any], rows: Rows, row: type[Row]
) -> Iterator[Callable[[Iterable[Row]], None]]:
    """A COPY into a row's table, open until the block ends; gives the function that writes rows."""
    table = table_of(row)
    values_of = _values_of(table)
    # Binary costs this process a third of what text costs.
    types = ["text", "integer", *(plain(c.sql_type) for c in table.columns)]
    target = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.SQL(table.name), sql.SQL(", ").join(map(sql.Identifier, table.all_columns))
    )
    with connection.cursor() as cursor, cursor.copy(target) as copy:
        copy.set_types([*types, "bigint", "boolean"])

        def write(several: Iterable[Row]) -> None:
            write_row = copy.write_row
            for values in values_of(rows.zone, rows.generation, several):
                write_row(values)

        yield write


@functools.cache
def _values_of(table: Table) -> Callable[[str, int, Iterable[Row]], list[tuple[Any, ...]]]:
    """What COPY takes of rows, compiled for one table: `attrgetter` costs twice as much."""
    columns = (f"Jsonb(r.{c.name})" if c.sql_type == "jsonb" else f"r.{c.name}" for c in table.columns)
    values = f"(zone, generation, {', '.join(columns)}, r.position, r.incomplete)"
    names: dict[str, Any] = {"Jsonb": Jsonb}
    source = f"def values_of(zone, generation, rows): return [{values} for r in rows]"
    exec(source, names)  # noqa: S102 - the source is made of column names of our own classes
    found: Callable[[str, int, Iterable[Row]], list[tuple[Any, ...]]] = names["values_of"]
    return found


@functools.cache
def _column_arrays(table: Table) -> tuple[tuple[str, Callable[[Sequence[Any]], Array]], ...]:
    declared = (*table.columns, Column("position", "bigint", False), Column("incomplete", "boolean", False))
    return tuple((c.name, array_of(c.sql_type, c.nullable)) for c in declared)


def _key_columns(table: Table, keys: Sequence[tuple[Any, ...]]) -> list[Array]:
    types = {c.name: c.sql_type for c in table.columns}
    return [
        array_of(types[name])(column) for name, column in zip(table.key, zip(*keys, strict=True), strict=True)
    ]


def named(names: Iterable[str], form: str = "{}") -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL(form).format(sql.Identifier(name)) for name in names)


def key_arrays(table: Table) -> sql.Composed:
    types = {c.name: c.array_type for c in table.columns}
    return sql.SQL(", ").join(sql.SQL(f"%s::{types[name]}") for name in table.key)


def same_key(table: Table) -> sql.Composed:
    return sql.SQL(" AND ").join(sql.SQL("t.{0} = k.{0}").format(sql.Identifier(name)) for name in table.key)


@functools.cache
def load_statement(table: Table) -> bytes:
    return (
        sql.SQL(
            "SELECT {columns}, t.position, t.incomplete FROM unnest({arrays}) AS k({key}) JOIN {table} t "
            "ON {same} AND t.zone = %s AND t.generation = %s"
        )
        .format(
            columns=named((c.name for c in table.columns), "t.{}"),
            arrays=key_arrays(table),
            key=named(table.key),
            table=sql.SQL(table.name),
            same=same_key(table),
        )
        .as_bytes()
    )


@functools.cache
def _delete_statement(table: Table) -> bytes:
    return (
        sql.SQL(
            "DELETE FROM {table} t USING unnest({arrays}) AS k({key}) "
            "WHERE {same} AND t.zone = %s AND t.generation = %s"
        )
        .format(
            table=sql.SQL(table.name),
            arrays=key_arrays(table),
            key=named(table.key),
            same=same_key(table),
        )
        .as_bytes()
    )


@functools.cache
def _upsert_statement(table: Table) -> bytes:
    names = [c.name for c in table.columns]
    others = [*(n for n in names if n not in table.key), "position", "incomplete"]
    arrays = [*(c.array_type for c in table.columns), "bigint[]", "boolean[]"]
    return (
        sql.SQL(
            "INSERT INTO {table} ({all}) SELECT %s, %s, r.* FROM unnest({arrays}) AS r "
            "ON CONFLICT (zone, generation, {key}) DO UPDATE SET {set}"
        )
        .format(
            table=sql.SQL(table.name),
            all=sql.SQL(", ").join(map(sql.Identifier, table.all_columns)),
            arrays=sql.SQL(", ").join(sql.SQL(f"%s::{array}") for array in arrays),
            key=sql.SQL(", ").join(map(sql.Identifier, table.key)),
            set=sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(n)) for n in others),
        )
        .as_bytes()
    )
