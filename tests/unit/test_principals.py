"""Principals: what they say of themselves, and that they are erased once and for good."""

from __future__ import annotations

import msgspec
import pytest

from commands._codec import decode_event, event_encoder
from domain.principals import (
    EraseSubject,
    Principal,
    PrincipalNotFound,
    ProfileSet,
    SetProfile,
    SubjectErased,
    SubjectIsErased,
    principals,
)
from tests.examples import DAY
from tests.scenario import START, Scenario, given

ana = SetProfile("Ana", "ana at the well")


def principal(scenario: Scenario, name: str = "ana") -> Principal:
    found: Principal = scenario.book.read(principals, name)
    return found


def test_everybody_says_who_he_is_for_himself() -> None:
    scenario = given().when(ana, "ana").then(ProfileSet("Ana", "ana at the well", START))
    assert [where for where, _ in scenario.book.events] == ["principal:ana"]
    assert principal(scenario) == Principal("Ana", "ana at the well")
    assert principal(scenario, "ben") == Principal()


def test_the_same_again_changes_nothing() -> None:
    given((ana, "ana")).when(ana, "ana", after=DAY).then()
    given().when(SetProfile(""), "ana").then()


@pytest.mark.parametrize("other", [SetProfile("Ana"), SetProfile("", "ana at the well"), SetProfile("")])
def test_what_was_said_can_be_changed_and_taken_back(other: SetProfile) -> None:
    scenario = given((ana, "ana")).when(other, "ana").then(ProfileSet)
    assert principal(scenario) == Principal(other.display_name, other.contact)


@pytest.mark.parametrize("by", ["ana", "operator"])
def test_a_principal_is_erased_by_himself_or_by_an_operator(by: str) -> None:
    scenario = given((ana, "ana")).when(EraseSubject("ana"), by).then(SubjectErased("ana", by, START))
    assert scenario.book.events[-1][0] == "principal:ana"
    assert principal(scenario) == Principal(erased=True)


@pytest.mark.parametrize("role", ["participant", "provider", "worker", "auditor"])
def test_nobody_else_erases_him(role: str) -> None:
    scenario = given((ana, "ana")).when(EraseSubject("ana"), "ben", role).then(PrincipalNotFound)
    assert not principal(scenario).erased


def test_an_operator_who_acts_for_another_has_that_ones_authority() -> None:
    given().when(EraseSubject("ben"), "ana", "participant").then(PrincipalNotFound)
    given().when(EraseSubject("ana"), "ana", "participant").then(SubjectErased)


def test_one_who_never_said_anything_can_be_erased() -> None:
    given().when(EraseSubject("zoe")).then(SubjectErased("zoe", "operator", START))


def test_he_is_erased_once() -> None:
    scenario = given((EraseSubject("ana"), "ana"))
    scenario.when(EraseSubject("ana"), "ana", after=DAY).then()
    scenario.when(EraseSubject("ana")).then()


def test_one_who_was_erased_says_nothing_of_himself_any_more() -> None:
    scenario = given((ana, "ana"), (EraseSubject("ana"), "ana"))
    for said in (ana, SetProfile("Anna"), SetProfile("")):
        scenario.when(said, "ana", after=DAY).then(SubjectIsErased)
    scenario.when(ana, "ben").then(ProfileSet)


def test_events_and_states_survive_being_stored() -> None:
    scenario = given((ana, "ana"), (EraseSubject("ana"), "ana"))
    for _, event in scenario.book.events:
        assert decode_event(type(event).__name__, event_encoder(type(event))(event)) == event
    for state in (principal(scenario), Principal("Ana", "here")):
        assert msgspec.json.decode(msgspec.json.encode(state), type=Principal) == state
