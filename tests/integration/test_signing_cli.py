"""Signing keys, witnesses, checkpoints and how far they have come: on the command line and in metrics."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr

from ops.health import add_health
from ops.settings import Settings
from ops.web import App
from projections._notes import COSIGNATURE, ED25519, open_checkpoint, parse_key, verifier_key
from projections._transparency import EVENTS, FATES
from tests.conftest import PEPPER, Database, Fogbook
from tests.integration import test_up
from tests.integration.test_cli import one_sentence
from tests.signing import ORIGIN, SECRET, Zone

WITNESS = Ed25519PrivateKey.from_private_bytes(bytes(32))
VKEY = str(verifier_key("witness.example", WITNESS, COSIGNATURE))


@pytest.fixture
def zone(database: Database) -> Zone:
    made = Zone(database)
    made.append(5, 3)
    return made


def answered(done: tuple[int, str, str]) -> Any:
    code, out, err = done
    assert (code, err) == (0, ""), err
    return json.loads(out)


def refused(done: tuple[int, str, str], *words: str) -> None:
    code, out, err = done
    assert (code, out) == (1, "") and one_sentence(err), (code, out, err)
    assert all(word in err for word in words), err


# Checkpoints


def test_a_checkpoint_is_printed_or_written_to_be_held_elsewhere(
    fogbook: Fogbook, zone: Zone, tmp_path: Path
) -> None:
    code, note, _ = fogbook("checkpoint")
    (key,) = answered(fogbook("keys", "signing", "list", "--json"))
    assert code == 0 and open_checkpoint(note, [parse_key(key["events_vkey"])]).size == 5

    zone.append(1, 1)
    held = tmp_path / "held elsewhere"
    assert "6 events" in fogbook("checkpoint", "--out", str(held))[1]
    said = answered(fogbook("checkpoint", "--json"))
    assert held.read_text() == said["events"]["note"] != note
    assert (tmp_path / "held elsewhere.fates").read_text() == said["fates"]["note"]
    checkpoint = open_checkpoint(said["fates"]["note"], [parse_key(key["fates_vkey"])])
    assert (checkpoint.size, checkpoint.root.hex()) == (said["fates"]["size"], said["fates"]["root"])
    assert checkpoint.origin == f"{ORIGIN}/main/fates"
    zone.check()


def test_a_checkpoint_that_cannot_be_made_is_refused_in_a_sentence(
    fogbook: Fogbook, zone: Zone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(fogbook("checkpoint", "--zone", "nowhere"), "no zone nowhere")
    refused(fogbook("checkpoint", "--out", str(tmp_path / "no such folder" / "file")), "cannot be written")
    with zone.database.superuser() as owner:
        owner.execute("UPDATE heads SET position = 4")
    refused(fogbook("checkpoint"), "ends at 4")
    with zone.database.superuser() as owner:
        owner.execute("UPDATE heads SET position = 5")
    monkeypatch.setenv("FOGBOOK_PEPPER", "another pepper, just as long")
    refused(fogbook("checkpoint"), "FOGBOOK_PEPPER")
    refused(fogbook("keys", "signing", "rotate"), "FOGBOOK_PEPPER")
    monkeypatch.setenv("FOGBOOK_LOG_ORIGIN", "two words")
    refused(fogbook("checkpoint"), "FOGBOOK_LOG_ORIGIN")


@pytest.mark.parametrize("seconds", ["0", "-1", "soon"])
def test_an_interval_that_is_none_is_refused_in_a_sentence(
    fogbook: Fogbook, seconds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOGBOOK_CHECKPOINT_EVERY_S", seconds)
    refused(fogbook("status"), "FOGBOOK_CHECKPOINT_EVERY_S")


def test_an_archivist_without_a_secret_or_a_database_does_not_start(home: Path) -> None:
    somewhere = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x"}
    for env, word in ((somewhere | {"FOGBOOK_PEPPER": "short"}, "FOGBOOK_PEPPER"), ({}, "DATABASE_URL")):
        code, said = test_up.fogbook("archive", "--home", str(home), **env)
        assert code == 1 and one_sentence(said) and word in said


# Keys


def test_keys_are_listed_rotated_and_retired(fogbook: Fogbook, zone: Zone) -> None:
    assert answered(fogbook("keys", "signing", "list", "--json")) == []
    refused(fogbook("keys", "signing", "retire", "1"), "no signing key 1")
    assert answered(fogbook("keys", "signing", "rotate", "--json")) == {"zone": "main", "serial": 2}
    listed = answered(fogbook("keys", "signing", "list", "--json"))
    assert [(key["serial"], key["retired_at"]) for key in listed] == [(1, None), (2, None)]

    assert "retired" in fogbook("keys", "signing", "retire", "1")[1]
    refused(fogbook("keys", "signing", "retire", "2"), "only one")
    refused(fogbook("keys", "signing", "retire", "1"), "no signing key 1")
    assert fogbook("keys", "signing", "retire", "0")[0] == 2
    listed = answered(fogbook("keys", "signing", "list", "--json"))
    assert listed[0]["retired_at"] and listed[1]["retired_at"] is None
    # What was changed is signed already, by the key that is left.
    with zone.database.connect() as connection:
        row = connection.execute(
            "SELECT size, note FROM signed_checkpoints WHERE log = 'fates' ORDER BY size DESC LIMIT 1"
        ).fetchone()
    assert row is not None and row[0] == 3 + 3
    assert open_checkpoint(row[1], [parse_key(listed[1]["fates_vkey"])]).size == 6
    for action in (["list"], ["rotate"], ["retire", "1"]):
        refused(fogbook("keys", "signing", *action, "--zone", "nowhere"), "no zone nowhere")


# Witnesses


def test_witnesses_are_added_listed_and_removed(fogbook: Fogbook) -> None:
    added = {"name": "witness.example", "verifier_key": VKEY}
    assert answered(fogbook("keys", "witness", "add", "witness.example", VKEY, "--json")) == added
    assert fogbook("keys", "witness", "add", "witness.example", VKEY)[0] == 0  # Again: nothing changes.
    (listed,) = answered(fogbook("keys", "witness", "list", "--json"))
    assert {name: listed[name] for name in added} == added
    assert fogbook("keys", "witness", "remove", "witness.example")[0] == 0
    assert answered(fogbook("keys", "witness", "list", "--json")) == []
    refused(fogbook("keys", "witness", "remove", "witness.example"), "no witness witness.example")


def test_a_witness_that_nobody_could_check_is_refused(
    fogbook: Fogbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_key = str(verifier_key("witness.example", WITNESS, ED25519))
    add = ("keys", "witness", "add")
    refused(fogbook(*add, "witness.example", "nonsense"), "verifier key")
    refused(fogbook(*add, "witness.example", VKEY.replace("+", "+0", 1)), "not of its name and key")
    refused(fogbook(*add, "witness.example", log_key), "type 4")
    refused(fogbook(*add, "another.example", VKEY), "witness.example")
    assert fogbook(*add, "witness.example", VKEY)[0] == 0
    other = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
    refused(
        fogbook(*add, "witness.example", str(verifier_key("witness.example", other, COSIGNATURE))),
        "another key",
    )
    monkeypatch.setattr("ops.signing.MOST_WITNESSES", 1)
    second = str(verifier_key("second.example", other, COSIGNATURE))
    refused(fogbook(*add, "second.example", second), "remove one first")


# How far they have come


def test_status_tells_what_is_signed_and_what_is_not(fogbook: Fogbook, zone: Zone) -> None:
    def checkpoints() -> dict[str, tuple[int, int, bool]]:
        found = answered(fogbook("status", "--json"))["checkpoints"]
        assert {each["zone"] for each in found} == {"main"}
        return {each["log"]: (each["size"], each["unsigned"], each["age_seconds"] is None) for each in found}

    assert checkpoints() == {EVENTS: (0, 5, True), FATES: (0, 3, True)}
    assert fogbook("checkpoint")[0] == 0
    assert checkpoints() == {EVENTS: (5, 0, False), FATES: (4, 0, False)}
    zone.append(7, 2)
    assert checkpoints() == {EVENTS: (5, 7, False), FATES: (4, 2, False)}


def test_metrics_tell_the_same_and_readiness_does_not_depend_on_it(zone: Zone) -> None:
    async def ask(path: str) -> httpx.Response:
        app = App(title="health", version="test")
        add_health(app)
        settings = Settings(DATABASE_URL=zone.database.url, pepper=SecretStr(PEPPER))
        async with app.state.health.run(settings):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://fogbook") as http:
                return await http.get(path)

    def metric(name: str, **labels: str) -> float:
        shown = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
        lines = asyncio.run(ask("/metrics")).text.splitlines()
        (found,) = [line for line in lines if line.startswith(f"{name}{{{shown}}} ")]
        return float(found.rpartition(" ")[2])

    log = {"log": "events", "zone": "main"}
    assert asyncio.run(ask("/readyz")).status_code == 200
    assert metric("fogbook_unsigned_entries", **log) == 5
    with zone.database.signer() as connection:
        zone.go_on(connection)
    with zone.database.connect() as connection:
        connection.execute(
            "INSERT INTO archives (zone, projection, generation, code, live, position)"
            " VALUES ('main', 'ledger', 1, '1', true, 3)"
        )
    zone.append(2, 0)
    assert metric("fogbook_signed_size", **log) == 5
    assert metric("fogbook_unsigned_entries", **log) == 2
    assert metric("fogbook_signed_age_seconds", **log) >= 0
    assert metric("fogbook_archive_lag_events", projection="ledger", zone="main") == 4
    assert asyncio.run(ask("/readyz")).status_code == 200


def test_metrics_are_there_when_the_database_is_not() -> None:
    async def scenario() -> None:
        app = App(title="health", version="test")
        add_health(app)
        nowhere = Settings(
            DATABASE_URL="postgresql://nobody@127.0.0.1:1/x", pepper=SecretStr(SECRET.decode())
        )
        async with app.state.health.run(nowhere):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://fogbook") as http:
                assert (await http.get("/metrics")).status_code == 200
                assert (await http.get("/readyz")).status_code == 503

    asyncio.run(scenario())
