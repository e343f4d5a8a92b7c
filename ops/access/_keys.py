"""API keys as they are stored: made, rotated, revoked.

A key reads `fog_<id>_<secret>`; only an HMAC-SHA-256 of its 256-bit secret is stored, under a pepper that the
database never sees (a slow password hash would only help an attacker to tire the server: the secret is random).
A key that was rotated and the one that took its place are of one lineage, of which at most two are live.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from ops.access._caller import SCOPES, is_reserved, is_scope
from ops.access._journal import administered
from ops.home import Refused

MOST_LIVE = 2
OVERLAP = timedelta(hours=24)

INSERT = """
INSERT INTO api_keys (id, lineage, name, principal, role, scopes, zones, digest, expires_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
"""

LOCK = "SELECT 1 FROM api_keys WHERE id = (SELECT lineage FROM api_keys WHERE id = %s) FOR UPDATE"

# A key that expired lives as long again; read behind the lock.
TERMS = """
SELECT k.lineage, k.name, k.principal, k.role, k.scopes, k.zones, now() + (k.expires_at - k.created_at),
       (k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())),
       (SELECT count(*) FROM api_keys o WHERE o.lineage = k.lineage AND o.revoked_at IS NULL
        AND (o.expires_at IS NULL OR o.expires_at > now()))
FROM api_keys k WHERE k.id = %s
"""

EXPIRE = """
UPDATE api_keys SET expires_at = least(expires_at, now() + %s) WHERE id = %s RETURNING expires_at
"""

REVOKE = "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE id = %s"


class KeyRefused(Refused):
    """The key is not made; the message says why."""


@dataclass(frozen=True, slots=True)
class NewKey:
    id: str
    key: str


@dataclass(frozen=True, slots=True)
class Rotated:
    new: NewKey
    old_expires_at: datetime
    """The older key works until then."""
    expires_at: datetime | None


def secret_digest(pepper: bytes, secret: str) -> bytes:
    return hmac.digest(pepper, secret.encode(), hashlib.sha256)


def create_key(
    connection: psycopg.Connection[Any],
    pepper: bytes,
    *,
    principal: str,
    role: str,
    name: str = "",
    scopes: tuple[str, ...] = (),
    zones: tuple[str, ...] = ("main",),
    expires_at: datetime | None = None,
) -> NewKey:
    """Store a new key and return it; its secret is shown this once. Raises KeyRefused."""
    if is_reserved(principal):
        raise KeyRefused(f"Nobody may be called {principal}: it is an account of the zone's own.")
    if unknown := [scope for scope in scopes if not is_scope(scope)]:
        raise KeyRefused(f"There is no scope {unknown[0]}; there are {SCOPES}.")
    new, secret = _random()
    terms = (name or principal, principal, role, list(scopes), list(zones))
    with connection.transaction():
        connection.execute(INSERT, (new.id, new.id, *terms, secret_digest(pepper, secret), expires_at))
        administered(connection, "keys create", key_id=new.id, **_facts(terms, expires_at))
    return new


def rotate_key(
    connection: psycopg.Connection[Any], pepper: bytes, id: str, overlap: timedelta = OVERLAP
) -> Rotated:
    """Make a second key on the same terms; the first one expires after the overlap. Raises KeyRefused."""
    new, secret = _random()
    with connection.transaction():
        connection.execute(LOCK, (id,))
        row = connection.execute(TERMS, (id,)).fetchone()
        if row is None:
            raise KeyRefused(f"There is no key {id}.")
        lineage, *terms, expires_at, is_live, live = row
        if not is_live:
            raise KeyRefused(f"Key {id} is revoked or expired: make another one.")
        if live >= MOST_LIVE:
            raise KeyRefused(
                f"Key {id} was rotated already, and both keys are live: revoke one of them first."
            )
        old = connection.execute(EXPIRE, (overlap, id)).fetchone()
        assert old is not None, "the key is locked"
        connection.execute(INSERT, (new.id, lineage, *terms, secret_digest(pepper, secret), expires_at))
        administered(connection, "keys rotate", key_id=new.id, replaces=id, **_facts(terms, expires_at))
    return Rotated(new, old[0], expires_at)


def revoke_key(connection: psycopg.Connection[Any], id: str) -> bool:
    """False when there is no such key."""
    with connection.transaction():
        if connection.execute(REVOKE, (id,)).rowcount != 1:
            return False
        administered(connection, "keys revoke", key_id=id)
    return True


def _random() -> tuple[NewKey, str]:
    id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return NewKey(id, f"fog_{id}_{secret}"), secret


def _facts(terms: Sequence[Any], expires_at: datetime | None) -> dict[str, Any]:
    """What is recorded of a key's terms."""
    named = dict(zip(("name", "principal", "role", "scopes", "zones"), terms, strict=True))
    return named | {"expires_at": expires_at.isoformat() if expires_at else None}
