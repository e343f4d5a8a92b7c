"""What is asked for: requests and what became of them, their bids, and bursts."""

from __future__ import annotations

from dataclasses import field
from datetime import datetime
from typing import Any

from commands._codec import EPOCH
from domain.marketplace.requests import (
    BidAccepted,
    BiddingClosed,
    BidPlaced,
    BidWithdrawn,
    BurstAllocated,
    RequestExpired,
    RequestMatched,
    RequestWithdrawn,
    ServiceRequested,
)
from projections._engine import Projection, Record, Rows
from projections._tables import Money, Row, table
from projections._timers import schedule, settle, timers


@table(
    "marketplace_requests",
    key=("request",),
    indexes=(
        "status, expires_at, request",
        "customer, at, request",
        "unmatched, service_type, region, tier",
        "at, request",
    ),
)
class Request(Row):
    request: str
    customer: str = ""
    service_type: str = ""
    region: str = ""
    tier: str = ""
    """The least."""
    cpu_millicores: int = 0
    """Of one unit, as are memory and gpu."""
    memory_mb: int = 0
    gpu: int = 0
    units: int = 0
    minutes: int = 0
    price_cap: Money | None = None
    """For one unit and hour."""
    budget: Money | None = None
    """For all units and minutes."""
    any_price: bool = False
    mode: str = ""
    settlement: str = ""
    expires_at: datetime = EPOCH
    status: str = ""
    """open, bidding, won, unsold, matched, withdrawn or expired."""
    unmatched: bool = False
    """So far nothing fitted it: no offering, or no bid."""
    bids: int = 0
    """Those that were not withdrawn."""
    provider: str = ""
    """Of its match, or of the winning bid, as are the fields up to `contract`."""
    offering: str = ""
    ask: Money = 0
    price: Money = 0
    """For one unit and hour."""
    score: int = 0
    """Of its match, in basis points."""
    candidates: int = 0
    contract: str = ""
    accept_by: datetime | None = None
    at: datetime = EPOCH
    closed_at: datetime | None = None
    """When its bids were opened."""
    ended_at: datetime | None = None


@table(
    "marketplace_bids",
    key=("request", "provider"),
    indexes=("provider, at, request", "at, request, provider"),
)
class Bid(Row):
    request: str
    provider: str
    offering: str = ""
    ask: Money = 0
    """For one unit and hour."""
    deposit: Money = 0
    at: datetime = EPOCH
    withdrawn: bool = False
    opened: bool = False
    """Everybody may know it: bidding was closed."""


@table("marketplace_bursts", key=("burst",), indexes=("customer, at, burst", "at, burst"))
class Burst(Row):
    burst: str
    customer: str = ""
    budget: Money = 0
    minutes: int = 0
    settlement: str = ""
    cost: Money = 0
    parts: list[dict[str, Any]] = field(default_factory=list)
    """Its contracts, at most 50."""
    at: datetime = EPOCH


requests = Projection("requests", Request, Bid, Burst)


@requests.on(ServiceRequested)
def service_requested(rows: Rows, event: ServiceRequested, record: Record) -> None:
    row = rows.of(Request, record.id)
    row.customer, row.service_type, row.region = event.customer, event.service_type, event.region
    row.tier, row.units, row.minutes = event.tier, event.units, event.minutes
    row.cpu_millicores, row.memory_mb, row.gpu = event.cpu_millicores, event.memory_mb, event.gpu
    row.price_cap, row.budget, row.any_price = event.price_cap, event.budget, event.any_price
    row.mode, row.settlement = event.mode, event.settlement
    row.expires_at, row.at = event.expires_at, event.at
    row.status = "open" if event.mode == "match" else "bidding"
    row.unmatched = event.mode == "match"


@requests.on(RequestMatched)
def request_matched(rows: Rows, event: RequestMatched, record: Record) -> None:
    row = rows.of(Request, record.id)
    row.status, row.unmatched, row.ended_at = "matched", False, event.at
    row.provider, row.offering, row.contract = event.provider, event.offering, event.contract
    row.price, row.score, row.candidates = event.price, event.score, event.candidates


