"""The command line: one function a subcommand; what it does lies in a module of its own, imported when asked for.

Exit codes: 0 done, 1 failed or refused (one sentence on stderr says why), 2 wrong usage.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from ops.home import Run

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys = typer.Typer(no_args_is_help=True, help="API keys.")
zones = typer.Typer(no_args_is_help=True, help="Zones: each is one economy with one log.")
cli.add_typer(keys, name="keys")
cli.add_typer(zones, name="zones")

Home = Annotated[
    Path | None, typer.Option(help="Where an embedded run keeps everything.", show_default="~/.fogbook")
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Zone = Annotated[str, typer.Option(help="The zone.")]


class Side(StrEnum):
    commands = "commands"
    queries = "queries"
    all = "all"


class Role(StrEnum):
    operator = "operator"
    participant = "participant"
    provider = "provider"
    auditor = "auditor"
    worker = "worker"


@cli.callback()
def begin() -> None:
    """The book of record for fog-computing economies."""
    from ops.logging import configure_logging
    from ops.settings import Settings

    configure_logging(Settings().log_level)


# Running


@cli.command()
def up(
    home: Home = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="The API's port.", show_default="8420")
    ] = None,
    empty: Annotated[bool, typer.Option("--empty", help="Seed nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Run everything on this machine: servers, API and workers, until Ctrl-C."""
    from ops.home import full_path
    from ops.up import up as run_up

    say = _say if not as_json else lambda text: None
    run_up(full_path(home), port, empty=empty, say=say, tell=_tell_json if as_json else _tell)


