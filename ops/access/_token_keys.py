"""The public keys of a token issuer (a JWK Set), from a file or a URL, read again from time to time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

AGE_S = 300.0
"""How often the set is read: a key that the issuer takes back is not taken for longer than this."""
UNKNOWN_S = 60.0
"""How often at most a key that is not in the set makes us read it again."""
RETRY_S = 5.0
"""The same while nothing could be read yet."""
MOST_STALE_S = 24 * 3_600.0
"""How long the keys hold that were read last, when they cannot be read any more."""
DEADLINE_S = 5.0
MOST_BYTES = 262_144
MOST_KEYS = 100
LEAST_RSA_BITS = 2_048

ALGORITHMS = {("OKP", "Ed25519"): "EdDSA", ("EC", "P-256"): "ES256", ("RSA", ""): "RS256"}
"""By kind of key. There is but one for each, so that nobody chooses."""

log = structlog.get_logger("fogbook.access")


class KeysUnavailable(Exception):
    """Nothing could be read, or not for too long."""


@dataclass(frozen=True, slots=True)
class TokenKey:
    algorithm: str
    public: Any
    jwk: bytes


class _Jwks(msgspec.Struct):
    keys: list[dict[str, Any]]


class KeySet:
    """The issuer's keys by their ids."""

    def __init__(self, source: str, algorithms: frozenset[str]) -> None:
        self._source = source
        self._algorithms = algorithms
        self._keys: dict[str, TokenKey] = {}
        self._read_at: float | None = None
        self._tried_at = float("-inf")
        self._reading = asyncio.Lock()
        self.taken_back: Callable[[], None] = lambda: None
        """Called when a key that was in the set is not any more."""

    async def run(self) -> None:
        """Read the set again and again, until it is cancelled."""
        while True:
            await self.refresh(0)
            await asyncio.sleep(RETRY_S if self._read_at is None else AGE_S)

    async def find(self, kid: str) -> TokenKey | None:
        """The key of an id, if the issuer has it. Raises KeysUnavailable."""
        key = self._keys.get(kid)
        if key is None:
            await self.refresh(RETRY_S if self._read_at is None else UNKNOWN_S)
            key = self._keys.get(kid)
        if self._read_at is None or time.monotonic() - self._read_at > MOST_STALE_S:
            raise KeysUnavailable
        return key

    async def refresh(self, pause_s: float) -> None:
        """Read the set, unless that was tried within the pause. What cannot be read changes nothing."""
        async with self._reading:
            now = time.monotonic()
            if now < self._tried_at + pause_s:
                return
            self._tried_at = now
            try:
                async with asyncio.timeout(DEADLINE_S):
                    keys = keys_in(await read_bounded(self._source), self._algorithms)
            except (OSError, httpx.HTTPError, msgspec.MsgspecError, ValueError) as error:
                log.warning("token_keys_unreadable", error=f"{type(error).__name__}: {error}")
                return
            before, self._keys, self._read_at = self._keys, keys, now
        if any(keys.get(kid) is None or keys[kid].jwk != key.jwk for kid, key in before.items()):
            self.taken_back()


async def read_bounded(source: str) -> bytes:
    """What a file or a URL holds. Raises OSError, httpx.HTTPError, and ValueError where it is too large."""
    if "://" not in source:
        body = await asyncio.to_thread(_read_file, Path(source))
    else:
        body = b""
        async with (
            httpx.AsyncClient(timeout=DEADLINE_S, follow_redirects=False) as client,
            client.stream("GET", source, headers={"accept": "application/json"}) as response,
        ):
            if response.status_code != 200:
                raise ValueError(f"the issuer answers with {response.status_code}")
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MOST_BYTES:
                    break
    if len(body) > MOST_BYTES:
        raise ValueError(f"a set of keys is at most {MOST_BYTES} bytes")
    return body


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


def keys_in(document: bytes, algorithms: frozenset[str]) -> dict[str, TokenKey]:
    """The keys of a JWK Set that may verify tokens; others are passed over. Raises ValueError."""
    listed = msgspec.json.decode(document, type=_Jwks).keys
    if len(listed) > MOST_KEYS:
        raise ValueError(f"a set has at most {MOST_KEYS} keys")
    found: dict[str, TokenKey] = {}
    for jwk in listed:
        kid, key = jwk.get("kid"), _usable(jwk, algorithms)
        if not isinstance(kid, str) or kid in found or key is None:
            log.warning("token_key_passed_over", kid=str(kid)[:64])
        else:
            found[kid] = key
    return found


def _usable(jwk: dict[str, Any], algorithms: frozenset[str]) -> TokenKey | None:
    algorithm = ALGORITHMS.get((str(jwk.get("kty")), str(jwk.get("crv", ""))))
    if algorithm not in algorithms or algorithm is None:
        return None
    # A private key has no place there: whoever could read the set could sign.
    if (
        "d" in jwk
        or jwk.get("use", "sig") != "sig"
        or jwk.get("alg", algorithm) not in (algorithm, jwk.get("crv"))
    ):
        return None
    try:
        public = jwt.PyJWK(jwk, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if isinstance(public, RSAPublicKey) and public.key_size < LEAST_RSA_BITS:
        return None
    return TokenKey(algorithm, public, msgspec.json.encode(jwk, order="sorted"))
