"""What is for sale: search, quotes, lanes, prices by the hour, and how much of an offering is taken.

Markets are for everybody; how well an offering sells is its provider's affair. Prices, market factors and
reputations are as of the last event that the answer reflects, made by the domain's own functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from commands._codec import EPOCH
from domain._kernel import BasisPoints, Count, Id, Quantity
from domain.devices import Reputation as Posterior
from domain.marketplace.offerings import TIERS, Price, PriceInputs, cost, glide, market_target, price
from projections._tables import Money, Total
from queries._query import FOR_EVER, Context

PRIOR = Posterior()

marketplace = Context("marketplace")


# What an offering costs depends on its lane and on its device's reputation, wherever it is shown.

_PRICED = f"""
    o.offering, o.provider, o.device, o.service_type, o.region, o.tier, o.pricing, o.status, o.cpu_millicores,
    o.memory_mb, o.gpu, o.capacity, o.capacity - o.used AS free, o.base_price, o.rate,
    coalesce(l.supply, 0) AS supply, coalesce(l.demand, 0) AS demand, coalesce(l.market, 10000) AS market,
    l.market_at, coalesce(l.floor, 0) AS floor, coalesce(l.ceiling, 0) AS ceiling,
    coalesce(r.alpha, {PRIOR.alpha}) AS alpha, coalesce(r.beta, {PRIOR.beta}) AS beta, coalesce(r.day, 0) AS day,
    coalesce(r.evidence, 0) AS evidence, o.registered_at, live.as_of,
    greatest(o.position, l.position, r.position, d.position) AS version,
    o.incomplete OR coalesce(l.incomplete OR r.incomplete OR d.incomplete, false) AS incomplete
"""
_FROM = """
    FROM read.marketplace_offerings o JOIN live USING (zone, generation)
    LEFT JOIN read.marketplace_lanes l USING (zone, generation, service_type, region, tier)
    LEFT JOIN read.marketplace_devices d USING (zone, generation, device)
    LEFT JOIN read.marketplace_reputations r
        ON (r.zone, r.generation, r.device, r.service) = (o.zone, o.generation, o.device, o.service_type)
"""
# Most devices are where they were; as a plain equation PostgreSQL takes it for rare, and sorts all that is for sale.
_SERVES = """
    (o.status = 'active' AND coalesce(d.region = o.region, false)
     AND NOT (d.suspended_by_owner OR d.suspended_by_operator OR d.retired))
"""
_RANKS = " ".join(f"WHEN '{name}' THEN {tier.rank}" for name, tier in TIERS.items())
_FITS = f"""
    {_SERVES}
    AND (%(service_type)s = '' OR o.service_type = %(service_type)s) AND (%(region)s = '' OR o.region = %(region)s)
    AND o.tier_rank >= CASE %(tier)s WHEN '' THEN 0 {_RANKS} ELSE 1000 END
    AND (%(provider)s = '' OR o.provider = %(provider)s) AND (%(pricing)s = '' OR o.pricing = %(pricing)s)
    AND o.cpu_millicores >= %(cpu_millicores)s AND o.memory_mb >= %(memory_mb)s AND o.gpu >= %(gpu)s
    AND o.capacity - o.used >= %(units)s AND coalesce(r.last_score, {PRIOR.score}) >= %(min_score)s
