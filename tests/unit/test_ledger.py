"""The ledger's commands, rules and traps."""

from __future__ import annotations

import inspect
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from domain import ledger
from domain._kernel import FOG, Unbalanced, balance
from domain.ledger import (
    Allocation,
    BurnTokens,
    CaptureHold,
    CloseWallet,
    Credited,
    Debited,
    DefineAsset,
    DistributeRewards,
    ExpireHold,
    FreezeWallet,
    FundsHeld,
    FundsUnheld,
    MintTokens,
    OpenWallet,
    PlaceHold,
    ReleaseHold,
    ReverseTransaction,
    TokensBurned,
    TokensMinted,
    Transfer,
    UnfreezeWallet,
)
from domain.platform import AdvanceClock, ClockAdvanced, ClockIsReal, CreateZone, ZoneExists
from tests.examples import FUNDS, funded, village, zone_created
from tests.scenario import START, Book, given

ANA, BEN = "wallet:ana", "wallet:ben"
HOUR = timedelta(hours=1)
ana_pays_ben = Transfer(ANA, BEN, 100)
hold_placed: Any = (PlaceHold("h1", ANA, "ben", 300, START + HOUR), "ana")


def posted(book: Book, account: str, asset: str = FOG) -> int:
    return int(book.read(ledger.accounts, account).posted.get(asset, 0))


def available(book: Book, account: str) -> int:
    return int(book.read(ledger.accounts, account).available(FOG))


def remaining(book: Book, hold: str = "h1") -> int:
    return int(book.read(ledger.holds, hold).remaining)


# The zone


def test_a_zone_begins_with_its_clock_and_its_token() -> None:
    scenario = given().when(CreateZone("main"))
    assert scenario.book.read(ledger.assets, FOG).scale == 6
    scenario.when(CreateZone("main")).then(ZoneExists)
    scenario.when(AdvanceClock()).then(ClockIsReal)
    given(zone_created).when(AdvanceClock()).then(ClockAdvanced(START))


# Assets


def test_an_asset_is_defined_once() -> None:
    scenario = given(zone_created).when(DefineAsset("GPU", 2, 500)).then(ledger.AssetDefined(2, 500))
    scenario.when(DefineAsset("GPU", 2)).then(ledger.AssetExists)
    scenario.when(DefineAsset("WEI", 19)).then(ledger.ScaleIsTooLarge)


def test_the_supply_stays_within_the_cap() -> None:
    scenario = given(village, DefineAsset("GPU", 0, 500), MintTokens(ANA, 500, "grant", "r", "GPU"))
    scenario.when(MintTokens(ANA, 1, "grant", "r", "GPU")).then(ledger.CapExceeded)
    scenario.when(BurnTokens(ANA, 1, "spent", asset="GPU"), "ana")
    scenario.when(MintTokens(ANA, 1, "grant", "r", "GPU"))
    assert scenario.book.read(ledger.assets, "GPU").supply == 500


def test_an_unknown_asset_is_neither_minted_nor_burned() -> None:
    given(village).when(MintTokens(ANA, 1, "grant", "r", "NOPE")).then(ledger.AssetIsUnknown)
    given(village).when(BurnTokens(ANA, 1, "spent", asset="NOPE"), "ana").then(ledger.AssetIsUnknown)


# Wallets


def test_opening_a_wallet_mints_nothing() -> None:
    scenario = given(zone_created).when(OpenWallet(ANA), "ana").then(ledger.WalletOpened("ana"))
    assert posted(scenario.book, ANA) == 0
    assert scenario.book.read(ledger.assets, FOG).minted == 0


def test_a_principal_opens_wallets_of_his_own_name_only() -> None:
    given(zone_created).when(OpenWallet("wallet:ana:savings"), "ana").then(ledger.WalletOpened("ana"))
    given(zone_created).when(OpenWallet(BEN), "ana").then(ledger.WalletBelongsToAnother)
    given(zone_created).when(OpenWallet("pool:rewards"), "ana").then(ledger.WalletBelongsToAnother)
    given(zone_created).when(OpenWallet("treasury")).then(ledger.WalletBelongsToAnother)


