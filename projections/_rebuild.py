"""Blue/green rebuild: the next generation folds from position 0 beside the live one, catches up, and is swapped.

Queries see the old generation until one transaction makes the new one live, at a position that is not lower.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice, starmap
from operator import attrgetter
from typing import Any

import psycopg
import structlog
from psycopg import sql

from projections import _digest
from projections._aside import Aside
from projections._digest import row_lines
from projections._engine import HistoryRows, Projection, Record, Rows
from projections._follower import HEAD, ensure_checkpoints, read_tail
from projections._stored import StoredRows, copying, flush
from projections._tables import Row, Table, table_of

CHUNK = 5_000
DELETE_CHUNK = 10_000

log = structlog.get_logger("fogbook.projections")

PAGE = 20_000
"""Events of one statement, so that none holds its snapshot for long."""
CHUNK_READ = 1_000
"""Rows that libpq hands over at once. That costs this process half of what a whole page does, whose memory is new each
time, and a third of what it costs to take row after row out of a COPY."""
HISTORY = """
SELECT position, stream, version, type, data, meta, recorded_at FROM events
WHERE zone = %s AND position > %s AND position <= %s AND type = ANY(%s) ORDER BY position
"""
SORT = "SELECT set_config('enable_sort', %s, false)"
"""An index has the events in their order. PostgreSQL would rather find a page's events and sort them, which takes it
four times as long, on disk where it has no statistics yet; and the first one comes when the last one is read."""

NEXT_GENERATION = """
INSERT INTO checkpoints (zone, projection, generation, code, live)
SELECT %s, %s, max(generation) + 1, %s, false FROM checkpoints WHERE zone = %s AND projection = %s
RETURNING generation
"""

PUT = """
UPDATE checkpoints SET position = %s, updated_at = clock_timestamp(),
    recorded_at = coalesce((SELECT recorded_at FROM events WHERE zone = %s AND position = %s), recorded_at)
WHERE zone = %s AND projection = %s AND generation = %s AND position = %s
"""

LOCK_BOTH = """
SELECT generation, position FROM checkpoints
WHERE zone = %s AND projection = %s AND (live OR generation = %s) ORDER BY generation FOR UPDATE
"""

# Two statements in this order: only one generation may be live at a time, at the end of each.
RETIRE = "UPDATE checkpoints SET live = false, tenure = NULL WHERE zone = %s AND projection = %s AND live"
PROMOTE = "UPDATE checkpoints SET live = true WHERE zone = %s AND projection = %s AND generation = %s"
DROP_OTHERS = "DELETE FROM checkpoints WHERE zone = %s AND projection = %s AND NOT live AND generation < %s"
DROP_MISSING = "DELETE FROM quarantine WHERE zone = %s AND projection = %s AND generation = %s"
DROP_QUARANTINE = "DELETE FROM quarantine WHERE zone = %s AND projection = %s AND generation < %s"


def rebuild(
    connect: Callable[[], psycopg.Connection[Any]],
    zone: str,
    projection: Projection,
    progress: Callable[[int, int], None] = lambda done, total: None,
    but: int | None = None,
    swapped: Callable[[psycopg.Connection[Any]], None] = lambda connection: None,
) -> int:
    """Build the next generation and make it live; returns the position it reached.

    What older generations left behind nobody reads any more; `sweep` removes it. Events that were discarded are left
    out. `but` is the position of one that is set aside: then only its stream is taken in again, and what is set aside
    in others stays so. `swapped` is called in the transaction that makes the generation live.

    Raises HandlerFailed when a handler still raises: then the live generation stays as it is.
    """
    with connect() as connection:
        ensure_checkpoints(connection, zone)
        row = connection.execute(
            NEXT_GENERATION, (zone, projection.name, projection.code, zone, projection.name)
        ).fetchone()
        assert row is not None
        generation = int(row[0])
        try:
            aside = Aside.of(connection, zone, projection.name, but)
            _fold_history(connect, connection, zone, projection, generation, progress, aside)
            position = _catch_up_and_swap(connection, zone, projection, generation, aside, swapped)
        except BaseException:
            _discard(connection, zone, projection, generation)
            raise
        log.info("rebuilt", zone=zone, projection=projection.name, generation=generation, position=position)
        return position


def _fold_history(
    connect: Callable[[], psycopg.Connection[Any]],
    connection: psycopg.Connection[Any],
    zone: str,
    projection: Projection,
    generation: int,
    progress: Callable[[int, int], None],
    aside: Aside,
) -> None:
    """Fold everything up to today's head in memory, while the rows go out by COPY, a connection a table.

    So PostgreSQL stores rows while the next ones are folded. The checkpoint moves when all of them are in; a
    generation that was given up half way has none that counts, and is swept by the next rebuild.
    """
    row = connection.execute(HEAD, (zone,)).fetchone()
    head = int(row[0]) if row else 0
    with ExitStack() as copies, _digest.Sum() as digest, paused_collector():
        waiting: list[Batch] = []

        def writer(rows: Rows, kind: type[Row]) -> Callable[[Row], None]:
            copy = copies.enter_context(copying(copies.enter_context(connect()), rows, kind))
            waiting.append(Batch(kind, copy, digest))
            return waiting[-1].add

        rows = HistoryRows(projection, zone, generation, writer)
        reader = copies.enter_context(connect())
        records = history(reader, zone, head, list(projection.handlers), ahead=True)
        while chunk := list(islice(records, CHUNK)):
            aside.fold(rows, chunk)
            for batch in waiting:
                batch.write()
            progress(chunk[-1].position, head)
        rows.write_kept()
        for batch in waiting:
            batch.write()
        accumulator = digest.result()
    with connection.transaction():
        _digest.store(connection, zone, [(projection.name, generation, accumulator)])
        aside.store(connection, (zone, projection.name, generation))
        connection.execute(PUT, (head, zone, head, zone, projection.name, generation, 0))
    progress(head, head)


class Batch:
    """New rows of a table, on their way into the digest and into the table. There they go in the order of their
    keys, as far as a chunk's rows can: rows that are neighbours in an index share its pages."""

    def __init__(self, kind: type[Row], copy: Callable[[Iterable[Row]], None], digest: _digest.Sum) -> None:
        table = table_of(kind)
        self._waiting: list[Row] = []
        self.add = self._waiting.append
        self._copy, self._digest = copy, digest
        self._lines_of, self._order = row_lines(table), attrgetter(table.key[0])

    def write(self) -> None:
        self._digest.add(self._lines_of(self._waiting))
        self._waiting.sort(key=self._order)
        self._copy(self._waiting)
        self._waiting.clear()


