"""The sequencer decides a batch while the one before is on its way to the disk. Whatever becomes of that one, nobody
sees a decision on what did not come about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from commands._deciding import Outcome
from commands._log import Batch, ClockAhead, Head, LogUnavailable
from commands._memory import MemoryLog, Store
from domain.ledger import ReverseTransaction, Transfer
from domain.platform import AdvanceClock, CreateZone
from tests.unit.test_sequencer import NOON, Locking, client, pay, rule, run, village

TICKS = 30
"""Turns of the loop that an append takes: enough for the next batch to be decided."""


class Slow(Locking):
    """A log that takes its time, and to whose next appends something happens."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.to_come: list[str] = []
        self.rival: Callable[[], Any] | None = None

    async def append(self, zone: str, head: Head, at: datetime, batch: Batch) -> bool:
        for _ in range(TICKS):
            await asyncio.sleep(0)
        what = self.to_come.pop(0) if self.to_come else "stored"
        if what == "rival" and self.rival is not None and not self.is_locked:
            await self.rival()
        if what == "cut before":
            raise LogUnavailable("the connection is gone")
        if what == "clock ahead":
            raise ClockAhead("by an hour")
        if what == "refused":
            raise ValueError("the database refuses this row")
        stored = await super().append(zone, head, at, batch)
        if what == "cut behind":
            raise LogUnavailable("the connection is gone")
        return stored


