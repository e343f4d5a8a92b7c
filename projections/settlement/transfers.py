"""Read models of what crosses between zones: peers, transfers with their steps, and what each bridge owes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from commands._codec import EPOCH, decode_json, event_encoder
from domain.ledger import owner_of
from domain.settlement.transfers import (
    Packet,
    PacketSent,
    PacketSettled,
    PeerKeyRotated,
    PeerRegistered,
    PeerResumed,
    PeerSuspended,
    TransferAcknowledged,
    TransferFailed,
    TransferInitiated,
    TransferReceived,
    TransferRefunded,
    TransferRefused,
    VoucherAdmitted,
    home_of,
    landing_asset,
    statement,
)
from projections._engine import Projection, Record, Rows
from projections._tables import Money, Row, Total, table
from projections._timers import react, schedule, settle, timers


@table("settlement_peers", key=("peer",))
class Peer(Row):
    peer: str
    key: str = ""
    """Ed25519 public key, hex."""
    status: str = "active"
    """active or suspended."""
    reason: str = ""
    """Why it was suspended or resumed."""
    registered_at: datetime = EPOCH
    key_since: datetime = EPOCH
    sent: int = 0
    """Packets that went out to it."""
    in_flight: int = 0
    """Those whose outcome is not recorded."""
    delivered: int = 0
    refunded: int = 0
    received: int = 0
    """Packets of the peer that were delivered here."""
    failed: int = 0
    """Packets of the peer that could not be delivered."""
    refused: int = 0
    """Packets of the peer that came too late."""
    vouchers: int = 0
    """Assets of the peer that were let in."""
    peer_time: datetime | None = None
    """The latest time of the peer's clock that is known here."""


@table(
    "settlement_transfers",
    key=("direction", "peer", "sequence"),
    indexes=("line", "owner, line", "status, line"),
)
class Transfer(Row):
    direction: str
    """out or in."""
    peer: str
    sequence: int
    line: int = 0
    """The position of the event that began it here."""
    asset: str = ""
    """As this zone names it."""
    amount: Money = 0
    sender: str = ""
    recipient: str = ""
    owner: str = ""
    """Whose affair it is here: the sender's principal, or the recipient's."""
    status: str = ""
    """Out: in-flight, delivered or refunded. In: delivered, failed or refused."""
    reason: str = ""
    memo: str = ""
    timeout: datetime = EPOCH
    begun_at: datetime = EPOCH
    settled_at: datetime | None = None
    """When its outcome was recorded here."""
    peer_at: datetime | None = None
    """When the peer decided it, by the peer's clock."""


@table("settlement_transfer_steps", key=("direction", "peer", "sequence", "line"))
class Step(Row):
    """What happened to a transfer here."""

    direction: str
    peer: str
    sequence: int
    line: int
    """The position of the event."""
    step: str = ""
    """initiated, acknowledged, refunded; received, failed, refused."""
    reason: str = ""
    at: datetime = EPOCH
    peer_at: datetime | None = None
    transaction: str = ""
    """The command; what it moved is the ledger's transaction of this name."""


@table("settlement_bridges", key=("peer", "asset"))
class Bridge(Row):
    """What was moved to and from a peer, of an asset of this zone or a voucher of the peer's."""

    peer: str
    asset: str
    escrowed: Money = 0
    """Of an asset of this zone: what `bridge:<peer>` holds."""
    vouchers: Money = 0
    """Of the peer's vouchers: how many there are."""
    in_flight: Money = 0
    """What went out and has no recorded outcome; it is part of `escrowed`, and no part of `vouchers`."""
    transfers_in_flight: int = 0
    sent: Total = 0
    """All that went out and was delivered."""
    refunded: Total = 0
    received: Total = 0


transfers = Projection("transfers", Peer, Transfer, Step, Bridge)


def _reference(record: Record) -> tuple[str, int]:
    """Peer and sequence of a packet's stream, `packet:village:7`."""
    peer, _, sequence = record.id.partition(":")
    return peer, int(sequence or 0)


def _step(
    rows: Rows,
    record: Record,
    direction: str,
    step: str,
    reason: str = "",
    peer_at: datetime | None = None,
) -> None:
    made = Step(direction, *_reference(record), record.position, step, reason, record.recorded_at, peer_at)
    made.transaction = record.command
    rows.add(made)


# Peers and channels


