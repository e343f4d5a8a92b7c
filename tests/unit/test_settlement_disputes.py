"""Disputes over escrow, as sentences.

Pia offers, Ana is her customer: the contract `c1` of four hours holds 28,800 in escrow, an hour is 7,200.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st

from commands._codec import MOST_ENTRY_BYTES, encode_json
from domain._kernel import Rejected
from domain.devices import Capabilities, RegisterDevice
from domain.ledger import FEES, Credited, Debited, FreezeWallet
from domain.marketplace.contracts import (
    ContractDisputed,
    ContractIsInDispute,
    ContractIsNetted,
    ContractNotFound,
    EscrowIsEmpty,
    EscrowSplit,
    OpenContract,
    SettlePeriod,
    SplitIsNotWhatRemains,
    StartService,
    TerminateContract,
    TopUpEscrow,
    contracts,
)
from domain.marketplace.offerings import RegisterOffering, SetLaneBounds
from domain.settlement.disputes import (
    ArbiterIsParty,
    DisputeExists,
    DisputeIsResolved,
    DisputeNotFound,
    DisputeOpened,
    DisputeResolved,
    EvidenceSubmitted,
    OpenDispute,
    P,
    ResolveDispute,
    SubmitEvidence,
    TooMuchEvidence,
    disputes,
)
from tests.examples import FUNDS, NOW, Story, funded, story, system_total, village

HOUR = timedelta(hours=1)
PRICE = 3_600
ESCROW = 28_800

market: list[Any] = [
    village,
    funded("pia"),
    (RegisterDevice("d1", "server", Capabilities(64_000, 64_000), "eu"), "pia"),
    SetLaneBounds("compute", "eu", "bronze", PRICE, PRICE),
    (RegisterOffering("o1", "d1", "compute", "bronze", 1_000, 1_000, 0, 8, PRICE, "reserved"), "pia"),
]


def running(**changes: Any) -> Story:
    booking = OpenContract("c1", "o1", 2, 240, PRICE, **changes)
    return story(market).and_then(booking, "ana").and_then(StartService("c1"), "pia")


def disputed(by: str = "ana") -> Story:
    return running().and_then(OpenDispute("x1", "c1", "it was slow"), by)


def remaining(told: Story) -> int:
    return int(told.book.read(contracts, "c1").remaining)


def balances(told: Story) -> tuple[int, int, int, int]:
    """What Ana and Pia gained or lost, the fees, and what is in the escrow."""
    assert system_total(told.book) == 0
    people = (told.posted("wallet:ana") - FUNDS, told.posted("wallet:pia") - FUNDS)
    return *people, told.posted(FEES), told.posted("escrow:c1")


# Opening


@pytest.mark.parametrize("by", ["ana", "pia", "operator"])
def test_customer_provider_or_operator_open_a_dispute(by: str) -> None:
    told = running().when(OpenDispute("x1", "c1", "it was slow"), by)
    told.then(
        ContractDisputed("x1", by, ESCROW, NOW),
        DisputeOpened("c1", "ana", "pia", by, "it was slow", ESCROW, NOW),
    )


def test_nobody_else_does() -> None:
    running().when(OpenDispute("x1", "c1", "-"), "ben").then(ContractNotFound)
    running().when(OpenDispute("x1", "c9", "-"), "ana").then(ContractNotFound)


def test_a_contract_is_in_one_dispute_and_a_dispute_has_one_contract() -> None:
    told = disputed().and_then(OpenContract("c2", "o1", 1, 60, PRICE), "ana")
    told.when(OpenDispute("x2", "c1", "-"), "pia").then(ContractIsInDispute)
    told.when(OpenDispute("x1", "c2", "-"), "ana").then(DisputeExists)


def test_a_netted_contract_has_no_escrow_to_dispute() -> None:
    running(settlement="netted").when(OpenDispute("x1", "c1", "-"), "ana").then(ContractIsNetted)


def test_only_what_remains_is_disputed() -> None:
    told = running()
    told.later(HOUR + timedelta(minutes=10)).and_then(SettlePeriod("c1", 0), "worker", "worker")
    told.when(OpenDispute("x1", "c1", "-"), "ana")
    assert isinstance(told.outcome, list)
    assert told.outcome[-1].amount == remaining(told) == ESCROW - 7_200


def test_an_empty_escrow_is_not_disputed() -> None:
    told = disputed().and_then(ResolveDispute("x1", ESCROW, 0, "never served"))
    told.when(OpenDispute("x2", "c1", "again"), "ana")
    assert isinstance(told.outcome, EscrowIsEmpty), told.outcome


def test_nothing_leaves_the_escrow_while_it_is_in_dispute() -> None:
    told = disputed().later(HOUR + timedelta(minutes=10))
    told.when(SettlePeriod("c1", 0), "worker", "worker").then(ContractIsInDispute)
    told.when(TerminateContract("c1", "-"), "ana").then(ContractIsInDispute)
    told.when(TopUpEscrow("c1", 5), "ana").then(ContractIsInDispute)
    assert remaining(told) == told.posted("escrow:c1") == ESCROW


# Evidence


def test_both_parties_submit_evidence() -> None:
    told = disputed()
    for by in ("ana", "pia"):
        told.when(SubmitEvidence("x1", "ab12", "a log"), by).then(EvidenceSubmitted(by, "ab12", "a log", NOW))


def test_nobody_else_sees_the_dispute_not_even_an_operator_submits_for_them() -> None:
    for by in ("ben", "operator"):
        disputed().when(SubmitEvidence("x1", "ab12"), by).then(DisputeNotFound)
    disputed().when(SubmitEvidence("x9", "ab12"), "ana").then(DisputeNotFound)


def test_the_same_evidence_again_decides_nothing() -> None:
    told = disputed().and_then(SubmitEvidence("x1", "ab12"), "ana")
    told.when(SubmitEvidence("x1", "ab12", "another note"), "ana").then()
    told.and_then(ResolveDispute("x1", ESCROW, 0, "-"))
    told.when(SubmitEvidence("x1", "ab12"), "ana").then()


def test_each_party_submits_so_much_evidence_and_leaves_the_other_its_part() -> None:
    told = disputed()
    for number in range(P.most_evidence):
        for by in ("ana", "pia"):
            told.and_then(SubmitEvidence("x1", f"{number:064x}", "n" * 256), by)
    told.when(SubmitEvidence("x1", "ff"), "ana").refused_with(TooMuchEvidence, limit=20)
    told.when(SubmitEvidence("x1", "ff"), "pia").then(TooMuchEvidence)
    assert len(encode_json(told.book.read(disputes, "x1"))) < MOST_ENTRY_BYTES


def test_a_decided_dispute_takes_no_evidence() -> None:
    told = disputed().and_then(ResolveDispute("x1", ESCROW, 0, "-"))
    told.when(SubmitEvidence("x1", "ab12"), "pia").then(DisputeIsResolved)


# Deciding


def test_a_decision_pays_exactly_what_remains_and_takes_no_fee() -> None:
    told = disputed().when(ResolveDispute("x1", 18_800, 10_000, "half of it was slow"))
    assert isinstance(told.outcome, list)
    assert told.outcome[:6] == [
        DisputeResolved("c1", 18_800, 10_000, "half of it was slow", "operator", NOW),
        EscrowSplit("x1", "ana", "pia", 18_800, 10_000, NOW),
        Debited("FOG", 18_800, "wallet:ana", "dispute"),
        Credited("FOG", 18_800, "escrow:c1", "dispute"),
        Debited("FOG", 10_000, "wallet:pia", "dispute"),
        Credited("FOG", 10_000, "escrow:c1", "dispute"),
    ]
    assert balances(told) == (-10_000, 10_000, 0, 0)


@pytest.mark.parametrize(("to_payer", "to_payee"), [(ESCROW, 0), (0, ESCROW)])
def test_one_side_may_get_everything_and_the_other_is_paid_no_zero(to_payer: int, to_payee: int) -> None:
    told = disputed().when(ResolveDispute("x1", to_payer, to_payee, "-"))
    assert isinstance(told.outcome, list)
    assert len([event for event in told.outcome if isinstance(event, Credited)]) == 1
    assert balances(told) == (to_payer - ESCROW, to_payee, 0, 0)


@pytest.mark.parametrize(
    ("to_payer", "to_payee"),
    [
        (0, 0),
        (ESCROW, 1),
        (ESCROW - 1, 0),
        (ESCROW, ESCROW),
        (-1, ESCROW + 1),
        (ESCROW + 1, -1),
    ],
)
def test_any_other_split_is_refused_and_changes_nothing(to_payer: int, to_payee: int) -> None:
    told = disputed().when(ResolveDispute("x1", to_payer, to_payee, "-"))
    told.then(SplitIsNotWhatRemains)
    assert balances(told) == (-ESCROW, 0, 0, ESCROW)
    assert told.book.read(disputes, "x1").status == "open"


def test_of_two_decisions_at_once_the_first_wins() -> None:
    told = disputed().and_then(ResolveDispute("x1", ESCROW, 0, "-"))
    told.when(ResolveDispute("x1", 0, ESCROW, "-")).then(DisputeIsResolved)
    told.when(ResolveDispute("x1", ESCROW, 0, "-")).then(DisputeIsResolved)
    told.when(ResolveDispute("x1", 0, 0, "-")).then(DisputeIsResolved)
    assert balances(told) == (0, 0, 0, 0)


def test_no_refund_or_period_pays_again_what_a_dispute_paid() -> None:
    """Elsewhere a refund after the dispute paid 199.5 out of an escrow of 102.5."""
    told = disputed().and_then(ResolveDispute("x1", ESCROW - 1_000, 1_000, "-"))
    for command, by in (
        (TerminateContract("c1", "refund"), "ana"),
        (TerminateContract("c1", "refund"), "pia"),
        (SettlePeriod("c1", 0), "worker"),
        (OpenDispute("x2", "c1", "again"), "ana"),
        (TopUpEscrow("c1", 1), "ana"),
    ):
        told.later(10 * HOUR).when(command, by, "worker" if by == "worker" else None)
        assert told.outcome == [] or isinstance(told.outcome, Rejected), told.outcome
    assert balances(told) == (-1_000, 1_000, 0, 0)


def test_nobody_decides_a_dispute_of_his_own() -> None:
    for by in ("ana", "pia"):
        disputed().when(ResolveDispute("x1", ESCROW, 0, "-"), by, "operator").then(ArbiterIsParty)


def test_there_must_be_a_dispute() -> None:
    running().when(ResolveDispute("x1", ESCROW, 0, "-")).then(DisputeNotFound)


def test_a_frozen_party_is_paid_what_it_is_due() -> None:
    told = disputed().and_then(FreezeWallet("wallet:pia", "asked"))
    told.and_then(ResolveDispute("x1", 0, ESCROW, "-"))
    assert balances(told) == (-ESCROW, ESCROW, 0, 0)


@hypothesis_given(
    st.sampled_from(("ana", "pia")),
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(-5, 30_000), st.integers(-5, 30_000)), max_size=3),
    st.integers(0, ESCROW),
)
@settings(max_examples=50, deadline=None)
def test_whatever_is_tried_a_dispute_pays_what_remained_and_once(
    by: str, periods: int, attempts: list[tuple[int, int]], part: int
) -> None:
    told = running()
    for period in range(periods):
        told.book.now = NOW + (period + 1) * HOUR + timedelta(minutes=10)
        told.and_then(SettlePeriod("c1", period), "worker", "worker")
    rest = remaining(told)
    ana, pia, fees, _ = balances(told)
    told.and_then(OpenDispute("x1", "c1", "-"), by)
    to_payer = min(part, rest)
    for split in (*attempts, (to_payer, rest - to_payer), *attempts, (rest, 0)):
        told.when(ResolveDispute("x1", *split, "-"))
        resolved = told.book.read(disputes, "x1").status == "resolved"
        assert resolved == (told.posted("escrow:c1") == 0)
        assert (sum(split) == rest and min(split) >= 0) or isinstance(told.outcome, Rejected)
    after = balances(told)
    assert (after[0] - ana) + (after[1] - pia) == rest
    assert (after[2], after[3]) == (fees, 0)
