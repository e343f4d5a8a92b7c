"""Value that crosses between zones: escrow here, vouchers there. Model and terms of IBC's fungible token transfer
(ICS-20 over ICS-4), with signed statements in the place of light clients.

A zone's own asset leaves into the escrow account `bridge:<peer>`, and the peer mints as much of the voucher
`<zone>/<ASSET>`; a voucher that goes home is burned, and its home releases the escrow. So what is in escrow for a
peer is the peer's supply of vouchers and what is in flight, in both directions. A packet has one fate at its target,
received, failed or refused, and by the proof of it one at its source: acknowledged or refunded.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from domain._ed25519 import HEX_SIGNATURE, is_sound_key
from domain._kernel import (
    FOG,
    Amount,
    AssetCode,
    Count,
    Decision,
    Id,
    Issued,
    NotFound,
    Personal,
    Read,
    Ref,
    Rejected,
    Sealed,
    Stream,
    Text,
    WalletId,
)
from domain.ledger import (
    WORLD,
    AssetDefined,
    CapExceeded,
    ScaleIsTooLarge,
    TokensMinted,
    assets,
    burn,
    known,
    may_receive,
    may_spend,
    move,
    pay_out,
    wallet_of,
)
from domain.platform import zones


@dataclass(frozen=True, slots=True)
class Parameters:
    """The bounds of a channel, in one place."""

    most_in_flight: int = 1_000
    """Packets to one peer whose outcome is not recorded. With the outcomes that wait to be announced they are not
    more either: a packet announces at least one where any waits."""
    most_settled_a_packet: int = 16
    most_vouchers_a_peer: int = 32
    """Assets of a peer that are let in: a wallet holds few assets, and a peer must not fill it with its own."""
    most_scale: int = 18


P = Parameters()

TIMED_OUT = "timed-out"
"""The reason of a refund after a refusal."""
ZONE_NAME = re.compile(r"(?!fates\Z)[a-z0-9][a-z0-9._-]{0,62}\Z")

# Events: stored for ever. Add fields with defaults; never rename, never remove.


@dataclass(frozen=True, slots=True)
class Packet:
    """A transfer as one zone tells it to another."""

    source: Id
    target: Id
    sequence: int
    """Counted from 1 for each source and target."""
    asset: AssetCode
    """As the source names it: an asset of its own (`FOG`), or the target's that goes home (`village/FOG`)."""
    scale: Count
    amount: Amount
    sender: WalletId
    recipient: WalletId
    timeout: datetime
    """By the target's time: from then on it is refused."""
    memo: Sealed = ""
    settled: tuple[int, ...] = ()
    """Earlier sequences whose outcome the source has recorded; the target need not report them any longer."""


@dataclass(frozen=True, slots=True)
class PeerRegistered:
    key: str
    """Ed25519 public key, 64 hex digits."""


@dataclass(frozen=True, slots=True)
class PeerKeyRotated:
    key: str


@dataclass(frozen=True, slots=True)
class PeerSuspended:
    reason: str


@dataclass(frozen=True, slots=True)
class PeerResumed:
    reason: str


@dataclass(frozen=True, slots=True)
class PacketSent:
    """A channel used its next sequence."""

    sequence: int
    announced: tuple[int, ...] = ()
    """The settled sequences that the packet tells the peer of."""


@dataclass(frozen=True, slots=True)
class PacketSettled:
    """The outcome of a packet was recorded."""

    sequence: int
    peer_time: datetime
    """When the peer decided it, by the peer's clock."""


@dataclass(frozen=True, slots=True)
class VoucherAdmitted:
    """An asset of the peer came for the first time."""

    asset: str


@dataclass(frozen=True, slots=True)
class TransferInitiated:
    packet: Packet
    at: datetime


@dataclass(frozen=True, slots=True)
class TransferAcknowledged:
    """The peer delivered it."""

    delivered_at: datetime
    """By the peer's clock."""


