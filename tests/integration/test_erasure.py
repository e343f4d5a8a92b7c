"""Erasure that keeps proofs: personal texts are stored sealed only, and unreadable once their key is gone."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import queries.api
from commands._codec import event_leaf, microseconds, zone_prefix
from commands._erasing import Eraser
from commands._models import command_from
from commands._routes import ROUTES
from commands._signatures import sign, zone_key
from commands._subjects import ERASED, Keyring, KeyringUnavailable
from domain.settlement.transfers import Packet, ReceiveTransfer, statement
from ops.app import make_app
from ops.export import one_moment, stored_entries, survey, write_ndjson
from ops.parquet import write_parquet
from ops.pool import open_pool
from ops.servers import Servers
from ops.settings import Settings
from projections._engine import all_projections
from projections._follower import Follower
from projections._rebuild import rebuild
from tests.acceptance.api import Caller, Village, environment, make_zone, village
from tests.acceptance.economy import Town, Towns, owed, towns_of
from tests.conftest import PEPPER, Database
from tests.running import ROOT
from workers.archive import Archive

PAY = {"from": "wallet:ana", "to": "wallet:ben", "amount": "5"}
CANARY = "Anastasia Quetzalcoatl of 4 Well Lane"
PROFILE = {"display_name": CANARY, "contact": f"{CANARY} \U0001f426"}


def keyring() -> Keyring:
    return Keyring(Path(os.environ["FOGBOOK_SUBJECT_KEYS"]), PEPPER.encode())


def has_key(principal: str = "ana", zone: str = "main") -> bool:
    return (keyring().folder / keyring().id_of(zone, principal)).exists()


async def until_destroyed() -> None:
    for _ in range(6_000):
        if not has_key():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the key is still there")


def follow(database: Database, zone: str = "main") -> None:
    """What a worker does."""
    follower = Follower(database.connect, zone)
    assert follower.begin()
    while follower.advance():
        pass
    follower.end()
    follower.close()


def archive(database: Database) -> None:
    """What the archivist does."""
    archivist = Archive(database.connect, threading.Event())
    while archivist.turn():
        pass
    archivist.close()


async def ask(v: Village, query: str, caller: Caller | None = None, **headers: str | None) -> Any:
    """The items of a query, once the read models have caught up."""
    await asyncio.to_thread(follow, v.database, headers.get("fogbook_zone") or "main")
    response = await v.http.get(f"/queries/{query}", headers=(caller or v.ana).headers(**headers))
    assert response.status_code == 200, response.text
    return response.json()["items"]


def events(database: Database, zone: str = "main") -> list[Any]:
    with database.connect() as connection:
        return connection.execute(
            "SELECT position, stream, version, type, recorded_at, meta, data, leaf FROM events WHERE zone = %s"
            " ORDER BY position",
            (zone,),
        ).fetchall()


def leaves_hold(database: Database, zone: str = "main") -> bool:
    """Every stored leaf is the hash of the stored bytes."""
    return all(
        leaf == event_leaf(zone_prefix(zone), position, stream, version, kind, microseconds(at), meta, data)
        for position, stream, version, kind, at, meta, data, leaf in events(database, zone)
    )


def tables_with(database: Database, text: str) -> list[str]:
    """The tables of all schemas in which these bytes stand, as text, in bytea, or in base64."""
    raw = text.encode()
    found = []
    forms = {text, json.dumps(text)[1:-1], raw.hex(), base64.b64encode(raw).decode()[: len(raw) // 3 * 4]}
    with database.superuser() as connection:
        names = connection.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        assert {"public.events", "public.commands", "public.snapshots"} <= {name for (name,) in names}
        for (name,) in names:
            rows = connection.execute(f"SELECT t::text FROM {name} t").fetchall()
            if any(form in row for (row,) in rows for form in forms):
                found.append(name)
    return found


def exported(database: Database, zone: str, folder: Path) -> list[str]:
    """Everything that a reader finds in an export of the zone as NDJSON, and in one as Parquet."""
    with database.connect() as connection, one_moment(connection):
        manifest = survey(connection, zone)
        for write, name in ((write_ndjson, "log.ndjson"), (write_parquet, "log.parquet")):
            write(folder / name, manifest, stored_entries(connection, manifest), lambda done, whole: None)
    with duckdb.connect() as reader:
        of = [str(folder / "log.parquet")]
        rows = reader.execute("SELECT p::VARCHAR FROM read_parquet(?) p", of).fetchall()
        rows += reader.execute("SELECT value FROM parquet_kv_metadata(?)", of).fetchall()
    return [(folder / "log.ndjson").read_text(), "\n".join(map(str, rows))]


def files_with(folder: Path, text: str, since: float) -> list[Path]:
    """The files of a server, written since then, in which these bytes stand: tables, write-ahead log, log."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # Other databases come and go.
            if path.is_file() and path.stat().st_mtime >= since and text.encode() in path.read_bytes():
                found.append(path)
    return found