@contextmanager
def paused_collector() -> Iterator[None]:
    """A fold makes very many objects and no cycles; looking for cycles among them would cost a fifth of it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def history(
    connection: psycopg.Connection[Any], zone: str, upto: int, types: list[str], ahead: bool = False
) -> Iterator[Record]:
    """All events of the given types up to a position. With `ahead` PostgreSQL reads on while events are folded, and
    nothing else may be asked of the connection meanwhile."""
    with connection.cursor(binary=True) as cursor:
        for after in range(0, upto, PAGE):
            cursor.execute(SORT, ("off",))
            page: Iterable[Any] = cursor.stream(
                HISTORY, (zone, after, min(after + PAGE, upto), types), size=CHUNK_READ
            )
            if not ahead:
                page = list(page)
                cursor.execute(SORT, ("on",))
            yield from starmap(Record, page)


def _catch_up_and_swap(
    connection: psycopg.Connection[Any],
    zone: str,
    projection: Projection,
    generation: int,
    aside: Aside,
    swapped: Callable[[psycopg.Connection[Any]], None],
) -> int:
    """Follow the log until the end is near, then finish and swap under both checkpoints' locks."""
    rows = StoredRows(projection, zone, generation)
    while _step(connection, rows, aside) > 0:
        pass
    with connection.transaction():
        locked = dict(connection.execute(LOCK_BOTH, (zone, projection.name, generation)).fetchall())
        live = max((position for g, position in locked.items() if g != generation), default=0)
        while locked[generation] < live:
            _step(connection, rows, aside)
            locked = dict(connection.execute(LOCK_BOTH, (zone, projection.name, generation)).fetchall())
        connection.execute(RETIRE, (zone, projection.name))
        connection.execute(PROMOTE, (zone, projection.name, generation))
        swapped(connection)
        return int(locked[generation])


def _step(connection: psycopg.Connection[Any], rows: Any, aside: Aside) -> int:
    name, zone, generation = rows.projection.name, rows.zone, rows.generation
    with connection.transaction():
        row = connection.execute(
            "SELECT position FROM checkpoints WHERE zone = %s AND projection = %s AND generation = %s FOR UPDATE",
            (zone, name, generation),
        ).fetchone()
        assert row is not None
        records = read_tail(connection, zone, row[0])
        if records:
            aside.fold_batch(connection, rows, records)
            aside.store(connection, (zone, name, generation))
            flush(connection, rows)
            last = records[-1].position
            connection.execute(PUT, (last, zone, last, zone, name, generation, row[0]))
        return len(records)


def _discard(connection: psycopg.Connection[Any], zone: str, projection: Projection, generation: int) -> None:
    connection.execute(
        "DELETE FROM checkpoints WHERE zone = %s AND projection = %s AND generation = %s AND NOT live",
        (zone, projection.name, generation),
    )
    connection.execute(DROP_MISSING, (zone, projection.name, generation))
    connection.execute(_digest.DROP, (zone, projection.name, generation))
    for table in projection.tables:
        _delete_rows(connection, table, zone, "=", generation)


def sweep(connection: psycopg.Connection[Any], zone: str, projection: Projection) -> None:
    """Remove what generations before the live one left behind."""
    row = connection.execute(
        "SELECT generation FROM checkpoints WHERE zone = %s AND projection = %s AND live",
        (zone, projection.name),
    ).fetchone()
    assert row is not None, "it was rebuilt"
    connection.execute(DROP_OTHERS, (zone, projection.name, row[0]))
    connection.execute(DROP_QUARANTINE, (zone, projection.name, row[0]))
    connection.execute(_digest.DROP_BEFORE, (zone, projection.name, row[0]))
    for table in projection.tables:
        _delete_rows(connection, table, zone, "<", row[0])


def _delete_rows(
    connection: psycopg.Connection[Any], table: Table, zone: str, comparison: str, generation: int
) -> None:
    statement = sql.SQL(
        "DELETE FROM {table} WHERE ctid = ANY(ARRAY("
        "SELECT ctid FROM {table} WHERE zone = %s AND generation {comparison} %s LIMIT %s))"
    ).format(table=sql.SQL(table.name), comparison=sql.SQL(comparison))
    while connection.execute(statement, (zone, generation, DELETE_CHUNK)).rowcount:
        pass
