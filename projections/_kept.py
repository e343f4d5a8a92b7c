"""What was signed last of a log, as it is known outside of the database that holds the log."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol


class Kept(NamedTuple):
    """What was signed last of one log."""

    origin: str
    size: int
    root: bytes
    begun: int
    """Keys before this serial number signed what came before a fork; they never sign again."""
    serial: int
    """The newest key."""


class Keeper(Protocol):
    """Keeps what was signed last of each log. All of it may raise Unsignable."""

    def alone(self) -> AbstractContextManager[object]:
        """While it lasts, nobody else reads or keeps."""

    def last(self, origin: str) -> Kept | None: ...
    def keep(self, kept: Kept) -> None: ...
