"""What screens are made of. A page is a list of panels; a panel shows what one query answers.

A page's file declares, and contains neither SQL nor HTML: the query has the one, the templates have the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from datetime import datetime
from typing import Any, get_type_hints

from commands._codec import cache
from domain._kernel import FOG
from projections._schema import tables
from queries._console._acts import Act
from queries._parameters import terms_of
from queries._query import QUERIES, Query
from queries._sql import LIVE_JOIN, MOST_LIMIT, is_amount, plain
from queries._told import TOLD

MOST_DRAWN = 200
"""Points of a chart."""
HIDDEN = frozenset({"version", "incomplete"})
"""Columns that tell of a row, and stand behind its last one."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table, or one figure. `link` is a path with the row's fields in braces."""

    name: str
    kind: str = ""
    """amount, rate (basis points), hundredths, number, seconds, milliseconds, microseconds, time, flag, text, list or
    json; by its type where it is empty."""
    title: str = ""
    link: str = ""

    @property
    def heading(self) -> str:
        return self.title or self.name.replace("_", " ")


def amount(name: str, title: str = "", link: str = "") -> Column:
    return Column(name, "amount", title, link)


def rate(name: str, title: str = "", link: str = "") -> Column:
    return Column(name, "rate", title, link)


def number(name: str, title: str = "", link: str = "") -> Column:
    """A count, whatever its type: sums outgrow JSON's numbers and come as amounts do."""
    return Column(name, "number", title, link)


def span(name: str, title: str = "", kind: str = "milliseconds") -> Column:
    """How long something took: `seconds`, `milliseconds` or `microseconds`."""
    return Column(name, kind, title)


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
    row: tuple[str, ...] = ()
    """The read model's table whose row each item shows, and what names it: fields of the item, or what the page gives.
    Found by itself where a field has the name of each part of the table's key."""
    empty: str = "There is nothing here."

    @property
    def query(self) -> Query:
        return QUERIES.get(self.path) or TOLD[self.path].query

    @property
    def shown(self) -> tuple[Column, ...]:
        """The columns, each with its kind."""
        return _shown(self.query.row, self.columns)

    @property
    def inputs(self) -> list[tuple[str, str, str]]:
        """Of each filter its name, its kind and what it is when nothing is said."""
        terms = terms_of(self.query.parameters)
        named = [(name, *terms[name]) for name in self.filters]
        return [
            (name, str(kind), "" if known in (MISSING, "") else str(known)) for name, kind, known in named
        ]

    def given(self, parameters: Mapping[str, str]) -> dict[str, str]:
        """What the reader set of the filters."""
        return {name: parameters[name] for name in self.filters if parameters.get(name)}

    @property
    def unit(self) -> str:
        """The asset of all amounts here, where no item names its own."""
        return "" if "asset" in {f.name for f in fields(self.query.row)} else FOG

    def because(self, item: Mapping[str, Any]) -> tuple[str, str] | None:
        """The read model's table and the key of the row that an item shows, if it is one row's."""
        table, *names = self.row or source_of(self.query) or ("",)
        parts = [str(item[name] if name in item else self.fixed.get(name, "")) for name in names]
        return (table, "|".join(parts)) if table else None


@cache
def _shown(row: type, columns: tuple[Column, ...]) -> tuple[Column, ...]:
    hints = get_type_hints(row, include_extras=True)
    given = columns or tuple(Column(f.name) for f in fields(row) if f.name not in HIDDEN)
    return tuple(c if c.kind else replace(c, kind=_kind(hints[c.name])) for c in given)


def _kind(hint: Any) -> str:
    hint = plain(hint)
    if is_amount(hint):
        return "amount"
    return {int: "number", datetime: "time", bool: "flag", str: "text", list: "list"}.get(hint, "json")


def table(id: str, title: str, path: str, *columns: Column | str, **options: Any) -> Panel:
    """Rows: sorted, filtered, paged and exported."""
    options = {"wide": True} | options
    return Panel(id, title, f"/queries/{path}", "table.html", _columns(columns), **options)


