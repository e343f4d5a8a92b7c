"""The parts of the bench that measure others, at a tiny scale: that they run and end; never how fast anything is."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ops.bench._node import packages

OF_PYTHON = {
    "transfer_vs_library_tuned",
    "transfer_vs_library_tuned_unordered",
    "append_single_vs_one_row",
    "append_single_vs_one_row_8",
    "rebuild_vs_projection_runner",
}
OF_NODE = {
    "transfer_vs_emmett",
    "transfer_vs_message_db",
    "append_single_vs_write_message",
    "rebuild_vs_emmett_consumer",
}
PARTS = ("peers", "peer_appends", "peer_projections")


def run(home: Path, **env: str) -> dict[str, Any]:
    """The figures of the parts with peers."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL")}
    parts = [argument for part in PARTS for argument in ("--part", part)]
    argv = [sys.executable, "-m", "ops.bench.run", "--tiny", "--json", "--home", str(home), *parts]
    done = subprocess.run(argv, env=inherited | env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == []
    figures: dict[str, Any] = json.loads(done.stdout)
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in figures["ratios"].values())
    return figures


@pytest.mark.long
def test_peers_of_python_are_measured_where_those_of_node_cannot_be_had(home: Path, tmp_path: Path) -> None:
    nowhere = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "npm_config_cache": str(tmp_path / "npm")}
    figures = run(home, npm_config_offline="true", **nowhere)
    assert set(figures["ratios"]) == OF_PYTHON
    reasons = [figures["conditions"][f"{part}_without_node"] for part in PARTS]
    assert all("npm" in reason or "node" in reason for reason in reasons)


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node")
@pytest.mark.skipif(
    not packages().exists(), reason="the first bench with `--part peers` installs Node's peers"
)
@pytest.mark.long
def test_peers_of_node_are_measured_as_well(home: Path) -> None:
    figures = run(home)
    assert set(figures["ratios"]) == OF_PYTHON | OF_NODE
    assert figures["ordering"]["emmett"] != figures["ordering"]["transfer_beside_peers"]