def test_a_wallet_is_opened_once() -> None:
    given(village).when(OpenWallet(ANA), "ana").then(ledger.WalletExists)


def test_a_frozen_wallet_starts_no_payment_but_receives() -> None:
    scenario = given(village, FreezeWallet(ANA, "inquiry"))
    scenario.when(ana_pays_ben, "ana").then(ledger.WalletIsFrozen)
    scenario.when(PlaceHold("h1", ANA, "ben", 5, START + HOUR), "ana").then(ledger.WalletIsFrozen)
    scenario.when(BurnTokens(ANA, 5, "spent"), "ana").then(ledger.WalletIsFrozen)
    scenario.when(CloseWallet(ANA), "ana").then(ledger.WalletIsFrozen)
    scenario.when(Transfer(BEN, ANA, 5), "ben").then(Debited, Credited)


def test_what_a_frozen_owner_committed_before_goes_on() -> None:
    scenario = given(village, hold_placed, FreezeWallet(ANA, "inquiry"))
    scenario.when(CaptureHold("h1", 300, BEN), "ben")
    assert posted(scenario.book, BEN) == FUNDS + 300


def test_freezing_again_changes_nothing_and_unfreezing_needs_a_frozen_wallet() -> None:
    scenario = given(village, FreezeWallet(ANA, "inquiry")).when(FreezeWallet(ANA, "again")).then()
    scenario.when(UnfreezeWallet(ANA, "over")).then(ledger.WalletUnfrozen("over"))
    scenario.when(UnfreezeWallet(ANA, "over")).then(ledger.WalletIsNotFrozen)
    scenario.when(ana_pays_ben, "ana").then(Debited, Credited)
    scenario.when(UnfreezeWallet("wallet:nobody", "over")).then(ledger.WalletNotFound)
    scenario.when(FreezeWallet("wallet:nobody", "inquiry")).then(ledger.WalletNotFound)
    scenario.when(FreezeWallet("treasury", "inquiry")).then(ledger.WalletNotFound)


def test_a_wallet_closes_only_at_zero() -> None:
    given(village).when(CloseWallet(ANA), "ana").then(ledger.WalletIsNotEmpty)
    given(village).when(CloseWallet("treasury")).then(ledger.WalletNotFound)
    scenario = given(zone_created, (OpenWallet(ANA), "ana")).when(CloseWallet(ANA), "ben")
    scenario.then(ledger.WalletNotFound)
    scenario.when(CloseWallet(ANA), "ana").then(ledger.WalletClosed())
    scenario.when(CloseWallet(ANA), "ana").then(ledger.WalletNotFound)
    scenario.when(OpenWallet(ANA), "ana").then(ledger.WalletReopened())


def test_a_payout_that_is_owed_reopens_a_closed_wallet() -> None:
    book = given(village, (Transfer(ANA, BEN, FUNDS), "ana"), (CloseWallet(ANA), "ana")).book
    events = book.issue(DistributeRewards("d1", "harvest", ledger.REWARDS, (Allocation(ANA, 7),)))
    assert ledger.WalletReopened() in events
    assert book.read(ledger.accounts, ANA).status == "open"
    assert posted(book, ANA) == 7


# Minting and burning


def test_a_mint_counts_in_the_supply_and_comes_from_the_world() -> None:
    scenario = given(zone_created, (OpenWallet(ANA), "ana"))
    scenario.when(MintTokens(ANA, 5, "grant", "r1")).then(
        TokensMinted(5, ANA, "grant", "r1"),
        Debited(FOG, 5, ANA, "mint", "r1"),
        Credited(FOG, 5, ledger.WORLD, "mint", "r1"),
    )
    assert posted(scenario.book, ledger.WORLD) == -5
    assert scenario.book.read(ledger.assets, FOG).supply == 5


