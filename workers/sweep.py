"""The sweeper: finds what lost wake-ups left behind, new projections, and projections whose code has changed.

The truth is in the checkpoints, so Valkey may be wiped at any moment: what was lost is sent again within seconds.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import dramatiq
import psycopg
import redis
import structlog

from projections._engine import HandlerFailed, all_projections
from projections._follower import ensure_checkpoints
from projections._lease import IS_HELD
from projections._rebuild import rebuild, sweep
from projections._stored import DATA
from projections._wanted import OPERATED
from workers._broker import Wakes

SWEEP_EVERY_S = 1.0
ORPHANED_SWEEPS = 2
"""After so many sweeps in which a zone was behind and nobody at work, its flag is a dead follower's."""
REBUILD_AGAIN_S = 60.0
OLDER_CODE_AFTER_S = 60.0
"""During a rolling deployment, workers of the old version must not take projections back at once."""

SWEEP = f"""
SELECT h.zone, coalesce(bool_or(c.position < h.position AND held.zone IS NULL), h.position > 0),
       coalesce(bool_or(c.tenure > clock_timestamp()), false) AND {IS_HELD.format(zone="h.zone")},
       coalesce(bool_or(c.tenure IS NOT NULL), false),
       coalesce(jsonb_object_agg(c.projection, CASE WHEN d.zone IS NULL THEN '' ELSE c.code END)
                FILTER (WHERE c.projection IS NOT NULL), '{{}}')
FROM heads h LEFT JOIN checkpoints c ON c.zone = h.zone AND c.live
LEFT JOIN ({OPERATED}) held ON (held.zone, held.projection) = (c.zone, c.projection)
LEFT JOIN digests d ON (d.zone, d.projection, d.generation) = (c.zone, c.projection, c.generation)
GROUP BY h.zone, h.position
"""  # noqa: S608

log = structlog.get_logger("fogbook.workers")


class Swept(NamedTuple):
    zone: str
    is_behind: bool
    is_followed: bool
    is_leased: bool
    """Somebody took it and did not give it back: where nobody is at work, that one died, and its flag stands."""
    codes: dict[str, str]
    """Of each projection; nobody's where the digest of its rows is lost."""


class Sweeper:
    """One thread sweeps, another one rebuilds; `connect` gives connections, bounded or for long work."""

    def __init__(
        self, connect: Callable[[bool], psycopg.Connection[Any]], wakes: Wakes, stopping: threading.Event
    ) -> None:
        self._connect = connect
        self._wakes = wakes
        self._stopping = stopping
        self._connection: psycopg.Connection[Any] | None = None
        self._orphaned: dict[str, int] = {}
        self._due: dict[tuple[str, str], float] = {}
        """When a projection whose code differs is to be rebuilt."""

    # Wake-ups

    def run(self) -> None:
        """A thread: sweep until told to stop, whatever is away meanwhile."""
        while not self._stopping.is_set():
            try:
                self.sweep()
            except (psycopg.Error, redis.RedisError, dramatiq.BrokerError) as error:
                log.warning("sweep_failed", error=str(error))
            self._stopping.wait(SWEEP_EVERY_S)
        self._close()

    def sweep(self) -> None:
        try:
            if self._connection is None:
                self._connection = self._connect(True)
            zones = [Swept(*row) for row in self._connection.execute(SWEEP)]
            for zone in zones:
                if not zone.codes.keys() >= all_projections().keys():
                    ensure_checkpoints(self._connection, zone.zone)
        except psycopg.Error:
            self._close()
            raise
        self._note_codes(zones)
        for zone in zones:
            if zone.is_behind:
                self._wake(zone)
            else:
                self._orphaned.pop(zone.zone, None)

    def _wake(self, zone: Swept) -> None:
        if zone.is_followed:
            self._orphaned.pop(zone.zone, None)
            return
        self._orphaned[zone.zone] = sweeps = self._orphaned.get(zone.zone, 0) + 1
        if (zone.is_leased and sweeps == 1) or sweeps > ORPHANED_SWEEPS:
            self._wakes.clear_flag(zone.zone)
        if sweeps > ORPHANED_SWEEPS:
            self._orphaned.pop(zone.zone)
        self._wakes.send(zone.zone)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # Rebuilds

    def _note_codes(self, zones: list[Swept]) -> None:
        differing = set()
        for zone in zones:
            for name, projection in all_projections().items():
                code = zone.codes.get(name, projection.code)
                if code != projection.code:
                    differing.add((zone.zone, name))
                    patience_s = OLDER_CODE_AFTER_S if _is_newer(code, projection.code) else 0.0
                    self._due.setdefault((zone.zone, name), time.monotonic() + patience_s)
        for place in self._due.keys() - differing:
            self._due.pop(place, None)

    def run_rebuilds(self) -> None:
        """A thread: rebuild what is due, one projection after another."""
        while not self._stopping.wait(SWEEP_EVERY_S):
            for (zone, name), due in list(self._due.items()):
                if due <= time.monotonic() and not self._stopping.is_set():
                    self._rebuild(zone, name)

    def _rebuild(self, zone: str, name: str) -> None:
        # A sweep that still sees the old code must not ask for it twice.
        self._due[zone, name] = time.monotonic() + REBUILD_AGAIN_S
        log.info("rebuild_begins", zone=zone, projection=name)
        try:
            projection = all_projections()[name]
            rebuild(lambda: self._connect(False), zone, projection, self._progress)
            with self._connect(False) as connection:
                sweep(connection, zone, projection)
        except (psycopg.Error, *DATA, HandlerFailed) as error:
            # Two workers may begin the same rebuild; one of them fails here, and the other one does the work.
            log.warning("rebuild_failed", zone=zone, projection=name, error=str(error))
        except Stopping:
            log.info("rebuild_given_up", zone=zone, projection=name)

    def _progress(self, done: int, total: int) -> None:
        if self._stopping.is_set():
            raise Stopping


class Stopping(Exception):
    """The process stops; a rebuild that is under way is discarded, and begun again by the next worker."""


def _is_newer(code: str, mine: str) -> bool:
    return _numbers(code) > _numbers(mine)


def _numbers(code: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", code)]
