"""The README's first five minutes, to the letter, against a Fogbook that was just started."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.running import ROOT, running

pytestmark = pytest.mark.xdist_group("up")


def first_five_minutes() -> list[str]:
    """The shell blocks between the two headings."""
    text = (ROOT / "README.md").read_text()
    section = text.partition("## The first five minutes")[2].partition("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", section, re.S)


def test_the_first_five_minutes_work_to_the_letter(tmp_path: Path) -> None:
    blocks = first_five_minutes()
    assert len(blocks) == 5
    with running(tmp_path / "fog home") as up:
        script = "set -e\n" + "\necho ====\n".join(blocks)
        script = script.replace("http://127.0.0.1:8420", up.url).replace("fog_...", up.admin_key)
        script = script.replace(".venv/bin/fogbook verify", f".venv/bin/fogbook verify --home '{up.home}'")
        script = script.replace("fogbook replay", f"fogbook replay --home '{up.home}'")
        done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        _, opened, staked, read, audited = done.stdout.split("====\n")
        opened_answers = [json.loads(line) for line in opened.splitlines()]
        assert all("position" in answer for answer in opened_answers)
        assert json.loads(staked.splitlines()[-1])["type"] == "/problems/insufficient-funds"
        balance, positions, unbonding, calendar = (json.loads(line) for line in read.splitlines())
        assert [item["available"] for item in balance["items"]] == ["3000000"]
        assert [item["tokens"] for item in positions["items"]] == ["2000000"]
        assert unbonding["events"]
        assert "items" in calendar
        assert "WalletOpened" in audited
        assert "Credited" in audited
