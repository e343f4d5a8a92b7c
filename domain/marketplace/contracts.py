"""Contracts between a customer and a provider: escrow, metering, service levels, periods and how they end.

A contract runs from `started_at` for its minutes, cut into periods, and those into windows; both are numbered from
the start, and the last of each may be shorter. What a contract costs depends on its offering's pricing:

| pricing       | charge of a period                 | escrow            | who ends it early and owes the notice |
|---------------|------------------------------------|-------------------|---------------------------------------|
| pay_as_you_go | metered unit-milliseconds          | a budget of usage | nobody                                |
| reserved      | time reserved, whether used or not | the term's charge | customer and provider                 |
| flat_rate     | time reserved, whether used or not | the term's charge | the provider                          |
| spot          | time reserved, whether used or not | the term's charge | nobody: either may leave at once      |

Charges are cumulative: ceil(unit-milliseconds * price / 3,600,000), where the price is that of one unit for one hour;
a period's charge is the rise over the period, so that all periods add up to the charge of the whole exactly. The
notice is the charge of the next hour. A customer's pause stops his use, not the time that he reserved.

An escrowed period is paid at once. A netted one becomes obligations: the customer owes the provider the charge less
the penalty, and the provider owes the zone its fee of that. No period is both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from domain._kernel import (
    AMOUNT_LIMIT,
    BASIS_POINTS,
    Amount,
    BasisPoints,
    Count,
    Decision,
    Id,
    Issued,
    NotFound,
    Personal,
    Quantity,
    Read,
    Rejected,
    Stream,
    ceil_div,
    floor_div,
)
from domain.devices import serving
from domain.ledger import FEES, AmountMustBePositive, may_owe, move, pay, pay_out, wallet_of
from domain.marketplace.offerings import Offering, for_sale, give_back, price_of, reserve, tier_of

MILLISECOND = timedelta(milliseconds=1)
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS


@dataclass(frozen=True, slots=True)
class Parameters:
    """The economic constants of contracts; each contract keeps those of its opening."""

    fee: int = 100
    """Basis points of the provider's share, rounded up, so that many small periods cannot avoid it."""
    penalty: int = 1_000
    """Basis points of a window's charge per missed indicator, rounded down."""
    breach_windows: int = 3
    """Windows in a row with a miss that make a breach."""
    report_grace_minutes: int = 10
    """Service levels and usage of a period are reported until so long after its end; then it settles."""
    notice_minutes: int = 60
    """Who ends a contract that binds him owes the other the charge of so long."""
    start_within: timedelta = timedelta(hours=24)
    review_within: timedelta = timedelta(days=30)
    most_minutes: int = 525_600
    least_period_minutes: int = 15
    most_period_minutes: int = 10_080
    most_windows_a_period: int = 288
    most_reports_ahead: int = 1_000
    """Reports kept of periods that are not settled yet."""
    most_pauses: int = 100
    longest_id: int = 48
    """A contract's id is part of the ids of its obligations."""


P = Parameters()

TIMED = ("reserved", "flat_rate", "spot")
"""Pricings whose charge runs by the time reserved."""
BOUND = {"reserved": ("customer", "provider"), "flat_rate": ("provider",)}
"""Who owes the notice when he ends a contract early."""
RUNNING = ("active", "paused")
NOT_STARTED = datetime(1970, 1, 1, tzinfo=UTC)

# Events: stored for ever. Add fields with defaults; never rename, never remove.


@dataclass(frozen=True, slots=True)
class Terms:
    """What both sides agreed on; nothing changes it."""

    units: int = 0
    minutes: int = 0
    price: Amount = 0
    """Of one unit for one hour."""
    pricing: str = ""
    settlement: str = "escrow"
    tier: str = ""
    p95_ms: int = 0
    uptime_bp: int = 0
    errors_bp: int = 0
    period_minutes: int = 0
    window_minutes: int = 0
    grace_minutes: int = 0
    notice_minutes: int = 0
    breach_windows: int = 0
    fee: int = 0
    """Basis points, as the penalty is."""
    penalty: int = 0

    @property
    def timed(self) -> bool:
        return self.pricing in TIMED

    @property
    def whole_charge(self) -> int:
        """The charge when all units are used all the time; the most that the contract can cost."""
        return self.charge(self.units * self.minutes * MINUTE_MS)

    def charge(self, unit_ms: int) -> int:
        """The charge of so many unit-milliseconds since the start, rounded up."""
        return ceil_div(unit_ms * self.price, HOUR_MS)


@dataclass(frozen=True, slots=True)
class ContractOpened:
    customer: str
    provider: str
    offering: str
    device: str
    service_type: str
    region: str
    terms: Terms
    charge: Amount
    """Of the whole term."""
    deposit: Quantity
    opened_at: datetime
    start_by: datetime
    request: str = ""
    """The request that led to it, if one did."""
    renews: str = ""
    """The contract that it follows, if it renews one."""
    capacity_ref: str = ""
    """What its units are reserved under."""


@dataclass(frozen=True, slots=True)
class ServiceStarted:
    at: datetime
    ends_at: datetime
    due_at: datetime
    """When the first period settles."""


@dataclass(frozen=True, slots=True)
class UsageMetered:
    seq: int
    unit_ms: Quantity
    """Cumulative since the start."""
    at: datetime


@dataclass(frozen=True, slots=True)
class ContractPaused:
    at: datetime


@dataclass(frozen=True, slots=True)
class ContractResumed:
    at: datetime
    paused_ms: int
    """How long this pause was."""


@dataclass(frozen=True, slots=True)
class ServiceLevelReported:
    window: int
    period: int
    begins_at: datetime
    ends_at: datetime
    p95_ms: int
    uptime_bp: int
    errors_bp: int
    missed: tuple[str, ...]
    """The indicators missed, each of which costs the provider 10 % of the window's charge."""
    excused: bool
    """The customer had paused the service in this window, so nothing is missed."""
    provider: str
    offering: str
    device: str
    service_type: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ContractBreached:
    """Several windows in a row missed their service levels; the customer may leave without notice."""

    window: int
    provider: str
    device: str
    service_type: str
    at: datetime


@dataclass(frozen=True, slots=True)
class EscrowToppedUp:
    amount: Amount
    at: datetime


@dataclass(frozen=True, slots=True)
class PeriodSettled:
    """Paid from the escrow: `penalty` to the customer, `paid` to the provider, `fee` to the zone."""

    period: int
    begins_at: datetime
    ends_at: datetime
    unit_ms: Quantity
    """What this period was charged for."""
    charge: Quantity
    penalty: Quantity
    fee: Quantity
    paid: Quantity
    unpaid: Quantity
    """What the escrow could not cover."""
    last: bool
    due_at: datetime | None
    """When the next period settles."""
    customer: str
    provider: str
    offering: str
    device: str
    service_type: str
    region: str
    tier: str
    at: datetime


