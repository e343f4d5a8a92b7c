"""Malformed requests, made of valid ones by chance: whatever is sent, what comes back is documented."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.hostile.matrix import STORY, Row
from tests.hostile.place import Place

MOST_BODY = 65_536
BATCH = "/commands"
NDJSON = "application/x-ndjson"
DOCUMENTED_MEDIA = {"application/problem+json", "application/json", NDJSON}

NUMBERS = (
    "1" + 400 * "0",
    5_000 * "9",
    "1e400",
    "-0",
    "1.0",
    "1E2",
    "0x10",
    "NaN",
    "-Infinity",
    "01",
    "+1",
    "1_0",
)
TEXTS = ("\\ud800", "\\udfff\\ud800", "\\u0000", "\0", "\ufeff", "\u2028", "\x7f", "é" * 300, "x" * 3_000, "")
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    "",
    0,
    -1,
    2**53,
    2**63,
    2**64,
    10**38,
    "1e3",
    " 5 ",
    {"a": 1},
)
WIRE = (
    b"\x00",
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xef\xbb\xbf",
    b"\x1e",
    b"\r",
    b"\n",
    b"\x85",
)


Mutation = Callable[[Random, Any], bytes]


def _dumped(body: Any) -> bytes:
    return json.dumps(body).encode()


def _place(rng: Random, body: Any) -> tuple[Any, Any]:
    """Some object or list within the body that has something, and one of its keys."""
    found = [body]
    for each in found:
        inner = each.values() if isinstance(each, dict) else each
        found += [value for value in inner if isinstance(value, dict | list) and value]
    chosen = rng.choice([each for each in found if each] or [{"": 0}])
    key = rng.choice(list(chosen)) if isinstance(chosen, dict) else rng.randrange(len(chosen))
    return chosen, key


def bits(rng: Random, body: Any) -> bytes:
    text = bytearray(_dumped(body))
    for _ in range(rng.randint(1, 4)):
        text[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
    return bytes(text)


def cut_short(rng: Random, body: Any) -> bytes:
    text = _dumped(body)
    return text[: rng.randrange(len(text))]


def wrong_value(rng: Random, body: Any) -> bytes:
    where, key = _place(rng, body)
    where[key] = rng.choice(VALUES)
    return _dumped(body)


def spliced(rng: Random, body: Any) -> bytes:
    """A text or a number as JSON writes it, which no encoder here would write."""
    where, key = _place(rng, body)
    where[key] = "@@"
    text = rng.choice([*NUMBERS, *(f'"{text}"' for text in TEXTS)])
    return _dumped(body).replace(b'"@@"', text.encode("utf-8", "surrogatepass"))


def twice(rng: Random, body: Any) -> bytes:
    """A member that stands twice: the last one wins for some readers, the first for others."""
    text = _dumped(body)
    key = rng.choice(list(body) or ["a"])
    return text[:-1] + b", " + json.dumps(key).encode() + b": 1}"


def missing(rng: Random, body: Any) -> bytes:
    where, key = _place(rng, body)
    if isinstance(where, dict):
        where.pop(key, None)
    return _dumped(body)


def surplus(rng: Random, body: Any) -> bytes:
    where, _ = _place(rng, body)
    if isinstance(where, dict):
        where[rng.choice([*TEXTS, "by", "role", "issued", "__class__", "from_"])] = rng.choice(VALUES)
    return json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def nested(rng: Random, body: Any) -> bytes:
    depth = rng.choice((50, 1_000, 20_000, 32_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    depth = min(depth, (MOST_BODY - 10) // len(opening + closing))
    return opening * depth + b"0" + (closing * depth if rng.random() < 0.7 else b"")


def bytes_inside(rng: Random, body: Any) -> bytes:
    text, at = _dumped(body), rng.randrange(2)
    at = rng.choice((0, rng.randrange(len(_dumped(body))), len(text)))
    return text[:at] + rng.choice(WIRE) + text[at:]


def other_encoding(rng: Random, body: Any) -> bytes:
    return json.dumps(body).encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-7")))


def no_object(rng: Random, body: Any) -> bytes:
    text = _dumped(body)
    return rng.choice(
        (b"", b" ", b"null", b"[]", b"0", b'"a"', b"[" + text + b"]", text + text, text + b"\n{}")
    )


def too_large(rng: Random, body: Any) -> bytes:
    return _dumped(body) + b" " * (MOST_BODY - rng.choice((-1, 0, 1, 5_000)))


MUTATIONS: tuple[Mutation, ...] = (
    bits, cut_short, wrong_value, wrong_value, spliced, twice, missing, surplus, nested, bytes_inside,
    other_encoding, no_object, too_large,
)  # fmt: skip

HEADERS: dict[str, tuple[str, ...]] = {
    "idempotency-key": ("", " ", "x" * 201, "é", "a b", "timer:x", "\t"),
    "fogbook-zone": ("", "Main", "..", "nowhere", "x" * 64, "é", "main, hostile"),
    "fogbook-act-as": ("", "ana", "wallet:ana", "x" * 65, "é", "ana,ben"),
    "fogbook-at": ("", "now", "2026-01-01", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "é"),
    "fogbook-correlation": ("", "é", "x" * 101, "a b", "\x7f"),
    "fogbook-causation": ("", "é", "x" * 101, "c1;drop"),
    "if-match": ("", "*", '"x"', '"-1"', "9" * 19, '"1", "2"', 'W/"1"', "\u00b2"),
    "content-type": ("", "text/plain", "application/json; charset=utf-16", NDJSON, "é"),
    "content-length": ("0", "-1", "1e3", "99999999999999999999", "\u00b2"),
    "authorization": (
        "",
        "Bearer",
        "Basic YTpi",
        "Bearer fog_",
        "Bearer fog__",
        "Bearer fog_\u00b2_x",
        "Bearer é",
    ),
}
QUERIES = (
    "dry_run",
    "dry_run=",
    "dry_run=1",
    "dry_run=true&dry_run=false",
    "x=1",
    "%00=%ff",
    "dry_run=tru%65",
    "&&&",
    "=",
)

LINES: tuple[Any, ...] = (
    None, [], {}, 0, "", {"context": [], "command": {}, "key": None, "body": 0},
    {"context": "ledger", "command": "transfer", "key": "k", "body": {}, "by": "ana"},
    {"context": "ledger/transfer", "command": "", "key": "k", "body": {}},
    {"context": "ledger", "command": "transfer", "key": ["k"], "body": {}},
    {"context": "ledger", "command": "transfer", "key": "\ud800", "body": {}},
    {"context": "ledger", "command": "transfer", "key": "k" * 201, "body": []},
    {"context": "ledger", "command": "transfer", "key": "k", "body": {}, "correlation": 5},
)  # fmt: skip
BREAKS = (b"\n", b"\r\n", b"\r", b"\n\n", b"\x0b", b"\x1e", b"\xe2\x80\xa8", b"\xc2\x85")

TEMPLATES = [
    (row.command, row.owner, row.body) for row in STORY if isinstance(row, Row) and isinstance(row.body, dict)
]
"""Bodies that were valid once."""


@dataclass
class Request:
    path: str
    headers: dict[str, bytes]
    body: bytes
    what: str


@dataclass
class Tally:
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    accepted_events: int = 0
    fates: int = 0

    def __iadd__(self, more: Tally) -> Tally:
        self.statuses += more.statuses
        self.wrong += more.wrong
        self.accepted_events += more.accepted_events
        self.fates += more.fates
        return self


def requests(here: Place, seed: int, number: int) -> Iterator[Request]:
    rng = Random(f"bodies/{seed}")
    for n in range(number):
        made = _batch if rng.random() < 0.1 else _single
        yield made(here, rng, f"m{seed}-{n}")


def _single(here: Place, rng: Random, key: str) -> Request:
    command, owner, body = rng.choice(TEMPLATES)
    mutation = rng.choice(MUTATIONS)
    headers, path, what = _headers(here, owner, key), f"/commands/{command}", mutation.__name__
    if rng.random() < 0.15:
        name = rng.choice(list(HEADERS))
        headers[name], what = rng.choice(HEADERS[name]).encode(), f"{name}, {what}"
    if rng.random() < 0.05:
        path += "?" + rng.choice(QUERIES)
    return Request(path, headers, mutation(rng, json.loads(json.dumps(body))), what)


def _batch(here: Place, rng: Random, key: str) -> Request:
    lines = []
    for n in range(rng.choice((0, 1, 3, 3, 3, 1_001))):
        command, _, body = rng.choice(TEMPLATES)
        context, _, name = command.partition("/")
        line = {
            "context": context,
            "command": name,
            "key": f"{key}-{n}",
            "body": json.loads(json.dumps(body)),
        }
        kind = rng.random()
        if kind < 0.6:
            lines.append(rng.choice(MUTATIONS[:-1])(rng, line))
        else:
            lines.append(_dumped(rng.choice(LINES)))
    headers = _headers(here, rng.choice(("ana", "admin", "robot")), key) | {
        "content-type": rng.choice((NDJSON, NDJSON, NDJSON, "application/json")).encode()
    }
    return Request(BATCH, headers, rng.choice(BREAKS).join(lines), "batch")


def _headers(here: Place, who: str, key: str) -> dict[str, bytes]:
    found = here.headers(who, idempotency_key=key) | {"content-type": "application/json"}
    return {name: value.encode() for name, value in found.items()}


async def play(here: Place, seed: int, number: int) -> Tally:
    """Send them all; the log grows by what was accepted and by what a rule refused, and by nothing else."""
    tally = Tally()
    position, fates = here.town.counts()
    for request in requests(here, seed, number):
        await _send(here, request, tally)
    now = here.town.counts()
    grown = (now[0] - position, now[1] - fates)
    if grown != (tally.accepted_events, tally.fates):
        tally.wrong.append(f"the log grew by {grown}, not by {(tally.accepted_events, tally.fates)}")
    return tally


async def _send(here: Place, request: Request, tally: Tally) -> None:
    headers = [(name.encode(), value) for name, value in request.headers.items()]
    response = await here.http.post(request.path, headers=headers, content=request.body)
    tally.statuses[response.status_code] += 1
    path = request.path.partition("?")[0]
    known = here.document["paths"][path]["post"]["responses"]
    media = response.headers["content-type"]
    answer = _parsed(response.content, media)
    dry = "dry_run" in request.path
    if response.status_code >= 500 or str(response.status_code) not in known:
        tally.wrong.append(f"{request.what}: {request} -> {response.status_code} {response.text[:300]}")
    elif media not in known[str(response.status_code)]["content"]:
        tally.wrong.append(f"{request.what}: {response.status_code} as {media}")
    elif response.status_code != 200 and not is_problem(answer, response.status_code):
        tally.wrong.append(f"{request.what}: no problem document: {response.text[:300]}")
    elif path == BATCH and response.status_code == 200:
        for line in answer:
            if not _line_is_sound(line):
                tally.wrong.append(f"{request.what}: {str(line)[:300]} of {request.body[:300]!r}")
            _count(tally, line["status"], line["body"], dry)
    else:
        _count(tally, response.status_code, answer, dry or "idempotency-hit" in response.headers)


def _count(tally: Tally, status: int, answer: Any, dry: bool) -> None:
    if not dry and status == 200:
        tally.accepted_events += len(answer["events"])
        tally.fates += 1
    elif not dry and status == 409 and answer["type"] != "/problems/subject-erased":
        tally.fates += 1


def _line_is_sound(line: Any) -> bool:
    if set(line) != {"key", "status", "body"} or line["status"] >= 500:
        return False
    return line["status"] == 200 or is_problem(line["body"], line["status"])


def _parsed(content: bytes, media: str) -> Any:
    if media == NDJSON:
        return [json.loads(line) for line in content.splitlines()]
    return json.loads(content)


def is_problem(body: Any, status: int) -> bool:
    return (
        body["status"] == status
        and body["type"].startswith("/problems/")
        and all(isinstance(body[name], str) and body[name] for name in ("title", "detail"))
    )


def memory_mb() -> int:
    """What this process keeps in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) // 1024
    raise AssertionError("this system does not say how much memory a process has")
