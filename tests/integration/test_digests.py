"""Digests on real PostgreSQL: whatever befalls a projection, its accumulator is the sum over its stored rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import cycle, pairwise
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projections import _digest, _follower, _rebuild, _stored
from projections._digest import expand, find, recompute, row_bytes, shown, stored_rows
from projections._engine import HandlerFailed, Rows, all_projections
from projections._follower import Follower
from projections._rebuild import rebuild, sweep
from projections._schema import statements_of, tables
from projections._stored import DigestLost, StoredRows, copy_in, flush
from projections._tables import table_of
from tests.conftest import Database
from tests.digests import digest
from tests.history import history, write
from tests.integration.test_projection_engine import Bench, Line, Total, bench, poison, raises
from tests.unit.test_digest import ROWS, Everything
from workers.sweep import Sweeper

__all__ = ["bench"]

STEPS = 150
DIGESTS = "SELECT projection, generation FROM digests ORDER BY projection, generation"


# Stored rows


@pytest.fixture
def everything(database: Database) -> Database:
    with database.superuser() as connection:
        for statement in statements_of(table_of(Everything)):
            connection.execute(statement)
    return database


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, max_size=4, unique_by=lambda row: row.id), by_copy=st.booleans())
def test_a_row_has_the_bytes_that_it_had_before_it_was_stored(
    everything: Database, rows: list[Any], by_copy: bool
) -> None:
    declared = table_of(Everything)
    with everything.superuser() as connection, connection.transaction(force_rollback=True):
        connection.execute("SET TIME ZONE 'Asia/Kolkata'")
        keeper = Rows.__new__(Rows)
        keeper.zone, keeper.generation = "main", 3
        if by_copy:
            copy_in(connection, keeper, Everything, rows)
        elif rows:
            _stored._upsert(connection, declared, keeper, rows)
        found = {row_bytes(declared)(row) for row in stored_rows(connection, "main", declared, 3)}
        assert found == {row_bytes(declared)(row) for row in rows}
        assert not list(stored_rows(connection, "main", declared, 2))


# Folds of one history of all contexts


@pytest.fixture
def written(database: Database) -> Database:
    write(database, history(steps=STEPS))
    return database


def digests(database: Database) -> dict[str, str]:
    with database.connect() as connection:
        return {name: digest(connection, "main", p) for name, p in all_projections().items()}


def forget(database: Database) -> None:
    with database.superuser() as connection:
        connection.execute("TRUNCATE checkpoints, digests, quarantine")
        for declared in tables():
            connection.execute(f"DELETE FROM {declared.name}")


class Crew:
    """Followers of one zone that all think they hold the lease."""

    def __init__(self, database: Database, size: int) -> None:
        self.database = database
        self.followers = [self.hired() for _ in range(size)]

    def hired(self) -> Follower:
        with self.database.connect() as connection:
            connection.execute("UPDATE checkpoints SET tenure = NULL")
        follower = Follower(self.database.connect, "main")
        assert follower.begin()
        return follower

    def replace(self, who: int) -> None:
        """One is killed; its successor knows, and is careful."""
        self.followers[who].close()
        with self.database.connect() as connection:
            connection.execute("UPDATE checkpoints SET tenure = '2000-01-01'")
        self.followers[who] = Follower(self.database.connect, "main")
        assert self.followers[who].begin()

    def close(self) -> None:
        for follower in self.followers:
            follower.close()


def positions(database: Database) -> set[int]:
    with database.connect() as connection:
        return {row[0] for row in connection.execute("SELECT position FROM checkpoints WHERE live")}


@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(
    cuts=st.lists(st.sampled_from((40, 150, 900)), min_size=1, max_size=5),
    order=st.permutations(sorted(all_projections())),
    size=st.integers(1, 3),
    groups=st.lists(st.integers(1, 14), min_size=1, max_size=5),
    killed=st.integers(0, 6),
)
def test_one_history_gives_one_digest_whoever_follows_it(
    written: Database, cuts: list[int], order: list[str], size: int, groups: list[int], killed: int
) -> None:
    """Followers take turns, each with some of the projections, in some order, with batches of some size."""
    forget(written)
    crew, turns = Crew(written, size), zip(cycle(cuts), cycle(groups), cycle(range(size)), strict=False)
    waiting: Iterator[str] = cycle(order)
    turn = 0
    with pytest.MonkeyPatch.context() as patched:
        while positions(written) != {len(history(steps=STEPS))}:
            cut, group, who = next(turns)
            patched.setattr(_follower.read_tail, "__defaults__", (cut,))
            follower = crew.followers[who]
            every = follower._fed
            follower._fed = {name: every[name] for name in (next(waiting) for _ in range(group))}
            follower.advance()
            follower._fed = every
            turn += 1
            if turn == killed:
                patched.setattr(_follower, "BATCH", 20)
                crew.replace(who)
    crew.close()
    assert digests(written) == digests_of_a_rebuild(written)


_rebuilt: dict[str, str] = {}


def digests_of_a_rebuild(database: Database) -> dict[str, str]:
    if not _rebuilt:
        for projection in all_projections().values():
            rebuild(database.connect, "main", projection)
        _rebuilt.update(digests(database))
    return _rebuilt


def test_a_rebuild_beside_followers_that_race_goes_on_with_the_digest(database: Database) -> None:
    """The log grows whenever a generation is about to catch up with the live one."""
    records = history(steps=STEPS)
    ends = [0, *(r.position for r in records if r.ends_command)]
    cuts = [ends[(len(ends) - 1) * part // 10] for part in range(11)]
    parts = (records[start:end] for start, end in pairwise(cuts))

    def grow(done: int, total: int) -> None:
        if done == total and (part := next(parts, ())):
            write(database, part)

    grow(0, 0)
    crew = Crew(database, 2)
    stop = threading.Event()

    def follow(follower: Follower) -> None:
        while not stop.is_set():
            follower.advance()

    threads = [threading.Thread(target=follow, args=(follower,)) for follower in crew.followers]
    for thread in threads:
        thread.start()
    for name in ("ledger", "contracts", "timers", "analytics"):
        rebuild(database.connect, "main", all_projections()[name], grow)
    for part in parts:
        write(database, part)
    while positions(database) != {len(records)}:
        stop.wait(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    crew.close()
    assert digests(database) == digests_of_a_rebuild(database)


# What goes wrong


def test_a_batch_that_failed_or_was_cut_off_leaves_no_trace_in_the_digest(bench: Bench) -> None:
    for i in range(5):
        bench.pay("wallet:a", f"wallet:{i}", 1)
    bench.follow()
    bench.pay("wallet:a", "wallet:b", 666)

    def cut_off() -> None:
        with bench.database.superuser() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    failures = iter([raises, cut_off])

    def once() -> None:
        if behave := next(failures, None):
            behave()

    healthy = dict(bench.projection.handlers)
    poison(bench, once)
    with pytest.raises(psycopg.OperationalError):
        bench.follow()
    with bench.connect() as connection:
        connection.execute("UPDATE checkpoints SET tenure = NULL")
    bench.follow()
    assert bench.totals()["wallet:a"] == (-671, 6, False)
    followed = bench.digest()
    bench.projection.handlers = healthy
    rebuild(bench.connect, "main", bench.projection)
    assert bench.digest() == followed


def test_a_follower_whose_batch_is_lost_at_the_commit_forgets_its_sum(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.pay("wallet:a", "wallet:b", 1)
    follower = Follower(bench.connect, "main")
    assert follower.begin()
    follower.advance()
    bench.pay("wallet:a", "wallet:b", 2)
    with monkeypatch.context() as patched:
        patched.setattr(_follower, "MOVE", _follower.MOVE.replace("WHERE c.zone", "WHERE false AND c.zone"))
        with pytest.raises(_follower.CheckpointMoved):
            follower.advance()
    follower.advance()
    follower.end()
    follower.close()
    assert bench.totals()["wallet:b"][:2] == (3, 2)
    assert bench.digest()


def test_a_quarantine_gives_one_digest_however_the_log_is_cut(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that miss an event are touched where the event stands, whether or not its batch was taken carefully;
    they are touched by what happens in other streams, too."""
    credited = bench.projection.handlers["Credited"]

    def crediting(rows: Rows, event: Any, record: Any) -> None:
        credited(rows, event, record)
        rows.find(Total, event.source)

    bench.projection.handlers["Credited"] = crediting
    poison(bench, raises)
    for amount in (1, 666, 2, 3, 4, 5, 6):
        bench.pay("wallet:bad", "wallet:b", amount)
        bench.pay("wallet:a", "wallet:bad", amount + 10)
        bench.pay("wallet:a", "wallet:b", amount + 20)
    found = set()
    for cut in (1, 3, 5, 8, 1_000):
        monkeypatch.setattr(_follower.read_tail, "__defaults__", (cut,))
        with bench.database.superuser() as connection:
            connection.execute("TRUNCATE checkpoints, quarantine, read.test_totals, read.test_lines")
        bench.follow()
        assert len(bench.quarantined()) == 12
        assert {account: row[2] for account, row in bench.totals().items()} == {
            "wallet:a": True,
            "wallet:b": False,
            "wallet:bad": True,
        }
        found.add(bench.digest())
    assert len(found) == 1


