"""Requests, bids and bursts: commands, rules and traps, as sentences.

Pia, Quin and Rob provide: devices and offerings of theirs stand in `eu`. Ana and Ben need compute.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from domain._kernel import FOG, Issued, Rejected, Stream
from domain.devices import (
    Capabilities,
    DeviceIsSuspended,
    RecordReputation,
    RegisterDevice,
    RelocateDevice,
    SuspendDevice,
)
from domain.ledger import (
    AmountMustBePositive,
    FreezeWallet,
    FundsHeld,
    FundsUnheld,
    InsufficientFunds,
    WalletIsFrozen,
    WalletNotFound,
)
from domain.marketplace.contracts import (
    Contract,
    ContractExists,
    ContractOpened,
    OpenContract,
    SettlementIsUnknown,
    contracts,
)
from domain.marketplace.offerings import (
    CapacityIsTaken,
    Lane,
    LaneDemandChanged,
    ListingChanged,
    Offering,
    OfferingIsPaused,
    OfferingIsPromised,
    OfferingIsWithdrawn,
    OfferingNotFound,
    PauseOffering,
    PriceIsTooHigh,
    RegisterOffering,
    TierIsUnknown,
    UnitsReserved,
    UnitsReturned,
    WithdrawOffering,
    lanes,
    offerings,
)
from domain.marketplace.offerings import (
    P as OFFERINGS,
)
from domain.marketplace.requests import (
    AcceptanceIsTooLate,
    AcceptBid,
    AllocateBurst,
    Bid,
    BidAccepted,
    BiddingClosed,
    BiddingIsClosed,
    BiddingIsOpen,
    BidExists,
    BidNotFound,
    BidOnOwnRequest,
    BidPlaced,
    BidWithdrawn,
    BurstAllocated,
    BurstExceedsBudget,
    BurstExists,
    BurstFindsNoCapacity,
    BurstIsOutOfRange,
    BurstIsTooScattered,
    BurstPart,
    CloseBidding,
    ExpireRequest,
    ExpiryIsOutOfRange,
    MatchRequest,
    NobodyWon,
    NothingFits,
    OfferingDoesNotFit,
    OpenedBid,
    P,
    PlaceBid,
    PriceLimitIsContradictory,
    PriceLimitIsMissing,
    Request,
    RequestExists,
    RequestExpired,
    RequestHasExpired,
    RequestHasNotExpired,
    RequestHasSealedBids,
    RequestIsClosed,
    RequestIsOutOfRange,
    RequestMatched,
    RequestModeIsUnknown,
    RequestNotFound,
    RequestService,
    RequestTakesBids,
    RequestTakesNoBids,
    RequestWithdrawn,
    Requirement,
    ServiceRequested,
    TooManyBids,
    WithdrawBid,
    WithdrawRequest,
    requests,
)
from tests.examples import DAY, FUNDS, HOUR, NOW, Story, funded, story, zone_created
from tests.scenario import decision_of

MICROSECOND, MINUTE = timedelta(microseconds=1), timedelta(minutes=1)
PROVIDERS = ("pia", "quin", "rob")
LARGE = Capabilities(64_000, 256_000, 0, 0, 8)

devices: Any = [(RegisterDevice(f"d-{who}", "server", LARGE, "eu"), who) for who in PROVIDERS]
village: Any = (zone_created, funded("ana", "ben", *PROVIDERS), devices)


def offers(who: str, offering: str, base_price: int = 1_000, tier: str = "bronze", **fields: Any) -> Any:
    """Four units of a core and 2 GB each."""
    command = RegisterOffering(offering, f"d-{who}", "compute", tier, 1_000, 2_000, 0, 4, base_price)
    return (replace(command, **fields), who)


def request(id: str = "r1", **fields: Any) -> RequestService:
    """Two bronze units for an hour, at whatever price, within a day."""
    command = RequestService(id, "compute", "eu", "bronze", 2, 60, NOW + DAY, any_price=True)
    limited = "price_cap" in fields or "budget" in fields
    return replace(command, **{"any_price": not limited, **fields})


def auction(id: str = "r1", **fields: Any) -> RequestService:
    """The same for bids within an hour: first price, at most 100 a unit-hour."""
    return request(id, **{"mode": "bids", "expires_at": NOW + HOUR, "price_cap": 100, **fields})


sellers: Any = (village, offers("pia", "o-pia"), offers("quin", "o-quin"), offers("rob", "o-rob"))
asked: Any = (sellers, (auction(), "ana"))


def asked_of(told: Story, id: str = "r1") -> Request:
    found: Request = told.book.read(requests, id)
    return found


def lane(told: Story, tier: str = "bronze") -> Lane:
    found: Lane = told.book.read(lanes, f"compute:eu:{tier}")
    return found


def offering(told: Story, id: str) -> Offering:
    found: Offering = told.book.read(offerings, id)
    return found


def contract(told: Story, id: str = "r1") -> Contract:
    found: Contract = told.book.read(contracts, id)
    return found


def held(told: Story, who: str) -> int:
    return told.account(f"wallet:{who}").held.get(FOG, 0)


def match_of(told: Story) -> str:
    """The offering that the last command matched; empty if none."""
    assert isinstance(told.outcome, list), told.outcome
    return next((event.offering for event in told.outcome if isinstance(event, RequestMatched)), "")


def closed(told: Story) -> BiddingClosed:
    assert isinstance(told.outcome, list), told.outcome
    return next(event for event in told.outcome if isinstance(event, BiddingClosed))


def bid(who: str, ask: int, id: str = "r1") -> Any:
    return (PlaceBid(id, f"o-{who}", ask), who)


# Asking


def test_a_request_that_finds_a_match_opens_its_contract_at_once() -> None:
    told = story(village, offers("pia", "o-pia"))
    told.when(request(), by="ana")
    assert told.outcome[:3] == [
        ServiceRequested(
            *("ana", "compute", "eu", "bronze", 0, 0, 0, 2, 60, None, None, True, "match", "escrow"),
            NOW + DAY,
            NOW,
        ),
        RequestMatched("o-pia", "pia", "r1", 1_000, 6_820, 1, NOW),
        UnitsReserved("r1", 2, 2, NOW),
    ]
    assert asked_of(told).status == "matched"
    assert (contract(told).customer, contract(told).offering) == ("ana", "o-pia")
    assert (contract(told).terms.units, contract(told).terms.price) == (2, 1_000)
    assert told.posted("escrow:r1") == 2_000
    assert lane(told).demand == 0


def test_a_request_that_nothing_fits_stays_open_as_unmatched_demand() -> None:
    told = story(village)
    told.when(request(), by="ana").then(ServiceRequested, LaneDemandChanged)
    assert (asked_of(told).status, lane(told).demand) == ("open", 2)


@pytest.mark.parametrize(
    ("command", "rule"),
    [
        (request(any_price=False), PriceLimitIsMissing),
        (auction(price_cap=None, any_price=False), PriceLimitIsMissing),
        (request(price_cap=5, any_price=True), PriceLimitIsContradictory),
        (request(budget=5, any_price=True), PriceLimitIsContradictory),
        (request(tier="platinum"), TierIsUnknown),
        (request(mode="auction"), RequestModeIsUnknown),
        (request(settlement="trust"), SettlementIsUnknown),
        (request(units=0), RequestIsOutOfRange),
        (request(units=P.most_units + 1), RequestIsOutOfRange),
        (request(minutes=0), RequestIsOutOfRange),
        (request(minutes=P.most_minutes + 1), RequestIsOutOfRange),
        (request(expires_at=NOW), ExpiryIsOutOfRange),
        (request(expires_at=NOW + 30 * DAY + MICROSECOND), ExpiryIsOutOfRange),
    ],
)
def test_what_cannot_be_asked_for(command: RequestService, rule: Any) -> None:
    """A cap that was left out meant any price; here the caller says so."""
    story(village).when(command, by="ana").then(rule)


def test_the_first_to_use_a_requests_id_owns_it() -> None:
    story(village, (request(), "ana")).when(request(), by="ben").then(RequestExists)


def test_a_match_that_cannot_be_paid_leaves_nothing_behind() -> None:
    told = story(village, offers("pia", "o-pia", FUNDS))
    told.when(request(), by="ana").then(InsufficientFunds)
    assert asked_of(told).status == "absent"
    told.when(request(), by="eve").then(WalletNotFound)
    told.and_then(FreezeWallet("wallet:ana", "court order")).when(request(), by="ana").then(WalletIsFrozen)


# Matching: what an offering must have


def test_tiers_are_matched_by_rank_never_by_name() -> None:
    """Compared as text, gold is less than silver, and bronze less than gold."""
    told = story(village, offers("pia", "o-gold", tier="gold"), offers("quin", "o-bronze"))
    told.when(request("r1", tier="silver"), by="ana")
    assert match_of(told) == "o-gold"
    told = story(village, offers("pia", "o-silver", tier="silver"))
    told.when(request("r1", tier="gold"), by="ana").then(ServiceRequested, LaneDemandChanged)
    told.when(request("r2", tier="bronze"), by="ana")
    assert match_of(told) == "o-silver"


@pytest.mark.parametrize(
    "fields",
    [
        {"service_type": "storage"},
        {"region": "us"},
        {"tier": "silver"},
        {"units": 5},
        {"cpu_millicores": 1_001},
        {"memory_mb": 2_001},
        {"gpu": 1},
        {"price_cap": 999},
        {"budget": 1_999},
        {"price_cap": 5_000, "budget": 1_999},
        {"price_cap": 999, "budget": 5_000},
    ],
)
def test_what_does_not_pass_a_hard_filter_is_no_match(fields: dict[str, Any]) -> None:
    told = story(village, offers("pia", "o-pia"))
    told.when(request(**fields), by="ana").then(ServiceRequested, LaneDemandChanged)


@pytest.mark.parametrize(
    "fields",
    [
        {"units": 4},
        {"cpu_millicores": 1_000, "memory_mb": 2_000},
        {"price_cap": 1_000},
        {"budget": 2_000},
        {"price_cap": 1_000, "budget": 2_000},
    ],
)
def test_what_just_passes_is_a_match(fields: dict[str, Any]) -> None:
    told = story(village, offers("pia", "o-pia"))
    told.when(request(**fields), by="ana")
    assert match_of(told) == "o-pia"


def test_nobody_is_matched_with_his_own_offering() -> None:
    told = story(village, offers("pia", "o-pia"))
    told.when(request(), by="pia").then(ServiceRequested, LaneDemandChanged)


def test_paused_withdrawn_suspended_and_moved_offerings_are_no_match() -> None:
    def finds_nothing(*history: Any) -> None:
        told = story(village, offers("pia", "o-pia")).later(DAY)
        for command, by in history:
            told.and_then(command, by)
        told.when(request(expires_at=NOW + 2 * DAY), by="ana").then(ServiceRequested, LaneDemandChanged)

    finds_nothing((PauseOffering("o-pia"), "pia"))
    finds_nothing((WithdrawOffering("o-pia"), "pia"))
    finds_nothing((SuspendDevice("d-pia", "fraud"), "operator"))
    finds_nothing((RelocateDevice("d-pia", "us"), "pia"))


def test_of_two_requests_for_the_last_capacity_the_first_gets_it() -> None:
    told = story(village, offers("pia", "o-pia"))
    told.when(request("r1", units=3), by="ana")
    assert match_of(told) == "o-pia"
    told.when(request("r2", units=3), by="ben").then(ServiceRequested, LaneDemandChanged)
    assert offering(told, "o-pia").used == 3


# Matching: the best of them


def test_the_cheapest_wins_where_all_else_is_equal() -> None:
    told = story(village, offers("pia", "a"), offers("quin", "b", 900), offers("rob", "c", 950))
    told.when(request(), by="ana")
    assert match_of(told) == "b"


def test_equal_scores_go_to_the_lowest_id() -> None:
    told = story(village, offers("quin", "b"), offers("rob", "c"), offers("pia", "a"))
    told.when(request(), by="ana")
    assert match_of(told) == "a"


def test_a_good_name_is_worth_more_than_a_little_money() -> None:
    """9,000 of 10,000 costs 1.24 instead of 1.0, and scores 4,032 + 2,700 for it, against 5,000 + 1,500."""
    told = story(village, offers("pia", "a"), offers("quin", "b"))
    for i in range(8):
        told.and_then(RecordReputation("d-quin", "compute", "success", f"e{i}"))
    told.when(request(), by="ana")
    assert match_of(told) == "b"
    told.when(request("r2", price_cap=1_000), by="ana")
    assert match_of(told) == "a"


def test_a_faster_tier_wins_when_it_costs_no_more() -> None:
    told = story(village, offers("pia", "a", 5_000), offers("quin", "b", 1_000, "gold"))
    told.when(request(), by="ana")
    assert match_of(told) == "b"


# Open requests


def test_an_open_request_can_be_matched_later() -> None:
    told = story(village, (request(), "ana"))
    told.when(MatchRequest("r1"), by="ana").then(NothingFits)
    told.and_then(*offers("pia", "o-pia"))
    told.when(MatchRequest("r1"), by="ben").then(RequestNotFound)
    told.when(MatchRequest("r1"), by="operator").then(RequestNotFound)
    told.when(MatchRequest("r1", "k1"), by="ana")
    assert match_of(told) == "o-pia"
    assert (contract(told, "k1").customer, lane(told).demand) == ("ana", 0)
    told.when(MatchRequest("r1"), by="ana").then(RequestIsClosed)


def test_a_squatted_contract_id_does_not_keep_a_request_from_its_match() -> None:
    told = story(village, (request(), "ana"), offers("pia", "o-pia"))
    told.and_then(OpenContract("r1", "o-pia", 1, 60, any_price=True), "ben")
    told.when(MatchRequest("r1"), by="ana").then(ContractExists)
    told.when(MatchRequest("r1", "r1-again"), by="ana")
    assert contract(told, "r1-again").customer == "ana"


def test_an_open_request_is_withdrawn_once() -> None:
    told = story(village, (request(), "ana"))
    told.when(WithdrawRequest("r1"), by="ben").then(RequestNotFound)
    told.when(WithdrawRequest("r1"), by="ana").then(RequestWithdrawn(NOW), LaneDemandChanged)
    assert lane(told).demand == 0
    told.when(WithdrawRequest("r1"), by="ana").then(RequestIsClosed)
    told.when(ExpireRequest("r1")).then()


def test_an_open_request_expires_at_its_time() -> None:
    told = story(village, (request(), "ana")).later(DAY - MICROSECOND)
    told.when(ExpireRequest("r1"), role="worker").then(RequestHasNotExpired)
    told.later(MICROSECOND)
    told.when(WithdrawRequest("r1"), by="ana").then(RequestHasExpired)
    told.when(MatchRequest("r1"), by="ana").then(RequestHasExpired)
    told.when(ExpireRequest("r1"), role="worker").then(RequestExpired(NOW + DAY), LaneDemandChanged)
    assert lane(told).demand == 0
    told.when(ExpireRequest("r1"), role="worker").then()
    told.when(MatchRequest("r1"), by="ana").then(RequestIsClosed)


def test_what_nobody_asked_for_does_not_expire() -> None:
    story(village).when(ExpireRequest("r9")).then(RequestNotFound)


# Bids


def test_a_bid_holds_a_tenth_of_what_it_comes_to() -> None:
    told = story(asked)
    told.when(PlaceBid("r1", "o-pia", 96), by="pia").then(
        BidPlaced("pia", "o-pia", 96, 20, NOW), FundsHeld("bid:r1:pia", FOG, 20)
    )
    assert held(told, "pia") == 20, "a tenth of 2 x 96, rounded up"


def test_a_request_that_takes_bids_is_not_matched() -> None:
    told = story(asked)
    assert (asked_of(told).status, lane(told).demand) == ("bidding", 2)
    told.when(MatchRequest("r1"), by="ana").then(RequestTakesBids)


def test_a_request_that_is_matched_takes_no_bids() -> None:
    told = story(village, (request(), "ana"), offers("pia", "o-pia"))
    told.when(PlaceBid("r1", "o-pia", 10), by="pia").then(RequestTakesNoBids)
    told.when(CloseBidding("r1")).then(RequestTakesNoBids)
    told.when(AcceptBid("r1"), by="ana").then(RequestTakesNoBids)


def test_a_provider_has_one_bid_on_a_request() -> None:
    told = story(asked, bid("pia", 90), offers("pia", "o-pia-2"))
    told.when(PlaceBid("r1", "o-pia", 90), by="pia").then(BidExists)
    told.when(PlaceBid("r1", "o-pia", 80), by="pia").then(BidExists)
    told.when(PlaceBid("r1", "o-pia-2", 80), by="pia").then(BidExists)
    assert held(told, "pia") == 18


def test_nobody_bids_on_his_own_request() -> None:
    told = story(sellers, (auction(), "pia"))
    told.when(PlaceBid("r1", "o-pia", 90), by="pia").then(BidOnOwnRequest)


def test_nobody_bids_with_the_offering_of_another() -> None:
    told = story(asked)
    told.when(PlaceBid("r1", "o-quin", 90), by="pia").then(OfferingNotFound)
    told.when(PlaceBid("r1", "o-none", 90), by="pia").then(OfferingNotFound)
    told.when(PlaceBid("r9", "o-pia", 90), by="pia").then(RequestNotFound)


@pytest.mark.parametrize(
    ("ask", "rule"),
    [(0, AmountMustBePositive), (-5, AmountMustBePositive), (OFFERINGS.most_price + 1, PriceIsTooHigh)],
)
def test_an_ask_is_an_amount_within_reason(ask: int, rule: Any) -> None:
    story(asked).when(PlaceBid("r1", "o-pia", ask), by="pia").then(rule)


def test_a_bid_needs_its_deposit() -> None:
    told = story(asked)
    told.when(PlaceBid("r1", "o-pia", FUNDS * 5 + 1), by="pia").then(InsufficientFunds)
    told.and_then(FreezeWallet("wallet:pia", "court order"))
    told.when(PlaceBid("r1", "o-pia", 90), by="pia").then(WalletIsFrozen)
    assert asked_of(told).bids == {}


@pytest.mark.parametrize(
    ("fields", "misses"),
    [
        ({"service_type": "storage"}, "service_type"),
        ({"region": "us"}, "region"),
        ({"tier": "silver"}, "tier"),
        ({"cpu_millicores": 1_001}, "cpu_millicores"),
        ({"memory_mb": 2_001}, "memory_mb"),
        ({"gpu": 1}, "gpu"),
    ],
)
def test_an_offering_that_does_not_fit_cannot_bid(fields: dict[str, Any], misses: str) -> None:
    told = story(sellers, (auction(**fields), "ana"))
    told.when(PlaceBid("r1", "o-pia", 90), by="pia")
    told.refused_with(OfferingDoesNotFit, misses=misses)


def test_bids_too_are_compared_by_the_rank_of_their_tiers() -> None:
    told = story(village, offers("pia", "o-pia", tier="gold"), offers("quin", "o-quin"))
    told.and_then(auction(tier="silver"), "ana")
    told.when(PlaceBid("r1", "o-pia", 90), by="pia").then(BidPlaced, FundsHeld)
    told.when(PlaceBid("r1", "o-quin", 90), by="quin").then(OfferingDoesNotFit)


def test_an_offering_that_cannot_deliver_cannot_bid() -> None:
    told = story(sellers, (auction(units=5), "ana"), (auction("r2"), "ana"))
    told.when(PlaceBid("r1", "o-pia", 90), by="pia").then(CapacityIsTaken)
    told.and_then(PauseOffering("o-pia"), "pia").and_then(WithdrawOffering("o-quin"), "quin")
    told.and_then(SuspendDevice("d-rob", "fraud"))
    told.when(PlaceBid("r2", "o-pia", 90), by="pia").then(OfferingIsPaused)
    told.when(PlaceBid("r2", "o-quin", 90), by="quin").then(OfferingIsWithdrawn)
    told.when(PlaceBid("r2", "o-rob", 90), by="rob").then(DeviceIsSuspended)


def test_a_request_takes_a_bounded_number_of_bids() -> None:
    many = [(requests("r1"), BidPlaced(f"x{i}", f"o{i}", 1, 1, NOW)) for i in range(P.most_bids)]
    story(asked, many).when(PlaceBid("r1", "o-pia", 90), by="pia").then(TooManyBids)


def test_bids_come_and_go_until_the_time_to_close_whether_or_not_the_timer_ran() -> None:
    told = story(asked, bid("pia", 90)).later(HOUR - MICROSECOND)
    told.when(WithdrawBid("r1"), by="quin").then(BidNotFound)
    told.when(WithdrawBid("r1"), by="pia").then(
        BidWithdrawn("pia", 18, told.book.now), FundsUnheld("bid:r1:pia", FOG, 18)
    )
    told.when(WithdrawBid("r1"), by="pia").then(BidNotFound)
    told.and_then(*bid("pia", 95)).later(MICROSECOND)
    told.when(WithdrawBid("r1"), by="pia").then(BiddingIsClosed)
    told.when(PlaceBid("r1", "o-quin", 50), by="quin").then(BiddingIsClosed)
    told.and_then(CloseBidding("r1"))
    told.when(PlaceBid("r1", "o-quin", 50), by="quin").then(BiddingIsClosed)


# Closing


def test_the_lowest_ask_wins_and_the_losers_deposits_go_back() -> None:
    told = story(asked, bid("pia", 90), bid("quin", 80), bid("rob", 85)).later(HOUR)
    told.when(CloseBidding("r1"), role="worker").then(
        BiddingClosed(
            *("quin", "o-quin", 80, 80, NOW + HOUR + DAY),
            (OpenedBid("quin", "o-quin", 80), OpenedBid("rob", "o-rob", 85), OpenedBid("pia", "o-pia", 90)),
            NOW + HOUR,
        ),
        FundsUnheld("bid:r1:pia", FOG, 18),
        FundsUnheld("bid:r1:rob", FOG, 17),
        LaneDemandChanged,
        UnitsReserved("request:r1", 2, 2, NOW + HOUR),
        ListingChanged,
    )
    assert [held(told, who) for who in PROVIDERS] == [0, 16, 0]
    assert asked_of(told).bids == {"quin": Bid("o-quin", 80, 16)}
    assert lane(told).demand == 0


def test_a_request_has_one_winner() -> None:
    told = story(asked, bid("pia", 90), bid("quin", 80)).later(HOUR).and_then(CloseBidding("r1"))
    told.when(CloseBidding("r1")).then()
    told.later(DAY).when(CloseBidding("r1")).then()
    assert asked_of(told).winner == "quin"


def test_bidding_closes_not_before_its_time() -> None:
    told = story(asked, bid("pia", 90)).later(HOUR - MICROSECOND)
    told.when(CloseBidding("r1"), role="worker").then(BiddingIsOpen)
    told.when(AcceptBid("r1"), by="ana").then(BiddingIsOpen)
    told.when(ExpireRequest("r1"), role="worker").then(BiddingIsOpen)


def test_equal_asks_go_to_the_lowest_offering_whoever_came_first() -> None:
    told = story(asked, bid("rob", 80), bid("quin", 80), bid("pia", 80)).later(HOUR)
    told.when(CloseBidding("r1"))
    assert closed(told).provider == "pia"


def test_an_ask_of_5000_does_not_win_against_a_limit_of_10() -> None:
    """A reverse auction once took the lowest bid, however far above the reserve."""
    told = story(sellers, (auction(price_cap=10), "ana"), bid("pia", 5_000)).later(HOUR)
    told.when(CloseBidding("r1"))
    assert (closed(told).provider, closed(told).price, closed(told).accept_by) == ("", 0, None)
    assert closed(told).bids == (OpenedBid("pia", "o-pia", 5_000),)
    assert (asked_of(told).status, held(told, "pia"), lane(told).demand) == ("unsold", 0, 0)
    told.when(AcceptBid("r1"), by="ana").then(NobodyWon)
    told.when(WithdrawRequest("r1"), by="ana").then(RequestIsClosed)
    told.when(ExpireRequest("r1")).then()


def test_the_budget_is_a_limit_for_all_units_and_minutes() -> None:
    """190 for 2 units and an hour and a half are 63 a unit-hour, rounded down."""
    told = story(sellers, (auction(price_cap=None, budget=190, minutes=90), "ana"))
    told.and_then(*bid("pia", 64)).later(HOUR).when(CloseBidding("r1"))
    assert closed(told).provider == ""
    told = story(sellers, (auction(price_cap=None, budget=190, minutes=90), "ana"))
    told.and_then(*bid("pia", 63)).later(HOUR).when(CloseBidding("r1"))
    assert closed(told).provider == "pia"


def test_nobody_bids_and_nobody_wins() -> None:
    told = story(asked).later(HOUR)
    told.when(CloseBidding("r1")).then(BiddingClosed, LaneDemandChanged)
    assert asked_of(told).status == "unsold"


@pytest.mark.parametrize(
    ("asks", "limits", "price"),
    [
        ({"pia": 60, "quin": 80, "rob": 90}, {"price_cap": 100}, 80),
        ({"pia": 60, "quin": 60}, {"price_cap": 100}, 60),
        ({"pia": 60}, {"price_cap": 100}, 100),
        ({"pia": 60, "quin": 101}, {"price_cap": 100}, 100),
        ({"pia": 60}, {"price_cap": 100, "budget": 150}, 75),
        ({"pia": 60, "quin": 80}, {"any_price": True, "price_cap": None}, 80),
        ({"pia": 60}, {"any_price": True, "price_cap": None}, 60),
    ],
)
def test_a_vickrey_winner_gets_the_second_price(
    asks: dict[str, int], limits: dict[str, Any], price: int
) -> None:
    """The second lowest ask within the limit; else the limit; without a limit its own ask."""
    told = story(sellers, (auction(mode="vickrey", **limits), "ana"))
    for who, ask in asks.items():
        told.and_then(*bid(who, ask))
    told.later(HOUR).when(CloseBidding("r1"))
    assert (closed(told).provider, closed(told).ask, closed(told).price) == ("pia", 60, price)
    told.and_then(AcceptBid("r1"), "ana")
    assert contract(told).terms.price == price


def test_who_cannot_deliver_any_more_does_not_win() -> None:
    told = story(asked, bid("pia", 70), bid("quin", 80), bid("rob", 90))
    told.and_then(OpenContract("k1", "o-pia", 3, 60, any_price=True), "ben")
    told.and_then(PauseOffering("o-quin"), "quin").later(HOUR).when(CloseBidding("r1"))
    assert (closed(told).provider, len(closed(told).bids)) == ("rob", 3)
    assert [held(told, who) for who in PROVIDERS] == [0, 0, 18]


def test_one_offering_wins_no_more_than_it_has_free() -> None:
    told = story(sellers, (auction("r1", units=3), "ana"), (auction("r2", units=3), "ben"))
    told.and_then(*bid("pia", 70, "r1")).and_then(*bid("pia", 70, "r2")).later(HOUR)
    told.when(CloseBidding("r1"))
    assert closed(told).provider == "pia"
    told.when(CloseBidding("r2"))
    assert closed(told).provider == ""
    assert held(told, "pia") == 21


# Accepting


won: Any = (asked, bid("pia", 90), bid("quin", 80))


def test_accepting_opens_the_contract_at_the_ask_and_gives_the_deposit_back() -> None:
    told = story(won).later(HOUR).and_then(CloseBidding("r1"))
    told.when(AcceptBid("r1", "k1"), by="ana")
    assert isinstance(told.outcome, list)
    assert told.outcome[0] == BidAccepted("quin", "o-quin", "k1", 80, NOW + HOUR)
    assert ContractOpened in map(type, told.outcome)
    terms = contract(told, "k1").terms
    assert (terms.price, terms.units, terms.minutes) == (80, 2, 60)
    assert (told.posted("escrow:k1"), held(told, "quin")) == (160, 0)
    assert offering(told, "o-quin").bookings == {"k1": 2}
    told.when(AcceptBid("r1", "k2"), by="ana").then(RequestIsClosed)


def test_only_the_customer_accepts() -> None:
    told = story(won).later(HOUR).and_then(CloseBidding("r1"))
    told.when(AcceptBid("r1"), by="ben").then(RequestNotFound)
    told.when(AcceptBid("r1"), by="quin").then(RequestNotFound)
    told.when(AcceptBid("r1"), by="operator").then(RequestNotFound)
    told.when(AcceptBid("r9"), by="ana").then(RequestNotFound)


def test_expiry_against_acceptance_before_the_deadline_the_customer_wins() -> None:
    told = story(won).later(HOUR).and_then(CloseBidding("r1")).later(DAY - MICROSECOND)
    told.when(ExpireRequest("r1"), role="worker").then(RequestHasNotExpired)
    told.and_then(AcceptBid("r1"), "ana").later(MICROSECOND)
    told.when(ExpireRequest("r1"), role="worker").then()
    assert (asked_of(told).status, contract(told).status) == ("matched", "created")


def test_expiry_against_acceptance_from_the_deadline_on_the_winner_is_free() -> None:
    told = story(won).later(HOUR).and_then(CloseBidding("r1")).later(DAY)
    told.when(AcceptBid("r1"), by="ana").then(AcceptanceIsTooLate)
    told.when(ExpireRequest("r1"), role="worker").then(
        RequestExpired, FundsUnheld("bid:r1:quin", FOG, 16), UnitsReturned, ListingChanged
    )
    assert (offering(told, "o-quin").used, lane(told).demand) == (0, 0)
    told.when(AcceptBid("r1"), by="ana").then(RequestIsClosed)
    told.when(ExpireRequest("r1"), role="worker").then()


def test_a_late_timer_leaves_the_customer_his_time() -> None:
    told = story(won).later(5 * DAY).and_then(CloseBidding("r1"))
    assert asked_of(told).accept_by == NOW + 6 * DAY


def test_the_units_that_were_won_are_nobody_elses() -> None:
    told = story(won).later(HOUR).and_then(CloseBidding("r1"))
    told.when(OpenContract("k1", "o-quin", 3, 60, any_price=True), by="ben").then(CapacityIsTaken)
    told.when(WithdrawOffering("o-quin"), by="quin").then(OfferingIsPromised)
    told.and_then(OpenContract("k1", "o-quin", 2, 60, any_price=True), "ben")
    told.and_then(AcceptBid("r1"), "ana")
    assert offering(told, "o-quin").bookings == {"k1": 2, "r1": 2}


def test_a_customer_declines_by_withdrawing() -> None:
    told = story(won).later(HOUR).and_then(CloseBidding("r1"))
    told.when(WithdrawRequest("r1"), by="ana").then(
        RequestWithdrawn, FundsUnheld("bid:r1:quin", FOG, 16), UnitsReturned, ListingChanged
    )
    told.when(AcceptBid("r1"), by="ana").then(RequestIsClosed)
    assert (offering(told, "o-quin").used, held(told, "quin")) == (0, 0)


def test_nobody_unseals_the_bids_by_withdrawing_his_request() -> None:
    """The deposits that went back would have shown the asks, in a dry run even for nothing."""
    told = story(won)
    told.when(WithdrawRequest("r1"), by="ana").then(RequestHasSealedBids)
    told.later(HOUR).when(WithdrawRequest("r1"), by="ana").then(RequestHasSealedBids)
    told.and_then(CloseBidding("r1")).when(WithdrawRequest("r1"), by="ana")
    assert asked_of(told).status == "withdrawn"


def test_an_auction_without_bids_is_withdrawn_at_once() -> None:
    told = story(asked).and_then(*bid("pia", 90)).and_then(WithdrawBid("r1"), "pia")
    told.when(WithdrawRequest("r1"), by="ana").then(RequestWithdrawn, LaneDemandChanged)
    told.later(HOUR).when(CloseBidding("r1")).then()


def test_until_bidding_closes_no_command_shows_an_ask_to_anybody_else() -> None:
    """Asks and deposits (a tenth of all the ask comes to) are in nobody else's events, nor in the facts of rules."""
    told = story(asked, bid("pia", 88_887))
    others: list[Any] = [
        *((command("r1"), by) for command in (CloseBidding, ExpireRequest) for by in ("ana", "operator")),
        *((command("r1"), "ana") for command in (AcceptBid, MatchRequest, WithdrawRequest)),
        *((command("r1"), "quin") for command in (WithdrawBid, WithdrawRequest)),
        (PlaceBid("r1", "o-quin", 60), "quin"),
        (PlaceBid("r1", "o-quin", 60), "quin"),
        (request("r2", units=4), "ben"),
    ]
    for command, by in others:
        told.when(command, by=by)
        seen = told.outcome.facts if isinstance(told.outcome, Rejected) else told.outcome
        assert "88887" not in str(seen)
        assert "17778" not in str(seen)


