"""Harvest's commands, rules and traps, as sentences.

Ana's phone `d1` (4 cores, 8 GB, in `eu`) is harvested; Ben, Cleo, Dan, Eve and Finn own `d2` to `d6` and give results.
"""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from commands._models import command_from
from domain import devices, harvest, ledger
from domain._kernel import FOG, NotFound, Rejected
from domain.devices import (
    Capabilities,
    RecordReputation,
    RegisterDevice,
    ResumeDevice,
    RetireDevice,
    SuspendDevice,
    UpdateCapabilities,
)
from domain.harvest import (
    ApproveReward,
    Attestation,
    ContributionCounted,
    ContributionDecisionUpheld,
    ContributionDisputed,
    ContributionRecorded,
    ContributionRejected,
    ContributionValidated,
    DecideContribution,
    DeviceStateReported,
    DisputeContribution,
    EnrolHarvester,
    HarvestBegan,
    HarvestEnded,
    HarvesterEnrolled,
    HarvestPolicy,
    HarvestPolicyUpdated,
    HarvestSessionPaused,
    HarvestSessionResumed,
    HarvestSessionStarted,
    HarvestSessionStopped,
    HarvestSessionThrottled,
    HarvestThrottleLifted,
    HoursOffered,
    P,
    PauseHarvestSession,
    Readings,
    RecordContribution,
    RejectionOverturned,
    ReportDeviceState,
    Result,
    ResultsReceived,
    ResumeHarvestSession,
    RewardPaid,
    StartHarvestSession,
    StopHarvestSession,
    TaskClaimed,
    TaskResult,
    UpdateHarvestPolicy,
    ValidateContribution,
    Work,
    WorkCredited,
    WorkRejected,
    limits,
    obstacles,
    reward_for,
    scarcity_of,
)
from domain.ledger import REWARDS, Credited, Debited, InsufficientFunds, MintTokens, WalletOpened
from domain.staking import Jail, ValidatorNotFound
from ops.problems import Problem
from tests.examples import DAY, HOUR, NOW, Story, fund, validator, zone_created
from tests.scenario import Book, given

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
MILLISECOND = timedelta(milliseconds=1)
HOUR_MS = 3_600_000
BUDGET = 10**15
ANY_TIME = HarvestPolicy()
PHONE = Capabilities(4_000, 8_000, 64_000, 100_000, 1)
READY: dict[str, Any] = {
    "charging": True,
    "battery_percent": 80,
    "temperature_c": 30,
    "network": "wifi",
    "screen_on": False,
    "cpu_percent": 10,
    "ram_percent": 10,
    "idle_seconds": 600,
}

_numbers = itertools.count()


def report(device: str = "d1", /, **changed: Any) -> ReportDeviceState:
    """A report of a device that may be harvested, but for what is changed; each has the next number."""
    return ReportDeviceState(device, next(_numbers), **{**READY, **changed})


def registered(device: str, owner: str, region: str = "eu") -> Any:
    return (RegisterDevice(device, "phone", PHONE, region), owner)


def enrolled(policy: HarvestPolicy = ANY_TIME) -> list[Any]:
    return [registered("d1", "ana"), (EnrolHarvester("d1", PHONE, policy), "ana")]


def ready(policy: HarvestPolicy = ANY_TIME) -> list[Any]:
    return [*enrolled(policy), (report(), "ana")]


def started(policy: HarvestPolicy = ANY_TIME, session: str = "s1") -> list[Any]:
    return [*ready(policy), (StartHarvestSession(session, "d1"), "ana")]


village: list[Any] = [zone_created, fund(REWARDS, BUDGET)]
judges: list[Any] = [
    registered(f"d{n}", owner) for n, owner in enumerate(("ben", "cleo", "dan", "eve", "finn"), 2)
]
digests = {"right": "aa", "wrong": "bb", "odd": "cc"}


class Scene(Story):
    """A story whose steps can be chained."""

    def when(
        self, command: Any, by: str = "operator", role: str | None = None, after: timedelta | None = None
    ) -> Scene:
        super().when(command, by, role, after)
        return self

    def then(self, *expected: Any) -> Scene:
        super().then(*expected)
        return self

    def and_then(self, command: Any, by: str = "operator", role: str | None = None) -> Scene:
        super().and_then(command, by, role)
        return self

    def later(self, span: timedelta) -> Scene:
        super().later(span)
        return self

    def refused_with(self, rule: type[Rejected], **facts: Any) -> Scene:
        super().refused_with(rule, **facts)
        return self


def scene_of(*history: Any) -> Scene:
    return Scene(given(*history).book)


def harvested(*history: Any) -> Scene:
    return scene_of(village, *history)


def work(seq: int = 1, /, session: str = "s1", tasks: Any = (), **metrics: Any) -> RecordContribution:
    """A contribution of a core for as long as its tasks need at least, unless metrics say otherwise."""
    metrics = metrics or {"cpu_ms": HOUR_MS}
    results = tuple(TaskResult(task, digests["right"]) for task in tasks)
    return RecordContribution(session, seq, tasks=results, proof="p", **metrics)


def finding(device: str, found: str = "right", task: str = "t1", seq: int = 1) -> ValidateContribution:
    return ValidateContribution("s1", seq, (Result(task, device, digests[found]),))


def contributed(tasks: tuple[str, ...] = ("t1",), **metrics: Any) -> Scene:
    """An hour of one core, recorded."""
    return harvested(started(), judges).later(HOUR).and_then(work(tasks=tasks, **metrics), "ana")


def validated() -> Scene:
    return (
        contributed().and_then(finding("d2"), "worker", "worker").and_then(finding("d3"), "worker", "worker")
    )


def harvester(book: Book, device: str = "d1") -> harvest.Harvester:
    state = book.read(harvest.harvesters, device)
    assert isinstance(state, harvest.Harvester)
    return state


def session(book: Book, id: str = "s1") -> harvest.Session:
    state = book.read(harvest.sessions, id)
    assert isinstance(state, harvest.Session)
    return state


def contribution(book: Book, id: str = "s1:1") -> harvest.Contribution:
    state = book.read(harvest.contributions, id)
    assert isinstance(state, harvest.Contribution)
    return state


def events(scene: Scene) -> list[type]:
    assert isinstance(scene.outcome, list), f"refused by {scene.outcome!r}"
    return [type(event) for event in scene.outcome]


def made(scene: Scene, kind: type) -> Any:
    """The only event of a kind among those of the last command."""
    assert isinstance(scene.outcome, list), f"refused by {scene.outcome!r}"
    (found,) = (event for event in scene.outcome if isinstance(event, kind))
    return found


def heard_hourly(scene: Scene, hours: int, **changed: Any) -> Scene:
    for _ in range(hours):
        scene.later(HOUR).and_then(report(**changed), "ana")
    return scene


# Enrolling


def test_a_device_is_enrolled_once_by_its_owner_with_at_most_what_it_has() -> None:
    scene = harvested(registered("d1", "ana"))
    scene.when(EnrolHarvester("d1", PHONE), "ben").then(devices.DeviceNotFound)
    for name in ("cpu_millicores", "memory_mb", "storage_mb", "bandwidth_kbps", "gpu"):
        more = replace(PHONE, **{name: getattr(PHONE, name) + 1})
        scene.when(EnrolHarvester("d1", more), "ana").then(harvest.HarvesterExceedsDevice)
    scene.when(EnrolHarvester("d1", PHONE), "ana")
    scene.then(HarvesterEnrolled("ana", "eu", PHONE, HarvestPolicy(), NOW))
    scene.when(EnrolHarvester("d1", PHONE), "ana").then(harvest.HarvesterExists)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("minimum_battery_percent", 19),
        ("minimum_battery_percent", 101),
        ("most_temperature_c", 46),
        ("throttle_above_c", 56),
        ("stop_above_c", 66),
        ("most_cpu_percent", 51),
        ("most_ram_percent", 31),
        ("least_idle_seconds", 299),
        ("cooldown_minutes", 29),
        ("most_session_minutes", 481),
        ("most_session_minutes", 0),
        ("from_minute", 1_440),
        ("until_minute", 1_440),
        ("utc_offset_minutes", 841),
        ("utc_offset_minutes", -721),
    ],
)
def test_a_policy_only_tightens_the_limits(field: str, value: int) -> None:
    loose = replace(HarvestPolicy(), **{field: value})
    scene = harvested(registered("d1", "ana"))
    scene.when(EnrolHarvester("d1", PHONE, loose), "ana").refused_with(
        harvest.PolicyIsTooLoose, field=field, value=value
    )
    harvested(enrolled()).when(UpdateHarvestPolicy("d1", loose), "ana").then(harvest.PolicyIsTooLoose)


def test_every_field_of_a_policy_has_bounds_and_the_default_is_the_loosest() -> None:
    assert set(harvest.BOUNDS) == {field.name for field in fields(HarvestPolicy)}
    harvested(registered("d1", "ana")).when(EnrolHarvester("d1", PHONE), "ana").then(HarvesterEnrolled)