@dataclass(frozen=True, slots=True)
class PeriodNetted:
    """Owed, not paid: `due` by the customer to the provider, and `fee` by the provider to the zone."""

    period: int
    begins_at: datetime
    ends_at: datetime
    unit_ms: Quantity
    charge: Quantity
    penalty: Quantity
    due: Quantity
    """The charge less the penalty."""
    fee: Quantity
    last: bool
    due_at: datetime | None
    """When the next period settles."""
    customer: str
    provider: str
    offering: str
    device: str
    service_type: str
    region: str
    tier: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ContractRenewed:
    """Another contract goes on where this one ends."""

    renewal: str
    at: datetime


@dataclass(frozen=True, slots=True)
class CapacityReleased:
    """The service is over or was not started in time, though a dispute keeps the money where it is."""

    at: datetime


@dataclass(frozen=True, slots=True)
class CapacityPassedOn:
    """The service is over and its renewal starts, with the units of this contract."""

    renewal: str
    at: datetime


@dataclass(frozen=True, slots=True)
class CapacityTakenOver:
    """The units of the contract that this one renews are this one's now."""

    renews: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ContractCompleted:
    customer: str
    provider: str
    device: str
    service_type: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ContractOverdrawn:
    """The escrow did not cover a period, or would not have covered the next one, so the service ended."""

    customer: str
    provider: str
    device: str
    service_type: str
    unpaid: Amount
    """What the escrow lacked."""
    at: datetime
    due_at: datetime | None = None
    """When what was used until now settles; None where that was the period that the escrow did not cover."""


@dataclass(frozen=True, slots=True)
class ContractTerminated:
    by: str
    party: str
    """customer or provider."""
    reason: Personal
    started: bool
    notice: Quantity
    """What the party that ended it owes the other, within the last period."""
    due_at: datetime | None
    """When the next period settles; None if the service never started."""
    customer: str
    provider: str
    device: str
    service_type: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ContractExpired:
    """The provider did not start the service in time."""

    customer: str
    provider: str
    device: str
    service_type: str
    at: datetime


@dataclass(frozen=True, slots=True)
class EscrowReturned:
    """What was left went back to the customer, once, at the end."""

    customer: str
    amount: Amount
    at: datetime


@dataclass(frozen=True, slots=True)
class ContractDisputed:
    dispute: str
    by: str
    remaining: Amount
    at: datetime


@dataclass(frozen=True, slots=True)
class EscrowSplit:
    """A dispute's decision paid out all that remained, free of fees, and ended the contract."""

    dispute: str
    customer: str
    provider: str
    to_customer: Quantity
    to_provider: Quantity
    at: datetime


@dataclass(frozen=True, slots=True)
class ProviderReviewed:
    customer: str
    provider: str
    offering: str
    device: str
    service_type: str
    rating: int
    """1 to 5."""
    comment: Personal
    at: datetime


ContractEvent = (
    ContractOpened
    | ServiceStarted
    | UsageMetered
    | ContractPaused
    | ContractResumed
    | ServiceLevelReported
    | ContractBreached
    | EscrowToppedUp
    | PeriodSettled
    | PeriodNetted
    | ContractRenewed
    | CapacityReleased
    | CapacityPassedOn
    | CapacityTakenOver
    | ContractCompleted
    | ContractOverdrawn
    | ContractTerminated
    | ContractExpired
    | EscrowReturned
    | ContractDisputed
    | EscrowSplit
    | ProviderReviewed
)

# State


@dataclass(frozen=True, slots=True)
class Pause:
    begins_ms: int
    """Since the start of the service."""
    ends_ms: int


@dataclass(frozen=True, slots=True)
class Contract:
    """Its escrow: deposited = paid + fees + penalties + refunded + remaining."""

    customer: str = ""
    provider: str = ""
    offering: str = ""
    device: str = ""
    service_type: str = ""
    region: str = ""
    terms: Terms = Terms()
    status: str = "absent"
    """absent, created, active, paused, completed, terminated, expired or overdrawn."""
    start_by: datetime = NOT_STARTED
    started_at: datetime = NOT_STARTED
    ends_at: datetime = NOT_STARTED
    """End of the service: of its term, or earlier when it was terminated."""
    ended_at: datetime | None = None
    ended_by: str = ""
    """customer or provider, where one of them terminated it."""
    notice: int = 0
    closed: bool = False
    """Nothing will be charged, paid or returned any more."""
    capacity_ref: str = ""
    """What its units are reserved under: its own id, or that of the first contract in a row of renewals."""
    holds_capacity: bool = False
    """The units are given back at its end, or go to its renewal: as this one ends or, at the latest, as that one
    starts. So whatever runs holds its units, and a row of renewals holds them once."""
    renews: str = ""
    renewal: str = ""
    paused_at: datetime | None = None
    paused_ms: int = 0
    """Sum of the pauses that have ended."""
    number_of_pauses: int = 0
    pauses: tuple[Pause, ...] = ()
    """Those that reach into periods that are not settled yet."""
    meter_seq: int = 0
    unit_ms: int = 0
    """Usage as metered last, cumulative."""
    billable_unit_ms: int = 0
    """Of that, what is charged."""
    forgone_unit_ms: int = 0
    """Usage that was possible in a period with misses and that no meter had reported when it settled. Nobody charges
    for it later, in a period that has no penalty."""
    charged_unit_ms: int = 0
    next_period: int = 0
    misses: dict[int, int] = field(default_factory=dict)
    """Window -> indicators missed, for windows of periods that are not settled and the few before them."""
    breached: bool = False
    deposited: int = 0
    paid: int = 0
    fees: int = 0
    penalties: int = 0
    refunded: int = 0
    dispute: str = ""
    reviewed: bool = False

    @property
    def escrowed(self) -> bool:
        return self.terms.settlement == "escrow"

    @property
    def started(self) -> bool:
        return self.started_at != NOT_STARTED

    @property
    def remaining(self) -> int:
        return self.deposited - self.paid - self.fees - self.penalties - self.refunded

    def runs(self, at: datetime) -> bool:
        """Whether the service is on, or paused, at that time."""
        return self.status in RUNNING and at < self.ends_at

    def ms_at(self, at: datetime) -> int:
        """Milliseconds of service until then, pauses included; at most until its end."""
        return max(min(at, self.ends_at) - self.started_at, timedelta()) // MILLISECOND

    @property
    def length_ms(self) -> int:
        return self.ms_at(self.ends_at)

    def usable_ms(self, at: datetime) -> int:
        """Milliseconds of service until then that were not paused."""
        in_pause = self.ms_at(at) - self.ms_at(self.paused_at) if self.paused_at else 0
        return self.ms_at(at) - self.paused_ms - in_pause

    @property
    def period_ms(self) -> int:
        return self.terms.period_minutes * MINUTE_MS

    @property
    def window_ms(self) -> int:
        return self.terms.window_minutes * MINUTE_MS

    @property
    def last_period(self) -> int:
        """A service that ended the moment it began still has one, an empty one that settles its end."""
        return max(ceil_div(self.length_ms, self.period_ms), 1) - 1

    def period(self, number: int) -> tuple[int, int]:
        """Begin and end of a period, in milliseconds of service."""
        return number * self.period_ms, min((number + 1) * self.period_ms, self.length_ms)

    def window(self, number: int) -> tuple[int, int]:
        """Begin and end of a window, in milliseconds of service."""
        return number * self.window_ms, min((number + 1) * self.window_ms, self.length_ms)

    def windows_of(self, period: int) -> range:
        begins_ms, ends_ms = self.period(period)
        return range(floor_div(begins_ms, self.window_ms), ceil_div(ends_ms, self.window_ms))

    def time(self, ms: int) -> datetime:
        return self.started_at + ms * MILLISECOND

    def due_at(self, period: int) -> datetime:
        """When a period settles: a grace for reports after its end."""
        return self.time(self.period(period)[1] + self.terms.grace_minutes * MINUTE_MS)

    def usable_before(self, ms: int) -> int:
        """Milliseconds of service before a time in the periods that are not settled yet that were not paused."""
        paused_ms = self.paused_ms
        for pause in self.pauses:
            paused_ms -= max(pause.ends_ms - max(pause.begins_ms, ms), 0)
        if self.paused_at:
            paused_ms += max(ms - self.ms_at(self.paused_at), 0)
        return ms - paused_ms

    def paused_in(self, begins_ms: int, ends_ms: int) -> bool:
        """Whether any part of that time was paused."""
        if self.paused_at and self.ms_at(self.paused_at) < ends_ms:
            return True
        return any(pause.begins_ms < ends_ms and pause.ends_ms > begins_ms for pause in self.pauses)


