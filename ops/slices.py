"""The README's index: every command, the events that it may append, who follows them, and where each lives.

`python -m ops.slices` prints it; a test holds the README against it. Events are found by reading the decisions:
those that a function yields itself, and those of the functions that it calls, in its own module or another one.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from types import ModuleType

from commands._codec import decision_of, event_types
from commands._routes import ROUTES
from commands.api import load_routes
from projections._engine import Handler, all_projections
from projections._timers import timers


def table() -> str:
    """The index as a Markdown table."""
    load_routes()
    all_projections()
    lines = ["| command | appends | then | rule in |", "|---|---|---|---|"]
    for name, route in sorted(ROUTES.items()):
        decision = decision_of(route.command)
        module = sys.modules[decision.__module__]
        events = events_of(module, decision.__name__)
        file = decision.__module__.replace(".", "/") + ".py"
        lines.append(
            f"| `{name}` | {', '.join(events) or 'nothing'} | {', '.join(followers_of(events))} "
            f"| [`{decision.__name__}`]({file}) |"
        )
    return "\n".join(lines)


def followers_of(events: list[str]) -> list[str]:
    """The timers and reactions that these events set off, as links."""
    found: dict[str, None] = {}
    for event in events:
        for handler in timers.parts.get(event, ()):
            if _schedules(handler):
                file = handler.__module__.replace(".", "/") + ".py"
                found[f"[{handler.__name__.replace('_', ' ')}]({file})"] = None
    return list(found)


def _schedules(handler: Handler) -> bool:
    """Whether a handler sets something off; the others only take away what is done."""
    called = _called(sys.modules[handler.__module__], handler.__name__)
    return not {"schedule", "schedule_next", "react"}.isdisjoint(called)


def events_of(module: ModuleType, function: str) -> list[str]:
    """The events that a decision may yield, in the order in which its source names them."""
    return [name for name in _called(module, function) if name in event_types()]


def _called(module: ModuleType, function: str) -> list[str]:
    """What a function calls by name, and what the functions of ours call that it calls."""
    found: dict[str, None] = {}
    _walk(module, function, found, set())
    return list(found)


def _walk(module: ModuleType, function: str, found: dict[str, None], seen: set[tuple[str, str]]) -> None:
    if (module.__name__, function) in seen:
        return
    seen.add((module.__name__, function))
    calls = [
        node.func.id
        for node in ast.walk(_functions(module)[function])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    for called in calls:
        found[called] = None
        home = module if called in _functions(module) else _home_of(module, called)
        if home is not None and called in _functions(home):
            _walk(home, called, found, seen)


def _home_of(module: ModuleType, name: str) -> ModuleType | None:
    """The module that a function was imported from."""
    home = getattr(getattr(module, name, None), "__module__", None) or ""
    return sys.modules[home] if home.startswith(("domain.", "projections.")) else None


@functools.cache
def _functions(module: ModuleType) -> dict[str, ast.FunctionDef]:
    """The decisions and their helpers, without the folds."""
    tree = ast.parse(inspect.getsource(module))
    return {
        node.name: node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("evolve")
    }


if __name__ == "__main__":
    print(table())
