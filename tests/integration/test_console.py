"""The console over a whole history: every screen shows what the queries answer, to whom they would, in words."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg
import pytest
from pydantic import SecretStr
from starlette.requests import Request

from ops.access import Caller, create_key, revoke_key
from ops.leases import Rates
from ops.servers import Servers
from ops.settings import Settings
from ops.web import App
from queries._console import _live, _session
from queries._console._export import exported
from queries._console._live import OVER
from queries._console._pages import load_pages
from queries._console._panels import PAGES, Page, Panel
from queries._console._readers import Origin
from queries._console._readers import Reader as SignedIn
from queries._console._render import View, statics
from queries._console._screens import SCREENS
from queries.api import QueryService, load_queries, register_all
from tests.conftest import PEPPER, Database
from tests.history import history
from tests.integration.test_as_of import archive
from tests.living import go_on, made, sign, write_log

STEPS = 260
OVER_THE_WIRE = 150 * 1024
"""Bytes of the overview's first load."""
HERE = {"sec-fetch-site": "same-origin"}
WATCHES = {"accept": "text/event-stream"}
NOBODY = "redis://127.0.0.1:1/0"
"""Where no Valkey answers."""


class Read(HTMLParser):
    """What a page says, by panel: exact values, texts, links."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.values: defaultdict[str, list[str]] = defaultdict(list)
        self.texts: defaultdict[str, str] = defaultdict(str)
        self.links: list[str] = []
        self.places: defaultdict[str, list[str]] = defaultdict(list)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._panel = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append((tag, named))
        if tag == "section":
            self._panel = named.get("id") or ""
        elif tag == "data":
            self.values[self._panel].append(named["value"] or "")
        elif tag == "a":
            self.links.append(named.get("href") or "")
            self.places[self._panel].append(named.get("href") or "")

    def handle_data(self, data: str) -> None:
        self.texts[self._panel] += data


@dataclass
class Reader:
    """Somebody with a browser."""

    http: httpx.AsyncClient
    key: str

    async def sign_in(self) -> httpx.Response:
        return await self.http.post("/console/sign-in", data={"key": self.key, "then": "/"}, headers=HERE)

    async def page(self, path: str, status: int = 200, **parameters: Any) -> Read:
        response = await self.http.get(path, params=parameters)
        assert response.status_code == status, response.text
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["cache-control"] == "private, no-store"
        return Read(response.text)

    async def ask(self, path: str, **parameters: Any) -> Any:
        response = await self.http.get(
            path, params=parameters, headers={"authorization": f"Bearer {self.key}"}
        )
        return response.json()


@dataclass
class Served:
    database: Database
    app: App
    service: QueryService

    @asynccontextmanager
    async def reader(self, principal: str, role: str) -> AsyncIterator[Reader]:
        with self.database.connect() as connection:
            key = create_key(connection, PEPPER.encode(), principal=principal, role=role, zones=("*",)).key
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://fogbook") as http:
            reader = Reader(http, key)
            response = await reader.sign_in()
            assert (response.status_code, response.headers["location"]) == (303, "/")
            yield reader


BULK = """
INSERT INTO read.ledger_balances (zone, generation, account, asset, posted, held, position, incomplete)
SELECT c.zone, c.generation, a.account, 'BULK', n, 0, 1, false
FROM checkpoints c CROSS JOIN generate_series(1, 10500) n
CROSS JOIN LATERAL (SELECT 'wallet:w' || n AS account) a
WHERE c.projection = 'ledger' AND c.live AND c.zone = 'main'
"""

Test = Callable[[Served], Awaitable[None]]


@pytest.fixture(scope="module")
def lived(servers: Servers, _template: str) -> Iterator[Database]:
    with made(servers, f"console_{os.getpid()}", _template) as database:
        write_log(database, history(steps=STEPS))
        sign(database)
        archive(database)
        yield database


@pytest.fixture
def run(lived: Database, redis_url: str) -> Callable[[Test], None]:
    def runner(test: Test) -> None:
        async def whole() -> None:
            settings = Settings(
                DATABASE_URL=lived.url, REDIS_URL=redis_url, pepper=SecretStr(PEPPER), query_connections=3
            )
            app, service = App(title="Fogbook queries", version="test"), QueryService()
            register_all(app, service)
            async with service.run(settings):
                await test(Served(lived, app, service))

        asyncio.run(whole())

    return runner


NAMES = [
    *("overview", "market", "harvest", "staking", "settlement", "accounts", "operations", "configuration"),
    *("validator", "account", "transaction", "contract", "window"),
]
AGEING = {"projections", "checkpoints", "queues", "pace"}
"""They tell how it is at this moment."""
TELLS_OF_THE_MACHINERY = {
    "/queries/operations/" + name for name in ("queues", "workers", "settings", "parameters", "keys")
}
"""Where no row comes from an event."""
EXPLAINED = {
    *(
        "validators",
        "calendar",
        "slashes",
        "accounts",
        "supply",
        "contracts",
        "offerings",
        "lanes",
        "windows",
    ),
    *("obligations", "transfers", "devices", "harvesters", "contributions", "statement", "balance", "holds"),
}
"""Tables whose rows are rows of a read model: each field's event is known."""
CHOSEN = {"account": "wallet:ana"}


