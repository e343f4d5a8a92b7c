"""What operators want of read models, done by the worker: held, built anew, events tried again or done without."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from domain.ledger import MintTokens, OpenWallet, Transfer
from domain.operations import (
    CancelRebuild,
    DiscardQuarantined,
    PauseProjection,
    RebuildProjection,
    ReinstateDiscarded,
    RepairQuarantined,
    ResumeProjection,
    RetryQuarantined,
)
from ops.verify import Found, verify
from projections._engine import Record, Rows, all_projections
from projections._follower import Follower
from projections._rebuild import rebuild
from projections.ledger import Reversal
from tests.conftest import Database
from tests.support import Economy, economy
from workers import acts
from workers.acts import Acts

LEDGER = "ledger"


Scenario = Callable[..., Coroutine[Any, Any, None]]


def played(scenario: Scenario) -> Callable[..., None]:
    """A test: the scenario in a zone where ana has tokens, and ben a wallet."""

    async def whole(database: Database, given: dict[str, Any]) -> None:
        async with economy(database) as zone:
            for who in ("ana", "ben"):
                await zone.issue(OpenWallet(f"wallet:{who}"), who)
            await zone.issue(MintTokens("wallet:ana", 1_000, "start", ""))
            await zone.catch_up()
            await scenario(zone, **given)

    def test(database: Database, **given: Any) -> None:
        asyncio.run(whole(database, given))

    others = [p for p in inspect.signature(scenario).parameters.values() if p.name != "zone"]
    database = inspect.Parameter("database", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    setattr(test, "__signature__", inspect.Signature([database, *others]))  # noqa: B010 - what pytest looks at
    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


async def pay(zone: Economy, amount: int) -> int:
    """Ana pays ben; the position of the event that credits him."""
    answer = await zone.issue(Transfer("wallet:ana", "wallet:ben", amount), "ana")
    return next(int(e["position"]) for e in answer["events"] if e["type"] == "Credited")


async def act(zone: Economy, command: Any) -> str:
    """An operator's command, seen by the followers; its id."""
    answer = await zone.issue(command)
    await zone.catch_up()
    return str(answer["command_id"])


def turn(zone: Economy, stopping: threading.Event | None = None) -> int:
    """One look of a worker at what is to be done."""
    worker = Acts(lambda bounded: zone.database.connect(), stopping or threading.Event())
    with zone.database.connect() as connection:
        return worker.turn(connection)


async def done(zone: Economy) -> dict[str, tuple[str, str]]:
    """Of each act its state and why it is not done."""
    return {each["act"]: (each["state"], each["problem"]) for each in await zone.ask("operations/acts")}


async def balance(zone: Economy, who: str) -> tuple[int, bool]:
    response = await zone.get("/queries/ledger/balance", account=f"wallet:{who}")
    return next((int(i["posted"]), i["incomplete"]) for i in response.json()["items"])


@contextmanager
def poison(*positions: int, unstorable: bool = False) -> Iterator[None]:
    """The ledger's handler fails at these events, or makes a row that no table takes."""
    ledger = all_projections()[LEDGER]
    handler = ledger.handlers["Credited"]

    def fails(rows: Rows, event: Any, record: Record) -> None:
        handler(rows, event, record)
        if record.position in positions:
            if not unstorable:
                raise ValueError(f"too much at {record.position}")
            rows.of(Reversal, "t").reason = "a\0b"

    ledger.handlers["Credited"] = fails
    try:
        yield
    finally:
        ledger.handlers["Credited"] = handler


async def standing(zone: Economy) -> dict[str, dict[str, Any]]:
    response = await zone.get("/queries/operations/projections")
    return {item["projection"]: item for item in response.json()["items"] if item["live"]}


async def matters(zone: Economy) -> dict[str, dict[str, Any]]:
    return {item["matter"]: item for item in await zone.ask("operations/attention")}


# Held


@played
async def test_a_read_model_that_is_held_stays_where_it_is_and_says_so(zone: Economy) -> None:
    await pay(zone, 10)
    await act(zone, PauseProjection(LEDGER, "to look at it"))
    held_at = (await standing(zone))[LEDGER]["position"]
    await pay(zone, 20)
    head = await zone.catch_up()
    found = await standing(zone)
    assert (found[LEDGER]["position"], found[LEDGER]["paused"], found[LEDGER]["reason"]) == (
        held_at,
        True,
        "to look at it",
    )
    assert {each["position"] for name, each in found.items() if name != LEDGER} == {head}
    assert await balance(zone, "ben") == (10, False)
    assert (await zone.get("/queries/ledger/assets", min_position=head)).status_code == 504
    said = await matters(zone)
    assert (said["paused"]["count"], said["paused"]["bad"]) == (1, True)
    assert said["lag"]["count"] == 0, "nobody is late who is held"
    await act(zone, ResumeProjection(LEDGER))
    await zone.catch_up()
    assert await balance(zone, "ben") == (30, False)
    assert not (await matters(zone))["paused"]["count"]


