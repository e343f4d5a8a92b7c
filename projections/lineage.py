"""Which command followed from which: a row for each command that names another one as its cause or correlation.

Events say so in their metadata, which is hashed with them: timers and reactions name the command that let them fall
due, and callers may name one (`Fogbook-Causation`). A command names earlier ones only, so causes never run in circles.
Commands of another zone bear its name (`village/c17`): what followed from them here stands here, what followed from
ours elsewhere stands there, because no zone reads another one.
"""

from __future__ import annotations

from typing import Any

from commands._codec import command_number, event_types
from projections._engine import Projection, Record, Rows
from projections._tables import Row, table


@table("lineage", key=("number",), indexes=("caused_by, number", "correlation, number"))
class Caused(Row):
    number: int
    """The command's number: 17 of `c17`."""
    caused_by: str = ""
    """Empty where only a correlation was named."""
    correlation: str = ""


def names_another(record: Record) -> bool:
    """Whether this is the first event of a command that names another one."""
    command = record.command
    return record.begins_command and not (
        record.causation in (command, "") and record.correlation in (command, "")
    )


lineage = Projection("lineage", Caused)
lineage.concerns = names_another


def a_command_names_what_it_follows_from(rows: Rows, event: Any, record: Record) -> None:
    number = command_number(record.command)
    if number is not None and names_another(record):
        caused_by = record.causation if record.causation != record.command else ""
        rows.add(Caused(number, caused_by, record.correlation or record.command))


for event in event_types().values():
    lineage.on(event)(a_command_names_what_it_follows_from)
