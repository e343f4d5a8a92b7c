"""Keys that are rotated, read models that are attested, and what is not signed at any price."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from commands._codec import attestation_leaf, microseconds, zone_prefix
from commands._signatures import log_key
from ops.migrate import migrate
from ops.signing import SigningRefused, checkpoint_now, list_keys, retire, rotate
from projections._attestations import KEY, READ_MODEL, add
from projections._digest import shown, store
from projections._follower import ensure_checkpoints
from projections._notes import UnknownKey, open_checkpoint
from projections._transparency import (
    EVENTS,
    FATES,
    LogWentBack,
    Signed,
    TreeBroken,
    Unsignable,
    WrongSecret,
    attest,
    extend,
    extend_and_sign,
    lock,
    sign,
)
from tests.conftest import Database
from tests.integration.test_cli import follow, play
from tests.integration.test_up import eventually
from tests.logs import captured_logs
from tests.signing import ORIGIN, SECRET, Zone, attested, keys
from workers.checkpoints import Checkpoints


@pytest.fixture
def zone(database: Database) -> Zone:
    return Zone(database)


class Signer(Checkpoints):
    """Signs everything at its first look, and later what is waited for only, until it is told otherwise."""

    def __init__(self, database: Database) -> None:
        self.stop = threading.Event()
        super().__init__(database.signer, SECRET, ORIGIN, 3_600.0, self.stop)

    def again(self) -> None:
        self._due = 0.0


@pytest.fixture
def checkpoints(database: Database) -> Iterator[Signer]:
    made = Signer(database)
    yield made
    made.close()


# Keys


def test_rotated_keys_sign_side_by_side_and_old_checkpoints_stay_valid(zone: Zone) -> None:
    zone.append(2, 2)
    with zone.database.signer() as connection, zone.database.superuser() as owner:
        before = zone.go_on(connection)[EVENTS].note
        assert rotate(connection, SECRET, ORIGIN, zone.name) == 2
        both = zone.go_on(connection)[EVENTS]
        first, second = keys(connection, zone.name)
        assert both.is_new and both.size == 2  # The same tree, signed anew.
        for key in (first, second):
            assert open_checkpoint(both.note, [key]).size == 2
        assert open_checkpoint(before, [first]).size == 2
        with pytest.raises(UnknownKey):
            open_checkpoint(before, [second])

        retire(owner, zone.name, 1)
        after = zone.go_on(connection)[EVENTS]
        assert after.is_new and open_checkpoint(after.note, [second]).size == 2
        with pytest.raises(UnknownKey):
            open_checkpoint(after.note, [first])
        assert [key["retired_at"] is None for key in list_keys(connection, zone.name)] == [False, True]
        assert rotate(connection, SECRET, ORIGIN, zone.name) == 3

        public = {key["serial"]: key["public_key"] for key in list_keys(connection, zone.name)}
        assert public[3] == log_key(SECRET, zone.name, 3).public_key().public_bytes_raw().hex()
        assert attested(connection, KEY) == [
            {"act": act, "serial": serial, "public_key": public[serial]}
            for act, serial in (("added", 1), ("added", 2), ("retired", 1), ("added", 3))
        ]
    zone.check()


def test_a_key_that_a_zone_cannot_do_without_is_not_retired(zone: Zone) -> None:
    with zone.database.signer() as connection, zone.database.superuser() as owner:
        with pytest.raises(SigningRefused, match="no signing key 1"):
            retire(owner, zone.name, 1)
        zone.go_on(connection)
        with pytest.raises(SigningRefused, match="only one"):
            retire(owner, zone.name, 1)
        rotate(connection, SECRET, ORIGIN, zone.name)
        retire(owner, zone.name, 1)
        for serial in (1, 7):
            with pytest.raises(SigningRefused, match=f"no signing key {serial}"):
                retire(owner, zone.name, serial)
        with pytest.raises(SigningRefused, match="only one"):
            retire(owner, zone.name, 2)
        for _ in range(7):
            rotate(connection, SECRET, ORIGIN, zone.name)
        with pytest.raises(SigningRefused, match="retire one first"):
            rotate(connection, SECRET, ORIGIN, zone.name)


ADD_CHECKPOINT = "INSERT INTO signed_checkpoints VALUES ('main', 'events', 1000000000, '', '')"
ADD_ATTESTATION = "INSERT INTO attestations VALUES ('main', 1, 0, 'read-model', '', now(), '')"
FOR_NOBODY = [
    "UPDATE signing_keys SET retired_at = now()",
    "UPDATE signed_checkpoints SET note = ''",
    "DELETE FROM signed_checkpoints",
    "UPDATE attestations SET body = ''",
    "DELETE FROM attestations",
    "DELETE FROM tiles",
    "DELETE FROM trees",
    "INSERT INTO witnesses (name, verifier_key) VALUES ('w', 'v')",
]
FOR_SIGNERS = [
    "UPDATE trees SET origin = 'another'",
    "UPDATE trees SET size = 0, root = ''",
    "UPDATE trees SET refused = ''",
    "INSERT INTO trees (zone, log, origin, root) VALUES ('z', 'events', 'o', '')",
    "INSERT INTO tiles VALUES ('main', 'events', 0, 0, '')",
    "UPDATE tiles SET hashes = ''",
    "INSERT INTO signing_keys (zone, serial, public_key) VALUES ('main', 9, '')",
    ADD_CHECKPOINT,
    ADD_ATTESTATION,
]
FOR_OTHERS = [
    "INSERT INTO heads (zone, clock) VALUES ('z', 'real')",
    "UPDATE heads SET position = 0",
    "DELETE FROM events",
    "INSERT INTO events SELECT * FROM events",
    "INSERT INTO commands SELECT * FROM commands",
    "INSERT INTO cosignatures VALUES ('main', 'events', 1, '', 'w', '')",
    "UPDATE digests SET accumulator = ''",
    "UPDATE checkpoints SET position = 0",
    "SELECT * FROM api_keys",
    "SELECT * FROM read.timers",
]


@pytest.mark.parametrize("statement", [*FOR_NOBODY, *FOR_SIGNERS])
def test_the_role_that_fogbook_works_in_cannot_sign_or_take_anything_back(
    database: Database, statement: str
) -> None:
    with database.connect() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


@pytest.mark.parametrize("statement", [*FOR_NOBODY, *FOR_OTHERS])
def test_the_role_that_signs_cannot_do_anything_else(database: Database, statement: str) -> None:
    with database.signer() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def test_rights_that_an_earlier_version_gave_are_taken_back(database: Database) -> None:
    with database.superuser() as owner:
        owner.execute("GRANT INSERT ON signed_checkpoints TO fogbook_app")
    migrate(database.superuser_url)
    with database.connect() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(ADD_CHECKPOINT.encode())


def test_another_secret_signs_nothing(zone: Zone) -> None:
    with zone.database.signer() as connection:
        zone.go_on(connection)
        zone.append(1, 1)
        with pytest.raises(WrongSecret, match="FOGBOOK_PEPPER"):
            extend_and_sign(connection, b"another pepper, just as long", ORIGIN, zone.name)
        with pytest.raises(SigningRefused, match="FOGBOOK_PEPPER"):
            checkpoint_now(connection, b"another pepper, just as long", ORIGIN, zone.name)
        assert zone.newest() == 0
        with zone.database.superuser() as owner:
            owner.execute("UPDATE signing_keys SET retired_at = now()")
        with pytest.raises(Unsignable, match="no signing key"):
            sign(connection, SECRET, ORIGIN, zone.name, EVENTS)
        # As after a replay from elsewhere, where all keys are somebody else's: the next one is this installation's.
        signed = checkpoint_now(connection, SECRET, ORIGIN, zone.name)[EVENTS]
        assert open_checkpoint(signed.note, keys(connection, zone.name)[1:]).size == 1
        assert [each["serial"] for each in attested(connection, KEY)] == [1, 2]
    zone.check()


# What may not be signed


FLIP = "{0} = set_byte({0}, 5, get_byte({0}, 5) # 1)"
BROKEN = {
    "a tile has changed": f"UPDATE tiles SET {FLIP.format('hashes')} WHERE log = 'events' AND index = 1",
    "a tile of a higher level has changed": f"UPDATE tiles SET {FLIP.format('hashes')} WHERE level = 1",
    "a tile is gone": "DELETE FROM tiles WHERE log = 'events' AND level = 0 AND index = 1",
    "a tile is truncated": "UPDATE tiles SET hashes = substring(hashes FOR 64) WHERE log = 'events' AND index = 1",
    "the root has changed": f"UPDATE trees SET {FLIP.format('root')} WHERE log = 'events'",
    "the size has changed": "UPDATE trees SET size = size - 1 WHERE log = 'events'",
    "a tile stands ahead of the tree": "INSERT INTO tiles VALUES ('main', 'events', 0, 2, sha256(''))",
    "the newest entry is gone": "DELETE FROM events WHERE position = 530",
    "an entry is gone": "DELETE FROM events WHERE position = 301",
    "a leaf is too short": "UPDATE events SET leaf = substring(leaf FOR 31) WHERE position = 302",
    "another tree was signed": f"UPDATE signed_checkpoints SET {FLIP.format('root')} WHERE log = 'events'",
    "a larger tree was signed": "UPDATE signed_checkpoints SET size = size + 9 WHERE log = 'events'",
    "a fate is gone": "DELETE FROM commands WHERE number = 4",
    "an attestation is not behind its fate": "UPDATE attestations SET after_number = 0 WHERE ordinal = 2",
    "an attestation is gone": "DELETE FROM attestations WHERE ordinal = 2",
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_contradicts_itself_is_not_signed(zone: Zone, what: str) -> None:
    zone.append(300, 3)
    with zone.database.signer() as connection:
        zone.go_on(connection)
        zone.append(230, 2)
        with connection.transaction():
            lock(connection, zone.name, FATES)
            add(connection, zone.name, "test", [b"1", b"2"])
        count = "SELECT count(*) FROM signed_checkpoints"
        before = connection.execute(count).fetchone()
        with zone.database.superuser() as owner:
            assert owner.execute(BROKEN[what].encode()).rowcount >= 1
        with pytest.raises(TreeBroken):
            zone.go_on(connection)
        assert connection.execute(count).fetchone() == before


@pytest.mark.parametrize(("log", "column"), [(EVENTS, "position"), (FATES, "number")])
def test_a_log_that_went_back_is_not_signed_and_others_are(
    zone: Zone, checkpoints: Signer, log: str, column: str
) -> None:
    zone.append(4, 4)
    other = Zone(zone.database, "other")
    checkpoints.look()
    with zone.database.superuser() as owner:
        owner.execute(f"UPDATE heads SET {column} = {column} - 1 WHERE zone = 'main'".encode())
    other.append(2, 2)
    checkpoints.again()
    with captured_logs() as logs:
        checkpoints.look()
        checkpoints.look()
    (said,) = [each for each in logs if each["log_level"] == "critical"]
    assert (said["event"], said["zone"], said["kind"]) == ("nothing_is_signed", "main", "LogWentBack")
    assert other.newest() == 2 and zone.newest() == 4
    with zone.database.signer() as connection, pytest.raises(LogWentBack):
        extend(connection, zone.name, log)


# Attestations


def test_the_digests_of_live_read_models_are_attested_when_they_change(database: Database) -> None:
    play(database)
    follow(database)
    with database.signer() as connection, database.connect() as follower:

        def live() -> dict[str, tuple[int, str, int, str]]:
            """What stands in the database, by the function that shows accumulators."""
            rows = connection.execute(
                "SELECT projection, generation, code, position, accumulator FROM checkpoints"
                " JOIN digests USING (zone, projection, generation) WHERE zone = 'main' AND live"
            )
            return {row[0]: (*row[1:4], shown(int.from_bytes(row[4], "little"))) for row in rows}

        def said() -> list[tuple[str, tuple[int, str, int, str]]]:
            bodies = attested(connection, READ_MODEL)
            return [
                (b["projection"], (b["generation"], b["code"], b["position"], b["digest"])) for b in bodies
            ]

        row = connection.execute("SELECT number FROM heads WHERE zone = 'main'").fetchone()
        assert row is not None
        signed = extend_and_sign(connection, SECRET, ORIGIN, "main")
        stood = live()
        assert len(stood) > 5 and dict(said()) == stood and len(said()) == len(stood)
        assert signed[FATES].size == row[0] + 1 + len(stood)
        assert attest(connection, "main") == 0

        # One that has changed is attested again, the others are not.
        store(follower, "main", [("ledger", stood["ledger"][0], 12345)])
        assert attest(connection, "main") == 1
        assert said()[-1] == ("ledger", live()["ledger"]) != ("ledger", stood["ledger"])

        # So is one that misses events; which ones, it says.
        follower.execute(
            "INSERT INTO quarantine (zone, projection, generation, position, stream, attempts, quarantined, error)"
            " SELECT 'main', 'ledger', 1, n, 's', 6, n <> 4, 'e' FROM unnest('{9,3,4}'::bigint[]) AS n"
        )
        assert attest(connection, "main") == 1
        assert attested(connection, READ_MODEL)[-1]["quarantined"] == [3, 9]
        assert attest(connection, "main") == 0


def test_an_attestation_is_hashed_as_it_is_stored(zone: Zone) -> None:
    with zone.database.signer() as connection:
        zone.go_on(connection)
        rotate(connection, SECRET, ORIGIN, zone.name)
        rows = connection.execute(
            "SELECT ordinal, after_number, kind, recorded_at, body, leaf FROM attestations ORDER BY ordinal"
        ).fetchall()
    assert len(rows) == 2 and rows[0][3] <= rows[1][3]
    for ordinal, after, kind, at, body, leaf in rows:
        assert leaf == attestation_leaf(zone_prefix("main"), ordinal, after, kind, microseconds(at), body)


# Looking


def wait_for(zone: Zone, log: str, size: int) -> None:
    eventually(lambda: zone.newest(log) >= size)


def test_whoever_wants_a_size_has_it_signed_at_once(zone: Zone, checkpoints: Signer) -> None:
    thread = threading.Thread(target=checkpoints.run)
    thread.start()
    try:
        eventually(lambda: zone.newest(FATES) >= 0)
        with zone.database.signer() as connection:
            for log, size in ((EVENTS, 7), (FATES, 5)):
                zone.append(7, 2)
                assert zone.newest(log) < size
                connection.execute("UPDATE trees SET wanted = %s WHERE log = %s", (size, log))
                wait_for(zone, log, size)
    finally:
        checkpoints.stop.set()
        thread.join()
    zone.check()


def test_what_nobody_waits_for_is_left_to_the_interval(zone: Zone, checkpoints: Signer) -> None:
    checkpoints.look()
    zone.append(3, 1)
    checkpoints.look()
    assert zone.newest() == 0
    # A size that the log has not reached wakes the signer for what there is, and not again.
    with zone.database.signer() as connection:
        connection.execute("UPDATE trees SET wanted = 1000")
        checkpoints.look()
        assert zone.newest() == 3
        with captured_logs() as logs:
            checkpoints.look()
        assert logs == []
    # A new zone is begun without waiting for the interval, and goes on with it.
    other = Zone(zone.database, "other")
    checkpoints.look()
    assert other.newest() == 0
    other.append(1, 0)
    checkpoints.again()
    checkpoints.look()
    assert other.newest() == 1


def test_a_zone_that_stands_still_is_left_alone(
    zone: Zone, checkpoints: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed: list[str] = []

    def note(connection: psycopg.Connection[Any], *arguments: Any, **more: Any) -> dict[str, Signed]:
        signed.append(arguments[2])
        return extend_and_sign(connection, *arguments, **more)

    monkeypatch.setattr("workers.checkpoints.extend_and_sign", note)

    def look() -> list[str]:
        signed.clear()
        checkpoints.again()
        checkpoints.look()
        return signed

    other = Zone(zone.database, "other")
    assert look() == ["main", "other"]
    look()  # The first key stands there now.
    assert look() == []
    other.append(1, 0)
    assert look() == ["other"]
    zone.append(0, 1)
    assert look() == ["main"]
    with zone.database.signer() as connection:
        rotate(connection, SECRET, ORIGIN, "other")
    assert look() == ["other"]
    with zone.database.connect() as connection:
        ensure_checkpoints(connection, "main")
    assert look() == ["main"]
    assert look() == []
