"""Contracts for those who made them: terms, escrow, periods, service levels; and what everybody may know of a provider.

A contract is its customer's and its provider's; to other participants there is no such contract.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from commands._codec import EPOCH
from domain._kernel import Id
from projections._tables import Money, Total
from queries._query import FOR_EVER, Context

marketplace = Context("marketplace")

_MINE = "(%(sees_all)s OR c.customer = %(principal)s OR c.provider = %(principal)s)"

_LEFT = "c.deposited - c.paid - c.fees - c.penalties - c.refunded"
"""What remains in the escrow."""

_ATTAINMENT = (
    "div(10000 * ({0}.windows - {0}.excused - {0}.missed), nullif({0}.windows - {0}.excused, 0))::bigint"
)
"""The part of the windows that count in which nothing was missed, in basis points, rounded down; null without any."""


@dataclass(frozen=True, slots=True)
class OneContract:
    contract: Id


# A contract


@dataclass(frozen=True, slots=True)
class Contract:
    """All about a contract, for its parties, operators and auditors.

    `terms` is what both agreed on: `price` is that of one unit for one hour, the indicators' levels are those of the
    tier, `fee` and `penalty` are in basis points. `escrow` holds the parts of its equation, deposited = paid + fees +
    penalties (returned to the customer) + refunded + remaining; `netted` what a contract without escrow made due.
    `usage` is in unit-milliseconds, cumulative. `next` is the period that settles next and when it does. `periods` are
    those settled last, newest first, at most 24; the query `periods` has all. `disputes` is their history.
    A renewal holds its units from the end of the contract that it renews.
    """

    contract: str
    customer: str
    provider: str
    offering: str
    device: str
    service_type: str
    region: str
    status: str
    terms: dict[str, Any]
    charge: Money
    """Of the whole term."""
    charged: Total
    escrow: dict[str, Any]
    netted: dict[str, Any]
    usage: dict[str, Any]
    service_level: dict[str, Any]
    next: dict[str, Any] | None
    periods: list[dict[str, Any]]
    disputes: list[dict[str, Any]]
    in_dispute: bool
    holds_capacity: bool
    request: str
    renews: str
    renewal: str
    opened_at: datetime
    start_by: datetime
    started_at: datetime | None
    ends_at: datetime | None
    paused_at: datetime | None
    ended_at: datetime | None
    ended_by: str
    reason: str
    notice: Money
    rating: int
    version: int
    incomplete: bool


_TIME = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""

_VIEW = f"""
SELECT c.contract, c.customer, c.provider, c.offering, c.device, c.service_type, c.region, c.status,
       jsonb_build_object(
           'units', c.units, 'minutes', c.minutes, 'price', c.price::text, 'pricing', c.pricing,
           'settlement', c.settlement, 'tier', c.tier, 'p95_ms', c.p95_ms, 'uptime_bp', c.uptime_bp,
           'errors_bp', c.errors_bp, 'period_minutes', c.period_minutes, 'window_minutes', c.window_minutes,
           'grace_minutes', c.grace_minutes, 'notice_minutes', c.notice_minutes,
           'breach_windows', c.breach_windows, 'fee', c.fee, 'penalty', c.penalty) AS terms,
       c.charge, c.charged,
       jsonb_build_object(
           'deposited', c.deposited::text, 'paid', c.paid::text, 'fees', c.fees::text,
           'penalties', c.penalties::text, 'refunded', c.refunded::text, 'remaining', ({_LEFT})::text,
           'unpaid', c.unpaid::text) AS escrow,
       jsonb_build_object('owed', c.owed::text, 'fees', c.owed_fees::text, 'penalties', c.owed_penalties::text)
           AS netted,
       jsonb_build_object(
           'seq', c.meter_seq, 'metered', c.metered_ms::text, 'charged', c.charged_ms::text,
           'metered_at', {_TIME.format("c.metered_at")}, 'pauses', c.pauses, 'paused_ms', c.paused_ms) AS usage,
       jsonb_build_object(
           'windows', c.windows, 'excused', c.excused, 'missed', c.missed, 'missed_p95', c.missed_p95,
           'missed_uptime', c.missed_uptime, 'missed_errors', c.missed_errors,
           'attainment', {_ATTAINMENT.format("c")}, 'breached_at', {_TIME.format("c.breached_at")}) AS service_level,
       CASE WHEN c.due_at IS NOT NULL THEN jsonb_build_object(
           'period', c.next_period, 'due_at', {_TIME.format("c.due_at")}) END AS next,
       p.periods, d.disputes, c.dispute <> '' AS in_dispute, c.holds_capacity, c.request, c.renews, c.renewal,
       c.opened_at, c.start_by, c.started_at, c.ends_at, c.paused_at, c.ended_at, c.ended_by, c.reason, c.notice,
       c.rating, c.position AS version, c.incomplete OR p.incomplete AS incomplete
