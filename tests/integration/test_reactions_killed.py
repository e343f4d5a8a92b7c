"""kill -9 of API and workers while reactions are under way: each effect happens, and happens once."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from commands._codec import decode_json
from ops.pool import connect
from tests.integration.test_killed import RETRY, follow_to_the_end
from tests.running import Running, kill_at_random, running

POINTS = 6
SESSIONS = 4
ATTESTING = ("vito", "vlad")
SIZE = {"cpu_millicores": 4_000, "memory_mb": 8_000}
WELL = {
    "charging": True,
    "battery_percent": 90,
    "temperature_c": 30,
    "network": "wifi",
    "screen_on": False,
    "cpu_percent": 5,
    "ram_percent": 10,
    "idle_seconds": 3_600,
}


@dataclass
class Village:
    """Owners of devices, two validators who attest what they did, and an operator who slashes and nets."""

    up: Running
    http: httpx.AsyncClient
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    sent: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0

    async def send(self, key: str, path: str, body: Any, by: str = "") -> int:
        """Send until there is an answer."""
        while True:
            try:
                response = await self.http.post(
                    f"{self.up.url}/commands/{path}",
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
            assert response.status_code in (200, 404, 409), response.text
            self.sent[f"{path} {response.status_code}"] += 1
            return response.status_code

    async def ok(self, path: str, body: Any, by: str = "") -> None:
        await self.up.ok(self.http, path, body, by)

    async def found(self) -> None:
        for name in ("vera", *ATTESTING, *(f"w{i}" for i in range(SESSIONS))):
            await self.ok("ledger/open-wallet", {"wallet": name}, name)
            mint = {"to": f"wallet:{name}", "amount": "1000000", "reason": "start", "reference": "r"}
            await self.ok("ledger/mint-tokens", mint)
        for name in ("vera", *ATTESTING):
            await self.ok(
                "staking/register-validator", {"validator": f"v-{name}", "self_stake": "500000"}, name
            )
        for i in range(SESSIONS):
            device = {"device": f"d{i}", "type": "laptop", "region": "north", "capabilities": SIZE}
            await self.ok("devices/register-device", device, f"w{i}")
            await self.ok("harvest/enrol-harvester", {"device": f"d{i}", "capabilities": SIZE}, f"w{i}")
            await self.ok("harvest/report-device-state", {"device": f"d{i}", "seq": 1, **WELL}, f"w{i}")
            await self.ok("harvest/start-harvest-session", {"session": f"s{i}", "device": f"d{i}"}, f"w{i}")

    async def harvest(self, i: int) -> None:
        """Contributions, each attested by both validators."""
        seq = 0
        while not self.stop.is_set():
            seq += 1
            work = {"session": f"s{i}", "seq": seq, "cpu_ms": 3_000}
            await asyncio.sleep(0.8)  # A device gives its capability times the time since.
            if await self.send(f"work-{i}-{seq}", "harvest/record-contribution", work, f"w{i}") == 200:
                attested = [{"validator": f"v-{name}", "confirms": True} for name in ATTESTING]
                said = {"session": f"s{i}", "seq": seq, "attestations": attested}
                await self.send(f"valid-{i}-{seq}", "harvest/validate-contribution", said)

    async def operate(self) -> None:
        """Windows with obligations in a ring are closed, and validators are slashed."""
        number = 0
        while not self.stop.is_set():
            number += 1
            await self.send(f"open-{number}", "settlement/open-window", {"window": f"n{number}"})
            for i in range(SESSIONS):
                due = {
                    "debtor": f"w{i}",
                    "creditor": f"w{(i + 1) % SESSIONS}",
                    "amount": str(10 + i),
                    "source": f"ring{number}.{i}",
                }
                await self.send(f"due-{number}-{i}", "settlement/record-obligation", due)
            await self.send(f"close-{number}", "settlement/close-window", {"window": f"n{number}"})
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 2))
            slash = {
                "validator": "v-vera",
                "kind": "downtime",
                "infraction_at": now,
                "evidence_id": f"e{number}",
            }
            await self.send(f"slash-{number}", "staking/slash", slash)
            await self.send(f"unjail-{number}", "staking/unjail", {"validator": "v-vera"}, "vera")
            await asyncio.sleep(0.5)

    async def chat(self) -> None:
        """Commands without a pause, so that a killed API always cuts one off."""
        number = 0
        while not self.stop.is_set():
            number += 1
            small = {"from": "wallet:vito", "to": "wallet:vlad", "amount": "1"}
            await self.send(f"chat-{number}", "ledger/transfer", small, "vito")

    async def fund(self) -> None:
        """The reward pool is empty at first, so that the first rewards are refused and tried again."""
        await asyncio.sleep(3)
        mint = {"to": "pool:rewards", "amount": "900000000", "reason": "budget", "reference": "late"}
        await self.send("fund", "ledger/mint-tokens", mint)


async def live(up: Running, seed: int, points: int) -> tuple[Village, Counter[str]]:
    chance = random.Random(seed)
    async with httpx.AsyncClient(timeout=20) as http:
        village = Village(up, http)
        await village.found()
        people = [village.harvest(i) for i in range(SESSIONS)]
        others = (village.operate(), village.fund(), village.chat())
        tasks = [asyncio.create_task(each) for each in (*people, *others)]
        times = {"api": points // 3, "worker": points - points // 3}
        killed = await kill_at_random(up, times, lambda: asyncio.sleep(chance.uniform(0.2, 1.0)))
        village.stop.set()
        await asyncio.gather(*tasks)
    return village, killed


def settled(up: Running) -> None:
    """Wait until no reaction is left; a refused one waits for its next attempt."""
    open_ones = (
        "SELECT count(*) FROM read.timers t JOIN checkpoints c USING (zone, generation)"
        " WHERE zone = 'main' AND c.projection = 'timers' AND c.live AND due_at <= now()"
    )
    with connect(up.database_url, "test") as connection:
        follow_to_the_end(connection)
        for _ in range(1_500):
            row = connection.execute(open_ones).fetchone()
            assert row is not None
            if row[0] == 0:
                return
            time.sleep(0.04)
    raise AssertionError("reactions are left over")


def check(up: Running, village: Village) -> None:
    """Count effects in the log itself."""
    with connect(up.database_url, "test") as connection:
        rows = connection.execute(
            "SELECT stream, type, data FROM events WHERE zone = 'main' ORDER BY position"
        ).fetchall()
    happened: Counter[str] = Counter()
    once: Counter[tuple[str, str]] = Counter()
    earned: Counter[str] = Counter()
    paid: Counter[str] = Counter()
    for stream, kind, data in rows:
        event = decode_json(data)
        happened[kind] += 1
        once[kind, stream] += 1
        if kind == "RewardPaid":
            earned[f"wallet:{event['owner']}"] += int(event["amount"])
        if kind == "Credited" and event["purpose"] == "harvest-reward":
            paid[stream] += int(event["amount"])
    for kind in ("RewardPaid", "WindowSettled", "EvidenceCounted", "ObligationRecorded", "WindowClosed"):
        assert happened[kind] > 0, kind
        assert all(number == 1 for (k, _), number in once.items() if k == kind), kind
    assert happened["RewardPaid"] == happened["ContributionValidated"]
    assert happened["EvidenceCounted"] >= happened["Slashed"] + happened["RewardPaid"]
    assert (
        happened["WindowSettled"] == happened["WindowClosed"] == village.sent["settlement/close-window 200"]
    )
    assert paid == earned
    assert all(earned.values())


def test_reactions_have_their_effect_once_whatever_is_killed(tmp_path: Path) -> None:
    with running(tmp_path / "fog home") as up:
        village, killed = asyncio.run(live(up, 5, POINTS))
        settled(up)
        check(up, village)
    assert all(killed.values())
    assert village.unanswered > 0, "no command was ever cut off"
