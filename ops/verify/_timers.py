"""What became of timers: one that counts as done must have an accepted command in the log, or it would never fire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg

from ops.verify._found import Found

# What is stored of each timer, and where its command goes, as long as the timer has a row.
KNOWN = """
SELECT f.timer, f.attempts, f.accepted, coalesce(nullif(r.to_zone, ''), r.zone) AS target FROM timer_fates f
LEFT JOIN checkpoints c ON c.zone = f.zone AND c.projection = 'timers' AND c.live
LEFT JOIN read.timers r ON r.zone = f.zone AND r.generation = c.generation AND r.timer = f.timer
WHERE f.zone = %(zone)s
"""

# Each attempt has a key of its own, and is counted when it was refused.
DONE = "SELECT key FROM commands WHERE zone = %(zone)s AND status = 200 AND starts_with(key, 'timer:')"

UNDONE = f"""
WITH known AS ({KNOWN}), done AS ({DONE})
SELECT timer, attempts, target FROM known WHERE accepted AND NOT EXISTS (
    SELECT 1 FROM done
    WHERE coalesce(target, %(zone)s) = %(zone)s AND key = 'timer:' || timer || ':' || attempts
)
ORDER BY timer
"""  # noqa: S608 - made of our own text only

ELSEWHERE = "SELECT zone, key FROM commands WHERE zone <> %s AND status = 200 AND key = ANY(%s)"

FORGOTTEN = f"""
WITH known AS ({KNOWN}), done AS ({DONE})
SELECT DISTINCT timer FROM known CROSS JOIN LATERAL generate_series(1, attempts) AS n
JOIN done ON key = 'timer:' || timer || ':' || n
WHERE NOT accepted AND coalesce(target, %(zone)s) = %(zone)s ORDER BY timer
"""  # noqa: S608


def check_timers(connection: psycopg.Connection[Any], zone: str, found: Found) -> None:
    asked = {"zone": zone}
    for timer in _undone(connection, zone):
        what = "it counts as done, and no accepted command of it is in the log"
        found.add(zone, what, table="timer_fates", row=[zone, timer], field="accepted")
    for (timer,) in connection.execute(FORGOTTEN, asked).fetchall():
        what = "it counts as refused, and its command was accepted"
        found.add(zone, what, table="timer_fates", row=[zone, timer], field="accepted")


def _undone(connection: psycopg.Connection[Any], zone: str) -> Iterator[str]:
    """The timers whose command is neither here nor, under a key that names this zone, in the zone that it was for."""
    left = {
        f"timer:{zone}:{timer}:{attempts}": (timer, target)
        for timer, attempts, target in connection.execute(UNDONE, {"zone": zone})
    }
    for there, key in connection.execute(ELSEWHERE, (zone, list(left))).fetchall() if left else ():
        if key in left and left[key][1] in (None, there):
            del left[key]
    return (timer for timer, _ in left.values())
