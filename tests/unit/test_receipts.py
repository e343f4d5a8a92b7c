"""Receipts, checked alone: what convinces, and that everything else is refused with a reason, never with a defect."""

from __future__ import annotations

import base64
import copy
import json
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from commands._codec import event_entry, fate_entry, zone_prefix
from ops.verify._receipts import of_both_logs, verify_receipt
from projections._notes import Checkpoint, parse_key, sign_checkpoint, verifier_key
from projections._tree import Tree, inclusion_proof, leaf_hash
from queries._receipts import (
    FAILURES,
    FORMAT,
    BadReceipt,
    Proof,
    check_receipt,
    parse_event,
    parse_fate,
    parse_proof,
)

ORIGIN = "fogbook-0123456789ab/main"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
VKEYS = [str(verifier_key(origin, KEY)) for origin in (ORIGIN, f"{ORIGIN}/fates")]
ZONE = zone_prefix("main")
REQUEST = b'{"command":"ledger/transfer","act_as":"ana","body":{}}'
EVENTS = [
    {"position": 4, "stream": "wallet:ana", "version": 2, "type": "Debited", "data": {"amount": "5"}},
    {"position": 5, "stream": "wallet:ben", "version": 1, "type": "Credited", "data": {"amount": "5"}},
]
ANSWER = {"command_id": "c3", "zone": "main", "position": 5, "events": EVENTS}


def based(data: bytes) -> str:
    return base64.b64encode(data).decode()


def proofs(origin: str, entries: list[bytes]) -> list[str]:
    """Each entry's proof in a log of just these."""
    tree = Tree()
    tiles = tree.append(map(leaf_hash, entries))
    note = sign_checkpoint(Checkpoint(origin, tree.size, tree.root()), [KEY])

    def tile(level: int, number: int, width: int) -> bytes:
        return tiles[level, number]

    return [
        str(Proof(index, tuple(inclusion_proof(tile, index, tree.size)), note)) for index in range(tree.size)
    ]


def made(
    answer: Any = ANSWER, status: int = 200, meta: Any = None, count: int = 2, origin: str = ORIGIN
) -> dict[str, Any]:
    """The receipt of command c3, as an operator would make it who may sign anything."""
    meta = {"command": "c3"} if meta is None else meta
    said = json.dumps(answer).encode()
    fates = [
        b"one",
        b"two",
        fate_entry(ZONE, 3, "ana", "ana", "key", REQUEST, None, status, said, 5, count, 9),
    ]
    events = [b"one", b"two", b"three"] + [
        event_entry(
            ZONE,
            each["position"],
            each["stream"],
            each["version"],
            each["type"],
            9,
            json.dumps(meta).encode(),
            json.dumps(each["data"]).encode(),
        )
        for each in EVENTS
    ]
    proven = list(zip(events, proofs(origin, events), strict=True))
    return {
        "format": FORMAT,
        "zone": "main",
        "command_id": "c3",
        "fate": {
            "entry": based(fates[2]),
            "request": based(REQUEST),
            "answer": based(said),
            "proof": proofs(f"{ORIGIN}/fates", fates)[2],
        },
        "events": [
            {"position": place, "entry": based(entry), "proof": proof}
            for place, (entry, proof) in enumerate(proven, 1)
        ][5 - count : 5],
    }


GOOD = made()


def test_a_good_receipt_convinces() -> None:
    check_receipt(GOOD, VKEYS)
    check_receipt(json.loads(json.dumps(GOOD)), VKEYS)


def test_the_receipt_of_a_refused_command_has_no_events() -> None:
    refusal = {"type": "/problems/insufficient-funds", "status": 409}
    check_receipt(made(refusal, 409, count=0), VKEYS)
    with pytest.raises(BadReceipt, match="A refused command has no events"):
        check_receipt(made(refusal, 409), VKEYS)


@pytest.mark.parametrize(
    ("receipt", "message"),
    [
        (made({**ANSWER, "command_id": "c4"}), "did not tell what the log holds"),
        (made({**ANSWER, "zone": "village"}), "did not tell what the log holds"),
        (made({**ANSWER, "events": EVENTS[:1]}), "did not tell what the log holds"),
        (made({**ANSWER, "events": [EVENTS[0], {**EVENTS[1], "data": {"amount": "6"}}]}), "did not tell"),
        (made({**ANSWER, "events": "none"}), "does not list events"),
        (made({**ANSWER, "events": ["event", "event"]}), "does not list events"),
        (made([]), "The answer is not a JSON object"),
        (made(meta={"command": "c2"}), "position 4 is not of this command"),
        (made(meta=[]), "metadata is not a JSON object"),
        (made(origin=f"{ORIGIN}/fates"), "not an entry of the zone's first log"),
        ([], "A receipt is a JSON object"),
        ({}, "has no format"),
    ],
)
def test_an_operator_who_signs_anything_is_still_held_to_his_word(receipt: Any, message: str) -> None:
    with pytest.raises(BadReceipt, match=message):
        check_receipt(receipt, VKEYS)


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 200},
        ANSWER,
        {"status": 409, "position": 3},
        {"status": "409", "events": EVENTS, "position": 5},
        {},
    ],
)
def test_an_answer_that_lies_of_a_refusal_is_refused(answer: Any) -> None:
    with pytest.raises(BadReceipt, match="did not tell how the command was refused"):
        check_receipt(made(answer, 409, count=0), VKEYS)


