"""Harvest's queries against values that were computed by hand, and against the exact state of the streams."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from commands._models import command_from
from commands._routes import ROUTES
from commands.api import load_routes
from domain.devices import (
    Capabilities,
    RecordReputation,
    RegisterDevice,
    RelocateDevice,
    ResumeDevice,
    RetireDevice,
    SuspendDevice,
)
from domain.harvest import (
    Attestation,
    DecideContribution,
    DisputeContribution,
    EnrolHarvester,
    HarvestPolicy,
    PauseHarvestSession,
    RecordContribution,
    ReportDeviceState,
    Result,
    ResumeHarvestSession,
    StartHarvestSession,
    StopHarvestSession,
    TaskResult,
    UpdateHarvestPolicy,
    ValidateContribution,
)
from domain.ledger import MintTokens, OpenWallet
from domain.staking import RegisterValidator
from projections import _follower
from projections._follower import read_tail
from tests.conftest import Database
from tests.scenario import START
from tests.support import Economy, economy

Scene = Callable[[Economy], Awaitable[None]]
PHONE = Capabilities(4_000, 8_000, 64_000, 100_000, 1)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
HOUR_MS = 3_600_000
READY = ReportDeviceState("d1", 1, True, 80, 30, "wifi", False, 10, 10, 600)
OWNERS = {"d1": "ana", "d2": "ben", "d3": "cleo", "d4": "dan"}
REWARD = 22_422_000
"""An hour of a core and a task: 10.1 FOG, 11 % for an unknown reputation, twice for a scarce region."""


@pytest.fixture
def run(database: Database) -> Callable[[Scene], None]:
    """Run a test in a village where everybody of `OWNERS` has a phone in `eu`; Ana's and Ben's are enrolled."""

    def runner(scene: Scene) -> None:
        async def whole() -> None:
            load_routes()
            async with economy(database) as village:
                await village.issue(MintTokens("pool:rewards", 10**12, "budget", "r"))
                for device, owner in OWNERS.items():
                    await village.issue(RegisterDevice(device, "phone", PHONE, "eu"), owner)
                for device in ("d1", "d2"):
                    await village.issue(EnrolHarvester(device, PHONE), OWNERS[device])
                await scene(village)

        asyncio.run(whole())

    return runner


async def report(village: Economy, device: str = "d1", **changed: Any) -> Any:
    seq = int((village.now - START) / timedelta(milliseconds=1)) + 1
    return await village.issue(replace(READY, device=device, seq=seq, **changed), OWNERS[device])


async def start(village: Economy, session: str = "s1", device: str = "d1") -> None:
    await report(village, device)
    await village.issue(StartHarvestSession(session, device), OWNERS[device])


async def contribute(
    village: Economy, seq: int = 1, task: str = "t1", session: str = "s1", by: str = "ana", **metrics: int
) -> None:
    """An hour of one core, with a task."""
    tasks = (TaskResult(task, "aa"),) if task else ()
    metrics = metrics or {"cpu_ms": HOUR_MS}
    await village.issue(RecordContribution(session, seq, tasks=tasks, proof="p", **metrics), by)


async def judge(
    village: Economy, digest: str = "aa", seq: int = 1, task: str = "t1", session: str = "s1"
) -> None:
    results = tuple(Result(task, device, digest) for device in ("d3", "d4"))
    await village.issue(ValidateContribution(session, seq, results), "worker")


async def work(village: Economy) -> list[str]:
    """Let the projections catch up and the worker issue what is due; returns the names of these timers."""
    await village.catch_up()
    due = {timer: (name, body) for timer, (at, name, body) in village.timers().items() if at <= village.now}
    for name, body in due.values():
        await village.issue(command_from(ROUTES[name].command, body), "worker")
    await village.catch_up()
    return list(due)


async def one(village: Economy, query: str, who: str = "olga", **params: Any) -> Any:
    (found,) = await village.ask(f"harvest/{query}", who, **params)
    return found


# Harvesters


def test_a_harvester_shows_what_it_offers_how_it_is_and_its_lifetime_totals(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await start(village)
        village.later(hours=1)
        await contribute(village)
        await judge(village)
        await work(village)
        village.later(minutes=30)
        await village.issue(StopHarvestSession("s1", "going-out"), "ana")
        await village.catch_up()
        mine = await one(village, "harvesters", "ana")
        exact = (await village.state("harvester:d1")).totals
        assert (mine["sessions"], mine["running_ms"], mine["paid"]) == (1, str(90 * 60_000), 1)
        assert (mine["cpu_ms"], mine["tasks"], mine["reward"]) == (str(HOUR_MS), 1, str(REWARD))
        assert (exact.sessions, exact.running_ms, exact.paid) == (1, 90 * 60_000, 1)
        assert (exact.work.cpu_ms, exact.tasks, exact.reward) == (HOUR_MS, 1, REWARD)
        assert (mine["session"], mine["ready_at"]) == ("", "2026-01-01T02:00:00.000000Z")
        assert (mine["policy"]["minimum_battery_percent"], mine["policy_version"]) == (20, 1)
        assert mine["readings"]["battery_percent"] == 80
        assert [item["device"] for item in await village.ask("harvest/harvesters")] == ["d1", "d2"]
        assert await village.refused("harvest/harvesters", "ben", owner="ana") == (404, "not-found")
        assert await village.ask("harvest/harvesters", "ben", device="d1") == []

    run(scene)


async def eligible(village: Economy, **params: Any) -> list[str]:
    await village.catch_up()
    return [item["device"] for item in await village.ask("harvest/eligible-harvesters", "worker", **params)]


async def refusals(village: Economy, device: str = "d1") -> list[str]:
    await village.catch_up()
    found = await one(village, "readiness", device=device)
    assert found["eligible"] is (not found["refusals"])
    return [refused["rule"] for refused in found["refusals"]]


async def stands(village: Economy, *rules: str) -> None:
    """Both queries say the same, and a session starts if and only if they say so."""
    assert await refusals(village) == list(rules)
    assert ("d1" in await eligible(village)) is (not rules)
    outcome = await village.send(StartHarvestSession("probe", "d1"), "ana", dry_run=True)
    assert outcome.status == (409 if rules else 200)
    if rules:
        assert f"/problems/{rules[0]}".encode() in outcome.body


def test_who_is_eligible_and_why_others_are_not(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await stands(
            village,
            "device-state-is-stale",
            "device-is-not-charging",
            "battery-is-too-low",
            "device-is-too-hot",
            "network-is-metered",
            "screen-is-on",
            "cpu-is-busy",
            "memory-is-busy",
            "device-is-not-idle",
        )
        await report(village)
        await stands(village)
        village.later(seconds=1)
        await report(village, temperature_c=None, screen_on=True)
        await stands(village, "device-is-too-hot", "screen-is-on")
        village.later(minutes=1)
        await report(village)
        village.later(minutes=16)
        await village.issue(OpenWallet("wallet:ana"), "ana")
        await stands(village, "device-state-is-stale")
        await report(village)
        nights = HarvestPolicy(from_minute=22 * 60, until_minute=60, utc_offset_minutes=60)
        await village.issue(UpdateHarvestPolicy("d1", nights), "ana")
        await stands(village, "outside-allowed-hours")
        await village.issue(UpdateHarvestPolicy("d1", replace(nights, until_minute=90)), "ana")
        await stands(village)
        found = await one(village, "eligible-harvesters")
        assert (found["open_until"], found["score"]) == ("2026-01-01T00:30:00.000000Z", 5_000)
        await village.issue(StartHarvestSession("s1", "d1"), "ana")
        await stands(village, "harvest-session-is-open")
        await village.issue(StopHarvestSession("s1"), "ana")
        await stands(village, "cooldown-is-not-over")
        await village.issue(UpdateHarvestPolicy("d1", HarvestPolicy()), "ana")
        village.later(minutes=30)
        await report(village)
        await stands(village)
        for n in range(5):
            await village.issue(RecordReputation("d1", "harvest", "failure", f"e{n}"))
        await stands(village, "harvest-reputation-is-too-low")
        (refused,) = (await one(village, "readiness", "ana", device="d1"))["refusals"]
        assert refused == {
            "rule": "harvest-reputation-is-too-low",
            "facts": {"score": 1_428, "limit": 1_500},
        }
        assert await village.refused("harvest/readiness", "ben", device="d1") == (404, "not-found")
        assert await village.refused("harvest/eligible-harvesters", "ana") == (403, "role-not-allowed")

    run(scene)


def test_eligible_harvesters_are_found_by_what_they_have(run: Any) -> None:
    async def scene(village: Economy) -> None:
        village.later(days=1)
        await village.issue(EnrolHarvester("d3", Capabilities(1_000, 500)), "cleo")
        for device in ("d1", "d2", "d3"):
            await report(village, device)
        await report_low(village)
        await village.issue(RelocateDevice("d2", "us"), "ben")
        assert await eligible(village) == ["d1", "d2", "d3", "d4"]
        assert await eligible(village, cpu_millicores=1_001) == ["d1", "d2", "d4"]
        assert await eligible(village, region="us") == ["d2"]
        assert await eligible(village, battery_percent=50) == ["d1", "d2", "d3"]
        assert await eligible(village, min_score=5_001) == []
        await village.issue(RecordReputation("d1", "harvest", "success", "e1"))
        await village.issue(RecordReputation("d2", "storage", "success", "e2"))
        assert await eligible(village, min_score=5_001) == ["d1"]
        await village.issue(SuspendDevice("d1", "odd"))
        assert await eligible(village) == ["d2", "d3", "d4"]
        assert await refusals(village) == ["device-is-suspended"]

    async def report_low(village: Economy) -> None:
        await village.issue(EnrolHarvester("d4", PHONE), "dan")
        await report(village, "d4", battery_percent=21)

    run(scene)


def test_allowed_hours_in_sql_are_those_of_the_domain(run: Any) -> None:
    async def scene(village: Economy) -> None:
        hours = [(0, 1_439, 0), (1_380, 60, 90), (600, 540, -600), (30, 90, 840), (0, 0, 0)]
        for number, (first, last, offset) in enumerate(hours):
            policy = HarvestPolicy(from_minute=first, until_minute=last, utc_offset_minutes=offset)
            await village.issue(RegisterDevice(f"h{number}", "phone", PHONE, "eu"), "ana")
            await village.issue(EnrolHarvester(f"h{number}", PHONE, policy), "ana")
        for _ in range(12):
            village.later(minutes=119, seconds=30)
            for number in range(len(hours)):
                seq = int(village.now.timestamp())
                await village.issue(replace(READY, device=f"h{number}", seq=seq), "ana")
            shown = await eligible(village)
            for number in range(len(hours)):
                assert (f"h{number}" in shown) is (await refusals(village, f"h{number}") == [])

    run(scene)


# Sessions


def test_live_sessions_and_why_others_stopped(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await start(village)
        await start(village, "s2", "d2")
        village.later(hours=1)
        await report(village, temperature_c=60)
        await village.issue(PauseHarvestSession("s2"), "ben")
        await village.catch_up()
        live = await village.ask("harvest/live-sessions")
        assert [(s["session"], s["status"], s["throttled"]) for s in live] == [
            ("s2", "paused", False),
            ("s1", "running", True),
        ]
        (mine,) = await village.ask("harvest/live-sessions", "ana")
        assert (mine["ends_at"], mine["ends_because"]) == ("2026-01-01T08:00:00.000000Z", "time-limit")
        assert mine["silent_at"] == "2026-01-01T04:00:00.000000Z"
        village.later(minutes=30)
        await report(village, "d2")
        await village.issue(ResumeHarvestSession("s2"), "ben")
        await report(village, temperature_c=66)
        await village.catch_up()
        (stopped,) = await village.ask("harvest/sessions", "ana", reason="device-is-too-hot")
        assert (stopped["status"], stopped["running_ms"]) == ("stopped", 90 * 60_000)
        assert [s["session"] for s in await village.ask("harvest/live-sessions")] == ["s2"]
        village.later(hours=3)
        assert "harvest-silence:s2" in await work(village)
        assert await village.ask("harvest/live-sessions") == []
        reasons = await village.ask("harvest/stop-reasons")
        # Ben's ran for an hour before its pause, and three after it.
        assert [(r["reason"], r["sessions"], r["running_ms"]) for r in reasons] == [
            ("device-is-too-hot", 1, str(90 * 60_000)),
            ("no-report", 1, str(4 * HOUR_MS)),
        ]
        assert [r["reason"] for r in await village.ask("harvest/stop-reasons", "ben")] == ["no-report"]
        assert await village.refused("harvest/sessions", "ben", owner="ana") == (404, "not-found")

    run(scene)


def test_a_session_past_its_end_is_not_live_even_before_its_timer_ran(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await start(village)
        village.later(hours=3)
        await village.issue(OpenWallet("wallet:ana"), "ana")
        await village.catch_up()
        assert await village.ask("harvest/live-sessions") == []
        (region,) = await village.ask("harvest/regions", "ben")
        assert region["live_sessions"] == 0

    run(scene)


def test_the_session_of_a_device_that_ceased_to_serve_is_not_live(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await start(village)
        await start(village, "s2", "d2")
        village.later(hours=1)
        await village.issue(SuspendDevice("d1", "odd"))
        await village.issue(ResumeDevice("d1"))
        await village.issue(RetireDevice("d2"), "ben")
        await village.catch_up()
        assert await village.ask("harvest/live-sessions") == []
        (region,) = await village.ask("harvest/regions", "ben")
        assert region["live_sessions"] == 0
        village.later(hours=2)
        await work(village)
        stopped = await village.ask("harvest/sessions")
        assert [(s["session"], s["reason"], s["running_ms"]) for s in stopped] == [
            ("s2", "device-is-retired", HOUR_MS),
            ("s1", "device-is-suspended", HOUR_MS),
        ]

    run(scene)


def test_results_stay_hidden_from_a_harvester_until_they_decide(run: Any) -> None:
    """Whoever sees what others found for his task can let a friend claim it without any work."""

    async def scene(village: Economy) -> None:
        await start(village)
        village.later(hours=1)
        await contribute(village)
        await village.issue(ValidateContribution("s1", 1, (Result("t1", "d3", "aa"),)), "worker")
        await village.catch_up()
        asked = {"session": "s1", "seq": 1}
        assert await village.ask("harvest/contribution-results", "ana", **asked) == []
        assert [r["voter"] for r in await village.ask("harvest/contribution-results", "cleo", **asked)] == [
            "cleo"
        ]
        assert len(await village.ask("harvest/contribution-results", **asked)) == 1
        await judge(village)
        await village.catch_up()
        assert len(await village.ask("harvest/contribution-results", "ana", **asked)) == 2

    run(scene)


def test_timers_follow_a_session(run: Any) -> None:
    async def scene(village: Economy) -> None:
        def timers() -> dict[str, Any]:
            return {name: due_at - START for name, (due_at, *_) in village.timers().items()}

        await start(village)
        await village.catch_up()
        assert timers() == {"harvest-limit:s1": 8 * HOUR, "harvest-silence:s1": 3 * HOUR}
        body = {"session": "s1", "reason": "time-limit"}
        assert village.timers()["harvest-limit:s1"][1:] == ("harvest/stop-harvest-session", body)
        village.later(hours=1)
        await report(village)
        await village.catch_up()
        assert timers()["harvest-silence:s1"] == 4 * HOUR
        village.later(hours=1)
        await contribute(village)
        await village.catch_up()
        assert timers()["harvest-silence:s1"] == 5 * HOUR
        village.later(hours=1)
        await village.issue(PauseHarvestSession("s1"), "ana")
        await village.catch_up()
        assert timers()["harvest-silence:s1"] == 6 * HOUR
        await report(village, temperature_c=66)
        await village.catch_up()
        assert timers() == {}
        await contribute(village, 2, "t2")
        await village.catch_up()
        assert timers() == {}

    run(scene)


# Contributions


def test_a_contribution_is_validated_paid_and_told_to_reputation_by_itself(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await start(village)
        village.later(hours=1)
        await contribute(village)
        await village.catch_up()
        waiting = await one(village, "pending-contributions", "worker")
        assert (waiting["session"], waiting["quorum"], waiting["results"]) == ("s1", 2, [])
        assert waiting["tasks"] == [{"task": "t1", "result_digest": "aa"}]
        await judge(village)
        position = village.sequencer.head.position
        due = await work(village)
        assert due == ["harvest-reward:s1:1", f"reputation:harvest.{position}"]
        assert set(village.timers()) == {"harvest-limit:s1", "harvest-silence:s1"}
        paid = await one(village, "contributions", "ana")
        assert (paid["status"], paid["reason"], paid["reward"]) == ("paid", "quorum", str(REWARD))
        assert (paid["score"], paid["scarcity"], paid["bonus_tasks"], paid["results"]) == (
            5_000,
            20_000,
            1,
            2,
        )
        assert (paid["elapsed_ms"], paid["offered_ms"]) == (HOUR_MS, "0")
        (balance,) = await village.ask("ledger/balance", "ana")
        assert balance["posted"] == str(REWARD)
        # A success: 2 / 3.
        assert (await one(village, "estimate", "ana", device="d1"))["score"] == 6_666
        results = await village.ask("harvest/contribution-results", "ana", session="s1", seq=1)
        assert [(r["task"], r["voter"], r["result_digest"]) for r in results] == [
            ("t1", "cleo", "aa"),
            ("t1", "dan", "aa"),
        ]
        own = await village.ask("harvest/contribution-results", "cleo", session="s1", seq=1)
        assert [r["voter"] for r in own] == ["cleo"]
        assert await village.ask("harvest/contribution-results", "ben", session="s1", seq=1) == []
        assert await village.ask("harvest/pending-contributions", "worker") == []
        assert await village.ask("harvest/contributions", "ben") == []

    run(scene)


def test_results_of_other_contributions_can_be_found_by_task(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await start(village)
        await start(village, "s2", "d2")
        village.later(hours=1)
        await contribute(village)
        await contribute(village, session="s2", by="ben")
        await village.catch_up()
        found = await village.ask("harvest/task-results", "worker", task="t1")
        names = ("owner", "device", "result_digest", "session", "seq", "status")
        assert [tuple(item[name] for name in names) for item in found] == [
            ("ana", "d1", "aa", "s1", 1, "pending"),
            ("ben", "d2", "aa", "s2", 1, "pending"),
        ]

    run(scene)


def test_a_rejection_lowers_the_reputation_and_pays_nothing(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await start(village)
        village.later(hours=1)
        await contribute(village)
        await judge(village, "bb")
        assert [timer.split(":")[0] for timer in await work(village)] == ["reputation"]
        lost = await one(village, "contributions", "ana", status="rejected")
        assert (lost["kind"], lost["reason"], lost["reward"]) == ("failure", "outvoted", "0")
        # A failure: 1 / 3, below 4,000.
        assert (await one(village, "estimate", "ana", device="d1"))["score"] == 3_333
        (mine,) = await village.ask("harvest/harvesters", "ana")
        assert (mine["rejected"], mine["rejected_in_a_row"]) == (1, 1)

    run(scene)


def test_a_disputed_reward_waits_for_the_operator(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await start(village)
        village.later(hours=1)
        await contribute(village)
        await judge(village)
        await village.issue(DisputeContribution("s1", 1, "odd"), "cleo")
        assert [timer.split(":")[0] for timer in await work(village)] == ["reputation"]
        held = await one(village, "contributions", "ana", status="disputed")
        assert (held["status"], held["disputed_by"], held["dispute"]) == ("validated", "cleo", "odd")
        await village.issue(DecideContribution("s1", 1, "valid", "fine"))
        assert await work(village) == ["harvest-reward:s1:1"]
        paid = await one(village, "contributions", "ana")
        assert (paid["status"], paid["reason"], paid["disputed"]) == ("paid", "fine", False)
        assert await work(village) == []

    run(scene)


def test_a_disputed_reward_that_was_a_fraud_is_never_paid(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await start(village)
        village.later(hours=1)
        await contribute(village)
        await judge(village)
        await village.issue(DisputeContribution("s1", 1, "odd"), "cleo")
        await village.issue(DecideContribution("s1", 1, "fraud", "copied"))
        assert [timer.split(":")[0] for timer in await work(village)] == ["reputation", "reputation"]
        # A success and a fraud of weight 3: 2 / 6.
        assert (await one(village, "estimate", "ana", device="d1"))["score"] == 3_333
        session = await one(village, "sessions", "ana")
        assert (session["pending"], session["rejected"], session["paid"], session["reward"]) == (0, 1, 0, "0")

    run(scene)


def test_a_contribution_without_tasks_is_attested(run: Any) -> None:
    async def scene(village: Economy) -> None:
        for number, name in enumerate(("val", "vic"), 1):
            await village.issue(OpenWallet(f"wallet:{name}"), name)
            await village.issue(MintTokens(f"wallet:{name}", 1_000, "start", name))
            await village.issue(RegisterValidator(f"v{number}", 1_000), name)
        await start(village)
        village.later(hours=1)
        await contribute(village, task="")
        attested = (Attestation("v1", True), Attestation("v2", True))
        await village.issue(ValidateContribution("s1", 1, (), attested), "worker")
        await work(village)
        paid = await one(village, "contributions", "ana")
        assert (paid["status"], paid["reward"]) == ("paid", "22200000")

    run(scene)


# Rewards and regions


def test_rewards_are_listed_by_device_and_day(run: Any) -> None:
    async def scene(village: Economy) -> None:
        village.later(hours=22)
        await start(village)
        await start(village, "s2", "d2")
        village.later(hours=1)
        await contribute(village)
        await judge(village)
        await work(village)
        village.later(hours=1)
        await contribute(village, 2, "t2", cpu_ms=1_000, bandwidth_bytes=10**9)
        await judge(village, seq=2, task="t2")
        await contribute(village, 1, "t3", "s2", "ben")
        await judge(village, seq=1, task="t3", session="s2")
        await work(village)
        mine = await village.ask("harvest/rewards", "ana")
        # The first day's success is worth e^(-0.001) on the second: (1 + 0.999) / (2 + 0.999) = 6,665 basis points.
        # 1 / 3,600 core-hours, 1 GB and a task are 15,102,777.7 units, * 1.14663 * 2 = 34,634,596.1.
        second = 34_634_596
        assert [(d["day"], d["contributions"], d["reward"], d["bandwidth_bytes"]) for d in mine] == [
            ("2026-01-02", 1, str(second), str(10**9)),
            ("2026-01-01", 1, str(REWARD), "0"),
        ]
        everybody = await village.ask("harvest/rewards")
        assert [(d["day"], d["device"]) for d in everybody] == [
            ("2026-01-02", "d2"),
            ("2026-01-02", "d1"),
            ("2026-01-01", "d1"),
        ]
        assert len(await village.ask("harvest/rewards", since="2026-01-02")) == 2
        assert await village.refused("harvest/rewards", "ben", owner="ana") == (404, "not-found")
        total = sum(int(d["reward"]) for d in mine)
        assert total == (await village.state("harvester:d1")).totals.reward

    run(scene)


def test_an_estimate_is_what_validation_then_pays(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await start(village)
        village.later(hours=1)
        await contribute(village, gpu_ms=1_234_567, storage_mb_ms=99_999, cpu_ms=1)
        await village.catch_up()
        asked = {"device": "d1", "gpu_ms": 1_234_567, "storage_mb_ms": 99_999, "cpu_ms": 1, "tasks": 1}
        estimate = await one(village, "estimate", "ana", **asked)
        assert (estimate["bonus"], estimate["scarcity"], estimate["gpu_tenths"]) == (1_100, 20_000, 50)
        await judge(village)
        await work(village)
        paid = await one(village, "contributions", "ana")
        assert paid["reward"] == estimate["reward"] != "0"
        assert await village.refused("harvest/estimate", "ben", device="d1") == (404, "not-found")
        assert (
            await village.get("/queries/harvest/estimate", "ana", device="d1", cpu_ms=-1)
        ).status_code == 422

    run(scene)


def test_regions_show_what_was_offered_in_seven_days(run: Any) -> None:
    async def scene(village: Economy) -> None:
        village.later(days=1)
        await village.issue(RelocateDevice("d2", "us"), "ben")
        for day in range(13):
            await start(village, f"s{day}")
            for _ in range(7):
                village.later(hours=1)
                await report(village)
            village.later(hours=1)
            await village.issue(StopHarvestSession(f"s{day}", "time-limit"), "worker")
            village.later(hours=16)
        await village.issue(OpenWallet("wallet:ana"), "ana")
        await village.catch_up()
        eu, us = await village.ask("harvest/regions", "ben")
        # Day 15 has begun: of the sessions of 8 hours those of days 9 to 14 count.
        assert (eu["region"], eu["harvesters"], eu["offered_hours"]) == ("eu", 1, 48)
        assert (eu["scarcity"], us["scarcity"], us["offered_ms"]) == (20_000, 20_000, "0")
        exact = (await village.state("harvest-region:eu")).offered_ms(village.now)
        assert str(exact) == eu["offered_ms"]
        (only,) = await village.ask("harvest/regions", region="us")
        assert only == us

    run(scene)


# Rebuilds


def test_tables_are_the_same_however_they_were_folded(run: Any, monkeypatch: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.catch_up()
        village.later(days=1)
        await start(village)
        await village.catch_up()
        await start(village, "s2", "d2")
        await village.issue(UpdateHarvestPolicy("d1", HarvestPolicy(minimum_battery_percent=30)), "ana")
        village.later(hours=1)
        await report(village, temperature_c=60)
        await contribute(village)
        await contribute(village, session="s2", by="ben")
        await village.issue(PauseHarvestSession("s2"), "ben")
        await judge(village)
        await judge(village, "bb", session="s2")
        await work(village)
        village.later(minutes=10)
        await report(village)
        await report(village, "d2")
        await village.issue(ResumeHarvestSession("s2"), "ben")
        await village.issue(DisputeContribution("s2", 1, "no"), "ben")
        await village.issue(DecideContribution("s2", 1, "valid", "yes"))
        await village.issue(RelocateDevice("d2", "us"), "ben")
        await work(village)
        await village.issue(StopHarvestSession("s1"), "ana")
        await contribute(village, 2, "t2", cpu_ms=1_000)
        await village.issue(SuspendDevice("d1", "odd"))
        village.later(hours=8)
        await work(village)
        await village.issue(RecordReputation("d1", "harvest", "quality", "e1", 9_000))
        await village.catch_up()
        followed = village.digests()
        assert {"harvest", "timers", "devices"} <= set(followed)
        village.rebuild()
        assert village.digests() == followed
        for limit in (1, 3, 7):
            monkeypatch.setattr(_follower, "read_tail", partial(read_tail, limit=limit))
            village.forget()
            await village.catch_up()
            assert village.digests() == followed, limit

    run(scene)
