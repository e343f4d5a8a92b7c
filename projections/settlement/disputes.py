"""Disputes' read models: what is disputed, with which evidence, and how it was decided."""

from __future__ import annotations

from datetime import datetime

from commands._codec import EPOCH
from domain.settlement.disputes import DisputeOpened, DisputeResolved, EvidenceSubmitted
from projections._engine import Projection, Record, Rows
from projections._tables import Money, Row, table


@table(
    "settlement_disputes",
    key=("dispute",),
    indexes=(
        "status, opened_at, dispute",
        "customer, opened_at, dispute",
        "provider, opened_at, dispute",
        "opened_at, dispute",
        "contract",
    ),
)
class Dispute(Row):
    dispute: str
    contract: str = ""
    customer: str = ""
    provider: str = ""
    opened_by: str = ""
    reason: str = ""
    amount: Money = 0
    """What the escrow held when it was opened; nothing left it since."""
    status: str = "open"
    """open or resolved."""
    evidence: int = 0
    opened_at: datetime = EPOCH
    resolved_at: datetime | None = None
    resolved_by: str = ""
    decision: str = ""
    """The reason that was given for it."""
    to_payer: Money = 0
    to_payee: Money = 0


@table("settlement_evidence", key=("dispute", "piece"))
class Evidence(Row):
    dispute: str
    piece: int
    """The position of the event."""
    by: str = ""
    digest: str = ""
    note: str = ""
    at: datetime = EPOCH


disputes = Projection("disputes", Dispute, Evidence)


@disputes.on(DisputeOpened)
def dispute_opened(rows: Rows, event: DisputeOpened, record: Record) -> None:
    row = rows.of(Dispute, record.id)
    row.contract, row.customer, row.provider = event.contract, event.customer, event.provider
    row.opened_by, row.reason, row.amount, row.opened_at = event.by, event.reason, event.amount, event.at


@disputes.on(EvidenceSubmitted)
def evidence_submitted(rows: Rows, event: EvidenceSubmitted, record: Record) -> None:
    rows.of(Dispute, record.id).evidence += 1
    rows.add(Evidence(record.id, record.position, event.by, event.digest, event.note, event.at))


@disputes.on(DisputeResolved)
def dispute_resolved(rows: Rows, event: DisputeResolved, record: Record) -> None:
    row = rows.of(Dispute, record.id)
    row.status, row.resolved_at, row.resolved_by = "resolved", event.at, event.by
    row.decision, row.to_payer, row.to_payee = event.reason, event.to_payer, event.to_payee
