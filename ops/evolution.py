"""What stored events and states look like, version by version, and whether today's code still reads them.

`tests/fixtures/events/<Type>.json` holds every shape that a type of event has had, with examples as they were stored
and what they load to; `tests/fixtures/states/<State>.json` the same of snapshots. `make fixtures` writes what is
missing and changes nothing that is there: what was stored once is stored for ever. A test holds the code against them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from commands._codec import (
    cache,
    decode_json,
    encode_json,
    event_decoder,
    event_encoder,
    event_types,
    state_decoder,
    state_schema,
    stored_types,
    streams,
)

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
INSTEAD = (
    "Put it back as it was, or give the new shape a name of its own and upcast {type} into it "
    "(domain/_upcasts.py)."
)

AMOUNTS = ("amount", "quantity")
KINDS: dict[Any, str] = {str: "text", bool: "boolean", int: "number", datetime: "time"}
"""How fields are stored: amounts as decimal strings, times as RFC 3339."""

Shape = dict[str, dict[str, Any]]
"""Field -> its `kind`, whether it is `optional` (may be null), its `default` as stored if it has one."""
Json = Any


# Shapes


@cache
def shape_of(cls: type) -> Shape:
    """The shape of an event, or of a value within one."""
    return {name: _field(hint, default) for name, hint, default in _fields(cls)}


def _fields(cls: type) -> Iterator[tuple[str, Any, Any]]:
    hints = get_type_hints(cls, include_extras=True)
    for f in fields(cls):
        default = f.default if f.default_factory is MISSING else f.default_factory()
        yield f.name, hints[f.name], default


def _field(hint: Any, default: Any) -> dict[str, Any]:
    inner = required(hint)
    shape: dict[str, Any] = {"kind": kind_of(inner)}
    if inner is not hint:
        shape["optional"] = True
    if default is not MISSING:
        shape["default"] = _stored(hint, default)
    return shape


def required(hint: Any) -> Any:
    """The hint without None."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    return hint


def kind_of(hint: Any) -> Json:
    if get_origin(hint) is Annotated:
        return "amount" if hint.__metadata__[0] in AMOUNTS else KINDS[get_args(hint)[0]]
    if get_origin(hint) is tuple:
        return {"list": kind_of(get_args(hint)[0])}
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return {"object": shape_of(hint)}
    return KINDS[hint]


def _stored(hint: Any, value: Any) -> Json:
    """A value as an event's encoder stores it."""
    hint = required(hint)
    if value is None:
        return None
    if get_origin(hint) is tuple:
        return [_stored(get_args(hint)[0], item) for item in value]
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return decode_json(event_encoder(hint)(value))
    return str(value) if kind_of(hint) == "amount" else decode_json(encode_json(value))


def fingerprint(shape: Shape) -> str:
    return sha256(encode_json(shape)).hexdigest()[:16]


# Examples


def examples(event: type) -> list[Any]:
    """An event with everything in it, and one with as little as may be; the same ones each time."""
    return [_example(event, "", full) for full in (True, False)]


def _example(hint: Any, name: str, full: bool) -> Any:
    if not full and required(hint) is not hint:
        return None
    hint = required(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        return tuple(_example(arguments[0], f"{name}{i}", full) for i in range(2 * full))
    if origin is dict:
        return {_example(arguments[0], name, full): _example(arguments[1], name, full)} if full else {}
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return hint(**{field: _example(inner, field, full) for field, inner, _ in _fields(hint)})
    if not full:
        return {"text": "", "number": 0, "amount": 0, "boolean": False, "time": _time(0)}[kind_of(hint)]
    return {
        "text": f'{name} "ä"',
        "number": len(name),
        "amount": 10**37 + len(name),
        "boolean": True,
        "time": _time(678_901),
    }[kind_of(hint)]


def _time(microsecond: int) -> datetime:
    return msgspec.convert(f"2026-01-02T03:04:05.{microsecond:06}Z", datetime)


# Fixtures


def missing(folder: Path) -> dict[Path, dict[str, Any]]:
    """What `write_missing` would write: whole files, old content included."""
    found = {}
    for name, event in event_types().items():
        path = folder / "events" / f"{name}.json"
        held = _load(path) or {"type": name, "versions": []}
        versions = held["versions"]
        if not versions or versions[-1]["shape"] != shape_of(event):
            versions.append(_version_of(event))
            found[path] = held
    for path, held in _held(folder, "events"):
        if held["type"] not in event_types() and _add_what_it_became(held):
            found[path] = held
    for state in states():
        path = folder / "states" / f"{state.__name__}.json"
        held = _load(path) or {"state": state.__name__, "versions": []}
        if all(version["schema"] != state_schema(state) for version in held["versions"]):
            stored = [encode_json(_example(state, "", full)).decode() for full in (True, False)]
            held["versions"].append({"schema": state_schema(state), "stored": stored})
            found[path] = held
    return found


def write_missing(folder: Path) -> list[Path]:
    """Write down what today's events and states look like, where that is not known yet."""
    found = missing(folder)
    for path, held in found.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(encode_json(held), indent=1) + b"\n")
    return list(found)


def states() -> list[type]:
    """The states that snapshots hold."""
    found = {type(stream.initial).__name__: type(stream.initial) for stream in streams().values()}
    assert len(found) == len({stream.initial.__class__ for stream in streams().values()}), "names are unique"
    return list(found.values())


def _version_of(event: type) -> dict[str, Any]:
    shape = shape_of(event)
    made = []
    for example in examples(event):
        stored = event_encoder(event)(example)
        made.append({"stored": stored.decode(), "loads": [_loaded(event.__name__, stored)]})
    return {"schema": fingerprint(shape), "shape": shape, "examples": made}


