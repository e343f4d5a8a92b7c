"""The log in PostgreSQL: one zone's head, events, fates and snapshots, over one connection.

The interface that the sequencer needs is small: `head`, `load`, `tail`, `append`, `fates` and `locked`.
`commands._memory` is its in-memory twin.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeVar

import psycopg

from commands._append import APPEND_TO_LOG, parameters
from commands._codec import (
    Recorded,
    UnknownEventType,
    command_number,
    decode_known,
    state_decoder,
    state_schema,
)
from domain._kernel import Stream
from ops.waits import AWAY, WAIT_S, AsyncConnection, connection_options

T = TypeVar("T")

SNAPSHOT_EVERY = 500
"""Loading a stream costs its newest snapshot and fewer events than this, plus those of one batch."""
PAGE = 5_000
"""Events of one statement, whether streams are loaded or the tail is read: so is what they take at a time."""


class Head(NamedTuple):
    position: int
    number: int
    at: datetime
    clock: str


class Fate(NamedTuple):
    """What became of a command, as stored."""

    request: bytes
    status: int
    answer: bytes
    position: int


class KeyUsed(Exception):
    """At least one idempotency key of the batch was used before."""


class LogUnavailable(Exception):
    """The database did not answer, or lost the connection; whether the append happened is unknown."""


class ClockAhead(Exception):
    """This process's clock runs ahead of the database's."""


class Entry:
    """A stream's folded state, exact as of the sequencer's position."""

    __slots__ = ("snapshot", "state", "stream", "version")

    def __init__(self, stream: Stream[Any], state: Any, version: int, snapshot: int) -> None:
        self.stream = stream
        self.state = state
        self.version = version
        self.snapshot = snapshot
        """The version of the newest stored snapshot."""


@dataclass(slots=True)
class Batch:
    """What one append stores, column by column, as the SQL function takes it."""

    principals: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    act_as: list[str] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    if_match: list[int | None] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    event_counts: list[int] = field(default_factory=list)
    fate_leaves: list[bytes] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)
    meta: list[bytes] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    snapshot_streams: list[str] = field(default_factory=list)
    snapshot_versions: list[int] = field(default_factory=list)
    snapshot_positions: list[int] = field(default_factory=list)
    snapshot_schemas: list[str] = field(default_factory=list)
    snapshot_states: list[bytes] = field(default_factory=list)

    def columns(self) -> list[list[Any]]:
        return [getattr(self, name) for name in self.__slots__]


class Log(Protocol):
    async def connect(self) -> None: ...
    async def close(self) -> None: ...
    async def head(self, zone: str) -> Head | None: ...
    async def load(self, zone: str, wanted: dict[str, Stream[Any]], upto: int) -> dict[str, Entry] | None: ...
    def tail(self, zone: str, after: int, upto: int) -> AsyncIterator[Recorded]: ...
    async def append(self, zone: str, head: Head, at: datetime, batch: Batch) -> bool: ...
    async def fates(self, zone: str, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Fate]: ...
    def locked(self, zone: str) -> Any: ...


HEAD = "SELECT position, number, recorded_at, clock FROM heads WHERE zone = %s"

LOCK_HEAD = "SELECT position, number, recorded_at, clock FROM lock_head(%s)"

SNAPSHOTS = (
    "SELECT stream, version, position, schema, state FROM snapshots WHERE zone = %s AND stream = ANY(%s)"
)

EVENTS_OF_STREAMS = """
SELECT e.stream, e.version, e.type, e.data
FROM unnest(%s::text[], %s::bigint[]) AS w(stream, version)
CROSS JOIN LATERAL (
    SELECT stream, version, type, data FROM events
    WHERE zone = %s AND stream = w.stream AND version > w.version AND position <= %s
    ORDER BY version LIMIT %s
) e LIMIT %s
"""
"""The inner limit keeps each stream's events together and in order, so that a page breaks off at most one of them."""

EVENTS_OF_COMMAND = """
SELECT e.type, e.data
FROM commands c
JOIN events e ON e.zone = c.zone AND e.position > c.position - c.events AND e.position <= c.position
WHERE c.zone = %s AND c.number = %s AND c.status = 200 AND c.position <= %s
ORDER BY e.position
"""

TAIL = """
SELECT position, stream, version, type, data, meta, recorded_at
FROM events WHERE zone = %s AND position > %s AND position <= %s ORDER BY position
"""

FATES = """
SELECT c.principal, c.key, c.request, c.status, c.answer, c.position
FROM unnest(%s::text[], %s::text[]) AS w(principal, key)
JOIN commands c ON c.zone = %s AND c.principal = w.principal AND c.key = w.key
"""


