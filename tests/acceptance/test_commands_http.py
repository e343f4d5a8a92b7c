"""Commands over HTTP on real PostgreSQL: what a write client relies on, and what bad input gets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from tests.acceptance.api import Village, environment, make_zone, village
from tests.conftest import Database

Scenario = Callable[[Village], Coroutine[Any, Any, None]]


@pytest.fixture
def play(database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    environment(monkeypatch, database, redis_url)

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            async with village(database) as v:
                await scenario(v)

        asyncio.run(main())

    return run


PAY = {"from": "wallet:ana", "to": "wallet:ben", "amount": "5"}


def problem(response: httpx.Response, status: int, name: str) -> Any:
    assert response.headers["content-type"] == "application/problem+json", response.text
    body = response.json()
    assert (response.status_code, body["type"]) == (status, f"/problems/{name}"), body
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


def test_a_command_answers_with_its_events_and_its_position(play: Any) -> None:
    async def scenario(v: Village) -> None:
        response = await v.ana.send("ledger/transfer", PAY)
        body = response.json()
        assert set(body) == {"command_id", "zone", "position", "events"}
        assert body["zone"] == "main"
        assert response.headers["fogbook-position"] == str(body["position"])
        assert [set(e) for e in body["events"]] == [{"position", "stream", "version", "type", "data"}] * 2
        assert body["events"][0]["stream"] == "wallet:ana"
        assert body["events"][0]["data"]["amount"] == "5"
        assert body["position"] == v.counts()[0]

    play(scenario)


def test_sending_again_gives_the_same_bytes_and_says_so(play: Any) -> None:
    async def scenario(v: Village) -> None:
        first = await v.ana.send("ledger/transfer", PAY, idempotency_key="once")
        counts = v.counts()
        again = await v.ana.send("ledger/transfer", PAY, idempotency_key="once")
        assert again.content == first.content
        assert "idempotency-hit" not in first.headers
        assert again.headers["idempotency-hit"] == "true"
        assert v.counts() == counts
        spelled = await v.ana.send("ledger/transfer", PAY | {"amount": 5}, idempotency_key="once")
        assert spelled.content == first.content
        other = await v.ana.send("ledger/transfer", PAY | {"amount": "6"}, idempotency_key="once")
        problem(other, 422, "idempotency-key-reused")
        elsewhere = await v.ana.send("ledger/close-wallet", {"wallet": "wallet:ana"}, idempotency_key="once")
        problem(elsewhere, 422, "idempotency-key-reused")

    play(scenario)


def test_one_key_sent_five_times_at_once_has_one_outcome(play: Any) -> None:
    async def scenario(v: Village) -> None:
        sent = [v.ana.send("ledger/transfer", PAY, idempotency_key="once") for _ in range(5)]
        answers = await asyncio.gather(*sent)
        assert len({a.content for a in answers}) == 1
        assert sum(a.headers.get("idempotency-hit") == "true" for a in answers) == 4

    play(scenario)


def test_a_refusal_is_a_problem_that_names_the_rule_and_is_remembered(play: Any) -> None:
    async def scenario(v: Village) -> None:
        refused = await v.ana.send("ledger/transfer", PAY | {"amount": "5000"}, idempotency_key="big")
        body = problem(refused, 409, "insufficient-funds")
        assert body["facts"] == {
            "account": "wallet:ana",
            "asset": "FOG",
            "available": "1000",
            "needed": "5000",
        }
        assert body["position"] == v.counts()[0]
        again = await v.ana.send("ledger/transfer", PAY | {"amount": "5000"}, idempotency_key="big")
        assert again.content == refused.content
        assert again.headers["idempotency-hit"] == "true"

    play(scenario)


def test_the_type_of_a_problem_leads_to_what_the_rule_says(play: Any) -> None:
    async def scenario(v: Village) -> None:
        refused = await v.ana.send("ledger/transfer", PAY | {"amount": "5000"})
        page = await v.http.get(refused.json()["type"])
        assert page.status_code == 200
        assert page.json()["detail"] == refused.json()["detail"]
        problem(await v.http.get("/problems/no-such-rule"), 404, "not-found")

    play(scenario)


def test_a_dry_run_needs_no_key_and_changes_nothing(play: Any) -> None:
    async def scenario(v: Village) -> None:
        counts = v.counts()
        shown = await v.ana.send("ledger/transfer?dry_run=true", PAY, idempotency_key=None)
        assert [e["type"] for e in shown.json()["events"]] == ["Debited", "Credited"]
        refused = await v.ana.send("ledger/transfer?dry_run=true", PAY | {"amount": "5000"})
        problem(refused, 409, "insufficient-funds")
        assert v.counts() == counts

    play(scenario)


def test_if_match_takes_the_version_of_the_main_stream(play: Any) -> None:
    async def scenario(v: Village) -> None:
        counts = v.counts()
        stale = await v.ana.send("ledger/transfer", PAY, if_match='"1"')
        assert problem(stale, 412, "stale-version")["facts"]["version"] == "2"
        assert v.counts() == counts
        assert (await v.ana.send("ledger/transfer", PAY, if_match='"2"')).status_code == 200
        problem(await v.ana.send("ledger/transfer", PAY, if_match="soon"), 400, "malformed-if-match")
        none = await v.admin.send(
            "ledger/reverse-transaction", {"transaction": "c1", "reason": "x"}, if_match='"1"'
        )
        problem(none, 400, "no-main-stream")

    play(scenario)


def test_who_may_do_what(play: Any) -> None:
    async def scenario(v: Village) -> None:
        counts = v.counts()
        mint = {"to": "wallet:ben", "amount": "5", "reason": "x", "reference": "y"}
        problem(await v.ana.send("ledger/mint-tokens", mint), 403, "role-not-allowed")
        problem(await v.auditor.send("ledger/transfer", PAY), 403, "role-not-allowed")
        problem(await v.ben.send("ledger/transfer", PAY), 404, "wallet-not-found")
        problem(await v.admin.send("ledger/transfer", PAY), 404, "wallet-not-found")
        problem(await v.ana.send("ledger/transfer", PAY, fogbook_act_as="ben"), 403, "act-as-not-allowed")
        problem(await v.ana.send("ledger/transfer", PAY, fogbook_zone="other"), 403, "zone-not-allowed")
        problem(await v.admin.send("ledger/transfer", PAY, fogbook_zone="other"), 404, "zone-not-found")
        problem(await v.admin.send("ledger/transfer", PAY, fogbook_zone="No Zone"), 400, "malformed-zone")
        assert v.counts() == counts
        acted = await v.admin.send("ledger/transfer", PAY, fogbook_act_as=" ANA ")
        assert acted.status_code == 200
        with v.database.connect() as connection:
            row = connection.execute(
                "SELECT principal, act_as FROM commands ORDER BY number DESC LIMIT 1"
            ).fetchone()
            assert row == ("admin", "ana")

    play(scenario)


def test_a_key_that_is_missing_wrong_or_revoked_opens_nothing(play: Any) -> None:
    async def scenario(v: Village) -> None:
        counts = v.counts()
        bad = [None, "Bearer", "Bearer x", "Basic abc", v.ana.key, f"Bearer {v.ana.key}x", "Bearer fog_0_0"]
        for authorization in bad:
            response = await v.ana.send("ledger/transfer", PAY, authorization=authorization)
            problem(response, 401, "unauthenticated")
            assert response.headers["www-authenticate"] == "Bearer"
        cy = v.key("cy", "participant")
        with v.database.connect() as connection:
            connection.execute("UPDATE api_keys SET revoked_at = now() WHERE principal = 'cy'")
        problem(await cy.send("ledger/open-wallet", {"wallet": "wallet:cy"}), 401, "unauthenticated")
        assert v.counts() == counts

    play(scenario)


def test_authentication_and_role_come_before_the_body(play: Any) -> None:
    async def scenario(v: Village) -> None:
        problem(await v.ana.send("ledger/transfer", b"{", authorization=None), 401, "unauthenticated")
        problem(await v.ana.send("ledger/mint-tokens", b"{"), 403, "role-not-allowed")
        problem(await v.ana.send("ledger/transfer", b"{"), 400, "malformed-body")

    play(scenario)


MALFORMED = {
    "not json": (b"transfer 5 to ben", 400),
    "empty": (b"", 400),
    "cut off": (b'{"from": "wallet:ana"', 400),
    "duplicate name": (b'{"from":"wallet:ana","to":"wallet:ben","amount":"5","amount":"6"}', 400),
    "nan": (b'{"from":"wallet:ana","to":"wallet:ben","amount":NaN}', 400),
    "infinity": (b'{"from":"wallet:ana","to":"wallet:ben","amount":-Infinity}', 400),
    "1e999": (b'{"from":"wallet:ana","to":"wallet:ben","amount":1e999}', 400),
    "float": (b'{"from":"wallet:ana","to":"wallet:ben","amount":5.0}', 400),
    "not utf-8": (b'{"from":"wallet:ana","to":"wallet:ben","amount":"5","memo":"\xff"}', 400),
    "utf-16": (json.dumps(PAY).encode("utf-16"), 400),
    "byte order mark": (b"\xef\xbb\xbf" + json.dumps(PAY).encode(), 400),
    "deep": (b"[" * 30_000, 400),
    "huge number": (
        b'{"from":"wallet:ana","to":"wallet:ben","amount":' + b"9" * 6_000 + b"}",
        400,
    ),
    "a list": (b"[]", 422),
    "null": (b"null", 422),
    "a string": (b'"transfer"', 422),
    "boolean amount": (b'{"from":"wallet:ana","to":"wallet:ben","amount":true}', 422),
    "null amount": (b'{"from":"wallet:ana","to":"wallet:ben","amount":null}', 422),
    "negative amount": (b'{"from":"wallet:ana","to":"wallet:ben","amount":-50}', 422),
    "negative text": (b'{"from":"wallet:ana","to":"wallet:ben","amount":"-50"}', 422),
    "zero": (b'{"from":"wallet:ana","to":"wallet:ben","amount":"0"}', 422),
    "leading zero": (b'{"from":"wallet:ana","to":"wallet:ben","amount":"05"}', 422),
    "underscore": (b'{"from":"wallet:ana","to":"wallet:ben","amount":"1_000"}', 422),
    "other digits": ('{"from":"wallet:ana","to":"wallet:ben","amount":"\u0665"}'.encode(), 422),
    "too large": (b'{"from":"wallet:ana","to":"wallet:ben","amount":"1' + b"0" * 38 + b'"}', 422),
    "inexact integer": (b'{"from":"wallet:ana","to":"wallet:ben","amount":9007199254740993}', 422),
    "float in text": (b'{"from":"wallet:ana","to":"wallet:ben","amount":"5.0"}', 422),
    "nul": (b'{"from":"wallet:ana","to":"wallet:ben","amount":"5","memo":"a\\u0000b"}', 422),
    "lone surrogate": (b'{"from":"wallet:ana","to":"wallet:ben","amount":"5","memo":"\\ud800"}', 422),
    "surrogate in a name": (b'{"from":"wallet:ana","to":"wallet:ben","amount":"5","\\ud800":"x"}', 422),
    "unknown field": (b'{"from":"wallet:ana","to":"wallet:ben","amount":"5","fee":"1"}', 422),
    "missing field": (b'{"from":"wallet:ana","amount":"5"}', 422),
    "who in the body": (
        b'{"from":"wallet:ana","to":"wallet:ben","amount":"5","by":"ana"}',
        422,
    ),
    "long text": (
        json.dumps(PAY | {"memo": "x" * 257}).encode(),
        422,
    ),
    "bad id": (b'{"from":"wallet:ana","to":"wallet:be n","amount":"5"}', 422),
    "too many parts": (b'{"from":"wallet:ana","to":"wallet:ben:a:b","amount":"5"}', 422),
    "bad asset": (b'{"from":"wallet:ana","to":"wallet:ben","amount":"5","asset":"fog"}', 422),
    "unicode id": ('{"from":"wallet:ana","to":"wallet:b\u0435n","amount":"5"}'.encode(), 422),
}


def test_malformed_bodies_get_a_problem_and_leave_nothing_behind(play: Any) -> None:
    async def scenario(v: Village) -> None:
        counts = v.counts()
        for name, (body, status) in MALFORMED.items():
            response = await v.ana.send("ledger/transfer", body)
            assert response.status_code == status, (name, response.text)
            problem(response, status, "malformed-body" if status == 400 else "invalid-body")
        assert v.counts() == counts

    play(scenario)


def test_two_spellings_of_an_id_are_one_id(play: Any) -> None:
    async def scenario(v: Village) -> None:
        body = {"from": " Wallet:ANA ", "to": "WALLET:Ben", "amount": "5"}
        answer = await v.ana.ok("ledger/transfer", body)
        assert [e["stream"] for e in answer["events"]] == ["wallet:ana", "wallet:ben"]

    play(scenario)


def test_a_wallet_may_be_named_without_its_prefix(play: Any) -> None:
    async def scenario(v: Village) -> None:
        cy = v.key("cy", "participant")
        opened = await cy.ok("ledger/open-wallet", {"wallet": "cy"}, idempotency_key="cy")
        assert opened["events"][0]["stream"] == "wallet:cy"
        again = await cy.ok("ledger/open-wallet", {"wallet": "wallet:cy"}, idempotency_key="cy")
        assert again == opened
        named = await cy.ok("ledger/open-wallet", {"wallet": "cy:savings"})
        assert named["events"][0]["stream"] == "wallet:cy:savings"
        other = await cy.send("ledger/open-wallet", {"wallet": "ana:loot"})
        problem(other, 409, "wallet-belongs-to-another")

    play(scenario)


def test_keys_and_headers_are_checked(play: Any) -> None:
    async def scenario(v: Village) -> None:
        counts = v.counts()
        missing = await v.ana.send("ledger/transfer", PAY, idempotency_key=None)
        problem(missing, 400, "idempotency-key-missing")
        for key in ("a b", "x" * 201, "caf\u00e9".encode("latin-1").decode("latin-1")):
            response = await v.ana.http.post(
                "/commands/ledger/transfer",
                headers=[
                    (b"authorization", f"Bearer {v.ana.key}".encode()),
                    (b"idempotency-key", key.encode("latin-1")),
                ],
                json=PAY,
            )
            problem(response, 400, "malformed-idempotency-key")
        problem(
            await v.ana.send("ledger/transfer", PAY, fogbook_at="2026-01-01T00:00:00Z"),
            403,
            "act-at-not-allowed",
        )
        problem(await v.admin.send("ledger/transfer", PAY, fogbook_at="soon"), 400, "malformed-time")
        problem(
            await v.ana.send("ledger/transfer", PAY, fogbook_correlation="a b"), 400, "malformed-correlation"
        )
        problem(await v.ana.send("ledger/transfer?dry_run=maybe", PAY), 422, "invalid-parameter")
        problem(await v.ana.send("ledger/transfer?dryrun=true", PAY), 422, "unknown-parameter")
        assert v.counts() == counts

    play(scenario)


def test_unknown_commands_and_methods_get_a_problem(play: Any) -> None:
    async def scenario(v: Village) -> None:
        problem(await v.ana.send("ledger/steal", PAY), 404, "not-found")
        problem(await v.ana.send("nothing/transfer", PAY), 404, "not-found")
        got = await v.http.get("/commands/ledger/transfer")
        problem(got, 405, "method-not-allowed")

    play(scenario)


def test_large_bodies_are_refused_whether_or_not_they_say_so(play: Any) -> None:
    async def scenario(v: Village) -> None:
        counts = v.counts()
        large = json.dumps(PAY | {"memo": "x" * 70_000}).encode()
        problem(await v.ana.send("ledger/transfer", large), 413, "body-too-large")

        async def dribble() -> Any:
            for start in range(0, len(large), 10_000):
                yield large[start : start + 10_000]

        response = await v.http.post("/commands/ledger/transfer", headers=v.ana.headers(), content=dribble())
        problem(response, 413, "body-too-large")
        assert v.counts() == counts

    play(scenario)


def test_a_body_that_never_arrives_is_not_waited_for(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.web.BODY_DEADLINE_S", 0.05)

    async def scenario(v: Village) -> None:
        async def stalled() -> Any:
            yield b'{"from":'
            await asyncio.sleep(30)

        response = await v.http.post("/commands/ledger/transfer", headers=v.ana.headers(), content=stalled())
        problem(response, 408, "body-too-slow")

    play(scenario)


def ndjson(*lines: Any) -> bytes:
    return b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)


def line(key: Any, body: Any, command: str = "transfer") -> dict[str, Any]:
    return {"context": "ledger", "command": command, "key": key, "body": body}


def test_many_commands_are_answered_one_by_one_in_order(play: Any) -> None:
    async def scenario(v: Village) -> None:
        content = ndjson(
            line("a", PAY),
            line("b", PAY | {"amount": "5000"}),
            line("c", PAY | {"amount": True}),
            line("d", PAY, "steal"),
            b"{nonsense}\n",
            line("", PAY),
            line("a", PAY),
            line("e", PAY, "mint-tokens"),
            line("f", PAY),
        )
        headers = v.ana.headers(idempotency_key=None) | {"content-type": "application/x-ndjson"}
        response = await v.http.post("/commands", headers=headers, content=content)
        answers = [json.loads(each) for each in response.content.splitlines()]
        assert [a["status"] for a in answers] == [200, 409, 422, 404, 400, 400, 200, 403, 200]
        assert [a["key"] for a in answers] == ["a", "b", "c", "d", "", "", "a", "e", "f"]
        assert answers[0]["body"] == answers[6]["body"]
        assert answers[0]["body"]["position"] < answers[8]["body"]["position"]

    play(scenario)


def test_a_batch_says_what_it_is_and_is_bounded(play: Any) -> None:
    async def scenario(v: Village) -> None:
        headers = v.ana.headers()
        response = await v.http.post("/commands", headers=headers, content=ndjson(line("a", PAY)))
        problem(response, 415, "unsupported-media-type")
        headers |= {"content-type": "application/x-ndjson"}
        response = await v.http.post("/commands", headers=headers, content=ndjson(*[line("a", PAY)] * 1_001))
        problem(response, 413, "too-many-commands")

    play(scenario)


def test_with_postgres_gone_commands_get_503_and_afterwards_they_go_on(
    play: Any, servers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands._sequencer.DEADLINE_S", 0.3)

    async def scenario(v: Village) -> None:
        servers.kill("postgres")
        try:
            gone = await v.ana.send("ledger/transfer", PAY, idempotency_key="while-gone")
            problem(gone, 503, "unavailable")
            assert gone.headers["retry-after"]
        finally:
            servers.start("postgres")
        monkeypatch.setattr("commands._sequencer.DEADLINE_S", 10.0)
        for _ in range(600):
            again = await v.ana.send("ledger/transfer", PAY, idempotency_key="while-gone")
            if again.status_code != 503:
                break
            await asyncio.sleep(0.1)
        assert again.status_code == 200, again.text
        assert (await v.ana.send("ledger/transfer", PAY)).status_code == 200

    play(scenario)


def test_with_valkey_gone_commands_go_on(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, database, "redis://127.0.0.1:1/0")

    async def scenario() -> None:
        async with village(database) as v:
            for _ in range(20):
                await v.ana.ok("ledger/transfer", PAY)

    asyncio.run(scenario())


def test_zones_are_worlds_of_their_own(play: Any) -> None:
    async def scenario(v: Village) -> None:
        await asyncio.to_thread(make_zone, v.database, "sim", "manual")
        opened = await v.admin.ok(
            "ledger/open-wallet",
            {"wallet": "wallet:ana"},
            fogbook_zone="sim",
            fogbook_act_as="ana",
            fogbook_at="2027-01-01T00:00:00Z",
        )
        assert (opened["zone"], opened["position"]) == ("sim", 3)
        early = await v.admin.send(
            "platform/advance-clock", fogbook_zone="sim", fogbook_at="2026-01-01T00:00:00Z"
        )
        problem(early, 409, "time-goes-backwards")
        named = await v.admin.send(
            "ledger/transfer", PAY, fogbook_act_as="ana", fogbook_at="2030-01-01T00:00:00Z"
        )
        problem(named, 409, "clock-is-real")

    play(scenario)


def test_the_openapi_document_lists_every_command_with_its_problems(play: Any) -> None:
    async def scenario(v: Village) -> None:
        document = (await v.http.get("/openapi.json")).json()
        transfer = document["paths"]["/commands/ledger/transfer"]["post"]
        schema = transfer["requestBody"]["content"]["application/json"]["schema"]
        assert set(schema["required"]) == {"from", "to", "amount"}
        assert schema["additionalProperties"] is False
        assert schema["properties"]["amount"]["type"] == "string"
        assert {"200", "400", "401", "403", "404", "409", "412", "413", "422", "503"} <= set(
            transfer["responses"]
        )
        assert (await v.http.get("/docs")).status_code == 200

    play(scenario)


def test_health_readiness_and_metrics_answer(play: Any) -> None:
    async def scenario(v: Village) -> None:
        assert (await v.http.get("/healthz")).json() == {"status": "alive"}
        assert (await v.http.get("/readyz")).status_code == 200
        await v.ana.ok("ledger/transfer", PAY)
        metrics = (await v.http.get("/metrics")).text
        assert 'fogbook_requests_total{route="/commands/ledger/transfer",status="200"}' in metrics

    play(scenario)


def test_the_database_role_may_append_and_nothing_else(play: Any) -> None:
    import psycopg

    async def scenario(v: Village) -> None:
        for table in ("events", "commands"):
            for statement in (f"UPDATE {table} SET zone = zone", f"DELETE FROM {table}", f"TRUNCATE {table}"):
                with v.database.connect() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)

    play(scenario)
