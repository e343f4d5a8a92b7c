"""The transparency log: each zone's two logs as Merkle trees that grow, and checkpoints of them that are signed.

A tree's row in `trees` is locked while it grows, is attested to, or is signed: any number of processes may do so at
once, and one that is killed leaves nothing half done. Nothing is signed that contradicts what was signed before or
what the tiles hold; that the leaf hashes are those of what is stored is for auditors to check.

A database that is restored forgets what was signed since. So the last of it is kept outside as well (`Kept`): a second
tree of the same name and size, under the same key, would be a fork, and no note of this log could be trusted any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from commands._signatures import log_key
from projections._attestations import (
    KEY,
    add,
    attest_read_models,
    attestations_within,
    key_body,
)
from projections._kept import Keeper, Kept
from projections._notes import Checkpoint, sign_checkpoint
from projections._tree import (
    EMPTY_ROOT,
    HASH_BYTES,
    HEIGHT,
    MOST_LEVELS,
    WIDTH,
    Tile,
    TileName,
    Tree,
    TruncatedTile,
    root_of,
    tiles_of,
)

EVENTS = "events"
FATES = "fates"
LOGS = (EVENTS, FATES)
CHUNK = 16_384
"""Leaves that are added in one transaction: those who ask for a checkpoint wait no longer than for that."""

ADD_TREES = """
INSERT INTO trees (zone, log, origin, root)
SELECT %s, log, %s || suffix, %s FROM (VALUES ('events', ''), ('fates', '/fates')) AS l(log, suffix)
ON CONFLICT (zone, log) DO NOTHING
"""

LOCK_TREE = "SELECT origin, size, root FROM trees WHERE zone = %s AND log = %s FOR UPDATE"

PUT_TREE = "UPDATE trees SET size = %s, root = %s WHERE zone = %s AND log = %s AND size = %s"

TILES = """
SELECT t.level, t.index, t.hashes
FROM unnest(%s::smallint[], %s::bigint[]) AS w(level, index)
JOIN tiles t ON t.zone = %s AND t.log = %s AND t.level = w.level AND t.index = w.index
"""

# A tile only ever grows: whatever would change hashes that are stored finds no row here.
PUT_TILES = """
INSERT INTO tiles (zone, log, level, index, hashes)
SELECT %b, %b, level, index, hashes FROM unnest(%b::smallint[], %b::bigint[], %b::bytea[]) AS t(level, index, hashes)
ON CONFLICT (zone, log, level, index) DO UPDATE SET hashes = excluded.hashes
WHERE substring(excluded.hashes FOR length(tiles.hashes)) = tiles.hashes
"""

HEAD = "SELECT position, number FROM heads WHERE zone = %s"

EVENT_LEAVES = """
SELECT count(*), coalesce(max(position), 0), coalesce(string_agg(leaf, ''::bytea ORDER BY position), '')
FROM (SELECT position, leaf FROM events WHERE zone = %s AND position > %s ORDER BY position LIMIT %s) e
"""

FATE_LEAVES = """
SELECT count(*), coalesce(max(number), 0), coalesce(string_agg(leaf, ''::bytea ORDER BY number), '')
FROM (SELECT number, leaf FROM commands WHERE zone = %s AND number > %s ORDER BY number LIMIT %s) c
"""

ATTESTATIONS = """
SELECT ordinal, after_number, leaf FROM attestations
WHERE zone = %s AND ordinal > %s AND after_number <= %s ORDER BY ordinal LIMIT %s
"""

LIVE_KEYS = """
SELECT serial, public_key FROM signing_keys WHERE zone = %s AND retired_at IS NULL ORDER BY serial
"""

NEXT_SERIAL = """
SELECT coalesce(max(serial), 0) + 1 FROM signing_keys WHERE zone = %s HAVING count(*) = count(retired_at)
"""

ADD_KEY = "INSERT INTO signing_keys (zone, serial, public_key) VALUES (%s, %s, %s)"

NEWEST = """
SELECT size, root, note, signed_at FROM signed_checkpoints WHERE zone = %s AND log = %s
ORDER BY size DESC, signed_at DESC LIMIT 1
"""

SAID_WELL = "UPDATE trees SET refused = '' WHERE zone = %s AND refused <> ''"

PUBLISH = """
INSERT INTO signed_checkpoints (zone, log, size, root, note, signed_at)
VALUES (%s, %s, %s, %s, %s, clock_timestamp()) RETURNING signed_at
"""


class Unsignable(Exception):
    """Nothing may be signed; the message says why."""


class LogWentBack(Unsignable):
    """A log's head is below the size of its tree (failover, restore)."""


