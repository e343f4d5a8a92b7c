"""The market: who offers compute, who buys it, and the operator who measures how well it is served."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from ops.simulate._api import Wish, rfc3339
from ops.simulate._book_market import Contract, Offering, Request
from ops.simulate._devices import REGIONS, heartbeat
from ops.simulate._settlement import dispute, evidence
from ops.simulate._view import FIRST_DAYS_STEP, UNIT, View, dice, wallet, wish

SERVER = {
    "cpu_millicores": 48_000,
    "memory_mb": 128_000,
    "storage_mb": 4_000_000,
    "bandwidth_kbps": 1_000_000,
    "gpu": 4,
}
SERVICES: dict[str, dict[str, int]] = {
    "compute": {"cpu_millicores": 6_000, "memory_mb": 12_000, "gpu": 0, "capacity": 5},
    "inference": {"cpu_millicores": 4_000, "memory_mb": 16_000, "gpu": 1, "capacity": 3},
}
"""What a unit is, and how many units a server has."""
PRICES = {"compute": UNIT * 2 // 5, "inference": UNIT}
"""Of a unit of the lowest tier for an hour, to begin with."""
TIER_FACTORS = {"bronze": 10, "silver": 25, "gold": 50}
"""Tenths."""
PRICINGS = ("pay_as_you_go", "reserved", "spot", "pay_as_you_go", "flat_rate")
MINUTES = (60, 60, 120, 120, 180, 240, 360)
WELL = {"p95_ms": 310, "uptime_bp": 10_000, "errors_bp": 2}
BADLY = {"p95_ms": 2_900, "uptime_bp": 9_400, "errors_bp": 450}
MOST_BURST_UNITS = 3
HOUR = timedelta(hours=1)
GRACE = timedelta(minutes=10)
COMMENTS = ("Never again.", "Slow in the evening.", "It does what it says.", "Good.", "Always there.")
THIN, QUARREL, FICKLE, LONG, NETTED = "thin", "quarrel", "fickle", "long", "netted"
"""Parts of the ids of contracts: of those whose escrow is left to run out, that end in a dispute, that are paused and
renewed, that are topped up, and that have no escrow."""


def fair_price(offering: Offering) -> int:
    """About what a unit costs an hour: without the market, reputation and discounts."""
    return offering.base_price * TIER_FACTORS[offering.tier] // 10


# Providers


class Provider:
    """Somebody with servers: offers them, serves, meters, bids, and reprices as the market responds."""

    def __init__(self, name: str, place: int, servers: int, regions: int) -> None:
        self.name = name
        self.place = place
        self.wallets = (wallet(name),)
        self.region = REGIONS[place % regions][0]
        self.servers = [f"{name}-server-{number + 1}" for number in range(servers)]

    def plan(self, view: View) -> list[Wish]:
        if wallet(self.name) not in view.book.status:
            return [wish("ledger/open-wallet", wallet=wallet(self.name))]
        if view.step < FIRST_DAYS_STEP:
            return [*self._introduce(view), *(self._offer(view) if view.step > 1 else [])]
        wishes = self._serve(view)
        if view.book.market.auctions:
            wishes += self._bid(view)
        if view.hour % 6 == self.place % 6:
            wishes += [heartbeat(view, server) for server in self.servers]
        if view.hour in (8, 9, 10, 12, 15, 18, 20):
            wishes += self._manage(view)
        return wishes + evidence(view)

    def _mine(self, view: View) -> list[Offering]:
        market = view.book.market
        return [market.offerings[id] for id in market.offered[self.name]]

    def _introduce(self, view: View) -> list[Wish]:
        return [
            wish(
                "devices/register-device",
                device=server,
                type="server",
                capabilities=SERVER,
                region=self.region,
            )
            for server in self.servers
            if server not in view.book.harvest.devices
        ]

    def _offer(self, view: View) -> list[Wish]:
        """What each server sells; a withdrawn offering is followed by another one."""
        wishes = []
        for number, server in enumerate(self.servers):
            for service, unit in SERVICES.items():
                stem = f"{server}-{service}"
                before = [each for each in self._mine(view) if each.id.startswith(stem)]
                if any(each.status != "withdrawn" for each in before):
                    continue
                kind = self.place + number + (service == "inference")
                body = {
                    "device": server,
                    "service_type": service,
                    "tier": list(TIER_FACTORS)[kind % 3],
                    **unit,
                }
                base_price = PRICES[service] * view.rng.randrange(80, 120) // 100
                pricing = PRICINGS[kind % len(PRICINGS)]
                wishes.append(
                    wish(
                        "marketplace/register-offering",
                        offering=f"{stem}-{len(before) + 1}",
                        base_price=base_price,
                        pricing=pricing,
                        **body,
                    )
                )
        return wishes

    def _serve(self, view: View) -> list[Wish]:
        """Starts what was ordered, and meters each period when it ends."""
        wishes = []
        for each in view.book.market.of[self.name].values():
            if each.provider != self.name or each.dispute:
                continue
            if each.status == "created":
                before = view.book.market.contracts.get(each.renews)
                waits = before is not None and before.runs and (before.ends_at or view.at) > view.at
                if not waits and dice(each.id, "start") >= 6:
                    wishes.append(wish("marketplace/start-service", contract=each.id))
            elif each.runs and each.started_at is not None:
                age = view.since(each.started_at)
                if age == HOUR and dice(each.id, "quit") < 3:
                    reason = "The server is needed."
                    wishes.append(wish("marketplace/terminate-contract", contract=each.id, reason=reason))
                elif age and not age % each.period:
                    wishes.append(_meter(view, each))
        return wishes

    def _bid(self, view: View) -> list[Wish]:
        wishes = []
        mine = {
            (each.service_type, each.region): each
            for each in self._mine(view)
            if each.status == "active" and each.free
        }
        for auction in view.book.market.auctions.values():
            offering = mine.get((auction.service_type, auction.region))
            if offering is None or auction.expires_at <= view.at or auction.customer == self.name:
                continue
            fits = TIER_FACTORS[offering.tier] >= TIER_FACTORS[auction.tier] or dice(auction.id, "slip") < 5
            if self.name in auction.bids:
                if dice(auction.id, self.name) < 8:
                    wishes.append(wish("marketplace/withdraw-bid", request=auction.id))
            elif fits and dice(auction.id, self.name) < 80:
                ask = fair_price(offering) * view.rng.randrange(70, 150) // 100
                body = {"request": auction.id, "offering": offering.id, "ask": ask}
                wishes.append(wish("marketplace/place-bid", **body))
        return wishes

    def _manage(self, view: View) -> list[Wish]:
        mine = [each for each in self._mine(view) if each.status != "withdrawn"]
        providers = view.village.providers
        wishes = []
        if view.hour == 8:
            wishes += self._offer(view)
        if mine and view.turn("pause-offering", 9, providers):
            wishes.append(wish("marketplace/pause-offering", offering=view.rng.choice(mine).id))
        if view.hour == 15:
            wishes += [
                wish("marketplace/resume-offering", offering=each.id)
                for each in mine
                if each.status == "paused"
            ]
        if mine and view.day % 5 == 1 and view.turn("withdraw-offering", 10, providers):
            wishes.append(wish("marketplace/withdraw-offering", offering=mine[0].id))
        if view.hour in (12, 20):
            wishes += [_reprice(view, each) for each in mine if each.status == "active"]
        if view.hour == 18:
            earned = view.book.available(wallet(self.name)) // 4
            if earned > UNIT:
                to = wallet(view.rng.choice(view.people))
                body = {"from_": wallet(self.name), "to": to, "amount": earned, "purpose": "wages"}
                wishes.append(wish("ledger/transfer", **body))
        return wishes


def _meter(view: View, contract: Contract) -> Wish:
    used = contract.units * contract.usable_ms(view.at) * (40 + dice(contract.id, "use") * 61 // 100) // 100
    unit_ms = max(used, contract.unit_ms)
    return wish("marketplace/meter-usage", contract=contract.id, seq=contract.seq + 1, unit_ms=unit_ms)


def _reprice(view: View, offering: Offering) -> Wish:
    """Dearer where most is in use, cheaper where hardly anything is; now and then too much at once."""
    used = 100 * offering.used // offering.capacity
    change = 5 if used > 50 else -2 if used < 10 else view.rng.choice((-1, 1))
    if view.chance(4):
        change = 30
    least = PRICES[offering.service_type] // 3
    price = max(offering.base_price * (100 + change) // 100, least)
    return wish("marketplace/reprice-offering", offering=offering.id, base_price=price)


# Customers


class Customer:
    """Somebody who buys compute: finds it, looks after it, and says how it was."""

    def __init__(self, name: str) -> None:
        self.name = name

    def plan(self, view: View) -> list[Wish]:
        market, wishes = view.book.market, []
        for contract in market.of[self.name].values():
            if contract.customer == self.name and not contract.dispute:
                wishes += self._look_after(view, contract)
        for request in market.asked[self.name].values():
            wishes += self._follow(view, request)
        for contract in market.ended[self.name]:
            if dice(contract.id, "review") < 45:
                rating = 1 + dice(contract.provider, "good") // 25 + dice(contract.id, "luck") // 60
                body = {"contract": contract.id, "rating": rating, "comment": COMMENTS[rating - 1]}
                wishes.append(wish("marketplace/review-provider", **body))
        if view.step >= FIRST_DAYS_STEP and view.hour in TURNS:
            wishes += self._turns(view)
        return wishes + evidence(view)

    def _look_after(self, view: View, contract: Contract) -> list[Wish]:
        id = contract.id
        if contract.started_at is None or contract.ends_at is None:
            gives_up = dice(id, "patience") < 3
            return (
                [wish("marketplace/terminate-contract", contract=id, reason="Never mind.")]
                if gives_up
                else []
            )
        age, left = view.since(contract.started_at), contract.ends_at - view.at
        if not contract.runs or left <= timedelta():
            return []
        if (
            (QUARREL in id or contract.breached or dice(id, "quarrel") < 2)
            and contract.escrowed
            and age >= HOUR
        ):
            if contract.escrow and (QUARREL in id or dice(id, "angry") < 50):
                return [dispute(view, contract)]
            return [wish("marketplace/terminate-contract", contract=id, reason="It did not work.")]
        if contract.status == "paused":
            return [wish("marketplace/resume-contract", contract=id)]
        if age == HOUR and (FICKLE in id or dice(id, "pause") < 8):
            return [wish("marketplace/pause-contract", contract=id)]
        if age == HOUR and dice(id, "leave") < 5:
            return [wish("marketplace/terminate-contract", contract=id, reason="It is done.")]
        if left == HOUR and (FICKLE in id or dice(id, "renew") < 12) and not contract.renewal:
            body = {
                "contract": id,
                "renewal": view.id(f"n{dice(id)}-", self.name),
                "minutes": 120,
                "any_price": True,
            }
            return [wish("marketplace/renew-contract", **body)]
        return self._top_up(view, contract)

    def _top_up(self, view: View, contract: Contract) -> list[Wish]:
        """What the rest of the term needs, unless it is forgotten."""
        if not contract.escrowed or contract.ends_at is None or THIN in contract.id:
            return []
        hour = contract.units * contract.price
        rest = hour * -(-(contract.ends_at - view.at) // HOUR)
        forgets = LONG not in contract.id and dice(contract.id, "forget") < 15
        if contract.escrow >= min(2 * hour, rest) or forgets:
            return []
        return [wish("marketplace/top-up-escrow", contract=contract.id, amount=rest)]

    def _follow(self, view: View, request: Request) -> list[Wish]:
        if request.status == "won":
            if dice(request.id, "accept") < 80:
                return [wish("marketplace/accept-bid", request=request.id)]
            if dice(request.id, "decline") < 50:
                return [wish("marketplace/withdraw-request", request=request.id)]
        elif request.status == "open" and view.hour % 3 == 0:
            if dice(request.id, view.step) < 30:
                return [wish("marketplace/match-request", request=request.id)]
            if dice(request.id, view.step) < 40:
                return [wish("marketplace/withdraw-request", request=request.id)]
        return []

    def shop(self, view: View) -> list[Wish]:
        """Orders something, in one way or another."""
        way = view.rng.randrange(100)
        if way < 45:
            return self._open(view)
        if way < 80:
            return self._request(view, "match")
        return self._request(view, view.rng.choice(("bids", "vickrey")))

    def _turns(self, view: View) -> list[Wish]:
        """What happens at least once a day in the village."""
        wishes = []
        if view.turn("netted", 9, view.village.debtors):
            wishes += self._open(view, NETTED, netted=True)
        if view.turn("bids", 10):
            wishes += self._request(view, "bids", "auction")
        if view.turn("vickrey", 11):
            wishes += self._request(view, "vickrey", "auction")
        if view.turn("unmatched", 12):
            wishes += self._request(view, "match", "dream", price_cap=1)
        if view.turn("thin", 13):
            wishes += self._open(view, THIN)
        if view.turn("fickle", 13):
            wishes += self._open(view, FICKLE)
        if view.turn("long", 14):
            wishes += self._open(view, LONG)
        if view.turn("quarrel", 14):
            wishes += self._open(view, QUARREL)
        if view.turn("burst", 15):
            wishes += self._burst(view)
        if view.turn("late", 23):
            wishes += self._request(view, "bids", "auction")
        return wishes

    def _choose(self, view: View, units: int, circle: bool = False) -> Offering | None:
        market, village = view.book.market, view.village
        found = [
            each
            for each in market.offerings.values()
            if each.status == "active"
            and each.free >= units
            and each.provider != self.name
            and (not circle or each.provider in village.circle)
        ]
        return view.rng.choice(found) if found else None

    def _open(self, view: View, kind: str = "o", netted: bool = False) -> list[Wish]:
        units = view.rng.randint(1, 3)
        netted = netted or (kind == "o" and self.name in view.village.circle and view.chance(25))
        offering = self._choose(view, units, netted)
        if offering is None:
            return []
        minutes = 240 if kind != "o" else view.rng.choice(MINUTES)
        price, body = fair_price(offering), dict[str, Any]()
        if kind in (THIN, LONG) or (not netted and minutes >= 180 and view.chance(30)):
            body["deposit"] = price * units * 2
        body |= {"any_price": True} if view.chance(50) else {"price_cap": price * 13 // 10}
        body |= {"settlement": "netted"} if netted else {}
        return [
            wish(
                "marketplace/open-contract",
                contract=view.id(kind, self.name),
                offering=offering.id,
                units=units,
                minutes=minutes,
                period_minutes=view.rng.choice((60, 60, 120))
                if minutes % 120 == 0 and not body.get("deposit")
                else 60,
                window_minutes=view.rng.choice((20, 30, 30, 60)),
                **body,
            )
        ]

    def _request(self, view: View, mode: str, kind: str = "", price_cap: int = 0) -> list[Wish]:
        units = view.rng.randint(1, 2)
        offering = self._choose(view, units)
        if offering is None:
            return []
        hours = view.rng.randint(2, 5) if mode != "match" else 18 if price_cap else view.rng.randint(6, 18)
        minutes = view.rng.choice(MINUTES)
        cap = price_cap or fair_price(offering) * view.rng.randrange(100, 220) // 100
        limit: dict[str, Any] = {"price_cap": cap}
        if not price_cap and view.chance(30):
            limit = {"budget": -(-cap * units * minutes // 60)}
        if not price_cap and view.chance(15):
            limit = {"any_price": True}
        return [
            wish(
                "marketplace/request-service",
                request=view.id(kind or mode[0], self.name),
                service_type=offering.service_type,
                region=offering.region,
                tier=offering.tier if view.chance(60) else "bronze",
                units=units,
                minutes=minutes,
                expires_at=rfc3339(view.at + hours * HOUR),
                mode=mode,
                **limit,
            )
        ]

    def _burst(self, view: View) -> list[Wish]:
        offering = self._choose(view, MOST_BURST_UNITS)
        if offering is None:
            return []
        need = {"service_type": offering.service_type, "region": offering.region, "tier": "bronze"}
        units = view.rng.randint(2, MOST_BURST_UNITS)
        budget = 4 * units * max(fair_price(offering), PRICES["inference"] * 5)
        return [
            wish(
                "marketplace/allocate-burst",
                burst=view.id("burst", self.name),
                requirements=[need | {"units": units}],
                budget=budget,
                minutes=60,
            )
        ]


TURNS = (*range(9, 16), 23)
"""The hours at which somebody's turn comes."""

