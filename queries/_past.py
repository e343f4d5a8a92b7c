"""Reading the log itself: its events, streams as of a moment, what a command did, the postings' sums.

Whatever is read stands at the end of a command: a position inside one means the end of the command before it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic_core import PydanticCustomError

from commands._codec import command_number, decode_event, stored_types, streams
from commands._log import EVENTS_OF_COMMAND
from commands._models import time
from domain._kernel import Stream
from ops.pool import Pool
from ops.problems import Problem
from queries._events import Event, rfc3339, stored

PAGE = 1_000
MOST_BYTES = 4 * 1024 * 1024
MOST_OF_COMMAND = 10_000
FOLD_PAGE = 5_000
WINDOW = 50_000
"""How many positions one statement looks through for events of a type."""

COLUMNS = "position, stream, version, type, data, meta, recorded_at, leaf"

HEAD = "SELECT position, recorded_at FROM heads WHERE zone = %(zone)s"

EVENTS = f"""
SELECT {COLUMNS} FROM events
WHERE zone = %(zone)s AND position > %(after)s AND position <= %(upto)s AND (%(type)s = '' OR type = %(type)s)
ORDER BY position LIMIT %(limit)s
"""  # noqa: S608 - made of our own text only

STREAM_EVENTS = f"""
SELECT {COLUMNS} FROM events
WHERE zone = %(zone)s AND stream = %(stream)s AND version > %(after)s AND position <= %(upto)s
  AND (%(type)s = '' OR type = %(type)s)
ORDER BY version LIMIT %(limit)s
"""  # noqa: S608

EVENT_AT = f"SELECT {COLUMNS} FROM events WHERE zone = %(zone)s AND position = %(position)s"  # noqa: S608

EVENT_OF_STREAM = f"""
SELECT {COLUMNS} FROM events WHERE zone = %(zone)s AND stream = %(stream)s AND version = %(version)s
"""  # noqa: S608

EVENTS_AT = f"""
SELECT {COLUMNS} FROM events WHERE zone = %(zone)s AND position = ANY(%(positions)s) ORDER BY position
"""  # noqa: S608

LAST_OF_STREAM = """
SELECT version, position FROM events WHERE zone = %(zone)s AND stream = %(stream)s ORDER BY version DESC LIMIT 1
"""

POSITION_OF_VERSION = """
SELECT position FROM events WHERE zone = %(zone)s AND stream = %(stream)s AND version = %(version)s
"""

TIME_AT = "SELECT recorded_at FROM events WHERE zone = %(zone)s AND position = %(position)s"

FATE = """
SELECT number, principal, act_as, key, request, if_match, status, answer, position, events, recorded_at, leaf
FROM commands WHERE zone = %(zone)s AND number = %(number)s
"""

POSTINGS = """
SELECT position, stream, type, data FROM events
WHERE zone = %(zone)s AND position > %(after)s AND position <= %(upto)s AND type = ANY(%(types)s)
ORDER BY position LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class Folded:
    state: Any
    version: int
    position: int
    """As of which position; the end of a command."""
    recorded_at: datetime | None
    """When the last event that counted was recorded."""


# The past


