"""A town: a zone with a manual clock and people with keys of their own, on two servers over one database.

Time passes only when the operator says so, so deadlines are reached without waiting. Nothing but HTTP changes the
town; what it looks like inside is folded from the stored events, apart from the servers' memory.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest

from commands._codec import decode_json, streams
from commands._log import PostgresLog
from commands._routes import ROUTES
from commands._sequencer import Sequencer
from commands._signatures import public_key, sign, zone_key
from commands._zones import Zones
from commands.api import load_routes, make_app
from domain.settlement.transfers import Packet, statement
from ops.servers import Servers
from ops.settings import APP_ROLE
from ops.zones import MANUAL_START
from tests.acceptance.api import Caller, Village, environment, make_zone, village
from tests.conftest import Database, _renamed

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
NEED = {"service_type": "compute", "region": "north", "tier": "bronze", "units": 1}

load_routes()
PATHS = {name.split("/")[1]: name for name in ROUTES}
"""`transfer` -> `ledger/transfer`"""
assert len(PATHS) == len(ROUTES)
MOST_LINES = 1_000
"""Of a batch of commands."""

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
        """POST a command by its name alone (there are no two of one name); `?dry_run=true` may follow."""
        return await self.send_to(next(self.turns), path, body, **headers)

    async def send_to(
        self, server: int, path: str, body: Any = None, **headers: str | None
    ) -> httpx.Response:
        self.http = self.servers[server % len(self.servers)]
        name, _, query = path.partition("?")
        return await super().send(f"{PATHS.get(name, name)}?{query}".rstrip("?"), body, **headers)


class Everybody(dict[str, Person]):
    """`people.ana` sends as Ana."""

    def __getattr__(self, name: str) -> Person:
        return self[name]


def status_of(rule: str) -> int:
    """The status of a problem of that name: 409 for what a rule refuses, 404 where it is about what there is not."""
    others = {
        "malformed-body": 400,
        "malformed-time": 400,
        "no-main-stream": 400,
        "stale-version": 412,
        "invalid-body": 422,
        "idempotency-key-reused": 422,
    }
    if rule.endswith("-not-allowed"):
        return 403
    return 404 if rule.endswith("-not-found") else others.get(rule, 409)


def problem(response: httpx.Response, rule: str) -> Any:
    """The answer is a problem document that names the rule; returns it."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    body = response.json()
    assert (response.status_code, body["type"]) == (status_of(rule), f"/problems/{rule}"), body
    assert body["status"] == response.status_code
    assert body["title"]
    assert body["detail"]
    return body


def rule_of(response: httpx.Response) -> str:
    """`ok`, or the name of the rule that refused it."""
    if response.status_code == 200:
        return "ok"
    name: str = response.json()["type"].removeprefix("/problems/")
    problem(response, name)
    return name


