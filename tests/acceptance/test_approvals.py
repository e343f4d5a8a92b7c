"""Two operators' keys over HTTP: what is beyond a limit waits for the other one, whatever races."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from commands._routes import ROUTES
from tests.acceptance.api import Caller, Village, environment, village
from tests.conftest import Database

Scenario = Callable[[Village, Caller, Caller], Coroutine[Any, Any, None]]
MINTED = ["TokensMinted", "Debited", "Credited"]


@pytest.fixture
def play(database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    """Otto may act for others; Olga is an operator too."""
    environment(monkeypatch, database, redis_url)

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            async with village(database) as v:
                otto, olga = v.key("otto", "operator", "act-as"), v.key("olga", "operator")
                await otto.ok("approvals/set-limit", {"act": "mint", "limit": "50"})
                await scenario(v, otto, olga)

        asyncio.run(main())

    return run


def mint(amount: int, reference: str = "r") -> dict[str, str]:
    return {"to": "wallet:ben", "amount": str(amount), "reason": "budget", "reference": reference}


def types(answer: Any) -> list[str]:
    return [event["type"] for event in answer["events"]]


def problem(response: httpx.Response, status: int, rule: str) -> Any:
    body = response.json()
    assert (response.status_code, body["type"]) == (status, f"/problems/{rule}"), body
    return body


async def asked(otto: Caller, amount: int = 51) -> str:
    answer = await otto.ok("ledger/mint-tokens", mint(amount))
    assert types(answer) == ["ApprovalRequested"]
    request: str = answer["events"][0]["data"]["request"]
    assert request == answer["command_id"]
    return request


def test_what_is_beyond_the_limit_is_accepted_as_a_request_and_done_when_another_operator_approves(
    play: Any,
) -> None:
    async def scenario(v: Village, otto: Caller, olga: Caller) -> None:
        answer = await otto.ok("ledger/mint-tokens", mint(51), idempotency_key="payday")
        (event,) = answer["events"]
        assert (event["stream"], event["type"]) == ("approvals:zone", "ApprovalRequested")
        said = event["data"]
        assert said["command"] == "ledger/mint-tokens"
        assert (said["by"], said["amount"], said["limit"], said["used"]) == ("otto", "51", "50", "0")
        approved = await olga.ok("approvals/approve", {"request": said["request"]})
        assert types(approved) == ["RequestApproved", *MINTED]
        assert approved["events"][0]["data"]["asked_by"] == "otto"
        again = await otto.send("ledger/mint-tokens", mint(51), idempotency_key="payday")
        assert again.json() == answer
        assert again.headers["idempotency-hit"] == "true"

    play(scenario)


def test_nobody_approves_his_own_by_any_key_or_in_another_s_name(play: Any) -> None:
    async def scenario(v: Village, otto: Caller, olga: Caller) -> None:
        approval = {"request": await asked(otto)}
        counts = v.counts()
        second_key = v.key("otto", "operator", "act-as")
        refused = await v.ana.send("approvals/approve", approval)
        problem(refused, 403, "role-not-allowed")
        lent = await otto.send("approvals/approve", approval, fogbook_act_as="olga")
        assert problem(lent, 403, "role-not-allowed")["facts"]["role"] == "participant"
        assert v.counts() == counts
        for key in (otto, second_key):
            own = problem(await key.send("approvals/approve", approval), 409, "request-is-your-own")
            assert own["facts"] == {"request": approval["request"], "by": "otto"}
        assert v.counts()[0] == counts[0]

    play(scenario)


def test_a_limit_is_not_loosened_alone(play: Any) -> None:
    async def scenario(v: Village, otto: Caller, olga: Caller) -> None:
        asking = await otto.ok("approvals/set-limit", {"act": "mint", "limit": None})
        assert types(asking) == ["ApprovalRequested"]
        assert types(await otto.ok("ledger/mint-tokens", mint(51))) == ["ApprovalRequested"]
        await olga.ok("approvals/approve", {"request": asking["command_id"]})
        assert types(await otto.ok("ledger/mint-tokens", mint(51))) == MINTED
        for body in (
            {"act": "mint"},
            {"act": "mint", "limit": "-1"},
            {"act": "mint", "limit": "1", "asset": "?"},
        ):
            problem(await otto.send("approvals/set-limit", body), 422, "invalid-body")
        problem(
            await otto.send("approvals/set-limit", {"act": "pay", "limit": "1"}), 409, "act-has-no-limits"
        )

    play(scenario)


def test_a_rejected_request_is_gone_and_a_refused_one_stays(play: Any) -> None:
    async def scenario(v: Village, otto: Caller, olga: Caller) -> None:
        request = await asked(otto)
        await olga.ok("approvals/reject", {"request": request, "reason": "not this month"})
        for path in ("approve", "reject"):
            body = {"request": request} | ({"reason": "again"} if path == "reject" else {})
            problem(await olga.send(f"approvals/{path}", body), 404, "request-not-found")
        closing = {"wallet": "wallet:ben"}
        late = await asked(otto)
        await v.ben.ok("ledger/close-wallet", closing)
        problem(await olga.send("approvals/approve", {"request": late}), 409, "account-is-not-open")
        await v.ben.ok("ledger/open-wallet", closing)
        assert types(await olga.ok("approvals/approve", {"request": late})) == ["RequestApproved", *MINTED]

    play(scenario)


def test_a_dry_run_shows_that_another_operator_would_be_asked(play: Any) -> None:
    async def scenario(v: Village, otto: Caller, olga: Caller) -> None:
        counts = v.counts()
        shown = await otto.ok("ledger/mint-tokens?dry_run=true", mint(51), idempotency_key=None)
        assert types(shown) == ["ApprovalRequested"]
        assert v.counts() == counts

    play(scenario)


def test_however_many_race_no_more_than_the_limit_is_done_alone(play: Any) -> None:
    async def scenario(v: Village, otto: Caller, olga: Caller) -> None:
        sent = [by.ok("ledger/mint-tokens", mint(10, f"r{n}")) for n in range(6) for by in (otto, olga)]
        done = Counter(types(answer)[0] for answer in await asyncio.gather(*sent))
        # Where midnight passes in between, a second day's allowance is there.
        assert done["TokensMinted"] in (5, 10)
        assert done["ApprovalRequested"] == 12 - done["TokensMinted"]

    play(scenario)


def test_however_many_approve_at_once_it_is_done_once(play: Any) -> None:
    async def scenario(v: Village, otto: Caller, olga: Caller) -> None:
        request, odin = await asked(otto), v.key("odin", "operator")
        sent = [by.send("approvals/approve", {"request": request}) for by in (olga, odin) for _ in range(4)]
        answers = Counter(response.status_code for response in await asyncio.gather(*sent))
        assert answers == {200: 1, 404: 7}

    play(scenario)


def test_nothing_that_takes_an_operator_or_a_worker_is_done_in_another_s_name(play: Any) -> None:
    async def scenario(v: Village, otto: Caller, olga: Caller) -> None:
        counts = v.counts()
        more = [name for name, route in ROUTES.items() if "participant" not in route.roles]
        assert {"ledger/mint-tokens", "staking/slash", "ledger/expire-hold", "approvals/approve"} <= set(more)
        for name in more:
            refused = await otto.send(name, {}, fogbook_act_as="ana")
            facts = problem(refused, 403, "role-not-allowed")["facts"]
            assert facts["role"] == "participant"
            assert "operator" in facts["roles"]
        line = b'{"context":"ledger","command":"mint-tokens","key":"k","body":{}}'
        headers = otto.headers(fogbook_act_as="ana", content_type="application/x-ndjson")
        many = await v.http.post("/commands", headers=headers, content=line)
        assert many.json()["body"]["type"] == "/problems/role-not-allowed"
        assert v.counts() == counts

    play(scenario)
