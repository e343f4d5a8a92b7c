"""Transfers between zones: commands, rules and traps, as sentences.

Ana lives in the zone main, Vic in the zone village; each zone knows the other's key.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from commands._codec import ZONE, decode_event, event_encoder
from commands._signatures import public_key, sign, zone_key
from domain._kernel import AMOUNT_LIMIT, FOG, Rejected
from domain.ledger import (
    AccountIsNotOpen,
    AmountMustBePositive,
    AssetDefined,
    AssetIsUnknown,
    CapExceeded,
    CloseWallet,
    Credited,
    Debited,
    DefineAsset,
    FreezeWallet,
    InsufficientFunds,
    MintTokens,
    OpenWallet,
    PlaceHold,
    ReverseTransaction,
    ScaleIsTooLarge,
    TokensBurned,
    TokensMinted,
    TooManyAssets,
    TransactionCannotBeReversed,
    Transfer,
    WalletIsFrozen,
    WalletNotFound,
    WalletReopened,
)
from domain.platform import CreateZone
from domain.settlement import transfers
from domain.settlement.transfers import (
    TIMED_OUT,
    AssetMayNotCross,
    InitiateTransfer,
    P,
    Packet,
    PacketDiffers,
    PacketIsForAnotherZone,
    PacketSent,
    PacketSettled,
    PeerExists,
    PeerIsSuspended,
    PeerIsThisZone,
    PeerKeyIsMalformed,
    PeerKeyRotated,
    PeerNameIsMalformed,
    PeerNotFound,
    PeerRegistered,
    PeerResumed,
    PeerSuspended,
    ProofIsInvalid,
    ReceiveTransfer,
    RecordAcknowledgement,
    RefuseTransfer,
    RegisterPeer,
    ResumePeer,
    RotatePeerKey,
    ScaleDiffers,
    SuspendPeer,
    TimeoutIsPast,
    TimeoutTransfer,
    TooManyInFlight,
    TooManyVouchers,
    TransferAcknowledged,
    TransferFailed,
    TransferHasNotTimedOut,
    TransferInitiated,
    TransferIsSettled,
    TransferNotFound,
    TransferReceived,
    TransferRefunded,
    TransferRefused,
    VoucherAdmitted,
    channels,
    landing_asset,
    packets,
    receptions,
    statement,
)
from tests.examples import DAY, FUNDS, HOUR, NOW, Story, funded, story

PEPPER = b"for tests"
MAIN_FOG = "main/FOG"
"""What the village calls main's token."""
VILLAGE_FOG = "village/FOG"


def key_of(zone: str) -> str:
    return public_key(zone_key(PEPPER, zone))


def signed(zone: str, kind: str, packet: Packet, at: datetime | None = None, reason: str = "") -> str:
    return sign(zone_key(PEPPER, zone), statement(kind, packet, at, reason).encode())


def zone(name: str, peer: str, *owners: str) -> Story:
    return story(CreateZone(name, "manual"), funded(*owners), RegisterPeer(peer, key_of(peer)))


@pytest.fixture
def main() -> Story:
    return zone("main", "village", "ana", "ben")


@pytest.fixture
def village() -> Story:
    return zone("village", "main", "vic", "wim")


def to_vic(amount: int = 100, timeout: datetime = NOW + DAY, **more: Any) -> InitiateTransfer:
    return InitiateTransfer("village", "wallet:vic", amount, timeout, **more)


def last_packet(at: Story) -> Packet:
    return next(event.packet for _, event in reversed(at.book.events) if isinstance(event, TransferInitiated))


def receive(packet: Packet) -> ReceiveTransfer:
    return ReceiveTransfer(packet, signed(packet.source, "packet", packet))


def refuse(packet: Packet) -> RefuseTransfer:
    return RefuseTransfer(packet, signed(packet.source, "packet", packet))


def report(event: TransferReceived | TransferFailed | TransferRefused) -> Any:
    """The command that tells the source of a packet's fate, with the target's proof."""
    packet, at = event.packet, event.at
    target, reference = packet.target, (packet.target, packet.sequence)
    match event:
        case TransferReceived():
            return RecordAcknowledgement(*reference, True, at, signed(target, "received", packet, at))
        case TransferFailed():
            proof = signed(target, "failed", packet, at, event.reason)
            return RecordAcknowledgement(*reference, False, at, proof, event.reason)
        case TransferRefused():
            return TimeoutTransfer(*reference, at, signed(target, "refused", packet, at))


