"""What both APIs share: the application, request limits, zones, and errors as problems.

Most requests name a fixed path. Those take a short way round FastAPI's routing and dependency solving (the
routes stay registered, so the OpenAPI document is complete); everything else goes through FastAPI.
"""

from __future__ import annotations

import asyncio
import gc
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, cast

import structlog
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from prometheus_client import Counter, Histogram
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from commands._codec import ZONE, cache, encode_json, modules
from domain._kernel import Rejected
from ops import traces
from ops.access import record_refusal
from ops.headers import SafeHeaders, docs_page
from ops.limits import COMMANDS, HISTORY, OPEN, QUERIES, Gate, Holder, Limits
from ops.problems import SCHEMA, Problem, documented
from ops.production import check_production
from ops.settings import Settings
from ops.waits import AWAY

MOST_BODY_BYTES = 65_536
MOST_BATCH_BYTES = 4 * 1024 * 1024
BODY_DEADLINE_S = 10.0
GIVEN_ONCE = frozenset({b"authorization", b"idempotency-key", b"if-match", b"content-type", b"last-event-id"})
"""Headers that say who asks for what, beside all of our own."""
DOCUMENTATION = frozenset({"/docs", "/openapi.json", "/asyncapi.json"})
OPENAPI = "/openapi.json"

Handler = Callable[[Request], Awaitable[Response]]

