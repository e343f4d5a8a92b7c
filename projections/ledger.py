"""The ledger's read models: accounts, balances, statements, holds, assets, rewards and what moved each day."""

from __future__ import annotations

import functools
from datetime import UTC, datetime

from commands._codec import EPOCH
from domain.ledger import (
    REWARDS,
    STAKING,
    WORLD,
    AssetDefined,
    Credited,
    Debited,
    FundsHeld,
    FundsUnheld,
    HoldCaptured,
    HoldExpired,
    HoldPlaced,
    HoldReleased,
    RewardsDistributed,
    TokensBurned,
    TokensMinted,
    TransactionReversed,
    WalletClosed,
    WalletFrozen,
    WalletOpened,
    WalletReopened,
    WalletUnfrozen,
    is_wallet,
    owner_of,
)
from projections._engine import Projection, Record, Rows
from projections._tables import Money, Row, Total, table
from projections._timers import schedule, settle, timers


@table("ledger_accounts", key=("account",))
class Account(Row):
    """A wallet that was opened; pools and other accounts of the system need no opening and have no row."""

    account: str
    owner: str = ""
    status: str = ""
    """open, frozen or closed."""
    reason: str = ""
    """Why it is frozen."""
    opened_at: datetime = EPOCH


@table("ledger_balances", key=("account", "asset"), indexes=("asset, posted DESC, account DESC",))
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


@table("ledger_references", key=("reference", "line"))
class Reference(Row):
    """A move that names a reference; `line` is the position of its debit."""

    reference: str
    line: int
    transaction: str = ""


@table("ledger_reversals", key=("transaction",), indexes=("reversed_by",))
class Reversal(Row):
    transaction: str
    reversed_by: str = ""
    reason: str = ""
    at: datetime = EPOCH


@table("ledger_holds", key=("hold",), indexes=("owner, hold", "payee, hold"))
class Hold(Row):
    hold: str
    wallet: str = ""
    owner: str = ""
    payee: str = ""
    asset: str = ""
    amount: Money = 0
    captured: Money = 0
    released: Money = 0
    expired: Money = 0
    purpose: str = ""
    status: str = "open"
    """open, captured (for good), released or expired: what ended it."""
    placed_at: datetime = EPOCH
    expires_at: datetime = EPOCH


@table("ledger_assets", key=("asset",))
class Asset(Row):
    asset: str
    scale: int = 0
    cap: Money = 0
    minted: Total = 0
    burned: Total = 0
    defined_at: datetime = EPOCH


@table("ledger_distributions", key=("transaction",), indexes=("distribution",))
class Distribution(Row):
    transaction: str
    distribution: str = ""
    kind: str = ""
    pool: str = ""
    asset: str = ""
    allocated: Money = 0
    dust: Money = 0
    recipients: int = 0
    at: datetime = EPOCH


@table("ledger_rewards", key=("account", "line"))
class Reward(Row):
    """What a wallet got out of a reward pool or by a distribution."""

    account: str
    line: int
    asset: str = ""
    amount: Money = 0
    kind: str = ""
    pool: str = ""
    distribution: str = ""
    transaction: str = ""
    at: datetime = EPOCH


@table("ledger_days", key=("asset", "day"))
class Day(Row):
    """What happened to an asset on one day (UTC)."""

    asset: str
    day: str
    """YYYY-MM-DD."""
    transfers: int = 0
    """Moves between two accounts of the zone; minting and burning are none."""
    volume: Total = 0
    """What those moved."""
    minted: Total = 0
    burned: Total = 0


ledger = Projection(
    "ledger",
    Account,
    Balance,
    StatementLine,
    Reference,
    Reversal,
    Hold,
    Asset,
    Distribution,
    Reward,
    Day,
)

# Postings


@ledger.on(Debited)
def debited(rows: Rows, event: Debited, record: Record) -> None:
    _post(rows, record, event, -event.amount, event.to)
    if event.reference:
        rows.add(Reference(event.reference, record.position, record.command))
    if WORLD not in (record.stream, event.to):
        day = _day(rows, event.asset, record)
        day.transfers += 1
        day.volume += event.amount


@ledger.on(Credited)
def credited(rows: Rows, event: Credited, record: Record) -> None:
    _post(rows, record, event, event.amount, event.source)
    if not is_wallet(record.stream) or is_wallet(event.source):
        return
    distribution = rows.find(Distribution, record.command)
    if distribution or event.source in (REWARDS, STAKING):
        rows.add(
            Reward(
                record.stream,
                record.position,
                event.asset,
                event.amount,
                event.purpose,
                event.source,
                distribution.distribution if distribution else "",
                record.command,
                record.recorded_at,
            )
        )


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


def _day(rows: Rows, asset: str, record: Record) -> Day:
    return rows.of(Day, asset, day_of(record))


def day_of(record: Record) -> str:
    return _day_of(record.recorded_at)


@functools.lru_cache(maxsize=256)
def _day_of(at: datetime) -> str:
    """Most events that are folded at once share their times."""
    return at.astimezone(UTC).date().isoformat()