# evolve


def _resumed(contract: Contract, event: ContractResumed) -> Contract:
    ends_ms = contract.ms_at(event.at)
    return replace(
        contract,
        status="active",
        paused_at=None,
        paused_ms=contract.paused_ms + event.paused_ms,
        pauses=(*contract.pauses, Pause(ends_ms - event.paused_ms, ends_ms)),
    )


def _metered(contract: Contract, event: UsageMetered) -> Contract:
    possible = contract.terms.units * contract.usable_ms(event.at)
    billable = contract.billable_unit_ms + event.unit_ms - contract.unit_ms
    billable = min(billable, possible - contract.forgone_unit_ms)
    return replace(contract, meter_seq=event.seq, unit_ms=event.unit_ms, billable_unit_ms=billable)


def _settled(contract: Contract, event: PeriodSettled | PeriodNetted) -> Contract:
    """The next period is to be settled; what only the settled ones needed is dropped."""
    settled_ms = contract.period(event.period)[1]
    oldest = floor_div(settled_ms, contract.window_ms) - contract.terms.breach_windows + 1
    forgone = contract.forgone_unit_ms
    if any(contract.misses.get(window) for window in contract.windows_of(event.period)):
        possible = contract.terms.units * contract.usable_before(settled_ms)
        forgone = max(forgone, possible - contract.billable_unit_ms)
    return replace(
        contract,
        next_period=event.period + 1,
        charged_unit_ms=contract.charged_unit_ms + event.unit_ms,
        forgone_unit_ms=forgone,
        pauses=tuple(pause for pause in contract.pauses if pause.ends_ms > settled_ms),
        misses={window: missed for window, missed in contract.misses.items() if window >= oldest},
        closed=event.last,
    )


def _ended(contract: Contract, status: str, at: datetime) -> Contract:
    return replace(
        contract, status=status, ended_at=at, closed=True, holds_capacity=False, pauses=(), misses={}
    )


def evolve_contract(contract: Contract, event: ContractEvent) -> Contract:
    match event:
        case UsageMetered():
            return _metered(contract, event)
        case ServiceLevelReported():
            return replace(contract, misses={**contract.misses, event.window: len(event.missed)})
        case PeriodSettled():
            return replace(
                _settled(contract, event),
                paid=contract.paid + event.paid,
                fees=contract.fees + event.fee,
                penalties=contract.penalties + event.penalty,
            )
        case PeriodNetted():
            return _settled(contract, event)
        case ContractOpened():
            return _opened(event)
        case ServiceStarted():
            return replace(contract, status="active", started_at=event.at, ends_at=event.ends_at)
        case ContractPaused():
            number = contract.number_of_pauses + 1
            return replace(contract, status="paused", paused_at=event.at, number_of_pauses=number)
        case ContractResumed():
            return _resumed(contract, event)
        case ContractBreached():
            return replace(contract, breached=True)
        case EscrowToppedUp():
            return replace(contract, deposited=contract.deposited + event.amount)
        case EscrowReturned():
            return replace(contract, refunded=contract.refunded + event.amount)
        case ContractRenewed():
            return replace(contract, renewal=event.renewal)
        case CapacityReleased() | CapacityPassedOn():
            return replace(contract, holds_capacity=False)
        case CapacityTakenOver():
            return replace(contract, holds_capacity=True)
        case ContractDisputed():
            return replace(contract, dispute=event.dispute)
        case ProviderReviewed():
            return replace(contract, reviewed=True)
        case _:
            return _evolve_end(contract, event)


def _opened(event: ContractOpened) -> Contract:
    return Contract(
        customer=event.customer,
        provider=event.provider,
        offering=event.offering,
        device=event.device,
        service_type=event.service_type,
        region=event.region,
        terms=event.terms,
        status="created",
        start_by=event.start_by,
        capacity_ref=event.capacity_ref,
        holds_capacity=not event.renews,
        renews=event.renews,
        deposited=event.deposit,
    )


def _evolve_end(
    contract: Contract,
    event: ContractCompleted | ContractOverdrawn | ContractTerminated | ContractExpired | EscrowSplit,
) -> Contract:
    match event:
        case ContractTerminated():
            return replace(
                contract,
                status="terminated",
                ends_at=event.at if event.started else contract.ends_at,
                ended_at=event.at,
                ended_by=event.party,
                notice=event.notice,
                holds_capacity=False,
                closed=not event.started,
            )
        case EscrowSplit():
            return replace(
                _ended(contract, "terminated", event.at),
                dispute="",
                paid=contract.paid + event.to_provider,
                refunded=contract.refunded + event.to_customer,
            )
        case ContractCompleted():
            return _ended(contract, "completed", event.at)
        case ContractOverdrawn():
            if event.due_at is None:
                return _ended(contract, "overdrawn", event.at)
            return replace(
                contract, status="overdrawn", ends_at=event.at, ended_at=event.at, holds_capacity=False
            )
        case ContractExpired():
            return _ended(contract, "expired", event.at)


contracts = Stream("contract", Contract(), evolve_contract, ContractEvent)

# Commands


