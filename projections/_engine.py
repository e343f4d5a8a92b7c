"""The projection engine: folds events into keyed rows and writes them back with the checkpoint, set-based.

A handler is a small function of `(rows, event, record)`; it takes rows by key, changes them, and knows no SQL.
The engine runs a batch twice: first against blank rows to learn which keys it needs (one query a table loads
them), then for real. Handlers must therefore take their keys from the event, or from rows taken before.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

import projections
from commands._codec import event_decoder
from projections._tables import Row, Table, from_sql, table_of
from projections._watchdog import HandlerHung

R = TypeVar("R", bound=Row)
Handler = Callable[["Rows", Any, "Record"], None]

COPY_ABOVE = 1_000
"""From about this many new rows on, COPY is faster than INSERT ... SELECT unnest."""
MOST_CACHED_ROWS = 20_000


class Meta(msgspec.Struct, gc=False):
    """What projections want of an event's metadata; the other fields are passed over, which is quicker."""

    command: str = ""
    by: str = ""
    i: int = 0
    n: int = 0


_decode_meta = msgspec.json.Decoder(Meta).decode


class Record:
    """What the log says of an event, beside the event itself."""

    __slots__ = ("_meta", "data", "meta", "position", "recorded_at", "stream", "type", "version")

    def __init__(
        self,
        position: int,
        stream: str,
        version: int,
        type: str,
        data: bytes,
        meta: bytes,
        recorded_at: datetime,
    ) -> None:
        self.position = position
        self.stream = stream
        self.version = version
        self.type = type
        self.data = data
        self.meta = meta
        self.recorded_at = recorded_at
        self._meta: Meta | None = None

    @property
    def _known(self) -> Meta:
        if self._meta is None:
            self._meta = _decode_meta(self.meta) if self.meta else Meta()
        return self._meta

    @property
    def id(self) -> str:
        """The stream's id without its category: `v1` of `validator:v1`."""
        return self.stream.partition(":")[2]

    @property
    def command(self) -> str:
        return self._known.command

    @property
    def by(self) -> str:
        return self._known.by

    @property
    def ends_command(self) -> bool:
        """Whether this is the last event of its command (events of other applications stand alone)."""
        return self._known.i == self._known.n


class Projection:
    """A named set of tables and what each type of event does to them. Raise `version` when a handler changes.

    Several modules may handle one type (a context's timers, and those of another context that follows it); they
    do so in the order of their imports, which is that of their names.
    """

    def __init__(self, name: str, *rows: type[Row], version: int = 1) -> None:
        self.name = name
        self.code = str(version)
        self.rows = rows
        self.handlers: dict[str, Handler] = {}
        self.parts: dict[str, list[Handler]] = {}
        """The handlers of each type, as they were declared."""
        if _projections.setdefault(name, self) is not self:
            raise TypeError(f"two projections are called {name}")

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(table_of(row) for row in self.rows)

    def on(self, event: type) -> Callable[[Callable[[Rows, Any, Record], None]], Handler]:
        def register(handler: Handler) -> Handler:
            parts = self.parts.setdefault(event.__name__, [])
            if any(part.__module__ == handler.__module__ for part in parts):
                raise TypeError(f"{handler.__module__} handles {event.__name__} twice in {self.name}")
            parts.append(handler)
            self.handlers[event.__name__] = handler if len(parts) == 1 else _all_of(tuple(parts))
            return handler

        return register


def _all_of(parts: tuple[Handler, ...]) -> Handler:
    def handle(rows: Rows, event: Any, record: Record) -> None:
        for part in parts:
            part(rows, event, record)

    return handle


_projections: dict[str, Projection] = {}


def load_all() -> None:
    """Import every context's projections."""
    for module in pkgutil.iter_modules(projections.__path__):
        importlib.import_module(f"projections.{module.name}")


@functools.cache
def all_projections() -> dict[str, Projection]:
    load_all()
    return dict(sorted(_projections.items()))


