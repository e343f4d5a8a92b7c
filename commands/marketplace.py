"""The marketplace's commands over HTTP: offerings, requests and contracts."""

from commands._routes import OPERATOR, PARTICIPANT, SERVICE, Context
from domain.marketplace.contracts import (
    ExpireContract,
    MeterUsage,
    OpenContract,
    PauseContract,
    RenewContract,
    ReportServiceLevel,
    ResumeContract,
    ReviewProvider,
    SettlePeriod,
    StartService,
    TerminateContract,
    TopUpEscrow,
    contracts,
)
from domain.marketplace.offerings import (
    PauseOffering,
    RegisterOffering,
    RepriceOffering,
    ResumeOffering,
    SetLaneBounds,
    WithdrawOffering,
    lanes,
    offerings,
)
from domain.marketplace.requests import (
    AcceptBid,
    AllocateBurst,
    CloseBidding,
    ExpireRequest,
    MatchRequest,
    PlaceBid,
    RequestService,
    WithdrawBid,
    WithdrawRequest,
    bursts,
    requests,
)

marketplace = Context(__name__)

# Offerings
marketplace.post(RegisterOffering, PARTICIPANT, lambda c, by: offerings(c.offering))
marketplace.post(RepriceOffering, PARTICIPANT, lambda c, by: offerings(c.offering))
marketplace.post(PauseOffering, PARTICIPANT, lambda c, by: offerings(c.offering))
marketplace.post(ResumeOffering, PARTICIPANT, lambda c, by: offerings(c.offering))
marketplace.post(WithdrawOffering, PARTICIPANT, lambda c, by: offerings(c.offering))
marketplace.post(SetLaneBounds, OPERATOR, lambda c, by: lanes(c.service_type, c.region, c.tier))

# Requests
marketplace.post(RequestService, PARTICIPANT, lambda c, by: requests(c.request))
marketplace.post(MatchRequest, PARTICIPANT, lambda c, by: requests(c.request))
marketplace.post(WithdrawRequest, PARTICIPANT, lambda c, by: requests(c.request))
marketplace.post(ExpireRequest, SERVICE, lambda c, by: requests(c.request))
marketplace.post(PlaceBid, PARTICIPANT, lambda c, by: requests(c.request))
marketplace.post(WithdrawBid, PARTICIPANT, lambda c, by: requests(c.request))
marketplace.post(CloseBidding, SERVICE, lambda c, by: requests(c.request))
marketplace.post(AcceptBid, PARTICIPANT, lambda c, by: requests(c.request))
marketplace.post(AllocateBurst, PARTICIPANT, lambda c, by: bursts(c.burst))

# Contracts
marketplace.post(OpenContract, PARTICIPANT, lambda c, by: contracts(c.contract))
marketplace.post(StartService, PARTICIPANT, lambda c, by: contracts(c.contract))
marketplace.post(ExpireContract, SERVICE, lambda c, by: contracts(c.contract))
marketplace.post(MeterUsage, PARTICIPANT, lambda c, by: contracts(c.contract))
marketplace.post(PauseContract, PARTICIPANT, lambda c, by: contracts(c.contract))
marketplace.post(ResumeContract, PARTICIPANT, lambda c, by: contracts(c.contract))
marketplace.post(ReportServiceLevel, SERVICE, lambda c, by: contracts(c.contract))
marketplace.post(SettlePeriod, SERVICE, lambda c, by: contracts(c.contract))
marketplace.post(TopUpEscrow, PARTICIPANT, lambda c, by: contracts(c.contract))
marketplace.post(RenewContract, PARTICIPANT, lambda c, by: contracts(c.contract))
marketplace.post(TerminateContract, PARTICIPANT, lambda c, by: contracts(c.contract))
marketplace.post(ReviewProvider, PARTICIPANT, lambda c, by: contracts(c.contract))
