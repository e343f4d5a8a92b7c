"""What the console answers: pages, their panels alone, exports, live renewal, and what operators want done."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, NamedTuple

from fastapi import Request
from markupsafe import Markup
from starlette.responses import Response, StreamingResponse

from ops.problems import Problem
from ops.web import App
from queries._console._acts import ACTS, TOKEN, Commands, new_token
from queries._console._answers import file_of, form_of, html
from queries._console._ask import Answered
from queries._console._live import Live, Render, TooMany, Watch
from queries._console._notices import Notices
from queries._console._panels import PAGES, Page, Panel
from queries._console._readers import UNAUTHENTICATED, Reader, Readers
from queries._console._render import render
from queries._console._screens import Screen
from queries._console._session import Sessions, check_origin
from queries._console._sign_in import SignIn
from queries._console._tail import Tail
from queries._http import QueryApi
from queries._parameters import whole_number, whole_numbers
from queries._query import SEES_ALL
from queries._sql import MOST_LIMIT
from queries._watch import HEAD

MOST_EXPORTED = 10_000
"""Rows of an export; what is larger is read from the query itself, page by page."""
EXPORT_PAGE = 500
MOST_POSITION = 2**62
AT_ONCE = 6
"""Panels of a page that are asked at the same time."""


class Shown(NamedTuple):
    """A panel's HTML, and the position that it reflects."""

    text: Markup
    position: int
    status: int


