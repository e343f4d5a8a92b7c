"""What one operator may do alone, and what takes two.

Minting, freezing and slashing can each have a limit: so much of it operators do alone on one UTC day, all of them
together, so that neither many small commands nor many names get round it. What goes beyond is not done but kept as a
request, until another operator approves it; it is then decided anew, on exact state. Raising or removing a limit is
itself such an act. No limit is set by default, and then nothing here happens.

Other contexts say which of their commands are limited by `limited`, beside the decision.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, NamedTuple, TypeVar, get_args, get_type_hints

from domain._kernel import (
    FOG,
    Amount,
    AssetCode,
    Decision,
    Id,
    Issued,
    NotFound,
    Quantity,
    Read,
    Rejected,
    Stream,
    Text,
    foresee,
    kebab,
)

ZONE = "zone"
"""The one history of a zone's limits and requests."""
REQUEST_LIFE = timedelta(days=7)
MOST_OPEN_REQUESTS = 100
MOST_LIMITS = 100
MINT = "mint"
SLASH = "slash"
FREEZE = "freeze"
ACTS = frozenset({MINT, SLASH, FREEZE})
LOOSEN = "loosen"
"""Raising or removing a limit: never done alone."""

# Events: stored for ever. Add fields with defaults; never rename, never remove.


@dataclass(frozen=True, slots=True)
class ApprovalLimitSet:
    act: str
    asset: str
    """Whose minting it is; empty for other acts."""
    before: Quantity | None
    limit: Quantity | None
    by: str
    at: datetime

    @property
    def loosens(self) -> bool:
        return self.before is not None and (self.limit is None or self.limit > self.before)


@dataclass(frozen=True, slots=True)
class AllowanceUsed:
    """An operator did alone what a limit allows."""

    act: str
    asset: str
    amount: Amount
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ApprovalRequested:
    """A command would go beyond a limit, and is kept instead."""

    request: str
    command: str
    """`ledger/mint-tokens`"""
    body: str
    """The command as JSON, as a client sends it."""
    by: str
    act: str
    asset: str
    amount: Amount
    limit: Quantity
    used: Quantity
    """What was done alone on this day before."""
    at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class RequestApproved:
    """The events behind this one, of the same command, are what was asked for."""

    request: str
    asked_by: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RequestRejected:
    request: str
    by: str
    reason: str
    at: datetime


ApprovalEvent = ApprovalLimitSet | AllowanceUsed | ApprovalRequested | RequestApproved | RequestRejected

# State


class Use(NamedTuple):
    """How much of a limited act a command comes to."""

    act: str
    amount: int
    asset: str = ""

    @property
    def key(self) -> str:
        return f"{self.act}:{self.asset}" if self.asset else self.act


@dataclass(frozen=True, slots=True)
class KeptCommand:
    command: str
    body: str
    by: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Approvals:
    limits: dict[str, int] = field(default_factory=dict)
    """`mint:FOG` -> what operators do alone on a day; an act without a limit is missing."""
    day: str = ""
    """The UTC day, as `2026-01-31`, that `used` is about."""
    used: dict[str, int] = field(default_factory=dict)
    requests: dict[str, KeptCommand] = field(default_factory=dict)
    """Those that nobody decided; whoever reads them looks at their end."""

    def limit(self, use: Use) -> int | None:
        return 0 if use.act == LOOSEN else self.limits.get(use.key)

    def used_on(self, day: str, use: Use) -> int:
        return self.used.get(use.key, 0) if day == self.day else 0


# evolve


def evolve(state: Approvals, event: ApprovalEvent) -> Approvals:
    match event:
        case ApprovalLimitSet():
            key = Use(event.act, 0, event.asset).key
            limits = {other: limit for other, limit in state.limits.items() if other != key}
            return replace(state, limits=limits if event.limit is None else limits | {key: event.limit})
        case AllowanceUsed():
            day, use = day_of(event.at), Use(event.act, event.amount, event.asset)
            used = state.used if day == state.day else {}
            return replace(state, day=day, used=used | {use.key: used.get(use.key, 0) + use.amount})
        case ApprovalRequested():
            kept = KeptCommand(event.command, event.body, event.by, event.expires_at)
            return replace(state, requests=still_open(state, event.at) | {event.request: kept})
        case RequestApproved() | RequestRejected():
            left = {id: kept for id, kept in state.requests.items() if id != event.request}
            return replace(state, requests=left)


def day_of(at: datetime) -> str:
    return at.astimezone(UTC).date().isoformat()


def still_open(state: Approvals, at: datetime) -> dict[str, KeptCommand]:
    """The requests that can still be approved."""
    return {id: kept for id, kept in state.requests.items() if at < kept.expires_at}


approvals = Stream("approvals", Approvals(), evolve, ApprovalEvent)

# Commands


@dataclass(frozen=True, slots=True)
class SetLimit:
    """Say how much of an act operators do alone on one UTC day, all of them together: `mint` (units of one asset),
    `slash` (tokens burned) or `freeze` (wallets frozen or unfrozen). 0: none of it; null: no limit. Raising or
    removing a limit takes a second operator's approval."""

    act: Id
    limit: Quantity | None
    asset: AssetCode = FOG
    """Of minting only."""


@dataclass(frozen=True, slots=True)
class Approve:
    """Have done what another operator asked for: it is decided now, as his command, and its events follow in the same
    answer. Where a rule refuses it by now, this command is refused by that rule, and the request stays open."""

    request: Id


@dataclass(frozen=True, slots=True)
class Reject:
    """Close a request, another operator's or your own, without doing what it asks for."""

    request: Id
    reason: Text


# Rules


class RequestNotFound(NotFound):
    """No such request is open: there is none, it was decided, or it has expired."""


