"""Staking's read models: validators, positions and their lots, what is unbonding, slashes, rewards a day."""

from __future__ import annotations

from datetime import datetime

from commands._codec import EPOCH
from domain.staking import (
    BASE_LOT,
    AllocationMade,
    AppealDecided,
    AutoCompoundSet,
    CommissionWithdrawn,
    CompoundDue,
    Delegated,
    LockExpired,
    RedelegationBegan,
    RewardsSettled,
    SharesBurned,
    SharesIssued,
    SlashAppealed,
    Slashed,
    TokensRestored,
    TokensSlashed,
    UnbondingBegan,
    UnbondingCancelled,
    UnbondingCompleted,
    UnbondingSlashed,
    Undelegated,
    ValidatorEdited,
    ValidatorJailed,
    ValidatorRegistered,
    ValidatorRewarded,
    ValidatorUnjailed,
    VictimsListed,
    WeightReduced,
)
from projections._engine import Projection, Record, Rows
from projections._tables import Money, Row, Total, table
from projections._timers import schedule, schedule_next, settle, settle_next, timers
from projections.ledger import day_of


@table("staking_validators", key=("validator",))
class Validator(Row):
    validator: str
    operator: str = ""
    description: str = ""
    commission: int = 0
    """Basis points."""
    minimum_self_stake: Money = 0
    tokens: Money = 0
    shares: Total = 0
    weight: Total = 0
    """Sum over all lots of shares * multiplier."""
    ratio: Total = 0
    """Cumulative rewards per weight, scaled by 10^18."""
    commission_due: Money = 0
    rewarded: Total = 0
    """All that was ever allocated to it, commission included, what went to the community pool excluded."""
    jailed: bool = False
    jail_reason: str = ""
    jail_term: int = 0
    """The key of its present or last term in jail."""
    jailed_until: datetime | None = None
    tombstoned: bool = False
    downtime_slashes: int = 0
    double_sign_slashes: int = 0
    slashed: Total = 0
    """Bonded tokens lost to slashes, less those that won appeals gave back."""
    registered_at: datetime = EPOCH


@table("staking_jail_terms", key=("validator", "term"))
class JailTerm(Row):
    validator: str
    term: int
    """The position where it began."""
    reason: str = ""
    begun_at: datetime = EPOCH
    ended_at: datetime | None = None


@table("staking_positions", key=("validator", "delegator"), indexes=("delegator, validator",))
class Position(Row):
    """All that a delegator has behind a validator. All its lots are paid up to one ratio: they are settled
    together, before any of them changes."""

    validator: str
    delegator: str
    shares: Total = 0
    ratio: Total = 0
    settled: Total = 0
    """Rewards paid or compounded so far."""
    compounded: Total = 0
    redelegated_until: datetime | None = None
    auto_compound: bool = False
    compounds_at: datetime | None = None


@table("staking_lots", key=("validator", "delegator", "lot"), indexes=("delegator, validator, lot",))
class Lot(Row):
    """Part of a position: lot 0 is what is not locked; every locked delegation is a lot of its own."""

    validator: str
    delegator: str
    lot: str
    shares: Total = 0
    multiplier: int = 10_000
    unlocks_at: datetime | None = None


@table(
    "staking_unbondings",
    key=("validator", "entry"),
    indexes=("matures_at, validator, entry", "delegator, matures_at"),
)
class Unbonding(Row):
    validator: str
    entry: str
    delegator: str = ""
    initial: Money = 0
    balance: Money = 0
    slashed: Money = 0
    status: str = "open"
    """open, cancelled or completed."""
    created_at: datetime = EPOCH
    matures_at: datetime = EPOCH


@table("staking_redelegations", key=("validator", "entry"), indexes=("delegator, matures_at",))
class Redelegation(Row):
    """What left a validator for another."""

    validator: str
    entry: str
    delegator: str = ""
    target: str = ""
    lot: str = ""
    tokens: Money = 0
    created_at: datetime = EPOCH
    matures_at: datetime = EPOCH


