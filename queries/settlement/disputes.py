"""What people ask of disputes: parties see their own, operators and auditors all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from domain._kernel import Id
from projections._tables import Money
from queries._query import Context

settlement = Context("settlement")


@dataclass(frozen=True, slots=True)
class OfDisputes:
    party: Id = ""
    """The contract's customer or provider."""
    contract: Id = ""
    status: Id = ""


@dataclass(frozen=True, slots=True)
class Dispute:
    """A dispute over a contract's escrow, newest first. `amount` is what the escrow held when it was opened, and still
    holds while `status` is open; once it is resolved, `to_payer` (the customer) + `to_payee` (the provider) is all of
    it."""

    opened_at: datetime
    dispute: str
    contract: str
    customer: str
    provider: str
    opened_by: str
    reason: str
    amount: Money
    status: str
    evidence: int
    resolved_at: datetime | None
    resolved_by: str
    decision: str
    to_payer: Money
    to_payee: Money
    version: int
    incomplete: bool


_DISPUTES = """
SELECT opened_at, dispute, contract, customer, provider, opened_by, reason, amount, status, evidence, resolved_at,
       resolved_by, decision, to_payer, to_payee, d.position AS version, incomplete
FROM read.settlement_disputes d JOIN live USING (zone, generation)
WHERE (%(sees_all)s OR %(principal)s IN (customer, provider))
"""

settlement.get(
    "disputes",
    Dispute,
    _DISPUTES
    + """
      AND (%(party)s = '' OR %(party)s IN (customer, provider))
      AND (%(contract)s = '' OR contract = %(contract)s) AND (%(status)s = '' OR status = %(status)s)
    """,
    key=("opened_at", "dispute"),
    descending=True,
    parameters=OfDisputes,
    own="party",
    projection="disputes",
)


@dataclass(frozen=True, slots=True)
class OfDispute:
    dispute: Id


settlement.get(
    "dispute",
    Dispute,
    _DISPUTES + "AND dispute = %(dispute)s",
    key=("opened_at", "dispute"),
    parameters=OfDispute,
    single=True,
    projection="disputes",
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A piece of evidence that a party submitted, in order: the digest of a document and a note on it."""

    piece: int
    dispute: str
    by: str
    digest: str
    note: str
    at: datetime
    version: int
    incomplete: bool


settlement.get(
    "dispute-evidence",
    Evidence,
    """
    SELECT piece, dispute, e.by, digest, note, at, e.position AS version, e.incomplete OR d.incomplete AS incomplete
    FROM read.settlement_evidence e JOIN live USING (zone, generation)
    JOIN read.settlement_disputes d USING (zone, generation, dispute)
    WHERE dispute = %(dispute)s AND (%(sees_all)s OR %(principal)s IN (customer, provider))
    """,
    key=("piece",),
    parameters=OfDispute,
    projection="disputes",
)
