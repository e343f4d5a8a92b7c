"""Pools of database connections with deadlines on everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from commands._log import connection_options
from ops.settings import APP_ROLE, SIGNER_ROLE, Settings


@asynccontextmanager
async def open_pool(settings: Settings, name: str, size: int) -> AsyncIterator[AsyncConnectionPool[Any]]:
    """A pool whose connections are checked before use, so that it recovers when the database comes back.

    Each execution is planned for its own parameters: a plan for any of them could use no index where a parameter
    may be left out, and would read whole tables (0.3 to 0.8 ms of planning against 20 to 80 ms).
    """
    pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
        settings.database_url,
        min_size=1,
        max_size=size,
        timeout=2.0,
        max_waiting=1_000,
        reconnect_timeout=5.0,
        open=False,
        check=AsyncConnectionPool.check_connection,
        kwargs={
            "autocommit": True,
            "connect_timeout": 5,
            "prepare_threshold": 1 if settings.prepare_statements else None,
            "application_name": name,
            "options": connection_options(APP_ROLE) + " -c plan_cache_mode=force_custom_plan",
        },
    )
    await pool.open(wait=False)
    try:
        yield pool
    finally:
        await pool.close(timeout=2.0)


def connect(database_url: str, name: str, *, bounded: bool = True) -> psycopg.Connection[Any]:
    """One autocommit connection in Fogbook's role; `bounded=False` for long maintenance."""
    return _connect(database_url, name, APP_ROLE, bounded)


def connect_as_signer(database_url: str, name: str, *, bounded: bool = True) -> psycopg.Connection[Any]:
    """The same in the role that signs."""
    return _connect(database_url, name, SIGNER_ROLE, bounded)


def _connect(database_url: str, name: str, role: str, bounded: bool) -> psycopg.Connection[Any]:
    options = connection_options(role)
    if not bounded:
        options += " -c statement_timeout=0"
    return psycopg.connect(
        database_url, autocommit=True, connect_timeout=5, application_name=name, options=options
    )