class TreeBroken(Unsignable):
    """What is stored contradicts itself, or what was signed before."""


class WrongSecret(Unsignable):
    """The installation's secret is not the one that its signing keys were derived from."""


class Forked(Unsignable):
    """The tree does not continue the one that was signed last: the database was restored, or is another one."""


class WrongOrigin(Unsignable):
    """The tree is stored under another name than this installation gives it."""


class Signed(NamedTuple):
    """The newest checkpoint of a log."""

    size: int
    root: bytes
    note: str
    signed_at: datetime
    is_new: bool


class Locked(NamedTuple):
    """A tree whose row is locked, as it is stored: its size and root are those of its tiles."""

    zone: str
    log: str
    origin: str
    tree: Tree
    root: bytes


def extend_and_sign(
    connection: psycopg.Connection[Any],
    pepper: bytes,
    origin: str,
    zone: str,
    *,
    attesting: bool = True,
    keeper: Keeper | None = None,
) -> dict[str, Signed]:
    """Bring both trees up to the logs' heads and publish checkpoints of them, by log. Raises Unsignable.

    `connection` is in autocommit. What the fates and attestations speak of is in the tree of events by the time
    that they are signed, so that tree is extended once more behind them.
    """
    begin(connection, pepper, origin, zone)
    extend(connection, zone, EVENTS)
    if attesting:
        attest(connection, zone)
    extend(connection, zone, FATES)
    extend(connection, zone, EVENTS)
    signed = {log: sign(connection, pepper, origin, zone, log, keeper) for log in LOGS}
    connection.execute(SAID_WELL, (zone,))
    return signed


def origin_of(origin: str, zone: str, log: str) -> str:
    """The name of a log, which its checkpoints begin with."""
    return f"{origin}/{zone}" if log == EVENTS else f"{origin}/{zone}/{log}"


def begin(connection: psycopg.Connection[Any], pepper: bytes, origin: str, zone: str) -> None:
    """Give the zone its trees and a signing key, unless it has them.

    The keys of a log that was replayed from elsewhere are retired, so this installation begins with the next one.
    """
    connection.execute(ADD_TREES, (zone, f"{origin}/{zone}", EMPTY_ROOT))
    if connection.execute(LIVE_KEYS, (zone,)).fetchone() is None:
        with connection.transaction():
            lock(connection, zone, FATES)
            row = connection.execute(NEXT_SERIAL, (zone,)).fetchone()
            if row is not None:
                public_key = log_key(pepper, zone, row[0]).public_key().public_bytes_raw()
                connection.execute(ADD_KEY, (zone, row[0], public_key))
                add(connection, zone, KEY, [key_body("added", row[0], public_key)])


# Trees


def lock(connection: psycopg.Connection[Any], zone: str, log: str) -> Locked:
    """Lock a tree within a transaction. Raises TreeBroken where its tiles do not lead to its root."""
    with connection.cursor(binary=True) as cursor:
        row = cursor.execute(LOCK_TREE, (zone, log)).fetchone()
    assert row is not None, "begun"
    origin, size, root = row
    levels = ((level, *divmod(size >> (HEIGHT * level), WIDTH)) for level in range(MOST_LEVELS))
    try:
        tree = Tree(_stored(connection, zone, log, (TileName(*edge) for edge in levels if edge[2])), size)
    except TruncatedTile as error:
        raise TreeBroken(f"In the tree of {origin}, {error}.") from error
    if tree.root() != root:
        raise TreeBroken(f"The tiles of {origin} do not give the root that is stored for {size} leaves.")
    return Locked(zone, log, origin, tree, root)


def root_at(connection: psycopg.Connection[Any], zone: str, log: str, size: int) -> bytes:
    """The root that the tiles gave when the tree had this size. Raises TreeBroken."""
    try:
        return root_of(stored_tiles(connection, zone, log, tiles_of(size, [(0, size)])), size)
    except TruncatedTile as error:
        raise TreeBroken(f"In the tree of zone {zone}'s {log}, {error}.") from error


