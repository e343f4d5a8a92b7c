"""The parts of the bench. Each fills in its figures and says so."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import psycopg
from psycopg import AsyncConnection, sql

from commands._codec import decode_json, encode_json, event_decoder
from commands._deciding import Decided
from commands._log import Batch, Entry, Head, PostgresLog
from ops._supervise import spawn
from ops.bench._as_of import as_of
from ops.bench._hashing import measure_hashing
from ops.bench._load import MIX, LoadFailed, Result, principal, wallet
from ops.bench._measure import cpu_s, median_ratio, rss_mib, spread, tree_cpu_s
from ops.bench._mixed import found_economy
from ops.bench._stage import (
    CLI,
    ZONE,
    App,
    BenchFailed,
    Stage,
    found_zone,
    grow,
    make_database,
    tail_of,
    transfers,
)
from ops.bench._verify import verify_against
from ops.settings import APP_ROLE
from projections._engine import all_projections
from projections._rebuild import COPY_TYPES, rebuild, sweep

RATE = 500.0
MIXED_RATE = 300.0
POLL_S = 0.001
WARM_S = 0.2
BATCH = 32


@dataclass
class Figures:
    """All that is printed."""

    ratios: dict[str, float] = field(default_factory=dict)
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    per_s: dict[str, float] = field(default_factory=dict)
    cpu_us: dict[str, dict[str, float]] = field(default_factory=dict)
    lag_ms: dict[str, float] = field(default_factory=dict)
    lag_mixed_ms: dict[str, float] = field(default_factory=dict)
    timers_late_ms: dict[str, float] = field(default_factory=dict)
    hashing: dict[str, float] = field(default_factory=dict)
    memory_mib: float | None = None
    conditions: dict[str, Any] = field(default_factory=dict)


# Transfers over HTTP


@dataclass
class Side:
    """One application's rounds."""

    app: App
    rounds: list[Result] = field(default_factory=list)
    server_s: float = 0.0
    postgres_s: float = 0.0

    @property
    def rates(self) -> list[float]:
        return [round.per_s for round in self.rounds]


def transfer(stage: Stage, figures: Figures) -> None:
    """POST /commands/ledger/transfer against a plain no-op, one on our route, and the library's application."""
    sides = {name: Side(app.ready()) for name, app in stage.running.items()}
    postgres = stage.servers.pids["postgres"]
    for side in sides.values():
        stage.load.run(stage.round(side.app))
    for number in range(stage.scale.rounds):
        if number >= 2 and stage.late(0.5):
            break
        stage.say(f"Transfers over HTTP, round {number + 1} of {stage.scale.rounds}.")
        # Every other round in reverse, so that nobody always follows the same neighbour.
        for side in list(sides.values())[:: 1 if number % 2 else -1]:
            server, database = cpu_s(side.app.pid), tree_cpu_s(postgres)
            side.rounds.append(stage.load.run(stage.round(side.app, warm_s=WARM_S)))
            side.server_s += cpu_s(side.app.pid) - server
            side.postgres_s += tree_cpu_s(postgres) - database
    ours = sides["transfer"].rates
    for name, side in sides.items():
        requests = sum(round.sent for round in side.rounds)
        client_s = sum(round.client_cpu_s for round in side.rounds)
        figures.per_s[name] = round(statistics.median(side.rates), 1)
        figures.latency_ms[name] = {
            "p50": statistics.median(round.p50_ms for round in side.rounds),
            "p99": statistics.median(round.p99_ms for round in side.rounds),
            "p999": statistics.median(round.p999_ms for round in side.rounds),
        }
        costs = {"server": side.server_s, "postgres": side.postgres_s, "client": client_s}
        figures.cpu_us[name] = {who: round(spent / requests * 1e6, 1) for who, spent in costs.items()}
        if name != "transfer":
            figures.ratios[f"transfer_vs_{name}"] = median_ratio(ours, side.rates)
    figures.conditions["transfer_rounds"] = len(ours)
    for name in ("noop", "noop_same_route", "library_app"):
        stage.running.pop(name).stop()


def start_apps(stage: Stage) -> None:
    """All applications at once: their start-up overlaps."""
    library = make_database(stage, "bench_library") | {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "BENCH_WALLETS": str(stage.scale.wallets),
        "BENCH_PRINCIPALS": str(stage.principals),
    }
    stage.start_fogbook()
    stage.start_peer("noop", "ops.bench.peers.noop:app")
    stage.start_peer("noop_same_route", "ops.bench.peers.same_route:app")
    stage.start_peer("library_app", "ops.bench.peers.library_app:app", **library)


