"""The sequencer on the log's in-memory twin: batches, keys, other writers, lost connections, clocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from commands import _sequencer
from commands._codec import Recorded, decision_of, encode_json, event_encoder
from commands._deciding import Command, Outcome
from commands._log import SNAPSHOT_EVERY, Batch, Head, LogUnavailable
from commands._memory import MemoryLog, Store
from commands._sequencer import MOST_QUEUED, LogWentBack, Overloaded, Sequencer
from domain.ledger import (
    Allocation,
    CloseWallet,
    DistributeRewards,
    MintTokens,
    OpenWallet,
    PlaceHold,
    ReverseTransaction,
    Transfer,
    accounts,
)
from domain.platform import AdvanceClock, CreateZone

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Client:
    sequencer: Sequencer
    keys: int = 0
    name: str = "k"
    moved: list[int] = field(default_factory=list)

    def send(self, command: Any, by: str = "op", role: str = "", **options: Any) -> asyncio.Future[Outcome]:
        self.keys += 1
        decide = options.pop("decide", decision_of(type(command)))
        return self.sequencer.submit(
            Command(
                name=type(command).__name__,
                body=command,
                decide=decide,
                principal=by,
                by=by,
                role=role or ("operator" if by == "op" else "participant"),
                key=options.pop("key", f"{self.name}{self.keys}"),
                request=event_encoder(type(command))(command),
                **options,
            )
        )

    async def ok(self, command: Any, by: str = "op", **options: Any) -> Outcome:
        outcome = await self.send(command, by, **options)
        assert outcome.status == 200, outcome
        return outcome


@asynccontextmanager
async def client(
    log: MemoryLog | None = None,
    name: str = "k",
    clock: Callable[[], datetime] = lambda: NOON,
    **options: Any,
) -> AsyncIterator[Client]:
    moved: list[int] = []
    sequencer = Sequencer(
        "main",
        log or MemoryLog(Store()),
        clock=clock,
        moved=lambda zone, position: moved.append(position),
        **options,
    )
    assert await sequencer.start()
    try:
        yield Client(sequencer, name=name, moved=moved)
    finally:
        await sequencer.stop()


async def village(c: Client) -> None:
    """Ana owns 100, Ben owns nothing."""
    await c.ok(CreateZone("main"))
    await c.ok(OpenWallet("wallet:ana"), "ana")
    await c.ok(OpenWallet("wallet:ben"), "ben")
    await c.ok(MintTokens("wallet:ana", 100, "start", "r1"))


def pay(amount: int) -> Transfer:
    return Transfer("wallet:ana", "wallet:ben", amount)


def rule(outcome: Outcome) -> str:
    return str(msgspec.json.decode(outcome.body)["type"]).removeprefix("/problems/")


def run(scenario: Any) -> None:
    asyncio.run(scenario)


def test_commands_that_wait_together_become_one_batch_in_their_order() -> None:
    async def scenario() -> None:
        async with client() as c:
            await village(c)
            before = len(c.moved)
            sent = [c.send(pay(60), "ana"), c.send(pay(60), "ana"), c.send(pay(40), "ana")]
            outcomes = await asyncio.gather(*sent)
            assert [o.status for o in outcomes] == [200, 409, 200]
            assert len(c.moved) == before + 1

    run(scenario())


def test_a_refusal_names_its_rule_its_facts_and_where_it_was_decided() -> None:
    async def scenario() -> None:
        async with client() as c:
            await village(c)
            refused = await c.send(pay(101), "ana")
            problem = msgspec.json.decode(refused.body)
            assert problem["type"] == "/problems/insufficient-funds"
            assert problem["facts"] == {
                "account": "wallet:ana",
                "asset": "FOG",
                "available": "100",
                "needed": "101",
            }
            assert problem["position"] == c.sequencer.head.position

    run(scenario())


def test_the_same_key_gets_the_same_bytes_and_has_one_effect() -> None:
    async def scenario() -> None:
        async with client() as c:
            await village(c)
            first = await c.ok(pay(5), "ana", key="once")
            position = c.sequencer.head.position
            again = await c.ok(pay(5), "ana", key="once")
            assert again.body == first.body
            assert again.hit
            assert c.sequencer.head.position == position

    run(scenario())


def test_the_same_key_waits_for_the_answer_of_the_one_in_flight() -> None:
    async def scenario() -> None:
        async with client() as c:
            await village(c)
            outcomes = await asyncio.gather(*(c.send(pay(5), "ana", key="once") for _ in range(5)))
            assert len({o.body for o in outcomes}) == 1
            assert sorted(o.hit for o in outcomes) == [False, True, True, True, True]

    run(scenario())


def test_a_refusal_is_remembered_under_its_key_too() -> None:
    async def scenario() -> None:
        async with client() as c:
            await village(c)
            first = await c.send(pay(500), "ana", key="once")
            await c.ok(MintTokens("wallet:ana", 1000, "more", "r2"))
            again = await c.send(pay(500), "ana", key="once")
            assert (first.status, again.status) == (409, 409)
            assert again.body == first.body

    run(scenario())


def test_an_accepted_command_keeps_its_answer_when_it_would_be_refused_unrecorded_today() -> None:
    async def scenario() -> None:
        store = Store(head=Head(0, 0, NOON, "manual"))
        async with client(MemoryLog(store)) as c:
            await c.ok(CreateZone("main", "manual"))
            await c.ok(OpenWallet("wallet:ana"), "ana", key="open", if_match=0, main=accounts("wallet:ana"))
            closed = await c.ok(CloseWallet("wallet:ana"), "ana", key="close")
            advanced = await c.ok(AdvanceClock(), key="tick", at=NOON + timedelta(hours=1))
            await c.ok(AdvanceClock(), at=NOON + timedelta(hours=2))
            again = await c.send(CloseWallet("wallet:ana"), "ana", key="close")
            assert (again.status, again.body, again.hit) == (200, closed.body, True)
            again = await c.send(
                OpenWallet("wallet:ana"), "ana", key="open", if_match=0, main=accounts("wallet:ana")
            )
            assert (again.status, again.hit) == (200, True)
            again = await c.send(AdvanceClock(), key="tick", at=NOON + timedelta(hours=1))
            assert (again.status, again.body) == (200, advanced.body)
            other = await c.send(CloseWallet("wallet:nobody"), "ana", key="close")
            assert rule(other) == "idempotency-key-reused"
            new = await c.send(CloseWallet("wallet:nobody"), "ana", key="new")
            assert (new.status, new.hit) == (404, False)

    run(scenario())


def test_a_key_used_for_another_command_is_refused_and_its_neighbours_are_not() -> None:
    async def scenario() -> None:
        async with client() as c:
            await village(c)
            await c.ok(pay(5), "ana", key="once")
            bad, good = await asyncio.gather(c.send(pay(6), "ana", key="once"), c.send(pay(7), "ana"))
            assert (bad.status, rule(bad)) == (422, "idempotency-key-reused")
            assert good.status == 200

    run(scenario())


def test_keys_of_two_principals_do_not_meet() -> None:
    async def scenario() -> None:
        async with client() as c:
            await village(c)
            await c.ok(pay(5), "ana", key="once")
            await c.ok(Transfer("wallet:ben", "wallet:ana", 5), "ben", key="once")

    run(scenario())


def test_a_dry_run_shows_the_events_and_appends_nothing() -> None:
    async def scenario() -> None:
        async with client() as c:
            await village(c)
            head = c.sequencer.head
            shown = await c.ok(pay(5), "ana", dry_run=True, key="")
            assert [e["type"] for e in msgspec.json.decode(shown.body)["events"]] == ["Debited", "Credited"]
            assert c.sequencer.head == head
            done = await c.ok(pay(5), "ana")
            assert done.body == shown.body

    run(scenario())


def test_a_stale_version_is_refused_and_the_current_one_is_taken() -> None:
    async def scenario() -> None:
        async with client() as c:
            await village(c)
            stale = await c.send(pay(5), "ana", if_match=1, main=accounts("wallet:ana"))
            assert (stale.status, rule(stale)) == (412, "stale-version")
            await c.ok(pay(5), "ana", if_match=2, main=accounts("wallet:ana"))

    run(scenario())


def test_a_decision_that_breaks_fails_alone() -> None:
    def broken(command: Any, issued: Any, read: Any) -> Any:
        raise ZeroDivisionError
        yield

    async def scenario() -> None:
        async with client() as c:
            await village(c)
            outcomes = await asyncio.gather(
                c.send(pay(5), "ana"), c.send(pay(5), "ana", decide=broken), c.send(pay(5), "ana")
            )
            assert [o.status for o in outcomes] == [200, 500, 200]

    run(scenario())


def test_postings_that_do_not_balance_never_reach_the_log() -> None:
    from domain.ledger import Credited

    def minting(command: Any, issued: Any, read: Any) -> Any:
        yield accounts("wallet:ana"), Credited("FOG", 1_000_000, "nowhere", "theft")

    async def scenario() -> None:
        async with client() as c:
            await village(c)
            position = c.sequencer.head.position
            outcome = await c.send(pay(5), "ana", decide=minting)
            assert outcome.status == 500
            assert c.sequencer.head.position == position

    run(scenario())


def test_an_event_that_is_too_large_fails_alone() -> None:
    from domain.ledger import WalletFrozen

    def large(command: Any, issued: Any, read: Any) -> Any:
        yield accounts("wallet:ana"), WalletFrozen("x" * 70_000)

    async def scenario() -> None:
        async with client() as c:
            await village(c)
            outcomes = await asyncio.gather(c.send(pay(5), "ana", decide=large), c.send(pay(5), "ana"))
            assert [o.status for o in outcomes] == [500, 200]

    run(scenario())


class Poisoned(MemoryLog):
    """A store that cannot take one particular command."""

    async def append(self, zone: str, head: Head, at: datetime, batch: Batch) -> bool:
        if "poison" in batch.keys:
            raise ValueError("the database refuses this row")
        return await super().append(zone, head, at, batch)


def test_a_command_that_the_store_refuses_is_found_by_halving_and_fails_alone() -> None:
    async def scenario() -> None:
        async with client(Poisoned(Store())) as c:
            await village(c)
            keys = ["a", "b", "poison", "d", "e"]
            outcomes = await asyncio.gather(*(c.send(pay(1), "ana", key=key) for key in keys))
            assert [o.status for o in outcomes] == [200, 200, 500, 200, 200]

    run(scenario())


def test_two_writers_share_one_order_and_neither_decides_on_old_state() -> None:
    async def scenario() -> None:
        store = Store()
        async with client(MemoryLog(store), "a") as a, client(MemoryLog(store), "b") as b:
            await village(a)
            outcomes = []
            for _ in range(10):
                outcomes += await asyncio.gather(a.send(pay(8), "ana"), b.send(pay(8), "ana"))
            assert [o.status for o in outcomes].count(200) == 12
            assert [o.status for o in outcomes].count(409) == 8
            assert [event.position for event in store.events] == list(range(1, len(store.events) + 1))

    run(scenario())


def test_a_refusal_counts_only_on_the_state_of_the_head() -> None:
    async def scenario() -> None:
        store = Store()
        async with client(MemoryLog(store), "a") as a, client(MemoryLog(store), "b") as b:
            await village(a)
            await b.ok(pay(1), "ana")
            await a.ok(MintTokens("wallet:ana", 1000, "more", "r2"))
            assert (await b.send(pay(500), "ana")).status == 200

    run(scenario())


class Cut(MemoryLog):
    """A connection that breaks at a chosen append, before or after the append took effect."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.cut = ""

    async def append(self, zone: str, head: Head, at: datetime, batch: Batch) -> bool:
        cut, self.cut = self.cut, ""
        done = cut != "before" and await super().append(zone, head, at, batch)
        if cut:
            raise LogUnavailable("the connection is gone")
        return done


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_lost_connection_leaves_one_effect_and_one_answer(moment: str) -> None:
    async def scenario() -> None:
        log = Cut(Store())
        async with client(log) as c:
            await village(c)
            log.cut = moment
            outcome = await c.send(pay(5), "ana", key="once")
            assert outcome.status == 200
            assert outcome.hit == (moment == "after")
            assert await c.sequencer._log.load("main", {"wallet:ben": accounts}, c.sequencer.head.position)
            loaded = await log.load("main", {"wallet:ben": accounts}, log.store.head.position)
            assert loaded is not None
            assert loaded["wallet:ben"].state.posted == {"FOG": 5}

    run(scenario())


