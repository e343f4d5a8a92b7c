"""What the subcommands share: their common options, how they answer, and how they reach the database."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

Home = Annotated[
    Path | None, typer.Option(help="Where an embedded run keeps everything.", show_default="~/.fogbook")
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Zone = Annotated[str, typer.Option(help="The zone.")]


def fail(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(1)


def answer(value: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        print_json(value)
    else:
        typer.echo(text)


def print_json(value: Any) -> None:
    from commands._codec import encode_json

    typer.echo(encode_json(value))


def print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
    else:
        from ops.status import show_rows

        show_rows(rows)


def print_lines(lines: Iterable[bytes]) -> None:
    try:
        for line in lines:
            sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Whoever read (`| head`) has seen enough; the interpreter must not fail on its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def connect(home: Path | None, *, bounded: bool = True) -> Any:
    from ops.home import find_target
    from ops.pool import connect

    return connect(find_target(home).database_url, "fogbook cli", bounded=bounded)


def record(home: Path | None, act: str, zone: str = "", **facts: Any) -> None:
    """Write an administrative act into the access log."""
    from ops.access import administered

    with connect(home) as connection:
        administered(connection, act, zone=zone, **facts)


def zone_exists(home: Path | None, zone: str) -> None:
    with connect(home) as connection:
        if connection.execute("SELECT 1 FROM heads WHERE zone = %s", (zone,)).fetchone() is None:
            fail(f"There is no zone {zone}.")


def use_environment_of(home: Path | None) -> None:
    """Long-running processes read the environment; where it says nothing, the run of this home speaks."""
    from ops.home import find_pepper, find_target, full_path
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
    if settings.subject_keys is None:
        os.environ["FOGBOOK_SUBJECT_KEYS"] = str(full_path(home) / "subjects")


def time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise typer.BadParameter(f"{text} is no RFC 3339 time with its offset")
    return at
