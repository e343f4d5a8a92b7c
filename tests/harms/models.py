"""Harm to read models, their digests and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from typing import Any

from psycopg.types.json import Jsonb

from projections._digest import MODULUS, recompute, to_bytes
from projections._engine import all_projections
from projections._schema import tables
from projections._tables import Column, Table, from_sql
from tests.tampering import (
    Expected,
    Harm,
    Kind,
    Where,
    cases,
    flipped,
    kind,
    literal,
    other_text,
    projection_of,
)

CHECKPOINT = "WHERE zone = 'main' AND projection = %s AND live"


class Picked:
    """A row of a read model."""

    def __init__(self, table: Table, generation: int, key: list[Any], position: int) -> None:
        self.table = table
        self.generation = generation
        self.key = key
        self.position = position

    def where(self) -> str:
        parts = " AND ".join(f"{literal(name)} = %s" for name in self.table.key)
        return f"WHERE zone = 'main' AND generation = {self.generation} AND {parts}"

    def named(self, **more: Any) -> Where:
        return {"table": self.table.name, "row": self.key, **more}


def pick(harm: Harm, rng: Random, wanted: Callable[[Table], bool] = lambda table: True) -> Picked | None:
    """A row of any table that has some."""
    declared = [table for table in tables() if wanted(table)]
    rng.shuffle(declared)
    for table in declared:
        (generation,) = harm.one(f"SELECT generation FROM checkpoints {CHECKPOINT}", projection_of(table))
        key = ", ".join(map(literal, table.key))
        rows = harm.ask(
            f"SELECT {key}, position FROM {table.name} WHERE zone = 'main' AND generation = %s ORDER BY {key}",
            generation,
        )
        if rows:
            *names, position = rng.choice(rows)
            return Picked(table, generation, list(names), position)
    return None


def other_value(column: Column, old: Any, rng: Random) -> Any:
    """Another value that the column may hold."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, datetime):
        return old + timedelta(microseconds=rng.choice((-(10**9), -1, 1, 10**9)))
    if old is None:
        return {"timestamptz": datetime(2026, 5, 1, tzinfo=None), "boolean": True, "jsonb": Jsonb({})}.get(
            column.sql_type, 7 if column.sql_type.startswith(("numeric", "bigint")) else "x"
        )
    if column.sql_type == "jsonb":
        return Jsonb([*old, "more"] if isinstance(old, list) else {**old, "more": 1})
    if isinstance(old, str):
        return other_text(old, rng)
    return old + rng.choice((-1, 1, 10**6))


@kind(models=True)
def a_field_of_a_row(harm: Harm, rng: Random) -> Expected | None:
    found = pick(harm, rng, lambda table: len(table.columns) > len(table.key))
    if found is None:
        return None
    column = rng.choice([each for each in found.table.columns if each.name not in found.table.key])
    name = literal(column.name)
    (old,) = harm.one(f"SELECT {name} FROM {found.table.name} {found.where()}", *found.key)
    new = other_value(column, from_sql(old), rng)
    harm.sql(f"UPDATE {found.table.name} SET {name} = %s {found.where()}", new, *found.key)
    return [found.named(field=column.name)]


@kind(models=True)
def the_key_of_a_row(harm: Harm, rng: Random) -> Expected | None:
    found = pick(harm, rng)
    if found is None:
        return None
    columns = {each.name: each for each in found.table.columns}
    name = rng.choice(found.table.key)
    at = found.table.key.index(name)
    new = _free(columns[name], found.key[at], rng)
    harm.sql(f"UPDATE {found.table.name} SET {literal(name)} = %s {found.where()}", new, *found.key)
    return [found.named()]


def _free(column: Column, old: Any, rng: Random) -> Any:
    """A value for a key that is surely not in use."""
    if isinstance(old, datetime):
        return old + timedelta(days=10_000)
    return f"{old}.{rng.randrange(10**6)}" if isinstance(old, str) else old + rng.randint(10**6, 10**7)