def test_rows_that_were_marked_incomplete_count_as_such(bench: Bench) -> None:
    bench.pay("wallet:bad", "wallet:b", 1)
    bench.follow()
    whole = bench.digest()
    with bench.database.superuser() as connection:
        connection.execute("UPDATE read.test_totals SET incomplete = true")
        connection.execute("UPDATE digests SET accumulator = %s", (_digest.to_bytes(recomputed(bench)),))
    assert bench.digest() != whole


def recomputed(bench: Bench) -> int:
    with bench.connect() as connection:
        return recompute(connection, "main", bench.projection, 1)


# Generations


def kept(bench: Bench) -> list[tuple[str, int]]:
    with bench.connect() as connection:
        return connection.execute(DIGESTS).fetchall()


def test_a_generation_s_digest_goes_when_the_generation_goes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.pay("wallet:a", "wallet:b", 5)
    bench.follow()
    assert kept(bench) == [("test", 1)]
    rebuild(bench.connect, "main", bench.projection)
    assert kept(bench) == [("test", 1), ("test", 2)]
    with bench.connect() as connection:
        sweep(connection, "main", bench.projection)
    assert kept(bench) == [("test", 2)]
    bench.pay("wallet:a", "wallet:b", 666)
    healthy = dict(bench.projection.handlers)
    poison(bench, raises)
    with pytest.raises(HandlerFailed):
        rebuild(bench.connect, "main", bench.projection)
    assert kept(bench) == [("test", 2)]
    monkeypatch.setattr(_rebuild, "_catch_up_and_swap", lambda *which: raises())
    bench.projection.handlers = healthy
    with pytest.raises(ZeroDivisionError):
        rebuild(bench.connect, "main", bench.projection)
    assert kept(bench) == [("test", 2)]


