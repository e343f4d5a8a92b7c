"""Which commands followed from which, as far as a zone's own log and timers tell."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from commands._codec import command_number
from ops.problems import Problem
from queries._events import rfc3339
from queries._past import Past

MOST_OF_TREE = 20_000
"""Commands of one tree that are looked for."""
MOST_CLIMBED = 10_000
"""Causes above one command that are looked for."""
MOST_DUE = 200
MOST_ATTEMPTS = 100
"""Attempts of one timer that are looked for, the last ones."""
TIMER_KEY = re.compile(r"timer:(.+):([1-9][0-9]{0,8})\Z")

LIVE = """
SELECT generation, position FROM checkpoints WHERE zone = %(zone)s AND projection = 'lineage' AND live
"""

CAUSED = """
SELECT number, caused_by, correlation FROM read.lineage
WHERE zone = %(zone)s AND generation = %(generation)s AND number = %(number)s
"""

# From a command up to its cause, and so on, as `above` says; the last one that was reached.
CLIMB = """
WITH RECURSIVE up(number, caused_by, correlation, step) AS (
    SELECT number, caused_by, correlation, 1 FROM read.lineage
    WHERE zone = %(zone)s AND generation = %(generation)s AND number = %(number)s
    UNION ALL
    SELECT l.number, l.caused_by, l.correlation, up.step + 1 FROM up
    CROSS JOIN LATERAL (
        SELECT CASE WHEN up.correlation ~ %(id)s THEN substr(up.correlation, 2)::bigint END AS correlation,
               CASE WHEN up.caused_by ~ %(id)s THEN substr(up.caused_by, 2)::bigint END AS caused_by
    ) named
    JOIN read.lineage l ON l.zone = %(zone)s AND l.generation = %(generation)s AND l.number = CASE
        WHEN named.correlation < up.number THEN named.correlation
        WHEN up.correlation = '' OR named.correlation IS NOT NULL THEN named.caused_by END
        AND l.number < up.number
    WHERE up.step < %(most)s
)
SELECT number, caused_by, correlation, step FROM up ORDER BY step DESC LIMIT 1
"""

CAUSED_BY = """
SELECT number FROM read.lineage
WHERE zone = %(zone)s AND generation = %(generation)s AND caused_by = %(command)s AND number > %(after)s
ORDER BY number LIMIT %(limit)s
"""

# The commands that name the correlation, and those that followed from one of these whatever they name.
TREE = """
WITH RECURSIVE tree(number, caused_by, correlation) AS (
    (SELECT number, caused_by, correlation FROM read.lineage
     WHERE zone = %(zone)s AND generation = %(generation)s AND correlation = %(correlation)s
     UNION SELECT %(root)s::bigint, '', '' WHERE %(root)s > 0)
    UNION
    SELECT l.number, l.caused_by, l.correlation FROM tree t JOIN read.lineage l
        ON l.zone = %(zone)s AND l.generation = %(generation)s AND l.caused_by = 'c' || t.number
)
SELECT number, caused_by, correlation FROM tree LIMIT %(most)s
"""

SUMMARIES = """
SELECT number, principal, act_as, key, request, status, answer, position, events, recorded_at
FROM commands WHERE zone = %(zone)s AND number = ANY(%(numbers)s) ORDER BY number
"""

TIMERS_AMONG = """
SELECT number, principal, key FROM commands
WHERE zone = %(zone)s AND number = ANY(%(numbers)s) AND starts_with(key, 'timer:') AND right(key, 2) <> ':1'
"""

BY_KEY = """
SELECT number, key FROM commands
WHERE zone = %(zone)s AND principal = ANY(%(principals)s) AND key = ANY(%(keys)s)
"""

SENDERS = "SELECT DISTINCT principal FROM api_keys WHERE role IN ('worker', 'operator')"

ROLES = "SELECT DISTINCT role FROM api_keys WHERE principal = %(principal)s"

TIMERS = """
SELECT r.timer, r.due_at, r.context || '/' || r.command, r.to_zone, r.causation, r.correlation,
       coalesce(f.attempts, 0), coalesce(f.accepted, false), f.next_at, coalesce(f.problem, '')
