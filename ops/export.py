"""`fogbook export`: a zone's logs in one file, every byte that was hashed, so that anybody can check or refill them.

An export is NDJSON (`.ndjson` or `.ndjson.gz`), format `fogbook-export/v1`: a line with the manifest, the entries in
the order of both logs (the events of a command, its fate, the attestations that stand behind it), and a last line that
counts the lines and hashes all bytes before it. A line holds one of:

    {"manifest": {"format", "zone", "clock", "position", "number", "recorded_at", "slice", "events", "commands",
                  "attestations", "checkpoints": {"events", "fates"}, "verifier_keys"}}
    {"event": {"position", "stream", "version", "type", "data", "meta", "recorded_at", "leaf"}}
    {"command": {"number", "principal", "act_as", "key", "request", "if_match", "status", "answer", "position",
                 "events", "recorded_at", "leaf"}}
    {"attestation": {"ordinal", "after_number", "kind", "body", "recorded_at", "leaf"}}
    {"end": {"lines", "sha256"}}

Stored bytes are strings of their UTF-8 text, or `{"base64": ...}` where they are none. `checkpoints` are the newest
signed notes (C2SP) that the entries cover, with the cosignatures of witnesses. A slice (of a stream or a type) holds
events only.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psycopg

from commands._codec import attestation_leaf, encode_json, event_leaf, fate_leaf, microseconds
from ops.files import replacing
from ops.home import Refused
from projections._notes import verifier_key
from queries._events import Event, rfc3339

FORMAT = "fogbook-export/v1"
LOGS = ("events", "fates")
ROWS_A_FETCH = 2_000
TICK_EVERY = 1_000

HEAD = "SELECT clock, position, number, recorded_at FROM heads WHERE zone = %s"

EVENT_AT = """
SELECT position, stream, version, type, data, meta, recorded_at, leaf FROM events WHERE zone = %s AND position = %s
"""

POSITION_AT = "SELECT coalesce(max(position), 0) FROM events WHERE zone = %s AND recorded_at <= %s"

# Numbers and positions rise together: the fates up to a position are the first so many.
EXTENT = """
SELECT coalesce(max(number), 0), greatest(max(recorded_at),
    (SELECT recorded_at FROM events WHERE zone = %(zone)s AND position = %(position)s))
FROM commands WHERE zone = %(zone)s AND position <= %(position)s
"""

ATTESTED = "SELECT count(*) FROM attestations WHERE zone = %s AND after_number <= %s"

SLICED = """
SELECT count(*) FROM events WHERE zone = %(zone)s AND position <= %(position)s
    AND (%(stream)s::text IS NULL OR stream = %(stream)s) AND (%(type)s::text IS NULL OR type = %(type)s)
"""

EVENTS = """
SELECT position, stream, version, type, data, meta, recorded_at, leaf FROM events
WHERE zone = %(zone)s AND position <= %(position)s
    AND (%(stream)s::text IS NULL OR stream = %(stream)s) AND (%(type)s::text IS NULL OR type = %(type)s)
ORDER BY position
"""

FATES = """
SELECT number, principal, act_as, key, request, if_match, status, answer, position, events, recorded_at, leaf
FROM commands WHERE zone = %(zone)s AND number <= %(number)s ORDER BY number
"""

ATTESTATIONS = """
SELECT ordinal, after_number, kind, body, recorded_at, leaf
FROM attestations WHERE zone = %(zone)s AND after_number <= %(number)s ORDER BY ordinal
"""

CHECKPOINT = """
SELECT note || coalesce((
    SELECT string_agg(line, '' ORDER BY witness) FROM cosignatures k
    WHERE (k.zone, k.log, k.size, k.root) = (c.zone, c.log, c.size, c.root)), '')
