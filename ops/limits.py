"""What a caller, an address and a process may ask at most; `ops.limited` has the table of all limits.

How often is counted for each key and each principal, shared between processes (`ops.leases`); how much is under way at
once is counted in each process. Operators and workers are bound only by what a process does in all: what they send is
the installation's own (timers, imports, simulations), and an operator's key is trusted with everything anyway.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

import structlog
from prometheus_client import Counter, Gauge
from starlette.requests import Request

from ops.leases import Bucket, Rate, Rates, charged
from ops.problems import Problem
from ops.settings import Settings

if TYPE_CHECKING:
    from ops.access import Caller

UNBOUND = frozenset({"operator", "worker"})
MOST_HOLDERS = 10_000
MOST_ADDRESSES = 10_000
MOST_KNOWN = 20_000
FULL_RETRY_S = 1
SAY_EVERY_S = 1.0
"""A flood of refusals is a line a second in the log."""

COMMANDS, QUERIES, HISTORY, LIVE, OPEN = "commands", "queries", "history", "live", "open"
KINDS = (COMMANDS, QUERIES, HISTORY, LIVE)

REFUSED = Counter("fogbook_limits_refused_total", "Requests refused by a limit", ["limit"])
INSIDE = Gauge("fogbook_in_flight", "Requests under way", ["kind"])

log = structlog.get_logger("fogbook.limits")


class Gate:
    """How many requests of a kind are under way in this process."""

    __slots__ = ("index", "inside", "kind", "limits", "most", "most_a_key")

    def __init__(self, limits: Limits, index: int, kind: str, most: int, most_a_key: int) -> None:
        self.limits = limits
        self.index = index
        self.kind = kind
        self.inside = 0
        self.most = most
        self.most_a_key = most_a_key


class Holder:
    """One key: what it has under way of each kind, and the buckets that it spends from for each kind."""

    __slots__ = ("inside", "key_id", "rates")

    def __init__(self, key_id: str, rates: list[tuple[Bucket, ...]]) -> None:
        self.key_id = key_id
        self.inside = [0] * len(KINDS)
        self.rates = rates


class Limits:
    """The limits of one process. Before `run` they are the defaults, and nothing is shared."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.gates = {kind: Gate(self, i, kind, 0, 0) for i, kind in enumerate(KINDS)}
        self.gates[OPEN] = Gate(self, 0, OPEN, 2**62, 2**62)
        self.failures: OrderedDict[str, float] = OrderedDict()
        """By address: when its bucket of failures will be full again; empty as long as nobody failed."""
        self.known: dict[int, None] = {}
        """Hashes of credentials that were good: an address that floods does not lock their owners out."""
        self.holders: dict[str, Holder] = {}
        self._said: dict[str, float] = {}
        self.rates = Rates()
        # Without the environment: an application is put together before anybody reads it.
        self._set(settings or Settings.model_construct())

    def _set(self, settings: Settings) -> None:
        for kind in KINDS:
            self.gates[kind].most = getattr(settings, f"most_{kind}")
            self.gates[kind].most_a_key = getattr(settings, f"most_{kind}_per_key")
        self._commands = (rate_of(settings.rate_commands), rate_of(settings.rate_commands_principal))
        self._queries = (rate_of(settings.rate_queries), rate_of(settings.rate_queries_principal))
        self._failing = rate_of(settings.rate_failures)
        self.holders.clear()

    @asynccontextmanager
    async def run(self, settings: Settings) -> AsyncIterator[None]:
        """Apply the settings, and share rates with other processes, until the block ends."""
        self._set(settings)
        self.rates = Rates(settings.redis_url)
        for kind in KINDS:
            INSIDE.labels(kind).set_function(self._watch(kind))
        leasing = asyncio.create_task(self.rates.run(), name="rates")
        try:
            yield
        finally:
            leasing.cancel()
            await asyncio.gather(leasing, return_exceptions=True)

    def _watch(self, kind: str) -> Callable[[], float]:
        gate = self.gates[kind]
        return lambda: gate.inside

    # Callers

    async def grant(self, holder: Holder, gate: Gate, count: int) -> tuple[int, Problem | None]:
        granted, problem = count, None
        spent: list[Bucket] = []
        for bucket in holder.rates[gate.index]:
            taken = await self.rates.take(bucket, granted)
            if taken < granted:
                for earlier in spent:
                    self.rates.give_back(earlier, granted - taken)
                granted, problem = taken, self._too_many(bucket, holder)
            spent.append(bucket)
        return granted, problem

    async def take(self, bucket: Bucket, holder: Holder) -> None:
        """Wait for a token that is not here. Raises Problem 429."""
        if not await self.rates.take(bucket, 1):
            raise self._too_many(bucket, holder)

    def holder(self, caller: Caller) -> Holder:
        if len(self.holders) >= MOST_HOLDERS:
            self.holders.pop(next(iter(self.holders)))
        commands, queries = (
            tuple(
                self.rates.bucket(f"{what} a second per {whose}", who, rate)
                for whose, who, rate in zip(
                    ("key", "principal"), (caller.key_id, caller.principal), rates, strict=True
                )
                if rate is not None
            )
            for what, rates in ((COMMANDS, self._commands), (QUERIES, self._queries))
        )
        made = self.holders[caller.key_id] = Holder(caller.key_id, [commands, queries, queries, queries])
        return made

    # Addresses

    def knock(self, request: Request) -> None:
        """Before it is known who calls. Raises Problem 429 where too many of an address's credentials were wrong."""
        address = address_of(request)
        full_at = self.failures.get(address)
        rate = self._failing
        if full_at is None or rate is None or hash(request.headers.get("authorization")) in self.known:
            return
        wait_s = full_at - time.monotonic() - (rate.burst - 1) / rate.per_s
        if wait_s > 0:
            self._note("failed authentications", address=address)
            raise _problem_429(
                "failed authentications", rate, wait_s, "Too many wrong credentials from there."
            )

    def failed(self, request: Request) -> None:
        """A request's credentials were wrong. One that has none costs nobody anything."""
        authorization = request.headers.get("authorization")
        if self._failing is None or authorization is None:
            return
        self.known.pop(hash(authorization), None)
        address = address_of(request)
        full_at = self.failures.pop(address, 0.0)
        if len(self.failures) >= MOST_ADDRESSES:
            self.failures.popitem(last=False)
        self.failures[address] = charged(self._failing, full_at, time.monotonic(), 1, 0)[1]

    def remember(self, known: int) -> None:
        if len(self.known) >= MOST_KNOWN:
            self.known.pop(next(iter(self.known)))
        self.known[known] = None

    # Refusals

    def full(self, limit: str, most: int, key_id: str = "") -> Problem:
        self._note(limit, key=key_id)
        return Problem(
            503,
            "overloaded",
            "Too much is under way already; try again.",
            headers={"Retry-After": str(FULL_RETRY_S)},
            limit=limit,
            most=str(most),
        )

    def _too_many(self, bucket: Bucket, holder: Holder | None) -> Problem:
        self._note(bucket.limit, key=holder.key_id if holder else "")
        wait_s = self.rates.retry_after_s(bucket)
        return _problem_429(bucket.limit, bucket.rate, wait_s, "That is more than this caller may send.")

    def _note(self, limit: str, **who: str) -> None:
        REFUSED.labels(limit).inc()
        now = time.monotonic()
        if now >= self._said.get(limit, 0.0):
            self._said[limit] = now + SAY_EVERY_S
            log.warning("limit_reached", limit=limit, **who)


