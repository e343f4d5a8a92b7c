"""The archive: every version that a row of a read model ever had, each with the positions for which it was valid.

A version is valid for positions `since` <= P < `until`, both ends of commands; `until` is OPEN while it lasts. Which
versions are valid at P is asked of a relational interval tree (Kriegel, Pötke, Seidl: Managing Intervals Efficiently in
Object-Relational Databases, VLDB 2000): each version lies at one node of a virtual binary tree over all positions, its
fork node, and those that are valid at P lie on the path from the root to P. At most one version of a key lies at each
node of a path, so (key, node) is unique and a keyed question takes about log2(head) probes of one index.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from projections._engine import Projection, Record, Rows, fold, keys_of
from projections._quarantine import DIED, HUNG
from projections._stored import key_arrays, named, same_key
from projections._tables import Row, Table, from_sql, table_of

OPEN = 2**62
"""The end of a version that still lasts."""
OPEN_NODE = -1
"""Where versions lie that still last: their fork node is not known yet."""
MOST_CACHED_ROWS = 10_000
"""Of a table, between two chunks."""

Key = tuple[Any, ...]
Values = tuple[Any, ...]


# The interval tree


def fork_node(since: int, until: int) -> int:
    """The node at which a version lies: of the positions from since to until - 1, the one that most twos divide."""
    last = until - 1
    return last >> (lowest := ((since - 1) ^ last).bit_length() - 1) << lowest


def path_of(position: int, head: int = OPEN - 1) -> list[int]:
    """All nodes at which a version may lie that is valid at a position, as far as the log goes; and OPEN_NODE."""
    nodes = [OPEN_NODE]
    own_height = max((position & -position).bit_length() - 1, 0)  # Nothing below it in the tree holds it.
    for height in range(own_height, head.bit_length()):
        node = (position >> (height + 1) << (height + 1)) | 1 << height
        if node <= head:
            nodes.append(node)
    return nodes


# The fold


@dataclass
class _Versions:
    """The versions of one table's rows, within a chunk."""

    stored: dict[Key, int] = field(default_factory=dict)
    """Since when, of those open versions of rows in memory that earlier chunks wrote."""
    begun: dict[Key, tuple[int, Values]] = field(default_factory=dict)
    """Versions of this chunk that are open."""
    done: list[Values] = field(default_factory=list)
    """Versions that go in as they are, opened in this chunk."""
    closed: list[tuple[Key, int, int]] = field(default_factory=list)
    """Key, end and node of versions of earlier chunks."""

    def turn(self, key: Key, at: int, values: Values | None) -> None:
        """The row has other content from a position on, or is no more."""
        begun = self.begun.pop(key, None)
        if begun is not None:
            self.done.append((*begun[1], begun[0], at, fork_node(begun[0], at)))
        elif (since := self.stored.pop(key, None)) is not None:
            self.closed.append((key, at, fork_node(since, at)))
        if values is not None:
            self.begun[key] = (at, values)


class PastRows(Rows):
    """Rows of an archive. At the end of each command, what it touched becomes a version, and ends the one before.

    A handler that takes a row changes its position, so each command's touch is a version, and there are no others.
    """

    def __init__(self, projection: Projection, zone: str, generation: int) -> None:
        super().__init__(projection, zone, generation)
        self.versions: dict[type, _Versions] = {row: _Versions() for row in projection.rows}
        self._values = {row: _values_of(table_of(row)) for row in projection.rows}

    def end_command(self, position: int) -> None:
        for kind, versions in self.versions.items():
            if changed := self.changed[kind]:
                values_of = self._values[kind]
                for key, row in changed.items():
                    versions.turn(key, position, values_of(row))
                changed.clear()
            if deleted := self.deleted[kind]:
                for key in deleted:
                    versions.turn(key, position, None)
                deleted.clear()
            if added := self.added[kind]:
                values_of = self._values[kind]
                versions.done += ((*values_of(row), position, OPEN, OPEN_NODE) for row in added)
                added.clear()

    def forget(self) -> None:
        super().forget()
        for kind in self.versions:
            self.versions[kind] = _Versions()

    def trim(self) -> None:
        for kind, kept in self.kept.items():
            stored = self.versions[kind].stored
            while len(kept) > MOST_CACHED_ROWS:
                stored.pop(kept.popitem(last=False)[0], None)


class StoredPastRows(PastRows):
    """Rows over a connection: a key that the probe did not foresee is loaded when it is asked for."""

    connection: psycopg.Connection[Any]

    def _take(self, row: type[Any], key: Key) -> Any:
        kept = self.kept[row]
        if key not in kept:
            load(self.connection, self, row, [key])
        return kept[key]


def fold_past(rows: PastRows, records: Iterable[Record], set_aside: dict[int, str]) -> None:
    """Run the handlers over whole commands. Events that the live projection set aside (position -> why) are passed over
    here as well, and the rows that miss them marked. Raises HandlerFailed."""
    for record in records:
        if record.position not in set_aside:
            fold(rows, (record,))
        elif _marks(set_aside[record.position]):
            rows.position = record.position
            _mark(rows, record)
        if record.ends_command:
            rows.end_command(record.position)


NOT_TRIED_AGAIN = (HUNG, DIED)


def _marks(error: str) -> bool:
    """To learn which rows miss an event means to run its handler, which is not done with one that hung."""
    return not error.startswith(NOT_TRIED_AGAIN)


