"""Netting windows: dues that nobody prefunded are collected, netted multilaterally and paid together. Model and
terms of Mojaloop's central settlement: OPEN -> CLOSED -> SETTLING -> SETTLED | ABORTED.

A party's net position in an asset is what he is owed less what he owes in the window, so the positions of a window
add up to zero per asset. Net payers pay into the account `window:<id>`, net receivers are paid from it, all in one
command. Who cannot pay leaves with everything he owes or is owed, in rounds: all that cannot pay leave at once, the
rest is netted again, until everybody can. So nobody's fate depends on the order of names. What left moves to the
open window; when none is open it waits, and moves to the next one that opens.

At most one window is open and at most one is being settled. Obligations stand on pages, `netting-page:<window>:<n>`,
so that every state stays small; an obligation stands on one page of one window at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from domain._kernel import (
    FOG,
    Amount,
    AssetCode,
    Count,
    Decision,
    Id,
    Issued,
    NotFound,
    Path,
    Personal,
    Quantity,
    Read,
    Ref,
    Rejected,
    Stream,
    Text,
)
from domain.ledger import (
    FEES,
    MOST_ASSETS_AN_ACCOUNT,
    AmountMustBePositive,
    accounts,
    known,
    let_go,
    may_owe,
    may_receive,
    move,
    pay_out,
    set_aside,
    wallet_of,
)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The bounds of netting, in one place."""

    most_obligations: int = 2_000
    """In the open window and in those whose obligations may still move there, together."""
    most_positions: int = 200
    """Pairs of party and asset, counted in the same windows."""
    most_obligations_of_debtors: int = 1_000
    most_positions_of_debtors: int = 100
    """Debtors themselves fill half of both at most: what they promise costs nothing; the system needs its room."""
    most_own_obligations: int = 50
    """Those that a debtor records himself, a window: nobody fills even that half alone."""
    most_carries: int = 30
    """Windows that an obligation leaves because somebody could not pay; with the next one it lapses, so that what
    the insolvent owe does not fill the windows for ever."""
    least_every_s: int = 60


P = Parameters()

PAGE = 100
"""Obligations a page, and positions an event. Pages are found by it: it never changes."""
MOST_SERIES_NAME = 56
"""What a series' number may add to its name keeps within an id's 64 characters."""
MOST_NAMES_TRIED = 100
ALL = "all"

# Events: stored for ever. Add fields with defaults; never rename, never remove.


@dataclass(frozen=True, slots=True)
class Due:
    """An obligation as a window lists it."""

    obligation: str
    debtor: str
    creditor: str
    asset: str
    amount: Amount
    carries: int = 0
    """How many windows it left because somebody could not pay."""


@dataclass(frozen=True, slots=True)
class NetPosition:
    """What a party pays or receives; at least one of the two is zero."""

    party: str
    asset: str
    pays: Quantity
    receives: Quantity


@dataclass(frozen=True, slots=True)
class Departure:
    """Why a party left a window."""

    party: str
    reason: str
    """cannot-pay, or cannot-receive (the wallet is full of other assets)."""
    asset: str
    needed: Quantity
    """What he had to pay; 0 where he could not receive."""
    available: Quantity


@dataclass(frozen=True, slots=True)
class WindowOpened:
    closes_at: datetime | None
    every_s: int
    series: str
    number: int
    """Which of its series it is, counted from 1."""
    at: datetime


@dataclass(frozen=True, slots=True)
class ClearingChanged:
    """Which windows are at work: at most one open and one being settled; in `carried`, what left waits."""

    open: str
    settling: str
    carried: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ObligationRecorded:
    debtor: str
    creditor: str
    asset: str
    amount: Amount
    window: str
    memo: Personal
    at: datetime


@dataclass(frozen=True, slots=True)
class ObligationCounted:
    """The window has one obligation more."""

    debtor: str
    creditor: str
    asset: str
    own: bool
    """Its debtor recorded it himself."""


@dataclass(frozen=True, slots=True)
class ObligationListed:
    due: Due


