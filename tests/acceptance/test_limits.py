"""What is refused because it is too much, and what its sender is told; nothing of it leaves a trace in the log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from commands._sequencer import Sequencer
from ops.app import make_app
from ops.leases import Rate
from ops.limits import rate_of
from ops.web import App
from tests.acceptance.api import Caller, Village, environment, village
from tests.conftest import PEPPER, Database
from tests.logs import captured_logs

Scenario = Callable[[Village], Coroutine[Any, Any, None]]
PAY = {"from": "wallet:ana", "to": "wallet:ben", "amount": "5"}
FEW = "1/4"
"""What comes back of any rate comes a thousand times later here: nothing does while a test lasts."""


def slow_rate_of(setting: str) -> Rate | None:
    rate = rate_of(setting)
    return rate and rate._replace(per_s=rate.per_s / 1_000)


@pytest.fixture
def play(database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Play a scenario under settings."""
    environment(monkeypatch, database, redis_url)
    monkeypatch.setattr("ops.limits.rate_of", slow_rate_of)

    def run(scenario: Scenario, **settings: str) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(f"FOGBOOK_{name.upper()}", value)

        async def main() -> None:
            async with village(database, make_app) as v:
                await scenario(v)

        asyncio.run(main())

    return run


def app_of(v: Village) -> App:
    app: App = v.http._transport.app  # type: ignore[attr-defined]
    return app


def refused(response: httpx.Response, status: int, name: str, limit: str) -> Any:
    body = response.json()
    assert (response.status_code, body["type"]) == (status, f"/problems/{name}"), body
    assert body["facts"]["limit"] == limit
    assert int(response.headers["retry-after"]) >= 1
    return body["facts"]


# How often


def test_a_key_sends_as_many_commands_as_its_rate_allows_and_is_told_when_to_come_back(play: Any) -> None:
    async def scenario(v: Village) -> None:
        before = v.counts()
        carl = v.key("carl", "participant")
        answers = [await carl.send("ledger/open-wallet", {"wallet": "wallet:carl"}) for _ in range(6)]
        assert [a.status_code for a in answers[:4]] == [200, 409, 409, 409]
        facts = refused(answers[5], 429, "too-many-requests", "commands a second per key")
        assert (facts["per_second"], facts["burst"]) == ("0.001", "4")
        assert v.counts()[1] == before[1] + 4, "what is refused here was never decided"
        dora = v.key("dora", "participant")
        assert (await dora.send("ledger/open-wallet", {"wallet": "wallet:dora"})).status_code == 200

    with captured_logs() as logs:
        play(scenario, rate_commands=FEW)
    said = [entry for entry in logs if entry["event"] == "limit_reached"]
    assert len(said) == 1, "a flood is not a flood of lines"
    assert said[0]["limit"] == "commands a second per key"
    assert "fog_" not in str(said)


def test_all_keys_of_a_principal_share_his_rate(play: Any) -> None:
    async def scenario(v: Village) -> None:
        keys = [v.key("carl", "participant") for _ in range(6)]
        answers = [await key.send("ledger/open-wallet", {"wallet": "wallet:carl"}) for key in keys]
        assert [a.status_code for a in answers[:4]] == [200, 409, 409, 409]
        refused(answers[5], 429, "too-many-requests", "commands a second per principal")

    play(scenario, rate_commands_principal=FEW)


def test_each_line_of_a_batch_counts_and_those_within_the_rate_are_decided_in_order(play: Any) -> None:
    async def scenario(v: Village) -> None:
        carl = v.key("carl", "participant")
        line = {"context": "ledger", "command": "open-wallet", "body": {"wallet": "wallet:carl"}}
        lines = b"\n".join(json.dumps(line | {"key": f"k{n}"}).encode() for n in range(7))
        response = await v.http.post(
            "/commands", headers=carl.headers(content_type="application/x-ndjson"), content=lines
        )
        answers = [json.loads(each) for each in response.text.splitlines()]
        assert [a["key"] for a in answers] == [f"k{n}" for n in range(7)]
        assert [a["status"] for a in answers] == [200, 409, 409, 409, 429, 429, 429]
        assert answers[4]["body"]["facts"]["limit"] == "commands a second per key"

    play(scenario, rate_commands=FEW)


