"""Netting windows and disputes: who owes, who cannot pay, who quarrels, and the operator who decides."""

from __future__ import annotations

from datetime import timedelta
from zlib import crc32

from ops.simulate._api import Wish, rfc3339
from ops.simulate._book_market import Contract
from ops.simulate._view import FIRST_DAYS_STEP, UNIT, View, dice, wallet, wish

CLOSES_HOUR = 5
"""Of each day, by the simulation's hours."""
BROKE_HOUR, SOLVENT_HOUR = 3, 9
DAY_S = 86_400
HOUR = timedelta(hours=1)


def dispute(view: View, contract: Contract) -> Wish:
    """The caller, a party of the contract, disputes what is left in its escrow."""
    body = {
        "dispute": f"{contract.id}.d",
        "contract": contract.id,
        "reason": "It did not do what was agreed.",
    }
    return wish("settlement/open-dispute", **body)


def evidence(view: View) -> list[Wish]:
    """What a party has to say, once in each of its disputes."""
    wishes = []
    for id, quarrel in view.book.settlement.quarrels[view.who].items():
        if view.who not in quarrel.evidence and dice(id, view.who) < 75:
            digest = f"{crc32(f'{id}/{view.who}'.encode()):08x}"
            body = {"dispute": id, "digest": digest, "note": "The log of that day."}
            wishes.append(wish("settlement/submit-evidence", **body))
    return wishes


class Party:
    """Somebody who settles by netting windows; on a day of his each cannot pay."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wallet = wallet(name)
        self.savings = f"{self.wallet}:savings"

    def plan(self, view: View) -> list[Wish]:
        if view.step < FIRST_DAYS_STEP or self.name not in view.village.circle:
            return []
        debtors = view.village.debtors
        if view.turn("owe", 8, debtors):
            return self.owe(view)
        if view.turn("broke", BROKE_HOUR, debtors):
            return [*self.owe(view), *self._hide(view)]
        if view.turn("broke", SOLVENT_HOUR, debtors) and view.book.available(self.savings):
            return [_move(self.savings, self.wallet, view.book.available(self.savings))]
        return []

    def owe(self, view: View) -> list[Wish]:
        others = sorted(view.village.circle - {self.name})
        amount = view.rng.randint(2 * UNIT, 30 * UNIT)
        body = {
            "debtor": self.name,
            "creditor": view.rng.choice(others),
            "amount": amount,
            "source": view.id("iou"),
        }
        return [wish("settlement/record-obligation", **body)]

    def _hide(self, view: View) -> list[Wish]:
        """All that it has goes out of the reach of the window."""
        wishes = []
        if view.book.status.get(self.savings) != "open":
            wishes.append(wish("ledger/open-wallet", wallet=self.savings))
        amount = view.book.available(self.wallet)
        return [*wishes, _move(self.wallet, self.savings, amount)] if amount else []


def _move(source: str, target: str, amount: int) -> Wish:
    return wish("ledger/transfer", from_=source, to=target, amount=amount, purpose="savings")


def operate(view: View) -> list[Wish]:
    """Keeps a window open, charges the members, and decides disputes."""
    settlement, wishes = view.book.settlement, []
    if view.step >= FIRST_DAYS_STEP - 1 and not settlement.open:
        hours = (CLOSES_HOUR - view.hour - 1) % 24 + 1
        closes_at = rfc3339(view.at + hours * HOUR)
        wishes.append(wish("settlement/open-window", window=view.id("w"), closes_at=closes_at, every_s=DAY_S))
    if view.hour == 7 and settlement.open and view.village.circle:
        member = view.rng.choice(sorted(view.village.circle))
        body = {"debtor": member, "creditor": "fees", "amount": UNIT, "source": view.id("member")}
        wishes.append(wish("settlement/record-obligation", **body))
    if view.hour % 6 == 0:
        for id, each in settlement.disputes.items():
            if each.open and view.since(each.at) >= 3 * HOUR:
                to_payer = each.amount * view.rng.choice((0, 25, 50, 80, 100)) // 100
                split = {"to_payer": to_payer, "to_payee": each.amount - to_payer}
                reason = "Both were heard."
                wishes.append(wish("settlement/resolve-dispute", dispute=id, reason=reason, **split))
    return wishes
