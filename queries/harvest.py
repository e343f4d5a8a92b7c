"""What people ask of harvest: who may be harvested and who may not, what runs, what was given, confirmed and paid.

Participants see their own devices; operators and auditors all; workers what they need to match devices and to confirm
contributions. What depends on the time is as of the last event that the answer reflects (`as_of`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from commands._codec import EPOCH
from domain._kernel import BASIS_POINTS, BasisPoints, Count, Id, floor_div
from domain.devices import Reputation
from domain.harvest import (
    MINUTE,
    MS_AN_HOUR,
    Contribution,
    Harvester,
    HarvestPolicy,
    P,
    Readings,
    RegionHours,
    TaskResult,
    Work,
    bonus_tasks,
    quorum_for,
    refusals,
    reward_for,
    scarcity_of,
)
from projections._tables import Money, Total
from queries._query import FOR_EVER, SEES_ALL, Context

MATCHES = SEES_ALL | {"worker"}
UNKNOWN = Reputation()

R = TypeVar("R")

harvest = Context(__name__)


def _made(row: type[R], found: Any, **derived: Any) -> R:
    """A row of what was found and of what follows from it."""
    copied = {f.name: getattr(found, f.name) for f in fields(row) if f.name not in derived}  # type: ignore[arg-type]
    return row(**copied, **derived)


# Harvesters


@dataclass(frozen=True, slots=True)
class OfHarvesters:
    owner: Id = ""
    device: Id = ""
    region: Id = ""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A device that is offered for harvesting: what of it, under which policy, how it last was (the last report that
    was kept), and its lifetime totals. `ready_at` is the end of its cooldown; work, tasks and reward are those of paid
    contributions: core-milliseconds, MB-milliseconds, bytes, GPU-milliseconds and smallest units of FOG."""

    device: str
    owner: str
    region: str
    suspended: bool
    retired: bool
    cpu_millicores: int
    memory_mb: int
    storage_mb: int
    bandwidth_kbps: int
    gpu: int
    policy: dict[str, Any]
    policy_version: int
    readings: dict[str, Any]
    reported_at: datetime | None
    session: str
    ready_at: datetime | None
    rejected_in_a_row: int
    sessions: int
    running_ms: Total
    paid: int
    rejected: int
    cpu_ms: Total
    memory_mb_ms: Total
    bandwidth_bytes: Total
    storage_mb_ms: Total
    gpu_ms: Total
    tasks: int
    reward: Total
    enrolled_at: datetime
    version: int
    incomplete: bool


harvest.get(
    "harvesters",
    Enrolled,
    """
    SELECT device, owner, region, jsonb_array_length(suspended_by) > 0 AS suspended, retired, cpu_millicores,
           memory_mb, storage_mb, bandwidth_kbps, gpu, policy, policy_version, readings, reported_at, session,
           ready_at, rejected_in_a_row, sessions, running_ms, paid, rejected, cpu_ms, memory_mb_ms,
           bandwidth_bytes, storage_mb_ms, gpu_ms, tasks, reward, enrolled_at, h.position AS version, incomplete
    FROM read.harvest_harvesters h JOIN live USING (zone, generation)
    WHERE (%(sees_all)s OR owner = %(principal)s) AND (%(owner)s = '' OR owner = %(owner)s)
      AND (%(device)s = '' OR device = %(device)s) AND (%(region)s = '' OR region = %(region)s)
    """,
    key=("device",),
    parameters=OfHarvesters,
    own="owner",
)


@dataclass(frozen=True, slots=True)
class OfEligible:
    """What a device has to have at least."""

    region: Id = ""
    cpu_millicores: Count = 0
    memory_mb: Count = 0
    storage_mb: Count = 0
    bandwidth_kbps: Count = 0
    gpu: Count = 0
    battery_percent: Count = 0
    min_score: BasisPoints = 0


