"""The marketplace's queries against values that were worked out by hand, and against what strangers may know."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from domain.devices import (
    Capabilities,
    RecordReputation,
    RegisterDevice,
    RelocateDevice,
    ResumeDevice,
    RetireDevice,
    SuspendDevice,
)
from domain.ledger import MintTokens, OpenWallet
from domain.marketplace.contracts import (
    ExpireContract,
    MeterUsage,
    OpenContract,
    PauseContract,
    ReportServiceLevel,
    ResumeContract,
    ReviewProvider,
    SettlePeriod,
    StartService,
    TerminateContract,
    TopUpEscrow,
)
from domain.marketplace.offerings import (
    PauseOffering,
    RegisterOffering,
    RepriceOffering,
    ResumeOffering,
    SetLaneBounds,
    WithdrawOffering,
)
from domain.marketplace.requests import (
    AcceptBid,
    AllocateBurst,
    CloseBidding,
    ExpireRequest,
    PlaceBid,
    RequestService,
    Requirement,
    WithdrawBid,
    WithdrawRequest,
)
from domain.settlement.disputes import OpenDispute, ResolveDispute
from tests.conftest import Database
from tests.scenario import START
from tests.support import Economy, economy

Scene = Callable[[Economy], Awaitable[None]]
HOUR_MS = 3_600_000
SIZE = Capabilities(64_000, 256_000, 0, 0, 8)


@pytest.fixture
def run(database: Database) -> Callable[[Scene], None]:
    """Run a test with four offerings that nobody has bought yet. All are of 500 millicores, 1000 MB a unit.

    | offering | provider, device | lane                 | base  | rate  | capacity | pricing       |
    |----------|------------------|----------------------|-------|-------|----------|---------------|
    | o1       | vera, d1         | render north silver  | 1000  | 2500  | 10       | pay_as_you_go |
    | o2       | vito, d3         | render north gold    |  800  | 4000  | 4        | reserved      |
    | o3       | vera, d2         | render south bronze  |  500  |  500  | 2        | spot          |
    | o4       | vera, d1         | infer north silver   | 1000  | 2500  | 6        | pay_as_you_go |
    """

    def runner(scene: Scene) -> None:
        async def whole() -> None:
            async with economy(database) as village:
                for name in ("vera", "vito", "ana", "ben"):
                    await village.issue(OpenWallet(f"wallet:{name}"), name)
                    await village.issue(MintTokens(f"wallet:{name}", 10**6, "start", name))
                for device, owner, region in (
                    ("d1", "vera", "north"),
                    ("d2", "vera", "south"),
                    ("d3", "vito", "north"),
                ):
                    await village.issue(RegisterDevice(device, "server", SIZE, region), owner)
                await offer(village, "o1", "d1", "render", "silver", 1000, 10, "pay_as_you_go", "vera")
                await offer(village, "o2", "d3", "render", "gold", 800, 4, "reserved", "vito")
                await offer(village, "o3", "d2", "render", "bronze", 500, 2, "spot", "vera")
                await offer(village, "o4", "d1", "infer", "silver", 1000, 6, "pay_as_you_go", "vera")
                await scene(village)

        asyncio.run(whole())

    return runner


async def offer(
    village: Economy,
    offering: str,
    device: str,
    service_type: str,
    tier: str,
    base: int,
    capacity: int,
    pricing: str,
    provider: str,
    gpu: int = 0,
) -> None:
    await village.issue(
        RegisterOffering(offering, device, service_type, tier, 500, 1000, gpu, capacity, base, pricing),
        provider,
    )


async def search(village: Economy, who: str = "zoe", **params: Any) -> list[str]:
    return [item["offering"] for item in await village.ask("marketplace/search", who, **params)]


def picked(item: dict[str, Any], names: str) -> tuple[Any, ...]:
    return tuple(item[name] for name in names.split())


# Search


def test_search_finds_by_what_is_wanted_the_lowest_rate_first(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await offer(village, "o5", "d3", "render", "gold", 700, 1, "reserved", "vito", gpu=2)
        await village.catch_up()
        assert await search(village) == ["o3", "o1", "o4", "o5", "o2"]
        assert await search(village, service_type="render") == ["o3", "o1", "o5", "o2"]
        assert await search(village, region="north", service_type="infer") == ["o4"]
        # Tiers go by rank: gold comes before silver in the alphabet, and is better all the same.
        assert await search(village, service_type="render", tier="silver") == ["o1", "o5", "o2"]
        assert await search(village, tier="gold") == ["o5", "o2"]
        assert len(await search(village, tier="bronze")) == 5
        assert await search(village, tier="platinum") == []
        assert await search(village, units=4) == ["o1", "o4", "o2"]
        assert await search(village, units=5) == ["o1", "o4"]
        assert await search(village, gpu=1) == ["o5"]
        assert await search(village, cpu_millicores=501) == [] == await search(village, memory_mb=1001)
        assert await search(village, provider="vito") == ["o5", "o2"]
        assert await search(village, pricing="spot") == ["o3"]
        (found,) = await village.ask("marketplace/search", "zoe", provider="vito", units=2)
        assert found == {
            "rate": "4000",
            "offering": "o2",
            "provider": "vito",
            "device": "d3",
            "service_type": "render",
            "region": "north",
            "tier": "gold",
            "pricing": "reserved",
            "cpu_millicores": 500,
            "memory_mb": 1000,
            "gpu": 0,
            "capacity": 4,
            "free": 4,
            "base_price": "800",
            "unit_hour": "4000",
            "score": 5000,
            "evidence": 0,
            "registered_at": "2026-01-01T00:00:00.000000Z",
        }

    run(scene)


def test_a_price_cap_goes_by_what_the_purchase_costs_now(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.catch_up()
        assert await search(village, price_cap=2_500) == ["o3", "o1", "o4"]
        assert await search(village, price_cap=2_499) == ["o3"]
        # Less than an hour costs a fifth more: 600, 3000, 4800.
        assert await search(village, price_cap=3_000, minutes=59) == ["o3", "o1", "o4"]
        assert await search(village, price_cap=2_999, minutes=59) == ["o3"]
        # Nobody asks for anything, so that all factors glide by 900 an hour, down to 9000: 9550 after half an hour.
        village.later(minutes=30)
        await village.issue(MintTokens("treasury", 1, "time passes", "t"))
        await village.catch_up()
        found = await village.ask("marketplace/search", "zoe")
        assert [item["unit_hour"] for item in found] == ["478", "2388", "2388", "3820"]
        assert await search(village, price_cap=2_388) == ["o3", "o1", "o4"]
        assert await search(village, price_cap=2_387) == ["o3"]

    run(scene)


def test_search_knows_scores_and_which_devices_serve(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(RecordReputation("d1", "render", "success", "e1"), "worker")
        await village.issue(RecordReputation("d3", "render", "failure", "e2"), "worker")
        await village.catch_up()
        found = {item["offering"]: item for item in await village.ask("marketplace/search", "zoe")}
        # (1 + 1) / 3 and 1 / 3; another service of the same device has its own. 7000 + 0.6 * 6666 = 10999.6.
        scores = {offering: (item["score"], item["evidence"]) for offering, item in found.items()}
        assert scores == {"o1": (6666, 1), "o2": (3333, 1), "o3": (5000, 0), "o4": (5000, 0)}
        assert found["o1"]["unit_hour"] == "2750" and found["o2"]["unit_hour"] == "3600"
        assert await search(village, service_type="render", min_score=5_000) == ["o3", "o1"]
        assert await search(village, min_score=6_667) == []
        await village.issue(SuspendDevice("d1", "odd"))
        await village.catch_up()
        assert await search(village) == ["o3", "o2"]
        await village.issue(ResumeDevice("d1"))
        await village.issue(PauseOffering("o4"), "vera")
        await village.issue(RetireDevice("d3", "broken"), "vito")
        village.later(days=1)
        await village.issue(RelocateDevice("d2", "north"), "vera")
        await village.catch_up()
        assert await search(village) == ["o1"]
        await village.issue(ResumeOffering("o4"), "vera")
        await village.issue(WithdrawOffering("o1"), "vera")
        await village.catch_up()
        assert await search(village) == ["o4"]

    run(scene)


def test_search_continues_page_by_page(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.catch_up()
        seen: list[str] = []
        after: dict[str, Any] = {}
        for _ in range(4):
            page = (await village.get("/queries/marketplace/search", "zoe", limit=1, **after)).json()
            seen += [item["offering"] for item in page["items"]]
            after = {"after": page["next"]}
        assert seen == ["o3", "o1", "o4", "o2"] and page["next"] is None
        # A page may hold less than its limit where a cap leaves some out, but never ends the search too soon.
        page = (await village.get("/queries/marketplace/search", "zoe", limit=2, price_cap=500)).json()
        assert [item["offering"] for item in page["items"]] == ["o3"] and page["next"]

    run(scene)


def test_facets_count_what_a_search_finds(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.catch_up()

        async def facets(**params: Any) -> list[tuple[Any, ...]]:
            found = await village.ask("marketplace/facets", "zoe", **params)
            return [picked(item, "facet value offerings free") for item in found]

        assert await facets() == [
            ("region", "north", 3, "20"),
            ("region", "south", 1, "2"),
            ("service_type", "infer", 1, "6"),
            ("service_type", "render", 3, "16"),
            ("tier", "bronze", 1, "2"),
            ("tier", "gold", 1, "4"),
            ("tier", "silver", 2, "16"),
        ]
        assert await facets(tier="silver", service_type="render") == [
            ("region", "north", 2, "14"),
            ("service_type", "render", 2, "14"),
            ("tier", "gold", 1, "4"),
            ("tier", "silver", 1, "10"),
        ]
        assert await facets(units=11) == []

    run(scene)


# Quotes, lanes and prices


def test_a_quote_shows_every_factor_and_is_what_a_contract_pays(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(RecordReputation("d1", "render", "success", "e1"), "worker")
        village.later(hours=2)
        await village.issue(MintTokens("treasury", 1, "time passes", "t"))
        await village.catch_up()
        (quote,) = await village.ask("marketplace/quote", "zoe", offering="o1", units=4, minutes=180)
        # 12 unit-hours: .95; three hours: 1; the market is at its target: .9; score 2/3: 1.09996.
        # 1000 * 2.5 * .95 * 1 * .9 * 1.09996 = 2351.1645; for 12 unit-hours of it 28,224.
        assert quote == {
            "offering": "o1",
            "provider": "vera",
            "service_type": "render",
            "region": "north",
            "tier": "silver",
            "pricing": "pay_as_you_go",
            "for_sale": True,
            "free": 10,
            "units": 4,
            "minutes": 180,
            "base_price": "1000",
            "tier_bp": 25000,
            "volume_bp": 9500,
            "duration_bp": 10000,
            "market_bp": 9000,
            "reputation_bp": 10999,
            "supply": 10,
            "demand": 0,
            "market": 10000,
            "market_at": "2026-01-01T00:00:00.000000Z",
            "market_target": 9000,
            "score": 6666,
            "floor": "0",
            "ceiling": "0",
            "bounded": "",
            "unit_hour": "2352",
            "total": "28224",
            "at": "2026-01-01T02:00:00.000000Z",
        }
        opening = OpenContract("k1", "o1", 4, 180, price_cap=2352)
        opened = (await village.issue(opening, "ana"))["events"]
        (terms,) = (event["data"]["terms"] for event in opened if event["type"] == "ContractOpened")
        assert terms["price"] == quote["unit_hour"]
        await village.issue(SetLaneBounds("render", "north", "silver", 0, 2_000))
        await village.catch_up()
        (capped,) = await village.ask("marketplace/quote", "zoe", offering="o1", units=7)
        assert picked(capped, "unit_hour bounded ceiling free for_sale") == (
            "2000",
            "ceiling",
            "2000",
            6,
            False,
        )
        assert await village.refused("marketplace/quote", "zoe", offering="o9") == (404, "not-found")
        assert await village.refused("marketplace/quote", "zoe", offering="o1", units=0) == (404, "not-found")

    run(scene)


def test_lanes_and_hours_show_what_moved_the_price(run: Any) -> None:
    async def scene(village: Economy) -> None:
        for contract, units in (("k1", 1), ("k2", 4)):
            await village.issue(OpenContract(contract, "o1", units, 60, any_price=True), "ana")
        asked = RequestService(
            "r1", "render", "north", "silver", 30, 60, START + timedelta(hours=9), any_price=True
        )
        await village.issue(asked, "ben")
        village.later(minutes=90)
        await village.issue(OpenContract("k3", "o1", 1, 600, any_price=True), "ana")
        await village.catch_up()
        lanes = await village.ask("marketplace/lanes", "zoe", service_type="render", region="north")
        # At first the market glided down for no time at all; then 5 free units met 30 that were asked for: up by
        # 1350 in 90 minutes to 11350, on the way to 11500.
        assert [picked(lane, "tier listed supply demand market market_target") for lane in lanes] == [
            ("gold", 1, 4, 0, 9000, 9000),
            ("silver", 1, 4, 30, 11350, 11500),
        ]
        history = await village.ask("marketplace/price-history", "zoe", service_type="render", tier="silver")
        names = "hour contracts first low high last average market supply demand"
        # k1 and k2: 2500 each. k3: 2500 * .95 (10 unit-hours) * 1.135 = 2695.6.
        assert [picked(hour, names) for hour in history] == [
            ("2026-01-01T01:00:00.000000Z", 1, "2696", "2696", "2696", "2696", "2696", 11350, 4, 30),
            ("2026-01-01T00:00:00.000000Z", 2, "2500", "2500", "2500", "2500", "2500", 10000, 5, 30),
        ]
        hours = await village.ask("marketplace/statistics", "zoe", region="north", service_type="render")
        names = "hour lanes requested contracts unit_minutes value average supply demand"
        assert [picked(hour, names) for hour in hours] == [
            ("2026-01-01T01:00:00.000000Z", 1, "0", "1", "600", "26960", "2696", "4", "30"),
            ("2026-01-01T00:00:00.000000Z", 2, "30", "2", "300", "12500", "2500", "9", "30"),
        ]
        later = await village.ask("marketplace/statistics", "zoe", since="2026-01-01T01:00:00Z")
        assert len(later) == 1

    run(scene)


# Requests and bids


def ask_for(
    request: str, village: Economy, mode: str = "match", units: int = 2, **more: Any
) -> RequestService:
    return RequestService(
        request,
        more.pop("service_type", "render"),
        "north",
        more.pop("tier", "silver"),
        units,
        60,
        village.now + timedelta(minutes=more.pop("minutes", 60)),
        price_cap=more.pop("price_cap", 9_000),
        mode=mode,
        **more,
    )


def test_open_requests_are_for_everybody_and_ones_own_for_oneself(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(ask_for("r1", village, units=30), "ana")
        await village.issue(ask_for("r2", village), "ana")
        await village.issue(ask_for("r3", village, "vickrey", price_cap=None, budget=10_000), "ben")
        await village.catch_up()
        found = await village.ask("marketplace/open-requests", "zoe")
        names = "request customer status mode tier units minutes price_cap budget bids"
        assert [picked(item, names) for item in found] == [
            ("r1", "ana", "open", "match", "silver", 30, 60, "9000", None, 0),
            ("r3", "ben", "bidding", "vickrey", "silver", 2, 60, None, "10000", 0),
        ]
        assert [
            item["request"] for item in await village.ask("marketplace/open-requests", mode="vickrey")
        ] == ["r3"]
        mine = await village.ask("marketplace/requests", "ana")
        # o1 costs 2500 and answers slower; o2 costs 4000. 0.5 * 10000 + 0.3 * 5000 + 0.2 * 3333 against
        # 0.5 * 6250 + 1500 + 0.2 * 10000.
        names = "request status offering provider price score candidates contract"
        assert [picked(item, names) for item in mine] == [
            ("r2", "matched", "o1", "vera", "2500", 7166, 2, "r2"),
            ("r1", "open", "", "", None, 0, 0, ""),
        ]
        assert await village.ask("marketplace/requests", "zoe") == []
        assert await village.refused("marketplace/requests", "zoe", customer="ana") == (404, "not-found")
        assert await village.ask("marketplace/requests", "zoe", request="r1") == []
        assert len(await village.ask("marketplace/requests")) == 3
        assert [item["request"] for item in await village.ask("marketplace/requests", customer="ben")] == [
            "r3"
        ]
        assert set(village.timers()) == {"request:r1", "request:r3", "contract-start:r2"}
        assert village.timers()["request:r1"][1] == "marketplace/expire-request"
        assert village.timers()["request:r3"][1:] == ("marketplace/close-bidding", {"request": "r3"})

    run(scene)


def test_unmatched_demand_is_what_nothing_fitted(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(ask_for("r1", village, units=30), "ana")
        await village.issue(ask_for("r2", village, units=20, price_cap=1), "ben")
        await village.issue(ask_for("r3", village, units=1, tier="gold", price_cap=10), "ben")
        await village.issue(ask_for("r4", village, "bids", tier="gold"), "ben")
        await village.issue(ask_for("r5", village), "ben")
        await village.issue(ask_for("r6", village, price_cap=5), "ben")
        await village.issue(WithdrawRequest("r6"), "ben")
        await village.issue(ask_for("r7", village, units=30, minutes=300), "ana")
        village.later(hours=1)
        # r2's and r3's time is over as well, whether or not their timers have run.
        await village.issue(ExpireRequest("r1"), "worker")
        await village.issue(CloseBidding("r4"), "worker")
        await village.catch_up()
        found = await village.ask("marketplace/unmatched-demand", "zoe")
        names = "tier open open_units expired expired_units unit_minutes highest_cap"
        assert [picked(item, names) for item in found] == [
            ("gold", 0, "0", 2, "3", "180", None),
            ("silver", 1, "30", 2, "50", "4800", "9000"),
        ]
        assert [item["request"] for item in await village.ask("marketplace/open-requests", "zoe")] == ["r7"]
        assert await village.ask("marketplace/unmatched-demand", "zoe", service_type="infer") == []

    run(scene)


def test_asks_stay_sealed_until_bidding_closes(run: Any) -> None:
    async def scene(village: Economy) -> None:
        async def bids(who: str, **params: Any) -> list[tuple[Any, ...]]:
            await village.catch_up()
            found = await village.ask("marketplace/bids", who, **params)
            names = "provider offering ask deposit deposit_held outcome price"
            return [picked(item, names) for item in found]

        await village.issue(ask_for("r1", village, "vickrey"), "ana")
        await village.issue(PlaceBid("r1", "o1", 3_000), "vera")
        await village.issue(PlaceBid("r1", "o2", 4_000), "vito")
        # Deposits are a tenth of ask * 2 units * 1 hour.
        vera: tuple[Any, ...] = ("vera", "o1", "3000", "600", True, "sealed", None)
        vito = ("vito", "o2", "4000", "800", True, "sealed", None)
        assert await bids("vera", request="r1") == [vera] == await bids("vera")
        assert await bids("vera", request="r1", provider="vito") == []
        for stranger in ("ana", "zoe"):
            assert await bids(stranger, request="r1") == [] == await bids(stranger)
        assert await bids("olga", request="r1") == [vito, vera] == await bids("admin")
        (shown,) = await village.ask("marketplace/open-requests", "zoe")
        assert shown["bids"] == 2 and not {"3000", "4000", "600", "800"} & set(map(str, shown.values()))
        village.later(hours=1)
        await village.issue(CloseBidding("r1"), "worker")
        vera = ("vera", "o1", "3000", "600", True, "won", "4000")
        vito = ("vito", "o2", "4000", "800", False, "lost", None)
        for anyone in ("vera", "vito", "ana", "zoe", "olga"):
            assert await bids(anyone, request="r1") == [vito, vera]
        assert await bids("zoe") == []
        (won,) = await village.ask("marketplace/requests", "ana")
        names = "status offering provider ask price accept_by"
        assert picked(won, names) == ("won", "o1", "vera", "3000", "4000", "2026-01-02T01:00:00.000000Z")
        assert village.timers()["request-won:r1"][1:] == ("marketplace/expire-request", {"request": "r1"})
        await village.issue(AcceptBid("r1", "k1"), "ana")
        assert (await bids("vera"))[0][4:] == (False, "accepted", "4000")
        assert set(village.timers()) == {"contract-start:k1"}
        (mine,) = await village.ask("marketplace/contracts", "ana")
        assert picked(mine, "contract price units charge") == ("k1", "4000", 2, "8000")

    run(scene)


def test_bids_that_were_withdrawn_are_never_opened_to_others(run: Any) -> None:
    async def scene(village: Economy) -> None:
        async def outcome(who: str, request: str) -> list[tuple[Any, ...]]:
            found = await village.ask("marketplace/bids", who, request=request)
            return [picked(item, "provider outcome deposit_held") for item in found]

        for request in ("r1", "r3"):
            await village.issue(ask_for(request, village, "bids"), "ana")
            await village.issue(PlaceBid(request, "o1", 3_000), "vera")
        await village.issue(PlaceBid("r1", "o2", 4_000), "vito")
        await village.issue(WithdrawBid("r1"), "vera")
        village.later(hours=1)
        await village.issue(CloseBidding("r1"), "worker")
        await village.issue(CloseBidding("r3"), "worker")
        village.later(hours=24)
        await village.issue(ExpireRequest("r1"), "worker")
        await village.issue(WithdrawRequest("r3"), "ana")
        await village.catch_up()
        assert await outcome("vera", "r1") == [("vito", "lapsed", False), ("vera", "withdrawn", False)]
        assert await outcome("zoe", "r1") == [("vito", "lapsed", False)]
        assert await outcome("zoe", "r3") == [("vera", "lapsed", False)]
        assert village.timers() == {}

    run(scene)


def test_a_burst_is_shown_with_its_parts(run: Any) -> None:
    async def scene(village: Economy) -> None:
        needs = (Requirement("render", "north", "silver", 12),)
        await village.issue(AllocateBurst("b1", needs, 100_000, 60), "ana")
        await village.catch_up()
        (burst,) = await village.ask("marketplace/bursts", "ana")
        # 10 units of o1 at 2500 * .95 (ten unit-hours), 2 of o2 at 4000.
        assert picked(burst, "burst customer budget cost minutes settlement") == (
            "b1",
            "ana",
            "100000",
            "31750",
            60,
            "escrow",
        )
        assert burst["parts"] == [
            {"contract": "b1.1", "offering": "o1", "provider": "vera", "units": 10, "price": "2375"},
            {"contract": "b1.2", "offering": "o2", "provider": "vito", "units": 2, "price": "4000"},
        ]
        assert await village.ask("marketplace/bursts", "zoe") == []
        assert await village.refused("marketplace/bursts", "zoe", customer="ana") == (404, "not-found")
        assert len(await village.ask("marketplace/bursts")) == 1

    run(scene)


# Contracts


async def story(village: Economy) -> None:
    """Ana books 2 units of o1 for two hours at 2500 a unit-hour, and uses them fully in the first hour only.

    Period 0: 4 windows of 1250; one misses one indicator, one all three: penalty 125 + 375 = 500. The charge is 5000,
    so that the provider's share is 4500, the fee of it 45. Period 1 (half of it used): charge 2500, no penalty, fee 25.
    2500 of the deposit of 10,000 go back.
    """
    await village.issue(OpenContract("k1", "o1", 2, 120, any_price=True), "ana")
    village.later(minutes=30)
    await village.issue(StartService("k1"), "vera")
    for window in range(4):
        village.later(minutes=15)
        report = {1: (1_201, 9_900, 100), 2: (9_999, 0, 10_000)}.get(window, (1_200, 9_900, 100))
        await village.issue(ReportServiceLevel("k1", window, *report), "worker")
    await village.issue(MeterUsage("k1", 1, 2 * HOUR_MS), "vera")


async def first_period(village: Economy) -> None:
    village.later(minutes=10)
    await village.issue(SettlePeriod("k1", 0), "worker")


async def second_period(village: Economy) -> None:
    village.later(minutes=50)
    await village.issue(MeterUsage("k1", 2, 3 * HOUR_MS), "vera")
    village.later(minutes=10)
    await village.issue(SettlePeriod("k1", 1), "worker")


def test_a_contract_is_shown_whole(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await story(village)
        await first_period(village)
        await village.issue(TopUpEscrow("k1", 7), "ana")
        await village.catch_up()
        (contract,) = await village.ask("marketplace/contract", "ana", contract="k1")
        assert contract["terms"] == {
            "units": 2,
            "minutes": 120,
            "price": "2500",
            "pricing": "pay_as_you_go",
            "settlement": "escrow",
            "tier": "silver",
            "p95_ms": 1200,
            "uptime_bp": 9900,
            "errors_bp": 100,
            "period_minutes": 60,
            "window_minutes": 15,
            "grace_minutes": 10,
            "notice_minutes": 0,
            "breach_windows": 3,
            "fee": 100,
            "penalty": 1000,
        }
        assert contract["escrow"] == {
            "deposited": "10007",
            "paid": "4455",
            "fees": "45",
            "penalties": "500",
            "refunded": "0",
            "remaining": "5007",
            "unpaid": "0",
        }
        assert picked(contract, "status charge charged customer provider in_dispute") == (
            "active",
            "10000",
            "5000",
            "ana",
            "vera",
            False,
        )
        assert contract["next"] == {"period": 1, "due_at": "2026-01-01T02:40:00.000000Z"}
        assert contract["usage"] == {
            "seq": 1,
            "metered": "7200000",
            "charged": "7200000",
            "metered_at": "2026-01-01T01:30:00.000000Z",
            "pauses": 0,
            "paused_ms": 0,
        }
        assert contract["service_level"] == {
            "windows": 4,
            "excused": 0,
            "missed": 2,
            "missed_p95": 2,
            "missed_uptime": 1,
            "missed_errors": 1,
            "attainment": 5000,
            "breached_at": None,
        }
        (period,) = contract["periods"]
        assert period == {
            "period": 0,
            "begins_at": "2026-01-01T00:30:00.000000Z",
            "ends_at": "2026-01-01T01:30:00.000000Z",
            "unit_ms": "7200000",
            "charge": "5000",
            "penalty": "500",
            "fee": "45",
            "paid": "4455",
            "owed": "0",
            "unpaid": "0",
        }
        assert contract["disputes"] == []
        for party in ("vera", "olga", "admin"):
            assert await village.ask("marketplace/contract", party, contract="k1") == [contract]
        for stranger in ("ben", "vito"):
            assert await village.refused("marketplace/contract", stranger, contract="k1") == (
                404,
                "not-found",
            )
            for query in ("periods", "windows"):
                assert await village.ask(f"marketplace/{query}", stranger, contract="k1") == []
            assert await village.ask("marketplace/contracts", stranger) == []
            for query in ("contracts", "service-levels"):
                refused = await village.refused(f"marketplace/{query}", stranger, party="ana")
                assert refused == (404, "not-found")
            assert await village.ask("marketplace/service-levels", stranger, contract="k1") == []

    run(scene)


def test_what_a_contract_came_to_is_told_from_all_sides(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await story(village)
        await first_period(village)
        await second_period(village)
        await village.issue(ReviewProvider("k1", 4, "slow at times"), "ana")
        await village.catch_up()
        periods = await village.ask("marketplace/periods", "vera", contract="k1")
        names = "period settlement unit_ms charge penalty fee paid unpaid last"
        assert [picked(period, names) for period in periods] == [
            (0, "escrow", "7200000", "5000", "500", "45", "4455", "0", False),
            (1, "escrow", "3600000", "2500", "0", "25", "2475", "0", True),
        ]
        (contract,) = await village.ask("marketplace/contract", "ana", contract="k1")
        assert picked(contract, "status next rating") == ("completed", None, 4)
        assert (contract["escrow"]["refunded"], contract["escrow"]["remaining"]) == ("2500", "0")
        windows = await village.ask("marketplace/windows", "ana", contract="k1")
        assert [picked(each, "window period missed excused") for each in windows] == [
            (0, 0, [], False),
            (1, 0, ["p95"], False),
            (2, 0, ["p95", "uptime", "errors"], False),
            (3, 0, [], False),
        ]
        (levels,) = await village.ask("marketplace/service-levels", "vera")
        names = "contract windows excused missed missed_p95 missed_uptime missed_errors attainment penalties"
        assert picked(levels, names) == ("k1", 4, 0, 2, 2, 1, 1, 5000, "500")
        (card,) = await village.ask("marketplace/scorecards", "zoe", provider="vera")
        names = "service_type contracts completed windows missed attainment breaches periods penalties reviews rating"
        assert picked(card, names) == ("render", 1, 1, 4, 2, 5000, 0, 2, "500", 1, 400)
        (review,) = await village.ask("marketplace/reviews", "zoe", offering="o1")
        assert picked(review, "provider customer rating comment") == ("vera", "ana", 4, "slow at times")
        (day,) = await village.ask("marketplace/revenue", "vera")
        names = "day periods charge penalties fees paid owed owed_fees unpaid"
        assert picked(day, names) == ("2026-01-01", 2, "7500", "500", "70", "6930", "0", "0", "0")
        assert await village.ask("marketplace/revenue", "vera", since="2026-01-02T00:00:00Z") == []
        assert await village.ask("marketplace/revenue", "vera", until="2026-01-01T00:00:00Z") == []
        assert await village.ask("marketplace/revenue", "ana") == []
        assert await village.refused("marketplace/revenue", "ana", provider="vera") == (404, "not-found")
        assert await village.ask("marketplace/revenue") == [day]
        (mine,) = await village.ask("marketplace/contracts", "vera", side="provider", status="completed")
        assert picked(mine, "contract charged remaining due_at") == ("k1", "7500", "0", None)
        assert await village.ask("marketplace/contracts", "vera", side="customer") == []
        due = village.timers()
        assert {name: (command, body["kind"]) for name, (_, command, body) in due.items()} == {
            "reputation:period.k1.0": ("devices/record-reputation", "failure"),
            "reputation:period.k1.1": ("devices/record-reputation", "success"),
            "reputation:review.k1": ("devices/record-reputation", "peer"),
        }
        for name, (_, _, body) in due.items():
            await village.issue(RecordReputation(**body), "worker")
            assert body["evidence_id"] == name.partition(":")[2]
        await village.catch_up()
        assert village.timers() == {}
        # 1 success + 0.64 of the rating against 1 failure + 0.16, and the prior: 2.64 / 4.8.
        (offer,) = await village.ask(
            "marketplace/search", "zoe", service_type="render", tier="silver", provider="vera"
        )
        assert (offer["score"], offer["evidence"]) == (5500, 3)

    run(scene)


def test_an_offerings_utilisation_is_its_providers_affair(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await story(village)
        await village.catch_up()
        (used,) = await village.ask("marketplace/utilisation", "vera", offering="o1")
        names = "used capacity utilisation average_utilisation contracts sold_unit_hours charged serves"
        # 2 of 10 units for all the 90 minutes since it was registered.
        assert picked(used, names) == (2, 10, 2000, 2000, 1, "0", "0", True)
        await first_period(village)
        await second_period(village)
        village.later(minutes=20)
        await village.issue(RepriceOffering("o1", 1_100), "vera")
        await village.catch_up()
        (used,) = await village.ask("marketplace/utilisation", "vera", offering="o1")
        # 2 units for 160 of 180 minutes: 1777.7 basis points of 10 units.
        assert picked(used, names) == (0, 10, 0, 1777, 1, "3", "7500", True)
        assert picked(used, "sold_unit_ms base_price rate") == (str(3 * HOUR_MS), "1100", "2750")
        assert len(await village.ask("marketplace/utilisation", "vera")) == 3
        assert await village.ask("marketplace/utilisation", "ana") == []
        assert await village.ask("marketplace/utilisation", "ana", offering="o1") == []
        assert await village.refused("marketplace/utilisation", "vito", provider="vera") == (404, "not-found")
        assert len(await village.ask("marketplace/utilisation")) == 4
        taken = await village.ask("marketplace/commitments", "vera", device="d1")
        assert [picked(each, "offering units cpu_millicores") for each in taken] == [
            ("o1", 10, 500),
            ("o4", 6, 500),
        ]
        assert await village.ask("marketplace/commitments", "vito", device="d1") == []

    run(scene)


def test_a_netted_period_becomes_obligations(run: Any) -> None:
    async def scene(village: Economy) -> None:
        opening = OpenContract("k1", "o2", 1, 60, any_price=True, settlement="netted")
        await village.issue(opening, "ben")
        await village.issue(StartService("k1"), "vito")
        village.later(minutes=30)
        await village.issue(ReportServiceLevel("k1", 1, 401, 9_990, 10), "worker")
        village.later(minutes=40)
        await village.issue(SettlePeriod("k1", 0), "worker")
        await village.catch_up()
        # 4 windows of 1000: 100 of penalty; ceil(1 %) of 3900 is 39.
        (period,) = await village.ask("marketplace/periods", "ben", contract="k1")
        names = "settlement charge penalty fee paid owed unpaid"
        assert picked(period, names) == ("netted", "4000", "100", "39", "0", "3900", "0")
        (contract,) = await village.ask("marketplace/contract", "vito", contract="k1")
        assert contract["netted"] == {"owed": "3900", "fees": "39", "penalties": "100"}
        assert set(contract["escrow"].values()) == {"0"}
        (day,) = await village.ask("marketplace/revenue", "vito")
        names = "charge penalties fees paid owed owed_fees unpaid"
        assert picked(day, names) == ("4000", "100", "0", "0", "3900", "39", "0")
        due = village.timers()
        assert due["obligation:k1.0"][1:] == (
            "settlement/record-obligation",
            {"debtor": "ben", "creditor": "vito", "amount": "3900", "source": "k1.0"},
        )
        assert due["obligation:k1.0.fee"][2] == {
            "debtor": "vito",
            "creditor": "fees",
            "amount": "39",
            "source": "k1.0.fee",
        }
        assert set(due) == {"obligation:k1.0", "obligation:k1.0.fee", "reputation:period.k1.0"}

    run(scene)


def test_a_dispute_is_part_of_the_contract(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await story(village)
        await village.issue(OpenDispute("q1", "k1", "it was slow"), "ana")
        await village.catch_up()
        (contract,) = await village.ask("marketplace/contract", "vera", contract="k1")
        assert contract["in_dispute"] and contract["disputes"] == [
            {
                "dispute": "q1",
                "by": "ana",
                "at": "2026-01-01T01:30:00.000000Z",
                "remaining": "10000",
                "to_customer": None,
                "to_provider": None,
                "decided_at": None,
            }
        ]
        await village.issue(ResolveDispute("q1", 9_000, 1_000, "so be it"))
        await village.catch_up()
        (contract,) = await village.ask("marketplace/contract", "vera", contract="k1")
        assert picked(contract, "status in_dispute next") == ("terminated", False, None)
        assert picked(contract["escrow"], "paid refunded remaining") == ("1000", "9000", "0")
        (dispute,) = contract["disputes"]
        assert picked(dispute, "to_customer to_provider") == ("9000", "1000")
        (day,) = await village.ask("marketplace/revenue", "vera")
        assert picked(day, "periods paid disputes") == (0, "0", "1000")
        assert village.timers() == {}

    run(scene)


def test_what_is_due_follows_a_contract_to_its_end(run: Any) -> None:
    async def scene(village: Economy) -> None:
        async def due() -> list[tuple[str, str, Any]]:
            await village.catch_up()
            shown = [(f"{at:%H:%M}", command, body) for at, command, body in village.timers().values()]
            return [each for each in shown if each[1].startswith("marketplace/")]

        settles = "marketplace/settle-period"
        await village.issue(OpenContract("k0", "o3", 1, 60, any_price=True), "ben")
        await village.issue(OpenContract("k1", "o1", 2, 120, any_price=True), "ana")
        await village.issue(StartService("k1"), "vera")
        expires = ("00:00", "marketplace/expire-contract", {"contract": "k0"})
        assert await due() == [("01:10", settles, {"contract": "k1", "period": 0}), expires]
        village.later(minutes=90)
        await village.issue(SettlePeriod("k1", 0), "worker")
        assert await due() == [("02:10", settles, {"contract": "k1", "period": 1}), expires]
        await village.issue(PauseContract("k1"), "ana")
        await village.issue(ResumeContract("k1"), "ana")
        await village.issue(TerminateContract("k1", "enough"), "ana")
        # What was used until half past one settles after its grace.
        assert await due() == [("01:40", settles, {"contract": "k1", "period": 1}), expires]
        village.later(minutes=10)
        await village.issue(SettlePeriod("k1", 1), "worker")
        assert await due() == [expires]
        village.later(days=1)
        await village.issue(ExpireContract("k0"), "worker")
        assert await due() == []
        (card,) = await village.ask("marketplace/scorecards", "zoe", provider="vera")
        assert picked(card, "contracts completed terminated expired attainment rating") == (
            2,
            0,
            0,
            1,
            None,
            None,
        )

    run(scene)


def test_a_rebuild_gives_the_same_tables(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(ask_for("r1", village, "bids"), "ana")
        await village.issue(PlaceBid("r1", "o1", 3_000), "vera")
        await village.issue(
            AllocateBurst("b1", (Requirement("infer", "north", "bronze", 2),), 10**5, 60), "ben"
        )
        await story(village)
        await first_period(village)
        await second_period(village)
        await village.issue(CloseBidding("r1"), "worker")
        await village.catch_up()
        followed = village.digests()
        village.rebuild()
        assert village.digests() == followed

    run(scene)
