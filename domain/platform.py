"""The zone itself: its clock and its first event."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from domain._kernel import FOG, Decision, Issued, Read, Rejected, Stream
from domain.ledger import AssetDefined, assets

FOG_SCALE = 6

# Events: stored for ever. Add fields with defaults; never rename, never remove.


@dataclass(frozen=True, slots=True)
class ZoneCreated:
    zone: str
    clock: str
    """real: the server's clock; manual: operators name the time (simulations and tests)."""


@dataclass(frozen=True, slots=True)
class ClockAdvanced:
    to: datetime


ZoneEvent = ZoneCreated | ClockAdvanced

# State


@dataclass(frozen=True, slots=True)
class Zone:
    clock: str = ""
    name: str = ""


# evolve


def evolve(zone: Zone, event: ZoneEvent) -> Zone:
    match event:
        case ZoneCreated():
            return Zone(event.clock, event.zone)
        case ClockAdvanced():
            return zone


zones = Stream("zone", Zone(), evolve, ZoneEvent)

# Commands


@dataclass(frozen=True, slots=True)
class CreateZone:
    """Begin a zone's log. Issued by `fogbook zones create`, never over HTTP."""

    zone: str
    clock: str = "real"


@dataclass(frozen=True, slots=True)
class AdvanceClock:
    """Let the time of a manual-clock zone pass, to the time named by `Fogbook-At`."""


# Rules


class ZoneExists(Rejected):
    """This zone was created before."""


class ClockIsReal(Rejected):
    """Only a zone that was created with a manual clock lets its time be named."""


# Decisions


def create_zone(command: CreateZone, issued: Issued, read: Read) -> Decision:
    if read(zones, "self").clock:
        raise ZoneExists(zone=command.zone)
    yield zones("self"), ZoneCreated(command.zone, command.clock)
    yield assets(FOG), AssetDefined(FOG_SCALE, 0)


def advance_clock(command: AdvanceClock, issued: Issued, read: Read) -> Decision:
    if read(zones, "self").clock != "manual":
        raise ClockIsReal()
    yield zones("self"), ClockAdvanced(issued.at)