@dataclass(frozen=True, slots=True)
class Eligible:
    """A device that could start a session now, and is wanted: `score` is its reputation for harvesting as of its last
    evidence, in basis points; `open_until` is when its allowed hours end, null where they never do."""

    device: str
    owner: str
    region: str
    cpu_millicores: int
    memory_mb: int
    storage_mb: int
    bandwidth_kbps: int
    gpu: int
    readings: dict[str, Any]
    reported_at: datetime
    score: int
    open_until: datetime | None
    version: int
    incomplete: bool


# How many minutes its hours have been open, counted from the minute at which they begin.
_OPEN_FOR = "(floor(extract(epoch FROM live.as_of) / 60)::bigint - opens_at) %% 1440"

_SCORED = f"""
FROM read.harvest_harvesters h JOIN live USING (zone, generation)
LEFT JOIN read.harvest_reputations r USING (zone, generation, device)
CROSS JOIN LATERAL (SELECT coalesce(r.last_score, {UNKNOWN.score}) AS score) s
"""

harvest.get(
    "eligible-harvesters",
    Eligible,
    f"""
    SELECT h.device, h.owner, h.region, h.cpu_millicores, h.memory_mb, h.storage_mb, h.bandwidth_kbps, h.gpu,
           h.readings, h.reported_at, s.score,
           CASE WHEN open_minutes < 1440
                THEN date_trunc('minute', live.as_of) + (open_minutes - {_OPEN_FOR}) * interval '1 minute'
           END AS open_until,
           greatest(h.position, r.position) AS version, h.incomplete OR coalesce(r.incomplete, false) AS incomplete
    {_SCORED}
    WHERE NOT h.retired AND h.suspended_by = '[]' AND h.session = '' AND h.broken = '[]'
      AND h.reported_at > live.as_of - interval '{P.report_valid_for // MINUTE} minutes'
      AND {_OPEN_FOR} < h.open_minutes AND coalesce(h.ready_at <= live.as_of, true)
      AND s.score >= greatest(%(min_score)s, {P.least_score}) AND (%(region)s = '' OR h.region = %(region)s)
      AND h.cpu_millicores >= %(cpu_millicores)s AND h.memory_mb >= %(memory_mb)s
      AND h.storage_mb >= %(storage_mb)s AND h.bandwidth_kbps >= %(bandwidth_kbps)s AND h.gpu >= %(gpu)s
      AND (h.readings->>'battery_percent')::bigint >= %(battery_percent)s
    """,
    key=("device",),
    parameters=OfEligible,
    roles=MATCHES,
)


@dataclass(frozen=True, slots=True)
class OneDevice:
    device: Id