FROM checkpoints c JOIN read.timers r ON r.zone = c.zone AND r.generation = c.generation
LEFT JOIN timer_fates f ON f.zone = r.zone AND f.timer = r.timer
WHERE c.zone = %(zone)s AND c.projection = 'timers' AND c.live AND {which}
ORDER BY r.due_at, r.timer LIMIT %(most)s
"""
OF_CORRELATIONS = TIMERS.format(which="r.correlation = ANY(%(correlations)s)")
OF_TIMER = TIMERS.format(which="r.timer = %(timer)s")


class _Request(msgspec.Struct):
    command: str = ""


class _Answer(msgspec.Struct):
    type: str = ""


def timer_of(key: str, causation: str = "") -> dict[str, Any] | None:
    """The timer or reaction that sent a command, and at which attempt, by the command's key."""
    found = TIMER_KEY.match(key)
    if found is None:
        return None
    timer, attempt = found[1], int(found[2])
    zone = causation.rpartition("/")[0]
    if zone and timer.startswith(f"{zone}:"):
        return {"id": timer.removeprefix(f"{zone}:"), "attempt": attempt, "zone": zone}
    return {"id": timer, "attempt": attempt}


def above(number: int, caused_by: str, correlation: str) -> int | None:
    """The command that a command of this number followed from: an earlier one, whatever it names."""
    for name in (correlation, caused_by):
        found = command_number(name)
        if found is not None and found < number:
            return found
    return None


def _text(stored: bytes, kind: Any, name: str) -> str:
    try:
        return str(getattr(msgspec.json.decode(stored, type=kind), name))
    except msgspec.MsgspecError:
        return ""


