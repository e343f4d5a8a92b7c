"""Where the matrix is played: both sides of Fogbook in this process over a database of their own, and everybody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest

from commands._log import PostgresLog
from ops.app import make_app
from ops.logging import configure_logging
from ops.servers import Servers
from ops.settings import APP_ROLE
from ops.signing import checkpoint_now
from projections._follower import Follower
from tests.acceptance.api import Village, environment, make_zone, village
from tests.acceptance.economy import FUNDS, PEOPLE, Everybody, Person, Town
from tests.conftest import PEPPER, Database
from tests.living import made
from workers.archive import Archive

ZONE = "hostile"
PRINCIPALS = {
    "admin": "operator",
    "olaf": "operator",
    "robot": "worker",
    "olga": "auditor",
    "pru": "provider",
    **dict.fromkeys(PEOPLE, "participant"),
}
SCOPES = {"admin": ("act-as", "act-at")}
RICH = ("pru", "admin")


@dataclass
class Place:
    """A village whose zone is a town, and the runner in whose loop it lives."""

    village: Village
    town: Town
    runner: asyncio.Runner
    document: dict[str, Any]
    keys: dict[str, str]
    bad_keys: dict[str, str]
    """Keys that open nothing here, by why."""
    ids: dict[str, str] = field(default_factory=dict)
    """The ids of commands that rows of the story name."""

    @property
    def http(self) -> httpx.AsyncClient:
        return self.village.http

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def headers(self, who: str, **more: str) -> dict[str, str]:
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return {"authorization": f"Bearer {self.keys[who]}", "fogbook-zone": ZONE} | named

    def catch_up(self) -> None:
        """Feed all projections and the archive, and sign what is in the log."""
        follower = Follower(self.village.database.connect, ZONE)
        try:
            assert follower.begin()
            while follower.advance():
                pass
            follower.end()
        finally:
            follower.close()
        archive = Archive(self.village.database.connect, threading.Event())
        while archive.turn():
            pass
        archive.close()
        with self.village.database.signer() as connection:
            checkpoint_now(connection, PEPPER.encode(), "fogbook.test", ZONE)


@contextmanager
def place(servers: Servers, template: str, name: str) -> Iterator[Place]:
    with (
        made(servers, name, template) as database,
        pytest.MonkeyPatch.context() as patch,
        asyncio.Runner() as runner,
        database.connect() as connection,
    ):
        environment(patch, database, servers.redis_url)
        patch.setenv("FOGBOOK_MIN_POSITION_WAIT_S", "0.05")
        for rate in ("COMMANDS", "COMMANDS_PRINCIPAL", "QUERIES", "QUERIES_PRINCIPAL", "FAILURES"):
            patch.setenv(f"FOGBOOK_RATE_{rate}", "off")  # What is sent here is more than anybody may.
        connection.autocommit = True
        configure_logging("warning")
        app = make_app()
        serving = village(database, lambda: app)
        found = runner.run(serving.__aenter__())
        log = PostgresLog(database.url, APP_ROLE)
        runner.run(log.connect())
        try:
            keys = {who: found.key(who, role, *SCOPES.get(who, ()), zones=("*",)).key
                    for who, role in PRINCIPALS.items()}  # fmt: skip
            town = runner.run(_found(found, keys, log, connection))
            yield Place(found, town, runner, app.openapi(), keys, _bad_keys(found, database))
        finally:
            runner.run(log.close())
            runner.run(serving.__aexit__(None, None, None))


async def _found(
    village: Village, keys: dict[str, str], log: PostgresLog, connection: psycopg.Connection[Any]
) -> Town:
    """A zone with a manual clock in which everybody has something."""
    await asyncio.to_thread(make_zone, village.database, ZONE, "manual")
    http = village.http
    people = Everybody({who: Person(http, key, ZONE, (http,)) for who, key in keys.items()})
    town = Town(village, ZONE, people, log, connection, [])
    await town.funded()
    gifts = [{"to": f"wallet:{who}", "amount": str(FUNDS // 4)} for who in RICH]
    given = {"distribution": "rich", "kind": "start", "pool": "treasury", "allocations": gifts}
    await people.admin.ok("distribute-rewards", given)
    return town


def _bad_keys(village: Village, database: Database) -> dict[str, str]:
    good = village.key("ana", "participant", zones=("*",)).key
    revoked = village.key("ana", "operator", "act-as", zones=("*",)).key
    expired = village.key("ana", "operator", "act-as", zones=("*",)).key
    with database.superuser() as connection:
        for key, column in ((revoked, "revoked_at"), (expired, "expires_at")):
            statement = f"UPDATE api_keys SET {column} = now() - interval '1 hour' WHERE id = %s"
            connection.execute(statement, (key.split("_")[1],))
    id, secret = good.split("_", 2)[1:]
    return {
        "none": "",
        "malformed": "fog",
        "unknown": f"fog_{'0' * len(id)}_{secret}",
        "another secret": f"fog_{id}_{secret[::-1]}",
        "revoked": revoked,
        "expired": expired,
    }
