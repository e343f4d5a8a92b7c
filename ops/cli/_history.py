"""History from the command line: replaying and verifying it."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.cli._common import Home, Json, Zone, connect, fail, print_json, print_lines, zone_exists


def replay(
    stream: Annotated[str | None, typer.Option(help="Only this stream, such as wallet:ana.")] = None,
    at: Annotated[str | None, typer.Option(help="Up to this position or time.")] = None,
    type: Annotated[str | None, typer.Option(help="Only events of this type.")] = None,
    zone: Zone = "main",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Print the log as NDJSON; with --stream and --at, also the stream's state as of then."""
    from ops.replay import replay as run_replay

    zone_exists(home, zone)
    with connect(home, bounded=False) as connection:
        print_lines(run_replay(connection, zone, stream=stream, at=at, type=type))


def verify(
    zone: Annotated[str | None, typer.Option(help="Only this zone.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Hash what is stored again, check the log's laws, fold everything again and compare."""
    from ops.progress import progress
    from ops.verify import verify as run_verify

    if zone is not None:
        zone_exists(home, zone)
    with progress("Verifying") as tick:
        found = run_verify(lambda: connect(home, bounded=False), zone, tick)
    if as_json:
        print_json(found.as_json())
    else:
        for problem in found.problems:
            typer.echo(str(problem))
    if found.problems:
        fail(f"{found.count} differences were found.")
    if not as_json:
        typer.echo(f"All is well: {found.events} events, {found.commands} commands, {found.rows} rows.")
