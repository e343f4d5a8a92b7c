"""Offerings, requests and contracts in the simulation's own model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ops.client import Event
from ops.simulate._dues import Dues

MOST_REMEMBERED = 5
"""Ended contracts that a customer may still review."""
MOST_SUCCESSES_AN_HOUR = 4
"""Of one customer that count for a device."""
MILLISECOND = timedelta(milliseconds=1)

Data = dict[str, Any]
Must = Callable[[bool, str], None]


@dataclass(slots=True)
class Offering:
    id: str
    provider: str
    device: str
    service_type: str
    region: str
    tier: str
    capacity: int
    base_price: int
    status: str = "active"
    """active, paused or withdrawn."""
    bookings: dict[str, int] = field(default_factory=dict)

    @property
    def used(self) -> int:
        return sum(self.bookings.values())

    @property
    def free(self) -> int:
        return self.capacity - self.used


@dataclass(slots=True)
class Request:
    id: str
    customer: str
    service_type: str
    region: str
    tier: str
    """The least."""
    mode: str
    expires_at: datetime
    status: str
    """open, bidding, won, unsold, matched, withdrawn or expired."""
    bids: dict[str, int] = field(default_factory=dict)
    """Asks by provider."""


@dataclass(slots=True)
class Contract:
    id: str
    customer: str
    provider: str
    offering: str
    units: int
    price: int
    """Of a unit for an hour."""
    escrowed: bool
    period: timedelta
    window: timedelta
    renews: str
    escrow: int
    """What it must still hold."""
    status: str = "created"
    started_at: datetime | None = None
    ends_at: datetime | None = None
    paused_at: datetime | None = None
    paused: timedelta = timedelta()
    """Sum of the pauses that have ended."""
    seq: int = 0
    unit_ms: int = 0
    reported: int = 0
    """Windows up to this one were reported."""
    settled: int = 0
    """Periods up to this one are settled."""
    dispute: str = ""
    breached: bool = False
    renewal: str = ""
    reviewed: bool = False

    @property
    def runs(self) -> bool:
        return self.status in ("active", "paused")

    def usable_ms(self, at: datetime) -> int:
        """Milliseconds of service until then that were not paused."""
        if self.started_at is None or self.ends_at is None:
            return 0
        until = min(at, self.ends_at)
        paused = self.paused + (until - self.paused_at if self.paused_at else timedelta())
        return (until - self.started_at - paused) // MILLISECOND


@dataclass(slots=True)
class Revenue:
    """All that a provider's settled periods came to."""

    charge: int = 0
    penalties: int = 0
    fees: int = 0
    paid: int = 0
    owed: int = 0
    owed_fees: int = 0
    unpaid: int = 0
    disputes: int = 0