class Rows:
    """The rows of one projection, zone and generation that a handler can take."""

    def __init__(self, projection: Projection, zone: str, generation: int) -> None:
        self.projection = projection
        self.zone = zone
        self.generation = generation
        self.position = 0
        """The position of the event that is being handled."""
        self.kept: dict[type, OrderedDict[tuple[Any, ...], Row | None]] = {
            row: OrderedDict() for row in projection.rows
        }
        self.changed: dict[type, dict[tuple[Any, ...], Row]] = {row: {} for row in projection.rows}
        self.added: dict[type, list[Row]] = {row: [] for row in projection.rows}
        self.deleted: dict[type, set[tuple[Any, ...]]] = {row: set() for row in projection.rows}

    # For handlers

    def of(self, row: type[R], *key: Any) -> R:
        """The row with this key; a new one with its defaults where there is none yet."""
        found = self.find(row, *key)
        if found is None:
            found = row(*key)
            found.incomplete = False
            found.position = self.position
            self.kept[row][key] = found
            self.changed[row][key] = found
            self.deleted[row].discard(key)
        return found

    def find(self, row: type[R], *key: Any) -> R | None:
        found: R | None = self._take(row, key)
        if found is not None:
            found.position = self.position
            self.changed[row][key] = found
        return found

    def add(self, row: Row) -> None:
        """A row whose key no row had before and no handler asks for (a line of a statement, say)."""
        row.position = self.position
        row.incomplete = False
        self.added[type(row)].append(row)

    def delete(self, row: type[R], *key: Any) -> None:
        if self._take(row, key) is not None:
            self.kept[row][key] = None
            self.changed[row].pop(key, None)
            self.deleted[row].add(key)

    def _take(self, row: type[R], key: tuple[Any, ...]) -> Any:
        return self.kept[row].get(key)

    # For the engine

    def clear_changes(self) -> None:
        for row in self.projection.rows:
            self.changed[row] = {}
            self.added[row] = []
            self.deleted[row] = set()

    def forget(self) -> None:
        """Drop the cache: somebody else moved the checkpoint, or a batch failed half way."""
        self.clear_changes()
        for kept in self.kept.values():
            kept.clear()

    def trim(self) -> None:
        for kept in self.kept.values():
            while len(kept) > MOST_CACHED_ROWS:
                kept.popitem(last=False)


class HistoryRows(Rows):
    """Rows of a generation that begins at position 0: all of them are in memory, or were handed to `write`."""

    def __init__(
        self,
        projection: Projection,
        zone: str,
        generation: int,
        writer: Callable[[Rows, type[Row]], Callable[[Row], None]],
    ) -> None:
        super().__init__(projection, zone, generation)
        self._writer = writer
        self._writers: dict[type, Callable[[Row], None]] = {}

    def of(self, row: type[R], *key: Any) -> R:
        kept = self.kept[row]
        found: Any = kept.get(key)
        if found is None:
            found = kept[key] = row(*key)
            found.incomplete = False
        found.position = self.position
        return found  # type: ignore[no-any-return]

    def find(self, row: type[R], *key: Any) -> R | None:
        return None if self.kept[row].get(key) is None else self.of(row, *key)

    def add(self, row: Row) -> None:
        row.position = self.position
        row.incomplete = False
        self.write(row)

    def write(self, row: Row) -> None:
        kind = type(row)
        write = self._writers.get(kind)
        if write is None:
            write = self._writers[kind] = self._writer(self, kind)
        write(row)

    def write_kept(self) -> None:
        """Hand over everything that was kept in memory."""
        for kept in self.kept.values():
            for row in kept.values():
                if row is not None:
                    self.write(row)


