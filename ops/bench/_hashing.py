"""What the transparency log costs: leaf hashes as a share of a command's CPU time, and how fast a tree grows.

A round of transfers over HTTP tells what a command costs the server and PostgreSQL. Right afterwards the leaves of
what that round has stored are computed again, alone, from the same arguments. In between, the same write side without
leaf hashes takes its turns.
"""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass
from typing import Any

import psycopg

from commands._codec import event_leaf, fate_leaf, microseconds, zone_prefix
from commands._signatures import installation
from ops.bench._load import Result
from ops.bench._measure import cpu_s, median_ratio, tree_cpu_s
from ops.bench._stage import PEPPER, ZONE, App, BenchFailed, Stage, grow
from projections._transparency import EVENTS, FATES, extend_and_sign

WARM_S = 0.2
MOST_HASHED = 20_000
"""Commands of a round whose leaves are computed again."""

HEAD = "SELECT position, number FROM heads WHERE zone = %s"

EVENTS_AFTER = """
SELECT position, stream, version, type, recorded_at, meta, data FROM events
WHERE zone = %s AND position > %s ORDER BY position LIMIT %s
"""

FATES_AFTER = """
SELECT number, principal, act_as, key, request, if_match, status, answer, position, events, recorded_at
FROM commands WHERE zone = %s AND number > %s ORDER BY number LIMIT %s
"""


@dataclass
class Hashing:
    """What was found out; times are CPU microseconds a command."""

    costs: dict[str, float]
    vs_unhashed: float
    leaves_per_s: float


def measure_hashing(stage: Stage) -> Hashing:
    api, bare = (
        stage.running["transfer"].ready(),
        stage.start_peer("unhashed", "ops.bench.peers.unhashed:app"),
    )
    for app in (api, bare.ready()):
        stage.load.run(stage.round(app, warm_s=WARM_S))
    rounds: list[tuple[float, float, float]] = []
    rates: dict[str, list[float]] = {api.name: [], bare.name: []}
    for number in range(stage.scale.rounds):
        stage.say(f"Transfers over HTTP and their leaves, round {number + 1} of {stage.scale.rounds}.")
        # Every other round in reverse, so that nobody always follows the same neighbour.
        for app in (api, bare) if number % 2 else (bare, api):
            head = _head(stage)
            spent, result = _spent_us(stage, app)
            rates[app.name].append(result.per_s)
            if app is api:
                rounds.append((_leaves_us(stage, *head), *spent))
    stage.running.pop(bare.name).stop()
    leaves, server, database = (statistics.median(column) for column in zip(*rounds, strict=True))
    costs = {
        "leaves_us": leaves,
        "server_us": server,
        "postgres_us": database,
        "share_of_command": statistics.median(each[0] / (each[1] + each[2]) for each in rounds),
        "share_of_server": statistics.median(each[0] / each[1] for each in rounds),
    }
    rounded = {name: round(value, 4) for name, value in costs.items()}
    return Hashing(rounded, median_ratio(rates[api.name], rates[bare.name]), _growth(stage))


def _head(stage: Stage) -> tuple[int, int]:
    with stage.connect() as connection:
        row = connection.execute(HEAD, (ZONE,)).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def _spent_us(stage: Stage, app: App) -> tuple[tuple[float, float], Result]:
    """CPU time of a command in the server and in PostgreSQL, over a round."""
    postgres = stage.servers.pids["postgres"]
    server, database = cpu_s(app.pid), tree_cpu_s(postgres)
    result = stage.load.run(stage.round(app, warm_s=WARM_S))
    spent = cpu_s(app.pid) - server, tree_cpu_s(postgres) - database
    return (spent[0] / result.sent * 1e6, spent[1] / result.sent * 1e6), result


def _leaves_us(stage: Stage, position: int, number: int) -> float:
    """CPU time of a command's leaves: those of its events, and that of its fate."""
    zone = zone_prefix(ZONE)
    with stage.connect() as connection:
        fates = _rows(connection, FATES_AFTER, number, MOST_HASHED)
        events = _rows(connection, EVENTS_AFTER, position, sum(fate[9] for fate in fates))
    event_arguments = [(zone, *row[:4], microseconds(row[4]), *row[5:]) for row in events]
    fate_arguments = [(zone, *row[:10], microseconds(row[10])) for row in fates]
    gc.collect()
    gc.disable()
    try:
        begun = time.process_time()
        for event in event_arguments:
            event_leaf(*event)
        for fate in fate_arguments:
            fate_leaf(*fate)
        spent = time.process_time() - begun
    finally:
        gc.enable()
    if not fates:
        raise BenchFailed("a round stored nothing")
    return spent / len(fates) * 1e6


def _rows(connection: psycopg.Connection[Any], statement: str, after: int, most: int) -> list[Any]:
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(statement, (ZONE, after, most)).fetchall()


def _growth(stage: Stage) -> float:
    """Leaves a second, from the log's first entry to a signed checkpoint."""
    stage.say("Growing trees.")
    grow(stage, ZONE, min(stage.scale.events, 200_000), 0.9)
    with stage.signer() as connection:
        begun = time.monotonic()
        signed = extend_and_sign(connection, PEPPER.encode(), installation(PEPPER.encode()), ZONE)
        took = time.monotonic() - begun
    return round((signed[EVENTS].size + signed[FATES].size) / took, 1)
