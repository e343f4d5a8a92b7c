"""The command line on a database: keys, zones, replay, rebuild and verify, and what it says when it refuses."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from commands._codec import decision_of, encode_json
from commands._deciding import Command
from commands._log import PostgresLog
from commands._sequencer import Sequencer
from domain.ledger import MintTokens, OpenWallet, Transfer
from ops.access import secret_digest
from ops.home import Run, read_run, write_run
from ops.logging import hide_secrets
from ops.settings import APP_ROLE
from ops.zones import ensure_zone
from projections._follower import Follower
from tests.conftest import PEPPER, Database, Fogbook


def one_sentence(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith(".\n")


def play(database: Database, zone: str = "main") -> None:
    """Two wallets, new tokens, and a few transfers."""
    ensure_zone(database.url, zone)

    async def append() -> None:
        sequencer = Sequencer(zone, PostgresLog(database.url, APP_ROLE))
        await sequencer.start()
        bodies: list[tuple[str, str, Any]] = [
            ("ana", "participant", OpenWallet("wallet:ana")),
            ("ben", "participant", OpenWallet("wallet:ben")),
            ("admin", "operator", MintTokens("wallet:ana", 1_000, "start", "r1")),
            *(("ana", "participant", Transfer("wallet:ana", "wallet:ben", 5)) for _ in range(10)),
            ("ben", "participant", Transfer("wallet:ben", "wallet:ana", 5_000)),
        ]
        commands = [
            Command(
                name=f"ledger/{type(body).__name__}",
                body=body,
                decide=decision_of(type(body)),
                principal=by,
                by=by,
                role=role,
                key=f"k{i}",
                request=encode_json({"n": i}),
            )
            for i, (by, role, body) in enumerate(bodies)
        ]
        outcomes = [await sequencer.submit(command) for command in commands]
        assert [outcome.status for outcome in outcomes] == [200] * 13 + [409]
        await sequencer.stop()

    asyncio.run(append())


def follow(database: Database, zone: str = "main") -> None:
    follower = Follower(database.connect, zone)
    assert follower.begin()
    while follower.advance():
        pass
    follower.end()
    follower.close()


def test_keys_are_made_listed_and_revoked(fogbook: Fogbook, database: Database) -> None:
    code, out, _ = fogbook(
        "keys", "create", "--role", "operator", "--name", "Ops", "--scope", "act-as", "--json"
    )
    made = json.loads(out)
    assert code == 0 and set(made) == {"id", "key"}
    with database.connect() as connection:
        row = connection.execute("SELECT digest, principal, zones FROM api_keys").fetchone()
    assert row == (secret_digest(PEPPER.encode(), made["key"].split("_", 2)[2]), "ops", ["main"])

    code, out, _ = fogbook("keys", "list", "--json")
    (listed,) = json.loads(out)
    assert (listed["id"], listed["role"], listed["scopes"], listed["revoked_at"]) == (
        made["id"],
        "operator",
        ["act-as"],
        None,
    )
    assert made["key"] not in out

    assert fogbook("keys", "revoke", made["id"])[0] == 0
    assert json.loads(fogbook("keys", "list", "--json")[1])[0]["revoked_at"]
    code, _, err = fogbook("keys", "revoke", "nobody")
    assert code == 1 and one_sentence(err)
    assert made["id"] in fogbook("keys", "list")[1]


@pytest.mark.parametrize(
    "wrong",
    [
        ("--role", "king", "--name", "x"),
        ("--role", "operator", "--name", "x", "--scope", "fly"),
        ("--role", "operator", "--name", "x", "--zone", "No Zone"),
        ("--role", "operator", "--name", "no/principal"),
        ("--role", "operator"),
    ],
)
def test_wrong_usage_is_exit_code_2(fogbook: Fogbook, wrong: tuple[str, ...]) -> None:
    assert fogbook("keys", "create", *wrong)[0] == 2


def test_a_zone_begins_with_its_clock_and_its_token(fogbook: Fogbook, database: Database) -> None:
    assert json.loads(fogbook("zones", "create", "sim", "--manual-clock", "--json")[1])["created"] is True
    assert json.loads(fogbook("zones", "create", "sim", "--manual-clock", "--json")[1])["created"] is False
    code, _, err = fogbook("zones", "create", "sim")
    assert code == 1 and one_sentence(err) and "manual" in err
    with database.connect() as connection:
        events = connection.execute(
            "SELECT position, type, recorded_at::text FROM events WHERE zone = 'sim' ORDER BY position"
        ).fetchall()
    time = "2026-01-01 00:00:00+00"
    assert events == [(1, "ZoneCreated", time), (2, "AssetDefined", time)]

    started = ("--manual-clock", "--starts-at", "2030-05-01T12:00:00Z")
    assert fogbook("zones", "create", "later", *started)[0] == 0
    assert fogbook("zones", "create", "now")[0] == 0
    listed = {zone["zone"]: zone for zone in json.loads(fogbook("zones", "list", "--json")[1])}
    assert listed["later"]["time"] == "2030-05-01T12:00:00Z"
    assert [listed[z]["clock"] for z in ("later", "now", "sim")] == ["manual", "real", "manual"]
    assert len({zone["public_key"] for zone in listed.values()}) == len(listed), "a key a zone"
    for wrong in (("Up",), ("x", "--starts-at", "2030-05-01T12:00:00Z")):
        code, _, err = fogbook("zones", "create", *wrong)
        assert code == 1 and err.count("\n") == 1
    assert fogbook("zones", "create", "x", "--manual-clock", "--starts-at", "noon")[0] == 2


def test_of_many_who_make_a_zone_one_makes_it(database: Database) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: ensure_zone(database.url, "main"), range(8)))
    assert made.count(True) == 1
    with database.connect() as connection:
        row = connection.execute("SELECT position, number FROM heads").fetchone()
    assert row == (2, 1)


def test_status_tells_lag_quarantine_and_stuck_timers(fogbook: Fogbook, database: Database) -> None:
    play(database)
    follow(database)
    with database.superuser() as connection:
        connection.execute("UPDATE checkpoints SET position = 2 WHERE projection = 'ledger'")
        for timer in ("hold:h1", "hold:settled-by-others"):
            fate = "INSERT INTO timer_fates VALUES ('main', %s, 4, false, now(), 'unfunded')"
            connection.execute(fate, (timer,))
        connection.execute(
            "INSERT INTO read.timers (zone, generation, timer, position) VALUES ('main', 1, 'hold:h1', 3)"
        )
        connection.execute(
            "INSERT INTO quarantine VALUES ('main', 'ledger', 1, 3, 'wallet:ana', 6, true, 'raised: x')"
        )
    code, out, _ = fogbook("status", "--json")
    found = json.loads(out)
    (ledger,) = (p for p in found["projections"] if p["projection"] == "ledger")
    assert (
        code == 0 and ledger["lag_events"] == found["zones"][0]["position"] - 2 and ledger["lag_seconds"] > 0
    )
    assert [q["position"] for q in found["quarantine"]] == [3]
    assert [t["timer"] for t in found["stuck_timers"]] == ["hold:h1"]
    assert "hold:h1" in fogbook("status")[1]


def test_replay_prints_events_and_states(fogbook: Fogbook, database: Database) -> None:
    play(database)
    lines = [json.loads(line) for line in fogbook("replay")[1].splitlines()]
    assert [line["position"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[0]["data"] == {"zone": "main", "clock": "real"} and lines[0]["meta"]["by"] == "admin"

    opened = [json.loads(line) for line in fogbook("replay", "--type", "WalletOpened")[1].splitlines()]
    assert [line["stream"] for line in opened] == ["wallet:ana", "wallet:ben"]

    *events, state = map(json.loads, fogbook("replay", "--stream", "wallet:ana", "--at", "9")[1].splitlines())
    assert [event["type"] for event in events] == ["WalletOpened", "Credited", "Debited"][: len(events)]
    assert state["version"] == len(events) and state["position"] == 9 and state["state"]["owner"] == "ana"

    (before,) = map(
        json.loads,
        fogbook("replay", "--stream", "wallet:ana", "--at", "2020-01-01T00:00:00Z")[1].splitlines(),
    )
    assert (before["version"], before["position"]) == (0, 0)
    for wrong in (("--at", "soon"), ("--stream", "nix:1", "--at", "1"), ("--zone", "nowhere")):
        code, _, err = fogbook("replay", *wrong)
        assert code == 1 and one_sentence(err)


def test_a_rebuild_leaves_the_same_rows(fogbook: Fogbook, database: Database) -> None:
    play(database)
    follow(database)
    code, out, _ = fogbook("rebuild", "all", "--json")
    assert code == 0 and set(json.loads(out.splitlines()[-1])["positions"]) >= {"ledger", "timers"}
    assert fogbook("rebuild", "ledger")[0] == 0
    assert fogbook("verify")[0] == 0
    code, _, err = fogbook("rebuild", "nothing")
    assert code == 1 and "ledger" in err


def test_verify_finds_nothing_where_nothing_is_wrong(fogbook: Fogbook, database: Database) -> None:
    play(database)
    play(database, "other")
    follow(database)
    code, out, err = fogbook("verify", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["ok"] and found["commands"] == 30 and found["rows"] > 0


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        ("UPDATE events SET data = set_byte(data, 3, 255) WHERE position = 7", {"position": 7}),
        ("UPDATE events SET meta = set_byte(meta, 12, 57) WHERE position = 9", {"position": 9}),
        ("UPDATE events SET recorded_at = recorded_at + interval '1 us' WHERE position = 8", {"position": 8}),
        (
            "UPDATE events SET leaf = set_byte(leaf, 0, get_byte(leaf, 0) # 1) WHERE position = 5",
            {"position": 5},
        ),
        ("DELETE FROM events WHERE position = 10", {"position": 11}),
        ("DELETE FROM events WHERE position = (SELECT max(position) FROM events)", {}),
        ("UPDATE heads SET position = position + 1", {}),
        ("UPDATE commands SET answer = set_byte(answer, 0, 0) WHERE number = 2", {"position": 3}),
        ("UPDATE commands SET status = 200 WHERE status = 409", {}),
        ("DELETE FROM commands WHERE number = 2", {"position": 3}),
        (
            "UPDATE read.ledger_balances SET posted = posted + 1 WHERE account = 'wallet:ben'",
            {"table": "read.ledger_balances", "row": ["wallet:ben", "FOG"], "field": "posted"},
        ),
        (
            "DELETE FROM read.ledger_balances WHERE account = 'wallet:ben'",
            {"table": "read.ledger_balances", "row": ["wallet:ben", "FOG"]},
        ),
        (
            "INSERT INTO read.timers (zone, generation, timer, position) VALUES ('main', 1, 'forged', 1)",
            {"table": "read.timers", "row": ["forged"], "position": 1},
        ),
        (
            "INSERT INTO snapshots SELECT 'main', 'wallet:ben', 1, 4, %(schema)s, '{\"owner\":\"eve\"}'",
            {"position": 4},
        ),
    ],
)
def test_verify_names_what_was_altered(
    fogbook: Fogbook, database: Database, harm: str, named: dict[str, Any]
) -> None:
    from commands._codec import state_schema, streams

    play(database)
    follow(database)
    with database.superuser() as connection:
        schema = state_schema(type(streams()["wallet"].initial))
        connection.execute(harm, {"schema": schema} if "%(schema)s" in harm else None)
    code, out, err = fogbook("verify", "--json")
    found = json.loads(out)
    assert code == 1 and one_sentence(err) and not found["ok"]
    assert any(named.items() <= difference.items() for difference in found["named"]), found["named"]
    text = fogbook("verify")[1]
    assert all(str(value) in text for value in named.values() if not isinstance(value, list))


def test_without_a_run_and_without_a_database_it_says_so(
    fogbook: Fogbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    code, out, err = fogbook("status")
    assert (code, out) == (1, "") and "fogbook up" in err and err.count("\n") == 1


def test_an_unreachable_database_is_one_sentence_without_the_password(
    fogbook: Fogbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://fogbook:hunter2@127.0.0.1:1/none")
    code, _, err = fogbook("status")
    assert code == 1 and err.count("\n") == 1 and "hunter2" not in err


def test_a_database_without_tables_is_told_to_migrate(
    fogbook: Fogbook, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = psycopg.conninfo.make_conninfo(database.superuser_url, dbname="postgres")
    monkeypatch.setenv("DATABASE_URL", other)
    code, _, err = fogbook("zones", "list")
    assert code == 1 and "fogbook migrate" in err
    assert fogbook("migrate")[0] == 0


def test_a_run_that_was_killed_is_not_taken_for_one(home: Path) -> None:
    home.mkdir()
    run = Run("http://x", "k", "d", "s", "r", {"up": 2**22 + 1})
    write_run(home, run)
    assert (home / "run.json").stat().st_mode & 0o777 == 0o600
    assert read_run(home) is None


def test_secrets_do_not_reach_a_log() -> None:
    said = hide_secrets("fog_0123456789ab_abcDEF-123_x at postgresql://u:p4ss@h/db with password=p4ss")
    assert said == "fog_0123456789ab_*** at postgresql://u:***@h/db with password=***"