class _Probe(Rows):
    """Learns which keys a batch needs: every row that it gives is blank, and thrown away."""

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows.projection, rows.zone, rows.generation)

    def find(self, row: type[R], *key: Any) -> R | None:
        return self.of(row, *key)

    def of(self, row: type[R], *key: Any) -> R:
        kept = self.kept[row]
        if key not in kept:
            blank = row(*key)
            blank.position, blank.incomplete = 0, False
            kept[key] = blank
        found: Any = kept[key]
        return found  # type: ignore[no-any-return]

    def delete(self, row: type[R], *key: Any) -> None:
        self.kept[row].setdefault(key, None)

    def add(self, row: Row) -> None:
        pass


class _LoadingRows(Rows):
    """Rows over a connection: a key that the probe did not foresee is loaded when it is asked for."""

    connection: psycopg.Connection[Any]

    def _take(self, row: type[R], key: tuple[Any, ...]) -> Any:
        kept = self.kept[row]
        if key not in kept:
            load(self.connection, self, row, [key])
        return kept[key]


def live_rows(projection: Projection, zone: str, generation: int) -> _LoadingRows:
    return _LoadingRows(projection, zone, generation)


def fold(rows: Rows, records: Iterable[Record]) -> None:
    """Run the handlers over records, in order. An error names the record that it happened at."""
    handlers = rows.projection.handlers
    for record in records:
        handler = handlers.get(record.type)
        if handler is not None:
            rows.position = record.position
            decoder = event_decoder(record.type)
            assert decoder is not None, "a projection handles events of our own only"
            try:
                handler(rows, decoder(record.data), record)
            except Exception as error:
                raise HandlerFailed(record) from error


class HandlerFailed(Exception):
    """A handler raised; the cause says what, the record where."""

    def __init__(self, record: Record) -> None:
        self.record = record
        super().__init__(f"{record.type} at {record.position}")


def fold_batch(connection: psycopg.Connection[Any], rows: _LoadingRows, records: Sequence[Record]) -> None:
    """Fold a batch on rows that are loaded with one query a table."""
    rows.connection = connection
    for row, keys in keys_of(rows, records).items():
        missing = [key for key in keys if key not in rows.kept[row]]
        if missing:
            load(connection, rows, row, missing)
    fold(rows, records)


def keys_of(rows: Rows, records: Iterable[Record]) -> dict[type[Any], list[tuple[Any, ...]]]:
    """The keys that handlers ask for; one that depends on a loaded row's content may be missing here."""
    probe = _Probe(rows)
    for record in records:
        try:
            fold(probe, (record,))
        except HandlerFailed as error:
            if isinstance(error.__cause__, HandlerHung):
                raise
            # Otherwise go on: a blank row may well break a handler; the real fold decides.
    return {row: list(kept) for row, kept in probe.kept.items()}


# SQL, all of it derived from the rows' declarations


def load(
    connection: psycopg.Connection[Any], rows: Rows, row: type[Row], keys: Sequence[tuple[Any, ...]]
) -> None:
    """Bring rows into memory; a key without a row is remembered as such."""
    table = table_of(row)
    columns = list(zip(*keys, strict=True))
    kept = rows.kept[row]
    kept.update(dict.fromkeys(keys))
    statement = _load_statement(table)
    with connection.cursor(binary=True) as cursor:
        cursor.execute(statement, (*(list(c) for c in columns), rows.zone, rows.generation))
        for *values, position, incomplete in cursor:
            found = row(*map(from_sql, values))
            found.position, found.incomplete = position, incomplete
            kept[tuple(getattr(found, name) for name in table.key)] = found


def needs_copy(rows: Rows) -> bool:
    """Whether `flush` will use COPY, which has no place in a pipeline."""
    return any(len(added) > COPY_ABOVE for added in rows.added.values())


def flush(connection: psycopg.Connection[Any], rows: Rows) -> None:
    """Write all changed rows back. The caller's transaction also moves the checkpoint."""
    for row in rows.projection.rows:
        table = table_of(row)
        if rows.deleted[row]:
            columns = zip(*rows.deleted[row], strict=True)
            connection.execute(
                _delete_statement(table), (*(list(c) for c in columns), rows.zone, rows.generation)
            )
        if rows.changed[row]:
            _upsert(connection, table, rows, list(rows.changed[row].values()))
        if rows.added[row]:
            if len(rows.added[row]) > COPY_ABOVE:
                copy_in(connection, rows, row, rows.added[row])
            else:
                _upsert(connection, table, rows, rows.added[row])
    rows.clear_changes()
    rows.trim()