FROM signed_checkpoints c WHERE zone = %s AND log = %s AND size <= %s ORDER BY size DESC, signed_at DESC LIMIT 1
"""

KEYS = """
SELECT origin, public_key FROM trees JOIN signing_keys USING (zone) WHERE zone = %s ORDER BY origin, serial
"""


class ExportRefused(Refused):
    """It cannot be exported, or an export cannot be read; the message says why."""


class Fate(NamedTuple):
    """What became of a command, as it is stored."""

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
    recorded_at: datetime
    leaf: bytes


class Attestation(NamedTuple):
    ordinal: int
    after_number: int
    kind: str
    body: bytes
    recorded_at: datetime
    leaf: bytes


Entry = Event | Fate | Attestation
Tick = Callable[[int, int], None]


class Slice(NamedTuple):
    """The events that were asked for, where not all were."""

    stream: str | None
    type: str | None


class Manifest(NamedTuple):
    """What an export holds: a zone's logs up to the end of a command."""

    zone: str
    clock: str
    position: int
    number: int
    recorded_at: datetime
    slice: Slice | None
    events: int
    commands: int
    attestations: int
    checkpoints: dict[str, str | None]
    verifier_keys: list[str]

    @property
    def entries(self) -> int:
        return self.events + self.commands + self.attestations

    def shown(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"format": FORMAT} | self._asdict()
        shown["recorded_at"] = rfc3339(self.recorded_at)
        shown["slice"] = None if self.slice is None else self.slice._asdict()
        return shown


def leaf_of(zone: bytes, entry: Entry) -> bytes:
    """The leaf hash that the entry's own bytes give; `zone` is `zone_prefix`."""
    at_us = microseconds(entry.recorded_at)
    if isinstance(entry, Event):
        return event_leaf(
            zone, entry.position, entry.stream, entry.version, entry.type, at_us, entry.meta, entry.data
        )
    if isinstance(entry, Attestation):
        return attestation_leaf(zone, entry.ordinal, entry.after_number, entry.kind, at_us, entry.body)
    return fate_leaf(
        zone,
        entry.number,
        entry.principal,
        entry.act_as,
        entry.key,
        entry.request,
        entry.if_match,
        entry.status,
        entry.answer,
        entry.position,
        entry.events,
        at_us,
    )


# From a database


