"""The keyring: a key per zone and principal, under which personal texts are sealed before anything stores them.

AES-SIV (RFC 5297) with a random key of 512 bits. It is deterministic: the same words of the same person in the same
field are the same bytes, so a request that is sent again meets the one that was stored. What a sealed text still
tells is its length, and whether two of them are equal.

A sealed text is `enc:v1:<key id>:<base64url>`, authenticated together with the name of its field and the key's id.
Key id and file name are the same HMAC of zone and principal under the installation's pepper, so that the folder tells
nobody's name; folder and pepper belong together, and move together. A key is of one zone because authority is: what one
zone's operators record as erased is what was written there. A text that travels to another zone of the installation
stays under the key of the zone that it was written in.

The folder is key material. It lies outside the database and must stay out of the database's backups: a backup that
holds both undoes every erasure. All API processes of an installation share one folder; those that answer queries
only read it. It is never made here: a folder that is missing is a mount that failed, and new keys in its place would
make what was written before unreadable. Overwriting a file does not reach the copies that flash memory or a
copy-on-write file system may keep: there, let the folder lie on an encrypted volume of its own.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from commands._codec import cache
from commands._signatures import public_key, verify, zone_key

KEY_BYTES = 64
ID_BYTES = 16
MARK = "enc:v1:"
ERASED = "[erased]"
"""What is shown in place of a text whose key was destroyed."""

SEALED_TEXT = re.compile(r"enc:v1:([0-9a-f]{32}):([A-Za-z0-9_-]{22,})")
SEALED = re.compile(rf'"(\w+)"(\s?:\s?)"{SEALED_TEXT.pattern}"')
"""A sealed text in JSON, with the name before it. Inside a string the quotes would be escaped."""

SHOWN_AS = {"dispute": "reason"}
"""Names under which queries show a personal field of another name."""

_show = msgspec.json.Encoder().encode

log = structlog.get_logger("fogbook.subjects")


class KeyDestroyed(Exception):
    """The principal was erased in the zone: nothing personal of his is written there any more, and what was is
    gone."""


class KeyMissing(Exception):
    """The principal never had a key in the zone, and is to get none now."""


class KeyringUnavailable(Exception):
    """The folder of the keys is missing or damaged, or cannot be written; the message says which file."""


class Keyring:
    """The folder of the keys. No key stays in memory: each use reads its file, so destroyed is destroyed at once,
    for every process that shares the folder."""

    def __init__(self, folder: Path, pepper: bytes) -> None:
        self.folder = folder
        self._pepper = pepper
        self._ready: set[str] = set()
        """Ids of keys that this process knows to be stored durably."""

    def id_of(self, zone: str, principal: str) -> str:
        named = f"fogbook subject\0{zone}\0{principal}".encode()
        return hmac.digest(self._pepper, named, hashlib.sha256)[:ID_BYTES].hex()

    # Sealing

    async def sealed(
        self, zone: str, principal: str, texts: Mapping[str, str], *, make: bool = True
    ) -> dict[str, str]:
        """Texts by their fields' names, none of them empty, sealed. The key is made when it is first needed.

        Raises KeyDestroyed, KeyringUnavailable and, where none is to be made, KeyMissing.
        """
        id = self.id_of(zone, principal)
        if make and id not in self._ready:
            await asyncio.to_thread(self.make, zone, principal)
        key = self._key(id)
        if key is None:
            if not make:
                raise KeyMissing
            raise KeyringUnavailable(f"{self._path(id)} is missing.")
        cipher = AESSIV(key)
        return {field: _seal(cipher, field, id, text) for field, text in texts.items()}

    def make(self, zone: str, principal: str) -> None:
        """Make sure that the principal has a key there, and that it is stored durably: of several processes that
        make one at once, one wins. Raises KeyDestroyed and KeyringUnavailable."""
        id = self.id_of(zone, principal)
        try:
            if self._key(id) is None:
                self._write(id)
            # Another process may have made it a moment ago and not flushed yet.
            _flush(self.folder)
            if self._is_destroyed(id):
                # Meanwhile: whoever destroys looks for the key after leaving the tombstone, and perhaps saw none.
                self.destroy(zone, principal)
                raise KeyDestroyed
        except OSError as error:
            raise KeyringUnavailable(str(error)) from error
        self._ready.add(id)

    def _write(self, id: str) -> None:
        """A file with all of the key in it appears under its name at once, or another one is there first."""
        descriptor, unfinished = tempfile.mkstemp(dir=self.folder, prefix=".new.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(unfinished, self._path(id))
        finally:
            os.unlink(unfinished)

    # Packets

    def is_sealed_here(self, text: str) -> bool:
        """Whether a text looks sealed under a key of this folder, be it destroyed by now. Raises KeyringUnavailable."""
        found = SEALED_TEXT.fullmatch(text)
        if found is None:
            return False
        if not self.folder.is_dir():
            raise KeyringUnavailable(f"{self.folder} is missing.")
        try:
            return self._key(found[1]) is not None
        except KeyDestroyed:
            return True

    def is_signed_here(self, zone: str, message: str, signature: str) -> bool:
        """Whether this installation signed a message, as that zone of its own."""
        return verify(public_key(zone_key(self._pepper, zone)), message.encode(), signature)

    # Destroying

    def destroy(self, zone: str, principal: str) -> None:
        """Leave a tombstone, then overwrite and remove the key. Doing it again finishes what was interrupted.

        Raises KeyringUnavailable.
        """
        id = self.id_of(zone, principal)
        path = self._path(id)
        try:
            if self._is_destroyed(id) and not os.path.exists(path):
                return
            os.close(os.open(self._tombstone(id), os.O_WRONLY | os.O_CREAT, 0o600))
            _flush(self.folder)
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_WRONLY)
                try:
                    os.pwrite(descriptor, secrets.token_bytes(KEY_BYTES), 0)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                os.unlink(path)
                _flush(self.folder)
        except OSError as error:
            raise KeyringUnavailable(str(error)) from error

    # Reading

    def reveal(self, items: str) -> str:
        """JSON with each sealed text in it opened, or marked as erased. What no key here opens stays as it is."""
        if MARK not in items:
            return items
        ciphers: dict[str, AESSIV | KeyDestroyed | None] = {}

        def shown(found: re.Match[str]) -> str:
            name, between, id, sealed = found.groups()
            if id not in ciphers:
                ciphers[id] = self._cipher(id)
            cipher = ciphers[id]
            if isinstance(cipher, KeyDestroyed):
                return f'"{name}"{between}"{ERASED}"'
            text = None if cipher is None else _opened(cipher, SHOWN_AS.get(name, name), id, sealed)
            return found[0] if text is None else f'"{name}"{between}{_show(text).decode()}'

        return SEALED.sub(shown, items)

    def _cipher(self, id: str) -> AESSIV | KeyDestroyed | None:
        """What opens texts under this key; None where no key here does."""
        try:
            key = self._key(id)
        except KeyDestroyed as destroyed:
            return destroyed
        except KeyringUnavailable as error:
            log.error("subject_keys_unavailable", error=str(error))
            return None
        return None if key is None else AESSIV(key)

    # Files

    def _path(self, id: str) -> str:
        return f"{self.folder}/{id}"

    def _tombstone(self, id: str) -> str:
        return f"{self.folder}/{id}.erased"

    def _is_destroyed(self, id: str) -> bool:
        try:
            os.stat(self._tombstone(id))
        except FileNotFoundError:
            return False
        return True

    def _key(self, id: str) -> bytes | None:
        """The key, or None where there is none yet. Raises KeyDestroyed and KeyringUnavailable."""
        key = None
        try:
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(self._path(id), os.O_RDONLY)
                try:
                    key = os.read(descriptor, KEY_BYTES + 1)
                finally:
                    os.close(descriptor)
            # Only now: a key is overwritten after its tombstone is there, so without one these bytes are whole.
            if self._is_destroyed(id):
                raise KeyDestroyed
        except OSError as error:
            raise KeyringUnavailable(str(error)) from error
        if key is not None and len(key) != KEY_BYTES:
            raise KeyringUnavailable(f"{self._path(id)} is damaged.")
        return key


def _about(field: str, id: str) -> list[bytes]:
    return [field.encode(), id.encode()]


def _seal(cipher: AESSIV, field: str, id: str, text: str) -> str:
    sealed = cipher.encrypt(text.encode(), _about(field, id))
    return f"{MARK}{id}:{base64.urlsafe_b64encode(sealed).decode().rstrip('=')}"


def _opened(cipher: AESSIV, field: str, id: str, sealed: str) -> str | None:
    try:
        given = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
        return cipher.decrypt(given, _about(field, id)).decode()
    except (binascii.Error, InvalidTag):
        return None


def _flush(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Which fields are personal


@cache
def personal_fields(command: type) -> tuple[str, ...]:
    """The names of a command's personal texts."""
    hints = get_type_hints(command, include_extras=True)
    return tuple(name for name, hint in hints.items() if _is_personal(hint))


def _is_personal(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return bool(hint.__metadata__[0] == "personal")
    inside = any(map(_is_personal, get_args(hint)))
    if is_dataclass(hint) and isinstance(hint, type):
        inside = bool(personal_fields(hint))
    if inside:
        raise TypeError(f"a personal text stands by itself in a command, not inside {hint}")
    return False
