"""Values as readers see them, and pages from templates. Everything is escaped; nothing here asks anything."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from domain._kernel import FOG
from domain.platform import FOG_SCALE
from queries._console._acts import new_token
from queries._console._panels import PAGES, Column, Page
from queries._console._screens import SCREENS, Screen

HERE = Path(__file__).parent
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
MOST_SHOWN = 80
"""Characters of a text in a table; the rest is in its title."""


@dataclass(frozen=True, slots=True)
class View:
    """Who looks at what: links keep the zone and the moment."""

    zone: str = "main"
    as_of: str = ""
    principal: str = ""
    role: str = ""
    scales: Mapping[str, int] = field(default_factory=dict)
    """Decimal places of each asset."""
    notices: tuple[str, ...] = ()
    """What every page says of the installation itself."""

    @property
    def kept(self) -> dict[str, str]:
        kept = {} if self.zone == "main" else {"zone": self.zone}
        return kept | ({"as_of": self.as_of} if self.as_of else {})

    def present(self, given: Mapping[str, str]) -> str:
        """The query string of the same page as of now."""
        return urlencode({**given, "zone": self.zone})

    def url(self, path: str, **parameters: Any) -> str:
        given = {name: str(value) for name, value in parameters.items() if value not in ("", None)}
        query = urlencode(given | self.kept)
        path, mark, place = path.partition("#")
        joint = "&" if "?" in path else "?"
        return (f"{path}{joint}{query}" if query else path) + mark + place

    def linked(self, link: str, item: Mapping[str, Any]) -> str:
        return self.url(link.format_map(_Quoted(item)))

    def because(self, row: tuple[str, str]) -> str:
        """The page that explains a row of a read model."""
        table, key = row
        return self.url("/console/explain", table=table, key=key)

    def amount(self, value: Any, asset: str = FOG) -> Markup:
        """Smallest units as whole tokens; the exact number is in the element's value."""
        scale = self.scales.get(asset, FOG_SCALE if asset == FOG else 0)
        return filled(
            '<data value="%s" title="%s smallest units of %s">%s</data>',
            value,
            value,
            asset,
            _parted(decimal(str(value), scale), scale),
        )

    def show(self, column: Column, item: Mapping[str, Any]) -> Markup:
        """One field of a row, with its link."""
        shown = self._plain(column, item)
        if column.link and item[column.name] not in (None, ""):
            return filled('<a href="%s">%s</a>', self.linked(column.link, item), shown)
        return shown

    def _plain(self, column: Column, item: Mapping[str, Any]) -> Markup:
        value = item[column.name]
        if value is None or value == "":
            return Markup('<span class="none">-</span>')
        match column.kind:
            case "amount":
                return self.amount(value, str(item.get("asset", FOG)))
            case "rate":
                return filled('<data value="%s">%s %%</data>', value, decimal(str(value), 2))
            case "hundredths":
                return filled('<data value="%s">%s</data>', value, decimal(str(value), 2))
            case "number":
                return filled('<data value="%s">%s</data>', value, grouped(str(value)))
            case "seconds" | "milliseconds" | "microseconds":
                return filled(
                    '<data value="%s" title="%s %s">%s</data>',
                    value,
                    value,
                    column.kind,
                    lasting(int(value) * MICROSECONDS[column.kind]),
                )
            case "time":
                return moment(value)
            case "flag":
                return filled('<data value="%s">%s</data>', int(value), "yes" if value else "no")
            case "stack":
                return filled("<details><summary>where</summary><pre>%s</pre></details>", value)
            case "list" | "json":
                return shortened(json.dumps(value, ensure_ascii=False))
        return shortened(str(value))


class _Quoted(dict[str, Any]):
    """A row whose fields stand in an address, when they are asked for."""

    def __getitem__(self, name: str) -> str:
        return quote(str(super().__getitem__(name)), safe="")


def filled(template: LiteralString, *values: Any) -> Markup:
    """HTML of ours with values in the places of `%s`, each escaped, as `Markup.format` does; that takes three times
    as long, and a table has thousands of cells."""
    return Markup(template % tuple(map(escape, values)))  # noqa: S704 - what is not escaped is a literal


MICROSECONDS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
UNITS = (
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("min", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("µs", 1),
)
FIGURE_SPACE, POINT_SPACE = "\u2007", "\u2008"


def lasting(us: int) -> str:
    """How long something took, in the largest unit that it fills, with a tenth."""
    for unit, size in UNITS:
        if abs(us) >= size:
            return f"{decimal(str(us * 10 // size), 1)} {unit}"
    return "0 s"


def _parted(digits: str, scale: int) -> Markup:
    """Whole tokens, and the rest more quietly. Blanks as wide as the digits that are not there make points stand below
    each other in a column."""
    whole, point, rest = digits.partition(".")
    missing = FIGURE_SPACE * (scale - len(rest))
    if not point:
        return escape(whole + (POINT_SPACE + missing if scale else ""))
    return filled("%s<i>.%s</i>", whole, rest + missing)


def shortened(text: str) -> Markup:
    if len(text) <= MOST_SHOWN:
        return escape(text)
    return filled('<span title="%s">%s…</span>', text, text[:MOST_SHOWN])


def moment(value: Any) -> Markup:
    """A time, to the second in the text, exact in the element."""
    text = str(value)
    return filled('<time datetime="%s" title="%s">%s</time>', text, text, text[:19].replace("T", " "))


def grouped(digits: str) -> str:
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    return f"{sign}{int(digits):,}" if digits.isdecimal() else sign + digits


def decimal(digits: str, scale: int) -> str:
    """A whole number of smallest units with its decimal point, exact: no float takes part."""
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    padded = digits.rjust(scale + 1, "0")
    whole, rest = (padded[:-scale], padded[-scale:].rstrip("0")) if scale else (padded, "")
    return f"{sign}{grouped(whole)}{'.' + rest if rest else ''}"


@cache
def statics() -> dict[str, tuple[bytes, bytes, str, str]]:
    """Of each file its bytes, the same compressed, its type, and a name for its content."""
    found = {}
    for path in sorted((HERE / "static").iterdir()):
        content = path.read_bytes()
        tag = hashlib.sha256(content).hexdigest()[:12]
        found[path.name] = (content, gzip.compress(content, 9, mtime=0), TYPES[path.suffix], tag)
    return found


def _static(name: str) -> str:
    return f"/console/static/{name}?v={statics()[name][3]}"


def menu() -> list[Page | Screen]:
    """What stands at the top of each page."""
    screens: list[Page | Screen] = [*PAGES.values(), *SCREENS.values()]
    return [each for each in screens if each.in_menu]


@cache
def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("queries._console"),
        autoescape=select_autoescape(default=True),
        auto_reload=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"static": _static, "new_token": new_token, "menu": menu}
    made.filters |= {"moment": moment, "grouped": grouped, "decimal": decimal}
    return made


def render(template: str, view: View, **values: Any) -> str:
    return environment().get_template(template).render(view=view, **values)
