"""A span of a zone's log, what it is made of, and what is left of it once it was walked."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import psycopg

from commands._codec import encode_json, event_decoder, stored_types
from ops.verify._found import Found
from ops.verify._packets import PROVEN
from ops.verify._signed import SIGNED

CHUNK = 16_384
"""Events of a span, at least."""
END = 2**62

CUTS = """
SELECT number, position FROM commands
WHERE zone = %s AND number = ANY(ARRAY(SELECT generate_series(%s, %s, 512)::bigint)) ORDER BY number
"""

u16 = struct.Struct(">H").pack


class Span(NamedTuple):
    """Positions and numbers behind the first of each pair, up to the second one."""

    after: int
    upto: int
    after_number: int
    upto_number: int
    is_last: bool = False
    """It goes on to wherever the log ends: nothing may stand behind its head unseen."""


class Meta(msgspec.Struct, gc=False):
    command: str = ""
    name: str = ""
    principal: str = ""
    by: str = ""
    i: int = 0
    n: int = 0


class Refusal(msgspec.Struct, gc=False):
    status: int
    position: int


decode_meta = msgspec.json.Decoder(Meta).decode
decode_refusal = msgspec.json.Decoder(Refusal).decode


@dataclass
class Walked:
    """What a span says of itself, for those that stand beside it."""

    span: Span
    found: Found
    leaves: bytes = b""
    fate_leaves: bytes = b""
    last: int = 0
    last_number: int = 0
    times: tuple[int, int] | None = None
    """Of its first and its last event."""
    fate_times: tuple[int, int] | None = None
    streams: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """First version, where it stands, and last version."""
    sums: dict[tuple[str, str], tuple[int, int, int]] = field(default_factory=dict)
    """Per account and asset: what was added, the lowest it came to, and where that was."""


def spans(connection: psycopg.Connection[Any], zone: str, begin: Span) -> Iterator[Span]:
    """Cut the log at ends of commands; `begin` says behind which position and number, and where the head is.

    A cut that was tampered with is no harm: what does not fit there is a difference of the spans beside it.
    """
    after, after_number = begin.after, begin.after_number
    cuts = connection.execute(CUTS, (zone, after_number + 512, begin.upto_number)).fetchall()
    if not begin.upto_number:  # Another application's zone: every event stands alone.
        cuts = [(0, position) for position in range(after + CHUNK, begin.upto, CHUNK)]
    for number, position in cuts:
        if after + CHUNK <= position < begin.upto:
            yield Span(after, position, after_number, number)
            after, after_number = position, number
    yield Span(after, begin.upto, after_number, begin.upto_number, True)


def prefixed(text: str) -> bytes:
    return u16(len(part := text.encode())) + part


class Fate(NamedTuple):
    """A command as it is stored."""

    number: int
    principal: str
    act_as: str
    key: str
    request: bytes
    if_match: int | None
    status: int
    answer: bytes
    position: int
    events: int
    at: int
    leaf: bytes


class Place:
    """A stream as far as the span has come."""

    __slots__ = ("first", "name", "pack", "position", "prefix", "shown", "sums", "version")

    def __init__(self, name: str, version: int, position: int, zone: bytes) -> None:
        self.name = name
        self.prefix = prefixed(name)
        self.pack = struct.Struct(f">{len(zone)}sQ{len(self.prefix)}sQ").pack
        """The beginning of an entry: zone, position, stream, version."""
        self.shown = b',"stream":%b,"version":' % encode_json(name)
        """Of an answer, what stands around the event's version."""
        self.sums: dict[str, list[int]] = {}
        """Per asset: what was added, the lowest it came to, and where that was."""
        self.first = version
        self.position = position
        self.version = version - 1


class Kind:
    """A type of event."""

    __slots__ = ("decode", "has_posting", "is_proven", "is_signature", "matters", "name", "prefix", "shown")

    def __init__(self, name: str) -> None:
        self.name = name
        self.prefix = prefixed(name)
        self.shown = b',"type":"%b","data":' % name.encode()
        self.decode: Callable[[bytes], Any] | None = event_decoder(self.name)
        self.has_posting = hasattr(stored_types().get(self.name), "posting")
        self.is_proven = self.name in PROVEN
        self.is_signature = self.name == SIGNED
        self.matters = self.has_posting or self.is_proven or self.is_signature
