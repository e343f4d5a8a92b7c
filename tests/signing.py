"""A zone whose log is written by hand, and a naive check of everything that was ever signed of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import psycopg

from commands._codec import decode_json
from commands._signatures import installation
from ops.signing import list_keys
from projections._notes import VerifierKey, open_checkpoint, parse_key
from projections._transparency import EVENTS, FATES, Signed, extend_and_sign
from projections._tree import EMPTY_ROOT
from tests.conftest import PEPPER, Database

SECRET = PEPPER.encode()
ORIGIN = installation(SECRET)

ADD_EVENTS = """
INSERT INTO events SELECT %s, n, 's' || n, 1, 't', '', '', 'epoch', leaf
FROM unnest(%s::bigint[], %s::bytea[]) AS u(n, leaf)
"""
ADD_FATES = """
INSERT INTO commands SELECT %s, n, 'p', 'k' || n, 'p', '', NULL, 200, '', 0, 0, 'epoch', leaf
FROM unnest(%s::bigint[], %s::bytea[]) AS u(n, leaf)
"""
SIGNED = "SELECT size, root, note FROM signed_checkpoints WHERE zone = %s AND log = %s ORDER BY signed_at"


@dataclass
class Zone:
    """What its leaves are hashed from does not matter here."""

    database: Database
    name: str = "main"

    def __post_init__(self) -> None:
        self.events: list[bytes] = []
        self.fates: list[bytes] = []
        with self.database.superuser() as connection:
            connection.execute("INSERT INTO heads (zone, clock) VALUES (%s, 'real')", (self.name,))

    def append(self, events: int, fates: int) -> None:
        """So many events and fates, all at once."""
        with self.database.superuser() as connection, connection.transaction():
            for statement, leaves, count in (
                (ADD_EVENTS, self.events, events),
                (ADD_FATES, self.fates, fates),
            ):
                first = len(leaves) + 1
                numbers = list(range(first, first + count))
                added = [sha256(f"{self.name}{statement}{number}".encode()).digest() for number in numbers]
                connection.execute(statement.encode(), (self.name, numbers, added))
                leaves += added
            connection.execute(
                "UPDATE heads SET position = %s, number = %s WHERE zone = %s",
                (len(self.events), len(self.fates), self.name),
            )

    def second_log(self, connection: psycopg.Connection[Any]) -> list[bytes]:
        """Its leaves as they should stand: each attestation behind its fate, one by one."""
        rows = connection.execute(
            "SELECT after_number, leaf FROM attestations WHERE zone = %s ORDER BY ordinal", (self.name,)
        ).fetchall()
        leaves = [leaf for after, leaf in rows if after == 0]
        for number, fate in enumerate(self.fates, 1):
            leaves += [fate, *(leaf for after, leaf in rows if after == number)]
        return leaves

    def go_on(self, connection: psycopg.Connection[Any]) -> dict[str, Signed]:
        return extend_and_sign(connection, SECRET, ORIGIN, self.name)

    def newest(self, log: str = EVENTS) -> int:
        """The largest size that was signed; -1 before the first."""
        with self.database.connect() as connection:
            sizes = [row[0] for row in connection.execute(SIGNED, (self.name, log))]
        return max(sizes, default=-1)

    def check(self) -> None:
        """Everything that was ever signed is the beginning of the log as it stands; no tree shrank."""
        with self.database.connect() as connection:
            for log, leaves in ((EVENTS, self.events), (FATES, self.second_log(connection))):
                rows = connection.execute(SIGNED, (self.name, log)).fetchall()
                known = keys(connection, self.name, log) if rows else []
                sizes = [size for size, _, _ in rows]
                assert sizes == sorted(sizes)
                for size, signed, note in rows:
                    assert size <= len(leaves) and signed == root(leaves[:size])
                    checkpoint = open_checkpoint(note, known)
                    assert (checkpoint.size, checkpoint.root) == (size, signed)


def root(leaves: Iterable[bytes]) -> bytes:
    """RFC 6962, 2.1, word by word."""
    hashes = list(leaves)
    if not hashes:
        return EMPTY_ROOT
    if len(hashes) == 1:
        return hashes[0]
    middle = 1 << ((len(hashes) - 1).bit_length() - 1)
    return sha256(b"\x01" + root(hashes[:middle]) + root(hashes[middle:])).digest()


def keys(connection: psycopg.Connection[Any], zone: str, log: str = EVENTS) -> list[VerifierKey]:
    return [parse_key(key[f"{log}_vkey"]) for key in list_keys(connection, zone)]


def attested(connection: psycopg.Connection[Any], kind: str, zone: str = "main") -> list[Any]:
    rows = connection.execute(
        "SELECT body FROM attestations WHERE zone = %s AND kind = %s ORDER BY ordinal", (zone, kind)
    )
    return [decode_json(body) for (body,) in rows]
