"""Harvest's read models: harvesters and their sessions, what was contributed and confirmed, rewards a day, and what
each region was offered. Timers end sessions; reactions pay what was validated and tell reputation of it."""

from __future__ import annotations

from dataclasses import asdict, field
from datetime import datetime
from typing import Any

from commands._codec import EPOCH
from domain.devices import (
    DeviceRelocated,
    DeviceResumed,
    DeviceRetired,
    DeviceSuspended,
    ReputationRecorded,
    evolve_reputation,
)
from domain.devices import Reputation as Posterior
from domain.harvest import (
    NO_REPORT,
    SERVICE,
    ContributionCounted,
    ContributionDecisionUpheld,
    ContributionDisputed,
    ContributionRecorded,
    ContributionRejected,
    ContributionValidated,
    DeviceStateReported,
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
    Readings,
    RejectionOverturned,
    ResultsReceived,
    RewardPaid,
    TaskClaimed,
    WorkCredited,
    WorkRejected,
    day_of,
    obstacles,
)
from domain.harvest import Harvester as State
from projections._engine import Projection, Record, Rows
from projections._tables import Money, Row, Total, table
from projections._timers import Timer, react, schedule, settle, timers
from projections.devices import recording


@table("harvest_harvesters", key=("device",), indexes=("owner, device", "region, device"))
class Harvester(Row):
    device: str
    owner: str = ""
    region: str = ""
    """Of the device, now."""
    suspended_by: list[str] = field(default_factory=list)
    retired: bool = False
    cpu_millicores: int = 0
    """What was enrolled of it."""
    memory_mb: int = 0
    storage_mb: int = 0
    bandwidth_kbps: int = 0
    gpu: int = 0
    policy: dict[str, Any] = field(default_factory=dict)
    policy_version: int = 0
    opens_at: int = 0
    """The minute of the day, UTC, at which its hours begin,"""
    open_minutes: int = 0
    """and how long they last."""
    seq: int = -1
    readings: dict[str, Any] = field(default_factory=dict)
    reported_at: datetime | None = None
    broken: list[str] = field(default_factory=list)
    """The rules that its last kept readings break, but for the hours."""
    session: str = ""
    """The open one; empty for none."""
    rests_until: datetime | None = None
    rejected_in_a_row: int = 0
    rejected_at: datetime | None = None
    ready_at: datetime | None = None
    """When its cooldown is over."""
    sessions: int = 0
    running_ms: Total = 0
    paid: int = 0
    rejected: int = 0
    cpu_ms: Total = 0
    """Of paid contributions, as all that follows."""
    memory_mb_ms: Total = 0
    bandwidth_bytes: Total = 0
    storage_mb_ms: Total = 0
    gpu_ms: Total = 0
    tasks: int = 0
    reward: Total = 0
    enrolled_at: datetime = EPOCH


@table("harvest_reputations", key=("device",))
class Reputation(Row):
    """A device's posterior for harvesting as of its last evidence."""

    device: str
    alpha: Total = Posterior().alpha
    beta: Total = Posterior().beta
    day: int = 0
    evidence: int = 0
    last_score: int = Posterior().score


@table(
    "harvest_sessions",
    key=("session",),
    indexes=(
        "owner, started_at, session",
        "device, started_at, session",
        "stopped_at, ends_at",
        "started_at, session",
        "region, stopped_at",
    ),
)
class Session(Row):
    session: str
    device: str = ""
    owner: str = ""
    region: str = ""
    capabilities: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    policy_version: int = 0
    status: str = "running"
    """running, paused or stopped."""
    throttled: bool = False
    started_at: datetime = EPOCH
    ends_at: datetime = EPOCH
    ends_because: str = ""
    silent_at: datetime = EPOCH
    """When it ends, if nothing more is heard of its device."""
    paused_at: datetime | None = None
    seq: int = 0
    contributions: int = 0
    pending: int = 0
    rejected: int = 0
    paid: int = 0
    reward: Total = 0
    """Of its paid contributions."""
    running_ms: int = 0
    """Once it stopped."""
    stopped_at: datetime | None = None
    reason: str = ""


