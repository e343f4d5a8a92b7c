"""Looking at a system and repairing its read models."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.cli._common import Home, Json, Zone, answer, connect, fail, print_json, record, zone_exists


def status(home: Home = None, as_json: Json = False) -> None:
    """Zones, how far projections lag, what is quarantined, and timers that are stuck."""
    from ops import status as of

    with connect(home) as connection:
        found = of.read_status(connection)
    if as_json:
        print_json(found)
    else:
        of.show_status(found)


def rebuild(
    projection: Annotated[str, typer.Argument(help="A projection's name, or all.")],
    zone: Zone = "main",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Fold a projection again from the first event, and swap it in; queries never notice."""
    from ops.progress import progress
    from projections._engine import all_projections
    from projections._rebuild import rebuild as run_rebuild
    from projections._rebuild import sweep

    known = all_projections()
    if projection != "all" and projection not in known:
        fail(f"There is no projection {projection}; there are {', '.join(known)} (or all).")
    zone_exists(home, zone)
    positions = {}
    for name in known if projection == "all" else [projection]:
        with progress(f"Rebuilding {name}") as tick:
            positions[name] = run_rebuild(lambda: connect(home, bounded=False), zone, known[name], tick)
        with connect(home, bounded=False) as connection:
            sweep(connection, zone, known[name])
    record(home, "rebuild", zone, positions=positions)
    said = "\n".join(f"{name} is rebuilt, at position {position}." for name, position in positions.items())
    answer({"zone": zone, "positions": positions}, as_json, said)
