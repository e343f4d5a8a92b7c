"""What stands in a query's address: its parameters as typed values, whole numbers, and the cursors of pages."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

import msgspec
from fastapi import Request
from pydantic_core import PydanticCustomError

from commands._codec import cache
from commands._models import KINDS
from ops.problems import Problem
from queries._openapi import kind_of

RESERVED = frozenset({"limit", "after", "min_position", "as_of", "diff"})


def _parameter(kind: Any, value: str) -> Any:
    _, check, schema = KINDS[kind]
    given: Any = value
    if schema["type"] == "integer":
        given = int(value) if re.fullmatch(r"[0-9]{1,18}", value) else value
    elif schema["type"] == "boolean":
        given = {"true": True, "false": False}.get(value, value)
    return check(given)


def parameters_of(declared: type, request: Request, reserved: frozenset[str] = RESERVED) -> dict[str, Any]:
    """The query string as typed values; `reserved` names are read elsewhere. Raises Problem 422."""
    given = request.query_params
    if len(given.multi_items()) != len(given):
        raise Problem(422, "repeated-parameter", "A parameter is given once.")
    return values_of(declared, given, reserved)


def values_of(
    declared: type, given: Mapping[str, str], reserved: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Parameters as typed values. Raises Problem 422."""
    terms = terms_of(declared)
    if not given.keys() <= terms.keys() | reserved:
        raise Problem(422, "unknown-parameter", "There is no such parameter.", known=sorted(terms))
    values: dict[str, Any] = {}
    for name, (kind, default) in terms.items():
        if name in given:
            try:
                values[name] = _parameter(kind, given[name])
            except PydanticCustomError as error:
                raise Problem(422, "invalid-parameter", error.message(), parameter=name) from None
        elif default is MISSING:
            raise Problem(422, "missing-parameter", "A parameter is missing.", parameter=name)
        else:
            values[name] = default
    return values


@cache
def terms_of(declared: type) -> dict[str, tuple[Any, Any]]:
    """Of each parameter what KINDS knows its type by, and its default."""
    hints = get_type_hints(declared, include_extras=True)
    return {f.name: (kind_of(hints[f.name]), f.default) for f in fields(declared)}


def whole_number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name)
    return default if text is None else _whole_number(name, text, most)


def whole_numbers(request: Request, name: str, most: int) -> list[int]:
    """Those of a list with commas in between; none where the parameter is not there."""
    text = request.query_params.get(name)
    return [] if text is None else [_whole_number(name, each, most) for each in text.split(",")]


def _whole_number(name: str, text: str, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) > most:
        raise Problem(
            422,
            "invalid-parameter",
            f"{name} is a whole number from 0 to {most}.",
            parameter=name,
        )
    return int(text)


def encode_cursor(keys: str) -> str:
    return base64.urlsafe_b64encode(keys.encode()).decode().rstrip("=")


def cursor_behind(keys: Sequence[str]) -> str:
    """The cursor behind a row with these keys, written as PostgreSQL writes an array."""
    return encode_cursor(json.dumps(keys, ensure_ascii=False))


def decode_cursor(text: str, length: int) -> list[str]:
    try:
        padded = text + "=" * (-len(text) % 4)
        keys = msgspec.json.decode(base64.urlsafe_b64decode(padded.encode("ascii")), type=list[str])
    except (ValueError, binascii.Error, UnicodeError, msgspec.MsgspecError):
        keys = []
    if len(keys) != length or any("\0" in key for key in keys):
        raise malformed_cursor()
    return keys


def malformed_cursor() -> Problem:
    return Problem(422, "invalid-cursor", "after is a cursor that an earlier page gave as next.")
