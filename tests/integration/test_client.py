"""The client library against both sides of a real server: typed, safe to retry, and never behind what it wrote."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from commands._signatures import public_key, sign
from domain.ledger import MintTokens, OpenWallet, Transfer
from domain.principals import RegisterSigningKey, key_statement
from ops.access import create_key
from ops.app import make_app
from ops.client import (
    Accepted,
    AsyncFogbook,
    Fogbook,
    Forbidden,
    Invalid,
    NotFound,
    Refused,
    Signer,
    Stale,
    Unauthenticated,
    Unavailable,
)
from ops.client._protocol import NotProven
from ops.signing import checkpoint_now
from ops.zones import ensure_zone
from projections._follower import Follower
from queries.ledger import Balance, StatementLine
from tests.acceptance.api import environment
from tests.conftest import PEPPER, Database
from tests.running import served

PATIENCE_S = 20.0
ORIGIN = "fogbook.test"


@contextmanager
def following(database: Database) -> Iterator[None]:
    """What a worker does, until the block ends."""
    ending = threading.Event()

    def follow() -> None:
        follower = Follower(database.connect, "main")
        assert follower.begin()
        while not ending.is_set():
            if not follower.advance():
                time.sleep(0.005)
        follower.end()
        follower.close()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


class Place:
    def __init__(self, url: str, database: Database) -> None:
        self.url = url
        self.database = database

    def key(self, principal: str, role: str = "participant", *scopes: str) -> str:
        with self.database.connect() as connection:
            pepper = PEPPER.encode()
            return create_key(connection, pepper, principal=principal, role=role, scopes=scopes).key

    def client(self, principal: str, role: str = "participant", **more: Any) -> Fogbook:
        return Fogbook(self.url, self.key(principal, role), patience_s=PATIENCE_S, **more)


@pytest.fixture
def place(database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Ana owns 1000, Ben has a wallet."""
    environment(monkeypatch, database, redis_url)
    assert ensure_zone(database.url, "main")
    with following(database), served(make_app()) as url:
        place = Place(url, database)
        with place.client("ana") as ana, place.client("ben") as ben, place.client("odo", "operator") as odo:
            ana.send(OpenWallet("wallet:ana"))
            ben.send(OpenWallet("wallet:ben"))
            odo.send(MintTokens("wallet:ana", 1000, "start", "g1"))
        yield place


def paid(amount: int = 5) -> Transfer:
    return Transfer("wallet:ana", "wallet:ben", amount)


def test_a_client_reads_what_it_wrote(place: Place) -> None:
    with place.client("ana") as ana:
        for left in range(999, 979, -1):
            done = ana.send(paid(1))
            assert [event.type for event in done.events] == ["Debited", "Credited"]
            (balance,) = ana.items("ledger/balance", Balance, account="wallet:ana")
            assert (balance.available, balance.asset) == (left, "FOG")
            assert ana.seen >= done.position


def test_pages_are_read_on_and_on(place: Place) -> None:
    with place.client("ana") as ana:
        for _ in range(7):
            ana.send(paid(1))
        lines = [*ana.items("ledger/statement", StatementLine, limit=3, account="wallet:ana")]
        assert len(lines) == 8
        first = ana.page("ledger/statement", StatementLine, limit=3, account="wallet:ana")
        assert lines[:3] == first.items
        assert first.next is not None


def test_the_same_key_has_the_same_answer_and_the_same_effect(place: Place) -> None:
    with place.client("ana") as ana:
        first, second = ana.send(paid(), key="once"), ana.send(paid(), key="once")
        assert (first.again, second.again) == (False, True)
        assert replace(second, again=False) == first
        with pytest.raises(Invalid) as refused:
            ana.send(paid(6), key="once")
        assert refused.value.status == 422


def test_problems_are_exceptions_that_say_what_to_act_on(place: Place) -> None:
    with place.client("ana") as ana, place.client("odo", "operator") as odo:
        with pytest.raises(Refused) as refused:
            ana.send(paid(10_000))
        assert refused.value.rule == "insufficient-funds"
        assert refused.value.position == refused.value.problem["position"]
        with pytest.raises(Forbidden):
            ana.send(MintTokens("wallet:ana", 5, "more", "g2"))
        with pytest.raises(NotFound):
            next(ana.items("ledger/balance", Balance, account="wallet:ben"))
        with pytest.raises(Invalid):
            ana.send(Transfer("wallet:ana", "wallet:ben", 0))
        with pytest.raises(Stale):
            ana.send(OpenWallet("wallet:ana"), if_match=99)
        assert odo.send(MintTokens("wallet:ben", 1, "s", "g3"), dry_run=True).events
    with Fogbook(place.url, "fog_0123456789ab_wrong") as nobody, pytest.raises(Unauthenticated):
        nobody.send(paid())


@pytest.mark.parametrize(
    ("query", "row", "parameters"),
    [
        ("ledger/nothing", Balance, {}),
        ("ledger/balance", StatementLine, {}),
        ("ledger/balance", Balance, {"wallet": "x"}),
    ],
)
def test_what_no_query_gives_is_refused_before_it_is_asked(
    query: str, row: type, parameters: dict[str, str]
) -> None:
    with Fogbook("http://127.0.0.1:1", "key") as client, pytest.raises(TypeError):
        client.page(query, row, **parameters)


