"""Who may do what over HTTP and on the command line, and what is recorded of those who may not."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import httpx
import psycopg
import pytest
from psycopg import AsyncConnection

from ops.access import Access, KeyRefused, _lookup, administered, create_key, revoke_key, rotate_key
from ops.access._journal import IN_ORDER, Journal
from ops.app import make_app
from ops.keys import list_keys
from tests.acceptance.api import Caller, Village, environment, village
from tests.conftest import PEPPER, Database, Fogbook
from tests.tokens import AUDIENCE, ISSUER, Provider

Scenario = Callable[[Village], Coroutine[Any, Any, None]]
PAY = {"from": "wallet:ana", "to": "wallet:ben", "amount": "5"}
BALANCE = "/queries/ledger/balance?account=wallet:ana"


whole_app = functools.cache(make_app)
"""Both sides; made once, and started anew for each test."""


@pytest.fixture
def play(database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    environment(monkeypatch, database, redis_url)

    def run(scenario: Scenario) -> None:
        async def whole() -> None:
            async with village(database, whole_app) as v:
                await scenario(v)

        asyncio.run(whole())

    return run


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    return response.status_code, response.json()["type"].removeprefix("/problems/")


async def get(caller: Caller, path: str, **headers: str) -> httpx.Response:
    return await caller.http.get(path, headers={"authorization": f"Bearer {caller.key}"} | headers)


# Scopes


def test_a_key_with_restricting_scopes_does_only_what_these_name(play: Any) -> None:
    async def scenario(v: Village) -> None:
        missing = (403, "scope-missing")
        ledger = v.key("ana", "participant", "commands:ledger")
        assert (await ledger.send("ledger/transfer", PAY)).status_code == 200
        refused = await ledger.send("devices/heartbeat", b"{")
        assert problem(refused) == missing
        assert refused.json()["facts"] == {"scope": "commands:devices", "scopes": ["commands:ledger"]}
        assert refused.headers["www-authenticate"] == (
            'Bearer error="insufficient_scope", scope="commands:devices"'
        )
        assert problem(await get(ledger, BALANCE)) == missing
        assert problem(await get(ledger, "/history/keys")) == missing

        reader = v.key("olga", "auditor", "queries:ledger")
        assert (await get(reader, BALANCE)).status_code in (200, 503)
        assert problem(await get(reader, "/queries/staking/validators")) == missing
        assert problem(await get(reader, "/history/events")) == missing
        assert problem(await get(reader, "/history/access")) == missing
        historian = v.key("olga", "auditor", "history")
        assert (await get(historian, "/history/events")).status_code == 200
        assert problem(await get(historian, BALANCE)) == missing

        acting = v.key("admin", "operator", "act-as", "commands")
        assert (await acting.send("ledger/transfer", PAY, fogbook_act_as="ana")).status_code == 200
        assert problem(await get(acting, "/history/events")) == missing

    play(scenario)


def test_each_line_of_a_batch_needs_the_scope_of_its_command(play: Any) -> None:
    async def scenario(v: Village) -> None:
        lines = [
            {"context": "ledger", "command": "transfer", "key": "b1", "body": PAY},
            {"context": "devices", "command": "heartbeat", "key": "b2", "body": {}},
        ]
        body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)

        async def send(caller: Caller) -> httpx.Response:
            headers = caller.headers(content_type="application/x-ndjson", idempotency_key=None)
            return await v.http.post("/commands", headers=headers, content=body)

        answers = [
            json.loads(line)
            for line in (await send(v.key("ana", "participant", "commands:ledger"))).text.splitlines()
        ]
        assert [answer["status"] for answer in answers] == [200, 403]
        assert answers[1]["body"]["type"] == "/problems/scope-missing"
        assert problem(await send(v.key("ana", "participant", "queries"))) == (403, "scope-missing")
        rows = await access_log(v)
        assert ("denial", "/commands/devices/heartbeat", "ana", "scope-missing") in rows
        assert ("denial", "/commands", "ana", "scope-missing") in rows

    play(scenario)


def test_every_route_that_asks_for_a_key_says_which_roles_and_which_scope_it_takes(play: Any) -> None:
    async def scenario(v: Village) -> None:
        document = (await v.http.get("/openapi.json")).json()
        kinds = {"/commands": "commands", "/queries/": "queries:", "/history/": "history"}
        checked = 0
        for path, methods in document["paths"].items():
            for method, route in methods.items():
                if "security" not in route:
                    assert (path, method) in OPEN
                    assert "x-scope" not in route
                    continue
                parts = path.split("/")
                expected = {
                    "commands": f"commands:{parts[2]}" if len(parts) > 2 else "commands",
                    "queries": f"queries:{parts[2]}" if len(parts) > 2 else "",
                    "history": "history",
                }[parts[1]]
                assert route["x-scope"] == expected, path
                assert route["x-roles"], path
                assert "401" in route["responses"], path
                assert "403" in route["responses"], path
                checked += 1
        assert checked > 150
        assert {path.split("/")[1] for path in document["paths"] if (path, "get") not in OPEN} == {
            kind.strip("/") for kind in kinds
        }

    play(scenario)


OPEN = {(path, "get") for path in ("/healthz", "/readyz", "/metrics", "/problems/{name}")}


# Keys


def test_nobody_is_called_like_an_account_of_the_zone(play: Any) -> None:
    async def scenario(v: Village) -> None:
        for name in ("fees", "treasury", "world"):
            with pytest.raises(KeyRefused, match=name):
                v.key(name, "participant")
            acted = await v.admin.send("ledger/open-wallet", {"wallet": name}, fogbook_act_as=name)
            assert problem(acted) == (403, "principal-reserved")

    play(scenario)


def test_a_key_expires_when_it_says(play: Any) -> None:
    async def scenario(v: Village) -> None:
        for lasting_s in (0.7, 5.0, 60.0):  # A busy machine may not even have begun when the first one ends.
            with v.database.connect() as connection:
                made = create_key(
                    connection,
                    PEPPER.encode(),
                    principal="ana",
                    role="participant",
                    expires_at=datetime.now(UTC) + timedelta(seconds=lasting_s),
                )
            ana = Caller(v.http, made.key)
            answer = await ana.send("ledger/transfer", PAY)
            if answer.status_code == 200:
                break
        assert answer.status_code == 200
        await asyncio.sleep(lasting_s)
        assert problem(await ana.send("ledger/transfer", PAY)) == (401, "unauthenticated")

    play(scenario)


def test_a_key_is_rotated_with_an_overlap_and_never_more_than_two_are_live(database: Database) -> None:
    pepper = PEPPER.encode()
    with database.connect() as connection:
        expires_at = datetime.now(UTC) + timedelta(days=90)
        first = create_key(
            connection,
            pepper,
            principal="ana",
            role="operator",
            name="laptop",
            scopes=("act-as", "commands"),
            zones=("a", "b"),
            expires_at=expires_at,
        )
        rotated = rotate_key(connection, pepper, first.id, timedelta(hours=2))
        assert timedelta(hours=1.9) < rotated.old_expires_at - datetime.now(UTC) <= timedelta(hours=2)
        assert rotated.expires_at is not None
        assert abs(rotated.expires_at - expires_at) < timedelta(minutes=1), "it lives as long again"
        one, two = list_keys(connection)
        same = ("name", "principal", "role", "scopes", "zones", "lineage")
        assert {name: one[name] for name in same} == {name: two[name] for name in same}
        assert (two["id"], two["lineage"]) == (rotated.new.id, first.id)
        for id in (first.id, rotated.new.id):
            with pytest.raises(KeyRefused, match="both keys are live"):
                rotate_key(connection, pepper, id)
        assert revoke_key(connection, first.id)
        with pytest.raises(KeyRefused, match="revoked or expired"):
            rotate_key(connection, pepper, first.id)
        third = rotate_key(connection, pepper, rotated.new.id, timedelta(0)).new
        assert [key["lineage"] for key in list_keys(connection)] == [first.id] * 3
        rotate_key(connection, pepper, third.id)  # The second one expired at once.
        with pytest.raises(KeyRefused, match="no key nobody"):
            rotate_key(connection, pepper, "nobody")


def test_of_many_who_rotate_a_key_at_once_one_does(database: Database) -> None:
    with database.connect() as connection:
        id = create_key(connection, PEPPER.encode(), principal="ana", role="participant").id

    def rotate(_: int) -> bool:
        with database.connect() as connection:
            try:
                rotate_key(connection, PEPPER.encode(), id)
            except KeyRefused:
                return False
            return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(rotate, range(4))) == 1
    with database.connect() as connection:
        assert len(list_keys(connection)) == 2


def test_the_last_use_of_a_key_is_noted_in_the_background_and_once_a_minute(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lookup, "WRITE_EVERY_S", 0.02)

    async def scenario(v: Village) -> None:
        def used() -> dict[str, Any]:
            with v.database.connect() as connection:
                return {key["principal"]: key["last_used_at"] for key in list_keys(connection)}

        for _ in range(2_000):
            if used()["ana"] is not None:
                break
            await asyncio.sleep(0.02)
        first = used()["ana"]
        assert abs(first - datetime.now(UTC)) < timedelta(minutes=1)
        assert used()["olga"] is None, "she has not come yet"
        with v.database.superuser() as owner:
            owner.execute("UPDATE api_keys SET last_used_at = now() - interval '10 seconds'")
            noted = used()["ana"]
            monkeypatch.setattr(_lookup, "CACHE_S", 0.0)
            for _ in range(3):
                await v.ana.send("ledger/transfer", PAY)
                await asyncio.sleep(0.05)
            assert used()["ana"] == noted
            owner.execute("UPDATE api_keys SET last_used_at = now() - interval '61 seconds'")
        noted = used()["ana"]
        for _ in range(2_000):
            await v.ana.send("ledger/transfer", PAY)
            if used()["ana"] != noted:
                break
            await asyncio.sleep(0.02)
        assert used()["ana"] > noted

    play(scenario)


# The access log


class Watched(Journal):
    """Knows whether it is being written."""

    made: ClassVar[list[Watched]] = []

    def __init__(self) -> None:
        super().__init__()
        self.writing = 0
        self.made.append(self)

    async def write(self, connection: AsyncConnection[Any]) -> None:
        self.writing += 1
        try:
            await super().write(connection)
        finally:
            self.writing -= 1


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    Watched.made.clear()
    monkeypatch.setattr(_lookup, "Journal", Watched)


async def access_log(
    v: Village, who: Caller | None = None, **headers: str
) -> list[tuple[str, str, str, str]]:
    """kind, route, principal and problem of what was refused, once all of it is written."""
    found = [row for row in await access_rows(v, who, **headers) if row["kind"] != "administration"]
    return [(row["kind"], row["route"], row["principal"], row["problem"]) for row in found]


async def access_rows(v: Village, who: Caller | None = None, **headers: str) -> list[dict[str, Any]]:
    while any(journal.writing or not journal.is_empty for journal in Watched.made):  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.01)
    response = await get(who or v.admin, "/history/access", **headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_whoever_is_refused_is_recorded_and_no_secret_with_it(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lookup, "WRITE_EVERY_S", 0.02)

    async def scenario(v: Village) -> None:
        mint = {"to": "wallet:ben", "amount": "5", "reason": "x", "reference": "y"}
        for _ in range(5):
            await v.ana.send("ledger/mint-tokens", mint)
        await v.ana.send("ledger/transfer", PAY, fogbook_act_as="ben")
        await v.ana.send("ledger/transfer", PAY, fogbook_at="2030-01-01T00:00:00Z")
        await v.ana.send("ledger/transfer", PAY, fogbook_zone="north")
        await v.ana.send("ledger/transfer", PAY, idempotency_key="timer:x")
        await get(v.ana, "/history/streams/wallet:ana")
        wrong = v.ana.key[:-4] + "oops"
        await v.ana.send("ledger/transfer", PAY, authorization=f"Bearer {wrong}")
        await v.ana.send("ledger/transfer", PAY, authorization=None)
        await v.http.get(BALANCE, headers={"authorization": "Basic YW5hOnNlc2FtZQ=="})
        rows = await access_rows(v)
        refused = {
            (row["kind"], row["route"], row["zone"], row["principal"], row["problem"]): row
            for row in rows
            if row["kind"] != "administration"
        }
        transfer, mine = "/commands/ledger/transfer", ("main", "ana")
        assert set(refused) == {
            ("denial", "/commands/ledger/mint-tokens", *mine, "role-not-allowed"),
            ("denial", transfer, *mine, "act-as-not-allowed"),
            ("denial", transfer, *mine, "act-at-not-allowed"),
            ("denial", transfer, "north", "ana", "zone-not-allowed"),
            ("denial", transfer, *mine, "key-reserved"),
            ("denial", "/history/streams/{stream:path}", *mine, "role-not-allowed"),
            ("authentication", transfer, "", "", "secret-wrong"),
            ("authentication", transfer, "", "", "credentials-missing"),
            ("authentication", "/queries/ledger/balance", "", "", "credentials-malformed"),
        }
        minted = [
            row["count"] for row in rows if row["problem"] == "role-not-allowed" and "mint" in row["route"]
        ]
        assert sum(minted) == 5
        id = v.ana.key.split("_")[1]
        assert refused[("authentication", transfer, "", "", "secret-wrong")]["key_id"] == id
        assert refused[("denial", transfer, *mine, "act-as-not-allowed")]["key_id"] == id
        text = json.dumps(rows)
        assert not any(part in text for part in (v.ana.key.split("_", 2)[2], wrong[-20:], "YW5hOnNlc2FtZQ"))

    play(scenario)


def test_the_access_log_is_for_operators_and_auditors_each_for_the_zones_of_his_key(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lookup, "WRITE_EVERY_S", 0.02)

    async def scenario(v: Village) -> None:
        for who in (v.ana, v.key("pia", "provider"), v.key("wim", "worker")):
            assert problem(await get(who, "/history/access")) == (403, "role-not-allowed")
        await v.ana.send("ledger/transfer", PAY, fogbook_zone="north")
        await v.ana.send("ledger/transfer", PAY, authorization=None)
        assert {row["zone"] for row in await access_rows(v)} == {"main", "north", ""}
        assert {row["zone"] for row in await access_rows(v, v.auditor)} == {"main"}
        north = v.key("nora", "auditor", zones=("north",))
        (row,) = await access_rows(v, north, **{"fogbook-zone": "north"})
        assert (row["zone"], row["problem"]) == ("north", "zone-not-allowed")
        assert problem(await get(north, "/history/access")) == (403, "zone-not-allowed")

    play(scenario)


def test_the_access_log_is_read_in_pages(play: Any) -> None:
    async def scenario(v: Village) -> None:
        whole = (await get(v.admin, "/history/access")).text.splitlines()
        assert len(whole) >= 4, "the keys that were made"
        read: list[str] = []
        after = "0"
        while after:
            page = await get(v.admin, f"/history/access?after={after}&limit=3")
            read += page.text.splitlines()
            after = page.headers.get("fogbook-next", "")
        assert read == whole
        for wrong in ("limit=x", "after=-1", "limit=10001", "kind=denial"):
            assert (await get(v.admin, f"/history/access?{wrong}")).status_code == 422

    play(scenario)


def test_what_is_written_later_has_a_higher_id_so_that_nobody_who_reads_on_misses_it(
    database: Database,
) -> None:
    def act(name: str) -> None:
        with database.connect() as connection:
            administered(connection, name)

    with database.connect() as first, ThreadPoolExecutor(1) as pool:
        with first.transaction():
            first.execute(IN_ORDER)
            second = pool.submit(act, "second")
            while not first.execute(
                "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            ).fetchone():
                time.sleep(0.005)
            administered(first, "first")
        second.result()
        rows = first.execute("SELECT route FROM access_log ORDER BY id").fetchall()
    assert rows == [("first",), ("second",)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE access_log SET count = 0",
        "DELETE FROM access_log",
        "TRUNCATE access_log",
        "UPDATE api_keys SET role = 'operator'",
        "UPDATE api_keys SET digest = ''",
        "DELETE FROM api_keys",
    ],
)
def test_whoever_works_with_it_cannot_take_anything_back(database: Database, statement: str) -> None:
    with database.connect() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def test_refusals_are_written_when_the_process_stops(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(monkeypatch, database, redis_url)
    monkeypatch.setattr(_lookup, "WRITE_EVERY_S", 3_600.0)

    async def whole() -> None:
        async with village(database, whole_app) as v:
            await v.ana.send("ledger/transfer", PAY, authorization=None)

    asyncio.run(whole())
    with database.connect() as connection:
        assert connection.execute(
            "SELECT problem, count FROM access_log WHERE kind = 'authentication'"
        ).fetchall() == [("credentials-missing", 1)]


# Tokens


def test_a_token_opens_what_its_claims_say(
    play: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Provider(tmp_path / "jwks.json")
    provider.add("k1")
    monkeypatch.setenv("FOGBOOK_TOKEN_ISSUER", ISSUER)
    monkeypatch.setenv("FOGBOOK_TOKEN_AUDIENCE", AUDIENCE)
    monkeypatch.setenv("FOGBOOK_TOKEN_KEYS", str(provider.file))
    monkeypatch.setattr(_lookup, "WRITE_EVERY_S", 0.02)

    async def scenario(v: Village) -> None:
        ana = Caller(v.http, provider.token(scope="openid commands:ledger"))
        assert (await ana.send("ledger/transfer", PAY)).status_code == 200
        assert problem(await get(ana, BALANCE)) == (403, "scope-missing")
        assert problem(await ana.send("ledger/transfer", PAY, fogbook_zone="north"))[1] == "zone-not-allowed"
        operator = Caller(v.http, provider.token(sub="olaf", role="operator", scope="act-as"))
        acted = await operator.send("ledger/transfer", PAY, fogbook_act_as="ana")
        assert problem(acted) == (403, "act-as-not-allowed")
        late = provider.token(iat=1, exp=2)
        refused = await Caller(v.http, late).send("ledger/transfer", PAY)
        assert problem(refused) == (401, "unauthenticated")
        assert "expired" in refused.json()["detail"]
        assert refused.headers["www-authenticate"].startswith('Bearer error="invalid_token"')
        assert (await v.ana.send("ledger/transfer", PAY)).status_code == 200, "keys work beside tokens"

        rows = await access_rows(v)
        by_token = [row for row in rows if row["issuer"]]
        assert {(row["key_id"], row["issuer"], row["problem"]) for row in by_token} == {
            ("token:ana", ISSUER, "scope-missing"),
            ("token:ana", ISSUER, "zone-not-allowed"),
            ("token:olaf", ISSUER, "act-as-not-allowed"),
        }
        assert [row["key_id"] for row in rows if row["problem"] == "token-expired"] == [""]
        assert not any(part in json.dumps(rows) for part in (*late.split(".")[1:], *ana.key.split(".")[1:]))

    play(scenario)


def test_where_no_issuer_is_configured_a_token_is_no_key(play: Any, tmp_path: Path) -> None:
    provider = Provider(tmp_path / "jwks.json")
    provider.add("k1")

    async def scenario(v: Village) -> None:
        refused = await Caller(v.http, provider.token()).send("ledger/transfer", PAY)
        assert problem(refused) == (401, "unauthenticated")
        assert refused.headers["www-authenticate"] == "Bearer"

    play(scenario)


# The command line


ANA = ("keys", "create", "--role", "participant", "--name", "ana")


def test_keys_are_made_for_a_time_and_rotated_from_the_command_line(fogbook: Fogbook) -> None:
    made = json.loads(fogbook(*ANA, "--expires-in", "90d", "--scope", "commands:ledger", "--json")[1])
    (key,) = json.loads(fogbook("keys", "list", "--json")[1])
    left = datetime.fromisoformat(key["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=89.9) < left <= timedelta(days=90)
    assert (key["scopes"], key["last_used_at"]) == (["commands:ledger"], None)

    code, out, _ = fogbook("keys", "rotate", made["id"], "--overlap", "2", "--json")
    rotated = json.loads(out)
    assert code == 0
    assert rotated["replaces"]["id"] == made["id"]
    assert rotated["key"].startswith(f"fog_{rotated['id']}_")
    code, _, err = fogbook("keys", "rotate", rotated["id"])
    assert code == 1
    assert "both keys are live" in err
    code, _, err = fogbook("keys", "create", "--role", "participant", "--name", "fees")
    assert code == 1
    assert "fees" in err

    fogbook(*ANA, "--expires-at", "2999-12-31T00:00:00Z")
    fogbook(*ANA, "--expires", "2998-12-31")
    ends = [key["expires_at"] for key in json.loads(fogbook("keys", "list", "--json")[1])]
    assert ends[-2:] == ["2999-12-31T00:00:00Z", "2998-12-31T00:00:00Z"]


@pytest.mark.parametrize(
    "wrong",
    [
        ("--expires-in", "soon"),
        ("--expires-in", "0d"),
        ("--expires-in", "90"),
        ("--expires-at", "2020-01-01"),
        ("--expires-in", "1d", "--expires-at", "2999-01-01"),
        ("--scope", "commands:nothing"),
        ("--scope", "commands:_log"),
        ("--scope", "queries:transfer"),
        ("--scope", "history:events"),
    ],
)
def test_terms_that_make_no_sense_are_wrong_usage(fogbook: Fogbook, wrong: tuple[str, ...]) -> None:
    assert fogbook(*ANA, *wrong)[0] == 2
    assert json.loads(fogbook("keys", "list", "--json")[1]) == []


def test_what_administrators_do_is_recorded(fogbook: Fogbook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "olga")
    made = json.loads(fogbook(*ANA, "--json")[1])
    rotated = json.loads(fogbook("keys", "rotate", made["id"], "--json")[1])
    fogbook("keys", "revoke", made["id"])
    fogbook("zones", "create", "north")
    fogbook("zones", "create", "north")  # It is there already.
    fogbook("rebuild", "principals", "--zone", "north")
    fogbook("keys", "signing", "rotate", "--zone", "north")
    rows = json.loads(fogbook("keys", "log", "--json")[1])
    assert [(row["route"], row["zone"], row["key_id"]) for row in rows] == [
        ("keys create", "", made["id"]),
        ("keys rotate", "", rotated["id"]),
        ("keys revoke", "", made["id"]),
        ("zones create", "north", ""),
        ("rebuild", "north", ""),
        ("keys signing rotate", "north", ""),
    ]
    assert {(row["kind"], row["principal"], row["count"]) for row in rows} == {
        ("administration", "os:olga", 1)
    }
    assert rows[0]["facts"] == {
        "name": "ana",
        "principal": "ana",
        "role": "participant",
        "scopes": [],
        "zones": ["main"],
        "expires_at": None,
    }
    assert rows[1]["facts"]["replaces"] == made["id"]
    secrets = [key.split("_", 2)[2] for key in (made["key"], rotated["key"])]
    assert not any(secret in json.dumps(rows) for secret in secrets)
    behind = json.loads(fogbook("keys", "log", "--after", str(rows[0]["id"]), "--limit", "2", "--json")[1])
    assert behind == rows[1:3]
    assert "keys signing rotate" in fogbook("keys", "log")[1]


def test_the_pool_of_a_process_is_not_held_by_what_is_recorded(database: Database) -> None:
    """What cannot be written now waits on, and is written when it can be."""

    async def scenario() -> None:
        from ops.pool import open_pool
        from ops.problems import Problem
        from ops.settings import Settings

        settings = Settings(DATABASE_URL=database.url)
        async with open_pool(settings, "fogbook tests", 1) as pool:
            access = Access(pool, PEPPER.encode())
            access.journal.refused("/r", Problem(403, "x", "No."))
            with database.superuser() as owner:
                owner.execute("ALTER TABLE access_log RENAME TO elsewhere")
                try:
                    await access.write()
                finally:
                    owner.execute("ALTER TABLE elsewhere RENAME TO access_log")
                assert not access.journal.is_empty
                await access.write()
                assert access.journal.is_empty
                assert owner.execute("SELECT problem FROM access_log").fetchall() == [("x",)]

    asyncio.run(scenario())
