"""What both servers have in common: a port, a folder to work in, and a child process."""

import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from ops._supervise import Child, working_in
from ops.servers._errors import ServersFailed, because
from ops.servers._home import User

LOOPBACK = "127.0.0.1"
# Below the range of outgoing connections: a client that keeps calling a stopped server at a port of that
# range can end up connected to itself, and then the server finds its port taken.
_PORTS = range(15_000, 32_000)
_PORT_ATTEMPTS = 20
_STOP_S = 20.0
_POLL_S = 0.01
_LOG_LIMIT_BYTES = 16 * 2**20


class Server:
    """One supervised server: a port, a folder to work in, and a child process."""

    name: ClassVar[str]
    title: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    insist_signal: ClassVar[signal.Signals] = signal.SIGKILL
    # What its processes are called, to recognise those of a launcher that is no more.
    process_names: ClassVar[frozenset[str]]

    def __init__(self, home: Path, folder: Path, user: User | None, port: int | None, wait_s: float) -> None:
        self.home = home
        self.folder = folder
        self.log = home / "log" / f"{self.name}.log"
        self.user = user
        self.asked_port = port
        self.port = port or 0
        self.wait_s = wait_s
        self.child: Child | None = None

    def spawn(self) -> Child:
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        if self.child is not None and self.child.poll() is None:
            return
        self.end_leftovers()
        for _ in range(_PORT_ATTEMPTS):
            self.port = self.asked_port or random.choice(_PORTS)  # noqa: S311 - a port is no secret
            why = _why_not_bindable(self.port)
            if why is None and self._launch():
                # Connections of clients outlive a restart, so the port does as well.
                self.asked_port = self.port
                return
            if self.asked_port:
                why = why or "Address already in use"
                raise ServersFailed(f"{self.title} cannot have port {self.port} on {LOOPBACK}: {why}.")
        raise ServersFailed(f"{self.title} found no free port on {LOOPBACK} in {_PORT_ATTEMPTS} attempts.")

    def stop(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.child.stop(_STOP_S, then=self.insist_signal)

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()

    def end_leftovers(self) -> None:
        """End what a dead launcher left behind: we hold the home's lock, so nobody else needs it.

        It has been told to stop when its launcher died; here it gets the time to, and then no more.
        """
        self.end_processes(self.folder)

    def end_processes(self, folder: Path) -> None:
        for number in (self.stop_signal, self.insist_signal, signal.SIGKILL):
            pids = working_in(folder, self.process_names)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if not pids or _wait_for(lambda: not working_in(folder, self.process_names), _STOP_S / 2):
                return
        raise ServersFailed(f"{self.title} of an earlier run (pids {pids}) in {folder} cannot be ended.")

    def _launch(self) -> bool:
        """Start it and wait until it is ready; False if its port was taken by then."""
        _rotate(self.log)
        begin = self.log.stat().st_size if self.log.exists() else 0
        self.child = child = self.spawn()
        in_time = _wait_for(lambda: child.poll() is not None or self.is_ready(), self.wait_s)
        ended = child.poll() is not None
        if in_time and not ended:
            return True
        self.stop()
        said = _said_since(self.log, begin)
        if "Address already in use" in said:
            return False
        if not ended:
            raise ServersFailed(f"{self.title} was not ready after {self.wait_s:g} s (see {self.log}).")
        raise ServersFailed(f"{self.title} did not start{because(said, self.home)} (see {self.log}).")


def _why_not_bindable(port: int) -> str | None:
    with socket.socket() as probe:
        # As the servers do: connections of a server that is gone do not hold its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OverflowError:
            return "there is no such port"
        except OSError as error:
            return error.strerror or str(error)
    return None


def _wait_for(met: Callable[[], bool], timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while not met():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
    return True


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))


def _said_since(log: Path, begin: int) -> str:
    with log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - 65_536))
        return file.read().decode(errors="replace")
