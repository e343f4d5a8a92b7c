"""The whole log written anew, with every hash, answer, tree, tile, signature and read model computed again.

By itself such a log is as honest as any: a checkpoint that somebody kept elsewhere tells, and the installation's
secret where the forger does not have it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any

from commands._codec import decode_json, encode_json, event_leaf, fate_leaf, microseconds, zone_prefix
from tests.chronicles import SECRET, archive, follow, publish
from tests.harms.shared import FATE_COLUMNS
from tests.tampering import Expected, Harm, Kind, all_tables, cases

PREFIX = zone_prefix("main")
FORGER = b"a secret of the forger"
DERIVED = [name for name in all_tables() if name not in ("heads", "events", "commands")]


@dataclass
class Event:
    stream: str
    type: str
    data: bytes
    meta: dict[str, Any]
    at: datetime


@dataclass
class Told:
    """A command with its events."""

    fate: list[Any]
    events: list[Event]


def read_log(harm: Harm) -> list[Told]:
    rows = harm.ask(
        "SELECT position, stream, type, data, meta, recorded_at FROM events WHERE zone = 'main' ORDER BY position"
    )
    events = {
        position: Event(stream, type, data, decode_json(meta), at)
        for position, stream, type, data, meta, at in rows
    }
    fates = harm.ask(f"SELECT {FATE_COLUMNS} FROM commands WHERE zone = 'main' ORDER BY number")
    return [
        Told(list(fate), [events[p] for p in range(fate[8] - fate[9] + 1, fate[8] + 1)]) for fate in fates
    ]


def write_log(harm: Harm, told: list[Told]) -> None:
    """Number everything anew, hash it, and put it in the place of the log."""
    harm.sql("DELETE FROM events WHERE zone = 'main'")
    harm.sql("DELETE FROM commands WHERE zone = 'main'")
    versions: dict[str, int] = {}
    events, fates = [], []
    position, at = 0, None
    for number, each in enumerate(told, 1):
        shown = []
        for i, event in enumerate(each.events, 1):
            position += 1
            versions[event.stream] = version = versions.get(event.stream, 0) + 1
            meta = encode_json({**event.meta, "command": f"c{number}", "i": i, "n": len(each.events)})
            leaf = event_leaf(
                PREFIX, position, event.stream, version, event.type, microseconds(event.at), meta, event.data
            )
            events.append((position, event.stream, version, event.type, event.data, meta, event.at, leaf))
            shown.append(
                b'{"position":%d,"stream":%b,"version":%d,"type":"%b","data":%b}'
                % (position, encode_json(event.stream), version, event.type.encode(), event.data)
            )
        fate = [number, *each.fate[1:8], position, len(each.events), each.fate[10]]
        at = fate[10]
        fate[7] = _answer(fate, shown)
        hashed = [*fate[:10], microseconds(fate[10])]
        leaf = fate_leaf(PREFIX, *hashed)
        fates.append((*fate, leaf))
    harm.many("INSERT INTO events VALUES ('main', %s, %s, %s, %s, %s, %s, %s, %s)", events)
    marks = ", ".join(["%s"] * 12)
    harm.many(f"INSERT INTO commands (zone, {FATE_COLUMNS}) VALUES ('main', {marks})", fates)
    harm.sql(
        "UPDATE heads SET position = %s, number = %s, recorded_at = %s WHERE zone = 'main'",
        *(position, len(told), at),
    )


def _answer(fate: list[Any], shown: list[bytes]) -> bytes:
    if fate[6] == 200:
        return b'{"command_id":"c%d","zone":"main","position":%d,"events":[%b]}' % (
            fate[0],
            fate[8],
            b",".join(shown),
        )
    return encode_json({**decode_json(fate[7]), "position": fate[8]})


# What is altered. Each returns the first position that differs.

Alter = Callable[[list[Told], Random], int]


def _eventful(told: list[Told], rng: Random, beginning: int = 5) -> int:
    return rng.choice([i for i, each in enumerate(told) if each.events and i >= beginning])


def _before(told: list[Told], index: int) -> int:
    return sum(len(each.events) for each in told[:index])


def _more_money(told: list[Told], rng: Random) -> int:
    """A transfer or a grant of ten times as much; debit and credit still balance."""
    moving = [
        i
        for i, each in enumerate(told)
        if {"Debited", "Credited"} <= {event.type for event in each.events} and len(each.events) < 6
    ]
    index = rng.choice(moving)
    for event in told[index].events:
        fields = decode_json(event.data)
        for name in ("amount", "supply"):
            if isinstance(fields.get(name), str) and fields[name].isdecimal():
                fields[name] = f"{fields[name]}0"
        event.data = encode_json(fields)
    return _before(told, index) + 1


def _other_words(told: list[Told], rng: Random) -> int:
    """Who did it, or a text in it."""
    index = _eventful(told, rng)
    for event in told[index].events:
        event.meta["principal"] = event.meta["by"] = "mallory"
    told[index].fate[1] = told[index].fate[2] = "mallory"
    return _before(told, index) + 1


def _dropped(told: list[Told], rng: Random) -> int:
    index = _eventful(told, rng)
    del told[index]
    return _before(told, index) + 1


def _doubled(told: list[Told], rng: Random) -> int:
    """A command is carried out twice."""
    index = _eventful(told, rng)
    once = told[index]
    fate = [*once.fate]
    fate[3] = f"{fate[3]}.again"
    told.insert(index + 1, Told(fate, [Event(e.stream, e.type, e.data, e.meta, e.at) for e in once.events]))
    return _before(told, index + 1) + 1


def _reordered(told: list[Told], rng: Random) -> int:
    places = [
        i for i in range(5, len(told) - 1) if told[i].events and told[i + 1].events and told[i] != told[i + 1]
    ]
    index = rng.choice(places)
    first, second = told[index], told[index + 1]
    told[index], told[index + 1] = second, first
    for each, at in ((second, first.fate[10]), (first, second.fate[10])):
        each.fate[10] = at
    for each in (first, second):
        for event in each.events:
            event.at = each.fate[10]
    return _before(told, index) + 1


def _back_dated(told: list[Told], rng: Random) -> int:
    """All of the log up to a command happened a while before."""
    index, span = rng.randint(5, len(told) - 1), timedelta(seconds=rng.choice((1, 60, 86_400)))
    for each in told[:index]:
        each.fate[10] -= span
        for event in each.events:
            event.at -= span
    return 1


def _cut_off(told: list[Told], rng: Random) -> int:
    index = _eventful(told, rng)
    del told[index:]
    return _before(told, index) + 1


ALTERATIONS: dict[str, Alter] = {
    "more money": _more_money,
    "another principal": _other_words,
    "a command dropped": _dropped,
    "a command twice": _doubled,
    "two commands in another order": _reordered,
    "a back-dated beginning": _back_dated,
    "the end cut off": _cut_off,
}


def _start_over(harm: Harm) -> None:
    for name in DERIVED:
        if name != "witnesses":
            harm.sql(f"DELETE FROM {name} WHERE zone = 'main'")


def rewrite(harm: Harm, rng: Random, alter: Alter, secret: bytes, *, models: bool) -> tuple[int, int]:
    """Returns the first position that differs, and where the log ends now."""
    told = read_log(harm)
    first = alter(told, rng)
    write_log(harm, told)
    _start_over(harm)
    harm.after.append(lambda: _grow_again(harm, secret, models=models))
    return first, _before(told, len(told))


def _grow_again(harm: Harm, secret: bytes, *, models: bool) -> None:
    """As the installation would: projections follow, the archive too, trees grow and are signed."""
    database = harm.chronicle.database
    if models:
        follow(database)
        archive(database)
    publish(database, secret=secret)


def _against_held(harm: Harm, first: int, end: int) -> Expected:
    """The root at the first kept checkpoint behind it differs, or there are not as many events any more."""
    sizes = sorted(
        int(note.split("\n")[1]) for name, note in harm.chronicle.held if name.startswith("events")
    )
    size = next(size for size in sizes if size >= first)
    if size > end:
        return [{"position": end + 1, "says": "what is behind was cut off"}]
    return [{"position": size, "says": f"the root at size {size} is another than is in events"}]


def _by_operator(alter: Alter) -> Kind:
    """The forger has the installation's secret: its keys, and all that it could sign."""

    def run(harm: Harm, rng: Random) -> Expected:
        first, end = rewrite(harm, rng, alter, SECRET, models=rng.random() < 0.15)
        return _against_held(harm, first, end)

    return run


def _by_stranger(alter: Alter) -> Kind:
    """The forger has the database only: he signs with a key of his own, and puts it among the keys."""

    def run(harm: Harm, rng: Random) -> Expected:
        rewrite(harm, rng, alter, FORGER, models=False)
        return [{"table": "signing_keys", "row": ["main", 1], "field": "public_key"}]

    return run


for _secret, _make, _held in (("with", _by_operator, True), ("without", _by_stranger, False)):
    _named = {f"the log rewritten {_secret} the secret: {name}": alter for name, alter in ALTERATIONS.items()}
    cases(_make, _named, held=_held)
