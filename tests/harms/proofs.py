"""Harm to what proves the log: trees, tiles, keys, signed checkpoints, cosignatures and attestations."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from commands._codec import attestation_leaf, decode_json, encode_json, microseconds, zone_prefix
from commands._signatures import log_key
from projections._notes import COSIGNATURE, Checkpoint, cosign, sign_checkpoint, verifier_key
from tests.tampering import Expected, Harm, Kind, cases, flipped, kind, other_text

PREFIX = zone_prefix("main")
TREE = "WHERE zone = 'main' AND log = %s"
TILE = "WHERE zone = 'main' AND log = %s AND level = %s AND index = %s"
ATTESTATION = "WHERE zone = 'main' AND ordinal = %s"
SIGNED = "WHERE zone = 'main' AND log = %s AND size = %s AND signed_at = %s"
LOGS = ("events", "fates")
FORGER = b"a secret of the forger"


# Trees and tiles


def _tree_column(case: tuple[str, Callable[[Any, Random], Any]]) -> Kind:
    column, other = case

    def run(harm: Harm, rng: Random) -> Expected:
        log = rng.choice(LOGS)
        (value,) = harm.one(f"SELECT {column} FROM trees {TREE}", log)
        harm.sql(f"UPDATE trees SET {column} = %s {TREE}", other(value, rng), log)
        return [{"table": "trees", "says": log}]

    return run


cases(
    _tree_column,
    {
        "a tree's root": ("root", flipped),
        "a tree's size": ("size", lambda old, rng: old + rng.choice((-5, -1, 1, 256))),
        "a tree's origin": ("origin", other_text),
    },
)


@kind()
def a_deleted_tree(harm: Harm, rng: Random) -> Expected:
    log = rng.choice(LOGS)
    harm.sql(f"DELETE FROM trees {TREE}", log)
    return [{"table": "trees", "says": log}]


def _tile(harm: Harm, rng: Random) -> tuple[str, int, int, bytes]:
    rows = harm.ask(
        "SELECT log, level, index, hashes FROM tiles WHERE zone = 'main' ORDER BY log, level, index"
    )
    log, level, index, hashes = rng.choice(rows)
    return log, level, index, hashes


@kind()
def a_byte_of_a_tile(harm: Harm, rng: Random) -> Expected:
    log, level, index, hashes = _tile(harm, rng)
    forged = flipped(hashes, rng)
    at = next(i for i, (one, other) in enumerate(zip(hashes, forged, strict=True)) if one != other) // 32
    harm.sql(f"UPDATE tiles SET hashes = %s {TILE}", forged, log, level, index)
    return [
        {"table": "tiles", "row": [log, level, index], "says": f"hash {index * 256 + at} of level {level} "}
    ]


@kind()
def a_tile_cut_off(harm: Harm, rng: Random) -> Expected:
    log, level, index, hashes = _tile(harm, rng)
    cut = hashes[: rng.randrange(len(hashes))]
    harm.sql(f"UPDATE tiles SET hashes = %s {TILE}", cut, log, level, index)
    return [{"table": "tiles", "row": [log, level, index]}]


@kind()
def a_tile_with_more_in_it(harm: Harm, rng: Random) -> Expected:
    log, level, index, hashes = _tile(harm, rng)
    harm.sql(f"UPDATE tiles SET hashes = %s {TILE}", hashes + rng.randbytes(32), log, level, index)
    return [{"table": "tiles", "row": [log, level, index]}]


@kind()
def a_deleted_tile(harm: Harm, rng: Random) -> Expected:
    log, level, index, _ = _tile(harm, rng)
    harm.sql(f"DELETE FROM tiles {TILE}", log, level, index)
    return [{"table": "tiles", "row": [log, level, index]}]


@kind()
def a_tile_too_many(harm: Harm, rng: Random) -> Expected:
    log, level, _, hashes = _tile(harm, rng)
    level, index = rng.choice((level, level + 2)), rng.randint(50, 10**6)
    harm.sql("INSERT INTO tiles VALUES ('main', %s, %s, %s, %s)", log, level, index, hashes)
    return [{"table": "tiles", "row": [log, level, index]}]


# Keys


@kind()
def a_byte_of_a_public_key(harm: Harm, rng: Random) -> Expected:
    serial, public_key = _key(harm, rng)
    return _put_key(harm, serial, flipped(public_key, rng))


@kind()
def a_public_key_of_the_forger(harm: Harm, rng: Random) -> Expected:
    serial, _ = _key(harm, rng)
    secret = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
    return _put_key(harm, serial, secret.public_key().public_bytes_raw())


def _key(harm: Harm, rng: Random) -> tuple[int, bytes]:
    rows = harm.ask("SELECT serial, public_key FROM signing_keys WHERE zone = 'main' ORDER BY serial")
    serial, public_key = rng.choice(rows)
    return serial, public_key


def _put_key(harm: Harm, serial: int, public_key: bytes) -> Expected:
    harm.sql(
        "UPDATE signing_keys SET public_key = %s WHERE zone = 'main' AND serial = %s", public_key, serial
    )
    return [{"table": "signing_keys", "row": ["main", serial]}]


@kind()
def a_key_retired_or_taken_back(harm: Harm, rng: Random) -> Expected:
    serial, _ = _key(harm, rng)
    harm.sql(
        "UPDATE signing_keys SET retired_at = CASE WHEN retired_at IS NULL THEN now() END "
        "WHERE zone = 'main' AND serial = %s",
        serial,
    )
    return [{"table": "signing_keys", "row": ["main", serial]}]


@kind()
def a_deleted_key(harm: Harm, rng: Random) -> Expected:
    serial, _ = _key(harm, rng)
    harm.sql("DELETE FROM signing_keys WHERE zone = 'main' AND serial = %s", serial)
    return [{"table": "signing_keys", "row": ["main", serial]}]


@kind()
def a_key_too_many(harm: Harm, rng: Random) -> Expected:
    serial = rng.randint(10, 10**6)
    public_key = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)).public_key().public_bytes_raw()
    harm.sql("INSERT INTO signing_keys VALUES ('main', %s, %s)", serial, public_key)
    return [{"table": "signing_keys", "row": ["main", serial]}]


@kind()
def a_key_moved_to_another_serial(harm: Harm, rng: Random) -> Expected:
    serial, _ = _key(harm, rng)
    other = rng.randint(10, 10**6)
    harm.sql("UPDATE signing_keys SET serial = %s WHERE zone = 'main' AND serial = %s", other, serial)
    return [{"table": "signing_keys", "row": ["main", other]}]


# Signed checkpoints


def _signed(harm: Harm, rng: Random) -> tuple[Any, ...]:
    rows = harm.ask(
        "SELECT log, size, signed_at, root, note FROM signed_checkpoints WHERE zone = 'main' ORDER BY log, signed_at"
    )
    found: tuple[Any, ...] = rng.choice(rows)
    return found


def _signed_column(case: tuple[str, Callable[[Any, Random], Any]]) -> Kind:
    column, other = case

    def run(harm: Harm, rng: Random) -> Expected:
        log, size, at, *_ = _signed(harm, rng)
        (value,) = harm.one(f"SELECT {column} FROM signed_checkpoints {SIGNED}", log, size, at)
        new = other(value, rng)
        harm.sql(f"UPDATE signed_checkpoints SET {column} = %s {SIGNED}", new, log, size, at)
        return [{"table": "signed_checkpoints", "row": [log, new if column == "size" else size]}]

    return run


def _other_body(note: str, rng: Random) -> str:
    """A letter of the signed text is another."""
    text, blank, lines = note.partition("\n\n")
    return other_text(text, rng) + blank + lines


def _other_size(note: str, rng: Random) -> str:
    origin, size, rest = note.split("\n", 2)
    return f"{origin}\n{int(size) + rng.choice((-1, 1))}\n{rest}"


def _other_signature(note: str, rng: Random) -> str:
    """A bit of the first signature is another."""
    text, blank, lines = note.partition("\n\n")
    first, *more = lines.splitlines()
    dash, name, value = first.split(" ")
    forged = base64.b64decode(value)
    forged = forged[:4] + flipped(forged[4:], rng)
    return f"{text}{blank}" + "".join(
        f"{line}\n" for line in (f"{dash} {name} {base64.b64encode(forged).decode()}", *more)
    )


cases(
    _signed_column,
    {
        "the text of a signed checkpoint": ("note", _other_body),
        "the size in a signed checkpoint": ("note", _other_size),
        "the signature of a checkpoint": ("note", _other_signature),
        "the root beside a signed checkpoint": ("root", flipped),
        "the size beside a signed checkpoint": ("size", lambda old, rng: old + rng.choice((-1, 1, 10**6))),
    },
)


@kind()
def a_checkpoint_that_a_forger_signed(harm: Harm, rng: Random) -> Expected:
    log, size, *_ = _signed(harm, rng)
    (origin,) = harm.one(f"SELECT origin FROM trees {TREE}", log)
    forged = Checkpoint(origin, size, rng.randbytes(32))
    note = sign_checkpoint(forged, [log_key(FORGER, "main", 1)])
    harm.sql(
        "INSERT INTO signed_checkpoints VALUES ('main', %s, %s, %s, %s, now())", log, size, forged.root, note
    )
    return [{"table": "signed_checkpoints", "row": [log, size]}]


# Cosignatures


@kind()
def a_byte_of_a_cosignature(harm: Harm, rng: Random) -> Expected | None:
    row = harm.one("SELECT line FROM cosignatures WHERE zone = 'main'")
    if row is None:
        return None
    dash, name, value = row[0].strip().split(" ")
    forged = base64.b64encode(flipped(base64.b64decode(value), rng)).decode()
    harm.sql("UPDATE cosignatures SET line = %s WHERE zone = 'main'", f"{dash} {name} {forged}\n")
    return [{"table": "cosignatures"}]


@kind()
def a_cosignature_of_another_root(harm: Harm, rng: Random) -> Expected | None:
    row = harm.one("SELECT root FROM cosignatures WHERE zone = 'main'")
    if row is None:
        return None
    harm.sql("UPDATE cosignatures SET root = %s WHERE zone = 'main'", flipped(row[0], rng))
    return [{"table": "cosignatures"}]


@kind()
def a_cosignature_of_another_size(harm: Harm, rng: Random) -> Expected | None:
    if harm.one("SELECT 1 FROM cosignatures WHERE zone = 'main'") is None:
        return None
    harm.sql("UPDATE cosignatures SET size = size + %s WHERE zone = 'main'", rng.choice((-1, 1, 300)))
    return [{"table": "cosignatures"}]


@kind()
def a_cosignature_of_a_forger(harm: Harm, rng: Random) -> Expected | None:
    """In the witness's name, of a root that it never saw."""
    row = harm.one("SELECT size FROM cosignatures WHERE zone = 'main'")
    if row is None:
        return None
    (origin,) = harm.one(f"SELECT origin FROM trees {TREE}", "events")
    forged = Checkpoint(origin, row[0], rng.randbytes(32))
    secret = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
    line = cosign(forged.text(), "witness.example", secret, int(time.time())).line()
    harm.sql(
        "INSERT INTO cosignatures VALUES ('main', 'events', %s, %s, 'witness.example', %s)",
        row[0],
        forged.root,
        line,
    )
    return [{"table": "cosignatures", "row": ["events", row[0], "witness.example"]}]


