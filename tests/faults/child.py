"""`fogbook serve` or `fogbook work`, with two things that a test holds in its hand: the clock, and poison.

    python -m tests.faults.child CONTROLS serve all --port 0

CONTROLS is a folder. Its file `clock` says by how many seconds this process's clock is wrong. Its file `poison`
says which projection chokes on credits of which amount, and how: it `raises`, `hangs` or `kills` its worker.
Neither is part of Fogbook, and no code of Fogbook knows of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import time_machine

LOOK_EVERY_S = 0.02


class Clock:
    """Follows the file `clock`. Timeouts are measured by another clock, which stays right."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._wrong_by_s = 0.0
        self._travel: Any = None

    def look(self) -> None:
        wrong_by_s = float(_read(self._file) or 0)
        if wrong_by_s == self._wrong_by_s:
            return
        if self._travel is not None:
            self._travel.stop()
            self._travel = None
        if wrong_by_s:
            self._travel = time_machine.travel(datetime.now(UTC) + timedelta(seconds=wrong_by_s), tick=True)
            self._travel.start()
        self._wrong_by_s = wrong_by_s

    def run(self) -> None:
        while True:
            self.look()
            time.sleep(LOOK_EVERY_S)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def _raises() -> None:
    raise ZeroDivisionError("poison")


def _hangs() -> None:
    while True:
        time.sleep(0.01)


def _kills() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


BEHAVES: dict[str, Callable[[], None]] = {"raises": _raises, "hangs": _hangs, "kills": _kills}


def poison(file: Path) -> None:
    """Let a projection's handler of credits behave as the file says, for as long as it says so."""
    from projections._engine import all_projections

    for name, projection in all_projections().items():
        if "Credited" in projection.handlers:
            projection.handlers["Credited"] = _poisoned(name, projection.handlers["Credited"], file)


def _poisoned(name: str, handler: Callable[..., None], file: Path) -> Callable[..., None]:
    def handle(rows: Any, event: Any, record: Any) -> None:
        text = _read(file)
        if text:
            said = json.loads(text)
            if said["projection"] == name and said["amount"] == event.amount:
                BEHAVES[said["how"]]()
        handler(rows, event, record)

    return handle


def main() -> None:
    controls = Path(sys.argv[1])
    sys.argv = ["fogbook", *sys.argv[2:]]
    clock = Clock(controls / "clock")
    clock.look()
    threading.Thread(target=clock.run, name="clock", daemon=True).start()
    if sys.argv[1] == "work":
        poison(controls / "poison")
    from ops.cli import main as run

    run()


if __name__ == "__main__":
    main()