@contextlib.contextmanager
def one_moment(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Everything that is read inside was there at one moment."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        yield


def survey(
    connection: psycopg.Connection[Any],
    zone: str,
    at: str | None = None,
    *,
    stream: str | None = None,
    type: str | None = None,
) -> Manifest:
    """What an export of the zone as of a position or time holds. Raises ExportRefused."""
    head = connection.execute(HEAD, (zone,)).fetchone()
    if head is None:
        raise ExportRefused(f"There is no zone {zone}.")
    clock, position, number, recorded_at = head
    if at is not None:
        position = position_at(connection, zone, at)
        if position < head[1]:
            row = connection.execute(EXTENT, {"zone": zone, "position": position}).fetchone()
            assert row is not None
            number, recorded_at = row
    attested = _count(connection, ATTESTED, (zone, number))
    part = Slice(stream, type) if stream or type else None
    asked = {"zone": zone, "position": position, "stream": stream, "type": type}
    return Manifest(
        zone=zone,
        clock=clock,
        position=position,
        number=number,
        recorded_at=recorded_at,
        slice=part,
        events=position if part is None else _count(connection, SLICED, asked),
        commands=number if part is None else 0,
        attestations=attested if part is None else 0,
        checkpoints={
            log: _newest_note(connection, zone, log, size)
            for log, size in zip(LOGS, (position, number + attested), strict=True)
        },
        verifier_keys=[
            str(verifier_key(origin, bytes(key))) for origin, key in connection.execute(KEYS, (zone,))
        ],
    )


def _count(connection: psycopg.Connection[Any], statement: str, asked: Any) -> int:
    row = connection.execute(statement, asked).fetchone()
    assert row is not None
    return int(row[0])


def _newest_note(connection: psycopg.Connection[Any], zone: str, log: str, size: int) -> str | None:
    row = connection.execute(CHECKPOINT, (zone, log, size)).fetchone()
    return row[0] if row else None


def position_at(connection: psycopg.Connection[Any], zone: str, at: str) -> int:
    """The end of the last command as of a position or time. Raises ExportRefused where there is none."""
    head = connection.execute(HEAD, (zone,)).fetchone()
    assert head is not None, "the zone was found before"
    if at.isdecimal() and len(at) < 19:
        position = int(at)
        if position > head[1]:
            raise ExportRefused(f"The log of zone {zone} ends at position {head[1]}.")
    else:
        time = parse_time(at)
        if time > (head[3] if head[0] == "manual" else datetime.now(UTC)):
            raise ExportRefused(f"In zone {zone} it is not {at} yet.")
        position = _count(connection, POSITION_AT, (zone, time))
    row = connection.execute(EVENT_AT, (zone, position)).fetchone()
    first, last = Event(*row).span if row else (1, 0)
    end = position if position == last else first - 1
    if end < 1:
        raise ExportRefused(f"The log of zone {zone} begins later than {at}.")
    return end


def parse_time(text: str) -> datetime:
    with contextlib.suppress(ValueError):
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
        if time.tzinfo is not None:
            return time
    raise ExportRefused(f"{text} is neither a position nor an RFC 3339 time with its offset.")


def stored_entries(connection: psycopg.Connection[Any], manifest: Manifest) -> Iterator[Entry]:
    """The entries that the manifest promises, in the order of both logs; inside `one_moment`."""
    part = manifest.slice or Slice(None, None)
    asked = {"zone": manifest.zone, "position": manifest.position, "number": manifest.number} | part._asdict()
    with (
        connection.cursor("events", binary=True) as events,
        connection.cursor("fates", binary=True) as fates,
        connection.cursor("attestations", binary=True) as attestations,
    ):
        for cursor, statement in ((events, EVENTS), (fates, FATES), (attestations, ATTESTATIONS)):
            cursor.itersize = ROWS_A_FETCH
            if cursor is events or manifest.slice is None:
                cursor.execute(statement, asked)
        if manifest.slice is not None:
            yield from (Event(*row) for row in events)
            return
        yield from in_order(
            (Event(*row) for row in events),
            (Fate(*row) for row in fates),
            (Attestation(*row) for row in attestations),
        )


def in_order(
    events: Iterator[Event], fates: Iterable[Fate], attestations: Iterator[Attestation]
) -> Iterator[Entry]:
    """Each command's events, its fate, what is attested behind it; other applications' events where they stand."""
    event, attestation = next(events, None), next(attestations, None)
    while attestation is not None and attestation.after_number == 0:
        yield attestation
        attestation = next(attestations, None)
    for fate in fates:
        while event is not None and event.position <= fate.position:
            yield event
            event = next(events, None)
        yield fate
        while attestation is not None and attestation.after_number <= fate.number:
            yield attestation
            attestation = next(attestations, None)
    while event is not None:
        yield event
        event = next(events, None)
    while attestation is not None:
        yield attestation
        attestation = next(attestations, None)


# To a file


class _Writable(Protocol):
    def write(self, data: bytes, /) -> int: ...


def write_ndjson(path: Path, manifest: Manifest, entries: Iterable[Entry], tick: Tick) -> None:
    """Write an export, or nothing at all. Raises ExportRefused where the file cannot be written."""
    with replacing(path) as unfinished, open(unfinished, "wb") as raw:
        if path.name.endswith(".gz"):
            # No name and no time in its header, so that one history gives one file.
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                _write_lines(packed, manifest, entries, tick)
        else:
            _write_lines(raw, manifest, entries, tick)


def _write_lines(file: _Writable, manifest: Manifest, entries: Iterable[Entry], tick: Tick) -> None:
    hashed = hashlib.sha256()
    lines = 0
    for line in _lines(manifest, entries):
        hashed.update(line)
        file.write(line)
        lines += 1
        if lines % TICK_EVERY == 0:
            tick(lines, manifest.entries)
    if lines != 1 + manifest.entries:
        raise ExportRefused(
            f"Zone {manifest.zone} should hold {manifest.entries} entries and holds {lines - 1}: run `fogbook verify`."
        )
    file.write(encode_json({"end": {"lines": lines, "sha256": hashed.hexdigest()}}) + b"\n")


def _lines(manifest: Manifest, entries: Iterable[Entry]) -> Iterator[bytes]:
    yield encode_json({"manifest": manifest.shown()}) + b"\n"
    for entry in entries:
        yield encode_json({KIND[type(entry)]: _shown(entry)}) + b"\n"


KIND = {Event: "event", Fate: "command", Attestation: "attestation"}


def _shown(entry: Entry) -> dict[str, Any]:
    shown = entry._asdict()
    for name, value in shown.items():
        if isinstance(value, bytes):
            shown[name] = value.hex() if name == "leaf" else _text(value)
    shown["recorded_at"] = rfc3339(entry.recorded_at)
    return shown


def _text(stored: bytes) -> str | dict[str, bytes]:
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return {"base64": stored}
