"""Real servers for the whole session, a database of its own for each test that asks for one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest

from ops.migrate import migrate
from ops.pool import connect
from ops.servers import Servers, start_servers

hypothesis.settings.register_profile("fogbook", deadline=None, print_blob=True)
hypothesis.settings.load_profile("fogbook")

PEPPER = "a pepper for tests only"
TEMPLATE = "fogbook_template"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=1, help="seed of the torture harnesses")
    parser.addoption("--minutes", type=float, default=1.0, help="length of the torture harnesses")


@dataclass(frozen=True)
class Database:
    """One test's database; `url` is the unprivileged role's, `superuser_url` may do anything."""

    name: str
    url: str
    superuser_url: str

    def connect(self) -> psycopg.Connection[Any]:
        return connect(self.url, "fogbook tests")

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


@pytest.fixture
def new_database(servers: Servers, _template: str) -> Iterator[Callable[[], Database]]:
    made: list[str] = []

    def make() -> Database:
        name = f"test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(servers.superuser_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {_template}")
        made.append(name)
        return Database(name, _renamed(servers.database_url, name), _renamed(servers.superuser_url, name))

    yield make
    with psycopg.connect(servers.superuser_url, autocommit=True) as connection:
        for name in made:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def database(new_database: Callable[[], Database]) -> Database:
    return new_database()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "fog home"
