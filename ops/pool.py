"""Pools of database connections with deadlines on everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from select import POLLIN, poll
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from commands._log import GIVING_UP, connection_options
from ops.settings import APP_ROLE, SIGNER_ROLE, Settings


@asynccontextmanager
async def open_pool(settings: Settings, name: str, size: int) -> AsyncIterator[AsyncConnectionPool[Any]]:
    """A pool whose connections are checked before use, so that it recovers when the database comes back."""
    pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
        settings.database_url,
        min_size=1,
        max_size=size,
        timeout=2.0,
        max_waiting=1_000,
        reconnect_timeout=5.0,
        open=False,
        check=check,
        kwargs={
            **GIVING_UP,
            "autocommit": True,
            "prepare_threshold": 1 if settings.prepare_statements else None,
            "application_name": name,
            "options": connection_options(APP_ROLE),
        },
    )
    await pool.open(wait=False)
    try:
        yield pool
    finally:
        await pool.close(timeout=2.0)


async def check(connection: AsyncConnection[Any]) -> None:
    """Ask a connection whether it still works, if its server has said something: it says so when it ends.

    An idle connection has nothing to read, and asking each of them before use would cost another round trip.
    """
    said = poll()
    said.register(connection.fileno(), POLLIN)
    if said.poll(0):
        await AsyncConnectionPool.check_connection(connection)


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
    return psycopg.connect(database_url, autocommit=True, application_name=name, options=options, **GIVING_UP)
