"""Tokens locked behind validators: shares, unbonding, F1 rewards, slashing. Terms and model of Cosmos SDK's
x/staking, x/slashing and x/distribution, on integers.

A validator's pool has tokens T and shares S. Delegating a issues floor(a*S/T) shares, the first 1:1; shares are worth
floor(shares*T/S); unbonding x burns ceil(x*S/T) shares. What rounding leaves stays in T, so `pool:bonded` is the sum
of all T exactly.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from domain._kernel import (
    BASIS_POINTS,
    Amount,
    BasisPoints,
    Count,
    Decision,
    Id,
    Issued,
    NotFound,
    Personal,
    Quantity,
    Read,
    Ref,
    Rejected,
    Stream,
    Text,
    ceil_div,
    floor_div,
)
from domain.approvals import SLASH, Events, Use, limited
from domain.ledger import (
    BONDED,
    COMMUNITY,
    REWARDS,
    STAKING,
    TREASURY,
    UNBONDING,
    AmountMustBePositive,
    burn,
    may_spend,
    move,
    pay,
    pay_out,
    wallet_of,
)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The economic constants of staking, in one place."""

    unbonding_period: timedelta = timedelta(days=21)
    most_entries_a_pair: int = 7
    most_entries_a_validator: int = 2_000
    most_lots_a_position: int = 16
    most_validators: int = 300
    most_validators_an_operator: int = 10
    """Tombstoned ones included: nobody takes all the places alone."""
    most_commission: int = 2_000
    most_commission_change: int = 100
    commission_change_every: timedelta = timedelta(days=1)
    jail_period: timedelta = timedelta(seconds=600)
    appeal_period: timedelta = timedelta(days=14)
    compound_every: timedelta = timedelta(days=1)
    early_exit_penalty: int = 2_500
    """Basis points of what leaves a lock early; rounded up."""
    downtime_slash: int = 100
    double_sign_slash: int = 500
    multipliers: tuple[tuple[int, int], ...] = ((365, 20_000), (180, 15_000), (90, 12_500), (30, 11_000))
    """Least days of a lock and its reward weight in basis points; the first that fits counts."""
    most_lock_days: int = 1_460
    most_power_history: int = 1_000
    victims_an_event: int = 200


P = Parameters()

RATIO_SCALE = 10**18
"""Rewards per unit of weight are kept as integers scaled by this (F1: cumulative reward ratio)."""
BASE_LOT = "0"
"""The lot of everything that is not locked."""
SLASHES = {"downtime": P.downtime_slash, "double-sign": P.double_sign_slash}

# Events: stored for ever. Add fields with defaults; never rename, never remove.


@dataclass(frozen=True, slots=True)
class ValidatorRegistered:
    operator: str
    commission: int
    minimum_self_stake: Amount
    description: Personal
    at: datetime


@dataclass(frozen=True, slots=True)
class ValidatorJoined:
    """In the set of all validators."""

    validator: str


@dataclass(frozen=True, slots=True)
class ValidatorEdited:
    commission: int
    description: Personal
    at: datetime


@dataclass(frozen=True, slots=True)
class SharesIssued:
    """Tokens entered a validator's pool."""

    delegator: str
    tokens: Quantity
    shares: Quantity
    weight: Quantity
    at: datetime


@dataclass(frozen=True, slots=True)
class SharesBurned:
    """Tokens left a validator's pool."""

    delegator: str
    tokens: Quantity
    shares: Quantity
    weight: Quantity
    at: datetime


@dataclass(frozen=True, slots=True)
class WeightReduced:
    """A lock ended: the same shares earn less."""

    delegator: str
    weight: Quantity


@dataclass(frozen=True, slots=True)
class TokensSlashed:
    """The pool lost tokens; shares and weights stay."""

    evidence_id: str
    kind: str
    tokens: Quantity
    at: datetime


@dataclass(frozen=True, slots=True)
class TokensRestored:
    """A won appeal gave the pool back what it had lost."""

    evidence_id: str
    tokens: Amount
    at: datetime


@dataclass(frozen=True, slots=True)
class ValidatorRewarded:
    """A validator's part of an allocation: its commission, and the rise of the cumulative reward ratio."""

    reference: str
    tokens: Amount
    commission: Quantity
    ratio: Quantity
    """The rise, scaled by 10^18."""
    community: Quantity
    """What went to the community pool: remainders, and all of it where nobody earns."""
    at: datetime


@dataclass(frozen=True, slots=True)
class CommissionWithdrawn:
    tokens: Amount


@dataclass(frozen=True, slots=True)
class ValidatorJailed:
    reason: str
    at: datetime
    until: datetime
    tombstoned: bool = False


@dataclass(frozen=True, slots=True)
class ValidatorUnjailed:
    at: datetime


@dataclass(frozen=True, slots=True)
class RewardsSettled:
    """All lots of a position were paid up to the validator's present ratio."""

    tokens: Quantity
    ratio: Quantity
    compounded: bool = False


@dataclass(frozen=True, slots=True)
class Delegated:
    lot: str
    tokens: Quantity
    shares: Quantity
    multiplier: int
    ratio: Quantity
    unlocks_at: datetime | None = None
    redelegated_until: datetime | None = None
    """Set where the tokens came by redelegation: until then they may not be redelegated again."""


@dataclass(frozen=True, slots=True)
class Undelegated:
    lot: str
    tokens: Quantity
    shares: Quantity


@dataclass(frozen=True, slots=True)
class LockExpired:
    lot: str


@dataclass(frozen=True, slots=True)
class AutoCompoundSet:
    enabled: bool
    next_at: datetime | None


@dataclass(frozen=True, slots=True)
class CompoundDue:
    """When a position compounds next."""

    next_at: datetime


@dataclass(frozen=True, slots=True)
class UnbondingBegan:
    entry: str
    delegator: str
    tokens: Amount
    created_at: datetime
    matures_at: datetime


@dataclass(frozen=True, slots=True)
class UnbondingCancelled:
    entry: str
    delegator: str
    tokens: Quantity


@dataclass(frozen=True, slots=True)
class UnbondingCompleted:
    entry: str
    delegator: str
    tokens: Quantity


@dataclass(frozen=True, slots=True)
class UnbondingSlashed:
    entry: str
    delegator: str
    evidence_id: str
    tokens: Amount


