"""Contracts, their rules and traps, as sentences.

Pia offers eight bronze units on her device at 3,600 a unit and hour, one smallest unit a second; the lane's bounds
keep it there. Ana books two of them for four hours: 28,800 in all, 7,200 a period of an hour, 1,800 a window of 15
minutes. The service starts at the beginning of time, so minutes of service are minutes of the book.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from domain import ledger
from domain._kernel import AMOUNT_LIMIT, Decision, Issued, Read
from domain.devices import Capabilities, DeviceIsSuspended, RegisterDevice, SuspendDevice
from domain.ledger import FEES, AmountMustBePositive, FreezeWallet, InsufficientFunds, WalletIsFrozen
from domain.marketplace import contracts as c
from domain.marketplace.contracts import (
    CapacityReleased,
    CapacityTakenOver,
    Contract,
    ContractBreached,
    ContractCompleted,
    ContractDisputed,
    ContractExpired,
    ContractHasEnded,
    ContractIsInDispute,
    ContractNotFound,
    ContractOpened,
    ContractOverdrawn,
    ContractPaused,
    ContractRenewed,
    ContractResumed,
    ContractTerminated,
    EscrowReturned,
    EscrowToppedUp,
    ExpireContract,
    MeterUsage,
    OpenContract,
    P,
    PauseContract,
    PeriodNetted,
    PeriodSettled,
    ProviderReviewed,
    RenewContract,
    ReportServiceLevel,
    ResumeContract,
    ReviewProvider,
    ServiceHasNotStarted,
    ServiceLevelReported,
    ServiceStarted,
    SettlePeriod,
    StartService,
    TerminateContract,
    Terms,
    TopUpEscrow,
    UsageMetered,
    contracts,
)
from domain.marketplace.offerings import (
    TIERS,
    CapacityIsTaken,
    OfferingIsPaused,
    OfferingNotFound,
    PauseOffering,
    RegisterOffering,
    SetLaneBounds,
    UnitsMustBePositive,
    cost,
    offerings,
)
from tests import examples
from tests.examples import FUNDS, Story, funded, story, system_total
from tests.scenario import START

MINUTE, MS = timedelta(minutes=1), timedelta(milliseconds=1)
HOUR_MS = 3_600_000
PRICE = 3_600

device: Any = (RegisterDevice("d1", "server", Capabilities(64_000, 64_000), "eu"), "pia")
stable_price: Any = SetLaneBounds("compute", "eu", "bronze", PRICE, PRICE)


def market(pricing: str = "reserved") -> list[Any]:
    offering = RegisterOffering("o1", "d1", "compute", "bronze", 1_000, 1_000, 0, 8, PRICE, pricing)
    return [examples.village, funded("pia"), device, stable_price, (offering, "pia")]


def booking(**changes: Any) -> OpenContract:
    return OpenContract(
        **{"contract": "c1", "offering": "o1", "units": 2, "minutes": 240, "price_cap": PRICE, **changes}
    )


def opened(pricing: str = "reserved", **changes: Any) -> Story:
    return story(market(pricing)).and_then(booking(**changes), "ana")


def started(pricing: str = "reserved", **changes: Any) -> Story:
    return opened(pricing, **changes).and_then(StartService("c1"), "pia")


def at(minutes: int, s: Story) -> Story:
    """The same story, so many minutes after the beginning of time."""
    s.book.now = START + minutes * MINUTE
    return s


def contract(s: Story, id: str = "c1") -> Contract:
    state = s.book.read(contracts, id)
    assert isinstance(state, Contract)
    return state


def used(s: Story) -> int:
    return int(s.book.read(offerings, "o1").used)


def met(window: int) -> ReportServiceLevel:
    return ReportServiceLevel("c1", window, 2_500, 9_700, 300)


def missed(window: int, indicators: int = 1) -> ReportServiceLevel:
    values = {0: (2_500, 9_700, 300), 1: (2_501, 9_700, 300), 2: (2_501, 9_699, 300), 3: (2_501, 9_699, 301)}
    return ReportServiceLevel("c1", window, *values[indicators])


def settled(s: Story, period: int) -> PeriodSettled:
    """Settle a period when it is due, and say what came of it."""
    s.book.now = max(s.book.now, contract(s).due_at(period))
    s.when(SettlePeriod("c1", period), "clock", "worker")
    assert isinstance(s.outcome, list), s.outcome
    assert isinstance(s.outcome[0], PeriodSettled)
    return s.outcome[0]


def balances(s: Story) -> tuple[int, int, int, int]:
    """What Ana and Pia gained or lost, the fees, and what is in the escrow."""
    assert system_total(s.book) == 0
    return (
        s.posted("wallet:ana") - FUNDS,
        s.posted("wallet:pia") - FUNDS,
        s.posted(FEES),
        s.posted("escrow:c1"),
    )


# Opening


def test_a_contract_reserves_units_and_takes_the_whole_charge_into_escrow() -> None:
    s = opened()
    assert balances(s) == (-28_800, 0, 0, 28_800)
    assert (used(s), contract(s).status, contract(s).remaining) == (2, "created", 28_800)
    event = next(event for _, event in s.book.events if isinstance(event, ContractOpened))
    assert (event.customer, event.provider, event.device) == ("ana", "pia", "d1")
    assert (event.service_type, event.region, event.charge) == ("compute", "eu", 28_800)
    assert event.start_by == START + timedelta(hours=24)


def test_the_terms_are_those_of_the_tier_and_the_zone() -> None:
    tier = TIERS["bronze"]
    assert contract(opened()).terms == Terms(
        units=2,
        minutes=240,
        price=PRICE,
        pricing="reserved",
        settlement="escrow",
        tier="bronze",
        p95_ms=tier.p95_ms,
        uptime_bp=tier.uptime_bp,
        errors_bp=tier.errors_bp,
        period_minutes=60,
        window_minutes=15,
        grace_minutes=10,
        notice_minutes=60,
        breach_windows=3,
        fee=100,
        penalty=1_000,
    )


def test_the_terms_stay_when_the_price_moves() -> None:
    s = opened().and_then(SetLaneBounds("compute", "eu", "bronze", 9, 9))
    before = contract(s).terms
    s.and_then(booking(contract="c2", units=1), "ana").and_then(StartService("c1"), "pia")
    settled(s, 0)
    assert contract(s).terms == before
    assert contract(s, "c2").terms.price == 9


def test_no_price_cap_is_not_any_price() -> None:
    s = story(market())
    s.when(booking(price_cap=None), "ana").then(c.PriceCapIsMissing)
    s.when(booking(price_cap=PRICE - 1), "ana")
    s.refused_with(c.PriceIsAboveCap, price=PRICE)
    s.and_then(booking(price_cap=None, any_price=True), "ana")


def test_a_contract_is_opened_once_under_an_id_that_leaves_room() -> None:
    opened().when(booking(), "ben").then(c.ContractExists)
    s = story(market())
    s.when(booking(contract="x" * 49), "ana")
    s.refused_with(c.ContractIdIsTooLong, limit=48)
    s.and_then(booking(contract="x" * 48), "ana")


def test_nobody_is_the_customer_of_his_own_offering() -> None:
    story(market()).when(booking(), "pia").then(c.ContractWithYourself)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"minutes": 0}, c.MinutesAreOutOfRange),
        ({"minutes": P.most_minutes + 1}, c.MinutesAreOutOfRange),
        ({"units": 0}, UnitsMustBePositive),
        ({"units": 9}, CapacityIsTaken),
        ({"settlement": "cash"}, c.SettlementIsUnknown),
        ({"offering": "o9"}, OfferingNotFound),
        ({"period_minutes": 14, "window_minutes": 7}, c.PeriodIsOutOfRange),
        ({"period_minutes": 10_081, "window_minutes": 51}, c.PeriodIsOutOfRange),
        ({"period_minutes": 60, "window_minutes": 0}, c.PeriodIsOutOfRange),
        ({"period_minutes": 60, "window_minutes": 25}, c.PeriodIsOutOfRange),
        ({"period_minutes": 60, "window_minutes": 120}, c.PeriodIsOutOfRange),
        ({"period_minutes": 289, "window_minutes": 1}, c.PeriodIsOutOfRange),
        ({"deposit": 7_199}, c.DepositIsOutOfRange),
        ({"deposit": 28_801}, c.DepositIsOutOfRange),
        ({"settlement": "netted", "deposit": 7_200}, c.DepositIsOutOfRange),
    ],
)
def test_what_is_out_of_range_is_refused_and_changes_nothing(changes: dict[str, Any], rule: Any) -> None:
    s = story(market())
    s.when(booking(**changes), "ana").then(rule)
    assert (balances(s), used(s)) == ((0, 0, 0, 0), 0)


def test_an_escrow_needs_the_money_and_an_unfrozen_wallet() -> None:
    story(market()).when(booking(units=8, minutes=10_000), "ana").then(InsufficientFunds)
    s = story(market(), FreezeWallet("wallet:ana", "-"))
    s.when(booking(), "ana").then(WalletIsFrozen)
    assert used(s) == 0


def test_a_charge_is_an_amount() -> None:
    offered = story(market()).book.read(offerings, "o1")
    for price in (0, -5, AMOUNT_LIMIT):
        with pytest.raises(c.ChargeIsOutOfRange):
            c.terms_of(offered, 1, price, 60, "escrow", 60, 15)


def test_a_paused_offering_takes_no_contract_and_a_suspended_device_starts_none() -> None:
    s = story(market(), (PauseOffering("o1"), "pia"))
    s.when(booking(), "ana").then(OfferingIsPaused)
    s = opened().and_then(SuspendDevice("d1", "-"))
    s.when(StartService("c1"), "pia").then(DeviceIsSuspended)


@pytest.mark.parametrize(
    ("units", "price", "unit_ms", "charge"),
    [
        (2, 3_600, 2 * HOUR_MS, 7_200),
        (1, 1, 0, 0),
        (1, 1, 1, 1),
        (1, 1, HOUR_MS, 1),
        (1, 1, HOUR_MS + 1, 2),
        (3, 1_000, 3 * 20 * 60_000, 1_000),
        (3, 1_000, 3 * 7 * 60_000, 350),
        (1, 7, 60_000, 1),
        (7, 10**18, 7 * HOUR_MS // 3, 7 * 10**18 // 3 + 1),
    ],
)
def test_charges_by_hand(units: int, price: int, unit_ms: int, charge: int) -> None:
    assert Terms(units=units, price=price).charge(unit_ms) == charge


def test_a_contract_costs_what_the_quote_says() -> None:
    for units, minutes, price in ((1, 1, 1), (3, 7, 1_001), (8, 90, 59), (5, 10_080, 10**18 - 1)):
        terms = Terms(units=units, minutes=minutes, price=price)
        assert terms.whole_charge == cost(price, units, minutes)


# Starting and expiring


def test_the_provider_starts_the_service() -> None:
    s = opened()
    s.when(StartService("c1"), "ana").then(ContractNotFound)
    s.when(StartService("c9"), "pia").then(ContractNotFound)
    s.when(StartService("c1"), "pia", after=7 * MINUTE)
    begun = START + 7 * MINUTE
    s.then(ServiceStarted(begun, begun + 240 * MINUTE, begun + 70 * MINUTE))
    s.when(StartService("c1"), "pia").then(c.ServiceHasStarted)


def test_a_contract_that_is_not_started_gives_everything_back() -> None:
    s = at(24 * 60, opened())
    s.when(ExpireContract("c1"), "clock", "worker")
    assert isinstance(s.outcome, list)
    assert [type(e) for e in s.outcome if type(e).__module__ == c.__name__] == [
        ContractExpired,
        EscrowReturned,
    ]
    assert (balances(s), used(s)) == ((0, 0, 0, 0), 0)
    s.when(ExpireContract("c1"), "clock", "worker").then()


def test_expiry_and_delivery_race_and_the_deadline_decides_whether_or_not_the_timer_ran() -> None:
    deadline = 24 * 60
    late = at(deadline, opened())
    late.when(StartService("c1"), "pia").then(c.ContractHasExpired)
    late.and_then(ExpireContract("c1"), "clock", "worker")
    late.when(StartService("c1"), "pia").then(c.ContractHasExpired)
    in_time = at(deadline - 1, opened())
    in_time.when(ExpireContract("c1"), "clock", "worker").then(c.ContractHasNotExpired)
    in_time.when(StartService("c1"), "pia").then(ServiceStarted)
    at(deadline, in_time).when(ExpireContract("c1"), "clock", "worker").then()
    assert used(in_time) == 2


def test_a_contract_that_did_not_start_is_ended_by_either_side_free_of_charge() -> None:
    for party in ("ana", "pia"):
        s = opened()
        s.when(TerminateContract("c1", "-"), party)
        assert (balances(s), used(s), contract(s).status) == ((0, 0, 0, 0), 0, "terminated")
        assert contract(s).closed
        s.when(TerminateContract("c1", "-"), party).then(ContractHasEnded)
        s.when(StartService("c1"), "pia").then(ContractHasEnded)
        s.when(SettlePeriod("c1", 0), "clock", "worker").then()


def test_nothing_happens_to_a_service_before_it_starts() -> None:
    s = opened()
    s.when(MeterUsage("c1", 1, 0), "pia").then(ServiceHasNotStarted)
    s.when(PauseContract("c1"), "ana").then(ServiceHasNotStarted)
    s.when(ResumeContract("c1"), "ana").then(ServiceHasNotStarted)
    s.when(met(0)).then(ServiceHasNotStarted)
    s.when(SettlePeriod("c1", 0)).then(ServiceHasNotStarted)
    s.when(RenewContract("c1", "c2", 60, any_price=True), "ana").then(ServiceHasNotStarted)
    s.when(ReviewProvider("c1", 5), "ana").then(ServiceHasNotStarted)


# Metering


def test_the_latest_total_counts_and_never_the_sum() -> None:
    s = at(30, started("pay_as_you_go"))
    s.when(MeterUsage("c1", 1, 600_000), "pia").then(UsageMetered(1, 600_000, s.book.now))
    s.and_then(MeterUsage("c1", 2, 900_000), "pia")
    assert contract(s).unit_ms == 900_000
    assert settled(s, 0).charge == 900


def test_a_meter_never_goes_back() -> None:
    s = at(30, started("pay_as_you_go")).and_then(MeterUsage("c1", 5, 600_000), "pia")
    s.when(MeterUsage("c1", 6, 599_999), "pia")
    s.refused_with(c.UsageFell, last=600_000)
    s.when(MeterUsage("c1", 4, 700_000), "pia")
    s.refused_with(c.MeterIsOutdated, last=5)
    s.when(MeterUsage("c1", 5, 700_000), "pia").then(c.MeterIsOutdated)
    s.when(MeterUsage("c1", 6, -1), "pia").then(c.UsageFell)
    s.when(MeterUsage("c1", 5, 600_000), "pia").then()
    s.when(MeterUsage("c1", 6, 600_000), "pia").then(UsageMetered)


def test_only_the_provider_meters() -> None:
    s = at(30, started("pay_as_you_go"))
    for stranger in ("ana", "ben", "operator"):
        s.when(MeterUsage("c1", 1, 1), stranger).then(ContractNotFound)


def test_units_are_not_used_for_longer_than_the_service_was_on() -> None:
    s = at(30, started("pay_as_you_go"))
    s.when(MeterUsage("c1", 1, 2 * 1_800_000 + 1), "pia")
    s.refused_with(c.UsageExceedsTime, limit=3_600_000)
    s.and_then(PauseContract("c1"), "ana")
    at(40, s).when(MeterUsage("c1", 1, 3_600_001), "pia").then(c.UsageExceedsTime)
    at(50, s).and_then(ResumeContract("c1"), "ana")
    at(60, s).when(MeterUsage("c1", 1, 2 * 2_400_000 + 1), "pia").then(c.UsageExceedsTime)
    s.and_then(MeterUsage("c1", 1, 2 * 2_400_000), "pia")
    s.and_then(PauseContract("c1"), "ana")
    at(65, s).and_then(ResumeContract("c1"), "ana")
    at(245, s).when(MeterUsage("c1", 2, 2 * (240 - 25) * 60_000 + 1), "pia").then(c.UsageExceedsTime)
    s.and_then(MeterUsage("c1", 2, 2 * (240 - 25) * 60_000), "pia")


def test_a_late_meter_counts_in_the_next_period_and_none_after_the_grace() -> None:
    s = at(60, started("pay_as_you_go")).and_then(MeterUsage("c1", 1, 1_000_000), "pia")
    assert settled(s, 0).charge == 1_000
    s.and_then(MeterUsage("c1", 2, 1_500_000), "pia")
    assert settled(s, 1).charge == 500
    assert settled(s, 2).charge == 0
    at(249, s).and_then(MeterUsage("c1", 3, 1_600_000), "pia")
    at(250, s).when(MeterUsage("c1", 4, 1_700_000), "pia").then(c.MeterIsTooLate)
    assert settled(s, 3).charge == 100
    assert balances(s) == (-1_600, 1_600 - 10 - 5 - 1, 16, 0)
    s.when(MeterUsage("c1", 4, 1_700_000), "pia").then(ContractHasEnded)


# Periods


def test_usage_that_a_bad_period_left_unreported_is_not_charged_in_a_good_one() -> None:
    """Every window of the first hour missed everything, which costs 30 % of what that hour is charged for."""
    s = at(60, started("pay_as_you_go"))
    for window in range(4):
        s.and_then(missed(window, 3))
    s.and_then(MeterUsage("c1", 1, HOUR_MS // 2), "pia")
    event = settled(s, 0)
    assert (event.charge, event.penalty) == (1_800, 540)
    at(120, s).and_then(MeterUsage("c1", 2, 4 * HOUR_MS), "pia")
    assert (contract(s).unit_ms, contract(s).billable_unit_ms) == (4 * HOUR_MS, HOUR_MS // 2 + 2 * HOUR_MS)
    event = settled(s, 1)
    assert (event.charge, event.penalty) == (7_200, 0)
    at(180, s).and_then(MeterUsage("c1", 3, 5 * HOUR_MS), "pia")
    assert settled(s, 2).charge == 3_600


def test_a_pause_is_no_usage_that_a_bad_period_left_unreported() -> None:
    """Of the first hour 15 minutes were paused at its end, and 15 of the second: both are taken off where they were."""
    s = at(45, started("pay_as_you_go")).and_then(missed(0)).and_then(PauseContract("c1"), "ana")
    at(65, s).and_then(MeterUsage("c1", 1, 2 * HOUR_MS // 4), "pia")
    at(75, s)
    s.when(SettlePeriod("c1", 0), "clock", "worker")
    assert contract(s).forgone_unit_ms == 2 * HOUR_MS * 3 // 4 - 2 * HOUR_MS // 4
    s.and_then(ResumeContract("c1"), "ana")
    at(120, s).and_then(MeterUsage("c1", 2, 2 * HOUR_MS * 6 // 4), "pia")
    assert settled(s, 1).unit_ms == 2 * HOUR_MS * 3 // 4


def test_a_period_pays_the_provider_and_the_fee_and_leaves_the_rest() -> None:
    s = started()
    event = settled(s, 0)
    assert (event.charge, event.penalty, event.fee, event.paid, event.unpaid) == (7_200, 0, 72, 7_128, 0)
    assert (event.begins_at, event.ends_at) == (START, START + 60 * MINUTE)
    assert (event.unit_ms, event.last, event.due_at) == (2 * HOUR_MS, False, START + 130 * MINUTE)
    assert balances(s) == (-28_800, 7_128, 72, 21_600)


@pytest.mark.parametrize("pricing", ["reserved", "flat_rate", "spot"])
def test_time_is_charged_without_a_meter_and_settlement_waits_for_nobody(pricing: str) -> None:
    s = started(pricing)
    assert [settled(s, period).charge for period in range(4)] == [7_200] * 4
    assert balances(s) == (-28_800, 4 * 7_128, 4 * 72, 0)
    assert (contract(s).status, used(s)) == ("completed", 0)


def test_pay_as_you_go_without_a_meter_charges_nothing_and_settles_all_the_same() -> None:
    s = started("pay_as_you_go")
    assert [settled(s, period).charge for period in range(4)] == [0] * 4
    assert isinstance(s.outcome, list)
    assert ContractCompleted("ana", "pia", "d1", "compute", s.book.now) in s.outcome
    assert (balances(s), used(s)) == ((0, 0, 0, 0), 0)


def test_the_last_period_may_be_short_and_all_charges_add_up() -> None:
    s = started(units=1, minutes=100, price_cap=PRICE)
    charges = [settled(s, period) for period in range(2)]
    assert [event.charge for event in charges] == [3_600, 2_400]
    assert charges[1].ends_at == START + 100 * MINUTE
    assert contract(s).status == "completed"


def test_rounding_leaves_nothing_behind() -> None:
    """1,001 for an hour of 4 quarters: ceil(250.25 * n) rises by 251, 250, 250, 250."""
    s = story(market(), SetLaneBounds("compute", "eu", "bronze", 1_001, 1_001))
    s.and_then(booking(units=1, minutes=60, price_cap=1_001, period_minutes=15), "ana")
    s.and_then(StartService("c1"), "pia")
    events = [settled(s, period) for period in range(4)]
    assert [event.charge for event in events] == [251, 250, 250, 250]
    assert [event.fee for event in events] == [3, 3, 3, 3]
    assert balances(s) == (-1_001, 1_001 - 12, 12, 0)


def test_periods_settle_in_order_after_the_grace_and_each_once() -> None:
    s = at(69, started())
    s.when(SettlePeriod("c1", 0), "clock", "worker").then(c.PeriodHasNotClosed)
    at(140, s).when(SettlePeriod("c1", 1), "clock", "worker")
    s.refused_with(c.PeriodsSettleInOrder, next_period=0)
    settled(s, 0)
    before = balances(s)
    s.when(SettlePeriod("c1", 0), "clock", "worker").then()
    assert balances(s) == before
    settled(s, 1)
    s.when(SettlePeriod("c9", 0), "clock", "worker").then(ContractNotFound)
    s.when(SettlePeriod("c1", 4), "clock", "worker").then(c.PeriodsSettleInOrder)


def test_what_is_left_goes_back_once_at_the_end() -> None:
    s = at(30, started("pay_as_you_go")).and_then(MeterUsage("c1", 1, 500_000), "pia")
    for period in range(3):
        settled(s, period)
    assert balances(s)[3] == 28_300
    settled(s, 3)
    assert balances(s) == (-500, 495, 5, 0)
    s.when(SettlePeriod("c1", 3), "clock", "worker").then()
    assert (contract(s).refunded, contract(s).remaining) == (28_300, 0)


def test_a_closed_wallet_still_gets_what_it_is_owed() -> None:
    s = started()
    s.and_then(ledger.Transfer("wallet:pia", "wallet:ben", FUNDS), "pia")
    s.and_then(ledger.CloseWallet("wallet:pia"), "pia")
    settled(s, 0)
    assert s.posted("wallet:pia") == 7_128


# Overdrawn, and top-ups


def test_a_service_ends_where_the_escrow_does_not_cover_the_next_period() -> None:
    """10,000 cover 83 minutes. When the first hour settles, 10 minutes later, 4,400 are missing for the second one."""
    s = started(deposit=10_000)
    event = settled(s, 0)
    assert (event.charge, event.unpaid, event.last, event.due_at) == (7_200, 0, False, START + 80 * MINUTE)
    assert isinstance(s.outcome, list)
    overdrawn = ContractOverdrawn("ana", "pia", "d1", "compute", 4_400, s.book.now, START + 80 * MINUTE)
    assert overdrawn in s.outcome
    assert (contract(s).status, used(s)) == ("overdrawn", 0)
    s.when(TerminateContract("c1", "-"), "ana").then(ContractHasEnded)
    event = settled(s, 1)
    assert (event.charge, event.paid, event.unpaid, event.last) == (1_200, 1_188, 0, True)
    assert balances(s) == (-8_400, 8_316, 84, 0)
    s.when(SettlePeriod("c1", 2), "clock", "worker").then()
    s.when(TopUpEscrow("c1", 5), "ana").then(ContractHasEnded)


def test_nobody_gets_a_week_for_nothing() -> None:
    """Two weeks in periods of a week, paid for one: what is not covered runs for the grace of 10 minutes, not more."""
    s = started(deposit=605_000, units=1, minutes=20_160, period_minutes=10_080, window_minutes=60)
    assert (settled(s, 0).charge, contract(s).status) == (604_800, "overdrawn")
    event = settled(s, 1)
    assert (event.charge, event.unpaid) == (600, 400)
    assert balances(s)[0] == -605_000


def test_a_late_timer_serves_nobody_for_nothing_on_paper_only() -> None:
    """The service is over before its periods settle: the escrow pays what is there, and the rest is unpaid."""
    s = at(300, started(deposit=10_000))
    assert settled(s, 0).unpaid == 0
    event = settled(s, 1)
    assert (event.charge, event.paid, event.fee, event.unpaid, event.last) == (7_200, 2_772, 28, 4_400, True)
    assert isinstance(s.outcome, list)
    assert ContractOverdrawn("ana", "pia", "d1", "compute", 4_400, s.book.now) in s.outcome
    assert (contract(s).status, used(s), balances(s)[3]) == ("overdrawn", 0, 0)


def test_metered_usage_beyond_the_escrow_ends_the_contract_when_it_settles() -> None:
    s = at(60, started("pay_as_you_go", deposit=7_300))
    s.and_then(MeterUsage("c1", 1, 2 * HOUR_MS), "pia")
    assert (settled(s, 0).charge, contract(s).status) == (7_200, "active")
    at(120, s).and_then(MeterUsage("c1", 2, 3 * HOUR_MS), "pia")
    event = settled(s, 1)
    assert (event.charge, event.paid, event.fee, event.unpaid, event.last) == (3_600, 99, 1, 3_500, True)
    assert isinstance(s.outcome, list)
    assert ContractOverdrawn("ana", "pia", "d1", "compute", 3_500, s.book.now) in s.outcome
    assert (contract(s).status, used(s), balances(s)[3]) == ("overdrawn", 0, 0)


def test_a_top_up_in_time_keeps_the_contract_going() -> None:
    s = at(69, started(deposit=10_000))
    s.when(TopUpEscrow("c1", 18_800), "ana")
    assert isinstance(s.outcome, list)
    assert s.outcome[0] == EscrowToppedUp(18_800, s.book.now)
    for period in (0, 1, 2, 3):
        assert settled(s, period).unpaid == 0
    assert contract(s).status == "completed"
    assert balances(s) == (-28_800, 28_512, 288, 0)


def test_a_top_up_is_the_customers_and_escrowed() -> None:
    s = started()
    s.when(TopUpEscrow("c1", 5), "pia").then(ContractNotFound)
    s.when(TopUpEscrow("c1", FUNDS), "ana").then(InsufficientFunds)
    s.when(TopUpEscrow("c1", -5), "ana").then(AmountMustBePositive)
    s.when(TopUpEscrow("c1", 0), "ana").then(AmountMustBePositive)
    started(settlement="netted").when(TopUpEscrow("c1", 5), "ana").then(c.ContractIsNetted)


def test_the_penalty_comes_first_when_the_escrow_is_short() -> None:
    s = at(60, started("pay_as_you_go", deposit=7_300)).and_then(MeterUsage("c1", 1, 2 * HOUR_MS), "pia")
    settled(s, 0)
    at(129, s).and_then(missed(4, 3)).and_then(MeterUsage("c1", 2, 4 * HOUR_MS), "pia")
    event = settled(s, 1)
    assert (event.penalty, event.paid, event.fee) == (100, 0, 0)
    assert (event.unpaid, contract(s).status) == (7_100, "overdrawn")
    assert balances(s) == (-7_200, 7_128, 72, 0)


# Service levels


def test_a_level_is_met_at_its_limit_and_missed_beyond() -> None:
    terms = contract(started()).terms
    assert c.missed_indicators(terms, 2_500, 9_700, 300) == ()
    assert c.missed_indicators(terms, 2_501, 9_700, 300) == ("p95",)
    assert c.missed_indicators(terms, 2_500, 9_699, 300) == ("uptime",)
    assert c.missed_indicators(terms, 2_500, 9_700, 301) == ("errors",)
    assert c.missed_indicators(terms, 9_999, 0, 10_000) == ("p95", "uptime", "errors")


@pytest.mark.parametrize(("indicators", "penalty"), [(0, 0), (1, 180), (2, 360), (3, 540)])
def test_a_penalty_is_ten_percent_of_the_windows_charge_per_missed_indicator(
    indicators: int, penalty: int
) -> None:
    s = at(60, started()).and_then(missed(2, indicators))
    event = settled(s, 0)
    assert (event.charge, event.penalty) == (7_200, penalty)
    assert event.fee == -(-(7_200 - penalty) // 100)
    assert balances(s) == (-28_800 + penalty, event.paid, event.fee, 21_600)


def test_a_penalty_is_at_most_the_charge_of_its_window() -> None:
    terms = Terms(units=1, price=PRICE, pricing="spot", period_minutes=60, window_minutes=15, penalty=5_000)
    ends_at = START + 60 * MINUTE
    steep = Contract(terms=terms, started_at=START, ends_at=ends_at, misses={0: 3, 1: 1})
    assert c.dues(steep, 0) == c.Dues(HOUR_MS, 3_600, 900 + 450)


def test_twelve_reports_of_one_breach_cost_one_penalty() -> None:
    s = at(60, started()).and_then(missed(3, 1))
    for _ in range(11):
        s.when(missed(3, 1)).then(c.WindowWasReported)
    assert settled(s, 0).penalty == 180


def test_windows_share_out_the_charge_of_their_period_exactly() -> None:
    """1,001 over four windows: floor(1,001 * n / 4) rises by 250, 250, 250, 251; the last period is 40 minutes."""
    terms = Terms(units=1, price=PRICE, pricing="spot", period_minutes=60, window_minutes=15)
    s = Contract(terms=terms, started_at=START, ends_at=START + 100 * MINUTE)
    assert dict(c.window_charges(s, 0, 1_001)) == {0: 250, 1: 250, 2: 250, 3: 251}
    assert dict(c.window_charges(s, 1, 2_400)) == {4: 900, 5: 900, 6: 600}
    assert dict(c.window_charges(s, 1, 7)) == {4: 2, 5: 3, 6: 2}


def test_a_report_comes_after_its_window_and_before_its_period_settles() -> None:
    s = at(14, started())
    s.when(met(0)).then(c.WindowHasNotEnded)
    at(15, s).when(met(0))
    assert isinstance(s.outcome, list)
    (event,) = s.outcome
    assert isinstance(event, ServiceLevelReported)
    assert (event.window, event.period, event.missed, event.excused) == (0, 0, (), False)
    assert (event.begins_at, event.ends_at) == (START, START + 15 * MINUTE)
    at(69, s).and_then(met(3))
    at(70, s).when(met(2)).then(c.ReportIsTooLate)
    settled(s, 0)
    s.when(met(2)).then(c.ReportIsTooLate)
    s.when(met(16)).then(c.WindowIsOutOfRange)
    s.when(ReportServiceLevel("c9", 0, 1, 1, 1)).then(ContractNotFound)


def test_three_windows_in_a_row_are_a_breach_in_whatever_order_they_are_reported() -> None:
    s = at(60, started()).and_then(missed(1)).and_then(missed(3))
    s.when(missed(2)).then(ServiceLevelReported, ContractBreached)
    assert isinstance(s.outcome, list)
    assert s.outcome[1] == ContractBreached(2, "pia", "d1", "compute", s.book.now)
    s.when(missed(0)).then(ServiceLevelReported)


def test_a_run_of_misses_goes_on_across_periods() -> None:
    s = at(60, started()).and_then(missed(2)).and_then(missed(3))
    settled(s, 0)
    assert contract(s).misses == {2: 1, 3: 1}
    at(75, s).when(missed(4)).then(ServiceLevelReported, ContractBreached)
    settled(s, 1)
    assert contract(s).misses == {}


def test_a_window_without_a_report_is_no_miss() -> None:
    s = at(60, started()).and_then(missed(0)).and_then(missed(1))
    s.when(missed(3)).then(ServiceLevelReported)
    assert not contract(s).breached
    assert settled(s, 0).penalty == 3 * 180


def test_a_window_that_the_customer_paused_is_excused() -> None:
    s = at(20, started()).and_then(PauseContract("c1"), "ana")
    at(31, s).when(missed(1, 3))
    assert isinstance(s.outcome, list)
    assert (s.outcome[0].missed, s.outcome[0].excused) == ((), True)
    s.and_then(ResumeContract("c1"), "ana")
    at(60, s).and_then(missed(0)).and_then(missed(2)).and_then(missed(3))
    assert contract(s).misses == {0: 1, 1: 0, 2: 0, 3: 1}
    assert not contract(s).breached


def test_a_pause_across_two_periods_excuses_windows_of_both() -> None:
    s = at(50, started()).and_then(PauseContract("c1"), "ana")
    at(65, s).and_then(ResumeContract("c1"), "ana").and_then(missed(3, 3))
    assert settled(s, 0).penalty == 0
    at(75, s).and_then(missed(4, 3))
    at(90, s).and_then(missed(5, 3))
    assert settled(s, 1).penalty == 540


def test_reports_ahead_of_settlement_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "P", c.Parameters(most_reports_ahead=2))
    s = at(60, started()).and_then(missed(0)).and_then(missed(1))
    s.when(missed(2)).then(c.TooManyReportsAhead)
    settled(s, 0)
    assert contract(s).misses == {}


# Pauses


def test_a_pause_stops_use_and_not_the_time_that_is_reserved() -> None:
    s = at(10, started())
    s.when(PauseContract("c1"), "ana").then(ContractPaused(START + 10 * MINUTE))
    assert contract(s).status == "paused"
    at(50, s).when(ResumeContract("c1"), "ana").then(ContractResumed(START + 50 * MINUTE, 40 * 60_000))
    assert settled(s, 0).charge == 7_200


def test_the_customer_pauses_and_resumes_in_turn() -> None:
    s = started()
    s.when(PauseContract("c1"), "pia").then(ContractNotFound)
    s.when(ResumeContract("c1"), "ana").then(c.ContractIsNotPaused)
    s.and_then(PauseContract("c1"), "ana")
    s.when(PauseContract("c1"), "ana").then(c.ContractIsPaused)
    s.when(ResumeContract("c1"), "pia").then(ContractNotFound)
    at(240, s).when(ResumeContract("c1"), "ana").then(ContractHasEnded)


def test_pauses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "P", c.Parameters(most_pauses=2))
    s = started()
    for _ in range(2):
        s.and_then(PauseContract("c1"), "ana").later(MINUTE).and_then(ResumeContract("c1"), "ana")
    s.when(PauseContract("c1"), "ana").then(c.TooManyPauses)


def test_a_paused_contract_completes_and_settled_pauses_are_forgotten() -> None:
    s = at(10, started()).and_then(PauseContract("c1"), "ana")
    at(20, s).and_then(ResumeContract("c1"), "ana")
    at(65, s).and_then(PauseContract("c1"), "ana")
    settled(s, 0)
    assert contract(s).pauses == ()
    for period in (1, 2, 3):
        settled(s, period)
    assert contract(s).status == "completed"


# Termination


def test_what_was_used_until_the_end_settles_and_the_rest_goes_back() -> None:
    s = at(90, started("spot"))
    settled(s, 0)
    s.when(TerminateContract("c1", "moving"), "ana")
    assert isinstance(s.outcome, list)
    event = s.outcome[0]
    assert isinstance(event, ContractTerminated)
    assert (event.party, event.started, event.notice) == ("customer", True, 0)
    assert event.due_at == START + 100 * MINUTE
    assert (contract(s).status, used(s), balances(s)[3]) == ("terminated", 0, 21_600)
    final = settled(s, 1)
    assert (final.charge, final.last, final.ends_at) == (3_600, True, START + 90 * MINUTE)
    assert balances(s) == (-10_800, 10_692, 108, 0)
    assert contract(s).status == "terminated"


def test_terminating_twice_returns_the_units_once() -> None:
    s = at(30, started("spot")).and_then(booking(contract="c2", units=3), "ben")
    s.and_then(TerminateContract("c1", "-"), "ana")
    assert used(s) == 3
    s.when(TerminateContract("c1", "-"), "ana").then(ContractHasEnded)
    s.when(TerminateContract("c1", "-"), "pia").then(ContractHasEnded)
    settled(s, 0)
    assert used(s) == 3


def test_strangers_terminate_nothing() -> None:
    s = started()
    for stranger in ("ben", "operator"):
        s.when(TerminateContract("c1", "-"), stranger).then(ContractNotFound)


@pytest.mark.parametrize(
    ("pricing", "party", "charge", "penalty"),
    [
        ("reserved", "ana", 3_600 + 7_200, 0),
        ("reserved", "pia", 3_600, 3_600),
        ("flat_rate", "ana", 3_600, 0),
        ("flat_rate", "pia", 3_600, 3_600),
        ("spot", "ana", 3_600, 0),
        ("spot", "pia", 3_600, 0),
        ("pay_as_you_go", "ana", 0, 0),
        ("pay_as_you_go", "pia", 0, 0),
    ],
)
def test_who_is_bound_owes_the_notice_when_he_ends_a_contract_early(
    pricing: str, party: str, charge: int, penalty: int
) -> None:
    s = at(30, started(pricing)).and_then(TerminateContract("c1", "-"), party)
    event = settled(s, 0)
    assert (event.charge, event.penalty) == (charge, penalty)
    share = charge - penalty
    assert balances(s) == (-share, share - event.fee, event.fee, 0)


def test_the_notice_ends_with_the_term() -> None:
    s = started()
    for period in range(3):
        settled(s, period)
    at(220, s).and_then(TerminateContract("c1", "-"), "ana")
    assert settled(s, 3).charge == 4_800 + 2_400
    assert balances(s)[0] == -28_800


def test_a_customer_leaves_a_breached_contract_without_notice() -> None:
    s = at(60, started()).and_then(missed(0)).and_then(missed(1)).and_then(missed(2))
    s.when(TerminateContract("c1", "-"), "ana")
    assert isinstance(s.outcome, list)
    assert s.outcome[0].notice == 0
    event = settled(s, 0)
    assert (event.charge, event.penalty) == (7_200, 3 * 180)


def test_the_notice_is_part_of_the_last_period_only() -> None:
    s = at(65, started()).and_then(TerminateContract("c1", "-"), "ana")
    assert contract(s).due_at(0) == START + 70 * MINUTE
    assert settled(s, 0).charge == 7_200
    assert settled(s, 1).charge == 600 + 7_200


def test_a_contract_that_was_ended_is_not_overdrawn_and_pays_what_is_there() -> None:
    s = at(30, started(deposit=7_200)).and_then(TerminateContract("c1", "-"), "ana")
    event = settled(s, 0)
    assert (event.charge, event.unpaid, event.paid) == (10_800, 3_600, 7_128)
    assert (contract(s).status, contract(s).closed, used(s)) == ("terminated", True, 0)
    s.when(TopUpEscrow("c1", 5), "ana").then(ContractHasEnded)
    s.when(SettlePeriod("c1", 1), "clock", "worker").then()


def test_windows_before_the_end_are_still_reported_and_none_after() -> None:
    s = at(40, started("spot")).and_then(TerminateContract("c1", "-"), "pia")
    at(45, s).and_then(missed(0, 3)).and_then(missed(2, 1))
    s.when(missed(3)).then(c.WindowIsOutOfRange)
    assert contract(s).due_at(0) == START + 50 * MINUTE
    event = settled(s, 0)
    assert (event.charge, event.penalty) == (4_800, 540 + 120)
    at(51, s).when(missed(1)).then(c.ReportIsTooLate)


def test_a_service_that_ends_the_moment_it_starts_costs_nothing() -> None:
    s = started("spot").and_then(TerminateContract("c1", "-"), "ana")
    assert settled(s, 0).charge == 0
    assert (balances(s), used(s)) == ((0, 0, 0, 0), 0)


def test_a_contract_that_ended_takes_no_more_commands() -> None:
    s = at(30, started("spot")).and_then(TerminateContract("c1", "-"), "ana")
    s.when(PauseContract("c1"), "ana").then(ContractHasEnded)
    s.when(RenewContract("c1", "c2", 60, any_price=True), "ana").then(ContractHasEnded)
    s.when(StartService("c1"), "pia").then(c.ServiceHasStarted)
    over = at(240, started())
    over.when(TerminateContract("c1", "-"), "ana").then(ContractHasEnded)
    over.when(PauseContract("c1"), "ana").then(ContractHasEnded)


def test_a_contract_terminated_while_paused_counts_its_pause() -> None:
    s = at(10, started("pay_as_you_go")).and_then(PauseContract("c1"), "ana")
    at(30, s).and_then(TerminateContract("c1", "-"), "ana")
    s.when(MeterUsage("c1", 1, 2 * 600_000 + 1), "pia").then(c.UsageExceedsTime)
    at(35, s).and_then(MeterUsage("c1", 1, 2 * 600_000), "pia")
    assert settled(s, 0).charge == 1_200


# Netted


def test_a_netted_contract_has_no_escrow_and_its_periods_become_dues() -> None:
    s = at(60, started(settlement="netted")).and_then(missed(0, 2))
    s.book.now = START + 70 * MINUTE
    s.when(SettlePeriod("c1", 0), "clock", "worker")
    assert isinstance(s.outcome, list)
    (event,) = s.outcome
    assert isinstance(event, PeriodNetted)
    assert (event.charge, event.penalty, event.due, event.fee) == (7_200, 360, 6_840, 69)
    assert (event.customer, event.provider, event.last) == ("ana", "pia", False)
    for period in (1, 2, 3):
        s.book.now = contract(s).due_at(period)
        s.and_then(SettlePeriod("c1", period), "clock", "worker")
    assert (balances(s), used(s)) == ((0, 0, 0, 0), 0)
    assert contract(s).status == "completed"
    assert not [event for _, event in s.book.events if isinstance(event, PeriodSettled | EscrowReturned)]


# Renewal


def renewed(s: Story, minutes: int = 120, renewal: str = "c2") -> Story:
    return s.and_then(RenewContract("c1", renewal, minutes, PRICE), "ana")


def test_a_renewal_is_a_contract_of_its_own_at_the_price_of_then() -> None:
    s = at(60, started()).and_then(SetLaneBounds("compute", "eu", "bronze", 1_800, 1_800))
    s.when(RenewContract("c1", "c2", 120, 1_799), "ana").then(c.PriceIsAboveCap)
    s.when(RenewContract("c1", "c2", 120), "ana").then(c.PriceCapIsMissing)
    s.when(RenewContract("c1", "c2", 120, 1_800), "pia").then(ContractNotFound)
    renewed(s)
    new = contract(s, "c2")
    assert (new.terms.price, new.terms.units, new.terms.minutes, new.renews) == (1_800, 2, 120, "c1")
    assert (contract(s).terms.price, contract(s).renewal) == (PRICE, "c2")
    assert s.posted("escrow:c2") == 7_200
    assert new.start_by == START + 240 * MINUTE + timedelta(hours=24)
    assert [event for _, event in s.book.events if isinstance(event, ContractRenewed)]
    s.when(RenewContract("c1", "c3", 120, PRICE), "ana").then(c.ContractWasRenewed)


def test_a_renewal_takes_over_the_units_when_the_old_contract_ends() -> None:
    s = at(60, started(units=8))
    renewed(s)
    assert used(s) == 8
    s.when(StartService("c2"), "pia").then(c.RenewedContractStillRuns)
    at(240, s).and_then(StartService("c2"), "pia")
    for period in range(4):
        settled(s, period)
    assert [event for _, event in s.book.events if isinstance(event, CapacityTakenOver)]
    assert (used(s), contract(s, "c2").holds_capacity, contract(s).holds_capacity) == (8, True, False)
    s.and_then(TerminateContract("c2", "-"), "pia")
    assert used(s) == 0


def test_a_row_of_renewals_holds_its_units_though_the_first_settles_last() -> None:
    s = at(60, started())
    at(240, renewed(s)).and_then(StartService("c2"), "pia")
    s.and_then(RenewContract("c2", "c3", 60, PRICE), "ana").and_then(TerminateContract("c2", "-"), "pia")
    for period in range(4):
        settled(s, period)
    assert (used(s), contract(s, "c3").holds_capacity) == (2, True)
    s.and_then(StartService("c3"), "pia").and_then(TerminateContract("c3", "-"), "pia")
    assert used(s) == 0


def test_a_renewal_that_is_cancelled_leaves_the_units_with_the_old_contract() -> None:
    s = at(60, started())
    renewed(s).and_then(TerminateContract("c2", "-"), "ana")
    assert (used(s), s.posted("escrow:c2")) == (2, 0)
    renewed(s, renewal="c3")
    at(70, s).and_then(TerminateContract("c1", "-"), "pia")
    assert (used(s), contract(s, "c3").holds_capacity) == (2, True)
    s.and_then(StartService("c3"), "pia")
    assert contract(s, "c3").status == "active"


def test_a_renewal_that_expires_after_the_old_contract_gives_the_units_back() -> None:
    s = at(60, started())
    renewed(s)
    for period in range(4):
        settled(s, period)
    assert used(s) == 2
    at(240 + 24 * 60, s).and_then(ExpireContract("c2"), "clock", "worker")
    assert (used(s), s.posted("escrow:c2")) == (0, 0)


# Reviews


def test_a_customer_reviews_an_ended_service_once() -> None:
    s = at(30, started("spot"))
    s.when(ReviewProvider("c1", 5), "ana").then(c.ContractHasNotEnded)
    s.and_then(TerminateContract("c1", "-"), "ana")
    s.when(ReviewProvider("c1", 5), "pia").then(ContractNotFound)
    for rating in (0, 6):
        s.when(ReviewProvider("c1", rating), "ana").then(c.RatingIsOutOfRange)
    s.when(ReviewProvider("c1", 4, "fine"), "ana")
    s.then(ProviderReviewed("ana", "pia", "o1", "d1", "compute", 4, "fine", s.book.now))
    s.when(ReviewProvider("c1", 4), "ana").then(c.ReviewExists)


def test_a_review_is_in_time() -> None:
    s = at(30, started("spot")).and_then(TerminateContract("c1", "-"), "ana").later(timedelta(days=30))
    s.when(ReviewProvider("c1", 4), "ana").then(c.ReviewIsTooLate)


# Disputes


@dataclass
class Dispute:
    """Settlement's disputes call these functions from commands of their own."""

    contract: str = "c1"
    dispute: str = "x1"


