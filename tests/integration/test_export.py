"""Exports: a zone's logs as a file, read back, and replayed into another installation to the same digests and roots."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from commands._codec import (
    attestation_leaf,
    decode_event,
    encode_json,
    event_leaf,
    microseconds,
    zone_prefix,
)
from ops import export, refill
from ops.cli import _exchange
from ops.export import Attestation, Entry, ExportRefused, Fate, Manifest, one_moment, stored_entries, survey
from ops.imports import read_export
from ops.refill import ReplayRefused, export_into, installation, log_into
from ops.servers import Servers
from ops.signing import checkpoint_now
from ops.verify import verify
from projections._engine import all_projections
from projections._notes import verifier_key
from projections._transparency import EVENTS, FATES, begin, extend, root_at
from queries._events import Event, rfc3339
from tests.conftest import Database, Fogbook
from tests.history import history
from tests.integration.test_cli import one_sentence
from tests.living import ORIGIN, SECRET, digests, follow, go_on, live, made
from tests.running import ROOT, running

STEPS = 120
NewDatabase = Callable[[], Database]


def quiet(done: int, total: int) -> None:
    """Nobody looks at the progress."""


# A zone to export


@pytest.fixture(scope="module")
def lived(servers: Servers, _template: str) -> Iterator[Database]:
    """An economy of all contexts: attested and signed half way, with a foreign event, and once more at its end.

    Tests that change it take `copy`.
    """
    with made(servers, f"lived_{os.getpid()}", _template) as database:
        live(database, history(steps=STEPS))
        yield database


@pytest.fixture
def database(lived: Database) -> Database:
    """What the command line works on."""
    return lived


@pytest.fixture
def copy(
    servers: Servers, lived: Database, fogbook: Fogbook, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """A copy to change; the command line works on that one, then."""
    with made(servers, f"{lived.name}_copy", lived.name) as database:
        monkeypatch.setenv("DATABASE_URL", database.url)
        monkeypatch.setenv("FOGBOOK_MIGRATE_DATABASE_URL", database.superuser_url)
        yield database


@pytest.fixture(scope="module")
def empty(servers: Servers, _template: str) -> Iterator[Database]:
    """Nothing is ever inserted here."""
    with made(servers, f"empty_{os.getpid()}", _template) as database:
        yield database
        assert not any(rows(database).values())


@pytest.fixture(scope="module")
def exported(lived: Database, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(lived, tmp_path_factory.mktemp("exported") / "log.ndjson").read_bytes()


@pytest.fixture
def whole(exported: bytes, tmp_path: Path) -> Path:
    """An export to break."""
    (tmp_path / "log.ndjson").write_bytes(exported)
    return tmp_path / "log.ndjson"


def read(path: Path) -> tuple[Manifest, list[Entry]]:
    with read_export(path) as (manifest, entries):
        return manifest, list(entries)


def written(database: Database, path: Path, at: str | None = None) -> Path:
    with database.connect() as connection, one_moment(connection):
        manifest = survey(connection, "main", at)
        export.write_ndjson(path, manifest, stored_entries(connection, manifest), quiet)
    return path


def rows(database: Database) -> dict[str, list[Any]]:
    """Everything that a replay must bring over."""
    with database.superuser() as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in ("heads", "events", "attestations")
        } | {"commands": connection.execute("SELECT * FROM commands ORDER BY number").fetchall()}


def copied(there: Database, lived: Database) -> bool:
    """Whether all of it is there as it was; only that the keys that signed it sign no more was attested since."""
    stored, held = rows(there), rows(lived)
    attested = stored.pop("attestations")
    before = held.pop("attestations")
    added = [json.loads(row[4]) for row in attested[len(before) :]]
    assert [(each["act"], each["serial"]) for each in added] == [("retired", 1)]
    return stored == held and attested[: len(before)] == before


def roots(database: Database, sizes: dict[str, int]) -> dict[str, bytes]:
    """The roots that a database's own trees give at these sizes."""
    with database.signer() as connection:
        begin(connection, SECRET, ORIGIN, "main")
        for log in (EVENTS, FATES):
            extend(connection, "main", log)
        return {log: root_at(connection, "main", log, size) for log, size in sizes.items()}


def differs_by_the_foreign_event_only(database: Database) -> bool:
    """No application appends to a zone that has commands, and so a verification names it."""
    whats = [each.what for each in verify(database.connect, "main", quiet).problems]
    return bool(whats) and whats[0] == "no command tells of it" and all("command" in what for what in whats)


def head(database: Database) -> tuple[int, int]:
    with database.connect() as connection:
        row = connection.execute("SELECT position, number FROM heads").fetchone()
        assert row is not None
        return row[0], row[1]


# Writing and reading


