"""Transfers over HTTP: ours, an ordinary no-op, a no-op on our command route, and the library's application."""

from __future__ import annotations

from ops.bench._figures import Figures
from ops.bench._measure import median_ratio
from ops.bench._rounds import GAPLESS, NOTHING_STORED, Side, note, take_turns
from ops.bench._stage import OUR_HTTP, Stage, make_database

ORDERING = {
    "transfer": GAPLESS,
    "noop": NOTHING_STORED,
    "noop_same_route": NOTHING_STORED,
    "library_app": "in commit order, with gaps, by a lock on the table; each aggregate is checked by itself",
}


def transfer(stage: Stage, figures: Figures) -> None:
    """POST /commands/ledger/transfer against a plain no-op, one on our route, and the library's application."""
    _start_all(stage)
    sides = {name: Side((stage.running[name],)) for name in ORDERING}
    take_turns(stage, sides, stage.scale.rounds, "Transfers over HTTP", late=0.5)
    ours = sides["transfer"].rates
    for name, side in sides.items():
        note(figures, name, side, ORDERING[name])
        if name != "transfer":
            figures.ratios[f"transfer_vs_{name}"] = median_ratio(ours, side.rates)
    figures.conditions["transfer_rounds"] = len(ours)
    for name in set(ORDERING) - {"transfer"}:
        stage.running.pop(name).stop()


def _start_all(stage: Stage) -> None:
    """All applications at once: their start-up overlaps, and wallets are opened meanwhile."""
    library = make_database(stage, "bench_library") | {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "BENCH_WALLETS": str(stage.scale.wallets),
        "BENCH_PRINCIPALS": str(stage.principals),
    }
    stage.start_peer("noop", "ops.bench.peers.noop:app")
    stage.start_peer("noop_same_route", "ops.bench.peers.same_route:app", OUR_HTTP)
    stage.start_peer("library_app", "ops.bench.peers.library_app:app", **library)
    stage.fogbook()
