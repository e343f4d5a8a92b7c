"""A history of all contexts as the log would hold it, made in memory once by the economy of `tests.economy`."""

from __future__ import annotations

import functools
from collections import defaultdict
from datetime import timedelta
from random import Random
from typing import Any

from commands._codec import encode_json, event_encoder, event_leaf, microseconds, zone_prefix
from commands._signatures import public_key, zone_key
from domain._kernel import Rejected
from domain.approvals import SetLimit
from domain.ledger import MintTokens, OpenWallet
from domain.operations import PauseProjection, ResumeProjection
from domain.principals import SetProfile
from domain.settlement.transfers import InitiateTransfer, RegisterPeer, SuspendPeer
from projections._engine import Record
from tests.conftest import PEPPER, Database
from tests.economy import Economy, act, found

STEPS = 700


class Historian(Economy):
    """An economy that keeps its events as the log does."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Record] = []
        self._of_stream: defaultdict[str, int] = defaultdict(int)

    def issue(self, command: Any, by: str = "operator", role: str | None = None) -> Rejected | None:
        rule = super().issue(command, by, role)
        if rule is None:
            for i, (stream, event) in enumerate(self.book.events, 1):
                self._keep(by, i, stream, event)
        return rule

    def _keep(self, by: str, i: int, stream: str, event: Any) -> None:
        self._of_stream[stream] += 1
        number = self.book.commands
        first = f"c{number - number % 3 or 1}"  # Of three commands two follow from one.
        named = {"command": f"c{number}", "by": by, "correlation": first, "causation": first}
        meta = {**named, "i": i, "n": len(self.book.events)}
        self.records.append(
            Record(
                len(self.records) + 1,
                stream,
                self._of_stream[stream],
                type(event).__name__,
                event_encoder(type(event))(event),
                encode_json(meta),
                self.book.now,
            )
        )


@functools.cache
def history(seed: int = 7, steps: int = STEPS) -> tuple[Record, ...]:
    economy, rng = found(Historian), Random(seed)
    for _ in range(steps):
        act(economy, rng)
    _and_more(economy)
    return tuple(economy.records)


def _and_more(economy: Historian) -> None:
    """What the economy does not do by itself: people have profiles and send tokens to another zone, operators
    set limits and hold a read model for a moment."""
    until = economy.book.now + timedelta(days=1)
    for command, by in (
        (OpenWallet("wallet:dora"), "dora"),
        (MintTokens("wallet:dora", 1_000, "start", ""), "operator"),
        (RegisterPeer("village", public_key(zone_key(PEPPER.encode(), "village"))), "operator"),
        *((InitiateTransfer("village", "wallet:vic", 100 + i, until), "dora") for i in range(4)),
        (SuspendPeer("village", "silent"), "operator"),
        (SetProfile("Dora", "dora@example.org"), "dora"),
        (SetLimit("freeze", 100), "operator"),
        (PauseProjection("disputes", "looked at"), "operator"),
        (ResumeProjection("disputes"), "operator"),
    ):
        rule = economy.issue(command, by)
        assert rule is None, (command, rule)


def write(database: Database, records: tuple[Record, ...], zone: str = "main") -> None:
    """Put a history, or its next part, into a database's log."""
    prefix = zone_prefix(zone)
    with database.superuser() as connection, connection.transaction():
        with connection.cursor().copy("COPY events FROM STDIN") as copy:
            for r in records:
                at_us = microseconds(r.recorded_at)
                leaf = event_leaf(prefix, r.position, r.stream, r.version, r.type, at_us, r.meta, r.data)
                copy.write_row(
                    (zone, r.position, r.stream, r.version, r.type, r.data, r.meta, r.recorded_at, leaf)
                )
        connection.execute(
            "INSERT INTO heads (zone, clock, position, recorded_at) VALUES (%s, 'manual', %s, %s)"
            " ON CONFLICT (zone) DO UPDATE SET position = excluded.position, recorded_at = excluded.recorded_at",
            (zone, records[-1].position, records[-1].recorded_at),
        )
