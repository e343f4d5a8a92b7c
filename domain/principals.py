"""Principals: what they say of themselves, the keys that they sign commands with, and their erasure.

A principal's name is a pseudonym: it stays, as does everything that he did. Who stands behind it is said in personal
texts only, which are sealed under his key in the zone (`Personal`). Erasing him is an event like any other; the key is
destroyed because of it, and with it every personal text that he ever wrote there.

A signing key (Ed25519) is another thing: its private half is the principal's alone. Whoever brings a command that he
signed acts for him, and the log proves that he wanted it. The first key is taken on the word of whoever may act for
him, from then on keys follow from keys; only an operator can revoke one otherwise, and that is seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from domain._ed25519 import HEX_SIGNATURE, is_sound_key
from domain._kernel import Decision, Id, Issued, NotFound, Personal, Read, Rejected, Stream, Text
from domain.platform import zones


@dataclass(frozen=True, slots=True)
class Parameters:
    """The bounds of signing, in one place."""

    most_keys: int = 4
    """Live at once: a device each, and one to replace another."""
    most_ahead_s: int = 7 * 86_400
    """How far ahead a signed command may expire: whoever holds it can send it until then."""


P = Parameters()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Events: stored for ever. Add fields with defaults; never rename, never remove.


@dataclass(frozen=True, slots=True)
class ProfileSet:
    display_name: Personal
    contact: Personal
    at: datetime


@dataclass(frozen=True, slots=True)
class SubjectErased:
    """From here on the principal's key in this zone is destroyed, or about to be."""

    principal: str
    by: str
    at: datetime


PrincipalEvent = ProfileSet | SubjectErased


@dataclass(frozen=True, slots=True)
class SigningKeyRegistered:
    key: str
    """Ed25519 public key, 64 hex digits."""
    at: datetime


@dataclass(frozen=True, slots=True)
class SigningKeyRevoked:
    key: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class SignaturesRequired:
    on: bool
    at: datetime


SignerEvent = SigningKeyRegistered | SigningKeyRevoked | SignaturesRequired


@dataclass(frozen=True, slots=True)
class CommandSigned:
    """The first event of a signed command: it holds all that is needed to verify the signature again, beside the
    command's name, the principal and the zone. The nonce is used up."""

    key: str
    nonce: int
    expires: int
    """Seconds since 1970."""
    signature: str
    """Of `command_statement`, 128 hex digits."""
    body: str
    """As it was signed: canonical JSON (RFC 8785), with the hash of each personal text in its place."""
    salt: Personal = ""
    """What personal texts were hashed with, sealed as they are: once it is gone, nobody can try out words."""


# State


@dataclass(frozen=True, slots=True)
class Principal:
    display_name: str = ""
    contact: str = ""
    erased: bool = False


@dataclass(frozen=True, slots=True)
class Signer:
    keys: tuple[str, ...] = ()
    required: bool = False
    """Whether nothing is done in his name without his signature."""


@dataclass(frozen=True, slots=True)
class Signed:
    nonce: int = 0
    """The highest that was used."""


# evolve


def evolve_principal(principal: Principal, event: PrincipalEvent) -> Principal:
    match event:
        case ProfileSet():
            return Principal(event.display_name, event.contact)
        case SubjectErased():
            return Principal(erased=True)


def evolve_signer(signer: Signer, event: SignerEvent) -> Signer:
    match event:
        case SigningKeyRegistered():
            return replace(signer, keys=(*signer.keys, event.key))
        case SigningKeyRevoked():
            return replace(signer, keys=tuple(key for key in signer.keys if key != event.key))
        case SignaturesRequired():
            return replace(signer, required=event.on)


def evolve_signed(signed: Signed, event: CommandSigned) -> Signed:
    return Signed(event.nonce)


principals = Stream("principal", Principal(), evolve_principal, PrincipalEvent)
signers = Stream("signer", Signer(), evolve_signer, SignerEvent)
signatures = Stream("signed", Signed(), evolve_signed, CommandSigned)
"""Apart from the keys, which are few: whoever verifies a log reads all events of the one for a few of the other."""

# Commands


@dataclass(frozen=True, slots=True)
class SetProfile:
    """Say who you are and how you are reached: for yourself, operators and auditors to read. The same again changes
    nothing; empty texts take back what was said."""

    display_name: Personal
    contact: Personal = ""


@dataclass(frozen=True, slots=True)
class EraseSubject:
    """Make all personal texts that a principal wrote in this zone unreadable for good, wherever they went: by the
    principal himself, or by an operator. What he owns and did stays, under his name; from then on he writes no
    personal texts here. What he wrote in other zones is erased there, by a command in each."""

    principal: Id


@dataclass(frozen=True, slots=True)
class RegisterSigningKey:
    """Let whoever brings commands that this Ed25519 key signed act for you. `key` is the public key, 64 hex digits;
    `proof` its signature of the canonical JSON of `domain` ("fogbook signing key v1"), `key`, `principal` and `zone`.
    Once you have a key, another one is registered by a signed command."""

    key: Text
    proof: Text


@dataclass(frozen=True, slots=True)
class RevokeSigningKey:
    """Take back one of your keys, by a command that one of them signed. An operator revokes the key of any
    `principal`, for one who lost it."""

    key: Text
    principal: Id = ""


@dataclass(frozen=True, slots=True)
class RequireSignatures:
    """From now on, let nothing be done in your name that you did not sign: neither with your API key, nor by an
    operator who acts for you. Switched on and off by a signed command."""

    on: bool = True


# Rules


class SubjectIsErased(Rejected):
    """This principal was erased: nothing personal is kept of him any more."""