# Append


RAW_TABLES = """
CREATE TABLE bench_events (LIKE events INCLUDING ALL);
CREATE TABLE bench_commands (LIKE commands INCLUDING ALL);
GRANT SELECT, INSERT ON bench_events, bench_commands TO fogbook_app;
"""

RAW_EVENTS = """
INSERT INTO bench_events
SELECT %b, %b::bigint + i, stream, version, type, data, meta, %b, leaf
FROM unnest(%b::text[], %b::bigint[], %b::text[], %b::bytea[], %b::bytea[], %b::bytea[]) WITH ORDINALITY
     AS e(stream, version, type, data, meta, leaf, i)
"""

RAW_BOTH = f"""
WITH fates AS (
    INSERT INTO bench_commands
    SELECT %b, %b::bigint + i, principal, key, act_as, request, if_match, status, answer, position, events, %b, leaf
    FROM unnest(%b::text[], %b::text[], %b::text[], %b::bytea[], %b::bigint[], %b::smallint[], %b::bytea[],
                %b::bigint[], %b::integer[], %b::bytea[]) WITH ORDINALITY
         AS c(principal, key, act_as, request, if_match, status, answer, position, events, leaf, i)
)
{RAW_EVENTS}
"""


@dataclass(frozen=True)
class Prepared:
    head: Head
    batch: Batch


def append(stage: Stage, figures: Figures) -> None:
    """PostgresLog.append against one INSERT ... SELECT unnest of the same rows (events and fates).

    Decisions and leaf hashes are made beforehand; both sides run over the same kind of connection, prepared and
    binary, each batch in a transaction (of one statement) of its own, with synchronous commit.
    """
    zone = "append"
    found_zone(stage, zone, stage.scale.wallets, clock="manual")
    with stage.superuser() as connection:
        connection.execute(RAW_TABLES)
    asyncio.run(_append(stage, figures, zone))


async def _append(stage: Stage, figures: Figures, zone: str) -> None:
    scale = stage.scale
    log = PostgresLog(stage.servers.database_url, APP_ROLE)
    await log.connect()
    head = await log.head(zone)
    assert head is not None
    took: dict[str, list[float]] = {"append": [], "raw_batch": [], "raw_events_only": []}
    rates: dict[str, list[float]] = {name: [] for name in took}
    opened = AsyncConnection.connect(stage.servers.superuser_url, autocommit=True, prepare_threshold=0)
    async with _closing(log), await opened as raw:
        batches = await _prepare(stage, log, zone, head, scale.batches * (scale.append_rounds + 1))
        for number in range(scale.append_rounds + 1):
            stage.say(f"Appending batches, round {number} of {scale.append_rounds}.")
            share = batches[number * scale.batches : (number + 1) * scale.batches]
            runs: dict[str, Callable[[Prepared], Any]] = {
                "append": lambda p: log.append(zone, p.head, head.at, p.batch),
                "raw_batch": lambda p: _raw(raw, RAW_BOTH, (*_fates(zone, p), *_events(zone, p))),
                "raw_events_only": lambda p: _raw(raw, RAW_EVENTS, _events("only", p)),
            }
            for name, run in runs.items():
                begun = time.monotonic()
                for prepared in share:
                    each = time.monotonic()
                    if await run(prepared) is False:
                        raise BenchFailed("an append met another one")
                    if number:  # Round 0 warms up.
                        took[name].append((time.monotonic() - each) * 1000)
                if number:
                    rates[name].append(len(share) * BATCH * 2 / (time.monotonic() - begun))
            if number >= 2 and stage.late(0.6):
                break
    figures.ratios["append_vs_raw_batch"] = median_ratio(rates["append"], rates["raw_batch"])
    figures.conditions["append_vs_raw_events_only"] = median_ratio(rates["append"], rates["raw_events_only"])
    for name in took:
        figures.latency_ms[name] = spread(took[name])
        figures.per_s[f"{name}_events"] = round(statistics.median(rates[name]), 1)


@contextlib.asynccontextmanager
async def _closing(log: PostgresLog) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await log.close()


async def _prepare(stage: Stage, log: PostgresLog, zone: str, head: Head, count: int) -> list[Prepared]:
    """Batches of 32 transfers each, decided one after another, with their real leaf hashes."""
    known: dict[str, Entry] = {}
    prepared = []
    commands = transfers(stage, count * BATCH, "append")
    for first in range(0, len(commands), BATCH):
        batch = commands[first : first + BATCH]
        while (decided := Decided(zone, known, head, head.at, batch)).missing:
            known |= await log.load(zone, decided.missing, head.position) or {}
        known |= decided.states.changed
        prepared.append(Prepared(head, decided.batch))
        head = Head(decided.position, head.number + len(decided.batch.keys), head.at, head.clock)
    return prepared


