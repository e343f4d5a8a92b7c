"""What people ask of devices: which could serve, where they are, and how far each can be trusted.

What belongs to a market is for everybody: what a device is, has and scores. Its network, its heartbeats and the
evidence on it are its owner's, and those of operators and auditors. Whether a device is online, and what its evidence
is still worth, is as of the last event that the answer reflects.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

from domain._kernel import BasisPoints, Count, Id
from domain.devices import Reputation as Posterior
from projections._tables import Total
from queries._query import Context

PRIOR = Posterior()

R = TypeVar("R")

devices = Context(__name__)


def _made(row: type[R], found: Any, **derived: Any) -> R:
    """A row of what was found and of what follows from it."""
    copied = {f.name: getattr(found, f.name) for f in fields(row) if f.name not in derived}  # type: ignore[arg-type]
    return row(**copied, **derived)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A device's posterior for a service as of its last evidence: what a score is made of."""

    service: str = ""
    alpha: int = PRIOR.alpha
    beta: int = PRIOR.beta
    day: int = 0
    evidence: int = 0
    kinds: dict[str, int] | None = None
    last_at: datetime | None = None

    def as_of(self, at: datetime) -> Posterior:
        return Posterior(self.alpha, self.beta, self.day, self.evidence).as_of(at)

    def shown(self, at: datetime) -> dict[str, Any]:
        now = self.as_of(at)
        low, high = now.interval
        return {
            "service": self.service,
            "score": now.score,
            "low": low,
            "high": high,
            "evidence": self.evidence,
            "kinds": dict(sorted((self.kinds or {}).items())),
            "last_at": f"{self.last_at:%Y-%m-%dT%H:%M:%S.%fZ}" if self.last_at else None,
        }


_POSTERIORS = """
SELECT coalesce(jsonb_agg(jsonb_build_object(
           'service', r.service, 'alpha', r.alpha::text, 'beta', r.beta::text, 'day', r.day,
           'evidence', r.evidence, 'kinds', r.kinds,
           'last_at', to_char(r.last_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
       ) ORDER BY r.service), '[]') AS scores,
       coalesce(max(r.position), 0) AS position, coalesce(bool_or(r.incomplete), false) AS incomplete
FROM read.devices_reputations r
WHERE (r.zone, r.generation, r.device) = (d.zone, d.generation, d.device) AND r.service <> 'validation'
"""

_ENOUGH = """
d.cpu_millicores >= %(cpu_millicores)s AND d.memory_mb >= %(memory_mb)s AND d.storage_mb >= %(storage_mb)s
AND d.bandwidth_kbps >= %(bandwidth_kbps)s AND d.gpu >= %(gpu)s
AND (%(region)s = '' OR d.region = %(region)s) AND (%(type)s = '' OR d.type = %(type)s)
AND (NOT %(online)s OR coalesce(d.silent_at > live.as_of, false))
"""


# Devices


@dataclass(frozen=True, slots=True)
class Described:
    device: str
    owner: str
    type: str
    region: str
    status: str
    online: bool
    cpu_millicores: int
    memory_mb: int
    storage_mb: int
    bandwidth_kbps: int
    gpu: int
    registered_at: datetime


_DESCRIBED = """
d.device, d.owner, d.type, d.region, d.status, coalesce(d.silent_at > live.as_of, false) AS online,
d.cpu_millicores, d.memory_mb, d.storage_mb, d.bandwidth_kbps, d.gpu, d.registered_at
"""


@dataclass(frozen=True, slots=True)
class OfDevices:
    """Criteria; what is left out does not count. `online` asks for those that are."""

    owner: Id = ""
    region: Id = ""
    type: Id = ""
    status: Id = "active"
    online: bool = False
    cpu_millicores: Count = 0
    memory_mb: Count = 0
    storage_mb: Count = 0
    bandwidth_kbps: Count = 0
    gpu: Count = 0
    service: Id = ""
    min_score: BasisPoints = 0


@dataclass(frozen=True, slots=True)
class Listed(Described):
    posteriors: list[Evidence]
    as_of: datetime
    version: int
    incomplete: bool


@dataclass(frozen=True, slots=True)
class Device(Described):
    """A device that has at least these capabilities and meets the other criteria; `status` is active, suspended,
    retired or any, and active where none is asked for.

    `scores` are its reputations by service, in basis points, with their 90 % interval `low` to `high`; a service
    without evidence is left out, and scores 5,000. With `service` and `min_score` that service's score decides, with
    `min_score` alone one of any service; both mean the score as of the last evidence, which may be a little further
    from 5,000 than what is shown.
    """

    scores: list[dict[str, Any]]
    version: int
    incomplete: bool


