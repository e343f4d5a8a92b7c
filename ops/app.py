"""Both sides on one port, as `fogbook up` and `fogbook serve all` run them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from commands._http import register
from commands.api import CommandService, load_routes
from ops.health import add_health
from ops.settings import Settings
from ops.web import App, freeze
from queries.api import QueryService, register_all


def make_app() -> App:
    load_routes()
    writes, reads = CommandService(), QueryService()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        settings = Settings()
        async with (
            made.run(settings),
            writes.run(settings),
            reads.run(settings),
            app.state.health.run(settings),
        ):
            freeze()
            yield

    made = App(title="Fogbook", version="0.1.0", lifespan=lifespan)
    register(made, writes.running)
    register_all(made, reads)
    add_health(made)
    return made
