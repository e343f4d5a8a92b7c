"""`fogbook verify`: stored bytes are hashed again, laws and signatures checked, and every fold is done again.

All of it sees one snapshot of the database, so it may run beside everything else. What differs is named by its
position or command, or by its table, row and field.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from commands._codec import decode_event, microseconds
from ops.verify._book import Book, Standing
from ops.verify._found import Difference, Found, Tick
from ops.verify._keys import Known, check_keys, known_logs, sort_held
from ops.verify._log import POSTGRES_EPOCH_US, walk
from ops.verify._models import attested_models, check_projection
from ops.verify._past import check_past
from ops.verify._readers import Readers
from ops.verify._receipts import verify_receipt
from ops.verify._resume import Memory
from ops.verify._snapshots import batches, check_snapshots
from ops.verify._spans import Span, spans
from ops.verify._timers import check_timers
from ops.verify._trees import Held, ResumedElsewhere
from projections._engine import all_projections

__all__ = ["Difference", "Found", "verify", "verify_receipt"]

KEEP_EVERY_S = 10.0
SPREAD_ABOVE = 50_000
"""Events to read or fold, from which on it pays to start processes."""

# Zones that have a head, and those that lost it, or all but what was signed of them: a scan that jumps from one zone to
# the next.
ZONES = """
WITH RECURSIVE found(zone) AS (
    (SELECT least((SELECT min(zone) FROM heads), (SELECT min(zone) FROM events), (SELECT min(zone) FROM commands),
                  (SELECT min(zone) FROM trees)))
    UNION ALL
    SELECT least((SELECT min(zone) FROM heads h WHERE h.zone > found.zone),
                 (SELECT min(zone) FROM events e WHERE e.zone > found.zone),
                 (SELECT min(zone) FROM commands c WHERE c.zone > found.zone),
                 (SELECT min(zone) FROM trees t WHERE t.zone > found.zone))
    FROM found WHERE found.zone IS NOT NULL
)
SELECT zone, h.position, h.number, h.recorded_at FROM found LEFT JOIN heads h USING (zone)
WHERE zone IS NOT NULL AND (%s::text IS NULL OR zone = %s) ORDER BY zone
"""


CLOCK = """
SELECT h.clock, e.data FROM heads h JOIN events e ON e.zone = h.zone AND e.position = 1 AND e.type = 'ZoneCreated'
WHERE h.zone = %s
"""


def verify(
    connect: Callable[[], psycopg.Connection[Any]],
    zone: str | None,
    tick: Tick,
    *,
    processes: int = 1,
    spread_above: int = SPREAD_ABOVE,
    deep: bool = False,
    held: Sequence[tuple[str, str]] = (),
    vkeys: Sequence[str] = (),
    pepper: bytes | None = None,
    resume: Path | None = None,
    models: bool = True,
) -> Found:
    """Verify one zone, or all of them. Raises Refused where `held`, `vkeys` or `resume` cannot be used.

    `held`: names and texts of checkpoints that were kept elsewhere; `vkeys`: keys to trust beside the zones' own;
    `deep`: every attestation of a read model, not the newest only; `models=False`: the logs alone, nothing that is
    folded from them (snapshots and read models).
    """
    found = Found()
    memory = Memory(resume)
    with connect() as connection, connection.transaction(), Readers(connection) as readers:
        zones = connection.execute(ZONES, (zone, zone)).fetchall()
        known = known_logs(connection, [row[0] for row in zones], pepper, vkeys, found)
        by_log = sort_held(held, known, zone)
        projections = 2 * len(all_projections()) if models else 0  # Their rows, and their past ones.
        total = sum(row[1] or 0 for row in zones) * (1 + projections)
        if total > spread_above:
            readers.spread(processes)
        done = 0
        for name, *head in zones:

            def ahead(more: int, before: int = done) -> None:
                tick(before + more, total)

            one = _Zone(connection, readers, name, found, memory, ahead)
            one.run(
                head, known, {log: by_log.get((name, log), []) for log in ("events", "fates")}, deep, models
            )
            done += (head[0] or 0) * (1 + projections)
            tick(done, total)
    return found


class _Zone:
    def __init__(
        self,
        connection: psycopg.Connection[Any],
        readers: Readers,
        zone: str,
        found: Found,
        memory: Memory,
        ahead: Callable[[int], None],
    ) -> None:
        self._connection = connection
        self._readers = readers
        self._zone = zone
        self._found = found
        self._memory = memory
        self._ahead = ahead

    def run(
        self, head: Sequence[Any], known: Known, held: dict[str, list[Held]], deep: bool, models: bool
    ) -> None:
        zone, found = self._zone, self._found
        position, number, at = head
        if position is None:
            found.add(zone, "it has no head", table="heads", row=[zone])
            position, number = 0, 0
        before = found.count
        begin = self._memory.begin(zone)
        try:
            book = Book(self._connection, zone, known.keys(zone), held, found, begin)
        except ResumedElsewhere as error:
            found.add(zone, f"{error}", begin.position)
            begin = Standing()
            book = Book(self._connection, zone, known.keys(zone), held, found, begin)
        self._walk(book, begin, position, number, before)
        at_us = microseconds(at) - POSTGRES_EPOCH_US if at is not None else 0
        book.finish(position, number, at_us)
        if begin == Standing():  # Otherwise what was attested of keys lies before.
            check_keys(zone, known, book.attestations, found)
        self._check_clock()
        self._keep(book, before)
        if models:
            self._snapshots(position)
            self._models(book, position, deep, whole=begin == Standing())

    def _snapshots(self, head: int) -> None:
        tasks = ((self._zone, names, head) for names in batches(self._connection, self._zone))
        for each in self._readers.map(check_snapshots, tasks):
            self._found.take(each)

    def _check_clock(self) -> None:
        """A clock that is called manual lets operators name the time."""
        row = self._connection.execute(CLOCK, (self._zone,)).fetchone()
        if row is None:
            return  # Another application's zone.
        try:
            created = decode_event("ZoneCreated", row[1])
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return  # That it cannot be read was said.
        if created is not None and created.clock != row[0]:
            what = f"the zone was created with another clock: {created.clock}"
            self._found.add(self._zone, what, table="heads", row=[self._zone], field="clock")

    def _walk(self, book: Book, begin: Standing, position: int, number: int, before: int) -> None:
        span = Span(begin.position, position, begin.number, number)
        kept = time.monotonic()
        for walked in self._readers.map(walk, self._spans(span)):
            book.take(walked)
            self._ahead(min(walked.last, position))
            if self._memory and time.monotonic() - kept > KEEP_EVERY_S:
                self._keep(book, before)
                kept = time.monotonic()

    def _spans(self, begin: Span) -> Iterator[tuple[str, Span]]:
        return ((self._zone, span) for span in spans(self._connection, self._zone, begin))

    def _keep(self, book: Book, before: int) -> None:
        """Only what is well may be left out the next time."""
        if self._found.count == before:
            self._memory.keep(self._zone, book.standing())
        else:
            self._memory.forget(self._zone)

    def _models(self, book: Book, head: int, deep: bool, *, whole: bool) -> None:
        attested = attested_models(self._zone, book.attestations, deep, self._found)
        tasks = [(self._zone, name, head, attested.pop(name, [])) for name in all_projections()]
        for done, each in enumerate(self._readers.map(check_projection, tasks), 1):
            self._found.take(each)
            self._ahead(head * (1 + done))
        said = attested_models(self._zone, book.attestations, True, Found()) if whole else {}
        past = [(self._zone, name, head, said.get(name, []) if whole else None) for name in all_projections()]
        for done, each in enumerate(self._readers.map(check_past, past), len(tasks) + 1):
            self._found.take(each)
            self._ahead(head * (1 + done))
        check_timers(self._connection, self._zone, self._found)
        for name, sayings in attested.items():
            what = f"{len(sayings)} attestations of {name}, a projection that is no more"
            self._found.leave(self._zone, what, len(sayings))
