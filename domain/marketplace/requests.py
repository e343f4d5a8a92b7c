"""Who needs compute: requests that are matched at once, requests that take bids, and bursts.

**Matching.** What an offering must have: at least the tier's rank, the region, the size of a unit, the free units, a
serving device, a price within the limit, another provider than the customer. Of those the highest score wins, and of
equal scores the lowest id. The score is a weighted sum, in basis points, of price (the cheapest / this), reputation,
and latency (the best tier's p95 / this tier's). What finds no match stays open: unmatched demand, until it expires.

**Bids** are sealed until bidding closes: a provider asks a price for a unit-hour, once, and a tenth of what that
comes to is held in his wallet. `BidPlaced` holds the ask in clear, since the rules need it, and only auditors read
history; so it is the duty of every read model to show nothing of an ask, nor of its deposit (ten times which is the
ask), to anybody but its bidder until `BiddingClosed`. A commitment that is revealed later would hide the asks from the
auditors too, but it loses the bid of everybody who is away when the reveal is due.

When bidding closes, the lowest ask within the customer's limit wins (of equal ones the lowest offering id), if its
offering can still deliver; its units are kept for the customer, who accepts in time or lets it pass. The others'
deposits go back at once, the winner's when its contract opens, or when the customer let it pass. With first price the
winner gets its ask; with second price (W. Vickrey, 1961) the second lowest ask that could have won, or the limit
itself where there is none (its own ask, if the customer set no limit).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
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
    Ref,
    Rejected,
    Stream,
    ceil_div,
    floor_div,
)
from domain.devices import score
from domain.ledger import AmountMustBePositive, let_go, may_spend, set_aside, wallet_of
from domain.marketplace.contracts import SettlementIsUnknown, contracts, open_contract_for
from domain.marketplace.offerings import (
    PROMISED,
    TIERS,
    CapacityIsTaken,
    Listing,
    PriceIsTooHigh,
    change_demand,
    cost,
    for_sale,
    give_back,
    here,
    lane_factors,
    lane_id,
    lanes,
    offering_of,
    offerings,
    reserve,
    tier_of,
    unit_price,
)
from domain.marketplace.offerings import P as OFFERINGS


@dataclass(frozen=True, slots=True)
class Parameters:
    """The economic constants of requests, bids and bursts, in one place."""

    price_weight: int = 5_000
    """Basis points of a match's score, as the other two are."""
    reputation_weight: int = 3_000
    latency_weight: int = 2_000
    deposit: int = 1_000
    """Basis points of what a bid comes to; rounded up."""
    accept_within: timedelta = timedelta(hours=24)
    """How long a won request waits for its customer."""
    longest_open: timedelta = timedelta(days=30)
    most_units: int = 1_000
    most_minutes: int = 525_600
    most_bids: int = 100
    most_requirements: int = 5
    most_contracts_a_burst: int = 50
    most_burst_minutes: int = 10_080


P = Parameters()

MODES = ("match", "bids", "vickrey")
SETTLEMENTS = ("escrow", "netted")
FASTEST_MS = min(tier.p95_ms for tier in TIERS.values())

# Events: stored for ever. Add fields with defaults; never rename, never remove.


@dataclass(frozen=True, slots=True)
class ServiceRequested:
    customer: str
    service_type: str
    region: str
    tier: str
    """The least."""
    cpu_millicores: int
    """Of one unit, as are memory and gpu."""
    memory_mb: int
    gpu: int
    units: int
    minutes: int
    price_cap: Amount | None
    """For one unit and hour."""
    budget: Amount | None
    """For all units and minutes."""
    any_price: bool
    mode: str
    settlement: str
    expires_at: datetime
    """For requests that take bids: when bidding closes."""
    at: datetime


@dataclass(frozen=True, slots=True)
class RequestMatched:
    offering: str
    provider: str
    contract: str
    price: Amount
    """For one unit and hour."""
    score: int
    """Of the match, in basis points."""
    candidates: int
    """How many offerings would have done."""
    at: datetime


@dataclass(frozen=True, slots=True)
class RequestWithdrawn:
    at: datetime