REQUESTS = Counter("fogbook_requests_total", "Requests answered, by route and status", ["route", "status"])
SECONDS = Histogram(
    "fogbook_request_seconds",
    "Time to answer a request",
    ["route"],
    unit="seconds",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
ANSWERED: dict[str, Histogram] = {}
"""By route, what SECONDS counts of it, from its first answer on."""

log = structlog.get_logger("fogbook.http")


class Answer(Response):
    """A response whose headers are bytes already. Starlette's own makes them from texts, for every answer anew."""

    def __init__(
        self, body: bytes, status: int, headers: list[tuple[bytes, bytes]], media_type: bytes
    ) -> None:
        self.status_code = status
        self.body = body
        self.background = None
        self.raw_headers = [*headers, (b"content-length", b"%d" % len(body)), (b"content-type", media_type)]


class App(FastAPI):
    """A FastAPI application whose fixed paths are answered directly, and whose answers have safe headers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(openapi_url=None, **options)
        self.direct: dict[tuple[str, str], Handler] = {}
        self.limits = Limits()
        self._safe = SafeHeaders()
        self._hosts: frozenset[str] = frozenset()
        self._hidden: frozenset[str] = frozenset()
        add_problem_pages(self)
        add_documentation(self)
        self.add_exception_handler(HTTPException, _http_exception)
        self.add_exception_handler(Exception, _defect)

    @asynccontextmanager
    async def run(self, settings: Settings) -> AsyncIterator[None]:
        """Do as the settings say until the block ends. Raises TooWeak."""
        if settings.production:
            await asyncio.to_thread(check_production, settings)
        self._safe = SafeHeaders(settings.hsts_s)
        self._hosts = frozenset(host.strip().lower() for host in settings.hosts.split(",") if host.strip())
        self._hidden = DOCUMENTATION if settings.production else frozenset()
        with traces.tracing(settings, self.title.lower().replace(" ", "-")):
            async with self.limits.run(settings):
                yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        # Taken out, since it leads back to what holds the scope: such a ring is garbage that only the collector finds.
        whole = scope.pop("whole", None)
        handler = self.direct.get((scope["method"], scope["path"]))
        if self._hosts and not self._is_for_us(scope):
            response = Problem(421, "misdirected", "This name or address is not served here.").response()
        elif handler is not None:
            response = await handler(Request(scope, receive))
            if whole is not None and type(response) is Answer and whole(response, self._safe.block):
                return
        elif scope["path"] in self._hidden:
            response = Problem(404, "not-found", "There is nothing at this path.").response()
        else:
            await super().__call__(scope, receive, self._completing(send))
            return
        response.raw_headers = self._safe.complete(response.raw_headers)
        await response(scope, receive, send)

    def _completing(self, send: Send) -> Send:
        async def complete(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = self._safe.complete(list(message.get("headers", [])))
            await send(message)

        return complete

    def _is_for_us(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"host"]
        host = given[0].decode("latin-1").lower() if len(given) == 1 else ""
        return host in self._hosts or host.rpartition(":")[0] in self._hosts

    def add(self, method: str, path: str, handler: Handler, **documentation: Any) -> None:
        """Register a handler. Paths without parameters are answered directly."""
        guarded = answer(handler, path, self.limits.gates[kind_of(path)])

        async def endpoint(request: Request) -> Response:
            return await guarded(request)

        responses = documentation.pop("responses", {}) | documented(414, 421, 429, 431, 500, 503)
        self.add_api_route(
            path, endpoint, methods=[method], response_class=Response, responses=responses, **documentation
        )
        if "{" not in path:
            self.direct[method, path] = guarded

    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            schema = get_openapi(
                title=self.title, version=self.version, description=self.description, routes=self.routes
            )
            components = schema.setdefault("components", {})
            components.setdefault("schemas", {})["Problem"] = SCHEMA
            components["securitySchemes"] = {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key, or a token (JWT)."}
            }
            self.openapi_schema = schema
        return self.openapi_schema


def kind_of(path: str) -> str:
    """What a request of a path is counted as while it is under way."""
    if path.startswith("/commands"):
        return COMMANDS
    if path.startswith("/history"):
        return HISTORY
    return QUERIES if path.startswith("/queries") else OPEN


def answer(handler: Handler, route: str, gate: Gate) -> Handler:
    """Run a handler: whatever it raises becomes a problem, every answer is counted, what is under way is bounded."""
    limits = gate.limits
    counters: dict[int, Any] = {}
    seconds: Histogram | None = None

    async def answered(request: Request) -> Response:
        nonlocal seconds
        begun = time.perf_counter()
        request.scope["gate"] = gate
        span = None if traces.active is None else traces.begin(request, route)
        try:
            if limits.failures:
                limits.knock(request)
            if gate.inside >= gate.most:
                raise limits.full(f"{gate.kind} in flight", gate.most)
            gate.inside += 1
            try:
                response = await handler(request)
            finally:
                gate.inside -= 1
                holder: Holder | None = request.scope.get("holder")
                if holder is not None:
                    holder.inside[gate.index] -= 1
        except Exception as error:
            problem = to_problem(error)
            if problem.status == 401:
                limits.failed(request)
            record_refusal(request, route, problem)
            response = problem.response()
        counter = counters.get(response.status_code)
        if counter is None:
            counter = counters[response.status_code] = REQUESTS.labels(route, str(response.status_code))
        counter.inc()
        # Not before: hundreds of routes that nobody asks would be told of at each look at the metrics.
        if seconds is None:
            seconds = ANSWERED[route] = SECONDS.labels(route)
        taken_s = time.perf_counter() - begun
        if span is None:
            seconds.observe(taken_s)
        else:
            traces.end(span, response.status_code)
            seconds.observe(taken_s, {"trace_id": span.trace_id})
        return response

    return answered


def to_problem(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, ClientDisconnect):
        return Problem(400, "client-left", "The client left before its body was complete.")
    if isinstance(error, AWAY):
        log.warning("database_unavailable", error=str(error))
        return Problem(503, "unavailable", "The database does not answer.", headers={"Retry-After": "1"})
    log.error("request_failed", exc_info=error)
    return Problem(500, "internal", "The request failed; nothing was changed.")


def freeze() -> None:
    """What start-up made lives for ever: keep the collector off it, and let it run more rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def add_documentation(app: App) -> None:
    """`GET /openapi.json`, made once, and `GET /docs`, which shows it."""
    made: dict[str, Response] = {}
    making = asyncio.Lock()

    async def schema(request: Request) -> Response:
        async with making:
            if "schema" not in made:
                # It takes half a second, and commands are not to wait for it.
                body = encode_json(await asyncio.to_thread(app.openapi))
                made["schema"] = Response(body, media_type="application/json")
        return made["schema"]

    async def docs(request: Request) -> Response:
        if "docs" not in made:
            page, policy = docs_page(app.title, OPENAPI)
            made["docs"] = Response(
                page, headers={"content-security-policy": policy.decode()}, media_type="text/html"
            )
        return made["docs"]

    app.add_route(OPENAPI, schema, include_in_schema=False)
    app.add_route("/docs", docs, include_in_schema=False)


def add_problem_pages(app: App) -> None:
    """`GET /problems/{name}`: what the `type` of a rule's problem document leads to."""

    async def explain(request: Request) -> Response:
        name = request.path_params["name"]
        rule = rules().get(name)
        if rule is None:
            raise Problem(404, "not-found", "No rule has this name.")
        body = {"type": f"/problems/{name}", "status": rule.status, "detail": rule.sentence()}
        return Response(encode_json(body), media_type="application/json")

    app.add(
        "GET",
        "/problems/{name}",
        explain,
        tags=["problems"],
        summary="What a rule says",
        responses={200: {"content": {"application/json": {}}}} | documented(404),
        openapi_extra={
            "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
        },
    )


@cache
def rules() -> dict[str, type[Rejected]]:
    """Every context's rules by name."""
    found = {}
    for module in modules().values():
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Rejected):
                found[value.rule()] = value
    return found


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    names = {404: "not-found", 405: "method-not-allowed"}
    detail = {404: "There is nothing at this path.", 405: "This path does not take this method."}
    problem = Problem(
        error.status_code,
        names.get(error.status_code, "http-error"),
        detail.get(error.status_code, str(error.detail)),
        headers=dict(error.headers or {}),
    )
    return problem.response()


