"""The same transfer as a user of FastAPI and the `eventsourcing` library writes it, after that library's manual.

Aggregates with `@event`, one application whose `transfer` saves both wallets at once, its PostgreSQL recorder
(PERSISTENCE_MODULE=eventsourcing.postgres) with its default settings, and sync routes, which FastAPI runs in its
thread pool. Two requests that meet at one wallet are retried. It keeps no idempotency keys, hashes or balances
of double entry, so it has less to do than Fogbook.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import AggregateNotFoundError, Application, Recording
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError
from fastapi import FastAPI, HTTPException

from ops.bench._requests import principal, wallet
from ops.bench.peers.noop import Answer, Authenticated, Event, Posting, Transfer, authenticating

MOST_ATTEMPTS = 20
START = 10**12


class InsufficientFunds(Exception):
    pass


class Wallet(Aggregate):
    @event("Opened")
    def __init__(self, name: str, owner: str) -> None:
        self.name = name
        self.owner = owner
        self.balance = 0

    @staticmethod
    def create_id(name: str) -> UUID:
        return uuid5(NAMESPACE_URL, f"/wallets/{name}")

    @event("Credited")
    def credit(self, asset: str, amount: int, source: str, purpose: str) -> None:
        self.balance += amount

    @event("Debited")
    def debit(self, asset: str, amount: int, to: str, purpose: str) -> None:
        if self.balance < amount:
            raise InsufficientFunds
        self.balance -= amount


class Wallets(Application[UUID]):
    def open_all(self, count: int, principals: int) -> None:
        """The same wallets as Fogbook has, opened and funded."""
        for first in range(0, count, 500):
            opened = []
            for number in range(first, min(first + 500, count)):
                made = Wallet(wallet(number, principals), principal(number, principals))
                made.credit("FOG", START, "world", "mint")
                opened.append(made)
            self.save(*opened)

    def transfer(self, command: Transfer, by: str) -> list[Recording[UUID]]:
        source: Wallet = self.repository.get(Wallet.create_id(command.from_))
        target: Wallet = self.repository.get(Wallet.create_id(command.to))
        if source.owner != by:
            raise AggregateNotFoundError
        source.debit(command.asset, int(command.amount), command.to, command.purpose)
        target.credit(command.asset, int(command.amount), command.from_, command.purpose)
        return self.save(source, target)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with authenticating(app):
        app.state.wallets = wallets = Wallets()
        wallets.open_all(int(os.environ["BENCH_WALLETS"]), int(os.environ["BENCH_PRINCIPALS"]))
        yield
        wallets.close()


app = FastAPI(lifespan=lifespan)


@app.post("/commands/ledger/transfer")
def transfer(command: Transfer, caller: Authenticated) -> Answer:
    wallets: Wallets = app.state.wallets
    for _ in range(MOST_ATTEMPTS):
        try:
            recordings = wallets.transfer(command, caller.principal)
        except IntegrityError:
            continue
        except AggregateNotFoundError:
            raise HTTPException(404, "There is no such wallet, or it is not yours.") from None
        except InsufficientFunds:
            raise HTTPException(409, "The wallet has less than that.") from None
        return _answer(command, recordings)
    raise HTTPException(503, "Too many payments meet at one wallet.")


def _answer(command: Transfer, recordings: list[Recording[UUID]]) -> Answer:
    terms = {n: getattr(command, n) for n in ("asset", "amount", "purpose", "reference", "memo")}
    sides = ((command.from_, "Debited", command.to), (command.to, "Credited", command.from_))
    events = [
        Event(
            position=recording.notification.id,
            stream=stream,
            version=recording.domain_event.originator_version,
            type=kind,
            data=Posting(counterparty=other, **terms),
        )
        for recording, (stream, kind, other) in zip(recordings, sides, strict=True)
    ]
    last = events[-1].position
    return Answer(command_id=f"c{last}", zone="main", position=last, events=events)
