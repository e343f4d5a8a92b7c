"""What operators do about read models: hold them, build them anew, and decide about events that they cannot digest.

A command only says what is wanted, by whom and why. It is done by the worker (workers/acts.py), which reads what is
wanted from the read model that these events make. So that one can be neither held nor lack an event.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from domain._kernel import Decision, Id, Issued, NotFound, Read, Rejected, Stream, Text

OPERATIONS = "operations"
"""The read model that carries what operators want."""
PROJECTIONS = frozenset(
    {
        "analytics",
        "approvals",
        "contracts",
        "devices",
        "disputes",
        "harvest",
        "ledger",
        "lineage",
        "offerings",
        OPERATIONS,
        "principals",
        "requests",
        "staking",
        "timers",
        "transfers",
        "windows",
    }
)
"""Of which read models one can say something; a test holds it against those that there are."""
MOST_REMEMBERED = 50
"""Of a read model's acts: an older one is not given up any more."""
MOST_DISCARDED = 1_000
"""Of one read model: what lacks more than that is to be repaired."""

# Events: stored for ever. Add fields with defaults; never rename, never remove.


@dataclass(frozen=True, slots=True)
class ProjectionPaused:
    """Its rows stay as they are, until it is resumed."""

    reason: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ProjectionResumed:
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RebuildRequested:
    reason: str
    by: str
    at: datetime
    act: str
    """The command that asked; what is still to be done is called by it."""


@dataclass(frozen=True, slots=True)
class RebuildCancelled:
    """What is under way or still to be done of `act` is given up."""

    act: str
    reason: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RetryRequested:
    """The event at `position` is to be tried again."""

    position: int
    by: str
    at: datetime
    act: str


@dataclass(frozen=True, slots=True)
class RepairRequested:
    reason: str
    by: str
    at: datetime
    act: str


@dataclass(frozen=True, slots=True)
class EventDiscarded:
    """The read model is to do without the event at `position`; the log keeps it, as ever."""

    position: int
    reason: str
    by: str
    at: datetime
    act: str


@dataclass(frozen=True, slots=True)
class EventReinstated:
    """It counts again."""

    position: int
    reason: str
    by: str
    at: datetime
    act: str


OperationsEvent = (
    ProjectionPaused
    | ProjectionResumed
    | RebuildRequested
    | RebuildCancelled
    | RetryRequested
    | RepairRequested
    | EventDiscarded
    | EventReinstated
)

# State


@dataclass(frozen=True, slots=True)
class Operated:
    """What operators want of one read model."""

    paused: bool = False
    acts: tuple[str, ...] = ()
    """The commands that asked last for a rebuild of some kind. Whether they are done only the worker knows."""
    discarded: tuple[int, ...] = ()


# evolve


def evolve(state: Operated, event: OperationsEvent) -> Operated:
    match event:
        case ProjectionPaused():
            return replace(state, paused=True)
        case ProjectionResumed():
            return replace(state, paused=False)
        case RebuildRequested() | RetryRequested() | RepairRequested():
            return asked(state, event.act)
        case RebuildCancelled():
            return replace(state, acts=tuple(act for act in state.acts if act != event.act))
        case EventDiscarded():
            return replace(asked(state, event.act), discarded=(*state.discarded, event.position))
        case EventReinstated():
            left = tuple(position for position in state.discarded if position != event.position)
            return replace(asked(state, event.act), discarded=left)


def asked(state: Operated, act: str) -> Operated:
    return replace(state, acts=(*state.acts, act)[-MOST_REMEMBERED:])


projections = Stream("projection", Operated(), evolve, OperationsEvent)

# Commands


@dataclass(frozen=True, slots=True)
class PauseProjection:
    """Hold a read model: its rows stay as of the position that it has reached, and say so. Commands go on."""

    projection: Id
    reason: Text


@dataclass(frozen=True, slots=True)
class ResumeProjection:
    """Let a read model that is held go on from where it stands."""

    projection: Id


@dataclass(frozen=True, slots=True)
class RebuildProjection:
    """Fold the whole history anew beside the live read model, and put it in its place once it has caught up. Events
    that were discarded stay so; one that cannot be digested makes the rebuild fail, and the live one stays."""

    projection: Id
    reason: Text


@dataclass(frozen=True, slots=True)
class CancelRebuild:
    """Give up a rebuild of any kind that was asked for and is not done; the live read model stays as it is. What is
    done already stays done."""

    projection: Id
    act: Id
    """The command that asked for it, such as c17."""
    reason: Text


