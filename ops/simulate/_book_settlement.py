"""Netting windows, obligations and disputes in the simulation's own model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ops.client import Event
from ops.simulate._dues import Dues

Data = dict[str, Any]
Must = Callable[[bool, str], None]


@dataclass(slots=True)
class Obligation:
    debtor: str
    creditor: str
    amount: int
    status: str = "owed"
    """owed, lapsed or settled."""


@dataclass(slots=True)
class Dispute:
    contract: str
    customer: str
    provider: str
    amount: int
    at: datetime
    evidence: set[str] = field(default_factory=set)
    """Who submitted some."""
    open: bool = True


class Settlement:
    def __init__(self, dues: Dues, must: Must) -> None:
        self._dues, self._must = dues, must
        self.open = ""
        """The window that takes obligations."""
        self.windows: dict[str, str] = {}
        """Their status: open, closed, settling, settled or aborted."""
        self.obligations: dict[str, Obligation] = {}
        self.disputes: dict[str, Dispute] = {}
        self.quarrels: defaultdict[str, dict[str, Dispute]] = defaultdict(dict)
        """Open disputes by party."""
        self.departures: Counter[str] = Counter()
        """How often each party left a window, because it could not pay."""
        self.nets: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        """By window, command and asset: receipts less payments; what is not zero in the end is a violation."""
        self.folds = {
            "clearing": self._clearing,
            "netting": self._window,
            "netting-page": self._page,
            "obligation": self._obligation,
            "dispute": self._dispute,
        }

    def owed(self) -> tuple[dict[str, int], dict[str, int]]:
        """What each party owes and is owed, and what is not settled."""
        owes: defaultdict[str, int] = defaultdict(int)
        owed: defaultdict[str, int] = defaultdict(int)
        for each in self.obligations.values():
            if each.status != "settled":
                owes[each.debtor] += each.amount
                owed[each.creditor] += each.amount
        return owes, owed

    def _clearing(self, kind: str, id: str, data: Data, event: Event) -> None:
        self.open = data["open"]

    def _window(self, kind: str, id: str, data: Data, event: Event) -> None:
        at = event.recorded_at
        match kind:
            case "WindowOpened":
                self.windows[id] = "open"
                if data["closes_at"]:
                    self._dues.expect(f"close of {id}", datetime.fromisoformat(data["closes_at"]))
            case "WindowClosed":
                self.windows[id] = "closed"
                self._dues.settle(f"close of {id}")
                self._dues.expect(f"positions of {id}", at)
            case "PositionsNetted" | "PositionsReserved":
                for each in data["positions"]:
                    net = int(each["receives"]) - int(each["pays"])
                    self.nets[id, event.meta["command"], each["asset"]] += net
                if kind == "PositionsReserved":
                    self.windows[id] = "settling"
                    self._dues.settle(f"positions of {id}")
                    self._dues.expect(f"payments of {id}", at)
            case "PartiesLeft":
                self.departures.update(each["party"] for each in data["parties"])
            case "WindowSettled" | "WindowAborted":
                self.windows[id] = "settled" if kind == "WindowSettled" else "aborted"
                for step in ("close", "positions", "payments"):
                    self._dues.settle(f"{step} of {id}")

    def _page(self, kind: str, id: str, data: Data, event: Event) -> None:
        match kind:
            case "ObligationsSettled":
                for name in data["obligations"]:
                    known = self.obligations[name]
                    self._must(
                        known.status == "owed", f"Obligation {name} is settled while it is {known.status}."
                    )
                    known.status = "settled"
            case "ObligationsLapsed":
                for each in data["dues"]:
                    self.obligations[each["obligation"]].status = "lapsed"
            case "ObligationRenewed":
                self.obligations[data["obligation"]].status = "owed"

    def _obligation(self, kind: str, id: str, data: Data, event: Event) -> None:
        self._must(id not in self.obligations, f"Obligation {id} was recorded twice.")
        self.obligations[id] = Obligation(data["debtor"], data["creditor"], int(data["amount"]))
        self._dues.settle(f"obligation {id}")

    def _dispute(self, kind: str, id: str, data: Data, event: Event) -> None:
        match kind:
            case "DisputeOpened":
                at, amount = datetime.fromisoformat(data["at"]), int(data["amount"])
                opened = Dispute(data["contract"], data["customer"], data["provider"], amount, at)
                self.disputes[id] = opened
                for party in (opened.customer, opened.provider):
                    self.quarrels[party][id] = opened
            case "EvidenceSubmitted":
                self.disputes[id].evidence.add(data["by"])
            case "DisputeResolved":
                known = self.disputes[id]
                split = int(data["to_payer"]) + int(data["to_payee"])
                self._must(known.open, f"Dispute {id} was resolved twice.")
                self._must(split == known.amount, f"Dispute {id} shares out {split} of {known.amount}.")
                known.open = False
                for party in (known.customer, known.provider):
                    self.quarrels[party].pop(id, None)
