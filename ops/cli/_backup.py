"""Backups, and getting back from one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from ops.cli._common import Home, Json, answer


def backup(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write the database, as it is at one moment, into a folder with a manifest; commands go on meanwhile.

    The keys of personal texts, what was signed last, and the installation's secret are not in it.
    """
    from ops.backup import back_up
    from ops.progress import progress

    with installation(home) as (owner_url, _), progress("Backing up") as tick:
        manifest = back_up(owner_url, folder, tick)
        record_as_owner(owner_url, "backup", folder=str(folder))
    zones = ", ".join(f"{zone.zone} at {zone.position}" for zone in manifest.zones) or "no zones"
    text = f"{folder} holds {zones}: {manifest.dump_bytes} bytes."
    answer({"folder": str(folder)} | manifest.shown(), as_json, text)


def restore(
    folder: Annotated[Path, typer.Argument(help="What `fogbook backup` wrote.")],
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Even where the database holds something, which is kept beside it."),
    ] = False,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Without `fogbook verify`, which can run afterwards.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make a backup the database, once it has proven to hold what its manifest says. Nothing may run on it."""
    from ops.progress import progress
    from ops.restore import restore as run_restore

    with installation(home) as (owner_url, free_bytes), progress("Restoring") as tick:
        restored = run_restore(
            owner_url,
            folder,
            tick,
            replace=replace,
            verified=not unverified,
            secret=secret_at_hand(home),
            free_bytes=free_bytes,
        )
        record_as_owner(owner_url, "restore", folder=str(folder), verified=restored.verified)
    zones = ", ".join(f"{zone.zone} at {zone.position}" for zone in restored.manifest.zones) or "no zones"
    lines = [f"Restored: {zones}, as of {restored.manifest.taken_at:%Y-%m-%d %H:%M:%S} UTC."]
    lines += [f"not proven: {what}" for what in restored.unproven]
    if restored.kept is not None:
        lines.append(f"What was there before is the database {restored.kept}; drop it when nobody misses it.")
    shown = restored.manifest.shown() | {
        "verified": restored.verified,
        "kept": restored.kept,
        "unproven": restored.unproven,
    }
    answer({"folder": str(folder)} | shown, as_json, "\n".join(lines))


@contextmanager
def installation(home: Path | None) -> Iterator[tuple[str, int | None]]:
    """The owner's URL, and how much is free on the disk where we know it. The servers of a home at which nothing runs
    are started for as long as it takes."""
    from ops.home import find_target, full_path, read_run
    from ops.servers import start_servers
    from ops.settings import Settings

    folder = full_path(home)
    if Settings().database_url:
        yield find_target(home).superuser_url, None
    elif (run := read_run(folder)) is not None:
        yield run.superuser_url, shutil.disk_usage(folder).free
    else:
        with start_servers(folder) as servers:
            yield servers.superuser_url, shutil.disk_usage(folder).free


def record_as_owner(owner_url: str, act: str, **facts: Any) -> None:
    """Write an administrative act into the access log, where the database's schema has come as far as to have one."""
    import psycopg

    from ops.access import administered

    with psycopg.connect(owner_url, autocommit=True, connect_timeout=5) as owner:
        row = owner.execute("SELECT to_regclass('public.access_log')").fetchone()
        if row is not None and row[0] is not None:
            administered(owner, act, **facts)


def secret_at_hand(home: Path | None) -> Any:
    from ops.home import find_pepper
    from ops.settings import SettingsIncomplete

    with suppress(SettingsIncomplete):
        return find_pepper(home)
    return None
