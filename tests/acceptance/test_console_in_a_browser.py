"""The console in a real browser: every screen opens, what moves is renewed, what was tampered with is red."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from html import escape, unescape
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from domain.ledger import MintTokens, OpenWallet, Transfer
from ops.access import create_key
from ops.servers import Servers
from queries._console._panels import PAGES
from queries.api import make_app
from tests.conftest import PEPPER, Database
from tests.history import history
from tests.integration.test_as_of import archive
from tests.living import _send, go_on, made, sign, write_log
from tests.running import served

STEPS = 260
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FOUND = next((path for name in BROWSERS if (path := shutil.which(name))), None)
PATIENCE_MS = 60_000
HARD = {"FOGBOOK_NEEDS_BROWSER"} & set(os.environ)

pytestmark = pytest.mark.skipif(not FOUND and not HARD, reason="no Chromium is installed (make browser)")


@pytest.fixture(scope="module")
def lived(servers: Servers, _template: str) -> Iterator[Database]:
    with made(servers, f"browser_{os.getpid()}", _template) as database:
        write_log(database, history(steps=STEPS))
        sign(database)
        archive(database)
        yield database


@pytest.fixture(scope="module")
def address(lived: Database) -> Iterator[str]:
    """The read side, served by the test's own process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", lived.url)
        patch.setenv("FOGBOOK_PEPPER", PEPPER)
        with served(make_app()) as url:
            yield url


def aside(function: Callable[..., Any], *arguments: Any) -> Any:
    """Playwright's own loop runs in this thread, so another one runs what needs a loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *arguments).result()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=FOUND, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture
def context(browser: Browser, address: str, lived: Database) -> Iterator[BrowserContext]:
    """Olga, an auditor, is signed in; whatever a page complains of fails the test."""
    with lived.connect() as connection:
        key = create_key(connection, PEPPER.encode(), principal="olga", role="auditor", zones=("*",)).key
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on(
        "console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None
    )
    page = context.new_page()
    page.goto("/")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.close()
    yield context
    context.close()
    assert complaints == []


def looked_at(context: BrowserContext, path: str) -> Page:
    page = context.new_page()
    page.goto(path)
    return page


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if page.in_menu])
def test_every_screen_opens_with_its_panels_and_pictures(context: BrowserContext, name: str) -> None:
    page = looked_at(context, PAGES[name].path)
    for panel in PAGES[name].panels:
        expect(page.locator(f"#{panel.id} h2")).to_be_visible()
    for figure in page.locator("figure.chart").all():
        expect(figure.locator("canvas")).to_be_visible()
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0, "the page scrolls sideways"


def test_a_screen_fits_a_telephone(context: BrowserContext) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto("/console/staking")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_rows_are_sorted_by_their_exact_values(context: BrowserContext) -> None:
    page = looked_at(context, "/console/accounts")
    table = page.locator("#holders table")
    column = "td:nth-child(2) data"
    for order, reverse in (("ascending", False), ("descending", True)):
        table.get_by_role("button", name="posted").click()
        expect(table.locator("th").nth(1)).to_have_attribute("aria-sort", order)
        values = [int(v) for v in table.locator(column).evaluate_all("all => all.map(each => each.value)")]
        assert values == sorted(values, reverse=reverse)
        assert len(set(values)) > 2


def test_a_table_is_filtered_without_the_rest_of_the_page(context: BrowserContext) -> None:
    page = looked_at(context, "/console/accounts")
    page.evaluate("window.still = true")
    page.locator("#accounts input[name=asset]").fill("NONE")
    page.locator("#accounts input[name=asset]").press("Enter")
    expect(page.locator("#accounts")).to_contain_text("There is nothing here.")
    assert page.evaluate("window.still")


def test_what_moves_is_renewed_by_itself(context: BrowserContext, lived: Database) -> None:
    page = looked_at(context, "/console/accounts")
    before = page.locator("#supply td.amount data").first.get_attribute("value")
    aside(go_on, lived, "zoe")
    aside(sign, lived)
    supply = page.locator("#supply td.amount data").first
    expect(supply).not_to_have_attribute("value", str(before))
    with lived.connect() as connection:
        row = connection.execute(
            "SELECT (minted - burned)::text FROM read.ledger_assets JOIN checkpoints USING (zone, generation)"
            " WHERE projection = 'ledger' AND live AND asset = 'FOG'"
        ).fetchone()
    assert row is not None
    expect(supply).to_have_attribute("value", row[0])


def test_an_event_is_proven_in_the_browser_and_a_tampered_one_is_red(
    context: BrowserContext, lived: Database
) -> None:
    page = looked_at(context, "/console/event?position=30")
    proof = page.locator("#proof")
    expect(proof).to_have_attribute("data-verified", "true")
    expect(proof.locator("li.good")).to_have_count(3)
    page.locator("#vkey").fill("nobody+00000000+AAAA")
    expect(proof).to_have_attribute("data-verified", "false")
    with tampered(lived, 30):
        page.reload()
        expect(proof).to_have_attribute("data-verified", "false")
        expect(proof.locator("li.problem").first).to_contain_text("The zone cannot prove it")
    page.reload()
    expect(proof).to_have_attribute("data-verified", "true")


@pytest.mark.parametrize(
    ("altered", "words"),
    [
        ("proof.entry", "not under the checkpoint's root"),
        ("proof.checkpoint", "not under the checkpoint's root"),
        ("data", "not the one that was hashed"),
    ],
)
def test_a_server_that_lies_is_found_out_by_the_page(
    context: BrowserContext, altered: str, words: str
) -> None:
    """What the server says is altered on its way: the page's own script must see it."""
    page = context.new_page()
    page.route("**/console/event?position=31", lambda route: lie(route, altered))
    page.goto("/console/event?position=31")
    expect(page.locator("#proof")).to_have_attribute("data-verified", "false")
    expect(page.locator("#proof")).to_contain_text(words)