@dataclass(frozen=True, slots=True)
class ObligationsTaken:
    """The window takes over obligations of another one."""

    source: str
    number: int
    positions: tuple[str, ...]
    """`party:asset`"""


@dataclass(frozen=True, slots=True)
class ObligationsCarried:
    source: str
    dues: tuple[Due, ...]


@dataclass(frozen=True, slots=True)
class WindowClosed:
    obligations: int
    parties: int
    following: str
    """The window that opened in its place, if any."""
    at: datetime


@dataclass(frozen=True, slots=True)
class PositionsNetted:
    """As of the close."""

    positions: tuple[NetPosition, ...]


@dataclass(frozen=True, slots=True)
class PartiesLeft:
    parties: tuple[Departure, ...]


@dataclass(frozen=True, slots=True)
class ObligationsLeft:
    """These leave the window, and wait on its page until they move on."""

    dues: tuple[Due, ...]


@dataclass(frozen=True, slots=True)
class ObligationsLapsed:
    """These left too many windows: they stay owed, and enter a window again only when somebody asks for it."""

    dues: tuple[Due, ...]


@dataclass(frozen=True, slots=True)
class ObligationsMovedOn:
    """What waited on the page is in another window now."""

    to: str


@dataclass(frozen=True, slots=True)
class ObligationRenewed:
    """One that had lapsed is in another window now."""

    obligation: str
    to: str


@dataclass(frozen=True, slots=True)
class PositionsReserved:
    """What is left to settle, netted again; the payers' amounts are held. Positions that are gone are zero."""

    positions: tuple[NetPosition, ...]


@dataclass(frozen=True, slots=True)
class ObligationsSettled:
    obligations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WindowSettled:
    obligations: int
    parties: int
    at: datetime


@dataclass(frozen=True, slots=True)
class WindowAborted:
    reason: str
    at: datetime


WindowEvent = (
    WindowOpened
    | ObligationCounted
    | ObligationsTaken
    | WindowClosed
    | PositionsNetted
    | PartiesLeft
    | PositionsReserved
    | WindowSettled
    | WindowAborted
)
PageEvent = (
    ObligationListed
    | ObligationsCarried
    | ObligationsLeft
    | ObligationsLapsed
    | ObligationsMovedOn
    | ObligationRenewed
    | ObligationsSettled
)

# State


@dataclass(frozen=True, slots=True)
class Clearing:
    open: str = ""
    settling: str = ""
    carried: tuple[str, ...] = ()

    @property
    def at_work(self) -> frozenset[str]:
        return frozenset((self.open, self.settling, *self.carried)) - {""}

    def without(self, window: str) -> ClearingChanged:
        """The window is no longer open, or no longer being settled."""
        return ClearingChanged(
            "" if self.open == window else self.open,
            "" if self.settling == window else self.settling,
            self.carried,
        )


@dataclass(frozen=True, slots=True)
class Window:
    status: str = "absent"
    """absent, open, closed, settling, settled or aborted."""
    closes_at: datetime | None = None
    every_s: int = 0
    series: str = ""
    number: int = 0
    listed: int = 0
    """Obligations that ever entered it: the place of the next one."""
    positions: tuple[str, ...] = ()
    """`party:asset`, in the order in which they came."""
    own: dict[str, int] = field(default_factory=dict)
    """How many obligations each debtor recorded himself."""


@dataclass(frozen=True, slots=True)
class Page:
    dues: tuple[Due, ...] = ()
    """In the window."""
    waiting: tuple[Due, ...] = ()
    """Left it, and will move on."""
    lapsed: tuple[Due, ...] = ()


@dataclass(frozen=True, slots=True)
class Obligation:
    debtor: str = ""
    creditor: str = ""
    asset: str = ""
    amount: int = 0
    memo: str = ""


# evolve


def position_name(party: str, asset: str) -> str:
    return f"{party}:{asset}"


def _and_new(positions: tuple[str, ...], more: Iterable[str]) -> tuple[str, ...]:
    return (*positions, *(name for name in more if name not in positions))


