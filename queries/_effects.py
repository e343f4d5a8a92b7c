"""Which read-model rows an event touched: its handlers are run, on today's rows, and nothing is written."""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy
from datetime import datetime
from typing import Any

from commands._codec import event_types
from projections._engine import (
    HandlerFailed,
    Projection,
    Record,
    Rows,
    _load_statement,
    all_projections,
    fold,
)
from projections._tables import Row, Table, from_sql, table_of
from queries._events import Event, rfc3339
from queries._past import Past

MOST_ROUNDS = 4
"""Keys may depend on rows, whose keys depend on rows; no handler looks further than this."""

LIVE = "SELECT projection, generation, position FROM checkpoints WHERE zone = %s AND live"

Key = tuple[Any, ...]
Known = dict[type[Row], dict[Key, Row | None]]


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
            if key in self.known[row]:
                kept[key] = deepcopy(self.known[row][key])  # Handlers change what they take.
            else:
                blank = row(*key)
                blank.position, blank.incomplete = 0, False
                kept[key] = blank
        return kept[key]

    def add(self, row: Row) -> None:
        names = table_of(type(row)).key
        self.keys[type(row)][tuple(getattr(row, name) for name in names)] = None


async def rows_touched(past: Past, event: Event) -> list[dict[str, Any]]:
    """Per projection that handles the event: where it stands, and today's rows with the event's keys."""
    if event.type not in event_types():
        return []
    projections = all_projections()
    found = []
    for name, generation, position in sorted(await past.rows(LIVE, (past.zone,))):
        projection = projections.get(name)
        if projection is not None and event.type in projection.handlers:
            rows = await _rows_of(past, projection, generation, event) if position >= event.position else []
            found.append({"projection": name, "position": position, "rows": rows})
    return found


async def _rows_of(past: Past, projection: Projection, generation: int, event: Event) -> list[dict[str, Any]]:
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
            await _load(past, row, keys, generation, known[row])
    return [
        _shown(table_of(row), found)
        for row, keys in touched.keys.items()
        for key in keys
        if (found := known[row].get(key)) is not None
    ]


async def _load(
    past: Past, row: type[Row], keys: list[Key], generation: int, known: dict[Key, Row | None]
) -> None:
    if not keys:
        return
    known.update(dict.fromkeys(keys))
    table = table_of(row)
    columns = [list(column) for column in zip(*keys, strict=True)]
    for *values, position, incomplete in await past.rows(
        _load_statement(table), (*columns, past.zone, generation)
    ):
        found = row(*map(from_sql, values))
        found.position, found.incomplete = position, incomplete
        known[tuple(getattr(found, name) for name in table.key)] = found


def _shown(table: Table, row: Row) -> dict[str, Any]:
    def show(name: str, sql_type: str) -> Any:
        value = getattr(row, name)
        if sql_type.startswith("numeric") and value is not None:
            return str(value)
        return rfc3339(value) if isinstance(value, datetime) else value

    return {
        "table": table.name.removeprefix("read."),
        "position": row.position,
        "incomplete": row.incomplete,
        "row": {column.name: show(column.name, column.sql_type) for column in table.columns},
    }
