"""`fogbook restore`: a backup becomes the database, once it has proven in a database of its own that it is whole.

Nothing of the target changes before that: the dump goes into a new database beside it, is compared with the manifest
and verified there, and then takes the target's name in one transaction. Whatever fails drops the new database.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from commands._signatures import log_key
from ops.backup import DUMP, BackupRefused, Manifest, Tick, by_bytes, describe, read_backup
from ops.migrate import known_schemas, migrate
from ops.pgtools import ToolFailed, find_tool, run_tool
from ops.pool import connect
from ops.safety import check_safe
from ops.settings import APP_ROLE, LOG_ROLE, SIGNER_ROLE
from ops.verify import verify
from ops.waits import Connection
from projections._digest import recompute, shown
from projections._engine import all_projections

MAINTENANCE = "postgres"
"""The database from which others are made and renamed."""

LATER = frozenset({"public.access_log", "public.act_fates"})
"""Tables of ours that a backup of an earlier schema does not name."""

HOLDS = """
SELECT format('%s.%s', schemaname, relname) FROM pg_stat_user_tables
WHERE relname <> 'alembic_version' AND schemaname NOT IN ('read', 'past') ORDER BY 1
"""

OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = %s AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
LEAVING_S = 2.0
"""How long a connection that was closed just now may still be listed."""

OWNER_AND_RIGHTS = """
SELECT pg_get_userbyid(d.datdba), coalesce(array_agg(CASE a.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(a.grantee) END
    || ' ' || a.privilege_type) FILTER (WHERE a.grantee <> d.datdba), '{}')
FROM pg_database d LEFT JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a ON true
WHERE d.datname = %s GROUP BY d.datdba
"""

RIGHTS = {"CONNECT": sql.SQL("CONNECT"), "CREATE": sql.SQL("CREATE"), "TEMPORARY": sql.SQL("TEMPORARY")}

ROLES = """
SELECT r FROM unnest(%s::text[]) AS r WHERE NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = r)
"""


class RestoreRefused(BackupRefused):
    """Nothing was restored; the message says why."""


@dataclass(frozen=True, slots=True)
class Restored:
    manifest: Manifest
    kept: str | None
    """The database that was there before goes by this name now."""
    verified: bool
    unproven: list[str]
    """What this code cannot check, because other code made it."""


def restore(
    owner_url: str,
    folder: Path,
    tick: Tick,
    *,
    replace: bool = False,
    verified: bool = True,
    secret: bytes | None = None,
    free_bytes: int | None = None,
) -> Restored:
    """Put a backup in the place of the database that the owner's URL names.

    `replace`: even where that one holds something, which is then kept under another name; `verified=False`: without
    `fogbook verify`; `secret`: the target's, which must be the one that signed; `free_bytes`: on its disk, if known.
    Raises BackupRefused and ToolFailed; then the database is the one that it was.
    """
    manifest = read_backup(folder)
    name = conninfo_to_dict(owner_url)["dbname"]
    assert isinstance(name, str)
    check_usable(manifest, secret, free_bytes)
    with maintenance(owner_url) as server:
        holds = _holds(owner_url, manifest)
        if holds and not replace:
            raise RestoreRefused(
                f"The database {name} is not empty ({holds}): --replace puts the backup in its place, and keeps it."
            )
        _check_server(server, manifest, name)
        new = f"{name}_restored_{manifest.taken_at:%Y%m%d%H%M%S}"
        with _new_database(server, name, new) as become:
            url = make_conninfo(owner_url, dbname=new)
            _load(server, url, folder, manifest, tick)
            migrate(url)
            check_against(url, manifest)
            unproven = _verify(url, manifest, tick) if verified else []
            kept = become()
            if kept is not None and not holds:
                server.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(kept)))
                kept = None
    return Restored(manifest, kept, verified, unproven)


# Before anything is touched


def check_usable(manifest: Manifest, secret: bytes | None, free_bytes: int | None) -> None:
    if manifest.schema not in known_schemas():
        raise RestoreRefused(
            f"The backup has schema {manifest.schema} of Fogbook {manifest.fogbook}, "
            f"which this version does not know: use that version or a later one."
        )
    if secret is not None:
        for zone, keys in manifest.signing_keys.items():
            for serial, public_key in keys.items():
                if log_key(secret, zone, int(serial)).public_key().public_bytes_raw().hex() != public_key:
                    raise RestoreRefused(
                        "The secret here is not the one under which the backup was made: no API key would work, and "
                        "no personal text could be read. Put that secret here first (FOGBOOK_PEPPER, HOME/pepper)."
                    )
    if free_bytes is not None and free_bytes < manifest.database_bytes:
        raise RestoreRefused(
            f"The database takes {_mib(manifest.database_bytes)} MiB, and {_mib(free_bytes)} MiB are free."
        )


def _mib(number: int) -> int:
    return -(-number // 2**20)


def _check_server(server: psycopg.Connection[Any], manifest: Manifest, name: str) -> None:
    check_safe(server)
    here, there = server.info.server_version // 10_000, manifest.postgres // 10_000
    if here < there:
        raise RestoreRefused(
            f"The backup is one of PostgreSQL {there}, and this is {here}: take {there} or later."
        )
    until = time.monotonic() + LEAVING_S
    while others := _others(server, name):
        if time.monotonic() > until:
            raise RestoreRefused(
                f"The database {name} is in use by {others} connections: stop what runs on it first."
            )
        time.sleep(0.05)


def _others(server: psycopg.Connection[Any], name: str) -> int:
    row = server.execute(OTHERS, (name,)).fetchone()
    return int(row[0]) if row is not None else 0


def _holds(url: str, manifest: Manifest) -> str:
    """What a database holds that a restore would take away: zones, or others' tables; nothing where it is empty."""
    with Connection.connect(url, autocommit=True, wait_s=None) as connection:
        tables = {row[0] for row in connection.execute(HOLDS)}
        found = [f"table {name}" for name in sorted(tables - set(manifest.tables) - LATER)]
        if "public.heads" in tables:
            zones = connection.execute("SELECT zone FROM public.heads ORDER BY zone LIMIT 3").fetchall()
            found = [f"zone {zone}" for (zone,) in zones] + found
    return ", ".join(found[:3])


