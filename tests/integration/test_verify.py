"""`fogbook verify`: an honest history has no differences, and whatever a superuser alters is found and located."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from eventsourcing.persistence import StoredEvent

from commands._codec import event_leaf, fate_leaf, microseconds, zone_prefix
from commands._recorder import Datastore, FogbookApplicationRecorder
from domain.ledger import OpenWallet, Transfer
from ops.home import Refused
from ops.servers import Servers
from ops.verify import Found, _aside, verify
from ops.zones import ensure_zone
from projections._archive import past_name
from projections._digest import recompute, to_bytes
from projections._engine import all_projections
from projections._rebuild import rebuild
from projections._schema import tables
from tests.conftest import PEPPER, Database
from tests.honest import (
    ORIGIN,
    TRANSFERS,
    Honest,
    archive,
    command,
    copied,
    copy,
    follow,
    honest,
    issue,
    publish,
)

__all__ = ["copy", "honest"]


@pytest.fixture(scope="module")
def target(servers: Servers, honest: Honest) -> Iterator[Database]:
    """For harm that is undone."""
    with copied(servers, honest) as database:
        yield database


@contextmanager
def harmed(database: Database, *statements: str) -> Iterator[None]:
    """A superuser's statements, undone behind the block."""
    tables = {re.split(" (?:INTO|FROM|UPDATE) ", f" {each}", maxsplit=1)[1].split()[0] for each in statements}
    with database.superuser() as connection:
        for table in tables:
            connection.execute(f"CREATE TEMP TABLE {table.replace('.', '_')}_before AS TABLE {table}")
        for each in statements:
            assert connection.execute(each).rowcount
        yield
        for table in tables:
            connection.execute(f"TRUNCATE {table}")
            connection.execute(f"INSERT INTO {table} TABLE {table.replace('.', '_')}_before")


def run(database: Database, **how: Any) -> Found:
    return verify(database.connect, None, lambda done, total: None, pepper=PEPPER.encode(), **how)


# Honest histories


def test_an_honest_history_has_no_differences(honest: Honest) -> None:
    held = [(log, note) for log, note in honest.kept.items()]
    found = run(honest.database, deep=True, held=held)
    assert found.problems == [] and found.count == 0
    counts = (found.events, found.commands, found.snapshots)
    assert counts[0] > 2 * TRANSFERS and counts[1] == TRANSFERS + 7 and counts[2] >= 2
    assert found.rows and found.attestations > 20 and found.signatures > 6 and found.unread == 0


def test_processes_find_the_same(honest: Honest) -> None:
    assert run(honest.database, processes=2, spread_above=0).as_json() == run(honest.database).as_json()


def test_rebuilt_projections_are_no_differences(copy: Database) -> None:
    for projection in ("ledger", "timers"):
        rebuild(copy.connect, "main", all_projections()[projection])
    publish(copy)
    assert run(copy, deep=True).problems == []


def test_a_zone_of_another_application_and_one_with_a_manual_clock(copy: Database) -> None:
    ensure_zone(copy.url, "sim", "manual")
    datastore = Datastore(copy.url, "library")
    try:
        recorder = FogbookApplicationRecorder(datastore)
        for number in range(3):
            originator = uuid4()
            recorder.insert_events([StoredEvent(originator, v, f"app:E{number}", b"{}") for v in (1, 2)])
    finally:
        datastore.close()
    for zone in ("sim", "library"):
        follow(copy, zone)
        publish(copy, zone)
    found = run(copy)
    assert found.problems == [] and found.events > 1_000
    with copy.superuser() as connection:
        connection.execute("UPDATE events SET data = '{1}' WHERE zone = 'library' AND position = 4")
    assert (4, "library") in {(each.position, each.zone) for each in run(copy).problems}


