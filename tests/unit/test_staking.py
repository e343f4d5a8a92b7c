"""Staking's commands, rules and traps, as sentences.

The history behind most of them: v1 (val, commission 10 %) and v2 (vic, none) stake 1,000 each; ana delegates.
"""

from __future__ import annotations

import inspect
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from domain import ledger, staking
from domain._kernel import BASIS_POINTS, FOG, Rejected
from domain.ledger import (
    BONDED,
    COMMUNITY,
    REWARDS,
    STAKING,
    TREASURY,
    UNBONDING,
    WORLD,
    Account,
    AmountMustBePositive,
    CloseWallet,
    Credited,
    Debited,
    DefineAsset,
    FreezeWallet,
    MintTokens,
    OpenWallet,
    TokensBurned,
    Transfer,
    WalletIsFrozen,
    WalletOpened,
    WalletReopened,
)
from domain.staking import (
    RATIO_SCALE,
    AllocateRewards,
    AllocationMade,
    AmountIsTooSmall,
    AppealDecided,
    AppealExists,
    AppealIsNotOpen,
    AppealSlash,
    AutoCompoundSet,
    BeginUnbonding,
    CancelUnbonding,
    ClaimRewards,
    CommissionWithdrawn,
    CompleteUnbonding,
    CompoundDue,
    DecideAppeal,
    Delegate,
    Delegated,
    EditValidator,
    EvidenceWasUsed,
    ExpireLock,
    Jail,
    LockExpired,
    LockHasNotExpired,
    Lot,
    P,
    Position,
    PositionNotFound,
    Power,
    Redelegate,
    RedelegationBegan,
    RegisterValidator,
    RewardsSettled,
    SetAutoCompound,
    SharesBurned,
    SharesIssued,
    Slash,
    SlashAppealed,
    Slashed,
    SlashKindIsUnknown,
    TokensRestored,
    TokensSlashed,
    TooManyLots,
    UnbondingBegan,
    UnbondingCancelled,
    UnbondingCompleted,
    UnbondingSlashed,
    Undelegated,
    Unjail,
    Validator,
    ValidatorEdited,
    ValidatorIsJailed,
    ValidatorJailed,
    ValidatorJoined,
    ValidatorNotFound,
    ValidatorRegistered,
    ValidatorRewarded,
    Victim,
    VictimsListed,
    WeightReduced,
    WithdrawCommission,
    ratio_rise,
    validator_sets,
    validators,
)
from tests import examples
from tests.examples import FUNDS, HOUR, NOW, WEEK, Story, funded, story, validator, wallet
from tests.scenario import START, Book, Scenario, given

MICROSECOND, SECOND, DAY = timedelta(microseconds=1), timedelta(seconds=1), timedelta(days=1)
village: Any = (examples.village, funded("val", "vic"))
v1_registered: Any = (RegisterValidator("v1", 1_000, 1_000), "val")
v2_registered: Any = (RegisterValidator("v2", 1_000, 0), "vic")
ana_delegated: Any = (Delegate("v1", 1_000), "ana")
v1_jailed: Any = Jail("v1", "maintenance")
two_validators: Any = (village, v1_registered, v2_registered)
staked: Any = (two_validators, ana_delegated)


def posted(book: Book, account: str) -> int:
    return int(book.read(ledger.accounts, account).posted.get(FOG, 0))


def pool(book: Book, validator: str = "v1") -> staking.Validator:
    state = book.read(staking.validators, validator)
    assert isinstance(state, staking.Validator)
    return state


def position(book: Book, validator: str, delegator: str) -> staking.Position:
    state = book.read(staking.positions, f"{validator}:{delegator}")
    assert isinstance(state, staking.Position)
    return state


def entries(book: Book, validator: str = "v1") -> dict[str, staking.Entry]:
    return dict(book.read(staking.unbondings, validator).entries)


def slashed(evidence: str = "e1", validator: str = "v1", kind: str = "double-sign", at: Any = START) -> Slash:
    return Slash(validator, kind, at, evidence)


def begun(scenario: Scenario, command: Any, by: str = "ana") -> str:
    """Issue a command that opens an entry or a lot; its id is the command's."""
    scenario.when(command, by)
    assert isinstance(scenario.outcome, list), scenario.outcome
    return f"c{scenario.book.commands}"


def victims(book: Book, evidence: str = "e1") -> list[Victim]:
    return list(book.read(staking.slashes, evidence).victims)


# Validators


def test_a_validator_registers_with_a_stake_of_its_own() -> None:
    book = given(village, v1_registered).book
    assert (pool(book).tokens, pool(book).shares, pool(book).operator) == (1_000, 1_000, "val")
    assert (posted(book, BONDED), posted(book, "wallet:val")) == (1_000, FUNDS - 1_000)


def test_a_validator_registers_once() -> None:
    given(village, v1_registered).when(RegisterValidator("v1", 5), "ana").then(staking.ValidatorExists)


def test_a_validator_needs_its_minimum_and_an_allowed_commission() -> None:
    given(village).when(RegisterValidator("v1", 9, 0, 10), "val").then(staking.SelfStakeIsTooLow)
    given(village).when(RegisterValidator("v1", 9, 2_001), "val").then(staking.CommissionIsTooHigh)
    given(village).when(RegisterValidator("v1", FUNDS + 1), "val").then(ledger.InsufficientFunds)


def test_the_validator_set_is_bounded() -> None:
    full = [
        (staking.validator_sets("all"), staking.ValidatorJoined(f"x{n}")) for n in range(P.most_validators)
    ]
    given(village, full).when(RegisterValidator("v1", 9), "val").then(staking.TooManyValidators)


def test_nobody_takes_all_places_of_the_validator_set_alone() -> None:
    own = [(RegisterValidator(f"x{n}", 1), "ana") for n in range(P.most_validators_an_operator)]
    scenario = given(village, own)
    scenario.when(RegisterValidator("one-more", 1), "ana").then(staking.OperatorHasTooManyValidators)
    scenario.when(RegisterValidator("v1", 1), "ben")
    assert isinstance(scenario.outcome, list)


def test_a_commission_moves_one_point_a_day() -> None:
    scenario = given(village, v1_registered)
    scenario.when(EditValidator("v1", 1_101), "val", after=DAY).then(staking.CommissionChangesTooFast)
    scenario.when(EditValidator("v1", 1_100), "val").then(staking.ValidatorEdited)
    scenario.when(EditValidator("v1", 1_101), "val", after=DAY - SECOND)
    scenario.then(staking.CommissionChangesTooFast)
    scenario.when(EditValidator("v1", 1_101), "val", after=SECOND).then(staking.ValidatorEdited)
    scenario.when(EditValidator("v1", 2_001), "val", after=DAY).then(staking.CommissionIsTooHigh)


def test_only_its_operator_edits_a_validator_and_editing_nothing_changes_nothing() -> None:
    given(village, v1_registered).when(EditValidator("v1", 1_000), "ana").then(staking.ValidatorNotFound)
    given(village, v1_registered).when(EditValidator("v1", 1_000), "val").then()
    given(village).when(EditValidator("v9", 1_000), "val").then(staking.ValidatorNotFound)


# Delegating


def test_a_delegation_moves_the_tokens_and_issues_shares() -> None:
    book = given(staked).book
    assert (pool(book).tokens, pool(book).shares) == (2_000, 2_000)
    assert posted(book, BONDED) == 3_000
    assert position(book, "v1", "ana").shares == 1_000


def test_after_a_slash_a_token_buys_more_shares_rounded_down() -> None:
    scenario = given(staked, slashed(), slashed("e2", "v2")).book
    tokens, shares = pool(scenario, "v2").tokens, pool(scenario, "v2").shares
    assert (tokens, shares) == (950, 1_000)
    book = given(two_validators, staking_lowered("v2", 50)).when(Delegate("v2", 100), "ana").book
    assert position(book, "v2", "ana").shares == 100 * 1_000 // 950


def staking_lowered(validator: str, tokens: int) -> Any:
    """A slash's effect on a pool and its account, without the jail."""

    class _History:
        def __iter__(self) -> Any:
            yield (
                staking.validators(validator),
                staking.TokensSlashed("e0", "downtime", tokens, START),
            )
            yield (ledger.accounts(BONDED), ledger.Debited(FOG, tokens, WORLD, "burn"))
            yield (ledger.accounts(WORLD), ledger.Credited(FOG, tokens, BONDED, "burn"))

    return list(_History())


def test_a_jailed_validator_takes_no_new_delegations() -> None:
    given(two_validators, v1_jailed).when(Delegate("v1", 5), "ana").then(staking.ValidatorIsJailed)


def test_a_frozen_wallet_starts_no_delegation() -> None:
    frozen = ledger.FreezeWallet("wallet:ana", "inquiry")
    given(two_validators, frozen).when(Delegate("v1", 5), "ana").then(ledger.WalletIsFrozen)


def test_a_delegation_needs_a_validator_and_the_money() -> None:
    given(village).when(Delegate("v9", 5), "ana").then(staking.ValidatorNotFound)
    given(two_validators).when(Delegate("v1", FUNDS + 1), "ana").then(ledger.InsufficientFunds)
    given(two_validators).when(Delegate("v1", -5), "ana").then(ledger.AmountMustBePositive)


