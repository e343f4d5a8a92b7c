"""Commands that a principal signed: whoever brings one acts for him, whatever key of the API he has himself.

What comes with the command, in the header `Fogbook-Signed` or as the member `signed` of a line, is a JSON object. What
was signed is put together here once more from it and the body as it was sent, so that there is nothing to compare. The
mathematics of it is done here, outside the order of the log; whether the key is the principal's, and the nonce new, is
for the decision (`domain.principals.signed`).

A personal text is stored sealed, and is gone once its author is erased. So it is signed as a hash with the caller's
salt: `"sha256:" + hex(SHA-256(salt + text))`, salt and text as UTF-8. The salt is sealed as the text is. Signatures can
be verified for ever from what the log holds in plain, and nobody finds the words by trying some.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

import msgspec

from commands._models import ID, strict_json
from commands._signatures import verify
from domain.principals import CommandSigned, command_statement
from ops.problems import Problem

MOST_BODY_BYTES = 32_768
"""It stands in an event, which has at most twice as many."""
MOST_SHOWN = 2_000
COMMITMENT = "sha256:"

Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Positive = Annotated[int, msgspec.Meta(ge=1, lt=2**53)]


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signature and what it was made over beside command, zone and body."""

    principal: Annotated[str, msgspec.Meta(pattern=f"^{ID.pattern}")]
    key: Hex32
    nonce: Positive
    expires: Positive
    """Seconds since 1970."""
    signature: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z")]
    salt: Hex32 | None = None
    """Only where the body holds a personal text; to be new for each command."""


def signed_from(given: Any) -> Signed:
    """From parsed JSON. Raises Problem 400."""
    try:
        return msgspec.convert(given, Signed)
    except msgspec.ValidationError as error:
        raise Problem(
            400, "malformed-signed", f"What says who signed the command is malformed: {error}."
        ) from None


def signed_header(header: str | None) -> Signed | None:
    return None if header is None else signed_from(strict_json(header.encode()))


def canonical(body: Any) -> str:
    """RFC 8785, of what commands consist of: texts, whole numbers, flags, lists, and objects with ASCII names."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def commitment(salt: str, text: str) -> str:
    return COMMITMENT + hashlib.sha256((salt + text).encode()).hexdigest()


def verified(
    signed: Signed, zone: str, command: str, body: dict[str, Any], personal: tuple[str, ...]
) -> CommandSigned:
    """What the log will hold of the signature; its salt is not sealed yet. `body` is valid, as it was sent.

    Raises Problem 413 and 422.
    """
    texts = [name for name in personal if body.get(name)]
    if texts and signed.salt is None:
        raise Problem(422, "salt-missing", "Personal texts are signed as hashes with a salt.", fields=texts)
    salt = (signed.salt or "") if texts else ""
    said = canonical(body | {name: commitment(salt, body[name]) for name in texts})
    if len(said.encode()) > MOST_BODY_BYTES:
        limit = str(MOST_BODY_BYTES)
        raise Problem(413, "signed-body-too-large", "A signed body is bounded, in bytes.", limit=limit)
    statement = command_statement(zone, signed.principal, command, signed.nonce, signed.expires, said)
    if not verify(signed.key, statement, signed.signature):
        raise Problem(
            422,
            "signature-is-wrong",
            "This is not the key's signature of what is said here to be signed.",
            statement=statement.decode()[:MOST_SHOWN],
        )
    return CommandSigned(signed.key, signed.nonce, signed.expires, signed.signature, said, salt)
