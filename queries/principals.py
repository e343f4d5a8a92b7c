"""What people ask of principals: what one says of himself, and who was erased.

A profile is its principal's, and operators' and auditors' to read. Once its principal is erased its texts are shown as
`[erased]`; that he was is no secret from those who have to answer for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from domain._kernel import Id
from queries._http import SEES_ALL, Context

principals = Context(__name__)


@dataclass(frozen=True, slots=True)
class OfSubject:
    subject: Id = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a principal says of himself, for himself, operators and auditors: opened where his key exists, `[erased]`
    where it was destroyed."""

    principal: str
    display_name: str
    contact: str
    said_at: datetime
    erased_at: datetime | None
    version: int
    incomplete: bool


principals.get(
    "profile",
    Profile,
    """
    SELECT principal, display_name, contact, said_at, erased_at, p.position AS version, incomplete
    FROM read.principals_profiles p JOIN live USING (zone, generation)
    WHERE principal = %(subject)s
    """,
    key=("principal",),
    parameters=OfSubject,
    own="subject",
    single=True,
)


@dataclass(frozen=True, slots=True)
class Erasure:
    """A principal who was erased, when, and by whom: all personal texts of his are unreadable since."""

    principal: str
    by: str
    at: datetime
    version: int
    incomplete: bool


principals.get(
    "erasures",
    Erasure,
    """
    SELECT principal, e.by, e.at, e.position AS version, incomplete
    FROM read.principals_erasures e JOIN live USING (zone, generation)
    WHERE %(subject)s = '' OR principal = %(subject)s
    """,
    key=("principal",),
    parameters=OfSubject,
    roles=SEES_ALL,
)
