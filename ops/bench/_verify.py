"""Verification of the logs alone: hashes, laws, trees and snapshots, against the least that reading them costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from commands._signatures import installation
from ops.bench._measure import median_ratio
from ops.bench._stage import PEPPER, ZONE, BenchFailed, Stage
from ops.verify import verify
from projections._transparency import extend_and_sign

PROCESSES = 2


def verify_against(stage: Stage, limit: Callable[[], None]) -> tuple[float, float, int]:
    """The ratio to the limit (COPY of all events out of the log, and decoding), our events a second, and rounds."""
    secret = PEPPER.encode()
    with stage.signer() as connection:
        extend_and_sign(connection, secret, installation(secret), ZONE)
    ours: list[float] = []
    theirs: list[float] = []
    events = 0
    for number in range(stage.scale.rebuilds):
        if number and stage.late(0.9):
            break
        stage.say(f"Verification of the logs, round {number + 1} of {stage.scale.rebuilds}.")
        begun = time.monotonic()
        found = verify(
            stage.connect, ZONE, lambda done, total: None, processes=PROCESSES, models=False, pepper=secret
        )
        ours.append(time.monotonic() - begun)
        if found.count:
            raise BenchFailed(f"an honest log has differences: {found.problems[0]}")
        events = found.events
        begun = time.monotonic()
        limit()
        theirs.append(time.monotonic() - begun)
    return median_ratio(theirs, ours), round(events / statistics.median(ours), 1), len(ours)