def test_minting_needs_an_open_wallet_or_a_public_fund() -> None:
    given(zone_created).when(MintTokens("wallet:nobody", 5, "grant", "r")).then(ledger.AccountIsNotOpen)
    for reserved in (
        ledger.BONDED,
        ledger.UNBONDING,
        ledger.STAKING,
        ledger.WORLD,
        "escrow:c1",
        "window:w1",
        "bridge:z",
    ):
        given(zone_created).when(MintTokens(reserved, 5, "grant", "r")).then(ledger.AccountIsReserved)


def test_burning_lowers_the_supply() -> None:
    scenario = given(village)
    supply = scenario.book.read(ledger.assets, FOG).supply
    events = scenario.when(BurnTokens(ANA, 5, "spent"), "ana").outcome
    assert TokensBurned(5, ANA, "spent", "") in events  # type: ignore[operator]
    assert scenario.book.read(ledger.assets, FOG).supply == supply - 5
    scenario.when(BurnTokens(BEN, 5, "spent"), "ana").then(ledger.WalletNotFound)


# Transfers


def test_a_transfer_moves_and_nothing_is_lost() -> None:
    scenario = given(village).when(Transfer(ANA, BEN, 100, memo="lunch"), "ana")
    scenario.then(
        Debited(FOG, 100, BEN, "transfer", memo="lunch"), Credited(FOG, 100, ANA, "transfer", memo="lunch")
    )
    assert (posted(scenario.book, ANA), posted(scenario.book, BEN)) == (FUNDS - 100, FUNDS + 100)


@pytest.mark.parametrize("amount", [-50, 0])
def test_a_negative_transfer_steals_nothing(amount: int) -> None:
    scenario = given(village).when(Transfer(ANA, BEN, amount), "ana").then(ledger.AmountMustBePositive)
    assert posted(scenario.book, BEN) == FUNDS


def test_an_exact_balance_can_be_spent_and_not_one_unit_more() -> None:
    given(village).when(Transfer(ANA, BEN, FUNDS + 1), "ana").then(ledger.InsufficientFunds)
    scenario = given(village).when(Transfer(ANA, BEN, FUNDS), "ana")
    assert posted(scenario.book, ANA) == 0
    scenario.when(Transfer(ANA, BEN, 1), "ana").then(ledger.InsufficientFunds)


def test_a_refusal_says_what_is_missing() -> None:
    refused = given(village).when(Transfer(ANA, BEN, FUNDS + 1), "ana").outcome
    assert isinstance(refused, ledger.InsufficientFunds)
    assert refused.facts == {"account": ANA, "asset": FOG, "available": FUNDS, "needed": FUNDS + 1}


def test_nobody_spends_from_a_foreign_wallet_not_even_the_operator() -> None:
    given(village).when(Transfer(BEN, ANA, 1), "ana").then(ledger.WalletNotFound)
    given(village).when(Transfer(BEN, ANA, 1), "operator").then(ledger.WalletNotFound)
    given(village).when(Transfer("wallet:nobody", ANA, 1), "nobody").then(ledger.WalletNotFound)


def test_public_funds_are_spent_by_operators_and_pools_by_nobody() -> None:
    given(village).when(Transfer(ledger.TREASURY, ANA, 1), "ana").then(ledger.WalletNotFound)
    given(village).when(Transfer(ledger.TREASURY, ANA, 1)).then(Debited, Credited)
    for reserved in (ledger.BONDED, ledger.UNBONDING, ledger.STAKING, ledger.WORLD, "escrow:c1"):
        given(village).when(Transfer(reserved, ANA, 1)).then(ledger.AccountIsReserved)
        given(village).when(Transfer(ANA, reserved, 1), "ana").then(ledger.AccountIsReserved)


def test_an_account_does_not_pay_itself() -> None:
    given(village).when(Transfer(ANA, ANA, 1), "ana").then(ledger.TransferToItself)


