"""What tests ask of a digest."""

from __future__ import annotations

from typing import Any

import psycopg

from projections._digest import find, recompute, shown
from projections._engine import Projection


def digest(connection: psycopg.Connection[Any], zone: str, projection: Projection) -> str:
    """The live digest as an attestation shows it. It must be that of the rows, whatever led to them."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        row = connection.execute(
            "SELECT generation FROM checkpoints WHERE zone = %s AND projection = %s AND live",
            (zone, projection.name),
        ).fetchone()
        assert row is not None
        kept = find(connection, zone, projection.name, row[0])
        assert kept == recompute(connection, zone, projection, row[0]), projection.name
    assert kept is not None
    return shown(kept)
