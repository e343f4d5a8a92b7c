"""Accounts, holds and transactions: double entry. Every other context moves value only through `move`.

An account holds, per asset, what is *posted* and what of it is *held*; what is left is *available*. The sum
of all accounts, `world` included, is zero at the end of every command.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from domain._kernel import (
    AMOUNT_LIMIT,
    FOG,
    AccountId,
    Amount,
    AssetCode,
    Count,
    Decision,
    Id,
    Issued,
    NotFound,
    Personal,
    Quantity,
    Read,
    Rejected,
    Stream,
    Text,
    WalletId,
)
from domain.approvals import FREEZE, MINT, Events, Use, limited

WORLD = "world"
TREASURY = "treasury"
FEES = "fees"
BONDED = "pool:bonded"
UNBONDING = "pool:unbonding"
STAKING = "pool:staking"
COMMUNITY = "pool:community"
REWARDS = "pool:rewards"

PUBLIC_FUNDS = frozenset({TREASURY, FEES, COMMUNITY, REWARDS})
"""Accounts that an operator pays from and that anybody may pay into; all others follow a context's rules."""

NAMES_OF_THE_ZONE = frozenset({WORLD, TREASURY, FEES})
"""Accounts that are called as a principal could be: nobody may bear one of these names."""

MOST_ALLOCATIONS = 500
MOST_ASSETS_AN_ACCOUNT = 64

# Events: stored for ever. Add fields with defaults; never rename, never remove.


@dataclass(frozen=True, slots=True)
class WalletOpened:
    owner: str


@dataclass(frozen=True, slots=True)
class WalletReopened:
    """A payout was owed to a closed wallet."""


@dataclass(frozen=True, slots=True)
class WalletFrozen:
    reason: str


@dataclass(frozen=True, slots=True)
class WalletUnfrozen:
    reason: str


@dataclass(frozen=True, slots=True)
class WalletClosed:
    pass


@dataclass(frozen=True, slots=True)
class Debited:
    """Value left this account; `to` received it."""

    asset: str
    amount: Amount
    to: str
    purpose: str
    reference: str = ""
    memo: Personal = ""

    @property
    def posting(self) -> tuple[str, int]:
        return self.asset, -self.amount


@dataclass(frozen=True, slots=True)
class Credited:
    """Value reached this account; `source` gave it."""

    asset: str
    amount: Amount
    source: str
    purpose: str
    reference: str = ""
    memo: Personal = ""

    @property
    def posting(self) -> tuple[str, int]:
        return self.asset, self.amount


@dataclass(frozen=True, slots=True)
class FundsHeld:
    hold: str
    asset: str
    amount: Amount


@dataclass(frozen=True, slots=True)
class FundsUnheld:
    hold: str
    asset: str
    amount: Amount


@dataclass(frozen=True, slots=True)
class AssetDefined:
    scale: int
    cap: Quantity
    """Most units that may exist; 0 for no cap of its own."""


@dataclass(frozen=True, slots=True)
class TokensMinted:
    amount: Amount
    to: str
    reason: str
    reference: str


@dataclass(frozen=True, slots=True)
class TokensBurned:
    amount: Amount
    source: str
    reason: Personal
    reference: str


@dataclass(frozen=True, slots=True)
class HoldPlaced:
    wallet: str
    payee: str
    asset: str
    amount: Amount
    purpose: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class HoldCaptured:
    amount: Amount
    to: str
    final: bool


@dataclass(frozen=True, slots=True)
class HoldReleased:
    amount: Amount


@dataclass(frozen=True, slots=True)
class HoldExpired:
    amount: Amount


@dataclass(frozen=True, slots=True)
class TransactionReversed:
    reversed_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class RewardsDistributed:
    kind: str
    pool: str
    asset: str
    allocated: Amount
    dust: Quantity
    recipients: int


AccountEvent = (
    WalletOpened
    | WalletReopened
    | WalletFrozen
    | WalletUnfrozen
    | WalletClosed
    | Debited
    | Credited
    | FundsHeld
    | FundsUnheld
)
AssetEvent = AssetDefined | TokensMinted | TokensBurned
HoldEvent = HoldPlaced | HoldCaptured | HoldReleased | HoldExpired

# State