@dataclass
class Town:
    village: Village
    zone: str
    people: Everybody
    log: PostgresLog
    database: psycopg.Connection[Any]
    sequencing: list[Zones]
    now: datetime = MANUAL_START
    has: set[str] = field(default_factory=set)

    def at(self, **by: float) -> str:
        return (self.now + timedelta(**by)).isoformat()

    async def later(self, **by: float) -> None:
        """Let time pass."""
        self.now += timedelta(**by)
        await self.people.admin.ok("advance-clock", fogbook_at=self.now.isoformat())

    async def restart(self) -> None:
        """Both servers begin anew, with nothing in memory."""
        for zones in self.sequencing:
            await zones.stop()

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
        return (await self.states([name]))[name]

    async def states(self, names: Iterable[str]) -> dict[str, Any]:
        wanted = {name: streams()[name.partition(":")[0]] for name in names}
        loaded = await self.log.load(self.zone, wanted, self.counts()[0])
        assert loaded is not None
        return {name: entry.state for name, entry in loaded.items()}

    async def all_of(self, category: str) -> dict[str, Any]:
        """The states of all streams of a kind, by their ids."""
        rows = self.database.execute(
            "SELECT DISTINCT stream FROM events WHERE zone = %s AND stream LIKE %s",
            (self.zone, f"{category}:%"),
        )
        found = await self.states(row[0] for row in rows)
        return {name.partition(":")[2]: state for name, state in found.items()}

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

    async def refuses(self, who: str, path: str, body: Any, rule: str) -> Any:
        """The command is refused by that rule and changes nothing; only what a rule refused is remembered."""
        events, fates = self.counts()
        found = problem(await self.people[who].send(path, body), rule)
        assert self.counts() == (events, fates + (found["status"] == 409)), (path, body)
        return found

    @contextmanager
    def nothing_changes(self) -> Iterator[None]:
        """Not a single event is appended, so no balance moves."""
        (events, _), before = self.counts(), self.balances()
        yield
        assert self.counts()[0] == events
        assert self.balances() == before

    async def many(self, who: str, lines: list[bytes], dry_run: bool = False) -> list[Any]:
        """The answers to many commands at once; a line is JSON as it goes over the wire."""
        caller = self.people[who]
        headers = caller.headers(idempotency_key=None) | {"content-type": "application/x-ndjson"}
        url = "/commands?dry_run=true" if dry_run else "/commands"
        answers: list[Any] = []
        for start in range(0, len(lines), MOST_LINES):
            content = b"\n".join(lines[start : start + MOST_LINES])
            response = await caller.servers[0].post(url, headers=headers, content=content)
            assert response.status_code == 200, response.text
            answers += map(json.loads, response.content.splitlines())
        assert len(answers) == len(lines)
        return answers

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
        mint = {"reason": "start", "reference": "r"}
        paid = [{"to": f"wallet:{who}", "amount": str(FUNDS)} for who in PEOPLE]
        treasury = str(FUNDS * (1 + len(PEOPLE)))
        steps = (
            ("mint-tokens", {"to": "pool:rewards", "amount": str(FUNDS)} | mint),
            ("mint-tokens", {"to": "treasury", "amount": treasury} | mint),
            (
                "distribute-rewards",
                {"distribution": "s", "kind": "start", "pool": "treasury", "allocations": paid},
            ),
        )
        lines = [
            json.dumps({"context": "ledger", "command": command, "key": f"start-{n}", "body": body}).encode()
            for n, (command, body) in enumerate(steps)
        ]
        assert [answer["status"] for answer in await self.many("admin", lines)] == [200] * len(steps)

    async def with_validators(self) -> None:
        """Val runs `v1`, Wim `v2`, each with a million of his own."""
        stake = {"self_stake": "1000000", "commission": 0, "minimum_self_stake": "1000"}
        await self.all_ok(
            ("val", "register-validator", {"validator": "v1"} | stake),
            ("wim", "register-validator", {"validator": "v2"} | stake),
        )

    async def with_devices(self) -> None:
        """Ben has `d1`, Dee `d2`, Val `w1`, Wim `w2`: all alike, in the north."""
        if "devices" in self.has:
            return
        self.has.add("devices")
        owners = {"d1": "ben", "d2": "dee", "w1": "val", "w2": "wim"}
        for_all = {"type": "laptop", "capabilities": SIZE, "region": "north"}
        await self.all_ok(*((who, "register-device", {"device": d} | for_all) for d, who in owners.items()))

    async def with_harvesters(self) -> None:
        """`d1` and `d2` are enrolled and reported that they may be harvested."""
        await self.with_devices()
        for who, device in (("ben", "d1"), ("dee", "d2")):
            await self.all_ok(
                (who, "enrol-harvester", {"device": device, "capabilities": SIZE}),
                (who, "report-device-state", {"device": device, "seq": 1} | WELL),
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
            ("ben", "register-offering", {"offering": "o1", "device": "d1"} | offer),
            ("dee", "register-offering", {"offering": "o2", "device": "d2"} | offer),
        )

    async def opens(self, contract: str, who: str = "ana", offering: str = "o1", **terms: Any) -> Any:
        """A contract of one unit for two hours, in periods of one hour."""
        return await self.people[who].ok("open-contract", booked(contract, offering, **terms))

    async def starts(self, contract: str, who: str = "ben", offering: str = "o1", **terms: Any) -> None:
        """Ana's contract with Ben, whose service has begun."""
        await self.opens(contract, offering=offering, **terms)
        await self.people[who].ok("start-service", {"contract": contract})


@dataclass
class Towns:
    """Makes towns, each a zone of its own, on the same two servers."""

    village: Village
    servers: tuple[httpx.AsyncClient, ...]
    keys: dict[str, str]
    log: PostgresLog
    connection: psycopg.Connection[Any]
    runner: asyncio.Runner
    sequencing: list[Zones]

    def run(self, scenario: Any) -> None:
        """Play a scenario in a town of its own."""
        self.runner.run(self._play(scenario))

    async def _play(self, scenario: Any) -> None:
        try:
            town = await self.found()
            await scenario(town)
            town.balances()
            for zones in self.sequencing:
                for sequencer in zones.all():
                    await self._remembers_what_is_stored(sequencer)
        finally:
            # Each keeps a connection to the database, of which there are few.
            for zones in self.sequencing:
                await zones.stop()

    async def _remembers_what_is_stored(self, sequencer: Sequencer) -> None:
        """What a server keeps in memory is what is folded from the log, as far as it has seen that."""
        kept = {name: entry for name, entry in sequencer._states.items() if not entry.stream.of_command}
        wanted = {name: entry.stream for name, entry in kept.items()}
        stored = await self.log.load(sequencer.zone, wanted, sequencer.head.position)
        assert stored is not None
        for name, entry in kept.items():
            assert (entry.state, entry.version) == (stored[name].state, stored[name].version), name

    async def found(self) -> Town:
        zone = f"town{next(_numbers)}"
        await asyncio.to_thread(make_zone, self.village.database, zone, "manual")
        people = Everybody(
            {who: Person(self.servers[0], key, zone, self.servers) for who, key in self.keys.items()}
        )
        town = Town(self.village, zone, people, self.log, self.connection, self.sequencing)
        await town.funded()
        return town


