"""Deciding a batch of commands on exact state: pure, so that it may run as often as it takes.

Outcomes, rows to store and states afterwards come out together; nothing is changed until the log took the rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

import msgspec
import structlog

from commands._codec import (
    EntryTooLarge,
    command_number,
    encode_json,
    event_encoder,
    event_leaf,
    fate_leaf,
    microseconds,
    state_schema,
    zone_prefix,
)
from commands._log import SNAPSHOT_EVERY, Batch, Entry, Fate, Head
from commands._signatures import verify
from domain._kernel import Issued, Ref, Rejected, Stream, Unbalanced, balance
from domain.principals import may_act_unsigned

log = structlog.get_logger("fogbook.sequencer")


class Command(msgspec.Struct, eq=False):
    """A validated command on its way; `request` is its canonical form, which its key is bound to."""

    name: str
    body: Any
    decide: Callable[..., Any]
    principal: str
    """Whose key it came with."""
    by: str
    """Whom it acts for."""
    role: str
    key: str
    request: bytes
    if_match: int | None = None
    main: Ref | None = None
    """The stream that `if_match` speaks of."""
    dry_run: bool = False
    at: datetime | None = None
    """A named time; only in a zone with a manual clock."""
    correlation: str = ""
    causation: str = ""
    signed: bool = False
    """Whether `decide` uses up a signature of the principal's."""
    deadline: float = 0.0
    outcome: asyncio.Future[Outcome] | None = None


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """A struct, since one is made for every command: a frozen dataclass takes eight times as long."""

    status: int
    body: bytes
    position: int
    hit: bool = False
    """The answer was given before, to the same key."""
    retry_after_s: int = 0


class WrongStream(Exception):
    """A defect: a decision reads a history as another kind than its name says."""


class Known(Protocol):
    """Where states are looked up: those in memory, or as they will be."""

    def get(self, name: str, /) -> Entry | None: ...


class Foreseen:
    """States in memory as they will be once a batch is stored."""

    __slots__ = ("changed", "known")

    def __init__(self, changed: Mapping[str, Entry], known: Known) -> None:
        self.changed = changed
        self.known = known

    def get(self, name: str, /) -> Entry | None:
        entry = self.changed.get(name) or self.known.get(name)
        # What began with a command's events is loaded anew for each batch.
        return None if entry is None or entry.stream.of_command else entry


class States:
    """What decisions read: the states in memory, beneath those the batch and the command changed so far."""

    __slots__ = ("changed", "known", "mine", "missing")

    def __init__(self, known: Known) -> None:
        self.known = known
        self.changed: dict[str, Entry] = {}
        self.mine: dict[str, Entry] = {}
        self.missing: dict[str, Stream[Any]] = {}
        """Streams that are not in memory. Decisions then go on with blank states, to find all that they need;
        what comes of it is thrown away."""

    def entry(self, stream: Stream[Any], name: str) -> Entry:
        entry = self.mine.get(name) or self.changed.get(name) or self.known.get(name)
        if entry is None:
            if name.partition(":")[0] not in stream.categories:
                raise WrongStream(
                    f"{name} is no {stream!r}"
                )  # Kept in memory, it would break whoever needs it.
            self.missing[name] = stream
            entry = Entry(stream, stream.initial, 0, 0)
        return entry

    def __call__(self, stream: Stream[Any], id: str) -> Any:
        return self.entry(stream, stream.name(id)).state

    def apply(self, where: Ref, event: Any) -> int:
        """Fold one event in; returns its version."""
        stream, name = where
        entry = self.mine.get(name)
        if entry is None:
            old = self.entry(stream, name)
            entry = self.mine[name] = Entry(stream, old.state, old.version, old.snapshot)
        entry.state = stream.evolve(entry.state, event)
        entry.version += 1
        return entry.version