@dataclass(frozen=True, slots=True)
class Account:
    owner: str = ""
    status: str = "absent"
    """absent, open, frozen or closed; pools and other accounts of the system need no opening."""
    posted: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)

    def available(self, asset: str) -> int:
        return self.posted.get(asset, 0) - self.held.get(asset, 0)

    @property
    def empty(self) -> bool:
        return not self.posted and not self.held


@dataclass(frozen=True, slots=True)
class Asset:
    defined: bool = False
    scale: int = 0
    cap: int = 0
    minted: int = 0
    burned: int = 0

    @property
    def supply(self) -> int:
        return self.minted - self.burned

    @property
    def limit(self) -> int:
        return self.cap or AMOUNT_LIMIT - 1


@dataclass(frozen=True, slots=True)
class Hold:
    wallet: str = ""
    payee: str = ""
    asset: str = FOG
    amount: int = 0
    captured: int = 0
    released: int = 0
    expired: int = 0
    expires_at: datetime | None = None
    closed: bool = False

    @property
    def remaining(self) -> int:
        return self.amount - self.captured - self.released - self.expired


@dataclass(frozen=True, slots=True)
class Move:
    source: str
    target: str
    asset: str
    amount: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """What one command moved."""

    moves: tuple[Move, ...] = ()
    touches_more: bool = False
    """The command also changed something that moving the money back would not undo."""
    reversed_by: str = ""


@dataclass(frozen=True, slots=True)
class Distribution:
    made: bool = False


# evolve


def _add(amounts: dict[str, int], asset: str, amount: int) -> dict[str, int]:
    total = amounts.get(asset, 0) + amount
    changed = {**amounts, asset: total}
    if not total:
        del changed[asset]
    return changed


def evolve_account(account: Account, event: AccountEvent) -> Account:
    # The first two are most of all events, and `replace` would take three times as long.
    match event:
        case Debited():
            posted = _add(account.posted, event.asset, -event.amount)
            return Account(account.owner, account.status, posted, account.held)
        case Credited():
            posted = _add(account.posted, event.asset, event.amount)
            return Account(account.owner, account.status, posted, account.held)
        case FundsHeld():
            return replace(account, held=_add(account.held, event.asset, event.amount))
        case FundsUnheld():
            return replace(account, held=_add(account.held, event.asset, -event.amount))
        case WalletOpened():
            return replace(account, owner=event.owner, status="open")
        case WalletFrozen():
            return replace(account, status="frozen")
        case WalletReopened() | WalletUnfrozen():
            return replace(account, status="open")
        case WalletClosed():
            return replace(account, status="closed")


def evolve_asset(asset: Asset, event: AssetEvent) -> Asset:
    match event:
        case AssetDefined():
            return replace(asset, defined=True, scale=event.scale, cap=event.cap)
        case TokensMinted():
            return replace(asset, minted=asset.minted + event.amount)
        case TokensBurned():
            return replace(asset, burned=asset.burned + event.amount)


def evolve_hold(hold: Hold, event: HoldEvent) -> Hold:
    match event:
        case HoldPlaced():
            return Hold(event.wallet, event.payee, event.asset, event.amount, expires_at=event.expires_at)
        case HoldCaptured():
            return replace(hold, captured=hold.captured + event.amount, closed=event.final)
        case HoldReleased():
            return replace(hold, released=hold.released + event.amount, closed=True)
        case HoldExpired():
            return replace(hold, expired=hold.expired + event.amount, closed=True)


def evolve_transaction(transaction: Transaction, event: object) -> Transaction:
    match event:
        case Debited():
            begun = Move("", event.to, event.asset, event.amount)
            return replace(transaction, moves=(*transaction.moves, begun))
        case Credited():
            *moves, begun = transaction.moves
            return replace(transaction, moves=(*moves, replace(begun, source=event.source)))
        case TransactionReversed():
            return replace(transaction, reversed_by=event.reversed_by)
        case RewardsDistributed() | WalletOpened() | WalletReopened():
            return transaction
        case _:
            return replace(transaction, touches_more=True)


def evolve_distribution(distribution: Distribution, event: RewardsDistributed) -> Distribution:
    return Distribution(made=True)


