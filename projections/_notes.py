"""Checkpoints: signed notes that say how large a log is and which root its tree has.

Formats of C2SP: signed-note (Ed25519, type 0x01), tlog-checkpoint without extension lines, and the timestamped
cosignatures of witnesses, tlog-cosignature v1 (Ed25519, type 0x04).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519 = 0x01
COSIGNATURE = 0x04
KEY_BYTES = 32
SIGNATURE_BYTES = {ED25519: 64, COSIGNATURE: 8 + 64}
MOST_NOTE_BYTES = 65_536
MOST_SIGNATURES = 100
MOST_SIZE = 1 << 62
MOST_TIMESTAMP = (1 << 63) - 1
DASH = "\u2014 "


class NoteError(Exception):
    """A note, or a key, is not what it should be; the message says why."""


class MalformedNote(NoteError):
    """It does not have the format."""


class UnknownOrigin(NoteError):
    """The checkpoint is of a log that no key is known for."""


class UnknownKey(NoteError):
    """No key that is known has signed the note."""


class ForgedSignature(NoteError):
    """A signature names a key that is known, and is not of that key."""


# Keys


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """Whom a signature is by; as text a vkey: `name+hash+base64(type || public key)`."""

    name: str
    type: int
    public_key: bytes

    @property
    def id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + bytes([self.type]) + self.public_key).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_base64(bytes([self.type]) + self.public_key)}"

    def verify(self, text: str, signature: bytes) -> None:
        """Raises ForgedSignature unless it is this key's signature of the text."""
        try:
            if len(signature) != SIGNATURE_BYTES[self.type]:
                raise ForgedSignature(f"A signature of {self.name} has the wrong length.")
            message = text
            if self.type == COSIGNATURE:
                message = _cosigned(text, _timestamp(signature))
            public_key = Ed25519PublicKey.from_public_bytes(self.public_key)
            public_key.verify(signature[-64:], message.encode())
        except InvalidSignature:
            raise ForgedSignature(f"The signature is not of {self.name}'s key {self.id.hex()}.") from None


def parse_key(vkey: str) -> VerifierKey:
    """Raises MalformedNote where the text is no vkey of a kind that is used here."""
    name, _, rest = vkey.partition("+")
    hash, _, encoded = rest.partition("+")
    material = from_base64(encoded)
    if not _is_name(name) or material is None or len(material) != 1 + KEY_BYTES:
        raise MalformedNote("A verifier key is written name+hash+base64(type, Ed25519 public key).")
    key = VerifierKey(name, material[0], material[1:])
    if key.type not in SIGNATURE_BYTES:
        raise MalformedNote("Keys are of type 1 (Ed25519) or 4 (cosignature v1).")
    if hash != key.id.hex():
        raise MalformedNote("The hash in the verifier key is not of its name and key.")
    return key


def verifier_key(name: str, key: Ed25519PrivateKey | bytes, type: int = ED25519) -> VerifierKey:
    """The public half of a key, or of one whose public half these bytes are."""
    public_key = key if isinstance(key, bytes) else key.public_key().public_bytes_raw()
    if not _is_name(name):
        raise MalformedNote("A key's name has neither spaces nor plus signs.")
    return VerifierKey(name, type, public_key)


# Notes


@dataclass(frozen=True, slots=True)
class Signature:
    name: str
    key_id: bytes
    value: bytes

    def line(self) -> str:
        return f"{DASH}{self.name} {_base64(self.key_id + self.value)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(signature.line() for signature in self.signatures)}"

    def signed_by(self, keys: Iterable[VerifierKey]) -> dict[VerifierKey, Signature]:
        """The signatures by these keys, verified. Raises ForgedSignature; those of other keys are left out."""
        known = {(key.name, key.id): key for key in keys}
        found: dict[VerifierKey, Signature] = {}
        for signature in self.signatures:
            key = known.get((signature.name, signature.key_id))
            if key is not None:
                key.verify(self.text, signature.value)
                found.setdefault(key, signature)
        return found


