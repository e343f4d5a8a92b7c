"""What operators may want of read models: otto wants it, and says why."""

from __future__ import annotations

from typing import Any

import pytest

from domain.operations import (
    MOST_DISCARDED,
    MOST_REMEMBERED,
    OPERATIONS,
    PROJECTIONS,
    ActNotFound,
    CancelRebuild,
    DiscardNotFound,
    DiscardQuarantined,
    EventDiscarded,
    EventReinstated,
    Operated,
    PauseProjection,
    ProjectionCarriesOperations,
    ProjectionNotFound,
    ProjectionPaused,
    ProjectionResumed,
    ReasonIsMissing,
    RebuildCancelled,
    RebuildProjection,
    RebuildRequested,
    ReinstateDiscarded,
    RepairQuarantined,
    RepairRequested,
    ResumeProjection,
    RetryQuarantined,
    RetryRequested,
    TooManyDiscarded,
    projections,
)
from projections._engine import all_projections
from tests.examples import NOW, Story, story

LEDGER = "ledger"
DISCARD = DiscardQuarantined(LEDGER, 7, "sent twice")


def otto(story: Story, command: Any) -> Story:
    story.when(command, "otto", "operator")
    return story


def state(story: Story) -> Operated:
    found: Operated = story.book.read(projections, LEDGER)
    return found


def test_every_read_model_is_known_here() -> None:
    assert set(all_projections()) == PROJECTIONS


def test_a_read_model_is_held_once_and_resumed_once() -> None:
    told = story()
    otto(told, PauseProjection(LEDGER, "to look")).then(ProjectionPaused("to look", "otto", NOW))
    otto(told, PauseProjection(LEDGER, "to look again")).then()
    assert state(told).paused
    otto(told, ResumeProjection(LEDGER)).then(ProjectionResumed("otto", NOW))
    otto(told, ResumeProjection(LEDGER)).then()
    assert not state(told).paused


def test_what_carries_the_acts_is_neither_held_nor_lacks_an_event() -> None:
    otto(story(), PauseProjection(OPERATIONS, "to look")).then(ProjectionCarriesOperations)
    otto(story(), DiscardQuarantined(OPERATIONS, 7, "away")).then(ProjectionCarriesOperations)


def test_what_carries_the_acts_is_rebuilt_as_others_are() -> None:
    otto(story(), RebuildProjection(OPERATIONS, "to be sure")).then(
        RebuildRequested("to be sure", "otto", NOW, "c1")
    )


def test_each_request_is_called_by_its_command() -> None:
    told = story()
    otto(told, RebuildProjection(LEDGER, "to be sure")).then(
        RebuildRequested("to be sure", "otto", NOW, "c1")
    )
    otto(told, RetryQuarantined(LEDGER, 7)).then(RetryRequested(7, "otto", NOW, "c2"))
    otto(told, RepairQuarantined(LEDGER, "mended")).then(RepairRequested("mended", "otto", NOW, "c3"))
    assert state(told).acts == ("c1", "c2", "c3")


def test_a_request_is_given_up_once() -> None:
    told = story()
    otto(told, RebuildProjection(LEDGER, "to be sure"))
    otto(told, CancelRebuild(LEDGER, "c1", "not now")).then(RebuildCancelled("c1", "not now", "otto", NOW))
    otto(told, CancelRebuild(LEDGER, "c1", "not now")).then(ActNotFound)
    otto(told, CancelRebuild("staking", "c1", "not now")).then(ActNotFound)


def test_of_many_requests_the_newest_are_remembered() -> None:
    told = story()
    for _ in range(MOST_REMEMBERED + 1):
        otto(told, RebuildProjection(LEDGER, "to be sure"))
    assert len(state(told).acts) == MOST_REMEMBERED
    otto(told, CancelRebuild(LEDGER, "c1", "not now")).then(ActNotFound)


def test_an_event_is_discarded_once_and_taken_back_once() -> None:
    told = story()
    otto(told, DISCARD).then(EventDiscarded(7, "sent twice", "otto", NOW, "c1"))
    otto(told, DISCARD).then()
    back = ReinstateDiscarded(LEDGER, 7, "it was not")
    otto(told, back).then(EventReinstated(7, "it was not", "otto", NOW, "c3"))
    otto(told, back).then(DiscardNotFound)
    otto(told, DISCARD).then(EventDiscarded(7, "sent twice", "otto", NOW, "c4"))
    assert state(told).discarded == (7,)


def test_a_read_model_does_without_a_bounded_number_of_events() -> None:
    many = [
        (projections(LEDGER), EventDiscarded(position, "away", "otto", NOW, "c0"))
        for position in range(MOST_DISCARDED)
    ]
    told = story(many)
    otto(told, DiscardQuarantined(LEDGER, MOST_DISCARDED, "away")).then(TooManyDiscarded)
    otto(told, DiscardQuarantined(LEDGER, 0, "away")).then()


COMMANDS = [
    PauseProjection(LEDGER, " "),
    RebuildProjection(LEDGER, ""),
    RepairQuarantined(LEDGER, ""),
    DiscardQuarantined(LEDGER, 7, ""),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_whoever_does_something_says_why(command: Any) -> None:
    otto(story(), command).then(ReasonIsMissing)


@pytest.mark.parametrize("command", [CancelRebuild(LEDGER, "c1", ""), ReinstateDiscarded(LEDGER, 7, "")])
def test_whoever_takes_something_back_says_why(command: Any) -> None:
    told = otto(story(), DISCARD)
    otto(told, command).then(ReasonIsMissing)


@pytest.mark.parametrize(
    "command",
    [
        PauseProjection("nothing", "why"),
        ResumeProjection("nothing"),
        RebuildProjection("nothing", "why"),
        CancelRebuild("nothing", "c1", "why"),
        RetryQuarantined("nothing", 7),
        RepairQuarantined("nothing", "why"),
        DiscardQuarantined("nothing", 7, "why"),
        ReinstateDiscarded("nothing", 7, "why"),
    ],
)
def test_there_is_nothing_to_do_about_what_is_not_there(command: Any) -> None:
    otto(story(), command).then(ProjectionNotFound)