def test_what_a_batch_did_not_use_of_a_rate_is_given_back(play: Any) -> None:
    async def scenario(v: Village) -> None:
        carl = v.key("carl", "participant")
        line = {"context": "ledger", "command": "open-wallet", "key": "k", "body": {"wallet": "wallet:carl"}}
        await v.http.post(
            "/commands",
            headers=carl.headers(content_type="application/x-ndjson"),
            content=b"\n".join([json.dumps(line).encode()] * 20),
        )
        limits = app_of(v).limits
        (holder,) = [h for h in limits.holders.values() if h.rates[0][1].name.endswith(":carl")]
        key, principal = holder.rates[0]
        assert (key.left >= 16, principal.left) == (True, 0)

    play(scenario, rate_commands="1/20", rate_commands_principal=FEW)


def test_queries_have_a_rate_of_their_own(play: Any) -> None:
    async def scenario(v: Village) -> None:
        carl = v.key("carl", "participant")
        asked = [await v.http.get("/queries/ledger/accounts", headers=carl.headers()) for _ in range(6)]
        refused(asked[5], 429, "too-many-requests", "queries a second per key")
        assert (await carl.send("ledger/open-wallet", {"wallet": "wallet:carl"})).status_code == 200

    play(scenario, rate_queries=FEW)


def test_operators_and_workers_have_no_rate(play: Any) -> None:
    async def scenario(v: Village) -> None:
        for who in (v.admin, v.key("w", "worker")):
            answers = [await v.http.get("/queries/ledger/accounts", headers=who.headers()) for _ in range(8)]
            assert 429 not in [a.status_code for a in answers]

    play(scenario, rate_queries="1/1", rate_queries_principal="1/1")


def test_a_rate_can_be_off(play: Any) -> None:
    async def scenario(v: Village) -> None:
        carl = v.key("carl", "participant")
        for _ in range(8):
            assert (await carl.send("ledger/open-wallet", {})).status_code == 422

    play(scenario, rate_commands="off", rate_commands_principal="off")


# Who calls


def test_who_fails_too_often_is_refused_before_anybody_looks_and_others_from_there_are_not(play: Any) -> None:
    async def scenario(v: Village) -> None:
        stranger = Caller(v.http, "fog_0123456789ab_" + "x" * 43)
        statuses = [(await stranger.send("ledger/transfer", PAY)).status_code for _ in range(8)]
        assert statuses[:4] == [401] * 4
        refused(
            await stranger.send("ledger/transfer", PAY), 429, "too-many-requests", "failed authentications"
        )
        # From the same address: whoever was known before is not locked out.
        assert (await v.ana.send("ledger/transfer", PAY)).status_code == 200
        newcomer = v.key("carl", "participant")
        assert (await newcomer.send("ledger/transfer", PAY)).status_code == 429, "he has to wait a moment"

    play(scenario, rate_failures=FEW)


def test_a_key_that_was_good_and_is_no_more_counts_as_any_other(play: Any) -> None:
    async def scenario(v: Village) -> None:
        limits = app_of(v).limits
        await v.ana.ok("ledger/transfer", PAY)
        request = httpx.Request("GET", "http://fogbook", headers=v.ana.headers())
        known = hash(request.headers["authorization"])
        assert known in limits.known
        with v.database.superuser() as connection:
            connection.execute("UPDATE api_keys SET revoked_at = now() WHERE principal = 'ana'")
        for _ in range(200):
            if (await v.ana.send("ledger/transfer", PAY)).status_code == 401:
                break
            await asyncio.sleep(0.05)
        assert known not in limits.known

    play(scenario)


def test_who_has_no_credentials_at_all_is_only_told_so(play: Any) -> None:
    async def scenario(v: Village) -> None:
        answers = [await v.http.get("/queries/ledger/accounts") for _ in range(12)]
        assert {answer.status_code for answer in answers} == {401}

    play(scenario, rate_failures=FEW)


# How much at once


@asynccontextmanager
async def held_up(v: Village, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """No command is answered inside the block."""
    free = asyncio.Event()
    process = Sequencer._process

    async def late(self: Sequencer, batch: Any) -> None:
        await free.wait()
        await process(self, batch)

    monkeypatch.setattr(Sequencer, "_process", late)
    try:
        yield
    finally:
        free.set()
        await asyncio.sleep(0.01)
        monkeypatch.setattr(Sequencer, "_process", process)


async def until(done: Callable[[], bool]) -> None:
    for _ in range(2_000):
        if done():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it does not happen")


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"most_commands": "3"}, "commands in flight"),
        ({"most_commands_per_key": "3"}, "commands in flight per key"),
    ],
)
def test_what_would_be_too_much_at_once_is_refused_at_once_and_those_inside_are_answered(
    play: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], limit: str
) -> None:
    async def scenario(v: Village) -> None:
        limits = app_of(v).limits
        async with held_up(v, monkeypatch):
            inside = [asyncio.create_task(v.ana.send("ledger/transfer", PAY)) for _ in range(3)]
            await until(lambda: limits.gates["commands"].inside == 3)
            refused(await v.ana.send("ledger/transfer", PAY), 503, "overloaded", limit)
            assert (await v.http.get("/healthz")).status_code == 200
        assert [(await each).status_code for each in inside] == [200] * 3
        assert (await v.ana.send("ledger/transfer", PAY)).status_code == 200
        assert all(gate.inside == 0 for gate in limits.gates.values())

    play(scenario, **settings)


