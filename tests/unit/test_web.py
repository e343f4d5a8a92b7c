"""How a request's body is read, and how answers leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect

from ops.problems import Problem
from ops.protocol import Corked
from ops.web import ANSWERED, Answer, App, body_of, headers_of


def request(*messages: dict[str, Any], late: bool = False) -> Request:
    """A request whose messages come one after the other, each in a turn of the loop of its own when they are late."""
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        if late:
            await asyncio.sleep(0.001)
        return waiting.pop(0)

    return Request({"type": "http", "headers": []}, receive)


def part(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize(
    "name", [b"authorization", b"idempotency-key", b"if-match", b"fogbook-zone", b"fogbook-at"]
)
def test_what_says_who_asks_for_what_is_said_once(name: bytes) -> None:
    with pytest.raises(Problem) as refused:
        headers_of(Request({"type": "http", "headers": [(name, b"a"), (b"accept", b"b"), (name, b"a")]}))
    assert (refused.value.status, refused.value.body["facts"]) == (400, {"header": name.decode()})


def test_other_headers_may_come_in_several_parts() -> None:
    given = [(b"accept", b"text/html"), (b"accept", b"*/*"), (b"fogbook-zone", b"main")]
    assert headers_of(Request({"type": "http", "headers": given}))["fogbook-zone"] == "main"


@pytest.mark.parametrize("late", [False, True])
def test_a_body_is_whole_however_it_arrives(late: bool) -> None:
    whole, pieces = request(part(b"abc"), late=late), request(part(b"a", True), part(b"b", True), part(b"c"))
    assert asyncio.run(body_of(whole, {})) == b"abc"
    assert asyncio.run(body_of(pieces, {})) == b"abc"
    assert asyncio.run(body_of(request(part(b"a", True), part(b"bc"), late=late), {})) == b"abc"


@pytest.mark.parametrize("late", [False, True])
def test_a_client_that_leaves_is_noticed(late: bool) -> None:
    with pytest.raises(ClientDisconnect):
        asyncio.run(body_of(request(part(b"a", True), {"type": "http.disconnect"}, late=late), {}))


def test_whoever_stops_waiting_for_a_body_ends_the_reading() -> None:
    ended = []

    async def scenario() -> None:
        async def receive() -> dict[str, Any]:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)
            raise AssertionError("nothing arrives")

        reading = asyncio.create_task(body_of(Request({"type": "http", "headers": []}, receive), {}))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(scenario())
    assert ended == [True]


def test_an_answer_names_its_length_and_its_kind_behind_its_own_headers() -> None:
    answer = Answer(b"{}", 409, [(b"fogbook-position", b"7")], b"application/json")
    assert answer.status_code == 409
    assert answer.raw_headers == [
        (b"fogbook-position", b"7"),
        (b"content-length", b"2"),
        (b"content-type", b"application/json"),
    ]


class Sent(asyncio.Transport):
    """A transport that notes what it is given."""

    def __init__(self) -> None:
        super().__init__({"peername": "somebody"})
        self.done: list[bytes | str] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.done.append(bytes(data))

    def close(self) -> None:
        self.done.append("closed")
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def corked(act: Any) -> list[bytes | str]:
    async def scenario() -> list[bytes | str]:
        sent = Sent()
        await act(Corked(sent, asyncio.get_running_loop()), sent)
        await asyncio.sleep(0.001)
        return sent.done

    return asyncio.run(scenario())


def test_what_is_written_in_one_turn_of_the_loop_leaves_at_once() -> None:
    async def act(transport: Corked, sent: Sent) -> None:
        transport.write(b"head ")
        transport.write(b"body")
        assert sent.done == []
        await asyncio.sleep(0.001)
        transport.write(b"next")
        assert transport.get_extra_info("peername") == "somebody"

    assert corked(act) == [b"head body", b"next"]


def test_what_is_large_is_not_copied_to_be_sent_with_the_rest() -> None:
    large = b"x" * 100_000

    async def act(transport: Corked, sent: Sent) -> None:
        transport.write(b"head")
        transport.write(large)
        assert sent.done == [b"head", large]

    assert corked(act) == [b"head", large]


def test_closing_sends_what_was_written_before() -> None:
    async def act(transport: Corked, sent: Sent) -> None:
        transport.write(b"last")
        transport.close()

    assert corked(act) == [b"last", "closed"]


def test_nothing_is_sent_to_who_is_gone() -> None:
    async def act(transport: Corked, sent: Sent) -> None:
        transport.write(b"too late")
        sent.closed = True

    assert corked(act) == []


def test_a_route_is_timed_from_its_first_answer_on() -> None:
    """Hundreds of routes that nobody asks would be told of at each look at the metrics."""
    path = "/test/timed"

    async def asked(_request: Request) -> Answer:
        return Answer(b"", 200, [], b"text/plain")

    app = App(title="test", version="test")
    app.add("GET", path, asked)
    assert path not in ANSWERED
    for _ in range(2):
        asyncio.run(app.direct["GET", path](Request({"type": "http", "headers": []})))
    (metric,) = ANSWERED[path].collect()
    assert [sample.value for sample in metric.samples if sample.name.endswith("_count")] == [2]
