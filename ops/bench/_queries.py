"""Queries over HTTP against an endpoint that is written by hand on the same tables, at rest and beside writes.

Both have the same server, the same API keys and as many connections to the database. Items are compared first: they
have to be the same.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from ops.access import create_key
from ops.bench._figures import Figures
from ops.bench._lag import following
from ops.bench._load import LoadProcess
from ops.bench._measure import median_ratio
from ops.bench._requests import wallet
from ops.bench._rounds import Side, note, take_turns
from ops.bench._stage import CLI, PEPPER, ZONE, App, BenchFailed, Stage, grow
from projections._engine import all_projections
from projections._rebuild import rebuild

POINT = "/queries/ledger/balance?account={}"
PAGE = "/queries/ledger/statement?account={}&limit=50"
FIRST = "/queries/ledger/statement?account={}&limit=1"
"""What the page with a cursor comes behind."""
ANALYTICS = "/queries/analytics/wealth?asset=FOG"
WRITES = 200.0
"""Transfers a second, beside the queries."""
MOST_ASKED = 200
"""Wallets that are asked about."""
READS = "reads of one snapshot"

Gets = list[tuple[int, str, str]]


@dataclass(frozen=True)
class Asking:
    """An application, and what is asked of it, by kind."""

    app: App
    gets: dict[str, Gets]


def queries(stage: Stage, figures: Figures) -> None:
    """A point, a page, the page behind a cursor and an aggregate, by both; and 304s."""
    stage.main_zone()
    stage.say("Making history for queries.")
    head = grow(stage, ZONE, stage.scale.events, 0.5)
    rebuild(stage.connect, ZONE, all_projections()["ledger"])
    with stage.superuser() as connection:
        connection.execute("ANALYZE")
    with stage.connect() as connection:
        key = create_key(connection, PEPPER.encode(), principal="admin", role="operator", zones=("*",)).key
    keys = [*stage.keys, key]
    argv = [*CLI, "serve", "queries", "--home", str(stage.folder / "fogbook"), "--port"]
    apps = [
        stage.start("queries", argv, {}),
        stage.start_peer("handwritten", "ops.bench.peers.queries_app:app"),
    ]
    ours, theirs = (_asking(stage, app.ready(), keys) for app in apps)
    # Neighbours are those that are compared: the 304s come right before the pages, and those before the other's.
    sides = {"query_304": _side(stage, ours.app, keys, _known(ours, keys), status=304)}
    sides |= _sides(stage, ours, theirs, keys, ("page", "point", "next_page", "analytics"))
    take_turns(stage, sides, stage.scale.command_rounds, "Queries over HTTP")
    _compared(figures, sides)
    figures.ratios["query_304_vs_200"] = median_ratio(sides["query_304"].rates, sides["query_page"].rates)
    with following(stage), _writing(stage):
        beside = _sides(stage, ours, theirs, keys, ("point", "page"), "_beside_writes")
        take_turns(stage, beside, stage.scale.command_rounds, "Queries beside writes")
    _compared(figures, beside)
    figures.conditions |= {
        "query_events": head,
        "query_rounds": len(sides["query_point"].rounds),
        "query_writes_per_s": WRITES,
        "query_workers": "while beside writes",
    }
    for app in apps:
        app.stop()


def _asking(stage: Stage, app: App, keys: list[str]) -> Asking:
    """What is asked, with cursors as the application gives them."""
    asked = range(min(MOST_ASKED, stage.scale.wallets))
    of = [(number % stage.principals, wallet(number, stage.principals)) for number in asked]
    behind: Gets = []
    for by, name in of:
        cursor = _answer(app, keys[by], FIRST.format(name))["next"]
        if cursor is None:
            raise BenchFailed(f"{name} has no second page")
        behind.append((by, f"{PAGE.format(name)}&after={cursor}", ""))
    return Asking(
        app,
        {
            "point": [(by, POINT.format(name), "") for by, name in of],
            "page": [(by, PAGE.format(name), "") for by, name in of],
            "next_page": behind,
            "analytics": [(len(keys) - 1, ANALYTICS, "")],
        },
    )


def _sides(
    stage: Stage, ours: Asking, theirs: Asking, keys: list[str], kinds: tuple[str, ...], when: str = ""
) -> dict[str, Side]:
    sides = {}
    for kind in kinds:
        pairs = list(zip(ours.gets[kind], theirs.gets[kind], strict=True))
        if not when:
            for (by, mine, _), (_, other, _) in pairs[:5]:
                items = [_answer(a.app, keys[by], t)["items"] for a, t in ((ours, mine), (theirs, other))]
                if not items[0] or items[0] != items[1]:
                    raise BenchFailed(f"not the same items: {mine}: {str(items)[:300]}")
        sides[f"query_{kind}{when}"] = _side(stage, ours.app, keys, ours.gets[kind])
        sides[f"query_{kind}{when}_handwritten"] = _side(stage, theirs.app, keys, theirs.gets[kind])
    return sides


def _side(stage: Stage, app: App, keys: list[str], gets: Gets, status: int = 200) -> Side:
    terms = {"keys": keys, "gets": gets, "status": status, "seconds": stage.scale.command_s}
    return Side((app,), terms)


def _known(ours: Asking, keys: list[str]) -> Gets:
    """The pages, with the tag that each principal's have."""
    tags: dict[int, str] = {}
    for by, target, _ in ours.gets["page"]:
        if by not in tags:
            tags[by] = _response(ours.app, keys[by], target).headers["etag"]
    return [(by, target, tags[by]) for by, target, _ in ours.gets["page"]]


def _response(app: App, key: str, target: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    answer = httpx.get(f"http://127.0.0.1:{app.port}{target}", headers=headers, timeout=30, trust_env=False)
    if answer.status_code != 200:
        raise BenchFailed(f"{app.name} does not answer {target}: {answer.text[:300]}")
    return answer


def _answer(app: App, key: str, target: str) -> dict[str, Any]:
    answer: dict[str, Any] = _response(app, key, target).json()
    return answer


def _compared(figures: Figures, sides: dict[str, Side]) -> None:
    for name, side in sides.items():
        note(figures, name, side, READS)
        other = sides.get(f"{name}_handwritten")
        if other is not None:
            figures.ratios[f"{name}_vs_handwritten"] = median_ratio(side.rates, other.rates)


@contextlib.contextmanager
def _writing(stage: Stage) -> Iterator[None]:
    """Transfers on schedule, from a generator of their own, until the end. Raises BenchFailed if one was refused."""
    api, load, ended = stage.fogbook().ready(), LoadProcess(), threading.Event()
    failed: list[Exception] = []

    def write() -> None:
        number = 0
        try:
            while not ended.is_set():
                number += 1
                load.run(stage.round(api, tag=f"beside{number}", seconds=1.0, rate=WRITES))
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=write, name="writes")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        load.close()
    if failed:
        raise BenchFailed(f"transfers beside queries failed: {failed[0]}") from failed[0]
