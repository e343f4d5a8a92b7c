"""Read models of principals: what each says of himself, sealed, and who was erased."""

from __future__ import annotations

from datetime import datetime

from commands._codec import EPOCH
from domain.principals import ProfileSet, SubjectErased
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


principals = Projection("principals", Profile, Erasure)


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
