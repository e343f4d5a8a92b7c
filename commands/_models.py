"""From a command's dataclass to its HTTP model, and from a request's bytes to the command.

The kinds of the kernel (`Amount`, `Id`, ...) are checked and canonicalised here, once.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import PydanticCustomError

from commands._codec import cache, decode_json
from commands._subjects import MARK
from domain._kernel import AMOUNT_LIMIT, BASIS_POINTS
from domain.ledger import accounts
from ops.logging import hide_secrets
from ops.problems import Problem

ID = re.compile(r"[a-z0-9._-]{1,64}\Z")
PATH = re.compile(r"[a-z0-9._-]{1,64}(:[a-z0-9._-]{1,64}){0,2}\Z")
ACCOUNT = re.compile(rf"({'|'.join(accounts.categories)})(:[a-z0-9._-]{{1,64}}){{0,2}}\Z")
ASSET = re.compile(r"([a-z0-9._-]{1,64}/)?[A-Z][A-Z0-9]{1,15}\Z")
AMOUNT = re.compile(r"(0|[1-9][0-9]{0,37})\Z")
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)\Z")
JSON_SAFE = 2**53
MOST_SEALED = 2048
"""Characters. 256 that people read have at most 1,024 bytes; sealed they are at most 1,427 characters."""
MOST_DEPTH = 16
MOST_VALUES = 10_000
"""Values of a body, names included; the largest command of any use has a tenth of them."""
YEARS_END = 9000
"""Calendars end with 9999; periods and deadlines that are added to a time have to fit."""


# Kinds


def quantity(value: Any) -> int:
    """A decimal-integer string, or an integer that every JSON reader keeps exact."""
    if type(value) is str and AMOUNT.match(value):
        return int(value)
    if type(value) is int and 0 <= value < JSON_SAFE:
        return value
    raise PydanticCustomError(
        "amount", 'an amount is a decimal-integer string such as "5", below 10^38, or an integer below 2^53'
    )


def amount(value: Any) -> int:
    number = quantity(value)
    if number == 0:
        raise PydanticCustomError("amount_zero", "an amount is at least 1")
    return number


def whole(least: int, most: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is int and least <= value <= most:
            return value
        raise PydanticCustomError(
            "whole_number",
            "a whole number from {least} to {most} is expected",
            {"least": least, "most": most},
        )

    return check


def canonical_id(value: Any) -> str:
    # To lower a letter of another alphabet may make an ASCII one of it: two names that look alike would be one.
    if type(value) is str and value.isascii() and ID.match(canonical := value.strip().lower()):
        return canonical
    raise PydanticCustomError("id", "an id is 1 to 64 of the characters a-z 0-9 . _ -")


def path(value: Any) -> str:
    if type(value) is str and value.isascii():
        if PATH.match(value):
            return value  # As most come; taking it apart costs four times as much.
        parts = value.strip().split(":")
        if 1 <= len(parts) <= 3:
            return ":".join(canonical_id(part) for part in parts)
    raise PydanticCustomError("path", "one to three ids joined by ':' are expected")


def account_id(value: Any) -> str:
    if type(value) is str and ACCOUNT.match(value):
        return value
    account = path(value)
    if account.partition(":")[0] in accounts.categories:
        return account
    raise PydanticCustomError(
        "account", "an account begins with {categories}", {"categories": ", ".join(accounts.categories)}
    )


def wallet_id(value: Any) -> str:
    wallet = path(value)
    return wallet if wallet.startswith("wallet:") else path(f"wallet:{wallet}")


def asset_code(value: Any) -> str:
    if type(value) is str and value.isascii() and ASSET.match(canonical := value.strip()):
        return canonical
    raise PydanticCustomError("asset", "an asset is 2 to 16 of the characters A-Z 0-9, a letter first")


def personal(value: Any) -> str:
    if type(value) is str and len(value) <= 256 and value.isprintable():
        return value
    raise PydanticCustomError("text", "a text is at most 256 printable characters")


def text(value: Any) -> str:
    """Stored as it is, so it must not be what queries would open: somebody's sealed text in other hands."""
    if personal(value).startswith(MARK):
        raise PydanticCustomError("text_sealed", "a text does not begin with {mark}", {"mark": MARK})
    return str(value)


def sealed(value: Any) -> str:
    if type(value) is str and len(value) <= MOST_SEALED and value.isprintable():
        return value
    raise PydanticCustomError("sealed", "a sealed text is at most 2048 printable characters")


def time(value: Any) -> datetime:
    if type(value) is str and RFC3339.match(value):
        try:
            at = datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            at = None
        if at is not None and at.year < YEARS_END:
            return at
    raise PydanticCustomError(
        "time", "a time is RFC 3339 with its offset, before the year 9000, such as 2026-01-31T12:00:00Z"
    )