def figures(id: str, title: str, path: str, *columns: Column | str, **options: Any) -> Panel:
    """One row's fields as figures."""
    return Panel(
        id, title, f"/queries/{path}", "figures.html", _columns(columns), one=True, limit=1, **options
    )


def chart(
    id: str, title: str, path: str, x: str, *series: Column | str, form: str = "line", **options: Any
) -> Panel:
    """Rows as lines or bars over time (`form`: line, bars, candles, or days: bars of what falls on each day)."""
    columns = _columns((x, *series))
    return Panel(
        id, title, f"/queries/{path}", "chart.html", columns, data=_chart(form), limit=MOST_DRAWN, **options
    )


def matrix(
    id: str, title: str, path: str, down: tuple[str, ...], across: str, value: Column, **options: Any
) -> Panel:
    """Rows as a square: what `down` names, `across` another field, and `value` where they meet."""
    columns = (*map(Column, down), Column(across), value)
    return Panel(
        id,
        title,
        f"/queries/{path}",
        "matrix.html",
        columns,
        data=_matrix,
        **{"wide": True, "limit": MOST_LIMIT} | options,
    )


@cache
def source_of(query: Query) -> tuple[str, ...] | None:
    """The read model's table whose rows a query shows, and the names of its key: whose row it is can be explained."""
    names = {f.name for f in fields(query.row)}
    known = {t.name: t.key for t in tables()}
    for found in LIVE_JOIN.finditer(query.select):
        key = known.get(f"read.{found[1]}", ())
        if key and names.issuperset(key):
            return (found[1], *key)
    return None


def fields_of(id: str, title: str, path: str, *columns: str, **options: Any) -> Panel:
    """One row's fields that hold more than a figure, one below the other."""
    return Panel(
        id, title, f"/queries/{path}", "fields.html", _columns(columns), one=True, limit=1, **options
    )


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
        """What the browser draws: seconds and numbers, oldest first. What several rows say of one time is summed."""
        x, *series = panel.shown
        places: dict[str, list[dict[str, Any]]] = {}
        for item in sorted(items, key=lambda item: str(item[x.name])):
            at = str(item[x.name])
            places.setdefault(at[: len("2026-01-31")] if form == "days" else at, []).append(item)
        return {
            "form": "bars" if form == "days" else form,
            "names": [c.heading for c in series],
            "kinds": [c.kind for c in series],
            "x": [_seconds(at) for at in places],
            "y": [[_sum(item[c.name] for item in here) for here in places.values()] for c in series],
        }

    return data


def _sum(values: Iterable[Any]) -> float | None:
    """Exact until it is drawn: a picture loses what it cannot show."""
    known = [int(value) for value in values if value is not None]
    return float(sum(known)) if known else None


def _seconds(value: Any) -> float:
    text = str(value)
    if len(text) == len("2026-01-31"):
        text += "T00:00:00Z"
    return datetime.fromisoformat(text).timestamp()


def _matrix(panel: Panel, items: list[dict[str, Any]]) -> dict[str, Any]:
    *down, across, value = panel.shown
    cells = {(tuple(str(item[c.name]) for c in down), str(item[across.name])): item for item in items}
    return {
        "down": sorted({place for place, _ in cells}),
        "across": sorted({place for _, place in cells}),
        "cells": cells,
        "heads": down,
        "kind": across.kind,
        "value": value,
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
    acts: tuple[Act, ...] = ()
    """Commands that it offers to operators."""

    @property
    def path(self) -> str:
        return "/" if self.name == "overview" else f"/console/{self.name}"

    def panel(self, id: str) -> Panel | None:
        return next((panel for panel in self.panels if panel.id == id), None)


PAGES: dict[str, Page] = {}


def page(
    name: str,
    title: str,
    *panels: Panel,
    about: str = "",
    in_menu: bool = True,
    asked: tuple[str, ...] = (),
    acts: tuple[Act, ...] = (),
) -> Page:
    made = PAGES[name] = Page(name, title, panels, about, in_menu, asked, acts)
    return made


@cache
def depends_on_reader(query: Query) -> bool:
    """Whether two readers who see equally much may get different answers."""
    return bool(query.own) or "%(principal)s" in query.select
