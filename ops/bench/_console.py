"""The console beside a long log of all contexts: every panel, five hundred open pages, and the first load.

Each panel's query is asked as the console asks it, without a network, and the panel itself over HTTP. Pages that are
open are server-sent events; commands go on meanwhile, in turns with and without them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx
from pydantic import SecretStr

from ops.access import create_key
from ops.bench._contexts import all_contexts, two_hours
from ops.bench._databases import drop, stage_in
from ops.bench._figures import Figures
from ops.bench._history import make_history
from ops.bench._lag import following
from ops.bench._measure import quantile
from ops.bench._open_pages import open_pages
from ops.bench._stage import CLI, OUT_OF_REACH, PEPPER, ZONE, App, BenchFailed, Stage
from ops.settings import Settings
from ops.waits import AsyncConnection
from ops.web import App as Web
from projections._engine import all_projections
from projections._rebuild import rebuild
from queries._console._ask import ask
from queries._console._panels import PAGES, Page, Panel
from queries.api import QueryService, register_all

NAME = "console"
NUMBER = 9
"""Of its database in Valkey: those of `growth` come before."""
ABOUT = {
    "account": "wallet:p00",
    "validator": "v0",
    "contract": "c0",
    "window": "w0",
}
"""What pages about one thing are asked about; of a transaction, the newest."""
HERE = {"sec-fetch-site": "same-origin"}
RATE = 200.0
"""Transfers a second beside open pages."""
ROUNDS = 12
"""Times as many rounds as other parts take: the p99 of so few commands differs by a fifth from round to round."""
SETTLING = 4
"""Times as long as a side of a round of commands: pages are opened all at once and told everything, once."""
LOOK_S = 0.005
FILE = re.compile(r'(?:src|href)="(/console/static/[^"]+)"')


@dataclass(frozen=True)
class Asked:
    """One panel, and with which parameters its query is asked."""

    page: Page
    panel: Panel
    about: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.page.name}/{self.panel.id}"

    @property
    def query(self) -> dict[str, str]:
        wanted = {name: value for name, value in self.about.items() if name in self.panel.asked}
        return {"limit": str(self.panel.limit)} | self.panel.fixed | wanted

    @property
    def path(self) -> str:
        return f"/console/panel/{self.page.name}/{self.panel.id}?{urlencode(self.about)}"


def console(stage: Stage, figures: Figures) -> None:
    """Milliseconds of each panel, bytes of the overview's first load, and what open pages cost."""
    stage.say("Making a history of all contexts.")
    own = stage_in(stage, NAME, NUMBER)
    events = stage.scale.events
    head = make_history(own.servers.database_url, ZONE, all_contexts(own), two_hours(events), events)
    for name, projection in all_projections().items():
        stage.say(f"Rebuilding {name} over {head} events.")
        rebuild(own.connect, ZONE, projection)
    with own.superuser() as connection:
        connection.execute("VACUUM (ANALYZE)")
        # What was written is over, and its files of the log are there to be used again: to make one anew, 16 MiB of
        # zeros, holds up all who commit, as it seldom does in a server that has run for a while.
        connection.execute("CHECKPOINT")
    with own.connect() as connection:
        key = create_key(connection, PEPPER.encode(), principal="admin", role="operator", zones=("*",)).key
    try:
        asyncio.run(_by_asking(own, figures, key))
        argv = [*CLI, "serve", "queries", "--home", str(own.folder / "fogbook"), "--port"]
        app = own.start("queries", argv, {}).ready()
        with _reader(app, key) as reader:
            _over_http(own, figures, reader)
            _first_load(figures, reader)
            _beside_open_pages(own, figures, app, reader)
        figures.conditions["console_events"] = head
    finally:
        drop(stage, own, NAME)


# Panels


def _panels(transaction: str) -> list[Asked]:
    about = ABOUT | {"transaction": transaction}
    return [
        Asked(page, panel, {name: about[name] for name in page.asked})
        for page in PAGES.values()
        for panel in page.panels
    ]


async def _by_asking(stage: Stage, figures: Figures, key: str) -> None:
    """The queries alone, as the console asks them, and the statements that each sends."""
    terms = {"rate_queries": OUT_OF_REACH, "rate_queries_principal": OUT_OF_REACH}
    urls = {"DATABASE_URL": stage.servers.database_url, "REDIS_URL": stage.servers.redis_url}
    settings = Settings(pepper=SecretStr(PEPPER), **terms, **urls)  # type: ignore[arg-type]
    app, service = Web(title="Fogbook queries", version="bench"), QueryService()
    register_all(app, service)
    headers = {"authorization": f"Bearer {key}", "fogbook-zone": ZONE}
    async with service.run(settings):
        for asked in _panels(_newest_transaction(stage)):
            stage.say(f"Console: the query of {asked.name}.")
            took = []
            for _ in range(stage.scale.panel_asks + 1):
                begun = time.perf_counter()
                answered = await ask(app, asked.panel.path, asked.query, headers)
                took.append(1000 * (time.perf_counter() - begun))
                if not answered.ok and answered.status != 404:
                    raise BenchFailed(f"{asked.name} is not answered: {answered.detail}")
            _note(figures, asked, "query", took)
            with _round_trips() as trips:
                await ask(app, asked.panel.path, asked.query, headers)
            figures.console[asked.name]["round_trips"] = len(trips)