"""


@dataclass(frozen=True, slots=True)
class Priced:
    """What the SELECT gives of an offering."""

    offering: str
    provider: str
    device: str
    service_type: str
    region: str
    tier: str
    pricing: str
    status: str
    cpu_millicores: int
    memory_mb: int
    gpu: int
    capacity: int
    free: int
    base_price: Money
    rate: Money
    supply: int
    demand: int
    market: int
    market_at: datetime | None
    floor: Money
    ceiling: Money
    alpha: Total
    beta: Total
    day: int
    evidence: int
    registered_at: datetime
    serves: bool
    as_of: datetime
    version: int
    incomplete: bool

    @property
    def score(self) -> int:
        return Posterior(self.alpha, self.beta, self.day, self.evidence).as_of(self.as_of).score

    def price_for(self, units: int, minutes: int) -> Price:
        return price(
            PriceInputs(
                self.base_price,
                self.tier,
                units,
                minutes,
                self.supply,
                self.demand,
                self.market,
                self.market_at,
                self.as_of,
                self.score,
                self.floor,
                self.ceiling,
            )
        )


# Search


@dataclass(frozen=True, slots=True)
class Wanted:
    """Criteria; what is left out does not count. `tier` is the least, by rank; `units` those that are free at least,
    and, with `minutes`, those that the price is for. `price_cap` is the most for one unit and hour; 0 for none."""

    service_type: Id = ""
    region: Id = ""
    tier: Id = ""
    provider: Id = ""
    pricing: Id = ""
    cpu_millicores: Count = 0
    memory_mb: Count = 0
    gpu: Count = 0
    units: Count = 1
    minutes: Count = 60
    price_cap: Quantity = 0
    min_score: BasisPoints = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """An offering that takes contracts now, on a device that serves; the lowest posted rate first.

    `rate` = ceil(base price * tier factor) is posted; `unit_hour` is what one unit costs for an hour if `units` are
    bought for `minutes` now, as a quote says in full. `price_cap` goes by `unit_hour`, so that a page may hold fewer
    offers than its limit; `next` says whether there are more.

    `score` is the device's reputation for the service now, in basis points; `min_score` goes by the score as of the
    last evidence, which may be a little further from 5,000.
    """

    rate: Money
    offering: str
    provider: str
    device: str
    service_type: str
    region: str
    tier: str
    pricing: str
    cpu_millicores: int
    memory_mb: int
    gpu: int
    capacity: int
    free: int
    base_price: Money
    unit_hour: Money
    score: int
    evidence: int
    registered_at: datetime
    version: int
    incomplete: bool


def _offer(found: Priced, wanted: dict[str, Any]) -> Offer | None:
    """The offer, unless it costs too much."""
    unit_hour = found.price_for(wanted["units"], wanted["minutes"]).unit_hour
    if wanted["price_cap"] and unit_hour > wanted["price_cap"]:
        return None
    return Offer(
        found.rate,
        found.offering,
        found.provider,
        found.device,
        found.service_type,
        found.region,
        found.tier,
        found.pricing,
        found.cpu_millicores,
        found.memory_mb,
        found.gpu,
        found.capacity,
        found.free,
        found.base_price,
        unit_hour,
        found.score,
        found.evidence,
        found.registered_at,
        found.version,
        found.incomplete,
    )


marketplace.get(
    "search",
    Offer,
    f"SELECT {_PRICED}, true AS serves {_FROM} WHERE {_FITS}",
    key=("rate", "offering"),
    parameters=Wanted,
    inputs=Priced,
    derive=_offer,
    projection="offerings",
)


@dataclass(frozen=True, slots=True)
class Facet:
    """How many offerings a search would find by region, tier and service type, each with the search's other criteria
    but without its price cap, which needs every offering's price."""

    facet: str
    """region, tier or service_type."""
    value: str
    offerings: int
    free: Total
    """Units."""
    version: int
    incomplete: bool


@dataclass(frozen=True, slots=True)
class Narrowed:
    service_type: Id = ""
    region: Id = ""
    tier: Id = ""
    provider: Id = ""
    pricing: Id = ""
    cpu_millicores: Count = 0
    memory_mb: Count = 0
    gpu: Count = 0
    units: Count = 1
    min_score: BasisPoints = 0


