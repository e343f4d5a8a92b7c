"""A zone's two logs as Merkle trees: their checkpoints, tiles and entries, and proofs made of them.

Nothing is given out that is not covered by a signed checkpoint, and no proof that does not hold.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg

from commands._codec import (
    EntryTooLarge,
    attestation_entry,
    event_entry,
    hashed_fate_entry,
    microseconds,
    zone_prefix,
)
from ops.problems import Problem
from projections._attestations import BEHIND_EARLIER, WITHIN, attestation_index
from projections._tree import (
    ENTRIES,
    HASH_BYTES,
    WIDTH,
    BadProof,
    Range,
    Tile,
    TileName,
    TruncatedTile,
    consistency_path,
    inclusion_path,
    leaf_hash,
    range_hash,
    root_of,
    tiles_of,
    verify_consistency,
    verify_inclusion,
    width_of,
)
from queries._http import QueryApi
from queries._past import Past
from queries._watch import HEAD, NUMBER, SIGNED, Stopping

EVENTS = "events"
FATES = "fates"

NEWEST = """
SELECT size, root, note FROM signed_checkpoints WHERE zone = %(zone)s AND log = %(log)s
ORDER BY size DESC, signed_at DESC LIMIT 1
"""

OF_SIZE = """
SELECT size, root, note FROM signed_checkpoints WHERE zone = %(zone)s AND log = %(log)s AND size = %(size)s
ORDER BY signed_at DESC LIMIT 1
"""

COSIGNED = """
SELECT line FROM cosignatures WHERE zone = %(zone)s AND log = %(log)s AND size = %(size)s AND root = %(root)s
ORDER BY witness
"""

TILES = """
SELECT t.level, t.index, t.hashes
FROM unnest(%(levels)s::smallint[], %(numbers)s::bigint[]) AS w(level, index)
JOIN tiles t ON t.zone = %(zone)s AND t.log = %(log)s AND t.level = w.level AND t.index = w.index
"""

EVENTS_BETWEEN = """
SELECT position, stream, version, type, recorded_at, meta, data FROM events
WHERE zone = %(zone)s AND position > %(first)s AND position <= %(end)s ORDER BY position
"""

FATES_BETWEEN = """
SELECT number, principal, act_as, key, sha256(request), if_match, status, sha256(answer), position, events,
       recorded_at