def relayed(source: Story, target: Story, command: Any) -> Any:
    """Initiate, let the target decide, and bring its report home; returns the target's event."""
    source.and_then(command, command.from_.split(":")[1] if command.from_ else "ana")
    decided = target.book.issue(receive(last_packet(source)), "worker", "worker")
    source.and_then(report(decided[0]), "worker", "worker")
    return decided[0]


# Peers


def test_a_peer_is_registered_with_its_key_and_its_key_is_rotated() -> None:
    told = story(CreateZone("main", "manual"))
    told.when(RegisterPeer("village", key_of("village").upper())).then(PeerRegistered(key_of("village")))
    told.when(RegisterPeer("village", key_of("other"))).then(PeerExists)
    told.when(RotatePeerKey("village", key_of("other"))).then(PeerKeyRotated(key_of("other")))
    told.when(RotatePeerKey("village", key_of("other"))).then()
    told.when(RotatePeerKey("nowhere", key_of("other"))).then(PeerNotFound)


@pytest.mark.parametrize(
    "key",
    ["", "00", "g" * 64, "ab" * 31 + " a", key_of("village") + "00", "ab " * 32, "00" * 32, "01" + "00" * 31],
)
def test_a_key_is_64_hex_digits(key: str) -> None:
    told = story(CreateZone("main", "manual"))
    told.when(RegisterPeer("village", key)).then(PeerKeyIsMalformed)


@pytest.mark.parametrize("name", ["-village", ".v", "_", "v" * 64])
def test_a_peer_has_the_name_of_a_zone(name: str) -> None:
    """A batch of commands for a zone of another name is not taken, and whoever sends it would send nothing else."""
    assert not ZONE.match(name)
    told = story(CreateZone("main", "manual"))
    told.when(RegisterPeer(name, key_of("village"))).then(PeerNameIsMalformed)
    assert ZONE.pattern == transfers.ZONE_NAME.pattern


def test_a_zone_is_no_peer_of_its_own() -> None:
    told = story(CreateZone("main", "manual"))
    told.when(RegisterPeer("main", key_of("main"))).then(PeerIsThisZone)


def test_a_suspended_peer_is_sent_nothing_and_believed_nothing(main: Story, village: Story) -> None:
    main.and_then(to_vic(), "ana")
    packet = last_packet(main)
    main.when(SuspendPeer("village", "its key leaked")).then(PeerSuspended("its key leaked"))
    main.when(SuspendPeer("village", "again")).then()
    main.when(to_vic(), "ana").then(PeerIsSuspended)
    (received, *_) = village.book.issue(receive(packet), "worker", "worker")
    main.when(report(received), "worker").then(PeerIsSuspended)
    home = Packet("village", "main", 1, VILLAGE_FOG, 6, 5, "wallet:vic", "wallet:ana", NOW + DAY)
    main.when(receive(home), "worker").then(PeerIsSuspended)
    main.when(refuse(home), "worker").then(PeerIsSuspended)
    main.when(ResumePeer("village", "it has another")).then(PeerResumed("it has another"))
    main.when(ResumePeer("village", "again")).then()
    main.when(report(received), "worker").then(PacketSettled, TransferAcknowledged)


def test_what_an_old_key_signed_is_believed_no_longer(main: Story, village: Story) -> None:
    main.and_then(to_vic(), "ana")
    (received, *_) = village.book.issue(receive(last_packet(main)), "worker", "worker")
    main.and_then(RotatePeerKey("village", key_of("village-2")))
    main.when(report(received), "worker").then(ProofIsInvalid)


# Out


def test_an_asset_of_the_zone_leaves_into_escrow(main: Story) -> None:
    main.when(to_vic(memo="for the well"), "ana")
    packet = Packet(
        "main", "village", 1, FOG, 6, 100, "wallet:ana", "wallet:vic", NOW + DAY, "for the well", ()
    )
    main.then(
        PacketSent(1, ()),
        TransferInitiated(packet, NOW),
        Debited(FOG, 100, "bridge:village", "bridge-out", "main/village/1", "for the well"),
        Credited(FOG, 100, "wallet:ana", "bridge-out", "main/village/1", "for the well"),
    )
    assert main.posted("bridge:village") == 100
    assert main.posted("wallet:ana") == FUNDS - 100
    assert main.asset().supply == 2 * FUNDS, "escrow burns nothing"


def test_packets_of_a_channel_are_counted_from_one(main: Story) -> None:
    main.and_then(RegisterPeer("hamlet", key_of("hamlet")))
    for target, sequence in (("village", 1), ("village", 2), ("hamlet", 1), ("village", 3)):
        main.and_then(InitiateTransfer(target, "wallet:vic", 1, NOW + DAY), "ana")
        assert (last_packet(main).target, last_packet(main).sequence) == (target, sequence)


def test_a_refused_transfer_uses_no_sequence(main: Story) -> None:
    main.when(to_vic(FUNDS + 1), "ana").then(InsufficientFunds)
    main.and_then(to_vic(), "ana")
    assert last_packet(main).sequence == 1


def test_only_an_own_wallet_is_sent_from(main: Story) -> None:
    main.when(to_vic(from_="wallet:ana"), "ben").then(WalletNotFound)
    main.when(to_vic(from_="wallet:ana"), "operator").then(WalletNotFound)
    main.and_then(OpenWallet("wallet:ana:travel"), "ana")
    main.and_then(Transfer("wallet:ana", "wallet:ana:travel", 50), "ana")
    main.and_then(to_vic(50, from_="wallet:ana:travel"), "ana")
    assert last_packet(main).sender == "wallet:ana:travel"
    assert main.posted("wallet:ana:travel") == 0


@pytest.mark.parametrize("amount", [0, -50])
def test_an_amount_is_at_least_one_unit(main: Story, amount: int) -> None:
    main.when(to_vic(amount), "ana").then(AmountMustBePositive)


def test_what_is_held_does_not_leave(main: Story) -> None:
    main.and_then(PlaceHold("h1", "wallet:ana", "ben", FUNDS, NOW + DAY), "ana")
    main.when(to_vic(1), "ana").then(InsufficientFunds)


def test_a_frozen_wallet_sends_nothing(main: Story) -> None:
    main.and_then(FreezeWallet("wallet:ana", "asked"))
    main.when(to_vic(), "ana").then(WalletIsFrozen)


def test_nothing_is_sent_to_a_zone_that_is_no_peer(main: Story) -> None:
    main.when(InitiateTransfer("nowhere", "wallet:vic", 1, NOW + DAY), "ana").then(PeerNotFound)


def test_an_unknown_asset_does_not_leave(main: Story) -> None:
    main.when(to_vic(asset="GOLD"), "ana").then(AssetIsUnknown)


def test_a_timeout_is_later_than_now_until_the_peers_time_is_known(main: Story, village: Story) -> None:
    """The clocks of two zones may be of different kinds, so that only the peer's own word counts."""
    main.when(to_vic(timeout=NOW), "ana").then(TimeoutIsPast)
    village.later(-400 * DAY)
    relayed(main, village, to_vic())
    then = NOW - 400 * DAY
    main.when(to_vic(timeout=then), "ana").then(TimeoutIsPast)
    main.when(to_vic(timeout=then + timedelta(microseconds=1)), "ana")
    assert isinstance(main.outcome, list)


def test_the_peers_time_as_known_here_never_goes_back(main: Story) -> None:
    for sequence, at in ((1, NOW + HOUR), (2, NOW)):
        main.and_then(to_vic(), "ana")
        packet = main.book.read(packets, f"village:{sequence}").packet
        assert packet
        main.and_then(report(TransferReceived(packet, at)), "worker")
    main.when(to_vic(timeout=NOW + HOUR), "ana").then(TimeoutIsPast)


def test_only_so_many_transfers_are_in_flight(main: Story, village: Story, monkeypatch: Any) -> None:
    monkeypatch.setattr(transfers, "P", replace(P, most_in_flight=3))
    for _ in range(3):
        main.and_then(to_vic(1), "ana")
    main.when(to_vic(1), "ana").then(TooManyInFlight)
    (received, *_) = village.book.issue(receive(last_packet(main)), "worker", "worker")
    main.and_then(report(received), "worker")
    main.and_then(to_vic(1), "ana")
    main.when(to_vic(1), "ana").then(TooManyInFlight)


# In


def test_a_peers_asset_arrives_as_a_voucher_that_is_defined_the_first_time(
    main: Story, village: Story
) -> None:
    main.and_then(to_vic(memo="hello"), "ana")
    packet = last_packet(main)
    village.when(receive(packet), "worker", "worker").then(
        TransferReceived(packet, NOW),
        AssetDefined(6, 0),
        VoucherAdmitted(MAIN_FOG),
        TokensMinted(100, "wallet:vic", "bridge-in", "main/village/1"),
        Debited(MAIN_FOG, 100, "wallet:vic", "bridge-in", "main/village/1", "hello"),
        Credited(MAIN_FOG, 100, "world", "bridge-in", "main/village/1", "hello"),
    )
    main.and_then(to_vic(7), "ana")
    village.when(receive(last_packet(main)), "worker", "worker").then(
        TransferReceived, TokensMinted, Debited, Credited
    )
    assert village.asset(MAIN_FOG).supply == 107 == main.posted("bridge:village")
    assert village.posted("wallet:vic", MAIN_FOG) == 107


def test_a_packet_is_delivered_once(main: Story, village: Story) -> None:
    main.and_then(to_vic(), "ana")
    command = receive(last_packet(main))
    village.and_then(command, "worker")
    for late in (timedelta(), 2 * DAY):
        village.when(command, "worker", after=late).then()
    village.when(refuse(last_packet(main)), "worker").then()
    assert village.posted("wallet:vic", MAIN_FOG) == 100


def test_another_packet_under_the_same_sequence_is_refused(main: Story, village: Story) -> None:
    main.and_then(to_vic(), "ana")
    packet = last_packet(main)
    village.and_then(receive(packet), "worker")
    village.when(receive(replace(packet, amount=200)), "worker").then(PacketDiffers)
    village.when(refuse(replace(packet, timeout=NOW)), "worker").then(PacketDiffers)


FORGERIES: dict[str, Any] = {
    "amount": 1_000_000,
    "recipient": "wallet:wim",
    "sender": "wallet:ben",
    "sequence": 2,
    "asset": "GOLD",
    "scale": 7,
    "timeout": NOW + 2 * DAY,
    "memo": "x",
    "settled": (1,),
}


@pytest.mark.parametrize("field", FORGERIES)
def test_a_proof_is_of_every_part_of_its_packet(main: Story, village: Story, field: str) -> None:
    main.and_then(to_vic(), "ana")
    packet = last_packet(main)
    forged = replace(packet, **{field: FORGERIES[field]})
    proof = signed("main", "packet", packet)
    village.when(ReceiveTransfer(forged, proof), "worker").then(ProofIsInvalid)
    village.when(RefuseTransfer(forged, proof), "worker").then(ProofIsInvalid)


@pytest.mark.parametrize("proof", ["", "00" * 64, "zz" * 64, "00" * 63, "é" * 128])
def test_something_else_is_no_proof(main: Story, village: Story, proof: str) -> None:
    main.and_then(to_vic(), "ana")
    village.when(ReceiveTransfer(last_packet(main), proof), "worker").then(ProofIsInvalid)
    main.when(RecordAcknowledgement("village", 1, True, NOW, proof), "worker").then(ProofIsInvalid)
    main.when(TimeoutTransfer("village", 1, NOW, proof), "worker").then(ProofIsInvalid)


def test_the_operator_of_a_zone_cannot_sign_for_its_peer(main: Story, village: Story) -> None:
    main.and_then(to_vic(), "ana")
    packet = last_packet(main)
    own = signed("village", "packet", packet)
    village.when(ReceiveTransfer(packet, own)).then(ProofIsInvalid)


def test_a_packet_for_one_zone_is_nothing_to_another(main: Story) -> None:
    """The same proof would otherwise mint in every zone that knows the source."""
    hamlet = zone("hamlet", "main", "vic")
    main.and_then(to_vic(), "ana")
    hamlet.when(receive(last_packet(main)), "worker").then(PacketIsForAnotherZone)
    hamlet.when(refuse(last_packet(main)), "worker").then(PacketIsForAnotherZone)


def test_a_packet_of_an_unknown_zone_is_not_received(village: Story) -> None:
    packet = Packet("hamlet", "village", 1, FOG, 6, 5, "wallet:x", "wallet:vic", NOW + DAY)
    village.when(receive(packet), "worker").then(PeerNotFound)


def test_a_voucher_comes_home_out_of_escrow(main: Story, village: Story) -> None:
    relayed(main, village, to_vic(100))
    home = InitiateTransfer("main", "wallet:ben", 60, NOW + DAY, MAIN_FOG)
    village.when(home, "vic").then(
        PacketSent(1, ()),
        TransferInitiated,
        TokensBurned(60, "wallet:vic", "bridge-out", "village/main/1"),
        Debited,
        Credited,
    )
    packet = last_packet(village)
    assert landing_asset(packet) == FOG
    main.when(receive(packet), "worker", "worker").then(
        TransferReceived(packet, NOW),
        Debited(FOG, 60, "wallet:ben", "bridge-in", "village/main/1"),
        Credited(FOG, 60, "bridge:village", "bridge-in", "village/main/1"),
    )
    assert main.posted("wallet:ben") == FUNDS + 60
    assert main.posted("bridge:village") == 40 == village.asset(MAIN_FOG).supply


def test_vouchers_of_vouchers_do_not_cross(main: Story, village: Story) -> None:
    relayed(main, village, to_vic(100))
    village.and_then(RegisterPeer("hamlet", key_of("hamlet")))
    onward = InitiateTransfer("hamlet", "wallet:hal", 10, NOW + DAY, MAIN_FOG)
    village.when(onward, "vic").then(AssetMayNotCross)
    # A peer that lets it go is not believed either.
    packet = Packet("main", "village", 2, "hamlet/FOG", 6, 5, "wallet:ana", "wallet:vic", NOW + DAY)
    village.when(receive(packet), "worker").then(TransferFailed(packet, "asset-may-not-cross", NOW))


def test_a_peer_never_takes_out_more_than_was_sent_to_it(main: Story, village: Story) -> None:
    """A cheating peer may sign what it likes: what is not in its escrow is not released."""
    relayed(main, village, to_vic(100))
    packet = Packet("village", "main", 1, "main/FOG", 6, 101, "wallet:vic", "wallet:ana", NOW + DAY)
    main.when(receive(packet), "worker").then(TransferFailed(packet, "insufficient-funds", NOW))
    other = Packet("village", "main", 2, "main/GOLD", 6, 1, "wallet:vic", "wallet:ana", NOW + DAY)
    main.when(receive(other), "worker").then(TransferFailed(other, "asset-is-unknown", NOW))


# What cannot be delivered


def failed(source: Story, target: Story, command: InitiateTransfer, rule: type[Rejected]) -> None:
    """The target records the failure, and the source gives everything back, once."""
    wallet_name = command.from_ or "wallet:ana"
    before = source.posted(wallet_name, command.asset)
    event = relayed(source, target, command)
    assert isinstance(event, TransferFailed)
    assert event.reason == rule.rule()
    assert source.posted(wallet_name, command.asset) == before
    assert source.posted("bridge:village", command.asset) == 0
    target.when(receive(event.packet), "worker").then()
    source.when(report(event), "worker").then()
    assert source.posted(wallet_name, command.asset) == before


def test_who_has_no_open_wallet_receives_nothing_and_the_sender_is_refunded(
    main: Story, village: Story
) -> None:
    failed(main, village, replace(to_vic(), recipient="wallet:nobody"), AccountIsNotOpen)
    village.and_then(OpenWallet("wallet:hal"), "hal").and_then(CloseWallet("wallet:hal"), "hal")
    failed(main, village, replace(to_vic(), recipient="wallet:hal"), AccountIsNotOpen)


def test_a_frozen_wallet_still_receives(main: Story, village: Story) -> None:
    village.and_then(FreezeWallet("wallet:vic", "asked"))
    assert isinstance(relayed(main, village, to_vic()), TransferReceived)


def test_a_wallet_with_too_many_assets_receives_no_further_one(main: Story, village: Story) -> None:
    state = village.account("wallet:vic")
    full = {f"A{n}": 1 for n in range(64)}
    village.book.states["wallet:vic"] = replace(state, posted=full)
    failed(main, village, to_vic(), TooManyAssets)


def test_a_voucher_keeps_its_scale(main: Story, village: Story) -> None:
    relayed(main, village, to_vic(1))
    packet = Packet("main", "village", 2, FOG, 7, 5, "wallet:ana", "wallet:vic", NOW + DAY)
    village.when(receive(packet), "worker").then(TransferFailed(packet, ScaleDiffers.rule(), NOW))


def test_a_scale_beyond_what_a_zone_may_define_is_not_let_in(village: Story) -> None:
    packet = Packet("main", "village", 1, "GOLD", 19, 5, "wallet:ana", "wallet:vic", NOW + DAY)
    village.when(receive(packet), "worker").then(TransferFailed(packet, ScaleIsTooLarge.rule(), NOW))


def test_a_supply_of_vouchers_is_bounded(main: Story, village: Story) -> None:
    relayed(main, village, to_vic(1))
    packet = Packet("main", "village", 2, FOG, 6, AMOUNT_LIMIT - 1, "wallet:x", "wallet:vic", NOW + DAY)
    village.when(receive(packet), "worker").then(TransferFailed(packet, CapExceeded.rule(), NOW))


def test_a_peer_does_not_flood_a_zone_with_assets(village: Story, monkeypatch: Any) -> None:
    monkeypatch.setattr(transfers, "P", replace(P, most_vouchers_a_peer=2))
    for sequence, asset in enumerate(("GOLD", "IRON", "TIN", "GOLD"), 1):
        packet = Packet("main", "village", sequence, asset, 0, 1, "wallet:x", "wallet:vic", NOW + DAY)
        village.and_then(receive(packet), "worker")
        outcome = village.book.read(receptions, f"main:{sequence}").outcome
        assert outcome == ("failed" if asset == "TIN" else "received")
    packet = Packet("main", "village", 9, "TIN", 0, 1, "wallet:x", "wallet:vic", NOW + DAY)
    village.when(receive(packet), "worker").then(TransferFailed(packet, TooManyVouchers.rule(), NOW))


def test_a_failed_delivery_changes_nothing_else(main: Story, village: Story) -> None:
    main.and_then(replace(to_vic(), recipient="wallet:nobody"), "ana")
    village.when(receive(last_packet(main)), "worker").then(TransferFailed)
    assert not village.asset(MAIN_FOG).defined


# Acknowledged, refunded, or neither yet


def test_success_moves_nothing_at_the_source(main: Story, village: Story) -> None:
    main.and_then(to_vic(), "ana")
    (received, *_) = village.book.issue(receive(last_packet(main)), "worker", "worker")
    main.when(report(received), "worker", "worker").then(PacketSettled(1, NOW), TransferAcknowledged(NOW))
    main.when(report(received), "worker", "worker").then()
    assert main.posted("bridge:village") == 100


def test_a_refund_pays_out_of_escrow_and_opens_a_closed_wallet(main: Story, village: Story) -> None:
    main.and_then(replace(to_vic(FUNDS), recipient="wallet:nobody"), "ana")
    main.and_then(CloseWallet("wallet:ana"), "ana")
    (event,) = village.book.issue(receive(last_packet(main)), "worker", "worker")
    main.when(report(event), "worker").then(
        PacketSettled(1, NOW),
        TransferRefunded("failed", "account-is-not-open", NOW),
        WalletReopened(),
        Debited(FOG, FUNDS, "wallet:ana", "bridge-refund"),
        Credited(FOG, FUNDS, "bridge:village", "bridge-refund"),
    )
    main.when(report(event), "worker").then()
    assert main.posted("wallet:ana") == FUNDS


def test_a_refund_of_burned_vouchers_mints_them_again(main: Story, village: Story) -> None:
    relayed(main, village, to_vic(100))
    village.and_then(InitiateTransfer("main", "wallet:nobody", 60, NOW + DAY, MAIN_FOG), "vic")
    assert village.asset(MAIN_FOG).supply == 40
    (event,) = main.book.issue(receive(last_packet(village)), "worker", "worker")
    village.when(report(event), "worker").then(
        PacketSettled,
        TransferRefunded,
        TokensMinted(60, "wallet:vic", "bridge-refund", "village/main/1"),
        Debited,
        Credited,
    )
    assert village.asset(MAIN_FOG).supply == 100 == village.posted("wallet:vic", MAIN_FOG)
    assert main.posted("bridge:village") == 100


def test_a_refund_to_a_full_wallet_waits_until_there_is_room(main: Story, village: Story) -> None:
    main.and_then(DefineAsset("GOLD", 2)).and_then(MintTokens("wallet:ana", 10, "find", "", "GOLD"))
    main.and_then(replace(to_vic(10, asset="GOLD"), recipient="wallet:nobody"), "ana")
    (event,) = village.book.issue(receive(last_packet(main)), "worker", "worker")
    account = main.account("wallet:ana")
    main.book.states["wallet:ana"] = replace(account, posted={f"A{n}": 1 for n in range(64)})
    main.when(report(event), "worker").then(TooManyAssets)
    main.book.states["wallet:ana"] = account
    main.and_then(report(event), "worker")
    assert main.posted("wallet:ana", "GOLD") == 10


def test_a_report_needs_the_proof_of_just_this_outcome(main: Story, village: Story) -> None:
    main.and_then(to_vic(), "ana").and_then(to_vic(), "ana")
    packet = last_packet(main)
    (received, *_) = village.book.issue(receive(packet), "worker", "worker")
    proof = report(received).proof
    main.when(RecordAcknowledgement("village", 2, False, NOW, proof), "worker").then(ProofIsInvalid)
    main.when(RecordAcknowledgement("village", 1, True, NOW, proof), "worker").then(ProofIsInvalid)
    main.when(RecordAcknowledgement("village", 2, True, NOW + HOUR, proof), "worker").then(ProofIsInvalid)
    main.when(RecordAcknowledgement("village", 2, True, NOW, proof, "x"), "worker").then(ProofIsInvalid)
    main.when(TimeoutTransfer("village", 2, NOW, proof), "worker").then(ProofIsInvalid)
    # The packet that one signed oneself proves nothing of its fate.
    own = signed("main", "received", packet, NOW)
    main.when(RecordAcknowledgement("village", 2, True, NOW, own), "worker").then(ProofIsInvalid)
    main.and_then(report(received), "worker")


def test_there_is_no_report_on_a_transfer_that_was_never_made(main: Story) -> None:
    main.when(RecordAcknowledgement("village", 1, True, NOW, "00" * 64), "worker").then(TransferNotFound)
    main.when(TimeoutTransfer("village", 1, NOW, "00" * 64), "worker").then(TransferNotFound)


def test_a_peer_that_proves_two_outcomes_gets_the_first(main: Story) -> None:
    """Acknowledged xor refunded, whatever a cheating peer signs."""
    main.and_then(to_vic(), "ana").and_then(to_vic(), "ana")
    first = main.book.read(packets, "village:1").packet
    second = main.book.read(packets, "village:2").packet
    assert first and second
    main.and_then(report(TransferReceived(first, NOW)), "worker")
    main.when(report(TransferFailed(first, "x", NOW)), "worker").then(TransferIsSettled)
    main.when(report(TransferRefused(first, NOW)), "worker").then(TransferIsSettled)
    main.and_then(report(TransferRefused(second, NOW)), "worker")
    main.when(report(TransferReceived(second, NOW)), "worker").then(TransferIsSettled)
    main.when(report(TransferFailed(second, "x", NOW)), "worker").then(TransferIsSettled)
    main.when(report(TransferRefused(second, NOW)), "worker").then()
    assert main.posted("bridge:village") == 100


def test_a_transfer_between_zones_is_not_reversed(main: Story, village: Story) -> None:
    """Moving the escrow back here would leave the vouchers there."""
    main.and_then(to_vic(), "ana")
    main.when(ReverseTransaction(main.last_command, "regret")).then(TransactionCannotBeReversed)
    village.and_then(receive(last_packet(main)), "worker")
    village.when(ReverseTransaction(village.last_command, "regret")).then(TransactionCannotBeReversed)


# Timeouts


def test_before_its_timeout_a_packet_is_not_refused(main: Story, village: Story) -> None:
    main.and_then(to_vic(), "ana")
    packet = last_packet(main)
    village.later(DAY - timedelta(microseconds=1))
    village.when(refuse(packet), "worker").then(TransferHasNotTimedOut)
    village.when(receive(packet), "worker")
    assert village.posted("wallet:vic", MAIN_FOG) == 100


@pytest.mark.parametrize("command", [receive, refuse])
def test_at_its_timeout_a_packet_is_refused_for_good_and_refunded(
    main: Story, village: Story, command: Any
) -> None:
    main.and_then(to_vic(), "ana")
    packet = last_packet(main)
    village.when(command(packet), "worker", after=DAY).then(TransferRefused(packet, NOW + DAY))
    village.when(receive(packet), "worker").then()
    village.when(refuse(packet), "worker").then()
    assert village.posted("wallet:vic", MAIN_FOG) == 0
    main.when(report(TransferRefused(packet, NOW + DAY)), "worker").then(
        PacketSettled(1, NOW + DAY), TransferRefunded("refused", TIMED_OUT, NOW + DAY), Debited, Credited
    )
    assert main.posted("wallet:ana") == FUNDS