@transfers.on(PeerRegistered)
def peer_registered(rows: Rows, event: PeerRegistered, record: Record) -> None:
    row = rows.of(Peer, record.id)
    row.key, row.registered_at, row.key_since = event.key, record.recorded_at, record.recorded_at


@transfers.on(PeerKeyRotated)
def peer_key_rotated(rows: Rows, event: PeerKeyRotated, record: Record) -> None:
    row = rows.of(Peer, record.id)
    row.key, row.key_since = event.key, record.recorded_at


@transfers.on(PeerSuspended)
def peer_suspended(rows: Rows, event: PeerSuspended, record: Record) -> None:
    row = rows.of(Peer, record.id)
    row.status, row.reason = "suspended", event.reason


@transfers.on(PeerResumed)
def peer_resumed(rows: Rows, event: PeerResumed, record: Record) -> None:
    row = rows.of(Peer, record.id)
    row.status, row.reason = "active", event.reason


@transfers.on(PacketSent)
def packet_sent(rows: Rows, event: PacketSent, record: Record) -> None:
    row = rows.of(Peer, record.id)
    row.sent = event.sequence
    row.in_flight += 1


@transfers.on(PacketSettled)
def packet_settled(rows: Rows, event: PacketSettled, record: Record) -> None:
    row = rows.of(Peer, record.id)
    row.in_flight -= 1
    row.peer_time = max(event.peer_time, row.peer_time or event.peer_time)


@transfers.on(VoucherAdmitted)
def voucher_admitted(rows: Rows, event: VoucherAdmitted, record: Record) -> None:
    rows.of(Peer, record.id).vouchers += 1


# What goes out


@transfers.on(TransferInitiated)
def transfer_initiated(rows: Rows, event: TransferInitiated, record: Record) -> None:
    packet = event.packet
    row = rows.of(Transfer, "out", *_reference(record))
    row.line, row.asset, row.amount = record.position, packet.asset, packet.amount
    row.sender, row.recipient, row.owner = packet.sender, packet.recipient, owner_of(packet.sender)
    row.memo, row.timeout, row.begun_at = packet.memo, packet.timeout, event.at
    row.status = "in-flight"
    _step(rows, record, "out", "initiated")
    bridge = rows.of(Bridge, packet.target, packet.asset)
    bridge.in_flight += packet.amount
    bridge.transfers_in_flight += 1
    if home_of(packet.asset):
        bridge.vouchers -= packet.amount
    else:
        bridge.escrowed += packet.amount


@transfers.on(TransferAcknowledged)
def transfer_acknowledged(rows: Rows, event: TransferAcknowledged, record: Record) -> None:
    row, bridge = _settled(rows, record, event.delivered_at)
    row.status = "delivered"
    _step(rows, record, "out", "acknowledged", "", event.delivered_at)
    bridge.sent += row.amount
    rows.of(Peer, row.peer).delivered += 1


@transfers.on(TransferRefunded)
def transfer_refunded(rows: Rows, event: TransferRefunded, record: Record) -> None:
    row, bridge = _settled(rows, record, event.at)
    row.status, row.reason = "refunded", event.reason
    _step(rows, record, "out", "refunded", event.reason, event.at)
    bridge.refunded += row.amount
    if home_of(row.asset):
        bridge.vouchers += row.amount
    else:
        bridge.escrowed -= row.amount
    rows.of(Peer, row.peer).refunded += 1


def _settled(rows: Rows, record: Record, peer_at: datetime) -> tuple[Transfer, Bridge]:
    row = rows.of(Transfer, "out", *_reference(record))
    row.settled_at, row.peer_at = record.recorded_at, peer_at
    bridge = rows.of(Bridge, row.peer, row.asset)
    bridge.in_flight -= row.amount
    bridge.transfers_in_flight -= 1
    return row, bridge


# What comes in


@transfers.on(TransferReceived)
def transfer_received(rows: Rows, event: TransferReceived, record: Record) -> None:
    packet = event.packet
    row = _reception(rows, record, packet, event.at)
    row.status = "delivered"
    _step(rows, record, "in", "received")
    rows.of(Peer, packet.source).received += 1
    bridge = rows.of(Bridge, packet.source, row.asset)
    bridge.received += packet.amount
    if home_of(row.asset):
        bridge.vouchers += packet.amount
    else:
        bridge.escrowed -= packet.amount