@dataclass(frozen=True, slots=True)
class RedelegationBegan:
    entry: str
    delegator: str
    target: str
    lot: str
    """The lot at the target."""
    tokens: Amount
    shares: Amount
    """Shares at the target."""
    created_at: datetime
    matures_at: datetime


@dataclass(frozen=True, slots=True)
class AllocationMade:
    tokens: Amount
    staking: Quantity
    community: Quantity
    at: datetime


@dataclass(frozen=True, slots=True)
class Victim:
    kind: str
    """bonded, unbonding or redelegation."""
    validator: str
    """Whose pool lost the tokens."""
    delegator: str
    """Empty for the pool as a whole."""
    entry: str
    tokens: Amount


@dataclass(frozen=True, slots=True)
class Slashed:
    validator: str
    kind: str
    infraction_at: datetime
    power: Quantity
    """The validator's tokens at the infraction."""
    tokens: Quantity
    """All that was burned."""
    at: datetime


@dataclass(frozen=True, slots=True)
class VictimsListed:
    victims: tuple[Victim, ...]


@dataclass(frozen=True, slots=True)
class SlashAppealed:
    by: str
    grounds: Personal
    at: datetime


@dataclass(frozen=True, slots=True)
class AppealDecided:
    won: bool
    reason: str
    tokens: Quantity
    """What was given back."""


ValidatorEvent = (
    ValidatorRegistered
    | ValidatorEdited
    | SharesIssued
    | SharesBurned
    | WeightReduced
    | TokensSlashed
    | TokensRestored
    | ValidatorRewarded
    | CommissionWithdrawn
    | ValidatorJailed
    | ValidatorUnjailed
)
PositionEvent = RewardsSettled | Delegated | Undelegated | LockExpired | AutoCompoundSet | CompoundDue
UnbondingEvent = UnbondingBegan | UnbondingCancelled | UnbondingCompleted | UnbondingSlashed
SlashEvent = Slashed | VictimsListed | SlashAppealed | AppealDecided

# State


@dataclass(frozen=True, slots=True)
class Power:
    at: datetime
    tokens: int


@dataclass(frozen=True, slots=True)
class Validator:
    operator: str = ""
    commission: int = 0
    minimum_self_stake: int = 0
    commission_changed_at: datetime | None = None
    description: str = ""
    tokens: int = 0
    shares: int = 0
    weight: int = 0
    """Sum over all lots of shares * multiplier."""
    ratio: int = 0
    """Cumulative rewards per weight since registration, scaled by 10^18."""
    commission_due: int = 0
    jailed: bool = False
    jailed_until: datetime | None = None
    tombstoned: bool = False
    history: tuple[Power, ...] = ()
    """Tokens after each change of the last unbonding period; thinned out with age when there are very many."""

    def worth(self, shares: int) -> int:
        """Tokens of shares, rounded down."""
        return floor_div(shares * self.tokens, self.shares) if self.shares else 0

    def shares_for(self, tokens: int) -> int:
        """Shares that tokens buy, rounded down; the first are 1:1."""
        if not self.shares:
            return tokens
        return floor_div(tokens * self.shares, self.tokens) if self.tokens else 0

    def power_at(self, at: datetime) -> int:
        """Tokens in the pool at a time of the last unbonding period.

        At the very instant of a change, the higher of before and after counts: an entry created in that
        instant owes its part, so the base has to hold it.
        """
        power = 0
        for change in self.history:
            if change.at > at:
                break
            power = max(power, change.tokens) if change.at == at else change.tokens
        return power


@dataclass(frozen=True, slots=True)
class Lot:
    shares: int
    multiplier: int
    ratio: int
    """The validator's ratio that this lot is paid up to."""
    unlocks_at: datetime | None = None

    @property
    def weight(self) -> int:
        return self.shares * self.multiplier

    def earned(self, ratio: int) -> int:
        """F1: weight times the rise of the ratio, rounded down once."""
        return floor_div(self.weight * (ratio - self.ratio), RATIO_SCALE)


@dataclass(frozen=True, slots=True)
class Position:
    lots: dict[str, Lot] = field(default_factory=dict)
    redelegated_until: datetime | None = None
    auto_compound: bool = False

    def earned(self, ratio: int) -> int:
        return sum(lot.earned(ratio) for lot in self.lots.values())

    @property
    def shares(self) -> int:
        return sum(lot.shares for lot in self.lots.values())


@dataclass(frozen=True, slots=True)
class Entry:
    delegator: str
    initial: int
    balance: int
    created_at: datetime
    matures_at: datetime


