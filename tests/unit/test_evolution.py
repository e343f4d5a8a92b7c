"""What was stored once is read for ever: fixtures of every stored shape, and what a change of the code may not do."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands._codec import (
    UnknownEventType,
    decode_event,
    decode_known,
    encode_json,
    event_encoder,
    event_types,
    stored_types,
    streams,
)
from commands._log import Head
from commands._memory import MemoryLog, Store
from domain._upcasts import UPCASTS, former_names, steps_from, upcast
from domain.ledger import Debited
from ops.catalogue import main
from ops.evolution import FIXTURES, examples, missing, problems, write_missing
from projections._engine import Projection
from tests.history import history
from tests.upcasting import becomes, debited, tokens_taken

Held = dict[str, Any]


# The fixtures that were committed


def test_everything_that_was_ever_stored_is_read_as_it_was_and_has_a_fixture() -> None:
    assert problems(FIXTURES) == []


def test_there_is_a_fixture_of_every_type_and_state() -> None:
    events = {path.stem for path in (FIXTURES / "events").glob("*.json")}
    assert events >= set(event_types())
    states = {path.stem for path in (FIXTURES / "states").glob("*.json")}
    assert states >= {type(stream.initial).__name__ for stream in streams().values()}


def test_examples_are_the_same_each_time_and_hold_everything_or_little() -> None:
    full, least = examples(event_types()["BiddingClosed"])
    assert [full, least] == examples(event_types()["BiddingClosed"])
    assert len(full.bids) == 2 and full.accept_by is not None
    assert (least.bids, least.accept_by) == ((), None)


# What a change of the code may not do


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(FIXTURES, tmp_path / "fixtures")
    return tmp_path / "fixtures"


def edit(folder: Path, name: str, change: Callable[[Held], Any], kind: str = "events") -> None:
    path = folder / kind / f"{name}.json"
    held = json.loads(path.read_bytes())
    change(held)
    path.write_bytes(encode_json(held))


def newest(held: Held) -> Held:
    version: Held = held["versions"][-1]
    return version


def stored_otherwise(held: Held, change: Callable[[Held], Any]) -> None:
    """As if the examples had been stored and had loaded otherwise."""
    for example in newest(held)["examples"]:
        stored = json.loads(example["stored"])
        change(stored)
        example["stored"] = json.dumps(stored)
        change(example["loads"][-1]["value"])


def without(name: str) -> Callable[[Held], None]:
    """An older shape that did not have this field yet."""

    def change(held: Held) -> None:
        del newest(held)["shape"][name]
        stored_otherwise(held, lambda value: value.pop(name))

    return change


UNWELCOME: dict[str, tuple[str, Callable[[Held], Any], str]] = {
    "a field is gone": (
        "Debited",
        lambda held: newest(held)["shape"].update(fee={"kind": "amount"}),
        "Debited.fee is gone, and stored events hold it. Put it back as it was, or give the new shape a name of its"
        " own and upcast Debited into it (domain/_upcasts.py).",
    ),
    "a new field has no default": (
        "Debited",
        without("to"),
        "Debited.to is new and has no default, so events that were stored before could not be read: give it the"
        " default that they mean.",
    ),
    "a field is of another kind": (
        "Debited",
        lambda held: newest(held)["shape"]["to"].update(kind="number"),
        "Debited.to was stored as number and is text now.",
    ),
    "a list is of another kind": (
        "BiddingClosed",
        lambda held: newest(held)["shape"]["bids"].update(kind={"list": "amount"}),
        "BiddingClosed.bids was stored as amount and is object now.",
    ),
    "a field may not be null any more": (
        "Debited",
        lambda held: newest(held)["shape"]["to"].update(optional=True),
        "Debited.to may be null in stored events and not any more.",
    ),
    "a field of a value within is gone": (
        "BiddingClosed",
        lambda held: newest(held)["shape"]["bids"]["kind"]["list"]["object"].update(fee={"kind": "text"}),
        "BiddingClosed.bids.fee is gone, and stored events hold it.",
    ),
    "stored events mean something else": (
        "Debited",
        lambda held: newest(held)["examples"][0]["loads"][0]["value"].update(to="eve"),
        "Debited as stored in version 1 loads as ",
    ),
    "stored events cannot be read": (
        "Debited",
        lambda held: newest(held)["examples"][0].update(stored='{"asset":"FOG"}'),
        "Debited as stored in version 1 can no longer be read: ",
    ),
}


@pytest.mark.parametrize("case", UNWELCOME)
def test_an_incompatible_change_is_named_with_what_to_do_about_it(folder: Path, case: str) -> None:
    name, change, says = UNWELCOME[case]
    edit(folder, name, change)
    (found,) = problems(folder)
    assert found.startswith(says)


def test_a_field_with_a_default_may_be_added_and_older_events_have_it(folder: Path) -> None:
    edit(folder, "Debited", without("memo"))
    before = json.loads((folder / "events" / "Debited.json").read_bytes())
    assert problems(folder) == [
        "Debited has no fixture of what it looks like today: run `make fixtures` and commit Debited.json."
    ]
    assert [path.name for path in write_missing(folder)] == ["Debited.json"]
    after = json.loads((folder / "events" / "Debited.json").read_bytes())
    assert after["versions"][:-1] == before["versions"] and len(after["versions"]) == 2
    assert problems(folder) == [] and not write_missing(folder)


def test_the_default_that_older_events_have_never_changes(folder: Path) -> None:
    edit(folder, "Debited", without("memo"))
    write_missing(folder)
    edit(folder, "Debited", lambda held: newest(held)["shape"]["memo"].update(default="none"))
    (found,) = problems(folder)
    assert (
        found
        == 'Debited.memo must keep its default "none": it is what events mean that were stored without it.'
    )


def test_a_field_may_begin_to_be_null(folder: Path) -> None:
    edit(folder, "BiddingClosed", lambda held: newest(held)["shape"]["accept_by"].pop("optional"))
    assert problems(folder) == [
        "BiddingClosed has no fixture of what it looks like today: run `make fixtures` and commit BiddingClosed.json."
    ]


@pytest.mark.parametrize("kind", ["events", "states"])
def test_what_is_new_needs_a_fixture(folder: Path, kind: str) -> None:
    path = next((folder / kind).glob("*.json"))
    content = path.read_bytes()
    path.unlink()
    (found,) = problems(folder)
    assert path.name in found and "make fixtures" in found
    write_missing(folder)
    if kind == "events":
        assert json.loads(path.read_bytes())["versions"][-1] == json.loads(content)["versions"][-1]


def test_the_fixtures_are_written_by_make(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "events" / "Debited.json").unlink()
    monkeypatch.setattr("ops.catalogue.FIXTURES", folder)
    monkeypatch.setattr("sys.argv", ["catalogue", "--fixtures"])
    main()
    assert capsys.readouterr().out == "events/Debited.json\n"
    main()
    assert capsys.readouterr().out == "" and not missing(folder)
    monkeypatch.setattr("sys.argv", ["catalogue"])
    with pytest.raises(SystemExit, match="usage"):
        main()


# Snapshots


def test_a_snapshot_of_todays_schema_must_load_as_it_was(folder: Path) -> None:
    edit(folder, "Hold", lambda held: newest(held).update(stored=['{"wallet":7}']), "states")
    (found,) = problems(folder)
    assert found.startswith("A snapshot of Hold with schema ") and "no longer loads" in found


def test_a_snapshot_of_another_schema_may_hold_anything(folder: Path) -> None:
    other = {"schema": "0123456789abcdef", "stored": ["what nobody reads"]}
    edit(folder, "Hold", lambda held: held["versions"].insert(0, other), "states")
    assert problems(folder) == []


@pytest.mark.parametrize("schema", ["", "0123456789abcdef"])
def test_a_snapshot_of_an_unknown_schema_is_not_read_and_its_stream_is_replayed(schema: str) -> None:
    records = [record for record in history(steps=20) if record.stream == "wallet:ana"]
    kind = streams()["wallet"]
    state = kind.initial
    for record in records:
        state = kind.evolve(state, decode_event(record.type, record.data))
    store = Store(head=Head(len(history(steps=20)), 0, records[-1].recorded_at, "manual"))
    store.events.extend(history(steps=20))  # type: ignore[arg-type] # A record has all that an event has.
    store.snapshots["wallet:ana"] = (2, records[1].position, schema, b'{"balances":"nonsense"}')
    log = MemoryLog(store)
    loaded = asyncio.run(log.load("main", {"wallet:ana": kind}, store.head.position))
    assert loaded is not None and loaded["wallet:ana"].state == state
    assert log.loads == loaded["wallet:ana"].version == len(records)


# Types that are gone


@pytest.fixture
def gone(folder: Path) -> Path:
    """The fixture of a type that the code has no more."""
    held = json.loads((folder / "events" / "Debited.json").read_bytes())
    held["type"] = "TokensTaken"
    for example in newest(held)["examples"]:
        example["stored"] = json.dumps(tokens_taken(json.loads(example["stored"])))
        example["loads"] = [{"type": "TokensTaken", "value": json.loads(example["stored"])}]
    (folder / "events" / "TokensTaken.json").write_bytes(encode_json(held))
    return folder


def test_a_type_that_is_gone_must_be_upcast(gone: Path) -> None:
    (found,) = problems(gone)
    assert found.startswith("TokensTaken is gone, and logs hold events of it.") and "_upcasts.py" in found


def test_what_a_type_has_become_is_looked_at_and_then_kept(gone: Path) -> None:
    with becomes("TokensTaken", "Debited", debited):
        found = problems(gone)
        assert set(found) == {
            "TokensTaken becomes Debited now: run `make fixtures`, see whether it is right, and commit it."
        }
        assert [path.name for path in write_missing(gone)] == ["TokensTaken.json"]
        assert problems(gone) == [] and not missing(gone)
        held = json.loads((gone / "events" / "TokensTaken.json").read_bytes())
        today = json.loads((gone / "events" / "Debited.json").read_bytes())
        for example, expected in zip(newest(held)["examples"], newest(today)["examples"], strict=True):
            assert [load["type"] for load in example["loads"]] == ["TokensTaken", "Debited"]
            assert example["loads"][-1] == expected["loads"][-1]
    with becomes("TokensTaken", "Debited", lambda taken: debited(taken) | {"to": "eve"}):
        assert any("TokensTaken as stored in version 1 loads as" in found for found in problems(gone))
    with becomes("TokensTaken", "Debited", lambda taken: taken["nothing"]):
        assert any("can no longer be read" in found for found in problems(gone))


@given(
    asset=st.text(),
    amount=st.integers(0, 10**38),
    to=st.text(),
    purpose=st.text(),
    reference=st.text(),
    memo=st.text(),
)
def test_events_of_a_type_that_is_gone_load_as_what_they_have_become(**values: Any) -> None:
    event = Debited(**values)
    stored = json.loads(event_encoder(Debited)(event))
    with becomes("TokensTaken", "Debited", debited):
        data = encode_json(tokens_taken(stored))
        assert decode_event("TokensTaken", data) == decode_known("TokensTaken", data) == event
        assert decode_event("Debited", event_encoder(Debited)(event)) == event


def test_a_type_may_go_more_than_once() -> None:
    with (
        becomes("TokensTaken", "Debited", debited),
        becomes("CoinsGone", "TokensTaken", lambda old: old | {"quantity": old["many"]}),
    ):
        taken = tokens_taken(json.loads(event_encoder(Debited)(Debited("FOG", 5, "b", "test"))))
        old = {"many": taken.pop("quantity"), **taken}
        assert decode_event("CoinsGone", encode_json(old)) == Debited("FOG", 5, "b", "test")
        assert [step.into for step in steps_from("CoinsGone")] == ["TokensTaken", "Debited"]
        assert set(former_names("Debited")) == {"TokensTaken", "CoinsGone"}
        assert stored_types()["CoinsGone"] is Debited


@pytest.mark.parametrize(
    "data", [b"[]", b"{}", b"nonsense", b'{"coin":1,"quantity":{},"route":1,"note":[1]}']
)
def test_altered_bytes_of_a_type_that_is_gone_are_an_error_like_any_other(data: bytes) -> None:
    with becomes("TokensTaken", "Debited", debited), pytest.raises(msgspec.MsgspecError):
        decode_event("TokensTaken", data)


def test_a_type_that_nobody_knows_stays_unknown() -> None:
    with becomes("TokensTaken", "Debited", debited):
        assert decode_event("Elsewhere", b"{}") is None
        with pytest.raises(UnknownEventType):
            decode_known("Elsewhere", b"{}")


def test_handlers_of_a_type_get_the_events_that_have_become_it() -> None:
    made = Projection.__new__(Projection)
    made.name, made.handlers, made.parts = "test", {}, {}
    with becomes("TokensTaken", "Debited", debited):
        handler = made.on(Debited)(lambda rows, event, record: None)
    assert made.handlers == {"Debited": handler, "TokensTaken": handler}
    assert set(made.parts) == {"Debited"}


@pytest.mark.parametrize(
    ("old", "into", "says"),
    [
        ("Debited", "Credited", "is an event of today"),
        ("TokensTaken", "Nonsense", "which is no event"),
    ],
)
def test_an_upcast_leads_from_what_is_gone_to_what_there_is(old: str, into: str, says: str) -> None:
    with becomes(old, into, debited), pytest.raises(TypeError, match=says):
        stored_types()


def test_no_type_becomes_itself_nor_two_things() -> None:
    with becomes("TokensTaken", "CoinsGone", debited):
        for old, into, says in (
            ("TokensTaken", "Debited", "twice"),
            ("CoinsGone", "TokensTaken", "become itself"),
            ("Same", "Same", "become itself"),
        ):
            with pytest.raises(TypeError, match=says):
                upcast(old, into=into)(debited)
    assert not {"TokensTaken", "CoinsGone", "Same"} & set(UPCASTS)
