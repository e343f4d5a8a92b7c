"""The same transfer on the `eventsourcing` library as its manual makes it fast, where one process owns the wallets.

Against the plain application next door:
- events are msgspec structs, a mapper of one function each way writes them (the library's example 9);
- aggregates are immutable, all of them stay in the cache (AGGREGATE_CACHE_MAXSIZE=0), nothing is copied out of it
  (DEEPCOPY_FROM_AGGREGATE_CACHE=n) and nothing is looked up again (AGGREGATE_CACHE_FASTFORWARD=n, which the manual
  allows to a single process), so a transfer reads nothing and snapshots would only cost;
- connections are as many as it is fastest with, kept for good and never pinged;
- the answer is rendered by msgspec and sent as it is, past FastAPI's response model.
Routes are sync, which FastAPI runs in its thread pool: the library blocks.

Its recorder locks the table of events from the first insert to the commit, without which whoever follows its
notifications can miss some. POSTGRES_ENABLE_DB_FUNCTIONS=y, as in the library's own speed runs, inserts by one call
of a database function and takes no such lock: faster, and measured beside this.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, ClassVar
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from eventsourcing.application import AggregateNotFoundError, Application, Recording
from eventsourcing.domain import datetime_now_with_tzinfo
from eventsourcing.persistence import IntegrityError, Mapper, StoredEvent
from eventsourcing.utils import get_topic, resolve_topic
from fastapi import FastAPI, HTTPException, Response

from ops.bench._requests import principal, wallet
from ops.bench.peers.noop import Authenticated, Transfer, authenticating

MOST_ATTEMPTS = 1_000
"""A loser of a race finds the winner's wallet in the cache only a moment after the winner's commit."""
START = 10**12


class InsufficientFunds(Exception):
    pass


class DomainEvent(msgspec.Struct, frozen=True, kw_only=True):
    originator_id: UUID
    originator_version: int
    timestamp: datetime = msgspec.field(default_factory=datetime_now_with_tzinfo)


class Opened(DomainEvent, frozen=True, kw_only=True):
    name: str
    owner: str


class Posted(DomainEvent, frozen=True, kw_only=True):
    asset: str
    amount: int
    counterparty: str
    purpose: str


class Credited(Posted, frozen=True, kw_only=True):
    pass


class Debited(Posted, frozen=True, kw_only=True):
    pass


class Wallet(msgspec.Struct, frozen=True):
    id: UUID
    version: int
    created_on: datetime
    modified_on: datetime
    owner: str
    balance: int


def mutated(wallet: Wallet | None, event: DomainEvent) -> Wallet:
    if isinstance(event, Opened):
        return Wallet(event.originator_id, 1, event.timestamp, event.timestamp, event.owner, 0)
    assert wallet is not None
    assert isinstance(event, Posted)
    amount = event.amount if isinstance(event, Credited) else -event.amount
    moved = wallet.balance + amount
    return Wallet(
        wallet.id, event.originator_version, wallet.created_on, event.timestamp, wallet.owner, moved
    )


def project(wallet: Wallet | None, events: Iterable[DomainEvent]) -> Wallet | None:
    for event in events:
        wallet = mutated(wallet, event)
    return wallet


def wallet_id(name: str) -> UUID:
    return uuid5(NAMESPACE_URL, f"/wallets/{name}")


class MsgspecMapper(Mapper[UUID]):
    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        return StoredEvent(
            originator_id=domain_event.originator_id,
            originator_version=domain_event.originator_version,
            topic=get_topic(type(domain_event)),
            state=msgspec.json.encode(domain_event),
        )

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        return msgspec.json.decode(stored_event.state, type=resolve_topic(stored_event.topic))


class Wallets(Application[UUID]):
    env: ClassVar[dict[str, str]] = {
        "MAPPER_TOPIC": get_topic(MsgspecMapper),
        "AGGREGATE_CACHE_MAXSIZE": "0",
        "AGGREGATE_CACHE_FASTFORWARD": "n",
        "DEEPCOPY_FROM_AGGREGATE_CACHE": "n",
        "POSTGRES_POOL_SIZE": "4",
        "POSTGRES_MAX_OVERFLOW": "0",
        "POSTGRES_PRE_PING": "n",
    }

    def open_all(self, count: int, principals: int) -> None:
        """The same wallets as Fogbook has, opened and funded."""
        for first in range(0, count, 500):
            numbers = range(first, min(first + 500, count))
            events = [event for number in numbers for event in opening(number, principals)]
            self.save(*events)
            self._remember(events)

    def transfer(self, command: Transfer, by: str) -> list[Recording[UUID]]:
        get: Callable[..., Wallet] = self.repository.get
        source = get(wallet_id(command.from_), projector_func=project)
        target = get(wallet_id(command.to), projector_func=project)
        amount = int(command.amount)
        if source.owner != by:
            raise AggregateNotFoundError
        if source.balance < amount:
            raise InsufficientFunds
        terms: dict[str, Any] = {"asset": command.asset, "amount": amount, "purpose": command.purpose}
        ids = ({"originator_id": w.id, "originator_version": w.version + 1} for w in (source, target))
        debited = Debited(counterparty=command.to, **terms, **next(ids))
        credited = Credited(counterparty=command.from_, **terms, **next(ids))
        # In one order whoever pays whom, or two transfers between the same wallets would be a deadlock.
        saved = self.save(*sorted((debited, credited), key=lambda event: event.originator_id))
        self.repository.cache.put(source.id, mutated(source, debited))
        self.repository.cache.put(target.id, mutated(target, credited))
        return sorted(saved, key=lambda recording: recording.domain_event is credited)

    def _remember(self, events: list[DomainEvent]) -> None:
        """Saving puts aggregates into the cache, but no events."""
        for opened, funded in zip(events[::2], events[1::2], strict=True):
            self.repository.cache.put(opened.originator_id, project(None, (opened, funded)))


def opening(number: int, principals: int) -> tuple[DomainEvent, DomainEvent]:
    id = wallet_id(wallet(number, principals))
    terms: dict[str, Any] = {"asset": "FOG", "counterparty": "world", "purpose": "mint"}
    opened = Opened(
        originator_id=id,
        originator_version=1,
        name=wallet(number, principals),
        owner=principal(number, principals),
    )
    return opened, Credited(originator_id=id, originator_version=2, amount=START, **terms)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with authenticating(app):
        app.state.wallets = wallets = Wallets()
        wallets.open_all(int(os.environ["BENCH_WALLETS"]), int(os.environ["BENCH_PRINCIPALS"]))
        yield
        wallets.close()


app = FastAPI(lifespan=lifespan)


@app.post("/commands/ledger/transfer")
def transfer(command: Transfer, caller: Authenticated) -> Response:
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
        return Response(_answer(command, recordings), media_type="application/json")
    raise HTTPException(503, "Too many payments meet at one wallet.")


def _answer(command: Transfer, recordings: list[Recording[UUID]]) -> bytes:
    terms = {n: getattr(command, n) for n in ("asset", "amount", "purpose", "reference", "memo")}
    sides = ((command.from_, "Debited", command.to), (command.to, "Credited", command.from_))
    events = [
        {
            "position": recording.notification.id,
            "stream": stream,
            "version": recording.domain_event.originator_version,
            "type": kind,
            "data": {"counterparty": other, **terms},
        }
        for recording, (stream, kind, other) in zip(recordings, sides, strict=True)
    ]
    last = max(event["position"] for event in events)
    return msgspec.json.encode({"command_id": f"c{last}", "zone": "main", "position": last, "events": events})
