"""`fogbook migrate`: the schema, the tables of the projections, the rights of the roles that Fogbook works in."""

from __future__ import annotations

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from ops.settings import APP_ROLE, SIGNER_ROLE
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


def migrate(url: str) -> None:
    """Bring a database up to date; safe to run twice, and by several at once."""
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(url, connect_timeout=5), poolclass=NullPool
    )
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
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
    "GRANT SELECT, INSERT ON events, commands, recorder_events TO {}",
    "GRANT SELECT, INSERT, UPDATE ON heads, snapshots, timer_fates, recorder_tracking TO {}",
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


def _grant(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    login = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'fogbook'").fetchone()
    for role, grants in ((APP_ROLE, APP_GRANTS), (SIGNER_ROLE, SIGNER_GRANTS)):
        name = sql.Identifier(role)
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(name))
        members = ("GRANT {} TO CURRENT_USER", *(["GRANT {} TO fogbook"] if login else []))
        for statement in (*grants, *members):
            connection.execute(sql.SQL(statement).format(name))
