"""What operators and auditors ask of approvals: the limits of what one operator does alone, and who decided what."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from domain._kernel import Id
from projections._tables import Money, Total
from queries._query import SEES_ALL, Context

approvals = Context(__name__)


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of an act operators do alone on one UTC day: `used` is what they did so on `day`, the last day on
    which they did any. Acts without a limit are not listed."""

    act: str
    asset: str
    limit: Money
    day: str
    used: Total
    set_by: str
    set_at: datetime
    version: int
    incomplete: bool


approvals.get(
    "limits",
    Limit,
    """
    SELECT act, asset, amount AS "limit", day, used, set_by, set_at, l.position AS version, incomplete
    FROM read.approvals_limits l JOIN live USING (zone, generation)
    WHERE amount IS NOT NULL
    """,
    key=("act", "asset"),
    roles=SEES_ALL,
)


@dataclass(frozen=True, slots=True)
class OfRequests:
    status: Id = ""
    by: Id = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A command that went beyond a limit and waits for a second operator, or did: `body` is the command as JSON,
    `amount` what it comes to, `limit` and `used` what stood against it. `status` is open, approved or rejected; an
    open one can be approved until `expires_at`."""

    at: datetime
    request: str
    status: str
    command: str
    body: str
    by: str
    act: str
    asset: str
    amount: Money
    limit: Money
    used: Total
    expires_at: datetime
    decided_by: str
    decided_at: datetime | None
    reason: str
    version: int
    incomplete: bool


approvals.get(
    "requests",
    Request,
    """
    SELECT at, request, status, command, body, by, act, asset, amount, amount_allowed AS "limit", used, expires_at,
           decided_by, decided_at, reason, r.position AS version, incomplete
    FROM read.approvals_requests r JOIN live USING (zone, generation)
    WHERE (%(status)s = '' OR status = %(status)s) AND (%(by)s = '' OR by = %(by)s)
    """,
    key=("at", "request"),
    descending=True,
    parameters=OfRequests,
    roles=SEES_ALL,
)