class Past:
    """One zone's log. Each statement takes a connection of its own: no reader holds one for long."""

    def __init__(self, pool: Pool, zone: str) -> None:
        self._pool = pool
        self.zone = zone

    async def rows(self, sql: Any, values: Any) -> list[Any]:
        async with self._pool.connection() as connection, connection.cursor(binary=True) as cursor:
            await cursor.execute(sql, values)
            rows: list[Any] = await cursor.fetchall()
            return rows

    async def _all(self, sql: str, **values: Any) -> list[Any]:
        return await self.rows(sql, {"zone": self.zone, **values})

    async def _one(self, sql: str, **values: Any) -> Any:
        rows = await self._all(sql, **values)
        return rows[0] if rows else None

    async def head(self) -> tuple[int, datetime]:
        """The zone's position and time. Raises Problem 404."""
        row = await self._one(HEAD)
        if row is None:
            raise Problem(404, "zone-not-found", "There is no such zone.", zone=self.zone)
        return row[0], row[1]

    async def event(self, position: int) -> Event:
        row = await self._one(EVENT_AT, position=position)
        if row is None:
            raise Problem(404, "event-not-found", "The log holds no event at this position.")
        return Event(*row)

    # Pages

    async def page(
        self, after: int, upto: int, limit: int, type: str = "", stream: str = ""
    ) -> tuple[list[Event], int]:
        """Events behind `after` up to `upto`, and the position up to which it was looked.

        A page ends early at a number of bytes; what lies behind it is there under the position it names.
        """
        if stream:
            return await self._page_of_stream(after, upto, limit, type, stream)
        events: list[Event] = []
        size = 0
        while after < upto and len(events) < limit and size < MOST_BYTES:
            end, most = min(after + WINDOW, upto), min(PAGE, limit - len(events))
            rows = await self._all(EVENTS, after=after, upto=end, type=type, limit=most)
            events += (Event(*row) for row in rows)
            size += sum(len(row[4]) + len(row[5]) for row in rows)
            after = events[-1].position if len(rows) == most else end
        return events, after

    async def _page_of_stream(
        self, after: int, upto: int, limit: int, type: str, stream: str
    ) -> tuple[list[Event], int]:
        version = await self.version_at(stream, after)
        events: list[Event] = []
        size = 0
        while len(events) < limit and size < MOST_BYTES:
            most = min(PAGE, limit - len(events))
            rows = await self._all(
                STREAM_EVENTS, stream=stream, after=version, upto=upto, type=type, limit=most
            )
            events += (Event(*row) for row in rows)
            size += sum(len(row[4]) + len(row[5]) for row in rows)
            if len(rows) < most:
                return events, upto
            version = events[-1].version
        return events, events[-1].position

    async def page_of_versions(
        self, stream: str, after: int, upto: int, limit: int
    ) -> tuple[list[Event], int]:
        """Events of a stream behind a version, and the stream's last version. Raises Problem 404."""
        last = await self._one(LAST_OF_STREAM, stream=stream)
        if last is None:
            raise no_stream()
        events: list[Event] = []
        size = 0
        while after < last[0] and len(events) < limit and size < MOST_BYTES:
            most = min(PAGE, limit - len(events))
            rows = await self._all(STREAM_EVENTS, stream=stream, after=after, upto=upto, type="", limit=most)
            if not rows:
                break
            events += (Event(*row) for row in rows)
            size += sum(len(row[4]) + len(row[5]) for row in rows)
            after = events[-1].version
        return events, last[0]

    async def version_at(self, stream: str, position: int) -> int:
        """The stream's version as of a position; 0 before its first event."""
        last = await self._one(LAST_OF_STREAM, stream=stream)
        if last is None or last[1] <= position:
            return last[0] if last else 0

        async def later(version: int) -> bool:
            row = await self._one(POSITION_OF_VERSION, stream=stream, version=version)
            return row is None or row[0] > position

        return await _first(1, last[0], later) - 1

    # As of

    async def position_at(self, at: str, head: int) -> int:
        """What `position:N`, `N` or an RFC 3339 time means: the end of a command. Raises Problem 422."""
        if number := re.fullmatch(r"(?:position:)?([0-9]{1,18})", at):
            position = int(number[1])
            if position > head:
                raise _out_of_range("position", head)
            if position == 0:
                return 0
            first, last = (await self.event(position)).span
            return position if position == last else first - 1
        try:
            moment = time(at)
        except PydanticCustomError:
            raise Problem(
                422,
                "invalid-parameter",
                "at is a stream's version, position:N or an RFC 3339 time such as 2026-01-31T12:00:00Z.",
                parameter="at",
            ) from None

        async def later(position: int) -> bool:
            row = await self._one(TIME_AT, position=position)
            return row is None or row[0] > moment

        return await _first(1, head, later) - 1

    async def state(self, name: str, at: str) -> Folded:
        """A stream folded from its first event on, at a version, position or time. Raises Problem 404 and 422."""
        head, _ = await self.head()
        last = await self._one(LAST_OF_STREAM, stream=name)
        most = 2**62
        if re.fullmatch(r"[0-9]{1,18}", at):
            most = int(at)
            if most > (last[0] if last else 0):
                raise _out_of_range("version", last[0]) if last else no_stream()
            row = await self._one(POSITION_OF_VERSION, stream=name, version=most)
            upto = row[0] if row else 0
        else:
            upto = await self.position_at(at, head) if at else head
        kind = streams().get(name.partition(":")[0])
        if kind is None:
            if last is None:
                raise no_stream()
            raise Problem(422, "not-folded", "This stream belongs to another application; nothing folds it.")
        state, begun = await self._begin(kind, name, upto)
        version, recorded_at = 0, None
        async for event in self._of_stream(name, min(most, last[0] if last else 0), upto):
            begun = True
            decoded = decode_event(event.type, event.data)
            if decoded is None:
                raise Problem(422, "not-folded", "This stream holds events of another application.")
            state = kind.evolve(state, decoded)
            version, recorded_at = event.version, event.recorded_at
        if not begun and last is None:
            raise no_stream()
        return Folded(state, version, upto, recorded_at)

    async def _begin(self, kind: Stream[Any], name: str, upto: int) -> tuple[Any, bool]:
        """The state that a stream begins with: for one of a command, what that command's events make of it."""
        state, begun = kind.initial, False
        number = command_number(name.partition(":")[2]) if kind.of_command else None
        if number is not None:
            for type, data in await self.rows(EVENTS_OF_COMMAND, (self.zone, number, upto)):
                state, begun = kind.evolve(state, decode_event(type, data)), True
        return state, begun

    async def _of_stream(self, stream: str, most: int, upto: int) -> AsyncIterator[Event]:
        version = 0
        while version < most:
            limit = min(FOLD_PAGE, most - version)
            rows = await self._all(
                STREAM_EVENTS, stream=stream, after=version, upto=upto, type="", limit=limit
            )
            for row in rows:
                yield Event(*row)
            if len(rows) < limit:
                return
            version = rows[-1][2]

    async def balances(self, upto: int) -> dict[tuple[str, str], int]:
        """The sum of all postings per asset and account, from the log alone."""
        types = [name for name, event in stored_types().items() if hasattr(event, "posting")]
        sums: dict[tuple[str, str], int] = {}
        after = 0
        while after < upto:
            rows = await self._all(POSTINGS, after=after, upto=upto, types=types, limit=FOLD_PAGE)
            for _, stream, type, data in rows:
                event = decode_event(type, data)
                assert event is not None, "only types of our own were asked for"
                asset, amount = event.posting
                sums[asset, stream] = sums.get((asset, stream), 0) + amount
            if len(rows) < FOLD_PAGE:
                break
            after = rows[-1][0]
        return sums

    # Commands

    async def fate(self, number: int) -> dict[str, Any] | None:
        """What became of a command."""
        row = await self._one(FATE, number=number)
        if row is None:
            return None
        _, principal, act_as, key, request, if_match, status, answer, position, events, at, leaf = row
        return {
            "command_id": f"c{number}",
            "number": number,
            "zone": self.zone,
            "principal": principal,
            "act_as": act_as,
            "key": key,
            "request": stored(request),
            "if_match": if_match,
            "status": status,
            "answer": stored(answer),
            "position": position,
            "positions": list(range(position - events + 1, position + 1)),
            "recorded_at": rfc3339(at),
            "leaf": leaf.hex(),
        }

    async def whole_command(self, event: Event) -> list[Event]:
        """All events of an event's command; none where they are more than MOST_OF_COMMAND."""
        first, last = event.span
        events: list[Event] = []
        while last - first < MOST_OF_COMMAND and first <= last:
            page, looked = await self.page(first - 1, last, MOST_OF_COMMAND)
            events += page
            first = looked + 1
        return events

    async def events_at(self, positions: Sequence[int]) -> list[Event]:
        rows = await self._all(EVENTS_AT, positions=list(positions))
        return [Event(*row) for row in rows]

    async def before_in_stream(self, event: Event) -> Event | None:
        """The event before this one in its stream."""
        row = await self._one(EVENT_OF_STREAM, stream=event.stream, version=event.version - 1)
        return Event(*row) if row else None


async def _first(low: int, high: int, holds: Callable[[int], Awaitable[bool]]) -> int:
    """The smallest number from low to high for which it holds, high + 1 where there is none; by bisection."""
    while low <= high:
        middle = (low + high) // 2
        if await holds(middle):
            high = middle - 1
        else:
            low = middle + 1
    return low


def no_stream() -> Problem:
    return Problem(404, "stream-not-found", "The log holds no such stream.")


def _out_of_range(name: str, most: int) -> Problem:
    return Problem(
        422,
        "out-of-range",
        f"There is no such {name} yet.",
        parameter="at",
        most=str(most),
    )