def _row_column(case: tuple[str, Callable[[Any, Random], Any]]) -> Kind:
    name, other = case

    def run(harm: Harm, rng: Random) -> Expected | None:
        found = pick(harm, rng)
        if found is None:
            return None
        (old,) = harm.one(f"SELECT {name} FROM {found.table.name} {found.where()}", *found.key)
        harm.sql(f"UPDATE {found.table.name} SET {name} = %s {found.where()}", other(old, rng), *found.key)
        return [found.named() if name == "generation" else found.named(field=name)]

    return run


cases(
    _row_column,
    {
        "a row's position": ("position", lambda old, rng: old + rng.choice((-1, 1, 100))),
        "a row that is called complete or not": ("incomplete", lambda old, rng: not old),
        "a row hidden in another generation": ("generation", lambda old, rng: old + rng.randint(50, 90)),
    },
    models=True,
)


@kind(models=True)
def a_deleted_row(harm: Harm, rng: Random) -> Expected | None:
    found = pick(harm, rng)
    if found is None:
        return None
    harm.sql(f"DELETE FROM {found.table.name} {found.where()}", *found.key)
    return [found.named()]


@kind(models=True)
def a_row_too_many(harm: Harm, rng: Random) -> Expected | None:
    """A copy of a row under another key."""
    found = pick(harm, rng)
    if found is None:
        return None
    columns = {each.name: each for each in found.table.columns}
    at = rng.randrange(len(found.table.key))
    name = found.table.key[at]
    new = _free(columns[name], found.key[at], rng)
    names = [literal(each) for each in found.table.all_columns]
    given = ", ".join("%s" if each == literal(name) else each for each in names)
    harm.sql(
        f"INSERT INTO {found.table.name} ({', '.join(names)}) SELECT {given} FROM {found.table.name} {found.where()}",
        new,
        *found.key,
    )
    return [{"table": found.table.name, "row": [*found.key[:at], new, *found.key[at + 1 :]]}]


@kind(models=True)
def two_rows_swapped(harm: Harm, rng: Random) -> Expected | None:
    """Two accounts change what they hold."""
    rows = harm.ask(
        "SELECT account, asset, posted, generation FROM read.ledger_balances JOIN checkpoints c "
        "USING (zone, generation) WHERE zone = 'main' AND c.projection = 'ledger' AND c.live ORDER BY 1, 2"
    )
    first, second = rng.sample(rows, 2)
    if first[2] == second[2]:
        return None
    where = "WHERE zone = 'main' AND (account, asset) = (%s, %s) AND generation = %s"
    for one, other in ((first, second), (second, first)):
        harm.sql(f"UPDATE read.ledger_balances SET posted = %s {where}", other[2], *one[:2], one[3])
    return [{"table": "read.ledger_balances", "row": [*first[:2]], "field": "posted"}]


@kind(models=True)
def a_row_and_its_digest(harm: Harm, rng: Random) -> Expected | None:
    """What is stored fits together; neither the log nor what was attested says so."""
    expected = a_field_of_a_row(harm, rng)
    if expected is None:
        return None
    table = next(each for each in tables() if each.name == expected[0]["table"])
    name = projection_of(table)
    (generation,) = harm.one(f"SELECT generation FROM checkpoints {CHECKPOINT}", name)
    forged = recompute(harm.connection, "main", all_projections()[name], generation) % MODULUS
    harm.sql(
        "UPDATE digests SET accumulator = %s WHERE zone = 'main' AND projection = %s", to_bytes(forged), name
    )
    return expected


# Digests, checkpoints and what is set aside


def _projection(rng: Random) -> str:
    return rng.choice(sorted(all_projections()))


@kind(models=True)
def a_byte_of_a_digest(harm: Harm, rng: Random) -> Expected:
    name = _projection(rng)
    where = "WHERE zone = 'main' AND projection = %s"
    (old,) = harm.one(f"SELECT accumulator FROM digests {where} ORDER BY generation DESC LIMIT 1", name)
    harm.sql(f"UPDATE digests SET accumulator = %s {where}", flipped(old, rng), name)
    return [{"table": "digests", "row": ["main", name], "field": "accumulator"}]


