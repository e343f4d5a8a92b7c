"""The projection engine: folds events into keyed rows. `_stored` keeps those rows in PostgreSQL.

A handler is a small function of `(rows, event, record)`; it takes rows by key, changes them, and knows no SQL.
The engine runs a batch twice: first against blank rows to learn which keys it needs (one query a table loads
them), then for real. Handlers must therefore take their keys from the event, or from rows taken before.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar

import msgspec

import projections
from commands._codec import event_decoder
from domain._upcasts import former_names
from ops.waits import AWAY
from projections import _digest
from projections._tables import Row, Table, table_of
from projections._watchdog import HandlerHung

R = TypeVar("R", bound=Row)
Handler = Callable[["Rows", Any, "Record"], None]

MOST_CACHED_ROWS = 20_000


class Meta(msgspec.Struct, gc=False):
    """What projections want of an event's metadata; the other fields are passed over, which is quicker."""

    command: str = ""
    by: str = ""
    correlation: str = ""
    causation: str = ""
    i: int = 0
    n: int = 0


class _Command(msgspec.Struct, gc=False):
    """Most handlers want no more than this."""

    command: str = ""


_decode_meta = msgspec.json.Decoder(Meta).decode
_decode_command = msgspec.json.Decoder(_Command).decode


class Record(msgspec.Struct, eq=False, gc=False):
    """What the log says of an event, beside the event itself."""

    position: int
    stream: str
    version: int
    type: str
    data: bytes
    meta: bytes
    recorded_at: datetime
    _meta: Meta | None = None
    _command: str | None = None

    @property
    def _known(self) -> Meta:
        if self._meta is None:
            self._meta = _decode_meta(self.meta) if self.meta else Meta()
        return self._meta

    @property
    def id(self) -> str:
        """The stream's id without its category: `v1` of `validator:v1`."""
        return self.stream.partition(":")[2]

    @property
    def command(self) -> str:
        if self._command is None:
            self._command = _decode_command(self.meta).command if self.meta else ""
        return self._command

    @property
    def by(self) -> str:
        return self._known.by

    @property
    def correlation(self) -> str:
        return self._known.correlation

    @property
    def causation(self) -> str:
        """What its command followed from; the command itself where nothing was named."""
        return self._known.causation

    @property
    def begins_command(self) -> bool:
        return self._known.i == 1

    @property
    def ends_command(self) -> bool:
        """Whether this is the last event of its command (events of other applications stand alone)."""
        return self._known.i == self._known.n


class Projection:
    """A named set of tables and what each type of event does to them. Raise `version` when a handler changes.

    Several modules may handle one type (a context's timers, and those of another context that follows it); they
    do so in the order of their imports, which is that of their names.
    """

    concerns: Callable[[Record], bool] | None = None
    """Which events its handlers have something to do with at all: the others are not even decoded."""

    def __init__(self, name: str, *rows: type[Row], version: int = 1) -> None:
        self.name = name
        self.code = f"{version}.d{_digest.FORMAT}"
        self.rows = rows
        self.handlers: dict[str, Handler] = {}
        self.parts: dict[str, list[Handler]] = {}
        """The handlers of each type, as they were declared."""
        if _projections.setdefault(name, self) is not self:
            raise TypeError(f"two projections are called {name}")

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(table_of(row) for row in self.rows)

    def on(self, event: type) -> Callable[[Callable[[Rows, Any, Record], None]], Handler]:
        def register(handler: Handler) -> Handler:
            parts = self.parts.setdefault(event.__name__, [])
            if any(part.__module__ == handler.__module__ for part in parts):
                raise TypeError(f"{handler.__module__} handles {event.__name__} twice in {self.name}")
            parts.append(handler)
            # Events that were stored under a name that is gone are of this type now.
            for name in (event.__name__, *former_names(event.__name__)):
                self.handlers[name] = handler if len(parts) == 1 else _all_of(tuple(parts))
            return handler

        return register


def _all_of(parts: tuple[Handler, ...]) -> Handler:
    def handle(rows: Rows, event: Any, record: Record) -> None:
        for part in parts:
            part(rows, event, record)

    return handle


_projections: dict[str, Projection] = {}


def load_all() -> None:
    """Import every context's projections."""
    for module in pkgutil.iter_modules(projections.__path__):
        importlib.import_module(f"projections.{module.name}")


@functools.cache
def all_projections() -> dict[str, Projection]:
    load_all()
    return dict(sorted(_projections.items()))


