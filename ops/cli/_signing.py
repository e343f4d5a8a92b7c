"""Signing keys, witnesses, and checkpoints to take away."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ops.cli._common import (
    Home,
    Json,
    Zone,
    answer,
    connect,
    print_rows,
    record,
    use_environment_of,
    zone_exists,
)
from ops.waits import Connection

NICENESS = 10

signing = typer.Typer(no_args_is_help=True, help="The keys that sign checkpoints of a zone's logs.")
witness = typer.Typer(no_args_is_help=True, help="Witnesses whose cosignatures of checkpoints are accepted.")


@signing.command("list")
def list_keys(zone: Zone = "main", home: Home = None, as_json: Json = False) -> None:
    """The keys of a zone, retired ones included, and how verifiers name them."""
    from ops.signing import list_keys as of

    zone_exists(home, zone)
    with connect(home) as connection:
        print_rows(of(connection, zone), as_json)


@signing.command("rotate")
def rotate_key(zone: Zone = "main", home: Home = None, as_json: Json = False) -> None:
    """Add a key; it and those before it sign every checkpoint until these are retired."""
    from ops.signing import checkpoint_now, rotate

    zone_exists(home, zone)
    (pepper, origin), keeper = secret_and_origin(home), keeper_of(home)
    with connect_as_signer(home) as connection:
        serial = rotate(connection, pepper, origin, zone, keeper)
        checkpoint_now(connection, pepper, origin, zone, keeper)
    record(home, "keys signing rotate", zone, serial=serial)
    answer({"zone": zone, "serial": serial}, as_json, f"Key {serial} of zone {zone} signs from now on.")


@signing.command("retire")
def retire_key(
    serial: Annotated[int, typer.Argument(min=1, help="The key's number, as in `keys signing list`.")],
    zone: Zone = "main",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Take a key out of use; what it has signed stays valid."""
    from ops.signing import checkpoint_now, retire

    zone_exists(home, zone)
    pepper, origin = secret_and_origin(home)
    with connect_as_owner(home) as owner:
        retire(owner, zone, serial)
    record(home, "keys signing retire", zone, serial=serial)
    with connect_as_signer(home) as connection:
        checkpoint_now(connection, pepper, origin, zone, keeper_of(home))
    answer({"zone": zone, "serial": serial}, as_json, f"Key {serial} of zone {zone} is retired.")


@witness.command("add")
def add_witness(
    name: Annotated[str, typer.Argument(help="The name in its verifier key.")],
    vkey: Annotated[str, typer.Argument(help="Its verifier key: name+hash+key.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Accept a witness's cosignatures."""
    from ops.signing import add_witness as accept

    with connect_as_owner(home) as owner:
        accept(owner, name, vkey)
    record(home, "keys witness add", name=name, verifier_key=vkey)
    answer({"name": name, "verifier_key": vkey}, as_json, f"Cosignatures of {name} are accepted.")


@witness.command("list")
def list_witnesses(home: Home = None, as_json: Json = False) -> None:
    """All witnesses."""
    from ops.signing import list_witnesses as of

    with connect(home) as connection:
        print_rows(of(connection), as_json)


@witness.command("remove")
def remove_witness(
    name: Annotated[str, typer.Argument(help="The witness's name.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Accept no further cosignatures of a witness; those that were accepted stay."""
    from ops.signing import remove_witness as remove

    with connect_as_owner(home) as owner:
        remove(owner, name)
    record(home, "keys witness remove", name=name)
    answer({"name": name, "removed": True}, as_json, f"The witness {name} is removed.")


def checkpoint(
    zone: Zone = "main",
    out: Annotated[
        Path | None, typer.Option(help="Write the note here; FILE.fates gets that of the second log.")
    ] = None,
    begin_anew: Annotated[
        bool,
        typer.Option(
            "--begin-anew",
            help="Sign a log that does not continue what was signed before, by a new key, for good.",
        ),
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Sign a zone's log as it stands now, and print the note: keep it where nobody else can change it."""
    from ops.signing import begin_anew as begin
    from ops.signing import checkpoint_now, write_note
    from projections._transparency import EVENTS, FATES

    zone_exists(home, zone)
    secret, keeper = secret_and_origin(home), keeper_of(home)
    if begin_anew:
        with connect_as_owner(home) as owner:
            begin(owner, *secret, zone, keeper)
        record(home, "checkpoint --begin-anew", zone)
    with connect_as_signer(home) as connection:
        signed = checkpoint_now(connection, *secret, zone, keeper)
    if out is not None:
        write_note(out, signed[EVENTS].note)
        write_note(out.with_name(out.name + ".fates"), signed[FATES].note)
    shown: dict[str, Any] = {
        log: {"size": each.size, "root": each.root.hex(), "note": each.note} for log, each in signed.items()
    }
    said = f"{out} holds the checkpoint of {signed[EVENTS].size} events."
    answer({"zone": zone, **shown}, as_json, signed[EVENTS].note.rstrip("\n") if out is None else said)


def archive(home: Home = None, as_json: Json = False) -> None:
    """Run the archivist: it signs checkpoints, and keeps past rows for questions as of a position."""
    # It steps aside for everybody else, and does so before its imports, which would delay the API's start.
    os.nice(NICENESS)
    use_environment_of(home)
    from ops.settings import Settings
    from workers.archivist import keep_archive

    keep_archive(Settings().model_copy(update={"signed": signed_folder(home)}))


def secret_and_origin(home: Path | None) -> tuple[bytes, str]:
    """The installation's secret, and what its logs' origins begin with."""
    from pydantic import SecretStr

    from ops.home import find_pepper
    from ops.settings import Settings
    from ops.signing import log_origin

    pepper = find_pepper(home)
    return pepper, log_origin(Settings().model_copy(update={"pepper": SecretStr(pepper.decode())}))


def signed_folder(home: Path | None) -> Path | None:
    """Where is kept what was signed last, if anywhere."""
    from ops.home import full_path
    from ops.settings import Settings

    folder = full_path(home) / "signed"
    return Settings().signed or (folder if folder.is_dir() else None)


def keeper_of(home: Path | None) -> Any:
    from ops.signed import SignedFolder

    folder = signed_folder(home)
    return SignedFolder(folder.expanduser()) if folder else None


def connect_as_signer(home: Path | None) -> Any:
    from ops.home import find_target
    from ops.pool import connect_as_signer as connect

    return connect(find_target(home).database_url, "fogbook cli", bounded=False)


def connect_as_owner(home: Path | None) -> Any:
    """The database's owner may do what the role that Fogbook works in may not."""

    from ops.home import find_target

    url = find_target(home).superuser_url
    return Connection.connect(url, autocommit=True, wait_s=None, application_name="fogbook cli")