def evolve_clearing(clearing: Clearing, event: ClearingChanged) -> Clearing:
    return Clearing(event.open, event.settling, event.carried)


def evolve_window(window: Window, event: WindowEvent) -> Window:
    match event:
        case WindowOpened():
            return Window("open", event.closes_at, event.every_s, event.series, event.number)
        case ObligationCounted():
            names = (position_name(event.debtor, event.asset), position_name(event.creditor, event.asset))
            own = window.own
            if event.own:
                own = {**own, event.debtor: own.get(event.debtor, 0) + 1}
            positions = _and_new(window.positions, names)
            return replace(window, listed=window.listed + 1, positions=positions, own=own)
        case ObligationsTaken():
            positions = _and_new(window.positions, event.positions)
            return replace(window, listed=window.listed + event.number, positions=positions)
        case WindowClosed():
            return replace(window, status="closed")
        case PositionsReserved():
            return replace(window, status="settling")
        case WindowSettled():
            return replace(window, status="settled")
        case WindowAborted():
            return replace(window, status="aborted")
        case PositionsNetted() | PartiesLeft():
            return window


def _without(dues: tuple[Due, ...], gone: Iterable[Due]) -> tuple[Due, ...]:
    names = {due.obligation for due in gone}
    return tuple(due for due in dues if due.obligation not in names)


def evolve_page(page: Page, event: PageEvent) -> Page:
    match event:
        case ObligationListed():
            return replace(page, dues=(*page.dues, event.due))
        case ObligationsCarried():
            return replace(page, dues=(*page.dues, *event.dues))
        case ObligationsLeft():
            return replace(page, dues=_without(page.dues, event.dues), waiting=(*page.waiting, *event.dues))
        case ObligationsLapsed():
            return replace(page, dues=_without(page.dues, event.dues), lapsed=(*page.lapsed, *event.dues))
        case ObligationsMovedOn():
            return replace(page, waiting=())
        case ObligationRenewed():
            return replace(page, lapsed=tuple(d for d in page.lapsed if d.obligation != event.obligation))
        case ObligationsSettled():
            return replace(page, dues=())


def evolve_obligation(obligation: Obligation, event: ObligationRecorded) -> Obligation:
    return Obligation(event.debtor, event.creditor, event.asset, event.amount, event.memo)


clearing = Stream("clearing", Clearing(), evolve_clearing, ClearingChanged)
# `window:<id>` is the account of the ledger that the payments go through.
windows = Stream("netting", Window(), evolve_window, WindowEvent)
pages = Stream("netting-page", Page(), evolve_page, PageEvent)
obligations = Stream("obligation", Obligation(), evolve_obligation, ObligationRecorded)

# Commands


@dataclass(frozen=True, slots=True)
class OpenWindow:
    """Open a netting window. With `closes_at` a timer closes it; with `every_s` another one opens each time one
    closes, named `<window>.2`, `<window>.3` and so on."""

    window: Id
    closes_at: datetime | None = None
    """Left out: after `every_s` seconds or, where that is 0, when an operator closes it."""
    every_s: Count = 0
    """Seconds from one close to the next, at least 60; 0 for a window that nothing follows by itself."""


@dataclass(frozen=True, slots=True)
class RecordObligation:
    """Owe somebody an amount, to be netted and paid with the window. By its debtor, as `<debtor>:<source>`, or by
    the system, as `<source>`. The same again changes nothing."""

    debtor: Id
    creditor: Id
    """A principal, or `fees` for the zone."""
    amount: Amount
    source: Id
    """What it is owed for: an id of the contract's period, of the invoice."""
    window: Id = ""
    """Left out: the open one."""
    asset: AssetCode = FOG
    memo: Personal = ""


@dataclass(frozen=True, slots=True)
class RenewObligation:
    """Put an obligation that lapsed into the open window: by its debtor, its creditor or the system."""

    obligation: Path
    window: Id
    """The one in which it lapsed."""


