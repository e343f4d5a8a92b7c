"""Both applications' OpenAPI documents as files, so that a change of the API is seen where it is made.

`make openapi` writes them anew and says what changed; what breaks programs that were written before is named so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
APPLICATIONS = ("commands", "queries")
METHODS = frozenset({"get", "head", "post", "put", "patch", "delete"})
SUCCESS = "2"
MOST_DEPTH = 5
"""Document, paths, path, method, member: what is deeper stands on the line of what it belongs to."""

Json = dict[str, Any]


def document(application: str) -> Json:
    """As the application answers it, without what is documented nowhere else: pages of the console."""
    if application == "commands":
        from commands.api import load_routes, make_app

        load_routes()
    else:
        from queries.api import make_app
    return make_app().openapi()


def as_text(shown: Json) -> str:
    """The same for the same document: names are sorted, and each parameter and each answer is a line."""
    return f"{_laid_out(shown, 0)}\n"


def _laid_out(value: Any, depth: int) -> str:
    if not isinstance(value, dict | list) or depth == MOST_DEPTH or not value:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    inside = " " * (depth + 1)
    if isinstance(value, dict):
        names = (f"{json.dumps(name)}: {_laid_out(value[name], depth + 1)}" for name in sorted(value))
        return "{\n" + ",\n".join(inside + each for each in names) + f"\n{' ' * depth}}}"
    each_one = (inside + _laid_out(each, depth + 1) for each in value)
    return "[\n" + ",\n".join(each_one) + f"\n{' ' * depth}]"


def committed(application: str) -> Json:
    found: Json = json.loads((FOLDER / f"{application}.json").read_text())
    return found


def write(application: str, shown: Json) -> None:
    (FOLDER / f"{application}.json").write_text(as_text(shown))


# What differs


def changes(was: Json, now: Json) -> list[str]:
    """A sentence for each difference; those that break programs that were written before come first, and say so."""
    found = [*_of_paths(was.get("paths", {}), now.get("paths", {}))]
    if not found and was != now:
        names = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
        found = [f"changed: {', '.join(names)}"]
    return sorted(set(found), key=lambda line: (not line.startswith(BREAKING), line))


BREAKING = "breaking: "


def _of_paths(was: Json, now: Json) -> Iterator[str]:
    for path in sorted(was.keys() | now.keys()):
        if path not in now:
            yield f"{BREAKING}{path} is gone"
        elif path not in was:
            yield f"new: {path}"
        else:
            yield from _of_operations(path, was[path], now[path])


def _of_operations(path: str, was: Json, now: Json) -> Iterator[str]:
    for method in sorted((was.keys() | now.keys()) & METHODS):
        name = f"{method.upper()} {path}"
        if method not in now:
            yield f"{BREAKING}{name} is gone"
        elif method not in was:
            yield f"new: {name}"
        elif was[method] != now[method]:
            found = [*_of_operation(name, was[method], now[method])]
            yield from found or [f"changed: {_what(name, was[method], now[method])}"]


def _what(name: str, was: Json, now: Json) -> str:
    """Differences that break nothing and are not described any closer."""
    parts = sorted(part for part in was.keys() | now.keys() if was.get(part) != now.get(part))
    return f"{name}: {', '.join(parts)}"


def _of_operation(name: str, was: Json, now: Json) -> Iterator[str]:
    yield from _of_parameters(name, _named(was), _named(now))
    yield from _of_schema(f"the body of {name}", _body(was), _body(now), asked=True)
    if _body(now) and now["requestBody"].get("required") and not _body(was):
        yield f"{BREAKING}{name} needs a body"
    answers, new_answers = was.get("responses", {}), now.get("responses", {})
    for status in sorted(answers.keys() | new_answers.keys()):
        where = f"the {status} of {name}"
        if status not in new_answers:
            yield f"{BREAKING if status.startswith(SUCCESS) else 'changed: '}{where} is gone"
        elif status not in answers:
            yield f"new: {where}"
        else:
            kept, given = answers[status].get("content", {}), new_answers[status].get("content", {})
            for media in sorted(kept.keys() | given.keys()):
                if media not in given:
                    yield f"{BREAKING}{where} as {media} is gone"
                elif media in kept:
                    shown, other = kept[media].get("schema", {}), given[media].get("schema", {})
                    yield from _of_schema(where, shown, other, asked=False)
    for scope in ("x-roles",):
        for role in sorted(set(was.get(scope, [])) - set(now.get(scope, []))):
            yield f"{BREAKING}{name} is no longer for the role {role}"


def _named(operation: Json) -> Json:
    return {f"{each['in']} parameter {each['name']}": each for each in operation.get("parameters", [])}


def _body(operation: Json) -> Json:
    contents = operation.get("requestBody", {}).get("content", {})
    return next((content.get("schema", {}) for content in contents.values()), {})


def _of_parameters(name: str, was: Json, now: Json) -> Iterator[str]:
    for each in sorted(was.keys() | now.keys()):
        where = f"the {each} of {name}"
        needed = now.get(each, {}).get("required", False)
        if each not in now:
            yield f"{BREAKING}{where} is gone"
        elif each not in was:
            yield f"{BREAKING}{where} is new and required" if needed else f"new: {where}"
        else:
            if needed and not was[each].get("required", False):
                yield f"{BREAKING}{where} is required now"
            yield from _of_schema(where, was[each].get("schema", {}), now[each].get("schema", {}), asked=True)


def _of_schema(where: str, was: Json, now: Json, *, asked: bool) -> Iterator[str]:
    """`asked`: what callers send; otherwise what they get."""
    if was == now:
        return
    kind, new_kind = _kind(was), _kind(now)
    if kind != new_kind:
        yield f"{BREAKING}{where} was {kind} and is {new_kind}"
        return
    fields, new_fields = was.get("properties", {}), now.get("properties", {})
    required, new_required = set(was.get("required", [])), set(now.get("required", []))
    for field in sorted(fields.keys() | new_fields.keys()):
        inside = f"the field {field} of {where}"
        if field not in new_fields:
            yield f"{BREAKING}{inside} is gone"
        elif field not in fields:
            is_breaking = asked and field in new_required
            yield f"{BREAKING}{inside} is new and required" if is_breaking else f"new: {inside}"
        else:
            if asked and field in new_required - required:
                yield f"{BREAKING}{inside} is required now"
            if not asked and field in required - new_required:
                yield f"{BREAKING}{inside} may be missing now"
            yield from _of_schema(inside, fields[field], new_fields[field], asked=asked)
    if "items" in was and "items" in now:
        yield from _of_schema(f"an item of {where}", was["items"], now["items"], asked=asked)
    for part in ("anyOf", "oneOf"):
        for one, other in zip(was.get(part, []), now.get(part, []), strict=False):
            yield from _of_schema(where, one, other, asked=asked)
    yield from _of_limits(where, was, now)


RULES = ("pattern", "format", "enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")


def _of_limits(where: str, was: Json, now: Json) -> Iterator[str]:
    for rule in RULES:
        if was.get(rule) != now.get(rule):
            yield f"changed: {where}: {rule} was {was.get(rule)} and is {now.get(rule)}"


def _kind(schema: Json) -> str:
    """What a value is, in a word or some."""
    for part in ("anyOf", "oneOf"):
        if part in schema:
            return " or ".join(_kind(each) for each in schema[part])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    kind = schema.get("type", "anything")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)
