"""Threads and loops over httpx: each makes steps in its own way, and neither knows what they are for."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from ops.client._errors import again_within
from ops.client._steps import Broken, Feed, Give, Listing, Reply, Request, Steps

T = TypeVar("T")

MOST_ANSWER_BYTES = 64 * 1024 * 1024
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0)
"""As many connections as there are requests at the same time. Idle ones are closed before the server does it."""
ATTEMPTS = 12
PAUSES: dict[str, Any] = {"wait_initial": 0.05, "wait_jitter": 0.1, "wait_max": 5.0}


@dataclass(frozen=True, slots=True)
class Way:
    """To one server."""

    url: str
    """Without a slash at its end."""
    headers: Mapping[str, str] = field(repr=False)
    """Of all requests, the key among them."""
    timeout_s: float
    """For a connection, and for each part of an answer."""
    patience_s: float
    """For an operation with all its attempts."""
    tls: ssl.SSLContext | None

    @property
    def verify(self) -> ssl.SSLContext | bool:
        """Certificates that nobody will ask for are not read: that takes longer than a hundred requests."""
        return self.tls or self.url.startswith("https:") or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def request(self, asked: Request) -> httpx.Request:
        """Raises ValueError."""
        for value in asked.headers.values():
            if not (value.isascii() and value.isprintable()) or value != value.strip():
                raise ValueError(f"the value of a header is one line of ASCII, and {value!r} is not")
        # The headers that httpx would add say nothing that this server asks about, and cost as much as the request.
        return httpx.Request(
            asked.method,
            self.url + asked.path,
            params=asked.query or None,
            headers={**self.headers, **asked.headers},
            content=asked.body,
            extensions={"timeout": httpx.Timeout(self.timeout_s).as_dict()},
        )


def address_of(url: str) -> str:
    """Raises ValueError."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.host or parts.userinfo or parts.query:
        raise ValueError("an address is http:// or https://, a host, and perhaps a port and a path")
    return str(parts.copy_with(fragment=None)).rstrip("/")


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise Broken(str(error) or type(error).__name__) from error


class _Parts(list[bytes]):
    """An answer's body as it comes, up to a bound."""

    size = 0

    def add(self, part: bytes) -> None:
        self.append(part)
        self.size += len(part)
        if self.size > MOST_ANSWER_BYTES:
            raise Broken(f"The answer is larger than {MOST_ANSWER_BYTES} bytes.")


class Blocking:
    """A thread waits."""

    def __init__(self, way: Way, transport: httpx.BaseTransport | None) -> None:
        self._way = way
        self._http = httpx.Client(verify=way.verify, limits=LIMITS, transport=transport)

    def run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    value = step()
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(value)
        except StopIteration as end:
            result: T = end.value
            return result

    def each(self, listing: Listing[T]) -> Generator[T, None, None]:
        try:
            step = next(listing)
            while True:
                value = None
                try:
                    if isinstance(step, Give):
                        yield from step.items
                    else:
                        value = step()
                except BaseException as error:  # Also that of a reader who goes away.
                    step = listing.throw(error)
                else:
                    step = listing.send(value)
        except StopIteration:
            return

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def patiently(self, attempt: Callable[[], Steps[T]]) -> T:
        most = self._way.patience_s
        if most <= 0:
            return self.run(attempt())
        import stamina  # It takes a tenth of a second, and most programs never wait.

        retrying = stamina.RetryingCaller(attempts=ATTEMPTS, timeout=most, **PAUSES)
        return retrying(again_within(most), lambda: self.run(attempt()))

    def exchange(self, request: Request) -> Reply:
        with _failures():
            return self._whole(self._http.send(self._way.request(request), stream=True))

    def open(self, request: Request) -> Feed | Reply:
        with _failures():
            response = self._http.send(self._way.request(request), stream=True)
            return _Feed(response) if response.is_success else self._whole(response)

    def _whole(self, response: httpx.Response) -> Reply:
        body = _Parts()
        try:
            for part in response.iter_bytes():
                body.add(part)
        finally:
            response.close()
        return Reply(response.status_code, response.headers, b"".join(body))

    def close(self) -> None:
        self._http.close()


class _Feed:
    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._parts = response.iter_bytes()

    def more(self) -> bytes:
        with _failures():
            return next(self._parts, b"")

    def close(self) -> None:
        self._response.close()


class Looping:
    """A task of a loop waits. The same, with `await`."""

    def __init__(self, way: Way, transport: httpx.AsyncBaseTransport | None) -> None:
        self._way = way
        self._http = httpx.AsyncClient(verify=way.verify, limits=LIMITS, transport=transport)

    async def run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    value = await step()
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(value)
        except StopIteration as end:
            result: T = end.value
            return result

    async def each(self, listing: Listing[T]) -> AsyncGenerator[T, None]:
        try:
            step = next(listing)
            while True:
                value = None
                try:
                    if isinstance(step, Give):
                        for item in step.items:
                            yield item
                    else:
                        value = await step()
                except BaseException as error:  # Also that of a reader who goes away.
                    step = listing.throw(error)
                else:
                    step = listing.send(value)
        except StopIteration:
            return

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def patiently(self, attempt: Callable[[], Steps[T]]) -> T:
        most = self._way.patience_s
        if most <= 0:
            return await self.run(attempt())
        import stamina  # It takes a tenth of a second, and most programs never wait.

        retrying = stamina.AsyncRetryingCaller(attempts=ATTEMPTS, timeout=most, **PAUSES)
        return await retrying(again_within(most), lambda: self.run(attempt()))

    async def exchange(self, request: Request) -> Reply:
        with _failures():
            return await self._whole(await self._http.send(self._way.request(request), stream=True))

    async def open(self, request: Request) -> Feed | Reply:
        with _failures():
            response = await self._http.send(self._way.request(request), stream=True)
            return _AsyncFeed(response) if response.is_success else await self._whole(response)

    async def _whole(self, response: httpx.Response) -> Reply:
        body = _Parts()
        try:
            async for part in response.aiter_bytes():
                body.add(part)
        finally:
            await response.aclose()
        return Reply(response.status_code, response.headers, b"".join(body))

    async def close(self) -> None:
        await self._http.aclose()


class _AsyncFeed:
    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._parts = response.aiter_bytes()

    async def more(self) -> bytes:
        with _failures():
            return await anext(self._parts, b"")

    async def close(self) -> None:
        await self._response.aclose()