accounts = Stream(
    "account",
    Account(),
    evolve_account,
    AccountEvent,
    categories=("wallet", "escrow", "pool", "treasury", "fees", "window", "bridge", "world"),
)
assets = Stream("asset", Asset(), evolve_asset, AssetEvent)
holds = Stream("hold", Hold(), evolve_hold, HoldEvent)
transactions = Stream("transaction", Transaction(), evolve_transaction, TransactionReversed, of_command=True)
distributions = Stream("distribution", Distribution(), evolve_distribution, RewardsDistributed)

# Commands


@dataclass(frozen=True, slots=True)
class DefineAsset:
    """Make an asset known: its scale (decimal places) and the most units that may exist (0: no cap)."""

    asset: AssetCode
    scale: Count
    cap: Quantity = 0


@dataclass(frozen=True, slots=True)
class OpenWallet:
    """Open `wallet:<you>`, or `wallet:<you>:<name>`."""

    wallet: WalletId


@dataclass(frozen=True, slots=True)
class FreezeWallet:
    """Let the wallet start no payment until it is unfrozen. Beyond the zone's limit a second operator is asked
    (`ApprovalRequested`), and nothing is done before he approves."""

    wallet: WalletId
    reason: Text


@dataclass(frozen=True, slots=True)
class UnfreezeWallet:
    """Let the wallet pay again. Beyond the zone's limit of freezing a second operator is asked (`ApprovalRequested`),
    and nothing is done before he approves."""

    wallet: WalletId
    reason: Text


@dataclass(frozen=True, slots=True)
class CloseWallet:
    """Close an empty wallet; a payout that is still owed to it opens it again."""

    wallet: WalletId


@dataclass(frozen=True, slots=True)
class MintTokens:
    """Bring new units into being, within the asset's cap. Beyond the zone's limit a second operator is asked
    (`ApprovalRequested`), and nothing is done before he approves."""

    to: AccountId
    amount: Amount
    reason: Text
    reference: Text
    asset: AssetCode = FOG


@dataclass(frozen=True, slots=True)
class BurnTokens:
    """Destroy units of your own wallet or, as an operator, of a public fund."""

    from_: AccountId
    amount: Amount
    reason: Personal
    reference: Text = ""
    asset: AssetCode = FOG


@dataclass(frozen=True, slots=True)
class Transfer:
    """Pay from your own wallet (as an operator: from a public fund) into a wallet or a public fund."""

    from_: AccountId
    to: AccountId
    amount: Amount
    asset: AssetCode = FOG
    purpose: Text = "transfer"
    reference: Text = ""
    memo: Personal = ""


@dataclass(frozen=True, slots=True)
class PlaceHold:
    """Set an amount aside for one payee, until a time."""

    hold: Id
    wallet: WalletId
    payee: Id
    amount: Amount
    expires_at: datetime
    purpose: Text = "hold"
    asset: AssetCode = FOG


@dataclass(frozen=True, slots=True)
class CaptureHold:
    """As the payee, take some or all of what a hold sets aside; `final` gives the rest back."""

    hold: Id
    amount: Amount
    to: AccountId
    final: bool = True


@dataclass(frozen=True, slots=True)
class ReleaseHold:
    """Give back what a hold still sets aside: the payee at any time, anyone it concerns once it expired."""

    hold: Id


@dataclass(frozen=True, slots=True)
class ExpireHold:
    """Give back what an expired hold still sets aside (issued by a timer)."""

    hold: Id


@dataclass(frozen=True, slots=True)
class ReverseTransaction:
    """Move back all that a transaction moved, once, as a new transaction."""

    transaction: Id
    reason: Text


@dataclass(frozen=True, slots=True)
class Allocation:
    to: AccountId
    amount: Amount


@dataclass(frozen=True, slots=True)
class DistributeRewards:
    """Pay many from a public fund at once; what `total` leaves over goes to the community pool."""

    distribution: Id
    kind: Text
    pool: AccountId
    allocations: tuple[Allocation, ...]
    total: Quantity = 0
    """What leaves the pool; 0 for just the allocations."""
    asset: AssetCode = FOG


# Rules


class WalletNotFound(NotFound):
    """There is no such wallet, or it is not yours."""


class HoldNotFound(NotFound):
    """There is no such hold, or it does not concern you."""


