"""The rows of a query as JSON: as the statement gave them, or as the query's rule makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, get_type_hints

import msgspec

from commands._codec import cache, encode_json
from queries._query import Query
from queries._sql import is_amount, is_json, plain


@cache
def shows(query: Query) -> Callable[[Sequence[Any]], bytes]:
    """A row of the statement as JSON: its columns are text and numbers already, and JSON where they are JSON."""
    hints = get_type_hints(query.inputs, include_extras=True)
    names = [f.name for f in fields(query.inputs)]
    json_at = [i for i, name in enumerate(names) if is_json(hints[name])]
    item = msgspec.defstruct("Item", names)
    encode = msgspec.json.Encoder().encode

    def show(columns: Sequence[Any]) -> bytes:
        return encode(item(*columns))

    def show_with_json(columns: Sequence[Any]) -> bytes:
        values = list(columns)
        for i in json_at:
            if values[i] is not None:
                values[i] = msgspec.Raw(values[i].encode())
        return encode(item(*values))

    return show_with_json if json_at else show


def derived(query: Query, items: bytes, values: dict[str, Any]) -> bytes:
    """Items as JSON, each made by the query's rule of what its SELECT gave; None leaves one out."""
    assert query.derive is not None
    given = msgspec.json.decode(items, type=list[query.inputs], strict=False)  # type: ignore[name-defined]
    show = encoder_of(query.row)
    rows = (query.derive(item, values) for item in given)
    return b"[%b]" % b",".join([show(row) for row in rows if row is not None])


@cache
def encoder_of(row: type) -> Callable[[Any], bytes]:
    """Rows as JSON the way that PostgreSQL shows them: amounts are strings, times have all their microseconds."""
    hints = get_type_hints(row, include_extras=True)
    shows: dict[str, Callable[[Any], str]] = {}
    for f in fields(row):
        if is_amount(plain(hints[f.name])):
            shows[f.name] = str
        elif plain(hints[f.name]) is datetime:
            shows[f.name] = lambda at: at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def encode(item: Any) -> bytes:
        shown = {f.name: getattr(item, f.name) for f in fields(row)}
        for name, show in shows.items():
            if shown[name] is not None:
                shown[name] = show(shown[name])
        return encode_json(shown)

    return encode


def derived_differences(query: Query, items: str, values: dict[str, Any]) -> bytes:
    """Differences of what the SELECT gave, as differences of the rows made of it. What is equal there is none."""
    shown = []
    for item in msgspec.json.decode(items, type=list[dict[str, msgspec.Raw]]):
        sides = {}
        for side in ("was", "is"):
            given = bytes(item[side])
            made = derived(query, b"[%b]" % given, values)[1:-1] if given != b"null" else b""
            sides[side] = msgspec.Raw(made or b"null")
        if bytes(sides["was"]) != bytes(sides["is"]):
            shown.append({"key": item["key"], **sides})
    return encode_json(shown)
