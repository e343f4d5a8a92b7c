"""The queries on approvals: limits, what was done within them, and requests; for operators and auditors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from domain.approvals import Approve, Reject, SetLimit
from domain.ledger import DefineAsset, FreezeWallet, MintTokens, OpenWallet
from tests.conftest import Database
from tests.support import Economy, economy


def mint(amount: int) -> MintTokens:
    return MintTokens("wallet:ana", amount, "budget", "r")


def play(database: Database, scenario: Any) -> None:
    async def whole() -> None:
        async with economy(database) as e:
            await e.issue(OpenWallet("wallet:ana"), "ana")
            await scenario(e)

    asyncio.run(whole())


def test_requests_show_what_is_asked_for_and_who_decided(database: Database) -> None:
    async def scenario(e: Economy) -> None:
        await e.issue(SetLimit("mint", 50))
        await e.issue(SetLimit("freeze", 0))
        await e.issue(mint(20))
        ids = []
        for command in (mint(31), mint(32), FreezeWallet("wallet:ana", "suspicion")):
            e.later(minutes=1)
            ids.append((await e.issue(command))["command_id"])
        e.later(minutes=1)
        await e.issue(Approve(ids[0]), "otto", "operator")
        await e.issue(Reject(ids[1], "too much"), "otto", "operator")
        await e.catch_up()
        frozen, rejected, approved = await e.ask("approvals/requests")
        assert json.loads(approved.pop("body"))["amount"] == "31"
        assert approved == {
            "at": "2026-01-01T00:01:00.000000Z",
            "request": ids[0],
            "status": "approved",
            "command": "ledger/mint-tokens",
            "by": "admin",
            "act": "mint",
            "asset": "FOG",
            "amount": "31",
            "limit": "50",
            "used": "20",
            "expires_at": "2026-01-08T00:01:00.000000Z",
            "decided_by": "otto",
            "decided_at": "2026-01-01T00:04:00.000000Z",
            "reason": "",
        }
        assert (rejected["status"], rejected["reason"]) == ("rejected", "too much")
        assert (frozen["status"], frozen["decided_by"], frozen["decided_at"]) == ("open", "", None)
        assert [r["request"] for r in await e.ask("approvals/requests", status="open")] == [ids[2]]
        assert await e.ask("approvals/requests", by="otto") == []

    play(database, scenario)


def test_limits_show_what_is_left_of_them(database: Database) -> None:
    async def scenario(e: Economy) -> None:
        await e.issue(DefineAsset("GOLD", 0))
        for command in (SetLimit("mint", 50), SetLimit("mint", 7, "GOLD"), SetLimit("slash", 9)):
            await e.issue(command)
        await e.issue(mint(20))
        await e.issue(mint(21))
        asking = await e.issue(SetLimit("slash", None))
        await e.issue(Approve(asking["command_id"]), "otto", "operator")
        await e.catch_up()
        fog, gold = await e.ask("approvals/limits")
        assert fog == {
            "act": "mint",
            "asset": "FOG",
            "limit": "50",
            "day": "2026-01-01",
            "used": "41",
            "set_by": "admin",
            "set_at": "2026-01-01T00:00:00.000000Z",
        }
        assert (gold["asset"], gold["limit"], gold["day"], gold["used"]) == ("GOLD", "7", "", "0")
        e.later(days=1)
        await e.issue(mint(3))
        await e.catch_up()
        fog, _ = await e.ask("approvals/limits")
        assert (fog["day"], fog["used"]) == ("2026-01-02", "3")
        before = e.digests()["approvals"]
        e.rebuild()
        assert e.digests()["approvals"] == before

    play(database, scenario)


def test_they_are_no_affair_of_others(database: Database) -> None:
    async def scenario(e: Economy) -> None:
        await e.catch_up()
        for query in ("approvals/limits", "approvals/requests"):
            assert (await e.refused(query, "ana"))[0] == 403
            assert await e.ask(query) == []

    play(database, scenario)