@kind()
def a_witness_with_another_key(harm: Harm, rng: Random) -> Expected | None:
    if harm.one("SELECT 1 FROM cosignatures WHERE zone = 'main'") is None:
        return None
    secret = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
    vkey = str(verifier_key("witness.example", secret, COSIGNATURE))
    harm.sql("UPDATE witnesses SET verifier_key = %s WHERE name = 'witness.example'", vkey)
    return [{"table": "cosignatures"}]


# Attestations


def _ordinal(harm: Harm, rng: Random) -> int:
    (last,) = harm.one("SELECT max(ordinal) FROM attestations WHERE zone = 'main'")
    return rng.randint(1, last)


def _attestation_column(case: tuple[str, Callable[[Any, Random], Any]]) -> Kind:
    column, other = case

    def run(harm: Harm, rng: Random) -> Expected:
        ordinal = _ordinal(harm, rng)
        (value,) = harm.one(f"SELECT {column} FROM attestations {ATTESTATION}", ordinal)
        harm.sql(f"UPDATE attestations SET {column} = %s {ATTESTATION}", other(value, rng), ordinal)
        return [{"table": "attestations", "row": ["main", ordinal]}]

    return run


cases(
    _attestation_column,
    {
        "a byte of an attestation": ("body", flipped),
        "an attestation's kind": ("kind", other_text),
        "an attestation's leaf": ("leaf", flipped),
        "an attestation's time": (
            "recorded_at",
            lambda old, rng: old + timedelta(microseconds=rng.choice((-(10**9), -1, 1, 10**9))),
        ),
    },
)


