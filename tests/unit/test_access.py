"""Who a caller is, without a database: what is remembered and for how long, scopes, and what waits to be recorded."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from ops.access import Access, Caller, Unauthenticated, _journal, _lookup, is_scope, secret_digest
from ops.access._journal import DROPPED, MOST_OF_STRANGERS, MOST_WAITING, Journal
from ops.problems import Problem

PEPPER = b"a pepper for tests only"


class Keys:
    """Stands for the database: a row for each key, and how often it was asked."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[Any, ...]] = {}
        self.asked: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.connections = 0
        self.most_connections = 0
        self.failure: Exception | None = None

    def add(self, id: str, principal: str = "ana", left_s: float | None = None, revoked: bool = False) -> str:
        digest = secret_digest(PEPPER, f"secret-of-{id}")
        self.rows[id] = (principal, "participant", [], ["main"], digest, revoked, left_s, False)
        return f"Bearer fog_{id}_secret-of-{id}"

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        self.connections += 1
        self.most_connections = max(self.most_connections, self.connections)
        try:
            yield self
        finally:
            self.connections -= 1

    async def execute(self, statement: str, values: tuple[Any, ...]) -> Any:
        self.asked.append(values[0])
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        self._row = self.rows.get(values[0])
        return self

    async def fetchone(self) -> Any:
        return self._row


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock that look-ups go by; a test moves it."""
    clock = [1_000.0]
    monkeypatch.setattr(_lookup, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    return clock


def made() -> tuple[Keys, Access]:
    keys = Keys()
    return keys, Access(keys, PEPPER)  # type: ignore[arg-type]


async def refused(access: Access, authorization: str | None) -> Problem:
    with pytest.raises(Problem) as error:
        await access.caller(authorization)
    return error.value


# What is remembered


def test_a_key_is_looked_up_once_and_again_within_the_time_that_revoking_takes(now: list[float]) -> None:
    async def scenario() -> None:
        keys, access = made()
        header = keys.add("a1")
        for _ in range(5):
            assert (await access.caller(header)).principal == "ana"
        assert keys.asked == ["a1"]
        keys.add("a1", revoked=True)
        now[0] += _lookup.CACHE_S
        assert (await refused(access, header)).status == 401

    asyncio.run(scenario())


def test_keys_that_came_together_are_not_looked_up_together_again(now: list[float]) -> None:
    async def scenario() -> None:
        keys, access = made()
        for header in [keys.add(f"k{i}") for i in range(200)]:
            await access.caller(header)
        ends = sorted(until for until, _ in access._cache.values())
        assert now[0] + _lookup.CACHE_S / 2 <= ends[0]
        assert ends[-1] <= now[0] + _lookup.CACHE_S
        assert all(sum(t <= end < t + 0.1 for end in ends) < 100 for t in ends)

    asyncio.run(scenario())


def test_a_key_ends_when_it_expires_also_while_it_is_remembered(now: list[float]) -> None:
    async def scenario() -> None:
        keys, access = made()
        header = keys.add("a1", left_s=0.25)
        await access.caller(header)
        now[0] += 0.249
        await access.caller(header)
        assert keys.asked == ["a1"]
        keys.add("a1", left_s=-0.001)
        now[0] += 0.001
        problem = await refused(access, header)
        assert isinstance(problem, Unauthenticated)
        assert (problem.reason, problem.key_id) == ("key-expired", "a1")

    asyncio.run(scenario())


def test_whoever_was_not_looked_up_for_the_longest_makes_room(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lookup, "MOST_CACHED", 3)

    async def scenario() -> None:
        keys, access = made()
        headers = [keys.add(f"k{i}") for i in range(4)]
        for header in headers[:3]:
            await access.caller(header)
        now[0] += _lookup.CACHE_S
        await access.caller(headers[0])  # Looked up again, so it is the newest.
        await access.caller(headers[3])
        assert list(access._cache) == [hashlib.sha256(headers[i].encode()).digest() for i in (2, 0, 3)]

    asyncio.run(scenario())


def test_many_who_come_with_the_same_key_at_once_are_one_query() -> None:
    async def scenario() -> None:
        keys, access = made()
        header = keys.add("a1")
        keys.open.clear()
        asking = [asyncio.create_task(access.caller(header)) for _ in range(50)]
        await asyncio.sleep(0)
        asking[0].cancel()  # The first one leaves; the others get their answer all the same.
        await asyncio.sleep(0)
        keys.open.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert {answer.principal for answer in answers[1:] if isinstance(answer, Caller)} == {"ana"}
        assert len(answers[1:]) == 49
        assert keys.asked == ["a1"]

    asyncio.run(scenario())


def test_nothing_is_remembered_of_a_look_up_that_failed() -> None:
    async def scenario() -> None:
        keys, access = made()
        header = keys.add("a1")
        keys.failure = psycopg.OperationalError("away")
        with pytest.raises(psycopg.OperationalError):
            await access.caller(header)
        keys.failure = None
        assert (await access.caller(header)).key_id == "a1"
        assert keys.asked == ["a1", "a1"]

    asyncio.run(scenario())


# Strangers


def test_strangers_wait_in_a_line_of_their_own_and_those_who_were_admitted_do_not(now: list[float]) -> None:
    async def scenario() -> None:
        keys, access = made()
        header = keys.add("a1")
        await access.caller(header)
        now[0] += _lookup.CACHE_S
        keys.open.clear()
        strangers = [asyncio.create_task(access.caller(f"Bearer fog_{i}_x")) for i in range(20)]
        await asyncio.sleep(0.001)
        assert keys.connections == _lookup.STRANGERS_AT_ONCE
        admitted = asyncio.create_task(access.caller(header))
        await asyncio.sleep(0.001)
        assert keys.asked[-1] == "a1"
        keys.open.set()
        assert (await admitted).principal == "ana"
        assert {each.status for each in await _problems(strangers)} == {401}
        assert keys.most_connections == _lookup.STRANGERS_AT_ONCE + 1

    asyncio.run(scenario())


async def _problems(tasks: list[asyncio.Task[Caller]]) -> list[Problem]:
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, Problem) for each in found)
    return found  # type: ignore[return-value]


def test_too_many_strangers_at_once_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lookup, "MOST_LOOK_UPS", 3)

    async def scenario() -> None:
        keys, access = made()
        keys.open.clear()
        waiting = [asyncio.create_task(access.caller(f"Bearer fog_{i}_x")) for i in range(3)]
        await asyncio.sleep(0)
        problem = await refused(access, "Bearer fog_9_x")
        assert (problem.status, problem.name, problem.headers["Retry-After"]) == (503, "overloaded", "1")
        keys.open.set()
        assert {each.status for each in await _problems(waiting)} == {401}
        assert (await refused(access, "Bearer fog_9_x")).status == 401

    asyncio.run(scenario())


def test_a_look_up_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lookup, "LOOK_UP_S", 0.01)

    async def scenario() -> None:
        keys, access = made()
        keys.open.clear()
        problem = await refused(access, keys.add("a1"))
        assert (problem.status, problem.name) == (503, "overloaded")
        assert keys.connections == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        (None, "credentials-missing"),
        ("", "credentials-malformed"),
        ("Bearer", "credentials-malformed"),
        ("Basic fog_a1_secret-of-a1", "credentials-malformed"),
        ("Bearer fog_a1", "credentials-malformed"),
        ("Bearer fog__x", "credentials-malformed"),
        ("Bearer fog_a/1_x", "credentials-malformed"),
        ("Bearer a.b.c", "credentials-malformed"),
        ("Bearer fog_a1_" + "x" * 9_000, "credentials-too-long"),
        ("Bearer fog_a2_secret-of-a1", "key-unknown"),
        ("Bearer fog_a1_secret-of-a2", "secret-wrong"),
        ("Bearer fog_gone_secret-of-gone", "key-revoked"),
        ("Bearer fog_old_secret-of-old", "key-expired"),
        ("Bearer fog_fees_secret-of-fees", "principal-reserved"),
    ],
)
def test_what_opens_nothing_is_told_apart_in_the_record_only(authorization: str | None, reason: str) -> None:
    async def scenario() -> None:
        keys, access = made()
        keys.add("a1")
        keys.add("gone", revoked=True)
        keys.add("old", left_s=-1.0)
        keys.add("fees", principal="fees")
        problem = await refused(access, authorization)
        assert isinstance(problem, Unauthenticated)
        assert (problem.status, problem.name, problem.reason) == (401, "unauthenticated", reason)
        assert problem.headers == {"WWW-Authenticate": "Bearer"}
        assert reason not in str(problem.body)
        assert problem.key_id in ("", "a1", "gone", "old", "fees")
        assert len(access._cache) == 0

    asyncio.run(scenario())


# Scopes


def caller(*scopes: str) -> Caller:
    return Caller("k1", "ana", "operator", frozenset(scopes), frozenset({"main"}))


@pytest.mark.parametrize(
    ("scopes", "may"),
    [
        ((), {"commands:ledger", "commands:staking", "queries:ledger", "history"}),
        (("act-as", "act-at"), {"commands:ledger", "commands:staking", "queries:ledger", "history"}),
        (("commands",), {"commands:ledger", "commands:staking"}),
        (("commands:ledger", "act-as"), {"commands:ledger"}),
        (("queries:ledger", "history"), {"queries:ledger", "history"}),
        (("queries",), {"queries:ledger"}),
    ],
)
def test_a_scope_that_restricts_leaves_only_what_is_named(scopes: tuple[str, ...], may: set[str]) -> None:
    for scope in ("commands:ledger", "commands:staking", "queries:ledger", "history"):
        if scope in may:
            caller(*scopes).needs(scope)
            continue
        with pytest.raises(Problem) as error:
            caller(*scopes).needs(scope)
        problem = error.value
        assert (problem.status, problem.name) == (403, "scope-missing")
        assert problem.body["facts"]["scope"] == scope
        assert f'scope="{scope}"' in problem.headers["WWW-Authenticate"]


def test_a_batch_of_commands_needs_any_of_their_scopes() -> None:
    for scopes in ((), ("commands",), ("commands:ledger",)):
        caller(*scopes).needs_some("commands")
    with pytest.raises(Problem) as error:
        caller("queries", "history").needs_some("commands")
    assert error.value.name == "scope-missing"


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("act-as", True),
        ("act-at", True),
        ("commands", True),
        ("commands:ledger", True),
        ("queries:marketplace", True),
        ("history", True),
        ("history:events", False),
        ("commands:", False),
        ("commands:*", False),
        ("commands:Ledger", False),
        ("commands:ledger:transfer", False),
        ("command", False),
        ("", False),
        ("queries\n", False),
    ],
)
def test_a_scope_is_one_of_those_that_there_are(text: str, good: bool) -> None:
    assert is_scope(text) is good


# What waits to be recorded


def denied(name: str = "role-not-allowed") -> Problem:
    return Problem(403, name, "No.")


class Written:
    """A connection that keeps what is written, or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.failure = failure

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield

    async def execute(self, statement: str, columns: list[list[Any]] | None = None) -> None:
        if self.failure is not None:
            raise self.failure
        if columns is not None:
            self.rows += zip(*columns, strict=True)


