"""A log's Merkle tree, grown from the entries as they are hashed again, against all that is stored and signed of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg

from ops.verify._found import Found
from projections._attestations import entry_at
from projections._notes import (
    COSIGNATURE,
    Checkpoint,
    NoteError,
    open_checkpoint,
    parse_checkpoint,
    parse_key,
    parse_note,
    verifier_key,
)
from projections._tree import (
    EMPTY_ROOT,
    HASH_BYTES,
    HEIGHT,
    MOST_LEVELS,
    TILE_BYTES,
    WIDTH,
    Tree,
    TruncatedTile,
)

TREE = "SELECT origin, size, root FROM trees WHERE zone = %s AND log = %s"

TILES = """
SELECT index, hashes FROM tiles
WHERE zone = %s AND log = %s AND level = %s AND index >= %s AND index <= %s ORDER BY index
"""

BEYOND = """
SELECT t.level, t.index FROM tiles t LEFT JOIN unnest(%s::smallint[], %s::bigint[]) AS l(level, tiles) USING (level)
WHERE t.zone = %s AND t.log = %s AND (t.index < 0 OR t.index >= coalesce(l.tiles, 0)) ORDER BY level, index LIMIT 100
"""

SIGNED = """
SELECT size, root, note FROM signed_checkpoints WHERE zone = %s AND log = %s ORDER BY size, signed_at
"""

COSIGNED = """
SELECT c.size, c.root, c.line, c.witness, w.verifier_key, s.note
FROM cosignatures c LEFT JOIN witnesses w ON w.name = c.witness
LEFT JOIN LATERAL (SELECT note FROM signed_checkpoints
                   WHERE (zone, log, size, root) = (c.zone, c.log, c.size, c.root) LIMIT 1) s ON true
