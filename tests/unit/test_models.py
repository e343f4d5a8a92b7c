"""Command bodies become commands: nested parts, lists of any kind, fields that may be left out, numbers below zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from commands._codec import event_encoder
from commands._models import command_from, model_of
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
