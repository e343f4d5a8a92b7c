"""The two clients: the same operations over httpx, with a thread's patience or a loop's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import stamina

from ops.client import _protocol
from ops.client._errors import AWAY, FogbookError, Unavailable, problem_in
from ops.client._protocol import Accepted, Event, Operation, Page, Reply, Request, Signer, Terms

R = TypeVar("R")
T = TypeVar("T")

TIMEOUT_S = 15.0
PATIENCE_S = 60.0
ATTEMPTS = 12
LONGEST_PAUSE_S = 5.0


def _again(error: Exception) -> bool | timedelta:
    """Whether a request is sent once more, and after which pause where the server names one. It is the same request
    with the same idempotency key, so it is safe whatever became of the first."""
    if isinstance(error, _NotYet):
        return timedelta(seconds=min(error.pause_s, LONGEST_PAUSE_S)) if error.pause_s else True
    return isinstance(error, httpx.TransportError)


class _NotYet(Exception):
    """An answer that says: later."""

    def __init__(self, problem: FogbookError, pause_s: float) -> None:
        super().__init__(problem)
        self.problem = problem
        self.pause_s = pause_s


def _reply(response: httpx.Response) -> Reply:
    """Raises _NotYet."""
    if response.status_code in AWAY or response.status_code == 429:
        after = response.headers.get("retry-after", "")
        problem = problem_in(response.status_code, response.content)
        raise _NotYet(problem, float(after) if after.isdecimal() else 0.0)
    return Reply(response.status_code, response.headers, response.content)


def _given_up(error: Exception) -> FogbookError:
    if isinstance(error, _NotYet):
        return error.problem
    return Unavailable(0, {"type": "/problems/unreachable", "detail": f"There was no answer: {error}"})


class _Client:
    """What both are told."""

    def __init__(
        self,
        key: str,
        zone: str,
        act_as: str,
        trust: Sequence[str],
        signer: Signer | None,
        patience_s: float,
    ) -> None:
        self.terms = Terms(key, zone, act_as, tuple(trust), signer)
        self._patience_s = patience_s

    @property
    def seen(self) -> int:
        """The position up to which this client knows the zone; give it to another client to see as much."""
        return self.terms.seen

    def see(self, position: int) -> None:
        """From now on answers reflect at least this position."""
        self.terms.saw(position)

    def _attempts(self) -> Any:
        return stamina.retry_context(on=_again, attempts=ATTEMPTS, timeout=self._patience_s)


class Fogbook(_Client):
    """A client that waits. One client is one reader: it never goes back behind what it has seen."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        zone: str = "main",
        act_as: str = "",
        trust: Sequence[str] = (),
        signer: Signer | None = None,
        patience_s: float = PATIENCE_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(key, zone, act_as, trust, signer, patience_s)
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_S, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def _run(self, operation: Operation[T]) -> T:
        try:
            request = next(operation)
            while True:
                request = operation.send(self._ask(request))
        except StopIteration as end:
            value: T = end.value
            return value

    def _ask(self, request: Request) -> Reply:
        try:
            for attempt in self._attempts():
                with attempt:
                    return _reply(
                        self._http.request(
                            request.method,
                            request.path,
                            params=request.query,
                            headers=request.headers,
                            content=request.body,
                        )
                    )
        except (_NotYet, httpx.TransportError) as error:
            raise _given_up(error) from error
        raise AssertionError("an attempt returns or raises")

    def send(
        self,
        command: Any,
        *,
        key: str = "",
        if_match: int | None = None,
        at: datetime | None = None,
        dry_run: bool = False,
        correlation: str = "",
    ) -> Accepted:
        """Issue a command, a dataclass of the domain. Raises FogbookError: Refused by a rule, Stale, NotFound, ...

        `key`: its idempotency key, a new one where it is missing; `if_match`: the version that its main stream must
        have; `at`: the time, in a zone with a manual clock; `dry_run`: what it would do, done nowhere.
        """
        return self._run(_protocol.send(self.terms, command, key, if_match, at, dry_run, correlation))

    def send_many(self, commands: Sequence[Any], keys: Sequence[str] = ()) -> list[Accepted | FogbookError]:
        """Issue up to 1,000 commands in order, each on its own: what became of each is in its place."""
        return self._run(_protocol.send_many(self.terms, commands, keys))

    def page(
        self,
        query: str,
        row: type[R],
        *,
        after: str | None = None,
        limit: int = _protocol.PAGE,
        as_of: str = "",
        **parameters: Any,
    ) -> Page[R]:
        """A page of a query, such as `ledger/statement`, as rows of its dataclass."""
        return self._run(_protocol.page(self.terms, query, row, after, limit, as_of, parameters))

    def items(
        self, query: str, row: type[R], *, limit: int = _protocol.PAGE, as_of: str = "", **parameters: Any
    ) -> Iterator[R]:
        """All items of a query, page by page."""
        after = None
        while True:
            page = self.page(query, row, after=after, limit=limit, as_of=as_of, **parameters)
            yield from page.items
            if (after := page.next) is None:
                return

    def events(
        self, after: int = 0, *, type: str = "", stream: str = "", limit: int = 1_000
    ) -> Iterator[Event]:
        """The log behind a position, up to where it is now."""
        behind: int | None = after
        while behind is not None:
            found, behind = self._run(_protocol.events(self.terms, behind, limit, type, stream))
            yield from found

    def follow(self, after: int = 0, *, type: str = "", stream: str = "") -> Iterator[Event]:
        """The log behind a position, and on as it grows; a connection that breaks is resumed where it was."""
        while True:
            try:
                for event in self._followed(after, type, stream):
                    after = event.position
                    yield event
            except (httpx.TransportError, _NotYet):
                self._run(
                    _protocol.events(self.terms, after, 1, type, stream)
                )  # Waits until the server is there.

    def _followed(self, after: int, type: str, stream: str) -> Iterator[Event]:
        request = _protocol.live(self.terms, after, type, stream)
        patience = httpx.Timeout(TIMEOUT_S, read=2 * TIMEOUT_S)
        with self._http.stream(
            "GET", request.path, params=request.query, headers=request.headers, timeout=patience
        ) as response:
            if response.status_code != _protocol.ACCEPTED:
                response.read()
                reply = _reply(response)
                raise problem_in(reply.status, reply.body)
            for line in response.iter_lines():
                if (event := _protocol.event_of(line)) is not None:
                    yield event

    def prove(self, done: Accepted) -> dict[str, Any]:
        """The receipt of a command, checked under the keys in `trust`. Raises NotProven where it proves nothing."""
        return self._run(_protocol.prove(self.terms, done))