def test_a_quarantined_event_leaves_rows_incomplete_and_is_no_difference(
    copy: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = all_projections()["ledger"]

    def poison(rows: Any, event: Any, record: Any) -> None:
        if record.version == 2 and record.stream == "wallet:eva":
            raise ValueError("poison")
        handle(rows, event, record)

    handle = ledger.handlers["Credited"]
    commands = [command(OpenWallet("wallet:eva"), "eva", "open")]
    commands += [command(Transfer("wallet:ana", "wallet:eva", 1), "ana", f"eva{i}") for i in range(3)]
    assert issue(copy, commands) == [200] * 4
    monkeypatch.setitem(ledger.handlers, "Credited", poison)
    follow(copy)
    publish(copy)
    with copy.superuser() as connection:
        row = connection.execute("SELECT count(*) FROM quarantine WHERE quarantined").fetchone()
    assert row is not None and row[0] >= 3
    assert run(copy, deep=True).problems == []
    with copy.superuser() as connection:
        connection.execute("DELETE FROM quarantine WHERE projection = 'ledger'")
    assert run(copy).count, "then the rows lack events for no reason"


def without_the_newest(database: Database, said: str) -> tuple[int, str]:
    """A follower whose handler fails at the newest event of a wallet, however it fails, leaves this behind."""
    ledger = all_projections()["ledger"]
    handle = ledger.handlers["Credited"]
    assert issue(database, [command(OpenWallet("wallet:eva"), "eva", "open")]) == [200]
    assert issue(database, [command(Transfer("wallet:ana", "wallet:eva", 7), "ana", "to eva")]) == [200]

    def passed_over(rows: Any, event: Any, record: Any) -> None:
        if record.stream != "wallet:eva":
            handle(rows, event, record)

    with patch.dict(ledger.handlers, {"Credited": passed_over}):
        follow(database)
    with database.superuser() as connection:
        row = connection.execute(
            "INSERT INTO quarantine SELECT zone, 'ledger', 1, position, stream, 6, true, %s FROM events "
            "WHERE stream = 'wallet:eva' AND type = 'Credited' RETURNING position, stream",
            (said,),
        ).fetchone()
        assert row is not None
        connection.execute("DELETE FROM archives")
        for declared in tables():
            connection.execute(f"TRUNCATE {past_name(declared)}")
    return row[0], row[1]


def hang() -> None:
    while True:
        pass


FAILURES: dict[str, tuple[str, Callable[[], None]]] = {
    "it hangs": ("hung: HandlerHung()", hang),
    "it ends its process": ("its worker died", lambda: os._exit(0)),
    "it is killed": ("its worker died", lambda: os.kill(os.getpid(), signal.SIGKILL)),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_an_event_at_which_a_handler_dies_is_no_difference_but_said(
    copy: Database, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    said, fail = FAILURES[failure]
    monkeypatch.setattr(_aside, "CAREFUL_LIMIT_S", 1.0)
    position, stream = without_the_newest(copy, said)
    ledger = all_projections()["ledger"]
    handle = ledger.handlers["Credited"]

    def deadly(rows: Any, event: Any, record: Any) -> None:
        if record.stream == stream:
            fail()
        handle(rows, event, record)

    with patch.dict(ledger.handlers, {"Credited": deadly}):
        found = run(copy)
    assert found.problems == [] and found.set_aside == 1
    assert (
        found.unproven == [f"zone main: ledger has set aside what its handlers fail at: {position}"]
        and found.as_json()["unproven"]
    )


@pytest.mark.parametrize("said", ["hung: HandlerHung()", "its worker died", "raised: ValueError()"])
def test_an_event_that_is_set_aside_although_it_folds_is_named(copy: Database, said: str) -> None:
    """Rows and digest are those of a fold without it, and nothing was attested of it."""
    position, _ = without_the_newest(copy, said)
    found = run(copy, deep=True)
    assert found.set_aside == 0
    whats = {(each.position, each.table, each.what) for each in found.problems}
    assert (position, "quarantine", "ledger: it is set aside although it folds") in whats
    assert any(
        each.table == "read.ledger_balances" and each.row == ["wallet:eva", "FOG"] for each in found.problems
    )


def test_what_is_set_aside_is_one_that_raises_and_all_behind_it(copy: Database) -> None:
    ledger = all_projections()["ledger"]
    handle = ledger.handlers["Credited"]

    def poison(rows: Any, event: Any, record: Any) -> None:
        if record.version == 2 and record.stream == "wallet:eva":
            raise ValueError("poison")
        handle(rows, event, record)

    commands = [command(OpenWallet("wallet:eva"), "eva", "open")]
    commands += [command(Transfer("wallet:ana", "wallet:eva", 1), "ana", f"eva{i}") for i in range(3)]
    assert issue(copy, commands) == [200] * 4
    with patch.dict(ledger.handlers, {"Credited": poison}):
        follow(copy)
        found = run(copy)
        assert found.problems == [] and found.set_aside == 3
        with copy.superuser() as connection:
            rows = connection.execute("SELECT position FROM quarantine ORDER BY position").fetchall()
        first, *_, last = (row[0] for row in rows)
        root = f"WHERE position = {first}"
        copied = "INSERT INTO quarantine SELECT zone, projection, generation,"
        rest = f"stream, attempts, quarantined, error FROM quarantine {root}"
        for statement, position, says in (
            (f"UPDATE quarantine SET error = 'hung: x' {root}", first, "its handler raises"),
            (f"UPDATE quarantine SET stream = 'wallet:ben' {root}", first, "of another stream"),
            (f"DELETE FROM quarantine WHERE position = {last}", last, "although an earlier event"),
            (f"{copied} 1, {rest}", 1, "no event that would be folded"),
            (f"{copied} 9000, {rest}", 9000, "no event that would be folded"),
        ):
            with harmed(copy, statement):
                named = [e for e in run(copy).problems if e.table == "quarantine" and e.position == position]
            assert any(says in each.what for each in named), (statement, named)


def test_other_code_is_a_difference_until_it_was_rebuilt(copy: Database) -> None:
    """Rows, digest, code and generation altered at once: nothing that was attested is of that generation."""
    ledger = all_projections()["ledger"]
    with copy.superuser() as connection:
        for name in [table.name for table in ledger.tables] + ["checkpoints", "digests"]:
            which = " AND projection = 'ledger'" if "." not in name else ""
            connection.execute(f"UPDATE {name} SET generation = generation + 1 WHERE zone = 'main'{which}")
        connection.execute("UPDATE checkpoints SET code = '0000000000000000' WHERE projection = 'ledger'")
        connection.execute("UPDATE read.ledger_balances SET posted = posted + 1 WHERE account = 'wallet:ben'")
        faked = to_bytes(recompute(connection, "main", ledger, 2))
        connection.execute("UPDATE digests SET accumulator = %s WHERE projection = 'ledger'", (faked,))
        connection.execute("UPDATE archives SET code = '7.d1' WHERE projection = 'ledger'")
    named = {(each.table, each.field, each.what.partition(" (")[0]) for each in run(copy).problems}
    assert named == {
        ("checkpoints", "code", "its read model was folded by other code"),
        ("archives", "code", "its past rows were folded by other code"),
    }
    rebuild(copy.connect, "main", ledger)
    archive(copy)
    assert run(copy).problems == []


def test_a_digest_of_another_form_is_not_held_against_rows(copy: Database) -> None:
    """A longer one, as an earlier version kept: what is said is to rebuild, and not that somebody altered rows."""
    ledger = all_projections()["ledger"]
    with copy.superuser() as connection:
        connection.execute("UPDATE checkpoints SET code = '1.d1' WHERE projection = 'ledger'")
        connection.execute(
            "UPDATE digests SET accumulator = decode(repeat('2a', 2048), 'hex') WHERE projection = 'ledger'"
        )
    named = {each.what.partition(" (")[0] for each in run(copy).problems}
    assert named == {"its read model was folded by other code", "it was attested as of other code"}
    rebuild(copy.connect, "main", ledger)
    archive(copy)
    assert run(copy).problems == []


# What is altered


Where = dict[str, Any]
ONE = "zone = 'main' AND position = 77"

LOG_HARMS: dict[str, tuple[str, Where]] = {
    "an event that no command tells of": (
        f"UPDATE events SET meta = '', type = 'Elsewhere' WHERE {ONE}",
        {"position": 77, "what": "no command tells of it"},
    ),
    "a byte of data": (f"UPDATE events SET data = set_byte(data, 20, 65) WHERE {ONE}", {"position": 77}),
    "a byte of meta": (f"UPDATE events SET meta = set_byte(meta, 12, 57) WHERE {ONE}", {"position": 77}),
    "a stream": (f"UPDATE events SET stream = 'wallet:eve' WHERE {ONE}", {"position": 77}),
    "a version": (f"UPDATE events SET version = 100000 WHERE {ONE}", {"position": 77}),
    "a type": (f"UPDATE events SET type = 'Credited' WHERE {ONE}", {"position": 77}),
    "a time": (
        f"UPDATE events SET recorded_at = recorded_at + interval '1 us' WHERE {ONE}",
        {"position": 77},
    ),
    "a back-dated event": (
        f"UPDATE events SET recorded_at = recorded_at - interval '1 day' WHERE {ONE}",
        {"position": 77},
    ),
    "a leaf": (f"UPDATE events SET leaf = sha256(leaf) WHERE {ONE}", {"position": 77}),
    "a deleted event": (f"DELETE FROM events WHERE {ONE}", {"position": 77}),
    "an inserted event": (
        "INSERT INTO events SELECT zone, 100000, stream, 100000, type, data, meta, recorded_at, leaf "
        f"FROM events WHERE {ONE}",
        {"position": 1055},
    ),
    "an event before the first one": (
        "INSERT INTO events SELECT zone, 0, stream, 0, type, data, meta, recorded_at, leaf "
        f"FROM events WHERE {ONE}",
        {"position": 0},
    ),
    "two swapped events": (
        "UPDATE events SET position = 79 WHERE position = -77",
        {"position": 77},
    ),
    "the last events": ("DELETE FROM events WHERE position > 500", {"position": 501}),
    "the head's position": ("UPDATE heads SET position = position - 2", {"table": "heads"}),
    "the head's number": ("UPDATE heads SET number = number + 1", {"table": "heads"}),
    "the head's time": (
        "UPDATE heads SET recorded_at = recorded_at + interval '1 s'",
        {"field": "recorded_at"},
    ),
    "the head": ("DELETE FROM heads", {"table": "heads"}),
    "an answer": ("UPDATE commands SET answer = set_byte(answer, 90, 65) WHERE number = 30", {"command": 30}),
    "a request": ("UPDATE commands SET request = request || ' '::bytea WHERE number = 30", {"command": 30}),
    "a status": ("UPDATE commands SET status = 200 WHERE status = 409", {"command": 106}),
    "a principal": ("UPDATE commands SET principal = 'eve' WHERE number = 30", {"command": 30}),
    "a key": ("UPDATE commands SET key = 'other' WHERE number = 30", {"command": 30}),
    "an If-Match": ("UPDATE commands SET if_match = 3 WHERE number = 30", {"command": 30}),
    "a fate's position": ("UPDATE commands SET position = position + 2 WHERE number = 30", {"command": 30}),
    "a refusal's position": ("UPDATE commands SET position = 1 WHERE status = 409", {"command": 106}),
    "a fate's events": ("UPDATE commands SET events = 0 WHERE number = 30", {"command": 30}),
    "a fate's time": (
        "UPDATE commands SET recorded_at = recorded_at - interval '1 h' WHERE number = 30",
        {"command": 30},
    ),
    "a deleted fate": ("DELETE FROM commands WHERE number = 30", {"command": 30}),
    "a deleted refusal": ("DELETE FROM commands WHERE status = 409", {"command": 106}),
    "an inserted fate": (
        "INSERT INTO commands SELECT zone, 100000, principal, 'more', act_as, request, if_match, status, answer, "
        "position, events, recorded_at, leaf FROM commands WHERE number = 30",
        {"command": 528},
    ),
    "a snapshot's state": (
        "UPDATE snapshots SET state = "
        "convert_to(replace(convert_from(state, 'UTF8'), '\"FOG\":', '\"FOG\":9'), 'UTF8') "
        "WHERE stream = 'wallet:ana'",
        {"stream": "wallet:ana", "field": "state"},
    ),
    "a name in a snapshot": (
        "UPDATE snapshots SET state = convert_to(replace(convert_from(state, 'UTF8'), 'held', 'helt'), 'UTF8') "
        "WHERE stream = 'wallet:ana'",
        {"stream": "wallet:ana", "field": "state"},
    ),
    "a snapshot's version": (
        "UPDATE snapshots SET version = version - 1 WHERE stream = 'wallet:ana'",
        {"stream": "wallet:ana"},
    ),
    "a snapshot's position": (
        "UPDATE snapshots SET position = 3 WHERE stream = 'wallet:ana'",
        {"stream": "wallet:ana", "field": "position"},
    ),
    "a snapshot's schema": (
        "UPDATE snapshots SET schema = 'f' || substr(schema, 1, 15) WHERE stream = 'wallet:ana'",
        {"stream": "wallet:ana", "field": "schema"},
    ),
    "a snapshot of nothing": (
        "UPDATE snapshots SET stream = 'wallet:eve' WHERE stream = 'wallet:ana'",
        {"stream": "wallet:eve"},
    ),
    "a tile": (
        "UPDATE tiles SET hashes = set_byte(hashes, 40 * 32, 1 # get_byte(hashes, 40 * 32)) "
        "WHERE log = 'events' AND level = 0 AND index = 1",
        {"table": "tiles", "row": ["events", 0, 1]},
    ),
    "a tile above": (
        "UPDATE tiles SET hashes = sha256(hashes) || substr(hashes, 33) WHERE log = 'events' AND level = 1",
        {"table": "tiles", "row": ["events", 1, 0]},
    ),
    "a deleted tile": (
        "DELETE FROM tiles WHERE log = 'fates' AND level = 0 AND index = 1",
        {"table": "tiles", "row": ["fates", 0, 1]},
    ),
    "a tile cut off": (
        "UPDATE tiles SET hashes = substr(hashes, 1, 32) WHERE log = 'fates' AND level = 0 AND index = 1",
        {"table": "tiles", "row": ["fates", 0, 1]},
    ),
    "a tile too many": (
        "INSERT INTO tiles SELECT zone, log, level, 99, hashes FROM tiles WHERE log = 'events' AND level = 1",
        {"table": "tiles", "row": ["events", 1, 99]},
    ),
    "a stored root": ("UPDATE trees SET root = sha256(root) WHERE log = 'events'", {"table": "trees"}),
    "a stored size": ("UPDATE trees SET size = size + 1 WHERE log = 'events'", {"table": "trees"}),
    "a checkpoint": (
        "UPDATE signed_checkpoints SET note = replace(note, E'\\n', E' \\n') WHERE log = 'events'",
        {"table": "signed_checkpoints"},
    ),
    "a checkpoint's root": (
        "UPDATE signed_checkpoints SET root = sha256(root) WHERE log = 'fates'",
        {"table": "signed_checkpoints"},
    ),
    "a signing key": (
        "UPDATE signing_keys SET public_key = sha256(public_key) WHERE serial = 2",
        {"table": "signing_keys", "row": ["main", 2]},
    ),
    "a key that is valid again": (
        "UPDATE signing_keys SET retired_at = NULL",
        {"table": "signing_keys", "row": ["main", 1]},
    ),
    "a deleted key": (
        "DELETE FROM signing_keys WHERE serial = 1",
        {"table": "signing_keys", "row": ["main", 1]},
    ),
    "a cosignature": (
        "UPDATE cosignatures SET line = replace(line, 'A', 'B')",
        {"table": "cosignatures"},
    ),
    "an attestation": (
        "UPDATE attestations SET body = set_byte(body, 40, 57) WHERE ordinal = 9",
        {"table": "attestations", "row": ["main", 9]},
    ),
    "an attestation's place": (
        "UPDATE attestations SET after_number = 100000 WHERE ordinal = (SELECT max(ordinal) FROM attestations)",
        {"table": "attestations"},
    ),
    "a deleted attestation": (
        "DELETE FROM attestations WHERE ordinal = 9",
        {"table": "attestations", "row": ["main", 10]},
    ),
}


@pytest.mark.parametrize("harm", LOG_HARMS)
def test_what_is_altered_in_the_log_is_located(target: Database, harm: str) -> None:
    statement, where = LOG_HARMS[harm]
    swap = (
        f"UPDATE events SET position = -77 WHERE {ONE}",
        "UPDATE events SET position = 77 WHERE position = 79",
    )
    with harmed(target, *(swap if harm == "two swapped events" else ()), statement):
        found = run(target, models="snapshot" in harm)
    assert any(where.items() <= asdict(each).items() for each in found.problems), found.problems[:3]


MODEL_HARMS: dict[str, tuple[str, Where]] = {
    "a figure": (
        "UPDATE read.ledger_balances SET posted = posted + 1 WHERE account = 'wallet:ben'",
        {"table": "read.ledger_balances", "row": ["wallet:ben", "FOG"], "field": "posted"},
    ),
    "a row's position": (
        "UPDATE read.ledger_balances SET position = position - 1 WHERE account = 'wallet:ben'",
        {"table": "read.ledger_balances", "row": ["wallet:ben", "FOG"], "field": "position"},
    ),
    "a row that hides": (
        "UPDATE read.ledger_balances SET generation = 9 WHERE account = 'wallet:ben'",
        {"table": "read.ledger_balances", "row": ["wallet:ben", "FOG"]},
    ),
    "a row too many": (
        "INSERT INTO read.timers (zone, generation, timer, position) VALUES ('main', 1, 'forged', 1)",
        {"table": "read.timers", "row": ["forged"], "position": 1},
    ),
    "a digest": (
        "UPDATE digests SET accumulator = set_byte(accumulator, 7, 1 # get_byte(accumulator, 7)) "
        "WHERE projection = 'ledger'",
        {"table": "digests", "row": ["main", "ledger"]},
    ),
    "a deleted digest": (
        "DELETE FROM digests WHERE projection = 'ledger'",
        {"table": "digests", "row": ["main", "ledger"]},
    ),
    "a checkpoint beyond the end": (
        "UPDATE checkpoints SET position = 100000 WHERE projection = 'ledger'",
        {"table": "checkpoints", "row": ["main", "ledger"], "field": "position"},
    ),
    "a checkpoint that goes back": (
        "UPDATE checkpoints SET position = 2 WHERE projection = 'ledger'",
        {"table": "checkpoints", "field": "position"},
    ),
    "a checkpoint's time": (
        "UPDATE checkpoints SET recorded_at = now() WHERE projection = 'ledger'",
        {"table": "checkpoints", "field": "recorded_at"},
    ),
    "a checkpoint's code": (
        "UPDATE checkpoints SET code = '0' WHERE projection = 'ledger'",
        {"table": "checkpoints", "field": "code"},
    ),
    "a deleted checkpoint": (
        "DELETE FROM checkpoints WHERE projection = 'ledger'",
        {"table": "checkpoints", "row": ["main", "ledger"]},
    ),
    "a forged quarantine": (
        "INSERT INTO quarantine VALUES ('main', 'ledger', 1, 77, 'wallet:ana', 1, true, 'raised: x')",
        {"table": "quarantine", "position": 77},
    ),
}


PAST = "past.ledger_balances"
BEN = "account = 'wallet:ben' AND since = 78"
MODEL_HARMS |= {
    "a past figure": (
        f"UPDATE past.ledger_balances SET posted = posted + 1 WHERE {BEN}",
        {"table": PAST, "row": ["wallet:ben", "FOG", 78]},
    ),
    "a figure that lasts": (
        "UPDATE past.ledger_balances SET posted = posted + 1 WHERE account = 'wallet:ben' AND node = -1",
        {"table": PAST},
    ),
    "how long it lasted": (
        f"UPDATE past.ledger_balances SET until = until - 1 WHERE {BEN}",
        {"table": PAST, "row": ["wallet:ben", "FOG", 78]},
    ),
    "where it lies": (
        f"UPDATE past.ledger_balances SET node = 100000 WHERE {BEN}",
        {"table": PAST, "row": ["wallet:ben", "FOG", 78]},
    ),
    "a deleted version": (
        f"DELETE FROM past.ledger_balances WHERE {BEN}",
        {"table": PAST, "row": ["wallet:ben", "FOG", 78]},
    ),
    "an archive beyond the end": (
        "UPDATE archives SET position = 100000 WHERE projection = 'ledger'",
        {"table": "archives", "row": ["main", "ledger"]},
    ),
}


@pytest.mark.parametrize("harm", MODEL_HARMS)
def test_what_is_altered_in_read_models_is_located(target: Database, harm: str) -> None:
    statement, where = MODEL_HARMS[harm]
    with harmed(target, statement):
        found = run(target)
    assert any(where.items() <= asdict(each).items() for each in found.problems), found.problems[:3]


def test_what_was_undone_is_honest_again(target: Database) -> None:
    """So each of the tests before was about its own harm."""
    assert run(target).problems == []


def test_a_timer_counts_as_done_only_with_its_command(copy: Database) -> None:
    issued = command(Transfer("wallet:ana", "wallet:ben", 1), "ana", "timer:hold:h1:2")
    assert issue(copy, [issued]) == [200]
    with copy.superuser() as connection:
        for timer in ("hold:h1", "hold:h2"):
            # A timer of the read model, which is no row of the log: that is said as well.
            connection.execute(
                "INSERT INTO read.timers (zone, generation, timer, position) VALUES ('main', 1, %s, 3)",
                (timer,),
            )
        connection.execute("INSERT INTO timer_fates VALUES ('main', 'hold:h1', 2, true, now(), '')")
        assert not fates_of_timers(copy)
        connection.execute("UPDATE timer_fates SET accepted = false")
        assert fates_of_timers(copy) == {"hold:h1"}
        connection.execute("UPDATE timer_fates SET accepted = true, attempts = 1")
        assert fates_of_timers(copy) == {"hold:h1"}
        connection.execute("UPDATE timer_fates SET attempts = 2")
        connection.execute("INSERT INTO timer_fates VALUES ('main', 'hold:h2', 1, true, now(), '')")
        assert fates_of_timers(copy) == {"hold:h2"}


def test_a_settled_timer_and_one_for_another_zone_need_their_commands_as_well(copy: Database) -> None:
    """A timer that has no row any more, or never had one, was issued here or in whatever zone it was for."""
    ensure_zone(copy.url, "village")
    sent = command(OpenWallet("wallet:eva"), "eva", "timer:main:hold:h4:1")
    assert issue(copy, [sent], "village") == [200]
    assert issue(copy, [command(OpenWallet("wallet:eva"), "eva", "timer:hold:h3:1")]) == [200]
    rows = (
        "INSERT INTO read.timers (zone, generation, timer, to_zone, position) VALUES ('main', 1, %s, %s, 3)"
    )
    with copy.superuser() as connection:
        for timer in ("hold:h3", "hold:h4"):
            connection.execute("INSERT INTO timer_fates VALUES ('main', %s, 1, true, now(), '')", (timer,))
        assert not fates_of_timers(copy)
        connection.execute(rows, ("hold:h3", "village"))
        connection.execute(rows, ("hold:h4", "elsewhere"))
        assert fates_of_timers(copy) == {"hold:h3", "hold:h4"}
        connection.execute("DELETE FROM read.timers WHERE timer IN ('hold:h3', 'hold:h4')")
        connection.execute("UPDATE timer_fates SET attempts = 2")
        assert fates_of_timers(copy) == {"hold:h3", "hold:h4"}
        connection.execute("DELETE FROM timer_fates")
        connection.execute("INSERT INTO timer_fates VALUES ('main', 'unbonding:x', 1, true, now(), '')")
        assert fates_of_timers(copy) == {"unbonding:x"}


def fates_of_timers(database: Database) -> set[str]:
    return {each.row[1] for each in run(database).problems if each.table == "timer_fates" and each.row}


def test_rows_and_digest_that_were_faked_together_contradict_what_was_attested(copy: Database) -> None:
    """Rows, digest and code altered at once: only what was signed stands against it."""
    with copy.superuser() as connection:
        connection.execute("UPDATE read.ledger_balances SET posted = posted + 1 WHERE account = 'wallet:ben'")
        connection.execute("UPDATE checkpoints SET code = '0' WHERE projection = 'ledger'")
        faked = recompute(connection, "main", all_projections()["ledger"], 1)
        connection.execute(
            "UPDATE digests SET accumulator = %s WHERE projection = 'ledger'", (to_bytes(faked),)
        )
    whats = {each.what for each in run(copy).problems}
    assert "the digest is not the one that was attested" in whats


# What only a checkpoint kept elsewhere shows


def rewrite(database: Database, position: int) -> None:
    """What an operator can do: alter a transfer, and compute everything anew that follows from it."""
    ours = zone_prefix("main")
    with database.superuser() as connection:
        row = connection.execute(
            "SELECT stream, version, type, data, meta, recorded_at FROM events WHERE position = %s",
            (position,),
        ).fetchone()
        assert row is not None
        stream, version, type, data, meta, at = row
        forged = data.replace(b'"memo":""', b'"memo":"x"')
        assert forged != data
        leaf = event_leaf(ours, position, stream, version, type, microseconds(at), meta, forged)
        connection.execute(
            "UPDATE events SET data = %s, leaf = %s WHERE position = %s", (forged, leaf, position)
        )
        fate = connection.execute(
            "SELECT number, principal, act_as, key, request, if_match, status, answer, position, events, recorded_at "
            "FROM commands WHERE position >= %s ORDER BY number LIMIT 1",
            (position,),
        ).fetchone()
        assert fate is not None
        values = [*fate[:7], fate[7].replace(data, forged), *fate[8:10], microseconds(fate[10])]
        leaf = fate_leaf(ours, *values)
        connection.execute(
            "UPDATE commands SET answer = %s, leaf = %s WHERE number = %s", (values[7], leaf, fate[0])
        )
    start_over(database)


def start_over(database: Database) -> None:
    with database.superuser() as connection:
        for table in ("trees", "tiles", "signed_checkpoints", "cosignatures", "attestations", "signing_keys"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("DELETE FROM archives")
        for declared in tables():
            connection.execute(f"TRUNCATE {past_name(declared)}")
    for projection in all_projections().values():
        rebuild(database.connect, "main", projection)
    archive(database)
    publish(database)


def test_a_rewritten_history_differs_from_a_checkpoint_kept_elsewhere(copy: Database, honest: Honest) -> None:
    rewrite(copy, 77)
    assert run(copy).problems == [], "by itself it is a history like any other"
    found = run(copy, held=[("kept", honest.kept["events"]), ("fates", honest.kept["fates"])])
    size = int(honest.kept["events"].split("\n")[1])
    assert [each.position for each in found.problems] == [size, None]
    assert all("is in" in each.what for each in found.problems)


def test_a_history_that_was_cut_off_is_shorter_than_a_checkpoint(copy: Database, honest: Honest) -> None:
    with copy.superuser() as connection:
        connection.execute("DELETE FROM commands WHERE number > 400")
        connection.execute("DELETE FROM snapshots")
        cut = "SELECT max(position), max(number), max(recorded_at) FROM commands"
        connection.execute("DELETE FROM events WHERE position > (SELECT max(position) FROM commands)")
        connection.execute(f"UPDATE heads SET (position, number, recorded_at) = ({cut})")
        connection.execute("DELETE FROM checkpoints")
    follow(copy)
    start_over(copy)
    assert run(copy).problems == []
    found = run(copy, held=[("kept", honest.kept["events"])])
    (cut_off,) = found.problems
    assert "cut off" in cut_off.what and cut_off.position is not None and cut_off.position > 700


@pytest.mark.parametrize(
    ("note", "said"),
    [
        ("nonsense", "cannot be used"),
        (f"{ORIGIN}/elsewhere\n1\n{'A' * 43}=\n\n\u2014 x {'A' * 92}\n", "no log of this installation"),
        (f"{ORIGIN}/main\n1\n{'A' * 43}=\n\n\u2014 x {'A' * 92}\n", "No known key"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_refused(honest: Honest, note: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        run(honest.database, held=[("file", note)], models=False)


def test_a_checkpoint_with_a_forged_signature_is_refused(honest: Honest) -> None:
    note = honest.kept["events"].replace("\n5", "\n6").replace("\n1", "\n2")
    with pytest.raises(Refused, match="signature"):
        run(honest.database, held=[("file", note)], models=False)


# Going on


def test_a_run_goes_on_where_the_one_before_it_ended(copy: Database, tmp_path: Path) -> None:
    memory = tmp_path / "verified.json"
    first = run(copy, resume=memory, models=False)
    assert issue(copy, [command(Transfer("wallet:ana", "wallet:ben", 1), "ana", "later")]) == [200]
    publish(copy)
    second = run(copy, resume=memory, models=False)
    assert (first.count, second.count) == (0, 0)
    assert (second.events, second.commands) == (2, 1) and first.events > 1_000
    with copy.superuser() as connection:
        connection.execute("UPDATE events SET data = data || ' '::bytea WHERE position = 1051")
    publish(copy)
    third = run(copy, resume=memory, models=False)
    assert third.events == 0, "what was verified is not read again"


def test_a_run_does_not_go_on_behind_another_history(copy: Database, tmp_path: Path) -> None:
    memory = tmp_path / "verified.json"
    run(copy, resume=memory, models=False)
    rewrite(copy, 77)
    found = run(copy, resume=memory, models=False)
    assert found.events > 1_000 and "does not begin with what was verified" in found.problems[0].what
    memory.write_text("{")
    with pytest.raises(Refused, match="does not say"):
        run(copy, resume=memory)
