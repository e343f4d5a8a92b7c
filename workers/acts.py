"""Acts of operators on read models: each is done once, or it is said why not.

What is to be done stands in the read model `operations`, what became of it in `act_fates`. A worker claims an act for
some seconds and keeps the claim while it is at work; one that ran out was a dead worker's, and another begins anew.
That an act is done is said in the transaction that makes the new rows live, so it is done once however often one dies
over it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
import structlog

from projections._engine import HandlerFailed, Projection, Record, all_projections
from projections._quarantine import CAREFUL_LIMIT_S, plain, told
from projections._rebuild import rebuild, sweep
from projections._stored import DATA, DigestLost, StoredRows, flush_one, fold_batch
from projections._watchdog import watchdog

LOOK_EVERY_S = 0.5
CLAIM_S = 10.0
KEEP_EVERY_S = 1.0
MOST_ATTEMPTS = 3
"""So many workers may die over an act."""
MOST_A_TURN = 20

DUE = """
SELECT a.zone, a.act, a.projection, a.kind, a.event, a.cancelled, coalesce(f.attempts, 0)
FROM read.operations_acts a
JOIN checkpoints o ON (o.zone, o.generation) = (a.zone, a.generation) AND o.projection = 'operations' AND o.live
LEFT JOIN act_fates f ON (f.zone, f.act) = (a.zone, a.act)
WHERE a.kind <> '' AND (f.act IS NULL OR (f.state = 'running' AND f.claimed_until < clock_timestamp()))
ORDER BY a.zone, a.asked LIMIT %s
"""

CLAIM = """
INSERT INTO act_fates AS f (zone, act, state, claimed_until)
VALUES (%s, %s, 'running', clock_timestamp() + make_interval(secs => %s))
ON CONFLICT (zone, act) DO UPDATE SET attempts = f.attempts + 1, claimed_until = excluded.claimed_until
WHERE f.state = 'running' AND f.claimed_until < clock_timestamp()
RETURNING attempts
"""

KEEP = """
UPDATE act_fates f
SET claimed_until = clock_timestamp() + make_interval(secs => %s), position = %s, head = %s
WHERE zone = %s AND act = %s AND state = 'running'
"""

CANCELLED = """
SELECT a.cancelled FROM read.operations_acts a
JOIN checkpoints o ON (o.zone, o.generation) = (a.zone, a.generation) AND o.projection = 'operations' AND o.live
WHERE a.zone = %s AND a.act = %s
"""

END = """
UPDATE act_fates SET state = %s, error = %s, ended_at = clock_timestamp(), position = greatest(position, %s)
WHERE zone = %s AND act = %s AND state = 'running'
"""

LET_GO = """
UPDATE act_fates SET claimed_until = 'epoch', attempts = attempts - 1 WHERE zone = %s AND act = %s AND state = 'running'
"""

SET_ASIDE = """
SELECT q.position, c.generation FROM quarantine q JOIN checkpoints c USING (zone, projection, generation)
WHERE q.zone = %s AND q.projection = %s AND c.live AND q.quarantined
"""

EVENT = """
SELECT position, stream, version, type, data, meta, recorded_at FROM events WHERE zone = %s AND position = %s
"""

NOTE = """
UPDATE quarantine SET attempts = attempts + 1, error = %s, stack = %s
WHERE zone = %s AND projection = %s AND generation = %s AND position = %s AND quarantined
"""

NOT_SET_ASIDE = "This read model has not set the event aside."
DIED = "The workers died that tried it."

Connect = Callable[[bool], psycopg.Connection[Any]]
"""Gives an autocommit connection, bounded or for long work."""

log = structlog.get_logger("fogbook.workers")


class Due(NamedTuple):
    zone: str
    act: str
    projection: str
    kind: str
    event: int
    cancelled: bool
    attempts: int


class Cancelled(Exception):
    """An operator gave the act up."""


class Stopping(Exception):
    """The process stops; another worker begins anew."""


class Refused(Exception):
    """There is nothing that could be done; the message says why."""


class Acts:
    """One thread does what is due, one act after another."""

    def __init__(self, connect: Connect, stopping: threading.Event) -> None:
        self._connect = connect
        self._stopping = stopping

    def run(self) -> None:
        """Until told to stop, whatever is away meanwhile."""
        connection: psycopg.Connection[Any] | None = None
        while not self._stopping.wait(LOOK_EVERY_S):
            try:
                connection = connection or self._connect(True)
                self.turn(connection)
            except psycopg.Error as error:
                log.warning("acts_not_done", error=str(error))
                _close(connection)
                connection = None
        _close(connection)

    def turn(self, connection: psycopg.Connection[Any]) -> int:
        """Do what is due; returns how many acts were taken."""
        taken = 0
        for row in connection.execute(DUE, (MOST_A_TURN,)).fetchall():
            due = Due(*row)
            if self._stopping.is_set():
                break
            if due.projection in all_projections() and _claimed(connection, due):
                taken += 1
                self._take(connection, due)
        return taken

    def _take(self, connection: psycopg.Connection[Any], due: Due) -> None:
        """Do one act, and say what became of it. Where the database fails, its claim runs out: it is tried again."""
        where = {"zone": due.zone, "act": due.act, "kind": due.kind, "projection": due.projection}
        log.info("act_begins", **where)
        try:
            if due.cancelled:
                raise Cancelled
            if due.attempts >= MOST_ATTEMPTS:
                raise Refused(DIED)
            _Doing(self._connect, self._stopping, due).run(connection)
        except Stopping:
            connection.execute(LET_GO, (due.zone, due.act))
        except Cancelled:
            _end(connection, due, "cancelled")
        except Refused as refused:
            _end(connection, due, "failed" if str(refused) == DIED else "refused", str(refused))
        except HandlerFailed as failed:
            reason, _ = told(failed)
            _end(connection, due, "failed", f"{failed}: {reason}")
            log.warning("act_failed", error=f"{failed}: {reason}", **where)
        except DATA as error:
            reason = f"No table takes the rows that it made: {plain(repr(error))}"
            _end(connection, due, "failed", reason)
            log.warning("act_failed", error=reason, **where)
        except DigestLost:
            _end(connection, due, "failed", "The digest of its rows was lost meanwhile.")
        else:
            _end(connection, due, "done")
            log.info("act_done", **where)


class _Doing:
    """One act under way."""

    def __init__(self, connect: Connect, stopping: threading.Event, due: Due) -> None:
        self._connect = connect
        self._stopping = stopping
        self._due = due
        self._projection: Projection = all_projections()[due.projection]
        self._progress = (0, 0)
        self._cancelled = False

    def run(self, connection: psycopg.Connection[Any]) -> None:
        """Raises Refused, Cancelled, Stopping, HandlerFailed and DigestLost."""
        due = self._due
        aside = dict(connection.execute(SET_ASIDE, (due.zone, due.projection)).fetchall())
        if due.kind in ("retry", "discard") and due.event not in aside:
            raise Refused(NOT_SET_ASIDE)
        if (due.kind == "repair" and not aside) or (due.kind == "reinstate" and due.event not in aside):
            return
        with self._kept():
            if due.kind == "retry":
                self._try(connection, aside[due.event])
            but = due.event if due.kind in ("retry", "discard", "reinstate") else None
            rebuild(lambda: self._connect(False), due.zone, self._projection, self._told, but, self._swapped)
        with self._connect(False) as own:
            sweep(own, due.zone, self._projection)

    def _try(self, connection: psycopg.Connection[Any], generation: int) -> None:
        """Whether the event is digested by now: on today's rows, and nothing is kept of it."""
        due = self._due
        row = connection.execute(EVENT, (due.zone, due.event)).fetchone()
        assert row is not None, "what was set aside is in the log"
        rows, record = StoredRows(self._projection, due.zone, generation), Record(*row)
        try:
            with connection.transaction(force_rollback=True), watchdog(CAREFUL_LIMIT_S):
                fold_batch(connection, rows, [record])
                flush_one(connection, rows, record)
        except HandlerFailed as failed:
            place = (due.zone, due.projection, generation, due.event)
            connection.execute(NOTE, (*told(failed), *place))
            raise

    def _told(self, done: int, total: int) -> None:
        self._progress = (done, total)
        if self._cancelled:
            raise Cancelled
        if self._stopping.is_set():
            raise Stopping

    def _swapped(self, connection: psycopg.Connection[Any]) -> None:
        """In the transaction that makes the new rows live: who gave it up before is heard, who does so later is not."""
        if _is_cancelled(connection, self._due):
            raise Cancelled
        _end(connection, self._due, "done", "", self._progress[1])

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep the claim, and tell how far it is, for as long as this thread is at work."""
        over = threading.Event()
        thread = threading.Thread(target=self._keep, args=(over,), name="act", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(KEEP_EVERY_S)

    def _keep(self, over: threading.Event) -> None:
        connection: psycopg.Connection[Any] | None = None
        place = (self._due.zone, self._due.act)
        while not over.wait(KEEP_EVERY_S):
            try:
                connection = connection or self._connect(True)
                connection.execute(KEEP, (CLAIM_S, *self._progress, *place))
                self._cancelled = _is_cancelled(connection, self._due)
            except psycopg.Error as error:
                log.warning("act_not_kept", act=self._due.act, error=str(error))
                _close(connection)
                connection = None
        _close(connection)


def _claimed(connection: psycopg.Connection[Any], due: Due) -> bool:
    return connection.execute(CLAIM, (due.zone, due.act, CLAIM_S)).fetchone() is not None


def _is_cancelled(connection: psycopg.Connection[Any], due: Due) -> bool:
    row = connection.execute(CANCELLED, (due.zone, due.act)).fetchone()
    return row is not None and bool(row[0])


def _end(
    connection: psycopg.Connection[Any], due: Due, state: str, error: str = "", position: int = 0
) -> None:
    connection.execute(END, (state, error, position, due.zone, due.act))


def _close(connection: psycopg.Connection[Any] | None) -> None:
    if connection is not None:
        connection.close()