def _device(found: Listed, parameters: dict[str, Any]) -> Device:
    return _made(Device, found, scores=[each.shown(found.as_of) for each in found.posteriors])


devices.get(
    "devices",
    Device,
    f"""
    SELECT {_DESCRIBED}, p.scores AS posteriors, live.as_of, greatest(d.position, p.position) AS version,
           d.incomplete OR p.incomplete AS incomplete
    FROM read.devices d JOIN live USING (zone, generation)
    CROSS JOIN LATERAL ({_POSTERIORS}) p
    WHERE {_ENOUGH} AND %(status)s IN ('any', d.status) AND (%(owner)s = '' OR d.owner = %(owner)s)
      AND (%(min_score)s = 0 OR (%(service)s <> '' AND %(min_score)s <= {PRIOR.score} AND NOT EXISTS (
          SELECT FROM read.devices_reputations r
          WHERE (r.zone, r.generation, r.device, r.service) = (d.zone, d.generation, d.device, %(service)s)
      )) OR EXISTS (
          SELECT FROM read.devices_reputations r
          WHERE (r.zone, r.generation, r.device) = (d.zone, d.generation, d.device)
            AND r.service <> 'validation' AND %(service)s IN ('', r.service) AND r.last_score >= %(min_score)s
      ))
    """,  # noqa: S608 - made of our own declarations only
    key=("device",),
    parameters=OfDevices,
    inputs=Listed,
    derive=_device,
)


# Suitability


@dataclass(frozen=True, slots=True)
class Needed:
    """What a service needs. `online` asks for devices that are."""

    service: Id
    region: Id = ""
    type: Id = ""
    online: bool = True
    cpu_millicores: Count = 0
    memory_mb: Count = 0
    storage_mb: Count = 0
    bandwidth_kbps: Count = 0
    gpu: Count = 0
    min_score: BasisPoints = 0


@dataclass(frozen=True, slots=True)
class Candidate(Described):
    last_score: int
    alpha: Total
    beta: Total
    day: int
    evidence: int
    as_of: datetime
    version: int
    incomplete: bool


@dataclass(frozen=True, slots=True)
class Suitable(Described):
    """A device that could serve: active, with at least the capabilities that are needed; the best score first.

    `score` is its reputation for the service in basis points, with its 90 % interval `low` to `high`; 5,000 where
    there is no evidence. The order, and `min_score`, go by `last_score`, the score as of its last evidence.
    """

    score: int
    low: int
    high: int
    last_score: int
    evidence: int
    version: int
    incomplete: bool


def _suitable(found: Candidate, parameters: dict[str, Any]) -> Suitable:
    now = Posterior(found.alpha, found.beta, found.day, found.evidence).as_of(found.as_of)
    low, high = now.interval
    return _made(Suitable, found, score=now.score, low=low, high=high)


devices.get(
    "suitability",
    Suitable,
    f"""
    SELECT {_DESCRIBED}, coalesce(r.last_score, {PRIOR.score}) AS last_score,
           coalesce(r.alpha, {PRIOR.alpha}) AS alpha, coalesce(r.beta, {PRIOR.beta}) AS beta,
           coalesce(r.day, 0) AS day, coalesce(r.evidence, 0) AS evidence, live.as_of,
           greatest(d.position, r.position) AS version, d.incomplete OR coalesce(r.incomplete, false) AS incomplete
    FROM read.devices d JOIN live USING (zone, generation)
    LEFT JOIN read.devices_reputations r
        ON (r.zone, r.generation, r.device, r.service) = (d.zone, d.generation, d.device, %(service)s)
    WHERE {_ENOUGH} AND d.status = 'active' AND coalesce(r.last_score, {PRIOR.score}) >= %(min_score)s
    """,  # noqa: S608 - made of our own declarations only
    key=("last_score", "device"),
    descending=True,
    parameters=Needed,
    inputs=Candidate,
    derive=_suitable,
)


# One device


@dataclass(frozen=True, slots=True)
class OneDevice:
    device: Id


@dataclass(frozen=True, slots=True)
class Whole(Described):
    asn: int
    suspended_by: list[str]
    reason: str
    seq: int | None
    heard_at: datetime | None
    silent_at: datetime | None
    times_online: int
    uptime: int
    retired_at: datetime | None
    as_of: datetime


