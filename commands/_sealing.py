"""What is personal in a command, sealed before anything stores it: the edge's part in `commands._subjects`."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import structlog

from commands._envelope import Envelope
from commands._routes import Route
from commands._subjects import KeyDestroyed, KeyMissing, Keyring, KeyringUnavailable
from domain.principals import CommandSigned, SigningKeyIsUnknown
from domain.settlement.transfers import ReceiveTransfer, RefuseTransfer, statement
from ops.problems import Problem

SALT = "salt"
"""Under this name the salt of a signature is sealed."""

log = structlog.get_logger("fogbook.commands")


async def sealed(
    keyring: Keyring, route: Route, command: Any, signature: CommandSigned | None, envelope: Envelope
) -> tuple[Any, CommandSigned | None]:
    """The command with its personal texts sealed for the zone and whom it acts for, and the salt of its signature.
    Raises Problem 409 and 503."""
    texts = {name: text for name in route.personal if (text := getattr(command, name))}
    if not texts:
        return command, signature
    by, is_own = envelope.by, envelope.signed is None or envelope.by == envelope.caller.principal
    if signature is not None:
        texts[SALT] = signature.salt
    try:
        # Whoever signs with a key of his own making may call himself anything: that makes no files here.
        made = await keyring.sealed(envelope.zone, by, texts, make=is_own)
    except KeyMissing:
        raise Problem(409, SigningKeyIsUnknown.rule(), SigningKeyIsUnknown.sentence(), principal=by) from None
    except KeyDestroyed:
        raise Problem(
            409,
            "subject-erased",
            "This principal was erased: nothing is recorded with a personal text of his.",
            principal=envelope.by,
            fields=sorted(texts),
        ) from None
    except KeyringUnavailable as error:
        raise _no_keys(error) from None
    if signature is not None:
        signature = replace(signature, salt=made.pop(SALT))
    return replace(command, **made), signature


async def make_key(keyring: Keyring, envelope: Envelope) -> None:
    """For what he signs later: whoever brings it makes no keys for others. Raises Problem 503."""
    try:
        with contextlib.suppress(KeyDestroyed):
            await asyncio.to_thread(keyring.make, envelope.zone, envelope.by)
    except KeyringUnavailable as error:
        raise _no_keys(error) from None


async def destroy_key(keyring: Keyring, zone: str, principal: str) -> None:
    """Once the zone recorded his erasure. What fails here is done by the eraser."""
    try:
        await asyncio.to_thread(keyring.destroy, zone, principal)
    except KeyringUnavailable as error:
        log.error("subject_key_not_destroyed", error=str(error))


def check_memo(keyring: Keyring, command: ReceiveTransfer | RefuseTransfer) -> None:
    """A memo that queries here would open comes in a packet that this installation signed: otherwise whoever holds
    somebody's sealed words could send them to himself and read them. Raises Problem 422 and 503."""
    packet = command.packet
    try:
        if not keyring.is_sealed_here(packet.memo):
            return
    except KeyringUnavailable as error:
        raise _no_keys(error) from None
    if not keyring.is_signed_here(packet.source, statement("packet", packet), command.proof):
        raise Problem(
            422,
            "sealed-elsewhere",
            "The packet's memo was sealed in this installation, which did not sign the packet.",
            source=packet.source,
        )


def _no_keys(error: KeyringUnavailable) -> Problem:
    log.error("subject_keys_unavailable", error=str(error))
    return Problem(
        503,
        "subject-keys-unavailable",
        "Personal texts cannot be sealed or told apart now, and nothing is recorded without.",
        headers={"Retry-After": "1"},
    )