FROM commands WHERE zone = %(zone)s AND number > %(first)s AND number <= %(end)s ORDER BY number
"""

ATTESTATIONS_BETWEEN = """
SELECT ordinal, after_number, kind, recorded_at, body FROM attestations
WHERE zone = %(zone)s AND after_number + ordinal > %(first)s AND after_number + ordinal <= %(end)s ORDER BY ordinal
"""


WANT = """
UPDATE trees SET wanted = %(size)s WHERE zone = %(zone)s AND log = %(log)s AND wanted < %(size)s RETURNING wanted
"""


class Signed(NamedTuple):
    """A checkpoint as it was published."""

    size: int
    root: bytes
    note: str


@dataclass(frozen=True, slots=True)
class Log:
    """One of a zone's two logs."""

    past: Past
    name: str

    async def _rows(self, sql: str, **values: Any) -> list[Any]:
        return await self.past.rows(sql, {"zone": self.past.zone, "log": self.name, **values})

    # Checkpoints

    async def newest(self) -> Signed:
        """Raises Problem 404."""
        rows = await self._rows(NEWEST)
        if not rows:
            await self.past.head()
            raise Problem(404, "checkpoint-not-found", "No checkpoint of this log is signed yet.")
        return Signed(*rows[0])

    async def covered(self) -> int:
        """The size of the newest checkpoint; 0 where there is none yet."""
        rows = await self._rows(NEWEST)
        return int(rows[0][0]) if rows else 0

    async def signed(self, size: int | None) -> Signed:
        """The checkpoint of a size, the newest where none is named. Raises Problem 404."""
        if size is None:
            return await self.newest()
        rows = await self._rows(OF_SIZE, size=size)
        if not rows:
            newest = await self.newest()
            raise Problem(
                404, "checkpoint-not-found", "No checkpoint of this size was signed.", newest=str(newest.size)
            )
        return Signed(*rows[0])

    async def note(self, signed: Signed) -> str:
        """The note with the cosignatures of witnesses."""
        lines = await self._rows(COSIGNED, size=signed.size, root=signed.root)
        return signed.note + "".join(line for (line,) in lines)

    # Entries

    async def index_of(self, number: int) -> int:
        """Where an event's position, or a command's number, stands in the log."""
        if self.name == EVENTS:
            return number - 1
        rows = await self.past.rows(BEHIND_EARLIER, (self.past.zone, number))
        return number - 1 + (int(rows[0][0]) if rows else 0)

    async def entries(self, first: int, end: int) -> list[bytes]:
        """Entries by index, as they follow from what is stored. Raises Problem 500 where they are gone or damaged."""
        try:
            found = await (self._events(first, end) if self.name == EVENTS else self._fates(first, end))
        except (EntryTooLarge, OverflowError, struct.error, psycopg.DataError) as error:
            raise damaged(first) from error
        if len(found) != end - first:
            raise Problem(
                500,
                "entries-missing",
                "The log does not hold all entries that its tree has.",
                first=str(first),
            )
        return found

    async def _events(self, first: int, end: int) -> list[bytes]:
        zone = zone_prefix(self.past.zone)
        return [
            event_entry(zone, position, stream, version, type, microseconds(at), meta, data)
            for position, stream, version, type, at, meta, data in await self._rows(
                EVENTS_BETWEEN, first=first, end=end
            )
        ]

    async def _fates(self, first: int, end: int) -> list[bytes]:
        """Fates, and the attestations between them."""
        zone = zone_prefix(self.past.zone)
        placed: dict[int, bytes] = {}
        attested = await self._rows(ATTESTATIONS_BETWEEN, first=first, end=end)
        for ordinal, after_number, kind, at, body in attested:
            entry = attestation_entry(zone, ordinal, after_number, kind, microseconds(at), body)
            placed[attestation_index(ordinal, after_number)] = entry
        earlier = await self.past.rows(WITHIN, (self.past.zone, first))
        before = first - (int(earlier[0][0]) if earlier else 0)
        last = before + end - first - len(placed)
        fates = [
            hashed_fate_entry(zone, *(*fate, microseconds(at)))
            for *fate, at in await self._rows(FATES_BETWEEN, first=before, end=last)
        ]
        rest = iter(fates)
        found = [placed.get(index) or next(rest, None) for index in range(first, end)]
        return [entry for entry in found if entry is not None]

    # Tiles and proofs

    async def tile(self, names: Iterable[TileName]) -> Tile:
        """Reads these tiles, as wide as they were in a tree that was smaller than today's."""
        levels, numbers, _ = [list(column) for column in zip(*names, strict=True)] or ([], [], [])
        rows = await self._rows(TILES, levels=levels, numbers=numbers)
        held = {(level, number): hashes for level, number, hashes in rows}
        return lambda level, number, width: held.get((level, number), b"")[: width * HASH_BYTES]

    async def hashes(self, name: TileName) -> bytes:
        """A tile of hashes, or a bundle of entries, that the newest checkpoint covers. Raises Problem 404 and 500."""
        newest = await self.newest()
        if width_of(newest.size, max(name.level, 0), name.number) < name.width:
            raise Problem(404, "tile-not-found", "The tree has no such tile.", size=str(newest.size))
        if name.level == ENTRIES:
            first = name.number * WIDTH
            entries = await self.entries(first, first + name.width)
            return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
        tile = (await self.tile([name]))(*name)
        if len(tile) != name.width * HASH_BYTES:
            raise truncated(name)
        return tile

    async def inclusion(
        self, indexes: Sequence[int], entries: Sequence[bytes], signed: Signed
    ) -> list[list[bytes]]:
        """Inclusion proofs of entries in a signed tree. Raises Problem 404 and 500."""
        if max(indexes, default=-1) >= signed.size:
            raise beyond(max(indexes), signed.size)
        paths = [inclusion_path(index, signed.size) for index in indexes]
        ranges = {each for path in paths for each in path}
        tile = await self.tile(tiles_of(signed.size, ranges))
        hashes = await asyncio.to_thread(_hashes, tile, signed.size, ranges)
        proofs = [[hashes[each] for each in path] for path in paths]
        for index, entry, proof in zip(indexes, entries, proofs, strict=True):
            try:
                verify_inclusion(leaf_hash(entry), index, signed.size, proof, signed.root)
            except BadProof as error:
                raise damaged(index) from error
        return proofs

    async def consistency(self, first: int, second: int) -> tuple[bytes, bytes, list[bytes]]:
        """The roots of two sizes up to the newest checkpoint's, and the proof between them. Raises Problem 500."""
        path = consistency_path(first, second)
        tile = await self.tile(tiles_of(first, [(0, first)]) | tiles_of(second, [(0, second), *path]))
        try:
            roots = root_of(tile, first), root_of(tile, second)
            proof = [range_hash(tile, second, *each) for each in path]
            verify_consistency(first, second, *roots, proof)
        except TruncatedTile as error:
            raise truncated(error.name) from error
        except BadProof as error:
            raise damaged(second) from error
        for size, root in zip((first, second), roots, strict=True):
            rows = await self._rows(OF_SIZE, size=size)
            if rows and rows[0][1] != root:
                raise damaged(size)
        return *roots, proof


