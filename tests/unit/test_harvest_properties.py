"""Harvest against a plain model, over random histories of minutes to days.

The model keeps each session's running time as a list of intervals, judges contributions from plain dictionaries of who
said what, and computes rewards as exact fractions. `FOGBOOK_EXAMPLES` scales the number of histories.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain import harvest, ledger
from domain._kernel import FOG, Rejected
from domain.devices import (
    Capabilities,
    RecordReputation,
    RegisterDevice,
    ResumeDevice,
    SuspendDevice,
    score,
)
from domain.harvest import HarvestPolicy, Work
from domain.platform import CreateZone
from tests.scenario import Book

EXAMPLES = int(os.environ.get("FOGBOOK_EXAMPLES", "100"))
OWNERS = {"d1": "ana", "d2": "ben"}
JUDGES = {f"j{n}": owner for n, owner in enumerate(("ana", "cleo", "cleo", "dan", "eve", "finn", "gil"))}
"""Ana judges too, and Cleo with two devices: neither may count for more than is due."""
PHONE = Capabilities(1_500, 2_000, 10_000, 8_000, 1)
SIZES = {
    "cpu_ms": 1_500,
    "memory_mb_ms": 2_000_000,
    "bandwidth_bytes": 1_000_000,
    "storage_mb_ms": 10_000_000,
}
"""What the phone gives of each in a second."""
BUDGET = 10**18
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
METRICS = ("cpu_ms", "memory_mb_ms", "bandwidth_bytes", "storage_mb_ms", "gpu_ms")
POINTS = {
    "cpu_ms": Fraction(1, 3_600_000),
    "memory_mb_ms": Fraction(5, 10 * 3_600_000_000),
    "bandwidth_bytes": Fraction(15, 10 * 10**9),
    "storage_mb_ms": Fraction(3, 10 * 3_600_000_000),
    "gpu_ms": Fraction(5, 3_600_000),
}
"""Points a unit of each metric."""

devices = st.sampled_from(sorted(OWNERS))
spans = st.sampled_from((0, 1, 59, 60, 600, 1_799, 1_800, 3_600, 7_200)) | st.integers(0, 40_000)
policies = st.builds(
    HarvestPolicy,
    minimum_battery_percent=st.sampled_from((20, 20, 50)),
    cooldown_minutes=st.sampled_from((30, 45)),
    most_session_minutes=st.sampled_from((480, 480, 90)),
)


def fair_reward(work: Work, tasks: int, reputation: int, scarcity: Fraction) -> int:
    """The formula as one writes it down, on fractions."""
    points = sum((POINTS[name] * getattr(work, name) for name in METRICS), Fraction())
    fog = (
        (10 * points + Fraction(tasks, 10))
        * (1 + Fraction(22, 100) * Fraction(reputation, 10_000))
        * scarcity
    )
    return math.floor(fog * 10**6)


@given(
    st.builds(Work, *(st.integers(0, 100) | st.integers(0, 2**53 - 1) for _ in METRICS)),
    st.integers(0, 20),
    st.integers(0, 10_000),
    st.sampled_from((10_000, 15_000, 20_000)),
)
@settings(max_examples=5 * EXAMPLES, deadline=None)
def test_a_reward_is_the_formula_rounded_down_once(
    work: Work, tasks: int, reputation: int, factor: int
) -> None:
    fair = fair_reward(work, tasks, reputation, Fraction(factor, 10_000))
    assert harvest.reward_for(work, tasks, reputation, factor, 50) == fair


@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.sampled_from((2, 3)))
@settings(max_examples=5 * EXAMPLES, deadline=None)
def test_a_canonical_result_has_a_quorum_and_a_majority_and_is_the_only_one(
    found: list[int], quorum: int
) -> None:
    results = tuple(harvest.Vote("t", f"o{n}", f"x{each}") for n, each in enumerate(found))
    judged = harvest.Contribution(tasks=(harvest.TaskResult("t", "x0"),), votes=results)
    canonical = harvest.canonical(judged.tally("t"), quorum)
    fit = [x for x in range(4) if found.count(x) >= quorum and found.count(x) > len(found) - found.count(x)]
    assert [canonical] == [f"x{x}" for x in fit] if fit else canonical == ""
    wanted = {"": "", "x0": "valid"}.get(canonical, "outvoted")
    assert harvest.judge(judged, quorum) == (wanted if wanted or len(found) < 7 else "no-quorum")


@dataclass
class Ran:
    """A session as the model sees it."""

    device: str
    policy: HarvestPolicy
    started: datetime
    heard: datetime
    intervals: list[list[datetime | None]]
    """When it ran: [begin, end], the last one without an end while it runs."""
    ceased: list[datetime] = field(default_factory=list)
    """When its device was suspended."""
    stopped: datetime | None = None
    seq: int = 0
    counted: int = 0
    """Microseconds of running time that contributions covered."""

    def over(self) -> datetime:
        limit = min(timedelta(minutes=self.policy.most_session_minutes), 8 * HOUR)
        over = min(self.started + limit, self.heard + 3 * HOUR)
        if len(self.ceased) > 1:
            return min(over, self.heard)
        return min((over, *self.ceased))

    def running(self, until: datetime) -> int:
        """Microseconds of its intervals before a time."""
        return sum(
            max((min(end or until, until) - begin) // timedelta(microseconds=1), 0)
            for begin, end in self.intervals
            if begin is not None
        )


@dataclass
class Given:
    """A contribution as the model sees it."""

    session: str
    seq: int
    device: str
    work: Work
    tasks: tuple[str, ...]
    votes: dict[str, dict[str, str]] = field(default_factory=dict)
    """Task -> owner -> result."""
    status: str = "pending"
    disputed: bool = False
    reward: int = 0


class HarvestMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.book = Book()
        self.book.issue(CreateZone("main"))
        self.book.issue(ledger.MintTokens(ledger.REWARDS, BUDGET, "-", "-"))
        self.policies = dict.fromkeys(OWNERS, HarvestPolicy())
        self.sessions: dict[str, Ran] = {}
        self.given: dict[tuple[str, int], Given] = {}
        self.heard = dict.fromkeys(OWNERS, self.book.now)
        self.seqs = dict.fromkeys(OWNERS, 0)
        self.offered: list[tuple[datetime, int]] = []
        self.paid: dict[str, int] = dict.fromkeys(OWNERS, 0)
        self.times_paid: dict[tuple[str, int], int] = {}
        self.numbers = 0
        for device, owner in OWNERS.items():
            self.book.issue(RegisterDevice(device, "phone", PHONE, "eu"), owner)
            self.book.issue(harvest.EnrolHarvester(device, PHONE), owner)
        for device, owner in JUDGES.items():
            self.book.issue(RegisterDevice(device, "server", PHONE, "eu"), owner)

    # The model

    def issue(self, command: Any, by: str = "operator", role: str | None = None) -> list[Any] | None:
        """The events; None if a rule refused, and then nothing changed. Ends of sessions are booked here."""
        states = dict(self.book.states)
        before = len(self.book.events)
        try:
            events = self.book.issue(command, by, role)
        except Rejected as rule:
            assert self.book.states == states
            self.refusal = rule
            return None
        for stream, event in self.book.events[before:]:
            if isinstance(event, harvest.HarvestSessionStopped):
                self.ended(self.sessions[stream.removeprefix("harvest-session:")], event)
        return events

    def ended(self, ran: Ran, event: harvest.HarvestSessionStopped) -> None:
        """Never later than its limit, and its running time is that of its intervals."""
        assert ran.stopped is None
        assert event.at == min(self.book.now, ran.over())
        ran.stopped = event.at
        assert event.running_ms == ran.running(event.at) // 1_000
        if ran.intervals[-1][1] is None:
            ran.intervals[-1][1] = event.at
        self.offered.append((event.at, event.running_ms))

    def open(self, device: str) -> Ran | None:
        """The open session, if its time is not over."""
        found = [ran for ran in self.sessions.values() if ran.device == device and ran.stopped is None]
        assert len(found) <= 1
        return found[0] if found and self.book.now < found[0].over() else None

    def some_session(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.sessions)[-4:]))

    def some_contribution(self, data: st.DataObject) -> Given:
        open_ = sorted(key for key, given in self.given.items() if given.status != "paid")
        return self.given[
            data.draw(st.sampled_from(open_[-3:] or sorted(self.given)) | st.sampled_from(sorted(self.given)))
        ]

    def report(self, device: str, **changed: Any) -> list[Any] | None:
        self.seqs[device] += 1
        said: dict[str, Any] = {
            "charging": True,
            "battery_percent": 60,
            "temperature_c": 30,
            "network": "wifi",
            "screen_on": False,
            "cpu_percent": 5,
            "ram_percent": 5,
            "idle_seconds": 999,
        }
        command = harvest.ReportDeviceState(device, self.seqs[device], **{**said, **changed})
        before = self.open(device)
        events = self.issue(command, OWNERS[device])
        assert events is not None
        if events:
            self.heard[device] = self.book.now
            if before is not None:
                before.heard = self.book.now
        else:
            assert self.book.now < self.heard[device] + 5 * MINUTE
        return events

    # Time, reports and sessions

    @rule(seconds=spans)
    def wait(self, seconds: int) -> None:
        self.book.now += seconds * SECOND

    @rule(
        device=devices,
        changed=st.sampled_from(
            (
                {},
                {},
                {"battery_percent": 30},
                {"temperature_c": 57},
                {"temperature_c": 66},
                {"temperature_c": None},
                {"charging": None},
                {"screen_on": True},
                {"network": "ethernet"},
                {"network": "cellular"},
                {"idle_seconds": 0, "cpu_percent": 99},
            )
        ),
    )
    def say(self, device: str, changed: dict[str, Any]) -> None:
        ran = self.open(device)
        paused = ran is not None and ran.intervals[-1][1] is not None
        self.report(device, **changed)
        if ran is not None:
            hot = changed.get("temperature_c", 30)
            low = changed.get("battery_percent", 60) < ran.policy.minimum_battery_percent
            harmless = changed == {"network": "ethernet"} or "idle_seconds" in changed or hot == 57
            unsafe = hot == 66 or (
                not paused and changed != {} and not harmless and ("battery_percent" not in changed or low)
            )
            assert (ran.stopped is not None) == unsafe

    @rule(device=devices, seconds=st.sampled_from((1, 600, 7_200)))
    def cease(self, device: str, seconds: int) -> None:
        """A suspension ends a session, however soon the device serves again."""
        assert self.issue(SuspendDevice(device, "-"), OWNERS[device]) is not None
        for ran in self.sessions.values():
            if ran.device == device and ran.stopped is None:
                ran.ceased.append(self.book.now)
        self.book.now += seconds * SECOND
        assert self.issue(ResumeDevice(device), OWNERS[device]) is not None
        assert self.open(device) is None

    @rule(device=devices, policy=st.none() | policies, rested=st.sampled_from((True, True, False)))
    def start(self, device: str, policy: HarvestPolicy | None, rested: bool) -> None:
        """A policy counts from the next session on."""
        if policy is not None:
            assert self.issue(harvest.UpdateHarvestPolicy(device, policy), OWNERS[device]) is not None
            self.policies[device] = policy
            self.say(device, {"battery_percent": 30})
        if rested and self.open(device) is None:
            self.book.now += HOUR
        self.report(device)
        before = self.open(device)
        self.numbers += 1
        id = f"s{self.numbers:04}"
        events = self.issue(harvest.StartHarvestSession(id, device), OWNERS[device])
        if events is None:
            rules = (
                harvest.HarvestSessionIsOpen,
                harvest.CooldownIsNotOver,
                harvest.HarvestReputationIsTooLow,
            )
            assert isinstance(self.refusal, rules)
            assert not isinstance(self.refusal, harvest.HarvestSessionIsOpen) or before is not None
            return
        assert before is None, "one open session a device"
        now = self.book.now
        for ran in self.sessions.values():
            if ran.device == device:
                assert ran.stopped is not None
                assert now >= ran.stopped + timedelta(minutes=ran.policy.cooldown_minutes)
        self.sessions[id] = Ran(device, self.policies[device], now, now, [[now, None]])

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        id = self.some_session(data)
        ran = self.sessions[id]
        is_open = self.open(ran.device) is ran
        done = self.issue(harvest.PauseHarvestSession(id), OWNERS[ran.device])
        assert (done is not None) == is_open
        if done:
            ran.intervals[-1][1] = ran.heard = self.book.now

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        id = self.some_session(data)
        ran = self.sessions[id]
        is_open = self.open(ran.device) is ran
        if is_open:
            self.report(ran.device)
        done = self.issue(harvest.ResumeHarvestSession(id), OWNERS[ran.device])
        assert (done is not None) == is_open
        if done:
            ran.intervals.append([self.book.now, None])
            ran.heard = self.book.now

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), reason=st.sampled_from(("asked", "time-limit", "no-report")))
    def stop(self, data: st.DataObject, reason: str) -> None:
        """A timer stops what is over, and nothing else; a second stop changes nothing."""
        id = self.some_session(data)
        ran = self.sessions[id]
        is_open, was_stopped = self.open(ran.device) is ran, ran.stopped is not None
        done = self.issue(harvest.StopHarvestSession(id, reason), "timer", "worker")
        assert (done is None) == (is_open and reason != "asked")
        assert (done == []) == was_stopped
        assert (ran.stopped is None) == (done is None)

    # Contributions

    @rule(
        device=devices,
        seconds=st.sampled_from((1, 60, 3_600, 3_600, 7_200)),
        part=st.sampled_from((Fraction(1), Fraction(1), Fraction(1, 3), Fraction(1, 1_000_000))),
        metric=st.sampled_from(METRICS),
        tasks=st.integers(0, 3),
        anew=st.booleans(),
    )
    def give(self, device: str, seconds: int, part: Fraction, metric: str, tasks: int, anew: bool) -> None:
        """As much as fits, after a while, in a session that is open."""
        if self.open(device) is None and anew:
            self.start(device, None, True)
        if self.open(device) is not None:
            self.book.now += seconds * SECOND
            self.offer(
                max(id for id, ran in self.sessions.items() if ran.device == device), part, metric, 1, tasks
            )

    @precondition(lambda self: self.sessions)
    @rule(
        data=st.data(),
        part=st.sampled_from((Fraction(21, 20), Fraction(1), Fraction(1, 2), Fraction(0))),
        metric=st.sampled_from(METRICS),
        step=st.sampled_from((1, 1, 1, 5, 0, -1)),
        tasks=st.integers(0, 3),
    )
    def give_anything(self, data: st.DataObject, part: Fraction, metric: str, step: int, tasks: int) -> None:
        self.offer(self.some_session(data), part, metric, step, tasks)

    def offer(self, id: str, part: Fraction, metric: str, step: int, tasks: int) -> None:
        """Accepted exactly if it fits into capability times running time, in time and with the next number."""
        ran, now = self.sessions[id], self.book.now
        until = min(now, ran.over() if ran.stopped is None else ran.stopped)
        seconds = Fraction(ran.running(until) - ran.counted, 10**6)
        assert seconds >= 0
        most = seconds * SIZES.get(metric, 1_000)
        value = math.floor(most * part) + (1 if part > 1 else 0)
        names = tuple(f"{id}-{ran.seq + step}-{n}" for n in range(tasks))
        seq = max(ran.seq + step, 0)
        results = tuple(harvest.TaskResult(name, "aa") for name in names)
        given: dict[str, Any] = {metric: value}
        command = harvest.RecordContribution(id, seq, tasks=results, **given)
        done = self.issue(command, OWNERS[ran.device])
        fits = 0 < value <= most and seq > ran.seq and now <= until + timedelta(days=1)
        assert (done is not None) == fits, (value, most, seq)
        if done is not None:
            ran.seq, ran.counted = seq, ran.running(until)
            if ran.stopped is None:
                ran.heard = now
            self.given[id, seq] = Given(id, seq, ran.device, Work(**given), names)

    @precondition(lambda self: self.given)
    @rule(
        data=st.data(),
        judges=st.lists(st.sampled_from(sorted(JUDGES)), min_size=2, max_size=6),
        found=st.sampled_from(("aa", "aa", "aa", "aa", "bb", "cc")),
        pay=st.booleans(),
    )
    def judge(self, data: st.DataObject, judges: list[str], found: str, pay: bool) -> None:
        """The model counts one result an owner and task, and none of the harvester's owner."""
        given = self.some_contribution(data)
        if not given.tasks:
            return
        results = tuple(harvest.Result(task, judge, found) for task in given.tasks for judge in judges)
        done = self.issue(harvest.ValidateContribution(given.session, given.seq, results), "worker", "worker")
        if given.status != "pending":
            assert done == []
            return
        assert (done is None) == given.disputed
        if done is None:
            return
        for task in given.tasks:
            votes = given.votes.setdefault(task, {})
            for owner in (JUDGES[judge] for judge in judges):
                if owner != OWNERS[given.device]:
                    votes.setdefault(owner, found)
        self.decide(given)
        state = self.book.read(harvest.contributions, f"{given.session}:{given.seq}")
        assert state.status == given.status
        if pay:
            self.pay(given)

    def bonus_tasks(self, given: Given) -> int:
        return min(len(given.tasks), (given.work.cpu_ms + given.work.gpu_ms) // 1_000)

    def decide(self, given: Given) -> None:
        reputation = score(self.book.read, given.device, "harvest", self.book.now)
        quorum = 3 if reputation < 4_000 or self.bonus_tasks(given) < len(given.tasks) else 2
        agreed = []
        for votes in given.votes.values():
            found = list(votes.values())
            fit = [x for x in set(found) if found.count(x) >= quorum and 2 * found.count(x) > len(found)]
            if fit and fit != ["aa"]:
                given.status = "rejected"
            agreed.append(bool(fit))
        if given.status == "pending" and all(agreed):
            self.validate(given, reputation)

    def validate(self, given: Given, reputation: int) -> None:
        today = self.book.now.date()
        offered = sum(ms for at, ms in self.offered if 0 <= (today - at.date()).days <= 6)
        hours = Fraction(offered, 3_600_000)
        scarcity = Fraction(2) if hours < 100 else Fraction(3, 2) if hours < 1_000 else Fraction(1)
        given.status = "validated"
        given.reward = fair_reward(given.work, self.bonus_tasks(given), reputation, scarcity)

    @precondition(lambda self: len(self.given) > 1)
    @rule(device=devices, kind=st.sampled_from(("success", "success", "failure")))
    def be_known(self, device: str, kind: str) -> None:
        self.numbers += 1
        assert self.issue(RecordReputation(device, "harvest", kind, f"e{self.numbers}")) is not None

    @precondition(lambda self: self.given)
    @rule(data=st.data(), days=st.sampled_from((0, 0, 3)))
    def approve(self, data: st.DataObject, days: int) -> None:
        self.book.now += timedelta(days=days)
        self.pay(self.some_contribution(data))

    def pay(self, given: Given) -> None:
        """Once, and only when it was validated and is not disputed."""
        key = (given.session, given.seq)
        done = self.issue(harvest.ApproveReward(*key), "worker", "worker")
        assert (done is None) == (given.disputed or given.status in ("pending", "rejected"))
        assert bool(done) == (given.status == "validated" and not given.disputed)
        if done:
            self.times_paid[key] = self.times_paid.get(key, 0) + 1
            given.status = "paid"
            self.paid[given.device] += given.reward

    @precondition(lambda self: self.given)
    @rule(data=st.data(), verdict=st.sampled_from(("valid", "valid", "failure", "fraud")), wait=st.booleans())
    def dispute(self, data: st.DataObject, verdict: str, wait: bool) -> None:
        given = self.some_contribution(data)
        key = (given.session, given.seq)
        if given.status == "pending" and not wait:
            return
        if self.issue(harvest.DisputeContribution(*key, "look"), OWNERS[given.device]) is not None:
            assert given.status != "paid"
            given.disputed = True
            self.pay(given)
        if wait or not given.disputed:
            return
        assert self.issue(harvest.DecideContribution(*key, verdict, "seen")) is not None
        given.disputed = False
        if verdict != "valid":
            given.status = "rejected"
        elif given.status != "validated":
            self.validate(given, score(self.book.read, given.device, "harvest", self.book.now))

    # Invariants

    @invariant()
    def a_device_has_at_most_one_open_session(self) -> None:
        for device in OWNERS:
            open_ = [id for id, ran in self.sessions.items() if ran.device == device and ran.stopped is None]
            kept = self.book.read(harvest.harvesters, device).session
            assert open_ == ([kept] if kept else [])

    @invariant()
    def a_session_keeps_its_policy(self) -> None:
        for id, ran in self.sessions.items():
            assert self.book.read(harvest.sessions, id).policy == ran.policy

    @invariant()
    def a_session_gives_at_most_capability_times_its_running_time(self) -> None:
        for id, ran in self.sessions.items():
            seconds = Fraction(ran.running(ran.stopped or min(self.book.now, ran.over())), 10**6)
            assert seconds <= 8 * 3_600
            works = [given.work for given in self.given.values() if given.session == id]
            for metric in METRICS:
                assert sum(getattr(work, metric) for work in works) <= seconds * SIZES.get(metric, 1_000)

    @invariant()
    def rewards_are_paid_once_and_out_of_the_pool(self) -> None:
        assert all(times == 1 for times in self.times_paid.values())
        for device, owner in OWNERS.items():
            account = self.book.read(ledger.accounts, f"wallet:{owner}")
            assert account.posted.get(FOG, 0) == self.paid[device]
            assert self.book.read(harvest.harvesters, device).totals.reward == self.paid[device]
        pool = self.book.read(ledger.accounts, ledger.REWARDS).posted[FOG]
        assert pool == BUDGET - sum(self.paid.values())

    @invariant()
    def the_region_was_offered_what_ran(self) -> None:
        today = self.book.now.date()
        recent = sum(ms for at, ms in self.offered if 0 <= (today - at.date()).days <= 6)
        assert self.book.read(harvest.regions, "eu").offered_ms(self.book.now) == recent


TestHarvest = HarvestMachine.TestCase
TestHarvest.settings = settings(max_examples=2 * EXAMPLES, stateful_step_count=50, deadline=None)
