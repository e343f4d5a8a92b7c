"""`fogbook export --query`: the rows that a query answers, in a file that analysts' tools read."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest

from ops.access import create_key
from ops.export import one_moment
from ops.servers import Servers
from ops.tables import export_query
from queries._query import QUERIES, Query
from queries.api import load_queries, make_app
from tests.acceptance.api import environment
from tests.conftest import PEPPER, Database, Fogbook
from tests.history import history
from tests.living import follow, made, write_log

load_queries()
WHOLE = [
    query
    for query in QUERIES.values()
    if query.timeless
    and all(f.default is not MISSING for f in fields(query.parameters))
    and query.name != "profile"
]


def parameters(query: Query) -> dict[str, str]:
    """Whose it is about, where it is about somebody's."""
    if not query.own or "%(sees_all)s" in query.select:
        return {}
    return {query.own: "wallet:ana" if query.own in ("account", "wallet") else "ana"}


@pytest.fixture(scope="module")
def reader() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


@pytest.fixture(scope="module")
def lived(servers: Servers, _template: str) -> Iterator[Database]:
    with made(servers, f"query_export_{os.getpid()}", _template) as database:
        write_log(database, history(steps=150))
        follow(database)
        yield database


async def answered(database: Database, queries: list[Query]) -> dict[str, tuple[int, list[Any]]]:
    """What each query answers an auditor, page by page."""
    with database.connect() as connection:
        key = create_key(connection, PEPPER.encode(), principal="olga", role="auditor", zones=("main",)).key
    app, answers = make_app(), {}
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://fogbook") as http:
            for query in queries:
                items, after = [], {}
                while True:
                    response = await http.get(
                        query.path,
                        params={"limit": "200"} | parameters(query) | after,
                        headers={"authorization": f"Bearer {key}"},
                    )
                    if response.status_code == 404 and query.single:
                        answers[query.path] = (response.json()["position"], [])
                        break
                    assert response.status_code == 200, (query.path, response.text)
                    page = response.json()
                    items += page["items"]
                    answers[query.path] = (page["position"], items)
                    if page["next"] is None:
                        break
                    after = {"after": page["next"]}
    return answers


def read(file: Path, reader: duckdb.DuckDBPyConnection) -> tuple[dict[str, str], list[dict[str, Any]], Any]:
    """A file's types, its rows as JSON would have them, and what it says of itself."""
    described = reader.execute(f"DESCRIBE SELECT * FROM '{file}'").fetchall()
    types = {name: type for name, type, *_ in described}
    shown = {"TIMESTAMP WITH TIME ZONE": "strftime({0} AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')"}
    shown["DECIMAL(38,0)"] = "CAST({0} AS VARCHAR)"
    columns = ", ".join(shown.get(type, "{0}").format(f'"{name}"') for name, type in types.items())
    rows = reader.execute(f"SELECT {columns} FROM '{file}'").fetchall()
    (said,) = reader.execute(
        f"SELECT value FROM parquet_kv_metadata('{file}') WHERE key = 'fogbook'"
    ).fetchall()
    return types, [dict(zip(types, row, strict=True)) for row in rows], json.loads(bytes(said[0]))


def as_answered(row: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """What stands as text in the file and as JSON in the answer, as the answer has it."""
    return {
        name: json.loads(value) if isinstance(value, str) and not isinstance(item[name], str) else value
        for name, value in row.items()
    }


def test_the_rows_of_every_query_are_those_that_it_answers(
    lived: Database,
    redis_url: str,
    reader: duckdb.DuckDBPyConnection,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    environment(monkeypatch, lived, redis_url)
    answers = asyncio.run(answered(lived, WHOLE))
    rows_seen = 0
    for query in WHOLE:
        file = tmp_path / "rows.parquet"
        with lived.connect() as connection, one_moment(connection):
            made = export_query(connection, query, "main", parameters(query), file, lambda done, total: None)
        position, items = answers[query.path]
        _, rows, said = read(file, reader)
        assert len(rows) == len(items) == made.rows, query.path
        assert [as_answered(row, item) for row, item in zip(rows, items, strict=True)] == items, query.path
        assert (said["position"], said["query"], said["zone"]) == (position, query.path[9:], "main")
        rows_seen += len(rows)
    assert len(WHOLE) > 20
    assert rows_seen > 200


@pytest.fixture
def at_lived(fogbook: Fogbook, lived: Database, monkeypatch: pytest.MonkeyPatch) -> Fogbook:
    monkeypatch.setenv("DATABASE_URL", lived.url)
    return fogbook


def test_a_file_has_exact_amounts_and_says_which_position_it_is_of(
    at_lived: Fogbook, reader: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    file = tmp_path / "statement.parquet"
    code, out, err = at_lived(
        "export", str(file), "--query", "ledger/statement", "--param", "account=pool:rewards", "--json"
    )
    assert (code, err) == (0, "")
    types, rows, said = read(file, reader)
    assert types["amount"] == "DECIMAL(38,0)"
    assert types["at"] == "TIMESTAMP WITH TIME ZONE"
    assert said["parameters"] == {"account": "pool:rewards"}
    assert said["position"] == json.loads(out)["position"] == history(steps=150)[-1].position
    assert json.loads(out)["rows"] == len(rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--query", "ledger/nothing"), "There is no query ledger/nothing"),
        (("--query", "ledger/statement"), "name it by --param account="),
        (("--query", "ledger/statement", "--param", "account=a:b:c:d"), "account"),
        (("--query", "ledger/assets", "--param", "colour=red"), "There is no such parameter"),
        (("--query", "ledger/assets", "--param", "colour"), "should be NAME=VALUE"),
        (("--query", "ledger/assets", "--at", "5"), "--query goes without --at"),
        (("--param", "account=pool:rewards"), "--param goes with --query"),
        (("--query", "ledger/assets", "--zone", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_exported_is_said_in_words_and_leaves_no_file(
    at_lived: Fogbook, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, _, err = at_lived("export", str(tmp_path / "rows.parquet"), *arguments)
    assert code != 0
    assert words in " ".join(err.replace("│", " ").split())
    assert list(tmp_path.glob("*.parquet")) == []


def test_a_table_that_cannot_be_written_is_said_in_words(at_lived: Fogbook, tmp_path: Path) -> None:
    code, _, err = at_lived("export", str(tmp_path / "rows.ndjson"), "--query", "ledger/assets")
    assert (code, "should end in .parquet" in err) == (1, True)
    code, _, err = at_lived("export", str(tmp_path / "no" / "rows.parquet"), "--query", "ledger/assets")
    assert (code, "cannot be written" in err) == (1, True)


def test_a_total_beyond_38_digits_is_refused_and_not_rounded(
    at_lived: Fogbook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.tables.shows", lambda query: lambda row: b'{"total":"%b"}' % (b"9" * 39))
    code, _, err = at_lived("export", str(tmp_path / "rows.parquet"), "--query", "ledger/trial-balance")
    assert (code, "cannot be written" in err) == (1, True)
    assert list(tmp_path.glob("*.parquet")) == []