async def half_way() -> None:
    """Until what was sent is being appended."""
    for _ in range(TICKS // 2):
        await asyncio.sleep(0)


def test_the_next_batch_is_decided_while_the_last_one_is_on_its_way_and_sees_what_it_does() -> None:
    async def scenario() -> None:
        log = Slow(Store())
        async with client(log) as c:
            await village(c)
            before = c.sequencer.batches
            first = c.send(pay(60), "ana")
            await half_way()
            second = c.send(Transfer("wallet:ben", "wallet:ana", 60), "ben")
            position = log.store.head.position
            assert [(await each).status for each in (first, second)] == [200, 200]
            assert (c.sequencer.batches - before, c.sequencer.foreseen) == (2, 1)
            assert (await second).position == position + 4

    run(scenario())


OUTCOMES = {
    "stored": (200, 409),
    "rival": (409, 409),
    "cut before": (200, 409),
    "cut behind": (200, 409),
    "clock ahead": (503, 200),
    "refused": (500, 200),
}
"""Of two payments of 60 where Ana owns 100, by what happens to the first one; a rival pays 50."""


@pytest.mark.parametrize("what", OUTCOMES)
def test_whatever_becomes_of_a_batch_the_next_one_is_decided_on_that(what: str) -> None:
    async def scenario() -> None:
        store = Store()
        log = Slow(store)
        async with client(log) as c, client(MemoryLog(store), "r") as rival:
            await village(c)
            log.rival = lambda: rival.ok(pay(50), "ana")
            log.to_come = [what]
            first = c.send(pay(60), "ana")
            await half_way()
            second = c.send(pay(60), "ana")
            outcomes = await asyncio.gather(first, second)
            assert tuple(outcome.status for outcome in outcomes) == OUTCOMES[what]
            assert c.sequencer.head == store.head
            assert c.sequencer.foreseen == (what == "stored")

    run(scenario())


def test_a_key_that_is_on_its_way_is_answered_with_what_became_of_it() -> None:
    async def scenario() -> None:
        log = Slow(Store())
        async with client(log) as c:
            await village(c)
            first = c.send(pay(60), "ana", key="once")
            await half_way()
            again, other = c.send(pay(60), "ana", key="once"), c.send(pay(40), "ana")
            outcomes = await asyncio.gather(first, again, other)
            assert [outcome.status for outcome in outcomes] == [200, 200, 200]
            assert outcomes[1].body == outcomes[0].body
            assert outcomes[1].hit

    run(scenario())


def test_a_transaction_on_its_way_is_reversed_as_it_is_stored() -> None:
    async def scenario() -> None:
        log = Slow(Store())
        async with client(log) as c:
            await village(c)
            first = c.send(pay(60), "ana")
            await half_way()
            number = log.store.head.number + 1
            back = c.send(ReverseTransaction(f"c{number}", "by mistake"))
            assert (await first).status == 200
            assert (await back).status == 200
            again = await c.send(ReverseTransaction(f"c{number}", "by mistake"))
            assert again.status == 409

    run(scenario())


def test_time_never_goes_backwards_from_batch_to_batch() -> None:
    async def scenario() -> None:
        store = Store(head=Head(0, 0, NOON, "manual"))
        async with client(Slow(store)) as c:
            await c.ok(CreateZone("main", "manual"))
            first = c.send(AdvanceClock(), at=NOON + timedelta(hours=2))
            await half_way()
            second = c.send(AdvanceClock(), at=NOON + timedelta(hours=1))
            assert (await first).status == 200
            assert rule(await second) == "time-goes-backwards"

    run(scenario())


def test_where_another_process_appends_nothing_is_foreseen_until_it_has_stopped() -> None:
    async def scenario() -> None:
        store = Store()
        log = Slow(store)
        async with client(log) as c, client(MemoryLog(store), "r") as rival:
            await village(c)
            log.rival, log.to_come = lambda: rival.ok(pay(1), "ana"), ["rival"]
            await c.ok(pay(1), "ana")
            for foreseen in (0, 1):
                first = c.send(pay(1), "ana")
                await half_way()
                await asyncio.gather(first, c.send(pay(1), "ana"))
                assert c.sequencer.foreseen == foreseen

    run(scenario())


def test_who_was_decided_ahead_is_answered_when_the_sequencer_stops() -> None:
    async def scenario() -> None:
        async with client(Slow(Store())) as c:
            await village(c)
            first = c.send(pay(1), "ana")
            await half_way()
            second = c.send(pay(1), "ana")
            await half_way()
            assert c.sequencer._next
            await c.sequencer.stop()
            assert [(await each).status for each in (first, second)] == [503, 503]

    run(scenario())


PAYMENTS = st.lists(
    st.tuples(st.sampled_from(["ana", "ben"]), st.integers(1, 60), st.integers(0, 12), st.integers(0, 40)),
    min_size=5,
    max_size=60,
)
"""Who pays the other, how much, under which key, and how many turns of the loop later than the one before."""
HAPPENS = st.lists(
    st.sampled_from(["stored", "stored", "stored", "rival", "cut before", "cut behind"]), max_size=20
)


@given(PAYMENTS, HAPPENS)
@settings(max_examples=100)
def test_every_answer_is_that_of_commands_decided_one_by_one_in_the_order_of_the_log(
    payments: list[tuple[str, int, int, int]], happens: list[str]
) -> None:
    store = Store()
    log = Slow(store)
    known: dict[tuple[str, str], Transfer] = {}

    async def together() -> tuple[dict[tuple[str, str], list[Outcome]], int]:
        async with client(log) as c, client(MemoryLog(store), "r") as rival:
            await village(c)
            log.rival, log.to_come = lambda: rival.send(pay(7), "ana"), list(happens)
            sent: list[tuple[tuple[str, str], asyncio.Future[Outcome]]] = []
            for who, amount, number, later in payments:
                for _ in range(later):
                    await asyncio.sleep(0)
                other = "ben" if who == "ana" else "ana"
                # One key, one command: whatever it asks for first, it asks for again.
                command = known.setdefault(
                    (who, f"n{number}"), Transfer(f"wallet:{who}", f"wallet:{other}", amount)
                )
                sent.append(((who, f"n{number}"), c.send(command, who, key=f"n{number}")))
            answers: dict[tuple[str, str], list[Outcome]] = {}
            for name, outcome in sent:
                answers.setdefault(name, []).append(await outcome)
            return answers, c.sequencer.foreseen

    async def one_by_one() -> None:
        async with client() as c:
            await village(c)
            for (who, key), fate in list(store.fates.items())[4:]:
                again = await c.send(known.get((who, key), pay(7)), who, key=key)
                assert (again.status, again.body, again.hit) == (fate.status, fate.answer, False)

    answers, foreseen = asyncio.run(together())
    event("something foreseen" if foreseen else "nothing foreseen")
    for name, outcomes in answers.items():
        assert {(o.status, o.body) for o in outcomes} == {
            (store.fates[name].status, store.fates[name].answer)
        }
    asyncio.run(one_by_one())
