"""Checks a zone's whole history without trusting those who keep it. One file, to be read before it is run.

    python auditor.py --vkey VKEY --export FILE.ndjson[.gz]             what `fogbook export` wrote
    python auditor.py --vkey VKEY --url URL --api-key KEY [--zone ZONE]  a running installation, as an auditor
    ... --checkpoint FILE                                               also one that you kept yourself; repeatable

It needs Python >= 3.11 and the package `cryptography`, and nothing of Fogbook: what it shares with Fogbook are the
public formats alone (RFC 6962 trees; C2SP signed-note, tlog-checkpoint and tlog-tiles; the entries described below).

A zone has two logs. `events`: what happened; entry p - 1 is the event at position p. `fates`: what became of each
command, accepted or refused, and between them attestations. It checks that
 1. each entry's bytes give its leaf hash, and the leaves of each log give the roots of the signed checkpoints;
 2. checkpoints that you kept are of the same history: nothing in it was changed, dropped, reordered or back-dated;
 3. positions, versions within a stream and numbers of commands have no gaps, and time never goes back;
 4. the events of a command stand together, debits equal credits in each, and no account but `world` is below zero;
 5. each command's fate tells of exactly these events, by whom, when and where, and the other way round. (A zone of
    another application has no commands at all; one that has some has no event without its command.)
 6. each signature of a principal under a command is his, by a key that was his then, and counts once; nothing is done
    without it in the name of one who signs everything; keys follow from keys, unless an operator revoked them. (That
    what was decided on is what was signed is for those to see who know what commands mean: `fogbook verify`.)

Exit codes: 0 all of it is proven; 1 something differs (said with its position); 2 the input cannot be used; 3 nothing
differs, but no signature covers all of it: entries behind the newest signed checkpoint are NOT PROVEN.
The order of this file: formats, sources, checks, report.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import gzip
import hashlib
import json
import struct
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MOST_SHOWN = 100
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
POSTINGS = {"Debited": -1, "Credited": +1}
"""The types of events that move value: `amount` of `asset`, from or to the account that their stream is."""

ODD = (ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error)
BROKEN = (*ODD, OSError, EOFError, zlib.error)
"""What reading something raises that is not what it should be."""


class Unusable(Exception):
    """The input cannot be used."""


# Formats: hashes and trees (RFC 6962, section 2.1)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class Tree:
    """Grows leaf by leaf; keeps the roots of the complete subtrees that it is made of, the largest first."""

    def __init__(self) -> None:
        self.size = 0
        self.peaks: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        self.peaks.append(leaf)
        self.size += 1
        size = self.size
        while size % 2 == 0:  # As many subtrees of equal size end here as twos divide the size.
            right, left = self.peaks.pop(), self.peaks.pop()
            self.peaks.append(sha256(b"\x01" + left + right))
            size //= 2

    def root(self) -> bytes:
        if not self.peaks:
            return sha256(b"")
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = sha256(b"\x01" + peak + root)
        return root


# Formats: keys and checkpoints (C2SP signed-note and tlog-checkpoint)


class Key(NamedTuple):
    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        return sha256(self.name.encode() + b"\n\x01" + self.public)[:4]


class Checkpoint(NamedTuple):
    origin: str
    size: int
    root: bytes
    text: str
    signatures: list[tuple[str, bytes]]
    """Name of the key, and its id followed by the signature."""


def from_base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Unusable(f"{what} is not base64.") from None


def parse_vkey(text: str) -> Key:
    """name+hash+base64(0x01 || public key)"""
    name, _, rest = text.partition("+")
    hash, _, material = rest.partition("+")
    public = from_base64(material, "A verifier key's last part")
    key = Key(name, public[1:])
    if len(public) != 33 or public[0] != 1 or key.id.hex() != hash:
        raise Unusable(f"{text} is no Ed25519 verifier key.")
    return key


def parse_checkpoint(note: str, what: str) -> Checkpoint:
    text, blank, lines = note.rpartition("\n\n")
    parts = text.split("\n")
    if not blank or len(parts) != 3 or not parts[1].isdecimal():
        raise Unusable(f"{what} is no checkpoint.")
    signatures = []
    for line in lines.splitlines():
        dash, _, rest = line.partition(" ")
        name, _, value = rest.partition(" ")
        if dash != "\u2014":
            raise Unusable(f"{what} is no signed note.")
        signatures.append((name, from_base64(value, "A signature")))
    return Checkpoint(parts[0], int(parts[1]), from_base64(parts[2], "A root"), text + "\n", signatures)


def is_signed(checkpoint: Checkpoint, keys: list[Key]) -> bool:
    """Whether one of the keys, under the name of the log, has signed the checkpoint."""
    return any(
        key.name == name == checkpoint.origin
        and value[:4] == key.id
        and verifies(key.public, value[4:], checkpoint.text)
        for key in keys
        for name, value in checkpoint.signatures
    )


def verifies(public: bytes, signature: bytes, text: str) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text.encode())
    except InvalidSignature:
        return False
    return True


# Formats: entries. A field is a number (big-endian, in the letters of `struct`), h (a SHA-256 hash), or s (text) or
# b (bytes) behind its 16-bit length. All begin with the zone; times are microseconds since 1970.

EVENT = "sQsQsqbb"  # position, stream, version, type, time, meta, data
FATE = "sQssshqHhQIq"  # number, principal, act-as, key, request, If-Match or -1, status, answer, position, events, time
ATTESTATION = "sQQsqb"  # ordinal, number of the fate before it, kind, time, body


def pack(format: str, *values: Any) -> bytes:
    parts = []
    for kind, value in zip(format, values, strict=True):
        if kind in "sb":
            value = value.encode() if kind == "s" else value
            parts.append(struct.pack(">H", len(value)) + value)
        else:
            parts.append(value if kind == "h" else struct.pack(">" + kind, value))
    return b"".join(parts)


def unpack(format: str, entry: bytes) -> list[Any]:
    values: list[Any] = []
    at = 0
    for kind in format:
        size = 32 if kind == "h" else struct.calcsize(">" + kind)
        if kind in "sb":
            (size,) = struct.unpack_from(">H", entry, at)
            at += 2
        part, at = entry[at : at + size], at + size
        if at > len(entry):
            raise ValueError("the entry ends too early")
        if kind == "s":
            values.append(part.decode())
        else:
            values.append(part if kind in "hb" else struct.unpack(">" + kind, part)[0])
    if at != len(entry):
        raise ValueError("the entry is longer than its fields")
    return values


# Formats: what principals sign is canonical JSON (RFC 8785), in which the body stands as it is.


def statement(zone: str, principal: str, command: str, signed: dict[str, Any]) -> str:
    terms = {"command": command, "domain": "fogbook command v1", "expires": signed["expires"]}
    rest = terms | {"nonce": signed["nonce"], "principal": principal, "zone": zone}
    return f'{{"body":{signed["body"]},' + json.dumps(rest, sort_keys=True, separators=(",", ":"))[1:]


# Sources: each gives the newest checkpoints of both logs, and ("events" or "fates", entry) in the order of each log.


class Export:
    """What `fogbook export` wrote: lines of JSON, the first a manifest, the last a hash of all before it."""

    def __init__(self, path: str) -> None:
        try:
            self.file = (gzip.open if path.endswith(".gz") else open)(path, "rb")
            first = self.file.readline()
            manifest = json.loads(first)["manifest"]
            format, self.zone = manifest["format"], str(manifest["zone"])
            self.counts = {name: manifest[name] for name in ("events", "commands", "attestations")}
            self.checkpoints = {log: note for log, note in manifest["checkpoints"].items() if note}
        except BROKEN as error:
            raise Unusable(f"{path} is no export: {error!r}.") from error
        if format != "fogbook-export/v1" or manifest["slice"] is not None:
            raise Unusable(f"{path} is a slice or of another format: only a whole export can be checked.")
        self.hashed, self.lines = hashlib.sha256(first), 1

    def entries(self) -> Iterator[tuple[str, bytes, bytes | None]]:
        seen = dict.fromkeys(self.counts, 0)
        build = {"event": self.event, "command": self.command, "attestation": self.attestation}
        where = "The export"
        try:
            for line in self.file:
                where = f"Line {self.lines + 1} of the export"
                ((kind, fields),) = json.loads(line).items()
                if kind == "end":
                    if (fields["lines"], fields["sha256"]) != (self.lines, self.hashed.hexdigest()):
                        raise Unusable("The last line of the export tells of other lines than these.")
                    if seen != self.counts or self.file.read(1):
                        raise Unusable("The export holds other entries than its manifest says.")
                    return
                self.hashed.update(line)
                self.lines += 1
                seen[f"{kind}s"] += 1
                log = "events" if kind == "event" else "fates"
                place = seen["events"] if log == "events" else seen["commands"] + seen["attestations"]
                where = f"{log}, entry {place - 1}: line {self.lines} of the export"
                yield log, build[kind](fields), bytes.fromhex(fields["leaf"])
        except BROKEN as error:
            raise Unusable(f"{where} cannot be read: {error!r}.") from error
        raise Unusable("The export was cut off.")

    def event(self, e: dict[str, Any]) -> bytes:
        names = (e["position"], e["stream"], e["version"], e["type"], microseconds(e["recorded_at"]))
        return pack(EVENT, self.zone, *names, stored(e["meta"]), stored(e["data"]))

    def command(self, c: dict[str, Any]) -> bytes:
        who = (c["number"], c["principal"], c["act_as"], c["key"], sha256(stored(c["request"])))
        fate = (-1 if c["if_match"] is None else c["if_match"], c["status"], sha256(stored(c["answer"])))
        return pack(FATE, self.zone, *who, *fate, c["position"], c["events"], microseconds(c["recorded_at"]))

    def attestation(self, a: dict[str, Any]) -> bytes:
        place = (a["ordinal"], a["after_number"], a["kind"], microseconds(a["recorded_at"]))
        return pack(ATTESTATION, self.zone, *place, stored(a["body"]))


def stored(field: Any) -> bytes:
    return field.encode() if isinstance(field, str) else from_base64(field["base64"], "A field")


def microseconds(text: str) -> int:
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


class Server:
    """A running installation: checkpoints and bundles of entries of both of its tiled logs (C2SP tlog-tiles)."""

    def __init__(self, url: str, api_key: str, zone: str) -> None:
        self.url, self.zone = url.rstrip("/"), zone
        self.headers = {"Authorization": f"Bearer {api_key}", "Fogbook-Zone": zone}
        # In this order: by the time that fates are signed, the events that they tell of are in the other tree.
        self.checkpoints = {log: self.get(log, "checkpoint").decode() for log in ("fates", "events")}

    def get(self, log: str, path: str) -> bytes:
        url = f"{self.url}/history/{'fates/' if log == 'fates' else ''}{path}"
        if not url.startswith(("http://", "https://")):
            raise Unusable(f"{self.url} is no address of a server.")
        request = urllib.request.Request(url, headers=self.headers)  # noqa: S310 - as was just checked
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  # nosec B310
                return bytes(answer.read())
        except (OSError, ValueError) as error:
            raise Unusable(f"{url} does not answer: {error}.") from error

    def entries(self) -> Iterator[tuple[str, bytes, bytes | None]]:
        for log in ("events", "fates"):
            size = parse_checkpoint(self.checkpoints[log], "The server's checkpoint").size
            for first in range(0, size, 256):
                width = min(256, size - first)
                bundle = self.get(log, f"tile/entries/{tile_path(first // 256, width)}")
                try:
                    for entry in unpack("b" * width, bundle):
                        yield log, entry, None
                except BROKEN as error:
                    raise Unusable(f"Entries behind {first} of {log} cannot be read: {error}.") from error


def tile_path(number: int, width: int) -> str:
    """x001/x234/067, and .p/8 behind it where fewer than 256 stand there."""
    parts = [f"{number % 1000:03}"]
    while number := number // 1000:
        parts.insert(0, f"x{number % 1000:03}")
    return "/".join(parts) + ("" if width == 256 else f".p/{width}")


# Checks


class Audit:
    def __init__(self, zone: str) -> None:
        self.zone = zone
        self.differences: list[str] = []
        self.count = 0
        self.trees = {"events": Tree(), "fates": Tree()}
        self.marks: dict[str, list[tuple[Checkpoint, str]]] = {"events": [], "fates": []}
        self.proven = {"events": (0, 0), "fates": (0, 0)}
        """How far signed checkpoints go: the size of each log, and the newest command by then."""
        self.position = self.number = self.attestations = 0
        self.times = {"events": -(2**63), "fates": -(2**63)}
        self.versions: dict[str, int] = {}
        self.posted: dict[tuple[str, str], int] = {}
        self.open: dict[str, Any] = {}
        """The command whose events are being read, its place, and what it moves."""
        self.signers: dict[str, list[str]] = {}
        """Keys by which principals sign."""
        self.demanding: dict[str, bool] = {}
        """Who signs everything."""
        self.nonces: dict[str, int] = {}
        self.signatures = 0
        self.told: dict[int, tuple[Any, ...]] = {}
        """By number, what a command's events tell: position, count, time, principal and for whom."""
        self.fates: list[tuple[int, tuple[Any, ...]]] = []
        """The same as fates tell it."""
        self.alone: list[int] = []
        """Positions of events that no command tells of."""

    def differs(self, where: str, what: str) -> None:
        self.count += 1
        if len(self.differences) < MOST_SHOWN:
            self.differences.append(f"{where}: {what}")

    def expect(self, log: str, checkpoint: Checkpoint, what: str) -> None:
        self.marks[log].append((checkpoint, what))
        self.marks[log].sort(key=lambda mark: mark[0].size)
        self.reach(log)

    def reach(self, log: str) -> None:
        """Compare roots as soon as the tree has a size that a checkpoint tells of."""
        tree, marks = self.trees[log], self.marks[log]
        while marks and marks[0][0].size <= tree.size:
            checkpoint, what = marks.pop(0)
            if tree.root() == checkpoint.root:
                self.proven[log] = checkpoint.size, self.number
            else:
                self.differs(f"{log}, size {checkpoint.size}", f"the root is not that of {what}")

    def take(self, log: str, entry: bytes, leaf: bytes | None) -> None:
        where = f"{log}, entry {self.trees[log].size}"
        computed = sha256(b"\x00" + entry)
        if leaf not in (None, computed):
            self.differs(where, "its bytes do not give its leaf hash")
        try:
            # Behind zone and number, a fate has the length of its principal, and an attestation a number below 2^48.
            is_fate = entry[len(pack("s", self.zone)) + 8 :][:2] != bytes(2)
            format = EVENT if log == "events" else FATE if is_fate else ATTESTATION
            zone, number, *fields = unpack(format, entry)
            if zone != self.zone:
                raise ValueError("it is another zone's")
            {EVENT: self.event, FATE: self.fate, ATTESTATION: self.attestation}[format](number, *fields)
        except BROKEN as error:
            self.differs(where, f"it cannot be read: {error!r}")
        self.trees[log].add(computed)
        self.reach(log)

    def attestation(self, ordinal: int, after_number: int, *said: Any) -> None:
        self.attestations += 1
        if (ordinal, after_number) != (self.attestations, self.number):
            self.differs(f"attestation {ordinal}", f"it stands behind command {self.number}")

    def event(self, position: int, *fields: Any) -> None:
        stream, version, type, at, meta, data = fields
        where = f"position {position}"
        if position != self.position + 1:
            self.differs(where, f"the position before it is {self.position}")
        self.position = position
        expected = self.versions.get(stream, 0) + 1
        if version != expected:
            self.differs(where, f"{stream} has version {version} instead of {expected}")
        self.versions[stream] = version
        self.in_time("events", at, where)
        known = json.loads(meta) if meta else {}
        if "command" not in known:
            self.alone.append(position)
            if type in POSTINGS:
                self.differs(where, "it moves value without a command")
            return
        place = (known["command"], known["i"], known["n"])
        command, i, n = self.open.get("place", (place[0], 0, place[2]))
        if place != (command, i + 1, n):
            self.differs(where, f"{place[1]} of {place[2]} of {place[0]} follows {i} of {n} of {command}")
            self.open = {}
        self.open["place"] = place
        value = json.loads(data)
        if type == "CommandSigned":
            self.signed(where, stream, known, at, value)
        elif place[1] == 1:
            self.unsigned(where, type, known.get("by", ""))
        if stream.startswith("signer:"):
            self.signer(stream.partition(":")[2], type, value)
        if type in POSTINGS:
            account, amount = (stream, value["asset"]), POSTINGS[type] * int(value["amount"])
            self.posted[account] = self.posted.get(account, 0) + amount
            self.open.setdefault("moves", []).append((account, amount))
        if place[1] == place[2]:
            self.end(where)
            told = (position, known["n"], at, known["principal"], known["by"])
            self.told[int(known["command"].removeprefix("c"))] = told

    def signer(self, principal: str, type: str, value: dict[str, Any]) -> None:
        keys = self.signers.setdefault(principal, [])
        if type == "SigningKeyRegistered":
            keys.append(value["key"])
        elif type == "SigningKeyRevoked":
            keys.remove(value["key"])
        elif type == "SignaturesRequired":
            self.demanding[principal] = value["on"]

    def signed(self, where: str, stream: str, known: Any, at: int, value: dict[str, Any]) -> None:
        """A signed command begins."""
        principal, key, nonce = known["by"], value["key"], value["nonce"]
        said = statement(self.zone, principal, known["name"], value)
        if (stream, known["i"]) != (f"signed:{principal}", 1):
            self.differs(where, f"it does not begin a command of {principal}")
        if key not in self.signers.get(principal, []):
            self.differs(where, f"{principal} has no such signing key")
        elif not verifies(bytes.fromhex(key), bytes.fromhex(value["signature"]), said):
            self.differs(where, f"{principal} did not sign the command that it stands for")
        if nonce <= self.nonces.get(principal, 0) or at >= value["expires"] * 1_000_000:
            self.differs(where, "its nonce was used, or it had expired")
        self.nonces[principal] = nonce
        self.signatures += 1

    def unsigned(self, where: str, type: str, principal: str) -> None:
        """A command begins without a signature."""
        has_key = bool(self.signers.get(principal))
        adds_key = type == "SigningKeyRegistered"
        if (has_key and adds_key) or (self.demanding.get(principal) and (has_key or not adds_key)):
            self.differs(where, f"{principal} did not sign its command")

    def end(self, where: str) -> None:
        """The end of a command."""
        sums: dict[str, int] = {}
        for (account, asset), amount in self.open.get("moves", []):
            sums[asset] = sums.get(asset, 0) + amount
            if self.posted[account, asset] < 0 and account != "world":
                self.differs(where, f"{account} holds {self.posted[account, asset]} {asset}")
        if any(sums.values()):
            self.differs(where, f"debits and credits of a command differ: {sums}")
        self.open = {}

    def fate(self, number: int, *fields: Any) -> None:
        principal, act_as, _key, _request, _if_match, status, _answer, position, events, at = fields
        where = f"command {number}"
        if number != self.number + 1:
            self.differs(where, f"the number before it is {self.number}")
        self.number = number
        self.in_time("fates", at, where)
        if status not in (200, 409) or (events and status != 200):
            self.differs(where, f"status {status} with {events} events")
        self.fates.append((number, (position, events, at, principal, act_as)))

    def in_time(self, log: str, at: int, where: str) -> None:
        if at < self.times[log]:
            self.differs(where, "its time is before that of the one before it")
        self.times[log] = at

    def finish(self) -> None:
        """Both logs were read to their ends: what one says of the other, and checkpoints of longer logs."""
        if self.open:
            self.differs(f"position {self.position}", f"the log ends within command {self.open['place'][0]}")
        for position in self.alone if self.number else ():
            self.differs(f"position {position}", "no command tells of it")
        before = 0
        for number, fate in self.fates:
            where, (position, events) = f"command {number} at position {fate[0]}", fate[:2]
            if position != before + events:
                self.differs(where, f"it was decided when the log stood at {before}")
            before = position
            told = self.told.pop(number, None)
            if (told or events) and told != fate:
                self.differs(where, "its fate and its events do not tell the same")
        for number, told in self.told.items():
            if number <= self.number:
                self.differs(f"position {told[0]}", f"command {number} has no such fate")
        for log, marks in self.marks.items():
            for checkpoint, what in marks:
                there = f"{what} is of {checkpoint.size} entries, there are {self.trees[log].size}"
                self.differs(f"{log}, size {self.trees[log].size}", f"{there}: the rest was cut off")


