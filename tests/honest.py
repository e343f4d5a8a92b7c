"""An honest history in a database of its own, and copies of it: what auditors look at in tests.

Import the fixtures `honest` (one a module) and `copy` where they are needed.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from commands._codec import context_of, decision_of, encode_json
from commands._deciding import Command
from commands._log import PostgresLog
from commands._sequencer import Sequencer
from commands._signatures import installation, public_key, sign, zone_key
from domain._kernel import kebab
from domain.ledger import MintTokens, OpenWallet, Transfer
from domain.settlement.transfers import Packet, ReceiveTransfer, RegisterPeer, statement
from ops.servers import Servers
from ops.settings import APP_ROLE
from ops.signing import add_witness, retire, rotate
from ops.zones import ensure_zone
from projections._follower import Follower
from projections._notes import COSIGNATURE, Checkpoint, cosign, verifier_key
from projections._transparency import extend_and_sign
from tests.conftest import PEPPER, Database, _renamed
from workers.archive import Archive

ORIGIN = installation(PEPPER.encode())
WITNESS = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRANSFERS = 520
"""More than a snapshot covers."""


def command(body: Any, by: str, key: str) -> Command:
    kind = type(body)
    name = f"{context_of(kind)}/{kebab(kind.__name__)}"
    role = "operator" if by == "admin" else "participant"
    request = encode_json({"command": name, "act_as": by, "body": body})
    return Command(name, body, decision_of(kind), by, by, role, key, request)


def issue(database: Database, commands: list[Command], zone: str = "main") -> list[int]:
    async def run() -> list[int]:
        sequencer = Sequencer(zone, PostgresLog(database.url, APP_ROLE))
        await sequencer.start()
        outcomes = await asyncio.gather(*(sequencer.submit(each) for each in commands))
        await sequencer.stop()
        return [outcome.status for outcome in outcomes]

    return asyncio.run(run())


def follow(database: Database, zone: str = "main") -> None:
    follower = Follower(database.connect, zone)
    assert follower.begin()
    while follower.advance():
        pass
    follower.end()
    follower.close()


def archive(database: Database) -> None:
    """Let the archive of past rows catch up."""
    archivist = Archive(database.connect, threading.Event())
    while archivist.turn():
        pass
    archivist.close()


def publish(database: Database, zone: str = "main") -> dict[str, str]:
    with database.signer() as connection:
        signed = extend_and_sign(connection, PEPPER.encode(), ORIGIN, zone)
    return {log: each.note for log, each in signed.items()}


@dataclass(frozen=True)
class Honest:
    database: Database
    kept: dict[str, str]
    """Checkpoints that somebody keeps elsewhere, by log."""


def play(database: Database) -> dict[str, str]:
    """Money moves at home and comes from abroad; trees grow, read models follow, a key is rotated."""
    ensure_zone(database.url, "main")
    start = [
        command(OpenWallet("wallet:ana"), "ana", "open"),
        command(OpenWallet("wallet:ben"), "ben", "open"),
        command(MintTokens("wallet:ana", 10_000, "start", "r1"), "admin", "mint"),
        command(RegisterPeer("village", public_key(zone_key(b"abroad", "village"))), "admin", "peer"),
    ]
    assert issue(database, start) == [200] * 4
    follow(database)
    publish(database)
    moves = [command(Transfer("wallet:ana", "wallet:ben", 5), "ana", f"t{i}") for i in range(TRANSFERS)]
    moves.insert(100, command(Transfer("wallet:ben", "wallet:ana", 10**6), "ben", "too much"))
    assert issue(database, moves).count(200) == TRANSFERS
    follow(database)
    with database.signer() as connection:
        assert rotate(connection, PEPPER.encode(), ORIGIN, "main") == 2
    kept = publish(database)
    with database.superuser() as connection:
        retire(connection, "main", 1)
        add_witness(connection, "witness.example", str(verifier_key("witness.example", WITNESS, COSIGNATURE)))
    later = datetime.now(UTC) + timedelta(days=1)
    packet = Packet("village", "main", 1, "FOG", 6, 7, "wallet:eva", "wallet:ben", later)
    proof = sign(zone_key(b"abroad", "village"), statement("packet", packet).encode())
    assert issue(database, [command(ReceiveTransfer(packet, proof), "admin", "packet")]) == [200]
    follow(database)
    archive(database)
    witnessed(database, publish(database)["events"])
    return kept


def witnessed(database: Database, note: str) -> None:
    """A witness cosigns a checkpoint of the events."""
    size, root = note.split("\n")[1:3]
    checkpoint = Checkpoint(f"{ORIGIN}/main", int(size), base64.b64decode(root))
    line = cosign(checkpoint.text(), "witness.example", WITNESS, int(time.time())).line()
    with database.superuser() as connection:
        statement = "INSERT INTO cosignatures VALUES ('main', 'events', %s, %s, 'witness.example', %s)"
        connection.execute(statement, (checkpoint.size, checkpoint.root, line))


# Databases: one history is played, and each test gets a copy of it


_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def honest(servers: Servers, _template: str) -> Iterator[Honest]:
    name = f"honest_{os.getpid()}"
    database = Database(name, _renamed(servers.database_url, name), _renamed(servers.superuser_url, name))
    with psycopg.connect(servers.superuser_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {_template}")
    yield Honest(database, play(database))
    with psycopg.connect(servers.superuser_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def copied(servers: Servers, honest: Honest) -> Iterator[Database]:
    name = f"{honest.database.name}_{next(_numbers)}"
    with psycopg.connect(servers.superuser_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {honest.database.name}")
    yield Database(name, _renamed(servers.database_url, name), _renamed(servers.superuser_url, name))
    with psycopg.connect(servers.superuser_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def copy(servers: Servers, honest: Honest) -> Iterator[Database]:
    with copied(servers, honest) as database:
        yield database