def test_a_worthless_pool_takes_no_delegation() -> None:
    worthless = staking_lowered("v2", 1_000)
    given(two_validators, worthless).when(Delegate("v2", 5), "ana").then(staking.PoolIsWorthless)
    scenario = given(staked, worthless).when(Redelegate("v1", "v2", 5), "ana")
    scenario.then(staking.PoolIsWorthless)


def test_an_amount_that_buys_no_share_is_refused() -> None:
    gained = [
        (staking.validators("v2"), staking.TokensRestored("e0", 1_500, START)),
        (ledger.accounts(BONDED), ledger.Credited(FOG, 1_500, TREASURY, "appeal")),
    ]
    given(two_validators, gained).when(Delegate("v2", 2), "ana").then(staking.AmountIsTooSmall)


@pytest.mark.parametrize(
    ("days", "multiplier"),
    [(30, 11_000), (89, 11_000), (90, 12_500), (100, 12_500), (180, 15_000), (364, 15_000), (365, 20_000)],
)
def test_a_lock_weighs_by_interval(days: int, multiplier: int) -> None:
    book = given(two_validators, (Delegate("v1", 10, days), "ana")).book
    (lot,) = position(book, "v1", "ana").lots.values()
    assert (lot.multiplier, lot.unlocks_at) == (multiplier, START + days * DAY)
    assert pool(book).weight == 1_000 * 10_000 + 10 * multiplier


@pytest.mark.parametrize("days", [1, 29, 1_461])
def test_a_lock_of_any_other_term_is_refused(days: int) -> None:
    given(two_validators).when(Delegate("v1", 10, days), "ana").then(staking.LockTermIsOutOfRange)


def test_each_locked_delegation_is_a_lot_of_its_own_up_to_a_bound() -> None:
    many = [(Delegate("v1", 10, 30), "ana")] * P.most_lots_a_position
    scenario = given(two_validators, many)
    assert len(position(scenario.book, "v1", "ana").lots) == P.most_lots_a_position
    scenario.when(Delegate("v1", 10, 30), "ana").then(staking.TooManyLots)
    scenario.when(Delegate("v1", 10), "ana")
    assert isinstance(scenario.outcome, list)


# Unbonding


def test_unbonding_tokens_mature_in_21_days() -> None:
    scenario = given(staked)
    entry = begun(scenario, BeginUnbonding("v1", 400))
    assert (posted(scenario.book, UNBONDING), pool(scenario.book).tokens) == (400, 1_600)
    scenario.when(CompleteUnbonding("v1", entry), "ana", after=21 * DAY - SECOND)
    scenario.then(staking.UnbondingHasNotMatured)
    scenario.when(CompleteUnbonding("v1", entry), "timer", "worker", after=SECOND)
    assert posted(scenario.book, "wallet:ana") == FUNDS - 600
    assert entries(scenario.book) == {}
    scenario.when(CompleteUnbonding("v1", entry), "timer", "worker").then()


def test_restaking_during_unbonding_keeps_the_first_entry() -> None:
    scenario = given(staked)
    first = begun(scenario, BeginUnbonding("v1", 400))
    scenario.when(Delegate("v1", 50), "ana", after=DAY)
    second = begun(scenario, BeginUnbonding("v1", 100))
    kept = entries(scenario.book)
    assert (kept[first].balance, kept[second].balance) == (400, 100)
    assert kept[first].matures_at == START + 21 * DAY
    assert kept[second].matures_at == START + 22 * DAY


def test_at_most_seven_entries_are_open_between_a_pair() -> None:
    scenario = given(staked, [(BeginUnbonding("v1", 1), "ana")] * 7)
    scenario.when(BeginUnbonding("v1", 1), "ana").then(staking.TooManyEntries)
    scenario.when(BeginUnbonding("v1", 1), "val")
    assert isinstance(scenario.outcome, list)


def test_a_validator_has_a_bounded_number_of_open_entries() -> None:
    many = [
        (staking.unbondings("v1"), staking.UnbondingBegan(f"u{n}", f"p{n}", 1, START, START + DAY))
        for n in range(P.most_entries_a_validator)
    ]
    given(staked, many).when(BeginUnbonding("v1", 1), "ana").then(staking.UnbondingQueueIsFull)


def test_nobody_unbonds_more_than_he_has_or_what_is_not_his() -> None:
    given(staked).when(BeginUnbonding("v1", 1_001), "ana").then(staking.InsufficientStake)
    given(staked).when(BeginUnbonding("v1", 1), "ben").then(staking.PositionNotFound)
    given(staked).when(BeginUnbonding("v1", 1, "nolot"), "ana").then(staking.PositionNotFound)
    given(staked).when(BeginUnbonding("v9", 1), "ana").then(staking.ValidatorNotFound)
    given(staked).when(BeginUnbonding("v1", -1), "ana").then(ledger.AmountMustBePositive)


def test_unbonding_everything_burns_all_shares_and_the_dust_stays_with_the_others() -> None:
    scenario = given(staked, slashed()).when(BeginUnbonding("v1", 950), "ana")
    assert not position(scenario.book, "v1", "ana").lots
    assert pool(scenario.book).tokens == 950
    scenario.when(BeginUnbonding("v1", 950), "val")
    assert (pool(scenario.book).tokens, pool(scenario.book).shares) == (0, 0)


def test_a_part_of_a_lot_burns_shares_rounded_up() -> None:
    book = given(staked, slashed()).when(BeginUnbonding("v1", 1), "ana").book
    assert position(book, "v1", "ana").shares == 1_000 - 2  # ceil(1 * 2,000 / 1,900)
    assert pool(book).tokens == 1_899


def test_nobody_leaves_tokens_without_an_owner_for_the_next_to_take() -> None:
    """1 share is worth 6: taking 1 of them would burn it and leave 5 to whoever delegates next."""
    only = (village, (RegisterValidator("v1", 1), "val"))
    gained = [
        (staking.validators("v1"), staking.TokensRestored("e0", 5, START)),
        (ledger.accounts(BONDED), ledger.Credited(FOG, 5, TREASURY, "appeal")),
    ]
    scenario = given(only, gained).when(BeginUnbonding("v1", 1), "val").then(staking.AmountIsTooSmall)
    scenario.when(BeginUnbonding("v1", 6), "val")
    assert (pool(scenario.book).tokens, pool(scenario.book).shares) == (0, 0)


def test_unbonding_stake_does_not_dilute_the_others_and_earns_nothing() -> None:
    """Trap: stake on its way out must not take part in later rewards."""
    scenario = given(staked, (BeginUnbonding("v1", 1_000), "ana"), AllocateRewards("r1", 1_000))
    assert pool(scenario.book).tokens == 1_000
    scenario.when(ClaimRewards("v1"), "ana").then(staking.PositionNotFound)
    scenario.when(ClaimRewards("v1"), "val")
    assert posted(scenario.book, "wallet:val") == FUNDS - 1_000 + 450  # half the allocation, less 10 %


def test_leaving_a_lock_early_costs_a_quarter_rounded_up() -> None:
    scenario = given(two_validators)
    lot = begun(scenario, Delegate("v1", 1_000, 30))
    entry = begun(scenario, BeginUnbonding("v1", 101, lot))
    assert entries(scenario.book)[entry].balance == 75
    assert (posted(scenario.book, COMMUNITY), posted(scenario.book, UNBONDING)) == (26, 75)
    scenario.when(BeginUnbonding("v1", 1, lot), "ana").then(staking.AmountIsTooSmall)


def test_after_the_term_leaving_costs_nothing_timer_or_not() -> None:
    scenario = given(two_validators)
    lot = begun(scenario, Delegate("v1", 1_000, 30))
    scenario.when(BeginUnbonding("v1", 100, lot), "ana", after=30 * DAY)
    assert posted(scenario.book, UNBONDING) == 100


def test_a_lock_expires_once_and_not_early() -> None:
    scenario = given(two_validators)
    lot = begun(scenario, Delegate("v1", 1_000, 365))
    assert pool(scenario.book).weight == 1_000 * 10_000 + 1_000 * 20_000
    scenario.when(ExpireLock("v1", "ana", lot), "timer", "worker").then(staking.LockHasNotExpired)
    scenario.when(ExpireLock("v1", "ana", lot), "ben", after=365 * DAY).then(staking.PositionNotFound)
    scenario.when(ExpireLock("v1", "ana", lot), "timer", "worker")
    assert pool(scenario.book).weight == 2_000 * 10_000
    assert list(position(scenario.book, "v1", "ana").lots) == [staking.BASE_LOT]
    scenario.when(ExpireLock("v1", "ana", lot), "timer", "worker").then()


def test_an_expiring_lock_is_settled_at_its_old_weight_first() -> None:
    scenario = given(two_validators, (Delegate("v2", 1_000, 365), "ana"))
    lot = f"c{scenario.book.commands}"
    for command in (Jail("v1", "-"), AllocateRewards("r1", 3_000)):
        scenario.book.issue(command)
    scenario.when(ExpireLock("v2", "ana", lot), "timer", "worker", after=365 * DAY)
    assert posted(scenario.book, "wallet:ana") == FUNDS - 1_000 + 2_000


