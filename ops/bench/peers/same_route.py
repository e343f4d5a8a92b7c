"""Fogbook's own command routes in front of nothing: whoever submits a command is answered at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from commands._deciding import Command, Outcome
from commands._http import CommandApi, register
from commands._subjects import Keyring
from commands.api import load_routes
from ops.access import Access
from ops.logging import configure_logging
from ops.pool import open_pool
from ops.settings import Settings
from ops.web import App, freeze

_DATA = b'{"asset":"FOG","amount":"5","%b":"wallet:p00:17","purpose":"transfer","reference":"","memo":""}'
_EVENT = b'{"position":%d,"stream":"wallet:p00:17","version":1,"type":"%b","data":%b}'
ANSWER = Outcome(
    200,
    b'{"command_id":"c1","zone":"main","position":2,"events":[%b,%b]}'
    % (_EVENT % (1, b"Debited", _DATA % b"to"), _EVENT % (2, b"Credited", _DATA % b"source")),
    2,
)


class Nothing:
    """Stands where zones and sequencers stand."""

    def started(self, zone: str) -> "Nothing":
        return self

    async def submit(self, command: Command) -> Outcome:
        return ANSWER


def make_app(nothing: Nothing) -> App:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        settings = Settings()
        pepper = settings.pepper_bytes
        async with open_pool(settings, "fogbook bench peer", 4) as pool:
            keyring = Keyring(settings.subject_folder, pepper)
            app.state.api = CommandApi(nothing, Access(pool, pepper), keyring)
            freeze()
            yield

    configure_logging()
    load_routes()
    made = App(lifespan=lifespan)
    register(made, lambda: made.state.api)
    return made


app = make_app(Nothing())
