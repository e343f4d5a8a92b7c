"""The read side as an application of its own: `uvicorn queries.api:app`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

import queries
from commands._subjects import Keyring
from ops.access import open_access
from ops.catalogue import add_catalogue
from ops.health import add_health
from ops.logging import configure_logging
from ops.pool import open_pool
from ops.settings import Settings, SettingsIncomplete
from ops.web import App, freeze
from queries._console._http import Console
from queries._console._live import Live
from queries._console._pages import load_pages
from queries._console._routes import register_console
from queries._console._session import Sessions
from queries._http import QueryApi, register
from queries._machinery import Machinery
from queries._told import register_told
from queries._watch import on_stop_signals
from queries.access import register_access
from queries.history import register_history
from queries.lineage import register_lineage
from queries.proofs import register_proofs
from queries.receipts import register_receipts


def load_queries() -> None:
    """Import every context's queries."""
    for module in pkgutil.iter_modules(queries.__path__):
        if not module.name.startswith("_") and module.name != "api":
            importlib.import_module(f"queries.{module.name}")


class QueryService:
    """What runs behind the read side's routes, between start-up and shutdown."""

    def __init__(self) -> None:
        self.api: QueryApi | None = None
        self.console: Console | None = None
        self.machinery: Machinery | None = None
        self.app: App | None = None
        """What the console asks: the application that this runs behind."""

    def running(self) -> QueryApi:
        assert self.api is not None, "requests come after start-up"
        return self.api

    def running_console(self) -> Console:
        assert self.console is not None, "requests come after start-up"
        return self.console

    def running_machinery(self) -> Machinery:
        assert self.machinery is not None, "requests come after start-up"
        return self.machinery

    @asynccontextmanager
    async def run(self, settings: Settings) -> AsyncIterator[None]:
        if not settings.database_url:
            raise SettingsIncomplete("DATABASE_URL must be set.")
        async with (
            open_pool(settings, "fogbook queries", settings.query_connections) as pool,
            open_access(pool, settings) as access,
        ):
            keyring = Keyring(settings.subject_folder, settings.pepper_bytes)
            self.api = QueryApi(pool, access, settings.min_position_wait_s, keyring.reveal, settings.archive)
            positions, live = self.api.positions, Live(pool)
            assert self.app is not None, "routes are registered before start-up"
            self.console = Console(
                self.app, self.api, Sessions(settings.pepper_bytes), live, settings.api_url
            )
            self.machinery = Machinery(settings)

            def let_go() -> None:
                positions.let_go()
                live.let_go()

            try:
                with on_stop_signals(let_go):
                    async with self.machinery.run():
                        yield
            finally:
                await live.stop()
                await positions.stop()


def register_all(app: App, service: QueryService) -> None:
    service.app = app
    load_queries()
    register(app, service.running)
    register_history(app, service.running)
    add_catalogue(app)
    register_lineage(app, service.running)
    register_proofs(app, service.running)
    register_receipts(app, service.running)
    register_access(app, service.running)
    register_told(app, service.running, service.running_machinery)
    load_pages()
    register_console(app, service.running_console)


def make_app() -> App:
    service = QueryService()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        settings = Settings()
        configure_logging(settings.log_level)
        async with made.run(settings), service.run(settings), app.state.health.run(settings):
            freeze()
            yield

    made = App(title="Fogbook queries", version="0.1.0", lifespan=lifespan)
    register_all(made, service)
    add_health(made)
    return made


def __getattr__(name: str) -> App:
    """`app` is made when somebody asks for it: whoever imports this for something else does not pay for it."""
    if name != "app":
        raise AttributeError(name)
    made = globals()["app"] = make_app()
    return made
