"""Live pages: one look at the positions for all of them, one query for all who see the same, at most one connection.

A page tells which panels it shows. Once in a while the positions of all projections that somebody watches are read; a
panel whose projection moved is asked and rendered once, and its text goes to everybody who watches it.

Commands come first: rendering takes half a hundredth of the time as long as a round may last for that, and never more
than a fifth, whatever is watched. Meanwhile pages are told one after the other, each of all that waits for it. The more
are open, the longer both last: five hundred at once would keep a processor for as long as twenty commands do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
import structlog

from ops.pool import Pool

LEAST_PAUSE_S = 1.0
LONG_REST, LEAST_REST = 199, 4
"""Times as long as it took to render a panel is the rest after it: where there is time, and in any case."""
CALM_S = 4.0
"""As long as this, a round of rendering may last for the sake of long rests, however few pages are open."""
PAGE_S = 0.008
"""What each open page adds to that, and to a round of telling: five hundred are told within four seconds."""
KEEP_ALIVE_S = 15.0
MOST_LISTENERS = 1_000
MOST_WATCHED = 2_000

MOVED = """
SELECT zone, projection, position FROM checkpoints WHERE zone = ANY(%(zones)s) AND live
UNION ALL SELECT zone, '', position FROM heads WHERE zone = ANY(%(zones)s)
"""

OVER = b"event: over\ndata: over\n\n"
"""Tells a page that its session is over."""

log = structlog.get_logger("fogbook.console")


@dataclass(frozen=True, slots=True)
class Watch:
    """A panel as some readers see it."""

    zone: str
    projection: str
    panel: str
    """Page and panel: what its text is an answer to."""
    parameters: tuple[tuple[str, str], ...]
    reader: str
    """Whose eyes: a principal's where answers differ, else a class of readers who see the same."""


Render = Callable[[], Awaitable[str | None]]
"""The panel's text; None where its reader is shown nothing any longer."""
Alive = Callable[[], Awaitable[bool]]
"""Whether somebody's session still holds."""


@dataclass(slots=True)
class _Watched:
    position: int
    event: bytes = b""
    """What was told last."""
    listeners: dict[Listener, Render] = field(default_factory=dict)

    async def render(self) -> str | None:
        """With the eyes of the first who still may: all of them see the same."""
        for render in list(self.listeners.values()):
            text = await render()
            if text is not None:
                return text
        return None


@dataclass(slots=True, eq=False)
class Listener:
    """An open page. Of each panel it keeps the newest event only, so a slow reader costs a page's memory."""

    waiting: dict[str, bytes] = field(default_factory=dict)
    fresh: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is this page's turn to be sent what waits."""


class TooMany(Exception):
    """So many pages are open that another one is not followed."""


class Live:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._watched: dict[Watch, _Watched] = {}
        self._listeners: set[Listener] = set()
        self._at_work: asyncio.Task[None] | None = None
        self._stopping = False
        self._asking = asyncio.Lock()
        """Held by what uses a connection, so that all open pages together need one."""

    async def follow(self, watches: dict[Watch, tuple[Render, int]], alive: Alive) -> AsyncIterator[bytes]:
        """Server-sent events: of each panel that changed its id and its text, and `over` when the session is. `watches`
        names for each panel how it is rendered and the position that its page shows already. Raises TooMany."""
        if len(self._listeners) >= MOST_LISTENERS or len(self._watched) >= MOST_WATCHED:
            raise TooMany
        listener = Listener()
        self._listeners.add(listener)
        for watch, (render, position) in watches.items():
            watched = self._watched.setdefault(watch, _Watched(position))
            if watched.event and watched.position > position:
                listener.waiting[watch.panel] = watched.event
                listener.fresh.set()
            elif not watched.event:
                watched.position = min(watched.position, position)
            watched.listeners[listener] = render
        if self._at_work is None or self._at_work.done():
            self._at_work = asyncio.create_task(self._work(), name="console")
        return self._events(listener, watches, alive)

    async def _events(
        self, listener: Listener, watches: dict[Watch, Any], alive: Alive
    ) -> AsyncIterator[bytes]:
        try:
            yield b"retry: 2000\n\n"
            known = time.monotonic()
            while not self._stopping:
                if time.monotonic() - known >= KEEP_ALIVE_S:
                    async with self._asking:
                        holds = await alive()
                    if not holds:
                        yield OVER
                        return
                    known = time.monotonic()
                try:
                    async with asyncio.timeout(KEEP_ALIVE_S):
                        await listener.fresh.wait()
                except TimeoutError:
                    yield b": keep-alive\n\n"
                    continue
                listener.fresh.clear()
                events, listener.waiting = listener.waiting, {}
                yield b"".join(events.values())
        finally:
            self._leave(listener, watches)

    def _leave(self, listener: Listener, watches: dict[Watch, Any]) -> None:
        self._listeners.discard(listener)
        for watch in watches:
            watched = self._watched.get(watch)
            if watched is not None:
                watched.listeners.pop(listener, None)
                if not watched.listeners:
                    del self._watched[watch]

    def let_go(self) -> None:
        """The server stops: all pages are told to come back later."""
        self._stopping = True
        for listener in self._listeners:
            listener.fresh.set()

    async def stop(self) -> None:
        self.let_go()
        if self._at_work is not None:
            self._at_work.cancel()
            await asyncio.gather(self._at_work, return_exceptions=True)

    async def _work(self) -> None:
        """Look and tell until nobody watches any longer."""
        telling = asyncio.create_task(self._tell_for_ever(), name="console tells")
        try:
            while self._watched:
                try:
                    await self._look()
                except psycopg.Error as error:
                    log.warning("console_not_renewed", error=str(error))
                await asyncio.sleep(LEAST_PAUSE_S)
        finally:
            telling.cancel()

    async def _look(self) -> None:
        """One round: what moved is rendered, and waits for those who watch it."""
        zones = sorted({watch.zone for watch in self._watched})
        async with self._asking, self._pool.connection() as connection:
            cursor = await connection.execute(MOVED, {"zones": zones})
            positions = {(zone, name): position for zone, name, position in await cursor.fetchall()}
        moved = [
            (watch, watched, position)
            for watch, watched in self._watched.items()
            if (position := positions.get((watch.zone, watch.projection), 0)) != watched.position
        ]
        for watch, watched, position in moved:
            async with self._asking:
                begun = time.monotonic()
                text = await watched.render()
            watched.position = position
            event = b"" if text is None else _event(watch.panel, text)
            if event and event != watched.event:
                watched.event = event
                for listener in watched.listeners:
                    listener.waiting[watch.panel] = event
            calm_s = CALM_S + PAGE_S * len(self._listeners)
            await asyncio.sleep(_rest(time.monotonic() - begun, calm_s / len(moved)))

    async def _tell_for_ever(self) -> None:
        while True:
            await self._tell(max(LEAST_PAUSE_S, PAGE_S * len(self._listeners)))

    async def _tell(self, within_s: float) -> None:
        """Have each page that something waits for sent it, and rest until the time is over."""
        waiting = [each for each in self._listeners if each.waiting]
        for listener in waiting:
            listener.fresh.set()
            await asyncio.sleep(within_s / len(waiting))
        if not waiting:
            await asyncio.sleep(within_s)


def _rest(spent_s: float, share_s: float) -> float:
    """Seconds after a panel that took that long to render and whose share of a round is that long."""
    return max(LEAST_REST * spent_s, min(LONG_REST * spent_s, share_s))


def _event(name: str, text: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"event: {name}\n{lines}\n".encode()
