"""What has gone wrong in systems like this one, where no other test is about just that (see tests/PROMISES.md)."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import psycopg

from domain.ledger import MintTokens, OpenWallet, Transfer
from projections._follower import Follower
from tests.conftest import Database
from tests.running import until
from tests.support import Economy, economy

ROOT = Path(__file__).parents[2]
PAYMENTS = 40
HEAD = "SELECT position FROM heads WHERE zone = %s"
DEAD = "SELECT sum(n_dead_tup)::int FROM pg_stat_user_tables WHERE relname IN ('heads', 'checkpoints')"
SIZE = "SELECT pg_total_relation_size('heads') + pg_total_relation_size('checkpoints')"


async def found(made: Economy) -> None:
    for who in ("ana", "ben"):
        await made.issue(OpenWallet(f"wallet:{who}"), who)
    await made.issue(MintTokens("wallet:ana", 10_000, "start", "start"))


async def pay(made: Economy) -> None:
    await made.issue(Transfer("wallet:ana", "wallet:ben", 1), "ana")


async def balance(made: Economy) -> tuple[int, int]:
    """Ben's, and the position at which he has it."""
    response = await made.get("/queries/ledger/balance", account="wallet:ben")
    assert response.status_code == 200, response.text
    return int(response.json()["items"][0]["posted"]), response.json()["position"]


def test_a_long_transaction_on_another_table_freezes_nobodys_view(database: Database) -> None:
    """Readers that wait until all older transactions have ended would wait for this one."""

    async def scenario() -> None:
        async with economy(database) as made:
            await found(made)
            with database.superuser() as other:
                other.execute("CREATE TABLE elsewhere (n integer)")
                with other.transaction():
                    other.execute("INSERT INTO elsewhere VALUES (1)")
                    for paid in range(1, 6):
                        await pay(made)
                        head = await made.catch_up()
                        assert await balance(made) == (paid, head)

    asyncio.run(scenario())


def test_the_room_of_rows_that_change_with_every_batch_is_used_again_when_a_held_snapshot_ends(
    database: Database,
) -> None:
    """While somebody looks at one moment, no version of the head and of the checkpoints can go. All of it goes on
    and stays right meanwhile; the next who holds one makes neither much larger than the first did."""

    async def held(made: Economy, paid: int) -> int:
        """How large both are after somebody held a snapshot while others paid."""
        with psycopg.connect(database.superuser_url) as holds, database.superuser() as looks:
            holds.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            seen = holds.execute(HEAD, (made.zone,)).fetchone()
            for _ in range(PAYMENTS):
                await pay(made)
                head = await made.catch_up()
            assert await balance(made) == (paid, head)
            assert holds.execute(HEAD, (made.zone,)).fetchone() == seen
            # Its session may end a moment after the connection is closed: the snapshot ends here.
            holds.rollback()
            # Whoever else looks meanwhile, as autovacuum does, holds versions for a moment too.
            await until(lambda: tidied(looks))
            return size(looks)

    async def scenario() -> None:
        async with economy(database) as made:
            await found(made)
            await made.catch_up()
            with database.superuser() as looks:
                before = size(looks)
            first = await held(made, PAYMENTS)
            assert first > before, "nothing was held back"
            assert await held(made, 2 * PAYMENTS) - first < (first - before) / 2

    def tidied(connection: psycopg.Connection[Any]) -> bool:
        connection.execute("VACUUM (TRUNCATE false) heads, checkpoints")
        return connection.execute(DEAD).fetchone() == (0,)

    def size(connection: psycopg.Connection[Any]) -> int:
        """Bytes, with indexes."""
        row = connection.execute(SIZE).fetchone()
        assert row is not None
        return int(row[0])

    asyncio.run(scenario())


def test_a_follower_that_hangs_and_keeps_its_session_is_succeeded_all_the_same(database: Database) -> None:
    """So it is with a pooler that keeps the session of somebody who died: whatever that holds, it holds for ever."""

    async def scenario() -> None:
        async with economy(database) as made:
            await found(made)
            hangs = Follower(database.connect, made.zone)
            try:
                assert hangs.begin()
                await pay(made)
                await asyncio.to_thread(succeed, made)
                assert await balance(made) == (1, made.sequencer.head.position)
            finally:
                hangs.close()

    def succeed(made: Economy) -> None:
        follower = Follower(database.connect, made.zone)
        try:
            assert not follower.begin(), "the other one may yet go on"
            assert any(follower.begin() or time.sleep(0.1) for _ in range(1_000))
            while follower.advance():
                pass
            follower.end()
        finally:
            follower.close()

    asyncio.run(scenario())


def test_nobody_relies_on_notify() -> None:
    """A payload over 8,000 bytes or a full queue of notifications would fail the commit of a command."""
    statement = re.compile(r"\bpg_notify\b|\bNOTIFY [a-z]|\bLISTEN [a-z]")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for folder in ("commands", "projections", "workers", "queries", "ops")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".sql")
        for match in statement.finditer(path.read_text())
    ]
    assert found == []
