"""Lineage: causes that timers and reactions name, whole trees, and rows that the events of the log explain."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import psycopg
import pytest

from commands._codec import encode_json
from commands._signatures import public_key, zone_key
from commands.api import make_app
from domain.devices import RegisterDevice
from domain.harvest import EnrolHarvester
from domain.ledger import BurnTokens, MintTokens, OpenWallet, PlaceHold, ReleaseHold, Transfer
from domain.marketplace.contracts import MeterUsage, OpenContract, ReportServiceLevel, StartService
from domain.marketplace.offerings import RegisterOffering
from domain.platform import AdvanceClock
from domain.settlement.transfers import InitiateTransfer, RegisterPeer
from domain.settlement.windows import CloseWindow, OpenWindow
from domain.staking import BeginUnbonding, Delegate, RegisterValidator
from projections._engine import all_projections
from projections._tables import from_sql
from queries import _tree
from queries._effects import shown
from tests.acceptance.api import environment
from tests.conftest import PEPPER, Database
from tests.economy import Economy as Story
from tests.economy import act, found
from tests.integration.test_queries_harvest import OWNERS, PHONE, contribute, judge, start
from tests.integration.test_queries_marketplace import HOUR_MS, SIZE
from tests.support import Economy, economy, problem
from workers.archive import Archive
from workers.timers import Timers

Scene = Callable[["World"], Awaitable[None]]


class Bridge:
    """The HTTP client of a worker's thread, to an application in the test's own loop."""

    def __init__(self, http: httpx.AsyncClient, key: str) -> None:
        self._http, self._loop = http, asyncio.get_running_loop()
        self.headers = {"authorization": f"Bearer {key}", "content-type": "application/x-ndjson"}

    def post(self, path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
        posting = self._http.post(path, content=content, headers=self.headers | headers)
        return asyncio.run_coroutine_threadsafe(posting, self._loop).result(30)

    def close(self) -> None:
        pass


@dataclass
class World:
    """A zone, the commands' application over it, and the workers."""

    village: Economy
    http: httpx.AsyncClient
    timers: Timers

    async def work(self) -> None:
        """Let projections, timers and the archive come to rest, at the zone's time."""
        await self.village.issue(AdvanceClock())
        number = -1
        while number != (number := self._numbers()):
            await self.village.catch_up()
            await asyncio.to_thread(self.timers.turn)
        await asyncio.to_thread(self._archive)

    def _numbers(self) -> int:
        """How many commands there were in all zones."""
        with self.village.database.connect() as connection:
            row = connection.execute("SELECT sum(number) FROM heads").fetchone()
        assert row is not None
        return int(row[0])

    def _archive(self) -> None:
        worker = Archive(self.village.database.connect, threading.Event())
        while worker.turn():
            pass
        worker.close()

    async def tree(self, id: str, **params: Any) -> Any:
        return await self.ask(f"correlations/{id}", **params)

    async def ask(self, path: str, **params: Any) -> Any:
        response = await self.village.get(f"/history/{path}", **params)
        assert response.status_code == 200, response.text
        return response.json()

    async def refused(self, path: str, **params: Any) -> tuple[int, str]:
        return problem(await self.village.get(f"/history/{path}", **params))

    async def post(self, *lines: dict[str, Any], who: str = "worker", **headers: str) -> list[Any]:
        """Commands as lines; returns each one's status, and the problem's name or the answer."""
        sent = {
            "authorization": f"Bearer {self.village.key(who)}",
            "content-type": "application/x-ndjson",
            "fogbook-zone": self.village.zone,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        content = b"\n".join(map(encode_json, lines))
        response = await self.http.post("/commands", content=content, headers=sent)
        assert response.status_code == 200, response.text
        answers = [msgspec.json.decode(line) for line in response.content.splitlines()]
        return [
            (each["status"], each["body"] if each["status"] == 200 else each["body"]["type"][10:])
            for each in answers
        ]


@asynccontextmanager
async def world(database: Database) -> AsyncIterator[World]:
    app = make_app()
    async with economy(database) as village, app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://fogbook") as http:
            timers = Timers(database.connect, "http://fogbook", "", PEPPER.encode(), threading.Event())
            timers._http = Bridge(http, village.key("worker"))  # type: ignore[assignment]
            yield World(village, http, timers)
            timers._close()


@pytest.fixture
def run(database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scene], None]:
    """Run a test in a zone where Ana, Ben, Vera and Cleo have a million each."""
    environment(monkeypatch, database, redis_url)

    def runner(scene: Scene) -> None:
        async def whole() -> None:
            async with world(database) as made:
                for name in ("ana", "ben", "vera", "cleo"):
                    await made.village.issue(OpenWallet(f"wallet:{name}"), name)
                    await made.village.issue(MintTokens(f"wallet:{name}", 10**6, "start", name))
                await scene(made)

        asyncio.run(whole())

    return runner


