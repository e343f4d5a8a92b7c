"""Commands, rules and traps of devices and reputation, as sentences.

The history behind most of them: ana owns the phone `p1` in the region `north`; it was registered at the start.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any

import msgspec
import pytest

from commands._codec import decode_event, event_encoder
from commands._models import command_from
from domain import devices
from domain._kernel import Issued, Rejected
from domain.devices import (
    DAILY_DECAY,
    FIXED_ONE,
    UNIT,
    AsnIsOutOfRange,
    Capabilities,
    CapabilitiesAreEmpty,
    CapabilitiesUpdated,
    Device,
    DeviceCameOnline,
    DeviceExists,
    DeviceIsRetired,
    DeviceIsStillHeard,
    DeviceIsSuspended,
    DeviceMovedRecently,
    DeviceNotFound,
    DeviceRegistered,
    DeviceRelocated,
    DeviceResumed,
    DeviceRetired,
    DeviceSuspended,
    DeviceWentOffline,
    EvidenceCounted,
    EvidenceKindIsUnknown,
    EvidenceWasCounted,
    Heartbeat,
    HeartbeatIsOld,
    HeartbeatKept,
    MarkOffline,
    QualityNeedsASuccess,
    RecordReputation,
    RegisterDevice,
    RelocateDevice,
    Reputation,
    ReputationRecorded,
    ResumeDevice,
    RetireDevice,
    SuspendDevice,
    SuspensionIsNotYours,
    UpdateCapabilities,
    decay,
    owned,
    score,
    serving,
    weigh,
)
from domain.ledger import MintTokens, OpenWallet
from domain.platform import CreateZone
from domain.staking import RegisterValidator
from ops.problems import Problem
from tests.scenario import START, Book, Scenario, given

SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
HAS = Capabilities(4_000, 8_192, 128_000, 50_000)
MORE = Capabilities(8_000, 16_384, 128_000, 50_000, 1)

zone_created: Any = CreateZone("main", "manual")
p1_registered: Any = (RegisterDevice("p1", "phone", HAS, "north", 64_500), "ana")
village: Any = (zone_created, p1_registered)
online: Any = (village, (Heartbeat("p1", 7), "ana"))
retired: Any = (village, (RetireDevice("p1", "sold"), "ana"))
v1_registered: Any = (
    (OpenWallet("wallet:val"), "val"),
    MintTokens("wallet:val", 1_000, "start", ""),
    (RegisterValidator("v1", 1_000), "val"),
)


def device(book: Book, name: str = "p1") -> Device:
    state = book.read(devices.devices, name)
    assert isinstance(state, Device)
    return state


def reputation(book: Book, name: str = "p1", service: str = "harvest") -> Reputation:
    state = book.read(devices.reputations, f"{name}:{service}")
    assert isinstance(state, Reputation)
    return state


def evidence(kind: str, number: int = 1, quality: int = 0, service: str = "harvest") -> RecordReputation:
    return RecordReputation("p1", service, kind, f"e{number}", quality)


def accepted(scenario: Scenario) -> Scenario:
    assert isinstance(scenario.outcome, list), scenario.outcome
    return scenario


# Devices


def test_a_device_is_registered_by_its_owner_and_offline_at_first() -> None:
    scenario = given(zone_created).when(RegisterDevice("p1", "phone", HAS, "north", 64_500), "ana")
    scenario.then(DeviceRegistered("ana", "phone", HAS, "north", 64_500, START))
    state = device(scenario.book)
    assert (state.owner, state.type, state.region, state.asn) == ("ana", "phone", "north", 64_500)
    assert (state.capabilities, state.status, state.online) == (HAS, "active", False)


def test_of_two_who_register_a_device_the_first_wins() -> None:
    given(village).when(RegisterDevice("p1", "phone", HAS, "north"), "ben").then(DeviceExists)
    given(village).when(RegisterDevice("p1", "phone", HAS, "north"), "ana").then(DeviceExists)
    given(retired).when(RegisterDevice("p1", "phone", HAS, "north"), "ana").then(DeviceExists)


@pytest.mark.parametrize("has", [Capabilities(0, 0), Capabilities(0, 512), Capabilities(100, 0, 5, 5, 1)])
def test_a_device_has_at_least_some_processor_and_some_memory(has: Capabilities) -> None:
    given(zone_created).when(RegisterDevice("p1", "phone", has, "north"), "ana").then(CapabilitiesAreEmpty)
    given(village).when(UpdateCapabilities("p1", has), "ana").then(CapabilitiesAreEmpty)


def test_the_number_of_a_network_has_32_bits() -> None:
    for asn in (2**32 - 1, 2**53 - 1, -1):
        given(zone_created).when(RegisterDevice("p1", "phone", HAS, "north", asn)).then(AsnIsOutOfRange)
        given(village).when(RelocateDevice("p1", "south", asn), "ana").then(AsnIsOutOfRange)
    accepted(given(zone_created).when(RegisterDevice("p1", "phone", HAS, "north", 2**32 - 2), "ana"))


def test_capabilities_change_only_when_they_do() -> None:
    scenario = given(village).when(UpdateCapabilities("p1", HAS), "ana").then()
    scenario.when(UpdateCapabilities("p1", MORE), "ana").then(CapabilitiesUpdated(MORE, START))
    assert device(scenario.book).capabilities == MORE


def test_more_of_one_thing_does_not_make_up_for_less_of_another() -> None:
    assert HAS.covers(HAS) and MORE.covers(HAS) and not HAS.covers(MORE)
    for name in ("cpu_millicores", "memory_mb", "storage_mb", "bandwidth_kbps", "gpu"):
        assert not HAS.covers(replace(HAS, **{name: getattr(HAS, name) + 1}))


def test_a_device_moves_once_a_day() -> None:
    scenario = given(village).when(RelocateDevice("p1", "north", 64_500), "ana").then()
    scenario.when(RelocateDevice("p1", "south", 1), "ana", after=DAY - SECOND).then(DeviceMovedRecently)
    scenario.when(RelocateDevice("p1", "south", 1), "ana", after=SECOND)
    scenario.then(DeviceRelocated("south", 1, START + DAY))
    scenario.when(RelocateDevice("p1", "north", 1), "ana").then(DeviceMovedRecently)
    assert (device(scenario.book).region, device(scenario.book).asn) == ("south", 1)


@pytest.mark.parametrize(
    "command",
    [
        UpdateCapabilities("p1", MORE),
        RelocateDevice("p1", "south"),
        Heartbeat("p1", 8),
        MarkOffline("p1"),
        SuspendDevice("p1", "-"),
        ResumeDevice("p1"),
        RetireDevice("p1"),
    ],
)
def test_a_device_of_somebody_else_is_not_to_be_found(command: Any) -> None:
    given(online).when(command, "ben").then(DeviceNotFound)
    given(zone_created).when(command, "ana").then(DeviceNotFound)
    given(zone_created).when(command, "operator").then(DeviceNotFound)


def test_an_operator_speaks_for_no_device_of_others() -> None:
    for command in (UpdateCapabilities("p1", MORE), RelocateDevice("p1", "south"), Heartbeat("p1", 8)):
        given(online).when(command, "operator").then(DeviceNotFound)


# Heartbeats


def test_the_first_heartbeat_brings_a_device_online() -> None:
    scenario = given(village).when(Heartbeat("p1", 0), "ana").then(DeviceCameOnline(0, START))
    assert device(scenario.book).online_at(START)


def test_heartbeats_that_change_nothing_leave_no_events() -> None:
    """Trap: high-rate heartbeats must not each become an event."""
    scenario = given(online)
    for second in range(1, 120):
        scenario.when(Heartbeat("p1", 7 + second), "ana", after=SECOND).then()
    scenario.when(Heartbeat("p1", 200), "ana", after=SECOND).then(HeartbeatKept(200, START + 2 * MINUTE))
    scenario.when(Heartbeat("p1", 201), "ana", after=SECOND).then()


def test_an_hour_of_heartbeats_leaves_thirty_events() -> None:
    scenario = given(online)
    before = len(scenario.book.events)
    for second in range(1, 3_601):
        scenario.when(Heartbeat("p1", 7 + second), "ana", after=SECOND)
    assert len(scenario.book.events) - before == 30


def test_heartbeats_go_forward_only() -> None:
    scenario = given(online).when(Heartbeat("p1", 7), "ana").then(HeartbeatIsOld)
    scenario.when(Heartbeat("p1", 6), "ana", after=DAY).then(HeartbeatIsOld)
    assert device(scenario.book).seq == 7
    scenario.when(MarkOffline("p1"), "ana")
    scenario.when(Heartbeat("p1", 7), "ana").then(HeartbeatIsOld)


def test_of_two_heartbeats_that_race_the_first_counts() -> None:
    scenario = given(online)
    scenario.when(Heartbeat("p1", 8), "ana", after=2 * MINUTE).then(HeartbeatKept)
    scenario.when(Heartbeat("p1", 8), "ana").then(HeartbeatIsOld)


def test_a_device_that_was_silent_too_long_comes_online_anew_timer_or_not() -> None:
    scenario = given(online)
    assert device(scenario.book).online_at(START + 10 * MINUTE - SECOND)
    assert not device(scenario.book).online_at(START + 10 * MINUTE)
    scenario.when(Heartbeat("p1", 8), "ana", after=30 * MINUTE).then(
        DeviceWentOffline("missed-heartbeats", START + 10 * MINUTE),
        DeviceCameOnline(8, START + 30 * MINUTE),
    )
    with_timer = given(online).when(MarkOffline("p1"), "timer", "worker", after=25 * MINUTE)
    with_timer.then(DeviceWentOffline("missed-heartbeats", START + 10 * MINUTE))
    with_timer.when(Heartbeat("p1", 8), "ana", after=5 * MINUTE).then(DeviceCameOnline)
    assert device(with_timer.book) == device(scenario.book)


def test_missed_heartbeats_take_a_device_offline_on_time_and_once() -> None:
    scenario = given(online).when(MarkOffline("p1"), "timer", "worker", after=10 * MINUTE - SECOND)
    scenario.then(DeviceIsStillHeard)
    scenario.when(MarkOffline("p1"), "timer", "worker", after=SECOND)
    scenario.then(DeviceWentOffline("missed-heartbeats", START + 10 * MINUTE))
    scenario.when(MarkOffline("p1"), "timer", "worker").then()


def test_a_heartbeat_that_was_kept_in_between_keeps_the_device_online() -> None:
    """Race: the timer of the first heartbeat fires although a later one was kept."""
    scenario = given(online).when(Heartbeat("p1", 8), "ana", after=9 * MINUTE).then(HeartbeatKept)
    scenario.when(MarkOffline("p1"), "timer", "worker", after=MINUTE).then(DeviceIsStillHeard)
    assert device(scenario.book).online
    scenario.when(MarkOffline("p1"), "timer", "worker", after=9 * MINUTE)
    scenario.then(DeviceWentOffline("missed-heartbeats", START + 19 * MINUTE))


def test_its_owner_takes_a_device_offline_at_once() -> None:
    scenario = given(online).when(MarkOffline("p1"), "ana", after=MINUTE)
    scenario.then(DeviceWentOffline("owner", START + MINUTE))
    scenario.when(MarkOffline("p1"), "ana").then()
    scenario.when(Heartbeat("p1", 8), "ana").then(DeviceCameOnline)


def test_an_owner_who_comes_late_does_not_make_it_longer() -> None:
    scenario = given(online).when(MarkOffline("p1"), "ana", after=DAY)
    scenario.then(DeviceWentOffline("missed-heartbeats", START + 10 * MINUTE))


# Suspended and retired


def serves(scenario: Scenario) -> type[Rejected] | None:
    try:
        serving(scenario.book.read, "p1")
        owned(scenario.book.read, Issued("ana", scenario.book.now), "p1")
    except Rejected as rule:
        return type(rule)
    return None


def test_an_owner_suspends_and_resumes() -> None:
    scenario = given(village).when(SuspendDevice("p1", "holiday"), "ana")
    scenario.then(DeviceSuspended("owner", "holiday", START))
    assert serves(scenario) is DeviceIsSuspended
    scenario.when(SuspendDevice("p1", "again"), "ana").then()
    scenario.when(ResumeDevice("p1"), "ana").then(DeviceResumed("owner", START))
    assert serves(scenario) is None
    scenario.when(ResumeDevice("p1"), "ana").then()


def test_an_owner_does_not_end_what_an_operator_began() -> None:
    scenario = given(village).when(SuspendDevice("p1", "inquiry"), "operator")
    scenario.then(DeviceSuspended("operator", "inquiry", START))
    scenario.when(ResumeDevice("p1"), "ana").then(SuspensionIsNotYours)
    scenario.when(SuspendDevice("p1", "offended"), "ana").then(DeviceSuspended)
    scenario.when(ResumeDevice("p1"), "ana").then(DeviceResumed)
    assert serves(scenario) is DeviceIsSuspended
    scenario.when(ResumeDevice("p1"), "operator").then(DeviceResumed)
    assert serves(scenario) is None


def test_an_operator_does_not_resume_for_the_owner() -> None:
    scenario = given(village, (SuspendDevice("p1", "holiday"), "ana"))
    scenario.when(ResumeDevice("p1"), "operator").then(SuspensionIsNotYours)


def test_a_suspended_device_is_still_heard() -> None:
    scenario = given(village, (SuspendDevice("p1", "holiday"), "ana"))
    scenario.when(Heartbeat("p1", 1), "ana").then(DeviceCameOnline)
    assert serves(scenario) is DeviceIsSuspended


def test_retiring_is_final() -> None:
    scenario = given(online).when(RetireDevice("p1", "sold"), "ana").then(DeviceRetired("sold", START))
    assert serves(scenario) is DeviceIsRetired
    assert not device(scenario.book).online_at(START)
    scenario.when(RetireDevice("p1", "again"), "ana").then()
    scenario.when(MarkOffline("p1"), "timer", "worker", after=DAY).then()
    for command in (
        UpdateCapabilities("p1", MORE),
        RelocateDevice("p1", "south"),
        Heartbeat("p1", 8),
        SuspendDevice("p1", "-"),
        ResumeDevice("p1"),
    ):
        scenario.when(command, "ana").then(DeviceIsRetired)
    assert serves(scenario) is DeviceIsRetired


def test_an_operator_retires_any_device() -> None:
    given(village).when(RetireDevice("p1", "stolen"), "operator").then(DeviceRetired("stolen", START))
    given(village).when(RetireDevice("p1"), "timer", "worker").then(DeviceNotFound)


def test_a_suspended_device_can_be_retired_and_stays_so() -> None:
    scenario = given(village, SuspendDevice("p1", "inquiry")).when(RetireDevice("p1"), "ana")
    accepted(scenario)
    scenario.when(ResumeDevice("p1"), "operator").then(DeviceIsRetired)


def test_who_may_serve_is_known_and_ones_own() -> None:
    book = given(village).book
    assert serving(book.read, "p1") == owned(book.read, Issued("ana", START), "p1") == device(book)
    with pytest.raises(DeviceNotFound):
        serving(book.read, "p9")
    with pytest.raises(DeviceNotFound):
        owned(book.read, Issued("ben", START), "p1")
    with pytest.raises(DeviceNotFound):
        owned(given(retired).book.read, Issued("ben", START), "p1")


# Reputation


@pytest.mark.parametrize(
    ("kind", "quality", "alpha", "beta"),
    [
        ("success", 0, 1_000_000_000, 0),
        ("success", 10_000, 2_500_000_000, 0),
        ("success", 8_000, 2_200_000_000, 300_000_000),
        ("failure", 0, 0, 1_000_000_000),
        ("fraud", 0, 0, 3_000_000_000),
        ("availability", 9_900, 495_000_000, 5_000_000),
        ("availability", 0, 0, 500_000_000),
        ("quality", 10_000, 1_500_000_000, 0),
        ("quality", 1, 150_000, 1_499_850_000),
        ("peer", 2_500, 200_000_000, 600_000_000),
    ],
)
def test_evidence_weighs_by_kind_and_splits_by_quality(
    kind: str, quality: int, alpha: int, beta: int
) -> None:
    assert weigh(kind, quality) == (alpha, beta)
    scenario = given(village).when(evidence(kind, quality=quality), "worker", "worker")
    scenario.then(
        EvidenceCounted("p1", "harvest", kind, quality, START),
        ReputationRecorded("e1", kind, quality, alpha, beta, START),
    )
    now = reputation(scenario.book)
    assert (now.alpha, now.beta, now.evidence) == (UNIT + alpha, UNIT + beta, 1)


# Scores and intervals by hand: alpha, beta in tenths; mean -+ 1.6449 sd, sd = sqrt(ab / ((a+b)^2 (a+b+1))).
#  1, 1    mean .5      sd sqrt(1/12)        = .288675  half .474842
#  2, 1    mean .6667   sd sqrt(2/36)        = .235702  half .387707
#  1, 4    mean .2      sd sqrt(4/150)       = .163299  half .268611
# 11, 1    mean .91667  sd sqrt(11/1872)     = .076656  half .126092
@pytest.mark.parametrize(
    ("alpha", "beta", "mean", "low", "high"),
    [
        (10, 10, 5_000, 251, 9_749),
        (20, 10, 6_666, 2_788, 10_000),
        (10, 40, 2_000, 0, 4_687),
        (110, 10, 9_166, 7_905, 10_000),
    ],
)
def test_scores_and_intervals_by_hand(alpha: int, beta: int, mean: int, low: int, high: int) -> None:
    now = Reputation(alpha * UNIT // 10, beta * UNIT // 10)
    assert now.score == mean
    assert now.interval == (low, high)


def test_without_evidence_a_score_is_in_the_middle() -> None:
    book = given(village).book
    assert score(book.read, "p1", "harvest", START) == 5_000
    assert score(book.read, "p9", "nothing", START + 1_000 * DAY) == 5_000


def test_services_are_trusted_apart() -> None:
    book = given(village, evidence("success"), evidence("fraud", 2, service="storage")).book
    assert score(book.read, "p1", "harvest", START) == 6_666
    assert score(book.read, "p1", "storage", START) == 2_000
    assert score(book.read, "p1", "compute", START) == 5_000


# By hand: the 3 of a fraud weigh 3 e^(-0.001 n) after n days. 1 / (2 + 3 * .9990005) = .20012 after one,
# 1 / (2 + 3 * .9048374) = .21211 after 100, 1 / (2 + 3 * .6941967) = .24494 after 365, 1 / (2 + 3 * .3678794) = .32220
# after 1,000, and nothing is left in the end.
@pytest.mark.parametrize(
    ("days", "expected"),
    [(0, 2_000), (1, 2_001), (100, 2_121), (365, 2_449), (1_000, 3_222), (10_000, 4_999), (40_000, 5_000)],
)
def test_evidence_fades_towards_the_prior(days: int, expected: int) -> None:
    book = given(village, evidence("fraud")).book
    assert score(book.read, "p1", "harvest", START + days * DAY) == expected


def test_evidence_fades_by_whole_days() -> None:
    noon = START + DAY / 2
    book = given(village, evidence("fraud")).book
    assert reputation(book).as_of(noon) == reputation(book)
    assert reputation(book).as_of(START + DAY - SECOND) == reputation(book)
    assert reputation(book).as_of(START + DAY).beta == UNIT + 3 * UNIT * DAILY_DECAY // FIXED_ONE


def test_reading_a_score_changes_nothing() -> None:
    book = given(village, evidence("success"), evidence("peer", 2, 3_000)).book
    before = reputation(book)
    first = score(book.read, "p1", "harvest", START + 50 * DAY)
    score(book.read, "p1", "harvest", START + 5_000 * DAY)
    assert score(book.read, "p1", "harvest", START + 50 * DAY) == first
    assert reputation(book) == before


def test_evidence_counts_once() -> None:
    scenario = given(village, evidence("success", 1, 9_000))
    before = reputation(scenario.book)
    scenario.when(evidence("success", 1, 9_000)).then()
    scenario.when(evidence("success", 1, 9_000), after=90 * DAY).then()
    for other in (
        evidence("success", 1),
        evidence("quality", 1, 9_000),
        evidence("success", 1, 9_000, service="storage"),
        replace(evidence("success", 1, 9_000), device="p2"),
    ):
        second = (RegisterDevice("p2", "phone", HAS, "north"), "ana")
        given(village, second, evidence("success", 1, 9_000)).when(other).then(EvidenceWasCounted)
    assert reputation(scenario.book) == before


def test_what_failed_has_no_quality() -> None:
    given(village).when(evidence("failure", quality=1)).then(QualityNeedsASuccess)
    given(village).when(evidence("fraud", quality=10_000)).then(QualityNeedsASuccess)


def test_evidence_is_of_a_known_kind_and_about_a_known_device() -> None:
    given(village).when(evidence("rumour")).then(EvidenceKindIsUnknown)
    given(zone_created).when(evidence("success")).then(DeviceNotFound)


def test_what_a_device_did_before_it_was_retired_still_counts() -> None:
    accepted(given(retired).when(evidence("failure")))


def test_validation_is_the_service_of_validators() -> None:
    slashed = RecordReputation("v1", "validation", "fraud", "slash.e1")
    scenario = accepted(given(zone_created, v1_registered).when(slashed, "worker", "worker"))
    assert score(scenario.book.read, "v1", "validation", START) == 2_000
    given(village).when(slashed).then(DeviceNotFound)
    given(village).when(replace(slashed, device="p1")).then(DeviceNotFound)
    given(zone_created, v1_registered).when(replace(slashed, service="harvest")).then(DeviceNotFound)


@pytest.mark.parametrize("days", [0, 1, 2, 3, 365, 1_000, 36_525])
def test_decay_is_what_decimal_arithmetic_says(days: int) -> None:
    with localcontext() as context:
        context.prec = 60
        exact = (Decimal(-days) / 1000).exp() * FIXED_ONE
        assert abs(exact - decay(days)) <= max(days, 1)


# At the edge


def test_commands_say_what_their_fields_are() -> None:
    body = {
        "device": " P1 ",
        "type": "phone",
        "region": "north",
        "capabilities": {"cpu_millicores": 4_000, "memory_mb": 8_192},
    }
    assert command_from(RegisterDevice, body) == RegisterDevice(
        "p1", "phone", Capabilities(4_000, 8_192), "north"
    )
    for wrong in (
        {"device": "p:1"},
        {"capabilities": {"cpu_millicores": -1, "memory_mb": 1}},
        {"capabilities": {"cpu_millicores": True, "memory_mb": 1}},
        {"capabilities": {"cpu_millicores": 2**31, "memory_mb": 1}},
        {"capabilities": {"cpu_millicores": 1}},
        {"capabilities": None},
        {"asn": -1},
        {"owner": "ben"},
    ):
        with pytest.raises(Problem):
            command_from(RegisterDevice, body | wrong)
    report = {"device": "p1", "service": "harvest", "kind": "quality", "evidence_id": "e", "quality": 10_001}
    with pytest.raises(Problem):
        command_from(RecordReputation, report)
    with pytest.raises(Problem):
        command_from(Heartbeat, {"device": "p1", "seq": -1})


def test_events_and_states_survive_being_stored() -> None:
    scenario = given(online, SuspendDevice("p1", "-"), evidence("peer", 1, 7_777))
    for _, event in scenario.book.events:
        stored = event_encoder(type(event))(event)
        assert decode_event(type(event).__name__, stored) == event
    for state in (device(scenario.book), reputation(scenario.book)):
        assert msgspec.json.decode(msgspec.json.encode(state), type=type(state)) == state


def test_every_rule_says_what_is_wrong() -> None:
    rules = [r for r in vars(devices).values() if isinstance(r, type) and issubclass(r, Rejected)]
    for rule in rules:
        assert rule.__doc__ and rule.sentence().endswith("."), rule


def test_a_time_without_a_day_is_the_day_it_falls_on() -> None:
    assert devices.day_number(datetime.fromisoformat("1970-01-02T00:00:00+00:00")) == 1
    assert devices.day_number(datetime.fromisoformat("1970-01-01T23:59:59.999999+00:00")) == 0