@cli.command()
def serve(
    side: Annotated[Side, typer.Argument(help="Which API to serve.")] = Side.all,
    home: Home = None,
    host: Annotated[str | None, typer.Option(help="FOGBOOK_HOST otherwise.")] = None,
    port: Annotated[int | None, typer.Option(help="FOGBOOK_PORT otherwise.")] = None,
    fd: Annotated[
        int | None, typer.Option(hidden=True, help="A listening socket that was handed on.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve the command API, the query API or both, in one process."""
    import uvicorn

    from ops.settings import Settings

    _use_environment_of(home)
    settings = Settings()
    _check_served(settings)
    factories = {
        Side.commands: "commands.api:app",
        Side.queries: "queries.api:app",
        Side.all: "ops.app:make_app",
    }
    config = uvicorn.Config(
        factories[side],
        factory=side is Side.all,
        host=host or settings.host,
        port=settings.port if port is None else port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # Nothing here asks for the client's address.
        backlog=2048,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(config)
    server.run([socket.socket(fileno=fd)] if fd is not None else None)
    if not server.started:
        _fail("The API could not start; the log above says why.")


@cli.command()
def work(home: Home = None, as_json: Json = False) -> None:
    """Run a worker: followers of the log, the sweeper and timers."""
    _use_environment_of(home)
    from ops.settings import Settings
    from workers.main import work as run_worker

    run_worker(Settings())


@cli.command()
def migrate(home: Home = None, as_json: Json = False) -> None:
    """Bring the database up to date; FOGBOOK_MIGRATE_DATABASE_URL names it as its owner."""
    from ops.home import find_target
    from ops.migrate import UnsafeDatabase
    from ops.migrate import migrate as run_migrations

    try:
        run_migrations(find_target(home).superuser_url)
    except UnsafeDatabase as error:
        _fail(str(error))
    _answer({"migrated": True}, as_json, "The database is up to date.")


# Looking and repairing


@cli.command()
def status(home: Home = None, as_json: Json = False) -> None:
    """Zones, how far projections lag, what is quarantined, and timers that are stuck."""
    from ops import status as of

    with _connect(home) as connection:
        found = of.read_status(connection)
    if as_json:
        _print_json(found)
    else:
        of.show_status(found)


@cli.command()
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
        _fail(f"There is no projection {projection}; there are {', '.join(known)} (or all).")
    _zone_exists(home, zone)
    positions = {}
    for name in known if projection == "all" else [projection]:
        with progress(f"Rebuilding {name}") as tick:
            positions[name] = run_rebuild(lambda: _connect(home, bounded=False), zone, known[name], tick)
        with _connect(home, bounded=False) as connection:
            sweep(connection, zone, known[name])
    said = "\n".join(f"{name} is rebuilt, at position {position}." for name, position in positions.items())
    _answer({"zone": zone, "positions": positions}, as_json, said)


@cli.command()
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

    _zone_exists(home, zone)
    with _connect(home, bounded=False) as connection:
        _print_lines(run_replay(connection, zone, stream=stream, at=at, type=type))


@cli.command()
def verify(
    zone: Annotated[str | None, typer.Option(help="Only this zone.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Hash what is stored again, check the log's laws, fold everything again and compare."""
    from ops.progress import progress
    from ops.verify import verify as run_verify

    if zone is not None:
        _zone_exists(home, zone)
    with progress("Verifying") as tick:
        found = run_verify(lambda: _connect(home, bounded=False), zone, tick)
    if as_json:
        _print_json(found.as_json())
    else:
        for problem in found.problems:
            typer.echo(str(problem))
    if found.problems:
        _fail(f"{found.count} differences were found.")
    if not as_json:
        typer.echo(f"All is well: {found.events} events, {found.commands} commands, {found.rows} rows.")


# Keys and zones


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
    with _connect(home) as connection:
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
    _answer(
        {"id": made.id, "key": made.key}, as_json, f"{made.key}\nIt is not shown again; its id is {made.id}."
    )


@keys.command("list")
def list_keys(home: Home = None, as_json: Json = False) -> None:
    """All keys, without their secrets."""
    from ops.keys import list_keys as of

    with _connect(home) as connection:
        _print_rows(of(connection), as_json)


@keys.command("revoke")
def revoke_key(
    id: Annotated[str, typer.Argument(help="The key's id, as in `keys list`.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Take a key out of use; servers notice within seconds."""
    from ops.keys import revoke_key as revoke

    with _connect(home) as connection:
        if not revoke(connection, id):
            _fail(f"There is no key {id}.")
    _answer({"id": id, "revoked": True}, as_json, f"Key {id} is revoked.")


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
    new = ensure_zone(find_target(home).database_url, name, clock, _time(starts_at) if starts_at else None)
    said = f"Zone {name} is made." if new else f"Zone {name} exists."
    _answer({"zone": name, "clock": clock, "created": new}, as_json, said)


@zones.command("list")
def list_zones(home: Home = None, as_json: Json = False) -> None:
    """All zones, where their logs stand, and the keys by which other zones know them."""
    from ops.home import find_pepper
    from ops.zones import list_zones as of
    from ops.zones import with_public_keys

    with _connect(home) as connection:
        _print_rows(with_public_keys(of(connection), find_pepper(home)), as_json)


# A living economy, and how fast it is


@cli.command()
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
        _fail("Name the API with --url and an operator's key with --key.")
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


@cli.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="End within a minute.")] = False,
    seed: Annotated[int, typer.Option(help="Of the generated load.")] = 1,
    part: Annotated[list[str] | None, typer.Option(help="Only this part; may be repeated.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Measure, on temporary servers of its own."""
    from ops.bench.run import main as run_bench

    raise typer.Exit(run_bench(quick=quick, json=as_json, seed=seed, home=home, parts=part))


# What the subcommands share


def _fail(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(1)


def _say(text: str) -> None:
    typer.echo(text)


def _answer(value: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        _print_json(value)
    else:
        typer.echo(text)


def _print_json(value: Any) -> None:
    from commands._codec import encode_json

    typer.echo(encode_json(value))


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _print_json(rows)
    else:
        from ops.status import show_rows

        show_rows(rows)


def _print_lines(lines: Iterable[bytes]) -> None:
    try:
        for line in lines:
            sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Whoever read (`| head`) has seen enough; the interpreter must not fail on its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell_json(run: Run) -> None:
    from dataclasses import asdict

    _print_json(asdict(run))


def _tell(run: Run) -> None:
    typer.echo(
        f"""
Fogbook runs at {run.url} (documentation: {run.url}/docs)
API key: {run.admin_key}

Try it:
  curl -X POST {run.url}/commands/ledger/open-wallet \\
    -H 'Authorization: Bearer {run.admin_key}' \\
    -H 'Idempotency-Key: first' -H 'Fogbook-Act-As: ana' \\
    -H 'Content-Type: application/json' -d '{json.dumps({"wallet": "ana"})}'

Ctrl-C stops everything."""
    )


def _connect(home: Path | None, *, bounded: bool = True) -> Any:
    from ops.home import find_target
    from ops.pool import connect

    return connect(find_target(home).database_url, "fogbook cli", bounded=bounded)


def _zone_exists(home: Path | None, zone: str) -> None:
    with _connect(home) as connection:
        if connection.execute("SELECT 1 FROM heads WHERE zone = %s", (zone,)).fetchone() is None:
            _fail(f"There is no zone {zone}.")


def _use_environment_of(home: Path | None) -> None:
    """Long-running processes read the environment; where it says nothing, the run of this home speaks."""
    from ops.home import find_pepper, find_target
    from ops.settings import Settings

    target, settings = find_target(home), Settings()
    found = {
        "DATABASE_URL": target.database_url,
        "REDIS_URL": target.redis_url,
        "FOGBOOK_API_URL": target.url,
    }
    os.environ.update({name: value for name, value in found.items() if value})
    if not settings.pepper.get_secret_value():
        os.environ["FOGBOOK_PEPPER"] = find_pepper(home).decode()


def _check_served(settings: Any) -> None:
    """Say in one sentence what would otherwise be a trace of the server's start-up."""
    import psycopg

    assert len(settings.pepper_bytes) >= 16
    psycopg.connect(settings.database_url, connect_timeout=5).close()


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise typer.BadParameter(f"{text} is no RFC 3339 time with its offset")
    return at


def main() -> None:
    """Whatever is refused ends as one sentence and exit code 1."""
    import psycopg

    from ops.home import Refused
    from ops.servers import ServersFailed
    from ops.settings import SettingsIncomplete

    try:
        cli()
    except (Refused, ServersFailed, SettingsIncomplete) as error:
        _end(str(error))
    except psycopg.OperationalError as error:
        _end(f"The database cannot be used: {_first_line(error)}.")
    except psycopg.errors.UndefinedTable:
        _end("The database has no tables of Fogbook yet: run `fogbook migrate`.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _end(sentence: str) -> NoReturn:
    from ops.logging import hide_secrets

    sys.stderr.write(hide_secrets(sentence) + "\n")
    sys.exit(1)


if __name__ == "__main__":
    main()
