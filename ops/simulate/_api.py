"""The simulation's way to the API: batches of commands that are safe to send again, queries, and the log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from ops.home import Refused
from ops.simulate._http import Http, Reply, Unreachable

encode_json, decode_json = msgspec.json.encode, msgspec.json.decode

PATIENCE_S = 30.0
PAGE = 1_000
QUERY_PAGE = 500
MOST_LINES = 400
"""Commands a batch: so many are decided within the patience of anybody in between."""
NOT_DECIDED = frozenset({408, 429, 500, 502, 503, 504})
DECIDED = frozenset({200, 404, 409})
DEFECTS = frozenset({"unknown-command", "zone-not-found", "time-goes-backwards", "clock-is-real"})
"""Refusals that no story contains."""


class SimulationFailed(Refused):
    """The simulation cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A command that somebody wants done."""

    command: str
    """`ledger/transfer`"""
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    wish: Wish
    status: int
    body: dict[str, Any]

    @property
    def rule(self) -> str:
        return rule_of(self.body)


def rule_of(problem: dict[str, Any]) -> str:
    return str(problem.get("type", "")).rpartition("/")[2]


def rfc3339(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


class Pace:
    """At most so many commands a second; as many as come where none is named."""

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._free_at = 0.0

    async def take(self, number: int) -> None:
        """Wait until that many more may be sent."""
        if not self._per_s:
            return
        now = asyncio.get_running_loop().time()
        start = max(self._free_at, now)
        self._free_at = start + number / self._per_s
        await asyncio.sleep(start - now)


class Api:
    def __init__(self, http: Http, rate: int = 0) -> None:
        self._http = http
        self._pace = Pace(rate)
        self.head = 0
        """The log's position, as it was last told."""

    async def send(
        self, wishes: Sequence[Wish], key: str, *, by: str = "", at: datetime | None = None, trace: str
    ) -> list[Answer]:
        """One principal's commands, in order; what got no answer is sent again under the same keys."""
        headers = {"content-type": "application/x-ndjson", "fogbook-correlation": trace}
        headers |= {"fogbook-act-as": by} if by else {}
        headers |= {"fogbook-at": rfc3339(at)} if at else {}
        lines = []
        for number, wish in enumerate(wishes):
            context, _, command = wish.command.partition("/")
            line = {"context": context, "command": command, "key": f"{key}:{number}", "body": wish.body}
            lines.append(encode_json(line))
        answers: list[Answer] = []
        for start in range(0, len(lines), MOST_LINES):
            part = wishes[start : start + MOST_LINES]
            await self._pace.take(len(part))
            bodies = await self._until_answered(b"\n".join(lines[start : start + MOST_LINES]), headers)
            answers += [
                _checked(Answer(w, a["status"], a["body"])) for w, a in zip(part, bodies, strict=True)
            ]
        return answers

    async def _until_answered(self, content: bytes, headers: dict[str, str]) -> list[dict[str, Any]]:
        end = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            answers = await self._try(content, headers)
            if answers is not None:
                return answers
            if asyncio.get_running_loop().time() > end:
                raise SimulationFailed(f"The API did not answer for {PATIENCE_S:.0f} s.")
            await asyncio.sleep(0.1)

    async def _try(self, content: bytes, headers: dict[str, str]) -> list[dict[str, Any]] | None:
        """The answers; None when the batch has to be sent again."""
        try:
            response = await self._http.post("/commands", content, headers)
        except Unreachable:
            return None
        if response.status != 200:
            _fail_unless_away(response)
            return None
        answers = [decode_json(line) for line in response.content.splitlines()]
        return None if any(answer["status"] in NOT_DECIDED for answer in answers) else answers

    async def now(self, zone: str) -> datetime:
        """The zone's time. Raises SimulationFailed when the zone is no place for a simulation."""
        path, headers = "/commands/platform/advance-clock?dry_run=true", {"content-type": "application/json"}
        try:
            response = await self._http.post(path, b"{}", headers)
        except Unreachable as error:
            raise SimulationFailed(f"The API at {self._http.url} does not answer.") from error
        if response.status == 404:
            raise SimulationFailed(
                f"There is no zone {zone}: make it with `fogbook zones create {zone} --manual-clock`."
            )
        if response.status == 409:
            raise SimulationFailed(f"Zone {zone} has a real clock; a simulation needs a manual one.")
        if response.status != 200:
            raise _unexpected(response)
        return datetime.fromisoformat(decode_json(response.content)["events"][0]["data"]["to"])

    async def events(self, after: int) -> list[dict[str, Any]]:
        """A page of the log behind a position."""
        response = await self._get("/history/events", {"after": after, "limit": PAGE})
        self.head = int(response.headers["fogbook-position"])
        return [decode_json(line) for line in response.content.splitlines()]

    async def query(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        """All items of a query, page by page."""
        items: list[dict[str, Any]] = []
        while True:
            response = await self._get(f"/queries/{path}", {"limit": QUERY_PAGE, **parameters})
            page = decode_json(response.content)
            items += page["items"]
            if page["next"] is None:
                return items
            parameters["after"] = page["next"]

    async def _get(self, path: str, parameters: dict[str, Any]) -> Reply:
        end = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            try:
                response = await self._http.get(path, parameters)
                if response.status == 200:
                    return response
                _fail_unless_away(response)
            except Unreachable:
                pass
            if asyncio.get_running_loop().time() > end:
                raise SimulationFailed(f"{path} did not answer for {PATIENCE_S:.0f} s.")
            await asyncio.sleep(0.1)


def _fail_unless_away(response: Reply) -> None:
    if response.status not in NOT_DECIDED:
        raise _unexpected(response)


def _unexpected(response: Reply) -> SimulationFailed:
    return SimulationFailed(f"{response.path} answered {response.status}: {response.content[:300].decode()}")


def _checked(answer: Answer) -> Answer:
    if answer.status not in DECIDED or answer.rule in DEFECTS:
        said = encode_json(answer.body).decode()[:300]
        raise SimulationFailed(f"{answer.wish.command} was answered {answer.status}: {said}")
    return answer
