"""Clients over plain sockets: they send until there is an answer, and measure how long they had to wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.faults.ledger import Ack, Acks, digest_of
from tests.faults.world import World

PATIENCE_S = 12.0
"""An API that says nothing for longer hangs: it gives the database 5 s, and nobody waits for it more than twice."""
PAUSE_S = 0.02
STARTS_WITHIN_S = 30.0

CUT_OFF = (OSError, asyncio.IncompleteReadError)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Hung(Exception):
    """No answer and no end of the connection within the patience."""


class Connection:
    """One HTTP/1.1 connection, opened where needed; after an error the next request opens another."""

    def __init__(self, address: tuple[str, int], patience_s: float = PATIENCE_S) -> None:
        self._address = address
        self._patience_s = patience_s
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> Answer:
        """Raises one of CUT_OFF, or Hung."""
        lines = [f"{method} {path} HTTP/1.1", "host: fogbook", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        try:
            async with asyncio.timeout(self._patience_s):
                if self._streams is None:
                    self._streams = await asyncio.open_connection(*self._address)
                reader, writer = self._streams
                writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
                await writer.drain()
                answer = await self._read(reader)
        except TimeoutError:
            self.close()
            raise Hung(f"{method} {path}") from None
        except BaseException:
            self.close()
            raise
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    async def _read(self, reader: asyncio.StreamReader) -> Answer:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(head[0].split()[1]), headers, body)

    def close(self) -> None:
        if self._streams is not None:
            with contextlib.suppress(OSError):
                self._streams[1].transport.abort()
        self._streams = None


@dataclass
class Clients:
    """All clients of one turn, and what they saw."""

    world: World
    acks: Acks
    counts: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    odd: list[str] = field(default_factory=list)
    """Answers that no fault excuses."""
    hung: list[str] = field(default_factory=list)

    def connection(self, patience_s: float = PATIENCE_S) -> Connection:
        return Connection(self.world.address, patience_s)

    async def send(
        self,
        connection: Connection,
        key: str,
        path: str,
        body: Any,
        by: str = "",
        excused: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """Send the same command until it has its outcome, 200 or 409, and note that outside the system.

        `excused` says whether the client's own link is silent, so that no answer can reach it.
        """
        headers = self.world.headers(by) | {"idempotency-key": key, "content-type": "application/json"}
        content = json.dumps(body).encode()
        sent = time.monotonic()
        while True:
            begun = time.monotonic()
            try:
                answer = await connection.ask("POST", f"/commands/{path}", headers, content)
            except CUT_OFF:
                self.counts["unanswered"] += 1
                await asyncio.sleep(PAUSE_S)
                continue
            except Hung:
                self._gave_up(f"{path} {key}", excused())
                continue
            self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
            if answer.status in (200, 409):
                break
            self._retry_later(path, answer)
            await asyncio.sleep(PAUSE_S)
        self.counts["acknowledged"] += 1
        self.counts["refused"] += answer.status == 409
        self.counts["answered again"] += answer.headers.get("idempotency-hit") == "true"
        position = int(answer.headers.get("fogbook-position") or json.loads(answer.body)["position"])
        principal = "admin"  # Whoever it acts for, the key's principal is the administrator.
        ack = Ack(key, principal, answer.status, position, digest_of(answer.body), sent, time.monotonic())
        await self.acks.note(ack)
        return answer

    def _retry_later(self, path: str, answer: Answer) -> None:
        self.counts[f"status {answer.status}"] += 1
        if answer.status != 503 or "retry-after" not in answer.headers:
            self.odd.append(f"{path}: {answer.status} {answer.headers} {answer.body[:200]!r}")

    def _gave_up(self, what: str, excused: bool) -> None:
        """Where an API is only just starting, connections wait for it; that is no fault of its own."""
        self.counts["gave up waiting"] += 1
        if not excused and self.world.all_serve_for(PATIENCE_S + STARTS_WITHIN_S):
            self.hung.append(what)

    async def query(
        self, connection: Connection, path: str, by: str = "", excused: Callable[[], bool] = lambda: False
    ) -> int:
        """A query's status, 0 where the connection was cut."""
        begun = time.monotonic()
        try:
            answer = await connection.ask("GET", path, self.world.headers(by))
        except CUT_OFF:
            self.counts["queries cut"] += 1
            return 0
        except Hung:
            self._gave_up(path, excused())
            return 0
        self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
        if answer.status in (200, 304):
            self.counts["queries"] += 1
        else:
            self._retry_later(path, answer)
        return answer.status