@dataclass(frozen=True, slots=True)
class OpenContract:
    """Book units of an offering for some minutes, at its price of now.

    `price_cap` is the most you pay for one unit for one hour; without one, say `any_price`. The escrow takes the
    charge of the whole term, or a smaller `deposit` that covers the first period and that you top up: reserved time
    ends when a period settles and the escrow does not cover the next one.
    """

    contract: Id
    offering: Id
    units: Count
    minutes: Count
    price_cap: Amount | None = None
    any_price: bool = False
    settlement: Id = "escrow"
    """escrow, or netted: no escrow, its periods become obligations."""
    deposit: Quantity = 0
    """0 for the charge of the whole term."""
    period_minutes: Count = 60
    window_minutes: Count = 15


@dataclass(frozen=True, slots=True)
class StartService:
    """As the provider, begin to serve; the term runs from now."""

    contract: Id


@dataclass(frozen=True, slots=True)
class ExpireContract:
    """Give everything back for a service that was not started in time (issued by a timer)."""

    contract: Id


@dataclass(frozen=True, slots=True)
class MeterUsage:
    """As the provider, report usage: the total of unit-milliseconds since the start, never the increase."""

    contract: Id
    seq: int
    unit_ms: Quantity


@dataclass(frozen=True, slots=True)
class PauseContract:
    """As the customer, stop using the service for a while; reserved time runs on."""

    contract: Id


@dataclass(frozen=True, slots=True)
class ResumeContract:
    """As the customer, use the service again."""

    contract: Id


@dataclass(frozen=True, slots=True)
class ReportServiceLevel:
    """Report what was measured in one window, once, after its end and before its period settles."""

    contract: Id
    window: Count
    p95_ms: Count
    uptime_bp: BasisPoints
    errors_bp: BasisPoints


@dataclass(frozen=True, slots=True)
class SettlePeriod:
    """Pay a period from the escrow, or make it due; the last one ends the contract (issued by a timer)."""

    contract: Id
    period: Count


@dataclass(frozen=True, slots=True)
class TopUpEscrow:
    """As the customer, add to the escrow."""

    contract: Id
    amount: Amount


@dataclass(frozen=True, slots=True)
class RenewContract:
    """As the customer, book the same units for more minutes at the price of now, as a contract of its own.

    It takes over the capacity, and starts when this one has ended.
    """

    contract: Id
    renewal: Id
    minutes: Count
    price_cap: Amount | None = None
    any_price: bool = False
    deposit: Quantity = 0


@dataclass(frozen=True, slots=True)
class TerminateContract:
    """As the customer or the provider, end the contract now; what was used until now still settles."""

    contract: Id
    reason: Personal


@dataclass(frozen=True, slots=True)
class ReviewProvider:
    """As the customer, rate an ended service from 1 to 5, once."""

    contract: Id
    rating: Count
    comment: Personal = ""


# Rules


class ContractNotFound(NotFound):
    """There is no such contract, or it is not yours."""


class ContractExists(Rejected):
    """This contract was opened before."""


class ContractIdIsTooLong(Rejected):
    """A contract's id leaves room for the ids that are made from it."""


class ContractWithYourself(Rejected):
    """Nobody is the customer of his own offering."""


class SettlementIsUnknown(Rejected):
    """A contract settles by escrow or netted."""


class MinutesAreOutOfRange(Rejected):
    """A contract runs for at least one minute and at most a year."""


class PeriodIsOutOfRange(Rejected):
    """A period lasts from 15 minutes to a week and consists of whole windows, a bounded number of them."""


class ChargeIsOutOfRange(Rejected):
    """The charge of the whole term is an amount: at least one smallest unit, and not beyond all numbers."""


class PriceCapIsMissing(Rejected):
    """A contract names the most it pays for a unit and hour, or says that any price will do."""


class PriceIsAboveCap(Rejected):
    """The price of now is above the most that you pay."""


class DepositIsOutOfRange(Rejected):
    """A deposit covers the first period and at most the whole term; a netted contract has none."""


class ContractHasExpired(Rejected):
    """The service was not started in time."""


class ContractHasNotExpired(Rejected):
    """A provider has time to start until the deadline."""


class ServiceHasStarted(Rejected):
    """The service was started before."""


class ServiceHasNotStarted(Rejected):
    """The provider has not started the service."""


class RenewedContractStillRuns(Rejected):
    """A renewal starts when the contract that it renews has ended."""


class ContractHasEnded(Rejected):
    """The contract has ended."""


class ContractHasNotEnded(Rejected):
    """A provider is reviewed when the contract has ended."""


class ContractIsPaused(Rejected):
    """The contract is paused already."""


class ContractIsNotPaused(Rejected):
    """Only a paused contract is resumed."""


class TooManyPauses(Rejected):
    """A contract pauses a bounded number of times."""


class MeterIsOutdated(Rejected):
    """A meter report has a higher sequence than the one before it."""


class UsageFell(Rejected):
    """Usage is a cumulative total, which never falls."""


class UsageExceedsTime(Rejected):
    """All units together cannot be used for longer than the service was on."""


class MeterIsTooLate(Rejected):
    """Usage is reported until a grace after the end of the service."""


class WindowIsOutOfRange(Rejected):
    """The contract has no such window."""


class WindowHasNotEnded(Rejected):
    """A service level is reported after the end of its window."""


class WindowWasReported(Rejected):
    """Each window has one report."""


class ReportIsTooLate(Rejected):
    """A service level is reported before its window's period settles."""


class TooManyReportsAhead(Rejected):
    """So many windows wait for their periods to settle that no more are kept."""


class PeriodsSettleInOrder(Rejected):
    """A period settles after all the periods before it."""


class PeriodHasNotClosed(Rejected):
    """A period settles after the grace for its reports."""


class ContractIsNetted(Rejected):
    """A netted contract has no escrow."""


class EscrowIsEmpty(Rejected):
    """Nothing is left in the contract's escrow."""


class ContractIsInDispute(Rejected):
    """Nothing leaves or enters the escrow of a contract in dispute."""


class ContractIsNotInDispute(Rejected):
    """The contract is not in this dispute."""


class SplitIsNotWhatRemains(Rejected):
    """A dispute's decision shares out exactly what remains in the escrow."""


class ContractWasRenewed(Rejected):
    """A contract is renewed once."""


class RatingIsOutOfRange(Rejected):
    """A rating is from 1 to 5."""


class ReviewExists(Rejected):
    """The customer has reviewed this contract before."""


class ReviewIsTooLate(Rejected):
    """A provider is reviewed within 30 days."""


# Decisions: opening


def escrow_of(contract: str) -> str:
    return f"escrow:{contract}"


def known(read: Read, contract: str) -> Contract:
    found = read(contracts, contract)
    if found.status == "absent":
        raise ContractNotFound(contract=contract)
    return found


