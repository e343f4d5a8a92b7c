"""The second log of a zone: fates of commands and, between them, attestations.

An attestation says what stood beyond the logs at that moment: the digest of a read model, that a signing key was
added or retired, or that the logs do not continue what was signed before. Attestation `ordinal` (from 1) stands behind
fate `after_number`; so its index in the log is after_number + ordinal - 1, and that of fate n is n - 1 + the
attestations that stand behind earlier fates.

Whoever adds one holds the lock of the zone's row of `trees` for `fates`, so ordinals are gapless and no attestation
ever comes to stand within what the tree already holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from commands._codec import attestation_leaf, encode_json, microseconds, zone_prefix

READ_MODEL = "read-model"
KEY = "key"
FORK = "fork"
MOST_LISTED = 2_000
"""Of quarantined positions; further ones are counted, since an entry has at most 65,535 bytes."""
LOOK_BACK = 10_000
"""A projection that was not attested for so many entries is attested again, even if it stands still."""

NOW = """
SELECT h.number, coalesce(last.ordinal, 0), greatest(clock_timestamp(), last.recorded_at)
FROM heads h
LEFT JOIN LATERAL (SELECT ordinal, recorded_at FROM attestations a
                   WHERE a.zone = h.zone ORDER BY ordinal DESC LIMIT 1) last ON true
WHERE h.zone = %s
"""

ADD = """
INSERT INTO attestations (zone, ordinal, after_number, kind, body, recorded_at, leaf)
SELECT %b, ordinal, %b, %b, body, %b, leaf
FROM unnest(%b::bigint[], %b::bytea[], %b::bytea[]) AS a(ordinal, body, leaf)
"""

# One statement, so that rows, checkpoints and digests are those of one moment.
READ_MODELS = """
SELECT c.projection, c.generation, c.code, c.position, encode(sha256(d.accumulator), 'hex'), set_aside.positions,
       last.body
FROM checkpoints c
JOIN digests d USING (zone, projection, generation)
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(q.position ORDER BY q.position), '{}') AS positions FROM quarantine q
    WHERE (q.zone, q.projection, q.generation) = (c.zone, c.projection, c.generation) AND q.quarantined
) set_aside
LEFT JOIN LATERAL (
    SELECT a.body FROM attestations a
    WHERE a.zone = c.zone AND a.kind = 'read-model' AND a.ordinal > %s
      AND starts_with(convert_from(a.body, 'UTF8'), format('{"projection":"%%s",', c.projection))
    ORDER BY a.ordinal DESC LIMIT 1
) last ON true
WHERE c.zone = %s AND c.live AND c.position > 0
ORDER BY c.projection
"""

BEHIND_EARLIER = """
SELECT ordinal FROM attestations WHERE zone = %s AND after_number < %s
ORDER BY after_number DESC, ordinal DESC LIMIT 1
"""

WITHIN = """
SELECT ordinal, after_number FROM attestations WHERE zone = %s AND after_number + ordinal <= %s
ORDER BY after_number + ordinal DESC LIMIT 1
"""


class Entry(NamedTuple):
    """What stands at an index of the second log: the fate or attestation of this number."""

    is_fate: bool
    number: int


# Where entries stand


def attestation_index(ordinal: int, after_number: int) -> int:
    return after_number + ordinal - 1


def fate_index(connection: psycopg.Connection[Any], zone: str, number: int) -> int:
    row = connection.execute(BEHIND_EARLIER, (zone, number)).fetchone()
    return number - 1 + (row[0] if row else 0)


def attestations_within(connection: psycopg.Connection[Any], zone: str, size: int) -> int:
    """How many of the log's first entries are attestations; the others are fates."""
    row = connection.execute(WITHIN, (zone, size)).fetchone()
    return int(row[0]) if row else 0


def entry_at(connection: psycopg.Connection[Any], zone: str, index: int) -> Entry:
    """What stands at an index, if the log has come that far."""
    row = connection.execute(WITHIN, (zone, index + 1)).fetchone()
    if row is not None and attestation_index(*row) == index:
        return Entry(False, row[0])
    return Entry(True, index + 1 - (row[0] if row else 0))


# Adding them


def add(connection: psycopg.Connection[Any], zone: str, kind: str, bodies: Sequence[bytes]) -> None:
    """Attest, behind the newest fate. Within a transaction that holds the lock of the second log's tree."""
    if not bodies:
        return
    row = connection.execute(NOW, (zone,)).fetchone()
    assert row is not None, "a zone that has a tree has a head"
    number, last, at = row
    leaves = _leaves(zone, last + 1, number, kind, at, bodies)
    ordinals = list(range(last + 1, last + 1 + len(bodies)))
    connection.execute(ADD, (zone, number, kind, at, ordinals, list(bodies), leaves))


def _leaves(
    zone: str, first: int, after_number: int, kind: str, at: datetime, bodies: Sequence[bytes]
) -> list[bytes]:
    prefix, at_us = zone_prefix(zone), microseconds(at)
    return [
        attestation_leaf(prefix, ordinal, after_number, kind, at_us, body)
        for ordinal, body in enumerate(bodies, first)
    ]


def attest_read_models(connection: psycopg.Connection[Any], zone: str) -> int:
    """Attest each live projection that has changed since it was attested last; returns how many did.

    Within a transaction that holds the lock of the second log's tree.
    """
    row = connection.execute(NOW, (zone,)).fetchone()
    assert row is not None, "a zone that has a tree has a head"
    bodies = []
    for *stands, last in connection.execute(READ_MODELS, (row[1] - LOOK_BACK, zone)):
        body = read_model_body(*stands)
        if body != last:
            bodies.append(body)
    add(connection, zone, READ_MODEL, bodies)
    return len(bodies)


def read_model_body(
    projection: str, generation: int, code: str, position: int, digest: str, quarantined: Sequence[int]
) -> bytes:
    """That the live rows of a projection, as of the end of the command at `position`, have this digest.

    `quarantined` names the events that they miss; `quarantined_more` counts those beyond the first 2,000.
    """
    body: dict[str, Any] = {
        "projection": projection,
        "generation": generation,
        "code": code,
        "position": position,
        "digest": digest,
        "quarantined": quarantined[:MOST_LISTED],
    }
    if len(quarantined) > MOST_LISTED:
        body["quarantined_more"] = len(quarantined) - MOST_LISTED
    return encode_json(body)


def fork_body(signed: dict[str, tuple[int, bytes]]) -> bytes:
    """That the logs go on from here instead of what was signed last before: the sizes and roots by log."""
    return encode_json({log: {"size": size, "root": root.hex()} for log, (size, root) in signed.items()})


def key_body(act: str, serial: int, public_key: bytes) -> bytes:
    """That a signing key was `added` or `retired`."""
    return encode_json({"act": act, "serial": serial, "public_key": public_key.hex()})
