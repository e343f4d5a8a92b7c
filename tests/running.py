"""A whole Fogbook in a process of its own, started and stopped as a user would; it stops with the test in any case."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from ops._supervise import Child, spawn
from ops.web import App

ROOT = Path(__file__).parents[1]
STOPPED_WITHIN_S = 60.0
_keys = count(1)


@dataclass
class Running:
    home: Path
    process: Child
    url: str
    admin_key: str
    database_url: str
    superuser_url: str
    redis_url: str

    def pids(self) -> dict[str, int]:
        """As of now: children that ended are started again under other pids."""
        pids: dict[str, int] = json.loads((self.home / "run.json").read_text())["pids"]
        return pids

    def headers(self, by: str = "", zone: str = "main") -> dict[str, str]:
        headers = {"authorization": f"Bearer {self.admin_key}", "fogbook-zone": zone}
        return headers | ({"fogbook-act-as": by} if by else {})

    async def ok(self, http: httpx.AsyncClient, path: str, body: Any, by: str = "") -> Any:
        response = await http.post(
            f"{self.url}/commands/{path}",
            headers=self.headers(by) | {"idempotency-key": f"r{next(_keys)}"},
            json=body,
        )
        assert response.status_code == 200, response.text
        return response.json()


@contextmanager
def served(app: App) -> Iterator[str]:
    """The address of an application that a thread of this process serves until the block ends."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def running(home: Path, *arguments: str) -> Iterator[Running]:
    """`fogbook up --empty` until the block ends."""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("FOGBOOK_", "DATABASE_", "REDIS_"))
    }
    said = home.with_name(f"{home.name}.log")
    argv = [sys.executable, "-m", "ops.cli", "up", "--home", str(home), "--port", "0", "--empty", *arguments]
    process = spawn(argv, log=said, stop_signal=signal.SIGINT, env=environment, cwd=ROOT)
    try:
        while not (home / "run.json").exists():
            if process.poll() is not None:
                raise AssertionError(said.read_text())
            time.sleep(0.02)
        found = json.loads((home / "run.json").read_text())
        found.pop("pids")
        yield Running(home, process, **found)
    finally:
        process.stop(STOPPED_WITHIN_S)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(6_000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to pass")


async def kill_at_random(
    up: Running, times: Mapping[str, int], pause: Callable[[], Awaitable[None]]
) -> Counter[str]:
    """kill -9 of each of these processes so many times, with a pause before each.

    All of them side by side: whoever supervises them waits longer after every crash, and none may need another.
    """

    async def again_and_again(name: str) -> None:
        for _ in range(times[name]):
            await pause()
            pid = up.pids()[name]
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: up.pids().get(name, pid) != pid)

    await asyncio.gather(*map(again_and_again, times))
    return Counter(times)
