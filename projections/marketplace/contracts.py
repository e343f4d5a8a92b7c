"""What was agreed and what became of it: contracts with their escrow, periods, service levels, disputes, reviews, and
what providers earned by the day."""

from __future__ import annotations

from datetime import datetime

from commands._codec import EPOCH
from domain.ledger import FEES
from domain.marketplace.contracts import (
    CapacityPassedOn,
    CapacityReleased,
    CapacityTakenOver,
    ContractBreached,
    ContractCompleted,
    ContractDisputed,
    ContractExpired,
    ContractOpened,
    ContractOverdrawn,
    ContractPaused,
    ContractRenewed,
    ContractResumed,
    ContractTerminated,
    EscrowReturned,
    EscrowSplit,
    EscrowToppedUp,
    PeriodNetted,
    PeriodSettled,
    ProviderReviewed,
    ServiceLevelReported,
    ServiceStarted,
    UsageMetered,
)
from projections._engine import Projection, Record, Rows
from projections._tables import Money, Row, Total, table
from projections._timers import Next, Timer, react, schedule, schedule_next, settle, settle_next, timers
from projections.ledger import day_of


@table(
    "marketplace_contracts",
    key=("contract",),
    indexes=("customer, opened_at, contract", "provider, opened_at, contract", "opened_at, contract"),
)
class Contract(Row):
    """Its escrow: deposited = paid + fees + penalties + refunded + what remains."""

    contract: str
    customer: str = ""
    provider: str = ""
    offering: str = ""
    device: str = ""
    service_type: str = ""
    region: str = ""
    # Terms
    tier: str = ""
    units: int = 0
    minutes: int = 0
    price: Money = 0
    """Of one unit for one hour."""
    pricing: str = ""
    settlement: str = ""
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
    charge: Money = 0
    """Of the whole term."""
    # What became of it
    status: str = ""
    """created, active, paused, completed, terminated, expired or overdrawn."""
    request: str = ""
    renews: str = ""
    renewal: str = ""
    capacity_ref: str = ""
    """What its units are reserved under."""
    holds_capacity: bool = False
    """Its units are its own now, and not those of the contract that it renews or that renews it."""
    opened_at: datetime = EPOCH
    start_by: datetime = EPOCH
    started_at: datetime | None = None
    ends_at: datetime | None = None
    ended_at: datetime | None = None
    ended_by: str = ""
    reason: str = ""
    """Why it was terminated."""
    notice: Money = 0
    due_at: datetime | None = None
    """When its next period settles."""
    next_period: int = 0
    paused_at: datetime | None = None
    pauses: int = 0
    paused_ms: int = 0
    meter_seq: int = 0
    metered_ms: Total = 0
    """Unit-milliseconds since the start."""
    metered_at: datetime | None = None
    charged_ms: Total = 0
    """Unit-milliseconds that settled periods were charged for."""
    charged: Total = 0
    deposited: Money = 0
    paid: Money = 0
    fees: Money = 0
    penalties: Money = 0
    refunded: Money = 0
    unpaid: Money = 0
    owed: Money = 0
    """Of a netted contract: what became due to the provider."""
    owed_fees: Money = 0
    owed_penalties: Money = 0
    """What they lessened it by."""
    dispute: str = ""
    """The one that is open."""
    # Service levels
    windows: int = 0
    excused: int = 0
    missed: int = 0
    """Windows that missed at least one indicator."""
    missed_p95: int = 0
    missed_uptime: int = 0
    missed_errors: int = 0
    breached_at: datetime | None = None
    rating: int = 0
    """1 to 5; 0 where the customer gave none."""


@table("marketplace_periods", key=("contract", "period"))
class Period(Row):
    """A settled period: paid from the escrow, or owed (netted), never both."""

    contract: str
    period: int
    settlement: str = ""
    begins_at: datetime = EPOCH
    ends_at: datetime = EPOCH
    unit_ms: Total = 0
    charge: Money = 0
    penalty: Money = 0
    fee: Money = 0
    paid: Money = 0
    owed: Money = 0
    unpaid: Money = 0
    last: bool = False
    at: datetime = EPOCH


@table("marketplace_windows", key=("contract", "number"))
class Window(Row):
    """A report of the service level in one window."""

    contract: str
    number: int
    period: int = 0
    begins_at: datetime = EPOCH
    ends_at: datetime = EPOCH
    p95_ms: int = 0
    uptime_bp: int = 0
    errors_bp: int = 0
    missed_p95: bool = False
    missed_uptime: bool = False
    missed_errors: bool = False
    excused: bool = False
    at: datetime = EPOCH