@dataclass(frozen=True, slots=True)
class RequestExpired:
    at: datetime


@dataclass(frozen=True, slots=True)
class BidPlaced:
    """Sealed until BiddingClosed: nobody but the bidder is shown ask and deposit before."""

    provider: str
    offering: str
    ask: Amount
    """For one unit and hour."""
    deposit: Amount
    at: datetime


@dataclass(frozen=True, slots=True)
class BidWithdrawn:
    provider: str
    deposit: Amount
    at: datetime


@dataclass(frozen=True, slots=True)
class OpenedBid:
    provider: str
    offering: str
    ask: Amount


@dataclass(frozen=True, slots=True)
class BiddingClosed:
    """All bids are open now. Empty names and no price where nobody won."""

    provider: str
    offering: str
    ask: Quantity
    price: Quantity
    """What the winner gets for one unit and hour."""
    accept_by: datetime | None
    bids: tuple[OpenedBid, ...]
    """From the lowest ask."""
    at: datetime


@dataclass(frozen=True, slots=True)
class BidAccepted:
    provider: str
    offering: str
    contract: str
    price: Amount
    at: datetime


@dataclass(frozen=True, slots=True)
class BurstPart:
    contract: str
    offering: str
    provider: str
    units: int
    price: Amount
    """For one unit and hour."""


@dataclass(frozen=True, slots=True)
class BurstAllocated:
    customer: str
    budget: Amount
    minutes: int
    settlement: str
    cost: Amount
    """Of all parts, when all units are used all the time."""
    parts: tuple[BurstPart, ...]
    at: datetime


RequestEvent = (
    ServiceRequested
    | RequestMatched
    | RequestWithdrawn
    | RequestExpired
    | BidPlaced
    | BidWithdrawn
    | BiddingClosed
    | BidAccepted
)

# State


@dataclass(frozen=True, slots=True)
class Requirement:
    """What is needed: units of at least this size, in a region, of at least this tier."""

    service_type: Id
    region: Id
    tier: Id
    units: Count
    cpu_millicores: Count = 0
    """Of one unit, as are memory and gpu."""
    memory_mb: Count = 0
    gpu: Count = 0


@dataclass(frozen=True, slots=True)
class Bid:
    offering: str
    ask: int
    deposit: int


@dataclass(frozen=True, slots=True)
class Request:
    customer: str = ""
    status: str = "absent"
    """absent, open, bidding, won (a bid, that waits for its customer), unsold, matched, withdrawn or expired."""
    need: Requirement = Requirement("", "", "", 0)
    minutes: int = 0
    price_cap: int | None = None
    budget: int | None = None
    mode: str = ""
    settlement: str = ""
    expires_at: datetime | None = None
    bids: dict[str, Bid] = field(default_factory=dict)
    """By provider; after closing only the winner's, whose deposit is still held."""
    winner: str = ""
    price: int = 0
    accept_by: datetime | None = None

    @property
    def lane(self) -> str:
        return lane_id(self.need.service_type, self.need.region, self.need.tier)

    @property
    def limit(self) -> int | None:
        """The most that the customer pays for a unit-hour; None for any price. The budget's share is rounded down."""
        limits = [] if self.price_cap is None else [self.price_cap]
        if self.budget is not None:
            limits.append(floor_div(self.budget * 60, self.need.units * self.minutes))
        return min(*limits, OFFERINGS.most_price) if limits else None


@dataclass(frozen=True, slots=True)
class Burst:
    allocated: bool = False


# evolve


def evolve_request(request: Request, event: RequestEvent) -> Request:
    match event:
        case BidPlaced():
            bid = Bid(event.offering, event.ask, event.deposit)
            return replace(request, bids={**request.bids, event.provider: bid})
        case BidWithdrawn():
            left = {provider: bid for provider, bid in request.bids.items() if provider != event.provider}
            return replace(request, bids=left)
        case BiddingClosed():
            return replace(
                request,
                status="won" if event.provider else "unsold",
                bids={event.provider: request.bids[event.provider]} if event.provider else {},
                winner=event.provider,
                price=event.price,
                accept_by=event.accept_by,
            )
        case RequestMatched() | BidAccepted():
            return replace(request, status="matched", bids={})
        case RequestWithdrawn():
            return replace(request, status="withdrawn", bids={})
        case RequestExpired():
            return replace(request, status="expired", bids={})
        case ServiceRequested():
            return Request(
                event.customer,
                "open" if event.mode == "match" else "bidding",
                Requirement(
                    event.service_type,
                    event.region,
                    event.tier,
                    event.units,
                    event.cpu_millicores,
                    event.memory_mb,
                    event.gpu,
                ),
                event.minutes,
                event.price_cap,
                event.budget,
                event.mode,
                event.settlement,
                event.expires_at,
            )


