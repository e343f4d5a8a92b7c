"""The console's routes, and what is answered where something goes wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlencode, urlsplit

from fastapi import Request
from starlette.responses import RedirectResponse, Response

from ops.problems import Problem
from ops.web import App, to_problem
from queries._console._answers import HEADERS, html, inside
from queries._console._http import Console
from queries._console._live import OVER
from queries._console._panels import PAGES, Page
from queries._console._readers import SignedOut
from queries._console._render import render, statics
from queries._console._screens import SCREENS, Screen
from queries._console._session import COOKIE

FOR_EVER_S = 31_536_000

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
    add("/console/events.{form}", Console.export_events)
    add("/console/live/{page}", Console.live)
    add("/console/tail", Console.tail)
    add("/console/act/{name:path}", Console.act, "POST")
    add("/console/sign-in", _sign_in, "GET", "POST")
    add("/console/sign-out", _sign_out, "POST")
    add("/console/static/{name}", _file)


async def _sign_in(console: Console, request: Request) -> Response:
    return await console.door.sign_in(request)


async def _sign_out(console: Console, request: Request) -> Response:
    return await console.door.sign_out(request)


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
        if "text/event-stream" in request.headers.get("accept", ""):
            return Response(OVER, 200, {"cache-control": "no-store"}, "text/event-stream")
        over = {"over": "1"} if COOKIE in request.cookies else {}
        if "hx-request" in request.headers:
            shown = urlsplit(request.headers.get("hx-current-url", ""))
            then = inside(f"{shown.path}?{shown.query}" if shown.query else shown.path)
            return Response("", 401, {"hx-redirect": f"/console/sign-in?{urlencode({'then': then} | over)}"})
        then = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/console/sign-in?{urlencode({'then': then} | over)}", 303, HEADERS)
    except Exception as error:
        problem = to_problem(error)
        template = "problem.html" if "hx-request" not in request.headers else "problem-panel.html"
        return html(
            request,
            render(
                template,
                await console.readers.view_of(request),
                detail=problem.body["detail"],
                status=problem.status,
                page=None,
            ),
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
