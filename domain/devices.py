"""Devices, whether they are alive, and how far they can be trusted.

Reputation is a Beta posterior (A. Josang and R. Ismail, 'The Beta Reputation System', 2002) per device and service:
alpha counts what went well, beta what went wrong, both 1 where nothing is known (the prior). Evidence keeps e^(-0.001)
of its weight with each day (UTC) that begins, so both move back to the prior. All of it is on integers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import isqrt

from domain._kernel import (
    BASIS_POINTS,
    BasisPoints,
    Count,
    Decision,
    Id,
    Issued,
    NotFound,
    Personal,
    Quantity,
    Read,
    Rejected,
    Stream,
    ceil_div,
    floor_div,
)
from domain.staking import validators


@dataclass(frozen=True, slots=True)
class Parameters:
    """The constants of devices and reputation, in one place. Weights are in basis points of one observation."""

    heartbeat_kept_every: timedelta = timedelta(minutes=2)
    """A heartbeat that comes sooner after a kept one leaves no event."""
    offline_after: timedelta = timedelta(minutes=10)
    """How long after the last kept heartbeat a device counts as online."""
    relocate_every: timedelta = timedelta(days=1)
    success_weight: int = 10_000
    failure_weight: int = 10_000
    availability_weight: int = 5_000
    quality_weight: int = 15_000
    peer_weight: int = 8_000
    fraud_weight: int = 30_000
    z_score: int = 16_449
    """Half the width of a 90 % interval in standard deviations, in 1/10,000: the normal distribution's 1.6449."""


P = Parameters()

UNIT = 10**9
"""One observation: alpha and beta are kept in billionths of it, so that no weight and no quality is rounded."""
FIXED_ONE = 2**64
DAILY_DECAY = 18_428_306_549_934_190_034
"""e^(-0.001) scaled by 2^64, rounded to the nearest."""
DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

VALIDATION = "validation"
"""The service whose reputation is a validator's, not a device's."""
KINDS = ("success", "failure", "availability", "quality", "peer", "fraud")
MOST_ASN = 4_294_967_294
"""Autonomous system numbers have 32 bits; the last is reserved (RFC 7300)."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a device has, or what a use of it needs."""

    cpu_millicores: Count
    memory_mb: Count
    storage_mb: Count = 0
    bandwidth_kbps: Count = 0
    gpu: Count = 0
    """Number of GPUs."""

    def covers(self, needed: Capabilities) -> bool:
        """Whether each is at least what is needed."""
        return (
            self.cpu_millicores >= needed.cpu_millicores
            and self.memory_mb >= needed.memory_mb
            and self.storage_mb >= needed.storage_mb
            and self.bandwidth_kbps >= needed.bandwidth_kbps
            and self.gpu >= needed.gpu
        )


NOTHING = Capabilities(0, 0)

# Events: stored for ever. Add fields with defaults; never rename, never remove.


@dataclass(frozen=True, slots=True)
class DeviceRegistered:
    owner: str
    type: str
    capabilities: Capabilities
    region: str
    asn: int
    at: datetime


@dataclass(frozen=True, slots=True)
class CapabilitiesUpdated:
    capabilities: Capabilities
    at: datetime


@dataclass(frozen=True, slots=True)
class DeviceRelocated:
    region: str
    asn: int
    at: datetime


@dataclass(frozen=True, slots=True)
class DeviceCameOnline:
    seq: int
    at: datetime


@dataclass(frozen=True, slots=True)
class HeartbeatKept:
    """One of the heartbeats of a device that stays online, to know how long it was heard."""

    seq: int
    at: datetime


@dataclass(frozen=True, slots=True)
class DeviceWentOffline:
    reason: str
    """owner, or missed-heartbeats."""
    at: datetime
    """For missed heartbeats the time when they were too many, whenever that was noticed."""


@dataclass(frozen=True, slots=True)
class DeviceSuspended:
    by: str
    """owner or operator: each ends only the suspension that is his."""
    reason: Personal
    at: datetime


@dataclass(frozen=True, slots=True)
class DeviceResumed:
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class DeviceRetired:
    reason: Personal
    at: datetime


@dataclass(frozen=True, slots=True)
class EvidenceCounted:
    """A piece of evidence was used, and is used up."""

    device: str
    service: str
    kind: str
    quality: int
    at: datetime


