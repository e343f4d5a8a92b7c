"""A read model of wallets as the `eventsourcing` library's manual projects one: a Projection, its view, its runner.

`make <events>` writes a history of the shape that Fogbook's has, `rebuild` folds it with ProjectionRunner; each
prints one line of JSON at the end. The view is a PostgresTrackingRecorder that stores what an event did and how far
it came in one transaction an event, as the manual asks for; balance and statement line are one prepared statement.
Events are of the tuned application, whose mapper reads them faster than the library's own.
"""

import json
import os
import random
import sys
import time
from collections.abc import Iterator
from threading import Event
from typing import Any
from uuid import UUID

import psycopg
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from psycopg.sql import SQL

from ops.bench._requests import wallet
from ops.bench.peers.library_tuned import (
    START,
    Credited,
    Debited,
    DomainEvent,
    Opened,
    Posted,
    Wallets,
    opening,
    wallet_id,
)

AT_ONCE = 1_000
PATIENCE_S = 600.0

TABLES = (
    "CREATE TABLE IF NOT EXISTS accounts (account uuid PRIMARY KEY, name text NOT NULL, owner text NOT NULL)",
    "CREATE TABLE IF NOT EXISTS balances"
    " (account uuid, asset text, posted numeric NOT NULL, PRIMARY KEY (account, asset))",
    "CREATE TABLE IF NOT EXISTS statement (account uuid, line bigint, asset text, amount numeric, posted numeric,"
    " counterparty text, purpose text, at timestamptz, PRIMARY KEY (account, line))",
)
DROP = "DROP TABLE IF EXISTS accounts, balances, statement, wallets_projection_tracking"

POST = """
WITH balance AS (
    INSERT INTO balances VALUES (%(account)s, %(asset)s, %(amount)s)
    ON CONFLICT (account, asset) DO UPDATE SET posted = balances.posted + excluded.posted RETURNING posted
)
INSERT INTO statement
SELECT %(account)s, %(line)s, %(asset)s, %(amount)s, posted, %(counterparty)s, %(purpose)s, %(at)s FROM balance
"""

FOUND = """
SELECT (SELECT count(*) FROM accounts) + (SELECT count(*) FROM statement), (SELECT sum(posted)::text FROM balances)
"""


class View(PostgresTrackingRecorder):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.sql_create_statements += [SQL(statement) for statement in TABLES]

    def open(self, event: Opened, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            row = (event.originator_id, event.name, event.owner)
            cursor.execute("INSERT INTO accounts VALUES (%s, %s, %s)", row, prepare=True)

    def post(self, event: Posted, amount: int, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            row = {
                "account": event.originator_id,
                "line": tracking.notification_id,
                "asset": event.asset,
                "amount": amount,
                "counterparty": event.counterparty,
                "purpose": event.purpose,
                "at": event.timestamp,
            }
            cursor.execute(POST, row, prepare=True)


class WalletsProjection(Projection[View]):
    name = "wallets_projection"
    last = 0
    """Where the history ends."""
    done = Event()

    @singledispatchmethod
    def process_event(self, domain_event: DomainEvent, tracking: Tracking) -> None:
        raise NotImplementedError

    @process_event.register
    def opened(self, domain_event: Opened, tracking: Tracking) -> None:
        self.view.open(domain_event, tracking)

    @process_event.register
    def credited(self, domain_event: Credited, tracking: Tracking) -> None:
        self.view.post(domain_event, domain_event.amount, tracking)
        if tracking.notification_id == self.last:
            self.done.set()

    @process_event.register
    def debited(self, domain_event: Debited, tracking: Tracking) -> None:
        self.view.post(domain_event, -domain_event.amount, tracking)


def make(count: int) -> dict[str, Any]:
    """At least that many events; the last one is a credit."""
    events = list(history(count, opened(count), int(os.environ["BENCH_PRINCIPALS"])))
    wallets = Wallets()
    for first in range(0, len(events), AT_ONCE):
        wallets.save(*events[first : first + AT_ONCE])
    wallets.close()
    return {"events": len(events), "money": str(START * opened(count))}


def opened(count: int) -> int:
    """Wallets of a history of that many events."""
    return max(2, min(int(os.environ["BENCH_WALLETS"]), count // 10))


def history(count: int, wallets: int, principals: int) -> Iterator[DomainEvent]:
    """Wallets are opened and funded; the rest are transfers between any two of them."""
    versions: dict[UUID, int] = {}
    for number in range(wallets):
        yield from opening(number, principals)
        versions[wallet_id(wallet(number, principals))] = 2
    names, ids = [wallet(number, principals) for number in range(wallets)], list(versions)
    choose = random.Random(1)
    for _ in range((count + 1) // 2 - wallets):
        source, target = choose.sample(range(wallets), 2)
        terms: dict[str, Any] = {"asset": "FOG", "amount": choose.randint(1, 9), "purpose": "transfer"}
        for kind, account, other in ((Debited, source, target), (Credited, target, source)):
            versions[ids[account]] += 1
            yield kind(
                originator_id=ids[account],
                originator_version=versions[ids[account]],
                counterparty=names[other],
                **terms,
            )


def rebuild() -> dict[str, Any]:
    names = ("dbname", "host", "port", "user", "password")
    terms = {name: os.environ[f"POSTGRES_{name.upper()}"] for name in names}
    with psycopg.connect(**terms, autocommit=True) as connection:
        connection.execute(DROP)
        wallets = Wallets()
        WalletsProjection.last = wallets.recorder.max_notification_id() or 0
        wallets.close()
        begun = time.monotonic()
        with ProjectionRunner(
            application_class=Wallets, projection_class=WalletsProjection, view_class=View
        ) as runner:
            while not WalletsProjection.done.wait(0.5):
                runner.run_forever(timeout=0.001)  # Raises what went wrong.
                if time.monotonic() - begun > PATIENCE_S:
                    raise TimeoutError("the projection does not come to an end")
            seconds = time.monotonic() - begun
        row = connection.execute(FOUND).fetchone()
    assert row is not None
    return {"events": row[0], "money": row[1], "seconds": seconds}


if __name__ == "__main__":
    found = make(int(sys.argv[2])) if sys.argv[1] == "make" else rebuild()
    print(json.dumps(found | {"cpu_s": time.process_time()}))
