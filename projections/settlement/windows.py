"""Netting windows' read models: windows and their totals, positions, obligations and where each has been.

Columns are called `window_id` because WINDOW is a word of SQL.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from datetime import datetime

from commands._codec import EPOCH
from domain.settlement.windows import (
    ClearingChanged,
    Due,
    ObligationCounted,
    ObligationListed,
    ObligationRecorded,
    ObligationRenewed,
    ObligationsCarried,
    ObligationsLapsed,
    ObligationsLeft,
    ObligationsMovedOn,
    ObligationsSettled,
    ObligationsTaken,
    PartiesLeft,
    PositionsNetted,
    PositionsReserved,
    WindowAborted,
    WindowClosed,
    WindowOpened,
    WindowSettled,
)
from projections._engine import Projection, Record, Rows
from projections._tables import Money, Row, Total, table
from projections._timers import react, schedule, settle, timers


@table("settlement_clearing", key=("name",))
class Clearing(Row):
    """Which windows are at work; one row, `all`."""

    name: str
    open: str = ""
    settling: str = ""
    carried: list[str] = field(default_factory=list)


@table("settlement_windows", key=("window_id",), indexes=("opened_at, window_id",))
class Window(Row):
    window_id: str
    status: str = "open"
    """open, closed, settling, settled or aborted."""
    series: str = ""
    number: int = 0
    every_s: int = 0
    opened_at: datetime = EPOCH
    closes_at: datetime | None = None
    closed_at: datetime | None = None
    ended_at: datetime | None = None
    following: str = ""
    obligations: int = 0
    """Those in it; at the end, those that it settled."""
    taken_over: int = 0
    """Those that came from other windows."""
    left_it: int = 0
    lapsed: int = 0
    moved_to: str = ""
    """Where those that left it went last."""
    reason: str = ""
    """Why it was aborted."""
    transaction: str = ""
    """The command that settled it."""


@table("settlement_window_totals", key=("window_id", "asset"))
class TotalOf(Row):
    window_id: str
    asset: str
    obligations: int = 0
    gross: Total = 0
    """Sum of the obligations in the window."""
    net: Total = 0
    """Sum of what the net payers pay; known from the close on."""
    left_it: Total = 0
    """Sum of the obligations that left it."""


@table("settlement_positions", key=("window_id", "party", "asset"), indexes=("party, window_id, asset",))
class Position(Row):
    window_id: str
    party: str
    asset: str
    obligations: int = 0
    owes: Total = 0
    owed: Total = 0
    pays: Total = 0
    """As netted last: at the close, and when positions were reserved."""
    receives: Total = 0


@table("settlement_departures", key=("window_id", "party"), indexes=("party, window_id",))
class Departure(Row):
    """Who left a window, and why."""

    window_id: str
    party: str
    reason: str = ""
    asset: str = ""
    needed: Total = 0
    available: Total = 0
    at: datetime = EPOCH


@table(
    "settlement_obligations",
    key=("obligation",),
    indexes=(
        "debtor, recorded_at, obligation",
        "creditor, recorded_at, obligation",
        "status, recorded_at",
        "window_id, recorded_at, obligation",
        "recorded_at, obligation",
    ),
)
class Obligation(Row):
    obligation: str
    debtor: str = ""
    creditor: str = ""
    asset: str = ""
    amount: Money = 0
    memo: str = ""
    status: str = "recorded"
    """recorded (it is in a window), waiting (for one to open), lapsed or settled."""
    window_id: str = ""
    """Where it is, or was last."""
    carries: int = 0
    recorded_at: datetime = EPOCH
    recorded_by: str = ""
    settled_at: datetime | None = None
    transaction: str = ""


@table("settlement_steps", key=("obligation", "step"))
class Step(Row):
    """A moment of an obligation's way."""

    obligation: str
    step: int
    """The position of the event."""
    what: str = ""
    """recorded, entered, left, lapsed, renewed or settled."""
    window_id: str = ""
    at: datetime = EPOCH
    transaction: str = ""


windows = Projection("windows", Clearing, Window, TotalOf, Position, Departure, Obligation, Step, version=1)


def _window_of(record: Record) -> str:
    """The window of a page's stream, `netting-page:w1:0`."""
    return record.id.partition(":")[0]


