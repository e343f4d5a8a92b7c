"""`fogbook config`: what is in effect and where it comes from, without a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.effective import MASK, effective, masked
from ops.settings import Settings, SettingsIncomplete

SECRET = "hunter2hunter2hunter2"


def shown() -> dict[str, dict[str, str]]:
    return {row["variable"]: row for row in effective(Settings())}


def test_each_setting_has_its_value_and_its_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("FOGBOOK_LOG_LEVEL=debug\nFOGBOOK_PORT=1\n")
    monkeypatch.setenv("FOGBOOK_PORT", "8499")
    found = shown()
    assert (found["FOGBOOK_PORT"]["value"], found["FOGBOOK_PORT"]["source"]) == ("8499", "environment")
    assert (found["FOGBOOK_LOG_LEVEL"]["value"], found["FOGBOOK_LOG_LEVEL"]["source"]) == ("debug", ".env")
    assert found["FOGBOOK_HOST"]["source"] == "default"
    assert len(found) == len(Settings.model_fields)
    assert found["FOGBOOK_ARCHIVE"]["about"].startswith("Keep every version")


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOGBOOK_PEPPER", SECRET)
    monkeypatch.setenv("FOGBOOK_WORKER_KEY", SECRET)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://app:{SECRET}@db:5432/fog")
    monkeypatch.setenv("FOGBOOK_MIGRATE_DATABASE_URL", f"host=db user=owner password={SECRET}")
    monkeypatch.setenv("REDIS_URL", f"redis://:{SECRET}@cache:6379/0")
    found = shown()
    assert SECRET not in str(found)
    assert found["DATABASE_URL"]["value"] == f"postgresql://app:{MASK}@db:5432/fog"
    assert found["FOGBOOK_PEPPER"]["value"] == MASK
    assert "user=owner" in found["FOGBOOK_MIGRATE_DATABASE_URL"]["value"]


def test_a_connection_string_that_cannot_be_read_is_not_shown() -> None:
    assert masked(f"password={SECRET} what") == MASK


def test_settings_in_files_are_read_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "REDIS_URL", "FOGBOOK_PEPPER"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "database_url").write_text(f"postgresql://fogbook:{SECRET}@db/fogbook\n")
    (folder / "fogbook_pepper").write_text(f"{SECRET}\n")
    (folder / "fogbook_port").write_text("1")
    monkeypatch.setenv("FOGBOOK_SECRETS", str(folder))
    monkeypatch.setenv("FOGBOOK_PORT", "8499")
    found = shown()
    assert Settings().pepper.get_secret_value() == SECRET
    assert found["DATABASE_URL"]["value"] == f"postgresql://fogbook:{MASK}@db/fogbook"
    assert found["FOGBOOK_PEPPER"]["source"] == "file in FOGBOOK_SECRETS"
    assert (found["FOGBOOK_PORT"]["value"], found["FOGBOOK_PORT"]["source"]) == ("8499", "environment")


def test_a_folder_of_settings_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOGBOOK_SECRETS", "/nowhere/at/all")
    with pytest.raises(SettingsIncomplete, match="FOGBOOK_SECRETS"):
        Settings()