class Console:
    """Answers the console's routes. `app` is asked for all that pages show."""

    def __init__(self, app: App, api: QueryApi, sessions: Sessions, live: Live, api_url: str = "") -> None:
        self.readers = Readers(app, api.access, sessions, Notices(api.pool, app.limits))
        self.door = SignIn(app, sessions)
        self._commands = Commands(app, api_url)
        self._live = live

    # Pages

    async def page(self, request: Request, shown: Page) -> Response:
        reader = await self.readers.of(request)
        given = {name: request.query_params[name] for name in shown.asked if name in request.query_params}
        at_once = asyncio.Semaphore(AT_ONCE)

        async def made(panel: Panel) -> tuple[Panel, Shown]:
            async with at_once:
                return panel, await self._panel(reader, shown, panel, given, given)

        panels = await asyncio.gather(*map(made, shown.panels))
        seen = ",".join(str(text.position) for _, text in panels)
        live = "" if reader.view.as_of else f"/console/live/{shown.name}"
        text = render("page.html", reader.view, page=shown, panels=panels, given=given, seen=seen, live=live)
        return html(request, text)

    async def screen(self, request: Request, shown: Screen) -> Response:
        reader = await self.readers.of(request)
        given = {name: request.query_params[name] for name in shown.asked if name in request.query_params}

        async def asked(path: str, **query: str | list[str]) -> Answered:
            return await self.readers.ask(reader, path, query, now=True)

        values = await shown.build(asked, given, reader.view)
        return html(request, render(shown.template, reader.view, page=shown, given=given, **values))

    async def panel(self, request: Request) -> Response:
        """One panel, filtered or another page of it."""
        shown, panel = _named(request)
        reader = await self.readers.of(request)
        given = _given(request, shown, panel)
        after = request.query_params.get("after", "")
        limit = whole_number(request, "limit", panel.limit, MOST_LIMIT) or panel.limit
        query = given | ({"after": after} if after else {}) | {"limit": str(limit)}
        return html(request, (await self._panel(reader, shown, panel, given, query)).text)

    async def _panel(
        self, reader: Reader, shown: Page, panel: Panel, given: dict[str, str], query: dict[str, str]
    ) -> Shown:
        wanted = {
            name: value
            for name, value in query.items()
            if name in {*panel.asked, *panel.filters, "after", "limit"}
        }
        answered = await self.readers.ask(
            reader, panel.path, {"limit": str(panel.limit)} | panel.fixed | wanted
        )
        items = answered.value["items"] if answered.ok else []
        text = render(
            panel.template,
            reader.view,
            page=shown,
            panel=panel,
            items=items,
            problem="" if answered.ok else answered.detail,
            status=answered.status,
            position=answered.headers.get("fogbook-position", ""),
            quarantined=answered.value.get("quarantined", 0) if answered.ok else 0,
            following=answered.value.get("next") if answered.ok else None,
            given=given,
            limit=query.get("limit", ""),
            continued="after" in wanted,
            explained=reader.caller.role in SEES_ALL,
            data=panel.data(panel, items) if panel.data and items else None,
        )
        position = int(answered.headers.get("fogbook-position", 0))
        return Shown(Markup(text), position, answered.status)  # noqa: S704 - escaped within

    async def export(self, request: Request) -> Response:
        """All rows of a panel, as CSV or JSON lines."""
        shown, panel = _named(request)
        reader = await self.readers.of(request)
        rows = await self._all_rows(reader, panel, _given(request, shown, panel))
        return file_of(rows, f"{shown.name}-{panel.id}", request.path_params["form"])

    async def export_events(self, request: Request) -> Response:
        """The events that the explorer's filters name, the first of them."""
        reader = await self.readers.of(request)
        filters = {name: request.query_params.get(name, "") for name in ("after", "type", "stream")}
        answered = await self.readers.ask(
            reader,
            "/history/events",
            {name: value for name, value in filters.items() if value} | {"limit": str(MOST_EXPORTED)},
            now=True,
        )
        if not answered.ok:
            raise Problem(answered.status, "not-exported", answered.detail)
        return file_of(answered.lines, "events", request.path_params["form"])

    async def _all_rows(self, reader: Reader, panel: Panel, given: dict[str, str]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        query = panel.fixed | given | {"limit": str(EXPORT_PAGE)}
        while True:
            answered = await self.readers.ask(reader, panel.path, query)
            if not answered.ok:
                raise Problem(answered.status, "not-exported", answered.detail)
            rows += answered.value["items"]
            if answered.value["next"] is None:
                return rows
            if len(rows) >= MOST_EXPORTED:
                raise Problem(
                    422,
                    "export-too-large",
                    "So many rows are read from the query, page by page.",
                    limit=str(MOST_EXPORTED),
                    path=panel.path,
                )
            query["after"] = answered.value["next"]

    async def live(self, request: Request) -> Response:
        """Server-sent events that renew a page's panels. `seen` names the position that the page shows of each, in
        their order, with commas in between; of another number of panels, as an older page has, the least counts."""
        shown = _page(request.path_params["page"])
        reader = await self.readers.of(request)
        given = {name: request.query_params[name] for name in shown.asked if name in request.query_params}
        seen = whole_numbers(request, "seen", MOST_POSITION) or [0]
        if len(seen) != len(shown.panels):
            seen = [min(seen)] * len(shown.panels)
        watches = {}
        for panel, position in zip(shown.panels, seen, strict=True):
            watch = Watch(
                reader.view.zone,
                panel.query.projection,
                panel.id,
                (("page", shown.name), *sorted(given.items())),
                reader.eyes(panel.query),
            )
            watches[watch] = (self._renewed(reader, shown, panel, given), position)
        return await self._followed(request, watches)

    async def tail(self, request: Request) -> Response:
        """Server-sent events: the newest events of the log, those that a filter names."""
        reader = await self.readers.of(request)
        seen = whole_number(request, "seen", 0, MOST_POSITION)
        filters = {name: request.query_params.get(name, "") for name in ("type", "stream")}

        async def asked(path: str, **query: str | list[str]) -> Answered:
            return await self.readers.ask(reader, path, query, now=True)

        tail = Tail(asked, reader.view, seen, {name: value for name, value in filters.items() if value})
        watch = Watch(
            reader.view.zone, HEAD, "events", (*sorted(filters.items()), ("seen", str(seen))), reader.rights
        )
        return await self._followed(request, {watch: (tail.renewed, seen)})

    async def _followed(self, request: Request, watches: dict[Watch, tuple[Render, int]]) -> Response:
        try:
            events = await self._live.follow(watches, partial(self.readers.still_of, request))
        except TooMany:
            raise Problem(
                503, "overloaded", "Too many pages are open already.", headers={"Retry-After": "10"}
            ) from None
        return StreamingResponse(
            events,
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    def _renewed(self, reader: Reader, shown: Page, panel: Panel, given: dict[str, str]) -> Render:
        async def renewed() -> str | None:
            text = await self._panel(reader, shown, panel, given, given)
            return None if text.status == UNAUTHENTICATED else text.text

        return renewed

    # Commands

    async def act(self, request: Request) -> Response:
        """Send what a form says as its reader's command, and say what became of it."""
        check_origin(request)
        reader = await self.readers.of(request)
        act = ACTS.get(request.path_params["name"])
        if act is None:
            raise Problem(404, "not-found", "There is no such form.")
        form = await form_of(request)
        token = form.get(TOKEN, "")
        outcome = await self._commands.send(act, act.body(form), token, reader.headers, reader.origin.client)
        shown = {"token": new_token() if outcome.settled else token, "outcome": outcome}
        if "hx-request" in request.headers:
            return html(request, render("outcome.html", reader.view, **shown))
        text = render("outcome-page.html", reader.view, title=act.title, back="/console/operations", **shown)
        return html(request, text)


def _page(name: str) -> Page:
    found = PAGES.get(name)
    if found is None:
        raise Problem(404, "not-found", "There is no such page.")
    return found


def _named(request: Request) -> tuple[Page, Panel]:
    page = _page(request.path_params["page"])
    panel = page.panel(request.path_params["panel"])
    if panel is None:
        raise Problem(404, "not-found", "The page has no such panel.")
    return page, panel


def _given(request: Request, page: Page, panel: Panel) -> dict[str, str]:
    """What the address says about a panel; empty fields of its form say nothing."""
    known = {*page.asked, *panel.filters}
    return {name: value for name, value in request.query_params.items() if name in known and value}