def written(journal: Journal, failure: Exception | None = None) -> list[tuple[Any, ...]]:
    """kind, route, zone, key, issuer, principal, problem, count of each row."""
    connection = Written(failure)
    asyncio.run(journal.write(connection))  # type: ignore[arg-type]
    return [row[1:] for row in connection.rows]


@pytest.fixture
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_journal, "time", SimpleNamespace(time=lambda: 1_700_000_000.5))


@pytest.mark.usefixtures("one_second")
def test_a_flood_of_the_same_refusal_is_one_row_with_a_count() -> None:
    journal = Journal()
    for _ in range(1_000):
        journal.refused("/commands/ledger/transfer", denied(), caller(), "main")
        journal.refused("/commands/ledger/transfer", Unauthenticated("secret-wrong", "No.", key_id="k1"))
    assert written(journal) == [
        ("denial", "/commands/ledger/transfer", "main", "k1", "", "ana", "role-not-allowed", 1_000),
        ("authentication", "/commands/ledger/transfer", "", "k1", "", "", "secret-wrong", 1_000),
    ]
    assert journal.is_empty
    assert written(journal) == []


@pytest.mark.usefixtures("one_second")
def test_strangers_cannot_crowd_out_those_who_are_known_and_what_found_no_room_is_counted() -> None:
    journal, before = Journal(), DROPPED._value.get()
    for i in range(MOST_OF_STRANGERS + 40):
        journal.refused(f"/r{i}", Unauthenticated("key-unknown", "No."))
    for i in range(MOST_WAITING):
        journal.refused(f"/r{i}", denied(), caller())
    rows = written(journal)
    assert sum(row[0] == "authentication" for row in rows) == MOST_OF_STRANGERS
    assert sum(row[0] == "denial" for row in rows) == MOST_WAITING - MOST_OF_STRANGERS
    assert rows[-1] == ("dropped", "", "", "", "", "", "", 40 + MOST_OF_STRANGERS)
    assert DROPPED._value.get() - before == 40 + MOST_OF_STRANGERS
    journal.refused("/r1", Unauthenticated("key-unknown", "No."))
    assert len(written(journal)) == 1, "there is room again"


def test_what_cannot_be_written_waits_on() -> None:
    journal = Journal()
    journal.refused("/r1", denied(), caller())
    journal.refused("/r1", Unauthenticated("key-unknown", "No."))
    with pytest.raises(psycopg.OperationalError):
        written(journal, psycopg.OperationalError("away"))
    assert sorted(row[-2:] for row in written(journal)) == [("key-unknown", 1), ("role-not-allowed", 1)]


def test_of_a_stranger_nothing_is_recorded_that_he_made_up() -> None:
    journal = Journal()
    journal.refused("/r1", Unauthenticated("key-unknown", "No."), None, "a-zone-of-his")
    ((_, _, zone, key_id, issuer, principal, _, _),) = written(journal)
    assert (zone, key_id, issuer, principal) == ("", "", "", "")
