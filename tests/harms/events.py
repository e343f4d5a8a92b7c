"""Harm to events."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from commands._codec import decode_json, encode_json, event_leaf, microseconds
from tests.harms.shared import EVENT, FATE, FATE_COLUMNS, PREFIX, leaf_of, some_time
from tests.tampering import Expected, Harm, Kind, cases, flipped, kind, other_text


def _event_bytes(column: str) -> Kind:
    def run(harm: Harm, rng: Random) -> Expected:
        position = harm.position(rng)
        (value,) = harm.one(f"SELECT {column} FROM events {EVENT}", position)
        harm.sql(f"UPDATE events SET {column} = %s {EVENT}", flipped(value, rng), position)
        return [{"position": position}]

    return run


cases(_event_bytes, {f"a byte of an event's {column}": column for column in ("data", "meta", "leaf")})


def _nested(column: str) -> Kind:
    """Brackets in brackets, more than any reader follows."""

    def run(harm: Harm, rng: Random) -> Expected:
        position = harm.position(rng)
        deep = b'{"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
        harm.sql(f"UPDATE events SET {column} = %s {EVENT}", deep, position)
        return [{"position": position}]

    return run


cases(_nested, {f"an event's {column} nested without end": column for column in ("data", "meta")})


def _event_column(case: tuple[str, Callable[[Any, Random], Any]]) -> Kind:
    column, other = case

    def run(harm: Harm, rng: Random) -> Expected:
        position = harm.position(rng)
        (value,) = harm.one(f"SELECT {column} FROM events {EVENT}", position)
        harm.sql(f"UPDATE events SET {column} = %s {EVENT}", other(value, rng), position)
        return [{"position": position}]

    return run


cases(
    _event_column,
    {
        "an event's stream": ("stream", lambda old, rng: f"{old}.{rng.randrange(10**6)}"),
        "an event's version": ("version", lambda old, rng: old + rng.randint(1_000, 10**6)),
        "an event's type": ("type", other_text),
        "an event's known type": (
            "type",
            lambda old, rng: rng.choice(sorted({"Debited", "Credited", "FundsHeld"} - {old})),
        ),
        "a back-dated event": ("recorded_at", lambda old, rng: old - some_time(rng)),
        "a later event": ("recorded_at", lambda old, rng: old + some_time(rng)),
    },
)


@kind()
def an_event_moved_behind_the_end(harm: Harm, rng: Random) -> Expected:
    position = harm.position(rng)
    behind = harm.chronicle.position + rng.randint(1, 1_000)
    harm.sql(f"UPDATE events SET position = %s {EVENT}", behind, position)
    return [{"position": position}]


@kind()
def a_deleted_event(harm: Harm, rng: Random) -> Expected:
    position = harm.position(rng)
    harm.sql(f"DELETE FROM events {EVENT}", position)
    return [{"position": position}]


@kind()
def a_deleted_command_with_its_events(harm: Harm, rng: Random) -> Expected:
    number, position, events = _eventful(harm, rng)
    harm.sql(f"DELETE FROM commands {FATE}", number)
    harm.sql(
        "DELETE FROM events WHERE zone = 'main' AND position > %s AND position <= %s",
        position - events,
        position,
    )
    return [{"position": position - events + 1}]


def _eventful(harm: Harm, rng: Random) -> tuple[int, int, int]:
    """Number, position and count of a command that has events."""
    rows = harm.ask(
        "SELECT number, position, events FROM commands WHERE zone = 'main' AND events > 0 ORDER BY number"
    )
    number, position, events = rng.choice(rows)
    return number, position, events


@kind()
def an_event_appended(harm: Harm, rng: Random) -> Expected:
    """Behind the end, in its stream's next version, as if it had happened once more."""
    position, end = harm.position(rng), harm.chronicle.position
    harm.sql(
        "INSERT INTO events SELECT zone, %s, stream, "
        "(SELECT max(version) + 1 FROM events m WHERE (m.zone, m.stream) = (e.zone, e.stream)), "
        f"type, data, meta, recorded_at, leaf FROM events e {EVENT}",
        end + 1,
        position,
    )
    return [{"position": end + 1}]


@kind()
def an_event_appended_and_the_head_with_it(harm: Harm, rng: Random) -> Expected:
    an_event_appended(harm, rng)
    harm.sql("UPDATE heads SET position = position + 1 WHERE zone = 'main'")
    return [{"position": harm.chronicle.position + 1}]


@kind()
def an_event_before_the_first_one(harm: Harm, rng: Random) -> Expected:
    harm.sql(
        "INSERT INTO events SELECT zone, %s, stream, 0, type, data, meta, recorded_at, leaf "
        f"FROM events {EVENT}",
        before := -rng.randint(0, 5),
        harm.position(rng),
    )
    return [{"position": before}]


@kind()
def an_event_pushed_in_between(harm: Harm, rng: Random) -> Expected:
    """All behind it moves by one; nothing is computed anew."""
    position = harm.position(rng)
    where = "WHERE zone = 'main' AND position"
    harm.sql(f"UPDATE events SET position = -position - 1 {where} > %s", position)
    harm.sql(f"UPDATE events SET position = -position {where} < 0")
    harm.sql(
        "INSERT INTO events SELECT zone, position + 1, stream, version + 100000, type, data, meta, recorded_at, "
        f"leaf FROM events {EVENT}",
        position,
    )
    harm.sql("UPDATE heads SET position = position + 1 WHERE zone = 'main'")
    return [{"position": position + 1}]


