"""Is the process alive, can it serve, and what do its metrics say."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from fastapi import Request
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from starlette.responses import Response

from commands._codec import encode_json
from ops.audit import LAGS
from ops.measures import DATABASE_UP, measure
from ops.pool import Pool, measure_pools, open_pool
from ops.problems import Problem, documented
from ops.settings import Settings
from ops.web import App

MOST_LAG_S = 30.0

LAGGING = f"""
SELECT zone, projection, lag_events, lag_seconds, clock = 'real' AS real, paused FROM ({LAGS}) lags
"""  # noqa: S608 - made of our own text only


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
        """The database answers, and no projection lags too far behind; one that operators hold does not count."""
        assert self._pool is not None
        try:
            async with self._pool.connection() as connection:
                rows = await (await connection.execute(LAGGING)).fetchall()
        except psycopg.Error:
            raise Problem(
                503, "not-ready", "The database does not answer.", headers={"Retry-After": "1"}
            ) from None
        lags = [
            {"zone": zone, "projection": projection, "events": events, "seconds": round(seconds, 3)}
            | ({"paused": True} if paused else {})
            for zone, projection, events, seconds, _, paused in rows
        ]
        late = [
            lag
            for lag, (*_, seconds, real, paused) in zip(lags, rows, strict=True)
            if real and not paused and seconds > MOST_LAG_S
        ]
        if late:
            raise Problem(503, "not-ready", "A projection lags behind.", late=late)
        return Response(encode_json({"status": "ready", "lags": lags}), media_type="application/json")

    async def metrics(self, request: Request) -> Response:
        """What this process counted, and what the database knows of all of them, if it answers. Exemplars, which lead
        to traces, are told to whoever takes OpenMetrics."""
        assert self._pool is not None
        measure_pools()
        DATABASE_UP.set(0)
        with contextlib.suppress(psycopg.Error):
            async with self._pool.connection() as connection:
                await measure(connection)
            DATABASE_UP.set(1)
        if "application/openmetrics-text" in request.headers.get("accept", ""):
            return Response(generate_openmetrics(REGISTRY), media_type=OPENMETRICS)  # type: ignore[no-untyped-call]
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


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
        responses={200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}},
    )
