"""`fogbook replay --into`: a log, or its beginning, verbatim into an installation where its zone is empty.

Each entry's bytes must give its leaf hash, and the trees over the leaves the roots of the checkpoints that came with
them; all of it is one transaction. The other installation's own processes then build rows, digests and tiles anew, and
sign with keys of their own: those that the log attests are retired there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict

from commands._codec import EPOCH, zone_prefix
from ops.export import (
    LOGS,
    Attestation,
    Entry,
    ExportRefused,
    Fate,
    Manifest,
    Tick,
    leaf_of,
    one_moment,
    parse_time,
    stored_entries,
    survey,
)
from ops.home import Refused, full_path, read_run
from ops.imports import read_export
from ops.migrate import migrate
from ops.servers import start_servers
from ops.verify._receipts import of_both_logs
from ops.waits import Connection
from projections._attestations import KEY, add, key_body
from projections._notes import Checkpoint, NoteError, open_checkpoint, parse_key
from projections._tree import Tree
from queries._events import Event, rfc3339

CHUNK = 5_000
"""Entries that are copied at once."""

BEGIN = "INSERT INTO heads (zone, clock) VALUES (%s, %s) ON CONFLICT (zone) DO NOTHING"

IS_EMPTY = """
SELECT position = 0 AND number = 0 AND NOT EXISTS (SELECT 1 FROM attestations WHERE zone = %(zone)s)
FROM heads WHERE zone = %(zone)s FOR UPDATE
"""

MOVE = "UPDATE heads SET position = %s, number = %s, recorded_at = %s, clock = %s WHERE zone = %s"

ADD_KEYS = """
INSERT INTO signing_keys (zone, serial, public_key, created_at, retired_at)
SELECT %s, serial, public_key, created_at, coalesce(retired_at, clock_timestamp())
FROM unnest(%s::integer[], %s::bytea[], %s::timestamptz[], %s::timestamptz[])
     AS k(serial, public_key, created_at, retired_at)
"""

COPY_EVENTS = """
COPY events (zone, position, stream, version, type, data, meta, recorded_at, leaf) FROM STDIN (FORMAT BINARY)
"""
COPY_FATES = """
COPY commands (zone, number, principal, act_as, key, request, if_match, status, answer, position, events,
    recorded_at, leaf) FROM STDIN (FORMAT BINARY)
