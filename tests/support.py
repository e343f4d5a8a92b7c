"""A zone that tests run by hand: commands go straight to its sequencer, queries over HTTP, time is named."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
import msgspec
from pydantic import SecretStr

from commands._codec import context_of, decision_of, encode_json, streams
from commands._deciding import Command, Outcome
from commands._log import PostgresLog
from commands._sequencer import Sequencer
from domain._kernel import kebab
from domain.platform import CreateZone
from ops.access import create_key
from ops.settings import APP_ROLE, Settings
from ops.web import App
from projections._engine import all_projections
from projections._follower import Follower
from projections._rebuild import rebuild
from projections._schema import tables
from queries.api import QueryService, register_all
from tests.conftest import PEPPER, Database
from tests.digests import digest
from tests.scenario import START

_numbers = itertools.count(1)

ROLES = {"admin": "operator", "olga": "auditor", "worker": "worker"}
"""Everybody else is a participant."""


@dataclass
class Economy:
    database: Database
    zone: str
    sequencer: Sequencer
    http: httpx.AsyncClient
    app: App
    service: QueryService
    now: datetime = START
    keys: dict[tuple[str, str], str] = field(default_factory=dict)

    # Writing

    async def send(
        self, command: Any, by: str = "admin", role: str = "", key: str = "", **more: Any
    ) -> Outcome:
        name = f"{context_of(type(command))}/{kebab(type(command).__name__)}"
        return await self.sequencer.submit(
            Command(
                name=name,
                body=command,
                decide=decision_of(type(command)),
                principal=by,
                by=by,
                role=role or ROLES.get(by, "participant"),
                key=key or f"key-{next(_numbers)}",
                request=encode_json({"command": name, "act_as": by, "body": command}),
                at=self.now,
                **more,
            )
        )

    async def issue(self, command: Any, by: str = "admin", role: str = "", **more: Any) -> Any:
        """Issue a command that is accepted; returns its answer."""
        outcome = await self.send(command, by, role, **more)
        assert outcome.status == 200, outcome.body
        return msgspec.json.decode(outcome.body)

    async def state(self, name: str) -> Any:
        """The exact state of a stream, folded from the log."""
        wanted = {name: streams()[name.partition(":")[0]]}
        log = PostgresLog(self.database.url, APP_ROLE)
        await log.connect()
        try:
            loaded = await log.load(self.zone, wanted, self.sequencer.head.position)
        finally:
            await log.close()
        assert loaded is not None
        return loaded[name].state

    def later(self, **by: float) -> datetime:
        self.now += timedelta(**by)
        return self.now

    # Projections

    def _follow(self) -> None:
        follower = Follower(self.database.connect, self.zone)
        try:
            assert follower.begin()
            while follower.advance():
                pass
            follower.end()
        finally:
            follower.close()

    async def catch_up(self) -> int:
        """Feed all projections; returns the position they reached."""
        await asyncio.to_thread(self._follow)
        return self.sequencer.head.position

    def digests(self) -> dict[str, str]:
        with self.database.connect() as connection:
            return {name: digest(connection, self.zone, p) for name, p in all_projections().items()}

    def rebuild(self) -> None:
        for projection in all_projections().values():
            rebuild(self.database.connect, self.zone, projection)

    def forget(self) -> None:
        """Throw all read models away."""
        with self.database.superuser() as connection:
            connection.execute("TRUNCATE checkpoints")
            for declared in tables():
                connection.execute(f"TRUNCATE {declared.name}")

    def timers(self) -> dict[str, tuple[datetime, str, dict[str, Any]]]:
        with self.database.connect() as connection:
            rows = connection.execute(
                "SELECT timer, due_at, context || '/' || command, body FROM read.timers t"
                " JOIN checkpoints c USING (zone, generation)"
                " WHERE zone = %s AND c.projection = 'timers' AND c.live ORDER BY timer",
                (self.zone,),
            ).fetchall()
        return {timer: (due_at, command, body) for timer, due_at, command, body in rows}

    # Reading

    def key(self, principal: str, role: str = "", zones: tuple[str, ...] = ("*",)) -> str:
        role = role or ROLES.get(principal, "participant")
        if (principal, role) not in self.keys:
            with self.database.connect() as connection:
                made = create_key(connection, PEPPER.encode(), principal=principal, role=role, zones=zones)
            self.keys[principal, role] = made.key
        return self.keys[principal, role]

    async def get(
        self,
        path: str,
        who: str = "olga",
        role: str = "",
        headers: dict[str, str] | None = None,
        **params: Any,
    ) -> httpx.Response:
        sent = {
            "authorization": f"Bearer {self.key(who, role)}",
            "fogbook-zone": self.zone,
            **(headers or {}),
        }
        return await self.http.get(path, headers=sent, params=params)

    async def ask(self, query: str, who: str = "olga", **params: Any) -> Any:
        """The items of a query's first page, without their versions."""
        response = await self.get(f"/queries/{query}", who, **params)
        assert response.status_code == 200, response.text
        items = response.json()["items"]
        for item in items:
            assert item.pop("version") <= response.json()["position"]
            assert item.pop("incomplete") is False
        return items

    async def refused(self, query: str, who: str = "olga", **params: Any) -> tuple[int, str]:
        """Status and name of the problem that a query is answered with."""
        return problem(await self.get(f"/queries/{query}", who, **params))


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    return response.status_code, response.json()["type"].removeprefix("/problems/")


@asynccontextmanager
async def economy(database: Database, zone: str = "main", wait_s: float = 5.0) -> AsyncIterator[Economy]:
    """A zone with a manual clock, and the query API over it."""
    with database.superuser() as connection:
        connection.execute(
            "INSERT INTO heads (zone, clock, recorded_at) VALUES (%s, 'manual', %s)", (zone, START)
        )
    settings = Settings(
        DATABASE_URL=database.url,
        pepper=SecretStr(PEPPER),
        min_position_wait_s=wait_s,
        query_connections=4,
        rate_queries="off",
        rate_queries_principal="off",
    )
    sequencer = Sequencer(zone, PostgresLog(database.url, APP_ROLE))
    assert await sequencer.start()
    app, service = App(title="Fogbook queries", version="test"), QueryService()
    register_all(app, service)
    try:
        async with service.run(settings):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://fogbook") as http:
                made = Economy(database, zone, sequencer, http, app, service)
                await made.issue(CreateZone(zone, "manual"))
                yield made
    finally:
        await sequencer.stop()
