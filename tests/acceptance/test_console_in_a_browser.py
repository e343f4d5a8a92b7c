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
from playwright.sync_api import Browser, BrowserContext, Page, Route, ViewportSize, expect, sync_playwright

from domain.ledger import MintTokens, OpenWallet, Transfer
from ops.access import create_key
from ops.servers import Servers
from queries._console._pages import load_pages
from queries._console._panels import PAGES
from queries.api import load_queries, make_app
from tests.conftest import PEPPER, Database
from tests.history import history
from tests.integration.test_as_of import archive
from tests.living import _send, go_on, made, sign, write_log
from tests.running import served

STEPS = 260
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FOUND = next((path for name in BROWSERS if (path := shutil.which(name))), None)
PATIENCE_MS = 60_000
COMPLAINTS: list[str] = []
"""What the pages of the test that runs complained of."""
SMALL: ViewportSize = {"width": 360, "height": 780}
LARGE: ViewportSize = {"width": 1280, "height": 900}
HARD = {"FOGBOOK_NEEDS_BROWSER"} & set(os.environ)

pytestmark = pytest.mark.skipif(not FOUND and not HARD, reason="no Chromium is installed (make tools)")


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


def auditor(database: Database) -> str:
    """A key of Olga's."""
    with database.connect() as connection:
        return create_key(connection, PEPPER.encode(), principal="olga", role="auditor", zones=("*",)).key


@pytest.fixture
def context(browser: Browser, address: str, lived: Database) -> Iterator[BrowserContext]:
    """Olga, an auditor, is signed in; whatever a page complains of fails the test."""
    key = auditor(lived)
    context = browser.new_context(
        base_url=address, viewport=LARGE, color_scheme="light", reduced_motion="reduce"
    )
    context.set_default_timeout(PATIENCE_MS)
    COMPLAINTS.clear()
    context.on("weberror", lambda error: COMPLAINTS.append(str(error.error)))
    context.on(
        "console", lambda said: COMPLAINTS.append(said.text) if said.type in ("error", "warning") else None
    )
    page = context.new_page()
    page.goto("/")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.close()
    yield context
    context.close()
    assert COMPLAINTS == []


def looked_at(context: BrowserContext, path: str) -> Page:
    page = context.new_page()
    page.goto(path)
    return page


CONTRAST = """() => {
  const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = parse(getComputedStyle(each).backgroundColor);
      if (color[3] === 1) return color;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
  };
  const found = new Map(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility() || element.closest("svg, .skip")) continue;
    const style = getComputedStyle(element);
    const pair = [light(parse(style.color)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05), size = parseFloat(style.fontSize);
    const least = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    if (ratio < least) found.set(`${element.tagName}.${element.className} ${style.color}`, ratio.toFixed(2));
  }
  return Object.fromEntries(found);
}"""
"""Texts whose contrast with what is behind them is less than WCAG 2.2 AA asks for, by the styles in effect."""

UNNAMED = """() => [
  ...[...document.querySelectorAll("input:not([type=hidden]), select, textarea")]
    .filter((e) => !e.labels?.length && !e.ariaLabel),
  ...[...document.querySelectorAll("a, button")]
    .filter((e) => !(e.textContent.trim() || e.ariaLabel || e.querySelector("img[alt]"))),
  ...document.querySelectorAll("th:not([scope])"),
  ...[...document.querySelectorAll("table")].filter((e) => !e.querySelector("th") && !e.closest(".u-legend, .uplot")),
  ...[...document.querySelectorAll("[id]")].filter((e) => document.querySelectorAll(`#${CSS.escape(e.id)}`).length > 1),
].filter((e) => !e.closest(".uplot")).map((e) => e.outerHTML.slice(0, 120))"""
"""What a reader who does not see the page would not find the name of, and names that are there twice."""

load_queries()
load_pages()
OPENED = {page.path: page for page in PAGES.values() if page.in_menu}
ALSO = [
    "/console/history",
    "/console/event?position=30",
    "/console/stream?stream=wallet:ana",
    "/console/correlation?id=c4",
    "/console/explain?table=ledger_balances&key=wallet:ana|FOG",
    "/console/account?account=wallet:ana",
    "/console/staking?as_of=999999999",
]