def stored_tiles(connection: psycopg.Connection[Any], zone: str, log: str, names: Iterable[TileName]) -> Tile:
    """These tiles, read at once; one that has grown since is as narrow as it is asked for."""
    tile = _stored(connection, zone, log, names)
    return lambda level, index, width: tile(level, index, width)[: width * HASH_BYTES]


def _stored(connection: psycopg.Connection[Any], zone: str, log: str, names: Iterable[TileName]) -> Tile:
    levels, indexes, _ = [[*column] for column in zip(*names, strict=True)] or ([], [], [])
    with connection.cursor(binary=True) as cursor:
        rows = cursor.execute(TILES, (levels, indexes, zone, log)).fetchall()
    found = {(level, index): hashes for level, index, hashes in rows}
    return lambda level, index, width: found.get((level, index), b"")


def extend(connection: psycopg.Connection[Any], zone: str, log: str) -> int:
    """Add to the tree what its log holds by now; returns the size. Raises LogWentBack and TreeBroken."""
    read = _next_events if log == EVENTS else _next_fates
    while True:
        with connection.transaction():
            locked = lock(connection, zone, log)
            leaves = read(connection, locked)
            if leaves:
                _grow(connection, locked, leaves)
        # A chunk that is not full reached the head, which may have moved on meanwhile: that is for the next time.
        if len(leaves) < CHUNK * HASH_BYTES:
            return locked.tree.size


def _grow(connection: psycopg.Connection[Any], locked: Locked, leaves: bytes) -> None:
    tree, before = locked.tree, locked.tree.size
    tiles = tree.append([leaves])
    levels, indexes = [[*column] for column in zip(*tiles, strict=True)]
    place = (locked.zone, locked.log)
    put = connection.execute(PUT_TILES, (*place, levels, indexes, list(tiles.values())))
    if put.rowcount != len(tiles):
        raise TreeBroken(f"Tiles of {locked.origin} hold other hashes than before.")
    moved = connection.execute(PUT_TREE, (tree.size, tree.root(), *place, before))
    assert moved.rowcount == 1, "the row is locked"


def _next_events(connection: psycopg.Connection[Any], locked: Locked) -> bytes:
    size = locked.tree.size
    position, _ = _head(connection, locked.zone)
    if position < size:
        raise LogWentBack(f"{locked.origin} ends at {position}, and its tree has {size} leaves.")
    return _leaves(connection, EVENT_LEAVES, locked, size, position)


def _next_fates(connection: psycopg.Connection[Any], locked: Locked) -> bytes:
    """Fates, and the attestations that stand behind them."""
    zone, size = locked.zone, locked.tree.size
    attested = attestations_within(connection, zone, size)
    fates = size - attested
    _, number = _head(connection, zone)
    if number < fates:
        raise LogWentBack(f"{locked.origin} ends at fate {number}, and its tree has {fates} of them.")
    leaves = _leaves(connection, FATE_LEAVES, locked, fates, number)
    upto = fates + len(leaves) // HASH_BYTES
    with connection.cursor(binary=True) as cursor:
        between = cursor.execute(ATTESTATIONS, (zone, attested, upto, CHUNK)).fetchall()
    if len(between) == CHUNK:
        upto = between[-1][1]
    parts, done = [], fates
    for expected, (ordinal, after_number, leaf) in enumerate(between, attested + 1):
        if ordinal != expected or after_number < done or len(leaf) != HASH_BYTES:
            raise TreeBroken(f"Attestation {expected} of {locked.origin} is not what it was.")
        parts += [leaves[(done - fates) * HASH_BYTES : (after_number - fates) * HASH_BYTES], leaf]
        done = after_number
    parts.append(leaves[(done - fates) * HASH_BYTES : (upto - fates) * HASH_BYTES])
    return b"".join(parts)


def _head(connection: psycopg.Connection[Any], zone: str) -> tuple[int, int]:
    row = connection.execute(HEAD, (zone,)).fetchone()
    return (row[0], row[1]) if row else (0, 0)


def _leaves(
    connection: psycopg.Connection[Any], statement: str, locked: Locked, after: int, head: int
) -> bytes:
    """The next leaf hashes. Raises TreeBroken where one is missing before the head."""
    with connection.cursor(binary=True) as cursor:
        row = cursor.execute(statement, (locked.zone, after, CHUNK)).fetchone()
    assert row is not None
    count, last, leaves = row
    whole = count and last == after + count and len(leaves) == count * HASH_BYTES
    if not whole and (count or after < head):
        raise TreeBroken(f"{locked.origin} has a gap behind number {after}.")
    return bytes(leaves)


