"""The schema for analysts: live rows by name, through rebuilds, for a role that may look and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from ops.migrate import migrate
from ops.servers import Servers
from ops.settings import READER_ROLE
from projections._engine import all_projections
from projections._rebuild import rebuild
from projections._reporting import view_of
from projections._schema import tables
from tests.conftest import Database
from tests.history import history
from tests.living import follow, made, write_log


@pytest.fixture(scope="module")
def lived(servers: Servers, _template: str) -> Iterator[Database]:
    with made(servers, f"reporting_{os.getpid()}", _template) as database:
        write_log(database, history(steps=150))
        follow(database)
        yield database


@pytest.fixture
def reader(lived: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(lived.superuser_url, autocommit=True) as connection:
        connection.execute(f"SET ROLE {READER_ROLE}")
        yield connection


def rows(connection: psycopg.Connection[Any], view: str) -> list[Any]:
    return sorted(map(repr, connection.execute(f"SELECT * FROM {view}").fetchall()))


def test_each_read_model_is_a_view_of_its_live_rows_also_after_a_rebuild(
    lived: Database, reader: psycopg.Connection[Any]
) -> None:
    before = {table.name: rows(reader, view_of(table)) for table in tables()}
    assert sum(map(len, before.values())) > 200
    for name in ("ledger", "staking"):
        rebuild(lived.connect, "main", all_projections()[name])
    assert {table.name: rows(reader, view_of(table)) for table in tables()} == before


def test_an_analyst_sums_what_the_log_says(reader: psycopg.Connection[Any]) -> None:
    balances = reader.execute(
        "SELECT sum(posted) FROM reporting.ledger_balances WHERE zone = 'main'"
    ).fetchone()
    postings = reader.execute(
        "SELECT sum(CASE type WHEN 'Debited' THEN -(data::jsonb ->> 'amount')::numeric"
        " WHEN 'Credited' THEN (data::jsonb ->> 'amount')::numeric END) FROM reporting.events"
    ).fetchone()
    assert balances is not None
    assert postings is not None
    assert balances[0] == 0
    position = reader.execute("SELECT min(position), max(position) FROM reporting.checkpoints").fetchone()
    assert position == (history(steps=150)[-1].position,) * 2


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM public.api_keys",
        "SELECT * FROM public.events",
        "SELECT * FROM read.ledger_balances",
        "DELETE FROM reporting.ledger_balances",
        "UPDATE reporting.events SET type = ''",
        "CREATE TABLE reporting.mine (i int)",
    ],
)
def test_a_reader_may_look_at_reports_and_nothing_else(
    reader: psycopg.Connection[Any], statement: str
) -> None:
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
        reader.execute(statement)


def test_every_view_says_what_it_shows(reader: psycopg.Connection[Any]) -> None:
    undocumented = reader.execute(
        "SELECT viewname FROM pg_views WHERE schemaname = 'reporting'"
        " AND coalesce(obj_description(format('reporting.%I', viewname)::regclass), '') = ''"
    ).fetchall()
    assert undocumented == []


def test_a_migration_that_runs_again_leaves_the_views_as_they_were(
    lived: Database, reader: psycopg.Connection[Any]
) -> None:
    names = reader.execute(
        "SELECT viewname FROM pg_views WHERE schemaname = 'reporting' ORDER BY 1"
    ).fetchall()
    migrate(lived.superuser_url)
    again = reader.execute(
        "SELECT viewname FROM pg_views WHERE schemaname = 'reporting' ORDER BY 1"
    ).fetchall()
    assert again == names
    assert len(names) == len(tables()) + 3
