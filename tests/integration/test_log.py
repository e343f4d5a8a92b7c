"""The log on real PostgreSQL: what it refuses, what it bounds, and who may hold its head for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from commands._deciding import Command, Outcome
from commands._log import SNAPSHOT_EVERY, Batch, LogUnavailable, PostgresLog
from commands._sequencer import Sequencer
from domain.ledger import MintTokens, OpenWallet, Transfer, accounts, mint_tokens, open_wallet, transfer
from ops.migrate import migrate
from ops.safety import UnsafeDatabase, check_safe
from ops.servers import start_servers
from ops.settings import APP_ROLE
from ops.zones import ensure_zone
from tests.conftest import Database


def command(body: Any, decide: Callable[..., Any], by: str, key: str, role: str = "participant") -> Command:
    return Command(type(body).__name__, body, decide, by, by, role, key, repr(body).encode())


class Writer:
    """A sequencer of its own, as another process would have."""

    def __init__(
        self, database: Database, clock: Callable[[], datetime] | None = None, prepare: bool = True
    ) -> None:
        self.log = PostgresLog(database.url, APP_ROLE, prepare)
        options = {"clock": clock} if clock else {}
        self.sequencer = Sequencer("main", self.log, **options)
        self.keys = 0

    async def __aenter__(self) -> Writer:
        assert await self.sequencer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sequencer.stop()

    def send(self, body: Any, decide: Any, by: str, role: str = "participant") -> asyncio.Future[Outcome]:
        self.keys += 1
        return self.sequencer.submit(command(body, decide, by, f"{id(self)}-{self.keys}", role))

    def pay(self, amount: int = 1) -> asyncio.Future[Outcome]:
        return self.send(Transfer("wallet:ana", "wallet:ben", amount), transfer, "ana")


async def village(writer: Writer, funds: int = 100_000) -> None:
    assert (await writer.send(OpenWallet("wallet:ana"), open_wallet, "ana")).status == 200
    assert (await writer.send(OpenWallet("wallet:ben"), open_wallet, "ben")).status == 200
    minted = await writer.send(MintTokens("wallet:ana", funds, "r", "r"), mint_tokens, "op", "operator")
    assert minted.status == 200


@pytest.fixture
def zone(database: Database) -> Database:
    ensure_zone(database.url, "main", "real")
    return database


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
def test_a_server_that_could_lose_commits_is_refused(tmp_path: Path, setting: str) -> None:
    with start_servers(tmp_path / "home", throwaway=True, postgres_settings={setting: "off"}) as servers:
        with psycopg.connect(servers.superuser_url) as connection:
            with pytest.raises(UnsafeDatabase, match=setting):
                check_safe(connection)
        with pytest.raises(UnsafeDatabase, match=setting):
            migrate(servers.superuser_url)


def test_a_stopped_process_does_not_hold_the_head_for_ever(zone: Database) -> None:
    async def scenario() -> None:
        async with Writer(zone) as writer:
            await village(writer)
            stopped = PostgresLog(zone.url, APP_ROLE)
            await stopped.connect()
            held = stopped.locked("main")
            await held.__aenter__()
            # It says nothing any more; the database ends it, and the others go on with the same batch.
            assert (await writer.pay()).status == 200
            with pytest.raises(Exception, match=r"terminating|closed|lost|idle"):
                await held.__aexit__(None, None, None)
            await stopped.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "setting",
    ["idle_in_transaction_session_timeout = 20", "transaction_read_only = on", "statement_timeout = 1"],
)
def test_whatever_ends_or_forbids_a_transaction_the_log_is_away_and_no_command_failed(
    zone: Database, setting: str
) -> None:
    """A process that is stopped under the lock finds its session ended; a server that stands by takes no writes."""

    async def scenario() -> None:
        log = PostgresLog(zone.url, APP_ROLE)
        await log.connect()

        async def append() -> None:
            async with log.locked("main") as head:
                assert log._connection is not None
                await log._connection.execute(f"SET LOCAL {setting}")
                await asyncio.sleep(0.5)
                await log._rows("SELECT pg_sleep(0.1)", ())
                await log.append("main", head, head.at, Batch())

        with pytest.raises(LogUnavailable):
            await append()
        await log.close()

    asyncio.run(scenario())


def test_a_clock_that_runs_ahead_is_refused_and_nothing_is_stored(zone: Database) -> None:
    async def scenario() -> None:
        async with Writer(zone) as honest:
            await village(honest)
            ahead = datetime.now(UTC) + timedelta(hours=1)
            async with Writer(zone, clock=lambda: ahead) as fast:
                outcome = await fast.pay()
                assert outcome.status == 503
                assert b"clock" in outcome.body
            before = honest.sequencer.head
            assert (await honest.pay()).status == 200
            assert honest.sequencer.head.position == before.position + 2

    asyncio.run(scenario())


def test_loading_a_long_stream_reads_a_bounded_number_of_events(zone: Database) -> None:
    async def scenario() -> None:
        async with Writer(zone) as writer:
            await village(writer)
            for _ in range(12):
                outcomes = await asyncio.gather(*(writer.pay() for _ in range(250)))
                assert {o.status for o in outcomes} == {200}
            head = writer.sequencer.head
        with zone.connect() as connection:
            version = connection.execute(
                "SELECT max(version) FROM events WHERE stream = 'wallet:ana'"
            ).fetchone()
            snapshot = connection.execute(
                "SELECT version FROM snapshots WHERE stream = 'wallet:ana'"
            ).fetchone()
        assert version is not None
        assert snapshot is not None
        assert version[0] > 3_000
        assert version[0] - snapshot[0] < 2 * SNAPSHOT_EVERY
        log = PostgresLog(zone.url, APP_ROLE)
        await log.connect()
        loaded = await log.load("main", {"wallet:ana": accounts}, head.position)
        await log.close()
        assert loaded is not None
        assert loaded["wallet:ana"].state.posted == {"FOG": 97_000}
        assert loaded["wallet:ana"].snapshot == snapshot[0]

    asyncio.run(scenario())


def test_two_processes_at_once_keep_one_order_and_exact_decisions(zone: Database) -> None:
    async def scenario() -> None:
        async with Writer(zone) as one, Writer(zone) as two:
            await village(one, funds=300)
            outcomes = []
            for _ in range(40):
                outcomes += await asyncio.gather(*(w.pay(3) for w in (one, two, one, two)))
            statuses = [o.status for o in outcomes]
            assert statuses.count(200) == 100
            assert statuses.count(409) == 60
        with zone.connect() as connection:
            row = connection.execute("SELECT count(*), min(position), max(position) FROM events").fetchone()
            numbers = connection.execute("SELECT count(*), max(number) FROM commands").fetchone()
        assert row is not None
        assert row[0] == row[2]
        assert numbers is not None
        assert numbers[0] == numbers[1], "fates are numbered without a gap"

    asyncio.run(scenario())


def test_a_cold_process_reads_only_what_it_needs(zone: Database) -> None:
    async def scenario() -> None:
        async with Writer(zone) as writer:
            await village(writer)
        async with Writer(zone) as cold:
            assert (await cold.pay()).status == 200
            # Both wallets, and whether Ana wants her commands signed.
            assert cold.sequencer.streams_in_memory == 3

    asyncio.run(scenario())


@pytest.mark.parametrize("prepare", [True, False])
def test_appends_are_prepared_only_where_that_is_wanted(zone: Database, prepare: bool) -> None:
    async def scenario() -> None:
        async with Writer(zone, prepare=prepare) as writer:
            await village(writer)
            sent = command(Transfer("wallet:ana", "wallet:ben", 5), transfer, "ana", "once")
            first, again = await writer.sequencer.submit(sent), await writer.sequencer.submit(sent)
            assert (first.status, first.hit) == (200, False)
            assert (again.status, again.hit, again.body) == (200, True, first.body)
            prepared = await writer.log._rows("SELECT statement FROM pg_prepared_statements", ())
            assert any("append_to_log" in statement for (statement,) in prepared) is prepare

    asyncio.run(scenario())


def test_every_column_of_a_batch_is_stored_as_it_was_given(zone: Database) -> None:
    batch = Batch(
        principals=["ana", "bén"],
        keys=["k1", "k2"],
        act_as=["ana", "carl"],
        requests=[b"{}", bytes(range(256))],
        if_match=[None, 2**62],
        statuses=[200, 409],
        answers=[b"", b"no"],
        positions=[2**40, 3],
        event_counts=[1, 2**31 - 1],
        fate_leaves=[bytes(32), b"\xff" * 32],
        streams=["wallet:ana"],
        versions=[2**50],
        types=["Debited"],
        data=[b'{"memo":"\xc3\xa9"}'],
        meta=[b"{}"],
        leaves=[b"leaf"],
        snapshot_streams=["wallet:ana"],
        snapshot_versions=[500],
        snapshot_positions=[9],
        snapshot_schemas=["abc"],
        snapshot_states=[b"{}"],
    )
    tables = {
        "commands": "principal, key, act_as, request, if_match, status, answer, position, events, leaf",
        "events": "stream, version, type, data, meta, leaf",
        "snapshots": "stream, version, position, schema, state",
    }

    async def scenario() -> None:
        log = PostgresLog(zone.url, APP_ROLE)
        await log.connect()
        head = await log.head("main")
        assert head is not None
        at = head.at + timedelta(microseconds=1)
        assert await log.append("main", head, at, batch)
        assert not await log.append("main", head, at, batch), "the head has moved"
        after = await log.head("main")
        assert after is not None
        assert (after.position, after.number, after.at) == (head.position + 1, head.number + 2, at)
        with psycopg.connect(zone.url) as connection:
            stored: list[list[object]] = []
            for table, columns in tables.items():
                order = {"commands": "number", "events": "position", "snapshots": "stream"}[table]
                query = f"SELECT {columns} FROM {table} WHERE zone = 'main' ORDER BY {order} DESC LIMIT %s"
                rows = connection.execute(query, (2 if table == "commands" else 1,)).fetchall()  # type: ignore[arg-type]
                stored += [list(column) for column in zip(*reversed(rows), strict=True)]
        assert stored == batch.columns()
        await log.close()

    asyncio.run(scenario())


def test_after_a_rollback_appends_go_on(zone: Database) -> None:
    class Undone(Exception):
        pass

    async def scenario() -> None:
        async with Writer(zone) as writer:
            await village(writer)
            with pytest.raises(Undone):
                async with writer.log.locked("main"):
                    raise Undone
            assert (await writer.pay()).status == 200

    asyncio.run(scenario())


def test_whoever_drops_what_was_prepared_costs_a_connection_and_no_command(zone: Database) -> None:
    async def scenario() -> None:
        async with Writer(zone) as writer:
            await village(writer)
            connection = writer.log._connection
            assert connection is not None
            await connection.execute("DEALLOCATE ALL")
            assert (await writer.pay()).status == 200
            assert writer.log._connection is not connection

    asyncio.run(scenario())
