"""Events, states and other values of the log as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from commands._codec import encode_json


class Event(NamedTuple):
    """An event as it is stored."""

    position: int
    stream: str
    version: int
    type: str
    data: bytes
    meta: bytes
    recorded_at: datetime
    leaf: bytes

    def shown(self) -> dict[str, Any]:
        return {
            "position": self.position,
            "stream": self.stream,
            "version": self.version,
            "type": self.type,
            "data": stored(self.data),
            "meta": stored(self.meta),
            "recorded_at": rfc3339(self.recorded_at),
            "leaf": self.leaf.hex(),
        }

    def named(self) -> dict[str, Any]:
        """Which event it is, without its content."""
        return {
            "position": self.position,
            "stream": self.stream,
            "version": self.version,
            "type": self.type,
            "command": self.own_meta.get("command"),
        }

    def line(self) -> bytes:
        return encode_json(self.shown())

    @property
    def own_meta(self) -> dict[str, Any]:
        """What our own events say of their command; nothing for those of other applications."""
        try:
            meta = msgspec.json.decode(self.meta)
        except msgspec.MsgspecError:
            return {}
        ours = isinstance(meta, dict) and type(meta.get("i")) is int and type(meta.get("n")) is int
        return meta if ours else {}

    @property
    def span(self) -> tuple[int, int]:
        """The first and last position of its command."""
        meta = self.own_meta
        if not meta:
            return self.position, self.position
        first = self.position - meta["i"] + 1
        return first, first + int(meta["n"]) - 1


def stored(data: bytes) -> Any:
    """Stored bytes inside JSON: verbatim where they are JSON on one line, in base64 otherwise."""
    try:
        data.decode()
        msgspec.json.decode(data)
        if b"\n" not in data and b"\r" not in data:
            return msgspec.Raw(data)
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError):
        pass
    return {"base64": data}


def rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def plain(value: Any) -> Any:
    """A state as JSON: every whole number is a decimal string, as amounts are everywhere."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {":".join(map(str, k)) if isinstance(k, tuple) else str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return rfc3339(value) if isinstance(value, datetime) else value


def ndjson(events: Sequence[Event]) -> bytes:
    return b"".join(event.line() + b"\n" for event in events)