def test_an_acceptance_that_cannot_be_paid_changes_nothing() -> None:
    told = story(sellers, (auction(price_cap=FUNDS), "ana"), bid("pia", FUNDS)).later(HOUR)
    told.and_then(CloseBidding("r1")).when(AcceptBid("r1"), by="ana").then(InsufficientFunds)
    assert (asked_of(told).status, held(told, "pia")) == ("won", 200_000)


# Bursts


def need(units: int, tier: str = "bronze", **fields: Any) -> Requirement:
    return replace(Requirement("compute", "eu", tier, units), **fields)


def burst(*needs: Requirement, budget: int = FUNDS, minutes: int = 60, **fields: Any) -> AllocateBurst:
    return replace(AllocateBurst("b1", needs, budget, minutes), **fields)


three: Any = (village, offers("pia", "c", 1_000), offers("quin", "b", 1_100), offers("rob", "a", 1_200))


def test_a_burst_takes_the_cheapest_offerings_first() -> None:
    """4 at 1,000, 4 at 1,100 and the last 2 at 1,200."""
    told = story(three)
    told.when(burst(need(10)), by="ana")
    assert isinstance(told.outcome, list)
    assert told.outcome[0] == BurstAllocated(
        *("ana", FUNDS, 60, "escrow", 10_800),
        (
            BurstPart("b1.1", "c", "pia", 4, 1_000),
            BurstPart("b1.2", "b", "quin", 4, 1_100),
            BurstPart("b1.3", "a", "rob", 2, 1_200),
        ),
        NOW,
    )
    assert [contract(told, f"b1.{i}").terms.units for i in (1, 2, 3)] == [4, 4, 2]
    assert told.posted("wallet:ana") == FUNDS - 10_800
    assert offering(told, "a").bookings == {"b1.3": 2}