FROM read.marketplace_contracts c JOIN live USING (zone, generation)
CROSS JOIN LATERAL (
    SELECT coalesce(bool_or(x.incomplete), false) AS incomplete, coalesce(jsonb_agg(jsonb_build_object(
               'period', period, 'begins_at', {_TIME.format("begins_at")}, 'ends_at', {_TIME.format("ends_at")},
               'unit_ms', unit_ms::text, 'charge', charge::text, 'penalty', penalty::text, 'fee', fee::text,
               'paid', paid::text, 'owed', owed::text, 'unpaid', unpaid::text
           ) ORDER BY period DESC), '[]') AS periods
    FROM (
        SELECT * FROM read.marketplace_periods s
        WHERE (s.zone, s.generation, s.contract) = (c.zone, c.generation, c.contract)
        ORDER BY period DESC LIMIT 24
    ) x
) p
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_agg(jsonb_build_object(
               'dispute', dispute, 'by', by, 'at', {_TIME.format("at")}, 'remaining', remaining::text,
               'to_customer', to_customer::text, 'to_provider', to_provider::text,
               'decided_at', {_TIME.format("decided_at")}
           ) ORDER BY at, dispute), '[]') AS disputes
    FROM read.marketplace_disputes x
    WHERE (x.zone, x.generation, x.contract) = (c.zone, c.generation, c.contract)
) d
WHERE c.contract = %(contract)s AND {_MINE}
"""  # noqa: S608 - made of our own declarations only

marketplace.get(
    "contract",
    Contract,
    _VIEW,
    key=("contract",),
    parameters=OneContract,
    single=True,
    projection="contracts",
)


@dataclass(frozen=True, slots=True)
class OfContracts:
    """`side` is customer or provider; left out for either."""

    party: Id = ""
    side: Id = ""
    status: Id = ""
    offering: Id = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """A party's contract, newest first; operators and auditors see everybody's where they name no party. `remaining` is
    what is left in its escrow, `due_at` when its next period settles."""

    opened_at: datetime
    contract: str
    customer: str
    provider: str
    offering: str
    service_type: str
    region: str
    tier: str
    status: str
    units: int
    minutes: int
    price: Money
    pricing: str
    settlement: str
    charge: Money
    charged: Total
    remaining: Money
    in_dispute: bool
    started_at: datetime | None
    ends_at: datetime | None
    due_at: datetime | None
    ended_at: datetime | None
    version: int
    incomplete: bool


marketplace.get(
    "contracts",
    Listed,
    f"""
    SELECT c.opened_at, c.contract, c.customer, c.provider, c.offering, c.service_type, c.region, c.tier, c.status,
           c.units, c.minutes, c.price, c.pricing, c.settlement, c.charge, c.charged, {_LEFT} AS remaining,
           c.dispute <> '' AS in_dispute, c.started_at, c.ends_at, c.due_at, c.ended_at, c.position AS version,
           c.incomplete
    FROM read.marketplace_contracts c JOIN live USING (zone, generation)
    WHERE (%(sees_all)s OR c.customer = %(principal)s OR c.provider = %(principal)s)
      AND (%(party)s = '' OR (%(side)s IN ('', 'customer') AND c.customer = %(party)s)
           OR (%(side)s IN ('', 'provider') AND c.provider = %(party)s))
      AND (%(status)s = '' OR c.status = %(status)s) AND (%(offering)s = '' OR c.offering = %(offering)s)
    """,  # noqa: S608 - made of our own declarations only
    key=("opened_at", "contract"),
    descending=True,
    parameters=OfContracts,
    own="party",
    projection="contracts",
)


@dataclass(frozen=True, slots=True)
class Period:
    """A settled period of a contract, for its parties. Escrowed: charge = penalty + fee + paid + unpaid, all paid at
    once. Netted: charge = penalty + owed, as obligations, the fee out of what is owed. `unit_ms` is what it was charged
    for, in unit-milliseconds."""

    period: int
    contract: str
    settlement: str
    begins_at: datetime
    ends_at: datetime
    unit_ms: Total
    charge: Money
    penalty: Money
    fee: Money
    paid: Money
    owed: Money
    unpaid: Money
    last: bool
    settled_at: datetime
    version: int
    incomplete: bool


marketplace.get(
    "periods",
    Period,
    f"""
    SELECT p.period, p.contract, p.settlement, p.begins_at, p.ends_at, p.unit_ms, p.charge, p.penalty, p.fee, p.paid,
           p.owed, p.unpaid, p.last, p.at AS settled_at, p.position AS version, p.incomplete
    FROM read.marketplace_periods p JOIN live USING (zone, generation)
    JOIN read.marketplace_contracts c USING (zone, generation, contract)
    WHERE p.contract = %(contract)s AND {_MINE}
    """,  # noqa: S608 - made of our own declarations only
    key=("period",),
    parameters=OneContract,
    projection="contracts",
)


# Service levels


@dataclass(frozen=True, slots=True)
class OfServiceLevels:
    contract: Id = ""
    party: Id = ""


@dataclass(frozen=True, slots=True)
class ServiceLevels:
    """How a contract's service levels were kept, for its parties. `windows` were reported; of these `excused` (the
    customer had paused the service) do not count, and `missed` missed at least one indicator, of which there are three.

    `attainment` = floor(10000 * (windows - excused - missed) / (windows - excused)) in basis points; null where no
    window counts. `penalties` is what misses and an early end by the provider cost it.
    """

    contract: str
    customer: str
    provider: str
    offering: str
    tier: str
    p95_ms: int
    uptime_bp: int
    errors_bp: int
    windows: int
    excused: int
    missed: int
    missed_p95: int
    missed_uptime: int
    missed_errors: int
    attainment: int | None
    breached_at: datetime | None
    penalties: Money
    version: int
    incomplete: bool


marketplace.get(
    "service-levels",
    ServiceLevels,
    f"""
    SELECT c.contract, c.customer, c.provider, c.offering, c.tier, c.p95_ms, c.uptime_bp, c.errors_bp, c.windows,
           c.excused, c.missed, c.missed_p95, c.missed_uptime, c.missed_errors,
           {_ATTAINMENT.format("c")} AS attainment, c.breached_at, c.penalties + c.owed_penalties AS penalties,
           c.position AS version, c.incomplete
    FROM read.marketplace_contracts c JOIN live USING (zone, generation)
    WHERE {_MINE} AND (%(contract)s = '' OR c.contract = %(contract)s)
      AND (%(party)s = '' OR c.customer = %(party)s OR c.provider = %(party)s)
    """,  # noqa: S608 - made of our own declarations only
    key=("contract",),
    parameters=OfServiceLevels,
    own="party",
    projection="contracts",
)


@dataclass(frozen=True, slots=True)
class Window:
    """What was reported of one window of a contract, for its parties; `missed` are the indicators that were worse than
    the contract's levels: p95, uptime, errors."""

    window: int
    contract: str
    period: int
    begins_at: datetime
    ends_at: datetime
    p95_ms: int
    uptime_bp: int
    errors_bp: int
    missed: list[str]
    excused: bool
    reported_at: datetime
    version: int
    incomplete: bool


