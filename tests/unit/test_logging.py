"""What logging does where nothing can be written: the disk that holds the log may be the one that is full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")

PROGRAM = """
import logging
import structlog
from ops.logging import configure_logging
configure_logging("info")
structlog.get_logger("one").warning("something", happened=True)
logging.getLogger("uvicorn").error("something else")
print("went on")
"""


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert done.stdout == "went on\n"