@dataclass(frozen=True, slots=True)
class Unbondings:
    """A validator's open unbonding entries."""

    entries: dict[str, Entry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Redelegation:
    delegator: str
    target: str
    lot: str
    initial: int
    shares: int
    created_at: datetime
    matures_at: datetime


@dataclass(frozen=True, slots=True)
class Redelegations:
    """What left a validator by redelegation and has not matured."""

    entries: dict[str, Redelegation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ValidatorSet:
    validators: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Allocation:
    made: bool = False


@dataclass(frozen=True, slots=True)
class SlashRecord:
    validator: str = ""
    at: datetime | None = None
    victims: tuple[Victim, ...] = ()
    appealed: bool = False
    decided: bool = False


# evolve


def _remembered(history: tuple[Power, ...], at: datetime, tokens: int) -> tuple[Power, ...]:
    """The history with one more change; what no slash can ask for any more is dropped."""
    horizon = at - P.unbonding_period
    start = 0
    while start + 1 < len(history) and history[start + 1].at <= horizon:
        start += 1
    kept = history[start:]
    if len(kept) >= P.most_power_history:
        half = len(kept) // 2
        kept = kept[:half:2] + kept[half:]
    return (*kept, Power(at, tokens))


def _changed(validator: Validator, at: datetime, tokens: int, shares: int = 0, weight: int = 0) -> Validator:
    total = validator.tokens + tokens
    return replace(
        validator,
        tokens=total,
        shares=validator.shares + shares,
        weight=validator.weight + weight,
        history=_remembered(validator.history, at, total),
    )


def evolve_validator(validator: Validator, event: ValidatorEvent) -> Validator:
    match event:
        case SharesIssued():
            return _changed(validator, event.at, event.tokens, event.shares, event.weight)
        case SharesBurned():
            return _changed(validator, event.at, -event.tokens, -event.shares, -event.weight)
        case ValidatorRewarded():
            return replace(
                validator,
                ratio=validator.ratio + event.ratio,
                commission_due=validator.commission_due + event.commission,
            )
        case TokensSlashed():
            return _changed(validator, event.at, -event.tokens)
        case TokensRestored():
            return _changed(validator, event.at, event.tokens)
        case WeightReduced():
            return replace(validator, weight=validator.weight - event.weight)
        case CommissionWithdrawn():
            return replace(validator, commission_due=validator.commission_due - event.tokens)
        case ValidatorJailed():
            tombstoned = validator.tombstoned or event.tombstoned
            return replace(validator, jailed=True, jailed_until=event.until, tombstoned=tombstoned)
        case ValidatorUnjailed():
            return replace(validator, jailed=False, jailed_until=None)
        case ValidatorRegistered():
            return Validator(
                event.operator, event.commission, event.minimum_self_stake, event.at, event.description
            )
        case ValidatorEdited():
            changed_at = (
                event.at if event.commission != validator.commission else validator.commission_changed_at
            )
            return replace(
                validator,
                commission=event.commission,
                description=event.description,
                commission_changed_at=changed_at,
            )


def evolve_position(position: Position, event: PositionEvent) -> Position:
    lots = position.lots
    match event:
        case RewardsSettled():
            settled = {id: replace(lot, ratio=event.ratio) for id, lot in lots.items()}
            return replace(position, lots=settled)
        case Delegated():
            old = lots.get(event.lot)
            shares = event.shares + (old.shares if old else 0)
            lot = Lot(shares, event.multiplier, event.ratio, event.unlocks_at)
            until = max(filter(None, (position.redelegated_until, event.redelegated_until)), default=None)
            return replace(position, lots={**lots, event.lot: lot}, redelegated_until=until)
        case Undelegated():
            return replace(position, lots=_less(lots, event.lot, event.shares))
        case LockExpired():
            base, freed = lots.get(BASE_LOT), lots[event.lot]
            shares = freed.shares + (base.shares if base else 0)
            rest = {id: lot for id, lot in lots.items() if id != event.lot}
            return replace(position, lots={**rest, BASE_LOT: Lot(shares, BASIS_POINTS, freed.ratio)})
        case AutoCompoundSet():
            return replace(position, auto_compound=event.enabled)
        case CompoundDue():
            return position


def _less(lots: dict[str, Lot], id: str, shares: int) -> dict[str, Lot]:
    left = lots[id].shares - shares
    if left:
        return {**lots, id: replace(lots[id], shares=left)}
    return {other: lot for other, lot in lots.items() if other != id}


def evolve_unbondings(unbondings: Unbondings, event: UnbondingEvent) -> Unbondings:
    entries = dict(unbondings.entries)
    match event:
        case UnbondingBegan():
            entries[event.entry] = Entry(
                event.delegator, event.tokens, event.tokens, event.created_at, event.matures_at
            )
        case UnbondingSlashed():
            entry = entries[event.entry]
            entries[event.entry] = replace(entry, balance=entry.balance - event.tokens)
        case UnbondingCancelled() | UnbondingCompleted():
            del entries[event.entry]
    return Unbondings(entries)


def evolve_redelegations(redelegations: Redelegations, event: RedelegationBegan) -> Redelegations:
    open_ = {id: entry for id, entry in redelegations.entries.items() if entry.matures_at > event.created_at}
    open_[event.entry] = Redelegation(
        event.delegator,
        event.target,
        event.lot,
        event.tokens,
        event.shares,
        event.created_at,
        event.matures_at,
    )
    return Redelegations(open_)


def evolve_validator_set(known: ValidatorSet, event: ValidatorJoined) -> ValidatorSet:
    return ValidatorSet((*known.validators, event.validator))


def evolve_allocation(allocation: Allocation, event: AllocationMade) -> Allocation:
    return Allocation(made=True)


def evolve_slash(record: SlashRecord, event: SlashEvent) -> SlashRecord:
    match event:
        case Slashed():
            return SlashRecord(event.validator, event.at)
        case VictimsListed():
            return replace(record, victims=(*record.victims, *event.victims))
        case SlashAppealed():
            return replace(record, appealed=True)
        case AppealDecided():
            return replace(record, decided=True)


validators = Stream("validator", Validator(), evolve_validator, ValidatorEvent)
positions = Stream("position", Position(), evolve_position, PositionEvent)
unbondings = Stream("unbonding", Unbondings(), evolve_unbondings, UnbondingEvent)
redelegations = Stream("redelegation", Redelegations(), evolve_redelegations, RedelegationBegan)
validator_sets = Stream("validator-set", ValidatorSet(), evolve_validator_set, ValidatorJoined)
allocations = Stream("allocation", Allocation(), evolve_allocation, AllocationMade)
slashes = Stream("slash", SlashRecord(), evolve_slash, SlashEvent)

# Commands


@dataclass(frozen=True, slots=True)
class RegisterValidator:
    """Become a validator, with tokens of your own behind it."""

    validator: Id
    self_stake: Amount
    commission: BasisPoints = 500
    minimum_self_stake: Amount = 1
    description: Personal = ""


@dataclass(frozen=True, slots=True)
class EditValidator:
    """Change your validator's commission (at most one point a day) and description."""

    validator: Id
    commission: BasisPoints
    description: Personal = ""


@dataclass(frozen=True, slots=True)
class Delegate:
    """Lock tokens behind a validator and share in what it earns; a lock of some days earns more."""

    validator: Id
    amount: Amount
    lock_days: Count = 0


@dataclass(frozen=True, slots=True)
class BeginUnbonding:
    """Withdraw tokens; they come back after the unbonding period. `lot` names a locked lot."""

    validator: Id
    amount: Amount
    lot: Id = BASE_LOT


@dataclass(frozen=True, slots=True)
class CancelUnbonding:
    """Put what an unbonding entry still holds back behind the validator."""

    validator: Id
    entry: Id


@dataclass(frozen=True, slots=True)
class CompleteUnbonding:
    """Pay out a matured unbonding entry (issued by a timer)."""

    validator: Id
    entry: Id


@dataclass(frozen=True, slots=True)
class ExpireLock:
    """End a lock whose time is over; the lot earns as unlocked from then on (issued by a timer)."""

    validator: Id
    delegator: Id
    lot: Id


@dataclass(frozen=True, slots=True)
class Redelegate:
    """Move tokens to another validator at once; not again before the unbonding period is over."""

    source: Id
    target: Id
    amount: Amount
    lot: Id = BASE_LOT


@dataclass(frozen=True, slots=True)
class ClaimRewards:
    """Take what a position has earned; where auto-compounding is on, it is delegated at once."""

    validator: Id
    delegator: Id = ""
    """Empty for yourself; a worker names whose auto-compounding is due."""


@dataclass(frozen=True, slots=True)
class WithdrawCommission:
    """Take the commission that your validator has earned."""

    validator: Id


@dataclass(frozen=True, slots=True)
class SetAutoCompound:
    """Have the rewards of a position delegated once a day, or no longer."""

    validator: Id
    enabled: bool


@dataclass(frozen=True, slots=True)
class AllocateRewards:
    """Share tokens of the rewards pool among the validators that are not jailed, by their tokens."""

    reference: Id
    amount: Amount


@dataclass(frozen=True, slots=True)
class Slash:
    """Burn a fraction of what stood behind a validator when it failed: `downtime` 1 %, `double-sign` 5 %. Beyond the
    zone's limit a second operator is asked (`ApprovalRequested`), and nothing is done before he approves."""

    validator: Id
    kind: Id
    infraction_at: datetime
    evidence_id: Id


@dataclass(frozen=True, slots=True)
class Jail:
    """Keep a validator from new delegations and from rewards."""

    validator: Id
    reason: Text


@dataclass(frozen=True, slots=True)
class Unjail:
    """Bring your validator back, once its time in jail is over."""

    validator: Id


@dataclass(frozen=True, slots=True)
class AppealSlash:
    """Ask for a slash to be looked at again: the validator's operator or a victim, once, in time."""

    evidence_id: Id
    grounds: Personal


@dataclass(frozen=True, slots=True)
class DecideAppeal:
    """Decide an appeal; a won one gives the listed amounts back, from the treasury."""

    evidence_id: Id
    won: bool
    reason: Text


# Rules


class ValidatorNotFound(NotFound):
    """There is no such validator, or it is not yours."""


class PositionNotFound(NotFound):
    """You have no such delegation."""


class EntryNotFound(NotFound):
    """You have no such unbonding entry."""


class SlashNotFound(NotFound):
    """There is no such slash, or it does not concern you."""


class ValidatorExists(Rejected):
    """This validator was registered before."""


class TooManyValidators(Rejected):
    """A zone has a bounded number of validators."""


class OperatorHasTooManyValidators(Rejected):
    """One principal runs a bounded number of validators."""


class CommissionIsTooHigh(Rejected):
    """A commission is at most 20 %."""


class CommissionChangesTooFast(Rejected):
    """A commission changes by at most one point, at most once a day."""


class SelfStakeIsTooLow(Rejected):
    """The validator's own stake is below its minimum."""


class ValidatorIsJailed(Rejected):
    """A jailed validator takes no new delegations."""


class ValidatorIsNotJailed(Rejected):
    """Only a jailed validator can be unjailed."""


class ValidatorIsTombstoned(Rejected):
    """A validator that signed twice never comes back."""


class JailTimeIsNotOver(Rejected):
    """A validator stays in jail for a while."""


class PoolIsWorthless(Rejected):
    """The validator's shares are worth nothing, so no number of them can be bought."""


class AmountIsTooSmall(Rejected):
    """The amount is worth less than one share, or nothing would be left of it."""


class LockTermIsOutOfRange(Rejected):
    """A lock lasts from 30 days to four years, or there is none."""


class TooManyLots(Rejected):
    """A position has a bounded number of locked lots."""


class InsufficientStake(Rejected):
    """The lot holds less than the command needs."""


class TooManyEntries(Rejected):
    """Delegator and validator have a bounded number of open entries; wait until one matures."""


class UnbondingQueueIsFull(Rejected):
    """The validator has as many open entries as a slash can work through; wait until one matures."""


class UnbondingHasMatured(Rejected):
    """A matured entry is paid out, not put back."""


class UnbondingHasNotMatured(Rejected):
    """An entry is paid out when the unbonding period is over."""


class LockHasNotExpired(Rejected):
    """A lock ends at its time."""


class RedelegationToItself(Rejected):
    """Source and target of a redelegation are two validators."""


class RedelegationIsTransitive(Rejected):
    """Tokens that came by redelegation stay until it has matured."""


class AllocationExists(Rejected):
    """This allocation was made before."""


class SlashKindIsUnknown(Rejected):
    """A slash is for downtime or double-sign."""


class EvidenceWasUsed(Rejected):
    """One piece of evidence slashes once."""


class InfractionIsInTheFuture(Rejected):
    """Nobody is slashed for what has not happened."""


class InfractionIsTooOld(Rejected):
    """An infraction older than the unbonding period is not slashed."""


class AppealExists(Rejected):
    """A slash is appealed once."""


class AppealIsTooLate(Rejected):
    """A slash is appealed within two weeks."""


class AppealIsNotOpen(Rejected):
    """There is no open appeal of this slash."""


# Decisions: pools and positions


def known(read: Read, validator: str) -> Validator:
    found = read(validators, validator)
    if not found.operator:
        raise ValidatorNotFound(validator=validator)
    return found


def owned(read: Read, validator: str, issued: Issued) -> Validator:
    found = known(read, validator)
    if found.operator != issued.by:
        raise ValidatorNotFound(validator=validator)
    return found


def multiplier_for(lock_days: int) -> int:
    """The reward weight of a lock, in basis points, by interval."""
    if lock_days == 0:
        return BASIS_POINTS
    if lock_days > P.most_lock_days:
        raise LockTermIsOutOfRange(lock_days=lock_days, limit=P.most_lock_days)
    for days, multiplier in P.multipliers:
        if lock_days >= days:
            return multiplier
    raise LockTermIsOutOfRange(lock_days=lock_days, least=P.multipliers[-1][0])


def settle(read: Read, issued: Issued, validator: str, delegator: str, *, compound: bool = False) -> Decision:
    """Pay a position what it earned until now. Comes before any change of its shares or multipliers."""
    pool = read(validators, validator)
    position = read(positions, f"{validator}:{delegator}")
    if not position.lots:
        return
    earned = position.earned(pool.ratio)
    compound = compound and not pool.jailed and earned > 0 and pool.shares_for(earned) > 0
    yield positions(validator, delegator), RewardsSettled(earned, pool.ratio, compound)
    if compound:
        yield from move(read, STAKING, BONDED, earned, "compound")
        yield from issue(read, issued, validator, delegator, earned)
    elif earned:
        yield from pay_out(read, STAKING, wallet_of(delegator), earned, "staking-reward")


def issue(
    read: Read,
    issued: Issued,
    validator: str,
    delegator: str,
    tokens: int,
    *,
    lot: str = BASE_LOT,
    multiplier: int = BASIS_POINTS,
    unlocks_at: datetime | None = None,
    redelegated_until: datetime | None = None,
) -> Decision:
    """Issue shares for tokens that are in `pool:bonded` already. The position is settled."""
    pool = read(validators, validator)
    if pool.shares and not pool.tokens:
        raise PoolIsWorthless(validator=validator)
    shares = pool.shares_for(tokens)
    if shares == 0:
        raise AmountIsTooSmall(tokens=tokens, validator_tokens=pool.tokens, validator_shares=pool.shares)
    yield (
        positions(validator, delegator),
        Delegated(lot, tokens, shares, multiplier, pool.ratio, unlocks_at, redelegated_until),
    )
    yield validators(validator), SharesIssued(delegator, tokens, shares, shares * multiplier, issued.at)


def withdraw(read: Read, issued: Issued, validator: str, delegator: str, lot: str, tokens: int) -> Decision:
    """Burn the shares of tokens that leave the pool. The position is settled; the tokens still have to move."""
    pool = read(validators, validator)
    held = read(positions, f"{validator}:{delegator}").lots.get(lot)
    if held is None:
        raise PositionNotFound(validator=validator, lot=lot)
    worth = pool.worth(held.shares)
    if tokens <= 0:
        raise AmountMustBePositive(amount=tokens)
    if tokens > worth:
        raise InsufficientStake(validator=validator, lot=lot, available=worth, needed=tokens)
    shares = held.shares if tokens == worth else ceil_div(tokens * pool.shares, pool.tokens)
    # Where a share is worth many tokens, taking a part of the last one would leave the rest to whoever comes next.
    if tokens < worth and shares >= held.shares:
        raise AmountIsTooSmall(tokens=tokens, worth=worth, validator_shares=pool.shares)
    yield from burn_shares(issued, validator, delegator, lot, held, tokens, shares)


def burn_shares(
    issued: Issued, validator: str, delegator: str, lot: str, held: Lot, tokens: int, shares: int
) -> Decision:
    weight = shares * held.multiplier
    yield positions(validator, delegator), Undelegated(lot, tokens, shares)
    yield validators(validator), SharesBurned(delegator, tokens, shares, weight, issued.at)


def jail_below_minimum(read: Read, issued: Issued, validator: str, delegator: str) -> Decision:
    """A validator whose own stake fell below its minimum goes to jail."""
    pool = read(validators, validator)
    if (
        delegator == pool.operator
        and not pool.jailed
        and self_stake(read, validator) < pool.minimum_self_stake
    ):
        yield (
            validators(validator),
            ValidatorJailed("self-stake below minimum", issued.at, issued.at + P.jail_period),
        )


def self_stake(read: Read, validator: str) -> int:
    pool = read(validators, validator)
    return pool.worth(read(positions, f"{validator}:{pool.operator}").shares)


# Decisions: commands


def register_validator(command: RegisterValidator, issued: Issued, read: Read) -> Decision:
    if read(validators, command.validator).operator:
        raise ValidatorExists(validator=command.validator)
    everybody = read(validator_sets, "all").validators
    if len(everybody) >= P.most_validators:
        raise TooManyValidators(limit=P.most_validators)
    own = sum(read(validators, name).operator == issued.by for name in everybody)
    if own >= P.most_validators_an_operator:
        raise OperatorHasTooManyValidators(operator=issued.by, limit=P.most_validators_an_operator)
    if command.commission > P.most_commission:
        raise CommissionIsTooHigh(commission=command.commission, limit=P.most_commission)
    if command.self_stake < command.minimum_self_stake:
        raise SelfStakeIsTooLow(self_stake=command.self_stake, minimum=command.minimum_self_stake)
    yield (
        validators(command.validator),
        ValidatorRegistered(
            issued.by, command.commission, command.minimum_self_stake, command.description, issued.at
        ),
    )
    yield validator_sets("all"), ValidatorJoined(command.validator)
    yield from pay(read, issued, wallet_of(issued.by), BONDED, command.self_stake, "delegate")
    yield from issue(read, issued, command.validator, issued.by, command.self_stake)


def edit_validator(command: EditValidator, issued: Issued, read: Read) -> Decision:
    validator = owned(read, command.validator, issued)
    if command.commission > P.most_commission:
        raise CommissionIsTooHigh(commission=command.commission, limit=P.most_commission)
    change = abs(command.commission - validator.commission)
    if change:
        earliest = (validator.commission_changed_at or issued.at) + P.commission_change_every
        if change > P.most_commission_change or issued.at < earliest:
            raise CommissionChangesTooFast(
                change=change, limit=P.most_commission_change, earliest_at=earliest
            )
    if (command.commission, command.description) != (validator.commission, validator.description):
        yield (
            validators(command.validator),
            ValidatorEdited(command.commission, command.description, issued.at),
        )


def delegate(command: Delegate, issued: Issued, read: Read) -> Decision:
    validator = known(read, command.validator)
    # Its operator may add to the self-stake, or a validator slashed below its minimum would be locked for ever.
    if validator.jailed and (validator.tombstoned or issued.by != validator.operator):
        raise ValidatorIsJailed(validator=command.validator)
    multiplier = multiplier_for(command.lock_days)
    lot, unlocks_at = BASE_LOT, None
    if command.lock_days:
        lot, unlocks_at = issued.command_id, issued.at + timedelta(days=command.lock_days)
        lots = read(positions, f"{command.validator}:{issued.by}").lots
        if len(lots) >= P.most_lots_a_position:
            raise TooManyLots(validator=command.validator, limit=P.most_lots_a_position)
    yield from settle(read, issued, command.validator, issued.by)
    yield from pay(read, issued, wallet_of(issued.by), BONDED, command.amount, "delegate")
    yield from issue(
        read,
        issued,
        command.validator,
        issued.by,
        command.amount,
        lot=lot,
        multiplier=multiplier,
        unlocks_at=unlocks_at,
    )


def begin_unbonding(command: BeginUnbonding, issued: Issued, read: Read) -> Decision:
    known(read, command.validator)
    lot = read(positions, f"{command.validator}:{issued.by}").lots.get(command.lot)
    if lot is None:
        raise PositionNotFound(validator=command.validator, lot=command.lot)
    _room_for_an_entry(read(unbondings, command.validator).entries.values(), issued.by)
    locked = lot.unlocks_at is not None and issued.at < lot.unlocks_at
    penalty = ceil_div(command.amount * P.early_exit_penalty, BASIS_POINTS) if locked else 0
    rest = command.amount - penalty
    if rest == 0:
        raise AmountIsTooSmall(amount=command.amount, penalty=penalty)
    yield from settle(read, issued, command.validator, issued.by)
    yield from withdraw(read, issued, command.validator, issued.by, command.lot, command.amount)
    if penalty:
        yield from move(read, BONDED, COMMUNITY, penalty, "early-exit")
    yield from move(read, BONDED, UNBONDING, rest, "unbond")
    yield (
        unbondings(command.validator),
        UnbondingBegan(issued.command_id, issued.by, rest, issued.at, issued.at + P.unbonding_period),
    )
    yield from jail_below_minimum(read, issued, command.validator, issued.by)


def _room_for_an_entry(entries: Iterable[Entry | Redelegation], delegator: str) -> None:
    open_ = list(entries)
    if sum(entry.delegator == delegator for entry in open_) >= P.most_entries_a_pair:
        raise TooManyEntries(limit=P.most_entries_a_pair)
    if len(open_) >= P.most_entries_a_validator:
        raise UnbondingQueueIsFull(limit=P.most_entries_a_validator)


def cancel_unbonding(command: CancelUnbonding, issued: Issued, read: Read) -> Decision:
    entry = read(unbondings, command.validator).entries.get(command.entry)
    if entry is None or entry.delegator != issued.by:
        raise EntryNotFound(validator=command.validator, entry=command.entry)
    if issued.at >= entry.matures_at:
        raise UnbondingHasMatured(entry=command.entry, matures_at=entry.matures_at)
    if known(read, command.validator).jailed:
        raise ValidatorIsJailed(validator=command.validator)
    yield from settle(read, issued, command.validator, issued.by)
    yield (
        unbondings(command.validator),
        UnbondingCancelled(command.entry, issued.by, entry.balance),
    )
    if entry.balance:
        yield from move(read, UNBONDING, BONDED, entry.balance, "cancel-unbonding")
        yield from issue(read, issued, command.validator, issued.by, entry.balance)


def complete_unbonding(command: CompleteUnbonding, issued: Issued, read: Read) -> Decision:
    known(read, command.validator)
    entry = read(unbondings, command.validator).entries.get(command.entry)
    if entry is None and issued.is_service:
        return  # It was paid out before.
    if entry is None or (entry.delegator != issued.by and not issued.is_service):
        raise EntryNotFound(validator=command.validator, entry=command.entry)
    if issued.at < entry.matures_at:
        raise UnbondingHasNotMatured(entry=command.entry, matures_at=entry.matures_at)
    yield (
        unbondings(command.validator),
        UnbondingCompleted(command.entry, entry.delegator, entry.balance),
    )
    if entry.balance:
        yield from pay_out(read, UNBONDING, wallet_of(entry.delegator), entry.balance, "unbonded")


def expire_lock(command: ExpireLock, issued: Issued, read: Read) -> Decision:
    known(read, command.validator)
    if command.delegator != issued.by and not issued.is_service:
        raise PositionNotFound(validator=command.validator, lot=command.lot)
    lot = read(positions, f"{command.validator}:{command.delegator}").lots.get(command.lot)
    if lot is None or lot.unlocks_at is None:
        return
    if issued.at < lot.unlocks_at:
        raise LockHasNotExpired(lot=command.lot, unlocks_at=lot.unlocks_at)
    yield from settle(read, issued, command.validator, command.delegator)
    yield positions(command.validator, command.delegator), LockExpired(command.lot)
    less = lot.shares * (lot.multiplier - BASIS_POINTS)
    yield validators(command.validator), WeightReduced(command.delegator, less)


def redelegate(command: Redelegate, issued: Issued, read: Read) -> Decision:
    if command.source == command.target:
        raise RedelegationToItself(validator=command.source)
    known(read, command.source)
    if known(read, command.target).jailed:
        raise ValidatorIsJailed(validator=command.target)
    position = read(positions, f"{command.source}:{issued.by}")
    lot = position.lots.get(command.lot)
    if lot is None:
        raise PositionNotFound(validator=command.source, lot=command.lot)
    if position.redelegated_until is not None and issued.at < position.redelegated_until:
        raise RedelegationIsTransitive(validator=command.source, until=position.redelegated_until)
    entries = read(redelegations, command.source).entries.values()
    _room_for_an_entry([entry for entry in entries if entry.matures_at > issued.at], issued.by)
    matures_at = issued.at + P.unbonding_period
    new_lot = BASE_LOT if lot.unlocks_at is None else issued.command_id
    lots = read(positions, f"{command.target}:{issued.by}").lots
    if new_lot != BASE_LOT and len(lots) >= P.most_lots_a_position:
        raise TooManyLots(validator=command.target, limit=P.most_lots_a_position)
    yield from settle(read, issued, command.source, issued.by)
    yield from settle(read, issued, command.target, issued.by)
    yield from withdraw(read, issued, command.source, issued.by, command.lot, command.amount)
    shares = read(validators, command.target).shares_for(command.amount)
    yield from issue(
        read,
        issued,
        command.target,
        issued.by,
        command.amount,
        lot=new_lot,
        multiplier=lot.multiplier,
        unlocks_at=lot.unlocks_at,
        redelegated_until=matures_at,
    )
    yield (
        redelegations(command.source),
        RedelegationBegan(
            issued.command_id,
            issued.by,
            command.target,
            new_lot,
            command.amount,
            shares,
            issued.at,
            matures_at,
        ),
    )
    yield from jail_below_minimum(read, issued, command.source, issued.by)


def claim_rewards(command: ClaimRewards, issued: Issued, read: Read) -> Decision:
    delegator = command.delegator or issued.by
    validator = known(read, command.validator)
    position = read(positions, f"{command.validator}:{delegator}")
    if delegator != issued.by and not (issued.is_service and position.auto_compound):
        raise PositionNotFound(validator=command.validator, delegator=delegator)
    if not position.lots and delegator != issued.by:
        # All was withdrawn: the timer ends here, and compounding can be set anew.
        yield positions(command.validator, delegator), AutoCompoundSet(False, None)
        return
    if not position.lots:
        raise PositionNotFound(validator=command.validator)
    if position.earned(validator.ratio):
        yield from settle(read, issued, command.validator, delegator, compound=position.auto_compound)
    if delegator != issued.by:
        yield positions(command.validator, delegator), CompoundDue(issued.at + P.compound_every)


def withdraw_commission(command: WithdrawCommission, issued: Issued, read: Read) -> Decision:
    due = owned(read, command.validator, issued).commission_due
    if due:
        yield validators(command.validator), CommissionWithdrawn(due)
        yield from pay_out(read, STAKING, wallet_of(issued.by), due, "commission")


def set_auto_compound(command: SetAutoCompound, issued: Issued, read: Read) -> Decision:
    position = read(positions, f"{command.validator}:{issued.by}")
    if not position.lots:
        raise PositionNotFound(validator=command.validator)
    if position.auto_compound != command.enabled:
        next_at = issued.at + P.compound_every if command.enabled else None
        yield positions(command.validator, issued.by), AutoCompoundSet(command.enabled, next_at)


# Decisions: rewards


def allocate_rewards(command: AllocateRewards, issued: Issued, read: Read) -> Decision:
    """F1 fee distribution (Cosmos SDK x/distribution, 'F1 Fee Distribution', D. Ojha and C. Goes, 2020)."""
    if read(allocations, command.reference).made:
        raise AllocationExists(reference=command.reference)
    may_spend(read, issued, REWARDS)
    if command.amount <= 0:
        raise AmountMustBePositive(amount=command.amount)
    names = read(validator_sets, "all").validators
    everybody = [(name, read(validators, name)) for name in names]
    earning = [(name, v) for name, v in everybody if not v.jailed and v.tokens]
    total = sum(validator.tokens for _, validator in earning)
    staking = 0
    rewards = []
    for name, validator in earning:
        share = floor_div(command.amount * validator.tokens, total)
        if share:
            commission = floor_div(share * validator.commission, BASIS_POINTS)
            rise, community = ratio_rise(validator.weight, share - commission)
            staking += share - community
            rewards.append((name, share, commission, rise, community))
    community = command.amount - staking
    yield allocations(command.reference), AllocationMade(command.amount, staking, community, issued.at)
    if staking:
        yield from move(read, REWARDS, STAKING, staking, "rewards", reference=command.reference)
    if community:
        yield from move(read, REWARDS, COMMUNITY, community, "rewards", reference=command.reference)
    for name, share, commission, rise, left in rewards:
        yield (
            validators(name),
            ValidatorRewarded(command.reference, share, commission, rise, left, issued.at),
        )


def ratio_rise(weight: int, reward: int) -> tuple[int, int]:
    """How far a reward lifts the cumulative ratio (floored, scaled by 10^18), and what of it is left over.

    Whatever the lots are paid for the rise adds up to at most the reward less the rest: each payout is floored.
    """
    if not weight:
        return 0, reward
    rise = floor_div(reward * RATIO_SCALE, weight)
    return rise, reward - ceil_div(weight * rise, RATIO_SCALE)


# Decisions: slashing


def _slashed(command: Slash, events: Events) -> Use:
    """What it burns; one that burns nothing still jails, and counts as one."""
    return Use(SLASH, max(1, sum(event.tokens for event in events if isinstance(event, Slashed))))


@limited(Slash, _slashed)
def slash(command: Slash, issued: Issued, read: Read) -> Decision:
    """Cosmos SDK x/staking Slash: entries created since the infraction pay first, the pool pays the rest."""
    validator = known(read, command.validator)
    fraction = SLASHES.get(command.kind)
    if fraction is None:
        raise SlashKindIsUnknown(kind=command.kind, known=sorted(SLASHES))
    if read(slashes, command.evidence_id).validator:
        raise EvidenceWasUsed(evidence_id=command.evidence_id)
    if command.infraction_at > issued.at:
        raise InfractionIsInTheFuture(infraction_at=command.infraction_at, now=issued.at)
    if command.infraction_at < issued.at - P.unbonding_period:
        raise InfractionIsTooOld(infraction_at=command.infraction_at, limit_days=P.unbonding_period.days)
    power = validator.power_at(command.infraction_at)
    victims: list[Victim] = []
    owed_by_entries = yield from _slash_unbondings(command, issued, read, fraction, victims)
    owed_by_entries += yield from _slash_redelegations(command, issued, read, fraction, victims)
    base = floor_div(power * fraction, BASIS_POINTS)
    bonded = min(max(base - owed_by_entries, 0), read(validators, command.validator).tokens)
    yield validators(command.validator), TokensSlashed(command.evidence_id, command.kind, bonded, issued.at)
    if bonded:
        victims.append(Victim("bonded", command.validator, "", "", bonded))
    yield from _burn_slashed(command, read, victims)
    burned = sum(victim.tokens for victim in victims)
    yield (
        slashes(command.evidence_id),
        Slashed(command.validator, command.kind, command.infraction_at, power, burned, issued.at),
    )
    for start in range(0, len(victims), P.victims_an_event):
        chunk = tuple(victims[start : start + P.victims_an_event])
        yield slashes(command.evidence_id), VictimsListed(chunk)
    if not validator.jailed or (command.kind == "double-sign" and not validator.tombstoned):
        yield (
            validators(command.validator),
            ValidatorJailed(
                command.kind, issued.at, issued.at + P.jail_period, command.kind == "double-sign"
            ),
        )


def _slash_unbondings(
    command: Slash, issued: Issued, read: Read, fraction: int, victims: list[Victim]
) -> Generator[tuple[Ref, object], None, int]:
    """Unbonding entries created since; returns what they owe before any cap."""
    owed = 0
    for id, entry in read(unbondings, command.validator).entries.items():
        if entry.created_at >= command.infraction_at and entry.matures_at > issued.at:
            owes = floor_div(entry.initial * fraction, BASIS_POINTS)
            owed += owes
            taken = min(owes, entry.balance)
            if taken:
                victims.append(Victim("unbonding", command.validator, entry.delegator, id, taken))
                yield (
                    unbondings(command.validator),
                    UnbondingSlashed(id, entry.delegator, command.evidence_id, taken),
                )
    return owed


def _slash_redelegations(
    command: Slash, issued: Issued, read: Read, fraction: int, victims: list[Victim]
) -> Generator[tuple[Ref, object], None, int]:
    """Redelegations created since burn their fraction of the shares at their target, after settling."""
    since = [
        (id, entry)
        for id, entry in read(redelegations, command.validator).entries.items()
        if entry.created_at >= command.infraction_at and entry.matures_at > issued.at
    ]
    owed = 0
    for id, entry in since:
        owes = floor_div(entry.initial * fraction, BASIS_POINTS)
        owed += owes
        due = floor_div(entry.shares * fraction, BASIS_POINTS)
        position = read(positions, f"{entry.target}:{entry.delegator}")
        lot = entry.lot if entry.lot in position.lots else BASE_LOT
        burned = 0
        if due and lot in position.lots:
            yield from settle(read, issued, entry.target, entry.delegator)
            held = read(positions, f"{entry.target}:{entry.delegator}").lots[lot]
            burned = min(due, held.shares)
            tokens = read(validators, entry.target).worth(burned)
            yield from burn_shares(issued, entry.target, entry.delegator, lot, held, tokens, burned)
            if tokens:
                victims.append(Victim("redelegation", entry.target, entry.delegator, id, tokens))
            yield from jail_below_minimum(read, issued, entry.target, entry.delegator)
        if burned < due:
            rest = floor_div(owes * (due - burned), due)
            yield from _slash_fled(command, issued, read, entry, rest, victims)
    return owed


def _slash_fled(
    command: Slash, issued: Issued, read: Read, moved: Redelegation, owes: int, victims: list[Victim]
) -> Decision:
    """Stake that moved and then began to unbond at its target pays from the entries it made there since.

    Cosmos SDK x/staking SlashRedelegation does so too; before, moving twice was a way out of any slash.
    """
    for id, entry in read(unbondings, moved.target).entries.items():
        since = entry.created_at >= moved.created_at and entry.matures_at > issued.at
        taken = min(owes, entry.balance) if since and entry.delegator == moved.delegator else 0
        if taken:
            owes -= taken
            victims.append(Victim("unbonding", moved.target, entry.delegator, id, taken))
            yield (
                unbondings(moved.target),
                UnbondingSlashed(id, entry.delegator, command.evidence_id, taken),
            )


def _burn_slashed(command: Slash, read: Read, victims: list[Victim]) -> Decision:
    for account, kinds in ((BONDED, ("bonded", "redelegation")), (UNBONDING, ("unbonding",))):
        tokens = sum(victim.tokens for victim in victims if victim.kind in kinds)
        if tokens:
            yield from burn(read, account, tokens, "slash", command.evidence_id)


def jail(command: Jail, issued: Issued, read: Read) -> Decision:
    if not known(read, command.validator).jailed:
        yield (
            validators(command.validator),
            ValidatorJailed(command.reason, issued.at, issued.at + P.jail_period),
        )


def unjail(command: Unjail, issued: Issued, read: Read) -> Decision:
    validator = owned(read, command.validator, issued)
    if not validator.jailed:
        raise ValidatorIsNotJailed(validator=command.validator)
    if validator.tombstoned:
        raise ValidatorIsTombstoned(validator=command.validator)
    if validator.jailed_until is not None and issued.at < validator.jailed_until:
        raise JailTimeIsNotOver(validator=command.validator, until=validator.jailed_until)
    stake = self_stake(read, command.validator)
    if stake < validator.minimum_self_stake:
        raise SelfStakeIsTooLow(self_stake=stake, minimum=validator.minimum_self_stake)
    yield validators(command.validator), ValidatorUnjailed(issued.at)


def appeal_slash(command: AppealSlash, issued: Issued, read: Read) -> Decision:
    record = read(slashes, command.evidence_id)
    victims = {victim.delegator for victim in record.victims}
    if not record.validator or record.at is None:
        raise SlashNotFound(evidence_id=command.evidence_id)
    if issued.by not in victims | {read(validators, record.validator).operator}:
        stakes_here = read(positions, f"{record.validator}:{issued.by}").lots
        if not stakes_here:
            raise SlashNotFound(evidence_id=command.evidence_id)
    if record.appealed:
        raise AppealExists(evidence_id=command.evidence_id)
    if issued.at > record.at + P.appeal_period:
        raise AppealIsTooLate(evidence_id=command.evidence_id, until=record.at + P.appeal_period)
    yield slashes(command.evidence_id), SlashAppealed(issued.by, command.grounds, issued.at)


def decide_appeal(command: DecideAppeal, issued: Issued, read: Read) -> Decision:
    record = read(slashes, command.evidence_id)
    if not record.validator:
        raise SlashNotFound(evidence_id=command.evidence_id)
    if not record.appealed or record.decided:
        raise AppealIsNotOpen(evidence_id=command.evidence_id)
    returned = sum(victim.tokens for victim in record.victims) if command.won else 0
    yield slashes(command.evidence_id), AppealDecided(command.won, command.reason, returned)
    if not command.won:
        return
    for victim in record.victims:
        if victim.kind in ("unbonding", "redelegation"):
            wallet = wallet_of(victim.delegator)
            yield from pay_out(read, TREASURY, wallet, victim.tokens, "appeal")
        elif read(validators, victim.validator).shares:
            yield from move(read, TREASURY, BONDED, victim.tokens, "appeal")
            yield (
                validators(victim.validator),
                TokensRestored(command.evidence_id, victim.tokens, issued.at),
            )
        else:  # Nobody is left behind this validator.
            yield from move(read, TREASURY, COMMUNITY, victim.tokens, "appeal")
