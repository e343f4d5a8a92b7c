"""What is for sale: offerings, the lanes they stand in, and the price.

An offering is a number of equal units of a device. A *lane* is a service type, a region and a tier; it is the set of
offerings that can be matched there, and it knows its supply (free units) and its demand (units of open requests).

Price of one unit for one hour, rounded up once, at the end:

    base x tier x volume x duration x market x reputation, at least the lane's floor, at most its ceiling

Two things move, each by at most 10 % an hour: the *market factor* of the lane, which glides towards what supply and
demand ask for, and an offering's base price, which its provider changes at most once an hour. The other factors are
those of the purchase (tier, volume, duration) and of the device (reputation).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from domain._kernel import (
    BASIS_POINTS,
    Amount,
    Count,
    Decision,
    Id,
    Issued,
    NotFound,
    Quantity,
    Read,
    Rejected,
    Stream,
    ceil_div,
    floor_div,
)
from domain.devices import VALIDATION, owned, score, serving


@dataclass(frozen=True, slots=True)
class Tier:
    """A class of service. Tiers are compared by rank, never by name: gold comes before silver in the alphabet."""

    rank: int
    p95_ms: int
    """95 of 100 answers come within this time."""
    uptime_bp: int
    """Least share of the time that it is up, in basis points."""
    errors_bp: int
    """Most share of answers that fail, in basis points."""
    price_bp: int
    """Price factor, in basis points."""


TIERS = {
    "bronze": Tier(1, 2_500, 9_700, 300, 10_000),
    "silver": Tier(2, 1_200, 9_900, 100, 25_000),
    "gold": Tier(3, 400, 9_990, 10, 50_000),
}
PRICINGS = ("pay_as_you_go", "reserved", "spot", "flat_rate")
"""A unit-hour costs the same whatever the pricing; which time is charged for is the contract's matter."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """The economic constants of offerings and prices, in one place."""

    volumes: tuple[tuple[int, int], ...] = ((1_000, 8_500), (100, 9_000), (10, 9_500))
    """Least unit-hours of a purchase and their price factor; the first that fits counts."""
    durations: tuple[tuple[int, int], ...] = ((60, 12_000), (24 * 60, 10_000), (7 * 24 * 60, 9_500))
    """Minutes that a purchase stays below, and its price factor; the first that fits counts."""
    long_duration: int = 9_000
    ample: int = 9_000
    """Market factor where supply is more than twice the demand."""
    scarce: int = 11_500
    """Market factor where supply is less than half the demand."""
    market_step: int = 900
    """Basis points that a market factor moves in an hour: 10 % of the lowest, so never more than 10 % of any."""
    least_reputation: int = 7_000
    most_reputation: int = 13_000
    """Price factors of a score of 0 and of 10,000; linear between them."""
    price_step: int = 1_000
    """Basis points of its base price that an offering is repriced by at most, once an hour."""
    most_price: int = 10**18
    """Of a base price, a floor and a ceiling: so that no total ever outgrows an amount."""
    most_capacity: int = 1_000
    most_offerings_a_lane: int = 500
    """A match looks at all of them, in up to three lanes."""
    most_offerings_a_provider: int = 100
    """Listed in one lane, so that nobody fills it alone."""
    most_offerings_a_device: int = 64


P = Parameters()

HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
HOUR_US = 3_600_000_000
RESERVED_SERVICES = ("harvest", VALIDATION)
"""Reputation for these is earned elsewhere: of harvesting devices, which it pays, and of validators. Sold here, it
could be bought."""
PROMISED = "request:"
"""How the reference of units begins that a won request keeps until its customer accepts."""

# Events: stored for ever. Add fields with defaults; never rename, never remove.


@dataclass(frozen=True, slots=True)
class OfferingRegistered:
    provider: str
    device: str
    service_type: str
    region: str
    tier: str
    cpu_millicores: int
    """Of one unit, as are memory and gpu."""
    memory_mb: int
    gpu: int
    capacity: int
    """Units."""
    pricing: str
    base_price: Amount
    """For one unit and hour."""
    at: datetime


@dataclass(frozen=True, slots=True)
class OfferingRepriced:
    base_price: Amount
    at: datetime


