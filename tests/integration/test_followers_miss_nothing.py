"""One gapless order per zone: a reader at position p has seen everything up to p, whatever becomes of writers.

Writers and readers are processes of their own, which run this file: they end with the test, even a killed one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import psycopg

from commands._codec import decision_of, event_encoder, event_leaf, microseconds, zone_prefix
from commands._deciding import Command, Outcome
from commands._log import Batch, Head, LogUnavailable, PostgresLog
from commands._sequencer import Overloaded, Sequencer
from domain.ledger import MintTokens, OpenWallet, Transfer
from ops._supervise import Child, spawn
from ops.files import write_file
from ops.pool import connect
from ops.settings import APP_ROLE
from ops.zones import ensure_zone

if TYPE_CHECKING:
    import pytest

    from tests.conftest import Database

ROOT = Path(__file__).parents[2]
ZONE = "main"
PROCESSES = 2
WRITERS = 16
ATTEMPTS = 40
READERS = 3
OWNERS = [f"u{number}" for number in range(6)]
ROLLED_BACK = 0.20
STALLED = 0.05
PATIENCE_S = 120.0


def test_readers_see_every_event_once_and_in_order_while_writers_race_stall_and_roll_back(
    database: Database, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    race(database, tmp_path, pytestconfig.getoption("--seed"))


def race(database: Database, tmp_path: Path, seed: int) -> Counter[str]:
    """Let writers and readers loose, and hold what they say against each other; returns what happened."""
    ensure_zone(database.url, ZONE)
    asyncio.run(open_wallets(database.url))
    children: list[Child] = []

    def start(role: str, number: int) -> Path:
        name = f"{role}{number}"
        about = {"role": role, "name": name, "url": database.url, "seed": seed, "folder": str(tmp_path)}
        argv = [sys.executable, "-m", __name__]
        stdin = json.dumps(about).encode()
        children.append(spawn(argv, log=tmp_path / f"{name}.log", cwd=ROOT, stdin=stdin))
        return tmp_path / f"{name}.json"

    try:
        read = [start("read", number) for number in range(READERS)]
        wait_for(tmp_path, [f"read{number}.ready" for number in range(READERS)], children)
        written = [start("write", number) for number in range(PROCESSES)]
        for child in children[READERS:]:
            assert child.wait(PATIENCE_S) == 0, child.log.read_text()
        with database.connect() as connection:
            row = connection.execute("SELECT position, number FROM heads WHERE zone = %s", (ZONE,)).fetchone()
        assert row is not None
        write_file(tmp_path / "end", b"%d" % row[0])
        for child in children:
            assert child.wait(PATIENCE_S) == 0, child.log.read_text()
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()

    counts = sum((Counter(json.loads(path.read_text())) for path in written), Counter[str]())
    readings = [json.loads(path.read_text()) for path in read]
    print(f"\nseed {seed}: {row[0]} events, {row[1]} commands; {dict(sorted(counts.items()))}")
    for reading in readings:
        print({name: count for name, count in reading.items() if name != "seen"})

    check_log(database, position=row[0], number=row[1], counts=counts, readings=readings)
    # A quiet run proves nothing.
    attempts = PROCESSES * WRITERS * ATTEMPTS
    assert counts["rollbacks"] > attempts * ROLLED_BACK * 0.8
    assert counts["stalls"] > 0
    assert counts["conflicts"] > 0
    assert counts["accepted"] > 0
    assert all(reading["resumed"] > 0 for reading in readings)
    return counts + Counter({"events": row[0]})


def test_a_reader_of_this_test_notices_an_event_that_arrives_late(database: Database, tmp_path: Path) -> None:
    add = "INSERT INTO events VALUES (%s, %s, 's', %s, 'Noted', '', '', now(), '')"
    with database.superuser() as connection, ThreadPoolExecutor(1) as pool:
        for position in (1, 2, 4):
            connection.execute(add, (ZONE, position, position))
        reading = pool.submit(read, "reader", database.url, 1, tmp_path)
        try:
            wait_for(tmp_path, ["reader.ready"], [])
            connection.execute(add, (ZONE, 3, 3))
        finally:
            write_file(tmp_path / "end", b"4")
        result = reading.result()
    assert [event[0] for event in result["seen"]] == [1, 2, 4]
    assert result["late"] > 0


def check_log(
    database: Database, position: int, number: int, counts: Counter[str], readings: list[dict[str, Any]]
) -> None:
    with database.connect() as connection:
        events = connection.execute(
            "SELECT position, stream, version, type, recorded_at FROM events WHERE zone = %s ORDER BY position",
            (ZONE,),
        ).fetchall()
        fates = connection.execute(
            "SELECT number, key, status FROM commands WHERE zone = %s ORDER BY number", (ZONE,)
        ).fetchall()
    assert [event[0] for event in events] == list(range(1, position + 1))
    assert [fate[0] for fate in fates] == list(range(1, number + 1))
    times = [event[4] for event in events]
    assert times == sorted(times)
    versions = defaultdict(list)
    for _, stream, version, _, _ in events:
        versions[stream].append(version)
    for stream, found in versions.items():
        assert found == list(range(1, len(found) + 1)), stream
    assert not [event for event in events if event[3] == "Ghost"]
    assert len([event for event in events if event[3] == "Noted"]) == counts["noted"]
    answered = Counter(status for _, key, status in fates if key.startswith("write"))
    assert answered == {200: counts["accepted"], 409: counts["refused"]}
    for reading in readings:
        assert reading["late"] == 0
        assert [tuple(event) for event in reading["seen"]] == [event[:3] for event in events]


def wait_for(folder: Path, names: list[str], children: list[Child]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not all((folder / name).exists() for name in names):
        assert all(child.poll() is None for child in children), [child.log.read_text() for child in children]
        assert time.monotonic() < give_up, "the readers did not start"
        time.sleep(0.01)


async def open_wallets(url: str) -> None:
    sequencer = Sequencer(ZONE, PostgresLog(url, APP_ROLE))
    assert await sequencer.start()
    try:
        for owner in OWNERS:
            wallet = f"wallet:{owner}"
            opened = await sequencer.submit(command(OpenWallet(wallet), owner, f"open {owner}"))
            mint = command(MintTokens(wallet, 1_000, "start", owner), "op", f"mint {owner}", "operator")
            minted = await sequencer.submit(mint)
            assert (opened.status, minted.status) == (200, 200), (opened, minted)
    finally:
        await sequencer.stop()


def command(body: Any, by: str, key: str, role: str = "participant") -> Command:
    decide, request = decision_of(type(body)), event_encoder(type(body))(body)
    return Command(
        type(body).__name__, body, decide, principal=by, by=by, role=role, key=key, request=request
    )


async def decided(submit: Callable[[], Awaitable[Outcome]]) -> Outcome:
    """A command's outcome, also where the machine is so busy that it is told to come back."""
    while True:
        with contextlib.suppress(Overloaded):
            outcome = await submit()
            if outcome.status != 503:
                return outcome
        await asyncio.sleep(0.05)


