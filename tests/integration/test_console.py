"""The console over a whole history: every screen shows what the queries answer, to whom they would, in words."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from ops.access import create_key, revoke_key
from ops.servers import Servers
from ops.settings import Settings
from ops.web import App
from queries._console import _session
from queries._console._panels import PAGES, Page, Panel
from queries._console._render import statics
from queries._console._screens import SCREENS
from queries.api import QueryService, register_all
from tests.conftest import PEPPER, Database
from tests.history import history
from tests.integration.test_as_of import archive
from tests.living import go_on, made, sign, write_log

STEPS = 260
OVER_THE_WIRE = 150 * 1024
"""Bytes of the overview's first load."""
HERE = {"sec-fetch-site": "same-origin"}


class Read(HTMLParser):
    """What a page says, by panel: exact values, texts, links."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.values: defaultdict[str, list[str]] = defaultdict(list)
        self.texts: defaultdict[str, str] = defaultdict(str)
        self.links: list[str] = []
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


Test = Callable[[Served], Awaitable[None]]


@pytest.fixture(scope="module")
def lived(servers: Servers, _template: str) -> Iterator[Database]:
    with made(servers, f"console_{os.getpid()}", _template) as database:
        write_log(database, history(steps=STEPS))
        sign(database)
        archive(database)
        yield database


@pytest.fixture
def run(lived: Database) -> Callable[[Test], None]:
    def runner(test: Test) -> None:
        async def whole() -> None:
            settings = Settings(DATABASE_URL=lived.url, pepper=SecretStr(PEPPER), query_connections=3)
            app, service = App(title="Fogbook queries", version="test"), QueryService()
            register_all(app, service)
            async with service.run(settings):
                await test(Served(lived, app, service))

        asyncio.run(whole())

    return runner


NAMES = [
    *("overview", "market", "harvest", "staking", "settlement", "accounts", "operations"),
    *("validator", "account", "transaction", "contract", "window"),
]
AGEING = {"projections", "checkpoints"}
"""They tell how long ago something was."""
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
    kinds = {"amount", "rate", "number", "flag"}
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
                shown += len(answer["items"])
            assert shown > 0

    run(test)


def test_every_page_and_screen_is_tested_here() -> None:
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
            assert [a for _, a in read.tags if a.get("role") == "alert"]

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
            panel = await reader.http.get("/console/panel/staking/validators", headers={"hx-request": "true"})
            assert (panel.status_code, panel.headers["hx-redirect"]) == (401, "/console/sign-in")

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
            assert (await reader.http.get("/")).status_code == 303
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


# What pages are made of


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
            heard: dict[str, list[bytes]] = {"olga": [], "otto": []}

            async def listen(name: str, reader: Reader) -> None:
                request = reader.http.build_request("GET", f"/console/live/accounts?seen={head}")
                from starlette.requests import Request

                scope = {
                    "type": "http",
                    "method": "GET",
                    "path": "/console/live/accounts",
                    "query_string": f"seen={head}".encode(),
                    "headers": [(k.lower(), v) for k, v in request.headers.raw],
                    "path_params": {"page": "accounts"},
                }
                response = await console.live(Request(scope))
                async for part in response.body_iterator:  # type: ignore[attr-defined]
                    heard[name].append(part)
                    if b"event: supply" in b"".join(heard[name]):
                        return

            listeners = [asyncio.create_task(listen("olga", olga)), asyncio.create_task(listen("otto", otto))]
            await asyncio.sleep(0.05)
            await asyncio.to_thread(go_on, served.database, "zoe")
            await asyncio.to_thread(sign, served.database)
            async with asyncio.timeout(60):
                await asyncio.gather(*listeners)
            assert heard["olga"][1:] == heard["otto"][1:]
            assert set(asked.values()) == {1}, asked
            assert asked["supply"] == 1
            assert not live._listeners
            assert not live._watched

    run(test)
