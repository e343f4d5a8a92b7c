"""The client library against both sides of a real server: typed, safe to retry, and never behind what it wrote."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

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
    NotProven,
    Raw,
    Refused,
    Signer,
    Stale,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from ops.signing import checkpoint_now
from ops.zones import ensure_zone
from projections._follower import Follower
from queries._query import QUERIES
from queries.api import load_queries
from queries.ledger import Balance, StatementLine
from tests.acceptance.api import environment
from tests.conftest import PEPPER, Database
from tests.faults.proxy import Much, Proxy, Trap, Way
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

    def balance(self, principal: str) -> int:
        with self.client(principal) as reader:
            return reader.page("ledger/balance", Balance, account=f"wallet:{principal}").items[0].available

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
        assert refused.value.position == ana.seen
        assert refused.value.problem.type == "/problems/insufficient-funds"
        assert refused.value.facts["needed"] == "10000"
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
    query: str, row: type, parameters: dict[str, Any]
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


@contextmanager
def cut_between(url: str) -> Iterator[tuple[str, Proxy]]:
    """The address of a proxy before a server, and the proxy, which cuts what it is told to."""
    port = url.rpartition(":")[2]
    proxy = Proxy("client", lambda: ("127.0.0.1", int(port)))
    try:
        yield f"http://127.0.0.1:{proxy.port}", proxy
    finally:
        proxy.close()


def lose_an_answer(proxy: Proxy, forward: Much = Much.NOTHING) -> Trap:
    """The next answer is cut: the server has done what was asked, and nobody hears of it."""
    return proxy.lay(Trap(Way.BACK, lambda _, data: True, lambda: None, forward))


@pytest.mark.parametrize("forward", [Much.NOTHING, Much.HALF])
def test_answers_that_are_lost_cost_nothing_twice(place: Place, forward: Much) -> None:
    with cut_between(place.url) as (url, proxy), Fogbook(url, place.key("ana")) as ana:
        for _ in range(3):
            trap = lose_an_answer(proxy, forward)
            assert ana.send(paid(1)).again
            assert trap.sprung.is_set()
        lose_an_answer(proxy, forward)
        (balance,) = ana.items("ledger/balance", Balance, account="wallet:ana")
        assert balance.available == 997
        lose_an_answer(proxy, forward)
        assert [type(each) for each in ana.send_many([paid(1), paid(2)])] == [Accepted, Accepted]
        assert place.balance("ana") == 994


def test_nobody_there_is_said_after_the_clients_patience() -> None:
    with Fogbook("http://127.0.0.1:1", "key", patience_s=0.3) as client, pytest.raises(Unavailable) as error:
        client.send(paid())
    assert error.value.rule == "unreachable"
    assert error.value.status == 0


def test_a_server_that_keeps_silent_is_given_up_after_the_timeout(place: Place) -> None:
    with cut_between(place.url) as (url, proxy):
        proxy.silence()
        with Fogbook(url, place.key("ana"), timeout_s=0.2, patience_s=0) as ana:
            with pytest.raises(Unavailable) as error:
                ana.send(paid(), key="once")
            assert error.value.rule == "unreachable"
        proxy.heal()
        with Fogbook(url, place.key("ana")) as ana:
            assert ana.send(paid(), key="once").position


def answered(handle: Callable[[httpx.Request], httpx.Response], **more: Any) -> Fogbook:
    """A client of a server that answers as it is told."""
    return Fogbook("http://fogbook/base/", "key", transport=httpx.MockTransport(handle), **more)


def keys_of(request: httpx.Request) -> list[str]:
    return [json.loads(line)["key"] for line in request.content.splitlines()]


def line(status: int, body: bytes) -> bytes:
    return b'{"key":"","status":%d,"body":%b}\n' % (status, body)


ACCEPTED = b'{"command_id":"c1","zone":"main","position":2,"events":[]}'
BUSY = b'{"type":"/problems/overloaded","status":503,"detail":"Too much."}'


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    asked: list[tuple[float, str]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append((time.monotonic(), request.headers["idempotency-key"]))
        if len(asked) < 2:
            return httpx.Response(503, headers={"retry-after": "1"}, content=BUSY)
        return httpx.Response(200, content=ACCEPTED)

    with answered(handle) as client:
        assert client.send(paid()).position == 2
    (first, one), (second, other) = asked
    assert second - first >= 1
    assert one == other


def test_a_server_that_says_later_than_patience_lasts_is_given_up_at_once() -> None:
    asked = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        problem = {"type": "/problems/too-many", "facts": {"limit": "5"}}
        return httpx.Response(429, headers={"retry-after": "3600"}, json=problem)

    with answered(handle) as client, pytest.raises(TooMany) as error:
        client.send(paid())
    assert error.value.retry_after_s == 3600
    assert error.value.facts == {"limit": "5"}
    assert asked == ["http://fogbook/base/commands/ledger/transfer"]


def test_lines_that_were_too_much_go_again_and_nothing_else_does() -> None:
    sent: list[list[str]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(keys_of(request))
        if len(sent) > 1:
            return httpx.Response(200, content=line(200, ACCEPTED) * len(sent[-1]))
        return httpx.Response(200, content=line(200, ACCEPTED) + line(503, BUSY) + line(200, ACCEPTED))

    with answered(handle) as client:
        outcomes = client.send_many([paid(), paid(), paid()], keys=["a", "b", "c"])
    assert [type(each) for each in outcomes] == [Accepted] * 3
    assert sent == [["a", "b", "c"], ["b"]]


def test_what_was_decided_is_told_even_where_the_rest_was_too_much_for_too_long() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        lines = [line(200, ACCEPTED) if key == "a" else line(503, BUSY) for key in keys_of(request)]
        return httpx.Response(200, content=b"".join(lines))

    with answered(handle, patience_s=0.2) as client:
        outcomes = client.send_many([paid(), paid()], keys=["a", "b"])
    assert [type(each) for each in outcomes] == [Accepted, Unavailable]


def test_a_batch_is_split_where_the_server_takes_no_more() -> None:
    sizes = []

    def handle(request: httpx.Request) -> httpx.Response:
        sizes.append(len(keys_of(request)))
        assert request.headers["fogbook-act-as"] == "ana"
        return httpx.Response(200, content=line(200, ACCEPTED) * sizes[-1])

    with answered(handle, act_as="ana") as client:
        assert len(client.send_many([paid()] * 5, at_once=2)) == 5
        large = Raw("ledger/transfer", {"memo": "x" * 3_000_000})
        assert len(client.send_many([large, large])) == 2
    assert sizes == [2, 2, 1, 1, 1]


@pytest.mark.parametrize(
    "more",
    [{"correlation": "a\r\nx: y"}, {"key": "a\nb"}, {"act_as": "\u4e2d"}, {"act_as": "a\rb"}, {"key": " a"}],
)
def test_a_header_is_never_more_than_its_value(more: dict[str, Any]) -> None:
    with Fogbook("http://127.0.0.1:1", "key") as client, pytest.raises(ValueError, match="line"):
        client.send(paid(), **more)


@pytest.mark.parametrize(
    ("url", "key"), [("ftp://x", "k"), ("127.0.0.1:8420", "k"), ("http://x", "k\r\n"), ("http://a:b@x", "k")]
)
def test_what_is_no_address_and_no_key_is_said_before_anything_is_sent(url: str, key: str) -> None:
    with pytest.raises(ValueError, match=r"address|line"):
        Fogbook(url, key)


def test_an_answer_without_an_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.client._io.MOST_ANSWER_BYTES", 10_000)
    given = []

    def endless() -> Iterator[bytes]:
        while True:
            given.append(1)
            yield b"x" * 1_000

    with (
        answered(lambda _: httpx.Response(200, content=endless()), patience_s=0) as client,
        pytest.raises(Unavailable, match="larger"),
    ):
        client.get("/history/keys")
    assert len(given) == 11


LIVE = b'id: 7\ndata: {"position":7,"stream":"wallet:ana","version":1,"type":"Debited","data":{}}\n\n'


class Watched(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A feed that knows whether somebody still listens."""

    closed = False

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield from (LIVE[:40], LIVE[40:])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


