"""History: the log as it is stored, any stream at any moment, causes and effects, and the sums of all postings."""

from __future__ import annotations

import asyncio
import base64
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest

from commands._codec import event_leaf, microseconds, zone_prefix
from domain.ledger import (
    BurnTokens,
    CaptureHold,
    MintTokens,
    OpenWallet,
    PlaceHold,
    ReverseTransaction,
    Transfer,
)
from domain.platform import AdvanceClock
from queries import _past, history
from tests.conftest import Database
from tests.scenario import START
from tests.support import Economy, economy, problem

Scene = Callable[[Economy], Awaitable[None]]


@pytest.fixture
def run(database: Database) -> Callable[[Scene], None]:
    """Run a test in a zone whose log holds, command by command:

    1-2 the zone; 3 Ana's wallet; 4 Ben's wallet; 5-7 a mint of 1000 for Ana.
    """

    def runner(scene: Scene) -> None:
        async def whole() -> None:
            async with economy(database) as village:
                await village.issue(OpenWallet("wallet:ana"), "ana")
                await village.issue(OpenWallet("wallet:ben"), "ben")
                village.later(hours=1)
                await village.issue(MintTokens("wallet:ana", 1000, "start", "grant"))
                await scene(village)

        asyncio.run(whole())

    return runner


