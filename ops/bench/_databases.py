"""Databases of their own on the bench's server, so that a small one has small indexes beside a large one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from ops.bench._stage import Stage
from ops.migrate import migrate
from ops.servers import Servers

TEMPLATE = "bench_template"
TAGS = 400
"""Rounds that the stage of one database may run before its idempotency keys are those of the next one."""


class OfDatabase(Servers):
    """The same servers, of which others start and stop the processes, with a database of its own on each."""

    def __init__(self, servers: Servers, name: str, number: int) -> None:
        self._of = servers
        self._name = name
        self._number = number

    @property
    def database_url(self) -> str:
        return make_conninfo(self._of.database_url, dbname=self._name)

    @property
    def superuser_url(self) -> str:
        return make_conninfo(self._of.superuser_url, dbname=self._name)

    @property
    def redis_url(self) -> str:
        return f"{self._of.redis_url.rpartition('/')[0]}/{self._number}"

    @property
    def pids(self) -> dict[str, int]:
        return self._of.pids


def stage_in(stage: Stage, name: str, number: int) -> Stage:
    """The stage with a new database of that name, with the schema and the API keys but no zone.

    `number` is from 1 to 10, another one for each: that of its database in Valkey.
    """
    _make_template(stage)
    with stage.superuser() as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    folder = stage.folder / name
    folder.mkdir()
    return replace(
        stage,
        servers=OfDatabase(stage.servers, name, number),
        folder=folder,
        running={},
        founded=True,
        tags=TAGS * number,
    )


def _make_template(stage: Stage) -> None:
    """To copy a database costs far less than to migrate one."""
    with stage.superuser() as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (TEMPLATE,)).fetchone():
            return
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
        keys = connection.execute("SELECT * FROM api_keys").fetchall()
    url = make_conninfo(stage.servers.superuser_url, dbname=TEMPLATE)
    migrate(url)
    places = ", ".join(["%s"] * len(keys[0]))
    with psycopg.connect(url, autocommit=True) as there:
        there.cursor().executemany(f"INSERT INTO api_keys VALUES ({places})", keys)


def drop(stage: Stage, own: Stage, name: str) -> None:
    """Stop what runs in a database, and remove it."""
    for app in own.running.values():
        app.stop()
    with stage.superuser() as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def nobody_vacuums(connection: psycopg.Connection[object]) -> Iterator[None]:
    """Without autovacuum, which would fall into one round and not into another."""
    for statement in ("ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()"):
        connection.execute(statement)
    try:
        yield
    finally:
        for statement in ("ALTER SYSTEM RESET autovacuum", "SELECT pg_reload_conf()"):
            connection.execute(statement)


def pages(connection: psycopg.Connection[Any], statement: str, parameters: Sequence[Any]) -> int:
    """How many pages a statement looks at, wherever they are found."""
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
    row = connection.execute(explain, parameters).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
