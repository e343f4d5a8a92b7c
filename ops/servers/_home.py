"""The home: whose it is, who uses it now, and the passwords that lie in it."""

import contextlib
import fcntl
import json
import os
import pwd
import secrets
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from ops.servers._errors import ServersFailed

User = tuple[int, int]

_LOCK_ATTEMPTS = 50
_LOCK_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Passwords:
    postgres: str
    fogbook: str
    valkey: str
    valkey_admin: str

    @classmethod
    def make(cls) -> Self:
        return cls(*(secrets.token_urlsafe(32) for _ in range(4)))


def make_home(home: Path) -> None:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if home.stat().st_mode & 0o002:
        raise ServersFailed(f"Everybody can write to {home}: chmod o-w it, or choose another --home.")


def lock_home(home: Path) -> int:
    """Own the home until the returned descriptor is closed, by us or by the end of this process."""
    path = home / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not _lock(descriptor):
            pid = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            raise ServersFailed(
                f"Another fogbook (pid {pid}) runs on {home}: stop it, or choose another --home."
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int) -> bool:
    # A process that was killed a moment ago may still be on its way out.
    for _ in range(_LOCK_ATTEMPTS):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_LOCK_PAUSE_S)
    return False


def server_user(home: Path, run_as: str | None) -> User | None:
    """Whose processes the servers are: ours, or an unprivileged user's where we are root."""
    if os.geteuid() != 0:
        if run_as is not None and run_as != pwd.getpwuid(os.geteuid()).pw_name:
            raise ServersFailed(f"Only root can run the servers as {run_as}.")
        return None
    if run_as is None:
        for folder in sorted(home.glob("postgres-[0-9]*"), reverse=True):
            owner = folder.stat()
            if owner.st_uid != 0:
                return owner.st_uid, owner.st_gid
    for name in [run_as] if run_as else ["fogbook", "postgres", "nobody"]:
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            if account.pw_uid != 0:
                return account.pw_uid, account.pw_gid
    asked = run_as or "fogbook, postgres or nobody"
    raise ServersFailed(f"PostgreSQL refuses to run as root, and there is no unprivileged user {asked}.")


def make_folder(path: Path, user: User | None) -> None:
    path.mkdir(mode=0o700, exist_ok=True)
    own(path, user)


def own(folder: Path, user: User | None) -> None:
    """Close a folder to others, and give it to the servers' user with all that is in it."""
    uid, gid = user or (os.geteuid(), os.getegid())
    owner = folder.stat().st_uid
    if owner != uid:
        if user is None:
            raise ServersFailed(
                f"{folder} belongs to user {owner}: run as that user, or choose another --home."
            )
        os.chown(folder, uid, gid)
        for parent, folders, files in os.walk(folder):
            for name in [*folders, *files]:
                os.chown(os.path.join(parent, name), uid, gid, follow_symlinks=False)
    folder.chmod(0o700)


def load_passwords(home: Path) -> Passwords | None:
    """The passwords of the home, or None where the file is missing or damaged: then it gets new ones."""
    path = home / "servers.json"
    try:
        found = Passwords(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    path.chmod(0o600)
    return found


def save_passwords(home: Path, passwords: Passwords) -> None:
    descriptor, unfinished = tempfile.mkstemp(dir=home, prefix="servers.")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(passwords), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, home / "servers.json")
        flush_folder(home)
    except BaseException:
        os.unlink(unfinished)
        raise


def flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
