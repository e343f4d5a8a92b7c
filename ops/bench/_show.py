"""Figures for people at a terminal."""

from __future__ import annotations

from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Drawn

from ops.bench._figures import Figures
from ops.bench._tables import ORDER, Table, measured, tables


def show(figures: Figures, console: Console) -> None:
    """All that was measured; parts that did not run have no table."""
    goals, *others = tables(asdict(figures))
    orders: dict[str, dict[str, None]] = {}
    for table in (measured(goals), *others):
        if table.heads[-1] == ORDER:
            # Too wide for a terminal: each is said once, with all that it holds for.
            for row in table.rows:
                orders.setdefault(row[-1], {})[row[0]] = None
            table = Table(table.title, table.heads[:-1], [row[:-1] for row in table.rows])
        _draw(table, console)
    orders.pop("", None)
    _draw(Table("Order", [ORDER, "of"], [[order, "; ".join(of)] for order, of in orders.items()]), console)
    console.print("Conditions:", figures.conditions)


def _draw(table: Table, console: Console) -> None:
    if not table.rows:
        return
    drawn = Drawn(*table.heads, title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in table.rows:
        drawn.add_row(*map(escape, row))
    console.print(drawn)
