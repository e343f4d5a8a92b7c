"""A town: a zone with a manual clock and people with keys of their own, on two servers over one database.

Time passes only when the operator says so, so deadlines are reached without waiting. Nothing but HTTP changes the
town; what it looks like inside is folded from the stored events, apart from the servers' memory.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest

from commands._codec import decode_json, streams
from commands._log import PostgresLog
from commands.api import make_app
from ops.settings import APP_ROLE
from ops.zones import MANUAL_START
from tests.acceptance.api import Caller, Village, environment, make_zone, village
from tests.conftest import Database

FUNDS = 10**9
"""What everybody owns, and what is in the rewards pool and in the treasury."""
ROLES = {"admin": "operator", "robot": "worker", "olga": "auditor"}
"""Everybody else is a participant: Ana and Cy buy, Ben and Dee provide, Val and Wim validate."""
PEOPLE = ("ana", "cy", "ben", "dee", "val", "wim")
WELL = {
    "charging": True,
    "battery_percent": 90,
    "temperature_c": 30,
    "network": "ethernet",
    "screen_on": False,
    "cpu_percent": 5,
    "ram_percent": 10,
    "idle_seconds": 3_600,
}
"""What a device reports that may be harvested."""
SIZE = {"cpu_millicores": 4_000, "memory_mb": 8_000, "storage_mb": 50_000, "bandwidth_kbps": 50_000, "gpu": 1}
ANY = {"any_price": True}

_numbers = itertools.count(1)


@dataclass
class Person(Caller):
    """Somebody with an API key, in one zone; his requests go to the servers in turn."""

    zone: str = "main"
    servers: tuple[httpx.AsyncClient, ...] = ()
    turns: Iterator[int] = field(default_factory=itertools.count)

    def headers(self, **more: str | None) -> dict[str, str]:
        return super().headers(**({"fogbook_zone": self.zone} | more))

    async def send(self, path: str, body: Any = None, **headers: str | None) -> httpx.Response:
        self.http = self.servers[next(self.turns) % len(self.servers)]
        return await super().send(path, body, **headers)


class Everybody(dict[str, Person]):
    """`people.ana` sends as Ana."""

    def __getattr__(self, name: str) -> Person:
        return self[name]


def problem(response: httpx.Response, rule: str, status: int = 409) -> Any:
    """The answer is a problem document that names the rule; returns it."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    body = response.json()
    assert (response.status_code, body["type"]) == (status, f"/problems/{rule}"), body
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


def rule_of(response: httpx.Response) -> str:
    """`ok`, or the name of the rule that refused it."""
    if response.status_code == 200:
        return "ok"
    name: str = response.json()["type"].removeprefix("/problems/")
    problem(response, name, response.status_code)
    return name


