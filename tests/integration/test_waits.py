"""Links that go silent: whatever waits for the database ends at its deadline, and the next one works with the link."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from commands import _log
from commands._deciding import Outcome
from commands._log import LogUnavailable, PostgresLog
from commands._sequencer import Sequencer
from commands._zones import Zones
from domain.ledger import MintTokens, OpenWallet, accounts, mint_tokens, open_wallet
from ops import waits
from ops.pool import NoConnection, Pool, connect
from ops.settings import APP_ROLE
from ops.waits import DatabaseSilent
from ops.zones import ensure_zone
from projections._follower import Follower
from tests.conftest import Database
from tests.faults.proxy import HOST, Proxy
from tests.integration.test_log import command

WAIT_S = 0.3
HANGS_S = 8.0
"""Whoever waits for so long would wait for ever."""

BACKEND = "SELECT pg_backend_pid()"


class Link:
    """The way to a database, by a proxy that may swallow what it is given."""

    def __init__(self, database: Database) -> None:
        self.database = database
        terms = psycopg.conninfo.conninfo_to_dict(database.url)
        self.proxy = Proxy("link", lambda: (str(terms["host"]), int(str(terms["port"]))))
        self.url = psycopg.conninfo.make_conninfo(database.url, host=HOST, port=self.proxy.port)


@pytest.fixture
def link(database: Database) -> Iterator[Link]:
    ensure_zone(database.url, "main", "real")
    made = Link(database)
    yield made
    made.proxy.close()


async def backend(pool: Pool) -> int:
    async with pool.connection() as connection:
        row = await (await connection.execute(BACKEND)).fetchone()
    assert row is not None
    return int(row[0])


def test_a_query_on_a_silent_link_ends_and_takes_the_other_idle_connections_with_it(link: Link) -> None:
    async def scenario() -> None:
        pool = Pool(link.url, 3, WAIT_S, autocommit=True)
        async with pool.connection() as one, pool.connection() as two:
            before = {one.info.backend_pid, two.info.backend_pid}
        link.proxy.silence()
        async with asyncio.timeout(HANGS_S):
            with pytest.raises(DatabaseSilent):
                await backend(pool)
            with pytest.raises(psycopg.OperationalError):  # Nor is there a new connection.
                await backend(pool)
        link.proxy.heal()
        assert await backend(pool) not in before
        await pool.close()

    asyncio.run(scenario())


def test_who_finds_all_connections_in_use_is_told_so_and_the_next_one_is_served(link: Link) -> None:
    async def scenario() -> None:
        pool = Pool(link.url, 1, WAIT_S, autocommit=True)
        async with pool.connection():
            with pytest.raises(NoConnection):
                await backend(pool)
            next_one = asyncio.create_task(backend(pool))
            await asyncio.sleep(0)
        assert await next_one == await backend(pool)
        await pool.close()

    asyncio.run(scenario())


def test_a_connection_whose_user_was_cancelled_is_not_used_again(link: Link) -> None:
    async def scenario() -> None:
        pool = Pool(link.url, 1, 5.0, autocommit=True)
        before = await backend(pool)

        async def slowly() -> None:
            async with pool.connection() as connection:
                await connection.execute("SELECT pg_sleep(600)")

        task = asyncio.create_task(slowly())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(60):
            assert await backend(pool) != before
        await pool.close()

    asyncio.run(scenario())


def minted(key: str) -> Any:
    return command(MintTokens("wallet:ana", 5, "r", key), mint_tokens, "op", key, "operator")


async def opened(sequencer: Sequencer) -> None:
    done = await sequencer.submit(command(OpenWallet("wallet:ana"), open_wallet, "ana", "open"))
    assert done.status == 200


@pytest.mark.parametrize("decided", [False, True])
def test_a_command_on_a_silent_link_is_told_to_come_back_and_has_one_effect(
    link: Link, decided: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands._sequencer.DEADLINE_S", WAIT_S)

    async def scenario() -> None:
        log = PostgresLog(link.url, APP_ROLE, wait_s=WAIT_S)
        sequencer = Sequencer("main", log)
        assert await sequencer.start()
        await opened(sequencer)
        if decided:  # Its streams are in memory, so it is the append that gets no answer.
            assert (await sequencer.submit(minted("first"))).status == 200
        link.proxy.silence()
        async with asyncio.timeout(HANGS_S):
            outcomes = await asyncio.gather(*(sequencer.submit(minted(f"k{i}")) for i in range(3)))
        assert [(outcome.status, outcome.retry_after_s) for outcome in outcomes] == [(503, 1)] * 3
        link.proxy.heal()
        monkeypatch.setattr("commands._sequencer.DEADLINE_S", 10.0)
        again: list[Outcome] = []
        for i in range(3):
            again.append(await sequencer.submit(minted(f"k{i}")))
        assert [outcome.status for outcome in again] == [200] * 3
        await sequencer.stop()
        await log.connect()
        loaded = await log.load("main", {"wallet:ana": accounts}, 1_000)
        assert loaded is not None
        assert loaded["wallet:ana"].state.posted == {"FOG": 20 if decided else 15}
        await log.close()

    asyncio.run(scenario())


def test_all_who_ask_for_a_zone_on_a_silent_link_are_answered_at_once(link: Link) -> None:
    async def scenario() -> None:
        zones = Zones(
            lambda: PostgresLog(link.url, APP_ROLE, wait_s=WAIT_S),
            moved=lambda zone, position: None,
            failed=lambda error: None,
            most_streams=1_000,
            wait_s=WAIT_S,
        )
        link.proxy.silence()
        async with asyncio.timeout(HANGS_S):
            asked = await asyncio.gather(*(zones.start("main") for _ in range(40)), return_exceptions=True)
        assert {type(each) for each in asked} == {LogUnavailable}
        link.proxy.heal()
        sequencer = await zones.start("main")
        assert sequencer is not None
        await opened(sequencer)
        assert sequencer._task is not None
        sequencer._task.cancel()
        await asyncio.gather(sequencer._task, return_exceptions=True)
        assert zones.started("main") is None
        fresh = await zones.start("main")
        assert fresh is not None
        assert fresh is not sequencer
        assert (await fresh.submit(minted("k"))).status == 200
        await zones.stop()

    asyncio.run(scenario())


def test_a_thread_on_a_silent_link_goes_on_at_its_deadline(link: Link) -> None:
    connection = connect(link.url, "fogbook tests", wait_s=WAIT_S)
    link.proxy.silence()
    with pytest.raises(DatabaseSilent):
        connection.execute("SELECT 1")
    assert connection.closed
    link.proxy.heal()


def test_long_work_lasts_as_long_as_the_server_is_at_it(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "WAIT_S", 0.1)
    with connect(link.url, "fogbook tests", bounded=False) as connection:
        assert connection.execute("SELECT 1 FROM pg_sleep(0.8)").fetchone() == (1,)
        connection._url = link.database.url  # It asks by another way.
        link.proxy.silence()
        with pytest.raises(DatabaseSilent):
            connection.execute("SELECT 1")
    link.proxy.heal()


def test_a_follower_whose_session_is_gone_is_succeeded_at_once(link: Link) -> None:
    gone = Follower(lambda: connect(link.url, "fogbook tests", wait_s=WAIT_S), "main")
    assert gone.begin()
    other = Follower(link.database.connect, "main")
    assert not other.begin()
    link.proxy.reset()
    ended = threading.Event()
    for _ in range(100):
        if other.begin():
            break
        ended.wait(0.02)
    assert set(other._fed) == set(gone._fed)
    assert all(fed.alone for fed in other._fed.values())
    other.end()
    other.close()
    gone.close()


def test_a_follower_that_gave_its_lease_back_is_no_dead_one(link: Link) -> None:
    for _ in range(2):
        follower = Follower(link.database.connect, "main")
        assert follower.begin()
        assert not any(fed.alone for fed in follower._fed.values())
        follower.end()
        follower.close()


@pytest.mark.parametrize("snapshots", ["kept", "of another schema"])
def test_long_streams_are_loaded_by_pages(
    link: Link, snapshots: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands._deciding.SNAPSHOT_EVERY", 10)
    monkeypatch.setattr(_log, "PAGE", 7)
    pages: list[int] = []

    class Counting(PostgresLog):
        async def _rows(self, sql: str, parameters: Any) -> list[Any]:
            rows = await super()._rows(sql, parameters)
            if sql == _log.EVENTS_OF_STREAMS:
                pages.append(len(rows))
            return rows

    async def scenario() -> None:
        sequencer = Sequencer("main", PostgresLog(link.url, APP_ROLE))
        assert await sequencer.start()
        await opened(sequencer)
        for i in range(40):
            assert (await sequencer.submit(minted(f"k{i}"))).status == 200
        expected = sequencer._states["wallet:ana"]
        position = sequencer.head.position
        await sequencer.stop()
        if snapshots != "kept":
            with link.database.superuser() as connection:
                assert connection.execute("UPDATE snapshots SET schema = 'another'").rowcount
        log = Counting(link.url, APP_ROLE)
        await log.connect()
        names = ("wallet:ana", "wallet:nobody", "issuance:FOG")
        loaded = await log.load("main", dict.fromkeys(names, accounts), position)
        assert loaded is not None
        assert (loaded["wallet:ana"].state, loaded["wallet:ana"].version) == (
            expected.state,
            expected.version,
        )
        await log.close()

    asyncio.run(scenario())
    assert max(pages) == 7 or snapshots == "kept"
    assert len(pages) > 5 or snapshots == "kept"