def test_a_policy_is_versioned_and_the_same_again_changes_nothing() -> None:
    tight = HarvestPolicy(minimum_battery_percent=50)
    scene = harvested(enrolled()).when(UpdateHarvestPolicy("d1", tight), "ana")
    scene.then(HarvestPolicyUpdated(2, tight, NOW))
    scene.when(UpdateHarvestPolicy("d1", tight), "ana").then()
    scene.when(UpdateHarvestPolicy("d1", HarvestPolicy()), "ana").then(
        HarvestPolicyUpdated(3, HarvestPolicy(), NOW)
    )
    scene.when(UpdateHarvestPolicy("d1", tight), "ben").then(devices.DeviceNotFound)
    scene.when(UpdateHarvestPolicy("d2", tight), "ana").then(devices.DeviceNotFound)


def test_what_was_not_enrolled_is_no_harvester() -> None:
    scene = harvested(registered("d1", "ana"))
    scene.when(report(), "ana").then(harvest.HarvesterNotFound)
    scene.when(StartHarvestSession("s1", "d1"), "ana").then(harvest.HarvesterNotFound)
    scene.when(UpdateHarvestPolicy("d1", HarvestPolicy()), "ana").then(harvest.HarvesterNotFound)


# Eligibility


def test_a_device_that_is_ready_starts_a_session() -> None:
    scene = harvested(ready()).when(StartHarvestSession("s1", "d1"), "ana")
    scene.then(
        HarvestSessionStarted(
            "d1", "ana", "eu", PHONE, HarvestPolicy(), 1, NOW, NOW + 8 * HOUR, harvest.TIME_LIMIT
        ),
        HarvestBegan("s1", NOW),
    )


BROKEN: list[tuple[str, Any, type[Rejected]]] = [
    ("charging", False, harvest.DeviceIsNotCharging),
    ("battery_percent", 19, harvest.BatteryIsTooLow),
    ("temperature_c", 46, harvest.DeviceIsTooHot),
    ("network", "cellular", harvest.NetworkIsMetered),
    ("screen_on", True, harvest.ScreenIsOn),
    ("cpu_percent", 51, harvest.CpuIsBusy),
    ("ram_percent", 31, harvest.MemoryIsBusy),
    ("idle_seconds", 299, harvest.DeviceIsNotIdle),
]


@pytest.mark.parametrize(("reading", "value", "rule"), BROKEN)
def test_each_reading_has_its_rule_and_unknown_is_not_safe(
    reading: str, value: Any, rule: type[Rejected]
) -> None:
    for said in (value, None):
        scene = harvested(enrolled(), (report(**{reading: said}), "ana"))
        scene.when(StartHarvestSession("s1", "d1"), "ana").refused_with(rule, value=said)


@pytest.mark.parametrize(
    ("reading", "value"),
    [
        ("battery_percent", 20),
        ("temperature_c", 45),
        ("temperature_c", -10),
        ("cpu_percent", 50),
        ("ram_percent", 30),
        ("idle_seconds", 300),
    ],
)
def test_the_limit_itself_is_allowed(reading: str, value: int) -> None:
    scene = harvested(enrolled(), (report(**{reading: value}), "ana"))
    scene.when(StartHarvestSession("s1", "d1"), "ana").then(HarvestSessionStarted, HarvestBegan)


def test_ethernet_is_not_metered() -> None:
    scene = harvested(enrolled(), (report(network="ethernet"), "ana"))
    scene.when(StartHarvestSession("s1", "d1"), "ana").then(HarvestSessionStarted, HarvestBegan)


def test_rules_are_told_in_their_order() -> None:
    at_noon = HarvestPolicy(from_minute=720, until_minute=780)
    rules = [type(rule) for rule in obstacles(Readings(), at_noon, NOW)]
    assert rules == [
        harvest.DeviceIsNotCharging,
        harvest.BatteryIsTooLow,
        harvest.DeviceIsTooHot,
        harvest.NetworkIsMetered,
        harvest.ScreenIsOn,
        harvest.OutsideAllowedHours,
        harvest.CpuIsBusy,
        harvest.MemoryIsBusy,
        harvest.DeviceIsNotIdle,
    ]


def test_a_tighter_policy_holds_with_its_own_limits_in_the_facts() -> None:
    tight = HarvestPolicy(minimum_battery_percent=81, most_temperature_c=29, most_cpu_percent=9)
    scene = harvested(ready(tight)).when(StartHarvestSession("s1", "d1"), "ana")
    scene.refused_with(harvest.BatteryIsTooLow, value=80, limit=81)


def test_a_device_that_reported_nothing_lately_is_unknown() -> None:
    scene = harvested(enrolled()).when(StartHarvestSession("s1", "d1"), "ana")
    scene.refused_with(harvest.DeviceStateIsStale, reported_at=None, limit_minutes=15)
    scene = harvested(ready()).later(15 * MINUTE).when(StartHarvestSession("s1", "d1"), "ana")
    scene.refused_with(harvest.DeviceStateIsStale, reported_at=NOW)
    scene = harvested(ready()).later(15 * MINUTE - SECOND).when(StartHarvestSession("s1", "d1"), "ana")
    scene.then(HarvestSessionStarted, HarvestBegan)


@pytest.mark.parametrize(
    ("hour", "minute", "offset", "allowed"),
    [
        (22, 0, 0, True),
        (23, 59, 0, True),
        (0, 0, 0, True),
        (5, 59, 0, True),
        (6, 0, 0, False),
        (12, 0, 0, False),
        (21, 59, 0, False),
        (20, 0, 120, True),
        (3, 59, 120, True),
        (4, 0, 120, False),
        (6, 30, -60, True),
        (22, 59, -60, False),
        (16, 29, 330, False),
        (16, 30, 330, True),
    ],
)
def test_allowed_hours_are_the_devices_own_and_may_wrap_midnight(
    hour: int, minute: int, offset: int, allowed: bool
) -> None:
    nights = HarvestPolicy(from_minute=22 * 60, until_minute=6 * 60, utc_offset_minutes=offset)
    at = datetime(2026, 3, 1, hour, minute, 59, tzinfo=UTC)
    assert bool(nights.minutes_left(at)) is allowed


def test_allowed_hours_are_what_a_clock_on_the_wall_says() -> None:
    for offset in (-720, -61, 0, 330, 840):
        for first, last in ((0, 0), (60, 120), (1_320, 360), (1_439, 0), (0, 1_439), (700, 699)):
            policy = HarvestPolicy(from_minute=first, until_minute=last, utc_offset_minutes=offset)
            for minute in range(0, 1_440, 7):
                at = NOW + minute * MINUTE
                local = at + offset * MINUTE
                now = local.hour * 60 + local.minute
                inside = first <= now < last if first < last else now >= first or now < last
                assert bool(policy.minutes_left(at)) is (first == last or inside)


def test_outside_its_hours_a_device_does_not_start() -> None:
    nights = HarvestPolicy(from_minute=22 * 60, until_minute=6 * 60, utc_offset_minutes=-180)
    scene = harvested(ready(nights)).when(StartHarvestSession("s1", "d1"), "ana")
    scene.refused_with(
        harvest.OutsideAllowedHours, from_minute=1_320, until_minute=360, utc_offset_minutes=-180
    )
    scene.later(HOUR).and_then(report(), "ana").when(StartHarvestSession("s1", "d1"), "ana")
    scene.then(HarvestSessionStarted, HarvestBegan)


def test_a_device_has_one_open_session() -> None:
    scene = harvested(started()).when(StartHarvestSession("s2", "d1"), "ana")
    scene.refused_with(harvest.HarvestSessionIsOpen, session="s1")
    scene.when(StartHarvestSession("s1", "d1"), "ana").then(harvest.HarvestSessionExists)


def test_a_session_is_named_once_whoever_named_it() -> None:
    scene = harvested(started(), registered("d2", "ben"), (EnrolHarvester("d2", PHONE), "ben"))
    scene.and_then(report("d2"), "ben").when(StartHarvestSession("s1", "d2"), "ben")
    scene.then(harvest.HarvestSessionExists)


def test_after_a_session_a_device_rests() -> None:
    scene = harvested(started()).later(HOUR).and_then(StopHarvestSession("s1"), "ana")
    scene.later(30 * MINUTE - SECOND).and_then(report(), "ana").when(StartHarvestSession("s2", "d1"), "ana")
    scene.refused_with(harvest.CooldownIsNotOver, until=NOW + 90 * MINUTE)
    scene.later(SECOND).when(StartHarvestSession("s2", "d1"), "ana").then(HarvestSessionStarted, HarvestBegan)


def test_only_its_owner_starts_a_device_and_only_if_it_may_serve() -> None:
    scene = harvested(ready())
    scene.when(StartHarvestSession("s1", "d1"), "ben").then(devices.DeviceNotFound)
    scene.and_then(SuspendDevice("d1", "odd")).when(StartHarvestSession("s1", "d1"), "ana")
    scene.then(devices.DeviceIsSuspended)


