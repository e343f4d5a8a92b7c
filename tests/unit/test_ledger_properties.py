"""The ledger against a plain model of it, over random histories: same answers, same balances, nothing lost.

The model knows one number per account and a list per hold. `FOGBOOK_EXAMPLES` scales the number of histories.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain import ledger
from domain._kernel import FOG, Rejected
from domain.platform import CreateZone
from tests.scenario import Book

PEOPLE = ("ana", "ben", "cleo")
FUNDS = (ledger.TREASURY, ledger.REWARDS, ledger.COMMUNITY)
EXAMPLES = int(os.environ.get("FOGBOOK_EXAMPLES", "300"))

people = st.sampled_from(PEOPLE)
strangers = st.none() | st.none() | st.none() | st.sampled_from((*PEOPLE, "operator"))
accounts = st.sampled_from((*(f"wallet:{p}" for p in PEOPLE), *FUNDS))
amounts = st.integers(1, 40) | st.integers(-2, 120) | st.integers(1, 10**37)
hours = st.integers(0, 5)
picks = st.integers(0, 99)
hold_ids = st.sampled_from(("h1", "h2", "h3", "h4"))


@dataclass
class Hold:
    wallet: str
    payee: str
    placed: int
    expires: int
    captured: int = 0
    given_back: int = 0
    closed: bool = False

    @property
    def remaining(self) -> int:
        return self.placed - self.captured - self.given_back


class LedgerMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.book = Book()
        self.book.issue(CreateZone("main"))
        self.status: dict[str, str] = {f"wallet:{p}": "absent" for p in PEOPLE}
        self.balance: dict[str, int] = {}
        self.holds: dict[str, Hold] = {}
        self.minted = self.burned = self.hour = 0
        self.reversible: dict[str, tuple[str, str, int]] = {}
        # A world in which things can happen: random steps alone would hardly ever get here.
        for person in ("ana", "ben"):
            self.open_wallet(person, person)
            self.mint(f"wallet:{person}", 100)
        self.mint(ledger.REWARDS, 100)

    # The model

    def held(self, account: str) -> int:
        return sum(h.remaining for h in self.holds.values() if h.wallet == account and not h.closed)

    def available(self, account: str) -> int:
        return self.balance.get(account, 0) - self.held(account)

    def spends(self, by: str, account: str) -> bool:
        if account in self.status:
            return account == f"wallet:{by}" and self.status[account] == "open"
        return by == "operator"

    def receives(self, account: str) -> bool:
        return self.status.get(account, "open") in ("open", "frozen")

    def shift(self, source: str, target: str, amount: int) -> None:
        self.balance[source] = self.balance.get(source, 0) - amount
        self.balance[target] = self.balance.get(target, 0) + amount

    def actor(self, account: str, stranger: str | None) -> str:
        """The one who may spend from the account, unless a stranger tries."""
        return stranger or (account.split(":")[1] if account in self.status else "operator")

    def one_of(self, things: dict[str, Any], pick: int) -> str:
        """One that exists, the latest ones most often; and now and then one that does not."""
        return "missing" if pick == 99 else list(things)[-1 - pick % len(things)]

    def issue(self, command: Any, by: str, allowed: bool, role: str | None = None) -> bool:
        try:
            self.book.issue(command, by, role)
        except Rejected as rule:
            refused: Rejected | None = rule
        else:
            refused = None
        assert (refused is None) == allowed, f"{command} by {by}: {refused!r} {refused and refused.facts}"
        return allowed

    # Wallets

    @rule(who=people, by=people)
    def open_wallet(self, who: str, by: str) -> None:
        wallet = f"wallet:{who}"
        allowed = who == by and self.status[wallet] in ("absent", "closed")
        if self.issue(ledger.OpenWallet(wallet), by, allowed):
            self.status[wallet] = "open"

    @rule(who=people)
    def close_wallet(self, who: str) -> None:
        wallet = f"wallet:{who}"
        allowed = self.status[wallet] == "open" and not self.balance.get(wallet) and not self.held(wallet)
        if self.issue(ledger.CloseWallet(wallet), who, allowed):
            self.status[wallet] = "closed"

    @rule(who=people)
    def freeze(self, who: str) -> None:
        wallet = f"wallet:{who}"
        if self.issue(ledger.FreezeWallet(wallet, "-"), "operator", self.receives(wallet)):
            self.status[wallet] = "frozen"

    @rule(who=people)
    def unfreeze(self, who: str) -> None:
        wallet = f"wallet:{who}"
        if self.issue(ledger.UnfreezeWallet(wallet, "-"), "operator", self.status[wallet] == "frozen"):
            self.status[wallet] = "open"

    # Value

    @rule(to=accounts, amount=amounts)
    def mint(self, to: str, amount: int) -> None:
        fits = self.minted - self.burned + amount < 10**38
        allowed = amount > 0 and self.receives(to) and fits
        if self.issue(ledger.MintTokens(to, amount, "-", "-"), "operator", allowed):
            self.minted += amount
            self.shift(ledger.WORLD, to, amount)

    @rule(source=accounts, stranger=strangers, amount=amounts)
    def burn(self, source: str, stranger: str | None, amount: int) -> None:
        by = self.actor(source, stranger)
        allowed = 0 < amount <= self.available(source) and self.spends(by, source)
        if self.issue(ledger.BurnTokens(source, amount, "-"), by, allowed):
            self.burned += amount
            self.shift(source, ledger.WORLD, amount)

    @rule(source=accounts, to=accounts, stranger=strangers, amount=amounts, all=st.booleans())
    def transfer(self, source: str, to: str, stranger: str | None, amount: int, all: bool) -> None:
        by = self.actor(source, stranger)
        amount = self.available(source) if all else amount
        able = self.spends(by, source) and self.receives(to) and source != to
        allowed = able and 0 < amount <= self.available(source)
        if self.issue(ledger.Transfer(source, to, amount), by, allowed):
            self.shift(source, to, amount)
            self.reversible[f"c{self.book.commands}"] = (source, to, amount)

    @precondition(lambda self: self.reversible)
    @rule(pick=picks)
    def reverse(self, pick: int) -> None:
        transaction = self.one_of(self.reversible, pick)
        if transaction in self.reversible:
            source, target, amount = self.reversible[transaction]
            allowed = amount > 0 and self.available(target) >= amount
            if self.issue(ledger.ReverseTransaction(transaction, "-"), "operator", allowed):
                self.shift(target, source, amount)
                if self.status.get(source) in ("absent", "closed"):
                    self.status[source] = "open"
                self.reversible[transaction] = (source, target, 0)

    @rule(
        pool=st.sampled_from(FUNDS), to=st.lists(people, max_size=3), amount=amounts, extra=st.integers(0, 5)
    )
    def distribute(self, pool: str, to: list[str], amount: int, extra: int) -> None:
        total = amount * len(to) + extra
        allocations = tuple(ledger.Allocation(f"wallet:{p}", amount) for p in to)
        # Dust of the community pool stays where it is.
        leaves = total - extra if pool == ledger.COMMUNITY else total
        allowed = bool(to) and amount > 0 and leaves <= self.available(pool)
        id = f"d{len(self.book.events)}"
        command = ledger.DistributeRewards(id, "harvest", pool, allocations, max(total, 0))
        if self.issue(command, "operator", allowed):
            for person in to:
                self.shift(pool, f"wallet:{person}", amount)
                if not self.receives(f"wallet:{person}"):
                    self.status[f"wallet:{person}"] = "open"
            if leaves == total:
                self.shift(pool, ledger.COMMUNITY, extra)

    # Holds

    @rule(id=hold_ids, who=people, stranger=strangers, payee=people, amount=amounts, hours=hours)
    def place_hold(
        self, id: str, who: str, stranger: str | None, payee: str, amount: int, hours: int
    ) -> None:
        wallet = f"wallet:{who}"
        by = stranger or who
        free = id not in self.holds and self.spends(by, wallet) and hours > 0
        # Amounts below 1 are refused where a command is read; a decision is never given them.
        amount = max(amount, 1)
        expires = self.book.now + timedelta(hours=hours)
        command = ledger.PlaceHold(id, wallet, payee, amount, expires)
        if self.issue(command, by, free and amount <= self.available(wallet)):
            self.holds[id] = Hold(wallet, payee, amount, self.hour + hours)

    @precondition(lambda self: self.holds)
    @rule(pick=picks, stranger=strangers, amount=amounts, all=st.booleans(), final=st.booleans())
    def capture(self, pick: int, stranger: str | None, amount: int, all: bool, final: bool) -> None:
        id = self.one_of(self.holds, pick)
        hold = self.holds.get(id)
        by = stranger or (hold.payee if hold else "ana")
        to = f"wallet:{by}"
        allowed = False
        if hold is not None:
            amount = max(hold.remaining if all else amount, 1)
            live = not hold.closed and self.hour < hold.expires
            allowed = hold.payee == by and live and amount <= hold.remaining and self.receives(to)
        if self.issue(ledger.CaptureHold(id, max(amount, 1), to, final), by, allowed):
            assert hold is not None
            hold.captured += amount
            self.shift(hold.wallet, to, amount)
            if final or not hold.remaining:
                hold.given_back += hold.remaining
                hold.closed = True

    @precondition(lambda self: self.holds)
    @rule(pick=picks, stranger=strangers)
    def release(self, pick: int, stranger: str | None) -> None:
        id = self.one_of(self.holds, pick)
        hold = self.holds.get(id)
        by = stranger or (hold.payee if hold else "ana")
        allowed = False
        if hold is not None and not hold.closed:
            concerned = by in (hold.payee, hold.wallet.split(":")[1], "operator")
            allowed = by == hold.payee or (concerned and self.hour >= hold.expires)
        if self.issue(ledger.ReleaseHold(id), by, allowed):
            assert hold is not None
            hold.given_back += hold.remaining
            hold.closed = True

    @precondition(lambda self: self.holds)
    @rule(pick=picks)
    def expire(self, pick: int) -> None:
        id = self.one_of(self.holds, pick)
        hold = self.holds.get(id)
        allowed = hold is not None and (hold.closed or self.hour >= hold.expires)
        if self.issue(ledger.ExpireHold(id), "timer", allowed, "worker") and hold and not hold.closed:
            hold.given_back += hold.remaining
            hold.closed = True

    @rule(hours=hours)
    def wait(self, hours: int) -> None:
        self.hour += hours
        self.book.now += timedelta(hours=hours)

    # What always holds

    @invariant()
    def balances_are_those_of_the_model(self) -> None:
        states = {n: s for n, s in self.book.states.items() if isinstance(s, ledger.Account)}
        for name in {*states, *self.balance}:
            account = self.book.read(ledger.accounts, name)
            assert account.posted.get(FOG, 0) == self.balance.get(name, 0), name
            assert account.available(FOG) == self.available(name), name
            assert name == ledger.WORLD or account.available(FOG) >= 0, name
            assert account.status == self.status.get(name, "absent")

    @invariant()
    def nothing_is_made_or_lost(self) -> None:
        asset = self.book.read(ledger.assets, FOG)
        states = [s for s in self.book.states.values() if isinstance(s, ledger.Account)]
        assert sum(s.posted.get(FOG, 0) for s in states) == 0
        assert (asset.minted, asset.burned) == (self.minted, self.burned)
        assert asset.supply == -self.balance.get(ledger.WORLD, 0) <= asset.limit

    @invariant()
    def a_hold_is_what_was_captured_released_expired_and_remains(self) -> None:
        for id, hold in self.holds.items():
            state = self.book.read(ledger.holds, id)
            assert state.amount == state.captured + state.released + state.expired + state.remaining
            assert (state.captured, state.remaining) == (hold.captured, hold.remaining)
            assert state.closed == hold.closed


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)
