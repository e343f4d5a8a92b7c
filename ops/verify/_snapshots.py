"""Every snapshot must be what its stream's events fold to: decisions begin with it, and would believe it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg import sql

from commands._codec import decode_json, decode_known, encode_json, state_decoder, state_schema, streams
from ops.verify._found import Found
from projections._rebuild import paused_collector

EVENTS_A_TASK = 50_000

SNAPSHOTS = "SELECT stream, version FROM snapshots WHERE zone = %s ORDER BY stream"

CHOSEN = """
SELECT stream, version, position, schema, state FROM snapshots WHERE zone = %s AND stream = ANY(%s)
"""

# One event more than the snapshot covers: it must stand behind the snapshot's position.
EVENTS = """
COPY (SELECT e.stream, e.version, e.position, e.type, e.data
      FROM unnest({streams}::text[]) AS name CROSS JOIN LATERAL (
          SELECT s.stream, s.version FROM snapshots s WHERE s.zone = {zone} AND s.stream = name OFFSET 0) s
      JOIN events e ON e.zone = {zone} AND e.stream = s.stream AND e.version <= s.version + 1
      ORDER BY e.stream, e.version)
TO STDOUT (FORMAT BINARY)
"""
TYPES = ["text", "int8", "int8", "text", "bytea"]


class Snapshot(NamedTuple):
    stream: str
    version: int
    position: int
    schema: str
    state: bytes


def batches(connection: psycopg.Connection[Any], zone: str) -> Iterator[list[str]]:
    """Streams that have a snapshot, as many at a time as have about so many events."""
    batch: list[str] = []
    events = 0
    for stream, version in connection.execute(SNAPSHOTS, (zone,)).fetchall():
        batch.append(stream)
        events += max(version, 1)
        if events >= EVENTS_A_TASK:
            yield batch
            batch, events = [], 0
    if batch:
        yield batch


def check_snapshots(connection: psycopg.Connection[Any], zone: str, names: list[str], head: int) -> Found:
    found = Found()
    wanted = {row[0]: Snapshot(*row) for row in connection.execute(CHOSEN, (zone, names))}
    statement = sql.SQL(EVENTS).format(zone=sql.Literal(zone), streams=sql.Literal(names))
    with paused_collector(), connection.cursor().copy(statement) as copy:
        copy.set_types(TYPES)
        for stream, rows in groupby(copy.rows(), itemgetter(0)):
            _check(zone, wanted.pop(stream), rows, head, found)
    for stream, snapshot in wanted.items():
        found.snapshots += 1
        what = "a snapshot of a stream that has no events"
        found.add(zone, what, snapshot.position, stream=stream, table="snapshots")
    return found


def _check(zone: str, snapshot: Snapshot, rows: Iterator[Any], head: int, found: Found) -> None:
    found.snapshots += 1
    stream, version, position, schema, stored = snapshot
    where: dict[str, Any] = {"stream": stream, "table": "snapshots"}
    kind = streams().get(stream.partition(":")[0])
    if kind is None or kind.of_command:
        found.add(zone, "there are no snapshots of such streams", position, **where)
        return
    state, evolve, last, since, until = kind.initial, kind.evolve, 0, 0, head
    try:
        for _, event_version, event_position, name, data in rows:
            if event_version > version:
                until = event_position - 1
                continue
            state = evolve(state, decode_known(name, data))
            last, since = event_version, event_position
    except Exception as error:
        # What was tampered with may break a fold in any way.
        found.add(zone, f"the stream cannot be folded: {error!r}", since + 1, **where)
        return
    if last != version:
        found.add(zone, f"a snapshot of version {version}, the stream ends at {last}", position, **where)
    elif not since <= position <= until:
        what = f"version {version} was the newest from position {since} to {until}"
        found.add(zone, what, position, field="position", **where)
    elif schema != state_schema(type(kind.initial)):
        # Other code made it, and this code does not read it; unless it is what this code would have written.
        if len(schema) != 16 or encode_json(state) == stored:
            found.add(zone, "its schema is none", position, field="schema", **where)
        found.leave(zone, f"a snapshot of {stream}, made by other code")
    elif not _is_same(type(kind.initial), stored, state):
        found.add(
            zone, f"at version {version} it is not the stream's state", position, field="state", **where
        )


def _is_same(kind: type, stored: bytes, state: Any) -> bool:
    expected = encode_json(state)
    if stored == expected:
        return True
    try:
        return bool(state_decoder(kind)(stored) == state and decode_json(stored) == decode_json(expected))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