@table("marketplace_scorecards", key=("provider", "service_type"))
class Scorecard(Row):
    """How a provider keeps its service levels, over all its contracts for a service."""

    provider: str
    service_type: str
    contracts: int = 0
    completed: int = 0
    terminated: int = 0
    """By the provider."""
    expired: int = 0
    windows: int = 0
    excused: int = 0
    missed: int = 0
    missed_p95: int = 0
    missed_uptime: int = 0
    missed_errors: int = 0
    breaches: int = 0
    periods: int = 0
    charged: Total = 0
    penalties: Total = 0
    reviews: int = 0
    ratings: int = 0
    """Their sum."""


@table("marketplace_revenue", key=("provider", "day"), indexes=("day, provider",))
class Revenue(Row):
    """What a provider's periods came to on a day (UTC)."""

    provider: str
    day: str
    """YYYY-MM-DD."""
    periods: int = 0
    charge: Total = 0
    penalties: Total = 0
    fees: Total = 0
    paid: Total = 0
    owed: Total = 0
    """Of netted contracts, before the fee."""
    owed_fees: Total = 0
    unpaid: Total = 0
    disputes: Total = 0
    """What decided disputes gave it."""


@table("marketplace_disputes", key=("contract", "dispute"))
class Dispute(Row):
    contract: str
    dispute: str
    by: str = ""
    remaining: Money = 0
    """In the escrow when it was opened."""
    at: datetime = EPOCH
    to_customer: Money | None = None
    to_provider: Money | None = None
    decided_at: datetime | None = None


@table("marketplace_reviews", key=("contract",), indexes=("provider, position", "position"))
class Review(Row):
    contract: str
    customer: str = ""
    provider: str = ""
    offering: str = ""
    device: str = ""
    service_type: str = ""
    rating: int = 0
    comment: str = ""
    at: datetime = EPOCH


MOST_SUCCESSES_AN_HOUR = 4
"""That one customer's periods count for a device: those of one contract in the shortest periods. Whoever buys from
himself, in a thousand contracts at a price of next to nothing, gains no more reputation than that."""


@table("marketplace_vouchers", key=("customer", "device", "service"))
class Voucher(Row):
    """How often a customer spoke for a device lately, so that nobody's word makes its reputation alone."""

    customer: str
    device: str
    service: str
    hour: datetime = EPOCH
    successes: int = 0
    """In that hour."""
    reviewed_on: str = ""
    """YYYY-MM-DD."""


# What is counted here decides which reactions follow, so it stands and falls with the timers.
timers.rows += (Voucher,)

contracts = Projection("contracts", Contract, Period, Window, Scorecard, Revenue, Dispute, Review)


# Opening and service


@contracts.on(ContractOpened)
def contract_opened(rows: Rows, event: ContractOpened, record: Record) -> None:
    row, terms = rows.of(Contract, record.id), event.terms
    row.customer, row.provider, row.offering = event.customer, event.provider, event.offering
    row.device, row.service_type, row.region = event.device, event.service_type, event.region
    for name in (
        "tier",
        "units",
        "minutes",
        "price",
        "pricing",
        "settlement",
        "p95_ms",
        "uptime_bp",
        "errors_bp",
        "period_minutes",
        "window_minutes",
        "grace_minutes",
        "notice_minutes",
        "breach_windows",
        "fee",
        "penalty",
    ):
        setattr(row, name, getattr(terms, name))
    row.charge, row.deposited, row.status = event.charge, event.deposit, "created"
    row.request, row.renews, row.capacity_ref = event.request, event.renews, event.capacity_ref
    row.opened_at, row.start_by = event.opened_at, event.start_by
    row.holds_capacity = not event.renews
    rows.of(Scorecard, event.provider, event.service_type).contracts += 1


@contracts.on(ServiceStarted)
def service_started(rows: Rows, event: ServiceStarted, record: Record) -> None:
    row = rows.of(Contract, record.id)
    row.status, row.started_at, row.ends_at, row.due_at = "active", event.at, event.ends_at, event.due_at


@contracts.on(UsageMetered)
def usage_metered(rows: Rows, event: UsageMetered, record: Record) -> None:
    row = rows.of(Contract, record.id)
    row.meter_seq, row.metered_ms, row.metered_at = event.seq, event.unit_ms, event.at


