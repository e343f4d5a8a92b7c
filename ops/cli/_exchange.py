"""Taking history out of an installation and into another one, and the catalogue of what it is made of."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from ops.cli._common import Home, Json, Zone, answer, connect, fail, zone_exists
from ops.cli._signing import connect_as_signer, keeper_of, secret_and_origin

TRIES = 5
"""Of an export that ends where a checkpoint does, while commands go on."""


def export(
    file: Annotated[
        Path, typer.Argument(help="FILE.ndjson or FILE.ndjson.gz (whole), FILE.parquet (events).")
    ],
    at: Annotated[str | None, typer.Option(help="Up to this position or time.")] = None,
    stream: Annotated[str | None, typer.Option(help="Only this stream's events.")] = None,
    type: Annotated[str | None, typer.Option(help="Only events of this type.")] = None,
    query: Annotated[
        str | None,
        typer.Option(help="The rows of this query instead, such as ledger/balances, as FILE.parquet."),
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(help="A parameter of the query, NAME=VALUE; repeatable.")
    ] = None,
    zone: Zone = "main",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write a zone's history to a file, with the signed checkpoint that it can be held against; or a query's rows."""
    if query is not None or param:
        if at is not None or stream or type or query is None:
            raise typer.BadParameter(
                "--param goes with --query, and --query goes without --at, --stream and --type"
            )
        _export_query(file, query, param or [], zone, home, as_json)
        return
    from ops.export import one_moment, stored_entries, survey, write_ndjson
    from ops.progress import progress

    if file.name.endswith(".parquet"):
        from ops.parquet import write_parquet as write
    elif file.name.endswith((".ndjson", ".ndjson.gz")):
        write = write_ndjson
    else:
        fail(f"{file} should end in .ndjson, .ndjson.gz or .parquet.")
    zone_exists(home, zone)
    with connect(home, bounded=False) as connection:
        for tries_left in reversed(range(TRIES)):
            signed = at is None and _checkpoint(home, zone)
            with progress("Exporting") as tick, one_moment(connection):
                manifest = survey(connection, zone, at, stream=stream, type=type)
                if signed and tries_left and not _is_signed(manifest):
                    continue  # Something was appended meanwhile.
                write(file, manifest, stored_entries(connection, manifest), tick)
                break
    text = f"{file} holds {manifest.events} events of zone {zone} up to position {manifest.position}."
    answer({"file": str(file)} | manifest.shown(), as_json, text)


def _export_query(
    file: Path, name: str, parameters: list[str], zone: str, home: Path | None, as_json: bool
) -> None:
    from ops.export import one_moment
    from ops.progress import progress
    from ops.tables import export_query, query_named
    from queries.api import load_queries

    if not file.name.endswith(".parquet"):
        fail(f"{file} should end in .parquet.")
    given = dict[str, str]()
    for parameter in parameters:
        key, equals, value = parameter.partition("=")
        if not equals or key in given:
            fail(f"--param {parameter} should be NAME=VALUE, each name once.")
        given[key] = value
    load_queries()
    query = query_named(name)
    zone_exists(home, zone)
    with connect(home, bounded=False) as connection, progress("Exporting") as tick, one_moment(connection):
        made = export_query(connection, query, zone, given, file, tick)
    text = f"{file} holds {made.rows} rows of {made.query} of zone {zone} as of position {made.position}."
    answer({"file": str(file)} | made._asdict(), as_json, text)


def _checkpoint(home: Path | None, zone: str) -> bool:
    """Sign one that covers all of it, where the secret is at hand; the newest one there is must do elsewhere."""
    from ops.settings import SettingsIncomplete
    from ops.signing import SigningRefused, checkpoint_now

    with suppress(SettingsIncomplete, SigningRefused):
        pepper, origin = secret_and_origin(home)
        with connect_as_signer(home) as connection:
            checkpoint_now(connection, pepper, origin, zone, keeper_of(home))
        return True
    return False


def _is_signed(manifest: Any) -> bool:
    """Whether the checkpoints cover all that is exported of the log."""
    sizes = [int(note.split("\n")[1]) if note else 0 for note in manifest.checkpoints.values()]
    return sum(sizes) == manifest.entries or manifest.slice is not None


def replay_into(
    into: str,
    file: Path | None,
    keys: list[str],
    at: str | None,
    zone: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Fill an empty zone of another installation with this one's log, or with that of an export."""
    from ops.progress import progress
    from ops.refill import Filled, export_into, log_into

    def show(filled: Filled) -> None:
        compared = [f"{log} at {size}" for log, size in filled.checkpoints.items()]
        text = (
            f"Zone {filled.zone} stands at position {filled.position} there; "
            f"signed checkpoints that were compared: {', '.join(compared) or 'none'}."
        )
        if file is not None and not keys:
            text += " The keys are those that the file itself names; --key takes one that you trust."
        answer(filled.as_json(), as_json, text)

    with progress("Replaying") as tick:
        if file is not None:
            filled = export_into(into, file, at, zone, tick, keys)
        else:
            with connect(home, bounded=False) as connection:
                filled = log_into(into, connection, zone or "main", at, tick)
    show(filled)


def catalogue(
    out: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Print what the log is made of, every type of event and where it stands, as an AsyncAPI document."""
    from ops.catalogue import catalogue_json
    from ops.files import write_file

    if out is None:
        typer.echo(catalogue_json())
    else:
        write_file(out, catalogue_json() + b"\n")
        answer({"file": str(out)}, as_json, f"The catalogue is in {out}.")
