"""A living economy, and how fast it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ops.cli._common import Home, Json, Zone, fail


def simulate(
    devices: Annotated[int, typer.Option(min=1, help="How many devices lend their time.")] = 20,
    days: Annotated[int, typer.Option(min=1, help="How many days pass.")] = 2,
    seed: Annotated[int, typer.Option(help="The same seed, the same story.")] = 1,
    rate: Annotated[int, typer.Option(min=0, help="Commands a second at most; 0 for no limit.")] = 0,
    zone: Zone = "village",
    url: Annotated[str | None, typer.Option(help="The API; that of the run otherwise.")] = None,
    key: Annotated[str | None, typer.Option(help="An operator's key, scopes act-as and act-at.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Let an economy live through the HTTP API, in a zone with a manual clock: the demo and the load."""
    from ops.home import Target, find_target
    from ops.settings import SettingsIncomplete
    from ops.simulate import run

    try:
        target = find_target(home)
    except SettingsIncomplete:
        if not url:
            raise
        target = Target("", "")
    if url and url.rstrip("/") != target.url:
        target = Target("", "")  # Another system: this home's database and keys are not its own.
    url, key = url or target.url, key or target.admin_key or os.environ.get("FOGBOOK_ADMIN_KEY", "")
    if not url or not key:
        fail("Name the API with --url and an operator's key with --key.")
    code = run(
        devices=devices,
        days=days,
        seed=seed,
        rate=rate,
        zone=zone,
        url=url,
        key=key,
        database_url=target.database_url,
        json=as_json,
    )
    raise typer.Exit(code)


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="End within a minute.")] = False,
    seed: Annotated[int, typer.Option(help="Of the generated load.")] = 1,
    part: Annotated[list[str] | None, typer.Option(help="Only this part; may be repeated.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="A file for the figures as JSON, beside the table.")
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="A folder for plots as SVG.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 3 when a measured goal is missed.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Measure, on temporary servers of its own."""
    from ops.bench.run import main as run_bench

    code = run_bench(
        quick=quick, json=as_json, seed=seed, home=home, parts=part, out=out, plots=plots, check=check
    )
    raise typer.Exit(code)
