"""`fogbook migrate`: the schema, the tables of the projections, the rights of the roles that Fogbook works in.

Two versions are at work on one database while processes are replaced. So a release's migrations come in two steps
(ops/adr/0032): `expand`, before the first new process starts, only adds; `contract`, once the last old one has ended,
takes away what nobody uses any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import sqlalchemy.exc
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from ops.home import Refused
from ops.safety import check_safe
from ops.settings import APP_ROLE, LOG_ROLE, READER_ROLE, SIGNER_ROLE
from ops.waits import Connection
from projections._reporting import reporting_statements
from projections._schema import PRESENT_COLUMNS, PRESENT_INDEXES, Present, drop_statement, lacking

BRIEFLY = "-c lock_timeout=2000"
PAUSE_S = 0.5
MOST_ATTEMPTS = 60
IN_THE_WAY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


class Step(StrEnum):
    expand = "expand"
    contract = "contract"
    all = "all"


class StepRefused(Refused):
    """The step cannot be taken while an older version is at work; the message says what to do."""


class Revision(NamedTuple):
    name: str
    contracts: bool
    """Whether it takes away what the version before still uses."""


def revisions() -> list[Revision]:
    """Every version of the schema that this code knows, oldest first. A migration that takes something away says
    `step = "contract"`."""
    scripts = reversed(list(ScriptDirectory.from_config(_config()).walk_revisions()))
    return [Revision(s.revision, getattr(s.module, "step", "") == Step.contract) for s in scripts]


def known_schemas() -> list[str]:
    """Every version of the schema that this code knows, newest first."""
    return [revision.name for revision in reversed(revisions())]


def target_of(step: Step, current: str | None, known: Sequence[Revision]) -> str | None:
    """The revision that a step leads to; None where it has nothing to do. Raises StepRefused."""
    if step is not Step.expand or current is None:
        return "head"
    names = [revision.name for revision in known]
    if current not in names:
        raise StepRefused(f"The database has the schema {current}, which is newer than this version.")
    later = list(known[names.index(current) + 1 :])
    while later and later[-1].contracts:
        later.pop()
    for revision in later:
        if revision.contracts:
            raise StepRefused(
                f"Between the database's schema {current} and this version stands {revision.name}, which takes away"
                " what the version at work may use: go by way of the releases in between, or stop all processes and run"
                " `fogbook migrate`."
            )
    return later[-1].name if later else None


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


def migrate(url: str, step: Step = Step.all) -> None:
    """Bring a database up to date; safe to run twice, by several at once, and while processes are at work on it.

    Raises StepRefused, UnsafeDatabase and psycopg.Error; a step that failed has changed nothing that matters.
    """
    _patiently(lambda: _upgrade(url, step))
    _patiently(lambda: _declare(url, step))
    with Connection.connect(url, wait_s=None, autocommit=True) as own:
        for statement in lacking(_present(own)).one_by_one:
            own.execute(statement)


def _patiently(work: Callable[[], None]) -> None:
    """Whoever waits for a lock on a table holds up all who come after him: wait briefly, let them pass, try again."""
    for attempt in range(1, MOST_ATTEMPTS + 1):
        try:
            return work()
        except (sqlalchemy.exc.OperationalError, *IN_THE_WAY) as error:
            reason = error.orig if isinstance(error, sqlalchemy.exc.OperationalError) else error
            if not isinstance(reason, IN_THE_WAY) or attempt == MOST_ATTEMPTS:
                raise
            time.sleep(PAUSE_S)


def _upgrade(url: str, step: Step) -> None:
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: Connection.connect(url, wait_s=None, options=BRIEFLY),
        poolclass=NullPool,
    )
    with engine.begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        driver = connection.connection.driver_connection
        assert driver is not None
        target = target_of(step, schema_of(driver), revisions())
        if target is not None:
            command.upgrade(config, target)


def _declare(url: str, step: Step) -> None:
    """Tables, columns, views and rights as the code declares them; indexes that it declares no more, at the end."""
    with Connection.connect(url, wait_s=None, options=BRIEFLY) as own:
        check_safe(own)
        own.execute("SELECT pg_advisory_xact_lock(7045061002)")
        own.execute("CREATE SCHEMA IF NOT EXISTS read")
        own.execute("CREATE SCHEMA IF NOT EXISTS past")
        own.execute("SET LOCAL client_min_messages = warning")  # Not a notice for all that is there already.
        if statements := lacking(_present(own)).at_once:
            own.execute("; ".join(statements))
        if step is not Step.expand:
            own.execute(drop_statement())
        own.execute("; ".join(reporting_statements()))
        _grant(own)


def _present(connection: psycopg.Connection[Any]) -> Present:
    columns = {name: set(names) for name, names in connection.execute(PRESENT_COLUMNS)}
    return Present(columns, {name for (name,) in connection.execute(PRESENT_INDEXES)})


APP_GRANTS = (
    "GRANT CONNECT ON DATABASE {database} TO {}",  # Whoever may not is not told its size either.
    "GRANT USAGE ON SCHEMA public, read, past TO {}",
    "REVOKE ALL ON heads, events, commands, snapshots FROM {}",
    "GRANT SELECT ON heads, events, commands, snapshots TO {}",
    "GRANT EXECUTE ON FUNCTION append_to_log, lock_head, add_head TO {}",
    "GRANT SELECT, INSERT ON recorder_events TO {}",
    "GRANT SELECT, INSERT, UPDATE ON timer_fates, act_fates, recorder_tracking TO {}",
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
    database = sql.Identifier(str(connection.execute("SELECT current_database()").fetchall()[0][0]))
    for role, grants in GRANTS.items():
        name = sql.Identifier(role)
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(name))
        members = ["GRANT {} TO CURRENT_USER"] if role != READER_ROLE else []
        if login and role not in (LOG_ROLE, READER_ROLE):
            members.append("GRANT {} TO fogbook")
        for statement in (*members, *grants):
            connection.execute(sql.SQL(statement).format(name, database=database))
