"""Offerings, matching, auctions and bursts against brute force on a plain model, over random histories.

The model knows every offering and request as a plain record and looks at all of them each time; prices are exact
fractions. Only the market factor's movement and the reputation are taken from the domain: they have tests of their own.
`FOGBOOK_EXAMPLES` scales the number of histories.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain import devices, ledger
from domain._kernel import FOG, Decision, Issued, Read, Rejected
from domain.marketplace import contracts, offerings, requests
from domain.platform import CreateZone
from tests.examples import system_total
from tests.scenario import START, Book

EXAMPLES = int(os.environ.get("FOGBOOK_EXAMPLES", "150"))
CUSTOMERS = ("ana", "ben")
PROVIDERS = ("pia", "quin", "rob")
RANKS = {"bronze": 1, "silver": 2, "gold": 3}
P95 = {"bronze": 2_500, "silver": 1_200, "gold": 400}
TIER_PRICE = {"bronze": Fraction(1), "silver": Fraction(5, 2), "gold": Fraction(5)}
FUNDS = 10**15

customers = st.sampled_from(CUSTOMERS)
providers = st.sampled_from(PROVIDERS)
tiers = st.sampled_from(("bronze", "bronze", "silver", "gold"))
sizes = st.sampled_from((1, 1, 2, 3))
# Few different ones, so that there are ties.
prices = st.sampled_from((100, 100, 101, 110, 90, 200, 40)) | st.integers(1, 10**6)
lengths = st.sampled_from((60, 60, 1, 59, 61, 600, 1_440, 10_080))
offers = st.tuples(providers, tiers, sizes, st.integers(1, 6), prices)


@dataclass(frozen=True)
class ReturnUnits:
    """A contract ends, as far as capacity is concerned."""

    offering: str
    units: int
    reference: str


def return_units(command: ReturnUnits, issued: Issued, read: Read) -> Decision:
    yield from offerings.give_back(read, issued, command.offering, command.units, command.reference)


@dataclass
class Offer:
    provider: str
    tier: str
    size: int
    """Cores of one unit."""
    capacity: int
    base: int
    status: str = "active"
    bookings: dict[str, int] = field(default_factory=dict)

    @property
    def free(self) -> int:
        return self.capacity - sum(self.bookings.values())

    def suits(self, asked: Asked) -> bool:
        """All but units and price."""
        good = RANKS[self.tier] >= RANKS[asked.tier] and self.size >= asked.size
        return good and self.status == "active"


@dataclass
class Asked:
    customer: str
    tier: str
    size: int
    units: int
    minutes: int
    cap: int | None
    budget: int | None
    mode: str = "match"
    until: datetime = START
    status: str = "absent"
    bids: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Provider -> ask and offering."""
    kept: str = ""
    """The offering that keeps units for it."""

    def affords(self, price: int) -> bool:
        whole = Fraction(price * self.units * self.minutes, 60)
        return (self.cap is None or price <= self.cap) and (self.budget is None or whole <= self.budget)

    def deposit(self, provider: str) -> int:
        return math.ceil(
            Fraction(math.ceil(Fraction(self.bids[provider][0] * self.units * self.minutes, 60)), 10)
        )


LIMITS = ((None, None), (100, None), (150, None), (99, 10**6), (None, 500), (None, 10**6), (600, 999))
"""Price cap and budget."""
needs = st.builds(
    lambda customer, limits, **fields: Asked(customer, **fields, cap=limits[0], budget=limits[1]),
    customer=st.sampled_from((*CUSTOMERS, *CUSTOMERS, "pia")),
    tier=tiers,
    size=sizes,
    units=st.sampled_from((1, 1, 2, 3, 6)),
    minutes=lengths,
    limits=st.sampled_from(((None, None), *LIMITS)),
    mode=st.sampled_from(("match", "bids", "vickrey")),
)
bids = st.tuples(*[st.none() | st.tuples(st.integers(0, 9), prices)] * len(PROVIDERS))
"""For each provider which of his offerings bids how much, if any does."""


