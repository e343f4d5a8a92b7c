"""What is asked for: open requests and unmatched demand for everybody, a customer's own requests and bursts, and bids.

Bids are sealed until bidding closes: before that each is shown to nobody but its bidder, operators and auditors.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain._kernel import Id
from projections._tables import Money, Total
from queries._query import Context

marketplace = Context("marketplace")


# Requests


@dataclass(frozen=True, slots=True)
class OfOpenRequests:
    service_type: Id = ""
    region: Id = ""
    tier: Id = ""
    mode: Id = ""


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request that waits for an offering (`mode` match; `status` open) or for bids (bids or vickrey; bidding),
    the one that ends first at first; one whose time is over waits no more. `tier` is the least that will do;
    `price_cap` is for one unit and hour, `budget` for all units and minutes. `bids` counts those that stand; what they
    ask is sealed."""

    expires_at: datetime
    request: str
    customer: str
    status: str
    mode: str
    service_type: str
    region: str
    tier: str
    cpu_millicores: int
    memory_mb: int
    gpu: int
    units: int
    minutes: int
    price_cap: Money | None
    budget: Money | None
    any_price: bool
    settlement: str
    bids: int
    at: datetime
    version: int
    incomplete: bool


marketplace.get(
    "open-requests",
    OpenRequest,
    """
    SELECT expires_at, request, customer, status, mode, service_type, region, tier, cpu_millicores, memory_mb, gpu,
           units, minutes, price_cap, budget, any_price, settlement, bids, at, r.position AS version, incomplete
    FROM read.marketplace_requests r JOIN live USING (zone, generation)
    WHERE status IN ('open', 'bidding') AND expires_at > live.as_of
      AND (%(service_type)s = '' OR service_type = %(service_type)s)
      AND (%(region)s = '' OR region = %(region)s) AND (%(tier)s = '' OR tier = %(tier)s)
      AND (%(mode)s = '' OR mode = %(mode)s)
    """,
    key=("expires_at", "request"),
    parameters=OfOpenRequests,
    projection="requests",
)


