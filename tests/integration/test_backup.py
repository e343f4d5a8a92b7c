"""A backup is whole and of one moment; what is restored is what was there; whatever is wrong changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from ops import pgtools
from ops._supervise import Child
from ops.backup import DUMP, MANIFEST, SUMS, BackupRefused, Manifest, back_up, read_backup
from ops.pgtools import ToolFailed
from ops.restore import Restored, RestoreRefused, restore
from ops.servers import Servers
from ops.verify import verify
from tests.conftest import Database
from tests.history import history
from tests.living import SECRET, digests, go_on, made, sign, write_log

STEPS = 60


def quiet(done: int, total: int) -> None:
    assert done <= total


@pytest.fixture(scope="module")
def original(servers: Servers, _template: str) -> Iterator[Database]:
    """A zone with a history, read models, signed checkpoints and a key."""
    with made(servers, f"original_{os.getpid()}", _template) as database:
        write_log(database, history(steps=STEPS))
        sign(database)
        go_on(database, "zoe")
        sign(database)
        yield database


@pytest.fixture
def lived(servers: Servers, original: Database) -> Iterator[Database]:
    """The same, for a test to change."""
    with made(servers, f"lived_{os.getpid()}", original.name) as database:
        yield database


@pytest.fixture(scope="module")
def whole(original: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backups") / "whole"
    back_up(original.superuser_url, folder, quiet)
    return folder


@pytest.fixture
def taken(whole: Path, tmp_path: Path) -> Path:
    """A backup of it, for a test to harm."""
    shutil.copytree(whole, tmp_path / "a backup")
    return tmp_path / "a backup"


@contextmanager
def target(new_database: Callable[[], Database]) -> Iterator[Database]:
    """A database to restore into; nothing that a restore makes beside it is left."""
    database = new_database()
    try:
        yield database
    finally:
        for name in beside(database):
            execute(database, f"DROP DATABASE {name} WITH (FORCE)", "postgres")


@pytest.fixture
def empty(new_database: Callable[[], Database]) -> Iterator[Database]:
    with target(new_database) as database:
        yield database


def beside(database: Database) -> list[str]:
    """The databases that restores have made or kept."""
    found = execute(
        database, f"SELECT datname FROM pg_database WHERE datname LIKE '{database.name}\\_%'", "postgres"
    )
    return [name for (name,) in found]


def execute(database: Database, statement: str, name: str = "") -> list[Any]:
    url = psycopg.conninfo.make_conninfo(database.superuser_url, dbname=name or database.name)
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def put_back(database: Database, folder: Path, **how: Any) -> Restored:
    return restore(database.superuser_url, folder, quiet, **how)


def refused(database: Database, folder: Path, **how: Any) -> str:
    """Why nothing was restored; the database is as it was, and nothing is beside it."""
    before = execute(database, "SELECT zone, position FROM heads ORDER BY 1")
    with pytest.raises((BackupRefused, ToolFailed)) as error:
        put_back(database, folder, **how)
    assert execute(database, "SELECT zone, position FROM heads ORDER BY 1") == before
    assert beside(database) == []
    return str(error.value)


def sign_off(folder: Path) -> None:
    """Make the sums fit whatever the files are now."""
    lines = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in (MANIFEST, DUMP)]
    (folder / SUMS).write_text("".join(lines))


def change(folder: Path, **fields: Any) -> Path:
    """Another manifest, as if it had been written so."""
    manifest = json.loads((folder / MANIFEST).read_text()) | fields
    (folder / MANIFEST).write_text(json.dumps(manifest))
    sign_off(folder)
    return folder


# The way there and back


def test_what_is_restored_is_what_was_there(original: Database, taken: Path, empty: Database) -> None:
    restored = put_back(empty, taken, secret=SECRET)
    assert restored.verified
    assert restored.kept is None
    assert beside(empty) == []
    for table in (
        "heads",
        "events",
        "commands",
        "snapshots",
        "trees",
        "tiles",
        "signed_checkpoints",
        "digests",
    ):
        rows = f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t"
        assert execute(empty, rows) == execute(original, rows), table
    assert digests(empty) == digests(original)
    assert verify(empty.connect, None, quiet, pepper=SECRET).count == 0


def test_a_restored_database_goes_on(taken: Path, empty: Database) -> None:
    put_back(empty, taken)
    go_on(empty, "xaver")
    assert verify(empty.connect, None, quiet, pepper=SECRET).count == 0


def test_roles_and_rights_are_those_of_any_installation(taken: Path, empty: Database) -> None:
    rights = """
        SELECT table_name, grantee, privilege_type FROM information_schema.role_table_grants
        WHERE grantee LIKE 'fogbook%' ORDER BY 1, 2, 3
    """
    before = execute(empty, rights)
    put_back(empty, taken, verified=False)
    assert execute(empty, rights) == before
    assert execute(empty, "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE prosecdef") == [
        ("fogbook_log",)
    ]
    with empty.connect() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("DELETE FROM events")
    stranger = f"SELECT has_database_privilege('pg_monitor', '{empty.name}', 'CONNECT')"
    assert execute(empty, stranger, "postgres") == execute(
        empty, stranger.replace(empty.name, "template1"), "postgres"
    )


def test_a_backup_is_of_one_moment_and_stops_nobody(lived: Database, tmp_path: Path) -> None:
    """Commands are accepted while the dump is being written; it holds none or all of each."""
    begun, ended = threading.Event(), threading.Event()
    accepted: list[str] = []

    def writing() -> None:
        assert begun.wait(30)
        for who in ("una", "vic", "wil"):
            go_on(lived, who)
            accepted.append(who)
        ended.set()

    def when_it_has_begun(done: int, total: int) -> None:
        begun.set()
        ended.wait(30)

    writer = threading.Thread(target=writing)
    writer.start()
    before = execute(lived, "SELECT position FROM heads")
    manifest = back_up(lived.superuser_url, tmp_path / "b", when_it_has_begun)
    writer.join()
    assert accepted == ["una", "vic", "wil"]
    assert (
        [(zone.position,) for zone in manifest.zones] == before < execute(lived, "SELECT position FROM heads")
    )


def test_its_manifest_says_what_it_holds(original: Database, taken: Path) -> None:
    manifest = read_backup(taken)
    (head,) = execute(original, "SELECT position, number FROM heads")
    assert [(zone.position, zone.number) for zone in manifest.zones] == [head]
    assert set(manifest.checkpoints["main"]) == {"events", "fates"}
    assert {model.projection: model.digest for model in manifest.models} == digests(original)
    assert manifest.dump_bytes == (taken / DUMP).stat().st_size
    assert (taken.stat().st_mode & 0o777) == 0o700


def test_its_sums_are_those_that_sha256sum_checks(taken: Path) -> None:
    sums = dict(line.split("  ")[::-1] for line in (taken / SUMS).read_text().splitlines())
    assert sums == {n: hashlib.sha256((taken / n).read_bytes()).hexdigest() for n in (MANIFEST, DUMP)}


def test_an_older_schema_is_brought_up_to_date(lived: Database, empty: Database, tmp_path: Path) -> None:
    """As the version before functions owned the rights to append."""
    execute(
        lived,
        "ALTER FUNCTION append_to_log SECURITY INVOKER; ALTER FUNCTION append_to_log RESET search_path;"
        "DROP FUNCTION lock_head, add_head; DROP TABLE access_log, act_fates;"
        "ALTER TABLE quarantine DROP COLUMN stack, DROP COLUMN discarded;"
        "ALTER TABLE api_keys DROP COLUMN lineage, DROP COLUMN last_used_at;"
        "UPDATE alembic_version SET version_num = '0004'",
    )
    assert back_up(lived.superuser_url, tmp_path / "old", quiet).schema == "0004"
    put_back(empty, tmp_path / "old", verified=False)
    go_on(empty, "xaver")


# Not empty


def test_a_database_that_holds_something_is_not_replaced(taken: Path, lived: Database) -> None:
    assert refused(lived, taken) == (
        f"The database {lived.name} is not empty (zone main): --replace puts the backup in its place, and keeps it."
    )


def test_a_table_of_somebody_else_is_something(taken: Path, empty: Database) -> None:
    execute(empty, "CREATE TABLE recipes (id int)")
    assert "(table public.recipes)" in refused(empty, taken)


def test_what_is_replaced_when_asked_to_is_kept_under_another_name(
    taken: Path, new_database: Callable[[], Database]
) -> None:
    with target(new_database) as other:
        write_log(other, history(steps=10))
        stood = execute(other, "SELECT position FROM heads")
        restored = put_back(other, taken, replace=True, verified=False)
        assert beside(other) == [restored.kept]
        assert execute(other, "SELECT position FROM heads", restored.kept or "") == stood
        assert execute(other, "SELECT position FROM heads") != stood


def test_a_database_that_is_in_use_is_left_alone(taken: Path, empty: Database) -> None:
    with empty.connect():
        assert refused(empty, taken) == (
            f"The database {empty.name} is in use by 1 connections: stop what runs on it first."
        )
    put_back(empty, taken, verified=False)


# Harm


def cut_off(folder: Path) -> None:
    whole = (folder / DUMP).read_bytes()
    (folder / DUMP).write_bytes(whole[: len(whole) // 2])


def flip(name: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        whole = bytearray((folder / name).read_bytes())
        whole[len(whole) // 2] ^= 1
        (folder / name).write_bytes(whole)

    return harm


HARM: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (cut_off, "database.dump is not as it was written"),
    "a bit of the dump": (flip(DUMP), "database.dump is not as it was written"),
    "a bit of the manifest": (flip(MANIFEST), "manifest.json is not as it was written"),
    "no dump": (lambda folder: (folder / DUMP).unlink(), "no whole backup: database.dump is missing"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "no whole backup: manifest.json is missing"),
    "no sums": (lambda folder: (folder / SUMS).unlink(), "no whole backup: SHA256SUMS is missing"),
    "sums of nothing": (
        lambda folder: (folder / SUMS).write_text(""),
        "should name manifest.json and database.dump",
    ),
    "sums that are none": (lambda folder: (folder / SUMS).write_bytes(b"\xff\xfe"), "is no list of sums"),
    "no folder": (shutil.rmtree, "no whole backup: SHA256SUMS is missing"),
    "another format": (
        lambda folder: change(folder, format="fogbook-backup/v9") and None,
        "has the format fogbook-backup/v9, and fogbook-backup/v1 is the one that is known here",
    ),
    "a manifest of something else": (
        lambda folder: change(folder, zones=7) and None,
        "cannot be read: Expected `array`",
    ),
    "a newer schema": (
        lambda folder: change(folder, schema="9999") and None,
        "has schema 9999 of Fogbook 0.1.0, which this version does not know",
    ),
    "a newer PostgreSQL": (
        lambda folder: change(folder, postgres=990_000) and None,
        "one of PostgreSQL 99, and this is",
    ),
    "other heads": (lambda folder: change(folder, zones=[]) and None, "has other zones than the manifest"),
    "other checkpoints": (
        lambda folder: change(folder, checkpoints={}) and None,
        "has other checkpoints than",
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_harmed_backup_is_refused_and_nothing_is_changed(harm: str, taken: Path, empty: Database) -> None:
    done, why = HARM[harm]
    done(taken)
    said = refused(empty, taken)
    assert why in said
    assert said.endswith(".") and "\n" not in said


def test_a_dump_that_fails_half_way_leaves_nothing(taken: Path, empty: Database) -> None:
    """Its sums were made to fit, so that only loading it tells."""
    cut_off(taken)
    sign_off(taken)
    assert "The backup could not be loaded: pg_restore failed" in refused(empty, taken)


def test_rows_that_do_not_give_the_digest_are_refused(
    lived: Database, tmp_path: Path, empty: Database
) -> None:
    execute(lived, "UPDATE read.ledger_balances SET posted = posted + 1 WHERE account = 'wallet:ana'")
    back_up(lived.superuser_url, tmp_path / "b", quiet)
    assert (
        refused(empty, tmp_path / "b") == "The rows of ledger in zone main do not give the manifest's digest."
    )


def test_a_log_that_does_not_verify_is_refused(lived: Database, tmp_path: Path, empty: Database) -> None:
    execute(lived, "UPDATE events SET data = data || ' ' WHERE position = 7")
    back_up(lived.superuser_url, tmp_path / "b", quiet)
    assert "position 7" in refused(empty, tmp_path / "b")
    put_back(empty, tmp_path / "b", verified=False)


def test_another_secret_is_refused_before_keys_and_texts_are_lost(taken: Path, empty: Database) -> None:
    assert refused(empty, taken, secret=b"the pepper of somebody else").startswith(
        "The secret here is not the one"
    )


def test_a_disk_that_is_too_small_is_refused(taken: Path, empty: Database) -> None:
    assert "MiB are free" in refused(empty, taken, free_bytes=1000)


def test_whoever_may_make_no_database_is_told_so(taken: Path, empty: Database) -> None:
    execute(empty, "CREATE ROLE owner_without LOGIN PASSWORD 'p'", "postgres")
    try:
        execute(empty, f"GRANT CONNECT ON DATABASE {empty.name} TO owner_without", "postgres")
        execute(empty, "GRANT SELECT ON heads TO owner_without")
        url = psycopg.conninfo.make_conninfo(empty.superuser_url, user="owner_without", password="p")
        with pytest.raises(RestoreRefused, match="may create none: ALTER ROLE"):
            restore(url, taken, quiet)
        assert beside(empty) == []
    finally:
        execute(empty, "DROP OWNED BY owner_without; DROP ROLE owner_without")


# Writing one


def test_a_disk_that_is_full_leaves_no_half_backup(lived: Database, tmp_path: Path) -> None:
    """A limit on files stands for the disk; pg_dump meets it in the middle of the dump."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(ToolFailed, match="File too large"):
            back_up(lived.superuser_url, tmp_path / "b", quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(lived: Database, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "letter").write_text("dear ana")
    with pytest.raises(BackupRefused, match="is there already: name a new folder"):
        back_up(lived.superuser_url, tmp_path / "b", quiet)
    assert [path.name for path in tmp_path.rglob("*")] == ["b", "letter"]


def test_a_folder_that_cannot_be_is_named(lived: Database, tmp_path: Path) -> None:
    with pytest.raises(BackupRefused, match="cannot be written: No such file or directory"):
        back_up(lived.superuser_url, tmp_path / "nowhere" / "b", quiet)


def test_a_database_without_fogbook_is_not_backed_up(database: Database, tmp_path: Path) -> None:
    url = psycopg.conninfo.make_conninfo(database.superuser_url, dbname="postgres")
    with pytest.raises(BackupRefused, match="no tables of Fogbook"):
        back_up(url, tmp_path / "b", quiet)
    assert list(tmp_path.iterdir()) == []


def test_without_a_fitting_pg_dump_one_is_asked_for(
    lived: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgtools, "_folders", lambda name: iter(()))
    with pytest.raises(ToolFailed, match=r"pg_dump of PostgreSQL \d+ or later is needed, and there is none"):
        back_up(lived.superuser_url, tmp_path / "b", quiet)


def test_a_password_is_in_no_list_of_processes(
    lived: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    begin = pgtools.spawn
    secret = psycopg.conninfo.conninfo_to_dict(lived.superuser_url)["password"]

    def begun(argv: list[str], **how: Any) -> Child:
        child = begin(argv, **how)
        seen.append(Path(f"/proc/{child.pid}/cmdline").read_text(errors="replace") + " ".join(argv))
        return child

    monkeypatch.setattr(pgtools, "spawn", begun)
    back_up(lived.superuser_url, tmp_path / "b", quiet)
    assert any("pg_dump" in line for line in seen)
    assert not [line for line in seen if str(secret) in line]


def test_a_manifest_is_read_as_it_was_written(taken: Path) -> None:
    manifest = read_backup(taken)
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest
