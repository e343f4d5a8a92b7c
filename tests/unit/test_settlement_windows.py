"""Netting windows' commands, rules and traps, as sentences.

Ana, Ben and Cleo own something; `w1` is the window that is open. The system's obligations are recorded by a worker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from time import process_time
from typing import Any

import pytest

from commands._codec import MOST_ENTRY_BYTES, decode_event, encode_json, event_encoder, state_decoder
from domain.ledger import (
    FEES,
    MOST_ASSETS_AN_ACCOUNT,
    AccountIsNotOpen,
    AmountMustBePositive,
    AssetIsUnknown,
    BurnTokens,
    CloseWallet,
    Credited,
    Debited,
    DefineAsset,
    FreezeWallet,
    FundsHeld,
    FundsUnheld,
    InsufficientFunds,
    MintTokens,
    OpenWallet,
    PlaceHold,
    ReverseTransaction,
    TransactionCannotBeReversed,
    Transfer,
    WalletOpened,
    WalletReopened,
)
from domain.settlement import windows as module
from domain.settlement.windows import (
    AbortWindow,
    AnotherWindowIsOpen,
    Clearing,
    ClearingChanged,
    CloseWindow,
    DebtorHasTooManyObligations,
    DebtorIsCreditor,
    Departure,
    Due,
    FinaliseSettlement,
    NetPosition,
    NoWindowIsOpen,
    ObligationCounted,
    ObligationExists,
    ObligationHasNotLapsed,
    ObligationListed,
    ObligationNeedsItsDebtor,
    ObligationNotFound,
    ObligationRecorded,
    ObligationRenewed,
    ObligationsCarried,
    ObligationsLeft,
    ObligationsMovedOn,
    ObligationsSettled,
    ObligationsTaken,
    OpenWindow,
    P,
    Page,
    PartiesLeft,
    PositionsAreNotReserved,
    PositionsNetted,
    PositionsReserved,
    RecordObligation,
    RenewObligation,
    ReservePositions,
    SettlementIsUnderWay,
    Window,
    WindowAborted,
    WindowClosed,
    WindowClosesInThePast,
    WindowExists,
    WindowHasEnded,
    WindowHasTooManyPositions,
    WindowIsFull,
    WindowIsNotClosed,
    WindowIsNotDue,
    WindowIsNotOpen,
    WindowIsTooShort,
    WindowNameIsTooLong,
    WindowNotFound,
    WindowOpened,
    WindowSettled,
    ZoneIsNoDebtor,
    clearing,
    netted,
    pages,
    settleable,
    windows,
)
from tests.examples import FUNDS, HOUR, NOW, Story, funded, story, system_total, village, wallet

DAY = timedelta(days=1)
WORKER = ("worker", "worker")
Bounds = Callable[..., None]

village_of_three = [village, funded("cleo")]
opened = [village_of_three, OpenWindow("w1")]
broke = wallet("dora")
"""Dora has a wallet, and nothing in it."""


def owes(debtor: str, creditor: str, amount: int, source: str, **more: Any) -> RecordObligation:
    return RecordObligation(debtor, creditor, amount, source, **more)


def three_in_a_ring(told: Story) -> Story:
    """Ana owes Ben 100, Ben owes Cleo 80, Cleo owes Ana 30."""
    told.and_then(owes("ana", "ben", 100, "a"), *WORKER)
    told.and_then(owes("ben", "cleo", 80, "b"), *WORKER)
    return told.and_then(owes("cleo", "ana", 30, "c"), *WORKER)


def closed(told: Story, window: str = "w1", next: str = "") -> Story:
    return told.and_then(CloseWindow(window, next))


def reserved(told: Story, window: str = "w1", next: str = "") -> Story:
    return closed(told, window, next).and_then(ReservePositions(window), *WORKER)


def settled(told: Story, window: str = "w1", next: str = "") -> Story:
    return reserved(told, window, next).and_then(FinaliseSettlement(window), *WORKER)


def status(told: Story, window: str = "w1") -> str:
    return str(told.book.read(windows, window).status)


def page(told: Story, window: str = "w1", number: int = 0) -> Page:
    found: Page = told.book.read(pages, f"{window}:{number}")
    return found


def names(dues: tuple[Due, ...]) -> list[str]:
    return [due.obligation for due in dues]


def desk(told: Story) -> Clearing:
    found: Clearing = told.book.read(clearing, "all")
    return found


def outcome(told: Story, kind: type) -> list[Any]:
    """The last command's events of a kind."""
    assert isinstance(told.outcome, list), told.outcome
    return [event for event in told.outcome if isinstance(event, kind)]


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> Bounds:
    def set_bounds(page: int = module.PAGE, **changed: int) -> None:
        monkeypatch.setattr(module, "P", replace(P, **changed))
        monkeypatch.setattr(module, "PAGE", page)

    return set_bounds


# Opening


def test_an_operator_opens_a_window() -> None:
    told = story(village).when(OpenWindow("w1", NOW + DAY))
    told.then(
        first_of("w1", NOW + DAY),
        ClearingChanged("w1", "", ()),
    )


def first_of(series: str, closes_at: Any = None, every_s: int = 0, number: int = 1) -> Any:
    return WindowOpened(closes_at, every_s, series, number, NOW)


def test_one_window_is_open_at_a_time() -> None:
    story(opened).when(OpenWindow("w2")).then(AnotherWindowIsOpen)


def test_a_window_is_opened_once() -> None:
    told = settled(three_in_a_ring(story(opened)))
    told.when(OpenWindow("w1")).then(WindowExists)
    story(opened).when(CloseWindow("w1", next="w1")).then(WindowExists)


def test_a_window_closes_after_it_opens() -> None:
    story(village).when(OpenWindow("w1", NOW)).then(WindowClosesInThePast)
    story(village).when(OpenWindow("w1", NOW + timedelta(microseconds=1))).then(WindowOpened, ClearingChanged)


def test_windows_of_a_series_are_not_too_short_and_leave_room_for_their_number() -> None:
    story(village).when(OpenWindow("w", every_s=59)).then(WindowIsTooShort)
    story(village).when(OpenWindow("w" * 57, every_s=60)).then(WindowNameIsTooLong)
    story(village).when(OpenWindow("w" * 56, every_s=60)).then(
        first_of("w" * 56, NOW + timedelta(seconds=60), 60), ClearingChanged
    )


# Recording


def test_a_debtor_records_what_he_owes() -> None:
    told = story(opened).when(owes("ana", "ben", 5, "invoice-1", memo="wood"), "ana")
    told.then(
        ObligationRecorded("ana", "ben", "FOG", 5, "w1", "wood", NOW),
        ObligationCounted("ana", "ben", "FOG", own=True),
        ObligationListed(Due("ana:invoice-1", "ana", "ben", "FOG", 5)),
    )
    assert told.book.events[-3][0] == "obligation:ana:invoice-1"


@pytest.mark.parametrize("who", [("operator", "operator"), WORKER])
def test_the_system_records_what_somebody_owes(who: tuple[str, str]) -> None:
    told = story(opened).when(owes("ana", "ben", 5, "c1.0", window="w1"), *who)
    told.then(
        ObligationRecorded("ana", "ben", "FOG", 5, "w1", "", NOW),
        ObligationCounted("ana", "ben", "FOG", own=False),
        ObligationListed(Due("c1.0", "ana", "ben", "FOG", 5)),
    )
    assert told.book.events[-3][0] == "obligation:c1.0"


@pytest.mark.parametrize("by", ["ben", "cleo"])
def test_nobody_else_records_it_not_even_the_creditor(by: str) -> None:
    story(opened).when(owes("ana", "ben", 5, "s"), by).then(ObligationNeedsItsDebtor)


@pytest.mark.parametrize("amount", [0, -50])
def test_an_obligation_is_more_than_nothing(amount: int) -> None:
    story(opened).when(owes("ana", "ben", amount, "s"), "ana").then(AmountMustBePositive)


def test_nobody_owes_himself() -> None:
    story(opened).when(owes("ana", "ana", 5, "s"), "ana").then(DebtorIsCreditor)


def test_the_asset_must_be_known() -> None:
    story(opened).when(owes("ana", "ben", 5, "s", asset="GPU"), "ana").then(AssetIsUnknown)


def test_a_window_must_be_open_for_it() -> None:
    story(village).when(owes("ana", "ben", 5, "s"), "ana").then(NoWindowIsOpen)
    story(opened).when(owes("ana", "ben", 5, "s", window="w2"), "ana").then(WindowNotFound)


def test_a_closed_window_takes_nothing() -> None:
    told = closed(three_in_a_ring(story(opened)), next="w2")
    told.when(owes("ana", "ben", 5, "s", window="w1"), "ana").then(WindowIsNotOpen)
    told.when(owes("ana", "ben", 5, "s", window="w2"), "ana").then(
        ObligationRecorded, ObligationCounted, ObligationListed
    )


def test_of_a_record_and_a_close_at_once_the_first_wins() -> None:
    told = story(opened, CloseWindow("w1"))
    told.when(owes("ana", "ben", 5, "s", window="w1"), "ana").then(WindowIsNotOpen)


def test_the_same_source_with_the_same_content_decides_nothing_at_any_time() -> None:
    told = story(opened).and_then(owes("ana", "ben", 5, "s"), *WORKER)
    told.when(owes("ana", "ben", 5, "s"), *WORKER).then()
    told.when(owes("ana", "ben", 5, "s", window="w1"), *WORKER).then()
    settled(told).when(owes("ana", "ben", 5, "s"), *WORKER).then()
    assert told.posted("wallet:ben") == FUNDS + 5


@pytest.mark.parametrize(
    "other",
    [
        owes("ana", "ben", 6, "s"),
        owes("ana", "cleo", 5, "s"),
        owes("ben", "ana", 5, "s"),
        owes("ana", "ben", 5, "s", memo="other"),
        owes("ana", "ben", 5, "s", asset="GPU"),
    ],
)
def test_the_same_source_with_other_content_is_refused(other: RecordObligation) -> None:
    told = story(opened, (owes("ana", "ben", 5, "s"), "operator"))
    told.when(other, *WORKER).then(ObligationExists)


def test_a_debtor_cannot_take_the_name_of_what_the_system_will_record() -> None:
    told = story(opened).and_then(owes("ana", "cleo", 1, "c1.0"), "ana")
    told.when(owes("ana", "ben", 500, "c1.0"), *WORKER).then(
        ObligationRecorded, ObligationCounted, ObligationListed
    )
    settled(told)
    assert (told.posted("wallet:ben"), told.posted("wallet:cleo")) == (FUNDS + 500, FUNDS + 1)


def test_two_debtors_may_use_the_same_source() -> None:
    told = story(opened, (owes("ana", "cleo", 1, "rent"), "ana"), (owes("ben", "cleo", 2, "rent"), "ben"))
    assert names(page(told).dues) == ["ana:rent", "ben:rent"]


def test_a_debtor_names_a_creditor_who_has_a_wallet() -> None:
    story(opened).when(owes("ana", "nobody", 5, "s"), "ana").then(AccountIsNotOpen)