@contracts.on(ContractPaused)
def contract_paused(rows: Rows, event: ContractPaused, record: Record) -> None:
    row = rows.of(Contract, record.id)
    row.status, row.paused_at = "paused", event.at
    row.pauses += 1


@contracts.on(ContractResumed)
def contract_resumed(rows: Rows, event: ContractResumed, record: Record) -> None:
    row = rows.of(Contract, record.id)
    row.status, row.paused_at = "active", None
    row.paused_ms += event.paused_ms


@contracts.on(EscrowToppedUp)
def escrow_topped_up(rows: Rows, event: EscrowToppedUp, record: Record) -> None:
    rows.of(Contract, record.id).deposited += event.amount


@contracts.on(ContractRenewed)
def contract_renewed(rows: Rows, event: ContractRenewed, record: Record) -> None:
    rows.of(Contract, record.id).renewal = event.renewal


@contracts.on(CapacityReleased)
def capacity_released(rows: Rows, event: CapacityReleased, record: Record) -> None:
    rows.of(Contract, record.id).holds_capacity = False


@contracts.on(CapacityPassedOn)
def capacity_passed_on(rows: Rows, event: CapacityPassedOn, record: Record) -> None:
    rows.of(Contract, record.id).holds_capacity = False


@contracts.on(CapacityTakenOver)
def capacity_taken_over(rows: Rows, event: CapacityTakenOver, record: Record) -> None:
    rows.of(Contract, record.id).holds_capacity = True


# Service levels


@contracts.on(ServiceLevelReported)
def service_level_reported(rows: Rows, event: ServiceLevelReported, record: Record) -> None:
    window = rows.of(Window, record.id, event.window)
    window.period, window.begins_at, window.ends_at = event.period, event.begins_at, event.ends_at
    window.p95_ms, window.uptime_bp, window.errors_bp = event.p95_ms, event.uptime_bp, event.errors_bp
    window.missed_p95, window.missed_uptime = "p95" in event.missed, "uptime" in event.missed
    window.missed_errors, window.excused, window.at = "errors" in event.missed, event.excused, event.at
    for row in (rows.of(Contract, record.id), rows.of(Scorecard, event.provider, event.service_type)):
        row.windows += 1
        row.excused += event.excused
        row.missed += bool(event.missed)
        row.missed_p95 += window.missed_p95
        row.missed_uptime += window.missed_uptime
        row.missed_errors += window.missed_errors


@contracts.on(ContractBreached)
def contract_breached(rows: Rows, event: ContractBreached, record: Record) -> None:
    rows.of(Contract, record.id).breached_at = event.at
    rows.of(Scorecard, event.provider, event.service_type).breaches += 1


# Periods


def _settled(rows: Rows, event: PeriodSettled | PeriodNetted, record: Record) -> tuple[Contract, Revenue]:
    """What every period does, however it is settled."""
    period = rows.of(Period, record.id, event.period)
    period.begins_at, period.ends_at, period.unit_ms = event.begins_at, event.ends_at, event.unit_ms
    period.charge, period.penalty, period.fee = event.charge, event.penalty, event.fee
    period.last, period.at = event.last, event.at
    row = rows.of(Contract, record.id)
    row.next_period, row.due_at = event.period + 1, event.due_at
    row.charged_ms += event.unit_ms
    row.charged += event.charge
    scorecard = rows.of(Scorecard, event.provider, event.service_type)
    scorecard.periods += 1
    scorecard.charged += event.charge
    scorecard.penalties += event.penalty
    day = rows.of(Revenue, event.provider, day_of(record))
    day.periods += 1
    day.charge += event.charge
    day.penalties += event.penalty
    return row, day


@contracts.on(PeriodSettled)
def period_settled(rows: Rows, event: PeriodSettled, record: Record) -> None:
    row, day = _settled(rows, event, record)
    period = rows.of(Period, record.id, event.period)
    period.settlement, period.paid, period.unpaid = "escrow", event.paid, event.unpaid
    row.paid += event.paid
    row.fees += event.fee
    row.penalties += event.penalty
    row.unpaid += event.unpaid
    day.fees += event.fee
    day.paid += event.paid
    day.unpaid += event.unpaid