@dataclass(frozen=True, slots=True)
class Standing:
    device: str
    suspended: bool
    retired: bool
    policy: HarvestPolicy
    readings: Readings
    reported_at: datetime | None
    session: str
    rests_until: datetime | None
    rejected_in_a_row: int
    rejected_at: datetime | None
    alpha: Total
    beta: Total
    day: int
    evidence: int
    as_of: datetime
    version: int
    incomplete: bool

    @property
    def score(self) -> int:
        return Reputation(self.alpha, self.beta, self.day, self.evidence).as_of(self.as_of).score


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a device may start a session now, and if not why: every rule that refuses it, in their order, with its
    facts. They are the very rules that starting a session checks, on the last report that was kept."""

    device: str
    eligible: bool
    refusals: list[dict[str, Any]]
    score: int
    as_of: datetime
    version: int
    incomplete: bool


def _readiness(found: Standing, parameters: dict[str, Any]) -> Readiness:
    state = Harvester(
        policy=found.policy,
        readings=found.readings,
        reported_at=found.reported_at,
        session=found.session,
        rests_until=found.rests_until,
        rejected_in_a_row=found.rejected_in_a_row,
        rejected_at=found.rejected_at,
    )
    named = (("device-is-retired", found.retired), ("device-is-suspended", found.suspended))
    refused: list[dict[str, Any]] = [{"rule": rule, "facts": {}} for rule, holds in named if holds]
    refused += [
        {"rule": rule.rule(), "facts": {name: _shown(value) for name, value in rule.facts.items()}}
        for rule in refusals(state, found.score, found.as_of)
    ]
    return _made(Readiness, found, eligible=not refused, refusals=refused, score=found.score)


def _shown(value: Any) -> Any:
    return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}" if isinstance(value, datetime) else value


harvest.get(
    "readiness",
    Readiness,
    f"""
    SELECT h.device, jsonb_array_length(h.suspended_by) > 0 AS suspended, h.retired, h.policy, h.readings,
           h.reported_at, h.session, h.rests_until, h.rejected_in_a_row, h.rejected_at,
           coalesce(r.alpha, {UNKNOWN.alpha}) AS alpha, coalesce(r.beta, {UNKNOWN.beta}) AS beta,
           coalesce(r.day, 0) AS day, coalesce(r.evidence, 0) AS evidence, live.as_of,
           greatest(h.position, r.position) AS version, h.incomplete OR coalesce(r.incomplete, false) AS incomplete
    {_SCORED}
    WHERE h.device = %(device)s AND (%(sees_all)s OR h.owner = %(principal)s)
    """,
    key=("device",),
    parameters=OneDevice,
    inputs=Standing,
    derive=_readiness,
    single=True,
)


# Sessions


@dataclass(frozen=True, slots=True)
class OfSessions:
    owner: Id = ""
    device: Id = ""
    session: Id = ""
    region: Id = ""
    status: Id = ""
    reason: Id = ""
    since: datetime = EPOCH
    until: datetime = FOR_EVER


@dataclass(frozen=True, slots=True)
class Session:
    """A session, newest first, with the policy and the capabilities that it began with. `status` is running, paused or
    stopped; `reason` says why it stopped: its owner's word, a rule's name, time-limit, outside-allowed-hours or
    no-report. `ends_at` is when it ends at the latest, `silent_at` when it ends if nothing more is heard of its device.
    `running_ms` leaves pauses out, and is 0 until it stopped; `pending`, `rejected` and `paid` count contributions."""

    started_at: datetime
    session: str
    device: str
    owner: str
    region: str
    status: str
    throttled: bool
    ends_at: datetime
    ends_because: str
    silent_at: datetime
    paused_at: datetime | None
    stopped_at: datetime | None
    reason: str
    running_ms: int
    contributions: int
    pending: int
    rejected: int
    paid: int
    reward: Total
    policy: dict[str, Any]
    policy_version: int
    capabilities: dict[str, Any]
    version: int
    incomplete: bool


_SESSIONS = """
SELECT started_at, session, device, owner, region, status, throttled, ends_at, ends_because, silent_at, paused_at,
       stopped_at, reason, running_ms, contributions, pending, rejected, paid, reward, policy, policy_version,
       capabilities, s.position AS version, incomplete
FROM read.harvest_sessions s JOIN live USING (zone, generation)
WHERE (%(sees_all)s OR owner = %(principal)s) AND (%(owner)s = '' OR owner = %(owner)s)
  AND (%(device)s = '' OR device = %(device)s) AND (%(region)s = '' OR region = %(region)s)