"""
COPY_ATTESTATIONS = """
COPY attestations (zone, ordinal, after_number, kind, body, recorded_at, leaf) FROM STDIN (FORMAT BINARY)
"""

COPY: dict[type, tuple[str, str]] = {
    Event: (COPY_EVENTS, "text int8 text int8 text bytea bytea timestamptz bytea"),
    Fate: (
        COPY_FATES,
        "text int8 text text text bytea int8 int2 bytea int8 int4 timestamptz bytea",
    ),
    Attestation: (COPY_ATTESTATIONS, "text int8 int8 text bytea timestamptz bytea"),
}


class ReplayRefused(Refused):
    """Nothing was replayed; the message says why."""


# What is replayed must prove itself


class Proof:
    """Follows both logs leaf by leaf, and compares their trees with the checkpoints of the manifest.

    With keys that somebody trusts, these must have signed all of it. Otherwise the keys are those of the manifest:
    that tells of harm to a file, and not whether it was forged as a whole.
    """

    def __init__(self, manifest: Manifest, trusted: Sequence[str] = ()) -> None:
        self._is_trusted = bool(trusted)
        self._zone = zone_prefix(manifest.zone)
        self._trees = {log: Tree() for log in LOGS}
        self._leaves: dict[str, list[bytes]] = {log: [] for log in LOGS}
        self.checkpoints = {
            log: _opened(note, trusted or manifest.verifier_keys)
            for log, note in manifest.checkpoints.items()
            if note is not None
        }
        self._due = dict(self.checkpoints)

    def add(self, entry: Entry) -> None:
        """Raises ReplayRefused where the entry is not what was hashed, or the tree not what was signed."""
        if leaf_of(self._zone, entry) != entry.leaf:
            raise ReplayRefused(f"The bytes of {_named(entry)} do not give its leaf hash.")
        log = LOGS[not isinstance(entry, Event)]
        leaves = self._leaves[log]
        leaves.append(entry.leaf)
        due = self._due.get(log)
        if due is not None and self._trees[log].size + len(leaves) == due.size:
            self._compare(log, due)
        elif len(leaves) == CHUNK:
            self.root(log)

    def _compare(self, log: str, due: Checkpoint) -> None:
        if self.root(log) != due.root:
            raise ReplayRefused(
                f"The first {due.size} entries of {due.origin} are not those that its checkpoint was signed for."
            )
        del self._due[log]

    def root(self, log: str) -> bytes:
        """The root over all leaves so far."""
        self._trees[log].append(self._leaves[log])
        self._leaves[log].clear()
        return self._trees[log].root()

    def end(self) -> None:
        """Raises ReplayRefused where a checkpoint was signed for more than there is."""
        for log, due in list(self._due.items()):
            if due.size:
                raise ReplayRefused(
                    f"The checkpoint of {due.origin} was signed for {due.size} entries, not all are here."
                )
            self._compare(log, due)
        for log, count in self.unsigned().items() if self._is_trusted else ():
            raise ReplayRefused(f"No checkpoint that a trusted key has signed covers the last {count} {log}.")

    def unsigned(self) -> dict[str, int]:
        """How many of the last entries of each log no checkpoint covers."""
        signed = {log: checkpoint.size for log, checkpoint in self.checkpoints.items()}
        sizes = {log: tree.size + len(self._leaves[log]) for log, tree in self._trees.items()}
        return {log: size - signed.get(log, 0) for log, size in sizes.items() if size > signed.get(log, 0)}


def _opened(note: str, vkeys: Iterable[str]) -> Checkpoint:
    try:
        return open_checkpoint(note, [key for vkey in vkeys for key in of_both_logs(parse_key(vkey))])
    except NoteError as error:
        raise ReplayRefused(f"The manifest's checkpoint is not signed as it should be: {error}") from error


def _named(entry: Entry) -> str:
    match entry:
        case Event():
            return f"event {entry.position}"
        case Fate():
            return f"command {entry.number}"
        case Attestation():
            return f"attestation {entry.ordinal}"


def proven(proof: Proof, entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries, each as soon as it has proven itself; the last one when all have."""
    for entry in entries:
        proof.add(entry)
        yield entry
    proof.end()


# A beginning of an export


def cut(manifest: Manifest, entries: Iterable[Entry], at: str) -> Manifest:
    """What an export holds up to the end of the last command as of a position or time. Raises ExportRefused."""
    position = int(at) if at.isdecimal() and len(at) < 19 else None
    time = None if position is not None else parse_time(at)
    if position is not None and position > manifest.position:
        raise ExportRefused(f"The export ends at position {manifest.position}.")
    if time is not None and time > manifest.recorded_at:
        raise ExportRefused(f"The export ends before {at}.")
    end = number = attestations = 0
    for entry in entries:
        match entry:
            case Event():
                within = entry.recorded_at <= time if time else entry.position <= (position or 0)
                if within and entry.span[1] == entry.position:
                    end = entry.position
            case Fate():
                number = entry.number if entry.position <= end else number
            case Attestation():
                attestations = entry.ordinal if entry.after_number <= number else attestations
    if end == 0:
        raise ExportRefused(f"The export begins later than {at}.")
    nothing_signed: dict[str, str | None] = dict.fromkeys(LOGS)
    return manifest._replace(
        position=end,
        number=number,
        events=end,
        commands=number,
        attestations=attestations,
        checkpoints=nothing_signed,
    )