def test_who_stops_to_follow_ends_the_connection() -> None:
    feed, other = Watched(), Watched()

    async def leave() -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=other))
        async with AsyncFogbook("http://fogbook", "key", transport=transport) as client:
            async with aclosing(client.follow()) as live:
                assert (await anext(live)).position == 7
                assert not other.closed
            assert other.closed

    with answered(lambda _: httpx.Response(200, stream=feed)) as client:
        with closing(client.follow()) as live:
            assert next(live).position == 7
            assert not feed.closed
        assert feed.closed
    asyncio.run(leave())


def test_a_feed_that_is_no_feed_is_not_followed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.client._operations.MOST_LINE_BYTES", 100)
    with (
        answered(lambda _: httpx.Response(200, content=LIVE + b"x" * 101)) as client,
        pytest.raises(Unavailable, match="larger"),
    ):
        [*client.follow()]


def test_a_kept_connection_that_ended_is_replaced(place: Place) -> None:
    with cut_between(place.url) as (url, proxy), Fogbook(url, place.key("ana"), patience_s=0) as ana:
        for cut in (proxy.drop, proxy.reset):
            assert not ana.send(paid(1)).again
            cut()
        assert not ana.send(paid(1)).again


def own_certificate(folder: Path) -> Path:
    """Of 127.0.0.1, signed by itself."""
    key, name = generate_private_key(SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    host = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    certificate = builder.add_extension(host, critical=True).sign(key, SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "own.pem"
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return path


@asynccontextmanager
async def accepting(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """The port of a server that accepts whatever comes, and what came."""
    heads = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + ACCEPTED)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    yield server.sockets[0].getsockname()[1], heads
    server.close()


def test_a_server_is_verified_as_the_client_was_told(tmp_path: Path) -> None:
    certificate = own_certificate(tmp_path)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)

    async def scenario() -> None:
        async with accepting(serving) as (port, _):
            url = f"https://127.0.0.1:{port}"
            async with AsyncFogbook(url, "key", patience_s=0) as client:
                with pytest.raises(Unavailable, match="certificate"):
                    await client.send(paid())
            trusting = ssl.create_default_context(cafile=certificate)
            async with AsyncFogbook(url, "key", tls=trusting) as client:
                assert (await client.send(paid())).position == 2

    asyncio.run(scenario())


def test_the_environments_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> list[bytes]:
        async with accepting() as (port, heads):
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
            async with AsyncFogbook("http://fogbook.invalid", "key", patience_s=0) as client:
                await client.send(paid())
        return heads

    (head,) = asyncio.run(scenario())
    assert head.startswith(b"POST http://fogbook.invalid/commands/ledger/transfer HTTP/1.1\r\n")


def test_every_query_has_rows_that_the_client_can_make() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b'{"position":5,"items":[],"next":null,"quarantined":0}')

    load_queries()
    with answered(handle) as client:
        for path, query in QUERIES.items():
            assert [*client.items(path.removeprefix("/queries/"), query.row)] == []
        assert client.seen == 5