"""

harvest.get(
    "sessions",
    Session,
    _SESSIONS
    + """
    AND (%(session)s = '' OR session = %(session)s) AND %(status)s IN ('', status)
    AND (%(reason)s = '' OR reason = %(reason)s)
    AND started_at >= %(since)s AND started_at < %(until)s
    """,
    key=("started_at", "session"),
    descending=True,
    parameters=OfSessions,
    own="owner",
)

harvest.get(
    "live-sessions",
    Session,
    _SESSIONS + "AND status <> 'stopped' AND least(ends_at, silent_at) > live.as_of",
    key=("started_at", "session"),
    descending=True,
    parameters=OfHarvesters,
    own="owner",
)


@dataclass(frozen=True, slots=True)
class OfStops:
    owner: Id = ""
    device: Id = ""
    region: Id = ""
    since: datetime = EPOCH
    until: datetime = FOR_EVER


@dataclass(frozen=True, slots=True)
class Stops:
    """Why sessions stopped: how many for each reason, and how long they had run altogether, pauses left out."""

    reason: str
    sessions: int
    running_ms: Total
    version: int
    incomplete: bool


harvest.get(
    "stop-reasons",
    Stops,
    """
    SELECT reason, count(*) AS sessions, sum(running_ms) AS running_ms, max(s.position) AS version,
           bool_or(incomplete) AS incomplete
    FROM read.harvest_sessions s JOIN live USING (zone, generation)
    WHERE (%(sees_all)s OR owner = %(principal)s) AND (%(owner)s = '' OR owner = %(owner)s)
      AND (%(device)s = '' OR device = %(device)s) AND (%(region)s = '' OR region = %(region)s)
      AND stopped_at >= %(since)s AND stopped_at < %(until)s
    GROUP BY reason
    """,
    key=("reason",),
    parameters=OfStops,
    own="owner",
)


# Contributions


@dataclass(frozen=True, slots=True)
class OfContributions:
    owner: Id = ""
    device: Id = ""
    session: Id = ""
    status: Id = ""
    since: datetime = EPOCH
    until: datetime = FOR_EVER


@dataclass(frozen=True, slots=True)
class Contributed:
    """A contribution, newest first: what was given in `elapsed_ms` of running time, and what became of it. `status` is
    pending, validated, rejected or paid; a rejection's `kind` is failure, fraud, or empty where nobody was found wrong;
    `disputed` ones wait for an operator. What its reward was made of is fixed when it is validated: `bonus_tasks`, the
    device's `score`, the hours that its region was offered in 7 days and the `scarcity` factor that follows (basis
    points both), and the GPU parameter in tenths of a point an hour."""

    recorded_at: datetime
    session: str
    seq: int
    device: str
    owner: str
    region: str
    cpu_ms: int
    memory_mb_ms: int
    bandwidth_bytes: int
    storage_mb_ms: int
    gpu_ms: int
    tasks: list[dict[str, Any]]
    proof: str
    elapsed_ms: int
    status: str
    kind: str
    reason: str
    results: int
    disputed: bool
    disputed_by: str
    dispute: str
    bonus_tasks: int
    score: int
    offered_ms: Total
    scarcity: int
    gpu_tenths: int
    reward: Money
    decided_at: datetime | None
    paid_at: datetime | None
    version: int
    incomplete: bool


harvest.get(
    "contributions",
    Contributed,
    """
    SELECT recorded_at, session, seq, device, owner, region, cpu_ms, memory_mb_ms, bandwidth_bytes, storage_mb_ms,
           gpu_ms, tasks, proof, elapsed_ms, status, kind, reason, results, disputed, disputed_by, dispute,
           bonus_tasks, score, offered_ms, scarcity, gpu_tenths, reward, decided_at, paid_at,
           c.position AS version, incomplete
    FROM read.harvest_contributions c JOIN live USING (zone, generation)
    WHERE (%(sees_all)s OR owner = %(principal)s) AND (%(owner)s = '' OR owner = %(owner)s)
      AND (%(device)s = '' OR device = %(device)s) AND (%(session)s = '' OR session = %(session)s)
      AND (%(status)s = '' OR status = %(status)s
           OR (%(status)s = 'disputed' AND disputed AND status IN ('pending', 'validated', 'rejected')))
      AND recorded_at >= %(since)s AND recorded_at < %(until)s
    """,
    key=("recorded_at", "session", "seq"),
    descending=True,
    parameters=OfContributions,
    own="owner",
)


@dataclass(frozen=True, slots=True)
class OfResults:
    session: Id
    seq: Count


@dataclass(frozen=True, slots=True)
class Result:
    """What others found for a contribution: for a task its digest; for one without tasks, where `task` is empty,
    confirmed or denied. Participants see those of their own contributions once these are decided, and their own."""

    task: str
    voter: str
    result_digest: str
    at: datetime
    version: int
    incomplete: bool


harvest.get(
    "contribution-results",
    Result,
    """
    SELECT task, voter, result_digest, at, v.position AS version, v.incomplete
    FROM read.harvest_results v JOIN live USING (zone, generation)
    JOIN read.harvest_contributions c USING (zone, generation, session, seq)
    WHERE session = %(session)s AND seq = %(seq)s
      AND (%(sees_all)s OR voter = %(principal)s OR (owner = %(principal)s AND status <> 'pending'))
    """,
    key=("task", "voter"),
    parameters=OfResults,
)


@dataclass(frozen=True, slots=True)
class ToValidate:
    """Where to look for contributions that wait for results."""

    region: Id = ""
    device: Id = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    recorded_at: datetime
    session: str
    seq: int
    device: str
    owner: str
    region: str
    cpu_ms: int
    memory_mb_ms: int
    bandwidth_bytes: int
    storage_mb_ms: int
    gpu_ms: int
    tasks: list[TaskResult]
    proof: str
    elapsed_ms: int
    results: list[dict[str, Any]]
    alpha: Total
    beta: Total
    day: int
    evidence: int
    as_of: datetime
    version: int
    incomplete: bool


@dataclass(frozen=True, slots=True)
class Pending:
    """A contribution that waits for results, oldest first, with those that came so far, for those who bring them. Each
    task needs `quorum` different owners who agree and are more than half of those who gave a result; without tasks,
    the whole needs as many operators of validators. The harvester's own owner never counts."""

    recorded_at: datetime
    session: str
    seq: int
    device: str
    owner: str
    region: str
    cpu_ms: int
    memory_mb_ms: int
    bandwidth_bytes: int
    storage_mb_ms: int
    gpu_ms: int
    tasks: list[dict[str, Any]]
    proof: str
    elapsed_ms: int
    quorum: int
    results: list[dict[str, Any]]
    version: int
    incomplete: bool


