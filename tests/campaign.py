"""Many harms to many logs, and honest logs beside them: what a run counts, and how it is spread over processes."""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from random import Random

import psycopg
import structlog

from tests import harms
from tests.chronicles import Chronicle, Features, live_through
from tests.conftest import TEMPLATE, Database, _renamed
from tests.tampering import KINDS, Outcome, Registered, all_tables, has_changed, keep_copies, look, try_kind

assert harms

A_LOG = 150
"""Harms that one log is made for."""
SAY_EVERY = 50
RARELY = "the log rewritten"
"""Kinds that cost most, which take part in every third round only."""

_numbers = itertools.count(1)


@dataclass
class Tally:
    applied: Counter[str] = field(default_factory=Counter)
    detected: Counter[str] = field(default_factory=Counter)
    located: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)
    """Kinds that the log at hand had nothing for."""
    honest: int = 0
    events: int = 0
    failures: list[str] = field(default_factory=list)
    false_alarms: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def take(self, other: Tally) -> None:
        for name in ("applied", "detected", "located", "passed_over"):
            getattr(self, name).update(getattr(other, name))
        self.honest += other.honest
        self.events += other.events
        self.failures += other.failures
        self.false_alarms += other.false_alarms
        self.seconds += other.seconds

    def count(self, outcome: Outcome, seed: str) -> None:
        self.applied[outcome.kind] += 1
        self.detected[outcome.kind] += outcome.detected
        self.located[outcome.kind] += outcome.located
        if not (outcome.changed and outcome.detected and outcome.located):
            self.failures.append(
                f"{outcome.kind} ({seed}): changed {outcome.changed}, detected {outcome.detected}, located "
                f"{outcome.located}; expected {outcome.expected}; said {outcome.said}; did {outcome.statements[-2:]}"
            )

    def lines(self) -> Iterator[str]:
        for kind in KINDS:
            counts = (self.applied[kind], self.detected[kind], self.located[kind])
            yield f"{kind:70} {counts[0]:5} done {counts[1]:5} detected {counts[2]:5} located"
        total = [sum(each.values()) for each in (self.applied, self.detected, self.located)]
        yield f"{len(KINDS)} kinds: {total[0]} done, {total[1]} detected, {total[2]} located"
        yield f"{self.honest} honest logs of {self.events} events: {len(self.false_alarms)} false alarms"

    def never_applied(self) -> list[str]:
        return [kind for kind in KINDS if not self.applied[kind]]


@contextmanager
def thrown_away(database_url: str, superuser_url: str) -> Iterator[Database]:
    """A database of its own, which need not outlive a crash."""
    name = f"tampered_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    yield Database(name, _renamed(database_url, name), _renamed(superuser_url, name))
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@dataclass(frozen=True)
class Share:
    """What one process does."""

    database_url: str
    superuser_url: str
    seed: int
    process: int
    mutations: int
    honest: range


def be_honest(share: Share, number: int, tally: Tally) -> None:
    """A log of its own length and features, of which nothing must be said."""
    rng = Random(f"{share.seed}/honest/{number}")
    features, steps = Features.of(rng), rng.randint(0, 50)
    with thrown_away(share.database_url, share.superuser_url) as database:
        chronicle = live_through(database, 1_000 * share.seed + number, steps, features)
        tally.honest += 1
        tally.events += chronicle.position
        check_honest(chronicle, tally, f"honest log {number} of {features}")


def check_honest(chronicle: Chronicle, tally: Tally, what: str) -> None:
    found = look(chronicle, models=True, held=True, deep=True)
    assert found.events >= chronicle.position and found.rows and found.snapshots, "all of it was looked at"
    if found.count:
        tally.false_alarms.append(f"{what}: {[str(each) for each in found.problems[:5]]}")


def rounds(rng: Random, kinds: list[Registered]) -> Iterator[Registered]:
    """All kinds in an order of chance, again and again."""
    for number in itertools.count():
        some = [each for each in kinds if number % 3 == 0 or not each.name.startswith(RARELY)]
        rng.shuffle(some)
        yield from some


def tamper(share: Share, first: int, count: int, kinds: Iterator[Registered], tally: Tally) -> None:
    """Harm a log so many times; it must be honest before, and again behind all of them."""
    name = f"{share.seed}/{share.process}/{first}"
    rng = Random(name)
    features = Features(
        rebuilt=rng.random() < 0.3, quarantined=rng.random() < 0.3, library=rng.random() < 0.3
    )
    with thrown_away(share.database_url, share.superuser_url) as database:
        chronicle = live_through(database, rng.randrange(10**6), rng.randint(15, 60), features)
        check_honest(chronicle, tally, f"before {name}")
        with database.superuser() as connection:
            keep_copies(connection)
            done = 0
            while done < count:
                kind = next(kinds)
                seed = f"{name}/{done}"
                outcome = try_kind(chronicle, connection, kind, Random(seed))
                if outcome is None:
                    tally.passed_over[kind.name] += 1
                    continue
                tally.count(outcome, seed)
                done += 1
                if (first + done) % SAY_EVERY == 0:
                    print(f"process {share.process}: {first + done} of {share.mutations}", flush=True)
            assert not has_changed(connection, {*all_tables()}), "everything was put back"
        check_honest(chronicle, tally, f"behind {name}")


def run_share(share: Share) -> Tally:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    tally, began = Tally(), time.monotonic()
    kinds = rounds(Random(f"{share.seed}/{share.process}"), [*KINDS.values()])
    for first in range(0, share.mutations, A_LOG):
        tamper(share, first, min(A_LOG, share.mutations - first), kinds, tally)
        for failure in tally.failures + tally.false_alarms:
            print(failure, flush=True)
    for number in share.honest:
        be_honest(share, number, tally)
        print(f"process {share.process}: {tally.honest} honest logs", flush=True)
    tally.seconds = time.monotonic() - began
    return tally


def run(
    database_url: str, superuser_url: str, seed: int, mutations: int, honest: int, processes: int
) -> Tally:
    tally = Tally()
    shares = [
        Share(
            database_url,
            superuser_url,
            seed,
            process,
            mutations * (process + 1) // processes - mutations * process // processes,
            range(process, honest, processes),
        )
        for process in range(processes)
    ]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for each in pool.map(run_share, shares):
            tally.take(each)
    return tally