@dataclass
class Town:
    village: Village
    zone: str
    people: Everybody
    log: PostgresLog
    database: psycopg.Connection[Any]
    now: datetime = MANUAL_START

    def at(self, **by: float) -> str:
        return (self.now + timedelta(**by)).isoformat()

    async def later(self, **by: float) -> None:
        """Let time pass."""
        self.now += timedelta(**by)
        await self.people.admin.ok("platform/advance-clock", fogbook_at=self.now.isoformat())

    # Looking in

    def counts(self) -> tuple[int, int]:
        """How many events and fates the log holds."""
        row = self.database.execute(
            "SELECT position, number FROM heads WHERE zone = %s", (self.zone,)
        ).fetchone()
        assert row is not None
        return row[0], row[1]

    def balances(self) -> dict[tuple[str, str], int]:
        """What is posted to each account by asset, from the postings alone. All of it adds up to zero."""
        found: defaultdict[tuple[str, str], int] = defaultdict(int)
        rows = self.database.execute(
            "SELECT stream, type, data FROM events WHERE zone = %s AND type IN ('Debited', 'Credited')",
            (self.zone,),
        )
        for stream, kind, data in rows:
            posting = decode_json(data)
            assert int(posting["amount"]) > 0
            sign = 1 if kind == "Credited" else -1
            found[stream, posting["asset"]] += sign * int(posting["amount"])
        sums: defaultdict[str, int] = defaultdict(int)
        for (account, asset), amount in found.items():
            assert amount >= 0 or account == "world", (account, asset, amount)
            sums[asset] += amount
        assert not any(sums.values()), sums
        return {key: amount for key, amount in found.items() if amount}

    def balance(self, account: str, asset: str = "FOG") -> int:
        return self.balances().get((account, asset), 0)

    async def state(self, name: str) -> Any:
        """The exact state of a stream, folded from the stored events."""
        stream = streams()[name.partition(":")[0]]
        loaded = await self.log.load(self.zone, {name: stream}, self.counts()[0])
        assert loaded is not None
        return loaded[name].state

    async def held(self, who: str) -> int:
        held: int = (await self.state(f"wallet:{who}")).held.get("FOG", 0)
        return held

    async def escrow_adds_up(self, contract: str) -> Any:
        """deposited = paid + fees + penalties + refunded + remaining, which is what the account holds."""
        found = await self.state(f"contract:{contract}")
        gone = found.paid + found.fees + found.penalties + found.refunded
        assert 0 <= found.remaining == found.deposited - gone
        assert self.balance(f"escrow:{contract}") == found.remaining
        return found

    # What must not work

    async def refuses(self, who: str, path: str, body: Any, rule: str, status: int = 409) -> Any:
        """The command is refused by that rule and changes nothing; only a 409 is remembered."""
        events, fates = self.counts()
        found = problem(await self.people[who].send(path, body), rule, status)
        assert self.counts() == (events, fates + (status == 409)), (path, body)
        return found

    @contextmanager
    def nothing_changes(self) -> Iterator[None]:
        """Not a single event is appended, so no balance moves."""
        (events, _), before = self.counts(), self.balances()
        yield
        assert self.counts()[0] == events
        assert self.balances() == before

    # What is there to begin with. Commands of different people join one batch.

    async def all_ok(self, *sent: tuple[str, str, Any]) -> None:
        """(who, path, body): each person's commands in order, different people's at once."""
        of: defaultdict[str, list[tuple[str, Any]]] = defaultdict(list)
        for who, path, body in sent:
            of[who].append((path, body))

        async def one(who: str) -> None:
            for path, body in of[who]:
                await self.people[who].ok(path, body)

        await asyncio.gather(*map(one, of))

    async def funded(self) -> None:
        """Everybody has a wallet with something in it, and so have the rewards pool and the treasury."""
        await self.all_ok(*((who, "ledger/open-wallet", {"wallet": who}) for who in PEOPLE))
        targets = [f"wallet:{who}" for who in PEOPLE] + ["pool:rewards", "treasury"]
        mint = {"amount": str(FUNDS), "reason": "start", "reference": "r"}
        await asyncio.gather(
            *(self.people.admin.ok("ledger/mint-tokens", {"to": to} | mint) for to in targets)
        )

    async def with_validators(self) -> None:
        """Val runs `v1`, Wim `v2`, each with a million of his own."""
        stake = {"self_stake": "1000000", "commission": 0, "minimum_self_stake": "1000"}
        await self.all_ok(
            ("val", "staking/register-validator", {"validator": "v1"} | stake),
            ("wim", "staking/register-validator", {"validator": "v2"} | stake),
        )

    async def with_devices(self) -> None:
        """Ben has `d1`, Dee `d2`, Val `w1`, Wim `w2`: all alike, in the north."""
        owners = {"d1": "ben", "d2": "dee", "w1": "val", "w2": "wim"}
        for_all = {"type": "laptop", "capabilities": SIZE, "region": "north"}
        await self.all_ok(
            *((who, "devices/register-device", {"device": d} | for_all) for d, who in owners.items())
        )

    async def with_harvesters(self) -> None:
        """`d1` and `d2` are enrolled and reported that they may be harvested."""
        await self.with_devices()
        for who, device in (("ben", "d1"), ("dee", "d2")):
            await self.all_ok(
                (who, "harvest/enrol-harvester", {"device": device, "capabilities": SIZE}),
                (who, "harvest/report-device-state", {"device": device, "seq": 1} | WELL),
            )

    async def with_offerings(self, pricing: str = "reserved", capacity: int = 2) -> None:
        """Ben offers `o1` (bronze) and Dee `o2` (bronze), some units of 1,000 an hour each."""
        await self.with_devices()
        offer = {
            "service_type": "compute",
            "tier": "bronze",
            "cpu_millicores": 1_000,
            "memory_mb": 1_000,
            "gpu": 0,
            "capacity": capacity,
            "base_price": "1000",
            "pricing": pricing,
        }
        await self.all_ok(
            ("ben", "marketplace/register-offering", {"offering": "o1", "device": "d1"} | offer),
            ("dee", "marketplace/register-offering", {"offering": "o2", "device": "d2"} | offer),
        )

    async def opens(self, contract: str, who: str = "ana", offering: str = "o1", **terms: Any) -> Any:
        """A contract of one unit for two hours, in periods of one hour."""
        body = {"contract": contract, "offering": offering, "units": 1, "minutes": 120} | ANY | terms
        return await self.people[who].ok("marketplace/open-contract", body)

    async def starts(self, contract: str, who: str = "ben", offering: str = "o1", **terms: Any) -> None:
        """Ana's contract with Ben, whose service has begun."""
        await self.opens(contract, offering=offering, **terms)
        await self.people[who].ok("marketplace/start-service", {"contract": contract})