class TransactionNotFound(NotFound):
    """There is no such transaction."""


class WalletBelongsToAnother(Rejected):
    """Only a principal opens the wallets that carry that principal's name."""


class WalletExists(Rejected):
    """This wallet was opened before."""


class WalletIsFrozen(Rejected):
    """A frozen wallet starts no payment."""


class WalletIsNotFrozen(Rejected):
    """Only a frozen wallet can be unfrozen."""


class WalletIsNotEmpty(Rejected):
    """A wallet closes only when nothing is posted to it and nothing is held in it."""


class AccountIsNotOpen(Rejected):
    """The receiving wallet is not open."""


class AccountIsReserved(Rejected):
    """Value enters and leaves this account by its own context's rules only."""


class TransferToItself(Rejected):
    """An account cannot pay itself."""


class AmountMustBePositive(Rejected):
    """An amount is at least one smallest unit."""


class InsufficientFunds(Rejected):
    """The account has less available than the command needs."""


class TooManyAssets(Rejected):
    """An account holds a bounded number of assets."""


class VoucherOfAnotherZone(Rejected):
    """Vouchers of another zone are made and destroyed by transfers between zones only."""


class AssetExists(Rejected):
    """This asset was defined before."""


class AssetIsUnknown(Rejected):
    """No such asset was defined in this zone."""


class ScaleIsTooLarge(Rejected):
    """An asset has at most 18 decimal places."""


class CapExceeded(Rejected):
    """The supply would exceed what the asset's cap allows."""


class HoldExists(Rejected):
    """This hold was placed before."""


class HoldIsClosed(Rejected):
    """This hold has ended: captured for good, released or expired."""


class HoldHasExpired(Rejected):
    """Nothing is captured from a hold at or after its expiry."""


class HoldHasNotExpired(Rejected):
    """Before it expires, only the payee gives a hold back."""


class ExpiryIsPast(Rejected):
    """A hold expires after the moment it is placed."""


class CaptureExceedsHold(Rejected):
    """A capture takes at most what remains of its hold."""


class CaptureGoesToThePayee(Rejected):
    """A hold is captured into a wallet of its payee."""


class TransactionIsReversed(Rejected):
    """A transaction is reversed at most once, and a reversal not at all."""


class TransactionCannotBeReversed(Rejected):
    """The transaction did more than move value, so moving it back would not undo it."""


class DistributionExists(Rejected):
    """This distribution was made before."""


class AllocationsExceedTotal(Rejected):
    """The allocations add up to more than the distribution's total."""


class NumberOfAllocationsIsOutOfRange(Rejected):
    """A distribution has at least one allocation and a bounded number of them."""


# Decisions


def is_wallet(account: str) -> bool:
    return account.startswith("wallet:")


def owner_of(wallet: str) -> str:
    """The principal whose name a wallet's id carries: `wallet:ana:savings` -> `ana`."""
    return wallet.split(":")[1] if is_wallet(wallet) else ""


def wallet_of(principal: str) -> str:
    return f"wallet:{principal}"


def move(
    read: Read,
    source: str,
    target: str,
    amount: int,
    purpose: str,
    *,
    asset: str = FOG,
    reference: str = "",
    memo: str = "",
) -> Decision:
    """Debit one account and credit another. Who may do so was decided by the caller."""
    if amount <= 0:
        raise AmountMustBePositive(amount=amount)
    available = read(accounts, source).available(asset)
    if source != WORLD and available < amount:
        raise InsufficientFunds(account=source, asset=asset, available=available, needed=amount)
    receiver = read(accounts, target)
    # The zone's own token always fits, or a full wallet would block the slash that settles its owner's rewards.
    if asset != FOG and asset not in receiver.posted and len(receiver.posted) >= MOST_ASSETS_AN_ACCOUNT:
        raise TooManyAssets(account=target, limit=MOST_ASSETS_AN_ACCOUNT)
    yield accounts(source), Debited(asset, amount, target, purpose, reference, memo)
    yield accounts(target), Credited(asset, amount, source, purpose, reference, memo)