def test_each_part_of_a_burst_is_priced_for_its_own_units() -> None:
    """Twelve units of an offering would be 5 % cheaper; the nine that are taken of it are not."""
    told = story(village, offers("pia", "big", 1_000, capacity=12), offers("quin", "small", 900))
    told.when(burst(need(13)), by="ana")
    assert isinstance(told.outcome, list)
    parts = [(part.offering, part.units, part.price) for part in told.outcome[0].parts]
    assert parts == [("small", 4, 900), ("big", 9, 1_000)]
    told = story(village, offers("pia", "big", 900, capacity=12), offers("quin", "small", 1_000))
    told.when(burst(need(13)), by="ana")
    assert isinstance(told.outcome, list)
    parts = [(part.offering, part.units, part.price) for part in told.outcome[0].parts]
    assert parts == [("big", 12, 855), ("small", 1, 1_000)]


def test_a_burst_books_all_or_nothing() -> None:
    told = story(three)
    told.when(burst(need(13)), by="ana").refused_with(BurstFindsNoCapacity, missing_units=1)
    told.when(burst(need(4), need(1, "gold")), by="ana").refused_with(BurstFindsNoCapacity, missing_units=1)
    told.when(burst(need(10), budget=10_799), by="ana").refused_with(BurstExceedsBudget, cost=10_800)
    assert [offering(told, id).used for id in "abc"] == [0, 0, 0]
    told.when(burst(need(10), budget=10_800), by="ana")
    assert isinstance(told.outcome, list)


