"""Open pages are told what is new one after the other, and rendering leaves the time to commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from queries._console import _live
from queries._console._live import Listener, Live, Watch, _rest


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
    ("spent_s", "panels", "rest_s"),
    [
        pytest.param(0.004, 8, 0.396, id="a hundredth of the time is rendering"),
        pytest.param(0.020, 8, 0.5, id="unless four seconds are over then"),
        pytest.param(0.004, 1_000, 0.016, id="and never more than a fifth"),
    ],
)
def test_rendering_leaves_the_time_to_commands(spent_s: float, panels: int, rest_s: float) -> None:
    assert _rest(spent_s, panels) == pytest.approx(rest_s)


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
