"""Who reads, and what is asked for him: with his key, of his zone, as of his moment."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import psycopg
from fastapi import Request

from ops.access import Access, Caller
from ops.problems import Problem
from ops.web import App
from queries._console._ask import Answered, ask
from queries._console._notices import Notices
from queries._console._panels import depends_on_reader
from queries._console._render import View
from queries._console._session import Session, Sessions
from queries._query import Query
from queries._sql import MOST_LIMIT

UNAUTHENTICATED = 401
SCALES_S = 10.0
"""So long the decimal places of a zone's assets are remembered."""


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

    def eyes(self, query: Query) -> str:
        """Who has the same is shown the same."""
        who = self.caller.principal if depends_on_reader(query) else ""
        return f"{who} {self.rights}"

    @property
    def rights(self) -> str:
        caller = self.caller
        return f"{caller.role} {sorted(caller.limits)} {caller.may_enter(self.view.zone)}"

    @property
    def headers(self) -> dict[str, str]:
        """What is asked and sent for him carries these."""
        return {
            "authorization": self.session.authorization,
            "fogbook-zone": self.view.zone,
            "host": self.origin.host,
        }


class Readers:
    """`app` is asked for all that readers see."""

    def __init__(self, app: App, access: Access, sessions: Sessions, notices: Notices) -> None:
        self._app = app
        self._access = access
        self._sessions = sessions
        self._notices = notices
        self._scales: dict[str, tuple[float, dict[str, int]]] = {}
        """Of each zone its assets' decimal places, and until when they are taken as known."""

    async def of(self, request: Request) -> Reader:
        """Raises SignedOut."""
        session, caller = await self._signed_in(request)
        zone = request.query_params.get("zone") or _first_zone(caller)
        view = View(zone, request.query_params.get("as_of", ""), caller.principal, caller.role)
        reader = Reader(session, caller, view, Origin.of(request))
        notices = await self._notices.of(zone) if caller.may_enter(zone) else ()
        return replace(reader, view=replace(view, scales=await self._scales_of(reader), notices=notices))

    async def still_of(self, request: Request) -> bool:
        """Whether the session holds; also while nobody can tell."""
        try:
            with suppress(Problem, psycopg.Error):
                await self._signed_in(request)
        except SignedOut:
            return False
        return True

    async def _signed_in(self, request: Request) -> tuple[Session, Caller]:
        session = self._sessions.of(request)
        if session is None:
            raise SignedOut
        try:
            return session, await self._access.caller(session.authorization)
        except Problem as problem:
            if problem.status != UNAUTHENTICATED:
                raise
            raise SignedOut from None

    async def view_of(self, request: Request) -> View:
        """The reader's, so that he gets on from where he is; an empty one where nobody is known."""
        try:
            return (await self.of(request)).view
        except (SignedOut, Problem, psycopg.Error):
            return View()

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
        return await ask(self._app, path, {**query, **moment}, reader.headers, reader.origin.client)


def _first_zone(caller: Caller) -> str:
    return "main" if caller.may_enter("main") else min(caller.zones, default="main")
