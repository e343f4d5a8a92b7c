"""AdHash: a sum over rows that nobody can forge. Also a program: the sum of its input's lines, for a rebuild.

This file needs the standard library only, so that the process which a rebuild starts is there in no time.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from contextlib import suppress
from typing import Any

WIDTH = 672
"""Bytes of an accumulator: four blocks of SHAKE-128. Why that is enough stands in `projections._digest`."""
MODULUS = 1 << (8 * WIDTH)
FEW = 2_000
"""So many rows are summed here: it takes as long as to start a process."""
PIPE_BYTES = 1 << 20
MODEST = 10
"""How much the process that sums gives way. Who folds has more to do than any other process of a rebuild, so the others
wait for it in the end; with equal shares one core of two would idle then. A session of its own would share
equally again, under Linux's autogroups."""


def expand(row: bytes) -> int:
    """The number that a row adds to the sum."""
    return int.from_bytes(hashlib.shake_128(row).digest(WIDTH), "little")


def to_bytes(accumulator: int) -> bytes:
    return (accumulator % MODULUS).to_bytes(WIDTH, "little")


def from_bytes(stored: bytes) -> int:
    return int.from_bytes(stored, "little")


class Sum:
    """The sum of very many rows. It is made in a process of its own: to hash a row takes longer than to fold the
    event that it comes from, and a rebuild would take twice as long."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._rows = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sum:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]

    def add(self, lines: bytes) -> None:
        """Rows, each with a line feed behind it."""
        self._waiting.append(lines)
        if self._process is None:
            self._rows += lines.count(b"\n")
        if self._rows > FEW:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603 - this very file
                [sys.executable, "-I", "-S", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,
            )
            _widen(self._process.stdin)
        assert self._process.stdin is not None
        self._process.stdin.writelines(self._waiting)
        self._waiting.clear()

    def result(self) -> int:
        """The sum of all that was added."""
        if self._process is None:
            return sum(map(expand, b"".join(self._waiting).split(b"\n")[:-1])) % MODULUS
        answer, _ = self._process.communicate()
        if self._process.returncode != 0 or len(answer) != WIDTH:
            raise OSError(f"the process that sums rows ended with {self._process.returncode}")
        return from_bytes(answer)


def _widen(pipe: Any) -> None:
    """What waits in the pipe is summed while PostgreSQL takes rows, and none are folded."""
    with suppress(ImportError, AttributeError, OSError):  # Not every system can, or lets everybody.
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def main() -> None:
    """A row's bytes are JSON, in which a line feed is escaped."""
    with suppress(AttributeError, OSError):
        os.nice(MODEST)
    total = 0
    shake, number = hashlib.shake_128, int.from_bytes  # As in `expand`, whose call would cost 0.2 us a row.
    for line in sys.stdin.buffer:
        total += number(shake(line[:-1]).digest(WIDTH), "little")
    sys.stdout.buffer.write(to_bytes(total))


if __name__ == "__main__":
    main()
