"""The sequencers of this process, one a zone, started when a zone is first asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from commands._log import PostgresLog
from commands._sequencer import Sequencer
from domain.platform import zones

MOST_ZONES = 256


class Zones:
    """Give it a factory of logs; every zone gets one of its own."""

    def __init__(
        self,
        log: Callable[[], PostgresLog],
        *,
        moved: Callable[[str, int], None],
        failed: Callable[[BaseException], None],
        most_streams: int,
    ) -> None:
        self._log = log
        self._moved = moved
        self._failed = failed
        self._most_streams = most_streams
        self._sequencers: dict[str, Sequencer] = {}
        self._starting = asyncio.Lock()

    def started(self, zone: str) -> Sequencer | None:
        return self._sequencers.get(zone)

    async def start(self, zone: str) -> Sequencer | None:
        """The zone's sequencer; None when there is no such zone. Raises LogUnavailable."""
        async with self._starting:
            if zone in self._sequencers:
                return self._sequencers[zone]
            if len(self._sequencers) >= MOST_ZONES:
                raise RuntimeError(f"one process sequences at most {MOST_ZONES} zones")
            sequencer = Sequencer(
                zone,
                self._log(),
                moved=self._moved,
                failed=self._failed,
                most_streams=max(1_000, self._most_streams // (len(self._sequencers) + 1)),
            )
            if not await sequencer.start():
                return None
            if not (await sequencer.state(zones, "self")).clock:
                # A zone of another application (or one that is just being created) takes no commands of ours.
                await sequencer.stop()
                return None
            self._sequencers[zone] = sequencer
            return sequencer

    def all(self) -> list[Sequencer]:
        return list(self._sequencers.values())

    async def stop(self) -> None:
        for sequencer in self.all():
            await sequencer.stop()
        self._sequencers.clear()
