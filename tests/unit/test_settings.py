"""A setting that cannot be used is named, and never quoted: it may hold a password."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from commands._models import command_from
from domain.ledger import OpenWallet
from ops.cli import _wrong_setting
from ops.problems import Problem
from ops.settings import Settings

SECRET = "Zq8vT2nKpL4w"

DATABASES = [
    f"postgresql://ana:%{SECRET}@db/fog",
    f"postgresql://ana:{SECRET}@[db/fog",
    f"host=db password={SECRET} bogus=1",
    f"host='db password={SECRET}",
]
VALKEYS = [
    f"redis://ana:{SECRET}/x@db",
    f"redis://ana:{SECRET}#x@db",
    f"redis://ana:{SECRET}@[db",
    f"http://ana:{SECRET}@db",
    SECRET,
]


@pytest.mark.parametrize("name", ["DATABASE_URL", "FOGBOOK_MIGRATE_DATABASE_URL"])
@pytest.mark.parametrize("url", DATABASES)
def test_a_connection_string_that_is_none_is_refused_by_name(
    name: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, url)
    with pytest.raises(ValidationError) as error:
        Settings()
    said = _wrong_setting(error.value)
    assert said.startswith(f"The setting {name} cannot be used: it is no connection string of PostgreSQL")
    assert SECRET not in said


@pytest.mark.parametrize("url", VALKEYS)
def test_a_url_of_valkey_that_is_none_is_refused_by_name(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(ValidationError) as error:
        Settings()
    said = _wrong_setting(error.value)
    assert said.startswith("The setting REDIS_URL cannot be used: it is no URL of Valkey or Redis")
    assert SECRET not in said


@pytest.mark.parametrize("url", ["redis://db", f"rediss://ana:{SECRET}@db:6380/1", "unix:///run/valkey", ""])
def test_a_url_that_is_one_is_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    monkeypatch.setenv("DATABASE_URL", "host=db password='with a space' dbname=fog")
    assert Settings().redis_url == url


def test_a_secret_in_the_name_of_a_field_is_not_said_back() -> None:
    with pytest.raises(Problem) as error:
        command_from(OpenWallet, {"wallet": "ana", f"redis://ana:{SECRET}@db": 1})
    assert SECRET not in str(vars(error.value))