@dataclass(frozen=True, slots=True)
class CloseWindow:
    """Take no more obligations into a window and net those in it (an operator, or a timer at its time)."""

    window: Id
    next: Id = ""
    """The window that opens in its place; left out, the next one of its series, if it has one."""


@dataclass(frozen=True, slots=True)
class ReservePositions:
    """Hold what each net payer of a closed window pays; who cannot pay leaves it (issued by a reaction)."""

    window: Id


@dataclass(frozen=True, slots=True)
class FinaliseSettlement:
    """Pay all net positions of a window at once (issued by a reaction)."""

    window: Id


@dataclass(frozen=True, slots=True)
class AbortWindow:
    """End a window without paying: holds are given back, its obligations move on. Nothing opens in its place, not
    even in a series."""

    window: Id
    reason: Text


# Rules


class WindowNotFound(NotFound):
    """There is no such netting window."""


class ObligationNotFound(NotFound):
    """There is no such obligation, or it does not concern you."""


class WindowExists(Rejected):
    """This netting window was opened before."""


class AnotherWindowIsOpen(Rejected):
    """One netting window is open at a time."""


class SettlementIsUnderWay(Rejected):
    """One netting window is settled at a time; the one before has to be settled or aborted first."""


class WindowClosesInThePast(Rejected):
    """A netting window closes after the moment it is opened."""


class WindowIsTooShort(Rejected):
    """Netting windows of a series are at least this many seconds long."""


class WindowNameIsTooLong(Rejected):
    """The windows of a series carry a number behind its name, which needs room."""


class NoWindowIsOpen(Rejected):
    """No netting window is open."""


class WindowIsNotOpen(Rejected):
    """The netting window is closed: it takes no obligation any more, and does not close again."""


class WindowIsNotDue(Rejected):
    """Only an operator closes a netting window before its time."""


class WindowIsNotClosed(Rejected):
    """Positions are reserved once the netting window is closed."""


class PositionsAreNotReserved(Rejected):
    """A netting window is settled once its positions are reserved."""


class WindowHasEnded(Rejected):
    """The netting window is settled or aborted already."""


class WindowIsFull(Rejected):
    """The open netting window and the one being settled hold as many obligations as they may."""


class WindowHasTooManyPositions(Rejected):
    """The open netting window and the one being settled have as many parties as they may."""


class DebtorHasTooManyObligations(Rejected):
    """A debtor records a bounded number of obligations in a netting window himself."""


class ObligationNeedsItsDebtor(Rejected):
    """An obligation is recorded by its debtor or by the system."""


class DebtorIsCreditor(Rejected):
    """Nobody owes himself anything."""


class ZoneIsNoDebtor(Rejected):
    """The zone's own account is owed fees, but owes nothing in a netting window."""


class ObligationExists(Rejected):
    """This source was recorded before, with other content."""


class ObligationHasNotLapsed(Rejected):
    """The obligation did not lapse in this netting window, or was renewed already."""


# Decisions


def account_of(window: str) -> str:
    """The ledger account that a window's payments go through."""
    return f"window:{window}"


def account_of_party(party: str) -> str:
    """A principal's wallet; the party `fees` is the zone's own account of that name."""
    return FEES if party == FEES else wallet_of(party)


def netted(dues: Iterable[Due]) -> dict[tuple[str, str], int]:
    """Net position by party and asset, positive for who receives; zeros are kept. They add up to 0 per asset."""
    nets: dict[tuple[str, str], int] = {}
    for due in dues:
        creditor, debtor = (due.creditor, due.asset), (due.debtor, due.asset)
        nets[creditor] = nets.get(creditor, 0) + due.amount
        nets[debtor] = nets.get(debtor, 0) - due.amount
    return nets


Nets = Mapping[tuple[str, str], int]
"""Amounts by party and asset."""
WhyNot = Callable[[str, Mapping[str, int]], Departure | None]
Exclusion = Generator[tuple[Ref, Any], None, list[Due]]


