"""Staking's queries against values that were computed by hand, and against the exact state of the streams."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from domain.ledger import MintTokens, OpenWallet
from domain.staking import (
    AllocateRewards,
    AppealSlash,
    BeginUnbonding,
    CancelUnbonding,
    ClaimRewards,
    CompleteUnbonding,
    DecideAppeal,
    Delegate,
    EditValidator,
    ExpireLock,
    Jail,
    Redelegate,
    RegisterValidator,
    SetAutoCompound,
    Slash,
    Unjail,
    WithdrawCommission,
)
from projections import _follower
from projections._follower import read_tail
from tests.conftest import Database
from tests.scenario import START
from tests.support import Economy, economy

Scene = Callable[[Economy], Awaitable[None]]
WEEKS_3 = timedelta(days=21)


@pytest.fixture
def run(database: Database) -> Callable[[Scene], None]:
    """Run a test with validators v1 (of Vera, 10 % commission) and v2 (of Vito, none), 1000 of their own each."""

    def runner(scene: Scene) -> None:
        async def whole() -> None:
            async with economy(database) as village:
                for name in ("vera", "vito", "ana", "ben"):
                    await village.issue(OpenWallet(f"wallet:{name}"), name)
                    await village.issue(MintTokens(f"wallet:{name}", 100_000, "start", name))
                await village.issue(MintTokens("pool:rewards", 1_000_000, "budget", "r"))
                await village.issue(MintTokens("treasury", 100_000, "reserve", "t"))
                await village.issue(RegisterValidator("v1", 1000, 1000, 500, "fast"), "vera")
                await village.issue(RegisterValidator("v2", 1000, 0, 1), "vito")
                await scene(village)

        asyncio.run(whole())

    return runner


async def positions(village: Economy, who: str, **params: Any) -> dict[str, tuple[str, str]]:
    """Tokens and pending rewards by validator."""
    found = await village.ask("staking/positions", who, **params)
    return {item["validator"]: (item["tokens"], item["pending"]) for item in found}


async def exact(village: Economy, validator: str, delegator: str) -> tuple[str, str]:
    """The same of the streams' own states."""
    pool = await village.state(f"validator:{validator}")
    position = await village.state(f"position:{validator}:{delegator}")
    return str(pool.worth(position.shares)), str(position.earned(pool.ratio))


# Validators


