"""One command at a time into the log, against message-db's `write_message` and against bare rows: who commits alone."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

from psycopg import AsyncConnection

from commands._log import PostgresLog
from ops.bench._append import Prepared, closing, prepare
from ops.bench._figures import Figures
from ops.bench._measure import median_ratio, spread, tree_cpu_s
from ops.bench._node import NodeMissing, node_folder
from ops.bench._peers import message_db
from ops.bench._rounds import GAPLESS
from ops.bench._stage import BenchFailed, Stage, found_zone
from ops.settings import APP_ROLE

ZONE = "singles"
OPERATIONS = 4
"""Of each side in a round, for every batch that the append part would write: what commits alone is quick to commit."""
WRITERS = 8

ROWS = "CREATE TABLE bench_rows (LIKE events INCLUDING ALL)"
INSERT = b"INSERT INTO bench_rows VALUES (%b, %b, %b, %b, %b, %b, %b, %b, %b)"
WRITE = b"SELECT write_message(%s::varchar, %s::varchar, %s::varchar, %s::jsonb)"

ORDERING = {
    "append_single": GAPLESS,
    "write_message": "in commit order by a lock on the category, with gaps",
    "one_row": "positions as given, compared with nothing",
    "one_row_8": "positions as given, compared with nothing",
}

Row = tuple[Any, ...]
Operation = Callable[[], Awaitable[Any]]


def peer_appends(stage: Stage, figures: Figures) -> None:
    """PostgresLog.append of single commands against other ways to commit one thing, in events a second.

    A command has two events; a message or a row is one. All use psycopg with prepared statements, on one connection
    unless the name says eight; every operation is a transaction of its own, with synchronous commit.
    """
    found_zone(stage, ZONE, stage.scale.wallets, clock="manual")
    with stage.superuser() as connection:
        connection.execute(ROWS)
    messages = None
    try:
        node_folder(stage.folder, stage.say)
        messages = message_db(stage)
    except NodeMissing as missing:
        figures.conditions["peer_appends_without_node"] = str(missing)
    asyncio.run(_measure(stage, figures, messages))


async def _measure(stage: Stage, figures: Figures, messages: str | None) -> None:
    scale, share = stage.scale, stage.scale.batches * OPERATIONS
    log = PostgresLog(stage.servers.database_url, APP_ROLE)
    await log.connect()
    head = await log.head(ZONE)
    assert head is not None
    async with closing(log), contextlib.AsyncExitStack() as undo:
        rows = [await _connected(undo, stage.servers.superuser_url) for _ in range(WRITERS)]
        writer = await _connected(undo, messages) if messages else None
        commands = await prepare(stage, log, ZONE, head, share * (scale.append_rounds + 1), 1)
        sides = {name: Timed(stage) for name in ORDERING if name != "write_message" or writer}
        for number in range(scale.append_rounds + 1):
            stage.say(f"Appending one by one, round {number} of {scale.append_rounds}.")
            part = commands[number * share : (number + 1) * share]
            for name, side in sides.items():
                work = _work(name, part, log, rows, writer)
                await side.run(work, events=2 if name == "append_single" else 1, counts=number > 0)
    for name, side in sides.items():
        side.note(figures, name)
        if name != "append_single":
            figures.ratios[f"append_single_vs_{name}"] = median_ratio(
                sides["append_single"].rates, side.rates
            )


def _work(
    name: str,
    part: Sequence[Prepared],
    log: PostgresLog,
    rows: Sequence[AsyncConnection[Any]],
    messages: AsyncConnection[Any] | None,
) -> list[list[Operation]]:
    """As many operations as there are commands; a list for each writer."""
    if name == "append_single":
        return [[_append(log, command) for command in part]]
    events = _rows(part, name)[: len(part)]
    if name == "write_message":
        assert messages is not None
        return [[_write(messages, event) for event in events]]
    writers = rows[:1] if name == "one_row" else rows
    return [
        [_insert(connection, event) for event in events[first :: len(writers)]]
        for first, connection in enumerate(writers)
    ]


class Timed:
    """A side's rounds: writers at once, each of which does one operation after the other."""

    def __init__(self, stage: Stage) -> None:
        self._postgres = stage.servers.pids["postgres"]
        self.rates: list[float] = []
        self.took_ms: list[float] = []
        self.cpu_s = self.postgres_s = 0.0
        self.events = 0

    async def run(self, work: Sequence[Sequence[Operation]], events: int, counts: bool) -> None:
        """`events` of each operation; a round that does not count warms up."""
        took: list[float] = []
        cpu, postgres, begun = time.process_time(), tree_cpu_s(self._postgres), time.monotonic()
        await asyncio.gather(*(_one_by_one(operations, took) for operations in work))
        seconds = time.monotonic() - begun
        if not counts:
            return
        self.took_ms += took
        self.rates.append(len(took) * events / seconds)
        self.events += len(took) * events
        self.cpu_s += time.process_time() - cpu
        self.postgres_s += tree_cpu_s(self._postgres) - postgres

    def note(self, figures: Figures, name: str) -> None:
        figures.per_s[f"{name}_events"] = round(statistics.median(self.rates), 1)
        figures.latency_ms[name] = spread(self.took_ms)
        figures.ordering[name] = ORDERING[name]
        figures.cpu_us[name] = {
            "server": round(self.cpu_s / self.events * 1e6, 1),
            "postgres": round(self.postgres_s / self.events * 1e6, 1),
        }


async def _one_by_one(operations: Sequence[Operation], took: list[float]) -> None:
    for operation in operations:
        begun = time.monotonic()
        await operation()
        took.append((time.monotonic() - begun) * 1000)


async def _connected(undo: contextlib.AsyncExitStack, url: str) -> AsyncConnection[Any]:
    opened = await AsyncConnection.connect(url, autocommit=True, prepare_threshold=0)
    return await undo.enter_async_context(opened)


def _append(log: PostgresLog, command: Prepared) -> Operation:
    async def appended() -> None:
        if not await log.append(ZONE, command.head, command.head.at, command.batch):
            raise BenchFailed("an append met another one")

    return appended


def _insert(connection: AsyncConnection[Any], row: Row) -> Operation:
    return lambda: connection.cursor(binary=True).execute(INSERT, row)


def _write(connection: AsyncConnection[Any], row: Row) -> Operation:
    stream, type, data = row[2], row[4], row[5]
    return lambda: connection.execute(WRITE, (str(uuid4()), f"wallet-{stream}", type, data.decode()))


def _rows(part: Sequence[Prepared], zone: str) -> list[Row]:
    """The rows of these commands' events."""
    rows = []
    for command in part:
        streams, versions, types, data, meta, leaves = command.batch.columns()[10:16]
        position = command.head.position
        for at, row in enumerate(zip(streams, versions, types, data, meta, strict=True)):
            rows.append((zone, position + at + 1, *row, command.head.at, leaves[at]))
    return rows
