"""The simulation's clock: hour by hour, time passes, timers are waited for, then everybody acts; checks at the end.

What is done is read from the log. Each step ends its waiting with a command of its own, its *mark*; what actors plan
is a function of the log up to the mark. A simulation that was interrupted begins again at its last mark, with the
same plans under the same idempotency keys.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import typer

from commands._codec import encode_json
from ops.client import Accepted, Event
from ops.progress import Tick, progress
from ops.simulate._actors import Operator, cast
from ops.simulate._api import Answer, Api, SimulationFailed, Wish, rfc3339
from ops.simulate._book import FOG, Book
from ops.simulate._checks import differences, laws
from ops.simulate._view import Actor, View, Village
from ops.status import show_rows
from ops.zones import ensure_zone

AT_ONCE = 4
"""Principals that are served at the same time."""
TIMERS_WITHIN_S = 20.0
"""How long the log may stand still while something is due."""
LOOK_EVERY_S = 0.04
CHECKS = 5
"""How often: a late timer may move the log between two queries: then all are asked again."""
START = datetime.fromtimestamp(0, UTC)
SMALL_QUERY = "settlement/clearing"
CLOCK = Wish("platform/advance-clock", {})


def run(
    *,
    devices: int,
    days: int,
    seed: int,
    rate: int,
    zone: str,
    url: str,
    key: str,
    database_url: str,
    json: bool,
) -> int:
    """Simulate and print what came of it; the exit code. Raises Refused when it cannot be done."""
    if database_url:
        ensure_zone(database_url, zone, "manual")
    began = monotonic()
    with progress(f"Living in {zone}") as tick:
        simulation = asyncio.run(_simulate(devices, days, seed, rate, zone, url, key, tick))
    summary = simulation.summary() | {"seconds": round(monotonic() - began, 1)}
    if json:
        typer.echo(encode_json(summary))
    else:
        _show(summary)
    return 1 if simulation.problems else 0


async def _simulate(
    devices: int, days: int, seed: int, rate: int, zone: str, url: str, key: str, tick: Tick
) -> Simulation:
    name = f"sim-{seed}-{devices}"
    async with aclosing(Api(url, key, zone, rate)) as api:
        simulation = Simulation(api, zone, name, *cast(name, devices))
        await simulation.live(days, tick)
        await simulation.check()
        return simulation


@dataclass
class Simulation:
    api: Api
    zone: str
    name: str
    """Of the seed and the number of devices: part of all keys and ids."""
    village: Village
    actors: Sequence[Actor]
    book: Book = field(default_factory=Book)
    position: int = 0
    """How far the book has read the log."""
    answered: dict[int, Event] = field(default_factory=dict)
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
        """From one midnight to another one, both of them lived; the last thing is what follows from the last step."""
        self.now = await self.api.now()
        await self._find()
        start = self.began_at or self.now
        steps = days * 24
        for step in range(max(self.marks, default=0), steps + 1):
            tick(step, steps + 1)
            at = start + timedelta(hours=step)
            if step not in self.marks:
                await self._pass_time(step, at)
            mark = (await self._send([CLOCK], f"{step}:mark", at))[0].outcome.position
            await self._read_log(mark)
            await self._act(step, at)
        await self._read_log()
        await self._settle(start + timedelta(hours=steps))
        tick(steps + 1, steps + 1)

    async def _find(self) -> None:
        """What the log holds of this simulation already; the book is read up to its last mark."""
        while page := (await self.api.log(self.found)).events:
            self.found = page[-1].position
            for event in page:
                name, _, part = event.meta.get("correlation", "").partition("/")
                if name == self.name:
                    self.began_at = self.began_at or event.recorded_at
                    if part.endswith(":mark"):
                        self.marks[int(part.removesuffix(":mark"))] = event.position
        await self._read_log(max(self.marks.values(), default=1) - 1)

    async def _pass_time(self, step: int, at: datetime) -> None:
        """Advance the clock, and wait until workers have done what fell due.

        A clock that jumps is advanced only when the timers are where the log is: one that is about to be moved would
        fall due too early. All projections move together.
        """
        await self._read_log()
        await self.api.query(SMALL_QUERY)
        if at >= self.now:
            await self._send([CLOCK], f"{step}:clock", at)
        await self._settle(at)

    async def _settle(self, at: datetime) -> None:
        """Wait for all that the book knows to be due: timers by their time, reactions since what they follow from."""
        moved_at, position = monotonic(), self.position
        while due := self.book.dues.by(at):
            if self.position > position:
                moved_at, position = monotonic(), self.position
            if monotonic() > moved_at + TIMERS_WITHIN_S:
                more = f" and {len(due) - 1} more" if len(due) > 1 else ""
                raise SimulationFailed(f"No timer settled what fell due: {due[0]}{more}. Do the workers run?")
            await asyncio.sleep(LOOK_EVERY_S)
            await self._read_log()

    async def _act(self, step: int, at: datetime) -> None:
        """Everybody plans on the same page of the log; the operator is first, the others act at the same time."""
        plans = [
            (actor.name, actor.plan(View(self.village, step, at, self.book, actor.name)))
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

    async def _send(self, wishes: Sequence[Wish], part: str, at: datetime, *, by: str = "") -> list[Answer]:
        """In what is repeated the zone's time has gone on, and stays as it is."""
        named = at if at >= self.now else None
        key, trace = f"{self.name}:{part}", f"{self.name}/{part}"
        answers = await self.api.send(wishes, key, by=by, at=named, trace=trace)
        for answer in answers:
            if isinstance(answer.outcome, Accepted):
                self.answered |= {event.position: event for event in answer.outcome.events}
        return answers

    def _count(self, answer: Answer) -> None:
        if isinstance(answer.outcome, Accepted):
            self.accepted[answer.wish.name] += 1
            events = answer.outcome.events
            self.repeated += bool(events) and events[0].position <= self.found
        else:
            self.refused[answer.outcome.rule] += 1

    # Reading the log

    async def _read_log(self, upto: int | None = None) -> None:
        while upto is None or self.position < upto:
            page = await self.api.log(self.position)
            for event in page.events:
                if upto is not None and event.position > upto:
                    return
                self._read(event)
            if self.position >= page.head:
                return

    def _read(self, event: Event) -> None:
        if event.position != self.position + 1:
            self.problems.append(f"The log goes from position {self.position} to {event.position}.")
        self.position = event.position
        shown = self.answered.pop(self.position, None)
        if shown is not None and _said(event) != _said(shown):
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
        self.problems += laws(self.book)
        gate = asyncio.Semaphore(AT_ONCE)
        for _ in range(CHECKS):
            position = self.position

            async def ask(path: str, **parameters: Any) -> list[dict[str, Any]]:
                async with gate:
                    return await self.api.query(path, **parameters)

            found = await differences(self.book, self.everybody, ask)
            await self._read_log()
            if position == self.position:
                break
        self.problems += found

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
            "happened": self._happened(),
            "participants": self._participants(),
            "problems": self.problems,
        }

    def _happened(self) -> dict[str, Any]:
        """What the queries have to show, in numbers."""
        market, settlement = self.book.market, self.book.settlement
        devices = Counter(each.status for each in self.book.harvest.devices.values())
        contributions = Counter(each.status for each in self.book.harvest.contributions.values())
        return {
            "devices": dict(devices),
            "sessions": dict(Counter(each.status for each in self.book.harvest.sessions.values())),
            "sessions_ended": dict(self.book.harvest.ended),
            "contributions": dict(contributions),
            "offerings": dict(Counter(each.status for each in market.offerings.values())),
            "requests": dict(Counter(each.status for each in market.requests.values())),
            "bursts": market.bursts,
            "contracts": dict(market.statuses()),
            "breaches": market.breaches,
            "windows": dict(Counter(settlement.windows.values())),
            "obligations": dict(Counter(each.status for each in settlement.obligations.values())),
            "could_not_pay": settlement.departures.total(),
            "disputes": dict(Counter("open" if e.open else "resolved" for e in settlement.disputes.values())),
        }

    def _participants(self) -> list[dict[str, Any]]:
        """What everybody should find in the read models."""
        book = self.book
        owes, owed = book.settlement.owed()
        return [
            {
                "principal": actor.name,
                "posted": str(sum(book.posted[account, FOG] for account in actor.wallets)),
                "held": str(sum(book.held[account, FOG] for account in actor.wallets)),
                "bonded": str(book.bonded(actor.name)),
                "unbonding": str(book.unbonding(actor.name)),
                "harvested": str(book.harvest.earned[actor.name]),
                "revenue": str(
                    book.market.revenue[actor.name].paid + book.market.revenue[actor.name].disputes
                ),
                "spent": str(book.market.spent[actor.name]),
                "owes": str(owes.get(actor.name, 0)),
                "owed": str(owed.get(actor.name, 0)),
                "contracts": len(book.market.of[actor.name]),
            }
            for actor in self.actors
        ]


def _said(event: Event) -> tuple[Any, ...]:
    """What answers show of an event."""
    return event.stream, event.version, event.type, event.data


def _show(summary: dict[str, Any]) -> None:
    for title in ("accepted", "refused"):
        show_rows([{"": name, "times": times} for name, times in summary[title].items()], title.title())
    show_rows(summary["participants"], f"What everybody should find in zone {summary['zone']}")
    happened = [{"": n.replace("_", " "), "times": _in_words(v)} for n, v in summary["happened"].items()]
    show_rows(happened, "What happened")
    names = ("repeated", "events", "trial_balance", "supply", "bonded", "unbonding", "seconds")
    show_rows([{"": name.replace("_", " "), "is": summary[name]} for name in names], "All in all")
    typer.echo("\n".join(summary["problems"]) or "All is well: the read models show what the log says.")


def _in_words(value: Any) -> Any:
    return (
        ", ".join(f"{number} {name}" for name, number in value.items()) if isinstance(value, dict) else value
    )
