"""Offerings, lanes and the price: commands, rules and traps, as sentences; the price against a table worked by hand.

Pia provides: her device `d1` in `eu` has 8 cores, 16 GB and 2 GPUs. Ana buys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from domain._kernel import Decision, Issued, Read
from domain.devices import (
    Capabilities,
    DeviceIsSuspended,
    DeviceNotFound,
    RecordReputation,
    RegisterDevice,
    RelocateDevice,
    SuspendDevice,
)
from domain.marketplace import offerings as market
from domain.marketplace.offerings import (
    TIERS,
    CapacityIsOutOfRange,
    CapacityIsTaken,
    Commitment,
    DeviceCannotServeThis,
    DeviceCommitted,
    DeviceHasMoved,
    FloorIsAboveCeiling,
    Lane,
    LaneBoundsSet,
    LaneDemandChanged,
    LaneIsFull,
    Listing,
    ListingChanged,
    Offering,
    OfferingExists,
    OfferingIsEmpty,
    OfferingIsPaused,
    OfferingIsPromised,
    OfferingIsWithdrawn,
    OfferingListed,
    OfferingNotFound,
    OfferingPaused,
    OfferingRegistered,
    OfferingRepriced,
    OfferingResumed,
    OfferingUnlisted,
    OfferingWithdrawn,
    P,
    PauseOffering,
    PriceInputs,
    PriceIsTooHigh,
    PriceMovesTooFast,
    PricingIsUnknown,
    RegisterOffering,
    RepriceOffering,
    ResumeOffering,
    ServiceTypeIsReserved,
    SetLaneBounds,
    Standing,
    TierIsUnknown,
    TooManyOfferingsInLane,
    TooManyOfferingsOfDevice,
    UnitsAreReserved,
    UnitsMustBePositive,
    UnitsReserved,
    UnitsReturned,
    WithdrawOffering,
    change_demand,
    commitments,
    cost,
    give_back,
    glide,
    lanes,
    market_target,
    offerings,
    price,
    price_of,
    reserve,
)
from tests.examples import DAY, HOUR, NOW, WEEK, Story, story, zone_created

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
D1 = Capabilities(8_000, 16_000, 0, 0, 2)
d1_registered: Any = (RegisterDevice("d1", "server", D1, "eu"), "pia")


def offer(offering: str = "o1", device: str = "d1", **fields: Any) -> RegisterOffering:
    """Four units of a core and 2 GB each, at 1,000 for one and an hour."""
    command = RegisterOffering(offering, device, "compute", "bronze", 1_000, 2_000, 0, 4, 1_000)
    return replace(command, **fields)


o1_registered: Any = (offer(), "pia")
for_sale: Any = (zone_created, d1_registered, o1_registered)


@dataclass(frozen=True)
class TakeUnits:
    """What contracts and requests do inside decisions of their own, as a command."""

    reference: str
    units: int
    offering: str = "o1"


@dataclass(frozen=True)
class ReturnUnits:
    reference: str
    units: int
    offering: str = "o1"


@dataclass(frozen=True)
class ChangeLaneDemand:
    """Units of open requests come or go."""

    units: int
    lane: str = "compute:eu:bronze"


def take_units(command: TakeUnits, issued: Issued, read: Read) -> Decision:
    yield from reserve(read, issued, command.offering, command.units, command.reference)


def return_units(command: ReturnUnits, issued: Issued, read: Read) -> Decision:
    yield from give_back(read, issued, command.offering, command.units, command.reference)


def change_lane_demand(command: ChangeLaneDemand, issued: Issued, read: Read) -> Decision:
    yield from change_demand(read, issued, command.lane, "r1", command.units)


def offering(told: Story, id: str = "o1") -> Offering:
    found: Offering = told.book.read(offerings, id)
    return found


def lane(told: Story, id: str = "compute:eu:bronze") -> Lane:
    found: Lane = told.book.read(lanes, id)
    return found


def taken(told: Story, device: str = "d1") -> dict[str, Commitment]:
    return dict(told.book.read(commitments, device).offerings)


# Tiers


def test_tiers_are_ordered_by_rank_which_is_not_the_order_of_their_names() -> None:
    assert sorted(TIERS, key=lambda name: TIERS[name].rank) == ["bronze", "silver", "gold"]
    assert "bronze" < "gold" < "silver", "by name, gold would be less than silver"


def test_tiers_promise_what_they_cost() -> None:
    promised = {
        name: (tier.p95_ms, tier.uptime_bp, tier.errors_bp, tier.price_bp) for name, tier in TIERS.items()
    }
    assert promised == {
        "bronze": (2_500, 9_700, 300, 10_000),
        "silver": (1_200, 9_900, 100, 25_000),
        "gold": (400, 9_990, 10, 50_000),
    }


# Registering


def test_an_offering_is_registered_in_its_devices_region_and_listed_in_its_lane() -> None:
    told = story(zone_created, d1_registered)
    told.when(offer(), by="pia").then(
        OfferingRegistered(
            "pia", "d1", "compute", "eu", "bronze", 1_000, 2_000, 0, 4, "pay_as_you_go", 1_000, NOW
        ),
        DeviceCommitted("o1", 4, 1_000, 2_000, 0),
        OfferingListed(
            "o1", Listing("pia", "d1", 1_000, 2_000, 0, 1_000, 4), Standing(4, 0, 10_000, NOW), NOW
        ),
    )


def test_only_the_devices_owner_offers_it() -> None:
    story(zone_created, d1_registered).when(offer(), by="ana").then(DeviceNotFound)


def test_a_suspended_device_offers_nothing() -> None:
    told = story(zone_created, d1_registered, (SuspendDevice("d1", "fraud"), "operator"))
    told.when(offer(), by="pia").then(DeviceIsSuspended)


def test_the_first_to_use_an_offerings_id_owns_it() -> None:
    story(for_sale).when(offer(), by="pia").then(OfferingExists)


@pytest.mark.parametrize(
    ("command", "rule"),
    [
        (offer(tier="platinum"), TierIsUnknown),
        (offer(tier="GOLD"), TierIsUnknown),
        (offer(pricing="free"), PricingIsUnknown),
        (offer(service_type="harvest"), ServiceTypeIsReserved),
        (offer(service_type="validation"), ServiceTypeIsReserved),
        (offer(capacity=0), OfferingIsEmpty),
        (offer(cpu_millicores=0, memory_mb=0, gpu=0), OfferingIsEmpty),
        (offer(capacity=P.most_capacity + 1), CapacityIsOutOfRange),
        (offer(base_price=P.most_price + 1), PriceIsTooHigh),
        (offer(capacity=9), DeviceCannotServeThis),
        (offer(memory_mb=4_001), DeviceCannotServeThis),
        (offer(gpu=1), DeviceCannotServeThis),
    ],
)
def test_what_cannot_be_offered(command: RegisterOffering, rule: Any) -> None:
    story(zone_created, d1_registered).when(command, by="pia").then(rule)


def test_a_devices_offerings_together_stay_within_what_it_is_capable_of() -> None:
    told = story(for_sale)
    told.when(offer("o2", memory_mb=1, capacity=5), by="pia").refused_with(
        DeviceCannotServeThis, resource="cpu_millicores", needed=9_000, capable=8_000
    )
    told.when(offer("o2"), by="pia").then(OfferingRegistered, DeviceCommitted, OfferingListed)
    told.when(offer("o3", cpu_millicores=1, memory_mb=0, capacity=1), by="pia").then(DeviceCannotServeThis)


def test_a_device_has_a_bounded_number_of_offerings() -> None:
    listing = [(commitments("d1"), DeviceCommitted(f"x{i}", 1, 0, 0, 0)) for i in range(64)]
    story(zone_created, d1_registered, listing).when(offer(), by="pia").then(TooManyOfferingsOfDevice)


def test_a_lane_holds_a_bounded_number_of_offerings() -> None:
    full = [
        (
            lanes("compute:eu:bronze"),
            OfferingListed(
                f"x{i}", Listing("pia", "d1", 1, 1, 0, 1, 1), Standing(i + 1, 0, 10_000, NOW), NOW
            ),
        )
        for i in range(P.most_offerings_a_lane)
    ]
    story(zone_created, d1_registered, full).when(offer(), by="pia").then(LaneIsFull)


def test_nobody_fills_a_lane_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market, "P", replace(P, most_offerings_a_provider=2))
    told = story(for_sale, (RegisterDevice("d2", "server", D1, "eu"), "pia"))
    told.and_then(offer("o2", "d2", capacity=1), "pia")
    told.when(offer("o3", "d2", capacity=1), by="pia").refused_with(
        TooManyOfferingsInLane, lane="compute:eu:bronze", limit=2
    )
    told.when(offer("o3", "d2", capacity=1, tier="gold"), by="pia").then(
        OfferingRegistered, DeviceCommitted, OfferingListed
    )
    told.and_then(PauseOffering("o2"), "pia").and_then(offer("o4", "d2", capacity=1), "pia")
    told.when(ResumeOffering("o2"), by="pia").then(TooManyOfferingsInLane)
    told.and_then(RegisterDevice("d3", "server", D1, "eu"), "quin")
    told.when(offer("o5", "d3"), by="quin").then(OfferingRegistered, DeviceCommitted, OfferingListed)


# Repricing, pausing, withdrawing


def test_a_base_price_moves_by_a_tenth_at_most_once_an_hour() -> None:
    told = story(for_sale)
    told.when(RepriceOffering("o1", 1_101), by="pia").then(PriceMovesTooFast)
    told.when(RepriceOffering("o1", 899), by="pia").then(PriceMovesTooFast)
    told.when(RepriceOffering("o1", 1_100), by="pia").then(OfferingRepriced(1_100, NOW), ListingChanged)
    assert lane(told).listings["o1"].base_price == 1_100
    told.when(RepriceOffering("o1", 1_101), by="pia", after=HOUR - SECOND).then(PriceMovesTooFast)
    told.when(RepriceOffering("o1", 1_210), by="pia", after=SECOND).then(OfferingRepriced, ListingChanged)


def test_even_the_lowest_price_can_move() -> None:
    told = story(zone_created, d1_registered, (offer(base_price=1), "pia"))
    told.when(RepriceOffering("o1", 3), by="pia").then(PriceMovesTooFast)
    told.when(RepriceOffering("o1", 2), by="pia").then(OfferingRepriced, ListingChanged)


def test_the_same_price_again_changes_nothing() -> None:
    story(for_sale).when(RepriceOffering("o1", 1_000), by="pia").then()


@pytest.mark.parametrize(
    "command",
    [RepriceOffering("o1", 1_001), PauseOffering("o1"), ResumeOffering("o1"), WithdrawOffering("o1")],
)
def test_only_its_provider_changes_an_offering(command: Any) -> None:
    told = story(for_sale)
    told.when(command, by="ana").then(OfferingNotFound)
    told.when(command, by="operator").then(OfferingNotFound)
    told.when(replace(command, offering="o9"), by="pia").then(OfferingNotFound)


def test_a_paused_offering_is_not_listed_and_takes_nothing_new() -> None:
    told = story(for_sale)
    told.when(PauseOffering("o1"), by="pia").then(
        OfferingPaused(NOW), OfferingUnlisted("o1", Standing(0, 0, 10_000, NOW), NOW)
    )
    told.when(PauseOffering("o1"), by="pia").then()
    told.when(TakeUnits("k1", 1)).then(OfferingIsPaused)
    told.when(RepriceOffering("o1", 1_050), by="pia").then(OfferingRepriced)
    told.when(ResumeOffering("o1"), by="pia").then(OfferingResumed, OfferingListed)
    told.when(ResumeOffering("o1"), by="pia").then()
    assert lane(told).listings["o1"] == Listing("pia", "d1", 1_000, 2_000, 0, 1_050, 4)


def test_an_offering_resumes_with_what_is_free_then() -> None:
    told = story(for_sale).and_then(TakeUnits("k1", 3)).and_then(PauseOffering("o1"), "pia")
    told.when(ReturnUnits("k1", 3)).then(UnitsReturned("k1", 3, 0, NOW))
    told.when(ResumeOffering("o1"), by="pia")
    assert lane(told).supply == 4


def test_a_device_that_moved_away_serves_its_old_region_no_more() -> None:
    told = story(for_sale).later(DAY).and_then(RelocateDevice("d1", "us"), "pia")
    told.when(TakeUnits("k1", 1)).then(DeviceHasMoved)
    told.when(ResumeOffering("o1"), by="pia").then(DeviceHasMoved)
    told.when(PauseOffering("o1"), by="pia").then(OfferingPaused, OfferingUnlisted)


def test_a_withdrawn_offering_never_comes_back_but_what_is_in_use_goes_on() -> None:
    told = story(for_sale).and_then(TakeUnits("k1", 3))
    told.when(WithdrawOffering("o1"), by="pia").then(
        OfferingWithdrawn(NOW), OfferingUnlisted, DeviceCommitted("o1", 3, 1_000, 2_000, 0)
    )
    assert offering(told).bookings == {"k1": 3}
    told.when(WithdrawOffering("o1"), by="pia").then(OfferingIsWithdrawn)
    told.when(ResumeOffering("o1"), by="pia").then(OfferingIsWithdrawn)
    told.when(TakeUnits("k2", 1)).then(OfferingIsWithdrawn)
    told.when(offer(), by="pia").then(OfferingExists)


def test_a_withdrawn_offering_frees_its_device_as_it_gets_its_units_back() -> None:
    told = story(for_sale).and_then(TakeUnits("k1", 3)).and_then(TakeUnits("k2", 1))
    told.and_then(WithdrawOffering("o1"), "pia")
    told.when(offer("o2", capacity=5), by="pia").then(DeviceCannotServeThis)
    told.when(ReturnUnits("k2", 1)).then(UnitsReturned("k2", 1, 3, NOW), DeviceCommitted)
    told.when(offer("o2", capacity=5), by="pia").then(OfferingRegistered, DeviceCommitted, OfferingListed)
    told.when(ReturnUnits("k1", 3)).then(UnitsReturned, DeviceCommitted("o1", 0, 1_000, 2_000, 0))
    assert list(taken(told)) == ["o2"]


def test_an_offering_that_won_a_request_stays_until_its_customer_decided() -> None:
    told = story(for_sale).and_then(TakeUnits("request:r1", 1))
    told.when(WithdrawOffering("o1"), by="pia").then(OfferingIsPromised)
    told.when(PauseOffering("o1"), by="pia").then(OfferingIsPromised)
    told.and_then(ReturnUnits("request:r1", 1))
    told.when(WithdrawOffering("o1"), by="pia").then(OfferingWithdrawn, OfferingUnlisted, DeviceCommitted)


# Capacity


def test_units_are_reserved_and_returned_once() -> None:
    """Terminating twice returned capacity twice."""
    told = story(for_sale)
    told.when(TakeUnits("k1", 3)).then(
        UnitsReserved("k1", 3, 3, NOW), ListingChanged("o1", 1, 1_000, Standing(1, 0, 10_000, NOW), NOW)
    )
    told.when(ReturnUnits("k1", 3)).then(
        UnitsReturned("k1", 3, 0, NOW), ListingChanged("o1", 4, 1_000, Standing(4, 0, 10_000, NOW), NOW)
    )
    told.when(ReturnUnits("k1", 3)).then()
    assert (offering(told).used, offering(told).free) == (0, 4)


def test_of_two_clients_the_first_gets_the_last_capacity() -> None:
    told = story(for_sale).and_then(TakeUnits("k1", 3))
    told.when(TakeUnits("ana", 1)).then(UnitsReserved, ListingChanged)
    told.when(TakeUnits("ben", 1)).refused_with(CapacityIsTaken, free=0, needed=1)
    assert offering(told).used == 4


def test_a_reference_holds_units_once_at_a_time() -> None:
    told = story(for_sale).and_then(TakeUnits("k1", 1))
    told.when(TakeUnits("k1", 1)).then(UnitsAreReserved)
    told.and_then(ReturnUnits("k1", 1))
    told.when(TakeUnits("k1", 2)).then(UnitsReserved, ListingChanged)


@pytest.mark.parametrize("units", [0, -1])
def test_nobody_reserves_nothing(units: int) -> None:
    story(for_sale).when(TakeUnits("k1", units)).then(UnitsMustBePositive)


def test_a_suspended_device_takes_nothing_new_but_gets_its_units_back() -> None:
    told = story(for_sale).and_then(TakeUnits("k1", 2)).and_then(SuspendDevice("d1", "fraud"))
    told.when(TakeUnits("k2", 1)).then(DeviceIsSuspended)
    told.when(ReturnUnits("k1", 2)).then(UnitsReturned, ListingChanged)


def test_what_another_offering_holds_is_not_given_back() -> None:
    told = story(for_sale).and_then(TakeUnits("k1", 2))
    told.when(ReturnUnits("k2", 2)).then()
    told.when(ReturnUnits("k1", 2, "o9")).then(OfferingNotFound)
    with pytest.raises(AssertionError):
        told.when(ReturnUnits("k1", 1))


# Lanes


def test_an_operator_bounds_a_lanes_price() -> None:
    told = story(for_sale)
    command = SetLaneBounds("compute", "eu", "bronze", 1_500, 2_000)
    told.when(command).then(LaneBoundsSet(1_500, 2_000, "operator", NOW))
    told.when(command).then()
    assert price_of(told.book.read, "o1", 1, 60, NOW).unit_hour == 1_500
    told.and_then(SetLaneBounds("compute", "eu", "bronze", 0, 500))
    assert price_of(told.book.read, "o1", 1, 60, NOW).bounded == "ceiling"
    told.and_then(SetLaneBounds("compute", "eu", "bronze", 0, 0))
    assert price_of(told.book.read, "o1", 1, 60, NOW).unit_hour == 1_000


def test_a_floor_is_not_above_its_ceiling() -> None:
    told = story(for_sale)
    told.when(SetLaneBounds("compute", "eu", "bronze", 2, 1)).then(FloorIsAboveCeiling)
    told.when(SetLaneBounds("compute", "eu", "bronze", 2, 0)).then(LaneBoundsSet)
    told.when(SetLaneBounds("compute", "eu", "bronze", 0, 10**19)).then(PriceIsTooHigh)
    told.when(SetLaneBounds("compute", "eu", "best", 0, 1)).then(TierIsUnknown)


def test_a_lanes_supply_is_what_its_offerings_have_free() -> None:
    told = story(for_sale).and_then(offer("o2", capacity=2), "pia").and_then(TakeUnits("k1", 3))
    assert lane(told).supply == 1 + 2
    told.and_then(PauseOffering("o1"), "pia")
    assert lane(told).supply == 2
    told.and_then(WithdrawOffering("o2"), "pia")
    assert lane(told).supply == 0


# The market factor


@pytest.mark.parametrize(
    ("supply", "demand", "factor"),
    [
        (0, 0, 10_000),
        (1, 0, 9_000),
        (0, 1, 11_500),
        (4, 2, 10_000),
        (5, 2, 9_000),
        (2, 4, 10_000),
        (2, 5, 11_500),
        (3, 3, 10_000),
    ],
)
def test_supply_over_demand_says_where_the_market_goes(supply: int, demand: int, factor: int) -> None:
    assert market_target(supply, demand) == factor


@pytest.mark.parametrize(
    ("after", "market"),
    [
        (timedelta(), 10_000),
        (SECOND, 10_000),
        (4 * SECOND, 9_999),
        (MINUTE, 9_985),
        (HOUR, 9_100),
        (HOUR + 400 * SECOND, 9_000),
        (WEEK, 9_000),
    ],
)
def test_the_market_moves_by_at_most_900_basis_points_an_hour(after: timedelta, market: int) -> None:
    """Four units free and nobody asks: the factor falls from 1.0 to 0.9, a basis point every four seconds."""
    told = story(for_sale).later(after)
    assert price_of(told.book.read, "o1", 1, 60, told.book.now).market == market


def test_many_small_changes_neither_hasten_nor_hinder_the_market() -> None:
    """An update that was bounded each time, not each hour, moved as fast as one could call it."""
    hasty, patient = story(for_sale), story(for_sale).later(HOUR)
    for i in range(1_000):
        hasty.later(HOUR // 1_000)
        hasty.and_then(TakeUnits(f"k{i}", 1)).and_then(ReturnUnits(f"k{i}", 1))
    prices = [price_of(told.book.read, "o1", 1, 60, told.book.now) for told in (hasty, patient)]
    assert prices[0] == prices[1]
    assert prices[0].market == 9_100


def test_demand_turns_the_market_around_from_where_it_is() -> None:
    told = story(for_sale).later(HOUR).and_then(ChangeLaneDemand(9))
    told.when(ChangeLaneDemand(1)).then(
        LaneDemandChanged("r1", 1, Standing(4, 10, 9_100, NOW + HOUR), NOW + HOUR)
    )
    told.later(HOUR)
    assert price_of(told.book.read, "o1", 1, 60, told.book.now).market == 10_000
    told.and_then(ChangeLaneDemand(-10))
    assert lane(told).demand == 0


def test_a_market_that_has_arrived_saves_no_time_up() -> None:
    told = story(for_sale).later(WEEK).and_then(ChangeLaneDemand(100))
    assert price_of(told.book.read, "o1", 1, 60, told.book.now).market == 9_000


@settings(max_examples=100)
@for_all(
    st.lists(
        st.tuples(st.sampled_from((9_000, 10_000, 11_500)), st.integers(0, 4_000_000_000)),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 3_600_000_000),
)
def test_in_no_hour_the_market_moves_by_more_than_a_tenth(path: list[tuple[int, int]], into: int) -> None:
    """However targets change: wherever the hour begins, its end is within 10 % of it."""
    told = [(NOW, 10_000)]
    market, market_at, now = 10_000, NOW, NOW
    for target, waited in path:
        for step in range(4):
            now += timedelta(microseconds=waited // 4)
            told.append((now, glide(market, market_at, target, now)[0]))
            if step == 3:
                market, market_at = glide(market, market_at, target, now)
                assert now - market_at < timedelta(seconds=4)
    for begin, before in told:
        for end, after in told:
            if begin <= end <= begin + HOUR:
                assert abs(after - before) * 10 <= before


# The price


def inputs(**fields: Any) -> PriceInputs:
    """100,000 for a bronze unit and hour, of a device of middling reputation in a quiet lane."""
    return replace(PriceInputs(100_000, "bronze", 1, 60, 1, 1, 10_000, None, NOW, 5_000), **fields)


TABLE = [
    # Tier.
    ({}, 100_000),
    ({"tier": "silver"}, 250_000),
    ({"tier": "gold"}, 500_000),
    # Duration: below an hour, a day, a week, and longer (with the volume that it makes).
    ({"minutes": 59}, 120_000),
    ({"minutes": 60}, 100_000),
    ({"minutes": 1_439}, 95_000),
    ({"minutes": 1_440}, 90_250),
    ({"minutes": 10_079}, 85_500),
    ({"minutes": 10_080}, 81_000),
    # Volume: 10, 100 and 1,000 unit-hours, as hours of one unit or units of one hour.
    ({"minutes": 599}, 100_000),
    ({"minutes": 600}, 95_000),
    ({"units": 9}, 100_000),
    ({"units": 10}, 95_000),
    ({"units": 99}, 95_000),
    ({"units": 100}, 90_000),
    ({"units": 1_000}, 85_000),
    # Market and reputation.
    ({"market": 9_000}, 90_000),
    ({"market": 11_500}, 115_000),
    ({"score": 0}, 70_000),
    ({"score": 2_500}, 85_000),
    ({"score": 7_500}, 115_000),
    ({"score": 10_000}, 130_000),
    # All of it: 5 x 0.85 x 0.9 x 1.15 x 1.3 = 5.718375.
    ({"tier": "gold", "units": 6, "minutes": 10_080, "market": 11_500, "score": 10_000}, 571_838),
    # Rounded up, once: 1.2; 3.00018; 5.00030.
    ({"base_price": 1, "minutes": 59}, 2),
    ({"base_price": 3, "score": 5_001}, 4),
    ({"base_price": 1, "tier": "gold", "score": 5_001}, 6),
    # Within the lane's bounds.
    ({"floor": 100_001}, 100_001),
    ({"floor": 100_000, "ceiling": 100_000}, 100_000),
    ({"ceiling": 99_999}, 99_999),
    ({"ceiling": 0}, 100_000),
]


@pytest.mark.parametrize(("fields", "unit_hour"), TABLE)
def test_the_price_is_what_a_table_worked_by_hand_says(fields: dict[str, Any], unit_hour: int) -> None:
    assert price(inputs(**fields)).unit_hour == unit_hour


def test_a_price_shows_what_it_is_made_of() -> None:
    found = price(
        inputs(tier="silver", units=20, minutes=30, market=9_500, market_at=NOW, score=6_001, floor=10**6)
    )
    assert (found.tier, found.volume, found.duration) == (25_000, 9_500, 12_000)
    assert (found.market, found.reputation, found.bounded) == (9_500, 10_600, "floor")
    assert found.unit_hour == 10**6


def test_an_offerings_price_takes_its_devices_reputation_for_the_service() -> None:
    told = story(for_sale)
    assert price_of(told.book.read, "o1", 1, 60, NOW).reputation == 10_000
    told.and_then(RecordReputation("d1", "storage", "fraud", "e1"))
    assert price_of(told.book.read, "o1", 1, 60, NOW).reputation == 10_000
    told.and_then(RecordReputation("d1", "compute", "fraud", "e2"))
    assert price_of(told.book.read, "o1", 1, 60, NOW).reputation == 8_200
    with pytest.raises(OfferingNotFound):
        price_of(told.book.read, "o9", 1, 60, NOW)


def factors(i: PriceInputs) -> Iterator[Fraction]:
    """The formula once more, as one would say it."""
    yield {"bronze": Fraction(1), "silver": Fraction(5, 2), "gold": Fraction(5)}[i.tier]
    hours = Fraction(i.units * i.minutes, 60)
    steps = [(1_000, Fraction(85, 100)), (100, Fraction(90, 100)), (10, Fraction(95, 100))]
    yield next((factor for least, factor in steps if hours >= least), Fraction(1))
    if i.minutes < 60:
        yield Fraction(12, 10)
    elif i.minutes < 24 * 60:
        yield Fraction(1)
    elif i.minutes < 7 * 24 * 60:
        yield Fraction(95, 100)
    else:
        yield Fraction(9, 10)
    yield Fraction(i.market, 10_000)
    yield Fraction(7, 10) + Fraction(6, 10) * Fraction(i.score, 10_000)


@settings(max_examples=300)
@for_all(
    st.builds(
        inputs,
        base_price=st.integers(1, 50) | st.integers(1, P.most_price),
        tier=st.sampled_from(tuple(TIERS)),
        units=st.integers(1, 1_000),
        minutes=st.integers(1, 90) | st.integers(1, 525_600),
        market=st.integers(9_000, 11_500),
        score=st.integers(0, 10_000),
        floor=st.just(0) | st.integers(1, 200),
        ceiling=st.just(0) | st.integers(200, 10**6),
    )
)
def test_every_price_is_the_exact_fraction_bounded_and_rounded_up_once(given_inputs: PriceInputs) -> None:
    exact = Fraction(given_inputs.base_price)
    for factor in factors(given_inputs):
        exact *= factor
    exact = max(exact, Fraction(given_inputs.floor))
    if given_inputs.ceiling:
        exact = min(exact, Fraction(given_inputs.ceiling))
    found = price(given_inputs)
    assert found.unit_hour == ceil(exact)
    assert 1 <= found.unit_hour < 10**38


def test_the_cost_of_some_minutes_is_rounded_up() -> None:
    assert cost(100, 1, 60) == 100
    assert cost(100, 3, 1) == 5
    assert cost(1, 1, 61) == 2