@contextlib.contextmanager
def maintenance(owner_url: str) -> Iterator[psycopg.Connection[Any]]:
    url = make_conninfo(owner_url, dbname=MAINTENANCE)
    with Connection.connect(url, autocommit=True, wait_s=None, application_name="fogbook restore") as server:
        yield server


# A database beside it


@contextlib.contextmanager
def _new_database(server: psycopg.Connection[Any], name: str, new: str) -> Iterator[Callable[[], str | None]]:
    """Make a database with the rights of the other one. The given function lets it take that one's place, and returns
    what that is called from then on; unless it was called, the new one is dropped at the end."""
    owner, rights = _rights(server, name)
    before = new.replace("_restored_", "_before_")
    became = False

    def become() -> str:
        nonlocal became
        with server.transaction():
            for old, now in ((name, before), (new, name)):
                _on(server, "ALTER DATABASE {} RENAME TO {}", old, now)
        became = True
        return before

    _on(server, "DROP DATABASE IF EXISTS {}", new)  # What a restore that was killed left behind.
    try:
        _on(server, "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' OWNER {}", new, owner)
    except psycopg.errors.InsufficientPrivilege as error:
        raise RestoreRefused("The owner of the database may create none: ALTER ROLE ... CREATEDB.") from error
    try:
        _on(server, "REVOKE ALL ON DATABASE {} FROM PUBLIC", new)
        for grantee, right in (each.split(" ") for each in rights):
            if right in RIGHTS:
                to = sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC")
                server.execute(
                    sql.SQL("GRANT {} ON DATABASE {} TO {}").format(RIGHTS[right], sql.Identifier(new), to)
                )
        yield become
    except psycopg.errors.ObjectInUse as error:
        raise RestoreRefused(
            f"Somebody connected to the database {name} meanwhile: stop that first."
        ) from error
    except psycopg.errors.DiskFull as error:
        raise RestoreRefused("The database's disk is full.") from error
    finally:
        if not became:
            _on(server, "DROP DATABASE IF EXISTS {} WITH (FORCE)", new)


def _rights(server: psycopg.Connection[Any], name: str) -> tuple[str, list[str]]:
    row = server.execute(OWNER_AND_RIGHTS, (name,)).fetchone()
    assert row is not None, "we were connected to it a moment ago"
    return row[0], row[1]


def _on(server: psycopg.Connection[Any], statement: LiteralString, *names: str) -> None:
    server.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _load(server: psycopg.Connection[Any], url: str, folder: Path, manifest: Manifest, tick: Tick) -> None:
    program = find_tool("pg_restore", server)
    name = conninfo_to_dict(url)["dbname"]
    # Rights and owners are given by `migrate`, whatever the roles are called where the backup was made.
    argv = [str(program), "--no-owner", "--no-privileges", "--exit-on-error", "--verbose", "--no-password"]
    with tempfile.TemporaryDirectory(prefix="fogbook-restore-") as scratch:
        argv += [f"--dbname={name}", str(folder / DUMP)]
        try:
            run_tool(argv, url, Path(scratch) / "pg_restore.log", by_bytes(manifest, tick))
        except ToolFailed as error:
            raise RestoreRefused(f"The backup could not be loaded: {error}") from error
    with Connection.connect(url, autocommit=True, wait_s=None) as connection:
        connection.execute("ANALYZE")


# Does it hold what the manifest says


def check_against(url: str, manifest: Manifest) -> None:
    """Heads, checkpoints, keys, and each digest as it follows from the rows. Raises RestoreRefused."""
    with Connection.connect(url, wait_s=None) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        found = describe(connection)
        for what in ("zones", "checkpoints", "signing_keys", "models"):
            if getattr(found, what) != getattr(manifest, what):
                raise RestoreRefused(
                    f"The database that was loaded has other {what.replace('_', ' ')} than the manifest."
                )
        missing = connection.execute(ROLES, ([APP_ROLE, LOG_ROLE, SIGNER_ROLE],)).fetchall()
        if missing:
            raise RestoreRefused(f"The role {missing[0][0]} is missing after the migration.")
        known = all_projections()
        for model in manifest.models:
            projection = known.get(model.projection)
            if projection is None or projection.code != model.code or model.digest is None:
                continue  # Other code made it: it is folded anew as soon as workers run.
            digest = shown(recompute(connection, model.zone, projection, model.generation))
            if digest != model.digest:
                raise RestoreRefused(
                    f"The rows of {model.projection} in zone {model.zone} do not give the manifest's digest."
                )


def _verify(url: str, manifest: Manifest, tick: Tick) -> list[str]:
    held = [
        (f"the backup's checkpoint of {zone}", note)
        for zone, notes in manifest.checkpoints.items()
        for note in notes.values()
    ]
    found = verify(lambda: connect(url, "fogbook restore", bounded=False), None, tick, held=held)
    if found.count:
        raise RestoreRefused(f"The backup does not verify, {found.count} differences: {found.problems[0]}.")
    return found.unproven
