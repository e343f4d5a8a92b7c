"""PostgreSQL's own programs, run beside a server: the ones that fit it, their progress, what they complain of."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg

from ops._supervise import run, spawn
from ops.home import Refused
from ops.servers._programs import COMMAND_S, ENVIRONMENT, _postgres_folders

LOOK_EVERY_S = 0.05
STOP_WITHIN_S = 5.0

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_TABLE = re.compile(r'(?:dumping contents of|processing data for) table "([^"]+)"')


class ToolFailed(Refused):
    """A program is missing or failed; the message says why."""


def find_tool(name: str, server: psycopg.Connection[Any]) -> Path:
    """The program of the server's own major version, or else of the oldest that is newer. Raises ToolFailed."""
    wanted = server.info.server_version // 10_000
    found: dict[int, Path] = {}
    for folder in _folders(name):
        program = folder / name
        if program.exists():
            _, said = run([str(program), "--version"], env=ENVIRONMENT, timeout_s=COMMAND_S)
            if version := _VERSION.search(said):
                found.setdefault(int(version[1]), program)
    fitting = [major for major in found if major >= wanted]
    if not fitting:
        have = f"only that of PostgreSQL {max(found)}" if found else "none"
        raise ToolFailed(
            f"{name} of PostgreSQL {wanted} or later is needed, and there is {have}: install one."
        )
    return found[min(fitting)]


def _folders(name: str) -> Iterator[Path]:
    yield from _postgres_folders()
    on_path = shutil.which(name)
    if on_path is not None:
        yield Path(on_path).resolve().parent


def run_tool(argv: Sequence[str], conninfo: str, log: Path, table_begins: Callable[[str], None]) -> None:
    """Run one to its end. It must be told to be verbose; `table_begins` gets each table's name. Raises ToolFailed.

    How to connect reaches it by its environment: lists of processes show the words of a command, passwords too.
    """
    env = {
        option.envvar.decode(): option.val.decode()
        for option in psycopg.pq.Conninfo.parse(conninfo.encode())
        if option.envvar and option.val
    }
    child = spawn(argv, log=log, env=ENVIRONMENT | env)
    try:
        with log.open(errors="replace") as said:
            rest = ""
            while True:
                ended = child.poll() is not None  # Asked first: what it said last is then there to be read.
                *lines, rest = (rest + said.read()).split("\n")
                for line in lines:
                    if table := _TABLE.search(line):
                        table_begins(table[1])
                if ended:
                    break
                time.sleep(LOOK_EVERY_S)
    finally:
        if child.poll() is None:
            child.stop(STOP_WITHIN_S)
    if child.poll() != 0:
        raise ToolFailed(f"{Path(argv[0]).name} failed: {_why(log)}.")


def _why(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    errors = [line.partition("error: ")[2] for line in lines if "error: " in line]
    return re.sub(r"\s+", " ", (errors or lines or ["it said nothing"])[0]).strip().rstrip(".")