class Gone(MemoryLog):
    """A log that answers until it is told to be away."""

    away = False

    async def connect(self) -> None:
        if self.away:
            raise LogUnavailable("away")

    async def append(self, zone: str, head: Head, at: datetime, batch: Batch) -> bool:
        if self.away:
            raise LogUnavailable("away")
        return await super().append(zone, head, at, batch)


def test_while_the_log_is_away_commands_get_503_and_later_ones_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sequencer, "DEADLINE_S", 0.05)

    async def scenario() -> None:
        log = Gone(Store())
        async with client(log) as c:
            await village(c)
            log.away = True
            outcome = await c.send(pay(5), "ana")
            assert outcome.status == 503
            assert outcome.retry_after_s
            log.away = False
            monkeypatch.setattr(_sequencer, "DEADLINE_S", 10)
            await c.ok(pay(5), "ana")

    run(scenario())


def test_a_log_that_went_back_ends_the_sequencer() -> None:
    async def scenario() -> None:
        failures: list[BaseException] = []
        store = Store()
        async with client(MemoryLog(store), failed=failures.append) as c:
            await village(c)
            store.events.pop()
            store.head = store.head._replace(position=store.head.position - 1)
            outcome = await c.send(pay(5), "ana")
            assert outcome.status == 503
            assert [type(f) for f in failures] == [LogWentBack]

    run(scenario())


