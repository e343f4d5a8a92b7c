"""What operators do about read models, over HTTP."""

from commands._routes import OPERATOR, Context
from domain.operations import (
    CancelRebuild,
    DiscardQuarantined,
    PauseProjection,
    RebuildProjection,
    ReinstateDiscarded,
    RepairQuarantined,
    ResumeProjection,
    RetryQuarantined,
    projections,
)

operations = Context(__name__)

operations.post(PauseProjection, OPERATOR, lambda c, by: projections(c.projection))
operations.post(ResumeProjection, OPERATOR, lambda c, by: projections(c.projection))
operations.post(RebuildProjection, OPERATOR, lambda c, by: projections(c.projection))
operations.post(CancelRebuild, OPERATOR, lambda c, by: projections(c.projection))
operations.post(RetryQuarantined, OPERATOR, lambda c, by: projections(c.projection))
operations.post(RepairQuarantined, OPERATOR, lambda c, by: projections(c.projection))
operations.post(DiscardQuarantined, OPERATOR, lambda c, by: projections(c.projection))
operations.post(ReinstateDiscarded, OPERATOR, lambda c, by: projections(c.projection))
