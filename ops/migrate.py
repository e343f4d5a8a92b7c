"""`fogbook migrate`: the schema, the tables of the projections, the rights of the roles that Fogbook works in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from ops.settings import APP_ROLE, LOG_ROLE, SIGNER_ROLE
from projections._schema import table_statements

LEAST_POSTGRES = 150_000


class UnsafeDatabase(Exception):
    """The server is too old, or set up so that an acknowledged command could be lost."""


def check_safe(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Refuse a server that could lose what it acknowledged. Raises UnsafeDatabase."""
    if connection.info.server_version < LEAST_POSTGRES:
        raise UnsafeDatabase(f"PostgreSQL 15 or later is needed, this is {connection.info.server_version}.")
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
        if row is not None and row[0] in ("off", "local" if name == "synchronous_commit" else "off"):
            raise UnsafeDatabase(
                f"PostgreSQL runs with {name}={row[0]}; acknowledged commands could be lost."
            )


def known_schemas() -> list[str]:
    """Every version of the schema that this code knows, newest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def schema_of(connection: psycopg.Connection[Any]) -> str | None:
    """The version of a database's schema; None where it has none of Fogbook's."""
    row = connection.execute("SELECT to_regclass('public.alembic_version')").fetchone()
    if row is None or row[0] is None:
        return None
    row = connection.execute("SELECT version_num FROM public.alembic_version").fetchone()
    return None if row is None else str(row[0])


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def migrate(url: str) -> None:
    """Bring a database up to date; safe to run twice, and by several at once."""
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(url, connect_timeout=5), poolclass=NullPool
    )
    with engine.begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    with psycopg.connect(url, connect_timeout=5) as own:
        check_safe(own)
        own.execute("SELECT pg_advisory_xact_lock(7045061002)")
        own.execute("CREATE SCHEMA IF NOT EXISTS read")
        own.execute("CREATE SCHEMA IF NOT EXISTS past")
        for statement in table_statements():
            own.execute(statement)
        _grant(own)


APP_GRANTS = (
    "GRANT USAGE ON SCHEMA public, read, past TO {}",
    "REVOKE ALL ON heads, events, commands, snapshots FROM {}",
    "GRANT SELECT ON heads, events, commands, snapshots TO {}",
    "GRANT EXECUTE ON FUNCTION append_to_log, lock_head, add_head TO {}",
    "GRANT SELECT, INSERT ON recorder_events TO {}",
    "GRANT SELECT, INSERT, UPDATE ON timer_fates, recorder_tracking TO {}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON checkpoints, quarantine TO {}",
    "GRANT SELECT, INSERT, UPDATE ON api_keys TO {}",
    "REVOKE ALL ON trees, tiles, attestations, signing_keys, signed_checkpoints FROM {}",
    "GRANT SELECT ON trees, tiles, attestations, signing_keys, signed_checkpoints, witnesses TO {}",
    "GRANT UPDATE (wanted) ON trees TO {}",
    "GRANT SELECT, INSERT ON cosignatures TO {}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON digests, archives TO {}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA read, past TO {}",
)

# It reads what it signs, and takes nothing back.
SIGNER_GRANTS = (
    "GRANT USAGE ON SCHEMA public TO {}",
    "GRANT SELECT ON heads, events, commands, checkpoints, digests, quarantine TO {}",
    "GRANT SELECT, INSERT ON attestations, signing_keys, signed_checkpoints TO {}",
    "GRANT SELECT, INSERT, UPDATE ON trees, tiles TO {}",
)

# It owns the functions that append. To be given them it has to be able to make some, for that moment.
LOG_GRANTS = (
    "GRANT USAGE, CREATE ON SCHEMA public TO {}",
    "GRANT SELECT, INSERT, UPDATE ON heads, snapshots TO {}",
    "GRANT SELECT, INSERT ON events, commands TO {}",
    "ALTER FUNCTION append_to_log OWNER TO {}",
    "ALTER FUNCTION lock_head OWNER TO {}",
    "ALTER FUNCTION add_head OWNER TO {}",
    "REVOKE CREATE ON SCHEMA public FROM {}",
    "REVOKE EXECUTE ON FUNCTION append_to_log, lock_head, add_head FROM PUBLIC",
)


def _grant(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    login = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'fogbook'").fetchone()
    for role, grants in ((LOG_ROLE, LOG_GRANTS), (APP_ROLE, APP_GRANTS), (SIGNER_ROLE, SIGNER_GRANTS)):
        name = sql.Identifier(role)
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(name))
        members = ["GRANT {} TO CURRENT_USER"]
        if login and role != LOG_ROLE:
            members.append("GRANT {} TO fogbook")
        for statement in (*members, *grants):
            connection.execute(sql.SQL(statement).format(name))
