"""Pages that somebody left open: connections that wait for server-sent events, and read what comes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from ops.bench._load import LoadFailed

PATIENCE_S = 60.0
AT_ONCE = 50
"""Pages that are opened at the same time."""


@dataclass
class Opened:
    events: int = 0
    """Panels that were renewed, over all pages."""


@contextlib.contextmanager
def open_pages(port: int, pages: int, cookies: str, path: str = "/console/live/overview") -> Iterator[Opened]:
    """So many live pages at once, until the block ends. Raises LoadFailed when one is refused."""
    opened, ready, over = Opened(), threading.Event(), threading.Event()
    failed: list[Exception] = []

    def read() -> None:
        try:
            asyncio.run(_read_all(port, pages, cookies, path, opened, ready, over))
        except Exception as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=read, name="open pages")
    thread.start()
    try:
        if not ready.wait(PATIENCE_S):
            failed.append(LoadFailed("the pages are not all open in time"))
        if not failed:
            yield opened
    finally:
        over.set()
        thread.join()
    if failed:
        raise LoadFailed(f"a page could not be opened: {failed[0]}") from failed[0]


async def _read_all(
    port: int,
    pages: int,
    cookies: str,
    path: str,
    opened: Opened,
    ready: threading.Event,
    over: threading.Event,
) -> None:
    request = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\nCookie: {cookies}\r\n\r\n"
    )
    at_once = asyncio.Semaphore(AT_ONCE)
    readers = [asyncio.create_task(_begun(port, request.encode(), at_once)) for _ in range(pages)]
    streams = await asyncio.gather(*readers)
    listening = [asyncio.create_task(_listen(reader, opened)) for reader, _ in streams]
    ready.set()
    await asyncio.to_thread(over.wait)
    for task in listening:
        task.cancel()
    await asyncio.gather(*listening, return_exceptions=True)
    for _, writer in streams:
        writer.close()


async def _begun(
    port: int, request: bytes, at_once: asyncio.Semaphore
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with at_once:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200") or b"text/event-stream" not in head:
            raise LoadFailed(head.decode(errors="replace"))
        return reader, writer


async def _listen(reader: asyncio.StreamReader, opened: Opened) -> None:
    while part := await reader.read(1 << 16):
        opened.events += part.count(b"event: ")
