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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from ops.bench._figures import Figures
from ops.bench._parts import PARTS, QUICK_PARTS, run_parts
from ops.bench._plots import write_plots
from ops.bench._scales import FULL, QUICK, TINY, Scale
from ops.bench._show import show
from ops.bench._stage import BenchFailed, Stage, set_up
from ops.bench.goals import missed
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
    out: Path | None = None,
    plots: Path | None = None,
    check: bool = False,
    tiny: bool = False,
) -> int:
    """Measure and print.

    `out` gets the figures as JSON after each part, so that what fails late loses nothing; `plots` is a folder for SVG.
    Exit code 0 when everything was measured, 1 when something failed, 2 when asked for what there is not, and with
    `check` 3 when a measured goal was missed.
    """
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

    def keep(figures: Figures) -> None:
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json_format.dumps(asdict(figures), indent=1) + "\n")

    try:
        with console.status("") as status:
            figures = bench(scale, seed, home, parts or _usual(scale), status.update, keep)
    except (BenchFailed, ServersFailed) as error:
        console.print(f"The bench failed: {error}", markup=False, highlight=False)
        return 1
    if json:
        print(json_format.dumps(asdict(figures)))
    else:
        show(figures, Console())
    if plots is not None:
        write_plots(figures.plots, plots)
    if check and (goals := missed(figures)):
        console.print(f"Goals missed: {'; '.join(f'{goal.work} against {goal.against}' for goal in goals)}.")
        return 3
    return 0


def _usual(scale: Scale) -> list[str]:
    """All parts; without those that take long where there is little time."""
    return list(PARTS if scale.limit_s is None else QUICK_PARTS)


def bench(
    scale: Scale,
    seed: int,
    home: Path | None,
    parts: list[str],
    say: Callable[[str], None] = lambda text: None,
    keep: Callable[[Figures], None] = lambda figures: None,
) -> Figures:
    """Measure the given parts; `keep` is called after each. Raises BenchFailed and ServersFailed."""
    begun = time.monotonic()
    if home is not None:
        home = home.expanduser()
        home.mkdir(parents=True, exist_ok=True)
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="fogbook bench ", dir=home) as folder:
        with set_up(scale, seed, Path(folder), begun, say) as stage:
            figures.conditions = _conditions(stage)
            run_parts(stage, figures, parts, keep)
    figures.conditions["took_s"] = round(time.monotonic() - begun, 1)
    keep(figures)
    return figures


def _conditions(stage: Stage) -> dict[str, Any]:
    scale = stage.scale
    with stage.superuser() as connection:
        row = connection.execute(SERVER_SETTINGS).fetchone()
    version, fsync, synchronous_commit = row or ("", "", "")
    return {
        "quick": scale is QUICK,
        "scale": scale.name,
        "taken": datetime.now(UTC).date().isoformat(),
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fogbook bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most 60 seconds")
    parser.add_argument("--json", action="store_true", help="figures as JSON on standard output")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--home", type=Path, help="where the temporary servers lie")
    parser.add_argument(
        "--part", dest="parts", action="append", help=f"one of {', '.join(PARTS)}; repeatable"
    )
    parser.add_argument("--out", type=Path, help="a file for the figures as JSON")
    parser.add_argument("--plots", type=Path, help="a folder for plots as SVG")
    parser.add_argument("--check", action="store_true", help="exit with 3 when a measured goal is missed")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(**vars(_arguments())))
