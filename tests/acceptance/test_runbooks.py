"""Each page of the runbooks, line by line, on a Fogbook that has that bad day."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_up import ROOT, Started, environment, eventually, fogbook, started

# Many processes, one after the other: much longer than usual where the machine is busy.
pytestmark = [pytest.mark.xdist_group("runbooks"), pytest.mark.timeout(900)]

RUNBOOKS = ROOT / "ops" / "runbooks"
SECTIONS = ("**Symptom.**", "**Safe meanwhile.**", "**Do", "**Over**")
PROMISE = re.compile(r"\s+# -> (.*)$")
NO_LOG_LINES = {"pg_wal", "min_position", "lag_events", "fogbook_signed_age_seconds", "recorded_at"}
PAGES = sorted(path.stem for path in RUNBOOKS.glob("*.md") if path.stem != "README")


def blocks_of(page: str, kind: str = "sh") -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (RUNBOOKS / f"{page}.md").read_text(), re.S)


def play(home: Path, *blocks: str) -> None:
    """Run the lines of blocks in one shell; each must end well, and print what it promises."""
    (begin,) = blocks_of("README")
    lines = [line for block in blocks for line in block.splitlines() if line]
    script = "set -e\n" + begin.replace("H=~/.fogbook", f"H='{home}'")
    script += "".join(f"printf '\\n==== {number}\\n'\n{line}\n" for number, line in enumerate(lines))
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    parts = re.split(r"^==== \d+\n", done.stdout, flags=re.M)[1:]
    reached = lines[len(parts) - 1] if parts else "the beginning"
    assert done.returncode == 0, f"{reached}\n{parts[-1:]}\n{done.stderr}"
    assert len(parts) == len(lines)
    for line, printed in zip(lines, parts, strict=True):
        if promised := PROMISE.search(line):
            assert promised[1] in printed, f"{line}\n{printed}"


def walk(up: Started, page: str) -> None:
    play(up.home, *blocks_of(page))


def accept(up: Started, who: str) -> Any:
    """One command, after which everything is somewhere else than before."""
    import httpx

    headers = {
        "authorization": f"Bearer {up.run['admin_key']}",
        "fogbook-act-as": who,
        "idempotency-key": who,
    }
    answer = httpx.post(
        f"{up.run['url']}/commands/ledger/open-wallet", headers=headers, json={"wallet": who}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def settled(up: Started) -> None:
    """All projections are at the head."""
    eventually(lambda: up.get("/readyz").status_code == 200 and not late(up))


def late(up: Started) -> list[Any]:
    return [lag for lag in up.get("/readyz").json()["lags"] if lag["events"]]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with started(tmp_path_factory.mktemp("bad days") / "fog home") as up:
        accept(up, "ana")
        settled(up)
        yield up


@pytest.mark.parametrize("page", PAGES)
def test_every_page_has_the_same_parts_in_the_same_order(page: str) -> None:
    text = (RUNBOOKS / f"{page}.md").read_text()
    places = [text.find(section) for section in SECTIONS]
    assert -1 not in places
    assert places == sorted(places)
    assert blocks_of(page)


def test_every_page_is_listed_and_every_link_leads_somewhere() -> None:
    listed = re.findall(r"\]\((\S+)\.md\)", (RUNBOOKS / "README.md").read_text())
    assert sorted(listed) == PAGES
    for page in PAGES:
        for link in re.findall(r"\]\((\S+)\.md\)", (RUNBOOKS / f"{page}.md").read_text()):
            assert link in PAGES, f"{page}: {link}"


def test_every_log_line_that_a_page_names_is_one_that_is_written() -> None:
    source = "".join(
        path.read_text()
        for folder in ("commands", "projections", "queries", "workers", "ops")
        for path in (ROOT / folder).rglob("*.py")
    )
    written = set(re.findall(r"""log\.\w+\(\s*"([a-z_]+)\"""", source))
    for page in ["README", *PAGES]:
        prose = re.sub(r"```.*?```", "", (RUNBOOKS / f"{page}.md").read_text(), flags=re.S)
        for name in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", prose):
            assert name in written or name in NO_LOG_LINES, f"{page} names {name}"


@pytest.mark.parametrize("server", ["postgres", "valkey"])
def test_a_server_is_gone(up: Started, server: str) -> None:
    pid = up.run["pids"][server]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: up.run["pids"].get(server, pid) != pid)
    eventually(lambda: up.get("/readyz").status_code == 200)
    walk(up, f"{server}-gone")


def test_a_projection_lags(up: Started) -> None:
    os.kill(up.run["pids"]["worker"], signal.SIGSTOP)
    accept(up, "ben")
    assert late(up)
    walk(up, "projection-lags")


def test_a_projection_has_quarantined_an_event(up: Started) -> None:
    settled(up)
    up.query(
        "INSERT INTO quarantine SELECT zone, projection, generation, 3, 'wallet:ana', 5, true, 'ValueError'"
        " FROM checkpoints WHERE zone = 'main' AND projection = 'ledger' AND live"
    )
    walk(up, "projection-quarantined")


def test_a_key_leaked(up: Started) -> None:
    made = fogbook(
        "keys",
        "create",
        "--role",
        "participant",
        "--name",
        "ana-1",
        "--principal",
        "ana",
        "--home",
        str(up.home),
    )
    assert made[0] == 0
    walk(up, "secret-leaked")


@pytest.mark.parametrize(
    "page", ["database-full", "bad-deploy", "clock-wrong", "stuck-timers", "upgrade", "roll-back"]
)
def test_the_lines_of_a_day_that_is_not_brought_about_work(up: Started, page: str) -> None:
    settled(up)
    walk(up, page)


def test_the_log_does_not_verify_and_what_was_there_before_is_restored_and_signed_anew(
    tmp_path: Path,
) -> None:
    home = tmp_path / "fog home"
    with started(home) as up:
        accept(up, "ana")
        settled(up)
        before, after = blocks_of("restore")
        play(home, before)
        accept(up, "ben")
        settled(up)
        assert fogbook("checkpoint", "--home", str(home))[0] == 0
        up.query("UPDATE events SET data = data || ' ' WHERE zone = 'main' AND position = 2")
        walk(up, "log-does-not-verify")
    play(home, *blocks_of("restore", "sh stopped"))
    with started(home) as up:
        settled(up)
        play(home, after)
        eventually(lambda: "does not continue" in fogbook("status", "--home", str(home))[1])
        walk(up, "signing-refused")
