"""The README's index: every command, the events that it may append, and where both live.

`python -m ops.slices` prints it; a test holds the README against it. Events are found by reading the decisions:
those that a function yields itself, and those of the functions that it calls.
"""

from __future__ import annotations

import ast
import inspect
from types import ModuleType

from commands._codec import contexts, decision_of, event_types
from commands._http import ROUTES
from commands.api import load_routes
from domain import ledger


def table() -> str:
    """The index as a Markdown table."""
    load_routes()
    lines = ["| command | appends | rule in |", "|---|---|---|"]
    for name, route in sorted(ROUTES.items()):
        decision = decision_of(route.command)
        module = inspect.getmodule(decision)
        assert module is not None
        events = ", ".join(events_of(module, decision.__name__)) or "nothing"
        file = f"domain/{module.__name__.rpartition('.')[2]}.py"
        lines.append(f"| `{name}` | {events} | [`{decision.__name__}`]({file}) |")
    return "\n".join(lines)


def events_of(module: ModuleType, function: str) -> list[str]:
    """The events that a decision may yield, in the order in which its source names them."""
    found: dict[str, None] = {}
    _walk(module, function, found, set())
    return list(found)


def _walk(module: ModuleType, function: str, found: dict[str, None], seen: set[str]) -> None:
    if function in seen:
        return
    seen.add(function)
    calls = [
        node.func.id
        for node in ast.walk(_functions(module)[function])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    for called in calls:
        if called in event_types():
            found[called] = None
        elif called in _functions(module):
            _walk(module, called, found, seen)
        elif called in _functions(ledger) and hasattr(module, called):
            _walk(ledger, called, found, seen)


def _functions(module: ModuleType) -> dict[str, ast.FunctionDef]:
    """The decisions and their helpers, without the folds."""
    tree = ast.parse(inspect.getsource(module))
    return {
        node.name: node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("evolve")
    }


if __name__ == "__main__":
    assert contexts(), "the domain is where it should be"
    print(table())
