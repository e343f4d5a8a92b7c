"""What was acknowledged, kept outside the system: a file that is flushed to disk before a client goes on."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Ack(NamedTuple):
    """One acknowledged command, with the client's own times before sending and after the answer (s)."""

    key: str
    principal: str
    status: int
    position: int
    digest: str
    sent: float
    got: float


def digest_of(answer: bytes) -> str:
    return hashlib.sha256(answer).hexdigest()


@dataclass
class Acks:
    """Acknowledgements that come together are flushed together, as a log does it."""

    path: Path
    _waiting: list[tuple[Ack, asyncio.Future[None]]] = field(default_factory=list)
    _writer: asyncio.Task[None] | None = None
    _file: int = -1

    def __post_init__(self) -> None:
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    async def note(self, ack: Ack) -> None:
        """Returns once it is on disk."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((ack, future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await future

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            lines = b"".join(json.dumps(ack).encode() + b"\n" for ack, _ in batch)
            await asyncio.to_thread(self._flush, lines)
            for _, future in batch:
                if not future.done():
                    future.set_result(None)

    def _flush(self, lines: bytes) -> None:
        written = os.write(self._file, lines)
        assert written == len(lines), "the ledger's disk is full"
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)

    def __iter__(self) -> Iterator[Ack]:
        """What the file says, not what this process remembers."""
        with self.path.open() as lines:
            for line in lines:
                yield Ack(*json.loads(line))
