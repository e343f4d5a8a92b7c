"""The queries on netting windows and disputes, against values worked by hand; timers and reactions carried by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from commands._models import command_from
from commands._routes import ROUTES
from commands.api import load_routes
from domain.devices import Capabilities, RegisterDevice
from domain.ledger import MintTokens, OpenWallet
from domain.marketplace.contracts import OpenContract, StartService
from domain.marketplace.offerings import RegisterOffering
from domain.settlement import windows
from domain.settlement.disputes import OpenDispute, ResolveDispute, SubmitEvidence
from domain.settlement.windows import (
    AbortWindow,
    CloseWindow,
    FinaliseSettlement,
    OpenWindow,
    RecordObligation,
    RenewObligation,
    ReservePositions,
)
from projections import _follower
from projections._follower import read_tail
from tests.conftest import Database
from tests.scenario import START
from tests.support import Economy, economy

Scene = Callable[[Economy], Awaitable[None]]
HOUR = timedelta(hours=1)
NOW = "2026-01-01T00:00:00.000000Z"


@pytest.fixture
def run(database: Database) -> Callable[[Scene], None]:
    """Run a test where Ana, Ben and Cleo have 1,000 each and Dora has nothing; `w1` is open."""

    def runner(scene: Scene) -> None:
        async def whole() -> None:
            load_routes()
            async with economy(database) as village:
                for name in ("ana", "ben", "cleo", "dora"):
                    await village.issue(OpenWallet(f"wallet:{name}"), name)
                for name in ("ana", "ben", "cleo"):
                    await village.issue(MintTokens(f"wallet:{name}", 1_000, "start", name))
                await village.issue(OpenWindow("w1"))
                await scene(village)

        asyncio.run(whole())

    return runner


def rfc3339(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def owe(village: Economy, debtor: str, creditor: str, amount: int, source: str) -> None:
    await village.issue(RecordObligation(debtor, creditor, amount, source), "worker")


async def ring(village: Economy) -> None:
    """Ana owes Ben 100, Ben owes Cleo 80, Cleo owes Ana 30; Dora, who has nothing, owes Ben 5."""
    await owe(village, "ana", "ben", 100, "a")
    await owe(village, "ben", "cleo", 80, "b")
    await owe(village, "cleo", "ana", 30, "c")
    await owe(village, "dora", "ben", 5, "d")


async def work(village: Economy, most: int = 20) -> list[str]:
    """Issue what is due until nothing is, as the worker does; returns the commands."""
    done: list[str] = []
    for _ in range(most):
        await village.catch_up()
        due = [
            (timer, name, body) for timer, (at, name, body) in village.timers().items() if at <= village.now
        ]
        if not due:
            return done
        for timer, name, body in due:
            command = command_from(ROUTES[name].command, body)
            await village.issue(command, "worker", key=f"timer:{timer}:1")
            done.append(name.partition("/")[2])
    raise AssertionError(f"{most} rounds were not enough: {done}")


async def positions(village: Economy, who: str = "olga", **params: Any) -> dict[tuple[str, str], Any]:
    found = await village.ask("settlement/net-positions", who, **params)
    return {
        (item["window"], item["party"]): tuple(
            item[name] for name in ("status", "owes", "owed", "net", "pays", "receives")
        )
        for item in found
    }


async def names(village: Economy, who: str = "olga", **params: Any) -> list[str]:
    found = await village.ask("settlement/obligations", who, **params)
    return [item["obligation"] for item in found]


# Windows


def test_a_window_shows_its_totals_from_the_first_obligation_to_the_settlement(run: Any) -> None:
    async def scene(village: Economy) -> None:
        async def seen(window: str) -> Any:
            await village.catch_up()
            (item,) = await village.ask("settlement/windows", "ana", window=window)
            return item

        await ring(village)
        first = await seen("w1")
        assert first == {
            "opened_at": NOW,
            "window": "w1",
            "status": "open",
            "series": "w1",
            "number": 1,
            "every_s": 0,
            "closes_at": None,
            "closed_at": None,
            "ended_at": None,
            "following": "",
            "obligations": 4,
            "taken_over": 0,
            "left_it": 0,
            "lapsed": 0,
            "moved_to": "",
            "parties": 4,
            "totals": [
                {
                    "asset": "FOG",
                    "obligations": 4,
                    "gross": "215",
                    "net": "0",
                    "saved": "0",
                    "left_it": "0",
                }
            ],
            "reason": "",
            "transaction": "",
        }
        village.later(hours=1)
        await village.issue(CloseWindow("w1", next="w2"))
        closed = await seen("w1")
        assert (closed["status"], closed["closed_at"]) == ("closed", rfc3339(START + HOUR))
        assert closed["totals"][0]["net"] == "75"  # Ana pays 70, Dora 5; Ben gets 25 and Cleo 50.
        assert closed["totals"][0]["saved"] == "140"
        await village.issue(ReservePositions("w1"), "worker")
        reserved = await seen("w1")
        assert (reserved["status"], reserved["obligations"], reserved["left_it"]) == ("settling", 3, 1)
        assert reserved["moved_to"] == reserved["following"] == "w2"
        assert reserved["totals"] == [
            {"asset": "FOG", "obligations": 3, "gross": "210", "net": "70", "saved": "140", "left_it": "5"}
        ]
        settlement = await village.issue(FinaliseSettlement("w1"), "worker")
        settled = await seen("w1")
        assert (settled["status"], settled["ended_at"]) == ("settled", rfc3339(village.now))
        assert settled["transaction"] == settlement["command_id"]
        assert (settled["obligations"], settled["parties"]) == (3, 3)
        second = await seen("w2")
        assert (second["obligations"], second["taken_over"], second["parties"]) == (1, 1, 2)
        assert [item["window"] for item in await village.ask("settlement/windows", "ana")] == ["w2", "w1"]
        assert [i["window"] for i in await village.ask("settlement/windows", "ana", status="open")] == ["w2"]

    run(scene)


def test_the_windows_at_work(run: Any) -> None:
    async def scene(village: Economy) -> None:
        async def at_work() -> tuple[str, str, list[str]]:
            await village.catch_up()
            (item,) = await village.ask("settlement/clearing", "ana")
            return item["open"], item["settling"], item["carried"]

        await ring(village)
        assert await at_work() == ("w1", "", [])
        await village.issue(CloseWindow("w1"))
        assert await at_work() == ("", "w1", [])
        await village.issue(ReservePositions("w1"), "worker")
        assert await at_work() == ("", "w1", ["w1"])
        await village.issue(FinaliseSettlement("w1"), "worker")
        assert await at_work() == ("", "", ["w1"])
        await village.issue(OpenWindow("w2"))
        assert await at_work() == ("w2", "", [])

    run(scene)


def test_net_positions_as_they_grow_and_as_they_are_settled(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await ring(village)
        await village.catch_up()
        assert await positions(village, window="w1") == {
            ("w1", "ana"): ("open", "100", "30", "-70", "0", "0"),
            ("w1", "ben"): ("open", "80", "105", "25", "0", "0"),
            ("w1", "cleo"): ("open", "30", "80", "50", "0", "0"),
            ("w1", "dora"): ("open", "5", "0", "-5", "0", "0"),
        }
        await village.issue(CloseWindow("w1", next="w2"))
        await village.catch_up()
        closed = await positions(village, window="w1")
        assert closed["w1", "dora"] == ("closed", "5", "0", "-5", "5", "0")
        assert closed["w1", "ben"] == ("closed", "80", "105", "25", "0", "25")
        await village.issue(ReservePositions("w1"), "worker")
        await village.issue(FinaliseSettlement("w1"), "worker")
        await village.catch_up()
        assert await positions(village) == {
            ("w1", "ana"): ("settled", "100", "30", "-70", "70", "0"),
            ("w1", "ben"): ("settled", "80", "100", "20", "0", "20"),
            ("w1", "cleo"): ("settled", "30", "80", "50", "0", "50"),
            ("w1", "dora"): ("left", "0", "0", "0", "0", "0"),
            ("w2", "ben"): ("open", "0", "5", "5", "0", "0"),
            ("w2", "dora"): ("open", "5", "0", "-5", "0", "0"),
        }
        mine = await positions(village, "dora")
        assert set(mine) == {("w1", "dora"), ("w2", "dora")}
        assert await village.refused("settlement/net-positions", "dora", party="ben") == (404, "not-found")
        (left,) = await village.ask("settlement/departures", "dora")
        assert left == {
            "at": NOW,
            "window": "w1",
            "party": "dora",
            "reason": "cannot-pay",
            "asset": "FOG",
            "needed": "5",
            "available": "0",
        }
        assert await village.ask("settlement/departures", "ben") == []
        assert await village.ask("settlement/departures", window="w1") == [left]

    run(scene)


# Obligations


def test_everybody_sees_what_he_owes_and_is_owed(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await ring(village)
        village.later(hours=1)
        await village.issue(RecordObligation("ana", "ben", 7, "rent", memo="may"), "ana")
        await village.catch_up()
        assert await names(village, "ana") == ["ana:rent", "c", "a"]
        assert await names(village, "ben") == ["ana:rent", "d", "b", "a"]
        assert await names(village) == ["ana:rent", "d", "c", "b", "a"]
        assert await names(village, party="dora") == ["d"]
        assert await village.refused("settlement/obligations", "ana", party="ben") == (404, "not-found")
        first = (await village.ask("settlement/obligations", "ana"))[0]
        assert first == {
            "recorded_at": rfc3339(START + HOUR),
            "obligation": "ana:rent",
            "debtor": "ana",
            "creditor": "ben",
            "asset": "FOG",
            "amount": "7",
            "memo": "may",
            "status": "recorded",
            "window": "w1",
            "carries": 0,
            "recorded_by": "ana",
            "settled_at": None,
            "transaction": "",
        }
        assert await village.ask("settlement/obligation", "ben", obligation="ana:rent") == [first]
        for query in ("obligation", "obligation-trace"):
            name = f"settlement/{query}"
            assert await village.refused(name, "cleo", obligation="ana:rent") == (404, "not-found")
            assert await village.refused(name, obligation="none") == (404, "not-found")
        await village.issue(CloseWindow("w1"))
        await village.issue(ReservePositions("w1"), "worker")
        await village.issue(FinaliseSettlement("w1"), "worker")
        await village.catch_up()
        assert await names(village, status="settled") == ["ana:rent", "c", "b", "a"]
        assert await names(village, "ben", status="waiting") == ["d"]
        assert await names(village, window="w1", status="settled") == ["ana:rent", "c", "b", "a"]

    run(scene)


def test_an_obligation_is_traced_from_its_source_to_the_transaction_that_paid_it(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await owe(village, "dora", "ben", 5, "d")
        recorded = village.now
        closed = village.later(hours=1)
        await village.issue(CloseWindow("w1"))
        assert await work(village) == ["reserve-positions"]
        opened = village.later(hours=1)
        await village.issue(OpenWindow("w2"))
        await village.issue(MintTokens("wallet:dora", 5, "gift", "g"))
        paid = village.later(hours=1)
        await village.issue(CloseWindow("w2"))
        assert await work(village) == ["reserve-positions", "finalise-settlement"]
        steps = await village.ask("settlement/obligation-trace", "dora", obligation="d")
        assert [(s["what"], s["window"], s["at"]) for s in steps] == [
            ("recorded", "", rfc3339(recorded)),
            ("entered", "w1", rfc3339(recorded)),
            ("left", "w1", rfc3339(closed)),
            ("entered", "w2", rfc3339(opened)),
            ("settled", "w2", rfc3339(paid)),
        ]
        (obligation,) = await village.ask("settlement/obligation", "ben", obligation="d")
        assert (obligation["status"], obligation["window"], obligation["carries"]) == ("settled", "w2", 1)
        assert obligation["settled_at"] == rfc3339(paid)
        assert obligation["transaction"] == steps[-1]["transaction"]
        (move,) = await village.ask("ledger/transaction", "ben", transaction=obligation["transaction"])
        assert (move["transaction"], move["purpose"]) == (obligation["transaction"], "settlement")

    run(scene)


def test_what_lapsed_is_still_owed_and_shows_where_it_is_renewed(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(village: Economy) -> None:
        await owe(village, "dora", "ben", 5, "d")
        await village.issue(CloseWindow("w1", next="w2"))
        await work(village)
        (lapsed,) = await village.ask("settlement/obligations", "dora", status="lapsed")
        assert (lapsed["window"], lapsed["carries"]) == ("w1", 1)
        (window,) = await village.ask("settlement/windows", "dora", window="w1")
        assert (window["left_it"], window["lapsed"], window["status"]) == (1, 1, "aborted")
        await village.issue(RenewObligation("d", "w1"), "ben")
        await village.catch_up()
        (renewed,) = await village.ask("settlement/obligations", "dora")
        assert (renewed["status"], renewed["window"], renewed["carries"]) == ("recorded", "w2", 0)
        steps = await village.ask("settlement/obligation-trace", "dora", obligation="d")
        assert [(s["what"], s["window"]) for s in steps[1:]] == [
            ("entered", "w1"),
            ("lapsed", "w1"),
            ("renewed", "w1"),
            ("entered", "w2"),
        ]

    monkeypatch.setattr(windows, "P", replace(windows.P, most_carries=0))
    run(scene)


def test_ageing_sorts_what_is_not_settled_into_buckets(run: Any) -> None:
    """Ages at the end: 40, 30, 29, 7, 1 days and 0."""

    async def scene(village: Economy) -> None:
        ages = {40: 1, 30: 2, 29: 4, 7: 8, 1: 16, 0: 32}
        for age, amount in ages.items():
            village.now = START + timedelta(days=40 - age)
            await owe(village, "ana", "ben" if age != 7 else "cleo", amount, f"s{age}")
        await village.catch_up()
        ageing = partial(village.ask, "settlement/ageing")
        assert [
            (i["from_days"], i["to_days"], i["obligations"], i["amount"], i["owes"], i["owed"])
            for i in await ageing()
        ] == [
            (0, 1, 1, "32", "32", "32"),
            (1, 7, 1, "16", "16", "16"),
            (7, 30, 2, "12", "12", "12"),
            (30, None, 2, "3", "3", "3"),
        ]
        assert [(i["from_days"], i["owes"], i["owed"]) for i in await ageing("cleo")] == [(7, "0", "8")]
        assert [(i["from_days"], i["owes"], i["owed"]) for i in await ageing("ana")] == [
            (0, "32", "0"),
            (1, "16", "0"),
            (7, "12", "0"),
            (30, "3", "0"),
        ]
        oldest = (await ageing("ana"))[-1]
        assert (oldest["oldest_at"], oldest["asset"], oldest["lapsed"]) == (NOW, "FOG", 0)
        assert await village.refused("settlement/ageing", "cleo", party="ana") == (404, "not-found")
        await village.issue(CloseWindow("w1"))
        await work(village)
        assert await ageing() == []

    run(scene)


# Timers and reactions


def test_a_series_of_windows_runs_by_itself(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(AbortWindow("w1", "a series instead"))
        await village.issue(OpenWindow("hourly", every_s=3600))
        await ring(village)
        assert await work(village) == []
        village.later(hours=1)
        assert await work(village) == ["close-window", "reserve-positions", "finalise-settlement"]
        village.later(hours=1)
        assert await work(village) == ["close-window", "reserve-positions"]
        seen = await village.ask("settlement/windows")
        assert [(w["window"], w["status"]) for w in seen] == [
            ("hourly.3", "open"),
            ("hourly.2", "aborted"),
            ("w1", "aborted"),
            ("hourly", "settled"),
        ]
        assert village.timers() == {
            "window-close:hourly.3": (
                START + 3 * HOUR,
                "settlement/close-window",
                {"window": "hourly.3"},
            )
        }
        assert (await village.state("wallet:cleo")).posted == {"FOG": 1_050}

    run(scene)


def test_an_aborted_window_pays_and_saves_nothing(run: Callable[[Scene], None]) -> None:
    async def scene(village: Economy) -> None:
        await owe(village, "dora", "ben", 100, "a")
        await owe(village, "ana", "ben", 30, "b")
        await village.issue(CloseWindow("w1"))
        await village.issue(AbortWindow("w1", "odd"))
        await village.catch_up()
        (window,) = await village.ask("settlement/windows")
        (total,) = window["totals"]
        assert (total["gross"], total["net"], total["saved"], total["left_it"]) == ("0", "0", "0", "130")
        positions = await village.ask("settlement/net-positions")
        assert {(p["status"], p["pays"], p["receives"]) for p in positions} == {("aborted", "0", "0")}

    run(scene)


def test_a_window_that_is_closed_or_aborted_by_hand_leaves_no_timer(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await ring(village)
        await village.issue(CloseWindow("w1"))
        await village.catch_up()
        assert set(village.timers()) == {"window-reserve:w1"}
        await village.issue(ReservePositions("w1"), "worker")
        await village.catch_up()
        assert set(village.timers()) == {"window-finalise:w1"}
        await village.issue(AbortWindow("w1", "a mistake"))
        await village.catch_up()
        assert village.timers() == {}
        await village.issue(OpenWindow("w2", closes_at=village.now + HOUR))
        await village.catch_up()
        assert set(village.timers()) == {"window-close:w2"}
        await village.issue(AbortWindow("w2", "a mistake"))
        await village.catch_up()
        assert village.timers() == {}

    run(scene)


# Disputes


async def in_dispute(village: Economy) -> None:
    """Ben serves Ana two units for 4 hours, and she disputes all of it."""
    await village.issue(RegisterDevice("d1", "server", Capabilities(64_000, 64_000), "eu"), "ben")
    offering = RegisterOffering("o1", "d1", "compute", "bronze", 1_000, 1_000, 0, 8, 50, "reserved")
    await village.issue(offering, "ben")
    await village.issue(OpenContract("c1", "o1", 2, 240, any_price=True), "ana")
    await village.issue(StartService("c1"), "ben")
    village.later(minutes=5)
    await village.issue(OpenDispute("x1", "c1", "it was slow"), "ana")
    await village.issue(SubmitEvidence("x1", "ab", "my log"), "ana")
    await village.issue(SubmitEvidence("x1", "cd", "mine"), "ben")


def test_a_dispute_is_seen_by_its_parties_until_it_is_decided(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await in_dispute(village)
        await village.catch_up()
        rest = (await village.state("contract:c1")).remaining
        (dispute,) = await village.ask("settlement/disputes", "ben")
        assert dispute == {
            "opened_at": rfc3339(village.now),
            "dispute": "x1",
            "contract": "c1",
            "customer": "ana",
            "provider": "ben",
            "opened_by": "ana",
            "reason": "it was slow",
            "amount": str(rest),
            "status": "open",
            "evidence": 2,
            "resolved_at": None,
            "resolved_by": "",
            "decision": "",
            "to_payer": "0",
            "to_payee": "0",
        }
        for who in ("ana", "olga", "admin"):
            assert await village.ask("settlement/dispute", who, dispute="x1") == [dispute]
            assert await village.ask("settlement/disputes", who, status="open", contract="c1") == [dispute]
        assert await village.ask("settlement/disputes", "cleo") == []
        assert await village.refused("settlement/dispute", "cleo", dispute="x1") == (404, "not-found")
        assert await village.refused("settlement/disputes", "cleo", party="ana") == (404, "not-found")
        evidence = await village.ask("settlement/dispute-evidence", "ana", dispute="x1")
        assert [(e["by"], e["digest"], e["note"]) for e in evidence] == [
            ("ana", "ab", "my log"),
            ("ben", "cd", "mine"),
        ]
        assert await village.ask("settlement/dispute-evidence", "cleo", dispute="x1") == []
        decided = village.later(hours=1)
        await village.issue(ResolveDispute("x1", rest - 100, 100, "some of it ran"))
        await village.catch_up()
        (dispute,) = await village.ask("settlement/disputes", "ana", status="resolved")
        assert (dispute["to_payer"], dispute["to_payee"]) == (str(rest - 100), "100")
        assert (dispute["decision"], dispute["resolved_by"]) == ("some of it ran", "admin")
        assert dispute["resolved_at"] == rfc3339(decided)
        assert await village.ask("settlement/disputes", status="open") == []

    run(scene)


# The read models as a whole


def test_read_models_are_those_of_a_fresh_rebuild_however_the_log_is_cut(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(village: Economy) -> None:
        await ring(village)
        await village.issue(CloseWindow("w1", next="w2"))
        await work(village)
        await owe(village, "ana", "dora", 5, "e")
        await village.issue(CloseWindow("w2"))
        await work(village)
        await in_dispute(village)
        await village.catch_up()
        seen = village.digests()
        village.rebuild()
        assert village.digests() == seen
        village.forget()
        monkeypatch.setattr(_follower, "read_tail", partial(read_tail, limit=3))
        await village.catch_up()
        assert village.digests() == seen

    run(scene)