@contracts.on(PeriodNetted)
def period_netted(rows: Rows, event: PeriodNetted, record: Record) -> None:
    row, day = _settled(rows, event, record)
    period = rows.of(Period, record.id, event.period)
    period.settlement, period.owed = "netted", event.due
    row.owed += event.due
    row.owed_fees += event.fee
    row.owed_penalties += event.penalty
    day.owed += event.due
    day.owed_fees += event.fee


# The end


def _end(rows: Rows, record: Record, status: str, at: datetime) -> Contract:
    row = rows.of(Contract, record.id)
    row.status, row.ended_at, row.due_at, row.holds_capacity = status, at, None, False
    return row


@contracts.on(ContractCompleted)
def contract_completed(rows: Rows, event: ContractCompleted, record: Record) -> None:
    _end(rows, record, "completed", event.at)
    rows.of(Scorecard, event.provider, event.service_type).completed += 1


@contracts.on(ContractOverdrawn)
def contract_overdrawn(rows: Rows, event: ContractOverdrawn, record: Record) -> None:
    row = _end(rows, record, "overdrawn", event.at)
    if event.due_at is not None:
        row.ends_at, row.due_at = event.at, event.due_at


@contracts.on(ContractExpired)
def contract_expired(rows: Rows, event: ContractExpired, record: Record) -> None:
    _end(rows, record, "expired", event.at)
    rows.of(Scorecard, event.provider, event.service_type).expired += 1


@contracts.on(ContractTerminated)
def contract_terminated(rows: Rows, event: ContractTerminated, record: Record) -> None:
    row = _end(rows, record, "terminated", event.at)
    row.ended_by, row.reason, row.notice, row.due_at = event.party, event.reason, event.notice, event.due_at
    if event.started:
        row.ends_at = event.at
    if event.party == "provider":
        rows.of(Scorecard, event.provider, event.service_type).terminated += 1


@contracts.on(EscrowReturned)
def escrow_returned(rows: Rows, event: EscrowReturned, record: Record) -> None:
    rows.of(Contract, record.id).refunded += event.amount


# Disputes and reviews


@contracts.on(ContractDisputed)
def contract_disputed(rows: Rows, event: ContractDisputed, record: Record) -> None:
    rows.of(Contract, record.id).dispute = event.dispute
    row = rows.of(Dispute, record.id, event.dispute)
    row.by, row.remaining, row.at = event.by, event.remaining, event.at


@contracts.on(EscrowSplit)
def escrow_split(rows: Rows, event: EscrowSplit, record: Record) -> None:
    dispute = rows.of(Dispute, record.id, event.dispute)
    dispute.to_customer, dispute.to_provider = event.to_customer, event.to_provider
    dispute.decided_at = event.at
    row = _end(rows, record, "terminated", event.at)
    row.dispute = ""
    row.paid += event.to_provider
    row.refunded += event.to_customer
    rows.of(Revenue, event.provider, day_of(record)).disputes += event.to_provider


@contracts.on(ProviderReviewed)
def provider_reviewed(rows: Rows, event: ProviderReviewed, record: Record) -> None:
    rows.of(Contract, record.id).rating = event.rating
    row = rows.of(Review, record.id)
    row.customer, row.provider, row.offering = event.customer, event.provider, event.offering
    row.device, row.service_type = event.device, event.service_type
    row.rating, row.comment, row.at = event.rating, event.comment, event.at
    scorecard = rows.of(Scorecard, event.provider, event.service_type)
    scorecard.reviews += 1
    scorecard.ratings += event.rating


# Timers


def _start(record: Record) -> str:
    return f"contract-start:{record.id}"


def _periods(record: Record) -> str:
    return f"contract-period:{record.id}"


def _settles(rows: Rows, record: Record, period: int, due_at: datetime) -> None:
    body = {"contract": record.id, "period": period}
    schedule_next(rows, _periods(record), record, due_at, "marketplace", "settle-period", **body)


@timers.on(ContractOpened)
def when_a_contract_is_opened_it_starts_in_time_or_expires(
    rows: Rows, event: ContractOpened, record: Record
) -> None:
    body = {"contract": record.id}
    schedule(rows, _start(record), record, event.start_by, "marketplace", "expire-contract", **body)


@timers.on(ServiceStarted)
def when_a_service_started_its_first_period_settles(
    rows: Rows, event: ServiceStarted, record: Record
) -> None:
    settle(rows, _start(record))
    _settles(rows, record, 0, event.due_at)


