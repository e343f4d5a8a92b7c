"""Hostile HTTP against the real server process: no 5xx, nothing hangs, and nothing happens that was not whole."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops._supervise import Child
from tests.hostile import raw
from tests.hostile.place import Place
from tests.hostile.serving import serving

pytestmark = pytest.mark.xdist_group("hostile")

MOST_GROWTH_MB = 64


@pytest.fixture(scope="module")
def server(here: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Child, tuple[str, int]]]:
    with serving(tmp_path_factory.mktemp("raw")) as made:
        yield made


def test_what_is_no_sound_request_is_refused_or_hung_up_on_and_has_no_effect(
    here: Place, server: tuple[Child, tuple[str, int]]
) -> None:
    child, address = server
    name = f"raw{os.getpid()}"
    shapes = raw.shapes(here.keys["ana"], name, raw.payment())
    asyncio.run(raw.send_all(address, shapes[:1]))
    before = _memory_mb(child.pid)
    wrong = asyncio.run(raw.send_all(address, shapes))
    assert wrong == [], "\n".join(wrong)
    assert child.poll() is None
    assert _memory_mb(child.pid) - before < MOST_GROWTH_MB
    with here.village.database.connect() as connection:
        rows = connection.execute("SELECT key FROM commands WHERE key LIKE %s", (f"{name}%",)).fetchall()
    keys = [key for (key,) in rows]
    assert f"{name}-hidden" not in keys
    assert len(keys) <= sum(shape.effects for shape in shapes)
    assert f"{name}-52" in keys, "what is sound is taken"


def _memory_mb(pid: int) -> int:
    """What a process keeps in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))
