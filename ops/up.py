"""`fogbook up`: everything of one home, from nothing to the first request, and until Ctrl-C.

The API listens on a socket that this process opened and keeps: while a crashed API starts again, clients wait
for a moment instead of being refused.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg
import structlog

from ops._supervise import Child, spawn
from ops.home import RUN_FILE, Refused, Run, keep_pepper, write_run
from ops.keys import keep_keys
from ops.migrate import migrate
from ops.pool import connect
from ops.safety import UnsafeDatabase
from ops.servers import Servers, ServersFailed, start_servers
from ops.servers._home import lock_home, make_home
from ops.settings import Settings

DEFAULT_PORT = 8420
BACKLOG = 2048
LOOK_EVERY_S = 0.1
READY_WITHIN_S = 60.0
WORKER_WITHIN_S = 5.0
MOST_BACKOFF_S = 3.0
STEADY_S = 30.0
"""A child that ran for this long has recovered: its next crash is its first again."""
STOP_WITHIN_S = 8.0
MOST_LOG_BYTES = 16 * 1024 * 1024

ZONE_EXISTS = "SELECT 1 FROM heads WHERE zone = 'main' AND position > 0"

BEHIND = """
SELECT count(*) FROM heads h
WHERE NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.zone = h.zone AND c.live AND c.position >= h.position)
"""

log = structlog.get_logger("fogbook.up")


class UpFailed(Refused):
    """It cannot run; the message says why."""


@dataclass(slots=True)
class Supervised:
    """A child that is started again when it ends, after a pause that grows."""

    name: str
    argv: list[str]
    log: Path
    env: dict[str, str]
    keep: tuple[int, ...] = ()
    again: bool = True
    child: Child | None = None
    started_at: float = 0.0
    crashes: int = 0
    next_at: float | None = None

    def start(self) -> None:
        rotate(self.log)
        self.child = spawn(self.argv, log=self.log, env=self.env, keep=self.keep)
        self.started_at = time.monotonic()
        self.next_at = None

    def look(self) -> bool:
        """Start it again when that is due; True when something changed."""
        now = time.monotonic()
        if self.next_at is not None:
            if now < self.next_at:
                return False
            self.start()
            return True
        if self.child is None or (code := self.child.poll()) is None:
            return False
        self.child = None
        if not self.again:
            if code != 0:
                log.warning("child_failed", child=self.name, code=code, log=str(self.log))
            return True
        self.crashes = 1 if now - self.started_at > STEADY_S else self.crashes + 1
        self.next_at = now + min(0.1 * 2 ** (self.crashes - 1), MOST_BACKOFF_S)
        log.warning("child_ended", child=self.name, code=code, log=str(self.log))
        return True

    def stop(self) -> None:
        if self.child is not None:
            self.child.stop(STOP_WITHIN_S)
            self.child = None


@dataclass
class Up:
    """Everything that runs, in the order in which it is stopped."""

    home: Path
    servers: Servers | None
    run: Run
    children: list[Supervised] = field(default_factory=list)

    def pids(self) -> dict[str, int]:
        found = {"up": os.getpid()}
        if self.servers is not None:
            found |= self.servers.pids
        return found | {s.name: s.child.pid for s in self.children if s.child is not None}

    def publish(self) -> None:
        """Tell other commands where everything is."""
        pids = self.pids()
        if pids != self.run.pids:
            self.run = replace(self.run, pids=pids)
            write_run(self.home, self.run)

    def supervise(self) -> None:
        """Keep everything running, until an exception (Ctrl-C) ends it."""
        pause_until = 0.0
        while True:
            for supervised in self.children:
                supervised.look()
            if self.servers is not None and time.monotonic() > pause_until:
                try:
                    for name in self.servers.revive():
                        log.warning("server_revived", server=name)
                except ServersFailed as error:
                    log.error("server_does_not_start", error=str(error))
                    pause_until = time.monotonic() + MOST_BACKOFF_S
            self.publish()
            time.sleep(LOOK_EVERY_S)

    def stop(self) -> None:
        for supervised in self.children:
            supervised.stop()


def up(
    home: Path, port: int | None, *, empty: bool, say: Callable[[str], None], tell: Callable[[Run], None]
) -> None:
    """Run until SIGINT or SIGTERM. `say` gets what is going on, `tell` the run once it is ready.

    Raises UpFailed and ServersFailed.
    """
    settings = Settings()
    _let_signals_interrupt()
    # To be told to stop is no failure, not even before everything has started.
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as undo:
        make_home(home)
        os.close(lock_home(home))  # Say at once that the home is in use, before a port is looked for.
        (home / "log").mkdir(mode=0o700, exist_ok=True)
        if settings.subject_keys is None:
            (home / "subjects").mkdir(mode=0o700, exist_ok=True)
        if settings.signed is None:
            (home / "signed").mkdir(mode=0o700, exist_ok=True)
        listening = undo.enter_context(_listen(settings.host, port, say))
        servers = _servers(settings, home, undo, say)
        database_url = servers.database_url if servers else settings.database_url
        superuser_url = servers.superuser_url if servers else settings.migrate_database_url or database_url
        redis_url = servers.redis_url if servers else settings.redis_url
        pepper = keep_pepper(home)
        try:
            migrate(superuser_url)
        except psycopg.OperationalError as error:
            raise UpFailed(f"The database cannot be migrated: {_one_line(error)}.") from error
        except UnsafeDatabase as error:
            raise UpFailed(str(error)) from error
        new = _first_zone(database_url)
        with connect(database_url, "fogbook up") as connection:
            keys = keep_keys(connection, home, pepper.encode())
        host, chosen = listening.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{chosen}"
        running = Up(home, servers, Run(url, keys["admin"], database_url, superuser_url, redis_url))
        env = _environment(database_url, redis_url, pepper, url, keys["worker"])
        _start_children(running, listening, env, undo)
        _wait_until_ready(running, host, chosen)
        _start_archivist(running, env)  # Nobody waits for it, so it does not delay the API's start.
        _wait_for_workers(database_url)
        undo.callback((home / RUN_FILE).unlink, missing_ok=True)
        running.publish()
        if new and not empty:
            _seed(running, env)
        tell(running.run)
        running.supervise()


# Starting


def _let_signals_interrupt() -> None:
    """SIGTERM means what Ctrl-C means; while everything is being stopped, neither disturbs."""

    def interrupt(number: int, frame: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def _listen(host: str, port: int | None, say: Callable[[str], None]) -> socket.socket:
    """The socket of the API: on the port that was asked for, or else on the default one or any that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in [port] if port is not None else [DEFAULT_PORT, 0]:
        listening = socket.socket(family)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, wanted))
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            if port is not None:
                raise UpFailed(f"Port {port} of {host} cannot be used: {error.strerror}.") from error
            continue
        if port is None and wanted == 0:
            say(f"Port {DEFAULT_PORT} is taken; using {listening.getsockname()[1]}.")
        return listening
    raise UpFailed(f"No port of {host} can be used.")


