"""Honest logs that the economy of `tests.economy` lived through, in a database, with all that is proven of them.

Commands, refused ones too, go through a zone's sequencer with a manual clock. Between its parts projections follow,
trees grow and are signed, read models are attested, and the archive follows; keys are rotated and retired.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from eventsourcing.persistence import StoredEvent

from commands import _deciding
from commands._codec import context_of, decision_of, decode_json, encode_json, event_encoder
from commands._deciding import Command
from commands._log import PostgresLog
from commands._recorder import Datastore, FogbookApplicationRecorder
from commands._sequencer import Sequencer
from commands._signatures import installation
from commands._signed import signed_from, verified
from domain._kernel import Rejected, kebab
from domain.ledger import MintTokens, OpenWallet, Transfer
from domain.platform import CreateZone
from domain.principals import EPOCH, CommandSigned, EraseSubject, RequireSignatures, SetProfile
from domain.principals import signed as signed_decision
from ops.settings import APP_ROLE
from ops.signing import add_witness, list_keys, retire, rotate
from ops.zones import ensure_zone
from projections._engine import all_projections
from projections._follower import Follower
from projections._notes import COSIGNATURE, verifier_key
from projections._rebuild import rebuild
from projections._transparency import extend_and_sign
from tests.conftest import PEPPER, Database
from tests.economy import Economy, act, found
from tests.honest import WITNESS, witnessed
from tests.signers import Signer
from workers.archive import Archive

SECRET = PEPPER.encode()
ORIGIN = installation(SECRET)
ZONE = "main"
PARTS = 3
SNAPSHOT_EVERY = 6
"""So that short logs have snapshots."""


class Said(NamedTuple):
    body: Any
    by: str
    role: str
    at: datetime
    signature: CommandSigned | None = None


class Speaker(Economy):
    """An economy that remembers what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[Said] = []

    def issue(
        self,
        command: Any,
        by: str = "operator",
        role: str | None = None,
        signature: CommandSigned | None = None,
    ) -> Rejected | None:
        told = role or ("operator" if by == "operator" else "participant")
        if not isinstance(command, CreateZone):
            self.said.append(Said(command, by, told, self.book.now, signature))
        return super().issue(command, by, role, signature)


def speak(seed: int, steps: int) -> list[Said]:
    """Commands of an economy, and some of people who tell of themselves, one of whom is erased."""
    rng = Random(seed)
    economy = found(Speaker)
    for _ in range(steps):
        act(economy, rng)
    name, memo = sealed(rng, "display_name", "Ana"), sealed(rng, "memo", "for the lamp")
    for number in range(12):
        sender, payee = rng.sample(("ana", "ben", "cleo"), 2)
        amount = rng.randint(1, 900)
        economy.issue(Transfer(f"wallet:{sender}", f"wallet:{payee}", amount, memo=memo), sender)
        economy.issue(MintTokens(f"wallet:{payee}", amount, "grant", f"r{seed}.{number}"))
    economy.issue(SetProfile(name, ""), "ana")
    economy.issue(Transfer("wallet:ben", "wallet:ana", 10**30), "ben")
    economy.issue(EraseSubject("ana"), "operator")
    _sign(economy, rng)
    return economy.said


