"""The access log: who was refused, and what administrators did.

Refusals are noted in memory and written in the background, once a second. The same one within a second is one row
with a count, and what waits is bounded, that of strangers more tightly: whoever knocks a thousand times a second makes
a few rows and holds nobody up. What found no room is counted, in a metric and in a row.
"""

from __future__ import annotations

import getpass
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from prometheus_client import Counter
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from commands._codec import ZONE
from ops.access._caller import Caller, Unauthenticated
from ops.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

MOST_WAITING = 200
MOST_OF_STRANGERS = 100
"""Rows that wait to be written; an attacker without a key gets no more of them than these."""

# Whoever reads on by id misses nothing: ids are given in the order of commits.
IN_ORDER = "SELECT pg_advisory_xact_lock(7045061006)"

WRITE = """
INSERT INTO access_log (at, kind, route, zone, key_id, issuer, principal, problem, count)
SELECT to_timestamp(second), kind, route, zone, key_id, issuer, principal, problem, count
FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
            %s::bigint[]) AS r(second, kind, route, zone, key_id, issuer, principal, problem, count)
"""

ADMINISTERED = """
INSERT INTO access_log (kind, route, zone, key_id, principal, facts)
VALUES ('administration', %s, %s, %s, %s, %s)
"""

REFUSED = Counter("fogbook_refusals_total", "Requests that were refused to a caller", ["kind"])
DROPPED = Counter("fogbook_access_log_dropped_total", "Refusals that the access log had no room for")


class Refusal(NamedTuple):
    second: int
    kind: str
    route: str
    zone: str
    key_id: str
    issuer: str
    principal: str
    problem: str


class Journal:
    """Refusals of one process that wait to be written."""

    def __init__(self) -> None:
        self._waiting: dict[Refusal, int] = {}
        self._strangers = 0
        self._dropped = 0

    def refused(self, route: str, problem: Problem, caller: Caller | None = None, zone: str = "") -> None:
        """Note a 401 or 403. Of a caller who is not known nothing is noted that he could have made up."""
        kind = "authentication" if caller is None else "denial"
        REFUSED.labels(kind).inc()
        reason, key_id = problem.name, ""
        if isinstance(problem, Unauthenticated):
            reason, key_id = problem.reason, problem.key_id
        who = (
            ("", key_id, "", "") if caller is None else (zone, caller.key_id, caller.issuer, caller.principal)
        )
        self._note(Refusal(int(time.time()), kind, route, *who, reason), 1)

    def _note(self, refusal: Refusal, count: int) -> None:
        known = self._waiting.get(refusal)
        stranger = not refusal.principal
        if known is None:
            if len(self._waiting) >= MOST_WAITING or (stranger and self._strangers >= MOST_OF_STRANGERS):
                self._dropped += count
                DROPPED.inc(count)
                return
            self._strangers += stranger
        self._waiting[refusal] = (known or 0) + count

    async def write(self, connection: AsyncConnection[Any]) -> None:
        """Write what waits. What cannot be written waits on, as long as there is room."""
        waiting, dropped = self._waiting, self._dropped
        if not waiting and not dropped:
            return
        self._waiting, self._strangers, self._dropped = {}, 0, 0
        rows = [(*refusal, count) for refusal, count in waiting.items()]
        if dropped:
            rows.append((int(time.time()), "dropped", "", "", "", "", "", "", dropped))
        try:
            async with connection.transaction():
                await connection.execute(IN_ORDER)
                await connection.execute(WRITE, list(map(list, zip(*rows, strict=True))))
        except BaseException:
            self._dropped += dropped
            for refusal, count in waiting.items():
                self._note(refusal, count)
            raise

    @property
    def is_empty(self) -> bool:
        return not self._waiting and not self._dropped


def record_refusal(request: Request, route: str, problem: Problem) -> None:
    """Have it recorded that a request was refused to whoever sent it, if that is what the problem says."""
    journal: Journal | None = request.scope.get("journal")
    if journal is not None and problem.status in (401, 403):
        zone = request.headers.get("fogbook-zone", "main")
        journal.refused(route, problem, request.scope.get("caller"), zone if ZONE.match(zone) else "")


def administered(
    connection: psycopg.Connection[Any], act: str, *, zone: str = "", key_id: str = "", **facts: Any
) -> None:
    """Record what an administrator did, and as which user of the machine. `act` is the command line's name for it."""
    with connection.transaction():
        connection.execute(IN_ORDER)
        connection.execute(ADMINISTERED, (act, zone, key_id, _user(), Jsonb(facts)))


def _user() -> str:
    try:
        return f"os:{getpass.getuser()}"
    except (KeyError, OSError):  # A container may run as a number that has no name.
        return "os:"
