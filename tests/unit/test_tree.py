"""Merkle trees over tiles: against RFC 6962 as it is written, and against every proof that is not one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections._tree import (
    EMPTY_ROOT,
    ENTRIES,
    HASH_BYTES,
    MOST_HASHES,
    WIDTH,
    BadProof,
    Tile,
    TileName,
    Tree,
    TruncatedTile,
    consistency_path,
    consistency_proof,
    inclusion_path,
    inclusion_proof,
    leaf_hash,
    node_hash,
    parse_tile_path,
    range_hash,
    root_of,
    tiles_of,
    verify_consistency,
    verify_inclusion,
    width_of,
)

LEAVES = [leaf_hash(i.to_bytes(4, "big")) for i in range(70_000)]
KNOWN = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
"""The entries of the tree that implementations of Certificate Transparency are tested with."""
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


# RFC 6962, section 2.1, word by word: slow, recursive and from the leaves alone


def split(count: int) -> int:
    k = 1
    while 2 * k < count:
        k *= 2
    return k


def mth(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: Sequence[bytes], whole: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


# Trees that are grown for the tests


def grown(size: int) -> tuple[Tree, Tile]:
    tree = Tree()
    tiles = tree.append(LEAVES[:size])
    return tree, lambda level, number, width: tiles[level, number][: width * HASH_BYTES]


BIG, BIG_TILE = grown(70_000)
SIZES = st.one_of(
    st.integers(1, 600), st.sampled_from([255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 70_000])
)


@st.composite
def two_sizes(draw: Any) -> tuple[int, int]:
    second = draw(SIZES)
    return draw(st.integers(1, second)), second


@st.composite
def places(draw: Any) -> tuple[int, int]:
    size = draw(SIZES)
    return draw(st.integers(0, size - 1)), size


# Hashes and roots


def test_hashes_are_those_of_the_rfc() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"") == bytes.fromhex(ROOTS[0])
    assert node_hash(b"N123", b"N456") == sha256(b"\x01N123N456").digest()
    assert leaf_hash(b"L123456") == sha256(b"\x00L123456").digest()


def test_the_tree_that_all_implementations_are_tested_with_has_its_roots() -> None:
    tree = Tree()
    for entry, root in zip(KNOWN, ROOTS, strict=True):
        tree.append([leaf_hash(bytes.fromhex(entry))])
        assert tree.root().hex() == root


@settings(max_examples=60)
@given(size=SIZES)
def test_the_root_of_any_earlier_size_is_read_from_the_tiles_of_today(size: int) -> None:
    assert root_of(BIG_TILE, size) == mth(LEAVES[:size])


def test_an_empty_tree_has_the_root_of_nothing() -> None:
    assert Tree().root() == root_of(BIG_TILE, 0) == EMPTY_ROOT


# Growing


@settings(max_examples=40)
@given(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 700)), max_size=6))
def test_a_tree_may_grow_in_any_steps_and_begin_again_from_its_tiles(steps: list[int]) -> None:
    tiles: dict[tuple[int, int], bytes] = {}
    tree, size = Tree(), 0
    for step in steps:
        changed = tree.append(LEAVES[size : size + step])
        for name, hashes in changed.items():
            assert hashes.startswith(tiles.get(name, b"")) and hashes != tiles.get(name)
        tiles |= changed
        size += step
        assert tree.size == size and tree.root() == mth(LEAVES[:size])
        tree = Tree(lambda level, number, width: tiles[level, number], size)  # noqa: B023 - read at once
    assert tiles == (Tree().append(LEAVES[:size]))
    assert all(len(hashes) == HASH_BYTES * width_of(size, *name) for name, hashes in tiles.items())


def test_a_tree_has_the_tiles_that_the_specification_counts() -> None:
    tiles = Tree().append(LEAVES)
    widths = [
        [len(hashes) // HASH_BYTES for (level, _), hashes in tiles.items() if level == n] for n in range(4)
    ]
    assert widths == [[256] * 273 + [112], [256, 17], [1], []]
    assert width_of(256, 0, 0) == 256 and width_of(256, 1, 0) == 1


def test_what_is_no_leaf_hash_does_not_enter_a_tree() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Tree().append([b"short"])


def test_a_truncated_tile_is_named() -> None:
    def cut(level: int, number: int, width: int) -> bytes:
        hashes = BIG_TILE(level, number, width)
        return hashes[:-1] if (level, number) == (0, 273) else hashes

    for read in (
        lambda: Tree(cut, 70_000),
        lambda: root_of(cut, 70_000),
        lambda: inclusion_proof(cut, 69_990, 70_000),
    ):
        with pytest.raises(TruncatedTile, match=r"tile/0/273\.p/112 does not hold 112 hashes"):
            read()


# Proofs


@settings(max_examples=80)
@given(places())
def test_inclusion_proofs_are_those_of_the_rfc_and_hold(place: tuple[int, int]) -> None:
    index, size = place
    proof = inclusion_proof(BIG_TILE, index, size)
    assert proof == path(index, LEAVES[:size])
    verify_inclusion(LEAVES[index], index, size, proof, mth(LEAVES[:size]))


@settings(max_examples=80)
@given(two_sizes())
def test_consistency_proofs_are_those_of_the_rfc_and_hold(sizes: tuple[int, int]) -> None:
    first, second = sizes
    proof = consistency_proof(BIG_TILE, first, second)
    assert proof == subproof(first, LEAVES[:second], True)
    verify_consistency(first, second, mth(LEAVES[:first]), mth(LEAVES[:second]), proof)


def test_every_place_and_every_pair_of_sizes_of_small_trees_is_proven() -> None:
    roots = [mth(LEAVES[:size]) for size in range(40)]
    for size in range(1, 40):
        for index in range(size):
            verify_inclusion(LEAVES[index], index, size, inclusion_proof(BIG_TILE, index, size), roots[size])
        for first in range(1, size + 1):
            proof = consistency_proof(BIG_TILE, first, size)
            verify_consistency(first, size, roots[first], roots[size], proof)


@settings(max_examples=40)
@given(places(), two_sizes())
def test_the_tiles_of_a_proof_are_known_before_any_is_read(
    place: tuple[int, int], sizes: tuple[int, int]
) -> None:
    for size, ranges in ((place[1], inclusion_path(*place)), (sizes[1], consistency_path(*sizes))):
        read: set[TileName] = set()

        def tile(level: int, number: int, width: int) -> bytes:
            read.add(TileName(level, number, width))  # noqa: B023 - called within the loop
            return BIG_TILE(level, number, width)

        for each in ranges:
            range_hash(tile, size, *each)
        assert read == tiles_of(size, ranges)
        assert all(name.width == width_of(size, *name[:2]) for name in read)


@pytest.mark.parametrize("make", [lambda: inclusion_path(5, 5), lambda: inclusion_path(-1, 5)])
def test_there_is_no_proof_for_an_index_outside_the_tree(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="outside the tree"):
        make()


@pytest.mark.parametrize("make", [lambda: consistency_path(6, 5), lambda: consistency_path(0, 5)])
def test_there_is_no_proof_for_sizes_that_are_reversed_or_from_nothing(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="sizes run from 1"):
        make()


# What is no proof


def flipped(hashes: list[bytes], which: int, bit: int) -> list[bytes]:
    changed = bytearray(hashes[which])
    changed[bit // 8] ^= 1 << bit % 8
    return [*hashes[:which], bytes(changed), *hashes[which + 1 :]]


@settings(max_examples=80)
@given(places(), st.data())
def test_an_inclusion_proof_that_was_changed_anywhere_does_not_hold(
    place: tuple[int, int], data: Any
) -> None:
    index, size = place
    leaf, root, proof = LEAVES[index], mth(LEAVES[:size]), inclusion_proof(BIG_TILE, index, size)
    other = data.draw(st.integers(0, len(proof)), label="where")
    bit = data.draw(st.integers(0, 255), label="bit")
    changed = [
        (flipped([leaf], 0, bit)[0], index, size, proof, root),
        (leaf, index, size, proof, flipped([root], 0, bit)[0]),
        (leaf, index, size, [*proof[:other], leaf_hash(b"x"), *proof[other:]], root),
        (leaf, index, size, [*proof, root], root),
        (leaf, index, size, [b"", *proof], root),
        (leaf, index, size, [each[:-1] for each in proof] or [b""], root),
        (leaf[:-1], index, size, proof, root),
        (leaf, size, size, proof, root),
        (leaf, -1, size, proof, root),
        (leaf, index, 0, proof, root),
    ]
    if proof:
        changed += [
            (leaf, index, size, flipped(proof, other % len(proof), bit), root),
            (leaf, index, size, proof[:-1], root),
            (leaf, index, size, proof[1:], root),
            (leaf, index ^ 1, size, proof, root),
            (leaf, index + size, size, proof, root),
        ]
    for case in changed:
        with pytest.raises(BadProof):
            verify_inclusion(*case)


@settings(max_examples=80)
@given(two_sizes(), st.data())
def test_a_consistency_proof_that_was_changed_anywhere_does_not_hold(
    sizes: tuple[int, int], data: Any
) -> None:
    first, second = sizes
    old, new = mth(LEAVES[:first]), mth(LEAVES[:second])
    proof = consistency_proof(BIG_TILE, first, second)
    other = data.draw(st.integers(0, len(proof)), label="where")
    bit = data.draw(st.integers(0, 255), label="bit")
    changed = [
        (first, second, flipped([old], 0, bit)[0], new, proof),
        (first, second, old, flipped([new], 0, bit)[0], proof),
        (first, second, old, new, [*proof[:other], leaf_hash(b"x"), *proof[other:]]),
        (first, second, old, new, [*proof, new]),
        (first, second, old[:-1], new, proof),
        (first, second, old, new, [*proof, b""]),
        (0, second, EMPTY_ROOT, new, []),
        (0, second, EMPTY_ROOT, new, proof),
        (-first, second, old, new, proof),
        (second + 1, second, old, new, proof),
    ]
    if first < second:
        changed += [
            (first, second, old, new, flipped(proof, other % len(proof), bit)),
            (first, second, old, new, proof[:-1]),
            (first, second, old, new, proof[1:]),
            (first, second, old, new, []),
            (first, second, new, old, proof),
            (second, first, new, old, proof),
            (first, first, old, new, []),
            (first, first, old, old, proof),
        ]
    for case in changed:
        with pytest.raises(BadProof):
            verify_consistency(*case)


def test_a_proof_is_bounded() -> None:
    for verify in (
        lambda: verify_inclusion(LEAVES[0], 0, 1 << 62, [LEAVES[1]] * (MOST_HASHES + 1), LEAVES[2]),
        lambda: verify_consistency(1, 1 << 62, LEAVES[0], LEAVES[1], [LEAVES[1]] * 1_000_000),
    ):
        with pytest.raises(BadProof, match="at most 64 hashes"):
            verify()
    with pytest.raises(BadProof, match="outside the tree"):
        verify_inclusion(LEAVES[0], 0, 1 << 63, [], LEAVES[0])


def test_what_is_wrong_with_a_proof_is_said() -> None:
    root = mth(LEAVES[:6])
    proof = inclusion_proof(BIG_TILE, 2, 6)
    for hashes, message in (
        (proof[:-1], "too short"),
        ([*proof, root], "too long"),
        (proof[::-1], "another root"),
    ):
        with pytest.raises(BadProof, match=message):
            verify_inclusion(LEAVES[2], 2, 6, hashes, root)
    old, proof = mth(LEAVES[:3]), consistency_proof(BIG_TILE, 3, 6)
    for first, second, message in ((root, root, "another first root"), (old, old, "another second root")):
        with pytest.raises(BadProof, match=message):
            verify_consistency(3, 6, first, second, proof)


# Paths


@given(st.integers(-1, 63), st.integers(0, 10**12), st.integers(1, WIDTH))
def test_each_tile_has_one_path(level: int, number: int, width: int) -> None:
    name = TileName(level, number, width)
    assert parse_tile_path(name.path()) == name


def test_paths_are_those_of_the_specification() -> None:
    assert TileName(0, 1_234_067, 256).path() == "tile/0/x001/x234/067"
    assert TileName(0, 1_234_067, 8).path() == "tile/0/x001/x234/067.p/8"
    assert TileName(ENTRIES, 0, 255).path() == "tile/entries/000.p/255"
    assert TileName(63, 1_000, 256).path() == "tile/63/x001/000"


NO_PATHS = """
    tile tile/0 tile/0/ tile/0/0 tile/0/00 tile/0/0000 tile/0/x000/001 tile/0/001/x002 tile/0/x001 tile/00/001
    tile/64/001 tile/-1/001 tile/data/001 tile/0/001.p/0 tile/0/001.p/256 tile/0/001.p/08 tile/0/001.p/
    tile/0/001.p/999 tile/0/001/ /tile/0/001 tile/\u0660/001 tile/0/x1/001 tile/0/001.p/1/2
    tile/0/x001/x001/x001/x001/x001/x001/001
"""


@pytest.mark.parametrize("given_path", ["", "tile/0/001\n", *NO_PATHS.split()])
def test_other_paths_name_no_tile(given_path: str) -> None:
    assert parse_tile_path(given_path) is None


@given(st.text("0123456789x/.p-", max_size=24))
def test_whatever_names_a_tile_names_it_in_its_one_way(text: str) -> None:
    name = parse_tile_path(f"tile/{text}")
    assert name is None or name.path() == f"tile/{text}"
