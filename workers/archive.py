"""The archive of past rows: follows all projections of all zones, some chunks behind, in a process of its own.

It may be away for any time: what it missed is in the log. Meanwhile questions as of a position that it has not
reached wait, and say how far it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import psycopg
import structlog

from projections._archives import Archives, Place

LOOK_EVERY_S = 0.2
MOST_PAUSE_S = 5.0
FAILED_PAUSE_S = 60.0
"""What is broken is not tried again sooner: a projection of a zone, or all of them where its log cannot be read."""

log = structlog.get_logger("fogbook.archive")


class Archive:
    """One thread. `connect` gives autocommit connections for long work."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], stopping: threading.Event) -> None:
        self._connect = connect
        self.stopping = stopping
        self._connection: psycopg.Connection[Any] | None = None
        self._archives: Archives | None = None
        self._failed: dict[tuple[str, str], float] = {}
        """Until when a place is left alone."""

    def run(self) -> None:
        """Archive until told to stop; a database that is away is waited for."""
        pause_s = 0.0
        while not self.stopping.wait(pause_s):
            try:
                pause_s = 0.0 if self.turn() else LOOK_EVERY_S
            except psycopg.Error as error:
                log.warning("archive_waits", error=str(error))
                pause_s = min(2 * max(pause_s, LOOK_EVERY_S), MOST_PAUSE_S)
        self.close()

    def turn(self) -> bool:
        """A chunk for each place that is behind; True when there may be more. Raises psycopg.Error."""
        try:
            if self._connection is None or self._archives is None:
                self._connection = self._connect()
                self._archives = Archives(self._connection)
            return self._turn(self._archives)
        except psycopg.Error:
            self.close()
            raise

    def _turn(self, archives: Archives) -> bool:
        moved = False
        now = time.monotonic()
        places = [p for p in archives.look() if self._failed.get((p.zone, p.projection), 0.0) <= now]
        due = []
        for place in places:
            if self.stopping.is_set():
                return False
            try:
                if archives.begin(place) or archives.sweep(place):
                    moved = True
                elif place.live_position > place.position:
                    due.append(place)
                else:
                    moved = archives.swap(place) or moved
            except Exception as error:
                self._pause([place], error)
        due.sort(key=_where)
        for (zone, position), group in groupby(due, _where):
            moved = self._advance(archives, zone, position, list(group)) or moved
        return moved

    def _advance(self, archives: Archives, zone: str, position: int, group: list[Place]) -> bool:
        """Places that stand together share what is read."""
        if self.stopping.is_set():
            return False
        try:
            records = archives.read(zone, position)
        except Exception as error:
            self._pause(group, error)
            return False
        moved = False
        for place in group:
            if self.stopping.is_set():
                return False
            try:
                moved = archives.advance(place, records) > 0 or moved
            except Exception as error:
                self._pause([place], error)
        return moved

    def _pause(self, places: Iterable[Place], error: Exception) -> None:
        """Somebody has to look at it; until then the other places go on. Raises the error where it is not theirs."""
        if self._connection is None or self._connection.closed:
            raise error
        for place in places:
            self._failed[place.zone, place.projection] = time.monotonic() + FAILED_PAUSE_S
            log.critical(
                "archive_failed",
                zone=place.zone,
                projection=place.projection,
                kind=type(error).__name__,
                at=str(error),
                error=repr(error.__cause__),
            )

    def close(self) -> None:
        connection, self._connection, self._archives = self._connection, None, None
        if connection is not None:
            connection.close()


def _where(place: Place) -> tuple[str, int]:
    return place.zone, place.position