def test_the_log_is_followed_and_resumed_where_it_broke(place: Place) -> None:
    key = place.key("olga", "auditor")
    with cut_between(place.url) as (url, proxy), Fogbook(url, key) as olga, place.client("ana") as ana:
        whole = [*olga.events(limit=2)]
        assert [event.position for event in whole] == [*range(1, len(whole) + 1)]
        with closing(olga.follow(after=len(whole))) as live:
            for number, cut in enumerate((proxy.reset, proxy.drop, proxy.reset), 1):
                done = ana.send(paid(number))
                events = [next(live), next(live)]
                assert [event.position for event in events] == [event.position for event in done.events]
                assert events[0].domain.amount == number
                assert olga.seen == done.position
                cut()
            lose_an_answer(proxy, Much.HALF)
            done = ana.send(paid(4))
            assert [next(live).position, next(live).position] == [each.position for each in done.events]


def test_a_follower_is_told_when_nobody_comes_back(place: Place) -> None:
    key = place.key("olga", "auditor")
    with cut_between(place.url) as (url, proxy), Fogbook(url, key, patience_s=0.2) as olga:
        live = olga.follow()
        assert next(live).position == 1
        proxy.refuse()
        with pytest.raises(Unavailable):
            for _ in live:
                pass
    with place.client("ana") as ana, pytest.raises(Forbidden):
        next(ana.follow())


def test_what_changed_between_two_moments_is_told_page_by_page() -> None:
    asked = []
    row: dict[str, Any] = {"account": "wallet:ana", "asset": "FOG", "version": 3, "incomplete": False}
    row |= {"posted": "5", "held": "0", "available": "5"}

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        key = {"account": "wallet:ana", "asset": "FOG"}
        items = [
            {"key": key, "was": None, "is": row} if len(asked) == 1 else {"key": key, "was": row, "is": None}
        ]
        found = {"position": 9, "items": items, "next": "x" if len(asked) == 1 else None, "quarantined": 0}
        return httpx.Response(200, json=found)

    with answered(handle) as client:
        first, second = client.differences("ledger/balance", Balance, was=3, now=9, account="wallet:ana")
    assert (first.was, second.now) == (None, None)
    assert first.now == second.was
    assert isinstance(first.now, Balance)
    assert [("after=x" in path, "diff=3" in path, "as_of=9" in path) for path in asked] == [
        (False, True, True),
        (True, True, True),
    ]


def test_rows_may_come_as_they_are(place: Place) -> None:
    with place.client("ana") as ana:
        ana.send(paid(1))
        (row,) = ana.items("ledger/balance", dict, account="wallet:ana")
        assert row["available"] == "999"
        assert [each["asset"] for each in ana.items("ledger/balance", dict[str, Any])] == ["FOG"]


def test_other_paths_are_asked_by_their_names(place: Place) -> None:
    with place.client("olga", "auditor") as olga:
        assert olga.get("/history/streams/wallet:ana/state")["kind"] == "Account"
        with pytest.raises(NotFound):
            olga.get("/history/commands/c99999")


def test_a_receipt_is_checked_under_the_keys_that_are_trusted(place: Place) -> None:
    with place.client("ana") as ana:
        done = ana.send(paid())
        with place.database.signer() as connection:
            checkpoint_now(connection, PEPPER.encode(), ORIGIN, "main")
        with place.client("olga", "auditor") as olga:
            keys = olga.get("/history/keys")["keys"]
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
        memo = Transfer("wallet:ana", "wallet:ben", 5, memo="for bread")
        assert relay.send(memo).position == done.position + 6
        outcomes = relay.send_many([paid(), memo, paid()])
        assert [type(outcome) for outcome in outcomes] == [Accepted] * 3
        with pytest.raises(TypeError):
            relay.send(Raw("ledger/transfer", {}))


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
            await following.aclose()
            outcomes = await ana.send_many([paid(1), paid(10_000)])
            assert [type(outcome) for outcome in outcomes] == [Accepted, Refused]
            with pytest.raises(Refused):
                await ana.send(paid(10_000))

    asyncio.run(scenario())
