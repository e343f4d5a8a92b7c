"""PostgreSQL and Valkey of our own, for a machine that has neither running.

    with start_servers(Path("~/.fogbook")) as servers:
        psycopg.connect(servers.database_url)

All state lies under the home. Both servers listen on 127.0.0.1 only, demand a password that lies in the home
(0600), and stop when this process does, however it dies. One process owns a home at a time.

PostgreSQL refuses to run as root, so root hands both servers to an unprivileged user, in folders that belong
to that user but may lie below folders that are closed to it (a home under /root). Such a folder is opened
by root and handed on as a descriptor (/proc/self/fd/...), so nobody's folder is ever made readable for that.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from ops.servers._errors import ServersFailed, plain_errors
from ops.servers._home import Passwords, load_passwords, lock_home, make_home, save_passwords, server_user
from ops.servers._postgres import Postgres
from ops.servers._programs import find_postgres, find_valkey
from ops.servers._server import LOOPBACK, Server
from ops.servers._valkey import ADMIN, USER, Valkey

__all__ = ["Servers", "ServersFailed", "start_servers"]


class Servers:
    """Both servers of one home, running until `stop` or the end of this process."""

    def __init__(
        self, home: Path, lock: int, passwords: Passwords, postgres: "Postgres", valkey: "Valkey"
    ) -> None:
        self.home = home
        self._lock: int | None = lock
        self._passwords = passwords
        self._postgres = postgres
        self._valkey = valkey
        self._by_name: dict[str, Server] = {"postgres": postgres, "valkey": valkey}

    @property
    def database_url(self) -> str:
        """The database as an unprivileged role that owns nothing."""
        return self._postgres.url("fogbook", self._passwords.fogbook)

    @property
    def superuser_url(self) -> str:
        """The same database for migrations and for tests that do harm."""
        return self._postgres.url("postgres", self._passwords.postgres)

    @property
    def redis_url(self) -> str:
        """Valkey as a user that may do what the broker does."""
        return f"redis://{USER}:{self._passwords.valkey}@{LOOPBACK}:{self._valkey.port}/0"

    @property
    def valkey_admin_url(self) -> str:
        """The same for looking into it, and for tests that do harm."""
        return f"redis://{ADMIN}:{self._passwords.valkey_admin}@{LOOPBACK}:{self._valkey.port}/0"

    @property
    def pids(self) -> dict[str, int]:
        """The pids of those that run."""
        children = {name: server.child for name, server in self._by_name.items()}
        return {name: child.pid for name, child in children.items() if child and child.poll() is None}

    def start(self, name: str) -> None:
        """Start one server again after `kill` or a crash; its port and passwords stay."""
        with plain_errors(self.home):
            self._by_name[name].start()

    def kill(self, name: str) -> None:
        """End one server as a crash would, with SIGKILL."""
        self._by_name[name].kill()

    def restart_postgres(self) -> None:
        """Stop PostgreSQL in order and start it again."""
        self._postgres.stop()
        self.start("postgres")

    def revive(self) -> list[str]:
        """Start again what has died, and say what that was."""
        dead = [name for name in self._by_name if name not in self.pids]
        for name in dead:
            self.start(name)
        return dead

    def stop(self) -> None:
        """Stop both and let go of the home; doing so twice is harmless."""
        try:
            for server in self._by_name.values():
                server.stop()
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_servers(
    home: Path,
    *,
    postgres_port: int | None = None,
    valkey_port: int | None = None,
    postgres_settings: Mapping[str, str] | None = None,
    postgres_bin: Path | None = None,
    run_as: str | None = None,
    throwaway: bool = False,
    wait_s: float = 120.0,
) -> Servers:
    """Start both servers on `home` and return once they accept connections; raises ServersFailed.

    Ports are chosen anew at each start unless they are given. `postgres_bin` is the folder of a certain
    PostgreSQL's programs, `run_as` the user to whom root hands the servers. `throwaway` skips flushing a new
    database to disk; the server itself runs as safely as ever. `wait_s` bounds each server's start, recovery
    after a crash included.
    """
    home = Path(os.path.abspath(home.expanduser()))
    with plain_errors(home), contextlib.ExitStack() as undo:
        make_home(home)
        lock = lock_home(home)
        undo.callback(os.close, lock)
        user = server_user(home, run_as)
        (home / "log").mkdir(mode=0o700, exist_ok=True)
        known = load_passwords(home)
        passwords = known or Passwords.make()
        install = find_postgres(home, user, postgres_bin)
        postgres = Postgres(home, install, user, postgres_port, wait_s, dict(postgres_settings or {}))
        valkey = Valkey(
            home, find_valkey(user), user, valkey_port, wait_s, passwords.valkey, passwords.valkey_admin
        )
        postgres.initialise(passwords, known=known is not None, sync=not throwaway)
        if known is None:
            # Not before the database knows them: whoever dies in between makes new ones next time.
            save_passwords(home, passwords)
        for server in (valkey, postgres):
            undo.callback(server.stop)
            server.start()
        postgres.check_password(passwords)
        undo.pop_all()
    return Servers(home, lock, passwords, postgres, valkey)
