"""What `/metrics` says of a zone, in whichever format it is asked for, and what a verification leaves behind."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
from psycopg import sql

from ops.app import make_app
from ops.health import add_health
from ops.migrate import migrate
from ops.settings import Settings
from ops.web import App
from tests.acceptance.api import environment, village
from tests.acceptance.test_both_sides import PAY, follow
from tests.conftest import Database, Fogbook


def value(text: str, name: str, **labels: str) -> float:
    """A sample's value; labels that are not named may be any."""
    samples = [s for family in prometheus(text) for s in family.samples if s.name == name]
    (found,) = [s for s in samples if labels.items() <= s.labels.items()]
    return found.value


def quarantine(database: Database, event: int) -> None:
    with database.superuser() as connection:
        connection.execute(
            "INSERT INTO quarantine (zone, projection, generation, position, stream, attempts, error, quarantined)"
            " SELECT 'main', 'ledger', generation, %s, 'wallet:ana', 3, 'ValueError', true"
            " FROM checkpoints WHERE zone = 'main' AND projection = 'ledger' AND live",
            (event,),
        )


def test_metrics_tell_how_far_a_zone_and_its_read_models_are(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(monkeypatch, database, redis_url)

    async def scenario() -> tuple[str, str, int]:
        async with village(database, make_app) as v:
            await asyncio.to_thread(follow, database)
            current = (await v.http.get("/metrics")).text
            paid = await v.ana.ok("ledger/transfer", PAY)
            quarantine(database, 2)
            return current, (await v.http.get("/metrics")).text, int(paid["position"])

    current, behind, position = asyncio.run(scenario())
    ledger = {"zone": "main", "projection": "ledger"}
    assert value(current, "fogbook_projection_lag_events", **ledger) == 0
    assert value(current, "fogbook_projection_lag_seconds", **ledger) == 0
    assert value(current, "fogbook_quarantined_events", **ledger) == 0
    assert value(behind, "fogbook_projection_lag_events", **ledger) == 2
    assert value(behind, "fogbook_projection_lag_seconds", **ledger) > 0
    assert value(behind, "fogbook_quarantined_events", **ledger) == 1
    assert value(behind, "fogbook_projection_paused", **ledger) == 0
    assert value(behind, "fogbook_head_position", zone="main") == position
    assert value(behind, "fogbook_unsigned_entries", zone="main", log="events") == position
    assert value(behind, "fogbook_timers_overdue", zone="main") == 0
    assert value(behind, "fogbook_database_up") == 1
    assert value(behind, "fogbook_zones") == 1
    assert value(behind, "fogbook_pool_size", pool="fogbook queries") == 8
    assert value(behind, "fogbook_pool_in_use", pool="fogbook queries") == 0


async def ask(settings: Settings, accept: str) -> httpx.Response:
    app = App(title="health", version="test")
    add_health(app)
    async with app.state.health.run(settings):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://fogbook") as http:
            return await http.get("/metrics", headers={"accept": accept})


def test_without_its_database_an_api_says_so_and_still_counts() -> None:
    away = Settings(DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing", database_wait_s=1)
    response = asyncio.run(ask(away, "*/*"))
    assert response.status_code == 200
    assert value(response.text, "fogbook_database_up") == 0
    assert "fogbook_request_seconds" in response.text


def test_where_nobody_connects_but_who_is_allowed_to_all_but_the_size_is_told_and_a_migration_allows_that(
    database: Database,
) -> None:
    name = sql.Identifier(database.name)
    with database.superuser() as owner:
        owner.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
        owner.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO fogbook").format(name))
        try:
            before = asyncio.run(ask(Settings(DATABASE_URL=database.url), "*/*")).text
            migrate(database.superuser_url)
            after = asyncio.run(ask(Settings(DATABASE_URL=database.url), "*/*")).text
        finally:  # As it is in a new database, for the tests that get this one next.
            owner.execute(sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO PUBLIC").format(name))
    assert value(before, "fogbook_database_up") == value(after, "fogbook_database_up") == 1
    assert math.isnan(value(before, "fogbook_database_bytes"))
    assert value(after, "fogbook_database_bytes") > 0


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3",
        "application/openmetrics-text; version=nonsense",
        "application/openmetrics-text;version=1.0.0;escaping=\t",
    ],
)
def test_openmetrics_is_for_whoever_takes_it(database: Database, accept: str) -> None:
    response = asyncio.run(ask(Settings(DATABASE_URL=database.url), accept))
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in openmetrics(response.text)}
    assert families["fogbook_request_seconds"].unit == "seconds"
    assert families["fogbook_database_bytes"].unit == "bytes"


def test_a_verification_leaves_what_it_found_for_prometheus(
    database: Database, fogbook: Fogbook, tmp_path: Path
) -> None:
    file = tmp_path / "fogbook.prom"
    assert fogbook("zones", "create", "other")[0] == 0
    assert fogbook("verify", "--metrics", str(file))[0] == 0
    assert value(file.read_text(), "fogbook_verify_differences") == 0
    assert value(file.read_text(), "fogbook_verify_events") >= 1
    with database.superuser() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE events SET data = convert_to('{}', 'UTF8')")
    assert fogbook("verify", "--metrics", str(file))[0] == 1
    assert value(file.read_text(), "fogbook_verify_differences") >= 1
    code, _, err = fogbook("verify", "--metrics", str(tmp_path / "no" / "fogbook.prom"))
    assert (code, "cannot be written" in err) == (1, True)
