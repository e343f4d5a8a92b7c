"""A long history of all contexts: what devices, their owners and those who buy from them do, made quickly.

It begins as the zone of the mixed workload does. Then transfers, contributions, meterings and all the rest follow by
chance, spread over two hours, until there are enough events; each command is really decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import count
from random import Random
from typing import Any

from commands._deciding import Command
from domain.devices import Heartbeat
from domain.harvest import RecordContribution, ReportDeviceState
from domain.ledger import OpenWallet, Transfer
from domain.marketplace.contracts import MeterUsage
from domain.settlement.windows import OpenWindow, RecordObligation
from domain.staking import Delegate
from ops.bench._economy import command_of, steps
from ops.bench._history import Clock, opened_and_funded
from ops.bench._requests import VALIDATORS, principal, scattered, wallet
from ops.bench._stage import Stage
from ops.zones import MANUAL_START

AT_ONCE = 1_024
LASTS = timedelta(hours=2)
"""Devices report often enough meanwhile for their sessions to go on."""
WINDOW = "w0"
MOST_OWED = 1_000
"""Obligations that a window holds."""
MIX = {
    "transfer": 22,
    "open": 5,
    "heartbeat": 10,
    "report": 12,
    "contribute": 22,
    "meter": 15,
    "delegate": 9,
    "owe": 5,
}
"""Weights."""


def all_contexts(stage: Stage) -> Iterator[list[Command]]:
    """Batches for `make_history`, without an end."""
    yield from opened_and_funded(stage.scale.wallets, stage.principals)
    for step in steps(stage):
        for first in range(0, len(step), AT_ONCE):
            yield [command_of(body, by) for body, by in step[first : first + AT_ONCE]]
    yield [command_of(OpenWindow(WINDOW), "admin")]
    choose, turns, made = Random(stage.seed), Counter[str](), count()
    kinds, weights = list(MIX), list(MIX.values())
    # So few that no device contributes twice at the same time.
    at_once = min(AT_ONCE, 2 * stage.scale.devices)
    while True:
        wanted = (_wanted(stage, choose, kind, turns) for kind in choose.choices(kinds, weights, k=at_once))
        # The same is wanted many times, each time under another key.
        yield [command_of(body, by, f"{scattered(next(made))}-made") for body, by in wanted]


def two_hours(events: int) -> Clock:
    """The time of a log that comes to so many events."""

    def at(position: int) -> datetime:
        return MANUAL_START + LASTS * (position / events)

    return at


def _wanted(stage: Stage, choose: Random, kind: str, turns: Counter[str]) -> tuple[Any, str]:
    """A command of this kind, on one device after the other, and who sends it."""
    turns[kind] += 1
    if kind == "owe" and turns[kind] > MOST_OWED:
        kind = "transfer"
    device = turns[kind] % stage.scale.devices
    owner = principal(device, stage.principals)
    seq = turns[kind] // stage.scale.devices + 2
    match kind:
        case "transfer":
            target = wallet(choose.randrange(stage.scale.wallets), stage.principals)
            body: Any = Transfer(f"wallet:{owner}", target, choose.randint(1, 9))
            return body, owner
        case "open":
            number = stage.scale.wallets + turns[kind]
            return OpenWallet(wallet(number, stage.principals)), principal(number, stage.principals)
        case "heartbeat":
            return Heartbeat(f"d{device}", seq), owner
        case "report":
            return ReportDeviceState(f"d{device}", seq, True, 90, 30, "wifi", False, 5, 10, 3_600), owner
        case "contribute":
            return RecordContribution(f"s{device}", seq, cpu_ms=1), owner
        case "meter":
            return MeterUsage(f"c{device}", seq, 1), owner
        case "owe":
            creditor = principal(device + 1, stage.principals)
            return RecordObligation(owner, creditor, choose.randint(1, 99), f"x{turns[kind]}", WINDOW), owner
        case "delegate":
            number = turns[kind] % (VALIDATORS * stage.principals)
            return Delegate(f"v{number % VALIDATORS}", 1_000), principal(number, stage.principals)
    raise ValueError(kind)
