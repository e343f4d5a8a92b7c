"""Staking with its ledger against a naive model, over random histories of hours to weeks.

The model keeps T, S and the lots in plain dictionaries, and hands each period's rewards to every lot at once, as
exact fractions. F1 may never pay more than that, and less only by what its roundings lose: under one unit a lot
for each time it is settled, and one for all that the floored ratios lose together.
`FOGBOOK_EXAMPLES` scales the number of histories.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from domain import ledger, staking
from domain._kernel import FOG, Rejected
from domain.platform import CreateZone
from tests.scenario import Book

EXAMPLES = int(os.environ.get("FOGBOOK_EXAMPLES", "100"))
PEOPLE = ("ana", "ben", "val", "wim")
OPERATORS = {"v1": "val", "v2": "wim"}
COMMISSIONS = {"v1": 1_000, "v2": 0}
SLASHES = {"downtime": Fraction(1, 100), "double-sign": Fraction(5, 100)}
START_FUNDS = 10**12
THREE_WEEKS = timedelta(days=21)

people = st.sampled_from(PEOPLE)
names = st.sampled_from(tuple(OPERATORS))
amounts = st.integers(1, 60) | st.integers(1, 10**9)
terms = st.sampled_from((0, 0, 30, 89, 90, 100, 180, 365))


@dataclass
class Lot:
    shares: int
    multiplier: int
    unlocks_at: datetime | None = None

    @property
    def weight(self) -> int:
        return self.shares * self.multiplier


@dataclass
class Leaving:
    """An unbonding entry, or what left by redelegation."""

    owner: str
    initial: int
    balance: int
    created_at: datetime

    def owes(self, since: datetime, now: datetime, fraction: Fraction) -> int:
        if self.created_at < since or self.created_at + THREE_WEEKS <= now:
            return 0
        return math.floor(self.initial * fraction)


def multiplier(days: int) -> int:
    steps = ((30, 10_000), (90, 11_000), (180, 12_500), (365, 15_000))
    return next((weight for limit, weight in steps if days < limit), 20_000)


class StakingMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.book = Book()
        self.book.issue(CreateZone("main"))
        self.wallets = dict.fromkeys(PEOPLE, START_FUNDS)
        self.rewards = self.treasury = START_FUNDS
        self.burned = self.allocated = self.allocated_to_community = self.community = 0
        self.claimed = self.commission_paid = self.numbers = 0
        self.tokens = dict.fromkeys(OPERATORS, 0)
        self.shares = dict.fromkeys(OPERATORS, 0)
        self.lots: dict[tuple[str, str], dict[str, Lot]] = defaultdict(dict)
        self.entries: dict[tuple[str, str], Leaving] = {}
        self.moved: dict[str, list[Leaving]] = defaultdict(list)
        self.powers: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
        self.commission_due = dict.fromkeys(OPERATORS, 0)
        self.fair: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
        self.paid: dict[tuple[str, str], int] = defaultdict(int)
        self.floors: dict[tuple[str, str], int] = defaultdict(int)
        self.slashes: dict[str, str] = {}
        for person in PEOPLE:
            self.book.issue(ledger.OpenWallet(f"wallet:{person}"), person)
        for account in (*(f"wallet:{person}" for person in PEOPLE), ledger.REWARDS, ledger.TREASURY):
            self.book.issue(ledger.MintTokens(account, START_FUNDS, "-", "-"))
        for name, operator in OPERATORS.items():
            command = staking.RegisterValidator(name, 1_000, COMMISSIONS[name])
            assert self.issue(command, operator) is not None
            self.wallets[operator] -= 1_000
            self.enter(name, operator, 1_000)

    # The model

    def issue(self, command: Any, by: str = "operator", role: str | None = None) -> list[Any] | None:
        """The events; None if a rule refused, and then nothing changed. Settlements are booked here."""
        states, before = dict(self.book.states), len(self.book.events)
        try:
            events = self.book.issue(command, by, role)
        except Rejected:
            assert self.book.states == states
            return None
        for stream, event in self.book.events[before:]:
            if isinstance(event, staking.RewardsSettled):
                name, person = stream.split(":")[1:]
                self.settle(name, person, event)
        return events

    def settle(self, name: str, person: str, event: staking.RewardsSettled) -> None:
        self.claimed += event.tokens
        self.paid[name, person] += event.tokens
        self.floors[name, person] += len(self.lots[name, person])
        if event.compounded:
            self.enter(name, person, event.tokens)
        else:
            self.wallets[person] += event.tokens

    def changed(self, name: str, tokens: int) -> None:
        self.tokens[name] += tokens
        self.powers[name].append((self.book.now, self.tokens[name]))

    def enter(
        self, name: str, person: str, tokens: int, id: str = "0", weight: int = 10_000, until: Any = None
    ) -> int:
        total = self.shares[name]
        shares = math.floor(Fraction(tokens * total, self.tokens[name])) if total else tokens
        self.shares[name] += shares
        self.changed(name, tokens)
        lot = self.lots[name, person].setdefault(id, Lot(0, weight, until))
        lot.shares += shares
        return shares

    def worth(self, name: str, shares: int) -> int:
        return math.floor(Fraction(shares * self.tokens[name], self.shares[name]))

    def leave(self, name: str, person: str, id: str, tokens: int) -> None:
        lot = self.lots[name, person][id]
        part = math.ceil(Fraction(tokens * self.shares[name], self.tokens[name]))
        self.burn(name, person, id, tokens, lot.shares if tokens == self.worth(name, lot.shares) else part)

    def burn(self, name: str, person: str, id: str, tokens: int, shares: int) -> None:
        lot = self.lots[name, person][id]
        lot.shares -= shares
        assert lot.shares >= 0
        if not lot.shares:
            del self.lots[name, person][id]
        self.shares[name] -= shares
        self.changed(name, -tokens)

    def power(self, name: str, at: datetime) -> int:
        """The tokens then; in an instant of change the most that there were."""
        before = [tokens for when, tokens in self.powers[name] if when < at][-1:]
        return max(before + [tokens for when, tokens in self.powers[name] if when == at], default=0)

    def some_lot(self, data: st.DataObject) -> tuple[str, str, str, int] | None:
        """A lot and some amount of what it is worth, often all of it."""
        worths = [
            (name, person, id, self.worth(name, lot.shares))
            for (name, person), lots in self.lots.items()
            for id, lot in lots.items()
        ]
        worths = [found for found in worths if found[3]]
        if not worths:
            return None
        name, person, id, worth = data.draw(st.sampled_from(worths))
        return name, person, id, data.draw(st.just(worth) | st.integers(1, worth))

    def some_holder(self, data: st.DataObject) -> tuple[str, str]:
        """A position with something in it; anybody's where nobody stakes."""
        holders = sorted(pair for pair, lots in self.lots.items() if lots)
        return data.draw(st.sampled_from(holders or [("v1", "ana")]))

    def wait_and_unjail(self, name: str) -> None:
        """Or most histories would spend most of their steps in jail. An operator who left stakes again."""
        self.book.now += timedelta(hours=1)
        freed = self.issue(staking.Unjail(name), OPERATORS[name]) is not None
        if freed or self.issue(staking.Delegate(name, 1_000), OPERATORS[name]) is None:
            return
        self.wallets[OPERATORS[name]] -= 1_000
        self.enter(name, OPERATORS[name], 1_000)
        self.issue(staking.Unjail(name), OPERATORS[name])

    def validator(self, name: str) -> staking.Validator:
        found: staking.Validator = self.book.read(staking.validators, name)
        return found

    def pending(self, name: str, person: str) -> int:
        position = self.book.read(staking.positions, f"{name}:{person}")
        return int(position.earned(self.validator(name).ratio))

    # Stake

    @rule(name=names, person=people, amount=amounts, days=terms)
    def delegate(self, name: str, person: str, amount: int, days: int) -> None:
        if self.issue(staking.Delegate(name, amount, days), person) is None:
            return
        id = f"c{self.book.commands}" if days else "0"
        until = self.book.now + timedelta(days=days) if days else None
        self.wallets[person] -= amount
        self.enter(name, person, amount, id, multiplier(days), until)
        assert self.pending(name, person) == 0, "a new delegation has earned nothing"

    @rule(data=st.data())
    def unbond(self, data: st.DataObject) -> None:
        found = self.some_lot(data)
        if found is None:
            return
        name, person, id, amount = found
        until = self.lots[name, person][id].unlocks_at
        if self.issue(staking.BeginUnbonding(name, amount, id), person) is None:
            return
        early = until is not None and self.book.now < until
        penalty = math.ceil(Fraction(amount, 4)) if early else 0
        self.leave(name, person, id, amount)
        self.community += penalty
        rest = amount - penalty
        self.entries[name, f"c{self.book.commands}"] = Leaving(person, rest, rest, self.book.now)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.entries:
            name, id = data.draw(st.sampled_from(sorted(self.entries)))
            entry = self.entries[name, id]
            if self.issue(staking.CancelUnbonding(name, id), entry.owner) is not None:
                assert self.book.now < entry.created_at + THREE_WEEKS
                del self.entries[name, id]
                if entry.balance:
                    self.enter(name, entry.owner, entry.balance)

    @rule(days=st.sampled_from((0, 0, 1, 14, 21)))
    def complete(self, days: int) -> None:
        self.book.now += timedelta(days=days)
        for (name, id), entry in list(self.entries.items()):
            done = self.issue(staking.CompleteUnbonding(name, id), "timer", "worker")
            assert (done is not None) == (self.book.now >= entry.created_at + THREE_WEEKS)
            if done is not None:
                self.wallets[entry.owner] += entry.balance
                del self.entries[name, id]

    @rule(days=st.sampled_from((0, 0, 30, 90)))
    def expire_locks(self, days: int) -> None:
        self.book.now += timedelta(days=days)
        for (name, person), lots in self.lots.items():
            for id, lot in list(lots.items()):
                if lot.unlocks_at is None:
                    continue
                done = self.issue(staking.ExpireLock(name, person, id), "timer", "worker")
                assert (done is not None) == (self.book.now >= lot.unlocks_at)
                if done is not None:
                    del lots[id]
                    lots.setdefault("0", Lot(0, 10_000)).shares += lot.shares

    @rule(data=st.data())
    def redelegate(self, data: st.DataObject) -> None:
        found = self.some_lot(data)
        if found is None:
            return
        name, person, id, amount = found
        target = "v2" if name == "v1" else "v1"
        lot = self.lots[name, person][id]
        if self.issue(staking.Redelegate(name, target, amount, id), person) is None:
            return
        new = f"c{self.book.commands}" if lot.unlocks_at else "0"
        self.leave(name, person, id, amount)
        self.enter(target, person, amount, new, lot.multiplier, lot.unlocks_at)
        self.moved[name].append(Leaving(person, amount, amount, self.book.now))
        assert self.pending(name, person) == self.pending(target, person) == 0

    # Rewards

    @rule(amount=amounts)
    def allocate(self, amount: int) -> None:
        """Shared out over all lots at once, as they stand now."""
        self.numbers += 1
        if self.issue(staking.AllocateRewards(f"r{self.numbers}", amount)) is None:
            return
        self.rewards -= amount
        self.allocated += amount
        earning = [name for name in OPERATORS if not self.validator(name).jailed and self.tokens[name]]
        total = sum(self.tokens[name] for name in earning)
        for name in earning:
            share = math.floor(Fraction(amount * self.tokens[name], total))
            commission = math.floor(share * Fraction(COMMISSIONS[name], 10_000))
            self.commission_due[name] += commission
            weights = {
                person: sum(lot.weight for lot in self.lots[name, person].values()) for person in PEOPLE
            }
            for person, weight in weights.items():
                if weight:
                    self.fair[name, person] += Fraction((share - commission) * weight, sum(weights.values()))
        staked = self.book.read(ledger.accounts, ledger.STAKING).posted.get(FOG, 0)
        self.allocated_to_community = self.allocated - self.claimed - self.commission_paid - staked

    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        name, person = self.some_holder(data)
        if self.issue(staking.ClaimRewards(name), person) is not None:
            assert self.pending(name, person) == 0

    @rule(data=st.data(), enabled=st.sampled_from((True, True, False)))
    def compound(self, data: st.DataObject, enabled: bool) -> None:
        """The timer's claim is refused where compounding is not set."""
        name, person = self.some_holder(data)
        self.issue(staking.SetAutoCompound(name, enabled), person)
        done = self.issue(staking.ClaimRewards(name, person), "timer", "worker")
        assert (done is not None) == (enabled and bool(self.lots[name, person]))

    @rule(name=names)
    def withdraw_commission(self, name: str) -> None:
        assert self.issue(staking.WithdrawCommission(name), OPERATORS[name]) is not None
        self.wallets[OPERATORS[name]] += self.commission_due[name]
        self.commission_paid += self.commission_due[name]
        self.commission_due[name] = 0

    # Jail and slashes

    @rule(
        name=names,
        hours=st.integers(0, 48) | st.integers(0, 21 * 24 - 1),
        kind=st.sampled_from(("downtime",) * 9 + ("double-sign",)),
        free=st.sampled_from((True, True, True, False)),
    )
    def slash(self, name: str, hours: int, kind: str, free: bool) -> None:
        """A tombstone ends most of what can happen to a validator, so a double sign comes seldom."""
        self.numbers += 1
        since, fraction = self.book.now - timedelta(hours=hours), SLASHES[kind]
        base = math.floor(self.power(name, since) * fraction)
        before = len(self.book.events)
        events = self.issue(staking.Slash(name, kind, since, f"e{self.numbers}"))
        assert events is not None
        owed = 0
        for (where, _), entry in self.entries.items():
            if where == name:
                owes = entry.owes(since, self.book.now, fraction)
                owed += owes
                entry.balance -= min(owes, entry.balance)
        owed += sum(moved.owes(since, self.book.now, fraction) for moved in self.moved[name])
        other = "v2" if name == "v1" else "v1"
        for stream, event in self.book.events[before:]:
            if isinstance(event, staking.Undelegated):
                where, person = stream.split(":")[1:]
                assert where == other
                assert event.tokens == self.worth(other, event.shares) if event.shares else not event.tokens
                self.burn(other, person, event.lot, event.tokens, event.shares)
            if isinstance(event, staking.UnbondingSlashed) and stream == f"unbonding:{other}":
                self.entries[other, event.entry].balance -= event.tokens
        self.changed(name, -min(max(base - owed, 0), self.tokens[name]))
        victims = [v for e in events if isinstance(e, staking.VictimsListed) for v in e.victims]
        self.burned += sum(victim.tokens for victim in victims)
        self.slashes[f"e{self.numbers}"] = name
        if free:
            self.wait_and_unjail(name)

    @rule(data=st.data(), won=st.booleans())
    def appeal(self, data: st.DataObject, won: bool) -> None:
        if not self.slashes:
            return
        evidence = data.draw(st.sampled_from(sorted(self.slashes)))
        name = self.slashes.pop(evidence)
        if self.issue(staking.AppealSlash(evidence, "-"), OPERATORS[name]) is None:
            return
        assert self.issue(staking.DecideAppeal(evidence, won, "-")) is not None
        for victim in self.book.read(staking.slashes, evidence).victims if won else ():
            self.treasury -= victim.tokens
            if victim.kind != "bonded":
                self.wallets[victim.delegator] += victim.tokens
            elif self.shares[name]:
                self.changed(name, victim.tokens)
            else:
                self.community += victim.tokens

    @rule(name=names, amount=amounts)
    def jail(self, name: str, amount: int) -> None:
        assert self.issue(staking.Jail(name, "-")) is not None
        self.allocate(amount)
        self.wait_and_unjail(name)

    @rule(name=names)
    def unjail(self, name: str) -> None:
        self.wait_and_unjail(name)

    @rule(hours=st.integers(1, 48) | st.sampled_from((24, 7 * 24, 14 * 24, 21 * 24, 60 * 24)))
    def wait(self, hours: int) -> None:
        self.book.now += timedelta(hours=hours)

    # What always holds

    def posted(self, account: str) -> int:
        return int(self.book.read(ledger.accounts, account).posted.get(FOG, 0))

    @invariant()
    def every_token_is_where_the_model_has_it(self) -> None:
        assert {person: self.posted(f"wallet:{person}") for person in PEOPLE} == self.wallets
        assert self.posted(ledger.BONDED) == sum(self.tokens.values())
        assert self.posted(ledger.UNBONDING) == sum(entry.balance for entry in self.entries.values())
        assert (self.posted(ledger.REWARDS), self.posted(ledger.TREASURY)) == (self.rewards, self.treasury)
        assert self.posted(ledger.COMMUNITY) == self.community + self.allocated_to_community
        asset = self.book.read(ledger.assets, FOG)
        assert asset.supply == asset.minted - self.burned == -self.posted(ledger.WORLD)
        held = [s for s in self.book.states.values() if isinstance(s, ledger.Account)]
        assert sum(account.posted.get(FOG, 0) for account in held) == 0

    @invariant()
    def pools_are_the_sum_of_their_positions(self) -> None:
        for name in OPERATORS:
            found = self.validator(name)
            assert (found.tokens, found.shares) == (self.tokens[name], self.shares[name])
            shares = weight = 0
            for person in PEOPLE:
                lots = self.book.read(staking.positions, f"{name}:{person}").lots
                kept = {id: Lot(lot.shares, lot.multiplier, lot.unlocks_at) for id, lot in lots.items()}
                assert kept == self.lots[name, person]
                shares += sum(lot.shares for lot in kept.values())
                weight += sum(lot.weight for lot in kept.values())
            assert (found.shares, found.weight) == (shares, weight)

    @invariant()
    def entries_are_those_of_the_model(self) -> None:
        for name in OPERATORS:
            entries = self.book.read(staking.unbondings, name).entries
            kept = {id: (e.delegator, e.initial, e.balance, e.created_at) for id, e in entries.items()}
            assert kept == {
                id: (entry.owner, entry.initial, entry.balance, entry.created_at)
                for (where, id), entry in self.entries.items()
                if where == name
            }

    @invariant()
    def allocations_add_up_and_cover_what_is_owed(self) -> None:
        staked = self.posted(ledger.STAKING)
        paid = self.claimed + self.commission_paid + self.allocated_to_community
        assert self.allocated == paid + staked
        due = {name: self.validator(name).commission_due for name in OPERATORS}
        assert due == self.commission_due
        pending = sum(self.pending(name, person) for name in OPERATORS for person in PEOPLE)
        assert staked >= pending + sum(due.values())

    @invariant()
    def nobody_gets_more_than_his_part_nor_much_less(self) -> None:
        for (name, person), fair in self.fair.items():
            got = self.paid[name, person] + self.pending(name, person)
            roundings = self.floors[name, person] + len(self.lots[name, person]) + 1
            assert 0 <= fair - got < roundings, (name, person)


TestStaking = StakingMachine.TestCase
TestStaking.settings = settings(max_examples=3 * EXAMPLES, stateful_step_count=40, deadline=None)
