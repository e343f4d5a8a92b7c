"""Hostile HTTP over plain sockets: what a client library would never send."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass

PATIENCE_S = 20.0
"""A server that neither answers nor hangs up for so long hangs. Its own deadline for a body is 10 s."""
AT_ONCE = 16


@dataclass(frozen=True)
class Shape:
    """Bytes as they go over the wire."""

    name: str
    sent: bytes
    statuses: frozenset[int] = frozenset()
    """What may be answered, one after the other; nothing at all but the connection's end is always allowed."""
    half_closed: bool = False
    effects: int = 0
    """How many commands of those that it names may be accepted."""


def shapes(key: str, name: str, body: bytes) -> list[Shape]:
    """All shapes for a valid body of a command; `name` makes their idempotency keys unique."""
    return [
        *_smuggling(key, name, body),
        *_heads(key, name),
        *_twice(key, name, body),
        *_lines(key),
        *_connections(key, name, body),
    ]


def head(
    key: str,
    id: str,
    *more: bytes,
    length: int | None = None,
    line: bytes = b"POST /commands/ledger/transfer HTTP/1.1",
) -> bytes:
    lines = [
        line,
        b"host: fogbook",
        b"authorization: Bearer " + key.encode(),
        b"idempotency-key: " + id.encode(),
    ]
    if length is not None:
        lines.append(b"content-length: %d" % length)
    return b"\r\n".join([*lines, *more]) + b"\r\n\r\n"


REFUSED = frozenset({400, 401, 404, 405, 408, 411, 413, 414, 417, 422, 431})


def _smuggling(key: str, name: str, body: bytes) -> list[Shape]:
    """Two readers of one of these would see different requests; behind it stands one that nobody sent."""
    hidden = head(key, f"{name}-hidden", length=len(body)) + body
    n, size = len(body), b"%x\r\n%b\r\n" % (len(body), body)
    chunked = b"transfer-encoding: chunked"
    made = {
        "two lengths": (head(key, f"{name}-1", b"content-length: %d" % (n + len(hidden)), length=n), body),
        "two equal lengths": (head(key, f"{name}-2", b"content-length: %d" % n, length=n), body),
        "a list of lengths": (head(key, f"{name}-3", b"content-length: %d, %d" % (n, n)), body),
        "a signed length": (head(key, f"{name}-4", b"content-length: +%d" % n), body),
        "a negative length": (head(key, f"{name}-5", b"content-length: -1"), body),
        "a hex length": (head(key, f"{name}-6", b"content-length: 0x%x" % n), body),
        "a huge length": (head(key, f"{name}-7", b"content-length: " + b"9" * 40), body),
        "length and chunks": (head(key, f"{name}-8", chunked, length=n), b"0\r\n\r\n" + hidden),
        "chunks and length": (head(key, f"{name}-9", chunked, b"content-length: 5"), size + b"0\r\n\r\n"),
        "chunks twice": (
            head(key, f"{name}-10", chunked, b"transfer-encoding: identity"),
            size + b"0\r\n\r\n",
        ),
        "chunks, disguised": (head(key, f"{name}-11", b"transfer-encoding: xchunked"), size + b"0\r\n\r\n"),
        "chunks with a space": (head(key, f"{name}-12", b"transfer-encoding : chunked"), size + b"0\r\n\r\n"),
        "chunks behind a tab": (head(key, f"{name}-13", b"transfer-encoding:\tchunked"), size + b"0\r\n\r\n"),
        "a chunk of no number": (head(key, f"{name}-14", chunked), b"zz\r\n" + body + b"\r\n0\r\n\r\n"),
        "a negative chunk": (head(key, f"{name}-15", chunked), b"-1\r\n" + body + b"\r\n0\r\n\r\n"),
        "a chunk beyond all numbers": (head(key, f"{name}-16", chunked), b"f" * 17 + b"\r\n" + body),
        "a chunk that is longer": (head(key, f"{name}-17", chunked), b"5\r\n" + body + b"\r\n0\r\n\r\n"),
        "a folded header": (head(key, f"{name}-18", b"x-a: b\r\n content-length: %d" % n, length=0), body),
        "a bare line feed": (head(key, f"{name}-19", length=n).replace(b"\r\n", b"\n"), body),
        "a bare return": (head(key, f"{name}-20", b"x-a: b\rcontent-length: 0", length=n), body),
        "a NUL in a header": (head(key, f"{name}-21", b"x-a: b\0c", length=n), body),
        "a name of no characters": (head(key, f"{name}-22", b": b", length=n), body),
        "a name with a space": (head(key, f"{name}-23", b"x a: b", length=n), body),
    }
    # What is whole by itself may be taken: one effect, and none of what hides behind it.
    return [Shape(what, first + rest, effects=1) for what, (first, rest) in made.items()]