def pay(
    read: Read,
    issued: Issued,
    source: str,
    target: str,
    amount: int,
    purpose: str,
    *,
    asset: str = FOG,
    reference: str = "",
    memo: str = "",
) -> Decision:
    """A payment that the caller starts, from a wallet of his own or, as an operator, from a public fund."""
    may_spend(read, issued, source)
    yield from move(read, source, target, amount, purpose, asset=asset, reference=reference, memo=memo)


def pay_out(read: Read, source: str, target: str, amount: int, purpose: str, *, asset: str = FOG) -> Decision:
    """A payment that is owed: it opens the wallet, or opens it again, where that is needed."""
    wallet = read(accounts, target)
    if is_wallet(target) and wallet.status == "absent":
        yield accounts(target), WalletOpened(owner_of(target))
    elif wallet.status == "closed":
        yield accounts(target), WalletReopened()
    yield from move(read, source, target, amount, purpose, asset=asset)


def set_aside(read: Read, wallet: str, name: str, amount: int, *, asset: str = FOG) -> Decision:
    """Hold some of a wallet for a purpose of the system's own. Who may do so was decided by the caller.

    `name` contains a `:`, so that it is never the name of anybody's own hold.
    """
    available = read(accounts, wallet).available(asset)
    if available < amount:
        raise InsufficientFunds(account=wallet, asset=asset, available=available, needed=amount)
    yield accounts(wallet), FundsHeld(name, asset, amount)


def let_go(wallet: str, name: str, amount: int, *, asset: str = FOG) -> Decision:
    """Give back what `set_aside` held; to pay from it, move it afterwards."""
    yield accounts(wallet), FundsUnheld(name, asset, amount)


def may_owe(read: Read, debtor: str) -> None:
    """Who is frozen starts no payment, and so promises none that would be taken from him later."""
    if read(accounts, wallet_of(debtor)).status == "frozen":
        raise WalletIsFrozen(wallet=wallet_of(debtor))


def may_spend(read: Read, issued: Issued, source: str) -> Account:
    account = read(accounts, source)
    if is_wallet(source):
        if owner_of(source) != issued.by or account.status in ("absent", "closed"):
            raise WalletNotFound(wallet=source)
        if account.status == "frozen":
            raise WalletIsFrozen(wallet=source)
    elif not issued.is_operator:
        raise WalletNotFound(wallet=source)
    elif source not in PUBLIC_FUNDS:
        raise AccountIsReserved(account=source)
    return account


def may_receive(read: Read, target: str) -> None:
    if is_wallet(target):
        if read(accounts, target).status not in ("open", "frozen"):
            raise AccountIsNotOpen(wallet=target)
    elif target not in PUBLIC_FUNDS:
        raise AccountIsReserved(account=target)


def known(read: Read, asset: str) -> Asset:
    found = read(assets, asset)
    if not found.defined:
        raise AssetIsUnknown(asset=asset)
    return found


def _own_asset(asset: str) -> None:
    if "/" in asset:
        raise VoucherOfAnotherZone(asset=asset)


def define_asset(command: DefineAsset, issued: Issued, read: Read) -> Decision:
    _own_asset(command.asset)
    if read(assets, command.asset).defined:
        raise AssetExists(asset=command.asset)
    if command.scale > 18:
        raise ScaleIsTooLarge(scale=command.scale, limit=18)
    yield assets(command.asset), AssetDefined(command.scale, command.cap)


def open_wallet(command: OpenWallet, issued: Issued, read: Read) -> Decision:
    if owner_of(command.wallet) != issued.by:
        raise WalletBelongsToAnother(wallet=command.wallet, principal=issued.by)
    status = read(accounts, command.wallet).status
    if status == "closed":
        yield accounts(command.wallet), WalletReopened()
    elif status != "absent":
        raise WalletExists(wallet=command.wallet)
    else:
        yield accounts(command.wallet), WalletOpened(issued.by)


def _frozen_or_unfrozen(command: FreezeWallet | UnfreezeWallet, events: Events) -> Use:
    """Unfreezing counts too: otherwise one operator alone would undo what took two."""
    return Use(FREEZE, len(events))


@limited(FreezeWallet, _frozen_or_unfrozen)
def freeze_wallet(command: FreezeWallet, issued: Issued, read: Read) -> Decision:
    status = read(accounts, command.wallet).status
    if not is_wallet(command.wallet) or status in ("absent", "closed"):
        raise WalletNotFound(wallet=command.wallet)
    if status != "frozen":
        yield accounts(command.wallet), WalletFrozen(command.reason)