marketplace.get(
    "windows",
    Window,
    f"""
    SELECT w.number AS window, w.contract, w.period, w.begins_at, w.ends_at, w.p95_ms, w.uptime_bp, w.errors_bp,
           array_to_json(array_remove(ARRAY[
               CASE WHEN w.missed_p95 THEN 'p95' END, CASE WHEN w.missed_uptime THEN 'uptime' END,
               CASE WHEN w.missed_errors THEN 'errors' END], NULL)) AS missed,
           w.excused, w.at AS reported_at, w.position AS version, w.incomplete
    FROM read.marketplace_windows w JOIN live USING (zone, generation)
    JOIN read.marketplace_contracts c USING (zone, generation, contract)
    WHERE w.contract = %(contract)s AND {_MINE}
    """,  # noqa: S608 - made of our own declarations only
    key=("window",),
    parameters=OneContract,
    projection="contracts",
)


@dataclass(frozen=True, slots=True)
class OfScorecards:
    provider: Id = ""
    service_type: Id = ""


@dataclass(frozen=True, slots=True)
class Scorecard:
    """How a provider keeps what it promised, over all its contracts for a service; for everybody, since customers
    choose by it.

    Windows and `attainment` as in service-levels. `terminated` counts contracts that the provider ended early,
    `expired` those it did not start in time. `rating` = floor(100 * sum of ratings / reviews) in hundredths, from 100
    to 500; null without reviews.
    """

    provider: str
    service_type: str
    contracts: int
    completed: int
    terminated: int
    expired: int
    windows: int
    excused: int
    missed: int
    missed_p95: int
    missed_uptime: int
    missed_errors: int
    attainment: int | None
    breaches: int
    periods: int
    penalties: Total
    reviews: int
    rating: int | None
    version: int
    incomplete: bool


