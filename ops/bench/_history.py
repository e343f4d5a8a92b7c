"""Long histories, made quickly and honestly: every command is decided, hashed and appended as a sequencer does it.

What makes it quick: nothing is loaded, since whoever writes a new zone from its first event on knows all of its states;
batches are large; and while PostgreSQL stores one batch, the next one is decided.
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from commands._codec import encode_json, streams
from commands._deciding import Command, Decided
from commands._log import Entry, Head, PostgresLog
from domain.ledger import (
    REWARDS,
    Allocation,
    DistributeRewards,
    MintTokens,
    OpenWallet,
    Transfer,
    distribute_rewards,
    mint_tokens,
    open_wallet,
    transfer,
)
from ops.bench._requests import principal, scattered, wallet
from ops.bench._stage import FUNDS, BenchFailed, check
from ops.settings import APP_ROLE
from ops.zones import ensure_zone
from projections._rebuild import paused_collector

AT_ONCE = 2_048
"""Commands of a batch; fewer where each has many events."""
EVENTS_A_WALLET = 10
"""A zone has a wallet for that many of its events: all sizes have streams of the same lengths."""
MOST_EVENTS = 10**12
LARGE = 500
"""Payments of one distribution."""


Clock = Callable[[int], datetime]
"""What time it is when a log has reached a position."""


def now(position: int) -> datetime:
    return datetime.now(UTC)


def make_history(
    url: str, zone: str, batches: Iterable[list[Command]], clock: Clock = now, events: int = MOST_EVENTS
) -> int:
    """Found a zone and give it that history, until there are so many events; returns where it ends. Its clock is a
    manual one where `clock` says the time.

    Raises BenchFailed when a command is refused, or when somebody else writes in the zone.
    """
    ensure_zone(url, zone, "real" if clock is now else "manual")
    with paused_collector():
        end = asyncio.run(_made(url, zone, batches, clock, events))
    gc.collect()
    return end


async def _made(url: str, zone: str, batches: Iterable[list[Command]], clock: Clock, events: int) -> int:
    log = PostgresLog(url, APP_ROLE)
    await log.connect()
    try:
        head = await log.head(zone)
        assert head is not None, "it was founded"
        known = await _known(log, zone, head)
        stored: asyncio.Future[bool] | None = None
        for commands in batches:
            if head.position >= events:
                break
            at = max(clock(head.position), head.at)
            decided = await asyncio.to_thread(_decided, zone, known, head, at, commands)
            await _check_stored(zone, stored)
            stored = asyncio.ensure_future(log.append(zone, head, at, decided.batch))
            head = Head(decided.position, head.number + len(decided.batch.keys), at, head.clock)
        await _check_stored(zone, stored)
        return head.position
    finally:
        await log.close()


async def _check_stored(zone: str, stored: asyncio.Future[bool] | None) -> None:
    if stored is not None and not await stored:
        raise BenchFailed(f"somebody else writes in {zone}")


async def _known(log: PostgresLog, zone: str, head: Head) -> dict[str, Entry]:
    """All that the zone holds: what its founding wrote."""
    kinds = streams()
    names = {event.stream async for event in log.tail(zone, 0, head.position)}
    wanted = {name: kinds[name.partition(":")[0]] for name in names}
    return await log.load(zone, wanted, head.position) or {}


def _decided(
    zone: str, known: dict[str, Entry], head: Head, at: datetime, commands: list[Command]
) -> Decided:
    """A batch as of a head. What is not known was never written, for all that the zone holds is known."""
    while (decided := Decided(zone, known, head, at, commands)).missing:
        for name, stream in decided.missing.items():
            if stream.of_command:
                raise BenchFailed(f"{name} begins with a command's events, which nobody keeps here")
            known[name] = Entry(stream, stream.initial, 0, 0)
    check(decided.outcomes)
    known |= decided.states.changed
    return decided


# What happens


def command(
    name: str, body: Any, shown: dict[str, Any], decide: Any, by: str, key: str, role: str = "participant"
) -> Command:
    """A command of the ledger; `shown` is its body in JSON."""
    request = b'{"command":"ledger/%b","act_as":"%b","body":%b}' % (
        name.encode(),
        by.encode(),
        encode_json(shown),
    )
    return Command(f"ledger/{name}", body, decide, by, by, role, key, request)


def economy(events: int, wallets: int, principals: int, seed: int) -> Iterator[list[Command]]:
    """Wallets are opened and funded, then they pay each other by chance, until there are that many events.

    The first event of a zone says that it was made. Keys lie scattered, as those that clients draw by chance.
    """
    yield from opened_and_funded(wallets, principals)
    left = events - 3 - 3 * wallets - sum(-(-len(each) // LARGE) for each in _parts(wallets))
    choose, made = random.Random(seed), 0
    while left - 2 * made >= 2:
        count = min(AT_ONCE, left // 2 - made)
        yield [_paid_by_chance(choose, wallets, principals, made + i) for i in range(count)]
        made += count


def opened_and_funded(wallets: int, principals: int) -> Iterator[list[Command]]:
    yield [minted(FUNDS * wallets)]
    for numbers in _parts(wallets):
        yield [opened(number, principals) for number in numbers]
        yield [
            paid_out([wallet(each, principals) for each in numbers[i : i + LARGE]], FUNDS, numbers[i])
            for i in range(0, len(numbers), LARGE)
        ]


def _parts(wallets: int) -> list[range]:
    return [range(first, min(first + AT_ONCE, wallets)) for first in range(0, wallets, AT_ONCE)]


def wallets_of(events: int) -> int:
    """How many wallets a zone of that many events has."""
    return events // EVENTS_A_WALLET


def minted(amount: int) -> Command:
    body = MintTokens(REWARDS, amount, "bench", "bench")
    shown = {"to": REWARDS, "amount": str(amount), "reference": "bench", "reason": "bench"}
    return command("mint-tokens", body, shown, mint_tokens, "admin", "mint", "operator")


def paid_out(accounts: list[str], amount: int, number: int) -> Command:
    """Each of the accounts gets that amount; one may be named several times."""
    body = DistributeRewards(
        f"d{number}", "bench", REWARDS, tuple(Allocation(account, amount) for account in accounts)
    )
    allocations = [{"to": account, "amount": str(amount)} for account in accounts]
    shown = {"distribution": f"d{number}", "kind": "bench", "pool": REWARDS, "allocations": allocations}
    return command(
        "distribute-rewards", body, shown, distribute_rewards, "admin", f"fund-{number}", "operator"
    )


def opened(number: int, principals: int) -> Command:
    name = wallet(number, principals)
    key = f"open-{scattered(number)}"
    return command(
        "open-wallet", OpenWallet(name), {"wallet": name}, open_wallet, principal(number, principals), key
    )


def paid(source: int, target: int, amount: int, principals: int, key: str) -> Command:
    """A transfer between the wallets of these numbers."""
    names = wallet(source, principals), wallet(target, principals)
    shown = {"from": names[0], "to": names[1], "amount": str(amount)}
    return command("transfer", Transfer(*names, amount), shown, transfer, principal(source, principals), key)


def _paid_by_chance(choose: random.Random, wallets: int, principals: int, number: int) -> Command:
    source = int(choose.random() * wallets)
    target = (source + 1 + int(choose.random() * (wallets - 1))) % wallets
    return paid(source, target, number % 9 + 1, principals, f"{scattered(number)}-made")
