"""An event that raises, hangs or kills its worker is set aside with its keys; the others stay current; repair heals."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from projections._engine import all_projections
from projections._quarantine import MOST_ATTEMPTS
from projections._rebuild import rebuild, sweep
from tests.faults.check import caught_up
from tests.faults.stage import Stage, scenario
from tests.faults.traffic import wallet

PROJECTION = "ledger"
AMOUNT = 666_666
"""What nobody pays by chance."""
WITHIN_S = 150.0

QUARANTINED = (
    "SELECT stream, attempts, error FROM quarantine WHERE projection = %s AND quarantined ORDER BY position"
)
OTHERS_BEHIND = """
SELECT 1 FROM checkpoints c JOIN heads h USING (zone) WHERE c.live AND c.projection <> %s AND c.position < %s
"""
MARKED = """
SELECT count(*) FROM read.ledger_balances b JOIN checkpoints c USING (zone, generation)
WHERE c.live AND c.projection = 'ledger' AND b.incomplete
"""


@scenario(
    "poison",
    promises=(13,),
    provokes=("events quarantined", "others current", "raises"),
    provokes_long=("kills", "hangs", "rows marked"),
    workers=2,
)
async def poison(stage: Stage) -> None:
    for how in ("raises", "hangs", "kills") if stage.long else ("raises",):
        await swallow(stage, how)
        stage.counts[how] += 1


async def swallow(stage: Stage, how: str) -> None:
    world = stage.world
    said = json.dumps({"projection": PROJECTION, "amount": AMOUNT, "how": how})
    stage.traffic.stop = asyncio.Event()
    stage.traffic.name += how
    async with stage.traffic.flowing(people=4, readers=0):
        await stage.traffic.more(20)
        for name in world.workers:
            world.processes[name].control("poison", said)
        position = await pay_poison(stage)
        await stage.in_thread(others_current, stage, position)
        stage.counts["others current"] += 1
        found = await stage.in_thread(quarantined, stage)
        assert found[0][0] == wallet(0)
        assert found[0][1] < MOST_ATTEMPTS, found[0]
        stage.counts["events quarantined"] += len(found)
    await stage.in_thread(caught_up, world)
    await stage.in_thread(repair, stage, how)


async def pay_poison(stage: Stage) -> int:
    """Mint it to the first wallet; returns its position."""
    connection = stage.clients.connection()
    body = {"to": wallet(0), "amount": str(AMOUNT), "reason": "poison", "reference": "r"}
    answer = await stage.clients.send(connection, f"{stage.traffic.name}-poison", "ledger/mint-tokens", body)
    assert answer.status == 200
    connection.close()
    return int(answer.headers["fogbook-position"])


def others_current(stage: Stage, position: int) -> None:
    end = time.monotonic() + WITHIN_S
    with stage.world.connect() as connection:
        while connection.execute(OTHERS_BEHIND, (PROJECTION, position)).fetchone():
            assert time.monotonic() < end, "other projections wait for a poisoned one"
            time.sleep(0.05)


def quarantined(stage: Stage) -> list[tuple[Any, ...]]:
    """What was set aside, once something is."""
    end = time.monotonic() + WITHIN_S
    with stage.world.connect() as connection:
        while not (found := connection.execute(QUARANTINED, (PROJECTION,)).fetchall()):
            assert time.monotonic() < end, "the poison is not set aside"
            time.sleep(0.05)
    return found


def repair(stage: Stage, how: str) -> None:
    """Mend the handler, rebuild: nothing misses anything any more."""
    for name in stage.world.workers:
        stage.world.processes[name].control("poison", "")
    with stage.world.connect() as connection:
        row = connection.execute(MARKED).fetchone()
        assert row is not None
        stage.counts["rows marked"] += row[0]
        assert row[0] > 0 or how != "raises", "rows that miss an event do not say so"
        rebuild(stage.world.connect, "main", all_projections()[PROJECTION])
        sweep(connection, "main", all_projections()[PROJECTION])
        assert connection.execute(QUARANTINED, (PROJECTION,)).fetchall() == []
        assert connection.execute(MARKED).fetchone() == (0,)
