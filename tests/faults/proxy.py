"""A TCP proxy that breaks links: it refuses, resets, goes silent, delays, cuts in the middle, and springs traps.

All proxies of a process live in one event loop in a thread of its own, so that they work whatever else waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")

HOST = "127.0.0.1"
CHUNK = 65_536
SEND_WITHIN_S = 60.0


class Way(Enum):
    THERE = "there"
    """From the client to the server."""
    BACK = "back"


class Much(Enum):
    """How much of the chunk that springs a trap goes on before its link is cut."""

    NOTHING = 0.0
    HALF = 0.5
    ALL = 1.0
    AND_ON = 2.0
    """All of it, and the link stays."""


class Conversation:
    """What one connection says, as far as traps ask for it. Told of every chunk before it is forwarded."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts

    def heard(self, way: Way, data: bytes) -> None:
        pass


class Postgres(Conversation):
    """Recognises the append and the commit in PostgreSQL's protocol, prepared or not, and their answers."""

    _NAMED = re.compile(rb"P[\s\S]{4}([^\0]*)\0[^\0]*?append_to_log\(")

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__(counts)
        self._name: bytes | None = None
        self.asked = ""
        """What the client asked last: append, commit or something else."""
        self.answered = ""
        """What was answered by the chunk at hand."""

    def heard(self, way: Way, data: bytes) -> None:
        if way is Way.THERE:
            self.answered = ""
            if named := self._NAMED.search(data):
                self._name = named.group(1)
            self.asked = self._meaning(data)
            self.counts[self.asked] += 1
        else:
            # ReadyForQuery ends every answer.
            self.answered = self.asked if data[-6:-1] == b"Z\x00\x00\x00\x05" else ""

    def _meaning(self, data: bytes) -> str:
        if self._name is not None and re.search(rb"B[\s\S]{4}\0" + re.escape(self._name) + rb"\0", data):
            return "append"
        # Only a sequencer appends, and it commits only where another one was faster: then it decides under the lock.
        return "commit" if self._name is not None and b"COMMIT\0" in data else "other"


@dataclass(slots=True, eq=False)
class Trap:
    """Waits for one chunk; then `act` happens, and its link is cut after so much of it."""

    way: Way
    springs_at: Callable[[Any, bytes], bool]
    act: Callable[[], None]
    forward: Much = Much.NOTHING
    sprung: threading.Event = field(default_factory=threading.Event)