@table(
    "harvest_contributions",
    key=("session", "seq"),
    indexes=(
        "owner, recorded_at, session, seq",
        "device, recorded_at, session, seq",
        "status, recorded_at",
        "recorded_at, session, seq",
    ),
)
class Contribution(Row):
    session: str
    seq: int
    device: str = ""
    owner: str = ""
    region: str = ""
    cpu_ms: int = 0
    memory_mb_ms: int = 0
    bandwidth_bytes: int = 0
    storage_mb_ms: int = 0
    gpu_ms: int = 0
    tasks: list[dict[str, Any]] = field(default_factory=list)
    proof: str = ""
    elapsed_ms: int = 0
    status: str = "pending"
    """pending, validated, rejected or paid."""
    kind: str = ""
    """Of a rejection: failure, fraud, or empty where nobody was found wrong."""
    reason: str = ""
    """Of the decision."""
    results: int = 0
    disputed: bool = False
    disputed_by: str = ""
    dispute: str = ""
    """The reason that was given for it."""
    bonus_tasks: int = 0
    score: int = 0
    offered_ms: Total = 0
    scarcity: int = 0
    gpu_tenths: int = 0
    reward: Money = 0
    recorded_at: datetime = EPOCH
    decided_at: datetime | None = None
    paid_at: datetime | None = None


@table("harvest_results", key=("session", "seq", "task", "voter"))
class Result(Row):
    """What others found for a contribution; `task` is empty where it has none."""

    session: str
    seq: int
    task: str
    voter: str
    result_digest: str = ""
    at: datetime = EPOCH


@table("harvest_tasks", key=("task", "owner"))
class Task(Row):
    """The results that contributions claim for a task: one an owner."""

    task: str
    owner: str
    device: str = ""
    session: str = ""
    seq: int = 0
    result_digest: str = ""
    at: datetime = EPOCH


@table("harvest_days", key=("device", "day"), indexes=("owner, day, device", "day, device"))
class Day(Row):
    """What a device was paid on a day (UTC)."""

    device: str
    day: str
    """YYYY-MM-DD."""
    owner: str = ""
    contributions: int = 0
    reward: Total = 0
    tasks: int = 0
    cpu_ms: Total = 0
    memory_mb_ms: Total = 0
    bandwidth_bytes: Total = 0
    storage_mb_ms: Total = 0
    gpu_ms: Total = 0


@table("harvest_offers", key=("region", "day"))
class Offer(Row):
    """Running time that sessions offered in a region on a day (UTC): that of their ends."""

    region: str
    day: str
    sessions: int = 0
    running_ms: Total = 0


harvest = Projection("harvest", Harvester, Reputation, Session, Contribution, Result, Task, Day, Offer)


def _of_contribution(record: Record) -> tuple[str, int]:
    """Session and number of a contribution's stream, `contribution:s1:7`."""
    session, _, seq = record.id.partition(":")
    return session, int(seq)


# Harvesters


def _follow_policy(row: Harvester, policy: HarvestPolicy, version: int) -> None:
    row.policy, row.policy_version = asdict(policy), version
    row.opens_at, row.open_minutes = policy.opens_at, policy.open_minutes


def _judge(row: Harvester) -> None:
    """The rules that the readings break, but for the hours, which depend on when one asks."""
    policy = HarvestPolicy(**{**row.policy, "from_minute": 0, "until_minute": 0})
    row.broken = [rule.rule() for rule in obstacles(Readings(**row.readings), policy, EPOCH)]


def _rest(row: Harvester) -> None:
    row.ready_at = State(
        policy=HarvestPolicy(**row.policy),
        rests_until=row.rests_until,
        rejected_in_a_row=row.rejected_in_a_row,
        rejected_at=row.rejected_at,
    ).ready_at()


@harvest.on(HarvesterEnrolled)
def harvester_enrolled(rows: Rows, event: HarvesterEnrolled, record: Record) -> None:
    row, has = rows.of(Harvester, record.id), event.capabilities
    row.owner, row.region, row.enrolled_at = event.owner, event.region, event.at
    row.cpu_millicores, row.memory_mb, row.storage_mb = has.cpu_millicores, has.memory_mb, has.storage_mb
    row.bandwidth_kbps, row.gpu = has.bandwidth_kbps, has.gpu
    _follow_policy(row, event.policy, 1)
    _judge(row)


@harvest.on(HarvestPolicyUpdated)
def harvest_policy_updated(rows: Rows, event: HarvestPolicyUpdated, record: Record) -> None:
    row = rows.of(Harvester, record.id)
    _follow_policy(row, event.policy, event.version)
    _judge(row)
    _rest(row)


@harvest.on(DeviceStateReported)
def device_state_reported(rows: Rows, event: DeviceStateReported, record: Record) -> None:
    row = rows.of(Harvester, record.id)
    row.seq, row.readings, row.reported_at = event.seq, asdict(event.readings), event.at
    _judge(row)
    if event.session:
        rows.of(Session, event.session).silent_at = event.at + P.silence_limit


