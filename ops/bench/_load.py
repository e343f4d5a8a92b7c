"""The load generator: a process of its own that speaks just enough HTTP/1.1 to cost little.

The parent writes one JSON object a line (a round to run) and reads one back (what came of it).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import math
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import uvloop

from ops.bench._measure import quantile
from ops.bench._requests import FIRST_SEQ, Round, requests_of

PATIENCE_S = 30.0
"""How long after its end a round may still wait for answers."""


class LoadFailed(Exception):
    """An answer was not what it should be, or did not come; the message is for people."""


@dataclass(frozen=True)
class Result:
    count: int
    """Answers within the measured time."""
    seconds: float
    sent: int
    """All requests, those of the warm-up included."""
    batch: int
    """Commands in each request."""
    p50_ms: float
    p99_ms: float
    p999_ms: float
    client_cpu_s: float
    samples: list[tuple[float, int]] = field(default_factory=list)
    """Open loop only: when each 200 arrived (monotonic clock) and the position it named."""

    @property
    def per_s(self) -> float:
        """Commands a second."""
        return self.count * self.batch / self.seconds

    @property
    def commands(self) -> int:
        """All that were sent, those of the warm-up included."""
        return self.sent * self.batch


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


# In the process

CRLF = b"\r\n"


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, generator: Generator, lane: int) -> None:
        self.generator = generator
        self.lane = lane
        """Which of the ports it leads to."""
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
        elif data.startswith(self.generator.expected) and self.generator.accepted(data):
            self.generator.answered(self, data, end)
        else:
            lines = data[end + 4 :].splitlines()
            line = next((line for line in lines if b'"status":200,' not in line), b"")
            self.generator.fail(f"{data.partition(CRLF)[0].decode()}: {line.decode()[:300]}")

    def connection_lost(self, error: Exception | None) -> None:
        self.generator.fail("the server closed the connection")


def _number(data: bytes, name: bytes, end: int) -> int:
    at = data[:end].lower().find(name)
    return int(data[at + len(name) : data.find(b"\r", at)]) if at >= 0 else 0


class Generator:
    """One round."""

    def __init__(self, round: Round) -> None:
        self.round = round
        self.batch = round.batch or 1
        self.requests = requests_of(round)
        self.expected = b"HTTP/1.1 %d" % round.status
        self.sent = 0
        self.turns = [0] * len(round.ports)
        self.latencies: list[float] = []
        self.late: list[float] = []
        """Closed loop: those of requests that were under way at the end."""
        self.samples: list[tuple[float, int]] = []
        self.idle: deque[Connection] = deque()
        """Open loop: who waited longest is next, since servers end connections that nothing ever comes over."""
        self.due: deque[float] = deque()
        """Open loop: when requests were due for which no connection was free."""
        self.start = 0.0
        self.end = math.inf
        self.last = 0.0
        self.where = " and ".join(f"port {port}" for port in round.ports)
        self.paced = False
        """Open loop: all requests were sent or are due."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def _next(self, connection: Connection) -> bytes:
        """Each port gets every n-th request, so that a device's numbers come in order however one of them lags."""
        lane = connection.lane
        number = self.turns[lane] * len(self.turns) + lane
        self.turns[lane] += 1
        self.sent += 1
        return self.requests[number % len(self.requests)].filled(
            FIRST_SEQ + self.round.counter + number * self.batch
        )

    def accepted(self, data: bytes) -> bool:
        """Whether every line of an answer to a batch is a 200."""
        return not self.round.batch or data.count(b'"status":200,') == self.batch

    def answered(self, connection: Connection, data: bytes, end: int) -> None:
        self.last = now = time.monotonic()
        if self.start <= now:
            (self.latencies if now < self.end else self.late).append(now - connection.begun)
        if self.round.rate is not None:
            self.samples.append((now, _number(data, b"fogbook-position: ", end)))
            if self.due:
                connection.send(self._next(connection), self.due.popleft())
                return
        elif now < self.end:
            connection.send(self._next(connection), now)
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
            self.done.set_exception(LoadFailed(f"{self.where}: {reason}"))

    async def run(self) -> Result:
        loop = asyncio.get_running_loop()
        connections: list[Connection] = []
        try:
            for number in range(self.round.connections):
                lane = number % len(self.round.ports)
                opened = partial(Connection, self, lane)
                _, made = await loop.create_connection(opened, "127.0.0.1", self.round.ports[lane])
                connections.append(made)
            return await self._run(connections)
        finally:
            for connection in connections:
                connection.transport.abort()

    async def _run(self, connections: list[Connection]) -> Result:
        cpu = time.process_time()
        begun = self.start = time.monotonic() + self.round.warm_s
        if self.round.rate is None:
            self.end = begun + self.round.seconds
            for connection in connections:
                connection.send(self._next(connection), time.monotonic())
        else:
            self.idle.extend(connections)
            await self._pace(begun, self.round.rate)
        try:
            async with asyncio.timeout(self.round.warm_s + self.round.seconds + PATIENCE_S):
                await self.done
        except TimeoutError:
            raise LoadFailed(f"{self.where}: answers are missing after {PATIENCE_S} s") from None
        cpu = time.process_time() - cpu
        # Where a round is too short for a single answer, it is as long as what was under way took.
        ordered = sorted(self.latencies or self.late)
        in_time = self.round.rate is None and bool(self.latencies)
        seconds = self.round.seconds if in_time else self.last - begun
        p50, p99, p999 = (round(quantile(ordered, q) * 1000, 3) for q in (0.5, 0.99, 0.999))
        return Result(len(ordered), seconds, self.sent, self.batch, p50, p99, p999, cpu, self.samples)

    async def _pace(self, begun: float, rate: float) -> None:
        """Send on schedule. A latency counts from when its request was due, so a stall is not hidden."""
        for number in range(int(self.round.seconds * rate)):
            due = begun + number / rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if self.done.done():
                return
            if self.idle:
                connection = self.idle.popleft()
                connection.send(self._next(connection), due)
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