class Proxy:
    """One link. `target` is asked at every connection, since servers may come back elsewhere."""

    def __init__(
        self,
        name: str,
        target: Callable[[], tuple[str, int]],
        conversation: Callable[[Counter[str]], Conversation] = Conversation,
    ) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self._target = target
        self._conversation = conversation
        self._traps: list[Trap] = []
        self._links: set[_Link] = set()
        self._refusing = False
        self._delay_s = 0.0
        self._open = asyncio.Event()
        self._silent_at = float("-inf")
        self._server = _on_loop(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def _listen(self) -> asyncio.Server:
        self._open.set()
        return await asyncio.start_server(self._accept, HOST, 0, limit=4 * CHUNK)

    @property
    def links(self) -> int:
        return len(self._links)

    @property
    def was_silent(self) -> bool:
        """Whether it is silent, or was within the last minute."""
        return time.monotonic() - self._silent_at < 60 or not self._open.is_set()

    # Faults, from any thread

    def reset(self) -> None:
        """Cut all connections with a reset; new ones are welcome."""
        self._count("resets", _on_loop(self._cut(hard=True)))

    def drop(self) -> None:
        """Close all connections in order; new ones are welcome."""
        self._count("drops", _on_loop(self._cut(hard=False)))

    def refuse(self, refusing: bool = True) -> None:
        """Cut all connections, and each new one at once."""
        self._refusing = refusing
        if refusing:
            self._count("refusals", _on_loop(self._cut(hard=True)))

    def silence(self) -> None:
        """Half-open: connections stay and new ones are taken, but nothing goes through."""
        self._silent_at = time.monotonic()
        self._count("silences", 0)
        _on_loop(_call(self._open.clear))

    def heal(self) -> None:
        """Everything goes through again, what was held up included; traps that nobody stepped into are gone."""
        self._traps.clear()
        if not self._open.is_set():
            self._silent_at = time.monotonic()
        self._refusing, self._delay_s = False, 0.0
        _on_loop(_call(self._open.set))

    def delay(self, seconds: float) -> None:
        """Each chunk waits so long, both ways."""
        self._delay_s = seconds
        self._count("delays", 0)

    def lay(self, trap: Trap) -> Trap:
        self._traps.append(trap)
        return trap

    def lift(self, trap: Trap) -> None:
        if trap in self._traps:
            self._traps.remove(trap)

    def close(self) -> None:
        async def close() -> None:
            self._server.close()
            await self._cut(hard=True)

        self._open_for_good()
        _on_loop(close())

    def _open_for_good(self) -> None:
        _on_loop(_call(self._open.set))

    def _count(self, what: str, links: int) -> None:
        self.counts[what] += 1
        self.counts["cut links"] += links if what in ("resets", "drops", "refusals") else 0

    async def _cut(self, hard: bool) -> int:
        links = list(self._links)
        for link in links:
            link.cut(hard)
        return len(links)

    # Links

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _close(writer, hard=True)
            return
        try:
            there = await asyncio.open_connection(*self._target(), limit=4 * CHUNK)
        except OSError:
            _close(writer, hard=True)
            return
        link = _Link(self._conversation(self.counts), writer, there[1])
        self._links.add(link)
        pumps = [
            asyncio.ensure_future(self._pump(link, Way.THERE, reader, there[1])),
            asyncio.ensure_future(self._pump(link, Way.BACK, there[0], writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._links.discard(link)
            link.cut(hard=False)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, link: _Link, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._open.wait()
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                link.conversation.heard(way, data)
                trap = self._sprung(link, way, data)
                if trap is None:
                    writer.write(data)
                else:
                    writer.write(data[: int(len(data) * min(trap.forward.value, 1.0))])
                async with asyncio.timeout(SEND_WITHIN_S):
                    await writer.drain()
                if trap is not None:
                    trap.act()
                    trap.sprung.set()
                    if trap.forward is not Much.AND_ON:
                        link.cut(hard=True)
                        return

    def _sprung(self, link: _Link, way: Way, data: bytes) -> Trap | None:
        for trap in self._traps:
            if trap.way is way and trap.springs_at(link.conversation, data):
                self._traps.remove(trap)
                self.counts["traps"] += 1
                return trap
        return None


@dataclass(eq=False)
class _Link:
    conversation: Conversation
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter

    def cut(self, hard: bool) -> None:
        _close(self.client, hard)
        _close(self.server, hard)


def _close(writer: asyncio.StreamWriter, hard: bool) -> None:
    sock = writer.get_extra_info("socket")
    if hard and sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if hard:
        writer.transport.abort()
    else:
        writer.close()


# The loop of all proxies


async def _call(function: Callable[[], None]) -> None:
    function()


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="proxies", daemon=True).start()
    return loop


def _on_loop(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, _loop()).result(SEND_WITHIN_S)


# What traps wait for


def asks(what: str) -> Callable[[Any, bytes], bool]:
    return lambda conversation, data: conversation.asked == what


def answers(what: str) -> Callable[[Any, bytes], bool]:
    return lambda conversation, data: conversation.answered == what


def anything(conversation: Any, data: bytes) -> bool:
    return True


def wait_any(traps: Sequence[Trap], within_s: float) -> bool:
    """Whether one of the traps was sprung in time; a blocking wait."""
    end = time.monotonic() + within_s
    while not any(trap.sprung.is_set() for trap in traps):
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
