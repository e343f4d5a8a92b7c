"""Idle devices that contribute compute, for reward: when they may, what they did, who confirmed it, what it pays.

A device is harvested in sessions. What it did comes as contributions, each within the device's capabilities times the
time since the one before. Others confirm a contribution by their own results (BOINC's quorum: D. Anderson, 'BOINC: A
Platform for Volunteer Computing', 2019); then its reward is fixed, and paid at once from `pool:rewards`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from domain._kernel import (
    BASIS_POINTS,
    Count,
    Decision,
    Id,
    Issued,
    NotFound,
    Personal,
    Quantity,
    Read,
    Rejected,
    SmallInt,
    Stream,
    Text,
    floor_div,
)
from domain.devices import (
    EPOCH,
    NOTHING,
    Capabilities,
    Device,
    DeviceIsRetired,
    DeviceIsSuspended,
    devices,
    owned,
    score,
    serving,
)
from domain.ledger import REWARDS, pay_out, wallet_of
from domain.staking import known as known_validator
from domain.staking import validators


@dataclass(frozen=True, slots=True)
class Parameters:
    """The constants of harvesting, in one place."""

    session_limit: timedelta = timedelta(hours=8)
    """Of wall time, pauses included."""
    silence_limit: timedelta = timedelta(hours=3)
    """A session ends when nothing was heard of its device for so long. Two hours without a report are ordinary
    (a phone asleep on its charger) and are paid."""
    late_contribution: timedelta = timedelta(days=1)
    """How long after its end a session's last work may still be recorded."""
    report_kept_every: timedelta = timedelta(minutes=5)
    """A report that changes no verdict and comes sooner after a kept one leaves no event."""
    report_valid_for: timedelta = timedelta(minutes=15)
    """Older readings are as good as unknown."""
    most_cooldown_doublings: int = 6
    """The cooldown doubles with each rejected contribution in a row, up to 32 hours for one of 30 minutes."""
    least_score: int = 1_500
    """Reputation (basis points) below which no session starts: five failures, or two frauds, and nothing else."""
    suspect_score: int = 4_000
    """Reputation below which a device's results need the raised quorum."""
    quorum: int = 2
    raised_quorum: int = 3
    most_results_a_task: int = 7
    most_tasks: int = 20
    least_work_a_task_ms: int = 1_000
    """Processor time (CPU and GPU) that backs a task; without it the task earns no bonus, and is suspicious."""
    dispute_period: timedelta = timedelta(days=14)
    cpu_tenths: int = 10
    """Tenths of a point: for a core-hour,"""
    memory_tenths: int = 5
    """for a GB-hour of memory,"""
    bandwidth_tenths: int = 15
    """for a GB moved,"""
    storage_tenths: int = 3
    """for a GB-hour stored,"""
    gpu_tenths: int = 50
    """for a GPU-hour."""
    point_units: int = 10_000_000
    """Smallest units of FOG a point is worth: 10 FOG."""
    task_units: int = 100_000
    """Smallest units of FOG for a validated task: 0.1 FOG."""
    most_bonus: int = 2_200
    """Basis points that a reputation of 10,000 adds to a reward."""
    scarcity: tuple[tuple[int, int], ...] = ((100, 20_000), (1_000, 15_000))
    """Below so many offered hours, the reward's factor in basis points; the first that fits counts."""
    offer_days: int = 7
    """UTC days, the present one included, whose offered hours count."""


P = Parameters()

SERVICE = "harvest"
"""The service under which devices keep their reputation for harvesting."""
MICROSECOND, MINUTE = timedelta(microseconds=1), timedelta(minutes=1)
MS_AN_HOUR = 3_600_000
MINUTES_A_DAY = 1_440
UNMETERED = ("wifi", "ethernet")
TIME_LIMIT, NO_REPORT, HOURS_ENDED = "time-limit", "no-report", "outside-allowed-hours"
DEADLINES = (TIME_LIMIT, NO_REPORT, HOURS_ENDED)
"""Reasons for which timers stop a session; nobody else stops one for them before they are due."""
CONFIRMED, DENIED = "confirmed", "denied"
VERDICTS = ("valid", "failure", "fraud")


