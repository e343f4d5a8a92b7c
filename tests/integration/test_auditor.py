"""The stand-alone auditor: a process of its own that sees nothing of ours but an export, or the HTTP API."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import ops.auditor
from commands._signatures import log_key
from ops.access import create_key
from ops.export import one_moment, stored_entries, survey, write_ndjson
from projections._notes import Checkpoint, sign_checkpoint, verifier_key
from projections._tree import EMPTY_ROOT
from tests.conftest import PEPPER, Database
from tests.honest import ORIGIN, Honest, copy, honest

__all__ = ["copy", "honest"]

SCRIPT = Path(ops.auditor.__file__)
KEYS = [str(verifier_key(f"{ORIGIN}/main", log_key(PEPPER.encode(), "main", serial))) for serial in (1, 2)]

Alter = Callable[[list[dict[str, Any]]], None]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file alone, in a folder where nothing else is."""
    return Path(shutil.copy(SCRIPT, tmp_path_factory.mktemp("auditor") / "auditor.py"))


@pytest.fixture(scope="module")
def export(honest: Honest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "main.ndjson"
    with honest.database.connect() as connection, one_moment(connection):
        manifest = survey(connection, "main")
        write_ndjson(path, manifest, stored_entries(connection, manifest), lambda done, total: None)
    return path


def audit(script: Path, *arguments: object, keys: list[str] = KEYS) -> tuple[int, str]:
    """Exit code, and what it prints. Isolated: neither this folder nor the environment leads to our modules."""
    vkeys = [word for key in keys for word in ("--vkey", key)]
    done = subprocess.run(
        [sys.executable, "-I", str(script), *vkeys, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=script.parent,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def altered(export: Path, to: Path, alter: Alter) -> Path:
    """The export as somebody else would have written it; its last line fits."""
    import hashlib

    lines = [json.loads(line) for line in export.read_bytes().splitlines()][:-1]
    alter(lines)
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    end = {"end": {"lines": len(lines), "sha256": hashlib.sha256(body).hexdigest()}}
    to.write_bytes(body + json.dumps(end).encode() + b"\n")
    return to


def find(lines: list[dict[str, Any]], kind: str, number: int) -> dict[str, Any]:
    names = {"event": "position", "command": "number", "attestation": "ordinal"}
    found: dict[str, Any] = next(e[kind] for e in lines if kind in e and e[kind][names[kind]] == number)
    return found


def test_it_imports_the_standard_library_and_cryptography_only() -> None:
    imported = {
        line.split()[1].partition(".")[0]
        for line in SCRIPT.read_text().splitlines()
        if line.startswith(("import ", "from "))
    }
    assert imported <= sys.stdlib_module_names | {"cryptography"}


def test_an_honest_export_is_proven(script: Path, export: Path, honest: Honest, tmp_path: Path) -> None:
    held = []
    for log, note in honest.kept.items():
        (tmp_path / log).write_text(note)
        held += ["--checkpoint", tmp_path / log]
    code, out = audit(script, "--export", export, *held)
    assert code == 0 and "DIFFERS" not in out, out
    assert "2 checkpoints that you kept are of this history" in out
    packed = tmp_path / "main.ndjson.gz"
    packed.write_bytes(gzip.compress(export.read_bytes()))
    assert audit(script, "--export", packed)[0] == 0


def rehashed(event: dict[str, Any]) -> None:
    """Alter data, and its leaf with it."""
    event["data"] = event["data"].replace('"memo":""', '"memo":"x"')
    fields = (event["position"], event["stream"], event["version"], event["type"])
    at = ops.auditor.microseconds(event["recorded_at"])
    stored = (event["meta"].encode(), event["data"].encode())
    entry = ops.auditor.pack(ops.auditor.EVENT, "main", *fields, at, *stored)
    event["leaf"] = ops.auditor.sha256(b"\x00" + entry).hex()


def doubled(lines: list[dict[str, Any]]) -> None:
    """Twice the amount on one side."""
    event = find(lines, "event", 100)
    event["data"] = event["data"].replace('"amount":"5"', '"amount":"9"')


HARMS: dict[str, tuple[Alter, str]] = {
    "data": (
        lambda lines: find(lines, "event", 77).update(data="{}"),
        "entry 76: its bytes do not give its leaf",
    ),
    "meta": (
        lambda lines: find(lines, "event", 77).update(meta='{"command":"c9","i":1,"n":1}'),
        "position 77",
    ),
    "a time": (
        lambda lines: find(lines, "event", 77).update(recorded_at="2020-01-01T00:00:00Z"),
        "position 77",
    ),
    "a version": (lambda lines: find(lines, "event", 77).update(version=9), "position 77"),
    "a position": (lambda lines: find(lines, "event", 77).update(position=78), "position 78"),
    "an amount": (doubled, "debits and credits of a command differ"),
    "what moves value alone": (
        lambda lines: find(lines, "event", 77).update(meta=""),
        "position 77: it moves value without a command",
    ),
    "an event without a command": (
        lambda lines: find(lines, "event", 77).update(type="WalletFrozen", data="{}", meta=""),
        "position 77: no command tells of it",
    ),
    "a leaf computed anew": (lambda lines: rehashed(find(lines, "event", 77)), "the root is not that of"),
    "a fate": (lambda lines: find(lines, "command", 40).update(principal="eve"), "command 40"),
    "a fate's position": (lambda lines: find(lines, "command", 40).update(position=3), "command 40"),
    "a request": (
        lambda lines: find(lines, "command", 40).update(request="{}"),
        "its bytes do not give its leaf",
    ),
    "an attestation": (lambda lines: find(lines, "attestation", 3).update(ordinal=5), "attestation 5"),
    "no checkpoints": (
        lambda lines: lines[0]["manifest"].update(checkpoints={"events": None, "fates": None}),
        "no signed checkpoint covers it",
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_altered_in_an_export_is_named(script: Path, export: Path, tmp_path: Path, harm: str) -> None:
    alter, named = HARMS[harm]
    code, out = audit(script, "--export", altered(export, tmp_path / "altered.ndjson", alter))
    assert code == 1 and named in out, out[:500]


def test_what_no_signature_covers_is_not_proven(
    script: Path, export: Path, honest: Honest, tmp_path: Path
) -> None:
    """An old checkpoint in the manifest, even of nothing, says nothing of what stands behind it."""
    older = altered(
        export, tmp_path / "older", lambda lines: lines[0]["manifest"].update(checkpoints=honest.kept)
    )
    code, out = audit(script, "--export", older)
    size = int(honest.kept["events"].split("\n")[1])
    assert code == 3 and f"NOT PROVEN  events: positions {size + 1} to 1054 stand behind" in out, out
    assert "entries, from command 527 on, stand behind" in out, out
    assert "PROVEN   debits" not in out

    empty = {
        log: sign_checkpoint(
            Checkpoint(f"{ORIGIN}/main{end}", 0, EMPTY_ROOT), [log_key(PEPPER.encode(), "main", 2)]
        )
        for log, end in (("events", ""), ("fates", "/fates"))
    }

    def rewritten(lines: list[dict[str, Any]]) -> None:
        for event in (find(lines, "event", 99), find(lines, "event", 100)):
            event["data"] = event["data"].replace('"amount":"5"', '"amount":"7"')
            rehashed(event)
        lines[0]["manifest"].update(checkpoints=empty)

    forged = altered(export, tmp_path / "forged", rewritten)
    code, out = audit(script, "--export", forged)
    assert code == 3 and "NOT PROVEN  events: positions 1 to 1054" in out, out
    kept = tmp_path / "kept"
    kept.write_text(honest.kept["events"])
    assert audit(script, "--export", forged, "--checkpoint", kept)[0] == 1


def test_a_zone_of_another_application_has_no_commands_and_one_called_fates_has_both_logs() -> None:
    alone = ops.auditor.Audit("library")
    for position in (1, 2):
        entry = ("library", position, "app", position, "app:E", position, b"", b"{}")
        alone.take("events", ops.auditor.pack(ops.auditor.EVENT, *entry), None)
    alone.finish()
    assert alone.differences == []
    named = {
        log: ops.auditor.log_of(ops.auditor.Checkpoint(f"x/fates{end}", 0, b"", "", []), "fates")
        for log, end in (("events", ""), ("fates", "/fates"))
    }
    assert named == {"events": "events", "fates": "fates"}
    assert ops.auditor.log_of(ops.auditor.Checkpoint("x/other", 0, b"", "", []), "fates") is None


def test_an_export_that_was_cut_off_is_shorter_than_a_checkpoint(
    script: Path, export: Path, honest: Honest, tmp_path: Path
) -> None:
    def cut(lines: list[dict[str, Any]]) -> None:
        del lines[
            next(i for i, e in enumerate(lines) if "command" in e and e["command"]["number"] == 50) + 1 :
        ]
        counts = {f"{kind}s": sum(kind in e for e in lines) for kind in ("event", "command", "attestation")}
        lines[0]["manifest"].update(counts)

    (tmp_path / "kept").write_text(honest.kept["events"])
    short = altered(export, tmp_path / "short.ndjson", cut)
    code, out = audit(script, "--export", short, "--checkpoint", tmp_path / "kept")
    assert code == 1 and f"{tmp_path / 'kept'} is of" in out and "cut off" in out


@pytest.mark.parametrize(
    ("kind", "number", "field", "named"),
    [("event", 77, "version", "events, entry 76: line "), ("command", 40, "events", "fates, entry ")],
)
def test_a_value_that_no_entry_can_hold_is_named_by_its_place(
    script: Path, export: Path, tmp_path: Path, kind: str, number: int, field: str, named: str
) -> None:
    beyond = altered(
        export, tmp_path / "beyond", lambda lines: find(lines, kind, number).update({field: 2**70})
    )
    code, out = audit(script, "--export", beyond)
    assert code == 2 and named in out and "of the export cannot be read" in out, out


def test_input_that_cannot_be_used_is_exit_code_2(
    script: Path, export: Path, honest: Honest, tmp_path: Path
) -> None:
    other = str(verifier_key(f"{ORIGIN}/main", bytes(range(32))))
    note = tmp_path / "kept"
    note.write_text(honest.kept["events"])
    nothing = tmp_path / "nothing.ndjson"
    nothing.write_text("{}\n")
    broken = tmp_path / "broken.ndjson"
    broken.write_bytes(export.read_bytes()[:-100])
    tampered = tmp_path / "tampered.ndjson"
    tampered.write_bytes(export.read_bytes().replace(b'"position"', b'"Position"', 5))
    for arguments in (
        ("--export", nothing),
        ("--export", broken),
        ("--export", tampered),
        ("--export", tmp_path / "missing"),
        ("--export", export, "--checkpoint", nothing),
        ("--export", export, "--checkpoint", tmp_path / "missing"),
        ("--url", "http://127.0.0.1:1", "--api-key", "x"),
        ("--url", "file:///etc"),
    ):
        code, out = audit(script, *arguments)
        assert code == 2 and out.startswith("UNUSABLE") and out.count("\n") == 1, (arguments, out)
    assert audit(script, "--export", export, "--url", "http://127.0.0.1:1")[0] == 2
    assert audit(script)[0] == 2
    assert audit(script, "--export", export, keys=["nonsense"])[0] == 2
    code, out = audit(script, "--export", export, "--checkpoint", note, keys=[other])
    assert code == 2 and "not signed by a key that you trust" in out
    code, out = audit(script, "--export", export, keys=[other])
    assert code == 1 and "not signed by a key that you trust" in out


# Over HTTP


@contextmanager
def served(database: Database, home: Path) -> Iterator[str]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    env = os.environ | {
        "DATABASE_URL": database.url,
        "FOGBOOK_PEPPER": PEPPER,
        "FOGBOOK_HOME": str(home),
    }
    argv = [sys.executable, "-m", "uvicorn", "queries.api:app"]
    argv += ["--port", str(port), "--log-level", "warning"]
    with subprocess.Popen(argv, env=env, cwd=SCRIPT.parent.parent) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(300):
                try:
                    httpx.get(f"{url}/healthz", trust_env=False)
                    break
                except httpx.TransportError:
                    assert server.poll() is None
                    time.sleep(0.1)
            yield url
        finally:
            server.terminate()


def test_over_http_it_proves_the_same_and_names_what_differs(
    script: Path, copy: Database, honest: Honest, home: Path
) -> None:
    with copy.connect() as connection:
        made = create_key(connection, PEPPER.encode(), principal="olga", role="auditor", zones=("main",))
    note = script.parent / "kept over http"
    note.write_text(honest.kept["fates"])
    with served(copy, home) as url:
        asked = ("--url", url, "--api-key", made.key, "--checkpoint", note)
        code, out = audit(script, *asked)
        assert code == 0 and out.count("PROVEN") == 6, out
        assert audit(script, "--url", url, "--api-key", "wrong")[0] == 2
        assert audit(script, *asked, "--zone", "elsewhere")[0] == 2
        with copy.superuser() as connection:
            connection.execute(
                "UPDATE events SET data = replace(convert_from(data, 'UTF8'), '\"5\"', '\"6\"')::bytea"
                " WHERE position = 77"
            )
        code, out = audit(script, *asked)
        assert code == 1 and "position 78: debits and credits" in out and "the root is not that of" in out, (
            out
        )
