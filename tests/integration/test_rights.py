"""Who may do what to the log: it is written by functions, and whoever calls them may do nothing else to it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from commands._append import APPEND
from ops.migrate import migrate
from ops.zones import ensure_zone
from tests.conftest import Database

TABLES = ("heads", "events", "commands", "snapshots")

FORBIDDEN = [
    *(f"INSERT INTO {table} SELECT * FROM {table}" for table in TABLES),
    *(f"DELETE FROM {table}" for table in TABLES),
    *(f"TRUNCATE {table}" for table in TABLES),
    "UPDATE heads SET position = position + 1",
    "UPDATE heads SET clock = 'manual'",
    "UPDATE events SET data = ''",
    "UPDATE commands SET status = 200",
    "UPDATE snapshots SET state = ''",
    "SELECT * FROM heads FOR UPDATE",
    "ALTER FUNCTION append_to_log SECURITY INVOKER",
    "ALTER TABLE events DISABLE TRIGGER ALL",
    "DROP FUNCTION lock_head",
    "SET ROLE fogbook_log",
    "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
]

CALLS = [
    "SELECT lock_head('main')",
    "SELECT add_head('eve', 'real', 'epoch')",
]


def events(database: Database) -> Any:
    with database.superuser() as owner:
        return owner.execute("SELECT count(*), max(position) FROM events").fetchone()


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_the_role_that_fogbook_works_in_writes_to_the_log_by_its_functions_only(
    database: Database, statement: str
) -> None:
    with database.connect() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def test_those_functions_are_enough(database: Database) -> None:
    assert ensure_zone(database.url, "main")
    assert events(database)[0] > 0


@pytest.mark.parametrize("call", CALLS)
def test_nobody_else_may_call_them(database: Database, call: str) -> None:
    with database.signer() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(call.encode())
    with psycopg.connect(database.url, autocommit=True) as connection:  # In no role of Fogbook's.
        connection.execute("SET ROLE fogbook_signer")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(call.encode())


def test_nobody_works_in_the_role_that_owns_them(database: Database) -> None:
    with database.superuser() as owner:
        members = owner.execute(
            "SELECT m.rolname FROM pg_auth_members JOIN pg_roles m ON m.oid = member JOIN pg_roles r ON r.oid = roleid"
            " WHERE r.rolname = 'fogbook_log' AND NOT m.rolsuper"
        ).fetchall()
        owned = owner.execute(
            "SELECT proname::text, proowner::regrole::text, prosecdef, proconfig FROM pg_proc"
            " WHERE pronamespace = 'public'::regnamespace ORDER BY 1"
        ).fetchall()
        may_create = owner.execute(
            "SELECT has_schema_privilege('fogbook_log', 'public', 'CREATE')"
        ).fetchone()
    assert members == []
    fixed = ["search_path=public, pg_temp"]
    assert owned == [
        (name, "fogbook_log", True, fixed) for name in ("add_head", "append_to_log", "lock_head")
    ]
    assert may_create == (False,)


def test_a_table_of_the_callers_own_gets_in_nobodys_way(database: Database) -> None:
    """Names are looked up where the functions say, not where the caller's session does."""
    ensure_zone(database.url, "main")
    with database.superuser() as owner:
        owner.execute("CREATE SCHEMA eve AUTHORIZATION fogbook_app")
    before = events(database)
    with database.connect() as connection:
        connection.execute("CREATE TABLE eve.heads (LIKE public.heads)")
        connection.execute("INSERT INTO eve.heads VALUES ('main', 7, 7, 'epoch', 'real')")
        connection.execute("SET search_path = eve, public")
        empty: list[Any] = [[] for _ in range(21)]
        moved = connection.execute(APPEND, ("main", 7, 7, datetime.now(UTC), *empty)).fetchone()
        assert moved == (False,)
    assert events(database) == before


def test_rights_that_an_earlier_version_gave_to_write_are_taken_back(database: Database) -> None:
    with database.superuser() as owner:
        owner.execute("GRANT INSERT, UPDATE ON heads, events, commands, snapshots TO fogbook_app")
        owner.execute("GRANT EXECUTE ON FUNCTION append_to_log, lock_head, add_head TO PUBLIC")
    migrate(database.superuser_url)
    with database.connect() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("UPDATE heads SET position = 0")
    with database.signer() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT add_head('eve', 'real', 'epoch')")


def test_an_owner_who_is_no_superuser_may_migrate(database: Database) -> None:
    """Managed databases give nobody a superuser: one who may make roles has to be enough."""
    name = f"{database.name}_owned"
    with database.superuser() as owner:
        owner.execute("CREATE ROLE landlord LOGIN CREATEROLE PASSWORD 'p'")
        owner.execute(
            "DO $$ DECLARE r text; BEGIN FOREACH r IN ARRAY ARRAY['fogbook_app', 'fogbook_log', 'fogbook_signer'] LOOP"
            " EXECUTE format('GRANT %I TO landlord WITH ADMIN OPTION', r); END LOOP; END $$"
        )
        owner.execute(f"CREATE DATABASE {name} OWNER landlord")
        try:
            url = psycopg.conninfo.make_conninfo(
                database.superuser_url, dbname=name, user="landlord", password="p"
            )
            migrate(url)
            migrate(url)
            assert ensure_zone(url, "main")
        finally:
            owner.execute(f"DROP DATABASE {name} WITH (FORCE)")
            # What he gave, in this cluster that all tests share.
            owner.execute("REVOKE fogbook_app, fogbook_signer FROM fogbook GRANTED BY landlord")
            owner.execute("DROP ROLE landlord")