class Market:
    def __init__(self, dues: Dues, must: Must) -> None:
        self._dues, self._must = dues, must
        self._said: dict[tuple[str, str, str, str], tuple[str, int]] = {}
        self.offerings: dict[str, Offering] = {}
        self.offered: defaultdict[str, list[str]] = defaultdict(list)
        """Offerings by provider."""
        self.requests: dict[str, Request] = {}
        self.asked: defaultdict[str, dict[str, Request]] = defaultdict(dict)
        """Requests that wait for their customer or for time, by customer; the auctions among them are in `auctions`."""
        self.auctions: dict[str, Request] = {}
        self.contracts: dict[str, Contract] = {}
        self.live: dict[str, Contract] = {}
        """Contracts that will still settle something; by party in `of`."""
        self.of: defaultdict[str, dict[str, Contract]] = defaultdict(dict)
        self.ended: defaultdict[str, list[Contract]] = defaultdict(list)
        """By customer, the last ones that are not reviewed."""
        self.bursts = 0
        self.breaches = 0
        self.revenue: defaultdict[str, Revenue] = defaultdict(Revenue)
        self.spent: defaultdict[str, int] = defaultdict(int)
        """By customer: what escrows paid for him."""
        self.folds = {
            "offering": self._offering,
            "request": self._request,
            "contract": self._contract,
            "burst": self._burst,
            "lane": self._nothing,
            "commitments": self._nothing,
        }

    def statuses(self) -> Counter[str]:
        return Counter(contract.status for contract in self.contracts.values())

    def _nothing(self, kind: str, id: str, data: Data, event: Event) -> None:
        """What this model does not need."""

    def _burst(self, kind: str, id: str, data: Data, event: Event) -> None:
        self.bursts += 1

    def _offering(self, kind: str, id: str, data: Data, event: Event) -> None:
        if kind == "OfferingRegistered":
            self.offerings[id] = Offering(
                id,
                data["provider"],
                data["device"],
                data["service_type"],
                data["region"],
                data["tier"],
                data["capacity"],
                int(data["base_price"]),
            )
            self.offered[data["provider"]].append(id)
            return
        offering = self.offerings[id]
        match kind:
            case "OfferingRepriced":
                offering.base_price = int(data["base_price"])
            case "OfferingPaused":
                offering.status = "paused"
            case "OfferingResumed":
                offering.status = "active"
            case "OfferingWithdrawn":
                offering.status = "withdrawn"
            case "UnitsReserved":
                self._must(
                    data["reference"] not in offering.bookings, f"{id} is reserved twice for one contract."
                )
                offering.bookings[data["reference"]] = data["units"]
                self._must(
                    offering.free >= 0, f"{id} has {offering.capacity} units, {offering.used} are in use."
                )
            case "UnitsReturned":
                held = offering.bookings.pop(data["reference"], 0)
                self._must(
                    held == data["units"], f"{data['reference']} returns {data['units']} of {held} units."
                )

    # Requests

    def _request(self, kind: str, id: str, data: Data, event: Event) -> None:
        if kind == "ServiceRequested":
            expires_at = datetime.fromisoformat(data["expires_at"])
            status = "open" if data["mode"] == "match" else "bidding"
            made = Request(
                id,
                data["customer"],
                data["service_type"],
                data["region"],
                data["tier"],
                data["mode"],
                expires_at,
                status,
            )
            self.requests[id] = self.asked[made.customer][id] = made
            if status == "bidding":
                self.auctions[id] = made
            self._dues.expect(f"end of request {id}", expires_at)
            return
        request = self.requests[id]
        match kind:
            case "BidPlaced":
                request.bids[data["provider"]] = int(data["ask"])
            case "BidWithdrawn":
                del request.bids[data["provider"]]
            case "BiddingClosed":
                self._must(
                    request.status == "bidding", f"Bidding on {id} closed while it was {request.status}."
                )
                request.status = "won" if data["provider"] else "unsold"
                del self.auctions[id]
                if data["accept_by"]:
                    accept_by = datetime.fromisoformat(data["accept_by"])
                    self._dues.expect(f"end of request {id}", accept_by)
                else:
                    self._request_is_over(request, "unsold")
            case "RequestMatched" | "BidAccepted":
                self._must(request.status in ("open", "won"), f"{id} was won while it was {request.status}.")
                self._request_is_over(request, "matched")
            case "RequestWithdrawn":
                self._request_is_over(request, "withdrawn")
            case "RequestExpired":
                self._request_is_over(request, "expired")

    def _request_is_over(self, request: Request, status: str) -> None:
        request.status = status
        self.asked[request.customer].pop(request.id, None)
        self.auctions.pop(request.id, None)
        self._dues.settle(f"end of request {request.id}")

    # Contracts

    def _contract(self, kind: str, id: str, data: Data, event: Event) -> None:
        if kind == "ContractOpened":
            self._open(id, data)
            return
        contract = self.contracts[id]
        match kind:
            case "ServiceStarted":
                contract.status = "active"
                contract.started_at = datetime.fromisoformat(data["at"])
                contract.ends_at = datetime.fromisoformat(data["ends_at"])
                self._dues.settle(f"start of {id}")
                self._expect_period(id, data["due_at"])
            case "UsageMetered":
                unit_ms = int(data["unit_ms"])
                self._must(unit_ms >= contract.unit_ms, f"The usage of {id} fell.")
                contract.seq, contract.unit_ms = data["seq"], unit_ms
            case "ServiceLevelReported":
                contract.reported = max(contract.reported, data["window"] + 1)
            case "ContractPaused":
                contract.status, contract.paused_at = "paused", datetime.fromisoformat(data["at"])
            case "ContractResumed":
                contract.status, contract.paused_at = "active", None
                contract.paused += data["paused_ms"] * MILLISECOND
            case "PeriodSettled" | "PeriodNetted":
                self._period(kind, contract, data, event)
            case "ContractRenewed":
                contract.renewal = data["renewal"]
            case "ContractBreached":
                contract.breached = True
                self.breaches += 1
            case "EscrowToppedUp":
                contract.escrow += int(data["amount"])
            case "EscrowReturned":
                contract.escrow -= int(data["amount"])
                self._must(contract.escrow == 0, f"{id} returned less than was left.")
            case "ProviderReviewed":
                contract.reviewed = True
                if contract in self.ended[contract.customer]:
                    self.ended[contract.customer].remove(contract)
                if self._counts(data, event, "%Y-%m-%d", 1):
                    self._expect_evidence(f"review.{id}", event)
            case _:
                self._end(kind, contract, data, event)

    def _open(self, id: str, data: Data) -> None:
        self._must(id not in self.contracts, f"Contract {id} was opened twice.")
        terms = data["terms"]
        contract = Contract(
            id,
            data["customer"],
            data["provider"],
            data["offering"],
            terms["units"],
            int(terms["price"]),
            terms["settlement"] == "escrow",
            timedelta(minutes=terms["period_minutes"]),
            timedelta(minutes=terms["window_minutes"]),
            data["renews"],
            int(data["deposit"]),
        )
        self.contracts[id] = self.live[id] = contract
        self.of[contract.customer][id] = self.of[contract.provider][id] = contract
        self._dues.expect(f"start of {id}", datetime.fromisoformat(data["start_by"]))

    def _expect_period(self, id: str, due_at: str | None) -> None:
        if due_at:
            self._dues.expect(f"period of {id}", datetime.fromisoformat(due_at))
        else:
            self._dues.settle(f"period of {id}")

    def _expect_evidence(self, name: str, event: Event) -> None:
        self._dues.expect(f"evidence {name}", event.recorded_at)

    def _counts(self, data: Data, event: Event, span: str, most: int) -> bool:
        """Whether what one customer says of a device still counts within an hour or a day."""
        when = event.recorded_at.strftime(span)
        whose = (data["customer"], data["device"], data["service_type"], span)
        before, number = self._said.get(whose, ("", 0))
        number = number + 1 if before == when else 1
        self._said[whose] = when, number
        return number <= most

    def _period(self, kind: str, contract: Contract, data: Data, event: Event) -> None:
        """A period settled, out of the escrow or as obligations."""
        id, number = contract.id, data["period"]
        self._must(number == contract.settled, f"{id} settles period {number}, not {contract.settled}.")
        contract.settled = number + 1
        charge, penalty, fee = int(data["charge"]), int(data["penalty"]), int(data["fee"])
        revenue = self.revenue[contract.provider]
        revenue.charge += charge
        revenue.penalties += penalty
        self._expect_period(id, data["due_at"])
        if kind == "PeriodSettled":
            paid, unpaid = int(data["paid"]), int(data["unpaid"])
            self._must(charge == penalty + fee + paid + unpaid, f"Period {number} of {id} does not add up.")
            contract.escrow -= penalty + fee + paid
            revenue.fees, revenue.paid, revenue.unpaid = (
                revenue.fees + fee,
                revenue.paid + paid,
                revenue.unpaid + unpaid,
            )
            self.spent[contract.customer] += fee + paid
        else:
            due, unpaid = int(data["due"]), 0
            self._must(charge == penalty + due, f"Period {number} of {id} does not add up.")
            revenue.owed += due
            revenue.owed_fees += fee
            self._expect_obligations(f"{id}.{number}", due, fee, event)
        success = charge and not unpaid and not penalty
        success = success and self._counts(data, event, "%Y-%m-%d %H", MOST_SUCCESSES_AN_HOUR)
        if penalty or success:
            self._expect_evidence(f"period.{id}.{number}", event)
        if data["last"] and not contract.runs:
            self._over(contract)

    def _expect_obligations(self, source: str, due: int, fee: int, event: Event) -> None:
        at = event.recorded_at
        if due:
            self._dues.expect(f"obligation {source}", at)
        if fee:
            self._dues.expect(f"obligation {source}.fee", at)

    def _end(self, kind: str, contract: Contract, data: Data, event: Event) -> None:
        id = contract.id
        match kind:
            case "ContractCompleted" | "ContractExpired":
                contract.status = kind.removeprefix("Contract").lower()
                self._over(contract)
            case "ContractTerminated" | "ContractOverdrawn":
                if contract.paused_at is not None:
                    contract.paused += datetime.fromisoformat(data["at"]) - contract.paused_at
                    contract.paused_at = None
                contract.status = kind.removeprefix("Contract").lower()
                if data["due_at"]:
                    contract.ends_at = datetime.fromisoformat(data["at"])
                    self._expect_period(id, data["due_at"])
                else:
                    self._over(contract)
            case "ContractDisputed":
                contract.dispute = data["dispute"]
                # Its timers are refused until the dispute is resolved.
                self._dues.settle(f"period of {id}")
                self._dues.settle(f"start of {id}")
            case "EscrowSplit":
                contract.status, contract.dispute = "terminated", ""
                to_customer, to_provider = int(data["to_customer"]), int(data["to_provider"])
                contract.escrow -= to_customer + to_provider
                self.revenue[contract.provider].disputes += to_provider
                self.spent[contract.customer] += to_provider
                self._must(contract.escrow == 0, f"The escrow of {id} was not split whole.")
                self._over(contract)

    def _over(self, contract: Contract) -> None:
        id = contract.id
        self.live.pop(id, None)
        for party in (contract.customer, contract.provider):
            self.of[party].pop(id, None)
        if contract.started_at is not None:
            ended = self.ended[contract.customer]
            ended.append(contract)
            del ended[:-MOST_REMEMBERED]
        self._dues.settle(f"period of {id}")
        self._dues.settle(f"start of {id}")
