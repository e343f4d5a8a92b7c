"""What must hold in the end: the book's laws, and that the read models show what the book says."""

from __future__ import annotations

from asyncio import gather
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ops.simulate._book import FOG, Book
from ops.simulate._view import Actor

Rows = list[dict[str, Any]]
Ask = Callable[..., Awaitable[Rows]]
"""Asks a query for all its items."""
MOST_NAMED = 5


def laws(book: Book) -> list[str]:
    """Sentences about what does not hold."""
    bonded, unbonding = book.posted["pool:bonded", FOG], book.posted["pool:unbonding", FOG]
    pools = sum(pool.tokens for pool in book.pools.values())
    entries = sum(entry.balance for entry in book.entries.values())
    broken = [
        *book.violations,
        *(f"The accounts of {a} add up to {n}." for a, n in book.trial_balance().items() if n),
        *(f"{account} holds {posted}, less than nothing." for account, posted in _overdrawn(book)),
    ]
    if book.supply[FOG] != -book.posted["world", FOG]:
        broken.append(f"Supply {book.supply[FOG]} is not what left world, {-book.posted['world', FOG]}.")
    if pools != bonded:
        broken.append(f"pool:bonded holds {bonded}, the validators' pools {pools}.")
    if entries != unbonding:
        broken.append(f"pool:unbonding holds {unbonding}, its entries {entries}.")
    escrows = {f"escrow:{id}": each.escrow for id, each in book.market.contracts.items()}
    broken += unlike("the ledger", escrows, {account: book.posted[account, FOG] for account in escrows})
    for window, status in book.settlement.windows.items():
        if book.posted[f"window:{window}", FOG]:
            broken.append(f"window:{window} is {status} and holds {book.posted[f'window:{window}', FOG]}.")
    unbalanced = {window for (window, _, _), net in book.settlement.nets.items() if net}
    broken += [f"The positions of window {window} do not add up to zero." for window in sorted(unbalanced)]
    return broken


def _overdrawn(book: Book) -> list[tuple[str, int]]:
    accounts = ((account, asset) for account, asset in book.posted if account != "world")
    return [
        (a, book.posted[a, asset]) for a, asset in accounts if book.posted[a, asset] < book.held[a, asset]
    ]


def unlike(where: str, expected: Mapping[str, Any], shown: Mapping[str, Any]) -> list[str]:
    """Where two tables differ; what one of them does not have counts as nothing."""
    names = sorted(expected.keys() | shown.keys())
    differing = [name for name in names if (expected.get(name) or 0) != (shown.get(name) or 0)]
    found = [
        f"{where} shows {shown.get(name)} for {name}, not {expected.get(name)}."
        for name in differing[:MOST_NAMED]
    ]
    more = len(differing) - MOST_NAMED
    return [*found, f"{where} differs in {more} more."] if more > 0 else found


async def differences(book: Book, everybody: Sequence[Actor], ask: Ask) -> list[str]:
    """Between the read models and the book."""
    return [
        *await _ledger(book, everybody, ask),
        *await _staking(book, everybody, ask),
        *await _devices(book, ask),
        *await _market(book, ask),
        *await _settlement(book, ask),
    ]


async def _ledger(book: Book, everybody: Sequence[Actor], ask: Ask) -> list[str]:
    expected, shown = {}, {}
    for row in await ask("ledger/accounts"):
        shown[f"{row['account']} {row['asset']}"] = (int(row["posted"]), int(row["held"]))
    for (account, asset), posted in book.posted.items():
        expected[f"{account} {asset}"] = (posted, book.held[account, asset])
    nothing = (0, 0)
    found = unlike(
        "ledger/accounts",
        {name: value for name, value in expected.items() if value != nothing},
        {name: value for name, value in shown.items() if value != nothing},
    )
    accounts = [account for actor in everybody for account in actor.wallets]
    balances = await gather(*(ask("ledger/balance", account=account) for account in accounts))
    for account, rows in zip(accounts, balances, strict=True):
        is_posted = book.posted[account, FOG], book.held[account, FOG]
        of_fog = [(int(row["posted"]), int(row["held"])) for row in rows if row["asset"] == FOG]
        if of_fog not in ([is_posted], [] if is_posted == nothing else [is_posted]):
            found.append(f"{account}: posted and held are {is_posted}, ledger/balance shows {of_fog}.")
    found += [
        f"The trial balance of {row['asset']} is {row['total']}."
        for row in await ask("ledger/trial-balance")
        if row["total"] != "0"
    ]
    supply = {row["asset"]: int(row["supply"]) for row in await ask("ledger/supply")}
    return found + unlike("ledger/supply", book.supply, supply)