def test_a_transfer_needs_an_open_receiver() -> None:
    given(village).when(Transfer(ANA, "wallet:nobody", 1), "ana").then(ledger.AccountIsNotOpen)


def test_an_account_holds_a_bounded_number_of_assets() -> None:
    codes = [f"A{number}" for number in range(ledger.MOST_ASSETS_AN_ACCOUNT)]
    minted = [(DefineAsset(code, 0), MintTokens(ANA, 1, "grant", "r", code)) for code in codes]
    book = given(village, *minted[:-1]).book
    given_last = [DefineAsset(codes[-1], 0)]
    for command in given_last:
        book.issue(command)
    with pytest.raises(ledger.TooManyAssets):
        book.issue(MintTokens(ANA, 1, "grant", "r", codes[-1]))


def test_the_zones_own_token_fits_into_a_full_wallet() -> None:
    """Otherwise rewards could not be settled, and a slash that settles them would be refused."""
    codes = [f"A{number}" for number in range(ledger.MOST_ASSETS_AN_ACCOUNT)]
    minted = [(DefineAsset(code, 0), MintTokens("wallet:cleo", 1, "grant", "r", code)) for code in codes]
    book = given(village, (OpenWallet("wallet:cleo"), "cleo"), *minted).book
    book.issue(Transfer(ANA, "wallet:cleo", 5), "ana")
    assert posted(book, "wallet:cleo") == 5


# Holds


def test_a_hold_sets_funds_aside() -> None:
    scenario = given(village).when(PlaceHold("h1", ANA, "ben", 300, START + HOUR), "ana")
    scenario.then(ledger.HoldPlaced, FundsHeld("h1", FOG, 300))
    assert (posted(scenario.book, ANA), available(scenario.book, ANA)) == (FUNDS, FUNDS - 300)
    scenario.when(Transfer(ANA, BEN, FUNDS - 299), "ana").then(ledger.InsufficientFunds)
    scenario.when(PlaceHold("h2", ANA, "ben", FUNDS - 299, START + HOUR), "ana").then(
        ledger.InsufficientFunds
    )
    scenario.when(Transfer(ANA, BEN, FUNDS - 300), "ana").then(Debited, Credited)


def test_a_hold_has_its_own_name_and_a_future() -> None:
    given(village, hold_placed).when(hold_placed[0], "ana").then(ledger.HoldExists)
    given(village).when(PlaceHold("h1", ANA, "ben", 1, START), "ana").then(ledger.ExpiryIsPast)
    given(village).when(PlaceHold("h1", BEN, "ana", 1, START + HOUR), "ana").then(ledger.WalletNotFound)


def test_a_rejected_hold_is_not_capturable() -> None:
    scenario = given(village).when(PlaceHold("h1", ANA, "ben", FUNDS + 1, START + HOUR), "ana")
    scenario.then(ledger.InsufficientFunds)
    scenario.when(CaptureHold("h1", 1, BEN), "ben").then(ledger.HoldNotFound)


def test_only_the_payee_captures_and_to_himself() -> None:
    scenario = given(village, funded("cleo"), hold_placed)
    scenario.when(CaptureHold("h1", 1, "wallet:cleo"), "cleo").then(ledger.HoldNotFound)
    scenario.when(CaptureHold("h1", 1, ANA), "ana").then(ledger.CaptureGoesToThePayee)
    scenario.when(CaptureHold("h1", 1, "wallet:cleo"), "ben").then(ledger.CaptureGoesToThePayee)
    scenario.when(CaptureHold("h1", 1, BEN)).then(ledger.HoldNotFound)


def test_a_partial_capture_leaves_the_rest_held() -> None:
    scenario = given(village, hold_placed).when(CaptureHold("h1", 100, BEN, final=False), "ben")
    assert (remaining(scenario.book), available(scenario.book, ANA)) == (200, FUNDS - 300)
    scenario.when(CaptureHold("h1", 201, BEN), "ben").then(ledger.CaptureExceedsHold)
    scenario.when(CaptureHold("h1", 200, BEN), "ben")
    assert (remaining(scenario.book), posted(scenario.book, BEN)) == (0, FUNDS + 300)
    assert not scenario.book.read(ledger.accounts, ANA).held


