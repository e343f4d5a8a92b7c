"""The archive: what is valid at a position is what a fold up to it gives, whatever happened on the way."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from domain.ledger import FreezeWallet, MintTokens, OpenWallet, Transfer, UnfreezeWallet
from projections import _archive, _archives
from projections._archive import StoredPastRows, archive_chunk, past_name, path_of
from projections._digest import MODULUS, find, total
from projections._engine import HistoryRows, Projection, all_projections, fold
from projections._rebuild import rebuild
from projections._schema import past_statements_of, tables
from projections._tables import Row, Table, from_sql
from projections.ledger import StatementLine
from tests.conftest import Database
from tests.history import history
from tests.support import Economy, economy
from workers.archive import Archive

LOOK_EVERY_S = 0.01
Test = Callable[[Economy], Awaitable[None]]


def archiver(database: Database) -> Archive:
    return Archive(database.connect, threading.Event())


def archive(database: Database) -> None:
    """Let the archive come as far as the projections have."""
    worker = archiver(database)
    while worker.turn():
        pass
    worker.close()


def valid_rows(
    connection: psycopg.Connection[Any], table: Table, generation: int, position: int, zone: str = "main"
) -> list[Row]:
    names = [*(c.name for c in table.columns), "position", "incomplete"]
    statement = sql.SQL(
        "SELECT {} FROM {} WHERE zone = %s AND generation = %s AND node = ANY (%s) AND since <= %s AND until > %s"
    ).format(sql.SQL(", ").join(map(sql.Identifier, names)), sql.SQL(past_name(table)))
    found = []
    for *values, at, incomplete in connection.execute(
        statement, (zone, generation, path_of(position), position, position)
    ):
        row = table.row(*map(from_sql, values))
        row.position, row.incomplete = at, incomplete
        found.append(row)
    return found


def past_sum(
    connection: psycopg.Connection[Any], projection: Projection, generation: int, position: int
) -> int:
    """The digest of the rows that were valid at a position."""
    sums = (total(valid_rows(connection, t, generation, position), t) for t in projection.tables)
    return sum(sums) % MODULUS


# Any history, however it is cut


@functools.cache
def folded(name: str, position: int) -> int:
    """The digest of a fold from the first event up to a position."""
    kept: list[Row] = []
    rows = HistoryRows(all_projections()[name], "main", 1, lambda rows, kind: kept.append)
    fold(rows, [r for r in history() if r.position <= position])
    rows.write_kept()
    return (
        sum(total([row for row in kept if isinstance(row, t.row)], t) for t in rows.projection.tables)
        % MODULUS
    )


@functools.cache
def ends() -> list[int]:
    return [record.position for record in history() if record.ends_command]


@pytest.fixture
def numbers() -> dict[str, int]:
    return {"generation": 0}


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_versions_that_are_valid_at_a_position_are_a_fold_up_to_it(
    database: Database, numbers: dict[str, int], data: st.DataObject
) -> None:
    """Of each projection, however the history is cut into chunks and whatever stays in memory between them."""
    cuts = sorted({*data.draw(st.lists(st.sampled_from(ends()), max_size=4)), ends()[-1]})
    positions = data.draw(st.lists(st.sampled_from(ends()), min_size=2, max_size=2))
    cached, forgets = data.draw(st.sampled_from((0, 3, 10_000))), data.draw(st.booleans())
    numbers["generation"] += 1
    generation = numbers["generation"]
    with database.connect() as connection, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_archive, "MOST_CACHED_ROWS", cached)
        for name, projection in all_projections().items():
            rows = StoredPastRows(projection, "main", generation)
            begun = 0
            for cut in cuts:
                with connection.transaction():
                    archive_chunk(connection, rows, [r for r in history() if begun < r.position <= cut], {})
                begun = cut
                if forgets:
                    rows = StoredPastRows(projection, "main", generation)
            for position in positions:
                assert past_sum(connection, projection, generation, position) == folded(name, position), name


def test_the_archive_gives_the_digests_that_the_live_rows_had(database: Database) -> None:
    """At each position the sum over the versions is the one that was kept with the live rows, and attested."""

    async def whole() -> None:
        async with economy(database) as village:
            kept: dict[tuple[str, int], int | None] = {}
            await _begun(village)
            for amount in range(1, 6):
                await village.issue(Transfer("wallet:ana", "wallet:ben", amount), "ana")
                position = await village.catch_up()
                with database.connect() as connection:
                    for name in all_projections():
                        kept[name, position] = find(connection, "main", name, 1)
            await asyncio.to_thread(archive, database)
            with database.connect() as connection:
                for (name, position), accumulator in kept.items():
                    assert past_sum(connection, all_projections()[name], 1, position) == accumulator
            assert len(set(kept.values())) > 5

    asyncio.run(whole())


# The worker


@pytest.fixture
def run(database: Database) -> Callable[[Test], None]:
    def runner(test: Test) -> None:
        async def whole() -> None:
            async with economy(database) as village:
                await _begun(village)
                await test(village)

        asyncio.run(whole())

    return runner


async def _begun(village: Economy) -> None:
    for name in ("ana", "ben"):
        await village.issue(OpenWallet(f"wallet:{name}"), name)
        await village.issue(MintTokens(f"wallet:{name}", 1000, "start", name))


def places(database: Database) -> dict[str, tuple[int, int, bool]]:
    """Of each projection: generation, position and whether it answers."""
    with database.connect() as connection:
        rows = connection.execute(
            "SELECT projection, generation, position, live FROM archives ORDER BY generation"
        ).fetchall()
    return {projection: (generation, position, live) for projection, generation, position, live in rows}


def reach(database: Database, head: int) -> None:
    """Wait until the archives are all there."""
    while {position for _, position, _ in places(database).values()} != {head}:
        time.sleep(0.02)


def the_same_as_live(database: Database, names: Sequence[str] = ()) -> bool:
    """Whether what is open in the archive is what the live rows are."""
    with database.connect() as connection:
        for name in names or all_projections():
            row = connection.execute(
                "SELECT c.generation, a.generation, c.position = a.position FROM checkpoints c"
                " JOIN archives a USING (zone, projection) WHERE projection = %s AND c.live AND a.live",
                (name,),
            ).fetchone()
            if row is None or not row[2]:
                return False
            position = places(database)[name][1]
            past = past_sum(connection, all_projections()[name], row[1], position)
            if past != find(connection, "main", name, row[0]):
                return False
    return True


def test_the_archive_follows_and_goes_on_after_a_restart(run: Any, database: Database) -> None:
    async def test(village: Economy) -> None:
        for _ in range(3):
            await village.issue(Transfer("wallet:ana", "wallet:ben", 1), "ana")
            head = await village.catch_up()
            await asyncio.to_thread(archive, database)
            assert set(places(database).values()) == {(1, head, True)}
            assert the_same_as_live(database)
        worker = archiver(database)
        assert not worker.turn()
        worker.close()

    run(test)


def test_the_archive_waits_for_the_live_rows(run: Any, database: Database) -> None:
    """What these have not judged yet might be set aside."""

    async def test(village: Economy) -> None:
        followed = await village.catch_up()
        await village.issue(Transfer("wallet:ana", "wallet:ben", 1), "ana")
        await asyncio.to_thread(archive, database)
        assert {position for _, position, _ in places(database).values()} == {followed}

    run(test)


def test_two_archivists_at_once_do_the_work_once(run: Any, database: Database) -> None:
    async def test(village: Economy) -> None:
        for _ in range(4):
            await village.issue(Transfer("wallet:ana", "wallet:ben", 1), "ana")
            await village.catch_up()
            await asyncio.gather(*(asyncio.to_thread(archive, database) for _ in range(2)))
        await asyncio.to_thread(archive, database)
        assert the_same_as_live(database)

    run(test)


def test_changed_code_is_archived_anew_while_the_old_archive_answers(
    run: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(village: Economy) -> None:
        for _ in range(4):
            await village.issue(Transfer("wallet:ana", "wallet:ben", 1), "ana")
        await village.catch_up()
        await asyncio.to_thread(archive, database)
        projection = all_projections()["ledger"]
        monkeypatch.setattr(projection, "code", "77")
        worker = archiver(database)
        assert not worker.turn(), "the live rows are of other code: they are rebuilt first"
        await asyncio.to_thread(rebuild, database.connect, "main", projection)
        monkeypatch.setattr(_archives, "CHUNK", 2)
        seen = []
        while worker.turn():
            with database.connect() as connection:
                row = connection.execute(
                    "SELECT generation, position FROM archives WHERE projection = 'ledger' AND live"
                ).fetchone()
            seen.append(row)
        worker.close()
        head = village.sequencer.head.position
        assert {(1, head), (2, head)} == set(seen), "nobody sees an archive that goes back"
        assert places(database)["ledger"] == (2, head, True)
        assert the_same_as_live(database)
        with database.connect() as connection:
            for table in projection.tables:
                left = sql.SQL("SELECT count(*) FROM {} WHERE generation = 1").format(
                    sql.SQL(past_name(table))
                )
                assert connection.execute(left).fetchone() == (0,)
            assert connection.execute(
                "SELECT count(*) FROM archives WHERE projection = 'ledger'"
            ).fetchone() == (1,)

    run(test)


def test_a_rebuild_that_gives_the_same_rows_leaves_the_archive_alone(run: Any, database: Database) -> None:
    async def test(village: Economy) -> None:
        await village.catch_up()
        await asyncio.to_thread(archive, database)
        await asyncio.to_thread(village.rebuild)
        await asyncio.to_thread(archive, database)
        assert {generation for generation, _, _ in places(database).values()} == {1}
        assert the_same_as_live(database)

    run(test)


def failing(*args: Any) -> None:
    raise ValueError("poison")


def test_events_that_the_live_rows_miss_are_missing_in_the_archive_until_it_is_repaired(
    run: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(village: Economy) -> None:
        await village.catch_up()
        await asyncio.to_thread(archive, database)
        ledger = all_projections()["ledger"]
        with monkeypatch.context() as patch:
            patch.setitem(ledger.handlers, "WalletFrozen", failing)
            await village.issue(FreezeWallet("wallet:ben", "why"))
            await village.issue(Transfer("wallet:ana", "wallet:ben", 1), "ana")
            await village.issue(UnfreezeWallet("wallet:ben", "why"))
            poisoned = await village.catch_up()
            await asyncio.to_thread(archive, database)
            assert the_same_as_live(database)
            # The set of events that are missing has grown since: that alone is no reason to begin again.
            await village.issue(Transfer("wallet:ana", "wallet:ben", 2), "ana")
            await village.catch_up()
            await asyncio.to_thread(archive, database)
            assert places(database)["ledger"][0] == 1
            assert the_same_as_live(database)
        now = await village.get("/queries/ledger/accounts", "olga")
        then = await village.get("/queries/ledger/accounts", "olga", as_of=poisoned)
        assert now.json()["quarantined"] > then.json()["quarantined"] > 0
        assert any(item["incomplete"] for item in then.json()["items"])
        await asyncio.to_thread(rebuild, database.connect, "main", ledger)
        await asyncio.to_thread(archive, database)
        assert places(database)["ledger"][0] == 2
        assert the_same_as_live(database)
        repaired = (await village.get("/queries/ledger/accounts", "olga", as_of=poisoned)).json()
        assert repaired["quarantined"] == 0
        assert not any(item["incomplete"] for item in repaired["items"])

    run(test)


def too_large(rows: Any, *args: Any) -> None:
    rows.of(StatementLine, "wallet:x", 2**63)


@pytest.mark.parametrize("handler", [failing, too_large])
def test_a_projection_that_fails_in_the_archive_alone_holds_up_no_other(
    run: Any, database: Database, monkeypatch: pytest.MonkeyPatch, handler: Any
) -> None:
    async def test(village: Economy) -> None:
        head = await village.catch_up()
        with monkeypatch.context() as patch:
            patch.setitem(all_projections()["ledger"].handlers, "WalletOpened", handler)
            await asyncio.to_thread(archive, database)
        stood = places(database)
        assert stood.pop("ledger") == (1, 0, True)
        assert set(stood.values()) == {(1, head, True)}
        await asyncio.to_thread(archive, database)
        assert the_same_as_live(database)

    run(test)


def test_a_database_that_is_away_is_waited_for(
    run: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(village: Economy) -> None:
        head = await village.catch_up()
        away = iter([psycopg.OperationalError("away"), psycopg.OperationalError("away")])

        def connect() -> psycopg.Connection[Any]:
            for error in away:
                raise error
            return database.connect()

        monkeypatch.setattr("workers.archive.LOOK_EVERY_S", LOOK_EVERY_S)
        stopping = threading.Event()
        worker = Archive(connect, stopping)
        thread = threading.Thread(target=worker.run)
        thread.start()
        await asyncio.to_thread(reach, database, head)
        with database.superuser() as connection:  # In the middle of its work, too.
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE '%archives%' AND pid <> pg_backend_pid()"
            ).fetchall()
        assert ended
        await village.issue(Transfer("wallet:ana", "wallet:ben", 1), "ana")
        head = await village.catch_up()
        await asyncio.to_thread(reach, database, head)
        stopping.set()
        await asyncio.to_thread(thread.join)
        assert the_same_as_live(database)

    run(test)


# Tables


def test_past_tables_can_be_made_again_and_gain_new_columns(database: Database) -> None:
    table = next(t for t in tables() if t.name == "read.ledger_balances")
    with database.superuser() as connection:
        connection.execute("ALTER TABLE past.ledger_balances DROP COLUMN held")
        connection.execute(
            "INSERT INTO past.ledger_balances VALUES ('main', 1, 'wallet:ana', 'FOG', 5, 1, false, 1, 9, 8)"
        )
        for _ in range(2):
            for statement in past_statements_of(table):
                connection.execute(statement)
        row = connection.execute("SELECT posted, held FROM past.ledger_balances").fetchone()
    assert row == (5, 0)
