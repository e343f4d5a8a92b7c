"""What is for sale: offerings and how much of them is taken and sold, the lanes they stand in, their devices and how
these are trusted, and what happened in each lane by the hour.

Whether a device serves, and its reputation, are other contexts' matters; they are kept here once more, so that a
search is one answer as of one position.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from commands._codec import EPOCH, MICROSECOND
from domain._kernel import BASIS_POINTS, ceil_div
from domain.devices import (
    UNIT,
    VALIDATION,
    DeviceRegistered,
    DeviceRelocated,
    DeviceResumed,
    DeviceRetired,
    DeviceSuspended,
    ReputationRecorded,
    evolve_reputation,
)
from domain.devices import Reputation as Posterior
from domain.marketplace.contracts import ContractOpened, PeriodNetted, PeriodSettled
from domain.marketplace.offerings import (
    TIERS,
    DeviceCommitted,
    LaneBoundsSet,
    LaneDemandChanged,
    ListingChanged,
    OfferingListed,
    OfferingPaused,
    OfferingRegistered,
    OfferingRepriced,
    OfferingResumed,
    OfferingUnlisted,
    OfferingWithdrawn,
    Standing,
    UnitsReserved,
    UnitsReturned,
)
from projections._engine import Projection, Record, Rows
from projections._tables import Money, Row, Total, table

HOUR = timedelta(hours=1)


@table(
    "marketplace_offerings",
    key=("offering",),
    indexes=("service_type, region, rate, offering", "rate, offering", "provider, offering"),
)
class Offering(Row):
    offering: str
    provider: str = ""
    device: str = ""
    service_type: str = ""
    region: str = ""
    tier: str = ""
    tier_rank: int = 0
    cpu_millicores: int = 0
    """Of one unit, as are memory and gpu."""
    memory_mb: int = 0
    gpu: int = 0
    capacity: int = 0
    """Units."""
    used: int = 0
    pricing: str = ""
    base_price: Money = 0
    """For one unit and hour."""
    rate: Money = 0
    """The posted price: ceil(base price * the tier's factor), before all other factors."""
    status: str = ""
    """active, paused or withdrawn."""
    registered_at: datetime = EPOCH
    repriced_at: datetime | None = None
    contracts: int = 0
    """How many were opened, ever."""
    booked_us: Total = 0
    """Unit-microseconds that units were in use, until `counted_at`."""
    counted_at: datetime = EPOCH
    sold_ms: Total = 0
    """Unit-milliseconds that settled periods were charged for."""
    charged: Total = 0


@table("marketplace_commitments", key=("device", "offering"))
class Commitment(Row):
    """What an offering takes of its device."""

    device: str
    offering: str
    units: int = 0
    cpu_millicores: int = 0
    memory_mb: int = 0
    gpu: int = 0


@table("marketplace_lanes", key=("service_type", "region", "tier"))
class Lane(Row):
    service_type: str
    region: str
    tier: str
    listed: int = 0
    """Offerings."""
    supply: int = 0
    """Free units."""
    demand: int = 0
    """Units of open requests."""
    market: int = BASIS_POINTS
    """The market factor in basis points, as of `market_at`."""
    market_at: datetime | None = None
    floor: Money = 0
    ceiling: Money = 0
    """0: none."""


@table("marketplace_hours", key=("service_type", "region", "tier", "hour"), indexes=("hour, region",))
class Hour(Row):
    """What happened in a lane within an hour."""

    service_type: str
    region: str
    tier: str
    hour: datetime
    supply: int = 0
    """As of its last event, as are demand and market."""
    demand: int = 0
    market: int = BASIS_POINTS
    requested: int = 0
    """Units of requests that found nothing at once."""
    contracts: int = 0
    unit_minutes: Total = 0
    """Booked by these contracts."""
    value: Total = 0
    """Their charges, if all of it is used."""
    weighted: Total = 0
    """Sum of their prices, each times its unit-minutes."""
    first: Money = 0
    """Prices of one unit for one hour, 0 where there was no contract."""
    last: Money = 0
    low: Money = 0
    high: Money = 0


@table("marketplace_devices", key=("device",))
class Device(Row):
    device: str
    region: str = ""
    suspended_by_owner: bool = False
    suspended_by_operator: bool = False
    retired: bool = False


@table("marketplace_reputations", key=("device", "service"))
class Reputation(Row):
    """A posterior as of its last evidence; what it is worth later is the domain's to compute."""

    device: str
    service: str
    alpha: Total = UNIT
    beta: Total = UNIT
    day: int = 0
    """Days since 1970 (UTC)."""
    evidence: int = 0
    last_score: int = 0


offerings = Projection("offerings", Offering, Commitment, Lane, Hour, Device, Reputation)


# Offerings


def rate_of(base_price: int, tier: str) -> int:
    return ceil_div(base_price * TIERS[tier].price_bp, BASIS_POINTS)


@offerings.on(OfferingRegistered)
def offering_registered(rows: Rows, event: OfferingRegistered, record: Record) -> None:
    row = rows.of(Offering, record.id)
    row.provider, row.device, row.service_type = event.provider, event.device, event.service_type
    row.region, row.tier, row.tier_rank = event.region, event.tier, TIERS[event.tier].rank
    row.cpu_millicores, row.memory_mb, row.gpu = event.cpu_millicores, event.memory_mb, event.gpu
    row.capacity, row.pricing, row.status = event.capacity, event.pricing, "active"
    row.base_price, row.rate = event.base_price, rate_of(event.base_price, event.tier)
    row.registered_at, row.counted_at = event.at, event.at


@offerings.on(OfferingRepriced)
def offering_repriced(rows: Rows, event: OfferingRepriced, record: Record) -> None:
    row = rows.of(Offering, record.id)
    row.base_price, row.repriced_at = event.base_price, event.at
    row.rate = rate_of(event.base_price, row.tier)


@offerings.on(OfferingPaused)
def offering_paused(rows: Rows, event: OfferingPaused, record: Record) -> None:
    rows.of(Offering, record.id).status = "paused"


@offerings.on(OfferingResumed)
def offering_resumed(rows: Rows, event: OfferingResumed, record: Record) -> None:
    rows.of(Offering, record.id).status = "active"


@offerings.on(OfferingWithdrawn)
def offering_withdrawn(rows: Rows, event: OfferingWithdrawn, record: Record) -> None:
    rows.of(Offering, record.id).status = "withdrawn"


def _use(row: Offering, used: int, at: datetime) -> None:
    row.booked_us += row.used * ((at - row.counted_at) // MICROSECOND)
    row.used, row.counted_at = used, at


@offerings.on(UnitsReserved)
def units_reserved(rows: Rows, event: UnitsReserved, record: Record) -> None:
    _use(rows.of(Offering, record.id), event.used, event.at)


@offerings.on(UnitsReturned)
def units_returned(rows: Rows, event: UnitsReturned, record: Record) -> None:
    _use(rows.of(Offering, record.id), event.used, event.at)


@offerings.on(DeviceCommitted)
def device_committed(rows: Rows, event: DeviceCommitted, record: Record) -> None:
    if not event.units:
        rows.delete(Commitment, record.id, event.offering)
        return
    row = rows.of(Commitment, record.id, event.offering)
    row.units, row.cpu_millicores, row.memory_mb = event.units, event.cpu_millicores, event.memory_mb
    row.gpu = event.gpu


# Sales


@offerings.on(ContractOpened)
def contract_opened(rows: Rows, event: ContractOpened, record: Record) -> None:
    rows.of(Offering, event.offering).contracts += 1
    terms = event.terms
    hour = _hour(rows, (event.service_type, event.region, terms.tier), event.opened_at)
    unit_minutes = terms.units * terms.minutes
    if not hour.contracts:
        hour.first = hour.low = hour.high = terms.price
    hour.contracts += 1
    hour.unit_minutes += unit_minutes
    hour.value += event.charge
    hour.weighted += terms.price * unit_minutes
    hour.last = terms.price
    hour.low, hour.high = min(hour.low, terms.price), max(hour.high, terms.price)


@offerings.on(PeriodSettled)
def period_settled(rows: Rows, event: PeriodSettled, record: Record) -> None:
    row = rows.of(Offering, event.offering)
    row.sold_ms += event.unit_ms
    row.charged += event.charge


@offerings.on(PeriodNetted)
def period_netted(rows: Rows, event: PeriodNetted, record: Record) -> None:
    row = rows.of(Offering, event.offering)
    row.sold_ms += event.unit_ms
    row.charged += event.charge


# Lanes


def _lane(record: Record) -> tuple[str, str, str]:
    """Service type, region and tier of a lane's stream, `lane:render:eu:gold`."""
    service_type, region, tier = record.id.split(":")
    return service_type, region, tier


def _hour(rows: Rows, lane: tuple[str, str, str], at: datetime) -> Hour:
    """The lane's hour; one that had nothing yet begins as the lane stands."""
    begun = at.replace(minute=0, second=0, microsecond=0)
    standing = rows.of(Lane, *lane)
    hour = rows.of(Hour, *lane, begun)
    hour.supply, hour.demand, hour.market = standing.supply, standing.demand, standing.market
    return hour


def _stand(rows: Rows, record: Record, standing: Standing, at: datetime) -> tuple[Lane, Hour]:
    row = rows.of(Lane, *_lane(record))
    row.supply, row.demand = standing.supply, standing.demand
    row.market, row.market_at = standing.market, standing.market_at
    return row, _hour(rows, _lane(record), at)


@offerings.on(OfferingListed)
def offering_listed(rows: Rows, event: OfferingListed, record: Record) -> None:
    lane, _ = _stand(rows, record, event.standing, event.at)
    lane.listed += 1


@offerings.on(OfferingUnlisted)
def offering_unlisted(rows: Rows, event: OfferingUnlisted, record: Record) -> None:
    lane, _ = _stand(rows, record, event.standing, event.at)
    lane.listed -= 1


@offerings.on(ListingChanged)
def listing_changed(rows: Rows, event: ListingChanged, record: Record) -> None:
    _stand(rows, record, event.standing, event.at)


@offerings.on(LaneDemandChanged)
def lane_demand_changed(rows: Rows, event: LaneDemandChanged, record: Record) -> None:
    _, hour = _stand(rows, record, event.standing, event.at)
    hour.requested += max(event.units, 0)


@offerings.on(LaneBoundsSet)
def lane_bounds_set(rows: Rows, event: LaneBoundsSet, record: Record) -> None:
    row = rows.of(Lane, *_lane(record))
    row.floor, row.ceiling = event.floor, event.ceiling


# Devices and their reputation


@offerings.on(DeviceRegistered)
def device_registered(rows: Rows, event: DeviceRegistered, record: Record) -> None:
    rows.of(Device, record.id).region = event.region


@offerings.on(DeviceRelocated)
def device_relocated(rows: Rows, event: DeviceRelocated, record: Record) -> None:
    rows.of(Device, record.id).region = event.region


def _suspend(rows: Rows, record: Record, by: str, suspended: bool) -> None:
    row = rows.of(Device, record.id)
    if by == "owner":
        row.suspended_by_owner = suspended
    else:
        row.suspended_by_operator = suspended


@offerings.on(DeviceSuspended)
def device_suspended(rows: Rows, event: DeviceSuspended, record: Record) -> None:
    _suspend(rows, record, event.by, True)


@offerings.on(DeviceResumed)
def device_resumed(rows: Rows, event: DeviceResumed, record: Record) -> None:
    _suspend(rows, record, event.by, False)


@offerings.on(DeviceRetired)
def device_retired(rows: Rows, event: DeviceRetired, record: Record) -> None:
    rows.of(Device, record.id).retired = True


@offerings.on(ReputationRecorded)
def reputation_recorded(rows: Rows, event: ReputationRecorded, record: Record) -> None:
    device, _, service = record.id.partition(":")
    if service == VALIDATION:
        return  # That is a validator's, who sells nothing here.
    row = rows.of(Reputation, device, service)
    now = evolve_reputation(Posterior(row.alpha, row.beta, row.day, row.evidence), event)
    row.alpha, row.beta, row.day, row.evidence = now.alpha, now.beta, now.day, now.evidence
    row.last_score = now.score
