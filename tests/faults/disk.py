"""The disk is full: commands get 503 and leave nothing half done, and go on when there is room again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.check import check_read_models
from tests.faults.servers import ready, serves
from tests.faults.stage import SCENARIOS, Scenario, Stage, Turn, perform
from tests.faults.world import world

SIZE_MB = 320
MOST_FULL = 10
SMALL = {"max_wal_size": "64MB", "min_wal_size": "32MB", "shared_buffers": "32MB"}


def why_not() -> str:
    """Why the disk cannot be filled here, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root can mount a disk of its own"
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True)
    return "" if probe.returncode == 0 else "this container mounts nothing"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def run(turn: Turn) -> Counter[str]:
    if reason := why_not():
        return Counter({f"passed over: {reason}": 1})
    with small_disk(turn.folder / "small disk") as disk, world(disk / "fog home", settings=SMALL) as made:
        counts = perform(made, play, turn.seed, turn.long, turn.folder / "acks", turn.ends_at)
        check_read_models(made)
    return counts


async def play(stage: Stage) -> None:
    filler = stage.world.home / "filler"
    try:
        await play_until_full(stage, filler)
    finally:
        await stage.in_thread(filler.unlink, True)


async def play_until_full(stage: Stage, filler: Path) -> None:
    async with stage.traffic.flowing(people=12):
        for _ in stage.while_time_lasts(range(MOST_FULL if stage.long else 1), 2):
            await stage.traffic.more(50)
            await stage.in_thread(fill, filler)
            stage.counts["disk full"] += 1
            await stage.until_counted("status 503", 10)
            await stage.in_thread(filler.unlink)
            await ready(stage)
            await serves(stage)
    stage.world.errors = [each for each in stage.world.errors if "full" not in each]


def fill(filler: Path) -> None:
    """Leave nothing, or next to nothing."""
    with filler.open("wb", buffering=0) as file:
        for size in (2**20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


SCENARIOS["disk"] = Scenario("disk", (11,), ("disk full", "status 503", "acknowledged"), (), run)