async def _staking(book: Book, everybody: Sequence[Actor], ask: Ask) -> list[str]:
    tokens = {row["validator"]: int(row["tokens"]) for row in await ask("staking/validators")}
    found = unlike("staking/validators", {id: pool.tokens for id, pool in book.pools.items()}, tokens)
    expected = {actor.name: book.bonded(actor.name) for actor in everybody if actor.name}
    positions = await gather(*(ask("staking/positions", delegator=name) for name in expected))
    shown = {
        name: sum(int(row["tokens"]) for row in rows) for name, rows in zip(expected, positions, strict=True)
    }
    return found + unlike("staking/positions", expected, shown)


async def _devices(book: Book, ask: Ask) -> list[str]:
    devices = {row["device"]: row["status"] for row in await ask("devices/devices", status="any")}
    expected = {id: each.status for id, each in book.harvest.devices.items()}
    found = unlike("devices/devices", expected, devices)
    earned: defaultdict[str, int] = defaultdict(int)
    for row in await ask("harvest/rewards"):
        earned[row["owner"]] += int(row["reward"])
    found += unlike("harvest/rewards", book.harvest.earned, earned)
    sessions = {id: each.status for id, each in book.harvest.sessions.items()}
    shown = {row["session"]: row["status"] for row in await ask("harvest/sessions")}
    return found + unlike("harvest/sessions", sessions, shown)


async def _market(book: Book, ask: Ask) -> list[str]:
    market = book.market
    used = {row["offering"]: row["used"] for row in await ask("marketplace/utilisation")}
    found = unlike("marketplace/utilisation", {id: each.used for id, each in market.offerings.items()}, used)
    contracts = {id: f"{each.status}, {each.escrow} left" for id, each in market.contracts.items()}
    shown = {
        row["contract"]: f"{row['status']}, {row['remaining']} left"
        for row in await ask("marketplace/contracts")
    }
    found += unlike("marketplace/contracts", contracts, shown)
    sums: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in await ask("marketplace/revenue"):
        for name in ("charge", "penalties", "fees", "paid", "owed", "owed_fees", "unpaid", "disputes"):
            sums[row["provider"]][name] += int(row[name])
    revenue = {name: asdict(each) for name, each in market.revenue.items()}
    found += unlike("marketplace/revenue", revenue, {name: dict(each) for name, each in sums.items()})
    statuses = Counter(row["status"] for row in await ask("marketplace/requests"))
    return found + unlike(
        "marketplace/requests", Counter(r.status for r in market.requests.values()), statuses
    )


async def _settlement(book: Book, ask: Ask) -> list[str]:
    settlement = book.settlement
    windows = {row["window"]: row["status"] for row in await ask("settlement/windows")}
    found = unlike("settlement/windows", settlement.windows, windows)
    names = {"owed": ("recorded", "waiting"), "lapsed": ("lapsed",), "settled": ("settled",)}
    expected = {id: (each.amount, names[each.status]) for id, each in settlement.obligations.items()}
    shown = {
        row["obligation"]: (int(row["amount"]), next(of for of in names.values() if row["status"] in of))
        for row in await ask("settlement/obligations")
    }
    found += unlike("settlement/obligations", expected, shown)
    disputes = {id: "open" if each.open else "resolved" for id, each in settlement.disputes.items()}
    shown_disputes = {row["dispute"]: row["status"] for row in await ask("settlement/disputes")}
    return found + unlike("settlement/disputes", disputes, shown_disputes)
