"""The simulation's way to the API: the client, at a pace, with every answer that no story contains as a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ops.client import (
    Accepted,
    AsyncFogbook,
    FogbookError,
    NotFound,
    Raw,
    Refused,
    Stretch,
    Unavailable,
)
from ops.home import Refused as RefusedHere

PATIENCE_S = 30.0
PAGE = 1_000
QUERY_PAGE = 500
MOST_LINES = 400
"""Commands a batch: so many are decided within the patience of anybody in between."""
DEFECTS = frozenset({"unknown-command", "zone-not-found", "time-goes-backwards", "clock-is-real"})
"""Refusals that no story contains."""

Wish = Raw
"""A command that somebody wants done."""


class SimulationFailed(RefusedHere):
    """The simulation cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    wish: Wish
    outcome: Accepted | Refused | NotFound


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
    def __init__(self, url: str, key: str, zone: str, rate: int = 0) -> None:
        self._url, self._key, self._zone = url, key, zone
        self._book = AsyncFogbook(url, key, zone=zone, patience_s=PATIENCE_S)
        self._pace = Pace(rate)

    async def aclose(self) -> None:
        await self._book.close()

    async def send(
        self, wishes: Sequence[Wish], key: str, *, by: str = "", at: datetime | None = None, trace: str
    ) -> list[Answer]:
        """One principal's commands, in order; what got no answer is sent again under the same keys."""
        keys = [f"{key}:{number}" for number in range(len(wishes))]
        answers: list[Answer] = []
        for start in range(0, len(wishes), MOST_LINES):
            part = wishes[start : start + MOST_LINES]
            await self._pace.take(len(part))
            with _failures():
                outcomes = await self._book.send_many(
                    part, keys=keys[start : start + MOST_LINES], act_as=by, at=at, correlation=trace
                )
            answers += [_checked(wish, outcome) for wish, outcome in zip(part, outcomes, strict=True)]
        return answers

    async def now(self) -> datetime:
        """The zone's time. Raises SimulationFailed when the zone is no place for a simulation."""
        try:
            async with AsyncFogbook(self._url, self._key, zone=self._zone, patience_s=0) as book:
                asked = await book.send(Raw("platform/advance-clock", {}), dry_run=True)
        except Unavailable as error:
            raise SimulationFailed(f"The API at {self._url} does not answer.") from error
        except NotFound as error:
            raise SimulationFailed(
                f"There is no zone {self._zone}: make it with `fogbook zones create {self._zone} --manual-clock`."
            ) from error
        except Refused as error:
            raise SimulationFailed(
                f"Zone {self._zone} has a real clock; a simulation needs a manual one."
            ) from error
        except FogbookError as error:
            raise _unexpected(error) from error
        return datetime.fromisoformat(asked.events[0].data["to"])

    async def log(self, after: int) -> Stretch:
        """A page of the log behind a position."""
        with _failures():
            return await self._book.log(after, limit=PAGE)

    async def query(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        """All items of a query, page by page, as of what was sent and read or later."""
        with _failures():
            return [row async for row in self._book.items(path, dict, limit=QUERY_PAGE, **parameters)]


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except FogbookError as error:
        raise _unexpected(error) from error


def _unexpected(error: FogbookError) -> SimulationFailed:
    return SimulationFailed(f"The API answered {error.status}: {error}")


def _checked(wish: Wish, outcome: Accepted | FogbookError) -> Answer:
    if isinstance(outcome, Accepted):
        return Answer(wish, outcome)
    if not isinstance(outcome, Refused | NotFound) or outcome.rule in DEFECTS:
        raise SimulationFailed(f"{wish.name} was answered {outcome.status}: {outcome}")
    return Answer(wish, outcome)
