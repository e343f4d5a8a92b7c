"""`fogbook up` end to end, in processes of its own: starting, being found, healing, stopping."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from ops._supervise import Child, run, spawn
from ops.servers import Servers
from tests.conftest import Database

# One worker, so that the run which most of these tests share starts once.
pytestmark = pytest.mark.xdist_group("up")

ROOT = Path(__file__).parents[2]
NOT_OURS = (
    *("DATABASE_URL", "REDIS_URL", "FOGBOOK_MIGRATE_DATABASE_URL"),
    *("FOGBOOK_PEPPER", "FOGBOOK_HOME", "FOGBOOK_SUBJECT_KEYS"),
)


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in NOT_OURS} | more


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ops.cli", *arguments]


def fogbook(*arguments: str, **env: str) -> tuple[int, str]:
    return run(command(*arguments), timeout_s=60, env=environment(**env), cwd=ROOT)


def eventually(met: Callable[[], Any], within_s: float = 60.0) -> Any:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if value := met():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def runs(pid: int) -> bool:
    try:
        # A zombie has no working directory; nobody may reap the orphans of a container.
        os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return False
    return True


class Started:
    """An `up` that is ready."""

    def __init__(self, home: Path, *arguments: str, **env: str) -> None:
        self.home = home
        self.said = home.parent / f"{time.monotonic_ns()}.out"
        begun = command("up", "--home", str(home), "--empty", *(arguments or ("--port", "0")))
        self.child: Child = spawn(begun, log=self.said, env=environment(**env), cwd=ROOT)
        eventually(lambda: self.child.poll() is not None or "Ctrl-C stops" in self.said.read_text())
        assert self.child.poll() is None, self.said.read_text()

    @property
    def run(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / "run.json").read_text())
        return found

    def pasted(self) -> httpx.Response:
        """The request that it offers for pasting."""
        text = self.said.read_text()
        words = shlex.split(text[text.index("curl") : text.index("Ctrl-C")].replace("\\\n", " "))
        headers = dict(words[i + 1].split(": ", 1) for i, word in enumerate(words) if word == "-H")
        url = next(word for word in words if word.startswith("http"))
        return httpx.post(url, headers=headers, content=words[words.index("-d") + 1], timeout=30)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.run["url"] + path, timeout=30)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        self.child.send(number)
        return self.child.wait(60)

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.run["superuser_url"], autocommit=True) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def started(home: Path, *arguments: str, **env: str) -> Iterator[Started]:
    up = Started(home, *arguments, **env)
    try:
        yield up
    finally:
        up.stop()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with started(tmp_path_factory.mktemp("up") / "a fog home") as it:
        yield it


def test_a_run_describes_itself(up: Started) -> None:
    assert (up.home / "run.json").stat().st_mode & 0o777 == 0o600
    assert set(up.run) == {"url", "admin_key", "database_url", "superuser_url", "redis_url", "pids"}
    assert set(up.run["pids"]) == {"up", "api", "worker", "archivist", "postgres", "valkey"}
    assert all(runs(pid) for pid in up.run["pids"].values())
    for name in ("pepper", "keys.json"):
        assert (up.home / name).stat().st_mode & 0o777 == 0o600
    assert up.get("/healthz").status_code == up.get("/readyz").status_code == 200
    # The API works in a role that cannot change what it wrote.
    with psycopg.connect(up.run["database_url"]) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM events")


def test_other_commands_find_the_run(up: Started) -> None:
    code, out = fogbook(
        "keys", "create", "--role", "auditor", "--name", "eve", "--home", str(up.home), "--json"
    )
    assert code == 0 and set(json.loads(out)) == {"id", "key"}
    code, out = fogbook("status", "--home", str(up.home), "--json")
    assert code == 0 and {zone["zone"] for zone in json.loads(out)["zones"]} >= {"main"}


def test_a_second_up_on_the_same_home_is_refused(up: Started) -> None:
    code, out = fogbook("up", "--home", str(up.home))
    assert code == 1 and out.count("\n") == 1 and str(up.run["pids"]["up"]) in out


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, out = fogbook("up", "--home", str(tmp_path / "home"), "--port", port)
    assert code == 1 and out.count("\n") == 1 and port in out


def test_what_dies_is_started_again(up: Started) -> None:
    before = up.run["pids"]
    os.kill(before["api"], signal.SIGKILL)
    # The socket is not the API's own, so whoever connects meanwhile waits instead of being refused.
    assert up.get("/healthz").status_code == 200
    for name in ("worker", "archivist", "valkey", "postgres"):
        os.kill(before[name], signal.SIGKILL)
    dead = {(name, before[name]) for name in ("api", "worker", "archivist", "valkey", "postgres")}
    eventually(lambda: up.run["pids"].keys() == before.keys() and not dead & up.run["pids"].items())
    assert up.run["pids"]["up"] == before["up"]
    eventually(lambda: up.get("/readyz").status_code == 200)


def test_checkpoints_are_signed_and_can_be_taken_away(up: Started, tmp_path: Path) -> None:
    """By the archivist, which steps aside for everybody else; whoever asks need not wait for it."""
    eventually(lambda: up.query("SELECT 1 FROM signed_checkpoints WHERE (zone, log) = ('main', 'fates')"))

    def niceness() -> int | None:
        """Of the archivist that runs now: it may have been started again, and steps aside a moment after."""
        with contextlib.suppress(OSError, KeyError):
            stat = Path(f"/proc/{up.run['pids']['archivist']}/stat").read_text()
            return int(stat.rpartition(")")[2].split()[16])
        return None

    eventually(lambda: niceness() == 10)
    kept = [json.loads(file.read_text())["origin"] for file in (up.home / "signed").glob("*.json")]
    assert any(origin.endswith("/main/fates") for origin in kept)
    assert up.pasted().status_code == 200
    code, out = fogbook("checkpoint", "--home", str(up.home), "--out", str(tmp_path / "held"))
    assert code == 0, out
    (head,) = up.query("SELECT position FROM heads WHERE zone = 'main'")
    origin, size, _ = (tmp_path / "held").read_text().split("\n\n")[0].split("\n")
    assert origin.endswith("/main") and int(size) == head[0]
    assert (tmp_path / "held.fates").read_text().startswith(f"{origin}/fates\n")
    metrics = up.get("/metrics").text
    assert metrics.count('fogbook_unsigned_entries{log="events",zone="main"}') == 1
    assert re.search("^fogbook_database_bytes [1-9]", metrics, re.M)


def test_due_timers_are_issued_once_and_refusals_back_off(up: Started) -> None:
    code, _ = fogbook("zones", "create", "timed", "--manual-clock", "--home", str(up.home))
    assert code == 0
    eventually(lambda: up.query("SELECT 1 FROM checkpoints WHERE zone = 'timed' AND projection = 'timers'"))
    add = (
        "INSERT INTO read.timers (zone, generation, timer, due_at, context, command, body, position)"
        " SELECT zone, generation, %s, %s, 'ledger', 'expire-hold', %s, 1 FROM checkpoints"
        " WHERE zone = 'timed' AND projection = 'timers' AND live"
    )
    admin = {"authorization": f"Bearer {up.run['admin_key']}", "fogbook-zone": "timed"}

    def send(path: str, key: str, body: dict[str, str], **more: str) -> None:
        headers = admin | {"idempotency-key": key} | more
        answer = httpx.post(f"{up.run['url']}/commands/{path}", json=body, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text

    send("ledger/open-wallet", "o", {"wallet": "wallet:ana"}, **{"fogbook-act-as": "ana"})
    send("ledger/mint-tokens", "m", {"to": "wallet:ana", "amount": "9", "reason": "r", "reference": "r"})
    hold = {"wallet": "wallet:ana", "hold": "h1", "payee": "ben", "amount": "5"}
    send("ledger/place-hold", "h", hold | {"expires_at": "2026-01-02T00:00:00Z"}, **{"fogbook-act-as": "ana"})
    up.query(add, "test:h1", "2026-01-02T00:00:00Z", '{"hold": "h1"}')
    up.query(add, "test:gone", "2026-01-01T00:00:00Z", '{"hold": "gone"}')

    def fates() -> dict[str, tuple[Any, ...]]:
        rows = up.query(
            "SELECT timer, attempts, accepted, problem FROM timer_fates WHERE timer LIKE 'test:%'"
        )
        return {row[0]: row[1:] for row in rows}

    # The zone's time stands still: what is refused waits for the zone's clock, not for ours.
    eventually(lambda: "test:gone" in fates())
    assert fates() == {"test:gone": (1, False, "hold-not-found")}
    send("platform/advance-clock", "c1", {}, **{"fogbook-at": "2026-01-02T00:00:00Z"})
    eventually(lambda: fates().get("test:h1", ())[1:2] == (True,) and fates()["test:gone"][0] == 2)
    # One turn more for all that are due.
    up.query(add, "test:later", "2026-01-02T00:00:00Z", '{"hold": "h1"}')
    eventually(lambda: "test:later" in fates())
    assert fates()["test:h1"] == (1, True, "")
    assert up.query("SELECT count(*) FROM events WHERE zone = 'timed' AND type = 'HoldExpired'") == [(1,)]


def test_keys_of_personal_texts_lie_in_the_home_and_nowhere_else(up: Started) -> None:
    headers = {"authorization": f"Bearer {up.run['admin_key']}"}
    answer = httpx.post(
        f"{up.run['url']}/commands/principals/set-profile",
        json={"display_name": "Adela of the mill"},
        headers=headers | {"idempotency-key": "profile"},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    query = f"/queries/principals/profile?min_position={answer.json()['position']}"
    (shown,) = httpx.get(up.run["url"] + query, headers=headers, timeout=30).json()["items"]
    assert shown["display_name"] == "Adela of the mill"
    folder = up.home / "subjects"
    (key,) = folder.iterdir()
    assert (folder.stat().st_mode & 0o777, key.stat().st_mode & 0o777) == (0o700, 0o600)


def test_children_log_json_without_secrets(up: Started) -> None:
    for path in (up.home / "log" / "worker.log", up.home / "log" / "archivist.log"):
        eventually(path.read_text)
        assert {"event", "level", "timestamp"} <= set(json.loads(path.read_text().splitlines()[0]))
    secrets = [up.run["admin_key"], (up.home / "pepper").read_text().strip()]
    secrets += [psycopg.conninfo.conninfo_to_dict(up.run["database_url"])["password"]]  # type: ignore[list-item]
    for path in (up.home / "log").iterdir():
        assert not any(secret in path.read_text() for secret in secrets), path


def test_stopped_in_order_and_started_again_it_goes_on(tmp_path: Path) -> None:
    home = tmp_path / "another home"
    with started(home) as up:
        pids, key = up.run["pids"], up.run["admin_key"]
        first = up.pasted()
        assert first.status_code == 200, first.text
        assert up.stop(signal.SIGINT) == 0
        assert not (home / "run.json").exists()
        assert not any(runs(pid) for pid in pids.values())
    with started(home) as up:
        assert up.run["admin_key"] == key
        again = up.pasted()
        assert (again.content, again.headers.get("idempotency-hit")) == (first.content, "true")
        # Killed, it takes everything with it; what it left in the home confuses nobody.
        pids = up.run["pids"]
        up.stop(signal.SIGKILL)
        eventually(lambda: not any(runs(pid) for pid in pids.values()))
        code, out = fogbook("status", "--home", str(home))
        assert code == 1 and out.count("\n") == 1


def test_it_can_be_stopped_before_it_is_ready(tmp_path: Path) -> None:
    home = tmp_path / "home"
    child = spawn(command("up", "--home", str(home)), log=tmp_path / "out", env=environment(), cwd=ROOT)
    eventually(lambda: (home / "log" / "postgres.log").exists() or child.poll() is not None)
    child.send(signal.SIGTERM)
    assert child.wait(60) == 0, (tmp_path / "out").read_text()
    assert not (home / "run.json").exists()


def test_servers_of_somebody_else_are_used_and_left_alone(
    servers: Servers, database: Database, redis_url: str, tmp_path: Path
) -> None:
    urls = {"DATABASE_URL": database.url, "REDIS_URL": redis_url}
    owner = {"FOGBOOK_MIGRATE_DATABASE_URL": database.superuser_url}
    with started(tmp_path / "home", **urls, **owner) as up:
        assert set(up.run["pids"]) == {"up", "api", "worker", "archivist"}
        assert up.pasted().status_code == 200
        eventually(lambda: not up.query("SELECT 1 FROM checkpoints WHERE live AND position < 3"))
        environ = Path(f"/proc/{up.run['pids']['api']}/environ").read_bytes()
        assert b"MIGRATE_DATABASE_URL" not in environ
    assert set(servers.pids) == {"postgres", "valkey"}


@pytest.mark.parametrize(
    "urls",
    [
        {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1"},
        {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x"},
        {"REDIS_URL": "redis://127.0.0.1:1"},
    ],
)
def test_servers_that_cannot_be_used_are_named_in_one_sentence(urls: dict[str, str], tmp_path: Path) -> None:
    code, out = fogbook("up", "--home", str(tmp_path / "home"), "--port", "0", **urls)
    assert code == 1 and out.count("\n") == 1 and "hunter2" not in out
    assert "DATABASE_URL" in out or "REDIS_URL" in out
    assert not list(tmp_path.glob("home/postgres-*"))
