"""Very many open timers: what a sweep of their worker costs, and how punctual those are that fall due meanwhile."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from commands._deciding import Command
from domain.ledger import PlaceHold, place_hold
from ops.bench._databases import drop, pages, stage_in
from ops.bench._figures import Figures
from ops.bench._history import AT_ONCE, command, make_history, minted, opened, paid_out
from ops.bench._lag import following, lags_at
from ops.bench._mixed import lateness, place_holds
from ops.bench._requests import principal, scattered, wallet
from ops.bench._stage import PEPPER, ZONE, Stage
from projections._engine import all_projections
from projections._rebuild import rebuild
from projections._timers import timers
from workers.timers import DUE, MOST_A_TURN, Timers

WALLETS = 20
NOBODY = "http://127.0.0.1:9"
"""Nothing is due in a sweep that is measured, so nothing is sent."""


def open_timers(stage: Stage, figures: Figures, number: int) -> None:
    """A sweep with none and with very many open ones, in turns; then some fall due every second."""
    most = stage.scale.growth.open_timers
    stages = {}
    for i, count in enumerate((0, most)):
        stage.say(f"Opening {count} timers.")
        own = stages[count] = stage_in(stage, f"timers_{count}", number + i)
        make_history(own.servers.database_url, ZONE, held(count, own.principals))
        for projection in all_projections().values():
            if count or projection is timers:
                rebuild(own.connect, ZONE, projection)
        with own.superuser() as connection:
            connection.execute("VACUUM (ANALYZE)")
    stage.say("Sweeping timers.")
    _sweeps(stage, figures, stages)
    own = stages[most]
    own.start_fogbook("transfer")
    stage.say(f"Timers fall due beside {most} open ones.")
    with following(own) as poller:
        # There was nothing to do so far: the worker may not be up.
        lags_at(own, poller, 100, 0.5, wallets=WALLETS)
        port, seconds = own.fogbook().port, stage.scale.growth.lag_s
        before = poller.seen[-1][1]
        holds = place_holds(own, port, seconds)
        # A hold is placed by two events, and two more let it expire.
        poller.wait_for(before + 4 * int(10 * seconds), seconds + stage.patience_s(20.0))
    late = lateness(own, holds)
    for short in ("p50", "p99"):
        figures.put_growth(f"timers_late_{short}_ms", str(most), late[short])
    for count, each in stages.items():
        drop(stage, each, f"timers_{count}")


def held(count: int, principals: int) -> Iterator[list[Command]]:
    """Wallets with that many holds on them, which expire tomorrow, each at its own time."""
    yield [minted(2 * WALLETS * (count + 1_000))]
    yield [opened(number, principals) for number in range(WALLETS)]
    yield [paid_out([wallet(number, principals) for number in range(WALLETS)], count + 1_000, 0)]
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for first in range(0, count, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, count))
        yield [_held(number, principals, tomorrow + timedelta(milliseconds=number)) for number in numbers]


def _held(number: int, principals: int, until: datetime) -> Command:
    of, payee = number % WALLETS, principal(number + 1, principals)
    body = PlaceHold(f"open-{number}", wallet(of, principals), payee, 1, until)
    shown = {"hold": body.hold, "wallet": body.wallet, "payee": payee, "amount": "1", "expires_at": until}
    by = principal(of, principals)
    return command("place-hold", body, shown, place_hold, by, f"{scattered(number)}-held")


def _sweeps(stage: Stage, figures: Figures, stages: dict[int, Stage]) -> None:
    took: dict[int, list[float]] = {count: [] for count in stages}
    stopping = threading.Event()
    sweepers = {
        count: Timers(own.connect, NOBODY, stage.worker_key, PEPPER.encode(), stopping)
        for count, own in stages.items()
    }
    for number in range(-1, stage.scale.growth.sweeps):
        for count, sweeper in sweepers.items():
            begun = time.perf_counter()
            sweeper.turn()
            if number >= 0:  # The first one connects.
                took[count].append(1000 * (time.perf_counter() - begun))
    stopping.set()
    for sweeper in sweepers.values():
        sweeper.run()  # It closes what it holds.
    for count, own in stages.items():
        figures.put_growth("timers_sweep_ms", str(count), statistics.median(took[count]))
        with own.connect() as connection:
            figures.put_growth(
                "timers_sweep_pages", str(count), pages(connection, DUE, ([], [], MOST_A_TURN))
            )
    for name in ("timers_sweep_ms", "timers_sweep_pages"):
        none, many = figures.growth[name].values()
        figures.growth_ratios[name] = round(many / none, 3)
