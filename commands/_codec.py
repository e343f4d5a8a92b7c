"""Events and states as stored bytes: compact UTF-8 JSON, amounts as decimal strings, times as RFC 3339.

The catalogue is found by walking `domain`: every `Stream` there names the events it may hold.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, ParamSpec, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec

import domain
from domain._kernel import Stream, snake
from domain._upcasts import UPCASTS, steps_from

ZONE = re.compile(r"(?!fates\Z)[a-z0-9][a-z0-9._-]{0,62}\Z")
ZONE_SCHEMA = {"type": "string", "pattern": "^(?!fates$)[a-z0-9][a-z0-9._-]{0,62}$"}
"""What a zone may be called. Names of second logs end with `/fates`, so no zone's first log may be named like that."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MOST_ENTRY_BYTES = 65_535
"""An entry bundle of the tlog-tiles format has 16-bit lengths."""

P = ParamSpec("P")
R = TypeVar("R")

encode_json = msgspec.json.Encoder().encode
decode_json = msgspec.json.decode


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event as the log holds it; `data` and `meta` are the stored bytes."""

    position: int
    stream: str
    version: int
    type: str
    data: bytes
    meta: bytes
    recorded_at: datetime


def cache(function: Callable[P, R]) -> Callable[P, R]:
    """`functools.cache` that keeps the function's signature."""
    return cast("Callable[P, R]", functools.cache(function))


class EntryTooLarge(Exception):
    """An event is larger than the log's entries may be: a list in it is not bounded as it should be."""


# Contexts and what they define


@cache
def modules() -> dict[str, ModuleType]:
    """Every module of `domain` by name: a context's file, or the files of its package (`settlement.windows`)."""
    names = [m.name for m in pkgutil.walk_packages(domain.__path__, "domain.")]
    return {
        name.partition(".")[2]: importlib.import_module(name)
        for name in names
        if not name.rpartition(".")[2].startswith("_")
    }


@cache
def contexts() -> tuple[str, ...]:
    """The contexts' names: what stands in `domain` and does not start with `_`."""
    return tuple(name for name in modules() if "." not in name)


def context_of(command: type) -> str:
    """The context that a command belongs to: `domain.settlement.windows` -> `settlement`."""
    return command.__module__.split(".")[1]


@cache
def streams() -> dict[str, Stream[Any]]:
    """Category (`validator`, `wallet`, ...) -> the kind of stream."""
    found: dict[str, Stream[Any]] = {}
    for module in modules().values():
        for value in vars(module).values():
            if isinstance(value, Stream):
                for category in value.categories:
                    if found.setdefault(category, value) is not value:
                        raise TypeError(f"two kinds of stream share the category {category}")
    return found


@cache
def event_types() -> dict[str, type]:
    found: dict[str, type] = {}
    for stream in streams().values():
        for event in stream.events:
            if found.setdefault(event.__name__, event) is not event:
                raise TypeError(f"two events share the name {event.__name__}")
    return found


def decision_of(command: type) -> Callable[..., Any]:
    """The function of the same name beside the command's class: `BeginUnbonding` -> `begin_unbonding`."""
    function: Callable[..., Any] = getattr(sys.modules[command.__module__], _snake(command.__name__))
    return function


_snake = cache(snake)
"""Asked for each command; to find it out takes as long as to hash an event."""


COMMAND_ID = re.compile(r"c([1-9][0-9]{0,17})\Z")


def command_number(id: str) -> int | None:
    """The number of the command that an id names: 17 for `c17`, and for nothing else, so that it has one name."""
    found = COMMAND_ID.match(id)
    return int(found[1]) if found else None


# Events


@cache
def event_encoder(event: type) -> Callable[[Any], bytes]:
    """An encoder compiled for one event class (a generic walk over its fields costs five times as much)."""
    names: dict[str, Any] = {"encode": encode_json, "str": str}
    body = _dict_source(event, "e", names)
    exec(f"def encoder(e): return encode({body})", names)  # noqa: S102 - the source is made of field names of our own classes
    encoder: Callable[[Any], bytes] = names["encoder"]
    return encoder


def _dict_source(cls: type, var: str, names: dict[str, Any]) -> str:
    hints = get_type_hints(cls, include_extras=True)
    parts = (f"{f.name!r}: {_value_source(hints[f.name], f'{var}.{f.name}', names)}" for f in fields(cls))
    return "{" + ", ".join(parts) + "}"


