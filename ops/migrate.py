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

from ops.safety import check_safe
from ops.settings import APP_ROLE, LOG_ROLE, READER_ROLE, SIGNER_ROLE
from ops.waits import Connection
from projections._reporting import reporting_statements
from projections._schema import table_statements


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
        "postgresql+psycopg://", creator=lambda: Connection.connect(url, wait_s=None), poolclass=NullPool
    )
    with engine.begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    with Connection.connect(url, wait_s=None) as own:
        check_safe(own)
        own.execute("SELECT pg_advisory_xact_lock(7045061002)")
        own.execute("CREATE SCHEMA IF NOT EXISTS read")
        own.execute("CREATE SCHEMA IF NOT EXISTS past")
        own.execute("SET LOCAL client_min_messages = warning")  # Not a notice for all that is there already.
        own.execute("; ".join(table_statements()))
        own.execute("; ".join(reporting_statements()))
        _grant(own)


APP_GRANTS = (
    "GRANT USAGE ON SCHEMA public, read, past TO {}",
    "REVOKE ALL ON heads, events, commands, snapshots FROM {}",
    "GRANT SELECT ON heads, events, commands, snapshots TO {}",
    "GRANT EXECUTE ON FUNCTION append_to_log, lock_head, add_head TO {}",
    "GRANT SELECT, INSERT ON recorder_events TO {}",
    "GRANT SELECT, INSERT, UPDATE ON timer_fates, recorder_tracking TO {}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON checkpoints, quarantine TO {}",
    "REVOKE ALL ON api_keys, access_log FROM {}",
    "GRANT SELECT, INSERT, UPDATE (expires_at, revoked_at, last_used_at) ON api_keys TO {}",
    "GRANT SELECT, INSERT ON access_log TO {}",
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

# It may look, and nothing else; the views are read with their owner's rights.
READER_GRANTS = (
    "GRANT USAGE ON SCHEMA reporting TO {}",
    "GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO {}",
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


GRANTS = {
    LOG_ROLE: LOG_GRANTS,
    APP_ROLE: APP_GRANTS,
    SIGNER_ROLE: SIGNER_GRANTS,
    READER_ROLE: READER_GRANTS,
}


def _grant(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    login = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'fogbook'").fetchone()
    for role, grants in (
        (LOG_ROLE, LOG_GRANTS),
        (APP_ROLE, APP_GRANTS),
        (SIGNER_ROLE, SIGNER_GRANTS),
        (READER_ROLE, READER_GRANTS),
    ):
        name = sql.Identifier(role)
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(name))
        members = ["GRANT {} TO CURRENT_USER"] if role != READER_ROLE else []
        if login and role not in (LOG_ROLE, READER_ROLE):
            members.append("GRANT {} TO fogbook")
        for statement in (*members, *grants):
            connection.execute(sql.SQL(statement).format(name))