@dataclass(frozen=True, slots=True)
class TransferRefunded:
    """The peer did not deliver it, and never will; the sender has the amount back."""

    outcome: str
    """failed or refused: the packet's fate at the peer."""
    reason: str
    at: datetime
    """By the peer's clock."""


@dataclass(frozen=True, slots=True)
class TransferReceived:
    """A peer's packet was delivered."""

    packet: Packet
    at: datetime


@dataclass(frozen=True, slots=True)
class TransferFailed:
    """A peer's packet could not be delivered; its source refunds it."""

    packet: Packet
    reason: str
    """The rule that stood against it."""
    at: datetime


@dataclass(frozen=True, slots=True)
class TransferRefused:
    """A peer's packet was not delivered before its timeout, and never will be; its source refunds it."""

    packet: Packet
    at: datetime


PeerEvent = PeerRegistered | PeerKeyRotated | PeerSuspended | PeerResumed
ChannelEvent = PacketSent | PacketSettled | VoucherAdmitted
PacketEvent = TransferInitiated | TransferAcknowledged | TransferRefunded
ReceptionEvent = TransferReceived | TransferFailed | TransferRefused

# State


@dataclass(frozen=True, slots=True)
class Peer:
    key: str = ""
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class Channel:
    """What a zone knows of its traffic with one peer."""

    sent: int = 0
    """The last sequence that was used."""
    in_flight: int = 0
    settled: tuple[int, ...] = ()
    """Sequences whose outcome is recorded and was not announced to the peer yet."""
    vouchers: int = 0
    """How many assets of the peer were let in."""
    peer_time: datetime | None = None
    """The latest time of the peer's clock that is known here."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A packet at its source."""

    packet: Packet | None = None
    outcome: str = ""
    """Empty while it is in flight; then its fate at the target: received, failed or refused."""


@dataclass(frozen=True, slots=True)
class Reception:
    """A packet at its target."""

    packet: Packet | None = None
    outcome: str = ""
    """received, failed or refused."""


# evolve


def evolve_peer(peer: Peer, event: PeerEvent) -> Peer:
    match event:
        case PeerRegistered() | PeerKeyRotated():
            return replace(peer, key=event.key)
        case PeerSuspended():
            return replace(peer, suspended=True)
        case PeerResumed():
            return replace(peer, suspended=False)


def evolve_channel(channel: Channel, event: ChannelEvent) -> Channel:
    match event:
        case PacketSent():
            waiting = channel.settled[len(event.announced) :]
            return replace(channel, sent=event.sequence, in_flight=channel.in_flight + 1, settled=waiting)
        case PacketSettled():
            return replace(
                channel,
                in_flight=channel.in_flight - 1,
                settled=(*channel.settled, event.sequence),
                peer_time=max(event.peer_time, channel.peer_time or event.peer_time),
            )
        case VoucherAdmitted():
            return replace(channel, vouchers=channel.vouchers + 1)


def evolve_packet(outgoing: Outgoing, event: PacketEvent) -> Outgoing:
    match event:
        case TransferInitiated():
            return Outgoing(event.packet)
        case TransferAcknowledged():
            return replace(outgoing, outcome="received")
        case TransferRefunded():
            return replace(outgoing, outcome=event.outcome)


def evolve_reception(reception: Reception, event: ReceptionEvent) -> Reception:
    match event:
        case TransferReceived():
            return Reception(event.packet, "received")
        case TransferFailed():
            return Reception(event.packet, "failed")
        case TransferRefused():
            return Reception(event.packet, "refused")


peers = Stream("peer", Peer(), evolve_peer, PeerEvent)
channels = Stream("channel", Channel(), evolve_channel, ChannelEvent)
packets = Stream("packet", Outgoing(), evolve_packet, PacketEvent)
"""By target and sequence, `packet:village:7`."""
receptions = Stream("reception", Reception(), evolve_reception, ReceptionEvent)
"""By source and sequence, `reception:main:7`."""

