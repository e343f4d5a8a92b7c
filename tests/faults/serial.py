"""Clients of two sequencers of one zone: the log is one serial history of what was accepted and what was refused.

Each accept and each refusal must be the plain model's own at its place, and whoever sends after an answer comes after
it in the log (tests/faults/check.py). Nothing is broken here; the other scenarios ask the same of a system in trouble.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from commands._codec import context_of, decision_of, encode_json
from commands._deciding import Command, Outcome
from commands._sequencer import Sequencer
from domain._kernel import kebab
from domain.ledger import CaptureHold, ExpireHold, MintTokens, OpenWallet, PlaceHold, Transfer
from ops.settings import APP_ROLE
from ops.zones import ensure_zone
from tests.conftest import Database
from tests.faults.check import hold_against
from tests.faults.ledger import Ack, digest_of
from tests.faults.traffic import FUNDS, MOST, PEOPLE, wallet
from tests.integration.test_followers_miss_nothing import CountingLog, decided

SEQUENCERS = 2
CLIENTS = 32
MOST_HOLDS = 40
"""Open at once; or all that there is would be set aside by and by."""


@dataclass
class Load:
    sequencers: list[Sequencer]
    acks: list[Ack] = field(default_factory=list)
    holds: list[tuple[str, int, int]] = field(default_factory=list)
    """Name, payee and amount of holds that may be open."""

    async def send(self, number: int, command: Any, by: str, role: str, key: str) -> Outcome:
        """Through one of the sequencers; what it said is noted with the client's own times."""
        name = f"{context_of(type(command))}/{kebab(type(command).__name__)}"
        request = encode_json({"command": name, "act_as": by, "body": command})
        decide = decision_of(type(command))
        sent = time.monotonic()
        made = Command(
            name=name,
            body=command,
            decide=decide,
            principal="admin",
            by=by,
            role=role,
            key=key,
            request=request,
        )
        sequencer = self.sequencers[number % len(self.sequencers)]
        outcome = await decided(lambda: sequencer.submit(copy(made)))
        got = time.monotonic()
        assert outcome.status in (200, 409), outcome.body
        position = json.loads(outcome.body)["position"]
        self.acks.append(Ack(key, "admin", outcome.status, position, digest_of(outcome.body), sent, got))
        return outcome

    async def found(self) -> None:
        for n in range(PEOPLE):
            await self.send(n, OpenWallet(wallet(n)), f"w{n}", "participant", f"open-{n}")
            mint = MintTokens(wallet(n), FUNDS, "start", "start")
            await self.send(n, mint, "admin", "operator", f"mint-{n}")

    async def client(self, number: int, rng: random.Random, enough: Callable[[int], bool]) -> None:
        for turn in itertools.count():
            if enough(CLIENTS * turn):
                return
            await self._act(number, rng, f"{number}-{turn}")

    async def _act(self, number: int, rng: random.Random, key: str) -> None:
        source, target = rng.sample(range(PEOPLE), 2)
        by, role = f"w{source}", "participant"
        dice, amount = rng.random(), rng.randrange(1, MOST)
        command: Any = Transfer(wallet(source), wallet(target), amount)
        if dice < 0.15 and len(self.holds) < MOST_HOLDS:
            until = datetime.now(UTC) + timedelta(seconds=rng.uniform(0.05, 1.0))
            command = PlaceHold(key, wallet(source), f"w{target}", amount, until)
        elif dice < 0.30 and self.holds:
            name, payee, held = self.holds[0] if dice < 0.22 else rng.choice(self.holds)
            if dice < 0.22:
                by, role, command = "worker", "worker", ExpireHold(name)
            else:
                by, command = f"w{payee}", CaptureHold(name, rng.randint(1, held), wallet(payee))
        outcome = await self.send(number, command, by, role, key)
        if outcome.status == 200 and isinstance(command, PlaceHold):
            self.holds.append((key, target, amount))
        elif outcome.status == 200 and isinstance(command, ExpireHold):
            self.holds = [hold for hold in self.holds if hold[0] != command.hold]


def race(database: Database, seed: int, enough: Callable[[int], bool]) -> Counter[str]:
    """Commands by clients who do not wait for each other, until `enough` says that so many are; then the log is held
    against the model."""
    ensure_zone(database.url, "main")
    return asyncio.run(_race(database, seed, enough))


async def _race(database: Database, seed: int, enough: Callable[[int], bool]) -> Counter[str]:
    logs = [CountingLog(database.url, APP_ROLE) for _ in range(SEQUENCERS)]
    load = Load([Sequencer("main", log) for log in logs])
    for sequencer in load.sequencers:
        assert await sequencer.start()
    try:
        await load.found()
        clients = (load.client(n, random.Random(f"{seed}/{n}"), enough) for n in range(CLIENTS))
        await asyncio.gather(*clients)
    finally:
        for sequencer in load.sequencers:
            await sequencer.stop()
    judged = await asyncio.to_thread(hold_against, database.connect, load.acks)
    accepted = sum(ack.status == 200 for ack in load.acks)
    expired = judged["ledger/expire-hold 200"]
    return Counter(
        {
            "judged": judged.total(),
            "accepted": accepted,
            "refused": len(load.acks) - accepted,
            "conflicts": sum(log.conflicts for log in logs),
            "holds expired": expired,
        }
    )
