"""Read models of devices: what they are and when they were online, and how they are trusted."""

from __future__ import annotations

import hashlib
from dataclasses import field
from datetime import datetime
from typing import Any

from commands._codec import EPOCH
from domain.devices import (
    UNIT,
    VALIDATION,
    CapabilitiesUpdated,
    DeviceCameOnline,
    DeviceRegistered,
    DeviceRelocated,
    DeviceResumed,
    DeviceRetired,
    DeviceSuspended,
    DeviceWentOffline,
    EvidenceCounted,
    HeartbeatKept,
    P,
    ReputationRecorded,
    evolve_reputation,
)
from domain.devices import Capabilities as Declared
from domain.devices import Reputation as Posterior
from domain.staking import Slashed
from projections._engine import Projection, Record, Rows
from projections._tables import Row, Total, table
from projections._timers import react, schedule_next, settle, settle_next, timers

MOST_ID = 64
"""Characters of an id."""


@table("devices", key=("device",), indexes=("owner, device", "region, device"))
class Device(Row):
    device: str
    owner: str = ""
    type: str = ""
    region: str = ""
    asn: int = 0
    cpu_millicores: int = 0
    memory_mb: int = 0
    storage_mb: int = 0
    bandwidth_kbps: int = 0
    gpu: int = 0
    status: str = ""
    """active, suspended or retired."""
    suspended_by_owner: bool = False
    suspended_by_operator: bool = False
    reason: str = ""
    """Of its last suspension, or of its retirement."""
    seq: int = -1
    heard_at: datetime | None = None
    """Its last kept heartbeat."""
    silent_at: datetime | None = None
    """When it counts as offline, if nothing more is heard of it; null where it is offline."""
    term: int = 0
    """The key of its present or last time online."""
    registered_at: datetime = EPOCH
    retired_at: datetime | None = None


@table("devices_online", key=("device", "term"))
class Online(Row):
    """A time that a device was online."""

    device: str
    term: int
    """The position where it began."""
    begun_at: datetime = EPOCH
    ended_at: datetime | None = None
    reason: str = ""
    """Why it ended: owner, missed-heartbeats or retired."""


@table("devices_reputations", key=("device", "service"), indexes=("service, last_score",))
class Reputation(Row):
    """A posterior as of its last evidence; what it is worth later is the domain's to compute."""

    device: str
    service: str
    alpha: Total = UNIT
    beta: Total = UNIT
    day: int = 0
    """Days since 1970 (UTC)."""
    evidence: int = 0
    kinds: dict[str, Any] = field(default_factory=dict)
    """How many pieces of evidence of each kind were counted."""
    last_score: int = 0
    """Basis points, as of the last evidence."""
    last_at: datetime = EPOCH


@table("devices_evidence", key=("evidence_id",), indexes=("device, service",))
class Evidence(Row):
    evidence_id: str
    device: str = ""
    service: str = ""
    kind: str = ""
    quality: int = 0
    alpha: Total = 0
    """What it added, in billionths of an observation."""
    beta: Total = 0
    score: int = 0
    """After it was counted."""
    at: datetime = EPOCH


devices = Projection("devices", Device, Online, Reputation, Evidence)


# Devices


def _declare(row: Device, has: Declared) -> None:
    row.cpu_millicores, row.memory_mb, row.storage_mb = has.cpu_millicores, has.memory_mb, has.storage_mb
    row.bandwidth_kbps, row.gpu = has.bandwidth_kbps, has.gpu


@devices.on(DeviceRegistered)
def device_registered(rows: Rows, event: DeviceRegistered, record: Record) -> None:
    row = rows.of(Device, record.id)
    row.owner, row.type, row.region, row.asn = event.owner, event.type, event.region, event.asn
    row.status, row.registered_at = "active", event.at
    _declare(row, event.capabilities)


@devices.on(CapabilitiesUpdated)
def capabilities_updated(rows: Rows, event: CapabilitiesUpdated, record: Record) -> None:
    _declare(rows.of(Device, record.id), event.capabilities)


@devices.on(DeviceRelocated)
def device_relocated(rows: Rows, event: DeviceRelocated, record: Record) -> None:
    row = rows.of(Device, record.id)
    row.region, row.asn = event.region, event.asn


def _hear(row: Device, seq: int, at: datetime) -> None:
    row.seq, row.heard_at, row.silent_at = seq, at, at + P.offline_after


@devices.on(DeviceCameOnline)
def device_came_online(rows: Rows, event: DeviceCameOnline, record: Record) -> None:
    row = rows.of(Device, record.id)
    _hear(row, event.seq, event.at)
    row.term = record.position
    rows.of(Online, record.id, record.position).begun_at = event.at


@devices.on(HeartbeatKept)
def heartbeat_kept(rows: Rows, event: HeartbeatKept, record: Record) -> None:
    _hear(rows.of(Device, record.id), event.seq, event.at)


