"""kill -9 of API and workers under load: nothing acknowledged is lost, nothing counts twice."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg

from ops.pool import connect
from projections._engine import all_projections
from projections._rebuild import rebuild
from tests.digests import digest
from tests.running import Running, kill_at_random, running, until

POINTS = 10
CLIENTS = 12
WALLETS = 8
ACKS_BETWEEN = 40
RETRY = (httpx.TransportError, httpx.TimeoutException)


@dataclass
class Load:
    """Clients that send transfers and remember, outside the system, what was acknowledged."""

    up: Running
    seed: int
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    acknowledged: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    unanswered: int = 0
    repeated: int = 0

    async def client(self, http: httpx.AsyncClient, number: int) -> None:
        seeded = random.Random(self.seed * 1000 + number)
        sent = 0
        while not self.stop.is_set():
            sent += 1
            source, target = seeded.sample(range(WALLETS), 2)
            body = {
                "from": f"wallet:w{source}",
                "to": f"wallet:w{target}",
                "amount": str(seeded.randrange(1, 400)),
            }
            await self.once(http, f"{number}-{sent}", f"w{source}", body)

    async def once(self, http: httpx.AsyncClient, key: str, by: str, body: Any) -> None:
        """Send until there is an answer: a caller that got none sends the same again."""
        while True:
            try:
                response = await http.post(
                    f"{self.up.url}/commands/ledger/transfer",
                    headers=self.up.headers(by) | {"idempotency-key": key},
                    json=body,
                )
            except RETRY:
                self.unanswered += 1
                await asyncio.sleep(0.02)
                continue
            if response.status_code == 503:
                await asyncio.sleep(0.02)
                continue
            assert response.status_code in (200, 409), response.text
            self.repeated += response.headers.get("idempotency-hit") == "true"
            self.acknowledged[key] = response.status_code, response.content
            return


async def play(up: Running, seed: int, points: int) -> tuple[Load, Counter[str]]:
    load = Load(up, seed)
    async with httpx.AsyncClient(timeout=20) as http:
        for number in range(WALLETS):
            await up.ok(http, "ledger/open-wallet", {"wallet": f"wallet:w{number}"}, by=f"w{number}")
            mint = {"to": f"wallet:w{number}", "amount": "2000", "reason": "start", "reference": "r"}
            await up.ok(http, "ledger/mint-tokens", mint)
        clients = [asyncio.create_task(load.client(http, number)) for number in range(CLIENTS)]
        seeded = random.Random(seed)

        async def pause() -> None:
            before = len(load.acknowledged)
            await asyncio.sleep(seeded.uniform(0.02, 0.3))
            await until(lambda: len(load.acknowledged) >= before + ACKS_BETWEEN)

        killed = await kill_at_random(up, {"api": points // 2, "worker": points // 2}, pause)
        load.stop.set()
        await asyncio.gather(*clients)
    return load, killed


def fates(connection: psycopg.Connection[Any]) -> dict[str, tuple[int, bytes]]:
    rows = connection.execute("SELECT key, status, answer FROM commands WHERE zone = 'main'").fetchall()
    return {key: (status, answer) for key, status, answer in rows}


def balances(acknowledged: dict[str, tuple[int, bytes]]) -> dict[str, int]:
    """A plain model: what the acknowledged transfers leave in each wallet."""
    held = {f"wallet:w{number}": 2000 for number in range(WALLETS)}
    for status, answer in acknowledged.values():
        if status == 200:
            for event in json.loads(answer)["events"]:
                sign = 1 if event["type"] == "Credited" else -1
                held[event["stream"]] += sign * int(event["data"]["amount"])
    return held


def check(up: Running, load: Load) -> None:
    """Hold the log and the read models against what was acknowledged."""
    with connect(up.database_url, "test") as connection:
        stored = fates(connection)
        lost = [key for key, fate in load.acknowledged.items() if stored.get(key) != fate]
        assert lost == []
        row = connection.execute(
            "SELECT count(*), max(position), count(DISTINCT (stream, version)) FROM events WHERE zone = 'main'"
        ).fetchone()
        assert row is not None
        assert row[0] == row[1] == row[2], "positions without a gap, versions without a repetition"
        follow_to_the_end(connection)
        live = {name: digest(connection, "main", p) for name, p in all_projections().items()}
        rows = connection.execute(
            "SELECT account, posted FROM read.ledger_balances b JOIN checkpoints c USING (zone, generation)"
            " WHERE zone = 'main' AND c.live AND c.projection = 'ledger' AND account LIKE 'wallet:w%'"
        ).fetchall()
        assert {account: int(posted) for account, posted in rows} == balances(load.acknowledged)
        for name, projection in all_projections().items():
            rebuild(lambda: connect(up.database_url, "test", bounded=False), "main", projection)
            assert digest(connection, "main", projection) == live[name], name


def report(load: Load, killed: Counter[str]) -> None:
    """A quiet run proves nothing, so it fails."""
    print(
        f"seed {load.seed}: {len(load.acknowledged)} acknowledged, {killed} killed, {load.unanswered} unanswered,"
        f" {load.repeated} answered again, 0 lost, 0 applied twice"
    )
    assert all(killed.values())
    assert load.unanswered > 0, "no command was ever cut off"


def test_kill_9_of_api_and_workers_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "fog home") as up:
        load, killed = asyncio.run(play(up, 11, POINTS))
        check(up, load)
    report(load, killed)


def follow_to_the_end(connection: psycopg.Connection[Any]) -> None:
    """Let the workers finish; they are the ones under test."""
    for _ in range(3_000):
        behind = connection.execute(
            "SELECT 1 FROM checkpoints JOIN heads USING (zone) WHERE zone = 'main' AND live"
            " AND checkpoints.position < heads.position"
        ).fetchall()
        if not behind:
            return
        time.sleep(0.02)
    raise AssertionError("the workers do not catch up")
