"""People who pay each other, set money aside and take it, as long as a scenario lasts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.faults.client import Clients, Connection

PEOPLE = 8
FUNDS = 2_000
MOST = 400
REQUESTS_A_CONNECTION = 7


def wallet(number: int) -> str:
    return f"wallet:w{number}"


@dataclass
class Traffic:
    clients: Clients
    name: str
    """Stands before all keys, so that turns do not meet."""
    rng: random.Random
    excused: Callable[[], bool] = lambda: False
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    holds: list[tuple[str, int, int]] = field(default_factory=list)
    """Name, payee and amount of holds that may still be open."""
    lasting_s: tuple[float, float] = (0.3, 2.0)
    pause_s: float = 0.0

    @property
    def acknowledged(self) -> int:
        return self.clients.counts["acknowledged"]

    async def found(self) -> None:
        """Wallets with something in them; in a world that was used before they are there, and that is fine."""
        connection = self.clients.connection()
        for n in range(PEOPLE):
            await self.clients.send(
                connection, f"{self.name}-open-{n}", "ledger/open-wallet", {"wallet": wallet(n)}, f"w{n}"
            )
            mint = {"to": wallet(n), "amount": str(FUNDS), "reason": "start", "reference": self.name}
            await self.clients.send(connection, f"{self.name}-mint-{n}", "ledger/mint-tokens", mint)
        connection.close()

    async def person(self, number: int) -> None:
        rng = random.Random(f"{self.rng.random()}/{number}")
        connection = self.clients.connection()
        sent = 0
        while not self.stop.is_set():
            sent += 1
            await self._act(connection, rng, f"{self.name}-{number}-{sent}")
            if sent % REQUESTS_A_CONNECTION == 0:
                connection.close()  # Or an API that was away would never be called again.
            await asyncio.sleep(self.pause_s)
        connection.close()

    async def _act(self, connection: Connection, rng: random.Random, key: str) -> None:
        source, target = rng.sample(range(PEOPLE), 2)
        amount = rng.randrange(1, MOST)
        dice = rng.random()
        if dice < 0.12:
            until = datetime.now(UTC) + timedelta(seconds=rng.uniform(*self.lasting_s))
            body = {
                "hold": key,
                "wallet": wallet(source),
                "payee": f"w{target}",
                "amount": str(amount // 4 + 1),
            }
            answer = await self.clients.send(
                connection,
                key,
                "ledger/place-hold",
                body | {"expires_at": until.isoformat()},
                f"w{source}",
                self.excused,
            )
            if answer.status == 200:
                self.holds.append((key, target, amount // 4 + 1))
        elif dice < 0.18 and self.holds:
            name, payee, held = self.holds.pop(rng.randrange(len(self.holds)))
            body = {"hold": name, "amount": str(max(1, held // rng.randint(1, 2))), "to": wallet(payee)}
            await self.clients.send(connection, key, "ledger/capture-hold", body, f"w{payee}", self.excused)
        else:
            body = {"from": wallet(source), "to": wallet(target), "amount": str(amount)}
            await self.clients.send(connection, key, "ledger/transfer", body, f"w{source}", self.excused)

    async def reader(self) -> None:
        """Somebody who asks what he has."""
        connection = self.clients.connection()
        while not self.stop.is_set():
            await self.clients.query(connection, "/queries/ledger/accounts?limit=5", "", self.excused)
            await asyncio.sleep(0.03)
        connection.close()

    @asynccontextmanager
    async def flowing(self, people: int = 8, readers: int = 1) -> AsyncIterator[None]:
        """People are at it while the block lasts; all their commands are answered at its end."""
        await self.found()
        tasks = [asyncio.create_task(self.person(n)) for n in range(people)]
        tasks += [asyncio.create_task(self.reader()) for _ in range(readers)]
        try:
            yield
        except BaseException:
            # Commands that nothing will ever answer must not be waited for.
            for task in tasks:
                task.cancel()
            raise
        finally:
            self.stop.set()
            done = await asyncio.gather(*tasks, return_exceptions=True)
        for result in done:
            if isinstance(result, BaseException):
                raise result

    async def more(self, answers: int = 20, within_s: float = 60.0) -> None:
        """Until so many more commands were acknowledged."""
        wanted = self.acknowledged + answers
        for _ in range(int(within_s / 0.01)):
            if self.acknowledged >= wanted:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(
            f"only {self.acknowledged} of {wanted} commands were acknowledged in {within_s:g} s"
        )
