"""The same command is sent several times at once, over connections that are cut: it has one effect and one answer."""

from __future__ import annotations

import asyncio
import json
import random

from tests.faults.client import CUT_OFF, Answer, Connection, Hung
from tests.faults.proxy import Much, Proxy, Trap, Way, anything
from tests.faults.stage import Stage, scenario
from tests.faults.traffic import PEOPLE, wallet

LEAST_COMMANDS = 1_000
COMMANDS_SHORT = 60
MOST_COMMANDS = 10_000
AT_ONCE = 10
MOST_SENDS = 5


@scenario(
    "once",
    promises=(5,),
    provokes=("sent again", "answered again", "unanswered", "changed bodies", "cut links", "acknowledged"),
)
async def once(stage: Stage) -> None:
    await stage.traffic.found()
    done = asyncio.Event()
    link = stage.world.links["client-api"]
    cutting = asyncio.create_task(cut(stage, link, done))
    numbers = stage.while_time_lasts(range(MOST_COMMANDS), LEAST_COMMANDS)

    async def sender() -> None:
        for number in numbers:
            if not stage.long and number >= COMMANDS_SHORT and link.counts["cut links"]:
                return
            stage.counts["commands"] += 1
            await one(stage, f"{stage.traffic.name}-{number}", random.Random(f"{stage.rng.random()}"))

    try:
        await asyncio.gather(*(sender() for _ in range(AT_ONCE)))
    finally:
        done.set()
        await cutting


async def cut(stage: Stage, link: Proxy, done: asyncio.Event) -> None:
    """Cut what is under way, before it arrives, after, and in the middle of the answer."""
    while not done.is_set():
        await asyncio.sleep(stage.rng.uniform(0.01, 0.1))
        if stage.rng.random() < 0.3:
            link.reset()
        else:
            way = stage.rng.choice((Way.THERE, Way.BACK, Way.BACK))
            forward = stage.rng.choice((Much.NOTHING, Much.HALF, Much.ALL))
            link.lay(Trap(way, anything, lambda: None, forward))


async def one(stage: Stage, key: str, rng: random.Random) -> None:
    """Send a command one to five times at once; all senders get the same bytes."""
    source, target = rng.sample(range(PEOPLE), 2)
    body = {"from": wallet(source), "to": wallet(target), "amount": str(rng.randrange(1, 400))}
    sends = rng.randint(1, MOST_SENDS)
    stage.counts["sent again"] += sends - 1
    connections = [stage.clients.connection() for _ in range(sends)]
    first, *others = connections
    answers = await asyncio.gather(
        stage.clients.send(first, key, "ledger/transfer", body, f"w{source}"),
        *(repeat(stage, each, key, body, f"w{source}") for each in others),
    )
    assert len({(answer.status, answer.body) for answer in answers}) == 1, f"{key} has two outcomes"
    hits = [answer.headers.get("idempotency-hit") == "true" for answer in answers]
    assert hits.count(False) <= 1, f"{key} was decided twice"
    stage.counts["answered again"] += sum(hits[1:])
    if rng.random() < 0.2:
        other = body | {"amount": "401"}
        answer = await repeat(stage, first, key, other, f"w{source}")
        assert answer.status == 422, answer
        stage.counts["changed bodies"] += 1
    for connection in connections:
        connection.close()


async def repeat(stage: Stage, connection: Connection, key: str, body: dict[str, str], by: str) -> Answer:
    """Somebody else's sending of the same: until there is an answer."""
    headers = stage.world.headers(by) | {"idempotency-key": key, "content-type": "application/json"}
    while True:
        try:
            answer = await connection.ask(
                "POST", "/commands/ledger/transfer", headers, json.dumps(body).encode()
            )
        except CUT_OFF:
            stage.clients.counts["unanswered"] += 1
            continue
        except Hung:
            stage.clients.hung.append(key)
            continue
        if answer.status != 503:
            return answer
