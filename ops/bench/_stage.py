"""What all parts stand on: servers of our own, a funded zone, API keys, and the applications under load."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from commands._deciding import Command, Outcome
from commands._log import PostgresLog
from commands._sequencer import Sequencer
from domain.ledger import (
    REWARDS,
    Allocation,
    DistributeRewards,
    MintTokens,
    OpenWallet,
    Transfer,
    distribute_rewards,
    mint_tokens,
    open_wallet,
    transfer,
)
from ops._supervise import Child, spawn
from ops.access import create_key
from ops.bench._load import LoadProcess
from ops.bench._requests import Round, principal, wallet
from ops.bench._scales import Scale
from ops.migrate import migrate
from ops.pool import connect, connect_as_signer
from ops.servers import Servers, start_servers
from ops.settings import APP_ROLE
from ops.zones import ensure_zone

ZONE = "main"
PEPPER = "a pepper for benchmarks only"
READY_WITHIN_S = 90.0
FUNDS = 10**9
MOST_WAITING = 2_048
MOST_A_ROUND = 2_000_000
"""Sequence numbers that a round may use."""
DISTRIBUTED_AT_ONCE = 500
OUR_HTTP = "ops.protocol:Protocol"
RATES = ("COMMANDS", "COMMANDS_PRINCIPAL", "QUERIES", "QUERIES_PRINCIPAL")
OUT_OF_REACH = "900000/9000000"

CLI = [sys.executable, "-m", "ops.cli"]
UVICORN = [
    *(sys.executable, "-m", "uvicorn", "--loop", "uvloop", "--ws", "none"),
    *("--lifespan", "on", "--no-access-log", "--no-server-header", "--log-level", "warning"),
    *("--backlog", "2048", "--timeout-keep-alive", "75"),
]


class BenchFailed(Exception):
    """A part could not be measured; the message is for people."""


@dataclass
class Stage:
    scale: Scale
    seed: int
    folder: Path
    servers: Servers
    begun: float
    say: Callable[[str], None]
    undo: contextlib.ExitStack
    keys: list[str] = field(default_factory=list)
    """API keys of the principals p00, p01, ..."""
    worker_key: str = ""
    load: LoadProcess = field(default_factory=LoadProcess)
    running: dict[str, App] = field(default_factory=dict)
    founded: bool = False
    tags: int = 0

    @property
    def principals(self) -> int:
        return len(self.keys)

    def late(self, share: float) -> bool:
        """Whether this share of the time is used up already."""
        limit = self.scale.limit_s
        return limit is not None and time.monotonic() - self.begun > share * limit

    def connect(self) -> psycopg.Connection[Any]:
        return connect(self.servers.database_url, "fogbook bench", bounded=False)

    def signer(self) -> psycopg.Connection[Any]:
        return connect_as_signer(self.servers.database_url, "fogbook bench", bounded=False)

    def superuser(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.servers.superuser_url, autocommit=True)

    def environment(self) -> dict[str, str]:
        return os.environ | {
            "DATABASE_URL": self.servers.database_url,
            "REDIS_URL": self.servers.redis_url,
            "FOGBOOK_PEPPER": PEPPER,
            "FOGBOOK_WORKER_KEY": self.worker_key,
            # Counted as ever, and never met: here fifty people send what a whole zone would.
            **{f"FOGBOOK_RATE_{name}": OUT_OF_REACH for name in RATES},
        }

    def patience_s(self, quick: float) -> float:
        """How long something may take: as given where time is short, else ten minutes."""
        return quick if self.scale.limit_s is not None else 600.0

    def main_zone(self) -> None:
        """Open and fund the wallets of the zone `main`, once."""
        if not self.founded:
            self.founded = True
            self.say(f"Opening {self.scale.wallets} wallets.")
            found_zone(self, ZONE, self.scale.wallets)

    def fogbook(self) -> App:
        """Our write side with its zone; started here unless it runs."""
        app = self.running.get("transfer") or self.start_fogbook("transfer")
        self.main_zone()
        return app

    def start_fogbook(self, name: str) -> App:
        """One more process of our write side, as `fogbook serve commands` runs it."""
        argv = [*CLI, "serve", "commands", "--home", str(self.folder / "fogbook"), "--port"]
        return self.start(name, argv, {})

    def start_peer(self, name: str, target: str, http: str = "httptools", **env: str) -> App:
        """Another application, under the same server with the same settings; under our protocol as well where it
        stands for our own side."""
        return self.start(name, [*UVICORN, "--http", http, target, "--port"], env)

    def start(self, name: str, argv: list[str], env: dict[str, str]) -> App:
        """An application whose command line ends in its port."""
        app = App(name, free_port(), self.folder / f"{name}.log")
        environment = self.environment() | env
        app.child = spawn([*argv, str(app.port)], log=app.log, env=environment, cwd=self.folder)
        self.undo.callback(app.stop)
        self.running[name] = app
        return app

    def round(self, *apps: App, **changes: Any) -> Round:
        """A closed-loop round against an application, or several that share its connections."""
        self.tags += 1
        terms: dict[str, Any] = {
            "ports": [app.port for app in apps],
            "seconds": self.scale.round_s,
            "connections": self.scale.connections,
            "keys": self.keys,
            "wallets": self.scale.wallets,
            "tag": f"r{self.tags}",
            "seed": self.seed + self.tags,
            "counter": self.tags * MOST_A_ROUND,
        }
        return Round(**(terms | changes))


@dataclass
class App:
    """An application under load."""

    name: str
    port: int
    log: Path
    child: Child | None = None

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.pid

    def ready(self) -> App:
        """Wait until it listens, which uvicorn does once start-up is complete."""
        end = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < end and self.child is not None and self.child.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            time.sleep(0.02)
        raise BenchFailed(f"{self.name} does not start: {tail_of(self.log)}")

    def stop(self) -> None:
        if self.child is not None:
            self.child.stop(5)
            self.child = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tail_of(log: Path) -> str:
    return " ".join(log.read_text(errors="replace").split()[-60:]) if log.exists() else "it said nothing"


@contextlib.contextmanager
def set_up(
    scale: Scale, seed: int, folder: Path, begun: float, say: Callable[[str], None]
) -> Iterator[Stage]:
    """Servers with fsync on, the schema, and API keys of some principals."""
    with contextlib.ExitStack() as undo:
        say("Starting PostgreSQL and Valkey.")
        servers = undo.enter_context(start_servers(folder / "servers", throwaway=True))
        migrate(servers.superuser_url)
        stage = Stage(scale, seed, folder, servers, begun, say, undo)
        undo.callback(stage.load.close)
        principals = min(50, scale.wallets // 2)
        with stage.connect() as connection:
            pepper = PEPPER.encode()
            for number in range(principals):
                name = principal(number, principals)
                terms = {"principal": name, "role": "participant", "zones": ("*",)}
                stage.keys.append(create_key(connection, pepper, **terms).key)  # type: ignore[arg-type]
            stage.worker_key = create_key(
                connection, pepper, principal="worker", role="worker", scopes=("act-at",), zones=("*",)
            ).key
        yield stage


def make_database(stage: Stage, name: str) -> dict[str, str]:
    """A database of its own on the same server, as the `eventsourcing` library's settings name it."""
    with stage.superuser() as connection:
        connection.execute(f"CREATE DATABASE {name} OWNER fogbook")
    parts = conninfo_to_dict(make_conninfo(stage.servers.database_url, dbname=name))
    named = {"DBNAME": "dbname", "HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
    return {f"POSTGRES_{setting}": str(parts[part]) for setting, part in named.items()}


# Making history: real commands through a sequencer of this process


async def submit_all(sequencer: Sequencer, commands: Sequence[Command]) -> None:
    for first in range(0, len(commands), MOST_WAITING):
        outcomes = await asyncio.gather(*map(sequencer.submit, commands[first : first + MOST_WAITING]))
        check(outcomes)


def check(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.status != 200:
            raise BenchFailed(f"a command of the preparation was refused: {outcome.body.decode()}")


def command(
    name: str, body: Any, decide: Callable[..., Any], by: str, key: str, role: str = "participant"
) -> Command:
    request = b'{"command":"%b","act_as":"%b","body":{}}' % (name.encode(), by.encode())
    return Command(f"ledger/{name}", body, decide, by, by, role, key, request)


@contextlib.asynccontextmanager
async def sequencing(stage: Stage, zone: str) -> Any:
    sequencer = Sequencer(zone, PostgresLog(stage.servers.database_url, APP_ROLE))
    if not await sequencer.start():
        raise BenchFailed(f"there is no zone {zone}")
    try:
        yield sequencer
    finally:
        await sequencer.stop()


def found_zone(stage: Stage, zone: str, wallets: int, clock: str = "real") -> None:
    """A zone with that many wallets, all opened by their owners and funded."""
    ensure_zone(stage.servers.database_url, zone, clock)
    asyncio.run(_found(stage, zone, wallets))


async def _found(stage: Stage, zone: str, wallets: int) -> None:
    async with sequencing(stage, zone) as sequencer:
        funds = MintTokens(REWARDS, FUNDS * wallets, "bench", "bench")
        await submit_all(sequencer, [command("mint-tokens", funds, mint_tokens, "admin", "mint", "operator")])
        for first in range(0, wallets, MOST_WAITING):
            numbers = range(first, min(first + MOST_WAITING, wallets))
            await submit_all(sequencer, [_open(stage, number) for number in numbers])
            # Funded while they are still in the sequencer's memory.
            parts = [
                numbers[i : i + DISTRIBUTED_AT_ONCE] for i in range(0, len(numbers), DISTRIBUTED_AT_ONCE)
            ]
            await submit_all(sequencer, [_fund(stage, part) for part in parts])


def _open(stage: Stage, number: int) -> Command:
    body = OpenWallet(wallet(number, stage.principals))
    return command("open-wallet", body, open_wallet, principal(number, stage.principals), f"open-{number}")


def _fund(stage: Stage, numbers: range) -> Command:
    allocations = tuple(Allocation(wallet(number, stage.principals), FUNDS) for number in numbers)
    body = DistributeRewards(f"d{numbers[0]}", "bench", REWARDS, allocations)
    return command("distribute-rewards", body, distribute_rewards, "admin", f"fund-{numbers[0]}", "operator")


def transfers(stage: Stage, count: int, tag: str) -> list[Command]:
    """Random transfers between the wallets of the stage's scale."""
    choose = random.Random(f"{stage.seed}{tag}")
    principals, made = stage.principals, []
    for number in range(count):
        source, target = choose.sample(range(stage.scale.wallets), 2)
        body = Transfer(wallet(source, principals), wallet(target, principals), choose.randint(1, 9))
        by = principal(source, principals)
        made.append(command("transfer", body, transfer, by, f"{tag}-{number}"))
    return made


def grow(stage: Stage, zone: str, events: int, late: float) -> int:
    """Append transfers until the zone holds that many events, or until it is late; returns how many there are."""

    async def grown() -> int:
        async with sequencing(stage, zone) as sequencer:
            step = 0
            while (missing := events - sequencer.head.position) > 0 and not stage.late(late):
                step += 1
                count = min(MOST_WAITING, (missing + 1) // 2)
                await submit_all(sequencer, transfers(stage, count, f"grow{step}"))
            return int(sequencer.head.position)

    return asyncio.run(grown())
