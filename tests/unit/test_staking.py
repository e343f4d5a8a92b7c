"""Staking's commands, rules and traps, as sentences.

The history behind most of them: v1 (val, commission 10 %) and v2 (vic, none) stake 1,000 each; ana delegates.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from domain import ledger, staking
from domain._kernel import FOG
from domain.ledger import BONDED, COMMUNITY, REWARDS, STAKING, TREASURY, UNBONDING, WORLD
from domain.staking import (
    AllocateRewards,
    AppealSlash,
    BeginUnbonding,
    CancelUnbonding,
    ClaimRewards,
    CompleteUnbonding,
    DecideAppeal,
    Delegate,
    EditValidator,
    ExpireLock,
    Jail,
    P,
    Redelegate,
    RegisterValidator,
    SetAutoCompound,
    Slash,
    Unjail,
    Victim,
    WithdrawCommission,
)
from tests import examples
from tests.examples import FUNDS, funded
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