def _hashes(tile: Tile, size: int, ranges: Iterable[Range]) -> dict[Range, bytes]:
    try:
        return {each: range_hash(tile, size, *each) for each in ranges}
    except TruncatedTile as error:
        raise truncated(error.name) from error


def beyond(index: int, size: int) -> Problem:
    return Problem(
        404,
        "beyond-checkpoint",
        "It lies beyond the checkpoint; a later one may cover it.",
        headers={"Retry-After": "1"},
        index=str(index),
        size=str(size),
    )


def truncated(name: TileName) -> Problem:
    return Problem(
        500,
        "tile-truncated",
        "A stored tile is shorter than the tree says; the log is damaged.",
        tile=name.path(),
    )


def damaged(index: int) -> Problem:
    return Problem(
        500, "tree-damaged", "What is stored does not lead to the root that was signed.", index=str(index)
    )


# Waiting


async def cover(api: QueryApi, log: Log, number: int) -> None:
    """Ask for a checkpoint that covers a position, or a command's number, and wait for it, bounded.

    Raises Problem 503 and 504.
    """
    zone = log.past.zone
    try:
        async with asyncio.timeout(api.wait_s):
            await _reach(api, zone, HEAD if log.name == EVENTS else NUMBER, number)
            size = await log.covered()
            while size <= (index := await log.index_of(number)):  # Attestations may come to stand before it.
                await log.past.rows(WANT, {"zone": zone, "log": log.name, "size": index + 1})
                size = await _reach(api, zone, SIGNED[log.name], index + 1)
    except TimeoutError:
        raise Problem(
            504,
            "checkpoint-not-reached",
            "No checkpoint covered it in time.",
            wanted=str(number),
            waited_s=str(api.wait_s),
        ) from None


async def _reach(api: QueryApi, zone: str, place: str, wanted: int) -> int:
    try:
        position = await api.positions.reach(zone, place, wanted, api.wait_s)
    except Stopping:
        raise Problem(503, "unavailable", "The server is stopping.", headers={"Retry-After": "1"}) from None
    if position < wanted:
        raise TimeoutError
    return position