marketplace.get(
    "scorecards",
    Scorecard,
    f"""
    SELECT provider, service_type, contracts, completed, terminated, expired, windows, excused, missed, missed_p95,
           missed_uptime, missed_errors, {_ATTAINMENT.format("s")} AS attainment, breaches, periods, penalties,
           reviews, 100 * ratings / nullif(reviews, 0) AS rating, s.position AS version, incomplete
    FROM read.marketplace_scorecards s JOIN live USING (zone, generation)
    WHERE (%(provider)s = '' OR provider = %(provider)s)
      AND (%(service_type)s = '' OR service_type = %(service_type)s)
    """,  # noqa: S608 - made of our own declarations only
    key=("provider", "service_type"),
    parameters=OfScorecards,
    projection="contracts",
)


@dataclass(frozen=True, slots=True)
class OfReviews:
    provider: Id = ""
    offering: Id = ""
    service_type: Id = ""


@dataclass(frozen=True, slots=True)
class Review:
    """What a customer said of a service that ended, newest first, for everybody; `rating` is from 1 to 5."""

    version: int
    provider: str
    offering: str
    service_type: str
    rating: int
    comment: str
    customer: str
    at: datetime
    incomplete: bool


marketplace.get(
    "reviews",
    Review,
    """
    SELECT r.position AS version, provider, offering, service_type, rating, comment, customer, at, incomplete
    FROM read.marketplace_reviews r JOIN live USING (zone, generation)
    WHERE (%(provider)s = '' OR provider = %(provider)s) AND (%(offering)s = '' OR offering = %(offering)s)
      AND (%(service_type)s = '' OR service_type = %(service_type)s)
    """,
    key=("version",),
    descending=True,
    parameters=OfReviews,
    projection="contracts",
)


# Revenue


@dataclass(frozen=True, slots=True)
class OfRevenue:
    provider: Id = ""
    since: datetime = EPOCH
    until: datetime = FOR_EVER


@dataclass(frozen=True, slots=True)
class Revenue:
    """What a provider's periods that settled on a day (UTC) came to, newest first; days that begin from `since` and
    before `until`.

    charge = penalties + fees + paid + unpaid + owed: `paid` came from escrows at once; `owed` is due through
    settlement, of which `owed_fees` are due to the zone. `disputes` is what decided disputes gave besides.
    """

    day: str
    provider: str
    periods: int
    charge: Total
    penalties: Total
    fees: Total
    paid: Total
    owed: Total
    owed_fees: Total
    unpaid: Total
    disputes: Total
    version: int
    incomplete: bool


marketplace.get(
    "revenue",
    Revenue,
    """
    SELECT day, provider, periods, charge, penalties, fees, paid, owed, owed_fees, unpaid, disputes,
           r.position AS version, incomplete
    FROM read.marketplace_revenue r JOIN live USING (zone, generation)
    WHERE (%(sees_all)s OR provider = %(principal)s) AND (%(provider)s = '' OR provider = %(provider)s)
      AND day::timestamp AT TIME ZONE 'UTC' >= %(since)s AND day::timestamp AT TIME ZONE 'UTC' < %(until)s
    """,
    key=("day", "provider"),
    descending=True,
    parameters=OfRevenue,
    own="provider",
    projection="contracts",
)
