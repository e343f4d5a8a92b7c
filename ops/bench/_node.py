"""Peers that npm carries: their packages are installed once, outside of the repository, and used from there."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ops._supervise import spawn
from ops.bench._stage import tail_of

SOURCES = Path(__file__).parent / "peers" / "emmett"
INSTALL = ("install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
INSTALLED_WITHIN_S = 300.0


class NodeMissing(Exception):
    """What needs Node cannot be measured; the message says why."""


def node() -> str:
    """The path of Node. Raises NodeMissing."""
    return _program("node")


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise NodeMissing(f"there is no {name} on PATH")
    return path


def packages() -> Path:
    """Where the packages are or would be: a folder for each version of the list of them."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    listed = (SOURCES / "package.json").read_bytes()
    return cache / "fogbook-bench" / hashlib.sha256(listed).hexdigest()[:16] / "node_modules"


def node_folder(folder: Path, say: Callable[[str], None]) -> Path:
    """A folder within that one with the peers' sources beside their packages, installed if need be.

    Raises NodeMissing.
    """
    node()
    if not packages().exists():
        say("Installing the packages of Node's peers.")
        _install(folder)
    sources = folder / "node"
    if not sources.exists():
        shutil.copytree(SOURCES, sources)
        (sources / "node_modules").symlink_to(packages())
    return sources


def _install(folder: Path) -> None:
    own, log = folder / "npm", folder / "npm.log"
    own.mkdir(exist_ok=True)
    shutil.copy(SOURCES / "package.json", own)
    npm = spawn([_program("npm"), *INSTALL], log=log, env=os.environ, cwd=own)
    if npm.wait(INSTALLED_WITHIN_S) is None:
        npm.stop(5)
    if npm.poll() != 0:
        raise NodeMissing(f"npm cannot install its packages: {tail_of(log)}")
    # Moved when complete, so that nobody ever uses half of them.
    target = packages()
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.move(own / "node_modules", target)