@table("staking_slashes", key=("evidence_id",), indexes=("validator, at",))
class Slash(Row):
    evidence_id: str
    validator: str = ""
    kind: str = ""
    infraction_at: datetime = EPOCH
    power: Money = 0
    tokens: Money = 0
    victims: int = 0
    at: datetime = EPOCH
    status: str = "final"
    """final, appealed, upheld (the appeal was lost) or returned (it was won)."""
    appealed_by: str = ""
    grounds: str = ""
    decision: str = ""
    """The reason that was given for it."""
    returned: Money = 0


@table("staking_victims", key=("evidence_id", "line", "place"))
class Victim(Row):
    evidence_id: str
    line: int
    """The position of the event that lists it."""
    place: int
    kind: str = ""
    validator: str = ""
    delegator: str = ""
    entry: str = ""
    tokens: Money = 0


@table("staking_days", key=("validator", "day"))
class Day(Row):
    """What a validator was allocated on a day (UTC)."""

    validator: str
    day: str
    """YYYY-MM-DD."""
    allocations: int = 0
    commission: Total = 0
    delegators: Total = 0
    """What all positions together earned."""
    community: Total = 0
    tokens: Money = 0
    """Behind the validator at the last allocation of the day."""


@table("staking_allocations", key=("reference",))
class Allocation(Row):
    reference: str
    tokens: Money = 0
    staking: Money = 0
    community: Money = 0
    at: datetime = EPOCH


staking = Projection(
    "staking",
    Validator,
    JailTerm,
    Position,
    Lot,
    Unbonding,
    Redelegation,
    Slash,
    Victim,
    Day,
    Allocation,
)


def _pair(record: Record) -> tuple[str, str]:
    """Validator and delegator of a position's stream, `position:v1:ana`."""
    validator, _, delegator = record.id.partition(":")
    return validator, delegator


# Validators


@staking.on(ValidatorRegistered)
def validator_registered(rows: Rows, event: ValidatorRegistered, record: Record) -> None:
    row = rows.of(Validator, record.id)
    row.operator, row.description, row.commission = event.operator, event.description, event.commission
    row.minimum_self_stake, row.registered_at = event.minimum_self_stake, event.at


@staking.on(ValidatorEdited)
def validator_edited(rows: Rows, event: ValidatorEdited, record: Record) -> None:
    row = rows.of(Validator, record.id)
    row.commission, row.description = event.commission, event.description


@staking.on(SharesIssued)
def shares_issued(rows: Rows, event: SharesIssued, record: Record) -> None:
    row = rows.of(Validator, record.id)
    row.tokens += event.tokens
    row.shares += event.shares
    row.weight += event.weight


@staking.on(SharesBurned)
def shares_burned(rows: Rows, event: SharesBurned, record: Record) -> None:
    row = rows.of(Validator, record.id)
    row.tokens -= event.tokens
    row.shares -= event.shares
    row.weight -= event.weight


@staking.on(WeightReduced)
def weight_reduced(rows: Rows, event: WeightReduced, record: Record) -> None:
    rows.of(Validator, record.id).weight -= event.weight


@staking.on(TokensSlashed)
def tokens_slashed(rows: Rows, event: TokensSlashed, record: Record) -> None:
    row = rows.of(Validator, record.id)
    row.tokens -= event.tokens
    row.slashed += event.tokens
    if event.kind == "downtime":
        row.downtime_slashes += 1
    else:
        row.double_sign_slashes += 1


@staking.on(TokensRestored)
def tokens_restored(rows: Rows, event: TokensRestored, record: Record) -> None:
    row = rows.of(Validator, record.id)
    row.tokens += event.tokens
    row.slashed -= event.tokens


@staking.on(ValidatorRewarded)
def validator_rewarded(rows: Rows, event: ValidatorRewarded, record: Record) -> None:
    row = rows.of(Validator, record.id)
    row.ratio += event.ratio
    row.commission_due += event.commission
    row.rewarded += event.tokens - event.community
    day = rows.of(Day, record.id, day_of(record))
    day.allocations += 1
    day.commission += event.commission
    day.delegators += event.tokens - event.commission - event.community
    day.community += event.community
    day.tokens = row.tokens


@staking.on(CommissionWithdrawn)
def commission_withdrawn(rows: Rows, event: CommissionWithdrawn, record: Record) -> None:
    rows.of(Validator, record.id).commission_due -= event.tokens