# Report


def log_of(checkpoint: Checkpoint, zone: str) -> str | None:
    ends = {"fates": f"/{zone}/fates", "events": f"/{zone}"}
    return next((log for log, end in ends.items() if checkpoint.origin.endswith(end)), None)


def audit(source: Export | Server, keys: list[Key], held: list[tuple[str, str]]) -> Audit:
    found = Audit(source.zone)
    kept = [(parse_checkpoint(note, path), path) for path, note in held]
    for checkpoint, path in kept:
        if not is_signed(checkpoint, keys):
            raise Unusable(f"{path} is not signed by a key that you trust (it is of {checkpoint.origin}).")
        log = log_of(checkpoint, source.zone)
        if log is None:
            raise Unusable(f"{path} is of {checkpoint.origin}, and not of zone {source.zone}.")
        found.expect(log, checkpoint, path)
    for log in ("events", "fates"):
        if log not in source.checkpoints:
            found.differs(log, "no signed checkpoint covers it")
            continue
        checkpoint = parse_checkpoint(source.checkpoints[log], f"The checkpoint of {log}")
        if not is_signed(checkpoint, keys) or log_of(checkpoint, source.zone) != log:
            found.differs(log, "its checkpoint is not signed by a key that you trust")
        found.expect(log, checkpoint, "its signed checkpoint")
    for log, entry, leaf in source.entries():
        found.take(log, entry, leaf)
    found.finish()
    return found