@kind(models=True)
def a_deleted_digest(harm: Harm, rng: Random) -> Expected:
    name = _projection(rng)
    harm.sql("DELETE FROM digests WHERE zone = 'main' AND projection = %s", name)
    return [{"table": "digests", "row": ["main", name], "field": "accumulator"}]


def _checkpoint_column(case: tuple[str, Callable[[Any, Random], Any]]) -> Kind:
    column, other = case

    def run(harm: Harm, rng: Random) -> Expected:
        name = _projection(rng)
        (old,) = harm.one(f"SELECT {column} FROM checkpoints {CHECKPOINT}", name)
        harm.sql(f"UPDATE checkpoints SET {column} = %s {CHECKPOINT}", other(old, rng), name)
        # A generation that has no rows lacks its digest first of all.
        more = [{"table": "digests", "row": ["main", name]}] if column == "generation" else []
        return [{"table": "checkpoints", "row": ["main", name]}, *more]

    return run


cases(
    _checkpoint_column,
    {
        "a projection's position": ("position", lambda old, rng: old + rng.choice((-7, -1, 1, 1_000))),
        "a projection's time": ("recorded_at", lambda old, rng: old + timedelta(seconds=rng.choice((-1, 1)))),
        "a projection's code": ("code", other_text),
        "a projection's generation": ("generation", lambda old, rng: old + rng.randint(1, 9)),
        "a projection that is not live": ("live", lambda old, rng: False),
    },
    models=True,
)


@kind(models=True)
def a_deleted_checkpoint(harm: Harm, rng: Random) -> Expected:
    name = _projection(rng)
    harm.sql("DELETE FROM checkpoints WHERE zone = 'main' AND projection = %s", name)
    return [{"table": "checkpoints", "row": ["main", name]}]


@kind(models=True)
def an_event_that_is_set_aside_by_nobody(harm: Harm, rng: Random) -> Expected:
    name, position = _projection(rng), harm.position(rng)
    (generation,) = harm.one(f"SELECT generation FROM checkpoints {CHECKPOINT}", name)
    (stream,) = harm.one("SELECT stream FROM events WHERE zone = 'main' AND position = %s", position)
    error = rng.choice(("raised: ValueError()", "an earlier event of its stream is quarantined", "hung: x"))
    harm.sql(
        "INSERT INTO quarantine VALUES ('main', %s, %s, %s, %s, 1, true, %s) ON CONFLICT DO NOTHING",
        *(name, generation, position, stream, error),
    )
    return [{"table": "quarantine", "position": position}]


@kind(models=True)
def an_event_that_is_set_aside_no_more(harm: Harm, rng: Random) -> Expected | None:
    rows = harm.ask(
        "SELECT q.projection, q.generation, q.position FROM quarantine q JOIN checkpoints c "
        "USING (zone, projection, generation) WHERE zone = 'main' AND c.live AND quarantined ORDER BY 1, 3"
    )
    if not rows:
        return None
    name, generation, position = rng.choice(rows)
    harm.sql(
        "DELETE FROM quarantine WHERE zone = 'main' AND (projection, generation, position) = (%s, %s, %s)",
        *(name, generation, position),
    )
    return [{"table": "quarantine", "position": position}]


@kind(models=True)
def a_timer_that_counts_as_done(harm: Harm, rng: Random) -> Expected | None:
    """So that what is due never happens."""
    rows = harm.ask(
        "SELECT timer FROM read.timers JOIN checkpoints c USING (zone, generation) WHERE zone = 'main' "
        "AND c.projection = 'timers' AND c.live AND to_zone IN ('', 'main') ORDER BY timer"
    )
    if not rows:
        return None
    (timer,) = rng.choice(rows)
    harm.sql("INSERT INTO timer_fates VALUES ('main', %s, %s, true, now())", timer, rng.randint(0, 3))
    return [{"table": "timer_fates", "row": ["main", timer]}]
