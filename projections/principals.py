"""Read models of principals: what each says of himself, sealed; who was erased; keys that they sign with."""

from __future__ import annotations

from datetime import datetime

from commands._codec import EPOCH
from domain.principals import (
    CommandSigned,
    ProfileSet,
    SignaturesRequired,
    SigningKeyRegistered,
    SigningKeyRevoked,
    SubjectErased,
)
from projections._engine import Projection, Record, Rows
from projections._tables import Row, table


@table("principals_profiles", key=("principal",))
class Profile(Row):
    principal: str
    display_name: str = ""
    contact: str = ""
    said_at: datetime = EPOCH
    erased_at: datetime | None = None


@table("principals_erasures", key=("principal",))
class Erasure(Row):
    principal: str
    by: str = ""
    at: datetime = EPOCH


@table("principals_signing_keys", key=("principal", "key"))
class SigningKey(Row):
    principal: str
    key: str
    registered_at: datetime = EPOCH
    revoked_at: datetime | None = None
    revoked_by: str = ""


@table("principals_signers", key=("principal",))
class Signer(Row):
    principal: str
    nonce: int = 0
    commands: int = 0
    required: bool = False


principals = Projection("principals", Profile, Erasure, SigningKey, Signer)


@principals.on(ProfileSet)
def profile_set(rows: Rows, event: ProfileSet, record: Record) -> None:
    row = rows.of(Profile, record.id)
    row.display_name, row.contact, row.said_at = event.display_name, event.contact, event.at


@principals.on(SubjectErased)
def subject_erased(rows: Rows, event: SubjectErased, record: Record) -> None:
    """The profile's texts stay in the row, sealed: what is missing is the key."""
    erasure = rows.of(Erasure, record.id)
    erasure.by, erasure.at = event.by, event.at
    profile = rows.find(Profile, record.id)
    if profile is not None:
        profile.erased_at = event.at


@principals.on(SigningKeyRegistered)
def signing_key_registered(rows: Rows, event: SigningKeyRegistered, record: Record) -> None:
    """Perhaps once more, after it was revoked."""
    rows.of(Signer, record.id)
    row = rows.of(SigningKey, record.id, event.key)
    row.registered_at, row.revoked_at, row.revoked_by = event.at, None, ""


@principals.on(SigningKeyRevoked)
def signing_key_revoked(rows: Rows, event: SigningKeyRevoked, record: Record) -> None:
    row = rows.of(SigningKey, record.id, event.key)
    row.revoked_at, row.revoked_by = event.at, event.by


@principals.on(SignaturesRequired)
def signatures_required(rows: Rows, event: SignaturesRequired, record: Record) -> None:
    rows.of(Signer, record.id).required = event.on


@principals.on(CommandSigned)
def command_signed(rows: Rows, event: CommandSigned, record: Record) -> None:
    row = rows.of(Signer, record.id)
    row.nonce = event.nonce
    row.commands += 1
