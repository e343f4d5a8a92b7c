"""How the client is written once for threads and for loops: as generators of steps.

A step is a call without arguments: a request, the next part of an answer, a pause. `Fogbook` makes the call,
`AsyncFogbook` awaits it; what came of it is sent back into the generator. So the generators hold all there is to know
(commands, retries, pages, following, proofs), and neither threads nor loops, nor HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

T = TypeVar("T")

Step = Callable[[], Any]
Steps = Generator[Step, Any, T]
"""Ends with a value, or raises. What it does at its end may be steps too: they are made even when nobody waits."""


@dataclass(frozen=True, slots=True)
class Give(Generic[T]):
    """Some of what an iterator gives, in between its steps."""

    items: Sequence[T]


Listing = Generator[Step | Give[T], Any, None]


class Broken(Exception):
    """A connection ended, kept silent for too long or never was: what became of the request is unknown."""


class Request(NamedTuple):
    method: str
    path: str
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    """By their names in any case."""
    body: bytes


class Feed(Protocol):
    """An answer that goes on and on."""

    def more(self) -> Any:
        """A step, to the bytes that came next; none at the end. Raises Broken."""

    def close(self) -> Any:
        """A step."""


class Io(Protocol):
    """What threads and loops do differently."""

    def exchange(self, request: Request) -> Any:
        """A step, to a Reply. Raises Broken, and ValueError for a header that is not one line of ASCII."""

    def open(self, request: Request) -> Any:
        """A step, to a Feed, or to a Reply that is no success. Raises as `exchange` does."""

    def pause(self, seconds: float) -> Any:
        """A step."""

    def patiently(self, attempt: Callable[[], Steps[Any]]) -> Any:
        """A step: run an attempt again, with pauses, until it succeeds or patience ends; then it raises its error."""
