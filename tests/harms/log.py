"""Harm to the log itself: events, fates of commands, the head, and snapshots that decisions believe."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any

from commands._codec import decode_json, encode_json, event_leaf, fate_leaf, microseconds, zone_prefix
from tests.tampering import Expected, Harm, Kind, cases, flipped, kind, other_text

PREFIX = zone_prefix("main")
EVENT = "WHERE zone = 'main' AND position = %s"
FATE = "WHERE zone = 'main' AND number = %s"
FATE_COLUMNS = (
    "number, principal, act_as, key, request, if_match, status, answer, position, events, recorded_at, leaf"
)


# Events


def _event_bytes(column: str) -> Kind:
    def run(harm: Harm, rng: Random) -> Expected:
        position = harm.position(rng)
        (value,) = harm.one(f"SELECT {column} FROM events {EVENT}", position)
        harm.sql(f"UPDATE events SET {column} = %s {EVENT}", flipped(value, rng), position)
        return [{"position": position}]

    return run


cases(_event_bytes, {f"a byte of an event's {column}": column for column in ("data", "meta", "leaf")})


def _event_column(case: tuple[str, Callable[[Any, Random], Any]]) -> Kind:
    column, other = case

    def run(harm: Harm, rng: Random) -> Expected:
        position = harm.position(rng)
        (value,) = harm.one(f"SELECT {column} FROM events {EVENT}", position)
        harm.sql(f"UPDATE events SET {column} = %s {EVENT}", other(value, rng), position)
        return [{"position": position}]

    return run


def _span(rng: Random) -> timedelta:
    return timedelta(microseconds=rng.choice((1, 10**3, 10**6, 10**9, 86_400 * 10**6)))


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
        "a back-dated event": ("recorded_at", lambda old, rng: old - _span(rng)),
        "a later event": ("recorded_at", lambda old, rng: old + _span(rng)),
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
    harm.sql(f"UPDATE commands SET answer = %s, leaf = %s {FATE}", fate[7], _leaf(fate), number)
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


def _leaf(fate: list[Any]) -> bytes:
    values = [*fate[:10], microseconds(fate[10])]
    return fate_leaf(PREFIX, *values)


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


# Fates of commands


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
        "a back-dated fate": ("recorded_at", lambda old, rng: old - _span(rng)),
        "a later fate": ("recorded_at", lambda old, rng: old + _span(rng)),
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
        f"UPDATE commands SET status = 200, answer = %s, leaf = %s {FATE}", fate[7], _leaf(fate), fate[0]
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
    harm.sql(f"UPDATE commands SET request = %s, leaf = %s {FATE}", fate[4], _leaf(fate), number)
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
        "the head's time": ("recorded_at", lambda old, rng: old + _span(rng) * rng.choice((-1, 1))),
        "the head's clock": ("clock", lambda old, rng: "real" if old == "manual" else "manual"),
    },
)


@kind()
def a_deleted_head(harm: Harm, rng: Random) -> Expected:
    harm.sql("DELETE FROM heads WHERE zone = 'main'")
    return [{"table": "heads", "row": ["main"]}]


# Snapshots


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


@kind()
def a_snapshot_of_a_richer_wallet(harm: Harm, rng: Random) -> Expected | None:
    found = _snapshot(harm, rng, "wallet:")
    if found is None:
        return None
    return _put_state(harm, found[0], _raised(decode_json(found[4]), rng))


@kind()
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


@kind()
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
)


@kind()
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
