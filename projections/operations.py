"""Read models of what operators want of read models: which are held, what is to be done, which events they lack.

The worker looks here (projections/_wanted.py). What became of an act stands in `act_fates`, kept apart so that a
rebuild of this read model does nothing twice.
"""

from __future__ import annotations

from datetime import datetime

from commands._codec import EPOCH
from domain.operations import (
    EventDiscarded,
    EventReinstated,
    ProjectionPaused,
    ProjectionResumed,
    RebuildCancelled,
    RebuildRequested,
    RepairRequested,
    RetryRequested,
)
from projections._engine import Projection, Record, Rows
from projections._tables import Row, table

NO_EVENT = 0


@table("operations_projections", key=("projection",))
class Operated(Row):
    """Held, or held before; `at` is since when."""

    projection: str
    paused: bool = False
    reason: str = ""
    by: str = ""
    at: datetime = EPOCH


@table("operations_acts", key=("act",), indexes=("asked",))
class Act(Row):
    """Something that is to be done once, called by the command that asked for it."""

    act: str
    projection: str = ""
    kind: str = ""
    """rebuild, retry, repair, discard or reinstate."""
    event: int = NO_EVENT
    """The position that it is about."""
    reason: str = ""
    by: str = ""
    at: datetime = EPOCH
    asked: int = 0
    """The position of the event that asked for it."""
    cancelled: bool = False
    cancelled_by: str = ""
    cancelled_at: datetime | None = None


@table("operations_discards", key=("projection", "event"))
class Discard(Row):
    """An event that a read model does without, or did, as long as `standing` is false."""

    projection: str
    event: int
    standing: bool = False
    reason: str = ""
    by: str = ""
    at: datetime = EPOCH


operations = Projection("operations", Operated, Act, Discard)


@operations.on(ProjectionPaused)
def paused(rows: Rows, event: ProjectionPaused, record: Record) -> None:
    row = rows.of(Operated, record.id)
    row.paused, row.reason, row.by, row.at = True, event.reason, event.by, event.at


@operations.on(ProjectionResumed)
def resumed(rows: Rows, event: ProjectionResumed, record: Record) -> None:
    row = rows.of(Operated, record.id)
    row.paused, row.reason, row.by, row.at = False, "", event.by, event.at


Asked = RebuildRequested | RetryRequested | RepairRequested | EventDiscarded | EventReinstated


def _asked(rows: Rows, event: Asked, record: Record, kind: str) -> Act:
    row = rows.of(Act, event.act)
    row.projection, row.kind, row.asked = record.id, kind, record.position
    row.by, row.at = event.by, event.at
    return row


@operations.on(RebuildRequested)
def rebuild_requested(rows: Rows, event: RebuildRequested, record: Record) -> None:
    _asked(rows, event, record, "rebuild").reason = event.reason


@operations.on(RepairRequested)
def repair_requested(rows: Rows, event: RepairRequested, record: Record) -> None:
    _asked(rows, event, record, "repair").reason = event.reason


@operations.on(RetryRequested)
def retry_requested(rows: Rows, event: RetryRequested, record: Record) -> None:
    _asked(rows, event, record, "retry").event = event.position


@operations.on(RebuildCancelled)
def rebuild_cancelled(rows: Rows, event: RebuildCancelled, record: Record) -> None:
    row = rows.of(Act, event.act)
    row.cancelled, row.cancelled_by, row.cancelled_at = True, event.by, event.at


@operations.on(EventDiscarded)
def event_discarded(rows: Rows, event: EventDiscarded, record: Record) -> None:
    act = _asked(rows, event, record, "discard")
    act.event, act.reason = event.position, event.reason
    row = rows.of(Discard, record.id, event.position)
    row.standing, row.reason, row.by, row.at = True, event.reason, event.by, event.at


@operations.on(EventReinstated)
def event_reinstated(rows: Rows, event: EventReinstated, record: Record) -> None:
    act = _asked(rows, event, record, "reinstate")
    act.event, act.reason = event.position, event.reason
    row = rows.of(Discard, record.id, event.position)
    row.standing, row.reason, row.by, row.at = False, event.reason, event.by, event.at
