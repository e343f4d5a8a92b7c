"""Verification of the logs alone: hashes, laws, trees and snapshots, against the least that reading them costs."""

from __future__ import annotations

import statistics
import time

from commands._signatures import installation
from ops.bench._figures import Figures
from ops.bench._measure import median_ratio
from ops.bench._rebuild import copy_and_decode
from ops.bench._stage import PEPPER, ZONE, BenchFailed, Stage, grow
from ops.verify import verify
from projections._transparency import extend_and_sign

PROCESSES = 2


def verify_logs(stage: Stage, figures: Figures) -> None:
    """`fogbook verify` of the logs (not of read models) against COPY of all events out of the log and decoding them."""
    stage.main_zone()
    stage.say("Making history for the verification.")
    head = grow(stage, ZONE, stage.scale.events, 0.8)
    secret = PEPPER.encode()
    with stage.signer() as connection:
        extend_and_sign(connection, secret, installation(secret), ZONE)
    ours: list[float] = []
    theirs: list[float] = []
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
        begun = time.monotonic()
        copy_and_decode(stage, head, metadata=True)
        theirs.append(time.monotonic() - begun)
    figures.ratios["verify_vs_copy_decode"] = median_ratio(theirs, ours)
    figures.per_s["verify_events"] = round(head / statistics.median(ours), 1)
    figures.conditions |= {"verify_events": head, "verify_rounds": len(ours)}
