"""Harm to the fates of commands, and to the head."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tests.harms.shared import FATE, FATE_COLUMNS, leaf_of, some_time
from tests.tampering import Expected, Harm, Kind, cases, flipped, kind, other_text


def _fate_column(case: tuple[str, Callable[[Any, Random], Any]]) -> Kind:
    column, other = case

    def run(harm: Harm, rng: Random) -> Expected:
        number = harm.number(rng)
        (value,) = harm.one(f"SELECT {column} FROM commands {FATE}", number)
        harm.sql(f"UPDATE commands SET {column} = %s {FATE}", other(value, rng), number)
        return [{"command": number}]

    return run


cases(
    _fate_column,
    {
        "a byte of a request": ("request", flipped),
        "a byte of an answer": ("answer", flipped),
        "a byte of a fate's leaf": ("leaf", flipped),
        "a fate's principal": ("principal", other_text),
        "for whom a command was": ("act_as", other_text),
        "a command's key": ("key", lambda old, rng: f"{old}.{rng.randrange(10**6)}"),
        "a command's If-Match": ("if_match", lambda old, rng: rng.randrange(100) if old is None else None),
        "a fate's status": ("status", lambda old, rng: 409 if old == 200 else 200),
        "a fate's position": ("position", lambda old, rng: old + rng.choice((-2, -1, 1, 2))),
        "a fate's count of events": ("events", lambda old, rng: old + rng.choice((-1, 1, 2)) or 3),
        "a back-dated fate": ("recorded_at", lambda old, rng: old - some_time(rng)),
        "a later fate": ("recorded_at", lambda old, rng: old + some_time(rng)),
    },
)


@kind()
def a_deleted_fate(harm: Harm, rng: Random) -> Expected:
    number = harm.number(rng)
    harm.sql(f"DELETE FROM commands {FATE}", number)
    return [{"command": number}]


@kind()
def a_deleted_refusal(harm: Harm, rng: Random) -> Expected | None:
    rows = harm.ask("SELECT number FROM commands WHERE zone = 'main' AND status = 409 ORDER BY number")
    if not rows:
        return None
    (number,) = rng.choice(rows)
    harm.sql(f"DELETE FROM commands {FATE}", number)
    return [{"command": number}]


@kind()
def a_refusal_made_an_acceptance(harm: Harm, rng: Random) -> Expected | None:
    """Status, answer and leaf altered together."""
    rows = harm.ask(
        f"SELECT {FATE_COLUMNS} FROM commands WHERE zone = 'main' AND status = 409 ORDER BY number"
    )
    if not rows:
        return None
    fate = list(rng.choice(rows))
    fate[6], fate[7] = (
        200,
        b'{"command_id":"c%d","zone":"main","position":%d,"events":[]}' % (fate[0], fate[8]),
    )
    harm.sql(
        f"UPDATE commands SET status = 200, answer = %s, leaf = %s {FATE}", fate[7], leaf_of(fate), fate[0]
    )
    return [{"command": fate[0]}]


@kind()
def a_fate_moved_behind_the_end(harm: Harm, rng: Random) -> Expected:
    number = harm.number(rng)
    behind = harm.chronicle.number + rng.randint(1, 1_000)
    harm.sql(f"UPDATE commands SET number = %s {FATE}", behind, number)
    return [{"command": number}]


@kind()
def an_inserted_fate(harm: Harm, rng: Random) -> Expected:
    end = harm.chronicle.number
    harm.sql(
        "INSERT INTO commands SELECT zone, %s, principal, %s, act_as, request, if_match, status, answer, position, "
        f"events, recorded_at, leaf FROM commands {FATE}",
        end + 1,
        f"more {rng.randrange(10**6)}",
        harm.number(rng),
    )
    return [{"command": end + 1}]


@kind()
def two_swapped_fates(harm: Harm, rng: Random) -> Expected:
    first, second = rng.sample(range(1, harm.chronicle.number + 1), 2)
    harm.sql(f"UPDATE commands SET number = -1 {FATE}", first)
    harm.sql(f"UPDATE commands SET number = %s {FATE}", first, second)
    harm.sql("UPDATE commands SET number = %s WHERE zone = 'main' AND number = -1", second)
    return [{"command": first}, {"command": second}]


@kind()
def a_fate_with_a_leaf_computed_anew(harm: Harm, rng: Random) -> Expected:
    """What was asked is another; all that is stored of it fits."""
    (covered,) = harm.one("SELECT max(after_number) FROM attestations WHERE zone = 'main'")
    number = rng.randint(1, covered)
    fate = list(harm.one(f"SELECT {FATE_COLUMNS} FROM commands {FATE}", number))
    fate[4] = flipped(fate[4], rng)
    harm.sql(f"UPDATE commands SET request = %s, leaf = %s {FATE}", fate[4], leaf_of(fate), number)
    return [{"command": number}]


# The head


def _head_column(case: tuple[str, Callable[[Any, Random], Any]]) -> Kind:
    column, other = case

    def run(harm: Harm, rng: Random) -> Expected:
        (value,) = harm.one(f"SELECT {column} FROM heads WHERE zone = 'main'")
        harm.sql(f"UPDATE heads SET {column} = %s WHERE zone = 'main'", other(value, rng))
        return [{"table": "heads", "row": ["main"]}]

    return run


cases(
    _head_column,
    {
        "the head's position": ("position", lambda old, rng: old + rng.choice((-3, -1, 1, 100))),
        "the head's number": ("number", lambda old, rng: old + rng.choice((-3, -1, 1, 100))),
        "the head's time": ("recorded_at", lambda old, rng: old + some_time(rng) * rng.choice((-1, 1))),
        "the head's clock": ("clock", lambda old, rng: "real" if old == "manual" else "manual"),
    },
)


@kind()
def a_deleted_head(harm: Harm, rng: Random) -> Expected:
    harm.sql("DELETE FROM heads WHERE zone = 'main'")
    return [{"table": "heads", "row": ["main"]}]
