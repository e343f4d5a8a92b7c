"""Hundreds of clients that send and read next to nothing: honest ones do not notice, and memory stays bounded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.faults.client import CUT_OFF
from tests.faults.stage import Stage, scenario
from tests.faults.traffic import PEOPLE, wallet

SLOW, SLOW_SHORT = 500, 200
HONEST = 4
COMMANDS, COMMANDS_SHORT = 300, 25
ROUNDS, ROUNDS_SHORT = 5, 1
DRIP_S = 2.0
PAUSE_S = 0.5
MOST_RATIO = 2.0
MOST_BYTES_EACH = 128 * 1024
"""Of the API's memory, for each slow connection."""
ENDED_WITHIN_S = 60.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@scenario(
    "slow",
    promises=(16,),
    provokes=("slow heads", "slow bodies", "slow readers", "acknowledged"),
    provokes_long=("slow connections ended",),
)
async def slow(stage: Stage) -> None:
    """The same work is done with and without slow clients beside it, in turns."""
    await stage.traffic.found()
    count, rounds = (SLOW, ROUNDS) if stage.long else (SLOW_SHORT, ROUNDS_SHORT)
    connection = stage.clients.connection()
    await connection.ask("GET", "/openapi.json", {})  # It is made when somebody first asks for it.
    connection.close()
    await honest(stage, "warm")
    calm, beside, grown, spent = [], [], [], []
    for number in range(rounds):
        begun = cpu_s(stage)
        calm.append(await honest(stage, f"calm{number}"))
        alone_s, before = cpu_s(stage) - begun, memory(stage)
        async with slow_clients(stage, count):
            begun = cpu_s(stage)
            beside.append(await honest(stage, f"beside{number}"))
            spent.append((cpu_s(stage) - begun) / alone_s)
            grown.append(memory(stage) - before)
    assert max(grown) < count * MOST_BYTES_EACH, grown
    # Neighbours in time are compared: whatever else this machine does, it does to both.
    ratio = statistics.median(b / c for b, c in zip(beside, calm, strict=True))
    stage.counts["p99 beside slow clients, % of p99 without"] = round(100 * ratio)
    stage.counts["CPU of the API beside slow clients, % of without"] = round(100 * statistics.median(spent))
    if stage.long:
        assert ratio <= MOST_RATIO, (calm, beside)
        await until_ended(stage, count)


async def honest(stage: Stage, name: str) -> float:
    """The p99 (s) of commands that are sent one after the other over a few connections."""
    taken: list[float] = []

    async def client(number: int) -> None:
        rng = random.Random(f"{stage.rng.random()}")
        connection = stage.clients.connection()
        for n in range(COMMANDS if stage.long else COMMANDS_SHORT):
            source, target = rng.sample(range(PEOPLE), 2)
            body = {"from": wallet(source), "to": wallet(target), "amount": "1"}
            key = f"{stage.traffic.name}-{name}-{number}-{n}"
            begun = time.monotonic()
            await stage.clients.send(connection, key, "ledger/transfer", body, f"w{source}")
            taken.append(time.monotonic() - begun)
        connection.close()

    await asyncio.gather(*(client(number) for number in range(HONEST)))
    return sorted(taken)[int(len(taken) * 0.99) - 1]


def memory(stage: Stage) -> int:
    """Bytes of the API that are in memory."""
    return int((_process(stage) / "statm").read_text().split()[1]) * 4096


def cpu_s(stage: Stage) -> float:
    """What the API has used of the processor."""
    ticks = (_process(stage) / "stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _process(stage: Stage) -> Path:
    child = stage.world.processes["api"].child
    assert child is not None
    return Path(f"/proc/{child.pid}")


@asynccontextmanager
async def slow_clients(stage: Stage, count: int) -> AsyncIterator[None]:
    """So many slow connections, of all kinds, which come back when they are ended."""
    kinds = [("slow heads", head), ("slow bodies", body), ("slow readers", reader)]
    connected = asyncio.Semaphore(0)
    tasks = [
        asyncio.create_task(keep(stage, *kinds[number % len(kinds)], connected)) for number in range(count)
    ]
    try:
        for _ in range(count):
            await connected.acquire()
        await asyncio.sleep(
            2 * PAUSE_S
        )  # What is measured is that they are there, not that they all come at once.
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def keep(
    stage: Stage,
    name: str,
    behave: Callable[[Stage, Streams], Coroutine[Any, Any, None]],
    connected: asyncio.Semaphore,
) -> None:
    while True:
        streams = await connect(stage)
        stage.counts[name] += 1
        connected.release()
        try:
            await behave(stage, streams)
        except CUT_OFF:
            pass
        finally:
            streams[1].transport.abort()
        stage.counts["slow connections ended"] += 1
        await asyncio.sleep(PAUSE_S)


async def connect(stage: Stage) -> Streams:
    """Past the proxies, which are there for honest clients."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, stage.world.listening.getsockname())
        return await asyncio.open_connection(sock=sock, limit=1024)
    except BaseException:  # Those who come back while the others leave are cancelled here.
        sock.close()
        raise


async def drip(streams: Streams) -> None:
    """A byte now and then, until the server has had enough."""
    while not streams[0].at_eof():
        streams[1].write(b"x")
        await streams[1].drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRIP_S):
                await streams[0].read(1024)


async def head(stage: Stage, streams: Streams) -> None:
    streams[1].write(b"GET /")
    await drip(streams)


async def body(stage: Stage, streams: Streams) -> None:
    headers = stage.world.headers("w1") | {"idempotency-key": "slow", "content-length": "60000"}
    lines = [f"{name}: {value}" for name, value in headers.items()]
    streams[1].write("\r\n".join(["POST /commands/ledger/transfer HTTP/1.1", *lines, "", ""]).encode())
    await drip(streams)


async def reader(stage: Stage, streams: Streams) -> None:
    """Asks for the largest page there is for strangers, and leaves it where it is."""
    streams[1].write(b"GET /openapi.json HTTP/1.1\r\nhost: fogbook\r\n\r\n" * 4)
    streams[1].transport.pause_reading()  # type: ignore[attr-defined]
    while True:
        await asyncio.sleep(PAUSE_S)
        if streams[1].transport.is_closing():
            return


async def until_ended(stage: Stage, count: int) -> None:
    """Heads and bodies have deadlines: whoever drips is put out, however patient he is."""
    before = stage.counts["slow connections ended"]
    async with slow_clients(stage, count):
        begun = time.monotonic()
        while stage.counts["slow connections ended"] - before < count // 3:
            assert time.monotonic() - begun < ENDED_WITHIN_S, "slow connections are never ended"
            await asyncio.sleep(PAUSE_S)
