"""Command bodies become commands: nested parts, lists of any kind, fields that may be left out, numbers below zero."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic_core import PydanticCustomError

from commands._codec import event_encoder
from commands._models import (
    MOST_DEPTH,
    MOST_VALUES,
    account_id,
    asset_code,
    command_from,
    model_of,
    path,
    strict_json,
    wallet_id,
)
from domain._kernel import Amount, Count, Id, SmallInt
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
