"""`fogbook verify` as an auditor calls it: checkpoints kept elsewhere, keys to trust, receipts, and going on."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from commands._signatures import log_key
from ops.access import create_key
from ops.cli import main
from ops.settings import Settings
from ops.web import App
from projections._notes import Checkpoint, sign_checkpoint, verifier_key
from queries.api import QueryService, register_all
from tests.conftest import PEPPER, Database
from tests.honest import ORIGIN, Honest, copy, honest

__all__ = ["copy", "honest"]

Fogbook = Callable[..., tuple[int, str, str]]

KEYS = [log_key(PEPPER.encode(), "main", serial) for serial in (1, 2)]
VKEYS = [str(verifier_key(f"{ORIGIN}/main", key)) for key in KEYS]


@pytest.fixture
def fogbook(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Fogbook:
    """Runs `fogbook verify`; gives its exit code, standard output and standard error."""
    monkeypatch.delenv("FOGBOOK_PEPPER", raising=False)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setattr("ops.logging.configure_logging", lambda level: None)

    def run(*arguments: object, database: Database | None = None, pepper: str = "") -> tuple[int, str, str]:
        with monkeypatch.context() as patched:
            if database is not None:
                patched.setenv("DATABASE_URL", database.url)
            if pepper:
                patched.setenv("FOGBOOK_PEPPER", pepper)
            patched.setattr(sys, "argv", ["fogbook", "verify", *map(str, arguments), "--home", str(home)])
            capfdbinary.readouterr()
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = capfdbinary.readouterr()
        return int(ended.value.code or 0), out.decode(), err.decode()

    return run


@pytest.fixture(scope="module")
def receipts(honest: Honest) -> dict[str, dict[str, Any]]:
    """Receipts of an accepted and of a refused command."""

    async def ask() -> dict[str, dict[str, Any]]:
        with honest.database.connect() as connection:
            made = create_key(connection, PEPPER.encode(), principal="olga", role="auditor", zones=("main",))
        settings = Settings(DATABASE_URL=honest.database.url, pepper=SecretStr(PEPPER))
        app, service = App(title="Fogbook queries", version="test"), QueryService()
        register_all(app, service)
        async with service.run(settings):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://fogbook") as http:
                headers = {"authorization": f"Bearer {made.key}"}
                answers = {
                    name: await http.get(f"/history/receipts/{id}", headers=headers)
                    for name, id in (("accepted", "c30"), ("refused", "c106"))
                }
        assert {answer.status_code for answer in answers.values()} == {200}
        return {name: answer.json() for name, answer in answers.items()}

    return asyncio.run(ask())


def kept(folder: Path, note: str, name: str = "kept") -> Path:
    path = folder / name
    path.write_text(note)
    return path


# The database


def test_checkpoints_kept_elsewhere_are_held_against_the_logs(
    fogbook: Fogbook, honest: Honest, tmp_path: Path
) -> None:
    notes = [kept(tmp_path, note, log) for log, note in honest.kept.items()]
    asked = [word for path in notes for word in ("--from", path)]
    code, out, err = fogbook(*asked, "--deep", "--json", database=honest.database, pepper=PEPPER)
    assert (code, err) == (0, "") and json.loads(out)["ok"]
    code, out, _ = fogbook(*asked, "--key", VKEYS[0], database=honest.database)
    assert code == 0 and out.startswith("All is well")


def test_a_checkpoint_of_another_history_is_named(fogbook: Fogbook, honest: Honest, tmp_path: Path) -> None:
    other = kept(tmp_path, sign_checkpoint(Checkpoint(f"{ORIGIN}/main", 300, bytes(32)), KEYS))
    code, out, err = fogbook("--from", other, database=honest.database)
    assert code == 1 and err == "1 differences were found.\n"
    assert out == f"zone main, position 300: events log: the root at size 300 is another than is in {other}\n"
    longer = kept(tmp_path, sign_checkpoint(Checkpoint(f"{ORIGIN}/main", 5_000, bytes(32)), KEYS))
    code, out, _ = fogbook("--from", longer, "--json", database=honest.database)
    (named,) = json.loads(out)["named"]
    assert code == 1 and "cut off" in named["what"]


def test_what_cannot_be_used_is_one_sentence(fogbook: Fogbook, honest: Honest, tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    elsewhere = sign_checkpoint(Checkpoint("elsewhere.example/main", 1, bytes(32)), KEYS)
    own = sign_checkpoint(Checkpoint(f"{ORIGIN}/main", 1, bytes(32)), [log_key(b"other", "main", 1)])
    forged = honest.kept["events"].replace(f"{ORIGIN}/main\n", f"{ORIGIN}/main\n1", 1)
    memory = kept(tmp_path, '{"format": "other", "zones": {}}', "memory")
    for asked in (
        ("--from", tmp_path / "missing"),
        ("--from", binary),
        ("--from", kept(tmp_path, "no note", "a")),
        ("--from", kept(tmp_path, elsewhere, "b")),
        ("--from", kept(tmp_path, own, "c")),
        ("--from", kept(tmp_path, forged, "d")),
        ("--from", kept(tmp_path, honest.kept["events"], "e"), "--key", "nonsense"),
        ("--resume", memory),
        ("--resume", kept(tmp_path, "[]", "list")),
    ):
        code, out, err = fogbook(*asked, database=honest.database)
        assert (code, out) == (1, "") and err.count("\n") == 1 and err.endswith(".\n"), (asked, err)


def test_replaced_keys_show_where_the_secret_or_the_key_is_known(
    fogbook: Fogbook, copy: Database, honest: Honest, tmp_path: Path
) -> None:
    note = kept(tmp_path, honest.kept["events"])
    with copy.superuser() as connection:
        connection.execute("UPDATE signing_keys SET public_key = sha256(public_key)")
    code, out, _ = fogbook("--from", note, "--json", database=copy, pepper=PEPPER)
    named = json.loads(out)["named"]
    assert code == 1 and {each["table"] for each in named} == {"signing_keys"}
    code, _, err = fogbook("--from", note, database=copy)
    assert code == 1 and "No known key" in err
    code, out, _ = fogbook("--from", note, "--key", VKEYS[1], "--json", database=copy)
    assert code == 1 and {each["table"] for each in json.loads(out)["named"]} >= {"signing_keys"}


def test_what_is_not_proven_is_named_and_not_called_well(fogbook: Fogbook, copy: Database) -> None:
    with copy.superuser() as connection:
        connection.execute("DELETE FROM witnesses")
    code, out, _ = fogbook(database=copy, pepper=PEPPER)
    first, last = out.splitlines()
    assert code == 0 and first.startswith("not proven: zone main: the cosignature of witness.example")
    assert last.startswith("Nothing differs, but not all is proven: ")
    said = json.loads(fogbook("--json", database=copy, pepper=PEPPER)[1])
    assert (
        said["ok"] and said["unread"] == 1 and [f"not proven: {each}" for each in said["unproven"]] == [first]
    )


def test_it_goes_on_where_it_was(fogbook: Fogbook, honest: Honest, tmp_path: Path) -> None:
    memory = tmp_path / "verified"
    first = json.loads(fogbook("--resume", memory, "--json", database=honest.database)[1])
    code, out, _ = fogbook("--resume", memory, "--json", database=honest.database)
    again = json.loads(out)
    assert code == 0 and first["events"] > 1_000 and again["events"] == 0 and again["rows"] == first["rows"]


# Receipts


@pytest.mark.parametrize("fate", ["accepted", "refused"])
def test_a_receipt_convinces_without_a_database(
    fogbook: Fogbook, receipts: dict[str, Any], tmp_path: Path, fate: str
) -> None:
    path = kept(tmp_path, json.dumps(receipts[fate]))
    code, out, err = fogbook(path, "--key", VKEYS[1])
    assert (code, err) == (0, "") and f"has {fate} command" in out
    proven = json.loads(fogbook(path, "--json", pepper=PEPPER)[1])
    assert proven["ok"] and proven["accepted"] is (fate == "accepted")
    assert proven["events"] == (2 if fate == "accepted" else 0)
    code, _, err = fogbook(path, pepper="another secret of another installation")
    assert code == 1 and "proves nothing" in err and err.count("\n") == 1


def test_a_receipt_that_was_altered_proves_nothing(
    fogbook: Fogbook, receipts: dict[str, Any], tmp_path: Path
) -> None:
    altered: dict[str, Any] = json.loads(json.dumps(receipts["accepted"]))
    answer = base64.b64decode(altered["fate"]["answer"]).replace(b'"5"', b'"6"')
    altered["fate"]["answer"] = base64.b64encode(answer).decode()
    moved = receipts["accepted"] | {"command_id": "c31"}
    wrong: list[Any] = [altered, moved, receipts["accepted"] | {"events": []}, {}, {"format": 1}, []]
    for receipt in wrong:
        for how in ({"pepper": PEPPER}, {}):
            keys = [] if how else ["--key", VKEYS[1]]
            code, out, err = fogbook(kept(tmp_path, json.dumps(receipt)), *keys, **how)
            assert (code, out) == (1, "") and err.count("\n") == 1, (receipt, err)


def test_wrong_usage_of_receipts(fogbook: Fogbook, receipts: dict[str, Any], tmp_path: Path) -> None:
    path = kept(tmp_path, json.dumps(receipts["accepted"]))
    assert fogbook(path)[0] == 2, "nobody to trust"
    assert fogbook(path, "--key", VKEYS[1], "--deep")[0] == 2
    for wrong in ((tmp_path / "missing", "--key", VKEYS[1]), (path, "--key", "nonsense")):
        code, _, err = fogbook(*wrong)
        assert code == 1 and err.count("\n") == 1
    code, _, err = fogbook(kept(tmp_path, "{", "half"), "--key", VKEYS[1])
    assert code == 1 and "not JSON" in err