def test_the_sources_own_time_refunds_nothing(main: Story) -> None:
    """That a packet did not arrive cannot be seen from here: only the peer's refusal counts."""
    main.and_then(to_vic(), "ana").later(100 * DAY)
    packet = last_packet(main)
    own = signed("main", "refused", packet, main.book.now)
    main.when(TimeoutTransfer("village", 1, main.book.now, own), "worker").then(ProofIsInvalid)


def test_receiving_and_refusing_race_and_the_first_wins(main: Story, village: Story) -> None:
    main.and_then(to_vic(), "ana")
    packet = last_packet(main)
    village.later(DAY - timedelta(microseconds=1)).and_then(receive(packet), "worker")
    village.later(timedelta(microseconds=1)).when(refuse(packet), "worker").then()
    assert village.book.read(receptions, "main:1").outcome == "received"


# Announcing


def test_a_packet_announces_what_its_source_has_settled(main: Story, village: Story) -> None:
    for _ in range(3):
        main.and_then(to_vic(1), "ana")
    for sequence in (3, 1):
        packet = main.book.read(packets, f"village:{sequence}").packet
        assert packet
        (received, *_) = village.book.issue(receive(packet), "worker", "worker")
        main.and_then(report(received), "worker")
    main.and_then(to_vic(1), "ana")
    assert last_packet(main).settled == (3, 1)
    main.and_then(to_vic(1), "ana")
    assert last_packet(main).settled == ()
    assert main.book.read(channels, "village").in_flight == 3


def test_what_waits_to_be_announced_never_outgrows_what_may_be_in_flight(
    main: Story, village: Story, monkeypatch: Any
) -> None:
    monkeypatch.setattr(transfers, "P", replace(P, most_in_flight=5, most_settled_a_packet=2))
    announced: list[int] = []
    for turn in range(40):
        main.and_then(to_vic(1), "ana")
        announced += last_packet(main).settled
        if turn % 5 == 4:
            for sequence in range(turn - 3, turn + 2):
                packet = main.book.read(packets, f"village:{sequence}").packet
                assert packet
                main.and_then(report(TransferReceived(packet, NOW)), "worker")
        channel = main.book.read(channels, "village")
        assert channel.in_flight + len(channel.settled) <= 5
    assert sorted(announced + list(channel.settled)) == list(range(1, 41))


# Statements


def test_a_statement_is_this_text() -> None:
    packet = Packet(
        "main",
        "village",
        7,
        "FOG",
        6,
        100,
        "wallet:ana",
        "wallet:vic",
        datetime(2026, 1, 2, 4, tzinfo=UTC),
        'a "b" é\u2028',
        (3, 1),
    )
    body = (
        '"amount":"100","asset":"FOG",{at}"memo":"a \\"b\\" \\u00e9\\u2028",{reason}"recipient":"wallet:vic",'
        '"scale":6,"sender":"wallet:ana","sequence":7,"settled":[3,1],"source":"main","target":"village",'
        '"timeout":"2026-01-02T04:00:00.000000+00:00"'
    )
    plain = body.replace("{at}", "").replace("{reason}", "")
    assert statement("packet", packet) == "fogbook/packet/v1\n{" + plain + "}"
    said = body.replace("{at}", '"at":"2026-01-01T00:00:00.000000+00:00",').replace(
        "{reason}", '"reason":"r",'
    )
    assert statement("failed", packet, NOW, "r") == "fogbook/failed/v1\n{" + said + "}"


def test_a_packet_is_the_same_after_it_was_stored() -> None:
    packet = Packet("a", "b", 7, FOG, 6, AMOUNT_LIMIT - 1, "wallet:x", "wallet:y", NOW, "é", (1, 2))
    for event in (TransferInitiated(packet, NOW), TransferFailed(packet, "r", NOW)):
        stored = event_encoder(type(event))(event)
        assert decode_event(type(event).__name__, stored) == event


def test_two_zones_see_the_same_statement_whatever_offset_a_time_came_with() -> None:
    packet = Packet("a", "b", 7, FOG, 6, 5, "wallet:x", "wallet:y", NOW)
    moved = replace(packet, timeout=NOW.astimezone(timezone(timedelta(hours=2))))
    assert statement("packet", moved) == statement("packet", packet)


def test_streams_are_named_by_peer_and_sequence(main: Story, village: Story) -> None:
    relayed(main, village, to_vic())
    names = {name for name, _ in main.book.events + village.book.events}
    assert {"peer:village", "channel:village", "packet:village:1", "reception:main:1"} <= names
    assert {"peer:main", "bridge:village", "asset:main/FOG"} <= names
