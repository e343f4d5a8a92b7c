"""From one home to another, as an operator would: what a backup brings back, and what it must not bring back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx

from tests.integration.test_up import Started, eventually, fogbook, started

CANARY = "Anastasia Quetzalcoatl of 4 Well Lane"


def send(up: Started, path: str, body: Any, by: str, key: str) -> Any:
    headers = {"authorization": f"Bearer {up.run['admin_key']}", "fogbook-act-as": by, "idempotency-key": key}
    answer = httpx.post(f"{up.run['url']}/commands/{path}", headers=headers, json=body, timeout=30)
    return answer.json() | {"status": answer.status_code}


def ask(up: Started, query: str, position: int) -> Any:
    headers = {"authorization": f"Bearer {up.run['admin_key']}"}
    answer = httpx.get(
        f"{up.run['url']}/queries/{query}&min_position={position}", headers=headers, timeout=30
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def ok(*arguments: str) -> Any:
    code, out = fogbook(*arguments, "--json")
    assert code == 0, out
    return json.loads(out)


def test_who_was_erased_after_the_backup_stays_erased_and_what_was_signed_is_not_signed_otherwise(
    tmp_path: Path,
) -> None:
    old, new, folder = tmp_path / "old home", tmp_path / "new home", tmp_path / "a backup"
    profile = {"display_name": CANARY, "contact": "4 Well Lane"}
    with started(old) as up:
        send(up, "principals/set-profile", profile, "ana", "p1")
        named = send(up, "principals/set-profile", profile | {"contact": "9 Elm Road"}, "ben", "p2")
        assert [
            row["display_name"] for row in ask(up, "principals/profile?subject=ana", named["position"])
        ] == [CANARY]
        taken = ok("backup", str(folder), "--home", str(old))
        assert taken["zones"][0] | {"commands": 0} == {
            "zone": "main",
            "position": named["position"],
            "commands": 0,
        }
        erased = send(up, "principals/erase-subject", {"principal": "ana"}, "ana", "e1")
        assert erased["status"] == 200, erased
        ok("checkpoint", "--home", str(old))
        key = up.run["admin_key"]
    for path in folder.iterdir():
        assert CANARY.encode() not in path.read_bytes()

    # The keys of texts, what was signed, and the secret travel by themselves.
    new.mkdir(mode=0o700)
    for name in ("pepper", "subjects", "signed", "keys.json"):
        source = old / name
        shutil.copytree(source, new / name) if source.is_dir() else shutil.copy(source, new / name)
    assert ok("restore", str(folder), "--home", str(new))["verified"]
    code, said = fogbook("restore", str(folder), "--home", str(new))
    assert code == 1
    assert "is not empty (zone main)" in said

    with started(new) as up:
        assert up.run["admin_key"] == key  # API keys are the ones that they were.
        shown = ask(up, "principals/profile?subject=ana", named["position"])
        assert [row["display_name"] for row in shown] == ["[erased]"]
        other = ask(up, "principals/profile?subject=ben", named["position"])
        assert [row["display_name"] for row in other] == [CANARY]
        again = send(up, "principals/set-profile", profile, "ana", "p3")
        assert "subject-erased" in again["type"]
        # The log is shorter than what was signed: nobody signs it before an operator says so.
        code, said = fogbook("checkpoint", "--home", str(new))
        assert code == 1
        assert "signed" in said
        ok("checkpoint", "--begin-anew", "--home", str(new))
        code, said = fogbook("verify", "--home", str(new))
        assert code == 0, said


def test_a_home_of_another_secret_takes_no_backup(tmp_path: Path) -> None:
    with started(tmp_path / "old") as up:
        send(up, "ledger/open-wallet", {"wallet": "ana"}, "ana", "w1")
        eventually(lambda: up.query("SELECT 1 FROM signing_keys"))
        ok("backup", str(tmp_path / "b"), "--home", str(tmp_path / "old"))
    (tmp_path / "new").mkdir(mode=0o700)
    (tmp_path / "new" / "pepper").write_text("the pepper of somebody else\n")
    code, said = fogbook("restore", str(tmp_path / "b"), "--home", str(tmp_path / "new"))
    assert code == 1
    assert said.startswith("The secret here is not the one under which the backup was made")
    assert said.count("\n") == 1


def test_a_run_that_goes_on_is_not_restored_under_its_feet(tmp_path: Path) -> None:
    with started(tmp_path / "home") as up:
        ok("backup", str(tmp_path / "b"), "--home", str(tmp_path / "home"))
        code, said = fogbook("restore", str(tmp_path / "b"), "--replace", "--home", str(tmp_path / "home"))
        assert (code, "is in use by" in said, said.count("\n")) == (1, True, 1)
        assert up.get("/readyz").status_code == 200
    restored = ok("restore", str(tmp_path / "b"), "--replace", "--home", str(tmp_path / "home"))
    assert restored["kept"].startswith("fogbook_before_")


def test_a_harmed_backup_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    code, said = fogbook("restore", str(tmp_path / "b"), "--home", str(tmp_path / "home"))
    assert (code, said) == (1, f"{tmp_path / 'b'} is no whole backup: SHA256SUMS is missing.\n")