class PostgresLog:
    """A log over one connection of its own; not for concurrent use."""

    def __init__(
        self, conninfo: str, role: str | None = None, prepare: bool = True, wait_s: float = WAIT_S
    ) -> None:
        self._conninfo = conninfo
        self._wait_s = wait_s
        self._role = role
        self._prepare = prepare
        self._connection: AsyncConnection | None = None
        self._prepared = False

    async def connect(self) -> None:
        await self.close()
        try:
            self._connection = await AsyncConnection.connect(
                self._conninfo,
                wait_s=self._wait_s,
                autocommit=True,
                prepare_threshold=0 if self._prepare else None,
                application_name="fogbook sequencer",
                options=connection_options(self._role, self._wait_s),
            )
        except psycopg.Error as error:
            raise LogUnavailable(str(error)) from error

    async def close(self) -> None:
        connection, self._connection, self._prepared = self._connection, None, False
        if connection is not None:
            await connection.close()

    async def _rows(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        async def fetched(connection: AsyncConnection) -> list[Any]:
            cursor = connection.cursor(binary=True)
            await cursor.execute(sql, parameters)
            return await cursor.fetchall()

        return await self._bounded(fetched)

    async def _bounded(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do something on the connection. Every way in which the database can be away becomes `LogUnavailable`."""
        if self._connection is None or self._connection.closed:
            raise LogUnavailable("not connected")
        try:
            return await work(self._connection)
        except psycopg.errors.InvalidSqlStatementName as error:
            await self.close()  # Somebody dropped what was prepared: a new connection prepares it anew.
            raise LogUnavailable(str(error)) from error
        except psycopg.Error as error:
            if error.sqlstate == "FB001":
                raise KeyUsed from error
            if error.sqlstate == "FB003":
                raise ClockAhead(str(error)) from error
            if isinstance(error, AWAY):
                raise LogUnavailable(str(error)) from error
            raise

    async def head(self, zone: str) -> Head | None:
        rows = await self._rows(HEAD, (zone,))
        return Head(*rows[0]) if rows else None

    async def load(self, zone: str, wanted: dict[str, Stream[Any]], upto: int) -> dict[str, Entry] | None:
        """Fold streams as of `upto`; None when a snapshot is newer than that (the caller is behind)."""
        entries = {name: Entry(stream, stream.initial, 0, 0) for name, stream in wanted.items()}
        for name, version, position, schema, state in await self._rows(SNAPSHOTS, (zone, list(entries))):
            if position > upto:
                return None
            kind = type(wanted[name].initial)
            if schema == state_schema(kind):
                entries[name] = Entry(wanted[name], state_decoder(kind)(state), version, version)
        for name, stream in wanted.items():
            if stream.of_command:
                entries[name].state = await self._command_state(zone, name, stream, upto)
        while True:
            versions = [entry.version for entry in entries.values()]
            rows = await self._rows(EVENTS_OF_STREAMS, (list(entries), versions, zone, upto, PAGE, PAGE))
            for name, version, event_type, data in rows:
                entry = entries[name]
                entry.state = entry.stream.evolve(entry.state, decode_known(event_type, data))
                entry.version = version
            if len(rows) < PAGE:
                return entries

    async def _command_state(self, zone: str, name: str, stream: Stream[Any], upto: int) -> Any:
        state = stream.initial
        number = command_number(name.partition(":")[2])
        if number is not None:
            for event_type, data in await self._rows(EVENTS_OF_COMMAND, (zone, number, upto)):
                state = stream.evolve(state, decode_known(event_type, data))
        return state

    async def tail(self, zone: str, after: int, upto: int) -> AsyncIterator[Recorded]:
        while after < upto:
            rows = await self._rows(TAIL, (zone, after, min(upto, after + PAGE)))
            if not rows:
                return
            for row in rows:
                yield Recorded(*row)
            after = rows[-1][0]

    async def append(self, zone: str, head: Head, at: datetime, batch: Batch) -> bool:
        """Append if the log still stands at `head`; False when another process was faster.

        Raises KeyUsed, ClockAhead and LogUnavailable; nothing was stored after the first two.
        """
        sent = parameters(zone, head.position, head.number, at, batch.columns())

        async def append(connection: AsyncConnection) -> bool:
            if self._prepare and not self._prepared:
                await APPEND_TO_LOG.prepare(connection)
                self._prepared = True
            result = await APPEND_TO_LOG.run(connection, sent, self._prepared)
            return result.get_value(0, 0) == b"\x01"

        return await self._bounded(append)

    async def fates(self, zone: str, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Fate]:
        principals, names = [k[0] for k in keys], [k[1] for k in keys]
        rows = await self._rows(FATES, (principals, names, zone))
        return {(row[0], row[1]): Fate(*row[2:]) for row in rows}

    @asynccontextmanager
    async def locked(self, zone: str) -> AsyncIterator[Head]:
        """A transaction that holds the zone's head; committed on leaving, rolled back on an error."""
        if self._connection is None:
            raise LogUnavailable("not connected")
        try:
            async with self._connection.transaction():
                rows = await self._rows(LOCK_HEAD, (zone,))
                if not rows:
                    raise LogUnavailable(f"the zone {zone} is gone")
                yield Head(*rows[0])
        except BaseException as error:
            self._prepared = False  # With a rollback psycopg drops whatever is prepared, ours included.
            if isinstance(error, AWAY):
                raise LogUnavailable(str(error)) from error
            raise


def evolve_entries(entries: dict[str, Entry], events: Iterable[Recorded]) -> None:
    """Bring the given streams up to date with events that somebody else appended.

    What a newer version appended may not be known here: such a stream is dropped, so that whoever asks for it loads it,
    and is told. Whatever else goes wrong on the way, no event is folded twice.
    """
    for event in events:
        entry = entries.get(event.stream)
        if entry is None or event.version <= entry.version:
            continue
        try:
            entry.state = entry.stream.evolve(entry.state, decode_known(event.type, event.data))
        except UnknownEventType:
            del entries[event.stream]
        else:
            entry.version = event.version
