"""Harm to the archive: past versions of rows, by which questions as of a position are answered."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any

from projections._archive import OPEN, fork_node, past_name
from projections._engine import all_projections
from projections._schema import tables
from projections._tables import Table, from_sql
from tests.harms.models import other_value
from tests.tampering import Expected, Harm, Kind, Where, cases, kind, literal, other_text, projection_of

ARCHIVE = "WHERE zone = 'main' AND projection = %s AND live"


class Version:
    """A version of a row."""

    def __init__(
        self, table: Table, generation: int, key: list[Any], since: int, until: int, node: int
    ) -> None:
        self.table = table
        self.generation = generation
        self.key = key
        self.since = since
        self.until = until
        self.node = node

    @property
    def name(self) -> str:
        return past_name(self.table)

    @property
    def place(self) -> tuple[Any, ...]:
        return (*self.key, self.node)

    def where(self) -> str:
        parts = " AND ".join(f"{literal(name)} = %s" for name in (*self.table.key, "node"))
        return f"WHERE zone = 'main' AND generation = {self.generation} AND {parts}"

    def named(self, **more: Any) -> Where:
        return {"table": self.name, "row": [*self.key, self.since], **more}


def pick(harm: Harm, rng: Random, wanted: str = "true") -> Version | None:
    declared = [*tables()]
    rng.shuffle(declared)
    for table in declared:
        (generation,) = harm.one(f"SELECT generation FROM archives {ARCHIVE}", projection_of(table))
        key = ", ".join(map(literal, table.key))
        rows = harm.ask(
            f"SELECT {key}, since, until, node FROM {past_name(table)} "
            f"WHERE zone = 'main' AND generation = %s AND {wanted} ORDER BY {key}, since",
            generation,
        )
        if rows:
            *names, since, until, node = rng.choice(rows)
            return Version(table, generation, list(names), since, until, node)
    return None


@kind(models=True)
def a_field_of_a_past_row(harm: Harm, rng: Random) -> Expected | None:
    found = pick(harm, rng)
    if found is None:
        return None
    columns = [each for each in found.table.columns if each.name not in found.table.key]
    if not columns:
        return None
    column = rng.choice(columns)
    name = literal(column.name)
    (old,) = harm.one(f"SELECT {name} FROM {found.name} {found.where()}", *found.place)
    new = other_value(column, from_sql(old), rng)
    harm.sql(f"UPDATE {found.name} SET {name} = %s {found.where()}", new, *found.place)
    return [found.named(field=column.name)]


def _past_column(case: tuple[str, str, Callable[[Any, Random], Any]]) -> Kind:
    name, wanted, other = case

    def run(harm: Harm, rng: Random) -> Expected | None:
        found = pick(harm, rng, wanted)
        if found is None:
            return None
        (old,) = harm.one(f"SELECT {name} FROM {found.name} {found.where()}", *found.place)
        harm.sql(f"UPDATE {found.name} SET {name} = %s {found.where()}", other(old, rng), *found.place)
        return [found.named() if name in ("generation", "since") else found.named(field=name)]

    return run


cases(
    _past_column,
    {
        "since when a past row was valid": ("since", "true", lambda old, rng: old + rng.choice((-1, 1, 50))),
        "until when a past row was valid": (
            "until",
            f"until < {OPEN}",
            lambda old, rng: old + rng.choice((-1, 1, 50)),
        ),
        "a past row that still lasts": ("until", f"until = {OPEN}", lambda old, rng: rng.randint(1, 100)),
        "where a past row lies": ("node", "node >= 0", lambda old, rng: old + rng.randint(10**6, 10**7)),
        "a past row's position": ("position", "true", lambda old, rng: old + rng.choice((-1, 1))),
        "a past row that is called complete or not": ("incomplete", "true", lambda old, rng: not old),
        "a past row hidden in another generation": (
            "generation",
            "true",
            lambda old, rng: old + rng.randint(50, 90),
        ),
    },
    models=True,
)


@kind(models=True)
def a_deleted_past_row(harm: Harm, rng: Random) -> Expected | None:
    found = pick(harm, rng)
    if found is None:
        return None
    harm.sql(f"DELETE FROM {found.name} {found.where()}", *found.place)
    return [found.named()]


@kind(models=True)
def a_past_row_too_many(harm: Harm, rng: Random) -> Expected | None:
    """A version that ends one position later, beside the true one."""
    found = pick(harm, rng, f"until < {OPEN}")
    if found is None:
        return None
    until = found.until + rng.randint(2, 300)
    node = fork_node(found.since, until)
    if node == found.node:
        return None
    names = [
        "zone",
        "generation",
        *(each.name for each in found.table.columns),
        "position",
        "incomplete",
        "since",
    ]
    shown = ", ".join(map(literal, names))
    added = harm.sql(
        f"INSERT INTO {found.name} ({shown}, until, node) SELECT {shown}, %s, %s FROM {found.name} {found.where()} "
        "ON CONFLICT DO NOTHING",
        *(until, node, *found.place),
    )
    return [found.named()] if added else None  # Another version lies there.


# Where archives stand


def _archive_column(case: tuple[str, Callable[[Any, Random], Any]]) -> Kind:
    column, other = case

    def run(harm: Harm, rng: Random) -> Expected:
        name = rng.choice(sorted(all_projections()))
        (old,) = harm.one(f"SELECT {column} FROM archives {ARCHIVE}", name)
        harm.sql(f"UPDATE archives SET {column} = %s {ARCHIVE}", other(old, rng), name)
        return [{"table": "archives", "row": ["main", name]}]

    return run


cases(
    _archive_column,
    {
        "an archive's position": ("position", lambda old, rng: rng.choice((0, old + 1, old + 1_000))),
        "an archive's time": ("recorded_at", lambda old, rng: old + timedelta(seconds=rng.choice((-1, 1)))),
        "an archive's code": ("code", other_text),
    },
    models=True,
)