def settleable(dues: Sequence[Due], why_not: WhyNot) -> tuple[list[Due], list[Departure]]:
    """What is left when all that cannot settle have left, and who left, in rounds.

    `why_not` says of a party and his net positions by asset why he cannot settle, if so. Each round takes at least
    one party away, and looks again only at those whose positions it changed.
    """
    nets: dict[str, dict[str, int]] = {}
    of: dict[str, list[Due]] = {}
    for (party, asset), net in netted(dues).items():
        nets.setdefault(party, {})[asset] = net
    for due in dues:
        of.setdefault(due.debtor, []).append(due)
        of.setdefault(due.creditor, []).append(due)
    staying = {due.obligation: due for due in dues}
    left: dict[str, Departure] = {}
    suspects = sorted(nets)
    while suspects:
        leaving = [departure for party in suspects if (departure := why_not(party, nets[party]))]
        touched: set[str] = set()
        for departure in leaving:
            left[departure.party] = departure
            for due in of[departure.party]:
                if staying.pop(due.obligation, None) is not None:
                    nets[due.debtor][due.asset] += due.amount
                    nets[due.creditor][due.asset] -= due.amount
                    touched |= {due.debtor, due.creditor}
        suspects = sorted(touched - left.keys())
    return list(staying.values()), list(left.values())


def _by_wallets(read: Read, held: Nets) -> WhyNot:
    """Whether wallets can pay and receive; `held` is what they already set aside for the window."""

    def why_not(party: str, nets: Mapping[str, int]) -> Departure | None:
        wallet = read(accounts, account_of_party(party))
        for asset, net in sorted(nets.items()):
            available = wallet.available(asset) + held.get((party, asset), 0)
            if -net > available:
                return Departure(party, "cannot-pay", asset, -net, available)
        new = sorted(asset for asset, net in nets.items() if net > 0 and asset not in wallet.posted)
        foreign = [asset for asset in new if asset != FOG]
        if foreign and len(wallet.posted) + len(new) > MOST_ASSETS_AN_ACCOUNT:
            return Departure(party, "cannot-receive", foreign[0], 0, 0)
        return None

    return why_not


