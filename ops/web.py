"""What both APIs share: the application, request limits, zones, and errors as problems.

Most requests name a fixed path. Those take a short way round FastAPI's routing and dependency solving (the
routes stay registered, so the OpenAPI document is complete); everything else goes through FastAPI.
"""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from typing import Any, cast

import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from prometheus_client import Counter, Histogram
from psycopg_pool import PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from commands._codec import ZONE, cache, encode_json, modules
from domain._kernel import Rejected
from ops.problems import SCHEMA, Problem, documented

MOST_BODY_BYTES = 65_536
MOST_BATCH_BYTES = 4 * 1024 * 1024
BODY_DEADLINE_S = 10.0

Handler = Callable[[Request], Awaitable[Response]]

REQUESTS = Counter("fogbook_requests_total", "Requests answered", ["route", "status"])
SECONDS = Histogram(
    "fogbook_request_seconds",
    "Time to answer a request",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

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
    """A FastAPI application whose fixed paths are answered directly."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.direct: dict[tuple[str, str], Handler] = {}
        add_problem_pages(self)
        self.add_exception_handler(HTTPException, _http_exception)
        self.add_exception_handler(Exception, _defect)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            handler = self.direct.get((scope["method"], scope["path"]))
            if handler is not None:
                request = Request(scope, receive)
                response = await handler(request)
                await response(scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    def add(self, method: str, path: str, handler: Handler, **documentation: Any) -> None:
        """Register a handler. Paths without parameters are answered directly."""
        guarded = answer(handler, path)

        async def endpoint(request: Request) -> Response:
            return await guarded(request)

        responses = documentation.pop("responses", {}) | documented(500, 503)
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
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            self.openapi_schema = schema
        return self.openapi_schema


def answer(handler: Handler, route: str) -> Handler:
    """Run a handler; whatever it raises becomes a problem, and every answer is counted."""
    seconds = SECONDS.labels(route)
    counters: dict[int, Any] = {}

    async def answered(request: Request) -> Response:
        begun = time.perf_counter()
        try:
            response = await handler(request)
        except Exception as error:
            response = to_problem(error).response()
        counter = counters.get(response.status_code)
        if counter is None:
            counter = counters[response.status_code] = REQUESTS.labels(route, str(response.status_code))
        counter.inc()
        seconds.observe(time.perf_counter() - begun)
        return response

    return answered


def to_problem(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, ClientDisconnect):
        return Problem(400, "client-left", "The client left before its body was complete.")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | PoolTimeout):
        log.warning("database_unavailable", error=str(error))
        return Problem(503, "unavailable", "The database does not answer.", headers={"Retry-After": "1"})
    log.error("request_failed", exc_info=error)
    return Problem(500, "internal", "The request failed; nothing was changed.")


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
    """All headers by their lower-case names; looking them up one by one would search the list each time."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}


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
