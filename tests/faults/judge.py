"""A plain model of the ledger that decides every recorded command again, in the order of the log.

It shares no code with the domain. A log is right if each accept and each refusal is the model's own at that place,
with the same effects.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

FOG = "FOG"
Effects = Counter[tuple[str, str, int]]
"""Stream, type and amount of each event."""


class Recorded(NamedTuple):
    """A command's fate as the log keeps it."""

    number: int
    key: str
    principal: str
    request: bytes
    status: int
    answer: bytes
    at: datetime


class Refused(Exception):
    pass


@dataclass
class Held:
    wallet: str
    payee: str
    left: int
    until: datetime
    open: bool = True


def must(allowed: bool) -> None:
    if not allowed:
        raise Refused


@dataclass
class Judge:
    posted: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    held: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    wallets: set[str] = field(default_factory=set)
    holds: dict[str, Held] = field(default_factory=dict)
    judged: Counter[str] = field(default_factory=Counter)

    def judge(self, fate: Recorded) -> str:
        """What is wrong with a fate, or nothing."""
        request = json.loads(fate.request)
        name = request["command"]
        decide = getattr(self, f"_{name.partition('/')[2].replace('-', '_')}", None)
        if not name.startswith("ledger/") or decide is None:
            return ""
        try:
            expected: Effects | None = decide(request["body"], request["act_as"], fate.at)
        except Refused:
            expected = None
        self.judged[f"{name} {fate.status}"] += 1
        if (expected is not None) != (fate.status == 200):
            return (
                f"command {fate.number} ({fate.key}): {fate.status} where the model says otherwise: {request}"
            )
        if expected is not None and expected != _effects(json.loads(fate.answer)["events"]):
            return f"command {fate.number} ({fate.key}): effects differ from the model's: {request}"
        return ""

    # Decisions: they change the model, or raise Refused

    def _open_wallet(self, body: Any, by: str, at: datetime) -> Effects:
        wallet = body["wallet"]
        must(wallet.split(":")[1] == by and wallet not in self.wallets)
        self.wallets.add(wallet)
        return Counter({(wallet, "WalletOpened", 0): 1})

    def _mint_tokens(self, body: Any, by: str, at: datetime) -> Effects:
        amount = int(body["amount"])
        must(body["to"] in self.wallets)
        minted = Counter({("asset:FOG", "TokensMinted", amount): 1})
        return minted + self._move("world", body["to"], amount)

    def _transfer(self, body: Any, by: str, at: datetime) -> Effects:
        source, target, amount = body.get("from", body.get("from_")), body["to"], int(body["amount"])
        self._own(source, by)
        must(target in self.wallets and source != target and self._available(source) >= amount)
        return self._move(source, target, amount)

    def _place_hold(self, body: Any, by: str, at: datetime) -> Effects:
        wallet, name, amount = body["wallet"], body["hold"], int(body["amount"])
        until = datetime.fromisoformat(body["expires_at"].replace("Z", "+00:00"))
        self._own(wallet, by)
        must(name not in self.holds and until > at and self._available(wallet) >= amount)
        self.holds[name] = Held(wallet, body["payee"], amount, until)
        self.held[wallet] += amount
        return Counter({(f"hold:{name}", "HoldPlaced", amount): 1, (wallet, "FundsHeld", amount): 1})

    def _capture_hold(self, body: Any, by: str, at: datetime) -> Effects:
        hold, amount, name = self.holds[body["hold"]], int(body["amount"]), body["hold"]
        must(by == hold.payee and hold.open and at < hold.until and amount <= hold.left)
        rest = hold.left - amount
        hold.left, hold.open = 0, False
        self.held[hold.wallet] -= amount + rest
        effects = Counter(
            {(f"hold:{name}", "HoldCaptured", amount): 1, (hold.wallet, "FundsUnheld", amount): 1}
        )
        if rest:
            effects += Counter(
                {(f"hold:{name}", "HoldReleased", rest): 1, (hold.wallet, "FundsUnheld", rest): 1}
            )
        return effects + self._move(hold.wallet, body["to"], amount)

    def _expire_hold(self, body: Any, by: str, at: datetime) -> Effects:
        hold, name = self.holds[body["hold"]], body["hold"]
        if not hold.open:
            return Counter()
        must(at >= hold.until)
        left, hold.left, hold.open = hold.left, 0, False
        self.held[hold.wallet] -= left
        return Counter({(f"hold:{name}", "HoldExpired", left): 1, (hold.wallet, "FundsUnheld", left): 1})

    def _own(self, wallet: str, by: str) -> None:
        must(wallet in self.wallets and wallet.split(":")[1] == by)

    def _available(self, wallet: str) -> int:
        return self.posted[wallet] - self.held[wallet]

    def _move(self, source: str, target: str, amount: int) -> Effects:
        self.posted[source] -= amount
        self.posted[target] += amount
        return Counter({(source, "Debited", amount): 1, (target, "Credited", amount): 1})


def _effects(events: list[Any]) -> Effects:
    return Counter((e["stream"], e["type"], int(e["data"].get("amount", 0))) for e in events)