def evolve_burst(burst: Burst, event: BurstAllocated) -> Burst:
    return Burst(allocated=True)


requests = Stream("request", Request(), evolve_request, RequestEvent)
bursts = Stream("burst", Burst(), evolve_burst, BurstAllocated)

# Commands


@dataclass(frozen=True, slots=True)
class RequestService:
    """Ask for units of at least some size and tier, for some minutes: matched at once, or taking bids until it expires.

    Say the most that you pay: `price_cap` for one unit and hour, or `budget` for all of it, or both; or say
    `any_price`. A match opens the contract of the same id; where nothing fits, the request stays open until it expires.
    """

    request: Id
    service_type: Id
    region: Id
    tier: Id
    units: Count
    minutes: Count
    expires_at: datetime
    cpu_millicores: Count = 0
    memory_mb: Count = 0
    gpu: Count = 0
    price_cap: Amount | None = None
    budget: Amount | None = None
    any_price: bool = False
    mode: Id = "match"
    """match, bids (the winner gets its ask) or vickrey (the winner gets the second price)."""
    settlement: Id = "escrow"


@dataclass(frozen=True, slots=True)
class MatchRequest:
    """Try once more to match your open request. `contract` names the contract; empty for the request's id."""

    request: Id
    contract: Id = ""


@dataclass(frozen=True, slots=True)
class WithdrawRequest:
    """Take your request back, or decline the bid that won it; not while bids are sealed."""

    request: Id


@dataclass(frozen=True, slots=True)
class ExpireRequest:
    """End a request whose time, or whose winner's time, is over (issued by a timer)."""

    request: Id


@dataclass(frozen=True, slots=True)
class PlaceBid:
    """Ask a price, for one unit and hour, for serving a request with your offering. A tenth of all of it is held."""

    request: Id
    offering: Id
    ask: Amount


@dataclass(frozen=True, slots=True)
class WithdrawBid:
    """Take your bid back, before bidding closes."""

    request: Id


@dataclass(frozen=True, slots=True)
class CloseBidding:
    """Open the bids of a request and determine the winner (issued by a timer)."""

    request: Id


@dataclass(frozen=True, slots=True)
class AcceptBid:
    """Open the contract with your request's winner. `contract` names it; empty for the request's id."""

    request: Id
    contract: Id = ""


@dataclass(frozen=True, slots=True)
class AllocateBurst:
    """Book all that you need at once, from as many offerings as it takes, or nothing.

    The cheapest offerings are taken first. Each gets a contract, `<burst>.1` and so on; all of them together cost at
    most the budget.
    """

    burst: Id
    requirements: tuple[Requirement, ...]
    budget: Amount
    minutes: Count
    settlement: Id = "escrow"


# Rules


class RequestNotFound(NotFound):
    """There is no such request, or it is not yours."""


class BidNotFound(NotFound):
    """You have no bid on this request."""


class RequestExists(Rejected):
    """A request with this id was made before."""


class RequestModeIsUnknown(Rejected):
    """A request's mode is match, bids or vickrey."""


class RequestIsOutOfRange(Rejected):
    """A request is for at least one unit and one minute, and for a bounded number of them."""


class PriceLimitIsMissing(Rejected):
    """A request names a price cap or a budget, or says that any price will do."""


class PriceLimitIsContradictory(Rejected):
    """A request that names a price cap or a budget cannot say that any price will do."""


class ExpiryIsOutOfRange(Rejected):
    """A request expires after it is made, and within 30 days."""