async def chosen(reader: Reader, page: Page) -> dict[str, str]:
    """What a page is about: one that the history knows."""
    given = {name: CHOSEN[name] for name in page.asked if name in CHOSEN}
    if "contract" in page.asked:
        contracts = await reader.ask("/queries/marketplace/contracts", limit=1)
        given["contract"] = contracts["items"][0]["contract"]
    if "validator" in page.asked:
        given["validator"] = (await reader.ask("/queries/staking/validators", limit=1))["items"][0][
            "validator"
        ]
    if "transaction" in page.asked:
        statement = await reader.ask("/queries/ledger/statement", account="wallet:ana", limit=1)
        given["transaction"] = statement["items"][0]["transaction"]
    if "window" in page.asked:
        given["window"] = (await reader.ask("/queries/settlement/windows", limit=1))["items"][0]["window"]
    return given


def exact(panel: Panel, items: list[dict[str, Any]]) -> list[str]:
    """The values that a table or figures must show, in their order."""
    kinds = {"amount", "rate", "number", "flag", "hundredths", "seconds", "milliseconds", "microseconds"}
    return [
        str(int(item[c.name]) if c.kind == "flag" else item[c.name])
        for item in items
        for c in panel.shown
        if c.kind in kinds and item[c.name] is not None
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_screens_figures_are_those_of_the_queries(run: Callable[[Test], None], name: str) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            page = PAGES[name]
            given = await chosen(reader, page)
            read = await reader.page(page.path, **given)
            shown = 0
            for panel in page.panels:
                assert "alert" not in [a.get("role") for _, a in read.tags], read.texts[panel.id]
                if panel.template not in ("table.html", "figures.html"):
                    continue
                asked = (
                    panel.fixed
                    | {k: v for k, v in given.items() if k in panel.asked}
                    | {"limit": str(panel.limit)}
                )
                answer = await reader.ask(panel.path, **asked)
                told = exact(panel, answer["items"])
                assert len(read.values[panel.id]) == len(told), panel.id
                assert panel.id in AGEING or read.values[panel.id] == told, panel.id
                assert f"as of position {answer['position']}" in read.texts[panel.id]
                if panel.template == "table.html" and panel.path not in TELLS_OF_THE_MACHINERY:
                    reasons = [link for link in read.places[panel.id] if link.startswith("/console/e")]
                    explained = [link for link in reasons if link.startswith("/console/explain")]
                    assert len(reasons) >= len(answer["items"]), panel.id
                    if panel.id in EXPLAINED and name != "contract":
                        assert len(explained) == len(answer["items"]), panel.id
                shown += len(answer["items"])
            assert shown > 0

    run(test)


def test_every_page_and_screen_is_tested_here() -> None:
    load_queries()
    load_pages()
    assert sorted(PAGES) == sorted(NAMES)
    assert set(SCREENS) == {"history", "event", "stream", "explain", "correlation"}


def test_history_is_shown_as_it_is_stored(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            head = (await reader.ask("/queries/ledger/supply"))["position"]
            newest = await reader.page("/console/history")
            assert f"/console/event?position={head}" in newest.links
            of_type = await reader.page("/console/history", type="Delegated")
            assert {"Delegated"} >= set(re.findall(r"\bDelegated\b|\bDebited\b", of_type.texts[""]))
            event = await reader.page("/console/event", position=30)
            assert "What it says" in event.texts[""]
            assert any(attributes.get("id") == "proof" for _, attributes in event.tags)
            stream = await reader.page("/console/stream", stream="wallet:ana", at="1")
            assert "As of version 1 of" in stream.texts[""]
            row = await reader.page("/console/explain", table="ledger_balances", key="wallet:ana|FOG")
            assert any(link.startswith("/console/event?position=") for link in row.links)
            tree = await reader.page("/console/correlation", id="c4")
            assert any(tag == "svg" for tag, _ in tree.tags)

    run(test)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/console/event?position=999999999", 404, "no event at this position"),
        ("/console/event?position=first", 422, "whole number"),
        ("/console/stream?stream=wallet:nobody", 404, "no such stream"),
        ("/console/explain?table=ledger_balances&key=wallet:nobody|FOG", 404, "no such row"),
        ("/console/correlation?id=", 404, "correlation"),
        ("/console/panel/overview/nothing", 404, "no such panel"),
        ("/console/panel/nothing/economy", 404, "no such page"),
        ("/console/export/staking/validators.xlsx", 404, "csv or ndjson"),
        ("/console/static/nothing.js", 404, "no such file"),
        ("/console/live/nothing", 404, "no such page"),
    ],
)
def test_what_is_not_there_is_said_in_words(
    run: Callable[[Test], None], path: str, status: int, words: str
) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            response = await reader.http.get(path)
            assert response.status_code == status, response.text
            assert words.lower() in response.text.lower()

    run(test)