# Bodies of commands: what is usual, and what a test says otherwise.

Body = dict[str, Any]

FAR = zone_key(b"far away", "far")
"""The key of a zone that sends packets here."""
FAR_KEY = public_key(FAR)


def kept(t: Town, hold: str = "h1", amount: str = "100", **more: Any) -> Body:
    """Ana sets something aside for Ben, for an hour."""
    return {
        "hold": hold,
        "wallet": "ana",
        "payee": "ben",
        "amount": amount,
        "expires_at": t.at(hours=1),
    } | more


def booked(contract: str = "k1", offering: str = "o1", **more: Any) -> Body:
    """One unit for two hours, 2,000 in all."""
    return {"contract": contract, "offering": offering, "units": 1, "minutes": 120} | ANY | more


def wanted(t: Town, request: str, **more: Any) -> Body:
    """One unit of compute in the north for an hour."""
    return {"request": request, "expires_at": t.at(hours=2), "minutes": 60} | NEED | more


def burst(id: str, units: int = 1, **more: Any) -> Body:
    return {"burst": id, "requirements": [NEED | {"units": units}], "budget": "1000000", "minutes": 60} | more


def owed(debtor: str, creditor: str, amount: str = "100", source: str = "s1", **more: Any) -> Body:
    return {"debtor": debtor, "creditor": creditor, "amount": amount, "source": source} | more


def packet(t: Town, sequence: int = 1, amount: int = 50, **more: Any) -> Packet:
    """What the zone `far` sends here."""
    parts: Body = {"source": "far", "target": t.zone, "asset": "FOG", "scale": 6}
    parts |= {"sender": "wallet:fay", "recipient": "wallet:ana", "timeout": t.now + timedelta(days=1)}
    return Packet(**(parts | {"sequence": sequence, "amount": amount} | more))


def delivered(told: Packet, signed: Packet | None = None) -> Body:
    """The body for a packet, with its source's signature (of another one, for a forgery)."""
    body = {name: getattr(told, name) for name in Packet.__slots__}
    body |= {"amount": str(told.amount), "timeout": told.timeout.isoformat(), "settled": list(told.settled)}
    return {"packet": body, "proof": sign(FAR, statement("packet", signed or told).encode())}


def played(scenario: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test from a scenario, which is played in a town of its own; its first parameter is the town."""

    def test(towns: Towns, **more: Any) -> None:
        towns.run(functools.partial(scenario, **more))

    _, *others = inspect.signature(scenario).parameters.values()
    first = inspect.Parameter("towns", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    test.__signature__ = inspect.Signature([first, *others])  # type: ignore[attr-defined]
    test.__name__, test.__doc__, test.__module__ = scenario.__name__, scenario.__doc__, scenario.__module__
    return test


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
def towns_of(servers: Servers, template: str, name: str) -> Iterator[Towns]:
    """One database and two servers for all towns of a test module: making them anew takes longer than a test."""
    with psycopg.connect(servers.superuser_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    database = Database(name, _renamed(servers.database_url, name), _renamed(servers.superuser_url, name))
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        environment(patch, database, servers.redis_url)
        sequencing: list[Zones] = []

        def zones(*args: Any, **more: Any) -> Zones:
            sequencing.append(Zones(*args, **more))
            return sequencing[-1]

        patch.setattr("commands.api.Zones", zones)
        serving = _two_servers(database)
        made, clients = runner.run(_entered(serving))
        keys = {}
        for who in (*PEOPLE, *ROLES):
            scopes = ("act-as", "act-at") if who == "admin" else ()
            keys[who] = made.key(who, ROLES.get(who, "participant"), *scopes, zones=("*",)).key
        log = PostgresLog(database.url, APP_ROLE)
        runner.run(log.connect())
        with database.connect() as connection:
            connection.autocommit = True
            yield Towns(made, clients, keys, log, connection, runner, sequencing)
        runner.run(log.close())
        runner.run(_left(serving))


async def _entered(context: Any) -> Any:
    return await context.__aenter__()


async def _left(context: Any) -> None:
    await context.__aexit__(None, None, None)
