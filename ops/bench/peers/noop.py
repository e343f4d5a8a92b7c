"""An ordinary FastAPI application whose transfer does nothing: the same body, authentication and answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Request
from pydantic import BaseModel, ConfigDict, Field

from ops.access import Access, Caller
from ops.pool import open_pool
from ops.settings import Settings


class Transfer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    from_: str = Field(alias="from")
    to: str
    amount: str
    asset: str = "FOG"
    purpose: str = "transfer"
    reference: str = ""
    memo: str = ""


class Posting(BaseModel):
    asset: str
    amount: str
    counterparty: str
    purpose: str
    reference: str
    memo: str


class Event(BaseModel):
    position: int
    stream: str
    version: int
    type: str
    data: Posting


class Answer(BaseModel):
    command_id: str
    zone: str
    position: int
    events: list[Event]


async def authenticated(request: Request, authorization: Annotated[str | None, Header()] = None) -> Caller:
    return await request.app.state.access.caller(authorization)


Authenticated = Annotated[Caller, Depends(authenticated)]


@asynccontextmanager
async def authenticating(app: FastAPI) -> AsyncIterator[None]:
    settings = Settings()
    async with open_pool(settings, "fogbook bench peer", 4) as pool:
        app.state.access = Access(pool, settings.pepper_bytes)
        yield


app = FastAPI(lifespan=authenticating)


@app.post("/commands/ledger/transfer")
async def transfer(command: Transfer, caller: Authenticated) -> Answer:
    terms = {n: getattr(command, n) for n in ("asset", "amount", "purpose", "reference", "memo")}
    return Answer(
        command_id="c1",
        zone="main",
        position=2,
        events=[
            Event(
                position=1,
                stream=command.from_,
                version=1,
                type="Debited",
                data=Posting(counterparty=command.to, **terms),
            ),
            Event(
                position=2,
                stream=command.to,
                version=1,
                type="Credited",
                data=Posting(counterparty=command.from_, **terms),
            ),
        ],
    )