class RequestIsClosed(Rejected):
    """The request was matched, withdrawn or has expired, or nobody won it."""


class RequestHasExpired(Rejected):
    """The request's time is over."""


class RequestHasNotExpired(Rejected):
    """The request's time is not over."""


class RequestTakesNoBids(Rejected):
    """The request is matched, not auctioned."""


class RequestTakesBids(Rejected):
    """The request is auctioned, not matched."""


class RequestHasSealedBids(Rejected):
    """A request that has bids stays until bidding closes; then you may decline its winner."""


class NothingFits(Rejected):
    """No offering fits the request now."""


class BidOnOwnRequest(Rejected):
    """Nobody bids on his own request."""


class BidExists(Rejected):
    """A provider has one bid on a request."""


class TooManyBids(Rejected):
    """A request takes a bounded number of bids."""


class OfferingDoesNotFit(Rejected):
    """The offering is of another service or region, a lower tier or a smaller size than the request needs."""


class BiddingIsClosed(Rejected):
    """Bidding on this request is over."""


class BiddingIsOpen(Rejected):
    """Bidding on this request is not closed yet."""


class NobodyWon(Rejected):
    """No bid was within the customer's limit and able to deliver."""


class AcceptanceIsTooLate(Rejected):
    """A winner waits for a bounded time only."""


class BurstExists(Rejected):
    """This burst was allocated before."""


class BurstIsOutOfRange(Rejected):
    """A burst has some requirements, each of at least one unit, and lasts some minutes; all of them bounded."""


class BurstFindsNoCapacity(Rejected):
    """The offerings together have less free than the burst needs; nothing was booked."""


class BurstIsTooScattered(Rejected):
    """The burst would need more contracts than one may have; nothing was booked."""


class BurstExceedsBudget(Rejected):
    """All the burst needs costs more than its budget; nothing was booked."""