def _heads(key: str, name: str) -> list[Shape]:
    many = [b"x-%d: y" % n for n in range(20_000)]
    return [
        Shape("a flood of headers", head(key, f"{name}-30", *many, length=0), REFUSED),
        Shape("a huge header", head(key, f"{name}-31", b"x-a: " + b"y" * 2_000_000, length=0), REFUSED),
        Shape("a huge name", head(key, f"{name}-32", b"y" * 500_000 + b": a", length=0), REFUSED),
        Shape("no end of a header", b"GET / HTTP/1.1\r\nx-a: " + b"y" * 1_000_000, REFUSED, half_closed=True),
        Shape("a huge address", b"GET /" + b"y" * 1_000_000 + b" HTTP/1.1\r\nhost: f\r\n\r\n", REFUSED),
        Shape("two keys", head(key, f"{name}-33", b"authorization: Bearer fog_a_b", length=0), REFUSED),
        Shape("no host", b"GET /healthz HTTP/1.1\r\n\r\n", frozenset({200, 400})),
        Shape("what is not ASCII", head(key, "k\xe9y", b"x-\xff: \xfe", length=0), REFUSED),
        Shape("an expectation", head(key, f"{name}-34", b"expect: 100-continue", length=0), REFUSED | {100}),
        Shape("an upgrade", head(key, f"{name}-35", b"connection: upgrade", b"upgrade: websocket",
                                 b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", length=0), REFUSED | {426}),
        Shape("an upgrade to HTTP/2", head(key, f"{name}-36", b"connection: upgrade, http2-settings",
                                           b"upgrade: h2c", b"http2-settings: AAMAAABk", length=0), REFUSED),
    ]  # fmt: skip


def _twice(key: str, name: str, body: bytes) -> list[Shape]:
    """Who reads the first and who reads the last of them would see two requests."""
    given = (
        b"authorization: Bearer " + key.encode(), b"idempotency-key: " + name.encode() + b"-other",
        b"content-type: application/json", b"if-match: 1", b"fogbook-zone: main", b"fogbook-act-as: ana",
    )  # fmt: skip
    return [
        Shape(
            f"twice {line.partition(b':')[0].decode()}",
            head(key, f"{name}-4{n}", line, line, length=len(body)) + body,
            frozenset({400}),
        )
        for n, line in enumerate(given)
    ]


def _lines(key: str) -> list[Shape]:
    lines = (
        b"", b"\r\n", b"GET", b"GET /", b"GET / HTTP/9.9", b"GET / HTTP/1.10", b"GET / FTP/1.1",
        b"get /healthz HTTP/1.1",
        b"FOO /healthz HTTP/1.1", b"TRACE /healthz HTTP/1.1", b"CONNECT fogbook:80 HTTP/1.1", b"PUT /commands HTTP/1.1",
        b"OPTIONS * HTTP/1.1", b"DELETE /commands/ledger/transfer HTTP/1.1", b"GET  /healthz HTTP/1.1",
        b"GET /healthz?\x00 HTTP/1.1", b"GET /\xff\xfe HTTP/1.1", b"GET /%00 HTTP/1.1", b"GET /%zz HTTP/1.1",
        b"GET /../../etc/passwd HTTP/1.1", b"GET //commands HTTP/1.1", b"GET /history/tile/../../x HTTP/1.1",
        b"GET http://elsewhere/healthz HTTP/1.1", b"GET http://[::1 HTTP/1.1", b"GET healthz HTTP/1.1",
        b"PRI * HTTP/2.0", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"\x00" * 64, b"\xff" * 64,
        b"GET /healthz HTTP/1.0",
    )  # fmt: skip
    allowed = REFUSED | {200, 303, 307, 401, 403}
    return [
        Shape(
            f"line {line[:40]!r}",
            line + b"\r\nhost: f\r\nauthorization: Bearer " + key.encode() + b"\r\n\r\n",
            allowed,
        )
        for line in lines
    ]


def _connections(key: str, name: str, body: bytes) -> list[Shape]:
    whole = head(key, f"{name}-50", length=len(body)) + body
    ask = b"GET /healthz HTTP/1.1\r\nhost: f\r\n\r\n"
    return [
        Shape("half a head", whole[:40], half_closed=True),
        Shape("half a body", whole[:-5], half_closed=True),
        Shape("half a chunk", head(key, f"{name}-51", b"transfer-encoding: chunked") + b"ff\r\nabc", half_closed=True),
        Shape("many at once", ask * 200, frozenset({200})),
        Shape("many commands at once", b"".join(head(key, f"{name}-52", length=len(body)) + body for _ in range(50)),
              frozenset({200}), effects=1),
        Shape("one whole and one broken", ask + b"\x00\x01\x02\r\n\r\n", frozenset({200, 400})),
        Shape("without keeping it open", ask.replace(b"host", b"connection: close\r\nhost"), frozenset({200})),
        Shape("HTTP/1.0 with a body", whole.replace(b"-50", b"-53").replace(b"HTTP/1.1", b"HTTP/1.0"),
              frozenset({200}), effects=1),
    ]  # fmt: skip


async def told(address: tuple[str, int], shape: Shape) -> tuple[list[int], list[str]]:
    """The statuses that are answered until the server ends the connection, or says nothing more to a whole request;
    and what is refused without a problem document."""
    reader, writer = await asyncio.open_connection(*address)
    said = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                writer.write(shape.sent)
                await writer.drain()
                if shape.half_closed:
                    writer.write_eof()
                said = await _all_said(reader)
    finally:
        writer.transport.abort()
    return answers_in(said)


async def _all_said(reader: asyncio.StreamReader) -> bytes:
    """What comes until the end of the connection, or until nothing comes for a while after something came."""
    said = b""
    while True:
        try:
            async with asyncio.timeout(0.3 if said else None):
                more = await reader.read(65_536)
        except TimeoutError:
            return said
        except ConnectionError:
            return said
        if not more:
            return said
        said += more


def answers_in(said: bytes) -> tuple[list[int], list[str]]:
    statuses, unsound = [], []
    while said.startswith(b"HTTP/1."):
        top, _, rest = said.partition(b"\r\n\r\n")
        lines = (line.partition(b":") for line in top.split(b"\r\n")[1:])
        headers = {label.lower(): value.strip() for label, _, value in lines}
        status, length = int(top.split()[1]), int(headers.get(b"content-length", b"0"))
        statuses.append(status)
        if status >= 400 and headers.get(b"content-type") != b"application/problem+json":
            unsound.append(f"{status} without a problem document: {rest[:100]!r}")
        said = rest[length:]
    return statuses, unsound


async def send_all(address: tuple[str, int], shapes: list[Shape]) -> list[str]:
    """Each over a connection of its own; what came of it otherwise than it may."""
    turn = asyncio.Semaphore(AT_ONCE)
    wrong: list[str] = []

    async def one(shape: Shape) -> None:
        async with turn:
            try:
                statuses, unsound = await told(address, shape)
            except TimeoutError:
                wrong.append(f"{shape.name}: hangs")
                return
        if set(statuses) - (shape.statuses or REFUSED | {200}) or any(
            s >= 500 and s not in (501, 505) for s in statuses
        ):
            wrong.append(f"{shape.name}: {statuses}")
        if statuses.count(200) > max(shape.effects, 1) and not shape.statuses:
            wrong.append(f"{shape.name}: {statuses}, more answers than requests")
        wrong.extend(f"{shape.name}: {each}" for each in unsound)

    await asyncio.gather(*map(one, shapes))
    ask = Shape("afterwards", b"GET /healthz HTTP/1.1\r\nhost: f\r\nconnection: close\r\n\r\n")
    assert (await told(address, ask))[0] == [200], "it serves as before"
    return wrong


def payment(amount: str = "1") -> bytes:
    return json.dumps({"from": "wallet:ana", "to": "wallet:ben", "amount": amount}).encode()
