"""The projection engine on real PostgreSQL: each event counts once, poison is set aside, rebuilds show no gap."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from commands._codec import EPOCH, event_encoder, event_leaf, zone_prefix
from domain.ledger import Credited, Debited, WalletFrozen, WalletOpened
from ops.migrate import migrate
from projections import _follower, _rebuild
from projections._arrays import array_of
from projections._engine import HandlerFailed, Projection, Record, Rows
from projections._follower import Follower
from projections._quarantine import MOST_ATTEMPTS, Excused
from projections._rebuild import rebuild, sweep
from projections._schema import statements_of
from projections._stored import StoredRows
from projections._tables import Money, Row, table, table_of
from projections._watchdog import EXIT_HUNG, HandlerHung, passed, watchdog
from tests.conftest import Database
from tests.digests import digest


@table("test_totals", key=("account",))
class Total(Row):
    account: str
    amount: Money = 0
    events: int = 0


@table("test_lines", key=("line",))
class Line(Row):
    line: int
    account: str = ""


@dataclass
class Bench:
    """A log that is written by hand, and one projection of it."""

    database: Database
    projection: Projection
    position: int = 0

    def connect(self) -> psycopg.Connection[Any]:
        return self.database.connect()

    def append(self, *events: tuple[str, Any]) -> None:
        """One command's events."""
        meta = '{"command":"c1","by":"x","i":%d,"n":%d}'
        with self.database.superuser() as connection:
            for i, (stream, event) in enumerate(events, 1):
                self.position += 1
                data = event_encoder(type(event))(event)
                m = (meta % (i, len(events))).encode()
                name = type(event).__name__
                leaf = event_leaf(zone_prefix("main"), self.position, stream, self.position, name, 0, m, data)
                connection.execute(
                    "INSERT INTO events VALUES ('main', %s, %s, %s, %s, %s, %s, %s, %s)",
                    (self.position, stream, self.position, name, data, m, EPOCH, leaf),
                )
            connection.execute("UPDATE heads SET position = %s WHERE zone = 'main'", (self.position,))

    def pay(self, source: str, target: str, amount: int) -> None:
        self.append(
            (source, Debited("FOG", amount, target, "t")), (target, Credited("FOG", amount, source, "t"))
        )

    def follow(self) -> None:
        """Feed until everything is taken or set aside."""
        follower = Follower(self.connect, "main")
        try:
            assert follower.begin()
            advance(follower, self.position)
            follower.end()
        finally:
            follower.close()

    def totals(self) -> dict[str, tuple[int, int, bool]]:
        with self.connect() as connection:
            rows = connection.execute(
                "SELECT account, amount, events, t.incomplete FROM read.test_totals t"
                " JOIN checkpoints c USING (zone, generation) WHERE c.projection = 'test' AND c.live"
            ).fetchall()
        return {account: (int(amount), events, incomplete) for account, amount, events, incomplete in rows}

    def quarantined(self) -> list[tuple[int, str]]:
        with self.connect() as connection:
            return connection.execute(
                "SELECT position, error FROM quarantine WHERE quarantined ORDER BY position"
            ).fetchall()

    def digest(self) -> str:
        with self.connect() as connection:
            return digest(connection, "main", self.projection)


def advance(follower: Follower, position: int) -> None:
    while not follower.caught_up(position):
        follower.advance()


def make_projection() -> Projection:
    made = Projection.__new__(Projection)
    made.name, made.code, made.rows, made.handlers, made.parts = "test", "1", (Total, Line), {}, {}

    @made.on(Debited)
    def debited(rows: Rows, event: Debited, record: Record) -> None:
        total = rows.of(Total, record.stream)
        total.amount -= event.amount
        total.events += 1

    @made.on(Credited)
    def credited(rows: Rows, event: Credited, record: Record) -> None:
        total = rows.of(Total, record.stream)
        total.amount += event.amount
        total.events += 1
        rows.add(Line(record.position, record.stream))

    return made


@pytest.fixture
def bench(database: Database, monkeypatch: pytest.MonkeyPatch) -> Bench:
    projection = make_projection()
    monkeypatch.setattr(_follower, "all_projections", lambda: {"test": projection})
    with database.superuser() as connection:
        connection.execute("INSERT INTO heads (zone, clock) VALUES ('main', 'real')")
        for row in (Total, Line):
            for statement in statements_of(table_of(row)):
                connection.execute(statement)
        connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA read TO fogbook_app")
    return Bench(database, projection)