marketplace.get(
    "facets",
    Facet,
    f"""
    SELECT f.facet, f.value, count(*) AS offerings, sum(o.capacity - o.used) AS free,
           max(greatest(o.position, d.position, r.position)) AS version,
           bool_or(o.incomplete OR coalesce(d.incomplete OR r.incomplete, false)) AS incomplete
    {_FROM}
    CROSS JOIN LATERAL (VALUES ('region', o.region), ('tier', o.tier), ('service_type', o.service_type))
        AS f(facet, value)
    WHERE {_FITS}
    GROUP BY f.facet, f.value
    """,
    key=("facet", "value"),
    parameters=Narrowed,
    projection="offerings",
)


# Quote


@dataclass(frozen=True, slots=True)
class Purchase:
    offering: Id
    units: Count = 1
    minutes: Count = 60


@dataclass(frozen=True, slots=True)
class Quote:
    """What a purchase costs now, and all that it depends on:

    unit_hour = ceil(base_price * tier_bp * volume_bp * duration_bp * market_bp * reputation / 10000^5), at least
    `floor`, at most `ceiling` (0: none; `bounded` says which of them decided); total = ceil(unit_hour * units *
    minutes / 60).

    Factors are in basis points. The market factor glides from `market` (as of `market_at`) towards what free units
    (`supply`) and units of open requests (`demand`) ask for, `market_target`. The reputation factor lies between 7,000
    and 13,000 by the `score`; `reputation_bp` is shown rounded down, the price takes it exactly. A contract is made at
    the price of its own time, so name a price cap.
    """

    offering: str
    provider: str
    service_type: str
    region: str
    tier: str
    pricing: str
    for_sale: bool
    free: int
    units: int
    minutes: int
    base_price: Money
    tier_bp: int
    volume_bp: int
    duration_bp: int
    market_bp: int
    reputation_bp: int
    supply: int
    demand: int
    market: int
    market_at: datetime | None
    market_target: int
    score: int
    floor: Money
    ceiling: Money
    bounded: str
    unit_hour: Money
    total: Money
    at: datetime
    version: int
    incomplete: bool


def _quote(found: Priced, purchase: dict[str, Any]) -> Quote:
    units, minutes = purchase["units"], purchase["minutes"]
    made = found.price_for(units, minutes)
    return Quote(
        found.offering,
        found.provider,
        found.service_type,
        found.region,
        found.tier,
        found.pricing,
        found.serves and found.free >= units,
        found.free,
        units,
        minutes,
        found.base_price,
        made.tier,
        made.volume,
        made.duration,
        made.market,
        made.reputation,
        found.supply,
        found.demand,
        found.market,
        found.market_at,
        market_target(found.supply, found.demand),
        found.score,
        found.floor,
        found.ceiling,
        made.bounded,
        made.unit_hour,
        cost(made.unit_hour, units, minutes),
        found.as_of,
        found.version,
        found.incomplete,
    )


marketplace.get(
    "quote",
    Quote,
    f"""
    SELECT {_PRICED}, coalesce({_SERVES}, false) AS serves {_FROM}
    WHERE o.offering = %(offering)s AND %(units)s > 0 AND %(minutes)s > 0
    """,
    key=("offering",),
    parameters=Purchase,
    single=True,
    inputs=Priced,
    derive=_quote,
    projection="offerings",
)


# Lanes and prices


@dataclass(frozen=True, slots=True)
class OfLanes:
    service_type: Id = ""
    region: Id = ""
    tier: Id = ""


@dataclass(frozen=True, slots=True)
class StoredLane:
    service_type: str
    region: str
    tier: str
    listed: int
    supply: int
    demand: int
    market: int
    market_at: datetime | None
    floor: Money
    ceiling: Money
    as_of: datetime
    version: int
    incomplete: bool


@dataclass(frozen=True, slots=True)
class Lane:
    """A service type in a region and tier: its listed offerings, their free units (`supply`), the units of open
    requests (`demand`), the market factor now and where it goes (basis points), and the bounds of its prices for one
    unit and hour (0: none)."""

    service_type: str
    region: str
    tier: str
    listed: int
    supply: int
    demand: int
    market: int
    market_target: int
    floor: Money
    ceiling: Money
    version: int
    incomplete: bool