def dispute(command: Dispute, issued: Issued, read: Read) -> Decision:
    yield from c.dispute_contract(read, issued, command.contract, command.dispute)


@dataclass
class Split:
    to_payer: int
    to_payee: int
    dispute: str = "x1"


def split(command: Split, issued: Issued, read: Read) -> Decision:
    yield from c.split_escrow(read, issued, "c1", command.dispute, command.to_payer, command.to_payee)


def test_both_sides_and_an_operator_dispute_a_contract_and_nobody_else() -> None:
    for party in ("ana", "pia", "operator"):
        s = started()
        s.when(Dispute(), party).then(ContractDisputed("x1", party, 28_800, START))
        s.when(Dispute(dispute="x2"), party).then(ContractIsInDispute)
    started().when(Dispute(), "ben").then(ContractNotFound)
    story(market()).when(Dispute(), "ana").then(ContractNotFound)


def test_nothing_leaves_or_enters_an_escrow_in_dispute() -> None:
    s = at(30, started("spot").and_then(Dispute(), "ana"))
    s.when(TerminateContract("c1", "-"), "ana").then(ContractIsInDispute)
    s.when(TopUpEscrow("c1", 5), "ana").then(ContractIsInDispute)
    s.when(RenewContract("c1", "c2", 60, PRICE), "ana").then(ContractIsInDispute)
    at(70, s).when(SettlePeriod("c1", 0), "clock", "worker").then(ContractIsInDispute)
    assert balances(s) == (-28_800, 0, 0, 28_800)
    waiting = at(24 * 60, opened().and_then(Dispute(), "ana"))
    waiting.when(StartService("c1"), "pia").then(ContractIsInDispute)


