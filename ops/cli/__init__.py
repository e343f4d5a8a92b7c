"""The command line: one function a subcommand; what it does lies in a module of its own, imported when asked for.

Exit codes: 0 done, 1 failed or refused (one sentence on stderr says why), 2 wrong usage.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import typer

from ops.cli import _backup, _config, _exchange, _history, _living, _looking, _running, _signing
from ops.cli._keys import keys
from ops.cli._zones import zones

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@cli.callback()
def begin() -> None:
    """The book of record for fog-computing economies."""
    from ops.logging import configure_logging
    from ops.settings import Settings

    configure_logging(Settings().log_level)


for _subcommand in (
    _running.up,
    _running.serve,
    _running.work,
    _signing.archive,
    _running.migrate,
    _looking.status,
    _config.config,
    _looking.rebuild,
    _exchange.export,
    _exchange.catalogue,
    _backup.backup,
    _backup.restore,
    _history.replay,
    _history.verify,
    _signing.checkpoint,
    _living.simulate,
    _living.bench,
):
    cli.command()(_subcommand)
keys.add_typer(_signing.signing, name="signing")
keys.add_typer(_signing.witness, name="witness")
cli.add_typer(keys, name="keys")
cli.add_typer(zones, name="zones")


def main() -> None:
    """Whatever is refused ends as one sentence and exit code 1."""
    import psycopg
    from pydantic import ValidationError

    from ops.home import Refused
    from ops.servers import ServersFailed
    from ops.settings import SettingsIncomplete

    try:
        cli()
    except (Refused, ServersFailed, SettingsIncomplete) as error:
        _end(str(error))
    except ValidationError as error:
        _end(_wrong_setting(error))
    except psycopg.OperationalError as error:
        _end(f"The database cannot be used: {_first_line(error)}.")
    except psycopg.errors.UndefinedTable:
        _end("The database has no tables of Fogbook yet: run `fogbook migrate`.")


def _wrong_setting(error: Any) -> str:
    """Without the value, which may be a secret."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    shown = name if name.isupper() else f"FOGBOOK_{name.upper()}"
    return f"The setting {shown} cannot be used: {first['msg'][:1].lower()}{first['msg'][1:]}."


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _end(sentence: str) -> NoReturn:
    from ops.logging import hide_secrets

    sys.stderr.write(hide_secrets(sentence) + "\n")
    sys.exit(1)