@dataclass
class Towns:
    """Makes towns, each a zone of its own, on the same two servers."""

    village: Village
    servers: tuple[httpx.AsyncClient, ...]
    keys: dict[str, str]
    log: PostgresLog
    connection: psycopg.Connection[Any]
    runner: asyncio.Runner

    def run(self, scenario: Any) -> None:
        """Play a scenario in a town of its own."""
        self.runner.run(self._play(scenario))

    async def _play(self, scenario: Any) -> None:
        town = await self.found()
        await scenario(town)
        town.balances()

    async def found(self) -> Town:
        zone = f"town{next(_numbers)}"
        await asyncio.to_thread(make_zone, self.village.database, zone, "manual")
        people = Everybody(
            {who: Person(self.servers[0], key, zone, self.servers) for who, key in self.keys.items()}
        )
        town = Town(self.village, zone, people, self.log, self.connection)
        await town.funded()
        return town


@asynccontextmanager
async def _two_servers(database: Database) -> AsyncIterator[tuple[Village, tuple[httpx.AsyncClient, ...]]]:
    """Two write sides of one database: each sequences all zones, and finds what the other appended."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(village(database))
        app = make_app()
        await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app)
        second = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://fogbook")
        )
        yield first, (first.http, second)


@contextmanager
def towns_of(database: Database, redis_url: str) -> Iterator[Towns]:
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        environment(patch, database, redis_url)
        servers = _two_servers(database)
        made, clients = runner.run(_entered(servers))
        keys = {}
        for who in (*PEOPLE, *ROLES):
            scopes = ("act-as", "act-at") if who == "admin" else ()
            keys[who] = made.key(who, ROLES.get(who, "participant"), *scopes, zones=("*",)).key
        log = PostgresLog(database.url, APP_ROLE)
        runner.run(log.connect())
        with database.connect() as connection:
            connection.autocommit = True
            yield Towns(made, clients, keys, log, connection, runner)
        runner.run(log.close())
        runner.run(servers.__aexit__(None, None, None))


async def _entered(context: Any) -> Any:
    return await context.__aenter__()


Sent = Coroutine[Any, Any, httpx.Response]


async def race(*sent: Sent) -> list[str]:
    """All at once; what became of each: `ok`, or the rule that refused it."""
    return [rule_of(response) for response in await asyncio.gather(*sent)]
