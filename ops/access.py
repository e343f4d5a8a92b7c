"""API keys: who calls, in which role, for which zones.

A key reads `fog_<id>_<secret>`; only an HMAC-SHA-256 of its 256-bit secret is stored, under a pepper that the
database never sees (a slow password hash would only help an attacker to tire the server: the secret is random).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from ops.problems import Problem

ROLES = ("operator", "participant", "provider", "auditor", "worker")
SCOPES = ("act-as", "act-at")
CACHE_S = 2.0
"""How long a revoked key may still be taken."""
MOST_CACHED = 10_000

FIND = """
SELECT id, principal, role, scopes, zones, digest FROM api_keys
WHERE id = %s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""


@dataclass(frozen=True, slots=True)
class Caller:
    key_id: str
    principal: str
    role: str
    scopes: frozenset[str]
    zones: frozenset[str]

    def may_enter(self, zone: str) -> bool:
        return zone in self.zones or "*" in self.zones


@dataclass(frozen=True, slots=True)
class NewKey:
    id: str
    key: str


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
    """Store a new key and return it; its secret is shown this once."""
    id = secrets.token_hex(6)
    secret = secrets.token_urlsafe(32)
    connection.execute(
        "INSERT INTO api_keys (id, name, principal, role, scopes, zones, digest, expires_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        (
            id,
            name or principal,
            principal,
            role,
            list(scopes),
            list(zones),
            secret_digest(pepper, secret),
            expires_at,
        ),
    )
    return NewKey(id, f"fog_{id}_{secret}")


class Access:
    """Finds callers by their keys, and remembers them for a moment."""

    def __init__(self, pool: AsyncConnectionPool[Any], pepper: bytes) -> None:
        self._pool = pool
        self.pepper = pepper
        self._cache: dict[bytes, tuple[float, Caller]] = {}

    async def caller(self, authorization: str | None) -> Caller:
        """The caller behind an Authorization header. Raises Problem 401."""
        if authorization is None:
            raise _unauthenticated("An API key is needed: Authorization: Bearer <key>.")
        remembered = hashlib.sha256(authorization.encode()).digest()
        cached = self._cache.get(remembered)
        if cached is not None and cached[0] > time.monotonic():
            return cached[1]
        caller = await self._find(authorization)
        if len(self._cache) >= MOST_CACHED:
            self._cache.clear()
        self._cache[remembered] = (time.monotonic() + CACHE_S, caller)
        return caller

    async def _find(self, authorization: str) -> Caller:
        scheme, _, token = authorization.partition(" ")
        parts = token.strip().split("_", 2)
        if scheme.lower() != "bearer" or len(parts) != 3 or parts[0] != "fog" or not parts[1].isalnum():
            raise _unauthenticated("The API key is not well formed.")
        async with self._pool.connection() as connection:
            cursor = await connection.execute(FIND, (parts[1],))
            row = await cursor.fetchone()
        digest = secret_digest(self.pepper, parts[2])
        # An unknown id costs the same comparison as a known one.
        if not hmac.compare_digest(digest, row[5] if row else bytes(32)) or row is None:
            raise _unauthenticated("The API key is unknown, expired or revoked.")
        id, principal, role, scopes, zones, _ = row
        return Caller(id, principal, role, frozenset(scopes), frozenset(zones))


def _unauthenticated(detail: str) -> Problem:
    return Problem(401, "unauthenticated", detail, headers={"WWW-Authenticate": "Bearer"})