def _pending(found: Waiting, parameters: dict[str, Any]) -> Pending:
    work = Work(found.cpu_ms, found.memory_mb_ms, found.bandwidth_bytes, found.storage_mb_ms, found.gpu_ms)
    score = Reputation(found.alpha, found.beta, found.day, found.evidence).as_of(found.as_of).score
    quorum = quorum_for(Contribution(work=work, tasks=tuple(found.tasks)), score)
    tasks = [{"task": each.task, "result_digest": each.result_digest} for each in found.tasks]
    return _made(Pending, found, quorum=quorum, tasks=tasks)


harvest.get(
    "pending-contributions",
    Pending,
    f"""
    SELECT c.recorded_at, c.session, c.seq, c.device, c.owner, c.region, c.cpu_ms, c.memory_mb_ms,
           c.bandwidth_bytes, c.storage_mb_ms, c.gpu_ms, c.tasks, c.proof, c.elapsed_ms, v.results,
           coalesce(r.alpha, {UNKNOWN.alpha}) AS alpha, coalesce(r.beta, {UNKNOWN.beta}) AS beta,
           coalesce(r.day, 0) AS day, coalesce(r.evidence, 0) AS evidence, live.as_of,
           greatest(c.position, r.position) AS version,
           c.incomplete OR v.incomplete OR coalesce(r.incomplete, false) AS incomplete
    FROM read.harvest_contributions c JOIN live USING (zone, generation)
    LEFT JOIN read.harvest_reputations r USING (zone, generation, device)
    CROSS JOIN LATERAL (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
                   'task', x.task, 'voter', x.voter, 'result_digest', x.result_digest
               ) ORDER BY x.task, x.voter), '[]') AS results, coalesce(bool_or(x.incomplete), false) AS incomplete
        FROM read.harvest_results x
        WHERE (x.zone, x.generation, x.session, x.seq) = (c.zone, c.generation, c.session, c.seq)
    ) v
    WHERE c.status = 'pending' AND NOT c.disputed AND (%(region)s = '' OR c.region = %(region)s)
      AND (%(device)s = '' OR c.device = %(device)s)
    """,  # noqa: S608 - made of our own declarations only
    key=("recorded_at", "session", "seq"),
    parameters=ToValidate,
    roles=MATCHES,
    inputs=Waiting,
    derive=_pending,
)


@dataclass(frozen=True, slots=True)
class OneTask:
    task: Id


@dataclass(frozen=True, slots=True)
class TaskClaimed:
    """The results that contributions gave for a task, one an owner: what may serve as results for each other."""

    owner: str
    device: str
    result_digest: str
    session: str
    seq: int
    status: str
    at: datetime
    version: int
    incomplete: bool


