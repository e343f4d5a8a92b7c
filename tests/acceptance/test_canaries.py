"""Secrets are planted in every way in which they enter, and looked for wherever they must not come out."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import psycopg
import pytest
import redis
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from commands._signatures import log_key, zone_key
from tests.integration.test_up import Started, eventually, fogbook, started

# Many processes, one after the other: much longer than usual where the machine is busy.
pytestmark = [pytest.mark.xdist_group("canaries"), pytest.mark.timeout(900)]

PERSONAL = {
    "a name": "Quetzal Xylophone-Ntombi",
    "a contact": "quetzal@xylophone.example",
    "a memo": "for the red bicycle of aunt Zsófia",
}


def shapes(secret: bytes) -> list[bytes]:
    """How it would look wherever it was passed on."""
    text = secret.decode("latin-1")
    return [
        secret,
        quote(text).encode(),
        secret.hex().encode(),
        base64.b64encode(secret).rstrip(b"="),
        base64.urlsafe_b64encode(secret).rstrip(b"="),
        json.dumps(text).strip('"').encode(),
    ]


def leaks(canaries: Mapping[str, bytes], places: Mapping[str, bytes]) -> list[str]:
    """Which canary is where."""
    return [
        f"{name} in {place}"
        for name, secret in canaries.items()
        for place, content in places.items()
        if any(shape in content for shape in shapes(secret))
    ]


@pytest.mark.parametrize("encode", range(6))
def test_a_canary_that_got_out_is_found_in_any_of_its_shapes(encode: int) -> None:
    canary = secrets.token_bytes(32) if encode else b"a plain one"
    log = b'{"event": "started", "with": "' + shapes(canary)[encode] + b'"}'
    assert leaks({"the pepper": canary}, {"a log": log, "another": b"nothing"}) == ["the pepper in a log"]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    # Debug, so that nothing is left unsaid.
    with started(tmp_path_factory.mktemp("canaries") / "home", FOGBOOK_LOG_LEVEL="debug") as up:
        yield up


def planted(up: Started) -> dict[str, bytes]:
    """What lies in the home, or follows from it."""
    pepper = (up.home / "pepper").read_text().strip().encode()
    keys = json.loads((up.home / "keys.json").read_text())
    passwords = json.loads((up.home / "servers.json").read_text())
    private = (Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    found = {"the pepper": pepper}
    found |= {f"the password of {name}": value.encode() for name, value in passwords.items()}
    found |= {f"the key of {name}": key.split("_", 2)[2].encode() for name, key in keys.items()}
    found["the seed that signs the log"] = log_key(pepper, "main", 1).private_bytes(*private)
    found["the seed of the zone"] = zone_key(pepper, "main").private_bytes(*private)
    return found


def token(header: str) -> str:
    """A JWT that nobody signed."""
    parts = [{"alg": header, "typ": "JWT"}, {"sub": "ana", "canary": secrets.token_hex(8)}]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, secrets.token_urlsafe(32)])


class Careless:
    """Somebody who puts secrets where they do not belong, and keeps what he is answered."""

    def __init__(self, up: Started) -> None:
        self.up = up
        self.canaries: dict[str, bytes] = {}
        self.answers: list[bytes] = []
        self._number = 0

    def plant(self, name: str, secret: str) -> str:
        self.canaries[name] = secret.encode()
        return secret

    def post(self, path: str, body: Any, *, key: str = "", by: str = "", **headers: str) -> httpx.Response:
        self._number += 1
        sent = {
            "authorization": f"Bearer {key or self.up.run['admin_key']}",
            "idempotency-key": f"c{self._number}",
        }
        sent |= {"fogbook-act-as": by} if by else {}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent |= {"content-type": "application/json"} | headers
        answer = httpx.post(self.up.run["url"] + path, headers=sent, content=content, timeout=30)
        if answer.status_code >= 400:
            self.answers.append(answer.content + repr(answer.headers).encode())
        return answer

    def get(self, path: str, **headers: str) -> httpx.Response:
        answer = httpx.get(self.up.run["url"] + path, headers=headers, timeout=30)
        self.answers.append(answer.content + repr(answer.headers).encode())
        return answer

    def acts(self) -> None:
        self.writes_personal_texts()
        self.uses_keys_that_are_none()
        self.sends_nonsense()

    def writes_personal_texts(self) -> None:
        self.canaries |= {name: text.encode() for name, text in PERSONAL.items()}
        for who in ("ana", "ben"):
            assert self.post("/commands/ledger/open-wallet", {"wallet": who}, by=who).status_code == 200
        mint = {"to": "wallet:ana", "amount": "5", "reason": "welcome", "reference": "w"}
        assert self.post("/commands/ledger/mint-tokens", mint).status_code == 200
        profile = {"display_name": PERSONAL["a name"], "contact": PERSONAL["a contact"]}
        assert self.post("/commands/principals/set-profile", profile, by="ana").status_code == 200
        pay = {"from": "wallet:ana", "to": "wallet:ben", "amount": "5", "memo": PERSONAL["a memo"]}
        assert self.post("/commands/ledger/transfer", pay, by="ana").status_code == 200
        # Refused by a rule, and as malformed.
        assert self.post("/commands/ledger/transfer", pay, by="ana").status_code == 409
        assert self.post("/commands/ledger/transfer", pay | {"amount": "five"}, by="ana").status_code == 422
        assert (
            self.post("/commands/principals/set-profile", profile | {"more": 1}, by="ana").status_code == 422
        )

    def uses_keys_that_are_none(self) -> None:
        home = ("--home", str(self.up.home))
        made = fogbook("keys", "create", "--role", "participant", "--name", "eve", "--json", *home)
        created = json.loads(made[1])
        self.plant("a key of a participant", created["key"].rpartition("_")[2])
        assert (
            self.post("/commands/ledger/open-wallet", {"wallet": "eve"}, key=created["key"]).status_code
            == 200
        )
        assert self.post("/commands/ledger/freeze-account", {}, key=created["key"]).status_code in (403, 404)
        assert fogbook("keys", "revoke", created["id"], *home)[0] == 0
        wrong = self.plant("a key that is none", secrets.token_urlsafe(32))
        forged = self.plant("a token", token("EdDSA"))
        unsigned = self.plant("an unsigned token", token("none"))
        for key in (f"fog_0123456789abcdef_{wrong}", f"{created['id']}_{wrong}", wrong, forged, unsigned):
            assert self.post("/commands/ledger/open-wallet", {"wallet": "eve"}, key=key).status_code == 401
        basic = self.plant("a password of somebody", secrets.token_urlsafe(24))
        user = base64.b64encode(f"ana:{basic}".encode()).decode()
        self.plant("the same as it is sent", user)
        assert self.get("/queries/ledger/balance", authorization=f"Basic {user}").status_code == 401
        cookie = self.plant("a cookie", secrets.token_urlsafe(24))
        assert self.get("/queries/ledger/balance", cookie=f"session={cookie}").status_code == 401
        asked = self.plant("a key in a URL", secrets.token_urlsafe(24))
        assert self.get(f"/queries/ledger/balance?access_token={asked}").status_code == 401
        assert self.get(f"/nowhere/{asked}?key={asked}").status_code == 404

    def sends_nonsense(self) -> None:
        url = self.plant("a password in a URL in a body", secrets.token_urlsafe(24))
        bodies: list[Any] = [
            {"wallet": f"postgresql://ana:{url}@db/fog"},
            {"wallet": "ana", "database": f"postgresql://ana:{url}@db/fog"},
            {f"postgresql://ana:{url}@db/fog": 1},
            [f"redis://:{url}@host"],
            f'{{"wallet": "redis://:{url}@host"'.encode(),
            b"\xff" + url.encode(),
        ]
        for body in bodies:
            assert 400 <= self.post("/commands/ledger/open-wallet", body, by="ana").status_code < 500


def crash(up: Started) -> None:
    """What fails is where most is said."""
    for name in ("valkey", "postgres", "worker", "api"):
        pid = up.run["pids"][name]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda name=name, pid=pid: up.run["pids"].get(name, pid) != pid)  # type: ignore[misc]
    eventually(lambda: _is_ready(up))


def _is_ready(up: Started) -> bool:
    try:
        return up.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def outputs(up: Started) -> dict[str, bytes]:
    """What the command line says, and how it refuses."""
    home = ("--home", str(up.home))
    done = {
        "status": fogbook("status", "--json", *home),
        "status for people": fogbook("status", *home),
        "keys list": fogbook("keys", "list", "--json", *home),
        "keys signing list": fogbook("keys", "signing", "list", "--json", *home),
        "zones list": fogbook("zones", "list", "--json", *home),
        "replay": fogbook("replay", *home),
        "checkpoint": fogbook("checkpoint", "--json", *home),
        "verify": fogbook("verify", *home),
        "catalogue": fogbook("catalogue"),
    }
    assert {name: code for name, (code, _) in done.items() if code != 0} == {}
    return {name: said.encode() for name, (_, said) in done.items()}


def refusals(careless: Careless) -> dict[str, bytes]:
    """Settings that are wrong, with passwords in them."""
    here = careless.plant("a password in a setting", secrets.token_urlsafe(24))
    database, valkey = f"postgresql://ana:{here}@127.0.0.1:1/fog", f"redis://ana:{here}@127.0.0.1:1/0"
    other = ("--home", str(careless.up.home.parent / "other"))
    wrong = [
        fogbook("status", DATABASE_URL=database),
        fogbook("migrate", DATABASE_URL=database, FOGBOOK_MIGRATE_DATABASE_URL=database),
        fogbook("backup", str(careless.up.home / "b"), DATABASE_URL=database),
        fogbook("up", *other, DATABASE_URL=database, REDIS_URL=valkey),
        # With characters that a URL has to escape, as passwords have that somebody made up.
        fogbook("status", DATABASE_URL=f"postgresql://ana:%{here}@db/fog"),
        fogbook("status", DATABASE_URL=f"postgresql://ana:{here}@[db/fog"),
        fogbook("status", DATABASE_URL=f"host=db password={here} bogus=1"),
        fogbook("migrate", FOGBOOK_MIGRATE_DATABASE_URL=f"postgresql://ana:%{here}@db/fog"),
        fogbook("up", *other, DATABASE_URL=database, REDIS_URL=f"redis://ana:{here}/x@db"),
        fogbook("work", DATABASE_URL=database, REDIS_URL=f"redis://ana:{here}#x@db", FOGBOOK_PEPPER="p" * 20),
        fogbook("status", FOGBOOK_PORT=here),
        fogbook("serve", DATABASE_URL=database, REDIS_URL=valkey, FOGBOOK_PEPPER="p" * 20),
    ]
    assert all(code != 0 for code, _ in wrong)
    return {f"refusal {n}": said.encode() for n, (_, said) in enumerate(wrong)}


def in_valkey(up: Started) -> bytes:
    passwords = json.loads((up.home / "servers.json").read_text())
    parts = urlsplit(up.run["redis_url"])
    with redis.Redis(
        host=parts.hostname or "", port=parts.port or 0, username="admin", password=passwords["valkey_admin"]
    ) as client:
        # Wake-ups are on their way all the time: each key is dumped as it is when it is seen.
        return b"\n".join(key + b" " + (client.dump(key) or b"") for key in client.scan_iter())


def in_database(up: Started) -> bytes:
    """Every table, to the last byte."""
    rows: list[bytes] = []
    with psycopg.connect(up.run["superuser_url"], autocommit=True) as connection:
        connection.execute("SET bytea_output = 'escape'")
        tables = connection.execute(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind = 'r' AND n.nspname IN ('public', 'read', 'past')"
        ).fetchall()
        for (table,) in tables:
            rows += [row[0].encode() for row in connection.execute(f"SELECT t::text FROM {table} t".encode())]
    return b"\n".join(rows)


def in_processes(up: Started) -> bytes:
    return b"\n".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in up.run["pids"].values())


def test_no_canary_gets_out(up: Started) -> None:
    careless = Careless(up)
    careless.acts()
    crash(up)
    assert careless.post("/commands/ledger/open-wallet", {"wallet": "zoe"}, by="zoe").status_code == 200
    places = {
        "metrics": up.get("/metrics").content,
        "the OpenAPI document": up.get("/openapi.json").content,
        "health": up.get("/healthz").content + up.get("/readyz").content,
        "Valkey": in_valkey(up),
        "the database": in_database(up),
        "the list of processes": in_processes(up),
        **outputs(up),
        **refusals(careless),
    }
    time.sleep(1)  # Whatever is still to be logged of all that.
    logs = {path.name: path.read_bytes() for path in (up.home / "log").iterdir()}
    assert {"api.log", "worker.log", "archivist.log", "postgres.log", "valkey.log"} <= set(logs)
    places |= logs | {f"answer {n}": content for n, content in enumerate(careless.answers)}
    canaries = planted(up) | careless.canaries
    assert len(canaries) >= 20
    assert leaks(canaries, places) == []
