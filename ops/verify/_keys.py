"""Whose signatures count: the zones' signing keys, keys that the caller trusts, and checkpoints kept elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psycopg

from commands._signatures import installation, log_key
from ops.home import Refused
from ops.settings import Settings
from ops.verify._book import Attestation, said_of
from ops.verify._found import Found
from ops.verify._trees import Held
from projections._attestations import KEY
from projections._notes import (
    ED25519,
    NoteError,
    VerifierKey,
    open_checkpoint,
    parse_checkpoint,
    parse_key,
    parse_note,
    verifier_key,
)

LOGS = {"events": "", "fates": "/fates"}
"""Each log, and how its origin ends."""

ORIGINS = "SELECT zone, log, origin FROM trees ORDER BY zone, log"

KEYS = "SELECT zone, serial, public_key, retired_at IS NOT NULL FROM signing_keys ORDER BY zone, serial"


class KeyAct(msgspec.Struct):
    act: str
    serial: int
    public_key: str


_decode = msgspec.json.Decoder(KeyAct).decode


@dataclass
class Known:
    """Keys and origins of all zones."""

    origins: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Origin -> zone and log."""
    stored: dict[str, dict[int, tuple[bytes, bool]]] = field(default_factory=dict)
    """Zone -> serial -> public key, and whether it is retired."""
    trusted: dict[str, list[bytes]] = field(default_factory=dict)
    """Zone -> public keys; those that follow from the secret, where it is at hand."""
    vkeys: list[VerifierKey] = field(default_factory=list)

    def keys(self, zone: str) -> list[bytes]:
        return self.trusted.get(zone, [])


def known_logs(
    connection: psycopg.Connection[Any],
    zones: Iterable[str],
    pepper: bytes | None,
    vkeys: Sequence[str],
    found: Found,
) -> Known:
    """Raises Refused where a key is none."""
    known = Known()
    if pepper is not None:
        base = Settings().log_origin or installation(pepper)
        known.origins = {f"{base}/{zone}{LOGS[log]}": (zone, log) for zone in zones for log in LOGS}
    for zone, log, origin in connection.execute(ORIGINS):
        known.origins[origin] = zone, log
    for zone, serial, public_key, retired in connection.execute(KEYS).fetchall():
        known.stored.setdefault(zone, {})[serial] = public_key, retired
        if pepper is not None and public_key != (derived := _derived(pepper, zone, serial)):
            what = "the public key is not the one that follows from the installation's secret"
            found.add(zone, what, table="signing_keys", row=[zone, serial], field="public_key")
            public_key = derived
        known.trusted.setdefault(zone, []).append(public_key)
    if pepper is not None:
        for zone in zones:
            known.trusted.setdefault(zone, [_derived(pepper, zone, 1)])
    for vkey in vkeys:
        try:
            known.vkeys.append(parse_key(vkey))
        except NoteError as error:
            raise Refused(f"{vkey} is no key: {error}") from error
    return known


def _derived(pepper: bytes, zone: str, serial: int) -> bytes:
    return log_key(pepper, zone, serial).public_key().public_bytes_raw()


def sort_held(
    held: Sequence[tuple[str, str]], known: Known, only: str | None
) -> dict[tuple[str, str], list[Held]]:
    """Checkpoints kept elsewhere, by zone and log. Raises Refused where one cannot be used."""
    sorted_out: dict[tuple[str, str], list[Held]] = {}
    for name, text in held:
        try:
            origin = parse_checkpoint(parse_note(text).text).origin
            place = known.origins.get(origin)
            if place is None:
                raise Refused(f"{name} is a checkpoint of {origin}, which is no log of this installation.")
            if only not in (None, place[0]):
                raise Refused(f"{name} is a checkpoint of zone {place[0]}.")
            own = [verifier_key(origin, key, ED25519) for key in known.keys(place[0])]
            checkpoint = open_checkpoint(text, [*own, *known.vkeys])
        except NoteError as error:
            raise Refused(f"{name} cannot be used: {error}") from error
        sorted_out.setdefault(place, []).append(Held(name, checkpoint))
    return sorted_out


def check_keys(zone: str, known: Known, attestations: Iterable[Attestation], found: Found) -> None:
    """The keys that are stored are those that were attested when they were added and retired."""
    attested: dict[int, tuple[str, bool]] = {}
    for said in said_of(zone, attestations, KEY, _decode, found):
        attested[said.serial] = said.public_key, said.act == "retired"
    stored = {serial: (key.hex(), retired) for serial, (key, retired) in known.stored.get(zone, {}).items()}
    for serial in sorted(attested.keys() | stored.keys()):
        if attested.get(serial) != stored.get(serial):
            what = "the key is not what was attested of it"
            found.add(zone, what, table="signing_keys", row=[zone, serial])
