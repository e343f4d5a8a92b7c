"""SQL around a query's SELECT: as of now, as of a position, and what differs between two positions.

As of now a SELECT reads the live rows of its projection. As of a position it is the same text, and reads the archive
(projections/_archive.py): each `read.x` becomes the versions of `past.x` that were valid then, and `live` the position
that was asked for. What else a query reads has a past as well, or the query cannot be asked so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from commands._codec import cache
from projections._archive import past_name
from projections._schema import tables
from queries._query import Query

LIVE = """
SELECT zone, generation, position, recorded_at AS as_of FROM checkpoints
WHERE zone = %(zone)s AND projection = %(projection)s AND live
"""

MOST_LIMIT = 500
"""Items of a page."""
MOST_STATEMENTS = 2_000
"""Texts that are remembered: of a query as many as there are sets of parameters to give."""

_AMOUNTS = ("amount", "quantity", "numeric(38,0)", "numeric")


def plain(hint: Any) -> Any:
    """The hint without `| None`."""
    return (
        next((part for part in get_args(hint) if part is not type(None)), hint) if _optional(hint) else hint
    )


def _optional(hint: Any) -> bool:
    return type(None) in get_args(hint)


def is_amount(hint: Any) -> bool:
    return get_origin(hint) is Annotated and hint.__metadata__[0] in _AMOUNTS


def _shown(name: str, hint: Any) -> str:
    """A column as JSON shows it: amounts are strings, times RFC 3339."""
    if is_amount(plain(hint)):
        return f"q.{name}::text AS {name}"
    if plain(hint) is datetime:
        return f"""to_char(q.{name} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS {name}"""
    return f"q.{name}"


def _cast(hint: Any) -> str:
    if is_amount(hint):
        return "numeric"
    return {int: "bigint", datetime: "timestamptz"}.get(hint, 'text COLLATE "C"')


LIVE_JOIN = re.compile(r"read\.(\w+) (\w+) JOIN live USING \(zone, generation\)")


def _narrowed(select: str) -> str:
    """The planner does not know that `live` is one row, and would sort a whole table for a page of it; so the table
    is narrowed to the live generation first, and an index in the order of the key serves."""
    return LIVE_JOIN.sub(
        r"(SELECT * FROM read.\1 WHERE zone = %(zone)s AND generation = (SELECT generation FROM live)) \2"
        r" JOIN live USING (zone, generation)",
        select,
    )


def _order(query: Query) -> str:
    return ", ".join(f"q.{name}{' DESC' if query.descending else ''}" for name in query.key)


def _behind(query: Query, hints: dict[str, Any]) -> str:
    """The condition that a row comes after those of the pages before."""
    columns = ", ".join(f"q.{name}" for name in query.key)
    values = ", ".join(f"%(after_{i})s::{_cast(hints[name])}" for i, name in enumerate(query.key))
    return f"WHERE ({columns}) {'<' if query.descending else '>'} ({values})"


def _item(query: Query, hints: dict[str, Any]) -> str:
    shown = ", ".join(_shown(f.name, hints[f.name]) for f in fields(query.inputs))
    return f"(SELECT row_to_json(item) FROM (SELECT {shown}) item)"  # noqa: S608


def _column(name: str, hint: Any) -> str:
    """A column as text or number, to be put into JSON as it is; what is JSON itself comes as text."""
    shown = _shown(name, hint)
    return f"to_json(q.{name})::text AS {name}" if is_json(hint) else shown


def is_json(hint: Any) -> bool:
    return not is_amount(plain(hint)) and plain(hint) not in (str, int, bool, datetime)


@lru_cache(MOST_STATEMENTS)
def statement(query: Query, continued: bool, past: bool, given: frozenset[str], sees_all: bool) -> bytes:
    """The whole statement for those who give these parameters and leave out all others (see `settled`); `continued`
    when a page before it was read, `past` as of a position.

    Its rows are those of the page, each behind the generation, the position and the number of quarantined events; one
    with nulls where the page is empty. They keep the page's order: a left join without a condition is a nested loop.
    The inner limit is there for the planner, who does not know how small the outer one is.
    """
    hints = get_type_hints(query.inputs, include_extras=True)
    order = _order(query)
    keys = ", ".join(f"q.{name}::text AS cursor_{i}" for i, name in enumerate(query.key))
    columns = ", ".join(_column(f.name, hints[f.name]) for f in fields(query.inputs))
    text = f"""
WITH live AS ({_past_live() if past else LIVE})
SELECT live.generation, live.position, ({QUARANTINED}), page.*
FROM live LEFT JOIN (
    SELECT {keys}, {columns}
    FROM (
        SELECT * FROM ({past_select(query.select) if past else _narrowed(query.select)}) q
        {_behind(query, hints) if continued else ""} ORDER BY {order} LIMIT {MOST_LIMIT + 1}
    ) q ORDER BY {order} LIMIT %(limit)s + 1
) page ON true
"""  # noqa: S608 - made of our own declarations only; what callers send goes in as parameters
    return settled(text, query, given, sees_all).encode()


def whole(query: Query, given: frozenset[str], sees_all: bool) -> bytes:
    """All rows as of now in one statement, for a cursor: each behind the generation, the position, the number of
    quarantined events and the text of its first key, which is null where there are no rows."""
    hints = get_type_hints(query.inputs, include_extras=True)
    order = _order(query)
    columns = ", ".join(_column(f.name, hints[f.name]) for f in fields(query.inputs))
    text = f"""
WITH live AS ({LIVE})
SELECT live.generation, live.position, ({QUARANTINED}), page.*
FROM live LEFT JOIN (
    SELECT q.{query.key[0]}::text AS cursor_0, {columns} FROM ({_narrowed(query.select)}) q ORDER BY {order}
) page ON true
"""  # noqa: S608 - made of our own declarations only
    return settled(text, query, given, sees_all).encode()


QUARANTINED = """
SELECT count(*) FROM quarantine x JOIN checkpoints c USING (zone, projection, generation)
WHERE zone = %(zone)s AND projection = %(projection)s AND c.live AND quarantined AND x.position <= live.position
"""

# One plan for all values


def given_of(query: Query, values: Mapping[str, Any]) -> frozenset[str]:
    """The parameters that were not left out."""
    return frozenset([name for name, default in defaults_of(query).items() if values[name] != default])


@cache
def defaults_of(query: Query) -> dict[str, Any]:
    return {f.name: f.default for f in fields(query.parameters) if f.default is not MISSING}


PARAMETER = re.compile(r"%\((\w+)\)s(?: (=|<>|IN) (''|0\b|\('', ))?")


def settled(text: str, query: Query, given: frozenset[str], sees_all: bool) -> str:
    """A statement in which nothing depends on whether a parameter is given.

    What is left out stands there as its default, and a comparison of what is given with an empty default as its
    outcome: the planner drops conditions that are met already, so one plan fits all values, and uses the indexes that
    a condition `%(x)s = '' OR x = %(x)s` would hide from it.
    """
    defaults = defaults_of(query)
    known = {"sees_all": _literal(sees_all), "projection": _literal(query.projection)}
    known |= {name: _literal(default) for name, default in defaults.items() if name not in given}

    def put(found: re.Match[str]) -> str:
        name, operator, empty = found.groups()
        if name in known:
            return known[name] + found[0].removeprefix(f"%({name})s")
        if operator is None or _literal(defaults.get(name)) != empty.strip("(, "):
            return found[0]
        return {"=": "FALSE", "<>": "TRUE", "IN": f"%({name})s IN ("}[operator]

    return PARAMETER.sub(put, text)


def _literal(value: Any) -> str:
    """A value of our own declarations."""
    if isinstance(value, datetime):
        return f"'{value.isoformat()}'::timestamptz"
    return f"'{value}'" if isinstance(value, str) else str(value)


# As of a position


@cache
def needs_fates(query: Query) -> bool:
    """Whether a query reads the zone's head or its commands, which move where no position does."""
    return bool(re.search(r"\b(FROM|JOIN)\s+(heads|commands)\b", query.select))


@cache
def has_a_past(query: Query) -> bool:
    """What the machinery notes of itself, such as the attempts of timers, is kept as it is now only."""
    return not PRESENT.search(query.select)


PRESENT = re.compile(r"\b(timer_fates|act_fates|api_keys|checkpoints|quarantine|signed_checkpoints)\b")


def _past_live(prefix: str = "") -> str:
    """The archive that answers, if it has come that far, at the position that was asked for."""
    return f"""
    SELECT zone, generation, %({prefix}at)s::bigint AS position, %({prefix}time)s::timestamptz AS as_of
    FROM archives
    WHERE zone = %(zone)s AND projection = %(projection)s AND live AND position >= %({prefix}at)s
    """  # noqa: S608


READ = re.compile(r"\bread\.(\w+)(\s+(?:AS\s+)?(\w+))?")
OF_LOG = re.compile(r"\b(FROM|JOIN)\s+(heads|commands)\b(\s+(?:AS\s+)?(\w+))?")
NO_ALIAS = frozenset(
    [
        "JOIN",
        "LEFT",
        "RIGHT",
        "FULL",
        "INNER",
        "CROSS",
        "NATURAL",
        "ON",
        "USING",
        "WHERE",
        "GROUP",
        "ORDER",
        "LIMIT",
        "UNION",
    ]
)


def past_select(select: str, prefix: str = "") -> str:
    """The SELECT as of a position; `prefix` begins the names of its parameters."""
    as_it_was = {
        "heads": f"""
            SELECT zone, %({prefix}at)s::bigint AS position, %({prefix}number)s::bigint AS number,
                   %({prefix}decided)s::timestamptz AS recorded_at, clock
            FROM heads WHERE zone = %(zone)s
        """,  # noqa: S608
        "commands": f"SELECT * FROM commands WHERE zone = %(zone)s AND number <= %({prefix}number)s",  # noqa: S608
    }

    def of_log(found: re.Match[str]) -> str:
        return f"{found[1]} {_named(as_it_was[found[2]], found[2], found[3], found[4])}"

    def of_rows(found: re.Match[str]) -> str:
        return _named(_past_rows(found[1], prefix), found[1], found[2], found[3])

    return READ.sub(of_rows, OF_LOG.sub(of_log, select))


def _named(source: str, name: str, following: str | None, word: str | None) -> str:
    """A subselect in a table's place, under the alias that follows there, or else under the table's name."""
    if word is not None and word.upper() not in NO_ALIAS:
        return f"({source}) {word}"
    return f"({source}) {name}{following or ''}"


@cache
def _past_rows(name: str, prefix: str) -> str:
    table = next(t for t in tables() if t.name == f"read.{name}")
    columns = ", ".join(f'"{column}"' for column in table.all_columns)
    return f"""
        SELECT {columns} FROM {past_name(table)}
        WHERE zone = %(zone)s AND generation = (SELECT generation FROM live)
          AND node = ANY (%({prefix}path)s::bigint[]) AND since <= %({prefix}at)s AND until > %({prefix}at)s
    """  # noqa: S608


# What differs between two positions


@cache
def difference(query: Query, continued: bool) -> str:
    """Items {"key", "was", "is"}: of rows that are not the same at both positions, in any column."""
    hints = get_type_hints(query.inputs, include_extras=True)
    shown = ", ".join(
        f"'{name}', {_shown(name, hints[name]).rpartition(' AS ')[0] or f'q.{name}'}" for name in query.key
    )
    columns = ", ".join(query.key)
    keys = ", ".join(f"q.{name}::text" for name in query.key)
    return f"""
WITH was AS ({_side(query, hints, continued, "was_")}),
now AS ({_side(query, hints, continued, "")}),
page AS (
    SELECT row_number() OVER (ORDER BY {_order(query)}) AS place, json_build_array({keys}) AS cursor,
           json_build_object('key', json_build_object({shown}), 'was', q.was, 'is', q.now) AS item
    FROM (
        SELECT {columns}, was.item AS was, now.item AS now FROM was FULL JOIN now USING ({columns})
        WHERE was.item::text IS DISTINCT FROM now.item::text
    ) q ORDER BY {_order(query)} LIMIT %(limit)s + 1
)
SELECT live.generation, live.position,
       (SELECT coalesce(json_agg(item ORDER BY place) FILTER (WHERE place <= %(limit)s), '[]')::text FROM page),
       (SELECT cursor::text FROM page WHERE place = %(limit)s AND (SELECT count(*) FROM page) > %(limit)s),
       ({QUARANTINED}),
       EXISTS (SELECT FROM was) OR EXISTS (SELECT FROM now)
FROM ({_past_live()}) live WHERE EXISTS ({_past_live("was_")})
"""  # noqa: S608


def _side(query: Query, hints: dict[str, Any], continued: bool, prefix: str) -> str:
    columns = ", ".join(f"q.{name}" for name in query.key)
    return f"""
    WITH live AS ({_past_live(prefix)})
    SELECT {columns}, {_item(query, hints)} AS item
    FROM ({past_select(query.select, prefix)}) q {_behind(query, hints) if continued else ""}
    """  # noqa: S608