def test_what_the_system_owes_to_somebody_without_a_wallet_opens_one() -> None:
    told = reserved(story(opened).and_then(owes("ana", "nell", 5, "s"), *WORKER))
    told.when(FinaliseSettlement("w1"), *WORKER)
    assert outcome(told, WalletOpened) == [WalletOpened("nell")]
    assert told.posted("wallet:nell") == 5


def test_fees_are_owed_to_the_zone_which_owes_nothing() -> None:
    told = story(opened).and_then(owes("ana", FEES, 7, "c1.0.fee"), *WORKER)
    told.when(owes(FEES, "ana", 1, "back"), *WORKER).then(ZoneIsNoDebtor)
    settled(told)
    assert told.posted(FEES) == 7
    assert told.account("wallet:fees").status == "absent"


def test_a_window_holds_so_many_obligations(bounds: Bounds) -> None:
    bounds(most_obligations=2)
    told = story(opened, (owes("ana", "ben", 1, "a"), "ana"), (owes("ana", "ben", 1, "b"), "ana"))
    told.when(owes("ana", "ben", 1, "c"), "ana")
    told.refused_with(WindowIsFull, limit=2)


def test_what_is_being_settled_counts_until_it_is_settled_because_it_may_come_back(bounds: Bounds) -> None:
    bounds(most_obligations=3)
    told = closed(three_in_a_ring(story(opened)), next="w2")
    told.when(owes("ana", "ben", 1, "d"), *WORKER).then(WindowIsFull)
    told.and_then(ReservePositions("w1")).and_then(FinaliseSettlement("w1"))
    told.when(owes("ana", "ben", 1, "d"), *WORKER).then(
        ObligationRecorded, ObligationCounted, ObligationListed
    )


def test_a_window_has_so_many_positions(bounds: Bounds) -> None:
    bounds(most_positions=3)
    gpu = DefineAsset("GPU", 0)
    told = three_in_a_ring(story(opened, gpu, broke))
    told.when(owes("ana", "dora", 1, "d"), *WORKER)
    told.refused_with(WindowHasTooManyPositions, limit=3)
    told.when(owes("ana", "ben", 1, "d", asset="GPU"), *WORKER).then(WindowHasTooManyPositions)
    told.when(owes("ana", "cleo", 1, "d"), *WORKER).then(
        ObligationRecorded, ObligationCounted, ObligationListed
    )


def test_no_debtor_fills_a_window_alone(bounds: Bounds) -> None:
    bounds(most_own_obligations=2)
    told = story(opened, (owes("ana", "ben", 1, "a"), "ana"), (owes("ana", "ben", 1, "b"), "ana"))
    told.when(owes("ana", "ben", 1, "c"), "ana").then(DebtorHasTooManyObligations)
    told.when(owes("ana", "ben", 1, "c1.0"), *WORKER).then(
        ObligationRecorded, ObligationCounted, ObligationListed
    )
    closed(told, next="w2").when(owes("ana", "ben", 1, "c"), "ana").then(
        ObligationRecorded, ObligationCounted, ObligationListed
    )


def test_debtors_leave_the_system_room_whatever_they_promise(bounds: Bounds) -> None:
    """What a debtor records costs him nothing, so two penniless ones kept every netted period out."""
    bounds(most_positions=6, most_positions_of_debtors=3)
    told = story(opened, broke, (owes("dora", "ana", 1, "a"), "dora"), (owes("dora", "ben", 1, "b"), "dora"))
    told.when(owes("dora", "cleo", 1, "c"), "dora").refused_with(WindowHasTooManyPositions, limit=3)
    told.when(owes("ana", "ben", 1, "d"), "ana").then(ObligationRecorded, ObligationCounted, ObligationListed)
    told.when(owes("cleo", "ana", 1, "k1.0"), *WORKER)
    told.then(ObligationRecorded, ObligationCounted, ObligationListed)
    bounds(most_obligations=6, most_obligations_of_debtors=4)
    told.when(owes("ana", "ben", 1, "e"), "ana").refused_with(WindowIsFull, limit=4)
    told.when(owes("ana", "ben", 1, "k1.1"), *WORKER)
    told.then(ObligationRecorded, ObligationCounted, ObligationListed)


def test_what_its_parties_renew_counts_as_theirs(bounds: Bounds) -> None:
    told = left_too_often(bounds)
    bounds(most_obligations_of_debtors=0)
    told.when(RenewObligation("d", "w3"), "dora").then(WindowIsFull)
    told.when(RenewObligation("d", "w3"), *WORKER).then(
        ObligationRenewed, ObligationCounted, ObligationListed
    )


def test_the_bounds_leave_half_of_a_window_to_the_system_and_that_of_debtors_to_many() -> None:
    assert 2 * P.most_obligations_of_debtors <= P.most_obligations
    assert 2 * P.most_positions_of_debtors <= P.most_positions
    assert P.most_own_obligations + 1 < P.most_positions_of_debtors


# Closing


def test_closing_nets_multilaterally() -> None:
    """| | owes | owed | net |: ana 100 30 -70, ben 80 100 +20, cleo 30 80 +50."""
    told = three_in_a_ring(story(opened)).when(CloseWindow("w1"))
    told.then(
        WindowClosed(obligations=3, parties=3, following="", at=NOW),
        PositionsNetted(
            (
                NetPosition("ana", "FOG", 70, 0),
                NetPosition("ben", "FOG", 0, 20),
                NetPosition("cleo", "FOG", 0, 50),
            )
        ),
        ClearingChanged("", "w1", ()),
    )


