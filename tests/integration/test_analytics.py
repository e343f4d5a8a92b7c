"""Analytics over HTTP: figures that were worked by hand, refusals, and a long history against its recomputation."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from domain.devices import Capabilities, Heartbeat, RegisterDevice
from domain.harvest import (
    ApproveReward,
    EnrolHarvester,
    RecordContribution,
    ReportDeviceState,
    Result,
    StartHarvestSession,
    TaskResult,
    ValidateContribution,
    Work,
    reward_for,
)
from domain.ledger import BurnTokens, MintTokens, OpenWallet, Transfer
from domain.marketplace.contracts import (
    OpenContract,
    ReportServiceLevel,
    SettlePeriod,
    StartService,
    TerminateContract,
)
from domain.marketplace.offerings import PauseOffering, RegisterOffering
from domain.marketplace.requests import RequestService
from domain.settlement.windows import (
    CloseWindow,
    FinaliseSettlement,
    OpenWindow,
    RecordObligation,
    ReservePositions,
)
from domain.staking import AllocateRewards, ClaimRewards, Delegate, RegisterValidator
from tests.conftest import Database
from tests.support import Economy, economy, problem
from tests.unit.test_analytics import SPANS, integral, lived, start_of, watched

SEED, STEPS = 3, 120
Refused = Counter[tuple[datetime, str, str]]
"""How often in an hour by a rule and of a command."""
Scene = Callable[[Economy], Awaitable[None]]
PHONE = Capabilities(64_000, 256_000, 1_000_000, 1_000_000, 8)
RICH = 10**9
PRICE = 1_000_000


@pytest.fixture
def run(database: Database) -> Callable[[Scene], None]:
    """Run a test in a village where Pia offers 10 bronze units on d1 in `eu`, and Ana and Ben are rich."""

    def runner(scene: Scene) -> None:
        async def whole() -> None:
            async with economy(database) as village:
                for name in ("ana", "ben", "pia"):
                    await village.issue(OpenWallet(f"wallet:{name}"), name)
                    await village.issue(MintTokens(f"wallet:{name}", RICH, "start", name))
                await village.issue(MintTokens("pool:rewards", RICH, "budget", "r"))
                await village.issue(RegisterDevice("d1", "phone", PHONE, "eu"), "pia")
                await offer(village, "o1", "web", "bronze", "pia")
                await scene(village)

        asyncio.run(whole())

    return runner


async def offer(village: Economy, id: str, service: str, tier: str, by: str, price: int = PRICE) -> None:
    offered = RegisterOffering(id, "d1", service, tier, 100, 100, 0, 10, price, "reserved")
    await village.issue(offered, by)


def time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


# A long history


def test_a_long_history_is_shown_as_it_was(database: Database) -> None:
    """However it was followed, the rows are those of a rebuild; every level, in the running bucket too, is what stood
    after each command; and every refusal was counted."""

    async def whole() -> None:
        async with economy(database) as village:
            refused = await tell(village)
            followed = village.digests()["analytics"]
            await levels_are_exact(village)
            await utilisation_is_exact(village)
            await refusals_are_counted(village, refused)
            await asyncio.to_thread(village.rebuild)
            assert village.digests()["analytics"] == followed
            village.forget()
            await village.catch_up()
            assert village.digests()["analytics"] == followed

    asyncio.run(whole())


async def tell(village: Economy) -> Refused:
    """Let the history happen; returns how often each rule refused each command in each hour."""
    refused: Refused = Counter()
    for i, (at, command, by, role, _) in enumerate(lived(SEED, STEPS).tried[1:]):
        village.now = at
        outcome = await village.send(command, by, role)
        if outcome.status == 409:
            rule = outcome.body.partition(b'"/problems/')[2].partition(b'"')[0].decode()
            refused[start_of("hour", at), rule, type(command).__name__] += 1
        if i % 97 == 0:
            await village.catch_up()
    await village.catch_up()
    return refused


async def levels_are_exact(village: Economy) -> None:
    _, levels = watched(SEED, STEPS)
    as_of = levels[-1][0]
    for measure, size in (("used", "hour"), ("offered", "day"), ("online", "day"), ("supply", "hour")):
        got: dict[Any, dict[datetime, tuple[int, int]]] = defaultdict(dict)
        for item in await everything(village, "levels", measure=measure, size=size, buckets=1000):
            place = item["service_type"], item["region"], item["tier"]
            got[place][time(item["start"])] = int(item["closing"]), int(item["average"])
        for place, row in got.items():
            changes = [(at, found.get((measure, *place), 0)) for at, found in levels]
            for start, (closing, average) in row.items():
                end = min(start + SPANS[size], as_of)
                span = (end - start) // timedelta(microseconds=1)
                assert average == integral(changes, start, end) // span, (measure, place, start)
                assert closing == [level for at, level in changes if at <= end][-1]
            assert max(row) == start_of(size, as_of)


async def utilisation_is_exact(village: Economy) -> None:
    _, levels = watched(SEED, STEPS)
    for item in await everything(village, "utilisation", size="day", by="all", buckets=90):
        start = time(item["start"])
        end = min(start + SPANS["day"], levels[-1][0])
        totals = {"offered": 0, "used": 0}
        for measure in totals:
            for lane in {lane for _, found in levels for lane in found if lane[0] == measure}:
                changes = [(at, found.get(lane, 0)) for at, found in levels]
                totals[measure] += integral(changes, start, end)
        assert int(item["offered_ms"]) == totals["offered"] // 1000
        assert int(item["used_ms"]) == totals["used"] // 1000
        assert item["utilisation"] == 10_000 * totals["used"] // totals["offered"]


async def refusals_are_counted(village: Economy, refused: Refused) -> None:
    with village.database.connect() as connection:
        fates = connection.execute("SELECT recorded_at, status FROM commands").fetchall()
    for size in ("hour", "day"):
        per_rule: dict[tuple[datetime, str], Counter[str]] = defaultdict(Counter)
        for (at, rule, command), number in refused.items():
            per_rule[start_of(size, at), rule][command] += number
        oldest = start_of(size, village.sequencer.head.at) - 999 * SPANS[size]
        expected = {key: found for key, found in per_rule.items() if key[0] >= oldest}
        shown = await everything(village, "rejections", size=size, buckets=1000)
        assert {(time(row["start"]), row["rule"]) for row in shown} == set(expected)
        for row in shown:
            key = time(row["start"]), row["rule"]
            inside = [status for at, status in fates if start_of(size, at) == key[0]]
            assert row["refused"] == expected[key].total()
            assert row["accepted"] == inside.count(200)
            assert row["all_refused"] == inside.count(409) == len(inside) - inside.count(200)
            assert row["rate"] == 10_000 * row["refused"] // len(inside)
            names = {name.rpartition("/")[2].replace("-", ""): n for name, n in row["commands"].items()}
            assert names == {name.lower(): n for name, n in expected[key].items()}


async def everything(village: Economy, query: str, **params: Any) -> list[Any]:
    """All pages."""
    items: list[Any] = []
    while True:
        response = await village.get(f"/queries/analytics/{query}", limit=500, **params)
        assert response.status_code == 200, response.text
        items += response.json()["items"]
        if not response.json()["next"]:
            return items
        params["after"] = response.json()["next"]


# Refusals


def test_a_refusal_moves_no_position_yet_is_seen_at_once(run: Any) -> None:
    async def scene(village: Economy) -> None:
        village.later(hours=5)
        await village.issue(Transfer("wallet:ana", "wallet:ben", 1), "ana")
        await village.catch_up()
        before = await village.get("/queries/analytics/rejections")
        assert "etag" not in before.headers and before.json()["items"] == []
        for _ in range(2):
            outcome = await village.send(Transfer("wallet:ana", "wallet:ben", 2 * RICH), "ana")
            assert outcome.status == 409
        assert (await village.send(Transfer("wallet:ana", "wallet:ana", 1), "ana")).status == 409
        # Somebody else's wallet is not found; that is not recorded.
        assert (await village.send(Transfer("wallet:ben", "wallet:ana", 1), "ana")).status == 404
        after = await village.get("/queries/analytics/rejections")
        assert after.json()["position"] == before.json()["position"]
        itself, funds = after.json()["items"]
        assert (funds["rule"], funds["refused"], funds["rate"]) == ("insufficient-funds", 2, 5_000)
        assert (itself["rule"], itself["refused"], itself["rate"]) == ("transfer-to-itself", 1, 2_500)
        assert {row["accepted"] for row in (funds, itself)} == {1}
        assert {row["all_refused"] for row in (funds, itself)} == {3}
        assert funds["commands"] == {"ledger/transfer": 2}
        assert [
            row["rule"] for row in await village.ask("analytics/rejections", rule="transfer-to-itself")
        ] == ["transfer-to-itself"]
        assert await village.ask("analytics/rejections", until="2026-01-01T05:00:00Z") == []
        assert problem(await village.get("/queries/analytics/rejections", "ana")) == (403, "role-not-allowed")

    run(scene)


def test_accepted_commands_are_counted_by_milestones(database: Database) -> None:
    """5,000 more commands, one a second, every seventh of them refused; and as many of another zone."""
    with database.superuser() as connection:
        connection.execute(
            """
            INSERT INTO commands
            SELECT zone, n, 'ana', n::text, 'ana', convert_to('{"command": "ledger/transfer"}', 'UTF8'), NULL,
                   CASE WHEN n % 7 = 0 THEN 409 ELSE 200 END,
                   convert_to('{"type": "/problems/insufficient-funds"}', 'UTF8'), 1, 1,
                   '2026-01-01Z'::timestamptz + n * interval '1 second', 'leaf'
            FROM generate_series(2, 5001) n, (VALUES ('main'), ('other')) zones(zone)
            """
        )

    async def whole() -> None:
        async with economy(database) as village:
            await village.catch_up()
            with database.superuser() as connection:
                connection.execute("UPDATE heads SET recorded_at = '2026-01-01T02:00:00Z'")
            later, earlier = await village.ask("analytics/rejections")
            for row, numbers in ((earlier, range(2, 3600)), (later, range(3600, 5002))):
                assert row["refused"] == len([n for n in numbers if n % 7 == 0])
                # The zone's own first command was accepted in its first hour.
                assert row["accepted"] == len(numbers) - row["refused"] + (row is earlier)

    asyncio.run(whole())
    with database.superuser() as connection:
        connection.execute("ANALYZE commands")
        plan = explain(
            connection,
            "SELECT number FROM commands WHERE zone = 'main' AND recorded_at < '2026-01-01T01:00:00Z'"
            " AND number % 1000 = 0 ORDER BY recorded_at DESC, number DESC LIMIT 1",
        )
        assert "milestone_commands" in plan
        plan = explain(
            connection,
            "SELECT count(*) FROM commands WHERE zone = 'main' AND status <> 200"
            " AND recorded_at >= '2026-01-01T01:00:00Z' AND recorded_at < '2026-01-01T01:10:00Z'",
        )
        assert "refused_commands" in plan


def explain(connection: psycopg.Connection[Any], sql: str) -> str:
    return "\n".join(row[0] for row in connection.execute("EXPLAIN " + sql))


# Markets


def test_a_market_shows_prices_volume_and_what_became_of_it(run: Any) -> None:
    async def scene(village: Economy) -> None:
        # Nothing is asked for, so the market factor falls to its lowest; reputation is unknown: 1.0.
        await village.issue(OpenContract("k1", "o1", 2, 120, None, True), "ana")
        village.later(minutes=10)
        await village.issue(OpenContract("k2", "o1", 1, 60, None, True), "ben")
        first, second = [(await village.state(f"contract:{k}")).terms.price for k in ("k1", "k2")]
        assert first > second
        await village.issue(StartService("k1"), "pia")
        village.later(minutes=20)
        await village.issue(ReportServiceLevel("k1", 0, 9_000, 10_000, 0), "worker")
        village.later(minutes=70)
        await village.issue(SettlePeriod("k1", 0), "worker")
        await village.catch_up()
        hour = first * 2
        earlier = await village.ask("analytics/market", "ben", until="2026-01-01T01:00:00Z")
        assert earlier == [
            {
                "start": "2026-01-01T00:00:00.000000Z",
                "service_type": "web",
                "region": "eu",
                "tier": "bronze",
                "contracts": 2,
                "unit_hours": "5",
                "unit_minutes": "300",
                "turnover": str(4 * first + second),
                "open": str(first),
                "high": str(first),
                "low": str(second),
                "close": str(second),
                "average": str((4 * first + second) // 5),
                "periods": 0,
                "unit_ms": "0",
                "charge": "0",
                "penalties": "0",
                "fees": "0",
                "paid": "0",
                "unpaid": "0",
                "windows": 1,
                "missed": 1,
                "excused": 0,
                "breaches": 0,
                "attainment": 0,
            }
        ]
        # One of four windows missed one indicator: 10 % of a quarter. The fee is 1 %, rounded up.
        (later,) = await village.ask("analytics/market", "ben", buckets=1)
        penalty = hour // 4 // 10
        fee = -(-(hour - penalty) // 100)
        assert (later["charge"], later["penalties"], later["fees"], later["paid"], later["unpaid"]) == (
            *(str(hour), str(penalty), str(fee), str(hour - penalty - fee), "0"),
        )
        assert (later["open"], later["average"], later["attainment"]) == (None, None, None)
        (day,) = await village.ask("analytics/market", "ben", size="day")
        assert (day["contracts"], day["close"], day["charge"]) == (2, str(second), str(hour))

    run(scene)


def test_a_market_rolls_up_by_region_tier_or_service(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await offer(village, "o2", "web", "gold", "pia")
        await offer(village, "o3", "render", "bronze", "pia", 3 * PRICE)
        for i, offering in enumerate(("o3", "o1", "o2", "o1")):
            village.later(seconds=1)
            await village.issue(OpenContract(f"k{i}", offering, 1, 60, None, True), "ana")
        await village.catch_up()
        prices = [(await village.state(f"contract:k{i}")).terms.price for i in range(4)]

        async def shown(**params: str) -> list[tuple[Any, ...]]:
            rows = await village.ask("analytics/market", "ben", **params)
            names = ("service_type", "region", "tier", "contracts", "open", "high", "low", "close")
            return sorted(tuple(row[name] for name in names) for row in rows)

        def ohlc(*indices: int) -> tuple[str, ...]:
            own = [prices[i] for i in indices]
            return str(own[0]), str(max(own)), str(min(own)), str(own[-1])

        assert await shown(by="all") == [("", "", "", 4, *ohlc(0, 1, 2, 3))]
        assert await shown(by="region") == [("", "eu", "", 4, *ohlc(0, 1, 2, 3))]
        assert await shown(by="tier") == [
            ("", "", "bronze", 3, *ohlc(0, 1, 3)),
            ("", "", "gold", 1, *ohlc(2)),
        ]
        assert await shown(by="service_type", service_type="web") == [("web", "", "", 3, *ohlc(1, 2, 3))]
        assert len(await shown()) == 3
        assert await shown(tier="gold", region="eu") == [("web", "eu", "gold", 1, *ohlc(2))]
        assert await shown(by="moon") == [] and await shown(size="week") == []

    run(scene)


def test_utilisation_is_weighted_by_time_and_carried_through_quiet_hours(run: Any) -> None:
    async def scene(village: Economy) -> None:
        village.later(minutes=30)
        await village.issue(OpenContract("k1", "o1", 5, 600, None, True), "ana")
        village.later(hours=3)
        await village.issue(TerminateContract("k1", "enough"), "ana")
        village.later(minutes=15)
        await village.issue(PauseOffering("o1"), "pia")
        village.later(minutes=5)
        await village.issue(Transfer("wallet:ana", "wallet:ben", 1), "ana")
        await village.catch_up()
        rows = await village.ask("analytics/utilisation", "ben")
        shown = [(row["start"][11:16], row["offered"], row["used"], row["utilisation"]) for row in rows]
        # 5 of 10 units from 00:30 to 03:30; nothing on offer from 03:45; it is 03:50.
        assert shown == [
            ("03:00", "0", "0", 3_333),
            ("02:00", "10", "5", 5_000),
            ("01:00", "10", "5", 5_000),
            ("00:00", "10", "5", 2_500),
        ]
        assert (rows[0]["offered_ms"], rows[0]["used_ms"]) == (str(10 * 45 * 60_000), str(5 * 30 * 60_000))
        (day,) = await village.ask("analytics/utilisation", "ben", size="day")
        assert day["utilisation"] == 10_000 * (5 * 180) // (10 * 225)
        last = await village.ask("analytics/utilisation", "ben", buckets=1)
        assert last == rows[:1]
        until = await village.ask("analytics/utilisation", "ben", until="2026-01-01T02:00:00Z")
        assert until == rows[2:]
        (levels,) = await village.ask("analytics/levels", "ben", measure="used", buckets=1, tier="bronze")
        assert (levels["closing"], levels["average"]) == ("0", str(5 * 30 // 50))
        assert await village.ask("analytics/levels", "ben", measure="used", size="week") == []
        assert await village.ask("analytics/levels", "ben", measure="moods") == []

    run(scene)


# Harvest, staking, the economy


async def harvested(village: Economy, session: str, gpu_ms: int) -> None:
    """An hour of one core and some GPU time that Ben and Cleo confirm, and that is paid."""
    ready = ReportDeviceState("d1", gpu_ms, True, 90, 30, "wifi", False, 1, 1, 900)
    await village.issue(ready, "pia")
    await village.issue(StartHarvestSession(session, "d1"), "pia")
    village.later(hours=1)
    tasks = (TaskResult(f"t-{session}", "aa"),)
    work = RecordContribution(session, 1, cpu_ms=3_600_000, gpu_ms=gpu_ms, tasks=tasks)
    await village.issue(work, "pia")
    results = tuple(Result(f"t-{session}", device, "aa") for device in ("d2", "d3"))
    await village.issue(ValidateContribution(session, 1, results), "worker")
    await village.issue(ApproveReward(session, 1), "worker")


def test_harvest_shows_points_and_payout_by_region(run: Any) -> None:
    async def scene(village: Economy) -> None:
        for device, owner in (("d2", "ben"), ("d3", "ana")):
            await village.issue(RegisterDevice(device, "phone", PHONE, "us"), owner)
        await village.issue(EnrolHarvester("d1", PHONE), "pia")
        await harvested(village, "s1", 7)
        village.later(hours=3)
        await village.catch_up()
        (row,) = await village.ask("analytics/harvest", "ben", region="eu", since="2026-01-01T01:00:00Z")
        # 1 core-hour is 1 point; 7 ms of a GPU at 5 points an hour: 97.2 ten-millionths, rounded down.
        assert (row["points"], row["paid"], row["tasks"], row["cpu_ms"]) == ("10000097", 1, 1, "3600000")
        contribution = await village.state("contribution:s1:1")
        assert row["reward"] == str(contribution.reward)
        assert int(row["points"]) == reward_for(Work(cpu_ms=3_600_000, gpu_ms=7), 0, 0, 10_000, 50)
        leaders = await village.ask("analytics/leaderboard", "ben", board="harvest")
        assert [(one["principal"], one["amount"], one["payments"]) for one in leaders] == [
            ("pia", row["reward"], 1)
        ]
        assert await village.ask("analytics/harvest", "ben", region="us") == []
        (open_sessions,) = await village.ask("analytics/levels", "ben", measure="sessions", buckets=1)
        assert (open_sessions["region"], open_sessions["closing"]) == ("eu", "1")

    run(scene)


def test_staking_ratio_apr_and_velocity_follow_the_hours(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(RegisterValidator("v1", RICH // 2, 0, 1), "pia")
        village.later(minutes=30)
        await village.issue(Delegate("v1", RICH // 2), "ana")
        village.later(minutes=30)
        await village.issue(AllocateRewards("a1", 1_000), "admin")
        village.later(minutes=30)
        await village.issue(BurnTokens("wallet:ben", RICH, "old"), "ben")
        village.later(minutes=30)
        await village.issue(MintTokens("treasury", 1, "tick", "t"))
        await village.catch_up()
        _, now, before = await village.ask("analytics/staking", "ben")
        assert (before["supply"], before["bonded"], before["staking_ratio"]) == (
            str(4 * RICH),
            str(RICH),
            2_500,
        )
        assert (before["average_bonded"], before["rewards"], before["apr"]) == (str(RICH * 3 // 4), "0", 0)
        assert (now["supply"], now["bonded"], now["staking_ratio"]) == (str(3 * RICH), str(RICH), 3_333)
        assert (now["rewards"], now["commission"]) == ("1000", "0")
        assert now["apr"] == 10_000 * 1_000 * 365 * 24 // RICH
        (day,) = await village.ask("analytics/staking", "ben", size="day")
        # In two hours of the day 1000 were earned by what was 7/8 of RICH on average.
        assert day["apr"] == 10_000 * 1_000 * 365 * 12 * 8 // (7 * RICH)
        _, later, earlier = await village.ask("analytics/economy")
        assert (earlier["velocity"], earlier["volume"]) == (10_000 * RICH // (4 * RICH), str(RICH))
        assert (later["average_supply"], later["burned"]) == (str(RICH * 7 // 2), str(RICH))
        assert (later["transfers"], later["volume"]) == (1, "1000")
        assert problem(await village.get("/queries/analytics/economy", "ana")) == (403, "role-not-allowed")

    run(scene)


def test_concentration_is_the_gini_of_sorted_holdings(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(BurnTokens("wallet:pia", RICH - 1, "old"), "pia")
        await village.issue(BurnTokens("wallet:ben", RICH - 2, "old"), "ben")
        await village.issue(BurnTokens("wallet:ana", RICH - 5, "old"), "ana")
        await village.catch_up()
        (wealth,) = await village.ask("analytics/wealth")
        # 1, 2, 5: (2 * (1 + 4 + 15) - 4 * 8) / (3 * 8) = 8 / 24.
        assert wealth == {
            "of": "FOG",
            "number": 3,
            "total": "8",
            "top_1": 6_250,
            "top_10": 10_000,
            "gini": 3_333,
        }
        (ledgers,) = await village.ask("ledger/concentration")
        assert ledgers["gini"] == wealth["gini"]
        assert await village.ask("analytics/stake-concentration", "ana") == []
        await village.issue(RegisterValidator("v1", 1, 0, 1), "pia")
        await village.issue(Delegate("v1", 3), "ana")
        await village.catch_up()
        (stake,) = await village.ask("analytics/stake-concentration", "ana")
        assert (stake["of"], stake["number"], stake["total"], stake["gini"]) == ("bonded", 2, "4", 2_500)
        assert problem(await village.get("/queries/analytics/wealth", "ana")) == (403, "role-not-allowed")

    run(scene)


# Settlement


def test_what_is_owed_ages_and_what_settled_has_its_age(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(OpenWindow("w1"))
        await village.issue(RecordObligation("ana", "ben", 100, "x1"), "ana")
        village.later(minutes=10)
        await village.issue(RecordObligation("ben", "pia", 50, "x2"), "ben")
        village.later(minutes=20)
        await village.issue(CloseWindow("w1", "w2"))
        await village.issue(ReservePositions("w1"), "worker")
        await village.issue(FinaliseSettlement("w1"), "worker")
        await village.issue(RecordObligation("ana", "ben", 7, "x3"), "ana")
        village.later(days=2)
        await village.issue(RecordObligation("ana", "ben", 8, "x4"), "ana")
        village.later(hours=1)
        await village.issue(RecordObligation("ana", "ben", 9, "x5"), "ana")
        await village.catch_up()
        rows = await village.ask("analytics/settlement", size="day")
        names = ("recorded", "recorded_amount", "settled", "settled_amount", "average_ms", "oldest_ms")
        assert [tuple(row[name] for name in names) for row in rows] == [
            (2, "17", 0, "0", 0, "0"),
            (3, "157", 2, "150", 25 * 60_000, str(30 * 60_000)),
        ]
        ages = await village.ask("analytics/ageing")
        assert [(row["age_class"], row["under"], row["number"], row["amount"]) for row in ages] == [
            (1, "1h", 1, "9"),
            (2, "1d", 1, "8"),
            (3, "7d", 1, "7"),
        ]
        assert ages[2]["oldest_at"] == "2026-01-01T00:30:00.000000Z"
        assert await village.ask("analytics/ageing", asset="GOLD") == []
        for query in ("settlement", "ageing"):
            assert problem(await village.get(f"/queries/analytics/{query}", "ana"))[0] == 403
        seen = (await village.ask("analytics/overview", "ana"))[0]
        assert (seen["open_obligations"], seen["owed"]) == (3, "24")

    run(scene)


# Who leads


def test_leaderboards_are_of_all_time_or_of_the_last_days(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(RegisterValidator("v1", 1, 0, 1), "pia")
        for who, amount in (("ana", 300), ("ben", 600)):
            await village.issue(Delegate("v1", amount), who)
        await village.issue(AllocateRewards("a1", 90_100))
        await village.issue(ClaimRewards("v1"), "ben")
        village.later(days=2)
        await village.issue(AllocateRewards("a2", 90_100))
        await village.issue(ClaimRewards("v1"), "ana")
        await village.catch_up()

        async def board(**params: Any) -> list[tuple[Any, ...]]:
            rows = await village.ask("analytics/leaderboard", "pia", board="staking", **params)
            return [(row["rank"], row["principal"], row["amount"], row["share"]) for row in rows]

        # Both earned 60,000: of equals the last name comes first.
        assert await board() == [(1, "ben", "60000", 5_000), (2, "ana", "60000", 5_000)]
        assert await board(days=2) == [(1, "ana", "60000", 10_000)]
        assert await board(days=3) == await board()
        rows = await village.ask("analytics/concentration", "pia", board="staking")
        assert [(row["of"], row["number"], row["gini"]) for row in rows] == [
            ("2026-01-03", 1, 0),
            ("2026-01-01", 1, 0),
        ]
        (ever,) = await village.ask("analytics/concentration", "pia", board="staking", days=0)
        assert (ever["of"], ever["number"], ever["total"], ever["gini"]) == ("all", 2, "120000", 0)
        assert await village.ask("analytics/leaderboard", "pia", board="luck") == []
        response = await village.get("/queries/analytics/leaderboard", "pia", board="staking", limit=1)
        after = response.json()["next"]
        (second,) = await village.ask("analytics/leaderboard", "pia", board="staking", after=after)
        assert (second["rank"], second["principal"]) == (2, "ana")

    run(scene)


# The overview


def test_the_overview_tells_everything_in_one_row(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.catch_up()
        (quiet,) = await village.ask("analytics/overview", "ana")
        assert (quiet["prices"], quiet["attainment_24h"], quiet["contracts_24h"]) == ({}, None, 0)
        await offer(village, "o2", "web", "gold", "pia")
        await offer(village, "o3", "web", "silver", "pia")
        await village.issue(OpenContract("k0", "o1", 1, 60, None, True), "ana")
        village.later(hours=24)
        await village.issue(Heartbeat("d1", 1), "pia")
        await village.issue(RegisterValidator("v1", RICH // 2, 0, 1), "pia")
        for i, offering in enumerate(("o2", "o3", "o1"), 1):
            await village.issue(OpenContract(f"k{i}", offering, 2, 90, None, True), "ana")
        await village.issue(StartService("k2"), "pia")
        until = village.now + timedelta(hours=2)
        request = RequestService("r1", "web", "us", "gold", 3, 60, until, any_price=True)
        await village.issue(request, "ben")
        for window in range(3):
            village.later(minutes=15)
            await village.issue(ReportServiceLevel("k2", window, 1, 10_000, 301 * window), "worker")
        await village.catch_up()
        (seen,) = await village.ask("analytics/overview", "ana")
        prices = [(await village.state(f"contract:k{i}")).terms.price for i in (1, 2, 3)]
        moved = sum(3 * price for price in prices) + RICH // 2
        assert seen == {
            "zone": "main",
            "at": "2026-01-02T00:45:00.000000Z",
            "supply": str(4 * RICH),
            "staked": str(RICH // 2),
            "staking_ratio": 1_250,
            "devices": 1,
            "devices_online": 1,
            "sessions": 0,
            "offered": "30",
            "used": "7",
            "utilisation": 2_333,
            "open_requests": 1,
            "requested": "3",
            "contracts_active": 1,
            "contracts_24h": 3,
            "unit_hours_24h": "9",
            "turnover_24h": str(sum(3 * price for price in prices)),
            "volume_24h": str(moved),
            "windows_24h": 3,
            "attainment_24h": 3_333,
            "harvest_payout_24h": "0",
            "open_obligations": 0,
            "owed": "0",
            "prices": {"web": {"last": str(prices[2]), "median": str(sorted(prices)[1]), "lanes": 3}},
        }

    run(scene)
