"""What a database server must be for an acknowledged command to be durable."""

from __future__ import annotations

import psycopg

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
