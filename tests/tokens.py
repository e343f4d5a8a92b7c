"""An identity provider for tests: its keys, its JWK Set as a file, and tokens that it signs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa

ISSUER, AUDIENCE = "https://login.example/", "fogbook"
KINDS = {
    "EdDSA": Ed25519PrivateKey.generate,
    "ES256": lambda: generate_private_key(SECP256R1()),
    "RS256": lambda: generate_rsa(65_537, 2_048),
}


def public_jwk(key: Any, algorithm: str, kid: str) -> dict[str, Any]:
    made: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    made.pop("key_ops", None)
    return made | {"kid": kid, "use": "sig"}


@dataclass
class Provider:
    """Signs with the keys that it has; those of `published` are in its set."""

    file: Path
    keys: dict[str, tuple[str, Any]] = field(default_factory=dict)

    def add(self, kid: str, algorithm: str = "EdDSA", *, publish: bool = True) -> None:
        self.keys[kid] = (algorithm, KINDS[algorithm]())
        if publish:
            self.publish(*self.keys)

    def publish(self, *kids: str) -> None:
        self.publish_jwks([public_jwk(self.keys[kid][1], self.keys[kid][0], kid) for kid in kids])

    def publish_jwks(self, jwks: list[dict[str, Any]]) -> None:
        self.file.write_text(json.dumps({"keys": jwks}))

    def claims(self, **changed: Any) -> dict[str, Any]:
        """What a good token of Ana's says; None leaves a claim out."""
        now = int(time.time())
        usual = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "ana",
            "iat": now,
            "exp": now + 600,
            "role": "participant",
        }
        return {name: value for name, value in (usual | changed).items() if value is not None}

    def token(self, kid: str = "k1", headers: dict[str, Any] | None = None, **changed: Any) -> str:
        algorithm, key = self.keys[kid]
        return jwt.encode(self.claims(**changed), key, algorithm, headers={"kid": kid, **(headers or {})})
