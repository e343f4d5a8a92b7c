"""`fogbook serve all` in a process of its own, over the village's database (the environment names it)."""

from __future__ import annotations

import os
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops._supervise import Child, spawn
from tests.running import ROOT


@contextmanager
def serving(home: Path) -> Iterator[tuple[Child, tuple[str, int]]]:
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    fd = listening.fileno()
    argv = [sys.executable, "-m", "ops.cli", "serve", "all", "--fd", str(fd), "--home", str(home)]
    child = spawn(argv, log=home / "log", env=dict(os.environ), cwd=ROOT, keep=(fd,))
    address = listening.getsockname()[:2]
    try:
        # It waits in the backlog until the server is there.
        with urllib.request.urlopen("http://{}:{}/healthz".format(*address), timeout=120) as answer:
            assert answer.status == 200
        yield child, address
    finally:
        child.stop(20)
        listening.close()
