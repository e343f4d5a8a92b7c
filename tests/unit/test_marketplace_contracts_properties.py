"""Contracts with their ledger and their offerings against a plain model, over random histories of hours and days.

The model keeps a list of facts about each contract and works out every period from the beginning, in fractions. It
says of each command whether it is taken, and of each period what it comes to.
`FOGBOOK_EXAMPLES` scales the number of histories.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain import ledger
from domain._kernel import FOG, Decision, Issued, Read, Rejected
from domain.devices import Capabilities, RegisterDevice
from domain.marketplace import contracts as c
from domain.marketplace.offerings import RegisterOffering, SetLaneBounds, offerings
from domain.platform import CreateZone
from tests.scenario import Book

EXAMPLES = int(os.environ.get("FOGBOOK_EXAMPLES", "100"))
PRICINGS = ("pay_as_you_go", "reserved", "spot", "flat_rate")
NOTICE_BY = {"reserved": {"customer", "provider"}, "flat_rate": {"provider"}}
CUSTOMERS = ("ana", "ben")
CAPACITY = 5
START_FUNDS = 10**15
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
MS, MINUTE = timedelta(milliseconds=1), timedelta(minutes=1)
LEVELS = {
    0: (2_500, 9_700, 300),
    1: (2_501, 9_700, 300),
    2: (2_501, 9_699, 300),
    3: (2_501, 9_699, 301),
}

prices = st.sampled_from((1, 7, 3_600, 999_983))
lengths = st.sampled_from((240, 100, 60, 20, 1))
grids = st.sampled_from(((15, 15), (15, 5), (60, 15), (60, 30), (30, 10)))


@dataclass
class Dispute:
    contract: str
    dispute: str


def dispute(command: Dispute, issued: Issued, read: Read) -> Decision:
    yield from c.dispute_contract(read, issued, command.contract, command.dispute)


@dataclass
class Split:
    contract: str
    dispute: str
    to_payer: int
    to_payee: int


def split(command: Split, issued: Issued, read: Read) -> Decision:
    yield from c.split_escrow(
        read, issued, command.contract, command.dispute, command.to_payer, command.to_payee
    )


@dataclass
class Booked:
    """All that happened to a contract."""

    id: str
    customer: str
    pricing: str
    units: int
    minutes: int
    price: int
    netted: bool
    period: int
    window: int
    start_by: datetime
    root: str
    renews: str = ""
    terms: Any = None
    alive: bool = True
    """Not ended, though its last period may be waiting to settle."""
    let_go: bool = False
    """Its units are its renewal's, or were given back while it was in dispute."""
    closed: bool = False
    began: datetime | None = None
    ends: datetime | None = None
    by: str = ""
    notice: int = 0
    pauses: list[list[int]] = field(default_factory=list)
    """Begin and end in milliseconds of service; the last one may lack its end."""
    seq: int = 0
    metered: int = 0
    billable: int = 0
    """Of that, what the meters reported no later than the periods with misses before them settled."""
    forgone: int = 0
    reports: dict[int, int] = field(default_factory=dict)
    breached: bool = False
    counted: list[int] = field(default_factory=list)
    """Unit-milliseconds charged up to the end of each settled period."""
    disputed: bool = False
    renewal: str = ""
    reviewed: bool = False
    deposited: int = 0
    paid: int = 0
    fees: int = 0
    penalties: int = 0
    refunded: int = 0
    owed: int = 0

    @property
    def remaining(self) -> int:
        return self.deposited - self.paid - self.fees - self.penalties - self.refunded

    def ms(self, at: datetime) -> int:
        assert self.began is not None
        assert self.ends is not None
        return (min(at, self.ends) - self.began) // MS

    def runs(self, now: datetime) -> bool:
        return self.alive and self.began is not None and self.ends is not None and now < self.ends

    @property
    def paused(self) -> bool:
        return bool(self.pauses) and len(self.pauses[-1]) == 1

    def usable(self, now: datetime) -> int:
        return self.usable_until(self.ms(now))

    def usable_until(self, until: int) -> int:
        """Every pause taken away by itself."""
        ended = (min(p[1], until) if len(p) == 2 else until for p in self.pauses)
        return until - sum(max(end - p[0], 0) for end, p in zip(ended, self.pauses, strict=True))

    @property
    def length(self) -> int:
        assert self.ends is not None
        return self.ms(self.ends)

    @property
    def last(self) -> int:
        number = 0
        while (number + 1) * self.period * MINUTE_MS < self.length:
            number += 1
        return number

    def span(self, number: int, minutes: int) -> tuple[int, int]:
        return number * minutes * MINUTE_MS, min((number + 1) * minutes * MINUTE_MS, self.length)

    def windows(self, number: int) -> range:
        ratio = self.period // self.window
        return range(ratio * number, ratio * (number + 1))

    def due(self, number: int) -> datetime:
        assert self.began is not None
        return self.began + self.span(number, self.period)[1] * MS + 10 * MINUTE

    def charge(self, unit_ms: int) -> int:
        return math.ceil(Fraction(unit_ms * self.price, HOUR_MS))

    def excused(self, number: int) -> bool:
        begins, ends = self.span(number, self.window)
        return any(p[0] < ends and (len(p) == 1 or p[1] > begins) for p in self.pauses)

    def comes_to(self, number: int) -> tuple[int, int, int]:
        """Unit-milliseconds until its end, charge and penalty of a period."""
        begins, ends = self.span(number, self.period)
        until = self.billable if self.pricing == "pay_as_you_go" else self.units * ends
        charge = self.charge(until) - self.charge(self.counted[-1] if self.counted else 0)
        penalty, parts = 0, 0
        for window in self.windows(number):
            first, after = self.span(window, self.window)
            if first < ends:
                share = Fraction(charge, ends - begins)
                part = math.floor(share * (after - begins)) - math.floor(share * (first - begins))
                penalty += math.floor(Fraction(part * self.reports.get(window, 0), 10))
                parts += part
        assert parts == (charge if ends > begins else 0)
        if number == self.last and self.by == "customer":
            charge += self.notice
        elif number == self.last:
            penalty = min(penalty + self.notice, charge)
        return until, charge, penalty


