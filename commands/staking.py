"""Staking's commands over HTTP."""

from commands._routes import ANYONE, OPERATOR, PARTICIPANT, Context
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
    Redelegate,
    RegisterValidator,
    SetAutoCompound,
    Slash,
    Unjail,
    WithdrawCommission,
    allocations,
    positions,
    slashes,
    unbondings,
    validators,
)

staking = Context(__name__)

staking.post(RegisterValidator, PARTICIPANT, lambda c, by: validators(c.validator))
staking.post(EditValidator, PARTICIPANT, lambda c, by: validators(c.validator))
staking.post(Delegate, PARTICIPANT, lambda c, by: positions(c.validator, by))
staking.post(BeginUnbonding, PARTICIPANT, lambda c, by: positions(c.validator, by))
staking.post(CancelUnbonding, PARTICIPANT, lambda c, by: unbondings(c.validator))
staking.post(CompleteUnbonding, ANYONE, lambda c, by: unbondings(c.validator))
staking.post(ExpireLock, ANYONE, lambda c, by: positions(c.validator, c.delegator))
staking.post(Redelegate, PARTICIPANT, lambda c, by: positions(c.source, by))
staking.post(ClaimRewards, ANYONE, lambda c, by: positions(c.validator, c.delegator or by))
staking.post(WithdrawCommission, PARTICIPANT, lambda c, by: validators(c.validator))
staking.post(SetAutoCompound, PARTICIPANT, lambda c, by: positions(c.validator, by))
staking.post(AllocateRewards, OPERATOR, lambda c, by: allocations(c.reference))
staking.post(Slash, OPERATOR, lambda c, by: slashes(c.evidence_id))
staking.post(Jail, OPERATOR, lambda c, by: validators(c.validator))
staking.post(Unjail, PARTICIPANT, lambda c, by: validators(c.validator))
staking.post(AppealSlash, PARTICIPANT, lambda c, by: slashes(c.evidence_id))
staking.post(DecideAppeal, OPERATOR, lambda c, by: slashes(c.evidence_id))
