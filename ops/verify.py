"""`fogbook verify`: what is stored is hashed again, the log's laws are checked, every fold is done once more.

All of it sees one snapshot of the database, so it may run beside everything else. What differs is named by its
position, or by its row and field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg import sql

from commands._codec import (
    decode_event,
    decode_json,
    encode_json,
    event_leaf,
    fate_leaf,
    microseconds,
    state_decoder,
    state_schema,
    streams,
    zone_prefix,
)
from projections._engine import HandlerFailed, Projection, Record, Rows, all_projections, fold, keys_of
from projections._follower import RAISED
from projections._rebuild import history
from projections._tables import Row, Table, from_sql, table_of

MOST_NAMED = 100
ROWS_A_FETCH = 2_000
TICK_EVERY = 1_000

HEADS = """
SELECT zone, position, number FROM heads WHERE %s::text IS NULL OR zone = %s ORDER BY zone
"""

EVENTS = """
SELECT position, stream, version, type, data, meta, recorded_at, leaf
FROM events WHERE zone = %s ORDER BY position
"""

COMMANDS = """
SELECT number, principal, act_as, key, request, if_match, status, answer, position, events, recorded_at, leaf
FROM commands WHERE zone = %s ORDER BY number
"""

SNAPSHOTS = "SELECT stream, version, position, schema, state FROM snapshots WHERE zone = %s"

LIVE = "SELECT generation, position FROM checkpoints WHERE zone = %s AND projection = %s AND live"

QUARANTINED = """
SELECT position, error LIKE %s OR error LIKE 'an earlier event%%' FROM quarantine
WHERE zone = %s AND projection = %s AND generation = %s AND quarantined
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be."""

    zone: str
    what: str
    position: int | None = None
    table: str | None = None
    row: list[Any] | None = None
    field: str | None = None

    def __str__(self) -> str:
        where = [f"zone {self.zone}"]
        if self.table is not None:
            where.append(f"{self.table} row {'/'.join(map(str, self.row or []))}")
        if self.field is not None:
            where.append(f"field {self.field}")
        if self.position is not None:
            where.append(f"position {self.position}")
        return f"{', '.join(where)}: {self.what}"


@dataclass
class Found:
    """What a verification saw; the first differences by name, all of them by number."""

    problems: list[Difference] = field(default_factory=list)
    count: int = 0
    events: int = 0
    commands: int = 0
    rows: int = 0

    def add(self, zone: str, what: str, position: int | None = None, **where: Any) -> None:
        self.count += 1
        if len(self.problems) < MOST_NAMED:
            self.problems.append(Difference(zone, what, position, **where))

    def as_json(self) -> dict[str, Any]:
        counts = {"events": self.events, "commands": self.commands, "rows": self.rows}
        return {
            "ok": not self.count,
            "differences": self.count,
            **counts,
            "named": list(map(asdict, self.problems)),
        }


class StoredEvent(NamedTuple):
    position: int
    stream: str
    version: int
    type: str
    data: bytes
    meta: bytes
    recorded_at: datetime
    leaf: bytes


class StoredFate(NamedTuple):
    number: int
    principal: str
    act_as: str
    key: str
    request: bytes
    if_match: int | None
    status: int
    answer: bytes
    position: int
    events: int
    recorded_at: datetime
    leaf: bytes


Tick = Callable[[int, int], None]


def verify(connect: Callable[[], psycopg.Connection[Any]], zone: str | None, tick: Tick) -> Found:
    """Verify one zone, or all of them."""
    found = Found()
    with connect() as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        heads = connection.execute(HEADS, (zone, zone)).fetchall()
        total = sum(head[1] for head in heads) * (1 + len(all_projections()))
        done = 0
        for name, position, number in heads:

            def ahead(more: int, before: int = done) -> None:
                tick(before + more, total)

            LogCheck(connection, name, found).run(position, number, ahead)
            done += position
            for projection in all_projections().values():
                _check_projection(connection, name, projection, position, found)
                done += position
                tick(done, total)
    return found


# The log


class LogCheck:
    """Walks a zone's events and fates side by side: both are in the order in which they were decided."""

    def __init__(self, connection: psycopg.Connection[Any], zone: str, found: Found) -> None:
        self._connection = connection
        self._zone = zone
        self._prefix = zone_prefix(zone)
        self._found = found
        self._position = 0
        self._time: datetime | None = None
        self._versions: dict[str, int] = {}
        self._number = 0
        self._fate: StoredFate | None = None
        self._place: tuple[str, int, int] | None = None
        """Of the event before: its command, and that it was the i-th of n."""
        self._sums: dict[str, int] = {}
        self._snapshots: dict[str, Any] = {}
        self._states: dict[str, Any] = {}

    def run(self, position: int, number: int, ahead: Callable[[int], None]) -> None:
        rows = self._connection.execute(SNAPSHOTS, (self._zone,))
        self._snapshots = {row[0]: row[1:] for row in rows}
        with self._connection.cursor("events", binary=True) as events:
            with self._connection.cursor("commands", binary=True) as commands:
                events.itersize = commands.itersize = ROWS_A_FETCH
                events.execute(EVENTS, (self._zone,))
                commands.execute(COMMANDS, (self._zone,))
                fates = self._fates(commands)
                self._fate = next(fates, None)
                for row in events:
                    self._event(StoredEvent(*row), fates)
                    if self._position % TICK_EVERY == 0:
                        ahead(self._position)
                self._end_of_log(fates)
        if (self._position, self._number) != (position, number):
            self._found.add(
                self._zone,
                f"the head is at position {position} and command {number}, the log ends at {self._position} "
                f"and {self._number}",
                self._position,
            )

    # Events

    def _event(self, event: StoredEvent, fates: Iterator[StoredFate]) -> None:
        self._found.events += 1
        if event.position != self._position + 1:
            self._differs(event, f"the position before it is {self._position}")
        self._position = event.position
        version = self._versions.get(event.stream, 0) + 1
        if event.version != version:
            self._differs(event, f"{event.stream} has version {event.version} here instead of {version}")
        self._versions[event.stream] = event.version
        if self._time is not None and event.recorded_at < self._time:
            self._differs(event, "its time is before that of the event before it")
        self._time = event.recorded_at
        leaf = event_leaf(
            self._prefix,
            event.position,
            event.stream,
            event.version,
            event.type,
            microseconds(event.recorded_at),
            event.meta,
            event.data,
        )
        if leaf != event.leaf:
            self._differs(event, "its stored bytes do not give its leaf hash")
        try:
            decoded = decode_event(event.type, event.data)
            self._check_place(event, decoded, fates)
            self._check_snapshot(event, decoded)
        except Exception as error:
            # Altered bytes may break any of these steps, in any way.
            self._differs(event, f"it cannot be read: {error!r}")

    def _check_place(self, event: StoredEvent, decoded: Any, fates: Iterator[StoredFate]) -> None:
        """The events of a command stand together, all of them, and their postings balance."""
        meta = decode_json(event.meta) if event.meta else {}
        if "command" not in meta:
            return  # Another application's, which stands alone.
        command, i, n = meta["command"], meta["i"], meta["n"]
        before = self._place
        is_next = before is not None and before[1] < before[2]
        if (command, i, n) != (
            (before[0], before[1] + 1, before[2]) if before and is_next else (command, 1, n)
        ):
            self._differs(
                event, f"it is {i} of {n} of command {command} and does not follow what is before it"
            )
        self._place = (command, i, n)
        if i == 1:
            self._sums = {}
        posting = getattr(decoded, "posting", None)
        if posting is not None:
            asset, amount = posting
            self._sums[asset] = self._sums.get(asset, 0) + amount
        if i == n:
            if any(self._sums.values()):
                self._differs(event, f"the postings of command {command} do not balance: {self._sums}")
            self._check_fate(event, command, n, fates)

    def _check_snapshot(self, event: StoredEvent, decoded: Any) -> None:
        snapshot = self._snapshots.get(event.stream)
        if snapshot is None:
            return
        version, _, schema, stored = snapshot
        kind = streams()[event.stream.partition(":")[0]]
        if schema != state_schema(type(kind.initial)) or event.version > version:
            return
        state = kind.evolve(self._states.get(event.stream, kind.initial), decoded)
        self._states[event.stream] = state
        if event.version == version:
            del self._states[event.stream]
            try:
                is_same = state_decoder(type(kind.initial))(stored) == state
            except msgspec.DecodeError:
                is_same = False
            if not is_same:
                self._differs(event, f"the snapshot of {event.stream} at version {version} is not its state")

    # Fates

    def _fates(self, commands: Any) -> Iterator[StoredFate]:
        """Check each fate as it comes by; those of commands that appended events are given on."""
        for row in commands:
            fate = StoredFate(*row)
            self._found.commands += 1
            if fate.number != self._number + 1:
                self._found.add(
                    self._zone, f"command {fate.number} comes after {self._number}", fate.position
                )
            self._number = fate.number
            leaf = fate_leaf(
                self._prefix,
                fate.number,
                fate.principal,
                fate.act_as,
                fate.key,
                fate.request,
                fate.if_match,
                fate.status,
                fate.answer,
                fate.position,
                fate.events,
                microseconds(fate.recorded_at),
            )
            if leaf != fate.leaf:
                what = f"the stored bytes of command {fate.number} do not give its leaf hash"
                self._found.add(self._zone, what, fate.position)
            if fate.events:
                yield fate

    def _check_fate(self, event: StoredEvent, command: str, n: int, fates: Iterator[StoredFate]) -> None:
        number = int(command.removeprefix("c"))
        while self._fate is not None and self._fate.number < number:
            self._without_events(self._fate)
            self._fate = next(fates, None)
        fate = self._fate
        if fate is None or fate.number != number:
            self._differs(event, f"its command {command} is not stored")
            return
        if (fate.position, fate.events, fate.status) != (event.position, n, 200):
            self._differs(
                event,
                f"command {command} is stored with status {fate.status} and {fate.events} events up to position "
                f"{fate.position}, the log has {n} up to here",
            )
        self._fate = next(fates, None)

    def _end_of_log(self, fates: Iterator[StoredFate]) -> None:
        if self._place is not None and self._place[1] < self._place[2]:
            what = f"command {self._place[0]} ends after {self._place[1]} of {self._place[2]} events"
            self._found.add(self._zone, what, self._position)
        while self._fate is not None:
            self._without_events(self._fate)
            self._fate = next(fates, None)

    def _without_events(self, fate: StoredFate) -> None:
        self._found.add(self._zone, f"the events of command {fate.number} are not in the log", fate.position)

    def _differs(self, event: StoredEvent, what: str) -> None:
        self._found.add(self._zone, what, event.position)


