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
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from typing import Any, NamedTuple

import uvloop

from ops.bench._measure import quantile

MIX = {
    "ledger/transfer": 30,
    "devices/heartbeat": 15,
    "harvest/report-device-state": 10,
    "harvest/record-contribution": 20,
    "marketplace/meter-usage": 15,
    "staking/delegate": 10,
}
"""Weights of the mixed workload's commands."""
VALIDATORS = 8
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
    devices: int = 0
    """With devices: the mixed workload on these; without: transfers alone."""
    counter: int = 0
    """Where the sequence numbers of this round begin; more than a round's requests above those of any before."""
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

SEQ = "SEQ"
"""Stands in a body for a number that grows with each request."""
FIRST_SEQ = 1_000_000_000
"""All of these numbers have ten digits, so that a body's length is known."""


class Request(NamedTuple):
    head: bytes
    """Up to the idempotency key."""
    body: bytes
    """From behind it, up to the sequence number."""
    tail: bytes
    """What follows that, if there is one."""


def _requests(round: Round) -> list[Request]:
    choose = random.Random(round.seed)
    kinds = _mixed(choose, round) if round.devices else (_transfer(choose, round) for _ in count())
    return [_rendered(round, *request) for request in islice(kinds, round.pairs)]


def _rendered(round: Round, command: str, by: int, body: dict[str, Any]) -> Request:
    """A request by the principal with that number."""
    zone = "" if round.zone == "main" else f"Fogbook-Zone: {round.zone}\r\n"
    text = json.dumps(body)
    length = len(text.replace(f'"{SEQ}"', str(FIRST_SEQ)))
    head = (
        f"POST /commands/{command} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {round.keys[by % len(round.keys)]}\r\n{zone}"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\nIdempotency-Key: {round.tag}-"
    )
    before, _, tail = text.partition(f'"{SEQ}"')
    return Request(head.encode(), f"\r\n\r\n{before}".encode(), tail.encode())


Wanted = tuple[str, int, dict[str, Any]]


def _transfer(choose: random.Random, round: Round) -> Wanted:
    source, target = choose.sample(range(round.wallets), 2)
    names = [wallet(number, len(round.keys)) for number in (source, target)]
    return "ledger/transfer", source, {"from": names[0], "to": names[1], "amount": str(choose.randint(1, 9))}


def _mixed(choose: random.Random, round: Round) -> Iterator[Wanted]:
    """One kind after the other by chance, each on one device after the other, so that numbers come in order."""
    turns = {kind: count() for kind in MIX}
    while True:
        (kind,) = choose.choices(list(MIX), list(MIX.values()))
        number = next(turns[kind]) % round.devices
        state = {"battery_percent": 90, "temperature_c": 30, "cpu_percent": 5, "ram_percent": 10}
        match kind:
            case "ledger/transfer":
                yield _transfer(choose, round)
            case "devices/heartbeat":
                yield kind, number, {"device": f"d{number}", "seq": SEQ}
            case "harvest/report-device-state":
                more = {"charging": True, "network": "wifi", "screen_on": False, "idle_seconds": 3_600}
                yield kind, number, {"device": f"d{number}", "seq": SEQ, **state, **more}
            case "harvest/record-contribution":
                yield kind, number, {"session": f"s{number}", "seq": SEQ, "cpu_ms": 1}
            case "marketplace/meter-usage":
                yield kind, number, {"contract": f"c{number}", "seq": SEQ, "unit_ms": "10"}
            case "staking/delegate":
                yield kind, number, {"validator": f"v{number % VALIDATORS}", "amount": "100"}


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
        head, body, tail = self.requests[self.sent % len(self.requests)]
        self.sent += 1
        if tail:
            return b"%b%d%b%d%b" % (head, self.sent, body, FIRST_SEQ + self.round.counter + self.sent, tail)
        return b"%b%d%b" % (head, self.sent, body)

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
