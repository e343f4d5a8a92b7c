"""What queries take and answer, as OpenAPI says it."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from commands._codec import ZONE_SCHEMA
from commands._models import KINDS
from ops.problems import documented
from queries._query import Query
from queries._sql import MOST_LIMIT, is_amount


def kind_of(hint: Any) -> Any:
    """What KINDS knows a parameter's type by."""
    return hint.__metadata__[0] if get_origin(hint) is Annotated else hint


def responses_of(query: Query) -> dict[int | str, dict[str, Any]]:
    ok = {"application/json": {"schema": _answer_schema(query.row)}}
    return {
        200: {"description": "The items and the position they reflect.", "content": ok},
        304: {"description": "Nothing changed."},
        **documented(400, 401, 403, 404, 422, 504),
    }


def _json_schema(hint: Any) -> dict[str, Any]:
    arguments = get_args(hint)
    if type(None) in arguments:
        inner = _json_schema(next(part for part in arguments if part is not type(None)))
        return {"anyOf": [inner, {"type": "null"}]}
    if get_origin(hint) is Annotated:
        if is_amount(hint):
            return {"type": "string", "pattern": "^-?(0|[1-9][0-9]*)$"}
        return _json_schema(arguments[0])
    if hint is datetime:
        return {"type": "string", "format": "date-time"}
    if is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        return {"type": "object", "properties": {f.name: _json_schema(hints[f.name]) for f in fields(hint)}}
    names = {str: "string", int: "integer", bool: "boolean", float: "number", dict: "object", list: "array"}
    return {"type": names[get_origin(hint) or hint]}


def _answer_schema(row: type) -> dict[str, Any]:
    hints = get_type_hints(row, include_extras=True)
    item = {
        "type": "object",
        "properties": {f.name: _json_schema(hints[f.name]) for f in fields(row)},
        "required": [f.name for f in fields(row)],
    }
    return {
        "type": "object",
        "required": ["position", "items", "next", "quarantined"],
        "properties": {
            "position": {"type": "integer", "description": "The log position that the answer reflects."},
            "items": {"type": "array", "items": {"anyOf": [item, _differing(item)]}},
            "next": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "quarantined": {
                "type": "integer",
                "description": "Events that this projection could not digest.",
            },
        },
    }


def _differing(item: dict[str, Any]) -> dict[str, Any]:
    side = {"anyOf": [item, {"type": "null"}]}
    return {
        "type": "object",
        "description": "With `diff`, an item is a row that is not the same at both positions.",
        "properties": {"key": {"type": "object"}, "was": side, "is": side},
        "required": ["key", "was", "is"],
    }


MOMENT_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": "^(position:)?[0-9]{1,18}$"},
        {"type": "string", "format": "date-time"},
    ]
}
_PAST_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "as_of",
        "in": "query",
        "schema": MOMENT_SCHEMA,
        "description": "What the answer was as of a position (`N` or `position:N`, the end of a command up to it)"
        " or an RFC 3339 time. Not together with `min_position`.",
    },
    {
        "name": "diff",
        "in": "query",
        "schema": MOMENT_SCHEMA,
        "description": "A second position or time to compare with: the items are then `key`, `was` (as of `diff`) and"
        " `is` (as of `as_of`, or of the newest rows) of all rows that are not the same, null where there is none.",
    },
]


def parameters_shown(query: Query) -> list[dict[str, Any]]:
    hints = get_type_hints(query.parameters, include_extras=True)
    own = [
        {
            "name": f.name,
            "in": "query",
            "required": f.default is MISSING,
            "schema": KINDS[kind_of(hints[f.name])][2],
        }
        for f in fields(query.parameters)
    ]
    return [
        *own,
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 0, "maximum": MOST_LIMIT}},
        {
            "name": "after",
            "in": "query",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
            "description": "`next` of the page before.",
        },
        {
            "name": "min_position",
            "in": "query",
            "schema": {"type": "integer", "minimum": 0, "maximum": 2**62},
            "description": "Wait, bounded, until the projection has reached this position.",
        },
        *_PAST_PARAMETERS,
        {"name": "Fogbook-Zone", "in": "header", "schema": ZONE_SCHEMA},
        {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}},
    ]
