"""Checkpoints as signed notes: the published examples, and everything that is forged, malformed or of others."""

from __future__ import annotations

import base64
from collections.abc import Callable

import metamorphic_log
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from projections._notes import (
    COSIGNATURE,
    DASH,
    ED25519,
    MOST_SIGNATURES,
    Checkpoint,
    ForgedSignature,
    MalformedNote,
    Note,
    NoteError,
    Signature,
    UnknownKey,
    UnknownOrigin,
    VerifierKey,
    cosign,
    open_checkpoint,
    parse_checkpoint,
    parse_key,
    parse_note,
    sign,
    sign_checkpoint,
    verifier_key,
)
from projections._tree import Tree, consistency_proof, inclusion_proof, leaf_hash, root_of

# From the specification (c2sp.org/signed-note) and from the package golang.org/x/mod/sumdb/note.
SPECIFIED_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPECIFIED = f"""This is an example message.

{DASH}example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""
PETER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
PETER_TEXT = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
)
PETER_LINE = (
    f"{DASH}PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_KEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
ENOCH_LINE = (
    f"{DASH}EnochRoot "
    "rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)

ORIGIN = "fogbook-0123456789ab/main"
ROOT = bytes(range(32))
FIRST, SECOND, WITNESS = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3))
CHECKPOINT = Checkpoint(ORIGIN, 7, ROOT)
KEYS = [verifier_key(ORIGIN, FIRST)]
WITNESS_KEY = verifier_key("witness.example/w1", WITNESS, COSIGNATURE)


# What others have published


def test_the_note_of_the_specification_is_verified() -> None:
    key, note = parse_key(SPECIFIED_KEY), parse_note(SPECIFIED)
    assert str(key) == SPECIFIED_KEY and str(note) == SPECIFIED
    assert note.text == "This is an example message.\n"
    assert list(note.signed_by([key])) == [key]


def test_the_notes_of_the_go_implementation_are_verified_and_made_alike() -> None:
    peter, enoch = parse_key(PETER_KEY), parse_key(ENOCH_KEY)
    note = parse_note(f"{PETER_TEXT}\n{PETER_LINE}{ENOCH_LINE}")
    assert note.text == PETER_TEXT and set(note.signed_by([peter, enoch])) == {peter, enoch}
    assert list(note.signed_by([enoch])) == [enoch]
    private = Ed25519PrivateKey.from_private_bytes(PETER_SEED)
    assert sign(PETER_TEXT, "PeterNeumann", private).line() == PETER_LINE
    assert verifier_key("PeterNeumann", private) == peter
    assert sign(PETER_TEXT, "EnochRoot", Ed25519PrivateKey.from_private_bytes(bytes(32))).line() == ENOCH_LINE


# Keys


@pytest.mark.parametrize(
    "vkey",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        PETER_KEY.upper(),
        PETER_KEY.replace("c74f", "C74F"),
        PETER_KEY.replace("Neumann", " Neumann"),
        f"{PETER_KEY}\n",
        f"{PETER_KEY}+",
        "",
        "+",
        "++",
    ],
)
def test_what_is_no_verifier_key_is_refused(vkey: str) -> None:
    with pytest.raises(MalformedNote):
        parse_key(vkey)


@given(st.integers(0, len(PETER_KEY) - 1), st.integers(0, len(PETER_KEY)), st.integers(1, 3))
def test_no_part_of_a_key_and_no_key_that_was_changed_is_a_key(start: int, end: int, step: int) -> None:
    changed = PETER_KEY[:start] + chr(ord(PETER_KEY[start]) + step) + PETER_KEY[start + 1 :]
    for vkey in (PETER_KEY[:start] + PETER_KEY[start + 1 :], PETER_KEY[:end][start:], changed):
        if vkey != PETER_KEY:
            with pytest.raises(MalformedNote):
                parse_key(vkey)


def test_a_key_has_a_name_without_spaces_and_plus_signs() -> None:
    for name in ("", "a b", "a+b", "a\u00a0b", "a\n"):
        with pytest.raises(MalformedNote, match="neither spaces nor plus"):
            verifier_key(name, FIRST)


def test_one_key_has_another_id_as_a_witness_and_under_another_name() -> None:
    keys = {verifier_key(name, FIRST, type).id for name in ("a", "b") for type in (ED25519, COSIGNATURE)}
    assert len(keys) == 4


# Checkpoints


def test_a_checkpoint_that_is_signed_is_opened_by_its_key() -> None:
    note = sign_checkpoint(CHECKPOINT, [FIRST])
    assert note.startswith(f"{ORIGIN}\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n\n{DASH}{ORIGIN} ")
    assert open_checkpoint(note, KEYS) == open_checkpoint(note.encode(), KEYS) == CHECKPOINT


def test_while_keys_are_rotated_either_one_opens_the_checkpoint() -> None:
    note = sign_checkpoint(CHECKPOINT, [FIRST, SECOND])
    for key in (FIRST, SECOND):
        assert open_checkpoint(note, [verifier_key(ORIGIN, key)]) == CHECKPOINT


def test_a_checkpoint_of_a_log_that_nobody_knows_is_refused() -> None:
    note = sign_checkpoint(Checkpoint(f"{ORIGIN}/fates", 7, ROOT), [FIRST])
    with pytest.raises(UnknownOrigin, match=r"No key is known of the log .*/fates"):
        open_checkpoint(note, KEYS)
    with pytest.raises(UnknownOrigin):
        open_checkpoint(sign_checkpoint(CHECKPOINT, [FIRST]), [])


def test_a_checkpoint_that_another_key_has_signed_is_refused() -> None:
    with pytest.raises(UnknownKey, match="No known key"):
        open_checkpoint(sign_checkpoint(CHECKPOINT, [SECOND]), KEYS)


def test_the_signature_of_a_witness_alone_is_not_the_logs() -> None:
    note = str(Note(CHECKPOINT.text(), (cosign(CHECKPOINT.text(), WITNESS_KEY.name, WITNESS, 1),)))
    with pytest.raises(UnknownKey):
        open_checkpoint(note, [*KEYS, WITNESS_KEY])
    # Nor does the log's key serve as that of a witness.
    own = verifier_key(ORIGIN, FIRST, COSIGNATURE)
    note = str(Note(CHECKPOINT.text(), (cosign(CHECKPOINT.text(), ORIGIN, FIRST, 1),)))
    with pytest.raises(UnknownKey):
        open_checkpoint(note, [*KEYS, own])


@given(st.data())
def test_a_signed_checkpoint_that_was_changed_anywhere_is_refused(data: st.DataObject) -> None:
    note = sign_checkpoint(CHECKPOINT, [FIRST]).encode()
    where = data.draw(st.integers(0, len(note) - 1))
    changed = bytearray(note)
    changed[where] ^= data.draw(st.integers(1, 255))
    with pytest.raises(NoteError):
        open_checkpoint(bytes(changed), KEYS)
    for part in (note[:where], note[:where] + note[where + 1 :]):
        with pytest.raises(NoteError):
            open_checkpoint(part, KEYS)


def test_one_forged_signature_of_a_known_key_spoils_the_note() -> None:
    good = sign(CHECKPOINT.text(), ORIGIN, FIRST)
    forged = Signature(good.name, good.key_id, good.value[::-1])
    short = Signature(good.name, good.key_id, good.value[:-1])
    for bad in (forged, short):
        with pytest.raises(ForgedSignature):
            open_checkpoint(str(Note(CHECKPOINT.text(), (good, bad))), KEYS)
    stranger = Signature("stranger", bytes(4), bytes(64))
    assert open_checkpoint(str(Note(CHECKPOINT.text(), (stranger, good, good))), KEYS) == CHECKPOINT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"{ORIGIN}\n7\n",
        CHECKPOINT.text().removesuffix("\n"),
        CHECKPOINT.text() + "an extension\n",
        CHECKPOINT.text() + "\n",
        CHECKPOINT.text().replace("\n7\n", "\n07\n"),
        CHECKPOINT.text().replace("\n7\n", "\n-7\n"),
        CHECKPOINT.text().replace("\n7\n", "\n\u0667\n"),
        CHECKPOINT.text().replace("\n7\n", f"\n{2**62 + 1}\n"),
        CHECKPOINT.text().replace("\n7\n", f"\n{10**30}\n"),
        CHECKPOINT.text().replace("Hh8=", "Hh9="),
        CHECKPOINT.text().replace("Hh8=", "Hh8"),
        CHECKPOINT.text().replace("Hh8=", ""),
        CHECKPOINT.text().replace(ORIGIN, "an origin"),
        CHECKPOINT.text().replace(ORIGIN, ""),
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(MalformedNote):
        parse_checkpoint(text)


def test_an_empty_log_has_a_checkpoint() -> None:
    empty = Checkpoint(ORIGIN, 0, ROOT)
    assert open_checkpoint(sign_checkpoint(empty, [FIRST]), KEYS) == empty


# Notes


@pytest.mark.parametrize(
    "note",
    [
        PETER_TEXT,
        f"{PETER_TEXT}\n",
        f"{PETER_TEXT}\n{PETER_LINE}"[:-1],
        f"\x01{PETER_TEXT}\n{PETER_LINE}",
        f"{PETER_TEXT}\r\n{PETER_LINE}",
        f"{PETER_TEXT}\n{PETER_LINE}".encode() + b"\xff",
        f"{PETER_TEXT}\n{PETER_LINE}Unexpected line.\n",
        f"{PETER_TEXT}\n{PETER_LINE.replace('Peter', 'Peter ')}",
        f"{PETER_TEXT}\n{PETER_LINE.replace(DASH, '- ')}",
        f"{PETER_TEXT}\n{DASH}PeterNeumann AAAAAA==\n",
        f"{PETER_TEXT}\n{DASH}PeterNeumann \n",
        f"{PETER_TEXT}\n{PETER_LINE * (MOST_SIGNATURES + 1)}",
        f"{'a' * 70_000}\n\n{PETER_LINE}",
    ],
)
def test_what_is_no_note_is_refused(note: str | bytes) -> None:
    with pytest.raises(MalformedNote):
        parse_note(note)


def test_the_text_ends_at_the_last_empty_line() -> None:
    text = "one\n\ntwo\n"
    note = str(Note(text, (sign(text, "a", FIRST),)))
    assert parse_note(note).text == text and parse_note(note).signed_by([verifier_key("a", FIRST)])


# Witnesses


def test_a_cosignature_signs_the_time_and_the_whole_checkpoint() -> None:
    signature = cosign(CHECKPOINT.text(), WITNESS_KEY.name, WITNESS, 1_679_315_147)
    assert signature.value[:8] == (1_679_315_147).to_bytes(8, "big")
    message = f"cosignature/v1\ntime 1679315147\n{CHECKPOINT.text()}".encode()
    WITNESS.public_key().verify(signature.value[8:], message)
    note = parse_note(sign_checkpoint(CHECKPOINT, [FIRST]) + signature.line())
    assert set(note.signed_by([*KEYS, WITNESS_KEY])) == {*KEYS, WITNESS_KEY}
    assert parse_key(str(WITNESS_KEY)) == WITNESS_KEY


@pytest.mark.parametrize(
    "forge",
    [
        lambda value: (1).to_bytes(8, "big") + value[8:],
        lambda value: value[:8] + value[:7:-1],
        lambda value: value[8:],
        lambda value: value + b"\0",
        lambda value: b"\xff" * 8 + value[8:],
        lambda value: value[:4],
    ],
)
def test_a_forged_cosignature_is_refused(forge: Callable[[bytes], bytes]) -> None:
    good = cosign(CHECKPOINT.text(), WITNESS_KEY.name, WITNESS, 1_679_315_147)
    bad = Signature(good.name, good.key_id, forge(good.value))
    with pytest.raises(ForgedSignature):
        Note(CHECKPOINT.text(), (bad,)).signed_by([WITNESS_KEY])


def test_a_cosignature_is_of_one_checkpoint_only() -> None:
    signature = cosign(CHECKPOINT.text(), WITNESS_KEY.name, WITNESS, 1)
    with pytest.raises(ForgedSignature, match=r"not of witness\.example/w1's key"):
        Note(Checkpoint(ORIGIN, 8, ROOT).text(), (signature,)).signed_by([WITNESS_KEY])


def test_a_key_that_is_no_point_of_the_curve_verifies_nothing() -> None:
    key = VerifierKey("a", ED25519, b"\xff" * 32)
    with pytest.raises(ForgedSignature):
        key.verify("text\n", bytes(64))


# An implementation that is not ours: metamorphic-log, in Rust


def test_others_verify_our_checkpoints_and_proofs() -> None:
    leaves = [leaf_hash(bytes([n % 256, n // 256])) for n in range(700)]
    tiles = Tree().append(leaves)

    def tile(level: int, number: int, width: int) -> bytes:
        return tiles[level, number][: width * 32]

    vkeys = [str(KEYS[0])]
    witnessed = cosign(CHECKPOINT.text(), WITNESS_KEY.name, WITNESS, 1).line()
    notes = {
        n: sign_checkpoint(Checkpoint(ORIGIN, n, root_of(tile, n)), [FIRST]) for n in (1, 255, 256, 300, 700)
    }
    for size, note in notes.items():
        head = metamorphic_log.checkpoint_verify(note + witnessed, vkeys)
        assert (head.origin, head.size, head.root) == (ORIGIN, size, root_of(tile, size))
        for index in {0, size // 2, size - 1}:
            proof = inclusion_proof(tile, index, size)
            metamorphic_log.checkpoint_verify_inclusion(note, vkeys, index, leaves[index], proof)
            with pytest.raises(metamorphic_log.VerifyError):
                metamorphic_log.checkpoint_verify_inclusion(note, vkeys, index, leaf_hash(b"other"), proof)
        for smaller in (n for n in notes if n <= size):
            proof = consistency_proof(tile, smaller, size)
            metamorphic_log.checkpoint_verify_consistency(notes[smaller], note, vkeys, proof)
            with pytest.raises(metamorphic_log.VerifyError):
                metamorphic_log.checkpoint_verify_consistency(
                    notes[smaller], note, vkeys, [*proof, leaves[0]]
                )


def test_others_refuse_what_we_refuse() -> None:
    note, vkeys = sign_checkpoint(CHECKPOINT, [FIRST]), [str(KEYS[0])]
    for bad, keys in (
        (note.replace("\n7\n", "\n8\n"), vkeys),
        (note, [str(verifier_key(ORIGIN, SECOND))]),
        (sign_checkpoint(CHECKPOINT, [SECOND]), vkeys),
        (note[:-1], vkeys),
    ):
        with pytest.raises(metamorphic_log.VerifyError):
            metamorphic_log.checkpoint_verify(bad, keys)
        with pytest.raises(NoteError):
            open_checkpoint(bad, map(parse_key, keys))