class AsyncFogbook(_Client):
    """A client for a loop. See Fogbook, whose methods these are."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        zone: str = "main",
        act_as: str = "",
        trust: Sequence[str] = (),
        signer: Signer | None = None,
        patience_s: float = PATIENCE_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(key, zone, act_as, trust, signer, patience_s)
        self._http = httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def _run(self, operation: Operation[T]) -> T:
        try:
            request = next(operation)
            while True:
                request = operation.send(await self._ask(request))
        except StopIteration as end:
            value: T = end.value
            return value

    async def _ask(self, request: Request) -> Reply:
        try:
            async for attempt in self._attempts():
                with attempt:
                    return _reply(
                        await self._http.request(
                            request.method,
                            request.path,
                            params=request.query,
                            headers=request.headers,
                            content=request.body,
                        )
                    )
        except (_NotYet, httpx.TransportError) as error:
            raise _given_up(error) from error
        raise AssertionError("an attempt returns or raises")

    async def send(
        self,
        command: Any,
        *,
        key: str = "",
        if_match: int | None = None,
        at: datetime | None = None,
        dry_run: bool = False,
        correlation: str = "",
    ) -> Accepted:
        return await self._run(_protocol.send(self.terms, command, key, if_match, at, dry_run, correlation))

    async def send_many(
        self, commands: Sequence[Any], keys: Sequence[str] = ()
    ) -> list[Accepted | FogbookError]:
        return await self._run(_protocol.send_many(self.terms, commands, keys))

    async def page(
        self,
        query: str,
        row: type[R],
        *,
        after: str | None = None,
        limit: int = _protocol.PAGE,
        as_of: str = "",
        **parameters: Any,
    ) -> Page[R]:
        return await self._run(_protocol.page(self.terms, query, row, after, limit, as_of, parameters))

    async def items(
        self, query: str, row: type[R], *, limit: int = _protocol.PAGE, as_of: str = "", **parameters: Any
    ) -> AsyncIterator[R]:
        after = None
        while True:
            page = await self.page(query, row, after=after, limit=limit, as_of=as_of, **parameters)
            for item in page.items:
                yield item
            if (after := page.next) is None:
                return

    async def events(
        self, after: int = 0, *, type: str = "", stream: str = "", limit: int = 1_000
    ) -> AsyncIterator[Event]:
        behind: int | None = after
        while behind is not None:
            found, behind = await self._run(_protocol.events(self.terms, behind, limit, type, stream))
            for event in found:
                yield event

    async def follow(self, after: int = 0, *, type: str = "", stream: str = "") -> AsyncIterator[Event]:
        while True:
            try:
                async for event in self._followed(after, type, stream):
                    after = event.position
                    yield event
            except (httpx.TransportError, _NotYet):
                await self._run(_protocol.events(self.terms, after, 1, type, stream))

    async def _followed(self, after: int, type: str, stream: str) -> AsyncIterator[Event]:
        request = _protocol.live(self.terms, after, type, stream)
        patience = httpx.Timeout(TIMEOUT_S, read=2 * TIMEOUT_S)
        async with self._http.stream(
            "GET", request.path, params=request.query, headers=request.headers, timeout=patience
        ) as response:
            if response.status_code != _protocol.ACCEPTED:
                await response.aread()
                reply = _reply(response)
                raise problem_in(reply.status, reply.body)
            async for line in response.aiter_lines():
                if (event := _protocol.event_of(line)) is not None:
                    yield event

    async def prove(self, done: Accepted) -> dict[str, Any]:
        return await self._run(_protocol.prove(self.terms, done))