def _fall_silent(rows: Rows, row: Device, at: datetime, reason: str) -> None:
    term = rows.of(Online, row.device, row.term)
    term.ended_at, term.reason = at, reason
    row.silent_at = None


@devices.on(DeviceWentOffline)
def device_went_offline(rows: Rows, event: DeviceWentOffline, record: Record) -> None:
    _fall_silent(rows, rows.of(Device, record.id), event.at, event.reason)


@devices.on(DeviceSuspended)
def device_suspended(rows: Rows, event: DeviceSuspended, record: Record) -> None:
    row = rows.of(Device, record.id)
    row.status, row.reason = "suspended", event.reason
    if event.by == "owner":
        row.suspended_by_owner = True
    else:
        row.suspended_by_operator = True


@devices.on(DeviceResumed)
def device_resumed(rows: Rows, event: DeviceResumed, record: Record) -> None:
    row = rows.of(Device, record.id)
    if event.by == "owner":
        row.suspended_by_owner = False
    else:
        row.suspended_by_operator = False
    if not (row.suspended_by_owner or row.suspended_by_operator):
        row.status, row.reason = "active", ""


@devices.on(DeviceRetired)
def device_retired(rows: Rows, event: DeviceRetired, record: Record) -> None:
    row = rows.of(Device, record.id)
    row.status, row.reason, row.retired_at = "retired", event.reason, event.at
    if row.silent_at is not None:
        _fall_silent(rows, row, min(event.at, row.silent_at), "retired")


# Reputation


@devices.on(EvidenceCounted)
def evidence_counted(rows: Rows, event: EvidenceCounted, record: Record) -> None:
    row = rows.of(Evidence, record.id)
    row.device, row.service, row.kind = event.device, event.service, event.kind
    row.quality, row.at = event.quality, event.at


@devices.on(ReputationRecorded)
def reputation_recorded(rows: Rows, event: ReputationRecorded, record: Record) -> None:
    device, _, service = record.id.partition(":")
    row = rows.of(Reputation, device, service)
    now = evolve_reputation(Posterior(row.alpha, row.beta, row.day, row.evidence), event)
    row.alpha, row.beta, row.day, row.evidence = now.alpha, now.beta, now.day, now.evidence
    row.last_score, row.last_at = now.score, event.at
    row.kinds = {**row.kinds, event.kind: row.kinds.get(event.kind, 0) + 1}
    counted = rows.of(Evidence, event.evidence_id)
    counted.alpha, counted.beta, counted.score = event.alpha, event.beta, now.score


# Timers


def _silence(record: Record) -> str:
    return f"offline:{record.id}"


def _expect(rows: Rows, record: Record, heard_at: datetime) -> None:
    due_at = heard_at + P.offline_after
    schedule_next(rows, _silence(record), record, due_at, "devices", "mark-offline", device=record.id)


@timers.on(DeviceCameOnline)
def when_a_device_came_online_its_silence_is_noticed(
    rows: Rows, event: DeviceCameOnline, record: Record
) -> None:
    _expect(rows, record, event.at)


@timers.on(HeartbeatKept)
def when_a_device_is_heard_its_silence_is_noticed_later(
    rows: Rows, event: HeartbeatKept, record: Record
) -> None:
    _expect(rows, record, event.at)


@timers.on(DeviceWentOffline)
def when_a_device_is_offline_its_silence_is_no_news(
    rows: Rows, event: DeviceWentOffline, record: Record
) -> None:
    settle_next(rows, _silence(record))


@timers.on(DeviceRetired)
def when_a_device_is_retired_nothing_is_expected_of_it(
    rows: Rows, event: DeviceRetired, record: Record
) -> None:
    settle_next(rows, _silence(record))


# Reactions


def recording(evidence_id: str) -> str:
    """The reaction that records this evidence."""
    return f"reputation:{evidence_id}"


def slash_evidence(evidence_id: str) -> str:
    """A slash's evidence as evidence of reputation: its id behind `slash.`, or a digest of it where that is too long
    for an id."""
    whole = f"slash.{evidence_id}"
    if len(whole) <= MOST_ID:
        return whole
    return f"slash.{hashlib.sha256(evidence_id.encode()).hexdigest()}"[:MOST_ID]


@timers.on(Slashed)
def when_a_validator_is_slashed_its_reputation_falls(rows: Rows, event: Slashed, record: Record) -> None:
    evidence = slash_evidence(record.id)
    react(
        rows,
        recording(evidence),
        record,
        "devices",
        "record-reputation",
        device=event.validator,
        service=VALIDATION,
        kind="fraud" if event.kind == "double-sign" else "failure",
        evidence_id=evidence,
    )


@timers.on(ReputationRecorded)
def when_evidence_is_counted_its_reaction_is_done(
    rows: Rows, event: ReputationRecorded, record: Record
) -> None:
    settle(rows, recording(event.evidence_id))