# A process of writers


class CountingLog(PostgresLog):
    """Counts how often another process was faster."""

    conflicts = 0

    async def append(self, zone: str, head: Head, at: datetime, batch: Batch) -> bool:
        appended = await super().append(zone, head, at, batch)
        self.conflicts += not appended
        return appended


class Undone(Exception):
    """Raised to roll a transaction back."""


class Writer:
    """Sends commands through the process's sequencer; now and then appends on a connection of its own."""

    def __init__(self, name: str, url: str, seed: int, sequencer: Sequencer, counts: Counter[str]) -> None:
        self.name = name
        self.random = Random(f"{seed} {name}")
        self.sequencer = sequencer
        self.counts = counts
        self.log = CountingLog(url, APP_ROLE, wait_s=PATIENCE_S)
        self.version = 0

    async def write(self) -> None:
        await self.log.connect()
        for attempt in range(ATTEMPTS):
            dice = self.random.random()
            if dice < ROLLED_BACK:
                await self.random.choice((self.fail, self.roll_back, self.cut))()
            elif dice < ROLLED_BACK + STALLED:
                await self.stall()
            else:
                await self.transfer(attempt)
        self.counts["conflicts"] += self.log.conflicts
        await self.log.close()

    async def transfer(self, attempt: int) -> None:
        owner, other = self.random.sample(OWNERS, 2)
        body = Transfer(f"wallet:{owner}", f"wallet:{other}", self.random.randint(1, 300))
        key = f"{self.name} {attempt}"
        outcome = await decided(lambda: self.sequencer.submit(command(body, owner, key)))
        self.counts[{200: "accepted", 409: "refused"}[outcome.status]] += 1

    async def stall(self) -> None:
        """Append, and keep everybody waiting before the commit."""
        async with self.log.locked(ZONE) as head:
            noted = self.random.randint(1, 3)
            await self.append(head, "Noted", noted)
            await asyncio.sleep(self.random.uniform(0.005, 0.03))
        self.version += noted
        self.counts["noted"] += noted
        self.counts["stalls"] += 1

    async def fail(self) -> None:
        """An error after the append, under the lock."""
        try:
            async with self.log.locked(ZONE) as head:
                await self.append(head, "Ghost", self.random.randint(1, 3))
                await asyncio.sleep(self.random.choice((0, 0, 0.005)))
                raise Undone
        except Undone:
            self.counts["rollbacks"] += 1

    async def roll_back(self) -> None:
        """Compare and append without the lock, then ROLLBACK."""
        connection = self.log._connection
        assert connection is not None
        async with connection.transaction(force_rollback=True):
            head = await self.log.head(ZONE)
            assert head is not None
            appended = await self.append(head, "Ghost", self.random.randint(1, 3))
        await self.log.connect()  # Behind the log's back, psycopg dropped what was prepared.
        if appended:
            self.counts["rollbacks"] += 1
        else:
            # A comparison that failed left nothing to roll back.
            await self.fail()

    async def cut(self) -> None:
        """The connection is lost between the append and the commit."""
        try:
            async with self.log.locked(ZONE) as head:
                await self.append(head, "Ghost", 2)
                await self.log.close()
                raise Undone
        except (Undone, LogUnavailable, psycopg.Error):
            self.counts["rollbacks"] += 1
            self.counts["cuts"] += 1
        await self.log.connect()

    async def append(self, head: Head, kind: str, events: int) -> bool:
        """Events of this writer's own stream; ghosts bring a command's fate along, whose number is taken back."""
        at, stream = max(datetime.now(UTC), head.at), f"raw:{self.name}"
        batch = Batch()
        for i in range(1, events + 1):
            version = self.version + i
            leaf = event_leaf(
                zone_prefix(ZONE), head.position + i, stream, version, kind, microseconds(at), b"", b"{}"
            )
            batch.streams.append(stream)
            batch.versions.append(version)
            batch.types.append(kind)
            batch.data.append(b"{}")
            batch.meta.append(b"")
            batch.leaves.append(leaf)
        if kind == "Ghost":
            batch.principals.append("ghost")
            batch.keys.append(f"write {self.name} {self.random.random()}")
            batch.act_as.append("ghost")
            batch.requests.append(b"{}")
            batch.if_match.append(None)
            batch.statuses.append(200)
            batch.answers.append(b"{}")
            batch.positions.append(head.position + events)
            batch.event_counts.append(events)
            batch.fate_leaves.append(bytes(32))
        return await self.log.append(ZONE, head, at, batch)


