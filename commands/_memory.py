"""The log's in-memory twin, for unit tests: the same interface, the same refusals, no server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from commands._codec import EPOCH, Recorded, command_number, decode_known, state_decoder, state_schema
from commands._log import Batch, Entry, Fate, Head, KeyUsed
from domain._kernel import Stream


@dataclass
class Store:
    """What several `MemoryLog`s of one zone share, as several processes share a database."""

    zone: str = "main"
    head: Head = field(default_factory=lambda: Head(0, 0, EPOCH, "real"))
    events: list[Recorded] = field(default_factory=list)
    fates: dict[tuple[str, str], Fate] = field(default_factory=dict)
    commands: list[tuple[int, int, int]] = field(default_factory=list)
    """Per number, from 1: status, position and number of events."""
    snapshots: dict[str, tuple[int, int, str, bytes]] = field(default_factory=dict)


class MemoryLog:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.loads = 0
        """How many events were read to load streams; tests bound it."""

    async def connect(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def head(self, zone: str) -> Head | None:
        return self.store.head if zone == self.store.zone else None

    async def load(self, zone: str, wanted: dict[str, Stream[Any]], upto: int) -> dict[str, Entry] | None:
        entries: dict[str, Entry] = {}
        for name, stream in wanted.items():
            entry = entries[name] = Entry(stream, stream.initial, 0, 0)
            if name in self.store.snapshots:
                version, position, schema, state = self.store.snapshots[name]
                if position > upto:
                    return None
                kind = type(stream.initial)
                if schema == state_schema(kind):
                    entry.state, entry.version, entry.snapshot = state_decoder(kind)(state), version, version
            if stream.of_command:
                for event in self._of_command(name, upto):
                    entry.state = stream.evolve(entry.state, decode_known(event.type, event.data))
            for event in self.store.events[:upto]:
                if event.stream == name and event.version > entry.version:
                    entry.state = stream.evolve(entry.state, decode_known(event.type, event.data))
                    entry.version = event.version
                    self.loads += 1
        return entries

    def _of_command(self, name: str, upto: int) -> list[Recorded]:
        number = command_number(name.partition(":")[2])
        if number is None or number > len(self.store.commands):
            return []
        status, position, events = self.store.commands[number - 1]
        return self.store.events[position - events : position] if status == 200 and position <= upto else []

    async def tail(self, zone: str, after: int, upto: int) -> AsyncIterator[Recorded]:
        for event in self.store.events[after:upto]:
            yield event

    async def append(self, zone: str, head: Head, at: datetime, batch: Batch) -> bool:
        store = self.store
        if (store.head.position, store.head.number) != (head.position, head.number):
            return False
        keys = list(zip(batch.principals, batch.keys, strict=True))
        if any(key in store.fates for key in keys):
            raise KeyUsed
        if not keys and not batch.streams:
            return True
        assert at >= store.head.at, "time never goes backwards"
        for i, key in enumerate(keys):
            position = batch.positions[i]
            store.fates[key] = Fate(batch.requests[i], batch.statuses[i], batch.answers[i], position)
            store.commands.append((batch.statuses[i], position, batch.event_counts[i]))
        rows = zip(batch.streams, batch.versions, batch.types, batch.data, batch.meta, strict=True)
        for position, (stream, version, kind, data, meta) in enumerate(rows, head.position + 1):
            store.events.append(Recorded(position, stream, version, kind, data, meta, at))
        snapshots = zip(
            batch.snapshot_versions,
            batch.snapshot_positions,
            batch.snapshot_schemas,
            batch.snapshot_states,
            strict=True,
        )
        store.snapshots.update(zip(batch.snapshot_streams, snapshots, strict=True))
        store.head = Head(len(store.events), head.number + len(keys), at, head.clock)
        return True

    async def fates(self, zone: str, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Fate]:
        return {key: self.store.fates[key] for key in keys if key in self.store.fates}

    @asynccontextmanager
    async def locked(self, zone: str) -> AsyncIterator[Head]:
        before = deepcopy(self.store.__dict__)
        try:
            yield self.store.head
        except BaseException:
            self.store.__dict__.update(before)
            raise
