"""Zones: making one appends the first events of its log."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import psycopg

from commands._codec import ZONE, encode_json
from commands._deciding import Command
from commands._log import PostgresLog
from commands._sequencer import Sequencer
from commands._signatures import public_key, zone_key
from domain.platform import CreateZone, create_zone
from ops.home import Refused
from ops.pool import connect
from ops.settings import APP_ROLE

MANUAL_START = datetime(2026, 1, 1, tzinfo=UTC)

ADD_HEAD = "SELECT add_head(%s, %s, %s)"

ZONES = "SELECT zone, clock, position, number, recorded_at FROM heads ORDER BY zone"


class ZoneRefused(Refused):
    """The zone cannot be made as asked; the message says why."""


def ensure_zone(database_url: str, zone: str, clock: str = "real", starts_at: datetime | None = None) -> bool:
    """Make the zone unless it exists; True when it is new. Raises ZoneRefused when its clock is another."""
    if zone == "fates":
        raise ZoneRefused("No zone may be called fates: second logs are, and its log could be taken for one.")
    if not ZONE.match(zone):
        raise ZoneRefused("A zone's name is 1 to 63 of the characters a-z 0-9 . _ -")
    if starts_at is not None and clock != "manual":
        raise ZoneRefused("Only a zone with a manual clock starts at a named time.")
    begin = datetime.fromtimestamp(0, UTC) if clock == "real" else starts_at or MANUAL_START
    with connect(database_url, "fogbook zones") as connection:
        connection.execute(ADD_HEAD, (zone, clock, begin))
        row = connection.execute("SELECT clock, position FROM heads WHERE zone = %s", (zone,)).fetchone()
    assert row is not None
    if row[0] != clock:
        raise ZoneRefused(f"Zone {zone} exists, with a {row[0]} clock; a zone's clock never changes.")
    return row[1] == 0 and asyncio.run(_begin(database_url, zone, clock))


async def _begin(database_url: str, zone: str, clock: str) -> bool:
    """Append the first events. Its key makes this happen once, however many try at the same time."""
    body = CreateZone(zone, clock)
    command = Command(
        name="platform/create-zone",
        body=body,
        decide=create_zone,
        principal="admin",
        by="admin",
        role="operator",
        key="zone:create",
        request=encode_json({"command": "platform/create-zone", "act_as": "admin", "body": body}),
    )
    sequencer = Sequencer(zone, PostgresLog(database_url, APP_ROLE))
    await sequencer.start()
    try:
        outcome = await sequencer.submit(command)
    finally:
        await sequencer.stop()
    if outcome.status != 200:
        raise ZoneRefused(f"The zone's first events were not appended: {outcome.body.decode()}")
    return not outcome.hit


def list_zones(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    names = ("zone", "clock", "position", "commands", "time")
    return [dict(zip(names, row, strict=True)) for row in connection.execute(ZONES)]


def with_public_keys(zones: list[dict[str, Any]], pepper: bytes) -> list[dict[str, Any]]:
    """The same with what `register-peer` in another zone wants of each."""
    return [zone | {"public_key": public_key(zone_key(pepper, zone["zone"]))} for zone in zones]
