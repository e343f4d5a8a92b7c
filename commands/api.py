"""The write side as an application of its own: `uvicorn commands.api:app`."""

from __future__ import annotations

import asyncio
import importlib
import os
import pkgutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

import psycopg
import structlog
from fastapi import FastAPI
from prometheus_client import Counter, Gauge

import commands
from commands._erasing import Eraser
from commands._http import CommandApi, register
from commands._log import PostgresLog
from commands._sequencer import Sequencer
from commands._subjects import Keyring
from commands._zones import Zones
from ops import traces
from ops.access import open_access
from ops.health import add_health
from ops.logging import configure_logging
from ops.pool import open_pool
from ops.safety import check_safe
from ops.settings import APP_ROLE, Settings, SettingsIncomplete
from ops.web import App, freeze
from workers._broker import Waker

QUEUED = Gauge("fogbook_commands_queued", "Commands waiting for their batch", ["zone"])
STREAMS = Gauge("fogbook_streams_in_memory", "Folded streams kept in memory", ["zone"])
POSITION = Gauge("fogbook_log_position", "The log's position as this process knows it", ["zone"])
BATCHES = Counter("fogbook_batches_total", "Batches of commands that were sequenced", ["zone"])
CONFLICTS = Counter(
    "fogbook_sequencer_conflicts_total",
    "Batches decided again under the lock, since another process had appended",
    ["zone"],
)

log = structlog.get_logger("fogbook.commands")


def load_routes() -> None:
    """Import every context's routes."""
    for module in pkgutil.iter_modules(commands.__path__):
        if not module.name.startswith("_") and module.name != "api":
            importlib.import_module(f"commands.{module.name}")


class CommandService:
    """What runs behind the write side's routes, between start-up and shutdown."""

    def __init__(self) -> None:
        self.api: CommandApi | None = None

    def running(self) -> CommandApi:
        assert self.api is not None, "requests come after start-up"
        return self.api

    @asynccontextmanager
    async def run(self, settings: Settings) -> AsyncIterator[None]:
        if not settings.database_url:
            raise SettingsIncomplete("DATABASE_URL must be set.")
        with psycopg.connect(settings.database_url, connect_timeout=5) as connection:
            check_safe(connection)
        waker, sequencer, trail = _writing(settings.redis_url or "redis://127.0.0.1:6379")
        zones = Zones(
            lambda: PostgresLog(
                settings.database_url, APP_ROLE, settings.prepare_statements, settings.database_wait_s
            ),
            moved=waker.moved,
            failed=_stop_process,
            most_streams=settings.streams_in_memory,
            wait_s=settings.database_wait_s,
            sequencer=sequencer,
        )
        async with (
            open_pool(settings, "fogbook commands", 4) as pool,
            open_access(pool, settings) as access,
        ):
            keyring = Keyring(settings.subject_folder, settings.pepper_bytes)
            if not keyring.folder.is_dir():
                log.error("subject_keys_missing", folder=str(keyring.folder))
            self.api = CommandApi(zones, access, keyring)
            running = (waker.run(), _observe(zones), Eraser(pool, keyring).run())
            tasks = [asyncio.create_task(each) for each in running]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await zones.stop()
                waker.close()
                if trail is not None:
                    trail.close()


def _writing(redis_url: str) -> tuple[Waker, Callable[..., Sequencer], traces.Closing | None]:
    """What wakes followers and what sequences; where traces are on, such as make spans of it."""
    if traces.active is None:
        return Waker(redis_url), Sequencer, None
    from commands._traced import traced_writing

    return traced_writing(redis_url)


async def _observe(zones: Zones) -> None:
    counted: WeakKeyDictionary[Sequencer, tuple[int, int]] = WeakKeyDictionary()
    while True:
        for sequencer in zones.all():
            batches, conflicts = counted.get(sequencer, (0, 0))
            counted[sequencer] = sequencer.batches, sequencer.conflicts
            BATCHES.labels(sequencer.zone).inc(sequencer.batches - batches)
            CONFLICTS.labels(sequencer.zone).inc(sequencer.conflicts - conflicts)
            QUEUED.labels(sequencer.zone).set(sequencer.queued)
            STREAMS.labels(sequencer.zone).set(sequencer.streams_in_memory)
            POSITION.labels(sequencer.zone).set(sequencer.head.position)
        await asyncio.sleep(1)


def _stop_process(error: BaseException) -> None:
    """A sequencer that cannot go on ends its process: whoever supervises it starts a fresh one."""
    log.critical("process_stops", error=repr(error))
    os.kill(os.getpid(), signal.SIGTERM)


def make_app() -> App:
    load_routes()
    service = CommandService()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        settings = Settings()
        configure_logging(settings.log_level)
        async with made.run(settings), service.run(settings), app.state.health.run(settings):
            freeze()
            yield

    made = App(title="Fogbook commands", version="0.1.0", lifespan=lifespan)
    register(made, service.running)
    add_health(made)
    return made


def __getattr__(name: str) -> App:
    """`app` is made when somebody asks for it: whoever imports this for something else does not pay for it."""
    if name != "app":
        raise AttributeError(name)
    made = globals()["app"] = make_app()
    return made
