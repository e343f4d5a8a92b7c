"""Timers: commands that fall due are issued over HTTP, with keys made from the timer and the attempt.

State decides whether a due command still matters, so one that came to nothing is accepted, and settled. A refused
one backs off and is tried again under the next key; until then its fate says why.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple

import httpx
import psycopg
import structlog

from commands._codec import command_number, decode_json, encode_json
from commands._signatures import sign, zone_key

LOOK_EVERY_S = 0.2
MOST_A_TURN = 500
ANSWER_WITHIN_S = 4.0
"""Shorter than the database lets a transaction idle: the one that holds the senders' lock stays open meanwhile."""
MOST_PAUSE_S = 5.0
MOST_BACKOFF_S = 3600
NOT_DECIDED_PAUSE_S = 2.0
"""Meanwhile others are sent, however many failed."""
NOT_DECIDED = frozenset({408, 412, 429})
"""Answers that say nothing about the command: the same key is sent again."""

# One process sends at a time. A second one would do no harm, because of the keys.
LOCK = "SELECT pg_try_advisory_xact_lock(7045061003)"

LOOK_AT_ALL_EVERY_S = 10.0
"""Those that were due already are looked at again no sooner: they back off, or are done and wait for their event."""

# How far a look at the timers goes: what falls due later, falls due behind this. A timer is due at its event's time or
# later, so those of events that are not followed yet are behind it, too; clocks differ by a little. Where a zone's time
# is named by hand it may stand still, and all are looked at.
LOOKED = """
SELECT h.zone, least(CASE WHEN c.position < h.position THEN c.recorded_at END, clock_timestamp() - interval '2 s')
FROM heads h JOIN checkpoints c ON c.zone = h.zone AND c.projection = 'timers' AND c.live
WHERE h.clock <> 'manual'
"""

# Each zone's timers fall due by its own time, and so do further attempts.
# There is a lower bound for all: without it PostgreSQL expects a third of all timers to be due, and reads them all.
DUE = """
SELECT h.zone, coalesce(nullif(t.to_zone, ''), h.zone) AS target, t.timer, coalesce(t.attempts, 0),
       t.context, t.command, t.body, t.statement, t.causation, t.correlation
FROM heads h
LEFT JOIN unnest(%s::text[], %s::timestamptz[]) AS w(zone, looked) ON w.zone = h.zone
CROSS JOIN LATERAL (SELECT CASE h.clock WHEN 'manual' THEN h.recorded_at ELSE clock_timestamp() END AS at) now
CROSS JOIN LATERAL (
    SELECT r.timer, r.context, r.command, r.body, r.to_zone, r.statement, r.causation, r.correlation,
           r.due_at, f.attempts
    FROM read.timers r
    LEFT JOIN timer_fates f ON f.zone = r.zone AND f.timer = r.timer
    WHERE r.zone = h.zone AND r.due_at > coalesce(w.looked, '-infinity') AND r.due_at <= now.at AND r.generation = (
          SELECT generation FROM checkpoints c WHERE c.zone = h.zone AND c.projection = 'timers' AND c.live)
      AND f.accepted IS NOT TRUE AND (f.next_at IS NULL OR f.next_at <= now.at)
    ORDER BY r.due_at, r.timer LIMIT %s
) t
ORDER BY h.zone, target, t.due_at, t.timer
"""

RECORD = """
INSERT INTO timer_fates AS f (zone, timer, attempts, accepted, next_at, problem)
SELECT h.zone, s.timer, s.attempts, s.accepted,
       CASE h.clock WHEN 'manual' THEN h.recorded_at ELSE clock_timestamp() END + make_interval(secs => s.pause),
       s.problem
FROM heads h, unnest(%s::text[], %s::integer[], %s::boolean[], %s::float8[], %s::text[])
    AS s(timer, attempts, accepted, pause, problem)
WHERE h.zone = %s
ON CONFLICT (zone, timer) DO UPDATE
SET attempts = excluded.attempts, accepted = excluded.accepted, next_at = excluded.next_at,
    problem = excluded.problem
WHERE NOT f.accepted
"""

log = structlog.get_logger("fogbook.timers")


class Due(NamedTuple):
    zone: str
    target: str
    """The zone that the command is for."""
    timer: str
    attempts: int
    context: str
    command: str
    body: dict[str, Any]
    statement: str
    causation: str
    correlation: str

    @property
    def key(self) -> str:
        own = self.timer if self.target == self.zone else f"{self.zone}:{self.timer}"
        return f"timer:{own}:{self.attempts + 1}"

    def line(self, body: dict[str, Any]) -> bytes:
        """The command, and whence it comes."""
        line = {"context": self.context, "command": self.command, "key": self.key, "body": body}
        for name, value in (("causation", self.causation), ("correlation", self.correlation)):
            if value:  # Events of other applications name no command.
                line[name] = named_in(self.target, self.zone, value)
        return encode_json(line)


class Fate(NamedTuple):
    timer: str
    attempts: int
    accepted: bool
    pause_s: float
    problem: str


class NotSent(Exception):
    """The API did not take the batch; all of it is sent again, under the same keys."""


def named_in(target: str, zone: str, name: str) -> str:
    """What a zone's cause or correlation is called in another zone: a command's id means one of a zone's own, so
    elsewhere its zone stands before it (`village/c17`); what else callers tie commands together by stays as it is."""
    if target == zone:
        return name
    if command_number(name) is not None:
        return f"{zone}/{name}"
    home, _, id = name.rpartition("/")
    return id if home == target and command_number(id) is not None else name