def test_a_final_capture_gives_the_rest_back_and_the_second_of_two_racing_ones_is_refused() -> None:
    scenario = given(village, hold_placed).when(CaptureHold("h1", 100, BEN), "ben")
    scenario.then(ledger.HoldCaptured, FundsUnheld, Debited, Credited, ledger.HoldReleased(200), FundsUnheld)
    assert available(scenario.book, ANA) == FUNDS - 100
    scenario.when(CaptureHold("h1", 100, BEN), "ben").then(ledger.HoldIsClosed)


def test_a_capture_is_positive() -> None:
    given(village, hold_placed).when(CaptureHold("h1", -1, BEN), "ben").then(ledger.AmountMustBePositive)


def test_nothing_is_captured_at_or_after_the_expiry_timer_or_not() -> None:
    given(village, hold_placed).when(CaptureHold("h1", 1, BEN), "ben", after=HOUR).then(ledger.HoldHasExpired)


def test_a_hold_is_released_once_by_its_payee() -> None:
    scenario = given(village, hold_placed).when(ReleaseHold("h1"), "ana").then(ledger.HoldHasNotExpired)
    scenario.when(ReleaseHold("h1"), "cleo").then(ledger.HoldNotFound)
    scenario.when(ReleaseHold("h1"), "ben").then(ledger.HoldReleased(300), FundsUnheld("h1", FOG, 300))
    scenario.when(ReleaseHold("h1"), "ben").then(ledger.HoldIsClosed)
    scenario.when(CaptureHold("h1", 1, BEN), "ben").then(ledger.HoldIsClosed)
    assert available(scenario.book, ANA) == FUNDS


def test_once_expired_the_owner_takes_his_hold_back_himself() -> None:
    scenario = given(village, hold_placed).when(ReleaseHold("h1"), "ana", after=HOUR)
    scenario.then(ledger.HoldReleased, FundsUnheld)


def test_the_timer_expires_a_hold_once_and_not_early() -> None:
    scenario = given(village, hold_placed).when(ExpireHold("h1"), "timer", "worker")
    scenario.then(ledger.HoldHasNotExpired)
    scenario.when(ExpireHold("h1"), "timer", "worker", after=HOUR).then(ledger.HoldExpired(300), FundsUnheld)
    scenario.when(ExpireHold("h1"), "timer", "worker").then()
    scenario.when(ExpireHold("h9"), "timer", "worker").then(ledger.HoldNotFound)


def test_a_hold_for_oneself_moves_nothing_when_captured() -> None:
    scenario = given(village).when(PlaceHold("h1", ANA, "ana", 10, START + HOUR), "ana")
    scenario.when(CaptureHold("h1", 10, ANA), "ana").then(ledger.HoldCaptured, FundsUnheld)
    assert available(scenario.book, ANA) == FUNDS


@pytest.mark.parametrize("amount", [0, -1, -50])
def test_no_command_takes_an_amount_below_one(amount: int) -> None:
    """Trap: what is refused at the edge is refused here too, whoever calls a decision."""
    for_himself: Any = (PlaceHold("own", ANA, "ana", 10, START + HOUR), "ana")
    for command, by in (
        (Transfer(ANA, BEN, amount), "ana"),
        (MintTokens(ANA, amount, "grant", "r"), "operator"),
        (BurnTokens(ANA, amount, "spent"), "ana"),
        (PlaceHold("h2", ANA, "ben", amount, START + HOUR), "ana"),
        (CaptureHold("h1", amount, BEN), "ben"),
        (CaptureHold("own", amount, ANA), "ana"),
        (DistributeRewards("d1", "harvest", ledger.REWARDS, (Allocation(ANA, amount),)), "operator"),
    ):
        scenario = given(village, hold_placed, for_himself)
        before = dict(scenario.book.states)
        scenario.when(command, by).then(ledger.AmountMustBePositive)
        assert scenario.book.states == before