def _value_source(hint: Any, expression: str, names: dict[str, Any]) -> str:
    if get_origin(hint) in (Union, UnionType):
        (inner,) = (part for part in get_args(hint) if part is not NoneType)
        source = _value_source(inner, expression, names)
        return source if source == expression else f"(None if {expression} is None else {source})"
    if get_origin(hint) is Annotated and hint.__metadata__[0] in ("amount", "quantity"):
        return f"str({expression})"
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        if is_dataclass(item) or get_origin(item) is Annotated:
            var = f"v{expression.count('.')}"
            return f"[{_value_source(item, var, names)} for {var} in {expression}]"
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return _dict_source(hint, expression, names)
    return expression


@cache
def stored_types() -> dict[str, type]:
    """Every type that the log may hold -> today's class: today's types, and those that became one of them."""
    today = event_types()
    found = dict(today)
    for old in UPCASTS:
        into = steps_from(old)[-1].into
        if old in today:
            raise TypeError(f"{old} is an event of today, and cannot be upcast")
        if into not in today:
            raise TypeError(f"{old} becomes {into}, which is no event")
        found[old] = today[into]
    return found


@cache
def event_decoder(type_name: str) -> Callable[[bytes], Any] | None:
    """A decoder for stored events of this type; None when no context of ours knows the type."""
    event = stored_types().get(type_name)
    if event is None:
        return None
    decoder: Callable[[bytes], Any] = msgspec.json.Decoder(event, strict=False).decode
    return decoder if event.__name__ == type_name else _upcasting(type_name, decoder)