@harvest.on(HarvestBegan)
def harvest_began(rows: Rows, event: HarvestBegan, record: Record) -> None:
    rows.of(Harvester, record.id).session = event.session


@harvest.on(HarvestEnded)
def harvest_ended(rows: Rows, event: HarvestEnded, record: Record) -> None:
    row = rows.of(Harvester, record.id)
    row.session, row.rests_until = "", event.rests_until
    row.sessions += 1
    row.running_ms += event.running_ms
    _rest(row)


def _add_work(row: Harvester | Day, event: WorkCredited) -> None:
    row.tasks += event.tasks
    row.cpu_ms += event.work.cpu_ms
    row.memory_mb_ms += event.work.memory_mb_ms
    row.bandwidth_bytes += event.work.bandwidth_bytes
    row.storage_mb_ms += event.work.storage_mb_ms
    row.gpu_ms += event.work.gpu_ms
    row.reward += event.reward


@harvest.on(WorkCredited)
def work_credited(rows: Rows, event: WorkCredited, record: Record) -> None:
    row = rows.of(Harvester, record.id)
    row.paid += 1
    row.rejected_in_a_row = 0
    _add_work(row, event)
    _rest(row)
    day = rows.of(Day, record.id, day_of(record.recorded_at))
    day.owner = row.owner
    day.contributions += 1
    _add_work(day, event)


@harvest.on(WorkRejected)
def work_rejected(rows: Rows, event: WorkRejected, record: Record) -> None:
    row = rows.of(Harvester, record.id)
    row.rejected += 1
    row.rejected_in_a_row += 1
    row.rejected_at = event.at
    _rest(row)


@harvest.on(RejectionOverturned)
def rejection_overturned(rows: Rows, event: RejectionOverturned, record: Record) -> None:
    row = rows.of(Harvester, record.id)
    row.rejected -= 1
    row.rejected_in_a_row = max(row.rejected_in_a_row - 1, 0)
    _rest(row)


# What other contexts say of their devices


@harvest.on(DeviceRelocated)
def device_relocated(rows: Rows, event: DeviceRelocated, record: Record) -> None:
    row = rows.find(Harvester, record.id)
    if row is not None:
        row.region = event.region


def _cease(rows: Rows, row: Harvester, at: datetime) -> None:
    """Its session is over, whenever that is noticed."""
    if row.session:
        session = rows.of(Session, row.session)
        session.silent_at = min(session.silent_at, at)


@harvest.on(DeviceSuspended)
def device_suspended(rows: Rows, event: DeviceSuspended, record: Record) -> None:
    row = rows.find(Harvester, record.id)
    if row is not None:
        row.suspended_by = [*row.suspended_by, event.by]
        _cease(rows, row, event.at)


@harvest.on(DeviceResumed)
def device_resumed(rows: Rows, event: DeviceResumed, record: Record) -> None:
    row = rows.find(Harvester, record.id)
    if row is not None:
        row.suspended_by = [by for by in row.suspended_by if by != event.by]


@harvest.on(DeviceRetired)
def device_retired(rows: Rows, event: DeviceRetired, record: Record) -> None:
    row = rows.find(Harvester, record.id)
    if row is not None:
        row.retired = True
        _cease(rows, row, event.at)


@harvest.on(ReputationRecorded)
def reputation_recorded(rows: Rows, event: ReputationRecorded, record: Record) -> None:
    device, _, service = record.id.partition(":")
    if service != SERVICE:
        return
    row = rows.of(Reputation, device)
    now = evolve_reputation(Posterior(row.alpha, row.beta, row.day, row.evidence), event)
    row.alpha, row.beta, row.day, row.evidence = now.alpha, now.beta, now.day, now.evidence
    row.last_score = now.score


# Sessions


@harvest.on(HarvestSessionStarted)
def harvest_session_started(rows: Rows, event: HarvestSessionStarted, record: Record) -> None:
    row = rows.of(Session, record.id)
    row.device, row.owner, row.region = event.device, event.owner, event.region
    row.capabilities, row.policy = asdict(event.capabilities), asdict(event.policy)
    row.policy_version, row.started_at = event.policy_version, event.at
    row.ends_at, row.ends_because = event.ends_at, event.ends_because
    row.silent_at = event.at + P.silence_limit


@harvest.on(HarvestSessionThrottled)
def harvest_session_throttled(rows: Rows, event: HarvestSessionThrottled, record: Record) -> None:
    rows.of(Session, record.id).throttled = True


@harvest.on(HarvestThrottleLifted)
def harvest_throttle_lifted(rows: Rows, event: HarvestThrottleLifted, record: Record) -> None:
    rows.of(Session, record.id).throttled = False


