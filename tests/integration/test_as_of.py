"""Questions as of a position or a time: what every query answered then, it answers for ever."""

from __future__ import annotations

import asyncio
import functools
import itertools
import re
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import MISSING, fields
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from commands._signatures import public_key, sign, zone_key
from domain._kernel import Rejected
from domain.approvals import SetLimit
from domain.devices import Capabilities, RegisterDevice, SuspendDevice
from domain.ledger import REWARDS, Allocation, DistributeRewards, MintTokens, OpenWallet, Transfer
from domain.principals import EraseSubject, RegisterSigningKey, SetProfile, key_statement
from domain.settlement.disputes import SubmitEvidence
from domain.settlement.transfers import InitiateTransfer, RegisterPeer
from projections._engine import all_projections
from queries import _as_of
from queries._as_of import resolve
from queries._query import QUERIES, Query
from queries._sql import has_a_past, past_select
from tests.conftest import PEPPER, Database
from tests.economy import Economy as Story
from tests.economy import act, found
from tests.support import Economy, economy, problem
from workers.archive import Archive

SEED, STEPS = 27, 700
STAGES = 4
QUIET = {
    f"/queries/{name}"
    for name in (
        "marketplace/reviews",
        "marketplace/windows",
        "settlement/departures",
        "operations/discarded",
    )
}
"""Of these the story tells nothing."""
Test = Callable[[Economy], Awaitable[None]]


@pytest.fixture
def run(database: Database) -> Callable[..., None]:
    """Run a test in a village where Ana owns 1000 and Ben 200."""

    def runner(test: Test, wait_s: float = 5.0) -> None:
        async def whole() -> None:
            async with economy(database, wait_s=wait_s) as village:
                await village.issue(OpenWallet("wallet:ana"), "ana")
                await village.issue(OpenWallet("wallet:ben"), "ben")
                await village.issue(MintTokens("wallet:ana", 1000, "start", "grant-a"))
                await village.issue(MintTokens("wallet:ben", 200, "start", "grant-b"))
                await test(village)

        asyncio.run(whole())

    return runner


def archive(database: Database) -> None:
    """Let the archive come as far as the projections have."""
    worker = Archive(database.connect, threading.Event())
    while worker.turn():
        pass
    worker.close()


async def archived(village: Economy) -> int:
    position = await village.catch_up()
    await asyncio.to_thread(archive, village.database)
    return position


# Every query


class Teller(Story):
    """An economy that tells what was tried in it."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[datetime, Any, str, str]] = []

    def issue(self, command: Any, by: str = "operator", role: str | None = None) -> Rejected | None:
        role = role or ("operator" if by == "operator" else "participant")
        self.told.append((self.book.now, command, by, role))
        return super().issue(command, by, role)


@functools.cache
def told() -> Teller:
    story, rng = found(Teller), Random(SEED)
    for _ in range(STEPS):
        act(story, rng)
    return story


def choices() -> dict[str, list[str]]:
    """Values for parameters: what the story is about."""
    of: defaultdict[str, list[str]] = defaultdict(list)
    for name in told().book.states:
        category, _, id = name.partition(":")
        of[category].append(id)
    tasks = [
        task.task for name in of["contribution"] for task in told().book.states[f"contribution:{name}"].tasks
    ]
    some = {kind: ids[:: max(1, len(ids) // 4)][:4] for kind, ids in of.items()}
    return some | {
        "contract": of["contract"][:5],
        "dispute": of["dispute"],
        "board": ["harvest", "providers", "staking", "customers"],
        "measure": ["used", "supply", "online", "contracts"],
        "service": ["harvest", "compute"],
        "amount": ["10"],
        "transaction": ["c3", "c9", "c30"],
        "reference": ["grant", "start"],
        "evidence_id": of["slash"],
        "task": tasks,
        "peer": ["far"],
        "sequence": ["1"],
        "principal": ["ana"],
    }


def asked(query: Query, values: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    """Parameters to ask a query with: some choices for those that it needs, and small pages."""
    needed = [f.name for f in fields(query.parameters) if f.default is MISSING]
    if query.name == "profile":
        needed = ["principal"]
    more = {"online": "false"} if query.name == "suitability" else {}
    columns = [values.get(name) or [f"{name}1"] for name in needed]
    if needed == ["session", "seq"]:
        columns = [*zip(*(name.split(":") for name in values["contribution"]), strict=True)]
        chosen = zip(*columns, strict=True)
    else:
        chosen = itertools.product(*columns)
    for each in itertools.islice(chosen, 5):
        yield dict(zip(needed, each, strict=True)) | more | {"limit": 3}


class Remembered:
    """What was answered live."""

    def __init__(self, village: Economy) -> None:
        self.village = village
        self.answers: list[tuple[str, str, dict[str, Any], int, Any]] = []

    async def ask(self, position: int, values: dict[str, list[str]]) -> None:
        for path, query in QUERIES.items():
            if not has_a_past(query):
                continue
            for params in asked(query, values):
                for who in ("olga", "ana") if query.own else ("olga",):
                    await self._pages(who, path, params, position)

    async def _pages(self, who: str, path: str, params: dict[str, Any], position: int) -> None:
        for _ in range(2):
            response = await self.village.get(path, who, **params)
            self.answers.append((who, path, params, position, _seen(response)))
            after = response.json().get("next")
            if after is None:
                return
            params = params | {"after": after}


def _seen(response: Any) -> Any:
    """All of an answer but the tag, and a problem's name."""
    if response.status_code != 200:
        return problem(response)
    assert int(response.headers["fogbook-position"]) == response.json()["position"]
    return response.json()