class ContractMachine(RuleBasedStateMachine):
    @initialize(
        minutes=st.lists(lengths, min_size=4, max_size=4),
        units=st.lists(st.integers(1, 4), min_size=4, max_size=4),
        grid=grids,
        netted=st.sampled_from((False, False, False, True)),
        part=st.sampled_from((0, 0, 30, 60)),
    )
    def open_one_of_each_pricing(
        self, minutes: list[int], units: list[int], grid: tuple[int, int], netted: bool, part: int
    ) -> None:
        self.open_the_market()
        for number, pricing in enumerate(PRICINGS):
            b = self.book_units("ana", pricing, units[number], minutes[number], grid, netted)
            least, whole = self.deposits(b)
            self.open_for(b, 0 if netted or not part else max(whole * part // 100, least))
            self.start(b)

    def open_the_market(self) -> None:
        self.book = Book()
        self.price = 3_600
        self.booked: dict[str, Booked] = {}
        self.wallets = dict.fromkeys((*CUSTOMERS, "pia"), START_FUNDS)
        self.fees = self.numbers = 0
        self.book.issue(CreateZone("main", "manual"))
        for person in self.wallets:
            self.book.issue(ledger.OpenWallet(f"wallet:{person}"), person)
            self.book.issue(ledger.MintTokens(f"wallet:{person}", START_FUNDS, "-", "-"))
        self.book.issue(RegisterDevice("d1", "server", Capabilities(64_000, 64_000), "eu"), "pia")
        self.book.issue(SetLaneBounds("compute", "eu", "bronze", self.price, self.price))
        for pricing in PRICINGS:
            offering = RegisterOffering(
                pricing, "d1", "compute", "bronze", 1_000, 1_000, 0, CAPACITY, 1, pricing
            )
            self.book.issue(offering, "pia")

    # The model

    def issue(self, command: Any, by: str, taken: bool, role: str | None = None) -> list[Any] | None:
        """The events, where the model says that the command is taken; else nothing may have changed."""
        states = dict(self.book.states)
        events: list[Any] | None = None
        refusal: Rejected | None = None
        try:
            events = self.book.issue(command, by, role)
        except Rejected as rejected:
            refusal = rejected
        assert taken == (refusal is None), (command, refusal and (refusal, refusal.facts))
        assert refusal is None or self.book.states == states
        return events

    def some(self, data: st.DataObject, which: Any = None) -> Booked | None:
        ids = [id for id, each in self.booked.items() if which is None or which(each)]
        return self.booked[data.draw(st.sampled_from(ids))] if ids else None

    def used(self, pricing: str) -> int:
        """A row of renewals holds its units once, until the last of it has ended."""
        held = [b for b in self.booked.values() if b.pricing == pricing and b.alive and not b.let_go]
        rows = {b.root: b.units for b in held}
        return sum(rows.values())

    def holds(self, b: Booked) -> bool:
        """Whether its units are its own by now: a renewal has none before the contract that it renews is over."""
        return not b.let_go and (not b.renews or not self.has_units(self.booked[b.renews]))

    def has_units(self, b: Booked) -> bool:
        return b.alive and not b.let_go

    def pays_in(self, b: Booked, amount: int) -> None:
        self.wallets[b.customer] -= amount
        b.deposited += amount

    def closes(self, b: Booked) -> None:
        self.wallets[b.customer] += b.remaining
        b.refunded += b.remaining
        b.alive, b.closed = False, True

    # Opening

    def book_units(
        self, customer: str, pricing: str, units: int, minutes: int, grid: tuple[int, int], netted: bool
    ) -> Booked:
        self.numbers += 1
        id, start_by = f"c{self.numbers}", self.book.now + timedelta(hours=24)
        return Booked(id, customer, pricing, units, minutes, self.price, netted, *grid, start_by, id)

    def deposits(self, b: Booked) -> tuple[int, int]:
        """The least and the most that the escrow takes at the opening."""
        first = min(b.minutes, b.period)
        return b.charge(b.units * first * MINUTE_MS), b.charge(b.units * b.minutes * MINUTE_MS)

    def open_for(self, b: Booked, deposit: int) -> bool:
        least, whole = self.deposits(b)
        command = c.OpenContract(
            b.id,
            b.pricing,
            b.units,
            b.minutes,
            self.price,
            settlement="netted" if b.netted else "escrow",
            deposit=deposit,
            period_minutes=b.period,
            window_minutes=b.window,
        )
        taken = self.used(b.pricing) + b.units <= CAPACITY and (not deposit or least <= deposit <= whole)
        if self.issue(command, b.customer, taken) is None:
            return False
        self.opened(b, 0 if b.netted else deposit or whole)
        return True

    @rule(
        data=st.data(),
        customer=st.sampled_from(CUSTOMERS),
        pricing=st.sampled_from(PRICINGS),
        units=st.integers(1, 3),
        minutes=lengths,
        grid=grids,
        netted=st.sampled_from((False, False, False, True)),
        start=st.sampled_from((True, True, False)),
    )
    def open(
        self,
        data: st.DataObject,
        customer: str,
        pricing: str,
        units: int,
        minutes: int,
        grid: tuple[int, int],
        netted: bool,
        start: bool,
    ) -> None:
        b = self.book_units(customer, pricing, units, minutes, grid, netted)
        least, whole = self.deposits(b)
        deposit = 0 if netted else data.draw(st.just(0) | st.integers(least - 1, whole + 1), "deposit")
        if self.open_for(b, deposit) and start:
            self.start(b)

    def opened(self, b: Booked, deposit: int) -> None:
        self.booked[b.id] = b
        self.pays_in(b, deposit)
        b.terms = self.book.read(c.contracts, b.id).terms

    def start(self, b: Booked) -> None:
        now = self.book.now
        old = self.booked.get(b.renews)
        taken = b.alive and b.began is None and now < b.start_by and not b.disputed
        taken = taken and not (old is not None and old.runs(now))
        if self.issue(c.StartService(b.id), "pia", taken) is not None:
            b.began, b.ends = now, now + b.minutes * MINUTE
            if old is not None:
                old.let_go = True
            assert self.book.read(c.contracts, b.id).holds_capacity

    @rule(data=st.data())
    def start_some(self, data: st.DataObject) -> None:
        b = self.some(data, lambda b: b.began is None)
        if b is not None:
            self.start(b)

    @rule(data=st.data(), minutes=lengths, goes_on=st.booleans())
    def renew(self, data: st.DataObject, minutes: int, goes_on: bool) -> None:
        """The renewal may start the moment the old contract is over, before that one has settled."""
        old = self.some(data, lambda b: b.runs(self.book.now))
        if old is None:
            return
        self.numbers += 1
        id = f"c{self.numbers}"
        before = self.booked.get(old.renewal)
        taken = not old.disputed and (before is None or (not before.alive and before.began is None))
        command = c.RenewContract(old.id, id, minutes, self.price)
        if self.issue(command, old.customer, taken) is None:
            return
        assert old.ends is not None
        by, grid = old.ends + timedelta(hours=24), (old.period, old.window)
        b = Booked(
            id, old.customer, old.pricing, old.units, minutes, self.price, old.netted, *grid, by, old.root
        )
        b.renews, old.renewal = old.id, id
        self.opened(b, 0 if b.netted else b.charge(b.units * minutes * MINUTE_MS))
        if goes_on:
            self.start(b)
            self.book.now = old.ends
            self.start(b)

    @rule(data=st.data(), ms=st.sampled_from((0, 1)))
    def expire(self, data: st.DataObject, ms: int) -> None:
        """At the deadline, or just before it; whoever has started goes on."""
        b = self.some(data, lambda b: b.began is None) or self.some(data)
        if b is None:
            return
        waits = b.alive and b.began is None
        if waits:
            self.book.now = max(self.book.now, b.start_by - ms * MS)
        releases = waits and b.disputed and self.holds(b) and self.book.now >= b.start_by
        taken = not waits or releases or (self.book.now >= b.start_by and not b.disputed)
        if self.issue(c.ExpireContract(b.id), "clock", taken, "worker"):
            assert waits
            if releases:
                b.let_go = True
            else:
                self.closes(b)

    @rule(price=prices)
    def move_price(self, price: int) -> None:
        self.price = price
        self.book.issue(SetLaneBounds("compute", "eu", "bronze", price, price))

    # The service

    @rule(
        data=st.data(),
        part=st.sampled_from((101, 100, 0)) | st.integers(0, 101),
        seq=st.sampled_from((1, 1, 1, 0, -1)),
        by=st.sampled_from(("pia", "pia", "pia", "ana")),
    )
    def meter(self, data: st.DataObject, part: int, seq: int, by: str) -> None:
        b = self.some(data, lambda b: b.began is not None)
        if b is None:
            return
        now = self.book.now
        most = b.units * b.usable(now)
        total = most + 1 if part == 101 else b.metered + (most - b.metered) * part // 100
        if part == 0:
            total = b.metered - data.draw(st.integers(0, 1), "fall")
        self.metered(b, b.seq + seq, total, by)

    def metered(self, b: Booked, seq: int, total: int, by: str = "pia") -> None:
        now = self.book.now
        again = (seq, total) == (b.seq, b.metered)
        news = seq > b.seq and b.metered <= total <= b.units * b.usable(now) and now < b.due(b.last)
        taken = by == "pia" and not b.closed and (again or news)
        if self.issue(c.MeterUsage(b.id, seq, total), by, taken) is not None:
            b.billable = min(b.billable + total - b.metered, b.units * b.usable(now) - b.forgone)
            b.seq, b.metered = seq, total

    @rule(data=st.data(), waits=st.lists(st.sampled_from((0, 1, 90_000, 840_001)), max_size=4))
    def pause_and_resume(self, data: st.DataObject, waits: list[int]) -> None:
        """In turn, with some time between; the last pause may stay open. Then all that is possible was used."""
        b = self.some(data, lambda b: b.began is not None)
        if b is None:
            return
        for ms in (0, *waits):
            self.book.now += ms * MS
            runs = b.runs(self.book.now)
            if self.issue(c.PauseContract(b.id), b.customer, runs and not b.paused) is not None:
                b.pauses.append([b.ms(self.book.now)])
            elif self.issue(c.ResumeContract(b.id), b.customer, runs and b.paused) is not None:
                b.pauses[-1].append(b.ms(self.book.now))
        most = b.units * b.usable(self.book.now)
        self.metered(b, b.seq + 1, most + 1)
        self.metered(b, b.seq + 1, most)

    @rule(data=st.data(), missed=st.integers(0, 3), back=st.integers(-1, 6))
    def report(self, data: st.DataObject, missed: int, back: int) -> None:
        """A window of the last few, or one that has not ended."""
        b = self.some(data, lambda b: b.began is not None)
        if b is not None:
            window = max(b.ms(self.book.now) // (b.window * MINUTE_MS) - back, 0)
            self.reported(b, window, missed)

    @rule(data=st.data(), missed=st.integers(0, 3))
    def report_all(self, data: st.DataObject, missed: int) -> None:
        b = self.some(data, lambda b: b.began is not None)
        if b is not None:
            for window in range(max(b.ms(self.book.now) // (b.window * MINUTE_MS), 1)):
                self.reported(b, window, missed)

    def reported(self, b: Booked, window: int, missed: int) -> None:
        now = self.book.now
        begins, ends = b.span(window, b.window)
        number = begins // (b.period * MINUTE_MS)
        assert b.began is not None
        taken = begins < b.length and now >= b.began + ends * MS and window not in b.reports
        taken = taken and not b.closed and number >= len(b.counted) and now < b.due(number)
        command = c.ReportServiceLevel(b.id, window, *LEVELS[missed])
        events = self.issue(command, "monitor", taken, "worker")
        if events is None:
            return
        b.reports[window] = 0 if b.excused(window) else missed
        assert len(events[0].missed) == b.reports[window]
        in_a_row = max(
            sum(1 for n in range(first, first + 3) if b.reports.get(n))
            for first in range(window - 2, window + 1)
        )
        assert (len(events) == 2) == (in_a_row == 3 and not b.breached)
        b.breached = b.breached or in_a_row == 3

    # Money

    @rule(data=st.data(), amount=st.integers(1, 10**7))
    def top_up(self, data: st.DataObject, amount: int) -> None:
        b = self.some(data)
        if b is not None:
            taken = not b.netted and not b.disputed and not b.closed
            if self.issue(c.TopUpEscrow(b.id, amount), b.customer, taken) is not None:
                self.pays_in(b, amount)

    @rule(data=st.data(), ahead=st.sampled_from((0, 0, 0, 0, 1, -1)))
    def settle_some(self, data: st.DataObject, ahead: int) -> None:
        b = self.some(data)
        if b is not None:
            self.settle(b, max(len(b.counted) + ahead, 0))

    def settle(self, b: Booked, number: int) -> None:
        repeat = b.closed or number < len(b.counted)
        due = b.began is not None and number == len(b.counted) and self.book.now >= b.due(number)
        releases = due and b.disputed and b.alive and not b.let_go and self.book.now >= b.due(b.last)
        taken = repeat or releases or (due and not b.disputed)
        events = self.issue(c.SettlePeriod(b.id, number), "clock", taken, "worker")
        if events is None or repeat:
            assert not events
            return
        if releases:
            b.let_go = True
            return
        until, charge, penalty = b.comes_to(number)
        event = events[0]
        assert (event.charge, event.unit_ms) == (charge, until - (b.counted[-1] if b.counted else 0))
        b.counted.append(until)
        if any(b.reports.get(window) for window in b.windows(number)):
            possible = b.units * b.usable_until(b.span(number, b.period)[1])
            b.forgone = max(b.forgone, possible - b.billable)
        if b.netted:
            assert (event.penalty, event.due) == (penalty, charge - penalty)
            assert event.fee == math.ceil(Fraction(charge - penalty, 100))
            b.owed += event.due
            unpaid = 0
        else:
            unpaid = self.paid_out(b, event, charge, penalty)
        if number == b.last or (unpaid and b.alive):
            assert event.last
            self.closes(b)
        elif not b.netted and b.pricing != "pay_as_you_go" and b.runs(self.book.now):
            next_begins, next_ends = b.span(number + 1, b.period)
            if b.remaining < b.charge(b.units * next_ends) - b.charge(b.units * next_begins):
                b.ends, b.alive = self.book.now, False
                assert [each.due_at for each in events if isinstance(each, c.ContractOverdrawn)] == [
                    event.due_at
                ]
                if b.paused:
                    b.pauses[-1].append(b.length)
        if not b.closed:
            assert event.due_at == b.due(number + 1)

    def paid_out(self, b: Booked, event: c.PeriodSettled, charge: int, penalty: int) -> int:
        """The penalty first, then the provider with the fee, as far as the escrow goes."""
        there = b.remaining
        back = min(penalty, there)
        share = min(charge - penalty, there - back)
        fee = math.ceil(Fraction(share, 100))
        assert (event.penalty, event.paid, event.fee) == (back, share - fee, fee)
        assert event.unpaid == charge - back - share
        b.penalties += back
        b.paid += share - fee
        b.fees += fee
        self.wallets[b.customer] += back
        self.wallets["pia"] += share - fee
        self.fees += fee
        return charge - back - share

    @rule(
        data=st.data(),
        periods=st.integers(1, 5),
        misses=st.lists(st.sampled_from((None, 0, 1, 1, 2, 3)), min_size=12, max_size=12),
        part=st.integers(0, 100),
    )
    def live_on(self, data: st.DataObject, periods: int, misses: list[int | None], part: int) -> None:
        """Usage and windows are reported, and periods settle twice: the second time is a mere repeat."""
        b = self.some(data, lambda b: b.began is not None and not b.closed)
        for _ in range(periods if b else 0):
            if b is None or b.began is None or b.closed:
                return
            number = len(b.counted)
            begins, ends = b.span(number, b.period)
            self.book.now = max(self.book.now, b.began + ends * MS)
            self.metered(
                b, b.seq + 1, b.metered + (b.units * b.usable(self.book.now) - b.metered) * part // 100
            )
            first = begins // (b.window * MINUTE_MS)
            for window, missed in zip(range(first, first + b.period // b.window), misses, strict=False):
                if missed is not None:
                    self.reported(b, window, missed)
            self.book.now = max(self.book.now, b.due(number))
            self.settle(b, number)
            if not b.disputed:
                self.settle(b, number)

    @rule()
    def settle_all(self) -> None:
        """What the timers do, with the limit of a few periods each."""
        for b in self.booked.values():
            for _ in range(4):
                if b.began and not b.closed and not b.disputed and self.book.now >= b.due(len(b.counted)):
                    self.settle(b, len(b.counted))

    # The end

    @rule(data=st.data(), party=st.sampled_from(("customer", "provider", "stranger")))
    def terminate(self, data: st.DataObject, party: str) -> None:
        b = self.some(data, lambda b: b.alive or party == "stranger")
        if b is None:
            return
        now = self.book.now
        by = {"customer": b.customer, "provider": "pia", "stranger": "eve"}[party]
        waits = b.alive and b.began is None
        taken = party != "stranger" and not b.disputed and (waits or b.runs(now))
        events = self.issue(c.TerminateContract(b.id, "-"), by, taken)
        if events is None:
            return
        if waits:
            self.closes(b)
            return
        used = b.units * b.ms(now)
        free = party not in NOTICE_BY.get(b.pricing, ()) or (party == "customer" and b.breached)
        more = b.units * min(60 * MINUTE_MS, b.length - b.ms(now))
        b.notice = 0 if free else b.charge(used + more) - b.charge(used)
        assert events[0].notice == b.notice
        if b.paused:
            b.pauses[-1].append(b.ms(now))
        b.by, b.ends, b.alive = party, now, False
        assert events[0].due_at == b.due(len(b.counted))

    @rule(data=st.data())
    def open_dispute(self, data: st.DataObject) -> None:
        b = self.some(data)
        if b is not None:
            taken = not b.netted and not b.disputed and b.remaining > 0
            if self.issue(Dispute(b.id, f"x-{b.id}"), b.customer, taken) is not None:
                b.disputed = True

    @precondition(lambda self: any(b.disputed for b in self.booked.values()))
    @rule(data=st.data(), part=st.integers(0, 100), off=st.sampled_from((0, 0, 0, 1, -1)))
    def decide_dispute(self, data: st.DataObject, part: int, off: int) -> None:
        b = self.some(data, lambda b: b.disputed)
        assert b is not None
        back = b.remaining * part // 100
        rest = b.remaining - back
        taken = off == 0
        if self.issue(Split(b.id, f"x-{b.id}", back, rest + off), "operator", taken) is not None:
            b.paid += rest
            self.wallets["pia"] += rest
            b.disputed = False
            self.closes(b)

    @rule(data=st.data(), rating=st.integers(0, 6))
    def review(self, data: st.DataObject, rating: int) -> None:
        b = self.some(data, lambda b: b.began is not None and not b.alive and not b.reviewed)
        if b is None:
            return
        ended_at = self.book.read(c.contracts, b.id).ended_at
        assert ended_at is not None
        taken = 1 <= rating <= 5 and self.book.now < ended_at + timedelta(days=30)
        if self.issue(c.ReviewProvider(b.id, rating), b.customer, taken) is not None:
            b.reviewed = True
            self.issue(c.ReviewProvider(b.id, rating), b.customer, False)

    @rule(ms=st.sampled_from((1, 59_999, 60_000, 300_000, 900_000, 1_800_001, 3_600_000, 86_400_000)))
    def wait(self, ms: int) -> None:
        self.book.now += ms * MS

    # What always holds

    def posted(self, account: str) -> int:
        return int(self.book.read(ledger.accounts, account).posted.get(FOG, 0))

    @invariant()
    def every_token_is_where_the_model_has_it(self) -> None:
        assert {person: self.posted(f"wallet:{person}") for person in self.wallets} == self.wallets
        assert self.posted(ledger.FEES) == self.fees
        held = [s for s in self.book.states.values() if isinstance(s, ledger.Account)]
        assert sum(account.posted.get(FOG, 0) for account in held) == 0

    @invariant()
    def escrow_adds_up(self) -> None:
        for b in self.booked.values():
            kept = self.book.read(c.contracts, b.id)
            assert kept.deposited == kept.paid + kept.fees + kept.penalties + kept.refunded + kept.remaining
            assert (kept.deposited, kept.paid, kept.fees) == (b.deposited, b.paid, b.fees)
            assert (kept.penalties, kept.refunded) == (b.penalties, b.refunded)
            assert self.posted(f"escrow:{b.id}") == kept.remaining >= 0
            assert not (b.closed and kept.remaining)
            assert not (b.owed and b.deposited), "no period is both paid and an obligation"
            assert kept.closed == b.closed

    @invariant()
    def units_are_held_once_and_within_capacity(self) -> None:
        for pricing in PRICINGS:
            used = self.book.read(offerings, pricing).used
            assert 0 <= used == self.used(pricing) <= CAPACITY

    @invariant()
    def terms_never_change_and_usage_never_falls(self) -> None:
        for b in self.booked.values():
            kept = self.book.read(c.contracts, b.id)
            assert kept.terms == b.terms
            assert (kept.unit_ms, kept.meter_seq) == (b.metered, b.seq)

    @invariant()
    def charges_stay_within_the_whole(self) -> None:
        for b in self.booked.values():
            charged = b.charge(b.counted[-1]) if b.counted else 0
            assert charged <= b.terms.whole_charge
            assert b.paid + b.fees + b.penalties <= max(b.deposited, 0)

    @invariant()
    def state_keeps_only_what_is_not_settled(self) -> None:
        for b in self.booked.values():
            kept = self.book.read(c.contracts, b.id)
            if b.closed and not kept.misses:
                assert not kept.pauses
            oldest = len(b.counted) * (b.period // b.window) - 2
            assert all(window >= oldest for window in kept.misses) or b.closed


TestContracts = ContractMachine.TestCase
TestContracts.settings = settings(max_examples=3 * EXAMPLES, stateful_step_count=40, deadline=None)