@harvest.on(HarvestSessionPaused)
def harvest_session_paused(rows: Rows, event: HarvestSessionPaused, record: Record) -> None:
    row = rows.of(Session, record.id)
    row.status, row.paused_at, row.silent_at = "paused", event.at, event.at + P.silence_limit


@harvest.on(HarvestSessionResumed)
def harvest_session_resumed(rows: Rows, event: HarvestSessionResumed, record: Record) -> None:
    row = rows.of(Session, record.id)
    row.status, row.paused_at, row.silent_at = "running", None, event.at + P.silence_limit


@harvest.on(HarvestSessionStopped)
def harvest_session_stopped(rows: Rows, event: HarvestSessionStopped, record: Record) -> None:
    row = rows.of(Session, record.id)
    row.status, row.paused_at = "stopped", None
    row.stopped_at, row.reason, row.running_ms = event.at, event.reason, event.running_ms


@harvest.on(ContributionCounted)
def contribution_counted(rows: Rows, event: ContributionCounted, record: Record) -> None:
    row = rows.of(Session, record.id)
    row.seq = event.seq
    row.contributions += 1
    row.pending += 1
    if row.status != "stopped":
        row.silent_at = event.until + P.silence_limit


@harvest.on(HoursOffered)
def hours_offered(rows: Rows, event: HoursOffered, record: Record) -> None:
    row = rows.of(Offer, record.id, day_of(event.at))
    row.sessions += 1
    row.running_ms += event.running_ms


# Contributions


@harvest.on(TaskClaimed)
def task_claimed(rows: Rows, event: TaskClaimed, record: Record) -> None:
    task, _, owner = record.id.partition(":")
    row = rows.of(Task, task, owner)
    row.session, row.seq = event.session, event.seq


@harvest.on(ContributionRecorded)
def contribution_recorded(rows: Rows, event: ContributionRecorded, record: Record) -> None:
    row, work = rows.of(Contribution, *_of_contribution(record)), event.work
    row.device, row.owner, row.region = event.device, event.owner, event.region
    row.cpu_ms, row.memory_mb_ms, row.bandwidth_bytes = work.cpu_ms, work.memory_mb_ms, work.bandwidth_bytes
    row.storage_mb_ms, row.gpu_ms = work.storage_mb_ms, work.gpu_ms
    row.tasks, row.proof = [asdict(each) for each in event.tasks], event.proof
    row.elapsed_ms, row.recorded_at = event.elapsed_ms, event.at
    for each in event.tasks:
        task = rows.of(Task, each.task, event.owner)
        task.device, task.result_digest, task.at = event.device, each.result_digest, event.at


@harvest.on(ResultsReceived)
def results_received(rows: Rows, event: ResultsReceived, record: Record) -> None:
    session, seq = _of_contribution(record)
    rows.of(Contribution, session, seq).results += len(event.votes)
    for vote in event.votes:
        rows.add(Result(session, seq, vote.task, vote.voter, vote.result_digest, event.at))


@harvest.on(ContributionDisputed)
def contribution_disputed(rows: Rows, event: ContributionDisputed, record: Record) -> None:
    row = rows.of(Contribution, *_of_contribution(record))
    row.disputed, row.disputed_by, row.dispute = True, event.by, event.reason


@harvest.on(ContributionDecisionUpheld)
def contribution_decision_upheld(rows: Rows, event: ContributionDecisionUpheld, record: Record) -> None:
    row = rows.of(Contribution, *_of_contribution(record))
    row.disputed, row.reason = False, event.reason


def _decided(rows: Rows, row: Contribution, status: str, reason: str, at: datetime) -> None:
    session = rows.of(Session, row.session)
    session.pending -= row.status == "pending"
    session.rejected += (status == "rejected") - (row.status == "rejected")
    row.status, row.reason, row.decided_at, row.disputed = status, reason, at, False


@harvest.on(ContributionValidated)
def contribution_validated(rows: Rows, event: ContributionValidated, record: Record) -> None:
    row = rows.of(Contribution, *_of_contribution(record))
    _decided(rows, row, "validated", event.reason, event.at)
    row.kind, row.bonus_tasks, row.score = "", event.tasks, event.score
    row.offered_ms, row.scarcity, row.gpu_tenths = event.offered_ms, event.scarcity, event.gpu_tenths
    row.reward = event.reward


@harvest.on(ContributionRejected)
def contribution_rejected(rows: Rows, event: ContributionRejected, record: Record) -> None:
    row = rows.of(Contribution, *_of_contribution(record))
    _decided(rows, row, "rejected", event.reason, event.at)
    row.kind, row.bonus_tasks, row.reward = event.kind, 0, 0


