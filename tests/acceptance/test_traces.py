"""Traces: from a client's request through the batch that had it to the read models, where somebody wants to know."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
import structlog
from fastapi import Request

from ops import traces
from ops.app import make_app
from ops.logging import configure_logging
from ops.settings import Settings, SettingsIncomplete
from ops.traces import tracing
from tests.acceptance.api import environment, village
from tests.collector import Collector, collecting
from tests.conftest import Database
from tests.running import until
from workers.main import followers_of

PAY = {"from": "wallet:ana", "to": "wallet:ben", "amount": "5"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
CLIENTS = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def collector(database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    environment(monkeypatch, database, redis_url)
    with collecting() as collector:
        monkeypatch.setenv("FOGBOOK_TRACES_URL", collector.url)
        yield collector


def follow(database: Database) -> None:
    """What a worker does."""
    with followers_of(Settings()) as make:
        follower = make(database.connect, "main")
        assert follower.begin()
        while follower.advance():
            pass
        follower.end()
        follower.close()


def test_one_trace_leads_from_a_clients_request_to_the_read_models(
    collector: Collector, database: Database
) -> None:
    async def scenario() -> int:
        async with village(database, make_app) as v:
            paid = await v.ana.ok("ledger/transfer", PAY, traceparent=CLIENTS)
            await asyncio.to_thread(follow, database)
            return int(paid["position"])

    position = asyncio.run(scenario())
    (request,) = collector.of("POST /commands/ledger/transfer", TRACE)
    assert (request.service, request.parent) == ("fogbook", PARENT)
    assert request.attributes["http.response.status_code"] == 200
    (sequenced,) = collector.of("sequence", TRACE)
    assert sequenced.parent == request.id
    assert sequenced.attributes["fogbook.position"] == position
    (projected, *_) = own = collector.of("project", TRACE)
    assert {span.parent for span in own} == {sequenced.id}
    assert projected.service == "fogbook-worker"
    assert "ledger" in " ".join(span.attributes["fogbook.projections"] for span in own)
    assert all(
        span.attributes["fogbook.after"] < position <= span.attributes["fogbook.position"] for span in own
    )


def test_a_batch_names_its_commands_and_they_name_their_batch(
    collector: Collector, database: Database
) -> None:
    async def scenario() -> None:
        async with village(database, make_app) as v:
            await asyncio.gather(*(v.ana.ok("ledger/transfer", PAY) for _ in range(6)))
            await asyncio.to_thread(follow, database)
            await until(lambda: bool(collector.of("wake up")))

    asyncio.run(scenario())
    requests = {span.trace for span in collector.of("POST /commands/ledger/transfer")}
    sequenced = {span.id: span for span in collector.of("sequence") if span.trace in requests}
    batches = {span.id: span for span in collector.of("batch")}
    assert len(sequenced) == 6
    for command in sequenced.values():
        (batch,) = (batches[id] for id in command.links)
        assert command.id in batch.links
    assert {each.parent for each in collector.of("append")} <= batches.keys()
    assert {each.parent for each in collector.of("wake up")} <= batches.keys()
    assert all(span.attributes["fogbook.appended"] for span in collector.of("append"))
    folded = {span.id: span for span in collector.of("project batch")}
    for projected in (span for span in collector.of("project") if span.parent in sequenced):
        (batch,) = (folded[id] for id in projected.links)
        assert projected.parent in batch.links


def test_whoever_traces_changes_no_byte_of_what_is_stored(collector: Collector, database: Database) -> None:
    async def scenario() -> None:
        async with village(database, make_app) as v:
            await v.ana.ok("ledger/transfer", PAY, traceparent=CLIENTS)

    asyncio.run(scenario())
    assert collector.of("append")
    with database.connect() as connection:
        stored = connection.execute("SELECT convert_from(meta, 'UTF8') FROM events").fetchall()
        kept = connection.execute("SELECT convert_from(request, 'UTF8') FROM commands").fetchall()
    assert not [text for (text,) in (*stored, *kept) if TRACE in text]


def asked(traceparent: str = "") -> Request:
    headers = [(b"traceparent", traceparent.encode())] if traceparent else []
    return Request({"type": "http", "method": "GET", "path": "/", "headers": headers})


def test_a_client_that_records_nothing_is_not_traced(collector: Collector) -> None:
    with tracing(Settings(), "fogbook") as spans:
        assert spans.request(asked(CLIENTS[:-2] + "00"), "/") is None
        assert spans.request(asked(CLIENTS), "/").trace_id == TRACE


@pytest.mark.parametrize(
    "malformed", ["x", "00-0-0-01", f"00-{'0' * 32}-{PARENT}-01", "00-" + "é" * 40, "1" * 5000]
)
def test_a_malformed_traceparent_begins_a_trace_of_its_own(collector: Collector, malformed: str) -> None:
    with tracing(Settings(), "fogbook") as spans:
        assert len(spans.request(asked(malformed), "/").trace_id.strip("0")) > 8


def test_no_second_has_more_traces_than_are_set(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOGBOOK_TRACES_A_SECOND", "2")
    with tracing(Settings(), "fogbook") as spans:
        monkeypatch.setattr("ops.traces._otel.time.monotonic", lambda: 7.0)
        assert [spans.request(asked(CLIENTS), "/") is None for _ in range(4)] == [False, False, True, True]
        monkeypatch.setattr("ops.traces._otel.time.monotonic", lambda: 8.0)
        assert spans.request(asked(CLIENTS), "/") is not None


def test_a_traced_requests_lines_say_which_trace_is_theirs(
    collector: Collector, capsys: pytest.CaptureFixture[str]
) -> None:
    was = structlog.get_config()
    configure_logging()
    log = structlog.get_logger()
    with tracing(Settings(), "fogbook"):
        span = traces.begin(asked(CLIENTS), "/")
        assert span is not None
        log.warning("within")
        traces.end(span, 200)
        log.warning("behind")
    structlog.configure(**was)
    within, behind = map(json.loads, capsys.readouterr().err.splitlines())
    assert (within["trace_id"], behind.get("trace_id")) == (TRACE, None)


def test_a_collector_that_is_away_keeps_nobody_waiting(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(monkeypatch, database, redis_url)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # It is nobody else's, and nobody listens.
        monkeypatch.setenv("FOGBOOK_TRACES_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")

        async def scenario() -> None:
            async with village(database, make_app) as v:
                await v.ana.ok("ledger/transfer", PAY, traceparent=CLIENTS)

        asyncio.run(scenario())


def test_traces_without_their_packages_are_refused_in_words(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "ops.traces._otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsIncomplete, match=r"pip install 'fogbook\[traces\]'"):
        with tracing(Settings(), "fogbook"):
            pass


def test_without_a_collector_nothing_that_traces_is_imported() -> None:
    program = "import sys, commands.api, workers.main; print(*(m for m in sys.modules if 'trace' in m))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    ours = {"ops.traces._otel", "ops.traces._trail", "commands._traced", "workers._traced"}
    assert ours.isdisjoint(done.stdout.split())
    assert "ops.traces" in done.stdout.split()


def test_exemplars_lead_from_a_latency_to_a_trace(collector: Collector, database: Database) -> None:
    async def scenario() -> tuple[httpx.Response, httpx.Response]:
        async with village(database, make_app) as v:
            await v.ana.ok("ledger/transfer", PAY, traceparent=CLIENTS)
            openmetrics = await v.http.get("/metrics", headers={"accept": "application/openmetrics-text"})
            return openmetrics, await v.http.get("/metrics")

    openmetrics, plain = asyncio.run(scenario())
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    exemplified = [line for line in openmetrics.text.splitlines() if f'trace_id="{TRACE}"' in line]
    assert exemplified
    assert all('route="/commands/ledger/transfer"' in line for line in exemplified)
    assert openmetrics.text.endswith("# EOF\n")
    assert TRACE not in plain.text