@dataclass(frozen=True, slots=True)
class HarvestPolicy:
    """When a device may be harvested: its owner may tighten the limits that hold for all, never loosen them.

    Hours are minutes after midnight in the device's own zone, from the first up to the second; they may wrap
    midnight, and twice the same means all day.
    """

    minimum_battery_percent: Count = 20
    most_temperature_c: SmallInt = 45
    throttle_above_c: SmallInt = 55
    stop_above_c: SmallInt = 65
    from_minute: Count = 0
    until_minute: Count = 0
    utc_offset_minutes: SmallInt = 0
    most_cpu_percent: Count = 50
    most_ram_percent: Count = 30
    least_idle_seconds: Count = 300
    cooldown_minutes: Count = 30
    most_session_minutes: Count = 480

    @property
    def open_minutes(self) -> int:
        """How long its hours last."""
        return (self.until_minute - self.from_minute) % MINUTES_A_DAY or MINUTES_A_DAY

    @property
    def opens_at(self) -> int:
        """The minute of the day, UTC, at which its hours begin."""
        return (self.from_minute - self.utc_offset_minutes) % MINUTES_A_DAY

    def minutes_left(self, at: datetime) -> int:
        """Minutes, the present one included, until the allowed hours end; 0 outside, and a day if they never do."""
        if self.open_minutes == MINUTES_A_DAY:
            return MINUTES_A_DAY
        since = ((at - EPOCH) // MINUTE - self.opens_at) % MINUTES_A_DAY
        return max(self.open_minutes - since, 0)


BOUNDS = {
    "minimum_battery_percent": (20, 100),
    "most_temperature_c": (-50, 45),
    "throttle_above_c": (-50, 55),
    "stop_above_c": (-50, 65),
    "from_minute": (0, MINUTES_A_DAY - 1),
    "until_minute": (0, MINUTES_A_DAY - 1),
    "utc_offset_minutes": (-720, 840),
    "most_cpu_percent": (0, 50),
    "most_ram_percent": (0, 30),
    "least_idle_seconds": (300, 86_400),
    "cooldown_minutes": (30, 10_080),
    "most_session_minutes": (1, 480),
}
"""Of each field of a policy the least and the most."""


@dataclass(frozen=True, slots=True)
class Readings:
    """What a device said of itself; None where it does not know."""

    charging: bool | None = None
    battery_percent: int | None = None
    temperature_c: int | None = None
    network: str | None = None
    screen_on: bool | None = None
    cpu_percent: int | None = None
    ram_percent: int | None = None
    idle_seconds: int | None = None


UNKNOWN = Readings()


@dataclass(frozen=True, slots=True)
class Work:
    """What a device gave: core-milliseconds, MB-milliseconds (MB = 10^6 bytes), bytes, GPU-milliseconds."""

    cpu_ms: int = 0
    memory_mb_ms: int = 0
    bandwidth_bytes: int = 0
    storage_mb_ms: int = 0
    gpu_ms: int = 0

    def plus(self, more: Work) -> Work:
        return Work(
            self.cpu_ms + more.cpu_ms,
            self.memory_mb_ms + more.memory_mb_ms,
            self.bandwidth_bytes + more.bandwidth_bytes,
            self.storage_mb_ms + more.storage_mb_ms,
            self.gpu_ms + more.gpu_ms,
        )


NO_WORK = Work()


@dataclass(frozen=True, slots=True)
class TaskResult:
    task: Id
    result_digest: Id


# Events: stored for ever. Add fields with defaults; never rename, never remove.


@dataclass(frozen=True, slots=True)
class HarvesterEnrolled:
    owner: str
    region: str
    capabilities: Capabilities
    policy: HarvestPolicy
    at: datetime


@dataclass(frozen=True, slots=True)
class HarvestPolicyUpdated:
    version: int
    policy: HarvestPolicy
    at: datetime


@dataclass(frozen=True, slots=True)
class DeviceStateReported:
    """One of a device's reports: the first, one that changes a verdict, or one now and then."""

    seq: int
    readings: Readings
    session: str
    """The session that was open; empty for none."""
    at: datetime


@dataclass(frozen=True, slots=True)
class HarvestBegan:
    session: str
    at: datetime


@dataclass(frozen=True, slots=True)
class HarvestEnded:
    session: str
    reason: str
    running_ms: int
    rests_until: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class WorkCredited:
    """A contribution was paid, and counts in the harvester's lifetime totals."""

    session: str
    seq: int
    work: Work
    tasks: int
    reward: Quantity


@dataclass(frozen=True, slots=True)
class WorkRejected:
    session: str
    seq: int
    at: datetime


@dataclass(frozen=True, slots=True)
class RejectionOverturned:
    session: str
    seq: int


@dataclass(frozen=True, slots=True)
class HarvestSessionStarted:
    device: str
    owner: str
    region: str
    capabilities: Capabilities
    policy: HarvestPolicy
    policy_version: int
    at: datetime
    ends_at: datetime
    ends_because: str
    halts: int = 0
    """How many times its device had ceased to serve before."""


@dataclass(frozen=True, slots=True)
class HarvestSessionThrottled:
    temperature_c: int
    at: datetime


@dataclass(frozen=True, slots=True)
class HarvestThrottleLifted:
    temperature_c: int
    at: datetime


@dataclass(frozen=True, slots=True)
class HarvestSessionPaused:
    at: datetime


@dataclass(frozen=True, slots=True)
class HarvestSessionResumed:
    at: datetime


@dataclass(frozen=True, slots=True)
class HarvestSessionStopped:
    device: str
    reason: str
    """Its owner's, a rule's name, or one of the deadlines'."""
    running_ms: int
    """Pauses left out; rounded down."""
    at: datetime
    """When it was over, whenever that was noticed."""


@dataclass(frozen=True, slots=True)
class ContributionCounted:
    """The session's time up to here is accounted for."""

    seq: int
    until: datetime


@dataclass(frozen=True, slots=True)
class ContributionRecorded:
    device: str
    owner: str
    region: str
    work: Work
    tasks: tuple[TaskResult, ...]
    proof: str
    elapsed_ms: int
    """The session's running time that it covers; rounded down."""
    at: datetime


@dataclass(frozen=True, slots=True)
class Vote:
    task: str
    """Empty for a contribution without tasks."""
    voter: str
    """The owner of the device, or the operator of the validator."""
    result_digest: str
    """`confirmed` or `denied` for a contribution without tasks."""


@dataclass(frozen=True, slots=True)
class ResultsReceived:
    votes: tuple[Vote, ...]
    at: datetime


@dataclass(frozen=True, slots=True)
class ContributionDisputed:
    by: str
    reason: Personal
    at: datetime


@dataclass(frozen=True, slots=True)
class ContributionDecisionUpheld:
    """The operator looked at a disputed decision and let it stand."""

    verdict: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ContributionValidated:
    """Confirmed, and all that its reward depends on is fixed."""

    device: str
    owner: str
    tasks: int
    """Those that earn the bonus."""
    score: int
    offered_ms: int
    scarcity: int
    gpu_tenths: int
    reward: Quantity
    reason: str
    """quorum, or what an operator gave for deciding a dispute."""
    at: datetime


@dataclass(frozen=True, slots=True)
class ContributionRejected:
    device: str
    owner: str
    kind: str
    """failure or fraud, as its device's reputation will count it; empty where nobody was found wrong."""
    reason: str
    """outvoted, no-quorum, or what an operator gave for deciding a dispute."""
    at: datetime


@dataclass(frozen=True, slots=True)
class RewardPaid:
    device: str
    owner: str
    amount: Quantity
    at: datetime


@dataclass(frozen=True, slots=True)
class HoursOffered:
    """A session's running time, in its region."""

    session: str
    running_ms: int
    at: datetime


@dataclass(frozen=True, slots=True)
class TaskClaimed:
    session: str
    seq: int


HarvesterEvent = (
    HarvesterEnrolled
    | HarvestPolicyUpdated
    | DeviceStateReported
    | HarvestBegan
    | HarvestEnded
    | WorkCredited
    | WorkRejected
    | RejectionOverturned
)
SessionEvent = (
    HarvestSessionStarted
    | HarvestSessionThrottled
    | HarvestThrottleLifted
    | HarvestSessionPaused
    | HarvestSessionResumed
    | HarvestSessionStopped
    | ContributionCounted
)
ContributionEvent = (
    ContributionRecorded
    | ResultsReceived
    | ContributionDisputed
    | ContributionDecisionUpheld
    | ContributionValidated
    | ContributionRejected
    | RewardPaid
)

# State


@dataclass(frozen=True, slots=True)
class Totals:
    """Of a device's whole life; work, tasks and reward are those of paid contributions."""

    sessions: int = 0
    running_ms: int = 0
    paid: int = 0
    rejected: int = 0
    work: Work = NO_WORK
    tasks: int = 0
    reward: int = 0


@dataclass(frozen=True, slots=True)
class Harvester:
    owner: str = ""
    capabilities: Capabilities = NOTHING
    policy: HarvestPolicy = HarvestPolicy()
    policy_version: int = 0
    seq: int = -1
    """Of the last kept report."""
    readings: Readings = UNKNOWN
    reported_at: datetime | None = None
    session: str = ""
    """The open one; empty for none."""
    rests_until: datetime | None = None
    rejected_in_a_row: int = 0
    rejected_at: datetime | None = None
    totals: Totals = Totals()

    def ready_at(self) -> datetime | None:
        """When its cooldown is over: after its last session, and longer the more of its work was rejected."""
        doublings = min(self.rejected_in_a_row, P.most_cooldown_doublings)
        if not doublings or self.rejected_at is None:
            return self.rests_until
        rest = timedelta(minutes=self.policy.cooldown_minutes) * (1 << doublings)
        return max(self.rejected_at + rest, self.rests_until or self.rejected_at)


@dataclass(frozen=True, slots=True)
class Session:
    device: str = ""
    owner: str = ""
    region: str = ""
    capabilities: Capabilities = NOTHING
    policy: HarvestPolicy = HarvestPolicy()
    status: str = "absent"
    """absent, running, paused or stopped."""
    throttled: bool = False
    started_at: datetime | None = None
    ends_at: datetime | None = None
    ends_because: str = ""
    halts: int = 0
    seen_at: datetime | None = None
    seq: int = 0
    """Of the last contribution."""
    counted_until: datetime | None = None
    paused_at: datetime | None = None
    paused_us: int = 0
    """All pauses that are over."""
    paused_us_counted: int = 0
    """All pauses until `counted_until`."""
    stopped_at: datetime | None = None

    def paused_until(self, at: datetime) -> int:
        """Microseconds of pauses from the start until a time."""
        return self.paused_us + ((at - self.paused_at) // MICROSECOND if self.paused_at else 0)

    def running_us(self, at: datetime) -> int:
        """Running time from the start until a time, in microseconds."""
        assert self.started_at is not None
        return (at - self.started_at) // MICROSECOND - self.paused_until(at)

    def uncounted_us(self, at: datetime) -> int:
        """Running time since the last contribution."""
        assert self.counted_until is not None
        paused = self.paused_until(at) - self.paused_us_counted
        return (at - self.counted_until) // MICROSECOND - paused


@dataclass(frozen=True, slots=True)
class Contribution:
    device: str = ""
    owner: str = ""
    region: str = ""
    work: Work = NO_WORK
    tasks: tuple[TaskResult, ...] = ()
    status: str = "absent"
    """absent, pending, validated, rejected or paid."""
    kind: str = ""
    """Of a rejection: failure, fraud, or empty where nobody was found wrong."""
    votes: tuple[Vote, ...] = ()
    disputed: bool = False
    final: bool = False
    """An operator decided it."""
    decided_at: datetime | None = None
    bonus_tasks: int = 0
    reward: int = 0

    def claims(self) -> dict[str, str]:
        """What it says the result of each task is; without tasks, that its work was done."""
        return {each.task: each.result_digest for each in self.tasks} or {"": CONFIRMED}

    def tally(self, task: str) -> Counter[str]:
        return Counter(vote.result_digest for vote in self.votes if vote.task == task)


@dataclass(frozen=True, slots=True)
class RegionHours:
    """Running time that sessions offered in a region, by UTC day, for as many days as count."""

    days: dict[str, int] = field(default_factory=dict)
    """YYYY-MM-DD -> milliseconds."""

    def offered_ms(self, at: datetime) -> int:
        first = day_of(at - timedelta(days=P.offer_days - 1))
        return sum(ms for day, ms in self.days.items() if first <= day)


@dataclass(frozen=True, slots=True)
class TaskClaim:
    session: str = ""
    seq: int = 0


# evolve


def day_of(at: datetime) -> str:
    return at.astimezone(UTC).date().isoformat()


def evolve_harvester(harvester: Harvester, event: HarvesterEvent) -> Harvester:
    totals = harvester.totals
    match event:
        case DeviceStateReported():
            return replace(harvester, seq=event.seq, readings=event.readings, reported_at=event.at)
        case HarvestBegan():
            return replace(harvester, session=event.session)
        case HarvestEnded():
            totals = replace(
                totals, sessions=totals.sessions + 1, running_ms=totals.running_ms + event.running_ms
            )
            return replace(harvester, session="", rests_until=event.rests_until, totals=totals)
        case WorkCredited():
            totals = replace(
                totals,
                paid=totals.paid + 1,
                work=totals.work.plus(event.work),
                tasks=totals.tasks + event.tasks,
                reward=totals.reward + event.reward,
            )
            return replace(harvester, rejected_in_a_row=0, totals=totals)
        case WorkRejected():
            return replace(
                harvester,
                rejected_in_a_row=harvester.rejected_in_a_row + 1,
                rejected_at=event.at,
                totals=replace(totals, rejected=totals.rejected + 1),
            )
        case RejectionOverturned():
            return replace(
                harvester,
                rejected_in_a_row=max(harvester.rejected_in_a_row - 1, 0),
                totals=replace(totals, rejected=totals.rejected - 1),
            )
        case HarvesterEnrolled():
            return Harvester(event.owner, event.capabilities, event.policy, 1)
        case HarvestPolicyUpdated():
            return replace(harvester, policy=event.policy, policy_version=event.version)


def evolve_session(session: Session, event: SessionEvent) -> Session:
    match event:
        case ContributionCounted():
            return replace(
                session,
                seq=event.seq,
                seen_at=event.until,
                counted_until=event.until,
                paused_us_counted=session.paused_until(event.until),
            )
        case HarvestSessionThrottled():
            return replace(session, throttled=True)
        case HarvestThrottleLifted():
            return replace(session, throttled=False)
        case HarvestSessionPaused():
            return replace(session, status="paused", paused_at=event.at, seen_at=event.at)
        case HarvestSessionResumed():
            paused = session.paused_until(event.at)
            return replace(session, status="running", paused_at=None, paused_us=paused, seen_at=event.at)
        case HarvestSessionStopped():
            paused = session.paused_until(event.at)
            return replace(session, status="stopped", paused_at=None, paused_us=paused, stopped_at=event.at)
        case HarvestSessionStarted():
            return Session(
                event.device,
                event.owner,
                event.region,
                event.capabilities,
                event.policy,
                status="running",
                started_at=event.at,
                ends_at=event.ends_at,
                ends_because=event.ends_because,
                halts=event.halts,
                seen_at=event.at,
                counted_until=event.at,
            )


def evolve_contribution(contribution: Contribution, event: ContributionEvent) -> Contribution:
    match event:
        case ContributionRecorded():
            return Contribution(
                event.device, event.owner, event.region, event.work, event.tasks, status="pending"
            )
        case ResultsReceived():
            return replace(contribution, votes=(*contribution.votes, *event.votes))
        case ContributionDisputed():
            return replace(contribution, disputed=True)
        case ContributionDecisionUpheld():
            return replace(contribution, disputed=False, final=True)
        case ContributionValidated():
            return replace(
                contribution,
                status="validated",
                kind="",
                disputed=False,
                final=contribution.disputed,
                decided_at=event.at,
                bonus_tasks=event.tasks,
                reward=event.reward,
            )
        case ContributionRejected():
            return replace(
                contribution,
                status="rejected",
                kind=event.kind,
                disputed=False,
                final=contribution.disputed,
                decided_at=event.at,
                bonus_tasks=0,
                reward=0,
            )
        case RewardPaid():
            return replace(contribution, status="paid")


def evolve_region(region: RegionHours, event: HoursOffered) -> RegionHours:
    first = day_of(event.at - timedelta(days=P.offer_days))
    days = {day: ms for day, ms in region.days.items() if first <= day}
    today = day_of(event.at)
    days[today] = days.get(today, 0) + event.running_ms
    return RegionHours(days)


def evolve_claim(claim: TaskClaim, event: TaskClaimed) -> TaskClaim:
    return TaskClaim(event.session, event.seq)


harvesters = Stream("harvester", Harvester(), evolve_harvester, HarvesterEvent)
sessions = Stream("harvest-session", Session(), evolve_session, SessionEvent)
contributions = Stream("contribution", Contribution(), evolve_contribution, ContributionEvent)
regions = Stream("harvest-region", RegionHours(), evolve_region, HoursOffered)
claims = Stream("harvest-claim", TaskClaim(), evolve_claim, TaskClaimed)

# Commands


@dataclass(frozen=True, slots=True)
class EnrolHarvester:
    """Offer your device for harvesting: what of it, and when."""

    device: Id
    capabilities: Capabilities
    policy: HarvestPolicy = HarvestPolicy()


@dataclass(frozen=True, slots=True)
class UpdateHarvestPolicy:
    """Change when your device may be harvested; an open session keeps the policy that it began with."""

    device: Id
    policy: HarvestPolicy


@dataclass(frozen=True, slots=True)
class ReportDeviceState:
    """Say how your device is; leave out what it does not know. `seq` grows with each report.

    `network` is wifi, ethernet, or anything else that is metered. A device without a battery that is plugged in is
    charging at 100 percent. The loads count when a session starts, not while it runs.
    """

    device: Id
    seq: int
    charging: bool | None = None
    battery_percent: Count | None = None
    temperature_c: SmallInt | None = None
    network: Id | None = None
    screen_on: bool | None = None
    cpu_percent: Count | None = None
    ram_percent: Count | None = None
    idle_seconds: Count | None = None


@dataclass(frozen=True, slots=True)
class StartHarvestSession:
    """Begin to harvest your device, if it last reported a state that allows it."""

    session: Id
    device: Id


@dataclass(frozen=True, slots=True)
class RecordContribution:
    """Say what your device did since the last contribution. `seq` grows with each.

    Core-milliseconds, MB-milliseconds (MB = 10^6 bytes), bytes moved and GPU-milliseconds; `tasks` are the work units
    that it solved, `proof` whatever lets validators check it.
    """

    session: Id
    seq: Count
    cpu_ms: int = 0
    memory_mb_ms: int = 0
    bandwidth_bytes: int = 0
    storage_mb_ms: int = 0
    gpu_ms: int = 0
    tasks: tuple[TaskResult, ...] = ()
    proof: Text = ""


@dataclass(frozen=True, slots=True)
class PauseHarvestSession:
    """Let your device rest; a pause counts for the session's time limit, and earns nothing."""

    session: Id


@dataclass(frozen=True, slots=True)
class ResumeHarvestSession:
    """Go on after a pause, if your device last reported that it is safe."""

    session: Id


@dataclass(frozen=True, slots=True)
class StopHarvestSession:
    """End a session: your own, or any as an operator. Timers end one for time-limit, outside-allowed-hours or
    no-report, once it is due."""

    session: Id
    reason: Id = "asked"


@dataclass(frozen=True, slots=True)
class Result:
    """What another device found for a task."""

    task: Id
    device: Id
    result_digest: Id


@dataclass(frozen=True, slots=True)
class Attestation:
    """What a staking validator found of a contribution without tasks."""

    validator: Id
    confirms: bool


@dataclass(frozen=True, slots=True)
class ValidateContribution:
    """Add what others found, until a quorum of different owners decides; further findings change nothing.

    A task's result is canonical when 2 owners agree on it and are more than half of those who gave one; 3 owners,
    where the device is poorly reputed or the tasks are implausibly small. One result that is not the canonical one
    rejects the contribution, and so do 7 results without a canonical one. The harvester's own owner never counts.
    A contribution without tasks is attested as a whole by staking validators, of different operators, likewise.
    """

    session: Id
    seq: Count
    results: tuple[Result, ...] = ()
    attestations: tuple[Attestation, ...] = ()


@dataclass(frozen=True, slots=True)
class DisputeContribution:
    """Hold a contribution's reward until an operator decides: its owner, who gave a result for it, or the system."""

    session: Id
    seq: Count
    reason: Personal


@dataclass(frozen=True, slots=True)
class DecideContribution:
    """Decide a disputed contribution for good: valid, failure or fraud."""

    session: Id
    seq: Count
    verdict: Id
    reason: Text


@dataclass(frozen=True, slots=True)
class ApproveReward:
    """Pay what a validated contribution earns (issued when it was validated)."""

    session: Id
    seq: Count


# Rules


class HarvesterNotFound(NotFound):
    """There is no such harvester, or it is not yours."""


class HarvestSessionNotFound(NotFound):
    """There is no such session, or it is not yours."""


class ContributionNotFound(NotFound):
    """There is no such contribution, or it does not concern you."""


class HarvesterExists(Rejected):
    """This device was enrolled before."""


class HarvesterExceedsDevice(Rejected):
    """A harvester offers at most what its device has."""


class PolicyIsTooLoose(Rejected):
    """A policy may tighten the limits that hold for all devices, and stays within what makes sense."""


class ReportIsOutdated(Rejected):
    """A report's number is higher than that of the last one that was kept."""


class ReadingIsOutOfRange(Rejected):
    """A percentage is at most 100."""


class DeviceStateIsStale(Rejected):
    """The device has not reported its state lately."""


class DeviceIsNotCharging(Rejected):
    """A device is harvested only while it is known to be charging."""


class BatteryIsTooLow(Rejected):
    """The battery's charge must be known and at least the limit."""


class DeviceIsTooHot(Rejected):
    """The device's temperature must be known and at most the limit."""


class NetworkIsMetered(Rejected):
    """The device must be known to be on an unmetered network: wifi or ethernet."""


class ScreenIsOn(Rejected):
    """A device is harvested only while its screen is known to be off."""


class OutsideAllowedHours(Rejected):
    """It is not one of the device's allowed hours, in its own zone."""


class CpuIsBusy(Rejected):
    """The processor's load must be known and at most the limit."""


class MemoryIsBusy(Rejected):
    """The memory in use must be known and at most the limit."""


class DeviceIsNotIdle(Rejected):
    """The device must be known to have been idle for a while."""


class CooldownIsNotOver(Rejected):
    """A device rests after a session, and longer the more of its work was rejected in a row."""


class HarvestSessionIsOpen(Rejected):
    """A device has at most one open session."""


class HarvestReputationIsTooLow(Rejected):
    """The device's results were wrong too often."""


class HarvestSessionExists(Rejected):
    """This session was started before."""


class HarvestSessionIsOver(Rejected):
    """The session has ended."""


class HarvestSessionIsNotOver(Rejected):
    """The session has not reached its limit."""


class ContributionSequenceMustIncrease(Rejected):
    """A contribution's number is higher than that of the one before."""


class ContributionIsEmpty(Rejected):
    """A contribution contributes something."""


class ContributionExceedsCapability(Rejected):
    """A device gives at most its capability times the running time since its last contribution."""


class ContributionIsTooLate(Rejected):
    """A session's last work is recorded soon after its end."""


class TooManyTasksInContribution(Rejected):
    """A contribution has a bounded number of tasks."""


class TaskIsListedTwice(Rejected):
    """A contribution lists each of its tasks once."""


class TaskWasClaimed(Rejected):
    """An owner contributes a task's result once."""


class TaskIsNotInContribution(Rejected):
    """Results are for the contribution's own tasks."""


class ContributionNeedsResults(Rejected):
    """A contribution with tasks is validated by results, one without by attestations."""


class JailedValidatorsAttestNothing(Rejected):
    """A jailed validator attests nothing."""


class ContributionIsDisputed(Rejected):
    """A disputed contribution waits for an operator."""


class ContributionIsNotDisputed(Rejected):
    """Only a disputed contribution is decided."""


class ContributionIsPaid(Rejected):
    """What was paid is not disputed any more."""


class ContributionDisputeIsTooLate(Rejected):
    """A rejected contribution is disputed within two weeks."""


class ContributionIsFinal(Rejected):
    """An operator decided this contribution; it is not disputed again."""


class ContributionIsNotValidated(Rejected):
    """A reward is paid only after its contribution was validated."""


class VerdictIsUnknown(Rejected):
    """A verdict is valid, failure or fraud."""


# Decisions: eligibility


def obstacles(readings: Readings, policy: HarvestPolicy, at: datetime) -> Iterator[Rejected]:
    """The rules that a device's readings break under a policy, in their order. What is unknown is not safe."""
    if readings.charging is not True:
        yield DeviceIsNotCharging(value=readings.charging)
    if _below(readings.battery_percent, policy.minimum_battery_percent):
        yield BatteryIsTooLow(value=readings.battery_percent, limit=policy.minimum_battery_percent)
    if _above(readings.temperature_c, policy.most_temperature_c):
        yield DeviceIsTooHot(value=readings.temperature_c, limit=policy.most_temperature_c)
    if readings.network not in UNMETERED:
        yield NetworkIsMetered(value=readings.network, unmetered=UNMETERED)
    if readings.screen_on is not False:
        yield ScreenIsOn(value=readings.screen_on)
    if not policy.minutes_left(at):
        yield OutsideAllowedHours(
            from_minute=policy.from_minute,
            until_minute=policy.until_minute,
            utc_offset_minutes=policy.utc_offset_minutes,
            now=at,
        )
    if _above(readings.cpu_percent, policy.most_cpu_percent):
        yield CpuIsBusy(value=readings.cpu_percent, limit=policy.most_cpu_percent)
    if _above(readings.ram_percent, policy.most_ram_percent):
        yield MemoryIsBusy(value=readings.ram_percent, limit=policy.most_ram_percent)
    if _below(readings.idle_seconds, policy.least_idle_seconds):
        yield DeviceIsNotIdle(value=readings.idle_seconds, limit=policy.least_idle_seconds)


def _below(value: int | None, limit: int) -> bool:
    return value is None or value < limit


def _above(value: int | None, limit: int) -> bool:
    return value is None or value > limit


STOPPING = (
    DeviceIsNotCharging,
    BatteryIsTooLow,
    DeviceIsTooHot,
    NetworkIsMetered,
    ScreenIsOn,
    OutsideAllowedHours,
)
"""What ends a session that runs. The loads and the idle time do not: harvesting itself makes a device busy."""


def unsafe(readings: Readings, policy: HarvestPolicy, at: datetime) -> Rejected | None:
    """The first rule for which a session may not run; it may be warmer than when it began."""
    running = replace(policy, most_temperature_c=policy.stop_above_c)
    return next((rule for rule in obstacles(readings, running, at) if isinstance(rule, STOPPING)), None)


def refusals(harvester: Harvester, reputation: int, at: datetime) -> Iterator[Rejected]:
    """All rules that keep a harvester from starting a session now, in their order."""
    if not reported_lately(harvester, at):
        yield DeviceStateIsStale(
            reported_at=harvester.reported_at, limit_minutes=P.report_valid_for // MINUTE
        )
    yield from obstacles(harvester.readings, harvester.policy, at)
    ready_at = harvester.ready_at()
    if ready_at is not None and at < ready_at:
        yield CooldownIsNotOver(until=ready_at, rejected_in_a_row=harvester.rejected_in_a_row)
    if harvester.session:
        yield HarvestSessionIsOpen(session=harvester.session)
    if reputation < P.least_score:
        yield HarvestReputationIsTooLow(score=reputation, limit=P.least_score)


def reported_lately(harvester: Harvester, at: datetime) -> bool:
    return harvester.reported_at is not None and at < harvester.reported_at + P.report_valid_for


# Decisions: harvesters


def enrolled(read: Read, device: str) -> Harvester:
    harvester = read(harvesters, device)
    if not harvester.owner:
        raise HarvesterNotFound(device=device)
    return harvester


def _check_policy(policy: HarvestPolicy) -> None:
    for name, (least, most) in BOUNDS.items():
        value = getattr(policy, name)
        if not least <= value <= most:
            raise PolicyIsTooLoose(field=name, value=value, least=least, most=most)


def enrol_harvester(command: EnrolHarvester, issued: Issued, read: Read) -> Decision:
    device = owned(read, issued, command.device)
    if read(harvesters, command.device).owner:
        raise HarvesterExists(device=command.device)
    if not device.capabilities.covers(command.capabilities):
        raise HarvesterExceedsDevice(device=command.device)
    _check_policy(command.policy)
    yield (
        harvesters(command.device),
        HarvesterEnrolled(issued.by, device.region, command.capabilities, command.policy, issued.at),
    )


def update_harvest_policy(command: UpdateHarvestPolicy, issued: Issued, read: Read) -> Decision:
    owned(read, issued, command.device)
    harvester = enrolled(read, command.device)
    _check_policy(command.policy)
    if command.policy != harvester.policy:
        yield (
            harvesters(command.device),
            HarvestPolicyUpdated(harvester.policy_version + 1, command.policy, issued.at),
        )


def report_device_state(command: ReportDeviceState, issued: Issued, read: Read) -> Decision:
    """Reports come often: an event is one that changes what may be done, and one now and then."""
    owned(read, issued, command.device)
    harvester = enrolled(read, command.device)
    if command.seq <= harvester.seq:
        raise ReportIsOutdated(device=command.device, seq=command.seq, last=harvester.seq)
    readings = _readings(command)
    follows = list(_after_report(read, harvester, readings, issued))
    if follows or _is_worth_keeping(read, harvester, readings, issued.at):
        yield (
            harvesters(command.device),
            DeviceStateReported(command.seq, readings, harvester.session, issued.at),
        )
    yield from follows


def _readings(command: ReportDeviceState) -> Readings:
    for name in ("battery_percent", "cpu_percent", "ram_percent"):
        value = getattr(command, name)
        if value is not None and value > 100:
            raise ReadingIsOutOfRange(reading=name, value=value, limit=100)
    return Readings(
        command.charging,
        command.battery_percent,
        command.temperature_c,
        command.network,
        command.screen_on,
        command.cpu_percent,
        command.ram_percent,
        command.idle_seconds,
    )


def _is_worth_keeping(read: Read, harvester: Harvester, readings: Readings, at: datetime) -> bool:
    if harvester.reported_at is None or at >= harvester.reported_at + P.report_kept_every:
        return True
    policies = {harvester.policy}
    if harvester.session:
        policies.add(read(sessions, harvester.session).policy)
    return any(
        [type(rule) for rule in obstacles(harvester.readings, policy, at)]
        != [type(rule) for rule in obstacles(readings, policy, at)]
        for policy in policies
    )


def _after_report(read: Read, harvester: Harvester, readings: Readings, issued: Issued) -> Decision:
    """What a report does to the open session."""
    if not harvester.session:
        return
    session = read(sessions, harvester.session)
    temperature = readings.temperature_c
    if issued.at >= over_at(read, session)[0]:
        yield from close(read, harvester.session, issued.at)
        return
    danger = unsafe(readings, session.policy, issued.at)
    if session.status == "paused" and not (
        temperature is not None and temperature > session.policy.stop_above_c
    ):
        danger = None  # It does nothing now, and goes on only when it is safe.
    if danger is not None:
        yield from _stop(read, harvester.session, danger.rule(), issued.at)
    elif temperature is not None and temperature > session.policy.throttle_above_c:
        if not session.throttled:
            yield sessions(harvester.session), HarvestSessionThrottled(temperature, issued.at)
    elif temperature is not None and session.throttled:
        yield sessions(harvester.session), HarvestThrottleLifted(temperature, issued.at)


# Decisions: sessions


def over_at(read: Read, session: Session) -> tuple[datetime, str]:
    """When an open session is over, if nothing more happens, and why; whether or not a timer has run."""
    assert session.ends_at is not None
    assert session.seen_at is not None
    harvester, device = read(harvesters, session.device), read(devices, session.device)
    seen_at = max(session.seen_at, harvester.reported_at or session.seen_at)
    due, reason = session.ends_at, session.ends_because
    if seen_at + P.silence_limit < due:
        due, reason = seen_at + P.silence_limit, NO_REPORT
    # A device that ceased to serve ended its session with that, even if it serves again by now. Of several times the
    # first is not known any more; but when it was last heard, it served.
    if device.halts > session.halts and device.halted_at is not None:
        halted_at = device.halted_at if device.halts == session.halts + 1 else seen_at
        if halted_at < due:
            rule = DeviceIsRetired if device.status == "retired" else DeviceIsSuspended
            due, reason = halted_at, rule.rule()
    return due, reason


def close(read: Read, id: str, at: datetime) -> Decision:
    """Stop a session whose time is over, as of when it was."""
    session = read(sessions, id)
    if session.status in ("running", "paused"):
        due, reason = over_at(read, session)
        if at >= due:
            yield from _stop(read, id, reason, due)


def _stop(read: Read, id: str, reason: str, at: datetime) -> Decision:
    session = read(sessions, id)
    running_ms = floor_div(session.running_us(at), 1_000)
    rests_until = at + timedelta(minutes=session.policy.cooldown_minutes)
    yield sessions(id), HarvestSessionStopped(session.device, reason, running_ms, at)
    yield harvesters(session.device), HarvestEnded(id, reason, running_ms, rests_until, at)
    if running_ms:
        yield regions(session.region), HoursOffered(id, running_ms, at)


def _own_session(read: Read, issued: Issued, id: str) -> Session:
    session = read(sessions, id)
    if session.status == "absent" or session.owner != issued.by:
        raise HarvestSessionNotFound(session=id)
    return session


def _open_session(read: Read, issued: Issued, id: str) -> Session:
    """The caller's own session, if it is open, and its device may serve."""
    session = _own_session(read, issued, id)
    owned(read, issued, session.device)
    if session.status == "stopped":
        raise HarvestSessionIsOver(session=id, stopped_at=session.stopped_at)
    due, reason = over_at(read, session)
    if issued.at >= due:
        raise HarvestSessionIsOver(session=id, stopped_at=due, reason=reason)
    return session


def start_harvest_session(command: StartHarvestSession, issued: Issued, read: Read) -> Decision:
    device = owned(read, issued, command.device)
    before = enrolled(read, command.device)
    if read(sessions, command.session).status != "absent":
        raise HarvestSessionExists(session=command.session)
    if before.session:
        yield from close(read, before.session, issued.at)
    harvester = read(harvesters, command.device)
    for rule in refusals(harvester, score(read, command.device, SERVICE, issued.at), issued.at):
        raise rule
    ends_at, because = _limit(harvester.policy, issued.at)
    yield (
        sessions(command.session),
        HarvestSessionStarted(
            command.device,
            issued.by,
            device.region,
            _offered(harvester, device),
            harvester.policy,
            harvester.policy_version,
            issued.at,
            ends_at,
            because,
            device.halts,
        ),
    )
    yield harvesters(command.device), HarvestBegan(command.session, issued.at)


def _limit(policy: HarvestPolicy, at: datetime) -> tuple[datetime, str]:
    """When a session that begins now ends at the latest: its longest time, or the end of the allowed hours."""
    limit = min(timedelta(minutes=policy.most_session_minutes), P.session_limit)
    if policy.open_minutes < MINUTES_A_DAY:
        closes_at = at - (at - EPOCH) % MINUTE + MINUTE * policy.minutes_left(at)
        if closes_at < at + limit:
            return closes_at, HOURS_ENDED
    return at + limit, TIME_LIMIT


def _offered(harvester: Harvester, device: Device) -> Capabilities:
    """What was enrolled, as far as the device still has it."""
    enrolled, present = harvester.capabilities, device.capabilities
    return Capabilities(
        min(enrolled.cpu_millicores, present.cpu_millicores),
        min(enrolled.memory_mb, present.memory_mb),
        min(enrolled.storage_mb, present.storage_mb),
        min(enrolled.bandwidth_kbps, present.bandwidth_kbps),
        min(enrolled.gpu, present.gpu),
    )


def pause_harvest_session(command: PauseHarvestSession, issued: Issued, read: Read) -> Decision:
    if _open_session(read, issued, command.session).status == "running":
        yield sessions(command.session), HarvestSessionPaused(issued.at)


def resume_harvest_session(command: ResumeHarvestSession, issued: Issued, read: Read) -> Decision:
    session = _open_session(read, issued, command.session)
    if session.status == "running":
        return
    harvester = read(harvesters, session.device)
    if not reported_lately(harvester, issued.at):
        raise DeviceStateIsStale(
            reported_at=harvester.reported_at, limit_minutes=P.report_valid_for // MINUTE
        )
    if danger := unsafe(harvester.readings, session.policy, issued.at):
        raise danger
    yield sessions(command.session), HarvestSessionResumed(issued.at)


def stop_harvest_session(command: StopHarvestSession, issued: Issued, read: Read) -> Decision:
    session = read(sessions, command.session)
    if session.status == "absent" or not (session.owner == issued.by or issued.is_service):
        raise HarvestSessionNotFound(session=command.session)
    if session.status == "stopped":
        return
    due, _ = over_at(read, session)
    if issued.at >= due:
        yield from close(read, command.session, issued.at)
    elif command.reason in DEADLINES:
        raise HarvestSessionIsNotOver(session=command.session, until=due)
    else:
        yield from _stop(read, command.session, command.reason, issued.at)


# Decisions: contributions


def limits(capabilities: Capabilities, us: int) -> Work:
    """The most that capabilities give in a time; each rounded down."""
    return Work(
        floor_div(capabilities.cpu_millicores * us, 1_000_000),
        floor_div(capabilities.memory_mb * us, 1_000),
        floor_div(capabilities.bandwidth_kbps * us, 8_000),
        floor_div(capabilities.storage_mb * us, 1_000),
        floor_div(capabilities.gpu * us, 1_000),
    )


def record_contribution(command: RecordContribution, issued: Issued, read: Read) -> Decision:
    before = _own_session(read, issued, command.session)
    owned(read, issued, before.device)
    yield from close(read, command.session, issued.at)
    session = read(sessions, command.session)
    until = min(issued.at, session.stopped_at or issued.at)
    if issued.at > until + P.late_contribution:
        raise ContributionIsTooLate(session=command.session, until=until + P.late_contribution)
    if command.seq <= session.seq:
        raise ContributionSequenceMustIncrease(session=command.session, seq=command.seq, last=session.seq)
    work = Work(
        command.cpu_ms, command.memory_mb_ms, command.bandwidth_bytes, command.storage_mb_ms, command.gpu_ms
    )
    elapsed_us = session.uncounted_us(until)
    _check_work(work, limits(session.capabilities, elapsed_us), elapsed_us)
    yield from _claim(read, issued.by, command)
    yield sessions(command.session), ContributionCounted(command.seq, until)
    yield (
        contributions(command.session, str(command.seq)),
        ContributionRecorded(
            session.device,
            session.owner,
            session.region,
            work,
            command.tasks,
            command.proof,
            floor_div(elapsed_us, 1_000),
            issued.at,
        ),
    )


def _check_work(work: Work, most: Work, elapsed_us: int) -> None:
    if work == NO_WORK:
        raise ContributionIsEmpty()
    for name in ("cpu_ms", "memory_mb_ms", "bandwidth_bytes", "storage_mb_ms", "gpu_ms"):
        value, limit = getattr(work, name), getattr(most, name)
        if value > limit:
            raise ContributionExceedsCapability(
                metric=name, value=value, limit=limit, elapsed_ms=floor_div(elapsed_us, 1_000)
            )


def _claim(read: Read, owner: str, command: RecordContribution) -> Decision:
    """Note that the owner gave results for these tasks, so that none is given twice."""
    if len(command.tasks) > P.most_tasks:
        raise TooManyTasksInContribution(number=len(command.tasks), limit=P.most_tasks)
    if len({each.task for each in command.tasks}) < len(command.tasks):
        raise TaskIsListedTwice()
    for each in command.tasks:
        claim = read(claims, f"{each.task}:{owner}")
        if claim.session:
            raise TaskWasClaimed(task=each.task, session=claim.session, seq=claim.seq)
        yield claims(each.task, owner), TaskClaimed(command.session, command.seq)


# Decisions: validation


def _contribution(read: Read, session: str, seq: int) -> Contribution:
    contribution = read(contributions, f"{session}:{seq}")
    if contribution.status == "absent":
        raise ContributionNotFound(session=session, seq=seq)
    return contribution


def validate_contribution(command: ValidateContribution, issued: Issued, read: Read) -> Decision:
    contribution = _contribution(read, command.session, command.seq)
    if contribution.status != "pending":
        return
    if contribution.disputed:
        raise ContributionIsDisputed(session=command.session, seq=command.seq)
    where = contributions(command.session, str(command.seq))
    # Asked for before any rule speaks, what the votes need is loaded in one go.
    for result in command.results:
        read(devices, result.device)
    for attestation in command.attestations:
        read(validators, attestation.validator)
    votes = _new_votes(
        contribution, [*_results(command, contribution, read), *_attested(command, contribution, read)]
    )
    if votes:
        yield where, ResultsReceived(votes, issued.at)
    reputation = score(read, contribution.device, SERVICE, issued.at)
    found = read(contributions, f"{command.session}:{command.seq}")
    match judge(found, quorum_for(found, reputation)):
        case "valid":
            yield from _validate(read, command.session, command.seq, "quorum", issued.at)
        case "outvoted":
            yield from _reject(read, command.session, command.seq, "failure", "outvoted", issued.at)
        case "no-quorum":
            yield from _reject(read, command.session, command.seq, "", "no-quorum", issued.at)


def _results(command: ValidateContribution, contribution: Contribution, read: Read) -> Iterator[Vote]:
    claimed = {each.task for each in contribution.tasks}
    if command.results and not claimed:
        raise ContributionNeedsResults(tasks=0)
    for result in command.results:
        if result.task not in claimed:
            raise TaskIsNotInContribution(task=result.task)
        yield Vote(result.task, serving(read, result.device).owner, result.result_digest)


def _attested(command: ValidateContribution, contribution: Contribution, read: Read) -> Iterator[Vote]:
    if command.attestations and contribution.tasks:
        raise ContributionNeedsResults(tasks=len(contribution.tasks))
    for attestation in command.attestations:
        validator = known_validator(read, attestation.validator)
        if validator.jailed:
            raise JailedValidatorsAttestNothing(validator=attestation.validator)
        yield Vote("", validator.operator, CONFIRMED if attestation.confirms else DENIED)


def _new_votes(contribution: Contribution, given: list[Vote]) -> tuple[Vote, ...]:
    """Votes that count: one of an owner for a task, none of the harvester's own, a bounded number for a task."""
    seen = {(vote.task, vote.voter) for vote in contribution.votes}
    number = Counter(vote.task for vote in contribution.votes)
    new: list[Vote] = []
    for vote in given:
        counts = vote.voter != contribution.owner and (vote.task, vote.voter) not in seen
        if counts and number[vote.task] < P.most_results_a_task:
            new.append(vote)
            seen.add((vote.task, vote.voter))
            number[vote.task] += 1
    return tuple(new)


def quorum_for(contribution: Contribution, reputation: int) -> int:
    """How many owners have to agree: more where the device is poorly reputed or its tasks are implausibly small."""
    small = bonus_tasks(contribution.work, len(contribution.tasks)) < len(contribution.tasks)
    return P.raised_quorum if small or reputation < P.suspect_score else P.quorum


def canonical(tally: Counter[str], quorum: int) -> str:
    """The result that a quorum agrees on and that more than half of all gave; empty while there is none."""
    for result, number in tally.most_common(1):
        if number >= quorum and 2 * number > tally.total():
            return result
    return ""


def judge(contribution: Contribution, quorum: int) -> str:
    """valid, outvoted, no-quorum, or empty while more results are needed."""
    undecided = exhausted = False
    for task, claimed in contribution.claims().items():
        tally = contribution.tally(task)
        found = canonical(tally, quorum)
        if found and found != claimed:
            return "outvoted"
        undecided = undecided or not found
        exhausted = exhausted or (not found and tally.total() >= P.most_results_a_task)
    if exhausted:
        return "no-quorum"
    return "" if undecided else "valid"


def _validate(read: Read, session: str, seq: int, reason: str, at: datetime) -> Decision:
    """Fix what the reward depends on, so that it is the same whenever it is paid."""
    found = _contribution(read, session, seq)
    reputation = score(read, found.device, SERVICE, at)
    offered_ms = read(regions, found.region).offered_ms(at)
    tasks, factor = bonus_tasks(found.work, len(found.tasks)), scarcity_of(offered_ms)
    earned = reward_for(found.work, tasks, reputation, factor, P.gpu_tenths)
    if found.status == "rejected" and found.kind:
        yield harvesters(found.device), RejectionOverturned(session, seq)
    yield (
        contributions(session, str(seq)),
        ContributionValidated(
            found.device,
            found.owner,
            tasks,
            reputation,
            offered_ms,
            factor,
            P.gpu_tenths,
            earned,
            reason,
            at,
        ),
    )


def _reject(read: Read, session: str, seq: int, kind: str, reason: str, at: datetime) -> Decision:
    found = _contribution(read, session, seq)
    yield (
        contributions(session, str(seq)),
        ContributionRejected(found.device, found.owner, kind, reason, at),
    )
    if kind and not found.kind:
        yield harvesters(found.device), WorkRejected(session, seq, at)


def dispute_contribution(command: DisputeContribution, issued: Issued, read: Read) -> Decision:
    found = _contribution(read, command.session, command.seq)
    concerned = {found.owner} | {vote.voter for vote in found.votes}
    if issued.by not in concerned and not issued.is_service:
        raise ContributionNotFound(session=command.session, seq=command.seq)
    if found.status == "paid":
        raise ContributionIsPaid(session=command.session, seq=command.seq)
    if found.disputed:
        raise ContributionIsDisputed(session=command.session, seq=command.seq)
    if found.final:
        raise ContributionIsFinal(session=command.session, seq=command.seq)
    if found.decided_at is not None and issued.at > found.decided_at + P.dispute_period:
        raise ContributionDisputeIsTooLate(until=found.decided_at + P.dispute_period)
    yield (
        contributions(command.session, str(command.seq)),
        ContributionDisputed(issued.by, command.reason, issued.at),
    )


def decide_contribution(command: DecideContribution, issued: Issued, read: Read) -> Decision:
    found = _contribution(read, command.session, command.seq)
    if command.verdict not in VERDICTS:
        raise VerdictIsUnknown(verdict=command.verdict, known=VERDICTS)
    if not found.disputed:
        raise ContributionIsNotDisputed(session=command.session, seq=command.seq)
    stood = {"validated": "valid", "rejected": found.kind}.get(found.status, "")
    if command.verdict == stood:
        yield (
            contributions(command.session, str(command.seq)),
            ContributionDecisionUpheld(command.verdict, command.reason, issued.at),
        )
    elif command.verdict == "valid":
        yield from _validate(read, command.session, command.seq, command.reason, issued.at)
    else:
        yield from _reject(read, command.session, command.seq, command.verdict, command.reason, issued.at)


# Decisions: rewards


def bonus_tasks(work: Work, tasks: int) -> int:
    """Tasks that earn the bonus: each needs a second of processor time, or splitting work up would pay."""
    return min(tasks, floor_div(work.cpu_ms + work.gpu_ms, P.least_work_a_task_ms))


def scarcity_of(offered_ms: int) -> int:
    """The reward's factor in basis points where so much was offered in the region."""
    for hours, factor in P.scarcity:
        if offered_ms < hours * MS_AN_HOUR:
            return factor
    return BASIS_POINTS


def reward_for(work: Work, tasks: int, reputation: int, scarcity: int, gpu_tenths: int) -> int:
    """What a contribution earns, in smallest units of FOG; one floor, at the end, of one exact fraction.

    points = 1.0 core-hours + 0.5 GB-hours + 1.5 GB moved + 0.3 GB-hours stored + gpu_tenths / 10 GPU-hours, with GB
    = 10^9 bytes; reward = (10 FOG * points + 0.1 FOG * tasks) * (1 + 0.22 * reputation / 10,000) * scarcity / 10,000.
    So the bonus is linear: 0 for a reputation of 0, 11 % for 5,000 (nothing is known), 22 % for 10,000.
    """
    # Tenths of a point are counted in parts of 18 * 10^9, which a ms of a core, a MB-ms and a byte all divide.
    parts = 18_000_000_000
    tenths = (
        P.cpu_tenths * 5_000 * work.cpu_ms
        + P.memory_tenths * 5 * work.memory_mb_ms
        + P.bandwidth_tenths * 18 * work.bandwidth_bytes
        + P.storage_tenths * 5 * work.storage_mb_ms
        + gpu_tenths * 5_000 * work.gpu_ms
    )
    units = P.point_units * tenths + 10 * parts * P.task_units * tasks
    factor = (BASIS_POINTS**2 + P.most_bonus * reputation) * scarcity
    return floor_div(units * factor, 10 * parts * BASIS_POINTS**3)


def approve_reward(command: ApproveReward, issued: Issued, read: Read) -> Decision:
    found = _contribution(read, command.session, command.seq)
    if found.status == "paid":
        return
    if found.disputed:
        raise ContributionIsDisputed(session=command.session, seq=command.seq)
    if found.status != "validated":
        raise ContributionIsNotValidated(session=command.session, seq=command.seq, status=found.status)
    yield (
        contributions(command.session, str(command.seq)),
        RewardPaid(found.device, found.owner, found.reward, issued.at),
    )
    yield (
        harvesters(found.device),
        WorkCredited(command.session, command.seq, found.work, found.bonus_tasks, found.reward),
    )
    if found.reward:
        yield from pay_out(read, REWARDS, wallet_of(found.owner), found.reward, "harvest-reward")
