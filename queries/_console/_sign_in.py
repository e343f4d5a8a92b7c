"""How somebody becomes a reader: by a key that is typed into a form, and kept in a sealed cookie."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import RedirectResponse, Response

from ops.problems import Problem
from ops.web import App
from queries._console._answers import HEADERS, form_of, html, inside
from queries._console._ask import ask
from queries._console._readers import Origin
from queries._console._render import View, render
from queries._console._session import MOST_KEY, Sessions, check_origin


class SignIn:
    def __init__(self, app: App, sessions: Sessions) -> None:
        self._app = app
        self._sessions = sessions

    async def sign_in(self, request: Request) -> Response:
        """The form, or a session for the key that was typed into it."""
        if request.method == "GET":
            return html(
                request,
                render(
                    "sign-in.html",
                    View(),
                    problem="",
                    over="over" in request.query_params,
                    then=inside(request.query_params.get("then")),
                ),
            )
        check_origin(request)
        form = await form_of(request)
        key, then = form.get("key", "").strip(), inside(form.get("then"))
        try:
            await self._check(Origin.of(request), key)
        except Problem as problem:
            return html(
                request,
                render("sign-in.html", View(), problem=problem.body["detail"], over=False, then=then),
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
        check_origin(request)
        response = RedirectResponse("/console/sign-in", 303, HEADERS)
        self._sessions.end(response)
        return response
