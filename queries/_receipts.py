"""Receipts: what became of a command, as a document that convinces without asking anybody.

A receipt (fogbook-receipt/v1) is JSON: the command's fate, which is an entry of the zone's second log, the stored
request and answer whose hashes that entry holds, and the command's events, which are entries of the first. Each entry
comes with an inclusion proof of C2SP tlog-proof, which ends in a signed checkpoint. Checking one is pure.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from commands._codec import command_number
from projections._notes import NoteError, VerifierKey, from_base64, open_checkpoint, parse_key
from projections._tree import HASH_BYTES, MOST_HASHES, BadProof, leaf_hash, verify_inclusion

FORMAT = "fogbook-receipt/v1"
PROOF_HEADER = "c2sp.org/tlog-proof@v1"
ACCEPTED = 200
MOST_EVENTS = 10_000


class BadReceipt(Exception):
    """A receipt does not prove what it says; the message says why."""


# Proofs as text (C2SP tlog-proof)


@dataclass(frozen=True, slots=True)
class Proof:
    index: int
    hashes: tuple[bytes, ...]
    checkpoint: str

    def __str__(self) -> str:
        hashes = "".join(f"{base64.b64encode(each).decode()}\n" for each in self.hashes)
        return f"{PROOF_HEADER}\nindex {self.index}\n{hashes}\n{self.checkpoint}"


def parse_proof(text: str) -> Proof:
    """Raises BadReceipt. Extra data has no meaning here and is refused."""
    head, blank, checkpoint = text.partition("\n\n")
    header, *lines = head.split("\n")
    if header != PROOF_HEADER or not blank or not lines or len(lines) > 1 + MOST_HASHES:
        raise BadReceipt(f"A proof is {PROOF_HEADER}, an index, hashes, an empty line and a checkpoint.")
    word, _, number = lines[0].partition(" ")
    if word != "index" or not number.isascii() or not number.isdecimal() or str(int(number[:20])) != number:
        raise BadReceipt("The second line of a proof is its index.")
    hashes = tuple(_bytes(line, "A hash of a proof") for line in lines[1:])
    if any(len(each) != HASH_BYTES for each in hashes):
        raise BadReceipt("A hash of a proof has 32 bytes.")
    return Proof(int(number), hashes, checkpoint)


# Entries of the logs


@dataclass(frozen=True, slots=True)
class FateEntry:
    zone: str
    number: int
    request_hash: bytes
    status: int
    answer_hash: bytes
    position: int
    events: int


@dataclass(frozen=True, slots=True)
class EventEntry:
    zone: str
    position: int
    stream: str
    version: int
    type: str
    meta: bytes
    data: bytes


class _Reader:
    """Takes an entry apart, from its first byte to its last."""

    def __init__(self, entry: bytes) -> None:
        self._entry = entry
        self._at = 0

    def take(self, count: int) -> bytes:
        self._at += count
        if self._at > len(self._entry):
            raise BadReceipt("An entry ends too early.")
        return self._entry[self._at - count : self._at]

    def numbers(self, format: str) -> tuple[int, ...]:
        return struct.unpack(format, self.take(struct.calcsize(format)))

    def prefixed(self) -> bytes:
        return self.take(*self.numbers(">H"))

    def text(self) -> str:
        try:
            return self.prefixed().decode()
        except UnicodeDecodeError:
            raise BadReceipt("A text of an entry is not UTF-8.") from None

    def end(self) -> None:
        if self._at != len(self._entry):
            raise BadReceipt("An entry has more bytes than it says.")


def parse_fate(entry: bytes) -> FateEntry:
    """What `commands._codec.fate_entry` wrote. Raises BadReceipt."""
    reader = _Reader(entry)
    zone = reader.text()
    (number,) = reader.numbers(">Q")
    for _ in ("principal", "act-as", "key"):
        reader.text()
    request = reader.take(32)
    _, status = reader.numbers(">qH")
    answer = reader.take(32)
    position, events, _ = reader.numbers(">QIq")
    reader.end()
    return FateEntry(zone, number, request, status, answer, position, events)


def parse_event(entry: bytes) -> EventEntry:
    """What `commands._codec.event_entry` wrote. Raises BadReceipt."""
    reader = _Reader(entry)
    zone = reader.text()
    (position,) = reader.numbers(">Q")
    stream = reader.text()
    (version,) = reader.numbers(">Q")
    type = reader.text()
    reader.numbers(">q")
    meta, data = reader.prefixed(), reader.prefixed()
    reader.end()
    return EventEntry(zone, position, stream, version, type, meta, data)


# Checking


def check_receipt(receipt: Any, vkeys: Iterable[str]) -> FateEntry:
    """What the receipt proves to somebody who trusts these keys of the zone's two logs: the command's fate.

    Raises BadReceipt, and NoteError and BadProof where a checkpoint or a proof in it fails.
    """
    keys = [parse_key(vkey) for vkey in vkeys]
    if not isinstance(receipt, dict):
        raise BadReceipt("A receipt is a JSON object.")
    if _of(receipt, "format", str) != FORMAT:
        raise BadReceipt(f"The receipt's format is not {FORMAT}.")
    zone, id = _of(receipt, "zone", str), _of(receipt, "command_id", str)
    fate, events = _of(receipt, "fate", dict), _of(receipt, "events", list)
    entry = _bytes(fate.get("entry"), "The fate's entry")
    known = parse_fate(entry)
    if known.zone != zone or known.number != command_number(id):
        raise BadReceipt("The fate is not of the command that the receipt names.")
    for name, digest in (("request", known.request_hash), ("answer", known.answer_hash)):
        if sha256(_bytes(fate.get(name), f"The {name}")).digest() != digest:
            raise BadReceipt(f"The {name} is not the one whose hash the fate holds.")
    origin = _included(entry, _of(fate, "proof", str), keys, None)
    if not origin.endswith(f"/{zone}/fates"):
        raise BadReceipt("The fate is not an entry of the zone's second log.")
    if len(events) != known.events or len(events) > MOST_EVENTS:
        raise BadReceipt(f"The fate speaks of {known.events} events, the receipt has {len(events)}.")
    shown = [_check_event(each, known, id, origin.removesuffix("/fates"), keys) for each in events]
    first = known.position - known.events + 1
    if [each.position for each in shown] != list(range(first, known.position + 1)):
        raise BadReceipt("The events do not stand at the positions that the fate names.")
    _check_answer(_bytes(fate["answer"], "The answer"), known, id, shown)
    return known


def _check_event(
    given: Any, fate: FateEntry, id: str, origin: str, keys: Sequence[VerifierKey]
) -> EventEntry:
    if not isinstance(given, dict):
        raise BadReceipt("An event of a receipt is an object.")
    entry = _bytes(given.get("entry"), "An event's entry")
    event = parse_event(entry)
    if event.zone != fate.zone or event.position != given.get("position"):
        raise BadReceipt("An event is not the one of the position that the receipt names.")
    if _included(entry, _of(given, "proof", str), keys, event.position - 1) != origin:
        raise BadReceipt("An event is not an entry of the zone's first log.")
    if _json(event.meta, "An event's metadata").get("command") != id:
        raise BadReceipt(f"The event at position {event.position} is not of this command.")
    return event


def _check_answer(answer: bytes, fate: FateEntry, id: str, events: Sequence[EventEntry]) -> None:
    """That the answer told what the log holds."""
    told = _json(answer, "The answer")
    if fate.status != ACCEPTED:
        if fate.events:
            raise BadReceipt("A refused command has no events.")
        if (told.get("status"), told.get("position", fate.position)) != (fate.status, fate.position):
            raise BadReceipt("The answer did not tell how the command was refused.")
        return
    held = [
        (each.position, each.stream, each.version, each.type, _json(each.data, "Data")) for each in events
    ]
    names = ("position", "stream", "version", "type", "data")
    events_told = told.get("events")
    if not isinstance(events_told, list) or not all(isinstance(each, dict) for each in events_told):
        raise BadReceipt("The answer does not list events.")
    said = [tuple(each.get(name) for name in names) for each in events_told]
    if told.get("command_id") != id or told.get("zone") != fate.zone or said != held:
        raise BadReceipt("The answer did not tell what the log holds.")


def _included(entry: bytes, proof: str, keys: Sequence[VerifierKey], index: int | None) -> str:
    """The origin of the log that the entry is proven to be in."""
    parsed = parse_proof(proof)
    checkpoint = open_checkpoint(parsed.checkpoint, keys)
    if index is not None and parsed.index != index:
        raise BadReceipt("A proof is for another position.")
    verify_inclusion(leaf_hash(entry), parsed.index, checkpoint.size, parsed.hashes, checkpoint.root)
    return checkpoint.origin


def _of(document: dict[str, Any], name: str, kind: type[Any]) -> Any:
    value = document.get(name)
    if not isinstance(value, kind):
        raise BadReceipt(f"The receipt has no {name}.")
    return value


def _bytes(text: Any, what: str) -> bytes:
    data = from_base64(text) if isinstance(text, str) else None
    if data is None:
        raise BadReceipt(f"{what} is not base64.")
    return data


def _json(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadReceipt(f"{what} is not a JSON object.")
    return value


FAILURES = (BadReceipt, BadProof, NoteError)
"""What `check_receipt` raises."""
