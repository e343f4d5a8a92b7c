"""A database that was restored, or is another one: nothing is signed that contradicts what was signed before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from commands._signatures import log_key
from ops.signed import NotKept, SignedFolder
from ops.signing import SigningRefused, begin_anew, checkpoint_now, list_keys, rotate
from projections import _transparency
from projections._attestations import FORK, KEY
from projections._kept import Kept
from projections._notes import UnknownKey, open_checkpoint
from projections._transparency import EVENTS, FATES, Forked, Signed, Unsignable, extend_and_sign
from projections._tree import EMPTY_ROOT
from tests.conftest import Database, Fogbook
from tests.integration.test_signing_cli import answered, refused
from tests.logs import captured_logs
from tests.signing import ORIGIN, SECRET, Zone, attested, keys
from workers.checkpoints import Checkpoints

TABLES = (
    *("heads", "events", "commands", "trees", "tiles"),
    *("signing_keys", "signed_checkpoints", "attestations"),
)


@pytest.fixture
def zone(database: Database) -> Zone:
    return Zone(database)


@pytest.fixture
def keeper(tmp_path: Path) -> SignedFolder:
    (tmp_path / "signed").mkdir()
    return SignedFolder(tmp_path / "signed")


def sign(zone: Zone, keeper: SignedFolder) -> dict[str, Signed]:
    with zone.database.signer() as connection:
        return extend_and_sign(connection, SECRET, ORIGIN, zone.name, keeper=keeper)


@contextmanager
def restored(zone: Zone) -> Iterator[None]:
    """What happens to the database within is undone at the end, as by a restore."""
    with zone.database.superuser() as owner:
        for table in TABLES:
            owner.execute(f"CREATE TEMPORARY TABLE kept_{table} AS TABLE {table}".encode())
        stood = [*zone.events], [*zone.fates]
        yield
        with owner.transaction():
            for table in TABLES:
                owner.execute(f"TRUNCATE {table}".encode())
                owner.execute(f"INSERT INTO {table} TABLE kept_{table}".encode())
                owner.execute(f"DROP TABLE kept_{table}".encode())
        zone.events, zone.fates = stood


def happens_otherwise(zone: Zone) -> None:
    """One event that is not the one that stood there before."""
    position = len(zone.events) + 1
    zone.events.append(bytes(32))
    with zone.database.superuser() as owner:
        owner.execute(
            "INSERT INTO events SELECT 'main', %s, 'other', 1, 't', '', '', 'epoch', %s",
            (position, bytes(32)),
        )
        owner.execute("UPDATE heads SET position = %s", (position,))


def signed(zone: Zone) -> list[str]:
    with zone.database.signer() as connection:
        return [note for (note,) in connection.execute("SELECT note FROM signed_checkpoints ORDER BY note")]


def forked(zone: Zone, keeper: SignedFolder) -> dict[str, Signed]:
    """Restored to 10 events of 15, it goes on differently; what was signed of the timeline that is gone."""
    zone.append(10, 10)
    sign(zone, keeper)
    with restored(zone):
        zone.append(5, 5)
        gone = sign(zone, keeper)
    happens_otherwise(zone)
    zone.append(4, 5)
    return gone


def test_a_restored_log_that_goes_on_differently_is_not_signed(zone: Zone, keeper: SignedFolder) -> None:
    assert forked(zone, keeper)[EVENTS].size == len(zone.events)
    before = signed(zone)
    with pytest.raises(Forked, match="begin-anew"):
        sign(zone, keeper)
    with zone.database.signer() as connection:
        for act in (checkpoint_now, rotate):
            with pytest.raises(SigningRefused, match="begin-anew"):
                act(connection, SECRET, ORIGIN, zone.name, keeper)
        assert len(list_keys(connection, zone.name)) == 1
    assert signed(zone) == before


def test_a_restored_log_is_not_signed_before_it_has_grown_either(zone: Zone, keeper: SignedFolder) -> None:
    zone.append(10, 10)
    with restored(zone):
        zone.append(5, 5)
        sign(zone, keeper)
    with pytest.raises(Forked):
        sign(zone, keeper)


def test_a_restored_log_that_nothing_was_lost_of_goes_on(zone: Zone, keeper: SignedFolder) -> None:
    zone.append(10, 10)
    sign(zone, keeper)
    with restored(zone):
        pass
    zone.append(1, 1)
    assert sign(zone, keeper)[EVENTS].size == 11
    zone.check()


def test_another_database_under_the_same_secret_is_not_signed(
    zone: Zone, keeper: SignedFolder, new_database: object
) -> None:
    zone.append(3, 3)
    sign(zone, keeper)
    assert callable(new_database)
    other = Zone(new_database())
    with pytest.raises(Forked):
        sign(other, keeper)
    happens_otherwise(other)
    other.append(4, 4)
    with pytest.raises(Forked):
        sign(other, keeper)
    assert signed(other) == []


def test_logs_of_other_names_do_not_meet_in_the_folder(zone: Zone, keeper: SignedFolder) -> None:
    other = Zone(zone.database, "other")
    zone.append(3, 1)
    other.append(2, 2)
    sign(zone, keeper)
    assert sign(other, keeper)[EVENTS].size == 2
    kept = [keeper.last(f"{ORIGIN}/{name}") for name in ("main", "main/fates", "other", "other/fates", "x")]
    assert [each and each.size for each in kept] == [3, 2, 2, 3, None]


def test_what_is_signed_is_kept_before_it_is_published(
    zone: Zone, keeper: SignedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone.append(2, 2)
    monkeypatch.setattr(_transparency, "PUBLISH", "INSERT INTO nowhere VALUES (%s, %s, %s, %s, %s)")
    with pytest.raises(psycopg.errors.UndefinedTable):
        sign(zone, keeper)
    monkeypatch.undo()
    kept = keeper.last(f"{ORIGIN}/main")
    assert kept is not None and kept.size == 2 and signed(zone) == []
    assert sign(zone, keeper)[EVENTS].size == 2  # It was not published, and nothing contradicts it.


def test_what_cannot_be_kept_is_not_signed(zone: Zone, keeper: SignedFolder, tmp_path: Path) -> None:
    zone.append(1, 1)
    with pytest.raises(NotKept, match="nowhere"):
        sign(zone, SignedFolder(tmp_path / "nowhere"))
    sign(zone, keeper)
    before = signed(zone)
    files = [*(tmp_path / "signed").glob("*.json")]
    file, other = sorted(files, key=lambda file: b"/fates" in file.read_bytes())
    first, second = file.read_bytes(), other.read_bytes()
    zone.append(1, 1)
    for damage in (b"", b"{}", b"\xff", first[:-9], second, first.replace(b'"root":"', b'"root":"00')):
        file.write_bytes(damage)
        with pytest.raises(NotKept, match="damaged"):
            sign(zone, keeper)
    file.unlink()
    file.mkdir()
    with pytest.raises(NotKept, match="cannot be read"):
        sign(zone, keeper)
    assert signed(zone) == before
    file.rmdir()
    file.write_bytes(first)
    assert sign(zone, keeper)[EVENTS].size == 2


def test_a_forked_log_begins_anew_with_a_key_that_signed_nothing(zone: Zone, keeper: SignedFolder) -> None:
    gone = forked(zone, keeper)
    with zone.database.signer() as connection, zone.database.superuser() as owner:
        old = keys(connection, zone.name)
        assert begin_anew(owner, SECRET, ORIGIN, zone.name, keeper) == 2
        anew = sign(zone, keeper)[EVENTS]
        first, second = keys(connection, zone.name)
        assert open_checkpoint(anew.note, [second]).size == 15
        assert open_checkpoint(gone[EVENTS].note, old).size == 15
        with pytest.raises(UnknownKey):
            open_checkpoint(anew.note, [first])
        (said,) = attested(connection, FORK)
        assert said == {
            log: {"size": gone[log].size, "root": gone[log].root.hex()} for log in (EVENTS, FATES)
        }
        assert [(each["act"], each["serial"]) for each in attested(connection, KEY)] == [
            *(("added", 1), ("retired", 1), ("added", 2)),
        ]
        zone.append(3, 3)
        assert sign(zone, keeper)[EVENTS].size == 18
        with pytest.raises(SigningRefused, match="nothing is to begin anew"):
            begin_anew(owner, SECRET, ORIGIN, zone.name, keeper)
        with pytest.raises(SigningRefused, match="FOGBOOK_SIGNED"):
            begin_anew(owner, SECRET, ORIGIN, zone.name, None)
    zone.check()


def test_a_key_of_before_never_signs_again(zone: Zone, keeper: SignedFolder) -> None:
    """Restored once more, to a time before it began anew; also where keys were added that the restore forgot."""
    zone.append(4, 4)
    sign(zone, keeper)
    with restored(zone):
        with zone.database.signer() as connection:
            assert [rotate(connection, SECRET, ORIGIN, zone.name, keeper) for _ in range(2)] == [2, 3]
        zone.append(1, 1)
        sign(zone, keeper)
    happens_otherwise(zone)
    with restored(zone), zone.database.superuser() as owner:
        assert begin_anew(owner, SECRET, ORIGIN, zone.name, keeper) == 4
    with pytest.raises(Forked):
        sign(zone, keeper)
    with zone.database.superuser() as owner:
        assert begin_anew(owner, SECRET, ORIGIN, zone.name, keeper) == 5
    assert sign(zone, keeper)[EVENTS].size == 5
    with zone.database.signer() as connection:
        public = {key["serial"]: key["public_key"] for key in list_keys(connection, zone.name)}
    assert public[5] == log_key(SECRET, zone.name, 5).public_key().public_bytes_raw().hex()


def test_an_interrupted_new_beginning_is_begun_again(zone: Zone, keeper: SignedFolder) -> None:
    forked(zone, keeper)
    kept = {log: keeper.last(f"{ORIGIN}/main{log}") for log in ("", "/fates")}
    with zone.database.superuser() as owner:
        begin_anew(owner, SECRET, ORIGIN, zone.name, keeper)
        for each in kept.values():  # As if it had been killed before it wrote the files.
            assert each is not None
            keeper.keep(each)
        with pytest.raises(Forked):
            sign(zone, keeper)
        assert begin_anew(owner, SECRET, ORIGIN, zone.name, keeper) == 3
    sign(zone, keeper)
    zone.check()


def test_the_signer_says_what_it_does_not_sign_and_goes_on_with_others(
    zone: Zone, keeper: SignedFolder
) -> None:
    forked(zone, keeper)
    other = Zone(zone.database, "other")
    other.append(2, 2)
    signer = Checkpoints(zone.database.signer, SECRET, ORIGIN, 3_600, threading.Event(), keeper)
    with captured_logs() as logs:
        signer.look()
    signer.close()
    (said,) = [each for each in logs if each["log_level"] == "critical"]
    assert (said["event"], said["zone"], said["kind"]) == ("nothing_is_signed", "main", "Forked")
    assert other.newest() == 2


def test_status_tells_of_a_fork_and_the_command_line_begins_anew(
    fogbook: Fogbook, zone: Zone, home: Path
) -> None:
    (home / "signed").mkdir(parents=True)
    keeper = SignedFolder(home / "signed")
    forked(zone, keeper)
    signer = Checkpoints(zone.database.signer, SECRET, ORIGIN, 3_600, threading.Event(), keeper)
    signer.look()
    signer.close()
    refusals = [each["refused"] for each in answered(fogbook("status", "--json"))["checkpoints"]]
    assert len(refusals) == 2 and all(each.startswith("Forked: ") for each in refusals)
    for action in (["checkpoint"], ["keys", "signing", "rotate"]):
        refused(fogbook(*action), "does not continue what was signed")
    said = answered(fogbook("checkpoint", "--begin-anew", "--json"))
    assert said["events"]["size"] == 15
    refusals = [each["refused"] for each in answered(fogbook("status", "--json"))["checkpoints"]]
    assert refusals == ["", ""]
    refused(fogbook("checkpoint", "--begin-anew"), "nothing is to begin anew")


def test_without_a_folder_nothing_is_to_begin_anew_from(fogbook: Fogbook, zone: Zone) -> None:
    refused(fogbook("checkpoint", "--begin-anew"), "FOGBOOK_SIGNED")


def test_a_file_holds_what_was_kept(keeper: SignedFolder) -> None:
    kept = Kept("example.org/main", 7, EMPTY_ROOT, 2, 3)
    with keeper.alone():
        assert keeper.last("example.org/main") is None
        keeper.keep(kept)
    assert keeper.last("example.org/main") == kept
    assert issubclass(NotKept, Unsignable)