@contextlib.contextmanager
def _round_trips() -> Iterator[list[None]]:
    """One for each time that a connection of this process waits for PostgreSQL."""
    waits: list[None] = []
    waiting = AsyncConnection.wait

    async def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        waits.append(None)
        return await waiting(self, *arguments, **named)

    AsyncConnection.wait = counted  # type: ignore[method-assign]
    try:
        yield waits
    finally:
        AsyncConnection.wait = waiting  # type: ignore[method-assign]


def _over_http(stage: Stage, figures: Figures, reader: httpx.Client) -> None:
    """Panels as the browser gets them, one by one."""
    for asked in _panels(_newest_transaction(stage)):
        stage.say(f"Console: the panel {asked.name}.")
        took = []
        for _ in range(stage.scale.panel_asks + 1):
            begun = time.perf_counter()
            answer = reader.get(asked.path)
            took.append(1000 * (time.perf_counter() - begun))
            if answer.status_code != 200:
                raise BenchFailed(f"{asked.name} is not shown: {answer.status_code}")
        _note(figures, asked, "http", took)


def _note(figures: Figures, asked: Asked, how: str, took_ms: list[float]) -> None:
    """Without the first time, when its statement is prepared."""
    ordered = sorted(took_ms[1:])
    kept = figures.console.setdefault(asked.name, {})
    for short, q in (("p50", 0.5), ("p99", 0.99)):
        kept[f"{how}_{short}_ms"] = round(quantile(ordered, q), 2)


def _newest_transaction(stage: Stage) -> str:
    with stage.connect() as connection:
        row = connection.execute(
            "SELECT transaction FROM read.ledger_statement WHERE zone = %s ORDER BY position DESC LIMIT 1",
            (ZONE,),
        ).fetchone()
    if row is None:
        raise BenchFailed("the history moved nothing")
    return str(row[0])


@contextlib.contextmanager
def _reader(app: App, key: str) -> Iterator[httpx.Client]:
    """Somebody who signed in."""
    with httpx.Client(base_url=f"http://127.0.0.1:{app.port}", timeout=60, trust_env=False) as http:
        answer = http.post("/console/sign-in", data={"key": key, "then": "/"}, headers=HERE)
        if answer.status_code != 303:
            raise BenchFailed(f"nobody can sign in: {answer.status_code}")
        yield http


def _first_load(figures: Figures, reader: httpx.Client) -> None:
    """The overview with all files that it names, as they go over the wire."""
    page = reader.get("/", headers={"accept-encoding": "gzip"})
    answers = [page, *(reader.get(path) for path in dict.fromkeys(FILE.findall(page.text)))]
    if len(answers) == 1 or any(answer.status_code != 200 for answer in answers):
        raise BenchFailed("the overview lacks its files")
    figures.console_pages["first_load_bytes"] = sum(answer.num_bytes_downloaded for answer in answers)


# Open pages


def _beside_open_pages(stage: Stage, figures: Figures, app: App, reader: httpx.Client) -> None:
    """Commands with and without open pages, in turns; a worker follows, so there is news for each page. Without them,
    the process that renews them is stopped: what counts is what pages cost that are open, not their being opened."""
    api, pages = stage.fogbook(), stage.scale.live_pages
    cookies = "; ".join(f"{name}={value}" for name, value in reader.cookies.items())
    beside: dict[bool, list[float]] = {True: [], False: []}
    busiest = 0
    with following(stage), open_pages(app.port, pages, cookies) as opened:
        time.sleep(SETTLING * stage.scale.command_s)
        for number in range(2 * ROUNDS * stage.scale.command_rounds):
            live = (number + number // 2) % 2 == 1  # Neither is always the first.
            stage.say(f"Console: commands beside {pages if live else 0} open pages.")
            # Connections are looked at on both sides: that costs as well.
            with _watched(stage) as watch, contextlib.nullcontext() if live else _stopped(app):
                time.sleep(stage.scale.command_s / 5)
                result = stage.load.run(stage.round(api, seconds=1.5 * stage.scale.command_s, rate=RATE))
            beside[live].append(result.p99_ms)
            busiest = max(busiest, watch.busiest if live else 0)
        renewed = opened.events
    if not renewed:
        raise BenchFailed("no open page heard of anything")
    ratios = [a / b for a, b in zip(beside[True], beside[False], strict=True)]
    figures.console_pages |= {
        "open_pages": pages,
        "events_sent": renewed,
        "connections_used": busiest,
        "command_p99_ms_with": round(statistics.median(beside[True]), 2),
        "command_p99_ms_without": round(statistics.median(beside[False]), 2),
        "command_p99_ratio": round(statistics.median(ratios), 3),
    }


@contextlib.contextmanager
def _stopped(app: App) -> Iterator[None]:
    assert app.child is not None
    app.child.send(signal.SIGSTOP)
    try:
        yield
    finally:
        app.child.send(signal.SIGCONT)


BUSY = """
SELECT count(*) FROM pg_stat_activity
WHERE application_name = 'fogbook queries' AND state <> 'idle' AND datname = current_database()
"""


@dataclass
class Watch:
    busiest: int = 0
    """Connections of the queries that were at work at the same time."""


@contextlib.contextmanager
def _watched(stage: Stage) -> Iterator[Watch]:
    watch, over = Watch(), threading.Event()

    def look() -> None:
        with stage.superuser() as connection:
            while not over.wait(LOOK_S):
                row = connection.execute(BUSY, prepare=True).fetchone()
                watch.busiest = max(watch.busiest, row[0] if row else 0)

    thread = threading.Thread(target=look, name="watch")
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