def test_a_cancelled_entry_is_bonded_again() -> None:
    scenario = given(staked)
    entry = begun(scenario, BeginUnbonding("v1", 400))
    scenario.when(CancelUnbonding("v1", entry), "ben").then(staking.EntryNotFound)
    scenario.when(CancelUnbonding("v1", entry), "ana", after=DAY)
    assert (pool(scenario.book).tokens, posted(scenario.book, UNBONDING)) == (2_000, 0)
    scenario.when(CancelUnbonding("v1", entry), "ana").then(staking.EntryNotFound)


def test_a_mature_entry_and_one_of_a_jailed_validator_are_not_cancelled() -> None:
    scenario = given(staked)
    entry = begun(scenario, BeginUnbonding("v1", 400))
    scenario.book.issue(v1_jailed)
    scenario.when(CancelUnbonding("v1", entry), "ana").then(staking.ValidatorIsJailed)
    scenario.when(CancelUnbonding("v1", entry), "ana", after=21 * DAY).then(staking.UnbondingHasMatured)


def test_others_complete_no_entries() -> None:
    scenario = given(staked)
    entry = begun(scenario, BeginUnbonding("v1", 400))
    scenario.when(CompleteUnbonding("v1", entry), "ben", after=21 * DAY).then(staking.EntryNotFound)


def test_an_unbonded_payout_reopens_a_closed_wallet() -> None:
    scenario = given(village, v1_registered, (Delegate("v1", FUNDS), "ana"))
    entry = begun(scenario, BeginUnbonding("v1", FUNDS))
    scenario.book.issue(ledger.CloseWallet("wallet:ana"), "ana")
    scenario.when(CompleteUnbonding("v1", entry), "timer", "worker", after=21 * DAY)
    assert posted(scenario.book, "wallet:ana") == FUNDS


# Redelegating


def test_a_redelegation_moves_at_once() -> None:
    scenario = given(staked).when(Redelegate("v1", "v2", 400), "ana")
    book = scenario.book
    assert (pool(book).tokens, pool(book, "v2").tokens, posted(book, BONDED)) == (1_600, 1_400, 3_000)
    assert (position(book, "v1", "ana").shares, position(book, "v2", "ana").shares) == (600, 400)


def test_a_redelegation_is_not_transitive_before_it_matured() -> None:
    scenario = given(staked).when(Redelegate("v1", "v2", 400), "ana")
    scenario.when(Redelegate("v2", "v1", 400), "ana", after=21 * DAY - SECOND)
    scenario.then(staking.RedelegationIsTransitive)
    scenario.when(Redelegate("v2", "v1", 400), "ana", after=SECOND)
    assert pool(scenario.book).tokens == 2_000


def test_a_redelegation_has_two_ends_that_may_take_it() -> None:
    given(staked).when(Redelegate("v1", "v1", 1), "ana").then(staking.RedelegationToItself)
    given(staked).when(Redelegate("v2", "v1", 1), "ana").then(staking.PositionNotFound)
    given(staked).when(Redelegate("v1", "v9", 1), "ana").then(staking.ValidatorNotFound)
    given(staked).when(Redelegate("v1", "v2", 1_001), "ana").then(staking.InsufficientStake)
    jailed = Jail("v2", "maintenance")
    given(staked, jailed).when(Redelegate("v1", "v2", 1), "ana").then(staking.ValidatorIsJailed)
    given(staked, v1_jailed).when(Redelegate("v1", "v2", 1_000), "ana")


def test_a_lock_goes_with_its_redelegation() -> None:
    scenario = given(two_validators)
    lot = begun(scenario, Delegate("v1", 1_000, 90))
    scenario.when(Redelegate("v1", "v2", 1_000, lot), "ana", after=DAY)
    (moved,) = position(scenario.book, "v2", "ana").lots.values()
    assert (moved.multiplier, moved.unlocks_at) == (12_500, START + 90 * DAY)
    assert pool(scenario.book, "v2").weight == 1_000 * 10_000 + 1_000 * 12_500


def test_at_most_seven_redelegations_are_open() -> None:
    scenario = given(staked, [(Redelegate("v1", "v2", 1), "ana")] * 7)
    scenario.when(Redelegate("v1", "v2", 1), "ana").then(staking.TooManyEntries)
    scenario.when(Redelegate("v1", "v2", 1), "ana", after=21 * DAY)
    assert len(scenario.book.read(staking.redelegations, "v1").entries) == 1


# Rewards


def test_rewards_are_split_by_tokens_and_the_rest_goes_to_the_community() -> None:
    book = given(staked, AllocateRewards("r1", 1_000)).book
    assert pool(book).commission_due == 66  # v1's part is 666
    assert posted(book, REWARDS) == FUNDS - 1_000
    assert posted(book, STAKING) + posted(book, COMMUNITY) == 1_000
    assert posted(book, COMMUNITY) >= 1


def test_an_allocation_is_made_once_per_reference() -> None:
    given(staked, AllocateRewards("r1", 9)).when(AllocateRewards("r1", 9)).then(staking.AllocationExists)
    given(staked).when(AllocateRewards("r1", FUNDS + 1)).then(ledger.InsufficientFunds)
    given(staked).when(AllocateRewards("r1", 5), "ana").then(ledger.WalletNotFound)


def test_what_nobody_earns_goes_to_the_community() -> None:
    book = given(village, AllocateRewards("r1", 100)).book
    assert (posted(book, COMMUNITY), posted(book, STAKING)) == (100, 0)


def test_a_jailed_validator_earns_nothing() -> None:
    book = given(two_validators, v1_jailed, AllocateRewards("r1", 100)).book
    assert (pool(book).ratio, pool(book).commission_due) == (0, 0)
    assert pool(book, "v2").ratio > 0


def test_rewards_follow_weight_not_time_of_claiming() -> None:
    """Trap: a claim must not reset what others, or oneself later, earn."""
    history = (village, v2_registered, (Delegate("v2", 1_000), "ana"))
    often = given(history).book
    for number in range(4):
        often.issue(AllocateRewards(f"r{number}", 1_000))
        often.issue(ClaimRewards("v2"), "ana")
    seldom = given(history, [AllocateRewards(f"r{number}", 1_000) for number in range(4)]).book
    seldom.issue(ClaimRewards("v2"), "ana")
    assert posted(often, "wallet:ana") == posted(seldom, "wallet:ana") == FUNDS - 1_000 + 2_000


def test_claiming_twice_pays_once() -> None:
    scenario = given(staked, AllocateRewards("r1", 1_000), (ClaimRewards("v1"), "ana"))
    before = posted(scenario.book, "wallet:ana")
    scenario.when(ClaimRewards("v1"), "ana").then()
    assert posted(scenario.book, "wallet:ana") == before


def test_added_stake_earns_nothing_for_the_past() -> None:
    scenario = given(village, v2_registered, (Delegate("v2", 1_000), "ana"), AllocateRewards("r1", 2_000))
    scenario.when(Delegate("v2", 98_000), "ana")
    scenario.when(Delegate("v2", 50_000), "ben")
    scenario.when(ClaimRewards("v2"), "ana")
    scenario.when(ClaimRewards("v2"), "ben").then()
    assert posted(scenario.book, "wallet:ana") == FUNDS - 99_000 + 1_000
    assert posted(scenario.book, "wallet:ben") == FUNDS - 50_000


def test_a_slash_changes_no_weight() -> None:
    scenario = given(staked, AllocateRewards("r1", 3_000))
    earned = position(scenario.book, "v1", "ana").earned(pool(scenario.book).ratio)
    before = pool(scenario.book).weight
    scenario.when(slashed())
    assert pool(scenario.book).weight == before
    assert position(scenario.book, "v1", "ana").earned(pool(scenario.book).ratio) == earned == 900


def test_nobody_claims_for_another() -> None:
    scenario = given(staked, AllocateRewards("r1", 1_000))
    scenario.when(ClaimRewards("v1", "ana"), "ben").then(staking.PositionNotFound)
    scenario.when(ClaimRewards("v1", "ana"), "timer", "worker").then(staking.PositionNotFound)
    scenario.when(ClaimRewards("v1"), "ben").then(staking.PositionNotFound)
    scenario.when(ClaimRewards("v9"), "ana").then(staking.ValidatorNotFound)


def test_auto_compounding_delegates_the_rewards() -> None:
    scenario = given(staked, (SetAutoCompound("v1", True), "ana"), AllocateRewards("r1", 3_000))
    scenario.when(ClaimRewards("v1", "ana"), "timer", "worker", after=DAY)
    assert position(scenario.book, "v1", "ana").shares == 1_900
    assert posted(scenario.book, "wallet:ana") == FUNDS - 1_000
    assert isinstance(scenario.outcome, list)
    assert scenario.outcome[-1] == staking.CompoundDue(START + 2 * DAY)
    scenario.when(SetAutoCompound("v1", False), "ana").then(staking.AutoCompoundSet(False, None))
    scenario.when(SetAutoCompound("v1", False), "ana").then()
    scenario.when(SetAutoCompound("v1", True), "ben").then(staking.PositionNotFound)


def test_what_cannot_be_compounded_is_paid_out() -> None:
    scenario = given(staked, (SetAutoCompound("v1", True), "ana"), AllocateRewards("r1", 3_000), v1_jailed)
    scenario.when(ClaimRewards("v1"), "ana")
    assert posted(scenario.book, "wallet:ana") == FUNDS - 1_000 + 900


