"""History from the command line: replaying and verifying it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ops.cli._common import Home, Json, connect, fail, print_json, print_lines, zone_exists
from ops.cli._exchange import replay_into


def replay(
    stream: Annotated[str | None, typer.Option(help="Only this stream, such as wallet:ana.")] = None,
    at: Annotated[str | None, typer.Option(help="Up to this position or time.")] = None,
    type: Annotated[str | None, typer.Option(help="Only events of this type.")] = None,
    into: Annotated[
        str | None,
        typer.Option(
            help="Fill the empty zone of another installation: its home, or its owner's DATABASE_URL."
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="With --into: what `fogbook export` wrote.")] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="With --file: a verifier key (vkey) that must have signed all of it; repeatable."),
    ] = None,
    zone: Annotated[str | None, typer.Option(help="The zone.", show_default="main")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Print the log as NDJSON; with --stream and --at, also the stream's state as of then."""
    from ops.replay import replay as run_replay

    if into is not None:
        if stream is not None or type is not None:
            raise typer.BadParameter("--into takes the whole log, up to --at")
        if key and file is None:
            raise typer.BadParameter("--key goes with --file")
        replay_into(into, file, key or [], at, zone, home, as_json)
        return
    if file is not None or key:
        raise typer.BadParameter("--file goes with --into, --key with both")
    zone = zone or "main"
    zone_exists(home, zone)
    with connect(home, bounded=False) as connection:
        print_lines(run_replay(connection, zone, stream=stream, at=at, type=type))


def verify(
    receipt: Annotated[
        Path | None, typer.Argument(help="Only this receipt of a command, without a database.")
    ] = None,
    held: Annotated[
        list[Path] | None, typer.Option("--from", help="A checkpoint that was kept elsewhere; repeatable.")
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="A verifier key (vkey) to trust beside the home's own; repeatable."),
    ] = None,
    deep: Annotated[bool, typer.Option(help="Check every attestation of a read model.")] = False,
    processes: Annotated[int, typer.Option(min=1, max=64, help="How many read at a time.")] = 2,
    resume: Annotated[
        Path | None, typer.Option(help="Go on where this file says, and keep in it how far it came.")
    ] = None,
    zone: Annotated[str | None, typer.Option(help="Only this zone.")] = None,
    metrics: Annotated[
        Path | None, typer.Option(help="Write what was found here, for node_exporter's textfile collector.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Hash what is stored again, check the logs' laws and signatures, fold everything again and compare."""
    from ops.progress import progress
    from ops.verify import verify as run_verify

    if receipt is not None:
        if held or deep or resume or zone or metrics:
            raise typer.BadParameter("a receipt is verified by itself, with --key")
        _verify_receipt(receipt, key or [], home, as_json)
        return
    if zone is not None:
        zone_exists(home, zone)
    checkpoints = [(str(path), read_text(path)) for path in held or []]
    with progress("Verifying") as tick:
        found = run_verify(
            lambda: connect(home, bounded=False),
            zone,
            tick,
            processes=processes,
            deep=deep,
            held=checkpoints,
            vkeys=key or [],
            pepper=pepper_at_hand(home),
            resume=resume,
        )
    if metrics is not None:
        _write_metrics(metrics, found.count, found.events)
    if as_json:
        print_json(found.as_json())
    else:
        for problem in found.problems:
            typer.echo(str(problem))
        for what in found.unproven:
            typer.echo(f"not proven: {what}")
    if found.count:
        fail(f"{found.count} differences were found.")
    if not as_json:
        words = "Nothing differs, but not all is proven" if found.unproven else "All is well"
        typer.echo(f"{words}: {found.events} events, {found.commands} commands, {found.rows} rows.")


def _write_metrics(path: Path, differences: int, events: int) -> None:
    from ops.observability.verified import write_verification

    try:
        write_verification(path, differences, events)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}.")


def _verify_receipt(receipt: Path, keys: list[str], home: Path | None, as_json: bool) -> None:
    from ops.verify import verify_receipt

    pepper = None if keys else pepper_at_hand(home)
    if not keys and pepper is None:
        raise typer.BadParameter("name whom to trust: --key VKEY, or the --home that the receipt is from")
    proven = verify_receipt(receipt, keys, pepper)
    if as_json:
        print_json(proven)
        return
    fate = "accepted" if proven["accepted"] else "refused"
    typer.echo(
        f"Zone {proven['zone']} has {fate} command {proven['command_id']}, with {proven['events']} events, "
        f"at position {proven['position']}: that is proven."
    )


def pepper_at_hand(home: Path | None) -> bytes | None:
    """The installation's secret, if it can be found here: an auditor elsewhere has none."""
    from ops.home import find_pepper
    from ops.settings import SettingsIncomplete

    try:
        return find_pepper(home)
    except SettingsIncomplete:
        return None


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}.")
    except UnicodeDecodeError:
        fail(f"{path} is no checkpoint: it is not text.")