def test_a_burst_that_cannot_be_paid_books_nothing() -> None:
    told = story(three, offers("pia", "gold", FUNDS, "gold"))
    told.when(burst(need(4), need(1, "gold"), budget=10 * FUNDS), by="ana").then(InsufficientFunds)
    assert [offering(told, id).used for id in ("a", "b", "c", "gold")] == [0, 0, 0, 0]


def test_requirements_of_a_burst_share_what_is_free() -> None:
    told = story(three)
    told.when(burst(need(6), need(6)), by="ana")
    assert isinstance(told.outcome, list)
    parts = [(part.offering, part.units) for part in told.outcome[0].parts]
    assert parts == [("c", 4), ("b", 2), ("b", 2), ("a", 4)]
    assert offering(told, "b").bookings == {"b1.2": 2, "b1.3": 2}


def test_a_burst_may_be_served_by_a_better_tier() -> None:
    told = story(village, offers("pia", "o-gold", 100, "gold"), offers("quin", "o-bronze", 600))
    told.when(burst(need(5)), by="ana")
    assert isinstance(told.outcome, list)
    assert [(part.offering, part.units) for part in told.outcome[0].parts] == [("o-gold", 4), ("o-bronze", 1)]
    told.when(burst(need(1, "silver"), burst="b2"), by="ben").then(BurstFindsNoCapacity)