def test_compounding_ends_with_the_position_and_can_be_begun_anew() -> None:
    compounding = (SetAutoCompound("v1", True), "ana")
    scenario = given(staked, compounding, (BeginUnbonding("v1", 1_000), "ana"))
    scenario.when(ClaimRewards("v1", "ana"), "timer", "worker", after=DAY)
    scenario.then(staking.AutoCompoundSet(False, None))
    scenario.book.issue(Delegate("v1", 5), "ana")
    scenario.when(SetAutoCompound("v1", True), "ana").then(staking.AutoCompoundSet(True, START + 2 * DAY))


def test_commission_is_withdrawn_by_the_operator_once() -> None:
    scenario = given(staked, AllocateRewards("r1", 3_000))
    scenario.when(WithdrawCommission("v1"), "ana").then(staking.ValidatorNotFound)
    scenario.when(WithdrawCommission("v1"), "val")
    assert posted(scenario.book, "wallet:val") == FUNDS - 1_000 + 200
    scenario.when(WithdrawCommission("v1"), "val").then()


def test_a_new_commission_does_not_reach_back() -> None:
    scenario = given(staked, AllocateRewards("r1", 3_000))
    scenario.when(EditValidator("v1", 1_100), "val", after=DAY)
    assert pool(scenario.book).commission_due == 200


# Slashing


@pytest.mark.parametrize(("kind", "burned"), [("downtime", 20), ("double-sign", 100)])
def test_a_slash_burns_its_fraction_and_lowers_the_supply(kind: str, burned: int) -> None:
    before = given(staked).book.read(ledger.assets, FOG).supply
    book = given(staked, slashed(kind=kind)).book
    assert pool(book).tokens == posted(book, BONDED) - 1_000 == 2_000 - burned
    assert book.read(ledger.assets, FOG).supply == before - burned == -posted(book, WORLD)
    assert victims(book) == [Victim("bonded", "v1", "", "", burned)]
    assert pool(book).jailed


def test_evidence_is_used_once() -> None:
    given(staked, slashed()).when(slashed()).then(staking.EvidenceWasUsed)
    given(staked, slashed()).when(slashed("e1", "v2")).then(staking.EvidenceWasUsed)


def test_an_infraction_is_known_recent_and_past() -> None:
    given(staked).when(slashed(kind="rudeness")).then(staking.SlashKindIsUnknown)
    given(staked).when(slashed(validator="v9")).then(staking.ValidatorNotFound)
    given(staked).when(slashed(at=START + MICROSECOND)).then(staking.InfractionIsInTheFuture)
    given(staked).when(slashed(), after=21 * DAY + MICROSECOND).then(staking.InfractionIsTooOld)
    assert isinstance(given(staked).when(slashed(), after=21 * DAY).outcome, list)


def test_the_base_is_the_power_at_the_infraction() -> None:
    scenario = given(staked).when(Delegate("v1", 98_000), "ben", after=DAY)
    scenario.when(slashed(at=START + DAY - SECOND))
    assert pool(scenario.book).tokens == 100_000 - 100
    scenario.when(slashed("e2", at=START + DAY))
    assert pool(scenario.book).tokens == 100_000 - 100 - 5_000


def test_stake_that_began_to_leave_since_owes_its_part() -> None:
    scenario = given(staked)
    entry = begun_later(scenario, BeginUnbonding("v1", 400))
    scenario.when(slashed())
    assert entries(scenario.book)[entry].balance == 380
    assert pool(scenario.book).tokens == 1_600 - 80
    assert posted(scenario.book, UNBONDING) == 380
    assert Victim("unbonding", "v1", "ana", entry, 20) in victims(scenario.book)


def begun_later(scenario: Scenario, command: Any, by: str = "ana") -> str:
    scenario.book.now += DAY
    return begun(scenario, command, by)


def test_stake_that_left_in_the_very_instant_of_the_infraction_is_in_its_base() -> None:
    scenario = given(staked)
    entry = begun(scenario, BeginUnbonding("v1", 400))
    scenario.when(slashed())
    assert entries(scenario.book)[entry].balance == 380
    assert pool(scenario.book).tokens == 1_600 - 80


def test_stake_that_began_to_leave_before_owes_nothing() -> None:
    scenario = given(staked)
    entry = begun(scenario, BeginUnbonding("v1", 400))
    scenario.when(slashed(at=START + SECOND), after=DAY)
    assert entries(scenario.book)[entry].balance == 400
    assert pool(scenario.book).tokens == 1_600 - 80


def test_a_matured_entry_owes_nothing_though_it_was_not_paid_out_yet() -> None:
    scenario = given(staked)
    entry = begun(scenario, BeginUnbonding("v1", 400))
    scenario.when(slashed(at=START), after=21 * DAY)
    assert entries(scenario.book)[entry].balance == 400


def test_an_entry_pays_no_more_than_is_left_of_it_and_the_bonded_do_not_pay_for_it() -> None:
    scenario = given(village, (RegisterValidator("v1", 1_000), "val"), ana_delegated)
    entry = begun_later(scenario, BeginUnbonding("v1", 20))
    for number in range(25):
        scenario.when(slashed(f"e{number}"))
    assert entries(scenario.book)[entry].balance == 0
    # 25 times 5 % of 2,000, less 1 each that the entry owed whether or not it was left.
    assert pool(scenario.book).tokens == max(1_980 - 25 * 99, 0)


def test_an_emptied_entry_completes_without_a_payment() -> None:
    scenario = given(village, (RegisterValidator("v1", 1_000), "val"), ana_delegated)
    entry = begun_later(scenario, BeginUnbonding("v1", 20))
    for number in range(20):
        scenario.book.issue(slashed(f"e{number}"))
    scenario.when(CompleteUnbonding("v1", entry), "timer", "worker", after=21 * DAY)
    scenario.then(staking.UnbondingCompleted(entry, "ana", 0))


def test_a_redelegation_since_pays_with_its_shares_at_the_target_after_settling() -> None:
    scenario = given(staked)
    begun_later(scenario, Redelegate("v1", "v2", 400))
    scenario.book.issue(AllocateRewards("r1", 3_000))
    scenario.when(slashed())
    book = scenario.book
    assert position(book, "v2", "ana").shares == 380
    assert pool(book, "v2").tokens == 1_380
    assert pool(book).tokens == 1_600 - 80
    assert posted(book, "wallet:ana") == FUNDS - 1_000 + 400  # its part of v2's 1,400, at the old weight
    assert ("redelegation", "ana", 20) in [(v.kind, v.delegator, v.tokens) for v in victims(book)]


def test_a_redelegation_cannot_flee_by_unbonding_at_the_target() -> None:
    """Cosmos SDK x/staking, SlashRedelegation: entries at the destination made since owe what its shares do not."""
    scenario = given(staked)
    begun_later(scenario, Redelegate("v1", "v2", 400))
    entry = begun_later(scenario, BeginUnbonding("v2", 400))
    scenario.when(slashed())
    assert entries(scenario.book, "v2")[entry].balance == 380
    assert posted(scenario.book, UNBONDING) == 380
    assert pool(scenario.book).tokens == 1_600 - 80
    assert pool(scenario.book, "v2").tokens == 1_000


def test_a_slash_at_the_source_jails_a_target_whose_own_stake_it_took() -> None:
    history = (village, v1_registered, (RegisterValidator("v2", 1_000, 0, 1_390), "vic"))
    given(village).when(RegisterValidator("v2", 1_000, 0, 1_390), "vic").then(staking.SelfStakeIsTooLow)
    history = (village, v1_registered, (RegisterValidator("v2", 1_400, 0, 1_790), "vic"))
    given(village).when(history[2][0], "vic").then(staking.SelfStakeIsTooLow)
    own = (village, v1_registered, (RegisterValidator("v2", 1_000, 0, 1_000), "vic"))
    scenario = given(own, (Delegate("v1", 400), "vic"))
    begun_later(scenario, Redelegate("v1", "v2", 400), "vic")
    scenario.when(BeginUnbonding("v2", 400), "vic")
    assert not pool(scenario.book, "v2").jailed
    scenario.when(slashed(kind="downtime"))
    assert pool(scenario.book, "v2").jailed


def test_a_double_sign_tombstones() -> None:
    scenario = given(staked, slashed()).when(Unjail("v1"), "val", after=DAY)
    scenario.then(staking.ValidatorIsTombstoned)
    scenario.when(Delegate("v1", 5), "val").then(staking.ValidatorIsJailed)


def test_a_slash_stores_many_victims_in_chunks_that_fit_into_the_log() -> None:
    from commands._codec import event_encoder

    long = "d" * 64
    victim = Victim("redelegation", "v" * 64, long, "e" * 64, 10**38 - 1)
    listed = staking.VictimsListed((victim,) * P.victims_an_event)
    assert len(event_encoder(staking.VictimsListed)(listed)) < 65_000
    many = [
        (staking.unbondings("v1"), staking.UnbondingBegan(f"u{n}", f"p{n}", 100, START, START + 21 * DAY))
        for n in range(450)
    ]
    funds = [(ledger.accounts(UNBONDING), ledger.Credited(FOG, 45_000, "wallet:p", "unbond"))]
    scenario = given(staked, many, funds).when(slashed())
    assert isinstance(scenario.outcome, list)
    lists = [event for event in scenario.outcome if isinstance(event, staking.VictimsListed)]
    assert max(len(event.victims) for event in lists) <= P.victims_an_event
    assert sum(len(event.victims) for event in lists) == len(victims(scenario.book)) >= 450


