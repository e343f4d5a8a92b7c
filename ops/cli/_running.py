"""Running Fogbook: everything at once, or one part of it."""

from __future__ import annotations

import json
import socket
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops.cli._common import Home, Json, answer, fail, print_json, use_environment_of

if TYPE_CHECKING:
    from ops.home import Run


class Side(StrEnum):
    commands = "commands"
    queries = "queries"
    all = "all"


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

    run_up(
        full_path(home),
        port,
        empty=empty,
        say=(lambda text: None) if as_json else typer.echo,
        tell=tell_json if as_json else tell,
    )


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

    from ops.protocol import IDLE_S, Server, allow_connections, protocol_of
    from ops.settings import Settings

    use_environment_of(home)
    settings = Settings()
    check_served(settings)
    factories = {
        Side.commands: "commands.api:make_app",
        Side.queries: "queries.api:make_app",
        Side.all: "ops.app:make_app",
    }
    config = uvicorn.Config(
        factories[side],
        factory=True,
        host=host or settings.host,
        port=settings.port if port is None else port,
        loop="uvloop",
        http=protocol_of(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        backlog=2048,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=3,
    )
    allow_connections(settings.most_connections)
    server = Server(config)
    server.run([socket.socket(fileno=fd)] if fd is not None else None)
    if not server.started:
        fail("The API could not start; the log above says why.")


def work(home: Home = None, as_json: Json = False) -> None:
    """Run a worker: followers of the log, the sweeper and timers."""
    use_environment_of(home)
    from ops.settings import Settings
    from workers.main import work as run_worker

    run_worker(Settings())


class MigrationStep(StrEnum):
    expand = "expand"
    contract = "contract"
    all = "all"


def migrate(
    home: Home = None,
    step: Annotated[
        MigrationStep,
        typer.Option(help="expand before new processes start, contract once old ones have ended; or both."),
    ] = MigrationStep.all,
    as_json: Json = False,
) -> None:
    """Bring the database up to date; FOGBOOK_MIGRATE_DATABASE_URL names it as its owner."""
    from ops.home import find_target
    from ops.migrate import Step
    from ops.migrate import migrate as run_migrations
    from ops.safety import UnsafeDatabase

    try:
        run_migrations(find_target(home).superuser_url, Step(step))
    except UnsafeDatabase as error:
        fail(str(error))
    answer({"migrated": True}, as_json, "The database is up to date.")


def tell_json(run: Run) -> None:
    from dataclasses import asdict

    print_json(asdict(run))


def tell(run: Run) -> None:
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


def check_served(settings: Any) -> None:
    """Say in one sentence what would otherwise be a trace of the server's start-up."""
    from ops.pooled import check_way
    from ops.production import check_production
    from ops.traces import tracing

    assert len(settings.pepper_bytes) >= 16
    check_way(settings)
    with tracing(settings, "fogbook"):
        pass  # What sends traces is installed.
    if settings.production:
        check_production(settings)
