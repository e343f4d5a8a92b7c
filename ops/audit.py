"""How far read models, checkpoints and the archive have come behind the logs, and which timers are open."""

from __future__ import annotations

from projections._wanted import OPERATED

LATE_S = 30
"""What is behind for so long needs attention."""
STUCK_ATTEMPTS = 3
"""So many refused attempts mean that a timer is stuck."""
MOST_COUNTED = 10_000
"""No count goes further: the matter is bad enough."""

NOW = "CASE WHEN h.clock = 'manual' THEN h.recorded_at ELSE clock_timestamp() END"
"""The time in the zone whose head is `h`."""

LAGS = f"""
SELECT c.zone, c.projection, c.generation, c.code, c.position, h.clock, held.zone IS NOT NULL AS paused,
       h.position - c.position AS lag_events,
       coalesce(greatest(extract(epoch FROM {NOW} - e.recorded_at), 0), 0)::float8 AS lag_seconds
FROM checkpoints c JOIN heads h USING (zone)
LEFT JOIN ({OPERATED}) held ON (held.zone, held.projection) = (c.zone, c.projection)
LEFT JOIN events e ON e.zone = c.zone AND e.position = c.position + 1
WHERE c.live
ORDER BY 1, 2
"""  # noqa: S608 - made of our own text only
"""Each read model of each zone: the events that it lacks, how long ago the first of them was recorded, and whether an
operator holds it."""

OPEN_TIMERS = """
FROM read.timers t JOIN checkpoints c ON (c.zone, c.generation) = (t.zone, t.generation) AND c.projection = 'timers'
     AND c.live
JOIN heads h ON h.zone = t.zone
LEFT JOIN timer_fates f ON f.zone = t.zone AND f.timer = t.timer
WHERE NOT coalesce(f.accepted, false)
"""
"""Timers `t` that were not accepted yet, with their zone's head `h` and what became of them so far, `f`."""

SIGNED = """
SELECT h.zone, l.log, coalesce(s.size, 0) AS size, s.signed_at,
       extract(epoch FROM clock_timestamp() - s.signed_at)::float8 AS age_seconds,
       CASE l.log WHEN 'events' THEN h.position ELSE h.number + coalesce(last.ordinal, 0) END
           - coalesce(s.size, 0) AS unsigned, coalesce(t.refused, '') AS refused
FROM heads h
CROSS JOIN (VALUES ('events'), ('fates')) AS l(log)
LEFT JOIN trees t ON t.zone = h.zone AND t.log = l.log
LEFT JOIN LATERAL (SELECT size, signed_at FROM signed_checkpoints c WHERE c.zone = h.zone AND c.log = l.log
                   ORDER BY size DESC, signed_at DESC LIMIT 1) s ON true
LEFT JOIN LATERAL (SELECT ordinal FROM attestations a WHERE a.zone = h.zone
                   ORDER BY ordinal DESC LIMIT 1) last ON true
ORDER BY 1, 2
"""
"""Each log of each zone: its newest checkpoint's size and age, the entries behind it, and why no more is signed."""

ARCHIVED = """
SELECT a.zone, a.projection, a.generation, a.code, a.position, h.position - a.position AS lag_events
FROM archives a JOIN heads h USING (zone) WHERE a.live ORDER BY 1, 2
"""
"""The archive of each projection's past rows."""