@kind()
def an_attestation_moved_behind_the_end(harm: Harm, rng: Random) -> Expected:
    ordinal = _ordinal(harm, rng)
    harm.sql(f"UPDATE attestations SET ordinal = %s {ATTESTATION}", 10**6, ordinal)
    return [{"table": "attestations", "row": ["main", number]} for number in (ordinal + 1, 10**6)]


@kind()
def an_attestation_behind_another_command(harm: Harm, rng: Random) -> Expected:
    (ordinal,) = harm.one("SELECT max(ordinal) FROM attestations WHERE zone = 'main'")
    harm.sql(
        f"UPDATE attestations SET after_number = after_number + %s {ATTESTATION}",
        rng.choice((1, 500)),
        ordinal,
    )
    return [{"table": "attestations", "row": ["main", ordinal]}]


@kind()
def a_deleted_attestation(harm: Harm, rng: Random) -> Expected:
    (last,) = harm.one("SELECT max(ordinal) FROM attestations WHERE zone = 'main'")
    ordinal = rng.randint(1, last)
    harm.sql(f"DELETE FROM attestations {ATTESTATION}", ordinal)
    if ordinal == last:  # Then only the tree tells that it was longer.
        return [{"table": "trees"}, {"table": "signed_checkpoints"}]
    return [{"table": "attestations", "row": ["main", ordinal + 1]}]


