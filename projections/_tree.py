"""Merkle trees of RFC 6962 (section 2.1) over tiles of 256 hashes (C2SP tlog-tiles), and proofs read from them.

The tile at a level and index holds the hashes of up to 256 neighbouring subtrees of 256^level leaves each; only the
rightmost tile of a level is narrower. A proof is the hashes of some ranges of leaves; which ranges, and in which tiles
their hashes stand, follows from sizes and indexes alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple

HEIGHT = 8
WIDTH = 1 << HEIGHT
HASH_BYTES = 32
TILE_BYTES = WIDTH * HASH_BYTES
ENTRIES = -1
"""Stands for the entries themselves where the level of a tile is named."""
MOST_LEVELS = 8
MOST_SIZE = 1 << 62
MOST_HASHES = 64
"""No proof is longer."""
EMPTY_ROOT = sha256(b"").digest()

Tile = Callable[[int, int, int], bytes]
"""Level, number and width -> so many hashes, one behind the other."""
Range = tuple[int, int]
"""The leaves from the first index up to the second, which is not among them."""


class BadProof(Exception):
    """A proof does not prove what it should; the message says why."""


class TruncatedTile(Exception):
    """A tile does not hold the hashes that it must hold in a tree of this size."""

    def __init__(self, name: TileName) -> None:
        super().__init__(f"{name.path()} does not hold {name.width} hashes")
        self.name = name


class TileName(NamedTuple):
    level: int
    number: int
    """Its index within the level."""
    width: int

    def path(self) -> str:
        """`tile/0/x001/x234/067.p/8`: the path of a tile or bundle of entries, as tlog-tiles has it."""
        elements = [f"{self.number % 1000:03}"]
        rest = self.number // 1000
        while rest:
            elements.append(f"x{rest % 1000:03}")
            rest //= 1000
        level = "entries" if self.level == ENTRIES else str(self.level)
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{level}/{'/'.join(reversed(elements))}{partial}"


_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.A)


def parse_tile_path(path: str) -> TileName | None:
    """The tile that a path names; None where it names none, so that each tile has one path."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    level = ENTRIES if found[1] == "entries" else int(found[1])
    name = TileName(level, int(re.sub("[x/]", "", found[2])), int(found[3] or WIDTH))
    return name if name.level < 64 and name.width <= WIDTH and name.path() == path else None


# Hashes


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _complete(hashes: bytes) -> bytes:
    """The root over a power of two of neighbouring hashes."""
    while len(hashes) > HASH_BYTES:
        hashes = b"".join(
            [sha256(b"\x01" + hashes[i : i + 64]).digest() for i in range(0, len(hashes), 2 * HASH_BYTES)]
        )
    return hashes


def width_of(size: int, level: int, number: int) -> int:
    """How many hashes a tile holds in a tree of this size; 0 or less where there is no such tile."""
    return min((size >> (HEIGHT * level)) - number * WIDTH, WIDTH)


# Ranges of leaves


