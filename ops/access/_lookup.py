"""Finding callers by what they send, and remembering them for a moment."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
import structlog

from ops.access._caller import Caller, Unauthenticated, is_reserved
from ops.access._journal import Journal
from ops.access._keys import secret_digest
from ops.pool import Pool
from ops.problems import Problem
from ops.settings import Settings

if TYPE_CHECKING:
    from starlette.requests import Request

    from ops.access._tokens import Tokens

CACHE_S = 2.0
"""How long a revoked key may still be taken."""
MOST_CACHED = 10_000
MOST_CHARACTERS = 8_192
"""Of an Authorization header."""
MOST_LOOK_UPS = 500
"""Look-ups of strangers that run or wait at a time; further ones are told to come back."""
LOOK_UP_S = CACHE_S
"""How long a look-up may take: whoever shares one gets nothing older than what is remembered."""
STRANGERS_AT_ONCE = 2
"""Connections that look-ups of strangers may hold, so that one is left for those who were admitted before."""
WRITE_EVERY_S = 1.0

FIND = """
SELECT principal, role, scopes, zones, digest, revoked_at IS NOT NULL,
       extract(epoch FROM expires_at - clock_timestamp())::float8,
       last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute'
FROM api_keys WHERE id = %s
"""

# Other processes may have noted it meanwhile: once a minute is enough.
USED = """
UPDATE api_keys SET last_used_at = now()
WHERE id = ANY(%s) AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
"""

NOT_WELL_FORMED = "The API key is not well formed."
NOT_VALID = "The API key is unknown, expired or revoked."

log = structlog.get_logger("fogbook.access")


class Access:
    """Tells who calls. What it found it remembers: a key for at most CACHE_S, a token for as long as it is valid."""

    def __init__(self, pool: Pool, pepper: bytes, tokens: Tokens | None = None) -> None:
        self._pool = pool
        self.pepper = pepper
        self.journal = Journal()
        self._tokens = tokens
        self._cache: dict[bytes, tuple[float, Caller]] = {}
        self._looking: dict[bytes, asyncio.Task[Caller]] = {}
        self._strangers = asyncio.Semaphore(STRANGERS_AT_ONCE)
        self._used: set[str] = set()
        if tokens is not None:
            tokens.on_change(self._forget_tokens)

    async def admit(self, request: Request, headers: Mapping[str, str]) -> Caller:
        """Who sends a request. From here on it is recorded if the request is refused. Raises Problem 401 and 503."""
        scope = request.scope
        scope["journal"] = self.journal
        caller = scope["caller"] = await self.caller(headers.get("authorization"))
        return caller

    async def caller(self, authorization: str | None) -> Caller:
        """The caller behind an Authorization header. Raises Problem 401 and 503."""
        if authorization is None:
            raise Unauthenticated("credentials-missing", "An API key is needed: Authorization: Bearer <key>.")
        if len(authorization) > MOST_CHARACTERS:
            raise Unauthenticated("credentials-too-long", NOT_WELL_FORMED)
        name = hashlib.sha256(authorization.encode()).digest()
        cached = self._cache.get(name)
        if cached is not None and cached[0] > time.monotonic():
            return cached[1]
        return await self._look_up(name, authorization)

    async def _look_up(self, name: bytes, authorization: str) -> Caller:
        """Many who ask for the same caller at the same time share one look-up, also if the first of them leaves."""
        looking = self._looking.get(name)
        if looking is None:
            if len(self._looking) >= MOST_LOOK_UPS and name not in self._cache:
                raise _busy("Too many keys are being looked up; try again.")
            looking = self._looking[name] = asyncio.create_task(self._find(name, authorization))
            looking.add_done_callback(lambda task: self._looked_up(name, task))
        return await asyncio.shield(looking)

    def _looked_up(self, name: bytes, task: asyncio.Task[Caller]) -> None:
        del self._looking[name]
        # Whoever waits gets the exception as well; perhaps nobody does.
        if not task.cancelled() and isinstance(task.exception(), Unauthenticated):
            self._cache.pop(name, None)

    async def _find(self, name: bytes, authorization: str) -> Caller:
        scheme, _, credentials = authorization.partition(" ")
        credentials = credentials.strip()
        if scheme.lower() != "bearer":
            raise Unauthenticated("credentials-malformed", NOT_WELL_FORMED)
        if self._tokens is not None and credentials.count(".") == 2:
            caller, until = await self._tokens.caller(credentials)
        else:
            try:
                async with asyncio.timeout(LOOK_UP_S):
                    caller, until = await self._by_key(credentials, stranger=name not in self._cache)
            except TimeoutError:
                raise _busy("The key could not be looked up in time; try again.") from None
        self._remember(name, caller, until)
        return caller

    async def _by_key(self, key: str, stranger: bool) -> tuple[Caller, float]:
        """A caller, and until when he may be taken for one without asking again."""
        prefix, _, rest = key.partition("_")
        id, _, secret = rest.partition("_")
        if prefix != "fog" or not id.isalnum() or not secret:
            raise Unauthenticated("credentials-malformed", NOT_WELL_FORMED)
        async with self._strangers if stranger else contextlib.nullcontext():
            begun = time.monotonic()
            async with self._pool.connection() as connection:
                row = await (await connection.execute(FIND, (id,))).fetchone()
        digest = secret_digest(self.pepper, secret)
        # An unknown id costs the same comparison as a known one.
        is_right = hmac.compare_digest(digest, row[4] if row else bytes(32))
        if row is None:
            raise Unauthenticated("key-unknown", NOT_VALID)
        principal, role, scopes, zones, _, is_revoked, left_s, is_long_unused = row
        for reason, holds in (
            ("secret-wrong", not is_right),
            ("key-revoked", is_revoked),
            ("key-expired", left_s is not None and left_s <= 0),
            ("principal-reserved", is_reserved(principal)),
        ):
            if holds:
                raise Unauthenticated(reason, NOT_VALID, key_id=id)
        if is_long_unused:
            self._used.add(id)
        # Not all at once: what was remembered together would be asked for together, every time.
        kept_s = random.uniform(CACHE_S / 2, CACHE_S)  # noqa: S311
        until = begun + (kept_s if left_s is None else min(kept_s, left_s))
        return Caller(id, principal, role, frozenset(scopes), frozenset(zones)), until

    def _remember(self, name: bytes, caller: Caller, until: float) -> None:
        """Whoever was not looked up for the longest makes room. Those who have to be looked up again stay known."""
        self._cache.pop(name, None)
        self._cache[name] = (until, caller)
        if len(self._cache) > MOST_CACHED:
            del self._cache[next(iter(self._cache))]

    def _forget_tokens(self) -> None:
        self._cache = {name: kept for name, kept in self._cache.items() if not kept[1].issuer}

    # In the background

    async def run(self) -> None:
        """Write down refusals and uses, until it is cancelled."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self.write()

    async def write(self) -> None:
        """Write down what is waiting; what cannot be written waits on."""
        if self.journal.is_empty and not self._used:
            return
        try:
            async with self._pool.connection() as connection:
                await self.journal.write(connection)
                if used := list(self._used):
                    await connection.execute(USED, (used,))
                    self._used.difference_update(used)
        except psycopg.Error as error:
            log.warning("access_not_recorded", error=str(error))


def _busy(detail: str) -> Problem:
    return Problem(503, "overloaded", detail, headers={"Retry-After": "1"})


def _tokens_of(settings: Settings) -> Tokens | None:
    """None where no issuer is configured: then its libraries are not even imported."""
    if not settings.takes_tokens:
        return None
    from ops.access._tokens import tokens_of

    return tokens_of(settings)


@asynccontextmanager
async def open_access(pool: Pool, settings: Settings) -> AsyncIterator[Access]:
    """Access with its background work; what is waiting at the end is written. Raises SettingsIncomplete."""
    tokens = _tokens_of(settings)
    access = Access(pool, settings.pepper_bytes, tokens)
    running = [asyncio.create_task(access.run())]
    if tokens is not None:
        running.append(asyncio.create_task(tokens.run()))
    try:
        yield access
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await access.write()