class Stuck(MemoryLog):
    """A log whose appends are never answered, once it is told so."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.answers = asyncio.Event()
        self.answers.set()

    async def append(self, zone: str, head: Head, at: datetime, batch: Batch) -> bool:
        await self.answers.wait()
        return await super().append(zone, head, at, batch)


@pytest.mark.parametrize("how", ["cancelled", "broken"])
def test_whatever_ends_a_sequencer_everybody_who_waits_is_answered(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        failures: list[BaseException] = []
        log = Stuck(Store())
        async with client(log, failed=failures.append) as c:
            await village(c)
            log.answers.clear()
            in_a_batch = c.send(pay(5), "ana")
            await asyncio.sleep(0.01)
            queued = [c.send(pay(5), "ana") for _ in range(3)]
            task = c.sequencer._task
            assert task is not None
            if how == "cancelled":
                task.cancel()
            else:

                async def broken(batch: Any) -> None:
                    raise SystemError("nobody expects this")

                monkeypatch.setattr(c.sequencer, "_process", broken)
                log.answers.set()
            outcomes = await asyncio.gather(in_a_batch, *queued)
            assert [outcome.status for outcome in outcomes[1:]] == [503] * 3
            assert all(outcome.retry_after_s or outcome.status == 200 for outcome in outcomes)
            await asyncio.gather(task, return_exceptions=True)
            assert len(failures) == 1
            with pytest.raises(LogUnavailable):
                c.send(pay(5), "ana")

    run(scenario())


class Locking(MemoryLog):
    """A log that knows whether its head is locked."""

    is_locked = False

    @asynccontextmanager
    async def locked(self, zone: str) -> AsyncIterator[Head]:
        async with super().locked(zone) as head:
            self.is_locked = True
            try:
                yield head
            finally:
                self.is_locked = False


class Watched(Locking):
    """Counts the events that are read while the head is locked."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.read_under_lock = 0

    async def tail(self, zone: str, after: int, upto: int) -> AsyncIterator[Any]:
        async for event in super().tail(zone, after, upto):
            self.read_under_lock += self.is_locked
            yield event