@pytest.mark.parametrize("moment", ["999999999", "tomorrow"])
def test_a_moment_that_is_not_there_is_said_in_each_panel(run: Callable[[Test], None], moment: str) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            read = await reader.page("/console/staking", as_of=moment)
            alerts = [a for _, a in read.tags if a.get("role") == "alert"]
            assert len(alerts) == len(PAGES["staking"].panels)
            assert f"/console/market?as_of={moment}" in read.links, "one gets on from here"
            history = await reader.http.get("/console/history", params={"as_of": moment})
            assert history.status_code == 422
            assert ("end of the log" in history.text) == moment.isdecimal()

    run(test)


def test_a_page_as_of_a_moment_is_not_renewed(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            live = await reader.page("/console/accounts")
            past = await reader.page("/console/accounts", as_of="20")
            assert [a for _, a in live.tags if "sse-connect" in a]
            assert not [a for _, a in past.tags if "sse-connect" in a]
            assert all("as_of=20" in link for link in past.links if link.startswith("/console/account?"))

    run(test)


# Who looks


def test_without_a_session_one_is_led_to_the_sign_in_and_back(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            reader.http.cookies.clear()
            response = await reader.http.get("/console/staking?zone=main")
            assert response.status_code == 303
            assert response.headers["location"] == "/console/sign-in?then=%2Fconsole%2Fstaking%3Fzone%3Dmain"
            asked = {"hx-request": "true", "hx-current-url": "http://fogbook/console/staking?zone=main"}
            panel = await reader.http.get("/console/panel/staking/validators", headers=asked)
            led_to = response.headers["location"]
            assert (panel.status_code, panel.headers["hx-redirect"]) == (401, led_to)

    run(test)


def test_the_key_is_in_a_sealed_cookie_that_scripts_cannot_read(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            cookie = (await reader.sign_in()).headers["set-cookie"]
            assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
            assert reader.key not in cookie
            name, _, value = cookie.partition(";")[0].partition("=")
            other = "A" if value[30] != "A" else "B"
            reader.http.cookies.clear()
            reader.http.cookies.set(name, value[:30] + other + value[31:])
            assert (await reader.http.get("/")).status_code == 303

    run(test)


def test_a_session_ends_with_its_time_and_with_its_key(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            begun = _session.time.time()
            monkeypatch.setattr(_session.time, "time", lambda: begun + _session.LIFE_S + 1)
            response = await reader.http.get("/")
            assert response.status_code == 303
            asked_again = await reader.http.get(response.headers["location"])
            assert "Your session is over" in asked_again.text
            watching = await reader.http.get("/console/live/overview", headers=WATCHES)
            assert watching.content == OVER
            monkeypatch.undo()
        async with served.reader("olga", "auditor") as reader:
            with served.database.connect() as connection:
                assert revoke_key(connection, reader.key.split("_")[1])
            served.service.running().access._cache.clear()
            assert (await reader.http.get("/")).status_code == 303

    run(test)


@pytest.mark.parametrize("key", ["", "nonsense", "fog_0123456789ab_wrong", "x" * 5_000])
def test_a_wrong_key_is_refused_in_words(run: Callable[[Test], None], key: str) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            response = await reader.http.post("/console/sign-in", data={"key": key}, headers=HERE)
            assert response.status_code == 401
            assert "key" in Read(response.text).texts[""]
            assert "set-cookie" not in response.headers

    run(test)


@pytest.mark.parametrize("headers", [{}, {"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}])
@pytest.mark.parametrize("path", ["/console/sign-in", "/console/sign-out"])
def test_forms_from_elsewhere_are_refused(
    run: Callable[[Test], None], path: str, headers: dict[str, str]
) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            response = await reader.http.post(path, data={"key": reader.key}, headers=headers)
            assert response.status_code == 403

    run(test)


@pytest.mark.parametrize("then", ["//evil.example", "http://evil.example", "/\\evil.example", "evil"])
def test_the_sign_in_leads_to_our_own_pages_only(run: Callable[[Test], None], then: str) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            data = {"key": reader.key, "then": then}
            response = await reader.http.post("/console/sign-in", data=data, headers=HERE)
            assert response.headers["location"] == "/"

    run(test)


def test_a_participant_is_shown_his_own_affairs_and_told_what_is_not_his(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        async with served.reader("ana", "participant") as reader:
            own = await reader.page("/console/account", account="wallet:ana")
            assert own.values["balance"]
            other = await reader.page("/console/account", account="wallet:ben")
            assert not other.values["balance"]
            assert "not yours to see" in other.texts["balance"]
            accounts = await reader.page("/console/accounts")
            assert "role does not allow" in accounts.texts["accounts"]
            assert accounts.values["supply"], "one panel's refusal leaves the others"
            events = await reader.http.get("/console/history")
            assert (events.status_code, "role" in events.text) == (403, True)

    run(test)


def test_a_zone_that_is_not_there_is_said_in_words(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            read = await reader.page("/console/staking", zone="nowhere")
            assert "no such zone" in read.texts["validators"]

    run(test)


# Bad days


def test_a_read_model_that_is_rebuilt_is_said_and_still_shown(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        generation = "SELECT zone, projection, generation + 1, 'next', false FROM checkpoints"
        with served.database.superuser() as connection:
            connection.execute(
                "INSERT INTO checkpoints (zone, projection, generation, code, live)"
                f" {generation} WHERE projection = 'staking' AND live"
            )
            try:
                async with served.reader("olga", "auditor") as reader:
                    read = await reader.page("/console/staking")
            finally:
                connection.execute("DELETE FROM checkpoints WHERE NOT live")
        assert "Being rebuilt: staking." in read.texts[""]
        assert read.values["validators"]

    run(test)


def test_a_read_model_that_has_not_begun_is_said_in_words(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        with served.database.superuser() as connection:
            connection.execute("INSERT INTO heads (zone, clock) VALUES ('young', 'manual')")
            try:
                async with served.reader("olga", "auditor") as reader:
                    read = await reader.page("/console/staking", zone="young")
            finally:
                connection.execute("DELETE FROM heads WHERE zone = 'young'")
        assert "has not started yet" in read.texts["validators"]
        assert "/console/market?zone=young" in read.links

    run(test)


def test_without_valkey_everything_is_shown_and_the_loss_said(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        served.app.limits.rates = Rates(NOBODY)
        async with served.reader("olga", "auditor") as reader:
            read = await reader.page("/console/accounts")
        assert "Valkey does not answer" in read.texts[""]
        assert read.values["supply"]

    run(test)


def test_ten_thousand_rows_are_paged_and_no_more_are_exported(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        with served.database.superuser() as connection:
            connection.execute(BULK)
            try:
                async with served.reader("olga", "auditor") as reader:
                    asked = {"asset": "BULK"}
                    path = "/console/panel/accounts/accounts"
                    page = Read((await reader.http.get(path, params=asked)).text)
                    most = await reader.http.get(path, params=asked | {"limit": "10000"})
                    long = await reader.http.get(path, params={"asset": "A" * 10_000})
                    whole = await reader.http.get("/console/export/accounts/accounts.csv", params=asked)
            finally:
                connection.execute("DELETE FROM read.ledger_balances WHERE asset = 'BULK'")
        assert len([tag for tag, _ in page.tags if tag == "tr"]) == PAGES["accounts"].panels[-1].limit + 1
        assert [a for _, a in page.tags if "after=" in str(a.get("hx-get"))], "there is a next page"
        assert (most.status_code, "from 0 to 500" in most.text) == (422, True)
        assert (long.status_code, 'role="alert"' in long.text) == (200, True)
        assert (whole.status_code, "page by page" in whole.text) == (422, True)

    run(test)


def test_what_a_spreadsheet_would_run_is_exported_as_text() -> None:
    rows = [{"memo": memo} for memo in ("=1+1", "+1", "@x", "-5", "plain")] + [{"memo": ["=1"]}]
    assert exported(rows, "csv").splitlines()[1:] == ["'=1+1", "'+1", "'@x", "-5", "plain", '"[""=1""]"']


# Tables


def test_tables_are_filtered_and_paged_and_exported_whole(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            mine = {"account": "wallet:ana"}
            first = Read(
                (await reader.http.get("/console/panel/account/statement", params=mine | {"limit": 3})).text
            )
            (following,) = [a["hx-get"] for _, a in first.tags if "after=" in str(a.get("hx-get"))]
            second = Read((await reader.http.get(str(following))).text)
            assert second.values[""]
            assert second.values[""] != first.values[""]
            whole = await reader.ask("/queries/ledger/statement", limit=500, **mine)
            assert whole["next"] is None
            for form, heading in (("ndjson", 0), ("csv", 1)):
                exported = await reader.http.get(f"/console/export/account/statement.{form}", params=mine)
                assert len(exported.text.splitlines()) == len(whole["items"]) + heading
            refused = Read(
                (await reader.http.get("/console/panel/accounts/accounts", params={"asset": "what?"})).text
            )
            assert [a for _, a in refused.tags if a.get("role") == "alert"]

    run(test)


def test_events_are_exported_as_the_filters_say(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            asked = {"type": "Delegated"}
            lines = (await reader.http.get("/console/events.ndjson", params=asked)).text.splitlines()
            table = (await reader.http.get("/console/events.csv", params=asked)).text.splitlines()
            with served.database.connect() as connection:
                row = connection.execute("SELECT count(*) FROM events WHERE type = 'Delegated'").fetchone()
            assert row is not None
            assert len(lines) == len(table) - 1 == row[0] > 0

    run(test)


def test_history_ends_at_the_moment_of_the_whole_console(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            at = (await reader.ask("/queries/ledger/supply", as_of="200"))["position"]
            read = await reader.page("/console/history", as_of="200")
            found = [re.match(r"/console/event\?position=(\d+)", link) for link in read.links]
            assert max(int(each[1]) for each in found if each) == at
            assert not [a for _, a in read.tags if "sse-connect" in a]
            stream = await reader.page("/console/stream", stream="wallet:ana", as_of="200")
            now = await reader.page("/console/stream", stream="wallet:ana")
            then, newest = (re.search(r"of (\d+), position", each.texts[""]) for each in (stream, now))
            assert then is not None
            assert newest is not None
            assert int(then[1]) < int(newest[1])
            later = await reader.http.get("/console/event", params={"position": at + 1, "as_of": "200"})
            assert (later.status_code, "came later" in later.text) == (404, True)
            row = {"table": "ledger_balances", "key": "wallet:ana|FOG"}
            explained = await reader.page("/console/explain", **row, as_of="200")
            assert f"as of position {at}" in explained.texts[""]

    run(test)


# How fast it is


def test_pace_and_throughput_count_what_is_recorded(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            items = (await reader.ask("/queries/operations/throughput", size="hour", buckets=24))["items"]
            (pace,) = (await reader.ask("/queries/operations/pace"))["items"]
        with served.database.connect() as connection:
            counted = connection.execute(
                "SELECT to_char(date_trunc('hour', recorded_at, 'UTC') AT TIME ZONE 'UTC',"
                " 'YYYY-MM-DD\"T\"HH24'), count(*), count(*) FILTER (WHERE status <> 200), sum(events)"
                " FROM commands WHERE zone = 'main' GROUP BY 1"
            ).fetchall()
            head = connection.execute("SELECT clock FROM heads WHERE zone = 'main'").fetchone()
        told = {at: (commands, refused, int(events)) for at, commands, refused, events in counted}
        shown = {each["start"][:13]: (each["commands"], each["refused"], each["events"]) for each in items}
        assert len(shown) == 24
        assert {at: told.get(at, (0, 0, 0)) for at in shown} == shown
        assert any(commands for commands, _, _ in shown.values())
        assert head is not None
        assert pace["clock"] == head[0]
        assert pace["commands_hour"] >= pace["commands_minute"] >= pace["refused_minute"]

    run(test)


# What pages are made of


def test_a_panel_takes_one_round_trip_to_the_database(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    execute = psycopg.AsyncCursor.execute

    async def counted(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(str(query))
        return await execute(self, query, *arguments, **options)

    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            for name in ("overview", "market"):
                await reader.page(PAGES[name].path)
                asked.clear()
                monkeypatch.setattr(psycopg.AsyncCursor, "execute", counted)
                await reader.page(PAGES[name].path)
                monkeypatch.undo()
                # Whose key it is is looked up now and then, for all that he asks.
                of_panels = [query for query in asked if "api_keys" not in query]
                assert 0 < len(of_panels) <= len(PAGES[name].panels), asked

    run(test)


def test_the_overviews_first_load_is_small(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            size = 0
            async with reader.http.stream("GET", "/", headers={"accept-encoding": "gzip"}) as response:
                size += len(b"".join([part async for part in response.aiter_raw()]))
            read = await reader.page("/")
            files = {
                str(a.get("href") or a.get("src")) for tag, a in read.tags if tag in ("link", "script", "img")
            }
            for path in files:
                async with reader.http.stream("GET", path, headers={"accept-encoding": "gzip"}) as response:
                    assert "immutable" in response.headers["cache-control"]
                    size += len(b"".join([part async for part in response.aiter_raw()]))
            assert len(files) >= 8
            assert size <= OVER_THE_WIRE

    run(test)


def test_no_file_names_another_host_and_no_page_holds_a_script() -> None:
    for name, (content, *_) in statics().items():
        text = re.sub(r"/\*!.*?\*/|^//.*?$", "", content.decode(), flags=re.S | re.M)
        found = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"')]*", text)) - {
            "http://www.w3.org/2000/svg"
        }
        assert not {each for each in found if each.startswith("http")}, name
    for template in (_session.__file__.replace("_session.py", "templates"),):
        for file in os.scandir(template):
            with open(file.path) as opened:
                assert not re.search(r"<script(?![^>]*\bsrc=)|\bon\w+=|\bstyle=|\|\s*safe", opened.read()), (
                    file.name
                )


def test_a_panel_is_renewed_once_for_all_who_watch_it(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        live = served.service.running_console()._live
        async with served.reader("olga", "auditor") as olga, served.reader("otto", "auditor") as otto:
            head = (await olga.ask("/queries/ledger/supply"))["position"]
            asked: Counter[str] = Counter()
            console = served.service.running_console()
            original = console._panel

            async def counted(*arguments: Any) -> Any:
                asked[arguments[2].id] += 1
                return await original(*arguments)

            console._panel = counted  # type: ignore[method-assign]
            path = f"/console/live/accounts?seen={head}"
            parts: list[list[bytes]] = [[], []]
            listeners = [
                asyncio.create_task(heard(console, reader, path, b"event: supply", said))
                for reader, said in zip((olga, otto), parts, strict=True)
            ]
            await asyncio.sleep(0.05)
            await asyncio.to_thread(go_on, served.database, "zoe")
            await asyncio.to_thread(sign, served.database)
            async with asyncio.timeout(60):
                await asyncio.gather(*listeners)
            # Each is told when it is its turn, so that one may have heard of another panel as well.
            told = [
                dict(re.findall(r"event: (.+)\n((?:data: .*\n)+)", b"".join(said).decode())) for said in parts
            ]
            assert "supply" in told[0].keys() & told[1].keys()
            assert all(told[0][panel] == told[1][panel] for panel in told[0].keys() & told[1].keys())
            assert set(asked.values()) == {1}, asked
            assert asked["supply"] == 1
            assert not live._listeners
            assert not live._watched

    run(test)


def test_a_page_is_told_of_no_panel_that_it_shows_as_it_is(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Panels of one page stand at different positions, as their projections do."""
    monkeypatch.setattr(_live, "LEAST_PAUSE_S", 0.02)

    async def test(served: Served) -> None:
        console = served.service.running_console()
        async with served.reader("olga", "auditor") as reader:
            page = await reader.page("/")
            (address,) = {a["sse-connect"] for _, a in page.tags if "sse-connect" in a}
            shown = parse_qs(urlsplit(str(address)).query)["seen"][0].split(",")
            panels = [panel.id for panel in PAGES["overview"].panels]
            assert len(shown) == len(panels)
            assert "0" not in shown

            async def told(seen: list[str], until: bytes) -> set[str]:
                """Of which panels, up to a word, or in some looks."""
                path = f"/console/live/overview?seen={','.join(seen)}"
                said: list[bytes] = []
                with suppress(TimeoutError):
                    async with asyncio.timeout(1 if until == OVER else 60):
                        await heard(console, reader, path, until, said)
                return set(re.findall(r"^event: (.+)$", b"".join(said).decode(), re.M))

            assert await told(shown, OVER) == set()
            older = [shown[0], str(int(shown[1]) - 1), *shown[2:]]
            assert await told(older, f"event: {panels[1]}".encode()) == {panels[1]}
            another = f"event: {panels[0]}".encode()
            assert await told(["0"], another), "a page of another version, with other panels"

    run(test)


@pytest.mark.parametrize("seen", ["x", "1,", "1,-1", "1,x"])
def test_positions_that_are_none_are_refused(run: Callable[[Test], None], seen: str) -> None:
    async def test(served: Served) -> None:
        async with served.reader("olga", "auditor") as reader:
            answer = await reader.http.get(f"/console/live/overview?seen={seen}")
            assert answer.status_code == 422
            assert "seen is a whole number" in answer.text

    run(test)


async def heard(
    console: Any, reader: Reader, path: str, until: bytes, parts: list[bytes] | None = None
) -> bytes:
    """What an open page hears, up to a word; `parts` has what it heard so far."""
    cookies = [(b"cookie", f"{name}={value}".encode()) for name, value in reader.http.cookies.items()]
    route, _, query = path.partition("?")
    name = route.rpartition("/")[2]
    scope = {
        "type": "http",
        "method": "GET",
        "path": route,
        "query_string": query.encode(),
        "headers": cookies,
        "path_params": {"page": name},
    }
    response = await (console.tail if name == "tail" else console.live)(Request(scope))
    parts = [] if parts is None else parts
    try:
        async for part in response.body_iterator:
            parts.append(part)
            if until in b"".join(parts):
                break
    finally:
        await response.body_iterator.aclose()
    return b"".join(parts)


def test_the_explorer_follows_the_log(run: Callable[[Test], None]) -> None:
    async def test(served: Served) -> None:
        console = served.service.running_console()
        async with served.reader("olga", "auditor") as reader:
            head = (await reader.ask("/queries/ledger/supply"))["position"]
            path = f"/console/tail?seen={head}&type=WalletOpened"
            listening = asyncio.create_task(heard(console, reader, path, b"WalletOpened"))
            await asyncio.sleep(0.05)
            await asyncio.to_thread(go_on, served.database, "tim")
            async with asyncio.timeout(60):
                said = await listening
            assert b"event: events\n" in said
            assert b"stream=wallet%3Atim" in said
            assert b"Credited" not in said, "the filter holds"
            assert not console._live._watched

    run(test)


def test_an_open_page_is_told_when_its_key_is_revoked(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live, "KEEP_ALIVE_S", 0.05)

    async def test(served: Served) -> None:
        console = served.service.running_console()
        async with served.reader("olga", "auditor") as reader:
            listening = asyncio.create_task(heard(console, reader, "/console/live/accounts?seen=0", OVER))
            await asyncio.sleep(0.05)
            with served.database.connect() as connection:
                assert revoke_key(connection, reader.key.split("_")[1])
            served.service.running().access._cache.clear()
            async with asyncio.timeout(60):
                assert OVER in await listening

    run(test)


def test_readers_who_may_see_less_are_not_shown_what_others_are() -> None:
    query = PAGES["staking"].panels[0].query
    callers = [
        Caller("k1", "olga", "auditor", frozenset(), frozenset("*")),
        Caller("k2", "otto", "auditor", frozenset(), frozenset("*")),
        Caller("k3", "otto", "auditor", frozenset({"queries:ledger"}), frozenset("*")),
        Caller("k4", "otto", "auditor", frozenset(), frozenset({"village"})),
        Caller("k5", "otto", "operator", frozenset(), frozenset("*")),
    ]
    session, origin = _session.Session("", 0), Origin("", None)
    olga, otto, *others = (SignedIn(session, caller, View(), origin).eyes(query) for caller in callers)
    assert olga == otto
    assert otto not in others
    assert len(set(others)) == len(others)
