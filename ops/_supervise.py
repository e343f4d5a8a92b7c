"""Child processes that never outlive us, whatever becomes of us.

Linux signals a child when its parent dies (PR_SET_PDEATHSIG), on conditions that are easy to miss:
- "parent" is the *thread* that started the child, so one thread that never ends starts them all;
- a change of user clears the request, so it is made after that change;
- a parent that died before the request is never noticed, so the child looks once more afterwards.

All of this happens in a small Python program that then becomes the command. (A `preexec_fn` would run Python
between fork and exec, where a lock that another thread holds is held for ever.) Other systems than Linux have
no such signal: there, a child survives a parent that was killed with SIGKILL.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO

LINUX = sys.platform == "linux"
_UNUSUAL_STOP_S = 10.0

_SHIM = """
import ctypes, os, signal, sys
parent, death, uid, gid = map(int, sys.argv[1:5])
command = sys.argv[5:]
try:
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, death)
        if os.getppid() != parent:
            os._exit(125)
    # A background job of a shell ignores SIGINT, and Python ignores SIGPIPE; the command shall do neither.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # From here on nothing can be imported: the new user may not be able to read the standard library.
    os.execv(command[0], command)
except OSError as error:
    os.write(2, os.fsencode(f"cannot run {command[0]}: {error.strerror}\\n"))
    os._exit(126)
"""


@dataclass(slots=True)
class Child:
    """A process that stops when it is told to, and when we die."""

    _process: subprocess.Popen[bytes]
    stop_signal: signal.Signals
    log: Path

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, or None while it runs (minus the signal's number if one killed it)."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        # Popen reaps before it signals, so this never reaches a stranger that got the same pid.
        self._process.send_signal(number)

    def wait(self, timeout_s: float) -> int | None:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, timeout_s: float, *, then: signal.Signals = signal.SIGKILL) -> int:
        """Ask it to stop; after `timeout_s` insist with `then`, and at last with SIGKILL."""
        for number, patience_s in ((self.stop_signal, timeout_s), (then, _UNUSUAL_STOP_S)):
            self.send(number)
            code = self.wait(patience_s)
            if code is not None:
                return code
        return self.kill()

    def kill(self) -> int:
        self.send(signal.SIGKILL)
        return self._process.wait()


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    stop_signal: signal.Signals = signal.SIGTERM,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: tuple[int, int] | None = None,
    stdin: bytes = b"",
    keep: Sequence[int] = (),
) -> Child:
    """Start `argv` in a session of its own (Ctrl-C is for us to pass on), its output added to `log`.

    `user` is (uid, gid), for root only. `stdin` reaches the child without appearing in any list of processes,
    and has to fit into a pipe. `keep` names descriptors that it inherits under their numbers. Our death sends
    it its stop signal.
    """

    def start() -> Child:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(log, flags, 0o600)
        try:
            process = subprocess.Popen(  # noqa: S603 - the callers' commands are constants of this project
                _shimmed(argv, stop_signal, user),
                stdin=subprocess.PIPE,
                stdout=descriptor,
                stderr=descriptor,
                env=env,
                cwd=cwd,
                pass_fds=keep,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        _feed(process.stdin, stdin)
        return Child(process, stop_signal, log)

    return _starter.do(start)


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: tuple[int, int] | None = None,
    stdin: bytes | IO[bytes] = b"",
    keep: Sequence[int] = (),
) -> tuple[int, str]:
    """Run `argv` to its end under the same conditions; return its exit code and all that it said."""
    try:
        done = subprocess.run(  # noqa: S603 - as in `spawn`
            _shimmed(argv, signal.SIGKILL, user),
            input=stdin if isinstance(stdin, bytes) else None,
            stdin=None if isinstance(stdin, bytes) else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            pass_fds=keep,
            timeout=timeout_s,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return 124, f"{argv[0]} took longer than {timeout_s:g} s"
    return done.returncode, done.stdout.decode(errors="replace")


def working_in(folder: Path, names: frozenset[str]) -> list[int]:
    """The pids of live processes called one of `names` whose working directory is `folder` (Linux only)."""
    if not LINUX:
        return []
    there, found = os.path.realpath(folder), []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            is_there = os.readlink(f"/proc/{entry}/cwd") == there
            if is_there and Path(f"/proc/{entry}/comm").read_text().strip() in names:
                found.append(int(entry))
        except OSError:
            # It ended meanwhile, is a zombie, or belongs to someone whose processes are not ours to see.
            continue
    return found


def _shimmed(argv: Sequence[str], death: signal.Signals, user: tuple[int, int] | None) -> list[str]:
    uid, gid = user or (-1, -1)
    about = [str(number) for number in (os.getpid(), int(death), uid, gid)]
    program = shutil.which(argv[0]) or argv[0]
    return [sys.executable, "-I", "-S", "-c", _SHIM, *about, program, *argv[1:]]


def _feed(pipe: IO[bytes] | None, data: bytes) -> None:
    assert pipe is not None
    try:
        with pipe:
            pipe.write(data)
    except BrokenPipeError:
        # The child is gone already; whoever waits for it learns that from its exit code and its log.
        return


class _Starter:
    """One thread that starts all children and never ends before the process does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._asked: SimpleQueue[tuple[Callable[[], Child], Future[Child]]] = SimpleQueue()

    def do(self, start: Callable[[], Child]) -> Child:
        with self._lock:
            # After a fork the thread is gone, and is_alive() says so.
            if self._thread is None or not self._thread.is_alive():
                self._asked = SimpleQueue()
                self._thread = threading.Thread(
                    target=self._serve, args=(self._asked,), name="starter", daemon=True
                )
                self._thread.start()
        future: Future[Child] = Future()
        self._asked.put((start, future))
        return future.result()

    @staticmethod
    def _serve(asked: "SimpleQueue[tuple[Callable[[], Child], Future[Child]]]") -> None:
        while True:
            start, future = asked.get()
            try:
                future.set_result(start())
            except BaseException as error:
                future.set_exception(error)
            # Keep no reference: a child that its owner dropped must not live on in this frame.
            del start, future


_starter = _Starter()
