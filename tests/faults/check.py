"""What must hold after every fault: the log against the ledger of acknowledgements and plain models, read models
against the log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg

from commands._codec import decode_known
from projections._engine import all_projections
from projections._rebuild import rebuild
from tests.digests import digest
from tests.economy import Model
from tests.faults.judge import Judge, Recorded
from tests.faults.ledger import Ack, Acks, digest_of
from tests.faults.world import World

ZONE = "main"
CAUGHT_UP_WITHIN_S = 90.0

FATES = """
SELECT number, key, principal, request, status, answer, recorded_at FROM commands WHERE zone = %s ORDER BY number
"""

EVENTS = """
SELECT position, stream, version, type, data, meta, recorded_at FROM events WHERE zone = %s ORDER BY position
"""

BEHIND = """
SELECT c.projection, c.position, h.position, c.tenure FROM checkpoints c JOIN heads h USING (zone)
WHERE live AND c.position < h.position
"""

TIMERS = """
SELECT count(*) FROM read.timers t JOIN checkpoints c USING (zone, generation)
LEFT JOIN timer_fates f USING (zone, timer)
WHERE c.projection = 'timers' AND c.live AND t.due_at <= clock_timestamp() + interval '1 minute'
  AND f.accepted IS NOT TRUE
"""


def check_log(world: World, acks: Acks) -> Counter[str]:
    """Hold the log against what was acknowledged and against both plain models; returns what was judged."""
    return hold_against(world.connect, list(acks))


def hold_against(connect: Callable[[], psycopg.Connection[Any]], acks: list[Ack]) -> Counter[str]:
    """The same for any database."""
    with connect() as connection, connection.transaction():
        # One moment of both tables: timers go on.
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        fates = [Recorded(*row) for row in connection.execute(FATES, (ZONE,))]
        events = connection.execute(EVENTS, (ZONE,)).fetchall()
    check_order(fates, events)
    check_acks(fates, acks)
    judge = Judge()
    wrong = [said for fate in fates if (said := judge.judge(fate))]
    assert wrong == [], wrong[:5]
    check_model(events)
    check_answers(fates, events)
    return judge.judged


def check_order(fates: list[Recorded], events: list[Any]) -> None:
    """Positions and numbers without a gap, versions without a repetition, a time that never goes backwards."""
    assert [event[0] for event in events] == list(range(1, len(events) + 1))
    assert [fate.number for fate in fates] == list(range(1, len(fates) + 1))
    versions: Counter[str] = Counter()
    for _, stream, version, *_ in events:
        versions[stream] += 1
        assert version == versions[stream], stream
    for times in ([event[-1] for event in events], [fate.at for fate in fates]):
        assert times == sorted(times)


def check_acks(fates: list[Recorded], acks: list[Ack]) -> None:
    """Nothing acknowledged is lost or answered otherwise, and nothing that was sent later comes earlier."""
    stored = {(fate.principal, fate.key): fate for fate in fates}
    lost = [ack.key for ack in acks if (ack.principal, ack.key) not in stored]
    assert lost == [], f"{len(lost)} acknowledged commands are lost: {lost[:5]}"
    for ack in acks:
        fate = stored[ack.principal, ack.key]
        assert (fate.status, digest_of(fate.answer)) == (ack.status, ack.digest), ack.key
    assert len({(ack.principal, ack.key) for ack in acks}) == len(acks)
    last = 0
    ended = sorted(acks, key=lambda ack: ack.got)
    waiting = iter(ended)
    done = next(waiting, None)
    for ack in sorted(acks, key=lambda ack: ack.sent):
        while done is not None and done.got < ack.sent:
            last = max(last, stored[done.principal, done.key].number)
            done = next(waiting, None)
        assert stored[ack.principal, ack.key].number > last, (
            f"{ack.key} was sent after an answer that it precedes"
        )


def check_model(events: list[Any]) -> None:
    """Conservation and the like, at the end of every command."""
    model = Model()
    command = b""
    for _, stream, _, kind, data, meta, _ in events:
        here = meta.partition(b',"i":')[0]
        if here != command:
            model.check()
            command = here
        model.apply(stream, decode_known(kind, data))
    model.check()
    model.check_all()


def check_answers(fates: list[Recorded], events: list[Any]) -> None:
    """Each accepted command has just its own events in the log."""
    named: Counter[str] = Counter()
    for *_, meta, _ in events:
        named[meta[meta.index(b'"command":"') + 11 : meta.index(b'","name"')].decode()] += 1
    for fate in fates:
        shown = fate.answer.count(b'"position":') - 1 if fate.status == 200 else 0
        assert named.pop(f"c{fate.number}", 0) == shown, fate.key
    assert not named, "events of commands that nobody sent"


def caught_up(world: World, within_s: float = CAUGHT_UP_WITHIN_S) -> float:
    """Let the workers finish, who are under test; returns how long that took (s)."""
    begun = time.monotonic()
    with world.connect() as connection:
        while behind := connection.execute(BEHIND).fetchall():
            if time.monotonic() - begun > within_s:
                raise AssertionError(f"the workers do not catch up: {behind[:4]}")
            time.sleep(0.02)
    return time.monotonic() - begun


def timers_settled(world: World, within_s: float = CAUGHT_UP_WITHIN_S) -> None:
    """Wait until nothing is due, nor will be soon: what was due was done, once, which the models say."""
    end = time.monotonic() + within_s
    with world.connect() as connection:
        while True:
            caught_up(world, within_s)
            row = connection.execute(TIMERS).fetchone()
            if row is not None and not row[0]:
                return
            assert time.monotonic() < end, f"{row} timers stay due"
            time.sleep(0.1)


def digests(connection: psycopg.Connection[Any]) -> dict[str, str]:
    return {name: digest(connection, ZONE, projection) for name, projection in all_projections().items()}


def check_read_models(world: World, *names: str) -> None:
    """What followed the log through all of it equals a fresh rebuild, and the digests say so."""
    timers_settled(world)
    with world.connect() as connection:
        aside = connection.execute("SELECT * FROM quarantine").fetchall()
        assert aside == [], aside
        live = digests(connection)
        for name, projection in all_projections().items():
            if not names or name in names:
                rebuild(world.connect, ZONE, projection)
                assert digest(connection, ZONE, projection) == live[name], name