def as_customer(read: Read, issued: Issued, contract: str) -> Contract:
    found = known(read, contract)
    if found.customer != issued.by:
        raise ContractNotFound(contract=contract)
    return found


def as_provider(read: Read, issued: Issued, contract: str) -> Contract:
    found = known(read, contract)
    if found.provider != issued.by:
        raise ContractNotFound(contract=contract)
    return found


def running(found: Contract, issued: Issued, contract: str) -> Contract:
    """The same contract, if its service has started and not ended."""
    if found.status == "created":
        raise ServiceHasNotStarted(contract=contract)
    if not found.runs(issued.at):
        raise ContractHasEnded(contract=contract, status=found.status)
    return found


def undisputed(found: Contract, contract: str) -> Contract:
    if found.dispute:
        raise ContractIsInDispute(contract=contract, dispute=found.dispute)
    return found


def terms_of(
    offered: Offering,
    units: int,
    price: int,
    minutes: int,
    settlement: str,
    period_minutes: int,
    window_minutes: int,
) -> Terms:
    """The terms of a contract that opens now: the offering's tier and pricing, and the zone's parameters."""
    if settlement not in ("escrow", "netted"):
        raise SettlementIsUnknown(settlement=settlement, known=["escrow", "netted"])
    if not 1 <= minutes <= P.most_minutes:
        raise MinutesAreOutOfRange(minutes=minutes, limit=P.most_minutes)
    if (
        not P.least_period_minutes <= period_minutes <= P.most_period_minutes
        or not 1 <= window_minutes <= period_minutes
        or period_minutes % window_minutes
        or floor_div(period_minutes, window_minutes) > P.most_windows_a_period
    ):
        raise PeriodIsOutOfRange(
            period_minutes=period_minutes,
            window_minutes=window_minutes,
            least=P.least_period_minutes,
            limit=P.most_period_minutes,
            most_windows=P.most_windows_a_period,
        )
    tier = tier_of(offered.tier)
    terms = Terms(
        units=units,
        minutes=minutes,
        price=price,
        pricing=offered.pricing,
        settlement=settlement,
        tier=offered.tier,
        p95_ms=tier.p95_ms,
        uptime_bp=tier.uptime_bp,
        errors_bp=tier.errors_bp,
        period_minutes=period_minutes,
        window_minutes=window_minutes,
        grace_minutes=P.report_grace_minutes,
        notice_minutes=P.notice_minutes if offered.pricing in BOUND else 0,
        breach_windows=P.breach_windows,
        fee=P.fee,
        penalty=P.penalty,
    )
    if not 1 <= terms.whole_charge < AMOUNT_LIMIT:
        raise ChargeIsOutOfRange(charge=terms.whole_charge, least=1)
    return terms


def deposit_for(terms: Terms, deposit: int) -> int:
    """What the escrow takes at the opening: the whole charge, unless the customer named a part of it."""
    least = terms.charge(terms.units * min(terms.period_minutes, terms.minutes) * MINUTE_MS)
    whole = terms.whole_charge
    if terms.settlement == "netted":
        least = whole = 0
    if deposit and not least <= deposit <= whole:
        raise DepositIsOutOfRange(deposit=deposit, least=least, limit=whole)
    return deposit or whole


def open_contract_for(
    read: Read,
    issued: Issued,
    contract: str,
    customer: str,
    offering: str,
    units: int,
    price: int,
    minutes: int,
    settlement: str = "escrow",
    *,
    deposit: int = 0,
    period_minutes: int = 60,
    window_minutes: int = 15,
    request: str = "",
    renews: str = "",
) -> Decision:
    """Open a contract at a price that was decided before, that of one unit for one hour.

    The caller, who is the customer, pays the escrow from his wallet. The contract reserves units under its own id; a
    renewal takes over those of the contract that it renews, when that one ends.
    """
    if len(contract) > P.longest_id:
        raise ContractIdIsTooLong(contract=contract, limit=P.longest_id)
    if read(contracts, contract).status != "absent":
        raise ContractExists(contract=contract)
    offered = for_sale(read, offering)
    if offered.provider == customer:
        raise ContractWithYourself(offering=offering)
    before = read(contracts, renews) if renews else Contract()
    if not renews:
        yield from reserve(read, issued, offering, units, contract)
    terms = terms_of(offered, units, price, minutes, settlement, period_minutes, window_minutes)
    escrow = deposit_for(terms, deposit)
    yield (
        contracts(contract),
        ContractOpened(
            customer=customer,
            provider=offered.provider,
            offering=offering,
            device=offered.device,
            service_type=offered.service_type,
            region=offered.region,
            terms=terms,
            charge=terms.whole_charge,
            deposit=escrow,
            opened_at=issued.at,
            start_by=max(issued.at, before.ends_at) + P.start_within,
            request=request,
            renews=renews,
            capacity_ref=before.capacity_ref or contract,
        ),
    )
    if escrow:
        yield from pay(read, issued, wallet_of(customer), escrow_of(contract), escrow, "escrow")
    else:
        may_owe(read, customer)


def price_within(
    read: Read, issued: Issued, offering: str, units: int, minutes: int, cap: int | None, any_price: bool
) -> int:
    """The offering's price of now, if the customer pays it."""
    if cap is None and not any_price:
        raise PriceCapIsMissing(offering=offering)
    price = price_of(read, offering, units, minutes, issued.at).unit_hour
    if cap is not None and price > cap:
        raise PriceIsAboveCap(price=price, price_cap=cap)
    return price


def open_contract(command: OpenContract, issued: Issued, read: Read) -> Decision:
    c = command
    price = price_within(read, issued, c.offering, c.units, c.minutes, c.price_cap, c.any_price)
    yield from open_contract_for(
        read,
        issued,
        c.contract,
        issued.by,
        c.offering,
        c.units,
        price,
        c.minutes,
        c.settlement,
        deposit=c.deposit,
        period_minutes=c.period_minutes,
        window_minutes=c.window_minutes,
    )


def renew_contract(command: RenewContract, issued: Issued, read: Read) -> Decision:
    c = command
    old = undisputed(running(as_customer(read, issued, c.contract), issued, c.contract), c.contract)
    if old.renewal and read(contracts, old.renewal).status not in ("expired", "terminated"):
        raise ContractWasRenewed(contract=c.contract, renewal=old.renewal)
    terms = old.terms
    price = price_within(read, issued, old.offering, terms.units, c.minutes, c.price_cap, c.any_price)
    yield contracts(c.contract), ContractRenewed(c.renewal, issued.at)
    yield from open_contract_for(
        read,
        issued,
        c.renewal,
        issued.by,
        old.offering,
        terms.units,
        price,
        c.minutes,
        terms.settlement,
        deposit=c.deposit,
        period_minutes=terms.period_minutes,
        window_minutes=terms.window_minutes,
        renews=c.contract,
    )