def beginning(entries: Iterable[Entry], end: int) -> Iterator[Entry]:
    """The entries up to the last one that was decided at a position, the end of a command."""
    for entry in entries:
        if isinstance(entry, Event) and entry.position > end:
            return
        yield entry


# The other installation


@contextmanager
def installation(into: str) -> Iterator[str]:
    """The owner's database URL of another installation: a URL, or a home, whose servers are started unless they run.

    Raises ReplayRefused and ServersFailed.
    """
    if re.match(r"\w+(://|\s*=)", into):
        try:
            conninfo_to_dict(into)
        except psycopg.ProgrammingError as error:
            raise ReplayRefused(f"{into} does not name a database.") from error
        yield into
        return
    home = full_path(Path(into))
    run = read_run(home)
    if run is not None:
        yield run.superuser_url
        return
    with start_servers(home) as servers:
        migrate(servers.superuser_url)
        yield servers.superuser_url


@dataclass
class Filled:
    """What was replayed."""

    zone: str
    position: int = 0
    number: int = 0
    attestations: int = 0
    recorded_at: datetime = EPOCH
    roots: dict[str, str] = field(default_factory=dict)
    """Of the trees over all that was replayed, in hex."""
    checkpoints: dict[str, int] = field(default_factory=dict)
    """The sizes at which the trees were compared with a signed checkpoint."""
    unsigned: dict[str, int] = field(default_factory=dict)
    """How many entries stand behind them."""
    trusted: bool = False
    """Whether these checkpoints are signed by keys that somebody trusts; otherwise the file named its keys itself."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"recorded_at": rfc3339(self.recorded_at)}

    def note(self, entry: Entry) -> None:
        """Raises ReplayRefused where one is missing before it."""
        match entry:
            case Event():
                follows, self.position = entry.position == self.position + 1, entry.position
            case Fate():
                follows, self.number = entry.number == self.number + 1, entry.number
            case Attestation():
                follows, self.attestations = entry.ordinal == self.attestations + 1, entry.ordinal
        if not follows:
            raise ReplayRefused(f"What should stand before {_named(entry)} is missing.")
        if not isinstance(entry, Attestation):
            self.recorded_at = max(self.recorded_at, entry.recorded_at)


class Key(NamedTuple):
    serial: int
    public_key: bytes
    created_at: datetime
    retired_at: datetime | None


class _Said(msgspec.Struct):
    """What an attestation says of a key."""

    act: str
    serial: int
    public_key: str


class Keys:
    """The signing keys that a log attests."""

    def __init__(self) -> None:
        self.known: dict[int, Key] = {}

    def note(self, attestation: Attestation) -> None:
        """Raises ReplayRefused where it says nothing of a key."""
        try:
            said = msgspec.json.decode(attestation.body, type=_Said)
            key = Key(said.serial, bytes.fromhex(said.public_key), attestation.recorded_at, None)
        except (msgspec.MsgspecError, ValueError) as error:
            raise ReplayRefused(f"{_named(attestation).capitalize()} says nothing of a key.") from error
        if said.act == "retired":
            key = self.known.get(key.serial, key)._replace(retired_at=attestation.recorded_at)
        self.known[key.serial] = key


def export_into(
    into: str, file: Path, at: str | None, zone: str | None, tick: Tick, trusted: Sequence[str] = ()
) -> Filled:
    """Replay an export, or its beginning. With keys to trust, only what they have signed is taken.

    Raises ExportRefused and ReplayRefused.
    """
    with read_export(file) as (manifest, entries):
        if zone not in (None, manifest.zone):
            raise ReplayRefused(f"{file} is an export of zone {manifest.zone}.")
        if manifest.slice is not None:
            raise ReplayRefused(
                "A slice is not a whole log, and cannot be replayed into another installation."
            )
        if at is not None:
            # The checkpoints speak of all of it, so all of it is proven before its beginning is used.
            manifest = cut(manifest, proven(Proof(manifest, trusted), entries), at)
            trusted = ()
    with read_export(file) as (_, entries), installation(into) as url:
        entries = beginning(entries, manifest.position) if at else entries
        return fill(url, manifest, entries, tick, trusted)


def log_into(into: str, connection: psycopg.Connection[Any], zone: str, at: str | None, tick: Tick) -> Filled:
    """Replay the log of this installation, or its beginning. Raises ExportRefused and ReplayRefused."""
    with one_moment(connection):
        manifest = survey(connection, zone, at)
        with installation(into) as url:
            return fill(url, manifest, stored_entries(connection, manifest), tick)


def fill(
    url: str, manifest: Manifest, entries: Iterable[Entry], tick: Tick, trusted: Sequence[str] = ()
) -> Filled:
    """Copy the entries into the zone, which must be empty: all of them or none. Raises ReplayRefused."""
    proof, filled, keys = Proof(manifest, trusted), Filled(manifest.zone, trusted=bool(trusted)), Keys()
    with Connection.connect(url, wait_s=None, application_name="fogbook replay") as connection:
        try:
            with connection.transaction():
                _begin(connection, manifest)
                chunk: list[Entry] = []
                for done, entry in enumerate(proven(proof, entries), 1):
                    filled.note(entry)
                    if isinstance(entry, Attestation) and entry.kind == KEY:
                        keys.note(entry)
                    chunk.append(entry)
                    if len(chunk) == CHUNK:
                        _copy(connection, manifest.zone, chunk)
                        chunk.clear()
                        tick(done, manifest.entries)
                _copy(connection, manifest.zone, chunk)
                if (filled.position, filled.number) != (manifest.position, manifest.number):
                    raise ReplayRefused(
                        f"The log ends at position {filled.position} and command {filled.number}, and its head is "
                        f"at {manifest.position} and {manifest.number}."
                    )
                end = (filled.position, filled.number, filled.recorded_at, manifest.clock, manifest.zone)
                connection.execute(MOVE, end)
                _retire_keys(connection, manifest.zone, keys)
        except psycopg.errors.IntegrityError as error:
            raise ReplayRefused(
                f"Zone {manifest.zone} cannot be filled there: {error.diag.message_primary}."
            ) from error
        connection.autocommit = True
        connection.execute("ANALYZE events, commands, attestations")
    filled.unsigned = proof.unsigned()
    filled.roots = {log: proof.root(log).hex() for log in LOGS}
    filled.checkpoints = {log: checkpoint.size for log, checkpoint in proof.checkpoints.items()}
    return filled


def _begin(connection: psycopg.Connection[Any], manifest: Manifest) -> None:
    """Make the zone's head, and hold it locked. Raises ReplayRefused where the zone has a history."""
    connection.execute(BEGIN, (manifest.zone, manifest.clock))
    row = connection.execute(IS_EMPTY, {"zone": manifest.zone}).fetchone()
    if row != (True,):
        raise ReplayRefused(
            f"Zone {manifest.zone} has a history there already: only an empty zone can be filled."
        )


def _retire_keys(connection: psycopg.Connection[Any], zone: str, keys: Keys) -> None:
    """The secret of the keys that signed this log is that of another installation: here they sign no more."""
    columns = [list(column) for column in zip(*keys.known.values(), strict=True)] or [[], [], [], []]
    connection.execute(ADD_KEYS, (zone, *columns))
    live = [key for key in keys.known.values() if key.retired_at is None]
    add(connection, zone, KEY, [key_body("retired", key.serial, key.public_key) for key in live])


def _copy(connection: psycopg.Connection[Any], zone: str, entries: list[Entry]) -> None:
    for kind, (statement, types) in COPY.items():
        rows = [entry for entry in entries if isinstance(entry, kind)]
        if rows:
            with connection.cursor() as cursor, cursor.copy(statement) as copy:
                copy.set_types(types.split())
                for row in rows:
                    copy.write_row((zone, *row))
