"""Commands in the OpenAPI document: their headers, bodies, answers and errors."""

from __future__ import annotations

import inspect
from datetime import datetime
from typing import Any

from commands._codec import ZONE_SCHEMA
from commands._models import KINDS, model_of
from commands._routes import ANYONE, Route
from domain._kernel import kebab
from ops.problems import documented

_ERRORS = documented(400, 401, 403, 404, 408, 409, 412, 413, 422)

_HEADERS = [
    ("Idempotency-Key", True, "Names the command, so that sending it again has no further effect."),
    ("Fogbook-Zone", False, "The zone; `main` where it is missing."),
    ("Fogbook-Act-As", False, "The principal to act for (operators with the scope act-as)."),
    (
        "Fogbook-Signed",
        False,
        "Who signed the command, in place of acting for others: JSON with `principal`, `key` (Ed25519, 64 hex digits),"
        " `nonce`, `expires` (seconds since 1970), `signature` (128 hex digits) and, for personal texts, `salt`.",
    ),
    ("Fogbook-At", False, "The time, in a zone with a manual clock (scope act-at)."),
    ("If-Match", False, "The version that the command's main stream must have."),
    ("Fogbook-Correlation", False, "Ties several commands together: a name, or the id of the first of them."),
    ("Fogbook-Causation", False, "The command that this one follows from: `c17`, elsewhere `village/c17`."),
]

_TRACE_SCHEMA = {"type": "string", "pattern": "^[A-Za-z0-9._:/-]{1,100}$"}
_HEADER_SCHEMAS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {"type": "string", "pattern": "^[!-~]{1,200}$"},
    "Fogbook-Zone": ZONE_SCHEMA,
    "Fogbook-Act-As": KINDS["id"][2],
    "Fogbook-At": KINDS[datetime][2],
    "If-Match": {"type": "string", "pattern": '^("[0-9]{1,18}"|[0-9]{1,18})$'},
    "Fogbook-Correlation": _TRACE_SCHEMA,
    "Fogbook-Causation": _TRACE_SCHEMA,
}

_ANSWER = {
    "type": "object",
    "required": ["command_id", "zone", "position", "events"],
    "properties": {
        "command_id": {"type": "string"},
        "zone": {"type": "string"},
        "position": {"type": "integer"},
        "events": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["position", "stream", "version", "type", "data"],
                "properties": {
                    "position": {"type": "integer"},
                    "stream": {"type": "string"},
                    "version": {"type": "integer"},
                    "type": {"type": "string"},
                    "data": {"type": "object"},
                },
            },
        },
    },
}


def documentation_of(route: Route) -> dict[str, Any]:
    """How a command's route is documented: what `App.add` takes beside path and handler."""
    return {
        "tags": [route.context],
        "summary": kebab(route.command.__name__).replace("-", " ").capitalize(),
        "description": inspect.getdoc(route.command) or "",
        "operation_id": route.name.replace("/", "_").replace("-", "_"),
        "responses": {200: _ok()} | _ERRORS,
        "openapi_extra": _documentation(route),
    }


def documentation_of_batches(description: str) -> dict[str, Any]:
    """The same of `POST /commands`."""
    return {
        "tags": ["batches"],
        "summary": "Many commands at once",
        "description": description,
        "operation_id": "commands_batch",
        "responses": {
            200: {"description": "A line for each command.", "content": {"application/x-ndjson": {}}}
        }
        | documented(400, 401, 403, 408, 413, 415, 422),
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
            },
            "security": [{"key": []}],
            "x-roles": sorted(ANYONE),
            "x-scope": "commands",
        },
    }


def _ok() -> dict[str, Any]:
    return {
        "description": "The command was accepted, and its events are durable. Personal texts (`x-personal`) are shown"
        " as they are stored: sealed, `enc:v1:<key id>:<base64url>`; queries open them.",
        "content": {"application/json": {"schema": _ANSWER}},
        "headers": {"Fogbook-Position": {"schema": {"type": "integer"}}},
    }


def _documentation(route: Route) -> dict[str, Any]:
    schema = model_of(route.command).model_json_schema()
    definitions = schema.pop("$defs", {})
    parameters = [
        {
            "name": n,
            "in": "header",
            "required": r,
            "description": d,
            "schema": _HEADER_SCHEMAS.get(n, {"type": "string"}),
        }
        for n, r, d in _HEADERS
        if n != "If-Match" or route.main
    ]
    parameters.append(
        {
            "name": "dry_run",
            "in": "query",
            "description": "Answer what the command would do, and do nothing.",
            "schema": {"type": "boolean"},
        }
    )
    return {
        "security": [{"key": []}],
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _inlined(schema, definitions)}},
        },
        "x-roles": sorted(route.roles),
        "x-scope": route.scope,
    }


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A schema without references into its own `$defs`."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return {key: _inlined(value, definitions) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_inlined(value, definitions) for value in schema]
    return schema