# Commands


@dataclass(frozen=True, slots=True)
class RegisterPeer:
    """Trust another zone: what its Ed25519 key signs counts as proof. `key` is the public key, 64 hex digits."""

    zone: Id
    key: Text


@dataclass(frozen=True, slots=True)
class RotatePeerKey:
    """Take another public key of a peer in place of the one before; what that one signed counts no longer."""

    zone: Id
    key: Text


@dataclass(frozen=True, slots=True)
class SuspendPeer:
    """Believe nothing that a peer proves, and send it nothing, until it is resumed. What is in flight waits."""

    zone: Id
    reason: Text


@dataclass(frozen=True, slots=True)
class ResumePeer:
    zone: Id
    reason: Text


@dataclass(frozen=True, slots=True)
class InitiateTransfer:
    """Send an amount from your wallet to a wallet of another zone; an asset of this zone, or a voucher going home.

    `timeout` is by the other zone's time. It is refunded when it cannot be delivered, or was not delivered before
    its timeout.
    """

    target_zone: Id
    recipient: WalletId
    amount: Amount
    timeout: datetime
    asset: AssetCode = FOG
    memo: Personal = ""
    from_: WalletId = ""
    """`wallet:<you>` where it is left out."""


@dataclass(frozen=True, slots=True)
class ReceiveTransfer:
    """Deliver a packet of another zone, which its signature proves, once. At or after its timeout it is refused
    instead; where it cannot be delivered, that is recorded. Each of these is final."""

    packet: Packet
    proof: Text


@dataclass(frozen=True, slots=True)
class RefuseTransfer:
    """Refuse a packet of another zone at or after its timeout, for good, if it was not received until then."""

    packet: Packet
    proof: Text


@dataclass(frozen=True, slots=True)
class RecordAcknowledgement:
    """Take note that the other zone delivered a packet, or could not (then it is refunded), by its proof.

    `at` and `reason` are those of its signed statement.
    """

    target_zone: Id
    sequence: int
    success: bool
    at: datetime
    proof: Text
    reason: Text = ""


@dataclass(frozen=True, slots=True)
class TimeoutTransfer:
    """Refund a packet that the other zone refused, by its proof; `at` is that of its signed statement."""

    target_zone: Id
    sequence: int
    at: datetime
    proof: Text


# Rules


class PeerNotFound(NotFound):
    """There is no such peer."""


class TransferNotFound(NotFound):
    """There is no such transfer."""


class PeerExists(Rejected):
    """This peer was registered before; its key is changed by rotating it."""


class PeerIsThisZone(Rejected):
    """A zone is no peer of its own."""


class PeerNameIsMalformed(Rejected):
    """A zone's name has at most 63 characters and begins with a letter or a digit."""


class PeerKeyIsMalformed(Rejected):
    """A peer's key is an Ed25519 public key of 64 hex digits, and none of the points that any signature fits."""


class PeerIsSuspended(Rejected):
    """Nothing is sent to a suspended peer, and nothing that it proves is believed."""


class ProofIsInvalid(Rejected):
    """The proof is not the zone's signature of this statement."""


class PacketIsForAnotherZone(Rejected):
    """This packet is for another zone."""


class PacketDiffers(Rejected):
    """Another packet came under this sequence before."""


class AssetMayNotCross(Rejected):
    """Only assets of this zone, and the other zone's own on their way home, cross between zones."""


class TimeoutIsPast(Rejected):
    """A transfer's timeout is later than the other zone's time."""


class TooManyInFlight(Rejected):
    """A bounded number of transfers is on its way to a peer at once."""


class TooManyVouchers(Rejected):
    """A bounded number of a peer's assets is let in."""


class ScaleDiffers(Rejected):
    """The asset came with another scale before."""


