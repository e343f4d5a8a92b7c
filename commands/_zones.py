"""The sequencers of this process, one a zone, started when a zone is first asked for, and anew when they have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from commands._log import Head, LogUnavailable, PostgresLog
from commands._sequencer import LogWentBack, Sequencer
from domain.platform import zones
from ops.waits import WAIT_S

MOST_ZONES = 256


class Zones:
    """Give it a factory of logs; every zone gets one of its own. A zone is there within `wait_s`, or not at all."""

    def __init__(
        self,
        log: Callable[[], PostgresLog],
        *,
        moved: Callable[[str, int], None],
        failed: Callable[[BaseException], None],
        most_streams: int,
        wait_s: float = WAIT_S,
        sequencer: Callable[..., Sequencer] = Sequencer,
    ) -> None:
        self._log = log
        self._moved = moved
        self._failed = failed
        self._most_streams = most_streams
        self._wait_s = wait_s
        self._make = sequencer
        self._sequencers: dict[str, Sequencer] = {}
        self._starting: dict[str, asyncio.Task[Sequencer | None]] = {}

    def started(self, zone: str) -> Sequencer | None:
        sequencer = self._sequencers.get(zone)
        return sequencer if sequencer is not None and sequencer.works else None

    async def start(self, zone: str) -> Sequencer | None:
        """The zone's sequencer; None when there is no such zone. Raises LogUnavailable.

        All who ask at once wait for one start: one after another they would miss their deadlines.
        """
        starting = self._starting.get(zone)
        if starting is None:
            starting = self._starting[zone] = asyncio.create_task(self._start(zone), name=f"starting {zone}")
            starting.add_done_callback(lambda done: self._starting.pop(zone, None))
        return await asyncio.shield(starting)

    async def _start(self, zone: str) -> Sequencer | None:
        if len(self._sequencers) >= MOST_ZONES and zone not in self._sequencers:
            raise RuntimeError(f"one process sequences at most {MOST_ZONES} zones")
        ended = self._sequencers.get(zone)
        try:
            async with asyncio.timeout(self._wait_s):
                sequencer = await self._begun(zone, ended.head if ended else None)
        except TimeoutError:
            raise LogUnavailable("the log does not answer in time") from None
        except LogWentBack as error:
            raise LogUnavailable("the log went back behind what this process has seen") from error
        if ended is not None:
            await ended.stop()
        if sequencer is not None:
            self._sequencers[zone] = sequencer
        return sequencer

    async def _begun(self, zone: str, seen: Head | None) -> Sequencer | None:
        sequencer = self._make(
            zone,
            self._log(),
            moved=self._moved,
            failed=self._failed,
            most_streams=max(1_000, self._most_streams // (len(self._sequencers) + 1)),
        )
        try:
            if await sequencer.start(seen) and (await sequencer.state(zones, "self")).clock:
                return sequencer
        except BaseException:
            await sequencer.stop()
            raise
        # There is no such zone, or it is another application's (or just being created): it takes no commands of ours.
        await sequencer.stop()
        return None

    def all(self) -> list[Sequencer]:
        return list(self._sequencers.values())

    async def stop(self) -> None:
        for starting in list(self._starting.values()):
            starting.cancel()
        for sequencer in self.all():
            await sequencer.stop()
        self._sequencers.clear()
