"""The real write side in the test's own process: real routes, real PostgreSQL, no network in between."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from commands.api import make_app
from ops.access import create_key
from ops.web import App
from tests.conftest import PEPPER, Database, folder_of_the_session

_keys = itertools.count(1)


def environment(monkeypatch: pytest.MonkeyPatch, database: Database, redis_url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", database.url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("FOGBOOK_PEPPER", PEPPER)
    # Tests send as much as they can; whoever tests rates sets them.
    for rate in ("COMMANDS", "COMMANDS_PRINCIPAL", "QUERIES", "QUERIES_PRINCIPAL"):
        monkeypatch.setenv(f"FOGBOOK_RATE_{rate}", "off")
    monkeypatch.setenv("FOGBOOK_SUBJECT_KEYS", folder_of_the_session())


@dataclass
class Caller:
    """Somebody with an API key."""

    http: httpx.AsyncClient
    key: str

    def headers(self, **more: str | None) -> dict[str, str]:
        headers: dict[str, str | None] = {
            "authorization": f"Bearer {self.key}",
            "idempotency-key": f"key-{next(_keys)}",
        }
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        return {name: value for name, value in headers.items() if value is not None}

    async def send(self, path: str, body: Any = None, **headers: str | None) -> httpx.Response:
        """POST a command; `body` is JSON to be, or the raw bytes."""
        content = {"content": body} if isinstance(body, bytes) else {"json": body or {}}
        return await self.http.post(f"/commands/{path}", headers=self.headers(**headers), **content)  # type: ignore[arg-type]

    async def ok(self, path: str, body: Any = None, **headers: str | None) -> Any:
        response = await self.send(path, body, **headers)
        assert response.status_code == 200, response.text
        return response.json()


@dataclass
class Village:
    """A zone with its callers; Ana owns 1000."""

    http: httpx.AsyncClient
    database: Database
    admin: Caller
    ana: Caller
    ben: Caller
    auditor: Caller

    def key(self, principal: str, role: str, *scopes: str, zones: tuple[str, ...] = ("main",)) -> Caller:
        with self.database.connect() as connection:
            made = create_key(
                connection, PEPPER.encode(), principal=principal, role=role, scopes=scopes, zones=zones
            )
        return Caller(self.http, made.key)

    def counts(self) -> tuple[int, int]:
        """How many events and fates the log holds: what bad input must not change."""
        with self.database.connect() as connection:
            row = connection.execute("SELECT position, number FROM heads WHERE zone = 'main'").fetchone()
            assert row is not None
            return row[0], row[1]


def make_zone(database: Database, zone: str = "main", clock: str = "real") -> None:
    from ops.zones import ensure_zone

    ensure_zone(database.url, zone, clock)


@asynccontextmanager
async def village(database: Database, make: Callable[[], App] = make_app) -> AsyncIterator[Village]:
    await asyncio.to_thread(make_zone, database)
    app = make()
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://fogbook") as http:
            nobody = Caller(http, "")
            made = Village(http, database, nobody, nobody, nobody, nobody)
            made.admin = made.key("admin", "operator", "act-as", "act-at", zones=("*",))
            made.ana, made.ben = made.key("ana", "participant"), made.key("ben", "participant")
            made.auditor = made.key("olga", "auditor")
            await made.ana.ok("ledger/open-wallet", {"wallet": "wallet:ana"})
            await made.ben.ok("ledger/open-wallet", {"wallet": "wallet:ben"})
            await made.admin.ok(
                "ledger/mint-tokens",
                {"to": "wallet:ana", "amount": "1000", "reason": "start", "reference": "r"},
            )
            yield made
