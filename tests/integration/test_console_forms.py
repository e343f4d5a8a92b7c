"""The console's forms: operators hold, rebuild and repair read models from a page; everybody else is told in words."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from ops.app import make_app
from ops.status import read_status
from queries.api import make_app as make_queries
from tests.acceptance.api import Village, environment, village
from tests.conftest import Database
from tests.living import follow
from workers._broker import Wakes

HERE = {"sec-fetch-site": "same-origin", "hx-request": "true"}
PAUSE = "/console/act/operations/pause-projection"
LEDGER = {"projection": "ledger", "reason": "to look at it"}

Test = Callable[[Village, httpx.AsyncClient], Awaitable[None]]


@asynccontextmanager
async def signed_in(v: Village, key: str) -> AsyncIterator[httpx.AsyncClient]:
    transport = v.http._transport
    async with httpx.AsyncClient(transport=transport, base_url="http://fogbook") as http:
        answered = await http.post("/console/sign-in", data={"key": key, "then": "/"}, headers=HERE)
        assert answered.status_code == 303
        yield http


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, database: Database, redis_url: str) -> Callable[[Test], None]:
    environment(monkeypatch, database, redis_url)

    def runner(test: Test) -> None:
        async def whole() -> None:
            async with village(database, make_app) as v:
                await asyncio.to_thread(follow, database)
                async with signed_in(v, v.admin.key) as http:
                    await test(v, http)

        asyncio.run(whole())

    return runner


def token_of(text: str) -> str:
    found = re.search(r'name="token" value="([^"]+)"', text)
    assert found is not None
    return found[1]


async def send(http: httpx.AsyncClient, path: str, **form: Any) -> httpx.Response:
    page = await http.get("/console/operations")
    return await http.post(path, data={"token": token_of(page.text)} | form, headers=HERE)


def test_an_operator_holds_a_read_model_from_the_page(run: Callable[[Test], None]) -> None:
    async def test(v: Village, http: httpx.AsyncClient) -> None:
        page = await http.get("/console/operations")
        assert 'action="/console/act/operations/pause-projection"' in page.text
        form = {"token": token_of(page.text), **LEDGER}
        first = await http.post(PAUSE, data=form, headers=HERE)
        assert first.status_code == 200
        assert "Recorded as command" in first.text
        assert "ProjectionPaused" in first.text
        counts = v.counts()
        again = await http.post(PAUSE, data=form, headers=HERE)
        assert "Recorded as command" in again.text, "the same form is the same command"
        assert v.counts() == counts
        assert token_of(first.text) != form["token"], "the next form is another command"
        later = await http.post(PAUSE, data=form | {"token": token_of(first.text)}, headers=HERE)
        assert "Nothing changed" in later.text
        await asyncio.to_thread(follow, v.database)
        state = await v.auditor.http.get(
            "/history/streams/projection:ledger", headers=v.auditor.headers(accept="application/json")
        )
        assert '"by":"admin"' in state.text.replace(" ", "")
        shown = await http.get("/console/panel/operations/projections", headers={"hx-request": "true"})
        assert "to look at it" in shown.text
        ready = (await v.http.get("/readyz")).json()
        assert [lag["projection"] for lag in ready["lags"] if lag.get("paused")] == ["ledger"]
        with v.database.connect() as connection:
            status = read_status(connection)["projections"]
        assert [each["projection"] for each in status if each["paused"]] == ["ledger"]

    run(test)


@pytest.mark.parametrize(
    ("path", "form", "words"),
    [
        ("pause-projection", LEDGER | {"projection": "nothing"}, "There is no such read model."),
        ("pause-projection", LEDGER | {"projection": "operations"}, "can lack no event"),
        ("pause-projection", LEDGER | {"projection": "No id!"}, "projection: "),
        ("pause-projection", LEDGER | {"reason": ""}, "says why"),
        ("discard-quarantined", LEDGER | {"position": "twelve"}, "position: "),
        ("discard-quarantined", LEDGER | {"position": "9" * 30}, "position: "),
        ("cancel-rebuild", LEDGER | {"act": "c99"}, "Nothing of the kind was asked for"),
    ],
)
def test_what_is_wrong_with_a_form_is_said_in_words(
    run: Callable[[Test], None], path: str, form: dict[str, str], words: str
) -> None:
    async def test(v: Village, http: httpx.AsyncClient) -> None:
        answered = await send(http, f"/console/act/operations/{path}", **form)
        assert words in answered.text
        assert 'role="alert"' in answered.text

    run(test)


def test_what_was_typed_is_text(run: Callable[[Test], None]) -> None:
    async def test(v: Village, http: httpx.AsyncClient) -> None:
        typed = "<script>alert(1)</script>"
        await send(http, PAUSE, projection="ledger", reason=typed)
        await asyncio.to_thread(follow, v.database)
        page = await http.get("/console/operations")
        assert typed not in page.text
        assert "&lt;script&gt;alert(1)" in page.text

    run(test)


@pytest.mark.parametrize("headers", [{}, {"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}])
def test_a_form_from_elsewhere_changes_nothing(run: Callable[[Test], None], headers: dict[str, str]) -> None:
    async def test(v: Village, http: httpx.AsyncClient) -> None:
        before = v.counts()
        answered = await http.post(PAUSE, data={"token": "x", **LEDGER}, headers=headers)
        assert answered.status_code == 403
        assert v.counts() == before

    run(test)


def test_others_see_words_instead_of_forms_and_are_refused(run: Callable[[Test], None]) -> None:
    async def test(v: Village, admin: httpx.AsyncClient) -> None:
        async with signed_in(v, v.auditor.key) as http:
            page = await http.get("/console/operations")
            assert "/console/act/" not in page.text
            assert "role is auditor" in page.text
            answered = await http.post(PAUSE, data={"token": "x", **LEDGER}, headers=HERE)
            assert "role does not allow this" in answered.text
        past = await admin.get("/console/operations", params={"as_of": "1"})
        assert "/console/act/" not in past.text
        assert "You look at the past" in past.text

    run(test)


def test_without_script_the_outcome_is_a_page(run: Callable[[Test], None]) -> None:
    async def test(v: Village, http: httpx.AsyncClient) -> None:
        headers = {"sec-fetch-site": "same-origin"}
        answered = await http.post(PAUSE, data={"token": "x", **LEDGER}, headers=headers)
        assert "<h1>Pause projection</h1>" in answered.text
        assert "Recorded as command" in answered.text

    run(test)


def test_a_console_that_runs_apart_says_where_commands_are_not_sent(
    monkeypatch: pytest.MonkeyPatch, database: Database, redis_url: str
) -> None:
    environment(monkeypatch, database, redis_url)

    async def told(key: str) -> str:
        app = make_queries()
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://fogbook") as http:
                begun = await http.post("/console/sign-in", data={"key": key, "then": "/"}, headers=HERE)
                assert begun.status_code == 303, begun.text
                answered = await http.post(PAUSE, data={"token": "x", **LEDGER}, headers=HERE)
                return answered.text

    async def whole() -> None:
        async with village(database, make_app) as v:
            key = v.admin.key
        await asyncio.to_thread(follow, database)
        assert "FOGBOOK_API_URL is not set" in await told(key)
        monkeypatch.setenv("FOGBOOK_API_URL", "http://127.0.0.1:9")
        assert "The command API does not answer" in await told(key)

    asyncio.run(whole())


def test_keys_settings_and_parameters_are_shown_without_secrets(run: Callable[[Test], None]) -> None:
    async def test(v: Village, http: httpx.AsyncClient) -> None:
        page = await http.get("/console/operations")
        assert "act-as" in page.text
        for caller in (v.admin, v.ana, v.auditor):
            assert caller.key not in page.text
            assert caller.key.split("_", 2)[2] not in page.text
        set_up = await http.get("/console/configuration")
        for shown in ("FOGBOOK_PEPPER", "********", "early exit penalty", "FOGBOOK_ARCHIVE"):
            assert shown in set_up.text.replace("early_exit", "early exit").replace(
                "exit_penalty", "exit penalty"
            )
        assert "not-a-secret" not in set_up.text

    run(test)


def test_workers_that_are_there_and_their_queue_are_shown(
    run: Callable[[Test], None], redis_url: str
) -> None:
    wakes = Wakes(redis_url)
    wakes.beat("here:17", 1_000.0, ["main", "alps"])

    async def test(v: Village, http: httpx.AsyncClient) -> None:
        asked = await v.http.get("/queries/operations/workers", headers=v.admin.headers())
        found = {item["worker"]: item for item in asked.json()["items"]}["here:17"]
        assert (found["zones"], found["since"]) == (["alps", "main"], "1970-01-01T00:16:40.000000Z")
        (queue,) = (await v.http.get("/queries/operations/queues", headers=v.admin.headers())).json()["items"]
        assert queue["queue"] == "fogbook"
        assert min(queue[name] for name in ("waiting", "delayed", "taken", "dead")) >= 0
        page = await http.get("/console/operations")
        assert "here:17" in page.text

    try:
        run(test)
    finally:
        wakes.close()


def test_what_is_told_comes_page_by_page(run: Callable[[Test], None]) -> None:
    async def test(v: Village, http: httpx.AsyncClient) -> None:
        async def settings(**asked: Any) -> Any:
            answered = await v.http.get(
                "/queries/operations/settings", params=asked, headers=v.admin.headers()
            )
            return answered.json()

        whole = [item["variable"] for item in (await settings(limit=500))["items"]]
        found: list[str] = []
        following: dict[str, str] = {}
        while True:
            page = await settings(limit=20, **following)
            found += [item["variable"] for item in page["items"]]
            if page["next"] is None:
                break
            following = {"after": page["next"]}
        assert found == whole
        assert (await settings(after="nonsense"))["type"] == "/problems/invalid-cursor"
        assert (await settings(as_of="1"))["status"] == 422

    run(test)


def test_without_valkey_the_page_says_so_and_the_rest_stays(
    monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    environment(monkeypatch, database, "redis://127.0.0.1:9")

    async def whole() -> None:
        async with village(database, make_app) as v:
            await asyncio.to_thread(follow, database)
            async with signed_in(v, v.admin.key) as http:
                page = await http.get("/console/operations")
                assert page.text.count("Valkey does not answer.") >= 2
                assert "ledger" in page.text
            refused = await v.http.get("/queries/operations/workers", headers=v.admin.headers())
            assert (refused.status_code, refused.json()["type"]) == (503, "/problems/valkey-gone")

    asyncio.run(whole())
