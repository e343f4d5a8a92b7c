"""Devices and reputation against naive models, over random histories of seconds to years.

The model of a device knows only when it was heard. The model of a reputation keeps every piece of evidence that ever
counted, and weighs all of them anew, as exact fractions of the daily decay, each time it is asked.
`FOGBOOK_EXAMPLES` scales the number of histories.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from domain import devices
from domain._kernel import Issued, Rejected
from domain.devices import (
    DAILY_DECAY,
    FIXED_ONE,
    UNIT,
    Capabilities,
    Device,
    Reputation,
    ReputationRecorded,
    decay,
    evolve_reputation,
    weigh,
)
from domain.platform import CreateZone
from tests.scenario import START, Book

EXAMPLES = int(os.environ.get("FOGBOOK_EXAMPLES", "100"))
KEPT, SILENT, DAY = timedelta(minutes=2), timedelta(minutes=10), timedelta(days=1)
HAS = Capabilities(1_000, 1_024)
OWNERS = {"p1": "ana", "p2": "ben"}
WEIGHTS = {"availability": Fraction(1, 2), "quality": Fraction(3, 2), "peer": Fraction(4, 5)}
"""Of what is split by its quality."""

names = st.sampled_from(tuple(OWNERS))
people = st.sampled_from(("ana", "ben", "operator"))
services = st.sampled_from(("harvest", "storage"))
qualities = st.sampled_from((0, 1, 5_000, 9_999, 10_000)) | st.integers(0, 10_000)
kinds = st.sampled_from(("success", "failure", "availability", "quality", "peer", "fraud"))
spans = st.sampled_from((0, 1, 60, 119, 120, 121, 599, 600, 601, 3_600, 86_400, 90 * 86_400))


def worth(kind: str, quality: int) -> tuple[Fraction, Fraction]:
    """What evidence says, as the definition has it."""
    good = Fraction(quality, 10_000)
    if kind in WEIGHTS:
        return WEIGHTS[kind] * good, WEIGHTS[kind] * (1 - good)
    if kind == "success":
        graded = (good, 1 - good) if quality else (Fraction(0), Fraction(0))
        return 1 + graded[0] * Fraction(3, 2), graded[1] * Fraction(3, 2)
    return Fraction(0), Fraction(1 if kind == "failure" else 3)


def days_between(since: datetime, until: datetime) -> int:
    return until.toordinal() - since.toordinal()


@dataclass
class Modelled:
    """A device as its history has it."""

    heard_at: datetime | None = None
    """Its last kept heartbeat, while nobody took it offline."""
    seq: int = -1
    suspended: frozenset[str] = frozenset()
    retired: bool = False

    def online(self, at: datetime) -> bool:
        return not self.retired and self.heard_at is not None and at < self.heard_at + SILENT


class DevicesMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.book = Book()
        self.book.issue(CreateZone("main"))
        self.devices = {name: Modelled() for name in OWNERS}
        self.counted: dict[str, tuple[str, str, str, int]] = {}
        self.evidence: list[tuple[str, str, datetime, Fraction, Fraction]] = []
        for name, owner in OWNERS.items():
            self.book.issue(devices.RegisterDevice(name, "phone", HAS, "north"), owner)

    def issue(self, command: Any, by: str, role: str | None = None) -> list[Any] | type[Rejected]:
        """The events, or the rule; then nothing changed."""
        before = dict(self.book.states), len(self.book.events)
        try:
            return self.book.issue(command, by, role)
        except Rejected as refused:
            assert (self.book.states, len(self.book.events)) == before
            return type(refused)

    @rule(seconds=spans)
    def pass_time(self, seconds: int) -> None:
        self.book.now += timedelta(seconds=seconds)

    # Devices

    @rule(name=names, by=people, step=st.integers(-2, 3))
    def heartbeat(self, name: str, by: str, step: int) -> None:
        device, now = self.devices[name], self.book.now
        seq = device.seq + step
        got = self.issue(devices.Heartbeat(name, seq), by)
        if by != OWNERS[name]:
            assert got is devices.DeviceNotFound
        elif device.retired:
            assert got is devices.DeviceIsRetired
        elif step <= 0:
            assert got is devices.HeartbeatIsOld
        elif not device.online(now) or (device.heard_at and now >= device.heard_at + KEPT):
            assert isinstance(got, list) and got[-1].seq == seq
            device.heard_at, device.seq = now, seq
        else:
            assert got == []

    @rule(name=names, by=st.sampled_from(("ana", "ben", "timer")))
    def mark_offline(self, name: str, by: str) -> None:
        device, now = self.devices[name], self.book.now
        got = self.issue(devices.MarkOffline(name), by, "worker" if by == "timer" else None)
        if by not in (OWNERS[name], "timer"):
            assert got is devices.DeviceNotFound
        elif device.online(now) and by == "timer":
            assert got is devices.DeviceIsStillHeard
        elif device.retired or device.heard_at is None:
            assert got == []
        else:
            assert isinstance(got, list)
            assert [event.at for event in got] == [min(now, device.heard_at + SILENT)]
            device.heard_at = None

    @rule(name=names, by=people)
    def suspend(self, name: str, by: str) -> None:
        self._suspension(name, by, devices.SuspendDevice(name, "-"), True)

    @rule(name=names, by=people)
    def resume(self, name: str, by: str) -> None:
        self._suspension(name, by, devices.ResumeDevice(name), False)

    def _suspension(self, name: str, by: str, command: Any, begins: bool) -> None:
        device = self.devices[name]
        capacity = "owner" if by == OWNERS[name] else "operator"
        got = self.issue(command, by)
        if by not in (OWNERS[name], "operator"):
            assert got is devices.DeviceNotFound
        elif device.retired:
            assert got is devices.DeviceIsRetired
        elif begins:
            assert isinstance(got, list) and len(got) == (capacity not in device.suspended)
            device.suspended |= {capacity}
        elif capacity in device.suspended or not device.suspended:
            assert isinstance(got, list) and len(got) == (capacity in device.suspended)
            device.suspended -= {capacity}
        else:
            assert got is devices.SuspensionIsNotYours

    @rule(name=names, by=people, sure=st.integers(0, 9))
    def retire(self, name: str, by: str, sure: int) -> None:
        if sure:
            return
        got = self.issue(devices.RetireDevice(name), by)
        if by in (OWNERS[name], "operator"):
            assert isinstance(got, list) and len(got) == (not self.devices[name].retired)
            self.devices[name].retired = True
        else:
            assert got is devices.DeviceNotFound

    # Reputation

    @rule(name=names, service=services, kind=kinds, quality=qualities, number=st.integers(1, 12))
    def record(self, name: str, service: str, kind: str, quality: int, number: int) -> None:
        quality = 0 if kind in ("failure", "fraud") else quality
        id, stated = f"e{number}", (name, service, kind, quality)
        got = self.issue(devices.RecordReputation(name, service, kind, id, quality), "w", "worker")
        if id not in self.counted:
            assert isinstance(got, list) and len(got) == 2
            self.counted[id] = stated
            self.evidence.append((name, service, self.book.now, *worth(kind, quality)))
        elif self.counted[id] == stated:
            assert got == []
        else:
            assert got is devices.EvidenceWasCounted

    # What always holds

    @invariant()
    def states_are_what_the_model_says(self) -> None:
        now = self.book.now
        for name, model in self.devices.items():
            state: Device = self.book.read(devices.devices, name)
            assert state.seq == model.seq
            assert state.online_at(now) == model.online(now)
            assert set(state.suspended_by) == model.suspended
            status = "retired" if model.retired else "suspended" if model.suspended else "active"
            assert state.status == status

    @invariant()
    def only_active_devices_serve(self) -> None:
        for name, model in self.devices.items():
            try:
                devices.owned(self.book.read, Issued(OWNERS[name], self.book.now), name)
                serves = True
            except (devices.DeviceIsSuspended, devices.DeviceIsRetired):
                serves = False
            assert serves == (not model.retired and not model.suspended)

    @invariant()
    def scores_are_those_of_all_evidence_weighed_anew(self) -> None:
        for at in (self.book.now, self.book.now + 400 * DAY):
            for name in OWNERS:
                for service in ("harvest", "storage"):
                    self.check_score(name, service, at)

    def check_score(self, name: str, service: str, at: datetime) -> None:
        alpha = beta = Fraction(1)
        pieces = 0
        for device, served, recorded_at, good, bad in self.evidence:
            if (device, served) == (name, service):
                left = Fraction(DAILY_DECAY, FIXED_ONE) ** days_between(recorded_at, at)
                alpha, beta, pieces = alpha + good * left, beta + bad * left, pieces + 1
        stored: Reputation = self.book.read(devices.reputations, f"{name}:{service}")
        now = stored.as_of(at)
        # Each step between two pieces of evidence, and the one to `at`, rounds down by less than two billionths.
        most = Fraction(2 * (pieces + 1), UNIT)
        assert 0 <= alpha - Fraction(now.alpha, UNIT) <= most
        assert 0 <= beta - Fraction(now.beta, UNIT) <= most
        exact = 10_000 * alpha / (alpha + beta)
        assert abs(now.score - exact) <= 1 + 10_000 * most
        assert devices.score(self.book.read, name, service, at) == now.score
        low, high = now.interval
        assert 0 <= low <= now.score <= high <= 10_000


TestDevices = DevicesMachine.TestCase
TestDevices.settings = settings(max_examples=EXAMPLES // 2, stateful_step_count=30, deadline=None)


# Formulas


@given(st.integers(0, 3_000))
@settings(max_examples=EXAMPLES, deadline=None)
def test_decay_is_within_its_bound_of_the_exact_power(days: int) -> None:
    """Half a unit of 2^-64 for each product; the constant is taken as it is."""
    exact = Fraction(DAILY_DECAY, FIXED_ONE) ** days * FIXED_ONE
    assert abs(decay(days) - exact) <= Fraction(max(days - 1, 0), 2)


@given(st.integers(0, 60_000), st.integers(0, 60_000))
@settings(max_examples=EXAMPLES, deadline=None)
def test_decay_never_grows_and_days_add_up(first: int, second: int) -> None:
    assert 0 <= decay(first + 1) <= decay(first) <= FIXED_ONE
    both = Fraction(decay(first) * decay(second), FIXED_ONE)
    assert abs(decay(first + second) - both) <= first + second + 1


@given(kinds, qualities)
@settings(max_examples=EXAMPLES, deadline=None)
def test_weights_are_exact(kind: str, quality: int) -> None:
    quality = 0 if kind in ("failure", "fraud") else quality
    assert list(weigh(kind, quality)) == [part * UNIT for part in worth(kind, quality)]


posteriors = st.builds(
    Reputation, st.integers(UNIT, 10**6 * UNIT), st.integers(UNIT, 10**6 * UNIT), st.integers(0, 30_000)
)


@given(posteriors)
@settings(max_examples=EXAMPLES * 3, deadline=None)
def test_the_interval_is_the_smallest_of_basis_points_that_holds_the_exact_one(now: Reputation) -> None:
    a, b = Fraction(now.alpha, UNIT), Fraction(now.beta, UNIT)
    mean, variance = a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))
    half = Fraction(16_449, 10_000) * Fraction(math.isqrt(math.floor(variance * 10**40)), 10**20)
    low, high = now.interval
    assert now.score == math.floor(mean * 10_000)
    exact_low, exact_high = 10_000 * (mean - half), 10_000 * (mean + half)
    assert max(Fraction(0), exact_low - 2) <= low <= max(Fraction(0), exact_low + Fraction(1, 10**9))
    assert min(Fraction(10_000), exact_high - Fraction(1, 10**9)) <= high
    assert high <= min(Fraction(10_000), exact_high + 2)


@given(posteriors, st.integers(0, 50_000))
@settings(max_examples=EXAMPLES, deadline=None)
def test_time_moves_a_score_towards_the_middle_only(before: Reputation, days: int) -> None:
    at = devices.EPOCH + (before.day + days) * DAY
    after = before.as_of(at)
    assert UNIT <= after.alpha <= before.alpha and UNIT <= after.beta <= before.beta
    if days == 0:
        assert after == before
    if before.alpha >= before.beta + UNIT:
        assert 5_000 <= after.score <= before.score
    if before.beta >= before.alpha + UNIT:
        assert before.score <= after.score <= 5_000


recorded = st.lists(st.tuples(kinds, qualities, st.integers(0, 400)), max_size=20)


@given(recorded, st.integers(0, 5_000))
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_reputation_is_a_fold_of_its_events_wherever_it_is_cut(
    history: list[tuple[str, int, int]], later: int
) -> None:
    """Reading in between, or going on from what was stored, leads to the same."""
    at, events = START, []
    for number, (kind, quality, days) in enumerate(history):
        at += days * DAY
        graded = 0 if kind in ("failure", "fraud") else quality
        events.append(ReputationRecorded(f"e{number}", kind, graded, *weigh(kind, graded), at))
    whole = Reputation()
    for event in events:
        whole = evolve_reputation(whole, event)
        assert whole.as_of(event.at + later * DAY) == whole.as_of(event.at + later * DAY)
    for cut in range(len(events)):
        again = Reputation()
        for event in events[:cut]:
            again = evolve_reputation(again, event)
        again = Reputation(again.alpha, again.beta, again.day, again.evidence)
        for event in events[cut:]:
            again = evolve_reputation(again, event)
        assert again == whole