@harvest.on(RewardPaid)
def reward_paid(rows: Rows, event: RewardPaid, record: Record) -> None:
    row = rows.of(Contribution, *_of_contribution(record))
    row.status, row.paid_at = "paid", event.at
    session = rows.of(Session, row.session)
    session.paid += 1
    session.reward += event.amount


# Timers


def _limit(session: str) -> str:
    return f"harvest-limit:{session}"


def _silence(session: str) -> str:
    return f"harvest-silence:{session}"


def _expect(rows: Rows, record: Record, session: str, heard_at: datetime) -> None:
    due_at = heard_at + P.silence_limit
    schedule(
        rows,
        _silence(session),
        record,
        due_at,
        "harvest",
        "stop-harvest-session",
        session=session,
        reason=NO_REPORT,
    )


@timers.on(HarvestSessionStarted)
def when_a_harvest_session_starts_it_ends_in_time(
    rows: Rows, event: HarvestSessionStarted, record: Record
) -> None:
    body = {"session": record.id, "reason": event.ends_because}
    schedule(rows, _limit(record.id), record, event.ends_at, "harvest", "stop-harvest-session", **body)
    _expect(rows, record, record.id, event.at)


@timers.on(DeviceStateReported)
def when_a_harvested_device_reports_its_silence_is_noticed_later(
    rows: Rows, event: DeviceStateReported, record: Record
) -> None:
    if event.session:
        _expect(rows, record, event.session, event.at)


@timers.on(HarvestSessionPaused)
def when_a_harvest_session_is_paused_its_silence_is_noticed_later(
    rows: Rows, event: HarvestSessionPaused, record: Record
) -> None:
    _expect(rows, record, record.id, event.at)


@timers.on(HarvestSessionResumed)
def when_a_harvest_session_is_resumed_its_silence_is_noticed_later(
    rows: Rows, event: HarvestSessionResumed, record: Record
) -> None:
    _expect(rows, record, record.id, event.at)


@timers.on(ContributionCounted)
def when_a_harvested_device_contributes_its_silence_is_noticed_later(
    rows: Rows, event: ContributionCounted, record: Record
) -> None:
    # The last work may be recorded after the session's end, when nothing is expected any more.
    if rows.find(Timer, _silence(record.id)) is not None:
        _expect(rows, record, record.id, event.until)


@timers.on(HarvestSessionStopped)
def when_a_harvest_session_has_stopped_its_timers_are_done(
    rows: Rows, event: HarvestSessionStopped, record: Record
) -> None:
    settle(rows, _limit(record.id))
    settle(rows, _silence(record.id))


# Reactions


def _reward(record: Record) -> str:
    return f"harvest-reward:{record.id}"


def _pay(rows: Rows, record: Record) -> None:
    session, seq = _of_contribution(record)
    react(rows, _reward(record), record, "harvest", "approve-reward", session=session, seq=seq)


def _tell(rows: Rows, record: Record, device: str, kind: str) -> None:
    """Let the device's reputation know; the event's position makes the evidence's id, which occurs once."""
    evidence = f"harvest.{record.position}"
    react(
        rows,
        recording(evidence),
        record,
        "devices",
        "record-reputation",
        device=device,
        service=SERVICE,
        kind=kind,
        evidence_id=evidence,
    )


@timers.on(ContributionValidated)
def when_a_contribution_is_validated_its_reward_is_paid(
    rows: Rows, event: ContributionValidated, record: Record
) -> None:
    _pay(rows, record)
    _tell(rows, record, event.device, "success")


@timers.on(ContributionRejected)
def when_a_contribution_is_rejected_its_devices_reputation_falls(
    rows: Rows, event: ContributionRejected, record: Record
) -> None:
    settle(rows, _reward(record))
    if event.kind:
        _tell(rows, record, event.device, event.kind)


@timers.on(ContributionDisputed)
def when_a_contribution_is_disputed_its_reward_is_held(
    rows: Rows, event: ContributionDisputed, record: Record
) -> None:
    settle(rows, _reward(record))


@timers.on(ContributionDecisionUpheld)
def when_a_validation_is_upheld_its_reward_is_paid(
    rows: Rows, event: ContributionDecisionUpheld, record: Record
) -> None:
    if event.verdict == "valid":
        _pay(rows, record)


@timers.on(RewardPaid)
def when_a_reward_is_paid_nothing_is_due(rows: Rows, event: RewardPaid, record: Record) -> None:
    settle(rows, _reward(record))
