"""How queries reach the database: plans for all values, items as PostgreSQL would show them, connections that end."""

from __future__ import annotations

import asyncio
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from typing import Any, get_type_hints

import pytest

from commands._codec import EPOCH
from ops.pool import Pool, open_pool
from ops.settings import Settings
from projections._tables import Money
from queries._query import QUERIES, Query
from queries._rows import shows
from queries._sql import given_of, settled, statement
from queries.api import load_queries
from tests.conftest import PEPPER, Database

load_queries()


@dataclass(frozen=True, slots=True)
class OfThings:
    of: str
    kind: str = ""
    days: int = 0
    size: str = "hour"
    since: datetime = EPOCH


@dataclass(frozen=True, slots=True)
class Thing:
    name: str
    number: int
    amount: Money
    at: datetime
    flag: bool
    names: list[str]
    terms: dict[str, Any] | None
    missing: Money | None


def query(select: str) -> Query:
    return Query(
        context="things",
        name="things",
        row=Thing,
        select=select,
        projection="ledger",
        key=("number",),
        descending=False,
        parameters=OfThings,
        own="",
        roles=frozenset(),
        timeless=True,
        single=False,
        inputs=Thing,
        derive=None,
    )


# What a statement depends on


@pytest.mark.parametrize(
    ("given", "sees_all", "expected"),
    [
        ({}, False, "('' = '' OR kind = '') AND (False OR owner = %(principal)s)"),
        ({}, True, "('' = '' OR kind = '') AND (True OR owner = %(principal)s)"),
        (
            {"kind": "a"},
            False,
            "(FALSE OR kind = %(kind)s) AND (False OR owner = %(principal)s)",
        ),
    ],
)
def test_a_condition_on_what_is_left_out_is_decided_in_the_text(
    given: dict[str, Any], sees_all: bool, expected: str
) -> None:
    text = "(%(kind)s = '' OR kind = %(kind)s) AND (%(sees_all)s OR owner = %(principal)s)"
    assert settled(text, query(""), frozenset(given), sees_all) == expected


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("%(days)s = 0", {"days"}, "FALSE"),
        ("%(days)s = 0", set(), "0 = 0"),
        ("%(days)s = 01", {"days"}, "%(days)s = 01"),
        ("%(kind)s <> ''", {"kind"}, "TRUE"),
        ("%(kind)s IN ('', status)", {"kind"}, "%(kind)s IN (status)"),
        ("%(kind)s IN ('', status)", set(), "'' IN ('', status)"),
        # Neither of these has an empty default, so what they are compared with decides nothing.
        ("%(size)s = ''", {"size"}, "%(size)s = ''"),
        ("%(of)s = ''", {"of"}, "%(of)s = ''"),
        ("%(of)s = ''", set(), "%(of)s = ''"),
        ("%(size)s = 'day'", set(), "'hour' = 'day'"),
        ("at >= %(since)s", set(), "at >= '1970-01-01T00:00:00+00:00'::timestamptz"),
        ("%(projection)s, %(zone)s, %(limit)s", set(), "'ledger', %(zone)s, %(limit)s"),
    ],
)
def test_what_is_given_stays_a_parameter(text: str, given: set[str], expected: str) -> None:
    assert settled(text, query(""), frozenset(given), False) == expected


def test_what_callers_send_is_never_part_of_a_statement() -> None:
    hostile = "'; DROP TABLE events --"
    for each in QUERIES.values():
        defaults = {f.name: f.default for f in fields(each.parameters)}
        values = {n: hostile if d == "" or d is MISSING else d for n, d in defaults.items()}
        text = statement(each, True, False, given_of(each, values), False)
        assert b"DROP" not in text
        assert all(b"%%(%b)s" % n.encode() not in text for n, d in defaults.items() if values[n] == d)


# Plans


