"""Transfers written by message-db's `write_message` from a minimal FastAPI endpoint.

message-db is a store and no more: nothing is read, decided or checked here, and the same authentication is all that
stands before it. Both messages go in one statement, so that a transfer is atomic and one round trip. Each write takes
an advisory lock of its category, here `wallet`, until the commit: the order of positions is the order of commits, as
it is with Fogbook, and one transfer waits for the other's commit.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

from fastapi import FastAPI
from psycopg_pool import AsyncConnectionPool

from ops.bench.peers.noop import Answer, Authenticated, Event, Posting, Transfer, authenticating

CONNECTIONS = 4
WRITE = """
SELECT write_message(%s::varchar, %s::varchar, 'Debited', %s::jsonb),
       write_message(%s::varchar, %s::varchar, 'Credited', %s::jsonb)
"""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = os.environ["MESSAGE_DB_URL"]
    async with authenticating(app):
        pool = AsyncConnectionPool(
            url, min_size=CONNECTIONS, max_size=CONNECTIONS, kwargs={"autocommit": True}, open=False
        )
        async with pool:
            await pool.wait()
            app.state.messages = pool
            yield


app = FastAPI(lifespan=lifespan)


@app.post("/commands/ledger/transfer")
async def transfer(command: Transfer, caller: Authenticated) -> Answer:
    terms = {n: getattr(command, n) for n in ("asset", "amount", "purpose", "reference", "memo")}
    debit, credit = Posting(counterparty=command.to, **terms), Posting(counterparty=command.from_, **terms)
    async with app.state.messages.connection() as connection:
        cursor = await connection.execute(
            WRITE,
            (
                *(str(uuid4()), f"wallet-{command.from_}", debit.model_dump_json()),
                *(str(uuid4()), f"wallet-{command.to}", credit.model_dump_json()),
            ),
        )
        debited, credited = await cursor.fetchone()
    # It tells the position in the stream alone.
    events = [
        Event(position=debited, stream=command.from_, version=debited, type="Debited", data=debit),
        Event(position=credited, stream=command.to, version=credited, type="Credited", data=credit),
    ]
    return Answer(command_id=f"c{debited}", zone="main", position=credited, events=events)