class TransferHasNotTimedOut(Rejected):
    """Before its timeout a packet is not refused."""


class TransferIsSettled(Rejected):
    """The transfer was settled by another outcome."""


# Decisions


def bridge(zone: str) -> str:
    """The account that holds in escrow what went to a zone."""
    return f"bridge:{zone}"


def home_of(asset: str) -> str:
    """The zone that a voucher is a claim on; empty for an asset of the zone itself."""
    return asset.rpartition("/")[0]


def landing_asset(packet: Packet) -> str:
    """What the packet's asset is called at its target: a voucher of the source, or the target's own."""
    home = home_of(packet.asset)
    return packet.asset.removeprefix(f"{home}/") if home else f"{packet.source}/{packet.asset}"


def reference_of(packet: Packet) -> str:
    return f"{packet.source}/{packet.target}/{packet.sequence}"


def statement(kind: str, packet: Packet, at: datetime | None = None, reason: str = "") -> str:
    """What a zone signs: `fogbook/<kind>/v1`, a line feed, and the packet as ASCII JSON without spaces, names in
    order. Kinds are packet (by the source); received, failed and refused (by the target, with `at` and, for failed,
    `reason`). Both zones are part of it, so that it proves nothing anywhere else."""
    said = {
        "amount": str(packet.amount),
        "asset": packet.asset,
        "memo": packet.memo,
        "recipient": packet.recipient,
        "scale": packet.scale,
        "sender": packet.sender,
        "sequence": packet.sequence,
        "settled": packet.settled,
        "source": packet.source,
        "target": packet.target,
        "timeout": _utc(packet.timeout),
    }
    if at is not None:
        said |= {"at": _utc(at), "reason": reason}
    return f"fogbook/{kind}/v1\n{json.dumps(said, sort_keys=True, separators=(',', ':'))}"


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def known_peer(read: Read, zone: str) -> Peer:
    peer = read(peers, zone)
    if not peer.key:
        raise PeerNotFound(zone=zone)
    return peer


def trusted_peer(read: Read, zone: str) -> Peer:
    peer = known_peer(read, zone)
    if peer.suspended:
        raise PeerIsSuspended(zone=zone)
    return peer


def proven(read: Read, issued: Issued, zone: str, text: str, proof: str) -> None:
    """The zone signed this text, or ProofIsInvalid."""
    key = trusted_peer(read, zone).key
    if not HEX_SIGNATURE.match(proof) or not issued.verify(key, text.encode(), proof):
        raise ProofIsInvalid(zone=zone)


# Decisions: peers


def register_peer(command: RegisterPeer, issued: Issued, read: Read) -> Decision:
    if not ZONE_NAME.match(command.zone):
        raise PeerNameIsMalformed(zone=command.zone)
    if command.zone == read(zones, "self").name:
        raise PeerIsThisZone(zone=command.zone)
    if read(peers, command.zone).key:
        raise PeerExists(zone=command.zone)
    yield peers(command.zone), PeerRegistered(_key(command.key))


def rotate_peer_key(command: RotatePeerKey, issued: Issued, read: Read) -> Decision:
    key = _key(command.key)
    if known_peer(read, command.zone).key != key:
        yield peers(command.zone), PeerKeyRotated(key)


def _key(text: str) -> str:
    key = text.lower()
    if not is_sound_key(key):
        raise PeerKeyIsMalformed()
    return key


def suspend_peer(command: SuspendPeer, issued: Issued, read: Read) -> Decision:
    if not known_peer(read, command.zone).suspended:
        yield peers(command.zone), PeerSuspended(command.reason)


def resume_peer(command: ResumePeer, issued: Issued, read: Read) -> Decision:
    if known_peer(read, command.zone).suspended:
        yield peers(command.zone), PeerResumed(command.reason)


# Decisions: at the source