# Jail


def test_a_jailed_validator_comes_back_after_600_seconds() -> None:
    scenario = given(two_validators, v1_jailed)
    scenario.when(Unjail("v1"), "val", after=599 * SECOND).then(staking.JailTimeIsNotOver)
    scenario.when(Unjail("v1"), "vic").then(staking.ValidatorNotFound)
    scenario.when(Unjail("v1"), "val", after=SECOND).then(staking.ValidatorUnjailed(START + 600 * SECOND))
    scenario.when(Unjail("v1"), "val").then(staking.ValidatorIsNotJailed)


def test_jailing_again_changes_nothing() -> None:
    given(two_validators, v1_jailed).when(v1_jailed).then()
    given(village).when(Jail("v9", "-")).then(staking.ValidatorNotFound)


def test_self_stake_below_the_minimum_jails() -> None:
    history = (village, (RegisterValidator("v1", 1_000, 0, 900), "val"))
    scenario = given(history).when(BeginUnbonding("v1", 100), "val")
    assert not pool(scenario.book).jailed
    scenario.when(BeginUnbonding("v1", 1), "val")
    assert pool(scenario.book).jailed
    scenario.when(Unjail("v1"), "val", after=DAY).then(staking.SelfStakeIsTooLow)


def test_a_validator_slashed_below_its_minimum_is_not_locked_for_ever() -> None:
    """Trap: its operator tops up the self-stake in jail; nobody else may delegate meanwhile."""
    history = (village, (RegisterValidator("v1", 1_000, 0, 1_000), "val"), slashed(kind="downtime"))
    scenario = given(history).when(Unjail("v1"), "val", after=DAY).then(staking.SelfStakeIsTooLow)
    scenario.when(Delegate("v1", 10), "ana").then(staking.ValidatorIsJailed)
    scenario.when(Delegate("v1", 11), "val")
    scenario.when(Unjail("v1"), "val")
    assert not pool(scenario.book).jailed
    assert isinstance(scenario.when(Delegate("v1", 10), "ana").outcome, list)


def test_delegators_of_a_jailed_validator_may_leave() -> None:
    assert isinstance(given(staked, v1_jailed).when(BeginUnbonding("v1", 1_000), "ana").outcome, list)


# Appeals


def appealed(*between: Any) -> Scenario:
    """v1 is slashed with an entry and a redelegation of ana's open, and val appeals."""
    scenario = given(staked)
    begun_later(scenario, BeginUnbonding("v1", 400))
    begun(scenario, Redelegate("v1", "v2", 200))
    scenario.book.issue(slashed())
    for command, by in between:
        scenario.book.issue(command, by)
    scenario.book.issue(AppealSlash("e1", "we were not there"), "val")
    return scenario


def test_a_won_appeal_returns_entries_to_wallets_and_the_bonded_part_to_the_pool() -> None:
    scenario = appealed()
    before = posted(scenario.book, "wallet:ana")
    tokens, tokens2 = pool(scenario.book).tokens, pool(scenario.book, "v2").tokens
    scenario.when(DecideAppeal("e1", True, "true"))
    assert posted(scenario.book, "wallet:ana") == before + 20 + 10
    assert pool(scenario.book).tokens == tokens + 70
    assert pool(scenario.book, "v2").tokens == tokens2
    assert posted(scenario.book, TREASURY) == FUNDS - 100
    scenario.when(DecideAppeal("e1", True, "again")).then(staking.AppealIsNotOpen)


def test_a_lost_appeal_returns_nothing() -> None:
    scenario = appealed().when(DecideAppeal("e1", False, "no"))
    scenario.then(staking.AppealDecided(False, "no", 0))
    scenario.when(AppealSlash("e1", "again"), "val").then(staking.AppealExists)


def test_an_appeal_is_made_by_those_concerned_once_and_in_time() -> None:
    given(staked).when(AppealSlash("e9", "-"), "val").then(staking.SlashNotFound)
    given(staked).when(DecideAppeal("e9", True, "-")).then(staking.SlashNotFound)
    scenario = given(staked, slashed()).when(AppealSlash("e1", "-"), "ben").then(staking.SlashNotFound)
    scenario.when(DecideAppeal("e1", True, "-")).then(staking.AppealIsNotOpen)
    scenario.when(AppealSlash("e1", "I lost by it"), "ana").then(staking.SlashAppealed)
    scenario.when(AppealSlash("e1", "so did I"), "val").then(staking.AppealExists)
    late = P.appeal_period + MICROSECOND
    given(staked, slashed()).when(AppealSlash("e1", "-"), "val", after=late).then(staking.AppealIsTooLate)


def test_an_appeal_that_the_treasury_cannot_pay_waits() -> None:
    book = appealed().book
    book.issue(ledger.Transfer(TREASURY, "wallet:ben", FUNDS))
    with pytest.raises(ledger.InsufficientFunds):
        book.issue(DecideAppeal("e1", True, "true"))
    book.issue(ledger.Transfer("wallet:ben", TREASURY, 100), "ben")
    book.issue(DecideAppeal("e1", True, "true"))


def test_no_refusal_leaves_half_a_command_behind() -> None:
    """Trap: a debit before the failure. Whatever is refused changed nothing."""
    book = given(staked).book
    states, count = dict(book.states), len(book.events)
    for command, by in (
        (Delegate("v9", 5), "ana"),
        (Delegate("v1", FUNDS), "ana"),
        (BeginUnbonding("v1", 2_000), "ana"),
        (Redelegate("v1", "v2", 2_000), "ana"),
        (AllocateRewards("r1", FUNDS + 1), "operator"),
        (RegisterValidator("v3", FUNDS + 1), "ben"),
    ):
        with pytest.raises(ledger.Rejected):
            book.issue(command, by)
        assert (book.states, len(book.events)) == (states, count)


# Formulas, exact events and edges: 1,000 of Val's own behind a v1 without commission, and 1,000 of Ana's


ANA, BEN, VAL = "wallet:ana", "wallet:ben", "wallet:val"


UNBONDING_TIME = 3 * WEEK


MOMENT = timedelta(microseconds=1)


v1 = validator("v1", "val")


v2 = validator("v2", "wim")


ana_delegates: Any = (Delegate("v1", 1_000), "ana")


def stakes_of_a_thousand(*history: Any) -> Story:
    """Val's own 1,000 and Ana's 1,000 stand behind v1."""
    return story(examples.village, v1, ana_delegates, *history)


def priced(tokens: int, shares: int) -> list[Any]:
    """A validator whose shares are worth something else than one token; all of them are Val's."""
    return [
        (
            validators("v1"),
            ValidatorRegistered("val", 0, 1, "", NOW),
        ),
        (validators("v1"), SharesIssued("val", tokens, shares, shares * BASIS_POINTS, NOW)),
        (validator_sets("all"), ValidatorJoined("v1")),
    ]


def test_registering_puts_the_operators_own_tokens_behind_the_validator() -> None:
    told = story(examples.village, wallet("val", 500))
    told.when(RegisterValidator("v1", 500, 700, 100, "fast"), "val").then(
        ValidatorRegistered("val", 700, 100, "fast", NOW),
        ValidatorJoined("v1"),
        Debited("FOG", 500, BONDED, "delegate"),
        Credited("FOG", 500, VAL, "delegate"),
        Delegated("0", 500, 500, 10_000, 0),
        SharesIssued("val", 500, 500, 5_000_000, NOW),
    )
    assert told.validator() == Validator(
        "val", 700, 100, NOW, "fast", 500, 500, 5_000_000, history=(Power(NOW, 500),)
    )


def test_a_description_changes_at_any_time_and_does_not_hold_up_the_commission() -> None:
    told = story(examples.village, v1)
    told.when(EditValidator("v1", 0, "better"), "val").then(ValidatorEdited(0, "better", NOW))
    told.when(EditValidator("v1", 0, "better"), "val").then()
    told.later(DAY).when(EditValidator("v1", 50, "better"), "val").then(ValidatorEdited)


@pytest.mark.parametrize("command", [EditValidator("v1", 0), Unjail("v1"), WithdrawCommission("v1")])
def test_a_foreign_validator_is_not_found(command: Any) -> None:
    story(examples.village, v1).when(command, "ana").then(ValidatorNotFound)


@pytest.mark.parametrize(
    "command",
    [
        Delegate("v9", 1),
        BeginUnbonding("v9", 1),
        CompleteUnbonding("v9", "e"),
        ExpireLock("v9", "ana", "l"),
        Redelegate("v9", "v1", 1),
        Redelegate("v1", "v9", 1),
        ClaimRewards("v9"),
        Slash("v9", "downtime", NOW, "e1"),
        Jail("v9", "why"),
    ],
)
def test_an_unknown_validator_is_not_found(command: Any) -> None:
    stakes_of_a_thousand().when(command, "ana").then(ValidatorNotFound)


