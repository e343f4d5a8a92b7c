"""What people ask of staking: markets that everybody may read, and a delegator's own affairs.

Rates are whole basis points, rounded down once at the end of their formula. T and S are a validator's tokens and
shares, as in `domain.staking`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from commands._codec import EPOCH
from domain._kernel import Id
from projections._tables import Money, Total
from queries._query import FOR_EVER, SEES_ALL, Context

staking = Context(__name__)


@dataclass(frozen=True, slots=True)
class OfValidator:
    validator: Id = ""


@dataclass(frozen=True, slots=True)
class Validator:
    """A validator as delegators choose by. `tokens` (T) are its power, `share` its part of all bonded tokens;
    `self_stake` = floor(operator's shares * T / S).

    `uptime` = floor(10000 * (window - time in jail within it) / window), the window being the last 30 days or, if
    that is shorter, the time since it was registered. `apr` = floor(10000 * 365 * R / (n * T)), R being what its
    delegators were allocated in the last n days (UTC, today included): 30, or as many as it exists; 0 where T is
    0. Both are in basis points, as of the last event that the answer reflects.
    """

    validator: str
    operator: str
    description: str
    commission: int
    tokens: Money
    shares: Total
    share: int
    self_stake: Money
    minimum_self_stake: Money
    delegators: int
    jailed: bool
    jail_reason: str
    jailed_until: datetime | None
    tombstoned: bool
    downtime_slashes: int
    double_sign_slashes: int
    slashed: Total
    uptime: int
    apr: int
    rewarded: Total
    commission_due: Money
    registered_at: datetime
    version: int
    incomplete: bool


_VALIDATORS = """
SELECT validator, operator, description, commission, tokens, shares,
       coalesce(div(tokens * 10000, nullif(bonded, 0)), 0)::bigint AS share,
       coalesce(div(own_shares * tokens, nullif(shares, 0)), 0) AS self_stake, minimum_self_stake,
       delegators, jailed, jail_reason, jailed_until, tombstoned, downtime_slashes, double_sign_slashes, slashed,
       coalesce(div(10000 * (window_us - jailed_us), nullif(window_us, 0)), 10000)::bigint AS uptime,
       least(coalesce(div(10000 * 365 * recent, nullif(days * tokens, 0)), 0), 9007199254740991)::bigint AS apr,
       rewarded, commission_due, registered_at, version, incomplete
FROM (
    SELECT v.*, v.position AS version, sum(tokens) OVER () AS bonded,
           least((live.as_of AT TIME ZONE 'UTC')::date - (registered_at AT TIME ZONE 'UTC')::date + 1, 30) AS days,
           round(extract(epoch FROM live.as_of - begun) * 1000000) AS window_us,
           (SELECT coalesce(sum(round(1000000 * extract(epoch FROM
                       greatest(coalesce(j.ended_at, live.as_of), begun) - greatest(j.begun_at, begun)))), 0)
            FROM read.staking_jail_terms j
            WHERE (j.zone, j.generation, j.validator) = (v.zone, v.generation, v.validator)) AS jailed_us,
           (SELECT coalesce(sum(d.delegators), 0) FROM read.staking_days d
            WHERE (d.zone, d.generation, d.validator) = (v.zone, v.generation, v.validator)
              AND d.day::date > (live.as_of AT TIME ZONE 'UTC')::date - 30) AS recent,
           (SELECT count(*) FROM read.staking_positions p
            WHERE (p.zone, p.generation, p.validator) = (v.zone, v.generation, v.validator) AND p.shares > 0
           ) AS delegators,
           (SELECT p.shares FROM read.staking_positions p
            WHERE (p.zone, p.generation, p.validator, p.delegator)
                = (v.zone, v.generation, v.validator, v.operator)) AS own_shares
    FROM read.staking_validators v JOIN live USING (zone, generation)
    CROSS JOIN LATERAL (SELECT greatest(registered_at, live.as_of - interval '30 days') AS begun) w
) found
"""

staking.get(
    "validators",
    Validator,
    _VALIDATORS + "WHERE %(validator)s = '' OR validator = %(validator)s",
    key=("validator",),
    parameters=OfValidator,
)


@dataclass(frozen=True, slots=True)
class OfPositions:
    delegator: Id = ""
    validator: Id = ""


@dataclass(frozen=True, slots=True)
class Position:
    """What a delegator has behind a validator: `tokens` = floor(shares * T / S), and `pending`, the rewards that
    were not settled yet: the sum over its lots of floor(weight * (ratio - ratio it is paid up to) / 10^18), with
    weight = shares * multiplier (F1). `lots` tells the same for each lot; lot 0 is what is not locked."""

    validator: str
    delegator: str
    shares: Total
    tokens: Money
    pending: Money
    settled: Total
    compounded: Total
    lots: list[dict[str, Any]]
    auto_compound: bool
    compounds_at: datetime | None
    redelegated_until: datetime | None
    validator_jailed: bool
    version: int
    incomplete: bool


_POSITIONS = """
SELECT p.validator, p.delegator, p.shares, coalesce(div(p.shares * v.tokens, nullif(v.shares, 0)), 0) AS tokens,
       l.pending, p.settled, p.compounded, l.lots, p.auto_compound, p.compounds_at, p.redelegated_until,
       v.jailed AS validator_jailed, greatest(p.position, v.position) AS version,
       p.incomplete OR v.incomplete OR l.incomplete AS incomplete
FROM read.staking_positions p JOIN live USING (zone, generation)
JOIN read.staking_validators v USING (zone, generation, validator)
CROSS JOIN LATERAL (
    SELECT coalesce(sum(pending), 0) AS pending, coalesce(bool_or(x.incomplete), false) AS incomplete,
           jsonb_agg(jsonb_build_object(
               'lot', lot, 'shares', x.shares::text, 'multiplier', multiplier, 'pending', pending::text,
               'tokens', coalesce(div(x.shares * v.tokens, nullif(v.shares, 0)), 0)::text,
               'unlocks_at', to_char(unlocks_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
           ) ORDER BY lot) AS lots
    FROM read.staking_lots x
    CROSS JOIN LATERAL (
        SELECT div(x.shares * x.multiplier * (v.ratio - p.ratio), 1000000000000000000) AS pending
    ) earned
    WHERE (x.zone, x.generation, x.validator, x.delegator) = (p.zone, p.generation, p.validator, p.delegator)
) l
WHERE p.shares > 0
"""

staking.get(
    "positions",
    Position,
    _POSITIONS + "AND p.delegator = %(delegator)s AND (%(validator)s = '' OR p.validator = %(validator)s)",
    key=("validator", "delegator"),
    parameters=OfPositions,
    own="delegator",
)


@dataclass(frozen=True, slots=True)
class BehindValidator:
    validator: Id


staking.get(
    "delegators",
    Position,
    _POSITIONS + "AND p.validator = %(validator)s",
    key=("validator", "delegator"),
    parameters=BehindValidator,
    roles=SEES_ALL,
)


@dataclass(frozen=True, slots=True)
class OfUnbonding:
    delegator: Id = ""
    validator: Id = ""
    status: Id = "open"
    since: datetime = EPOCH
    until: datetime = FOR_EVER


@dataclass(frozen=True, slots=True)
class Unbonding:
    """An unbonding entry, in the order in which they mature; `balance` is what it still holds (initial less
    slashed while it is open). `status` is open, cancelled or completed. Participants see their own, operators and
    auditors those of the whole zone."""

    entry: str
    validator: str
    delegator: str
    initial: Money
    balance: Money
    slashed: Money
    status: str
    created_at: datetime
    matures_at: datetime
    version: int
    incomplete: bool


staking.get(
    "unbonding-calendar",
    Unbonding,
    """
    SELECT entry, validator, delegator, initial, balance, slashed, status, created_at, matures_at,
           u.position AS version, incomplete
    FROM read.staking_unbondings u JOIN live USING (zone, generation)
    WHERE (%(sees_all)s OR delegator = %(principal)s)
      AND (%(delegator)s = '' OR delegator = %(delegator)s) AND (%(validator)s = '' OR validator = %(validator)s)
      AND status = %(status)s AND matures_at >= %(since)s AND matures_at < %(until)s
    """,
    key=("matures_at", "validator", "entry"),
    parameters=OfUnbonding,
    own="delegator",
)


@dataclass(frozen=True, slots=True)
class OfDelegator:
    delegator: Id = ""


@dataclass(frozen=True, slots=True)
class Redelegation:
    """Tokens that a delegator moved from one validator to another; until it matures, a slash of the first for an
    earlier infraction reaches them, and the position at the second may not be redelegated."""

    matures_at: datetime
    entry: str
    delegator: str
    validator: str
    target: str
    lot: str
    tokens: Money
    created_at: datetime
    version: int
    incomplete: bool


staking.get(
    "redelegations",
    Redelegation,
    """
    SELECT matures_at, entry, delegator, validator, target, lot, tokens, created_at, r.position AS version,
           incomplete
    FROM read.staking_redelegations r JOIN live USING (zone, generation)
    WHERE delegator = %(delegator)s
    """,
    key=("matures_at", "entry"),
    descending=True,
    parameters=OfDelegator,
    own="delegator",
)


@dataclass(frozen=True, slots=True)
class Slash:
    """A slash, newest first: `power` are the validator's tokens at the infraction, `tokens` all that was burned.
    `status` is final, appealed, upheld (the appeal was lost) or returned (it was won); `returned` is what was
    given back."""

    at: datetime
    evidence_id: str
    validator: str
    kind: str
    infraction_at: datetime
    power: Money
    tokens: Money
    victims: int
    status: str
    appealed_by: str
    grounds: str
    decision: str
    returned: Money
    version: int
    incomplete: bool


staking.get(
    "slash-log",
    Slash,
    """
    SELECT at, evidence_id, validator, kind, infraction_at, power, tokens, victims, status, appealed_by, grounds,
           decision, returned, s.position AS version, incomplete
    FROM read.staking_slashes s JOIN live USING (zone, generation)
    WHERE %(validator)s = '' OR validator = %(validator)s
    """,
    key=("at", "evidence_id"),
    descending=True,
    parameters=OfValidator,
)


@dataclass(frozen=True, slots=True)
class OfSlash:
    evidence_id: Id


@dataclass(frozen=True, slots=True)
class Victim:
    """Who lost what by a slash: a pool as a whole (bonded; `delegator` is empty), an unbonding entry or what was
    redelegated. Participants see the pools, and what they lost themselves."""

    evidence_id: str
    line: int
    place: int
    kind: str
    validator: str
    delegator: str
    entry: str
    tokens: Money
    version: int
    incomplete: bool


staking.get(
    "slash-victims",
    Victim,
    """
    SELECT evidence_id, line, place, kind, validator, delegator, entry, tokens, v.position AS version, incomplete
    FROM read.staking_victims v JOIN live USING (zone, generation)
    WHERE evidence_id = %(evidence_id)s AND (%(sees_all)s OR delegator IN ('', %(principal)s))
    """,
    key=("line", "place"),
    parameters=OfSlash,
)


@dataclass(frozen=True, slots=True)
class JailTerm:
    """A validator's time in jail, newest first; `ended_at` is null while it lasts."""

    begun_at: datetime
    validator: str
    term: int
    reason: str
    ended_at: datetime | None
    version: int
    incomplete: bool


staking.get(
    "jail-log",
    JailTerm,
    """
    SELECT begun_at, validator, term, reason, ended_at, j.position AS version, incomplete
    FROM read.staking_jail_terms j JOIN live USING (zone, generation)
    WHERE %(validator)s = '' OR validator = %(validator)s
    """,
    key=("term", "validator"),
    descending=True,
    parameters=OfValidator,
)


@dataclass(frozen=True, slots=True)
class AprOfDay:
    """What a validator's delegators earned on a day (UTC), newest first; days without an allocation are left out.
    `apr` = floor(10000 * 365 * delegators / tokens) in basis points, `tokens` being those behind the validator at
    the day's last allocation; commission and what went to the community pool are not part of it."""

    day: str
    validator: str
    apr: int
    allocations: int
    delegators: Total
    commission: Total
    community: Total
    tokens: Money
    version: int
    incomplete: bool


staking.get(
    "apr-history",
    AprOfDay,
    """
    SELECT day, validator,
           least(coalesce(div(10000 * 365 * delegators, nullif(tokens, 0)), 0), 9007199254740991)::bigint AS apr,
           allocations, delegators, commission, community, tokens, d.position AS version, incomplete
    FROM read.staking_days d JOIN live USING (zone, generation)
    WHERE %(validator)s = '' OR validator = %(validator)s
    """,
    key=("day", "validator"),
    descending=True,
    parameters=OfValidator,
)


@dataclass(frozen=True, slots=True)
class Allocation:
    """Tokens of the rewards pool that were shared out, newest first: tokens = staking + community."""

    at: datetime
    reference: str
    tokens: Money
    staking: Money
    community: Money
    version: int
    incomplete: bool


staking.get(
    "allocations",
    Allocation,
    """
    SELECT at, reference, tokens, staking, community, a.position AS version, incomplete
    FROM read.staking_allocations a JOIN live USING (zone, generation)
    """,
    key=("at", "reference"),
    descending=True,
)


@dataclass(frozen=True, slots=True)
class Leader:
    """Delegators by their bonded tokens, the largest first: the sum over their positions of floor(shares * T / S).
    `share` is their part of all bonded tokens in basis points, rounded down."""

    tokens: Money
    delegator: str
    rank: int
    share: int
    validators: int
    version: int
    incomplete: bool


staking.get(
    "leaderboard",
    Leader,
    """
    SELECT tokens, delegator, row_number() OVER (ORDER BY tokens DESC, delegator DESC) AS rank,
           coalesce(div(tokens * 10000, nullif(bonded, 0)), 0)::bigint AS share, validators, version, incomplete
    FROM (
        SELECT delegator, sum(div(p.shares * v.tokens, v.shares)) AS tokens, count(*) AS validators,
               max(greatest(p.position, v.position)) AS version,
               bool_or(p.incomplete OR v.incomplete) AS incomplete
        FROM read.staking_positions p JOIN live USING (zone, generation)
        JOIN read.staking_validators v USING (zone, generation, validator)
        WHERE p.shares > 0 AND v.shares > 0
        GROUP BY delegator
    ) stakes
    CROSS JOIN (
        SELECT sum(tokens) AS bonded FROM read.staking_validators JOIN live USING (zone, generation)
    ) everything
    """,
    key=("tokens", "delegator"),
    descending=True,
)


@dataclass(frozen=True, slots=True)
class LeadingValidator:
    """Validators by power, the largest first; `share` is their part of all bonded tokens in basis points."""

    tokens: Money
    validator: str
    rank: int
    share: int
    commission: int
    delegators: int
    jailed: bool
    version: int
    incomplete: bool


staking.get(
    "validator-leaderboard",
    LeadingValidator,
    f"""
    SELECT tokens, validator, row_number() OVER (ORDER BY tokens DESC, validator DESC) AS rank, share, commission,
           delegators, jailed, version, incomplete
    FROM ({_VALIDATORS}) ranked
    """,  # noqa: S608 - made of our own text only
    key=("tokens", "validator"),
    descending=True,
)