class MarketMachine(RuleBasedStateMachine):
    @initialize(first=st.lists(offers, min_size=4, max_size=10))
    def begin(self, first: list[tuple[str, str, int, int, int]]) -> None:
        self.book = Book()
        self.book.issue(CreateZone("main"))
        self.offers: dict[str, Offer] = {}
        self.asked: dict[str, Asked] = {}
        self.numbers = 0
        large = devices.Capabilities(10**6, 1, 0, 0, 0)
        for person in CUSTOMERS + PROVIDERS:
            self.book.issue(ledger.OpenWallet(f"wallet:{person}"), person)
            self.book.issue(ledger.MintTokens(f"wallet:{person}", FUNDS, "-", "-"))
        for person in PROVIDERS:
            self.book.issue(devices.RegisterDevice(f"d-{person}", "server", large, "eu"), person)
        for offer in first:
            self.register(offer)

    # The model

    def issue(self, command: Any, by: str = "operator") -> list[Any] | Rejected:
        """The events, or the rule that refused; then nothing changed."""
        states = dict(self.book.states)
        try:
            return self.book.issue(command, by)
        except Rejected as rule_:
            assert self.book.states == states
            return rule_

    def name(self, kind: str) -> str:
        """Ids in no particular order, so that ties are not broken by age."""
        self.numbers += 1
        return f"{kind}{self.numbers * 7 % 101:03}-{self.numbers}"

    def supply(self, tier: str) -> int:
        listed = [each for each in self.offers.values() if each.tier == tier and each.status == "active"]
        return sum(each.free for each in listed)

    def demand(self, tier: str) -> int:
        waiting = [each for each in self.asked.values() if each.tier == tier]
        return sum(each.units for each in waiting if each.status in ("open", "bidding"))

    def market(self, tier: str) -> int:
        lane = self.book.read(offerings.lanes, f"compute:eu:{tier}")
        supply, demand = self.supply(tier), self.demand(tier)
        target = 9_000 if supply > 2 * demand else 11_500 if 2 * supply < demand else 10_000
        return offerings.glide(lane.market, lane.market_at, target, self.book.now)[0]

    def reputation(self, provider: str) -> int:
        return devices.score(self.book.read, f"d-{provider}", "compute", self.book.now)

    def price(self, offer: Offer, units: int, minutes: int) -> int:
        hours = Fraction(units * minutes, 60)
        volume = 85 if hours >= 1_000 else 90 if hours >= 100 else 95 if hours >= 10 else 100
        length = 120 if minutes < 60 else 100 if minutes < 1_440 else 95 if minutes < 10_080 else 90
        reputation = Fraction(7, 10) + Fraction(6, 10) * Fraction(self.reputation(offer.provider), 10_000)
        exact = offer.base * TIER_PRICE[offer.tier] * Fraction(volume, 100) * Fraction(length, 100)
        return math.ceil(exact * Fraction(self.market(offer.tier), 10_000) * reputation)

    def best_match(self, asked: Asked) -> tuple[str, int] | None:
        """Every offering there is, filtered and scored."""
        able = {}
        for id, offer in self.offers.items():
            if offer.suits(asked) and offer.provider != asked.customer and offer.free >= asked.units:
                price = self.price(offer, asked.units, asked.minutes)
                if asked.affords(price):
                    able[id] = price
        scored = []
        for id, price in able.items():
            offer = self.offers[id]
            cheap = math.floor(Fraction(10_000 * min(able.values()), price))
            fast = math.floor(Fraction(10_000 * 400, P95[offer.tier]))
            scored.append((50 * cheap + 30 * self.reputation(offer.provider) + 20 * fast, id))
        if not scored:
            return None
        highest = max(points for points, _ in scored)
        winner = min(id for points, id in scored if points == highest)
        return winner, able[winner]

    def auction_winner(self, asked: Asked) -> tuple[str, int] | None:
        """Who wins, and what he gets."""
        able = []
        for provider, (ask, id) in asked.bids.items():
            offer = self.offers[id]
            if asked.affords(ask) and offer.suits(asked) and offer.free >= asked.units:
                able.append((ask, id, provider))
        if not able:
            return None
        able.sort()
        lowest, _, winner = able[0]
        if asked.mode == "bids":
            return winner, lowest
        limits = [] if asked.cap is None else [asked.cap]
        if asked.budget is not None:
            limits.append(math.floor(Fraction(asked.budget * 60, asked.units * asked.minutes)))
        second = [ask for ask, _, _ in able[1:]] + limits
        return winner, min(second, default=lowest)

    def opened(self, contract: str, offering: str, units: int, price: int, customer: str) -> None:
        """The contract is there, on these terms, and holds the units."""
        found = self.book.read(contracts.contracts, contract)
        terms = found.terms
        assert (found.customer, found.offering, terms.units, terms.price) == (
            customer,
            offering,
            units,
            price,
        )
        self.offers[offering].bookings[contract] = units

    # Offerings

    @rule(offer=offers)
    def register(self, offer: tuple[str, str, int, int, int]) -> None:
        id = self.name("o")
        who, tier, size, capacity, base = offer
        command = offerings.RegisterOffering(id, f"d-{who}", "compute", tier, size, 0, 0, capacity, base)
        assert isinstance(self.issue(command, who), list)
        self.offers[id] = Offer(who, tier, size, capacity, base)

    @precondition(lambda self: self.offers)
    @rule(
        data=st.data(), change=st.sampled_from(("pause", "resume", "withdraw", "reprice", "fraud", "success"))
    )
    def change_offering(self, data: st.DataObject, change: str) -> None:
        id = data.draw(st.sampled_from(sorted(self.offers)))
        offer = self.offers[id]
        promised = any(":" in reference for reference in offer.bookings)
        if change in ("fraud", "success"):
            evidence = devices.RecordReputation(f"d-{offer.provider}", "compute", change, self.name("e"))
            assert isinstance(self.issue(evidence), list)
        elif change == "reprice":
            new = offer.base + data.draw(st.integers(-1, 1)) * max(offer.base // 10, 1)
            if new and isinstance(self.issue(offerings.RepriceOffering(id, new), offer.provider), list):
                assert offer.status != "withdrawn"
                offer.base = new
        elif change == "resume":
            done = isinstance(self.issue(offerings.ResumeOffering(id), offer.provider), list)
            assert done == (offer.status != "withdrawn")
            offer.status = "active" if done else offer.status
        else:
            kind = offerings.PauseOffering if change == "pause" else offerings.WithdrawOffering
            done = isinstance(self.issue(kind(id), offer.provider), list)
            allowed = not promised or (offer.status == "paused" and change == "pause")
            assert done == (allowed and offer.status != "withdrawn")
            offer.status = {"pause": "paused", "withdraw": "withdrawn"}[change] if done else offer.status

    @precondition(lambda self: any(offer.bookings for offer in self.offers.values()))
    @rule(data=st.data(), times=st.integers(1, 2))
    def end_contract(self, data: st.DataObject, times: int) -> None:
        """Even twice, the units come back once."""
        held = [
            (id, reference, units)
            for id, offer in self.offers.items()
            for reference, units in offer.bookings.items()
            if ":" not in reference
        ]
        if held:
            id, reference, units = data.draw(st.sampled_from(held))
            for _ in range(times):
                assert isinstance(self.issue(ReturnUnits(id, units, reference)), list)
            del self.offers[id].bookings[reference]

    # Requests

    @rule(asked=needs, bids=bids)
    def ask(self, asked: Asked, bids: tuple[Any, ...]) -> None:
        id, asked.until = self.name("r"), self.book.now + timedelta(hours=2)
        expected = self.best_match(asked) if asked.mode == "match" else None
        command = requests.RequestService(
            id,
            "compute",
            "eu",
            asked.tier,
            asked.units,
            asked.minutes,
            asked.until,
            asked.size,
            price_cap=asked.cap,
            budget=asked.budget,
            any_price=asked.cap is None and asked.budget is None,
            mode=asked.mode,
        )
        events = self.issue(command, asked.customer)
        if expected and isinstance(events, Rejected):
            self.poor(events, expected[1] * asked.units * asked.minutes)
            return
        assert isinstance(events, list), events
        self.asked[id] = asked
        asked.status = "open" if asked.mode == "match" else "bidding"
        self.matched(id, id, events, expected)
        for who, bid in zip(PROVIDERS, bids, strict=True):
            able = sorted(each for each, offer in self.offers.items() if offer.provider == who)
            if asked.mode != "match" and bid and able:
                self.place(id, able[bid[0] % len(able)], bid[1])

    def poor(self, rule_: Rejected, sixtieths: int) -> None:
        """What costs less than one unit, or more than the customer has, opens no contract."""
        assert isinstance(rule_, contracts.ChargeIsOutOfRange | ledger.InsufficientFunds), rule_
        assert sixtieths < 60 or sixtieths > 60 * 10**9, rule_

    def matched(self, id: str, contract: str, events: list[Any], expected: tuple[str, int] | None) -> None:
        found = [each for each in events if isinstance(each, requests.RequestMatched)]
        assert [(each.offering, each.price) for each in found] == ([expected] if expected else [])
        if expected:
            asked = self.asked[id]
            asked.status = "matched"
            self.opened(contract, expected[0], asked.units, expected[1], asked.customer)

    def some(self, data: st.DataObject, *statuses: str) -> tuple[str, Asked] | None:
        ids = sorted(id for id, asked in self.asked.items() if asked.status in statuses)
        if not ids:
            return None
        id = data.draw(st.sampled_from(ids))
        return id, self.asked[id]

    @rule(data=st.data())
    def match_again(self, data: st.DataObject) -> None:
        chosen = self.some(data, "open")
        if chosen is None:
            return
        id, asked = chosen
        expected = self.best_match(asked)
        contract = self.name("k")
        events = self.issue(requests.MatchRequest(id, contract), asked.customer)
        if self.book.now >= asked.until:
            assert isinstance(events, requests.RequestHasExpired)
        elif expected is None:
            assert isinstance(events, requests.NothingFits)
        elif isinstance(events, Rejected):
            self.poor(events, expected[1] * asked.units * asked.minutes)
        else:
            self.matched(id, contract, events, expected)

    @rule(data=st.data(), minutes=st.sampled_from((0, 1, 30, 60, 120, 1_440)))
    def wait_and_let_timers_run(self, data: st.DataObject, minutes: int) -> None:
        """Timers of some requests run late or not at all."""
        self.book.now += timedelta(minutes=minutes)
        for id, asked in self.asked.items():
            if asked.status in ("open", "won") and data.draw(st.booleans()):
                done = isinstance(self.issue(requests.ExpireRequest(id)), list)
                assert done == (self.book.now >= asked.until)
                if done:
                    self.let_pass(id, asked, "expired")

    def let_pass(self, id: str, asked: Asked, status: str) -> None:
        asked.status, asked.bids = status, {}
        if asked.kept:
            del self.offers[asked.kept].bookings[f"request:{id}"]
            asked.kept = ""

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        chosen = self.some(data, "open", "bidding", "won")
        if chosen:
            id, asked = chosen
            done = isinstance(self.issue(requests.WithdrawRequest(id), asked.customer), list)
            sealed = asked.status == "bidding" and asked.bids
            assert done == (self.book.now < asked.until if asked.status == "open" else not sealed)
            if done:
                self.let_pass(id, asked, "withdrawn")

    # Bids

    @rule(data=st.data(), ask=prices)
    def bid(self, data: st.DataObject, ask: int) -> None:
        chosen = self.some(data, "bidding")
        if chosen:
            self.place(chosen[0], data.draw(st.sampled_from(sorted(self.offers))), ask)

    def place(self, id: str, offering: str, ask: int) -> None:
        asked, offer = self.asked[id], self.offers[offering]
        who = offer.provider
        allowed = (
            who not in asked.bids
            and who != asked.customer
            and self.book.now < asked.until
            and offer.suits(asked)
            and offer.free >= asked.units
        )
        assert isinstance(self.issue(requests.PlaceBid(id, offering, ask), who), list) == allowed
        if allowed:
            asked.bids[who] = (ask, offering)

    @rule(data=st.data(), who=providers)
    def withdraw_bid(self, data: st.DataObject, who: str) -> None:
        chosen = self.some(data, "bidding")
        if chosen:
            id, asked = chosen
            done = isinstance(self.issue(requests.WithdrawBid(id), who), list)
            assert done == (who in asked.bids and self.book.now < asked.until)
            if done:
                del asked.bids[who]

    @rule(data=st.data(), minutes=st.sampled_from((120, 120, 0)))
    def close_some(self, data: st.DataObject, minutes: int) -> None:
        """Bidding of several requests ends at the same time, so that they compete for the same units."""
        self.book.now += timedelta(minutes=minutes)
        for id, asked in list(self.asked.items()):
            if asked.status == "bidding" and data.draw(st.sampled_from((True, True, False))):
                self.close(id, asked)
                if data.draw(st.booleans()):
                    self.accept(id, asked)

    def close(self, id: str, asked: Asked) -> None:
        expected = self.auction_winner(asked)
        events = self.issue(requests.CloseBidding(id))
        if self.book.now < asked.until:
            assert isinstance(events, requests.BiddingIsOpen)
            return
        assert isinstance(events, list)
        (found,) = [each for each in events if isinstance(each, requests.BiddingClosed)]
        assert len(found.bids) == len(asked.bids)
        assert (found.provider, found.price) == (expected or ("", 0))
        asked.status = "won" if expected else "unsold"
        asked.bids = {found.provider: asked.bids[found.provider]} if expected else {}
        if expected:
            asked.until = self.book.now + timedelta(hours=24)
            asked.kept = found.offering
            self.offers[found.offering].bookings[f"request:{id}"] = asked.units

    @rule(data=st.data(), hours=st.sampled_from((0, 0, 1, 24)))
    def accept_some(self, data: st.DataObject, hours: int) -> None:
        self.book.now += timedelta(hours=hours)
        chosen = self.some(data, "won")
        if chosen:
            self.accept(*chosen)

    def accept(self, id: str, asked: Asked) -> None:
        contract, offering = self.name("k"), asked.kept
        price = self.book.read(requests.requests, id).price
        events = self.issue(requests.AcceptBid(id, contract), asked.customer)
        if asked.status == "unsold":
            assert isinstance(events, requests.NobodyWon)
        elif asked.status == "bidding":
            assert isinstance(events, requests.BiddingIsOpen)
        elif self.book.now >= asked.until:
            assert isinstance(events, requests.AcceptanceIsTooLate)
        elif isinstance(events, Rejected):
            self.poor(events, price * asked.units * asked.minutes)
        else:
            self.let_pass(id, asked, "matched")
            self.opened(contract, offering, asked.units, price, asked.customer)

    # Bursts

    @rule(
        who=customers,
        tier=tiers,
        size=sizes,
        units=st.sampled_from((1, 3, 5, 8, 12, 20)),
        minutes=lengths,
        budget=st.sampled_from((10**14, 10**14, 1_000, 10_000)),
    )
    def burst(self, who: str, tier: str, size: int, units: int, minutes: int, budget: int) -> None:
        asked = Asked(who, tier, size, units, minutes, None, budget)
        able = {
            id: self.price(offer, min(offer.free, units), minutes)
            for id, offer in self.offers.items()
            if offer.suits(asked) and offer.free
        }
        plan, left = [], units
        for id in sorted(able, key=lambda id: (able[id], id)):
            taken = min(self.offers[id].free, left)
            if taken:
                plan.append((id, taken, self.price(self.offers[id], taken, minutes)))
                left -= taken
        whole = sum(math.ceil(Fraction(price * taken * minutes, 60)) for _, taken, price in plan)
        id = self.name("b")
        need = requests.Requirement("compute", "eu", tier, units, size)
        events = self.issue(requests.AllocateBurst(id, (need,), budget, minutes), who)
        if left:
            assert isinstance(events, requests.BurstFindsNoCapacity)
        elif whole > budget:
            assert isinstance(events, requests.BurstExceedsBudget)
        elif isinstance(events, Rejected):
            assert isinstance(events, contracts.ChargeIsOutOfRange)
            assert min(price * taken * minutes for _, taken, price in plan) < 60
        else:
            assert events[0].cost == whole
            for number, (offering, taken, price) in enumerate(plan, 1):
                self.opened(f"{id}.{number}", offering, taken, price, who)

    # Invariants

    @invariant()
    def capacity_is_used_within_bounds(self) -> None:
        for id, offer in self.offers.items():
            found = self.book.read(offerings.offerings, id)
            assert found.bookings == offer.bookings
            assert 0 <= found.used <= found.capacity
            assert (found.status, found.base_price) == (offer.status, offer.base)

    @invariant()
    def lanes_know_supply_and_demand(self) -> None:
        for tier in RANKS:
            lane = self.book.read(offerings.lanes, f"compute:eu:{tier}")
            assert (lane.supply, lane.demand) == (self.supply(tier), self.demand(tier))
            listed = {id: each.free for id, each in lane.listings.items()}
            active = {
                id: offer.free
                for id, offer in self.offers.items()
                if offer.tier == tier and offer.status == "active"
            }
            assert listed == active
            assert 9_000 <= lane.market <= 11_500

    @invariant()
    def devices_are_committed_to_what_is_offered_or_used(self) -> None:
        for who in PROVIDERS:
            found = self.book.read(offerings.commitments, f"d-{who}").offerings
            expected = {}
            for id, offer in self.offers.items():
                units = offer.capacity - offer.free if offer.status == "withdrawn" else offer.capacity
                if offer.provider == who and units:
                    expected[id] = units
            assert {id: each.units for id, each in found.items()} == expected

    @invariant()
    def deposits_are_held_for_open_bids_and_winners_only(self) -> None:
        for who in PROVIDERS:
            account = self.book.read(ledger.accounts, f"wallet:{who}")
            deposits = sum(asked.deposit(who) for asked in self.asked.values() if who in asked.bids)
            assert account.held.get(FOG, 0) == deposits

    @invariant()
    def requests_stand_as_the_model_says(self) -> None:
        for id, asked in self.asked.items():
            assert self.book.read(requests.requests, id).status == asked.status
        assert system_total(self.book) == 0


TestMarket = MarketMachine.TestCase
TestMarket.settings = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)


