"""What this software says of itself, as a page: `python -m ops.observability.reference` writes README.md beside it.

Metrics are taken from the registry, events of the log from the code; tests/unit/test_observability.py holds the page
against both.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from ops.observability.events import EVENTS
from ops.observability.verified import registry_of_verification

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PAGE = HERE / "README.md"
LAYERS = ("commands", "projections", "queries", "workers", "ops")
METHODS = frozenset({"debug", "info", "warning", "error", "critical"})
BEGIN, END = "<!-- {} -->\n", "<!-- end of {} -->\n"
DECLARE = ("ops.app", "ops.leases", "ops.protocol", "workers.main")
"""Importing these declares every metric."""
UNITS = {"seconds": "s", "bytes": "B", "events": "events", "entries": "entries", "position": "position"}


class Metric(NamedTuple):
    name: str
    kind: str
    unit: str
    labels: tuple[str, ...]
    help: str


def metrics() -> list[Metric]:
    """Every metric of our own, by name."""
    for module in DECLARE:
        importlib.import_module(module)
    found = {}
    for registry in (REGISTRY, registry_of_verification()[0]):
        for collector in set(registry._collector_to_names):
            if isinstance(collector, Counter | Gauge | Histogram) and collector._name.startswith("fogbook"):
                metric = _metric(collector)
                found[metric.name] = metric
    return [found[name] for name in sorted(found)]


def _metric(collector: Counter | Gauge | Histogram) -> Metric:
    kind = collector._type
    name = collector._name + ("_total" if kind == "counter" else "")
    unit = UNITS.get(collector._name.rpartition("_")[2], "1")
    return Metric(name, kind, unit, tuple(collector._labelnames), collector._documentation)


class Logged(NamedTuple):
    """A line of the code that logs."""

    level: str
    event: str
    fields: frozenset[str]
    where: str


def logged() -> Iterator[Logged]:
    """Every call of a module's `log`, as it stands in the code."""
    for layer in LAYERS:
        for path in sorted((ROOT / layer).rglob("*.py")):
            text = path.read_text()
            for node in ast.walk(ast.parse(text)) if "log." in text else ():
                if (found := _logged(node)) is not None:
                    level, event, fields = found
                    yield Logged(level, event, fields, f"{path.relative_to(ROOT)}:{node.lineno}")  # type: ignore[attr-defined]


def _logged(node: ast.AST) -> tuple[str, str, frozenset[str]] | None:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[first, *_]) if (
            level in METHODS
        ):
            return level, _text(first), frozenset(k.arg for k in node.keywords if k.arg)
        case ast.Call(
            func=ast.Attribute(attr="partial"), args=[ast.Attribute(value=bound, attr=level), first]
        ):
            if level in METHODS and "log" in ast.unparse(bound):
                return level, _text(first), frozenset()
    return None


def _text(node: ast.expr) -> str:
    return str(ast.literal_eval(node)) if isinstance(node, ast.Constant) else ""


def metrics_table() -> str:
    rows = [f"| `{m.name}` | {m.kind} | {m.unit} | {', '.join(m.labels)} | {m.help} |" for m in metrics()]
    return "\n".join(
        ["| metric | type | unit | labels | what it tells |", "|---|---|---|---|---|", *rows, ""]
    )


def events_table() -> str:
    levels = {each.event: each.level for each in logged()}
    rows = [f"| `{name}` | {levels.get(name, '')} | {about} |" for name, about in sorted(EVENTS.items())]
    return "\n".join(["| event | level | what it means |", "|---|---|---|", *rows, ""])


def page(text: str) -> str:
    """The page with today's tables in it."""
    for name, table in (("metrics", metrics_table()), ("events", events_table())):
        head, begin, rest = text.partition(BEGIN.format(name))
        _, end, tail = rest.partition(END.format(name))
        text = f"{head}{begin}{table}{end}{tail}"
    return text


def main(arguments: Any = None) -> None:
    PAGE.write_text(page(PAGE.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
