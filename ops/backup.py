"""`fogbook backup`: the database at one moment in a folder, with a manifest by which a restore proves itself.

    manifest.json   what the database held: heads, newest checkpoints, digests of the read models, keys' public halves
    database.dump   PostgreSQL's custom format (pg_dump), for pg_restore
    SHA256SUMS      of both, for `sha256sum --check`

Not in it, on purpose: the keys of personal texts (HOME/subjects; a copy beside the database would undo every erasure),
what was signed last (HOME/signed; it has to outlive the database to notice that it was restored), the installation's
secret (HOME/pepper) and API keys (the database knows their HMACs only).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg.rows import class_row

from ops.files import sync
from ops.home import Refused
from ops.migrate import schema_of
from ops.pgtools import find_tool, run_tool
from ops.waits import Connection
from projections._digest import find, shown

FORMAT = "fogbook-backup/v1"
MANIFEST, DUMP, SUMS = "manifest.json", "database.dump", "SHA256SUMS"
HASH_BYTES = 2**20
MOST_MANIFEST_BYTES = 256 * 2**20

Tick = Callable[[int, int], None]

ZONES = "SELECT zone, clock, position, number, recorded_at FROM heads ORDER BY zone"

CHECKPOINTS = """
SELECT DISTINCT ON (zone, log) zone, log, note FROM signed_checkpoints ORDER BY zone, log, size DESC, signed_at DESC
"""

KEYS = "SELECT zone, serial, encode(public_key, 'hex') FROM signing_keys ORDER BY zone, serial"

MODELS = """
SELECT zone, projection, generation, code, position FROM checkpoints WHERE live ORDER BY zone, projection
"""

TABLES = """
SELECT format('%s.%s', n.nspname, c.relname), pg_table_size(c.oid) FROM pg_class c JOIN pg_namespace n
    ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' ORDER BY 1