def test_a_dispute_does_not_keep_the_units_of_a_service_that_is_over() -> None:
    s = at(249, started().and_then(Dispute(), "ana"))
    s.when(SettlePeriod("c1", 0), "clock", "worker").then(ContractIsInDispute)
    assert used(s) == 2
    at(250, s).when(SettlePeriod("c1", 0), "clock", "worker")
    assert isinstance(s.outcome, list)
    assert s.outcome[0] == CapacityReleased(s.book.now)
    assert (used(s), balances(s)[3], contract(s).dispute) == (0, 28_800, "x1")
    s.when(SettlePeriod("c1", 0), "clock", "worker").then(ContractIsInDispute)
    s.and_then(Split(0, 28_800))
    assert (used(s), balances(s)) == (0, (-28_800, 28_800, 0, 0))


def test_a_dispute_does_not_keep_the_units_of_a_service_that_was_not_started_in_time() -> None:
    s = at(24 * 60 - 1, opened().and_then(Dispute(), "ana"))
    s.when(ExpireContract("c1"), "clock", "worker").then(c.ContractHasNotExpired)
    at(24 * 60, s).when(ExpireContract("c1"), "clock", "worker")
    assert isinstance(s.outcome, list)
    assert s.outcome[0] == CapacityReleased(s.book.now)
    assert (used(s), balances(s)[3], contract(s).dispute) == (0, 28_800, "x1")
    s.when(ExpireContract("c1"), "clock", "worker").then(ContractIsInDispute)
    s.when(StartService("c1"), "pia").then(ContractIsInDispute)
    s.and_then(Split(28_800, 0))
    assert (used(s), balances(s)) == (0, (0, 0, 0, 0))