def values_of(asked: Query) -> dict[str, Any]:
    hints = get_type_hints(asked.parameters)
    some = {int: 1, datetime: EPOCH}
    defaults = {f.name: f.default for f in fields(asked.parameters)}
    given = {n: some.get(hints[n], "x") if d is MISSING else d for n, d in defaults.items()}
    if asked.own:
        given[asked.own] = "wallet:ana"
    return given | {"zone": "main", "limit": 50, "principal": "ana"}


@pytest.mark.parametrize(
    "path",
    [
        "/queries/ledger/balance",
        "/queries/ledger/statement",
        "/queries/ledger/holds",
        "/queries/analytics/wealth",
        "/queries/analytics/economy",
    ],
)
def test_a_statement_that_is_asked_again_is_planned_no_more(database: Database, path: str) -> None:
    asked = QUERIES[path]
    values = values_of(asked)
    text = statement(asked, False, False, given_of(asked, values), False)
    with database.connect() as connection:
        for number in range(8):
            connection.execute(text, values | {"principal": f"p{number}"}, prepare=True).fetchall()
        plans = "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%WITH live%'"
        assert connection.execute(plans).fetchall() == [(3, 5)]


def test_no_statement_names_what_does_not_exist(database: Database) -> None:
    with database.connect() as connection:
        for asked in QUERIES.values():
            for sees_all in (False, True):
                values = values_of(asked)
                for given in (given_of(asked, values), frozenset(f.name for f in fields(asked.parameters))):
                    text = statement(asked, False, False, given, sees_all)
                    assert connection.execute(text, values).fetchall() == [], asked.path


# Items


TEXTS = ["", '"\\/', "".join(map(chr, range(1, 0x300))), "\u2028\ud7ff\ufffd\U0001f600", "enc:v1:x:y"]


@pytest.mark.parametrize("text", TEXTS)
def test_an_item_is_what_postgresql_makes_of_the_same_row(database: Database, text: str) -> None:
    row = """
    SELECT %(text)s::text AS name, 9007199254740993::bigint AS number, 123456789012345678901234567890::numeric::text
           AS amount, '2026-01-01T00:00:00.000000Z'::text AS at, true AS flag, ARRAY[%(text)s, 'b'] AS names,
           jsonb_build_object('a', %(text)s::text, 'b', 1.50) AS terms, NULL::text AS missing
    """
    with database.connect() as connection:
        found = connection.execute(f"SELECT row_to_json(r)::text FROM ({row}) r", {"text": text}).fetchone()
        columns = "name, number, amount, at, flag, to_json(names)::text, to_json(terms)::text, missing"
        made = connection.execute(f"SELECT {columns} FROM ({row}) r", {"text": text}).fetchone()
    assert found is not None and made is not None
    assert shows(query(""))(made) == found[0].encode()


def test_json_that_is_null_is_shown_as_null() -> None:
    shown = shows(query(""))(["a", 1, "2", "t", False, None, None, None])
    assert shown == (
        b'{"name":"a","number":1,"amount":"2","at":"t","flag":false,"names":null,"terms":null,"missing":null}'
    )


# Connections


@pytest.fixture
def settings(database: Database, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("DATABASE_URL", database.url)
    monkeypatch.setenv("FOGBOOK_PEPPER", PEPPER)
    return Settings()


END = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'fogbook tests'"


def test_connections_that_the_server_ended_are_replaced_before_they_are_used(
    database: Database, settings: Settings
) -> None:
    async def pid(pool: Pool) -> int:
        async with pool.connection() as connection:
            row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
            assert row is not None
            return int(row[0])

    async def scenario() -> None:
        async with open_pool(settings, "fogbook tests", 2) as pool:
            async with pool.connection():
                before = await pid(pool)
            assert await pid(pool) != before, "the last one back is the first one out"
            with database.superuser() as superuser:
                superuser.execute(END)
            after = [await pid(pool), await pid(pool)]
            assert before not in after
            assert after[0] == after[1]

    asyncio.run(scenario())
