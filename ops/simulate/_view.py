"""What actors are made of: the village, what they see of it at a step, and what they wish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from random import Random
from typing import Any, Protocol
from zlib import crc32

from ops.simulate._api import Wish
from ops.simulate._book import Book

UNIT = 10**6
"""Smallest units of one FOG."""
FIRST_DAYS_STEP = 3
"""Before this step everybody only settles in: wallets, money, devices and offerings."""
AMOUNTS = frozenset(
    {
        "amount",
        "total",
        "self_stake",
        "minimum_self_stake",
        "base_price",
        "price_cap",
        "deposit",
        "budget",
        "ask",
        "unit_ms",
        "floor",
        "ceiling",
        "to_payer",
        "to_payee",
    }
)


@dataclass(frozen=True)
class Gadget:
    """A device as its owner knows it."""

    id: str
    owner: str
    type: str
    region: str
    utc_offset: int
    """Hours."""
    capabilities: Mapping[str, int]
    character: str
    """honest, faulty (some of its results are wrong), cheat, careless (its nights are interrupted), or sleepy (it
    falls silent)."""


@dataclass
class Village:
    """Who lives in the zone, whatever happens; made from the seed."""

    run: str
    """The simulation's name: part of every id that it makes."""
    everybody: Sequence[str]
    """Whose wallets are paid into: people, providers and validators."""
    people: Sequence[str]
    providers: Sequence[str]
    gadgets: Mapping[str, Gadget]
    lent: int
    """How many nights of a hundred a device is lent."""
    debtors: Sequence[str]
    circle: frozenset[str]
    """Who settles by netting windows, which take a bounded number of parties: debtors and some providers."""
    _picked: dict[tuple[int, str], str] = field(default_factory=dict)

    def picked(self, day: int, duty: str, names: Sequence[str]) -> str:
        """Whose turn it is on a day, so that each thing happens in the smallest village as well."""
        key = (day, duty)
        if key not in self._picked:
            self._picked[key] = chance_of(self.run, day, duty).choice(names)
        return self._picked[key]


@dataclass
class View:
    """What an actor sees at a step."""

    village: Village
    step: int
    at: datetime
    book: Book
    who: str

    @cached_property
    def rng(self) -> Random:
        """Made when it is needed: most actors do nothing at most steps."""
        return chance_of(self.village.run, self.step, self.who)

    @property
    def people(self) -> Sequence[str]:
        """Who may be paid."""
        return self.village.everybody

    @property
    def day(self) -> int:
        return self.step // 24

    @property
    def hour(self) -> int:
        return self.step % 24

    def id(self, kind: str, whose: str = "") -> str:
        return ".".join(filter(None, (self.village.run, f"{kind}{self.step}", whose)))

    def chance(self, percent: int) -> bool:
        return self.rng.randrange(100) < percent

    def fog(self, least: int, most: int) -> int:
        """An amount between two numbers of whole FOG."""
        return self.rng.randrange(least * UNIT, most * UNIT + 1)

    def turn(self, duty: str, hour: int, names: Sequence[str] = ()) -> bool:
        """Whether it is the actor's turn today, at this hour."""
        return (
            self.hour == hour
            and self.village.picked(self.day, duty, names or self.village.people) == self.who
        )

    def pools(self) -> list[str]:
        """Validators that take delegations."""
        pools = self.book.pools.items()
        return [id for id, pool in pools if not pool.tombstoned and pool.jailed_until is None]

    def since(self, at: datetime) -> timedelta:
        return self.at - at


class Actor(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def wallets(self) -> Sequence[str]:
        """Accounts whose balances are checked at the end."""

    def plan(self, view: View) -> list[Wish]: ...


def wallet(name: str) -> str:
    return f"wallet:{name}"


def wish(command: str, **body: Any) -> Wish:
    """A command with its fields by name; amounts go as strings, and `from_` as `from`."""
    return Wish(command, {k.rstrip("_"): str(v) if k in AMOUNTS else v for k, v in body.items()})


def chance_of(*of: object) -> Random:
    """The same for the same: a story is told with it, and nothing here is secret."""
    return Random("/".join(map(str, of)))  # noqa: S311


def dice(*of: object) -> int:
    """0 to 99: a property that something has for as long as it lives."""
    return crc32("/".join(map(str, of)).encode()) % 100
