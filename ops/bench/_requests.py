"""What the load generator sends: commands of the mixed workload, one by one or in batches, and queries.

Requests are rendered before the clock starts. While it runs, only numbers are put in: an idempotency key for each
command, and those that grow with each request.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, NamedTuple

MIX = {
    "ledger/transfer": 30,
    "devices/heartbeat": 15,
    "harvest/report-device-state": 10,
    "harvest/record-contribution": 20,
    "marketplace/meter-usage": 15,
    "staking/delegate": 10,
}
"""Weights of the mixed workload's commands."""
VALIDATORS = 8
SCATTER = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Round:
    """Transfers between wallets, each sent by its owner, for a while."""

    ports: list[int]
    """Connections are spread evenly over these."""
    seconds: float
    connections: int
    keys: list[str]
    """API keys of the principals p00, p01, ...; wallet number i belongs to the principal i % len(keys)."""
    wallets: int
    tag: str
    """Makes the idempotency keys of this round unique."""
    seed: int
    zone: str = "main"
    pairs: int = 8_192
    mix: dict[str, int] = field(default_factory=lambda: {"ledger/transfer": 1})
    """Commands and their weights."""
    devices: int = 0
    """With their sessions and contracts, for the commands that need one."""
    batch: int = 0
    """Commands in each request, which is NDJSON then; 0 for one command by itself."""
    counter: int = 0
    """Where the sequence numbers of this round begin; more than a round's requests above those of any before."""
    warm_s: float = 0.0
    """Before the measured seconds: servers forget callers after 2 s, and other rounds took longer than that."""
    rate: float | None = None
    """Commands a second, on schedule whatever the server does; None for a closed loop."""
    ordered_keys: bool = False
    """Idempotency keys in their order instead of drawn by chance; not in batches."""
    gets: list[tuple[int, str, str]] = field(default_factory=list)
    """Queries instead of commands: the number of the key, the path with its parameters, and the entity tag that is
    known, or nothing."""
    status: int = 200
    """What every answer has to be."""


def wallet(number: int, principals: int) -> str:
    return f"wallet:{principal(number, principals)}:{number // principals}"


def principal(number: int, principals: int) -> str:
    return f"p{number % principals:02d}"


def scattered(number: int) -> str:
    """Another text for each number, and neighbours far from each other, as keys are that clients draw by chance."""
    return f"{number * SCATTER % 2**64:016x}"


# Rendering

SEQ = "SEQ"
"""Stands in a body for a number that grows with each request."""
FIRST_SEQ = 1_000_000_000
"""All of these numbers have ten digits, so that a body's length is known."""
DIGITS = 10
KEY = "%016x"
KEY_DIGITS = 16

Wanted = tuple[str, int, dict[str, Any]]
"""A command, the number of the principal who sends it, and its body."""


class Request(NamedTuple):
    template: bytes
    """With a place for each number that is put in."""
    numbers: tuple[tuple[int, bool], ...]
    """These, counted from the request's first one, and whether it becomes a key, which is scattered."""

    def filled(self, first: int) -> bytes:
        template, numbers = self
        return template % tuple([(first + n) * SCATTER % 2**64 if key else first + n for n, key in numbers])


def requests_of(round: Round) -> list[Request]:
    if round.gets:
        return [_get(round, *each) for each in round.gets]
    choose = random.Random(round.seed)
    wanted = islice(_wanted(choose, round), round.pairs)
    if round.batch:
        return _laned(_by_sender(wanted, round), round)
    return [_single(round, *each) for each in wanted]


def _laned(batches: Iterable[tuple[int, list[Wanted]]], round: Round) -> list[Request]:
    """Batches by turns for each port; those of one sender are for one port, however far it lags behind another."""
    lanes: list[list[Request]] = [[] for _ in round.ports]
    for by, commands in batches:
        lanes[by % len(lanes)].append(_batch(round, by, commands))
    return [request for turn in zip(*lanes, strict=False) for request in turn]


def _get(round: Round, by: int, target: str, known: str) -> Request:
    head = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {round.keys[by]}\r\n"
    condition = f"If-None-Match: {known}\r\n" if known else ""
    return Request(f"{head}{condition}\r\n".replace("%", "%%").encode(), ())


