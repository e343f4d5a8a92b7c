"""The mixed workload: what devices, their owners and those who buy from them do all day, on things that stand ready.

Of a hundred commands 30 are transfers, 15 heartbeats and 10 reports of a device's state (of which most leave no
event), 20 contributions of harvest sessions, 15 meterings of contracts and 10 delegations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from commands._codec import context_of, decision_of
from commands._deciding import Command
from domain._kernel import kebab
from domain.devices import Capabilities, Heartbeat, RegisterDevice
from domain.harvest import EnrolHarvester, ReportDeviceState, StartHarvestSession
from domain.ledger import REWARDS, MintTokens, OpenWallet, Transfer
from domain.marketplace.contracts import OpenContract, StartService
from domain.marketplace.offerings import RegisterOffering
from domain.staking import RegisterValidator
from ops.bench._requests import VALIDATORS, principal
from ops.bench._stage import FUNDS, Stage, sequencing, submit_all

UNITS = 10
WEEK_MINUTES = 7 * 24 * 60


def found_economy(stage: Stage, zone: str) -> None:
    """Beside the zone's wallets: devices with open sessions, offerings with running contracts, validators."""
    asyncio.run(_found(stage, zone))


async def _found(stage: Stage, zone: str) -> None:
    async with sequencing(stage, zone) as sequencer:
        for step in steps(stage):
            await submit_all(sequencer, [command_of(body, by) for body, by in step])


def steps(stage: Stage) -> Iterator[list[tuple[Any, str]]]:
    """Commands and who issues them; what is in one step does not need each other."""
    people = [principal(number, stage.principals) for number in range(stage.principals)]
    owners = [people[number % len(people)] for number in range(stage.scale.devices)]
    customers = [people[(number + 1) % len(people)] for number in range(stage.scale.devices)]
    devices = [f"d{number}" for number in range(stage.scale.devices)]
    size = Capabilities(4_000, 8_000, 100_000, 100_000)
    yield [(MintTokens(REWARDS, FUNDS * len(people), "bench", "mixed"), "admin")]
    yield [(OpenWallet(f"wallet:{name}"), name) for name in people]
    for name in people:
        yield [(Transfer(REWARDS, f"wallet:{name}", FUNDS), "admin")]
    yield [(RegisterValidator(f"v{i}", 1_000, 500), people[i % len(people)]) for i in range(VALIDATORS)]
    yield [(RegisterDevice(d, "laptop", size, f"region{i % 4}"), owners[i]) for i, d in enumerate(devices)]
    yield [(Heartbeat(d, 1), owners[i]) for i, d in enumerate(devices)]
    yield [(EnrolHarvester(d, size), owners[i]) for i, d in enumerate(devices)]
    yield [
        (ReportDeviceState(d, 1, True, 90, 30, "wifi", False, 5, 10, 3_600), owners[i])
        for i, d in enumerate(devices)
    ]
    yield [(StartHarvestSession(f"s{i}", d), owners[i]) for i, d in enumerate(devices)]
    yield [
        (RegisterOffering(f"o{i}", d, "compute", "bronze", 100, 100, 0, UNITS, 1_000), owners[i])
        for i, d in enumerate(devices)
    ]
    yield [
        (OpenContract(f"c{i}", f"o{i}", UNITS, WEEK_MINUTES, any_price=True), customers[i])
        for i in range(len(devices))
    ]
    yield [(StartService(f"c{i}"), owners[i]) for i in range(len(devices))]


def command_of(body: Any, by: str, key: str = "") -> Command:
    """Under a key that follows from it, where none is given."""
    kind = type(body)
    name = f"{context_of(kind)}/{kebab(kind.__name__)}"
    role = "operator" if by == "admin" else "participant"
    key = key or f"mixed-{name}-{by}-{hash(repr(body))}"
    request = b'{"command":"%b","act_as":"%b","body":{}}' % (name.encode(), by.encode())
    return Command(name, body, decision_of(kind), by, by, role, key, request)
