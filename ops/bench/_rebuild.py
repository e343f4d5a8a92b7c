"""Rebuilding a projection, against COPY of all events out of the log and decoding them: the least that it costs."""

from __future__ import annotations

import statistics
import time

from psycopg import sql

from commands._codec import decode_json, event_decoder
from ops.bench._figures import Figures
from ops.bench._measure import median_ratio
from ops.bench._stage import ZONE, Stage, grow
from projections._engine import all_projections
from projections._rebuild import SORT, rebuild, sweep


def rebuild_ledger(stage: Stage, figures: Figures) -> None:
    """Rebuild of the projection `ledger` against COPY of all events out of the log and decoding data and meta."""
    stage.main_zone()
    stage.say("Making history for the rebuild.")
    head = grow(stage, ZONE, stage.scale.events, 0.75)
    _vacuum(stage)
    projection = all_projections()["ledger"]
    ours: list[float] = []
    theirs: list[float] = []
    data_alone: list[float] = []
    for number in range(stage.scale.rebuilds):
        if number and stage.late(0.85):
            break
        stage.say(f"Rebuild over {head} events, round {number + 1} of {stage.scale.rebuilds}.")
        begun = time.monotonic()
        rebuild(stage.connect, ZONE, projection)
        ours.append(time.monotonic() - begun)
        with stage.connect() as connection:
            sweep(connection, ZONE, projection)  # Nobody waits for it, so it is not counted.
        _vacuum(stage)
        for sides, metadata in ((theirs, True), (data_alone, False)):
            begun = time.monotonic()
            copy_and_decode(stage, head, metadata)
            sides.append(time.monotonic() - begun)
    figures.ratios["rebuild_vs_copy_decode"] = median_ratio(theirs, ours)
    figures.per_s["rebuild_events"] = round(head / statistics.median(ours), 1)
    figures.per_s["copy_decode_events"] = round(head / statistics.median(theirs), 1)
    figures.conditions |= {
        "rebuild_events": head,
        "rebuild_projection": "ledger",
        "rebuild_until": "the new generation is live",
        "rebuild_vs_copy_decode_of_data_alone": median_ratio(data_alone, ours),
        "rebuild_rounds": len(ours),
    }


def _vacuum(stage: Stage) -> None:
    """So that neither side meets rows which nobody has read before, nor a vacuum that began by itself."""
    with stage.superuser() as connection:
        connection.execute("VACUUM (ANALYZE)")


COPY_ALL = """
COPY (SELECT position, stream, version, type, data, meta, recorded_at FROM events
      WHERE zone = {} AND position <= {} ORDER BY position) TO STDOUT (FORMAT BINARY)
"""
COPY_TYPES = ["int8", "text", "int8", "text", "bytea", "bytea", "timestamptz"]


def copy_and_decode(stage: Stage, upto: int, metadata: bool) -> None:
    statement = sql.SQL(COPY_ALL).format(sql.Literal(ZONE), sql.Literal(upto))
    count = 0
    with stage.connect() as connection:
        connection.execute(SORT, ("off",))
        with connection.cursor().copy(statement) as copy:
            copy.set_types(COPY_TYPES)
            for row in copy.rows():
                decode = event_decoder(row[3])
                assert decode is not None
                decode(row[4])
                if metadata:  # Which command an event belongs to stands there.
                    decode_json(row[5])
                count += 1
    assert count == upto, "positions are gapless"
