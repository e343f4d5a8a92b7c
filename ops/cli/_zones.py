"""Zones."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.cli._common import Home, Json, answer, connect, print_rows, record, time

zones = typer.Typer(no_args_is_help=True, help="Zones: each is one economy with one log.")


@zones.command("create")
def create_zone(
    name: Annotated[str, typer.Argument(help="1 to 63 of the characters a-z 0-9 . _ -")],
    manual_clock: Annotated[bool, typer.Option("--manual-clock", help="Operators name the time.")] = False,
    starts_at: Annotated[
        str | None, typer.Option(help="A manual clock's first time.", show_default="2026-01-01T00:00:00Z")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make a zone; repeating it is harmless."""
    from ops.home import find_target
    from ops.zones import ensure_zone

    clock = "manual" if manual_clock else "real"
    new = ensure_zone(find_target(home).database_url, name, clock, time(starts_at) if starts_at else None)
    if new:
        record(home, "zones create", name, clock=clock)
    said = f"Zone {name} is made." if new else f"Zone {name} exists."
    answer({"zone": name, "clock": clock, "created": new}, as_json, said)


@zones.command("list")
def list_zones(home: Home = None, as_json: Json = False) -> None:
    """All zones, where their logs stand, and the keys by which other zones know them."""
    from ops.home import find_pepper
    from ops.zones import list_zones as of
    from ops.zones import with_public_keys

    with connect(home) as connection:
        print_rows(with_public_keys(of(connection), find_pepper(home)), as_json)