# Reports


def test_a_report_that_changes_nothing_leaves_no_event() -> None:
    scene = harvested(enrolled()).when(report(), "ana").then(DeviceStateReported)
    scene.later(MINUTE).when(report(battery_percent=60, temperature_c=41, idle_seconds=9_000), "ana").then()
    scene.later(4 * MINUTE).when(report(battery_percent=60), "ana").then(DeviceStateReported)
    assert harvester(scene.book).readings.battery_percent == 60


@pytest.mark.parametrize(("reading", "value", "rule"), BROKEN)
def test_a_report_that_changes_a_verdict_is_kept(reading: str, value: Any, rule: type[Rejected]) -> None:
    scene = harvested(ready()).later(SECOND).when(report(**{reading: value}), "ana").then(DeviceStateReported)
    scene.when(report(**{reading: value}), "ana").then()
    scene.when(report(), "ana").then(DeviceStateReported)


def test_thousands_of_reports_leave_few_events() -> None:
    scene = harvested(enrolled())
    before = len(scene.book.events)
    for n in range(2_000):
        scene.later(5 * SECOND).and_then(report(battery_percent=20 + n % 80), "ana")
    assert len(scene.book.events) - before <= 2_000 * 5 // 300 + 1


def test_a_report_is_newer_than_the_one_before() -> None:
    scene = harvested(enrolled(), (ReportDeviceState("d1", 7), "ana"))
    for seq in (7, 6, 0):
        scene.when(ReportDeviceState("d1", seq), "ana").refused_with(harvest.ReportIsOutdated, last=7)
    scene.when(ReportDeviceState("d1", 8, charging=True), "ana").then(DeviceStateReported)
    scene.when(ReportDeviceState("d1", 9), "ben").then(devices.DeviceNotFound)


def test_percentages_end_at_a_hundred() -> None:
    for reading in ("battery_percent", "cpu_percent", "ram_percent"):
        scene = harvested(enrolled()).when(report(**{reading: 101}), "ana")
        scene.refused_with(harvest.ReadingIsOutOfRange, reading=reading, limit=100)


# What reports do to a session


def test_above_55_degrees_a_session_is_throttled_until_it_is_cooler() -> None:
    scene = harvested(started())
    scene.when(report(temperature_c=55), "ana").then(DeviceStateReported)
    scene.when(report(temperature_c=56), "ana").then(DeviceStateReported, HarvestSessionThrottled(56, NOW))
    assert session(scene.book).throttled
    scene.when(report(temperature_c=60), "ana").then()
    scene.when(report(temperature_c=55), "ana").then(DeviceStateReported, HarvestThrottleLifted(55, NOW))
    assert not session(scene.book).throttled


def test_above_65_degrees_a_session_stops() -> None:
    scene = harvested(started()).later(HOUR)
    scene.when(report(temperature_c=65), "ana").then(DeviceStateReported, HarvestSessionThrottled)
    scene.when(report(temperature_c=66), "ana")
    scene.then(
        DeviceStateReported,
        HarvestSessionStopped("d1", "device-is-too-hot", HOUR_MS, NOW + HOUR),
        HarvestEnded("s1", "device-is-too-hot", HOUR_MS, NOW + 90 * MINUTE, NOW + HOUR),
        HoursOffered("s1", HOUR_MS, NOW + HOUR),
    )


@pytest.mark.parametrize(
    ("reading", "value", "reason"),
    [
        ("charging", False, "device-is-not-charging"),
        ("charging", None, "device-is-not-charging"),
        ("battery_percent", 19, "battery-is-too-low"),
        ("temperature_c", None, "device-is-too-hot"),
        ("network", "cellular", "network-is-metered"),
        ("network", None, "network-is-metered"),
        ("screen_on", True, "screen-is-on"),
    ],
)
def test_a_report_that_is_not_safe_stops_a_session(reading: str, value: Any, reason: str) -> None:
    scene = harvested(started()).later(SECOND).when(report(**{reading: value}), "ana")
    assert made(scene, HarvestSessionStopped).reason == reason
    assert harvester(scene.book).session == ""


def test_a_session_may_make_its_device_busy_and_warm() -> None:
    scene = harvested(started()).later(SECOND)
    scene.when(report(cpu_percent=99, ram_percent=90, idle_seconds=0, temperature_c=50), "ana")
    scene.then(DeviceStateReported)
    assert session(scene.book).status == "running"


def test_a_policys_own_temperatures_hold() -> None:
    cool = HarvestPolicy(most_temperature_c=30, throttle_above_c=35, stop_above_c=40)
    scene = harvested(started(cool)).when(report(temperature_c=36), "ana")
    scene.then(DeviceStateReported, HarvestSessionThrottled)
    scene.later(SECOND).when(report(temperature_c=41), "ana")
    assert made(scene, HarvestSessionStopped).reason == "device-is-too-hot"


def test_a_session_keeps_the_policy_and_the_capabilities_that_it_began_with() -> None:
    scene = harvested(started())
    scene.and_then(UpdateHarvestPolicy("d1", HarvestPolicy(minimum_battery_percent=90)), "ana")
    scene.and_then(UpdateCapabilities("d1", Capabilities(1, 1)), "ana").later(HOUR)
    scene.when(report(battery_percent=25), "ana").then(DeviceStateReported)
    assert session(scene.book).status == "running"
    scene.when(work(cpu_ms=4 * HOUR_MS), "ana").then(ContributionCounted, ContributionRecorded)
    scene.and_then(StopHarvestSession("s1"), "ana").later(HOUR).and_then(report(), "ana")
    scene.when(StartHarvestSession("s2", "d1"), "ana").refused_with(harvest.BatteryIsTooLow, limit=90)
    scene.and_then(report(battery_percent=90), "ana").when(StartHarvestSession("s2", "d1"), "ana")
    begun = made(scene, HarvestSessionStarted)
    assert (begun.policy_version, begun.capabilities) == (2, Capabilities(1, 1))


# Pauses


def test_a_pause_earns_nothing_and_ends_when_it_is_safe() -> None:
    scene = harvested(started()).later(HOUR)
    scene.when(PauseHarvestSession("s1"), "ana").then(HarvestSessionPaused(NOW + HOUR))
    scene.when(PauseHarvestSession("s1"), "ana").then()
    scene.later(HOUR).when(ResumeHarvestSession("s1"), "ana").then(harvest.DeviceStateIsStale)
    scene.when(report(screen_on=True), "ana").then(DeviceStateReported)
    scene.when(ResumeHarvestSession("s1"), "ana").then(harvest.ScreenIsOn)
    scene.and_then(report(), "ana")
    scene.when(ResumeHarvestSession("s1"), "ana").then(HarvestSessionResumed(NOW + 2 * HOUR))
    scene.when(ResumeHarvestSession("s1"), "ana").then()
    scene.later(HOUR).when(work(cpu_ms=8 * HOUR_MS + 1), "ana")
    scene.refused_with(harvest.ContributionExceedsCapability, limit=8 * HOUR_MS, elapsed_ms=2 * HOUR_MS)
    scene.when(work(cpu_ms=8 * HOUR_MS), "ana").then(ContributionCounted, ContributionRecorded)
    scene.when(StopHarvestSession("s1"), "ana")
    assert made(scene, HarvestSessionStopped).running_ms == 2 * HOUR_MS


def test_a_contribution_amid_a_pause_covers_what_ran_before_it() -> None:
    scene = harvested(started()).later(HOUR).and_then(PauseHarvestSession("s1"), "ana").later(HOUR)
    scene.and_then(work(cpu_ms=4 * HOUR_MS), "ana").later(HOUR).and_then(report(), "ana")
    scene.and_then(ResumeHarvestSession("s1"), "ana").later(MINUTE)
    scene.when(work(2, cpu_ms=240_001), "ana")
    scene.refused_with(harvest.ContributionExceedsCapability, limit=240_000, elapsed_ms=60_000)


def test_while_it_is_paused_only_heat_stops_a_session() -> None:
    scene = harvested(started()).and_then(PauseHarvestSession("s1"), "ana").later(SECOND)
    scene.and_then(report(charging=False, screen_on=True, temperature_c=None, network=None), "ana")
    assert session(scene.book).status == "paused"
    scene.when(report(temperature_c=66), "ana")
    assert made(scene, HarvestSessionStopped).reason == "device-is-too-hot"


def test_a_report_that_changes_what_the_sessions_own_policy_says_is_kept() -> None:
    """The policy was loosened since: what it says of a report did not change, and the report was lost."""
    paused = harvested(started(HarvestPolicy(minimum_battery_percent=50)))
    paused.and_then(PauseHarvestSession("s1"), "ana").and_then(UpdateHarvestPolicy("d1", ANY_TIME), "ana")
    paused.later(5 * MINUTE).and_then(report(), "ana").later(MINUTE)
    paused.when(report(battery_percent=30), "ana").then(DeviceStateReported)
    paused.when(ResumeHarvestSession("s1"), "ana").then(harvest.BatteryIsTooLow)
    paused.later(MINUTE).when(report(), "ana").then(DeviceStateReported)
    paused.when(ResumeHarvestSession("s1"), "ana").then(HarvestSessionResumed)


