"""Fogbook behind a real PgBouncer in transaction mode, as ops/deploy/pgbouncer.ini sets it up."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from domain.ledger import MintTokens, OpenWallet, Transfer
from ops._supervise import Child, spawn
from ops.access import create_key
from ops.client import AsyncFogbook, Fogbook
from ops.pooled import SESSION, check_way, find_direct
from ops.servers import Servers
from ops.settings import APP_ROLE, Settings, SettingsIncomplete
from ops.zones import ensure_zone
from queries.ledger import Balance
from tests.conftest import PEPPER, Database
from tests.running import ROOT

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
NOBODY = (65_534, 65_534)
CONFIGURATION = ROOT / "ops" / "deploy" / "pgbouncer.ini"
WITHIN_S = 120.0
PAYMENTS = 120

pytestmark = [
    pytest.mark.xdist_group("pooled"),
    pytest.mark.skipif(PROGRAM is None, reason="No PgBouncer here: `make tools` as root installs Debian's."),
]


@dataclass
class Pooler:
    url: str
    """By way of PgBouncer."""
    admin_url: str

    def settings(self, **more: Any) -> Settings:
        return Settings(DATABASE_URL=self.url, **{"prepare_statements": False, **more})


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """One that an unprivileged user can walk to."""
    made = Path("/tmp") / f"fogbook-pooled-{os.getpid()}"
    made.mkdir(mode=0o755)
    yield made
    shutil.rmtree(made)


def pooler(folder: Path, database: Database, configuration: str) -> tuple[Child, Pooler]:
    parts = psycopg.conninfo.conninfo_to_dict(database.url)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    changes = {
        "host=postgres port=5432 dbname=fogbook": f"host=127.0.0.1 port={parts['port']} dbname={database.name}",
        "listen_port = 6432": f"listen_port = {port}",
        "listen_addr = *": "listen_addr = 127.0.0.1",
        "/run/secrets/pgbouncer_users": str(folder / "users"),
        "[pgbouncer]\n": f"[pgbouncer]\nadmin_users = {parts['user']}\n",
    }
    for old, new in changes.items():
        assert old in configuration, old
        configuration = configuration.replace(old, new)
    (folder / "pgbouncer.ini").write_text(configuration)
    (folder / "users").write_text(f'"{parts["user"]}" "{parts["password"]}"\n')
    user = NOBODY if os.geteuid() == 0 else None
    assert PROGRAM is not None
    child = spawn([PROGRAM, str(folder / "pgbouncer.ini")], log=folder / "pgbouncer.log", user=user)
    url = psycopg.conninfo.make_conninfo(database.url, port=port, dbname="fogbook")
    made = Pooler(url, psycopg.conninfo.make_conninfo(url, dbname="pgbouncer"))
    end = time.monotonic() + WITHIN_S
    while True:
        try:
            psycopg.connect(url).close()
            return child, made
        except psycopg.OperationalError:
            assert child.poll() is None and time.monotonic() < end, (folder / "pgbouncer.log").read_text()
            time.sleep(0.02)


@pytest.fixture
def pooled(folder: Path, database: Database) -> Iterator[Pooler]:
    child, made = pooler(folder, database, CONFIGURATION.read_text())
    yield made
    child.stop(5.0)


def test_what_a_connection_asks_for_is_in_effect_and_connections_are_shared(pooled: Pooler) -> None:
    check_way(pooled.settings())
    connections = [psycopg.connect(pooled.url, autocommit=True) for _ in range(40)]
    backends = set()
    for connection in connections:
        row = connection.execute(SESSION).fetchone()
        assert row is not None
        backends.add(row[0])
        assert row[1:] == (APP_ROLE, True, True, True, True)
        connection.close()
    assert len(backends) <= 20


def test_a_pooler_that_drops_the_role_and_the_deadlines_is_refused(folder: Path, database: Database) -> None:
    lines = CONFIGURATION.read_text().splitlines()
    bare = "\n".join(line.partition(" connect_query=")[0] for line in lines)
    child, made = pooler(folder, database, bare)
    try:
        with pytest.raises(SettingsIncomplete, match="connect_query"):
            check_way(made.settings())
    finally:
        child.stop(5.0)


def test_prepared_statements_and_work_that_needs_postgresql_itself_are_refused_behind_a_pooler(
    pooled: Pooler, database: Database
) -> None:
    with pytest.raises(SettingsIncomplete, match="FOGBOOK_PREPARE_STATEMENTS=false"):
        check_way(pooled.settings(prepare_statements=True))
    with pytest.raises(SettingsIncomplete, match="PostgreSQL itself"):
        find_direct(pooled.settings(), threading.Event())
    find_direct(Settings(DATABASE_URL=database.url), threading.Event())


def test_commands_queries_and_batches_of_two_processes_go_through_it(
    pooled: Pooler, database: Database, servers: Servers, tmp_path: Path
) -> None:
    """Both take commands, so that every way of appending is gone; workers go past the pooler."""
    ensure_zone(database.url, "main")
    with database.connect() as connection:
        admin = create_key(
            connection, PEPPER.encode(), principal="admin", role="operator", scopes=("act-as",)
        )
        worker = create_key(connection, PEPPER.encode(), principal="worker", role="worker")
    (tmp_path / "subjects").mkdir(mode=0o700)
    children: list[Child] = []
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        env = {k: v for k, v in os.environ.items() if not k.startswith(("FOGBOOK_", "DATABASE_", "REDIS_"))}
        env |= {
            "REDIS_URL": servers.redis_url,
            "FOGBOOK_PEPPER": PEPPER,
            "FOGBOOK_API_URL": url,
            "FOGBOOK_WORKER_KEY": worker.key,
        }
        behind = env | {"DATABASE_URL": pooled.url, "FOGBOOK_PREPARE_STATEMENTS": "false"}
        beside = env | {"DATABASE_URL": database.url}
        fd = listening.fileno()

        def start(name: str, env: dict[str, str], *arguments: str) -> None:
            argv = [sys.executable, "-m", "ops.cli", *arguments, "--home", str(tmp_path)]
            children.append(spawn(argv, log=tmp_path / f"{name}.log", env=env, cwd=ROOT, keep=(fd,)))

        try:
            start("one", behind, "serve", "all", "--fd", str(fd))
            start("two", behind, "serve", "all", "--fd", str(fd))
            start("work", beside, "work")
            asyncio.run(pay(url, admin.key))
            with Fogbook(url, admin.key, patience_s=WITHIN_S) as book:
                said = book.send(Transfer("wallet:p0", "wallet:p1", 1), act_as="p0")
                book.see(said.position)
                owned = [
                    balance.available
                    for name in ("p0", "p1")
                    for balance in book.items("ledger/balance", Balance, account=f"wallet:{name}")
                ]
        finally:
            for child in children:
                child.stop(10.0)
    assert sum(owned) == 2 * PAYMENTS
    with database.connect() as connection:
        rows = connection.execute("SELECT position FROM events WHERE zone = 'main' ORDER BY 1").fetchall()
        assert [position for (position,) in rows] == list(range(1, len(rows) + 1))
        count = connection.execute(
            "SELECT count(*) FROM commands WHERE convert_from(request, 'UTF8') LIKE '%ledger/transfer%'"
        ).fetchone()
        assert count == (PAYMENTS + 1,)


async def pay(url: str, key: str) -> None:
    """Payments to and fro, several at once, each of the clients on a connection of its own."""
    async with AsyncFogbook(url, key, patience_s=WITHIN_S) as first:
        for name in ("p0", "p1"):
            await first.send(OpenWallet(f"wallet:{name}"), act_as=name)
            await first.send(MintTokens(f"wallet:{name}", PAYMENTS, "start", name))

    async def payments(number: int) -> None:
        async with AsyncFogbook(url, key, patience_s=WITHIN_S) as book:
            for _ in range(PAYMENTS // 4):
                source, target = f"p{number % 2}", f"p{1 - number % 2}"
                await book.send(Transfer(f"wallet:{source}", f"wallet:{target}", 1), act_as=source)

    await asyncio.gather(*map(payments, range(4)))
