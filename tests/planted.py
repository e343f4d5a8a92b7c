"""Known bugs, planted into a copy of Fogbook: the tests that are there for each must fail.

A bug is a file of tests/torture/bugs: what it is, texts to replace, and tests. A text that is not there any more, or
not just once, is an error: then the bug has to be planted anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "torture" / "bugs"
PARTS = (
    "domain",
    "commands",
    "projections",
    "queries",
    "workers",
    "ops",
    "tests",
    "pyproject.toml",
    "README.md",
)
TESTS_FAILED = 1
"""pytest's exit code for that; a bug that keeps tests from running at all has others."""
PATIENCE_S = 600


@dataclass(frozen=True)
class Edit:
    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Bug:
    name: str
    title: str
    tests: tuple[str, ...]
    edits: tuple[Edit, ...]


def _read(path: Path) -> Bug:
    said = tomllib.loads(path.read_text())
    edits = tuple(Edit(**edit) for edit in said["edit"])
    return Bug(path.stem, said["title"], tuple(said["tests"]), edits)


BUGS = tuple(_read(path) for path in sorted(FOLDER.glob("*.toml")))


def plant(bug: Bug, copy: Path) -> None:
    for edit in bug.edits:
        path = copy / edit.file
        text = path.read_text()
        found = text.count(edit.old)
        assert found == 1, f"{bug.name}: {edit.file} has its text {found} times; plant it anew: {edit.old!r}"
        path.write_text(text.replace(edit.old, edit.new))


def copied(folder: Path) -> Path:
    """A copy of everything that tests need."""
    copy = folder / "fogbook"
    copy.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


def run_tests(copy: Path, tests: Iterable[str]) -> tuple[int, str]:
    """pytest's exit code and what it said. The copy's modules come before those that are installed."""
    argv = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests]
    ours = ("FOGBOOK_", "PYTEST_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        argv,
        cwd=copy,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )
    return done.returncode, done.stdout


def hunt(folder: Path, bugs: Iterable[Bug]) -> Counter[str]:
    """Plant each into a copy, one after another, and run its tests. Without it they pass, which the suite says."""
    missed = []
    counts: Counter[str] = Counter()
    copy = copied(folder)
    for bug in bugs:
        plant(bug, copy)
        code, said = run_tests(copy, bug.tests)
        for edit in bug.edits:
            shutil.copy(ROOT / edit.file, copy / edit.file)
        if code == TESTS_FAILED:
            counts["bugs caught"] += 1
            print(f"caught: {bug.title}", flush=True)
        else:
            missed.append(f"{bug.title} (pytest ended with {code}): {said[-1500:]}")
    assert missed == [], missed
    return counts