@played
async def test_a_follower_at_work_hears_that_a_read_model_is_held_and_goes_on(zone: Economy) -> None:
    follower = Follower(zone.database.connect, zone.zone)
    try:
        assert await asyncio.to_thread(follower.begin)
        await zone.issue(PauseProjection(LEDGER, "to look at it"))
        follower.advance()
        await pay(zone, 20)
        follower.advance()
        assert follower.caught_up(zone.sequencer.head.position), "it waits for nobody who is held"
        assert (await standing(zone))[LEDGER]["lag"] > 0
        await zone.issue(ResumeProjection(LEDGER))
        follower.advance()
        assert not follower.caught_up(zone.sequencer.head.position)
        while follower.advance():
            pass
        assert follower.caught_up(zone.sequencer.head.position)
        follower.end()
    finally:
        follower.close()
    assert await balance(zone, "ben") == (20, False)


# Built anew


@played
async def test_a_rebuild_is_done_once_and_the_read_model_is_what_it_was(zone: Economy) -> None:
    await pay(zone, 10)
    id = await act(zone, RebuildProjection(LEDGER, "to be sure"))
    before = zone.digests()
    assert (await done(zone))[id] == ("asked", "")
    assert turn(zone) == 1
    assert turn(zone) == 0, "what is done is not done again"
    assert (await done(zone))[id] == ("done", "")
    assert zone.digests() == before
    assert (await standing(zone))[LEDGER]["generation"] == 2