@staking.on(ValidatorJailed)
def validator_jailed(rows: Rows, event: ValidatorJailed, record: Record) -> None:
    row = rows.of(Validator, record.id)
    if not row.jailed:
        term = rows.of(JailTerm, record.id, record.position)
        term.reason, term.begun_at = event.reason, event.at
        row.jailed, row.jail_term = True, record.position
    row.jail_reason, row.jailed_until = event.reason, event.until
    row.tombstoned = row.tombstoned or event.tombstoned


@staking.on(ValidatorUnjailed)
def validator_unjailed(rows: Rows, event: ValidatorUnjailed, record: Record) -> None:
    row = rows.of(Validator, record.id)
    rows.of(JailTerm, record.id, row.jail_term).ended_at = event.at
    row.jailed, row.jail_reason, row.jailed_until = False, "", None


# Positions


@staking.on(Delegated)
def delegated(rows: Rows, event: Delegated, record: Record) -> None:
    position, lot = rows.of(Position, *_pair(record)), rows.of(Lot, *_pair(record), event.lot)
    position.shares += event.shares
    position.ratio = event.ratio
    until = event.redelegated_until
    if until is not None and (position.redelegated_until is None or until > position.redelegated_until):
        position.redelegated_until = until
    lot.shares += event.shares
    lot.multiplier, lot.unlocks_at = event.multiplier, event.unlocks_at


@staking.on(Undelegated)
def undelegated(rows: Rows, event: Undelegated, record: Record) -> None:
    lot = rows.of(Lot, *_pair(record), event.lot)
    lot.shares -= event.shares
    rows.of(Position, *_pair(record)).shares -= event.shares
    if not lot.shares:
        rows.delete(Lot, *_pair(record), event.lot)


@staking.on(LockExpired)
def lock_expired(rows: Rows, event: LockExpired, record: Record) -> None:
    freed = rows.of(Lot, *_pair(record), event.lot).shares
    rows.of(Lot, *_pair(record), BASE_LOT).shares += freed
    rows.delete(Lot, *_pair(record), event.lot)


@staking.on(RewardsSettled)
def rewards_settled(rows: Rows, event: RewardsSettled, record: Record) -> None:
    position = rows.of(Position, *_pair(record))
    position.ratio = event.ratio
    position.settled += event.tokens
    if event.compounded:
        position.compounded += event.tokens


@staking.on(AutoCompoundSet)
def auto_compound_set(rows: Rows, event: AutoCompoundSet, record: Record) -> None:
    position = rows.of(Position, *_pair(record))
    position.auto_compound, position.compounds_at = event.enabled, event.next_at


@staking.on(CompoundDue)
def compound_due(rows: Rows, event: CompoundDue, record: Record) -> None:
    rows.of(Position, *_pair(record)).compounds_at = event.next_at


# Unbonding and redelegation


@staking.on(UnbondingBegan)
def unbonding_began(rows: Rows, event: UnbondingBegan, record: Record) -> None:
    row = rows.of(Unbonding, record.id, event.entry)
    row.delegator, row.initial, row.balance = event.delegator, event.tokens, event.tokens
    row.created_at, row.matures_at = event.created_at, event.matures_at


@staking.on(UnbondingSlashed)
def unbonding_slashed(rows: Rows, event: UnbondingSlashed, record: Record) -> None:
    row = rows.of(Unbonding, record.id, event.entry)
    row.balance -= event.tokens
    row.slashed += event.tokens


@staking.on(UnbondingCancelled)
def unbonding_cancelled(rows: Rows, event: UnbondingCancelled, record: Record) -> None:
    row = rows.of(Unbonding, record.id, event.entry)
    row.balance, row.status = 0, "cancelled"


@staking.on(UnbondingCompleted)
def unbonding_completed(rows: Rows, event: UnbondingCompleted, record: Record) -> None:
    row = rows.of(Unbonding, record.id, event.entry)
    row.balance, row.status = 0, "completed"


