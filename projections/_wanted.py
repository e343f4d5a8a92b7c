"""What operators want of the read models of a zone, as the machinery asks for it: read from `operations`, which cannot
be held itself (domain/operations.py)."""

from __future__ import annotations

from typing import Any

import psycopg

OPERATED = """
SELECT p.zone, p.projection, p.reason, p.by, p.at, p.position
FROM read.operations_projections p
JOIN checkpoints o ON (o.zone, o.generation) = (p.zone, p.generation) AND o.projection = 'operations' AND o.live
WHERE p.paused
"""
"""The read models that are held."""

PAUSED = f"SELECT projection FROM ({OPERATED}) held WHERE zone = %s"  # noqa: S608 - made of our own text only

DISCARDED = """
SELECT d.zone, d.projection, d.event, d.reason, d.by FROM read.operations_discards d
JOIN checkpoints o ON (o.zone, o.generation) = (d.zone, d.generation) AND o.projection = 'operations' AND o.live
WHERE d.standing
"""
"""The events that read models are to do without, if they cannot digest them."""


def paused(connection: psycopg.Connection[Any], zone: str) -> frozenset[str]:
    """The names of the zone's read models that are held."""
    return frozenset(name for (name,) in connection.execute(PAUSED, (zone,)))
