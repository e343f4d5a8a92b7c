"""Entries of the logs as bytes, keys that follow from the secret, and what an attestation says."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import threading
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from commands._codec import (
    MOST_ENTRY_BYTES,
    EntryTooLarge,
    attestation_entry,
    attestation_leaf,
    event_entry,
    event_leaf,
    fate_entry,
    fate_leaf,
    hashed_fate_entry,
    zone_prefix,
)
from commands._signatures import installation, log_key, zone_key
from ops.settings import Settings, SettingsIncomplete
from ops.signing import log_origin
from projections._attestations import MOST_LISTED, key_body, read_model_body
from tests.logs import captured_logs
from workers.archivist import run_all

PEPPER = b"a pepper for tests only"
ZONE = zone_prefix("main")
U64 = st.integers(0, 2**63 - 1)
TEXT = st.text(max_size=40)
BYTES = st.binary(max_size=200)


class Reader:
    """Takes an entry apart by what its format says, apart from the code that put it together."""

    def __init__(self, entry: bytes) -> None:
        self.rest = entry

    def take(self, count: int) -> bytes:
        taken, self.rest = self.rest[:count], self.rest[count:]
        assert len(taken) == count
        return taken

    def number(self, format: str) -> int:
        (number,) = struct.unpack(">" + format, self.take(struct.calcsize(">" + format)))
        return int(number)

    def prefixed(self) -> bytes:
        return self.take(self.number("H"))


def leaf(entry: bytes) -> bytes:
    """RFC 6962, 2.1."""
    return hashlib.sha256(b"\x00" + entry).digest()


@given(U64, TEXT, U64, TEXT, U64, BYTES, BYTES)
def test_an_events_entry_holds_all_of_it(
    position: int, stream: str, version: int, type: str, at_us: int, meta: bytes, data: bytes
) -> None:
    fields: tuple[Any, ...] = (ZONE, position, stream, version, type, at_us, meta, data)
    entry = Reader(event_entry(*fields))
    assert event_leaf(*fields) == leaf(entry.rest)
    assert entry.prefixed() == b"main"
    assert entry.number("Q") == position
    assert entry.prefixed() == stream.encode()
    assert entry.number("Q") == version
    assert entry.prefixed() == type.encode()
    assert entry.number("q") == at_us
    assert (entry.prefixed(), entry.prefixed(), entry.rest) == (meta, data, b"")


@given(U64, TEXT, TEXT, TEXT, BYTES, st.none() | U64, st.sampled_from([200, 409]), BYTES, U64, U64)
def test_a_fates_entry_holds_hashes_of_what_may_be_long(
    number: int,
    principal: str,
    act_as: str,
    key: str,
    request: bytes,
    if_match: int | None,
    status: int,
    answer: bytes,
    position: int,
    at_us: int,
) -> None:
    fields: tuple[Any, ...] = (
        *(ZONE, number, principal, act_as, key, request, if_match, status, answer, position, 3, at_us),
    )
    entry = Reader(fate_entry(*fields))
    assert fate_leaf(*fields) == leaf(entry.rest)
    assert entry.prefixed() == b"main"
    assert entry.number("Q") == number
    assert [entry.prefixed() for _ in range(3)] == [principal.encode(), act_as.encode(), key.encode()]
    assert entry.take(32) == hashlib.sha256(request).digest()
    assert entry.number("q") == (-1 if if_match is None else if_match)
    assert entry.number("H") == status
    assert entry.take(32) == hashlib.sha256(answer).digest()
    assert (entry.number("Q"), entry.number("I"), entry.number("q")) == (position, 3, at_us)
    assert entry.rest == b""


@given(U64, U64, TEXT, U64, BYTES)
def test_an_attestations_entry_says_where_it_stands(
    ordinal: int, after_number: int, kind: str, at_us: int, body: bytes
) -> None:
    entry = Reader(attestation_entry(ZONE, ordinal, after_number, kind, at_us, body))
    assert attestation_leaf(ZONE, ordinal, after_number, kind, at_us, body) == leaf(entry.rest)
    assert entry.prefixed() == b"main"
    assert (entry.number("Q"), entry.number("Q")) == (ordinal, after_number)
    assert entry.prefixed() == kind.encode()
    assert entry.number("q") == at_us
    assert (entry.prefixed(), entry.rest) == (body, b"")


@given(st.text(min_size=1, max_size=64), U64, st.integers(0, 2**48 - 1), TEXT, BYTES)
def test_neither_entry_of_the_second_log_can_be_taken_for_the_other(
    principal: str, number: int, after_number: int, text: str, body: bytes
) -> None:
    fate = fate_entry(ZONE, number, principal, text, text, body, None, 200, body, 0, 0, 0)
    attestation = attestation_entry(ZONE, number, after_number, text, 0, body)
    for entry, told in ((fate, True), (attestation, False)):
        read = Reader(entry)
        assert (read.prefixed(), read.number("Q")) == (b"main", number)
        assert (read.number("H") != 0) == told


@given(BYTES, BYTES)
def test_a_fates_entry_needs_the_hashes_only(request: bytes, answer: bytes) -> None:
    hashes = hashlib.sha256(request).digest(), hashlib.sha256(answer).digest()
    assert hashed_fate_entry(ZONE, 1, "p", "a", "k", hashes[0], None, 200, hashes[1], 5, 1, 9) == (
        fate_entry(ZONE, 1, "p", "a", "k", request, None, 200, answer, 5, 1, 9)
    )


def test_what_does_not_fit_into_a_bundle_of_entries_is_refused() -> None:
    def event(room: int) -> bytes:
        return event_entry(ZONE, 1, "s", 1, "t", 0, b"", bytes(room))

    def attestation(room: int) -> bytes:
        return attestation_entry(ZONE, 1, 0, "k", 0, bytes(room))

    for entry in (event, attestation):
        room = MOST_ENTRY_BYTES - len(entry(0))
        assert len(entry(room)) == MOST_ENTRY_BYTES
        for more in (room + 1, MOST_ENTRY_BYTES + 1):
            with pytest.raises(EntryTooLarge):
                entry(more)


def test_a_signing_key_follows_from_the_secret_the_zone_and_its_number() -> None:
    seed = hmac.digest(PEPPER, b"fogbook log key\0main\0" + b"12", hashlib.sha256)
    expected = Ed25519PrivateKey.from_private_bytes(seed).private_bytes_raw()
    assert log_key(PEPPER, "main", 12).private_bytes_raw() == expected
    places = [(PEPPER, "main", 1), (PEPPER, "main", 2), (PEPPER, "other", 1), (b"another pepper", "main", 1)]
    keys = {log_key(*place).private_bytes_raw() for place in places}
    assert len(keys | {zone_key(PEPPER, "main").private_bytes_raw()}) == 5


def test_an_installations_logs_are_named_after_its_secret_unless_somebody_names_them() -> None:
    found = installation(PEPPER)
    assert found == installation(PEPPER) != installation(b"another pepper")
    name, _, id = found.partition("-")
    assert (name, len(id)) == ("fogbook", 12) and set(id) <= set("0123456789abcdef")
    pepper = SecretStr(PEPPER.decode())
    assert log_origin(Settings(pepper=pepper, log_origin="")) == found
    assert log_origin(Settings(pepper=pepper, log_origin="example.org/fogbook")) == "example.org/fogbook"


@pytest.mark.parametrize(
    "origin", ["with space", "a+b", "a\nb", "tab\there", " ", "a\u00a0b", "x" * 129, "\x07"]
)
def test_an_origin_that_no_note_can_carry_is_refused(origin: str) -> None:
    with pytest.raises(SettingsIncomplete, match="FOGBOOK_LOG_ORIGIN"):
        log_origin(Settings(pepper=SecretStr(PEPPER.decode()), log_origin=origin))


def test_an_attestation_of_a_read_model_is_compact_json() -> None:
    assert read_model_body("ledger", 3, "1", 17, "ab" * 32, [4, 9]) == (
        b'{"projection":"ledger","generation":3,"code":"1","position":17,"digest":"' + b"ab" * 32 + b'",'
        b'"quarantined":[4,9]}'
    )
    assert json.loads(key_body("added", 2, bytes(32))) == {
        "act": "added",
        "serial": 2,
        "public_key": "00" * 32,
    }


def test_quarantined_positions_beyond_a_bound_are_counted_so_that_the_entry_fits() -> None:
    positions = [10**17 + i for i in range(MOST_LISTED + 5)]
    body = read_model_body("p" * 60, 10**9, "9" * 20, 10**17, "ab" * 32, positions)
    said = json.loads(body)
    assert (said["quarantined"], said["quarantined_more"]) == (positions[:MOST_LISTED], 5)
    attestation_entry(zone_prefix("z" * 63), 10**18, 10**18, "read-model", 0, body)
    assert "quarantined_more" not in json.loads(read_model_body("p", 1, "1", 1, "", positions[:MOST_LISTED]))


def test_a_loop_that_fails_ends_the_archivist_so_that_it_is_started_again() -> None:
    stopping = threading.Event()

    def wait() -> None:
        stopping.wait()

    def fail() -> None:
        raise RuntimeError("a tree is not as it was thought")

    with captured_logs() as logs:
        assert not run_all([wait, fail], stopping)
    assert [(each["event"], each["log_level"]) for each in logs] == [("archivist_failed", "critical")]
    assert run_all([wait], stopping)  # Told to stop, it has not failed.
