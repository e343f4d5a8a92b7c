"""A small village lives for two days through the HTTP API; living the same days again changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ops.pool import connect
from tests.running import ROOT, Running, running

pytestmark = pytest.mark.xdist_group("up")

VILLAGE = ("--days", "2", "--devices", "12", "--seed", "3")


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


def test_a_village_lives_and_nothing_in_it_happens_twice(tmp_path: Path) -> None:
    with running(tmp_path / "fog home") as up:
        first = simulate(up.home, *VILLAGE)
        assert first["problems"] == []
        assert sum(first["accepted"].values()) > 100
        assert sum(first["refused"].values()) > 0
        assert first["repeated"] == 0
        assert first["trial_balance"] == {"FOG": "0"}
        assert int(first["bonded"]) > 0
        assert len(first["participants"]) == 12 + 3

        again = simulate(up.home, *VILLAGE)
        assert again["events"] == {"new": 0, "position": first["events"]["position"]}
        assert again["participants"] == first["participants"]

        # More days are interrupted, and go on where only the API is known.
        days = ("--days", "4", *VILLAGE[2:])
        interrupt(up, *days)
        by_url = ("--url", up.url, "--key", up.admin_key)
        longer = simulate(tmp_path / "no home", *days, *by_url)
        assert longer["events"]["new"] > 0
        assert longer["from"] == first["from"]


def test_what_cannot_be_simulated_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with running(tmp_path / "fog home") as up:
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