def unproven(found: Audit) -> Iterator[str]:
    """What stands behind the newest signed checkpoints."""
    for log, tree in found.trees.items():
        size, number = found.proven[log]
        if log == "events" and size < tree.size:
            yield f"events: positions {size + 1} to {tree.size} stand behind the newest signed checkpoint"
        elif size < tree.size:
            what = f"from command {number + 1} on" if number < found.number else "all of them attestations"
            yield f"fates: the last {tree.size - size} entries, {what}, stand behind the newest signed checkpoint"


def report(found: Audit, held: int) -> int:
    for line in found.differences:
        print(f"DIFFERS  {line}")
    if found.count:
        print(f"Zone {found.zone}: {found.count} differences. Nothing is proven.")
        return 1
    behind = list(unproven(found))
    for log, (size, _) in found.proven.items():
        print(f"PROVEN   {log}: of {found.trees[log].size} entries, the first {size} are as they were signed")
    word = "HOLDS " if behind else "PROVEN"  # Whoever wrote what was not signed can make it hold.
    accounts = sum(1 for amount in found.posted.values() if amount)
    print(f"{word}   {found.position} positions, {len(found.versions)} streams: no gap, time never goes back")
    print(f"{word}   debits equal credits in every command; {accounts} accounts, none but world below zero")
    print(f"{word}   {found.number} commands and {found.attestations} attestations; events and fates agree")
    if found.signatures:
        print(f"{word}   {found.signatures} commands were signed by their principals, and count once")
    if held:
        print(f"PROVEN   {held} checkpoints that you kept are of this history")
    for line in behind:
        print(f"NOT PROVEN  {line}")
    return 3 if behind else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--vkey", action="append", required=True, help="a key that you trust; repeatable")
    source_is = parser.add_mutually_exclusive_group(required=True)
    source_is.add_argument("--export", help="what `fogbook export` wrote")
    source_is.add_argument("--url", help="a running installation")
    parser.add_argument("--api-key", default="", help="an auditor's key for it")
    parser.add_argument("--zone", default="main", help="which of its zones")
    parser.add_argument("--checkpoint", action="append", default=[], help="one that you kept; repeatable")
    given = parser.parse_args()
    try:
        keys = [parse_vkey(text) for text in given.vkey]
        for key in keys[:]:  # A zone's key signs both of its logs; the name says which.
            keys += [Key(n, key.public) for n in (f"{key.name}/fates", key.name.removesuffix("/fates"))]
        held = [(path, Path(path).read_text(encoding="utf-8")) for path in given.checkpoint]
        source = Export(given.export) if given.export else Server(given.url, given.api_key, given.zone)
        found = audit(source, keys, held)
    except (Unusable, OSError, UnicodeDecodeError) as error:
        print(f"UNUSABLE {error}", file=sys.stderr)
        return 2
    return report(found, len(held))


if __name__ == "__main__":
    sys.exit(main())