def initiate_transfer(command: InitiateTransfer, issued: Issued, read: Read) -> Decision:
    """ICS-20 sendFungibleTokens: escrow what is ours, burn what goes home."""
    target = command.target_zone
    trusted_peer(read, target)
    sender = command.from_ or wallet_of(issued.by)
    may_spend(read, issued, sender)
    if home_of(command.asset) not in ("", target):
        raise AssetMayNotCross(asset=command.asset, target=target)
    asset = known(read, command.asset)
    channel = read(channels, target)
    # The peer's clock may be of another kind. Until something of it is known, our own stands for it.
    horizon = channel.peer_time or issued.at
    if command.timeout <= horizon:
        raise TimeoutIsPast(timeout=command.timeout, now=horizon)
    if channel.in_flight >= P.most_in_flight:
        raise TooManyInFlight(target=target, limit=P.most_in_flight)
    packet = Packet(
        read(zones, "self").name,
        target,
        channel.sent + 1,
        command.asset,
        asset.scale,
        command.amount,
        sender,
        command.recipient,
        command.timeout,
        command.memo,
        channel.settled[: P.most_settled_a_packet],
    )
    yield channels(target), PacketSent(packet.sequence, packet.settled)
    yield packets(target, str(packet.sequence)), TransferInitiated(packet, issued.at)
    if home_of(packet.asset):
        yield from burn(read, sender, packet.amount, "bridge-out", reference_of(packet), asset=packet.asset)
    else:
        yield from move(
            read,
            sender,
            bridge(target),
            packet.amount,
            "bridge-out",
            asset=packet.asset,
            reference=reference_of(packet),
            memo=packet.memo,
        )


def record_acknowledgement(command: RecordAcknowledgement, issued: Issued, read: Read) -> Decision:
    """ICS-20 onAcknowledgePacket: nothing on success, a refund on an error."""
    packet, known_outcome = _sent(read, command.target_zone, command.sequence)
    outcome = "received" if command.success else "failed"
    text = statement(outcome, packet, command.at, command.reason)
    proven(read, issued, packet.target, text, command.proof)
    if _is_news(packet, outcome, known_outcome):
        yield channels(packet.target), PacketSettled(packet.sequence, command.at)
        if command.success:
            yield packets(packet.target, str(packet.sequence)), TransferAcknowledged(command.at)
        else:
            yield from _refund(read, packet, outcome, command.reason, command.at)


def timeout_transfer(command: TimeoutTransfer, issued: Issued, read: Read) -> Decision:
    """ICS-20 onTimeoutPacket; the proof is of the refusal, because no proof shows that nothing happened."""
    packet, known_outcome = _sent(read, command.target_zone, command.sequence)
    proven(read, issued, packet.target, statement("refused", packet, command.at), command.proof)
    if _is_news(packet, "refused", known_outcome):
        yield channels(packet.target), PacketSettled(packet.sequence, command.at)
        yield from _refund(read, packet, "refused", TIMED_OUT, command.at)


def _sent(read: Read, target: str, sequence: int) -> tuple[Packet, str]:
    """A packet that went out, and what is known of its fate."""
    outgoing = read(packets, f"{target}:{sequence}")
    if outgoing.packet is None:
        raise TransferNotFound(target_zone=target, sequence=sequence)
    return outgoing.packet, outgoing.outcome


def _is_news(packet: Packet, outcome: str, known_outcome: str) -> bool:
    if known_outcome not in ("", outcome):
        raise TransferIsSettled(target_zone=packet.target, sequence=packet.sequence, outcome=known_outcome)
    return not known_outcome


def _refund(read: Read, packet: Packet, outcome: str, reason: str, at: datetime) -> Decision:
    """ICS-20 refundTokens: out of escrow, or minted again where vouchers were burned."""
    yield packets(packet.target, str(packet.sequence)), TransferRefunded(outcome, reason, at)
    source = bridge(packet.target)
    if home_of(packet.asset):
        source = WORLD
        yield _minted(read, packet.asset, packet.amount, packet.sender, "bridge-refund", packet)
    yield from pay_out(read, source, packet.sender, packet.amount, "bridge-refund", asset=packet.asset)


