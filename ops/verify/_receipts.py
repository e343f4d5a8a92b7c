"""`fogbook verify RECEIPT`: what became of a command, proven without a database."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from commands._signatures import log_key
from ops.home import Refused
from projections._notes import (
    ED25519,
    NoteError,
    VerifierKey,
    parse_checkpoint,
    parse_key,
    parse_note,
    verifier_key,
)
from queries._receipts import ACCEPTED, FAILURES, check_receipt, parse_proof

MOST_RECEIPT_BYTES = 256 * 2**20
MOST_SERIALS = 256
"""Keys that a zone may have had, where they follow from a secret that is at hand."""
SECOND_LOG = "/fates"


def verify_receipt(path: Path, vkeys: Sequence[str], pepper: bytes | None) -> dict[str, Any]:
    """What the receipt proves. Raises Refused where it proves nothing to those who trust these keys."""
    receipt = _read(path)
    try:
        trusted = [str(each) for vkey in vkeys for each in of_both_logs(parse_key(vkey))]
    except NoteError as error:
        raise Refused(f"A key is none: {error}") from error
    try:
        if pepper is not None:
            trusted += map(str, _own(receipt, pepper))
        fate = check_receipt(receipt, trusted)
    except FAILURES as error:
        raise Refused(f"{path} proves nothing: {error}") from error
    return {
        "ok": True,
        "zone": fate.zone,
        "command_id": f"c{fate.number}",
        "accepted": fate.status == ACCEPTED,
        "status": fate.status,
        "position": fate.position,
        "events": fate.events,
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_RECEIPT_BYTES:
            raise Refused(f"{path} is too large for a receipt.")
        receipt = json.loads(path.read_bytes())
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path} is no receipt: it is not JSON.") from error
    if not isinstance(receipt, dict):
        raise Refused(f"{path} is no receipt: it is not a JSON object.")
    return receipt


def of_both_logs(key: VerifierKey) -> Iterator[VerifierKey]:
    """A zone's key signs both of its logs, under their names: whoever trusts it for one has it for the other.

    A name does not say which of the two it is: a zone, too, may be called `fates`.
    """
    yield key
    for name in {key.name + SECOND_LOG, key.name.removesuffix(SECOND_LOG)} - {key.name}:
        yield verifier_key(name, key.public_key, key.type)


def _own(receipt: dict[str, Any], pepper: bytes) -> Iterator[VerifierKey]:
    """The keys that this installation signs with, under the name that the receipt's log has."""
    zone, fate = receipt.get("zone"), receipt.get("fate")
    proof = fate.get("proof") if isinstance(fate, dict) else None
    if not isinstance(zone, str) or not isinstance(proof, str):
        return  # What is wrong with it, `check_receipt` says.
    origin = parse_checkpoint(parse_note(parse_proof(proof).checkpoint).text).origin
    for serial in range(1, MOST_SERIALS + 1):
        yield from of_both_logs(verifier_key(origin, log_key(pepper, zone, serial), ED25519))
