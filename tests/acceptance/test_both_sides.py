"""Commands and queries on one port, as `fogbook up` serves them, while servers come and go."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from ops.app import make_app
from projections._follower import Follower
from tests.acceptance.api import Village, environment, village
from tests.conftest import Database

PAY = {"from": "wallet:ana", "to": "wallet:ben", "amount": "5"}


def follow(database: Database) -> None:
    """What a worker does."""
    follower = Follower(database.connect, "main")
    assert follower.begin()
    while follower.advance():
        pass
    follower.end()
    follower.close()


async def ask(v: Village, query: str, caller: Any = None) -> httpx.Response:
    return await v.http.get(f"/queries/{query}", headers=(caller or v.ana).headers())


def test_a_command_is_read_back_at_its_position(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(monkeypatch, database, redis_url)

    async def scenario() -> None:
        async with village(database, make_app) as v:
            paid = await v.ana.ok("ledger/transfer", PAY)
            waiting = asyncio.create_task(ask(v, f"ledger/balance?min_position={paid['position']}"))
            await asyncio.to_thread(follow, database)
            answer = (await waiting).json()
            assert answer["position"] >= paid["position"]
            assert [item["available"] for item in answer["items"]] == ["995"]

    asyncio.run(scenario())


def test_a_position_in_the_future_is_waited_for_and_then_a_problem(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(monkeypatch, database, redis_url)
    monkeypatch.setenv("FOGBOOK_MIN_POSITION_WAIT_S", "0.1")

    async def scenario() -> None:
        async with village(database, make_app) as v:
            await asyncio.to_thread(follow, database)
            response = await ask(v, "ledger/balance?min_position=1000000")
            assert response.status_code == 504
            assert response.json()["type"] == "/problems/position-not-reached"

    asyncio.run(scenario())


def test_with_postgres_gone_every_side_says_503_and_recovers(
    database: Database, redis_url: str, servers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(monkeypatch, database, redis_url)
    monkeypatch.setattr("commands._sequencer.DEADLINE_S", 0.3)

    async def scenario() -> None:
        async with village(database, make_app) as v:
            await asyncio.to_thread(follow, database)
            assert (await ask(v, "ledger/balance")).status_code == 200
            servers.kill("postgres")
            try:
                line = b'{"context":"ledger","command":"transfer","key":"k","body":{}}\n'
                headers = v.ana.headers() | {"content-type": "application/x-ndjson"}
                responses = {
                    "query": await ask(v, "ledger/balance"),
                    "command": await v.ana.send("ledger/transfer", PAY),
                    "history": await v.http.get("/history/events", headers=v.auditor.headers()),
                    "ready": await v.http.get("/readyz"),
                    "batch": await v.http.post("/commands", headers=headers, content=line),
                }
            finally:
                servers.start("postgres")
            for name, response in responses.items():
                if name != "batch" or response.status_code != 200:
                    assert response.status_code == 503, (name, response.text)
                    assert response.headers["retry-after"]
                    assert response.headers["content-type"] == "application/problem+json"
            assert (await v.http.get("/healthz")).status_code == 200
            for _ in range(1_000):
                if (await ask(v, "ledger/balance")).status_code == 200:
                    break
                await asyncio.sleep(0.05)
            assert (await ask(v, "ledger/balance")).status_code == 200

    asyncio.run(scenario())


def test_one_document_describes_both_sides(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(monkeypatch, database, redis_url)

    async def scenario() -> None:
        async with village(database, make_app) as v:
            paths = (await v.http.get("/openapi.json")).json()["paths"]
            for path in (
                "/commands/staking/delegate",
                "/queries/staking/positions",
                "/history/events",
                "/commands",
            ):
                assert path in paths
            for path, methods in paths.items():
                for method, operation in methods.items():
                    assert {"500", "503"} <= set(operation["responses"]), (method, path)

    asyncio.run(scenario())
