"""The catalogue of events: every type, every stream that it stands on, as an AsyncAPI 3.0 document.

It is generated from the domain: channels are the kinds of streams, messages the types of events, their payloads the
stored data, their headers the stored meta. `fogbook catalogue` prints it, `GET /asyncapi.json` serves it, and
`python -m ops.catalogue --fixtures` writes down today's shapes (ops/evolution.py).
"""

from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import fields
from importlib.metadata import version
from itertools import pairwise
from types import ModuleType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from fastapi import FastAPI, Request
from starlette.responses import Response

from commands._codec import cache, decode_json, encode_json, event_encoder, event_types, streams
from domain._kernel import Stream, kebab
from domain._upcasts import former_names
from ops.evolution import FIXTURES, Shape, examples, fingerprint, required, shape_of, write_missing

Json = dict[str, Any]

ABOUT = """\
The events of a zone, in one total order. Each is stored once and never changed; positions have no gaps.
Read them at GET /history/events (NDJSON, or a live feed with Accept: text/event-stream, which resumes after
Last-Event-ID), or a stream's own at GET /history/streams/{stream}. A field may be added to a type, with a default;
nothing else about a type ever changes."""

META = {
    "type": "object",
    "title": "What the log says of an event's command",
    "required": ["command", "name", "by", "principal", "correlation", "causation", "i", "n"],
    "properties": {
        "command": {"type": "string", "description": "The command that appended it, such as c17."},
        "name": {"type": "string", "description": "The command's name, such as ledger/transfer."},
        "by": {"type": "string", "description": "The principal that the command acted for."},
        "principal": {"type": "string", "description": "The principal whose key the command came with."},
        "correlation": {"type": "string", "description": "The command that all of it began with."},
        "causation": {"type": "string", "description": "The command that this one follows from."},
        "i": {"type": "integer", "minimum": 1, "description": "Its place among the command's events."},
        "n": {"type": "integer", "minimum": 1, "description": "How many events the command appended."},
    },
}

KINDS: dict[str, Json] = {
    "text": {"type": "string"},
    "number": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "amount": {
        "type": "string",
        "pattern": "^-?(0|[1-9][0-9]{0,38})$",
        "description": "Smallest units, exact.",
    },
    "time": {"type": "string", "format": "date-time"},
}


@cache
def catalogue() -> Json:
    """The document."""
    channels = {category: _channel(category, stream) for category, stream in sorted(streams().items())}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Fogbook",
            "version": version("fogbook"),
            "description": ABOUT,
            "license": {"name": "Apache-2.0"},
            "tags": [{"name": name} for name in sorted({_context(s) for s in streams().values()})],
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": {
            f"append-{category}": _operation(category, stream)
            for category, stream in sorted(streams().items())
        },
        "components": {
            "messages": {name: _message(name, event) for name, event in sorted(event_types().items())},
            "schemas": {"Meta": META}
            | {name: _schema(event) for name, event in sorted(event_types().items())},
        },
    }


@cache
def catalogue_json() -> bytes:
    return msgspec.json.format(encode_json(catalogue()), indent=2)


def _context(stream: Stream[Any]) -> str:
    return type(stream.initial).__module__.split(".")[1]


def _channel(category: str, stream: Stream[Any]) -> Json:
    state = type(stream.initial)
    bare = f" The stream may also be called {category} alone." if stream.whole_names else ""
    return {
        "address": f"{category}:{{id}}",
        "title": state.__name__,
        "description": (_doc(state) or f"The history of one {category}.") + bare,
        "parameters": {"id": {"description": f"Which {category} it is."}},
        "messages": {
            event.__name__: {"$ref": f"#/components/messages/{event.__name__}"} for event in stream.events
        },
        "tags": [{"name": _context(stream)}],
    }


def _operation(category: str, stream: Stream[Any]) -> Json:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{category}"},
        "summary": f"Fogbook appends these events to {category} streams.",
        "tags": [{"name": _context(stream)}],
        "messages": [{"$ref": f"#/channels/{category}/messages/{event.__name__}"} for event in stream.events],
    }


def _message(name: str, event: type) -> Json:
    message: Json = {
        "name": name,
        "title": kebab(name).replace("-", " ").capitalize(),
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/Meta"},
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "examples": [
            {"name": which, "payload": decode_json(event_encoder(event)(example))}
            for which, example in zip(("full", "least"), examples(event), strict=True)
        ],
        "tags": [{"name": event.__module__.split(".")[1]}],
        "x-schema": fingerprint(shape_of(event)),
    }
    if described := _doc(event):
        message["summary"] = described
    if former := former_names(name):
        message["x-stored-as"] = [name, *former]
    return message


# Schemas


def _schema(cls: type) -> Json:
    hints = get_type_hints(cls, include_extras=True)
    shape = shape_of(cls)
    docs = field_docs(cls)
    properties = {}
    for f in fields(cls):
        schema = _of_kind(required(hints[f.name]), shape[f.name]["kind"])
        if shape[f.name].get("optional"):
            schema = {"oneOf": [schema, {"type": "null"}]}
        if "default" in shape[f.name]:
            schema |= {"default": shape[f.name]["default"]}
        if f.name in docs:
            schema |= {"description": docs[f.name]}
        properties[f.name] = schema
    found: Json = {"type": "object", "required": _without_default(shape), "properties": properties}
    if described := _doc(cls):
        found["description"] = described
    return found


def _without_default(shape: Shape) -> list[str]:
    return [name for name, field in shape.items() if "default" not in field]


def _of_kind(hint: Any, kind: Any) -> Json:
    if isinstance(kind, str):
        personal = get_origin(hint) is Annotated and hint.__metadata__[0] in ("personal", "sealed")
        return KINDS[kind] | ({"x-personal": True} if personal else {})
    if "list" in kind:
        return {"type": "array", "items": _of_kind(get_args(hint)[0], kind["list"])}
    return _schema(hint)


# What the source says


def _doc(cls: type) -> str:
    """A class's own docstring; dataclasses without one are given their signature, which says nothing here."""
    written = (cls.__dict__.get("__doc__") or "").strip()
    return "" if written.startswith(f"{cls.__name__}(") else " ".join(inspect.cleandoc(written).split())


def field_docs(cls: type) -> dict[str, str]:
    """The strings that stand behind a class's fields."""
    body = _classes(sys.modules[cls.__module__])[cls.__name__].body
    found = {}
    for field, behind in pairwise(body):
        match field, behind:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str() as text)),
            ):
                found[name] = " ".join(text.split())
    return found


@cache
def _classes(module: ModuleType) -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(module))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


# Where it is served


def add_catalogue(app: FastAPI) -> None:
    """`GET /asyncapi.json`, for everybody, as `/openapi.json` is."""

    @app.get("/asyncapi.json", include_in_schema=False)
    async def asyncapi(request: Request) -> Response:
        return Response(catalogue_json(), media_type="application/json")


def main() -> None:
    if sys.argv[1:] != ["--fixtures"]:
        sys.exit("usage: python -m ops.catalogue --fixtures")
    for path in write_missing(FIXTURES):
        sys.stdout.write(f"{path.relative_to(FIXTURES)}\n")


if __name__ == "__main__":
    main()
