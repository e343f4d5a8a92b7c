"""The simulation's way to the API: batches of commands that are safe to send again, queries, and the log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from ops.home import Refused

PATIENCE_S = 30.0
PAGE = 1_000
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


class Api:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def send(
        self, wishes: Sequence[Wish], key: str, *, by: str = "", at: datetime | None = None, trace: str
    ) -> list[Answer]:
        """One principal's commands, in order; what got no answer is sent again under the same keys."""
        lines = []
        for number, wish in enumerate(wishes):
            context, _, command = wish.command.partition("/")
            line = {"context": context, "command": command, "key": f"{key}:{number}", "body": wish.body}
            lines.append(json.dumps(line))
        headers = {"content-type": "application/x-ndjson", "fogbook-correlation": trace}
        headers |= {"fogbook-act-as": by} if by else {}
        headers |= {"fogbook-at": rfc3339(at)} if at else {}
        end = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            answers = await self._try("\n".join(lines), headers)
            if answers is not None:
                return [
                    _checked(Answer(w, a["status"], a["body"])) for w, a in zip(wishes, answers, strict=True)
                ]
            if asyncio.get_running_loop().time() > end:
                raise SimulationFailed(f"The API did not answer for {PATIENCE_S:.0f} s.")
            await asyncio.sleep(0.1)

    async def _try(self, content: str, headers: dict[str, str]) -> list[dict[str, Any]] | None:
        """The answers; None when the batch has to be sent again."""
        try:
            response = await self._http.post("/commands", content=content, headers=headers)
        except httpx.TransportError:
            return None
        if response.status_code != 200:
            _fail_unless_away(response)
            return None
        answers = [json.loads(line) for line in response.content.splitlines()]
        return None if any(answer["status"] in NOT_DECIDED for answer in answers) else answers

    async def now(self, zone: str) -> datetime:
        """The zone's time. Raises SimulationFailed when the zone is no place for a simulation."""
        try:
            response = await self._http.post("/commands/platform/advance-clock?dry_run=true", json={})
        except httpx.TransportError as error:
            raise SimulationFailed(f"The API at {self._http.base_url} does not answer.") from error
        if response.status_code == 404:
            raise SimulationFailed(
                f"There is no zone {zone}: make it with `fogbook zones create {zone} --manual-clock`."
            )
        if response.status_code == 409:
            raise SimulationFailed(f"Zone {zone} has a real clock; a simulation needs a manual one.")
        if response.status_code != 200:
            raise _unexpected(response)
        return datetime.fromisoformat(response.json()["events"][0]["data"]["to"].replace("Z", "+00:00"))

    async def events(self, after: int) -> list[dict[str, Any]]:
        """A page of the log behind a position."""
        response = await self._get("/history/events", {"after": after, "limit": PAGE})
        return [json.loads(line) for line in response.content.splitlines()]

    async def query(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        """All items of a query, page by page."""
        items: list[dict[str, Any]] = []
        while True:
            page = (await self._get(f"/queries/{path}", parameters)).json()
            items += page["items"]
            if page["next"] is None:
                return items
            parameters["after"] = page["next"]

    async def _get(self, path: str, parameters: dict[str, Any]) -> httpx.Response:
        end = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            try:
                response = await self._http.get(path, params=parameters)
                if response.status_code == 200:
                    return response
                _fail_unless_away(response)
            except httpx.TransportError:
                pass
            if asyncio.get_running_loop().time() > end:
                raise SimulationFailed(f"{path} did not answer for {PATIENCE_S:.0f} s.")
            await asyncio.sleep(0.1)


def _fail_unless_away(response: httpx.Response) -> None:
    if response.status_code not in NOT_DECIDED:
        raise _unexpected(response)


def _unexpected(response: httpx.Response) -> SimulationFailed:
    said = f"{response.request.url.path} answered {response.status_code}: {response.text[:300]}"
    return SimulationFailed(said)


def _checked(answer: Answer) -> Answer:
    if answer.status not in DECIDED or answer.rule in DEFECTS:
        said = json.dumps(answer.body)[:300]
        raise SimulationFailed(f"{answer.wish.command} was answered {answer.status}: {said}")
    return answer