def test_each_asset_is_netted_on_its_own() -> None:
    told = three_in_a_ring(story(opened, DefineAsset("GPU", 0)))
    told.and_then(owes("ben", "ana", 9, "g", asset="GPU"), *WORKER).when(CloseWindow("w1"))
    (netting,) = outcome(told, PositionsNetted)
    assert netting.positions == (
        NetPosition("ana", "FOG", 70, 0),
        NetPosition("ana", "GPU", 0, 9),
        NetPosition("ben", "FOG", 0, 20),
        NetPosition("ben", "GPU", 9, 0),
        NetPosition("cleo", "FOG", 0, 50),
    )


def test_a_timer_closes_a_window_at_its_time_and_not_before() -> None:
    told = story(village_of_three, OpenWindow("w1", NOW + HOUR))
    told.when(CloseWindow("w1"), *WORKER, after=HOUR - timedelta(microseconds=1)).then(WindowIsNotDue)
    told.when(CloseWindow("w1"), *WORKER, after=timedelta(microseconds=1)).then(WindowClosed, ClearingChanged)


def test_only_an_operator_closes_a_window_that_has_no_time() -> None:
    story(opened).when(CloseWindow("w1"), *WORKER, after=365 * DAY).then(WindowIsNotDue)
    story(opened).when(CloseWindow("w1")).then(WindowClosed, ClearingChanged)


def test_a_window_that_is_closed_is_not_closed_again() -> None:
    told = story(village_of_three, OpenWindow("w1", NOW + HOUR), CloseWindow("w1"))
    told.when(CloseWindow("w1"), *WORKER, after=HOUR).then()
    told.when(CloseWindow("w1"), "operator").then(WindowIsNotOpen)
    told.when(CloseWindow("w2"), *WORKER).then(WindowNotFound)


def test_a_window_may_open_in_its_place_at_once() -> None:
    told = story(opened).when(CloseWindow("w1", next="w2"))
    told.then(
        WindowClosed(0, 0, "w2", NOW),
        ClearingChanged("", "w1", ()),
        first_of("w2"),
        ClearingChanged("w2", "w1", ()),
    )


def test_one_window_is_settled_at_a_time() -> None:
    told = closed(three_in_a_ring(story(opened)), next="w2")
    told.when(CloseWindow("w2")).refused_with(SettlementIsUnderWay, window="w1")
    told.and_then(ReservePositions("w1")).when(CloseWindow("w2")).then(SettlementIsUnderWay)
    told.and_then(FinaliseSettlement("w1")).when(CloseWindow("w2")).then(WindowClosed, ClearingChanged)


def test_the_windows_of_a_series_follow_each_other_and_keep_the_rhythm() -> None:
    told = story(village, OpenWindow("hourly", every_s=3600))

    def close(window: str, after: timedelta, *who: str) -> tuple[str, Any]:
        told.when(CloseWindow(window), *who, after=after)
        (opening,) = outcome(told, WindowOpened)
        assert opening.series == "hourly"
        told.and_then(ReservePositions(window))
        return desk(told).open, opening.closes_at - NOW

    assert close("hourly", HOUR, *WORKER) == ("hourly.2", 2 * HOUR)
    assert close("hourly.2", 1.5 * HOUR, *WORKER) == ("hourly.3", 3 * HOUR)  # Half an hour late.
    assert close("hourly.3", 0.25 * HOUR) == ("hourly.4", 3 * HOUR)  # An operator is a quarter early.
    assert close("hourly.4", 10.25 * HOUR, *WORKER) == ("hourly.5", 14 * HOUR)  # Nobody was there for long.


def test_a_series_passes_over_names_that_are_taken() -> None:
    told = story(village, OpenWindow("w.2"), AbortWindow("w.2", "mistake"), OpenWindow("w", every_s=60))
    closed(told, "w")
    assert desk(told).open == "w.3"
    told.and_then(ReservePositions("w")).and_then(CloseWindow("w.3", next="special"))
    assert desk(told).open == "special"
    told.and_then(ReservePositions("w.3")).and_then(CloseWindow("special"))
    assert desk(told).open == "w.4"


# Reserving


def test_reserving_holds_what_each_net_payer_pays() -> None:
    told = closed(three_in_a_ring(story(opened))).when(ReservePositions("w1"), *WORKER)
    told.then(
        FundsHeld("window:w1", "FOG", 70),
        PositionsReserved(
            (
                NetPosition("ana", "FOG", 70, 0),
                NetPosition("ben", "FOG", 0, 20),
                NetPosition("cleo", "FOG", 0, 50),
            )
        ),
    )
    assert status(told) == "settling"
    told.when(Transfer("wallet:ana", "wallet:ben", FUNDS - 69), "ana").then(InsufficientFunds)
    told.when(BurnTokens("wallet:ana", FUNDS - 69, "gone"), "ana").then(InsufficientFunds)


def test_reserving_waits_for_the_close_and_happens_once() -> None:
    told = three_in_a_ring(story(opened))
    told.when(ReservePositions("w1"), *WORKER).then(WindowIsNotClosed)
    told.when(ReservePositions("w9"), *WORKER).then(WindowNotFound)
    reserved(told).when(ReservePositions("w1"), *WORKER).then()
    told.and_then(FinaliseSettlement("w1")).when(ReservePositions("w1"), *WORKER).then()