"""


class BackupRefused(Refused):
    """It cannot be backed up, or a backup cannot be used; the message says why."""


class ZoneHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    zone: str
    clock: str
    position: int
    number: int
    recorded_at: datetime


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A live read model; `digest` as attestations show it, None where none is kept."""

    zone: str
    projection: str
    generation: int
    code: str
    position: int
    digest: str | None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a backup holds. `checkpoints`: zone and log to signed note; `signing_keys`: zone to hex public keys by
    serial number; `tables`: their bytes in the database."""

    format: str
    fogbook: str
    postgres: int
    schema: str
    taken_at: datetime
    zones: list[ZoneHead]
    checkpoints: dict[str, dict[str, str]]
    signing_keys: dict[str, dict[str, str]]
    models: list[Model]
    tables: dict[str, int]
    dump_bytes: int = 0

    @property
    def database_bytes(self) -> int:
        return sum(self.tables.values())

    def shown(self) -> dict[str, Any]:
        """What people and programs want to know of it."""
        return {
            "taken_at": self.taken_at,
            "zones": [{"zone": z.zone, "position": z.position, "commands": z.number} for z in self.zones],
            "models": len(self.models),
            "bytes": self.dump_bytes,
        }


def describe(connection: psycopg.Connection[Any]) -> Manifest:
    """What the database holds, as of the transaction that the connection is in."""
    schema = schema_of(connection)
    if schema is None:
        raise BackupRefused("The database has no tables of Fogbook: there is nothing to back up.")
    with connection.cursor(row_factory=class_row(ZoneHead)) as cursor:
        zones = cursor.execute(ZONES).fetchall()
    models = [
        Model(zone, projection, generation, code, position, _digest(connection, zone, projection, generation))
        for zone, projection, generation, code, position in connection.execute(MODELS).fetchall()
    ]
    return Manifest(
        FORMAT,
        version("fogbook"),
        connection.info.server_version,
        schema,
        datetime.now(UTC),
        zones,
        _nested(connection, CHECKPOINTS),
        _nested(connection, KEYS),
        models,
        dict(connection.execute(TABLES).fetchall()),
    )


def _digest(connection: psycopg.Connection[Any], zone: str, projection: str, generation: int) -> str | None:
    accumulator = find(connection, zone, projection, generation)
    return None if accumulator is None else shown(accumulator)


def _nested(connection: psycopg.Connection[Any], query: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for outer, inner, value in connection.execute(query):
        found.setdefault(outer, {})[str(inner)] = value
    return found


def back_up(owner_url: str, folder: Path, tick: Tick) -> Manifest:
    """Write the database, as it is at one moment, into a new folder; commands go on meanwhile.

    Raises BackupRefused and ToolFailed; then there is no folder.
    """
    with new_folder(folder) as unfinished, Connection.connect(owner_url, wait_s=None) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        # However long it takes: the dump reads what this transaction sees.
        connection.execute("SELECT set_config('idle_in_transaction_session_timeout', '0', false)")
        manifest = describe(connection)
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        _dump(find_tool("pg_dump", connection), owner_url, row[0], unfinished, manifest, tick)
        connection.rollback()
        manifest = msgspec.structs.replace(manifest, dump_bytes=(unfinished / DUMP).stat().st_size)
        (unfinished / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        lines = [f"{sha256_of(unfinished / name)}  {name}\n" for name in (MANIFEST, DUMP)]
        (unfinished / SUMS).write_text("".join(lines))
    return manifest


def _dump(program: Path, url: str, snapshot: str, folder: Path, manifest: Manifest, tick: Tick) -> None:
    log = folder / "pg_dump.log"
    argv = [str(program), "--format=custom", "--compress=1", "--verbose", "--no-password"]
    argv += [f"--snapshot={snapshot}", f"--file={folder / DUMP}"]
    run_tool(argv, url, log, by_bytes(manifest, tick))
    log.unlink()


def by_bytes(manifest: Manifest, tick: Tick) -> Callable[[str], None]:
    """Turns the tables that begin into how many bytes are done."""
    begun: set[str] = set()
    before = 0

    def begins(table: str) -> None:
        nonlocal before
        tick(before, manifest.database_bytes)
        if table not in begun:
            begun.add(table)
            before += manifest.tables.get(table, 0)

    return begins


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Where to write what takes the folder's name when it is whole and on disk, or else vanishes."""
    unfinished: Path | None = None
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise BackupRefused(f"{folder} is there already: name a new folder.")
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))  # Mode 0700.
        yield unfinished
        for path in (*unfinished.iterdir(), unfinished):
            sync(path)
        os.rename(unfinished, folder)
        sync(folder.parent)
    except OSError as error:
        raise BackupRefused(f"{folder} cannot be written: {error.strerror or error}.") from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)


# Reading one


def sha256_of(path: Path, tick: Callable[[int], None] = lambda more: None) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(HASH_BYTES):
            hashed.update(piece)
            tick(len(piece))
    return hashed.hexdigest()


def read_backup(folder: Path) -> Manifest:
    """The manifest of a backup that is whole, byte for byte. Raises BackupRefused."""
    try:
        lines = [line.partition("  ") for line in (folder / SUMS).read_text().splitlines()]
        expected = {name: sum_ for sum_, _, name in lines}
        if set(expected) != {MANIFEST, DUMP}:
            raise BackupRefused(f"{folder / SUMS} should name {MANIFEST} and {DUMP}.")
        if (folder / MANIFEST).stat().st_size > MOST_MANIFEST_BYTES:
            raise BackupRefused(f"{folder / MANIFEST} is larger than any manifest.")
        for name in (MANIFEST, DUMP):
            if sha256_of(folder / name) != expected[name]:
                raise BackupRefused(f"{folder / name} is not as it was written: its SHA-256 differs.")
        stored = (folder / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise BackupRefused(
            f"{folder} is no whole backup: {Path(error.filename).name} is missing."
        ) from error
    except OSError as error:
        raise BackupRefused(f"{folder} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BackupRefused(f"{folder / SUMS} is no list of sums.") from error
    return _parsed(folder, stored)


def _parsed(folder: Path, stored: bytes) -> Manifest:
    try:
        format_ = msgspec.json.decode(stored, type=dict[str, Any]).get("format")
        if format_ != FORMAT:
            raise BackupRefused(
                f"{folder} has the format {format_}, and {FORMAT} is the one that is known here."
            )
        return msgspec.json.decode(stored, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BackupRefused(f"{folder / MANIFEST} cannot be read: {error}.") from error