def _minted(
    read: Read, asset: str, amount: int, to: str, reason: str, packet: Packet
) -> tuple[Ref, TokensMinted]:
    """The supply's part of minting vouchers; the posting is a move from the world."""
    before = read(assets, asset)
    if before.supply + amount > before.limit:
        raise CapExceeded(asset=asset, supply=before.supply, limit=before.limit, amount=amount)
    return assets(asset), TokensMinted(amount, to, reason, reference_of(packet))


# Decisions: at the target


def receive_transfer(command: ReceiveTransfer, issued: Issued, read: Read) -> Decision:
    """ICS-20 onRecvPacket, with a record of what cannot be delivered in the place of an error."""
    packet = command.packet
    if not _undecided(read, issued, packet, command.proof):
        return
    where = receptions(packet.source, str(packet.sequence))
    if issued.at >= packet.timeout:
        yield where, TransferRefused(packet, issued.at)
        return
    try:
        delivery = list(_delivery(read, packet))
    except Rejected as rule:
        yield where, TransferFailed(packet, rule.rule(), issued.at)
    else:
        yield where, TransferReceived(packet, issued.at)
        yield from delivery


def refuse_transfer(command: RefuseTransfer, issued: Issued, read: Read) -> Decision:
    packet = command.packet
    if _undecided(read, issued, packet, command.proof):
        if issued.at < packet.timeout:
            raise TransferHasNotTimedOut(timeout=packet.timeout, now=issued.at)
        yield receptions(packet.source, str(packet.sequence)), TransferRefused(packet, issued.at)


def _undecided(read: Read, issued: Issued, packet: Packet, proof: str) -> bool:
    """Whether a packet that its source proves has no fate yet."""
    if packet.target != read(zones, "self").name:
        raise PacketIsForAnotherZone(target=packet.target)
    proven(read, issued, packet.source, statement("packet", packet), proof)
    reception = read(receptions, f"{packet.source}:{packet.sequence}")
    if reception.outcome and reception.packet != packet:
        raise PacketDiffers(source=packet.source, sequence=packet.sequence)
    return not reception.outcome


def _delivery(read: Read, packet: Packet) -> Decision:
    """Credit the recipient, or break the rule that stands against it.

    It reads nothing that it changed itself: `receive_transfer` runs it to its end before it decides any of it.
    """
    home, asset = home_of(packet.asset), landing_asset(packet)
    if home not in ("", packet.target):
        raise AssetMayNotCross(asset=packet.asset)
    may_receive(read, packet.recipient)
    source = bridge(packet.source)
    if home:
        known(read, asset)
    else:
        source = WORLD
        yield from _admission(read, packet, asset)
        yield _minted(read, asset, packet.amount, packet.recipient, "bridge-in", packet)
    yield from move(
        read,
        source,
        packet.recipient,
        packet.amount,
        "bridge-in",
        asset=asset,
        reference=reference_of(packet),
        memo=packet.memo,
    )


def _admission(read: Read, packet: Packet, voucher: str) -> Decision:
    """Define the voucher where it comes for the first time."""
    asset = read(assets, voucher)
    if asset.defined:
        if asset.scale != packet.scale:
            raise ScaleDiffers(asset=voucher, scale=asset.scale)
        return
    if packet.scale > P.most_scale:
        raise ScaleIsTooLarge(scale=packet.scale, limit=P.most_scale)
    if read(channels, packet.source).vouchers >= P.most_vouchers_a_peer:
        raise TooManyVouchers(peer=packet.source, limit=P.most_vouchers_a_peer)
    yield assets(voucher), AssetDefined(packet.scale, 0)
    yield channels(packet.source), VoucherAdmitted(voucher)