@limited(UnfreezeWallet, _frozen_or_unfrozen)
def unfreeze_wallet(command: UnfreezeWallet, issued: Issued, read: Read) -> Decision:
    status = read(accounts, command.wallet).status
    if status == "absent":
        raise WalletNotFound(wallet=command.wallet)
    if status != "frozen":
        raise WalletIsNotFrozen(wallet=command.wallet)
    yield accounts(command.wallet), WalletUnfrozen(command.reason)


def close_wallet(command: CloseWallet, issued: Issued, read: Read) -> Decision:
    wallet = may_spend(read, issued, command.wallet)
    if not is_wallet(command.wallet):
        raise WalletNotFound(wallet=command.wallet)
    if not wallet.empty:
        raise WalletIsNotEmpty(wallet=command.wallet, posted=wallet.posted, held=wallet.held)
    yield accounts(command.wallet), WalletClosed()


def _minted(command: MintTokens, events: Events) -> Use:
    return Use(MINT, command.amount, command.asset)


@limited(MintTokens, _minted)
def mint_tokens(command: MintTokens, issued: Issued, read: Read) -> Decision:
    _own_asset(command.asset)
    asset = known(read, command.asset)
    may_receive(read, command.to)
    if asset.supply + command.amount > asset.limit:
        raise CapExceeded(asset=command.asset, supply=asset.supply, limit=asset.limit, amount=command.amount)
    yield (
        assets(command.asset),
        TokensMinted(command.amount, command.to, command.reason, command.reference),
    )
    yield from move(
        read, WORLD, command.to, command.amount, "mint", asset=command.asset, reference=command.reference
    )


def burn_tokens(command: BurnTokens, issued: Issued, read: Read) -> Decision:
    _own_asset(command.asset)
    known(read, command.asset)
    may_spend(read, issued, command.from_)
    yield from burn(
        read, command.from_, command.amount, command.reason, command.reference, asset=command.asset
    )


def burn(read: Read, source: str, amount: int, reason: str, reference: str, *, asset: str = FOG) -> Decision:
    """Take units out of the world. Who may do so was decided by the caller."""
    yield assets(asset), TokensBurned(amount, source, reason, reference)
    yield from move(read, source, WORLD, amount, "burn", asset=asset, reference=reference)


def transfer(command: Transfer, issued: Issued, read: Read) -> Decision:
    may_spend(read, issued, command.from_)
    may_receive(read, command.to)
    if command.from_ == command.to:
        raise TransferToItself(account=command.to)
    yield from move(
        read,
        command.from_,
        command.to,
        command.amount,
        command.purpose,
        asset=command.asset,
        reference=command.reference,
        memo=command.memo,
    )


def place_hold(command: PlaceHold, issued: Issued, read: Read) -> Decision:
    wallet = may_spend(read, issued, command.wallet)
    if command.amount <= 0:
        raise AmountMustBePositive(amount=command.amount)
    if read(holds, command.hold).wallet:
        raise HoldExists(hold=command.hold)
    if command.expires_at <= issued.at:
        raise ExpiryIsPast(expires_at=command.expires_at, now=issued.at)
    available = wallet.available(command.asset)
    if available < command.amount:
        raise InsufficientFunds(
            account=command.wallet, asset=command.asset, available=available, needed=command.amount
        )
    yield (
        holds(command.hold),
        HoldPlaced(
            command.wallet, command.payee, command.asset, command.amount, command.purpose, command.expires_at
        ),
    )
    yield accounts(command.wallet), FundsHeld(command.hold, command.asset, command.amount)


