"""Commands of approvals over HTTP."""

from commands._routes import OPERATOR, Context
from domain.approvals import ZONE, Approve, Reject, SetLimit
from domain.approvals import approvals as zone_approvals

approvals = Context(__name__)

approvals.post(SetLimit, OPERATOR, lambda c, by: zone_approvals(ZONE))
approvals.post(Approve, OPERATOR, lambda c, by: zone_approvals(ZONE))
approvals.post(Reject, OPERATOR, lambda c, by: zone_approvals(ZONE))
