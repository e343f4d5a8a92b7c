"""kill -9 of API and workers while two zones, of a real and a manual clock, send each other tokens.

At the end every token is in exactly one place, and each transfer has one outcome, the same in both zones.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg

from commands._codec import decode_json
from commands._signatures import public_key, zone_key
from ops.home import PEPPER_FILE
from ops.pool import connect
from ops.zones import MANUAL_START, ensure_zone
from projections._engine import all_projections
from projections._rebuild import rebuild
from tests.digests import digest
from tests.integration.test_killed import RETRY
from tests.running import Running, kill_at_random, running, until

PEERS = {"main": "village", "village": "main"}
RECEIVED = ("TransferReceived", "TransferFailed", "TransferRefused")
ENDS = {*RECEIVED, "home"}
POINTS = 6
PEOPLE = 4
FUNDS = 1_000_000
WITHIN_S = 180


@dataclass
class Exchange:
    """People of both zones who send what they have to each other, some of it to nobody and some too late."""

    up: Running
    http: httpx.AsyncClient
    seed: int
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    village_time: datetime = MANUAL_START
    accepted: Counter[str] = field(default_factory=Counter)
    """Transfers by the zone that took them."""
    unanswered: int = 0

    async def send(self, zone: str, key: str, path: str, body: Any, by: str = "", at: str = "") -> int:
        """Send until there is an answer."""
        headers = self.up.headers(by, zone) | {"idempotency-key": key}
        if at:
            headers["fogbook-at"] = at
        while True:
            try:
                url = f"{self.up.url}/commands/{path}"
                response = await self.http.post(url, headers=headers, json=body)
            except RETRY:
                self.unanswered += 1
                await asyncio.sleep(0.02)
                continue
            if response.status_code == 503:
                await asyncio.sleep(0.02)
                continue
            assert response.status_code in (200, 409), response.text
            return response.status_code

    async def found(self) -> None:
        pepper = (self.up.home / PEPPER_FILE).read_text().strip().encode()
        for zone, peer in PEERS.items():
            key = public_key(zone_key(pepper, peer))
            assert (
                await self.send(zone, "peer", "settlement/register-peer", {"zone": peer, "key": key}) == 200
            )
            for n in range(PEOPLE):
                who = f"{zone[0]}{n}"
                opened = await self.send(zone, f"open-{who}", "ledger/open-wallet", {"wallet": who}, who)
                mint = {"to": f"wallet:{who}", "amount": str(FUNDS), "reason": "start", "reference": "r"}
                assert (opened, await self.send(zone, f"mint-{who}", "ledger/mint-tokens", mint)) == (
                    200,
                    200,
                )

    async def warm_up(self, database: psycopg.Connection[Any]) -> None:
        """One transfer each way, so that each zone knows something of the other's time."""
        for zone, peer in PEERS.items():
            late = datetime.now(UTC) + timedelta(days=1)
            body = {
                "target_zone": peer,
                "recipient": f"{peer[0]}0",
                "amount": "1",
                "timeout": late.isoformat(),
            }
            status = await self.send(zone, "first", "settlement/initiate-transfer", body, f"{zone[0]}0")
            self.accepted[zone] += status == 200
        await self.settle(database, timedelta())

    async def person(self, zone: str, number: int) -> None:
        """Sends the zone's own token out and the other's vouchers home, to somebody or to nobody."""
        peer, who, sent = PEERS[zone], f"{zone[0]}{number}", 0
        chance = random.Random(f"{self.seed}-{who}")
        while not self.stop.is_set():
            sent += 1
            now = datetime.now(UTC) if peer == "main" else self.village_time
            soon = timedelta(seconds=1) if peer == "main" else timedelta(minutes=10)
            patience = chance.choice((soon * chance.random(), timedelta(days=400), timedelta(days=400)))
            asset = chance.choice(("FOG", f"{peer}/FOG"))
            body = {
                "target_zone": peer,
                "recipient": chance.choice(("nobody", "nobody", *(f"{peer[0]}{n}" for n in range(PEOPLE)))),
                "asset": asset,
                "amount": str(chance.randrange(100, 500) if asset == "FOG" else chance.randrange(1, 50)),
                "timeout": (now + patience).isoformat(),
                "memo": f"number {sent}",
            }
            status = await self.send(zone, f"{who}-{sent}", "settlement/initiate-transfer", body, who)
            self.accepted[zone] += status == 200
            await asyncio.sleep(chance.uniform(0.01, 0.15))

    async def chat(self) -> None:
        """Commands without a pause, so that a killed API always cuts one off."""
        number = 0
        while not self.stop.is_set():
            number += 1
            small = {"from": "wallet:m0", "to": "wallet:m1", "amount": "1"}
            await self.send("main", f"chat-{number}", "ledger/transfer", small, "m0")

    async def clock(self) -> None:
        """The village's time passes at its own pace."""
        number = 0
        while not self.stop.is_set():
            number += 1
            await self.advance(f"tick-{number}", timedelta(minutes=5))
            await asyncio.sleep(0.3)

    async def advance(self, key: str, span: timedelta) -> None:
        to = self.village_time + span
        assert await self.send("village", key, "platform/advance-clock", {}, at=to.isoformat()) == 200
        self.village_time = to

    async def seen_it_all(self, database: psycopg.Connection[Any]) -> None:
        """Wait until every way in which a transfer may end has come up, both ways."""
        for _ in range(2 * WITHIN_S):
            if all(endings(events_of(database, zone)).keys() >= ENDS for zone in PEERS):
                return
            await asyncio.sleep(0.5)
        raise AssertionError("not everything happens")

    async def settle(self, database: psycopg.Connection[Any], pace: timedelta) -> None:
        """Wait until nothing is in flight; time has to pass in the village for further attempts."""
        for turn in range(2 * WITHIN_S):
            if not any(in_flight(events_of(database, zone)) for zone in PEERS):
                return
            await self.advance(f"settling-{pace.seconds}-{turn}", pace)
            await asyncio.sleep(0.5)
        raise AssertionError("transfers stay in flight")