def test_only_its_owner_pauses_and_resumes_and_only_what_is_open() -> None:
    scene = harvested(started())
    for command in (PauseHarvestSession("s1"), ResumeHarvestSession("s1"), StopHarvestSession("s1")):
        scene.when(command, "ben").then(harvest.HarvestSessionNotFound)
        scene.when(replace(command, session="s9"), "ana").then(harvest.HarvestSessionNotFound)
    scene.and_then(StopHarvestSession("s1"), "ana")
    scene.when(PauseHarvestSession("s1"), "ana").then(harvest.HarvestSessionIsOver)
    scene.when(ResumeHarvestSession("s1"), "ana").then(harvest.HarvestSessionIsOver)


# Ends of sessions


def test_a_session_is_stopped_once_for_its_owners_reason() -> None:
    scene = harvested(started()).when(StopHarvestSession("s1", "going-out"), "ana")
    scene.then(
        HarvestSessionStopped("d1", "going-out", 0, NOW),
        HarvestEnded("s1", "going-out", 0, NOW + 30 * MINUTE, NOW),
    )
    scene.when(StopHarvestSession("s1", "going-out"), "ana").then()
    scene.when(StopHarvestSession("s1", "time-limit"), "worker", "worker").then()


def test_an_operator_stops_any_session() -> None:
    scene = harvested(started()).when(StopHarvestSession("s1", "recall"))
    assert made(scene, HarvestSessionStopped).reason == "recall"


def test_the_timer_stops_a_session_after_eight_hours_and_not_before() -> None:
    scene = heard_hourly(harvested(started()), 7).later(HOUR - MILLISECOND)
    for who in (("worker", "worker"), ("operator", "operator"), ("ana", "participant")):
        scene.when(StopHarvestSession("s1", "time-limit"), *who)
        scene.refused_with(harvest.HarvestSessionIsNotOver, until=NOW + 8 * HOUR)
    scene.later(MILLISECOND).when(StopHarvestSession("s1", "time-limit"), "worker", "worker")
    stopped = made(scene, HarvestSessionStopped)
    assert (stopped.reason, stopped.at, stopped.running_ms) == ("time-limit", NOW + 8 * HOUR, 8 * HOUR_MS)
    scene.when(StopHarvestSession("s1", "time-limit"), "worker", "worker").then()


def test_a_late_timer_stops_a_session_as_of_its_limit() -> None:
    scene = heard_hourly(harvested(started()), 7).later(3 * HOUR)
    scene.when(StopHarvestSession("s1", "time-limit"), "worker", "worker")
    stopped = made(scene, HarvestSessionStopped)
    assert (stopped.at, stopped.running_ms) == (NOW + 8 * HOUR, 8 * HOUR_MS)


def test_a_policy_may_make_sessions_shorter() -> None:
    scene = harvested(started(HarvestPolicy(most_session_minutes=90))).later(90 * MINUTE)
    scene.when(PauseHarvestSession("s1"), "ana").refused_with(
        harvest.HarvestSessionIsOver, reason="time-limit"
    )


def test_a_session_ends_with_its_devices_allowed_hours() -> None:
    nights = HarvestPolicy(from_minute=22 * 60, until_minute=2 * 60)
    scene = harvested(enrolled(nights)).later(30 * SECOND).and_then(report(), "ana")
    scene.when(StartHarvestSession("s1", "d1"), "ana")
    begun = made(scene, HarvestSessionStarted)
    assert (begun.ends_at, begun.ends_because) == (NOW + 2 * HOUR, harvest.HOURS_ENDED)
    scene.later(2 * HOUR).when(report(), "ana")
    stopped = made(scene, HarvestSessionStopped)
    assert (stopped.reason, stopped.at) == (harvest.HOURS_ENDED, NOW + 2 * HOUR)


def test_a_device_that_says_nothing_for_three_hours_is_stopped_by_a_timer() -> None:
    scene = heard_hourly(harvested(started()), 1).later(3 * HOUR - SECOND)
    scene.when(StopHarvestSession("s1", "no-report"), "worker", "worker")
    scene.refused_with(harvest.HarvestSessionIsNotOver, until=NOW + 4 * HOUR)
    scene.later(SECOND).when(StopHarvestSession("s1", "no-report"), "worker", "worker")
    stopped = made(scene, HarvestSessionStopped)
    assert (stopped.reason, stopped.at) == ("no-report", NOW + 4 * HOUR)


def test_a_contribution_is_a_sign_of_life() -> None:
    scene = harvested(started()).later(2 * HOUR).and_then(work(), "ana").later(2 * HOUR)
    scene.when(StopHarvestSession("s1", "no-report"), "worker", "worker")
    scene.refused_with(harvest.HarvestSessionIsNotOver, until=NOW + 5 * HOUR)


def test_a_report_after_a_long_silence_ends_the_session_as_of_then() -> None:
    scene = harvested(started()).later(4 * HOUR).when(report(), "ana")
    stopped = made(scene, HarvestSessionStopped)
    assert (stopped.reason, stopped.at) == ("no-report", NOW + 3 * HOUR)


def test_a_suspension_ends_a_session_as_of_then_whoever_notices_it() -> None:
    """The time in which a device might not serve was paid once it was resumed, and offered in its region."""
    suspended = harvested(started(), judges).later(HOUR).and_then(SuspendDevice("d1", "odd"))
    ended = HarvestSessionStopped("d1", "device-is-suspended", HOUR_MS, NOW + HOUR)
    resumed = suspended.later(HOUR).and_then(ResumeDevice("d1"))
    others = [scene_of() for _ in range(3)]
    for other in others:
        other.book.states, other.book.now = dict(resumed.book.states), resumed.book.now
    stopping = (ended, HarvestEnded, HoursOffered("s1", HOUR_MS, NOW + HOUR))
    resumed.when(work(cpu_ms=4 * HOUR_MS + 1), "ana").then(harvest.ContributionExceedsCapability)
    resumed.when(work(cpu_ms=4 * HOUR_MS), "ana")
    resumed.then(*stopping, ContributionCounted(1, NOW + HOUR), ContributionRecorded)
    others[0].when(report(), "ana").then(DeviceStateReported, *stopping)
    others[1].when(StopHarvestSession("s1", harvest.NO_REPORT), "worker", "worker").then(*stopping)
    others[2].when(PauseHarvestSession("s1"), "ana").then(harvest.HarvestSessionIsOver)
    others[0].when(StartHarvestSession("s2", "d1"), "ana").then(HarvestSessionStarted, HarvestBegan)
    others[0].later(HOUR).when(work(1, session="s2"), "ana").then(ContributionCounted, ContributionRecorded)


def test_a_second_suspension_does_not_make_a_session_longer() -> None:
    """Its owner suspends a device himself as often as he likes; the operator's suspension was to be paid so."""
    scene = harvested(started(), judges).later(HOUR).and_then(report(), "ana").later(MINUTE)
    scene.and_then(SuspendDevice("d1", "odd")).later(HOUR).and_then(ResumeDevice("d1"))
    scene.and_then(SuspendDevice("d1", "mine"), "ana").and_then(ResumeDevice("d1"), "ana")
    scene.when(work(cpu_ms=4 * HOUR_MS + 1), "ana").then(harvest.ContributionExceedsCapability)
    scene.when(work(cpu_ms=4 * HOUR_MS), "ana")
    assert made(scene, HarvestSessionStopped).at == NOW + HOUR


def test_a_retired_device_serves_no_session() -> None:
    scene = harvested(started()).later(HOUR).and_then(RetireDevice("d1"), "ana").later(HOUR)
    scene.when(StopHarvestSession("s1", harvest.NO_REPORT), "worker", "worker").then(
        HarvestSessionStopped("d1", "device-is-retired", HOUR_MS, NOW + HOUR), HarvestEnded, HoursOffered
    )


def test_a_suspension_before_a_session_does_not_end_it() -> None:
    history = [(SuspendDevice("d1", "odd"), "ana"), (ResumeDevice("d1"), "ana")]
    scene = harvested(enrolled(), history).later(MINUTE).and_then(report(), "ana")
    scene.and_then(StartHarvestSession("s1", "d1"), "ana").later(HOUR)
    scene.when(work(), "ana").then(ContributionCounted, ContributionRecorded)