harvest.get(
    "task-results",
    TaskClaimed,
    """
    SELECT t.owner, t.device, t.result_digest, t.session, t.seq, c.status, t.at,
           greatest(t.position, c.position) AS version, t.incomplete OR c.incomplete AS incomplete
    FROM read.harvest_tasks t JOIN live USING (zone, generation)
    JOIN read.harvest_contributions c USING (zone, generation, session, seq)
    WHERE t.task = %(task)s
    """,
    key=("owner",),
    parameters=OneTask,
    roles=MATCHES,
)


# Rewards


@dataclass(frozen=True, slots=True)
class OfRewards:
    """Days are YYYY-MM-DD, the first one included and the second one not."""

    owner: Id = ""
    device: Id = ""
    since: Id = "0000-01-01"
    until: Id = "9999-12-31"


@dataclass(frozen=True, slots=True)
class RewardsOfDay:
    """What a device was paid on a day (UTC), newest first, and for what."""

    day: str
    device: str
    owner: str
    contributions: int
    reward: Total
    tasks: int
    cpu_ms: Total
    memory_mb_ms: Total
    bandwidth_bytes: Total
    storage_mb_ms: Total
    gpu_ms: Total
    version: int
    incomplete: bool


harvest.get(
    "rewards",
    RewardsOfDay,
    """
    SELECT day, device, owner, contributions, reward, tasks, cpu_ms, memory_mb_ms, bandwidth_bytes, storage_mb_ms,
           gpu_ms, d.position AS version, incomplete
    FROM read.harvest_days d JOIN live USING (zone, generation)
    WHERE (%(sees_all)s OR owner = %(principal)s) AND (%(owner)s = '' OR owner = %(owner)s)
      AND (%(device)s = '' OR device = %(device)s) AND day >= %(since)s AND day < %(until)s
    """,
    key=("day", "device"),
    descending=True,
    parameters=OfRewards,
    own="owner",
)


@dataclass(frozen=True, slots=True)
class Imagined:
    """A contribution that a device might make: core-milliseconds, MB-milliseconds, bytes and GPU-milliseconds."""

    device: Id
    cpu_ms: int = 0
    memory_mb_ms: int = 0
    bandwidth_bytes: int = 0
    storage_mb_ms: int = 0
    gpu_ms: int = 0
    tasks: Count = 0


@dataclass(frozen=True, slots=True)
class RewardInputs:
    device: str
    region: str
    days: dict[str, int]
    alpha: Total
    beta: Total
    day: int
    evidence: int
    as_of: datetime
    version: int
    incomplete: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a contribution of your device would earn, were it validated now: the domain's own formula, with the inputs
    that it would have. `bonus` is what its reputation adds and `scarcity` its region's factor, in basis points (the
    bonus rounded down here, not in the reward); `bonus_tasks` are the tasks that a second of processor time backs."""

    device: str
    region: str
    score: int
    bonus: int
    offered_hours: int
    scarcity: int
    gpu_tenths: int
    bonus_tasks: int
    reward: Total
    as_of: datetime
    version: int
    incomplete: bool


def _estimate(found: RewardInputs, parameters: dict[str, Any]) -> Estimate:
    work = Work(
        parameters["cpu_ms"],
        parameters["memory_mb_ms"],
        parameters["bandwidth_bytes"],
        parameters["storage_mb_ms"],
        parameters["gpu_ms"],
    )
    score = Reputation(found.alpha, found.beta, found.day, found.evidence).as_of(found.as_of).score
    offered_ms = RegionHours(found.days).offered_ms(found.as_of)
    tasks, scarcity = bonus_tasks(work, parameters["tasks"]), scarcity_of(offered_ms)
    return _made(
        Estimate,
        found,
        score=score,
        bonus=floor_div(P.most_bonus * score, BASIS_POINTS),
        offered_hours=floor_div(offered_ms, MS_AN_HOUR),
        scarcity=scarcity,
        gpu_tenths=P.gpu_tenths,
        bonus_tasks=tasks,
        reward=reward_for(work, tasks, score, scarcity, P.gpu_tenths),
    )


# More days than count: the domain picks those that do.
_OFFERED = f"""
SELECT coalesce(jsonb_object_agg(o.day, o.running_ms), '{{}}') AS days,
       coalesce(max(o.position), 0) AS position, coalesce(bool_or(o.incomplete), false) AS incomplete
