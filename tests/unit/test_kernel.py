"""Streams, rules and the arithmetic that every context shares; and that all of it can be stored."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st

import domain
from commands._codec import decode_event, event_encoder, event_types, modules
from domain import _kernel
from domain._kernel import (
    Issued,
    NotFound,
    Rejected,
    Stream,
    balance,
    ceil_div,
    floor_div,
    kebab,
    snake,
)
from domain.ledger import Credited, Debited, WalletOpened, accounts, assets, holds
from tests.scenario import decision_of

MODULES = [
    importlib.import_module(info.name)
    for info in pkgutil.walk_packages(domain.__path__, "domain.")
    if not info.name.rsplit(".", 1)[-1].startswith("_")
]
STREAMS: dict[str, Stream[Any]] = {
    name: stream
    for module in MODULES
    for name, stream in inspect.getmembers(module, lambda value: isinstance(value, Stream))
}
EVENTS = sorted({event for stream in STREAMS.values() for event in stream.events}, key=lambda e: e.__name__)
RULES = sorted(
    {
        rule
        for module in MODULES
        for _, rule in inspect.getmembers(module, inspect.isclass)
        if issubclass(rule, Rejected) and rule.__module__ == module.__name__
    },
    key=lambda rule: rule.__name__,
)
DECISIONS = [
    function
    for module in MODULES
    for _, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__
    and not function.__name__.startswith("_")
    and list(inspect.signature(function).parameters) == ["command", "issued", "read"]
]


def values(hint: Any, *, big: bool = True) -> st.SearchStrategy[Any]:
    """Anything that a field of this type may hold."""
    origin = get_origin(hint)
    if origin is Annotated:
        base, kind = get_args(hint)[:2]
        return st.integers(0, 10**60) if kind in ("amount", "quantity") else values(base, big=False)
    if origin is tuple:
        return st.lists(values(get_args(hint)[0]), max_size=3).map(tuple)
    if origin is dict:
        key, value = get_args(hint)
        keys = st.text(max_size=5) if key is str else st.integers(0, 2**31)
        return st.dictionaries(keys, values(value), max_size=3)
    if args := get_args(hint):
        return st.one_of([values(arg) for arg in args])
    if is_dataclass(hint):
        assert isinstance(hint, type)
        hints = get_type_hints(hint, include_extras=True)
        return st.builds(hint, **{f.name: values(hints[f.name]) for f in fields(hint)})
    simple: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(st.characters(codec="utf-8"), max_size=10),
        bool: st.booleans(),
        int: st.integers(-(10**60), 10**60) if big else st.integers(0, 2**31),
        datetime: st.datetimes(timezones=st.just(UTC)),
        type(None): st.none(),
    }
    return simple[hint]


def test_floor_and_ceil_enclose_the_exact_quotient() -> None:
    assert (floor_div(7, 2), ceil_div(7, 2)) == (3, 4)
    assert (floor_div(8, 2), ceil_div(8, 2)) == (4, 4)
    assert (floor_div(0, 5), ceil_div(0, 5)) == (0, 0)
    huge = 10**76 + 1
    assert (floor_div(huge, 10**38), ceil_div(huge, 10**38)) == (10**38, 10**38 + 1)


def test_names_turn_into_words() -> None:
    assert kebab("ValidatorIsJailed") == "validator-is-jailed"
    assert kebab("QualityNeedsASuccess") == "quality-needs-a-success"
    assert snake("BeginUnbonding") == "begin_unbonding"


def test_a_stream_names_its_histories() -> None:
    assert holds("h1").name == "hold:h1"
    assert accounts("wallet:ana").name == "wallet:ana"
    assert assets.name("FOG") == "asset:FOG"


def test_a_rule_carries_its_sentence_and_its_facts() -> None:
    class TheSkyFell(Rejected):
        """The sky
        fell."""

    rule = TheSkyFell(height=3)
    assert (rule.rule(), str(rule), rule.facts) == ("the-sky-fell", "The sky fell.", {"height": 3})
    assert (TheSkyFell.status, NotFound.status) == (409, 404)


def test_balance_sums_the_postings_per_asset() -> None:
    debit = (accounts("wallet:ana"), Debited("FOG", 5, "wallet:ben", "gift"))
    credit = (accounts("wallet:ben"), Credited("FOG", 5, "wallet:ana", "gift"))
    opened = (accounts("wallet:cleo"), WalletOpened("cleo"))
    assert balance([debit, credit, opened]) == {}
    assert balance([debit]) == {"FOG": -5}


def test_balance_keeps_assets_apart_and_needs_no_order() -> None:
    pairs = [
        (accounts("wallet:ana"), Debited("FOG", 5, "wallet:ben", "gift")),
        (accounts("wallet:ben"), Credited("GPU", 5, "wallet:ana", "gift")),
        (accounts("wallet:ben"), Credited("FOG", 2, "wallet:ana", "gift")),
    ]
    assert balance(pairs) == balance(pairs[::-1]) == {"FOG": -3, "GPU": 5}
    assert balance([]) == {}


@hypothesis_given(st.integers(-(10**80), 10**80), st.integers(1, 10**40))
def test_ceil_is_the_least_whole_number_that_is_enough(a: int, b: int) -> None:
    assert floor_div(a, b) * b <= a < (floor_div(a, b) + 1) * b
    assert (ceil_div(a, b) - 1) * b < a <= ceil_div(a, b) * b


def test_the_codec_finds_the_same_contexts_and_events() -> None:
    assert set(modules().values()) == set(MODULES)
    assert set(event_types().values()) == set(EVENTS)


def test_amounts_of_the_largest_size_survive_being_stored() -> None:
    largest = Debited("FOG", _kernel.AMOUNT_LIMIT - 1, "wallet:ben", "gift")
    stored = event_encoder(Debited)(largest)
    assert b'"99999999999999999999999999999999999999"' in stored
    assert decode_event("Debited", stored) == largest


def test_operators_and_workers_are_services() -> None:
    def issued(role: str) -> Issued:
        return Issued("ana", datetime(2026, 1, 1, tzinfo=UTC), role)

    assert issued("operator").is_operator
    assert issued("operator").is_service
    assert issued("worker").is_service
    assert not issued("worker").is_operator
    assert not issued("participant").is_service


def test_event_names_and_categories_are_unique() -> None:
    names = [event.__name__ for event in EVENTS]
    assert len(names) == len(set(names))
    categories = [c for stream in {id(s): s for s in STREAMS.values()}.values() for c in stream.categories]
    assert len(categories) == len(set(categories))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_rule_is_a_sentence(rule: type[Rejected]) -> None:
    assert rule.__doc__
    assert rule.sentence().endswith(".")


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda decision: decision.__name__)
def test_a_decision_is_named_after_its_command(decision: Any) -> None:
    command = get_type_hints(decision)["command"]
    assert decision_of(object.__new__(command)) is decision


def test_there_are_decisions_and_rules_of_every_context() -> None:
    assert len(DECISIONS) > 30
    assert len(RULES) > 50


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_every_event_survives_being_stored(event: type) -> None:
    @settings(max_examples=10)
    @hypothesis_given(values(event))
    def check(value: Any) -> None:
        stored = event_encoder(event)(value)
        assert decode_event(event.__name__, stored) == value

    check()


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_amounts_in_events_are_stored_as_decimal_strings(event: type) -> None:
    """A JSON reader with 64-bit floats would change them otherwise. Small counts may stay numbers."""
    hints = get_type_hints(event, include_extras=True)
    amounts = [
        f.name
        for f in fields(event)
        if get_origin(hints[f.name]) is Annotated and get_args(hints[f.name])[1] in ("amount", "quantity")
    ]
    suspicious = {"amount", "tokens", "shares", "weight", "ratio", "balance", "penalty", "cap", "dust"}
    for f in fields(event):
        if hints[f.name] is int:
            assert f.name not in suspicious, f"{event.__name__}.{f.name} is an amount"

    @settings(max_examples=3)
    @hypothesis_given(values(event))
    def check(value: Any) -> None:
        stored = msgspec.json.decode(event_encoder(event)(value))
        assert all(isinstance(stored[name], str) for name in amounts)

    check()


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_every_state_survives_being_snapshotted(name: str) -> None:
    stream = STREAMS[name]
    kind = type(stream.initial)
    assert msgspec.json.decode(msgspec.json.encode(stream.initial), type=kind) == stream.initial

    @settings(max_examples=10)
    @hypothesis_given(values(kind))
    def check(state: Any) -> None:
        assert msgspec.json.decode(msgspec.json.encode(state), type=kind) == state

    check()


def test_kinds_are_told_apart_by_their_second_part() -> None:
    @dataclass
    class Fields:
        amount: _kernel.Amount
        id: _kernel.Id

    hints = get_type_hints(Fields, include_extras=True)
    assert [get_args(hint)[1] for hint in hints.values()] == ["amount", "id"]
