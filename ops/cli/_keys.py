"""API keys, and the access log."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

from ops.cli._common import Home, Json, answer, connect, fail, print_rows

MOST_OVERLAP_H = 720
UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}

keys = typer.Typer(no_args_is_help=True, help="API keys, signing keys, witnesses.")


class Role(StrEnum):
    operator = "operator"
    participant = "participant"
    provider = "provider"
    auditor = "auditor"
    worker = "worker"


Scopes = Annotated[
    list[str] | None,
    typer.Option(
        help="act-as or act-at; or, so that the key may do nothing else: commands, commands:CONTEXT, queries, "
        "queries:CONTEXT, history. May be repeated."
    ),
]


@keys.command("create")
def create_key(
    role: Annotated[Role, typer.Option(help="What the key may do.")],
    name: Annotated[str, typer.Option(help="What people call it.")],
    principal: Annotated[str | None, typer.Option(help="Whom it belongs to; its name otherwise.")] = None,
    zone: Annotated[list[str] | None, typer.Option(help="A zone it is for, or *; may be repeated.")] = None,
    scope: Scopes = None,
    expires_in: Annotated[str | None, typer.Option(help="How long it is valid: 90d, 12h, 30m.")] = None,
    expires_at: Annotated[
        datetime | None,
        typer.Option(
            "--expires-at",
            "--expires",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"],
            help="Until when it is valid; UTC where it names no offset.",
        ),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make a key; it is shown this once."""
    from commands._codec import ZONE
    from commands._models import canonical_id
    from ops.access import create_key as store_key
    from ops.home import find_pepper

    wanted, named = zone or ["main"], scope or []
    _check_scopes(named)
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
            expires_at=_expiry(expires_in, expires_at),
        )
    answer(
        {"id": made.id, "key": made.key}, as_json, f"{made.key}\nIt is not shown again; its id is {made.id}."
    )


@keys.command("rotate")
def rotate_key(
    id: Annotated[str, typer.Argument(help="The key's id, as in `keys list`.")],
    overlap: Annotated[
        float, typer.Option(min=0, max=MOST_OVERLAP_H, help="How many hours the older key works on.")
    ] = 24,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make a second key on the same terms; the first one works until the overlap is over."""
    from ops.access import rotate_key as rotate
    from ops.home import find_pepper

    with connect(home) as connection:
        made = rotate(connection, find_pepper(home), id, timedelta(hours=overlap))
    old = {"id": id, "expires_at": made.old_expires_at}
    answer(
        {"id": made.new.id, "key": made.new.key, "expires_at": made.expires_at, "replaces": old},
        as_json,
        f"{made.new.key}\nIt is not shown again; its id is {made.new.id}. "
        f"Key {id} works until {made.old_expires_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC.",
    )


@keys.command("list")
def list_keys(home: Home = None, as_json: Json = False) -> None:
    """All keys, without their secrets; when each was last used, to the minute."""
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
    from ops.access import revoke_key as revoke

    with connect(home) as connection:
        if not revoke(connection, id):
            fail(f"There is no key {id}.")
    answer({"id": id, "revoked": True}, as_json, f"Key {id} is revoked.")


@keys.command("log")
def show_log(
    after: Annotated[int, typer.Option(min=0, help="Only what lies behind this id.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 1_000,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """The access log: who was refused, and what administrators did, oldest first."""
    from queries.access import read_log

    with connect(home) as connection:
        print_rows(read_log(connection, after, limit), as_json)


def _check_scopes(scopes: list[str]) -> None:
    import pkgutil

    import domain
    import projections
    from ops.access import SCOPES, is_scope

    for scope in scopes:
        side, _, context = scope.partition(":")
        package: Any = {"commands": domain, "queries": projections}.get(side)
        contexts = {module.name for module in pkgutil.iter_modules(package.__path__)} if package else set()
        if not is_scope(scope) or (context and context not in contexts):
            raise typer.BadParameter(f"{scope} is none of {SCOPES}", param_hint="--scope")


def _expiry(lasts: str | None, at: datetime | None) -> datetime | None:
    now = datetime.now(UTC)
    if lasts is not None and at is not None:
        raise typer.BadParameter("name one of --expires-in and --expires-at", param_hint="--expires-in")
    if lasts is not None:
        found = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", lasts)
        if found is None:
            raise typer.BadParameter(f"{lasts} is no time such as 90d, 12h or 30m", param_hint="--expires-in")
        return now + int(found[1]) * UNITS[found[2]]
    if at is None:
        return None
    expires_at = at if at.tzinfo else at.replace(tzinfo=UTC)
    if expires_at <= now:
        raise typer.BadParameter(f"{expires_at} is over", param_hint="--expires-at")
    return expires_at