FROM read.harvest_offers o
WHERE (o.zone, o.generation) = (live.zone, live.generation)
  AND o.day::date >= (live.as_of AT TIME ZONE 'UTC')::date - {P.offer_days}
"""  # noqa: S608 - made of our own declarations only

harvest.get(
    "estimate",
    Estimate,
    f"""
    SELECT h.device, h.region, o.days, coalesce(r.alpha, {UNKNOWN.alpha}) AS alpha,
           coalesce(r.beta, {UNKNOWN.beta}) AS beta, coalesce(r.day, 0) AS day,
           coalesce(r.evidence, 0) AS evidence, live.as_of, greatest(h.position, r.position, o.position) AS version,
           h.incomplete OR o.incomplete OR coalesce(r.incomplete, false) AS incomplete
    {_SCORED}
    CROSS JOIN LATERAL ({_OFFERED} AND o.region = h.region) o
    WHERE h.device = %(device)s AND (%(sees_all)s OR h.owner = %(principal)s)
    """,
    key=("device",),
    parameters=Imagined,
    inputs=RewardInputs,
    derive=_estimate,
    single=True,
)


# Regions


@dataclass(frozen=True, slots=True)
class OneRegion:
    region: Id = ""


@dataclass(frozen=True, slots=True)
class Offered:
    region: str
    harvesters: int
    live_sessions: int
    days: dict[str, int]
    as_of: datetime
    version: int
    incomplete: bool


@dataclass(frozen=True, slots=True)
class Region:
    """What a region offers: its harvesters that are not retired, the sessions that are live, the running time of those
    that ended in the last 7 days (UTC, today included), and the factor in basis points by which rewards are higher
    where that is scarce."""

    region: str
    harvesters: int
    live_sessions: int
    offered_ms: Total
    offered_hours: int
    scarcity: int
    version: int
    incomplete: bool


def _region(found: Offered, parameters: dict[str, Any]) -> Region:
    offered_ms = RegionHours(found.days).offered_ms(found.as_of)
    return _made(
        Region,
        found,
        offered_ms=offered_ms,
        offered_hours=floor_div(offered_ms, MS_AN_HOUR),
        scarcity=scarcity_of(offered_ms),
    )


harvest.get(
    "regions",
    Region,
    f"""
    SELECT known.region, h.harvesters, s.live_sessions, o.days, live.as_of,
           greatest(h.position, s.position, o.position) AS version,
           h.incomplete OR s.incomplete OR o.incomplete AS incomplete
    FROM live
    CROSS JOIN LATERAL (
        SELECT region FROM read.harvest_harvesters x
        WHERE (x.zone, x.generation) = (live.zone, live.generation)
        UNION
        SELECT region FROM read.harvest_offers x
        WHERE (x.zone, x.generation) = (live.zone, live.generation)
    ) known
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE NOT retired) AS harvesters, coalesce(max(position), 0) AS position,
               coalesce(bool_or(incomplete), false) AS incomplete
        FROM read.harvest_harvesters x
        WHERE (x.zone, x.generation, x.region) = (live.zone, live.generation, known.region)
    ) h
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE least(ends_at, silent_at) > live.as_of) AS live_sessions,
               coalesce(max(position), 0) AS position, coalesce(bool_or(incomplete), false) AS incomplete
        FROM read.harvest_sessions x
        WHERE (x.zone, x.generation, x.region) = (live.zone, live.generation, known.region)
          AND x.stopped_at IS NULL
    ) s
    CROSS JOIN LATERAL ({_OFFERED} AND o.region = known.region) o
    WHERE %(region)s = '' OR known.region = %(region)s
    """,  # noqa: S608 - made of our own declarations only
    key=("region",),
    parameters=OneRegion,
    inputs=Offered,
    derive=_region,
)