@dataclass(frozen=True, slots=True)
class OfferingPaused:
    at: datetime


@dataclass(frozen=True, slots=True)
class OfferingResumed:
    at: datetime


@dataclass(frozen=True, slots=True)
class OfferingWithdrawn:
    """It takes nothing new; what is in use goes on."""

    at: datetime


@dataclass(frozen=True, slots=True)
class UnitsReserved:
    reference: str
    """A contract, or `request:<id>` for a won request that waits for its customer."""
    units: int
    used: int
    """All units in use after this."""
    at: datetime


@dataclass(frozen=True, slots=True)
class UnitsReturned:
    reference: str
    units: int
    used: int
    """All units in use after this."""
    at: datetime


@dataclass(frozen=True, slots=True)
class DeviceCommitted:
    """How much of a device one offering takes from now on; nothing for 0 units."""

    offering: str
    units: int
    cpu_millicores: int
    """Of one unit, as are memory and gpu."""
    memory_mb: int
    gpu: int


@dataclass(frozen=True, slots=True)
class Listing:
    """What matching has to know of an offering in a lane."""

    provider: str
    device: str
    cpu_millicores: int
    memory_mb: int
    gpu: int
    base_price: Amount
    free: int
    """Units."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a lane stands after an event."""

    supply: int
    """Free units."""
    demand: int
    """Units of open requests."""
    market: int
    """The market factor in basis points, as of `market_at`."""
    market_at: datetime
    """Up to when its movement is counted; the rest of the time, less than one basis point's, counts later."""


@dataclass(frozen=True, slots=True)
class OfferingListed:
    """In its lane: to be found from now on."""

    offering: str
    listing: Listing
    standing: Standing
    at: datetime


@dataclass(frozen=True, slots=True)
class OfferingUnlisted:
    offering: str
    standing: Standing
    at: datetime


@dataclass(frozen=True, slots=True)
class ListingChanged:
    offering: str
    free: int
    base_price: Amount
    standing: Standing
    at: datetime


@dataclass(frozen=True, slots=True)
class LaneDemandChanged:
    request: str
    units: int
    """Added; below zero for units that are no longer asked for."""
    standing: Standing
    at: datetime


@dataclass(frozen=True, slots=True)
class LaneBoundsSet:
    floor: Quantity
    ceiling: Quantity
    """0: none."""
    by: str
    at: datetime


OfferingEvent = (
    OfferingRegistered
    | OfferingRepriced
    | OfferingPaused
    | OfferingResumed
    | OfferingWithdrawn
    | UnitsReserved
    | UnitsReturned
)
LaneEvent = OfferingListed | OfferingUnlisted | ListingChanged | LaneDemandChanged | LaneBoundsSet

# State


@dataclass(frozen=True, slots=True)
class Offering:
    provider: str = ""
    device: str = ""
    service_type: str = ""
    region: str = ""
    tier: str = ""
    cpu_millicores: int = 0
    memory_mb: int = 0
    gpu: int = 0
    capacity: int = 0
    pricing: str = ""
    base_price: int = 0
    repriced_at: datetime | None = None
    status: str = "absent"
    """absent, active, paused or withdrawn."""
    bookings: dict[str, int] = field(default_factory=dict)
    """Units in use by reference; each has at least one, so there are at most `capacity`."""

    @property
    def used(self) -> int:
        return sum(self.bookings.values())

    @property
    def free(self) -> int:
        return self.capacity - self.used

    @property
    def lane(self) -> str:
        return lane_id(self.service_type, self.region, self.tier)


@dataclass(frozen=True, slots=True)
class Commitment:
    units: int
    cpu_millicores: int
    memory_mb: int
    gpu: int


@dataclass(frozen=True, slots=True)
class Commitments:
    """What the offerings of one device take of it."""

    offerings: dict[str, Commitment] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lane:
    listings: dict[str, Listing] = field(default_factory=dict)
    demand: int = 0
    supply: int = 0
    market: int = BASIS_POINTS
    market_at: datetime | None = None
    floor: int = 0
    ceiling: int = 0


# evolve


