"""API keys."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer

from ops.cli._common import Home, Json, answer, connect, fail, print_rows

keys = typer.Typer(no_args_is_help=True, help="API keys, signing keys, witnesses.")


class Role(StrEnum):
    operator = "operator"
    participant = "participant"
    provider = "provider"
    auditor = "auditor"
    worker = "worker"


@keys.command("create")
def create_key(
    role: Annotated[Role, typer.Option(help="What the key may do.")],
    name: Annotated[str, typer.Option(help="What people call it.")],
    principal: Annotated[str | None, typer.Option(help="Whom it belongs to; its name otherwise.")] = None,
    zone: Annotated[list[str] | None, typer.Option(help="A zone it is for, or *; may be repeated.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="act-as or act-at; may be repeated.")] = None,
    expires: Annotated[datetime | None, typer.Option(help="Until when it is valid, UTC.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make a key; it is shown this once."""
    from datetime import UTC

    from commands._codec import ZONE
    from commands._models import canonical_id
    from ops.access import SCOPES
    from ops.access import create_key as store_key
    from ops.home import find_pepper

    wanted, named = zone or ["main"], scope or []
    if unknown := [each for each in named if each not in SCOPES]:
        raise typer.BadParameter(f"{unknown[0]} is none of {', '.join(SCOPES)}", param_hint="--scope")
    if wrong := [each for each in wanted if each != "*" and not ZONE.match(each)]:
        raise typer.BadParameter(f"{wrong[0]} is no zone's name", param_hint="--zone")
    try:
        owner = canonical_id(principal or name)
    except ValueError:
        raise typer.BadParameter(
            "a principal is 1 to 64 of the characters a-z 0-9 . _ -", param_hint="--principal"
        ) from None
    with connect(home) as connection:
        made = store_key(
            connection,
            find_pepper(home),
            principal=owner,
            role=role,
            name=name,
            scopes=tuple(named),
            zones=tuple(wanted),
            expires_at=expires.replace(tzinfo=UTC) if expires else None,
        )
    answer(
        {"id": made.id, "key": made.key}, as_json, f"{made.key}\nIt is not shown again; its id is {made.id}."
    )


@keys.command("list")
def list_keys(home: Home = None, as_json: Json = False) -> None:
    """All keys, without their secrets."""
    from ops.keys import list_keys as of

    with connect(home) as connection:
        print_rows(of(connection), as_json)


@keys.command("revoke")
def revoke_key(
    id: Annotated[str, typer.Argument(help="The key's id, as in `keys list`.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Take a key out of use; servers notice within seconds."""
    from ops.keys import revoke_key as revoke

    with connect(home) as connection:
        if not revoke(connection, id):
            fail(f"There is no key {id}.")
    answer({"id": id, "revoked": True}, as_json, f"Key {id} is revoked.")
