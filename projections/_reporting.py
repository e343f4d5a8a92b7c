"""The schema `reporting`, for analysts: each read model's live rows as a view, and the log, in plain SQL.

A view has the name and the columns of the rows' declaration, so it is documented where they are, and columns are only
ever added to it. Rebuilds are not seen: a view shows the live generation. Personal texts are sealed here, as they are
stored. `position` is that of the last event that touched a row; `incomplete` rows miss an event.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from projections._engine import all_projections
from projections._tables import Table

EVENTS = """
CREATE OR REPLACE VIEW reporting.events AS
SELECT zone, position, stream, version, type, recorded_at, convert_from(data, 'UTF8') AS data,
       convert_from(meta, 'UTF8') AS meta
FROM public.events WHERE meta <> ''
"""
COMMANDS = """
CREATE OR REPLACE VIEW reporting.commands AS
SELECT zone, number, principal, act_as, status, position, events, recorded_at,
       convert_from(request, 'UTF8') AS request, convert_from(answer, 'UTF8') AS answer
FROM public.commands
"""
CHECKPOINTS = """
CREATE OR REPLACE VIEW reporting.checkpoints AS
SELECT zone, projection, position, recorded_at AS as_of FROM public.checkpoints WHERE live
"""
ABOUT = {
    "events": "The log: what happened, in one order per zone. data and meta are JSON as it was hashed, to be cast"
    " to jsonb. Events of other applications are left out.",
    "commands": "What was asked and what came of it: 200 accepted, 409 refused by a rule.",
    "checkpoints": "How far each read model is: the position and the time that its views reflect.",
}


# Columns stand in the order in which the table got them, so a new one is the last, and a view is replaced in place:
# what analysts built on it stays.
VIEW = """
DO $$
BEGIN
    EXECUTE (
        SELECT format(
            'CREATE OR REPLACE VIEW reporting.{name} AS SELECT %s FROM read.{name} r JOIN public.checkpoints c'
            ' ON (c.zone, c.generation) = (r.zone, r.generation) AND c.projection = ''{projection}'' AND c.live',
            string_agg(format('r.%I', attname), ', ' ORDER BY attnum))
        FROM pg_attribute
        WHERE attrelid = 'read.{name}'::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'generation'
    );
END
$$
"""


def reporting_statements() -> Iterator[str]:
    """The DDL of all views; safe to run again."""
    yield "CREATE SCHEMA IF NOT EXISTS reporting"
    yield from (EVENTS, COMMANDS, CHECKPOINTS)
    for name, about in ABOUT.items():
        yield _comment(f"reporting.{name}", about)
    for projection in all_projections().values():
        for table in projection.tables:
            yield VIEW.format(name=table.name.removeprefix("read."), projection=projection.name)
            yield _comment(view_of(table), inspect.getdoc(table.row) or f"Rows of {table.name}.")


def view_of(table: Table) -> str:
    return table.name.replace("read.", "reporting.", 1)


def _comment(view: str, text: str) -> str:
    quoted = " ".join(text.split()).replace("'", "''")
    return f"COMMENT ON VIEW {view} IS '{quoted}'"
