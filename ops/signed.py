"""What was signed last of each log, in a folder outside of the database: it stays when the database is restored.

A file a log, named by the SHA-256 of the log's origin, holds JSON. Whoever takes the folder away takes the guard
away, so it belongs neither into the database's backups nor back from them. Installations under one secret name their
logs alike, and so have to share the folder.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import msgspec

from ops.files import FileRefused, write_file
from projections._kept import Kept
from projections._transparency import Unsignable

ROOT_BYTES = 32


class NotKept(Unsignable):
    """The folder cannot be read or written."""


class _Stored(msgspec.Struct, forbid_unknown_fields=True):
    origin: str
    size: int
    root: str
    begun: int
    serial: int


class SignedFolder:
    """Keeps files in a folder that exists."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def alone(self) -> Iterator[None]:
        try:
            file = (self._folder / ".lock").open("a")
        except OSError as error:
            raise NotKept(f"The folder {self._folder} cannot be used: {error.strerror}.") from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, origin: str) -> Path:
        return self._folder / f"{sha256(origin.encode()).hexdigest()}.json"

    def last(self, origin: str) -> Kept | None:
        path = self._path(origin)
        try:
            stored = msgspec.json.decode(path.read_bytes(), type=_Stored)
            kept = Kept(stored.origin, stored.size, bytes.fromhex(stored.root), stored.begun, stored.serial)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise NotKept(f"{path} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise NotKept(f"{path} is damaged: {error}.") from error
        if kept.origin != origin or len(kept.root) != ROOT_BYTES or kept.size < 0:
            raise NotKept(f"{path} is damaged: it says nothing of {origin}.")
        return kept

    def keep(self, kept: Kept) -> None:
        stored = _Stored(kept.origin, kept.size, kept.root.hex(), kept.begun, kept.serial)
        try:
            write_file(self._path(kept.origin), msgspec.json.encode(stored) + b"\n")
        except FileRefused as error:
            raise NotKept(str(error)) from error