def evolve_offering(offering: Offering, event: OfferingEvent) -> Offering:
    match event:
        case UnitsReserved():
            return replace(offering, bookings={**offering.bookings, event.reference: event.units})
        case UnitsReturned():
            left = {ref: units for ref, units in offering.bookings.items() if ref != event.reference}
            return replace(offering, bookings=left)
        case OfferingRepriced():
            return replace(offering, base_price=event.base_price, repriced_at=event.at)
        case OfferingPaused():
            return replace(offering, status="paused")
        case OfferingResumed():
            return replace(offering, status="active")
        case OfferingWithdrawn():
            return replace(offering, status="withdrawn")
        case OfferingRegistered():
            return Offering(
                event.provider,
                event.device,
                event.service_type,
                event.region,
                event.tier,
                event.cpu_millicores,
                event.memory_mb,
                event.gpu,
                event.capacity,
                event.pricing,
                event.base_price,
                status="active",
            )


def evolve_commitments(commitments: Commitments, event: DeviceCommitted) -> Commitments:
    kept = {id: each for id, each in commitments.offerings.items() if id != event.offering}
    if event.units:
        kept[event.offering] = Commitment(event.units, event.cpu_millicores, event.memory_mb, event.gpu)
    return Commitments(kept)


def evolve_lane(lane: Lane, event: LaneEvent) -> Lane:
    if isinstance(event, LaneBoundsSet):
        return replace(lane, floor=event.floor, ceiling=event.ceiling)
    standing = event.standing
    listings = lane.listings
    match event:
        case ListingChanged():
            changed = replace(listings[event.offering], free=event.free, base_price=event.base_price)
            listings = {**listings, event.offering: changed}
        case OfferingListed():
            listings = {**listings, event.offering: event.listing}
        case OfferingUnlisted():
            listings = {id: each for id, each in listings.items() if id != event.offering}
        case LaneDemandChanged():
            pass
    return Lane(
        listings,
        standing.demand,
        standing.supply,
        standing.market,
        standing.market_at,
        lane.floor,
        lane.ceiling,
    )


offerings = Stream("offering", Offering(), evolve_offering, OfferingEvent)
commitments = Stream("commitments", Commitments(), evolve_commitments, DeviceCommitted)
lanes = Stream("lane", Lane(), evolve_lane, LaneEvent)

# Commands


@dataclass(frozen=True, slots=True)
class RegisterOffering:
    """Offer units of your own device, at a base price for one unit and hour, in the device's region."""

    offering: Id
    device: Id
    service_type: Id
    tier: Id
    cpu_millicores: Count
    """Of one unit, as are memory and gpu."""
    memory_mb: Count
    gpu: Count
    capacity: Count
    """Units."""
    base_price: Amount
    pricing: Id = "pay_as_you_go"


@dataclass(frozen=True, slots=True)
class RepriceOffering:
    """Change your offering's base price: by at most 10 %, at most once an hour. Contracts keep their price."""

    offering: Id
    base_price: Amount


@dataclass(frozen=True, slots=True)
class PauseOffering:
    """Take no new contracts until you resume."""

    offering: Id


@dataclass(frozen=True, slots=True)
class ResumeOffering:
    offering: Id


@dataclass(frozen=True, slots=True)
class WithdrawOffering:
    """Take no new contracts ever again; those that run go on."""

    offering: Id


@dataclass(frozen=True, slots=True)
class SetLaneBounds:
    """Set the least and the most that a unit-hour costs in a lane; 0 for no bound."""

    service_type: Id
    region: Id
    tier: Id
    floor: Quantity
    ceiling: Quantity


# Rules


class OfferingNotFound(NotFound):
    """There is no such offering, or it is not yours."""


class OfferingExists(Rejected):
    """This offering was registered before."""


class TierIsUnknown(Rejected):
    """The tiers are bronze, silver and gold."""


class PricingIsUnknown(Rejected):
    """An offering's pricing is pay_as_you_go, reserved, spot or flat_rate."""


class ServiceTypeIsReserved(Rejected):
    """Harvesting and validation are not sold, and their reputation is not earned by selling."""


class OfferingIsEmpty(Rejected):
    """A unit has some CPU, memory or GPU, and an offering has at least one unit."""


class CapacityIsOutOfRange(Rejected):
    """An offering has a bounded number of units."""


class PriceIsTooHigh(Rejected):
    """A base price, floor or ceiling is beyond all that is sensible."""