def _lane(found: StoredLane, parameters: dict[str, Any]) -> Lane:
    target = market_target(found.supply, found.demand)
    market, _ = glide(found.market, found.market_at, target, found.as_of)
    return Lane(
        found.service_type,
        found.region,
        found.tier,
        found.listed,
        found.supply,
        found.demand,
        market,
        target,
        found.floor,
        found.ceiling,
        found.version,
        found.incomplete,
    )


marketplace.get(
    "lanes",
    Lane,
    """
    SELECT service_type, region, tier, listed, supply, demand, market, market_at, floor, ceiling, live.as_of,
           l.position AS version, incomplete
    FROM read.marketplace_lanes l JOIN live USING (zone, generation)
    WHERE (%(service_type)s = '' OR service_type = %(service_type)s) AND (%(region)s = '' OR region = %(region)s)
      AND (%(tier)s = '' OR tier = %(tier)s)
    """,
    key=("service_type", "region", "tier"),
    parameters=OfLanes,
    inputs=StoredLane,
    derive=_lane,
    projection="offerings",
)


@dataclass(frozen=True, slots=True)
class OfHours:
    service_type: Id = ""
    region: Id = ""
    tier: Id = ""
    since: datetime = EPOCH
    until: datetime = FOR_EVER


@dataclass(frozen=True, slots=True)
class PriceOfHour:
    """What a unit-hour was contracted for in a lane within an hour (UTC), newest first; hours in which nothing happened
    are left out, and an hour without a contract has no prices.

    `average` = floor(sum of price * unit-minutes / unit-minutes). Supply, demand and market factor are as of the
    hour's last event.
    """

    hour: datetime
    service_type: str
    region: str
    tier: str
    contracts: int
    first: Money | None
    low: Money | None
    high: Money | None
    last: Money | None
    average: Money | None
    market: int
    supply: int
    demand: int
    version: int
    incomplete: bool


_HOURS = """
    (%(service_type)s = '' OR service_type = %(service_type)s) AND (%(region)s = '' OR region = %(region)s)
    AND (%(tier)s = '' OR tier = %(tier)s) AND hour >= %(since)s AND hour < %(until)s
"""

marketplace.get(
    "price-history",
    PriceOfHour,
    f"""
    SELECT hour, service_type, region, tier, contracts, nullif(first, 0) AS first, nullif(low, 0) AS low,
           nullif(high, 0) AS high, nullif(last, 0) AS last, div(weighted, nullif(unit_minutes, 0)) AS average,
           market, supply, demand, h.position AS version, incomplete
    FROM read.marketplace_hours h JOIN live USING (zone, generation)
    WHERE {_HOURS}
    """,  # noqa: S608 - made of our own declarations only
    key=("hour", "service_type", "region", "tier"),
    descending=True,
    parameters=OfHours,
    projection="offerings",
)


@dataclass(frozen=True, slots=True)
class MarketOfHour:
    """A region's market within an hour (UTC), over all its lanes that fit, newest first: units of requests that found
    nothing at once, contracts, what they booked (unit-minutes) and may cost (`value`), and their average price for one
    unit and hour, rounded down. Supply and demand are those of the lanes where something happened."""

    hour: datetime
    region: str
    lanes: int
    requested: Total
    contracts: Total
    unit_minutes: Total
    value: Total
    average: Money | None
    supply: Total
    demand: Total
    version: int
    incomplete: bool


marketplace.get(
    "statistics",
    MarketOfHour,
    f"""
    SELECT hour, region, count(*) AS lanes, sum(requested) AS requested, sum(contracts) AS contracts,
           sum(unit_minutes) AS unit_minutes, sum(value) AS value,
           div(sum(weighted), nullif(sum(unit_minutes), 0)) AS average,
           sum(supply) AS supply, sum(demand) AS demand, max(h.position) AS version,
           bool_or(incomplete) AS incomplete
    FROM read.marketplace_hours h JOIN live USING (zone, generation)
    WHERE {_HOURS}
    GROUP BY hour, region ORDER BY hour DESC, region DESC
    """,  # noqa: S608 - made of our own declarations only
    key=("hour", "region"),
    descending=True,
    parameters=OfHours,
    projection="offerings",
)


