"""Questions as of a position or a time: what that means in a zone's log, and waiting until the archive is there.

A position means the end of the last command up to it, as everywhere in history. What was refused since then moved no
position: it is left out, and a time is what includes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from pydantic_core import PydanticCustomError

from commands._codec import cache
from commands._models import time
from ops.pool import Pool
from ops.problems import Problem
from projections._archive import path_of
from queries._query import Query
from queries._sql import needs_fates
from queries._watch import PAST, Positions, Stopping


def _bisected(name: str, high: str, table: str, number: str, condition: str) -> str:
    """The last row of a gapless table up to which a condition holds, as `low`; 0 where it holds for none."""
    return f"""
    {name}(low, high) AS (
        {high}
        UNION ALL
        SELECT CASE WHEN holds THEN middle ELSE low END, CASE WHEN holds THEN high ELSE middle - 1 END
        FROM {name} CROSS JOIN LATERAL (SELECT (low + high + 1) / 2 AS middle) m
        CROSS JOIN LATERAL (
            SELECT {condition} AS holds FROM {table} WHERE zone = %(zone)s AND {number} = middle
        ) x
        WHERE low < high
    )
    """  # noqa: S608 - made of our own text only


# Times never go backwards, and the events of a command have one time. Metadata of our own events ends with the place
# in the command; those of other applications stand alone.
_LAST_BEFORE = _bisected(
    "found",
    "SELECT 0::bigint, position FROM heads WHERE zone = %(zone)s",
    "events",
    "position",
    "recorded_at <= %(asked_time)s",
)
_AT_POSITION = "found(low, high) AS (SELECT %(asked)s::bigint, %(asked)s::bigint)"
_ENDED = """
ended(position) AS (
    SELECT CASE WHEN place[1] <> place[2] THEN low - place[1]::bigint ELSE low END
    FROM found LEFT JOIN events e ON e.zone = %(zone)s AND e.position = low
    CROSS JOIN LATERAL regexp_match(encode(e.meta, 'escape'), ',"i":([0-9]{1,9}),"n":([0-9]{1,9})}$') place
    WHERE low = high
)
"""
_FATES_BY_TIME = _bisected(
    "decided",
    "SELECT 0::bigint, number FROM heads WHERE zone = %(zone)s",
    "commands",
    "number",
    "recorded_at <= %(asked_time)s",
)
_FATES_BEFORE = _bisected(
    "decided",
    "SELECT 0::bigint, number FROM heads WHERE zone = %(zone)s",
    "commands",
    "number",
    "position < (SELECT position FROM ended)",
)
_NO_FATES = "decided(low, high) AS (SELECT 0, 0)"


@cache
def _resolve(by_time: bool, fates: bool) -> str:
    """Subselects rather than joins: planning many joins would take longer than looking everything up."""
    parts = [_LAST_BEFORE if by_time else _AT_POSITION, _ENDED]
    number, decided = "0", "'epoch'::timestamptz"
    if fates:
        parts.append(_FATES_BY_TIME if by_time else _FATES_BEFORE)
        # Behind the last one before the position is that which ended there.
        more = 0 if by_time else 1
        fate = f"FROM commands, decided WHERE low = high AND zone = %(zone)s AND number = low + {more}"
        number, decided = f"(SELECT number {fate})", f"(SELECT recorded_at {fate})"
    return f"""
    WITH RECURSIVE {", ".join(parts)}
    SELECT h.position,
           CASE h.clock WHEN 'manual' THEN h.recorded_at ELSE greatest(h.recorded_at, clock_timestamp()) END,
           ended.position, (SELECT recorded_at FROM events e WHERE e.zone = %(zone)s AND e.position = ended.position),
           coalesce({number}, 0), coalesce({decided}, 'epoch'),
           (SELECT position FROM checkpoints WHERE zone = %(zone)s AND projection = %(projection)s AND live),
           a.generation, coalesce(a.position, 0)
    FROM heads h LEFT JOIN ended ON true
    LEFT JOIN archives a ON a.zone = %(zone)s AND a.projection = %(projection)s AND a.live
    WHERE h.zone = %(zone)s
    """  # noqa: S608


@dataclass(frozen=True, slots=True)
class Moment:
    """A position at the end of a command, and what a statement needs to read the archive there."""

    position: int
    at: datetime
    """When its event was recorded."""
    number: int
    """The last command that was decided by then."""
    decided: datetime
    """When that was."""
    generation: int
    archived: int
    """Which archive answers, and how far it has come; 0 and 0 where there is none yet."""
    live: int
    """Where the live projection stands."""

    def values(self, prefix: str = "") -> dict[str, Any]:
        return {
            f"{prefix}at": self.position,
            f"{prefix}time": self.at,
            f"{prefix}number": self.number,
            f"{prefix}decided": self.decided,
            # Of all nodes: while the archive was waited for, a version may have come to lie behind the head.
            f"{prefix}path": path_of(self.position),
        }


def parsed(text: str, name: str) -> int | datetime:
    """What `position:N`, `N` or an RFC 3339 time says. Raises Problem 422."""
    if number := re.fullmatch(r"(?:position:)?([0-9]{1,18})", text):
        return int(number[1])
    try:
        return time(text)
    except PydanticCustomError:
        raise Problem(
            422,
            "invalid-parameter",
            f"{name} is a position, position:N or an RFC 3339 time such as 2026-01-31T12:00:00Z.",
            parameter=name,
        ) from None


async def resolve(
    connection: AsyncConnection[Any], zone: str, query: Query, asked: int | datetime, name: str
) -> Moment:
    """The end of the last command up to a position or time. Raises Problem 404 and 422."""
    by_time = isinstance(asked, datetime)
    cursor = await connection.execute(
        _resolve(by_time, needs_fates(query)),
        {
            "zone": zone,
            "projection": query.projection,
            "asked": 0 if by_time else asked,
            "asked_time": asked if by_time else None,
        },
    )
    row = await cursor.fetchone()
    if row is None:
        raise Problem(404, "zone-not-found", "There is no such zone.", zone=zone)
    head, clock, position, at, number, decided, live, generation, archived = row
    if asked > (clock if by_time else head):
        raise Problem(
            422,
            "as-of-in-the-future",
            f"{name} lies behind the end of the log.",
            parameter=name,
            position=head,
        )
    if not position:
        raise Problem(
            422,
            "as-of-before-the-start",
            f"Nothing had happened yet: the first command ended after {name}.",
            parameter=name,
        )
    return Moment(position, at, number, decided, generation or 0, archived, live or 0)


class Archive:
    """The archive, for those who ask: what they mean, and whether it is there already. `kept` is False where an
    installation keeps none."""

    def __init__(self, pool: Pool, positions: Positions, wait_s: float, kept: bool) -> None:
        self._pool = pool
        self._positions = positions
        self._wait_s = wait_s
        self.kept = kept

    async def moment(self, zone: str, query: Query, as_of: str) -> Moment:
        """The moment asked for, once the archive has reached it. Raises Problem 404, 422, 503 and 504."""
        asked = self._asked(as_of, "as_of")
        async with self._pool.connection() as connection:
            moment = await resolve(connection, zone, query, asked, "as_of")
        await self._reach(zone, query.projection, moment, moment.position)
        return moment

    async def moments(self, zone: str, query: Query, diff: str, as_of: str | None) -> tuple[Moment, Moment]:
        """The two moments to be compared; without `as_of` the second is where the live projection stands."""
        first = self._asked(diff, "diff")
        second = None if as_of is None else self._asked(as_of, "as_of")
        async with self._pool.connection() as connection:
            was = await resolve(connection, zone, query, first, "diff")
            if second is None:
                second = max(was.live, was.position)
            now = await resolve(connection, zone, query, second, "as_of")
        await self._reach(zone, query.projection, now, max(was.position, now.position))
        return was, now

    def _asked(self, text: str, name: str) -> int | datetime:
        asked = parsed(text, name)
        if not self.kept:
            raise switched_off()
        return asked

    async def _reach(self, zone: str, projection: str, moment: Moment, wanted: int) -> None:
        if moment.archived >= wanted:
            return
        try:
            archived = await self._positions.reach(zone, PAST + projection, wanted, self._wait_s)
        except Stopping:
            raise Problem(
                503, "unavailable", "The server is stopping.", headers={"Retry-After": "1"}
            ) from None
        if archived < wanted:
            raise self.not_there_yet(archived, wanted)

    def not_there_yet(self, archived: int, wanted: int) -> Problem:
        return Problem(
            504,
            "archive-not-there-yet",
            "The archive of past rows did not reach the position in time.",
            position=archived,
            wanted=str(wanted),
            waited_s=str(self._wait_s),
        )


def no_past() -> Problem:
    return Problem(
        422,
        "as-of-not-possible",
        "This query shows how often something was tried, of which only the last count is kept; it has no past.",
    )


def no_difference() -> Problem:
    return Problem(
        422,
        "diff-not-possible",
        "This query's answer moves where no position does; ask it as of each of the two moments.",
    )


def switched_off() -> Problem:
    return Problem(
        422, "archive-switched-off", "This installation keeps no past rows: FOGBOOK_ARCHIVE is false."
    )


def with_min_position() -> Problem:
    return Problem(
        422,
        "as-of-and-min-position",
        "min_position waits for the newest rows; as_of and diff name the position themselves.",
        parameter="min_position",
    )
