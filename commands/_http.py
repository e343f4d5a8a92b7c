"""Commands over HTTP: authenticate, validate, hand to the zone's sequencer, answer with what it decided."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec
import structlog
from fastapi import Request
from pydantic import ValidationError
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from commands._codec import decision_of, encode_json, event_encoder
from commands._deciding import Command, Outcome
from commands._log import LogUnavailable
from commands._models import canonical_id, command_from, model_of, strict_json, time
from commands._sequencer import Overloaded
from commands._subjects import KeyDestroyed, Keyring, KeyringUnavailable, personal_fields
from commands._zones import Zones
from domain._kernel import Ref, kebab
from domain.principals import EraseSubject
from domain.settlement.transfers import ReceiveTransfer, RefuseTransfer, statement
from ops.access import Access, Caller
from ops.problems import Problem, documented
from ops.web import MOST_BATCH_BYTES, Answer, App, body_of, headers_of, zone_of

MOST_LINES = 1_000
KEY = re.compile(r"[\x21-\x7e]{1,200}\Z")
CORRELATION = re.compile(r"[A-Za-z0-9._:/-]{1,100}\Z")
TIMER_KEY = "timer:"
"""Keys that begin so say that a timer or a reaction sent the command."""
LINE = frozenset({"context", "command", "key", "body"})
TRACES = frozenset({"correlation", "causation"})
RECEIVING = frozenset({ReceiveTransfer, RefuseTransfer})
"""Commands that bring another zone's packet."""

log = structlog.get_logger("fogbook.commands")

Main = Callable[[Any, str], Ref]

PARTICIPANT = frozenset({"operator", "participant", "provider"})
"""Whoever acts for himself; an operator too, for himself or, with act-as, for another."""
OPERATOR = frozenset({"operator"})
SERVICE = frozenset({"operator", "worker"})
ANYONE = PARTICIPANT | SERVICE


@dataclass(frozen=True, slots=True)
class Route:
    """One command's place in HTTP."""

    context: str
    command: type
    roles: frozenset[str]
    main: Main | None
    """The stream that If-Match speaks of, from the command and the principal."""
    name: str
    """`ledger/transfer`"""
    personal: tuple[str, ...]
    """Its fields that are sealed before anything stores them."""

    @property
    def path(self) -> str:
        return f"/commands/{self.name}"


ROUTES: dict[str, Route] = {}


class Context:
    """The routes of one context: a line a command."""

    def __init__(self, name: str) -> None:
        self.name = name.rpartition(".")[2]

    def post(self, command: type, roles: frozenset[str], main: Main | None = None) -> None:
        name = f"{self.name}/{kebab(command.__name__)}"
        ROUTES[name] = Route(self.name, command, roles, main, name, personal_fields(command))


class Envelope(msgspec.Struct, frozen=True):
    """Who sends a command, for whom, and the terms on which it is taken."""

    caller: Caller
    zone: str
    by: str
    key: str
    if_match: int | None
    dry_run: bool
    at: datetime | None
    correlation: str
    causation: str