async def write(name: str, url: str, seed: int) -> dict[str, int]:
    counts: Counter[str] = Counter()
    log = CountingLog(url, APP_ROLE)
    sequencer = Sequencer(ZONE, log)
    assert await sequencer.start()
    try:
        writers = [Writer(f"{name}.{i}", url, seed, sequencer, counts) for i in range(WRITERS)]
        await asyncio.gather(*(writer.write() for writer in writers))
    finally:
        await sequencer.stop()
    counts["conflicts"] += log.conflicts
    return dict(counts)


# A process that reads


def read(name: str, url: str, seed: int, folder: Path) -> dict[str, Any]:
    """Tail the log in small batches until the end that the test names."""
    random = Random(f"{seed} {name}")
    seen: list[tuple[int, str, int]] = []
    last = late = polls = resumed = 0
    waited = False
    with connect(url, name) as connection:
        while not (folder / "end").exists() or last < int((folder / "end").read_text()):
            found = connection.execute(
                "SELECT position, stream, version FROM events"
                " WHERE zone = %s AND position > %s ORDER BY position LIMIT %s",
                (ZONE, last, random.randint(1, 9)),
            ).fetchall()
            polls += 1
            resumed += waited and bool(found)
            waited = not found
            if found:
                seen.extend(found)
                last = found[-1][0]
            else:
                (folder / f"{name}.ready").touch()
                time.sleep(0.001)
            window = min(last, 100)
            row = connection.execute(
                "SELECT count(*) FROM events WHERE zone = %s AND position > %s AND position <= %s",
                (ZONE, last - window, last),
            ).fetchone()
            late += row != (window,)
    return {"polls": polls, "resumed": resumed, "late": late, "seen": seen}


def main() -> None:
    about = json.load(sys.stdin)
    role, name, url, seed, folder = (about[key] for key in ("role", "name", "url", "seed", "folder"))
    result = read(name, url, seed, Path(folder)) if role == "read" else asyncio.run(write(name, url, seed))
    (Path(folder) / f"{name}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
