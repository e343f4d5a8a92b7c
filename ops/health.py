"""Is the process alive, can it serve, and what do its metrics say."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from fastapi import Request
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from starlette.responses import Response

from commands._codec import encode_json
from ops.audit import ARCHIVED, SIGNED
from ops.pool import Pool, open_pool
from ops.problems import Problem, documented
from ops.settings import Settings
from ops.web import App

MOST_LAG_S = 30.0

SIGNED_SIZE = Gauge("fogbook_signed_size", "Entries under a log's newest checkpoint", ["zone", "log"])
SIGNED_AGE_S = Gauge("fogbook_signed_age_seconds", "Age of a log's newest checkpoint", ["zone", "log"])
UNSIGNED = Gauge("fogbook_unsigned_entries", "Entries behind a log's newest checkpoint", ["zone", "log"])
ARCHIVE_LAG = Gauge("fogbook_archive_lag_events", "Events the archive is behind", ["zone", "projection"])

LAGS = """
SELECT c.zone, c.projection, h.position - c.position AS events,
       CASE WHEN h.position = c.position THEN 0
            ELSE extract(epoch FROM clock_timestamp() - e.recorded_at)::float8 END AS seconds,
       h.clock = 'real' AS real
FROM checkpoints c
JOIN heads h USING (zone)
LEFT JOIN events e ON e.zone = c.zone AND e.position = c.position + 1
WHERE c.live
ORDER BY 1, 2
"""


class Health:
    def __init__(self) -> None:
        self._pool: Pool | None = None

    @asynccontextmanager
    async def run(self, settings: Settings) -> AsyncIterator[None]:
        async with open_pool(settings, "fogbook health", 1) as pool:
            self._pool = pool
            yield

    async def alive(self, request: Request) -> Response:
        return Response(b'{"status":"alive"}', media_type="application/json")

    async def ready(self, request: Request) -> Response:
        """The database answers, and no projection lags too far behind."""
        assert self._pool is not None
        try:
            async with self._pool.connection() as connection:
                rows = await (await connection.execute(LAGS)).fetchall()
        except psycopg.Error:
            raise Problem(
                503, "not-ready", "The database does not answer.", headers={"Retry-After": "1"}
            ) from None
        lags = [
            {"zone": zone, "projection": projection, "events": events, "seconds": round(seconds or 0, 3)}
            for zone, projection, events, seconds, _ in rows
        ]
        late = [
            lag for lag, row in zip(lags, rows, strict=True) if row[4] and float(row[3] or 0) > MOST_LAG_S
        ]
        if late:
            raise Problem(503, "not-ready", "A projection lags behind.", late=late)
        return Response(encode_json({"status": "ready", "lags": lags}), media_type="application/json")

    async def metrics(self, request: Request) -> Response:
        """What this process counted; also how far the archivist is, as the database knows, if it answers."""
        with contextlib.suppress(psycopg.Error):
            await self._measure()
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    async def _measure(self) -> None:
        assert self._pool is not None
        async with self._pool.connection() as connection:
            signed = await (await connection.execute(SIGNED)).fetchall()
            archived = await (await connection.execute(ARCHIVED)).fetchall()
        for zone, log, size, _, age_s, unsigned, _ in signed:
            SIGNED_SIZE.labels(zone, log).set(size)
            UNSIGNED.labels(zone, log).set(unsigned)
            if age_s is not None:
                SIGNED_AGE_S.labels(zone, log).set(age_s)
        for zone, projection, *_, lag in archived:
            ARCHIVE_LAG.labels(zone, projection).set(lag)


def add_health(app: App) -> None:
    health = Health()
    app.state.health = health
    ok: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}}}}
    app.add(
        "GET", "/healthz", health.alive, tags=["operations"], summary="Is the process alive", responses=ok
    )
    app.add(
        "GET",
        "/readyz",
        health.ready,
        tags=["operations"],
        summary="Can it serve",
        responses=ok | documented(503),
    )
    app.add(
        "GET",
        "/metrics",
        health.metrics,
        tags=["operations"],
        summary="Prometheus metrics",
        responses={200: {"content": {"text/plain": {}}}},
    )
