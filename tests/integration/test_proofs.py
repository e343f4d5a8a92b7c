"""Checkpoints, tiles, proofs, receipts and cosignatures over HTTP: what an auditor, and anybody, can check alone."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import metamorphic_log
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from commands._signatures import installation, log_key
from domain.ledger import MintTokens, OpenWallet, Transfer
from projections._notes import (
    COSIGNATURE,
    Checkpoint,
    Note,
    Signature,
    cosign,
    open_checkpoint,
    parse_key,
    parse_note,
    sign_checkpoint,
    verifier_key,
)
from projections._transparency import Signed, extend_and_sign
from projections._tree import (
    HASH_BYTES,
    TileName,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
    width_of,
)
from queries._receipts import FAILURES, BadReceipt, check_receipt
from tests.conftest import PEPPER, Database
from tests.support import Economy, economy, problem
from workers.checkpoints import Checkpoints

Scene = Callable[[Economy], Awaitable[None]]
SECRET = PEPPER.encode()
ORIGIN = installation(SECRET)
WITNESS = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
WITNESS_NAME = "witness.example/w1"
LOGS = {"events": "", "fates": "fates/"}


@pytest.fixture
def run(database: Database) -> Callable[..., None]:
    """Run a test in a zone where commands c1-c4 were accepted and c5 was refused; nothing is signed yet."""

    def runner(scene: Scene, wait_s: float = 5.0) -> None:
        async def whole() -> None:
            async with economy(database, wait_s=wait_s) as village:
                await village.issue(OpenWallet("wallet:ana"), "ana")
                await village.issue(OpenWallet("wallet:ben"), "ben")
                await village.issue(MintTokens("wallet:ana", 1000, "start", "grant"))
                refusal = await village.send(Transfer("wallet:ana", "wallet:ben", 5_000), "ana")
                assert refusal.status == 409
                await village.catch_up()
                await scene(village)

        asyncio.run(whole())

    return runner


def signed(village: Economy) -> dict[str, Signed]:
    with village.database.signer() as connection:
        return extend_and_sign(connection, SECRET, ORIGIN, village.zone)


async def transfers(village: Economy, count: int) -> None:
    for _ in range(count):
        await village.issue(Transfer("wallet:ana", "wallet:ben", 1), "ana")


@asynccontextmanager
async def signer(village: Economy) -> AsyncIterator[None]:
    """The process that signs checkpoints, at an interval too long to matter."""
    stopping = threading.Event()
    checkpoints = Checkpoints(village.database.signer, SECRET, ORIGIN, 3_600, stopping)
    thread = threading.Thread(target=checkpoints.run)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        await asyncio.to_thread(thread.join)


async def get(village: Economy, path: str, who: str = "olga", **params: Any) -> httpx.Response:
    response = await village.get(f"/history/{path}", who, **params)
    assert response.status_code == 200, response.text
    return response


async def ask(village: Economy, path: str, who: str = "olga", **params: Any) -> Any:
    return (await get(village, path, who, **params)).json()


async def refused(village: Economy, path: str, who: str = "olga", **params: Any) -> tuple[int, str]:
    return problem(await village.get(f"/history/{path}", who, **params))


async def post(village: Economy, body: str | bytes, who: str = "olga") -> httpx.Response:
    headers = {"authorization": f"Bearer {village.key(who)}", "fogbook-zone": village.zone}
    return await village.http.post("/history/cosignatures", content=body, headers=headers)


async def vkeys(village: Economy) -> list[str]:
    return [key["vkey"] for key in (await ask(village, "keys"))["keys"]]


async def checkpoint(village: Economy, log: str = "events", **params: Any) -> tuple[str, Checkpoint]:
    response = await get(village, f"{LOGS[log]}checkpoint", **params)
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["cache-control"] == "private, no-cache"
    return response.text, open_checkpoint(response.text, map(parse_key, await vkeys(village)))


def unbased(texts: list[str]) -> list[bytes]:
    return [base64.b64decode(text) for text in texts]


def execute(village: Economy, sql: str, *values: Any) -> None:
    with village.database.superuser() as connection:
        connection.execute(sql.encode(), values)


# Checkpoints


def test_a_checkpoint_is_a_signed_note_that_others_verify(run: Any) -> None:
    async def scene(village: Economy) -> None:
        for log, published in signed(village).items():
            note, opened = await checkpoint(village, log)
            assert note == published.note and opened.size == published.size
            assert opened.origin == f"{ORIGIN}/main" + ("/fates" if log == "fates" else "")
            head = metamorphic_log.checkpoint_verify(note, await vkeys(village))
            assert (head.origin, head.size, head.root) == (opened.origin, opened.size, opened.root)

    run(scene)


def test_older_checkpoints_stay_and_a_size_that_was_not_signed_has_none(run: Any) -> None:
    async def scene(village: Economy) -> None:
        first = signed(village)["events"]
        await transfers(village, 2)
        second = signed(village)["events"]
        assert (await checkpoint(village, size=first.size))[0] == first.note
        assert (await checkpoint(village))[0] == second.note
        assert await refused(village, "checkpoint", size=first.size + 1) == (404, "checkpoint-not-found")

    run(scene)


def test_where_nothing_is_signed_yet_that_is_said(run: Any) -> None:
    async def scene(village: Economy) -> None:
        for path in ("checkpoint", "fates/checkpoint", "tile/0/000.p/1", "proof/1"):
            assert await refused(village, path) == (404, "checkpoint-not-found")
        assert await refused(village, "receipts/c1") == (404, "checkpoint-not-found")
        assert (await ask(village, "keys"))["keys"] == []
        elsewhere = {"fogbook-zone": "elsewhere"}
        for path in ("checkpoint", "keys", "fates/tile/0/000"):
            response = await village.get(f"/history/{path}", headers=elsewhere)
            assert problem(response) == (404, "zone-not-found")

    run(scene)


def test_whoever_waits_for_a_position_gets_a_checkpoint_at_once_that_covers_it(run: Any) -> None:
    async def scene(village: Economy) -> None:
        async with signer(village):
            for _ in range(3):
                await transfers(village, 1)
                head = village.sequencer.head
                _, opened = await checkpoint(village, min_position=head.position)
                assert opened.size == head.position
                _, opened = await checkpoint(village, "fates", min_number=head.number)
                assert opened.size >= head.number
            # A position that is still to come is waited for as well.
            waiting = asyncio.create_task(checkpoint(village, min_position=head.position + 1))
            await asyncio.sleep(0)
            await transfers(village, 1)
            assert (await waiting)[1].size > head.position

    run(scene)


def test_waiting_is_bounded(run: Any) -> None:
    async def scene(village: Economy) -> None:
        signed(village)
        head = village.sequencer.head
        for log, name, most in (
            ("events", "min_position", head.position),
            ("fates", "min_number", head.number),
        ):
            assert (await checkpoint(village, log, **{name: most}))[1].size >= most
            for wanted in (most + 1, 10**18 - 1):
                answer = await refused(village, f"{LOGS[log]}checkpoint", **{name: wanted})
                assert answer == (504, "checkpoint-not-reached")
        await transfers(village, 1)
        assert await refused(village, "checkpoint", min_position=head.position + 1) == (
            504,
            "checkpoint-not-reached",
        )
        assert await refused(village, "receipts/c6", wait="true") == (504, "checkpoint-not-reached")
        assert await refused(village, "receipts/c6") == (404, "beyond-checkpoint")
        village.service.running().positions.let_go()  # The server stops.
        assert await refused(village, "checkpoint", min_position=head.position + 1) == (503, "unavailable")

    run(scene, wait_s=0.1)


def test_a_command_is_waited_for_by_its_number_where_most_were_refused(run: Any) -> None:
    """Refused commands have numbers and no positions, so the log of fates outgrows that of events."""

    async def scene(village: Economy) -> None:
        for _ in range(village.sequencer.head.position):
            assert (await village.send(Transfer("wallet:ana", "wallet:ben", 10**9), "ana")).status == 409
        head = village.sequencer.head
        assert head.number > head.position
        signed(village)
        receipt = await ask(village, f"receipts/c{head.number}", "ana", wait="true")
        assert receipt["command_id"] == f"c{head.number}"
        assert (await checkpoint(village, "fates", min_number=head.number))[1].size >= head.number

    run(scene)


# Tiles


async def tile_reader(village: Economy, log: str, size: int) -> Callable[[int, int, int], bytes]:
    """Fetches each tile of a tree as a client would: by its path, as wide as the checkpoint says."""
    held: dict[TileName, bytes] = {}
    for level in range(3):
        for number in range((size >> 8 * level) // 256 + 1):
            width = width_of(size, level, number)
            if width > 0:
                name = TileName(level, number, width)
                response = await get(village, f"{LOGS[log]}{name.path()}")
                assert response.headers["content-type"] == "application/octet-stream"
                assert "immutable" in response.headers["cache-control"]
                held[name] = response.content
    return lambda level, number, width: held[TileName(level, number, width)]


async def entries(village: Economy, log: str, size: int) -> list[bytes]:
    """The log's entries, out of bundles."""
    found = []
    for number in range((size + 255) // 256):
        name = TileName(-1, number, width_of(size, 0, number))
        bundle = (await get(village, f"{LOGS[log]}{name.path()}")).content
        while bundle:
            length = int.from_bytes(bundle[:2], "big")
            found.append(bundle[2 : 2 + length])
            bundle = bundle[2 + length :]
    return found


def test_tiles_lead_to_the_root_and_bundles_to_the_tiles(run: Any) -> None:
    async def scene(village: Economy) -> None:
        for _ in range(3):  # So that attestations stand at several places of the second log.
            signed(village)
            await transfers(village, 90)
            await village.catch_up()
        signed(village)
        for log in LOGS:
            _, opened = await checkpoint(village, log)
            assert opened.size > 256
            tile = await tile_reader(village, log, opened.size)
            assert root_of(tile, opened.size) == opened.root
            hashes = [leaf_hash(entry) for entry in await entries(village, log, opened.size)]
            assert len(hashes) == opened.size
            stored = b"".join(
                tile(0, n, width_of(opened.size, 0, n)) for n in range((opened.size + 255) // 256)
            )
            assert b"".join(hashes) == stored
            plain = await village.get(
                f"/history/{LOGS[log]}tile/entries/000", headers={"accept-encoding": "identity"}
            )
            packed = await get(village, f"{LOGS[log]}tile/entries/000")
            assert packed.headers["content-encoding"] == "gzip" and "content-encoding" not in plain.headers
            assert packed.content == plain.content and packed.headers["vary"].endswith("Accept-Encoding")
            # A narrower tile of a tree that was smaller is there as well.
            narrow = (await get(village, f"{LOGS[log]}tile/0/000.p/7")).content
            assert narrow == stored[: 7 * HASH_BYTES]

    run(scene)


def test_what_no_checkpoint_covers_is_no_tile(run: Any) -> None:
    async def scene(village: Economy) -> None:
        size = signed(village)["events"].size
        await transfers(village, 1)
        for path in (
            f"0/000.p/{size + 1}",
            "0/000",
            "0/001.p/1",
            "1/000.p/1",
            f"entries/000.p/{size + 1}",
            "63/000",
        ):
            assert await refused(village, f"tile/{path}") == (404, "tile-not-found")
        for path in ("0/0", "64/000", "0/000.p/0", "0/000.p/256", "entries/", "x", "0/000/", "data/000"):
            assert await refused(village, f"tile/{path}") == (404, "tile-not-found")

    run(scene)


# Proofs


def test_every_entry_is_proven_and_others_agree(run: Any) -> None:
    async def scene(village: Economy) -> None:
        signed(village)
        await transfers(village, 3)
        await village.catch_up()
        newest, keys, head = signed(village), await vkeys(village), village.sequencer.head
        for log in LOGS:
            size = newest[log].size
            stored = await entries(village, log, size)
            places = set()
            for number in range(1, (head.position if log == "events" else head.number) + 1):
                proof = await ask(village, f"{LOGS[log]}proof/{number}")
                index, leaf = proof["index"], bytes.fromhex(proof["leaf"])
                places.add(index)
                hashes = unbased(proof["hashes"])
                verify_inclusion(leaf, index, proof["size"], hashes, bytes.fromhex(proof["root"]))
                metamorphic_log.checkpoint_verify_inclusion(proof["checkpoint"], keys, index, leaf, hashes)
                assert leaf_hash(base64.b64decode(proof["entry"])) == leaf == leaf_hash(stored[index])
                name = "position" if log == "events" else "number"
                assert proof[name] == number and proof["log"] == log and proof["size"] == size
            assert len(places) == (head.position if log == "events" else head.number)

    run(scene)


def test_an_entry_is_proven_under_the_checkpoint_that_somebody_holds(run: Any) -> None:
    async def scene(village: Economy) -> None:
        size = signed(village)["events"].size
        await transfers(village, 5)
        signed(village)
        proof = await ask(village, "proof/3", size=size)
        assert proof["checkpoint"] == (await checkpoint(village, size=size))[0]
        verify_inclusion(
            bytes.fromhex(proof["leaf"]), 2, size, unbased(proof["hashes"]), bytes.fromhex(proof["root"])
        )
        assert await refused(village, f"proof/{size + 1}", size=size) == (404, "beyond-checkpoint")
        assert await refused(village, "proof/3", size=size + 1) == (404, "checkpoint-not-found")

    run(scene)


def test_each_checkpoint_is_the_beginning_of_the_later_ones(run: Any) -> None:
    async def scene(village: Economy) -> None:
        published = []
        for count in (0, 1, 7, 90, 30):
            await transfers(village, count)
            published.append(signed(village))
        keys = await vkeys(village)
        for log in LOGS:
            notes = {each[log].size: each[log] for each in published}
            for first in notes:
                for second in (size for size in notes if size >= first):
                    proof = await ask(village, f"{LOGS[log]}consistency", **{"from": first, "to": second})
                    hashes = unbased(proof["hashes"])
                    old, new = notes[first], notes[second]
                    assert (proof["from_root"], proof["to_root"]) == (old.root.hex(), new.root.hex())
                    verify_consistency(first, second, old.root, new.root, hashes)
                    metamorphic_log.checkpoint_verify_consistency(old.note, new.note, keys, hashes)
            assert (await ask(village, f"{LOGS[log]}consistency", **{"from": 2}))["to"] == max(notes)

    run(scene)


BAD: list[tuple[str, dict[str, Any], tuple[int, str]]] = [
    ("proof/1000", {}, (404, "beyond-checkpoint")),
    ("fates/proof/1000", {}, (404, "beyond-checkpoint")),
    ("proof/0", {}, (404, "not-found")),
    ("proof/one", {}, (422, "invalid-parameter")),
    ("proof/-1", {}, (422, "invalid-parameter")),
    ("proof/1", {"size": "many"}, (422, "invalid-parameter")),
    ("proof/1", {"size": 10**6}, (404, "checkpoint-not-found")),
    ("proof/1", {"at": 1}, (422, "unknown-parameter")),
    ("consistency", {}, (422, "missing-parameter")),
    ("consistency", {"from": 0}, (422, "sizes-reversed")),
    ("consistency", {"from": 5, "to": 4}, (422, "sizes-reversed")),
    ("consistency", {"from": 1, "to": 10**6}, (404, "beyond-checkpoint")),
    ("consistency", {"from": 10**6}, (422, "sizes-reversed")),
    ("consistency", {"from": "x"}, (422, "invalid-parameter")),
    ("consistency", {"from": [1, 2]}, (422, "repeated-parameter")),
    ("checkpoint", {"min_position": "x"}, (422, "invalid-parameter")),
    ("checkpoint", {"min_number": 1}, (422, "unknown-parameter")),
    ("fates/checkpoint", {"min_position": 1}, (422, "unknown-parameter")),
    ("keys", {"serial": 1}, (422, "unknown-parameter")),
    ("receipts/c999", {}, (404, "command-not-found")),
    ("receipts/17", {}, (404, "command-not-found")),
    ("receipts/c1", {"wait": "maybe"}, (422, "invalid-parameter")),
]


def test_what_cannot_be_answered_is_a_clear_problem(run: Any) -> None:
    async def scene(village: Economy) -> None:
        signed(village)
        for path, params, expected in BAD:
            assert await refused(village, path, **params) == expected, (path, params)

    run(scene)


def test_only_auditors_and_operators_read_the_logs(run: Any) -> None:
    async def scene(village: Economy) -> None:
        signed(village)
        for path in ("checkpoint", "fates/checkpoint", "tile/0/000.p/1", "proof/1", "consistency"):
            assert await refused(village, path, "ana") == (403, "role-not-allowed")
        assert problem(await post(village, "note", "ana")) == (403, "role-not-allowed")
        assert await ask(village, "keys", "ana") == await ask(village, "keys", "admin")

    run(scene)


# What somebody with access to the database has changed


def test_a_truncated_tile_is_named_and_nothing_is_proven_from_it(run: Any) -> None:
    async def scene(village: Economy) -> None:
        signed(village)
        execute(village, "UPDATE tiles SET hashes = substr(hashes, 1, 50) WHERE log = 'events' AND level = 0")
        for path in ("tile/0/000.p/2", "proof/1", "consistency", "receipts/c2"):
            response = await village.get(f"/history/{path}", **({"from": 2} if path == "consistency" else {}))
            assert problem(response) == (500, "tile-truncated")
            assert response.json()["facts"]["tile"].startswith("tile/0/000.p/")

    run(scene)


def test_no_proof_is_given_that_does_not_hold(run: Any) -> None:
    async def scene(village: Economy) -> None:
        size = signed(village)["events"].size
        execute(village, "UPDATE events SET data = data || ' ' WHERE position = 2")
        response = await village.get("/history/proof/2")
        assert problem(response) == (500, "tree-damaged") and response.json()["facts"] == {"index": "1"}
        await ask(village, "proof/3")
        for change in (
            "meta = convert_to(repeat('x', 70000), 'UTF8')",
            "recorded_at = 'infinity'",
            "version = -1",
        ):
            execute(village, f"UPDATE events SET {change} WHERE position = 2")
            assert await refused(village, "proof/2") == (500, "tree-damaged")
        flip = "UPDATE tiles SET hashes = set_byte(hashes, 70, get_byte(hashes, 70) # 1) WHERE log = 'events'"
        execute(village, flip)
        assert await refused(village, "proof/4") == (500, "tree-damaged")
        assert await refused(village, "consistency", **{"from": size}) == (500, "tree-damaged")

    run(scene)


def test_entries_that_are_gone_are_not_passed_over(run: Any) -> None:
    async def scene(village: Economy) -> None:
        size = signed(village)["fates"].size
        execute(village, "DELETE FROM events WHERE position = 3")
        execute(village, "DELETE FROM commands WHERE number = 3")
        assert await refused(village, "tile/entries/000.p/5") == (500, "entries-missing")
        assert await refused(village, "proof/3") == (500, "entries-missing")
        assert await refused(village, f"fates/tile/entries/000.p/{size}") == (500, "entries-missing")
        await get(village, "tile/entries/000.p/2")

    run(scene)


# Receipts


def test_an_accepted_command_has_a_receipt_that_convinces_offline(run: Any) -> None:
    async def scene(village: Economy) -> None:
        async with signer(village):
            answer = await village.issue(Transfer("wallet:ana", "wallet:ben", 7), "ana")
            receipt = await ask(village, f"receipts/{answer['command_id']}", "ana", wait="true")
        check_receipt(receipt, await vkeys(village))
        assert receipt["format"] == "fogbook-receipt/v1" and receipt["zone"] == "main"
        assert [event["position"] for event in receipt["events"]] == [e["position"] for e in answer["events"]]
        assert json.loads(base64.b64decode(receipt["fate"]["answer"])) == answer
        assert json.loads(base64.b64decode(receipt["fate"]["request"]))["command"] == "ledger/transfer"
        assert receipt["fate"]["proof"].startswith("c2sp.org/tlog-proof@v1\nindex ")

    run(scene)


def test_a_refused_command_has_a_signed_receipt_too(run: Any) -> None:
    async def scene(village: Economy) -> None:
        signed(village)
        receipt = await ask(village, "receipts/c5", "ana")
        check_receipt(receipt, await vkeys(village))
        assert receipt["events"] == []
        assert json.loads(base64.b64decode(receipt["fate"]["answer"]))["status"] == 409

    run(scene)


def test_every_receipt_convinces_and_only_its_own_people_get_it(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await transfers(village, 2)
        signed(village)
        keys = await vkeys(village)
        for number in range(1, village.sequencer.head.number + 1):
            check_receipt(await ask(village, f"receipts/c{number}"), keys)
        await ask(village, "receipts/c2", "ana")
        await ask(village, "receipts/c3", "ben")
        for who, id in (("ben", "c2"), ("ana", "c3"), ("ana", "c4"), ("ben", "c5")):
            assert await refused(village, f"receipts/{id}", who) == (404, "command-not-found")

    run(scene)


def test_a_receipt_that_was_changed_anywhere_convinces_nobody(run: Any) -> None:
    async def scene(village: Economy) -> None:
        signed(village)
        keys = await vkeys(village)
        receipt = await ask(village, "receipts/c4")
        other, refusal = await ask(village, "receipts/c3"), await ask(village, "receipts/c5")
        flipped = bytearray(base64.b64decode(receipt["events"][1]["entry"]))
        flipped[-3] ^= 1
        more = base64.b64encode(base64.b64decode(receipt["fate"]["answer"]) + b" ").decode()
        proof = receipt["fate"]["proof"]
        changes: list[tuple[list[Any], Any]] = [
            (["format"], "fogbook-receipt/v2"),
            (["zone"], "village"),
            (["command_id"], "c3"),
            (["command_id"], "4"),
            (["fate"], other["fate"]),
            (["fate"], None),
            (["fate", "answer"], more),
            (["fate", "answer"], other["fate"]["answer"]),
            (["fate", "request"], other["fate"]["request"]),
            (["fate", "request"], 7),
            (["fate", "entry"], other["fate"]["entry"]),
            (["fate", "entry"], "no base64"),
            (["fate", "entry"], base64.b64encode(b"\0").decode()),
            (["fate", "proof"], other["fate"]["proof"]),
            (["fate", "proof"], proof.replace("index 3", "index 03")),
            (["fate", "proof"], proof.replace("index 3", "index 2")),
            (["fate", "proof"], proof.replace("@v1", "@v2")),
            (["fate", "proof"], proof.replace("\n\n", "\n")),
            (["fate", "proof"], proof.replace("index 3\n", "index 3\nAAAA\n")),
            (["fate", "proof"], receipt["events"][0]["proof"]),
            (["events"], []),
            (["events"], receipt["events"][:2]),
            (["events"], receipt["events"][::-1]),
            (["events"], other["events"]),
            (["events"], [*receipt["events"], *other["events"]]),
            (["events"], None),
            (["events", 0], "event"),
            (["events", 0], receipt["events"][1]),
            (["events", 0, "position"], 6),
            (["events", 0, "proof"], receipt["events"][1]["proof"]),
            (["events", 0, "proof"], proof),
            (["events", 1, "entry"], base64.b64encode(flipped).decode()),
        ]
        for way, value in changes:
            changed = copy.deepcopy(receipt)
            place = changed
            for name in way[:-1]:
                place = place[name]
            assert place[way[-1]] != value, way
            place[way[-1]] = value
            with pytest.raises(FAILURES):
                check_receipt(changed, keys)
        for stranger in (receipt, refusal):
            check_receipt(stranger, keys)
            with pytest.raises(FAILURES, match="No key is known of the log"):
                check_receipt(stranger, keys[:1] if stranger is refusal else keys[1:])
        with pytest.raises(BadReceipt):
            check_receipt({}, keys)

    run(scene)


# Keys


def test_while_a_key_is_rotated_old_and_new_checkpoints_are_verified(run: Any) -> None:
    async def scene(village: Economy) -> None:
        first = signed(village)["events"]
        new = log_key(SECRET, "main", 2).public_key().public_bytes_raw()
        execute(village, "INSERT INTO signing_keys (zone, serial, public_key) VALUES ('main', 2, %s)", new)
        await transfers(village, 1)
        both = signed(village)["events"]
        execute(village, "UPDATE signing_keys SET retired_at = now() WHERE serial = 1")
        await transfers(village, 1)
        last = signed(village)["events"]
        keys = [key for key in (await ask(village, "keys"))["keys"] if key["log"] == "events"]
        assert [(key["serial"], key["retired_at"] is None) for key in keys] == [(1, False), (2, True)]
        assert all(key["origin"] == f"{ORIGIN}/main" for key in keys)
        old_key, new_key = ([parse_key(key["vkey"])] for key in keys)
        for note, opens, shut in ((first, old_key, new_key), (last, new_key, old_key)):
            open_checkpoint(note.note, opens)
            with pytest.raises(FAILURES, match="No known key"):
                open_checkpoint(note.note, shut)
        assert open_checkpoint(both.note, old_key) == open_checkpoint(both.note, new_key)
        check_receipt(await ask(village, "receipts/c4"), await vkeys(village))

    run(scene)


# Witnesses


def know(village: Economy, name: str = WITNESS_NAME, key: Ed25519PrivateKey = WITNESS) -> None:
    vkey = str(verifier_key(name, key, COSIGNATURE))
    execute(village, "INSERT INTO witnesses (name, verifier_key) VALUES (%s, %s)", name, vkey)


def cosigned(note: str, name: str = WITNESS_NAME, key: Ed25519PrivateKey = WITNESS) -> str:
    return note + cosign(parse_note(note).text, name, key, 1_800_000_000).line()


def test_the_cosignature_of_a_witness_is_kept_and_comes_with_the_checkpoint(run: Any) -> None:
    async def scene(village: Economy) -> None:
        published, keys = signed(village), await vkeys(village)
        know(village)
        for log in LOGS:
            note = published[log].note
            for _ in range(2):  # Saying it again changes nothing.
                answer = await post(village, cosigned(note))
                assert answer.status_code == 200, answer.text
                assert answer.json()["log"] == log and answer.json()["witnesses"] == [WITNESS_NAME]
            found, _ = await checkpoint(village, log)
            assert found == cosigned(note)
            witness = parse_key((await ask(village, "keys"))["witnesses"][0]["vkey"])
            assert list(parse_note(found).signed_by([witness])) == [witness]
            metamorphic_log.checkpoint_verify(found, keys)
            receipt = await ask(village, "receipts/c4")
            check_receipt(receipt, [*keys, str(witness)])
            proof = receipt["fate"]["proof"] if log == "fates" else receipt["events"][0]["proof"]
            assert proof.endswith(found)

    run(scene)


def test_only_what_a_known_witness_has_really_signed_is_kept(run: Any) -> None:
    async def scene(village: Economy) -> None:
        published = signed(village)["events"]
        note, text = published.note, parse_note(published.note).text
        other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
        log = log_key(SECRET, "main", 1)
        good = cosign(text, WITNESS_NAME, WITNESS, 1)
        forged = Signature(good.name, good.key_id, good.value[:-1] + bytes([good.value[-1] ^ 1]))
        stolen = Signature(good.name, good.key_id, cosign(text, WITNESS_NAME, other, 1).value)
        fork = sign_checkpoint(Checkpoint(f"{ORIGIN}/main", published.size, bytes(32)), [log])
        unpublished = sign_checkpoint(Checkpoint(f"{ORIGIN}/main", published.size + 1, published.root), [log])
        foreign = sign_checkpoint(Checkpoint("elsewhere/main", published.size, published.root), [log])
        assert problem(await post(village, cosigned(note))) == (422, "unknown-witness")
        know(village)
        for body, expected in (
            (str(Note(text, (forged,))), (422, "forged-cosignature")),
            (str(Note(text, (stolen,))), (422, "forged-cosignature")),
            (str(Note(text, (good, forged))), (422, "forged-cosignature")),
            (cosigned(note, key=other), (422, "wrong-key")),
            (cosigned(note, "witness.example/w2", other), (422, "unknown-witness")),
            (note, (422, "unknown-witness")),
            (cosigned(fork), (409, "not-our-checkpoint")),
            (cosigned(unpublished), (409, "not-our-checkpoint")),
            (cosigned(foreign), (422, "unknown-origin")),
            (text, (422, "malformed-note")),
            ("", (422, "malformed-note")),
            (b"\xff", (422, "malformed-note")),
            (str(Note("no checkpoint\n", (good,))), (422, "malformed-note")),
            ("x" * 70_000, (413, "body-too-large")),
        ):
            assert problem(await post(village, body)) == expected, body
        assert (await checkpoint(village))[0] == note

    run(scene)


# Documentation


def test_the_routes_and_their_problems_are_documented(run: Any) -> None:
    async def scene(village: Economy) -> None:
        paths = (await village.http.get("/openapi.json")).json()["paths"]
        for root in ("/history", "/history/fates"):
            assert "504" in paths[f"{root}/checkpoint"]["get"]["responses"]
            for path in ("tile/{name}", "consistency"):
                assert paths[f"{root}/{path}"]["get"]["x-roles"] == ["auditor", "operator"]
        assert {"409", "413", "422"} <= set(paths["/history/cosignatures"]["post"]["responses"])
        assert "participant" in paths["/history/receipts/{id}"]["get"]["x-roles"]

    run(scene)
