"""All pages, in the order of the menu."""

from __future__ import annotations

import importlib

FILES = (
    "analytics",
    "marketplace",
    "harvest",
    "staking",
    "settlement",
    "ledger",
    "operations",
    "history",
)


def load_pages() -> None:
    for name in FILES:
        importlib.import_module(f"queries._console.{name}")