class Rows:
    """The rows of one projection, zone and generation that a handler can take."""

    def __init__(self, projection: Projection, zone: str, generation: int) -> None:
        self.projection = projection
        self.zone = zone
        self.generation = generation
        self.position = 0
        """The position of the event that is being handled."""
        self.kept: dict[type, OrderedDict[tuple[Any, ...], Row | None]] = {
            row: OrderedDict() for row in projection.rows
        }
        self.changed: dict[type, dict[tuple[Any, ...], Row]] = {row: {} for row in projection.rows}
        self.added: dict[type, list[Row]] = {row: [] for row in projection.rows}
        self.deleted: dict[type, set[tuple[Any, ...]]] = {row: set() for row in projection.rows}

    # For handlers

    def of(self, row: type[R], *key: Any) -> R:
        """The row with this key; a new one with its defaults where there is none yet."""
        found = self.find(row, *key)
        if found is None:
            found = row(*key)
            found.incomplete = False
            found.position = self.position
            self.kept[row][key] = found
            self.changed[row][key] = found
            self.deleted[row].discard(key)
        return found

    def find(self, row: type[R], *key: Any) -> R | None:
        found: R | None = self._take(row, key)
        if found is not None:
            found.position = self.position
            self.changed[row][key] = found
        return found

    def add(self, row: Row) -> None:
        """A row whose key no row had before and no handler asks for (a line of a statement, say)."""
        row.position = self.position
        row.incomplete = False
        self.added[type(row)].append(row)

    def delete(self, row: type[R], *key: Any) -> None:
        if self._take(row, key) is not None:
            self.kept[row][key] = None
            self.changed[row].pop(key, None)
            self.deleted[row].add(key)

    def _take(self, row: type[R], key: tuple[Any, ...]) -> Any:
        return self.kept[row].get(key)

    # For the engine

    def clear_changes(self) -> None:
        for row in self.projection.rows:
            self.changed[row] = {}
            self.added[row] = []
            self.deleted[row] = set()

    def forget(self) -> None:
        """Drop the cache: somebody else moved the checkpoint, or a batch failed half way."""
        self.clear_changes()
        for kept in self.kept.values():
            kept.clear()

    def trim(self) -> None:
        for kept in self.kept.values():
            while len(kept) > MOST_CACHED_ROWS:
                kept.popitem(last=False)


class HistoryRows(Rows):
    """Rows of a generation that begins at position 0: all of them are in memory, or were handed to `write`."""

    def __init__(
        self,
        projection: Projection,
        zone: str,
        generation: int,
        writer: Callable[[Rows, type[Row]], Callable[[Row], None]],
    ) -> None:
        super().__init__(projection, zone, generation)
        self._writers = _Made(functools.partial(writer, self))

    def of(self, row: type[R], *key: Any) -> R:
        kept = self.kept[row]
        found: Any = kept.get(key)
        if found is None:
            found = kept[key] = row(*key)
            found.incomplete = False
        found.position = self.position
        return found  # type: ignore[no-any-return]

    def find(self, row: type[R], *key: Any) -> R | None:
        return None if self.kept[row].get(key) is None else self.of(row, *key)

    def add(self, row: Row) -> None:
        row.position = self.position
        row.incomplete = False
        self._writers[type(row)](row)

    def write_kept(self) -> None:
        """Hand over everything that was kept in memory."""
        for kept in self.kept.values():
            for row in kept.values():
                if row is not None:
                    self._writers[type(row)](row)


class _Made(dict[Any, Any]):
    """What is missing here is made, once."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def __missing__(self, key: Any) -> Any:
        made = self[key] = self._make(key)
        return made


class _Probe(Rows):
    """Learns which keys a batch needs: every row that it gives is blank, and thrown away."""

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows.projection, rows.zone, rows.generation)

    def find(self, row: type[R], *key: Any) -> R | None:
        return self.of(row, *key)

    def of(self, row: type[R], *key: Any) -> R:
        kept = self.kept[row]
        if key not in kept:
            blank = row(*key)
            blank.position, blank.incomplete = 0, False
            kept[key] = blank
        found: Any = kept[key]
        return found  # type: ignore[no-any-return]

    def delete(self, row: type[R], *key: Any) -> None:
        self.kept[row].setdefault(key, None)

    def add(self, row: Row) -> None:
        pass


def fold(rows: Rows, records: Iterable[Record]) -> None:
    """Run the handlers over records, in order. An error names the record that it happened at; that a row could not be
    loaded is no handler's."""
    handlers, concerns = rows.projection.handlers, rows.projection.concerns
    for record in records:
        handler = handlers.get(record.type)
        if handler is not None and (concerns is None or concerns(record)):
            rows.position = record.position
            decoder = event_decoder(record.type)
            assert decoder is not None, "a projection handles events of our own only"
            try:
                handler(rows, decoder(record.data), record)
            except AWAY:
                raise
            except Exception as error:
                raise HandlerFailed(record) from error


class HandlerFailed(Exception):
    """A handler raised; the cause says what, the record where."""

    def __init__(self, record: Record) -> None:
        self.record = record
        super().__init__(f"{record.type} at {record.position}")


def keys_of(rows: Rows, records: Iterable[Record]) -> dict[type[Any], list[tuple[Any, ...]]]:
    """The keys that handlers ask for; one that depends on a loaded row's content may be missing here."""
    probe, handlers = _Probe(rows), rows.projection.handlers
    for record in records:
        if record.type not in handlers:
            continue
        try:
            fold(probe, (record,))
        except HandlerFailed as error:
            if isinstance(error.__cause__, HandlerHung):
                raise
            # Otherwise go on: a blank row may well break a handler; the real fold decides.
    return {row: list(kept) for row, kept in probe.kept.items()}