@staking.on(RedelegationBegan)
def redelegation_began(rows: Rows, event: RedelegationBegan, record: Record) -> None:
    row = rows.of(Redelegation, record.id, event.entry)
    row.delegator, row.target, row.lot, row.tokens = event.delegator, event.target, event.lot, event.tokens
    row.created_at, row.matures_at = event.created_at, event.matures_at


# Slashes and allocations


@staking.on(Slashed)
def slashed(rows: Rows, event: Slashed, record: Record) -> None:
    row = rows.of(Slash, record.id)
    row.validator, row.kind, row.infraction_at = event.validator, event.kind, event.infraction_at
    row.power, row.tokens, row.at = event.power, event.tokens, event.at


@staking.on(VictimsListed)
def victims_listed(rows: Rows, event: VictimsListed, record: Record) -> None:
    rows.of(Slash, record.id).victims += len(event.victims)
    for place, v in enumerate(event.victims):
        rows.add(
            Victim(record.id, record.position, place, v.kind, v.validator, v.delegator, v.entry, v.tokens)
        )


@staking.on(SlashAppealed)
def slash_appealed(rows: Rows, event: SlashAppealed, record: Record) -> None:
    row = rows.of(Slash, record.id)
    row.status, row.appealed_by, row.grounds = "appealed", event.by, event.grounds


@staking.on(AppealDecided)
def appeal_decided(rows: Rows, event: AppealDecided, record: Record) -> None:
    row = rows.of(Slash, record.id)
    row.status = "returned" if event.won else "upheld"
    row.decision, row.returned = event.reason, event.tokens


@staking.on(AllocationMade)
def allocation_made(rows: Rows, event: AllocationMade, record: Record) -> None:
    row = rows.of(Allocation, record.id)
    row.tokens, row.staking, row.community, row.at = event.tokens, event.staking, event.community, event.at


# Timers


def _maturity(record: Record, entry: str) -> str:
    return f"unbonding:{record.id}:{entry}"


def _expiry(record: Record, lot: str) -> str:
    return f"lock:{record.id}:{lot}"


@timers.on(UnbondingBegan)
def when_an_unbonding_began_it_completes_in_time(rows: Rows, event: UnbondingBegan, record: Record) -> None:
    timer = _maturity(record, event.entry)
    body = {"validator": record.id, "entry": event.entry}
    schedule(rows, timer, record, event.matures_at, "staking", "complete-unbonding", **body)


@timers.on(UnbondingCancelled)
def when_an_unbonding_is_cancelled_nothing_matures(
    rows: Rows, event: UnbondingCancelled, record: Record
) -> None:
    settle(rows, _maturity(record, event.entry))


@timers.on(UnbondingCompleted)
def when_an_unbonding_is_completed_its_timer_is_done(
    rows: Rows, event: UnbondingCompleted, record: Record
) -> None:
    settle(rows, _maturity(record, event.entry))


@timers.on(Delegated)
def when_a_lot_is_locked_its_lock_expires(rows: Rows, event: Delegated, record: Record) -> None:
    if event.unlocks_at is not None:
        validator, delegator = _pair(record)
        body = {"validator": validator, "delegator": delegator, "lot": event.lot}
        timer = _expiry(record, event.lot)
        schedule(rows, timer, record, event.unlocks_at, "staking", "expire-lock", **body)


@timers.on(LockExpired)
def when_a_lock_has_expired_its_timer_is_done(rows: Rows, event: LockExpired, record: Record) -> None:
    settle(rows, _expiry(record, event.lot))


@timers.on(AutoCompoundSet)
def when_compounding_is_set_it_falls_due(rows: Rows, event: AutoCompoundSet, record: Record) -> None:
    if event.next_at is not None:
        _compound(rows, record, event.next_at)
    else:
        settle_next(rows, f"compound:{record.id}")


@timers.on(CompoundDue)
def when_a_position_compounded_it_falls_due_again(rows: Rows, event: CompoundDue, record: Record) -> None:
    _compound(rows, record, event.next_at)


def _compound(rows: Rows, record: Record, due_at: datetime) -> None:
    validator, delegator = _pair(record)
    body = {"validator": validator, "delegator": delegator}
    schedule_next(rows, f"compound:{record.id}", record, due_at, "staking", "claim-rewards", **body)
