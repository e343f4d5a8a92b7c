"""Clients of the tests that leave no connection behind, whenever they are cancelled."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.faults import slow


def test_whoever_is_cancelled_while_he_connects_leaves_no_socket_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[socket.socket] = []

    class Noted(socket.socket):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    async def scenario(listening: socket.socket) -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", never)
        monkeypatch.setattr(slow.socket, "socket", Noted)
        stage = SimpleNamespace(world=SimpleNamespace(listening=listening))
        connecting = asyncio.create_task(slow.connect(cast("Any", stage)))
        await asyncio.sleep(0)
        connecting.cancel()
        await asyncio.wait([connecting])
        assert connecting.cancelled()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        asyncio.run(scenario(listening))
    assert [each.fileno() for each in made] == [-1]