@transfers.on(TransferFailed)
def transfer_failed(rows: Rows, event: TransferFailed, record: Record) -> None:
    row = _reception(rows, record, event.packet, event.at)
    row.status, row.reason = "failed", event.reason
    _step(rows, record, "in", "failed", event.reason)
    rows.of(Peer, event.packet.source).failed += 1


@transfers.on(TransferRefused)
def transfer_refused(rows: Rows, event: TransferRefused, record: Record) -> None:
    row = _reception(rows, record, event.packet, event.at)
    row.status = "refused"
    _step(rows, record, "in", "refused")
    rows.of(Peer, event.packet.source).refused += 1


def _reception(rows: Rows, record: Record, packet: Packet, at: datetime) -> Transfer:
    row = rows.of(Transfer, "in", *_reference(record))
    row.line, row.asset, row.amount = record.position, landing_asset(packet), packet.amount
    row.sender, row.recipient, row.owner = packet.sender, packet.recipient, owner_of(packet.recipient)
    row.memo, row.timeout, row.begun_at, row.settled_at = packet.memo, packet.timeout, at, at
    return row


# Reactions and timers. A command for the peer is settled here by the peer's answer, which is a command as well. The
# answer itself is settled when a later packet announces that its outcome is recorded, so that its rows are never
# more than what may be in flight.


def _shown(packet: Packet) -> dict[str, Any]:
    """The packet as a command's body."""
    shown: dict[str, Any] = decode_json(event_encoder(Packet)(packet))
    return shown


def _report(source: str, sequence: int) -> str:
    return f"reception:{source}:{sequence}"


def _settle_announced(rows: Rows, packet: Packet) -> None:
    for sequence in packet.settled:
        settle(rows, _report(packet.source, sequence))


@timers.on(TransferInitiated)
def when_a_transfer_is_initiated_its_target_receives_it_or_refuses_it_in_time(
    rows: Rows, event: TransferInitiated, record: Record
) -> None:
    packet, signed = event.packet, statement("packet", event.packet)
    common: dict[str, Any] = {"zone": packet.target, "signed": signed, "packet": _shown(packet)}
    react(rows, f"transfer:{record.id}", record, "settlement", "receive-transfer", **common)
    timer = f"timeout:{record.id}"
    schedule(rows, timer, record, packet.timeout, "settlement", "refuse-transfer", **common)


@timers.on(TransferAcknowledged)
def when_a_transfer_is_acknowledged_its_packet_is_done(
    rows: Rows, event: TransferAcknowledged, record: Record
) -> None:
    settle(rows, f"transfer:{record.id}")
    settle(rows, f"timeout:{record.id}")


@timers.on(TransferRefunded)
def when_a_transfer_is_refunded_its_packet_is_done(
    rows: Rows, event: TransferRefunded, record: Record
) -> None:
    settle(rows, f"transfer:{record.id}")
    settle(rows, f"timeout:{record.id}")


def _report_back(
    rows: Rows, record: Record, packet: Packet, at: datetime, command: str, signed: str, **outcome: Any
) -> None:
    """Tell the source what became of its packet."""
    _settle_announced(rows, packet)
    react(
        rows,
        _report(packet.source, packet.sequence),
        record,
        "settlement",
        command,
        zone=packet.source,
        signed=signed,
        target_zone=packet.target,
        sequence=packet.sequence,
        at=at.isoformat(),
        **outcome,
    )


@timers.on(TransferReceived)
def when_a_transfer_is_received_its_source_acknowledges_it(
    rows: Rows, event: TransferReceived, record: Record
) -> None:
    signed = statement("received", event.packet, event.at)
    _report_back(rows, record, event.packet, event.at, "record-acknowledgement", signed, success=True)


@timers.on(TransferFailed)
def when_a_transfer_has_failed_its_source_refunds_it(
    rows: Rows, event: TransferFailed, record: Record
) -> None:
    signed = statement("failed", event.packet, event.at, event.reason)
    outcome = {"success": False, "reason": event.reason}
    _report_back(rows, record, event.packet, event.at, "record-acknowledgement", signed, **outcome)


@timers.on(TransferRefused)
def when_a_transfer_is_refused_its_source_refunds_it(
    rows: Rows, event: TransferRefused, record: Record
) -> None:
    signed = statement("refused", event.packet, event.at)
    _report_back(rows, record, event.packet, event.at, "timeout-transfer", signed)
