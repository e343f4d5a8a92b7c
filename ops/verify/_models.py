"""Read models: the history is folded once more, and rows, digests and what was attested of them are held against it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import psycopg

from commands._codec import decode_json
from ops.verify._aside import QUARANTINED, Aside, Ended, attempt, discarded_in
from ops.verify._book import Attestation, said_of
from ops.verify._found import Found
from projections._attestations import READ_MODEL
from projections._digest import MODULUS, expand, find, recompute, row_bytes, shown, stored_rows
from projections._engine import HandlerFailed, Projection, Record, Rows, all_projections, fold, keys_of
from projections._follower import FOLD_LIMIT_S
from projections._quarantine import CAREFUL_LIMIT_S, DIED, HUNG, RAISED
from projections._rebuild import history, paused_collector
from projections._tables import Row, Table, table_of
from projections._watchdog import HandlerHung, watchdog

LIVE = """
SELECT generation, position, code, recorded_at FROM checkpoints WHERE zone = %s AND projection = %s AND live
"""

AT = "SELECT recorded_at, meta FROM events WHERE zone = %s AND position = %s"

MOST_SHOWN = 20
RUN = 500
"""Events that are folded under one limit of time."""


class Live(NamedTuple):
    generation: int
    position: int
    code: str
    recorded_at: datetime


class Attested(msgspec.Struct):
    """What an attestation says of a read model."""

    projection: str
    generation: int
    code: str
    position: int
    digest: str
    quarantined: list[int]
    quarantined_more: int = 0


_decode = msgspec.json.Decoder(Attested).decode


def attested_models(
    zone: str, attestations: Iterable[Attestation], deep: bool, found: Found
) -> dict[str, list[Attested]]:
    """The newest attestation of each projection, or all of them."""
    models: dict[str, list[Attested]] = {}
    for said in said_of(zone, attestations, READ_MODEL, _decode, found):
        known = models.setdefault(said.projection, [])
        if known and not deep:
            known.clear()
        known.append(said)
    return models


def check_projection(
    connection: psycopg.Connection[Any], zone: str, name: str, head: int, attested: list[Attested]
) -> Found:
    """One projection of a zone, as far as its checkpoint goes."""
    found = Found()
    with paused_collector():
        _Check(connection, zone, all_projections()[name], attested, found).run(head)
    return found


class _Check:
    def __init__(
        self,
        connection: psycopg.Connection[Any],
        zone: str,
        projection: Projection,
        attested: list[Attested],
        found: Found,
    ) -> None:
        self._connection = connection
        self._zone = zone
        self._projection = projection
        self._attested = attested
        self._found = found
        self._discarded: set[int] = set()

    def _differs(self, what: str, position: int | None = None, **where: Any) -> None:
        self._found.add(self._zone, what, position, **where)

    def run(self, head: int) -> None:
        name = self._projection.name
        row = self._connection.execute(LIVE, (self._zone, name)).fetchone()
        if row is None:
            if self._attested:
                self._differs(
                    "it was attested, and has no checkpoint", table="checkpoints", row=[self._zone, name]
                )
            return  # Otherwise a worker has not come by yet.
        live = Live(*row)
        if not self._is_plausible(live, head):
            return
        if live.code != self._projection.code:
            self._by_other_code(live)
            return
        asked = (self._zone, name, live.generation)
        aside = {position: Aside(*said) for position, *said in self._connection.execute(QUARANTINED, asked)}
        folded = Folded(self._projection, self._zone, live.generation)
        try:
            with self._connection.transaction():  # To leave a COPY early breaks what it runs in.
                self._fold(folded, live, aside)
        except HandlerFailed as error:
            what = f"projection {name} cannot fold {error.record.type}: {error.__cause__!r}"
            self._differs(what, error.record.position)
            return
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, HandlerHung) as error:
            self._differs(f"projection {name} cannot read an event: {error!r}", folded.rows.position)
            return
        self._check_digest(live, folded.digest())
        for kind in self._projection.rows:
            self._compare(live.generation, table_of(kind), folded.all_rows(kind))

    def _is_plausible(self, live: Live, head: int) -> bool:
        """A checkpoint stands at the end of a command that there is, and has its time."""
        where: dict[str, Any] = {"table": "checkpoints", "row": [self._zone, self._projection.name]}
        if not 0 <= live.position <= head:
            self._differs("the checkpoint is beyond the log's end", live.position, field="position", **where)
            return False
        at = self._connection.execute(AT, (self._zone, live.position)).fetchone()
        if at is not None:
            if at[0] != live.recorded_at:
                what = "the checkpoint has another time than its event"
                self._differs(what, live.position, field="recorded_at", **where)
            if not ends_command(at[1]):
                what = "the checkpoint stands in the middle of a command"
                self._differs(what, live.position, field="position", **where)
        return True

    def _by_other_code(self, live: Live) -> None:
        """Nobody can tell what other code did from what nobody did, so it differs until it was rebuilt."""
        where: dict[str, Any] = {"table": "checkpoints", "row": [self._zone, self._projection.name]}
        what = f"its read model was folded by other code ({live.code}): rebuild it, then verify"
        self._differs(what, live.position, field="code", **where)
        if any(said.generation == live.generation and said.code != live.code for said in self._attested):
            self._differs("it was attested as of other code", live.position, field="code", **where)
        stored = find(self._connection, self._zone, self._projection.name, live.generation)
        if stored is None:
            return
        if recompute(self._connection, self._zone, self._projection, live.generation) != stored:
            self._digest_differs("its rows do not give the digest that is stored", live.position)
        for said in self._attested:
            if (said.generation, said.position) == live[:2] and said.digest != shown(stored):
                self._digest_differs("the digest is not the one that was attested", live.position)

    def _comparable(self, live: Live, aside: dict[int, Aside]) -> list[Attested]:
        """Attestations of what today's code does, with the same events set aside."""
        stops, name = [], self._projection.name
        for said in self._attested:
            set_aside = sorted(p for p in aside if p <= said.position)
            same = (set_aside[: len(said.quarantined)], len(set_aside)) == (
                said.quarantined,
                len(said.quarantined) + said.quarantined_more,
            )
            if same and said.code == live.code:
                stops.append(said)
            elif said.generation == live.generation:
                differing = sorted(set(set_aside) ^ set(said.quarantined))
                what = f"{name} was attested with other code or other quarantined events"
                self._differs(what, differing[0] if differing else said.position, table="quarantine")
        if others := len(self._attested) - len(stops):
            what = f"{others} attestations of {name}, made by other code or with other events set aside"
            self._found.leave(self._zone, what, others)
        return sorted(stops, key=lambda said: said.position)

    def _fold(self, folded: Folded, live: Live, aside: dict[int, Aside]) -> None:
        """Up to the checkpoint, with a look at the digest wherever one was attested."""
        stops = self._comparable(live, aside)
        self._discarded = discarded_in(self._connection, self._zone, self._projection.name)
        broken: set[str] = set()
        failing: list[int] = []
        discarded: list[int] = []
        run: list[Record] = []
        left = dict(aside)
        for record in history(self._connection, self._zone, live.position, list(self._projection.handlers)):
            while stops and stops[0].position < record.position:
                _fold_run(folded.rows, run)
                self._check_attested(folded, stops.pop(0))
            if record.position in left or record.stream in broken:
                _fold_run(folded.rows, run)
                stored = left.pop(record.position, None)
                if self._set_aside(folded.rows, record, stored, broken):
                    (discarded if stored and stored.discarded else failing).append(record.position)
                    continue
            run.append(record)
            if len(run) == RUN:
                _fold_run(folded.rows, run)
        _fold_run(folded.rows, run)
        for position in left:
            self._aside_differs("it is set aside, and is no event that would be folded", position)
        self._leave_aside("has set aside what its handlers fail at", failing)
        self._leave_aside("does without what operators discarded", discarded)
        for said in stops:
            if said.position > live.position:
                what = f"{self._projection.name} was attested at {said.position}, beyond its checkpoint"
                row = [self._zone, self._projection.name]
                self._differs(what, live.position, table="checkpoints", row=row, field="position")
            else:
                self._check_attested(folded, said)

    def _set_aside(self, rows: Rows, record: Record, stored: Aside | None, broken: set[str]) -> bool:
        """Whether the event is rightly missing: its handler fails, an earlier event of its stream is missing, or an
        operator discarded it, and the later ones of its stream count. Rows that miss it are marked as the follower
        does."""
        if stored is not None and stored.discarded:
            if record.position not in self._discarded:
                self._aside_differs("it is discarded, and the log has nobody who said so", record.position)
            marks = not stored.error.startswith((HUNG, DIED))
        elif record.stream in broken:
            if stored is None:
                what = "it is not set aside, although an earlier event of its stream is"
                self._aside_differs(what, record.position)
            marks = stored is None or not stored.error.startswith((HUNG, DIED))
        else:
            assert stored is not None, "nothing else leads here"
            ended, marks = attempt(rows, record), stored.error.startswith(RAISED)
            if ended == Ended.WELL:
                self._aside_differs("it is set aside although it folds", record.position)
                return False
            if ended == Ended.RAISED and not marks:
                self._aside_differs("its handler raises, that is not why it is set aside", record.position)
            broken.add(record.stream)
        if stored is not None and stored.stream != record.stream:
            self._aside_differs("it is set aside as one of another stream", record.position)
        if marks:
            with watchdog(CAREFUL_LIMIT_S):
                _mark(rows, record)
        return True

    def _leave_aside(self, what: str, positions: list[int]) -> None:
        if positions:
            named = ", ".join(map(str, positions[:MOST_SHOWN])) + (", ..." if positions[MOST_SHOWN:] else "")
            what = f"{self._projection.name} {what}: {named}"
            self._found.leave_aside(self._zone, what, len(positions))

    def _aside_differs(self, what: str, position: int) -> None:
        row = [self._zone, self._projection.name, position]
        self._differs(f"{self._projection.name}: {what}", position, table="quarantine", row=row)

    def _check_attested(self, folded: Folded, said: Attested) -> None:
        if shown(folded.digest()) != said.digest:
            what = f"the digest of {self._projection.name} that was attested is not that of the log"
            self._differs(what, said.position, table="attestations", field="digest")

    def _check_digest(self, live: Live, digest: int) -> None:
        stored = find(self._connection, self._zone, self._projection.name, live.generation)
        if stored is None:
            self._digest_differs("there is no digest", live.position)
        elif stored != digest:
            self._digest_differs("the digest is not that of the log", live.position)

    def _digest_differs(self, what: str, position: int) -> None:
        row = [self._zone, self._projection.name]
        self._differs(what, position, table="digests", row=row, field="accumulator")

    def _compare(self, generation: int, table: Table, folded: dict[tuple[Any, ...], Row]) -> None:
        encode = row_bytes(table)
        for stored in stored_rows(self._connection, self._zone, table, generation):
            self._found.rows += 1
            key = _key(table, stored)
            row = folded.pop(key, None)
            if row is None:
                what = "the log gives no such row"
                self._differs(what, stored.position, table=table.name, row=list(key))
            elif encode(stored) != encode(row):
                self._compare_fields(table, key, stored, row)
        for key, row in folded.items():
            self._differs("the row is missing", row.position, table=table.name, row=list(key))

    def _compare_fields(self, table: Table, key: tuple[Any, ...], stored: Row, row: Row) -> None:
        for name in (*(c.name for c in table.columns), "position", "incomplete"):
            value, expected = getattr(stored, name), getattr(row, name)
            if plain(value) != plain(expected):
                what = f"stored is {value!r}, the log gives {expected!r}"
                self._differs(what, row.position, table=table.name, row=list(key), field=name)