class PrincipalNotFound(NotFound):
    """There is no such principal, or he is not yours to erase: that is done by himself or by an operator."""


class SigningKeyIsMalformed(Rejected):
    """A signing key is an Ed25519 public key of 64 hex digits, and none of the points that any signature fits."""


class KeyIsNotProven(Rejected):
    """The proof is not this key's signature of zone, principal and key."""


class TooManySigningKeys(Rejected):
    """A bounded number of signing keys is live at once; revoke one first."""


class SigningKeyNotFound(NotFound):
    """You have no such signing key."""


class SignatureIsRequired(Rejected):
    """This needs the principal's signature."""


class SigningKeyIsUnknown(Rejected):
    """The command was signed by a key that is none of the principal's, or is revoked."""


class SignedCommandHasExpired(Rejected):
    """The command was signed for an earlier time."""


class ExpiryIsTooFarAhead(Rejected):
    """A signed command expires within a bounded time."""


class NonceIsUsed(Rejected):
    """Each signed command of a principal has a higher nonce than the one before."""


# Decisions


def set_profile(command: SetProfile, issued: Issued, read: Read) -> Decision:
    principal = read(principals, issued.by)
    if principal.erased:
        raise SubjectIsErased(principal=issued.by)
    if (command.display_name, command.contact) != (principal.display_name, principal.contact):
        yield principals(issued.by), ProfileSet(command.display_name, command.contact, issued.at)


def erase_subject(command: EraseSubject, issued: Issued, read: Read) -> Decision:
    if issued.by != command.principal and not issued.is_operator:
        raise PrincipalNotFound(principal=command.principal)
    if not read(principals, command.principal).erased:
        yield (
            principals(command.principal),
            SubjectErased(command.principal, issued.by, issued.at),
        )


# Decisions: signing keys


def key_statement(zone: str, principal: str, key: str) -> bytes:
    """What a key signs to prove that whoever registers it holds it."""
    return _canonical(
        {"domain": "fogbook signing key v1", "key": key, "principal": principal, "zone": zone}
    ).encode()


def command_statement(zone: str, principal: str, command: str, nonce: int, expires: int, body: str) -> bytes:
    """What a principal signs: canonical JSON (RFC 8785), in which `body` stands as it is. `command` is a name such as
    `ledger/transfer`, `expires` in seconds since 1970. All of it is part of what is signed, so that it counts for
    nothing else and nowhere else."""
    rest = _canonical(
        {
            "command": command,
            "domain": "fogbook command v1",
            "expires": expires,
            "nonce": nonce,
            "principal": principal,
            "zone": zone,
        }
    )
    return f'{{"body":{body},{rest[1:]}'.encode()


def _canonical(said: dict[str, str | int]) -> str:
    """RFC 8785, where names are ASCII."""
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def register_signing_key(command: RegisterSigningKey, issued: Issued, read: Read) -> Decision:
    key, proof = command.key.lower(), command.proof.lower()
    if not is_sound_key(key):
        raise SigningKeyIsMalformed(key=key)
    signer = read(signers, issued.by)
    if key in signer.keys:
        return
    if signer.keys and not issued.signed:
        raise SignatureIsRequired(principal=issued.by)
    if len(signer.keys) >= P.most_keys:
        raise TooManySigningKeys(limit=P.most_keys)
    said = key_statement(read(zones, "self").name, issued.by, key)
    if not HEX_SIGNATURE.match(proof) or not issued.verify(key, said, proof):
        raise KeyIsNotProven(key=key, statement=said.decode())
    yield signers(issued.by), SigningKeyRegistered(key, issued.at)


def revoke_signing_key(command: RevokeSigningKey, issued: Issued, read: Read) -> Decision:
    whose, key = command.principal or issued.by, command.key.lower()
    if (whose != issued.by and not issued.is_operator) or key not in read(signers, whose).keys:
        raise SigningKeyNotFound(key=key)
    if not issued.signed and not issued.is_operator:
        raise SignatureIsRequired(principal=whose)
    yield signers(whose), SigningKeyRevoked(key, issued.by, issued.at)


def require_signatures(command: RequireSignatures, issued: Issued, read: Read) -> Decision:
    if not issued.signed:
        raise SignatureIsRequired(principal=issued.by)
    if read(signers, issued.by).required != command.on:
        yield signers(issued.by), SignaturesRequired(command.on, issued.at)


# Decisions: signed commands, and those that are not


def signed(decide: Callable[..., Decision], signature: CommandSigned) -> Callable[..., Decision]:
    """The decision of a command that was signed so; that the signature is the key's was verified before."""

    def decision(command: object, issued: Issued, read: Read) -> Decision:
        if signature.key not in read(signers, issued.by).keys:
            raise SigningKeyIsUnknown(principal=issued.by, key=signature.key)
        now = (issued.at - EPOCH) // timedelta(seconds=1)
        if signature.expires <= now:
            raise SignedCommandHasExpired(expires=signature.expires, now=now)
        if signature.expires > now + P.most_ahead_s:
            raise ExpiryIsTooFarAhead(expires=signature.expires, now=now, limit_s=P.most_ahead_s)
        last = read(signatures, issued.by).nonce
        if signature.nonce <= last:
            raise NonceIsUsed(nonce=signature.nonce, last=last)
        yield signatures(issued.by), signature
        yield from decide(command, replace(issued, signed=True), read)

    return decision


def may_act_unsigned(kind: type, issued: Issued, read: Read) -> None:
    """Nothing is done in the name of one who wants to sign all of it; but one who has no key left registers one."""
    signer = read(signers, issued.by)
    if signer.required and (signer.keys or kind is not RegisterSigningKey):
        raise SignatureIsRequired(principal=issued.by)