def test_each_event_counts_once_however_the_log_is_cut(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded = random.Random(7)
    digests = set()
    for _ in range(60):
        bench.pay(f"wallet:{seeded.randrange(9)}", f"wallet:{seeded.randrange(9)}", seeded.randrange(1, 99))
    for cut in (1, 2, 3, 7, 1000):
        monkeypatch.setattr(_follower, "BATCH", cut)
        monkeypatch.setattr(_follower.read_tail, "__defaults__", (cut,))
        with bench.database.superuser() as connection:
            connection.execute("TRUNCATE checkpoints, read.test_totals, read.test_lines")
        bench.follow()
        digests.add(bench.digest())
    rebuild(bench.connect, "main", bench.projection)
    digests.add(bench.digest())
    assert len(digests) == 1


def test_nobody_sees_half_a_command(bench: Bench) -> None:
    for _ in range(5):
        bench.pay("wallet:a", "wallet:b", 1)
    with bench.connect() as connection:
        for limit in range(1, 10):
            taken = _follower.read_tail(connection, "main", 0, limit)
            assert taken
            assert taken[-1].ends_command


def test_followers_at_once_count_each_event_once(bench: Bench) -> None:
    for i in range(200):
        bench.pay("wallet:a", f"wallet:{i % 7}", 1)

    def follow() -> None:
        follower = Follower(bench.connect, "main")
        follower._fed = {}
        with bench.connect() as connection:
            connection.execute("UPDATE checkpoints SET tenure = NULL")
        if follower.begin():
            for fed in follower._fed.values():
                fed.alone = False
            while not follower.caught_up(bench.position):
                follower.advance()
        follower.close()

    threads = [threading.Thread(target=follow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with bench.connect() as connection:
        connection.execute("UPDATE checkpoints SET tenure = NULL")
    bench.follow()
    assert bench.totals()["wallet:a"][:2] == (-200, 200)
    assert sum(amount for amount, _, _ in bench.totals().values()) == 0
    live = bench.digest()
    rebuild(bench.connect, "main", bench.projection)
    assert bench.digest() == live


def test_rows_of_a_follower_that_dies_before_its_checkpoint_moves_are_not_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.pay("wallet:a", "wallet:b", 5)
    write = _follower.flush

    def write_and_die(*arguments: Any) -> None:
        write(*arguments)
        raise ConnectionResetError

    with monkeypatch.context() as dying:
        dying.setattr(_follower, "flush", write_and_die)
        with pytest.raises(ConnectionResetError):
            bench.follow()
    assert bench.totals() == {}
    with bench.connect() as connection:
        connection.execute("UPDATE checkpoints SET tenure = NULL")
    bench.follow()
    assert bench.totals() == {"wallet:a": (-5, 1, False), "wallet:b": (5, 1, False)}


def test_a_second_follower_leaves_the_work_to_the_first(bench: Bench) -> None:
    first, second = Follower(bench.connect, "main"), Follower(bench.connect, "main")
    assert first.begin()
    assert not second.begin()
    first.end()
    assert second.begin()
    second.end()
    first.close()
    second.close()


END_IDLE = """
SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
WHERE datname = current_database() AND state = 'idle in transaction'
"""
"""What PostgreSQL does by itself with a session that has been idle in a transaction for too long."""


def poison(bench: Bench, behave: Callable[[], None], amount: int = 666) -> None:
    healthy = bench.projection.handlers["Debited"]

    def handler(rows: Rows, event: Any, record: Record) -> None:
        rows.of(Total, record.stream)
        if event.amount == amount:
            behave()
        healthy(rows, event, record)

    bench.projection.handlers["Debited"] = handler


def raises() -> None:
    raise ZeroDivisionError("poison")


def hangs() -> None:
    """For as long as anybody waits for it, without a wait for those who wait for the test."""
    while True:
        passed(1.0)


@pytest.mark.parametrize(("behave", "error"), [(raises, "ZeroDivisionError"), (hangs, "HandlerHung")])
def test_poison_is_set_aside_with_its_stream_and_the_others_go_on(
    bench: Bench, behave: Callable[[], None], error: str
) -> None:
    bench.pay("wallet:a", "wallet:b", 1)
    bench.pay("wallet:bad", "wallet:b", 666)
    bench.pay("wallet:bad", "wallet:b", 2)
    bench.pay("wallet:a", "wallet:b", 3)
    poison(bench, behave)
    bench.follow()
    totals = bench.totals()
    assert totals["wallet:a"] == (-4, 2, False)
    assert totals["wallet:b"] == (672, 4, False)
    positions = bench.quarantined()
    assert [position for position, _ in positions] == [3, 5]
    assert error in positions[0][1]
    with bench.connect() as connection:
        row = connection.execute("SELECT attempts FROM quarantine WHERE position = 3").fetchone()
        assert row is not None
        assert row[0] < MOST_ATTEMPTS


@pytest.mark.parametrize("first", [raises, hangs])
def test_further_events_of_a_stream_that_hang_hold_nobody_up(bench: Bench, first: Callable[[], None]) -> None:
    for amount in (1, 666, 2, 777, 777, 3, 777):
        bench.pay("wallet:bad", "wallet:b", amount)
    for amount, behave in ((666, first), (777, hangs)):
        poison(bench, behave, amount)
    bench.follow()
    found = bench.quarantined()
    assert [position for position, _ in found] == [3, 5, 7, 9, 11, 13]
    assert [error.startswith(("hung: ", "raised: ")) for _, error in found] == [True, False, *[True] * 4]
    assert bench.totals()["wallet:bad"] == (-1, 1, True)
    assert bench.totals()["wallet:b"][1] == 7
    with bench.connect() as connection:
        most = connection.execute("SELECT max(attempts) FROM quarantine").fetchone()
        assert most is not None
        assert most[0] < MOST_ATTEMPTS


def test_a_handler_that_hangs_until_its_connection_is_lost_is_known_to_the_next_follower(
    bench: Bench,
) -> None:
    lost = False

    def hangs_for_long() -> None:
        nonlocal lost
        if not lost:
            with bench.database.superuser() as connection:
                connection.execute(END_IDLE)
            lost = True
        hangs()

    bench.pay("wallet:bad", "wallet:b", 666)
    bench.pay("wallet:a", "wallet:b", 1)
    poison(bench, hangs_for_long)
    with pytest.raises(psycopg.OperationalError):
        bench.follow()
    bench.follow()
    assert [position for position, _ in bench.quarantined()] == [1]
    assert bench.totals()["wallet:a"] == (-1, 1, False)


FULL = """
CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE 'no space left on device' USING ERRCODE = 'disk_full'; END $$;
"""
GONE = """
CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
    PERFORM pg_terminate_backend(pg_backend_pid());
    RETURN NEW;
END $$;
"""
FAIL = "CREATE TRIGGER fails BEFORE UPDATE OF position ON checkpoints FOR EACH ROW EXECUTE FUNCTION fails()"


@pytest.mark.parametrize("failure", [FULL, GONE])
def test_what_the_database_fails_at_is_held_against_no_event(bench: Bench, failure: str) -> None:
    """Again and again, with no chance to give the lease back, as if the worker had died."""
    excused: Excused = set()
    bench.pay("wallet:a", "wallet:b", 1)
    with bench.database.superuser() as connection:
        connection.execute(failure)
        connection.execute(FAIL)
    killed = Follower(bench.connect, "main")
    assert killed.begin()
    killed._quarantine.note_batch(("main", "test", 1))
    killed.close()
    for _ in range(2 * MOST_ATTEMPTS):
        follower = Follower(bench.connect, "main", excused)
        assert follower.begin()
        with pytest.raises(psycopg.OperationalError):
            advance(follower, bench.position)
        follower.close()
    with bench.database.superuser() as connection:
        connection.execute("DROP TRIGGER fails ON checkpoints")
    bench.follow()
    assert bench.quarantined() == []
    assert bench.totals()["wallet:b"] == (1, 1, False)


def test_notes_of_attempts_do_not_outlive_what_they_were_about(bench: Bench) -> None:
    """One who was killed between his commit and the note's end, and one whose rows somebody else held."""
    bench.pay("wallet:a", "wallet:b", 1)
    bench.follow()
    with bench.connect() as connection:
        for position in (0, 2):
            connection.execute(
                "INSERT INTO quarantine (zone, projection, generation, position, stream, attempts, quarantined, error)"
                " VALUES ('main', 'test', 1, %s, '', 1, false, 'its worker died')",
                (position,),
            )
    bench.follow()
    killed = Follower(bench.connect, "main")
    assert killed.begin()
    killed.close()
    bench.pay("wallet:a", "wallet:b", 2)
    waits = Follower(bench.connect, "main")
    assert waits.begin()
    with bench.connect() as connection, connection.transaction():
        connection.execute("SELECT FROM checkpoints FOR UPDATE")
        assert waits.advance() == 0
    waits.end()
    waits.close()
    with bench.connect() as connection:
        assert connection.execute("SELECT * FROM quarantine").fetchall() == []


def test_a_row_that_cannot_be_loaded_is_held_against_no_event(bench: Bench) -> None:
    healthy = bench.projection.handlers["Debited"]
    failures = 2 * MOST_ATTEMPTS

    def handler(rows: Rows, event: Any, record: Record) -> None:
        nonlocal failures
        if isinstance(rows, StoredRows) and failures:
            failures -= 1
            with bench.database.superuser() as connection:
                connection.execute(END_IDLE)
            rows.of(Total, f"unforeseen {failures}")
        healthy(rows, event, record)

    bench.projection.handlers["Debited"] = handler
    bench.pay("wallet:a", "wallet:b", 1)
    for _ in range(failures):
        with pytest.raises(psycopg.OperationalError):
            bench.follow()
    bench.follow()
    assert bench.quarantined() == []
    assert bench.totals()["wallet:a"] == (-1, 1, False)


def test_an_event_whose_rows_no_table_takes_is_set_aside(bench: Bench) -> None:
    """What its handler made is wrong, though it raised nothing: a count of more than 64 bits, a text with a NUL."""
    bench.pay("wallet:a", "wallet:b", 1)
    bench.pay("wallet:bad", "wallet:b", 666)
    bench.pay("wallet:worse", "wallet:b", 777)
    bench.pay("wallet:a", "wallet:b", 3)
    healthy = bench.projection.handlers["Debited"]

    def handler(rows: Rows, event: Any, record: Record) -> None:
        if event.amount == 666:
            rows.of(Total, record.stream).events = 2**70
        elif event.amount == 777:
            rows.add(Line(record.position, "a\0b"))
        healthy(rows, event, record)

    bench.projection.handlers["Debited"] = handler
    bench.follow()
    assert [position for position, _ in bench.quarantined()] == [3, 5]
    assert ["raised: " in error for _, error in bench.quarantined()] == [True, True]
    assert bench.totals()["wallet:a"] == (-4, 2, False)
    assert bench.totals()["wallet:b"] == (1447, 4, False)


def test_what_hangs_is_interrupted_by_and_by() -> None:
    def wait() -> None:
        with watchdog(0.1):
            while True:
                time.sleep(0.01)

    with pytest.raises(HandlerHung):
        wait()


WATCHED = """
import os, signal, time
from projections._watchdog import watchdog

with watchdog(1.0):
    {does}
"""


def watched(does: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WATCHED.format(does=does)], stdout=subprocess.DEVNULL)


def test_what_cannot_be_interrupted_ends_its_process() -> None:
    assert watched("time.sleep(60)").wait() == EXIT_HUNG


def test_while_a_machine_sleeps_nothing_hangs() -> None:
    child = watched("os.kill(os.getpid(), signal.SIGSTOP)")
    os.waitpid(child.pid, os.WUNTRACED)
    time.sleep(2.2)  # More than twice the limit.
    child.send_signal(signal.SIGCONT)
    assert child.wait() == 0


def test_a_worker_that_is_killed_by_chance_costs_its_successor_no_care(bench: Bench) -> None:
    for _ in range(30):
        bench.pay("wallet:a", "wallet:b", 1)
    killed = Follower(bench.connect, "main")
    assert killed.begin()
    killed.close()
    successor = Follower(bench.connect, "main")
    assert successor.begin()
    assert successor.advance() == bench.position
    successor.end()
    successor.close()
    with bench.connect() as connection:
        assert connection.execute("SELECT * FROM quarantine").fetchall() == []


def test_rows_that_miss_events_say_so_and_a_repair_makes_them_whole(bench: Bench) -> None:
    healthy = dict(bench.projection.handlers)
    bench.pay("wallet:bad", "wallet:b", 1)
    bench.follow()
    bench.pay("wallet:bad", "wallet:b", 666)
    poison(bench, raises)
    bench.follow()
    assert bench.totals()["wallet:bad"] == (-1, 1, True)
    assert not bench.totals()["wallet:b"][2]
    bench.projection.handlers = healthy
    rebuild(bench.connect, "main", bench.projection)
    assert bench.totals()["wallet:bad"] == (-667, 2, False)
    with bench.connect() as connection:
        sweep(connection, "main", bench.projection)
    assert bench.quarantined() == []
    repaired = bench.digest()
    rebuild(bench.connect, "main", bench.projection)
    assert bench.digest() == repaired
    with bench.connect() as connection:
        sweep(connection, "main", bench.projection)
        assert connection.execute("SELECT count(DISTINCT generation) FROM read.test_totals").fetchone() == (
            1,
        )
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (1,)
    assert bench.digest() == repaired


KILLER = """
import os, signal, sys
from tests.integration import test_projection_engine as t
from projections import _follower, _lease
from tests.conftest import Database
projection = t.make_projection()
_follower.all_projections = lambda: {"test": projection}
bench = t.Bench(Database(*sys.argv[1:4]), projection, int(sys.argv[4]))
t.poison(bench, lambda: os.kill(os.getpid(), signal.SIGKILL))
_lease.LEASE_S = 0
bench.follow()
"""


def test_an_event_that_kills_its_worker_is_counted_and_set_aside(bench: Bench) -> None:
    bench.pay("wallet:a", "wallet:b", 1)
    bench.pay("wallet:bad", "wallet:b", 666)
    bench.pay("wallet:a", "wallet:b", 3)
    codes = []
    for _ in range(MOST_ATTEMPTS + 2):
        database = bench.database
        arguments = [database.name, database.url, database.superuser_url, str(bench.position)]
        done = subprocess.run(
            [sys.executable, "-c", KILLER, *arguments],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONPATH": "."},
            capture_output=True,
            check=False,
        )
        codes.append(done.returncode)
        if done.returncode != -signal.SIGKILL:
            break
    assert codes == [-signal.SIGKILL] * MOST_ATTEMPTS + [0], done.stderr.decode()
    assert bench.totals()["wallet:a"] == (-4, 2, False)
    assert [position for position, _ in bench.quarantined()] == [3]
    assert bench.digest(), "what each of the killed ones had folded is in no sum"


def test_a_rebuild_beside_a_busy_log_misses_nothing_and_never_steps_back(bench: Bench) -> None:
    for _ in range(50):
        bench.pay("wallet:a", "wallet:b", 1)
    bench.follow()
    seen: list[int] = []
    stop = threading.Event()

    def look() -> None:
        with bench.connect() as connection:
            while not stop.is_set():
                row = connection.execute(
                    "SELECT c.position, t.amount FROM checkpoints c JOIN read.test_totals t USING (zone, generation)"
                    " WHERE c.live AND c.projection = 'test' AND t.account = 'wallet:b'"
                ).fetchone()
                assert row is not None, "there is always a live answer"
                assert row[0] == 2 * row[1], "the rows are those of the position"
                seen.append(row[0])

    def write() -> None:
        for _ in range(100):
            bench.pay("wallet:a", "wallet:b", 1)
            bench.follow()

    watcher, writer = threading.Thread(target=look), threading.Thread(target=write)
    watcher.start()
    writer.start()
    for _ in range(5):
        rebuild(bench.connect, "main", bench.projection)
    writer.join()
    rebuild(bench.connect, "main", bench.projection)
    stop.set()
    watcher.join()
    bench.follow()
    assert seen == sorted(seen)
    assert bench.totals()["wallet:b"][0] == 150


def test_a_rebuild_that_fails_leaves_the_live_generation_alone(bench: Bench) -> None:
    bench.pay("wallet:a", "wallet:b", 5)
    bench.follow()
    before = bench.digest()
    bench.pay("wallet:a", "wallet:b", 666)
    poison(bench, raises)
    with pytest.raises(HandlerFailed):
        rebuild(bench.connect, "main", bench.projection)
    assert bench.digest() == before
    with bench.connect() as connection:
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (1,)
        assert connection.execute("SELECT count(DISTINCT generation) FROM read.test_totals").fetchone() == (
            1,
        )


def test_rows_that_handlers_delete_are_gone_and_may_come_back(bench: Bench) -> None:
    @bench.projection.on(WalletFrozen)
    def frozen(rows: Rows, event: WalletFrozen, record: Record) -> None:
        rows.delete(Total, record.stream)

    bench.pay("wallet:a", "wallet:b", 5)
    bench.follow()
    bench.append(("wallet:b", WalletFrozen("x")))
    bench.follow()
    assert set(bench.totals()) == {"wallet:a"}
    bench.append(("wallet:b", WalletFrozen("again")))
    bench.pay("wallet:a", "wallet:b", 7)
    bench.append(("wallet:c", WalletOpened("c")))
    bench.follow()
    assert bench.totals()["wallet:b"] == (7, 1, False)
    live = bench.digest()
    rebuild(bench.connect, "main", bench.projection)
    assert bench.digest() == live


@pytest.mark.parametrize("few", [1, 2, 3, 7])
def test_a_rebuild_is_the_same_however_history_is_read_and_rows_are_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    for amount in range(1, 12):
        bench.pay(f"wallet:{amount % 4}", f"wallet:{(amount + 1) % 4}", amount)
    bench.follow()
    before = bench.digest()
    monkeypatch.setattr(_rebuild, "PAGE", few)
    monkeypatch.setattr(_rebuild, "CHUNK", few + 1)
    with bench.connect() as connection:
        written = connection.execute(
            "SELECT line, account, position FROM read.test_lines ORDER BY 1"
        ).fetchall()
        assert rebuild(bench.database.connect, "main", bench.projection) == 22
        sweep(connection, "main", bench.projection)
        again = connection.execute(
            "SELECT line, account, position FROM read.test_lines ORDER BY 1"
        ).fetchall()
    assert len(written) == 11
    assert again == written
    assert bench.digest() == before


@pytest.mark.parametrize(
    ("sql_type", "values"),
    [
        ('text COLLATE "C"', ["", "NULL", 'ä\\"{},', "null"]),
        ("bigint", [0, -1, 2**63 - 1, -(2**63)]),
        ("integer", [0, 2**31 - 1, -(2**31)]),
        ("boolean", [True, False]),
        ("numeric(38,0)", [0, 1, -1, 9_999, 10_000, 10**37, 1 - 10**38]),
        ("numeric", [10**60, -(10**45)]),
        ("timestamptz", [EPOCH, datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]),
        ("jsonb", [{"a": [1, "ä", None]}, [], 10**30]),
        ("bytea", [b"", b"\x00\xff"]),
    ],
)
def test_a_column_arrives_as_it_was_sent(database: Database, sql_type: str, values: list[Any]) -> None:
    kind = sql_type.removesuffix(' COLLATE "C"')
    with database.connect() as connection:
        for nullable, sent in ((False, values), (False, []), (True, [None, *values, None]), (True, [])):
            array = array_of(sql_type, nullable)(sent)
            row = connection.execute(f"SELECT %s::{kind}[]", (array,)).fetchone()
            assert row == (sent,)


def test_a_number_of_more_than_64_bits_is_no_bigint() -> None:
    with pytest.raises(OverflowError):
        array_of("bigint")([2**63])


def test_an_index_that_is_declared_no_more_is_dropped_and_any_other_stays(database: Database) -> None:
    with database.superuser() as connection:
        connection.execute("CREATE INDEX ledger_statement_9 ON read.ledger_statement (transaction)")
        connection.execute("CREATE INDEX ledger_statement_9 ON past.ledger_statement (transaction)")
        connection.execute("CREATE INDEX our_own_1 ON read.ledger_statement (transaction)")
        before = indexes(connection)
        migrate(database.superuser_url)
        dropped = {("read", "ledger_statement_9"), ("past", "ledger_statement_9")}
        assert indexes(connection) == before - dropped
        assert dropped < before
        assert ("read", "our_own_1") in before


def indexes(connection: psycopg.Connection[Any]) -> set[tuple[str, str]]:
    return set(connection.execute("SELECT schemaname, indexname FROM pg_indexes").fetchall())