# Attestations and checkpoints


def attest(connection: psycopg.Connection[Any], zone: str) -> int:
    """Attest the read models that have changed; returns how many. The next `extend` adds them to the tree."""
    with connection.transaction():
        lock(connection, zone, FATES)
        return attest_read_models(connection, zone)


def sign(
    connection: psycopg.Connection[Any],
    pepper: bytes,
    origin: str,
    zone: str,
    log: str,
    keeper: Keeper | None = None,
) -> Signed:
    """Publish a checkpoint of the tree, signed by every key that is not retired. Raises Unsignable.

    Ed25519 is deterministic (RFC 8032): where neither the tree nor the keys have changed, the note is the newest
    one that was published, and stays so.
    """
    with connection.transaction(), keeper.alone() if keeper else nullcontext():
        locked = lock(connection, zone, log)
        newest = connection.execute(NEWEST, (zone, log)).fetchone()
        if newest is not None:
            _check_grown(connection, locked, *newest[:2])
        keys = _keys(connection, pepper, zone)
        checkpoint = Checkpoint(locked.origin, locked.tree.size, locked.root)
        kept = check_kept(connection, origin, locked, keeper)
        if keeper is not None:  # Before anybody can see the note: a crash in between forgets nothing.
            _keep(keeper, kept, checkpoint, [*keys])
        note = sign_checkpoint(checkpoint, [*keys.values()])
        if newest is not None and newest[2] == note:
            return Signed(checkpoint.size, checkpoint.root, note, newest[3], False)
        row = connection.execute(PUBLISH, (zone, log, checkpoint.size, checkpoint.root, note)).fetchone()
        assert row is not None
        return Signed(checkpoint.size, checkpoint.root, note, row[0], True)


def check_kept(
    connection: psycopg.Connection[Any], origin: str, locked: Locked, keeper: Keeper | None
) -> Kept | None:
    """What is known of the log outside of the database. Raises WrongOrigin, and Forked where the tree differs."""
    if locked.origin != origin_of(origin, locked.zone, locked.log):
        raise WrongOrigin(
            f"The log {locked.origin} is not of this installation, which is named {origin}: FOGBOOK_LOG_ORIGIN or "
            f"FOGBOOK_PEPPER is another one than it was."
        )
    kept = keeper.last(locked.origin) if keeper else None
    if kept is None:
        return None
    rows = connection.execute(LIVE_KEYS, (locked.zone,)).fetchall()
    if (
        locked.tree.size < kept.size
        or root_at(connection, locked.zone, locked.log, kept.size) != kept.root
        or any(serial < kept.begun for serial, _ in rows)
    ):
        raise Forked(
            f"{locked.origin} does not continue what was signed, {kept.size} leaves: its database was restored, or is "
            f"another one. Bring back the right one, or begin anew: `fogbook checkpoint --begin-anew`."
        )
    return kept


def _keep(keeper: Keeper, before: Kept | None, checkpoint: Checkpoint, serials: list[int]) -> None:
    begun, serial = (before.begun, before.serial) if before else (0, 0)
    now = Kept(checkpoint.origin, checkpoint.size, checkpoint.root, begun, max(serial, *serials))
    if now != before:
        keeper.keep(now)


def _check_grown(connection: psycopg.Connection[Any], locked: Locked, size: int, root: bytes) -> None:
    """The tree must hold what was signed last as its beginning."""
    if locked.tree.size < size:
        raise TreeBroken(f"The tree of {locked.origin} is smaller than the one that was signed last.")
    if root_at(connection, locked.zone, locked.log, size) != root:
        raise TreeBroken(f"The tree of {locked.origin} is not the one that was signed at {size} leaves.")


def _keys(connection: psycopg.Connection[Any], pepper: bytes, zone: str) -> dict[int, Ed25519PrivateKey]:
    """The keys that sign, by their serial numbers. Raises Unsignable."""
    found = {}
    for serial, public_key in connection.execute(LIVE_KEYS, (zone,)).fetchall():
        found[serial] = key = log_key(pepper, zone, serial)
        if key.public_key().public_bytes_raw() != public_key:
            raise WrongSecret(
                f"Signing key {serial} of zone {zone} does not follow from this FOGBOOK_PEPPER."
            )
    if not found:
        raise Unsignable(f"Zone {zone} has no signing key that is not retired.")
    return found
