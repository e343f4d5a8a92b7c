"""What an Ed25519 key and signature (RFC 8032) look like in hex, and which keys are none.

Two keys must not stand for one holder, and no key may take any signature for any message: coordinates are below the
field's prime, the point is on the curve, and its order is not 1, 2, 4 or 8. That a signature's second half is below the
group's order, so that nobody makes another one out of it, is checked wherever signatures are verified.
"""

from __future__ import annotations

import re

HEX_KEY = re.compile(r"[0-9a-f]{64}\Z")
HEX_SIGNATURE = re.compile(r"[0-9a-f]{128}\Z")

PRIME = 2**255 - 19
D = -121_665 * pow(121_666, -1, PRIME) % PRIME
ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
"""The y of four of the points of order 8; that of the other four is its negative."""
SMALL_ORDER = frozenset({0, 1, PRIME - 1, ORDER_8, PRIME - ORDER_8})
"""The y of all eight points whose order is 1, 2, 4 or 8."""


def is_sound_key(key: str) -> bool:
    """Whether 64 lower-case hex digits are a public key that only its holder can sign for."""
    if not HEX_KEY.match(key):
        return False
    y = int.from_bytes(bytes.fromhex(key), "little") & (2**255 - 1)  # The last bit is the sign of x.
    if y >= PRIME or y in SMALL_ORDER:
        return False
    # x^2 = (y^2 - 1) / (d y^2 + 1) has a root where the product of both has one (Euler's criterion).
    product = (y * y - 1) * (D * y * y + 1)
    return pow(product, (PRIME - 1) // 2, PRIME) == 1