def test_a_session_past_its_limit_does_not_keep_a_device_from_the_next() -> None:
    """Whether or not a timer has run; the cooldown counts from the limit."""
    scene = heard_hourly(harvested(started()), 7).later(HOUR + 29 * MINUTE).and_then(report(), "ana")
    scene.when(StartHarvestSession("s2", "d1"), "ana").then(harvest.CooldownIsNotOver)
    scene = heard_hourly(harvested(started()), 7).later(90 * MINUTE)
    scene.and_then(report(), "ana").when(StartHarvestSession("s2", "d1"), "ana")
    scene.then(HarvestSessionStarted, HarvestBegan)
    scene = harvested(started()).later(2 * HOUR + 58 * MINUTE).and_then(report(), "ana")
    scene = harvested(started(HarvestPolicy(most_session_minutes=1))).later(12 * MINUTE)
    scene.when(StartHarvestSession("s2", "d1"), "ana").then(harvest.CooldownIsNotOver)


# Contributions


def test_a_contribution_is_recorded_with_what_it_covers() -> None:
    scene = harvested(started()).later(HOUR).when(work(tasks=("t1", "t2")), "ana")
    results = (TaskResult("t1", "aa"), TaskResult("t2", "aa"))
    scene.then(
        TaskClaimed("s1", 1),
        TaskClaimed("s1", 1),
        ContributionCounted(1, NOW + HOUR),
        ContributionRecorded("d1", "ana", "eu", Work(HOUR_MS), results, "p", HOUR_MS, NOW + HOUR),
    )


CAPS: dict[str, Any] = {
    "cpu_ms": 4 * HOUR_MS,
    "memory_mb_ms": 8_000 * HOUR_MS,
    "bandwidth_bytes": 45 * 10**9,
    "storage_mb_ms": 64_000 * HOUR_MS,
    "gpu_ms": HOUR_MS,
}
"""What 4 cores, 8,000 MB, 64,000 MB, 100 Mbit/s and a GPU give in an hour."""


@pytest.mark.parametrize("metric", CAPS)
def test_a_contribution_is_at_most_capability_times_time(metric: str) -> None:
    scene = harvested(started()).later(HOUR).when(work(**{metric: CAPS[metric] + 1}), "ana")
    scene.refused_with(
        harvest.ContributionExceedsCapability,
        metric=metric,
        value=CAPS[metric] + 1,
        limit=CAPS[metric],
        elapsed_ms=HOUR_MS,
    )
    scene.when(work(1, tasks=(), **CAPS), "ana").then(ContributionCounted, ContributionRecorded)
    scene.when(work(2, **{metric: 1}), "ana").refused_with(harvest.ContributionExceedsCapability, limit=0)


def test_what_a_device_gives_is_rounded_down() -> None:
    assert limits(Capabilities(1_001, 1, 1, 1, 1), 999) == Work(0, 0, 0, 0, 0)
    assert limits(Capabilities(1_001, 1, 1, 1, 1), 1_000) == Work(1, 1, 0, 1, 1)
    assert limits(Capabilities(1_001, 1, 1, 1, 1), 8_000) == Work(8, 8, 1, 8, 8)


def test_a_session_of_200_hours_pays_for_8() -> None:
    """The trap: nobody stopped it, and 200 hours were paid 40,000."""
    scene = heard_hourly(harvested(started()), 7)
    scene.later(193 * HOUR).when(work(cpu_ms=4 * 200 * HOUR_MS), "ana").then(harvest.ContributionIsTooLate)
    scene = heard_hourly(harvested(started()), 7).later(12 * HOUR)
    scene.when(work(cpu_ms=4 * 19 * HOUR_MS), "ana")
    scene.refused_with(harvest.ContributionExceedsCapability, limit=4 * 8 * HOUR_MS, elapsed_ms=8 * HOUR_MS)
    scene.when(work(cpu_ms=4 * 8 * HOUR_MS), "ana")
    assert events(scene) == [
        HarvestSessionStopped,
        HarvestEnded,
        HoursOffered,
        ContributionCounted,
        ContributionRecorded,
    ]


def test_two_hours_without_a_report_are_paid_in_full() -> None:
    """The trap: whoever reported nothing for two hours was paid nothing for them."""
    scene = harvested(started(), judges).later(2 * HOUR)
    scene.and_then(work(tasks=("t1",), cpu_ms=2 * HOUR_MS), "ana")
    scene.and_then(finding("d2"), "worker", "worker").when(finding("d3"), "worker", "worker")
    # 2 core-hours at 10 FOG and a task of 0.1 FOG; 11 % for an unknown reputation, twice for a scarce region.
    assert made(scene, ContributionValidated).reward == 20_100_000 * 111 * 2 // 100
    scene.and_then(ApproveReward("s1", 1), "worker", "worker")
    assert scene.posted("wallet:ana") == 44_622_000


def test_a_number_is_used_once_and_numbers_grow() -> None:
    scene = harvested(started()).later(HOUR).and_then(work(5, cpu_ms=1), "ana").later(HOUR)
    for seq in (5, 4, 0):
        scene.when(work(seq, cpu_ms=1), "ana").refused_with(harvest.ContributionSequenceMustIncrease, last=5)
    scene.when(work(6, cpu_ms=1), "ana").then(ContributionCounted, ContributionRecorded)
    harvested(started()).later(HOUR).when(work(0), "ana").then(harvest.ContributionSequenceMustIncrease)


def test_a_contribution_contributes_something() -> None:
    scene = harvested(started()).later(HOUR)
    scene.when(RecordContribution("s1", 1, tasks=(TaskResult("t1", "aa"),)), "ana").then(
        harvest.ContributionIsEmpty
    )


@pytest.mark.parametrize("metric", CAPS)
@pytest.mark.parametrize("value", [-1, True, 1.5, "5", 2**53, None])
def test_metrics_are_whole_numbers_from_zero_on(metric: str, value: Any) -> None:
    """The trap: negative metrics."""
    with pytest.raises(Problem) as refused:
        command_from(RecordContribution, {"session": "s1", "seq": 1, metric: value})
    assert (refused.value.status, refused.value.body["facts"]["errors"][0]["field"]) == (422, metric)
    with pytest.raises(Problem):
        command_from(RecordContribution, {"session": "s1", "seq": -1, metric: 1})


def test_a_report_may_be_below_zero_degrees_and_leave_things_out() -> None:
    body = {"device": "D1", "seq": 3, "temperature_c": -5, "network": "WiFi"}
    assert command_from(ReportDeviceState, body) == ReportDeviceState(
        "d1", 3, temperature_c=-5, network="wifi"
    )
    assert command_from(ReportDeviceState, body | {"charging": None}).charging is None
    with pytest.raises(Problem):
        command_from(ReportDeviceState, body | {"battery_percent": -1})


def test_the_last_work_of_a_session_is_recorded_within_a_day_of_its_end() -> None:
    scene = harvested(started()).later(HOUR).and_then(report(charging=False), "ana").later(DAY + SECOND)
    scene.when(work(), "ana").refused_with(harvest.ContributionIsTooLate, until=NOW + HOUR + DAY)
    scene = harvested(started()).later(HOUR).and_then(report(charging=False), "ana").later(DAY)
    scene.when(work(cpu_ms=4 * HOUR_MS + 1), "ana").refused_with(
        harvest.ContributionExceedsCapability, limit=4 * HOUR_MS
    )
    scene.when(work(cpu_ms=4 * HOUR_MS), "ana").then(ContributionCounted, ContributionRecorded)
    scene.when(work(2, cpu_ms=1), "ana").refused_with(harvest.ContributionExceedsCapability, limit=0)


def test_only_its_owner_contributes_for_a_session() -> None:
    scene = harvested(started()).later(HOUR)
    scene.when(work(), "ben").then(harvest.HarvestSessionNotFound)
    scene.when(work(session="s9"), "ana").then(harvest.HarvestSessionNotFound)
    scene.and_then(SuspendDevice("d1", "odd")).when(work(), "ana").then(devices.DeviceIsSuspended)


def test_a_contribution_has_few_tasks_each_once() -> None:
    scene = harvested(started()).later(HOUR)
    many = tuple(f"t{n}" for n in range(P.most_tasks + 1))
    scene.when(work(tasks=many), "ana").refused_with(harvest.TooManyTasksInContribution, limit=20)
    scene.when(work(tasks=("t1", "t2", "t1")), "ana").then(harvest.TaskIsListedTwice)


def test_a_tasks_result_is_given_once_an_owner() -> None:
    scene = harvested(started()).later(HOUR).and_then(work(tasks=("t1",)), "ana").later(HOUR)
    scene.when(work(2, tasks=("t2", "t1")), "ana").refused_with(
        harvest.TaskWasClaimed, task="t1", session="s1"
    )
    scene.when(work(2, tasks=("t2",)), "ana").then(TaskClaimed, ContributionCounted, ContributionRecorded)


# Validation


def test_two_different_owners_who_agree_validate_a_contribution() -> None:
    scene = contributed().when(finding("d2"), "worker", "worker").then(ResultsReceived)
    assert contribution(scene.book).status == "pending"
    scene.when(finding("d3"), "worker", "worker").then(ResultsReceived, ContributionValidated)