def picked(nodes: list[Any], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(node[name] for name in names) for node in nodes]


# Trees


async def unbonds(w: World) -> Any:
    await w.village.issue(RegisterValidator("v1", 1000), "vera")
    await w.village.issue(Delegate("v1", 500), "ana")
    return await w.village.issue(BeginUnbonding("v1", 200), "ana")


def test_what_a_timer_does_names_the_command_that_set_it(run: Any) -> None:
    async def scene(w: World) -> None:
        began = await unbonds(w)
        id = began["command_id"]
        await w.work()
        tree = await w.tree(id)
        assert picked(tree["nodes"], "command_id", "children") == [(id, [])]
        (due,) = tree["due"]
        assert (due["command"], due["caused_by"], due["attempts"]) == ("staking/complete-unbonding", id, 0)
        w.village.later(days=22)
        await w.work()
        tree = await w.tree(id)
        first, second = tree["nodes"]
        assert (tree["correlation"], tree["root"], tree["elsewhere"]) == (id, id, f"main/{id}")
        assert tree["due"] == [] and tree["next"] is None and tree["more"] is False
        assert (first["name"], first["by"], first["caused_by"]) == ("staking/begin-unbonding", "ana", None)
        assert first["positions"] == [event["position"] for event in began["events"]]
        assert first["children"] == [second["command_id"]]
        assert (second["name"], second["by"]) == ("staking/complete-unbonding", "worker")
        assert (second["caused_by"], second["status"], second["children"]) == (id, 200, [])
        assert second["timer"] == {"id": due["timer"], "attempt": 1}
        # Any command of a tree leads to it.
        assert await w.tree(second["command_id"]) == tree

    run(scene)


def test_an_event_tells_its_cause_and_its_effects(run: Any) -> None:
    async def scene(w: World) -> None:
        began = await unbonds(w)
        w.village.later(days=22)
        await w.work()
        (done,) = (await w.tree(began["command_id"]))["nodes"][1:]
        position = done["positions"][-1]
        event = await w.ask(f"events/{position}")
        cause = event["cause"]
        assert cause["command"]["command_id"] == done["command_id"]
        assert (cause["principal"], cause["role"], cause["key"]) == (
            "worker",
            "worker",
            f"timer:{done['timer']['id']}:1",
        )
        assert cause["timer"] == done["timer"] and cause["proof"] is None
        assert cause["causation"] == cause["correlation"] == began["command_id"]
        assert (cause["caused_by"]["command_id"], cause["caused_by"]["by"]) == (began["command_id"], "ana")
        assert cause["before_in_command"]["position"] == position - 1
        assert cause["before_in_command"]["command"] == done["command_id"]
        before = cause["before_in_stream"]
        assert before["stream"] == event["stream"] and before["version"] == event["version"] - 1
        effects = (await w.ask(f"events/{began['position']}"))["effects"]
        assert picked(effects["followed_by"], "command_id", "positions") == [
            (done["command_id"], done["positions"])
        ]
        assert effects["more"] is False and effects["searched_up_to"] >= position
        first = await w.ask("events/3")
        assert first["cause"]["caused_by"] is None and first["cause"]["before_in_command"] is None
        assert first["cause"]["before_in_stream"] is None and first["cause"]["timer"] is None

    run(scene)