@timers.on(ContractExpired)
def when_a_contract_expired_nothing_starts(rows: Rows, event: ContractExpired, record: Record) -> None:
    settle(rows, _start(record))


@timers.on(ContractTerminated)
def when_a_contract_is_terminated_its_last_periods_settle_sooner(
    rows: Rows, event: ContractTerminated, record: Record
) -> None:
    if event.due_at is None:
        settle(rows, _start(record))
        return
    waiting = rows.find(Timer, rows.of(Next, _periods(record)).timer)
    if waiting is not None:
        _settles(rows, record, waiting.body.get("period", 0), event.due_at)


@timers.on(EscrowSplit)
def when_an_escrow_is_split_nothing_is_due_any_more(rows: Rows, event: EscrowSplit, record: Record) -> None:
    settle(rows, _start(record))
    settle_next(rows, _periods(record))


# Reactions


def evidence_of_period(contract: str, period: int) -> str:
    """A contract's id has at most 48 characters and its periods five digits, so that this is an id."""
    return f"period.{contract}.{period}"


def evidence_of_review(contract: str) -> str:
    return f"review.{contract}"


def _owe(rows: Rows, record: Record, source: str, debtor: str, creditor: str, amount: int) -> None:
    if amount:
        react(
            rows,
            f"obligation:{source}",
            record,
            "settlement",
            "record-obligation",
            debtor=debtor,
            creditor=creditor,
            amount=str(amount),
            source=source,
        )


def _trust(
    rows: Rows, record: Record, evidence_id: str, device: str, service: str, kind: str, quality: int = 0
) -> None:
    react(
        rows,
        f"reputation:{evidence_id}",
        record,
        "devices",
        "record-reputation",
        device=device,
        service=service,
        kind=kind,
        evidence_id=evidence_id,
        quality=quality,
    )


def _judge(rows: Rows, event: PeriodSettled | PeriodNetted, record: Record, clean: bool) -> None:
    """One piece of evidence a period: a failure where it cost a penalty, a success where it was sold without one.

    What sold nothing says nothing, so that idle contracts earn no reputation; and of one customer's successes within
    an hour only some count. Failures always do: they are what others measured.
    """
    kind = "failure" if event.penalty else "success" if event.charge and clean else ""
    if kind == "failure" or (kind and _speaks_for(rows, event, record)):
        evidence = evidence_of_period(record.id, event.period)
        _trust(rows, record, evidence, event.device, event.service_type, kind)


def _speaks_for(rows: Rows, event: PeriodSettled | PeriodNetted, record: Record) -> bool:
    row = rows.of(Voucher, event.customer, event.device, event.service_type)
    hour = record.recorded_at.replace(minute=0, second=0, microsecond=0)
    if row.hour != hour:
        row.hour, row.successes = hour, 0
    row.successes += 1
    return row.successes <= MOST_SUCCESSES_AN_HOUR


@timers.on(PeriodSettled)
def when_a_period_is_settled_the_next_one_is_due(rows: Rows, event: PeriodSettled, record: Record) -> None:
    _go_on(rows, event, record)
    # An escrow that was empty paid no penalty: that a period has none says nothing then.
    _judge(rows, event, record, clean=not event.unpaid)


@timers.on(PeriodNetted)
def when_a_period_is_netted_it_becomes_obligations(rows: Rows, event: PeriodNetted, record: Record) -> None:
    _go_on(rows, event, record)
    source = f"{record.id}.{event.period}"
    _owe(rows, record, source, event.customer, event.provider, event.due)
    _owe(rows, record, f"{source}.fee", event.provider, FEES, event.fee)
    _judge(rows, event, record, clean=True)


def _go_on(rows: Rows, event: PeriodSettled | PeriodNetted, record: Record) -> None:
    if event.due_at is None:
        settle_next(rows, _periods(record))
    else:
        _settles(rows, record, event.period + 1, event.due_at)


@timers.on(ProviderReviewed)
def when_a_provider_is_reviewed_its_device_is_trusted_accordingly(
    rows: Rows, event: ProviderReviewed, record: Record
) -> None:
    """Of one customer's reviews the first of a day (UTC) counts; all of them can be read."""
    row = rows.of(Voucher, event.customer, event.device, event.service_type)
    today = day_of(record)
    if row.reviewed_on == today:
        return
    row.reviewed_on = today
    evidence = evidence_of_review(record.id)
    _trust(rows, record, evidence, event.device, event.service_type, "peer", event.rating * 2_000)
