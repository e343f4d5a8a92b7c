"""Trees that grow and checkpoints that are signed, by any number of signers, killed at any point."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops._supervise import Child, spawn
from ops.signed import SignedFolder
from projections import _transparency
from projections._attestations import Entry, add, attestation_index, entry_at, fate_index
from projections._notes import parse_note
from projections._transparency import (
    EVENTS,
    FATES,
    WrongOrigin,
    begin,
    extend,
    extend_and_sign,
    lock,
    root_at,
)
from projections._tree import EMPTY_ROOT
from tests.conftest import PEPPER, Database
from tests.integration.test_up import ROOT, command, environment, eventually
from tests.signing import ORIGIN, SECRET, Zone, root


@pytest.fixture
def zone(database: Database) -> Zone:
    return Zone(database)


# Trees


@pytest.mark.parametrize("seed", range(3))
def test_a_tree_extended_in_chunks_has_the_root_of_all_its_leaves(
    zone: Zone, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(_transparency, "CHUNK", (10_000, 100, 300)[seed])
    with zone.database.signer() as connection:
        begin(connection, SECRET, ORIGIN, zone.name)
        for _ in range(12):
            zone.append(chance.choice([0, 1, 255, 256, 257]), chance.choice([0, 1, 2, 240]))
            assert extend(connection, zone.name, EVENTS) == len(zone.events)
            assert extend(connection, zone.name, FATES) == len(zone.fates) + 1
        for log, leaves in ((EVENTS, zone.events), (FATES, zone.second_log(connection))):
            for size in {1, 2, 255, 256, 257, len(leaves), *chance.sample(range(len(leaves)), 5)}:
                if size <= len(leaves):
                    assert root_at(connection, zone.name, log, size) == root(leaves[:size]), size


_zones = iter(range(10**6))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=12))
def test_every_entry_of_the_second_log_stands_where_the_arithmetic_says(
    database: Database, steps: list[tuple[int, int, bool]]
) -> None:
    """Against a list to which fates and attestations are added one by one; the first key comes first."""
    zone = Zone(database, f"z{next(_zones)}")
    expected = [Entry(False, 1)]
    ordinals = 1
    with database.signer() as connection:
        begin(connection, SECRET, ORIGIN, zone.name)
        for fates, attestations, extended in steps:
            expected += [Entry(True, len(zone.fates) + n) for n in range(1, fates + 1)]
            zone.append(0, fates)
            with connection.transaction():
                lock(connection, zone.name, FATES)
                add(connection, zone.name, "test", [b"%d" % n for n in range(attestations)])
            expected += [Entry(False, ordinals + n) for n in range(1, attestations + 1)]
            ordinals += attestations
            if extended:
                assert extend(connection, zone.name, FATES) == len(expected)
        extend(connection, zone.name, FATES)
        assert [entry_at(connection, zone.name, i) for i in range(len(expected))] == expected
        for index, entry in enumerate(expected):
            if entry.is_fate:
                assert fate_index(connection, zone.name, entry.number) == index
        rows = connection.execute(
            "SELECT ordinal, after_number FROM attestations WHERE zone = %s ORDER BY ordinal", (zone.name,)
        ).fetchall()
        own = [index for index, entry in enumerate(expected) if not entry.is_fate]
        assert [attestation_index(*row) for row in rows] == own
        leaves = zone.second_log(connection)
        assert root_at(connection, zone.name, FATES, len(expected)) == root(leaves)


def test_more_attestations_than_a_chunk_holds_keep_their_places(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transparency, "CHUNK", 3)
    with zone.database.signer() as connection:
        begin(connection, SECRET, ORIGIN, zone.name)
        for fates, attestations in ((2, 2), (1, 7), (0, 3), (9, 1), (1, 0)):
            zone.append(0, fates)
            with connection.transaction():
                lock(connection, zone.name, FATES)
                add(connection, zone.name, "test", [b"x"] * attestations)
        assert extend(connection, zone.name, FATES) == 13 + 13 + 1
        assert root_at(connection, zone.name, FATES, 27) == root(zone.second_log(connection))


def test_a_zone_without_commands_is_signed_as_well(zone: Zone) -> None:
    """Applications of the `eventsourcing` library record events only."""
    zone.append(3, 0)
    with zone.database.signer() as connection:
        signed = zone.go_on(connection)
    assert (signed[EVENTS].size, signed[EVENTS].root) == (3, root(zone.events))
    assert signed[FATES].size == 1  # The key.
    zone.check()


def test_a_zone_in_which_nothing_has_happened_has_the_empty_tree(zone: Zone) -> None:
    with zone.database.signer() as connection:
        signed = zone.go_on(connection)
        assert (signed[EVENTS].size, signed[EVENTS].root) == (0, EMPTY_ROOT)
        assert not any(each.is_new for each in zone.go_on(connection).values())
    zone.check()


# Checkpoints


def test_a_checkpoint_is_published_when_the_tree_has_grown_and_only_then(zone: Zone) -> None:
    with zone.database.signer() as connection:
        zone.append(5, 2)
        first = zone.go_on(connection)
        again = zone.go_on(connection)
        assert {log: each._replace(is_new=True) for log, each in again.items()} == first != again
        zone.append(1, 0)
        new = {log: each.is_new for log, each in zone.go_on(connection).items()}
        assert new == {EVENTS: True, FATES: False}
    origins = {log: parse_note(each.note).text.split("\n")[0] for log, each in first.items()}
    assert origins == {EVENTS: f"{ORIGIN}/main", FATES: f"{ORIGIN}/main/fates"}
    zone.check()


def test_an_origin_stays_what_it_was_first(zone: Zone) -> None:
    with zone.database.signer() as connection:
        extend_and_sign(connection, SECRET, "example.org/log", zone.name)
        zone.append(1, 1)
        with pytest.raises(WrongOrigin, match=r"example\.org/log/main is not of this installation"):
            zone.go_on(connection)
        signed = extend_and_sign(connection, SECRET, "example.org/log", zone.name)
    assert signed[FATES].note.startswith("example.org/log/main/fates\n2\n")


def test_signers_at_once_sign_one_tree(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transparency, "CHUNK", 16)
    done = threading.Event()

    def keep_signing() -> int:
        rounds = 0
        with zone.database.signer() as connection:
            while not done.is_set() or not rounds:
                zone.go_on(connection)
                rounds += 1
        return rounds

    with ThreadPoolExecutor(4) as pool:
        signers = [pool.submit(keep_signing) for _ in range(4)]
        try:
            chance = random.Random(1)
            for _ in range(40):
                zone.append(chance.randrange(50), chance.randrange(20))
        finally:
            done.set()
        assert all(signer.result() for signer in signers)
    with zone.database.signer() as connection:
        signed = zone.go_on(connection)
    assert (signed[EVENTS].size, signed[FATES].size) == (len(zone.events), len(zone.fates) + 1)
    zone.check()


# Killed


def killed_before(statement: int, zone: Zone) -> bool:
    """Sign in a process that is killed before its n-th statement; False when it came to its end."""
    pid = os.fork()
    if pid == 0:
        left, execute = statement, psycopg.Cursor.execute

        def count(self: Any, *arguments: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return execute(self, *arguments, **more)

        psycopg.Cursor.execute = count  # type: ignore[method-assign]
        try:
            with zone.database.signer() as connection:
                zone.go_on(connection)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL), status
    return status != 0


def test_killed_before_any_statement_a_signer_leaves_nothing_half_done(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transparency, "CHUNK", 2)
    statement = 1
    zone.append(3, 2)
    while killed_before(statement, zone):
        zone.check()
        zone.append(1, 1)
        statement += 1
    assert statement > 30
    with zone.database.signer() as connection:
        signed = zone.go_on(connection)
        sizes = len(zone.events), len(zone.second_log(connection))
    assert (signed[EVENTS].size, signed[FATES].size) == sizes
    zone.check()


@contextmanager
def archivist(database: Database, folder: Path) -> Iterator[Callable[[], Child]]:
    """`fogbook archive` on this database, in a process of its own; each call starts one."""
    started: list[Child] = []
    settings = {"DATABASE_URL": database.url, "FOGBOOK_PEPPER": PEPPER, "FOGBOOK_CHECKPOINT_EVERY_S": "0.05"}

    def start() -> Child:
        begun = command("archive", "--home", str(folder))
        started.append(spawn(begun, log=folder / "archivist.log", env=environment(**settings), cwd=ROOT))
        return started[-1]

    try:
        yield start
    finally:
        for child in started:
            child.kill()


def test_an_archivist_that_is_killed_again_and_again_loses_nothing(zone: Zone, tmp_path: Path) -> None:
    chance = random.Random(2)
    with archivist(zone.database, tmp_path) as start:
        for _ in range(4):
            child, before = start(), zone.newest()

            def signed(before: int = before) -> bool:
                zone.append(chance.randrange(20), chance.randrange(10))
                return zone.newest() > before

            eventually(signed)
            time.sleep(chance.random() / 10)
            child.kill()
            zone.check()
        child = start()
        eventually(lambda: zone.newest() == len(zone.events))
        eventually(lambda: zone.newest(FATES) == len(zone.fates) + 1)
        assert child.stop(20) == 0
    zone.check()
    said = (tmp_path / "archivist.log").read_text()
    assert "archivist_stopped" in said
    assert said.count("forks_go_unnoticed") == 5  # Once a start: no folder is named that survives a restore.


def test_an_archivist_with_a_folder_keeps_what_it_signs(zone: Zone, tmp_path: Path) -> None:
    (tmp_path / "signed").mkdir()
    zone.append(3, 1)
    with archivist(zone.database, tmp_path) as start:
        child = start()
        eventually(lambda: zone.newest() == 3)
        assert child.stop(20) == 0
    kept = SignedFolder(tmp_path / "signed").last(f"{ORIGIN}/main")
    assert kept is not None and (kept.size, kept.root, kept.serial) == (3, root(zone.events), 1)
    assert "forks_go_unnoticed" not in (tmp_path / "archivist.log").read_text()


def test_an_archivist_waits_for_a_database_that_is_away(zone: Zone, tmp_path: Path) -> None:
    log = tmp_path / "archivist.log"
    away = f"ALTER DATABASE {zone.database.name} CONNECTION LIMIT 0".encode()
    back = f"ALTER DATABASE {zone.database.name} CONNECTION LIMIT -1".encode()
    with archivist(zone.database, tmp_path) as start, zone.database.superuser() as owner:
        try:
            owner.execute(away)
            child = start()
            eventually(lambda: log.exists() and "database_unavailable" in log.read_text())
            owner.execute(back)
            zone.append(2, 1)
            eventually(lambda: zone.newest() == 2)
            # It may go away at any time as well.
            owner.execute(away)
            owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'fogbook archivist'"
            )
            eventually(lambda: "checkpoints_failed" in log.read_text())
        finally:
            owner.execute(back)
        zone.append(1, 1)
        eventually(lambda: zone.newest() == 3)
        assert child.poll() is None