class RequestIsYourOwn(Rejected):
    """What one operator asks for another one approves."""


class RequestIsOpen(Rejected):
    """You have asked for the same before, and it waits for another operator's approval."""


class RequestIsOutdated(Rejected):
    """The kept command is none that this version knows; let it be asked for again."""


class TooManyRequests(Rejected):
    """A bounded number of requests waits for approval at a time."""


class ApprovalIsForOperators(Rejected):
    """Requests are decided by operators, each in his own name."""


class ActHasNoLimits(Rejected):
    """Only some acts can be limited."""


class TooManyLimits(Rejected):
    """A zone has a bounded number of limits."""


# Decisions: what is limited

C = TypeVar("C")
Events = Sequence[Any]
LIMITED: dict[str, tuple[type, Callable[[Any, Issued, Read], Decision]]] = {}
"""Command name -> the command, and its decision apart from any limit; filled by `limited`, used by `approve` alone."""


def limited(
    command: type[C], measure: Callable[[C, Events], Use]
) -> Callable[[Callable[[C, Issued, Read], Decision]], Callable[[C, Issued, Read], Decision]]:
    """A decision that operators make alone within the act's limit only. `measure` says from the command and from the
    events that it comes to how much of which act that is; nothing of it needs no allowance."""
    name = f"{command.__module__.split('.')[1]}/{kebab(command.__name__)}"

    def guard(decide: Callable[[C, Issued, Read], Decision]) -> Callable[[C, Issued, Read], Decision]:
        LIMITED[name] = command, decide

        @wraps(decide)
        def within_limits(command: C, issued: Issued, read: Read) -> Decision:
            state = read(approvals, ZONE)
            if not state.limits:
                yield from decide(command, issued, read)
                return
            decided = foresee(lambda ahead: decide(command, issued, ahead), read)
            use = measure(command, [event for _, event in decided])
            limit, used = state.limit(use), state.used_on(day_of(issued.at), use)
            if limit is None or not use.amount:
                yield from decided
            elif used + use.amount <= limit:
                yield from decided
                yield (
                    approvals(ZONE),
                    AllowanceUsed(use.act, use.asset, use.amount, issued.by, issued.at),
                )
            else:
                yield from _ask(state, name, written(command), issued, use, limit, used)

        return within_limits

    return guard


def _ask(state: Approvals, name: str, body: str, issued: Issued, use: Use, limit: int, used: int) -> Decision:
    """Keep a command for another operator to approve."""
    waiting = still_open(state, issued.at)
    for id, kept in waiting.items():
        if (kept.command, kept.body, kept.by) == (name, body, issued.by):
            raise RequestIsOpen(request=id, expires_at=kept.expires_at)
    if len(waiting) >= MOST_OPEN_REQUESTS:
        raise TooManyRequests(limit=MOST_OPEN_REQUESTS)
    yield (
        approvals(ZONE),
        ApprovalRequested(
            request=issued.command_id,
            command=name,
            body=body,
            by=issued.by,
            act=use.act,
            asset=use.asset,
            amount=use.amount,
            limit=limit,
            used=used,
            at=issued.at,
            expires_at=issued.at + REQUEST_LIFE,
        ),
    )


def written(command: Any) -> str:
    """A command as JSON: numbers as decimal strings, times as RFC 3339."""

    def shown(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    said = {f.name: shown(getattr(command, f.name)) for f in fields(command)}
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))


def read_back(command: type[C], body: str) -> C:
    """The command that `written` wrote."""

    def meant(hint: Any, value: Any) -> Any:
        kinds = get_args(hint) or (hint,)
        if value is None or bool in kinds or str in kinds:
            return value
        return datetime.fromisoformat(value) if datetime in kinds else int(value)

    hints = get_type_hints(command)
    return command(**{name: meant(hints[name], value) for name, value in json.loads(body).items()})


# Decisions


def _loosened(command: SetLimit, events: Events) -> Use:
    return Use(LOOSEN, sum(event.loosens for event in events))


@limited(SetLimit, _loosened)
def set_limit(command: SetLimit, issued: Issued, read: Read) -> Decision:
    if command.act not in ACTS:
        raise ActHasNoLimits(act=command.act, known=sorted(ACTS))
    asset = command.asset if command.act == MINT else ""
    limits = read(approvals, ZONE).limits
    before = limits.get(Use(command.act, 0, asset).key)
    if before is None and command.limit is not None and len(limits) >= MOST_LIMITS:
        raise TooManyLimits(limit=MOST_LIMITS)
    if command.limit != before:
        yield (
            approvals(ZONE),
            ApprovalLimitSet(command.act, asset, before, command.limit, issued.by, issued.at),
        )


def undecided(read: Read, id: str, issued: Issued) -> KeptCommand:
    if not issued.is_operator:
        raise ApprovalIsForOperators(principal=issued.by)
    kept = still_open(read(approvals, ZONE), issued.at).get(id)
    if kept is None:
        raise RequestNotFound(request=id)
    return kept


def approve(command: Approve, issued: Issued, read: Read) -> Decision:
    kept = undecided(read, command.request, issued)
    if issued.by == kept.by:
        raise RequestIsYourOwn(request=command.request, by=kept.by)
    try:
        asked, decide = LIMITED[kept.command]
        wanted: Any = read_back(asked, kept.body)
    except (LookupError, TypeError, ValueError):
        raise RequestIsOutdated(request=command.request, command=kept.command) from None
    yield approvals(ZONE), RequestApproved(command.request, kept.by, issued.by, issued.at)
    yield from decide(wanted, replace(issued, by=kept.by, signed=False), read)


def reject(command: Reject, issued: Issued, read: Read) -> Decision:
    undecided(read, command.request, issued)
    yield approvals(ZONE), RequestRejected(command.request, issued.by, command.reason, issued.at)
