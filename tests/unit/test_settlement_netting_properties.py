"""Netting against brute force, and windows against a naive model over random histories.

The model keeps balances and obligations in plain dictionaries, nets from scratch in each round, and knows nothing of
pages or streams. Obligations are told apart by their names only, so that one that settled twice, was lost or stood in
two windows would show. `FOGBOOK_EXAMPLES` scales the number of histories.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain import ledger
from domain._kernel import Rejected
from domain.platform import CreateZone
from domain.settlement import windows as module
from domain.settlement.windows import (
    AbortWindow,
    CloseWindow,
    Departure,
    Due,
    FinaliseSettlement,
    OpenWindow,
    P,
    RecordObligation,
    RenewObligation,
    ReservePositions,
    netted,
    pages,
    settleable,
    windows,
)
from tests.scenario import Book

EXAMPLES = int(os.environ.get("FOGBOOK_EXAMPLES", "100"))
PARTIES = ("ana", "ben", "cleo", "dora", "eve")
ASSETS = ("FOG", "GPU")
Funds = Mapping[tuple[str, str], int]

parties = st.sampled_from(PARTIES)
assets = st.sampled_from(ASSETS)
amounts = st.integers(1, 60) | st.integers(1, 10**37)
funds = st.dictionaries(st.tuples(parties, assets), st.integers(0, 100), max_size=10)


@st.composite
def dues_of(draw: st.DrawFn, amounts: st.SearchStrategy[int] = amounts) -> list[Due]:
    """Obligations between any two of the parties, in any asset."""
    pairs = st.tuples(parties, parties).filter(lambda pair: pair[0] != pair[1])
    drawn = draw(st.lists(st.tuples(pairs, assets, amounts), max_size=20))
    return [Due(f"s{i}", *pair, asset, amount) for i, (pair, asset, amount) in enumerate(drawn)]


def net_of(dues: Sequence[Due], party: str, asset: str) -> int:
    owed = sum(due.amount for due in dues if (due.creditor, due.asset) == (party, asset))
    return owed - sum(due.amount for due in dues if (due.debtor, due.asset) == (party, asset))


def unable(dues: Sequence[Due], funds: Funds) -> set[str]:
    return {
        party
        for party in PARTIES
        for asset in ASSETS
        if -net_of(dues, party, asset) > funds.get((party, asset), 0)
    }


def what_can_settle(dues: Sequence[Due], funds: Funds) -> list[Due]:
    """All that cannot pay leave, the rest is netted again from scratch, until all can."""
    left = list(dues)
    while out := unable(left, funds):
        left = [due for due in left if not {due.debtor, due.creditor} & out]
    return left


def settleable_with(dues: Sequence[Due], funds: Funds) -> tuple[list[Due], list[Departure]]:
    def why_not(party: str, nets: Mapping[str, int]) -> Departure | None:
        for asset, net in nets.items():
            if -net > funds.get((party, asset), 0):
                return Departure(party, "cannot-pay", asset, -net, funds.get((party, asset), 0))
        return None

    return settleable(dues, why_not)


@given(dues_of())
def test_nets_are_gross_flows_and_add_up_to_zero(dues: list[Due]) -> None:
    nets = netted(dues)
    assert nets == {
        (party, due.asset): net_of(dues, party, due.asset)
        for due in dues
        for party in (due.debtor, due.creditor)
    }
    for asset in ASSETS:
        of_asset = [net for (_, each), net in nets.items() if each == asset]
        assert sum(of_asset) == 0
        paid = sum(net for net in of_asset if net > 0)
        assert paid == -sum(net for net in of_asset if net < 0)
        assert paid <= sum(due.amount for due in dues if due.asset == asset)


@given(dues_of(st.integers(1, 60)), funds)
def test_exclusion_is_what_a_naive_model_finds(dues: list[Due], funds: Funds) -> None:
    staying, left = settleable_with(dues, funds)
    assert staying == what_can_settle(dues, funds)
    assert not unable(staying, funds)
    gone = {departure.party for departure in left}
    assert len(gone) == len(left)
    for due in dues:
        assert (due in staying) == (not {due.debtor, due.creditor} & gone)


@given(dues_of(st.integers(1, 60)), funds, st.permutations(PARTIES), st.randoms(use_true_random=False))
def test_exclusion_depends_neither_on_names_nor_on_order(
    dues: list[Due], funds: Funds, names: list[str], random: Any
) -> None:
    other = dict(zip(PARTIES, names, strict=True))
    renamed = [replace(due, debtor=other[due.debtor], creditor=other[due.creditor]) for due in dues]
    random.shuffle(renamed)
    here, _ = settleable_with(dues, funds)
    there, _ = settleable_with(renamed, {(other[party], asset): f for (party, asset), f in funds.items()})
    assert {due.obligation for due in here} == {due.obligation for due in there}


@dataclass
class Listed:
    """A window of the model."""

    status: str = "open"
    inside: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    entered: int = 0
    positions: set[tuple[str, str]] = field(default_factory=set)


BOUNDS = replace(
    P,
    most_obligations=14,
    most_obligations_of_debtors=11,
    most_positions=9,
    most_positions_of_debtors=8,
    most_own_obligations=3,
    most_carries=1,
)
START = 200


class WindowsMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        module.P, module.PAGE = BOUNDS, 3
        self.book = Book()
        self.book.issue(CreateZone("main"))
        self.book.issue(ledger.DefineAsset("GPU", 0))
        self.funds: dict[tuple[str, str], int] = {}
        for party in PARTIES:
            self.book.issue(ledger.OpenWallet(f"wallet:{party}"), party)
            for asset in ASSETS:
                amount = START if party in ("ana", "ben", "cleo") else 0
                self.funds[party, asset] = amount
                if amount:
                    self.book.issue(ledger.MintTokens(f"wallet:{party}", amount, "-", "-", asset))
        self.held: dict[tuple[str, str], int] = {}
        self.windows: dict[str, Listed] = {}
        self.open = self.settling = ""
        self.dues: dict[str, Due] = {}
        self.carries: Counter[str] = Counter()
        self.lapsed: dict[str, str] = {}
        self.settled: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        """The window that each obligation was recorded in."""

    def teardown(self) -> None:
        module.P, module.PAGE = P, 100

    # The model

    def issue(self, command: Any, by: str = "operator", role: str | None = None) -> list[Any] | None:
        """The events; None if a rule refused, and then nothing changed."""
        states = dict(self.book.states)
        try:
            return self.book.issue(command, by, role)
        except Rejected:
            assert self.book.states == states
            return None

    def list_of(self, names: set[str]) -> list[Due]:
        return [due for name, due in self.dues.items() if name in names]

    def enter(self, window: str, names: set[str]) -> None:
        into = self.windows[window]
        into.inside |= names
        into.entered += len(names)
        for due in self.list_of(names):
            into.positions |= {(due.debtor, due.asset), (due.creditor, due.asset)}

    def leave(self, window: str, names: set[str], carries: int) -> None:
        source = self.windows[window]
        source.inside -= names
        for name in names:
            self.carries[name] += carries
            if self.carries[name] > BOUNDS.most_carries:
                self.lapsed[name] = window
            else:
                source.waiting.add(name)
        self.move_on()

    def move_on(self) -> None:
        for source in self.windows.values():
            if self.open and source.waiting:
                self.enter(self.open, source.waiting)
                source.waiting = set()

    def fits(self, due: Due, of_system: bool) -> bool:
        most = BOUNDS.most_obligations if of_system else BOUNDS.most_obligations_of_debtors
        most_positions = BOUNDS.most_positions if of_system else BOUNDS.most_positions_of_debtors
        at_work = [w for name, w in self.windows.items() if name in (self.open, self.settling) or w.waiting]
        # A window that is being settled, or in which obligations wait, counts with all that ever entered it.
        if sum(w.entered for w in at_work) >= most:
            return False
        taken = {position for w in at_work for position in w.positions}
        new = {(due.debtor, due.asset), (due.creditor, due.asset)}
        return new <= taken or len(new | taken) <= most_positions

    def end(self, window: str, status: str) -> None:
        self.windows[window].status = status
        self.settling = "" if self.settling == window else self.settling
        self.open = "" if self.open == window else self.open
        self.held = {}

    # Steps

    @rule(
        pairs=st.lists(st.permutations(PARTIES), min_size=1, max_size=5),
        asset=assets,
        amount=st.sampled_from((*range(1, 80), 10**6)),
        number=st.integers(0, 40),
        own=st.booleans(),
    )
    def record(self, pairs: list[list[str]], asset: str, amount: int, number: int, own: bool) -> None:
        if not self.open and pairs[0][0] != "eve":
            self.open_window()
        for further, (debtor, creditor, *_) in enumerate(pairs):
            self.record_one(debtor, creditor, asset, amount + further, number + further, own)

    def record_one(self, debtor: str, creditor: str, asset: str, amount: int, number: int, own: bool) -> None:
        name = f"{debtor}:s{number}" if own else f"s{number}"
        due = Due(name, debtor, creditor, asset, amount)
        command = RecordObligation(debtor, creditor, amount, f"s{number}", asset=asset)
        events = self.issue(command, debtor) if own else self.issue(command, "worker", "worker")
        if name in self.dues:
            assert events == ([] if self.dues[name] == due else None)
            return
        recorded_here = [n for n, window in self.first.items() if window == self.open]
        mine = [n for n in recorded_here if n.startswith(f"{debtor}:")]
        too_many = own and len(mine) >= BOUNDS.most_own_obligations
        if not self.open or not self.fits(due, not own) or too_many:
            assert events is None
            return
        assert events is not None
        self.dues[name] = due
        self.first[name] = self.open
        self.enter(self.open, {name})

    @rule(another=st.sampled_from((True, True, False)))
    def take_the_next_step(self, another: bool) -> None:
        """What the timers and reactions do."""
        if self.settling:
            steps = {"closed": self.reserve, "settling": self.finalise}
            steps[self.windows[self.settling].status](self.settling)
        elif self.open:
            self.close(another)
        else:
            self.open_window()

    @precondition(lambda self: self.windows)
    @rule(data=st.data())
    def take_any_step(self, data: st.DataObject) -> None:
        """In whatever order, and again."""
        name = data.draw(st.sampled_from(sorted(self.windows)[-3:]))
        steps = (self.reserve, self.finalise, None, None, self.abort)
        step = data.draw(st.sampled_from(steps))
        if step is not None:
            step(name)
        elif self.open and data.draw(st.booleans()):
            self.close(another=True)
        else:
            self.open_window()

    def open_window(self) -> None:
        name = f"w{len(self.windows):02d}"
        events = self.issue(OpenWindow(name))
        assert (events is None) == bool(self.open)
        if events is not None:
            self.windows[name] = Listed()
            self.open = name
            self.move_on()

    def close(self, another: bool) -> None:
        following = f"w{len(self.windows):02d}" if another else ""
        events = self.issue(CloseWindow(self.open, following))
        assert (events is None) == bool(self.settling)
        if events is not None:
            self.windows[self.open].status = "closed"
            self.settling, self.open = self.open, following
            if following:
                self.windows[following] = Listed()

    def reserve(self, name: str) -> None:
        window = self.windows[name]
        events = self.issue(ReservePositions(name), "worker", "worker")
        if window.status == "open":
            assert events is None
        elif window.status != "closed":
            assert events == []
        else:
            dues = self.list_of(window.inside)
            staying = what_can_settle(dues, self.funds)
            if staying:
                window.status = "settling"
                self.held = {
                    (party, asset): -net_of(staying, party, asset)
                    for party in PARTIES
                    for asset in ASSETS
                    if net_of(staying, party, asset) < 0
                }
            else:
                self.end(name, "aborted")
            gone = window.inside - {due.obligation for due in staying}
            self.leave(name, gone, 1)

    def finalise(self, name: str) -> None:
        window = self.windows[name]
        events = self.issue(FinaliseSettlement(name), "worker", "worker")
        if window.status in ("open", "closed"):
            assert events is None
            return
        if window.status in ("settled", "aborted"):
            assert events == []
            return
        assert events is not None
        dues = self.list_of(window.inside)
        for party in PARTIES:
            for asset in ASSETS:
                self.funds[party, asset] += net_of(dues, party, asset)
        entered = [
            event.amount
            for event in events
            if isinstance(event, ledger.Credited) and event.source.startswith("wallet:")
        ]
        assert sum(entered) == sum(self.held.values()), "what is paid is what was held, the sum of net payers"
        self.settled.update(window.inside)
        window.inside = set()
        self.end(name, "settled")

    def abort(self, name: str) -> None:
        window = self.windows[name]
        held = self.held
        events = self.issue(AbortWindow(name, "-"))
        if window.status in ("settled", "aborted"):
            assert events is None
            return
        settling = window.status == "settling"
        self.end(name, "aborted")
        self.held = {} if settling else held
        self.leave(name, set(window.inside), 0)

    @precondition(lambda self: self.lapsed)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.lapsed)))
        due = self.dues[name]
        events = self.issue(RenewObligation(name, self.lapsed[name]), due.creditor)
        if not self.open or not self.fits(due, False):
            assert events is None
            return
        assert events is not None
        del self.lapsed[name]
        self.carries[name] = 0
        self.enter(self.open, {name})

    @rule(pair=st.permutations(PARTIES), asset=assets, amount=st.integers(1, 150))
    def pay(self, pair: list[str], asset: str, amount: int) -> None:
        payer, payee = pair[:2]
        command = ledger.Transfer(f"wallet:{payer}", f"wallet:{payee}", amount, asset)
        available = self.funds[payer, asset] - self.held.get((payer, asset), 0)
        assert (self.issue(command, payer) is None) == (amount > available)
        if amount <= available:
            self.funds[payer, asset] -= amount
            self.funds[payee, asset] += amount

    # What always holds

    @invariant()
    def balances_and_holds_are_the_models(self) -> None:
        for (party, asset), amount in self.funds.items():
            account = self.book.read(ledger.accounts, f"wallet:{party}")
            assert account.posted.get(asset, 0) == amount
            assert account.held.get(asset, 0) == self.held.get((party, asset), 0)
            assert account.available(asset) >= 0
        for name in self.windows:
            assert self.book.read(ledger.accounts, f"window:{name}").empty

    @invariant()
    def an_obligation_stands_in_one_place_and_settles_once(self) -> None:
        standing: Counter[str] = Counter()
        for name, window in self.windows.items():
            state = self.book.read(windows, name)
            assert state.status == window.status
            assert state.listed == window.entered
            inside, waiting, lapsed = set(), set(), set()
            for number in range(-(-state.listed // 3)):
                page = self.book.read(pages, f"{name}:{number}")
                assert len(page.dues) + len(page.waiting) + len(page.lapsed) <= 3
                inside |= {due.obligation for due in page.dues}
                waiting |= {due.obligation for due in page.waiting}
                lapsed |= {due.obligation for due in page.lapsed}
                for due in (*page.dues, *page.waiting, *page.lapsed):
                    standing[due.obligation] += 1
                    assert replace(due, carries=0) == self.dues[due.obligation]
            assert (inside, waiting) == (window.inside, window.waiting)
            assert lapsed == {each for each, where in self.lapsed.items() if where == name}
        assert standing + self.settled == Counter(self.dues.keys())
        assert all(len(self.windows[name].inside) <= BOUNDS.most_obligations for name in self.windows)

    @invariant()
    def value_is_conserved(self) -> None:
        for asset in ASSETS:
            total = sum(
                state.posted.get(asset, 0)
                for state in self.book.states.values()
                if isinstance(state, ledger.Account)
            )
            assert total == 0
            assert sum(amount for (_, each), amount in self.funds.items() if each == asset) == 3 * START


TestWindows = WindowsMachine.TestCase
TestWindows.settings = settings(max_examples=EXAMPLES, stateful_step_count=50, deadline=None)