def test_a_process_that_is_far_behind_catches_up_before_it_takes_the_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_sequencer, "MOST_UNDER_LOCK", 4)

    async def scenario() -> None:
        store = Store()
        behind = Watched(store)
        async with client(MemoryLog(store), "a") as a, client(behind, "b") as b:
            await village(a)
            await b.ok(pay(1), "ana")
            for _ in range(10):
                await a.ok(pay(1), "ana")
            await b.ok(pay(1), "ana")
            assert behind.read_under_lock <= 4
            await a.ok(pay(1), "ana")
            await b.ok(pay(1), "ana")
            assert 0 < behind.read_under_lock <= 8

    run(scenario())


def test_a_clock_that_runs_backwards_holds_time_still() -> None:
    async def scenario() -> None:
        times = [NOON]
        store = Store()
        async with client(MemoryLog(store), clock=lambda: times[0]) as c:
            await village(c)
            times[0] = NOON - timedelta(days=365)
            await c.ok(pay(5), "ana")
            assert store.events[-1].recorded_at == NOON

    run(scenario())


def test_in_a_manual_clock_zone_the_named_time_counts_and_never_goes_backwards() -> None:
    async def scenario() -> None:
        store = Store(head=Head(0, 0, NOON, "manual"))
        async with client(MemoryLog(store), clock=lambda: NOON + timedelta(days=9)) as c:
            await c.ok(CreateZone("main", "manual"))
            later = NOON + timedelta(hours=1)
            await c.ok(AdvanceClock(), at=later)
            assert store.events[-1].recorded_at == later
            back = await c.send(AdvanceClock(), at=NOON)
            assert (back.status, rule(back)) == (409, "time-goes-backwards")
            mixed = await asyncio.gather(
                c.send(AdvanceClock(), at=later + timedelta(hours=1)),
                c.send(AdvanceClock(), at=later + timedelta(hours=2)),
            )
            assert [o.status for o in mixed] == [200, 200]
            assert store.events[-1].recorded_at == later + timedelta(hours=2)

    run(scenario())