def test_a_split_is_exactly_what_remains_and_ends_the_contract() -> None:
    s = started()
    settled(s, 0)
    s.and_then(Dispute(), "ana")
    for to_payer, to_payee in ((21_601, 0), (0, 21_599), (-1, 21_601), (21_601, -1), (199, 102)):
        s.when(Split(to_payer, to_payee))
        s.refused_with(c.SplitIsNotWhatRemains, remaining=21_600)
    s.when(Split(21_600, 0, "x2")).then(c.ContractIsNotInDispute)
    s.and_then(Split(20_000, 1_600))
    assert balances(s) == (-8_800, 8_728, 72, 0)
    assert (contract(s).status, contract(s).remaining, used(s)) == ("terminated", 0, 0)
    s.when(Split(20_000, 1_600)).then(c.ContractIsNotInDispute)
    s.when(SettlePeriod("c1", 1), "clock", "worker").then()


def test_dispute_against_release_one_wins() -> None:
    released = at(30, started("spot")).and_then(TerminateContract("c1", "-"), "ana")
    settled(released, 0)
    released.when(Dispute(), "ana").then(c.EscrowIsEmpty)
    held = at(30, started("spot")).and_then(TerminateContract("c1", "-"), "ana")
    held.and_then(Dispute(), "ana")
    at(40, held).when(SettlePeriod("c1", 0), "clock", "worker").then(ContractIsInDispute)
    held.and_then(Split(28_800, 0))
    assert balances(held) == (0, 0, 0, 0)


