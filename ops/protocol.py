"""HTTP/1.1 as uvicorn speaks it with httptools, with bounds for slow and greedy clients, and answers in one piece.

uvicorn writes an answer's head and its body one after the other, and uvloop hands each to the kernel at once: two
system calls and two segments, for which most clients also wake up twice. It has no deadline for a request's head, no
bound on its size, and none for a client that does not read its answer. Here the server looks at all connections once
a second, so that no request starts a timer.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import httptools
import structlog
import uvicorn
from prometheus_client import Gauge
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from ops.headers import SafeHeaders, head
from ops.limits import REFUSED
from ops.problems import Problem
from ops.settings import Settings

if TYPE_CHECKING:
    from ops.web import Answer

MOST_HEAD_BYTES = 16_384
MOST_URL_BYTES = 8_192
HEAD_DEADLINE_S = 10.0
IDLE_S = 75
"""How long a connection is kept between two requests."""
WRITE_DEADLINE_S = 30.0
"""How long an answer may lie here without any of it being read."""
LEAST_READ_BYTES_S = 8_192
WATCH_EVERY_S = 1.0
LARGE = 65_536
FILES = 256
"""What a process has open beside connections of clients."""

CONNECTIONS = Gauge("fogbook_connections", "Connections of clients")

log = structlog.get_logger("fogbook.http")


class Corked:
    """A transport that sends together what is written within one turn of the event loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if len(data) > LARGE:
            # To join it would be to copy it, once for each client that does not read.
            self._flush()
            if not self.is_closing():
                self._transport.write(data)
            return
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def write_eof(self) -> None:
        self._flush()
        self._transport.write_eof()

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self.is_closing():
            self._transport.write(b"".join(held))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class TooLong(Exception):
    """A part of a request's head is longer than is taken."""


class Protocol(HttpToolsProtocol):
    most_connections = 4096
    safe = SafeHeaders()
    _since = 0.0
    """When the watch first saw the connection in the state that it is in; 0 while it is at work."""
    _state: object = None
    _unread = 0
    _head_bytes = 0
    _refusal: Problem | None = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Corked(transport, self.loop))  # type: ignore[arg-type]
        if len(self.connections) > self.most_connections:
            self._refuse("connections", self._full())
            self.transport.close()

    # Heads

    @property
    def at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def in_head(self) -> bool:
        """A request has begun and its head is not complete."""
        return self.scope is not None and (self.cycle is None or self.cycle.scope is not self.scope)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if len(data) > MOST_HEAD_BYTES and not self.at_work and b"\r\n\r\n" not in data[:MOST_HEAD_BYTES]:
            self._refuse("bytes of a head", _head_too_large())
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        except httptools.HttpParserError:
            self._refuse("bytes of a URL" if self._refusal else "", self._refusal or _malformed())
            return
        if self.cycle is None or self.cycle.scope is not self.scope:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse("bytes of a head", _head_too_large())

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > MOST_URL_BYTES:
            limit = str(MOST_URL_BYTES)
            detail = f"A URL is at most {limit} bytes."
            self._refusal = Problem(414, "url-too-long", detail, limit=limit)
            raise TooLong

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        super().on_headers_complete()
        self.scope["whole"] = partial(answer_whole, self.cycle)  # type: ignore[typeddict-unknown-key]

    def on_response_complete(self) -> None:
        """As uvicorn has it, without a timer for each answer: the watch ends connections that are kept for nothing."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def _full(self) -> Problem:
        return Problem(
            503,
            "overloaded",
            "Too many connections are open.",
            headers={"Retry-After": "1"},
            limit="connections",
            most=str(self.most_connections),
        )

    def _refuse(self, limit: str, problem: Problem) -> None:
        """Answer what never becomes a request, and end the connection.

        What the client still sends is read and dropped for a moment: to close at once would take the answer from it.
        """
        if limit:
            REFUSED.labels(limit).inc()
        self._refused = True
        if self.at_work:
            self.transport.close()
        elif not self.transport.is_closing():
            response = problem.response()
            headers = self.safe.complete([*response.raw_headers, (b"connection", b"close")])
            lines = head((*self.server_state.default_headers, *headers))
            self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[problem.status], lines, bytes(response.body)))
            self.transport.write_eof()

    # The watch

    def look(self, now: float) -> None:
        """End the connection if it keeps something waiting for too long."""
        if self._refused:
            self._since = self._since or now
            if now - self._since > HEAD_DEADLINE_S:
                self.transport.abort()
            return
        unread = self.transport.get_write_buffer_size()
        if unread:
            self._look_at_reader(now, unread)
            return
        if self.at_work:
            self._state, self._since = None, 0.0
        elif self._state is not self.scope or not self._since:
            self._state, self._since = self.scope, now
        elif self.cycle is not None and not self.in_head:
            if now - self._since > self.timeout_keep_alive:
                self.transport.close()
        elif now - self._since > HEAD_DEADLINE_S:
            detail = f"The head of the request took more than {HEAD_DEADLINE_S:g} s."
            self._since = now
            self._refuse("seconds of a head", Problem(408, "head-too-slow", detail))

    def _look_at_reader(self, now: float, unread: int) -> None:
        if self._state is not self.transport or self._unread - unread > LEAST_READ_BYTES_S * WRITE_DEADLINE_S:
            self._state, self._since, self._unread = self.transport, now, unread
        elif now - self._since > WRITE_DEADLINE_S:
            REFUSED.labels("seconds unread").inc()
            log.warning("reader_too_slow", unread_bytes=unread)
            self.transport.abort()


def protocol_of(settings: Settings) -> type[Protocol]:
    """The protocol as the settings want it."""
    bounds = {"most_connections": settings.most_connections, "safe": SafeHeaders(settings.hsts_s)}
    return type("Protocol", (Protocol,), bounds)


def allow_connections(most: int) -> None:
    """Let the process have so many open, as far as it may decide that."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Server(uvicorn.Server):
    """uvicorn's server, which looks after its connections once a second."""

    _looks_at = 0.0

    async def on_tick(self, counter: int) -> bool:
        now = time.monotonic()
        if now >= self._looks_at:
            self._looks_at = now + WATCH_EVERY_S
            connections = list(self.server_state.connections)
            CONNECTIONS.set(len(connections))
            for connection in connections:
                if isinstance(connection, Protocol):
                    connection.look(now)
        return await super().on_tick(counter)


def answer_whole(cycle: RequestResponseCycle, answer: Answer, safe: bytes) -> bool:
    """Write an answer whose headers are known to be well formed, with `safe` among them, in one piece.

    False where it has to go the long way: the client is gone, or has not read what it was answered before.
    """
    if cycle.flow.write_paused or cycle.disconnected or cycle.response_started:
        return False
    closing = b"" if cycle.keep_alive else b"connection: close\r\n"
    lines = [b"%b: %b\r\n" % each for each in (*cycle.default_headers, *answer.raw_headers)]
    cycle.waiting_for_100_continue = False
    cycle.response_started = cycle.response_complete = True
    cycle.transport.write(
        b"".join([STATUS_LINE[answer.status_code], *lines, safe, closing, b"\r\n", answer.body])
    )
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


def _malformed() -> Problem:
    return Problem(400, "malformed-request", "This is not a request of HTTP/1.1.")


def _head_too_large() -> Problem:
    limit = str(MOST_HEAD_BYTES)
    return Problem(431, "head-too-large", f"The head of a request is at most {limit} bytes.", limit=limit)