def _sign(economy: Speaker, rng: Random) -> None:
    """One more person, who signs what he does, and soon all of it; of two commands with one nonce the first counts."""
    zoe = Signer("zoe", 7)

    def signed(command: Any, words: str = "", nonce: int | None = None) -> None:
        name = name_of(type(command))
        personal = ("memo",) if words else ()
        body = decode_json(event_encoder(type(command))(command)) | dict.fromkeys(personal, words)
        body = {field.removesuffix("_"): value for field, value in body.items()}
        expires = (economy.book.now - EPOCH) // timedelta(seconds=1) + 60
        said = signed_from(zoe.signed(name, body, expires=expires, nonce=nonce, personal=personal))
        signature = verified(said, ZONE, name, body, personal)
        if words:
            signature = replace(signature, salt=sealed(rng, "salt", signature.salt))
        economy.issue(command, "zoe", signature=signature)

    economy.issue(zoe.registration(), "zoe")
    signed(OpenWallet("wallet:zoe"))
    economy.issue(MintTokens("wallet:zoe", 10**6, "start", "zoe"))
    for amount in (700, 800):
        economy.issue(Transfer("wallet:zoe", "wallet:ben", amount), "zoe")
        signed(Transfer("wallet:zoe", "wallet:ben", amount), nonce=amount)
    signed(Transfer("wallet:zoe", "wallet:ben", 900), nonce=800)
    signed(RequireSignatures(), nonce=1_000)
    for amount in (70, 80, 90):
        memo = sealed(rng, "memo", "for the lamp")
        signed(Transfer("wallet:zoe", "wallet:ben", amount, memo=memo), "for the lamp")
        economy.issue(Transfer("wallet:zoe", "wallet:ben", amount), "zoe")


def sealed(rng: Random, name: str, text: str) -> str:
    """As the edge of the HTTP API seals a personal text; here the key is thrown away at once."""
    id = rng.randbytes(16).hex()
    secret = AESSIV(rng.randbytes(64)).encrypt(text.encode(), [name.encode(), id.encode()])
    return f"enc:v1:{id}:{base64.urlsafe_b64encode(secret).decode().rstrip('=')}"


@dataclass
class Chronicle:
    database: Database
    seed: int
    held: list[tuple[str, str]] = field(default_factory=list)
    """Checkpoints that were kept elsewhere at the end of each part: log, note."""
    vkeys: list[str] = field(default_factory=list)
    position: int = 0
    number: int = 0
    poisoned: bool = False

    def code(self) -> AbstractContextManager[Any]:
        """The code that lived through it: one that chokes on some event does so whenever it folds."""
        handlers = all_projections()["ledger"].handlers
        return patch.dict(handlers, {"Debited": _poison(self.seed)} if self.poisoned else {})


def follow(database: Database, zone: str = ZONE) -> None:
    follower = Follower(database.connect, zone)
    try:
        assert follower.begin()
        while follower.advance():
            pass
        follower.end()
    finally:
        follower.close()


def archive(database: Database) -> None:
    worker = Archive(database.connect, threading.Event())
    while worker.turn():
        pass
    worker.close()


def publish(database: Database, zone: str = ZONE, secret: bytes = SECRET) -> dict[str, str]:
    with database.signer() as connection:
        signed = extend_and_sign(connection, secret, ORIGIN, zone)
    return {log: each.note for log, each in signed.items()}


@dataclass(frozen=True)
class Features:
    """What may happen to an honest log beside commands."""

    rotated: bool = True
    retired: bool = True
    rebuilt: bool = False
    archived_anew: bool = False
    quarantined: bool = False
    library: bool = False
    witnessed: bool = True
    unfinished: bool = False
    """Events behind the last checkpoint, that nothing has followed yet."""

    @staticmethod
    def of(rng: Random) -> Features:
        return Features(*(rng.random() < 0.5 for _ in range(8)))


def live_through(database: Database, seed: int, steps: int, features: Features) -> Chronicle:
    """Play a log of its own into an empty database."""
    made = Chronicle(database, seed, poisoned=features.quarantined)
    with patch.object(_deciding, "SNAPSHOT_EVERY", SNAPSHOT_EVERY), made.code():
        _live_through(made, steps, features)
    return made