def test_who_cannot_pay_leaves_with_all_he_owes_or_is_owed() -> None:
    """Dora owes Ana 100 and is owed 40 by Ben. Without her only Ana's 10 to Ben are left."""
    told = story(opened, broke)
    for command in (
        owes("dora", "ana", 100, "d"),
        owes("ben", "dora", 40, "e"),
        owes("ana", "ben", 10, "f"),
    ):
        told.and_then(command, *WORKER)
    closed(told, next="w2").when(ReservePositions("w1"), *WORKER)
    told.then(
        PartiesLeft((Departure("dora", "cannot-pay", "FOG", needed=60, available=0),)),
        ObligationsLeft(
            (Due("d", "dora", "ana", "FOG", 100, 1), Due("e", "ben", "dora", "FOG", 40, 1)),
        ),
        ObligationsMovedOn("w2"),
        ObligationsTaken("w1", 2, ("ana:FOG", "ben:FOG", "dora:FOG")),
        ObligationsCarried(
            "w1", (Due("d", "dora", "ana", "FOG", 100, 1), Due("e", "ben", "dora", "FOG", 40, 1))
        ),
        FundsHeld("window:w1", "FOG", 10),
        PositionsReserved(
            (
                NetPosition("ana", "FOG", 10, 0),  # Before, he was to receive 90.
                NetPosition("ben", "FOG", 0, 10),
                NetPosition("dora", "FOG", 0, 0),
            )
        ),
    )
    assert (names(page(told).dues), names(page(told, "w2").dues)) == (["f"], ["d", "e"])


def test_others_may_become_payers_who_cannot_pay_and_leave_as_well() -> None:
    """Dora owes Eve, who owes Fay, who owes Ana; none of the three has anything."""
    told = story(opened, wallet("dora"), wallet("eve"), wallet("fay"))
    for debtor, creditor in (("dora", "eve"), ("eve", "fay"), ("fay", "ana"), ("ana", "ben")):
        told.and_then(owes(debtor, creditor, 10, f"{debtor}.1"), *WORKER)
    closed(told, next="w2").when(ReservePositions("w1"), *WORKER)
    (left,) = outcome(told, PartiesLeft)
    assert [party.party for party in left.parties] == ["dora", "eve", "fay"]
    assert names(page(told).dues) == ["ana.1"]
    assert names(page(told, "w2").dues) == ["dora.1", "eve.1", "fay.1"]


def test_all_who_cannot_pay_leave_at_once_whatever_they_are_called() -> None:
    """X owes Y 10 and Y owes Z 10, but X owes Z 1,000 too. Y could pay if X were gone; so it is with other names."""

    def left(x: str, y: str, z: str) -> set[str]:
        told = story(village, OpenWindow("w1"), wallet(x), wallet(y, 4), wallet(z))
        for command in (owes(x, y, 5, "s"), owes(y, z, 10, "t"), owes(x, z, 1000, "u")):
            told.and_then(command, *WORKER)
        closed(told).when(ReservePositions("w1"))
        return {party.party for event in outcome(told, PartiesLeft) for party in event.parties}

    assert left("x", "y", "z") == {"x", "y"}
    assert left("z", "y", "x") == {"z", "y"}


def test_a_party_leaves_in_all_assets_when_it_cannot_pay_in_one() -> None:
    told = story(opened, DefineAsset("GPU", 0))
    told.and_then(owes("ana", "ben", 5, "g", asset="GPU"), *WORKER)
    told.and_then(owes("ana", "ben", 5, "f"), *WORKER)
    told.and_then(owes("ben", "cleo", 7, "h"), *WORKER)
    reserved(told)
    assert (names(page(told).dues), names(page(told).waiting)) == (["h"], ["g", "f"])


def test_a_frozen_wallet_pays_because_it_is_committed() -> None:
    told = three_in_a_ring(story(opened)).and_then(FreezeWallet("wallet:ana", "asked"))
    settled(told)
    assert (status(told), told.posted("wallet:ana")) == ("settled", FUNDS - 70)


@pytest.mark.parametrize("without", ["no wallet", "closed"])
def test_who_has_no_open_wallet_cannot_pay(without: str) -> None:
    told = story(opened)
    if without == "closed":
        told = story(opened, broke, (CloseWallet("wallet:dora"), "dora"))
    told.and_then(owes("dora", "ana", 1, "s"), *WORKER)
    closed(told).when(ReservePositions("w1"))
    assert outcome(told, PartiesLeft) == [PartiesLeft((Departure("dora", "cannot-pay", "FOG", 1, 0),))]


def test_what_is_held_for_others_does_not_pay() -> None:
    told = story(opened).and_then(owes("ana", "ben", FUNDS, "s"), "ana")
    told.and_then(PlaceHold("h1", "wallet:ana", "ben", 1, NOW + DAY), "ana")
    closed(told).when(ReservePositions("w1"))
    (left,) = outcome(told, PartiesLeft)
    assert left.parties == (Departure("ana", "cannot-pay", "FOG", FUNDS, FUNDS - 1),)


def test_with_fewer_than_two_parties_the_window_is_aborted_and_all_of_it_moves_on() -> None:
    told = story(opened, broke).and_then(owes("dora", "ana", 5, "d"), *WORKER)
    closed(told, next="w2").when(ReservePositions("w1"), *WORKER)
    told.then(
        PartiesLeft,
        ObligationsLeft,
        ObligationsMovedOn("w2"),
        ObligationsTaken,
        ObligationsCarried,
        ClearingChanged("w2", "", ()),
        WindowAborted("fewer than two parties can settle", NOW),
    )
    assert names(page(told, "w2").dues) == ["d"]


def test_an_empty_window_is_aborted() -> None:
    told = closed(story(opened)).when(ReservePositions("w1"), *WORKER)
    told.then(ClearingChanged("", "", ()), WindowAborted)


def test_debts_that_cancel_each_other_out_settle_without_a_payment() -> None:
    told = story(opened, broke, wallet("eve"))
    told.and_then(owes("dora", "eve", 5, "s"), *WORKER).and_then(owes("eve", "dora", 5, "t"), *WORKER)
    reserved(told).when(FinaliseSettlement("w1"), *WORKER)
    told.then(ObligationsSettled(("s", "t")), WindowSettled(2, 2, NOW), ClearingChanged("", "", ()))


