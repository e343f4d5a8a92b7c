"""Questions as of a position against the live ones: the archive of a long history, built, weighed and asked.

The history is random transfers between the wallets of the stage, so that a wallet's balance and those of the pools have
very many versions. Questions are the queries' own statements, by key, each at a position of its own.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import fields
from random import Random
from threading import Event
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from ops.bench._figures import Figures
from ops.bench._measure import quantile
from ops.bench._requests import wallet
from ops.bench._stage import Stage, found_zone, grow
from ops.settings import APP_ROLE
from ops.waits import connection_options
from projections._engine import all_projections
from projections._rebuild import rebuild
from queries._as_of import resolve
from queries._query import QUERIES
from queries._sql import given_of, statement
from queries.api import load_queries
from workers.archive import Archive

PAST_ZONE = "past"
QUESTIONS = {"balance": "/queries/ledger/balance", "statement": "/queries/ledger/statement"}
SAMPLES = 400

SIZES = """
SELECT n.nspname, sum(pg_total_relation_size(c.oid)), sum(pg_relation_size(c.oid))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('read', 'past') AND c.relkind = 'r' GROUP BY 1
"""


def as_of(stage: Stage, figures: Figures) -> None:
    """Keyed questions as of random positions against the same ones live; the archive's speed and size."""
    stage.say("Making history for the archive.")
    found_zone(stage, PAST_ZONE, stage.scale.wallets)
    head = grow(stage, PAST_ZONE, stage.scale.events, 0.5)
    for projection in all_projections().values():
        stage.say(f"Following: {projection.name}.")
        rebuild(stage.connect, PAST_ZONE, projection)
    stage.say(f"Archiving {head} events.")
    took_s, cpu_s = _archived(stage)
    figures.per_s["archive_events"] = round(head / took_s, 1)
    figures.cpu_us["archive_event"] = {"archivist": round(1e6 * cpu_s / head, 1)}
    with stage.superuser() as connection:
        connection.execute("ANALYZE")
        sizes = {name: (total, rows) for name, total, rows in connection.execute(SIZES)}
    load_queries()
    live_ms, past_ms = asyncio.run(_asked(stage, head))
    for name in QUESTIONS:
        figures.ratios[f"live_vs_as_of_{name}"] = round(
            statistics.median(live_ms[name]) / statistics.median(past_ms[name]), 3
        )
        for kind, samples in (("live", live_ms), ("as_of", past_ms)):
            ordered = sorted(samples[name])
            figures.latency_ms[f"{kind}_{name}"] = {
                "p50": round(quantile(ordered, 0.5), 3),
                "p99": round(quantile(ordered, 0.99), 3),
            }
    figures.conditions |= {
        "as_of_events": head,
        "as_of_bytes_an_event": round(sizes["past"][0] / head),
        "as_of_bytes_an_event_without_indexes": round(sizes["past"][1] / head),
        "live_rows_bytes_an_event": round(sizes["read"][0] / head),
    }


def _archived(stage: Stage) -> tuple[float, float]:
    begun, spent = time.monotonic(), time.process_time()
    archive = Archive(stage.connect, Event())
    try:
        while archive.turn():
            pass
    finally:
        archive.close()
    return time.monotonic() - begun, time.process_time() - spent


async def _asked(stage: Stage, head: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    choose = Random(stage.seed)
    live: dict[str, list[float]] = {name: [] for name in QUESTIONS}
    past: dict[str, list[float]] = {name: [] for name in QUESTIONS}
    options = connection_options(APP_ROLE)
    async with (
        AsyncConnectionPool(
            stage.servers.database_url,
            min_size=1,
            open=False,
            kwargs={"autocommit": True, "prepare_threshold": 1, "options": options},
        ) as pool,
        pool.connection() as connection,
    ):
        for number in range(-20, min(SAMPLES, head)):
            account = wallet(choose.randrange(stage.scale.wallets), stage.principals)
            for name, path in QUESTIONS.items():
                now_ms = await _timed(_now, connection, path, account, 0)
                then_ms = await _timed(_then, connection, path, account, choose.randint(head // 2, head))
                if number >= 0:  # What came before was to warm up.
                    live[name].append(now_ms)
                    past[name].append(then_ms)
    return live, past


async def _timed(ask: Callable[..., Any], *arguments: Any) -> float:
    begun = time.perf_counter()
    await ask(*arguments)
    return 1000 * (time.perf_counter() - begun)


def _values(path: str, account: str) -> dict[str, Any]:
    query = QUERIES[path]
    parameters: Any = query.parameters
    defaults = {f.name: f.default for f in fields(parameters)}
    return defaults | {
        "account": account,
        "zone": PAST_ZONE,
        "projection": query.projection,
        "limit": 50,
        "principal": "admin",
        "sees_all": True,
    }


async def _now(connection: AsyncConnection[Any], path: str, account: str, position: int) -> None:
    await _row(connection, path, _values(path, account))


async def _then(connection: AsyncConnection[Any], path: str, account: str, position: int) -> None:
    """With the round trip that tells what the position means."""
    moment = await resolve(connection, PAST_ZONE, QUERIES[path], position, "as_of")
    await _row(connection, path, _values(path, account) | moment.values(), past=True)


async def _row(
    connection: AsyncConnection[Any], path: str, values: dict[str, Any], past: bool = False
) -> None:
    query = QUERIES[path]
    text = statement(query, False, past, given_of(query, values), values["sees_all"])
    cursor = await connection.execute(text, values)
    row = await cursor.fetchone()
    assert row is not None, "the archive has come that far"