def overflow(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.mark.parametrize("path", [*OPENED, *ALSO])
def test_every_screen_opens_for_everybody(context: BrowserContext, path: str) -> None:
    """With its panels and pictures, on a desk and a telephone, in both themes, named for those who do not see it."""
    page = looked_at(context, path)
    expect(page.locator("h1")).to_be_visible()
    for panel in OPENED[path].panels if path in OPENED else ():
        expect(page.locator(f"#{panel.id} h2").first).to_be_visible()
    for figure in page.locator("figure.chart").all():
        expect(figure.locator("canvas")).to_be_visible()
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate(CONTRAST) == {}
    assert overflow(page) <= 0, "the page scrolls sideways"
    page.get_by_role("button", name="Light or dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert page.evaluate(CONTRAST) == {}
    page.set_viewport_size(SMALL)
    assert overflow(page) <= 0, "a telephone scrolls the page sideways"


@pytest.mark.parametrize("path", ["/", "/console/accounts", "/console/staking"])
def test_the_figures_on_the_screen_are_the_queries(
    context: BrowserContext, path: str, lived: Database
) -> None:
    page = looked_at(context, path)
    headers = {"authorization": f"Bearer {auditor(lived)}"}
    shown = 0
    for panel in OPENED[path].panels:
        if panel.template not in ("table.html", "figures.html") or panel.id == "pace":
            continue
        asked: dict[str, str | float | bool] = {**panel.fixed, "limit": str(panel.limit)}
        items = context.request.get(panel.path, params=asked, headers=headers).json()["items"]
        told = [str(item[c.name]) for item in items for c in panel.shown if c.kind == "amount"]
        cells = page.locator(f"#{panel.id} :is(td.amount, dd) data[title*=' smallest units of ']")
        values = cells.evaluate_all("all => all.map((each) => each.value)")
        assert values == [value for value in told if value != "None"], panel.id
        shown += len(values)
    assert shown > 0


def test_everything_is_reached_by_keyboard(context: BrowserContext) -> None:
    page = looked_at(context, "/console/accounts")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    outlined = "getComputedStyle(document.activeElement).outlineStyle"
    for _ in range(14):
        page.keyboard.press("Tab")
        assert page.evaluate(outlined) != "none", page.evaluate("document.activeElement.outerHTML")
    heading = page.locator("#holders button.sort").nth(1)
    heading.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#holders th").nth(1)).to_have_attribute("aria-sort", "ascending")
    page.locator("body").click(position={"x": 2, "y": 400})
    page.keyboard.press("g")
    page.keyboard.press("m")
    expect(page.get_by_role("heading", name="Market", level=1)).to_be_visible()


def test_motion_is_left_out_for_who_does_not_want_it(context: BrowserContext) -> None:
    page = context.new_page()
    page.emulate_media(reduced_motion="reduce")
    page.goto("/console/accounts")
    durations = "[...document.querySelectorAll('*')].map((e) => getComputedStyle(e).transitionDuration)"
    assert set(page.evaluate(durations)) == {"0s"}


def test_rows_are_found_and_the_find_outlives_a_renewal(context: BrowserContext, lived: Database) -> None:
    page = looked_at(context, "/console/accounts")
    page.locator("#accounts input.find").fill("wallet:ana")
    rows = page.locator("#accounts tbody tr:visible")
    assert {"wallet:ana" in text for text in rows.all_inner_texts()} == {True}
    page.locator("h1").click()
    aside(go_on, lived, "una")
    before = page.locator("#accounts footer a").first.inner_text()
    aside(sign, lived)
    expect(page.locator("#accounts footer a").first).not_to_have_text(before)
    expect(page.locator("#accounts input.find")).to_have_value("wallet:ana")
    assert {"wallet:ana" in text for text in rows.all_inner_texts()} == {True}


def test_the_explorer_shows_what_happens(context: BrowserContext, lived: Database) -> None:
    page = looked_at(context, "/console/history")
    newest = page.locator("#events tr").first.locator("td").first
    before = int(newest.inner_text())
    aside(go_on, lived, "ida")
    expect(newest).not_to_have_text(str(before))
    assert int(newest.inner_text()) > before


def test_a_session_that_is_over_is_said_and_led_back(context: BrowserContext) -> None:
    page = context.new_page()
    # It is followed before its session ends, or it would be led away at once.
    with page.expect_response("**/console/live/accounts*"):
        page.goto("/console/accounts")
    (cookie,) = context.cookies()
    context.add_cookies([{**cookie, "value": cookie["value"][:-8] + "AAAAAAAA"}])  # type: ignore[typeddict-item]
    page.locator("#accounts details.sift summary").click()
    page.locator("#accounts input[name=asset]").fill("FOG")
    page.locator("#accounts input[name=asset]").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Your session is over")
    assert page.locator("input[name=then]").get_attribute("value") == "/console/accounts"
    COMPLAINTS.clear()  # Browsers tell of each answer 401 themselves.


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
    page.locator("#accounts details.sift summary").click()
    page.locator("#accounts input[name=asset]").fill("NONE")
    page.locator("#accounts input[name=asset]").press("Enter")
    expect(page.locator("#accounts")).to_contain_text("Nothing fits the filter.")
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
