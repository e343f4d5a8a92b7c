"""Connections of clients that are slow, greedy or strange, against a real server: each ends, and says why."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import Request
from starlette.responses import Response

from ops import protocol
from ops.protocol import Protocol, Server, protocol_of
from ops.settings import Settings
from ops.web import Answer, App, body_of

ASK = b"GET /small HTTP/1.1\r\nhost: fogbook\r\n\r\n"
LARGE = 8 * 2**20


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that tests can wait for."""
    monkeypatch.setattr(protocol, "HEAD_DEADLINE_S", 0.2)
    monkeypatch.setattr(protocol, "WRITE_DEADLINE_S", 0.4)
    monkeypatch.setattr(protocol, "WATCH_EVERY_S", 0.05)


def an_app() -> App:
    app = App(title="test")

    async def small(request: Request) -> Response:
        return Answer(b'{"ok":true}', 200, [(b"fogbook-position", b"7")], b"application/json")

    async def large(request: Request) -> Response:
        return Response(b"x" * LARGE)

    async def echo(request: Request) -> Response:
        return Response(await body_of(request, {}))

    app.add("GET", "/small", small)
    app.add("GET", "/large", large)
    app.add("POST", "/echo", echo)
    return app


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[str, int]]:
    listening = socket.create_server(("127.0.0.1", 0))
    kind = protocol_of(Settings.model_construct(**settings))
    config = uvicorn.Config(
        an_app(),
        http=kind,
        lifespan="off",
        log_config=None,
        server_header=False,
        loop="none",
        timeout_keep_alive=protocol.IDLE_S,
    )
    server = Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server._serve([listening]))
    async with asyncio.timeout(20):
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
    try:
        yield listening.getsockname()[:2]
    finally:
        server.should_exit = server.force_exit = True
        await task


def run(scenario: Callable[[tuple[str, int]], Coroutine[Any, Any, None]], **settings: Any) -> None:
    async def main() -> None:
        async with serving(**settings) as address:
            await scenario(address)

    import uvloop

    uvloop.run(main())