def test_offered_three_times_what_goes_in_each_admitted_waits_for_no_more_than_go_in(play: Any) -> None:
    """Whoever is admitted finds at most `most_commands` before him, however many come; the others are told at once, and
    nothing of theirs is done."""
    within, offered = 8, 24

    async def client(v: Village, mine: Caller, number: int, waits: list[int], counts: dict[int, int]) -> None:
        for n in range(12):
            headers = {"idempotency_key": f"{number}-{n}"}
            while True:
                before = v.decided  # type: ignore[attr-defined]
                response = await mine.send("ledger/transfer", PAY | {"amount": "1"}, **headers)
                counts[response.status_code] = counts.get(response.status_code, 0) + 1
                if response.status_code == 200:
                    v.decided += 1  # type: ignore[attr-defined]
                    waits.append(v.decided - before)  # type: ignore[attr-defined]
                    break
                refused(response, 503, "overloaded", "commands in flight")
                await asyncio.sleep(0.001)

    async def load(v: Village, clients: int, name: int) -> tuple[list[int], dict[int, int]]:
        waits: list[int] = []
        counts: dict[int, int] = {}
        await asyncio.gather(*(client(v, v.ana, name + n, waits, counts) for n in range(clients)))
        return waits, counts

    async def scenario(v: Village) -> None:
        v.decided = 0  # type: ignore[attr-defined]
        calm, counts = await load(v, within, 0)
        assert set(counts) == {200}
        before = v.counts()
        busy, counts = await load(v, offered, 100)
        assert counts[503] > 0
        assert v.counts()[1] - before[1] == counts[200] == offered * 12, "each has one effect, and only those"
        assert v.counts()[0] - before[0] == 2 * counts[200]
        assert sorted(busy)[-len(busy) // 100] <= 3 * max(*calm, within)

    play(scenario, most_commands=str(within))


# Which host, which headers, what production shows


def test_every_answer_has_safe_headers(play: Any) -> None:
    async def scenario(v: Village) -> None:
        answers = [
            await v.ana.send("ledger/transfer", PAY),
            await v.ana.send("ledger/transfer", {}),
            await v.http.get("/queries/ledger/accounts"),
            await v.http.get("/nothing"),
            await v.http.delete("/healthz"),
            await v.http.get("/healthz"),
            await v.http.get("/problems/insufficient-funds"),
            await v.http.get("/openapi.json"),
        ]
        for answer in answers:
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
            assert len(answer.headers.get_list("cache-control")) == 1
            assert not {"server", "access-control-allow-origin"} & set(answer.headers)
        docs = await v.http.get("/docs")
        policy = docs.headers["content-security-policy"]
        assert "script-src https://cdn.jsdelivr.net 'sha256-" in policy
        assert "frame-ancestors 'none'" in policy

    play(scenario, hsts_s="31536000")


def test_queries_may_be_kept_by_whoever_asked(play: Any) -> None:
    async def scenario(v: Village) -> None:
        answer = await v.http.get("/history/events", headers=v.auditor.headers())
        assert answer.headers.get_list("cache-control") == ["private, no-cache"]

    play(scenario)


def test_only_the_hosts_of_the_setting_are_served(play: Any) -> None:
    async def scenario(v: Village) -> None:
        assert (await v.ana.send("ledger/transfer", PAY)).status_code == 200
        for host in ("evil.example", "fogbook.evil.example", ""):
            answer = await v.ana.send("ledger/transfer", PAY, host=host)
            assert (answer.status_code, answer.json()["type"]) == (421, "/problems/misdirected")
        assert (await v.ana.send("ledger/transfer", PAY, host="API.example:443")).status_code == 200

    play(scenario, hosts="fogbook, api.example")


def test_in_production_there_is_no_documentation(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.production.LEAST_PEPPER", len(PEPPER))

    async def scenario(v: Village) -> None:
        for path in ("/docs", "/openapi.json", "/asyncapi.json"):
            answer = await v.http.get(path)
            assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")
        assert (await v.ana.send("ledger/transfer", PAY)).status_code == 200

    play(scenario, production="true")