def test_delegating_issues_shares_and_settles_first() -> None:
    told = story(examples.village, v1)
    told.when(Delegate("v1", 70), "ana").then(
        Debited("FOG", 70, BONDED, "delegate"),
        Credited("FOG", 70, ANA, "delegate"),
        Delegated("0", 70, 70, 10_000, 0),
        SharesIssued("ana", 70, 70, 700_000, NOW),
    )
    told.when(Delegate("v1", 5), "ana").then(
        RewardsSettled(0, 0), Debited, Credited, Delegated("0", 5, 5, 10_000, 0), SharesIssued
    )
    assert told.position("ana").lots == {"0": Lot(75, 10_000, 0)}
    assert told.posted(BONDED) == told.validator().tokens == 1_075


@pytest.mark.parametrize(
    ("tokens", "shares", "amount", "issued", "worth"),
    [
        (95, 100, 10, 10, 9),  # 10*100/95 = 10.53 -> 10; 10*105/110 = 9.55 -> 9
        (95, 100, 1, 1, 0),  # 1.05 -> 1; 1*96/101 = 0.95 -> 0
        (3, 2, 2, 1, 1),  # 1.33 -> 1; 1*5/3 = 1.67 -> 1
        (3, 2, 3, 2, 3),  # 2*6/4 = 3
        (1, 3, 1, 3, 1),  # 3*2/6 = 1
        (7, 7, 5, 5, 5),
    ],
)
def test_shares_are_issued_rounded_down(
    tokens: int, shares: int, amount: int, issued: int, worth: int
) -> None:
    told = story(examples.village, priced(tokens, shares)).and_then(Delegate("v1", amount), "ana")
    assert told.position("ana").shares == issued
    assert told.worth("ana") == worth <= amount
    assert told.validator().tokens == tokens + amount


@pytest.mark.parametrize("amount", [0, -1, -50])
def test_no_command_takes_an_amount_below_one(amount: int) -> None:
    for command in (
        Delegate("v1", amount),
        BeginUnbonding("v1", amount),
        Redelegate("v1", "v2", amount),
        RegisterValidator("v3", amount, 0, amount),
    ):
        told = stakes_of_a_thousand(v2)
        before = dict(told.book.states)
        told.when(command, "ana")
        assert isinstance(told.outcome, Rejected), command
        assert told.book.states == before
    story(examples.village, v1).when(AllocateRewards("r1", amount)).then(AmountMustBePositive)


def test_a_frozen_wallet_delegates_nothing_but_may_leave() -> None:
    told = stakes_of_a_thousand((FreezeWallet(ANA, "inquiry"), "operator"))
    told.when(Delegate("v1", 5), "ana").then(WalletIsFrozen)
    told.and_then(BeginUnbonding("v1", 1_000), "ana")
    told.later(UNBONDING_TIME).and_then(CompleteUnbonding("v1", told.last_command), "ana")
    assert told.posted(ANA) == FUNDS


def test_a_redelegated_lock_needs_room_at_the_target() -> None:
    told = story(examples.village, v1, v2, (Delegate("v2", 10, 30), "ana"))
    lot = told.last_command
    for _ in range(P.most_lots_a_position):
        told.and_then(Delegate("v1", 10, 30), "ana")
    told.when(Redelegate("v2", "v1", 10, lot), "ana").then(TooManyLots)


@pytest.mark.parametrize(
    ("amount", "penalty"), [(2, 1), (3, 1), (4, 1), (5, 2), (7, 2), (8, 2), (9, 3), (100, 25), (101, 26)]
)
def test_the_quarter_for_leaving_early_is_rounded_up(amount: int, penalty: int) -> None:
    told = story(examples.village, v1, (Delegate("v1", 200, 90), "ana"))
    told.and_then(BeginUnbonding("v1", amount, told.last_command), "ana")
    assert told.posted(COMMUNITY) == penalty
    assert told.posted(UNBONDING) == told.entries()[told.last_command].balance == amount - penalty
    assert told.posted(BONDED) == told.validator().tokens == 1_200 - amount


def test_one_unit_cannot_leave_a_lock_early() -> None:
    told = story(examples.village, v1, (Delegate("v1", 200, 90), "ana"))
    told.when(BeginUnbonding("v1", 1, told.last_command), "ana").then(AmountIsTooSmall)