class CommandApi:
    """Takes commands for all zones of this process."""

    def __init__(self, zones: Zones, access: Access, keyring: Keyring) -> None:
        self._zones = zones
        self._access = access
        self._keyring = keyring
        self._answered = functools.partial(log.bind().debug, "command_answered")
        """Bound here: a module's logger is put together anew for every line, even for one that nobody reads."""

    async def one(self, route: Route, request: Request) -> Response:
        """POST of a single command."""
        headers = headers_of(request)
        caller = await self._access.caller(headers.get("authorization"))
        dry_run = _dry_run(request)
        envelope = self._envelope(headers, caller, headers.get("idempotency-key"), dry_run)
        _allow(caller, route)
        body = strict_json(await body_of(request, headers))
        outcome = await (await self._begin(route, body, envelope))
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

        A line is an object with context, command, key and body; `correlation` and `causation` stand for the headers
        of these names.
        """
        headers = headers_of(request)
        caller = await self._access.caller(headers.get("authorization"))
        if headers.get("content-type", "").partition(";")[0].strip() != "application/x-ndjson":
            raise Problem(415, "unsupported-media-type", "Many commands come as application/x-ndjson.")
        dry_run = _dry_run(request)
        base = self._envelope(headers, caller, "-", dry_run)
        lines = (await body_of(request, headers, MOST_BATCH_BYTES)).splitlines()
        if len(lines) > MOST_LINES:
            raise Problem(
                413,
                "too-many-commands",
                f"A batch has at most {MOST_LINES} commands.",
                limit=str(MOST_LINES),
            )
        # All are queued before any is awaited: they are decided in their order, and most of them together.
        begun = [await self._begin_line(line, base) for line in lines if line.strip()]
        answers = [_line_answer(key, got if isinstance(got, Outcome) else await got) for key, got in begun]
        return Response(b"".join(answers), media_type="application/x-ndjson")

    async def _begin_line(self, line: bytes, base: Envelope) -> tuple[Any, Outcome | Awaitable[Outcome]]:
        """A line's key, and its outcome: to be awaited, or what came of it at once."""
        key: Any = ""
        try:
            parsed = _parse_line(line)
            key = parsed["key"]
            route = _route_of(parsed)
            envelope = Envelope(
                base.caller,
                base.zone,
                base.by,
                "" if base.dry_run else _key(key, base.caller),
                None,
                base.dry_run,
                base.at,
                _trace(parsed["correlation"], "correlation") if "correlation" in parsed else base.correlation,
                _trace(parsed["causation"], "causation") if "causation" in parsed else base.causation,
            )
            _allow(base.caller, route)
            return key, await self._begin(route, parsed["body"], envelope)
        except Problem as problem:
            return key, Outcome(problem.status, encode_json(problem.body), 0)

    def _envelope(self, headers: dict[str, str], caller: Caller, key: str | None, dry_run: bool) -> Envelope:
        zone = zone_of(headers)
        if not caller.may_enter(zone):
            raise Problem(403, "zone-not-allowed", "The key is not for this zone.", zone=zone)
        return Envelope(
            caller,
            zone,
            _acting_for(headers.get("fogbook-act-as"), caller),
            "" if dry_run else _key(key, caller),
            _version(headers.get("if-match")),
            dry_run,
            _named_time(headers.get("fogbook-at"), caller),
            _trace(headers.get("fogbook-correlation"), "Fogbook-Correlation"),
            _trace(headers.get("fogbook-causation"), "Fogbook-Causation"),
        )

    async def _begin(self, route: Route, body: Any, envelope: Envelope) -> Awaitable[Outcome]:
        """Validate a command, seal what is personal in it, and queue it; what it comes to is to be awaited."""
        command = command_from(route.command, body)
        if route.personal:
            command = await self._sealed(route, command, envelope)
        if route.command in RECEIVING:
            self._check_memo(command)
        queued = await self._submit(self._command(route, command, envelope), envelope.zone)
        if route.command is EraseSubject and not envelope.dry_run:
            return self._erasing(queued, envelope.zone, command.principal)
        return queued

    async def _sealed(self, route: Route, command: Any, envelope: Envelope) -> Any:
        """The command with its personal texts sealed for the zone and whom it acts for. Raises Problem 409 and 503."""
        texts = {name: text for name in route.personal if (text := getattr(command, name))}
        if not texts:
            return command
        try:
            return replace(command, **await self._keyring.sealed(envelope.zone, envelope.by, texts))
        except KeyDestroyed:
            raise Problem(
                409,
                "subject-erased",
                "This principal was erased: nothing is recorded with a personal text of his.",
                principal=envelope.by,
                fields=sorted(texts),
            ) from None
        except KeyringUnavailable as error:
            raise _no_keys(error) from None

    def _check_memo(self, command: ReceiveTransfer | RefuseTransfer) -> None:
        """A memo that queries here would open comes in a packet that this installation signed: otherwise whoever holds
        somebody's sealed words could send them to himself and read them. Raises Problem 422 and 503."""
        packet = command.packet
        try:
            if not self._keyring.is_sealed_here(packet.memo):
                return
        except KeyringUnavailable as error:
            raise _no_keys(error) from None
        if not self._keyring.is_signed_here(packet.source, statement("packet", packet), command.proof):
            raise Problem(
                422,
                "sealed-elsewhere",
                "The packet's memo was sealed in this installation, which did not sign the packet.",
                source=packet.source,
            )

    async def _erasing(self, queued: Awaitable[Outcome], zone: str, principal: str) -> Outcome:
        """Destroy the key of a principal once the zone recorded his erasure. What fails here is done by the eraser."""
        outcome = await queued
        try:
            if outcome.status == 200:
                await asyncio.to_thread(self._keyring.destroy, zone, principal)
        except KeyringUnavailable as error:
            log.error("subject_key_not_destroyed", error=str(error))
        return outcome

    def _command(self, route: Route, command: Any, envelope: Envelope) -> Command:
        if envelope.if_match is not None and route.main is None:
            raise Problem(400, "no-main-stream", "This command has no one stream that If-Match could mean.")
        canonical = event_encoder(route.command)(command)
        name, by = route.name.encode(), envelope.by.encode()
        return Command(
            name=route.name,
            body=command,
            decide=decision_of(route.command),
            principal=envelope.caller.principal,
            by=envelope.by,
            # Whoever acts for another has the other's authority, not his own.
            role=envelope.caller.role if envelope.by == envelope.caller.principal else "participant",
            key=envelope.key,
            request=b'{"command":"%b","act_as":"%b","body":%b}' % (name, by, canonical),
            if_match=envelope.if_match,
            main=route.main(command, envelope.by) if route.main and envelope.if_match is not None else None,
            dry_run=envelope.dry_run,
            at=envelope.at,
            correlation=envelope.correlation,
            causation=envelope.causation,
        )

    async def _submit(self, command: Command, zone: str) -> Awaitable[Outcome]:
        try:
            sequencer = self._zones.started(zone) or await self._zones.start(zone)
            if sequencer is None:
                raise Problem(404, "zone-not-found", "There is no such zone.", zone=zone)
            return sequencer.submit(command)
        except LogUnavailable:
            raise Problem(
                503, "unavailable", "The log does not answer.", headers={"Retry-After": "1"}
            ) from None
        except Overloaded:
            raise Problem(
                503,
                "overloaded",
                "Too many commands are waiting; try again.",
                headers={"Retry-After": "1"},
            ) from None


