"""The archive of past rows: every version that the history gives once more, against every version that is stored.

Versions are many, so they are compared by sums first: each is hashed with a key that nobody knows before the run, and
the hashes are added up in buckets. Where a bucket differs, the fold is done again to name what is in it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b, sha256
from itertools import islice
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
import psycopg
from psycopg import sql

from commands._codec import EPOCH, decode_json
from ops.verify._found import Found
from ops.verify._models import AT, Attested, ends_command
from ops.verify._spans import decode_meta
from projections._archive import OPEN, OPEN_NODE, PastRows, fold_past, past_name
from projections._digest import row_bytes
from projections._engine import HandlerFailed, Projection, Record, all_projections
from projections._follower import FOLD_LIMIT_S
from projections._rebuild import history, paused_collector
from projections._tables import Table, from_sql, table_of
from projections._watchdog import HandlerHung, watchdog

BUCKETS = 1_024
FLUSH_EVERY = 1_000
ROWS_A_FETCH = 2_000

LIVE = """
SELECT generation, code, position, recorded_at FROM archives WHERE zone = %s AND projection = %s AND live
"""

SET_ASIDE = """
SELECT q.position, q.error FROM quarantine q JOIN checkpoints c USING (zone, projection, generation)
WHERE zone = %s AND projection = %s AND c.live AND q.quarantined AND q.position <= %s ORDER BY q.position
"""


class Version(NamedTuple):
    row: bytes
    since: int
    until: int
    node: int


class Sums:
    """Sums over versions, by table and bucket."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._sums: dict[tuple[str, int], int] = {}

    def add(self, table: str, version: Version, sign: int) -> None:
        hashed = blake2b(b"%b %d %d %d" % version, key=self._key, digest_size=32).digest()
        place = table, bucket_of(version)
        self._sums[place] = self._sums.get(place, 0) + sign * int.from_bytes(hashed)

    def differing(self) -> set[tuple[str, int]]:
        return {place for place, sum in self._sums.items() if sum}


def bucket_of(version: Version) -> int:
    return crc32(version.row) % BUCKETS


class _VersionsOf(PastRows):
    """Versions as bytes; whoever folds takes them away."""

    def __init__(self, projection: Projection, zone: str, generation: int) -> None:
        super().__init__(projection, zone, generation)
        for row in projection.rows:
            self._values[row] = _one(row_bytes(table_of(row)))

    def taken(self) -> Iterator[tuple[Table, Version]]:
        """The versions that are done."""
        for kind, versions in self.versions.items():
            table = table_of(kind)
            for each in versions.done:
                yield table, Version(*each)
            versions.done.clear()

    def open(self) -> Iterator[tuple[Table, Version]]:
        """The versions that last; after `write_open` there is nothing left."""
        for kind, versions in self.versions.items():
            for since, (row,) in versions.begun.values():
                yield table_of(kind), Version(row, since, OPEN, OPEN_NODE)


def _one(encode: Callable[[Any], bytes]) -> Callable[[Any], tuple[Any, ...]]:
    return lambda row: (encode(row),)


def check_past(
    connection: psycopg.Connection[Any], zone: str, name: str, head: int, attested: list[Attested] | None
) -> Found:
    """One projection's archive, as far as it has come. `attested`: all that was ever said of the projection, unless
    some of that lies before what is verified."""
    found = Found()
    live = connection.execute(LIVE, (zone, name)).fetchone()
    if live is None:
        return found  # The archivist has not come by yet.
    generation, code, position, recorded_at = live
    projection = all_projections()[name]
    if not 0 <= position <= head:
        what = "the archive is beyond the log's end"
        found.add(zone, what, position, table="archives", row=[zone, name], field="position")
        return found
    stands = connection.execute(AT, (zone, position)).fetchone()
    if recorded_at != (stands[0] if stands else EPOCH):
        what = "the archive has another time than its event"
        found.add(zone, what, position, table="archives", row=[zone, name], field="recorded_at")
    if stands is not None and not ends_command(stands[1]):
        what = "the archive stands in the middle of a command"
        found.add(zone, what, position, table="archives", row=[zone, name], field="position")
    if code.partition("-")[0] != projection.code:
        what = f"its past rows were folded by other code ({code}): let the archivist build them anew, then verify"
        found.add(zone, what, position, table="archives", row=[zone, name], field="code")
        return found
    set_aside: dict[int, str] = dict(connection.execute(SET_ASIDE, (zone, name, position)).fetchall())
    if code != _code(projection.code, set_aside):
        # It is about to be built anew: other events were set aside, as was attested then.
        known = {_code(a.code, [p for p in a.quarantined if p <= position]) for a in attested or ()}
        if attested is not None and code not in known:
            what = "nothing was attested of such code"
            found.add(zone, what, position, table="archives", row=[zone, name], field="code")
        found.leave(
            zone, f"past rows of {name}: other events were set aside, they are about to be built anew"
        )
        return found
    try:
        with paused_collector(), connection.transaction():
            _Check(connection, zone, projection, generation, position, set_aside, found).run()
    except HandlerFailed as error:
        what = f"projection {name} cannot fold {error.record.type}: {error.__cause__!r}"
        found.add(zone, what, error.record.position)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, HandlerHung) as error:
        found.add(zone, f"projection {name} cannot read an event: {error!r}", position)
    return found