class PriceMovesTooFast(Rejected):
    """A base price moves by at most 10 %, at most once an hour."""


class DeviceCannotServeThis(Rejected):
    """The device's offerings together would need more than it is capable of."""


class TooManyOfferingsOfDevice(Rejected):
    """A device has a bounded number of offerings."""


class LaneIsFull(Rejected):
    """A lane holds a bounded number of offerings."""


class TooManyOfferingsInLane(Rejected):
    """A provider has a bounded number of offerings in a lane."""


class FloorIsAboveCeiling(Rejected):
    """A lane's floor is not above its ceiling."""


class OfferingIsPaused(Rejected):
    """A paused offering takes nothing new."""


class OfferingIsWithdrawn(Rejected):
    """A withdrawn offering takes nothing new and never comes back."""


class OfferingIsPromised(Rejected):
    """An offering that won a request stays for sale until the customer has decided or the time is over."""


class CapacityIsTaken(Rejected):
    """The offering has fewer free units than the command needs."""


class UnitsAreReserved(Rejected):
    """Units of this offering are reserved under this reference already."""


class UnitsMustBePositive(Rejected):
    """At least one unit is reserved."""


class DeviceHasMoved(Rejected):
    """The device is no longer in the region that it offers to serve."""


# Decisions: price


@dataclass(frozen=True, slots=True)
class PriceInputs:
    """All that a price depends on."""

    base_price: int
    tier: str
    units: int
    minutes: int
    supply: int
    demand: int
    market: int
    market_at: datetime | None
    at: datetime
    score: int
    """The device's reputation for the service, in basis points."""
    floor: int = 0
    ceiling: int = 0
    """0: none."""


@dataclass(frozen=True, slots=True)
class Price:
    """What one unit costs an hour, and why. Factors are in basis points."""

    unit_hour: int
    tier: int
    volume: int
    duration: int
    market: int
    reputation: int
    """Rounded down to be shown; the price takes least + (most - least) * score / 10,000 exactly."""
    bounded: str
    """floor or ceiling where that decided, else empty."""


def price(inputs: PriceInputs) -> Price:
    """The price of a unit-hour, in smallest units of FOG: one fraction of whole numbers, rounded up once."""
    tier = TIERS[inputs.tier].price_bp
    volume, duration = volume_factor(inputs.units, inputs.minutes), duration_factor(inputs.minutes)
    market = market_now(inputs.supply, inputs.demand, inputs.market, inputs.market_at, inputs.at)
    unit_hour, bounded = unit_price(
        inputs.base_price,
        tier * volume * duration * market,
        inputs.score,
        inputs.floor,
        inputs.ceiling,
    )
    shown = floor_div(reputation_factor(inputs.score), BASIS_POINTS)
    return Price(unit_hour, tier, volume, duration, market, shown, bounded)


def unit_price(base_price: int, factors: int, score: int, floor: int, ceiling: int) -> tuple[int, str]:
    """The price, and which bound decided it; `factors` is the product of the four others, in basis points each."""
    scale = BASIS_POINTS**6  # Four factors in basis points, and reputation in those of a basis point.
    unit_hour = ceil_div(base_price * factors * reputation_factor(score), scale)
    # Floor and ceiling are whole numbers, so rounding up before they bind is the same as after.
    if ceiling and unit_hour > ceiling:
        return ceiling, "ceiling"
    if unit_hour < floor:
        return floor, "floor"
    return unit_hour, ""


def reputation_factor(score: int) -> int:
    """Linear in the score, exact: in 1/10,000 of a basis point."""
    return P.least_reputation * BASIS_POINTS + (P.most_reputation - P.least_reputation) * score


def volume_factor(units: int, minutes: int) -> int:
    """By the unit-hours of the purchase."""
    for hours, factor in P.volumes:
        if units * minutes >= hours * 60:
            return factor
    return BASIS_POINTS


def duration_factor(minutes: int) -> int:
    for below, factor in P.durations:
        if minutes < below:
            return factor
    return P.long_duration


def market_target(supply: int, demand: int) -> int:
    """The market factor that supply (free units) over demand (open requests' units) asks for."""
    if supply > 2 * demand:
        return P.ample
    if 2 * supply < demand:
        return P.scarce
    return BASIS_POINTS


