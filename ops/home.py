"""The home of an embedded run: what lies in it, and how other commands find the run that is going on."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from ops.settings import Settings, SettingsIncomplete

RUN_FILE = "run.json"
PEPPER_FILE = "pepper"
KEYS_FILE = "keys.json"


class Refused(Exception):
    """What was asked for cannot be done; the message is one sentence for the person who asked."""


@dataclass(frozen=True, slots=True)
class Run:
    """A running `fogbook up`, as it describes itself in HOME/run.json."""

    url: str
    admin_key: str
    database_url: str
    superuser_url: str
    redis_url: str
    pids: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """The servers that a command works on."""

    database_url: str
    superuser_url: str
    redis_url: str = ""
    url: str = ""
    admin_key: str = ""


def full_path(home: Path | None) -> Path:
    return Path(os.path.abspath((home or Settings().home).expanduser()))


def write_private(path: Path, content: str) -> None:
    """Replace a file at once, readable by its owner only: nobody ever reads half of it."""
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise


def write_run(home: Path, run: Run) -> None:
    write_private(home / RUN_FILE, json.dumps(asdict(run), indent=2) + "\n")


def read_run(home: Path) -> Run | None:
    """The run that is going on, or None; what a killed one left behind does not count."""
    try:
        found = json.loads((home / RUN_FILE).read_text())
        run = Run(**{f.name: found[f.name] for f in fields(Run)})
        os.kill(run.pids["up"], 0)
    except PermissionError:
        return run  # It runs, and belongs to somebody else.
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return run


def find_target(home: Path | None) -> Target:
    """Where DATABASE_URL points, or else the run of this home. Raises SettingsIncomplete."""
    settings, folder = Settings(), full_path(home)
    if settings.database_url:
        owner = settings.migrate_database_url or settings.database_url
        return Target(settings.database_url, owner, settings.redis_url, settings.api_url)
    run = read_run(folder)
    if run is None:
        raise SettingsIncomplete(
            f"Nothing runs on {folder}: start it with `fogbook up --home '{folder}'`, or set DATABASE_URL."
        )
    return Target(run.database_url, run.superuser_url, run.redis_url, run.url, run.admin_key)


def find_pepper(home: Path | None) -> bytes:
    """FOGBOOK_PEPPER, or else the pepper that `up` keeps in this home. Raises SettingsIncomplete."""
    settings = Settings()
    if not settings.pepper.get_secret_value():
        with contextlib.suppress(FileNotFoundError):
            return (full_path(home) / PEPPER_FILE).read_text().strip().encode()
    return settings.pepper_bytes


def keep_pepper(home: Path) -> str:
    """FOGBOOK_PEPPER, or else the pepper of this home, which is made when it is first needed."""
    settings = Settings()
    if settings.pepper.get_secret_value():
        return settings.pepper_bytes.decode()
    path = home / PEPPER_FILE
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32) + "\n")
    return path.read_text().strip()