def test_refused_attempts_of_a_reaction_belong_to_the_tree(run: Any) -> None:
    async def scene(w: World) -> None:
        for device, owner in OWNERS.items():
            await w.village.issue(RegisterDevice(device, "phone", PHONE, "eu"), owner)
        for device in ("d1", "d2"):
            await w.village.issue(EnrolHarvester(device, PHONE), OWNERS[device])
        await start(w.village)
        w.village.later(hours=1)
        await contribute(w.village)
        await judge(w.village)
        await w.work()
        with w.village.database.connect() as connection:
            row = connection.execute(
                "SELECT number FROM commands WHERE convert_from(request, 'UTF8') LIKE '%validate-contr%'"
            ).fetchone()
        assert row is not None
        id = f"c{row[0]}"
        reward = "harvest/approve-reward"
        tree = await w.tree(id)
        assert sorted(picked(tree["nodes"], "name", "status", "caused_by"), key=str) == [
            ("devices/record-reputation", 200, id),
            (reward, 409, id),
            ("harvest/validate-contribution", 200, None),
        ]
        (refused,) = [node for node in tree["nodes"] if node["status"] == 409]
        assert refused["problem"] and refused["positions"] == []
        assert await w.tree(refused["command_id"]) == tree
        (due,) = tree["due"]
        assert (due["attempts"], due["command"], due["problem"]) == (1, reward, refused["problem"])
        await w.village.issue(MintTokens("pool:rewards", 10**12, "budget", "r"))
        w.village.later(seconds=2)
        await w.work()
        tree = await w.tree(id)
        rewards = [node for node in tree["nodes"] if node["name"] == reward]
        assert picked(rewards, "status", "caused_by") == [(409, id), (200, id)]
        assert [node["timer"]["attempt"] for node in rewards] == [1, 2] and tree["due"] == []
        assert len(tree["nodes"][0]["children"]) == 3
        # Once the timer is settled, the accepted attempt tells of the refused one.
        assert await w.tree(refused["command_id"]) == tree

    run(scene)


async def rents(w: World) -> str:
    """Ana rents from Vera for two hours, and owes instead of paying; returns the command that started it."""
    await w.village.issue(OpenWindow("w1"))
    await w.village.issue(RegisterDevice("d1", "server", SIZE, "north"), "vera")
    await w.village.issue(
        RegisterOffering("o1", "d1", "render", "silver", 500, 1000, 0, 10, 1000, "pay_as_you_go"), "vera"
    )
    opened = OpenContract("k1", "o1", 2, 120, any_price=True, settlement="netted")
    await w.village.issue(opened, "ana")
    started = await w.village.issue(StartService("k1"), "vera")
    for window in range(4):
        w.village.later(minutes=15)
        report = ReportServiceLevel("k1", window, 1_200, 9_900, 100)
        await w.village.issue(report, "worker")
    await w.village.issue(MeterUsage("k1", 1, 2 * HOUR_MS), "vera")
    w.village.later(minutes=11)
    return str(started["command_id"])


def test_a_contract_is_one_tree_down_to_what_is_owed(run: Any) -> None:
    async def scene(w: World) -> None:
        id = await rents(w)
        await w.work()
        tree = await w.tree(id)
        by_name: dict[str, list[Any]] = {}
        for node in tree["nodes"]:
            by_name.setdefault(node["name"], []).append(node)
        (settled,) = by_name["marketplace/settle-period"]
        assert settled["caused_by"] == id
        owed, fee = by_name["settlement/record-obligation"]
        (trusted,) = by_name["devices/record-reputation"]
        assert {owed["caused_by"], fee["caused_by"], trusted["caused_by"]} == {settled["command_id"]}
        assert settled["children"] == sorted(
            (node["command_id"] for node in (owed, fee, trusted)), key=lambda each: int(each[1:])
        )
        assert len(tree["nodes"]) == 5
        (due,) = tree["due"]
        assert (due["command"], due["caused_by"]) == ("marketplace/settle-period", settled["command_id"])
        closed = await w.village.issue(CloseWindow("w1"))
        await w.work()
        chain = (await w.tree(closed["command_id"]))["nodes"]
        assert picked(chain, "name", "caused_by") == [
            ("settlement/close-window", None),
            ("settlement/reserve-positions", chain[0]["command_id"]),
            ("settlement/finalise-settlement", chain[1]["command_id"]),
        ]

    run(scene)


