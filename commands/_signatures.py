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


@cache
def log_key(pepper: bytes, zone: str, serial: int) -> Ed25519PrivateKey:
    """The private key that signs checkpoints of the zone's logs, derived as the zone's own is.

    Each rotation takes the next serial number.
    """
    message = b"fogbook log key\0" + zone.encode() + b"\0" + str(serial).encode()
    return Ed25519PrivateKey.from_private_bytes(hmac.digest(pepper, message, hashlib.sha256))


def installation(pepper: bytes) -> str:
    """What the origins of an installation's logs begin with, where nobody named them."""
    seed = hmac.digest(pepper, b"fogbook installation", hashlib.sha256)
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return f"fogbook-{hashlib.sha256(public).hexdigest()[:12]}"


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
