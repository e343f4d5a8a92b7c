"""People who sign their commands, as a client in another language would: from the published form alone."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.principals import CommandSigned, RegisterSigningKey

SALT = "5a" * 32


class Signer:
    """A principal with a key; `nonce` is the last that he used."""

    def __init__(self, principal: str = "ana", seed: int = 1, zone: str = "main") -> None:
        self.principal = principal
        self.zone = zone
        self.private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.key = self.private.public_key().public_bytes_raw().hex()
        self.nonce = 0

    def sign(self, said: dict[str, Any]) -> str:
        return self.private.sign(rfc8785.dumps(said)).hex()

    def registration(self) -> RegisterSigningKey:
        said = {"key": self.key, "principal": self.principal, "zone": self.zone}
        return RegisterSigningKey(self.key, self.sign(said | {"domain": "fogbook signing key v1"}))

    def signed(
        self,
        command: str,
        body: Any,
        *,
        expires: int,
        nonce: int | None = None,
        zone: str | None = None,
        personal: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """What comes with the command. `personal`: the names of the body's personal texts."""
        self.nonce = nonce if nonce is not None else self.nonce + 1
        hashes = {name: hashed(body[name]) for name in personal}
        statement = {
            "body": {**body, **hashes},
            "command": command,
            "domain": "fogbook command v1",
            "expires": expires,
            "nonce": self.nonce,
            "principal": self.principal,
            "zone": zone or self.zone,
        }
        made = {"principal": self.principal, "key": self.key, "nonce": self.nonce, "expires": expires}
        return made | {"signature": self.sign(statement)} | ({"salt": SALT} if personal else {})

    def header(self, command: str, body: Any, **more: Any) -> str:
        return json.dumps(self.signed(command, body, **more))


def hashed(text: str) -> str:
    return "sha256:" + hashlib.sha256((SALT + text).encode()).hexdigest()


def signature(signer: Signer, nonce: int = 1, expires: int = 2**40) -> CommandSigned:
    """As the edge hands it to the decision, which does not look at what was verified before."""
    return CommandSigned(signer.key, nonce, expires, "00" * 64, "{}")
