"""A log whose events were stored under a name that is gone: everybody reads it as if it were not."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from pydantic import SecretStr

from commands._codec import encode_json
from ops.access import create_key
from ops.export import one_moment, stored_entries, survey
from ops.parquet import write_parquet
from ops.replay import replay
from ops.servers import Servers
from ops.settings import Settings
from ops.verify import verify
from ops.web import App
from projections._engine import Record, all_projections
from projections._rebuild import rebuild
from queries.api import QueryService, register_all
from tests.conftest import PEPPER, Database
from tests.history import history
from tests.living import digests, live, made
from tests.upcasting import becomes, debited, learn, tokens_taken

STEPS = 80


def as_stored_then(record: Record) -> Record:
    """The same event in the log of somebody who began when `Debited` was called TokensTaken."""
    if record.type != "Debited":
        return record
    data = encode_json(tokens_taken(json.loads(record.data)))
    meta, at = record.meta, record.recorded_at
    return Record(record.position, record.stream, record.version, "TokensTaken", data, meta, at)


@pytest.fixture(scope="module")
def young(servers: Servers, _template: str) -> Iterator[Database]:
    """A log that knows today's types only."""
    with made(servers, f"young_{os.getpid()}", _template) as database:
        live(database, history(steps=STEPS))
        yield database


@pytest.fixture
def old(servers: Servers, _template: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The same log, as it would be today if it had begun under the old name: commands went on after that."""
    with becomes("TokensTaken", "Debited", debited):
        learn(monkeypatch)
        with made(servers, f"old_{os.getpid()}", _template) as database:
            live(database, [as_stored_then(record) for record in history(steps=STEPS)])
            yield database


async def ask(database: Database, path: str, **params: Any) -> Any:
    settings = Settings(DATABASE_URL=database.url, pepper=SecretStr(PEPPER), query_connections=2)
    app, service = App(title="Fogbook queries", version="test"), QueryService()
    register_all(app, service)
    with database.connect() as connection:
        key = create_key(connection, PEPPER.encode(), principal="olga", role="auditor", zones=("*",)).key
    async with service.run(settings):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://fogbook") as http:
            response = await http.get(path, params=params, headers={"authorization": f"Bearer {key}"})
    assert response.status_code == 200, response.text
    return response.json()


def test_the_sequencer_the_projections_and_history_read_old_events_as_todays(
    old: Database, young: Database, tmp_path: Path
) -> None:
    with old.connect() as connection:
        stored = dict(
            connection.execute(
                "SELECT type, count(*) FROM events WHERE type IN ('Debited', 'TokensTaken') GROUP BY type"
            ).fetchall()
        )
    assert stored["TokensTaken"] > 40 and stored["Debited"] == 6, "what was appended since has today's name"

    # The sequencer decided on the same states, and the followers folded the same rows.
    assert digests(old) == digests(young)

    # So does a rebuild, which asks PostgreSQL for the types that it handles.
    for name in ("ledger", "analytics", "timers"):
        rebuild(old.connect, "main", all_projections()[name])
    assert digests(old) == digests(young)

    # The states and sums of history, and a stream's state as of any position.
    for path, params in (
        ("/history/streams/wallet:ana/state", {}),
        ("/history/streams/wallet:ana/state", {"at": "position:200"}),
        ("/history/trial-balance", {}),
    ):
        answer = asyncio.run(ask(old, path, **params))
        assert answer == asyncio.run(ask(young, path, **params)) and answer
    assert state(old) == state(young)

    # Whoever asks for an event gets it as it was stored, and its effects as they are.
    with old.connect() as connection:
        row = connection.execute("SELECT min(position) FROM events WHERE type = 'TokensTaken'").fetchone()
    assert row is not None
    shown = asyncio.run(ask(old, f"/history/events/{row[0]}"))
    assert (shown["type"], "coin" in shown["data"]) == ("TokensTaken", True)
    assert "ledger" in {effect["projection"] for effect in shown["effects"]["read_models"]}

    # The verifier folds all of it again, and stops at nothing but the events of an application in our own zone;
    # exports know the amounts.
    found = verify(old.connect, "main", lambda done, total: None).problems
    assert found == verify(young.connect, "main", lambda done, total: None).problems
    assert found and all("command" in each.what for each in found)
    assert amounts(old, tmp_path / "old.parquet") == amounts(young, tmp_path / "young.parquet")


def state(database: Database) -> Any:
    with database.connect() as connection:
        *_, last = replay(connection, "main", stream="wallet:ana", at="300", type="Credited")
    return json.loads(last)


def amounts(database: Database, file: Path) -> list[Any]:
    with database.connect() as connection, one_moment(connection):
        manifest = survey(connection, "main")
        write_parquet(file, manifest, stored_entries(connection, manifest), lambda done, total: None)
    with duckdb.connect() as reader:
        query = (
            "SELECT position, asset, amount FROM read_parquet(?) WHERE amount IS NOT NULL ORDER BY position"
        )
        found = reader.execute(query, [str(file)]).fetchall()
    assert sum(int(amount) for _, asset, amount in found if asset == "FOG") == 0
    return found