# Decisions: matching


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offering that meets a need."""

    offering: str
    listing: Listing
    tier: str
    price: int
    """For one unit and hour."""
    reputation: int


class Market:
    """What one decision sees of the market; it remembers what it looked up, since lanes are long."""

    def __init__(self, read: Read, at: datetime, customer: str, minutes: int) -> None:
        self.read = read
        self.at = at
        self.customer = customer
        self.minutes = minutes
        self._here: dict[tuple[str, str], bool] = {}
        self._scores: dict[tuple[str, str], int] = {}
        self._rates: dict[tuple[str, str, str, int], tuple[int, int, int]] = {}

    def suitable(self, need: Requirement, least_free: int) -> Iterator[tuple[str, str, Listing]]:
        """Tier, id and listing of every offering that is big and good enough and has so many units free."""
        least = tier_of(need.tier).rank
        for name, tier in TIERS.items():
            if tier.rank < least:
                continue
            lane = self.read(lanes, lane_id(need.service_type, need.region, name))
            for id, listing in lane.listings.items():
                if (
                    listing.free >= least_free
                    and listing.cpu_millicores >= need.cpu_millicores
                    and listing.memory_mb >= need.memory_mb
                    and listing.gpu >= need.gpu
                    and listing.provider != self.customer
                    and self._is_here(listing.device, need.region)
                ):
                    yield name, id, listing

    def priced(self, need: Requirement, tier: str, id: str, listing: Listing, units: int) -> Candidate:
        """The offering at its price for so many units."""
        factors, floor, ceiling = self._rate(need.service_type, need.region, tier, units)
        reputation = self._score(listing.device, need.service_type)
        price, _ = unit_price(listing.base_price, factors, reputation, floor, ceiling)
        return Candidate(id, listing, tier, price, reputation)

    def candidates(self, need: Requirement, limit: int | None) -> list[Candidate]:
        """All offerings that pass the hard filters."""
        found = (
            self.priced(need, tier, id, listing, need.units)
            for tier, id, listing in self.suitable(need, need.units)
        )
        return [each for each in found if limit is None or each.price <= limit]

    def _rate(self, service_type: str, region: str, tier: str, units: int) -> tuple[int, int, int]:
        """What all offerings of a lane share: the product of the price factors, floor and ceiling."""
        known = self._rates.get((service_type, region, tier, units))
        if known is None:
            lane = self.read(lanes, lane_id(service_type, region, tier))
            known = lane_factors(lane, tier, units, self.minutes, self.at), lane.floor, lane.ceiling
            self._rates[service_type, region, tier, units] = known
        return known

    def _is_here(self, device: str, region: str) -> bool:
        if (device, region) not in self._here:
            try:
                here(self.read, device, region)
                self._here[device, region] = True
            except Rejected:
                self._here[device, region] = False
        return self._here[device, region]

    def _score(self, device: str, service: str) -> int:
        if (device, service) not in self._scores:
            self._scores[device, service] = score(self.read, device, service, self.at)
        return self._scores[device, service]


def match_score(candidate: Candidate, cheapest: int) -> int:
    """Price, reputation and latency, each in basis points (price and latency rounded down), times their weights."""
    return (
        P.price_weight * floor_div(BASIS_POINTS * cheapest, candidate.price)
        + P.reputation_weight * candidate.reputation
        + P.latency_weight * floor_div(BASIS_POINTS * FASTEST_MS, TIERS[candidate.tier].p95_ms)
    )


def best(found: Iterable[Candidate]) -> tuple[Candidate, int] | None:
    """The candidate of the highest score, of equal ones the one of the lowest id; and that score."""
    everyone = list(found)
    if not everyone:
        return None
    cheapest = min(each.price for each in everyone)
    scored = [(-match_score(each, cheapest), each.offering, each) for each in everyone]
    lowest, _, chosen = min(scored, key=lambda each: each[:2])
    return chosen, -lowest


def request_service(command: RequestService, issued: Issued, read: Read) -> Decision:
    if read(requests, command.request).customer:
        raise RequestExists(request=command.request)
    _check_request(command, issued)
    yield (
        requests(command.request),
        ServiceRequested(
            issued.by,
            command.service_type,
            command.region,
            command.tier,
            command.cpu_millicores,
            command.memory_mb,
            command.gpu,
            command.units,
            command.minutes,
            command.price_cap,
            command.budget,
            command.any_price,
            command.mode,
            command.settlement,
            command.expires_at,
            issued.at,
        ),
    )
    request = read(requests, command.request)
    matched = command.mode == "match" and (yield from _match(read, issued, command.request, command.request))
    if not matched:
        yield from change_demand(read, issued, request.lane, command.request, command.units)


def _check_request(command: RequestService, issued: Issued) -> None:
    tier_of(command.tier)
    if command.mode not in MODES:
        raise RequestModeIsUnknown(mode=command.mode, known=list(MODES))
    if command.settlement not in SETTLEMENTS:
        raise SettlementIsUnknown(settlement=command.settlement)
    if not (1 <= command.units <= P.most_units and 1 <= command.minutes <= P.most_minutes):
        raise RequestIsOutOfRange(most_units=P.most_units, most_minutes=P.most_minutes)
    limited = command.price_cap is not None or command.budget is not None
    if not limited and not command.any_price:
        raise PriceLimitIsMissing(request=command.request)
    if limited and command.any_price:
        raise PriceLimitIsContradictory(request=command.request)
    if not issued.at < command.expires_at <= issued.at + P.longest_open:
        raise ExpiryIsOutOfRange(now=issued.at, latest=issued.at + P.longest_open)


def _match(
    read: Read, issued: Issued, request_id: str, contract: str
) -> Generator[tuple[Ref, object], None, bool]:
    """Open the contract with the best offering, if there is one; returns whether there was."""
    request = read(requests, request_id)
    market = Market(read, issued.at, request.customer, request.minutes)
    found = market.candidates(request.need, request.limit)
    match = best(found)
    if match is None:
        return False
    chosen, points = match
    yield (
        requests(request_id),
        RequestMatched(
            chosen.offering,
            chosen.listing.provider,
            contract,
            chosen.price,
            floor_div(points, BASIS_POINTS),
            len(found),
            issued.at,
        ),
    )
    yield from _open(read, issued, request_id, contract, chosen.offering, chosen.price)
    return True


def _open(read: Read, issued: Issued, request_id: str, contract: str, offering: str, price: int) -> Decision:
    request = read(requests, request_id)
    yield from open_contract_for(
        read,
        issued,
        contract,
        request.customer,
        offering,
        request.need.units,
        price,
        request.minutes,
        request.settlement,
        request=request_id,
    )


def match_request(command: MatchRequest, issued: Issued, read: Read) -> Decision:
    request = _yours(read, issued, command.request)
    if request.mode != "match":
        raise RequestTakesBids(request=command.request)
    if request.status != "open":
        raise RequestIsClosed(request=command.request, status=request.status)
    _in_time(request, command.request, issued)
    matched = yield from _match(read, issued, command.request, command.contract or command.request)
    if not matched:
        raise NothingFits(request=command.request)
    yield from _demand_ends(read, issued, command.request)


# Decisions: how requests end


def known(read: Read, request_id: str) -> Request:
    found = read(requests, request_id)
    if not found.customer:
        raise RequestNotFound(request=request_id)
    return found


def _yours(read: Read, issued: Issued, request_id: str) -> Request:
    found = known(read, request_id)
    if found.customer != issued.by:
        raise RequestNotFound(request=request_id)
    return found


def _in_time(request: Request, id: str, issued: Issued) -> None:
    if request.expires_at is not None and issued.at >= request.expires_at:
        raise RequestHasExpired(request=id, expires_at=request.expires_at)


def _demand_ends(read: Read, issued: Issued, request_id: str) -> Decision:
    request = read(requests, request_id)
    yield from change_demand(read, issued, request.lane, request_id, -request.need.units)


def _deposits_return(request_id: str, bids: dict[str, Bid]) -> Decision:
    for provider, bid in bids.items():
        yield from let_go(wallet_of(provider), hold_name(request_id, provider), bid.deposit)


def hold_name(request_id: str, provider: str) -> str:
    """Under which a bid's deposit is held in its provider's wallet."""
    return f"bid:{request_id}:{provider}"


def promise(request_id: str) -> str:
    """The reference of the units that are kept for a won request."""
    return f"{PROMISED}{request_id}"


def withdraw_request(command: WithdrawRequest, issued: Issued, read: Read) -> Decision:
    request = _yours(read, issued, command.request)
    if request.status not in ("open", "bidding", "won"):
        raise RequestIsClosed(request=command.request, status=request.status)
    if request.status == "open":
        _in_time(request, command.request, issued)
    if request.status == "bidding" and request.bids:
        # Giving deposits back would show them to the customer, and a dry run would show them for nothing.
        raise RequestHasSealedBids(request=command.request, closes_at=request.expires_at)
    yield requests(command.request), RequestWithdrawn(issued.at)
    yield from _let_pass(read, issued, command.request, request)


def expire_request(command: ExpireRequest, issued: Issued, read: Read) -> Decision:
    request = known(read, command.request)
    if request.status == "bidding":
        raise BiddingIsOpen(request=command.request, closes_at=request.expires_at)
    if request.status not in ("open", "won"):
        return
    until = request.expires_at if request.status == "open" else request.accept_by
    if until is not None and issued.at < until:
        raise RequestHasNotExpired(request=command.request, until=until)
    yield requests(command.request), RequestExpired(issued.at)
    yield from _let_pass(read, issued, command.request, request)


def _let_pass(read: Read, issued: Issued, id: str, request: Request) -> Decision:
    """What an ended request still keeps of others is given back: deposits, and a winner's units."""
    yield from _deposits_return(id, request.bids)
    if request.status == "won":
        offering = request.bids[request.winner].offering
        yield from give_back(read, issued, offering, request.need.units, promise(id))
    else:
        yield from _demand_ends(read, issued, id)


