"""From a parsed body and its envelope to a command in its zone's queue: validated, verified, sealed."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from commands._codec import decision_of, event_encoder
from commands._deciding import Command, Outcome
from commands._envelope import Envelope, authority, may_bring
from commands._log import LogUnavailable
from commands._models import command_from
from commands._routes import Route
from commands._sealing import check_memo, destroy_key, make_key, sealed
from commands._sequencer import Overloaded
from commands._signed import verified
from commands._subjects import Keyring
from commands._zones import Zones
from domain.principals import CommandSigned, EraseSubject, RegisterSigningKey
from domain.principals import signed as signed_decision
from domain.settlement.transfers import ReceiveTransfer, RefuseTransfer
from ops.limits import REFUSED
from ops.problems import Problem

RECEIVING = frozenset({ReceiveTransfer, RefuseTransfer})
"""Commands that bring another zone's packet."""


class Intake:
    """Takes commands for all zones of this process."""

    def __init__(self, zones: Zones, keyring: Keyring) -> None:
        self._zones = zones
        self._keyring = keyring

    async def begin(self, route: Route, body: Any, envelope: Envelope) -> Awaitable[Outcome]:
        """Validate a command, seal what is personal in it, and queue it; what it comes to is to be awaited.
        Raises Problem."""
        command = command_from(route.command, body)
        signature = None
        if envelope.signed is not None:
            may_bring(envelope.caller)
            signature = verified(envelope.signed, envelope.zone, route.name, body, route.personal)
        if route.personal:
            command, signature = await sealed(self._keyring, route, command, signature, envelope)
        if route.command in RECEIVING:
            check_memo(self._keyring, command)
        if route.command is RegisterSigningKey and not envelope.dry_run:
            await make_key(self._keyring, envelope)
        queued = await self._submit(_queueable(route, command, signature, envelope), envelope.zone)
        if route.command is EraseSubject and not envelope.dry_run:
            return self._erasing(queued, envelope.zone, command.principal)
        return queued

    async def _erasing(self, queued: Awaitable[Outcome], zone: str, principal: str) -> Outcome:
        outcome = await queued
        if outcome.status == 200:
            await destroy_key(self._keyring, zone, principal)
        return outcome

    async def _submit(self, command: Command, zone: str) -> Awaitable[Outcome]:
        try:
            sequencer = self._zones.started(zone) or await self._zones.start(zone)
            if sequencer is None:
                raise Problem(404, "zone-not-found", "There is no such zone.", zone=zone)
            return sequencer.submit(command)
        except LogUnavailable:
            raise Problem(
                503, "unavailable", "The log does not answer.", headers={"Retry-After": "1"}
            ) from None
        except Overloaded:
            REFUSED.labels("commands queued").inc()
            raise Problem(
                503,
                "overloaded",
                "Too many commands are waiting; try again.",
                headers={"Retry-After": "1"},
                limit="commands queued",
            ) from None


def _queueable(route: Route, command: Any, signature: CommandSigned | None, envelope: Envelope) -> Command:
    if envelope.if_match is not None and route.main is None:
        raise Problem(400, "no-main-stream", "This command has no one stream that If-Match could mean.")
    canonical = event_encoder(route.command)(command)
    name, by = route.name.encode(), envelope.by.encode()
    request = b'{"command":"%b","act_as":"%b","body":%b}' % (name, by, canonical)
    decide = decision_of(route.command)
    if signature is not None:
        decide = signed_decision(decide, signature)
        request = b'%b,"signed":%b}' % (request[:-1], event_encoder(CommandSigned)(signature))
    return Command(
        name=route.name,
        body=command,
        decide=decide,
        principal=envelope.caller.principal,
        by=envelope.by,
        role=authority(envelope.caller, envelope.by),
        key=envelope.key,
        request=request,
        if_match=envelope.if_match,
        main=route.main(command, envelope.by) if route.main and envelope.if_match is not None else None,
        dry_run=envelope.dry_run,
        at=envelope.at,
        correlation=envelope.correlation,
        causation=envelope.causation,
        signed=signature is not None,
    )