class Folded:
    """Rows as the log gives them up to a position, and their digest, which follows them from stop to stop."""

    def __init__(self, projection: Projection, zone: str, generation: int) -> None:
        self.rows = Rows(projection, zone, generation)
        self._sum = 0
        self._counted: dict[type, dict[tuple[Any, ...], bytes]] = {kind: {} for kind in projection.rows}
        self._added: dict[type, list[Row]] = {kind: [] for kind in projection.rows}

    def digest(self) -> int:
        """The sum over all rows; only those that changed since it was asked last are hashed."""
        for kind, counted in self._counted.items():
            encode = row_bytes(table_of(kind))
            for key in self.rows.deleted[kind]:
                if (before := counted.pop(key, None)) is not None:
                    self._sum -= expand(before)
            for key, row in self.rows.changed[kind].items():
                if (before := counted.get(key)) is not None:
                    self._sum -= expand(before)
                counted[key] = encode(row)
                self._sum += expand(counted[key])
            self._added[kind] += self.rows.added[kind]
            self._sum += sum(expand(encode(row)) for row in self.rows.added[kind])
        self.rows.clear_changes()
        self._sum %= MODULUS
        return self._sum

    def all_rows(self, kind: type) -> dict[tuple[Any, ...], Row]:
        """By key; after `digest`."""
        table = table_of(kind)
        kept = {key: row for key, row in self.rows.kept[kind].items() if row is not None}
        return kept | {_key(table, row): row for row in self._added[kind]}


def _key(table: Table, row: Row) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in table.key)


def plain(value: Any) -> Any:
    """As it is after it was stored: a `jsonb` knows neither tuples nor keys that are numbers."""
    return decode_json(msgspec.json.encode(value)) if isinstance(value, dict | list | tuple) else value


def _fold_run(rows: Rows, run: list[Record]) -> None:
    """What hangs here hung in no follower: it is bounded all the same."""
    if run:
        with watchdog(FOLD_LIMIT_S):
            fold(rows, run)
        run.clear()


def _mark(rows: Rows, record: Record) -> None:
    """A quarantined event leaves its rows incomplete, as the follower does."""
    rows.position = record.position
    for kind, keys in keys_of(rows, [record]).items():
        for key in keys:
            rows.of(kind, *key).incomplete = True


def ends_command(meta: bytes) -> bool:
    try:
        known = decode_json(meta) if meta else {}
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return True  # That it cannot be read is said elsewhere.
    return not isinstance(known, dict) or known.get("i") == known.get("n")