def _servers(
    settings: Settings, home: Path, undo: contextlib.ExitStack, say: Callable[[str], None]
) -> Servers | None:
    """The servers that the environment names, or else embedded ones."""
    if not settings.database_url and not settings.redis_url:
        say(f"Starting PostgreSQL and Valkey in {home}.")
        return undo.enter_context(start_servers(home))
    if not settings.database_url or not settings.redis_url:
        raise UpFailed("Set both DATABASE_URL and REDIS_URL, or neither to use embedded servers.")
    undo.callback(os.close, lock_home(home))
    _check_database(settings.database_url)
    _check_redis(settings.redis_url)
    return None


def _check_database(url: str) -> None:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.Error as error:
        raise UpFailed(f"The database at DATABASE_URL cannot be reached: {_one_line(error)}.") from error


def _check_redis(url: str) -> None:
    import redis

    try:
        with redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        raise UpFailed(f"Valkey or Redis at REDIS_URL cannot be reached: {_one_line(error)}.") from error


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0].rstrip(".")


def _first_zone(database_url: str) -> bool:
    """Make the zone `main`; True when that was new. The write side is imported for the first start only."""
    with connect(database_url, "fogbook up") as connection:
        if connection.execute(ZONE_EXISTS).fetchone():
            return False
    from ops.zones import ensure_zone

    return ensure_zone(database_url, "main")


def _environment(database_url: str, redis_url: str, pepper: str, url: str, worker_key: str) -> dict[str, str]:
    """What children know: never the owner's URL of the database."""
    env = {name: value for name, value in os.environ.items() if name != "FOGBOOK_MIGRATE_DATABASE_URL"}
    return env | {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "FOGBOOK_PEPPER": pepper,
        "FOGBOOK_API_URL": url,
        "FOGBOOK_WORKER_KEY": worker_key,
    }


def _start_children(
    running: Up, listening: socket.socket, env: dict[str, str], undo: contextlib.ExitStack
) -> None:
    log_folder, home = running.home / "log", str(running.home)
    listener = listening.fileno()
    api = [*_cli("serve", "all", "--home", home), "--fd", str(listener)]
    running.children += [
        Supervised("api", api, log_folder / "api.log", env, keep=(listener,)),
        Supervised("worker", _cli("work", "--home", home), log_folder / "worker.log", env),
    ]
    undo.callback(running.stop)
    # Whoever connects from here on is refused rather than left waiting: the API stops first.
    undo.callback(listening.close)
    for supervised in running.children:
        supervised.start()


def _start_archivist(running: Up, env: dict[str, str]) -> None:
    argv = _cli("archive", "--home", str(running.home))
    archivist = Supervised("archivist", argv, running.home / "log" / "archivist.log", env)
    running.children.append(archivist)
    archivist.start()


def _cli(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ops.cli", *arguments]


def rotate(path: Path) -> None:
    """Keep a child's log bounded: at most the current file and the one before it."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > MOST_LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))


def _wait_until_ready(running: Up, host: str, port: int) -> None:
    """Until /healthz answers. Raises UpFailed when the API keeps ending, or takes too long."""
    api, end = running.children[0], time.monotonic() + READY_WITHIN_S
    while time.monotonic() < end and api.crashes < 3:
        api.look()
        connection = http.client.HTTPConnection(host, port, timeout=1)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            time.sleep(LOOK_EVERY_S)
        finally:
            connection.close()
    raise UpFailed(f"The API does not start; {api.log} says why.")


def _wait_for_workers(database_url: str) -> None:
    """A moment for the first fold, so that the first query finds its rows; queries can wait for it too."""
    end = time.monotonic() + WORKER_WITHIN_S
    with connect(database_url, "fogbook up") as connection:
        while time.monotonic() < end:
            row = connection.execute(BEHIND).fetchone()
            if row is not None and row[0] == 0:
                return
            time.sleep(LOOK_EVERY_S)


def _seed(running: Up, env: dict[str, str]) -> None:
    """A small village, so that the first look finds something living. Its failure is nobody else's."""
    village = ("--days", "2", "--devices", "20", "--seed", "1", "--zone", "village")
    argv = _cli("simulate", *village, "--home", str(running.home))
    env = env | {"FOGBOOK_ADMIN_KEY": running.run.admin_key}
    seeding = Supervised("simulate", argv, running.home / "log" / "simulate.log", env, again=False)
    running.children.insert(0, seeding)
    seeding.start()