async def play(up: Running, seed: int, points: int) -> tuple[Exchange, Counter[str]]:
    async with httpx.AsyncClient(timeout=20) as http:
        exchange = Exchange(up, http, seed)
        await exchange.found()
        with connect(up.database_url, "test") as database:
            await exchange.warm_up(database)
        people = [exchange.person(zone, n) for zone in PEERS for n in range(PEOPLE)]
        others = (exchange.clock(), exchange.chat())
        tasks = [asyncio.create_task(each) for each in (*people, *others)]
        chance = random.Random(seed)
        times = {"api": points // 3, "worker": points - points // 3}
        killed = await kill_at_random(up, times, lambda: asyncio.sleep(chance.uniform(0.2, 1.8)))
        with connect(up.database_url, "test") as database:
            await exchange.seen_it_all(database)
        exchange.stop.set()
        await asyncio.gather(*tasks)
        with connect(up.database_url, "test") as database:
            await exchange.settle(database, timedelta(hours=1))
    return exchange, killed


# What the logs say


def events_of(database: psycopg.Connection[Any], zone: str) -> list[tuple[str, str, Any]]:
    rows = database.execute(
        "SELECT stream, type, data FROM events WHERE zone = %s ORDER BY position", (zone,)
    )
    return [(stream, kind, decode_json(data)) for stream, kind, data in rows]


def in_flight(events: list[tuple[str, str, Any]]) -> int:
    kinds = Counter(kind for _, kind, _ in events)
    return kinds["TransferInitiated"] - kinds["TransferAcknowledged"] - kinds["TransferRefunded"]


def outcomes(
    events: list[tuple[str, str, Any]], kinds: tuple[str, ...], stream: str
) -> Iterator[tuple[int, str]]:
    """Sequence and outcome of what ended in streams of this category."""
    for name, kind, data in events:
        if kind in kinds and name.startswith(f"{stream}:"):
            yield int(name.rpartition(":")[2]), data.get("outcome", kind)


def check_outcomes(source: list[tuple[str, str, Any]], target: list[tuple[str, str, Any]]) -> Counter[str]:
    """Each transfer was decided once and settled once, and both zones say the same."""
    decided = list(outcomes(target, RECEIVED, "reception"))
    settled = list(outcomes(source, ("TransferAcknowledged", "TransferRefunded"), "packet"))
    sent = [data["packet"]["sequence"] for _, kind, data in source if kind == "TransferInitiated"]
    assert sent == list(range(1, len(sent) + 1))
    assert sorted(number for number, _ in decided) == sorted(number for number, _ in settled) == sent
    same = {
        "TransferAcknowledged": "TransferReceived",
        "failed": "TransferFailed",
        "refused": "TransferRefused",
    }
    assert {number: same[outcome] for number, outcome in settled} == dict(decided)
    return endings(target)


def endings(target: list[tuple[str, str, Any]]) -> Counter[str]:
    """How transfers to a zone ended there, and how many of them brought its own token home."""
    found = Counter(outcome for _, outcome in outcomes(target, RECEIVED, "reception"))
    found["home"] = sum(k == "TransferReceived" and "/" in data["packet"]["asset"] for _, k, data in target)
    return +found


def balances(events: list[tuple[str, str, Any]]) -> Counter[tuple[str, str]]:
    """What each account holds, by account and asset."""
    held: Counter[tuple[str, str]] = Counter()
    for stream, kind, data in events:
        if kind in ("Debited", "Credited"):
            held[stream, data["asset"]] += int(data["amount"]) * (1 if kind == "Credited" else -1)
    return held


def check_tokens(held: dict[str, Counter[tuple[str, str]]]) -> None:
    """Every token is in a wallet of its zone, or in escrow and, as a voucher, in a wallet of the other."""
    for zone, peer in PEERS.items():
        here = sum(
            n for (account, asset), n in held[zone].items() if (account[:7], asset) == ("wallet:", "FOG")
        )
        voucher = f"{zone}/FOG"
        there = sum(
            n for (account, asset), n in held[peer].items() if (account[:7], asset) == ("wallet:", voucher)
        )
        escrow = held[zone][f"bridge:{peer}", "FOG"]
        assert escrow == there == -held[peer]["world", voucher] > 0
        assert here + escrow == PEOPLE * FUNDS == -held[zone]["world", "FOG"]
        assert all(n >= 0 for (account, _), n in held[zone].items() if account != "world")


def check_tables(up: Running, database: psycopg.Connection[Any], zone: str, held: Any) -> None:
    """The read models say what the log says, whether they were followed or rebuilt."""
    rows = database.execute(
        "SELECT asset, escrowed + vouchers, in_flight, transfers_in_flight FROM read.settlement_bridges"
        " JOIN checkpoints c USING (zone, generation) WHERE zone = %s AND c.live AND c.projection = 'transfers'",
        (zone,),
    ).fetchall()
    peer = PEERS[zone]
    expected = {"FOG": held[f"bridge:{peer}", "FOG"], f"{peer}/FOG": -held["world", f"{peer}/FOG"]}
    assert {asset: int(amount) for asset, amount, *_ in rows} == expected
    assert all(not moving and not number for _, _, moving, number in rows)
    left = database.execute(
        "SELECT timer FROM read.timers JOIN checkpoints c USING (zone, generation) WHERE zone = %s AND c.live"
        " AND c.projection = 'timers' AND timer NOT LIKE 'reception:%%'",
        (zone,),
    ).fetchall()
    assert left == [], "no packet is left to be sent"
    for name, projection in all_projections().items():
        live = digest(database, zone, projection)
        rebuild(lambda: connect(up.database_url, "test", bounded=False), zone, projection)
        assert digest(database, zone, projection) == live, name


def follow_to_the_end(database: psycopg.Connection[Any]) -> Any:
    behind = "SELECT 1 FROM checkpoints JOIN heads USING (zone) WHERE live AND checkpoints.position < heads.position"
    return until(lambda: not database.execute(behind).fetchall())


def check(up: Running, exchange: Exchange) -> dict[str, Counter[str]]:
    with connect(up.database_url, "test") as database:
        asyncio.run(follow_to_the_end(database))
        events = {zone: events_of(database, zone) for zone in PEERS}
        ended = {zone: check_outcomes(events[zone], events[peer]) for zone, peer in PEERS.items()}
        for zone in PEERS:
            sent = sum(kind == "TransferInitiated" for _, kind, _ in events[zone])
            assert sent == exchange.accepted[zone], "what was accepted was sent, once"
        held = {zone: balances(events[zone]) for zone in PEERS}
        check_tokens(held)
        for zone in PEERS:
            check_tables(up, database, zone, held[zone])
    return ended


def report(exchange: Exchange, killed: Counter[str], ended: dict[str, Counter[str]]) -> None:
    """A quiet run proves nothing, so it fails."""
    print(f"seed {exchange.seed}: {killed} killed, {exchange.unanswered} unanswered, {ended}")
    assert killed["api"] and killed["worker"]
    assert exchange.unanswered > 0, "no command was ever cut off"
    for zone in PEERS:
        assert ended[zone].keys() >= ENDS, f"transfers from {zone} did not end in every way"


def run_exchange(home: Path, seed: int, points: int) -> tuple[Exchange, Counter[str]]:
    with running(home) as up:
        ensure_zone(up.database_url, "village", "manual")
        exchange, killed = asyncio.run(play(up, seed, points))
        ended = check(up, exchange)
    report(exchange, killed, ended)
    return exchange, killed


def test_whatever_is_killed_every_token_is_in_one_place(tmp_path: Path) -> None:
    run_exchange(tmp_path / "fog home", 3, POINTS)