def test_a_burst_below_an_hour_costs_a_fifth_more_a_unit_hour() -> None:
    told = story(three)
    told.when(burst(need(1), minutes=30), by="ana")
    assert isinstance(told.outcome, list)
    assert (told.outcome[0].parts[0].price, told.outcome[0].cost) == (1_200, 600)
    assert told.posted("escrow:b1.1") == 600


def test_a_netted_burst_needs_no_escrow() -> None:
    told = story(three)
    told.and_then(burst(need(2), settlement="netted"), "ana")
    assert (contract(told, "b1.1").terms.settlement, told.posted("wallet:ana")) == ("netted", FUNDS)
    told.when(burst(need(2), settlement="trust", burst="b2"), by="ana").then(SettlementIsUnknown)


def test_a_burst_is_allocated_once() -> None:
    told = story(three, (burst(need(1)), "ana"))
    told.when(burst(need(1)), by="ben").then(BurstExists)


@pytest.mark.parametrize(
    "command",
    [
        burst(),
        burst(need(0)),
        burst(need(1), need(P.most_units + 1)),
        burst(*[need(1)] * (P.most_requirements + 1)),
        burst(need(1), minutes=0),
        burst(need(1), minutes=P.most_burst_minutes + 1),
    ],
)
def test_a_burst_is_bounded(command: AllocateBurst) -> None:
    story(three).when(command, by="ana").then(BurstIsOutOfRange)