# Decisions: bids


def place_bid(command: PlaceBid, issued: Issued, read: Read) -> Decision:
    request = _auctioned(read, command.request)
    if request.customer == issued.by:
        raise BidOnOwnRequest(request=command.request)
    _bidding(request, command.request, issued)
    if issued.by in request.bids:
        raise BidExists(request=command.request)
    if len(request.bids) >= P.most_bids:
        raise TooManyBids(request=command.request, limit=P.most_bids)
    if command.ask < 1:
        raise AmountMustBePositive(amount=command.ask)
    if command.ask > OFFERINGS.most_price:
        raise PriceIsTooHigh(price=command.ask, limit=OFFERINGS.most_price)
    offering_of(read, issued, command.offering)
    _fits(read, command.offering, request.need)
    whole = cost(command.ask, request.need.units, request.minutes)
    deposit = ceil_div(whole * P.deposit, BASIS_POINTS)
    wallet = wallet_of(issued.by)
    may_spend(read, issued, wallet)
    yield requests(command.request), BidPlaced(issued.by, command.offering, command.ask, deposit, issued.at)
    yield from set_aside(read, wallet, hold_name(command.request, issued.by), deposit)


def _auctioned(read: Read, request_id: str) -> Request:
    found = known(read, request_id)
    if found.mode == "match":
        raise RequestTakesNoBids(request=request_id)
    return found


