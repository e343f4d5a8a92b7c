"""Command bodies become commands: nested parts, lists of any kind, fields that may be left out, numbers below zero."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from commands._codec import event_encoder
from commands._models import (
    MOST_DEPTH,
    MOST_VALUES,
    account_id,
    asset_code,
    command_from,
    from_model,
    model_of,
    parse_strictly,
    path,
    strict_json,
    wallet_id,
)
from commands._routes import ROUTES
from commands.api import load_routes
from domain._kernel import Amount, Count, Id, SmallInt
from domain.ledger import Transfer
from ops.problems import Problem


@dataclass(frozen=True, slots=True)
class Size:
    cpu: Count
    price: Amount = 1


@dataclass(frozen=True, slots=True)
class Report:
    """A body with every shape that a command may have."""

    device: Id
    size: Size
    sizes: tuple[Size, ...] = ()
    tags: tuple[Id, ...] = ()
    celsius: SmallInt | None = None
    limit: Amount | None = None
    spare: Size | None = None


@pytest.mark.parametrize(
    ("body", "command"),
    [
        ({"device": "D1", "size": {"cpu": 2}}, Report("d1", Size(2))),
        (
            {"device": "d1", "size": {"cpu": 2, "price": "5"}, "sizes": [{"cpu": 1}], "tags": ["A", "b"]},
            Report("d1", Size(2, 5), (Size(1),), ("a", "b")),
        ),
        (
            {"device": "d1", "size": {"cpu": 2}, "celsius": -5, "limit": "7", "spare": {"cpu": 3}},
            Report("d1", Size(2), celsius=-5, limit=7, spare=Size(3)),
        ),
        (
            {"device": "d1", "size": {"cpu": 2}, "celsius": None, "limit": None, "spare": None},
            Report("d1", Size(2)),
        ),
    ],
)
def test_a_body_of_any_shape_becomes_its_command(body: Any, command: Report) -> None:
    assert command_from(Report, body) == command


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"device": "d1"}, "size"),
        ({"device": "d1", "size": {"cpu": -1}}, "size.cpu"),
        ({"device": "d1", "size": {"cpu": True}}, "size.cpu"),
        ({"device": "d1", "size": {"cpu": 1, "gpu": 1}}, "size.gpu"),
        ({"device": "d1", "size": {"cpu": 1}, "celsius": 2**31}, "celsius"),
        ({"device": "d1", "size": {"cpu": 1}, "limit": "0"}, "limit"),
        ({"device": "d1", "size": {"cpu": 1}, "tags": ["a b"]}, "tags.0"),
        ({"device": "d1", "size": {"cpu": 1}, "sizes": [{"cpu": 1}, {}]}, "sizes.1.cpu"),
    ],
)
def test_a_part_at_fault_is_named(body: Any, field: str) -> None:
    with pytest.raises(Problem) as caught:
        command_from(Report, body)
    assert caught.value.status == 422
    assert field in [error["field"] for error in caught.value.body["facts"]["errors"]]


def test_the_documentation_of_parts_says_what_is_checked() -> None:
    schema = model_of(Report).model_json_schema()
    assert schema["$defs"]["Size"]["properties"]["price"]["type"] == "string"
    assert schema["required"] == ["device", "size"]


def test_amounts_in_parts_are_stored_as_strings() -> None:
    stored = event_encoder(Report)(Report("d1", Size(2, 5), (Size(1, 6),), limit=7))
    assert b'"size":{"cpu":2,"price":"5"}' in stored
    assert b'"sizes":[{"cpu":1,"price":"6"}]' in stored
    assert b'"limit":"7"' in stored
    assert b'"spare":null' in stored


@pytest.mark.parametrize(
    "device", ["\u212aim", "\u212a", "ana\u00a0", "\u0430na", "\uff41na", "\u0130", "ana\u200b", "\u2003ana"]
)
def test_an_id_of_another_alphabet_is_no_id_even_where_it_lowers_to_one(device: str) -> None:
    with pytest.raises(Problem) as caught:
        command_from(Report, {"device": device, "size": {"cpu": 1}})
    assert caught.value.body["facts"]["errors"][0]["field"] == "device"


@pytest.mark.parametrize("check", [path, account_id, wallet_id, asset_code])
@pytest.mark.parametrize("name", ["wallet:\u212aim", "\u00a0wallet:ana", "FO\u212a", "FOG\u2003"])
def test_neither_is_a_path_nor_an_asset(check: Callable[[Any], str], name: str) -> None:
    with pytest.raises(PydanticCustomError):
        check(name)


def refused(body: bytes) -> dict[str, Any]:
    with pytest.raises(Problem) as caught:
        strict_json(body)
    assert (caught.value.status, caught.value.name) == (400, "malformed-body")
    return caught.value.body


DEEPEST = b"[" * MOST_DEPTH + b"]" * MOST_DEPTH
MOST = b"[" + b"0," * (MOST_VALUES - 2) + b"0]"


def test_json_is_bounded_in_depth_and_values_and_the_limit_is_named() -> None:
    assert strict_json(DEEPEST)
    assert len(strict_json(MOST)) == MOST_VALUES - 1
    assert refused(b"[" + DEEPEST + b"]")["facts"] == {"limit": str(MOST_DEPTH)}
    assert refused(MOST[:-1] + b",0,0]")["facts"] == {"limit": str(MOST_VALUES)}
    assert refused(b'{"a":' * 5_000 + b"0" + b"}" * 5_000)["facts"] == {"limit": str(MOST_DEPTH)}
    assert refused(b"[" + b"9" * 5_000 + b"]")["facts"] == {"limit": str(sys.get_int_max_str_digits())}


def test_brackets_within_texts_are_no_levels() -> None:
    said = "[{" * 50 + '\\"[['
    assert strict_json(json.dumps({"a": said, "b": [said]}).encode()) == {"a": said, "b": [said]}
    assert strict_json(json.dumps([",:" * 6_000]).encode()) == [",:" * 6_000]


@pytest.mark.parametrize(
    "text", [b'"' + b'\\"[' * 40_000, b'["' * 40_000, b'"' + b'\\"[' * 40_000 + b"\\", b"[" * 65_536]
)
def test_texts_that_do_not_end_are_refused_and_cost_no_more_than_others(text: bytes) -> None:
    """Each quote within would otherwise be tried as a beginning: the time for it grew with the square."""
    begun = time.thread_time()
    strict_json(json.dumps(["[" * 100_000]).encode())
    usual = time.thread_time() - begun
    begun = time.thread_time()
    refused(text)
    assert time.thread_time() - begun < 100 * max(usual, 0.001)


NAMES = st.sampled_from(['"a"', '"b"', '"from"', '"a:b"', '":"', '""', '"\\u0061"', '"é"', "a"])
SCALARS = st.sampled_from(
    [
        *(
            '"a"',
            '"b:c"',
            '":"',
            '""',
            "1",
            "-0",
            "-7",
            "1.5",
            "1e3",
            "true",
            "null",
            "NaN",
            "01",
            "Infinity",
        ),
        *('"\\""', '"\\u0061"', '"é"', '"\t"', '"\x7f"', "[]", '["a","a"]', '"open', "9" * 30, "9" * 5_000),
    ]
)
SPACES = st.sampled_from(["", "", "", " ", "\n", "\t", "\x0b"])


def objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """JSON texts of objects, whose names stand twice now and then, and texts that are nearly JSON."""
    members = st.lists(
        st.tuples(NAMES, SPACES, SPACES, values).map("{0[0]}{0[1]}:{0[2]}{0[3]}".format), max_size=4
    )
    return st.tuples(members.map(",".join), SPACES).map("{{{0[0]}}}{0[1]}".format)


@given(st.recursive(SCALARS, objects, max_leaves=8), st.sampled_from(["", "", "", "}", ",", "\ufeff"]))
def test_the_quick_way_through_json_takes_and_refuses_what_the_strict_one_does(text: str, more: str) -> None:
    body = (more + text if more == "\ufeff" else text + more).encode()

    assert told(strict_json, body) == told(parse_strictly, body)


@pytest.mark.parametrize("depth", [MOST_DEPTH - 1, MOST_DEPTH, MOST_DEPTH + 1, 1_500])
def test_the_quick_way_takes_no_deeper_nesting_than_the_strict_one(depth: int) -> None:
    body = b'{"a":' * depth + b"1" + b"}" * depth

    assert told(strict_json, body) == told(parse_strictly, body)


load_routes()
GIVEN: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 2**31, 2**53 - 1, 2**53, 10**38, 1.5, [], {}, ["a"]),
        *("", "0", "5", "05", "9" * 39, "ana", " Ana ", "wallet:ana", "Wallet:ANA:x", "treasury", "a:b:c:d"),
        *("FOG", "fog", "zone/FOG", "\u212a", "wallet:\u212a", "x" * 257, "enc:v1:x", "tab\t"),
        *("2026-01-31T12:00:00Z", "2026-01-31", "9999-01-01T00:00:00Z"),
    ]
)


@given(st.data())
def test_a_command_is_checked_as_its_model_checks_it(data: st.DataObject) -> None:
    command = data.draw(st.sampled_from([route.command for route in ROUTES.values()]))
    names = [f.name.removesuffix("_") for f in fields(command)]
    body: Any = {name: data.draw(GIVEN) for name in names if data.draw(st.integers(0, 9))}
    if not data.draw(st.integers(0, 9)):
        body[data.draw(st.sampled_from(["from_", "more", ""]))] = data.draw(GIVEN)

    assert told(command_from, command, body) == told(from_model, command, body)


@pytest.mark.parametrize("body", [None, [], "x", 5])
def test_a_body_that_is_no_object_is_checked_as_its_model_checks_it(body: Any) -> None:
    assert told(command_from, Transfer, body) == told(from_model, Transfer, body)


def test_a_valid_transfer_is_the_command_that_its_model_makes() -> None:
    body = {"from": "wallet:ana", "to": "treasury", "amount": "5"}

    assert command_from(Transfer, body) == from_model(Transfer, body) == Transfer("wallet:ana", "treasury", 5)


def told(function: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns, with the types of all parts, or the problem that it raises."""
    try:
        return repr(function(*arguments))
    except Problem as problem:
        return problem.status, problem.body