def test_an_expired_lock_is_settled_and_earns_as_unlocked() -> None:
    told = story(examples.village, v1, (Delegate("v1", 1_000, 365), "ana"))
    lot = told.last_command
    told.when(ExpireLock("v1", "ana", lot), "timer", "worker").then(LockHasNotExpired)
    told.and_then(AllocateRewards("r1", 300))  # weights 1 : 2
    told.later(365 * DAY).when(ExpireLock("v1", "ana", lot), "timer", "worker").then(
        RewardsSettled(200, 300 * RATIO_SCALE // 30_000_000),
        Debited,
        Credited("FOG", 200, STAKING, "staking-reward"),
        LockExpired(lot),
        WeightReduced("ana", 10_000_000),
    )
    assert set(told.position("ana").lots) == {"0"}
    told.when(ExpireLock("v1", "ana", lot), "timer", "worker").then()
    told.and_then(AllocateRewards("r2", 300))
    assert told.pending("ana") == 150


def test_an_expired_lock_joins_what_was_never_locked() -> None:
    told = story(examples.village, v1, (Delegate("v1", 30), "ana"), (Delegate("v1", 20, 30), "ana"))
    lot = told.last_command
    told.later(30 * DAY).and_then(ExpireLock("v1", "ana", lot), "ana")
    assert told.position("ana").lots == {"0": Lot(50, 10_000, 0)}
    assert told.validator().weight == 1_050 * 10_000
    told.when(ExpireLock("v1", "ana", "0"), "ana").then()
    told.when(ExpireLock("v1", "ana", lot), "ben").then(PositionNotFound)


def test_unbonding_begins_with_an_entry_of_three_weeks() -> None:
    told = stakes_of_a_thousand().when(BeginUnbonding("v1", 400), "ana")
    told.then(
        RewardsSettled(0, 0),
        Undelegated("0", 400, 400),
        SharesBurned("ana", 400, 400, 4_000_000, NOW),
        Debited("FOG", 400, UNBONDING, "unbond"),
        Credited("FOG", 400, BONDED, "unbond"),
        UnbondingBegan(told.last_command, "ana", 400, NOW, NOW + timedelta(days=21)),
    )
    assert (told.posted(BONDED), told.posted(UNBONDING), told.posted(ANA)) == (1_600, 400, FUNDS - 1_000)


@pytest.mark.parametrize(
    ("tokens", "shares", "amount", "burned", "left"),
    [
        (95, 100, 10, 11, 85),  # 10*100/95 = 10.53 -> 11
        (95, 100, 95, 100, 0),  # all of it: all shares
        (95, 100, 94, 99, 1),  # 98.95 -> 99
        (3, 2, 1, 1, 2),  # 0.67 -> 1
        (3, 2, 3, 2, 0),
        (10, 30, 3, 9, 7),
    ],
)
def test_shares_are_burned_rounded_up(tokens: int, shares: int, amount: int, burned: int, left: int) -> None:
    told = story(examples.village, v1)
    told.book.states["validator:v1"] = Validator("val", tokens=tokens, shares=shares, weight=shares * 10_000)
    told.book.states["position:v1:val"] = Position({"0": Lot(shares, 10_000, 0)})
    told.book.states[BONDED] = Account(posted={"FOG": tokens})
    told.and_then(BeginUnbonding("v1", amount), "val")
    after = told.validator()
    assert (after.tokens, after.shares) == (left, shares - burned)
    assert after.weight == after.shares * 10_000


def test_withdrawing_all_that_a_position_is_worth_burns_all_its_shares() -> None:
    """1 of 3 shares of 2 tokens is worth nothing yet; 2 shares are worth 1."""
    told = story(examples.village, v1)
    told.book.states["validator:v1"] = Validator("val", tokens=2, shares=3, weight=30_000)
    told.book.states["position:v1:ana"] = Position({"0": Lot(2, 10_000, 0)})
    told.and_then(BeginUnbonding("v1", 1), "ana")
    assert told.position("ana").lots == {}
    assert (told.validator().tokens, told.validator().shares) == (1, 1)


def test_an_entry_that_a_slash_emptied_still_goes_away() -> None:
    for command, outcome in (
        (CancelUnbonding, UnbondingCancelled),
        (CompleteUnbonding, UnbondingCompleted),
    ):
        told = stakes_of_a_thousand((BeginUnbonding("v1", 400), "ana"))
        entry = told.last_command
        told.book.states["unbonding:v1"] = staking.Unbondings(
            {entry: staking.Entry("ana", 400, 0, NOW, NOW + UNBONDING_TIME)}
        )
        told.later(UNBONDING_TIME if command is CompleteUnbonding else DAY)
        told.when(command("v1", entry), "ana")
        assert isinstance(told.outcome, list)
        assert outcome(entry, "ana", 0) in told.outcome


def test_a_redelegation_burns_here_and_issues_there() -> None:
    told = stakes_of_a_thousand(v2).when(Redelegate("v1", "v2", 400), "ana")
    told.then(
        RewardsSettled,
        Undelegated("0", 400, 400),
        SharesBurned("ana", 400, 400, 4_000_000, NOW),
        Delegated("0", 400, 400, 10_000, 0, None, NOW + UNBONDING_TIME),
        SharesIssued("ana", 400, 400, 4_000_000, NOW),
        RedelegationBegan(told.last_command, "ana", "v2", "0", 400, 400, NOW, NOW + UNBONDING_TIME),
    )
    assert (told.worth("ana"), told.worth("ana", "v2"), told.posted(BONDED)) == (600, 400, 3_000)


def test_rewards_are_shared_by_tokens_and_paid_by_weight() -> None:
    """1,000 over T = 2,000 (commission 10 %) and 1,000 (none): 666 and 333, 1 is left.

    v1: commission floor(66.6) = 66, 600 for 1,000 Val : 1,000 Ana at double weight = 200 : 400.
    """
    told = story(
        examples.village, validator("v1", "val", commission=1_000), v2, (Delegate("v1", 1_000, 365), "ana")
    )
    told.when(AllocateRewards("r1", 1_000)).then(
        AllocationMade(1_000, 999, 1, NOW),
        Debited("FOG", 999, STAKING, "rewards", "r1"),
        Credited("FOG", 999, REWARDS, "rewards", "r1"),
        Debited("FOG", 1, COMMUNITY, "rewards", "r1"),
        Credited("FOG", 1, REWARDS, "rewards", "r1"),
        ValidatorRewarded("r1", 666, 66, 600 * RATIO_SCALE // 30_000_000, 0, NOW),
        ValidatorRewarded("r1", 333, 0, 333 * RATIO_SCALE // 10_000_000, 0, NOW),
    )
    assert (told.pending("val"), told.pending("ana"), told.pending("wim", "v2")) == (200, 400, 333)
    told.when(ClaimRewards("v1"), "ana").then(
        RewardsSettled(400, 600 * RATIO_SCALE // 30_000_000),
        Debited("FOG", 400, ANA, "staking-reward"),
        Credited("FOG", 400, STAKING, "staking-reward"),
    )
    told.when(WithdrawCommission("v1"), "val").then(CommissionWithdrawn(66), Debited, Credited)
    told.when(WithdrawCommission("v1"), "val").then()
    assert (told.posted(VAL), told.posted(STAKING)) == (66, 999 - 400 - 66)


def test_a_remainder_goes_to_the_community() -> None:
    """7 over a weight of 3: the ratio is floored, yet ceil(3 * ratio) is 7, so nothing is left over."""
    assert ratio_rise(3, 7) == (7 * RATIO_SCALE // 3, 0)
    assert ratio_rise(0, 7) == (0, 7)
    assert ratio_rise(2 * RATIO_SCALE, 1) == (0, 1)
    assert ratio_rise(2 * RATIO_SCALE, 3) == (1, 1)


def test_dust_behind_a_validator_without_shares_earns_for_the_community() -> None:
    told = story(examples.village, v1)
    told.book.states["validator:v1"] = Validator("val", tokens=1)
    told.when(AllocateRewards("r1", 100))
    assert (told.posted(COMMUNITY), told.posted(STAKING)) == (100, 0)


def test_claiming_resets_nothing_but_what_was_paid() -> None:
    """Trap: a claim reset the clock (of the lock, of the entry, of what is yet to come)."""
    told = story(examples.village, v1, (Delegate("v1", 1_000, 90), "ana"))
    before = next(iter(told.position("ana").lots.values()))
    told.and_then(BeginUnbonding("v1", 10), "val")
    entries = told.entries()
    told.later(WEEK).and_then(AllocateRewards("r1", 1_000)).and_then(ClaimRewards("v1"), "ana")
    after = next(iter(told.position("ana").lots.values()))
    assert (after.shares, after.multiplier, after.unlocks_at) == (
        before.shares,
        before.multiplier,
        before.unlocks_at,
    )
    assert told.entries() == entries
    told.when(ClaimRewards("v1"), "ana").then()


def test_rewards_reopen_a_closed_wallet_and_open_a_missing_one() -> None:
    told = story(examples.village, v1, (AllocateRewards("r1", 100), "operator"), (CloseWallet(VAL), "val"))
    told.when(ClaimRewards("v1"), "val").then(RewardsSettled, WalletReopened, Debited, Credited)
    del told.book.states[VAL]
    told.and_then(AllocateRewards("r2", 100))
    told.when(ClaimRewards("v1"), "val").then(RewardsSettled, WalletOpened("val"), Debited, Credited)


def test_rewards_compound_where_that_is_set() -> None:
    told = (
        stakes_of_a_thousand().when(SetAutoCompound("v1", True), "ana").then(AutoCompoundSet(True, NOW + DAY))
    )
    told.when(SetAutoCompound("v1", True), "ana").then()
    told.and_then(AllocateRewards("r1", 200)).later(DAY)
    told.when(ClaimRewards("v1", "ana"), "timer", "worker").then(
        RewardsSettled(100, 200 * RATIO_SCALE // 20_000_000, True),
        Debited("FOG", 100, BONDED, "compound"),
        Credited("FOG", 100, STAKING, "compound"),
        Delegated,
        SharesIssued("ana", 100, 100, 1_000_000, NOW + DAY),
        CompoundDue(NOW + 2 * DAY),
    )
    assert (told.worth("ana"), told.posted(ANA)) == (1_100, FUNDS - 1_000)
    told.when(ClaimRewards("v1", "ana"), "timer", "worker").then(CompoundDue(NOW + 2 * DAY))
    told.when(SetAutoCompound("v1", False), "ana").then(AutoCompoundSet(False, None))
    told.when(ClaimRewards("v1", "ana"), "timer", "worker").then(PositionNotFound)


def test_a_jailed_validators_rewards_are_paid_instead_of_compounded() -> None:
    told = stakes_of_a_thousand(
        (SetAutoCompound("v1", True), "ana"), (AllocateRewards("r1", 200), "operator")
    )
    told.and_then(Jail("v1", "down")).and_then(ClaimRewards("v1"), "ana")
    assert (told.worth("ana"), told.posted(ANA)) == (1_000, FUNDS - 900)


def test_rewards_too_small_for_a_share_are_paid_out() -> None:
    told = story(
        examples.village, v1, (AllocateRewards("r0", 1), "operator"), (SetAutoCompound("v1", True), "val")
    )
    told.book.states["validator:v1"] = Validator(
        "val", tokens=4_000, shares=1_000, weight=10_000_000, ratio=10**11
    )
    told.when(ClaimRewards("v1"), "val")
    assert told.pending("val") == 0
    assert told.posted(VAL) == 1


@pytest.mark.parametrize(("kind", "burned"), [("downtime", 20), ("double-sign", 100)])
def test_a_slash_burns_a_fraction_of_the_power(kind: str, burned: int) -> None:
    told = stakes_of_a_thousand()
    supply = told.asset().supply
    told.when(Slash("v1", kind, NOW, "e1")).then(
        TokensSlashed("e1", kind, burned, NOW),
        TokensBurned(burned, BONDED, "slash", "e1"),
        Debited("FOG", burned, "world", "burn", "e1"),
        Credited("FOG", burned, BONDED, "burn", "e1"),
        Slashed("v1", kind, NOW, 2_000, burned, NOW),
        VictimsListed((Victim("bonded", "v1", "", "", burned),)),
        ValidatorJailed(kind, NOW, NOW + timedelta(seconds=600), kind == "double-sign"),
    )
    assert told.asset().supply == supply - burned
    assert told.posted(BONDED) == told.validator().tokens == 2_000 - burned
    assert told.worth("ana") == 1_000 - burned // 2


def test_only_known_kinds_slash_and_evidence_slashes_once() -> None:
    told = stakes_of_a_thousand().when(Slash("v1", "lateness", NOW, "e1")).then(SlashKindIsUnknown)
    told.and_then(Slash("v1", "downtime", NOW, "e1"))
    told.when(Slash("v1", "double-sign", NOW, "e1")).then(EvidenceWasUsed)


def test_the_base_is_the_power_before_or_after_a_change() -> None:
    told = stakes_of_a_thousand().later(DAY).and_then(Delegate("v1", 8_000), "ben").later(DAY)
    told.and_then(Slash("v1", "downtime", NOW + DAY - MOMENT, "e1"))
    assert told.validator().tokens == 10_000 - 20
    told.and_then(Slash("v1", "downtime", NOW + DAY, "e2"))
    assert told.validator().tokens == 10_000 - 20 - 100
    assert told.validator().power_at(NOW - MOMENT) == 0
    told.when(Slash("v1", "downtime", NOW - MOMENT, "e3"))
    assert told.validator().tokens == 9_880


def test_what_entries_owe_counts_uncapped() -> None:
    """An entry of 500 that was emptied before pays nothing more, but the pool does not pay in its place."""
    told = stakes_of_a_thousand().later(HOUR).and_then(BeginUnbonding("v1", 500), "ana")
    entry = told.last_command
    kept = told.entries()[entry]
    told.book.states["unbonding:v1"] = staking.Unbondings(
        {entry: staking.Entry("ana", 500, 10, kept.created_at, kept.matures_at)}
    )
    told.when(Slash("v1", "double-sign", NOW, "e1"))
    assert isinstance(told.outcome, list)
    assert UnbondingSlashed(entry, "ana", "e1", 10) in told.outcome
    assert told.validator().tokens == 1_500 - 75


def test_the_pool_owes_nothing_when_entries_owe_more_than_the_base() -> None:
    """Power 1,000 at the infraction; 1,000 came and 1,500 left since: base 50 < 75."""
    told = story(examples.village, v1).later(HOUR).and_then(Delegate("v1", 1_500), "ana")
    told.and_then(BeginUnbonding("v1", 1_500), "ana")
    told.and_then(Slash("v1", "double-sign", NOW, "e1"))
    assert (told.posted(UNBONDING), told.validator().tokens) == (1_425, 1_000)


def test_the_pool_never_loses_more_than_it_has() -> None:
    told = story(examples.village, v1)
    told.book.states["validator:v1"] = Validator(
        "val", tokens=3, shares=3, weight=30_000, history=(Power(NOW, 1_000),)
    )
    told.and_then(Slash("v1", "double-sign", NOW, "e1"))
    assert told.validator().tokens == 0
    assert told.validator().jailed


def test_a_redelegation_pays_at_its_target_after_settling() -> None:
    """Ana moved 400 of 2,000 to v2: 5 % = 100; 20 of her 400 shares there burn, the pool pays 80."""
    told = stakes_of_a_thousand(v2).later(HOUR).and_then(Redelegate("v1", "v2", 400), "ana")
    entry = told.last_command
    told.and_then(AllocateRewards("r1", 3_000)).later(HOUR)
    assert told.pending("ana", "v2") == 400
    told.when(Slash("v1", "double-sign", NOW, "e1"))
    assert isinstance(told.outcome, list)
    kinds = [type(event) for event in told.outcome]
    assert kinds.index(RewardsSettled) < kinds.index(Undelegated)
    assert Undelegated("0", 20, 20) in told.outcome
    victims = (Victim("redelegation", "v2", "ana", entry, 20), Victim("bonded", "v1", "", "", 80))
    assert VictimsListed(victims) in told.outcome
    assert (told.worth("ana", "v2"), told.worth("wim", "v2")) == (380, 1_000)
    assert told.posted(BONDED) == told.validator("v1").tokens + told.validator("v2").tokens == 2_900
    assert told.pending("ana", "v2") == 0
    assert told.posted(ANA) == FUNDS - 1_000 + 400


def test_a_redelegation_whose_lock_expired_pays_from_the_unlocked_lot() -> None:
    told = story(examples.village, v1, v2, (Delegate("v1", 400, 30), "ana")).later(10 * DAY)
    told.and_then(Redelegate("v1", "v2", 400, told.last_command), "ana")
    lot = told.last_command
    told.later(20 * DAY).and_then(ExpireLock("v2", "ana", lot), "ana")
    told.and_then(Slash("v1", "double-sign", NOW + 9 * DAY, "e1"))
    assert told.worth("ana", "v2") == 380
    assert told.validator().tokens == 1_000 - (70 - 20)


def test_what_half_left_pays_half_from_each() -> None:
    """20 of 400 shares are due; 10 are left at the target, so the entry there pays the other half."""
    told = stakes_of_a_thousand(v2).later(HOUR).and_then(Redelegate("v1", "v2", 400), "ana")
    told.and_then(BeginUnbonding("v2", 390), "ana").and_then(Slash("v1", "double-sign", NOW, "e1"))
    assert (told.posted(UNBONDING), told.validator("v2").tokens) == (380, 1_000)
    assert told.position("ana", "v2").lots == {}


def test_entries_older_than_the_move_pay_nothing_for_it() -> None:
    told = stakes_of_a_thousand(v2, (Delegate("v2", 100), "ana"), (BeginUnbonding("v2", 100), "ana")).later(
        HOUR
    )
    told.and_then(Redelegate("v1", "v2", 400), "ana").and_then(BeginUnbonding("v2", 400), "ana")
    told.and_then(Slash("v1", "double-sign", NOW, "e1"))
    assert sorted(entry.balance for entry in told.entries("v2").values()) == [100, 380]


def test_a_full_wallet_does_not_shield_its_owner_from_a_slash() -> None:
    """A victim whose wallet holds as many assets as it may is paid his rewards, and slashed, all the same."""
    told = stakes_of_a_thousand(v2).later(HOUR).and_then(Transfer(ANA, BEN, FUNDS - 1_000), "ana")
    for n in range(64):
        told.and_then(DefineAsset(f"X{n}", 0)).and_then(MintTokens(ANA, 1, "gift", "", f"X{n}"))
    told.and_then(Redelegate("v1", "v2", 400), "ana").and_then(AllocateRewards("r1", 3_000))
    told.and_then(Slash("v1", "double-sign", NOW, "e1"))
    assert told.posted(ANA) == 400
    assert told.worth("ana", "v2") == 380


def test_not_even_its_operator_delegates_to_a_tombstoned_validator() -> None:
    told = stakes_of_a_thousand(
        (Slash("v1", "double-sign", NOW, "e1"), "operator"), (MintTokens(VAL, 9, "x", ""), "operator")
    )
    told.when(Delegate("v1", 5), "val").then(ValidatorIsJailed)


def appealable() -> Story:
    """Entry 25 of Ana's, redelegation 20 of Ben's at v2, pool 155: 5 % of 4,000."""
    told = stakes_of_a_thousand(v2, (Delegate("v1", 2_000), "ben")).later(HOUR)
    told.and_then(BeginUnbonding("v1", 500), "ana").and_then(Redelegate("v1", "v2", 400), "ben")
    return told.and_then(Slash("v1", "double-sign", NOW, "e1"))


def test_a_won_appeal_gives_back_exactly_what_was_listed() -> None:
    told = appealable()
    assert (told.validator().tokens, told.validator("v2").tokens) == (3_100 - 155, 1_380)
    told.when(AppealSlash("e1", "clock skew"), "val").then(SlashAppealed("val", "clock skew", NOW + HOUR))
    told.when(DecideAppeal("e1", True, "proved")).then(
        AppealDecided(True, "proved", 200),
        Debited("FOG", 25, ANA, "appeal"),
        Credited("FOG", 25, TREASURY, "appeal"),
        Debited("FOG", 20, BEN, "appeal"),
        Credited("FOG", 20, TREASURY, "appeal"),
        Debited("FOG", 155, BONDED, "appeal"),
        Credited("FOG", 155, TREASURY, "appeal"),
        TokensRestored("e1", 155, NOW + HOUR),
    )
    assert (told.validator().tokens, told.validator("v2").tokens) == (3_100, 1_380)
    assert told.posted(BONDED) == 4_480
    assert told.posted(TREASURY) == FUNDS - 200
    assert (told.posted(ANA), told.posted(BEN)) == (FUNDS - 1_000 + 25, FUNDS - 2_000 + 20)
    told.when(DecideAppeal("e1", True, "again")).then(AppealIsNotOpen)
    told.when(AppealSlash("e1", "again"), "val").then(AppealExists)


def test_an_appeal_of_a_validator_that_everybody_left_goes_to_the_community() -> None:
    told = story(examples.village, v1, (Slash("v1", "downtime", NOW, "e1"), "operator"))
    told.and_then(BeginUnbonding("v1", 990), "val").and_then(AppealSlash("e1", "why"), "val")
    told.and_then(DecideAppeal("e1", True, "yes"))
    assert (told.posted(COMMUNITY), told.posted(BONDED), told.validator().tokens) == (10, 0, 0)


def test_a_delegator_who_stands_behind_the_validator_may_appeal() -> None:
    told = stakes_of_a_thousand(
        (OpenWallet("wallet:dan"), "dan"), (MintTokens("wallet:dan", 10, "x", ""), "operator")
    )
    told.and_then(Delegate("v1", 10), "dan").and_then(Slash("v1", "downtime", NOW, "e1"))
    told.and_then(AppealSlash("e1", "mine too"), "dan")


def test_power_at_a_time_is_the_last_change_before_or_at_it() -> None:
    told = stakes_of_a_thousand().later(DAY).and_then(Delegate("v1", 100), "ben")
    found = told.validator()
    times = (-MOMENT, timedelta(0), DAY - MOMENT, DAY, WEEK)
    assert [found.power_at(NOW + after) for after in times] == [0, 2_000, 2_000, 2_100, 2_100]


def test_history_keeps_three_weeks_and_stays_bounded() -> None:
    told = story(examples.village, v1)
    for _ in range(60):
        told.later(DAY).and_then(Delegate("v1", 1), "ana")
    found = told.validator()
    assert 21 <= len(found.history) <= 23
    horizon = told.book.now - UNBONDING_TIME
    assert found.power_at(horizon) == 1_039
    assert found.power_at(horizon + DAY) == 1_040
    for _ in range(P.most_power_history + 50):
        told.and_then(Delegate("v1", 1), "ana")
    assert len(told.validator().history) <= P.most_power_history + 1
    assert told.validator().power_at(told.book.now) == told.validator().tokens


def test_every_rule_of_staking_is_broken_here() -> None:
    rules = [
        rule.__name__
        for _, rule in inspect.getmembers(staking, inspect.isclass)
        if issubclass(rule, Rejected) and rule.__module__ == staking.__name__
    ]
    body = Path(__file__).read_text().split("# Validators", 1)[1]
    assert [rule for rule in rules if rule not in body] == []