def _single(round: Round, command: str, by: int, body: dict[str, Any]) -> Request:
    text, seqs = _numbered(body)
    head = _head(round, command, by, "application/json", len(text) + seqs * (DIGITS - 2))
    key = f"{round.tag}-{KEY}" if round.ordered_keys else f"{KEY}-{round.tag}"
    template = f"{head}Idempotency-Key: {key}\r\n\r\n{text}"
    return Request(template.encode(), ((0, not round.ordered_keys), *[(0, False)] * seqs))


def _batch(round: Round, by: int, commands: list[Wanted]) -> Request:
    """One request with a line a command, each under a key of its own."""
    lines: list[str] = []
    numbers: list[tuple[int, bool]] = []
    for number, (name, _, body) in enumerate(commands):
        context, _, command = name.partition("/")
        text, seqs = _numbered(body)
        called = f'{{"context":"{context}","command":"{command}","key":"{KEY}-{round.tag}"'
        lines.append(f'{called},"body":{text}}}\n')
        numbers += [(number, True), *[(number, False)] * seqs]
    text = "".join(lines)
    length = len(text) + sum(KEY_DIGITS - len(KEY) if key else DIGITS - 2 for _, key in numbers)
    head = _head(round, "", by, "application/x-ndjson", length)
    return Request(f"{head}\r\n{text}".encode(), tuple(numbers))


def _head(round: Round, command: str, by: int, kind: str, length: int) -> str:
    zone = "" if round.zone == "main" else f"Fogbook-Zone: {round.zone}\r\n"
    return (
        f"POST /commands{'/' if command else ''}{command} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {round.keys[by % len(round.keys)]}\r\n{zone}"
        f"Content-Type: {kind}\r\nContent-Length: {length}\r\n"
    )


def _numbered(body: dict[str, Any]) -> tuple[str, int]:
    """The body with %d where SEQ stood, and how many there are."""
    text = json.dumps(body)
    assert "%" not in text
    return text.replace(f'"{SEQ}"', "%d"), text.count(f'"{SEQ}"')


def _by_sender(wanted: Iterable[Wanted], round: Round) -> Iterator[tuple[int, list[Wanted]]]:
    """Full batches, each of one principal's commands."""
    waiting: dict[int, list[Wanted]] = {}
    for command in wanted:
        by = command[1] % len(round.keys)
        waiting.setdefault(by, []).append(command)
        if len(waiting[by]) == round.batch:
            yield by, waiting.pop(by)


def _wanted(choose: random.Random, round: Round) -> Iterator[Wanted]:
    """One kind after the other by chance, each on one device after the other, so that numbers come in order."""
    turns = {kind: count() for kind in round.mix}
    kinds, weights = list(round.mix), list(round.mix.values())
    while True:
        (kind,) = choose.choices(kinds, weights)
        number = next(turns[kind]) % max(round.devices, 1)
        yield kind, *_body(choose, round, kind, number)


def _body(choose: random.Random, round: Round, kind: str, number: int) -> tuple[int, dict[str, Any]]:
    """Who sends a command of this kind on the device of this number, and its body."""
    state = {"battery_percent": 90, "temperature_c": 30, "cpu_percent": 5, "ram_percent": 10}
    match kind:
        case "ledger/transfer":
            source, target = choose.sample(range(round.wallets), 2)
            names = [wallet(each, len(round.keys)) for each in (source, target)]
            return source, {"from": names[0], "to": names[1], "amount": str(choose.randint(1, 9))}
        case "devices/heartbeat":
            return number, {"device": f"d{number}", "seq": SEQ}
        case "harvest/report-device-state":
            more = {"charging": True, "network": "wifi", "screen_on": False, "idle_seconds": 3_600}
            return number, {"device": f"d{number}", "seq": SEQ, **state, **more}
        case "harvest/record-contribution":
            return number, {"session": f"s{number}", "seq": SEQ, "cpu_ms": 1}
        case "marketplace/meter-usage":
            return number, {"contract": f"c{number}", "seq": SEQ, "unit_ms": "10"}
        case "staking/delegate":
            return number, {"validator": f"v{number % VALIDATORS}", "amount": "100"}
    raise ValueError(f"no body is known for {kind}")
