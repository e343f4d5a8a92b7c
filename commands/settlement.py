"""Settlement's commands over HTTP."""

from commands._routes import ANYONE, OPERATOR, PARTICIPANT, SERVICE, Context
from domain.settlement.disputes import OpenDispute, ResolveDispute, SubmitEvidence, disputes
from domain.settlement.transfers import (
    InitiateTransfer,
    ReceiveTransfer,
    RecordAcknowledgement,
    RefuseTransfer,
    RegisterPeer,
    ResumePeer,
    RotatePeerKey,
    SuspendPeer,
    TimeoutTransfer,
    channels,
    packets,
    peers,
    receptions,
)
from domain.settlement.windows import (
    AbortWindow,
    CloseWindow,
    FinaliseSettlement,
    OpenWindow,
    RecordObligation,
    RenewObligation,
    ReservePositions,
    windows,
)

settlement = Context(__name__)

# Netting windows

settlement.post(OpenWindow, OPERATOR, lambda c, by: windows(c.window))
settlement.post(RecordObligation, ANYONE)
settlement.post(RenewObligation, ANYONE)
settlement.post(CloseWindow, SERVICE, lambda c, by: windows(c.window))
settlement.post(ReservePositions, SERVICE, lambda c, by: windows(c.window))
settlement.post(FinaliseSettlement, SERVICE, lambda c, by: windows(c.window))
settlement.post(AbortWindow, OPERATOR, lambda c, by: windows(c.window))

# Disputes

settlement.post(OpenDispute, PARTICIPANT, lambda c, by: disputes(c.dispute))
settlement.post(SubmitEvidence, PARTICIPANT, lambda c, by: disputes(c.dispute))
settlement.post(ResolveDispute, OPERATOR, lambda c, by: disputes(c.dispute))

# Transfers between zones

settlement.post(RegisterPeer, OPERATOR, lambda c, by: peers(c.zone))
settlement.post(RotatePeerKey, OPERATOR, lambda c, by: peers(c.zone))
settlement.post(SuspendPeer, OPERATOR, lambda c, by: peers(c.zone))
settlement.post(ResumePeer, OPERATOR, lambda c, by: peers(c.zone))
settlement.post(InitiateTransfer, PARTICIPANT, lambda c, by: channels(c.target_zone))
settlement.post(ReceiveTransfer, SERVICE, lambda c, by: receptions(c.packet.source, str(c.packet.sequence)))
settlement.post(RefuseTransfer, SERVICE, lambda c, by: receptions(c.packet.source, str(c.packet.sequence)))
settlement.post(RecordAcknowledgement, SERVICE, lambda c, by: packets(c.target_zone, str(c.sequence)))
settlement.post(TimeoutTransfer, SERVICE, lambda c, by: packets(c.target_zone, str(c.sequence)))