def _fates(zone: str, p: Prepared) -> tuple[Any, ...]:
    return (zone, p.head.number, p.head.at, *p.batch.columns()[:10])


def _events(zone: str, p: Prepared) -> tuple[Any, ...]:
    return (zone, p.head.position, p.head.at, *p.batch.columns()[10:16])


async def _raw(connection: AsyncConnection[Any], statement: str, parameters: tuple[Any, ...]) -> None:
    await connection.cursor(binary=True).execute(statement.encode(), parameters)


# Lag


class Poller(threading.Thread):
    """Notes when the slowest live projection reached which position."""

    def __init__(self, connection: psycopg.Connection[Any], projections: int) -> None:
        super().__init__(name="poller", daemon=True)
        self.connection = connection
        self.projections = projections
        self.seen: list[tuple[float, int]] = [(0.0, -1)]
        self.stopping = False

    def run(self) -> None:
        with self.connection.cursor(binary=True) as cursor:
            while not self.stopping:
                position = self.position(cursor)
                if position > self.seen[-1][1]:
                    # Taken after the answer, so a lag comes out too long by one poll rather than too short.
                    self.seen.append((time.monotonic(), position))
                time.sleep(POLL_S)

    def position(self, cursor: psycopg.Cursor[Any]) -> int:
        """-1 until every projection has a checkpoint."""
        statement = "SELECT count(*), min(position) FROM checkpoints WHERE zone = %s AND live"
        row = cursor.execute(statement, (ZONE,), prepare=True).fetchone()
        return int(row[1]) if row is not None and row[0] == self.projections else -1

    def wait_for(self, position: int, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self.seen[-1][1] < position and time.monotonic() < end:
            time.sleep(0.01)
        return self.seen[-1][1] >= position


def lag(stage: Stage, figures: Figures) -> None:
    """From the moment a command's 200 arrives until every live projection is there, through Dramatiq.

    Transfers come on schedule at 500 a second; the checkpoints are polled every millisecond or so.
    """
    figures.lag_ms, result = _lag(stage, RATE)
    figures.conditions["lag_commands_per_s"] = round(result.per_s, 1)
    figures.conditions["lag_samples"] = len(result.samples)


def mixed(stage: Stage, figures: Figures) -> None:
    """The mixed workload against plain transfers, in turns; then its lag at 300 commands a second."""
    stage.say("Setting up devices, sessions, offerings and contracts.")
    found_economy(stage)
    api = stage.running["transfer"].ready()
    sides = {"mixed": Side(api), "transfer": Side(api)}
    terms: dict[str, dict[str, Any]] = {"mixed": {"devices": stage.scale.devices}, "transfer": {}}
    for number in range(stage.scale.rounds + 1):
        stage.say(f"Mixed commands over HTTP, round {number} of {stage.scale.rounds}.")
        for name, side in sides.items():
            result = stage.load.run(stage.round(api, warm_s=WARM_S, **terms[name]))
            if number:  # Round 0 warms up.
                side.rounds.append(result)
    figures.ratios["mixed_vs_transfer"] = median_ratio(sides["mixed"].rates, sides["transfer"].rates)
    figures.per_s["mixed"] = round(statistics.median(sides["mixed"].rates), 1)
    figures.latency_ms["mixed"] = {
        name: statistics.median(getattr(round, f"{name}_ms") for round in sides["mixed"].rounds)
        for name in ("p50", "p99", "p999")
    }
    place = partial(_place_holds, stage, api)
    figures.lag_mixed_ms, result = _lag(stage, MIXED_RATE, place, devices=stage.scale.devices)
    figures.timers_late_ms = _lateness(stage)
    figures.conditions["lag_mixed_commands_per_s"] = round(result.per_s, 1)
    figures.conditions["mix"] = MIX
    figures.conditions["devices"] = stage.scale.devices


def _place_holds(stage: Stage, api: App) -> None:
    """Holds that expire one after the other while the lag is measured."""
    begin = datetime.now(UTC) + timedelta(seconds=0.5)
    number = int(stage.scale.lag_s * 10)
    lines = [
        encode_json(
            {
                "context": "ledger",
                "command": "place-hold",
                "key": f"expiring-{i}",
                "body": {
                    "hold": f"expiring-{i}",
                    "wallet": wallet(0, stage.principals),
                    "payee": principal(1, stage.principals),
                    "amount": "1",
                    "expires_at": (begin + timedelta(seconds=i / 10)).isoformat(),
                },
            }
        )
        for i in range(number)
    ]
    headers = {"authorization": f"Bearer {stage.keys[0]}", "content-type": "application/x-ndjson"}
    url = f"http://127.0.0.1:{api.port}/commands"
    answer = httpx.post(url, content=b"\n".join(lines), headers=headers, timeout=30, trust_env=False)
    if answer.status_code != 200 or answer.content.count(b'"status":200') != number:
        raise BenchFailed(f"holds were not placed: {answer.text[:300]}")


LATE = """
SELECT extract(epoch FROM expired.recorded_at - (convert_from(placed.data, 'UTF8')::json ->> 'expires_at')::timestamptz)
       * 1000
FROM events expired JOIN events placed USING (zone, stream)
WHERE zone = %s AND expired.type = 'HoldExpired' AND placed.type = 'HoldPlaced'
"""


def _lateness(stage: Stage) -> dict[str, float]:
    """How long after their time the holds expired, in milliseconds."""
    with stage.connect() as connection:
        late = [float(ms) for (ms,) in connection.execute(LATE, (ZONE,))]
    if not late:
        raise BenchFailed("no hold has expired")
    return spread(late)


def _lag(
    stage: Stage, rate: float, begin: Callable[[], None] = lambda: None, **terms: Any
) -> tuple[dict[str, float], Result]:
    """The lag at a rate; `begin` is called once the worker has caught up."""
    stage.say("Commit-to-visible lag: waiting until the worker has caught up.")
    api = stage.running["transfer"].ready()
    log = stage.folder / "worker.log"
    env = stage.environment() | {"FOGBOOK_API_URL": f"http://127.0.0.1:{api.port}"}
    argv = [*CLI, "work", "--home", str(stage.folder / "fogbook")]
    worker = spawn(argv, log=log, env=env, cwd=stage.folder)
    with contextlib.ExitStack() as undo:
        undo.callback(worker.stop, 5)
        poller = Poller(undo.enter_context(stage.connect()), len(all_projections()))
        poller.start()
        undo.callback(poller.join, 5)
        undo.callback(setattr, poller, "stopping", True)
        with stage.connect() as connection:
            row = connection.execute("SELECT position FROM heads WHERE zone = %s", (ZONE,)).fetchone()
        assert row is not None
        patience = 12.0 if stage.scale.limit_s else 120.0
        if not poller.wait_for(row[0], patience) or worker.poll() is not None:
            raise BenchFailed(f"the worker does not catch up: {tail_of(log)}")
        begin()
        stage.load.run(stage.round(api, seconds=0.5, rate=rate, **terms))
        stage.say(f"Commit-to-visible lag at {rate:.0f} commands/s.")
        result = stage.load.run(stage.round(api, seconds=stage.scale.lag_s, rate=rate, **terms))
        if not poller.wait_for(max(position for _, position in result.samples), 10):
            raise BenchFailed(f"the worker fell behind for good: {tail_of(log)}")
    return spread(_lags(result.samples, poller.seen)), result


def _lags(samples: list[tuple[float, int]], seen: list[tuple[float, int]]) -> list[float]:
    """Milliseconds from each answer until its position was seen; 0 when that came first."""
    lags, at = [], 0
    for answered, position in sorted(samples, key=lambda sample: sample[1]):
        while seen[at][1] < position:
            at += 1
        lags.append(max(0.0, seen[at][0] - answered) * 1000)
    return lags


# Hashing


def hashing(stage: Stage, figures: Figures) -> None:
    """What leaf hashes cost a command, and how fast trees grow."""
    found = measure_hashing(stage)
    figures.hashing = found.costs
    figures.ratios["transfer_vs_unhashed"] = found.vs_unhashed
    figures.per_s["tree_leaves"] = found.leaves_per_s


# Rebuild


def rebuild_ledger(stage: Stage, figures: Figures) -> None:
    """Rebuild of the projection `ledger` against COPY of all events out of the log and decoding data and meta."""
    stage.say("Making history for the rebuild.")
    head = grow(stage, ZONE, stage.scale.events, 0.75)
    projection = all_projections()["ledger"]
    ours: list[float] = []
    theirs: list[float] = []
    data_alone: list[float] = []
    for number in range(stage.scale.rebuilds):
        if number and stage.late(0.85):
            break
        stage.say(f"Rebuild over {head} events, round {number + 1} of {stage.scale.rebuilds}.")
        begun = time.monotonic()
        rebuild(stage.connect, ZONE, projection)
        ours.append(time.monotonic() - begun)
        with stage.connect() as connection:
            sweep(connection, ZONE, projection)  # Nobody waits for it, so it is not counted.
        for sides, metadata in ((theirs, True), (data_alone, False)):
            begun = time.monotonic()
            _copy_and_decode(stage, head, metadata)
            sides.append(time.monotonic() - begun)
    figures.ratios["rebuild_vs_copy_decode"] = median_ratio(theirs, ours)
    figures.per_s["rebuild_events"] = round(head / statistics.median(ours), 1)
    figures.per_s["copy_decode_events"] = round(head / statistics.median(theirs), 1)
    figures.conditions |= {
        "rebuild_events": head,
        "rebuild_projection": "ledger",
        "rebuild_until": "the new generation is live",
        "rebuild_vs_copy_decode_of_data_alone": median_ratio(data_alone, ours),
        "rebuild_rounds": len(ours),
    }


COPY_ALL = """
COPY (SELECT position, stream, version, type, data, meta, recorded_at FROM events
      WHERE zone = {} AND position <= {} ORDER BY position) TO STDOUT (FORMAT BINARY)
"""


def _copy_and_decode(stage: Stage, upto: int, metadata: bool) -> None:
    statement = sql.SQL(COPY_ALL).format(sql.Literal(ZONE), sql.Literal(upto))
    count = 0
    with stage.connect() as connection, connection.cursor().copy(statement) as copy:
        copy.set_types(COPY_TYPES)
        for row in copy.rows():
            decode = event_decoder(row[3])
            assert decode is not None
            decode(row[4])
            if metadata:  # Which command an event belongs to stands there.
                decode_json(row[5])
            count += 1
    assert count == upto, "positions are gapless"


def verify_logs(stage: Stage, figures: Figures) -> None:
    """`fogbook verify` of the logs (not of read models) against the same limit."""
    head = grow(stage, ZONE, stage.scale.events, 0.8)
    ratio, per_s, rounds = verify_against(stage, lambda: _copy_and_decode(stage, head, metadata=True))
    figures.ratios["verify_vs_copy_decode"] = ratio
    figures.per_s["verify_events"] = per_s
    figures.conditions |= {"verify_events": head, "verify_rounds": rounds}


# Memory


def memory(stage: Stage, figures: Figures) -> None:
    """Resident memory of a fresh API process after transfers all over a zone of many wallets."""
    zone, wallets = "many", stage.scale.streams // (5 if stage.late(0.85) else 1)
    stage.say(f"Memory: opening {wallets} wallets.")
    found_zone(stage, zone, wallets)
    if "transfer" in stage.running:
        stage.running.pop("transfer").stop()
    api = stage.start_fogbook().ready()
    stage.say("Memory: transfers between all of them.")
    terms = {"zone": zone, "wallets": wallets, "pairs": max(8_192, min(wallets, 200_000))}
    result = stage.load.run(stage.round(api, seconds=stage.scale.memory_s, **terms))
    figures.memory_mib = round(rss_mib(api.pid), 1)
    figures.conditions |= {"memory_streams": wallets, "memory_transfers": result.count}
    figures.per_s["transfer_over_all_streams"] = round(result.per_s, 1)


PARTS: dict[str, Callable[[Stage, Figures], None]] = {
    "transfer": transfer,
    "append": append,
    "lag": lag,
    "mixed": mixed,
    "rebuild": rebuild_ledger,
    "verify": verify_logs,
    "as_of": as_of,
    # Last, since what its peer writes has no leaf hashes, and no proof would hold in its zone.
    "hashing": hashing,
    "memory": memory,
}


def run_parts(stage: Stage, figures: Figures, names: list[str]) -> None:
    """Run the parts, in their order."""
    if {"transfer", "lag", "mixed", "hashing", "rebuild", "verify"} & set(names):
        if "transfer" in names:
            start_apps(stage)
        elif {"lag", "mixed", "hashing"} & set(names):
            stage.start_fogbook()
        stage.say(f"Opening {stage.scale.wallets} wallets.")
        found_zone(stage, ZONE, stage.scale.wallets)
    try:
        for name, part in PARTS.items():
            if name in names:
                begun = time.monotonic()
                part(stage, figures)
                figures.conditions[f"{name}_took_s"] = round(time.monotonic() - begun, 1)
    except LoadFailed as error:
        raise BenchFailed(f"A request failed, so nothing here means anything: {error}") from error
    finally:
        stage.say("Stopping.")