class Commands:
    """Commands of one zone, and what they say they followed from."""

    def __init__(self, past: Past) -> None:
        self._past = past
        self.zone = past.zone

    async def _rows(self, sql: str, **values: Any) -> list[Any]:
        return await self._past.rows(sql, {"zone": self.zone, **values})

    async def live(self) -> tuple[int, int]:
        """The generation and position of the projection of lineage; zeros before it started."""
        rows = await self._rows(LIVE)
        return (rows[0][0], rows[0][1]) if rows else (0, 0)

    async def summaries(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        found = []
        for row in await self._rows(SUMMARIES, numbers=list(numbers)):
            number, principal, act_as, key, request, status, answer, position, events, at = row
            shown = {
                "command_id": f"c{number}",
                "name": _text(request, _Request, "command"),
                "by": act_as,
                "principal": principal,
                "key": key,
                "timer": timer_of(key),
                "status": status,
                "positions": list(range(position - events + 1, position + 1)),
                "recorded_at": rfc3339(at),
            }
            if status != 200:
                shown["problem"] = _text(answer, _Answer, "type").rpartition("/")[2]
            found.append(shown)
        return found

    async def named(self, command: str) -> dict[str, Any] | None:
        """What is known of a command that another one names as its cause; of another zone's it is the name."""
        if not command:
            return None
        number = command_number(command)
        found = await self.summaries([number]) if number is not None else []
        return found[0] if found else {"named": command}

    async def caused_by(self, command: str, generation: int, limit: int) -> list[dict[str, Any]]:
        """The commands that say they followed from this one."""
        rows = await self._rows(CAUSED_BY, generation=generation, command=command, after=0, limit=limit)
        return await self.summaries(row[0] for row in rows)

    async def role(self, principal: str, act_as: str) -> str | None:
        """Whoever acts for another has a participant's authority; otherwise the role of the principal's keys, where
        they have but one."""
        if act_as != principal:
            return "participant"
        rows = await self._rows(ROLES, principal=principal)
        return rows[0][0] if len(rows) == 1 else None

    # Trees

    async def correlation_of(self, id: str, generation: int) -> str:
        """The correlation whose tree holds a command; a name that is no command's id is one itself.
        Raises Problem 404 and 422."""
        number = command_number(id)
        if number is None:
            return id
        if not await self._rows(SUMMARIES, numbers=[number]):
            raise Problem(404, "command-not-found", "The log holds no such command.")
        left = MOST_CLIMBED
        while left > 0:
            number, caused_by, correlation, steps = await self._climb(number, generation, left)
            if correlation and command_number(correlation) is None:
                return correlation
            found = above(number, caused_by, correlation)
            if found is None:
                return f"c{number}"
            number, left = found, left - steps
        raise Problem(
            422,
            "lineage-too-deep",
            "More causes stand above this command than are looked for.",
            most=str(MOST_CLIMBED),
        )

    async def _climb(self, number: int, generation: int, most: int) -> tuple[int, str, str, int]:
        """The command that the causes above one lead to, what that one names, and how many they are."""
        values = {"number": number, "generation": generation, "id": "^c[1-9][0-9]{0,17}$", "most": most}
        for row in await self._rows(CLIMB, **values):
            return row[0], row[1], row[2], row[3]
        ((_, principal, _, key, *_),) = await self._rows(SUMMARIES, numbers=[number])
        timer = timer_of(key)
        if timer is not None:  # One without events: its timer, or a later attempt, knows.
            for row in await self._rows(OF_TIMER, timer=timer["id"], most=1):
                return number, row[4], row[5], 1
            keys = [f"timer:{timer['id']}:{timer['attempt'] + i}" for i in range(1, MOST_ATTEMPTS)]
            for later, _ in await self._rows(BY_KEY, principals=[principal], keys=keys):
                for row in await self._rows(CAUSED, number=later, generation=generation):
                    return number, row[1], row[2], 1
        return number, "", "", 1

    async def tree(self, correlation: str, generation: int) -> Tree:
        """Every command under a correlation. Raises Problem 404."""
        root = command_number(correlation) or 0
        values = {"generation": generation, "correlation": correlation, "root": root}
        rows = await self._rows(TREE, most=MOST_OF_TREE + 1, **values)
        tree = Tree(correlation, root)
        tree.more = len(rows) > MOST_OF_TREE
        for number, caused_by, _ in rows[:MOST_OF_TREE]:
            if caused_by or number not in tree.causes:
                tree.causes[number] = caused_by
        named = {correlation, *(row[2] for row in rows if row[2])}
        await self._add_timers(tree, sorted(named))
        await self._add_attempts(tree)
        if not tree.causes and not tree.due:
            raise Problem(404, "correlation-not-found", "No command names this correlation.")
        return tree

    async def _add_timers(self, tree: Tree, correlations: list[str]) -> None:
        """What fell due without an event, and what has not come to anything yet."""
        keys: dict[str, str] = {}
        rows = await self._rows(OF_CORRELATIONS, correlations=correlations, most=MOST_DUE + 1)
        tree.more = tree.more or len(rows) > MOST_DUE
        for row in rows[:MOST_DUE]:
            timer, due_at, command, to_zone, causation, _, attempts, accepted, next_at, problem = row
            if not accepted:
                tree.due.append(
                    {
                        "timer": timer,
                        "command": command,
                        "zone": to_zone or self.zone,
                        "caused_by": causation,
                        "due_at": rfc3339(next_at or due_at),
                        "attempts": attempts,
                        "problem": problem or None,
                    }
                )
            if not to_zone:
                for attempt in range(max(1, attempts - MOST_ATTEMPTS), attempts + 1):
                    keys[f"timer:{timer}:{attempt}"] = causation
        await self._add_keys(tree, keys, [row[0] for row in await self._rows(SENDERS)])

    async def _add_attempts(self, tree: Tree) -> None:
        """The refused attempts before one that was accepted followed from the same."""
        keys: dict[str, str] = {}
        senders: set[str] = set()
        for number, principal, key in await self._rows(TIMERS_AMONG, numbers=list(tree.causes)):
            timer = timer_of(key)
            if timer is not None:
                last = timer["attempt"]
                for attempt in range(max(1, last - MOST_ATTEMPTS), last):
                    keys[f"timer:{timer['id']}:{attempt}"] = tree.causes[number]
                senders.add(principal)
        await self._add_keys(tree, keys, senders)

    async def _add_keys(self, tree: Tree, keys: dict[str, str], senders: Iterable[str]) -> None:
        if keys:
            for number, key in await self._rows(BY_KEY, principals=list(senders), keys=list(keys)):
                tree.causes.setdefault(number, keys[key])


@dataclass
class Tree:
    correlation: str
    root: int
    """The number of the command that the correlation names; 0 where it names none of this zone."""
    causes: dict[int, str] = field(default_factory=dict)
    """What each command followed from; empty where it names nothing."""
    due: list[dict[str, Any]] = field(default_factory=list)
    more: bool = False
    """There is more than was looked for."""

    def children(self) -> dict[str, list[str]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for number in sorted(self.causes):
            if self.causes[number]:
                found[self.causes[number]].append(f"c{number}")
        return found

    def page(self, after: int, limit: int) -> tuple[list[int], int | None]:
        """The numbers of a page of commands, and what the next one continues behind."""
        numbers = sorted(number for number in self.causes if number > after)
        return numbers[:limit], numbers[limit - 1] if len(numbers) > limit else None

    def nodes(self, summaries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        children = self.children()
        return [
            summary
            | {
                "timer": timer_of(summary["key"], caused_by),
                "caused_by": caused_by or None,
                "children": children.get(summary["command_id"], []),
            }
            for summary in summaries
            for caused_by in (self.causes[int(summary["command_id"][1:])],)
        ]
