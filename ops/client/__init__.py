"""A client of Fogbook: typed, sync and async, safe to retry, and consistent with what it wrote itself.

    from domain.ledger import Transfer
    from ops.client import Fogbook
    from queries.ledger import Balance

    with Fogbook("http://127.0.0.1:8420", key, trust=["fogbook-1f2e/main+58163cb2+AUXV..."]) as book:
        done = book.send(Transfer("wallet:ana", "wallet:ben", 5_000_000))
        [balance, *_] = book.items("ledger/balance", Balance, account="wallet:ana")
        book.prove(done)

Commands are the domain's own dataclasses and rows those of the queries, so nothing is described twice, and a type
checker knows both. Each command has an idempotency key, so whatever got no answer is sent again and happens once. A
client remembers how far the log was when it wrote or read, and its queries wait for that (`Fogbook-Position`).

`AsyncFogbook` is the same with `await` and `async for`.
"""

from ops.client._clients import AsyncFogbook, Fogbook
from ops.client._errors import (
    FogbookError,
    Forbidden,
    Invalid,
    NotFound,
    NotProven,
    Problem,
    Refused,
    Stale,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from ops.client._values import Accepted, Command, Difference, Event, Page, Raw, Signer, Stretch

__all__ = [
    "Accepted",
    "AsyncFogbook",
    "Command",
    "Difference",
    "Event",
    "Fogbook",
    "FogbookError",
    "Forbidden",
    "Invalid",
    "NotFound",
    "NotProven",
    "Page",
    "Problem",
    "Raw",
    "Refused",
    "Signer",
    "Stale",
    "Stretch",
    "TooMany",
    "Unauthenticated",
    "Unavailable",
]
