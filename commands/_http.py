"""Commands over HTTP: authenticate, validate, hand to the zone's sequencer, answer with what it decided."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from fastapi import Request
from starlette.responses import Response

from commands._batch import envelope_of_line, line_answer, lines_of, parse_line, route_of
from commands._codec import encode_json
from commands._deciding import Outcome
from commands._envelope import Envelope, allow, dry_run_of, envelope_of
from commands._intake import Intake
from commands._models import strict_json
from commands._openapi import documentation_of, documentation_of_batches
from commands._routes import ROUTES, Route
from commands._subjects import Keyring
from commands._zones import Zones
from ops.access import Access
from ops.limits import enter, granted
from ops.problems import Problem
from ops.web import MOST_BATCH_BYTES, Answer, App, body_of, headers_of

log = structlog.get_logger("fogbook.commands")


class CommandApi:
    """Takes commands for all zones of this process."""

    def __init__(self, zones: Zones, access: Access, keyring: Keyring) -> None:
        self._intake = Intake(zones, keyring)
        self._access = access
        self._answered = functools.partial(log.bind().debug, "command_answered")
        """Bound here: a module's logger is put together anew for every line, even for one that nobody reads."""

    async def one(self, route: Route, request: Request) -> Response:
        """POST of a single command."""
        headers = headers_of(request)
        caller = await self._access.admit(request, headers)
        await enter(request, headers, caller)
        dry_run = dry_run_of(request)
        envelope = envelope_of(headers, caller, headers.get("idempotency-key"), dry_run)
        allow(caller, route, envelope.by)
        body = strict_json(await body_of(request, headers))
        outcome = await (await self._intake.begin(route, body, envelope))
        self._answered(
            command=route.name,
            zone=envelope.zone,
            by=envelope.by,
            status=outcome.status,
            position=outcome.position,
        )
        return _response(outcome)

    async def many(self, request: Request) -> Response:
        """POST of NDJSON: each line a command, each answered on its own, in order.

        A line is an object with context, command, key and body; `correlation`, `causation` and `signed` (an object)
        stand for the headers of these names.
        """
        headers = headers_of(request)
        caller = await self._access.admit(request, headers)
        await enter(request, headers, caller, 0)
        caller.needs_some("commands")
        dry_run = dry_run_of(request)
        base = envelope_of(headers, caller, "-", dry_run)
        if headers.get("content-type", "").partition(";")[0].strip() != "application/x-ndjson":
            raise Problem(415, "unsupported-media-type", "Many commands come as application/x-ndjson.")
        if base.signed is not None:
            raise Problem(400, "malformed-signed", "Each line of a batch is signed by itself.")
        lines = lines_of(await body_of(request, headers, MOST_BATCH_BYTES))
        within, too_many = await granted(request, len(lines))
        # All are queued before any is awaited: they are decided in their order, and most of them together.
        begun = [
            await self._begin_line(line, base, too_many if number >= within else None)
            for number, line in enumerate(lines)
        ]
        answers = [line_answer(key, got if isinstance(got, Outcome) else await got) for key, got in begun]
        return Response(b"".join(answers), media_type="application/x-ndjson")

    async def _begin_line(
        self, line: bytes, base: Envelope, refused: Problem | None
    ) -> tuple[Any, Outcome | Awaitable[Outcome]]:
        """A line's key, and its outcome: to be awaited, or what came of it at once."""
        key: Any = ""
        path = "/commands"
        try:
            parsed = parse_line(line)
            key = parsed["key"]
            if refused is not None:
                raise refused
            route = route_of(parsed)
            path = route.path
            if "signed" in parsed:
                await asyncio.sleep(0)  # To verify takes as long as a command does: others may go between.
            envelope = envelope_of_line(parsed, base)
            allow(base.caller, route, envelope.by)
            return key, await self._intake.begin(route, parsed["body"], envelope)
        except Problem as problem:
            if problem.status == 403:
                self._access.journal.refused(path, problem, base.caller, base.zone)
            return key, Outcome(problem.status, encode_json(problem.body), 0)


def _response(outcome: Outcome) -> Response:
    headers = [(b"fogbook-position", b"%d" % outcome.position)]
    if outcome.hit:
        headers.append((b"idempotency-hit", b"true"))
    if outcome.retry_after_s:
        headers = [(b"retry-after", b"%d" % outcome.retry_after_s)]
    media_type = b"application/json" if outcome.status == 200 else b"application/problem+json"
    return Answer(outcome.body, outcome.status, headers, media_type)


def register(app: App, api: Callable[[], CommandApi]) -> None:
    """Add all routes to an application; `api` gives the running API."""
    for route in ROUTES.values():
        app.add("POST", route.path, _handler(route, api), **documentation_of(route))

    async def many(request: Request) -> Response:
        return await api().many(request)

    app.add("POST", "/commands", many, **documentation_of_batches(inspect.getdoc(CommandApi.many) or ""))


def _handler(route: Route, api: Callable[[], CommandApi]) -> Any:
    async def handle(request: Request) -> Response:
        return await api().one(route, request)

    return handle