def test_a_tree_comes_in_pages(run: Any) -> None:
    async def scene(w: World) -> None:
        id = await rents(w)
        await w.work()
        whole = (await w.tree(id))["nodes"]
        seen, after = [], 0
        while after is not None:
            page = await w.tree(id, limit=2, after=after)
            assert len(page["nodes"]) <= 2 and page["commands"] == len(whole)
            seen += page["nodes"]
            after = page["next"]
        assert seen == whole

    run(scene)


def test_a_tree_that_is_too_large_says_so(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(w: World) -> None:
        pay = Transfer("wallet:ana", "wallet:ben", 1)
        for _ in range(5):
            await w.village.issue(pay, "ana", correlation="order/7")
        await w.village.catch_up()
        assert (await w.tree("order/7"))["more"] is False
        monkeypatch.setattr(_tree, "MOST_OF_TREE", 4)
        tree = await w.tree("order/7")
        assert (len(tree["nodes"]), tree["commands"], tree["more"]) == (4, 4, True)

    run(scene)


def test_what_callers_tie_together_is_a_tree_too(run: Any) -> None:
    async def scene(w: World) -> None:
        pay = Transfer("wallet:ana", "wallet:ben", 1)
        first = await w.village.issue(pay, "ana", correlation="order/7")
        second = await w.village.issue(pay, "ana", correlation="order/7", causation=first["command_id"])
        other = await w.village.issue(pay, "ana", causation=second["command_id"])
        await w.village.issue(pay, "ana", correlation="order/8")
        await w.village.catch_up()
        tree = await w.tree("order/7")
        ids = [each["command_id"] for each in (first, second, other)]
        assert picked(tree["nodes"], "command_id", "caused_by") == list(
            zip(ids, [None, *ids[:2]], strict=True)
        )
        assert (tree["root"], tree["elsewhere"]) == (None, "order/7")
        for id in ids:
            assert (await w.tree(id))["nodes"] == tree["nodes"]

    run(scene)


def test_a_long_chain_of_causes_is_climbed_in_few_questions_and_not_without_end(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(w: World) -> None:
        pay = Transfer("wallet:ana", "wallet:ben", 1)
        ids = [(await w.village.issue(pay, "ana", correlation="order/7"))["command_id"]]
        for _ in range(30):
            ids.append((await w.village.issue(pay, "ana", causation=ids[-1]))["command_id"])
        await w.village.catch_up()
        asked: list[str] = []
        rows = _tree.Commands._rows

        async def count(self: Any, sql: str, **values: Any) -> list[Any]:
            asked.append(sql)
            return await rows(self, sql, **values)

        monkeypatch.setattr(_tree.Commands, "_rows", count)
        assert (await w.tree(ids[0]))["elsewhere"] == "order/7"
        short = len(asked)
        asked.clear()
        assert (await w.tree(ids[-1]))["elsewhere"] == "order/7"
        assert len(asked) == short
        monkeypatch.setattr(_tree, "MOST_CLIMBED", 31)
        assert (await w.tree(ids[-1]))["elsewhere"] == "order/7"
        monkeypatch.setattr(_tree, "MOST_CLIMBED", 30)
        assert await w.refused(f"correlations/{ids[-1]}") == (422, "lineage-too-deep")

    run(scene)


def test_another_zone_tells_of_its_own_part(run: Any, database: Database) -> None:
    async def scene(w: World) -> None:
        async with economy(database, "south") as south:
            for here, there in ((w.village, "south"), (south, "main")):
                await here.issue(RegisterPeer(there, public_key(zone_key(PEPPER.encode(), there))))
            await south.issue(OpenWallet("wallet:vic"), "vic")
            until = w.village.now + timedelta(days=1)
            sent = await w.village.issue(InitiateTransfer("south", "wallet:vic", 10, until), "ana")
            id = sent["command_id"]
            for _ in range(4):
                await w.work()
                await south.catch_up()
            began, acknowledged = (await w.tree(id))["nodes"]
            assert (began["command_id"], began["children"]) == (id, [])
            (received,) = (await World(south, w.http, w.timers).tree(f"main/{id}"))["nodes"]
            assert received["caused_by"] == f"main/{id}"
            assert received["timer"]["zone"] == "main" and received["timer"]["id"].startswith("transfer:")
            assert acknowledged["caused_by"] == f"south/{received['command_id']}"
            told = (await w.ask(f"events/{acknowledged['positions'][0]}"))["cause"]
            assert told["correlation"] == id and len(told["proof"]) == 128
            assert told["caused_by"] == {"named": f"south/{received['command_id']}"}

    run(scene)


# What timers send


def test_a_worker_that_dies_before_it_notes_the_answer_sends_the_same_again(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(w: World) -> None:
        began = await unbonds(w)
        w.village.later(days=22)
        await w.village.issue(AdvanceClock())
        await w.village.catch_up()

        def dies(zone: str, fates: Any) -> None:
            raise psycopg.OperationalError("the worker died")

        with monkeypatch.context() as patched:
            patched.setattr(w.timers, "_record", dies)
            with pytest.raises(psycopg.OperationalError):
                await asyncio.to_thread(w.timers.turn)
        number = w._numbers()
        before = w.village.timers()
        assert before, "the projection has not seen the event yet, so the timer is still due"
        await asyncio.to_thread(w.timers.turn)
        assert w._numbers() == number
        await w.work()
        tree = await w.tree(began["command_id"])
        assert picked(tree["nodes"][1:], "caused_by", "status") == [(began["command_id"], 200)]
        seen = w.village.digests()
        w.village.rebuild()
        assert w.village.digests() == seen
        assert await w.tree(began["command_id"]) == tree

    run(scene)


def line(key: str, **more: Any) -> dict[str, Any]:
    body = {"to": "wallet:ana", "amount": "1", "reason": "r", "reference": key}
    return {"context": "ledger", "command": "mint-tokens", "key": key, "body": body, **more}


async def said(w: World, position: int) -> tuple[str, str]:
    cause = (await w.ask(f"events/{position}"))["cause"]
    return cause["correlation"], cause["causation"]


def test_a_line_names_what_it_follows_from(run: Any) -> None:
    async def scene(w: World) -> None:
        lines = (line("a", causation="c2", correlation="c1"), line("b", causation="c3"), line("c"))
        answers = await w.post(*lines, who="admin", fogbook_correlation="order/7")
        assert [status for status, _ in answers] == [200, 200, 200]
        a, b, c = [answer for _, answer in answers]
        assert await said(w, a["position"]) == ("c1", "c2")
        assert await said(w, b["position"]) == ("order/7", "c3")
        assert await said(w, c["position"]) == ("order/7", c["command_id"])
        # What a command is bound to by its key does not hold its cause: the first one stands.
        again = await w.post(line("a", causation="c4"), who="admin")
        assert again == [(200, a)]

    run(scene)


def test_a_wrong_cause_is_a_problem_of_its_line_only(run: Any) -> None:
    async def scene(w: World) -> None:
        answers = await w.post(
            line("a", causation="c 1"),
            line("b", correlation=7),
            line("c", causation="c999999"),
            line("d", correlation="c999999"),
            line("e", cause="c1"),
            line("f", causation=""),
            line("g", causation="x" * 101),
            line("ok", causation="c1"),
            who="admin",
        )
        assert [(status, what) for status, what in answers[:-1]] == [
            (400, "malformed-correlation"),
            (400, "malformed-correlation"),
            (422, "unknown-cause"),
            (422, "unknown-cause"),
            (400, "malformed-line"),
            (400, "malformed-correlation"),
            (400, "malformed-correlation"),
        ]
        status, taken = answers[-1]
        assert status == 200
        # A command that is not there yet was not recorded, so that the key is free.
        ((status, _),) = await w.post(line("c", causation=taken["command_id"]), who="admin")
        assert status == 200

    run(scene)


def test_keys_of_timers_are_theirs_alone(run: Any) -> None:
    async def scene(w: World) -> None:
        pay = {"from": "wallet:ana", "to": "wallet:ben", "amount": "1"}
        sent = {"context": "ledger", "command": "transfer", "key": "timer:hold:h1:1", "body": pay}
        assert await w.post(sent, who="ana") == [(403, "key-reserved")]
        headers = {
            "authorization": f"Bearer {w.village.key('ana')}",
            "idempotency-key": "timer:x:1",
        }
        response = await w.http.post("/commands/ledger/transfer", headers=headers, json=pay)
        assert problem(response) == (403, "key-reserved")
        ((status, _),) = await w.post(line("timer:by-hand:1"), who="admin")
        assert status == 200

    run(scene)


# Rows


async def balance(w: World, name: str, **params: Any) -> Any:
    return await w.ask("rows/ledger_balances", key=[f"wallet:{name}", "FOG"], **params)


def test_a_balance_is_the_sum_of_its_changes(run: Any) -> None:
    async def scene(w: World) -> None:
        rng = random.Random(1)
        for _ in range(30):
            source, target = rng.sample(("ana", "ben", "vera"), 2)
            pay = Transfer(f"wallet:{source}", f"wallet:{target}", rng.randint(1, 99))
            await w.village.issue(pay, source)
        hold = PlaceHold("h1", "wallet:ana", "ben", 7, w.village.now + timedelta(days=1))
        await w.village.issue(hold, "ana")
        freed = await w.village.issue(ReleaseHold("h1"), "ben")
        await w.work()
        (line,) = [
            each for each in (await w.ask("trial-balance"))["accounts"] if each["account"] == "wallet:ana"
        ]
        versions, after = [], 0
        while after is not None:
            page = await balance(w, "ana", limit=4, after=after)
            versions += page["versions"]
            after = page["next"]
        assert [v["since"] for v in versions] == sorted((v["since"] for v in versions), reverse=True)
        steps = [v["changes"].get("posted", {"was": "0", "is": "0"}) for v in versions]
        assert sum(int(step["is"]) - int(step["was"] or 0) for step in steps) == int(line["posted"])
        whole = await balance(w, "ana", limit=500)
        assert whole["versions"] == versions and whole["next"] is None
        assert whole["fields"]["posted"]["value"] == line["posted"]
        assert versions[-1]["created"] and not any(v["created"] for v in versions[:-1])
        for version in versions:
            event = await w.ask(f"events/{version['event']['position']}")
            assert event["meta"]["command"] == version["event"]["command"]
            assert version["since"] in event["cause"]["command"]["positions"]
        # The hold is what made `held` what it is, transfers made the balance.
        held = whole["fields"]["held"]
        assert held["event"]["command"] == freed["command_id"]

    run(scene)


def test_a_row_is_told_as_of_any_moment(run: Any) -> None:
    async def scene(w: World) -> None:
        paid = [await w.village.issue(Transfer("wallet:ana", "wallet:ben", i), "ana") for i in range(1, 20)]
        await w.work()
        expected = 10**6
        for i, answer in enumerate(paid, 1):
            expected -= i
            then = await balance(w, "ana", at=f"position:{answer['position']}", limit=2)
            assert then["position"] == answer["position"]
            assert then["fields"]["posted"]["value"] == str(expected)
            # The first event of a transfer takes, the second one gives.
            assert then["fields"]["posted"]["event"]["position"] == answer["position"] - 1
            assert then["fields"]["asset"]["event"]["position"] < paid[0]["position"]
            assert then["versions"][0]["since"] == answer["position"]
            assert then["versions"][0]["changes"] == {
                "posted": {"was": str(expected + i), "is": str(expected)}
            }
            within = await balance(w, "ana", at=str(answer["position"] - 1), limit=1)
            assert within["position"] < answer["position"]
            assert within["fields"]["posted"]["value"] == str(expected + i)

    run(scene)


def test_a_row_that_is_gone_says_what_took_it_away(run: Any) -> None:
    async def scene(w: World) -> None:
        began = await unbonds(w)
        await w.work()
        (due,) = (await w.tree(began["command_id"]))["due"]
        w.village.later(days=22)
        await w.work()
        (done,) = (await w.tree(began["command_id"]))["nodes"][1:]
        gone = await w.ask("rows/timers", key=due["timer"])
        (version,) = gone["versions"]
        assert gone["fields"] is None and version["deleted"] is True
        assert (version["since"], version["until"]) == (began["position"], done["positions"][-1])
        before = await w.ask("rows/timers", key=due["timer"], at=str(began["position"]))
        assert before["fields"]["causation"]["value"] == began["command_id"]
        assert before["versions"][0]["deleted"] is False
        assert await w.refused("rows/timers", key=due["timer"], at="2") == (404, "row-not-found")
        event = await w.ask(f"events/{done['positions'][-1]}")
        rows = [row for model in event["effects"]["read_models"] for row in model["rows"]]
        taken = [
            row
            for position in done["positions"]
            for model in (await w.ask(f"events/{position}"))["effects"]["read_models"]
            for row in model["rows"]
            if row["table"] == "timers"
        ]
        assert rows and [(row["key"], row["deleted"], row["row"]) for row in taken] == [
            ([due["timer"]], True, None)
        ]

    run(scene)


class Teller(Story):
    """Keeps what people tried in a story."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    def issue(self, command: Any, by: str = "operator", role: str | None = None) -> Any:
        role = role or ("operator" if by == "operator" else "participant")
        self.told.append((self.book.now, command, by, role))
        return super().issue(command, by, role)


def test_what_events_changed_adds_up_to_the_read_models(run: Any) -> None:
    """Each event says what it changed and what was there before; following all of them gives every row."""

    async def scene(w: World) -> None:
        story, rng = found(Teller), random.Random(5)
        for _ in range(25):
            act(story, rng)
        for at, command, by, role in story.told[1:]:
            w.village.now = max(at, w.village.now)
            await w.village.send(command, by, role)
        await w.work()
        rows: dict[tuple[str, str], Any] = {}
        made: dict[tuple[str, str], dict[str, int]] = {}
        exact = 0
        head = (await w.ask("trial-balance"))["position"]
        for position in range(1, head + 1):
            for model in (await w.ask(f"events/{position}"))["effects"]["read_models"]:
                assert model["rows_as_of"] == "event"
                for row in model["rows"]:
                    key = row["table"], encode_json(row["key"]).decode()
                    before = rows.get(key)
                    assert row["created"] == (before is None)
                    for name, change in row["changes"].items():
                        assert change["was"] == (before[name] if before else None)
                        if row["row"] is not None:
                            assert change["is"] == row["row"][name]
                    if row["row"] is None:
                        del rows[key], made[key]
                    else:
                        rows[key] = row["row"]
                        made.setdefault(key, {}).update(dict.fromkeys(row["changes"], position))
                    exact += 1
        assert exact > 500
        assert rows == live_rows(w.village)
        # A row's own history tells the same of each field.
        for place in rng.sample(sorted(rows), 60):
            parts = msgspec.json.decode(place[1])
            told = (await w.ask(f"rows/{place[0]}", key=parts, limit=1))["fields"]
            assert {name: each["value"] for name, each in told.items()} == rows[place]
            assert {name: each["event"]["position"] for name, each in told.items()} == made[place]

    run(scene)


def live_rows(village: Economy) -> dict[tuple[str, str], Any]:
    rows: dict[tuple[str, str], Any] = {}
    with village.database.connect() as connection:
        for projection in all_projections().values():
            for table in projection.tables:
                columns = ", ".join(f'r."{c.name}"' for c in table.columns)
                for values in connection.execute(
                    f"SELECT {columns} FROM {table.name} r JOIN checkpoints c USING (zone, generation)"
                    " WHERE zone = 'main' AND c.projection = %s AND c.live",
                    (projection.name,),
                ):
                    named = {
                        c.name: shown(c.sql_type, from_sql(value))
                        for c, value in zip(table.columns, values, strict=True)
                    }
                    key = encode_json([named[name] for name in table.key]).decode()
                    rows[table.name.removeprefix("read."), key] = named
    return rows


# Bad input


def test_what_is_asked_wrongly_is_a_clear_problem(run: Any) -> None:
    async def scene(w: World) -> None:
        of_ana = {"key": ["wallet:ana", "FOG"]}
        assert await w.refused("correlations/c1") == (503, "projection-not-ready")
        assert await w.refused("rows/ledger_balances", **of_ana) == (503, "archive-not-ready")
        await w.work()
        head = w.village.sequencer.head.position
        assert await w.refused("correlations/c9999") == (404, "command-not-found")
        assert await w.refused("correlations/order/7") == (404, "correlation-not-found")
        assert await w.refused("correlations/a%20b") == (404, "correlation-not-found")
        assert await w.refused("correlations/c1", limit="x") == (422, "invalid-parameter")
        assert await w.refused("correlations/c1", at="1") == (422, "unknown-parameter")
        assert await w.refused("rows/nothing", **of_ana) == (404, "table-not-found")
        assert await w.refused("rows/ledger_balances", key="wallet:ana") == (422, "wrong-key")
        assert await w.refused("rows/ledger_balances") == (422, "wrong-key")
        assert await w.refused("rows/ledger_balances", key=["a", "b", "c"]) == (422, "wrong-key")
        assert await w.refused("rows/ledger_balances", key=["a\0", "b"]) == (422, "wrong-key")
        assert await w.refused("rows/ledger_statement", key=["wallet:ana", "x"]) == (422, "wrong-key")
        assert await w.refused("rows/ledger_statement", key=["wallet:ana", "9" * 30]) == (422, "wrong-key")
        assert await w.refused("rows/ledger_statement", key=["wallet:ana", "-5"]) == (404, "row-not-found")
        assert await w.refused("rows/ledger_days", key=["FOG", "noon"]) in (
            (404, "row-not-found"),
            (422, "wrong-key"),
        )
        assert await w.refused("rows/ledger_balances", key=["wallet:zoe", "FOG"]) == (404, "row-not-found")
        assert await w.refused("rows/ledger_balances", **of_ana, at=f"position:{head + 1}") == (
            422,
            "out-of-range",
        )
        assert await w.refused("rows/ledger_balances", **of_ana, at="noon") == (422, "invalid-parameter")
        assert await w.refused("rows/ledger_balances", **of_ana, at="2") == (404, "row-not-found")
        assert await w.refused("rows/ledger_balances", **of_ana, limit="501") == (422, "invalid-parameter")
        assert await w.refused("rows/ledger_balances", **of_ana, x="1") == (422, "unknown-parameter")
        assert await w.refused("rows/ledger_balances", **of_ana, at=["1", "2"]) == (422, "repeated-parameter")
        burnt = await w.village.issue(BurnTokens("wallet:ana", 1, "old"), "ana")
        assert await w.refused("rows/ledger_balances", **of_ana, at=str(burnt["position"])) == (
            503,
            "archive-not-ready",
        )
        nowhere = {"fogbook-zone": "nowhere"}
        for path in ("correlations/c1", "rows/ledger_balances?key=wallet:ana&key=FOG"):
            response = await w.village.get(f"/history/{path}", headers=nowhere)
            assert problem(response) == (404, "zone-not-found")
        for path in ("correlations/c1", "rows/ledger_balances", "events/1"):
            assert problem(await w.village.get(f"/history/{path}", "ana")) == (403, "role-not-allowed")

    run(scene)