def flag(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise PydanticCustomError("flag", "true or false is expected")


_AMOUNT_SCHEMA = {"type": "string", "pattern": "^[1-9][0-9]{0,37}$", "examples": ["5000000"]}
_TEXT_SCHEMA = {"type": "string", "maxLength": 256, "pattern": f"^(?!{MARK})"}
_QUANTITY_SCHEMA = {"type": "string", "pattern": "^(0|[1-9][0-9]{0,37})$", "examples": ["0"]}

KINDS: dict[Any, tuple[type, Callable[[Any], Any], dict[str, Any]]] = {
    "amount": (int, amount, _AMOUNT_SCHEMA),
    "quantity": (int, quantity, _QUANTITY_SCHEMA),
    "basis_points": (
        int,
        whole(0, BASIS_POINTS),
        {"type": "integer", "minimum": 0, "maximum": BASIS_POINTS},
    ),
    "count": (int, whole(0, 2**31 - 1), {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}),
    "id": (str, canonical_id, {"type": "string", "pattern": "^[a-z0-9._-]{1,64}$"}),
    "path": (str, path, {"type": "string", "pattern": "^[a-z0-9._-]{1,64}(:[a-z0-9._-]{1,64}){0,2}$"}),
    "account": (
        str,
        account_id,
        {"type": "string", "pattern": f"^({'|'.join(accounts.categories)})(:[a-z0-9._-]{{1,64}}){{0,2}}$"},
    ),
    "wallet": (
        str,
        wallet_id,
        {
            "type": "string",
            "pattern": "^(wallet:)?[a-z0-9._-]{1,64}(:[a-z0-9._-]{1,64})?$",
            "examples": ["ana"],
        },
    ),
    "asset": (str, asset_code, {"type": "string", "pattern": "^([a-z0-9._-]{1,64}/)?[A-Z][A-Z0-9]{1,15}$"}),
    "small_int": (int, whole(1 - 2**31, 2**31 - 1), {"type": "integer"}),
    "text": (str, text, _TEXT_SCHEMA),
    "personal": (str, personal, {"type": "string", "maxLength": 256, "x-personal": True}),
    "sealed": (str, sealed, {"type": "string", "maxLength": MOST_SEALED, "x-personal": True}),
    datetime: (datetime, time, {"type": "string", "format": "date-time"}),
    bool: (bool, flag, {"type": "boolean"}),
    int: (int, whole(0, JSON_SAFE - 1), {"type": "integer", "minimum": 0, "maximum": JSON_SAFE - 1}),
    str: (str, text, _TEXT_SCHEMA),
}

assert AMOUNT_LIMIT == 10**38, "the patterns above say so"


# Models


@cache
def model_of(command: type) -> type[BaseModel]:
    """The pydantic model of a command (or of a part of one)."""
    hints = get_type_hints(command, include_extras=True)
    members: dict[str, Any] = {}
    for f in fields(command):
        required = f.default is MISSING and f.default_factory is MISSING
        default: Any = ... if required else f.default
        info: Any = Field(default, alias=f.name.removesuffix("_"), validate_default=False)
        members[f.name] = (_field_type(hints[f.name]), info)
    config = ConfigDict(extra="forbid", strict=True, populate_by_name=False)
    return create_model(command.__name__, __config__=config, __doc__=command.__doc__, **members)


def _field_type(hint: Any) -> Any:
    if get_origin(hint) in (Union, UnionType):
        (inner,) = (part for part in get_args(hint) if part is not NoneType)
        return _field_type(inner) | None
    if get_origin(hint) is Annotated:
        hint = hint.__metadata__[0]
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        member: Any = _field_type(item)
        return Annotated[tuple[member, ...], Field(strict=False, max_length=1000)]
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return model_of(hint)
    kind: Any
    kind, check, schema = KINDS[hint]
    return Annotated[kind, BeforeValidator(check), Field(json_schema_extra=_replaced(schema))]


def _replaced(schema: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    def replace(generated: dict[str, Any]) -> None:
        default = generated.get("default")
        generated.pop("type", None)
        generated.update(schema)
        if type(default) is int and schema["type"] == "string":
            generated["default"] = str(default)

    return replace


def command_from(command: type, body: Any) -> Any:
    """The command that a parsed body means. Raises Problem 422 that names every field at fault."""
    checker = _checker(command)
    if checker is not None and type(body) is dict:
        # Where it finds anything wrong, the model says what, and in which fields.
        try:
            if (checked := checker(body)) is not None:
                return checked
        except (PydanticCustomError, KeyError):
            pass
    return from_model(command, body)


def from_model(command: type, body: Any) -> Any:
    """The same by the pydantic model alone, which the OpenAPI document shows."""
    try:
        return _as_dataclass(command, model_of(command).model_validate(body))
    except ValidationError as error:
        errors = [
            {"field": ".".join(_printable(part) for part in e["loc"]) or "body", "message": e["msg"]}
            for e in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise Problem(422, "invalid-body", errors[0]["message"], errors=errors) from None


@cache
def _checker(command: type) -> Callable[[dict[str, Any]], Any] | None:
    """What checks a body as the model does, in less time; None for a command that has more than fields of the kinds.
    It returns None, or raises PydanticCustomError or KeyError, where the model refuses."""
    hints = get_type_hints(command, include_extras=True)
    names: dict[str, Any] = {"command": command}
    arguments = []
    for f in fields(command):
        hint, name = hints[f.name], f.name.removesuffix("_")
        kind = hint.__metadata__[0] if get_origin(hint) is Annotated else hint
        if kind not in KINDS or f.default_factory is not MISSING:
            return None
        names[f"check_{name}"], names[f"default_{name}"] = KINDS[kind][1], f.default
        given = f"check_{name}(body[{name!r}])"
        arguments.append(
            given if f.default is MISSING else f"{given} if {name!r} in body else default_{name}"
        )
    names["known"] = frozenset(f.name.removesuffix("_") for f in fields(command))
    source = f"def checked(body): return command({', '.join(arguments)}) if body.keys() <= known else None"
    exec(source, names)  # noqa: S102 - the source is made of field names of our own classes
    checked: Callable[[dict[str, Any]], Any] = names["checked"]
    return checked


def _printable(part: str | int) -> str:
    """A name that the caller made up may be of any length and hold what UTF-8 cannot, or secrets."""
    return hide_secrets(str(part))[:64].encode("utf-8", "replace").decode()


def _as_dataclass(cls: type, model: BaseModel) -> Any:
    values = model.__dict__
    nested = _nested(cls)
    if nested:
        values = dict(values)
        for name, inner in nested.items():
            value = values[name]
            if isinstance(value, tuple):
                values[name] = tuple(_as_dataclass(inner, item) for item in value)
            elif isinstance(value, BaseModel):
                values[name] = _as_dataclass(inner, value)
    return cls(**values)


@cache
def _nested(cls: type) -> dict[str, type]:
    """Fields that are dataclasses or tuples of them."""
    hints = get_type_hints(cls)
    found: dict[str, Any] = {}
    for f in fields(cls):
        for hint in (hints[f.name], *get_args(hints[f.name])):
            if is_dataclass(hint):
                found[f.name] = hint
    return found


# JSON


class _Refused(ValueError):
    """The text is JSON of a kind that is not taken."""

    def __init__(self, detail: str, **facts: Any) -> None:
        self.facts = facts
        super().__init__(detail)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Refused("a name stands twice in an object")
    return found


def _no_fraction(literal: str) -> Any:
    raise _Refused(f"numbers are whole here, not {literal[:20]}")


_decoder = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_float=_no_fraction, parse_constant=_no_fraction
)


def strict_json(body: bytes) -> Any:
    """Parse JSON without the freedoms that let two readers understand it differently. Raises Problem 400."""
    # So few bytes hold no more values than are taken.
    if len(body) < MOST_VALUES and body.isascii() and b"\\" not in body:
        try:
            parsed = decode_json(body)
            if _texts(parsed, MOST_DEPTH) * 2 == body.count(b'"'):
                return parsed
        except (msgspec.DecodeError, RecursionError):
            pass
    return parse_strictly(body)


def _texts(parsed: Any, depth: int) -> int:
    """How many texts, names included, an object of texts, whole numbers, flags and such objects consists of; less
    than 0 for anything else.

    Each text without escapes had two quotes. Where these are as many as the body's, no name stood twice in an object:
    its second place would have taken that of the first.
    """
    if type(parsed) is not dict or not depth:
        return -MOST_VALUES
    found = len(parsed)
    for value in parsed.values():
        kind = type(value)
        if kind is str:
            found += 1
        elif kind is not int and kind is not bool and value is not None:
            found += _texts(value, depth - 1)
    return found


def parse_strictly(body: bytes) -> Any:
    """The same for any JSON, and with what is wrong with it."""
    facts: dict[str, Any] = {}
    try:
        # Hardly any body has so many brackets or commas in all: then nothing needs to be measured.
        if body.count(b"{") + body.count(b"[") > MOST_DEPTH or body.count(b",") > MOST_VALUES // 2:
            _measure(body)
        return _decoder.decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        detail = "the body is not UTF-8"
    except _Refused as error:
        detail, facts = str(error), error.facts
    except ValueError as error:
        if not isinstance(error, json.JSONDecodeError):  # Python reads no number of more digits.
            limit = str(sys.get_int_max_str_digits())
            raise Problem(
                400, "malformed-body", f"A number has more than {limit} digits.", limit=limit
            ) from None
        detail = f"the body is not JSON: {str(error)[:100]}"
    raise Problem(400, "malformed-body", detail[0].upper() + detail[1:] + ".", **facts)


# A text that does not end goes to the end: looking for its end anew from every quote within would take for ever.
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{},:]', re.DOTALL)


def _measure(body: bytes) -> None:
    """How deep JSON is nested, and how many values it has at most, without parsing it. Raises _Refused."""
    depth = values = 0
    for found in _STRUCTURE.finditer(body):
        sign = found[0][:1]
        if sign in b"[{":
            depth += 1
            if depth > MOST_DEPTH:
                limit = str(MOST_DEPTH)
                raise _Refused(
                    f"the body is nested too deeply, at most {limit} levels are taken", limit=limit
                )
        elif sign in b"]}":
            depth -= 1
        if sign in b"[{,:":
            values += 1
            if values > MOST_VALUES:
                limit = str(MOST_VALUES)
                raise _Refused(f"the body has too many values, at most {limit} are taken", limit=limit)