@pytest.fixture
def env(database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Database:
    environment(monkeypatch, database, redis_url)
    return database


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write sides look for erasures when they start, and not again."""
    monkeypatch.setattr("commands._erasing.LOOK_EVERY_S", 3_600)


def play(database: Database, scenario: Callable[[Village], Awaitable[None]]) -> None:
    """Run a scenario in a village with both sides."""

    async def played() -> None:
        async with village(database, make_app) as v:
            await scenario(v)

    asyncio.run(played())


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].removeprefix("/problems/")


# Sealed where it is stored, open where it is read


def test_a_memo_is_stored_sealed_and_shown_to_both_parties(env: Database) -> None:
    async def scenario(v: Village) -> None:
        answer = await v.ana.ok("ledger/transfer", PAY | {"memo": "for the well"})
        memos = {event["data"]["memo"] for event in answer["events"]}
        assert [memo[:7] for memo in memos] == ["enc:v1:"]
        assert tables_with(env, memos.pop()) and not tables_with(env, "for the well")
        for who in (v.ana, v.ben):
            name = "ana" if who is v.ana else "ben"
            (line, *_) = await ask(v, f"ledger/statement?account=wallet:{name}", who)
            assert line["memo"] == "for the well"
        history = await v.http.get("/history/events?type=Credited", headers=v.auditor.headers())
        assert b"for the well" not in history.content and b'"memo":"enc:v1:' in history.content

    play(env, scenario)


def test_texts_of_any_kind_come_back_as_they_were_written(env: Database) -> None:
    texts = [
        '"quoted" \\ back',
        "\u00e9\u2028" if "\u2028".isprintable() else "\u00e9",
        "\U0001f426",
        "enc:v1:",
    ]

    async def scenario(v: Village) -> None:
        for text in (
            *texts,
            "x" * 256,
            "\U0001f426" * 256,
            f"enc:v1:{'0' * 32}:{'A' * 40}",
            '"memo":"enc:v1:"',
        ):
            await v.ana.ok("ledger/transfer", PAY | {"memo": text})
            (line, *_) = await ask(v, "ledger/statement")
            assert line["memo"] == text

    play(env, scenario)


def test_another_persons_sealed_text_is_only_text_in_somebody_elses_hands(env: Database) -> None:
    async def scenario(v: Village) -> None:
        (said,) = (await v.ana.ok("principals/set-profile", PROFILE))["events"]
        stolen = said["data"]["contact"]
        await v.ben.ok("principals/set-profile", {"display_name": stolen, "contact": stolen})
        (seen,) = await ask(v, "principals/profile", v.ben)
        assert (seen["display_name"], seen["contact"]) == (stolen, stolen)
        counts = v.counts()
        for caller, path, body in (
            (v.ben, "ledger/transfer", PAY | {"from": "wallet:ben", "reference": stolen}),
            (v.admin, "ledger/freeze-wallet", {"wallet": "ben", "reason": stolen}),
        ):
            refused = await caller.send(path, body)
            assert problem(refused) == (422, "invalid-body")
            assert refused.json()["detail"] == "a text does not begin with enc:v1:"
        assert v.counts() == counts

    play(env, scenario)


def test_a_profile_is_for_its_principal_operators_and_auditors(env: Database) -> None:
    async def scenario(v: Village) -> None:
        await v.ana.ok("principals/set-profile", PROFILE)
        for caller, query in ((v.ana, ""), (v.admin, "?subject=ana"), (v.auditor, "?subject=ana")):
            (seen,) = await ask(v, f"principals/profile{query}", caller)
            assert (seen["display_name"], seen["contact"]) == (PROFILE["display_name"], PROFILE["contact"])
            assert (seen["principal"], seen["erased_at"]) == ("ana", None)
        for caller, query, refused in (
            (v.ben, "profile?subject=ana", (404, "not-found")),
            (v.ben, "profile", (404, "not-found")),
            (v.ana, "erasures", (403, "role-not-allowed")),
        ):
            response = await v.http.get(f"/queries/principals/{query}", headers=caller.headers())
            assert problem(response) == refused

    play(env, scenario)


def test_lines_and_dry_runs_are_sealed_and_a_retry_is_the_same_request(env: Database) -> None:
    async def scenario(v: Village) -> None:
        body = PAY | {"memo": CANARY}
        tried = await v.http.post(
            "/commands/ledger/transfer?dry_run=true",
            headers=v.ana.headers(idempotency_key=None),
            json=body,
        )
        line = json.dumps({"context": "ledger", "command": "transfer", "key": "l1", "body": body}).encode()
        headers = v.ana.headers(idempotency_key=None) | {"content-type": "application/x-ndjson"}
        many = [await v.http.post("/commands", headers=headers, content=line) for _ in range(2)]
        once = [await v.ana.send("ledger/transfer", body, idempotency_key="k1") for _ in range(3)]
        for response in (tried, *many, *once):
            assert response.status_code == 200
            assert b'"memo":"enc:v1:' in response.content and CANARY.encode() not in response.content
        assert len({each.content for each in once}) == len({each.content for each in many}) == 1
        assert [each.headers.get("idempotency-hit") for each in once] == [None, "true", "true"]
        other = await v.ana.send("ledger/transfer", body | {"memo": "other"}, idempotency_key="k1")
        assert problem(other) == (422, "idempotency-key-reused")
        assert tables_with(env, CANARY) == []

    play(env, scenario)


def test_an_operator_who_acts_for_somebody_seals_with_that_ones_key(env: Database) -> None:
    async def scenario(v: Village) -> None:
        await v.admin.ok("ledger/transfer", PAY | {"memo": "hers"}, fogbook_act_as="ana")
        await v.admin.ok("principals/erase-subject", {"principal": "ana"})
        (line, *_) = await ask(v, "ledger/statement?account=wallet:ana", v.admin)
        assert line["memo"] == ERASED
        assert not has_key("admin")

    play(env, scenario)


# Erased


def test_after_an_erasure_the_log_stands_and_nobody_reads_the_texts(
    env: Database, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOGBOOK_LOG_LEVEL", "debug")

    async def scenario(v: Village) -> None:
        await v.ana.ok("principals/set-profile", PROFILE)
        await v.ana.ok("ledger/transfer", PAY | {"memo": CANARY})
        await v.ben.ok("principals/set-profile", {"display_name": "Ben"})
        assert (await ask(v, "ledger/statement"))[0]["memo"] == CANARY
        before = events(env)
        (erased,) = (await v.ana.ok("principals/erase-subject", {"principal": " ANA "}))["events"]
        assert erased["type"] == "SubjectErased"
        assert {key: erased["data"][key] for key in ("principal", "by")} == {"principal": "ana", "by": "ana"}
        assert not has_key() and has_key("ben")
        (line, *_) = await ask(v, "ledger/statement")
        (profile,) = await ask(v, "principals/profile?subject=ana", v.auditor)
        assert {line["memo"], profile["display_name"], profile["contact"]} == {ERASED}
        assert profile["erased_at"] == erased["data"]["at"]
        (other,) = await ask(v, "principals/profile", v.ben)
        assert other["display_name"] == "Ben"
        (listed,) = await ask(v, "principals/erasures", v.auditor)
        assert (listed["principal"], listed["by"]) == ("ana", "ana")
        assert events(env)[: len(before)] == before
        assert leaves_hold(env)

    play(env, scenario)
    assert CANARY not in "".join(capfd.readouterr())


def test_history_keeps_the_very_bytes_that_its_hashes_cover(env: Database) -> None:
    async def lines(v: Village) -> list[str]:
        response = await v.http.get("/history/events?limit=500", headers=v.auditor.headers())
        return response.text.splitlines()

    async def scenario(v: Village) -> None:
        await v.ana.ok("principals/set-profile", PROFILE)
        await v.ana.ok("ledger/transfer", PAY | {"memo": CANARY})
        before = await lines(v)
        await v.ana.ok("principals/erase-subject", {"principal": "ana"})
        after = await lines(v)
        assert after[: len(before)] == before and len(after) == len(before) + 1
        assert CANARY not in "".join(after)
        assert sum('"enc:v1:' in line for line in after) == 3
        state = await v.http.get("/history/streams/principal:ana/state?at=1", headers=v.auditor.headers())
        assert state.status_code == 200
        assert "enc:v1:" in state.text and CANARY not in state.text

    play(env, scenario)


def test_one_who_was_erased_records_no_personal_text_any_more(env: Database) -> None:
    async def scenario(v: Village) -> None:
        body = PAY | {"memo": CANARY}
        await v.ana.ok("ledger/transfer", body, idempotency_key="before")
        await v.ana.ok("principals/erase-subject", {"principal": "ana"})
        counts = v.counts()
        line = json.dumps({"context": "ledger", "command": "transfer", "key": "l1", "body": body}).encode()
        headers = v.ana.headers(idempotency_key=None) | {"content-type": "application/x-ndjson"}
        (answer,) = (await v.http.post("/commands", headers=headers, content=line)).text.splitlines()
        assert json.loads(answer)["status"] == 409
        assert json.loads(answer)["body"]["type"] == "/problems/subject-erased"
        for response in (
            await v.ana.send("ledger/transfer", body),
            # What was stored cannot be told from another request any more: its words are nowhere.
            await v.ana.send("ledger/transfer", body, idempotency_key="before"),
            await v.ana.send("ledger/transfer?dry_run=true", body),
            await v.ana.send("principals/set-profile", PROFILE),
            await v.admin.send("ledger/transfer", body, fogbook_act_as="ana"),
        ):
            assert problem(response) == (409, "subject-erased")
            facts = response.json()["facts"]
            assert facts["principal"] == "ana" and facts["fields"]
        assert v.counts() == counts
        refused = await v.ana.send("principals/set-profile", {"display_name": ""})
        assert problem(refused) == (409, "subject-is-erased")
        await v.ana.ok("ledger/transfer", PAY)
        await v.ben.ok("principals/set-profile", {"display_name": "Ben"})

    play(env, scenario)


def test_a_principal_is_erased_once_and_by_those_who_may(env: Database) -> None:
    async def scenario(v: Village) -> None:
        await v.ana.ok("principals/set-profile", PROFILE)
        for caller in (v.ben, v.key("vic", "provider")):
            response = await caller.send("principals/erase-subject", {"principal": "ana"})
            assert problem(response) == (404, "principal-not-found")
        response = await v.auditor.send("principals/erase-subject", {"principal": "olga"})
        assert problem(response) == (403, "role-not-allowed")
        tried = await v.admin.send("principals/erase-subject?dry_run=true", {"principal": "ana"})
        assert len(tried.json()["events"]) == 1 and has_key()
        stale = await v.admin.send("principals/erase-subject", {"principal": "ana"}, if_match='"7"')
        assert problem(stale) == (412, "stale-version") and has_key()
        for events_of_it in (1, 0):
            answer = await v.admin.ok("principals/erase-subject", {"principal": "ana"})
            assert len(answer["events"]) == events_of_it and not has_key()

    play(env, scenario)


# Zones


def test_an_operator_erases_in_his_own_zone_only_and_there_it_is_recorded(env: Database, once: None) -> None:
    """To be erased everywhere is one command in each zone."""

    async def scenario(v: Village) -> None:
        await asyncio.to_thread(make_zone, env, "side")
        sides = v.key("mallory", "operator", zones=("side",))
        ana = v.key("ana", "participant", zones=("*",))
        everybody = v.key("root", "operator", zones=("*",))
        for zone in ("main", "side"):
            await ana.ok("principals/set-profile", PROFILE, fogbook_zone=zone)

        async def contact(zone: str) -> str:
            (seen,) = await ask(v, "principals/profile", ana, fogbook_zone=zone)
            return str(seen["contact"])

        refused = await sides.send("principals/erase-subject", {"principal": "ana"}, fogbook_zone="main")
        assert problem(refused) == (403, "zone-not-allowed")
        await sides.ok("principals/erase-subject", {"principal": "ana"}, fogbook_zone="side")
        async with open_pool(Settings(), "fogbook tests", 1) as pool:
            await Eraser(pool, keyring()).look()
        assert (await contact("main"), await contact("side")) == (PROFILE["contact"], ERASED)
        assert await ask(v, "principals/erasures", everybody, fogbook_zone="main") == []
        (listed,) = await ask(v, "principals/erasures", everybody, fogbook_zone="side")
        assert (listed["principal"], listed["by"]) == ("ana", "mallory")
        await ana.ok("principals/set-profile", PROFILE | {"display_name": "Ana"}, fogbook_zone="main")
        again = await ana.send("principals/set-profile", PROFILE, fogbook_zone="side")
        assert problem(again) == (409, "subject-erased")
        await ana.ok("principals/erase-subject", {"principal": "ana"}, fogbook_zone="main")
        assert await contact("main") == ERASED
        assert not has_key("ana", "main") and not has_key("ana", "side")

    play(env, scenario)


# Caches


def test_an_answer_with_a_personal_text_is_kept_by_nobody(env: Database) -> None:
    """Its position stays when the text is erased, as of a position for ever: a tag would keep the words alive."""

    async def scenario(v: Village) -> None:
        await v.ana.ok("ledger/transfer", PAY | {"memo": "for the well"})
        await v.ana.ok("ledger/transfer", PAY)
        await ask(v, "ledger/statement")
        await asyncio.to_thread(archive, env)
        position = v.counts()[0]

        async def asked(query: str, tag: str = "") -> httpx.Response:
            headers = v.ana.headers() | ({"if-none-match": tag} if tag else {})
            return await v.http.get(f"/queries/ledger/{query}", headers=headers)

        texts = ("statement", f"statement?as_of={position}", f"statement?diff=7&as_of={position}")
        for query in texts:
            response = await asked(query)
            assert "for the well" in response.text, query
            assert "etag" not in response.headers
            assert response.headers["cache-control"] == "private, no-store"
        for query in ("balance", f"balance?as_of={position}", "statement?limit=1"):
            response = await asked(query)
            assert response.headers["cache-control"] == "private, no-cache"
            assert (await asked(query, response.headers["etag"])).status_code == 304
        await v.ana.ok("principals/erase-subject", {"principal": "ana"})
        for query in texts:
            response = await asked(query)
            assert response.status_code == 200 and ERASED in response.text
            assert "for the well" not in response.text and "etag" not in response.headers

    play(env, scenario)


# What can go wrong


def test_without_the_folder_of_the_keys_nothing_personal_is_recorded(env: Database) -> None:
    async def scenario(v: Village) -> None:
        await v.ana.ok("ledger/transfer", PAY | {"memo": CANARY})
        (line, *_) = await ask(v, "ledger/statement")
        folder, counts = keyring().folder, v.counts()
        away = folder.rename(folder.with_name(folder.name + ".away"))
        try:
            for caller in (v.ana, v.ben):
                response = await caller.send("principals/set-profile", PROFILE)
                assert problem(response) == (503, "subject-keys-unavailable")
                assert response.headers["retry-after"]
            assert v.counts() == counts
            assert not folder.exists()
            (hidden, *_) = await ask(v, "ledger/statement")
            assert hidden["memo"].startswith("enc:v1:")
            await v.ana.ok("ledger/transfer", PAY)
        finally:
            away.rename(folder)
        assert (await ask(v, "ledger/statement"))[1] == line
        await v.ana.ok("principals/set-profile", PROFILE)
        assert tables_with(env, CANARY) == []

    play(env, scenario)


def test_a_key_that_could_not_be_destroyed_at_once_is_destroyed_when_that_is_possible(
    env: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands._erasing.LOOK_EVERY_S", 0.05)
    destroy, failures = Keyring.destroy, iter(range(3))

    def failing(self: Keyring, zone: str, principal: str) -> None:
        if next(failures, None) is not None:
            raise KeyringUnavailable("the disk is full")
        destroy(self, zone, principal)

    async def scenario(v: Village) -> None:
        await v.ana.ok("principals/set-profile", PROFILE)
        monkeypatch.setattr(Keyring, "destroy", failing)
        answer = await v.ana.ok("principals/erase-subject", {"principal": "ana"})
        assert answer["events"]
        await until_destroyed()
        (seen,) = await ask(v, "principals/profile")
        assert seen["contact"] == ERASED

    play(env, scenario)


KILLED = """
import os, signal
import uvicorn
from commands._subjects import Keyring
from commands.api import make_app

Keyring.destroy = lambda self, zone, principal: os.kill(os.getpid(), signal.SIGKILL)
config = uvicorn.Config(make_app(), uds=os.environ["SOCKET"], lifespan="on", log_config=None)
uvicorn.Server(config).run()
"""


@pytest.fixture
def doomed(env: Database, tmp_path: Path) -> Iterator[str]:
    """A write side that is killed at the moment when it should destroy a key; the socket on which it listens."""
    uds = str(tmp_path / "s")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED], cwd=ROOT, env=os.environ | {"SOCKET": uds}, stderr=subprocess.PIPE
    )
    try:
        while not os.path.exists(uds):
            assert process.poll() is None
            time.sleep(0.02)
        yield uds
        assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
        process.communicate()


def test_a_kill_between_the_record_and_the_destruction_is_made_good_at_the_next_start(
    env: Database, once: None, doomed: str
) -> None:
    async def erase(v: Village) -> None:
        await v.ana.ok("principals/set-profile", PROFILE)
        transport = httpx.AsyncHTTPTransport(uds=doomed)
        async with httpx.AsyncClient(transport=transport, base_url="http://fogbook", timeout=60) as http:
            with pytest.raises(httpx.TransportError):
                await Caller(http, v.ana.key).ok("principals/erase-subject", {"principal": "ana"})
        assert [event[3] for event in events(env)][-1] == "SubjectErased"
        assert has_key()
        assert (await ask(v, "principals/profile"))[0]["contact"] == PROFILE["contact"]

    async def next_start(v: Village) -> None:
        await until_destroyed()
        (seen,) = await ask(v, "principals/profile")
        assert seen["contact"] == ERASED

    async def restarted() -> None:
        async with village(env, make_app) as v:
            await erase(v)
            ana = v.ana.key
        app = make_app()
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://fogbook") as http:
                caller = Caller(http, ana)
                await next_start(Village(http, env, caller, caller, caller, caller))

    asyncio.run(restarted())


def test_the_eraser_reads_on_where_it_stopped_in_every_zone(env: Database, once: None) -> None:
    async def scenario(v: Village) -> None:
        await asyncio.to_thread(make_zone, env, "other")
        everywhere = v.key("ana", "participant", zones=("*",))
        mine = keyring()
        async with open_pool(Settings(), "fogbook tests", 1) as pool:
            eraser = Eraser(pool, mine)
            await eraser.look()
            zones = ("main", "other", "main")
            for number, zone in enumerate(zones):
                name = f"p{number}"
                for each in ("main", "other"):
                    await asyncio.to_thread(mine.make, each, name)
                copy = (mine.folder / mine.id_of(zone, name)).read_bytes()
                await v.admin.ok("principals/erase-subject", {"principal": name}, fogbook_zone=zone)
                # As a folder that was brought back from a copy.
                (mine.folder / f"{mine.id_of(zone, name)}.erased").unlink()
                (mine.folder / mine.id_of(zone, name)).write_bytes(copy)
                await eraser.look()
                assert not has_key(name, zone)
            again = Eraser(pool, mine)
            for number, zone in enumerate(zones):
                (mine.folder / mine.id_of(zone, f"p{number}")).write_bytes(bytes(64))
            await eraser.look()
            assert has_key("p0")
            await again.look()
            for number, zone in enumerate(zones):
                assert [has_key(f"p{number}", each) for each in ("main", "other")] == [
                    zone != "main",
                    zone != "other",
                ]
        await everywhere.ok("principals/set-profile", PROFILE, fogbook_zone="other")

    play(env, scenario)


def test_an_erasure_that_cannot_be_read_any_more_keeps_none_from_being_made_good(
    env: Database, once: None
) -> None:
    """Somebody harmed the log: whom a stream is of, its name says."""

    async def scenario(v: Village) -> None:
        mine = keyring()
        for name in ("ana", "ben"):
            await v.admin.ok("principals/erase-subject", {"principal": name})
            (mine.folder / f"{mine.id_of('main', name)}.erased").unlink()
            await asyncio.to_thread(mine.make, "main", name)
        with env.superuser() as connection:
            connection.execute("UPDATE events SET data = 'harmed' WHERE stream = 'principal:ana'")
        async with open_pool(Settings(), "fogbook tests", 1) as pool:
            await Eraser(pool, mine).look()
        assert not has_key("ana") and not has_key("ben")

    play(env, scenario)


# Between zones


def test_a_memo_travels_sealed_and_is_erased_where_it_was_written(env: Database) -> None:
    async def scenario(v: Village) -> None:
        zone, pepper = "far", PEPPER.encode()
        await asyncio.to_thread(make_zone, env, zone)
        vic = v.key("vic", "participant", zones=("*",))
        await vic.ok("ledger/open-wallet", {"wallet": "vic"}, fogbook_zone=zone)
        for here, there in (("main", zone), (zone, "main")):
            key = zone_key(pepper, there).public_key().public_bytes_raw().hex()
            await v.admin.ok("settlement/register-peer", {"zone": there, "key": key}, fogbook_zone=here)
        told = await v.ana.ok(
            "settlement/initiate-transfer",
            {
                "target_zone": zone,
                "recipient": "vic",
                "amount": "5",
                "memo": CANARY,
                "timeout": "2100-01-01T00:00:00Z",
            },
        )
        (sent,) = (event["data"]["packet"] for event in told["events"] if "packet" in event["data"])
        assert sent["memo"].startswith("enc:v1:")
        packet = Packet(
            **sent
            | {"amount": int(sent["amount"]), "settled": tuple(sent["settled"])}
            | {"timeout": datetime.fromisoformat(sent["timeout"])}
        )
        proof = sign(zone_key(pepper, "main"), statement("packet", packet).encode())
        await v.admin.ok("settlement/receive-transfer", {"packet": sent, "proof": proof}, fogbook_zone=zone)

        async def memos() -> set[str]:
            (here,) = await ask(v, "settlement/transfers")
            (there,) = await ask(v, "settlement/transfers", vic, fogbook_zone=zone)
            assert (here["direction"], there["direction"]) == ("out", "in")
            return {here["memo"], there["memo"]}

        assert await memos() == {CANARY}
        assert tables_with(env, CANARY) == []
        # Whoever is called so in the zone that it came to is somebody else.
        await v.admin.ok("principals/erase-subject", {"principal": "ana"}, fogbook_zone=zone)
        assert await memos() == {CANARY}
        await v.ana.ok("principals/erase-subject", {"principal": "ana"})
        assert await memos() == {ERASED}
        assert leaves_hold(env) and leaves_hold(env, zone)

    play(env, scenario)


def packet_of(source: str, memo: str, sequence: int, timeout: str = "2100-01-01T00:00:00Z") -> dict[str, Any]:
    return {
        **{
            "source": source,
            "target": "main",
            "sequence": sequence,
            "asset": "FOG",
            "scale": 6,
            "amount": "5",
        },
        **{"sender": "wallet:eve", "recipient": "wallet:ben", "timeout": timeout, "memo": memo},
    }


def signed_by(key: Ed25519PrivateKey, packet: dict[str, Any]) -> dict[str, Any]:
    """The packet as a command takes it, with the signature by which its zone proves it."""
    sent = command_from(ReceiveTransfer, {"packet": packet, "proof": ""}).packet
    return {"packet": packet, "proof": sign(key, statement("packet", sent).encode())}


@pytest.mark.parametrize("source", ["evil", "far"])
@pytest.mark.parametrize("erased", [False, True])
def test_a_peer_has_no_sealed_text_opened_by_sending_it_as_a_memo(
    env: Database, source: str, erased: bool
) -> None:
    """Neither under a name of its own nor under that of a zone of this installation whose key it is not."""
    key = Ed25519PrivateKey.generate()

    async def scenario(v: Village) -> None:
        await asyncio.to_thread(make_zone, env, "far")
        peer = {"zone": source, "key": key.public_key().public_bytes_raw().hex()}
        await v.admin.ok("settlement/register-peer", peer)
        told = await v.ana.ok("ledger/transfer", PAY | {"memo": CANARY})
        stolen = told["events"][0]["data"]["memo"]
        if erased:
            await v.ana.ok("principals/erase-subject", {"principal": "ana"})
        counts = v.counts()
        for command, timeout in (
            ("receive-transfer", "2100-01-01T00:00:00Z"),
            ("refuse-transfer", "2026-01-01T00:00:00Z"),
        ):
            body = signed_by(key, packet_of(source, stolen, 1, timeout))
            refused = await v.admin.send(f"settlement/{command}", body)
            assert problem(refused) == (422, "sealed-elsewhere")
        assert v.counts() == counts
        # What only looks sealed, or was sealed by whoever sends it, is taken as it is.
        for sequence, memo in enumerate((f"enc:v1:{'0' * 32}:{'A' * 40}", f" {stolen}", "plain"), 1):
            await v.admin.ok("settlement/receive-transfer", signed_by(key, packet_of(source, memo, sequence)))
            shown = await ask(v, "settlement/transfers", v.ben)
            assert memo in {line["memo"] for line in shown}

    play(env, scenario)


def test_without_the_folder_of_the_keys_no_sealed_memo_is_taken(env: Database) -> None:
    """Nobody can tell then whose it is."""
    key = Ed25519PrivateKey.generate()

    async def scenario(v: Village) -> None:
        peer = {"zone": "far", "key": key.public_key().public_bytes_raw().hex()}
        await v.admin.ok("settlement/register-peer", peer)
        told = await v.ana.ok("ledger/transfer", PAY | {"memo": CANARY})
        stolen = told["events"][0]["data"]["memo"]
        folder = keyring().folder
        away = folder.rename(folder.with_name(folder.name + ".away"))
        try:
            response = await v.admin.send(
                "settlement/receive-transfer", signed_by(key, packet_of("far", stolen, 1))
            )
            assert problem(response) == (503, "subject-keys-unavailable")
            await v.admin.ok("settlement/receive-transfer", signed_by(key, packet_of("far", "plain", 1)))
        finally:
            away.rename(folder)

    play(env, scenario)


# Everything personal at once


@pytest.fixture(scope="module")
def towns(servers: Servers, _template: str) -> Iterator[Towns]:
    with towns_of(servers, _template, "erasure") as made:
        yield made


def said(number: int) -> str:
    return f"{CANARY}, number {number}."


async def says_everything(t: Town) -> list[tuple[str, str, Any]]:
    """Every command with a personal text, once, with a text of its own. Returns (who, path, body)."""
    p = t.people
    await t.with_harvesters()
    await t.with_offerings(capacity=4)
    await p.admin.ok("open-window", {"window": "n1"})
    key = zone_key(PEPPER.encode(), "far").public_key().public_bytes_raw().hex()
    await p.admin.ok("register-peer", {"zone": "far", "key": key})
    await p.ben.ok("start-harvest-session", {"session": "s1", "device": "d1"})
    await t.starts("k1")
    await t.starts("k2")
    await p.dee.ok(
        "register-device",
        {
            "device": "d9",
            "type": "phone",
            "capabilities": {"cpu_millicores": 1, "memory_mb": 1},
            "region": "north",
        },
    )
    await t.later(minutes=10)
    await p.ben.ok("record-contribution", {"session": "s1", "seq": 1, "cpu_ms": 600_000})
    stake = {"validator": "v1", "commission": 0}
    sent: list[tuple[str, str, Any]] = [
        ("ana", "set-profile", {"display_name": said(0), "contact": said(1)}),
        ("ana", "transfer", {"from": "wallet:ana", "to": "wallet:ben", "amount": "5", "memo": said(2)}),
        ("ana", "record-obligation", owed("ana", "ben", memo=said(3))),
        (
            "ana",
            "initiate-transfer",
            {
                "target_zone": "far",
                "recipient": "fay",
                "amount": "5",
                "memo": said(4),
                "timeout": t.at(days=1),
            },
        ),
        ("val", "register-validator", stake | {"self_stake": "1000000", "description": said(5)}),
        ("val", "edit-validator", stake | {"description": said(6)}),
        (
            "admin",
            "slash",
            {"validator": "v1", "kind": "downtime", "infraction_at": t.at(), "evidence_id": "x1"},
        ),
        ("val", "appeal-slash", {"evidence_id": "x1", "grounds": said(7)}),
        ("ben", "dispute-contribution", {"session": "s1", "seq": 1, "reason": said(8)}),
        ("ana", "terminate-contract", {"contract": "k1", "reason": said(9)}),
        ("ana", "review-provider", {"contract": "k1", "rating": 4, "comment": said(10)}),
        ("ana", "open-dispute", {"dispute": "q1", "contract": "k2", "reason": said(11)}),
        ("ben", "submit-evidence", {"dispute": "q1", "digest": "ff", "note": said(12)}),
        ("dee", "suspend-device", {"device": "d2", "reason": said(13)}),
        ("dee", "retire-device", {"device": "d9", "reason": said(14)}),
        ("ana", "burn-tokens", {"from": "wallet:ana", "amount": "1", "reason": said(15)}),
    ]
    for who, path, body in sent:
        await p[who].ok(path, body | {}, idempotency_key=f"said-{path}")
    return [each for each in sent if each[1] != "slash"]


SHOWN = (
    ("principals/profile?subject=ana", (0, 1)),
    ("ledger/statement?account=wallet:ana", (2,)),
    ("settlement/obligations?party=ana", (3,)),
    ("settlement/transfers", (4,)),
    ("staking/validators", (6,)),
    ("staking/slash-log", (7,)),
    ("harvest/contributions", (8,)),
    ("marketplace/contract?contract=k1", (9,)),
    ("marketplace/reviews", (10,)),
    ("settlement/disputes", (11,)),
    ("settlement/dispute-evidence?dispute=q1", (12,)),
    ("devices/card?device=d2", (13,)),
    ("devices/card?device=d9", (14,)),
)
"""Queries, and the texts that they show to an auditor."""


@asynccontextmanager
async def asking(zone: str, key: str) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """The read side of a zone, for an auditor."""
    app = queries.api.make_app()
    headers = {"authorization": f"Bearer {key}", "fogbook-zone": zone}
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://fogbook", headers=headers) as http:

            async def asked(query: str) -> str:
                response = await http.get(f"/queries/{query}")
                assert response.status_code == 200, (query, response.text)
                return response.text

            yield asked


def test_no_personal_text_of_any_command_is_stored_anywhere(
    towns: Towns, servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor in snapshots, in rows that were built anew, in past rows, in exports, and in the server's files and logs."""
    monkeypatch.setattr("commands._deciding.SNAPSHOT_EVERY", 1)

    async def scenario(t: Town) -> None:
        begun = time.time()
        sent = await says_everything(t)
        routes = {name.split("/")[1] for name, route in ROUTES.items() if route.personal}
        assert {path for _, path, _ in sent} == routes
        database = towns.village.database
        await asyncio.to_thread(follow, database, t.zone)
        async with asking(t.zone, towns.keys["olga"]) as asked:
            for query, numbers in SHOWN:
                shown = await asked(query)
                for number in numbers:
                    assert said(number) in shown, (query, number)
            for projection in all_projections().values():
                await asyncio.to_thread(rebuild, database.connect, t.zone, projection)
            await asyncio.to_thread(archive, database)
            position = t.counts()[0]
            past = "devices/card?device=d9&as_of={}"
            assert said(14) in await asked(past.format(position))
            assert {"public.snapshots", "past.devices", "read.devices"} <= set(
                tables_with(database, "enc:v1:")
            )
            assert tables_with(database, CANARY) == []
            for file in exported(database, t.zone, tmp_path):
                assert CANARY not in file and json.dumps(CANARY)[1:-1] not in file
                assert file.count("enc:v1:") >= len(sent)
            with database.superuser() as connection:
                connection.execute("CHECKPOINT")
            assert files_with(servers.home, CANARY, begun) == []
            assert any("pg_wal" in path.parts for path in files_with(servers.home, "enc:v1:", begun))
            for who in ("ana", "ben", "dee", "val"):
                await t.people[who].ok("erase-subject", {"principal": who})
            await asyncio.to_thread(follow, database, t.zone)
            for query, numbers in SHOWN:
                shown = await asked(query)
                assert CANARY not in shown and "enc:v1:" not in shown, query
                assert shown.count(ERASED) >= len(numbers), query
            shown = await asked(past.format(position))
            assert CANARY not in shown and ERASED in shown
        assert leaves_hold(database, t.zone)
        for who, path, body in sent:
            response = await t.people[who].send(path, body, idempotency_key=f"said-{path}")
            assert problem(response) == (409, "subject-erased"), path

    towns.run(scenario)