def test_what_left_waits_when_no_window_is_open_and_moves_to_the_next_one() -> None:
    told = story(opened, broke)
    told.and_then(owes("dora", "ana", 5, "d"), *WORKER).and_then(owes("ana", "ben", 5, "e"), *WORKER)
    settled(told)
    assert names(page(told).waiting) == ["d"]
    assert desk(told) == Clearing("", "", ("w1",))
    told.when(OpenWindow("w2")).then(
        first_of("w2"),
        ClearingChanged("w2", "", ()),
        ObligationsMovedOn("w2"),
        ObligationsTaken("w1", 1, ("ana:FOG", "dora:FOG")),
        ObligationsCarried("w1", (Due("d", "dora", "ana", "FOG", 5, 1),)),
    )
    told.and_then(MintTokens("wallet:dora", 5, "gift", "g"))
    settled(told, "w2")
    assert (told.posted("wallet:dora"), told.posted("wallet:ana")) == (0, FUNDS)
    assert page(told).waiting == page(told, "w2").dues == ()


def test_two_windows_may_wait_for_the_next_one() -> None:
    told = story(opened, broke).and_then(owes("dora", "ana", 5, "d"), *WORKER)
    closed(told, next="w2").and_then(owes("ana", "ben", 5, "e"), *WORKER)
    told.and_then(AbortWindow("w2", "mistake")).and_then(ReservePositions("w1"))
    assert desk(told) == Clearing("", "", ("w2", "w1"))
    told.and_then(OpenWindow("w3"))
    assert names(page(told, "w3").dues) == ["e", "d"]
    assert desk(told) == Clearing("w3", "", ())


def test_pages_fill_up_one_after_the_other(bounds: Bounds) -> None:
    bounds(page=3)
    told = story(opened, broke)
    for number in range(8):
        debtor = "dora" if number % 2 else "ana"
        told.and_then(owes(debtor, "ben", 1, f"s{number}"), *WORKER)
    assert [names(page(told, number=n).dues) for n in range(3)] == [
        ["s0", "s1", "s2"],
        ["s3", "s4", "s5"],
        ["s6", "s7"],
    ]
    closed(told, next="w2").and_then(owes("ana", "cleo", 1, "t"), *WORKER)
    told.and_then(ReservePositions("w1"))
    assert [names(page(told, number=n).dues) for n in range(3)] == [["s0", "s2"], ["s4"], ["s6"]]
    assert [names(page(told, "w2", n).dues) for n in range(2)] == [["t", "s1", "s3"], ["s5", "s7"]]
    told.when(FinaliseSettlement("w1"))
    assert outcome(told, ObligationsSettled) == [
        ObligationsSettled(("s0", "s2")),
        ObligationsSettled(("s4",)),
        ObligationsSettled(("s6",)),
    ]


# Lapsing


def left_too_often(bounds: Bounds) -> Story:
    """Dora could not pay Ana in three windows in a row; obligations lapse after two."""
    bounds(most_carries=2)
    told = story(opened, broke).and_then(owes("dora", "ana", 5, "d"), *WORKER)
    for number in (1, 2, 3):
        reserved(told, f"w{number}", f"w{number + 1}")
    return told


def test_what_left_too_many_windows_lapses(bounds: Bounds) -> None:
    told = left_too_often(bounds)
    assert names(page(told, "w3").lapsed) == ["d"]
    assert page(told, "w3").waiting == page(told, "w4").dues == ()
    assert status(told, "w3") == "aborted"


@pytest.mark.parametrize("who", [("dora",), ("ana",), ("operator",), WORKER])
def test_it_is_renewed_by_those_it_concerns_and_settles_then(bounds: Bounds, who: tuple[str, ...]) -> None:
    told = left_too_often(bounds).and_then(MintTokens("wallet:dora", 5, "gift", "g"))
    told.when(RenewObligation("d", "w3"), *who).then(
        ObligationRenewed("d", "w4"),
        ObligationCounted("dora", "ana", "FOG", own=False),
        ObligationListed(Due("d", "dora", "ana", "FOG", 5, 0)),
    )
    settled(told, "w4")
    assert (told.posted("wallet:dora"), told.posted("wallet:ana")) == (0, FUNDS + 5)


def test_only_what_lapsed_is_renewed_and_only_once(bounds: Bounds) -> None:
    told = left_too_often(bounds)
    told.when(RenewObligation("d", "w2"), "ana").then(ObligationHasNotLapsed)
    told.when(RenewObligation("d", "w3"), "ben").then(ObligationNotFound)
    told.when(RenewObligation("x", "w3"), "ana").then(ObligationNotFound)
    told.and_then(RenewObligation("d", "w3"), "ana")
    told.when(RenewObligation("d", "w3"), "dora").then(ObligationHasNotLapsed)
    told.when(RenewObligation("d", "w4"), "dora").then(ObligationHasNotLapsed)


def test_it_is_renewed_into_an_open_window_that_has_room(bounds: Bounds) -> None:
    told = left_too_often(bounds)
    bounds(most_obligations=1)
    told.and_then(owes("ana", "ben", 5, "e"), *WORKER)
    told.when(RenewObligation("d", "w3"), "ana").then(WindowIsFull)
    closed(told, "w4").when(RenewObligation("d", "w3"), "ana").then(NoWindowIsOpen)


# Settling


