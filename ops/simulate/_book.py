"""The simulation's own model of a zone: its events folded plainly, apart from the domain's code and the read models."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

FOG = "FOG"
BASE_LOT = "0"


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
    matures_at: datetime


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
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


@dataclass
class Book:
    posted: defaultdict[Pair, int] = field(default_factory=lambda: defaultdict(int))
    """By account and asset, as is `held`."""
    held: defaultdict[Pair, int] = field(default_factory=lambda: defaultdict(int))
    supply: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    status: dict[str, str] = field(default_factory=dict)
    """open, frozen or closed, by wallet."""
    holds: dict[str, Hold] = field(default_factory=dict)
    """Those that are open, as are `entries`."""
    pools: dict[str, Pool] = field(default_factory=dict)
    lots: defaultdict[Pair, dict[str, Lot]] = field(default_factory=lambda: defaultdict(dict))
    """By validator and delegator, as is `compounds`."""
    compounds: dict[Pair, datetime] = field(default_factory=dict)
    entries: dict[Pair, Entry] = field(default_factory=dict)
    """By validator and entry."""
    slashings: dict[str, Slashing] = field(default_factory=dict)
    paid: deque[Paid] = field(default_factory=lambda: deque(maxlen=40))

    def available(self, account: str) -> int:
        return self.posted[account, FOG] - self.held[account, FOG]

    def bonded(self, principal: str) -> int:
        """What all positions of a principal are worth."""
        return sum(
            self.pools[validator].worth(sum(lot.shares for lot in lots.values()))
            for (validator, delegator), lots in self.lots.items()
            if delegator == principal and lots
        )

    def unbonding(self, principal: str) -> int:
        return sum(entry.balance for entry in self.entries.values() if entry.delegator == principal)

    def trial_balance(self) -> dict[str, int]:
        """The sum of all accounts per asset: zero, whatever happened."""
        sums: defaultdict[str, int] = defaultdict(int)
        for (_, asset), amount in self.posted.items():
            sums[asset] += amount
        return dict(sums)

    def due(self, at: datetime) -> list[str]:
        """What a timer has to settle by then."""
        return [
            *(f"hold {id}" for id, hold in self.holds.items() if hold.expires_at <= at),
            *(f"unbonding {e} of {v}" for (v, e), entry in self.entries.items() if entry.matures_at <= at),
            *(f"compounding of {d} at {v}" for (v, d), next_at in self.compounds.items() if next_at <= at),
            *(
                f"lock {id} of {d} at {v}"
                for (v, d), lots in self.lots.items()
                for id, lot in lots.items()
                if lot.unlocks_at is not None and lot.unlocks_at <= at
            ),
        ]

    def apply(self, event: dict[str, Any]) -> None:
        """Fold one event of the log in, in the order of the log."""
        kind, data = event["type"], event["data"]
        category, _, id = event["stream"].partition(":")
        if category in ("validator", "position", "unbonding", "slash"):
            self._apply_staking(kind, data, id)
        else:
            self._apply_ledger(kind, data, event["stream"], id, event["meta"]["command"])

    def _apply_ledger(self, kind: str, data: dict[str, Any], stream: str, id: str, command: str) -> None:
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
            case "HoldCaptured":
                self.holds[id].remaining -= int(data["amount"])
                if data["final"]:
                    del self.holds[id]
            case "HoldReleased" | "HoldExpired":
                self.holds.pop(id, None)

    def _apply_staking(self, kind: str, data: dict[str, Any], id: str) -> None:
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
            case "Delegated":
                until = time(data["unlocks_at"]) if data["unlocks_at"] else None
                self.lots[pair].setdefault(data["lot"], Lot(0, until)).shares += int(data["shares"])
            case "Undelegated":
                self._take_shares(pair, data["lot"], int(data["shares"]))
            case "LockExpired":
                freed = self.lots[pair].pop(data["lot"])
                self.lots[pair].setdefault(BASE_LOT, Lot(0, None)).shares += freed.shares
            case "AutoCompoundSet" if not data["enabled"]:
                self.compounds.pop(pair, None)
            case "AutoCompoundSet" | "CompoundDue":
                self.compounds[pair] = time(data["next_at"])
            case "UnbondingBegan":
                entry = Entry(data["delegator"], int(data["tokens"]), time(data["matures_at"]))
                self.entries[id, data["entry"]] = entry
            case "UnbondingSlashed":
                self.entries[id, data["entry"]].balance -= int(data["tokens"])
            case "UnbondingCancelled" | "UnbondingCompleted":
                del self.entries[id, data["entry"]]
            case "Slashed":
                self.slashings[id] = Slashing(data["validator"], time(data["at"]))
            case "SlashAppealed":
                self.slashings[id].appealed = True
            case "AppealDecided":
                self.slashings[id].decided = True

    def _take_shares(self, pair: Pair, lot: str, shares: int) -> None:
        self.lots[pair][lot].shares -= shares
        if not self.lots[pair][lot].shares:
            del self.lots[pair][lot]
        if not self.lots[pair]:
            del self.lots[pair]
            self.compounds.pop(pair, None)
