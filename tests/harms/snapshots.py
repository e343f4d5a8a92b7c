"""Harm to snapshots, which decisions believe."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from commands._codec import decode_json, encode_json
from tests.tampering import Expected, Harm, Kind, cases, flipped, kind, other_text


def _snapshot(harm: Harm, rng: Random, beginning: str = "") -> tuple[Any, ...] | None:
    rows = harm.ask(
        "SELECT stream, version, position, schema, state FROM snapshots "
        "WHERE zone = 'main' AND starts_with(stream, %s) ORDER BY stream",
        beginning,
    )
    return rng.choice(rows) if rows else None


def _put_state(harm: Harm, stream: str, state: Any) -> Expected:
    harm.sql(
        "UPDATE snapshots SET state = %s WHERE zone = 'main' AND stream = %s", encode_json(state), stream
    )
    return [{"table": "snapshots", "stream": stream, "field": "state"}]


@kind(models=True)
def a_snapshot_of_a_richer_wallet(harm: Harm, rng: Random) -> Expected | None:
    found = _snapshot(harm, rng, "wallet:")
    if found is None:
        return None
    return _put_state(harm, found[0], _raised(decode_json(found[4]), rng))


@kind(models=True)
def a_snapshot_that_lets_more_be_minted(harm: Harm, rng: Random) -> Expected | None:
    """The asset's supply is made to look smaller than it is, or its most larger."""
    found = _snapshot(harm, rng, "asset:")
    if found is None:
        return None
    return _put_state(harm, found[0], _raised(decode_json(found[4]), rng))


def _raised(state: Any, rng: Random) -> Any:
    """The state with one of its numbers altered, wherever it stands."""
    places = list(_numbers(state))
    assert places, state
    inner, key = rng.choice(places)
    value = inner[key]
    inner[key] = value + rng.choice((-1, 1, 10**9)) if isinstance(value, int) else str(int(value) + 10**9)
    return state


def _numbers(state: Any) -> Any:
    items = state.items() if isinstance(state, dict) else enumerate(state)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from _numbers(value)
        elif (isinstance(value, int) and not isinstance(value, bool)) or (
            isinstance(value, str) and value.isdecimal()
        ):
            yield state, key


@kind(models=True)
def a_byte_of_a_snapshot(harm: Harm, rng: Random) -> Expected | None:
    found = _snapshot(harm, rng)
    if found is None:
        return None
    harm.sql(
        "UPDATE snapshots SET state = %s WHERE zone = 'main' AND stream = %s",
        flipped(found[4], rng),
        found[0],
    )
    return [{"table": "snapshots", "stream": found[0], "field": "state"}]


def _snapshot_column(case: tuple[str, Callable[[Any, Random], Any]]) -> Kind:
    column, other = case

    def run(harm: Harm, rng: Random) -> Expected | None:
        found = _snapshot(harm, rng)
        if found is None:
            return None
        where = "WHERE zone = 'main' AND stream = %s"
        (value,) = harm.one(f"SELECT {column} FROM snapshots {where}", found[0])
        new = other(value, rng)
        harm.sql(f"UPDATE snapshots SET {column} = %s {where}", new, found[0])
        stream = new if column == "stream" else found[0]
        return [{"table": "snapshots", "stream": stream}]

    return run


cases(
    _snapshot_column,
    {
        "a snapshot's version": ("version", lambda old, rng: max(0, old + rng.choice((-1, 1, 50)))),
        "a snapshot's position": ("position", lambda old, rng: old + rng.choice((-10_000, 10_000, -old))),
        "a snapshot's schema": ("schema", other_text),
        "a snapshot of another stream": ("stream", lambda old, rng: f"{old}.{rng.randrange(10**6)}"),
    },
    models=True,
)


@kind(models=True)
def a_forged_snapshot(harm: Harm, rng: Random) -> Expected | None:
    """Of a wallet that has none, with what another one holds."""
    found = _snapshot(harm, rng, "wallet:")
    rows = harm.ask(
        "SELECT stream, max(version), max(position) FROM events e WHERE zone = 'main' "
        "AND stream LIKE 'wallet:%%' AND NOT EXISTS (SELECT 1 FROM snapshots s "
        "WHERE (s.zone, s.stream) = (e.zone, e.stream)) GROUP BY stream ORDER BY stream"
    )
    if found is None or not rows:
        return None
    stream, version, position = rng.choice(rows)
    values = (stream, version, position, *found[3:])
    harm.sql("INSERT INTO snapshots VALUES ('main', %s, %s, %s, %s, %s)", *values)
    return [{"table": "snapshots", "stream": stream}]