# A provider's own


@dataclass(frozen=True, slots=True)
class OfProvider:
    provider: Id = ""
    offering: Id = ""


@dataclass(frozen=True, slots=True)
class Utilisation:
    """How much of an offering is taken and sold, for its provider, operators and auditors.

    `utilisation` = floor(10000 * used / capacity) now, and `average_utilisation` = floor(10000 * unit-time in use /
    (capacity * time)) since it was registered, both in basis points. Sold is what settled periods were charged for:
    `sold_unit_ms` unit-milliseconds, in whole unit-hours `sold_unit_hours`, for `charged` in all. `rate` is the posted
    price; `serves` whether it takes contracts now.
    """

    offering: str
    provider: str
    device: str
    service_type: str
    region: str
    tier: str
    pricing: str
    status: str
    serves: bool
    capacity: int
    used: int
    utilisation: int
    average_utilisation: int
    contracts: int
    sold_unit_ms: Total
    sold_unit_hours: Total
    charged: Total
    base_price: Money
    rate: Money
    registered_at: datetime
    repriced_at: datetime | None
    version: int
    incomplete: bool


marketplace.get(
    "utilisation",
    Utilisation,
    f"""
    SELECT o.offering, o.provider, o.device, o.service_type, o.region, o.tier, o.pricing, o.status,
           coalesce({_SERVES}, false) AS serves, o.capacity, o.used, 10000 * o.used / o.capacity AS utilisation,
           coalesce(div(10000 * (o.booked_us + o.used * t.uncounted_us), nullif(o.capacity * t.life_us, 0)), 0)::bigint
               AS average_utilisation,
           o.contracts, o.sold_ms AS sold_unit_ms, div(o.sold_ms, 3600000) AS sold_unit_hours, o.charged,
           o.base_price, o.rate, o.registered_at, o.repriced_at, greatest(o.position, d.position) AS version,
           o.incomplete OR coalesce(d.incomplete, false) AS incomplete
    FROM read.marketplace_offerings o JOIN live USING (zone, generation)
    LEFT JOIN read.marketplace_devices d USING (zone, generation, device)
    CROSS JOIN LATERAL (
        SELECT round(1000000 * extract(epoch FROM live.as_of - o.counted_at)) AS uncounted_us,
               round(1000000 * extract(epoch FROM live.as_of - o.registered_at)) AS life_us
    ) t
    WHERE (%(sees_all)s OR o.provider = %(principal)s) AND (%(provider)s = '' OR o.provider = %(provider)s)
      AND (%(offering)s = '' OR o.offering = %(offering)s)
    """,  # noqa: S608 - made of our own declarations only
    key=("offering",),
    parameters=OfProvider,
    own="provider",
    projection="offerings",
)


@dataclass(frozen=True, slots=True)
class OfDevice:
    device: Id


@dataclass(frozen=True, slots=True)
class Commitment:
    """What an offering takes of a device: `units`, each of so much processor, memory and GPU. For the offering's
    provider, operators and auditors."""

    offering: str
    device: str
    units: int
    cpu_millicores: int
    memory_mb: int
    gpu: int
    version: int
    incomplete: bool


marketplace.get(
    "commitments",
    Commitment,
    """
    SELECT c.offering, c.device, c.units, c.cpu_millicores, c.memory_mb, c.gpu, c.position AS version, c.incomplete
    FROM read.marketplace_commitments c JOIN live USING (zone, generation)
    JOIN read.marketplace_offerings o USING (zone, generation, offering)
    WHERE c.device = %(device)s AND (%(sees_all)s OR o.provider = %(principal)s)
    """,
    key=("offering",),
    parameters=OfDevice,
    projection="offerings",
)