# Reversals


def paid() -> tuple[Book, str]:
    book = given(village).book
    book.issue(ana_pays_ben, "ana")
    return book, f"c{book.commands}"


def test_a_reversal_moves_everything_back_once() -> None:
    book, transaction = paid()
    book.issue(ReverseTransaction(transaction, "mistake"))
    assert (posted(book, ANA), posted(book, BEN)) == (FUNDS, FUNDS)
    with pytest.raises(ledger.TransactionIsReversed):
        book.issue(ReverseTransaction(transaction, "again"))


def test_a_reversal_is_not_itself_reversed() -> None:
    book, transaction = paid()
    book.issue(ReverseTransaction(transaction, "mistake"))
    with pytest.raises(ledger.Rejected):
        book.issue(ReverseTransaction(f"c{book.commands}", "back again"))
    assert (posted(book, ANA), posted(book, BEN)) == (FUNDS, FUNDS)


def test_what_did_more_than_move_value_is_not_reversed() -> None:
    book = given(village).book
    book.issue(MintTokens(ANA, 5, "grant", "r"))
    with pytest.raises(ledger.TransactionCannotBeReversed):
        book.issue(ReverseTransaction(f"c{book.commands}", "mistake"))
    with pytest.raises(ledger.TransactionNotFound):
        book.issue(ReverseTransaction("c999", "mistake"))


def test_a_reversal_needs_the_money_to_be_there_still() -> None:
    book, transaction = paid()
    book.issue(Transfer(BEN, "treasury", FUNDS + 100), "ben")
    with pytest.raises(ledger.InsufficientFunds):
        book.issue(ReverseTransaction(transaction, "mistake"))


# Distributions


def test_a_distribution_pays_many_and_its_dust_goes_to_the_community() -> None:
    allocations = (Allocation(ANA, 33), Allocation(BEN, 33), Allocation("wallet:new", 33))
    scenario = given(village).when(DistributeRewards("d1", "harvest", ledger.REWARDS, allocations, 100))
    book = scenario.book
    assert posted(book, "wallet:new") == 33
    assert posted(book, ledger.COMMUNITY) == 1
    assert posted(book, ledger.REWARDS) == FUNDS - 100
    scenario.when(DistributeRewards("d1", "harvest", ledger.REWARDS, allocations, 100)).then(
        ledger.DistributionExists
    )


def test_a_distribution_is_bounded_and_covered() -> None:
    def distribute(*allocations: Allocation, total: int = 0, pool: str = ledger.REWARDS) -> DistributeRewards:
        return DistributeRewards("d1", "harvest", pool, allocations, total)

    one = Allocation(ANA, 1)
    given(village).when(distribute()).then(ledger.NumberOfAllocationsIsOutOfRange)
    many = distribute(*[one] * (ledger.MOST_ALLOCATIONS + 1))
    given(village).when(many).then(ledger.NumberOfAllocationsIsOutOfRange)
    given(village).when(distribute(Allocation(ANA, 5), total=4)).then(ledger.AllocationsExceedTotal)
    given(village).when(distribute(Allocation(ANA, FUNDS + 1))).then(ledger.InsufficientFunds)
    given(village).when(distribute(Allocation(ledger.BONDED, 1))).then(ledger.AccountIsReserved)
    given(village).when(distribute(one, pool=ledger.BONDED)).then(ledger.AccountIsReserved)
    given(village).when(distribute(one, pool=BEN), "ana").then(ledger.WalletNotFound)


def test_an_unbalanced_command_would_be_noticed() -> None:
    assert balance([(ledger.accounts(ANA), Credited(FOG, 1, ledger.WORLD, "mint"))]) == {FOG: 1}
    assert issubclass(Unbalanced, AssertionError)