@ledger.on(FundsHeld)
def funds_held(rows: Rows, event: FundsHeld, record: Record) -> None:
    rows.of(Balance, record.stream, event.asset).held += event.amount


@ledger.on(FundsUnheld)
def funds_unheld(rows: Rows, event: FundsUnheld, record: Record) -> None:
    rows.of(Balance, record.stream, event.asset).held -= event.amount


@ledger.on(TransactionReversed)
def transaction_reversed(rows: Rows, event: TransactionReversed, record: Record) -> None:
    rows.add(Reversal(record.id, event.reversed_by, event.reason, record.recorded_at))


@ledger.on(RewardsDistributed)
def rewards_distributed(rows: Rows, event: RewardsDistributed, record: Record) -> None:
    row = rows.of(Distribution, record.command)
    row.distribution, row.kind, row.pool, row.asset = record.id, event.kind, event.pool, event.asset
    row.allocated, row.dust, row.recipients = event.allocated, event.dust, event.recipients
    row.at = record.recorded_at


# Wallets


@ledger.on(WalletOpened)
def wallet_opened(rows: Rows, event: WalletOpened, record: Record) -> None:
    row = rows.of(Account, record.stream)
    row.owner, row.status, row.opened_at = event.owner, "open", record.recorded_at


@ledger.on(WalletReopened)
def wallet_reopened(rows: Rows, event: WalletReopened, record: Record) -> None:
    rows.of(Account, record.stream).status = "open"


@ledger.on(WalletFrozen)
def wallet_frozen(rows: Rows, event: WalletFrozen, record: Record) -> None:
    row = rows.of(Account, record.stream)
    row.status, row.reason = "frozen", event.reason


@ledger.on(WalletUnfrozen)
def wallet_unfrozen(rows: Rows, event: WalletUnfrozen, record: Record) -> None:
    row = rows.of(Account, record.stream)
    row.status, row.reason = "open", ""


@ledger.on(WalletClosed)
def wallet_closed(rows: Rows, event: WalletClosed, record: Record) -> None:
    rows.of(Account, record.stream).status = "closed"


# Assets


@ledger.on(AssetDefined)
def asset_defined(rows: Rows, event: AssetDefined, record: Record) -> None:
    row = rows.of(Asset, record.id)
    row.scale, row.cap, row.defined_at = event.scale, event.cap, record.recorded_at


@ledger.on(TokensMinted)
def tokens_minted(rows: Rows, event: TokensMinted, record: Record) -> None:
    rows.of(Asset, record.id).minted += event.amount
    _day(rows, record.id, record).minted += event.amount


@ledger.on(TokensBurned)
def tokens_burned(rows: Rows, event: TokensBurned, record: Record) -> None:
    rows.of(Asset, record.id).burned += event.amount
    _day(rows, record.id, record).burned += event.amount


# Holds


@ledger.on(HoldPlaced)
def hold_placed(rows: Rows, event: HoldPlaced, record: Record) -> None:
    row = rows.of(Hold, record.id)
    row.wallet, row.owner, row.payee = event.wallet, owner_of(event.wallet), event.payee
    row.asset, row.amount, row.purpose = event.asset, event.amount, event.purpose
    row.placed_at, row.expires_at = record.recorded_at, event.expires_at


@ledger.on(HoldCaptured)
def hold_captured(rows: Rows, event: HoldCaptured, record: Record) -> None:
    row = rows.of(Hold, record.id)
    row.captured += event.amount
    if event.final:
        row.status = "captured"


@ledger.on(HoldReleased)
def hold_released(rows: Rows, event: HoldReleased, record: Record) -> None:
    row = rows.of(Hold, record.id)
    row.released += event.amount
    if row.status == "open":
        row.status = "released"


@ledger.on(HoldExpired)
def hold_expired(rows: Rows, event: HoldExpired, record: Record) -> None:
    row = rows.of(Hold, record.id)
    row.expired += event.amount
    row.status = "expired"


# Timers


def _expiry(record: Record) -> str:
    return f"hold:{record.id}"


@timers.on(HoldPlaced)
def when_a_hold_is_placed_its_expiry_falls_due(rows: Rows, event: HoldPlaced, record: Record) -> None:
    schedule(rows, _expiry(record), record, event.expires_at, "ledger", "expire-hold", hold=record.id)


@timers.on(HoldCaptured)
def when_a_hold_is_captured_for_good_nothing_expires(rows: Rows, event: HoldCaptured, record: Record) -> None:
    if event.final:
        settle(rows, _expiry(record))


@timers.on(HoldReleased)
def when_a_hold_is_released_nothing_expires(rows: Rows, event: HoldReleased, record: Record) -> None:
    settle(rows, _expiry(record))


@timers.on(HoldExpired)
def when_a_hold_has_expired_its_timer_is_done(rows: Rows, event: HoldExpired, record: Record) -> None:
    settle(rows, _expiry(record))
