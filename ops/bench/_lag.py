"""From the moment a command's 200 arrives until every live projection is there, through Dramatiq."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from ops._supervise import Child, spawn
from ops.bench._figures import Figures
from ops.bench._load import Result
from ops.bench._measure import spread
from ops.bench._stage import CLI, ZONE, BenchFailed, Stage, tail_of
from projections._engine import all_projections

POLL_S = 0.001


def lag(stage: Stage, figures: Figures) -> None:
    """Transfers come on schedule, at each rate in turns; the checkpoints are polled every millisecond or so."""
    rates = stage.scale.lag_rates
    lags: dict[int, list[float]] = {rate: [] for rate in rates}
    reached: dict[int, list[float]] = {rate: [] for rate in rates}
    with following(stage) as poller:
        for number in range(stage.scale.lag_rounds):
            for rate in rates:
                stage.say(
                    f"Commit-to-visible lag at {rate} commands/s, round {number + 1} of {stage.scale.lag_rounds}."
                )
                found, result = lags_at(stage, poller, rate, stage.scale.lag_s)
                lags[rate] += found
                reached[rate].append(round(result.per_s, 1))
    figures.lag_ms = {str(rate): spread(found) for rate, found in lags.items()}
    figures.conditions["lag_commands_per_s"] = {str(rate): each for rate, each in reached.items()}
    figures.conditions["lag_samples"] = {str(rate): len(found) for rate, found in lags.items()}


class Poller(threading.Thread):
    """Notes when the slowest live projection reached which position."""

    def __init__(self, connection: psycopg.Connection[Any], projections: int, worker: Child) -> None:
        super().__init__(name="poller", daemon=True)
        self.connection = connection
        self.projections = projections
        self.worker = worker
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

    def wait_for(self, position: int, seconds: float) -> None:
        """Raises BenchFailed when it does not come that far in time, or cannot any more."""
        end = time.monotonic() + seconds
        while self.seen[-1][1] < position:
            if time.monotonic() >= end or not self.is_alive() or self.worker.poll() is not None:
                raise BenchFailed(f"projections stand at {self.seen[-1][1]}, not at {position}")
            time.sleep(0.01)


@contextlib.contextmanager
def following(stage: Stage) -> Iterator[Poller]:
    """A worker that has caught up with the zone, and whoever watches it."""
    stage.say("Commit-to-visible lag: waiting until the worker has caught up.")
    api = stage.fogbook().ready()
    log = stage.folder / "worker.log"
    env = stage.environment() | {"FOGBOOK_API_URL": f"http://127.0.0.1:{api.port}"}
    argv = [*CLI, "work", "--home", str(stage.folder / "fogbook")]
    worker = spawn(argv, log=log, env=env, cwd=stage.folder)
    with contextlib.ExitStack() as undo:
        undo.callback(worker.stop, 5)
        poller = Poller(undo.enter_context(stage.connect()), len(all_projections()), worker)
        poller.start()
        undo.callback(poller.join, 5)
        undo.callback(setattr, poller, "stopping", True)
        with stage.connect() as connection:
            row = connection.execute("SELECT position FROM heads WHERE zone = %s", (ZONE,)).fetchone()
        assert row is not None
        try:
            poller.wait_for(row[0], stage.patience_s(12.0))
            yield poller
        except BenchFailed as error:
            raise BenchFailed(f"{error}; the worker says: {tail_of(log)}") from error


def lags_at(
    stage: Stage, poller: Poller, rate: float, seconds: float, **terms: Any
) -> tuple[list[float], Result]:
    """Milliseconds of each command until it was visible, after half a second to warm up."""
    api = stage.fogbook()
    stage.load.run(stage.round(api, seconds=0.5, rate=rate, **terms))
    result = stage.load.run(stage.round(api, seconds=seconds, rate=rate, **terms))
    poller.wait_for(max(position for _, position in result.samples), stage.patience_s(10.0))
    return lags_of(result.samples, poller.seen), result


def lags_of(samples: list[tuple[float, int]], seen: list[tuple[float, int]]) -> list[float]:
    """Milliseconds from each answer until its position was seen; 0 when that came first."""
    lags, at = [], 0
    for answered, position in sorted(samples, key=lambda sample: sample[1]):
        while seen[at][1] < position:
            at += 1
        lags.append(max(0.0, seen[at][0] - answered) * 1000)
    return lags
