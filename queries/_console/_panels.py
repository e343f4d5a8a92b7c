"""What screens are made of. A page is a list of panels; a panel shows what one query answers.

A page's file declares, and contains neither SQL nor HTML: the query has the one, the templates have the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, replace
from datetime import datetime
from typing import Any, get_type_hints

from commands._codec import cache
from projections._schema import tables
from queries._http import QUERIES, Query
from queries._openapi import kind_of
from queries._sql import READ, is_amount, plain

HIDDEN = frozenset({"version", "incomplete"})
"""Columns that tell of a row, and stand behind its last one."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table, or one figure. `link` is a path with the row's fields in braces."""

    name: str
    kind: str = ""
    """amount, rate (basis points), number, time, flag, text, list or json; by its type where it is empty."""
    title: str = ""
    link: str = ""

    @property
    def heading(self) -> str:
        return self.title or self.name.replace("_", " ")


def amount(name: str, title: str = "", link: str = "") -> Column:
    return Column(name, "amount", title, link)


def rate(name: str, title: str = "", link: str = "") -> Column:
    return Column(name, "rate", title, link)


def linked(name: str, link: str, title: str = "") -> Column:
    return Column(name, "", title, link)


def wallet(name: str, title: str = "") -> Column:
    """An account, or a principal, whose wallet is looked at."""
    return Column(name, "", title, f"/console/account?account={{{name}}}")


Form = Callable[["Panel", list[dict[str, Any]]], Any]


@dataclass(frozen=True, slots=True)
class Panel:
    """What one query answers, and how it is shown."""

    id: str
    title: str
    path: str
    """The query's path: `/queries/staking/validators`."""
    template: str
    columns: tuple[Column, ...] = ()
    fixed: dict[str, str] = field(default_factory=dict)
    """Parameters that the page gives."""
    asked: tuple[str, ...] = ()
    """Parameters that come from the page's own address, such as the contract that it is about."""
    filters: tuple[str, ...] = ()
    """Parameters that the reader may set."""
    limit: int = 25
    about: str = ""
    wide: bool = False
    data: Form | None = None
    """Makes of the items what a template needs beside them: pure."""
    one: bool = False
    """Shows the first item only."""

    @property
    def query(self) -> Query:
        return QUERIES[self.path]

    @property
    def shown(self) -> tuple[Column, ...]:
        """The columns, each with its kind."""
        hints = get_type_hints(self.query.row, include_extras=True)
        names = [f.name for f in fields(self.query.row) if f.name not in HIDDEN]
        given = self.columns or tuple(Column(name) for name in names)
        return tuple(c if c.kind else replace(c, kind=_kind(hints[c.name])) for c in given)

    @property
    def inputs(self) -> list[tuple[str, str, str]]:
        """Of each filter its name, its kind and what it is when nothing is said."""
        hints = get_type_hints(self.query.parameters, include_extras=True)
        known = {f.name: f.default for f in fields(self.query.parameters)}
        return [
            (name, str(kind_of(hints[name])), "" if known[name] in (MISSING, "") else str(known[name]))
            for name in self.filters
        ]


def _kind(hint: Any) -> str:
    hint = plain(hint)
    if is_amount(hint):
        return "amount"
    return {int: "number", datetime: "time", bool: "flag", str: "text", list: "list"}.get(hint, "json")


def table(id: str, title: str, path: str, *columns: Column | str, **options: Any) -> Panel:
    """Rows: sorted, filtered, paged and exported."""
    return Panel(id, title, f"/queries/{path}", "table.html", _columns(columns), wide=True, **options)


def figures(id: str, title: str, path: str, *columns: Column | str, **options: Any) -> Panel:
    """One row's fields as figures."""
    return Panel(
        id, title, f"/queries/{path}", "figures.html", _columns(columns), one=True, limit=1, **options
    )


def chart(
    id: str, title: str, path: str, x: str, *series: Column | str, form: str = "line", **options: Any
) -> Panel:
    """Rows as lines or bars over time (`form`: line, bars, candles)."""
    columns = _columns((x, *series))
    return Panel(
        id, title, f"/queries/{path}", "chart.html", columns, data=_chart(form), limit=200, **options
    )


def matrix(id: str, title: str, path: str, down: str, across: str, value: Column, **options: Any) -> Panel:
    """Rows as a square: one field down, another across, a third where they meet."""
    columns = (Column(down), Column(across), value)
    return Panel(
        id, title, f"/queries/{path}", "matrix.html", columns, data=_matrix, limit=500, wide=True, **options
    )


@cache
def source_of(query: Query) -> tuple[str, tuple[str, ...]] | None:
    """The read model's table whose rows a query shows, and the names of its key: whose row it is can be explained."""
    found = READ.search(query.select)
    if found is None or query.derive is not None:
        return None
    known = next((t for t in tables() if t.name == found[0]), None)
    names = {f.name for f in fields(query.row)}
    return (found[1], known.key) if known is not None and set(known.key) <= names else None


def timeline(id: str, title: str, path: str, **options: Any) -> Panel:
    """One thing's life: all its times, in order."""
    return Panel(id, title, f"/queries/{path}", "timeline.html", data=_moments, one=True, limit=1, **options)


def _moments(panel: Panel, items: list[dict[str, Any]]) -> list[tuple[str, str]]:
    times = [(str(items[0][c.name]), c.heading) for c in panel.shown if c.kind == "time" and items[0][c.name]]
    return sorted((at, name) for at, name in times)


def _columns(given: tuple[Column | str, ...]) -> tuple[Column, ...]:
    return tuple(Column(each) if isinstance(each, str) else each for each in given)


def _chart(form: str) -> Form:
    def data(panel: Panel, items: list[dict[str, Any]]) -> dict[str, Any]:
        """What the browser draws: seconds and numbers, oldest first. Amounts lose what a picture cannot show."""
        x, *series = panel.shown
        ordered = sorted(items, key=lambda item: str(item[x.name]))
        return {
            "form": form,
            "names": [c.heading for c in series],
            "kinds": [c.kind for c in series],
            "x": [_seconds(item[x.name]) for item in ordered],
            "y": [[_number(item[c.name]) for item in ordered] for c in series],
        }

    return data


def _seconds(value: Any) -> float:
    text = str(value)
    if len(text) == len("2026-01-31"):
        text += "T00:00:00Z"
    return datetime.fromisoformat(text).timestamp()


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _matrix(panel: Panel, items: list[dict[str, Any]]) -> dict[str, Any]:
    down, across, value = panel.shown
    cells = {(str(item[down.name]), str(item[across.name])): item[value.name] for item in items}
    return {
        "down": sorted({place for place, _ in cells}),
        "across": sorted({place for _, place in cells}),
        "cells": cells,
    }


@dataclass(frozen=True, slots=True)
class Page:
    """A screen. `asked` names the parameters of its address that its panels need."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    about: str = ""
    in_menu: bool = True
    asked: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return "/" if self.name == "overview" else f"/console/{self.name}"

    def panel(self, id: str) -> Panel | None:
        return next((panel for panel in self.panels if panel.id == id), None)


PAGES: dict[str, Page] = {}


def page(
    name: str, title: str, *panels: Panel, about: str = "", in_menu: bool = True, asked: tuple[str, ...] = ()
) -> Page:
    made = PAGES[name] = Page(name, title, panels, about, in_menu, asked)
    return made


@cache
def depends_on_reader(query: Query) -> bool:
    """Whether two readers who see equally much may get different answers."""
    return bool(query.own) or "%(principal)s" in query.select