def lie(route: Route, altered: str) -> None:
    answer = route.fetch()
    text = answer.text()
    found = re.search(r'data-proof="([^"]*)"', text)
    assert found is not None
    if altered == "data":
        text = re.sub(r'data-data="[^"]*"', 'data-data="{&#34;amount&#34;: &#34;1&#34;}"', text)
    else:
        proof = json.loads(unescape(found[1]))
        if altered == "proof.entry":
            entry = bytearray(b64decode(proof["entry"]))
            entry[-3] ^= 1
            proof["entry"] = b64encode(entry).decode()
        else:
            origin, size, _, *rest = proof["checkpoint"].split("\n")
            proof["checkpoint"] = "\n".join([origin, size, b64encode(bytes(32)).decode(), *rest])
        text = text.replace(found[1], escape(json.dumps(proof)))
    route.fulfill(response=answer, body=text)


@contextmanager
def tampered(database: Database, position: int) -> Iterator[None]:
    """Somebody with the database's password moves an event by a minute."""
    moved = "UPDATE events SET recorded_at = recorded_at + %s * interval '1 minute' WHERE position = %s"
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        connection.execute(moved, (1, position))
        try:
            yield
        finally:
            connection.execute(moved, (-1, position))


def test_a_streams_state_follows_the_slider(context: BrowserContext) -> None:
    page = looked_at(context, "/console/stream?stream=wallet:ana")
    slider = page.get_by_label("Version")
    slider.focus()
    slider.press("Home")
    expect(page.locator("hgroup")).to_contain_text("As of version 1 of")


def test_what_a_user_typed_is_shown_and_never_run(context: BrowserContext, lived: Database) -> None:
    typed = '<img src=x onerror="window.ran = true"><script>window.ran = true</script>'
    say(lived, typed)
    page = looked_at(context, "/console/account?account=wallet:yan")
    expect(page.locator("#statement")).to_contain_text("<script>")
    assert page.evaluate("window.ran") is None


def say(database: Database, memo: str) -> None:
    """A transfer to yan with a memo that somebody typed."""
    commands: list[tuple[Any, str]] = [
        (OpenWallet("wallet:yan"), "yan"),
        (OpenWallet("wallet:xena"), "xena"),
        (MintTokens("wallet:xena", 100, "start", "grant"), "operator"),
        (Transfer("wallet:xena", "wallet:yan", 7, memo=memo), "xena"),
    ]
    outcomes = aside(lambda: asyncio.run(_send(database, *commands)))
    assert outcomes[-1] == 200
    aside(sign, database)