def test_a_netted_contract_has_nothing_to_dispute() -> None:
    started(settlement="netted").when(Dispute(), "ana").then(c.ContractIsNetted)


def test_a_split_of_a_renewed_contract_leaves_the_units_to_the_renewal() -> None:
    s = at(60, started())
    renewed(s).and_then(Dispute(), "ana").and_then(Split(0, 28_800))
    assert (used(s), contract(s, "c2").holds_capacity) == (2, True)


# What others build on


@dataclass
class Award:
    """Requests and bursts open contracts from commands of their own, at prices of their own."""

    customer: str


def award(command: Award, issued: Issued, read: Read) -> Decision:
    yield from c.open_contract_for(read, issued, "c1", command.customer, "o1", 2, 500, 60, request="r1")


def test_a_contract_opens_at_a_price_that_was_decided_before_with_the_callers_own_money() -> None:
    s = story(market())
    s.when(Award("ben"), "ana").then(ledger.WalletNotFound)
    s.when(Award("ana"), "ana")
    assert isinstance(s.outcome, list)
    (event,) = [event for event in s.outcome if isinstance(event, ContractOpened)]
    assert (event.customer, event.request, event.charge, event.deposit) == ("ana", "r1", 1_000, 1_000)
    assert s.posted("escrow:c1") == 1_000
