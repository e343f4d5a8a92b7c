"""What a superuser can do to a history, as small functions that do one harm each and say what must be named.

A kind takes a `Harm` (the log and a cursor of the superuser) and chance. It returns what a difference must say at
least: one of several, where several places tell of the same harm. It returns None where this log has nothing that
it could harm. Statements go through `Harm.sql`, which knows what to restore behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from random import Random
from typing import Any

import psycopg
from psycopg import sql

from ops.verify import Difference, Found, verify
from projections._archive import past_name
from projections._digest import time_text
from projections._engine import all_projections
from projections._schema import tables
from projections._tables import Table
from tests.chronicles import SECRET, Chronicle

Where = dict[str, Any]
Expected = list[Where]
Kind = Callable[["Harm", Random], "Expected | None"]

LOG = (
    *("heads", "events", "commands", "snapshots", "trees", "tiles", "signing_keys", "signed_checkpoints"),
    *("cosignatures", "witnesses", "attestations"),
)
MODELS = ("checkpoints", "quarantine", "digests", "archives", "timer_fates")
TARGET = re.compile(r"\s*(?:INSERT INTO|DELETE FROM|UPDATE)\s+([a-z_.]+)")


def all_tables() -> list[str]:
    """Everything that a verification looks at."""
    read = [table.name for table in tables()]
    return [*LOG, *MODELS, *read, *(past_name(table) for table in tables())]


@dataclass
class Harm:
    """A log that is being altered."""

    chronicle: Chronicle
    connection: psycopg.Connection[Any]
    touched: set[str] = field(default_factory=set)
    statements: list[str] = field(default_factory=list)
    after: list[Callable[[], None]] = field(default_factory=list)
    """What the forger does once his statements are committed."""

    def sql(self, statement: str, *values: Any) -> int:
        """Alter something; returns how many rows."""
        found = TARGET.match(statement)
        assert found is not None, statement
        self.touched.add(found[1])
        self.statements.append(f"{' '.join(statement.split())} {values!r}"[:300])
        return self.connection.execute(statement.encode(), values).rowcount

    def many(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        """The same statement for many rows."""
        found = TARGET.match(statement)
        assert found is not None, statement
        self.touched.add(found[1])
        with self.connection.cursor() as cursor:
            cursor.executemany(statement.encode(), rows)

    def ask(self, question: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(question.encode(), values).fetchall()

    def one(self, question: str, *values: Any) -> Any:
        rows = self.ask(question, *values)
        return rows[0] if rows else None

    def position(self, rng: Random) -> int:
        return rng.randint(1, self.chronicle.position)

    def number(self, rng: Random) -> int:
        return rng.randint(1, self.chronicle.number)


# Keeping a copy of everything, and putting back what was altered


def keep_copies(connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE SCHEMA backup")
    for name in all_tables():
        connection.execute(f"CREATE TABLE {_copy_of(name)} AS TABLE {name}".encode())


def _copy_of(name: str) -> str:
    return f'backup."{name}"'


def has_changed(connection: psycopg.Connection[Any], names: set[str]) -> bool:
    """Whether any of the tables holds other rows than its copy."""
    for name in names:
        both = name, _copy_of(name)
        for first, second in (both, both[::-1]):
            question = f"SELECT EXISTS (TABLE {first} EXCEPT ALL TABLE {second})"
            row = connection.execute(question.encode()).fetchone()
            if row is not None and row[0]:
                return True
    return False


def restore(connection: psycopg.Connection[Any], names: set[str]) -> None:
    with connection.transaction():
        for name in names:
            connection.execute(f"DELETE FROM {name}".encode())
            connection.execute(f"INSERT INTO {name} TABLE {_copy_of(name)}".encode())


# The kinds


@dataclass(frozen=True)
class Registered:
    name: str
    run: Kind
    models: bool
    """Whether the log part alone cannot find it."""
    held: bool
    """Whether a checkpoint that was kept elsewhere is needed."""


KINDS: dict[str, Registered] = {}


def kind(*, models: bool = False, held: bool = False) -> Callable[[Kind], Kind]:
    def register(function: Kind) -> Kind:
        name = function.__name__.strip("_").replace("_", " ")
        assert name not in KINDS
        KINDS[name] = Registered(name, function, models, held)
        return function

    return register


def cases(
    make: Callable[[Any], Kind], named: dict[str, Any], *, models: bool = False, held: bool = False
) -> None:
    """Kinds that are alike: each has a name, and what it is made of."""
    for name, case in named.items():
        assert name not in KINDS
        KINDS[name] = Registered(name, make(case), models, held)


def flipped(value: bytes, rng: Random) -> bytes:
    """One byte is another."""
    at = rng.randrange(len(value))
    return value[:at] + bytes([value[at] ^ rng.randint(1, 255)]) + value[at + 1 :]


def other_text(text: str, rng: Random) -> str:
    """The text with a letter more, less or changed."""
    at = rng.randrange(len(text)) if text else 0
    letter = rng.choice("abcdefghijkmnop0123456789")
    made = rng.choice((text + letter, text[:at] + letter + text[at + 1 :], text[:at] + text[at + 1 :]))
    return made if made != text and made else f"{text}x"


# How it is told whether it was found


@dataclass
class Outcome:
    kind: str
    changed: bool = True
    detected: bool = False
    located: bool = False
    said: list[str] = field(default_factory=list)
    expected: Expected = field(default_factory=list)
    statements: list[str] = field(default_factory=list)


def fits(difference: Difference, where: Where) -> bool:
    """Whether a difference says this; `says` is what its words must hold."""
    wanted = {name: value for name, value in where.items() if name != "says"}
    said = asdict(difference)
    is_named = all(plain(said[name]) == plain(value) for name, value in wanted.items())
    return is_named and where.get("says", "") in said["what"]


def plain(value: Any) -> Any:
    """Keys of rows may hold times."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    return time_text(value) if isinstance(value, datetime) else value