@dataclass(frozen=True, slots=True)
class RetryQuarantined:
    """Try an event that was set aside with today's code. If it is digested, the read model is rebuilt, so that the
    event counts in its place; what else is set aside stays so."""

    projection: Id
    position: int


@dataclass(frozen=True, slots=True)
class RepairQuarantined:
    """Take in all that was set aside: the read model is rebuilt with today's code, which has to digest every event that
    was not discarded. Where nothing is set aside, nothing is done."""

    projection: Id
    reason: Text


@dataclass(frozen=True, slots=True)
class DiscardQuarantined:
    """Do without an event that was set aside, so that the later ones of its stream count. The read model is rebuilt
    without it, each further rebuild leaves it out as well, and the rows that miss it say so for good."""

    projection: Id
    position: int
    reason: Text


@dataclass(frozen=True, slots=True)
class ReinstateDiscarded:
    """Take a discarded event back: the read model is rebuilt with it."""

    projection: Id
    position: int
    reason: Text


# Rules


class ProjectionNotFound(NotFound):
    """There is no such read model."""


class ProjectionCarriesOperations(Rejected):
    """This read model carries what operators want: it cannot be held, and it can lack no event."""


class ReasonIsMissing(Rejected):
    """Whoever does this says why."""


class ActNotFound(NotFound):
    """Nothing of the kind was asked for of this read model, or it was given up before."""


class DiscardNotFound(NotFound):
    """This read model does without no such event."""


class TooManyDiscarded(Rejected):
    """A read model does without a bounded number of events; one that lacks more is to be repaired."""


# Decisions


def pause_projection(command: PauseProjection, issued: Issued, read: Read) -> Decision:
    state = _of(command.projection, read)
    _may_lack(command.projection)
    reason = _said(command.reason)
    if not state.paused:
        yield projections(command.projection), ProjectionPaused(reason, issued.by, issued.at)


def resume_projection(command: ResumeProjection, issued: Issued, read: Read) -> Decision:
    if _of(command.projection, read).paused:
        yield projections(command.projection), ProjectionResumed(issued.by, issued.at)


def rebuild_projection(command: RebuildProjection, issued: Issued, read: Read) -> Decision:
    _of(command.projection, read)
    reason = _said(command.reason)
    yield projections(command.projection), RebuildRequested(reason, issued.by, issued.at, issued.command_id)


def cancel_rebuild(command: CancelRebuild, issued: Issued, read: Read) -> Decision:
    if command.act not in _of(command.projection, read).acts:
        raise ActNotFound(projection=command.projection, act=command.act)
    reason = _said(command.reason)
    yield projections(command.projection), RebuildCancelled(command.act, reason, issued.by, issued.at)


def retry_quarantined(command: RetryQuarantined, issued: Issued, read: Read) -> Decision:
    _of(command.projection, read)
    event = RetryRequested(command.position, issued.by, issued.at, issued.command_id)
    yield projections(command.projection), event


def repair_quarantined(command: RepairQuarantined, issued: Issued, read: Read) -> Decision:
    _of(command.projection, read)
    reason = _said(command.reason)
    yield projections(command.projection), RepairRequested(reason, issued.by, issued.at, issued.command_id)


def discard_quarantined(command: DiscardQuarantined, issued: Issued, read: Read) -> Decision:
    state = _of(command.projection, read)
    _may_lack(command.projection)
    reason = _said(command.reason)
    if command.position in state.discarded:
        return
    if len(state.discarded) >= MOST_DISCARDED:
        raise TooManyDiscarded(limit=MOST_DISCARDED)
    event = EventDiscarded(command.position, reason, issued.by, issued.at, issued.command_id)
    yield projections(command.projection), event


def reinstate_discarded(command: ReinstateDiscarded, issued: Issued, read: Read) -> Decision:
    if command.position not in _of(command.projection, read).discarded:
        raise DiscardNotFound(projection=command.projection, position=command.position)
    reason = _said(command.reason)
    event = EventReinstated(command.position, reason, issued.by, issued.at, issued.command_id)
    yield projections(command.projection), event


def _of(projection: str, read: Read) -> Operated:
    if projection not in PROJECTIONS:
        raise ProjectionNotFound(projection=projection, known=sorted(PROJECTIONS))
    return read(projections, projection)


def _may_lack(projection: str) -> None:
    if projection == OPERATIONS:
        raise ProjectionCarriesOperations(projection=projection)


def _said(reason: str) -> str:
    if not reason.strip():
        raise ReasonIsMissing()
    return reason
