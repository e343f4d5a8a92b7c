"""Real servers for the whole session, a database of its own for each test that asks for one."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest

from ops.cli import main
from ops.migrate import migrate
from ops.pool import connect, connect_as_signer
from ops.servers import Servers, start_servers

hypothesis.settings.register_profile("fogbook", deadline=None, print_blob=True)
hypothesis.settings.load_profile("fogbook")

PEPPER = "a pepper for tests only"

IN_MEMORY = Path("/dev/shm")
"""Where Linux keeps files in memory."""
FOLDER = "fogbook-tests-"
ROOM_BYTES = 4 * 2**30
"""What all tests together have on disk at once, several times over."""
TEMPLATE = "fogbook_template"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=1, help="seed of the torture harnesses")
    parser.addoption("--only", default="", help="scenarios of the torture harness, with commas in between")
    parser.addoption("--minutes", type=float, default=1.0, help="length of the torture harnesses")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep what tests write in memory, where there is room: there a flush costs nothing.

    Servers run with the very settings that they always have, and a process that is killed loses nothing of it; only a
    machine that loses its power would, which no test brings about.
    """
    if config.option.basetemp is not None or not _has_room(IN_MEMORY):
        return
    for left in IN_MEMORY.glob(f"{FOLDER}*-*"):
        pid = left.name.removeprefix(FOLDER).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():  # Its run was killed and cleared nothing up.
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-", dir=IN_MEMORY))
    config.option.basetemp = str(folder / "all")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


_folders: list[str] = []


def folder_of_the_session() -> str:
    """For who has no `tmp_path`: a new folder, that goes when all tests have ended."""
    _folders.append(tempfile.mkdtemp(prefix=FOLDER))
    return _folders[-1]


def pytest_sessionfinish() -> None:
    """Not at exit: a worker of xdist ends without."""
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)


def _has_room(folder: Path) -> bool:
    try:
        disk = os.statvfs(folder)
        memory = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return False
    free = min(disk.f_bavail * disk.f_frsize, int(memory[1]) * 1024 if memory else 0)
    return os.access(folder, os.W_OK) and free > ROOM_BYTES


@dataclass(frozen=True)
class Database:
    """One test's database; `url` is the unprivileged role's, `superuser_url` may do anything."""

    name: str
    url: str
    superuser_url: str

    def connect(self) -> psycopg.Connection[Any]:
        return connect(self.url, "fogbook tests")

    def signer(self) -> psycopg.Connection[Any]:
        return connect_as_signer(self.url, "fogbook tests")

    def superuser(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.superuser_url, autocommit=True)


def _renamed(url: str, name: str) -> str:
    return psycopg.conninfo.make_conninfo(url, dbname=name)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with start_servers(tmp_path_factory.mktemp("servers") / "fog home", throwaway=True) as started:
        yield started


@pytest.fixture(scope="session")
def _template(servers: Servers) -> str:
    with psycopg.connect(servers.superuser_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    migrate(_renamed(servers.superuser_url, TEMPLATE))
    return TEMPLATE


@pytest.fixture
def redis_url(servers: Servers) -> str:
    return servers.redis_url


_numbers = itertools.count(1)

# What a test may have changed beside rows: then its database is not used again.
SCHEMA = """
SELECT md5(string_agg(each, ' ' ORDER BY each)) FROM (
    SELECT format('%s %s %s %s', c.oid::regclass, c.relkind, c.relacl, c.reloptions) FROM pg_class c
    WHERE c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'read', 'past'))
    UNION ALL SELECT format('%s.%s %s', a.attrelid::regclass, a.attname, a.atttypid) FROM pg_attribute a
    WHERE a.attrelid >= 16384 AND a.attnum > 0
    UNION ALL SELECT format('%s %s', p.proname, md5(p.prosrc)) FROM pg_proc p WHERE p.oid >= 16384
    UNION ALL SELECT format('%s %s', t.tgrelid::regclass, t.tgname) FROM pg_trigger t
    UNION ALL SELECT format('%s %s', n.conrelid::regclass, n.conname) FROM pg_constraint n WHERE n.oid >= 16384
) AS s(each)
"""

# To truncate makes files anew and syncs them, which costs more than to delete a few rows.
EMPTY = """
SELECT string_agg(format(CASE WHEN pg_relation_size(c.oid) > 1000000 THEN 'TRUNCATE %s' ELSE 'DELETE FROM %s' END,
                         c.oid::regclass), '; ')
FROM pg_class c
WHERE c.relkind = 'r' AND c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'read', 'past'))
  AND c.relname <> 'alembic_version' AND pg_relation_size(c.oid) > 0
"""

OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
)


class _Databases:
    """Databases of one session: to empty one is quicker by far than to make one, with its thousand relations."""

    def __init__(self, servers: Servers, template: str) -> None:
        self._servers = servers
        self._template = template
        self._schema = self._ask(template, SCHEMA)
        self._empty: list[str] = []

    def take(self) -> Database:
        if self._empty:
            name = self._empty.pop()
        else:
            name = f"test_{os.getpid()}_{next(_numbers)}"
            with psycopg.connect(self._servers.superuser_url, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        urls = (_renamed(url, name) for url in (self._servers.database_url, self._servers.superuser_url))
        return Database(name, *urls)

    def give_back(self, name: str) -> None:
        """Whoever is still connected is cut off first, so that nobody writes into the next test."""
        with psycopg.connect(self._servers.superuser_url, autocommit=True) as connection:
            while connection.execute(OTHERS, (name,)).fetchall():
                time.sleep(0.005)
        if self._emptied(name):
            self._empty.append(name)
        else:
            with psycopg.connect(self._servers.superuser_url, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _emptied(self, name: str) -> bool:
        try:
            if self._ask(name, SCHEMA) != self._schema:
                return False
            if statements := self._ask(name, EMPTY):
                with psycopg.connect(_renamed(self._servers.superuser_url, name)) as connection:
                    connection.execute("SET synchronous_commit = off")
                    connection.execute(statements)
        except psycopg.Error:
            return False  # Whatever the test did to it, the next one gets another.
        return True

    def _ask(self, name: str, question: str) -> Any:
        with psycopg.connect(_renamed(self._servers.superuser_url, name), autocommit=True) as connection:
            row = connection.execute(question).fetchone()
        return row[0] if row else None


@pytest.fixture(scope="session")
def _databases(servers: Servers, _template: str) -> _Databases:
    return _Databases(servers, _template)


@pytest.fixture
def new_database(_databases: _Databases) -> Iterator[Callable[[], Database]]:
    made: list[str] = []

    def make() -> Database:
        made.append((one := _databases.take()).name)
        return one

    yield make
    for name in made:
        _databases.give_back(name)


@pytest.fixture
def database(new_database: Callable[[], Database]) -> Database:
    return new_database()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "fog home"


# The command line

Fogbook = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fogbook(
    database: Database, home: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Fogbook:
    """Runs a subcommand; gives its exit code, standard output and standard error."""
    monkeypatch.setenv("DATABASE_URL", database.url)
    monkeypatch.setenv("FOGBOOK_MIGRATE_DATABASE_URL", database.superuser_url)
    monkeypatch.setenv("FOGBOOK_PEPPER", PEPPER)
    # Logging belongs to the root of a process, and this one is pytest's.
    monkeypatch.setattr("ops.logging.configure_logging", lambda level: None)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fogbook", *arguments, "--home", str(home)])
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfdbinary.readouterr()
        return int(ended.value.code or 0), out.decode(), err.decode()

    return run
