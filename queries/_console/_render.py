"""Values as readers see them, and pages from templates. Everything is escaped; nothing here asks anything."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from domain._kernel import FOG
from domain.platform import FOG_SCALE
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

    @property
    def kept(self) -> dict[str, str]:
        kept = {} if self.zone == "main" else {"zone": self.zone}
        return kept | ({"as_of": self.as_of} if self.as_of else {})

    def url(self, path: str, **parameters: Any) -> str:
        given = {name: str(value) for name, value in parameters.items() if value not in ("", None)}
        query = urlencode(given | self.kept)
        joint = "&" if "?" in path else "?"
        return f"{path}{joint}{query}" if query else path

    def linked(self, link: str, item: Mapping[str, Any]) -> str:
        return self.url(link.format_map({name: quote(str(value), safe="") for name, value in item.items()}))

    def because(self, source: tuple[str, tuple[str, ...]], item: Mapping[str, Any]) -> str:
        """The page that explains a row."""
        table, key = source
        return self.url("/console/explain", table=table, key="|".join(str(item[name]) for name in key))

    def amount(self, value: Any, asset: str = FOG) -> Markup:
        """Smallest units as whole tokens; the exact number is in the element's value."""
        scale = self.scales.get(asset, FOG_SCALE if asset == FOG else 0)
        return Markup('<data value="{}" title="{} smallest units of {}">{}</data>').format(
            value, value, asset, decimal(str(value), scale)
        )

    def show(self, column: Column, item: Mapping[str, Any]) -> Markup:
        """One field of a row, with its link."""
        shown = self._plain(column, item)
        if column.link and item[column.name] not in (None, ""):
            return Markup('<a href="{}">{}</a>').format(self.linked(column.link, item), shown)
        return shown

    def _plain(self, column: Column, item: Mapping[str, Any]) -> Markup:
        value = item[column.name]
        if value is None or value == "":
            return Markup('<span class="none">-</span>')
        match column.kind:
            case "amount":
                return self.amount(value, str(item.get("asset", FOG)))
            case "rate":
                return Markup('<data value="{}">{} %</data>').format(value, decimal(str(value), 2))
            case "number":
                return Markup('<data value="{}">{}</data>').format(value, grouped(str(value)))
            case "time":
                return moment(value)
            case "flag":
                return Markup('<data value="{}">{}</data>').format(int(value), "yes" if value else "no")
            case "list" | "json":
                return shortened(json.dumps(value, ensure_ascii=False))
        return shortened(str(value))


def shortened(text: str) -> Markup:
    if len(text) <= MOST_SHOWN:
        return escape(text)
    return Markup('<span title="{}">{}…</span>').format(text, text[:MOST_SHOWN])


def moment(value: Any) -> Markup:
    """A time, to the second in the text, exact in the element."""
    text = str(value)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(text, text, text[:19].replace("T", " "))


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
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"static": _static, "menu": menu}
    made.filters |= {"moment": moment, "grouped": grouped, "decimal": decimal}
    return made


def render(template: str, view: View, **values: Any) -> str:
    return environment().get_template(template).render(view=view, **values)
