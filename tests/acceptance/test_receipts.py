"""Receipts of commands that came over HTTP: they convince whoever holds them, whatever becomes of the rest."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from commands._signatures import installation
from ops.app import make_app
from queries._receipts import check_receipt
from tests.acceptance.api import Caller, Village, environment, village
from tests.conftest import PEPPER, Database
from workers.checkpoints import Checkpoints

PROFILE = {"display_name": "Ana of the hills", "contact": "ana@example.com"}


@asynccontextmanager
async def town(database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Village]:
    """Both sides, and a signer whose interval is too long to matter."""
    environment(monkeypatch, database, redis_url)
    secret, stopping = PEPPER.encode(), threading.Event()
    checkpoints = Checkpoints(database.signer, secret, installation(secret), 3_600, stopping)
    thread = threading.Thread(target=checkpoints.run)
    async with village(database, make_app) as v:
        thread.start()
        try:
            yield v
        finally:
            stopping.set()
            await asyncio.to_thread(thread.join)


async def receipt(v: Village, command_id: str, caller: Caller) -> Any:
    response = await v.http.get(f"/history/receipts/{command_id}?wait=true", headers=caller.headers())
    assert response.status_code == 200, response.text
    return response.json()


async def vkeys(v: Village) -> list[str]:
    response = await v.http.get("/history/keys", headers=v.ana.headers())
    return [key["vkey"] for key in response.json()["keys"]]


def test_whoever_pays_takes_a_receipt_and_needs_nobody_to_believe_it(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with town(database, redis_url, monkeypatch) as v:
            pay = {"from": "wallet:ana", "to": "wallet:ben", "amount": "5"}
            paid = await v.ana.ok("ledger/transfer", pay)
            for_her = await v.admin.ok("ledger/transfer", pay, fogbook_act_as="ana")
            refused = await v.ana.send("ledger/transfer", pay | {"amount": "1000000"})
            assert refused.status_code == 409
            number = int(for_her["command_id"][1:]) + 1
            for id in (paid["command_id"], for_her["command_id"], f"c{number}"):
                check_receipt(await receipt(v, id, v.ana), await vkeys(v))
            body = (await receipt(v, f"c{number}", v.ana))["fate"]["answer"]
            assert base64.b64decode(body) == refused.content

    asyncio.run(scenario())


def test_a_receipt_of_what_is_personal_outlives_its_erasure(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with town(database, redis_url, monkeypatch) as v:
            said = await v.ana.ok("principals/set-profile", PROFILE)
            before, keys = await receipt(v, said["command_id"], v.ana), await vkeys(v)
            await v.admin.ok("principals/erase-subject", {"principal": "ana"})
            after = await receipt(v, said["command_id"], v.auditor)
            for each in (before, after):
                check_receipt(each, keys)
                held = [each["fate"]["request"], each["fate"]["answer"], each["events"][0]["entry"]]
                assert not any(b"hills" in base64.b64decode(part) for part in held)
            assert before["events"][0]["entry"] == after["events"][0]["entry"]

    asyncio.run(scenario())
