"""What operators ask of the machinery: what needs attention, how far each read model is, what was set aside, what
operators wanted and what became of it, what is due, what is signed, and who has keys.

These are told as they are now, whatever the time: they have neither a past nor an ETag.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from domain._kernel import Id
from ops.audit import LATE_S, MOST_COUNTED, NOW, OPEN_TIMERS, SIGNED, STUCK_ATTEMPTS
from projections._wanted import DISCARDED, OPERATED
from queries._query import SEES_ALL, Context

UNSIGNED_S = 120
"""A checkpoint that is older needs attention, if there is something behind it."""

operations = Context(__name__)


@dataclass(frozen=True, slots=True)
class Matter:
    """Something that may need attention: how many there are of it, for how many seconds already, and whether it is
    `bad`. Counts end at 10,000.

    `lag`: read models behind the log, the most events and seconds; bad after 30 s. `paused`: read models that operators
    hold, which do not count as behind. `quarantine`: events that read models could not digest, and nobody discarded.
    `unsigned`: entries behind the newest checkpoints, bad after 120 s. `overdue`: timers that
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
               coalesce(max(extract(epoch FROM {NOW} - e.recorded_at)), 0) AS seconds
        FROM checkpoints c LEFT JOIN events e ON e.zone = c.zone AND e.position = c.position + 1
        LEFT JOIN ({OPERATED}) held ON (held.zone, held.projection) = (c.zone, c.projection)
        WHERE c.zone = h.zone AND c.live AND held.zone IS NULL
        UNION ALL
        SELECT 'paused', count(*), coalesce(max(extract(epoch FROM {NOW} - held.at)), 0)
        FROM ({OPERATED}) held WHERE held.zone = h.zone
        UNION ALL
        SELECT 'quarantine', count(*), coalesce(max(extract(epoch FROM clock_timestamp() - q.first_at)), 0)
        FROM quarantine q JOIN checkpoints c USING (zone, projection, generation)
        WHERE q.zone = h.zone AND c.live AND q.quarantined AND NOT q.discarded
        UNION ALL
        SELECT 'unsigned', h.position - coalesce(s.size, 0),
               coalesce(extract(epoch FROM clock_timestamp() - s.signed_at), 0)
        FROM (SELECT 1) one LEFT JOIN LATERAL (
            SELECT size, signed_at FROM signed_checkpoints x WHERE x.zone = h.zone AND x.log = 'events'
            ORDER BY size DESC, signed_at DESC LIMIT 1) s ON true
        UNION ALL
        SELECT 'overdue', count(*), coalesce(max(extract(epoch FROM late)), 0)
        FROM (SELECT {NOW} - t.due_at AS late {OPEN_TIMERS} AND t.zone = %(zone)s
              AND t.due_at < {NOW} - interval '{LATE_S} s' LIMIT {MOST_COUNTED}) due
        UNION ALL
        SELECT 'stuck', count(*), 0
        FROM (SELECT 1 {OPEN_TIMERS} AND t.zone = %(zone)s AND f.attempts >= {STUCK_ATTEMPTS}
              LIMIT {MOST_COUNTED}) stuck
        UNION ALL
        SELECT 'transfers', count(*), coalesce(max(extract(epoch FROM {NOW} - begun_at)), 0)
        FROM (SELECT x.begun_at FROM read.settlement_transfers x JOIN checkpoints c
                  ON (c.zone, c.generation) = (x.zone, x.generation) AND c.projection = 'transfers' AND c.live
              WHERE x.zone = h.zone AND x.status = 'in-flight' AND x.timeout < {NOW}
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
    projection="operations",
)


@dataclass(frozen=True, slots=True)
class ReadModel:
    """A projection's generation: the live one, and while it is rebuilt the next one, with the position that it has
    reached. `lag` is in events, `lag_ms` how long ago the first of them was recorded; `code` is the version of the code
    that folds it. One that is `paused` stays where it is because an operator said so, for `reason`. Events that are
    `quarantined` wait for somebody to decide, without those that are `discarded` it does."""

    projection: str
    generation: int
    live: bool
    code: str
    position: int
    lag: int
    lag_ms: int
    paused: bool
    reason: str
    quarantined: int
    discarded: int
    updated_at: datetime
    version: int
    incomplete: bool


operations.get(
    "projections",
    ReadModel,
    f"""
    SELECT c.projection, c.generation::bigint AS generation, c.live, c.code, at.position,
           h.position - at.position AS lag,
           coalesce(greatest(round(1000 * extract(epoch FROM {NOW} - e.recorded_at)), 0), 0)::bigint AS lag_ms,
           held.zone IS NOT NULL AS paused, coalesce(held.reason, '') AS reason,
           q.events AS quarantined, q.discarded, c.updated_at, h.position AS version,
           q.events + q.discarded > 0 AS incomplete
    FROM heads h JOIN checkpoints c USING (zone)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN c.live THEN c.position ELSE greatest(c.position, (
            SELECT max(f.position) FROM act_fates f JOIN read.operations_acts a USING (zone, act)
            WHERE f.zone = c.zone AND a.projection = c.projection AND f.state = 'running')) END AS position
    ) at
    LEFT JOIN ({OPERATED}) held ON (held.zone, held.projection) = (c.zone, c.projection)
    LEFT JOIN events e ON e.zone = c.zone AND e.position = at.position + 1
    LEFT JOIN LATERAL (
        SELECT count(*) FILTER (WHERE NOT q.discarded) AS events,
               count(*) FILTER (WHERE q.discarded) AS discarded FROM quarantine q
        WHERE (q.zone, q.projection, q.generation) = (c.zone, c.projection, c.generation) AND q.quarantined
    ) q ON true
    WHERE h.zone = %(zone)s
    """,  # noqa: S608
    key=("projection", "generation"),
    roles=SEES_ALL,
    timeless=False,
    projection="operations",
)