def test_a_projection_without_rows_has_a_digest_too(bench: Bench) -> None:
    with bench.connect() as connection:
        _follower.ensure_checkpoints(connection, "main")
        assert find(connection, "main", "test", 1) == 0
        assert find(connection, "main", "test", 2) is None
    assert bench.digest() == shown(0)
    rebuild(bench.connect, "main", bench.projection)
    assert bench.digest() == shown(0)


def test_a_projection_that_begins_again_begins_at_nothing(bench: Bench) -> None:
    bench.pay("wallet:a", "wallet:b", 5)
    bench.follow()
    first = bench.digest()
    with bench.database.superuser() as connection:
        connection.execute("TRUNCATE checkpoints, read.test_totals, read.test_lines")
    bench.follow()
    assert bench.digest() == first


@pytest.mark.parametrize(
    "left_behind",
    [
        "DELETE FROM digests",
        "UPDATE digests SET accumulator = decode(repeat('2a', 2048), 'hex'); UPDATE checkpoints SET code = '1.d1'",
    ],
    ids=["none", "one of another form"],
)
def test_rows_without_a_digest_are_not_fed_but_rebuilt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, left_behind: str
) -> None:
    """So are those that an older version left behind, which kept none, or longer ones."""
    monkeypatch.setattr("workers.sweep.all_projections", lambda: {"test": bench.projection})
    bench.pay("wallet:a", "wallet:b", 5)
    bench.follow()
    before = bench.digest()
    with bench.connect() as connection:
        connection.execute(left_behind)
    follower = Follower(bench.connect, "main")
    assert not follower.begin()
    follower.close()
    sweeper = Sweeper(lambda bounded: bench.connect(), Deaf(), threading.Event())  # type: ignore[arg-type]
    sweeper.sweep()
    assert list(sweeper._due) == [("main", "test")]
    sweeper._rebuild("main", "test")
    sweeper._close()
    assert bench.digest() == before
    bench.pay("wallet:a", "wallet:b", 5)
    with bench.connect() as connection:
        connection.execute("UPDATE checkpoints SET tenure = NULL")
    bench.follow()
    assert bench.totals()["wallet:b"][:2] == (10, 2)
    assert bench.digest() != before


class Deaf:
    """Wake-ups that nobody hears."""

    def send(self, zone: str) -> None:
        pass

    def clear_flag(self, zone: str) -> None:
        pass


def test_a_digest_that_is_lost_meanwhile_stops_the_batch(bench: Bench) -> None:
    bench.pay("wallet:a", "wallet:b", 5)
    bench.follow()
    with bench.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute("DELETE FROM digests")
        rows = StoredRows(bench.projection, "main", 1)
        rows.add(Line(9, "wallet:c"))
        with pytest.raises(DigestLost):
            flush(connection, rows)
    assert bench.digest()


def test_a_row_that_somebody_edits_betrays_itself(bench: Bench) -> None:
    bench.pay("wallet:a", "wallet:b", 5)
    bench.follow()
    with bench.database.superuser() as connection:
        connection.execute("UPDATE read.test_totals SET amount = amount + 1 WHERE account = 'wallet:b'")
        assert find(connection, "main", "test", 1) != recomputed(bench)
        connection.execute("UPDATE read.test_totals SET amount = amount - 1 WHERE account = 'wallet:b'")
        assert find(connection, "main", "test", 1) == recomputed(bench)
    total = next(row for row in rows_of(bench) if row.account == "wallet:b")
    assert (total.amount, total.events, total.position, total.incomplete) == (5, 1, 2, False)
    assert expand(row_bytes(table_of(Total))(total)) < _digest.MODULUS


def rows_of(bench: Bench) -> list[Any]:
    with bench.connect() as connection:
        return list(stored_rows(connection, "main", table_of(Total), 1))
