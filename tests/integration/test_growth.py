"""What must not grow with the log, counted in rows and pages; and that long histories of the bench are honest ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands._deciding import Command
from commands._log import SNAPSHOT_EVERY
from commands._sequencer import Sequencer
from domain.ledger import accounts
from ops.bench._databases import pages
from ops.bench._history import economy, make_history, minted, opened, paid
from ops.bench._long_stream import CountingLog, long_history
from ops.bench._open_timers import held
from ops.bench._requests import wallet
from ops.bench._stage import FUNDS, BenchFailed
from ops.settings import APP_ROLE
from ops.verify import verify
from projections._rebuild import rebuild
from projections._timers import timers
from tests.conftest import PEPPER, Database
from tests.integration.test_bench import measured, positive
from workers.timers import DUE, MOST_A_TURN, NotSent, Timers

ZONE = "grown"
PRINCIPALS = 10


def differences(database: Database) -> int:
    found = verify(database.connect, ZONE, lambda done, total: None, models=False, pepper=PEPPER.encode())
    return found.count


def test_a_long_history_is_as_honest_as_one_that_a_sequencer_wrote(database: Database) -> None:
    end = make_history(database.url, ZONE, economy(5_000, 100, PRINCIPALS, 1))
    assert end >= 5_000
    assert differences(database) == 0


def test_a_tampered_history_is_not_honest(database: Database) -> None:
    make_history(database.url, ZONE, economy(1_000, 20, PRINCIPALS, 1))
    with database.superuser() as connection:
        connection.execute("UPDATE events SET data = '{}' WHERE zone = %s AND position = 900", (ZONE,))
    assert differences(database) > 0


def test_a_sequencer_goes_on_where_a_made_history_ends(database: Database) -> None:
    make_history(database.url, ZONE, economy(1_000, 20, PRINCIPALS, 1))

    async def one_more() -> int:
        sequencer = Sequencer(ZONE, CountingLog(database.url, APP_ROLE))
        await sequencer.start()
        outcome = await sequencer.submit(paid(0, 1, FUNDS // 2, PRINCIPALS, "one-more"))
        await sequencer.stop()
        return outcome.status

    assert asyncio.run(one_more()) == 200
    assert differences(database) == 0


def test_a_history_with_a_refused_command_is_not_made(database: Database) -> None:
    history = [
        [minted(1)],
        [opened(0, PRINCIPALS), opened(1, PRINCIPALS)],
        [paid(0, 1, 5, PRINCIPALS, "poor")],
    ]
    with pytest.raises(BenchFailed, match="refused"):
        make_history(database.url, ZONE, history)


def test_a_history_in_which_somebody_else_writes_is_not_made(database: Database) -> None:
    def history() -> Iterator[list[Command]]:
        yield [minted(1)]
        with database.superuser() as connection:
            connection.execute("UPDATE heads SET number = number + 1 WHERE zone = %s", (ZONE,))
        yield [opened(0, PRINCIPALS)]
        yield [opened(1, PRINCIPALS)]

    with pytest.raises(BenchFailed, match="somebody else"):
        make_history(database.url, ZONE, history())


def test_loading_a_long_stream_reads_no_more_than_its_snapshot_and_one_interval(database: Database) -> None:
    lengths = [2 * SNAPSHOT_EVERY, 12 * SNAPSHOT_EVERY]
    make_history(database.url, ZONE, long_history(lengths, PRINCIPALS))

    async def events_read(number: int, snapshots: bool) -> int:
        log = CountingLog(database.url, APP_ROLE, snapshots)
        await log.connect()
        head = await log.head(ZONE)
        assert head is not None
        name = wallet(number, PRINCIPALS)
        loaded = await log.load(ZONE, {name: accounts}, head.position)
        await log.close()
        assert loaded is not None
        assert loaded[name].version == lengths[number]
        return log.events_read

    read = [asyncio.run(events_read(number, snapshots=True)) for number in (0, 1)]
    assert read == [SNAPSHOT_EVERY - 1, SNAPSHOT_EVERY - 1]
    assert asyncio.run(events_read(1, snapshots=False)) == lengths[1]


def test_a_sweep_of_timers_looks_at_few_pages_however_many_are_open(database: Database) -> None:
    make_history(database.url, ZONE, held(4_000, PRINCIPALS))
    rebuild(database.connect, ZONE, timers)
    with database.superuser() as connection:
        connection.execute("VACUUM (ANALYZE)")
    with database.connect() as connection:
        row = connection.execute(
            "SELECT count(*), pg_relation_size('read.timers') / 8192 FROM read.timers"
        ).fetchone()
        assert row is not None
        assert row[0] == 4_000
        assert pages(connection, DUE, ([], [], MOST_A_TURN)) < 30 < row[1] / 2


def test_timers_that_back_off_are_not_read_again_at_each_sweep(database: Database) -> None:
    make_history(database.url, ZONE, held(2_000, PRINCIPALS))
    rebuild(database.connect, ZONE, timers)
    sweeper = Timers(database.connect, "http://127.0.0.1:9", "", b"", threading.Event())
    with database.superuser() as connection:
        connection.execute("UPDATE read.timers SET due_at = clock_timestamp() - interval '1 hour'")
        connection.execute(
            "INSERT INTO timer_fates (zone, timer, attempts, accepted, next_at)"
            " SELECT zone, timer, 3, false, clock_timestamp() + interval '1 hour' FROM read.timers"
        )
        connection.execute("VACUUM (ANALYZE)")
    assert not sweeper.turn()
    with database.connect() as connection:
        behind = ([ZONE], [sweeper._looked[ZONE]], MOST_A_TURN)
        assert pages(connection, DUE, behind) < 20 < pages(connection, DUE, ([], [], MOST_A_TURN)) / 2
    with database.superuser() as connection:
        connection.execute(
            "UPDATE timer_fates SET next_at = now() WHERE timer = (SELECT max(timer) FROM read.timers)"
        )
    assert not sweeper.turn()
    sweeper._look_at_all()
    with pytest.raises(NotSent):
        sweeper.turn()
    sweeper._close()


@pytest.mark.long
def test_growth_is_measured_by_size(home: Path) -> None:
    figures = measured(home, "growth")
    for name in ("command_cpu_us", "command_on_cold_streams_cpu_us", "lag_p99_ms", "balance_p50_ms"):
        assert set(figures["growth"][name]) == {"500", "1500"}
        assert all(positive(figure) for figure in figures["growth"][name].values())
    assert positive(figures["growth_ratios"]["command_cpu_us"])
    assert {x for x, _ in figures["plots"]["growth_cpu"]["series"]["command"]} == {500, 1_500}
    assert max(figures["growth"]["stream_load_rows"].values()) < SNAPSHOT_EVERY
    assert set(figures["growth"]["timers_sweep_ms"]) == {"0", "300"}
    assert positive(figures["growth"]["timers_late_p99_ms"]["300"])
    assert figures["conditions"]["growth"]["1500"]["events_before"] >= 1_500