@dataclass(frozen=True, slots=True)
class ReputationRecorded:
    """What a piece of evidence adds to a posterior, in billionths of an observation."""

    evidence_id: str
    kind: str
    quality: int
    alpha: Quantity
    beta: Quantity
    at: datetime


DeviceEvent = (
    DeviceRegistered
    | CapabilitiesUpdated
    | DeviceRelocated
    | DeviceCameOnline
    | HeartbeatKept
    | DeviceWentOffline
    | DeviceSuspended
    | DeviceResumed
    | DeviceRetired
)

# State


@dataclass(frozen=True, slots=True)
class Device:
    owner: str = ""
    type: str = ""
    region: str = ""
    asn: int = 0
    """Autonomous system of its network; 0 where that is not known."""
    capabilities: Capabilities = NOTHING
    status: str = "absent"
    """absent, active, suspended or retired."""
    suspended_by: tuple[str, ...] = ()
    """owner, operator, or both."""
    halts: int = 0
    """How many times it ceased to serve: was suspended, or retired."""
    halted_at: datetime | None = None
    """When it last did."""
    located_at: datetime | None = None
    online: bool = False
    """As it was last noted; `online_at` is what counts."""
    seq: int = -1
    """Of the last kept heartbeat."""
    heard_at: datetime | None = None
    """When that was."""

    @property
    def silent_at(self) -> datetime | None:
        """When it counts as offline, if nothing more is heard of it; None where it is offline."""
        return self.heard_at + P.offline_after if self.online and self.heard_at is not None else None

    def online_at(self, at: datetime) -> bool:
        """Whether it is online, whether or not the timer of missed heartbeats has run."""
        return self.silent_at is not None and at < self.silent_at


@dataclass(frozen=True, slots=True)
class Evidence:
    device: str = ""
    service: str = ""
    kind: str = ""
    quality: int = 0


@dataclass(frozen=True, slots=True)
class Reputation:
    """A Beta posterior as of a day, in billionths of an observation; the prior's 1 is part of both."""

    alpha: int = UNIT
    beta: int = UNIT
    day: int = 0
    """Days since 1970 (UTC)."""
    evidence: int = 0
    """How many pieces were counted, ever."""

    def as_of(self, at: datetime) -> Reputation:
        """What is left of it on the day of `at`, rounded down towards the prior.

        Days are those of the calendar: were they counted from the evidence before, a stream of evidence less than
        a day apart would never fade.
        """
        day = day_number(at)
        if day <= self.day:
            return self
        left = decay(day - self.day)
        alpha = UNIT + floor_div((self.alpha - UNIT) * left, FIXED_ONE)
        beta = UNIT + floor_div((self.beta - UNIT) * left, FIXED_ONE)
        return Reputation(alpha, beta, day, self.evidence)

    @property
    def score(self) -> int:
        """The posterior's mean alpha / (alpha + beta) in basis points, rounded down."""
        return floor_div(BASIS_POINTS * self.alpha, self.alpha + self.beta)

    @property
    def interval(self) -> tuple[int, int]:
        """The 90 % credible interval in basis points, rounded outwards, within 0 and 10,000.

        The normal approximation: mean -+ 1.6449 standard deviations, the variance of Beta(a, b) being
        ab / ((a + b)^2 (a + b + 1)) (Johnson, Kotz and Balakrishnan, 'Continuous Univariate Distributions 2', 25).
        """
        total = self.alpha + self.beta
        square = ceil_div(P.z_score**2 * self.alpha * self.beta * UNIT, total**2 * (total + UNIT))
        half = isqrt(square - 1) + 1 if square else 0
        high = ceil_div(BASIS_POINTS * self.alpha, total) + half
        return max(0, self.score - half), min(BASIS_POINTS, high)


def day_number(at: datetime) -> int:
    return (at - EPOCH) // DAY


@lru_cache(1_024)  # A match asks for a few days very often.
def decay(days: int) -> int:
    """e^(-0.001 * days) scaled by 2^64: `DAILY_DECAY` to the power of `days`, by squaring.

    Each of its products is rounded to the nearest. The result is at most (days - 1) / 2 units from the exact
    power, and the constant's own rounding adds at most days / 2: below 2 * 10^-15 for a hundred years.
    """
    result, power = FIXED_ONE, DAILY_DECAY
    while days:
        if days & 1:
            result = _times(result, power)
        power = _times(power, power)
        days >>= 1
    return result