# Projections


def _check_projection(
    connection: psycopg.Connection[Any], zone: str, projection: Projection, head: int, found: Found
) -> None:
    """Fold the history in memory up to the checkpoint, and compare row by row."""
    live = connection.execute(LIVE, (zone, projection.name)).fetchone()
    if live is None:
        return  # A worker has not come by yet.
    generation, position = live
    if position > head:
        found.add(zone, f"the checkpoint of {projection.name} is beyond the log's end", position)
        return
    rows = Rows(projection, zone, generation)
    asked = (RAISED + "%", zone, projection.name, generation)
    quarantined = dict(connection.execute(QUARANTINED, asked).fetchall())
    try:
        for record in history(connection, zone, position, list(projection.handlers)):
            if record.position not in quarantined:
                fold(rows, (record,))
            elif quarantined[record.position]:
                _mark(rows, record)
    except HandlerFailed as error:
        what = f"projection {projection.name} cannot fold {error.record.type}: {error.__cause__!r}"
        found.add(zone, what, error.record.position)
        return
    except msgspec.DecodeError as error:
        found.add(zone, f"projection {projection.name} cannot read an event: {error}", rows.position)
        return
    for kind in projection.rows:
        _compare(connection, zone, generation, table_of(kind), rows, found)


def _mark(rows: Rows, record: Record) -> None:
    """A quarantined event leaves its rows incomplete, as the follower does."""
    rows.position = record.position
    for kind, keys in keys_of(rows, [record]).items():
        for key in keys:
            rows.of(kind, *key).incomplete = True