WHERE c.zone = %s AND c.log = %s ORDER BY c.size, c.witness
"""


class Held(NamedTuple):
    """A checkpoint that somebody kept elsewhere."""

    name: str
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Mark:
    """A root that the tree must have had at a size."""

    size: int
    root: bytes
    what: str
    where: dict[str, Any] = field(default_factory=dict)


class LogTree:
    """One log of one zone. Entries come in order; `finish` says that there are no more."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        zone: str,
        log: str,
        keys: Sequence[bytes],
        held: Sequence[Held],
        found: Found,
        begin: tuple[int, bytes] = (0, EMPTY_ROOT),
    ) -> None:
        self._connection = connection
        self._zone = zone
        self._log = log
        self._found = found
        row = connection.execute(TREE, (zone, log)).fetchone()
        stored: tuple[str, int, bytes] = row or ("", 0, EMPTY_ROOT)
        self._origin, self._stored_size, root = stored
        self._exists = row is not None
        marks = [Mark(self._stored_size, root, "is stored as the tree's", {"table": "trees"})] if row else []
        self._marks = sorted([*marks, *self._signed(keys), *self._held(held)], key=lambda mark: mark.size)
        self._tree = Tree()
        self._edge: dict[int, tuple[int, bytes]] = {}
        """The tile of each level that is not full: its index, and its hashes so far."""
        if begin[0]:
            self._begin(*begin)
        self._marks = [mark for mark in self._marks if mark.size >= begin[0]]

    @property
    def size(self) -> int:
        return self._tree.size

    def root(self) -> bytes:
        return self._tree.root()

    def _differs(self, what: str, size: int | None = None, **where: Any) -> None:
        position = size if self._log == "events" else None
        self._found.add(self._zone, f"{self._log} log: {what}", position, **where)

    # Growing

    def _begin(self, size: int, root: bytes) -> None:
        """Go on where another verification stopped: its root must be that of the stored tree at that size."""
        try:
            self._tree = Tree(self._stored_tile, size)
        except TruncatedTile as error:
            raise ResumedElsewhere(str(error)) from error
        if self._tree.root() != root:
            raise ResumedElsewhere(f"the {self._log} log does not begin with what was verified before")
        for level in range(MOST_LEVELS):
            index, width = divmod(size >> (HEIGHT * level), WIDTH)
            if width:
                self._edge[level] = index, self._stored_tile(level, index, width)

    def append(self, leaves: bytes) -> None:
        """Add the hashes of the next entries, and stop at each size of which something is known."""
        at = 0
        while at < len(leaves):
            self._reach_marks()
            upto = len(leaves)
            if self._marks:
                upto = min(upto, at + (self._marks[0].size - self._tree.size) * HASH_BYTES)
            if self._tree.size < self._stored_size:
                upto = min(upto, at + (self._stored_size - self._tree.size) * HASH_BYTES)
            self._grow(leaves[at:upto])
            at = upto
        self._reach_marks()

    def _reach_marks(self) -> None:
        while self._marks and self._marks[0].size <= self._tree.size:
            mark = self._marks.pop(0)
            if self._tree.root() != mark.root:
                what = f"the root at size {mark.size} is another than {mark.what}"
                self._differs(what, mark.size, **mark.where)

    def finish(self) -> None:
        """The log has ended: whatever is known of a larger one tells that it was longer."""
        self._reach_marks()
        for mark in self._marks:
            what = f"it ends at {self._tree.size}: one of size {mark.size} {mark.what}; what is behind was cut off"
            self._differs(what, self._tree.size + 1, **mark.where)
        self._marks = []
        if self._exists:
            counts = [-(-(self._stored_size >> (HEIGHT * level)) // WIDTH) for level in range(MOST_LEVELS)]
            asked = (list(range(MOST_LEVELS)), counts, self._zone, self._log)
            for level, index in self._connection.execute(BEYOND, asked):
                self._tile_differs(level, index, "the tree has no such tile")

    # Tiles

    def _stored_tile(self, level: int, index: int, width: int) -> bytes:
        row = self._connection.execute(TILES, (self._zone, self._log, level, index, index)).fetchone()
        return bytes(row[1][: width * HASH_BYTES]) if row else b""

    def _grow(self, leaves: bytes) -> None:
        """Full tiles are compared as they come to be; narrower ones where the stored tree ends."""
        within = self._tree.size < self._stored_size
        levels: dict[int, dict[int, bytes]] = {}
        for (level, index), hashes in self._tree.append([leaves]).items():
            if len(hashes) == TILE_BYTES:
                self._edge.pop(level, None)
                levels.setdefault(level, {})[index] = hashes
            else:
                self._edge[level] = index, hashes
        if within and self._tree.size == self._stored_size:
            for level, (index, hashes) in self._edge.items():
                levels.setdefault(level, {})[index] = hashes
        if within:
            for level, tiles in levels.items():
                self._compare(level, tiles)

    def _compare(self, level: int, tiles: dict[int, bytes]) -> None:
        asked = (self._zone, self._log, level, min(tiles), max(tiles))
        with self._connection.cursor(binary=True) as cursor:
            stored = dict(cursor.execute(TILES, asked).fetchall())
        for index, hashes in tiles.items():
            if index not in stored:
                self._tile_differs(level, index, "the tile is missing")
            elif stored[index] != hashes:
                self._tile_differs(level, index, *_first_difference(stored[index], hashes, level, index))

    def _tile_differs(self, level: int, index: int, what: str, place: int | None = None) -> None:
        """`place`: which of the level's hashes differs; on the lowest level, that is an entry of the log."""
        where: dict[str, Any] = {"table": "tiles", "row": [self._log, level, index]}
        if level == 0 and place is not None and self._log == "fates":
            entry = entry_at(self._connection, self._zone, place)
            if entry.is_fate:
                where["command"] = entry.number
            else:
                what = f"{what}, attestation {entry.number}"
        first = index * WIDTH if place is None else place
        self._differs(what, first + 1 if level == 0 else None, **where)

    # What was signed

    def _signed(self, keys: Sequence[bytes]) -> Iterator[Mark]:
        known = [verifier_key(self._origin, key) for key in keys] if self._origin else []
        rows = self._connection.execute(SIGNED, (self._zone, self._log)).fetchall()
        if rows and not self._exists:
            self._differs("checkpoints were signed of a tree that is not stored", table="trees")
        signed_as = {origin for _, _, note in rows if (origin := _origin_of(note))}
        if self._exists and signed_as and self._origin not in signed_as:
            what = f"its origin is {self._origin}, its checkpoints say {', '.join(sorted(signed_as))}"
            self._differs(what, table="trees", row=[self._zone, self._log], field="origin")
        for size, root, note in rows:
            self._found.signatures += 1
            where: dict[str, Any] = {"table": "signed_checkpoints", "row": [self._log, size]}
            try:
                checkpoint = open_checkpoint(note, known)
            except NoteError as error:
                self._differs(f"the checkpoint is not valid: {error}", size, **where)
                continue
            if (checkpoint.size, checkpoint.root) != (size, root):
                self._differs(
                    "the checkpoint is stored with another size or root than it says", size, **where
                )
            yield Mark(checkpoint.size, checkpoint.root, "was signed")
        yield from self._cosigned()

    def _cosigned(self) -> Iterator[Mark]:
        rows = self._connection.execute(COSIGNED, (self._zone, self._log)).fetchall()
        for size, root, line, witness, vkey, note in rows:
            self._found.signatures += 1
            where: dict[str, Any] = {"table": "cosignatures", "row": [self._log, size, witness]}
            if vkey is None:
                what = (
                    f"the cosignature of {witness} at size {size}: it is trusted no more, and its key is gone"
                )
                self._found.leave(self._zone, what)
                continue
            try:
                key = parse_key(vkey)
                text = Checkpoint(self._origin, size, root).text()
                signed = parse_note(f"{text}\n{line}").signed_by([key])
            except NoteError as error:
                self._differs(f"the cosignature is not valid: {error}", size, **where)
                continue
            if key not in signed or key.type != COSIGNATURE:
                self._differs("the cosignature is not the witness's", size, **where)
            elif note is None:
                self._differs("a witness signed what is not stored as a checkpoint", size, **where)
            yield Mark(size, root, "was cosigned by a witness")

    def _held(self, held: Sequence[Held]) -> Iterator[Mark]:
        for name, checkpoint in held:
            yield Mark(checkpoint.size, checkpoint.root, f"is in {name}")


def _origin_of(note: str) -> str | None:
    try:
        return parse_checkpoint(parse_note(note).text).origin
    except NoteError:
        return None  # That it is none is said of the checkpoint.


class ResumedElsewhere(Exception):
    """What was verified before is not the beginning of what is stored now."""


def _first_difference(stored: bytes, expected: bytes, level: int, index: int) -> tuple[str, int | None]:
    """What differs first, and its place among the level's hashes."""
    if len(stored) != len(expected):
        what = f"the tile holds {len(stored) // HASH_BYTES} hashes instead of {len(expected) // HASH_BYTES}"
        return what, None
    at = next(i for i in range(0, len(expected), HASH_BYTES) if stored[i:][:32] != expected[i:][:32])
    place = index * WIDTH + at // HASH_BYTES
    what = f"hash {place} of level {level} is another than that of what is stored"
    return what + (f" at {place + 1}" if level == 0 else ""), place
