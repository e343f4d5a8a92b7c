"""Receipts for everybody who issues commands; the keys that sign checkpoints, and witnesses' cosignatures."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Request
from starlette.responses import Response

from commands._codec import command_number
from commands._signatures import log_key
from ops.access import Caller
from ops.problems import Problem
from ops.web import App, body_of, headers_of
from projections._notes import (
    COSIGNATURE,
    ForgedSignature,
    Note,
    NoteError,
    Signature,
    parse_checkpoint,
    parse_key,
    parse_note,
    verifier_key,
)
from queries._events import rfc3339
from queries._http import QueryApi
from queries._logs import EVENTS, FATES, Log, beyond, cover
from queries._past import Past
from queries._query import EVERYBODY, SEES_ALL
from queries._receipts import FORMAT, Proof
from queries.proofs import adder, as_json, in_base64, known_parameters

KEYS = """
SELECT t.log, t.origin, k.serial, k.public_key, k.created_at, k.retired_at
FROM trees t JOIN signing_keys k USING (zone) WHERE zone = %(zone)s ORDER BY t.log, k.serial
"""

WITNESSES = "SELECT name, verifier_key FROM witnesses ORDER BY name"

PUBLISHED = """
SELECT t.log FROM trees t JOIN signed_checkpoints s USING (zone, log)
WHERE zone = %(zone)s AND t.origin = %(origin)s AND s.size = %(size)s AND s.root = %(root)s LIMIT 1
"""

ORIGINS = "SELECT origin FROM trees WHERE zone = %(zone)s"

COSIGN = """
INSERT INTO cosignatures (zone, log, size, root, witness, line)
VALUES (%(zone)s, %(log)s, %(size)s, %(root)s, %(witness)s, %(line)s)
ON CONFLICT (zone, log, size, root, witness) DO NOTHING RETURNING witness
"""

FATE = """
SELECT principal, act_as, request, answer, position, events FROM commands
WHERE zone = %(zone)s AND number = %(number)s
"""


class Receipts:
    def __init__(self, api: Callable[[], QueryApi]) -> None:
        self._api = api

    async def receipt(self, request: Request, caller: Caller, past: Past) -> Response:
        known_parameters(request, "wait")
        waits = {"true": True, "false": False}.get(request.query_params.get("wait", "false"))
        if waits is None:
            raise Problem(422, "invalid-parameter", "wait is true or false.", parameter="wait")
        id = request.path_params["id"]
        number = command_number(id) or 0
        rows = await past.rows(FATE, {"zone": past.zone, "number": number})
        if not rows or not (caller.role in SEES_ALL or caller.principal in rows[0][:2]):
            raise Problem(
                404, "command-not-found", "The log holds no such command, or it is not yours to see."
            )
        _, _, sent, answer, position, count = rows[0]
        fates, events = Log(past, FATES), Log(past, EVENTS)
        if waits:
            await cover(self._api(), fates, number)
            if count:
                await cover(self._api(), events, position)
        index = await fates.index_of(number)
        ((entry, proof),) = await _proven(fates, index, index + 1)
        proven = await _proven(events, position - count, position) if count else []
        return as_json(
            {
                "format": FORMAT,
                "zone": past.zone,
                "command_id": id,
                "fate": {
                    "entry": in_base64(entry),
                    "request": in_base64(sent),
                    "answer": in_base64(answer),
                    "proof": proof,
                },
                "events": [
                    {"position": place, "entry": in_base64(entry), "proof": proof}
                    for place, (entry, proof) in enumerate(proven, position - count + 1)
                ],
            }
        )

    # Keys and witnesses

    async def keys(self, request: Request, caller: Caller, past: Past) -> Response:
        known_parameters(request)
        rows = await past.rows(KEYS, {"zone": past.zone})
        if not rows:
            await past.head()
        witnesses = await past.rows(WITNESSES, {})
        pepper = self._api().access.pepper
        return as_json(
            {
                "zone": past.zone,
                "keys": [
                    {
                        "log": log,
                        "origin": origin,
                        "serial": serial,
                        "vkey": str(verifier_key(origin, public_key)),
                        "created_at": rfc3339(created_at),
                        "retired_at": rfc3339(retired_at) if retired_at else None,
                    }
                    for log, origin, serial, public_key, created_at, retired_at in rows
                    # Whoever can write into the table can put a key there; only ours follow from the secret.
                    if public_key == log_key(pepper, past.zone, serial).public_key().public_bytes_raw()
                ],
                "witnesses": [{"name": name, "vkey": vkey} for name, vkey in witnesses],
            }
        )

    async def cosign(self, request: Request, caller: Caller, past: Past) -> Response:
        """Keep the cosignatures of witnesses under a checkpoint of ours. Raises Problem 409 and 422."""
        known_parameters(request)
        body = await body_of(request, headers_of(request))
        try:
            note = parse_note(body)
            checkpoint = parse_checkpoint(note.text)
        except NoteError as error:
            raise Problem(422, "malformed-note", str(error)) from None
        place = {"zone": past.zone, "size": checkpoint.size, "root": checkpoint.root}
        if (checkpoint.origin,) not in await past.rows(ORIGINS, place):
            raise Problem(422, "unknown-origin", "The checkpoint is not of a log of this zone.")
        published = await past.rows(PUBLISHED, place | {"origin": checkpoint.origin})
        if not published:
            raise Problem(409, "not-our-checkpoint", "This checkpoint was not published here.")
        place["log"] = published[0][0]
        names = _verified(note, dict(await past.rows(WITNESSES, {})))
        for witness, signature in names.items():
            await past.rows(COSIGN, place | {"witness": witness, "line": signature.line()})
        return as_json({"log": place["log"], "size": checkpoint.size, "witnesses": sorted(names)})


def _verified(note: Note, witnesses: dict[str, str]) -> dict[str, Signature]:
    """The cosignatures of witnesses that are known here, by name. Raises Problem 422."""
    keys = {parse_key(vkey): name for name, vkey in witnesses.items()}
    try:
        found = note.signed_by(key for key in keys if key.type == COSIGNATURE)
    except ForgedSignature as error:
        raise Problem(422, "forged-cosignature", str(error)) from None
    if not found:
        named = {key.name for key in keys} & {signature.name for signature in note.signatures}
        if named:
            raise Problem(422, "wrong-key", "A witness is named, but with another key than it has here.")
        raise Problem(422, "unknown-witness", "No witness that is known here has signed the note.")
    return {keys[key]: signature for key, signature in found.items()}


async def _proven(log: Log, first: int, end: int) -> list[tuple[bytes, str]]:
    """Entries by index, each with its proof under the newest checkpoint. Raises Problem 404."""
    signed = await log.newest()
    if end > signed.size:
        raise beyond(end - 1, signed.size)
    entries = await log.entries(first, end)
    proofs = await log.inclusion(range(first, end), entries, signed)
    note = await log.note(signed)
    return [
        (entry, str(Proof(index, tuple(hashes), note)))
        for index, (entry, hashes) in enumerate(zip(entries, proofs, strict=True), first)
    ]


# Registration and documentation

_TEXT = {"type": "string"}


def register_receipts(app: App, api: Callable[[], QueryApi]) -> None:
    receipts, add = Receipts(api), adder(app, api)
    add(
        "/history/keys",
        receipts.keys,
        "keys",
        "The keys that sign checkpoints",
        "Verifier keys of both logs (C2SP vkeys), with their serial numbers and times; and those of witnesses.",
        roles=EVERYBODY,
    )
    add(
        "/history/cosignatures",
        receipts.cosign,
        "cosignatures",
        "Keep a witness's cosignature",
        "The body is a checkpoint of ours with lines of C2SP tlog-cosignature v1; from then on they come with it.",
        method="POST",
        more=(408, 409, 413),
    )
    add(
        "/history/receipts/{id}",
        receipts.receipt,
        "receipt",
        "A command's receipt",
        "What became of a command, accepted or refused, with proofs that anybody can check offline. Participants get "
        "those of their own commands.",
        ("id", "path", _TEXT, "The command's id, such as `c17`."),
        ("wait", "query", {"type": "boolean"}, "Wait, bounded, until a checkpoint covers the command."),
        roles=EVERYBODY,
        more=(504,),
    )
