"""`fogbook status`: zones, lag, checkpoints, quarantine and stuck timers."""

from __future__ import annotations

import sys
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from commands._codec import encode_json
from ops.audit import ARCHIVED, LAGS, SIGNED, STUCK_ATTEMPTS
from ops.zones import list_zones

MOST_LISTED = 100
WIDE = 1_000
"""Columns where nobody looks: programs that read a table get whole values."""

QUARANTINED = """
SELECT q.zone, q.projection, q.position, q.stream, q.attempts, q.discarded, q.error, q.first_at
FROM quarantine q JOIN checkpoints c USING (zone, projection, generation)
WHERE c.live AND q.quarantined ORDER BY q.zone, q.projection, q.position LIMIT %s
"""

STUCK = """
SELECT f.zone, f.timer, f.attempts, f.problem, f.next_at
FROM timer_fates f
JOIN checkpoints c ON c.zone = f.zone AND c.projection = 'timers' AND c.live
JOIN read.timers t ON (t.zone, t.generation, t.timer) = (c.zone, c.generation, f.timer)
WHERE NOT f.accepted AND f.attempts >= %s ORDER BY f.attempts DESC, f.zone, f.timer LIMIT %s
"""


def read_status(connection: psycopg.Connection[Any]) -> dict[str, list[dict[str, Any]]]:
    return {
        "zones": list_zones(connection),
        "projections": _rows(connection, LAGS),
        "checkpoints": _rows(connection, SIGNED),
        "archive": _rows(connection, ARCHIVED),
        "quarantine": _rows(connection, QUARANTINED, MOST_LISTED),
        "stuck_timers": _rows(connection, STUCK, STUCK_ATTEMPTS, MOST_LISTED),
    }


def _rows(connection: psycopg.Connection[Any], query: str, *parameters: Any) -> list[dict[str, Any]]:
    cursor = connection.execute(query, parameters)
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def show_status(found: dict[str, list[dict[str, Any]]]) -> None:
    for title, rows in found.items():
        show_rows(rows, title.replace("_", " ").capitalize())


def show_rows(rows: list[dict[str, Any]], title: str = "") -> None:
    """Rows as a table for people."""
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    if not rows:
        console.print(f"{title}: none" if title else "None.")
        return
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(_shown, row.values()))
    console.print(table)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1f}"
    return value if isinstance(value, str) else encode_json(value).decode().strip('"')