def test_what_became_of_the_command_is_told_by_the_log_and_not_by_the_answer(tmp_path: Path) -> None:
    odd = {"type": "/problems/x", "status": 409, "events": EVENTS, "command_id": "c9"}
    for receipt, accepted in ((GOOD, True), (made(odd, 409, count=0), False)):
        fate = check_receipt(receipt, VKEYS)
        assert (fate.number, fate.position, fate.status) == (3, 5, 200 if accepted else 409)
        (tmp_path / "receipt").write_text('{"command_id":"c9",' + json.dumps(receipt)[1:])
        proven = verify_receipt(tmp_path / "receipt", VKEYS[:1], None)
        assert (proven["command_id"], proven["accepted"], proven["position"]) == ("c3", accepted, 5)


def test_a_key_is_trusted_for_both_logs_of_a_zone_even_of_one_called_fates() -> None:
    assert {key.name for key in of_both_logs(parse_key(VKEYS[1]))} == {
        ORIGIN,
        f"{ORIGIN}/fates",
        f"{ORIGIN}/fates/fates",
    }


def test_a_receipt_of_a_log_that_nobody_knows_convinces_nobody() -> None:
    for keys in ([], VKEYS[:1], VKEYS[1:], [str(verifier_key("elsewhere/main", KEY))]):
        with pytest.raises(FAILURES, match="No key is known of the log"):
            check_receipt(GOOD, keys)
    with pytest.raises(FAILURES, match="verifier key"):
        check_receipt(GOOD, ["no key"])


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.text(max_size=8), st.sampled_from([GOOD["fate"]["proof"]])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [way] if way else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        found += places(inner, (*way, name))
    return found


@settings(max_examples=200)
@given(st.sampled_from(places(GOOD)), JSON)
def test_whatever_stands_in_a_place_of_a_receipt_is_refused_with_a_reason(
    way: tuple[Any, ...], value: Any
) -> None:
    changed = copy.deepcopy(GOOD)
    place: Any = changed
    for name in way[:-1]:
        place = place[name]
    if place[way[-1]] != value:
        place[way[-1]] = value
        with pytest.raises(FAILURES):
            check_receipt(changed, VKEYS)


@settings(max_examples=200)
@given(st.sampled_from([way for way in places(GOOD) if way[-1] in ("entry", "proof", "answer")]), st.data())
def test_a_receipt_with_one_character_changed_is_refused(way: tuple[Any, ...], data: Any) -> None:
    changed = copy.deepcopy(GOOD)
    place: Any = changed
    for name in way[:-1]:
        place = place[name]
    text = place[way[-1]]
    where = data.draw(st.integers(0, len(text) - 1))
    place[way[-1]] = text[:where] + data.draw(st.characters()) + text[where + 1 :]
    if place[way[-1]] != text:
        with pytest.raises(FAILURES):
            check_receipt(changed, VKEYS)


# Entries and proofs


def test_entries_are_read_as_they_are_written() -> None:
    fate = parse_fate(fate_entry(ZONE, 7, "ana", "ben", "key", b"sent", 4, 409, b"said", 12, 0, -5))
    assert (fate.zone, fate.number, fate.status, fate.position, fate.events) == ("main", 7, 409, 12, 0)
    assert (fate.request_hash, fate.answer_hash) == (sha256(b"sent").digest(), sha256(b"said").digest())
    event = parse_event(event_entry(ZONE, 7, "wallet:ana", 3, "Debited", -5, b"{}", b"data"))
    assert (event.position, event.stream, event.version, event.type) == (7, "wallet:ana", 3, "Debited")
    assert (event.zone, event.meta, event.data) == ("main", b"{}", b"data")


@given(st.binary(max_size=200), st.integers(0, 120))
def test_what_is_no_entry_is_refused(data: bytes, cut: int) -> None:
    fate = fate_entry(ZONE, 7, "ana", "ben", "key", b"sent", 4, 409, b"said", 12, 0, 5)
    event = event_entry(ZONE, 7, "wallet:ana", 3, "Debited", 5, b"{}", b"data")
    for parse, entry in ((parse_fate, fate), (parse_event, event)):
        for bad in (entry[:cut] if cut < len(entry) else b"", entry + b"\0", b"\0\1\xff" + entry):
            with pytest.raises(BadReceipt):
                parse(bad)
        with suppress(BadReceipt):
            parse(data)


@given(st.integers(0, 2**62), st.lists(st.binary(min_size=32, max_size=32), max_size=64))
def test_a_proof_is_read_as_it_is_written(index: int, hashes: list[bytes]) -> None:
    proof = Proof(index, tuple(hashes), "a checkpoint\n\nwith signatures\n")
    assert parse_proof(str(proof)) == proof


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c2sp.org/tlog-proof@v1\n\nnote",
        "c2sp.org/tlog-proof@v1\nindex 1\nnote",
        "c2sp.org/tlog-proof@v2\nindex 1\n\nnote",
        "c2sp.org/tlog-proof@v1\nindex 01\n\nnote",
        "c2sp.org/tlog-proof@v1\nindex -1\n\nnote",
        "c2sp.org/tlog-proof@v1\nindex \u0661\n\nnote",
        "c2sp.org/tlog-proof@v1\nplace 1\n\nnote",
        f"c2sp.org/tlog-proof@v1\nindex {'1' * 10_000}\n\nnote",
        "c2sp.org/tlog-proof@v1\nextra AAAA\nindex 1\n\nnote",
        "c2sp.org/tlog-proof@v1\nindex 1\nAAAA\n\nnote",
        "c2sp.org/tlog-proof@v1\nindex 1\n!\n\nnote",
        "c2sp.org/tlog-proof@v1\nindex 1\n" + f"{based(bytes(32))}\n" * 65 + "\nnote",
    ],
)
def test_what_is_no_proof_is_refused(text: str) -> None:
    with pytest.raises(BadReceipt):
        parse_proof(text)
