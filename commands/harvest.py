"""Harvest's commands over HTTP."""

from commands._routes import ANYONE, OPERATOR, PARTICIPANT, SERVICE, Context
from domain.harvest import (
    ApproveReward,
    DecideContribution,
    DisputeContribution,
    EnrolHarvester,
    PauseHarvestSession,
    RecordContribution,
    ReportDeviceState,
    ResumeHarvestSession,
    StartHarvestSession,
    StopHarvestSession,
    UpdateHarvestPolicy,
    ValidateContribution,
    contributions,
    harvesters,
    sessions,
)

harvest = Context(__name__)

harvest.post(EnrolHarvester, PARTICIPANT, lambda c, by: harvesters(c.device))
harvest.post(UpdateHarvestPolicy, PARTICIPANT, lambda c, by: harvesters(c.device))
harvest.post(ReportDeviceState, PARTICIPANT, lambda c, by: harvesters(c.device))
harvest.post(StartHarvestSession, PARTICIPANT, lambda c, by: sessions(c.session))
harvest.post(RecordContribution, PARTICIPANT, lambda c, by: sessions(c.session))
harvest.post(PauseHarvestSession, PARTICIPANT, lambda c, by: sessions(c.session))
harvest.post(ResumeHarvestSession, PARTICIPANT, lambda c, by: sessions(c.session))
harvest.post(StopHarvestSession, ANYONE, lambda c, by: sessions(c.session))
harvest.post(ValidateContribution, SERVICE, lambda c, by: contributions(c.session, str(c.seq)))
harvest.post(DisputeContribution, ANYONE, lambda c, by: contributions(c.session, str(c.seq)))
harvest.post(DecideContribution, OPERATOR, lambda c, by: contributions(c.session, str(c.seq)))
harvest.post(ApproveReward, SERVICE, lambda c, by: contributions(c.session, str(c.seq)))