def _loaded(type_name: str, stored: bytes) -> dict[str, Any]:
    decoder = event_decoder(type_name)
    assert decoder is not None
    event = decoder(stored)
    return {"type": type(event).__name__, "value": decode_json(event_encoder(type(event))(event))}


def _add_what_it_became(held: dict[str, Any]) -> bool:
    """Of a type that is gone: what its examples load to now."""
    if held["type"] not in stored_types():
        return False
    into = stored_types()[held["type"]].__name__
    added = False
    for example in (each for version in held["versions"] for each in version["examples"]):
        if example["loads"][-1]["type"] != into:
            example["loads"].append(_loaded(held["type"], example["stored"].encode()))
            added = True
    return added


def _load(path: Path) -> Any:
    return decode_json(path.read_bytes()) if path.exists() else None


def _held(folder: Path, kind: str) -> Iterable[tuple[Path, Any]]:
    return ((path, _load(path)) for path in sorted((folder / kind).glob("*.json")))


# Whether today's code reads what was stored


def problems(folder: Path) -> list[str]:
    """What is wrong with today's events and states, and what to do about it, a sentence or two each."""
    found = []
    for _, held in _held(folder, "events"):
        found += _changes(held) or [*_wrong_loads(held)]
    for _, held in _held(folder, "states"):
        found += _wrong_snapshots(held)
    if not found:
        found += [
            f"{path.stem} has no fixture of what it looks like today: run `make fixtures` and commit {path.name}."
            for path in missing(folder)
        ]
    return found


def _changes(held: dict[str, Any]) -> list[str]:
    """What changed since the newest fixture in a way that stored events do not allow."""
    name, versions = held["type"], held["versions"]
    if name not in stored_types():
        return [f"{name} is gone, and logs hold events of it. {INSTEAD.format(type=name)}"]
    if name not in event_types():
        return []
    today = shape_of(event_types()[name])
    return [
        *_incompatible(name, name, versions[-1]["shape"], today),
        *_other_defaults(name, [version["shape"] for version in versions], today),
    ]


def _incompatible(name: str, at: str, old: Shape, new: Shape) -> Iterator[str]:
    for field, was in old.items():
        if field not in new:
            yield f"{at}.{field} is gone, and stored events hold it. {INSTEAD.format(type=name)}"
        else:
            yield from _other_kind(name, f"{at}.{field}", was, new[field])
    for field, is_now in new.items():
        if field not in old and "default" not in is_now:
            yield (
                f"{at}.{field} is new and has no default, so events that were stored before could not be read: "
                "give it the default that they mean."
            )


def _other_kind(name: str, at: str, was: dict[str, Any], is_now: dict[str, Any]) -> Iterator[str]:
    if was.get("optional") and not is_now.get("optional"):
        yield f"{at} may be null in stored events and not any more. {INSTEAD.format(type=name)}"
    old, new = was["kind"], is_now["kind"]
    while isinstance(old, dict) and isinstance(new, dict) and "list" in old and "list" in new:
        old, new = old["list"], new["list"]
    if isinstance(old, dict) and isinstance(new, dict) and "object" in old and "object" in new:
        yield from _incompatible(name, at, old["object"], new["object"])
    elif old != new:
        yield f"{at} was stored as {_shown(old)} and is {_shown(new)} now. {INSTEAD.format(type=name)}"


def _shown(kind: Json) -> str:
    if isinstance(kind, str):
        return kind
    return f"list of {_shown(kind['list'])}" if "list" in kind else "object"


def _other_defaults(name: str, versions: list[Shape], today: Shape) -> Iterator[str]:
    """A default is what events mean that were stored without the field: it never changes."""
    for field, is_now in today.items():
        first = next((shape for shape in versions if field in shape), None)
        if first is not None and first is not versions[0]:
            was = first[field].get("default")
            if "default" not in is_now or is_now["default"] != was:
                yield (
                    f"{name}.{field} must keep its default {encode_json(was).decode()}: it is what events mean "
                    "that were stored without it."
                )


def _wrong_loads(held: dict[str, Any]) -> Iterator[str]:
    name = held["type"]
    for number, version in enumerate(held["versions"], 1):
        for example in version["examples"]:
            expected = example["loads"][-1]
            try:
                found = _loaded(name, example["stored"].encode())
            except msgspec.MsgspecError as error:
                yield f"{name} as stored in version {number} can no longer be read: {error}."
                continue
            if found["type"] != expected["type"]:
                yield (
                    f"{name} becomes {found['type']} now: run `make fixtures`, see whether it is right, and commit it."
                )
            elif not _fits(expected["value"], found["value"]):
                yield f"{name} as stored in version {number} loads as {found['value']}, not as {expected['value']}."


def _fits(expected: Json, found: Json) -> bool:
    """Whether all that was there is as it was; what was added since has its default."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return all(name in found and _fits(value, found[name]) for name, value in expected.items())
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(_fits, expected, found))
    return bool(expected == found)


def _wrong_snapshots(held: dict[str, Any]) -> Iterator[str]:
    """A snapshot of today's schema must load as it was; one of any other schema is not read at all."""
    state = {state.__name__: state for state in states()}.get(held["state"])
    for version in held["versions"]:
        if state is None or version["schema"] != state_schema(state):
            continue
        for stored in version["stored"]:
            try:
                same = encode_json(state_decoder(state)(stored.encode())) == stored.encode()
            except msgspec.MsgspecError:
                same = False
            if not same:
                yield f"A snapshot of {held['state']} with schema {version['schema']} no longer loads as it was stored."
