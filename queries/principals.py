"""What people ask of principals: what one says of himself, who was erased, and by which keys one signs.

A profile is its principal's, and operators' and auditors' to read. Once its principal is erased its texts are shown as
`[erased]`; that he was is no secret from those who have to answer for it. Signing keys are a principal's to look
through, operators' and auditors'.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from domain._kernel import Id
from queries._query import SEES_ALL, Context

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


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key whose signature stands for the principal's, until it is revoked; by himself, or by an operator."""

    principal: str
    key: str
    registered_at: datetime
    revoked_at: datetime | None
    revoked_by: str
    version: int
    incomplete: bool


principals.get(
    "signing-keys",
    SigningKey,
    """
    SELECT principal, k.key, registered_at, revoked_at, revoked_by, k.position AS version, incomplete
    FROM read.principals_signing_keys k JOIN live USING (zone, generation)
    WHERE principal = %(subject)s
    """,
    key=("principal", "key"),
    parameters=OfSubject,
    own="subject",
)


@dataclass(frozen=True, slots=True)
class Signer:
    """How many commands a principal has signed, the highest nonce that he used, and whether nothing is done in his name
    without his signature."""

    principal: str
    nonce: int
    commands: int
    required: bool
    version: int
    incomplete: bool


principals.get(
    "signer",
    Signer,
    """
    SELECT principal, nonce, commands, required, s.position AS version, incomplete
    FROM read.principals_signers s JOIN live USING (zone, generation)
    WHERE principal = %(subject)s
    """,
    key=("principal",),
    parameters=OfSubject,
    own="subject",
    single=True,
)