def test_in_a_real_clock_zone_nobody_names_the_time() -> None:
    async def scenario() -> None:
        async with client() as c:
            await village(c)
            outcome = await c.send(pay(5), "ana", at=NOON + timedelta(days=1))
            assert (outcome.status, rule(outcome)) == (409, "clock-is-real")

    run(scenario())


def test_the_queue_is_bounded() -> None:
    async def scenario() -> None:
        async with client() as c:
            await village(c)
            for _ in range(MOST_QUEUED):
                c.send(pay(1), "ana")
            with pytest.raises(Overloaded):
                c.send(pay(1), "ana")

    run(scenario())


def test_nobody_joins_a_queue_that_would_not_be_decided_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sequencer, "LATE", 0.0)

    async def scenario() -> None:
        async with client() as c:
            await village(c)
            first = c.send(pay(1), "ana")
            with pytest.raises(Overloaded):
                c.send(pay(1), "ana")
            assert (await first).status == 200
            assert (await c.send(pay(1), "ana")).status == 200

    run(scenario())


def test_memory_is_bounded_and_forgotten_streams_are_loaded_again() -> None:
    async def scenario() -> None:
        async with client(most_streams=5) as c:
            await village(c)
            for i in range(20):
                await c.ok(OpenWallet(f"wallet:w{i}"), f"w{i}")
            await c.ok(pay(5), "ana")
            assert c.sequencer.streams_in_memory <= 5 + 3

    run(scenario())