def test_a_validator_shows_power_terms_and_its_own_stake(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(Delegate("v1", 3000), "ana")
        await village.issue(EditValidator("v2", 0, "slow"), "vito")
        await village.catch_up()
        one, two = await village.ask("staking/validators", "ben")
        assert one == {
            "validator": "v1",
            "operator": "vera",
            "description": "fast",
            "commission": 1000,
            "tokens": "4000",
            "shares": "4000",
            "share": 8000,
            "self_stake": "1000",
            "minimum_self_stake": "500",
            "delegators": 2,
            "jailed": False,
            "jail_reason": "",
            "jailed_until": None,
            "tombstoned": False,
            "downtime_slashes": 0,
            "double_sign_slashes": 0,
            "slashed": "0",
            "uptime": 10000,
            "apr": 0,
            "rewarded": "0",
            "commission_due": "0",
            "registered_at": "2026-01-01T00:00:00.000000Z",
        }
        assert (two["tokens"], two["share"], two["description"]) == ("1000", 2000, "slow")
        assert await village.ask("staking/validators", "ben", validator="v2") == [two]
        leaders = await village.ask("staking/validator-leaderboard", "ben")
        assert [(row["rank"], row["validator"], row["tokens"]) for row in leaders] == [
            (1, "v1", "4000"),
            (2, "v2", "1000"),
        ]

    run(scene)


def test_uptime_is_the_part_of_the_last_month_that_was_not_spent_in_jail(run: Any) -> None:
    async def scene(village: Economy) -> None:
        async def uptime() -> list[int]:
            await village.catch_up()
            return [item["uptime"] for item in await village.ask("staking/validators", "ana")]

        village.later(days=6)
        await village.issue(Jail("v1", "asked"))
        village.later(days=2)
        await village.issue(Delegate("v2", 1), "ana")
        # 8 days since it was registered, the last 2 of them in jail.
        assert await uptime() == [7500, 10000]
        await village.issue(Unjail("v1"), "vera")
        village.later(days=12)
        await village.issue(Delegate("v2", 1), "ana")
        assert await uptime() == [9000, 10000]
        village.later(days=17)
        await village.issue(Delegate("v2", 1), "ana")
        # Day 37: the window began on day 7, in the middle of the term: 1 of 30 days.
        assert await uptime() == [9666, 10000]
        (term,) = await village.ask("staking/jail-log", "ana")
        assert (term["validator"], term["reason"], term["begun_at"], term["ended_at"]) == (
            "v1",
            "asked",
            "2026-01-07T00:00:00.000000Z",
            "2026-01-09T00:00:00.000000Z",
        )

    run(scene)


def test_apr_comes_from_what_delegators_were_allocated(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(Delegate("v1", 2000), "ana")
        await village.issue(AllocateRewards("day-1", 40))
        village.later(days=1)
        await village.issue(AllocateRewards("day-2", 80))
        await village.catch_up()
        # v1 has 3000 of 4000: 30 and 60, of which 3 and 6 are commission; v2 gets 10 and 20.
        history = await village.ask("staking/apr-history", "ben")
        names = ("day", "validator", "delegators", "commission", "tokens", "apr")
        assert [tuple(item[name] for name in names) for item in history] == [
            ("2026-01-02", "v2", "20", "0", "1000", 10000 * 365 * 20 // 1000),
            ("2026-01-02", "v1", "54", "6", "3000", 10000 * 365 * 54 // 3000),
            ("2026-01-01", "v2", "10", "0", "1000", 10000 * 365 * 10 // 1000),
            ("2026-01-01", "v1", "27", "3", "3000", 10000 * 365 * 27 // 3000),
        ]
        one, two = await village.ask("staking/validators", "ben")
        assert one["apr"] == 10000 * 365 * 81 // (2 * 3000) and two["apr"] == 10000 * 365 * 30 // (2 * 1000)
        assert (one["rewarded"], one["commission_due"]) == ("90", "9")
        village.later(days=30)
        await village.issue(WithdrawCommission("v1"), "vera")
        await village.catch_up()
        # 31 January: the second of January is the first of the last 30 days that are counted.
        one, _ = await village.ask("staking/validators", "ben")
        assert one["apr"] == 0 and one["commission_due"] == "0"
        made = await village.ask("staking/allocations", "ben")
        assert [(item["reference"], item["tokens"], item["staking"]) for item in made] == [
            ("day-2", "80", "80"),
            ("day-1", "40", "40"),
        ]

    run(scene)


# Positions


def test_positions_show_tokens_and_pending_rewards_by_hand(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(Delegate("v1", 1000), "ana")
        locked = await village.issue(Delegate("v1", 1000, lock_days=90), "ana")
        await village.issue(AllocateRewards("a", 4000))
        await village.catch_up()
        # v1: 3000 of 4000 tokens -> 3000, commission 300, 2700 for weights 1000 + 1000 + 1250.
        # Each is floored on its own: 1000 * 2700 / 3250 = 830.7, 1250 * 2700 / 3250 = 1038.4.
        (mine,) = await village.ask("staking/positions", "ana")
        assert (mine["shares"], mine["tokens"], mine["pending"]) == ("2000", "2000", "1868")
        assert mine["lots"] == [
            {
                "lot": "0",
                "shares": "1000",
                "tokens": "1000",
                "pending": "830",
                "multiplier": 10000,
                "unlocks_at": None,
            },
            {
                "lot": locked["command_id"],
                "shares": "1000",
                "tokens": "1000",
                "pending": "1038",
                "multiplier": 12500,
                "unlocks_at": "2026-04-01T00:00:00.000000Z",
            },
        ]
        assert await exact(village, "v1", "ana") == ("2000", "1868")
        await village.issue(ClaimRewards("v1"), "ana")
        await village.catch_up()
        (mine,) = await village.ask("staking/positions", "ana")
        assert (mine["pending"], mine["settled"], mine["compounded"]) == ("0", "1868", "0")
        (reward,) = await village.ask("ledger/reward-history", "ana")
        assert (reward["amount"], reward["kind"], reward["pool"]) == (
            "1868",
            "staking-reward",
            "pool:staking",
        )

    run(scene)


def test_after_slashes_positions_are_what_the_streams_say(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(Delegate("v1", 3333), "ana")
        await village.issue(Delegate("v1", 777, lock_days=400), "ben")
        await village.issue(AllocateRewards("a", 1001))
        village.later(hours=1)
        await village.issue(Slash("v1", "downtime", village.now, "e1"))
        village.later(hours=1)
        await village.issue(Unjail("v1"), "vera")
        await village.issue(Delegate("v1", 1001), "ben")
        await village.issue(AllocateRewards("b", 1003))
        await village.issue(BeginUnbonding("v1", 100), "ana")
        await village.issue(Redelegate("v1", "v2", 55), "ana")
        await village.issue(AllocateRewards("c", 997))
        await village.catch_up()
        for who in ("ana", "ben", "vera"):
            for validator, shown in (await positions(village, who)).items():
                assert shown == await exact(village, validator, who), (who, validator)
        assert set(await positions(village, "ana")) == {"v1", "v2"}
        (one,) = await village.ask("staking/validators", validator="v1")
        behind = await village.ask("staking/delegators", validator="v1")
        assert sum(int(item["shares"]) for item in behind) == int(one["shares"])
        (bonded,) = await village.ask("ledger/balance", account="pool:bonded")
        validators = await village.ask("staking/validators")
        assert sum(int(item["tokens"]) for item in validators) == int(bonded["posted"])
        (left,) = await village.ask("staking/redelegations", "ana")
        assert (left["validator"], left["target"], left["tokens"]) == ("v1", "v2", "55")

    run(scene)


def test_an_expired_lock_joins_what_is_not_locked(run: Any) -> None:
    async def scene(village: Economy) -> None:
        locked = await village.issue(Delegate("v2", 400, lock_days=30), "ana")
        lot = locked["command_id"]
        await village.catch_up()
        timer = f"lock:v2:ana:{lot}"
        body = {"validator": "v2", "delegator": "ana", "lot": lot}
        assert village.timers()[timer] == (START + timedelta(days=30), "staking/expire-lock", body)
        village.later(days=30)
        await village.issue(ExpireLock("v2", "ana", lot), "worker")
        await village.issue(AllocateRewards("a", 1400))
        await village.catch_up()
        assert timer not in village.timers()
        (mine,) = await village.ask("staking/positions", "ana")
        assert [(part["lot"], part["shares"], part["multiplier"]) for part in mine["lots"]] == [
            ("0", "400", 10000)
        ]
        assert (mine["tokens"], mine["pending"]) == await exact(village, "v2", "ana")

    run(scene)


def test_a_delegator_sees_only_their_own_positions(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(Delegate("v1", 10), "ana")
        await village.issue(Delegate("v2", 20), "ana")
        await village.catch_up()
        assert list(await positions(village, "ana")) == ["v1", "v2"]
        assert list(await positions(village, "ana", validator="v2")) == ["v2"]
        assert list(await positions(village, "olga", delegator="ana")) == ["v1", "v2"]
        assert await positions(village, "olga") == {}
        assert await village.refused("staking/positions", "ben", delegator="ana") == (404, "not-found")
        assert await village.refused("staking/redelegations", "ben", delegator="ana") == (404, "not-found")
        assert await village.refused("staking/delegators", "ben", validator="v1") == (403, "role-not-allowed")

    run(scene)


def test_the_leaderboard_ranks_delegators_by_bonded_tokens(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(Delegate("v1", 4000), "ana")
        await village.issue(Delegate("v2", 2000), "ana")
        await village.issue(Delegate("v2", 2000), "ben")
        await village.catch_up()
        names = ("rank", "delegator", "tokens", "share", "validators")
        leaders = await village.ask("staking/leaderboard", "ben")
        assert [tuple(item[name] for name in names) for item in leaders] == [
            (1, "ana", "6000", 6000, 2),
            (2, "ben", "2000", 2000, 1),
            (3, "vito", "1000", 1000, 1),
            (4, "vera", "1000", 1000, 1),
        ]
        page = (await village.get("/queries/staking/leaderboard", "ben", limit=2)).json()
        rest = (await village.get("/queries/staking/leaderboard", "ben", limit=2, after=page["next"])).json()
        assert [item["rank"] for item in rest["items"]] == [3, 4]

    run(scene)


# Unbonding


def test_the_unbonding_calendar_is_ordered_by_maturity_and_follows_each_entry(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(Delegate("v1", 5000), "ana")
        await village.issue(Delegate("v2", 5000), "ben")
        first = (await village.issue(BeginUnbonding("v1", 100), "ana"))["command_id"]
        village.later(days=1)
        second = (await village.issue(BeginUnbonding("v2", 200), "ben"))["command_id"]
        third = (await village.issue(BeginUnbonding("v1", 1000), "ana"))["command_id"]
        await village.catch_up()
        calendar = await village.ask("staking/unbonding-calendar")
        assert [(item["entry"], item["matures_at"]) for item in calendar] == [
            (first, "2026-01-22T00:00:00.000000Z"),
            (third, "2026-01-23T00:00:00.000000Z"),
            (second, "2026-01-23T00:00:00.000000Z"),
        ]
        mine = await village.ask("staking/unbonding-calendar", "ana")
        assert [item["entry"] for item in mine] == [first, third]
        assert await village.refused("staking/unbonding-calendar", "ana", delegator="ben") == (
            404,
            "not-found",
        )
        soon = await village.ask("staking/unbonding-calendar", until="2026-01-23T00:00:00Z")
        assert [item["entry"] for item in soon] == [first]
        assert set(village.timers()) == {
            f"unbonding:v1:{first}",
            f"unbonding:v1:{third}",
            f"unbonding:v2:{second}",
        }
        due = village.timers()[f"unbonding:v1:{first}"]
        assert due == (START + WEEKS_3, "staking/complete-unbonding", {"validator": "v1", "entry": first})
        # A double signature before the last two began: 5 % of what those withdrew, 50 of the third.
        await village.issue(Slash("v1", "double-sign", village.now, "e1"))
        await village.issue(CancelUnbonding("v2", second), "ben")
        village.later(days=20)
        await village.issue(CompleteUnbonding("v1", first), "worker")
        await village.catch_up()
        (left,) = await village.ask("staking/unbonding-calendar")
        assert (left["entry"], left["initial"], left["balance"], left["slashed"]) == (
            third,
            "1000",
            "950",
            "50",
        )
        assert set(village.timers()) == {f"unbonding:v1:{third}", "reputation:slash.e1"}
        (done,) = await village.ask("staking/unbonding-calendar", status="completed")
        (back,) = await village.ask("staking/unbonding-calendar", status="cancelled")
        assert (done["entry"], back["entry"], back["balance"]) == (first, second, "0")

    run(scene)


def test_compounding_falls_due_once_a_day_under_a_new_timer(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(Delegate("v2", 1000), "ana")
        await village.issue(SetAutoCompound("v2", True), "ana")
        await village.catch_up()
        ((first, (due_at, command, body)),) = village.timers().items()
        assert (due_at, command) == (START + timedelta(days=1), "staking/claim-rewards")
        assert body == {"validator": "v2", "delegator": "ana"}
        await village.issue(AllocateRewards("a", 300))
        village.later(days=1)
        await village.issue(ClaimRewards(**body), "worker")
        await village.catch_up()
        ((second, (due_at, _, _)),) = village.timers().items()
        assert second != first and due_at == START + timedelta(days=2)
        (mine,) = await village.ask("staking/positions", "ana")
        assert mine["settled"] == mine["compounded"] != "0" and int(mine["tokens"]) > 1000
        assert mine["compounds_at"] == "2026-01-03T00:00:00.000000Z" and mine["auto_compound"]
        await village.issue(SetAutoCompound("v2", False), "ana")
        await village.catch_up()
        assert village.timers() == {}

    run(scene)


# Slashes


def test_the_slash_log_tells_who_lost_what_and_how_the_appeal_went(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(Delegate("v1", 9000), "ana")
        village.later(days=1)
        infraction = village.now
        village.later(days=1)
        await village.issue(BeginUnbonding("v1", 1000), "ana")
        await village.issue(Slash("v1", "double-sign", infraction, "e1"))
        await village.catch_up()
        # Power 10,000 at the infraction: 500 in all; the entry owes 50 of it, the pool the rest.
        (slash,) = await village.ask("staking/slash-log", "ben")
        names = ("evidence_id", "validator", "kind", "power", "tokens", "victims", "status")
        assert tuple(slash[name] for name in names) == ("e1", "v1", "double-sign", "10000", "500", 2, "final")
        victims = await village.ask("staking/slash-victims", "ana", evidence_id="e1")
        assert [(item["kind"], item["delegator"], item["tokens"]) for item in victims] == [
            ("unbonding", "ana", "50"),
            ("bonded", "", "450"),
        ]
        seen = await village.ask("staking/slash-victims", "ben", evidence_id="e1")
        assert [item["kind"] for item in seen] == ["bonded"]
        (one,) = await village.ask("staking/validators", validator="v1")
        assert one["tombstoned"] and one["jailed"] and one["slashed"] == "450"
        assert one["double_sign_slashes"] == 1
        await village.issue(AppealSlash("e1", "it was the network"), "ana")
        await village.catch_up()
        (slash,) = await village.ask("staking/slash-log", "ben", validator="v1")
        assert (slash["status"], slash["appealed_by"]) == ("appealed", "ana")
        await village.issue(DecideAppeal("e1", True, "so it was"))
        await village.catch_up()
        (slash,) = await village.ask("staking/slash-log", "ben")
        assert (slash["status"], slash["returned"], slash["decision"]) == ("returned", "500", "so it was")
        (one,) = await village.ask("staking/validators", validator="v1")
        assert (one["tokens"], one["slashed"]) == ("9000", "0")

    run(scene)


# Rebuilds


def test_tables_are_the_same_however_they_were_folded(run: Any, monkeypatch: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.catch_up()
        locked = (await village.issue(Delegate("v1", 2000, lock_days=30), "ana"))["command_id"]
        await village.catch_up()
        await village.issue(AllocateRewards("a", 5000))
        await village.issue(SetAutoCompound("v1", True), "ana")
        entry = (await village.issue(BeginUnbonding("v1", 500, locked), "ana"))["command_id"]
        village.later(hours=1)
        await village.catch_up()
        await village.issue(Slash("v1", "downtime", START, "e1"))
        await village.issue(AppealSlash("e1", "no"), "ana")
        await village.issue(DecideAppeal("e1", True, "yes"))
        village.later(hours=1)
        await village.issue(Unjail("v1"), "vera")
        await village.issue(Redelegate("v1", "v2", 300, locked), "ana")
        await village.catch_up()
        village.later(days=30)
        await village.issue(ExpireLock("v1", "ana", locked), "worker")
        await village.issue(CompleteUnbonding("v1", entry), "worker")
        await village.issue(ClaimRewards("v1", "ana"), "worker")
        await village.catch_up()
        followed = village.digests()
        assert set(followed) >= {"ledger", "staking", "timers"}
        village.rebuild()
        assert village.digests() == followed
        for limit in (1, 3, 7):
            monkeypatch.setattr(_follower, "read_tail", partial(read_tail, limit=limit))
            village.forget()
            await village.catch_up()
            assert village.digests() == followed, limit

    run(scene)
