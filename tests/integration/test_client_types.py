"""A program that uses the client is checked by a type checker: what is right passes, and what is wrong is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.acceptance.test_readme import blocks_of

WRONG = """
from domain.ledger import Transfer
from ops.client import AsyncFogbook, Fogbook
from queries.ledger import Balance

book, later = Fogbook("http://fogbook", "key"), AsyncFogbook("http://fogbook", "key")
book.send("ledger/transfer")
book.send(Transfer("wallet:ana", "wallet:ben", 5), iff_match=3)
book.send(Transfer("wallet:ana", "wallet:ben", "5"))
for row in book.items("ledger/balance", Balance, account="wallet:ana"):
    row.amount
for event in later.follow():
    pass
book.send(Transfer("wallet:ana", "wallet:ben", 5)).pos
"""
FINDS = {
    7: "arg-type",
    8: "call-arg",
    9: "arg-type",
    11: "attr-defined",
    12: "attr-defined",
    14: "attr-defined",
}


def test_the_readmes_program_is_sound_and_mistakes_are_found(tmp_path: Path) -> None:
    program, wrong = tmp_path / "program.py", tmp_path / "wrong.py"
    program.write_text("".join(blocks_of("From Python", "python")))
    wrong.write_text(WRONG)
    options = ["--strict", "--no-error-summary", "--cache-dir", os.devnull]
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", *options, program.name, wrong.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line.split(":") for line in ran.stdout.splitlines() if "error:" in line]
    assert {(name, int(line)) for name, line, *_ in found} == {("wrong.py", line) for line in FINDS}, (
        ran.stdout
    )
    for _, line, *said in found:
        assert f"[{FINDS[int(line)]}]" in said[-1], ran.stdout
