"""Open pages are told what is new one after the other, and rendering leaves the time to commands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import psycopg
import pytest

from ops.problems import Problem
from queries._console import _live
from queries._console._live import Listener, Live, Watch, _rest
from queries._console._readers import Readers
from queries._console._session import Session


def test_many_pages_are_told_one_after_the_other_and_all_of_them_in_the_end() -> None:
    async def scenario() -> None:
        live = Live(cast("Any", None))
        pages = [Listener(waiting={"supply": b"event: supply\n\n"}) for _ in range(25)]
        idle = Listener()
        live._listeners.update(pages, [idle])
        told = [0]
        telling = asyncio.create_task(live._tell(0.03))
        while not telling.done():
            await asyncio.sleep(0)
            now = sum(page.fresh.is_set() for page in pages)
            if now != told[-1]:
                told.append(now)
        assert told == list(range(len(pages) + 1))
        assert not idle.fresh.is_set(), "nothing waits for it"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("spent_s", "share_s", "rest_s"),
    [
        pytest.param(0.002, 0.5, 0.398, id="half a hundredth of the time is rendering"),
        pytest.param(0.020, 0.5, 0.5, id="unless its share of the round is over then"),
        pytest.param(0.004, 0.004, 0.016, id="and never more than a fifth"),
    ],
)
def test_rendering_leaves_the_time_to_commands(spent_s: float, share_s: float, rest_s: float) -> None:
    assert _rest(spent_s, share_s) == pytest.approx(rest_s)


def test_a_page_hears_of_a_panel_before_the_next_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_live, "LEAST_PAUSE_S", 0.01)

    async def scenario() -> None:
        live = Live(cast("Any", Positions([("main", "supply", 2), ("main", "accounts", 2)])))
        heard = asyncio.Event()

        async def at_once() -> str:
            return "new"

        async def late() -> str:
            await heard.wait()
            return "new as well"

        async def alive() -> bool:
            return True

        watches = {
            Watch("main", "supply", "first", (), "anybody"): (at_once, 1),
            Watch("main", "accounts", "second", (), "anybody"): (late, 1),
        }
        events = await live.follow(watches, alive)
        async with asyncio.timeout(60):
            assert await anext(events) == b"retry: 2000\n\n"
            assert await anext(events) == b"event: first\ndata: new\n\n"
            heard.set()
            assert await anext(events) == b"event: second\ndata: new as well\n\n"
        await live.stop()

    asyncio.run(scenario())


def test_all_open_pages_together_ask_one_thing_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels, and whether sessions hold: one connection does."""
    monkeypatch.setattr(_live, "LEAST_PAUSE_S", 0.01)
    monkeypatch.setattr(_live, "CALM_S", 0.01)
    monkeypatch.setattr(_live, "KEEP_ALIVE_S", 0.01)
    pages, asking, most, checks = 10, 0, 0, 0

    async def asked() -> None:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await asyncio.sleep(0.001)
        asking -= 1

    async def render() -> str:
        await asked()
        return str(time.monotonic())

    async def alive() -> bool:
        nonlocal checks
        checks += 1
        await asked()
        return True

    async def scenario() -> None:
        rows = [("main", "supply", 2)]
        live = Live(cast("Any", Positions(rows)))

        async def listen(number: int) -> None:
            watch = Watch("main", "supply", f"panel {number}", (), "anybody")
            async for _ in await live.follow({watch: (render, 1)}, alive):
                rows[0] = ("main", "supply", rows[0][2] + 1)
                if checks >= 5 * pages:
                    break

        async with asyncio.timeout(60):
            await asyncio.gather(*map(listen, range(pages)))
        await live.stop()

    asyncio.run(scenario())
    assert most == 1


@pytest.mark.parametrize(
    ("problem", "holds"),
    [
        pytest.param(None, True, id="a known key"),
        pytest.param(Problem(401, "unauthenticated", "Nobody has this key."), False, id="a revoked key"),
        pytest.param(Problem(503, "overloaded", "Come back later."), True, id="nobody can tell"),
        pytest.param(psycopg.OperationalError("gone"), True, id="no database to tell it"),
    ],
)
def test_a_session_is_over_when_it_is_known_to_be(problem: Exception | None, holds: bool) -> None:
    class Known:
        def of(self, request: object) -> Session:
            return Session("Bearer a key", 0)

        async def caller(self, authorization: str) -> None:
            if problem is not None:
                raise problem

    known = cast("Any", Known())
    readers = Readers(cast("Any", None), known, known, cast("Any", None))
    assert asyncio.run(readers.still_of(cast("Any", None))) is holds


class Positions:
    """A pool whose connections answer with these rows."""

    def __init__(self, rows: list[tuple[str, str, int]]) -> None:
        self._rows = rows

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Positions]:
        yield self

    async def execute(self, *_: object) -> Positions:
        return self

    async def fetchall(self) -> list[tuple[str, str, int]]:
        return self._rows
