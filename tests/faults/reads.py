"""People who read while others pay and read models are rebuilt: each answer is the model's at the position it states.

The model is a sum over the log's own events. Nobody ever goes back, and whoever names a position sees at least that.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

from domain.ledger import MintTokens, OpenWallet, PlaceHold, Transfer
from projections._engine import all_projections
from projections._follower import Follower
from projections._rebuild import rebuild, sweep
from tests.conftest import Database
from tests.faults.traffic import FUNDS, MOST, PEOPLE, wallet
from tests.integration.test_followers_miss_nothing import decided
from tests.support import Economy, economy

SESSIONS = 8
IDLE_S = 0.002
BETWEEN_REBUILDS_S = 0.3
MOST_AWAY = 500
PATH = "/queries/ledger/accounts"

Seen = dict[str, tuple[int, int]]
"""What is posted and held, by account."""


class Read(NamedTuple):
    position: int
    accounts: Seen


class Behind:
    """What runs beside the API: a follower, and somebody who rebuilds what is being read."""

    def __init__(self, made: Economy) -> None:
        self.made = made
        self.stop = threading.Event()
        self.rebuilds = 0

    def follow(self) -> None:
        follower = Follower(self.made.database.connect, self.made.zone)
        try:
            while not self.stop.is_set():
                if follower.begin():
                    follower.run(1.0, 1.0, self.stop.is_set)
                    follower.end()
        finally:
            follower.close()

    def rebuild(self) -> None:
        ledger = all_projections()["ledger"]
        while not self.stop.wait(BETWEEN_REBUILDS_S):
            rebuild(self.made.database.connect, self.made.zone, ledger)
            with self.made.database.connect() as connection:
                sweep(connection, self.made.zone, ledger)
            self.rebuilds += 1


async def found(made: Economy) -> None:
    for n in range(PEOPLE):
        await made.issue(OpenWallet(wallet(n)), f"w{n}")
        await made.issue(MintTokens(wallet(n), FUNDS, "start", "start"))


async def session(
    made: Economy, who: str, rng: random.Random, reads: list[Read], enough: Callable[[int], bool], counts: Any
) -> None:
    """Pays now and then, and reads what became of it; never sees less than before. With a key of its own: one key may
    not ask as often as all of them do."""
    last = 0
    while not enough(len(reads)):
        if rng.random() < 0.2:
            last = max(last, await pay(made, rng, counts))
        named = {"min_position": last} if rng.random() < 0.5 else {}
        response = await made.get(PATH, who, "auditor", limit=100, **named)
        if response.status_code == 503 and counts["told to come back"] < MOST_AWAY:
            # A machine that is very busy may be out of time; then nothing was said.
            counts["told to come back"] += 1
            await asyncio.sleep(0.1)
            continue
        assert response.status_code == 200, response.text
        body = msgspec.json.decode(response.content)
        assert response.headers["fogbook-position"] == str(body["position"])
        accounts = {each["account"]: (int(each["posted"]), int(each["held"])) for each in body["items"]}
        read = Read(body["position"], accounts)
        if named:
            assert read.position >= last, "what was named is seen"
            counts["positions named"] += 1
        reads.append(read)


async def pay(made: Economy, rng: random.Random, counts: Any) -> int:
    """The position of a transfer or of a hold, as its answer states it."""
    source, target = rng.sample(range(PEOPLE), 2)
    amount, until = rng.randrange(1, MOST), made.now + timedelta(hours=1)
    command: Any = Transfer(wallet(source), wallet(target), amount)
    if rng.random() < 0.2:
        command = PlaceHold(f"h{rng.getrandbits(64):x}", wallet(source), f"w{target}", amount // 4 + 1, until)
    key = f"p{rng.getrandbits(64):x}"
    outcome = await decided(lambda: made.send(command, f"w{source}", "participant", key))
    assert outcome.status in (200, 409), outcome.body
    counts["commands"] += 1
    return int(msgspec.json.decode(outcome.body)["position"])


def read_along(database: Database, seed: int, enough: Callable[[int], bool]) -> Counter[str]:
    """Reads by some sessions, each held against the model; `enough` says whether so many in all are enough."""
    return asyncio.run(_read_along(database, seed, enough))


async def _read_along(database: Database, seed: int, enough: Callable[[int], bool]) -> Counter[str]:
    counts: Counter[str] = Counter()
    sessions: list[list[Read]] = [[] for _ in range(SESSIONS)]
    async with economy(database) as made:
        await found(made)
        behind = Behind(made)
        beside = [asyncio.create_task(asyncio.to_thread(each)) for each in (behind.follow, behind.rebuild)]
        try:
            await asyncio.gather(
                *(
                    session(
                        made,
                        f"o{number}",
                        random.Random(f"{seed}/{number}"),
                        reads,
                        lambda mine: enough(SESSIONS * mine),
                        counts,
                    )
                    for number, reads in enumerate(sessions)
                )
            )
        finally:
            behind.stop.set()
            await asyncio.gather(*beside)
    for reads in sessions:
        positions = [read.position for read in reads]
        assert positions == sorted(positions), "a session goes back"
    check(database, [read for reads in sessions for read in reads])
    counts["reads"] = sum(map(len, sessions))
    counts["positions read"] = len({read.position for reads in sessions for read in reads})
    counts["rebuilds"] = behind.rebuilds
    return counts


def check(database: Database, reads: list[Read]) -> None:
    """Hold each read against the sum of the events up to the position that it states."""
    posted: defaultdict[str, int] = defaultdict(int)
    held: defaultdict[str, int] = defaultdict(int)
    with database.connect() as connection:
        events = connection.execute(
            "SELECT position, stream, type, data FROM events ORDER BY position"
        ).fetchall()
    upcoming = iter(events)
    done = 0
    for read in sorted(reads, key=lambda each: each.position):
        while done < read.position:
            done, stream, kind, data = next(upcoming)
            amount = int(msgspec.json.decode(data).get("amount", 0))
            match kind:
                case "Credited":
                    posted[stream] += amount
                case "Debited":
                    posted[stream] -= amount
                case "FundsHeld":
                    held[stream] += amount
        expected = {account: (total, held[account]) for account, total in posted.items()}
        assert read.accounts == expected, f"what was read at {read.position} is not what was there"