def _no_keys(error: KeyringUnavailable) -> Problem:
    log.error("subject_keys_unavailable", error=str(error))
    return Problem(
        503,
        "subject-keys-unavailable",
        "Personal texts cannot be sealed or told apart now, and nothing is recorded without.",
        headers={"Retry-After": "1"},
    )


# Headers and parameters


def _dry_run(request: Request) -> bool:
    query = request.scope["query_string"]
    if not query:
        return False
    parameters = request.query_params
    if unknown := set(parameters) - {"dry_run"}:
        raise Problem(422, "unknown-parameter", "There is no such parameter.", parameter=min(unknown)[:64])
    value = parameters["dry_run"]
    if value not in ("true", "false"):
        raise Problem(422, "invalid-parameter", "dry_run is true or false.", parameter="dry_run")
    return value == "true"


def _key(key: Any, caller: Caller) -> str:
    if not key:
        raise Problem(400, "idempotency-key-missing", "Each command needs an Idempotency-Key.")
    if not isinstance(key, str) or not KEY.match(key):
        raise Problem(
            400, "malformed-idempotency-key", "An idempotency key is 1 to 200 visible ASCII characters."
        )
    if key.startswith(TIMER_KEY) and caller.role not in SERVICE:
        raise Problem(403, "key-reserved", "Keys that begin with timer: are those of timers and reactions.")
    return key


def _version(header: str | None) -> int | None:
    if header is None:
        return None
    number = header.strip().strip('"')
    if not number.isdecimal() or len(number) > 18:
        raise Problem(400, "malformed-if-match", 'If-Match names a stream\'s version, such as "7".')
    return int(number)


def _acting_for(header: str | None, caller: Caller) -> str:
    if header is None:
        return caller.principal
    if caller.role != "operator" or "act-as" not in caller.scopes:
        raise Problem(
            403, "act-as-not-allowed", "Only an operator's key with the scope act-as acts for others."
        )
    try:
        return canonical_id(header)
    except (PydanticCustomError, ValidationError):
        raise Problem(400, "malformed-act-as", "Fogbook-Act-As names one principal.") from None


def _named_time(header: str | None, caller: Caller) -> datetime | None:
    if header is None:
        return None
    if caller.role not in ("operator", "worker") or "act-at" not in caller.scopes:
        raise Problem(403, "act-at-not-allowed", "Only a key with the scope act-at names the time.")
    try:
        return time(header)
    except PydanticCustomError:
        raise Problem(400, "malformed-time", "Fogbook-At is an RFC 3339 time with its offset.") from None


def _trace(given: Any, name: str) -> str:
    if given is None:
        return ""
    if not isinstance(given, str) or not CORRELATION.match(given):
        raise Problem(
            400, "malformed-correlation", f"{name} is 1 to 100 of the characters A-Z a-z 0-9 . _ : / -"
        )
    return given


def _allow(caller: Caller, route: Route) -> None:
    if caller.role not in route.roles:
        raise Problem(
            403,
            "role-not-allowed",
            "The key's role does not allow this command.",
            role=caller.role,
            roles=sorted(route.roles),
        )


def _parse_line(line: bytes) -> dict[str, Any]:
    parsed = strict_json(line)
    if not isinstance(parsed, dict) or not LINE <= set(parsed) <= LINE | TRACES:
        raise Problem(
            400,
            "malformed-line",
            "A line is an object with context, command, key and body, and perhaps correlation and causation.",
        )
    return parsed


