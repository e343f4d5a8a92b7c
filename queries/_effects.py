"""Which rows of read models an event changed: its command's handlers are run once more, and nothing is written.

Where the archive has the rows as they were before the command (projections/_archive.py), this is exact: the events of
the command are folded one by one, and what differs is what each of them changed. Elsewhere it is done on today's rows:
then the rows are those that the event concerns, as they are now.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import sql

from commands._codec import stored_types
from projections._archive import past_name, path_of
from projections._engine import HandlerFailed, Projection, Record, Rows, all_projections, fold
from projections._stored import key_arrays, load_statement, named, same_key
from projections._tables import Row, Table, from_sql, table_of
from queries._events import Event, rfc3339
from queries._past import Past

MOST_ROUNDS = 4
"""Keys may depend on rows, whose keys depend on rows; no handler looks further than this."""

LIVE = "SELECT projection, generation, position FROM checkpoints WHERE zone = %s AND live"

ARCHIVES = "SELECT projection, generation, position, code FROM archives WHERE zone = %s AND live"

SET_ASIDE = """
SELECT q.position FROM checkpoints c JOIN quarantine q USING (zone, projection, generation)
WHERE c.zone = %s AND c.projection = %s AND c.live AND q.quarantined AND q.position BETWEEN %s AND %s
"""

Key = tuple[Any, ...]
Known = dict[type[Row], dict[Key, Row | None]]
Values = dict[str, Any]


class Archive(NamedTuple):
    generation: int
    position: int


class Change(NamedTuple):
    """What one event did to one row."""

    position: int
    table: Table
    key: Key
    was: Values | None
    now: Values | None
    incomplete: bool

    @property
    def changed(self) -> dict[str, dict[str, Any]]:
        return differing(self.was, self.now)

    def shown(self) -> dict[str, Any]:
        return {
            "table": self.table.name.removeprefix("read."),
            "key": list(key_shown(self.table, self.key)),
            "position": self.position,
            "incomplete": self.incomplete,
            "created": self.was is None,
            "deleted": self.now is None,
            "changes": self.changed,
            "row": self.now,
        }


def differing(was: Values | None, now: Values | None) -> dict[str, dict[str, Any]]:
    """The fields that are not the same in two versions of a row."""
    before, after = was or {}, now or {}
    return {
        name: {"was": before.get(name), "is": after.get(name)}
        for name in (now or was or {})
        if was is None or now is None or before[name] != after[name]
    }


async def rows_changed(past: Past, event: Event) -> list[dict[str, Any]]:
    """Per projection that handles the event: where it stands, and the rows that the event changed."""
    if event.type not in stored_types():
        return []
    archived = await archives(past)
    events = await past.whole_command(event)
    found = []
    for name, generation, position in sorted(await past.rows(LIVE, (past.zone,))):
        projection = all_projections().get(name)
        if projection is None or event.type not in projection.handlers:
            continue
        shown = {"projection": name, "position": position}
        archive = archived.get(name)
        changes = None
        if archive is not None and events and archive.position >= events[-1].position:
            changes = await changes_of(past, projection, archive.generation, events)
        if changes is not None:
            rows = [change.shown() for change in changes if change.position == event.position]
            found.append(shown | {"rows_as_of": "event", "rows": rows})
        else:
            rows = (
                await _todays_rows(past, projection, generation, event) if position >= event.position else []
            )
            found.append(shown | {"rows_as_of": "now", "rows": rows})
    # What follows every event, as lineage does, is of no interest where it found nothing.
    return [each for each in found if each["rows"] or each["position"] < event.position]


async def archives(past: Past) -> dict[str, Archive]:
    """The archives that today's handlers made, by projection."""
    known = all_projections()
    return {
        name: Archive(generation, position)
        for name, generation, position, code in await past.rows(ARCHIVES, (past.zone,))
        if name in known and code.partition("-")[0] == known[name].code
    }


# Exactly, from the archive


class _AsOf(Rows):
    """Gives the rows that are known, none where there was none, and remembers which keys nobody looked up yet."""

    def __init__(self, projection: Projection, zone: str, generation: int, known: Known) -> None:
        super().__init__(projection, zone, generation)
        self.known = known
        self.missing: dict[type[Row], dict[Key, None]] = {row: {} for row in projection.rows}

    def _take(self, row: type[Any], key: Key) -> Any:
        kept = self.kept[row]
        if key not in kept:
            if key in self.known[row]:
                kept[key] = deepcopy(self.known[row][key])  # Handlers change what they take.
            else:
                self.missing[row][key] = None
                kept[key] = _blank(row, key)
        return kept[key]


def _blank(row: type[Any], key: Key) -> Any:
    blank = row(*key)
    blank.position, blank.incomplete = 0, False
    return blank


async def changes_of(
    past: Past, projection: Projection, generation: int, events: Sequence[Event]
) -> list[Change] | None:
    """What each event of a whole command did to the rows of an archive; None where that cannot be told."""
    before, last = events[0].position - 1, events[-1].position
    aside = {row[0] for row in await past.rows(SET_ASIDE, (past.zone, projection.name, before + 1, last))}
    records = [
        Record(*event[:7])
        for event in events
        if event.type in projection.handlers and event.position not in aside
    ]
    known: Known = {row: {} for row in projection.rows}
    for _ in range(MOST_ROUNDS):
        rows = _AsOf(projection, past.zone, generation, known)
        changes = None
        with suppress(
            HandlerFailed
        ):  # A blank row may well break a handler; then the keys asked for so far count.
            changes = list(_changes(rows, records))
        if not any(rows.missing.values()):
            return changes
        for row, keys in rows.missing.items():
            await _load_as_of(past, row, list(keys), generation, before, known[row])
    return None