def market_now(supply: int, demand: int, market: int, market_at: datetime | None, at: datetime) -> int:
    """A lane's market factor at a time, in basis points."""
    return glide(market, market_at, market_target(supply, demand), at)[0]


def glide(market: int, market_at: datetime | None, target: int, at: datetime) -> tuple[int, datetime]:
    """Where the market factor is at a time, on its straight way to its target, and up to when that is counted.

    Whole basis points, rounded towards where it was. Time that did not make up a basis point is counted the next
    time, so that many small changes of a lane neither hasten nor hinder it.
    """
    if market_at is None or at <= market_at:
        return market, market_at or at
    gap = target - market
    steps = floor_div((at - market_at) // MICROSECOND * P.market_step, HOUR_US)
    if steps >= abs(gap):
        return target, at
    counted = ceil_div(steps * HOUR_US, P.market_step)
    return market + (steps if gap > 0 else -steps), market_at + counted * MICROSECOND


def price_of(read: Read, offering_id: str, units: int, minutes: int, at: datetime) -> Price:
    """What a purchase of some units for some minutes costs now, a unit and hour."""
    offering = known(read, offering_id)
    lane = read(lanes, offering.lane)
    return price(
        PriceInputs(
            offering.base_price,
            offering.tier,
            units,
            minutes,
            lane.supply,
            lane.demand,
            lane.market,
            lane.market_at,
            at,
            score(read, offering.device, offering.service_type, at),
            lane.floor,
            lane.ceiling,
        )
    )


def lane_factors(lane: Lane, tier: str, units: int, minutes: int, at: datetime) -> int:
    """The product of the four price factors that all offerings of a lane share, in basis points each."""
    market = market_now(lane.supply, lane.demand, lane.market, lane.market_at, at)
    return TIERS[tier].price_bp * volume_factor(units, minutes) * duration_factor(minutes) * market


def cost(unit_hour: int, units: int, minutes: int) -> int:
    """What units cost for some minutes; rounded up."""
    return ceil_div(unit_hour * units * minutes, 60)


# Decisions: lanes


def lane_id(service_type: str, region: str, tier: str) -> str:
    return f"{service_type}:{region}:{tier}"


def tier_of(name: str) -> Tier:
    found = TIERS.get(name)
    if found is None:
        raise TierIsUnknown(tier=name, known=sorted(TIERS, key=lambda tier: TIERS[tier].rank))
    return found


def _standing(lane: Lane, at: datetime, *, supply: int = 0, demand: int = 0) -> Standing:
    """How the lane stands once supply and demand have changed by these; its market factor moved until then."""
    market, counted = glide(lane.market, lane.market_at, market_target(lane.supply, lane.demand), at)
    return Standing(lane.supply + supply, lane.demand + demand, market, counted)


def change_demand(read: Read, issued: Issued, lane: str, request: str, units: int) -> Decision:
    """An open request's units come (above zero) or go (below)."""
    standing = _standing(read(lanes, lane), issued.at, demand=units)
    yield lanes(lane), LaneDemandChanged(request, units, standing, issued.at)


def _enlist(read: Read, issued: Issued, offering_id: str) -> Decision:
    offering = read(offerings, offering_id)
    lane = read(lanes, offering.lane)
    if len(lane.listings) >= P.most_offerings_a_lane:
        raise LaneIsFull(lane=offering.lane, limit=P.most_offerings_a_lane)
    his = sum(listing.provider == offering.provider for listing in lane.listings.values())
    if his >= P.most_offerings_a_provider:
        raise TooManyOfferingsInLane(lane=offering.lane, limit=P.most_offerings_a_provider)
    listing = Listing(
        offering.provider,
        offering.device,
        offering.cpu_millicores,
        offering.memory_mb,
        offering.gpu,
        offering.base_price,
        offering.free,
    )
    standing = _standing(lane, issued.at, supply=offering.free)
    yield lanes(offering.lane), OfferingListed(offering_id, listing, standing, issued.at)


def _delist(read: Read, issued: Issued, offering_id: str) -> Decision:
    offering = read(offerings, offering_id)
    lane = read(lanes, offering.lane)
    listing = lane.listings.get(offering_id)
    if listing is not None:
        standing = _standing(lane, issued.at, supply=-listing.free)
        yield lanes(offering.lane), OfferingUnlisted(offering_id, standing, issued.at)


def _relist(read: Read, issued: Issued, offering_id: str) -> Decision:
    """The lane learns of the offering's free units and base price, where it is listed."""
    offering = read(offerings, offering_id)
    lane = read(lanes, offering.lane)
    listing = lane.listings.get(offering_id)
    if listing is not None:
        standing = _standing(lane, issued.at, supply=offering.free - listing.free)
        yield (
            lanes(offering.lane),
            ListingChanged(offering_id, offering.free, offering.base_price, standing, issued.at),
        )


def set_lane_bounds(command: SetLaneBounds, issued: Issued, read: Read) -> Decision:
    tier_of(command.tier)
    most = max(command.floor, command.ceiling)
    if most > P.most_price:
        raise PriceIsTooHigh(price=most, limit=P.most_price)
    if command.ceiling and command.floor > command.ceiling:
        raise FloorIsAboveCeiling(floor=command.floor, ceiling=command.ceiling)
    id = lane_id(command.service_type, command.region, command.tier)
    lane = read(lanes, id)
    if (lane.floor, lane.ceiling) != (command.floor, command.ceiling):
        yield lanes(id), LaneBoundsSet(command.floor, command.ceiling, issued.by, issued.at)


# Decisions: offerings


def known(read: Read, offering_id: str) -> Offering:
    found = read(offerings, offering_id)
    if not found.provider:
        raise OfferingNotFound(offering=offering_id)
    return found


def offering_of(read: Read, issued: Issued, offering_id: str) -> Offering:
    """The caller's own offering that is not withdrawn."""
    found = known(read, offering_id)
    if found.provider != issued.by:
        raise OfferingNotFound(offering=offering_id)
    if found.status == "withdrawn":
        raise OfferingIsWithdrawn(offering=offering_id)
    return found


def register_offering(command: RegisterOffering, issued: Issued, read: Read) -> Decision:
    if read(offerings, command.offering).provider:
        raise OfferingExists(offering=command.offering)
    tier_of(command.tier)
    if command.pricing not in PRICINGS:
        raise PricingIsUnknown(pricing=command.pricing, known=list(PRICINGS))
    if command.service_type in RESERVED_SERVICES:
        raise ServiceTypeIsReserved(service_type=command.service_type, reserved=list(RESERVED_SERVICES))
    if not command.capacity or not (command.cpu_millicores or command.memory_mb or command.gpu):
        raise OfferingIsEmpty(offering=command.offering)
    if command.capacity > P.most_capacity:
        raise CapacityIsOutOfRange(capacity=command.capacity, limit=P.most_capacity)
    if command.base_price > P.most_price:
        raise PriceIsTooHigh(price=command.base_price, limit=P.most_price)
    device = owned(read, issued, command.device)
    _room_on_device(command, read)
    yield (
        offerings(command.offering),
        OfferingRegistered(
            issued.by,
            command.device,
            command.service_type,
            device.region,
            command.tier,
            command.cpu_millicores,
            command.memory_mb,
            command.gpu,
            command.capacity,
            command.pricing,
            command.base_price,
            issued.at,
        ),
    )
    yield from _commit(read, command.offering, command.capacity)
    yield from _enlist(read, issued, command.offering)


def _room_on_device(command: RegisterOffering, read: Read) -> None:
    taken = read(commitments, command.device).offerings
    if len(taken) >= P.most_offerings_a_device:
        raise TooManyOfferingsOfDevice(device=command.device, limit=P.most_offerings_a_device)
    capable = serving(read, command.device).capabilities
    new = Commitment(command.capacity, command.cpu_millicores, command.memory_mb, command.gpu)
    everything = [*taken.values(), new]
    for resource in ("cpu_millicores", "memory_mb", "gpu"):
        needed = sum(each.units * getattr(each, resource) for each in everything)
        if needed > getattr(capable, resource):
            raise DeviceCannotServeThis(
                device=command.device, resource=resource, needed=needed, capable=getattr(capable, resource)
            )


def _commit(read: Read, offering_id: str, units: int) -> Decision:
    offering = read(offerings, offering_id)
    yield (
        commitments(offering.device),
        DeviceCommitted(offering_id, units, offering.cpu_millicores, offering.memory_mb, offering.gpu),
    )


def reprice_offering(command: RepriceOffering, issued: Issued, read: Read) -> Decision:
    offering = offering_of(read, issued, command.offering)
    if command.base_price == offering.base_price:
        return
    if command.base_price > P.most_price:
        raise PriceIsTooHigh(price=command.base_price, limit=P.most_price)
    # At least one smallest unit, or a very low price could never move.
    most = max(floor_div(offering.base_price * P.price_step, BASIS_POINTS), 1)
    next_at = issued.at if offering.repriced_at is None else offering.repriced_at + HOUR
    if abs(command.base_price - offering.base_price) > most or issued.at < next_at:
        raise PriceMovesTooFast(base_price=offering.base_price, most_change=most, next_at=next_at)
    yield offerings(command.offering), OfferingRepriced(command.base_price, issued.at)
    yield from _relist(read, issued, command.offering)


def pause_offering(command: PauseOffering, issued: Issued, read: Read) -> Decision:
    offering = offering_of(read, issued, command.offering)
    if offering.status == "paused":
        return
    _no_promise(offering, command.offering)
    yield offerings(command.offering), OfferingPaused(issued.at)
    yield from _delist(read, issued, command.offering)


def resume_offering(command: ResumeOffering, issued: Issued, read: Read) -> Decision:
    offering = offering_of(read, issued, command.offering)
    here(read, offering.device, offering.region)
    if offering.status == "active":
        return
    yield offerings(command.offering), OfferingResumed(issued.at)
    yield from _enlist(read, issued, command.offering)


def withdraw_offering(command: WithdrawOffering, issued: Issued, read: Read) -> Decision:
    offering = offering_of(read, issued, command.offering)
    _no_promise(offering, command.offering)
    yield offerings(command.offering), OfferingWithdrawn(issued.at)
    yield from _delist(read, issued, command.offering)
    yield from _commit(read, command.offering, offering.used)


def _no_promise(offering: Offering, id: str) -> None:
    for reference in offering.bookings:
        if reference.startswith(PROMISED):
            raise OfferingIsPromised(offering=id, reference=reference)


# Decisions: capacity


def for_sale(read: Read, offering_id: str) -> Offering:
    """An offering that takes new contracts, on a device that serves."""
    offering = known(read, offering_id)
    if offering.status == "paused":
        raise OfferingIsPaused(offering=offering_id)
    if offering.status == "withdrawn":
        raise OfferingIsWithdrawn(offering=offering_id)
    here(read, offering.device, offering.region)
    return offering


def here(read: Read, device: str, region: str) -> None:
    """The device serves, and still does so in the region that its offerings were registered for."""
    if serving(read, device).region != region:
        raise DeviceHasMoved(device=device, region=region)


def reserve(read: Read, issued: Issued, offering_id: str, units: int, ref: str) -> Decision:
    """Take free units of an offering under a reference, which holds units once at a time."""
    offering = for_sale(read, offering_id)
    if units < 1:
        raise UnitsMustBePositive(units=units)
    if ref in offering.bookings:
        raise UnitsAreReserved(offering=offering_id, reference=ref)
    if units > offering.free:
        raise CapacityIsTaken(offering=offering_id, free=offering.free, needed=units)
    yield offerings(offering_id), UnitsReserved(ref, units, offering.used + units, issued.at)
    yield from _relist(read, issued, offering_id)


def give_back(read: Read, issued: Issued, offering_id: str, units: int, ref: str) -> Decision:
    """Return what a reference holds of an offering; once it is returned, nothing is left to decide.

    `units` is what the caller believes it holds; anything else is a defect of the caller.
    """
    offering = known(read, offering_id)
    held = offering.bookings.get(ref, 0)
    if not held:
        return
    assert units == held, f"{ref} holds {held} units of {offering_id}, not {units}"
    yield offerings(offering_id), UnitsReturned(ref, units, offering.used - units, issued.at)
    if offering.status == "withdrawn":
        yield from _commit(read, offering_id, offering.used - units)
    else:
        yield from _relist(read, issued, offering_id)
