"""Who sends a command, for whom and on which terms: what its request says beside the body, and who may say so."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgspec
from fastapi import Request
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from commands._models import canonical_id, time
from commands._routes import ANYONE, SERVICE, Route
from commands._signed import Signed, signed_header
from ops.access import Caller, is_reserved
from ops.problems import Problem
from ops.web import zone_of

KEY = re.compile(r"[\x21-\x7e]{1,200}\Z")
CORRELATION = re.compile(r"[A-Za-z0-9._:/-]{1,100}\Z")
TIMER_KEY = "timer:"
"""Keys that begin so say that a timer or a reaction sent the command."""


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


def envelope_of(headers: dict[str, str], caller: Caller, key: str | None, dry_run: bool) -> Envelope:
    """From a request's headers. Raises Problem 400 and 403."""
    zone = zone_of(headers)
    if not caller.may_enter(zone):
        raise Problem(403, "zone-not-allowed", "The key is not for this zone.", zone=zone)
    signed = signed_header(headers.get("fogbook-signed"))
    return Envelope(
        caller,
        zone,
        acting_for(headers.get("fogbook-act-as"), caller) if signed is None else signed.principal,
        "" if dry_run else key_of(key, caller),
        version_of(headers.get("if-match")),
        dry_run,
        named_time(headers.get("fogbook-at"), caller),
        trace_of(headers.get("fogbook-correlation"), "Fogbook-Correlation"),
        trace_of(headers.get("fogbook-causation"), "Fogbook-Causation"),
        signed,
    )


def dry_run_of(request: Request) -> bool:
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


def key_of(key: Any, caller: Caller) -> str:
    if not key:
        raise Problem(400, "idempotency-key-missing", "Each command needs an Idempotency-Key.")
    if not isinstance(key, str) or not KEY.match(key):
        raise Problem(
            400, "malformed-idempotency-key", "An idempotency key is 1 to 200 visible ASCII characters."
        )
    if key.startswith(TIMER_KEY) and caller.role not in SERVICE:
        raise Problem(403, "key-reserved", "Keys that begin with timer: are those of timers and reactions.")
    return key


def version_of(header: str | None) -> int | None:
    if header is None:
        return None
    number = header.strip().strip('"')
    if not number.isdecimal() or len(number) > 18:
        raise Problem(400, "malformed-if-match", 'If-Match names a stream\'s version, such as "7".')
    return int(number)


def acting_for(header: str | None, caller: Caller) -> str:
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


def named_time(header: str | None, caller: Caller) -> datetime | None:
    if header is None:
        return None
    if caller.role not in ("operator", "worker") or "act-at" not in caller.scopes:
        raise Problem(403, "act-at-not-allowed", "Only a key with the scope act-at names the time.")
    try:
        return time(header)
    except PydanticCustomError:
        raise Problem(400, "malformed-time", "Fogbook-At is an RFC 3339 time with its offset.") from None


def trace_of(given: Any, name: str) -> str:
    if given is None:
        return ""
    if not isinstance(given, str) or not CORRELATION.match(given):
        raise Problem(
            400, "malformed-correlation", f"{name} is 1 to 100 of the characters A-Z a-z 0-9 . _ : / -"
        )
    return given


def authority(caller: Caller, by: str) -> str:
    """The role in which a command is decided: whoever acts for another has the other's authority, not his own."""
    return caller.role if by == caller.principal else "participant"


def allow(caller: Caller, route: Route, by: str) -> None:
    role = authority(caller, by)
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


def may_bring(caller: Caller) -> None:
    """A signature is authority enough; but a key that is only to read sends no commands, whoever signed them."""
    if caller.role not in ANYONE:
        raise Problem(
            403,
            "role-not-allowed",
            "A key of this role sends no commands.",
            role=caller.role,
            roles=sorted(ANYONE),
        )
