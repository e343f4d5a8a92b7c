"""A small village lives for two days through the HTTP API; living the same days again changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import MISSING, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from ops.pool import connect
from ops.simulate._api import Pace
from ops.simulate._dues import Dues
from queries._query import QUERIES
from queries.api import load_queries
from tests.running import ROOT, Running, running

VILLAGE = ("--days", "2", "--devices", "20", "--seed", "1")
IMPORTANT = {
    "devices": ("heartbeat", "register-device", "retire-device", "suspend-device"),
    "harvest": (
        "enrol-harvester",
        "record-contribution",
        "report-device-state",
        "start-harvest-session",
        "stop-harvest-session",
        "validate-contribution",
    ),
    "ledger": ("mint-tokens", "open-wallet", "transfer"),
    "marketplace": (
        "accept-bid",
        "allocate-burst",
        "meter-usage",
        "open-contract",
        "place-bid",
        "register-offering",
        "report-service-level",
        "reprice-offering",
        "request-service",
        "review-provider",
        "start-service",
        "top-up-escrow",
    ),
    "settlement": (
        "open-dispute",
        "open-window",
        "record-obligation",
        "resolve-dispute",
        "submit-evidence",
    ),
    "staking": ("allocate-rewards", "delegate", "register-validator", "slash"),
}
"""What a village does in any two days."""
QUIET = {
    *(f"settlement/{name}" for name in ("bridge-liability", "peers", "stuck-transfers", "transfers")),
    *(f"approvals/{name}" for name in ("limits", "requests")),
    *(f"operations/{name}" for name in ("quarantine", "acts", "discarded")),
}
"""Queries that a single village has nothing to show for."""
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("FOGBOOK_", "DATABASE_", "REDIS_"))}


def fogbook(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ops.cli", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def simulate(home: Path, *arguments: str) -> dict[str, Any]:
    ended = fogbook("simulate", *arguments, "--home", str(home), "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    summary: dict[str, Any] = json.loads(ended.stdout)
    return summary


def events_of_village(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT position FROM heads WHERE zone = 'village'").fetchone()
    assert row is not None
    return int(row[0])


def silent(up: Running) -> set[str]:
    """Queries that an operator asks without naming anything, and that have nothing to show."""
    load_queries()
    found = set()
    with httpx.Client(base_url=up.url, headers=up.headers(zone="village")) as http:
        for path, query in QUERIES.items():
            everybodys = not query.own or "%(sees_all)s" in query.select
            if everybodys and all(each.default is not MISSING for each in fields(query.parameters)):
                answer = http.get(path)
                assert answer.status_code == 200, answer.text
                if not answer.json()["items"]:
                    found.add(path.removeprefix("/queries/"))
    return found


def interrupt(up: Running, *arguments: str) -> None:
    """Kill a simulation once it has done something."""
    with connect(up.database_url, "test") as connection:
        before = events_of_village(connection)
        process = subprocess.Popen(
            [sys.executable, "-m", "ops.cli", "simulate", *arguments, "--home", str(up.home)],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
        )
        while events_of_village(connection) < before + 150:
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("simulate") / "fog home") as up:
        yield up


def test_a_village_lives_and_nothing_in_it_happens_twice(up: Running, tmp_path: Path) -> None:
    first = simulate(up.home, *VILLAGE)
    assert first["problems"] == []
    assert sum(first["accepted"].values()) > 100
    assert sum(first["refused"].values()) > 0
    assert first["repeated"] == 0
    assert first["trial_balance"] == {"FOG": "0"}
    assert int(first["bonded"]) > 0
    important = {f"{context}/{name}" for context, names in IMPORTANT.items() for name in names}
    assert important - first["accepted"].keys() == set()
    people, providers, validators = 8, 3, 4
    assert len(first["participants"]) == people + providers + validators
    for name in ("harvested", "revenue", "spent", "bonded"):
        assert any(int(each[name]) for each in first["participants"]), name

    happened = first["happened"]
    assert happened["contributions"]["paid"] > 0
    assert happened["devices"]["retired"] > 0
    assert happened["requests"]["matched"] > 0
    assert happened["contracts"]["completed"] > 0
    assert happened["obligations"]["settled"] > 0
    assert happened["windows"]["settled"] > 0
    assert happened["disputes"]["resolved"] > 0
    for name in ("bursts", "breaches", "could_not_pay"):
        assert happened[name] > 0, name

    assert silent(up) == QUIET

    again = simulate(up.home, *VILLAGE)
    assert again["events"] == {"new": 0, "position": first["events"]["position"]}
    assert again["participants"] == first["participants"]

    # More days are interrupted, and go on where only the API is known.
    days = ("--days", "3", *VILLAGE[2:])
    interrupt(up, *days)
    by_url = ("--url", up.url, "--key", up.admin_key)
    longer = simulate(tmp_path / "no home", *days, *by_url)
    assert longer["events"]["new"] > 0
    assert longer["from"] == first["from"]
    assert longer["problems"] == []


def test_a_rate_is_the_most_that_is_sent() -> None:
    async def send() -> float:
        pace = Pace(1_000)
        began = time.monotonic()
        await asyncio.gather(*(pace.take(50) for _ in range(5)))
        return time.monotonic() - began

    assert asyncio.run(send()) >= 4 * 50 / 1_000


def test_the_last_word_on_when_something_is_due_counts() -> None:
    dues, hour = Dues(), timedelta(hours=1)
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    dues.expect("hold", noon)
    dues.expect("session", noon)
    dues.expect("period", noon + hour)
    assert dues.by(noon) == ["hold", "session"]
    dues.expect("session", noon + 2 * hour)
    dues.settle("hold")
    assert dues.by(noon) == []
    assert dues.by(noon + hour) == ["period"]
    assert dues.by(noon + 2 * hour) == ["period", "session"]
    dues.expect("hold", noon)
    assert dues.by(noon) == ["hold"]


def test_what_cannot_be_simulated_is_refused_in_one_sentence(up: Running, tmp_path: Path) -> None:
    by_url = ("--url", up.url, "--key", up.admin_key, "--home", str(tmp_path / "no home"))
    for arguments, says in (
        (("--zone", "nowhere", *by_url), "zones create nowhere --manual-clock"),
        (("--zone", "main", *by_url), "real clock"),
        (("--url", "http://127.0.0.1:9", "--key", "fog_a_b"), "does not answer"),
    ):
        refused = fogbook("simulate", *arguments)
        assert refused.returncode == 1
        assert says in refused.stderr
        assert refused.stderr.count("\n") == 1, refused.stderr
