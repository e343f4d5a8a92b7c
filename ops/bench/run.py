"""`fogbook bench`: run the parts, print a table for people or JSON for programs."""

from __future__ import annotations

import argparse
import json as json_format
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ops.bench._parts import PARTS, Figures, run_parts
from ops.bench._stage import FULL, QUICK, TINY, BenchFailed, Scale, Stage, set_up
from ops.logging import configure_logging
from ops.servers import ServersFailed
from ops.settings import Settings

SERVER_SETTINGS = """
SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')
"""


def main(
    quick: bool = False,
    json: bool = False,
    seed: int = 1,
    home: Path | None = None,
    parts: list[str] | None = None,
    tiny: bool = False,
) -> int:
    """Exit code 0 when everything was measured, 1 when something failed, 2 when asked for what there is not."""
    console = Console(stderr=True)
    configure_logging("warning")
    if unknown := set(parts or ()) - set(PARTS):
        console.print(f"There is no part {min(unknown)}; the parts are {', '.join(PARTS)}.")
        return 2
    settings = Settings()
    if settings.database_url or settings.redis_url:
        console.print("A bench makes servers of its own: unset DATABASE_URL and REDIS_URL for it.")
        return 2
    scale = TINY if tiny else QUICK if quick else FULL
    try:
        with console.status("") as status:
            figures = bench(scale, seed, home, parts or _usual(scale), status.update)
    except (BenchFailed, ServersFailed) as error:
        console.print(f"The bench failed: {error}", markup=False, highlight=False)
        return 1
    if json:
        print(json_format.dumps(asdict(figures)))
    else:
        show(figures, Console())
    return 0


def _usual(scale: Scale) -> list[str]:
    """All parts; without those that take long where there is little time."""
    return [
        name for name in PARTS if name not in ("mixed", "hashing", "verify", "as_of") or scale.limit_s is None
    ]


def bench(
    scale: Scale,
    seed: int,
    home: Path | None,
    parts: list[str],
    say: Callable[[str], None] = lambda text: None,
) -> Figures:
    """Measure the given parts. Raises BenchFailed and ServersFailed."""
    begun = time.monotonic()
    if home is not None:
        home = home.expanduser()
        home.mkdir(parents=True, exist_ok=True)
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="fogbook bench ", dir=home) as folder:
        with set_up(scale, seed, Path(folder), begun, say) as stage:
            figures.conditions = _conditions(stage)
            run_parts(stage, figures, parts)
    figures.conditions["took_s"] = round(time.monotonic() - begun, 1)
    return figures


def _conditions(stage: Stage) -> dict[str, Any]:
    scale = stage.scale
    with stage.superuser() as connection:
        row = connection.execute(SERVER_SETTINGS).fetchone()
    version, fsync, synchronous_commit = row or ("", "", "")
    return {
        "quick": scale is QUICK,
        "scale": scale.name,
        "seed": stage.seed,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "postgres": version,
        "fsync": fsync,
        "synchronous_commit": synchronous_commit,
        "c": scale.connections,
        "rounds": scale.rounds,
        "wallets": scale.wallets,
        "principals": stage.principals,
        "client, server and database share the machine": True,
        "workers": "only during lag",
    }


TITLES = {
    "transfer": "transfer over HTTP",
    "noop": "no-op, plain FastAPI",
    "noop_same_route": "no-op on our command route",
    "library_app": "FastAPI + eventsourcing",
    "append": "append of a batch of 32 commands",
    "raw_batch": "raw INSERT of the same rows",
    "raw_events_only": "raw INSERT of the events alone",
}


def show(figures: Figures, console: Console) -> None:
    ratios = Table("ratio", "", title="Fogbook against each, higher is better", title_justify="left")
    for name, ratio in figures.ratios.items():
        ratios.add_row(name, f"{ratio:.2f}")
    if figures.ratios:
        console.print(ratios)
    work = Table("work", "/s", "p50 ms", "p99 ms", "server us", "Postgres us", title="Medians of rounds")
    for name, latency in figures.latency_ms.items():
        cpu = figures.cpu_us.get(name, {})
        rate = figures.per_s.get(name) or figures.per_s.get(f"{name}_events", 0.0)
        cost = (f"{cpu[who]:.0f}" if cpu else "" for who in ("server", "postgres"))
        work.add_row(
            TITLES.get(name, name), f"{rate:,.0f}", f"{latency['p50']:.2f}", f"{latency['p99']:.2f}", *cost
        )
    for name in ("rebuild_events", "verify_events", "copy_decode_events"):
        if name in figures.per_s:
            work.add_row(name.replace("_", " "), f"{figures.per_s[name]:,.0f}")
    if work.row_count:
        console.print(work)
    if figures.lag_ms:
        console.print("Commit to visible, ms:", figures.lag_ms)
    if figures.lag_mixed_ms:
        console.print("Commit to visible of the mixed workload, ms:", figures.lag_mixed_ms)
        console.print("Timers after their time meanwhile, ms:", figures.timers_late_ms)
    if figures.hashing:
        console.print("Leaf hashes, CPU us of a command and their share:", figures.hashing)
        console.print(f"A tree grows by {figures.per_s['tree_leaves']:,.0f} leaves a second.")
    if figures.memory_mib is not None:
        console.print(f"Resident memory of the API: {figures.memory_mib} MiB")
    console.print("Conditions:", figures.conditions)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fogbook bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most 60 seconds")
    parser.add_argument("--json", action="store_true", help="figures as JSON on standard output")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--home", type=Path, help="where the temporary servers lie")
    parser.add_argument(
        "--part", dest="parts", action="append", help=f"one of {', '.join(PARTS)}; repeatable"
    )
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(**vars(_arguments())))
