"""The simulation's own model of a zone: its events folded plainly, apart from the domain's code and the read models.

This file has the ledger and staking; what devices, the market and settlement tell is folded in files of their own.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ops.client import Event
from ops.simulate._book_devices import Harvest
from ops.simulate._book_market import Market
from ops.simulate._book_settlement import Settlement
from ops.simulate._dues import Dues

FOG = "FOG"
BASE_LOT = "0"
MOST_ID = 64
"""Characters of an id: longer evidence of a slash is counted under a digest of it."""
MOST_VIOLATIONS = 100

Data = dict[str, Any]


@dataclass(slots=True)
class Hold:
    wallet: str
    payee: str
    remaining: int
    expires_at: datetime


@dataclass(slots=True)
class Pool:
    """A validator."""

    operator: str
    commission: int
    changed_at: datetime
    tokens: int = 0
    shares: int = 0
    jailed_until: datetime | None = None
    tombstoned: bool = False

    def worth(self, shares: int) -> int:
        return shares * self.tokens // self.shares if self.shares else 0


@dataclass(slots=True)
class Lot:
    shares: int
    unlocks_at: datetime | None


@dataclass(slots=True)
class Entry:
    """An unbonding entry."""

    delegator: str
    balance: int


@dataclass(slots=True)
class Slashing:
    validator: str
    at: datetime
    appealed: bool = False
    decided: bool = False


@dataclass(frozen=True, slots=True)
class Paid:
    """A transfer between wallets that may still be reversed."""

    transaction: str
    target: str
    amount: int


Pair = tuple[str, str]


def time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def balances() -> defaultdict[Pair, int]:
    return defaultdict(int)


@dataclass
class Book:
    posted: defaultdict[Pair, int] = field(default_factory=balances)
    """By account and asset, as is `held`."""
    held: defaultdict[Pair, int] = field(default_factory=balances)
    supply: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    status: dict[str, str] = field(default_factory=dict)
    """open, frozen or closed, by wallet."""
    holds: dict[str, Hold] = field(default_factory=dict)
    """Those that are open, as are `entries`."""
    pools: dict[str, Pool] = field(default_factory=dict)
    lots: defaultdict[Pair, dict[str, Lot]] = field(default_factory=lambda: defaultdict(dict))
    """By validator and delegator, as is `compounds`."""
    delegates_to: defaultdict[str, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    """Validators by delegator, in the order in which they came."""
    compounds: set[Pair] = field(default_factory=set)
    entries: dict[Pair, Entry] = field(default_factory=dict)
    """By validator and entry."""
    slashings: dict[str, Slashing] = field(default_factory=dict)
    paid: deque[Paid] = field(default_factory=lambda: deque(maxlen=40))
    dues: Dues = field(default_factory=Dues)
    violations: list[str] = field(default_factory=list)
    """What the log says that must never be."""

    def __post_init__(self) -> None:
        self.harvest = Harvest(self.dues, self.must)
        self.market = Market(self.dues, self.must)
        self.settlement = Settlement(self.dues, self.must)
        self._folds: dict[str, Callable[[str, str, Data, Event], None]] = {
            **dict.fromkeys(("validator", "position", "unbonding", "slash"), self._apply_staking),
            **self.harvest.folds,
            **self.market.folds,
            **self.settlement.folds,
        }

    def must(self, holds: bool, sentence: str) -> None:
        if not holds and len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(sentence)

    def available(self, account: str) -> int:
        return self.posted[account, FOG] - self.held[account, FOG]

    def bonded(self, principal: str) -> int:
        """What all positions of a principal are worth, each rounded down as a whole."""
        return sum(
            self.pools[validator].worth(sum(lot.shares for lot in self.lots[validator, principal].values()))
            for validator in self.delegates_to[principal]
        )

    def unbonding(self, principal: str) -> int:
        return sum(entry.balance for entry in self.entries.values() if entry.delegator == principal)

    def trial_balance(self) -> dict[str, int]:
        """The sum of all accounts per asset: zero, whatever happened."""
        sums: defaultdict[str, int] = defaultdict(int)
        for (_, asset), amount in self.posted.items():
            sums[asset] += amount
        return dict(sums)

    def apply(self, event: Event) -> None:
        """Fold one event of the log in, in the order of the log."""
        stream = event.stream
        category, _, id = stream.partition(":")
        fold = self._folds.get(category)
        if fold is not None:
            fold(event.type, id, event.data, event)
        else:
            self._apply_ledger(event.type, event.data, stream, id, event.meta.get("command", ""))

    def _apply_ledger(self, kind: str, data: Data, stream: str, id: str, command: str) -> None:
        match kind:
            case "Debited":
                self.posted[stream, data["asset"]] -= int(data["amount"])
            case "Credited":
                amount = int(data["amount"])
                self.posted[stream, data["asset"]] += amount
                if data["source"].startswith("wallet:") and data["purpose"] not in ("capture", "reversal"):
                    self.paid.append(Paid(command, stream, amount))
            case "FundsHeld":
                self.held[stream, data["asset"]] += int(data["amount"])
            case "FundsUnheld":
                self.held[stream, data["asset"]] -= int(data["amount"])
            case "TokensMinted":
                self.supply[id] += int(data["amount"])
            case "TokensBurned":
                self.supply[id] -= int(data["amount"])
            case "WalletOpened" | "WalletReopened" | "WalletUnfrozen":
                self.status[stream] = "open"
            case "WalletFrozen":
                self.status[stream] = "frozen"
            case "WalletClosed":
                self.status[stream] = "closed"
            case "HoldPlaced":
                amount, until = int(data["amount"]), time(data["expires_at"])
                self.holds[id] = Hold(data["wallet"], data["payee"], amount, until)
                self.dues.expect(f"hold {id}", until)
            case "HoldCaptured":
                self.holds[id].remaining -= int(data["amount"])
                if data["final"]:
                    self._hold_is_over(id)
            case "HoldReleased" | "HoldExpired":
                self._hold_is_over(id)

    def _hold_is_over(self, id: str) -> None:
        self.holds.pop(id, None)
        self.dues.settle(f"hold {id}")

    def _apply_staking(self, kind: str, id: str, data: Data, event: Event) -> None:
        validator, _, delegator = id.partition(":")
        pair = (validator, delegator)
        match kind:
            case "ValidatorRegistered":
                self.pools[id] = Pool(data["operator"], int(data["commission"]), time(data["at"]))
            case "ValidatorEdited":
                pool = self.pools[id]
                pool.commission, pool.changed_at = int(data["commission"]), time(data["at"])
            case "SharesIssued":
                self.pools[id].tokens += int(data["tokens"])
                self.pools[id].shares += int(data["shares"])
            case "SharesBurned":
                self.pools[id].tokens -= int(data["tokens"])
                self.pools[id].shares -= int(data["shares"])
            case "TokensSlashed":
                self.pools[id].tokens -= int(data["tokens"])
            case "TokensRestored":
                self.pools[id].tokens += int(data["tokens"])
            case "ValidatorJailed":
                self.pools[id].jailed_until = time(data["until"])
                self.pools[id].tombstoned |= data["tombstoned"]
            case "ValidatorUnjailed":
                self.pools[id].jailed_until = None
            case "Delegated" | "Undelegated" | "LockExpired" | "AutoCompoundSet" | "CompoundDue":
                self._apply_position(kind, pair, data)
            case _:
                self._apply_unbonding(kind, id, data, event)

    def _apply_position(self, kind: str, pair: Pair, data: Data) -> None:
        compounding = f"compounding of {pair[1]} at {pair[0]}"
        match kind:
            case "Delegated":
                until = time(data["unlocks_at"]) if data["unlocks_at"] else None
                self.lots[pair].setdefault(data["lot"], Lot(0, until)).shares += int(data["shares"])
                self.delegates_to[pair[1]][pair[0]] = None
                if until is not None:
                    self.dues.expect(_lock(pair, data["lot"]), until)
            case "Undelegated":
                self._take_shares(pair, data["lot"], int(data["shares"]))
            case "LockExpired":
                freed = self.lots[pair].pop(data["lot"])
                self.lots[pair].setdefault(BASE_LOT, Lot(0, None)).shares += freed.shares
                self.dues.settle(_lock(pair, data["lot"]))
            case "AutoCompoundSet" if not data["enabled"]:
                self.compounds.discard(pair)
                self.dues.settle(compounding)
            case "AutoCompoundSet" | "CompoundDue":
                self.compounds.add(pair)
                self.dues.expect(compounding, time(data["next_at"]))

    def _take_shares(self, pair: Pair, lot: str, shares: int) -> None:
        self.lots[pair][lot].shares -= shares
        if not self.lots[pair][lot].shares:
            del self.lots[pair][lot]
            self.dues.settle(_lock(pair, lot))
        if not self.lots[pair]:
            del self.lots[pair]
            del self.delegates_to[pair[1]][pair[0]]
            self.compounds.discard(pair)
            self.dues.settle(f"compounding of {pair[1]} at {pair[0]}")

    def _apply_unbonding(self, kind: str, id: str, data: Data, event: Event) -> None:
        match kind:
            case "UnbondingBegan":
                self.entries[id, data["entry"]] = Entry(data["delegator"], int(data["tokens"]))
                self.dues.expect(f"unbonding {data['entry']} of {id}", time(data["matures_at"]))
            case "UnbondingSlashed":
                self.entries[id, data["entry"]].balance -= int(data["tokens"])
            case "UnbondingCancelled" | "UnbondingCompleted":
                del self.entries[id, data["entry"]]
                self.dues.settle(f"unbonding {data['entry']} of {id}")
            case "Slashed":
                self.slashings[id] = Slashing(data["validator"], time(data["at"]))
                if len(f"slash.{id}") <= MOST_ID:
                    self.dues.expect(f"evidence slash.{id}", event.recorded_at)
            case "SlashAppealed":
                self.slashings[id].appealed = True
            case "AppealDecided":
                self.slashings[id].decided = True


def _lock(pair: Pair, lot: str) -> str:
    return f"lock {lot} of {pair[1]} at {pair[0]}"