def _route_of(parsed: dict[str, Any]) -> Route:
    context, command = parsed["context"], parsed["command"]
    route = ROUTES.get(f"{context}/{command}")
    if not isinstance(context, str) or not isinstance(command, str) or route is None:
        raise Problem(404, "unknown-command", "There is no such command.")
    return route


def _line_answer(key: Any, outcome: Outcome) -> bytes:
    shown = encode_json(key if isinstance(key, str) and key.isprintable() else "")
    return b'{"key":%b,"status":%d,"body":%b}\n' % (shown, outcome.status, outcome.body)


def _response(outcome: Outcome) -> Response:
    headers = [(b"fogbook-position", b"%d" % outcome.position)]
    if outcome.hit:
        headers.append((b"idempotency-hit", b"true"))
    if outcome.retry_after_s:
        headers = [(b"retry-after", b"%d" % outcome.retry_after_s)]
    media_type = b"application/json" if outcome.status == 200 else b"application/problem+json"
    return Answer(outcome.body, outcome.status, headers, media_type)


# Registration and documentation

_ERRORS = documented(400, 401, 403, 404, 408, 409, 412, 413, 422)

_HEADERS = [
    ("Idempotency-Key", True, "Names the command, so that sending it again has no further effect."),
    ("Fogbook-Zone", False, "The zone; `main` where it is missing."),
    ("Fogbook-Act-As", False, "The principal to act for (operators with the scope act-as)."),
    ("Fogbook-At", False, "The time, in a zone with a manual clock (scope act-at)."),
    ("If-Match", False, "The version that the command's main stream must have."),
    ("Fogbook-Correlation", False, "Ties several commands together: a name, or the id of the first of them."),
    ("Fogbook-Causation", False, "The command that this one follows from: `c17`, elsewhere `village/c17`."),
]

_ANSWER = {
    "type": "object",
    "required": ["command_id", "zone", "position", "events"],
    "properties": {
        "command_id": {"type": "string"},
        "zone": {"type": "string"},
        "position": {"type": "integer"},
        "events": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["position", "stream", "version", "type", "data"],
                "properties": {
                    "position": {"type": "integer"},
                    "stream": {"type": "string"},
                    "version": {"type": "integer"},
                    "type": {"type": "string"},
                    "data": {"type": "object"},
                },
            },
        },
    },
}


def register(app: App, api: Callable[[], CommandApi]) -> None:
    """Add all routes to an application; `api` gives the running API."""
    for route in ROUTES.values():
        app.add(
            "POST",
            route.path,
            _handler(route, api),
            tags=[route.context],
            summary=kebab(route.command.__name__).replace("-", " ").capitalize(),
            description=inspect.getdoc(route.command) or "",
            operation_id=route.name.replace("/", "_").replace("-", "_"),
            responses={200: _ok()} | _ERRORS,
            openapi_extra=_documentation(route),
        )

    async def many(request: Request) -> Response:
        return await api().many(request)

    app.add(
        "POST",
        "/commands",
        many,
        tags=["batches"],
        summary="Many commands at once",
        description=inspect.getdoc(CommandApi.many) or "",
        operation_id="commands_batch",
        responses={200: {"description": "A line for each command.", "content": {"application/x-ndjson": {}}}}
        | documented(400, 401, 403, 408, 413, 415, 422),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
            },
            "security": [{"key": []}],
        },
    )


def _handler(route: Route, api: Callable[[], CommandApi]) -> Any:
    async def handle(request: Request) -> Response:
        return await api().one(route, request)

    return handle


def _ok() -> dict[str, Any]:
    return {
        "description": "The command was accepted, and its events are durable. Personal texts (`x-personal`) are shown"
        " as they are stored: sealed, `enc:v1:<key id>:<base64url>`; queries open them.",
        "content": {"application/json": {"schema": _ANSWER}},
        "headers": {"Fogbook-Position": {"schema": {"type": "integer"}}},
    }


def _documentation(route: Route) -> dict[str, Any]:
    schema = model_of(route.command).model_json_schema()
    definitions = schema.pop("$defs", {})
    parameters = [
        {"name": n, "in": "header", "required": r, "description": d, "schema": {"type": "string"}}
        for n, r, d in _HEADERS
    ]
    parameters.append(
        {
            "name": "dry_run",
            "in": "query",
            "description": "Answer what the command would do, and do nothing.",
            "schema": {"type": "boolean"},
        }
    )
    return {
        "security": [{"key": []}],
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _inlined(schema, definitions)}},
        },
        "x-roles": sorted(route.roles),
    }


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A schema without references into its own `$defs`."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return {key: _inlined(value, definitions) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_inlined(value, definitions) for value in schema]
    return schema
