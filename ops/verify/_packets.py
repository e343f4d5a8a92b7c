"""Packets between zones: the signatures by which one zone believed another are checked once more.

The log holds what was said (the packet, in the event), who said it (the peer's key as of then, in the peer's stream)
and the signature (in the command's request).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import psycopg

from commands._codec import decode_event, event_types
from commands._signatures import verify
from domain.settlement.transfers import Packet, TransferInitiated, statement
from ops.verify._found import Found

PROVEN = frozenset(
    {"TransferAcknowledged", "TransferRefunded", "TransferReceived", "TransferFailed", "TransferRefused"}
)
assert event_types().keys() >= PROVEN

KEYS = """
SELECT stream, position, type, data FROM events
WHERE zone = %s AND stream >= 'peer:' AND stream < 'peer;' AND type IN ('PeerRegistered', 'PeerKeyRotated')
ORDER BY position
"""

SENT = """
SELECT stream, data FROM events WHERE zone = %s AND stream = ANY(%s) AND type = 'TransferInitiated'
"""


class Body(msgspec.Struct):
    """What the commands that carry a proof have in common."""

    proof: str
    success: bool = False
    at: datetime | None = None
    reason: str = ""


class Request(msgspec.Struct):
    body: Body


_decode = msgspec.json.Decoder(Request).decode


def check_packets(
    connection: psycopg.Connection[Any],
    zone: str,
    packets: list[tuple[int, str, Any, bytes]],
    found: Found,
) -> None:
    """Position, stream, event and the command's request, of each event that a peer's signature stands behind."""
    if not packets:
        return
    keys = _keys(connection, zone)
    outgoing = [stream for _, stream, _, _ in packets if stream.startswith("packet:")]
    sent = {}
    for stream, data in connection.execute(SENT, (zone, outgoing)):
        event = decode_event("TransferInitiated", data)
        assert isinstance(event, TransferInitiated)
        sent[stream] = event.packet
    for position, stream, event, request in packets:
        found.signatures += 1
        try:
            body = _decode(request).body
            packet = sent[stream] if stream.startswith("packet:") else event.packet
            peer, text = _said(packet, event, body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, KeyError) as error:
            found.add(zone, f"what its peer signed is not in the log: {error}", position, stream=stream)
            continue
        known = [key for at, key in keys.get(peer, ()) if at < position]
        if not known or not verify(known[-1], text.encode(), body.proof):
            found.add(zone, f"zone {peer} did not sign what it stands on", position, stream=stream)


def _keys(connection: psycopg.Connection[Any], zone: str) -> dict[str, list[tuple[int, str]]]:
    """The keys of each peer, and since when they count."""
    keys: dict[str, list[tuple[int, str]]] = {}
    for stream, position, type, data in connection.execute(KEYS, (zone,)):
        event: Any = decode_event(type, data)
        keys.setdefault(stream.partition(":")[2], []).append((position, event.key))
    return keys


def _said(packet: Packet, event: Any, body: Body) -> tuple[str, str]:
    """Who said what, by the event that followed from it."""
    match type(event).__name__:
        case "TransferAcknowledged":
            return packet.target, statement("received", packet, body.at, body.reason)
        case "TransferRefunded":
            return packet.target, statement(event.outcome, packet, body.at, body.reason)
    return packet.source, statement("packet", packet)
