"""The README's first five minutes, its story and its audit, to the letter, against a Fogbook that was just started."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.running import ROOT, Running, running


def blocks_of(heading: str, language: str = "sh") -> list[str]:
    """The blocks of a section, of the shell's where no other language is named."""
    text = (ROOT / "README.md").read_text()
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.S)


def played(up: Running, blocks: list[str]) -> list[list[Any]]:
    """What each block prints, a value a line; lines that are no JSON as they are."""
    script = "set -e\n" + "\necho ====\n".join(blocks)
    script = script.replace("http://127.0.0.1:8420", up.url).replace("fog_...", up.admin_key)
    for command in ("verify", "replay", "zones create", "checkpoint", "keys signing list", "export"):
        script = script.replace(f"fogbook {command}", f"fogbook {command} --home '{up.home}'")
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [[_value(line) for line in part.splitlines()] for part in done.stdout.split("====\n")]


def _value(line: str) -> Any:
    return json.loads(line) if line.startswith("{") else line


def rule(answer: Any) -> str:
    return str(answer.get("type", "")).removeprefix("/problems/")


def test_the_first_five_minutes_the_story_and_the_audit_work_to_the_letter(tmp_path: Path) -> None:
    minutes = blocks_of("The first five minutes")
    story = blocks_of("A story of the whole economy")
    audit = blocks_of("The auditor, who trusts nobody")
    signed = blocks_of("Signed by its owner")
    with running(tmp_path / "fog home") as up:
        parts = played(up, minutes + story + audit + signed)
        _python(up)
    _five_minutes(parts[: len(minutes)])
    _story(parts[len(minutes) : len(minutes + story)])
    _audit(parts[len(minutes + story) : -1])
    _signed(parts[-1])


def _five_minutes(parts: list[list[Any]]) -> None:
    _, opened, staked, read, audited = parts
    assert all("position" in answer for answer in opened)
    assert rule(staked[-1]) == "insufficient-funds"
    balance, positions, unbonding, calendar = read
    assert [item["available"] for item in balance["items"]] == ["3000000"]
    assert [item["tokens"] for item in positions["items"]] == ["2000000"]
    assert unbonding["events"]
    assert "items" in calendar
    assert "WalletOpened" in str(audited)
    assert "Credited" in str(audited)


def _story(parts: list[list[Any]]) -> None:
    for part in parts:
        answers = [answer for answer in part if isinstance(answer, dict)]
        assert [rule(answer) for answer in answers if rule(answer)] == []
        assert all(answer["items"] for answer in answers if "items" in answer)
    _, harvest, market, netting = parts
    estimate = next(answer["items"][0] for answer in harvest if "items" in answer)
    contributions, reputation, balance = (answer["items"][0] for answer in harvest[-3:])
    assert contributions["status"] == "paid"
    assert contributions["reward"] == estimate["reward"] == balance["posted"] == "44622000"
    assert reputation["score"] == 6_666
    quote, period, levels = (market[place]["items"][0] for place in (1, 9, 10))
    assert quote["total"] == "2000000"
    assert (period["charge"], period["penalty"], period["fee"], period["paid"]) == (
        *("1000000", "75000", "9250", "915750"),
    )
    assert (levels["windows"], levels["missed"], levels["attainment"]) == (3, 3, 0)
    assert any(event["type"] == "ContractBreached" for event in market[7]["events"])
    contract, dispute = (answer["items"][0] for answer in market[-2:])
    assert contract["status"] == "terminated"
    assert contract["escrow"]["remaining"] == "0"
    assert (dispute["to_payer"], dispute["to_payee"]) == ("600000", "400000")
    obligations, positions = netting[5]["items"], netting[7]["items"]
    assert sorted(each["obligation"] for each in obligations)[0] == "ana:lunch"
    assert len(obligations) == 3
    assert sum(int(each["net"]) for each in positions) == 0
    assert {each["status"] for each in positions} == {"settled"}
    assert netting[8]["items"][0]["status"] == "settled"
    assert netting[-1]["items"][0]["total"] == "0"


def _audit(parts: list[list[Any]]) -> None:
    kept, proven, alone, asked = parts
    command = kept[-1]
    assert f"command {command['command_id']}" in proven[0]
    assert f"position {command['position']}: that is proven" in proven[0]
    assert proven[1].startswith("All is well")
    assert f"position {command['position']}" in alone[0]
    assert not [line for line in alone if "differ" in str(line)]
    now, then, changed, row, event = asked
    assert [now["items"][0]["posted"], then["items"][0]["posted"]] == ["2750000", "3000000"]
    assert changed["items"] == [
        {"key": {"account": "wallet:ana", "asset": "FOG"}, "was": then["items"][0], "is": now["items"][0]}
    ]
    assert row["versions"][0]["changes"] == {"posted": {"was": "3000000", "is": "2750000"}}
    assert event["cause"]["command"]["command_id"] == command["command_id"]


def _python(up: Running) -> None:
    """The program of the section, in a process of its own, with the keys that an auditor took away."""
    listed = subprocess.run(
        [sys.executable, "-m", "ops.cli", "keys", "signing", "list", "--json", "--home", str(up.home)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    vkeys = re.findall(r'"(?:events|fates)_vkey":"([^"]*)"', listed.stdout)
    program = "".join(blocks_of("From Python", "python"))
    program = program.replace("http://127.0.0.1:8420", up.url).replace("fog_...", up.admin_key)
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"VKEYS": " ".join(vkeys)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    refused, balance, position, *followed, proven, _, _, _, left = ran.stdout.splitlines()
    assert (refused, balance, position) == ("insufficient-funds 3000000", "FOG 3000000", "v1 2000000")
    assert followed[-1].split()[0] == "0"
    assert any("Delegated" in line for line in followed)
    assert proven == "True"
    assert ran.stdout.splitlines()[-4:] == ["paid", "paid", "insufficient-funds", left]
    assert left == "FOG 2999988"


def _signed(part: list[Any]) -> None:
    registered, paid, verified = part[0], part[1], part[2:]
    assert [event["type"] for event in registered["events"]] == ["SigningKeyRegistered"]
    assert [event["type"] for event in paid["events"]] == ["CommandSigned", "Debited", "Credited"]
    assert any(str(line).startswith("All is well") for line in verified)
