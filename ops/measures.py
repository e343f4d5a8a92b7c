"""What the database knows of all processes, as metrics: read when somebody asks for /metrics.

Each API says the same of a zone, so dashboards and alerts take the maximum over processes.
"""

from __future__ import annotations

import math
from typing import Any

from prometheus_client import Gauge
from psycopg import AsyncConnection

from ops.audit import ARCHIVED, LAGS, LATE_S, MOST_COUNTED, NOW, OPEN_TIMERS, SIGNED, STUCK_ATTEMPTS

MOST_ZONES = 100
"""So many zones are told of, the first ones by name: a name more is as many series more as there are projections."""

DATABASE_UP = Gauge("fogbook_database_up", "1 if the database answered when the metrics were read")
DATABASE_BYTES = Gauge("fogbook_database_bytes", "Size of the database", unit="bytes")
"""NaN where its size may not be told to us."""
ZONES = Gauge("fogbook_zones", "Zones there are; metrics tell of the first 100 by name")
HEAD = Gauge("fogbook_head_position", "Position of a zone's newest event", ["zone"])
LAG = Gauge("fogbook_projection_lag_events", "Events a read model is behind the log", ["zone", "projection"])
LAG_S = Gauge(
    "fogbook_projection_lag_seconds",
    "How long ago the first event was recorded that a read model lacks",
    ["zone", "projection"],
    unit="seconds",
)
PAUSED = Gauge("fogbook_projection_paused", "1 while an operator holds a read model", ["zone", "projection"])
QUARANTINED = Gauge(
    "fogbook_quarantined_events", "Events that a read model could not digest", ["zone", "projection"]
)
OVERDUE = Gauge("fogbook_timers_overdue", "Timers that are due for 30 s and not accepted", ["zone"])
STUCK = Gauge("fogbook_timers_stuck", "Timers refused three times or more", ["zone"])
LATE_TRANSFERS = Gauge("fogbook_transfers_late", "Transfers to other zones past their timeout", ["zone"])
SIGNED_SIZE = Gauge("fogbook_signed_size", "Entries under a log's newest checkpoint", ["zone", "log"])
SIGNED_AGE_S = Gauge(
    "fogbook_signed_age_seconds", "Age of a log's newest checkpoint", ["zone", "log"], unit="seconds"
)
UNSIGNED = Gauge("fogbook_unsigned_entries", "Entries behind a log's newest checkpoint", ["zone", "log"])
SIGNING_REFUSED = Gauge(
    "fogbook_signing_refused", "1 while the archivist signs no more of a log, for a reason", ["zone", "log"]
)
ARCHIVE_LAG = Gauge("fogbook_archive_lag_events", "Events the archive is behind", ["zone", "projection"])

_OF_PROJECTIONS = (LAG, LAG_S, PAUSED, QUARANTINED)
_OF_ZONES = (HEAD, OVERDUE, STUCK, LATE_TRANSFERS)
_OF_LOGS = (SIGNED_SIZE, SIGNED_AGE_S, UNSIGNED, SIGNING_REFUSED, ARCHIVE_LAG)

_SHOWN = f"(SELECT * FROM heads ORDER BY zone LIMIT {MOST_ZONES})"  # noqa: S608

PROJECTIONS = f"""
SELECT l.zone, l.projection, l.lag_events, l.lag_seconds, l.paused::integer,
       (SELECT count(*) FROM quarantine q
        WHERE (q.zone, q.projection, q.generation) = (l.zone, l.projection, l.generation) AND q.quarantined
          AND NOT q.discarded)
FROM ({LAGS}) l JOIN {_SHOWN} shown USING (zone)
"""  # noqa: S608 - made of our own text only

MATTERS = f"""
SELECT shown.zone, shown.position,
       (SELECT count(*) FROM (SELECT 1 {OPEN_TIMERS} AND t.zone = shown.zone
                              AND t.due_at < {NOW} - interval '{LATE_S} s' LIMIT {MOST_COUNTED}) due),
       (SELECT count(*) FROM (SELECT 1 {OPEN_TIMERS} AND t.zone = shown.zone
                              AND f.attempts >= {STUCK_ATTEMPTS} LIMIT {MOST_COUNTED}) stuck),
       (SELECT count(*) FROM (
            SELECT 1 FROM read.settlement_transfers x JOIN heads h USING (zone) JOIN checkpoints c
                ON (c.zone, c.generation) = (x.zone, x.generation) AND c.projection = 'transfers' AND c.live
            WHERE x.zone = shown.zone AND x.status = 'in-flight' AND x.timeout < {NOW} LIMIT {MOST_COUNTED}) late)
FROM {_SHOWN} shown
"""  # noqa: S608

# Without the right to be told the size, all the rest is told.
SIZES = """
SELECT CASE WHEN has_database_privilege(current_database(), 'CONNECT') THEN pg_database_size(current_database()) END,
       (SELECT count(*) FROM heads)
"""


async def measure(connection: AsyncConnection[Any]) -> None:
    """Read all of it. What is no more is not told of any longer. Raises psycopg.Error."""

    async def rows(statement: str) -> list[Any]:
        return await (await connection.execute(statement)).fetchall()

    sizes, projections, matters = await rows(SIZES), await rows(PROJECTIONS), await rows(MATTERS)
    signed, archived = await rows(SIGNED), await rows(ARCHIVED)
    for gauge in (*_OF_PROJECTIONS, *_OF_ZONES, *_OF_LOGS):
        gauge.clear()
    DATABASE_BYTES.set(math.nan if sizes[0][0] is None else sizes[0][0])
    ZONES.set(sizes[0][1])
    for zone, projection, *values in projections:
        for gauge, value in zip(_OF_PROJECTIONS, values, strict=True):
            gauge.labels(zone, projection).set(value)
    for zone, *values in matters:
        for gauge, value in zip(_OF_ZONES, values, strict=True):
            gauge.labels(zone).set(value)
    shown = {zone for zone, *_ in matters}
    for zone, log, size, _, age_s, unsigned, refused in signed:
        if zone in shown:
            SIGNED_SIZE.labels(zone, log).set(size)
            UNSIGNED.labels(zone, log).set(unsigned)
            SIGNING_REFUSED.labels(zone, log).set(bool(refused))
            if age_s is not None:
                SIGNED_AGE_S.labels(zone, log).set(age_s)
    for zone, projection, *_, lag in archived:
        if zone in shown:
            ARCHIVE_LAG.labels(zone, projection).set(lag)
