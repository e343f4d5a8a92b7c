"""Appending batches to the log, against one raw INSERT of the same rows."""

from __future__ import annotations

import asyncio
import contextlib
import re
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from psycopg import AsyncConnection

from commands._append import Statement, parameters
from commands._deciding import Decided
from commands._log import Batch, Entry, Head, PostgresLog
from ops.bench._figures import Figures
from ops.bench._measure import median_ratio, spread
from ops.bench._rounds import GAPLESS
from ops.bench._stage import BenchFailed, Stage, found_zone, transfers
from ops.settings import APP_ROLE

BATCH = 32
ORDERING = {
    "append": GAPLESS,
    "raw_batch": "positions as given, compared with nothing; a key once",
    "raw_events_only": "positions as given, compared with nothing",
}

RAW_TABLES = """
CREATE TABLE bench_events (LIKE events INCLUDING ALL);
CREATE TABLE bench_commands (LIKE commands INCLUDING ALL);
GRANT SELECT, INSERT ON bench_events, bench_commands TO fogbook_app;
"""

RAW_EVENTS = """
INSERT INTO bench_events
SELECT %b::text, %b::bigint + i, stream, version, type, data, meta, %b::timestamptz, leaf
FROM unnest(%b::text[], %b::bigint[], %b::text[], %b::bytea[], %b::bytea[], %b::bytea[]) WITH ORDINALITY
     AS e(stream, version, type, data, meta, leaf, i)
"""

RAW_BOTH = f"""
WITH fates AS (
    INSERT INTO bench_commands
    SELECT %b::text, %b::bigint + i, principal, key, act_as, request, if_match, status, answer, position, events,
           %b::timestamptz, leaf
    FROM unnest(%b::text[], %b::text[], %b::text[], %b::bytea[], %b::bigint[], %b::smallint[], %b::bytea[],
                %b::bigint[], %b::integer[], %b::bytea[]) WITH ORDINALITY
         AS c(principal, key, act_as, request, if_match, status, answer, position, events, leaf, i)
)
{RAW_EVENTS}
"""


def _numbered(name: str, text: str) -> Statement:
    """Run as the log runs its own: with parameters in binary format, without a cursor."""
    numbers = count(1)
    return Statement(name, re.sub("%b", lambda _: f"${next(numbers)}", text))


BOTH, EVENTS = _numbered("raw_both", RAW_BOTH), _numbered("raw_events", RAW_EVENTS)


@dataclass(frozen=True)
class Prepared:
    head: Head
    batch: Batch


def append(stage: Stage, figures: Figures) -> None:
    """PostgresLog.append against one INSERT ... SELECT unnest of the same rows (events and fates).

    Decisions and leaf hashes are made beforehand; both sides run over the same kind of connection, prepared and
    binary, each batch in a transaction (of one statement) of its own, with synchronous commit.
    """
    zone = "append"
    found_zone(stage, zone, stage.scale.wallets, clock="manual")
    with stage.superuser() as connection:
        connection.execute(RAW_TABLES)
    asyncio.run(_append(stage, figures, zone))


async def _append(stage: Stage, figures: Figures, zone: str) -> None:
    scale = stage.scale
    log = PostgresLog(stage.servers.database_url, APP_ROLE)
    await log.connect()
    head = await log.head(zone)
    assert head is not None
    took: dict[str, list[float]] = {"append": [], "raw_batch": [], "raw_events_only": []}
    rates: dict[str, list[float]] = {name: [] for name in took}
    opened = AsyncConnection.connect(stage.servers.superuser_url, autocommit=True, prepare_threshold=0)
    async with closing(log), await opened as raw:
        for statement in (BOTH, EVENTS):
            await statement.prepare(raw)
        batches = await prepare(stage, log, zone, head, scale.batches * (scale.append_rounds + 1), BATCH)
        for number in range(scale.append_rounds + 1):
            stage.say(f"Appending batches, round {number} of {scale.append_rounds}.")
            share = batches[number * scale.batches : (number + 1) * scale.batches]
            runs: dict[str, Callable[[Prepared], Any]] = {
                "append": lambda p: log.append(zone, p.head, head.at, p.batch),
                "raw_batch": lambda p: BOTH.run(raw, _both(zone, p)),
                "raw_events_only": lambda p: EVENTS.run(raw, _events("only", p)),
            }
            for name, run in runs.items():
                begun = time.monotonic()
                for batch in share:
                    each = time.monotonic()
                    if await run(batch) is False:
                        raise BenchFailed("an append met another one")
                    if number:  # Round 0 warms up.
                        took[name].append((time.monotonic() - each) * 1000)
                if number:
                    rates[name].append(len(share) * BATCH * 2 / (time.monotonic() - begun))
            if number >= 2 and stage.late(0.6):
                break
    figures.ratios["append_vs_raw_batch"] = median_ratio(rates["append"], rates["raw_batch"])
    figures.conditions["append_vs_raw_events_only"] = median_ratio(rates["append"], rates["raw_events_only"])
    for name in took:
        figures.ordering[name] = ORDERING[name]
        figures.latency_ms[name] = spread(took[name])
        figures.per_s[f"{name}_events"] = round(statistics.median(rates[name]), 1)


@contextlib.asynccontextmanager
async def closing(log: PostgresLog) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await log.close()


async def prepare(
    stage: Stage, log: PostgresLog, zone: str, head: Head, count: int, size: int
) -> list[Prepared]:
    """Batches of so many transfers each, decided one after another, with their real leaf hashes."""
    known: dict[str, Entry] = {}
    batches = []
    commands = transfers(stage, count * size, zone)
    for first in range(0, len(commands), size):
        batch = commands[first : first + size]
        while (decided := Decided(zone, known, head, head.at, batch)).missing:
            known |= await log.load(zone, decided.missing, head.position) or {}
        known |= decided.states.changed
        batches.append(Prepared(head, decided.batch))
        head = Head(decided.position, head.number + len(decided.batch.keys), head.at, head.clock)
    return batches


def _both(zone: str, p: Prepared) -> list[bytes]:
    name, _, number, at, *columns = _parameters(zone, p)
    return [name, number, at, *columns[:10], *_events(zone, p)]


def _events(zone: str, p: Prepared) -> list[bytes]:
    name, position, _, at, *columns = _parameters(zone, p)
    return [name, position, at, *columns[10:16]]


def _parameters(zone: str, p: Prepared) -> list[bytes]:
    return parameters(zone, p.head.position, p.head.number, p.head.at, p.batch.columns())
