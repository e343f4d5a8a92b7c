"""Scenarios that bring a system of their own, or none: their short forms are tests under tests/integration and unit."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from random import Random

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.audited import EXPORTED, audited, named
from tests.campaign import run as run_campaign
from tests.campaign import thrown_away
from tests.chronicles import Features, live_through
from tests.faults.reads import read_along
from tests.faults.serial import race
from tests.faults.stage import SCENARIOS, Scenario, Turn
from tests.integration import test_followers_miss_nothing, test_killed, test_reactions_killed
from tests.integration.test_zones_exchange import PEERS, run_exchange
from tests.planted import BUGS, hunt
from tests.running import running
from tests.tampering import KINDS, harmed, keep_copies
from tests.unit.test_economy_properties import STEPS, EconomyMachine

PROCESSES = int(os.environ.get("FOGBOOK_PROCESSES", "2"))
COMMANDS = 100_000
READS = 50_000
HONEST = 5
AT_ONCE = 50
"""Histories of one run of hypothesis."""
PLANTED = 3
"""Bugs of one turn: four turns in a row plant all."""


def economy(turn: Turn) -> Counter[str]:
    """Random histories over all contexts, timers and reactions included, against the plain model."""
    histories, enough = 0, turn.until(2 * AT_ONCE, 10_000)
    terms = settings(
        max_examples=AT_ONCE,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    while not enough(histories):
        of_its_own = 1_000 * turn.seed + histories // AT_ONCE
        run_state_machine_as_test(seed(of_its_own)(EconomyMachine), settings=terms)
        histories += AT_ONCE
    return Counter({"histories": histories, "steps": histories * STEPS})


def order(turn: Turn) -> Counter[str]:
    """32 writers who race, stall and roll back, and readers who miss nothing."""
    servers = turn.servers()
    with thrown_away(servers.database_url, servers.superuser_url) as database:
        return test_followers_miss_nothing.race(database, turn.folder, turn.seed)


def serial(turn: Turn) -> Counter[str]:
    """Clients of two sequencers: each outcome is the plain model's at its place."""
    servers = turn.servers()
    with thrown_away(servers.database_url, servers.superuser_url) as database:
        return race(database, turn.seed, turn.until(5_000, COMMANDS))


def reads(turn: Turn) -> Counter[str]:
    """Reads beside payments and rebuilds: each is the plain model's at the position it states."""
    servers = turn.servers()
    with thrown_away(servers.database_url, servers.superuser_url) as database:
        return read_along(database, turn.seed, turn.until(1_000, READS))


def up(turn: Turn) -> Counter[str]:
    """`fogbook up` under load, its API and its workers killed: what it supervises comes back, and nothing is lost."""
    with running(turn.folder / "fog home") as it:
        load, killed = asyncio.run(test_killed.play(it, turn.seed, turn.enough(2.0, 20, 200)))
        test_killed.check(it, load)
    test_killed.report(load, killed)
    counts = Counter({f"{name} killed": number for name, number in killed.items()})
    return counts + Counter({"acknowledged": len(load.acknowledged), "unanswered": load.unanswered})


def reactions(turn: Turn) -> Counter[str]:
    """Rewards, slashes and windows while API and workers are killed: each effect once."""
    with running(turn.folder / "fog home") as it:
        village, killed = asyncio.run(test_reactions_killed.live(it, turn.seed, turn.enough(3.0, 9, 60)))
        test_reactions_killed.settled(it)
        test_reactions_killed.check(it, village)
    counts = Counter({f"{name} killed": number for name, number in killed.items()})
    return counts + Counter({"commands": village.sent.total(), "unanswered": village.unanswered})


def zones(turn: Turn) -> Counter[str]:
    """Two zones exchange tokens while API and workers are killed: every token is in one place."""
    exchange, killed = run_exchange(turn.folder / "fog home", turn.seed, turn.enough(3.0, 9, 60))
    counts = Counter({f"{name} killed": number for name, number in killed.items()})
    transfers = sum(exchange.accepted[zone] for zone in PEERS)
    return counts + Counter({"transfers": transfers, "unanswered": exchange.unanswered})


def tampering(turn: Turn) -> Counter[str]:
    """Harms that a superuser does to logs, each detected and located, and honest logs of which nothing is said."""
    servers, mutations = turn.servers(), turn.enough(1.0, 50, 5_000)
    tally = run_campaign(servers.database_url, servers.superuser_url, turn.seed, mutations, HONEST, PROCESSES)
    assert tally.failures == [], tally.failures[:5]
    assert tally.false_alarms == [], tally.false_alarms[:5]
    assert (sum(tally.applied.values()), tally.honest) == (mutations, HONEST)
    return Counter(
        {
            "harms": mutations,
            "kinds of harm": len(tally.applied),
            "honest logs": HONEST,
            "events": tally.events,
        }
    )


def auditor(turn: Turn) -> Counter[str]:
    """One harm of each kind that an export shows, and what the stand-alone auditor says of it."""
    servers, missed = turn.servers(), []
    with thrown_away(servers.database_url, servers.superuser_url) as database:
        chronicle = live_through(database, turn.seed, 30, Features(library=True))
        with database.superuser() as connection:
            keep_copies(connection)
            for name in EXPORTED:
                rng = Random(f"{turn.seed}/{name}")
                with harmed(chronicle, connection, KINDS[name].run, rng) as (_, expected):
                    assert expected is not None
                    said = audited(chronicle, turn.folder / "export.ndjson")
                    wanted = [each for where in expected for each in named(connection, where)]
                if not any(each in line for line in said for each in wanted):
                    missed.append((name, said[:5], wanted[:3]))
        assert audited(chronicle, turn.folder / "export.ndjson") == []
    assert missed == []
    return Counter({"harms": len(EXPORTED)})


def bugs(turn: Turn) -> Counter[str]:
    """Each planted bug is caught by the tests that are there for it."""
    first = PLANTED * turn.seed
    return hunt(turn.folder, [BUGS[n % len(BUGS)] for n in range(first, first + PLANTED)])


for _name, _promises, _run, _provokes in (
    ("economy", (7,), economy, ("histories",)),
    ("order", (2,), order, ("rollbacks", "stalls", "conflicts", "accepted")),
    ("serial", (3,), serial, ("accepted", "refused", "conflicts", "holds expired")),
    ("reads", (4,), reads, ("reads", "positions named", "rebuilds", "commands")),
    ("up", (1,), up, ("api killed", "worker killed", "unanswered", "acknowledged")),
    ("reactions", (6, 12), reactions, ("api killed", "worker killed", "unanswered", "commands")),
    ("zones", (1, 7), zones, ("api killed", "worker killed", "unanswered", "transfers")),
    ("tampering", (14,), tampering, ("harms", "honest logs")),
    ("auditor", (14,), auditor, ("harms",)),
    ("bugs", (19,), bugs, ("bugs caught",)),
):
    SCENARIOS[_name] = Scenario(_name, _promises, _provokes, (), _run)