@requests.on(RequestWithdrawn)
def request_withdrawn(rows: Rows, event: RequestWithdrawn, record: Record) -> None:
    row = rows.of(Request, record.id)
    row.status, row.unmatched, row.ended_at = "withdrawn", False, event.at


@requests.on(RequestExpired)
def request_expired(rows: Rows, event: RequestExpired, record: Record) -> None:
    row = rows.of(Request, record.id)
    row.status, row.ended_at = "expired", event.at


@requests.on(BidPlaced)
def bid_placed(rows: Rows, event: BidPlaced, record: Record) -> None:
    rows.of(Request, record.id).bids += 1
    row = rows.of(Bid, record.id, event.provider)
    row.offering, row.ask, row.deposit = event.offering, event.ask, event.deposit
    row.at, row.withdrawn = event.at, False


@requests.on(BidWithdrawn)
def bid_withdrawn(rows: Rows, event: BidWithdrawn, record: Record) -> None:
    rows.of(Request, record.id).bids -= 1
    rows.of(Bid, record.id, event.provider).withdrawn = True


@requests.on(BiddingClosed)
def bidding_closed(rows: Rows, event: BiddingClosed, record: Record) -> None:
    row = rows.of(Request, record.id)
    row.status, row.closed_at, row.accept_by = "won", event.at, event.accept_by
    row.provider, row.offering, row.ask, row.price = event.provider, event.offering, event.ask, event.price
    if not event.provider:
        row.status, row.unmatched, row.ended_at = "unsold", True, event.at
    for opened in event.bids:
        rows.of(Bid, record.id, opened.provider).opened = True


@requests.on(BidAccepted)
def bid_accepted(rows: Rows, event: BidAccepted, record: Record) -> None:
    row = rows.of(Request, record.id)
    row.status, row.contract, row.ended_at = "matched", event.contract, event.at


@requests.on(BurstAllocated)
def burst_allocated(rows: Rows, event: BurstAllocated, record: Record) -> None:
    row = rows.of(Burst, record.id)
    row.customer, row.budget, row.minutes = event.customer, event.budget, event.minutes
    row.settlement, row.cost, row.at = event.settlement, event.cost, event.at
    row.parts = [
        {
            "contract": part.contract,
            "offering": part.offering,
            "provider": part.provider,
            "units": part.units,
            "price": str(part.price),
        }
        for part in event.parts
    ]


# Timers


def _request(record: Record) -> str:
    return f"request:{record.id}"


def _winner(record: Record) -> str:
    return f"request-won:{record.id}"


def _over(rows: Rows, record: Record) -> None:
    settle(rows, _request(record))
    settle(rows, _winner(record))


@timers.on(ServiceRequested)
def when_a_service_is_requested_the_request_expires_or_its_bidding_closes(
    rows: Rows, event: ServiceRequested, record: Record
) -> None:
    command = "expire-request" if event.mode == "match" else "close-bidding"
    schedule(rows, _request(record), record, event.expires_at, "marketplace", command, request=record.id)


@timers.on(BiddingClosed)
def when_bidding_is_closed_the_winner_waits_for_a_time(
    rows: Rows, event: BiddingClosed, record: Record
) -> None:
    settle(rows, _request(record))
    if event.accept_by is not None:
        body = {"request": record.id}
        schedule(rows, _winner(record), record, event.accept_by, "marketplace", "expire-request", **body)


@timers.on(RequestMatched)
def when_a_request_is_matched_it_does_not_expire(rows: Rows, event: RequestMatched, record: Record) -> None:
    _over(rows, record)


@timers.on(RequestWithdrawn)
def when_a_request_is_withdrawn_nothing_is_due(rows: Rows, event: RequestWithdrawn, record: Record) -> None:
    _over(rows, record)


@timers.on(RequestExpired)
def when_a_request_expired_nothing_is_due(rows: Rows, event: RequestExpired, record: Record) -> None:
    _over(rows, record)


@timers.on(BidAccepted)
def when_a_bid_is_accepted_its_winner_waits_no_more(rows: Rows, event: BidAccepted, record: Record) -> None:
    _over(rows, record)