def _upcasting(type_name: str, decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A decoder for a type that is gone: today's class is all that anybody sees of it."""
    turns = [step.turn for step in steps_from(type_name)]
    decode_fields = msgspec.json.Decoder(dict[str, Any]).decode

    def decoder(data: bytes) -> Any:
        stored = decode_fields(data)
        try:
            for turn in turns:
                stored = turn(stored)
        except (LookupError, TypeError, ValueError) as error:
            raise msgspec.ValidationError(f"this is no stored {type_name}: {error!r}") from error
        return decode(encode_json(stored))

    return decoder


def decode_event(type_name: str, data: bytes) -> Any | None:
    decoder = event_decoder(type_name)
    return decoder(data) if decoder else None


class UnknownEventType(Exception):
    """The log holds events that this code does not know: it is older than what wrote them, and must not decide."""


def decode_known(type_name: str, data: bytes) -> Any:
    """The event; raises UnknownEventType where skipping it would fold a wrong state."""
    decoder = event_decoder(type_name)
    if decoder is None:
        raise UnknownEventType(type_name)
    return decoder(data)


# Snapshots


@cache
def state_decoder(state: type) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(state).decode


@cache
def state_schema(state: type) -> str:
    """A fingerprint of a state's shape; a snapshot of another shape is not read, its stream is replayed."""
    return sha256("\n".join(_shape(state, set())).encode()).hexdigest()[:16]


def _shape(cls: type, seen: set[type]) -> Iterator[str]:
    seen.add(cls)
    hints = get_type_hints(cls, include_extras=True)
    for f in fields(cls):
        default = "" if f.default is MISSING else repr(f.default)
        yield f"{cls.__name__}.{f.name}: {hints[f.name]!r} = {default}"
        for inner in _dataclasses_in(hints[f.name]):
            if inner not in seen:
                yield from _shape(inner, seen)


def _dataclasses_in(hint: Any) -> Iterator[type]:
    if is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for part in get_args(hint):
        yield from _dataclasses_in(part)


# Leaves of the transparency log


def microseconds(at: datetime) -> int:
    return (at - EPOCH) // MICROSECOND


# Numbers of an entry, each with the length of the text or bytes behind it where there is one.
_pack_length = struct.Struct(">H").pack
_pack_number = struct.Struct(">QH").pack
_pack_time = struct.Struct(">qH").pack
_pack_status = struct.Struct(">qH").pack
_pack_place = struct.Struct(">QIq").pack


def event_entry(
    zone: bytes, position: int, stream: str, version: int, type: str, at_us: int, meta: bytes, data: bytes
) -> bytes:
    """An event as an entry of the zone's first log.

    Entry: zone, u64 position, stream, u64 version, type, i64 recorded_at in microseconds, meta, data; the
    texts and bytes each behind their 16-bit length, all numbers big-endian.

    Entries carry no tag of their kind: events stand in a log of their own, whose origin is in every checkpoint that
    they are proven by, so none can be taken for what stands in the second log.
    """
    return _hashed_event(zone, position, stream, version, type, at_us, meta, data)[1:]


def event_leaf(
    zone: bytes, position: int, stream: str, version: int, type: str, at_us: int, meta: bytes, data: bytes
) -> bytes:
    """RFC 6962 leaf hash of an event's entry."""
    return sha256(_hashed_event(zone, position, stream, version, type, at_us, meta, data)).digest()


def _hashed_event(
    zone: bytes, position: int, stream: str, version: int, type: str, at_us: int, meta: bytes, data: bytes
) -> bytes:
    """The entry behind RFC 6962's 0x00; joined at once, since every event that is appended passes here."""
    stream_bytes, type_bytes = stream.encode(), type.encode()
    try:
        hashed = b"".join(
            (
                b"\x00",
                zone,
                _pack_number(position, len(stream_bytes)),
                stream_bytes,
                _pack_number(version, len(type_bytes)),
                type_bytes,
                _pack_time(at_us, len(meta)),
                meta,
                _pack_length(len(data)),
                data,
            )
        )
    except struct.error as error:
        raise EntryTooLarge(type) from error
    if len(hashed) > 1 + MOST_ENTRY_BYTES:
        raise EntryTooLarge(type)
    return hashed


def zone_prefix(zone: str) -> bytes:
    """The first field of each of the zone's entries."""
    return _pack_length(len(zone.encode())) + zone.encode()


def fate_entry(
    zone: bytes,
    number: int,
    principal: str,
    act_as: str,
    key: str,
    request: bytes,
    if_match: int | None,
    status: int,
    answer: bytes,
    position: int,
    events: int,
    at_us: int,
) -> bytes:
    """A command's fate as an entry of the zone's second log.

    Entry: zone, u64 number, principal, act-as, key, SHA-256 of the request, i64 If-Match (-1: none), u16
    status, SHA-256 of the answer, u64 position, u32 events, i64 recorded_at in microseconds.

    What tells it from an attestation in the same log: the 16 bits behind its first number, the length of the
    principal, are never 0.
    """
    hashes = sha256(request).digest(), sha256(answer).digest()
    return hashed_fate_entry(
        zone, number, principal, act_as, key, hashes[0], if_match, status, hashes[1], position, events, at_us
    )


def hashed_fate_entry(
    zone: bytes,
    number: int,
    principal: str,
    act_as: str,
    key: str,
    request_hash: bytes,
    if_match: int | None,
    status: int,
    answer_hash: bytes,
    position: int,
    events: int,
    at_us: int,
) -> bytes:
    """The same where only the hashes of request and answer are at hand."""
    principal_bytes, act_as_bytes, key_bytes = principal.encode(), act_as.encode(), key.encode()
    return b"".join(
        (
            zone,
            _pack_number(number, len(principal_bytes)),
            principal_bytes,
            _pack_length(len(act_as_bytes)),
            act_as_bytes,
            _pack_length(len(key_bytes)),
            key_bytes,
            request_hash,
            _pack_status(-1 if if_match is None else if_match, status),
            answer_hash,
            _pack_place(position, events, at_us),
        )
    )


def fate_leaf(
    zone: bytes,
    number: int,
    principal: str,
    act_as: str,
    key: str,
    request: bytes,
    if_match: int | None,
    status: int,
    answer: bytes,
    position: int,
    events: int,
    at_us: int,
) -> bytes:
    """RFC 6962 leaf hash of a fate's entry."""
    hashes = sha256(request).digest(), sha256(answer).digest()
    entry = hashed_fate_entry(
        zone, number, principal, act_as, key, hashes[0], if_match, status, hashes[1], position, events, at_us
    )
    return sha256(b"\x00" + entry).digest()


def attestation_entry(
    zone: bytes, ordinal: int, after_number: int, kind: str, at_us: int, body: bytes
) -> bytes:
    """What is attested, as an entry of the zone's second log, between the fates of commands.

    Entry: zone, u64 ordinal, u64 number of the fate that it stands behind, kind, i64 recorded_at in
    microseconds, body.

    What tells it from a fate: the 16 bits behind its first number are 0, for no log ever holds 2^48 fates.
    """
    kind_bytes = kind.encode()
    try:
        entry = b"".join(
            (
                zone,
                ordinal.to_bytes(8, "big"),
                _pack_number(after_number, len(kind_bytes)),
                kind_bytes,
                _pack_time(at_us, len(body)),
                body,
            )
        )
    except struct.error as error:
        raise EntryTooLarge(kind) from error
    if len(entry) > MOST_ENTRY_BYTES:
        raise EntryTooLarge(kind)
    return entry


def attestation_leaf(
    zone: bytes, ordinal: int, after_number: int, kind: str, at_us: int, body: bytes
) -> bytes:
    """RFC 6962 leaf hash of an attestation's entry."""
    entry = attestation_entry(zone, ordinal, after_number, kind, at_us, body)
    return sha256(b"\x00" + entry).digest()
