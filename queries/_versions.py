"""The history of one row of a read model, from the archive: its versions, and what made each field what it is.

Versions of one row follow each other, and the node of each (projections/_archive.py) is one of its own positions: so
the archive's primary key holds a row's versions in the order of time, but for the one that still lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg import sql
from pydantic_core import PydanticCustomError

from commands._codec import cache
from commands._models import time
from ops.problems import Problem
from projections._archive import OPEN, OPEN_NODE, past_name
from projections._engine import Projection, all_projections
from projections._tables import Column, Table, from_sql
from queries._effects import Archive, Change, Values, archives, changes_of, differing, shown
from queries._past import Past

MOST_FOLDED = 32
"""How many commands are folded again, to tell which of their events made a field what it is."""


class Version(NamedTuple):
    values: Values
    position: int
    """Of the last event that touched the row by then."""
    incomplete: bool
    since: int
    until: int
    node: int


class Versioned:
    """One row of a read model in one zone, as far as its archive goes."""

    def __init__(
        self, past: Past, projection: Projection, table: Table, archive: Archive, key: tuple[Any, ...]
    ) -> None:
        self._past = past
        self._projection = projection
        self._archive = archive
        self._place = (past.zone, archive.generation, *key)
        self._key = key
        self.table = table

    async def page(self, upto: int, limit: int) -> list[Version]:
        """The versions that began at a position or before it, newest first."""
        place = (*self._place, upto)
        rows = await self._past.rows(_versions(self.table), (*place, *place, upto, *place, limit))
        return sorted(map(self._version, rows), key=lambda version: -version.since)[:limit]

    def _version(self, row: Sequence[Any]) -> Version:
        *values, position, incomplete, since, until, node = row
        columns = self.table.columns
        named = {c.name: shown(c.sql_type, from_sql(v)) for c, v in zip(columns, values, strict=True)}
        return Version(named, position, incomplete, since, until, node)

    async def history(
        self, versions: Sequence[Version], limit: int, at: int, newer: int | None
    ) -> list[dict[str, Any]]:
        """The first versions as they are shown, as of a position; `newer` is where the version after them begins."""
        events = await self.events([version.position for version in versions[:limit]])
        found = []
        for i, version in enumerate(versions[:limit], 1):
            before = versions[i] if i < len(versions) else None
            was = before.values if before is not None and before.until == version.since else None
            found.append(
                {
                    "since": version.since,
                    "until": version.until if version.until < OPEN else None,
                    "event": events.get(version.position),
                    "incomplete": version.incomplete,
                    "created": was is None,
                    "deleted": version.until <= at and version.until != newer,
                    "changes": differing(was, version.values),
                }
            )
            newer = version.since
        return found

    async def events(self, positions: Sequence[int]) -> dict[int, dict[str, Any]]:
        """What made a version, by position."""
        return {event.position: event.named() for event in await self._past.events_at(positions)}

    async def fields(self, version: Version) -> dict[str, dict[str, Any]]:
        """For each field of a version, the event that made it what it is there."""
        values = (*self._place, version.node, *self._place, version.since)
        (since,) = await self._past.rows(_made(self.table), values)
        names = [c.name for c in self.table.columns]
        made = dict(zip(names, since, strict=True))
        positions: dict[str, int] = {}
        for at in sorted(set(made.values()), reverse=True)[:MOST_FOLDED]:
            for name, position in (await self._made_within(at)).items():
                if made[name] == at:
                    positions[name] = position
        events = await self.events(list(set(positions.values()) | set(made.values())))
        return {
            name: {"value": version.values[name], "event": events.get(positions.get(name, made[name]))}
            for name in names
        }

    async def _made_within(self, end: int) -> dict[str, int]:
        """Which event of the command that ends there was the last to change each field."""
        ended = await self._past.events_at([end])
        events = await self._past.whole_command(ended[0]) if ended else []
        if not events:  # The log does not hold what the archive was made of, or it is too much.
            return {}
        changes = await changes_of(self._past, self._projection, self._archive.generation, events)
        found: dict[str, int] = {}
        for change in changes or ():
            if change.table is self.table and change.key == self._key:
                found |= dict.fromkeys(_names_changed(change), change.position)
        return found


def _names_changed(change: Change) -> list[str]:
    return list(change.changed)


# What is asked for


async def versioned(past: Past, name: str, key: Sequence[str]) -> tuple[Versioned, Archive]:
    """The row that a request names. Raises Problem 404, 422 and 503."""
    for projection in all_projections().values():
        for table in projection.tables:
            if table.name == f"read.{name}":
                typed = key_of(table, key)
                archive = (await archives(past)).get(projection.name)
                if archive is None:
                    raise not_archived()
                return Versioned(past, projection, table, archive, typed), archive
    raise Problem(404, "table-not-found", "There is no such table of a read model.", table=name[:64])


def not_archived() -> Problem:
    return Problem(
        503, "archive-not-ready", "The archive has not come so far yet.", headers={"Retry-After": "1"}
    )


def key_of(table: Table, parts: Sequence[str]) -> tuple[Any, ...]:
    """Raises Problem 422."""
    if len(parts) != len(table.key):
        raise Problem(
            422, "wrong-key", "A row is named by each part of its key, in order.", key=", ".join(table.key)
        )
    columns = {c.name: c for c in table.columns}
    return tuple(_part(columns[name], part) for name, part in zip(table.key, parts, strict=True))


def _part(column: Column, text: str) -> Any:
    try:
        if column.sql_type == "bigint":
            number = int(text)
            if not text.isascii() or abs(number) >= 2**63:
                raise ValueError
            return number
        if column.sql_type == "timestamptz":
            return time(text)
        if "\0" in text:
            raise ValueError
        return text
    except (ValueError, PydanticCustomError):
        raise Problem(422, "wrong-key", "A part of the key is not of its kind.", part=column.name) from None


# SQL, made of the rows' declarations


def _of_row(table: Table) -> sql.Composed:
    names = [
        sql.SQL("t.zone"),
        sql.SQL("t.generation"),
        *(sql.SQL("t.{}").format(sql.Identifier(k)) for k in table.key),
    ]
    return sql.SQL(" AND ").join(sql.SQL("{} = %s").format(name) for name in names)


@cache
def _versions(table: Table) -> bytes:
    columns = [c.name for c in table.columns]
    return (
        sql.SQL(
            "(SELECT {columns} FROM {past} t WHERE {row} AND t.node = {open} AND t.since <= %s) UNION ALL "
            "(SELECT * FROM (SELECT {columns} FROM {past} t WHERE {row} AND t.node > %s ORDER BY t.node LIMIT 1) t"
            " WHERE t.since <= %s) UNION ALL "
            "(SELECT {columns} FROM {past} t WHERE {row} AND t.node > {open} AND t.node <= %s"
            " ORDER BY t.node DESC LIMIT %s)"
        )
        .format(
            columns=sql.SQL(", ").join(
                sql.SQL("t.{}").format(sql.Identifier(name))
                for name in (*columns, "position", "incomplete", "since", "until", "node")
            ),
            past=sql.SQL(past_name(table)),
            row=_of_row(table),
            open=sql.Literal(OPEN_NODE),
        )
        .as_bytes()
    )


@cache
def _made(table: Table) -> bytes:
    """For each column, since when it is what it is in one version: since the version after the last that had another
    value, or since the row was last created. One pass over the versions before, in the order of their index."""
    columns = [c.name for c in table.columns]
    born = sql.SQL(
        "CASE WHEN max(t.until) = own.since THEN max(t.since) FILTER (WHERE t.ended IS DISTINCT FROM t.since)"
        " ELSE own.since END"
    )
    changed = sql.SQL(", ").join(
        sql.SQL("greatest({born}, max(t.until) FILTER (WHERE t.{name} IS DISTINCT FROM own.{name}))").format(
            born=born, name=sql.Identifier(name)
        )
        for name in columns
    )
    return (
        sql.SQL(
            "SELECT {changed} FROM (SELECT t.* FROM {past} t WHERE {row} AND t.node = %s) own LEFT JOIN ("
            "SELECT t.*, lag(t.until) OVER (ORDER BY t.node) AS ended FROM {past} t"
            " WHERE {row} AND t.node > {open} AND t.node < %s"
            ") t ON true GROUP BY own.since"
        )
        .format(
            changed=changed, past=sql.SQL(past_name(table)), row=_of_row(table), open=sql.Literal(OPEN_NODE)
        )
        .as_bytes()
    )