def start_service(command: StartService, issued: Issued, read: Read) -> Decision:
    contract = undisputed(as_provider(read, issued, command.contract), command.contract)
    if contract.started:
        raise ServiceHasStarted(contract=command.contract, started_at=contract.started_at)
    if contract.status == "expired" or (contract.status == "created" and issued.at >= contract.start_by):
        raise ContractHasExpired(contract=command.contract, start_by=contract.start_by)
    if contract.status != "created":
        raise ContractHasEnded(contract=command.contract, status=contract.status)
    if contract.renews and read(contracts, contract.renews).runs(issued.at):
        raise RenewedContractStillRuns(contract=command.contract, renews=contract.renews)
    serving(read, contract.device)
    terms = contract.terms
    ends_at = issued.at + timedelta(minutes=terms.minutes)
    first_ends = min(issued.at + timedelta(minutes=terms.period_minutes), ends_at)
    due_at = first_ends + timedelta(minutes=terms.grace_minutes)
    yield contracts(command.contract), ServiceStarted(issued.at, ends_at, due_at)
    if not contract.holds_capacity:
        # The contract before is over, and waits for its last period to settle.
        yield contracts(contract.renews), CapacityPassedOn(command.contract, issued.at)
        yield contracts(command.contract), CapacityTakenOver(contract.renews, issued.at)


def expire_contract(command: ExpireContract, issued: Issued, read: Read) -> Decision:
    contract = known(read, command.contract)
    if contract.status != "created":
        return
    if issued.at < contract.start_by:
        raise ContractHasNotExpired(contract=command.contract, start_by=contract.start_by)
    if contract.dispute and contract.holds_capacity:
        yield from _release_capacity(read, issued, command.contract, contract)
        return
    undisputed(contract, command.contract)
    yield (
        contracts(command.contract),
        ContractExpired(
            contract.customer, contract.provider, contract.device, contract.service_type, issued.at
        ),
    )
    yield from _let_go_of_capacity(read, issued, command.contract, contract)
    yield from _return_the_rest(read, issued, command.contract)


# Decisions: the service


def meter_usage(command: MeterUsage, issued: Issued, read: Read) -> Decision:
    contract = as_provider(read, issued, command.contract)
    if not contract.started:
        raise ServiceHasNotStarted(contract=command.contract)
    if contract.closed:
        raise ContractHasEnded(contract=command.contract, status=contract.status)
    if (command.seq, command.unit_ms) == (contract.meter_seq, contract.unit_ms):
        return
    if command.seq <= contract.meter_seq:
        raise MeterIsOutdated(seq=command.seq, last=contract.meter_seq)
    if command.unit_ms < contract.unit_ms:
        raise UsageFell(unit_ms=command.unit_ms, last=contract.unit_ms)
    most = contract.terms.units * contract.usable_ms(issued.at)
    if command.unit_ms > most:
        raise UsageExceedsTime(unit_ms=command.unit_ms, limit=most)
    too_late_at = contract.due_at(contract.last_period)
    if issued.at >= too_late_at:
        raise MeterIsTooLate(contract=command.contract, until=too_late_at)
    yield contracts(command.contract), UsageMetered(command.seq, command.unit_ms, issued.at)


def pause_contract(command: PauseContract, issued: Issued, read: Read) -> Decision:
    contract = running(as_customer(read, issued, command.contract), issued, command.contract)
    if contract.paused_at is not None:
        raise ContractIsPaused(contract=command.contract, paused_at=contract.paused_at)
    if contract.number_of_pauses >= P.most_pauses:
        raise TooManyPauses(contract=command.contract, limit=P.most_pauses)
    yield contracts(command.contract), ContractPaused(issued.at)


def resume_contract(command: ResumeContract, issued: Issued, read: Read) -> Decision:
    contract = running(as_customer(read, issued, command.contract), issued, command.contract)
    if contract.paused_at is None:
        raise ContractIsNotPaused(contract=command.contract)
    paused_ms = contract.ms_at(issued.at) - contract.ms_at(contract.paused_at)
    yield contracts(command.contract), ContractResumed(issued.at, paused_ms)


def missed_indicators(terms: Terms, p95_ms: int, uptime_bp: int, errors_bp: int) -> tuple[str, ...]:
    """The indicators worse than the tier's levels; one exactly at its level is met."""
    worse = {
        "p95": p95_ms > terms.p95_ms,
        "uptime": uptime_bp < terms.uptime_bp,
        "errors": errors_bp > terms.errors_bp,
    }
    return tuple(name for name, missed in worse.items() if missed)


def report_service_level(command: ReportServiceLevel, issued: Issued, read: Read) -> Decision:
    """A window without a report is not a miss: what nobody measured costs nobody anything."""
    contract = known(read, command.contract)
    period = _reportable(contract, command, issued)
    begins_ms, ends_ms = contract.window(command.window)
    excused = contract.paused_in(begins_ms, ends_ms)
    missed = missed_indicators(contract.terms, command.p95_ms, command.uptime_bp, command.errors_bp)
    yield (
        contracts(command.contract),
        ServiceLevelReported(
            window=command.window,
            period=period,
            begins_at=contract.time(begins_ms),
            ends_at=contract.time(ends_ms),
            p95_ms=command.p95_ms,
            uptime_bp=command.uptime_bp,
            errors_bp=command.errors_bp,
            missed=() if excused else missed,
            excused=excused,
            provider=contract.provider,
            offering=contract.offering,
            device=contract.device,
            service_type=contract.service_type,
            at=issued.at,
        ),
    )
    misses = read(contracts, command.contract).misses
    if not contract.breached and in_a_row(misses, command.window) >= contract.terms.breach_windows:
        yield (
            contracts(command.contract),
            ContractBreached(
                command.window, contract.provider, contract.device, contract.service_type, issued.at
            ),
        )


def _reportable(contract: Contract, command: ReportServiceLevel, issued: Issued) -> int:
    """The period of a window that can be reported now."""
    if not contract.started:
        raise ServiceHasNotStarted(contract=command.contract)
    begins_ms, ends_ms = contract.window(command.window)
    if begins_ms >= contract.length_ms:
        raise WindowIsOutOfRange(window=command.window, length_ms=contract.length_ms)
    if issued.at < contract.time(ends_ms):
        raise WindowHasNotEnded(window=command.window, ends_at=contract.time(ends_ms))
    if command.window in contract.misses:
        raise WindowWasReported(window=command.window)
    period = floor_div(begins_ms, contract.period_ms)
    until = contract.due_at(period)
    if contract.closed or issued.at >= until:
        raise ReportIsTooLate(window=command.window, period=period, until=until)
    if len(contract.misses) >= P.most_reports_ahead:
        raise TooManyReportsAhead(limit=P.most_reports_ahead)
    return period


def in_a_row(misses: dict[int, int], window: int) -> int:
    """How many windows in a row around this one missed something."""
    if not misses.get(window):
        return 0
    first = last = window
    while misses.get(first - 1):
        first -= 1
    while misses.get(last + 1):
        last += 1
    return last - first + 1


