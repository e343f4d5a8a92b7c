"""What operators ask of the machinery: what needs attention, how far each read model is, what was set aside, what is
due, and what is signed.

These are told as they are now, whatever the time: they have neither a past nor an ETag.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from domain._kernel import Id
from ops.audit import SIGNED
from queries._http import SEES_ALL, Context

LATE_S = 30
"""What is behind for so long needs attention."""
UNSIGNED_S = 120
"""A checkpoint that is older needs attention, if there is something behind it."""
STUCK_ATTEMPTS = 3
"""So many refused attempts mean that a timer is stuck."""
MOST_COUNTED = 10_000
"""No count goes further: the matter is bad enough."""

operations = Context(__name__)

_NOW = "CASE WHEN h.clock = 'manual' THEN h.recorded_at ELSE clock_timestamp() END"
_LIVE_TIMERS = """
FROM read.timers t JOIN checkpoints c ON (c.zone, c.generation) = (t.zone, t.generation) AND c.projection = 'timers'
     AND c.live
JOIN heads h ON h.zone = t.zone
LEFT JOIN timer_fates f ON f.zone = t.zone AND f.timer = t.timer
WHERE t.zone = %(zone)s AND NOT coalesce(f.accepted, false)
"""


@dataclass(frozen=True, slots=True)
class Matter:
    """Something that may need attention: how many there are of it, for how many seconds already, and whether it is
    `bad`. Counts end at 10,000.

    `lag`: read models behind the log, the most events and seconds; bad after 30 s. `quarantine`: events that read
    models could not digest. `unsigned`: entries behind the newest checkpoints, bad after 120 s. `overdue`: timers that
    are due for 30 s. `stuck`: timers refused three times or more. `transfers`: transfers to other zones that are past
    their timeout and not settled. `unbalanced`: assets whose accounts do not sum to 0.
    """

    matter: str
    count: int
    seconds: int
    bad: bool
    version: int
    incomplete: bool


operations.get(
    "attention",
    Matter,
    f"""
    SELECT matter, least(count, {MOST_COUNTED})::bigint AS count, greatest(seconds, 0)::bigint AS seconds,
           CASE matter WHEN 'lag' THEN seconds >= {LATE_S}
                       WHEN 'unsigned' THEN count > 0 AND seconds >= {UNSIGNED_S}
                       ELSE count > 0 END AS bad,
           h.position AS version, false AS incomplete
    FROM heads h CROSS JOIN LATERAL (
        SELECT 'lag' AS matter, coalesce(max(h.position - c.position), 0) AS count,
               coalesce(max(extract(epoch FROM {_NOW} - e.recorded_at)), 0) AS seconds
        FROM checkpoints c LEFT JOIN events e ON e.zone = c.zone AND e.position = c.position + 1
        WHERE c.zone = h.zone AND c.live
        UNION ALL
        SELECT 'quarantine', count(*), coalesce(max(extract(epoch FROM clock_timestamp() - q.first_at)), 0)
        FROM quarantine q JOIN checkpoints c USING (zone, projection, generation)
        WHERE q.zone = h.zone AND c.live AND q.quarantined
        UNION ALL
        SELECT 'unsigned', h.position - coalesce(s.size, 0),
               coalesce(extract(epoch FROM clock_timestamp() - s.signed_at), 0)
        FROM (SELECT 1) one LEFT JOIN LATERAL (
            SELECT size, signed_at FROM signed_checkpoints x WHERE x.zone = h.zone AND x.log = 'events'
            ORDER BY size DESC, signed_at DESC LIMIT 1) s ON true
        UNION ALL
        SELECT 'overdue', count(*), coalesce(max(extract(epoch FROM late)), 0)
        FROM (SELECT {_NOW} - t.due_at AS late {_LIVE_TIMERS} AND t.due_at < {_NOW} - interval '{LATE_S} s'
              LIMIT {MOST_COUNTED}) due
        UNION ALL
        SELECT 'stuck', count(*), 0
        FROM (SELECT 1 {_LIVE_TIMERS} AND f.attempts >= {STUCK_ATTEMPTS} LIMIT {MOST_COUNTED}) stuck
        UNION ALL
        SELECT 'transfers', count(*), coalesce(max(extract(epoch FROM {_NOW} - begun_at)), 0)
        FROM (SELECT x.begun_at FROM read.settlement_transfers x JOIN checkpoints c
                  ON (c.zone, c.generation) = (x.zone, x.generation) AND c.projection = 'transfers' AND c.live
              WHERE x.zone = h.zone AND x.status = 'in-flight' AND x.timeout < {_NOW}
              LIMIT {MOST_COUNTED}) late
        UNION ALL
        SELECT 'unbalanced', count(*), 0
        FROM (SELECT 1 FROM read.ledger_balances b JOIN checkpoints c
                  ON (c.zone, c.generation) = (b.zone, b.generation) AND c.projection = 'ledger' AND c.live
              WHERE b.zone = h.zone GROUP BY b.asset HAVING sum(b.posted) <> 0) unbalanced
    ) found
    WHERE h.zone = %(zone)s
    """,  # noqa: S608 - made of our own text only
    key=("matter",),
    roles=SEES_ALL,
    timeless=False,
    projection="ledger",
)


@dataclass(frozen=True, slots=True)
class ReadModel:
    """A projection's generation: the live one, and while it is rebuilt the next one. `lag` is in events, `lag_ms` how
    long ago the first of them was recorded; `code` is the version of the code that folds it."""

    projection: str
    generation: int
    live: bool
    code: str
    position: int
    lag: int
    lag_ms: int
    quarantined: int
    updated_at: datetime
    version: int
    incomplete: bool


operations.get(
    "projections",
    ReadModel,
    f"""
    SELECT c.projection, c.generation::bigint AS generation, c.live, c.code, c.position, h.position - c.position AS lag,
           coalesce(greatest(round(1000 * extract(epoch FROM {_NOW} - e.recorded_at)), 0), 0)::bigint AS lag_ms,
           coalesce(q.events, 0) AS quarantined, c.updated_at, h.position AS version,
           coalesce(q.events, 0) > 0 AS incomplete
    FROM heads h JOIN checkpoints c USING (zone)
    LEFT JOIN events e ON e.zone = c.zone AND e.position = c.position + 1
    LEFT JOIN LATERAL (
        SELECT count(*) AS events FROM quarantine q
        WHERE (q.zone, q.projection, q.generation) = (c.zone, c.projection, c.generation) AND q.quarantined
    ) q ON true
    WHERE h.zone = %(zone)s
    """,  # noqa: S608
    key=("projection", "generation"),
    roles=SEES_ALL,
    timeless=False,
    projection="ledger",
)


@dataclass(frozen=True, slots=True)
class OfProjection:
    of: Id = ""
    """A projection's name; all of them where it is missing."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """An event that a read model could not digest, and why: it was tried `attempts` times, and the later events of its
    stream wait for it. A rebuild with repaired code takes them all in."""

    of: str
    event: int
    stream: str
    type: str
    attempts: int
    error: str
    first_at: datetime
    version: int
    incomplete: bool


operations.get(
    "quarantine",
    SetAside,
    """
    SELECT q.projection AS of, q.position AS event, q.stream, coalesce(e.type, '') AS type,
           q.attempts::bigint AS attempts, q.error, q.first_at, q.position AS version, true AS incomplete
    FROM quarantine q JOIN checkpoints c USING (zone, projection, generation)
    LEFT JOIN events e ON e.zone = q.zone AND e.position = q.position
    WHERE q.zone = %(zone)s AND c.live AND q.quarantined AND (%(of)s = '' OR q.projection = %(of)s)
    """,
    key=("of", "event"),
    parameters=OfProjection,
    roles=SEES_ALL,
    timeless=False,
    projection="ledger",
)


@dataclass(frozen=True, slots=True)
class OfTimers:
    state: Id = ""
    """due: it should have fallen due already; stuck: it was refused three times or more."""
    command: Id = ""


@dataclass(frozen=True, slots=True)
class Timer:
    """A command that falls due, or follows at once: those that were accepted are gone. `attempts` were refused, the
    last one for `problem`; `next_at` is when it is tried again."""

    due_at: datetime
    timer: str
    context: str
    command: str
    to_zone: str
    due: bool
    attempts: int
    problem: str
    next_at: datetime | None
    version: int
    incomplete: bool


operations.get(
    "timers",
    Timer,
    f"""
    SELECT t.due_at, t.timer, t.context, t.command, t.to_zone, t.due_at <= {_NOW} AS due,
           coalesce(f.attempts, 0)::bigint AS attempts, coalesce(f.problem, '') AS problem, f.next_at,
           t.position AS version, t.incomplete
    {_LIVE_TIMERS} AND (%(command)s = '' OR t.command = %(command)s)
      AND (%(state)s = '' OR (%(state)s = 'due' AND t.due_at <= {_NOW})
           OR (%(state)s = 'stuck' AND f.attempts >= {STUCK_ATTEMPTS}))
    """,
    key=("due_at", "timer"),
    parameters=OfTimers,
    roles=SEES_ALL,
    timeless=False,
    projection="timers",
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a log is signed: entries under its newest checkpoint, entries behind it, its age, and why no more is
    signed, if the archivist refuses."""

    log: str
    size: int
    unsigned: int
    signed_at: datetime | None
    age_s: int
    refused: str
    version: int
    incomplete: bool


operations.get(
    "checkpoints",
    Checkpoint,
    f"""
    SELECT log, size, unsigned, signed_at, coalesce(age_seconds, 0)::bigint AS age_s, refused, h.position AS version,
           false AS incomplete
    FROM ({SIGNED}) signed JOIN heads h USING (zone)
    WHERE zone = %(zone)s
    """,  # noqa: S608
    key=("log",),
    roles=SEES_ALL,
    timeless=False,
    projection="ledger",
)