@pytest.mark.parametrize("name", ["log.ndjson", "log.ndjson.gz"])
def test_an_export_holds_every_byte_that_was_hashed(lived: Database, tmp_path: Path, name: str) -> None:
    manifest, entries = read(written(lived, tmp_path / name))
    position, number = head(lived)
    stored = rows(lived)
    assert (manifest.position, manifest.number, manifest.clock) == (position, number, "manual")
    by_kind = {
        kind: [entry for entry in entries if isinstance(entry, kind)] for kind in (Event, Fate, Attestation)
    }
    assert [("main", *event) for event in by_kind[Event]] == [
        (zone, at, stream, version, type, data, meta, recorded, leaf)
        for zone, at, stream, version, type, data, meta, recorded, leaf in stored["events"]
    ]
    assert [fate.leaf for fate in by_kind[Fate]] == [row[-1] for row in stored["commands"]]
    assert [("main", *attestation) for attestation in by_kind[Attestation]] == stored["attestations"]
    assert manifest.entries == len(entries)
    prefix = zone_prefix("main")
    assert all(export.leaf_of(prefix, entry) == entry.leaf for entry in entries)
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing is left beside it"


def test_whoever_waits_is_told_how_far_it_is(
    lived: Database, empty: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TICK_EVERY", 100)
    ticks: list[tuple[int, int]] = []
    with lived.connect() as connection, one_moment(connection):
        manifest = survey(connection, "main")
        entries = stored_entries(connection, manifest)
        export.write_ndjson(
            tmp_path / "log.ndjson", manifest, entries, lambda done, total: ticks.append((done, total))
        )
    assert ticks == [(done, manifest.entries) for done in range(100, manifest.entries + 2, 100)]


def test_entries_stand_in_the_order_of_both_logs(lived: Database, tmp_path: Path) -> None:
    _, entries = read(written(lived, tmp_path / "log.ndjson"))
    second = [entry.leaf for entry in entries if not isinstance(entry, Event)]
    with lived.connect() as connection:
        tiles = connection.execute(
            "SELECT hashes FROM tiles WHERE log = 'fates' AND level = 0 ORDER BY index"
        ).fetchall()
    assert b"".join(second) == b"".join(bytes(row[0]) for row in tiles)


def test_the_manifest_carries_the_newest_checkpoint_that_the_entries_cover(
    lived: Database, tmp_path: Path
) -> None:
    with lived.connect() as connection:
        signed = {
            log: [
                row[0]
                for row in connection.execute(
                    "SELECT size FROM signed_checkpoints WHERE log = %s ORDER BY size", (log,)
                )
            ]
            for log in (EVENTS, FATES)
        }

    def carried(at: str | None) -> dict[str, int | None]:
        manifest, _ = read(written(lived, tmp_path / "log.ndjson", at))
        return {
            log: None if note is None else int(note.splitlines()[1])
            for log, note in manifest.checkpoints.items()
        }

    assert len(signed[EVENTS]) == 2
    assert carried(None) == {log: sizes[-1] for log, sizes in signed.items()}
    assert carried(str(signed[EVENTS][0] + 1))[EVENTS] == signed[EVENTS][0]
    assert carried("2") == {EVENTS: None, FATES: None}


def test_witnesses_cosignatures_travel_with_the_checkpoint(copy: Database, tmp_path: Path) -> None:
    with copy.superuser() as connection:
        connection.execute(
            "INSERT INTO cosignatures SELECT zone, log, size, root, 'w.test', %s FROM signed_checkpoints",
            ("\u2014 w.test AAAAAAAA\n",),
        )
    manifest, _ = read(written(copy, tmp_path / "log.ndjson"))
    assert all(
        note is not None and note.endswith("\u2014 w.test AAAAAAAA\n")
        for note in manifest.checkpoints.values()
    )


def test_events_and_exact_amounts_are_read_from_parquet(
    lived: Database, fogbook: Fogbook, tmp_path: Path
) -> None:
    file = tmp_path / "it's a log.parquet"
    code, out, err = fogbook("export", str(file), "--json")
    assert (code, err) == (0, "")
    with duckdb.connect() as reader:
        found = reader.execute(
            "SELECT position, stream, version, type, epoch_us(recorded_at), data, meta, leaf, asset, amount"
            " FROM read_parquet(?) ORDER BY position",
            [str(file)],
        ).fetchall()
        types = dict(
            reader.execute("SELECT name, logical_type FROM parquet_schema(?)", [str(file)]).fetchall()
        )
        (metadata,) = reader.execute(
            "SELECT value FROM parquet_kv_metadata(?) WHERE key = 'fogbook'", [str(file)]
        ).fetchall()
    assert "precision=38" in types["amount"] and "Timestamp" in types["recorded_at"]
    assert json.loads(bytes(metadata[0]))["position"] == json.loads(out)["position"] == len(found)
    sums: dict[str, int] = {}
    for row, (_, position, stream, version, type, data, meta, at, leaf) in zip(
        found, rows(lived)["events"], strict=True
    ):
        assert row[:5] == (position, stream, version, type, microseconds(at)) and row[7] == leaf
        if type == "Elsewhere":
            assert json.loads(row[5]) == {"base64": "/wAK"}
            continue
        assert (row[5], row[6]) == (data.decode(), meta.decode())
        posting = getattr(decode_event(type, data), "posting", None)
        assert (row[8], row[9]) == (posting or (None, None))
        if posting:
            sums[posting[0]] = sums.get(posting[0], 0) + int(row[9])
    assert sums and not any(sums.values()), "the trial balance from the file"


@pytest.mark.parametrize("name", ["slice.ndjson", "slice.parquet"])
def test_a_slice_holds_the_events_of_a_stream_or_a_type(
    lived: Database, fogbook: Fogbook, tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    code, out, _ = fogbook("export", str(file), "--stream", "wallet:ana", "--type", "Credited", "--json")
    expected = [row[1] for row in rows(lived)["events"] if (row[2], row[4]) == ("wallet:ana", "Credited")]
    assert code == 0 and json.loads(out)["slice"] == {"stream": "wallet:ana", "type": "Credited"}
    assert json.loads(out)["events"] == len(expected) > 0 and json.loads(out)["commands"] == 0
    if name.endswith("parquet"):
        with duckdb.connect() as reader:
            found = reader.execute("SELECT position FROM read_parquet(?)", [str(file)]).fetchall()
            assert [row[0] for row in found] == expected
    else:
        _, entries = read(file)
        assert [entry.position for entry in entries if isinstance(entry, Event)] == expected
        code, _, err = fogbook("replay", "--into", "postgresql://nowhere", "--file", str(file))
        assert code == 1 and one_sentence(err) and "slice" in err


def test_the_command_signs_a_checkpoint_of_all_that_it_exports(
    copy: Database, fogbook: Fogbook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOGBOOK_LOG_ORIGIN", ORIGIN)
    go_on(copy, "xia")
    code, out, _ = fogbook("export", str(tmp_path / "log.ndjson"), "--json")
    manifest, _ = read(tmp_path / "log.ndjson")
    assert code == 0 and manifest.shown() == {k: v for k, v in json.loads(out).items() if k != "file"}
    for log, size in ((EVENTS, manifest.position), (FATES, manifest.commands + manifest.attestations)):
        note = manifest.checkpoints[log]
        assert note is not None and note.splitlines()[1] == str(size)

    # Without the secret nothing new is signed, and the newest one there is travels.
    go_on(copy, "wes")
    monkeypatch.setenv("FOGBOOK_PEPPER", "another secret of its own")
    assert fogbook("export", str(tmp_path / "log.ndjson"))[0] == 0
    later, _ = read(tmp_path / "log.ndjson")
    assert later.checkpoints == manifest.checkpoints and later.position > manifest.position


def test_an_export_ends_where_a_checkpoint_does_although_commands_go_on(
    copy: Database, fogbook: Fogbook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOGBOOK_LOG_ORIGIN", ORIGIN)
    names = iter(("uli", "vic", "wes"))
    sign = _exchange._checkpoint

    def and_go_on(*given: Any) -> bool:
        signed = sign(*given)
        if (name := next(names, None)) is not None:
            go_on(copy, name)
        return signed

    monkeypatch.setattr(_exchange, "_checkpoint", and_go_on)
    assert fogbook("export", str(tmp_path / "log.ndjson"))[0] == 0
    manifest, _ = read(tmp_path / "log.ndjson")
    assert next(names, None) is None and manifest.position == head(copy)[0]
    signed = [int(note.splitlines()[1]) for note in manifest.checkpoints.values() if note]
    assert signed == [manifest.events, manifest.commands + manifest.attestations]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("log.csv",), "should end in"),
        (("nowhere/log.ndjson",), "cannot be written"),
        (("nowhere/log.parquet",), "cannot be written"),
        (("folder.ndjson",), "cannot be written"),
        (("log.ndjson", "--zone", "nowhere"), "no zone"),
        (("log.ndjson", "--at", "100000000"), "ends at position"),
        (("log.ndjson", "--at", "0"), "begins later"),
        (("log.ndjson", "--at", "1"), "begins later"),
        (("log.ndjson", "--at", "1999-01-01T00:00:00Z"), "begins later"),
        (("log.ndjson", "--at", "2999-01-01T00:00:00Z"), "not 2999"),
        (("log.ndjson", "--at", "noon"), "neither a position nor"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_sentence(
    lived: Database, fogbook: Fogbook, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "folder.ndjson").mkdir()
    code, out, err = fogbook("export", str(tmp_path / arguments[0]), *arguments[1:])
    assert (code, out) == (1, "") and one_sentence(err) and says in err
    assert [path.name for path in tmp_path.iterdir()] == ["folder.ndjson"], "and leaves nothing behind"


@pytest.mark.parametrize("name", ["log.ndjson", "log.ndjson.gz", "log.parquet"])
def test_an_export_that_is_interrupted_leaves_what_was_there_before(
    lived: Database, fogbook: Fogbook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = tmp_path / name
    file.write_text("as before")
    whole = export.stored_entries

    def interrupted(connection: psycopg.Connection[Any], manifest: Manifest) -> Iterator[Entry]:
        for i, entry in enumerate(whole(connection, manifest)):
            if i == 100:
                raise KeyboardInterrupt
            yield entry

    monkeypatch.setattr(export, "stored_entries", interrupted)
    assert fogbook("export", str(file))[0] == 130
    assert file.read_text() == "as before" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["log.ndjson", "log.parquet"])
def test_a_log_that_does_not_hold_what_its_head_says_is_not_exported(
    copy: Database, fogbook: Fogbook, tmp_path: Path, name: str
) -> None:
    with copy.superuser() as connection:
        connection.execute("DELETE FROM events WHERE position = 9")
    code, _, err = fogbook("export", str(tmp_path / name))
    assert code == 1 and one_sentence(err) and "fogbook verify" in err
    assert not list(tmp_path.iterdir())


def test_what_duckdb_cannot_write_is_refused(
    lived: Database, fogbook: Fogbook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ops.parquet.WRITE", "COPY (SELECT nonsense FROM read_csv(?, columns = ?)) TO {file} {manifest}"
    )
    code, _, err = fogbook("export", str(tmp_path / "log.parquet"))
    assert code == 1 and "cannot be written" in err and not list(tmp_path.iterdir())


# Broken exports


def altered(file: Path, how: Callable[[list[bytes]], list[bytes]], *, sealed: bool = True) -> Path:
    """The export with other lines; `sealed` as somebody would who can count and hash."""
    lines = how(file.read_bytes().splitlines(keepends=True)[:-1])
    body = b"".join(lines)
    if sealed:
        end = {"lines": len(lines), "sha256": hashlib.sha256(body).hexdigest()}
        body += encode_json({"end": end}) + b"\n"
    file.write_bytes(body)
    return file


def patched(line: bytes, **changes: Any) -> bytes:
    ((kind, held),) = json.loads(line).items()
    return encode_json({kind: held | changes}) + b"\n"


def first(lines: list[bytes], kind: str) -> int:
    return next(i for i, line in enumerate(lines) if line.startswith(b'{"%b"' % kind.encode()))


def change(kind: str, **changes: Any) -> Callable[[list[bytes]], list[bytes]]:
    def how(lines: list[bytes]) -> list[bytes]:
        i = first(lines, kind)
        return [*lines[:i], patched(lines[i], **changes), *lines[i + 1 :]]

    return how


def swap_first_events(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[2], lines[1], *lines[3:]]


BROKEN: dict[str, tuple[Callable[[list[bytes]], list[bytes]], bool, str]] = {
    "the end is cut off": (lambda lines: lines, False, "cut off"),
    "cut within a line": (lambda lines: [*lines[:-1], lines[-1][:-9]], False, "cut off"),
    "cut to nothing": (lambda lines: [], False, "line 1: this is no export"),
    "no JSON": (lambda lines: [*lines[:5], b"{nonsense\n", *lines[5:]], True, "line 6"),
    "no UTF-8": (lambda lines: [*lines[:5], b'{"event": "\xff"}\n', *lines[5:]], True, "line 6"),
    "half a surrogate": (
        lambda lines: [lines[0], lines[1].replace(b'"stream":"', b'"stream":"\\ud800'), *lines[2:]],
        True,
        "line 2",
    ),
    "an unknown kind": (lambda lines: [*lines[:5], b'{"row":{}}\n', *lines[5:]], True, "line 6"),
    "an empty line": (lambda lines: [*lines[:5], b"\n", *lines[5:]], True, "line 6"),
    "nothing in a line": (
        lambda lines: [*lines[:5], b"{}\n", *lines[5:]],
        True,
        "line 6: it should hold one",
    ),
    "two in a line": (
        lambda lines: [lines[0], lines[1][:-2] + b"," + lines[first(lines, "command")][1:], *lines[2:]],
        True,
        "line 2: it should hold one",
    ),
    "two manifests": (lambda lines: [lines[0], *lines], True, "line 2: a manifest stands"),
    "an event lost": (
        lambda lines: [line for line in lines if not line.startswith(b'{"event":{"position":5,')],
        True,
        "position 6 comes after 4",
    ),
    "events swapped": (swap_first_events, True, "position 2 comes after 0"),
    "a command lost": (
        lambda lines: [line for line in lines if not line.startswith(b'{"command":{"number":3,')],
        True,
        "command 4 comes after 2",
    ),
    "a command elsewhere": (change("command", position=1), True, "was decided at position 1"),
    "an attestation lost": (
        lambda lines: [line for line in lines if not line.startswith(b'{"attestation":{"ordinal":2,')],
        True,
        "attestation 3 comes after 1",
    ),
    "an attestation elsewhere": (change("attestation", after_number=1), True, "stands behind command"),
    "the last ones lost": (lambda lines: lines[:-1], True, "the manifest counts"),
    "other lines, other hash": (change("event", type="Other"), False, "cut off"),
    "a longer log promised": (change("manifest", events=10**6), True, "the manifest counts"),
    "a later format": (
        change("manifest", format="fogbook-export/v9"),
        True,
        "its format is fogbook-export/v9",
    ),
    "no manifest": (lambda lines: lines[1:], True, "line 1: this is no export"),
    "a manifest of nothing": (lambda lines: [b'{"manifest":null}\n', *lines[1:]], True, "line 1: this is no"),
    "a zone of no name": (change("manifest", zone="No Zone"), True, "line 1"),
    "a clock of no kind": (change("manifest", clock="sun"), True, "line 1"),
    "no checkpoints": (change("manifest", checkpoints={}), True, "line 1: it should name a checkpoint"),
    "an unknown field": (change("manifest", more=1), True, "line 1"),
    "a time without offset": (change("event", recorded_at="2026-01-01T00:00:00"), True, "line 2"),
    "a leaf of no length": (change("event", leaf="00"), True, "line 2"),
    "a number out of range": (change("event", version=2**63), True, "line 2"),
    "a number below 0": (change("event", position=-1), True, "line 2"),
    "a text with NUL": (change("event", stream="a\x00b"), True, "line 2"),
    "base64 that is none": (change("event", data={"base64": "?"}), True, "line 2"),
    "more behind the end": (lambda lines: [*lines, b'{"end":{"lines":0,"sha256":""}}\n'], True, "line"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_export_is_refused_by_its_line(whole: Path, case: str) -> None:
    how, sealed, says = BROKEN[case]
    file = altered(whole, how, sealed=sealed)
    with pytest.raises(ExportRefused, match=r"log\.ndjson, line \d+: ") as refused:
        read(file)
    assert says in str(refused.value)


def test_an_export_that_was_altered_without_its_end_is_refused(whole: Path) -> None:
    lines = whole.read_bytes().splitlines(keepends=True)
    whole.write_bytes(b"".join([lines[0], patched(lines[1], type="Other"), *lines[2:]]))
    with pytest.raises(ExportRefused, match="not those that were written"):
        read(whole)
    whole.write_bytes(b"".join([*lines, lines[-1]]))
    with pytest.raises(ExportRefused, match="nothing should come after"):
        read(whole)


def test_a_line_that_never_ends_is_not_read_to_its_end(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.imports.MOST_LINE_BYTES", 200)
    with pytest.raises(ExportRefused, match="line 1: the line is too long"):
        read(whole)


@pytest.mark.parametrize(
    "packed",
    [
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed[:-4],
        lambda packed: packed[:200] + b"\x00\x00\x00" + packed[203:],
        lambda packed: b"not packed at all",
        lambda packed: b"",
    ],
)
def test_a_packed_export_that_is_broken_is_refused(
    whole: Path, tmp_path: Path, packed: Callable[[bytes], bytes]
) -> None:
    file = tmp_path / "log.ndjson.gz"
    file.write_bytes(packed(gzip.compress(whole.read_bytes())))
    with pytest.raises(ExportRefused, match=r"log\.ndjson\.gz, line \d+: "):
        read(file)


@pytest.mark.parametrize("name", ["missing.ndjson", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportRefused, match="cannot be read"):
        read(tmp_path / name)


# Replaying into another installation


def test_a_replayed_economy_reaches_the_same_digests_and_roots(
    lived: Database, new_database: NewDatabase, tmp_path: Path
) -> None:
    file, there = written(lived, tmp_path / "log.ndjson"), new_database()
    filled = export_into(there.superuser_url, file, None, None, quiet)
    assert copied(there, lived), "verbatim, the clock's kind and the head's time included"
    with lived.connect() as connection:
        signed = {
            log: (size, bytes(root))
            for log, size, root in connection.execute(
                "SELECT log, size, root FROM signed_checkpoints ORDER BY size"
            )
        }
    assert filled.checkpoints == {log: size for log, (size, _) in signed.items()}
    follow(there)
    assert digests(there) == digests(lived)
    assert differs_by_the_foreign_event_only(there)
    assert roots(there, filled.checkpoints) == {log: root for log, (_, root) in signed.items()}
    assert filled.roots[EVENTS] == roots(there, {EVENTS: filled.position})[EVENTS].hex()


def test_the_other_installation_signs_what_it_was_given_with_keys_of_its_own(
    lived: Database, new_database: NewDatabase
) -> None:
    there = new_database()
    with lived.connect() as connection:
        filled = log_into(there.superuser_url, connection, "main", None, quiet)
    follow(there)
    with there.signer() as connection:
        signed = checkpoint_now(connection, b"the secret of another house", "elsewhere.test", "main")
        keys = connection.execute(
            "SELECT serial, retired_at IS NULL FROM signing_keys ORDER BY serial"
        ).fetchall()
    assert keys == [(1, False), (2, True)]
    assert signed[EVENTS].note.startswith(f"elsewhere.test/main\n{filled.position}\n")
    assert signed[EVENTS].root.hex() == filled.roots[EVENTS]
    for log, size in filled.checkpoints.items():
        assert roots(there, {log: size}) == roots(lived, {log: size})
    assert differs_by_the_foreign_event_only(there)


def test_a_log_goes_on_where_it_was_replayed_to(copy: Database, new_database: NewDatabase) -> None:
    """The sequencer there folds the same states, and knows every key."""
    there = new_database()
    with copy.connect() as connection:
        log_into(there.superuser_url, connection, "main", None, quiet)
    go_on(there, "vic")
    go_on(copy, "vic")
    assert rows(there)["events"] == rows(copy)["events"] and rows(there)["commands"] == rows(copy)["commands"]


def attested(database: Database, position: int) -> dict[str, str]:
    """What was attested of the read models at a position."""
    with database.connect() as connection:
        bodies = [
            json.loads(row[0])
            for row in connection.execute("SELECT body FROM attestations WHERE kind = 'read-model'")
        ]
    return {body["projection"]: body["digest"] for body in bodies if body["position"] == position}


@pytest.mark.parametrize("through_a_file", [True, False])
def test_a_prefix_is_what_the_economy_was_then(
    lived: Database, new_database: NewDatabase, tmp_path: Path, through_a_file: bool
) -> None:
    """Its digests are those that were attested then."""
    then, there = len(history(steps=STEPS)), new_database()
    if through_a_file:
        filled = export_into(
            there.superuser_url, written(lived, tmp_path / "log.ndjson"), str(then), "main", quiet
        )
    else:
        with lived.connect() as connection:
            filled = log_into(there.superuser_url, connection, "main", str(then), quiet)
    follow(there)
    assert (filled.position, head(there)[0]) == (then, then)
    expected = attested(lived, then)
    assert set(expected) == set(all_projections()) and digests(there) == expected
    stored, held = rows(there), rows(lived)
    assert stored["events"] == held["events"][:then]
    assert stored["commands"] == [row for row in held["commands"] if row[9] <= then]
    attestations = [row for row in held["attestations"] if row[2] <= filled.number]
    assert stored["attestations"][:-1] == attestations and attestations


def ways_to_name_the_same(lived: Database) -> list[str]:
    """A position within a command means the end of the one before; a time what had happened by then."""
    events = rows(lived)["events"]
    met = [json.loads(event[6] or b"{}") for event in events]
    inside = next(
        i for i in range(20, len(met)) if met[i].get("i") == 2 and met[i - 2].get("i") == met[i - 2].get("n")
    )
    assert met[inside]["n"] > 2 or met[inside]["i"] == 2
    return [str(inside - 1), str(inside)]


def test_a_position_within_a_command_means_the_end_of_the_one_before(
    lived: Database, new_database: NewDatabase, tmp_path: Path
) -> None:
    file = written(lived, tmp_path / "log.ndjson")
    for at in ways_to_name_the_same(lived):
        end = int(ways_to_name_the_same(lived)[0])
        assert read(written(lived, tmp_path / "part.ndjson", at))[0].position == end
        assert export_into(new_database().superuser_url, file, at, None, quiet).position == end


def test_a_time_means_what_had_happened_by_then(
    lived: Database, new_database: NewDatabase, tmp_path: Path
) -> None:
    file, events = written(lived, tmp_path / "log.ndjson"), rows(lived)["events"]
    middle = events[len(events) // 2]
    end = max(event[1] for event in events if event[7] <= middle[7])
    at = rfc3339(middle[7])
    assert read(written(lived, tmp_path / "part.ndjson", at))[0].position == end
    assert export_into(new_database().superuser_url, file, at, None, quiet).position == end


@pytest.mark.parametrize(
    ("at", "says"),
    [
        ("0", "begins later"),
        ("1000000", "ends at position"),
        ("2999-01-01T00:00:00Z", "ends before"),
        ("1999-01-01T00:00:00Z", "begins later"),
        ("noon", "neither a position nor"),
    ],
)
def test_a_place_that_an_export_does_not_hold_is_refused(
    whole: Path, empty: Database, at: str, says: str
) -> None:
    with pytest.raises(ExportRefused, match=says):
        export_into(empty.superuser_url, whole, at, None, quiet)


def resealed(lines: list[bytes], kind: str, at: int, **changes: Any) -> list[bytes]:
    """An entry with other content and the leaf hash that belongs to it."""
    i = [i for i, line in enumerate(lines) if line.startswith(b'{"%b"' % kind.encode())][at]
    held = json.loads(lines[i])[kind] | changes
    if kind == "event":
        at_us = microseconds(export.parse_time(held["recorded_at"]))
        leaf = event_leaf(
            zone_prefix("main"),
            *(held[name] for name in ("position", "stream", "version", "type")),
            at_us,
            held["meta"].encode(),
            held["data"].encode(),
        )
    else:
        at_us = microseconds(export.parse_time(held["recorded_at"]))
        leaf = attestation_leaf(
            zone_prefix("main"),
            held["ordinal"],
            held["after_number"],
            held["kind"],
            at_us,
            held["body"].encode(),
        )
    held["leaf"] = leaf.hex()
    return [*lines[:i], encode_json({kind: held}) + b"\n", *lines[i + 1 :]]


FORGED: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "an event's data": (change("event", data="{}"), "bytes of event 1 do not give"),
    "a fate's answer": (change("command", answer="{}!"), "bytes of command 1 do not give"),
    "an attestation's body": (change("attestation", body="{}"), "bytes of attestation 1 do not give"),
    "an event and its leaf": (
        lambda lines: resealed(lines, "event", 4, data="{}"),
        "are not those that",
    ),
    "the notes' keys": (change("manifest", verifier_keys=[]), "not signed as it should be"),
    "a key that is none": (change("manifest", verifier_keys=["x"]), "not signed as it should be"),
    "a note": (change("manifest", checkpoints={EVENTS: "x", FATES: None}), "not signed as it should be"),
    "the last ones": (lambda lines: shortened(lines), "not all are here"),
    "what is attested of a key": (
        lambda lines: resealed(unsigned(lines), "attestation", 0, body="{}"),
        "says nothing of a key",
    ),
    "a version that is there": (
        lambda lines: resealed(unsigned(lines), "event", 1, stream=stream_of(lines, 0), version=1),
        "cannot be filled there: duplicate key",
    ),
}


def unsigned(lines: list[bytes]) -> list[bytes]:
    return change("manifest", checkpoints={EVENTS: None, FATES: None})(lines)


def stream_of(lines: list[bytes], event: int) -> str:
    return str(json.loads(lines[first(lines, "event") + event])["event"]["stream"])


def shortened(lines: list[bytes]) -> list[bytes]:
    """Only the first command, and a manifest that is content with it."""
    upto = first(lines, "command") + 1
    fate = json.loads(lines[upto - 1])["command"]
    counts = {
        "position": fate["position"],
        "number": 1,
        "events": fate["events"],
        "commands": 1,
        "attestations": 0,
    }
    return [patched(lines[0], **counts), *lines[1:upto]]


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_export_is_refused_and_nothing_is_inserted(whole: Path, empty: Database, case: str) -> None:
    how, says = FORGED[case]
    with pytest.raises(ReplayRefused, match=says):
        export_into(empty.superuser_url, altered(whole, how), None, None, quiet)
    assert not any(rows(empty).values())


def test_only_what_a_trusted_key_has_signed_is_replayed(
    lived: Database, whole: Path, empty: Database, new_database: NewDatabase, tmp_path: Path
) -> None:
    with lived.connect() as connection:
        (vkey, *_) = survey(connection, "main").verifier_keys
    there = new_database()
    filled = export_into(there.superuser_url, whole, None, None, quiet, [vkey])
    assert filled.trusted and filled.unsigned == {} and copied(there, lived)
    other = str(verifier_key(f"{ORIGIN}/main", bytes(range(32))))
    with pytest.raises(ReplayRefused, match="not signed as it should be"):
        export_into(empty.superuser_url, whole, None, None, quiet, [other])
    with pytest.raises(ReplayRefused, match="not signed as it should be: "):
        export_into(empty.superuser_url, whole, None, None, quiet, ["nonsense"])

    early = written(lived, tmp_path / "early.ndjson", str(head(lived)[0] - 2))
    beyond = export_into(new_database().superuser_url, early, None, None, quiet)
    assert not beyond.trusted and set(beyond.unsigned) == {EVENTS, FATES}
    for file in (early, altered(whole, unsigned)):
        for at in (None, "10"):
            with pytest.raises(ReplayRefused, match=r"covers the last \d+ events"):
                export_into(empty.superuser_url, file, at, None, quiet, [vkey])
    assert not any(rows(empty).values())


def test_an_export_that_breaks_off_inserts_nothing(
    whole: Path, empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refill, "CHUNK", 50)  # Much is copied by then.
    altered(whole, lambda lines: lines[:-1], sealed=False)
    with pytest.raises(ExportRefused, match="cut off"):
        export_into(empty.superuser_url, whole, None, None, quiet)
    assert not any(rows(empty).values())
    with pytest.raises(ExportRefused, match="cut off"):
        export_into(empty.superuser_url, whole, "10", None, quiet)
    assert not any(rows(empty).values()), "not even a beginning that is whole"


def test_small_chunks_make_no_difference(
    lived: Database, whole: Path, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, bit_by_bit = new_database(), new_database()
    expected = export_into(at_once.superuser_url, whole, None, None, quiet)
    monkeypatch.setattr(refill, "CHUNK", 97)
    assert export_into(bit_by_bit.superuser_url, whole, None, None, quiet) == expected
    assert copied(bit_by_bit, lived) and copied(at_once, lived)


def test_a_log_with_a_gap_is_not_replayed(copy: Database, empty: Database) -> None:
    for statement, says in (
        ("DELETE FROM events WHERE position = (SELECT max(position) FROM events)", "log ends at position"),
        ("DELETE FROM commands WHERE number = 1", "before command 2 is missing"),
        ("DELETE FROM events WHERE position = 2", "before event 3 is missing"),
    ):
        with copy.superuser() as connection:
            connection.execute("DELETE FROM signed_checkpoints")
            connection.execute(statement)
        with copy.connect() as connection, pytest.raises(ReplayRefused, match=says):
            log_into(empty.superuser_url, connection, "main", None, quiet)


def test_only_an_empty_zone_is_filled(whole: Path, new_database: NewDatabase) -> None:
    there = new_database()
    with there.superuser() as connection:
        connection.execute("INSERT INTO heads (zone, clock) VALUES ('main', 'real')")
    export_into(there.superuser_url, whole, None, None, quiet)  # It had no history yet.
    before = rows(there)
    assert before["heads"][0][-1] == "manual"
    with pytest.raises(ReplayRefused, match="has a history there already"):
        export_into(there.superuser_url, whole, None, None, quiet)
    assert rows(there) == before


def test_the_command_replays_this_log_or_an_export_of_it(
    lived: Database, fogbook: Fogbook, new_database: NewDatabase, tmp_path: Path
) -> None:
    one, other, file = new_database(), new_database(), tmp_path / "log.ndjson.gz"
    assert fogbook("export", str(file))[0] == 0
    code, out, err = fogbook("replay", "--into", one.superuser_url, "--file", str(file), "--json")
    assert (code, err) == (0, "") and json.loads(out)["position"] == head(lived)[0]
    code, out, _ = fogbook("replay", "--into", other.superuser_url)
    assert code == 0 and f"position {head(lived)[0]}" in out and "events at" in out
    assert copied(one, lived) and copied(other, lived)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--into", "HERE"), 1, "has a history there already"),
        (("--into", "postgresql://127.0.0.1:1/x"), 1, "cannot be used"),
        (("--into", "postgresql://x?nonsense=1"), 1, "does not name a database"),
        (("--into", "HERE", "--zone", "nowhere"), 1, "no zone"),
        (("--into", "HERE", "--file", "missing.ndjson"), 1, "cannot be read"),
        (("--into", "HERE", "--stream", "wallet:ana"), 2, "--into takes the whole log"),
        (("--into", "HERE", "--type", "Credited"), 2, "--into takes the whole log"),
        (("--file", "log.ndjson"), 2, "--file goes with --into"),
        (("--key", "x"), 2, "--file goes with --into"),
        (("--into", "HERE", "--key", "x"), 2, "--key goes with --file"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    lived: Database, fogbook: Fogbook, arguments: tuple[str, ...], code: int, says: str
) -> None:
    before = rows(lived)
    given = [lived.superuser_url if argument == "HERE" else argument for argument in arguments]
    ended, out, err = fogbook("replay", *given)
    assert (ended, out) == (code, "") and says in err
    assert code == 2 or one_sentence(err)
    assert rows(lived) == before


def test_an_export_of_another_zone_is_not_taken_for_this_one(
    whole: Path, empty: Database, fogbook: Fogbook
) -> None:
    code, _, err = fogbook("replay", "--into", empty.superuser_url, "--file", str(whole), "--zone", "village")
    assert code == 1 and one_sentence(err) and "export of zone main" in err


def test_a_database_without_tables_is_not_filled(whole: Path, database: Database, fogbook: Fogbook) -> None:
    url = psycopg.conninfo.make_conninfo(database.superuser_url, dbname="postgres")
    code, _, err = fogbook("replay", "--into", url, "--file", str(whole))
    assert code == 1 and one_sentence(err) and "fogbook migrate" in err


def test_a_home_is_filled_before_its_first_start(whole: Path, tmp_path: Path) -> None:
    """Its servers are started for that, and `up` goes on with what it finds."""
    home = tmp_path / "new home"
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli", "replay", "--into", str(home), "--file", str(whole), "--json"],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith(("FOGBOOK_", "DATABASE_", "REDIS_"))},
        capture_output=True,
        check=True,
    )
    position = json.loads(done.stdout)["position"]
    with running(home) as up, psycopg.connect(up.superuser_url) as connection:
        row = connection.execute("SELECT position, clock FROM heads WHERE zone = 'main'").fetchone()
        assert row == (position, "manual")
        with installation(str(home)) as url:
            assert url == up.superuser_url, "one that runs is filled as it runs"
        with pytest.raises(ReplayRefused, match="has a history there already"):
            export_into(str(home), whole, None, None, quiet)


def test_a_home_that_cannot_be_one_is_refused(whole: Path, fogbook: Fogbook) -> None:
    code, _, err = fogbook("replay", "--into", str(whole), "--file", str(whole))
    assert code == 1 and one_sentence(err) and "cannot be used as the home" in err