def test_one_command_may_bring_all_results() -> None:
    scene = contributed(("t1", "t2"))
    results = tuple(Result(task, device, "aa") for task in ("t1", "t2") for device in ("d2", "d3"))
    scene.when(ValidateContribution("s1", 1, results[:3]), "worker", "worker").then(ResultsReceived)
    scene.when(ValidateContribution("s1", 1, results), "worker", "worker")
    assert len(made(scene, ResultsReceived).votes) == 1
    assert made(scene, ContributionValidated).tasks == 2


def test_the_same_owner_counts_once() -> None:
    scene = contributed().and_then(registered("d7", "ben")[0], "ben")
    scene.and_then(finding("d2"), "worker", "worker")
    scene.when(finding("d2"), "worker", "worker").then()
    scene.when(finding("d7"), "worker", "worker").then()
    scene.when(finding("d7", "wrong"), "worker", "worker").then()
    assert contribution(scene.book).status == "pending"


def test_the_harvesters_own_owner_never_counts() -> None:
    scene = (
        contributed().and_then(registered("d7", "ana")[0], "ana").and_then(finding("d2"), "worker", "worker")
    )
    scene.when(finding("d7"), "worker", "worker").then()
    scene.when(finding("d1"), "worker", "worker").then()


def test_two_of_three_owners_decide() -> None:
    scene = contributed().and_then(finding("d2"), "worker", "worker")
    scene.and_then(finding("d3", "wrong"), "worker", "worker")
    assert contribution(scene.book).status == "pending"
    scene.when(finding("d4"), "worker", "worker").then(ResultsReceived, ContributionValidated)


def test_a_result_beside_the_canonical_one_rejects_a_contribution() -> None:
    scene = contributed().and_then(finding("d2", "wrong"), "worker", "worker")
    scene.when(finding("d3", "wrong"), "worker", "worker")
    scene.then(
        ResultsReceived,
        ContributionRejected("d1", "ana", "failure", "outvoted", NOW + HOUR),
        WorkRejected("s1", 1, NOW + HOUR),
    )
    assert harvester(scene.book).totals.rejected == 1
    scene.when(ApproveReward("s1", 1), "worker", "worker").then(harvest.ContributionIsNotValidated)


def test_one_wrong_result_of_many_rejects_the_whole() -> None:
    scene = contributed(("t1", "t2"))
    for device in ("d2", "d3"):
        scene.and_then(finding(device), "worker", "worker")
    scene.and_then(finding("d2", "wrong", "t2"), "worker", "worker")
    scene.when(finding("d3", "wrong", "t2"), "worker", "worker")
    assert made(scene, ContributionRejected).reason == "outvoted"


def test_contradicting_results_need_more_than_half() -> None:
    """Two of four are no majority: three have to agree then."""
    scene = contributed()
    for device, found in (("d2", "right"), ("d3", "wrong"), ("d4", "odd"), ("d5", "right")):
        scene.and_then(finding(device, found), "worker", "worker")
        assert contribution(scene.book).status == "pending"
    scene.when(finding("d6"), "worker", "worker").then(ResultsReceived, ContributionValidated)


def test_seven_results_without_a_majority_reject_a_contribution_and_blame_nobody() -> None:
    owners = ("gil", "hal")
    scene = harvested(started(), judges, [registered(f"d{n}", owner) for n, owner in enumerate(owners, 7)])
    scene.later(HOUR).and_then(work(tasks=("t1",)), "ana")
    for n in range(2, 8):
        digest = f"x{n % 3}"
        scene.and_then(ValidateContribution("s1", 1, (Result("t1", f"d{n}", digest),)), "worker", "worker")
    scene.when(finding("d8"), "worker", "worker")
    scene.then(ResultsReceived, ContributionRejected("d1", "ana", "", "no-quorum", NOW + HOUR))
    assert harvester(scene.book).rejected_in_a_row == 0


def test_the_quorum_is_raised_for_a_poorly_reputed_device() -> None:
    # A failure: 1 / (1 + 2) = 3,333 basis points.
    scene = contributed().and_then(RecordReputation("d1", "harvest", "failure", "e1"))
    scene.and_then(finding("d2"), "worker", "worker")
    scene.when(finding("d3"), "worker", "worker").then(ResultsReceived)
    scene.when(finding("d4"), "worker", "worker").then(ResultsReceived, ContributionValidated)


def test_sub_second_work_units_raise_the_quorum_and_earn_no_bonus() -> None:
    """The trap: work units of less than a second farmed credit."""
    tasks = ("t1", "t2", "t3")
    scene = contributed(tasks, cpu_ms=1_999, gpu_ms=500)
    for device in ("d2", "d3"):
        results = tuple(Result(task, device, "aa") for task in tasks)
        scene.when(ValidateContribution("s1", 1, results), "worker", "worker").then(ResultsReceived)
    results = tuple(Result(task, "d4", "aa") for task in tasks)
    scene.when(ValidateContribution("s1", 1, results), "worker", "worker")
    found = made(scene, ContributionValidated)
    # 1,999 ms of a core are 5,552.7 units, 500 ms of a GPU 6,944.4; two tasks 200,000: 212,497.2 * 1.11 * 2.
    assert (found.tasks, found.reward) == (2, 471_743)


def test_results_after_the_decision_change_nothing() -> None:
    scene = validated()
    scene.when(finding("d4", "wrong"), "worker", "worker").then()
    scene.when(finding("d4", "wrong"), "worker", "worker").then()
    assert contribution(scene.book).status == "validated"


def test_results_are_of_devices_that_serve_and_for_the_contributions_tasks() -> None:
    scene = contributed()
    scene.when(finding("d2", task="t9"), "worker", "worker").then(harvest.TaskIsNotInContribution)
    scene.when(finding("d99"), "worker", "worker").then(devices.DeviceNotFound)
    scene.and_then(SuspendDevice("d2", "odd")).when(finding("d2"), "worker", "worker").then(
        devices.DeviceIsSuspended
    )
    scene.when(finding("d3", seq=9), "worker", "worker").then(harvest.ContributionNotFound)
    attested = ValidateContribution("s1", 1, (), (Attestation("v1", True),))
    scene.when(attested, "worker", "worker").then(harvest.ContributionNeedsResults)


def attested() -> Scene:
    people = [validator(f"v{n}", owner) for n, owner in enumerate(("val", "vic", "vik"), 1)]
    own = [validator("v9", "ana")]
    return harvested(people, own, started(), judges).later(HOUR).and_then(work(), "ana")


def attest(name: str, confirms: bool = True) -> ValidateContribution:
    return ValidateContribution("s1", 1, (), (Attestation(name, confirms),))


def test_without_tasks_validators_of_different_operators_attest_a_contribution() -> None:
    scene = attested().and_then(attest("v1"), "worker", "worker")
    scene.when(attest("v1"), "worker", "worker").then()
    scene.when(attest("v9"), "worker", "worker").then()
    scene.when(attest("v2"), "worker", "worker").then(ResultsReceived, ContributionValidated)
    # An hour of a core at 10 FOG, 11 % for an unknown reputation, twice for a scarce region.
    assert made(scene, ContributionValidated).reward == 22_200_000


def test_validators_who_deny_a_contribution_reject_it() -> None:
    scene = (
        attested()
        .and_then(attest("v1", False), "worker", "worker")
        .and_then(attest("v2"), "worker", "worker")
    )
    scene.when(attest("v3", False), "worker", "worker")
    scene.then(ResultsReceived, ContributionRejected, WorkRejected)


def test_attestations_are_of_validators_that_are_not_jailed() -> None:
    scene = attested().and_then(Jail("v1", "odd"))
    scene.when(attest("v1"), "worker", "worker").then(harvest.JailedValidatorsAttestNothing)
    scene.when(attest("v8"), "worker", "worker").then(ValidatorNotFound)


# Rewards