def _times(a: int, b: int) -> int:
    return floor_div(a * b + FIXED_ONE // 2, FIXED_ONE)


# evolve


def evolve_device(device: Device, event: DeviceEvent) -> Device:
    match event:
        case DeviceCameOnline() | HeartbeatKept():
            return replace(device, online=True, seq=event.seq, heard_at=event.at)
        case DeviceWentOffline():
            return replace(device, online=False)
        case DeviceRegistered():
            return Device(
                event.owner,
                event.type,
                event.region,
                event.asn,
                event.capabilities,
                status="active",
                located_at=event.at,
            )
        case CapabilitiesUpdated():
            return replace(device, capabilities=event.capabilities)
        case DeviceRelocated():
            return replace(device, region=event.region, asn=event.asn, located_at=event.at)
        case DeviceSuspended():
            by = (*device.suspended_by, event.by)
            return replace(_halted(device, event.at), status="suspended", suspended_by=by)
        case DeviceResumed():
            left = tuple(by for by in device.suspended_by if by != event.by)
            return replace(device, status="suspended" if left else "active", suspended_by=left)
        case DeviceRetired():
            return replace(_halted(device, event.at), status="retired", online=False)


def _halted(device: Device, at: datetime) -> Device:
    if device.status != "active":
        return device
    return replace(device, halts=device.halts + 1, halted_at=at)


def evolve_evidence(evidence: Evidence, event: EvidenceCounted) -> Evidence:
    return Evidence(event.device, event.service, event.kind, event.quality)


def evolve_reputation(reputation: Reputation, event: ReputationRecorded) -> Reputation:
    now = reputation.as_of(event.at)
    return Reputation(now.alpha + event.alpha, now.beta + event.beta, now.day, now.evidence + 1)


devices = Stream("device", Device(), evolve_device, DeviceEvent)
evidences = Stream("evidence", Evidence(), evolve_evidence, EvidenceCounted)
reputations = Stream("reputation", Reputation(), evolve_reputation, ReputationRecorded)

# Commands


@dataclass(frozen=True, slots=True)
class RegisterDevice:
    """Make your device known: what it is, has and where it is. It is offline until its first heartbeat."""

    device: Id
    type: Id
    capabilities: Capabilities
    region: Id
    asn: int = 0
    """Autonomous system number of its network; 0 where you do not know it."""


@dataclass(frozen=True, slots=True)
class UpdateCapabilities:
    """Say what your device has now."""

    device: Id
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class RelocateDevice:
    """Say where your device is now; at most once a day."""

    device: Id
    region: Id
    asn: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Say that your device is alive. `seq` grows with each; a device that keeps no counter sends its clock."""

    device: Id
    seq: int


@dataclass(frozen=True, slots=True)
class MarkOffline:
    """Take your device offline at once; a timer does so when its heartbeats are missed."""

    device: Id


@dataclass(frozen=True, slots=True)
class SuspendDevice:
    """Let a device serve nothing until it is resumed: its owner for himself, an operator for any."""

    device: Id
    reason: Personal


@dataclass(frozen=True, slots=True)
class ResumeDevice:
    """End the suspension that is yours: its owner's, or as an operator the operators'."""

    device: Id


@dataclass(frozen=True, slots=True)
class RetireDevice:
    """Take a device out of use for good: its owner, or an operator."""

    device: Id
    reason: Personal = ""


@dataclass(frozen=True, slots=True)
class RecordReputation:
    """Count a piece of evidence on how a device serves, once.

    Weights: success and failure 1, availability 0.5, quality 1.5, peer 0.8, fraud 3. `quality` (basis points) is the
    share that was good: of an availability, a quality or a peer's rating it goes to alpha, and the rest to beta. Only
    what succeeded has a quality: `quality` grades a success that was recorded, a success that names a quality above 0
    is graded by it at once, and a failure or a fraud names none. For the service `validation` the device is a
    validator. The same evidence again changes nothing.
    """

    device: Id
    service: Id
    kind: Id
    evidence_id: Id
    quality: BasisPoints = 0


# Rules


class DeviceNotFound(NotFound):
    """There is no such device, or it is not yours."""


class DeviceExists(Rejected):
    """A device with this id was registered before."""


class DeviceIsSuspended(Rejected):
    """A suspended device serves nothing."""


class DeviceIsRetired(Rejected):
    """A retired device serves nothing, for good."""


class CapabilitiesAreEmpty(Rejected):
    """A device has at least some processor and some memory."""


class AsnIsOutOfRange(Rejected):
    """An autonomous system number has 32 bits."""


class DeviceMovedRecently(Rejected):
    """A device changes its place at most once a day."""


class HeartbeatIsOld(Rejected):
    """A heartbeat's number is higher than that of the last one that was kept."""


class DeviceIsStillHeard(Rejected):
    """A device is taken offline by others only once its heartbeats are missed."""


class SuspensionIsNotYours(Rejected):
    """Only who suspended a device resumes it: its owner, or the operators."""


class EvidenceKindIsUnknown(Rejected):
    """Evidence is of a kind that has a weight."""


class QualityNeedsASuccess(Rejected):
    """What failed has no quality."""


class EvidenceWasCounted(Rejected):
    """This evidence id stands for something else that was counted before."""


# Decisions: what other contexts ask


def serving(read: Read, device_id: str) -> Device:
    """The device, if it may serve: neither suspended nor retired. Raises DeviceNotFound, DeviceIsSuspended and
    DeviceIsRetired."""
    device = read(devices, device_id)
    if device.status == "absent":
        raise DeviceNotFound(device=device_id)
    if device.status == "retired":
        raise DeviceIsRetired(device=device_id)
    if device.status == "suspended":
        raise DeviceIsSuspended(device=device_id, by=device.suspended_by)
    return device


def owned(read: Read, issued: Issued, device_id: str) -> Device:
    """The caller's own device, if it may serve; raises as `serving` does."""
    yours(read, issued, device_id)
    return serving(read, device_id)


def yours(read: Read, issued: Issued, device_id: str) -> Device:
    """The caller's own device, whatever its status. Raises DeviceNotFound."""
    device = read(devices, device_id)
    if device.status == "absent" or device.owner != issued.by:
        raise DeviceNotFound(device=device_id)
    return device


def score(read: Read, device: str, service: str, at: datetime) -> int:
    """Reputation in basis points as of a time; 5,000 where there is no evidence."""
    return read(reputations, f"{device}:{service}").as_of(at).score


# Decisions: devices


def register_device(command: RegisterDevice, issued: Issued, read: Read) -> Decision:
    if read(devices, command.device).status != "absent":
        raise DeviceExists(device=command.device)
    _check_capabilities(command.capabilities)
    _check_asn(command.asn)
    yield (
        devices(command.device),
        DeviceRegistered(
            issued.by, command.type, command.capabilities, command.region, command.asn, issued.at
        ),
    )


def _check_capabilities(capabilities: Capabilities) -> None:
    if not (capabilities.cpu_millicores and capabilities.memory_mb):
        raise CapabilitiesAreEmpty()


def _check_asn(asn: int) -> None:
    if not 0 <= asn <= MOST_ASN:
        raise AsnIsOutOfRange(asn=asn, limit=MOST_ASN)


def _in_use(device: Device, id: str) -> None:
    if device.status == "retired":
        raise DeviceIsRetired(device=id)


def update_capabilities(command: UpdateCapabilities, issued: Issued, read: Read) -> Decision:
    device = yours(read, issued, command.device)
    _in_use(device, command.device)
    _check_capabilities(command.capabilities)
    if device.capabilities != command.capabilities:
        yield devices(command.device), CapabilitiesUpdated(command.capabilities, issued.at)


def relocate_device(command: RelocateDevice, issued: Issued, read: Read) -> Decision:
    device = yours(read, issued, command.device)
    _in_use(device, command.device)
    _check_asn(command.asn)
    if (device.region, device.asn) == (command.region, command.asn):
        return
    if device.located_at is not None and issued.at < device.located_at + P.relocate_every:
        raise DeviceMovedRecently(device=command.device, until=device.located_at + P.relocate_every)
    yield devices(command.device), DeviceRelocated(command.region, command.asn, issued.at)


def heartbeat(command: Heartbeat, issued: Issued, read: Read) -> Decision:
    """Heartbeats come often: only a transition, and one now and then while nothing changes, is an event."""
    device = yours(read, issued, command.device)
    _in_use(device, command.device)
    if command.seq <= device.seq:
        raise HeartbeatIsOld(device=command.device, seq=command.seq, last=device.seq)
    where = devices(command.device)
    if not device.online_at(issued.at):
        if device.silent_at is not None:
            yield where, DeviceWentOffline("missed-heartbeats", device.silent_at)
        yield where, DeviceCameOnline(command.seq, issued.at)
    elif device.heard_at is not None and issued.at >= device.heard_at + P.heartbeat_kept_every:
        yield where, HeartbeatKept(command.seq, issued.at)


def mark_offline(command: MarkOffline, issued: Issued, read: Read) -> Decision:
    device = read(devices, command.device)
    if device.status == "absent" or not (issued.by == device.owner or issued.is_service):
        raise DeviceNotFound(device=command.device)
    if device.silent_at is None:
        return
    if issued.at >= device.silent_at:
        yield devices(command.device), DeviceWentOffline("missed-heartbeats", device.silent_at)
    elif issued.by == device.owner:
        yield devices(command.device), DeviceWentOffline("owner", issued.at)
    else:
        raise DeviceIsStillHeard(device=command.device, until=device.silent_at)


def suspend_device(command: SuspendDevice, issued: Issued, read: Read) -> Decision:
    device, by = _as_whom(read, issued, command.device)
    _in_use(device, command.device)
    if by not in device.suspended_by:
        yield devices(command.device), DeviceSuspended(by, command.reason, issued.at)


def resume_device(command: ResumeDevice, issued: Issued, read: Read) -> Decision:
    device, by = _as_whom(read, issued, command.device)
    _in_use(device, command.device)
    if by in device.suspended_by:
        yield devices(command.device), DeviceResumed(by, issued.at)
    elif device.suspended_by:
        raise SuspensionIsNotYours(device=command.device, by=device.suspended_by)


def retire_device(command: RetireDevice, issued: Issued, read: Read) -> Decision:
    device, _ = _as_whom(read, issued, command.device)
    if device.status != "retired":
        yield devices(command.device), DeviceRetired(command.reason, issued.at)


def _as_whom(read: Read, issued: Issued, id: str) -> tuple[Device, str]:
    """The device, and whether the caller acts as its owner or as an operator. Raises DeviceNotFound."""
    device = read(devices, id)
    if device.status != "absent" and device.owner == issued.by:
        return device, "owner"
    if device.status != "absent" and issued.is_operator:
        return device, "operator"
    raise DeviceNotFound(device=id)


# Decisions: reputation


def record_reputation(command: RecordReputation, issued: Issued, read: Read) -> Decision:
    if command.service == VALIDATION:
        known = bool(read(validators, command.device).operator)
    else:
        known = read(devices, command.device).status != "absent"
    if not known:
        raise DeviceNotFound(device=command.device, service=command.service)
    alpha, beta = weigh(command.kind, command.quality)
    evidence = Evidence(command.device, command.service, command.kind, command.quality)
    counted = read(evidences, command.evidence_id)
    if counted == evidence:
        return
    if counted.kind:
        raise EvidenceWasCounted(evidence_id=command.evidence_id)
    yield (
        evidences(command.evidence_id),
        EvidenceCounted(command.device, command.service, command.kind, command.quality, issued.at),
    )
    yield (
        reputations(command.device, command.service),
        ReputationRecorded(command.evidence_id, command.kind, command.quality, alpha, beta, issued.at),
    )


def weigh(kind: str, quality: int) -> tuple[int, int]:
    """What evidence adds to alpha and to beta, in billionths of an observation; exact."""
    match kind:
        case "success":
            good, bad = _split(P.quality_weight, quality) if quality else (0, 0)
            return _observed(P.success_weight) + good, bad
        case "availability":
            return _split(P.availability_weight, quality)
        case "quality":
            return _split(P.quality_weight, quality)
        case "peer":
            return _split(P.peer_weight, quality)
        case "failure" | "fraud":
            if quality:
                raise QualityNeedsASuccess(kind=kind, quality=quality)
            return 0, _observed(P.failure_weight if kind == "failure" else P.fraud_weight)
        case _:
            raise EvidenceKindIsUnknown(kind=kind, known=KINDS)


def _observed(weight: int) -> int:
    return floor_div(weight * UNIT, BASIS_POINTS)


def _split(weight: int, quality: int) -> tuple[int, int]:
    """Of a weight, the share that was good goes to alpha, the rest to beta."""
    good = floor_div(weight * quality * UNIT, BASIS_POINTS**2)
    return good, _observed(weight) - good
