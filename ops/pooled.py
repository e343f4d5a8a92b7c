"""What stands between a process and PostgreSQL, and whether it lets through what connections ask for.

A pooler in transaction mode gives each transaction whichever of its own connections is free, and drops what a client
asked for as it connected: the role, and the deadlines that keep a stopped process from holding a zone's head. The
pooler has to say both itself (`connect_query`, ops/deploy/pgbouncer.ini). Whoever prepares statements, holds a lock for
as long as he is connected, or works for longer than a deadline, goes past it.
"""

from __future__ import annotations

import threading

import psycopg
import structlog

from ops.settings import APP_ROLE, Settings, SettingsIncomplete
from ops.waits import Connection, connection_options

RETRY_S = 1.0

SESSION = """
SELECT pg_backend_pid(), current_setting('role'), current_setting('statement_timeout') <> '0',
       current_setting('lock_timeout') <> '0', current_setting('idle_in_transaction_session_timeout') <> '0',
       current_setting('TimeZone') = 'UTC'
"""

log = structlog.get_logger("fogbook.pooled")


def check_way(settings: Settings, *, direct: bool = False) -> None:
    """Refuse a pooler that changes what work means, or any at all. Raises SettingsIncomplete and OperationalError."""
    with Connection.connect(
        settings.database_url,
        wait_s=settings.database_wait_s,
        autocommit=True,
        prepare_threshold=None,
        options=connection_options(APP_ROLE, settings.database_wait_s),
    ) as connection:
        row = connection.execute(SESSION).fetchone()
        assert row is not None
        backend, role, *bounded = row
        if backend == connection.info.backend_pid:
            return
    if direct:
        raise SettingsIncomplete(
            "DATABASE_URL leads to a pooler, and workers and the archivist need PostgreSQL itself: they hold locks for"
            " as long as they are connected, and work for longer than a deadline."
        )
    if settings.prepare_statements:
        raise SettingsIncomplete("DATABASE_URL leads to a pooler: set FOGBOOK_PREPARE_STATEMENTS=false.")
    if role != APP_ROLE or not all(bounded):
        raise SettingsIncomplete(
            "The pooler that DATABASE_URL leads to drops the role and the deadlines that connections ask for: it needs"
            " the connect_query that ops/deploy/pgbouncer.ini shows."
        )


def find_direct(settings: Settings, stopping: threading.Event) -> None:
    """Wait for PostgreSQL, which may be away at the start, and refuse a pooler. Raises SettingsIncomplete."""
    while not stopping.is_set():
        try:
            return check_way(settings, direct=True)
        except psycopg.OperationalError as error:
            log.warning("database_unavailable", error=str(error))
            stopping.wait(RETRY_S)
