"""Limits and approvals over random histories, against a plain model that reads nothing but the events.

`FOGBOOK_EXAMPLES` scales the number of histories.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from domain._kernel import FOG, NotFound, Rejected
from domain.approvals import (
    REQUEST_LIFE,
    AllowanceUsed,
    ApprovalLimitSet,
    ApprovalRequested,
    Approve,
    Reject,
    RequestApproved,
    RequestIsYourOwn,
    RequestNotFound,
    RequestRejected,
    SetLimit,
)
from domain.ledger import (
    FreezeWallet,
    MintTokens,
    OpenWallet,
    TokensMinted,
    UnfreezeWallet,
    WalletFrozen,
    WalletUnfrozen,
)
from domain.platform import CreateZone
from domain.staking import BeginUnbonding, Delegate, RegisterValidator, Slash, Slashed
from tests.scenario import Book

EXAMPLES = int(os.environ.get("FOGBOOK_EXAMPLES", "100"))
STEPS = 40
OPERATORS = ("otto", "olga", "odin")
WALLETS = ("wallet:ana", "wallet:ben")
BIG = 10**6
ACTS = ("mint", "slash", "freeze")


@dataclass
class Asked:
    by: str
    command: Any
    until: datetime


class Model:
    """Sums of what was done alone, by UTC day; limits and requests as the events tell them."""

    def __init__(self) -> None:
        self.limits: dict[str, int] = {}
        self.alone: defaultdict[tuple[str, str], int] = defaultdict(int)
        """By act and day, of what was done while the act had a limit."""
        self.open: dict[str, Asked] = {}
        self.asked: list[str] = []
        """Every request there ever was."""
        self.seen: Counter[str] = Counter()

    def check(self, command: Any, by: str, now: datetime, events: list[tuple[str, Any]]) -> None:
        kinds = [type(event) for _, event in events]
        approved = [event for _, event in events if isinstance(event, RequestApproved)]
        assert RequestApproved not in kinds[1:], "an approval comes first, and alone"
        if approved:
            self._approved(command, by, now, approved[0])
        else:
            assert not isinstance(command, Approve)
            self._alone(now, effects(events))
        asked_by = approved[0].asked_by if approved else by
        for _, event in events:
            assert not isinstance(event, ApprovalLimitSet) or event.by == asked_by
            self._follow(command, event, bool(approved))

    def _approved(self, command: Any, by: str, now: datetime, said: RequestApproved) -> None:
        assert isinstance(command, Approve)
        asked = self.open.pop(command.request)
        assert said.request == command.request
        assert (said.asked_by, said.by) == (asked.by, by)
        assert asked.by != by
        assert now < asked.until
        self.seen[f"approved {type(asked.command).__name__}"] += 1

    def _alone(self, now: datetime, done: dict[str, int]) -> None:
        """The promise: what is done without an approval stays within the limit in force."""
        for act, amount in done.items():
            limit, counted = self.limits.get(act), (act, now.date().isoformat())
            if limit is not None and amount:
                self.alone[counted] += amount
                assert self.alone[counted] <= limit, f"{act}: {self.alone[counted]} of {limit}"
                self.seen[f"alone within {act}"] += 1

    def _follow(self, command: Any, event: Any, approved: bool) -> None:
        match event:
            case ApprovalLimitSet():
                act = f"mint:{event.asset}" if event.act == "mint" else event.act
                before = self.limits.pop(act, None)
                assert event.before == before
                looser = before is not None and (event.limit is None or event.limit > before)
                assert approved or not looser, "nobody loosens a limit alone"
                if event.limit is not None:
                    self.limits[act] = event.limit
            case ApprovalRequested():
                limit = self.limits.get(f"mint:{event.asset}" if event.act == "mint" else event.act, 0)
                day = (
                    f"mint:{event.asset}" if event.act == "mint" else event.act,
                    event.at.date().isoformat(),
                )
                assert event.limit == limit
                assert event.used == self.alone[day]
                assert self.alone[day] + event.amount > limit, "nobody is asked about what may be done alone"
                self.open[event.request] = Asked(event.by, command, event.expires_at)
                self.asked.append(event.request)
                self.seen[f"asked for {type(command).__name__}"] += 1
            case RequestRejected():
                del self.open[event.request]

    def expected(self, command: Approve, by: str, now: datetime) -> type[Rejected] | None:
        """Why an approval is refused, apart from the rules of what was asked for."""
        asked = self.open.get(command.request)
        if asked is None or now >= asked.until:
            return RequestNotFound
        return RequestIsYourOwn if asked.by == by else None


def effects(events: list[tuple[str, Any]]) -> dict[str, int]:
    """What a command did of each act, told from the events that have the effect."""
    done: defaultdict[str, int] = defaultdict(int)
    for stream, event in events:
        match event:
            case TokensMinted():
                done["mint:" + stream.partition(":")[2]] += event.amount
            case Slashed():
                done["slash"] += max(event.tokens, 1)
            case WalletFrozen() | WalletUnfrozen():
                done["freeze"] += 1
    return done


class Zone:
    """A zone with three operators, watched by the model."""

    def __init__(self) -> None:
        self.book, self.model = Book(), Model()
        self.evidence = 0
        self.book.issue(CreateZone("main", "manual"))
        for wallet in WALLETS:
            self.book.issue(OpenWallet(wallet), wallet.partition(":")[2])
        self.issue(MintTokens("wallet:ana", BIG, "start", ""), "otto")
        self.book.issue(RegisterValidator("v1", 1_000, 0), "ana")

    def issue(self, command: Any, by: str, role: str = "operator") -> Rejected | None:
        start = len(self.book.events)
        try:
            self.book.issue(command, by, role)
        except Rejected as refused:
            assert len(self.book.events) == start
            return refused
        self.model.check(command, by, self.book.now, self.book.events[start:])
        return None

    def approve(self, request: str, by: str) -> None:
        command = Approve(request)
        expected = self.model.expected(command, by, self.book.now)
        refused = self.issue(command, by)
        if expected is not None:
            assert type(refused) is expected
        elif refused is not None:
            assert not isinstance(refused, RequestNotFound | RequestIsYourOwn)
            assert request in self.model.open

    def slash(self, by: str, kind: str, ago: int) -> None:
        self.evidence += 1
        self.issue(Slash("v1", kind, self.book.now - timedelta(hours=ago), f"e{self.evidence}"), by)

    def some_request(self, chance: int) -> str:
        known = [*self.model.open, *self.model.open, *self.model.asked[-5:], "c1"]
        return known[chance % len(known)]


def act(zone: Zone, rng: Random) -> None:
    """Something happens by chance."""
    by, wallet = rng.choice(OPERATORS), rng.choice(WALLETS)
    match rng.choice((*"mmmfuslaaaarldbt",)):
        case "m":
            zone.issue(MintTokens(wallet, rng.choice((1, 5, 60, 1_000)), "x", str(rng.randrange(9))), by)
        case "f":
            zone.issue(FreezeWallet(wallet, "x"), by)
        case "u":
            zone.issue(UnfreezeWallet(wallet, "x"), by)
        case "s":
            zone.slash(by, rng.choice(("downtime", "double-sign")), rng.randrange(48))
        case "l":
            limit = rng.choice((None, 0, 1, 50, 1_000, BIG))
            zone.issue(SetLimit(rng.choice(ACTS), limit), by)
        case "a":
            zone.approve(zone.some_request(rng.randrange(99)), by)
        case "r":
            zone.issue(Reject(zone.some_request(rng.randrange(99)), "x"), by)
        case "d":
            zone.issue(Delegate("v1", rng.randrange(1, 5_000)), wallet.partition(":")[2], "participant")
        case "b":
            zone.issue(BeginUnbonding("v1", rng.randrange(1, 900)), wallet.partition(":")[2], "participant")
        case "t":
            zone.book.now += rng.choice((timedelta(hours=7), timedelta(days=1), REQUEST_LIFE))


class ApprovalsMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.zone = Zone()

    @rule(chance=st.integers(0, 2**32 - 1))
    def something_happens(self, chance: int) -> None:
        act(self.zone, Random(chance))


TestApprovals = ApprovalsMachine.TestCase
TestApprovals.settings = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None)


def test_in_these_histories_every_limited_act_happens_alone_and_by_two() -> None:
    """A quiet history would prove nothing."""
    seen: Counter[str] = Counter()
    rng = Random(6)
    for _ in range(40):
        zone = Zone()
        for _ in range(80):
            act(zone, rng)
        seen.update(zone.model.seen)
    for act_done in ("alone within mint:FOG", "alone within slash", "alone within freeze"):
        assert seen[act_done] > 0, act_done
    for command in (MintTokens, FreezeWallet, UnfreezeWallet, Slash, SetLimit):
        assert seen[f"asked for {command.__name__}"] > 0, command
        assert seen[f"approved {command.__name__}"] > 0, command


def test_the_model_would_notice_what_goes_beyond() -> None:
    """A model that lets everything pass would prove nothing either."""
    zone = Zone()
    zone.issue(SetLimit("mint", 50), "otto")
    minted = ("asset:FOG", TokensMinted(51, "wallet:ana", "x", ""))
    used = ("approvals:zone", AllowanceUsed("mint", FOG, 51, "otto", zone.book.now))
    for command, events in (
        (MintTokens("wallet:ana", 51, "x", ""), [minted, used]),
        (
            SetLimit("mint", None),
            [("approvals:zone", ApprovalLimitSet("mint", FOG, 50, None, "otto", zone.book.now))],
        ),
        (
            Approve("c9"),
            [("approvals:zone", RequestApproved("c9", "otto", "olga", zone.book.now)), minted],
        ),
    ):
        noticed = False
        try:
            zone.model.check(command, "olga", zone.book.now, events)
        except (AssertionError, KeyError):
            noticed = True
        assert noticed, command
    assert issubclass(RequestNotFound, NotFound)