def _compare(
    connection: psycopg.Connection[Any], zone: str, generation: int, table: Table, rows: Rows, found: Found
) -> None:
    folded = {key: row for key, row in rows.kept[table.row].items() if row is not None}
    for added in rows.added[table.row]:
        folded[tuple(getattr(added, name) for name in table.key)] = added
    columns = [column.name for column in table.columns]
    json = {column.name for column in table.columns if column.sql_type == "jsonb"}
    statement = sql.SQL("SELECT {columns} FROM {table} WHERE zone = %s AND generation = %s").format(
        columns=sql.SQL(", ").join(map(sql.Identifier, [*columns, "position", "incomplete"])),
        table=sql.SQL(table.name),
    )
    with connection.cursor("rows", binary=True) as cursor:
        cursor.itersize = ROWS_A_FETCH
        cursor.execute(statement, (zone, generation))
        for values in cursor:
            found.rows += 1
            stored = dict(zip([*columns, "position", "incomplete"], map(from_sql, values), strict=True))
            key = tuple(stored[name] for name in table.key)
            row = folded.pop(key, None)
            if row is None:
                what, at = "the log gives no such row", stored["position"]
                found.add(zone, what, at, table=table.name, row=list(key))
            else:
                _compare_row(zone, table, key, stored, row, json, found)
    for key, row in folded.items():
        found.add(zone, "the row is missing", row.position, table=table.name, row=list(key))


def _compare_row(
    zone: str,
    table: Table,
    key: tuple[Any, ...],
    stored: dict[str, Any],
    row: Row,
    json: set[str],
    found: Found,
) -> None:
    for name, value in stored.items():
        expected = getattr(row, name)
        if name in json:
            expected = decode_json(encode_json(expected))
        if value != expected:
            what = f"stored is {value!r}, the log gives {expected!r}"
            found.add(zone, what, row.position, table=table.name, row=list(key), field=name)