async def enter(request: Request, headers: Mapping[str, str], caller: Caller, count: int = 1) -> None:
    """It is known who sends a request, which counts so many times. Raises Problem 429 and 503."""
    gate: Gate | None = request.scope.get("gate")
    if gate is None:
        return
    limits = gate.limits
    credentials = hash(headers.get("authorization"))
    if credentials not in limits.known:
        limits.remember(credentials)
    if caller.role in UNBOUND:
        return
    holder = limits.holders.get(caller.key_id) or limits.holder(caller)
    inside, kind = holder.inside, gate.index
    if inside[kind] >= gate.most_a_key:
        raise limits.full(f"{gate.kind} in flight per key", gate.most_a_key, holder.key_id)
    inside[kind] += 1
    request.scope["holder"] = holder
    if count:
        for bucket in holder.rates[kind]:
            if not limits.rates.spend(bucket):
                await limits.take(bucket, holder)


async def granted(request: Request, count: int) -> tuple[int, Problem | None]:
    """How many of so many commands of one request are within the rates, and what the others are answered."""
    holder: Holder | None = request.scope.get("holder")
    if holder is None:
        return count, None
    gate: Gate = request.scope["gate"]
    return await gate.limits.grant(holder, gate, count)


def live(request: Request) -> Callable[[], None]:
    """A feed begins, apart from the request that asked for it; to be called when it ends. Raises Problem 503."""
    asked: Gate | None = request.scope.get("gate")
    if asked is None:
        return lambda: None
    limits, holder = asked.limits, request.scope.get("holder")
    gate = limits.gates[LIVE]
    if gate.inside >= gate.most:
        raise limits.full("live in flight", gate.most)
    if holder is not None and holder.inside[gate.index] >= gate.most_a_key:
        raise limits.full("live in flight per key", gate.most_a_key, holder.key_id)
    gate.inside += 1
    if holder is not None:
        holder.inside[gate.index] += 1

    def end() -> None:
        gate.inside -= 1
        if holder is not None:
            holder.inside[gate.index] -= 1

    return end


def rate_of(setting: str) -> Rate | None:
    """`200/1000` is 200 a second with a burst of 1000; `off` is no limit."""
    if setting == "off":
        return None
    per_s, _, burst = setting.partition("/")
    return Rate(float(per_s), int(burst))


def _problem_429(limit: str, rate: Rate, wait_s: float, detail: str) -> Problem:
    return Problem(
        429,
        "too-many-requests",
        detail,
        headers={"Retry-After": str(max(1, math.ceil(wait_s)))},
        limit=limit,
        per_second=f"{rate.per_s:g}",
        burst=str(rate.burst),
    )


def address_of(request: Request) -> str:
    client = request.scope.get("client")
    return _network(client[0]) if client else ""


@lru_cache(1_000)
def _network(host: str) -> str:
    """Whoever has an IPv6 address has 2^64 of them."""
    if ":" not in host:
        return host
    try:
        return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))
    except ValueError:
        return host