REWARDS_BY_HAND = [
    # 1 core-hour = 1 point = 10 FOG.
    (Work(cpu_ms=HOUR_MS), 0, 0, 10_000, 10_000_000),
    # 1 GB-hour of memory = 0.5 points.
    (Work(memory_mb_ms=1_000 * HOUR_MS), 0, 0, 10_000, 5_000_000),
    # 1 GB moved = 1.5 points.
    (Work(bandwidth_bytes=10**9), 0, 0, 10_000, 15_000_000),
    # 1 GB-hour stored = 0.3 points.
    (Work(storage_mb_ms=1_000 * HOUR_MS), 0, 0, 10_000, 3_000_000),
    # 1 GPU-hour = 5 points.
    (Work(gpu_ms=HOUR_MS), 0, 0, 10_000, 50_000_000),
    # 1 task = 0.1 FOG.
    (Work(), 1, 0, 10_000, 100_000),
    # 10 + 5 + 15 + 3 + 50 FOG and 2 tasks: 83.2 FOG.
    (Work(HOUR_MS, 1_000 * HOUR_MS, 10**9, 1_000 * HOUR_MS, HOUR_MS), 2, 0, 10_000, 83_200_000),
    # The same at a reputation of 10,000, 5,000 and 1: 22 %, 11 % and 0.0022 %.
    (Work(HOUR_MS, 1_000 * HOUR_MS, 10**9, 1_000 * HOUR_MS, HOUR_MS), 2, 10_000, 10_000, 101_504_000),
    (Work(HOUR_MS, 1_000 * HOUR_MS, 10**9, 1_000 * HOUR_MS, HOUR_MS), 2, 5_000, 10_000, 92_352_000),
    (Work(HOUR_MS, 1_000 * HOUR_MS, 10**9, 1_000 * HOUR_MS, HOUR_MS), 2, 1, 10_000, 83_201_830),
    # Scarce regions: 1.5 and 2 times.
    (Work(cpu_ms=HOUR_MS), 1, 5_000, 15_000, 16_816_500),
    (Work(cpu_ms=HOUR_MS), 1, 5_000, 20_000, 22_422_000),
    # A millisecond of a core is 2.77 units; nothing is rounded before the end: 2.77 * 1.11 * 2 = 6.16.
    (Work(cpu_ms=1), 0, 0, 10_000, 2),
    (Work(cpu_ms=1), 0, 5_000, 20_000, 6),
    # 2.77 + 0.5 units, of 360 MB-ms of memory: 3.27.
    (Work(cpu_ms=1, memory_mb_ms=360), 0, 0, 10_000, 3),
    (Work(bandwidth_bytes=66), 0, 0, 10_000, 0),
    (Work(bandwidth_bytes=67), 0, 0, 10_000, 1),
]


@pytest.mark.parametrize(("given", "tasks", "reputation", "scarcity", "earned"), REWARDS_BY_HAND)
def test_rewards_by_hand(given: Work, tasks: int, reputation: int, scarcity: int, earned: int) -> None:
    assert reward_for(given, tasks, reputation, scarcity, 50) == earned


def test_a_gpu_hour_earns_what_the_parameter_says() -> None:
    assert reward_for(Work(gpu_ms=HOUR_MS), 0, 0, 10_000, 0) == 0
    assert reward_for(Work(gpu_ms=HOUR_MS), 0, 0, 10_000, 25) == 25_000_000


def test_a_region_is_scarce_below_a_thousand_and_very_scarce_below_a_hundred_offered_hours() -> None:
    assert scarcity_of(0) == scarcity_of(100 * HOUR_MS - 1) == 20_000
    assert scarcity_of(100 * HOUR_MS) == scarcity_of(1_000 * HOUR_MS - 1) == 15_000
    assert scarcity_of(1_000 * HOUR_MS) == 10_000


def offered(hours: int, at: datetime, region: str = "eu") -> Any:
    return (harvest.regions(region), HoursOffered("x", hours * HOUR_MS, at))


@pytest.mark.parametrize(
    ("history", "factor"),
    [
        ([offered(999, NOW)], 15_000),
        ([offered(1_000, NOW)], 10_000),
        ([offered(60, NOW - 6 * DAY), offered(40, NOW)], 15_000),
        ([offered(60, NOW - 7 * DAY), offered(40, NOW)], 20_000),
        ([offered(9_999, NOW, "us")], 20_000),
    ],
)
def test_scarcity_is_of_the_last_seven_days_in_the_devices_region(history: Any, factor: int) -> None:
    scene = harvested(history, started(), judges).later(HOUR).and_then(work(tasks=("t1",)), "ana")
    scene.and_then(finding("d2"), "worker", "worker").when(finding("d3"), "worker", "worker")
    assert made(scene, ContributionValidated).scarcity == factor


def test_a_region_remembers_few_days() -> None:
    scene = harvested()
    for day in range(400):
        scene.book.apply(*offered(1, NOW + day * DAY))
    assert len(scene.book.read(harvest.regions, "eu").days) <= P.offer_days + 1


def test_running_time_is_offered_once_when_a_session_stops() -> None:
    scene = harvested(started()).later(HOUR).and_then(work(), "ana").later(HOUR)
    scene.and_then(StopHarvestSession("s1"), "ana").and_then(work(2), "ana")
    assert scene.book.read(harvest.regions, "eu").offered_ms(scene.book.now) == 2 * HOUR_MS


def test_a_reward_is_paid_from_the_pool_once_and_only_after_validation() -> None:
    scene = (
        contributed()
        .when(ApproveReward("s1", 1), "worker", "worker")
        .then(harvest.ContributionIsNotValidated)
    )
    scene.and_then(finding("d2"), "worker", "worker").and_then(finding("d3"), "worker", "worker")
    scene.when(ApproveReward("s1", 1), "worker", "worker")
    reward = 22_422_000
    scene.then(
        RewardPaid("d1", "ana", reward, NOW + HOUR),
        WorkCredited("s1", 1, Work(HOUR_MS), 1, reward),
        WalletOpened("ana"),
        Debited(FOG, reward, "wallet:ana", "harvest-reward"),
        Credited(FOG, reward, REWARDS, "harvest-reward"),
    )
    scene.when(ApproveReward("s1", 1), "worker", "worker").then()
    assert scene.posted("wallet:ana") == reward and scene.posted(REWARDS) == BUDGET - reward
    scene.when(ApproveReward("s1", 9), "worker", "worker").then(harvest.ContributionNotFound)


def test_an_unfunded_pool_refuses_and_pays_later_what_was_earned_then() -> None:
    scene = scene_of(zone_created, started(), judges).later(HOUR).and_then(work(tasks=("t1",)), "ana")
    scene.and_then(finding("d2"), "worker", "worker").and_then(finding("d3"), "worker", "worker")
    scene.when(ApproveReward("s1", 1), "worker", "worker").then(InsufficientFunds)
    # Neither a better reputation nor a region that is no longer scarce changes what is owed.
    scene.and_then(RecordReputation("d1", "harvest", "success", "e1")).later(DAY)
    scene.book.apply(*offered(5_000, scene.book.now))
    scene.and_then(MintTokens(REWARDS, 22_422_000, "budget", "")).and_then(ApproveReward("s1", 1))
    assert (scene.posted("wallet:ana"), scene.posted(REWARDS)) == (22_422_000, 0)


def test_a_contribution_worth_less_than_a_unit_is_paid_nothing() -> None:
    scene = attested()
    scene.later(HOUR).and_then(work(2, bandwidth_bytes=1), "ana")
    for name in ("v1", "v2"):
        scene.and_then(ValidateContribution("s1", 2, (), (Attestation(name, True),)), "worker", "worker")
    scene.when(ApproveReward("s1", 2), "worker", "worker")
    scene.then(RewardPaid("d1", "ana", 0, NOW + 2 * HOUR), WorkCredited)


def test_lifetime_totals_are_kept() -> None:
    """The trap: they were never updated."""
    scene = validated().and_then(ApproveReward("s1", 1))
    scene.later(HOUR).and_then(work(2, tasks=("t2",), cpu_ms=1_000, bandwidth_bytes=10**9), "ana")
    for device in ("d2", "d3"):
        scene.and_then(finding(device, task="t2", seq=2), "worker", "worker")
    scene.and_then(ApproveReward("s1", 2)).and_then(StopHarvestSession("s1"), "ana")
    totals = harvester(scene.book).totals
    assert (totals.sessions, totals.running_ms, totals.paid, totals.rejected) == (1, 2 * HOUR_MS, 2, 0)
    assert totals.work == Work(HOUR_MS + 1_000, 0, 10**9)
    assert totals.tasks == 2 and totals.reward == scene.posted("wallet:ana")


# Faulty devices


def rejected(scene: Scene, number: int) -> Scene:
    """A session whose only contribution turns out wrong."""
    scene.and_then(report(), "ana").and_then(StartHarvestSession(f"f{number}", "d1"), "ana").later(HOUR)
    scene.and_then(work(session=f"f{number}", tasks=(f"x{number}",)), "ana")
    scene.and_then(StopHarvestSession(f"f{number}"), "ana")
    wrong = [Result(f"x{number}", f"d{n}", digests["wrong"]) for n in (2, 3, 4)]
    return scene.and_then(ValidateContribution(f"f{number}", 1, tuple(wrong)), "worker", "worker")


def test_a_device_rests_twice_as_long_with_each_wrong_result_in_a_row() -> None:
    """The trap: faulty hosts kept getting work. BOINC halves a host's quota with each of its errors."""
    scene = harvested(enrolled(), judges)
    for number in range(1, 9):
        rejected(scene, number)
        rest = 30 * MINUTE * 2 ** min(number, 6)
        scene.later(rest - SECOND).and_then(report(), "ana")
        scene.when(StartHarvestSession("s1", "d1"), "ana")
        scene.refused_with(harvest.CooldownIsNotOver, until=scene.book.now + SECOND, rejected_in_a_row=number)
        scene.later(SECOND)
    assert rest == 32 * HOUR