def _changes(rows: _AsOf, records: Sequence[Record]) -> Iterator[Change]:
    """Fold event by event."""
    last: dict[tuple[type[Row], Key], Values | None] = {}

    def values(row: Row | None) -> Values | None:
        return None if row is None else values_of(table_of(type(row)), row)

    def change(kind: type[Row], key: Key, row: Row | None) -> Change:
        table = table_of(kind)
        was = last[kind, key] if (kind, key) in last else values(rows.known[kind].get(key))
        now = last[kind, key] = values(row)
        return Change(rows.position, table, key, was, now, row is not None and row.incomplete)

    for record in records:
        fold(rows, [record])
        found = []
        for kind in rows.projection.rows:
            found += [change(kind, key, row) for key, row in rows.changed[kind].items()]
            found += [change(kind, key, None) for key in rows.deleted[kind]]
            names = table_of(kind).key
            found += [
                change(kind, tuple(getattr(row, name) for name in names), row) for row in rows.added[kind]
            ]
        rows.clear_changes()
        yield from (each for each in found if each.changed)


async def _load_as_of(
    past: Past, row: type[Row], keys: list[Key], generation: int, position: int, known: dict[Key, Row | None]
) -> None:
    known.update(dict.fromkeys(keys))
    if keys and position > 0:
        columns = [list(column) for column in zip(*keys, strict=True)]
        values = (*columns, past.zone, generation, path_of(position), position, position)
        _keep(row, await past.rows(_as_of_statement(table_of(row)), values), known)


def _keep(row: type[Row], found: list[Any], known: dict[Key, Row | None]) -> None:
    names = table_of(row).key
    for *values, position, incomplete in found:
        made = row(*map(from_sql, values))
        made.position, made.incomplete = position, incomplete
        known[tuple(getattr(made, name) for name in names)] = made


@functools.cache
def _as_of_statement(table: Table) -> bytes:
    return (
        sql.SQL(
            "SELECT {columns}, t.position, t.incomplete FROM unnest({arrays}) AS k({key}) JOIN {table} t "
            "ON {same} AND t.zone = %s AND t.generation = %s AND t.node = ANY(%s::bigint[]) "
            "WHERE t.since <= %s AND t.until > %s"
        )
        .format(
            columns=named((c.name for c in table.columns), "t.{}"),
            arrays=key_arrays(table),
            key=named(table.key),
            table=sql.SQL(past_name(table)),
            same=same_key(table),
        )
        .as_bytes()
    )


# As they are today


class _Touched(Rows):
    """Gives the rows that are known, blank ones for the others, and remembers what was asked for."""

    def __init__(self, projection: Projection, zone: str, generation: int, known: Known) -> None:
        super().__init__(projection, zone, generation)
        self.known = known
        self.keys: dict[type[Row], dict[Key, None]] = {row: {} for row in projection.rows}

    def _take(self, row: type[Any], key: Key) -> Any:
        self.keys[row][key] = None
        kept = self.kept[row]
        if key not in kept:
            known = self.known[row].get(key)
            kept[key] = deepcopy(known) if known is not None else _blank(row, key)
        return kept[key]

    def add(self, row: Row) -> None:
        names = table_of(type(row)).key
        self.keys[type(row)][tuple(getattr(row, name) for name in names)] = None


async def _todays_rows(
    past: Past, projection: Projection, generation: int, event: Event
) -> list[dict[str, Any]]:
    known: Known = {row: {} for row in projection.rows}
    record = Record(*event[:7])
    for _ in range(MOST_ROUNDS):
        touched = _Touched(projection, past.zone, generation, known)
        # Today's rows, or blank ones, may well not suit an old event: then the keys asked for so far count.
        with suppress(HandlerFailed):
            fold(touched, [record])
        missing = {row: [key for key in keys if key not in known[row]] for row, keys in touched.keys.items()}
        if not any(missing.values()):
            break
        for row, keys in missing.items():
            await _load_todays(past, row, keys, generation, known[row])
    return [
        {
            "table": table_of(kind).name.removeprefix("read."),
            "key": list(key_shown(table_of(kind), key)),
            "position": found.position,
            "incomplete": found.incomplete,
            "row": values_of(table_of(kind), found),
        }
        for kind, keys in touched.keys.items()
        for key in keys
        if (found := known[kind].get(key)) is not None
    ]


async def _load_todays(
    past: Past, row: type[Row], keys: list[Key], generation: int, known: dict[Key, Row | None]
) -> None:
    if keys:
        known.update(dict.fromkeys(keys))
        columns = [list(column) for column in zip(*keys, strict=True)]
        _keep(row, await past.rows(load_statement(table_of(row)), (*columns, past.zone, generation)), known)


# Rows as JSON


def values_of(table: Table, row: Row) -> Values:
    return {c.name: shown(c.sql_type, getattr(row, c.name)) for c in table.columns}


def key_shown(table: Table, key: Key) -> Iterator[Any]:
    types = {c.name: c.sql_type for c in table.columns}
    return (shown(types[name], value) for name, value in zip(table.key, key, strict=True))


def shown(sql_type: str, value: Any) -> Any:
    """Amounts are strings, times RFC 3339; what is a document is copied, for handlers go on changing theirs."""
    if sql_type.startswith("numeric") and value is not None:
        return str(value)
    if sql_type == "jsonb":
        return deepcopy(value)
    return rfc3339(value) if isinstance(value, datetime) else value
