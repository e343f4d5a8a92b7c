"""The console is a client of the queries in its own process: it asks each by its path, with its reader's key.

So a screen shows what the query answers, to whom the query would answer it, and is refused what the query refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from starlette.types import ASGIApp, Message

NO_ANSWER = 500


@dataclass(frozen=True, slots=True)
class Answered:
    """What a route answered: its status, headers by lower-case names, and the whole body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        return self.status < 300

    @property
    def value(self) -> Any:
        """The body as JSON; {} where there is none."""
        return msgspec.json.decode(self.body) if self.body else {}

    @property
    def lines(self) -> list[Any]:
        """The body as NDJSON."""
        return [msgspec.json.decode(line) for line in self.body.splitlines() if line]

    @property
    def detail(self) -> str:
        """The sentence of a problem."""
        try:
            return str(self.value["detail"])
        except (msgspec.MsgspecError, KeyError, TypeError):
            return "The request failed."


async def ask(
    app: ASGIApp,
    path: str,
    query: Mapping[str, str | list[str]],
    headers: Mapping[str, str],
    client: tuple[str, int] | None = None,
    body: bytes | None = None,
) -> Answered:
    """GET a path of `app`, or POST a body to it, without a network in between. `client` is the address that the reader
    is at."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body or b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET" if body is None else "POST",
        "scheme": "http",
        "path": path,
        "raw_path": quote(path).encode(),
        "root_path": "",
        "query_string": urlencode(query, doseq=True).encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        "client": client,
        "server": None,
        "state": {},
    }
    await app(scope, receive, send)
    begun = next((m for m in sent if m["type"] == "http.response.start"), None)
    if begun is None:
        return Answered(NO_ANSWER, {}, b"")
    named = {name.decode().lower(): value.decode("latin-1") for name, value in begun["headers"]}
    return Answered(begun["status"], named, b"".join(m.get("body", b"") for m in sent[1:]))