def look(chronicle: Chronicle, *, models: bool, held: bool, deep: bool = False) -> Found:
    """What a verification finds, with the installation's secret; `held`: with what was kept elsewhere, too."""
    with chronicle.code():
        return verify(
            chronicle.database.connect,
            None,
            lambda done, total: None,
            pepper=SECRET,
            vkeys=chronicle.vkeys if held else (),
            held=chronicle.held if held else (),
            models=models,
            deep=deep,
        )


@contextmanager
def harmed(
    chronicle: Chronicle, connection: psycopg.Connection[Any], run: Kind, rng: Random
) -> Iterator[tuple[Harm, Expected | None]]:
    """Do the harm, and undo it behind the block."""
    harm = Harm(chronicle, connection)
    try:
        with connection.transaction():
            expected = run(harm, rng)
        with chronicle.code():
            for each in harm.after:
                each()
        yield harm, expected
    finally:
        restore(connection, harm.touched)


def try_kind(
    chronicle: Chronicle, connection: psycopg.Connection[Any], registered: Registered, rng: Random
) -> Outcome | None:
    """Alter, verify, compare, restore. None where this log has nothing to be harmed so."""
    with harmed(chronicle, connection, registered.run, rng) as (harm, expected):
        if expected is None:
            return None
        outcome = Outcome(registered.name, expected=expected, statements=harm.statements)
        outcome.changed = has_changed(connection, harm.touched)
        found = look(chronicle, models=registered.models, held=registered.held)
        outcome.detected = found.count > 0
        outcome.located = any(fits(each, where) for each in found.problems for where in expected)
        outcome.said = [str(each) for each in found.problems[:6]]
        return outcome


def projection_of(table: Table) -> str:
    return next(name for name, each in all_projections().items() if table in each.tables)


def literal(name: str) -> str:
    return sql.Identifier(name).as_string(None)
