"""The ledger's queries against values that were computed by hand, and what holds for every query."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import MISSING, fields
from datetime import timedelta
from typing import Any

import pytest

from domain.ledger import (
    Allocation,
    BurnTokens,
    CaptureHold,
    CloseWallet,
    DefineAsset,
    DistributeRewards,
    ExpireHold,
    FreezeWallet,
    MintTokens,
    OpenWallet,
    PlaceHold,
    ReleaseHold,
    ReverseTransaction,
    Transfer,
    UnfreezeWallet,
)
from projections._tables import table_of
from queries._query import QUERIES, Query
from tests.conftest import Database
from tests.scenario import START
from tests.support import Economy, economy, problem

Test = Callable[[Economy], Awaitable[None]]


@pytest.fixture
def run(database: Database) -> Callable[[Test], None]:
    """Run a test in a village where Ana owns 1000 and Ben 200."""

    def runner(test: Test, wait_s: float = 5.0) -> None:
        async def whole() -> None:
            async with economy(database, wait_s=wait_s) as village:
                await village.issue(OpenWallet("wallet:ana"), "ana")
                await village.issue(OpenWallet("wallet:ben"), "ben")
                await village.issue(MintTokens("wallet:ana", 1000, "start", "grant-a"))
                await village.issue(MintTokens("wallet:ben", 200, "start", "grant-b"))
                await test(village)

        asyncio.run(whole())

    return runner


def without(items: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in item.items() if name not in names} for item in items]


# Balances, statements, payments


def test_a_balance_is_posted_less_held(run: Any) -> None:
    async def test(village: Economy) -> None:
        await village.issue(PlaceHold("h1", "wallet:ana", "ben", 300, START + timedelta(hours=1)), "ana")
        await village.catch_up()
        mine = [
            {"account": "wallet:ana", "asset": "FOG", "posted": "1000", "held": "300", "available": "700"}
        ]
        assert await village.ask("ledger/balance", "ana") == mine
        assert await village.ask("ledger/balance", "ana", account="wallet:ana") == mine
        assert await village.ask("ledger/balance", "olga", account="wallet:ana") == mine
        assert await village.ask("ledger/balance", "olga", account="world") == [
            {"account": "world", "asset": "FOG", "posted": "-1200", "held": "0", "available": "-1200"}
        ]

    run(test)


def test_a_statement_is_newest_first_and_its_pages_hold_every_line_once(run: Any) -> None:
    async def test(village: Economy) -> None:
        for amount in range(1, 8):
            village.later(minutes=1)
            await village.issue(Transfer("wallet:ana", "wallet:ben", amount, memo=f"m{amount}"), "ana")
        await village.catch_up()
        lines = await village.ask("ledger/statement", "ana")
        assert [line["amount"] for line in lines] == ["-7", "-6", "-5", "-4", "-3", "-2", "-1", "1000"]
        assert [line["posted"] for line in lines][:3] == ["972", "979", "985"]
        assert lines[0]["memo"] == "m7" and lines[0]["counterparty"] == "wallet:ben"
        assert lines[0]["at"] == "2026-01-01T00:07:00.000000Z"
        paged: list[Any] = []
        after: dict[str, str] = {}
        while True:
            page = (await village.get("/queries/ledger/statement", "ana", limit=3, **after)).json()
            paged += page["items"]
            if page["next"] is None:
                break
            assert len(page["items"]) == 3
            after = {"after": page["next"]}
        assert without(paged, "version", "incomplete") == lines
        newest = lines[0]["line"]
        behind = await village.ask("ledger/statement", "ana", after_position=newest - 2)
        assert [line["line"] for line in behind] == [newest]
        some = await village.ask(
            "ledger/statement", "ana", since="2026-01-01T00:02:00Z", until="2026-01-01T00:04:00+00:00"
        )
        assert [line["amount"] for line in some] == ["-3", "-2"]
        assert await village.ask("ledger/statement", "ana", asset="OTHER") == []

    run(test)


def test_whether_a_wallet_can_pay_names_every_rule_that_refuses_it(run: Any) -> None:
    async def test(village: Economy) -> None:
        async def asked(who: str = "ana", **params: Any) -> tuple[bool, list[str], str, str]:
            await village.catch_up()
            (answer,) = await village.ask("ledger/can-pay", who, **params)
            return answer["can_pay"], answer["reasons"], answer["available"], answer["short_by"]

        assert await asked(amount="1000", to="wallet:ben") == (True, [], "1000", "0")
        assert await asked(amount="1001") == (False, ["insufficient-funds"], "1000", "1")
        assert await asked(amount="1", to="wallet:ana") == (False, ["transfer-to-itself"], "1000", "0")
        assert await asked(amount="1", to="wallet:cleo") == (False, ["account-is-not-open"], "1000", "0")
        assert await asked(amount="1", to="pool:bonded") == (False, ["account-is-reserved"], "1000", "0")
        assert await asked(amount="1", to="treasury") == (True, [], "1000", "0")
        assert (await asked(amount="1", asset="GOLD"))[1] == ["asset-is-unknown", "insufficient-funds"]
        assert (await asked("cleo", amount="1"))[1] == ["wallet-not-found", "insufficient-funds"]
        await village.issue(FreezeWallet("wallet:ana", "asked"))
        assert await asked(amount="1") == (False, ["wallet-is-frozen"], "1000", "0")
        await village.issue(UnfreezeWallet("wallet:ana", "asked"))
        assert await asked(amount="1") == (True, [], "1000", "0")
        await village.issue(OpenWallet("wallet:cleo"), "cleo")
        await village.issue(CloseWallet("wallet:cleo"), "cleo")
        assert (await asked("cleo", amount="1"))[1] == ["wallet-not-found", "insufficient-funds"]
        assert await village.refused("ledger/can-pay", "ana", amount="0") == (422, "invalid-parameter")
        assert await village.refused("ledger/can-pay", "ana") == (422, "missing-parameter")

    run(test)


# The whole


def test_the_trial_balance_is_zero_and_supply_is_minted_less_burned(run: Any) -> None:
    async def test(village: Economy) -> None:
        await village.issue(DefineAsset("GOLD", 2, 500))
        await village.issue(MintTokens("treasury", 40, "reserve", "g", "GOLD"))
        await village.issue(Transfer("wallet:ana", "treasury", 10), "ana")
        await village.issue(BurnTokens("wallet:ben", 50, "old", "b"), "ben")
        await village.catch_up()
        assert await village.ask("ledger/trial-balance") == [
            {"asset": "FOG", "accounts": 4, "wallets": "1140", "funds": "10", "world": "-1150", "total": "0"},
            {"asset": "GOLD", "accounts": 2, "wallets": "0", "funds": "40", "world": "-40", "total": "0"},
        ]
        supply = await village.ask("ledger/supply", "ana")
        assert supply == [
            {"asset": "FOG", "scale": 6, "cap": "0", "minted": "1200", "burned": "50", "supply": "1150"},
            {"asset": "GOLD", "scale": 2, "cap": "500", "minted": "40", "burned": "0", "supply": "40"},
        ]
        assert await village.ask("ledger/supply", "ana", asset="GOLD") == supply[1:]
        assert [asset["asset"] for asset in await village.ask("ledger/assets", "ana")] == ["FOG", "GOLD"]
        lines = await village.ask("ledger/accounts", asset="GOLD")
        assert [(line["account"], line["posted"]) for line in lines] == [("treasury", "40"), ("world", "-40")]
        wallets = [line for line in await village.ask("ledger/accounts") if line["status"]]
        assert [(line["owner"], line["status"]) for line in wallets] == [("ana", "open"), ("ben", "open")]

    run(test)


def test_holders_come_by_size_with_their_share_of_the_supply(run: Any) -> None:
    async def test(village: Economy) -> None:
        await village.issue(MintTokens("treasury", 200, "reserve", "g"))
        await village.catch_up()
        holders = await village.ask("ledger/holders")
        # 1000 / 1400 = 71.428 %, 200 / 1400 = 14.285 %; equal amounts by name, descending.
        assert holders == [
            {"account": "wallet:ana", "posted": "1000", "held": "0", "share": 7142},
            {"account": "wallet:ben", "posted": "200", "held": "0", "share": 1428},
            {"account": "treasury", "posted": "200", "held": "0", "share": 1428},
        ]
        names = []
        after: dict[str, str] = {}
        for _ in range(3):
            page = (await village.get("/queries/ledger/holders", limit=1, **after)).json()
            names.append(page["items"][0]["account"])
            after = {"after": page["next"]}
        assert names == ["wallet:ana", "wallet:ben", "treasury"] and page["next"] is None

    run(test)


def test_economics_of_a_day_and_concentration_follow_their_formulas(run: Any) -> None:
    async def test(village: Economy) -> None:
        await village.issue(Transfer("wallet:ana", "wallet:ben", 100), "ana")
        village.later(days=1)
        await village.issue(Transfer("wallet:ben", "wallet:ana", 30), "ben")
        await village.issue(Transfer("wallet:ben", "treasury", 70), "ben")
        await village.issue(BurnTokens("wallet:ana", 130, "old"), "ana")
        await village.issue(OpenWallet("wallet:cleo"), "cleo")
        await village.issue(Transfer("wallet:ana", "wallet:cleo", 200), "ana")
        await village.catch_up()
        # Second day: 30 + 70 + 200 = 300 moved; supply 1200 - 130 = 1070; 300 / 1070 = 28.037 %.
        assert await village.ask("ledger/economics") == [
            {
                "day": "2026-01-02",
                "asset": "FOG",
                "transfers": 3,
                "volume": "300",
                "minted": "0",
                "burned": "130",
                "supply": "1070",
                "velocity": 2803,
                "burn_rate": 1214,
            },
            {
                "day": "2026-01-01",
                "asset": "FOG",
                "transfers": 1,
                "volume": "100",
                "minted": "1200",
                "burned": "0",
                "supply": "1200",
                "velocity": 833,
                "burn_rate": 0,
            },
        ]
        # Owners hold 200 (ben), 200 (cleo), 600 (ana): sum(i * x) = 200 + 400 + 1800 = 2400;
        # gini = (2 * 2400 - 4 * 1000) / (3 * 1000) = 800 / 3000.
        assert await village.ask("ledger/concentration") == [
            {
                "asset": "FOG",
                "owners": 3,
                "held_by_owners": "1000",
                "top_1": 6000,
                "top_10": 10000,
                "gini": 2666,
            }
        ]

    run(test)


# Transactions


def test_a_transaction_shows_its_postings_and_what_reversed_it(run: Any) -> None:
    async def test(village: Economy) -> None:
        paid = await village.issue(Transfer("wallet:ana", "wallet:ben", 25, reference="bill-7"), "ana")
        undone = await village.issue(ReverseTransaction(paid["command_id"], "by mistake"))
        await village.catch_up()
        lines = await village.ask("ledger/transaction", transaction=paid["command_id"])
        assert [(line["account"], line["amount"]) for line in lines] == [
            ("wallet:ana", "-25"),
            ("wallet:ben", "25"),
        ]
        assert {line["reversed_by"] for line in lines} == {undone["command_id"]}
        assert {line["reversal_reason"] for line in lines} == {"by mistake"}
        back = await village.ask("ledger/transaction", transaction=undone["command_id"])
        assert [(line["account"], line["amount"], line["reverses"]) for line in back] == [
            ("wallet:ben", "-25", paid["command_id"]),
            ("wallet:ana", "25", paid["command_id"]),
        ]
        (found,) = await village.ask("ledger/transactions-by-reference", reference="bill-7")
        assert (found["transaction"], found["source"], found["target"], found["amount"]) == (
            paid["command_id"],
            "wallet:ana",
            "wallet:ben",
            "25",
        )
        assert found["reversed_by"] == undone["command_id"]
        for unknown in ("c0", "c01", "C1", "1", "c1x", "xc1", "c999", "c" + "9" * 18, "c" + "9" * 19):
            answer = await village.refused("ledger/transaction", transaction=unknown)
            assert answer == (404, "not-found"), unknown

    run(test)


def test_a_participant_sees_the_postings_of_their_own_accounts_only(run: Any) -> None:
    async def test(village: Economy) -> None:
        paid = await village.issue(Transfer("wallet:ana", "wallet:ben", 25, reference="bill-7"), "ana")
        await village.catch_up()
        (line,) = await village.ask("ledger/transaction", "ben", transaction=paid["command_id"])
        assert (line["account"], line["amount"], line["counterparty"]) == ("wallet:ben", "25", "wallet:ana")
        id = paid["command_id"]
        assert await village.refused("ledger/transaction", "cleo", transaction=id) == (404, "not-found")
        assert len(await village.ask("ledger/transactions-by-reference", "ben", reference="bill-7")) == 1
        assert await village.ask("ledger/transactions-by-reference", "cleo", reference="bill-7") == []
        assert await village.ask("ledger/transactions-by-reference", "ben", reference="grant-a") == []

    run(test)


# Holds


def test_a_hold_is_always_the_sum_of_its_parts(run: Any) -> None:
    async def test(village: Economy) -> None:
        end = START + timedelta(hours=1)
        for hold in ("part", "freed", "late", "whole"):
            await village.issue(PlaceHold(hold, "wallet:ana", "ben", 100, end), "ana")
        await village.issue(CaptureHold("part", 30, "wallet:ben", final=False), "ben")
        await village.issue(ReleaseHold("freed"), "ben")
        await village.issue(CaptureHold("whole", 60, "wallet:ben"), "ben")
        village.later(hours=1)
        await village.issue(ExpireHold("late"), "worker")
        await village.catch_up()
        holds = await village.ask("ledger/holds", "ana")
        names = ("hold", "captured", "released", "expired", "remaining", "status")
        assert [tuple(hold[name] for name in names) for hold in holds] == [
            ("freed", "0", "100", "0", "0", "released"),
            ("late", "0", "0", "100", "0", "expired"),
            ("part", "30", "0", "0", "70", "open"),
            ("whole", "60", "40", "0", "0", "captured"),
        ]
        assert await village.ask("ledger/holds", "ben", payee="ben") == holds
        assert await village.ask("ledger/holds", "ana", status="open") == [holds[2]]
        assert await village.ask("ledger/hold", "ben", hold="part") == [holds[2]]
        assert await village.refused("ledger/hold", "cleo", hold="part") == (404, "not-found")
        assert await village.ask("ledger/holds", "cleo") == []
        (balance,) = await village.ask("ledger/balance", "ana")
        assert (balance["posted"], balance["held"]) == ("910", "70")

    run(test)


def test_a_hold_has_a_timer_until_it_ends(run: Any) -> None:
    async def test(village: Economy) -> None:
        end = START + timedelta(hours=1)
        for hold in ("a", "b", "c", "d"):
            await village.issue(PlaceHold(hold, "wallet:ana", "ben", 10, end), "ana")
        await village.issue(CaptureHold("b", 4, "wallet:ben", final=False), "ben")
        await village.catch_up()
        assert village.timers() == {
            f"hold:{hold}": (end, "ledger/expire-hold", {"hold": hold}) for hold in ("a", "b", "c", "d")
        }
        await village.issue(CaptureHold("b", 2, "wallet:ben"), "ben")
        await village.issue(ReleaseHold("c"), "ben")
        village.later(hours=1)
        await village.issue(ExpireHold("d"), "worker")
        await village.catch_up()
        assert list(village.timers()) == ["hold:a"]

    run(test)


# Rewards


def test_rewards_are_what_a_wallet_got_by_distributions_and_out_of_reward_pools(run: Any) -> None:
    async def test(village: Economy) -> None:
        await village.issue(MintTokens("pool:rewards", 500, "budget", "r"))
        for i, amount in enumerate((40, 60), 1):
            shares = (Allocation("wallet:ana", amount), Allocation("wallet:ben", 5))
            await village.issue(DistributeRewards(f"d{i}", "bonus", "pool:rewards", shares, amount + 8))
        await village.issue(Transfer("pool:rewards", "wallet:ana", 7, purpose="prize"))
        await village.issue(Transfer("wallet:ben", "wallet:ana", 9), "ben")
        await village.catch_up()
        rewards = await village.ask("ledger/reward-history", "ana")
        names = ("amount", "total", "kind", "distribution", "pool")
        assert [tuple(reward[name] for name in names) for reward in rewards] == [
            ("7", "107", "prize", "", "pool:rewards"),
            ("60", "100", "bonus", "d2", "pool:rewards"),
            ("40", "40", "bonus", "d1", "pool:rewards"),
        ]
        assert len(await village.ask("ledger/reward-history", "ana", kind="bonus")) == 2
        (made,) = await village.ask("ledger/distributions", distribution="d1")
        assert (made["allocated"], made["dust"], made["recipients"], made["kind"]) == ("45", "3", 2, "bonus")
        (community,) = await village.ask("ledger/balance", account="pool:community")
        assert community["posted"] == "6"

    run(test)


# What holds for every query


def test_an_answer_is_not_sent_again_while_nothing_changed(run: Any) -> None:
    async def test(village: Economy) -> None:
        position = await village.catch_up()
        path = "/queries/ledger/balance"
        first = await village.get(path, "ana")
        etag = first.headers["etag"]
        assert first.headers["fogbook-position"] == str(position) == str(first.json()["position"])
        for tags in (etag, f'"other", {etag}', f"W/{etag}"):
            again = await village.get(path, "ana", headers={"if-none-match": tags})
            assert again.status_code == 304 and again.content == b""
            assert again.headers["etag"] == etag and again.headers["fogbook-position"] == str(position)
        # The same tag is no answer to somebody else, nor to the same principal in a role that sees more.
        assert (await village.get(path, "ben", headers={"if-none-match": etag})).status_code == 200
        holds = "/queries/ledger/holds"
        mine = (await village.get(holds, "ana")).headers["etag"]
        assert (await village.get(holds, "ana", "auditor", {"if-none-match": mine})).status_code == 200
        await village.issue(Transfer("wallet:ana", "wallet:ben", 1), "ana")
        await village.catch_up()
        moved = await village.get(path, "ana", headers={"if-none-match": etag})
        assert moved.status_code == 200 and moved.headers["etag"] != etag
        # A rebuild may have mended what was wrong at the same position.
        village.rebuild()
        mended = await village.get(path, "ana", headers={"if-none-match": moved.headers["etag"]})
        assert mended.status_code == 200 and mended.headers["etag"] != moved.headers["etag"]

    run(test)


def test_a_query_waits_for_the_position_that_it_is_asked_for(run: Any) -> None:
    async def test(village: Economy) -> None:
        await village.catch_up()
        done = await village.issue(Transfer("wallet:ana", "wallet:ben", 1), "ana")
        waiting = [
            asyncio.create_task(village.get("/queries/ledger/balance", "ana", min_position=done["position"]))
            for _ in range(20)  # More than there are connections: who waits holds none.
        ]
        await asyncio.sleep(0.1)
        assert (await village.get("/queries/ledger/balance", "ana")).status_code == 200
        assert not any(task.done() for task in waiting)
        await village.catch_up()
        for answer in await asyncio.gather(*waiting):
            assert answer.status_code == 200 and answer.json()["items"][0]["posted"] == "999"
            assert answer.json()["position"] >= done["position"]

    run(test, wait_s=60.0)


def test_a_query_does_not_wait_for_ever(run: Any) -> None:
    async def test(village: Economy) -> None:
        position = await village.catch_up()
        refused = await village.get("/queries/ledger/balance", "ana", min_position=position + 1)
        assert problem(refused) == (504, "position-not-reached")
        assert refused.json()["position"] == position

    run(test, wait_s=0.1)


def test_what_is_not_ones_own_is_not_there(run: Any) -> None:
    async def test(village: Economy) -> None:
        await village.catch_up()
        for query in ("balance", "statement", "reward-history"):
            assert await village.refused(f"ledger/{query}", "ana", account="wallet:ben") == (404, "not-found")
            assert await village.refused(f"ledger/{query}", "ana", account="wallet:no") == (404, "not-found")
        assert await village.refused("ledger/balance", "ana", account="treasury") == (404, "not-found")
        assert await village.refused("ledger/can-pay", "ana", account="wallet:ben", amount="1") == (
            404,
            "not-found",
        )
        assert await village.ask("ledger/balance", "ana", account=" Wallet:ANA:savings ") == []

    run(test)


def test_figures_of_the_whole_zone_are_for_operators_and_auditors(run: Any) -> None:
    async def test(village: Economy) -> None:
        await village.catch_up()
        for name in (
            "trial-balance",
            "accounts",
            "holders",
            "economics",
            "concentration",
            "distributions",
        ):
            assert await village.refused(f"ledger/{name}", "ana") == (403, "role-not-allowed")
            assert (await village.get(f"/queries/ledger/{name}", "admin")).status_code == 200
            assert (await village.get(f"/queries/ledger/{name}", "olga")).status_code == 200

    run(test)


def test_malformed_questions_are_refused_with_the_reason(run: Any) -> None:
    async def test(village: Economy) -> None:
        await village.catch_up()
        for params, name in (
            ({"acount": "wallet:ana"}, "unknown-parameter"),
            ({"account": "wallet::"}, "invalid-parameter"),
            ({"account": "wallet:a\0"}, "invalid-parameter"),
            ({"limit": "-1"}, "invalid-parameter"),
            ({"limit": "501"}, "invalid-parameter"),
            ({"limit": "x"}, "invalid-parameter"),
            ({"min_position": "1e3"}, "invalid-parameter"),
            ({"after": "no cursor"}, "invalid-cursor"),
            ({"after": "WyJhIl0"}, "invalid-cursor"),  # ["a"]: one key where the query has two
            ({"after": ""}, "invalid-cursor"),
        ):
            assert await village.refused("ledger/balance", "ana", **params) == (422, name), params
        # ["a"] where a number is expected
        assert await village.refused("ledger/statement", "ana", after="WyJhIl0") == (422, "invalid-cursor")
        twice = await village.http.get(
            "/queries/ledger/balance?account=wallet:ana&account=wallet:ben",
            headers={"authorization": f"Bearer {village.key('ana')}"},
        )
        assert problem(twice) == (422, "repeated-parameter")
        for since in ("yesterday", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z"):
            assert await village.refused("ledger/statement", "ana", since=since) == (422, "invalid-parameter")

    run(test)


def test_zones_and_keys_are_checked_first(run: Any) -> None:
    async def test(village: Economy) -> None:
        await village.catch_up()
        path = "/queries/ledger/supply"
        assert problem(await village.get(path, headers={"fogbook-zone": "nowhere"})) == (
            404,
            "zone-not-found",
        )
        assert problem(await village.get(path, headers={"fogbook-zone": "No!"})) == (400, "malformed-zone")
        assert problem(await village.http.get(path)) == (401, "unauthenticated")
        village.key("eve", "auditor", zones=("other",))
        assert problem(await village.get(path, "eve", "auditor")) == (403, "zone-not-allowed")

    run(test)


def test_a_projection_that_has_not_begun_is_said_to_be_not_ready(run: Any) -> None:
    async def test(village: Economy) -> None:
        refused = await village.get("/queries/ledger/supply")
        assert problem(refused) == (503, "projection-not-ready") and refused.headers["retry-after"]

    run(test)


def test_every_query_answers_with_the_columns_that_it_documents(run: Any) -> None:
    known = {
        "account": "wallet:ana",
        "amount": "1",
        "transaction": "c4",
        "reference": "grant-a",
        "hold": "h1",
        "obligation": "ana:lunch",
        "measure": "supply",
        "board": "providers",
        "units": "1",
        "minutes": "60",
        "seq": "1",
        "sequence": "1",
    }

    def needed(query: Query) -> dict[str, str]:
        asked = [f.name for f in fields(query.parameters) if f.default is MISSING]
        return {name: known.get(name, "some") for name in asked}

    async def test(village: Economy) -> None:
        await village.issue(PlaceHold("h1", "wallet:ana", "ben", 300, START + timedelta(hours=1)), "ana")
        await village.catch_up()
        paths = village.app.openapi()["paths"]
        for path, query in QUERIES.items():
            response = await village.get(path, **needed(query))
            documented = paths[path]["get"]
            assert {"200", "304", "401", "403", "404", "422", "500", "503", "504"} <= set(
                documented["responses"]
            )
            schema = documented["responses"]["200"]["content"]["application/json"]["schema"]
            columns = schema["properties"]["items"]["items"]["anyOf"][0]["properties"]
            assert query.row.__doc__ and documented["description"]
            assert response.status_code == 200 or (query.single and response.status_code == 404), path
            for item in response.json().get("items", ()):
                assert list(item) == list(columns)
                for name, value in item.items():
                    if columns[name].get("pattern"):
                        assert isinstance(value, str), (path, name)

    run(test)


def test_amounts_larger_than_any_machine_number_stay_exact(run: Any) -> None:
    most = 10**38 - 1 - 1200

    async def test(village: Economy) -> None:
        await village.issue(MintTokens("treasury", most, "all", "m"))
        for _ in range(2):
            await village.issue(Transfer("treasury", "wallet:ana", most))
            await village.issue(Transfer("wallet:ana", "treasury", most), "ana")
        await village.issue(BurnTokens("treasury", most, "all"))
        await village.issue(MintTokens("treasury", most, "again", "m2"))
        await village.catch_up()
        before = village.digests()
        village.rebuild()
        assert village.digests() == before
        (supply,) = await village.ask("ledger/supply")
        assert supply["minted"] == str(2 * most + 1200) and supply["supply"] == str(10**38 - 1)
        (day,) = await village.ask("ledger/economics")
        assert day["volume"] == str(4 * most)
        (balance, *_) = await village.ask("ledger/holders")
        assert balance["posted"] == str(most)

    run(test)


def test_every_row_of_the_ledger_is_kept_by_zone(run: Any, database: Database) -> None:
    async def test(village: Economy) -> None:
        async with economy(database, "other") as other:
            await other.issue(OpenWallet("wallet:ana"), "ana")
            await other.issue(MintTokens("wallet:ana", 5, "start", "x"))
            await other.catch_up()
            await village.catch_up()
            assert (await other.ask("ledger/balance", "ana"))[0]["posted"] == "5"
            assert (await village.ask("ledger/balance", "ana"))[0]["posted"] == "1000"
            assert (await other.ask("ledger/supply"))[0]["supply"] == "5"

    run(test)


def test_tables_are_declared_with_the_kinds_that_their_numbers_need() -> None:
    from projections.ledger import Asset, Balance, Day

    kinds = {
        f"{row.__name__}.{column.name}": column.sql_type
        for row in (Asset, Balance, Day)
        for column in table_of(row).columns
    }
    assert kinds["Balance.posted"] == "numeric(38,0)"
    assert kinds["Asset.minted"] == kinds["Day.volume"] == "numeric"