@dataclass(frozen=True, slots=True)
class Inspected(Whole):
    posteriors: list[Evidence]
    version: int
    incomplete: bool


@dataclass(frozen=True, slots=True)
class Card(Whole):
    """All about a device, for its owner, operators and auditors: what it is and has, whether it may serve, when it
    was last heard (`seq` and `heard_at` of the last kept heartbeat; at `silent_at` it counts as offline), and its
    scores by service with their 90 % intervals, all as of `as_of`.

    `uptime` = floor(10000 * time online / window), the window being the last 30 days or, if that is shorter, the time
    since it was registered, until it was retired; 0 where that is no time at all.
    """

    scores: list[dict[str, Any]]
    version: int
    incomplete: bool


def _card(found: Inspected, parameters: dict[str, Any]) -> Card:
    return _made(Card, found, scores=[each.shown(found.as_of) for each in found.posteriors])


devices.get(
    "card",
    Card,
    f"""
    SELECT {_DESCRIBED}, d.asn,
           array_to_json(array_remove(ARRAY[
               CASE WHEN d.suspended_by_owner THEN 'owner' END,
               CASE WHEN d.suspended_by_operator THEN 'operator' END], NULL)) AS suspended_by,
           d.reason, nullif(d.seq, -1) AS seq, d.heard_at, d.silent_at, o.times_online,
           coalesce(div(10000 * o.online_us, nullif(w.window_us, 0)), 0)::bigint AS uptime, d.retired_at, live.as_of,
           p.scores AS posteriors, greatest(d.position, p.position) AS version,
           d.incomplete OR p.incomplete OR o.incomplete AS incomplete
    FROM read.devices d JOIN live USING (zone, generation)
    CROSS JOIN LATERAL ({_POSTERIORS}) p
    CROSS JOIN LATERAL (SELECT coalesce(d.retired_at, live.as_of) AS ended) e
    CROSS JOIN LATERAL (SELECT greatest(d.registered_at, e.ended - interval '30 days') AS begun) b
    CROSS JOIN LATERAL (SELECT round(1000000 * extract(epoch FROM e.ended - b.begun)) AS window_us) w
    CROSS JOIN LATERAL (
        SELECT count(*) AS times_online, coalesce(bool_or(t.incomplete), false) AS incomplete,
               coalesce(sum(round(1000000 * extract(epoch FROM
                   greatest(least(coalesce(t.ended_at, d.silent_at), e.ended), b.begun)
                   - greatest(t.begun_at, b.begun)))), 0) AS online_us
        FROM read.devices_online t
        WHERE (t.zone, t.generation, t.device) = (d.zone, d.generation, d.device)
    ) o
    WHERE d.device = %(device)s AND (%(sees_all)s OR d.owner = %(principal)s)
    """,  # noqa: S608 - made of our own declarations only
    key=("device",),
    parameters=OneDevice,
    inputs=Inspected,
    derive=_card,
    single=True,
)


@dataclass(frozen=True, slots=True)
class Online:
    """A time that a device was online, newest first; `ended_at` is null while nobody noticed its end, `reason` is
    owner, missed-heartbeats or retired. For its owner, operators and auditors."""

    term: int
    device: str
    begun_at: datetime
    ended_at: datetime | None
    reason: str
    version: int
    incomplete: bool


devices.get(
    "online-history",
    Online,
    """
    SELECT t.term, t.device, t.begun_at, t.ended_at, t.reason, t.position AS version, t.incomplete
    FROM read.devices_online t JOIN live USING (zone, generation)
    JOIN read.devices d USING (zone, generation, device)
    WHERE t.device = %(device)s AND (%(sees_all)s OR d.owner = %(principal)s)
    """,
    key=("term",),
    descending=True,
    parameters=OneDevice,
)


# Reputation


@dataclass(frozen=True, slots=True)
class OfReputation:
    device: Id = ""
    service: Id = ""


@dataclass(frozen=True, slots=True)
class Stored:
    device: str
    service: str
    alpha: Total
    beta: Total
    day: int
    evidence: int
    kinds: dict[str, int]
    last_at: datetime
    as_of: datetime
    version: int
    incomplete: bool


@dataclass(frozen=True, slots=True)
class Reputation:
    """How far a device is trusted with a service; for `validation` the device is a validator. `score` is the mean
    alpha / (alpha + beta) of its Beta posterior in basis points, rounded down, `low` to `high` the 90 % credible
    interval by the normal approximation, rounded outwards, both as of `as_of`. `kinds` counts its evidence."""

    device: str
    service: str
    score: int
    low: int
    high: int
    alpha: Total
    """Billionths of an observation."""
    beta: Total
    evidence: int
    kinds: dict[str, Any]
    last_at: datetime
    as_of: datetime
    version: int
    incomplete: bool