def capture_hold(command: CaptureHold, issued: Issued, read: Read) -> Decision:
    hold = read(holds, command.hold)
    if not hold.wallet or issued.by not in (hold.payee, owner_of(hold.wallet)):
        raise HoldNotFound(hold=command.hold)
    if issued.by != hold.payee or owner_of(command.to) != hold.payee:
        raise CaptureGoesToThePayee(hold=command.hold, payee=hold.payee)
    if hold.closed:
        raise HoldIsClosed(hold=command.hold)
    if hold.expires_at is not None and issued.at >= hold.expires_at:
        raise HoldHasExpired(hold=command.hold, expires_at=hold.expires_at)
    if command.amount <= 0:
        raise AmountMustBePositive(amount=command.amount)
    if command.amount > hold.remaining:
        raise CaptureExceedsHold(hold=command.hold, remaining=hold.remaining, amount=command.amount)
    may_receive(read, command.to)
    final = command.final or command.amount == hold.remaining
    rest = hold.remaining - command.amount
    yield holds(command.hold), HoldCaptured(command.amount, command.to, final)
    yield accounts(hold.wallet), FundsUnheld(command.hold, hold.asset, command.amount)
    if command.to != hold.wallet:
        yield from move(read, hold.wallet, command.to, command.amount, "capture", asset=hold.asset)
    if final and rest:
        yield holds(command.hold), HoldReleased(rest)
        yield accounts(hold.wallet), FundsUnheld(command.hold, hold.asset, rest)


def release_hold(command: ReleaseHold, issued: Issued, read: Read) -> Decision:
    hold = read(holds, command.hold)
    concerned = (hold.payee, owner_of(hold.wallet))
    if not hold.wallet or not (issued.by in concerned or issued.is_operator):
        raise HoldNotFound(hold=command.hold)
    if hold.closed:
        raise HoldIsClosed(hold=command.hold)
    expired = hold.expires_at is not None and issued.at >= hold.expires_at
    if not expired and issued.by != hold.payee:
        raise HoldHasNotExpired(hold=command.hold, expires_at=hold.expires_at)
    yield holds(command.hold), HoldReleased(hold.remaining)
    yield accounts(hold.wallet), FundsUnheld(command.hold, hold.asset, hold.remaining)


def expire_hold(command: ExpireHold, issued: Issued, read: Read) -> Decision:
    hold = read(holds, command.hold)
    if not hold.wallet:
        raise HoldNotFound(hold=command.hold)
    if hold.closed:
        return
    if hold.expires_at is not None and issued.at < hold.expires_at:
        raise HoldHasNotExpired(hold=command.hold, expires_at=hold.expires_at)
    yield holds(command.hold), HoldExpired(hold.remaining)
    yield accounts(hold.wallet), FundsUnheld(command.hold, hold.asset, hold.remaining)


def reverse_transaction(command: ReverseTransaction, issued: Issued, read: Read) -> Decision:
    original = read(transactions, command.transaction)
    if not original.moves:
        raise TransactionNotFound(transaction=command.transaction)
    if original.reversed_by:
        raise TransactionIsReversed(transaction=command.transaction, reversed_by=original.reversed_by)
    if original.touches_more:
        raise TransactionCannotBeReversed(transaction=command.transaction)
    yield transactions(command.transaction), TransactionReversed(issued.command_id, command.reason)
    for done in reversed(original.moves):
        yield from pay_out(read, done.target, done.source, done.amount, "reversal", asset=done.asset)


def distribute_rewards(command: DistributeRewards, issued: Issued, read: Read) -> Decision:
    if read(distributions, command.distribution).made:
        raise DistributionExists(distribution=command.distribution)
    if not 1 <= len(command.allocations) <= MOST_ALLOCATIONS:
        raise NumberOfAllocationsIsOutOfRange(limit=MOST_ALLOCATIONS, number=len(command.allocations))
    allocated = sum(allocation.amount for allocation in command.allocations)
    total = command.total or allocated
    if allocated > total:
        raise AllocationsExceedTotal(allocated=allocated, total=total)
    may_spend(read, issued, command.pool)
    dust = total - allocated if command.pool != COMMUNITY else 0
    yield (
        distributions(command.distribution),
        RewardsDistributed(
            command.kind, command.pool, command.asset, allocated, dust, len(command.allocations)
        ),
    )
    for allocation in command.allocations:
        if not is_wallet(allocation.to):
            raise AccountIsReserved(account=allocation.to)
        yield from pay_out(
            read, command.pool, allocation.to, allocation.amount, command.kind, asset=command.asset
        )
    if dust:
        yield from move(read, command.pool, COMMUNITY, dust, "dust", asset=command.asset)
