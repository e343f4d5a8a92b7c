"""Read models of approvals: the limits, what was done within them today, and the requests."""

from __future__ import annotations

from datetime import datetime

from commands._codec import EPOCH
from domain.approvals import (
    AllowanceUsed,
    ApprovalLimitSet,
    ApprovalRequested,
    RequestApproved,
    RequestRejected,
    day_of,
)
from projections._engine import Projection, Record, Rows
from projections._tables import Money, Row, Total, table


@table("approvals_limits", key=("act", "asset"))
class Limit(Row):
    act: str
    asset: str
    amount: Money | None = None
    day: str = ""
    used: Total = 0
    set_by: str = ""
    set_at: datetime = EPOCH


@table("approvals_requests", key=("request",), indexes=("status, at",))
class Request(Row):
    request: str
    status: str = "open"
    command: str = ""
    body: str = ""
    by: str = ""
    act: str = ""
    asset: str = ""
    amount: Money = 0
    amount_allowed: Money = 0
    used: Total = 0
    at: datetime = EPOCH
    expires_at: datetime = EPOCH
    decided_by: str = ""
    decided_at: datetime | None = None
    reason: str = ""


approvals = Projection("approvals", Limit, Request)


@approvals.on(ApprovalLimitSet)
def limit_set(rows: Rows, event: ApprovalLimitSet, record: Record) -> None:
    row = rows.of(Limit, event.act, event.asset)
    row.amount, row.set_by, row.set_at = event.limit, event.by, event.at


@approvals.on(AllowanceUsed)
def allowance_used(rows: Rows, event: AllowanceUsed, record: Record) -> None:
    row, day = rows.of(Limit, event.act, event.asset), day_of(event.at)
    row.used = event.amount + (row.used if row.day == day else 0)
    row.day = day


@approvals.on(ApprovalRequested)
def requested(rows: Rows, event: ApprovalRequested, record: Record) -> None:
    row = rows.of(Request, event.request)
    row.command, row.body, row.by = event.command, event.body, event.by
    row.act, row.asset, row.amount = event.act, event.asset, event.amount
    row.amount_allowed, row.used = event.limit, event.used
    row.at, row.expires_at = event.at, event.expires_at


@approvals.on(RequestApproved)
def request_approved(rows: Rows, event: RequestApproved, record: Record) -> None:
    _decided(rows, event, "approved")


@approvals.on(RequestRejected)
def request_rejected(rows: Rows, event: RequestRejected, record: Record) -> None:
    _decided(rows, event, "rejected").reason = event.reason


def _decided(rows: Rows, event: RequestApproved | RequestRejected, status: str) -> Request:
    row = rows.of(Request, event.request)
    row.status, row.decided_by, row.decided_at = status, event.by, event.at
    return row
