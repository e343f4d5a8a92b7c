"""What modules log, for tests: whichever test configured logging before, and whoever logged first."""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import structlog
from structlog.testing import LogCapture


@contextmanager
def captured_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """The entries that our modules log inside the block; a logger that was used before keeps its configuration."""
    capture = LogCapture()
    logger = structlog.wrap_logger(
        structlog.PrintLogger(), processors=[capture], wrapper_class=structlog.make_filtering_bound_logger(0)
    )
    ours = ("commands.", "projections.", "queries.", "workers.", "ops.")
    with ExitStack() as patched:
        for name, module in list(sys.modules.items()):
            if name.startswith(ours) and hasattr(module, "log"):
                patched.enter_context(patch.object(module, "log", logger))
        yield capture.entries