@played
async def test_a_rebuild_whose_worker_was_killed_is_done_by_the_next_one(
    zone: Economy, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await act(zone, RebuildProjection(LEDGER, "to be sure"))

    class Killed(BaseException):
        pass

    def killed(*ignored: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(acts, "rebuild", killed)
        with pytest.raises(Killed):
            turn(zone)
    assert (await done(zone))[id][0] == "running"
    assert turn(zone) == 0, "its claim holds for some seconds"
    with zone.database.connect() as connection:
        connection.execute("UPDATE act_fates SET claimed_until = 'epoch'")
    assert turn(zone) == 1
    assert (await done(zone))[id] == ("done", "")


@played
async def test_an_act_that_workers_die_over_is_not_tried_for_ever(zone: Economy) -> None:
    id = await act(zone, RebuildProjection(LEDGER, "to be sure"))
    with zone.database.connect() as connection:
        connection.execute(
            "INSERT INTO act_fates (zone, act, state, attempts, claimed_until)"
            " VALUES ('main', %s, 'running', %s, 'epoch')",
            (id, acts.MOST_ATTEMPTS),
        )
    assert turn(zone) == 1
    assert (await done(zone))[id] == ("failed", acts.DIED)


@played
async def test_a_worker_that_stops_leaves_the_act_to_the_next_one(zone: Economy) -> None:
    id = await act(zone, RebuildProjection(LEDGER, "to be sure"))
    stopping = threading.Event()

    def connect(bounded: bool) -> Any:
        stopping.set()
        return zone.database.connect()

    with zone.database.connect() as connection:
        Acts(connect, stopping).turn(connection)
        attempts = connection.execute("SELECT attempts FROM act_fates").fetchone()
    assert attempts == (0,), "nobody died over it"
    assert (await standing(zone))[LEDGER]["generation"] == 1
    assert turn(zone) == 1
    assert (await done(zone))[id] == ("done", "")


@played
async def test_a_rebuild_is_given_up_before_it_begins(zone: Economy) -> None:
    id = await act(zone, RebuildProjection(LEDGER, "to be sure"))
    await act(zone, CancelRebuild(LEDGER, id, "not now"))
    turn(zone)
    (said,) = await zone.ask("operations/acts")
    assert (said["state"], said["cancelled_by"]) == ("cancelled", "admin")
    assert (await standing(zone))[LEDGER]["generation"] == 1


@played
async def test_a_rebuild_is_given_up_while_it_is_under_way(
    zone: Economy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heard at the latest when the new rows would become live."""
    id = await act(zone, RebuildProjection(LEDGER, "to be sure"))
    real = rebuild
    loop = asyncio.get_running_loop()

    def meanwhile(*arguments: Any) -> int:
        coroutine = act(zone, CancelRebuild(LEDGER, id, "not now"))
        asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)
        return real(*arguments)

    monkeypatch.setattr(acts, "rebuild", meanwhile)
    await asyncio.to_thread(turn, zone)
    assert (await done(zone))[id][0] == "cancelled"
    assert (await standing(zone))[LEDGER]["generation"] == 1
    with zone.database.connect() as connection:
        left = connection.execute("SELECT count(*) FROM checkpoints WHERE NOT live").fetchone()
    assert left == (0,), "nothing of it is left"


# Set aside


@played
async def test_an_event_that_was_set_aside_is_shown_with_its_stack(zone: Economy) -> None:
    position = await pay(zone, 10)
    with poison(position):
        await zone.catch_up()
    (item,) = (await zone.get("/queries/operations/quarantine")).json()["items"]
    assert (item["event"], item["error"]) == (position, f"raised: ValueError('too much at {position}')")
    assert "raise ValueError" in item["stack"]


@played
async def test_a_retry_of_an_event_that_still_fails_says_so_and_changes_nothing(zone: Economy) -> None:
    position = await pay(zone, 10)
    with poison(position):
        await zone.catch_up()
        before = zone.digests()[LEDGER]
        (item,) = (await zone.get("/queries/operations/quarantine")).json()["items"]
        before_it = item["attempts"]
        id = await act(zone, RetryQuarantined(LEDGER, position))
        turn(zone)
        state, why = (await done(zone))[id]
    assert state == "failed"
    assert f"too much at {position}" in why
    (item,) = (await zone.get("/queries/operations/quarantine")).json()["items"]
    assert item["attempts"] == before_it + 1
    assert zone.digests()[LEDGER] == before
    assert (await standing(zone))[LEDGER]["generation"] == 1


@played
async def test_a_retry_that_is_digested_takes_in_its_stream_and_leaves_others_aside(zone: Economy) -> None:
    await zone.issue(OpenWallet("wallet:cai"), "cai")
    first = await pay(zone, 10)
    second = int((await zone.issue(Transfer("wallet:ana", "wallet:cai", 5), "ana"))["events"][-1]["position"])
    with poison(first, second):
        await zone.catch_up()
    assert {position for position, _ in await aside(zone)} == {first, second}
    with poison(second):
        id = await act(zone, RetryQuarantined(LEDGER, first))
        turn(zone)
        assert (await done(zone))[id] == ("done", "")
    assert await aside(zone) == [(second, False)]
    assert await balance(zone, "ben") == (10, False)
    later = await zone.issue(Transfer("wallet:ana", "wallet:cai", 1), "ana")
    await zone.catch_up()
    assert (int(later["events"][-1]["position"]), False) in await aside(zone), "its stream is still aside"


async def aside(zone: Economy) -> list[tuple[int, bool]]:
    items = (await zone.get("/queries/operations/quarantine")).json()["items"]
    return [(item["event"], item["discarded"]) for item in items]


@played
async def test_a_repair_takes_in_all_and_equals_a_fresh_fold(zone: Economy) -> None:
    position = await pay(zone, 10)
    with poison(position):
        await zone.catch_up()
    await pay(zone, 5)
    id = await act(zone, RepairQuarantined(LEDGER, "the handler is mended"))
    turn(zone)
    assert (await done(zone))[id] == ("done", "")
    assert await aside(zone) == []
    assert await balance(zone, "ben") == (15, False)
    repaired = zone.digests()
    zone.rebuild()
    assert zone.digests() == repaired


@played
async def test_a_repair_of_what_lacks_nothing_does_nothing(zone: Economy) -> None:
    id = await act(zone, RepairQuarantined(LEDGER, "to be sure"))
    turn(zone)
    assert (await done(zone))[id] == ("done", "")
    assert (await standing(zone))[LEDGER]["generation"] == 1


@played
async def test_an_event_that_was_discarded_is_done_without_and_the_later_ones_of_its_stream_count(
    zone: Economy,
) -> None:
    position = await pay(zone, 10)
    with poison(position):
        await zone.catch_up()
        await pay(zone, 5)
        await zone.catch_up()
        assert len(await aside(zone)) == 2
        id = await act(zone, DiscardQuarantined(LEDGER, position, "it was sent twice"))
        turn(zone)
        assert (await done(zone))[id] == ("done", "")
        assert await aside(zone) == [(position, True)]
        assert await balance(zone, "ben") == (5, True), "a row that misses it says so"
        said = await matters(zone)
        assert not said["quarantine"]["count"], "somebody decided about it"
        (item,) = (await zone.get("/queries/operations/quarantine")).json()["items"]
        assert (item["reason"], item["by"]) == ("it was sent twice", "admin")
        # Each further rebuild leaves it out as well, whoever does it.
        before = zone.digests()
        zone.rebuild()
        assert zone.digests() == before
        assert await aside(zone) == [(position, True)]


@played
async def test_an_auditor_is_told_of_a_discarded_event_by_the_log_and_nothing_differs(zone: Economy) -> None:
    position = await pay(zone, 10)
    with poison(position):
        await zone.catch_up()
        await act(zone, DiscardQuarantined(LEDGER, position, "it was sent twice"))
        turn(zone)
        await zone.catch_up()
        assert problems(zone) == []
        with zone.database.superuser() as connection:
            connection.execute("UPDATE quarantine SET discarded = false")
        assert problems(zone) == []
    assert any("folds" in each for each in problems(zone)), "without the operator's word it would differ"
    with zone.database.superuser() as connection:
        connection.execute("UPDATE quarantine SET discarded = true")
    assert problems(zone) == []
    said = f"zone {zone.zone}: ledger does without what operators discarded: {position}"
    assert said in verified(zone).unproven


def problems(zone: Economy) -> list[str]:
    return [str(problem) for problem in verified(zone).problems]


def verified(zone: Economy) -> Found:
    return verify(zone.database.connect, zone.zone, lambda done, total: None)


@played
async def test_a_discarded_event_that_is_taken_back_counts_again(zone: Economy) -> None:
    position = await pay(zone, 10)
    with poison(position):
        await zone.catch_up()
        await act(zone, DiscardQuarantined(LEDGER, position, "it was sent twice"))
        turn(zone)
    id = await act(zone, ReinstateDiscarded(LEDGER, position, "it was not"))
    turn(zone)
    assert (await done(zone))[id] == ("done", "")
    assert await aside(zone) == []
    assert await balance(zone, "ben") == (10, False)
    (said,) = await zone.ask("operations/discarded")
    assert said["standing"] is False


@pytest.mark.parametrize("command", [RetryQuarantined(LEDGER, 1), DiscardQuarantined(LEDGER, 1, "away")])
@played
async def test_nothing_is_done_about_an_event_that_is_not_set_aside(zone: Economy, command: Any) -> None:
    before = zone.digests()[LEDGER]
    id = await act(zone, command)
    turn(zone)
    assert (await done(zone))[id] == ("refused", acts.NOT_SET_ASIDE)
    assert zone.digests()[LEDGER] == before
    assert (await standing(zone))[LEDGER]["generation"] == 1


@played
async def test_an_event_whose_rows_no_table_takes_is_neither_digested_nor_rebuilt(zone: Economy) -> None:
    position = await pay(zone, 10)
    with poison(position, unstorable=True):
        await zone.catch_up()
        retried = await act(zone, RetryQuarantined(LEDGER, position))
        rebuilt = await act(zone, RebuildProjection(LEDGER, "to be sure"))
        turn(zone)
        turn(zone)
    found = await done(zone)
    assert [found[id][0] for id in (retried, rebuilt)] == ["failed", "failed"]
    assert ["NUL" in found[id][1] or "UTF8" in found[id][1] for id in (retried, rebuilt)] == [True, True], (
        found
    )
    assert (await standing(zone))[LEDGER]["generation"] == 1
    id = await act(zone, RepairQuarantined(LEDGER, "mended"))
    turn(zone)
    assert (await done(zone))[id] == ("done", "")
    assert await balance(zone, "ben") == (10, False)


@played
async def test_a_rebuild_over_poison_fails_and_the_live_rows_stay(zone: Economy) -> None:
    position = await pay(zone, 10)
    with poison(position):
        await zone.catch_up()
        id = await act(zone, RebuildProjection(LEDGER, "to be sure"))
        turn(zone)
    state, why = (await done(zone))[id]
    assert state == "failed"
    assert str(position) in why
    assert (await standing(zone))[LEDGER]["generation"] == 1