def _swap(harm: Harm, first: int, second: int) -> None:
    harm.sql(f"UPDATE events SET position = -1 {EVENT}", first)
    harm.sql(f"UPDATE events SET position = %s {EVENT}", first, second)
    harm.sql("UPDATE events SET position = %s WHERE zone = 'main' AND position = -1", second)


@kind()
def two_swapped_events(harm: Harm, rng: Random) -> Expected:
    first, second = rng.sample(range(1, harm.chronicle.position + 1), 2)
    _swap(harm, first, second)
    return [{"position": first}, {"position": second}]


@kind()
def two_neighbours_swapped(harm: Harm, rng: Random) -> Expected:
    first = rng.randint(1, harm.chronicle.position - 1)
    _swap(harm, first, first + 1)
    return [{"position": first}, {"position": first + 1}]


@kind()
def the_data_of_two_events_swapped(harm: Harm, rng: Random) -> Expected:
    rows = dict(harm.ask("SELECT data, position FROM events WHERE zone = 'main' ORDER BY position"))
    (one, first), (two, second) = rng.sample(sorted(rows.items()), 2)
    harm.sql(f"UPDATE events SET data = %s {EVENT}", two, first)
    harm.sql(f"UPDATE events SET data = %s {EVENT}", one, second)
    return [{"position": first}, {"position": second}]


@kind()
def an_event_with_a_leaf_computed_anew(harm: Harm, rng: Random) -> Expected:
    """Its own bytes fit; what its command answered does not."""
    number, position, events = _eventful(harm, rng)
    at = rng.randint(position - events + 1, position)
    _rehash(harm, at, _inflated(harm, at, rng))
    return [{"position": at, "table": "tiles"}, {"command": number}]


@kind()
def an_event_and_its_answer_computed_anew(harm: Harm, rng: Random) -> Expected:
    """What is stored fits together in all; only the tree is another."""
    number, position, events = _eventful(harm, rng)
    at = rng.randint(position - events + 1, position)
    (before,) = harm.one(f"SELECT data FROM events {EVENT}", at)
    forged = _inflated(harm, at, rng)
    _rehash(harm, at, forged)
    fate = list(harm.one(f"SELECT {FATE_COLUMNS} FROM commands {FATE}", number))
    fate[7] = fate[7].replace(before, forged)
    harm.sql(f"UPDATE commands SET answer = %s, leaf = %s {FATE}", fate[7], leaf_of(fate), number)
    return [{"position": at, "table": "tiles"}]


def _covered(harm: Harm) -> int:
    (size,) = harm.one("SELECT size FROM trees WHERE zone = 'main' AND log = 'events'")
    return int(size)


def _inflated(harm: Harm, position: int, rng: Random) -> bytes:
    """The event's data with some text or amount of it altered; it can still be read."""
    (data,) = harm.one(f"SELECT data FROM events {EVENT}", position)
    fields = decode_json(data)
    texts = [name for name, value in fields.items() if isinstance(value, str) and not value.startswith("20")]
    if texts:
        name = rng.choice(texts)
        value = fields[name]
        fields[name] = (
            str(int(value) + rng.randint(1, 10**6)) if value.isdecimal() else other_text(value, rng)
        )
    else:
        fields["more"] = rng.randrange(10**6)
    return encode_json(fields)


def _rehash(harm: Harm, position: int, data: bytes) -> None:
    stream, version, type, meta, at = harm.one(
        f"SELECT stream, version, type, meta, recorded_at FROM events {EVENT}", position
    )
    leaf = event_leaf(PREFIX, position, stream, version, type, microseconds(at), meta, data)
    harm.sql(f"UPDATE events SET data = %s, leaf = %s {EVENT}", data, leaf, position)


@kind()
def the_last_events_cut_off(harm: Harm, rng: Random) -> Expected:
    position = harm.position(rng)
    harm.sql("DELETE FROM events WHERE zone = 'main' AND position >= %s", position)
    return [{"position": position}]


@kind()
def the_last_commands_cut_off(harm: Harm, rng: Random) -> Expected:
    """Events, fates and head; the tree is longer."""
    covered = _covered(harm)
    rows = harm.ask(
        "SELECT number, position, recorded_at FROM commands WHERE zone = 'main' AND position < %s ORDER BY number",
        covered,
    )
    number, position, at = rng.choice(rows)
    harm.sql("DELETE FROM events WHERE zone = 'main' AND position > %s", position)
    harm.sql("DELETE FROM commands WHERE zone = 'main' AND number > %s", number)
    harm.sql(
        "UPDATE heads SET position = %s, number = %s, recorded_at = %s WHERE zone = 'main'",
        position,
        number,
        at,
    )
    return [{"position": position + 1}]


@kind()
def a_deleted_log(harm: Harm, rng: Random) -> Expected:
    """All of it, and the head; only what was signed is left."""
    for name in ("events", "commands", "snapshots", "heads"):
        harm.sql(f"DELETE FROM {name} WHERE zone = 'main'")
    return [{"table": "heads", "row": ["main"]}]


@kind()
def an_event_of_another_application(harm: Harm, rng: Random) -> Expected | None:
    row = harm.one("SELECT position FROM heads WHERE zone = 'library'")
    if row is None:
        return None
    position, where = rng.randint(1, row[0]), "WHERE zone = 'library' AND position = %s"
    (data,) = harm.one(f"SELECT data FROM events {where}", position)
    harm.sql(f"UPDATE events SET data = %s {where}", flipped(data, rng), position)
    return [{"zone": "library", "position": position}]