@dataclass(frozen=True, slots=True)
class OfProjection:
    of: Id = ""
    """A projection's name; all of them where it is missing."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """An event that a read model could not digest, and why: it was tried `attempts` times, `stack` is the end of where
    its handler failed, and the later events of its stream wait for it. A rebuild with repaired code takes them all in;
    one that was `discarded` an operator said to do without, for `reason`."""

    of: str
    event: int
    stream: str
    type: str
    attempts: int
    error: str
    stack: str
    discarded: bool
    reason: str
    by: str
    first_at: datetime
    version: int
    incomplete: bool


operations.get(
    "quarantine",
    SetAside,
    f"""
    SELECT q.projection AS of, q.position AS event, q.stream, coalesce(e.type, '') AS type,
           q.attempts::bigint AS attempts, q.error, q.stack, q.discarded, coalesce(d.reason, '') AS reason,
           coalesce(d.by, '') AS by, q.first_at, q.position AS version, true AS incomplete
    FROM quarantine q JOIN checkpoints c USING (zone, projection, generation)
    LEFT JOIN ({DISCARDED}) d ON (d.zone, d.projection, d.event) = (q.zone, q.projection, q.position)
    LEFT JOIN events e ON e.zone = q.zone AND e.position = q.position
    WHERE q.zone = %(zone)s AND c.live AND q.quarantined AND (%(of)s = '' OR q.projection = %(of)s)
    """,  # noqa: S608
    key=("of", "event"),
    parameters=OfProjection,
    roles=SEES_ALL,
    timeless=False,
    projection="operations",
)


@dataclass(frozen=True, slots=True)
class OfActs:
    of: Id = ""
    """A projection's name; all of them where it is missing."""
    state: Id = ""


@dataclass(frozen=True, slots=True)
class Act:
    """What an operator wanted done to a read model, and what became of it. `kind` is rebuild, retry, repair, discard or
    reinstate; `state` is asked, running, done, failed, refused or cancelled, and `problem` says why it is not done.
    While it runs, `reached` of `head` events are folded."""

    asked: int
    act: str
    of: str
    kind: str
    event: int
    reason: str
    by: str
    at: datetime
    state: str
    attempts: int
    reached: int
    head: int
    problem: str
    ended_at: datetime | None
    cancelled_by: str
    version: int
    incomplete: bool


operations.get(
    "acts",
    Act,
    """
    SELECT * FROM (
        SELECT a.asked, a.act, a.projection AS of, a.kind, a.event, a.reason, a.by, a.at,
               coalesce(f.state, 'asked') AS state, coalesce(f.attempts, 0)::bigint AS attempts,
               coalesce(f.position, 0) AS reached, coalesce(f.head, 0) AS head, coalesce(f.error, '') AS problem,
               f.ended_at, a.cancelled_by, a.position AS version, a.incomplete
        FROM read.operations_acts a JOIN live USING (zone, generation)
        LEFT JOIN act_fates f ON (f.zone, f.act) = (a.zone, a.act)
        WHERE (%(of)s = '' OR a.projection = %(of)s)
    ) acts
    WHERE (%(state)s = '' OR state = %(state)s)
    """,
    key=("asked",),
    descending=True,
    parameters=OfActs,
    roles=SEES_ALL,
    timeless=False,
)


@dataclass(frozen=True, slots=True)
class Discarded:
    """An event that a read model does without since an operator said so, or did until he took it back (`standing` is
    false then)."""

    of: str
    event: int
    standing: bool
    reason: str
    by: str
    at: datetime
    version: int
    incomplete: bool


operations.get(
    "discarded",
    Discarded,
    """
    SELECT d.projection AS of, d.event, d.standing, d.reason, d.by, d.at, d.position AS version, d.incomplete
    FROM read.operations_discards d JOIN live USING (zone, generation)
    WHERE (%(of)s = '' OR d.projection = %(of)s)
    """,
    key=("of", "event"),
    parameters=OfProjection,
    roles=SEES_ALL,
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key that enters this zone: whose it is and what it may do, and never its secret."""

    created_at: datetime
    id: str
    name: str
    principal: str
    role: str
    scopes: list[str]
    zones: list[str]
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    version: int
    incomplete: bool


operations.get(
    "keys",
    ApiKey,
    """
    SELECT k.created_at, k.id, k.name, k.principal, k.role, to_jsonb(k.scopes) AS scopes, to_jsonb(k.zones) AS zones,
           k.expires_at, k.revoked_at, k.last_used_at, live.position AS version, false AS incomplete
    FROM api_keys k CROSS JOIN live
    WHERE '*' = ANY(k.zones) OR %(zone)s = ANY(k.zones)
    """,
    key=("created_at", "id"),
    descending=True,
    roles=SEES_ALL,
    timeless=False,
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
    SELECT t.due_at, t.timer, t.context, t.command, t.to_zone, t.due_at <= {NOW} AS due,
           coalesce(f.attempts, 0)::bigint AS attempts, coalesce(f.problem, '') AS problem, f.next_at,
           t.position AS version, t.incomplete
    {OPEN_TIMERS} AND t.zone = %(zone)s AND (%(command)s = '' OR t.command = %(command)s)
      AND (%(state)s = '' OR (%(state)s = 'due' AND t.due_at <= {NOW})
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
    projection="operations",
)
