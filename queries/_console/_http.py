"""The console's routes: pages, their panels alone, exports, live renewal, sessions, and the files that pages need."""

from __future__ import annotations

import csv
import gzip
import io
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from fastapi import Request
from markupsafe import Markup
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from ops.access import Caller
from ops.problems import Problem
from ops.web import App, body_of, headers_of, to_problem
from queries._console._ask import Answered, ask
from queries._console._live import Live, TooMany, Watch
from queries._console._panels import PAGES, Page, Panel, depends_on_reader, source_of
from queries._console._render import View, render, statics
from queries._console._screens import SCREENS, Screen
from queries._console._session import MOST_KEY, Session, Sessions, comes_from_here
from queries._http import SEES_ALL, QueryApi, whole_number
from queries._sql import MOST_LIMIT

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "private, no-store",
}
MOST_EXPORTED = 10_000
"""Rows of an export; what is larger is read from the query itself, page by page."""
EXPORT_PAGE = 500
MOST_POSITION = 2**62
SCALES_S = 10.0
"""So long the decimal places of a zone's assets are remembered."""
FOR_EVER_S = 31_536_000


class SignedOut(Exception):
    """There is no session, or its key is good no longer."""


class Origin(NamedTuple):
    """Where a reader is, and by which name he came: what is asked for him comes from there."""

    host: str
    client: tuple[str, int] | None

    @classmethod
    def of(cls, request: Request) -> Origin:
        return cls(request.headers.get("host", ""), request.scope.get("client"))


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who is signed in, and the zone and moment that he looks at."""

    session: Session
    caller: Caller
    view: View
    origin: Origin

    @property
    def eyes(self) -> str:
        return "all" if self.caller.role in SEES_ALL else "some"


class Shown(NamedTuple):
    """A panel's HTML, and the position that it reflects."""

    text: Markup
    position: int


