"""The queries on transfers between zones, in two zones of one database, with their reactions carried by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from commands._models import command_from
from commands._routes import ROUTES
from commands._signatures import public_key, sign, zone_key
from commands.api import load_routes
from domain.ledger import DefineAsset, MintTokens, OpenWallet
from domain.settlement.transfers import (
    InitiateTransfer,
    RegisterPeer,
    ResumePeer,
    RotatePeerKey,
    SuspendPeer,
)
from projections import _follower
from projections._follower import read_tail
from tests.conftest import PEPPER, Database
from tests.scenario import START
from tests.support import Economy, economy

Scene = Callable[[Economy, Economy], Awaitable[None]]
DAY = timedelta(days=1)


def key_of(zone: str) -> str:
    return public_key(zone_key(PEPPER.encode(), zone))


@pytest.fixture
def run(database: Database) -> Callable[[Scene], None]:
    """Run a test with the zones main, where Ana and Ben have 1000, and village, where Vic has 1000."""

    def runner(scene: Scene) -> None:
        async def whole() -> None:
            load_routes()
            async with economy(database, "main") as main, economy(database, "village") as village:
                village.keys = main.keys
                for zone, peer, owners in ((main, "village", ("ana", "ben")), (village, "main", ("vic",))):
                    for owner in owners:
                        await zone.issue(OpenWallet(f"wallet:{owner}"), owner)
                        await zone.issue(MintTokens(f"wallet:{owner}", 1000, "start", owner))
                    await zone.issue(RegisterPeer(peer, key_of(peer)))
                await scene(main, village)

        asyncio.run(whole())

    return runner


def due(zone: Economy) -> list[tuple[str, str, str, dict[str, Any], str]]:
    """Name, target zone, command, body and statement of what falls due."""
    with zone.database.connect() as connection:
        rows: list[Any] = connection.execute(
            "SELECT timer, to_zone, context || '/' || command, body, statement FROM read.timers t"
            " JOIN checkpoints c USING (zone, generation)"
            " WHERE zone = %s AND c.projection = 'timers' AND c.live AND due_at <= %s ORDER BY timer",
            (zone.zone, zone.now),
        ).fetchall()
    return rows


async def relay(source: Economy, target: Economy) -> list[str]:
    """Issue in the target what is due in the source, with its signature; returns the names of these timers."""
    await source.catch_up()
    done = []
    for timer, to_zone, name, body, text in due(source):
        assert to_zone == target.zone
        proof = sign(zone_key(PEPPER.encode(), source.zone), text.encode())
        command = command_from(ROUTES[name].command, {**body, "proof": proof})
        await target.issue(command, "worker")
        done.append(timer)
    await target.catch_up()
    return done


async def send(zone: Economy, by: str, **more: Any) -> None:
    target = {"main": "village", "village": "main"}[zone.zone]
    fields = {"target_zone": target, "amount": 100, "timeout": START + DAY, "recipient": "wallet:vic", **more}
    await zone.issue(InitiateTransfer(**fields), by)


async def one(zone: Economy, query: str, who: str = "olga", **params: Any) -> Any:
    (found,) = await zone.ask(f"settlement/{query}", who, **params)
    return found


def names(items: list[dict[str, Any]], *fields: str) -> list[tuple[Any, ...]]:
    return [tuple(item[name] for name in fields) for item in items]


def shown(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_a_transfer_is_in_flight_then_delivered_and_both_zones_show_it(run: Any) -> None:
    async def scene(main: Economy, village: Economy) -> None:
        await send(main, "ana", memo="for the well")
        await main.catch_up()
        (sent,) = await main.ask("settlement/transfers", "ana")
        assert sent == {
            "line": sent["line"],
            "direction": "out",
            "peer": "village",
            "sequence": 1,
            "asset": "FOG",
            "amount": "100",
            "sender": "wallet:ana",
            "recipient": "wallet:vic",
            "status": "in-flight",
            "reason": "",
            "memo": "for the well",
            "timeout": shown(START + DAY),
            "begun_at": shown(START),
            "settled_at": None,
            "peer_at": None,
        }
        main.later(hours=2)
        village.later(hours=1)
        assert await relay(main, village) == ["transfer:village:1"]
        assert await relay(village, main) == ["reception:main:1"]
        (sent,) = await main.ask("settlement/transfers", "ana")
        assert (sent["status"], sent["settled_at"]) == ("delivered", shown(START + timedelta(hours=2)))
        assert sent["peer_at"] == shown(START + timedelta(hours=1))
        (received,) = await village.ask("settlement/transfers", "vic")
        fields = ("direction", "peer", "sequence", "asset", "amount", "status", "memo")
        assert names([received], *fields) == [
            ("in", "main", 1, "main/FOG", "100", "delivered", "for the well")
        ]
        assert due(main) == [], "neither the packet nor its timeout is left"

    run(scene)


def test_participants_see_their_own_transfers_and_operators_all(run: Any) -> None:
    async def scene(main: Economy, village: Economy) -> None:
        await send(main, "ana")
        await send(main, "ben", recipient="wallet:nobody")
        await relay(main, village)
        await main.catch_up()
        assert names(await main.ask("settlement/transfers", "ana"), "sender") == [("wallet:ana",)]
        assert names(await main.ask("settlement/transfers", "ben"), "sender") == [("wallet:ben",)]
        everything = await main.ask("settlement/transfers")
        assert names(everything, "sender") == [("wallet:ben",), ("wallet:ana",)], "newest first"
        assert names(await main.ask("settlement/transfers", owner="ana"), "sequence") == [(1,)]
        assert await main.refused("settlement/transfers", "ana", owner="ben") == (404, "not-found")
        arrived = await village.ask("settlement/transfers", "admin", direction="in")
        assert names(arrived, "recipient", "status", "reason") == [
            ("wallet:nobody", "failed", "account-is-not-open"),
            ("wallet:vic", "delivered", ""),
        ]
        assert names(await village.ask("settlement/transfers", "vic"), "sequence") == [(1,)]
        for filters in ({"status": "failed"}, {"asset": "main/FOG", "owner": "nobody"}):
            assert names(await village.ask("settlement/transfers", **filters), "sequence") == [(2,)]
        assert await village.ask("settlement/transfers", direction="out") == []
        assert await village.ask("settlement/transfers", peer="elsewhere") == []
        assert await main.ask("settlement/stuck-transfers", "ana", older_than_s=0) != []
        assert await main.refused("settlement/stuck-transfers", "ana", owner="ben") == (404, "not-found")
        trace = {"peer": "village", "sequence": 2}
        assert (await one(main, "transfer-trace", "ben", **trace))["sender"] == "wallet:ben"
        assert await main.refused("settlement/transfer-trace", "ana", **trace) == (404, "not-found")

    run(scene)


def test_a_failed_transfer_is_refunded_and_its_trace_says_why(run: Any) -> None:
    async def scene(main: Economy, village: Economy) -> None:
        await send(main, "ana", recipient="wallet:nobody")
        main.later(hours=2)
        village.later(hours=1)
        await relay(main, village)
        await relay(village, main)
        trace = await one(main, "transfer-trace", "ana", peer="village", sequence=1)
        assert (trace["status"], trace["reason"]) == ("refunded", "account-is-not-open")
        initiated, refunded = trace["steps"]
        assert (initiated["step"], initiated["at"], initiated["peer_at"]) == ("initiated", shown(START), None)
        assert refunded["step"] == "refunded" and refunded["reason"] == "account-is-not-open"
        assert refunded["at"] == shown(START + timedelta(hours=2))
        assert refunded["peer_at"] == shown(START + timedelta(hours=1))
        moved = await main.ask("ledger/transaction", transaction=refunded["transaction"])
        assert names(moved, "account", "amount") == [("bridge:village", "-100"), ("wallet:ana", "100")]
        other = await one(village, "transfer-trace", peer="main", sequence=1, direction="in")
        assert names(other["steps"], "step", "reason") == [("failed", "account-is-not-open")]
        (balance,) = await main.ask("ledger/balance", "ana")
        assert balance["posted"] == "1000"

    run(scene)


def test_what_is_not_delivered_in_time_is_refused_by_a_timer_and_refunded(run: Any) -> None:
    async def scene(main: Economy, village: Economy) -> None:
        await send(main, "ana")
        await village.issue(SuspendPeer("main", "asked"))
        await main.catch_up()
        assert [timer for timer, *_ in due(main)] == ["transfer:village:1"]
        assert main.timers()["timeout:village:1"][:2] == (START + DAY, "settlement/refuse-transfer")
        await village.issue(ResumePeer("main", "asked"))
        main.later(days=1)
        village.later(days=1)
        assert [timer for timer, *_ in due(main)] == ["timeout:village:1", "transfer:village:1"]
        await relay(main, village)
        assert names(await village.ask("settlement/transfers"), "status") == [("refused",)]
        assert await relay(village, main) == ["reception:main:1"]
        (sent,) = await main.ask("settlement/transfers", "ana", status="refunded")
        assert (sent["reason"], sent["peer_at"]) == ("timed-out", shown(START + DAY))
        assert due(main) == []

    run(scene)


def test_reports_are_taken_away_once_a_later_packet_says_that_they_came(run: Any) -> None:
    async def scene(main: Economy, village: Economy) -> None:
        for _ in range(3):
            await send(main, "ana", amount=1)
        await relay(main, village)
        await relay(village, main)
        assert [timer for timer, *_ in due(village)] == [f"reception:main:{n}" for n in (1, 2, 3)]
        await send(main, "ana", amount=1)
        await relay(main, village)
        assert [timer for timer, *_ in due(village)] == ["reception:main:4"]

    run(scene)


def test_peers_count_their_packets_in_both_directions(run: Any) -> None:
    async def scene(main: Economy, village: Economy) -> None:
        await send(main, "ana")
        await send(main, "ana", recipient="wallet:nobody")
        await send(main, "ana")
        await relay(main, village)
        await main.catch_up()
        before = await one(main, "peers", "ben")
        await relay(village, main)
        await send(village, "vic", asset="main/FOG", recipient="wallet:ben", amount=50)
        main.later(days=2)
        village.later(days=2)
        await relay(village, main)
        fields = ("sent", "delivered", "refunded", "in_flight", "received", "failed", "refused", "vouchers")
        assert names([before], *fields) == [(3, 0, 0, 3, 0, 0, 0, 0)]
        assert before["peer_time"] is None and before["key"] == key_of("village")
        assert names([await one(main, "peers", "ben")], *fields) == [(3, 2, 1, 0, 0, 0, 1, 0)]
        assert names([await one(village, "peers", peer="main")], *fields) == [(1, 0, 0, 1, 2, 1, 0, 1)]
        await main.issue(SuspendPeer("village", "a leak"))
        main.later(hours=1)
        await main.issue(RotatePeerKey("village", key_of("village-2")))
        await main.catch_up()
        after = await one(main, "peers", peer="village")
        assert (after["status"], after["reason"]) == ("suspended", "a leak")
        assert (after["key"], after["key_since"]) == (key_of("village-2"), shown(main.now))
        assert (after["registered_at"], after["peer_time"]) == (shown(START), shown(START))
        await main.issue(ResumePeer("village", "it has another"))
        await main.catch_up()
        assert names(await main.ask("settlement/peers"), "status", "reason") == [("active", "it has another")]
        assert await main.ask("settlement/peers", peer="elsewhere") == []

    run(scene)


def test_bridge_liability_is_escrow_here_and_vouchers_there(run: Any) -> None:
    fields = ("peer", "asset", "escrowed", "vouchers", "in_flight", "transfers_in_flight", "sent", "received")

    async def scene(main: Economy, village: Economy) -> None:
        await main.issue(DefineAsset("GOLD", 2))
        await main.issue(MintTokens("wallet:ben", 10, "find", "g", "GOLD"))
        await send(main, "ana", amount=300)
        await send(main, "ana", amount=40, recipient="wallet:nobody")
        await send(main, "ben", amount=7, asset="GOLD")
        await main.catch_up()
        assert names(await main.ask("settlement/bridge-liability", "ana"), *fields) == [
            ("village", "FOG", "340", "0", "340", 2, "0", "0"),
            ("village", "GOLD", "7", "0", "7", 1, "0", "0"),
        ]
        await relay(main, village)
        await relay(village, main)
        await send(village, "vic", asset="main/FOG", recipient="wallet:ana", amount=120)
        await send(village, "vic", asset="main/FOG", recipient="wallet:nobody", amount=30)
        await village.catch_up()
        assert names(await main.ask("settlement/bridge-liability", asset="FOG"), *fields) == [
            ("village", "FOG", "300", "0", "0", 0, "300", "0")
        ]
        assert names(await village.ask("settlement/bridge-liability"), *fields) == [
            ("main", "main/FOG", "0", "150", "150", 2, "0", "300"),
            ("main", "main/GOLD", "0", "7", "0", 0, "0", "7"),
        ]
        await relay(village, main)
        await relay(main, village)
        await main.catch_up()
        # 300 went out, 120 came home; 30 found nobody and were minted again.
        assert names(await main.ask("settlement/bridge-liability", asset="FOG"), *fields) == [
            ("village", "FOG", "180", "0", "0", 0, "300", "120")
        ]
        (vouchers,) = await village.ask("settlement/bridge-liability", peer="main", asset="main/FOG")
        assert names([vouchers], *fields) == [("main", "main/FOG", "0", "180", "0", 0, "120", "300")]
        assert vouchers["refunded"] == "30"
        (supply,) = await village.ask("ledger/supply", asset="main/FOG")
        escrow = await main.ask("ledger/balance", account="bridge:village")
        assert supply["supply"] == "180" and names(escrow, "asset", "posted") == [
            ("FOG", "180"),
            ("GOLD", "7"),
        ]

    run(scene)


def test_stuck_is_what_is_old_or_timed_out_and_says_what_stands_against_it(run: Any) -> None:
    async def scene(main: Economy, village: Economy) -> None:
        await send(main, "ana", timeout=START + timedelta(minutes=5))
        main.later(minutes=4)
        await send(main, "ben", timeout=START + 30 * DAY)
        await main.catch_up()
        assert await main.ask("settlement/stuck-transfers") == []
        (old,) = await main.ask("settlement/stuck-transfers", older_than_s=240)
        assert (old["sequence"], old["age_s"], old["timed_out"], old["attempts"]) == (1, 240, False, 0)
        with main.database.connect() as connection:
            connection.execute(
                "INSERT INTO timer_fates VALUES ('main', 'transfer:village:1', 2, false, now(), 'peer-not-found')"
            )
        main.later(minutes=1)
        await send(main, "ben", timeout=START + 30 * DAY)
        await main.catch_up()
        (old,) = await main.ask("settlement/stuck-transfers")
        assert (old["age_s"], old["timed_out"]) == (300, True)
        assert (old["attempts"], old["problem"]) == (2, "peer-not-found")
        main.later(minutes=10)
        await send(main, "ben", timeout=START + 30 * DAY)
        await main.catch_up()
        assert names(await main.ask("settlement/stuck-transfers"), "sequence") == [(1,), (2,), (3,)]
        assert names(await main.ask("settlement/stuck-transfers", "ana"), "sequence") == [(1,)]
        assert await main.ask("settlement/stuck-transfers", peer="elsewhere") == []
        village.later(minutes=15)
        await relay(main, village)
        await relay(village, main)
        assert await main.ask("settlement/stuck-transfers", older_than_s=0) == []

    run(scene)


def test_tables_are_the_same_however_they_were_folded(run: Any, monkeypatch: Any) -> None:
    async def scene(main: Economy, village: Economy) -> None:
        for _ in range(2):
            await send(main, "ana", amount=50)
            await send(main, "ben", recipient="wallet:nobody", timeout=START + timedelta(hours=2))
            await relay(main, village)
            await relay(village, main)
            await send(village, "vic", asset="main/FOG", recipient="wallet:ben", amount=20)
            await send(village, "vic", asset="main/FOG", recipient="wallet:nobody", amount=5)
            await send(village, "vic", recipient="wallet:ana", amount=5)
            await relay(village, main)
            await relay(main, village)
            main.later(minutes=61)
            village.later(minutes=59)
        await main.issue(SuspendPeer("village", "-"))
        await main.issue(ResumePeer("village", "-"))
        await send(main, "ana", amount=50)
        await main.catch_up()
        for zone in (main, village):
            followed = zone.digests()
            assert set(followed) >= {"transfers", "timers"}
            zone.rebuild()
            assert zone.digests() == followed
            for limit in (1, 3, 7):
                monkeypatch.setattr(_follower, "read_tail", partial(read_tail, limit=limit))
                zone.forget()
                await main.catch_up()
                await village.catch_up()
                assert zone.digests() == followed, limit
            monkeypatch.undo()

    run(scene)
