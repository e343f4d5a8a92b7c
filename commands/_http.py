"""Commands over HTTP: authenticate, validate, hand to the zone's sequencer, answer with what it decided."""

from __future__ import annotations

import asyncio
import contextlib
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

from commands._codec import ZONE_SCHEMA, decision_of, encode_json, event_encoder
from commands._deciding import Command, Outcome
from commands._log import LogUnavailable
from commands._models import KINDS, canonical_id, command_from, model_of, strict_json, time
from commands._sequencer import Overloaded
from commands._signed import Signed, signed_from, signed_header, verified
from commands._subjects import KeyDestroyed, KeyMissing, Keyring, KeyringUnavailable, personal_fields
from commands._zones import Zones
from domain._kernel import Ref, kebab
from domain.principals import CommandSigned, EraseSubject, RegisterSigningKey, SigningKeyIsUnknown
from domain.principals import signed as signed_decision
from domain.settlement.transfers import ReceiveTransfer, RefuseTransfer, statement
from ops.access import Access, Caller, is_reserved
from ops.limits import REFUSED, enter, granted
from ops.problems import Problem, documented
from ops.web import MOST_BATCH_BYTES, MOST_BODY_BYTES, Answer, App, body_of, headers_of, zone_of

MOST_LINES = 1_000
KEY = re.compile(r"[\x21-\x7e]{1,200}\Z")
CORRELATION = re.compile(r"[A-Za-z0-9._:/-]{1,100}\Z")
TIMER_KEY = "timer:"
"""Keys that begin so say that a timer or a reaction sent the command."""
LINE = frozenset({"context", "command", "key", "body"})
MORE = frozenset({"correlation", "causation", "signed"})
"""What may stand in a line as well."""
SALT = "salt"
"""Under this name the salt of a signature is sealed."""
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

    scope: str
    """What a key that is restricted to scopes needs one of: this, or `commands`."""

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
        fields, scope = personal_fields(command), f"commands:{self.name}"
        ROUTES[name] = Route(self.name, command, roles, main, name, fields, scope)


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
    signed: Signed | None = None


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
        caller = await self._access.admit(request, headers)
        await enter(request, headers, caller)
        dry_run = _dry_run(request)
        envelope = self._envelope(headers, caller, headers.get("idempotency-key"), dry_run)
        _allow(caller, route, envelope.by)
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

        A line is an object with context, command, key and body; `correlation`, `causation` and `signed` (an object)
        stand for the headers of these names.
        """
        headers = headers_of(request)
        caller = await self._access.admit(request, headers)
        await enter(request, headers, caller, 0)
        caller.needs_some("commands")
        dry_run = _dry_run(request)
        base = self._envelope(headers, caller, "-", dry_run)
        if headers.get("content-type", "").partition(";")[0].strip() != "application/x-ndjson":
            raise Problem(415, "unsupported-media-type", "Many commands come as application/x-ndjson.")
        if base.signed is not None:
            raise Problem(400, "malformed-signed", "Each line of a batch is signed by itself.")
        lines = (await body_of(request, headers, MOST_BATCH_BYTES)).splitlines()
        if len(lines) > MOST_LINES:
            raise Problem(
                413,
                "too-many-commands",
                f"A batch has at most {MOST_LINES} commands.",
                limit=str(MOST_LINES),
            )
        lines = [line for line in lines if line.strip()]
        within, too_many = await granted(request, len(lines))
        # All are queued before any is awaited: they are decided in their order, and most of them together.
        begun = [
            await self._begin_line(line, base, too_many if number >= within else None)
            for number, line in enumerate(lines)
        ]
        answers = [_line_answer(key, got if isinstance(got, Outcome) else await got) for key, got in begun]
        return Response(b"".join(answers), media_type="application/x-ndjson")

    async def _begin_line(
        self, line: bytes, base: Envelope, refused: Problem | None
    ) -> tuple[Any, Outcome | Awaitable[Outcome]]:
        """A line's key, and its outcome: to be awaited, or what came of it at once."""
        key: Any = ""
        path = "/commands"
        try:
            parsed = _parse_line(line)
            key = parsed["key"]
            if refused is not None:
                raise refused
            route = _route_of(parsed)
            path = route.path
            signed = signed_from(parsed["signed"]) if "signed" in parsed else None
            if signed is not None:
                await asyncio.sleep(0)  # To verify takes as long as a command does: others may go between.
            envelope = Envelope(
                base.caller,
                base.zone,
                base.by if signed is None else signed.principal,
                "" if base.dry_run else _key(key, base.caller),
                None,
                base.dry_run,
                base.at,
                _trace(parsed["correlation"], "correlation") if "correlation" in parsed else base.correlation,
                _trace(parsed["causation"], "causation") if "causation" in parsed else base.causation,
                signed,
            )
            _allow(base.caller, route, envelope.by)
            return key, await self._begin(route, parsed["body"], envelope)
        except Problem as problem:
            if problem.status == 403:
                self._access.journal.refused(path, problem, base.caller, base.zone)
            return key, Outcome(problem.status, encode_json(problem.body), 0)

    def _envelope(self, headers: dict[str, str], caller: Caller, key: str | None, dry_run: bool) -> Envelope:
        zone = zone_of(headers)
        if not caller.may_enter(zone):
            raise Problem(403, "zone-not-allowed", "The key is not for this zone.", zone=zone)
        signed = signed_header(headers.get("fogbook-signed"))
        return Envelope(
            caller,
            zone,
            _acting_for(headers.get("fogbook-act-as"), caller) if signed is None else signed.principal,
            "" if dry_run else _key(key, caller),
            _version(headers.get("if-match")),
            dry_run,
            _named_time(headers.get("fogbook-at"), caller),
            _trace(headers.get("fogbook-correlation"), "Fogbook-Correlation"),
            _trace(headers.get("fogbook-causation"), "Fogbook-Causation"),
            signed,
        )

    async def _begin(self, route: Route, body: Any, envelope: Envelope) -> Awaitable[Outcome]:
        """Validate a command, seal what is personal in it, and queue it; what it comes to is to be awaited."""
        command = command_from(route.command, body)
        signature = None
        if envelope.signed is not None:
            _may_bring(envelope.caller)
            signature = verified(envelope.signed, envelope.zone, route.name, body, route.personal)
        if route.personal:
            command, signature = await self._sealed(route, command, signature, envelope)
        if route.command in RECEIVING:
            self._check_memo(command)
        if route.command is RegisterSigningKey and not envelope.dry_run:
            await self._make_key(envelope)
        queued = await self._submit(self._command(route, command, signature, envelope), envelope.zone)
        if route.command is EraseSubject and not envelope.dry_run:
            return self._erasing(queued, envelope.zone, command.principal)
        return queued

    async def _sealed(
        self, route: Route, command: Any, signature: CommandSigned | None, envelope: Envelope
    ) -> tuple[Any, CommandSigned | None]:
        """The command with its personal texts sealed for the zone and whom it acts for, and the salt of its signature.
        Raises Problem 409 and 503."""
        texts = {name: text for name in route.personal if (text := getattr(command, name))}
        if not texts:
            return command, signature
        by, is_own = envelope.by, envelope.signed is None or envelope.by == envelope.caller.principal
        if signature is not None:
            texts[SALT] = signature.salt
        try:
            # Whoever signs with a key of his own making may call himself anything: that makes no files here.
            sealed = await self._keyring.sealed(envelope.zone, by, texts, make=is_own)
        except KeyMissing:
            raise Problem(
                409, SigningKeyIsUnknown.rule(), SigningKeyIsUnknown.sentence(), principal=by
            ) from None
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
        if signature is not None:
            signature = replace(signature, salt=sealed.pop(SALT))
        return replace(command, **sealed), signature

    async def _make_key(self, envelope: Envelope) -> None:
        """For what he signs later: whoever brings it makes no keys for others. Raises Problem 503."""
        try:
            with contextlib.suppress(KeyDestroyed):
                await asyncio.to_thread(self._keyring.make, envelope.zone, envelope.by)
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

    def _command(
        self, route: Route, command: Any, signature: CommandSigned | None, envelope: Envelope
    ) -> Command:
        if envelope.if_match is not None and route.main is None:
            raise Problem(400, "no-main-stream", "This command has no one stream that If-Match could mean.")
        canonical = event_encoder(route.command)(command)
        name, by = route.name.encode(), envelope.by.encode()
        request = b'{"command":"%b","act_as":"%b","body":%b}' % (name, by, canonical)
        decide = decision_of(route.command)
        if signature is not None:
            decide = signed_decision(decide, signature)
            request = b'%b,"signed":%b}' % (request[:-1], event_encoder(CommandSigned)(signature))
        return Command(
            name=route.name,
            body=command,
            decide=decide,
            principal=envelope.caller.principal,
            by=envelope.by,
            role=_authority(envelope.caller, envelope.by),
            key=envelope.key,
            request=request,
            if_match=envelope.if_match,
            main=route.main(command, envelope.by) if route.main and envelope.if_match is not None else None,
            dry_run=envelope.dry_run,
            at=envelope.at,
            correlation=envelope.correlation,
            causation=envelope.causation,
            signed=signature is not None,
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
            REFUSED.labels("commands queued").inc()
            raise Problem(
                503,
                "overloaded",
                "Too many commands are waiting; try again.",
                headers={"Retry-After": "1"},
                limit="commands queued",
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
    if not request.scope["query_string"]:
        return False
    given = request.query_params.multi_items()
    if unknown := {name for name, _ in given} - {"dry_run"}:
        raise Problem(422, "unknown-parameter", "There is no such parameter.", parameter=min(unknown)[:64])
    if len(given) > 1:
        raise Problem(422, "repeated-parameter", "A parameter is given once.", parameter="dry_run")
    value = given[0][1] if given else "false"
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
        principal = canonical_id(header)
    except (PydanticCustomError, ValidationError):
        raise Problem(400, "malformed-act-as", "Fogbook-Act-As names one principal.") from None
    if is_reserved(principal):
        raise Problem(403, "principal-reserved", "This name is that of an account of the zone's own.")
    return principal


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


def _authority(caller: Caller, by: str) -> str:
    """The role in which a command is decided: whoever acts for another has the other's authority, not his own."""
    return caller.role if by == caller.principal else "participant"


def _allow(caller: Caller, route: Route, by: str) -> None:
    role = _authority(caller, by)
    if role not in route.roles:
        raise Problem(
            403,
            "role-not-allowed",
            "The key's role does not allow this command."
            if by == caller.principal
            else "Acting for another lends a participant's authority, which does not allow this command.",
            role=role,
            roles=sorted(route.roles),
        )
    caller.needs(route.scope)


def _may_bring(caller: Caller) -> None:
    """A signature is authority enough; but a key that is only to read sends no commands, whoever signed them."""
    if caller.role not in ANYONE:
        raise Problem(
            403,
            "role-not-allowed",
            "A key of this role sends no commands.",
            role=caller.role,
            roles=sorted(ANYONE),
        )


def _parse_line(line: bytes) -> dict[str, Any]:
    if len(line) > MOST_BODY_BYTES:
        limit = str(MOST_BODY_BYTES)
        raise Problem(413, "body-too-large", f"A line is at most {limit} bytes.", limit=limit)
    parsed = strict_json(line)
    if not isinstance(parsed, dict) or not LINE <= set(parsed) <= LINE | MORE:
        raise Problem(
            400,
            "malformed-line",
            "A line is an object with context, command, key and body; perhaps correlation, causation and signed.",
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
    (
        "Fogbook-Signed",
        False,
        "Who signed the command, in place of acting for others: JSON with `principal`, `key` (Ed25519, 64 hex digits),"
        " `nonce`, `expires` (seconds since 1970), `signature` (128 hex digits) and, for personal texts, `salt`.",
    ),
    ("Fogbook-At", False, "The time, in a zone with a manual clock (scope act-at)."),
    ("If-Match", False, "The version that the command's main stream must have."),
    ("Fogbook-Correlation", False, "Ties several commands together: a name, or the id of the first of them."),
    ("Fogbook-Causation", False, "The command that this one follows from: `c17`, elsewhere `village/c17`."),
]

_TRACE_SCHEMA = {"type": "string", "pattern": "^[A-Za-z0-9._:/-]{1,100}$"}
_HEADER_SCHEMAS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {"type": "string", "pattern": "^[!-~]{1,200}$"},
    "Fogbook-Zone": ZONE_SCHEMA,
    "Fogbook-Act-As": KINDS["id"][2],
    "Fogbook-At": KINDS[datetime][2],
    "If-Match": {"type": "string", "pattern": '^("[0-9]{1,18}"|[0-9]{1,18})$'},
    "Fogbook-Correlation": _TRACE_SCHEMA,
    "Fogbook-Causation": _TRACE_SCHEMA,
}

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
            "x-roles": sorted(ANYONE),
            "x-scope": "commands",
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
        {
            "name": n,
            "in": "header",
            "required": r,
            "description": d,
            "schema": _HEADER_SCHEMAS.get(n, {"type": "string"}),
        }
        for n, r, d in _HEADERS
        if n != "If-Match" or route.main
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
        "x-scope": route.scope,
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
