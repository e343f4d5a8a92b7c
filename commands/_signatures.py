"""A zone's key, and signatures by it: Ed25519 (RFC 8032), keys and signatures in hex."""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from commands._codec import cache


@cache
def zone_key(pepper: bytes, zone: str) -> Ed25519PrivateKey:
    """The zone's private key: derived from the installation's secret, so that it is stored nowhere."""
    return Ed25519PrivateKey.from_private_bytes(
        hmac.digest(pepper, b"fogbook zone key\0" + zone.encode(), hashlib.sha256)
    )


def public_key(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


def sign(key: Ed25519PrivateKey, message: bytes) -> str:
    return key.sign(message).hex()


def verify(key: str, message: bytes, signature: str) -> bool:
    """Whether this is the key's signature of the message; malformed keys and signatures are not."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), message)
    except (ValueError, InvalidSignature):
        return False
    return True
