"""What production refuses to start with, and what it warns of."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from ops.access import create_key
from ops.production import TooWeak, check_production
from ops.settings import Settings
from tests.conftest import Database
from tests.logs import captured_logs

STRONG = "vT2nKpL4wZq8rB6xC1mD9sF3hJ5gY7aE"


def settings(database: Database, pepper: str = STRONG, url: str = "", redis_url: str = "") -> Settings:
    return Settings(DATABASE_URL=url or database.url, REDIS_URL=redis_url, pepper=SecretStr(pepper))


@pytest.mark.parametrize("pepper", ["", "short", "x" * 40, "abcabcabcabcabcabcabcabcabcabcabcabc"])
def test_a_pepper_that_can_be_guessed_is_refused_and_not_said_back(database: Database, pepper: str) -> None:
    with pytest.raises(TooWeak, match="FOGBOOK_PEPPER") as error:
        check_production(settings(database, pepper))
    assert not pepper or pepper not in str(error.value)


def test_whoever_could_rewrite_history_is_refused(database: Database) -> None:
    with pytest.raises(TooWeak, match="DATABASE_URL"):
        check_production(settings(database, url=database.superuser_url))


def test_a_valkey_elsewhere_needs_a_password(database: Database) -> None:
    with pytest.raises(TooWeak, match="REDIS_URL"):
        check_production(settings(database, redis_url="redis://valkey.example:6379"))
    check_production(settings(database, redis_url="redis://fogbook:secret@valkey.example:6379"))
    check_production(settings(database, redis_url="redis://127.0.0.1:6379"))


def test_keys_that_may_name_times_are_warned_of_by_their_ids(database: Database) -> None:
    with database.connect() as connection:
        key = create_key(connection, STRONG.encode(), principal="admin", role="operator", scopes=("act-at",))
        create_key(connection, STRONG.encode(), principal="ana", role="participant")
    with captured_logs() as logs:
        check_production(settings(database))
    assert [(entry["event"], entry["keys"]) for entry in logs] == [("keys_may_name_times", [key.id])]


@pytest.mark.parametrize("rate", ["0/5", "5", "5/0", "many", "-1/5", "5/5/5", "5/5\n"])
def test_a_rate_that_is_none_is_refused_by_name(rate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOGBOOK_RATE_COMMANDS", rate)
    with pytest.raises(ValidationError, match="rate_commands"):
        Settings()