class Decided:
    """A batch decided as of a head: its outcomes, its rows and the states after it."""

    def __init__(
        self, zone: str, known: Known, head: Head, at: datetime, commands: Sequence[Command]
    ) -> None:
        self.head = head
        self.at = at
        self.commands = commands
        self.outcomes: list[Outcome] = []
        self.batch = Batch()
        self.unrecorded: list[int] = []
        """Which commands got an outcome that the log does not keep (404, 412, 5xx)."""
        self.states = States(known)
        self._zone = zone
        self._zone_prefix = zone_prefix(zone)
        self._zone_json = encode_json(zone)
        self._at_us = microseconds(at)
        for command in commands:
            recorded = len(self.batch.keys)
            self.outcomes.append(self._decide(command))
            if len(self.batch.keys) == recorded and not command.dry_run:
                self.unrecorded.append(len(self.outcomes) - 1)
        self._add_snapshots()

    @property
    def missing(self) -> dict[str, Stream[Any]]:
        """What has to be loaded before this batch can be decided."""
        return self.states.missing

    @property
    def position(self) -> int:
        return self.head.position + len(self.batch.streams)

    @cached_property
    def after(self) -> Head:
        """Where the log stands once this batch is stored: `head` itself where there is nothing to store."""
        events, fates = len(self.batch.streams), len(self.batch.keys)
        if not fates:
            return self.head
        return Head(self.head.position + events, self.head.number + fates, self.at, self.head.clock)

    def _decide(self, command: Command) -> Outcome:
        """One command's outcome. Its rows and states are added only if all of it went well."""
        states = self.states
        states.mine = {}
        if command.if_match is not None and command.main is not None:
            version = states.entry(*command.main).version
            if version != command.if_match:
                return _stale(command, version, self.position)
        if command.at is not None and (refusal := self._refuse_time(command)):
            return refusal
        number = self.head.number + len(self.batch.keys) + 1
        if command.correlation or command.causation:
            for named in (command.causation, command.correlation):
                if (command_number(named) or 0) >= number:
                    return _unknown_cause(named, self.position)
        issued = Issued(command.by, self.at, command.role, f"c{number}", verify)
        events: list[tuple[Ref, Any]] = []
        versions: list[int] = []
        try:
            if not command.signed:
                may_act_unsigned(type(command.body), issued, states)
            for where, event in command.decide(command.body, issued, states):
                versions.append(states.apply(where, event))
                events.append((where, event))
            if sums := balance(events):
                raise Unbalanced(command.name, sums)
            return self._accept(command, issued.command_id, number, events, versions)
        except Rejected as rule:
            return self._refuse(command, number, rule)
        except EntryTooLarge as error:
            log.error("event_too_large", zone=self._zone, command=command.name, type=str(error))
            return failed()
        except Exception as error:
            if not states.missing:  # On blank states a decision may well break.
                log.error("decision_failed", zone=self._zone, command=command.name, exc_info=error)
            return failed()

    def _refuse_time(self, command: Command) -> Outcome | None:
        assert command.at is not None
        if self.head.clock != "manual":
            return _problem(
                409, "clock-is-real", "Only a zone with a manual clock lets its time be named.", self.position
            )
        if command.at < self.at:
            return _problem(
                409,
                "time-goes-backwards",
                "A zone's time never goes backwards.",
                self.position,
                {"now": _rfc3339(self.at)},
            )
        return None

    def _accept(
        self,
        command: Command,
        command_id: str,
        number: int,
        events: list[tuple[Ref, Any]],
        versions: list[int],
    ) -> Outcome:
        batch, position = self.batch, self.position
        meta_head = encode_json(
            {
                "command": command_id,
                "name": command.name,
                "by": command.by,
                "principal": command.principal,
                "correlation": command.correlation or command_id,
                "causation": command.causation or command_id,
            }
        )[:-1]
        rows = []
        shown = []
        of = len(events)
        for i, ((where, event), version) in enumerate(zip(events, versions, strict=True), 1):
            position += 1
            data = event_encoder(type(event))(event)
            meta = b'%b,"i":%d,"n":%d}' % (meta_head, i, of)
            name, kind = where.name, type(event).__name__
            leaf = event_leaf(self._zone_prefix, position, name, version, kind, self._at_us, meta, data)
            rows.append((name, version, kind, data, meta, leaf))
            shown.append(
                b'{"position":%d,"stream":%b,"version":%d,"type":"%b","data":%b}'
                % (position, encode_json(name), version, kind.encode(), data)
            )
        answer = b'{"command_id":"%b","zone":%b,"position":%d,"events":[%b]}' % (
            command_id.encode(),
            self._zone_json,
            position,
            b",".join(shown),
        )
        if command.dry_run:
            return Outcome(200, answer, position)
        for name, version, kind, data, meta, leaf in rows:
            batch.streams.append(name)
            batch.versions.append(version)
            batch.types.append(kind)
            batch.data.append(data)
            batch.meta.append(meta)
            batch.leaves.append(leaf)
        self._add_fate(command, number, 200, answer, position, of)
        self.states.changed.update(self.states.mine)
        return Outcome(200, answer, position)

    def _refuse(self, command: Command, number: int, rule: Rejected) -> Outcome:
        outcome = _problem(rule.status, rule.rule(), rule.sentence(), self.position, _shown(rule.facts))
        if rule.status == 409 and not command.dry_run:
            self._add_fate(command, number, 409, outcome.body, outcome.position, 0)
        return outcome

    def _add_fate(
        self, command: Command, number: int, status: int, answer: bytes, position: int, events: int
    ) -> None:
        batch = self.batch
        batch.principals.append(command.principal)
        batch.keys.append(command.key)
        batch.act_as.append(command.by)
        batch.requests.append(command.request)
        batch.if_match.append(command.if_match)
        batch.statuses.append(status)
        batch.answers.append(answer)
        batch.positions.append(position)
        batch.event_counts.append(events)
        batch.fate_leaves.append(
            fate_leaf(
                self._zone_prefix,
                number,
                command.principal,
                command.by,
                command.key,
                command.request,
                command.if_match,
                status,
                answer,
                position,
                events,
                self._at_us,
            )
        )

    def _add_snapshots(self) -> None:
        batch = self.batch
        for name, entry in self.states.changed.items():
            if entry.version - entry.snapshot >= SNAPSHOT_EVERY and not entry.stream.of_command:
                entry.snapshot = entry.version
                batch.snapshot_streams.append(name)
                batch.snapshot_versions.append(entry.version)
                batch.snapshot_positions.append(self.position)
                batch.snapshot_schemas.append(state_schema(type(entry.stream.initial)))
                batch.snapshot_states.append(encode_json(entry.state))


