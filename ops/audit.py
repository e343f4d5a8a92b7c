"""How far checkpoints and the archive have come behind the logs."""

from __future__ import annotations

LATE_S = 30
"""What is behind for so long needs attention."""
STUCK_ATTEMPTS = 3
"""So many refused attempts mean that a timer is stuck."""
MOST_COUNTED = 10_000
"""No count goes further: the matter is bad enough."""

NOW = "CASE WHEN h.clock = 'manual' THEN h.recorded_at ELSE clock_timestamp() END"
"""The time in the zone whose head is `h`."""

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
