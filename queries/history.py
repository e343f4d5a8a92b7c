"""History for auditors."""

from __future__ import annotations

from collections.abc import Callable

from ops.web import App
from queries._http import QueryApi


def register_history(app: App, api: Callable[[], QueryApi]) -> None:
    pass