def _step(rows: Rows, obligation: str, record: Record, what: str, window: str) -> None:
    rows.add(Step(obligation, record.position, what, window, record.recorded_at, record.command))


def _enter(rows: Rows, dues: Iterable[Due], record: Record) -> None:
    window = _window_of(record)
    for due in dues:
        row = rows.of(Obligation, due.obligation)
        row.status, row.window_id, row.carries = "recorded", window, due.carries
        _book(rows, window, due, 1)
        _step(rows, due.obligation, record, "entered", window)


def _leave(rows: Rows, dues: Iterable[Due], record: Record, status: str, what: str) -> None:
    window = _window_of(record)
    for due in dues:
        row = rows.of(Obligation, due.obligation)
        row.status, row.carries = status, due.carries
        _book(rows, window, due, -1)
        total = rows.of(TotalOf, window, due.asset)
        total.left_it += due.amount
        _step(rows, due.obligation, record, what, window)


def _book(rows: Rows, window: str, due: Due, sign: int) -> None:
    """Count an obligation in (1) or out (-1)."""
    total = rows.of(TotalOf, window, due.asset)
    total.obligations += sign
    total.gross += sign * due.amount
    debtor = rows.of(Position, window, due.debtor, due.asset)
    debtor.obligations += sign
    debtor.owes += sign * due.amount
    creditor = rows.of(Position, window, due.creditor, due.asset)
    creditor.obligations += sign
    creditor.owed += sign * due.amount


# Windows


@windows.on(ClearingChanged)
def clearing_changed(rows: Rows, event: ClearingChanged, record: Record) -> None:
    row = rows.of(Clearing, record.id)
    row.open, row.settling, row.carried = event.open, event.settling, list(event.carried)


@windows.on(WindowOpened)
def window_opened(rows: Rows, event: WindowOpened, record: Record) -> None:
    row = rows.of(Window, record.id)
    row.series, row.number, row.every_s = event.series, event.number, event.every_s
    row.opened_at, row.closes_at = event.at, event.closes_at


@windows.on(ObligationCounted)
def obligation_counted(rows: Rows, event: ObligationCounted, record: Record) -> None:
    rows.of(Window, record.id).obligations += 1


@windows.on(ObligationsTaken)
def obligations_taken(rows: Rows, event: ObligationsTaken, record: Record) -> None:
    row = rows.of(Window, record.id)
    row.obligations += event.number
    row.taken_over += event.number


@windows.on(WindowClosed)
def window_closed(rows: Rows, event: WindowClosed, record: Record) -> None:
    row = rows.of(Window, record.id)
    row.status, row.closed_at, row.following = "closed", event.at, event.following


@windows.on(PositionsNetted)
def positions_netted(rows: Rows, event: PositionsNetted, record: Record) -> None:
    _net(rows, event, record)


@windows.on(PositionsReserved)
def positions_reserved(rows: Rows, event: PositionsReserved, record: Record) -> None:
    rows.of(Window, record.id).status = "settling"
    _net(rows, event, record)


def _net(rows: Rows, event: PositionsNetted | PositionsReserved, record: Record) -> None:
    for position in event.positions:
        row = rows.of(Position, record.id, position.party, position.asset)
        rows.of(TotalOf, record.id, position.asset).net += position.pays - row.pays
        row.pays, row.receives = position.pays, position.receives


@windows.on(PartiesLeft)
def parties_left(rows: Rows, event: PartiesLeft, record: Record) -> None:
    for party in event.parties:
        row = rows.of(Departure, record.id, party.party)
        row.reason, row.asset = party.reason, party.asset
        row.needed, row.available, row.at = party.needed, party.available, record.recorded_at


@windows.on(WindowSettled)
def window_settled(rows: Rows, event: WindowSettled, record: Record) -> None:
    row = rows.of(Window, record.id)
    row.status, row.ended_at, row.transaction = "settled", event.at, record.command


@windows.on(WindowAborted)
def window_aborted(rows: Rows, event: WindowAborted, record: Record) -> None:
    row = rows.of(Window, record.id)
    row.status, row.ended_at, row.reason = "aborted", event.at, event.reason