# Decisions: periods


@dataclass(frozen=True, slots=True)
class Dues:
    """What a period comes to, before anybody looks at the escrow. `penalty` is part of `charge`."""

    unit_ms: int
    charge: int
    penalty: int


def window_charges(contract: Contract, period: int, charge: int) -> Iterator[tuple[int, int]]:
    """A period's windows and their charges: in proportion to time, by cumulative floors, so that they add up."""
    begins_ms, ends_ms = contract.period(period)
    before = 0
    for window in contract.windows_of(period):
        until_ms = contract.window(window)[1]
        so_far = floor_div(charge * (until_ms - begins_ms), ends_ms - begins_ms)
        yield window, so_far - before
        before = so_far


def dues(contract: Contract, period: int) -> Dues:
    """Charge and penalty of the next period to settle.

    A window's penalty is 10 % of its charge per missed indicator, rounded down, at most its charge. The last period
    of a contract that was ended early holds the notice as well: more charge if the customer ended it, more penalty if
    the provider did, at most what he would get.

    Usage that is metered late counts in the period that is next, but not that of a period with misses: its penalty
    is part of its charge, so its provider meters it in time or not at all.
    """
    terms = contract.terms
    until = terms.units * contract.period(period)[1] if terms.timed else contract.billable_unit_ms
    charge = terms.charge(until) - terms.charge(contract.charged_unit_ms)
    penalty = 0
    for window, part in window_charges(contract, period, charge):
        missed = contract.misses.get(window, 0)
        penalty += min(floor_div(part * missed * terms.penalty, BASIS_POINTS), part)
    notice = contract.notice if period == contract.last_period else 0
    if contract.ended_by == "customer":
        charge += notice
    else:
        penalty = min(penalty + notice, charge)
    return Dues(until - contract.charged_unit_ms, charge, penalty)


def settle_period(command: SettlePeriod, issued: Issued, read: Read) -> Decision:
    """Settlement waits for nobody: time is charged without a meter, and periods without usage settle as well.

    Only a dispute holds it up, which does not keep the units of a service that is over.
    """
    contract = known(read, command.contract)
    if contract.closed or command.period < contract.next_period:
        return
    if not contract.started:
        raise ServiceHasNotStarted(contract=command.contract)
    if command.period > contract.next_period:
        raise PeriodsSettleInOrder(period=command.period, next_period=contract.next_period)
    due_at = contract.due_at(command.period)
    if issued.at < due_at:
        raise PeriodHasNotClosed(period=command.period, due_at=due_at)
    if contract.dispute and contract.holds_capacity and issued.at >= contract.due_at(contract.last_period):
        yield from _release_capacity(read, issued, command.contract, contract)
        return
    undisputed(contract, command.contract)
    if contract.escrowed:
        yield from _settle_from_escrow(read, issued, command, contract)
    else:
        yield from _net(read, issued, command, contract)


def _settle_from_escrow(read: Read, issued: Issued, command: SettlePeriod, contract: Contract) -> Decision:
    """The penalty comes first, then the provider; the fee is ceil(1 %) of the provider's share.

    Nobody serves on credit: where the escrow does not cover the next period, the service ends now.
    """
    owed = dues(contract, command.period)
    penalty = min(owed.penalty, contract.remaining)
    share = min(owed.charge - owed.penalty, contract.remaining - penalty)
    fee = ceil_div(share * contract.terms.fee, BASIS_POINTS)
    unpaid = owed.charge - penalty - share
    overdrawn = unpaid > 0 and contract.status in RUNNING
    left = contract.remaining - penalty - share
    lacks = unpaid if overdrawn else lacking(contract, command.period + 1, left, issued.at)
    ended = replace(contract, ends_at=issued.at) if lacks else contract
    last = overdrawn or command.period == ended.last_period
    begins_ms, ends_ms = contract.period(command.period)
    yield (
        contracts(command.contract),
        PeriodSettled(
            period=command.period,
            begins_at=contract.time(begins_ms),
            ends_at=contract.time(ends_ms),
            unit_ms=owed.unit_ms,
            charge=owed.charge,
            penalty=penalty,
            fee=fee,
            paid=share - fee,
            unpaid=unpaid,
            last=last,
            due_at=None if last else ended.due_at(command.period + 1),
            customer=contract.customer,
            provider=contract.provider,
            offering=contract.offering,
            device=contract.device,
            service_type=contract.service_type,
            region=contract.region,
            tier=contract.terms.tier,
            at=issued.at,
        ),
    )
    escrow, customer, provider = (
        escrow_of(command.contract),
        wallet_of(contract.customer),
        wallet_of(contract.provider),
    )
    if penalty:
        yield from pay_out(read, escrow, customer, penalty, "penalty")
    if share > fee:
        yield from pay_out(read, escrow, provider, share - fee, "service")
    if fee:
        yield from move(read, escrow, FEES, fee, "fee")
    if last:
        yield from _end(read, issued, command.contract, contract, lacks)
    elif lacks:
        parties = contract.customer, contract.provider, contract.device, contract.service_type
        due_at = ended.due_at(command.period + 1)
        yield contracts(command.contract), ContractOverdrawn(*parties, lacks, issued.at, due_at)
        yield from _let_go_of_capacity(read, issued, command.contract, contract)


def lacking(contract: Contract, period: int, left: int, at: datetime) -> int:
    """What the escrow lacks for a period of reserved time that is about to be used.

    How much of metered usage the escrow still covers is known to the provider, who may leave at once.
    """
    terms = contract.terms
    if not terms.timed or not contract.runs(at):
        return 0
    begins_ms, ends_ms = contract.period(period)
    return max(terms.charge(terms.units * ends_ms) - terms.charge(terms.units * begins_ms) - left, 0)


def _net(read: Read, issued: Issued, command: SettlePeriod, contract: Contract) -> Decision:
    """The customer owes the charge less the penalty, the provider ceil(1 %) of that; nothing is paid here."""
    owed = dues(contract, command.period)
    due = owed.charge - owed.penalty
    last = command.period == contract.last_period
    begins_ms, ends_ms = contract.period(command.period)
    yield (
        contracts(command.contract),
        PeriodNetted(
            period=command.period,
            begins_at=contract.time(begins_ms),
            ends_at=contract.time(ends_ms),
            unit_ms=owed.unit_ms,
            charge=owed.charge,
            penalty=owed.penalty,
            due=due,
            fee=ceil_div(due * contract.terms.fee, BASIS_POINTS),
            last=last,
            due_at=None if last else contract.due_at(command.period + 1),
            customer=contract.customer,
            provider=contract.provider,
            offering=contract.offering,
            device=contract.device,
            service_type=contract.service_type,
            region=contract.region,
            tier=contract.terms.tier,
            at=issued.at,
        ),
    )
    if last:
        yield from _end(read, issued, command.contract, contract, 0)