class Timers:
    """Issues what is due, in one thread. `url` and `key` are those of the API and of the worker; the pepper gives
    the keys by which zones sign what they tell each other."""

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        url: str,
        key: str,
        pepper: bytes,
        stopping: threading.Event,
    ) -> None:
        self._connect = connect
        self._pepper = pepper
        self._stopping = stopping
        self._connection: psycopg.Connection[Any] | None = None
        self._looked: dict[str, datetime] = {}
        """Zones whose timers up to then are known."""
        self._all_at = 0.0
        """When all of them are to be looked at again."""
        headers = {"authorization": f"Bearer {key}", "content-type": "application/x-ndjson"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=ANSWER_WITHIN_S, trust_env=False)

    def run(self) -> None:
        """A thread: issue what is due until told to stop; whatever is away is waited for."""
        pause_s = LOOK_EVERY_S
        while not self._stopping.wait(pause_s):
            try:
                full = self.turn()
                pause_s = 0.0 if full else LOOK_EVERY_S
            except (psycopg.Error, NotSent) as error:
                log.warning("timers_wait", error=str(error))
                pause_s = min(2 * max(pause_s, LOOK_EVERY_S), MOST_PAUSE_S)
        self._http.close()
        self._close()

    def turn(self) -> bool:
        """Issue what is due now; True when there may be more. Raises psycopg.Error and NotSent."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            with self._connection.transaction():
                locked = self._connection.execute(LOCK).fetchone()
                if locked is None or not locked[0]:
                    self._look_at_all()  # Who knows what whoever sends them leaves behind.
                    return False
                due, looked = self._due(self._connection)
                full = False
                not_sent: NotSent | None = None
                for (zone, target), group in groupby(due, lambda each: (each.zone, each.target)):
                    try:
                        fates = self._issue(target, list(group))
                    except NotSent as error:  # The others need not wait for this zone.
                        not_sent = error
                        looked.pop(zone, None)
                        continue
                    self._record(zone, fates)
                    full = full or len(fates) == MOST_A_TURN
                for zone, number in Counter(each.zone for each in due).items():
                    if number == MOST_A_TURN:  # There may be more, up to the same time.
                        looked.pop(zone, None)
            self._looked = looked
            if not_sent is not None:
                raise not_sent
            return full
        except psycopg.Error:
            self._look_at_all()
            self._close()
            raise

    def _due(self, connection: psycopg.Connection[Any]) -> tuple[list[Due], dict[str, datetime]]:
        """What is due and was not looked at before, and how far that goes in each zone."""
        if time.monotonic() >= self._all_at:
            self._looked, self._all_at = {}, time.monotonic() + LOOK_AT_ALL_EVERY_S
        looked = dict(connection.execute(LOOKED).fetchall())
        known = list(self._looked), list(self._looked.values())
        return [Due(*row) for row in connection.execute(DUE, (*known, MOST_A_TURN))], looked

    def _look_at_all(self, within_s: float = 0.0) -> None:
        self._all_at = min(self._all_at, time.monotonic() + within_s)

    def _issue(self, target: str, timers: Sequence[Due]) -> list[Fate]:
        """Send commands to a zone. No time is named: in a zone with a manual clock it is then the zone's own."""
        lines = [timer.line(self._body(timer)) for timer in timers]
        try:
            response = self._http.post(
                "/commands", content=b"\n".join(lines), headers={"fogbook-zone": target}
            )
        except httpx.HTTPError as error:
            raise NotSent(f"the API does not answer: {error!r}") from error
        status = response.status_code
        if status >= 500 or status in NOT_DECIDED:
            raise NotSent(f"the API answered {status}: {response.text[:200]}")
        if status != 200:  # Not for this worker, or no zone: the answer to each of them.
            answers = [{"status": status, "body": response.json()}] * len(timers)
        else:
            answers = [decode_json(line) for line in response.content.splitlines()]
        return [_fate(timer, answer) for timer, answer in zip(timers, answers, strict=True)]

    def _body(self, timer: Due) -> dict[str, Any]:
        if not timer.statement:
            return timer.body
        key = zone_key(self._pepper, timer.zone)
        return {**timer.body, "proof": sign(key, timer.statement.encode())}

    def _record(self, zone: str, fates: Sequence[Fate]) -> None:
        if fates:
            assert self._connection is not None
            pauses = [fate.pause_s for fate in fates if not fate.accepted]
            self._look_at_all(min(pauses, default=LOOK_AT_ALL_EVERY_S))
            self._connection.execute(RECORD, (*map(list, zip(*fates, strict=True)), zone))

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _fate(timer: Due, answer: dict[str, Any]) -> Fate:
    """What an answer makes of a timer; where nothing was decided it is sent again soon, under the same key."""
    status: int = answer["status"]
    attempts = timer.attempts + 1
    if status == 200:
        return Fate(timer.timer, attempts, True, 0.0, "")
    if status >= 500 or status in NOT_DECIDED:
        return Fate(timer.timer, timer.attempts, False, NOT_DECIDED_PAUSE_S, "")
    problem = str(answer["body"].get("type", "")).rpartition("/")[2] or str(status)
    log.warning("timer_refused", zone=timer.zone, timer=timer.timer, attempts=attempts, problem=problem)
    return Fate(timer.timer, attempts, False, float(min(2 ** min(attempts, 12), MOST_BACKOFF_S)), problem)