def _pages(read: Read, window: str) -> Iterator[tuple[str, Page]]:
    for number in range(-(-read(windows, window).listed // PAGE)):
        yield str(number), read(pages, f"{window}:{number}")


def _dues(read: Read, window: str) -> list[Due]:
    return [due for _, page in _pages(read, window) for due in page.dues]


def _positions(nets: Nets) -> Iterator[tuple[NetPosition, ...]]:
    """Net positions by party, as many as an event takes."""
    positions = [
        NetPosition(party, asset, max(-net, 0), max(net, 0)) for (party, asset), net in sorted(nets.items())
    ]
    for start in range(0, len(positions), PAGE):
        yield tuple(positions[start : start + PAGE])


def _payers(nets: Nets) -> Iterator[tuple[str, str, int]]:
    for (party, asset), net in sorted(nets.items()):
        if net < 0:
            yield party, asset, -net


# Decisions: opening and recording


def _open(
    read: Read,
    issued: Issued,
    window: str,
    closes_at: datetime | None,
    every_s: int,
    series: str,
    number: int,
) -> Decision:
    """Open a window; it takes over what waits for one."""
    if read(windows, window).status != "absent":
        raise WindowExists(window=window)
    desk = read(clearing, ALL)
    if desk.open:
        raise AnotherWindowIsOpen(window=desk.open)
    yield windows(window), WindowOpened(closes_at, every_s, series, number, issued.at)
    yield clearing(ALL), ClearingChanged(window, desk.settling, ())
    for source in desk.carried:
        yield from _move_on(read, source, window)


def open_window(command: OpenWindow, issued: Issued, read: Read) -> Decision:
    closes_at = command.closes_at
    if command.every_s:
        if command.every_s < P.least_every_s:
            raise WindowIsTooShort(every_s=command.every_s, limit=P.least_every_s)
        if len(command.window) > MOST_SERIES_NAME:
            raise WindowNameIsTooLong(window=command.window, limit=MOST_SERIES_NAME)
        closes_at = closes_at or issued.at + timedelta(seconds=command.every_s)
    if closes_at is not None and closes_at <= issued.at:
        raise WindowClosesInThePast(closes_at=closes_at, now=issued.at)
    yield from _open(read, issued, command.window, closes_at, command.every_s, command.window, 1)


def record_obligation(command: RecordObligation, issued: Issued, read: Read) -> Decision:
    own = not issued.is_service
    if own and command.debtor != issued.by:
        raise ObligationNeedsItsDebtor(debtor=command.debtor)
    # A debtor's sources have names of their own, or he could take that of a due which the system records later.
    name = f"{command.debtor}:{command.source}" if own else command.source
    content = Obligation(command.debtor, command.creditor, command.asset, command.amount, command.memo)
    before = read(obligations, name)
    if before.debtor:
        if before != content:
            raise ObligationExists(obligation=name)
        return
    if command.amount <= 0:
        raise AmountMustBePositive(amount=command.amount)
    if command.debtor == command.creditor:
        raise DebtorIsCreditor(party=command.debtor)
    if command.debtor == FEES:
        raise ZoneIsNoDebtor(debtor=command.debtor)
    known(read, command.asset)
    window = _open_one(read, command.window)
    if own:
        may_owe(read, command.debtor)
        may_receive(read, account_of_party(command.creditor))
        if read(windows, window).own.get(command.debtor, 0) >= P.most_own_obligations:
            raise DebtorHasTooManyObligations(debtor=command.debtor, limit=P.most_own_obligations)
    yield (
        obligations(name),
        ObligationRecorded(
            command.debtor,
            command.creditor,
            command.asset,
            command.amount,
            window,
            command.memo,
            issued.at,
        ),
    )
    due = Due(name, command.debtor, command.creditor, command.asset, command.amount)
    yield from _list(read, window, due, own, not own)


def _open_one(read: Read, window: str) -> str:
    """The window that is meant, which must be open; the open one where none is named."""
    desk = read(clearing, ALL)
    if window:
        status = read(windows, window).status
        if status == "absent":
            raise WindowNotFound(window=window)
        if status != "open":
            raise WindowIsNotOpen(window=window, status=status)
    elif not desk.open:
        raise NoWindowIsOpen()
    return window or desk.open


def _list(read: Read, window: str, due: Due, own: bool, of_system: bool) -> Decision:
    """Put an obligation into the open window, where there is room for the system's, or for its parties'."""
    most, most_positions = P.most_obligations, P.most_positions
    if not of_system:
        most = min(most, P.most_obligations_of_debtors)
        most_positions = min(most_positions, P.most_positions_of_debtors)
    at_work = [read(windows, each) for each in sorted(read(clearing, ALL).at_work)]
    # All that is at work may end up in the open window, so the bounds hold for the sum.
    if sum(each.listed for each in at_work) >= most:
        raise WindowIsFull(limit=most)
    names = {position_name(due.debtor, due.asset), position_name(due.creditor, due.asset)}
    taken = {name for each in at_work for name in each.positions}
    if not names <= taken and len(names | taken) > most_positions:
        raise WindowHasTooManyPositions(limit=most_positions)
    page = read(windows, window).listed // PAGE
    yield windows(window), ObligationCounted(due.debtor, due.creditor, due.asset, own)
    yield pages(window, str(page)), ObligationListed(due)


def renew_obligation(command: RenewObligation, issued: Issued, read: Read) -> Decision:
    obligation = read(obligations, command.obligation)
    concerned = issued.by in (obligation.debtor, obligation.creditor) or issued.is_service
    if not obligation.debtor or not concerned:
        raise ObligationNotFound(obligation=command.obligation)
    for number, page in _pages(read, command.window):
        for due in page.lapsed:
            if due.obligation == command.obligation:
                target = _open_one(read, "")
                yield pages(command.window, number), ObligationRenewed(command.obligation, target)
                yield from _list(read, target, replace(due, carries=0), False, issued.is_service)
                return
    raise ObligationHasNotLapsed(obligation=command.obligation, window=command.window)


# Decisions: moving from window to window


def _leave(read: Read, window: str, leaving: frozenset[str], carries: int) -> Decision:
    """Obligations leave a window: they move to the open one, or wait for it; some have left too many and lapse."""
    for number, page in _pages(read, window):
        gone = [replace(d, carries=d.carries + carries) for d in page.dues if d.obligation in leaving]
        waiting = tuple(due for due in gone if due.carries <= P.most_carries)
        lapsed = tuple(due for due in gone if due.carries > P.most_carries)
        if waiting:
            yield pages(window, number), ObligationsLeft(waiting)
        if lapsed:
            yield pages(window, number), ObligationsLapsed(lapsed)
    desk = read(clearing, ALL)
    if desk.open:
        yield from _move_on(read, window, desk.open)
    elif window not in desk.carried and any(page.waiting for _, page in _pages(read, window)):
        yield clearing(ALL), ClearingChanged(desk.open, desk.settling, (*desk.carried, window))


def _move_on(read: Read, source: str, target: str) -> Decision:
    """What left one window enters another."""
    dues: list[Due] = []
    for number, page in _pages(read, source):
        if page.waiting:
            dues += page.waiting
            yield pages(source, number), ObligationsMovedOn(target)
    if not dues:
        return
    place = read(windows, target).listed
    names = sorted({position_name(p, due.asset) for due in dues for p in (due.debtor, due.creditor)})
    yield windows(target), ObligationsTaken(source, len(dues), tuple(names))
    while dues:
        room = PAGE - place % PAGE
        yield pages(target, str(place // PAGE)), ObligationsCarried(source, tuple(dues[:room]))
        place, dues = place + len(dues[:room]), dues[room:]


# Decisions: closing and settling


def close_window(command: CloseWindow, issued: Issued, read: Read) -> Decision:
    window = read(windows, command.window)
    if window.status == "absent":
        raise WindowNotFound(window=command.window)
    if window.status != "open":
        if issued.is_operator:
            raise WindowIsNotOpen(window=command.window, status=window.status)
        return
    if not issued.is_operator and (window.closes_at is None or issued.at < window.closes_at):
        raise WindowIsNotDue(window=command.window, closes_at=window.closes_at)
    desk = read(clearing, ALL)
    if desk.settling:
        raise SettlementIsUnderWay(window=desk.settling)
    series, number = (window.series, window.number + 1) if window.every_s else (command.next, 1)
    following = command.next or _next_of(read, window)
    dues = _dues(read, command.window)
    nets = netted(dues)
    parties = len({party for party, _ in nets})
    yield windows(command.window), WindowClosed(len(dues), parties, following, issued.at)
    for positions in _positions(nets):
        yield windows(command.window), PositionsNetted(positions)
    yield clearing(ALL), ClearingChanged("", command.window, desk.carried)
    if following:
        closes_at = _next_close(window, issued.at)
        yield from _open(read, issued, following, closes_at, window.every_s, series, number)


def _next_of(read: Read, window: Window) -> str:
    """The name of the next window of a series; numbers that an operator used himself are passed over."""
    if not window.every_s:
        return ""
    for number in range(window.number + 1, window.number + 1 + MOST_NAMES_TRIED):
        if read(windows, f"{window.series}.{number}").status == "absent":
            return f"{window.series}.{number}"
    return ""


def _next_close(window: Window, now: datetime) -> datetime | None:
    """When the next window of a series closes: it keeps the rhythm, however early or late this one was closed."""
    if not window.every_s or window.closes_at is None:
        return None
    every = timedelta(seconds=window.every_s)
    return window.closes_at + ((now - window.closes_at) // every + 1) * every


def reserve_positions(command: ReservePositions, issued: Issued, read: Read) -> Decision:
    window = read(windows, command.window)
    if window.status == "absent":
        raise WindowNotFound(window=command.window)
    if window.status == "open":
        raise WindowIsNotClosed(window=command.window)
    if window.status != "closed":
        return
    before = netted(_dues(read, command.window))
    staying = yield from _exclude(read, command.window, {})
    if not staying:
        yield from _abort(read, issued, command.window, "fewer than two parties can settle")
        return
    nets = netted(staying)
    for party, asset, amount in _payers(nets):
        yield from set_aside(read, account_of_party(party), account_of(command.window), amount, asset=asset)
    for positions in _positions({**dict.fromkeys(before, 0), **nets}):
        yield windows(command.window), PositionsReserved(positions)


def _exclude(read: Read, window: str, held: Nets) -> Exclusion:
    """Let everybody leave who cannot settle; returns what stays."""
    dues = _dues(read, window)
    staying, left = settleable(dues, _by_wallets(read, held))
    for start in range(0, len(left), PAGE):
        yield windows(window), PartiesLeft(tuple(left[start : start + PAGE]))
    if left:
        leaving = frozenset(due.obligation for due in dues) - {due.obligation for due in staying}
        yield from _leave(read, window, leaving, carries=1)
    return staying


def finalise_settlement(command: FinaliseSettlement, issued: Issued, read: Read) -> Decision:
    window = read(windows, command.window)
    if window.status == "absent":
        raise WindowNotFound(window=command.window)
    if window.status in ("settled", "aborted"):
        return
    if window.status != "settling":
        raise PositionsAreNotReserved(window=command.window, status=window.status)
    dues = _dues(read, command.window)
    before = netted(dues)
    held = {(party, asset): amount for party, asset, amount in _payers(before)}
    # A receiver's wallet may have filled up since: he must not stop everybody else, so he leaves now.
    staying = yield from _exclude(read, command.window, held)
    yield from _let_go(command.window, held)
    if not staying:
        yield from _abort(read, issued, command.window, "fewer than two parties can settle")
        return
    nets = netted(staying)
    if len(staying) < len(dues):
        for positions in _positions({**dict.fromkeys(before, 0), **nets}):
            yield windows(command.window), PositionsReserved(positions)
    yield from _pay(read, command.window, nets)
    for number, page in _pages(read, command.window):
        if page.dues:
            settled = tuple(due.obligation for due in page.dues)
            yield pages(command.window, number), ObligationsSettled(settled)
    parties = len({party for party, _ in nets})
    yield windows(command.window), WindowSettled(len(staying), parties, issued.at)
    yield clearing(ALL), read(clearing, ALL).without(command.window)


def _let_go(window: str, held: Nets) -> Decision:
    for (party, asset), amount in held.items():
        yield from let_go(account_of_party(party), account_of(window), amount, asset=asset)


def _pay(read: Read, window: str, nets: Nets) -> Decision:
    """All net positions through the window's account, one asset after the other: it ends at 0 in each."""
    account = account_of(window)
    for asset in sorted({asset for _, asset in nets}):
        of_asset = sorted((party, net) for (party, each), net in nets.items() if each == asset)
        for party, net in of_asset:
            if net < 0:
                yield from move(
                    read, account_of_party(party), account, -net, "settlement", asset=asset, reference=window
                )
        for party, net in of_asset:
            if net > 0:
                yield from pay_out(read, account, account_of_party(party), net, "settlement", asset=asset)


def abort_window(command: AbortWindow, issued: Issued, read: Read) -> Decision:
    window = read(windows, command.window)
    if window.status == "absent":
        raise WindowNotFound(window=command.window)
    if window.status in ("settled", "aborted"):
        raise WindowHasEnded(window=command.window, status=window.status)
    if window.status == "settling":
        nets = netted(_dues(read, command.window))
        yield from _let_go(command.window, {(p, asset): amount for p, asset, amount in _payers(nets)})
    yield from _abort(read, issued, command.window, command.reason)


def _abort(read: Read, issued: Issued, window: str, reason: str) -> Decision:
    """End a window without paying. That is nobody's failure, so it does not bring what moves on nearer to lapsing."""
    yield clearing(ALL), read(clearing, ALL).without(window)
    everything = frozenset(due.obligation for due in _dues(read, window))
    yield from _leave(read, window, everything, carries=0)
    yield windows(window), WindowAborted(reason, issued.at)
