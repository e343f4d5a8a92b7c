"""The queries of devices against values that were computed by hand, and against the exact state of the streams."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from commands._models import command_from
from domain.devices import (
    Capabilities,
    Heartbeat,
    MarkOffline,
    RecordReputation,
    RegisterDevice,
    RelocateDevice,
    Reputation,
    ResumeDevice,
    RetireDevice,
    SuspendDevice,
    UpdateCapabilities,
)
from domain.ledger import MintTokens, OpenWallet
from domain.staking import Jail, RegisterValidator, Slash, Unjail
from projections import _follower
from projections._follower import read_tail
from projections.devices import slash_evidence
from tests.conftest import Database
from tests.scenario import START
from tests.support import Economy, economy

Scene = Callable[[Economy], Awaitable[None]]
SMALL = Capabilities(4_000, 8_192, 64_000, 20_000)
LARGE = Capabilities(32_000, 131_072, 2_000_000, 1_000_000, 2)
TEN_MINUTES = timedelta(minutes=10)


@pytest.fixture
def run(database: Database) -> Callable[[Scene], None]:
    """Run a test with Ana's phone `p1`, Ben's server `s1` (both in the north) and his laptop `l1` in the south."""

    def runner(scene: Scene) -> None:
        async def whole() -> None:
            async with economy(database) as village:
                await village.issue(RegisterDevice("p1", "phone", SMALL, "north", 64_500), "ana")
                await village.issue(RegisterDevice("s1", "server", LARGE, "north", 64_501), "ben")
                await village.issue(RegisterDevice("l1", "laptop", SMALL, "south"), "ben")
                await scene(village)

        asyncio.run(whole())

    return runner


async def record(
    village: Economy, device: str, kind: str, id: str, quality: int = 0, service: str = ""
) -> None:
    await village.issue(RecordReputation(device, service or "harvest", kind, id, quality), "worker")


def names(items: list[dict[str, Any]]) -> list[str]:
    return [item["device"] for item in items]


async def validators(village: Economy) -> None:
    for name, validator in (("val", "v1"), ("wim", "v2")):
        await village.issue(OpenWallet(f"wallet:{name}"), name)
        await village.issue(MintTokens(f"wallet:{name}", 10_000, "start", name))
        await village.issue(RegisterValidator(validator, 10_000), name)


# Devices


def test_devices_are_found_by_what_they_are_and_have(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(Heartbeat("s1", 1), "ben")
        await village.catch_up()
        ask = partial(village.ask, "devices/devices", "zoe")
        found = await ask()
        assert names(found) == ["l1", "p1", "s1"]
        assert found[2] == {
            "device": "s1",
            "owner": "ben",
            "type": "server",
            "region": "north",
            "status": "active",
            "online": True,
            "cpu_millicores": 32_000,
            "memory_mb": 131_072,
            "storage_mb": 2_000_000,
            "bandwidth_kbps": 1_000_000,
            "gpu": 2,
            "registered_at": "2026-01-01T00:00:00.000000Z",
            "scores": [],
        }
        assert names(await ask(region="north")) == ["p1", "s1"]
        assert names(await ask(type="laptop")) == ["l1"]
        assert names(await ask(owner="ben", region="south")) == ["l1"]
        assert names(await ask(online="true")) == ["s1"]
        for least in ("cpu_millicores", "memory_mb", "storage_mb", "bandwidth_kbps"):
            exact = getattr(SMALL, least)
            assert len(await ask(**{least: exact})) == 3
            assert names(await ask(**{least: exact + 1})) == ["s1"]
        assert names(await ask(gpu=2)) == ["s1"] and await ask(gpu=3) == []
        assert await village.refused("devices/devices", gpu=-1) == (422, "invalid-parameter")

    run(scene)


def test_changes_of_a_device_are_shown(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(UpdateCapabilities("p1", LARGE), "ana")
        village.later(days=1)
        await village.issue(RelocateDevice("p1", "south", 7), "ana")
        await village.issue(SuspendDevice("s1", "inquiry"))
        await village.issue(RetireDevice("l1", "broken"), "ben")
        await village.catch_up()
        (p1,) = await village.ask("devices/devices")
        assert (p1["device"], p1["region"], p1["gpu"]) == ("p1", "south", 2)
        assert names(await village.ask("devices/devices", status="suspended")) == ["s1"]
        assert names(await village.ask("devices/devices", status="retired")) == ["l1"]
        assert names(await village.ask("devices/devices", status="any")) == ["l1", "p1", "s1"]
        await village.issue(ResumeDevice("s1"))
        await village.catch_up()
        assert names(await village.ask("devices/devices")) == ["p1", "s1"]

    run(scene)


def test_devices_are_found_by_score(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await record(village, "p1", "success", "e1")
        await record(village, "s1", "failure", "e2")
        await record(village, "s1", "success", "e3", service="storage")
        await village.catch_up()
        ask = partial(village.ask, "devices/devices", "zoe")
        # p1: 2/3 at harvest; s1: 1/3 there and 2/3 at storage; l1: nothing, 1/2.
        assert names(await ask(service="harvest", min_score=6_666)) == ["p1"]
        assert names(await ask(service="harvest", min_score=6_667)) == []
        assert names(await ask(service="harvest", min_score=5_000)) == ["l1", "p1"]
        assert names(await ask(service="harvest", min_score=3_333)) == ["l1", "p1", "s1"]
        assert names(await ask(min_score=6_666)) == ["p1", "s1"]
        (s1,) = await ask(type="server")
        assert [(item["service"], item["score"]) for item in s1["scores"]] == [
            ("harvest", 3_333),
            ("storage", 6_666),
        ]

    run(scene)


def test_suitable_devices_come_best_first(run: Any) -> None:
    async def scene(village: Economy) -> None:
        for name, owner in (("p1", "ana"), ("s1", "ben"), ("l1", "ben")):
            await village.issue(Heartbeat(name, 1), owner)
        await record(village, "p1", "success", "e1")
        await record(village, "s1", "success", "e2", 10_000)
        await village.catch_up()
        ask = partial(village.ask, "devices/suitability", "zoe", service="harvest")
        found = await ask(memory_mb=8_192)
        # s1: 3.5 / 4.5 -> 7777; p1: 2 / 3 -> 6666; l1: 5000.
        assert [(item["device"], item["score"], item["evidence"]) for item in found] == [
            ("s1", 7_777, 1),
            ("p1", 6_666, 1),
            ("l1", 5_000, 0),
        ]
        assert (found[2]["low"], found[2]["high"]) == Reputation().interval
        assert names(await ask(min_score=6_666)) == ["s1", "p1"]
        assert names(await ask(gpu=1)) == ["s1"]
        assert names(await village.ask("devices/suitability", "zoe", service="storage")) == ["s1", "p1", "l1"]
        first = (await village.get("/queries/devices/suitability", "zoe", service="harvest", limit=1)).json()
        rest = await village.get(
            "/queries/devices/suitability", "zoe", service="harvest", limit=2, after=first["next"]
        )
        assert names(rest.json()["items"]) == ["p1", "l1"]
        await village.issue(SuspendDevice("s1", "-"), "ben")
        await village.issue(MarkOffline("p1"), "ana")
        await village.catch_up()
        assert names(await ask()) == ["l1"]
        assert names(await ask(online="false")) == ["p1", "l1"]
        await village.issue(RetireDevice("l1"), "ben")
        await village.catch_up()
        assert names(await ask(online="false")) == ["p1"]
        assert await village.refused("devices/suitability") == (422, "missing-parameter")

    run(scene)


# One device


def test_a_card_tells_all_about_a_device(run: Any) -> None:
    async def scene(village: Economy) -> None:
        village.later(hours=1)
        await village.issue(Heartbeat("p1", 5), "ana")
        village.later(minutes=5)
        await village.issue(Heartbeat("p1", 6), "ana")
        await record(village, "p1", "success", "e1", 8_000)
        await record(village, "p1", "failure", "e2")
        await record(village, "p1", "peer", "e3", 5_000, "storage")
        village.later(days=1)
        await village.issue(SuspendDevice("p1", "inquiry"))
        await village.catch_up()
        (card,) = await village.ask("devices/card", "ana", device="p1")
        scores = card.pop("scores")
        # Online from 1:00 to 1:15 of 25:05 hours: floor(10000 * 15 / 1505).
        assert card == {
            "device": "p1",
            "owner": "ana",
            "type": "phone",
            "region": "north",
            "asn": 64_500,
            "status": "suspended",
            "suspended_by": ["operator"],
            "reason": "inquiry",
            "online": False,
            "seq": 6,
            "heard_at": "2026-01-01T01:05:00.000000Z",
            "silent_at": "2026-01-01T01:15:00.000000Z",
            "times_online": 1,
            "uptime": 99,
            "cpu_millicores": 4_000,
            "memory_mb": 8_192,
            "storage_mb": 64_000,
            "bandwidth_kbps": 20_000,
            "gpu": 0,
            "registered_at": "2026-01-01T00:00:00.000000Z",
            "retired_at": None,
            "as_of": "2026-01-02T01:05:00.000000Z",
        }
        harvest = (await village.state("reputation:p1:harvest")).as_of(village.now)
        assert scores[0] == {
            "service": "harvest",
            "score": harvest.score,
            "low": harvest.interval[0],
            "high": harvest.interval[1],
            "evidence": 2,
            "kinds": {"failure": 1, "success": 1},
            "last_at": "2026-01-01T01:05:00.000000Z",
        }
        assert (scores[1]["service"], scores[1]["score"], scores[1]["kinds"]) == (
            "storage",
            5_000,
            {"peer": 1},
        )
        assert await village.ask("devices/card", "olga", device="p1")
        assert await village.refused("devices/card", "ben", device="p1") == (404, "not-found")
        assert await village.refused("devices/card", "ana", device="p9") == (404, "not-found")

    run(scene)


def test_a_device_is_offline_in_time_whether_or_not_the_timer_ran(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(Heartbeat("p1", 1), "ana")
        village.later(minutes=10)
        await village.issue(Heartbeat("s1", 1), "ben")
        await village.catch_up()
        assert names(await village.ask("devices/devices", online="true")) == ["s1"]
        (card,) = await village.ask("devices/card", "ana", device="p1")
        assert (card["online"], card["uptime"]) == (False, 10_000)
        ((_, (due_at, command, body)), _) = sorted(village.timers().items())
        assert (due_at, command) == (START + TEN_MINUTES, "devices/mark-offline")
        await village.issue(command_from(MarkOffline, body), "worker")
        await village.catch_up()
        (card,) = await village.ask("devices/card", "ana", device="p1")
        assert (card["online"], card["silent_at"], card["uptime"]) == (False, None, 10_000)
        village.later(minutes=10)
        await village.issue(Heartbeat("p1", 2), "ana")
        await village.issue(MarkOffline("p1"), "ana")
        await village.catch_up()
        history = await village.ask("devices/online-history", "ana", device="p1")
        assert [(item["begun_at"][11:19], item["ended_at"][11:19], item["reason"]) for item in history] == [
            ("00:20:00", "00:20:00", "owner"),
            ("00:00:00", "00:10:00", "missed-heartbeats"),
        ]
        assert await village.ask("devices/online-history", "ben", device="p1") == []
        (card,) = await village.ask("devices/card", "ana", device="p1")
        assert (card["times_online"], card["uptime"]) == (2, 5_000)

    run(scene)


def test_uptime_is_that_of_thirty_days_and_ends_with_the_device(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(Heartbeat("p1", 1), "ana")
        for beat in range(2, 10):
            village.later(minutes=9)
            await village.issue(Heartbeat("p1", beat), "ana")
        village.later(days=30)
        await village.issue(Heartbeat("p1", 10), "ana")
        await village.catch_up()
        (card,) = await village.ask("devices/card", "ana", device="p1")
        # Online for 82 minutes from the start on; the window begins after 72 of them.
        assert card["uptime"] == 10_000 * 10 // (30 * 24 * 60)
        village.later(minutes=4)
        await village.issue(RetireDevice("p1", "sold"), "ana")
        village.later(days=100)
        await village.issue(Heartbeat("s1", 1), "ben")
        await village.catch_up()
        (card,) = await village.ask("devices/card", "ana", device="p1")
        assert card["uptime"] == 10_000 * (6 + 4) // (30 * 24 * 60)
        assert (card["status"], card["online"], card["reason"]) == ("retired", False, "sold")
        assert [timer.split(":")[1] for timer in village.timers()] == ["s1"]

    run(scene)


# Timers and reactions


def test_each_kept_heartbeat_moves_the_timer_on(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(Heartbeat("p1", 1), "ana")
        await village.catch_up()
        ((first, (due_at, _, body)),) = village.timers().items()
        assert due_at == START + TEN_MINUTES and body == {"device": "p1"}
        for beat in range(2, 8):
            village.later(minutes=1)
            await village.issue(Heartbeat("p1", beat), "ana")
        await village.catch_up()
        ((second, (due_at, _, _)),) = village.timers().items()
        assert second != first and due_at == START + timedelta(minutes=16)
        await village.issue(MarkOffline("p1"), "ana")
        await village.catch_up()
        assert village.timers() == {}

    run(scene)


def test_a_slash_is_evidence_against_a_validator_once(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await validators(village)
        long = "e" * 64
        await village.issue(Slash("v1", "double-sign", START, "e1"))
        await village.issue(Slash("v2", "downtime", START, long))
        await village.catch_up()
        reactions = village.timers()
        assert set(reactions) == {"reputation:slash.e1", f"reputation:{slash_evidence(long)}"}
        assert all(command == "devices/record-reputation" for _, command, _ in reactions.values())
        assert reactions["reputation:slash.e1"][2] == {
            "device": "v1",
            "service": "validation",
            "kind": "fraud",
            "evidence_id": "slash.e1",
        }
        for _, _, body in reactions.values():
            await village.issue(command_from(RecordReputation, body), "worker")
        await village.catch_up()
        assert village.timers() == {}
        found = await village.ask("devices/reputation", "zoe", service="validation")
        assert [(item["device"], item["score"], item["kinds"]) for item in found] == [
            ("v1", 2_000, {"fraud": 1}),
            ("v2", 3_333, {"failure": 1}),
        ]
        (told,) = await village.ask("devices/reputation-history", "zoe", device="v1")
        assert (told["evidence_id"], told["kind"], told["score"]) == ("slash.e1", "fraud", 2_000)
        village.rebuild()
        assert village.timers() == {}

    run(scene)


def test_the_evidence_of_a_slash_is_an_id() -> None:
    assert slash_evidence("e" * 58) == "slash." + "e" * 58
    digests = {slash_evidence(end * 59) for end in "ab"}
    assert len(digests) == 2 and all(len(id) == 64 and id.startswith("slash.") for id in digests)


# Reputation


def test_scores_are_those_of_the_streams_at_any_time(run: Any) -> None:
    async def scene(village: Economy) -> None:
        pieces = [("success", 0), ("availability", 9_900), ("quality", 7_777), ("peer", 1), ("fraud", 0)]
        for number, (kind, quality) in enumerate(pieces):
            await record(village, "p1", kind, f"e{number}", quality)
            village.later(days=17, hours=5)
        for _ in range(3):
            await village.issue(Heartbeat("s1", int(village.now.timestamp())), "ben")
            await village.catch_up()
            exact = (await village.state("reputation:p1:harvest")).as_of(village.now)
            (shown,) = await village.ask("devices/reputation", "zoe", device="p1")
            assert (shown["score"], shown["low"], shown["high"]) == (exact.score, *exact.interval)
            assert (shown["alpha"], shown["beta"]) == (str(exact.alpha), str(exact.beta))
            assert shown["evidence"] == 5
            again = (await village.ask("devices/reputation", "zoe", device="p1"))[0]
            assert again == shown
            village.later(days=400)
        history = await village.ask("devices/reputation-history", "ana", device="p1")
        assert [item["evidence_id"] for item in history] == ["e4", "e3", "e2", "e1", "e0"]
        assert (history[4]["alpha"], history[4]["beta"], history[4]["score"]) == ("1000000000", "0", 6_666)
        assert (history[3]["alpha"], history[3]["beta"]) == ("495000000", "5000000")
        assert await village.ask("devices/reputation-history", "ben", device="p1") == []
        (peer,) = await village.ask("devices/reputation-history", device="p1", kind="peer")
        assert (peer["quality"], peer["alpha"], peer["beta"]) == (1, "80000", "799920000")

    run(scene)


# Coverage


def test_the_map_adds_up_what_regions_have(run: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.issue(RegisterDevice("s2", "server", LARGE, "north", 64_501), "cleo")
        await village.issue(RegisterDevice("s3", "server", LARGE, "north", 64_509), "cleo")
        for name, owner in (("p1", "ana"), ("s1", "ben"), ("s2", "cleo")):
            await village.issue(Heartbeat(name, 1), owner)
        await village.issue(SuspendDevice("s1", "-"), "ben")
        await village.issue(RetireDevice("s3"), "cleo")
        await village.catch_up()
        north, south = await village.ask("devices/coverage", "zoe")
        shown = {
            "region": "north",
            "devices": 3,
            "active": 2,
            "suspended": 1,
            "online": 2,
            "owners": 3,
            "networks": 2,
        }
        total = {"cpu_millicores": 36_000, "memory_mb": 139_264, "storage_mb": 2_064_000, "gpu": 2}
        total["bandwidth_kbps"] = 1_020_000
        shown |= {name: str(value) for name, value in total.items()}
        shown |= {f"{name}_online": str(value) for name, value in total.items()}
        assert north == shown
        assert (south["online"], south["cpu_millicores"], south["cpu_millicores_online"]) == (0, "4000", "0")
        (phones,) = await village.ask("devices/coverage", "zoe", region="north", type="phone")
        assert (phones["devices"], phones["gpu"]) == (1, "0")
        village.later(minutes=10)
        await village.issue(Heartbeat("l1", 1), "ben")
        await village.catch_up()
        north, south = await village.ask("devices/coverage", "zoe")
        assert (north["online"], north["gpu_online"], south["online"]) == (0, "0", 1)

    run(scene)


# Races and rebuilds


def test_of_two_clients_at_once_one_registers_the_device(run: Any) -> None:
    async def scene(village: Economy) -> None:
        both = await asyncio.gather(
            village.send(RegisterDevice("x1", "phone", SMALL, "north"), "ana"),
            village.send(RegisterDevice("x1", "phone", SMALL, "north"), "ben"),
            village.send(RecordReputation("p1", "harvest", "fraud", "e1"), "worker"),
            village.send(RecordReputation("p1", "harvest", "success", "e1"), "worker"),
        )
        assert sorted(outcome.status for outcome in both[:2]) == [200, 409]
        assert sorted(outcome.status for outcome in both[2:]) == [200, 409]
        assert (await village.state("device:x1")).owner in ("ana", "ben")
        assert (await village.state("reputation:p1:harvest")).evidence == 1

    run(scene)


def test_tables_are_the_same_however_they_were_folded(run: Any, monkeypatch: Any) -> None:
    async def scene(village: Economy) -> None:
        await village.catch_up()
        await validators(village)
        for beat in range(1, 8):
            await village.issue(Heartbeat("p1", beat), "ana")
            await village.catch_up()
            village.later(minutes=3)
        await village.issue(Heartbeat("s1", 1), "ben")
        await village.issue(SuspendDevice("s1", "inquiry"))
        await village.issue(SuspendDevice("s1", "so be it"), "ben")
        await village.issue(ResumeDevice("s1"))
        await village.catch_up()
        for number in range(6):
            village.later(days=number)
            await record(village, "p1", "quality", f"q{number}", 1_234 * number)
            await record(village, "p1", "availability", f"a{number}", 9_999, "storage")
        await village.issue(Slash("v1", "downtime", village.now, "s1"))
        await village.issue(Jail("v2", "-"))
        await village.catch_up()
        await village.issue(RecordReputation("v1", "validation", "failure", "slash.s1"), "worker")
        village.later(days=1)
        await village.issue(Unjail("v2"), "wim")
        await village.issue(Heartbeat("p1", 100), "ana")
        await village.issue(UpdateCapabilities("p1", LARGE), "ana")
        await village.issue(RelocateDevice("p1", "south"), "ana")
        await village.issue(RetireDevice("s1"), "ben")
        await village.issue(MarkOffline("p1"), "ana")
        await village.catch_up()
        followed = village.digests()
        assert "devices" in followed
        village.rebuild()
        assert village.digests() == followed
        for limit in (1, 3, 7):
            monkeypatch.setattr(_follower, "read_tail", partial(read_tail, limit=limit))
            village.forget()
            await village.catch_up()
            assert village.digests() == followed, limit

    run(scene)