def test_loading_a_long_stream_costs_a_bounded_number_of_events() -> None:
    async def scenario() -> None:
        store = Store()
        async with client(MemoryLog(store)) as c:
            await village(c)
            await c.ok(MintTokens("wallet:ana", 10_000, "more", "r2"))
            for _ in range(5):
                await asyncio.gather(*(c.send(pay(1), "ana") for _ in range(SNAPSHOT_EVERY // 2)))
        log = MemoryLog(store)
        async with client(log, "b") as c:
            await c.ok(pay(1), "ana")
            assert log.loads < 3 * SNAPSHOT_EVERY

    run(scenario())


def test_a_decision_may_read_very_many_streams_that_are_not_in_memory() -> None:
    async def scenario() -> None:
        store = Store()
        async with client(MemoryLog(store)) as c:
            await village(c)
            await c.ok(MintTokens("pool:rewards", 1_000, "rewards", "r2"))
        async with client(MemoryLog(store), "cold") as c:
            everybody = tuple(Allocation(f"wallet:w{i}", 1) for i in range(400))
            done = await c.ok(DistributeRewards("d1", "harvest", "pool:rewards", everybody))
            types = [event["type"] for event in msgspec.json.decode(done.body)["events"]]
            assert types.count("WalletOpened") == types.count("Credited") == 400

    run(scenario())


def test_a_snapshot_of_another_shape_means_replay() -> None:
    async def scenario() -> None:
        store = Store()
        async with client(MemoryLog(store)) as c:
            await village(c)
            store.snapshots["wallet:ana"] = (2, 2, "another shape", encode_json({"nonsense": True}))
        async with client(MemoryLog(store), "b") as c:
            await c.ok(pay(100), "ana")

    run(scenario())


def test_a_process_behind_a_newer_snapshot_catches_up_before_it_decides() -> None:
    async def scenario() -> None:
        store = Store()
        async with client(MemoryLog(store), "a") as a, client(MemoryLog(store), "b", most_streams=1) as b:
            await village(a)
            await b.ok(OpenWallet("wallet:cy"), "cy")
            await a.ok(MintTokens("wallet:ana", 10_000, "more", "r2"))
            await asyncio.gather(*(a.send(pay(1), "ana") for _ in range(SNAPSHOT_EVERY)))
            assert "wallet:ana" in store.snapshots
            await b.ok(pay(1), "ana")

    run(scenario())


def test_a_transaction_is_reversed_once_and_never_when_it_did_more_than_move_value() -> None:
    async def scenario() -> None:
        async with client() as c:
            await village(c)
            paid = msgspec.json.decode((await c.ok(pay(5), "ana")).body)["command_id"]
            await c.ok(ReverseTransaction(paid, "a mistake"))
            again = await c.send(ReverseTransaction(paid, "a mistake"))
            assert rule(again) == "transaction-is-reversed"
            later = NOON + timedelta(days=1)
            held = await c.ok(PlaceHold("h1", "wallet:ana", "ben", 5, later), "ana")
            refused = await c.send(ReverseTransaction(msgspec.json.decode(held.body)["command_id"], "no"))
            assert rule(refused) == "transaction-not-found"
            minted = await c.ok(MintTokens("wallet:ana", 10, "more", "r9"))
            refused = await c.send(ReverseTransaction(msgspec.json.decode(minted.body)["command_id"], "no"))
            assert rule(refused) == "transaction-cannot-be-reversed"
            unknown = await c.send(ReverseTransaction("c999999", "no"))
            assert unknown.status == 404

    run(scenario())


def test_a_transaction_id_that_was_asked_for_too_early_is_not_remembered_as_empty() -> None:
    async def scenario() -> None:
        async with client() as c:
            await village(c)
            number = c.sequencer.head.number + 1
            early = await c.send(ReverseTransaction(f"c{number}", "too early"))
            assert early.status == 404
            paid = await c.ok(pay(5), "ana")
            assert msgspec.json.decode(paid.body)["command_id"] == f"c{number}"
            await c.ok(ReverseTransaction(f"c{number}", "now"))

    run(scenario())


def test_what_a_newer_version_appended_is_not_guessed_at_and_other_commands_go_on() -> None:
    async def scenario() -> None:
        store = Store()
        async with client(MemoryLog(store)) as old:
            await village(old)
            await old.ok(pay(10), "ana")
            versions = [event.version for event in store.events if event.stream == "wallet:ana"]
            async with client(MemoryLog(store), name="new") as new:
                await new.ok(MintTokens("wallet:ben", 7, "start", "r2"))
            position = store.head.position + 1
            unknown = Recorded(position, "wallet:ana", versions[-1] + 1, "FromTheFuture", b"{}", b"{}", NOON)
            store.events.append(unknown)
            store.head = store.head._replace(position=position)
            for _ in range(2):
                outcome = await old.send(pay(1), "ana")
                assert (outcome.status, outcome.retry_after_s) == (503, 1)
                assert b"older version" in outcome.body
            await old.ok(OpenWallet("wallet:cleo"), "cleo")
            await old.ok(Transfer("wallet:ben", "wallet:cleo", 17), "ben")
            assert (
                rule(await old.send(Transfer("wallet:ben", "wallet:cleo", 1), "ben")) == "insufficient-funds"
            )

    run(scenario())