def _live_through(made: Chronicle, steps: int, features: Features) -> None:
    database, seed = made.database, made.seed
    ensure_zone(database.url, ZONE, "manual")
    said = speak(seed, steps)
    size = -(-len(said) // PARTS)
    for part in range(PARTS):
        asyncio.run(_play(database, seed, part * size, said[part * size : (part + 1) * size]))
        follow(database)
        archive(database)
        _keep(made, publish(database))
        _turn_keys(database, features, part)
    if features.library:
        _library(database, seed)
    if features.archived_anew:
        _archive_anew(database)
    _keep(made, publish(database))
    if features.rebuilt:
        whole = sorted(all_projections().keys() - ({"ledger"} if features.quarantined else set()))
        for name in Random(seed).sample(whole, 3):
            rebuild(database.connect, ZONE, all_projections()[name])
        archive(database)
        _keep(made, publish(database))
    if features.witnessed:
        _witness(database, made)
    if features.unfinished:
        last = said[-1].at + timedelta(hours=1)
        more = [Said(MintTokens("wallet:ben", n, "late", ""), "operator", "operator", last) for n in (1, 2)]
        asyncio.run(_play(database, seed, len(said), more))
    with database.connect() as connection:
        made.vkeys = [
            key[f"{log}_vkey"] for key in list_keys(connection, ZONE) for log in ("events", "fates")
        ]
        row = connection.execute("SELECT position, number FROM heads WHERE zone = %s", (ZONE,)).fetchone()
        assert row is not None
        made.position, made.number = row


def _keep(made: Chronicle, notes: dict[str, str]) -> None:
    made.held += [(f"{log} {len(made.held)}", note) for log, note in notes.items()]


async def _play(database: Database, seed: int, begun: int, said: list[Said]) -> None:
    sequencer = Sequencer(ZONE, PostgresLog(database.url, APP_ROLE))
    await sequencer.start()
    try:
        for number, each in enumerate(said, begun):
            await sequencer.submit(_command(each, f"{seed}-{number}"))
    finally:
        await sequencer.stop()


def _command(said: Said, key: str) -> Command:
    kind = type(said.body)
    name, decide = name_of(kind), decision_of(kind)
    request = {"command": name, "act_as": said.by, "body": decode_json(event_encoder(kind)(said.body))}
    if said.signature is not None:
        decide = signed_decision(decide, said.signature)
        request["signed"] = decode_json(event_encoder(CommandSigned)(said.signature))
    stored, is_signed = encode_json(request), said.signature is not None
    return Command(
        *(name, said.body, decide, said.by, said.by, said.role, key, stored), at=said.at, signed=is_signed
    )


def name_of(kind: type) -> str:
    return f"{context_of(kind)}/{kebab(kind.__name__)}"


def _turn_keys(database: Database, features: Features, part: int) -> None:
    if features.rotated and part == 0:
        with database.signer() as connection:
            rotate(connection, SECRET, ORIGIN, ZONE)
    if features.rotated and features.retired and part == 1:
        with database.superuser() as connection:
            retire(connection, ZONE, 1)


def _witness(database: Database, made: Chronicle) -> None:
    note = [note for name, note in made.held if name.startswith("events")][-1]
    with database.superuser() as connection:
        add_witness(connection, "witness.example", str(verifier_key("witness.example", WITNESS, COSIGNATURE)))
    witnessed(database, note)


def _poison(seed: int) -> Any:
    """A handler that cannot digest what one wallet does from some time on."""
    handle = all_projections()["ledger"].handlers["Debited"]
    wallet = Random(seed).choice(("wallet:ana", "wallet:ben", "wallet:cleo"))

    def poison(rows: Any, event: Any, record: Any) -> None:
        if record.stream == wallet and record.version % 7 == 5:
            raise ValueError("poison")
        handle(rows, event, record)

    return poison


def _library(database: Database, seed: int) -> None:
    """A zone that an application of the `eventsourcing` library writes."""
    rng = Random(seed)
    datastore = Datastore(database.url, "library")
    try:
        recorder = FogbookApplicationRecorder(datastore)
        for number in range(5):
            id = UUID(bytes=rng.randbytes(16))
            recorder.insert_events([StoredEvent(id, v, f"app:E{number}", b"{}") for v in (1, 2)])
    finally:
        datastore.close()
    follow(database, "library")
    publish(database, "library")


def _archive_anew(database: Database) -> None:
    with database.superuser() as connection:
        connection.execute("UPDATE archives SET code = '0' WHERE projection IN ('ledger', 'timers')")
    archive(database)