def _subtrees(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The complete subtrees that a range is made of, from the left: height, and index among those of its height."""
    while start < end:
        height = (end - start).bit_length() - 1
        yield height, start >> height
        start += 1 << height


def _place(size: int, height: int, index: int) -> tuple[TileName, int, int]:
    """Where the hashes under a complete subtree stand: the tile, the first one in it, and how many."""
    level, within = divmod(height, HEIGHT)
    number, offset = divmod(index << within, WIDTH)
    return TileName(level, number, width_of(size, level, number)), offset, 1 << within


def tiles_of(size: int, ranges: Iterable[Range]) -> set[TileName]:
    """The tiles in which the hashes of these ranges stand, as wide as they are in a tree of this size."""
    return {_place(size, *subtree)[0] for each in ranges for subtree in _subtrees(*each)}


def range_hash(tile: Tile, size: int, start: int, end: int) -> bytes:
    """The hash over the leaves from start up to end, a range that `inclusion_path` or `consistency_path` names."""
    parts = []
    for subtree in _subtrees(start, end):
        name, offset, count = _place(size, *subtree)
        hashes = tile(*name)
        if len(hashes) != name.width * HASH_BYTES:
            raise TruncatedTile(name)
        parts.append(_complete(hashes[offset * HASH_BYTES : (offset + count) * HASH_BYTES]))
    root = parts.pop()
    while parts:
        root = node_hash(parts.pop(), root)
    return root


def root_of(tile: Tile, size: int) -> bytes:
    return range_hash(tile, size, 0, size) if size else EMPTY_ROOT


# Growing


class Tree:
    """A tree that grows: its size, and of each level the rightmost tile as long as it is not full."""

    def __init__(self, tile: Tile | None = None, size: int = 0) -> None:
        self.size = size
        self._edge: list[bytes] = []
        for level in range(MOST_LEVELS if size else 0):
            index, width = divmod(size >> (HEIGHT * level), WIDTH)
            assert tile is not None, "a tree that holds something comes from somewhere"
            hashes = tile(level, index, width) if width else b""
            if len(hashes) != width * HASH_BYTES:
                raise TruncatedTile(TileName(level, index, width))
            self._edge.append(hashes)

    def append(self, leaves: Iterable[bytes]) -> dict[tuple[int, int], bytes]:
        """Add leaf hashes; returns all tiles that are new or wider now, by level and index."""
        changed: dict[tuple[int, int], bytes] = {}
        added = b"".join(leaves)
        if len(added) % HASH_BYTES:
            raise ValueError("a leaf hash has 32 bytes")
        first, self.size = self.size, self.size + len(added) // HASH_BYTES
        for level in range(MOST_LEVELS):
            if not added:
                break
            if level == len(self._edge):
                self._edge.append(b"")
            index = (first >> (HEIGHT * level)) // WIDTH
            hashes = self._edge[level] + added
            whole = len(hashes) - len(hashes) % TILE_BYTES
            full = [hashes[i : i + TILE_BYTES] for i in range(0, whole, TILE_BYTES)]
            changed |= {(level, index + i): each for i, each in enumerate(full)}
            self._edge[level] = hashes[whole:]
            if self._edge[level]:
                changed[level, index + len(full)] = self._edge[level]
            added = b"".join(map(_complete, full))
        return changed

    def root(self) -> bytes:
        return root_of(lambda level, index, width: self._edge[level], self.size)


# Proofs


def _split(count: int) -> int:
    """The largest power of two below a number of leaves: so many stand in the left subtree."""
    return 1 << ((count - 1).bit_length() - 1)


def inclusion_path(index: int, size: int) -> list[Range]:
    """PATH of RFC 6962, 2.1.1, as the ranges whose hashes it is made of, from the leaf's sibling up."""
    if not 0 <= index < size <= MOST_SIZE:
        raise ValueError("the index lies outside the tree")
    start, end, path = 0, size, []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return path[::-1]


def consistency_path(first: int, second: int) -> list[Range]:
    """PROOF of RFC 6962, 2.1.2, likewise: that the first tree is the beginning of the second."""
    if not 0 < first <= second <= MOST_SIZE:
        raise ValueError("sizes run from 1, and the first is the smaller one")
    start, end, path = 0, second, []
    while first < end:
        middle = start + _split(end - start)
        if first <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    if start:
        path.append((start, end))
    return path[::-1]


def inclusion_proof(tile: Tile, index: int, size: int) -> list[bytes]:
    return [range_hash(tile, size, *each) for each in inclusion_path(index, size)]


def consistency_proof(tile: Tile, first: int, second: int) -> list[bytes]:
    return [range_hash(tile, second, *each) for each in consistency_path(first, second)]


# Verification


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if len(hashes) > MOST_HASHES or any(len(each) != HASH_BYTES for each in hashes):
        raise BadProof("A proof is at most 64 hashes of 32 bytes.")


def _sides(inner: int, last: int, count: int) -> list[bool]:
    """For each of so many hashes whether it stands to the left: the loop of RFC 9162, 2.1.3.2 and 2.1.4.2.

    `inner` is a node's index, `last` that of the rightmost node at its height; both rise to the root.
    """
    sides = []
    for _ in range(count):
        if last == 0:
            raise BadProof("The proof is too long.")
        left = bool(inner & 1) or inner == last
        if left:
            while not inner & 1 and inner:
                inner, last = inner >> 1, last >> 1
        sides.append(left)
        inner, last = inner >> 1, last >> 1
    if last:
        raise BadProof("The proof is too short.")
    return sides


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """RFC 9162, 2.1.3.2. Raises BadProof unless the leaf is at that index of the tree of that size and root."""
    _check_hashes([leaf, root, *proof[: MOST_HASHES + 1]])
    if not 0 <= index < size <= MOST_SIZE:
        raise BadProof("The index lies outside the tree.")
    node = leaf
    for hash, left in zip(proof, _sides(index, size - 1, len(proof)), strict=True):
        node = node_hash(hash, node) if left else node_hash(node, hash)
    if node != root:
        raise BadProof("The proof leads to another root.")


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """RFC 9162, 2.1.4.2. Raises BadProof unless the first tree is the beginning of the second."""
    _check_hashes([first_root, second_root, *proof[: MOST_HASHES + 1]])
    if not 0 < first <= second <= MOST_SIZE:
        raise BadProof("Sizes run from 1, and the first is the smaller one.")
    if first == second:
        if proof or first_root != second_root:
            raise BadProof("Trees of one size are one tree, with nothing to prove.")
        return
    whole = first & (first - 1) == 0  # Then the first root is a node of the second tree, and is not sent.
    path = [first_root, *proof] if whole else list(proof)
    if not path:
        raise BadProof("The proof is too short.")
    inner, last = first - 1, second - 1
    while inner & 1:
        inner, last = inner >> 1, last >> 1
    old = new = path[0]
    for hash, left in zip(path[1:], _sides(inner, last, len(path) - 1), strict=True):
        if left:
            old, new = node_hash(hash, old), node_hash(hash, new)
        else:
            new = node_hash(new, hash)
    if old != first_root:
        raise BadProof("The proof leads to another first root.")
    if new != second_root:
        raise BadProof("The proof leads to another second root.")