def _reputation(found: Stored, parameters: dict[str, Any]) -> Reputation:
    now = Posterior(found.alpha, found.beta, found.day, found.evidence).as_of(found.as_of)
    low, high = now.interval
    return _made(Reputation, found, score=now.score, low=low, high=high, alpha=now.alpha, beta=now.beta)


devices.get(
    "reputation",
    Reputation,
    """
    SELECT r.device, r.service, r.alpha, r.beta, r.day, r.evidence, r.kinds, r.last_at, live.as_of,
           r.position AS version, r.incomplete
    FROM read.devices_reputations r JOIN live USING (zone, generation)
    WHERE (%(device)s = '' OR r.device = %(device)s) AND (%(service)s = '' OR r.service = %(service)s)
    """,
    key=("device", "service"),
    parameters=OfReputation,
    inputs=Stored,
    derive=_reputation,
)


@dataclass(frozen=True, slots=True)
class OfEvidence:
    device: Id
    service: Id = ""
    kind: Id = ""


@dataclass(frozen=True, slots=True)
class Counted:
    """A piece of evidence, newest first: what it added to alpha and beta (billionths of an observation), and the
    score that it led to. Participants see what concerns their own devices, and every validator."""

    version: int
    at: datetime
    evidence_id: str
    device: str
    service: str
    kind: str
    quality: int
    alpha: Total
    beta: Total
    score: int
    incomplete: bool


devices.get(
    "reputation-history",
    Counted,
    """
    SELECT e.position AS version, e.at, e.evidence_id, e.device, e.service, e.kind, e.quality, e.alpha, e.beta,
           e.score, e.incomplete
    FROM read.devices_evidence e JOIN live USING (zone, generation)
    LEFT JOIN read.devices d USING (zone, generation, device)
    WHERE e.device = %(device)s AND (%(service)s = '' OR e.service = %(service)s)
      AND (%(kind)s = '' OR e.kind = %(kind)s)
      AND (%(sees_all)s OR e.service = 'validation' OR d.owner = %(principal)s)
    """,
    key=("version",),
    descending=True,
    parameters=OfEvidence,
)


# Coverage


@dataclass(frozen=True, slots=True)
class OfCoverage:
    region: Id = ""
    type: Id = ""


@dataclass(frozen=True, slots=True)
class Region:
    """A region of the map: its devices that are not retired, and what those that may serve have together; `online`
    and the capacities that end in it count the active ones that are online."""

    region: str
    devices: int
    active: int
    suspended: int
    online: int
    owners: int
    networks: int
    """Different autonomous systems among them, as far as they are known."""
    cpu_millicores: Total
    memory_mb: Total
    storage_mb: Total
    bandwidth_kbps: Total
    gpu: Total
    cpu_millicores_online: Total
    memory_mb_online: Total
    storage_mb_online: Total
    bandwidth_kbps_online: Total
    gpu_online: Total
    version: int
    incomplete: bool


def _sums(condition: str, suffix: str) -> str:
    names = ("cpu_millicores", "memory_mb", "storage_mb", "bandwidth_kbps", "gpu")
    return ", ".join(f"coalesce(sum({n}) FILTER (WHERE {condition}), 0) AS {n}{suffix}" for n in names)


devices.get(
    "coverage",
    Region,
    f"""
    SELECT region, count(*) AS devices, count(*) FILTER (WHERE active) AS active,
           count(*) FILTER (WHERE NOT active) AS suspended, count(*) FILTER (WHERE online) AS online,
           count(DISTINCT owner) AS owners, count(DISTINCT nullif(asn, 0)) AS networks,
           {_sums("active", "")},
           {_sums("online", "_online")},
           max(position) AS version, bool_or(incomplete) AS incomplete
    FROM (
        SELECT d.*, d.status = 'active' AS active,
               d.status = 'active' AND coalesce(d.silent_at > live.as_of, false) AS online
        FROM read.devices d JOIN live USING (zone, generation)
        WHERE d.status <> 'retired' AND (%(region)s = '' OR d.region = %(region)s)
          AND (%(type)s = '' OR d.type = %(type)s)
    ) found
    GROUP BY region
    """,  # noqa: S608 - made of our own declarations only
    key=("region",),
    parameters=OfCoverage,
)