def _bidding(request: Request, id: str, issued: Issued) -> None:
    """Bids come and go until the time to close, whether or not the timer has run."""
    if request.status != "bidding" or (request.expires_at is not None and issued.at >= request.expires_at):
        raise BiddingIsClosed(request=id, closed_at=request.expires_at)


def _fits(read: Read, offering_id: str, need: Requirement) -> None:
    """The offering can deliver what is needed, now."""
    offering = for_sale(read, offering_id)
    for name in ("service_type", "region"):
        if getattr(offering, name) != getattr(need, name):
            raise OfferingDoesNotFit(offering=offering_id, misses=name)
    if tier_of(offering.tier).rank < tier_of(need.tier).rank:
        raise OfferingDoesNotFit(offering=offering_id, misses="tier")
    for name in ("cpu_millicores", "memory_mb", "gpu"):
        if getattr(offering, name) < getattr(need, name):
            raise OfferingDoesNotFit(offering=offering_id, misses=name)
    if offering.free < need.units:
        raise CapacityIsTaken(offering=offering_id, free=offering.free, needed=need.units)


def withdraw_bid(command: WithdrawBid, issued: Issued, read: Read) -> Decision:
    request = _auctioned(read, command.request)
    bid = request.bids.get(issued.by)
    if bid is None:
        raise BidNotFound(request=command.request)
    _bidding(request, command.request, issued)
    yield requests(command.request), BidWithdrawn(issued.by, bid.deposit, issued.at)
    yield from _deposits_return(command.request, {issued.by: bid})


def close_bidding(command: CloseBidding, issued: Issued, read: Read) -> Decision:
    request = _auctioned(read, command.request)
    if request.status != "bidding":
        return
    if request.expires_at is not None and issued.at < request.expires_at:
        raise BiddingIsOpen(request=command.request, closes_at=request.expires_at)
    bids = sorted(request.bids.items(), key=lambda placed: (placed[1].ask, placed[1].offering))
    limit = request.limit
    able = [
        (provider, bid)
        for provider, bid in bids
        if (limit is None or bid.ask <= limit) and _can_deliver(read, bid.offering, request.need)
    ]
    opened = tuple(OpenedBid(provider, bid.offering, bid.ask) for provider, bid in bids)
    if able:
        winner, won = able[0]
        price = winners_price(request.mode, [bid.ask for _, bid in able], limit)
        accept_by = issued.at + P.accept_within
        closed = BiddingClosed(winner, won.offering, won.ask, price, accept_by, opened, issued.at)
    else:
        winner = ""
        closed = BiddingClosed("", "", 0, 0, None, opened, issued.at)
    yield requests(command.request), closed
    yield from _deposits_return(
        command.request, {provider: bid for provider, bid in request.bids.items() if provider != winner}
    )
    yield from _demand_ends(read, issued, command.request)
    if winner:
        yield from reserve(read, issued, closed.offering, request.need.units, promise(command.request))


def winners_price(mode: str, asks: list[int], limit: int | None) -> int:
    """What the lowest of the asks within the limit gets; they are sorted."""
    if mode != "vickrey":
        return asks[0]
    if len(asks) > 1:
        return asks[1]
    return asks[0] if limit is None else limit


