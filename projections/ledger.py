"""The ledger's read models: balances, statements, holds, assets, transactions, distributions."""

from __future__ import annotations

from datetime import datetime

from commands._codec import EPOCH
from domain.ledger import (
    Credited,
    Debited,
    FundsHeld,
    FundsUnheld,
)
from projections._engine import Projection, Record, Rows
from projections._tables import Money, Row, table


@table("ledger_balances", key=("account", "asset"), indexes=("asset, posted DESC",))
class Balance(Row):
    account: str
    asset: str
    posted: Money = 0
    held: Money = 0


@table("ledger_statement", key=("account", "line"))
class StatementLine(Row):
    account: str
    line: int
    """The position of the posting."""
    asset: str = ""
    amount: Money = 0
    """Signed: what the account gained."""
    posted: Money = 0
    """The account's posted balance after it."""
    counterparty: str = ""
    purpose: str = ""
    reference: str = ""
    memo: str = ""
    transaction: str = ""
    at: datetime = EPOCH


ledger = Projection("ledger", Balance, StatementLine)


@ledger.on(Debited)
def debited(rows: Rows, event: Debited, record: Record) -> None:
    _post(rows, record, event, -event.amount, event.to)


@ledger.on(Credited)
def credited(rows: Rows, event: Credited, record: Record) -> None:
    _post(rows, record, event, event.amount, event.source)


def _post(rows: Rows, record: Record, event: Debited | Credited, amount: int, counterparty: str) -> None:
    balance = rows.of(Balance, record.stream, event.asset)
    balance.posted += amount
    rows.add(
        StatementLine(
            record.stream,
            record.position,
            event.asset,
            amount,
            balance.posted,
            counterparty,
            event.purpose,
            event.reference,
            event.memo,
            record.command,
            record.recorded_at,
        )
    )


@ledger.on(FundsHeld)
def funds_held(rows: Rows, event: FundsHeld, record: Record) -> None:
    rows.of(Balance, record.stream, event.asset).held += event.amount


@ledger.on(FundsUnheld)
def funds_unheld(rows: Rows, event: FundsUnheld, record: Record) -> None:
    rows.of(Balance, record.stream, event.asset).held -= event.amount