def test_settlement_pays_all_net_positions_at_once_through_the_windows_account() -> None:
    told = reserved(three_in_a_ring(story(opened))).when(FinaliseSettlement("w1"), *WORKER)
    told.then(
        FundsUnheld("window:w1", "FOG", 70),
        Debited("FOG", 70, "window:w1", "settlement", "w1"),
        Credited("FOG", 70, "wallet:ana", "settlement", "w1"),
        Debited("FOG", 20, "wallet:ben", "settlement"),
        Credited("FOG", 20, "window:w1", "settlement"),
        Debited("FOG", 50, "wallet:cleo", "settlement"),
        Credited("FOG", 50, "window:w1", "settlement"),
        ObligationsSettled(("a", "b", "c")),
        WindowSettled(obligations=3, parties=3, at=NOW),
        ClearingChanged("", "", ()),
    )
    assert told.account("window:w1").empty
    assert [told.posted(f"wallet:{who}") - FUNDS for who in ("ana", "ben", "cleo")] == [-70, 20, 50]
    assert told.account("wallet:ana").held == {}
    assert system_total(told.book) == 0


def test_a_window_is_settled_once_and_after_its_positions_are_reserved() -> None:
    told = three_in_a_ring(story(opened))
    told.when(FinaliseSettlement("w1"), *WORKER).then(PositionsAreNotReserved)
    closed(told).when(FinaliseSettlement("w1"), *WORKER).then(PositionsAreNotReserved)
    told.when(FinaliseSettlement("w9"), *WORKER).then(WindowNotFound)
    told.and_then(ReservePositions("w1")).and_then(FinaliseSettlement("w1"))
    told.when(FinaliseSettlement("w1"), *WORKER).then()
    assert told.posted("wallet:ana") == FUNDS - 70


def test_a_settlement_cannot_be_reversed() -> None:
    told = settled(three_in_a_ring(story(opened)))
    told.when(ReverseTransaction(told.last_command, "sorry")).then(TransactionCannotBeReversed)


def test_a_closed_wallet_is_opened_again_by_what_it_receives() -> None:
    told = story(opened, broke).and_then(owes("ana", "dora", 5, "s"), "ana")
    told.and_then(CloseWallet("wallet:dora"), "dora")
    reserved(told).when(FinaliseSettlement("w1"))
    assert outcome(told, WalletReopened) == [WalletReopened()]
    assert told.posted("wallet:dora") == 5


def full_of_assets(told: Story, owner: str, number: int = MOST_ASSETS_AN_ACCOUNT) -> Story:
    for each in range(number):
        told.and_then(DefineAsset(f"ASSET{each}", 0))
        told.and_then(MintTokens(f"wallet:{owner}", 1, "gift", "", f"ASSET{each}"))
    return told


def gpu_window() -> Story:
    """Ana owes Dora a GPU token, and Ben 5 FOG."""
    told = story(
        opened, broke, DefineAsset("GPU", 0), (MintTokens("wallet:ana", 9, "-", "-", "GPU"), "operator")
    )
    told.and_then(owes("ana", "dora", 1, "g", asset="GPU"), "ana")
    return told.and_then(owes("ana", "ben", 5, "s"), "ana").and_then(owes("ben", "cleo", 7, "t"), "ben")


def test_who_cannot_receive_leaves_and_stops_nobody() -> None:
    told = full_of_assets(gpu_window(), "dora")
    closed(told, next="w2").when(ReservePositions("w1"))
    (left,) = outcome(told, PartiesLeft)
    assert left.parties == (Departure("dora", "cannot-receive", "GPU", 0, 0),)
    assert names(page(told).dues) == ["ana:s", "ben:t"]
    told.and_then(FinaliseSettlement("w1"))
    assert told.posted("wallet:ben") == FUNDS - 2


def test_one_more_asset_than_that_still_fits_as_well_as_the_zones_own_token() -> None:
    told = settled(full_of_assets(gpu_window(), "dora", MOST_ASSETS_AN_ACCOUNT - 1))
    assert told.posted("wallet:dora", "GPU") == 1
    told = story(opened, broke).and_then(owes("ana", "dora", 1, "g"), "ana")
    settled(full_of_assets(told, "dora"))
    assert told.posted("wallet:dora") == 1
    told.and_then(OpenWindow("w2")).and_then(owes("ana", "dora", 1, "h"), "ana")  # With 65 assets.
    settled(told, "w2")
    assert told.posted("wallet:dora") == 2


def test_a_wallet_that_filled_up_after_positions_were_reserved_stops_nobody_either() -> None:
    told = full_of_assets(reserved(gpu_window(), next="w2"), "dora")
    assert told.account("wallet:ana").held == {"FOG": 5, "GPU": 1}
    told.when(FinaliseSettlement("w1"), *WORKER)
    assert outcome(told, PartiesLeft) == [PartiesLeft((Departure("dora", "cannot-receive", "GPU", 0, 0),))]
    (again,) = outcome(told, PositionsReserved)
    assert again.positions == (
        NetPosition("ana", "FOG", 5, 0),
        NetPosition("ana", "GPU", 0, 0),
        NetPosition("ben", "FOG", 2, 0),
        NetPosition("cleo", "FOG", 0, 7),
        NetPosition("dora", "GPU", 0, 0),
    )
    assert outcome(told, WindowSettled) == [WindowSettled(2, 3, NOW)]
    assert told.account("wallet:ana").held == {}
    assert (told.posted("wallet:ana", "GPU"), told.posted("wallet:ana")) == (9, FUNDS - 5)
    assert names(page(told, "w2").dues) == ["ana:g"]