@kind()
def an_attestation_with_a_leaf_computed_anew(harm: Harm, rng: Random) -> Expected:
    """It says another digest, or another key; its own bytes fit."""
    ordinal = _ordinal(harm, rng)
    after, said, body, at = harm.one(
        f"SELECT after_number, kind, body, recorded_at FROM attestations {ATTESTATION}", ordinal
    )
    fields = decode_json(body)
    name = rng.choice([name for name, value in fields.items() if isinstance(value, str)])
    fields[name] = other_text(fields[name], rng)
    body = encode_json(fields)
    leaf = attestation_leaf(PREFIX, ordinal, after, said, microseconds(at), body)
    harm.sql(f"UPDATE attestations SET body = %s, leaf = %s {ATTESTATION}", body, leaf, ordinal)
    return [
        {"table": "tiles", "says": f", attestation {ordinal}"},
        {"table": "attestations", "row": ["main", ordinal]},
    ]


@kind(models=True)
def an_attestation_too_many(harm: Harm, rng: Random) -> Expected:
    """Of a digest that never was, as the next one that is not in the tree yet."""
    body, at = harm.one(
        "SELECT body, recorded_at FROM attestations "
        "WHERE zone = 'main' AND kind = 'read-model' ORDER BY ordinal DESC LIMIT 1"
    )
    fields = decode_json(body)
    fields["digest"] = rng.randbytes(32).hex()
    (last,) = harm.one("SELECT max(ordinal) FROM attestations WHERE zone = 'main'")
    place, forged = (last + 1, harm.chronicle.number), encode_json(fields)
    leaf = attestation_leaf(PREFIX, *place, "read-model", microseconds(at), forged)
    harm.sql(
        "INSERT INTO attestations VALUES ('main', %s, %s, 'read-model', %s, %s, %s)", *place, forged, at, leaf
    )
    return [{"table": "attestations", "field": "digest", "says": fields["projection"]}]