def test_one_paid_contribution_makes_a_device_rest_no_longer_than_others() -> None:
    scene = rejected(rejected(harvested(enrolled(), judges), 1).later(DAY), 2).later(DAY)
    scene.and_then(report(), "ana").and_then(StartHarvestSession("s1", "d1"), "ana").later(HOUR)
    scene.and_then(work(tasks=("t1",)), "ana")
    for device in ("d2", "d3", "d4"):
        scene.and_then(finding(device), "worker", "worker")
    scene.and_then(ApproveReward("s1", 1)).and_then(StopHarvestSession("s1"), "ana").later(30 * MINUTE)
    # The next wrong result is the first in a row again.
    rejected(scene, 3).later(HOUR).and_then(report(), "ana").when(StartHarvestSession("s2", "d1"), "ana")
    scene.then(HarvestSessionStarted, HarvestBegan)


def test_a_device_that_was_wrong_too_often_gets_no_more_work() -> None:
    # After 4 failures 1 / 6 = 1,666 basis points, after 5 of them 1 / 7 = 1,428.
    scene = harvested(ready())
    for n in range(4):
        scene.and_then(RecordReputation("d1", "harvest", "failure", f"e{n}"))
    scene.when(StartHarvestSession("s1", "d1"), "ana").then(HarvestSessionStarted, HarvestBegan)
    scene = harvested(ready())
    for n in range(5):
        scene.and_then(RecordReputation("d1", "harvest", "failure", f"e{n}"))
    scene.when(StartHarvestSession("s1", "d1"), "ana")
    scene.refused_with(harvest.HarvestReputationIsTooLow, score=1_428, limit=1_500)


# Disputes


DISPUTE = DisputeContribution("s1", 1, "look again")


def test_a_dispute_holds_the_reward_until_an_operator_decides() -> None:
    scene = validated().when(DISPUTE, "ben").then(ContributionDisputed("ben", "look again", NOW + HOUR))
    scene.when(ApproveReward("s1", 1), "worker", "worker").then(harvest.ContributionIsDisputed)
    scene.when(DISPUTE, "cleo").then(harvest.ContributionIsDisputed)
    scene.when(DecideContribution("s1", 1, "valid", "all is well"))
    scene.then(ContributionDecisionUpheld("valid", "all is well", NOW + HOUR))
    scene.when(DISPUTE, "cleo").then(harvest.ContributionIsFinal)
    scene.and_then(ApproveReward("s1", 1))
    assert scene.posted("wallet:ana") == 22_422_000
    scene.when(DISPUTE, "cleo").then(harvest.ContributionIsPaid)


def test_a_disputed_contribution_that_is_found_wrong_is_not_paid() -> None:
    for verdict in ("failure", "fraud"):
        scene = validated().and_then(DISPUTE, "operator")
        scene.when(DecideContribution("s1", 1, verdict, "copied"))
        scene.then(ContributionRejected("d1", "ana", verdict, "copied", NOW + HOUR), WorkRejected)
        scene.when(ApproveReward("s1", 1), "worker", "worker").then(harvest.ContributionIsNotValidated)
        assert contribution(scene.book).reward == 0


def test_a_pending_contribution_waits_while_it_is_disputed() -> None:
    scene = contributed().and_then(finding("d2"), "worker", "worker").and_then(DISPUTE, "ben")
    scene.when(finding("d3"), "worker", "worker").then(harvest.ContributionIsDisputed)
    scene.when(DecideContribution("s1", 1, "valid", "seen")).then(ContributionValidated)
    scene.when(DISPUTE, "ana").then(harvest.ContributionIsFinal)


def test_a_rejection_that_was_wrong_is_overturned() -> None:
    scene = contributed()
    for device in ("d2", "d3"):
        scene.and_then(finding(device, "wrong"), "worker", "worker")
    scene.and_then(DISPUTE, "ana").when(DecideContribution("s1", 1, "valid", "they colluded"))
    scene.then(RejectionOverturned("s1", 1), ContributionValidated)
    assert (harvester(scene.book).rejected_in_a_row, harvester(scene.book).totals.rejected) == (0, 0)
    scene.and_then(ApproveReward("s1", 1))
    assert scene.posted("wallet:ana") == 22_422_000


def outvoted() -> Scene:
    scene = contributed()
    for device in ("d2", "d3"):
        scene.and_then(finding(device, "wrong"), "worker", "worker")
    return scene.and_then(DISPUTE, "ana")


def test_a_rejection_that_stands_is_final() -> None:
    scene = (
        outvoted().when(DecideContribution("s1", 1, "failure", "as it was")).then(ContributionDecisionUpheld)
    )
    scene.when(DecideContribution("s1", 1, "fraud", "again")).then(harvest.ContributionIsNotDisputed)
    scene.when(DISPUTE, "ana").then(harvest.ContributionIsFinal)


def test_a_rejection_that_turns_out_a_fraud_is_one_rejection() -> None:
    scene = outvoted().when(DecideContribution("s1", 1, "fraud", "copied"))
    scene.then(ContributionRejected("d1", "ana", "fraud", "copied", NOW + HOUR))
    assert harvester(scene.book).totals.rejected == 1


def test_where_nobody_was_wrong_there_is_nothing_to_overturn() -> None:
    scene = harvested(started(), [registered(f"e{n}", f"o{n}") for n in range(7)]).later(HOUR)
    scene.and_then(work(tasks=("t1",)), "ana")
    results = tuple(Result("t1", f"e{n}", f"x{n}") for n in range(7))
    scene.and_then(ValidateContribution("s1", 1, results), "worker", "worker").and_then(DISPUTE, "ana")
    scene.when(DecideContribution("s1", 1, "valid", "they were all broken")).then(ContributionValidated)
    assert harvester(scene.book).totals.rejected == 0


def test_who_is_not_concerned_does_not_see_a_contribution() -> None:
    scene = contributed().and_then(finding("d2"), "worker", "worker")
    scene.when(DISPUTE, "cleo").then(harvest.ContributionNotFound)
    scene.when(DisputeContribution("s1", 9, "-"), "ana").then(harvest.ContributionNotFound)
    scene.when(DISPUTE, "worker", "worker").then(ContributionDisputed)


def test_a_rejection_is_disputed_within_two_weeks() -> None:
    scene = contributed()
    for device in ("d2", "d3"):
        scene.and_then(finding(device, "wrong"), "worker", "worker")
    scene.later(14 * DAY + SECOND).when(DISPUTE, "ana").then(harvest.ContributionDisputeIsTooLate)


def test_a_verdict_is_one_of_three_on_what_is_disputed() -> None:
    scene = contributed()
    scene.when(DecideContribution("s1", 1, "valid", "-")).then(harvest.ContributionIsNotDisputed)
    scene.when(DecideContribution("s1", 1, "maybe", "-")).then(harvest.VerdictIsUnknown)
    scene.when(DecideContribution("s1", 9, "valid", "-")).then(harvest.ContributionNotFound)


# Races, and states


def test_of_two_starts_the_first_wins() -> None:
    scene = (
        harvested(ready())
        .when(StartHarvestSession("s1", "d1"), "ana")
        .then(HarvestSessionStarted, HarvestBegan)
    )
    scene.when(StartHarvestSession("s2", "d1"), "ana").then(harvest.HarvestSessionIsOpen)


def test_of_two_records_of_one_number_the_first_wins() -> None:
    scene = harvested(started()).later(HOUR).and_then(work(), "ana")
    scene.when(work(cpu_ms=1), "ana").then(harvest.ContributionSequenceMustIncrease)


def test_of_a_payment_and_a_dispute_the_first_wins() -> None:
    scene = validated().and_then(ApproveReward("s1", 1)).when(DISPUTE, "ben").then(harvest.ContributionIsPaid)
    assert scene.posted("wallet:ana") == 22_422_000


def test_foreign_and_missing_things_are_not_found() -> None:
    for rule in (harvest.HarvesterNotFound, harvest.HarvestSessionNotFound, harvest.ContributionNotFound):
        assert issubclass(rule, NotFound)


def test_votes_of_a_contribution_are_bounded() -> None:
    owners = [f"o{n}" for n in range(20)]
    scene = harvested(started(), [registered(f"e{n}", owner) for n, owner in enumerate(owners)])
    tasks = tuple(f"t{n}" for n in range(P.most_tasks))
    scene.later(HOUR).and_then(work(tasks=tasks), "ana")
    results = [Result(task, f"e{n}", f"x{n}") for task in tasks for n in range(len(owners))]
    scene.when(ValidateContribution("s1", 1, tuple(results)), "worker", "worker")
    assert len(contribution(scene.book).votes) == P.most_tasks * P.most_results_a_task
    assert contribution(scene.book).status == "rejected"


def test_all_money_comes_from_the_rewards_pool() -> None:
    scene = validated().and_then(ApproveReward("s1", 1))
    total = sum(
        state.posted.get(FOG, 0) for state in scene.book.states.values() if isinstance(state, ledger.Account)
    )
    assert total == 0 and scene.posted(REWARDS) + scene.posted("wallet:ana") == BUDGET
