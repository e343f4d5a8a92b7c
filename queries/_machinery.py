"""What runs beside the database: queues and workers as Valkey knows them, the settings of this process, and the
economic parameters of its code."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from commands._codec import modules
from ops.catalogue import field_docs
from ops.effective import effective
from ops.problems import Problem
from ops.settings import Settings
from queries._query import EVERYBODY, SEES_ALL
from queries._told import Tell, told
from workers._broker import NAMESPACE, QUEUE, WORKERS

NO_EVENT = 0
"""The version of what no event made."""
MOST_WORKERS = 1_000
ANSWER_WITHIN_S = 1.0
VALKEY_GONE = (
    "Valkey does not answer. Commands and queries go on without it; read models are followed by the sweeper, "
    "some seconds late."
)


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of wake-ups in Valkey: `waiting` to be taken, `delayed`, `taken` and not done yet, and `dead`."""

    queue: str
    waiting: int
    delayed: int
    taken: int
    dead: int
    version: int = NO_EVENT
    incomplete: bool = False


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process that was heard of within ten seconds, and the zones that it follows right now."""

    worker: str
    since: datetime
    heard_at: datetime
    zones: list[str]
    version: int = NO_EVENT
    incomplete: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of the process that answers, as it is in effect, and whether it comes from the environment, from `.env`
    or from the code. Secrets are stars."""

    variable: str
    value: str
    source: str
    about: str
    version: int = NO_EVENT
    incomplete: bool = False


@dataclass(frozen=True, slots=True)
class Parameter:
    """An economic constant of a context: amounts in smallest units, shares in basis points."""

    context: str
    parameter: str
    value: str
    about: str
    version: int = NO_EVENT
    incomplete: bool = False


class Machinery:
    """Answers for the process that it runs in."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._valkey: redis.Redis | None = None

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        if self._settings.redis_url:
            self._valkey = redis.Redis.from_url(
                self._settings.redis_url,
                socket_timeout=ANSWER_WITHIN_S,
                socket_connect_timeout=ANSWER_WITHIN_S,
                retry=Retry(NoBackoff(), 0),
                max_connections=4,
            )
        try:
            yield
        finally:
            if self._valkey is not None:
                await self._valkey.aclose()

    @property
    def valkey(self) -> redis.Redis:
        if self._valkey is None:
            raise Problem(503, "valkey-gone", "REDIS_URL is not set here: this process does not know Valkey.")
        return self._valkey

    async def queues(self) -> Sequence[Queue]:
        name = f"{NAMESPACE}:{QUEUE}"
        try:
            async with self.valkey.pipeline(transaction=False) as pipeline:
                pipeline.llen(name)
                pipeline.llen(f"{name}.DQ")
                pipeline.zcard(f"{name}.XQ")
                waiting, delayed, dead = await pipeline.execute()
            taken = 0
            async for acks in self.valkey.scan_iter(f"{NAMESPACE}:__acks__.*.{QUEUE}", count=MOST_WORKERS):
                taken += await self.valkey.scard(acks)
        except (RedisError, OSError):
            raise _gone() from None
        return [Queue(QUEUE, waiting, delayed, taken, dead)]

    async def workers(self) -> Sequence[Worker]:
        found = []
        try:
            names = [key async for key in self.valkey.scan_iter(f"{WORKERS}*", count=MOST_WORKERS)][
                :MOST_WORKERS
            ]
            for text in await self.valkey.mget(names) if names else []:
                if text is not None:
                    said = json.loads(text)
                    found.append(
                        Worker(
                            said["worker"], _time(said["since"]), _time(said["at"]), said["zones"], 0, False
                        )
                    )
        except (RedisError, OSError):
            raise _gone() from None
        return sorted(found, key=lambda worker: worker.worker)

    async def settings(self) -> Sequence[Setting]:
        return [
            Setting(each["variable"], each["value"], each["source"], each["about"])
            for each in effective(self._settings)
        ]

    async def parameters(self) -> Sequence[Parameter]:
        return [each for name, module in modules().items() for each in _parameters(name, module)]


def _gone() -> Problem:
    return Problem(503, "valkey-gone", VALKEY_GONE, headers={"Retry-After": "1"})


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _parameters(context: str, module: Any) -> list[Parameter]:
    """Each context keeps its constants in one dataclass."""
    known = getattr(module, "P", None)
    if not is_dataclass(known) or isinstance(known, type):
        return []
    about = field_docs(type(known))
    return [
        Parameter(context, f.name, _shown(getattr(known, f.name)), about.get(f.name, ""))
        for f in fields(known)
    ]


def _shown(value: Any) -> str:
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    if is_dataclass(value) and not isinstance(value, type):
        return ", ".join(f"{f.name}: {_shown(getattr(value, f.name))}" for f in fields(value))
    if isinstance(value, dict):
        return ", ".join(f"{_shown(key)}: {_shown(each)}" for key, each in value.items())
    if isinstance(value, tuple | list | frozenset):
        several = sorted(value) if isinstance(value, frozenset) else value
        return "; ".join(f"({_shown(each)})" if isinstance(each, tuple) else _shown(each) for each in several)
    return str(value)


def _queues(machinery: Machinery) -> Tell:
    return machinery.queues


def _workers(machinery: Machinery) -> Tell:
    return machinery.workers


def _settings(machinery: Machinery) -> Tell:
    return machinery.settings


def _of_code(machinery: Machinery) -> Tell:
    return machinery.parameters


told("operations", "queues", Queue, SEES_ALL, _queues)
told("operations", "workers", Worker, SEES_ALL, _workers)
told("operations", "settings", Setting, SEES_ALL, _settings)
told("operations", "parameters", Parameter, EVERYBODY, _of_code)