async def said(address: tuple[str, int], *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Everything that the server says to these pieces until it ends the connection."""
    reader, writer = await asyncio.open_connection(*address)

    async def talk() -> None:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause_s)

    talking = asyncio.create_task(talk())
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        talking.cancel()
        writer.transport.abort()


def is_problem(answer: bytes, status: int, name: bytes) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    for line in (b"application/problem+json", b"nosniff", b"connection: close", b"default-src 'none'"):
        assert line in head
    assert b'"type":"/problems/%b"' % name in body


async def whole(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))


def test_an_answer_in_one_piece_is_the_same_as_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[bytes] = []

    async def scenario(address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(2):
            writer.write(ASK)
            answers.append(await whole(reader))
        answers.append(await said(address, ASK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")))
        answers.append(await said(address, ASK.replace(b"1.1", b"1.0")))
        writer.close()

    run(scenario)
    monkeypatch.setattr(protocol, "answer_whole", lambda *of: False)
    run(scenario)

    def lines(answer: bytes) -> list[bytes]:
        return sorted(line for line in answer.split(b"\r\n") if not line.startswith(b"date: "))

    for in_one, in_two in zip(answers[:4], answers[4:], strict=True):
        assert lines(in_one) == lines(in_two)
        assert in_one.startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_head_that_takes_too_long_ends_the_connection(quick: None) -> None:
    async def scenario(address: tuple[str, int]) -> None:
        for slow in ([], [b"G"], [b"\r\n"] * 200, [b"GET / HTTP/1.1\r\n", *[b"x: y\r\n"] * 200]):
            is_problem(await said(address, *slow, pause_s=0.02), 408, b"head-too-slow")

    run(scenario)


def test_a_second_head_has_no_more_time_than_the_first(quick: None) -> None:
    async def scenario(address: tuple[str, int]) -> None:
        answer = await said(address, ASK, b"GET /", *[b"x"] * 200, pause_s=0.02)
        is_problem(answer[answer.index(b"HTTP/1.1 408") :], 408, b"head-too-slow")

    run(scenario)


def test_a_connection_that_is_only_kept_is_left_alone(quick: None) -> None:
    async def scenario(address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(3):
            writer.write(ASK)
            assert b'{"ok":true}' in await whole(reader)
            await asyncio.sleep(0.4)
        writer.close()

    run(scenario)


def test_a_connection_that_is_kept_for_nothing_ends_at_last(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "IDLE_S", 0.3)

    async def scenario(address: tuple[str, int]) -> None:
        answer = await said(address, ASK, ASK, pause_s=0.1)
        assert answer.count(b'{"ok":true}') == 2
        assert b"408" not in answer

    run(scenario)


def test_an_answered_request_leaves_nothing_to_the_collector() -> None:
    async def scenario(address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address)

        async def ask(times: int) -> None:
            for _ in range(times):
                writer.write(ASK)
                await whole(reader)

        await ask(3)
        gc.collect()
        gc.disable()
        try:
            await ask(50)
            assert gc.collect() < 50
        finally:
            gc.enable()
        writer.close()

    run(scenario)


def test_whoever_does_not_read_is_cut_off_and_whoever_reads_slowly_gets_it_all(quick: None) -> None:
    async def scenario(address: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        for pause_s in (None, 0.001):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            await loop.sock_sendall(sock, ASK.replace(b"small", b"large"))
            got = 0
            if pause_s is None:
                await asyncio.sleep(1.5)
            try:
                while data := await loop.sock_recv(sock, 65_536):
                    got += len(data)
                    if got >= LARGE:
                        break
                    if pause_s:
                        await asyncio.sleep(pause_s)
            except ConnectionResetError:
                pass
            assert (got < LARGE) == (pause_s is None)
            sock.close()

    run(scenario)


def test_heads_and_urls_that_are_too_long_are_named() -> None:
    async def scenario(address: tuple[str, int]) -> None:
        head = b"GET /small HTTP/1.1\r\nhost: f\r\n"
        is_problem(await said(address, head, b"x: " + b"y" * 20_000 + b"\r\n\r\n"), 431, b"head-too-large")
        is_problem(await said(address, head, *[b"x: %b\r\n" % (b"y" * 1_000)] * 20), 431, b"head-too-large")
        long = b"GET /small?%b HTTP/1.1\r\n\r\n" % (b"a" * 9_000)
        is_problem(await said(address, long), 414, b"url-too-long")
        is_problem(await said(address, b"\x16\x03\x01 this is TLS\r\n\r\n"), 400, b"malformed-request")

    run(scenario)


def test_a_large_body_is_no_large_head() -> None:
    async def scenario(address: tuple[str, int]) -> None:
        body = b"z" * 60_000
        head = b"POST /echo HTTP/1.1\r\nhost: f\r\nconnection: close\r\ncontent-length: 60000\r\n\r\n"
        assert (await said(address, head + body)).endswith(body)
        assert (await said(address, head, body[:30_000], body[30_000:], pause_s=0.01)).endswith(body)

    run(scenario)


def test_connections_beyond_the_limit_are_told_so_and_make_room_again() -> None:
    async def scenario(address: tuple[str, int]) -> None:
        kept = [await asyncio.open_connection(*address) for _ in range(2)]
        for reader, writer in kept:
            writer.write(ASK)
            await whole(reader)
        is_problem(await said(address, ASK), 503, b"overloaded")
        kept[0][1].close()
        for _ in range(200):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(ASK)
            try:
                answer = await whole(reader)
            except ConnectionResetError:
                answer = b""
            writer.close()
            if b" 200 " in answer:
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError("there is no room")
        kept[1][1].close()

    run(scenario, most_connections=2)


def test_the_protocol_is_made_of_the_settings() -> None:
    made = protocol_of(Settings.model_construct(most_connections=7, hsts_s=60))
    assert issubclass(made, Protocol)
    assert made.most_connections == 7
    assert b"strict-transport-security: max-age=60\r\n" in made.safe.block
