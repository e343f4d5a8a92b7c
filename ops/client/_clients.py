"""The two clients. What they do is written in `_operations`, once; here each method is told how to wait."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

import httpx

from ops.client import _operations as operations
from ops.client._io import Blocking, Looping, Way, address_of
from ops.client._operations import Session
from ops.client._steps import Listing, Steps
from ops.client._values import Signer, Terms

P = ParamSpec("P")
T = TypeVar("T")
Transport = TypeVar("Transport")

TIMEOUT_S = 35.0
"""Longer than the server itself waits for anything, and than its feeds are silent."""
PATIENCE_S = 60.0
AGENT = "fogbook-client/1"

Operation = Callable[Concatenate[Session, P], Steps[T]]
ListOperation = Callable[Concatenate[Session, P], Listing[T]]


def waits(operation: Operation[P, T]) -> Callable[Concatenate[Fogbook, P], T]:
    @wraps(operation)
    def method(self: Fogbook, *args: P.args, **named: P.kwargs) -> T:
        return self._io.run(operation(self._session, *args, **named))

    return method  # type: ignore[return-value]


def lists(operation: ListOperation[P, T]) -> Callable[Concatenate[Fogbook, P], Generator[T, None, None]]:
    @wraps(operation)
    def method(self: Fogbook, *args: P.args, **named: P.kwargs) -> Generator[T, None, None]:
        return self._io.each(operation(self._session, *args, **named))

    return method  # type: ignore[return-value]


def awaits(operation: Operation[P, T]) -> Callable[Concatenate[AsyncFogbook, P], Coroutine[Any, Any, T]]:
    @wraps(operation)
    def method(self: AsyncFogbook, *args: P.args, **named: P.kwargs) -> Coroutine[Any, Any, T]:
        return self._io.run(operation(self._session, *args, **named))

    return method  # type: ignore[return-value]


def streams(
    operation: ListOperation[P, T],
) -> Callable[Concatenate[AsyncFogbook, P], AsyncGenerator[T, None]]:
    @wraps(operation)
    def method(self: AsyncFogbook, *args: P.args, **named: P.kwargs) -> AsyncGenerator[T, None]:
        return self._io.each(operation(self._session, *args, **named))

    return method  # type: ignore[return-value]


class _Client(Generic[Transport]):
    """What both are told."""

    _kind: Callable[..., Any]

    def __init__(
        self,
        url: str,
        key: str,
        *,
        zone: str = "main",
        act_as: str = "",
        trust: Sequence[str] = (),
        signer: Signer | None = None,
        timeout_s: float = TIMEOUT_S,
        patience_s: float = PATIENCE_S,
        tls: ssl.SSLContext | None = None,
        transport: Transport | None = None,
    ) -> None:
        """`url`: of the server, perhaps with a path before its own. `key`: an API key or a token. `zone`: the economy.
        `act_as`: for whom commands are sent, by an operator with that right. `trust`: verifier keys of the zone's log,
        got from elsewhere, under which `prove` checks receipts. `signer`: signs each command. `timeout_s`: for a
        connection and for each part of an answer. `patience_s`: how long a request is sent again where there is no
        answer, or one that says: later. `tls`: how an https server is verified, in place of `SSL_CERT_FILE` or certifi.
        `transport`: of httpx, in place of the network and of the proxies that the environment names (`HTTPS_PROXY`).

        Raises ValueError. Nothing is sent yet.
        """
        if any(not given.isascii() or not given.isprintable() for given in (key, zone)):
            raise ValueError("a key or a zone is one line of ASCII letters, digits and signs")
        fixed = {"user-agent": AGENT, "authorization": f"Bearer {key}", "fogbook-zone": zone}
        self._io = self._kind(Way(address_of(url), fixed, timeout_s, patience_s, tls), transport)
        self._session = Session(self._io, Terms(zone, act_as, tuple(trust), signer))

    @property
    def zone(self) -> str:
        """The economy that this client speaks with."""
        return self._session.terms.zone

    @property
    def seen(self) -> int:
        """The position up to which this client knows the zone; give it to another client to see as much."""
        return self._session.terms.seen

    def see(self, position: int) -> None:
        """From now on answers reflect at least this position."""
        self._session.terms.saw(position)


class Fogbook(_Client[httpx.BaseTransport]):
    """A client whose calls wait for their answer. One client is one reader: it never goes back behind what it has seen.
    Threads may share it."""

    _kind = Blocking
    _io: Blocking

    send = waits(operations.send)
    send_many = waits(operations.send_many)
    page = waits(operations.page)
    items = lists(operations.items)
    differences = lists(operations.differences)
    get = waits(operations.get)
    log = waits(operations.log)
    events = lists(operations.events)
    follow = lists(operations.follow)
    prove = waits(operations.prove)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Its connections; it is not used again."""
        self._io.close()


class AsyncFogbook(_Client[httpx.AsyncBaseTransport]):
    """The same for a loop: methods are awaited, iterators are asynchronous. Tasks may share it."""

    _kind = Looping
    _io: Looping

    send = awaits(operations.send)
    send_many = awaits(operations.send_many)
    page = awaits(operations.page)
    items = streams(operations.items)
    differences = streams(operations.differences)
    get = awaits(operations.get)
    log = awaits(operations.log)
    events = streams(operations.events)
    follow = streams(operations.follow)
    prove = awaits(operations.prove)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Its connections; it is not used again."""
        await self._io.close()