def test_fees_arrive_where_they_are_paid_to() -> None:
    """Trap: fees vanished."""
    scenario = given(village).when(Transfer(ANA, ledger.FEES, 7, purpose="fee"), "ana")
    assert posted(scenario.book, ledger.FEES) == 7
    scenario.when(Transfer(ledger.FEES, ledger.TREASURY, 7)).then(Debited, Credited)


def test_a_refused_command_leaves_no_trace() -> None:
    """The third of three payments cannot be made, so neither are the first two."""
    allocations = (Allocation("wallet:new", 1), Allocation(BEN, 1), Allocation(ANA, FUNDS))
    scenario = given(village)
    before, events = dict(scenario.book.states), list(scenario.book.events)
    scenario.when(DistributeRewards("d1", "harvest", ledger.REWARDS, allocations))
    scenario.then(ledger.InsufficientFunds)
    assert (scenario.book.states, scenario.book.events) == (before, events)


def test_a_distribution_from_the_community_pool_leaves_its_dust_there() -> None:
    scenario = given(village, MintTokens(ledger.COMMUNITY, 100, "budget", ""))
    scenario.when(DistributeRewards("d1", "grant", ledger.COMMUNITY, (Allocation(ANA, 30),), 50))
    assert isinstance(scenario.outcome, list)
    assert scenario.outcome[0] == ledger.RewardsDistributed("grant", ledger.COMMUNITY, FOG, 30, 0, 1)
    assert posted(scenario.book, ledger.COMMUNITY) == 70


def test_a_reversed_distribution_comes_back_from_everybody() -> None:
    book = given(village).book
    allocations = (Allocation(ANA, 3), Allocation(BEN, 4))
    book.issue(DistributeRewards("d1", "harvest", ledger.REWARDS, allocations, 10))
    book.issue(ReverseTransaction(f"c{book.commands}", "wrong list"))
    places = (ANA, BEN, ledger.REWARDS, ledger.COMMUNITY)
    assert [posted(book, place) for place in places] == [FUNDS, FUNDS, FUNDS, 0]


def test_a_hold_that_ended_stays_ended_whichever_way_it_ended() -> None:
    """Traps: refunds and voids were repeatable; a released hold was still capturable."""
    for ending in (ReleaseHold("h1"), CaptureHold("h1", 300, BEN)):
        scenario = given(village, hold_placed, (ending, "ben"))
        before = dict(scenario.book.states)
        for again in (ReleaseHold("h1"), CaptureHold("h1", 1, BEN)):
            scenario.when(again, "ben").then(ledger.HoldIsClosed)
        scenario.when(ExpireHold("h1"), "timer", "worker", after=HOUR).then()
        assert scenario.book.states == before


def test_every_rule_of_the_ledger_is_broken_here() -> None:
    rules = [
        rule.__name__
        for _, rule in inspect.getmembers(ledger, inspect.isclass)
        if issubclass(rule, ledger.Rejected) and rule.__module__ == ledger.__name__
    ]
    source = Path(__file__).read_text()
    assert [rule for rule in rules if f"ledger.{rule}" not in source] == []


def test_taking_all_that_remains_ends_a_hold_even_where_the_capture_is_not_called_final() -> None:
    scenario = given(village, hold_placed).when(CaptureHold("h1", 300, BEN, final=False), "ben")
    scenario.then(ledger.HoldCaptured(300, BEN, True), FundsUnheld, Debited, Credited)
    scenario.when(CaptureHold("h1", 1, BEN), "ben").then(ledger.HoldIsClosed)


@pytest.mark.parametrize(
    "command",
    [
        DefineAsset("village/FOG", 6),
        MintTokens("wallet:ana", 5, "gift", "", "village/FOG"),
        BurnTokens("wallet:ana", 5, "old", "", "village/FOG"),
    ],
)
def test_vouchers_of_another_zone_are_nobodys_to_make_or_destroy(command: Any) -> None:
    by = "ana" if isinstance(command, BurnTokens) else "operator"
    given(village).when(command, by=by).then(ledger.VoucherOfAnotherZone)
