"""What is due later, and what follows at once. Each context's projections put its timers and reactions here;
a worker issues their commands.

A reaction ("when X then Y") is a timer that is due as soon as it is there: it has the projection's checkpoint, its
key is made of ids that occur once, and no rebuild fires it again.

State decides whether a due command still matters, so a timer is never cancelled; the events that settle the
matter merely take its row away.
"""

from __future__ import annotations

from dataclasses import field
from datetime import datetime
from typing import Any

from commands._codec import EPOCH
from projections._engine import Projection, Record, Rows
from projections._tables import Row, table


@table("timers", key=("timer",), indexes=("due_at", "correlation"))
class Timer(Row):
    timer: str
    due_at: datetime = EPOCH
    context: str = ""
    command: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    to_zone: str = ""
    """The zone that the command is for, where it is another."""
    statement: str = ""
    """What this zone signs for the command: the signature becomes the body's `proof`."""
    causation: str = ""
    """The command whose event let this fall due; what follows from it says so."""
    correlation: str = ""


@table("timers_next", key=("subject",))
class Next(Row):
    """The timer that stands for something that falls due again and again."""

    subject: str
    timer: str = ""


timers = Projection("timers", Timer, Next, version=3)


def schedule(
    rows: Rows,
    timer: str,
    record: Record,
    due_at: datetime,
    context: str,
    command: str,
    *,
    zone: str = "",
    signed: str = "",
    **body: Any,
) -> None:
    """Let a command fall due because of an event. The same timer again moves it to the new time."""
    row = rows.of(Timer, timer)
    row.due_at, row.context, row.command, row.body = due_at, context, command, body
    row.to_zone, row.statement = zone, signed
    row.causation, row.correlation = record.command, record.correlation


def react(
    rows: Rows,
    reaction: str,
    record: Record,
    context: str,
    command: str,
    *,
    zone: str = "",
    signed: str = "",
    **body: Any,
) -> None:
    """Let a command follow from an event at once, in this zone or in another one.

    `signed` is a statement that this zone proves by its signature, in the body's `proof`.
    """
    schedule(rows, reaction, record, record.recorded_at, context, command, zone=zone, signed=signed, **body)


def settle(rows: Rows, timer: str) -> None:
    """The matter is settled: nothing is left to do for this timer."""
    rows.delete(Timer, timer)


def schedule_next(
    rows: Rows, subject: str, record: Record, due_at: datetime, context: str, command: str, **body: Any
) -> None:
    """Let what recurs fall due once more, in place of its timer before. Each time is a timer of its own, because
    what became of a timer is kept by its name."""
    standing = rows.of(Next, subject)
    if standing.timer:
        settle(rows, standing.timer)
    standing.timer = f"{subject}:{due_at.isoformat()}"
    schedule(rows, standing.timer, record, due_at, context, command, **body)


def settle_next(rows: Rows, subject: str) -> None:
    """It no longer recurs."""
    standing = rows.find(Next, subject)
    if standing is not None:
        if standing.timer:
            settle(rows, standing.timer)
        rows.delete(Next, subject)
