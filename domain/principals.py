"""What principals say of themselves, and the erasure of all that is personal to one of them.

A principal's name is a pseudonym: it stays, as does everything that he did. Who stands behind it is said in personal
texts only, which are sealed under his key in the zone (`Personal`). Erasing him is an event like any other; the key is
destroyed because of it, and with it every personal text that he ever wrote there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from domain._kernel import Decision, Id, Issued, Personal, Read, Rejected, Stream

# Events: stored for ever. Add fields with defaults; never rename, never remove.


@dataclass(frozen=True, slots=True)
class ProfileSet:
    display_name: Personal
    contact: Personal
    at: datetime


@dataclass(frozen=True, slots=True)
class SubjectErased:
    """From here on the principal's key in this zone is destroyed, or about to be."""

    principal: str
    by: str
    at: datetime


PrincipalEvent = ProfileSet | SubjectErased

# State


@dataclass(frozen=True, slots=True)
class Principal:
    display_name: str = ""
    contact: str = ""
    erased: bool = False


# evolve


def evolve_principal(principal: Principal, event: PrincipalEvent) -> Principal:
    match event:
        case ProfileSet():
            return Principal(event.display_name, event.contact)
        case SubjectErased():
            return Principal(erased=True)


principals = Stream("principal", Principal(), evolve_principal, PrincipalEvent)

# Commands


@dataclass(frozen=True, slots=True)
class SetProfile:
    """Say who you are and how you are reached: for yourself, operators and auditors to read. The same again changes
    nothing; empty texts take back what was said."""

    display_name: Personal
    contact: Personal = ""


@dataclass(frozen=True, slots=True)
class EraseSubject:
    """Make all personal texts that a principal wrote in this zone unreadable for good, wherever they went: by the
    principal himself, or by an operator. What he owns and did stays, under his name; from then on he writes no
    personal texts here. What he wrote in other zones is erased there, by a command in each."""

    principal: Id


# Rules


class SubjectIsErased(Rejected):
    """This principal was erased: nothing personal is kept of him any more."""


class ErasureIsNotYours(Rejected):
    """A principal is erased by himself or by an operator."""


# Decisions


def set_profile(command: SetProfile, issued: Issued, read: Read) -> Decision:
    principal = read(principals, issued.by)
    if principal.erased:
        raise SubjectIsErased(principal=issued.by)
    if (command.display_name, command.contact) != (principal.display_name, principal.contact):
        yield principals(issued.by), ProfileSet(command.display_name, command.contact, issued.at)


def erase_subject(command: EraseSubject, issued: Issued, read: Read) -> Decision:
    if issued.by != command.principal and not issued.is_operator:
        raise ErasureIsNotYours(principal=command.principal)
    if not read(principals, command.principal).erased:
        yield (
            principals(command.principal),
            SubjectErased(command.principal, issued.by, issued.at),
        )