# Outcomes other than success


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _shown(facts: dict[str, Any]) -> dict[str, Any]:
    """A rule's facts for JSON: whole numbers as decimal strings, as all amounts are."""

    def show(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: show(inner) for key, inner in value.items()}
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return _rfc3339(value) if isinstance(value, datetime) else value

    return {name: show(value) for name, value in facts.items()}


def _problem(
    status: int, rule: str, detail: str, position: int, facts: dict[str, Any] | None = None
) -> Outcome:
    body = {
        "type": f"/problems/{rule}",
        "title": rule.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        "position": position,
        "facts": facts or {},
    }
    return Outcome(status, encode_json(body), position)


def _stale(command: Command, version: int, position: int) -> Outcome:
    assert command.main is not None
    detail = "The stream has moved on since the version that If-Match names."
    facts = {"stream": command.main.name, "version": str(version)}
    return _problem(412, "stale-version", detail, position, facts)


def _unknown_cause(named: str, position: int) -> Outcome:
    """So that causes always lie before what they caused, and nobody claims a command that is still to come."""
    detail = "There is no such command yet that this one could follow from."
    return _problem(422, "unknown-cause", detail, position, {"command": named})


def remembered(command: Command, fate: Fate) -> Outcome:
    """The answer that a key got before; the key is bound to its command."""
    if fate.request != command.request:
        detail = "This idempotency key was used before, with another command."
        return _problem(422, "idempotency-key-reused", detail, fate.position, {"key": command.key})
    return Outcome(fate.status, fate.answer, fate.position, hit=True)


def unavailable(detail: str) -> Outcome:
    body = {"type": "/problems/unavailable", "title": "Unavailable", "status": 503, "detail": detail}
    return Outcome(503, encode_json(body), 0, retry_after_s=1)


def failed() -> Outcome:
    body = {
        "type": "/problems/internal",
        "title": "Internal",
        "status": 500,
        "detail": "The command failed and changed nothing.",
    }
    return Outcome(500, encode_json(body), 0)