def parse_note(note: str | bytes) -> Note:
    """Raises MalformedNote."""
    try:
        data = note if isinstance(note, bytes) else note.encode()
        text = data.decode()
    except UnicodeError:
        raise MalformedNote("A note is UTF-8.") from None
    if len(data) > MOST_NOTE_BYTES or any(character < " " and character != "\n" for character in text):
        raise MalformedNote("A note is at most 65,536 bytes, without control characters.")
    body, blank, lines = text.rpartition("\n\n")
    if not blank or not lines.endswith("\n"):
        raise MalformedNote("A note is a text, an empty line, and lines of signatures.")
    given = lines.removesuffix("\n").split("\n")
    if len(given) > MOST_SIGNATURES:
        raise MalformedNote("A note has at most 100 signatures.")
    return Note(body + "\n", tuple(map(_parse_signature, given)))


def _parse_signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(DASH).partition(" ")
    value = from_base64(encoded)
    if not line.startswith(DASH) or not _is_name(name) or value is None or len(value) < 5:
        raise MalformedNote("A signature is a dash, a key's name, and base64.")
    return Signature(name, value[:4], value[4:])


def sign(text: str, name: str, key: Ed25519PrivateKey) -> Signature:
    return Signature(name, verifier_key(name, key).id, key.sign(text.encode()))


def cosign(text: str, name: str, key: Ed25519PrivateKey, timestamp: int) -> Signature:
    """A witness's statement that at this time (seconds) this was the largest consistent tree that it knew."""
    value = timestamp.to_bytes(8, "big") + key.sign(_cosigned(text, timestamp).encode())
    return Signature(name, verifier_key(name, key, COSIGNATURE).id, value)


def _cosigned(text: str, timestamp: int) -> str:
    return f"cosignature/v1\ntime {timestamp}\n{text}"


def _timestamp(signature: bytes) -> int:
    timestamp = int.from_bytes(signature[:8], "big")
    if timestamp > MOST_TIMESTAMP:
        raise ForgedSignature("The time of a cosignature is too large.")
    return timestamp


# Checkpoints


@dataclass(frozen=True, slots=True)
class Checkpoint:
    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"


def sign_checkpoint(checkpoint: Checkpoint, keys: Sequence[Ed25519PrivateKey]) -> str:
    """The note, signed by each key; the name of a log's key is its origin."""
    text = checkpoint.text()
    return str(Note(text, tuple(sign(text, checkpoint.origin, key) for key in keys)))


def parse_checkpoint(text: str) -> Checkpoint:
    """What a note's text says, whoever signed it. Raises MalformedNote."""
    origin, size, root, *more = [*text.split("\n"), "", "", ""][:5]
    decoded = from_base64(root)
    if not _is_name(origin) or not re.fullmatch(r"0|[1-9][0-9]{0,18}", size, re.A) or any(more):
        raise MalformedNote("A checkpoint is three lines: origin, size and root.")
    if decoded is None or len(decoded) != KEY_BYTES or int(size) > MOST_SIZE:
        raise MalformedNote("A checkpoint's root is a SHA-256 hash in base64.")
    checkpoint = Checkpoint(origin, int(size), decoded)
    if checkpoint.text() != text:
        raise MalformedNote("A checkpoint is three lines: origin, size and root.")
    return checkpoint


def open_checkpoint(note: str | bytes, keys: Iterable[VerifierKey]) -> Checkpoint:
    """The checkpoint, if a key of its log has signed it and no signature of a known key is forged.

    Raises MalformedNote, UnknownOrigin, UnknownKey and ForgedSignature.
    """
    parsed, known = parse_note(note), list(keys)
    checkpoint = parse_checkpoint(parsed.text)
    logs = [key for key in known if key.type == ED25519 and key.name == checkpoint.origin]
    if not logs:
        raise UnknownOrigin(f"No key is known of the log {checkpoint.origin}.")
    if not set(parsed.signed_by(known)) & set(logs):
        raise UnknownKey(f"No known key of the log {checkpoint.origin} has signed the checkpoint.")
    return checkpoint


# Text


def _is_name(name: str) -> bool:
    forbidden = any(c == "+" or c < " " or c.isspace() or "\ud800" <= c <= "\udfff" for c in name)
    return bool(name) and not forbidden


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def from_base64(text: str) -> bytes | None:
    """The bytes, if this is the one way to write them."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None
    return data if _base64(data) == text else None
