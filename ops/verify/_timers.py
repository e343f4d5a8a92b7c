"""What became of timers: one that counts as done must have an accepted command in the log, or it would never fire."""

from __future__ import annotations

from typing import Any

import psycopg

from ops.verify._found import Found

# Of the zone's own timers; those for other zones may have their commands in another database.
OWN = """
SELECT f.timer, f.attempts, f.accepted FROM timer_fates f
JOIN checkpoints c ON c.zone = f.zone AND c.projection = 'timers' AND c.live
JOIN read.timers r ON r.zone = f.zone AND r.generation = c.generation AND r.timer = f.timer
WHERE f.zone = %(zone)s AND coalesce(nullif(r.to_zone, ''), r.zone) = f.zone
"""

DONE = "SELECT zone, key FROM commands WHERE zone = %(zone)s AND status = 200 AND starts_with(key, 'timer:')"

UNDONE = f"""
WITH own AS ({OWN}), done AS ({DONE})
SELECT timer FROM own WHERE accepted
AND NOT EXISTS (SELECT 1 FROM done WHERE done.key = 'timer:' || own.timer || ':' || own.attempts)
ORDER BY timer
"""  # noqa: S608 - made of our own text only

# Each attempt has a key of its own, and is counted when it was refused.
FORGOTTEN = f"""
WITH own AS ({OWN}), done AS ({DONE})
SELECT own.timer FROM own CROSS JOIN LATERAL generate_series(1, own.attempts) AS n
JOIN done ON done.key = 'timer:' || own.timer || ':' || n
WHERE NOT own.accepted ORDER BY own.timer
"""  # noqa: S608


def check_timers(connection: psycopg.Connection[Any], zone: str, found: Found) -> None:
    for statement, what in (
        (UNDONE, "it counts as done, and no accepted command of it is in the log"),
        (FORGOTTEN, "it counts as refused, and its command was accepted"),
    ):
        for (timer,) in connection.execute(statement, {"zone": zone}):
            found.add(zone, what, table="timer_fates", row=[zone, timer], field="accepted")