def test_a_burst_names_known_tiers() -> None:
    story(three).when(burst(need(1, "platinum")), by="ana").then(TierIsUnknown)


def test_a_burst_has_a_bounded_number_of_contracts() -> None:
    small = [offers("pia", f"s{i}", cpu_millicores=1, memory_mb=1, capacity=1) for i in range(51)]
    told = story(village, small)
    told.when(burst(need(51)), by="ana").then(BurstIsTooScattered)
    told.when(burst(need(50)), by="ana")
    assert isinstance(told.outcome, list)


def test_nobody_bursts_into_his_own_offerings() -> None:
    told = story(three)
    told.when(burst(need(9)), by="pia").refused_with(BurstFindsNoCapacity, missing_units=1)


# Loading


def missing_of(told: Story, command: Any, by: str, loaded: set[str]) -> set[str]:
    """Which streams a decision reads that are not loaded; it goes on with blank ones, as the sequencer has it."""
    missing: set[str] = set()
    mine: dict[str, Any] = {}

    def read(stream: Stream[Any], id: str) -> Any:
        name = stream.name(id)
        if name not in loaded:
            missing.add(name)
            return mine.get(name, stream.initial)
        return mine.get(name) or told.book.read(stream, id)

    try:
        for (stream, name), event in decision_of(command)(command, Issued(by, told.book.now), read):
            mine[name] = stream.evolve(
                read(stream, name if stream.whole_names else name.split(":", 1)[1]), event
            )
    except Exception:
        if not missing:
            raise
    return missing


def rounds_to_load(told: Story, command: Any, by: str) -> int:
    """How often a decision runs, from nothing loaded, until it has all that it reads."""
    loaded: set[str] = set()
    rounds = 1
    while missing := missing_of(told, command, by, loaded):
        loaded |= missing
        rounds += 1
    return rounds


def test_all_that_a_decision_needs_is_loaded_in_a_few_rounds_however_much_it_is() -> None:
    """A loop that stops at the first blank state would need a round for every offering."""
    small = [
        offers(who, f"s{i}-{who}", tier=tier, cpu_millicores=1, memory_mb=1, capacity=1)
        for who in PROVIDERS
        for i, tier in enumerate(["bronze", "silver", "gold"] * 10)
    ]
    told = story(village, small)
    assert rounds_to_load(told, burst(need(25), need(5, "gold"), need(10, "silver")), "ana") <= 8
    assert rounds_to_load(told, request(units=1), "ana") <= 8
    told = story(asked, bid("pia", 90), bid("quin", 80), bid("rob", 85)).later(HOUR)
    assert rounds_to_load(told, CloseBidding("r1"), "operator") <= 8
    told.and_then(CloseBidding("r1"))
    assert rounds_to_load(told, AcceptBid("r1"), "ana") <= 8