async def _defect(request: Request, error: Exception) -> Response:
    return to_problem(error).response()


def headers_of(request: Request) -> dict[str, str]:
    """All headers by their lower-case names; looking them up one by one would search the list each time.

    Raises Problem 400 where one that is given once comes twice: who reads the first of them and who reads the last
    would see two requests.
    """
    given = request.scope["headers"]
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in given}
    if len(headers) < len(given):
        _check_repeated([name for name, _ in given])
    return headers


def _check_repeated(names: list[bytes]) -> None:
    for name in set(names):
        if (name in GIVEN_ONCE or name.startswith(b"fogbook-")) and names.count(name) > 1:
            raise Problem(400, "repeated-header", "A header is given once.", header=name.decode("latin-1"))


def zone_of(headers: Mapping[str, str]) -> str:
    """The zone that a request is about. Raises Problem 400."""
    zone = headers.get("fogbook-zone", "main")
    if not ZONE.match(zone):
        raise Problem(400, "malformed-zone", "A zone's name is 1 to 63 of the characters a-z 0-9 . _ -")
    return zone


async def body_of(request: Request, headers: Mapping[str, str], limit: int = MOST_BODY_BYTES) -> bytes:
    """The whole body, within the limits of size and time. Raises Problem 413 and 408."""
    declared = headers.get("content-length")
    if declared is not None and declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    reading = _read(request.receive, limit)
    try:
        # Most bodies came with their headers: those need no deadline, which costs as much as parsing them.
        waits_for = reading.send(None)
    except StopIteration as read:
        return cast("bytes", read.value)
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            return await _resumed(reading, waits_for)
    except TimeoutError:
        raise Problem(408, "body-too-slow", f"The body took more than {BODY_DEADLINE_S:.0f} s.") from None


async def _read(receive: Receive, limit: int) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return body


@types.coroutine
def _resumed(begun: Coroutine[Any, Any, bytes], waits_for: Any) -> Generator[Any, Any, bytes]:
    """Go on with a coroutine whose first step was taken already, and which waits for something."""
    try:
        yield waits_for
    except BaseException:
        begun.close()
        raise
    return (yield from begun.__await__())


def _too_large(limit: int) -> Problem:
    return Problem(413, "body-too-large", f"A body is at most {limit} bytes.", limit=str(limit))