class Console:
    """Answers the console's routes. `app` is asked for all that pages show."""

    def __init__(self, app: App, api: QueryApi, sessions: Sessions, live: Live) -> None:
        self._app = app
        self._api = api
        self._sessions = sessions
        self._live = live
        self._scales: dict[str, tuple[float, dict[str, int]]] = {}
        """Of each zone its assets' decimal places, and until when they are taken as known."""

    async def reader(self, request: Request) -> Reader:
        """Raises SignedOut."""
        session = self._sessions.of(request)
        if session is None:
            raise SignedOut
        try:
            caller = await self._api.access.caller(session.authorization)
        except Problem as problem:
            if problem.status != 401:
                raise
            raise SignedOut from None
        zone = request.query_params.get("zone") or _first_zone(caller)
        view = View(zone, request.query_params.get("as_of", ""), caller.principal, caller.role)
        reader = Reader(session, caller, view, Origin.of(request))
        return replace(reader, view=replace(view, scales=await self._scales_of(reader)))

    async def _scales_of(self, reader: Reader) -> dict[str, int]:
        """Assets are rarely defined: whoever looks at a panel does not ask for them each time."""
        until, scales = self._scales.get(reader.view.zone, (0.0, {}))
        if until > time.monotonic():
            return scales
        answered = await self.ask(reader, "/queries/ledger/assets", {"limit": str(MOST_LIMIT)}, now=True)
        if not answered.ok:
            return {}
        scales = {item["asset"]: item["scale"] for item in answered.value["items"]}
        self._scales[reader.view.zone] = (time.monotonic() + SCALES_S, scales)
        return scales

    async def ask(
        self, reader: Reader, path: str, query: Mapping[str, str | list[str]], now: bool = False
    ) -> Answered:
        """A query as of the reader's moment, with his key."""
        view = reader.view
        moment = {"as_of": view.as_of} if view.as_of and not now else {}
        headers = {
            "authorization": reader.session.authorization,
            "fogbook-zone": view.zone,
            "host": reader.origin.host,
        }
        return await ask(self._app, path, {**query, **moment}, headers, reader.origin.client)

    # Pages

    async def page(self, request: Request, shown: Page) -> Response:
        reader = await self.reader(request)
        given = {name: request.query_params[name] for name in shown.asked if name in request.query_params}
        panels = [(panel, await self._panel(reader, shown, panel, given, given)) for panel in shown.panels]
        seen = min(text.position for _, text in panels)
        live = "" if reader.view.as_of else f"/console/live/{shown.name}"
        text = render("page.html", reader.view, page=shown, panels=panels, given=given, seen=seen, live=live)
        return html(request, text)

    async def screen(self, request: Request, shown: Screen) -> Response:
        reader = await self.reader(request)
        given = {name: request.query_params[name] for name in shown.asked if name in request.query_params}

        async def asked(path: str, **query: str | list[str]) -> Answered:
            return await self.ask(reader, path, query, now=True)

        values = await shown.build(asked, given, reader.view)
        return html(request, render(shown.template, reader.view, page=shown, given=given, **values))

    async def panel(self, request: Request) -> Response:
        """One panel, filtered or another page of it."""
        shown, panel = _named(request)
        reader = await self.reader(request)
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
        answered = await self.ask(reader, panel.path, {"limit": str(panel.limit)} | panel.fixed | wanted)
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
            source=source_of(panel.query) if reader.caller.role in SEES_ALL else None,
            data=panel.data(panel, items) if panel.data and items else None,
        )
        return Shown(Markup(text), int(answered.headers.get("fogbook-position", 0)))  # noqa: S704 - escaped within

    async def export(self, request: Request) -> Response:
        """All rows of a panel, as CSV or JSON lines."""
        shown, panel = _named(request)
        reader = await self.reader(request)
        form = request.path_params["form"]
        if form not in ("csv", "ndjson"):
            raise Problem(404, "not-found", "Tables are exported as csv or ndjson.")
        rows = await self._all_rows(reader, panel, _given(request, shown, panel))
        text = (
            _as_csv(rows)
            if form == "csv"
            else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        )
        name = f"{shown.name}-{panel.id}.{form}"
        headers = HEADERS | {"content-disposition": f'attachment; filename="{name}"'}
        return Response(text, 200, headers, "text/csv" if form == "csv" else "application/x-ndjson")

    async def _all_rows(self, reader: Reader, panel: Panel, given: dict[str, str]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        query = panel.fixed | given | {"limit": str(EXPORT_PAGE)}
        while True:
            answered = await self.ask(reader, panel.path, query)
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
        """Server-sent events that renew a page's panels."""
        shown = _page(request.path_params["page"])
        reader = await self.reader(request)
        given = {name: request.query_params[name] for name in shown.asked if name in request.query_params}
        seen = whole_number(request, "seen", 0, MOST_POSITION)
        watches = {}
        for panel in shown.panels:
            eyes = reader.caller.principal if depends_on_reader(panel.query) else reader.eyes
            watch = Watch(
                reader.view.zone,
                panel.query.projection,
                panel.id,
                (("page", shown.name), *sorted(given.items())),
                eyes,
            )
            watches[watch] = (self._renewed(reader, shown, panel, given), seen)
        try:
            events = await self._live.follow(watches)
        except TooMany:
            raise Problem(
                503, "overloaded", "Too many pages are open already.", headers={"Retry-After": "10"}
            ) from None
        return StreamingResponse(
            events,
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    def _renewed(
        self, reader: Reader, shown: Page, panel: Panel, given: dict[str, str]
    ) -> Callable[[], Awaitable[str]]:
        async def renewed() -> str:
            return (await self._panel(reader, shown, panel, given, given)).text

        return renewed

    # Sessions

    async def sign_in(self, request: Request) -> Response:
        """The form, or a session for the key that was typed into it."""
        if request.method == "GET":
            return html(
                request,
                render("sign-in.html", View(), problem="", then=_inside(request.query_params.get("then"))),
            )
        if not comes_from_here(request):
            raise Problem(403, "sent-from-elsewhere", "Forms are taken from the console's own pages only.")
        form = await _form(request)
        key, then = form.get("key", "").strip(), _inside(form.get("then"))
        try:
            await self._check(Origin.of(request), key)
        except Problem as problem:
            return html(
                request,
                render("sign-in.html", View(), problem=problem.body["detail"], then=then),
                problem.status,
            )
        response = RedirectResponse(then, 303, HEADERS)
        self._sessions.begin(response, key, request.url.scheme == "https")
        return response

    async def _check(self, origin: Origin, key: str) -> None:
        """A key is tried as any request tries it, so wrong ones are counted and recorded. Raises Problem."""
        if not key.isascii() or not key.isprintable() or len(key) > MOST_KEY:
            raise Problem(401, "unauthenticated", "This is no key.")
        headers = {"authorization": f"Bearer {key}", "host": origin.host}
        answered = await ask(self._app, "/queries/ledger/assets", {"limit": "1"}, headers, origin.client)
        if answered.status in (401, 421, 429, 503):
            raise Problem(answered.status, "not-signed-in", answered.detail)

    async def sign_out(self, request: Request) -> Response:
        if not comes_from_here(request):
            raise Problem(403, "sent-from-elsewhere", "Forms are taken from the console's own pages only.")
        response = RedirectResponse("/console/sign-in", 303, HEADERS)
        self._sessions.end(response)
        return response


def _first_zone(caller: Caller) -> str:
    return "main" if caller.may_enter("main") else min(caller.zones, default="main")


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


def _inside(path: str | None) -> str:
    """A path of the console to come back to, and never another host."""
    safe = path is not None and path.startswith("/") and not path.startswith("//") and "\\" not in path
    return path if safe and path else "/"


async def _form(request: Request) -> dict[str, str]:
    body = await body_of(request, headers_of(request))
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=50))
    except (ValueError, UnicodeDecodeError):
        raise Problem(400, "malformed-form", "The form cannot be read.") from None


FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _as_csv(rows: list[dict[str, Any]]) -> str:
    """A text that a spreadsheet would take for a formula is quoted: nothing that a user typed is executed."""
    if not rows:
        return ""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([_cell(value) for value in row.values()])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.startswith(FORMULA) and not value.lstrip("-").isdecimal():
        return f"'{value}"
    return value


def html(request: Request, text: str, status: int = 200) -> Response:
    body, headers = text.encode(), dict(HEADERS)
    if "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, 5)
        headers |= {"content-encoding": "gzip", "vary": "Accept-Encoding"}
    return HTMLResponse(body, status, headers)


# Registration

Handle = Callable[[Console, Request], Awaitable[Response]]


def register_console(app: App, console: Callable[[], Console]) -> None:
    def add(path: str, handle: Handle, *methods: str) -> None:
        async def endpoint(request: Request) -> Response:
            return await _guarded(console(), handle, request)

        app.add_api_route(path, endpoint, methods=list(methods or ("GET",)), include_in_schema=False)

    for page in PAGES.values():
        add(page.path, _shows(page))
    for screen in SCREENS.values():
        add(screen.path, _builds(screen))
    add("/console/panel/{page}/{panel}", Console.panel)
    add("/console/export/{page}/{panel}.{form}", Console.export)
    add("/console/live/{page}", Console.live)
    add("/console/sign-in", Console.sign_in, "GET", "POST")
    add("/console/sign-out", Console.sign_out, "POST")
    add("/console/static/{name}", _file)


def _shows(shown: Page) -> Handle:
    async def handle(console: Console, request: Request) -> Response:
        return await console.page(request, shown)

    return handle


def _builds(shown: Screen) -> Handle:
    async def handle(console: Console, request: Request) -> Response:
        return await console.screen(request, shown)

    return handle


async def _guarded(console: Console, handle: Handle, request: Request) -> Response:
    """Whatever goes wrong is a page that says so in words."""
    try:
        return await handle(console, request)
    except SignedOut:
        if "hx-request" in request.headers:
            return Response("", 401, {"hx-redirect": "/console/sign-in"})
        then = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/console/sign-in?{urlencode({'then': then})}", 303, HEADERS)
    except Exception as error:
        problem = to_problem(error)
        template = "problem.html" if "hx-request" not in request.headers else "problem-panel.html"
        return html(
            request,
            render(template, View(), detail=problem.body["detail"], status=problem.status),
            problem.status,
        )


async def _file(console: Console, request: Request) -> Response:
    found = statics().get(request.path_params["name"])
    if found is None:
        raise Problem(404, "not-found", "There is no such file.")
    content, compressed, media_type, tag = found
    # A name that holds the content's hash never means another content.
    kept = f"public, max-age={FOR_EVER_S}, immutable" if request.query_params.get("v") == tag else "no-cache"
    headers = {"cache-control": kept, "x-content-type-options": "nosniff", "vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(compressed, 200, headers | {"content-encoding": "gzip"}, media_type)
    return Response(content, 200, headers, media_type)