@dataclass(frozen=True, slots=True)
class OfRequests:
    customer: Id = ""
    request: Id = ""
    status: Id = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A customer's request, newest first. `status` is open, bidding, won (a bid, until `accept_by`), unsold, matched,
    withdrawn or expired. `offering`, `provider` and `price` (for one unit and hour) are those of its match, with the
    match's `score` in basis points and how many `candidates` there were, or of the winning bid, with its `ask`; empty
    or null where there is none. `contract` is what came of it."""

    at: datetime
    request: str
    customer: str
    status: str
    mode: str
    service_type: str
    region: str
    tier: str
    cpu_millicores: int
    memory_mb: int
    gpu: int
    units: int
    minutes: int
    price_cap: Money | None
    budget: Money | None
    any_price: bool
    settlement: str
    expires_at: datetime
    bids: int
    offering: str
    provider: str
    ask: Money | None
    price: Money | None
    score: int
    candidates: int
    accept_by: datetime | None
    contract: str
    closed_at: datetime | None
    ended_at: datetime | None
    version: int
    incomplete: bool


marketplace.get(
    "requests",
    Request,
    """
    SELECT at, request, customer, status, mode, service_type, region, tier, cpu_millicores, memory_mb, gpu, units,
           minutes, price_cap, budget, any_price, settlement, expires_at, bids, offering, provider,
           nullif(ask, 0) AS ask, nullif(price, 0) AS price, score, candidates, accept_by, contract, closed_at,
           ended_at, r.position AS version, incomplete
    FROM read.marketplace_requests r JOIN live USING (zone, generation)
    WHERE (%(sees_all)s OR customer = %(principal)s) AND (%(customer)s = '' OR customer = %(customer)s)
      AND (%(request)s = '' OR request = %(request)s) AND (%(status)s = '' OR status = %(status)s)
    """,
    key=("at", "request"),
    descending=True,
    parameters=OfRequests,
    own="customer",
    projection="requests",
)


@dataclass(frozen=True, slots=True)
class Unmatched:
    """Demand that nothing fits, by what it needs: requests without a match or an acceptable bid. Open ones still wait;
    expired ones, those that nobody's bid won included, have gone. `unit_minutes` is what all of them ask for, and
    `highest_cap` the highest price cap for one unit and hour among the open ones."""

    service_type: str
    region: str
    tier: str
    open: int
    open_units: Total
    expired: int
    expired_units: Total
    unit_minutes: Total
    highest_cap: Money | None
    version: int
    incomplete: bool


@dataclass(frozen=True, slots=True)
class OfUnmatched:
    service_type: Id = ""
    region: Id = ""
    tier: Id = ""


marketplace.get(
    "unmatched-demand",
    Unmatched,
    """
    SELECT service_type, region, tier, count(*) FILTER (WHERE waits) AS open,
           coalesce(sum(units) FILTER (WHERE waits), 0) AS open_units,
           count(*) FILTER (WHERE NOT waits) AS expired,
           coalesce(sum(units) FILTER (WHERE NOT waits), 0) AS expired_units,
           sum(units * minutes) AS unit_minutes, max(price_cap) FILTER (WHERE waits) AS highest_cap,
           max(r.position) AS version, bool_or(incomplete) AS incomplete
    FROM read.marketplace_requests r JOIN live USING (zone, generation)
    CROSS JOIN LATERAL (SELECT status = 'open' AND expires_at > live.as_of AS waits) w
    WHERE unmatched AND (%(service_type)s = '' OR service_type = %(service_type)s)
      AND (%(region)s = '' OR region = %(region)s) AND (%(tier)s = '' OR tier = %(tier)s)
    GROUP BY service_type, region, tier
    """,
    key=("service_type", "region", "tier"),
    parameters=OfUnmatched,
    projection="requests",
)


# Bids


@dataclass(frozen=True, slots=True)
class OfBids:
    request: Id = ""
    provider: Id = ""


@dataclass(frozen=True, slots=True)
class Bid:
    """A bid on a request, newest first: your own; those of others once the request's bidding is closed.

    `outcome` is sealed, withdrawn, lost, won, accepted or lapsed (the customer let it pass). `deposit_held` says
    whether its deposit is still held. `price` is what the winner gets for one unit and hour.
    """

    at: datetime
    request: str
    provider: str
    offering: str
    ask: Money
    deposit: Money
    deposit_held: bool
    outcome: str
    price: Money | None
    closes_at: datetime
    accept_by: datetime | None
    version: int
    incomplete: bool


marketplace.get(
    "bids",
    Bid,
    """
    SELECT b.at, b.request, b.provider, b.offering, b.ask, b.deposit, o.outcome IN ('sealed', 'won') AS deposit_held,
           o.outcome, CASE WHEN o.outcome IN ('won', 'accepted', 'lapsed') THEN r.price END AS price,
           r.expires_at AS closes_at, CASE WHEN o.outcome = 'won' THEN r.accept_by END AS accept_by,
           greatest(b.position, r.position) AS version, b.incomplete OR r.incomplete AS incomplete
    FROM read.marketplace_bids b JOIN live USING (zone, generation)
    JOIN read.marketplace_requests r USING (zone, generation, request)
    CROSS JOIN LATERAL (SELECT CASE
        WHEN b.withdrawn THEN 'withdrawn'
        WHEN r.status = 'bidding' THEN 'sealed'
        WHEN r.provider <> b.provider THEN 'lost'
        WHEN r.status = 'won' THEN 'won'
        WHEN r.status = 'matched' THEN 'accepted'
        ELSE 'lapsed' END AS outcome) o
    WHERE (%(sees_all)s OR b.provider = %(principal)s OR b.opened)
      AND (%(request)s = '' OR b.request = %(request)s) AND (%(provider)s = '' OR b.provider = %(provider)s)
      AND (%(request)s <> '' OR %(provider)s <> '' OR %(sees_all)s OR b.provider = %(principal)s)
    """,
    key=("at", "request", "provider"),
    descending=True,
    parameters=OfBids,
    projection="requests",
)


# Bursts


@dataclass(frozen=True, slots=True)
class OfBursts:
    customer: Id = ""
    burst: Id = ""


@dataclass(frozen=True, slots=True)
class Burst:
    """Capacity booked at once from several offerings, newest first: `parts` are its contracts, each with offering,
    provider, units and the price of one unit for one hour; `cost` is theirs when all of it is used."""

    at: datetime
    burst: str
    customer: str
    budget: Money
    cost: Money
    minutes: int
    settlement: str
    parts: list[dict[str, Any]]
    version: int
    incomplete: bool


marketplace.get(
    "bursts",
    Burst,
    """
    SELECT at, burst, customer, budget, cost, minutes, settlement, parts, b.position AS version, incomplete
    FROM read.marketplace_bursts b JOIN live USING (zone, generation)
    WHERE (%(sees_all)s OR customer = %(principal)s) AND (%(customer)s = '' OR customer = %(customer)s)
      AND (%(burst)s = '' OR burst = %(burst)s)
    """,
    key=("at", "burst"),
    descending=True,
    parameters=OfBursts,
    own="customer",
    projection="requests",
)
