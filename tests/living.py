"""A whole log in a database: the history of `tests.history` with the fates of its commands, and what follows it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from commands._codec import (
    decision_of,
    decode_json,
    encode_json,
    event_leaf,
    fate_leaf,
    microseconds,
    zone_prefix,
)
from commands._deciding import Command
from commands._log import PostgresLog
from commands._sequencer import Sequencer
from domain.ledger import MintTokens, OpenWallet, Transfer
from ops.servers import Servers
from ops.settings import APP_ROLE
from ops.signing import checkpoint_now
from projections._engine import Record, all_projections
from projections._follower import Follower
from tests.conftest import PEPPER, Database, _renamed
from tests.digests import digest
from tests.history import write

SECRET, ORIGIN = PEPPER.encode(), "fogbook.test"


@contextmanager
def made(servers: Servers, name: str, template: str) -> Iterator[Database]:
    """A database of that name while the block lasts."""
    with psycopg.connect(servers.superuser_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield Database(name, _renamed(servers.database_url, name), _renamed(servers.superuser_url, name))
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def live(database: Database, records: Sequence[Record]) -> None:
    """Attested and signed half way, with a foreign event, and once more at its end."""
    write_log(database, records)
    sign(database)
    go_on(database, "zoe")
    add_foreign_event(database)
    go_on(database, "yan")
    sign(database)


def write_log(database: Database, records: Sequence[Record]) -> None:
    """Events, and what became of the commands that appended them, as the sequencer would have stored both."""
    whole = [_with_meta(record) for record in records]
    write(database, tuple(whole))
    appended: dict[int, list[Record]] = {}
    for record in whole:
        appended.setdefault(int(record.command[1:]), []).append(record)
    prefix, last = zone_prefix("main"), whole[0]
    with database.superuser() as connection:
        with connection.cursor().copy(
            "COPY commands (zone, number, principal, act_as, key, request, if_match, status, answer, position, events,"
            " recorded_at, leaf) FROM STDIN"
        ) as copy:
            for number in range(1, max(appended) + 1):
                events = appended.get(number, [])  # Some commands find that nothing is left to do.
                last = events[-1] if events else last
                answer = _answer(number, last.position, events)
                fate = (number, last.by, last.by, f"k{number}", b"{}", None, 200, answer, last.position)
                leaf = fate_leaf(prefix, *fate, len(events), microseconds(last.recorded_at))
                copy.write_row(("main", *fate, len(events), last.recorded_at, leaf))
        connection.execute("UPDATE heads SET number = %s", (max(appended),))


def _with_meta(record: Record) -> Record:
    known = decode_json(record.meta)
    command, by, i, n = (known[name] for name in ("command", "by", "i", "n"))
    meta = {"command": command, "name": "", "by": by, "principal": by, "correlation": command}
    stored = encode_json(meta | {"causation": command, "i": i, "n": n})
    data, at = record.data, record.recorded_at
    return Record(record.position, record.stream, record.version, record.type, data, stored, at)


def _answer(number: int, position: int, events: Sequence[Record]) -> bytes:
    return b'{"command_id":"c%d","zone":"main","position":%d,"events":[%b]}' % (
        number,
        position,
        b",".join(
            b'{"position":%d,"stream":%b,"version":%d,"type":"%b","data":%b}'
            % (event.position, encode_json(event.stream), event.version, event.type.encode(), event.data)
            for event in events
        ),
    )


def go_on(database: Database, who: str) -> None:
    """More commands by the real sequencer, a refused one among them."""
    ended = asyncio.run(
        _send(
            database,
            (OpenWallet(f"wallet:{who}"), who),
            (Transfer(f"wallet:{who}", "wallet:ana", 10**30), who),
            (MintTokens(f"wallet:{who}", 10**37, "start", "grant"), "operator"),
            (Transfer(f"wallet:{who}", "wallet:ana", 10**36 + 1), who),
            (Transfer("wallet:ana", f"wallet:{who}", 10**36 + 7), "ana"),
        )
    )
    assert ended == [200, 409, 200, 200, 200]


async def _send(database: Database, *commands: tuple[Any, str]) -> list[int]:
    """Issue commands as their principals; returns how each ended."""
    sequencer = Sequencer("main", PostgresLog(database.url, APP_ROLE))
    assert await sequencer.start()
    try:
        outcomes = [
            await sequencer.submit(
                Command(
                    name=f"ledger/{type(body).__name__}",
                    body=body,
                    decide=decision_of(type(body)),
                    principal=by,
                    by=by,
                    role="operator" if by == "operator" else "participant",
                    key=f"k{sequencer.head.number}",
                    request=encode_json({"command": f"ledger/{type(body).__name__}", "body": body}),
                )
            )
            for body, by in commands
        ]
    finally:
        await sequencer.stop()
    return [outcome.status for outcome in outcomes]


def add_foreign_event(database: Database) -> None:
    """What an application of the eventsourcing library appends: any bytes, and no command."""
    with database.superuser() as connection:
        row = connection.execute(
            "UPDATE heads SET position = position + 1 RETURNING position, recorded_at"
        ).fetchone()
        assert row is not None
        position, at = row
        stream, data = 'app,"1\n', b"\xff\x00\n"
        leaf = event_leaf(zone_prefix("main"), position, stream, 1, "Elsewhere", microseconds(at), b"", data)
        connection.execute(
            "INSERT INTO events VALUES ('main', %s, %s, 1, 'Elsewhere', %s, '', %s, %s)",
            (position, stream, data, at, leaf),
        )


def follow(database: Database) -> None:
    follower = Follower(database.connect, "main")
    try:
        assert follower.begin()
        while follower.advance():
            pass
        follower.end()
    finally:
        follower.close()


def sign(database: Database) -> None:
    follow(database)
    with database.signer() as connection:
        checkpoint_now(connection, SECRET, ORIGIN, "main")


def digests(database: Database) -> dict[str, str]:
    with database.connect() as connection:
        return {name: digest(connection, "main", p) for name, p in all_projections().items()}
