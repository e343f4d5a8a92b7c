"""A whole system of children of our own, every link of it through a proxy.

Links: client-api, api-postgres, api-valkey, worker-postgres, worker-valkey, worker-api; a second API, which takes
requests from the same socket, has api2-postgres and api2-valkey. What dies is started again by a thread of the world,
unless it is to stay away.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis

from ops._supervise import Child, spawn
from ops.keys import keep_keys
from ops.migrate import migrate
from ops.pool import connect
from ops.servers import Servers, ServersFailed, start_servers
from ops.zones import ensure_zone
from tests.faults.proxy import HOST, Postgres, Proxy

ROOT = Path(__file__).parents[2]
LOOK_EVERY_S = 0.02
START_WITHIN_S = 60.0
SERVERS = ("postgres", "valkey")


@dataclass
class Process:
    """One of our children, and what it takes to start it again."""

    name: str
    argv: list[str]
    env: dict[str, str]
    log: Path
    controls: Path
    keep: tuple[int, ...] = ()
    child: Child | None = None
    away: bool = False
    started_at: float = 0.0
    tree: Path = ROOT
    """Where its code is."""

    @property
    def runs(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def start(self) -> None:
        self.child = spawn(self.argv, log=self.log, env=self.env, cwd=self.tree, keep=self.keep)
        self.started_at = time.monotonic()

    def send(self, number: signal.Signals) -> bool:
        if self.child is None or self.child.poll() is not None:
            return False
        self.child.send(number)
        return True

    def control(self, name: str, content: str) -> None:
        """Write one of the files that `tests.faults.child` follows; without content, remove it."""
        path = self.controls / name
        if content:
            (self.controls / f".{name}").write_text(content)
            (self.controls / f".{name}").rename(path)
        else:
            path.unlink(missing_ok=True)


@dataclass
class World:
    home: Path
    servers: Servers
    links: dict[str, Proxy]
    processes: dict[str, Process]
    admin_key: str
    pepper: bytes
    listening: socket.socket
    faults: Counter[str] = field(default_factory=Counter)
    away: set[str] = field(default_factory=set)
    """Servers that are not to be started again."""
    errors: list[str] = field(default_factory=list)
    _ending: threading.Event = field(default_factory=threading.Event)
    _minder: threading.Thread | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    # Who and where

    @property
    def apis(self) -> list[str]:
        return [name for name in self.processes if name.startswith("api")]

    @property
    def workers(self) -> list[str]:
        return [name for name in self.processes if name.startswith("worker")]

    @property
    def address(self) -> tuple[str, int]:
        """Where clients call, through their link."""
        return HOST, self.links["client-api"].port

    def all_serve_for(self, seconds: float) -> bool:
        """Whether no API was started within the last so many seconds."""
        return all(time.monotonic() - self.processes[name].started_at > seconds for name in self.apis)

    def headers(self, by: str = "") -> dict[str, str]:
        return {"authorization": f"Bearer {self.admin_key}"} | ({"fogbook-act-as": by} if by else {})

    def connect(self, bounded: bool = False) -> psycopg.Connection[Any]:
        """Past the proxies."""
        return connect(self.servers.database_url, "fogbook tests", bounded=bounded)

    def superuser(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.servers.superuser_url, autocommit=True, connect_timeout=5)

    def valkey(self) -> redis.Redis:
        return redis.Redis.from_url(self.servers.valkey_admin_url, socket_timeout=5)

    # Faults

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a process or server as a crash would; it is started again by and by."""
        if name in SERVERS:
            with self._lock:
                self.servers.kill(name)
            hit = True
        else:
            hit = self.processes[name].send(number)
        if hit:
            self.faults[f"{name.rstrip('0123456789')} killed"] += 1

    def restart_postgres(self) -> None:
        """In order, as an administrator does it."""
        with self._lock:
            self.servers.restart_postgres()
        self.faults["postgres restarted"] += 1

    def kill_at_once(self, name: str) -> None:
        """For traps: only the signal, without waiting for the end."""
        if name in SERVERS:
            with contextlib.suppress(KeyError, ProcessLookupError):
                os.kill(self.servers.pids[name], signal.SIGKILL)
        else:
            self.processes[name].send(signal.SIGKILL)
        self.faults[f"{name.rstrip('0123456789')} killed"] += 1

    def pause(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while; a blocking wait."""
        process = self.processes[name]
        if process.send(signal.SIGSTOP):
            self.faults[f"{name.rstrip('0123456789')} paused"] += 1
            time.sleep(seconds)
            process.send(signal.SIGCONT)

    def keep_away(self, *names: str) -> None:
        with self._lock:
            for name in names:
                if name in SERVERS:
                    self.away.add(name)
                else:
                    self.processes[name].away = True
                self.kill(name)

    def bring_back(self, *names: str) -> None:
        with self._lock:
            for name in names:
                if name in SERVERS:
                    self.away.discard(name)
                else:
                    self.processes[name].away = False
        self.wait_running(*names)

    def set_clock(self, wrong_by_s: float, *names: str) -> None:
        for name in names:
            self.processes[name].control("clock", str(wrong_by_s))
        self.faults["clock jumps"] += len(names)

    def heal(self) -> None:
        """Nothing is broken any more; what has died is back."""
        for proxy in self.links.values():
            proxy.heal()
        self.bring_back(*SERVERS, *self.processes)
        for process in self.processes.values():
            process.control("clock", "")

    def wait_running(self, *names: str) -> None:
        end = time.monotonic() + START_WITHIN_S
        while not all(n in self.servers.pids if n in SERVERS else self.processes[n].runs for n in names):
            assert time.monotonic() < end, f"{names} do not start: {self.errors[-3:]}"
            time.sleep(LOOK_EVERY_S)

    def wait_serving(self) -> None:
        """Until the API answers: at its start a connection waits, and that is not what is measured here."""
        end = time.monotonic() + START_WITHIN_S
        while True:
            connection = http.client.HTTPConnection(*self.address, timeout=START_WITHIN_S)
            try:
                connection.request("GET", "/healthz")
                if connection.getresponse().status == 200:
                    return
            except (OSError, http.client.HTTPException):
                assert time.monotonic() < end, "the API does not start"
                time.sleep(LOOK_EVERY_S)
            finally:
                connection.close()

    # Life

    def begin(self) -> None:
        for process in self.processes.values():
            process.start()
        self.wait_serving()
        self._minder = threading.Thread(target=self._mind, name="minder", daemon=True)
        self._minder.start()

    def end(self) -> None:
        self._ending.set()
        if self._minder is not None:
            self._minder.join(START_WITHIN_S)
        for proxy in self.links.values():
            proxy.heal()
        for process in self.processes.values():
            if process.child is not None:
                process.send(signal.SIGCONT)
                process.child.stop(8.0)
        for proxy in self.links.values():
            proxy.close()
        self.listening.close()
        self.servers.stop()

    def _mind(self) -> None:
        """Start again what has died. Traps kill from other threads, poison from within."""
        while not self._ending.wait(LOOK_EVERY_S):
            with self._lock:
                for process in self.processes.values():
                    if not process.runs and not process.away:
                        process.start()
                for name in SERVERS:
                    if name not in self.servers.pids and name not in self.away:
                        try:
                            self.servers.start(name)
                        except ServersFailed as error:
                            self.errors.append(str(error))


def _through(url: str, proxy: Proxy) -> str:
    """The same URL, by way of a proxy."""
    parts = urlsplit(url)
    netloc = f"{parts.netloc.rpartition('@')[0]}@{HOST}:{proxy.port}"
    return urlunsplit(parts._replace(netloc=netloc))


def _port_of(url: str) -> tuple[str, int]:
    port = urlsplit(url).port
    assert port is not None
    return HOST, port


@contextlib.contextmanager
def world(
    home: Path,
    *,
    apis: int = 1,
    workers: int = 1,
    settings: dict[str, str] | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[World]:
    """A running system; `settings` are PostgreSQL's, `env` goes to API and workers."""
    with contextlib.ExitStack() as undo:
        servers = undo.enter_context(start_servers(home, throwaway=True, postgres_settings=settings or {}))
        migrate(servers.superuser_url)
        ensure_zone(servers.database_url, "main")
        pepper = secrets.token_urlsafe(24)
        with connect(servers.database_url, "fogbook tests") as connection:
            keys = keep_keys(connection, home, pepper.encode())
        listening = socket.create_server((HOST, 0), backlog=512)
        made = _links(servers, listening.getsockname()[:2], apis)
        built = World(home, servers, made, {}, keys["admin"], pepper.encode(), listening)
        undo.callback(built.end)
        outside = ("FOGBOOK_", "DATABASE_", "REDIS_")
        common = {k: v for k, v in os.environ.items() if not k.startswith(outside)} | {
            "FOGBOOK_PEPPER": pepper,
            "FOGBOOK_API_URL": f"http://{HOST}:{made['worker-api'].port}",
            "FOGBOOK_WORKER_KEY": keys["worker"],
            **(env or {}),
        }
        for folder in ("subjects", "controls"):
            (home / folder).mkdir(mode=0o700, exist_ok=True)
        fd = listening.fileno()
        for name in _apis(apis):
            _add(built, name, ["serve", "all", "--fd", str(fd)], common, keep=(fd,))
        for number in range(1, workers + 1):
            _add(built, f"worker{number}", ["work"], common)
        built.begin()
        yield built


def _apis(apis: int) -> list[str]:
    return ["api", *(f"api{number}" for number in range(2, apis + 1))]


def _links(servers: Servers, api: tuple[str, int], apis: int) -> dict[str, Proxy]:
    links = {}
    for side in (*_apis(apis), "worker"):
        name = f"{side}-postgres"
        links[name] = Proxy(name, lambda: _port_of(servers.database_url), Postgres)
        name = f"{side}-valkey"
        links[name] = Proxy(name, lambda: _port_of(servers.redis_url))
    for name in ("client-api", "worker-api"):
        links[name] = Proxy(name, lambda: api)
    return links


def _add(
    built: World, name: str, arguments: list[str], common: dict[str, str], keep: tuple[int, ...] = ()
) -> None:
    controls = built.home / "controls" / name
    controls.mkdir()
    side = "worker" if name.startswith("worker") else name
    env = common | {
        "DATABASE_URL": _through(built.servers.database_url, built.links[f"{side}-postgres"]),
        "REDIS_URL": _through(built.servers.redis_url, built.links[f"{side}-valkey"]),
    }
    argv = [sys.executable, "-m", "tests.faults.child", str(controls), *arguments]
    argv += ["--home", str(built.home)]
    built.processes[name] = Process(name, argv, env, built.home / "log" / f"{name}.log", controls, keep)
