"""Just enough of an HTTP/1.1 client to cost little: the load should be on the server, not on who makes it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

MOST_HEAD_BYTES = 64 * 1024
ANSWER_WITHIN_S = 15.0


class Unreachable(Exception):
    """There was no answer: what became of the request is unknown."""


@dataclass(frozen=True, slots=True)
class Reply:
    path: str
    status: int
    headers: Mapping[str, str]
    content: bytes


class Http:
    """Requests to one server, over connections that are kept; as many as there are requests at the same time."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.url = url
        parts = urlsplit(url)
        self._tls = parts.scheme == "https"
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._head = f"Host: {parts.netloc}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, path: str, parameters: Mapping[str, object]) -> Reply:
        return await self._request("GET", f"{path}?{urlencode(parameters)}", {}, b"")

    async def post(self, path: str, content: bytes, headers: Mapping[str, str]) -> Reply:
        return await self._request("POST", path, headers, content)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()

    async def _request(self, method: str, path: str, headers: Mapping[str, str], content: bytes) -> Reply:
        """Raises Unreachable."""
        own = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._head}{own}Content-Length: {len(content)}\r\n\r\n"
        writer = None
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                reader, writer = self._kept() or await self._connect()
                writer.write(head.encode() + content)
                reply = await _read(reader, path)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, ValueError) as error:
            if writer is not None:
                writer.close()
            raise Unreachable(str(error)) from error
        if reply.headers.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return reply

    def _kept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection that the server has not closed meanwhile."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            self._host, self._port, ssl=True if self._tls else None, limit=MOST_HEAD_BYTES
        )


async def _read(reader: asyncio.StreamReader, path: str) -> Reply:
    """An answer whose head says how long it is; ValueError for anything else."""
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if "content-length" not in headers:
        raise ValueError(f"the answer to {path} does not say how long it is")
    content = await reader.readexactly(int(headers["content-length"]))
    return Reply(path.partition("?")[0], int(status.split(" ")[1]), headers, content)