async def tell(village: Economy, remembered: Remembered) -> dict[int, str]:
    """A story of all contexts; at some positions every query is asked. Returns these, and when that was."""
    values = choices()
    tried = told().told[1:]
    times = {}
    for i, (at, command, by, role) in enumerate(tried, 1):
        village.now = at
        await village.send(command, by, role)
        if i % (len(tried) // STAGES) == 0:
            await beside(village, i)
            position = await village.catch_up()
            times[position] = village.now.isoformat()
            await remembered.ask(position, values)
    return times


async def beside(village: Economy, i: int) -> None:
    """What the story does not tell: people have profiles and signing keys, get grants, and send tokens to another
    zone; operators ask each other."""
    if not village.keys:
        await village.issue(SetLimit("freeze", 0))
        await village.issue(SetLimit("freeze", 5))
        private = Ed25519PrivateKey.generate()
        public = public_key(private)
        proof = sign(private, key_statement("main", "ana", public))
        await village.issue(RegisterSigningKey(public, proof), "ana")
        await village.issue(RegisterPeer("far", public_key(zone_key(PEPPER.encode(), "far"))))
        await village.issue(OpenWallet("wallet:dora"), "dora")
        await village.issue(SetProfile("Dora", "dora@example.org"), "dora")
        await village.issue(EraseSubject("dora"), "dora")
    for dispute in choices()["dispute"]:
        await village.send(SubmitEvidence(dispute, f"e{i}"), "ana")
    await village.issue(MintTokens("wallet:dora", 1000, "start", "grant"))
    await village.issue(DistributeRewards(f"d{i}", "bonus", REWARDS, (Allocation("wallet:dora", i),)))
    await village.issue(SetProfile(f"Ana {i}", "ana@example.org"), "ana")
    until = village.now + timedelta(days=1)
    await village.issue(InitiateTransfer("far", "wallet:vic", i, until), "dora")


def test_every_query_answers_as_of_a_position_what_it_answered_then(database: Database) -> None:
    async def whole() -> None:
        async with economy(database) as village:
            remembered = Remembered(village)
            times = await tell(village, remembered)
            await asyncio.to_thread(archive, database)
            assert len(times) >= STAGES
            shown: set[str] = set()
            for who, path, params, position, seen in remembered.answers:
                answer = _seen(await village.get(path, who, as_of=f"position:{position}", **params))
                assert answer == seen, (who, path, params, position)
                if seen[0:1] != (404,) if isinstance(seen, tuple) else seen["items"]:
                    shown.add(path)
            silent = {path for path, query in QUERIES.items() if has_a_past(query)} - shown
            assert silent <= QUIET, sorted(silent - QUIET)

    asyncio.run(whole())


# What a moment is


async def paid(village: Economy, *amounts: int) -> dict[int, int]:
    """Ana pays Ben, a minute apart; the position after each payment."""
    positions = {}
    for amount in amounts:
        village.later(minutes=1)
        answer = await village.issue(Transfer("wallet:ana", "wallet:ben", amount), "ana")
        positions[amount] = answer["position"]
    return positions


async def bens(village: Economy, as_of: Any, who: str = "ben") -> str:
    (item,) = await village.ask("ledger/balance", who, account="wallet:ben", as_of=as_of)
    posted: str = item["posted"]
    return posted


def test_a_position_means_the_end_of_the_last_command_up_to_it(run: Any) -> None:
    async def test(village: Economy) -> None:
        at = await paid(village, 1, 2)
        await archived(village)
        for asked in (at[1], f"position:{at[1]}", at[2] - 1):
            response = await village.get("/queries/ledger/balance", "ben", as_of=asked)
            assert int(response.headers["fogbook-position"]) == at[1]
            assert response.json()["items"][0]["posted"] == "201"
        assert await bens(village, at[2]) == "203"

    run(test)


def test_a_time_means_the_last_command_by_then(run: Any) -> None:
    async def test(village: Economy) -> None:
        await paid(village, 1, 2, 4)
        await archived(village)
        shown = {
            "00:00:59.999999Z": "200",
            "00:01:00Z": "201",
            "00:02:30+00:00": "203",
            "02:03:00+02:00": "207",
        }
        for time, posted in shown.items():
            assert await bens(village, f"2026-01-01T{time}") == posted

    run(test)


def test_refusals_are_counted_as_of_a_time_and_up_to_a_positions_own_command(run: Any) -> None:
    async def test(village: Economy) -> None:
        async def refused(as_of: Any) -> int:
            items = await village.ask("analytics/rejections", as_of=as_of)
            return sum(item["refused"] for item in items)

        village.later(minutes=1)
        await village.send(Transfer("wallet:ana", "wallet:ben", 10**6), "ana")
        at = await paid(village, 1)
        village.later(minutes=1)
        await village.send(Transfer("wallet:ana", "wallet:ben", 10**6), "ana")
        last = await paid(village, 2)
        await archived(village)
        assert await refused(at[1] - 2) == 0
        assert await refused("2026-01-01T00:01:30Z") == 1
        assert await refused(at[1]) == 1
        assert await refused("2026-01-01T00:03:00Z") == 2
        assert await refused(last[2]) == 2
        now = await village.ask("analytics/rejections")
        assert await village.ask("analytics/rejections", as_of=last[2]) == now
        assert "etag" not in (await village.get("/queries/analytics/rejections", as_of=last[2])).headers

    run(test)


def test_in_a_zone_with_a_real_clock_now_is_no_future(run: Any, database: Database) -> None:
    async def test(village: Economy) -> None:
        with database.superuser() as connection:
            connection.execute("UPDATE heads SET clock = 'real'")
        await archived(village)
        assert await bens(village, f"{datetime.now(UTC) - timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}") == "200"
        later = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
        assert await village.refused("ledger/balance", "ben", as_of=later) == (422, "as-of-in-the-future")

    run(test)


def test_a_page_as_of_a_position_goes_on_while_the_log_grows(run: Any) -> None:
    async def test(village: Economy) -> None:
        at = await paid(village, 1, 2, 3, 4)
        amounts: list[str] = []
        after: dict[str, Any] = {}
        while True:
            await archived(village)
            page = (
                await village.get("/queries/ledger/statement", "ben", limit=2, as_of=at[4], **after)
            ).json()
            amounts += [item["amount"] for item in page["items"]]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
            await paid(village, 5)
        assert amounts == ["4", "3", "2", "1", "200"]
        garbled = await village.refused("ledger/statement", "ben", as_of=at[4], after="WyJ4Il0")
        assert garbled == (422, "invalid-cursor")

    run(test)


def test_an_answer_of_the_past_keeps_its_tag_for_ever(run: Any) -> None:
    async def test(village: Economy) -> None:
        at = await paid(village, 1)
        await archived(village)
        first = await village.get("/queries/ledger/balance", "ben", as_of=at[1])
        await paid(village, 2)
        await archived(village)
        tag = {"if-none-match": first.headers["etag"]}
        again = await village.get("/queries/ledger/balance", "ben", headers=tag, as_of=at[1])
        assert (again.status_code, again.content) == (304, b"")
        assert int(again.headers["fogbook-position"]) == at[1]
        live = await village.get("/queries/ledger/balance", "ben", headers=tag)
        other = await village.get("/queries/ledger/balance", "ben", headers=tag, as_of=at[1] + 2)
        whole = await village.get(
            "/queries/ledger/balance", "olga", headers=tag, as_of=at[1], account="wallet:ben"
        )
        assert [live.status_code, other.status_code, whole.status_code] == [200, 200, 200]
        assert len({first.headers["etag"], live.headers["etag"], other.headers["etag"]}) == 3

    run(test)


def test_who_sees_what_is_the_same_as_of_a_position(run: Any) -> None:
    async def test(village: Economy) -> None:
        at = await archived(village)
        foreign = await village.refused("ledger/balance", "ben", account="wallet:ana", as_of=at)
        assert foreign == (404, "not-found")
        assert await village.refused("ledger/trial-balance", "ben", as_of=at) == (403, "role-not-allowed")

    run(test)


# What cannot be answered


def test_moments_that_there_are_not_are_refused(run: Any) -> None:
    async def test(village: Economy) -> None:
        head = await archived(village)
        refused = {
            "as-of-in-the-future": (head + 1, 10**17, "2026-01-01T00:00:00.000001Z", "2500-01-01T00:00:00Z"),
            "as-of-before-the-start": (0, "position:0", "2025-12-31T23:59:59Z"),
            "invalid-parameter": (
                "",
                "x",
                "-1",
                "position:",
                "1.5",
                "position:1 ",
                "2026-01-01",
                "9" * 19,
                "1\x00",
            ),
        }
        for problem_name, values in refused.items():
            for value in values:
                for parameter in ("as_of", "diff"):
                    answer = await village.refused("ledger/assets", **{parameter: value})
                    assert answer == (422, problem_name), (parameter, value)
        first = await village.get("/queries/ledger/assets", as_of=head + 1)
        assert first.json()["position"] == head
        assert first.json()["facts"] == {"parameter": "as_of"}

    run(test)


def test_as_of_and_min_position_exclude_each_other(run: Any) -> None:
    async def test(village: Economy) -> None:
        at = await archived(village)
        for asked in ({"as_of": at}, {"diff": at}):
            answer = await village.refused("ledger/assets", min_position=0, **asked)
            assert answer == (422, "as-of-and-min-position")

    run(test)


def test_a_zone_that_is_not_there_has_no_past(run: Any) -> None:
    async def test(village: Economy) -> None:
        response = await village.get("/queries/ledger/assets", headers={"fogbook-zone": "nowhere"}, as_of=1)
        assert problem(response) == (404, "zone-not-found")

    run(test)


def test_attempts_of_the_past_are_not_known(run: Any) -> None:
    async def test(village: Economy) -> None:
        at = await archived(village)
        assert await village.refused("settlement/stuck-transfers", as_of=at) == (422, "as-of-not-possible")
        for timed in ("settlement/stuck-transfers", "analytics/rejections"):
            assert await village.refused(timed, diff=at) == (422, "diff-not-possible")

    run(test)


def test_an_archive_that_stays_behind_says_how_far_it_is(run: Any) -> None:
    async def test(village: Economy) -> None:
        reached = await archived(village)
        at = await paid(village, 1)
        await village.catch_up()
        response = await village.get("/queries/ledger/balance", "ben", as_of=at[1])
        assert problem(response) == (504, "archive-not-there-yet")
        assert response.json()["position"] == reached
        assert response.json()["facts"] == {"wanted": str(at[1]), "waited_s": "0.3"}
        assert await bens(village, reached) == "200"

    run(test, 0.3)


def test_an_archive_that_is_behind_is_waited_for(run: Any, database: Database) -> None:
    async def test(village: Economy) -> None:
        await archived(village)
        at = await paid(village, 1)
        await village.catch_up()
        waiting = asyncio.create_task(bens(village, at[1]))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(archive, database)
        assert await waiting == "201"

    run(test, 60.0)


def test_what_is_waited_for_is_found_however_far_the_log_goes_meanwhile(run: Any, database: Database) -> None:
    async def test(village: Economy) -> None:
        await archived(village)
        at = await paid(village, 1)
        await village.catch_up()
        waiting = asyncio.create_task(bens(village, at[1]))
        await asyncio.sleep(0.1)
        for number in range(20):
            await village.issue(OpenWallet(f"wallet:w{number}"), f"w{number}")
        await paid(village, 2)  # The version asked for ends, and lies at a node behind what was the head.
        await village.catch_up()
        await asyncio.to_thread(archive, database)
        assert await waiting == "201"

    run(test, 60.0)


def test_without_any_archive_nothing_of_the_past_is_answered(run: Any) -> None:
    async def test(village: Economy) -> None:
        at = await village.catch_up()
        response = await village.get("/queries/ledger/assets", as_of=at)
        assert problem(response) == (504, "archive-not-there-yet")
        assert response.json()["position"] == 0
        village.service.running().archive.kept = False
        for asked in ({"as_of": at}, {"diff": at}):
            assert await village.refused("ledger/assets", **asked) == (422, "archive-switched-off")
        assert (await village.get("/queries/ledger/assets")).status_code == 200

    run(test, 0.1)


def test_an_archive_that_is_swapped_meanwhile_is_not_there_yet(
    run: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(village: Economy) -> None:
        at = await archived(village)

        async def resolved(*args: Any) -> Any:
            moment = await resolve(*args)
            with database.superuser() as connection:
                connection.execute("UPDATE archives SET live = false")
            return moment

        monkeypatch.setattr(_as_of, "resolve", resolved)
        for asked in ({"as_of": at}, {"diff": at}):
            assert await village.refused("ledger/assets", **asked) == (504, "archive-not-there-yet")
            with database.superuser() as connection:
                connection.execute("UPDATE archives SET live = true")

    run(test, 0.1)


# Differences


def test_a_difference_names_each_row_that_is_not_the_same(run: Any) -> None:
    async def test(village: Economy) -> None:
        before = await archived(village)
        at = await paid(village, 7)
        await village.issue(OpenWallet("wallet:cy"), "cy")
        await village.issue(MintTokens("wallet:cy", 5, "start", "r"))
        head = await archived(village)

        async def differing(**params: Any) -> dict[str, tuple[Any, Any]]:
            response = await village.get("/queries/ledger/accounts", asset="FOG", **params)
            assert response.status_code == 200, response.text
            return {
                item["key"]["account"]: tuple(side and side["posted"] for side in (item["was"], item["is"]))
                for item in response.json()["items"]
                if item["key"]["account"] != "world"
            }

        assert await differing(diff=before, as_of=at[7]) == {
            "wallet:ana": ("1000", "993"),
            "wallet:ben": ("200", "207"),
        }
        whole = {"wallet:ana": ("1000", "993"), "wallet:ben": ("200", "207"), "wallet:cy": (None, "5")}
        assert await differing(diff=before) == whole
        assert await differing(diff=before, as_of=head) == whole
        assert await differing(diff=head, as_of=before) == {name: pair[::-1] for name, pair in whole.items()}
        assert await differing(diff=head) == {}
        assert await differing(diff="2026-01-01T00:00:30Z", as_of="2026-01-01T00:01:00Z") == whole

    run(test)


def test_differences_come_in_pages_and_have_a_tag(run: Any) -> None:
    async def test(village: Economy) -> None:
        before = await archived(village)
        for name in ("cy", "dee", "eve"):
            await village.issue(OpenWallet(f"wallet:{name}"), name)
            await village.issue(MintTokens(f"wallet:{name}", 5, "start", "r"))
        head = await archived(village)
        found: list[str] = []
        after: dict[str, Any] = {}
        while True:
            params = {"diff": before, "as_of": head, "limit": 2} | after
            response = await village.get("/queries/ledger/accounts", **params)
            page = response.json()
            assert page["position"] == head
            found += [item["key"]["account"] for item in page["items"]]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        assert found == ["wallet:cy", "wallet:dee", "wallet:eve", "world"]
        single = await village.get("/queries/ledger/accounts", as_of=head)
        assert response.headers["etag"] != single.headers["etag"]

    run(test)


def test_a_difference_of_one_thing_is_found_or_unknown(run: Any) -> None:
    async def test(village: Economy) -> None:
        before = await village.catch_up()
        answer = await village.issue(Transfer("wallet:ana", "wallet:ben", 1), "ana")
        head = await archived(village)
        response = await village.get(
            "/queries/ledger/transaction", diff=before, transaction=answer["command_id"]
        )
        items = response.json()["items"]
        assert [item["was"] for item in items] == [None, None]
        assert sorted(item["is"]["amount"] for item in items) == ["-1", "1"]
        unchanged = await village.get(
            "/queries/ledger/transaction", diff=head, transaction=answer["command_id"]
        )
        assert unchanged.json()["items"] == []
        unknown = await village.refused("ledger/transaction", diff=before, transaction="c999")
        assert unknown == (404, "not-found")

    run(test)


def test_rows_that_follow_from_a_rule_differ_where_the_rule_says_so(run: Any) -> None:
    async def test(village: Economy) -> None:
        size = Capabilities(4_000, 8_000, 100_000, 100_000)
        await village.issue(RegisterDevice("d1", "laptop", size, "north"), "ben")
        before = await archived(village)
        village.later(minutes=1)
        await village.issue(RegisterDevice("d2", "laptop", size, "north"), "ben")
        await village.issue(SuspendDevice("d1", "why"), "ben")
        head = await archived(village)
        for params in ({}, {"as_of": head}):
            response = await village.get("/queries/devices/devices", status="any", diff=before, **params)
            one, two = response.json()["items"]
            assert (one["key"], one["was"]["status"], one["is"]["status"]) == (
                {"device": "d1"},
                "active",
                "suspended",
            )
            assert (two["key"], two["was"], two["is"]["device"]) == ({"device": "d2"}, None, "d2")
        # Time goes on, and the SELECT gives the time; the rows that the rule makes of it are the same.
        village.later(minutes=1)
        await village.issue(OpenWallet("wallet:cy"), "cy")
        await archived(village)
        same = await village.get("/queries/devices/devices", status="any", diff=head)
        assert (same.status_code, same.json()["items"]) == (200, [])

    run(test)


# The text of a SELECT as of a position


def test_what_a_query_reads_is_read_as_of_then_under_its_name() -> None:
    sources = {
        "FROM read.ledger_assets": "ledger_assets",
        "FROM read.ledger_assets a WHERE": "a",
        "FROM read.ledger_assets AS a JOIN": "a",
        "FROM read.ledger_assets\nWHERE": "ledger_assets",
        "LEFT JOIN read.ledger_assets USING (x)": "ledger_assets",
        "FROM heads h": "h",
        "FROM heads CROSS JOIN": "heads",
        "JOIN commands ON": "commands",
        "FROM commands c WHERE": "c",
    }
    for text, name in sources.items():
        made = past_select(text)
        assert "read." not in made
        assert re.search(rf"\)(?: AS)? {name}\b", made), (text, made)


def test_no_query_reads_what_has_no_past_without_saying_so() -> None:
    """Every table that a SELECT names is one of its projection, or the log's, or makes it answer no question of the
    past; and it reads no clock."""
    for query in QUERIES.values():
        projection = all_projections()[query.projection]
        own = {table.name for table in projection.tables}
        # What operators ask of the machinery is about all projections, as they are now.
        if query.context != "operations":
            assert set(re.findall(r"\bread\.\w+", query.select)) <= own, query.path
        if has_a_past(query):
            made = past_select(query.select)
            assert "read." not in made, query.path
            assert not re.search(r"\b(checkpoints|quarantine|timer_fates|now\(\)|clock_timestamp)", made), (
                query.path
            )


def test_the_two_parameters_are_documented_for_every_query(run: Any) -> None:
    async def test(village: Economy) -> None:
        paths = village.app.openapi()["paths"]
        for path in QUERIES:
            named = {parameter["name"] for parameter in paths[path]["get"]["parameters"]}
            assert {"as_of", "diff"} <= named

    run(test)
