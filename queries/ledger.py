"""What people ask of the ledger."""

from __future__ import annotations

from dataclasses import dataclass

from domain._kernel import AccountId
from projections._tables import Money
from queries._http import Context

ledger = Context(__name__)


@dataclass(frozen=True, slots=True)
class OfAccount:
    account: AccountId = ""


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account holds per asset: posted, held and available (posted less held)."""

    account: str
    asset: str
    posted: Money
    held: Money
    available: Money
    version: int
    incomplete: bool


ledger.get(
    "balance",
    Balance,
    """
    SELECT account, asset, posted, held, posted - held AS available, b.position AS version, incomplete
    FROM read.ledger_balances b JOIN live USING (zone, generation)
    WHERE account = %(account)s
    """,
    key=("account", "asset"),
    parameters=OfAccount,
    own="account",
)
