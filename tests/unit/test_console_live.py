"""Open pages are told what is new a few at a time."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from queries._console._live import TOLD_AT_ONCE, Listener, Live


def test_many_pages_are_told_a_few_at_a_time_and_all_of_them_in_the_end() -> None:
    async def scenario() -> None:
        live = Live(cast("Any", None))
        pages = [Listener(waiting={"supply": b"event: supply\n\n"}) for _ in range(2 * TOLD_AT_ONCE + 5)]
        idle = Listener()
        live._listeners.update(pages, [idle])
        told = [0]
        telling = asyncio.create_task(live._tell(0.03))
        while not telling.done():
            await asyncio.sleep(0)
            now = sum(page.fresh.is_set() for page in pages)
            if now != told[-1]:
                told.append(now)
        assert told == [0, TOLD_AT_ONCE, 2 * TOLD_AT_ONCE, len(pages)]
        assert not idle.fresh.is_set(), "nothing waits for it"

    asyncio.run(scenario())
