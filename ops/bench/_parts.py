"""The parts of the bench, in their order."""

from __future__ import annotations

import time
from collections.abc import Callable

from ops.bench._append import append
from ops.bench._as_of import as_of
from ops.bench._commands import commands
from ops.bench._console import console
from ops.bench._figures import Figures
from ops.bench._growth import growth
from ops.bench._hashing import hashing
from ops.bench._lag import lag
from ops.bench._load import LoadFailed
from ops.bench._memory import memory
from ops.bench._mixed import mixed
from ops.bench._peer_appends import peer_appends
from ops.bench._peer_projections import peer_projections
from ops.bench._peers import peers
from ops.bench._queries import queries
from ops.bench._rebuild import rebuild_ledger
from ops.bench._stage import BenchFailed, Stage
from ops.bench._transfer import transfer
from ops.bench._verify import verify_logs

PARTS: dict[str, Callable[[Stage, Figures], None]] = {
    "transfer": transfer,
    "append": append,
    "peer_appends": peer_appends,
    "lag": lag,
    "mixed": mixed,
    "rebuild": rebuild_ledger,
    "peer_projections": peer_projections,
    "verify": verify_logs,
    "as_of": as_of,
    "growth": growth,
    "console": console,
    "queries": queries,
    # After all that follows zones, since it leaves millions of events in its own.
    "commands": commands,
    "peers": peers,
    # Last, since what its peer writes has no leaf hashes, and no proof would hold in its zone.
    "hashing": hashing,
    "memory": memory,
}
"""Whoever adds a part adds its line here."""

QUICK_PARTS = ("transfer", "append", "lag", "rebuild", "memory")
"""Those that fit into a minute together."""


def run_parts(stage: Stage, figures: Figures, names: list[str], keep: Callable[[Figures], None]) -> None:
    """Run the parts of these names, in the order of PARTS; `keep` gets the figures after each."""
    try:
        for name, part in PARTS.items():
            if name in names:
                begun = time.monotonic()
                part(stage, figures)
                figures.conditions[f"{name}_took_s"] = round(time.monotonic() - begun, 1)
                keep(figures)
    except LoadFailed as error:
        raise BenchFailed(f"A request failed, so nothing here means anything: {error}") from error
    finally:
        stage.say("Stopping.")
