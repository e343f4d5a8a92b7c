"""PostgreSQL: made whole or not at all, safe settings, recovery after any crash."""

import contextlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg

from ops._supervise import LINUX, Child, run, spawn
from ops.servers._errors import ServersFailed, because
from ops.servers._home import Passwords, User, flush_folder, make_folder, own
from ops.servers._programs import COMMAND_S, ENVIRONMENT, Install
from ops.servers._server import LOOPBACK, Server

_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    # Named although they are defaults: what stands on the command line, ALTER SYSTEM cannot undo.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
}

# The role `fogbook` owns nothing; what it may do, the migrations grant.
_CREATE = [
    "CREATE ROLE fogbook LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE",
    "CREATE DATABASE fogbook",
    "REVOKE ALL ON DATABASE fogbook FROM PUBLIC",
    "GRANT CONNECT ON DATABASE fogbook TO fogbook",
]


def _set_passwords(passwords: Passwords) -> list[str]:
    return [
        f"ALTER ROLE postgres PASSWORD '{passwords.postgres}'",
        f"ALTER ROLE fogbook PASSWORD '{passwords.fogbook}'",
    ]


class Postgres(Server):
    name = "postgres"
    title = "PostgreSQL"
    # SIGINT ends sessions and then stops in order; SIGQUIT stops at once, and the next start recovers.
    stop_signal = signal.SIGINT
    insist_signal = signal.SIGQUIT
    process_names = frozenset({"postgres"})

    def __init__(
        self,
        home: Path,
        install: Install,
        user: User | None,
        port: int | None,
        wait_s: float,
        settings: dict[str, str],
    ) -> None:
        super().__init__(home, home / f"postgres-{install.major}", user, port, wait_s)
        self.install = install
        self.settings = settings

    def url(self, role: str, password: str) -> str:
        return f"postgresql://{role}:{password}@{LOOPBACK}:{self.port}/fogbook"

    def spawn(self) -> Child:
        settings = {
            **_SETTINGS,
            "wal_compression": self.install.wal_compression,
            **self.settings,
            "port": str(self.port),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self._name_of(self.folder) as (data, keep):
            return spawn(
                [str(self.install.bin / "postgres"), "-D", data, *options],
                env=ENVIRONMENT,
                cwd=Path("/"),
                log=self.log,
                user=self.user,
                stop_signal=self.stop_signal,
                keep=keep,
            )

    def is_ready(self) -> bool:
        # What pg_ctl does: connecting instead would fill the log with refusals.
        assert self.child is not None
        try:
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(self.child.pid) and lines[7].strip() == "ready"

    def end_leftovers(self) -> None:
        super().end_leftovers()
        # No server runs here, but the pid that the last one left behind may belong to another program by now,
        # which makes PostgreSQL refuse to start. It ignores the pid of its own parent, which is us, and still
        # looks whether a backend of the last server lives. Removing the file would switch that off.
        if not LINUX:
            return
        try:
            # The folder is the servers' user's: as root we follow no link from there.
            descriptor = os.open(self.folder / "postmaster.pid", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        with os.fdopen(descriptor, "r+") as stale:
            _, _, rest = stale.read().partition("\n")
            stale.seek(0)
            stale.write(f"{os.getpid()}\n{rest}")
            stale.truncate()

    def initialise(self, passwords: Passwords, *, known: bool, sync: bool) -> None:
        """Make the database, whole or not at all; tell an old one the passwords that it does not know."""
        new = self.folder.with_name(f"{self.folder.name}.unfinished")
        self._discard(new)
        if self.folder.exists():
            own(self.folder, self.user)
            if not known:
                self.end_leftovers()
                self._single_user(self.folder, _set_passwords(passwords), sync=True)
            return
        try:
            make_folder(new, self.user)
            self._initdb(new, sync=sync)
            self._single_user(new, _CREATE + _set_passwords(passwords), sync=sync)
            os.rename(new, self.folder)
            flush_folder(self.home)
        except BaseException:
            self._discard(new)
            raise

    def check_password(self, passwords: Passwords) -> None:
        url = self.url("fogbook", passwords.fogbook)
        try:
            psycopg.connect(url, sslmode="disable", gssencmode="disable", connect_timeout=30).close()
        except psycopg.OperationalError as error:
            said = " ".join(str(error).split())
            cure = f"remove {self.home / 'servers.json'} to set new passwords"
            raise ServersFailed(f"PostgreSQL runs but refuses its password ({said}): {cure}.") from None

    def _discard(self, folder: Path) -> None:
        # An initdb that was interrupted may have left a process that still writes there.
        self.end_processes(folder)
        shutil.rmtree(folder, ignore_errors=True)

    def _initdb(self, folder: Path, *, sync: bool) -> None:
        # Text sorts by code point everywhere; the built-in provider needs no locale of the machine for it.
        locale = (
            ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            if self.install.major >= 17
            else ["--locale=C.UTF-8", "--lc-collate=C"]
        )
        with tempfile.TemporaryFile(dir=self.home) as password, self._name_of(folder) as (data, keep):
            # A password has to be there from the start; nobody ever learns this one.
            password.write(secrets.token_urlsafe(32).encode() + b"\n")
            password.seek(0)
            if self.user is not None:
                os.fchown(password.fileno(), *self.user)
            code, said = run(
                [
                    *(str(self.install.bin / "initdb"), "-D", data, "--username=postgres"),
                    *("--auth=scram-sha-256", "--pwfile=/dev/stdin", "--encoding=UTF8", "--data-checksums"),
                    *locale,
                    *([] if sync else ["--no-sync"]),
                ],
                env=ENVIRONMENT,
                cwd=Path("/"),
                user=self.user,
                stdin=password,
                keep=keep,
                timeout_s=COMMAND_S,
            )
        if code != 0:
            raise ServersFailed(f"A database could not be made in {self.home}{because(said, self.home)}.")

    def _single_user(self, folder: Path, statements: list[str], *, sync: bool) -> None:
        """Run SQL on a server without a network; nobody can come in between."""
        # A failed statement is not repeated in the error message: it may hold a password.
        settings = ["exit_on_error=on", "log_min_error_statement=panic", f"fsync={'on' if sync else 'off'}"]
        options = [part for setting in settings for part in ("-c", setting)]
        with self._name_of(folder) as (data, keep):
            code, said = run(
                [str(self.install.bin / "postgres"), "--single", "-D", data, *options, "postgres"],
                env=ENVIRONMENT,
                cwd=Path("/"),
                user=self.user,
                stdin="".join(f"{statement}\n" for statement in statements).encode(),
                keep=keep,
                timeout_s=COMMAND_S,
            )
        if code != 0:
            raise ServersFailed(f"{folder} could not be prepared{because(said, self.home)}.")

    @contextlib.contextmanager
    def _name_of(self, folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
        """What PostgreSQL shall call the folder, and the descriptors which that takes.

        Root's user may not be able to walk there; a descriptor that root opened leads there all the same.
        (/proc/self/cwd would do as well, but PostgreSQL 15 changes directory to find itself.)
        """
        if self.user is None:
            yield str(folder), ()
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{descriptor}", (descriptor,)
        finally:
            os.close(descriptor)
