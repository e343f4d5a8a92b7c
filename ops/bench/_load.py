"""The load generator: a process of its own that speaks just enough HTTP/1.1 to cost little.

The parent writes one JSON object a line (a round to run) and reads one back (what came of it). Requests are
rendered before the clock starts; only the idempotency key is put in while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import math
import random
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop

from ops.bench._measure import quantile

PATIENCE_S = 30.0
"""How long after its end a round may still wait for answers."""


class LoadFailed(Exception):
    """An answer was not 200, or did not come; the message is for people."""


@dataclass(frozen=True)
class Round:
    """Transfers between wallets, each sent by its owner, for a while."""

    port: int
    seconds: float
    connections: int
    keys: list[str]
    """API keys of the principals p00, p01, ...; wallet number i belongs to the principal i % len(keys)."""
    wallets: int
    tag: str
    """Makes the idempotency keys of this round unique."""
    seed: int
    zone: str = "main"
    pairs: int = 8_192
    warm_s: float = 0.0
    """Before the measured seconds: servers forget callers after 2 s, and other rounds took longer than that."""
    rate: float | None = None
    """Commands a second, on schedule whatever the server does; None for a closed loop."""


@dataclass(frozen=True)
class Result:
    count: int
    """Answers within the measured time."""
    seconds: float
    sent: int
    """All requests, those of the warm-up included."""
    p50_ms: float
    p99_ms: float
    p999_ms: float
    client_cpu_s: float
    samples: list[tuple[float, int]] = field(default_factory=list)
    """Open loop only: when each 200 arrived (monotonic clock) and the position it named."""

    @property
    def per_s(self) -> float:
        return self.count / self.seconds


class LoadProcess:
    """The generator as its user sees it."""

    def __init__(self) -> None:
        argv = [sys.executable, "-m", "ops.bench._load"]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, round: Round) -> Result:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(round)) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"error": "the load generator died"}')
        if "error" in answer:
            raise LoadFailed(answer["error"])
        return Result(**answer)

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(10)


def wallet(number: int, principals: int) -> str:
    return f"wallet:{principal(number, principals)}:{number // principals}"


def principal(number: int, principals: int) -> str:
    return f"p{number % principals:02d}"


# In the process


def _requests(round: Round) -> list[tuple[bytes, bytes]]:
    """What stands before and behind the idempotency key of each request."""
    choose = random.Random(round.seed)
    zone = "" if round.zone == "main" else f"Fogbook-Zone: {round.zone}\r\n"
    rendered = []
    for _ in range(round.pairs):
        source, target = choose.sample(range(round.wallets), 2)
        names = [wallet(number, len(round.keys)) for number in (source, target)]
        body = json.dumps({"from": names[0], "to": names[1], "amount": str(choose.randint(1, 9))})
        head = (
            "POST /commands/ledger/transfer HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {round.keys[source % len(round.keys)]}\r\n{zone}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nIdempotency-Key: {round.tag}-"
        )
        rendered.append((head.encode(), f"\r\n\r\n{body}".encode()))
    return rendered


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.transport: Any = None  # uvloop's transports are no asyncio.Transport.
        self.begun = 0.0
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, request: bytes, begun: float) -> None:
        self.begun = begun
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self.buffer:
            data, self.buffer = self.buffer + data, b""
        end = data.find(b"\r\n\r\n")
        if end < 0 or len(data) < end + 4 + _number(data, b"content-length: ", end):
            self.buffer = data
        elif data.startswith(b"HTTP/1.1 200"):
            self.generator.answered(self, data, end)
        else:
            self.generator.fail(data.partition(b"\r\n")[0].decode() + ": " + data[end + 4 :].decode()[:300])

    def connection_lost(self, error: Exception | None) -> None:
        self.generator.fail("the server closed the connection")


def _number(data: bytes, name: bytes, end: int) -> int:
    at = data.find(name, 0, end)
    return int(data[at + len(name) : data.find(b"\r", at)]) if at >= 0 else 0


class Generator:
    """One round."""

    def __init__(self, round: Round) -> None:
        self.round = round
        self.requests = _requests(round)
        self.sent = 0
        self.latencies: list[float] = []
        self.samples: list[tuple[float, int]] = []
        self.idle: list[Connection] = []
        self.due: deque[float] = deque()
        """Open loop: when requests were due for which no connection was free."""
        self.start = 0.0
        self.end = math.inf
        self.last = 0.0
        self.paced = False
        """Open loop: all requests were sent or are due."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def _next(self) -> bytes:
        before, behind = self.requests[self.sent % len(self.requests)]
        self.sent += 1
        return b"%b%d%b" % (before, self.sent, behind)

    def answered(self, connection: Connection, data: bytes, end: int) -> None:
        self.last = now = time.monotonic()
        if self.start <= now < self.end:
            self.latencies.append(now - connection.begun)
        if self.round.rate is not None:
            self.samples.append((now, _number(data, b"fogbook-position: ", end)))
            if self.due:
                connection.send(self._next(), self.due.popleft())
                return
        elif now < self.end:
            connection.send(self._next(), now)
            return
        self.idle.append(connection)
        if now >= self.end or self.paced:
            self.finish()

    def finish(self) -> None:
        """The round ends with the answer to its last request."""
        if len(self.idle) == self.round.connections and not self.done.done():
            self.done.set_result(None)

    def fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(LoadFailed(f"port {self.round.port}: {reason}"))

    async def run(self) -> Result:
        loop = asyncio.get_running_loop()
        connections: list[Connection] = []
        for _ in range(self.round.connections):
            _, made = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self.round.port)
            connections.append(made)
        cpu = time.process_time()
        begun = self.start = time.monotonic() + self.round.warm_s
        if self.round.rate is None:
            self.end = begun + self.round.seconds
            for connection in connections:
                connection.send(self._next(), time.monotonic())
        else:
            self.idle = connections[:]
            await self._pace(begun, self.round.rate)
        try:
            async with asyncio.timeout(self.round.warm_s + self.round.seconds + PATIENCE_S):
                await self.done
        except TimeoutError:
            raise LoadFailed(f"port {self.round.port}: answers are missing after {PATIENCE_S} s") from None
        cpu = time.process_time() - cpu
        for connection in connections:
            connection.transport.abort()
        if not self.latencies:
            raise LoadFailed(f"port {self.round.port}: no answer within {self.round.seconds} s")
        ordered = sorted(self.latencies)
        seconds = self.round.seconds if self.round.rate is None else self.last - begun
        p50, p99, p999 = (round(quantile(ordered, q) * 1000, 3) for q in (0.5, 0.99, 0.999))
        return Result(len(ordered), seconds, self.sent, p50, p99, p999, cpu, self.samples)

    async def _pace(self, begun: float, rate: float) -> None:
        """Send on schedule. A latency counts from when its request was due, so a stall is not hidden."""
        for number in range(int(self.round.seconds * rate)):
            due = begun + number / rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if self.done.done():
                return
            if self.idle:
                self.idle.pop().send(self._next(), due)
            else:
                self.due.append(due)
        self.paced = True
        self.finish()


async def _answer(line: str) -> dict[str, Any]:
    try:
        return asdict(await Generator(Round(**json.loads(line))).run())
    except (LoadFailed, OSError) as error:
        return {"error": str(error)}


def main() -> None:
    # A collection in here would show up as a latency of theirs.
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(KeyboardInterrupt):
        for line in sys.stdin:
            sys.stdout.write(json.dumps(runner.run(_answer(line))) + "\n")
            sys.stdout.flush()
            gc.collect()


if __name__ == "__main__":
    main()
