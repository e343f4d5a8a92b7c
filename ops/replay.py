"""`fogbook replay`: the log as lines of JSON, and a stream's state as of any position or time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psycopg

from commands._codec import command_number, decode_event, encode_json, streams
from commands._log import EVENTS_OF_COMMAND
from ops.home import Refused
from queries._events import stored

ROWS_A_FETCH = 2_000

POSITION_AT = "SELECT coalesce(max(position), 0) FROM events WHERE zone = %s AND recorded_at <= %s"

EVENTS = """
SELECT position, stream, version, type, recorded_at, data, meta FROM events
WHERE zone = %s AND position <= %s AND (%s::text IS NULL OR stream = %s) AND (%s::text IS NULL OR type = %s)
ORDER BY position
"""


class ReplayRefused(Refused):
    """What was asked for does not exist; the message says what."""


def replay(
    connection: psycopg.Connection[Any], zone: str, *, stream: str | None, at: str | None, type: str | None
) -> Iterator[bytes]:
    """A line for each event, then one with the stream's state if a stream and a place in time are named."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute(
            "SET LOCAL idle_in_transaction_session_timeout = 0"
        )  # The reader may well pause us.
        upto = _position(connection, zone, at)
        with_state = stream is not None and at is not None
        folded = _Folded(connection, zone, stream, upto) if with_state and stream else None
        with connection.cursor("replay", binary=True) as cursor:
            cursor.itersize = ROWS_A_FETCH
            # The state needs every event of the stream, whichever types are shown.
            asked = None if folded else type
            cursor.execute(EVENTS, (zone, upto, stream, stream, asked, asked))
            for row in cursor:
                if folded is not None:
                    folded.apply(row[2], row[3], row[5])
                if type is None or row[3] == type:
                    yield _line(row)
        if folded is not None:
            yield encode_json(
                {"stream": stream, "version": folded.version, "position": upto, "state": folded.state}
            )


def _position(connection: psycopg.Connection[Any], zone: str, at: str | None) -> int:
    if at is None:
        return 2**63 - 1
    if at.isdecimal() and len(at) < 19:
        return int(at)
    try:
        time = datetime.fromisoformat(at.replace("Z", "+00:00"))
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise ReplayRefused(f"{at} is neither a position nor an RFC 3339 time with its offset.")
    row = connection.execute(POSITION_AT, (zone, time)).fetchone()
    assert row is not None
    return int(row[0])


class _Folded:
    """A stream's state, event by event."""

    def __init__(self, connection: psycopg.Connection[Any], zone: str, name: str, upto: int) -> None:
        category, _, id = name.partition(":")
        kind = streams().get(category)
        if kind is None:
            raise ReplayRefused(f"There is no kind of stream {category}.")
        self._kind = kind
        self.state = kind.initial
        self.version = 0
        number = command_number(id) if kind.of_command else None
        if number is not None:
            for type, data in connection.execute(EVENTS_OF_COMMAND, (zone, number, upto)):
                self.state = kind.evolve(self.state, decode_event(type, data))

    def apply(self, version: int, type: str, data: bytes) -> None:
        self.state = self._kind.evolve(self.state, decode_event(type, data))
        self.version = version


def _line(row: tuple[Any, ...]) -> bytes:
    names = ("position", "stream", "version", "type", "recorded_at")
    line = dict(zip(names, row, strict=False)) | {"data": stored(row[5]), "meta": stored(row[6])}
    return encode_json(line)