def market_of(offers: list[Any]) -> MarketMachine:
    machine = MarketMachine()
    machine.begin(first=offers)
    return machine


@settings(max_examples=2 * EXAMPLES, deadline=None)
@given(st.lists(offers, min_size=1, max_size=12), st.lists(needs, min_size=1, max_size=4))
def test_every_match_is_the_one_that_brute_force_finds(first: list[Any], asks: list[Asked]) -> None:
    machine = market_of(first)
    for asked in asks:
        asked.mode = "match"
        machine.ask(asked=asked, bids=(None, None, None))
    machine.lanes_know_supply_and_demand()


@settings(max_examples=2 * EXAMPLES, deadline=None)
@given(st.lists(offers, min_size=3, max_size=12), needs, needs, bids, bids, st.booleans())
def test_every_auction_has_the_winner_that_brute_force_finds(
    first: list[Any], one: Asked, two: Asked, bids: Any, more_bids: Any, second_price: bool
) -> None:
    """Two at a time, which may compete for the same units."""
    machine = market_of(first)
    for asked, placed in ((one, bids), (two, more_bids)):
        asked.mode, asked.size, asked.tier = "vickrey" if second_price else "bids", 1, "bronze"
        machine.ask(asked=asked, bids=placed)
    machine.book.now += timedelta(hours=2)
    for id, asked in machine.asked.items():
        machine.close(id, asked)
        machine.deposits_are_held_for_open_bids_and_winners_only()
    for id, asked in machine.asked.items():
        machine.accept(id, asked)
    machine.capacity_is_used_within_bounds()
    machine.deposits_are_held_for_open_bids_and_winners_only()
