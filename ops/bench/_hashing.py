"""What the transparency log costs: leaf hashes as a share of a command's CPU time, and how fast a tree grows.

A round of transfers over HTTP tells what a command costs the server and PostgreSQL. Right afterwards the leaves of
what that round has stored are computed again, alone, from the same arguments. In between, the same write side without
leaf hashes takes its turns, in a zone of its own: whoever finds that another one has written reads that first.
"""

from __future__ import annotations

import gc
import statistics
import time
from typing import Any

import psycopg

from commands._codec import event_leaf, fate_leaf, microseconds, zone_prefix
from commands._signatures import installation
from ops.bench._figures import Figures
from ops.bench._load import Result
from ops.bench._measure import cpu_s, median_ratio, tree_cpu_s
from ops.bench._stage import OUR_HTTP, PEPPER, ZONE, App, BenchFailed, Stage, found_zone, grow
from projections._transparency import EVENTS, FATES, extend_and_sign

WARM_S = 0.2
BARE_ZONE = "unhashed"
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


def hashing(stage: Stage, figures: Figures) -> None:
    """What leaf hashes cost a command, in CPU microseconds and as a share, and how fast trees grow."""
    api, bare = stage.fogbook(), stage.start_peer("unhashed", "ops.bench.peers.unhashed:app", OUR_HTTP)
    found_zone(stage, BARE_ZONE, stage.scale.wallets)
    zones = {api.name: ZONE, bare.name: BARE_ZONE}
    for app in (api.ready(), bare.ready()):
        stage.load.run(stage.round(app, zone=zones[app.name], warm_s=WARM_S))
    rounds: list[tuple[float, float, float]] = []
    rates: dict[str, list[float]] = {api.name: [], bare.name: []}
    for number in range(stage.scale.rounds):
        stage.say(f"Transfers over HTTP and their leaves, round {number + 1} of {stage.scale.rounds}.")
        # Every other round in reverse, so that nobody always follows the same neighbour.
        for app in (api, bare) if number % 2 else (bare, api):
            head = _head(stage)
            spent, result = _spent_us(stage, app, zones[app.name])
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
    figures.hashing = {name: round(value, 4) for name, value in costs.items()}
    figures.ratios["transfer_vs_unhashed"] = median_ratio(rates[api.name], rates[bare.name])
    figures.per_s["tree_leaves"] = _growth(stage)


def _head(stage: Stage) -> tuple[int, int]:
    with stage.connect() as connection:
        row = connection.execute(HEAD, (ZONE,)).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def _spent_us(stage: Stage, app: App, zone: str) -> tuple[tuple[float, float], Result]:
    """CPU time of a command in the server and in PostgreSQL, over a round."""
    postgres = stage.servers.pids["postgres"]
    server, database = cpu_s(app.pid), tree_cpu_s(postgres)
    result = stage.load.run(stage.round(app, zone=zone, warm_s=WARM_S))
    spent = cpu_s(app.pid) - server, tree_cpu_s(postgres) - database
    return (spent[0] / result.commands * 1e6, spent[1] / result.commands * 1e6), result


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
