"""Three queries as one writes them by hand: FastAPI, a psycopg pool, SQL over the same tables, the same API keys.

It knows the generation of the rows that it reads, and names no position: what `fogbook` answers beside the items is
its own affair.
"""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

from ops.access import Access, Caller
from ops.settings import APP_ROLE, Settings
from ops.waits import connection_options

ZONE = "main"

LIVE = """
SELECT projection, generation FROM checkpoints WHERE zone = %s AND live
"""

BALANCE = """
SELECT account, asset, posted::text, held::text, (posted - held)::text AS available, position AS version, incomplete
FROM read.ledger_balances WHERE zone = %s AND generation = %s AND account = %s
ORDER BY asset LIMIT %s
"""

STATEMENT = """
SELECT account, line, asset, amount::text, posted::text, counterparty, purpose, reference, memo, transaction, at,
       position AS version, incomplete
FROM read.ledger_statement WHERE zone = %s AND generation = %s AND account = %s AND line < %s
ORDER BY line DESC LIMIT %s
"""

WEALTH = """
SELECT %(asset)s AS of, count(*) AS number, sum(x)::text AS total,
       div(10000 * sum(x) FILTER (WHERE n - i < 1), sum(x))::bigint AS top_1,
       div(10000 * sum(x) FILTER (WHERE n - i < 10), sum(x))::bigint AS top_10,
       div(10000 * (2 * sum(i * x) - (max(n) + 1) * sum(x)), max(n) * sum(x))::bigint AS gini,
       max(version) AS version, bool_or(incomplete) AS incomplete
FROM (
    SELECT x, version, incomplete, row_number() OVER (ORDER BY x, holder) AS i, count(*) OVER () AS n
    FROM (
        SELECT split_part(account, ':', 2) AS holder, sum(posted) AS x, max(position) AS version,
               bool_or(incomplete) AS incomplete
        FROM read.ledger_balances
        WHERE zone = %(zone)s AND generation = %(generation)s AND asset = %(asset)s AND posted > 0
          AND account LIKE 'wallet:%%'
        GROUP BY 1
    ) holdings
) ranked
"""

LAST = 2**63 - 1

Pool = AsyncConnectionPool[AsyncConnection[dict[str, Any]]]


class Balance(BaseModel):
    account: str
    asset: str
    posted: str
    held: str
    available: str
    version: int
    incomplete: bool


class Line(BaseModel):
    account: str
    line: int
    asset: str
    amount: str
    posted: str
    counterparty: str
    purpose: str
    reference: str
    memo: str
    transaction: str
    at: datetime
    version: int
    incomplete: bool


class Concentration(BaseModel):
    of: str
    number: int
    total: str
    top_1: int
    top_10: int
    gini: int
    version: int
    incomplete: bool


class Balances(BaseModel):
    items: list[Balance]


class Statement(BaseModel):
    items: list[Line]
    next: str | None


class Wealth(BaseModel):
    items: list[Concentration]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings = Settings()
    pool: Pool = AsyncConnectionPool(
        settings.database_url,
        min_size=1,
        max_size=settings.query_connections,
        open=False,
        kwargs={
            "autocommit": True,
            "row_factory": dict_row,
            "options": connection_options(APP_ROLE),
            "application_name": "fogbook bench peer",
        },
    )
    authenticating = AsyncConnectionPool(
        settings.database_url,
        min_size=1,
        max_size=2,
        open=False,
        kwargs={"options": connection_options(APP_ROLE)},
    )
    async with pool, authenticating:
        app.state.access = Access(authenticating, settings.pepper_bytes)
        app.state.pool = pool
        async with pool.connection() as connection:
            cursor = await connection.execute(LIVE, (ZONE,))
            app.state.generations = {r["projection"]: r["generation"] for r in await cursor.fetchall()}
        yield


app = FastAPI(lifespan=lifespan)


async def authenticated(request: Request, authorization: Annotated[str | None, Header()] = None) -> Caller:
    access: Access = request.app.state.access
    return await access.caller(authorization)


Authenticated = Annotated[Caller, Depends(authenticated)]
Limit = Annotated[int, Query(ge=1, le=500)]


async def own_account(account: str, caller: Authenticated) -> str:
    if account.split(":")[1] != caller.principal:
        raise HTTPException(404)
    return account


OwnAccount = Annotated[str, Depends(own_account)]


async def rows(request: Request, statement: str, values: Any) -> list[dict[str, Any]]:
    pool: Pool = request.app.state.pool
    async with pool.connection() as connection:
        cursor = await connection.execute(statement, values)
        return await cursor.fetchall()


@app.get("/queries/ledger/balance")
async def balance(request: Request, account: OwnAccount, limit: Limit = 50) -> Balances:
    generation = request.app.state.generations["ledger"]
    found = await rows(request, BALANCE, (ZONE, generation, account, limit))
    return Balances(items=[Balance(**row) for row in found])


@app.get("/queries/ledger/statement")
async def statement(
    request: Request, account: OwnAccount, limit: Limit = 50, after: str | None = None
) -> Statement:
    generation = request.app.state.generations["ledger"]
    before = LAST if after is None else int(base64.urlsafe_b64decode(after))
    found = await rows(request, STATEMENT, (ZONE, generation, account, before, limit + 1))
    following = None
    if len(found) > limit:
        following = base64.urlsafe_b64encode(str(found[limit - 1]["line"]).encode()).decode()
    return Statement(items=[Line(**row) for row in found[:limit]], next=following)


@app.get("/queries/analytics/wealth")
async def wealth(request: Request, caller: Authenticated, asset: str = "FOG") -> Wealth:
    if caller.role not in ("operator", "auditor"):
        raise HTTPException(403)
    values = {"zone": ZONE, "generation": request.app.state.generations["ledger"], "asset": asset}
    return Wealth(items=[Concentration(**row) for row in await rows(request, WEALTH, values)])
