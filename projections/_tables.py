"""Rows of read models: a dataclass says what a table holds, and is the only place that does.

Every table lies in the schema `read` and begins with `zone` and `generation` (blue/green rebuilds); it ends with
`position` (of the last event that touched the row) and `incomplete` (an event that concerns it is quarantined).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from decimal import Decimal
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

T = TypeVar("T")

Money = Annotated[int, "numeric(38,0)"]
"""A signed amount in an asset's smallest unit."""
Total = Annotated[int, "numeric"]
"""A sum of amounts over time, or a number scaled by 10**18: it may outgrow any one amount."""

_SQL_TYPES = {
    str: 'text COLLATE "C"',
    int: "bigint",
    bool: "boolean",
    datetime: "timestamptz",
    dict: "jsonb",
    list: "jsonb",
}


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    sql_type: str
    nullable: bool

    @property
    def array_type(self) -> str:
        return self.sql_type.removesuffix(' COLLATE "C"') + "[]"


@dataclass(frozen=True, slots=True)
class Table:
    """What is derived from a row's dataclass."""

    name: str
    row: type
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    indexes: tuple[str, ...]

    @property
    def all_columns(self) -> tuple[str, ...]:
        return ("zone", "generation", *(c.name for c in self.columns), "position", "incomplete")


class Row:
    """Base of all rows; `position` and `incomplete` are kept by the engine."""

    __slots__ = ("incomplete", "position")
    position: int
    incomplete: bool


@dataclass_transform()
def table(name: str, *, key: tuple[str, ...], indexes: tuple[str, ...] = ()) -> Callable[[type[T]], type[T]]:
    """Declare a row: key fields without defaults first, all others with defaults.

    `indexes` are column lists behind zone and generation (`"asset, posted DESC"`).
    """

    def declare(cls: type[T]) -> type[T]:
        row = dataclass(slots=True)(cls)
        columns = tuple(_column(f, hint) for f, hint in _hints(row))
        unset = {f.name for f in fields(row) if f.default is MISSING and f.default_factory is MISSING}  # type: ignore[arg-type]
        if unset != set(key):
            raise TypeError(f"{cls.__name__}: the fields without a default must be its key {key}")
        row.__table__ = Table(f"read.{name}", row, key, columns, indexes)  # type: ignore[attr-defined]
        return row

    return declare


def table_of(row: type) -> Table:
    declared: Table = row.__table__  # type: ignore[attr-defined]
    return declared


def _hints(row: type) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(row, include_extras=True)
    for f in fields(row):
        yield f.name, hints[f.name]


def _column(name: str, hint: Any) -> Column:
    nullable = False
    if get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint):
        nullable = True
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Annotated:
        return Column(name, hint.__metadata__[0], nullable)
    return Column(name, _SQL_TYPES[get_origin(hint) or hint], nullable)


def from_sql(value: Any) -> Any:
    """Whole numbers come back from `numeric` as Decimal."""
    return int(value) if isinstance(value, Decimal) else value
