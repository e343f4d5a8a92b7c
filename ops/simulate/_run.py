# ruff: noqa: S311 - a story is told with a seeded random.Random; nothing here is secret.
"""The simulation's clock: hour by hour, time passes, timers are waited for, then everybody acts; checks at the end.

What is done is read from the log. Each step ends its waiting with a command of its own, its *mark*; what actors plan
is a function of the log up to the mark. A simulation that was interrupted begins again at its last mark, with the
same plans under the same idempotency keys.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from time import monotonic
from typing import Any

import httpx
import typer

from commands._codec import encode_json
from ops.progress import Tick, progress
from ops.simulate._actors import Actor, Operator, View, cast
from ops.simulate._api import Answer, Api, SimulationFailed, Wish, rfc3339
from ops.simulate._book import FOG, Book, time
from ops.status import show_rows
from ops.zones import ensure_zone

AT_ONCE = 8
"""Principals that are served at the same time."""
TIMERS_WITHIN_S = 20.0
LOOK_EVERY_S = 0.03
CHECKS = 5
"""How often: a late timer may move the log between two queries: then all are asked again."""
START = datetime.fromtimestamp(0, UTC)
CLOCK = Wish("platform/advance-clock", {})


def run(
    *, devices: int, days: int, seed: int, zone: str, url: str, key: str, database_url: str, json: bool
) -> int:
    """Simulate and print what came of it; the exit code. Raises Refused when it cannot be done."""
    if database_url:
        ensure_zone(database_url, zone, "manual")
    began = monotonic()
    with progress(f"Living in {zone}") as tick:
        simulation = asyncio.run(_simulate(devices, days, seed, zone, url, key, tick))
    summary = simulation.summary() | {"seconds": round(monotonic() - began, 1)}
    if json:
        typer.echo(encode_json(summary))
    else:
        _show(summary)
    return 1 if simulation.problems else 0


async def _simulate(
    devices: int, days: int, seed: int, zone: str, url: str, key: str, tick: Tick
) -> Simulation:
    headers = {"authorization": f"Bearer {key}", "fogbook-zone": zone}
    limits = httpx.Limits(max_connections=AT_ONCE, keepalive_expiry=60)
    async with httpx.AsyncClient(
        base_url=url, headers=headers, limits=limits, timeout=15, trust_env=False
    ) as http:
        simulation = Simulation(Api(http), zone, f"sim-{seed}-{devices}", cast(devices))
        await simulation.live(days, tick)
        await simulation.check()
        return simulation


@dataclass
class Simulation:
    api: Api
    zone: str
    name: str
    """Of the seed and the number of devices: part of all keys and ids."""
    actors: Sequence[Actor]
    book: Book = field(default_factory=Book)
    position: int = 0
    """How far the book has read the log."""
    answered: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Events that answers showed, and that the log has to show as well."""
    began_at: datetime | None = None
    """When this simulation first began, by the zone's clock."""
    marks: dict[int, int] = field(default_factory=dict)
    """The position at which each step's mark stands in the log."""
    found: int = 0
    """Where the log ended when this run began."""
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    problems: list[str] = field(default_factory=list)
    now: datetime = START
    """The zone's time when this run began."""

    @property
    def everybody(self) -> Sequence[Actor]:
        return [Operator(), *self.actors]

    # Living

    async def live(self, days: int, tick: Tick) -> None:
        self.now = await self.api.now(self.zone)
        await self._find()
        start = self.began_at or self.now
        steps = days * 24
        for step in range(max(self.marks, default=0), steps):
            tick(step, steps)
            at = start + timedelta(hours=step)
            if step not in self.marks:
                await self._pass_time(step, at)
            mark = (await self._send([CLOCK], f"{step}:mark", at))[0].body["position"]
            await self._read_log(mark)
            await self._act(step, at)
        await self._pass_time(steps, start + timedelta(hours=steps))
        tick(steps, steps)

    async def _find(self) -> None:
        """What the log holds of this simulation already; the book is read up to its last mark."""
        while page := await self.api.events(self.found):
            self.found = page[-1]["position"]
            for event in page:
                name, _, part = event["meta"].get("correlation", "").partition("/")
                if name == self.name:
                    self.began_at = self.began_at or time(event["recorded_at"])
                    if part.endswith(":mark"):
                        self.marks[int(part.removesuffix(":mark"))] = event["position"]
        await self._read_log(max(self.marks.values(), default=1) - 1)

    async def _pass_time(self, step: int, at: datetime) -> None:
        """Advance the clock, and wait until workers have done what fell due."""
        if at >= self.now:
            await self._send([CLOCK], f"{step}:clock", at)
        await self._settle(at)

    async def _settle(self, at: datetime) -> None:
        end = monotonic() + TIMERS_WITHIN_S
        await self._read_log()
        while due := self.book.due(at):
            if monotonic() > end:
                more = f" and {len(due) - 1} more" if len(due) > 1 else ""
                raise SimulationFailed(f"No timer settled what fell due: {due[0]}{more}. Do the workers run?")
            await asyncio.sleep(LOOK_EVERY_S)
            await self._read_log()

    async def _act(self, step: int, at: datetime) -> None:
        """Everybody plans on the same page of the log; the operator is first, the others act at the same time."""
        people = [actor.name for actor in self.actors]
        plans = [
            (
                actor.name,
                actor.plan(View(self.name, step, at, self.book, self._rng(step, actor.name), people)),
            )
            for actor in self.everybody
        ]
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(name: str, wishes: list[Wish]) -> None:
            async with gate:
                for answer in await self._send(wishes, f"{step}:{name}", at, by=name):
                    self._count(answer)

        (_, operators), *others = plans
        if operators:
            await one("", operators)
        await asyncio.gather(*(one(name, wishes) for name, wishes in others if wishes))

    def _rng(self, step: int, name: str) -> Random:
        return Random(f"{self.name}/{step}/{name}")

    async def _send(self, wishes: Sequence[Wish], part: str, at: datetime, *, by: str = "") -> list[Answer]:
        """In what is repeated the zone's time has gone on, and stays as it is."""
        named = at if at >= self.now else None
        key, trace = f"{self.name}:{part}", f"{self.name}/{part}"
        answers = await self.api.send(wishes, key, by=by, at=named, trace=trace)
        for answer in answers:
            if answer.status == 200:
                self.answered |= {event["position"]: event for event in answer.body["events"]}
        return answers

    def _count(self, answer: Answer) -> None:
        if answer.status == 200:
            self.accepted[answer.wish.command] += 1
            events = answer.body["events"]
            self.repeated += bool(events) and events[0]["position"] <= self.found
        else:
            self.refused[answer.rule] += 1

    # Reading the log

    async def _read_log(self, upto: int | None = None) -> None:
        while upto is None or self.position < upto:
            page = await self.api.events(self.position)
            for event in page:
                if upto is not None and event["position"] > upto:
                    return
                self._read(event)
            if not page:
                return

    def _read(self, event: dict[str, Any]) -> None:
        if event["position"] != self.position + 1:
            self.problems.append(f"The log goes from position {self.position} to {event['position']}.")
        self.position = event["position"]
        shown = self.answered.pop(self.position, None)
        if shown is not None and any(event[name] != shown[name] for name in shown):
            self.problems.append(f"Position {self.position} is not what its command's answer showed.")
        self.book.apply(event)

    # Checking

    async def check(self) -> None:
        """Compare the read models with the book, and the book with its laws."""
        await self._read_log()
        if self.answered:
            first = min(self.answered)
            self.problems.append(
                f"{len(self.answered)} acknowledged events are not in the log, the first at {first}."
            )
        self.problems += self._laws()
        for _ in range(CHECKS):
            position = self.position
            differences = await self._differences(position)
            await self._read_log()
            if position == self.position:
                break
        self.problems += differences

    def _laws(self) -> list[str]:
        book = self.book
        bonded, unbonding = book.posted["pool:bonded", FOG], book.posted["pool:unbonding", FOG]
        pools = sum(pool.tokens for pool in book.pools.values())
        entries = sum(entry.balance for entry in book.entries.values())
        sums = [f"The accounts of {a} add up to {n}." for a, n in book.trial_balance().items() if n]
        if book.supply[FOG] != -book.posted["world", FOG]:
            sums.append(f"Supply {book.supply[FOG]} is not what left world, {-book.posted['world', FOG]}.")
        if pools != bonded:
            sums.append(f"pool:bonded holds {bonded}, the validators' pools {pools}.")
        if entries != unbonding:
            sums.append(f"pool:unbonding holds {unbonding}, its entries {entries}.")
        return sums

    async def _differences(self, position: int) -> list[str]:
        """Between the read models at a position and the book."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def ask(path: str, **parameters: Any) -> list[dict[str, Any]]:
            async with gate:
                return await self.api.query(path, min_position=position, **parameters)

        accounts = [account for actor in self.everybody for account in actor.wallets]
        answers = await asyncio.gather(*(ask("ledger/balance", account=account) for account in accounts))
        differences = []
        for account, rows in zip(accounts, answers, strict=True):
            expected = (str(self.book.posted[account, FOG]), str(self.book.held[account, FOG]))
            shown = next(((row["posted"], row["held"]) for row in rows if row["asset"] == FOG), ("0", "0"))
            if shown != expected:
                differences.append(
                    f"{account}: posted and held are {expected}, ledger/balance shows {shown}."
                )
        differences += [
            f"The trial balance of {row['asset']} is {row['total']}."
            for row in await ask("ledger/trial-balance")
            if row["total"] != "0"
        ]
        for row in await ask("ledger/supply"):
            if row["supply"] != str(self.book.supply[row["asset"]]):
                differences.append(f"ledger/supply shows {row['supply']} {row['asset']}.")
        power = sum(int(row["tokens"]) for row in await ask("staking/validators"))
        if power != self.book.posted["pool:bonded", FOG]:
            bonded = self.book.posted["pool:bonded", FOG]
            differences.append(f"staking/validators adds up to {power}, pool:bonded to {bonded}.")
        return differences

    # Telling

    def summary(self) -> dict[str, Any]:
        book = self.book
        return {
            "zone": self.zone,
            "simulation": self.name,
            "from": rfc3339(self.began_at or self.now),
            "accepted": dict(sorted(self.accepted.items())),
            "refused": dict(sorted(self.refused.items())),
            "repeated": self.repeated,
            "events": {"new": self.position - self.found, "position": self.position},
            "trial_balance": {asset: str(total) for asset, total in book.trial_balance().items()},
            "supply": {asset: str(amount) for asset, amount in book.supply.items()},
            "bonded": str(book.posted["pool:bonded", FOG]),
            "unbonding": str(book.posted["pool:unbonding", FOG]),
            "participants": [
                {
                    "principal": actor.name,
                    "posted": str(sum(book.posted[account, FOG] for account in actor.wallets)),
                    "held": str(sum(book.held[account, FOG] for account in actor.wallets)),
                    "bonded": str(book.bonded(actor.name)),
                    "unbonding": str(book.unbonding(actor.name)),
                }
                for actor in self.actors
            ],
            "problems": self.problems,
        }


def _show(summary: dict[str, Any]) -> None:
    for title in ("accepted", "refused"):
        show_rows([{"": name, "times": times} for name, times in summary[title].items()], title.title())
    show_rows(summary["participants"], f"What everybody should find in zone {summary['zone']}")
    names = ("repeated", "events", "trial_balance", "supply", "bonded", "unbonding", "seconds")
    show_rows([{"": name.replace("_", " "), "is": summary[name]} for name in names], "All in all")
    typer.echo("\n".join(summary["problems"]) or "All is well: the read models show what the log says.")