def _mark(rows: PastRows, record: Record) -> None:
    for row, keys in keys_of(rows, [record]).items():
        for key in keys:
            rows.of(row, *key).incomplete = True


def archive_chunk(
    connection: psycopg.Connection[Any],
    rows: StoredPastRows,
    records: Sequence[Record],
    set_aside: dict[int, str],
) -> None:
    """Fold a chunk of whole commands and write its versions; the caller's transaction also moves the archive."""
    rows.connection = connection
    tried = [r for r in records if r.position not in set_aside or _marks(set_aside[r.position])]
    for row, keys in keys_of(rows, tried).items():
        missing = [key for key in keys if key not in rows.kept[row]]
        if missing:
            load(connection, rows, row, missing)
    fold_past(rows, records, set_aside)
    write(connection, rows)


def _values_of(table: Table) -> Callable[[Row], Values]:
    """A row's values as they are now: handlers go on changing what is in it."""
    names = [c.name for c in table.columns]
    get: Callable[[Row], Values] = attrgetter(*names, "position", "incomplete")
    documents = [i for i, c in enumerate(table.columns) if c.sql_type == "jsonb"]
    if not documents:
        return get

    def frozen(row: Row) -> Values:
        values = list(get(row))
        for i in documents:
            if values[i] is not None:
                values[i] = Jsonb(json.dumps(values[i]), dumps=_as_it_is)
        return tuple(values)

    return frozen


def _as_it_is(text: str) -> str:
    return text


# SQL, all of it derived from the rows' declarations


def past_name(table: Table) -> str:
    return f"past.{table.name.removeprefix('read.')}"


def load(connection: psycopg.Connection[Any], rows: PastRows, row: type[Row], keys: Sequence[Key]) -> None:
    """Bring rows into memory as their open versions say; a key without one is remembered as such."""
    table = table_of(row)
    kept, stored = rows.kept[row], rows.versions[row].stored
    kept.update(dict.fromkeys(keys))
    columns = [list(column) for column in zip(*keys, strict=True)]
    with connection.cursor(binary=True) as cursor:
        cursor.execute(_load_statement(table), (*columns, rows.zone, rows.generation))
        for *values, position, incomplete, since in cursor:
            found = row(*map(from_sql, values))
            found.position, found.incomplete = position, incomplete
            key = tuple(getattr(found, name) for name in table.key)
            kept[key], stored[key] = found, since


def write(connection: psycopg.Connection[Any], rows: PastRows) -> None:
    """Close what ended, then bring in what began: a key has one open version at a time."""
    for kind, versions in rows.versions.items():
        table = table_of(kind)
        if versions.closed:
            keys, ends, nodes = zip(*versions.closed, strict=True)
            columns = [list(column) for column in zip(*keys, strict=True)]
            connection.execute(
                _close_statement(table), (*columns, list(ends), list(nodes), rows.zone, rows.generation)
            )
            versions.closed.clear()
        if versions.done or versions.begun:
            _copy_in(connection, rows, table, versions)
            versions.stored.update((key, since) for key, (since, _) in versions.begun.items())
            versions.done.clear()
            versions.begun.clear()
    rows.trim()


def _copy_in(connection: psycopg.Connection[Any], rows: PastRows, table: Table, versions: _Versions) -> None:
    place = (rows.zone, rows.generation)
    with connection.cursor() as cursor, cursor.copy(_copy_statement(table)) as copy:
        copy.set_types(_copy_types(table))
        for values in versions.done:
            copy.write_row(place + values)
        for since, values in versions.begun.values():
            copy.write_row((*place, *values, since, OPEN, OPEN_NODE))


@functools.cache
def _copy_types(table: Table) -> list[str]:
    own = (c.sql_type.partition(" ")[0].partition("(")[0] for c in table.columns)
    return ["text", "integer", *own, "bigint", "boolean", "bigint", "bigint", "bigint"]


@functools.cache
def _copy_statement(table: Table) -> bytes:
    # Binary costs this process a third of what text costs.
    return (
        sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)")
        .format(sql.SQL(past_name(table)), named((*table.all_columns, "since", "until", "node")))
        .as_bytes()
    )


@functools.cache
def _load_statement(table: Table) -> bytes:
    return (
        sql.SQL(
            "SELECT {columns}, t.position, t.incomplete, t.since FROM unnest({arrays}) AS k({key}) JOIN {table} t "
            "ON {same} AND t.zone = %s AND t.generation = %s AND t.node = {open}"
        )
        .format(
            columns=named((c.name for c in table.columns), "t.{}"),
            arrays=key_arrays(table),
            key=named(table.key),
            table=sql.SQL(past_name(table)),
            same=same_key(table),
            open=sql.Literal(OPEN_NODE),
        )
        .as_bytes()
    )


@functools.cache
def _close_statement(table: Table) -> bytes:
    return (
        sql.SQL(
            "UPDATE {table} t SET until = k._until, node = k._node "
            "FROM unnest({arrays}, %s::bigint[], %s::bigint[]) AS k({key}, _until, _node) "
            "WHERE {same} AND t.zone = %s AND t.generation = %s AND t.node = {open}"
        )
        .format(
            table=sql.SQL(past_name(table)),
            arrays=key_arrays(table),
            key=named(table.key),
            same=same_key(table),
            open=sql.Literal(OPEN_NODE),
        )
        .as_bytes()
    )
