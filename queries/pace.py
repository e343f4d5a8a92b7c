"""How fast a zone moves, how far its read models are behind, and how long commands take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from domain._kernel import Count, Id
from ops.lately import Lately
from ops.web import ANSWERED
from queries._query import FOR_EVER, SEES_ALL, Context
from queries.analytics import number_before

MOST_BUCKETS = 120
MICROSECONDS = 1_000_000

operations = Context("operations")
command_times = Lately(ANSWERED, "/commands/")


@dataclass(frozen=True, slots=True)
class Moved:
    commands_minute: int
    events_minute: int
    refused_minute: int
    commands_hour: int
    events_hour: int
    lag: int
    lag_ms: int
    clock: str
    version: int
    incomplete: bool


@dataclass(frozen=True, slots=True)
class Pace:
    """What a zone did in the last minute and the last hour of its own clock, which runs by itself (`real`) or as
    commands say (`manual`): commands that were decided, the refused ones among them, and events. `lag` and `lag_ms`:
    how many events the slowest read model is behind, and how long ago the first of these was recorded.

    `p50_us` and `p99_us` are how long half and 99 of 100 commands took from their arrival to their answer, in
    microseconds, between the bounds of the histogram `fogbook_request_seconds`: those of the last minute that the
    process which answers this took itself, of all zones. Where it takes none, or took none, they are null.
    """

    commands_minute: int
    events_minute: int
    refused_minute: int
    commands_hour: int
    events_hour: int
    lag: int
    lag_ms: int
    p50_us: int | None
    p99_us: int | None
    clock: str
    version: int
    incomplete: bool


def _pace(moved: Moved, parameters: object) -> Pace:
    found = command_times.quantiles(0.5, 0.99)
    p50, p99 = (None, None) if found is None else (round(each * MICROSECONDS) for each in found)
    return Pace(**asdict(moved), p50_us=p50, p99_us=p99)


def _position_of(number: str) -> str:
    return f"""
    coalesce((SELECT c.position FROM commands c WHERE c.zone = %(zone)s AND c.number = {number}), 0)
    """  # noqa: S608 - made of our own text only


operations.get(
    "pace",
    Pace,
    f"""
    SELECT h.number - minute.number AS commands_minute, h.number - hour.number AS commands_hour,
           h.position - {_position_of("minute.number")} AS events_minute,
           h.position - {_position_of("hour.number")} AS events_hour,
           (SELECT count(*) FROM commands c
            WHERE c.zone = %(zone)s AND c.status <> 200 AND c.recorded_at >= now - interval '1 minute')
           AS refused_minute,
           slowest.lag, slowest.lag_ms, h.clock, h.position AS version, false AS incomplete
    FROM heads h
    CROSS JOIN LATERAL (
        SELECT CASE WHEN h.clock = 'manual' THEN h.recorded_at ELSE clock_timestamp() END AS now
    ) clock
    -- Looked for once each, although asked for twice: OFFSET 0 keeps them apart.
    CROSS JOIN LATERAL (SELECT {number_before("now - interval '1 minute'")} OFFSET 0) AS minute(number)
    CROSS JOIN LATERAL (SELECT {number_before("now - interval '1 hour'")} OFFSET 0) AS hour(number)
    CROSS JOIN LATERAL (
        SELECT coalesce(max(h.position - c.position), 0) AS lag,
               coalesce(max(round(1000 * extract(epoch FROM now - e.recorded_at))), 0)::bigint AS lag_ms
        FROM checkpoints c LEFT JOIN events e ON e.zone = c.zone AND e.position = c.position + 1
        WHERE c.zone = %(zone)s AND c.live
    ) slowest
    WHERE h.zone = %(zone)s
    """,  # noqa: S608
    key=("version",),
    roles=SEES_ALL,
    timeless=False,
    projection="ledger",
    inputs=Moved,
    derive=_pace,
)


@dataclass(frozen=True, slots=True)
class OfThroughput:
    size: Id = ""
    """minute, hour or day; where it is missing minutes, or hours where the zone's clock is set by commands."""
    buckets: Count = 24
    """How many, the newest first; at most 120."""
    until: datetime = FOR_EVER


@dataclass(frozen=True, slots=True)
class Throughput:
    """What a zone did in a minute, an hour or a day (UTC), newest first: `commands` that were decided, `refused` by a
    rule among them, and `events`. Counted from the record of commands itself, up to its last one."""

    start: datetime
    commands: int
    refused: int
    events: int
    version: int
    incomplete: bool


operations.get(
    "throughput",
    Throughput,
    f"""
    WITH unit AS (
        SELECT h.position, h.recorded_at, coalesce(nullif(%(size)s, ''),
               CASE h.clock WHEN 'manual' THEN 'hour' ELSE 'minute' END) AS name
        FROM heads h WHERE h.zone = %(zone)s AND %(size)s IN ('', 'minute', 'hour', 'day')
    ), edges AS (
        SELECT unit.position, edge FROM unit
        CROSS JOIN LATERAL (SELECT ('1 ' || name)::interval AS width) w
        CROSS JOIN LATERAL (
            SELECT date_trunc(name, least(unit.recorded_at, %(until)s - interval '1 microsecond'), 'UTC') AS newest
        ) n
        CROSS JOIN LATERAL generate_series(
            newest - (least(greatest(%(buckets)s, 1), {MOST_BUCKETS}) - 1) * width, newest + width, width
        ) AS s(edge)
    ), numbered AS MATERIALIZED (
        SELECT position AS version, edge, (SELECT {number_before("edge")}) AS number FROM edges
    ), placed AS MATERIALIZED (
        SELECT version, edge, number, {_position_of("numbered.number")} AS position FROM numbered
    ), spans AS (
        SELECT version, edge AS start, lead(edge) OVER following AS ends,
               lead(number) OVER following - number AS commands, lead(position) OVER following - position AS events
        FROM placed WINDOW following AS (ORDER BY edge)
    )
    SELECT start, commands, events, version, false AS incomplete,
           (SELECT count(*) FROM commands c
            WHERE c.zone = %(zone)s AND c.status <> 200 AND c.recorded_at >= start AND c.recorded_at < ends) AS refused
    FROM spans WHERE ends IS NOT NULL
    """,  # noqa: S608
    key=("start",),
    descending=True,
    parameters=OfThroughput,
    roles=SEES_ALL,
    timeless=False,
    projection="ledger",
)