# The operator


def operate(view: View) -> list[Wish]:
    """Measures all services, and bounds a lane's prices now and then."""
    wishes = [
        wish("marketplace/report-service-level", contract=each.id, window=window, **level)
        for each in view.book.market.live.values()
        if each.started_at is not None and not each.dispute
        for window, level in _levels(view, each, each.started_at)
    ]
    if view.hour == 2 and view.step >= FIRST_DAYS_STEP and view.book.market.offerings:
        offering = view.rng.choice(list(view.book.market.offerings.values()))
        lane = {"service_type": offering.service_type, "region": offering.region, "tier": offering.tier}
        floor, ceiling = fair_price(offering) // 4, fair_price(offering) * 3
        wishes.append(wish("marketplace/set-lane-bounds", floor=floor, ceiling=ceiling, **lane))
    return wishes


def _levels(view: View, contract: Contract, started_at: datetime) -> list[tuple[int, dict[str, int]]]:
    """Windows that ended and were not reported, and how they were; it is too late for those of settled periods."""
    ends_at = min(view.at, contract.ends_at or view.at)
    ended = (ends_at - started_at) // contract.window
    found = []
    for window in range(contract.reported, ended):
        period_ends_at = started_at + (window * contract.window // contract.period + 1) * contract.period
        if view.at < min(period_ends_at, contract.ends_at or period_ends_at) + GRACE:
            found.append((window, BADLY if _was_bad(view, contract, window) else WELL))
    return found


def _was_bad(view: View, contract: Contract, window: int) -> bool:
    """Some providers have bad days, one of them every day; besides, anybody fails now and then."""
    provider = contract.provider
    bad = (
        view.village.providers
        and view.village.picked(view.day, "bad day", view.village.providers) == provider
    )
    bad = bad or (dice(provider, "shaky") < 20 and dice(provider, view.day) < 25)
    return dice(contract.id, window) < (85 if bad else 2)


def names(number: int) -> Sequence[str]:
    """Providers' names."""
    stems = (
        "mill",
        "forge",
        "quarry",
        "bakery",
        "dairy",
        "sawmill",
        "brewery",
        "pottery",
        "tannery",
        "smithy",
    )
    return [
        stems[i % len(stems)] + (str(i // len(stems) + 1) if i >= len(stems) else "") for i in range(number)
    ]
