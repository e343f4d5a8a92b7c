"""A zone whose stored bytes are damaged holds up neither the signing nor the archive of the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from projections._transparency import Unsignable, extend_and_sign
from tests.conftest import Database
from tests.integration.test_cli import follow, play
from tests.integration.test_up import eventually
from tests.logs import captured_logs
from tests.signing import ORIGIN, SECRET, Zone
from workers.archive import Archive
from workers.checkpoints import Checkpoints


@contextmanager
def running(run: Callable[[], None], stopping: threading.Event) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        stopping.set()
        thread.join()


def execute(database: Database, statement: str) -> None:
    with database.superuser() as owner:
        assert owner.execute(statement.encode()).rowcount > 0


def archived(database: Database) -> dict[str, set[int]]:
    """Where the archives of each zone stand."""
    with database.connect() as connection:
        rows = connection.execute("SELECT zone, position FROM archives").fetchall()
    return {zone: {position for each, position in rows if each == zone} for zone, _ in rows}


@pytest.mark.parametrize("column", ["meta", "data"])
def test_events_that_cannot_be_read_hold_up_the_archive_of_their_zone_alone(
    database: Database, column: str
) -> None:
    for zone in ("main", "other"):
        play(database, zone)
        follow(database, zone)
    execute(database, f"UPDATE events SET {column} = 'broken' WHERE zone = 'main' AND stream = 'wallet:ana'")
    stopping = threading.Event()
    with (
        captured_logs() as logs,
        running(Archive(database.connect, stopping).run, stopping) as t,
    ):
        with database.signer() as connection:
            row = connection.execute("SELECT position FROM heads WHERE zone = 'other'").fetchone()
        assert row is not None
        eventually(lambda: archived(database).get("other") == {row[0]})
        eventually(lambda: any(each["event"] == "archive_failed" for each in logs))
        assert t.is_alive()
    said = [each for each in logs if each["event"] == "archive_failed"]
    assert {(each["zone"], each["log_level"]) for each in said} == {("main", "critical")}
    places = [each["projection"] for each in said]
    assert len(places) == len(set(places))  # None was tried again at once.


def test_a_zone_whose_log_is_named_otherwise_is_not_signed_and_others_are(database: Database) -> None:
    zone, other = Zone(database, "main"), Zone(database, "other")
    for each in (zone, other):
        each.append(2, 1)
        with database.signer() as connection:
            each.go_on(connection)
        each.append(1, 1)
    execute(database, "UPDATE trees SET origin = 'bad origin' WHERE zone = 'main' AND log = 'fates'")
    stopping = threading.Event()
    signer = Checkpoints(database.signer, SECRET, ORIGIN, 0.05, stopping)
    with captured_logs() as logs, running(signer.run, stopping) as thread:
        eventually(lambda: other.newest() == 3)
        eventually(lambda: any(each["log_level"] == "critical" for each in logs))
        assert thread.is_alive()
        execute(
            database, f"UPDATE trees SET origin = '{ORIGIN}/main/fates' WHERE zone = 'main' AND log = 'fates'"
        )
        eventually(lambda: zone.newest("fates") == 3)  # Put right, it goes on by itself.
    said = next(each for each in logs if each["log_level"] == "critical")
    assert (said["event"], said["zone"], said["kind"]) == ("nothing_is_signed", "main", "WrongOrigin")
    zone.check()


def test_a_failure_that_nobody_thought_of_pauses_its_zone_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone, other = Zone(database, "main"), Zone(database, "other")
    with database.signer() as connection:
        zone.go_on(connection)
    zone.append(1, 1)
    other.append(1, 1)

    def fail(connection: Any, pepper: bytes, origin: str, zone: str, **more: Any) -> Any:
        if zone == "main":
            raise ZeroDivisionError("nobody thought\0of it")
        return extend_and_sign(connection, pepper, origin, zone, **more)

    monkeypatch.setattr("workers.checkpoints.extend_and_sign", fail)
    signer = Checkpoints(database.signer, SECRET, ORIGIN, 3_600, threading.Event())
    with captured_logs() as logs:
        signer.look()
        signer.look()
    signer.close()
    (said,) = [each for each in logs if each["log_level"] == "critical"]
    assert (said["zone"], said["kind"]) == ("main", "ZeroDivisionError") and said["exc_info"]
    with database.connect() as connection:
        told = connection.execute(
            "SELECT zone, refused FROM trees WHERE log = 'events' ORDER BY zone"
        ).fetchall()
    assert told == [("main", "ZeroDivisionError: nobody thoughtof it"), ("other", "")]
    assert other.newest() == 1


@pytest.mark.parametrize("log", ["events", "fates"])
def test_a_log_that_was_renamed_is_not_signed_under_its_new_name(database: Database, log: str) -> None:
    zone = Zone(database)
    zone.append(1, 1)
    with database.signer() as connection:
        zone.go_on(connection)
        execute(database, f"UPDATE trees SET origin = 'somebody.else/main' WHERE log = '{log}'")
        zone.append(1, 1)
        with pytest.raises(Unsignable, match="not of this installation"):
            zone.go_on(connection)
