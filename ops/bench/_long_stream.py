"""One stream with very many events: what it costs to load it after a restart, in turns with a short one."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from commands._deciding import Command
from commands._log import EVENTS_OF_STREAMS, PAGE, SNAPSHOT_EVERY, SNAPSHOTS, LogUnavailable, PostgresLog
from domain.ledger import accounts
from ops.bench._databases import drop, pages, stage_in
from ops.bench._figures import Figures
from ops.bench._history import LARGE, make_history, minted, opened, paid, paid_out
from ops.bench._requests import wallet
from ops.bench._stage import ZONE, Stage, check, sequencing
from ops.settings import APP_ROLE

SHORT = 2 * SNAPSHOT_EVERY
DATABASE = "grown_stream"


class CountingLog(PostgresLog):
    """A log that counts the events it reads to load streams."""

    def __init__(self, conninfo: str, role: str | None = None, snapshots: bool = True) -> None:
        super().__init__(conninfo, role)
        self.events_read = 0
        self._snapshots = snapshots

    async def _rows(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        if sql == SNAPSHOTS and not self._snapshots:
            return []
        rows = await super()._rows(sql, parameters)
        if sql == EVENTS_OF_STREAMS:
            self.events_read += len(rows)
        return rows


def lengths(long: int) -> dict[str, int]:
    """The streams of the first two wallets, by how many events they have: whole snapshot intervals."""
    return {str(SHORT): SHORT, str(long): max(long // SNAPSHOT_EVERY, 2) * SNAPSHOT_EVERY}


def long_history(events: Sequence[int], principals: int) -> Iterator[list[Command]]:
    """A wallet for each of the numbers, with that many events, of which as many as may be lie behind its snapshot; and
    one more that nothing happens to."""
    yield [minted(sum(events))]
    yield [opened(number, principals) for number in range(len(events) + 1)]
    distribution = 0
    for number, most in enumerate(events):
        account, left = wallet(number, principals), most - 1
        while left:
            count = min(LARGE, left)
            distribution += 1
            yield [paid_out([account] * count, 1, distribution)]
            left -= count


def long_stream(stage: Stage, figures: Figures, number: int) -> None:
    """Rows read and milliseconds to load each, the first command after a restart, and loading without a snapshot."""
    sizes = lengths(stage.scale.growth.long_stream)
    stage.say(f"Making a stream of {stage.scale.growth.long_stream} events.")
    own = stage_in(stage, DATABASE, number)
    history = long_history(list(sizes.values()), own.principals)
    make_history(own.servers.database_url, ZONE, history)
    with own.superuser() as connection:
        connection.execute("VACUUM (ANALYZE)")
    stage.say("Loading streams.")
    names = {label: wallet(i, own.principals) for i, label in enumerate(sizes)}
    asyncio.run(_loaded(own, figures, names))
    asyncio.run(_first_commands(own, figures, names))
    drop(stage, own, DATABASE)
    for name in ("stream_load_ms", "stream_load_pages", "stream_first_command_ms"):
        series = list(figures.growth[name].values())
        figures.growth_ratios[name] = round(series[-1] / series[0], 3)


async def _loaded(stage: Stage, figures: Figures, names: dict[str, str]) -> None:
    took: dict[str, list[float]] = {label: [] for label in names}
    for _ in range(stage.scale.growth.loads):
        for label, name in names.items():
            log = CountingLog(stage.servers.database_url, APP_ROLE)
            took[label].append(await _load_ms(log, name))
            figures.put_growth("stream_load_rows", label, log.events_read)
    for label, name in names.items():
        figures.put_growth("stream_load_ms", label, statistics.median(took[label]))
        unaided = CountingLog(stage.servers.database_url, APP_ROLE, snapshots=False)
        try:
            figures.put_growth("stream_load_without_snapshot_ms", label, await _load_ms(unaided, name))
        except LogUnavailable as error:
            figures.conditions["stream_load_without_snapshot"] = f"{label} events: {error}"
    with stage.connect() as connection:
        for label, name in names.items():
            row = connection.execute(
                "SELECT version, position FROM snapshots WHERE zone = %s AND stream = %s", (ZONE, name)
            ).fetchone()
            head = connection.execute("SELECT position FROM heads WHERE zone = %s", (ZONE,)).fetchone()
            assert row is not None
            assert head is not None
            read = pages(connection, EVENTS_OF_STREAMS, ([name], [row[0]], ZONE, head[0], PAGE, PAGE))
            figures.put_growth("stream_load_pages", label, read)


async def _load_ms(log: PostgresLog, name: str) -> float:
    """Over a connection of its own, as after a restart."""
    await log.connect()
    try:
        head = await log.head(ZONE)
        assert head is not None
        begun = time.perf_counter()
        loaded = await log.load(ZONE, {name: accounts}, head.position)
        spent_ms = 1000 * (time.perf_counter() - begun)
        assert loaded is not None
        assert loaded[name].version > 0
        return spent_ms
    finally:
        await log.close()


async def _first_commands(stage: Stage, figures: Figures, names: dict[str, str]) -> None:
    """A sequencer starts, and decides one transfer from a wallet. A dry run, so that there is no further snapshot."""
    took: dict[str, list[float]] = {label: [] for label in names}
    for number in range(stage.scale.growth.loads):
        for i, label in enumerate(names):
            command = paid(i, len(names), 1, stage.principals, f"first-{number}-{label}")
            command.dry_run = True
            begun = time.perf_counter()
            async with sequencing(stage, ZONE) as sequencer:
                check([await sequencer.submit(command)])
                took[label].append(1000 * (time.perf_counter() - begun))
    for label in names:
        figures.put_growth("stream_first_command_ms", label, statistics.median(took[label]))