def _code(code: str, set_aside: Iterable[int]) -> str:
    """As the archivist has it: the handlers' code, and what was set aside."""
    positions = ",".join(map(str, set_aside))
    return f"{code}-{sha256(positions.encode()).hexdigest()[:16]}" if positions else code


class _Check:
    def __init__(
        self,
        connection: psycopg.Connection[Any],
        zone: str,
        projection: Projection,
        generation: int,
        position: int,
        set_aside: dict[int, str],
        found: Found,
    ) -> None:
        self._connection = connection
        self._zone = zone
        self._projection = projection
        self._generation = generation
        self._position = position
        self._set_aside = set_aside
        self._found = found

    def run(self) -> None:
        sums = Sums()
        for table, version in self._folded():
            sums.add(table.name, version, 1)
        for table, version in self._stored():
            self._found.rows += 1
            sums.add(table.name, version, -1)
        if differing := sums.differing():
            self._name(differing)

    def _folded(self) -> Iterator[tuple[Table, Version]]:
        """The versions that the history gives. Only events that are handled are read; where their command ends, their
        place in it says."""
        rows = _VersionsOf(self._projection, self._zone, self._generation)
        end, types = 0, list(self._projection.handlers)
        records = history(self._connection, self._zone, self._position, types)
        while run := list(islice(records, FLUSH_EVERY)):
            with watchdog(FOLD_LIMIT_S):
                for record in run:
                    if record.position > end:
                        if end:
                            rows.end_command(end)
                        end = _end_of(record)
                    fold_past(rows, (record,), self._set_aside)
                    if record.ends_command:
                        end = 0
            yield from rows.taken()
        if end:
            rows.end_command(end)
        yield from rows.taken()
        yield from rows.open()

    def _stored(self) -> Iterator[tuple[Table, Version]]:
        for table in self._projection.tables:
            encode = row_bytes(table)
            names = [*(c.name for c in table.columns), "position", "incomplete", "since", "until", "node"]
            statement = sql.SQL("SELECT {columns} FROM {table} WHERE zone = %s AND generation = %s").format(
                columns=sql.SQL(", ").join(map(sql.Identifier, names)), table=sql.SQL(past_name(table))
            )
            with self._connection.cursor("past", binary=True) as cursor:
                cursor.itersize = ROWS_A_FETCH
                cursor.execute(statement, (self._zone, self._generation))
                for *values, position, incomplete, since, until, node in cursor:
                    row = table.row(*map(from_sql, values))
                    row.position, row.incomplete = position, incomplete
                    yield table, Version(encode(row), since, until, node)

    def _name(self, differing: set[tuple[str, int]]) -> None:
        """What the differing buckets hold on one side only."""
        versions: dict[tuple[str, Version], Table] = {}
        for table, version in self._folded():
            if (table.name, bucket_of(version)) in differing:
                versions[table.name, version] = table
        strange = []
        for table, version in self._stored():
            is_known = (table.name, bucket_of(version)) not in differing
            if not is_known and versions.pop((table.name, version), None) is None:
                strange.append((table, version))
        missing = {(name, *_place(table, version)): version for (name, version), table in versions.items()}
        tables = {table.name: table for table in versions.values()}
        for table, version in strange:
            expected = missing.pop((table.name, *_place(table, version)), None)
            if expected is None:
                self._differs(table, version, "the log gives no such version")
            else:
                self._compare(table, version, expected)
        for (name, *_), version in missing.items():
            self._differs(tables[name], version, "the version is missing")

    def _compare(self, table: Table, stored: Version, expected: Version) -> None:
        names = [*(c.name for c in table.columns), "position", "incomplete", "until", "node"]
        both = [(*decode_json(each.row)[1:], each.until, each.node) for each in (stored, expected)]
        for name, value, wanted in zip(names, *both, strict=True):
            if value != wanted:
                what = f"stored is {value!r}, the log gives {wanted!r}"
                self._differs(table, expected, what, name)

    def _differs(self, table: Table, version: Version, what: str, field: str | None = None) -> None:
        row = list(_place(table, version))
        self._found.add(self._zone, what, version.since, table=past_name(table), row=row, field=field)


def _place(table: Table, version: Version) -> tuple[Any, ...]:
    """The row's key, and since when the version was valid."""
    return (*decode_json(version.row)[1 : 1 + len(table.key)], version.since)


def _end_of(record: Record) -> int:
    """Where the record's command ends."""
    known = decode_meta(record.meta) if record.meta else None
    return record.position + (known.n - known.i if known else 0)