def test_many_are_sent_at_once_and_each_is_told(place: Place) -> None:
    with place.client("ana") as ana:
        outcomes = ana.send_many([paid(1), paid(10_000), paid(2)])
        assert [type(outcome) for outcome in outcomes] == [Accepted, Refused, Accepted]
        again = ana.send_many([paid(1), paid(3)], keys=["a", "b"])
        assert ana.send_many([paid(1), paid(3)], keys=["a", "b"]) == again
        (balance,) = ana.items("ledger/balance", Balance, account="wallet:ana")
        assert balance.available == 1000 - 1 - 2 - 1 - 3


class Cutting(httpx.BaseTransport):
    """A network that takes every second request to the server and loses its answer."""

    def __init__(self) -> None:
        self.inner = httpx.HTTPTransport()
        self.lost = 0
        self._requests = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self.inner.handle_request(request)
        self._requests += 1
        if self._requests % 2:
            response.read()
            self.lost += 1
            raise httpx.ReadError("the answer was lost")
        return response

    def close(self) -> None:
        self.inner.close()


def test_answers_that_are_lost_cost_nothing_twice(place: Place) -> None:
    cutting = Cutting()
    with place.client("ana", transport=cutting) as ana:
        assert [ana.send(paid(1)).again for _ in range(5)] == [True] * 5
        (balance,) = ana.items("ledger/balance", Balance, account="wallet:ana")
        assert balance.available == 995
    assert cutting.lost >= 6


def test_nobody_there_is_said_after_the_clients_patience() -> None:
    with Fogbook("http://127.0.0.1:1", "key", patience_s=0.3) as client, pytest.raises(Unavailable) as error:
        client.send(paid())
    assert error.value.rule == "unreachable"


def test_a_busy_server_is_asked_again_when_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["idempotency-key"])
        if len(asked) < 3:
            return httpx.Response(503, json={"type": "/problems/overloaded"}, headers={"retry-after": "0"})
        body = {"command_id": "c1", "zone": "main", "position": 2, "events": []}
        return httpx.Response(200, json=body)

    with Fogbook("http://fogbook", "key", transport=httpx.MockTransport(answer)) as client:
        assert client.send(paid()).position == 2
    assert len(asked) == 3
    assert len(set(asked)) == 1


def test_the_log_is_followed_and_resumed_where_it_broke(place: Place) -> None:
    with place.client("olga", "auditor") as olga, place.client("ana") as ana:
        whole = [*olga.events(limit=2)]
        assert [event.position for event in whole] == [*range(1, len(whole) + 1)]
        with closing(olga.follow(after=len(whole))) as live:
            for expected in range(3):
                done = ana.send(paid(expected + 1))
                events = [next(live), next(live)]
                assert [event.position for event in events] == [event.position for event in done.events]
                assert events[0].domain.amount == expected + 1
                _cut(olga)


def _cut(client: Fogbook) -> None:
    """All its connections break."""
    for connection in client._http._transport._pool.connections:  # type: ignore[attr-defined]
        stream = connection._connection._network_stream
        stream.close()


def test_a_receipt_is_checked_under_the_keys_that_are_trusted(place: Place) -> None:
    with place.client("ana") as ana:
        done = ana.send(paid())
        with place.database.signer() as connection:
            checkpoint_now(connection, PEPPER.encode(), ORIGIN, "main")
        with place.client("olga", "auditor") as olga:
            keys = olga._http.get("/history/keys", headers=olga.terms.headers()).json()["keys"]
        trusting = place.client("ana", trust=[key["vkey"] for key in keys])
        assert trusting.prove(done)["command_id"] == done.command_id
        with pytest.raises(NotProven):
            trusting.prove(replace(done, position=done.position + 1))
        with pytest.raises(NotProven):
            ana.prove(done)
        trusting.close()


def test_a_signer_needs_no_key_of_his_own(place: Place) -> None:
    private = Ed25519PrivateKey.generate()
    public = public_key(private)
    with place.client("ana") as ana:
        proof = sign(private, key_statement("main", "ana", public))
        ana.send(RegisterSigningKey(public, proof))
    with place.client("relay", signer=Signer("ana", private)) as relay:
        done = relay.send(paid())
        assert [event.type for event in done.events] == ["CommandSigned", "Debited", "Credited"]
        assert relay.send(paid()).position == done.position + 3


def test_the_async_client_is_the_same(place: Place) -> None:
    async def scenario() -> None:
        async with (
            AsyncFogbook(place.url, place.key("ana")) as ana,
            AsyncFogbook(place.url, place.key("olga", "auditor")) as olga,
        ):
            done = await asyncio.gather(*(ana.send(paid(1)) for _ in range(20)))
            (balance,) = [item async for item in ana.items("ledger/balance", Balance, account="wallet:ana")]
            assert balance.available == 980
            last = max(each.position for each in done)
            positions = [event.position async for event in olga.events()]
            assert positions[-1] == last
            following = olga.follow(after=last)
            more = await ana.send(paid(7))
            assert (await anext(following)).position == more.events[0].position
            await following.aclose()  # type: ignore[attr-defined]
            outcomes = await ana.send_many([paid(1), paid(10_000)])
            assert [type(outcome) for outcome in outcomes] == [Accepted, Refused]
            with pytest.raises(Refused):
                await ana.send(paid(10_000))

    asyncio.run(scenario())