def lines(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [msgspec.json.decode(line) for line in response.content.splitlines()]


async def ask(village: Economy, path: str, **params: Any) -> Any:
    response = await village.get(f"/history/{path}", **params)
    assert response.status_code == 200, response.text
    return response.json()


async def refused(village: Economy, path: str, who: str = "olga", **params: Any) -> tuple[int, str]:
    return problem(await village.get(f"/history/{path}", who, **params))


def add_foreign_event(village: Economy, data: bytes, meta: bytes = b"") -> int:
    """What an application of the eventsourcing library would append."""
    with village.database.superuser() as connection:
        row = connection.execute(
            "UPDATE heads SET position = position + 1 WHERE zone = %s RETURNING position", (village.zone,)
        ).fetchone()
        assert row is not None
        connection.execute(
            "INSERT INTO events VALUES (%s, %s, 'dog:1', %s, 'Dog.Named', %s, %s, %s, %s)",
            (village.zone, row[0], row[0], data, meta, village.now, bytes(32)),
        )
        return int(row[0])


# Events


def test_the_log_comes_line_by_line_with_bytes_that_hash_to_its_leaves(run: Any) -> None:
    async def scene(village: Economy) -> None:
        response = await village.get("/history/events")
        events = lines(response)
        assert [event["position"] for event in events] == list(range(1, 8))
        assert response.headers["fogbook-position"] == "7" and "fogbook-next" not in response.headers
        assert [event["type"] for event in events[4:]] == ["TokensMinted", "Debited", "Credited"]
        assert events[6]["data"]["amount"] == "1000" and events[6]["meta"]["by"] == "admin"
        assert events[6]["recorded_at"] == "2026-01-01T01:00:00.000000Z"
        raw = response.content.splitlines()
        for event, line in zip(events, raw, strict=True):
            parts = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
            leaf = event_leaf(
                zone_prefix("main"),
                event["position"],
                event["stream"],
                event["version"],
                event["type"],
                microseconds(datetime.fromisoformat(event["recorded_at"])),
                bytes(parts["meta"]),
                bytes(parts["data"]),
            )
            assert leaf.hex() == event["leaf"]

    run(scene)


def test_the_log_is_paged_and_filtered(run: Any) -> None:
    async def scene(village: Economy) -> None:
        for _ in range(5):
            await village.issue(Transfer("wallet:ana", "wallet:ben", 1), "ana")
        seen = []
        after = "0"
        while True:
            page = await village.get("/history/events", after=after, limit=4)
            seen += [event["position"] for event in lines(page)]
            if "fogbook-next" not in page.headers:
                break
            after = page.headers["fogbook-next"]
        assert seen == list(range(1, 18))
        credits = lines(await village.get("/history/events", type="Credited", after=7))
        assert [event["position"] for event in credits] == [9, 11, 13, 15, 17]
        of_ben = await village.get("/history/events", stream="wallet:ben", after=9, limit=2)
        assert [event["version"] for event in lines(of_ben)] == [3, 4]
        assert of_ben.headers["fogbook-next"] == "13"
        both = await village.get("/history/events", stream="wallet:ana", type="Credited")
        assert [event["position"] for event in lines(both)] == [7]
        assert lines(await village.get("/history/events", after=17)) == []
        assert lines(await village.get("/history/events", stream="wallet:nobody")) == []

    run(scene)


def test_a_page_ends_at_its_bytes_and_says_where_to_go_on(run: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(_past, "MOST_BYTES", 1)
    monkeypatch.setattr(_past, "PAGE", 2)
    monkeypatch.setattr(_past, "WINDOW", 3)

    async def scene(village: Economy) -> None:
        page = await village.get("/history/events")
        assert [event["position"] for event in lines(page)] == [1, 2]
        assert page.headers["fogbook-next"] == "2"
        rest = await village.get("/history/events", after=2, type="Credited")
        assert [event["position"] for event in lines(rest)] == [7]

    run(scene)


def test_events_of_other_applications_are_shown_as_they_are(run: Any) -> None:
    async def scene(village: Economy) -> None:
        binary = add_foreign_event(village, b"\x80\x04not json\xff")
        loose = add_foreign_event(village, b'{\n"name": "Rex"}', b'{"i": "?"}')
        plain = add_foreign_event(village, b'{"name":"Rex"}')
        first, second, third = lines(await village.get("/history/events", after=7))
        assert base64.b64decode(first["data"]["base64"]) == b"\x80\x04not json\xff"
        assert base64.b64decode(second["data"]["base64"]) == b'{\n"name": "Rex"}'
        assert third["data"] == {"name": "Rex"} and third["meta"] == {"base64": ""}
        shown = await ask(village, f"events/{binary}")
        assert shown["cause"] == {"command": None, "before_in_stream": None, "before_in_command": None}
        assert shown["effects"]["events"] == shown["effects"]["followed_by"] == []
        assert shown["effects"]["read_models"] == []
        assert (await ask(village, f"events/{loose}"))["meta"] == {"i": "?"}
        assert await refused(village, "streams/dog:1/state") == (422, "not-folded")
        balance = await ask(village, "trial-balance", at=f"position:{plain}")
        assert balance["position"] == plain

    run(scene)


# The live feed


class Feed:
    """A live response, read from the application itself: HTTP test clients wait for a response's end."""

    def __init__(self, village: Economy, path: str, headers: dict[str, str]) -> None:
        self.left = asyncio.Event()
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self.status = 0
        self._buffer = b""
        path, _, query = path.partition("?")
        sent = {
            "authorization": f"Bearer {village.key('olga')}",
            "accept": "text/event-stream",
            "fogbook-zone": village.zone,
            **headers,
        }
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            "server": ("fogbook", 80),
            "client": ("test", 1),
        }
        self.task = asyncio.create_task(village.app(scope, self._receive, self._send))  # type: ignore[arg-type]

    async def _receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.chunks.put_nowait(message["body"])

    async def next(self) -> bytes:
        """The next block, keep-alives included."""
        while b"\n\n" not in self._buffer:
            self._buffer += await self.chunks.get()
        block, _, self._buffer = self._buffer.partition(b"\n\n")
        return block

    async def event(self) -> tuple[int, Any]:
        while (block := await self.next()).startswith(b":"):
            pass
        id, data = block.split(b"\n")
        return int(id.removeprefix(b"id: ")), msgspec.json.decode(data.removeprefix(b"data: "))

    async def leave(self) -> None:
        self.left.set()
        await self.task


@asynccontextmanager
async def feed(village: Economy, path: str = "/history/events", **headers: str) -> AsyncIterator[Feed]:
    opened = Feed(village, path, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        yield opened
    finally:
        await opened.leave()


def test_the_live_feed_delivers_what_is_there_and_then_what_comes(run: Any) -> None:
    async def scene(village: Economy) -> None:
        async with feed(village) as live:
            seen = [await live.event() for _ in range(7)]
            assert [id for id, _ in seen] == list(range(1, 8)) and live.status == 200
            assert seen[6][1]["stream"] == "wallet:ana"
            await village.issue(Transfer("wallet:ana", "wallet:ben", 5), "ana")
            assert [(await live.event())[0] for _ in range(2)] == [8, 9]

    run(scene)


def test_a_feed_is_resumed_behind_the_last_event_that_was_seen(run: Any) -> None:
    async def scene(village: Economy) -> None:
        async with feed(village, "/history/events?after=1", last_event_id="5") as live:
            assert [(await live.event())[0] for _ in range(2)] == [6, 7]
        async with feed(village, "/history/events?after=6") as live:
            assert (await live.event())[0] == 7
        for accepted in ("text/event-stream", "application/x-ndjson"):
            response = await village.get(
                "/history/events", headers={"accept": accepted, "last-event-id": "x"}
            )
            assert problem(response) == (422, "invalid-parameter")

    run(scene)


def test_a_feed_can_be_of_one_type_or_stream(run: Any) -> None:
    async def scene(village: Economy) -> None:
        async with (
            feed(village, "/history/events?stream=wallet:ben") as of_ben,
            feed(village, "/history/events?type=Credited&after=7") as credits,
        ):
            assert (await of_ben.event())[1]["type"] == "WalletOpened"
            for amount in (1, 2):
                await village.issue(Transfer("wallet:ana", "wallet:ben", amount), "ana")
            assert [(await of_ben.event())[1]["data"]["amount"] for _ in range(2)] == ["1", "2"]
            assert [(await credits.event())[0] for _ in range(2)] == [9, 11]

    run(scene)


def test_a_silent_feed_is_kept_alive(run: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(history, "KEEP_ALIVE_S", 0.01)

    async def scene(village: Economy) -> None:
        async with feed(village, "/history/events?after=7") as live:
            assert (await live.next()).startswith(b": the log of zone main")
            assert [await live.next() for _ in range(3)] == [b": keep-alive"] * 3

    run(scene)


def test_a_feed_ends_when_the_server_stops(run: Any) -> None:
    async def scene(village: Economy) -> None:
        async with feed(village, "/history/events?after=7") as live:
            await live.next()
            assert village.service.api is not None
            await village.service.api.positions.stop()
            await live.task
            assert live.chunks.get_nowait() == b""

    run(scene)


def test_feeds_and_waiting_queries_end_when_the_server_is_told_to_stop(run: Any) -> None:
    told: list[int] = []

    async def scene(village: Economy) -> None:
        await village.catch_up()
        async with feed(village, "/history/events?after=7") as live:
            await live.next()
            path = "/queries/ledger/supply"
            waiting = asyncio.create_task(village.get(path, min_position=100))
            await asyncio.sleep(0.05)
            signal.raise_signal(signal.SIGTERM)
            await live.task
            assert problem(await waiting) == (503, "unavailable")
            assert told == [signal.SIGTERM]

    def server(number: int, frame: Any) -> None:
        told.append(number)

    before = signal.signal(signal.SIGTERM, server)
    try:
        run(scene)
        assert signal.getsignal(signal.SIGTERM) is server
    finally:
        signal.signal(signal.SIGTERM, before)


def test_only_so_many_follow_at_a_time_and_those_who_leave_make_room(run: Any) -> None:
    async def scene(village: Economy) -> None:
        village.app.limits.gates["live"].most = 1
        async with feed(village) as live:
            await live.event()
            response = await village.get("/history/events", headers={"accept": "text/event-stream"})
            assert problem(response) == (503, "overloaded")
        async with feed(village) as live:
            assert (await live.event())[0] == 1

    run(scene)


# Streams


def test_a_stream_is_paged_by_its_versions(run: Any) -> None:
    async def scene(village: Economy) -> None:
        for _ in range(4):
            await village.issue(Transfer("wallet:ana", "wallet:ben", 1), "ana")
        first = await village.get("/history/streams/wallet:ana", limit=4)
        assert [event["version"] for event in lines(first)] == [1, 2, 3, 4]
        rest = await village.get("/history/streams/wallet:ana", after=first.headers["fogbook-next"])
        assert [event["version"] for event in lines(rest)] == [5, 6]
        assert "fogbook-next" not in rest.headers
        assert await refused(village, "streams/wallet:nobody") == (404, "stream-not-found")

    run(scene)


def test_a_state_is_given_as_of_a_version_a_position_or_a_time(run: Any) -> None:
    async def scene(village: Economy) -> None:
        village.later(hours=1)
        await village.issue(Transfer("wallet:ana", "wallet:ben", 10), "ana")
        village.later(hours=1)
        await village.issue(PlaceHold("h1", "wallet:ana", "ben", 7, START + timedelta(days=9)), "ana")
        now = await ask(village, "streams/wallet:ana/state")
        assert now == {
            "zone": "main",
            "stream": "wallet:ana",
            "kind": "Account",
            "version": 4,
            "position": 11,
            "recorded_at": "2026-01-01T03:00:00.000000Z",
            "state": {"owner": "ana", "status": "open", "posted": {"FOG": "990"}, "held": {"FOG": "7"}},
        }

        async def posted(at: str) -> tuple[int, int, dict[str, str]]:
            answer = await ask(village, "streams/wallet:ana/state", at=at)
            return answer["version"], answer["position"], answer["state"]["posted"]

        assert await posted("0") == (0, 0, {})
        assert await posted("1") == (1, 3, {})
        assert await posted("2") == (2, 7, {"FOG": "1000"})
        assert await posted("position:0") == (0, 0, {})
        assert await posted("position:7") == (2, 7, {"FOG": "1000"})
        # Positions 8 and 9 are one transfer: nobody sees half of it.
        assert await posted("position:8") == (2, 7, {"FOG": "1000"})
        assert await posted("position:9") == (3, 9, {"FOG": "990"})
        assert await posted("2026-01-01T00:30:00Z") == (1, 4, {})
        assert await posted("2026-01-01T01:00:00+00:00") == (2, 7, {"FOG": "1000"})
        assert await posted("2026-01-01T02:59:59.999999Z") == (3, 9, {"FOG": "990"})
        assert await posted("2025-12-31T00:00:00Z") == (0, 0, {})
        hold = await ask(village, "streams/hold:h1/state")
        assert hold["state"]["expires_at"] == "2026-01-10T00:00:00.000000Z"
        assert hold["state"]["closed"] is False and hold["state"]["amount"] == "7"

    run(scene)


def test_a_transactions_state_begins_with_the_events_of_its_command(run: Any) -> None:
    async def scene(village: Economy) -> None:
        paid = await village.issue(Transfer("wallet:ana", "wallet:ben", 10), "ana")
        id = paid["command_id"]
        before = await ask(village, f"streams/transaction:{id}/state")
        move = {"source": "wallet:ana", "target": "wallet:ben", "asset": "FOG", "amount": "10"}
        assert before["state"] == {"moves": [move], "touches_more": False, "reversed_by": ""}
        undone = await village.issue(ReverseTransaction(id, "by mistake"))
        after = await ask(village, f"streams/transaction:{id}/state")
        assert (after["version"], after["state"]["reversed_by"]) == (1, undone["command_id"])
        then = await ask(village, f"streams/transaction:{id}/state", at=f"position:{paid['position']}")
        assert then["state"] == before["state"] and then["version"] == 0
        assert await refused(village, "streams/transaction:c999/state") == (404, "stream-not-found")

    run(scene)


def test_moments_that_do_not_exist_are_refused(run: Any) -> None:
    async def scene(village: Economy) -> None:
        path = "streams/wallet:ana/state"
        assert await refused(village, path, at="3") == (422, "out-of-range")
        assert await refused(village, path, at="position:8") == (422, "out-of-range")
        for at in ("position:-1", "yesterday", "2026-01-01", "position:", "1e3", "9" * 30):
            assert await refused(village, path, at=at) == (422, "invalid-parameter"), at
        assert await refused(village, "streams/wallet:nobody/state") == (404, "stream-not-found")
        assert await refused(village, "streams/nothing/state", at="1") == (404, "stream-not-found")
        assert await refused(village, "trial-balance", at="position:8") == (422, "out-of-range")

    run(scene)


# Causes and effects


def of_projection(effects: Any, name: str) -> Any:
    """Several projections may have followed an event."""
    (found,) = [each for each in effects["read_models"] if each["projection"] == name]
    return found


def test_an_event_shows_its_cause_and_its_effects(run: Any) -> None:
    async def scene(village: Economy) -> None:
        paid = await village.issue(
            Transfer("wallet:ana", "wallet:ben", 10, reference="bill"), "ana", key="pay-1"
        )
        later = await village.issue(
            Transfer("wallet:ben", "wallet:ana", 1), "ben", causation=paid["command_id"]
        )
        await village.catch_up()
        shown = await ask(village, "events/8")
        assert (shown["type"], shown["stream"], shown["data"]["amount"]) == ("Debited", "wallet:ana", "10")
        cause = shown["cause"]
        assert (cause["name"], cause["by"], cause["principal"]) == ("ledger/transfer", "ana", "ana")
        fate = cause["command"]
        assert (fate["command_id"], fate["key"], fate["status"]) == (paid["command_id"], "pay-1", 200)
        assert fate["request"]["body"]["to"] == "wallet:ben" and fate["positions"] == [8, 9]
        effects = shown["effects"]
        assert [event["position"] for event in effects["events"]] == [9]
        (back,) = effects["followed_by"]
        assert (back["command_id"], back["by"]) == (later["command_id"], "ben")
        assert back["positions"] == [later["position"] - 1, later["position"]]
        ledger = of_projection(effects, "ledger")
        touched = {row["table"]: row for row in ledger["rows"]}
        assert set(touched) == {
            "ledger_balances",
            "ledger_statement",
            "ledger_references",
            "ledger_days",
        }
        assert touched["ledger_statement"]["position"] == 8
        assert touched["ledger_statement"]["row"]["amount"] == "-10"
        # The balance was touched again since. No archive has it as it was, so it is shown as it is today, with the
        # position that did so; test_lineage.py has what is told with an archive.
        assert ledger["rows_as_of"] == "now"
        assert touched["ledger_balances"]["row"]["posted"] == "991"
        assert touched["ledger_balances"]["position"] == later["position"]

    run(scene)


def test_rows_whose_keys_depend_on_other_rows_are_found_too(run: Any) -> None:
    async def scene(village: Economy) -> None:
        from domain.ledger import Allocation, DistributeRewards
        from domain.staking import Jail, RegisterValidator, Unjail

        await village.issue(MintTokens("pool:rewards", 10, "budget", "b"))
        shares = (Allocation("wallet:ben", 10),)
        got = await village.issue(DistributeRewards("d1", "bonus", "pool:rewards", shares))
        await village.issue(RegisterValidator("v1", 100), "ana")
        jailed = await village.issue(Jail("v1", "asked"))
        village.later(days=1)
        freed = await village.issue(Unjail("v1"), "ana")
        await village.catch_up()
        shown = await ask(village, f"events/{got['position']}")
        (ledger,) = shown["effects"]["read_models"]
        (reward,) = [row for row in ledger["rows"] if row["table"] == "ledger_rewards"]
        assert reward["row"]["distribution"] == "d1" and reward["position"] == got["position"]
        shown = await ask(village, f"events/{freed['position']}")
        staking = of_projection(shown["effects"], "staking")
        (term,) = [row for row in staking["rows"] if row["table"] == "staking_jail_terms"]
        assert term["row"]["term"] == jailed["position"]
        assert term["row"]["ended_at"] == "2026-01-02T01:00:00.000000Z"

    run(scene)


def test_before_a_projection_gets_there_an_event_has_touched_nothing(run: Any) -> None:
    async def scene(village: Economy) -> None:
        position = await village.catch_up()
        await village.issue(BurnTokens("wallet:ana", 10, "old"), "ana")
        shown = await ask(village, f"events/{position + 1}")
        ledger = of_projection(shown["effects"], "ledger")
        assert ledger == {"projection": "ledger", "position": position, "rows_as_of": "now", "rows": []}

    run(scene)


def test_a_commands_fate_is_told_also_when_a_rule_refused_it(run: Any) -> None:
    async def scene(village: Economy) -> None:
        fate = await ask(village, "commands/c4")
        assert fate["status"] == 200 and fate["positions"] == [5, 6, 7] and fate["principal"] == "admin"
        assert fate["answer"]["command_id"] == "c4" and len(fate["leaf"]) == 64
        refusal = await village.send(Transfer("wallet:ben", "wallet:ana", 5), "ben", key="too-much")
        assert refusal.status == 409
        fate = await ask(village, "commands/c5")
        assert (fate["status"], fate["key"], fate["positions"]) == (409, "too-much", [])
        assert fate["answer"]["type"] == "/problems/insufficient-funds" and fate["position"] == 7
        assert await refused(village, "commands/c6") == (404, "command-not-found")
        assert await refused(village, "commands/seven") == (422, "invalid-parameter")

    run(scene)


# Sums


def test_the_trial_balance_is_zero_at_the_end_of_every_command(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(Transfer("wallet:ana", "wallet:ben", 10), "ana")
        await village.issue(PlaceHold("h1", "wallet:ana", "ben", 7, START + timedelta(days=1)), "ana")
        await village.issue(CaptureHold("h1", 5, "wallet:ben"), "ben")
        village.later(hours=1)
        await village.issue(BurnTokens("wallet:ben", 3, "old"), "ben")
        head = (await ask(village, "trial-balance"))["position"]
        assert head == village.sequencer.head.position
        seen = set()
        for position in range(head + 1):
            answer = await ask(village, "trial-balance", at=f"position:{position}")
            assert all(asset["sum"] == "0" for asset in answer["assets"])
            assert answer["position"] <= position
            seen.add(answer["position"])
        assert {0, 7, 9, head} <= seen and 8 not in seen
        answer = await ask(village, "trial-balance")
        assert answer["assets"] == [
            {"asset": "FOG", "accounts": 3, "positive": "997", "negative": "-997", "sum": "0"}
        ]
        assert answer["accounts"] == [
            {"asset": "FOG", "account": "wallet:ana", "posted": "985"},
            {"asset": "FOG", "account": "wallet:ben", "posted": "12"},
            {"asset": "FOG", "account": "world", "posted": "-997"},
        ]
        page = await ask(village, "trial-balance", limit=2)
        rest = await ask(village, "trial-balance", limit=2, after=page["next"])
        assert page["accounts"] + rest["accounts"] == answer["accounts"] and rest["next"] is None
        hour = await ask(village, "trial-balance", at="2026-01-01T01:30:00Z")
        assert hour["assets"][0]["positive"] == "1000"
        assert (await ask(village, "trial-balance", at="position:2"))["assets"] == []

    run(scene)


def test_the_log_and_the_read_model_agree(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(Transfer("wallet:ana", "wallet:ben", 10), "ana")
        position = await village.catch_up()
        answer = await ask(village, "trial-balance", at=f"position:{position}")
        rows = await village.ask("ledger/accounts")
        assert [(line["account"], line["posted"]) for line in answer["accounts"]] == [
            (row["account"], row["posted"]) for row in rows
        ]

    run(scene)


# Who, and how asked


def test_history_is_for_auditors_and_operators(run: Any) -> None:
    paths = (
        "events",
        "events/1",
        "streams/wallet:ana",
        "streams/wallet:ana/state",
        "commands/c1",
        "trial-balance",
    )

    async def scene(village: Economy) -> None:
        village.key("pat", "provider")
        for path in paths:
            for who, role in (("ana", "participant"), ("pat", "provider"), ("worker", "worker")):
                response = await village.get(f"/history/{path}", who, role)
                assert problem(response) == (403, "role-not-allowed"), path
            assert (await village.get(f"/history/{path}", "admin")).status_code == 200
            assert problem(await village.http.get(f"/history/{path}")) == (401, "unauthenticated")
            nowhere = await village.get(f"/history/{path}", headers={"fogbook-zone": "nowhere"})
            assert nowhere.status_code == 404
            village.key("eve", "auditor", zones=("other",))
            assert problem(await village.get(f"/history/{path}", "eve", "auditor")) == (
                403,
                "zone-not-allowed",
            )
            assert await refused(village, path, nonsense="1") == (422, "unknown-parameter")

    run(scene)


def test_what_is_asked_wrongly_is_refused(run: Any) -> None:
    async def scene(village: Economy) -> None:
        assert await refused(village, "events/8") == (404, "event-not-found")
        assert await refused(village, "events/0") == (404, "event-not-found")
        assert await refused(village, "events/first") == (422, "invalid-parameter")
        assert await refused(village, "events", limit="10001") == (422, "invalid-parameter")
        assert await refused(village, "events", after="-1") == (422, "invalid-parameter")
        assert await refused(village, "events", type="a\0b") == (422, "invalid-parameter")
        assert await refused(village, "streams/a%00b") == (404, "stream-not-found")

    run(scene)


def test_every_history_route_is_documented(run: Any) -> None:
    async def scene(village: Economy) -> None:
        paths = village.app.openapi()["paths"]
        found = {
            f"{method} {path}": route
            for path in paths
            if path.startswith("/history/")
            for method, route in paths[path].items()
        }
        assert {name for name in found if name.startswith("get ")} >= {
            "get /history/events",
            "get /history/events/{position}",
            "get /history/rows/{table}",
            "get /history/correlations/{id}",
            "get /history/streams/{stream}",
            "get /history/streams/{stream}/state",
            "get /history/commands/{id}",
            "get /history/trial-balance",
        }
        for route in found.values():
            assert {"200", "401", "403", "404", "422", "500", "503"} <= set(route["responses"])
            assert route["description"] and route["security"] == [{"key": []}]

    run(scene)


def test_time_that_passes_is_in_the_log(run: Any) -> None:
    async def scene(village: Economy) -> None:
        village.later(days=30)
        await village.issue(AdvanceClock())
        (event,) = lines(await village.get("/history/events", after=7))
        assert event["recorded_at"] == "2026-01-31T01:00:00.000000Z"

    run(scene)
