"""Disputes over what is left in a contract's escrow: opened by a party, argued with evidence, decided once.

While a dispute is open nothing leaves the escrow (`dispute_contract` of the marketplace's contracts). Its decision
pays out exactly what remains, free of fees, and ends the contract (`split_escrow`); nothing is left that a later
refund or period could pay a second time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from domain._kernel import (
    Amount,
    Decision,
    Id,
    Issued,
    NotFound,
    Personal,
    Quantity,
    Read,
    Rejected,
    Stream,
    Text,
)
from domain.marketplace.contracts import contracts, dispute_contract, split_escrow


@dataclass(frozen=True, slots=True)
class Parameters:
    """The bounds of a dispute, in one place."""

    most_evidence: int = 20
    """Pieces that each party submits."""


P = Parameters()

# Events: stored for ever. Add fields with defaults; never rename, never remove.


@dataclass(frozen=True, slots=True)
class DisputeOpened:
    contract: str
    customer: str
    provider: str
    by: str
    reason: Personal
    amount: Amount
    """What the escrow held then."""
    at: datetime


@dataclass(frozen=True, slots=True)
class EvidenceSubmitted:
    by: str
    digest: str
    note: Personal
    at: datetime


@dataclass(frozen=True, slots=True)
class DisputeResolved:
    contract: str
    to_payer: Quantity
    to_payee: Quantity
    reason: str
    by: str
    at: datetime


DisputeEvent = DisputeOpened | EvidenceSubmitted | DisputeResolved

# State


@dataclass(frozen=True, slots=True)
class Dispute:
    status: str = "absent"
    """absent, open or resolved."""
    contract: str = ""
    customer: str = ""
    provider: str = ""
    evidence: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The digests that each party submitted."""

    @property
    def parties(self) -> tuple[str, str]:
        return self.customer, self.provider


# evolve


def evolve_dispute(dispute: Dispute, event: DisputeEvent) -> Dispute:
    match event:
        case DisputeOpened():
            return Dispute("open", event.contract, event.customer, event.provider)
        case EvidenceSubmitted():
            digests = (*dispute.evidence.get(event.by, ()), event.digest)
            return replace(dispute, evidence={**dispute.evidence, event.by: digests})
        case DisputeResolved():
            return replace(dispute, status="resolved")


disputes = Stream("dispute", Dispute(), evolve_dispute, DisputeEvent)

# Commands


@dataclass(frozen=True, slots=True)
class OpenDispute:
    """Dispute what is left in a contract's escrow, as its customer or provider: nothing leaves it until an operator
    has decided."""

    dispute: Id
    contract: Id
    reason: Personal


@dataclass(frozen=True, slots=True)
class SubmitEvidence:
    """Submit the digest of a document to an open dispute, as one of its parties. The same again changes nothing."""

    dispute: Id
    digest: Id
    """Of the document, such as its SHA-256 in hex."""
    note: Personal = ""


@dataclass(frozen=True, slots=True)
class ResolveDispute:
    """Decide a dispute: what goes back to the payer (the customer) and what to the payee (the provider) is together
    exactly what remains in the escrow."""

    dispute: Id
    to_payer: Quantity
    to_payee: Quantity
    reason: Text


# Rules


class DisputeNotFound(NotFound):
    """There is no such dispute, or it is not yours."""


class DisputeExists(Rejected):
    """This dispute was opened before."""


class DisputeIsResolved(Rejected):
    """The dispute is decided: it is not decided again and takes no more evidence."""


class TooMuchEvidence(Rejected):
    """Each party submits a bounded number of pieces of evidence."""


class ArbiterIsParty(Rejected):
    """Nobody decides a dispute of his own."""


# Decisions


def open_dispute(command: OpenDispute, issued: Issued, read: Read) -> Decision:
    if read(disputes, command.dispute).status != "absent":
        raise DisputeExists(dispute=command.dispute)
    yield from dispute_contract(read, issued, command.contract, command.dispute)
    contract = read(contracts, command.contract)
    yield (
        disputes(command.dispute),
        DisputeOpened(
            command.contract,
            contract.customer,
            contract.provider,
            issued.by,
            command.reason,
            contract.remaining,
            issued.at,
        ),
    )


def submit_evidence(command: SubmitEvidence, issued: Issued, read: Read) -> Decision:
    dispute = read(disputes, command.dispute)
    if dispute.status == "absent" or issued.by not in dispute.parties:
        raise DisputeNotFound(dispute=command.dispute)
    before = dispute.evidence.get(issued.by, ())
    if command.digest in before:
        return
    if dispute.status != "open":
        raise DisputeIsResolved(dispute=command.dispute)
    if len(before) >= P.most_evidence:
        raise TooMuchEvidence(dispute=command.dispute, limit=P.most_evidence)
    yield (
        disputes(command.dispute),
        EvidenceSubmitted(issued.by, command.digest, command.note, issued.at),
    )


def resolve_dispute(command: ResolveDispute, issued: Issued, read: Read) -> Decision:
    dispute = read(disputes, command.dispute)
    if dispute.status == "absent":
        raise DisputeNotFound(dispute=command.dispute)
    if dispute.status != "open":
        raise DisputeIsResolved(dispute=command.dispute)
    if issued.by in dispute.parties:
        raise ArbiterIsParty(dispute=command.dispute)
    yield (
        disputes(command.dispute),
        DisputeResolved(
            dispute.contract,
            command.to_payer,
            command.to_payee,
            command.reason,
            issued.by,
            issued.at,
        ),
    )
    yield from split_escrow(
        read, issued, dispute.contract, command.dispute, command.to_payer, command.to_payee
    )