def _can_deliver(read: Read, offering_id: str, need: Requirement) -> bool:
    try:
        _fits(read, offering_id, need)
    except Rejected:
        return False
    return True


def accept_bid(command: AcceptBid, issued: Issued, read: Read) -> Decision:
    request = _yours(read, issued, command.request)
    if request.mode == "match":
        raise RequestTakesNoBids(request=command.request)
    if request.status == "bidding":
        raise BiddingIsOpen(request=command.request, closes_at=request.expires_at)
    if request.status == "unsold":
        raise NobodyWon(request=command.request)
    if request.status != "won":
        raise RequestIsClosed(request=command.request, status=request.status)
    if request.accept_by is not None and issued.at >= request.accept_by:
        raise AcceptanceIsTooLate(request=command.request, until=request.accept_by)
    contract = command.contract or command.request
    bid = request.bids[request.winner]
    yield (
        requests(command.request),
        BidAccepted(request.winner, bid.offering, contract, request.price, issued.at),
    )
    yield from _deposits_return(command.request, request.bids)
    yield from give_back(read, issued, bid.offering, request.need.units, promise(command.request))
    yield from _open(read, issued, command.request, contract, bid.offering, request.price)


# Decisions: bursts


def allocate_burst(command: AllocateBurst, issued: Issued, read: Read) -> Decision:
    if read(bursts, command.burst).allocated:
        raise BurstExists(burst=command.burst)
    in_range = 1 <= len(command.requirements) <= P.most_requirements
    in_range = in_range and 1 <= command.minutes <= P.most_burst_minutes
    if not in_range or not all(1 <= need.units <= P.most_units for need in command.requirements):
        raise BurstIsOutOfRange(
            most_requirements=P.most_requirements, most_minutes=P.most_burst_minutes, most_units=P.most_units
        )
    parts, missing = _plan(command, issued, read)
    if missing:
        raise BurstFindsNoCapacity(missing_units=missing)
    if len(parts) > P.most_contracts_a_burst:
        raise BurstIsTooScattered(contracts=len(parts), limit=P.most_contracts_a_burst)
    total = sum(cost(part.price, part.units, command.minutes) for part in parts)
    if total > command.budget:
        raise BurstExceedsBudget(cost=total, budget=command.budget)
    yield (
        bursts(command.burst),
        BurstAllocated(
            issued.by, command.budget, command.minutes, command.settlement, total, tuple(parts), issued.at
        ),
    )
    for part in parts:
        yield from open_contract_for(
            read,
            issued,
            part.contract,
            issued.by,
            part.offering,
            part.units,
            part.price,
            command.minutes,
            command.settlement,
        )


def _plan(command: AllocateBurst, issued: Issued, read: Read) -> tuple[list[BurstPart], int]:
    """Which offering gives how many units, and how many units nothing is found for.

    Each requirement takes the cheapest offerings first, by what they cost for as many units as they could give; of
    equally cheap ones that of the lowest id. An offering that gives fewer than that is priced again for those.
    """
    parts: list[BurstPart] = []
    taken: dict[str, int] = {}
    missing = 0
    market = Market(read, issued.at, issued.by, command.minutes)
    for need in command.requirements:
        open_units = need.units
        able = []
        for tier, id, listing in market.suitable(need, 1):
            units = min(listing.free - taken.get(id, 0), need.units)
            if units > 0:
                able.append(market.priced(need, tier, id, listing, units))
        for each in sorted(able, key=lambda candidate: (candidate.price, candidate.offering)):
            units = min(each.listing.free - taken.get(each.offering, 0), open_units)
            if not units:
                break
            final = market.priced(need, each.tier, each.offering, each.listing, units)
            contract = f"{command.burst}.{len(parts) + 1}"
            parts.append(BurstPart(contract, each.offering, each.listing.provider, units, final.price))
            taken[each.offering] = taken.get(each.offering, 0) + units
            open_units -= units
            # Asked for here, what opening the contracts needs is loaded in one go, not contract by contract.
            read(offerings, each.offering)
            read(contracts, contract)
        missing += open_units
    return parts, missing