# Obligations


@windows.on(ObligationRecorded)
def obligation_recorded(rows: Rows, event: ObligationRecorded, record: Record) -> None:
    row = rows.of(Obligation, record.id)
    row.debtor, row.creditor, row.asset = event.debtor, event.creditor, event.asset
    row.amount, row.memo, row.window_id = event.amount, event.memo, event.window
    row.recorded_at, row.recorded_by = event.at, record.by
    _step(rows, record.id, record, "recorded", "")


@windows.on(ObligationListed)
def obligation_listed(rows: Rows, event: ObligationListed, record: Record) -> None:
    _enter(rows, (event.due,), record)


@windows.on(ObligationsCarried)
def obligations_carried(rows: Rows, event: ObligationsCarried, record: Record) -> None:
    _enter(rows, event.dues, record)


@windows.on(ObligationsLeft)
def obligations_left(rows: Rows, event: ObligationsLeft, record: Record) -> None:
    row = rows.of(Window, _window_of(record))
    row.obligations -= len(event.dues)
    row.left_it += len(event.dues)
    _leave(rows, event.dues, record, "waiting", "left")


@windows.on(ObligationsLapsed)
def obligations_lapsed(rows: Rows, event: ObligationsLapsed, record: Record) -> None:
    row = rows.of(Window, _window_of(record))
    row.obligations -= len(event.dues)
    row.left_it += len(event.dues)
    row.lapsed += len(event.dues)
    _leave(rows, event.dues, record, "lapsed", "lapsed")


@windows.on(ObligationsMovedOn)
def obligations_moved_on(rows: Rows, event: ObligationsMovedOn, record: Record) -> None:
    rows.of(Window, _window_of(record)).moved_to = event.to


@windows.on(ObligationRenewed)
def obligation_renewed(rows: Rows, event: ObligationRenewed, record: Record) -> None:
    rows.of(Window, _window_of(record)).lapsed -= 1
    _step(rows, event.obligation, record, "renewed", _window_of(record))


@windows.on(ObligationsSettled)
def obligations_settled(rows: Rows, event: ObligationsSettled, record: Record) -> None:
    for obligation in event.obligations:
        row = rows.of(Obligation, obligation)
        row.status, row.settled_at, row.transaction = "settled", record.recorded_at, record.command
        _step(rows, obligation, record, "settled", _window_of(record))


# Timers and reactions


def _close(window: str) -> str:
    return f"window-close:{window}"


def _reserve(window: str) -> str:
    return f"window-reserve:{window}"


def _finalise(window: str) -> str:
    return f"window-finalise:{window}"


@timers.on(WindowOpened)
def when_a_window_opened_it_closes_in_time(rows: Rows, event: WindowOpened, record: Record) -> None:
    if event.closes_at is not None:
        body = {"window": record.id}
        schedule(rows, _close(record.id), record, event.closes_at, "settlement", "close-window", **body)


@timers.on(WindowClosed)
def when_a_window_closed_positions_are_reserved(rows: Rows, event: WindowClosed, record: Record) -> None:
    settle(rows, _close(record.id))
    react(rows, _reserve(record.id), record, "settlement", "reserve-positions", window=record.id)


@timers.on(PositionsReserved)
def when_positions_are_reserved_they_are_settled(
    rows: Rows, event: PositionsReserved, record: Record
) -> None:
    settle(rows, _reserve(record.id))
    react(rows, _finalise(record.id), record, "settlement", "finalise-settlement", window=record.id)


@timers.on(WindowSettled)
def when_a_window_is_settled_nothing_is_left_to_do(rows: Rows, event: WindowSettled, record: Record) -> None:
    settle(rows, _finalise(record.id))


@timers.on(WindowAborted)
def when_a_window_is_aborted_nothing_is_left_to_do(rows: Rows, event: WindowAborted, record: Record) -> None:
    for timer in (_close(record.id), _reserve(record.id), _finalise(record.id)):
        settle(rows, timer)


@timers.on(ObligationRecorded)
def when_an_obligation_is_recorded_its_reaction_is_done(
    rows: Rows, event: ObligationRecorded, record: Record
) -> None:
    settle(rows, f"obligation:{record.id}")