def test_when_nothing_is_left_at_the_end_the_window_is_aborted() -> None:
    told = story(
        opened, broke, DefineAsset("GPU", 0), (MintTokens("wallet:ana", 9, "-", "-", "GPU"), "operator")
    )
    told.and_then(owes("ana", "dora", 1, "g", asset="GPU"), "ana")
    told = full_of_assets(reserved(told, next="w2"), "dora")
    told.when(FinaliseSettlement("w1"), *WORKER)
    assert (status(told), told.account("wallet:ana").held) == ("aborted", {})
    assert names(page(told, "w2").dues) == ["ana:g"]


# Aborting


@pytest.mark.parametrize("at", ["open", "closed", "settling"])
def test_a_window_is_aborted_at_any_time_before_it_is_settled(at: str) -> None:
    told = three_in_a_ring(story(opened))
    if at != "open":
        closed(told)
    if at == "settling":
        told.and_then(ReservePositions("w1"))
    told.when(AbortWindow("w1", "a mistake"))
    released = [FundsUnheld("window:w1", "FOG", 70)] if at == "settling" else []
    told.then(
        *released,
        ClearingChanged("", "", ()),
        ObligationsLeft,
        ClearingChanged("", "", ("w1",)),
        WindowAborted("a mistake", NOW),
    )
    assert told.account("wallet:ana").held == {}
    told.and_then(OpenWindow("w2"))
    settled(told, "w2")
    assert [told.posted(f"wallet:{who}") - FUNDS for who in ("ana", "ben", "cleo")] == [-70, 20, 50]


def test_what_was_aborted_moves_to_the_open_window_and_is_not_nearer_to_lapsing() -> None:
    told = closed(three_in_a_ring(story(opened)), next="w2").and_then(AbortWindow("w1", "-"))
    assert [due.carries for due in page(told, "w2").dues] == [0, 0, 0]
    assert desk(told) == Clearing("w2", "", ())


def test_a_window_that_has_ended_is_not_aborted() -> None:
    told = settled(three_in_a_ring(story(opened)))
    told.when(AbortWindow("w1", "-")).refused_with(WindowHasEnded, status="settled")
    told.and_then(OpenWindow("w2")).and_then(AbortWindow("w2", "-"))
    told.when(AbortWindow("w2", "-")).refused_with(WindowHasEnded, status="aborted")
    told.when(AbortWindow("w3", "-")).then(WindowNotFound)


def test_reactions_to_a_window_that_was_aborted_decide_nothing() -> None:
    told = closed(three_in_a_ring(story(opened))).and_then(AbortWindow("w1", "-"))
    told.when(ReservePositions("w1"), *WORKER).then()
    told.when(FinaliseSettlement("w1"), *WORKER).then()


# Bounds


def test_the_largest_window_stays_small_and_quick() -> None:
    """2,000 obligations among 200 parties with the longest names; all fail first, then all is settled."""
    parties = [f"{number:03d}".rjust(64, "p") for number in range(200)]
    told = story(village, OpenWindow("w" * 62 + "-1"))
    for number in range(P.most_obligations):
        debtor, creditor = parties[number % 200], parties[(number * 7 + number // 200 + 1) % 200]
        if debtor == creditor:
            creditor = parties[(number + 1) % 200]
        source = f"{number:04d}".rjust(64, "s")
        told.book.issue(owes(debtor, creditor, 10**30 + number, source), *WORKER)
    begun = process_time()
    reserved(told, "w" * 62 + "-1", "w" * 62 + "-2")
    assert status(told, "w" * 62 + "-1") == "aborted"
    for party in parties:
        told.book.issue(MintTokens(FEES, 1, "-", "-"))
        told.book.issue(OpenWallet(f"wallet:{party}"), party)
        told.book.issue(MintTokens(f"wallet:{party}", 2 * 10**31, "-", "-"))
    settled(told, "w" * 62 + "-2")
    assert status(told, "w" * 62 + "-2") == "settled"
    assert process_time() - begun < 5, "the commands of the largest window take well below a second each"
    for _, event in told.book.events:
        assert len(event_encoder(type(event))(event)) < MOST_ENTRY_BYTES - 1_000, type(event)
    for name, state in told.book.states.items():
        stored = encode_json(state)
        assert len(stored) < MOST_ENTRY_BYTES, name
        if isinstance(state, Window | Page | Clearing):
            assert state_decoder(type(state))(stored) == state


def test_events_survive_being_stored() -> None:
    told = settled(three_in_a_ring(story(opened)))
    for _, event in told.book.events:
        assert decode_event(type(event).__name__, event_encoder(type(event))(event)) == event


# Pure functions


def test_net_positions_add_up_to_zero() -> None:
    dues = [Due("a", "x", "y", "FOG", 5), Due("b", "y", "z", "FOG", 5), Due("c", "x", "z", "GPU", 2)]
    assert netted(dues) == {
        ("x", "FOG"): -5,
        ("y", "FOG"): 0,
        ("z", "FOG"): 5,
        ("x", "GPU"): -2,
        ("z", "GPU"): 2,
    }


def test_a_long_chain_of_the_insolvent_is_looked_at_once_each() -> None:
    """p0 owes p1 owes p2 ...: each leaves in a round of its own, because it hoped for the one before it."""
    names = [f"p{number:03d}" for number in range(200)]
    dues = [Due(f"s{i}", names[i], names[i + 1], "FOG", 10) for i in range(199)]
    asked = 0

    def why_not(party: str, nets: Any) -> Departure | None:
        nonlocal asked
        asked += 1
        return Departure(party, "cannot-pay", "FOG", 10, 0) if nets["FOG"] < 0 else None

    staying, left = settleable(dues, why_not)
    assert staying == []
    assert [departure.party for departure in left] == names[:-1]
    assert asked <= 200 + 199