def _upsert(connection: psycopg.Connection[Any], table: Table, rows: Rows, changed: list[Row]) -> None:
    arrays = [[_to_sql(getattr(row, c.name), c.sql_type) for row in changed] for c in table.columns]
    positions = [row.position for row in changed]
    incomplete = [row.incomplete for row in changed]
    connection.execute(
        _upsert_statement(table), (rows.zone, rows.generation, *arrays, positions, incomplete), binary=False
    )


def copy_in(connection: psycopg.Connection[Any], rows: Rows, row: type[Row], added: Iterable[Row]) -> None:
    """COPY rows in that are known to be new."""
    with copying(connection, rows, row) as write:
        for each in added:
            write(each)


@contextmanager
def copying(
    connection: psycopg.Connection[Any], rows: Rows, row: type[Row]
) -> Iterator[Callable[[Row], None]]:
    """A COPY into a row's table, open until the block ends; gives the function that writes one row."""
    table = table_of(row)
    names = [c.name for c in table.columns]
    values_of = attrgetter(*names, "position", "incomplete")
    json = [i for i, c in enumerate(table.columns) if c.sql_type == "jsonb"]
    # Binary costs this process a third of what text costs.
    types = ["text", "integer", *(c.sql_type.partition(" ")[0].partition("(")[0] for c in table.columns)]
    target = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.SQL(table.name), sql.SQL(", ").join(map(sql.Identifier, table.all_columns))
    )
    place = (rows.zone, rows.generation)
    with connection.cursor() as cursor, cursor.copy(target) as copy:
        copy.set_types([*types, "bigint", "boolean"])

        def write(each: Row) -> None:
            copy.write_row(place + values_of(each))

        def write_json(each: Row) -> None:
            values = list(values_of(each))
            for i in json:
                values[i] = Jsonb(values[i])
            copy.write_row((*place, *values))

        yield write_json if json else write


def _to_sql(value: Any, sql_type: str) -> Any:
    return Jsonb(value) if sql_type == "jsonb" and value is not None else value


@functools.cache
def _load_statement(table: Table) -> bytes:
    types = {c.name: c.array_type for c in table.columns}
    return (
        sql.SQL(
            "SELECT {columns}, t.position, t.incomplete FROM unnest({arrays}) AS k({key}) JOIN {table} t "
            "ON {same} AND t.zone = %s AND t.generation = %s"
        )
        .format(
            columns=sql.SQL(", ").join(sql.SQL("t.{}").format(sql.Identifier(c.name)) for c in table.columns),
            arrays=sql.SQL(", ").join(sql.SQL(f"%s::{types[name]}") for name in table.key),
            key=sql.SQL(", ").join(map(sql.Identifier, table.key)),
            table=sql.SQL(table.name),
            same=sql.SQL(" AND ").join(
                sql.SQL("t.{0} = k.{0}").format(sql.Identifier(name)) for name in table.key
            ),
        )
        .as_bytes()
    )


@functools.cache
def _delete_statement(table: Table) -> bytes:
    types = {c.name: c.array_type for c in table.columns}
    return (
        sql.SQL(
            "DELETE FROM {table} t USING unnest({arrays}) AS k({key}) "
            "WHERE {same} AND t.zone = %s AND t.generation = %s"
        )
        .format(
            table=sql.SQL(table.name),
            arrays=sql.SQL(", ").join(sql.SQL(f"%s::{types[name]}") for name in table.key),
            key=sql.SQL(", ").join(map(sql.Identifier, table.key)),
            same=sql.SQL(" AND ").join(
                sql.SQL("t.{0} = k.{0}").format(sql.Identifier(name)) for name in table.key
            ),
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