def top_up_escrow(command: TopUpEscrow, issued: Issued, read: Read) -> Decision:
    contract = undisputed(as_customer(read, issued, command.contract), command.contract)
    if not contract.escrowed:
        raise ContractIsNetted(contract=command.contract)
    if contract.closed:
        raise ContractHasEnded(contract=command.contract, status=contract.status)
    if command.amount <= 0:
        raise AmountMustBePositive(amount=command.amount)
    yield contracts(command.contract), EscrowToppedUp(command.amount, issued.at)
    yield from pay(read, issued, wallet_of(issued.by), escrow_of(command.contract), command.amount, "escrow")


# Decisions: the end


def _end(read: Read, issued: Issued, id: str, contract: Contract, unpaid: int) -> Decision:
    """The last period has settled: the units and what is left of the escrow go back."""
    parties = contract.customer, contract.provider, contract.device, contract.service_type
    if unpaid:
        yield contracts(id), ContractOverdrawn(*parties, unpaid, issued.at)
    elif contract.status in RUNNING:
        yield contracts(id), ContractCompleted(*parties, issued.at)
    yield from _let_go_of_capacity(read, issued, id, contract)
    yield from _return_the_rest(read, issued, id)


def _release_capacity(read: Read, issued: Issued, id: str, contract: Contract) -> Decision:
    """A dispute freezes money; the units that a service needs no more are not part of it."""
    yield contracts(id), CapacityReleased(issued.at)
    yield from _let_go_of_capacity(read, issued, id, contract)


def _let_go_of_capacity(read: Read, issued: Issued, id: str, contract: Contract) -> Decision:
    """Give the units back that the contract held before it ended, once, or leave them to its renewal."""
    if not contract.holds_capacity:
        return
    renewal = read(contracts, contract.renewal) if contract.renewal else Contract()
    if renewal.status in ("created", *RUNNING):
        yield contracts(contract.renewal), CapacityTakenOver(id, issued.at)
    else:
        yield from give_back(read, issued, contract.offering, contract.terms.units, contract.capacity_ref)


def _return_the_rest(read: Read, issued: Issued, id: str) -> Decision:
    contract = read(contracts, id)
    rest = contract.remaining
    if rest:
        yield contracts(id), EscrowReturned(contract.customer, rest, issued.at)
        yield from pay_out(read, escrow_of(id), wallet_of(contract.customer), rest, "refund")


def notice_owed(contract: Contract, party: str, at: datetime) -> int:
    """What the party that ends the contract now owes the other: the charge of the notice, within the term.

    The customer leaves a breached contract without notice.
    """
    terms = contract.terms
    if party not in BOUND.get(terms.pricing, ()) or (party == "customer" and contract.breached):
        return 0
    now_ms = contract.ms_at(at)
    until_ms = min(now_ms + terms.notice_minutes * MINUTE_MS, contract.length_ms)
    return terms.charge(terms.units * until_ms) - terms.charge(terms.units * now_ms)


def terminate_contract(command: TerminateContract, issued: Issued, read: Read) -> Decision:
    """A service that ran settles its periods until now, with their reports, before the rest goes back."""
    contract = known(read, command.contract)
    if issued.by not in (contract.customer, contract.provider):
        raise ContractNotFound(contract=command.contract)
    party = "customer" if issued.by == contract.customer else "provider"
    undisputed(contract, command.contract)
    if contract.status != "created" and not contract.runs(issued.at):
        raise ContractHasEnded(contract=command.contract, status=contract.status)
    started = contract.started
    notice = notice_owed(contract, party, issued.at) if started else 0
    ended = replace(contract, ends_at=issued.at)
    yield (
        contracts(command.contract),
        ContractTerminated(
            by=issued.by,
            party=party,
            reason=command.reason,
            started=started,
            notice=notice,
            due_at=ended.due_at(contract.next_period) if started else None,
            customer=contract.customer,
            provider=contract.provider,
            device=contract.device,
            service_type=contract.service_type,
            at=issued.at,
        ),
    )
    yield from _let_go_of_capacity(read, issued, command.contract, contract)
    if not started:
        yield from _return_the_rest(read, issued, command.contract)


def review_provider(command: ReviewProvider, issued: Issued, read: Read) -> Decision:
    contract = as_customer(read, issued, command.contract)
    if not 1 <= command.rating <= 5:
        raise RatingIsOutOfRange(rating=command.rating, least=1, limit=5)
    if not contract.started:
        raise ServiceHasNotStarted(contract=command.contract)
    if contract.ended_at is None:
        raise ContractHasNotEnded(contract=command.contract)
    if contract.reviewed:
        raise ReviewExists(contract=command.contract)
    if issued.at >= contract.ended_at + P.review_within:
        raise ReviewIsTooLate(contract=command.contract, until=contract.ended_at + P.review_within)
    yield (
        contracts(command.contract),
        ProviderReviewed(
            contract.customer,
            contract.provider,
            contract.offering,
            contract.device,
            contract.service_type,
            command.rating,
            command.comment,
            issued.at,
        ),
    )


# Decisions: disputes


def dispute_contract(read: Read, issued: Issued, contract_id: str, dispute_id: str) -> Decision:
    """Freeze the escrow, at the word of the customer, the provider or an operator, until it is split."""
    contract = known(read, contract_id)
    if issued.by not in (contract.customer, contract.provider) and not issued.is_operator:
        raise ContractNotFound(contract=contract_id)
    if not contract.escrowed:
        raise ContractIsNetted(contract=contract_id)
    undisputed(contract, contract_id)
    if not contract.remaining:
        raise EscrowIsEmpty(contract=contract_id)
    yield (
        contracts(contract_id),
        ContractDisputed(dispute_id, issued.by, contract.remaining, issued.at),
    )


def split_escrow(
    read: Read, issued: Issued, contract_id: str, dispute_id: str, to_payer: int, to_payee: int
) -> Decision:
    """Pay out all that remains, as decided and free of fees, and end the contract. Who may is the caller's matter."""
    contract = known(read, contract_id)
    if not contract.dispute or contract.dispute != dispute_id:
        raise ContractIsNotInDispute(contract=contract_id, dispute=dispute_id)
    if to_payer < 0 or to_payee < 0 or to_payer + to_payee != contract.remaining:
        raise SplitIsNotWhatRemains(remaining=contract.remaining, to_payer=to_payer, to_payee=to_payee)
    yield (
        contracts(contract_id),
        EscrowSplit(dispute_id, contract.customer, contract.provider, to_payer, to_payee, issued.at),
    )
    escrow = escrow_of(contract_id)
    if to_payer:
        yield from pay_out(read, escrow, wallet_of(contract.customer), to_payer, "dispute")
    if to_payee:
        yield from pay_out(read, escrow, wallet_of(contract.provider), to_payee, "dispute")
    yield from _let_go_of_capacity(read, issued, contract_id, contract)
