"""The ledger's commands over HTTP."""

from commands._routes import ANYONE, OPERATOR, PARTICIPANT, SERVICE, Context
from domain.ledger import (
    BurnTokens,
    CaptureHold,
    CloseWallet,
    DefineAsset,
    DistributeRewards,
    ExpireHold,
    FreezeWallet,
    MintTokens,
    OpenWallet,
    PlaceHold,
    ReleaseHold,
    ReverseTransaction,
    Transfer,
    UnfreezeWallet,
    accounts,
    assets,
    holds,
)

ledger = Context(__name__)

ledger.post(OpenWallet, PARTICIPANT, lambda c, by: accounts(c.wallet))
ledger.post(CloseWallet, PARTICIPANT, lambda c, by: accounts(c.wallet))
ledger.post(FreezeWallet, OPERATOR, lambda c, by: accounts(c.wallet))
ledger.post(UnfreezeWallet, OPERATOR, lambda c, by: accounts(c.wallet))
ledger.post(Transfer, PARTICIPANT, lambda c, by: accounts(c.from_))
ledger.post(BurnTokens, PARTICIPANT, lambda c, by: accounts(c.from_))
ledger.post(MintTokens, OPERATOR, lambda c, by: assets(c.asset))
ledger.post(DefineAsset, OPERATOR, lambda c, by: assets(c.asset))
ledger.post(PlaceHold, PARTICIPANT, lambda c, by: accounts(c.wallet))
ledger.post(CaptureHold, PARTICIPANT, lambda c, by: holds(c.hold))
ledger.post(ReleaseHold, ANYONE, lambda c, by: holds(c.hold))
ledger.post(ExpireHold, SERVICE, lambda c, by: holds(c.hold))
ledger.post(ReverseTransaction, OPERATOR)
ledger.post(DistributeRewards, OPERATOR)
