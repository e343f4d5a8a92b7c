"""What one operator does alone within a limit, and what takes two: otto asks, olga approves."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import timedelta
from typing import Any, get_type_hints

import pytest

from commands._codec import decision_of, modules
from commands._models import command_from
from commands._routes import OPERATOR, ROUTES
from commands.api import load_routes
from domain import _kernel
from domain._kernel import FOG, Issued, Rejected, foresee
from domain.approvals import (
    LIMITED,
    MOST_LIMITS,
    MOST_OPEN_REQUESTS,
    REQUEST_LIFE,
    ZONE,
    ActHasNoLimits,
    AllowanceUsed,
    ApprovalIsForOperators,
    ApprovalLimitSet,
    ApprovalRequested,
    Approvals,
    Approve,
    Reject,
    RequestApproved,
    RequestIsOpen,
    RequestIsOutdated,
    RequestIsYourOwn,
    RequestNotFound,
    RequestRejected,
    SetLimit,
    TooManyLimits,
    TooManyRequests,
    approvals,
    read_back,
    written,
)
from domain.ledger import (
    CapExceeded,
    Credited,
    Debited,
    DefineAsset,
    FreezeWallet,
    MintTokens,
    TokensMinted,
    Transfer,
    UnfreezeWallet,
    WalletFrozen,
    WalletIsNotFrozen,
    WalletNotFound,
    WalletUnfrozen,
)
from domain.staking import Delegate, Slash, Slashed, TokensSlashed
from ops.slices import events_of
from tests.examples import DAY, HOUR, NOW, Story, story, validator, village

MINTED = (TokensMinted, Debited, Credited)


def mint(amount: int, to: str = "wallet:ana", reference: str = "") -> MintTokens:
    return MintTokens(to, amount, "budget", reference)


def freeze(owner: str = "ana") -> FreezeWallet:
    return FreezeWallet(f"wallet:{owner}", "under suspicion")


def limits(story: Story, **limits: int | None) -> Story:
    for act, limit in limits.items():
        story.and_then(SetLimit(act, limit))
    return story


def limited_village(**to: int) -> Story:
    return limits(story(village), **to)


def by_operator(story: Story, command: Any, by: str = "otto") -> Story:
    story.when(command, by, "operator")
    return story


def asked(story: Story, command: Any, by: str = "otto") -> str:
    """Sends a command that is kept; returns its request."""
    story.when(command, by, "operator").then(ApprovalRequested)
    assert isinstance(story.outcome, list)
    return str(story.outcome[0].request)


def state(story: Story) -> Approvals:
    found: Approvals = story.book.read(approvals, ZONE)
    return found


# Without a limit


def test_without_a_limit_one_operator_does_all_alone() -> None:
    told = story(village)
    by_operator(told, mint(10**30)).then(*MINTED)
    by_operator(told, freeze()).then(WalletFrozen)
    by_operator(told, UnfreezeWallet("wallet:ana", "sorry")).then(WalletUnfrozen)
    assert state(told) == Approvals()


def test_a_limit_of_one_act_leaves_the_others_as_they_are() -> None:
    told = limited_village(slash=0)
    by_operator(told, mint(10**30)).then(*MINTED)
    by_operator(told, freeze()).then(WalletFrozen)


# Limits


def test_a_limit_is_set_by_one_operator_and_lowered_by_one() -> None:
    told = story(village)
    by_operator(told, SetLimit("mint", 100)).then(ApprovalLimitSet("mint", FOG, None, 100, "otto", NOW))
    by_operator(told, SetLimit("mint", 40)).then(ApprovalLimitSet("mint", FOG, 100, 40, "otto", NOW))
    by_operator(told, SetLimit("mint", 40)).then()
    by_operator(told, SetLimit("freeze", 2)).then(ApprovalLimitSet("freeze", "", None, 2, "otto", NOW))
    assert state(told).limits == {"mint:FOG": 40, "freeze": 2}


@pytest.mark.parametrize("looser", [41, None])
def test_raising_or_removing_a_limit_takes_two(looser: int | None) -> None:
    told = limited_village(mint=40)
    request = asked(told, SetLimit("mint", looser))
    assert state(told).limits == {"mint:FOG": 40}
    by_operator(told, Approve(request), "olga").then(
        RequestApproved(request, "otto", "olga", NOW),
        ApprovalLimitSet("mint", FOG, 40, looser, "otto", NOW),
    )
    assert state(told).limits == ({} if looser is None else {"mint:FOG": looser})


def test_an_asset_without_a_limit_is_minted_freely_and_each_has_its_own() -> None:
    told = limited_village(mint=10)
    told.and_then(DefineAsset("GOLD", 0)).and_then(SetLimit("mint", 3, "GOLD"))
    gold = MintTokens("wallet:ana", 3, "budget", "", "GOLD")
    by_operator(told, gold).then(*MINTED, AllowanceUsed("mint", "GOLD", 3, "otto", NOW))
    by_operator(told, mint(10)).then(*MINTED, AllowanceUsed("mint", FOG, 10, "otto", NOW))
    by_operator(told, gold).then(ApprovalRequested)


def test_only_some_acts_are_limited() -> None:
    by_operator(story(village), SetLimit("pay", 1)).refused_with(
        ActHasNoLimits, act="pay", known=["freeze", "mint", "slash"]
    )


def test_limits_are_bounded_in_number() -> None:
    told = story(village)
    for number in range(MOST_LIMITS):
        told.and_then(SetLimit("mint", 1, f"A{number}"))
    by_operator(told, SetLimit("mint", 1, "OTHER")).refused_with(TooManyLimits, limit=MOST_LIMITS)
    by_operator(told, SetLimit("mint", None, "OTHER")).then()
    by_operator(told, SetLimit("mint", 0, "A0")).then(ApprovalLimitSet)


# Within and beyond


def test_within_the_limit_one_is_enough_and_what_he_did_is_counted() -> None:
    told = limited_village(mint=100)
    by_operator(told, mint(60)).then(*MINTED, AllowanceUsed("mint", FOG, 60, "otto", NOW))
    by_operator(told, mint(40)).then(*MINTED, AllowanceUsed("mint", FOG, 40, "otto", NOW))


@pytest.mark.parametrize("second", ["otto", "olga"])
def test_neither_small_commands_nor_another_name_get_round_a_limit(second: str) -> None:
    told = limited_village(mint=100)
    by_operator(told, mint(60)).then(*MINTED, AllowanceUsed)
    by_operator(told, mint(41), second).then(ApprovalRequested)


def test_the_next_utc_day_begins_anew() -> None:
    told = limited_village(mint=100)
    by_operator(told, mint(100)).then(*MINTED, AllowanceUsed)
    told.later(DAY - timedelta(microseconds=1))
    by_operator(told, mint(1)).then(ApprovalRequested)
    told.later(timedelta(microseconds=1))
    by_operator(told, mint(100)).then(*MINTED, AllowanceUsed)


def test_beyond_the_limit_nothing_is_done_but_the_command_is_kept() -> None:
    told = limited_village(mint=100)
    before = told.posted("wallet:ana"), told.asset()
    by_operator(told, mint(101, reference="r")).then(
        ApprovalRequested(
            request=f"c{told.book.commands}",
            command="ledger/mint-tokens",
            body='{"to":"wallet:ana","amount":"101","reason":"budget","reference":"r","asset":"FOG"}',
            by="otto",
            act="mint",
            asset=FOG,
            amount=101,
            limit=100,
            used=0,
            at=NOW,
            expires_at=NOW + REQUEST_LIFE,
        )
    )
    assert (told.posted("wallet:ana"), told.asset()) == before


def test_what_a_rule_refuses_is_refused_and_not_kept() -> None:
    told = limited_village(mint=100, freeze=0)
    told.and_then(DefineAsset("GOLD", 0, 50)).and_then(SetLimit("mint", 0, "GOLD"))
    by_operator(told, MintTokens("wallet:ana", 51, "budget", "", "GOLD")).refused_with(CapExceeded)
    by_operator(told, freeze("nobody")).refused_with(WalletNotFound)


def test_freezing_and_unfreezing_are_one_allowance() -> None:
    told = limited_village(freeze=1)
    by_operator(told, freeze()).then(WalletFrozen, AllowanceUsed("freeze", "", 1, "otto", NOW))
    by_operator(told, freeze()).then()  # It is frozen already: nothing is done, and nothing is needed.
    by_operator(told, freeze("ben")).then(ApprovalRequested)
    request = asked(told, UnfreezeWallet("wallet:ana", "sorry"))
    by_operator(told, Approve(request), "olga").then(RequestApproved, WalletUnfrozen("sorry"))


def staked() -> Story:
    told = story(village, validator("v1", "val", 1_000))
    told.and_then(Delegate("v1", 9_000), "ana").later(HOUR)
    return told


def slash(evidence: str = "e1", kind: str = "downtime") -> Slash:
    return Slash("v1", kind, NOW + HOUR, evidence)


def test_a_slash_is_measured_by_what_it_burns() -> None:
    told = limits(staked(), slash=100)
    when = NOW + HOUR
    by_operator(told, slash())
    assert isinstance(told.outcome, list)
    assert told.outcome[-1] == AllowanceUsed("slash", "", 100, "otto", when)
    request = asked(told, slash("e2"))
    assert told.validator().tokens == 9_900
    by_operator(told, Approve(request), "olga")
    assert isinstance(told.outcome, list)
    assert told.outcome[0] == RequestApproved(request, "otto", "olga", when)
    assert Slashed("v1", "downtime", when, 10_000, 100, when) in told.outcome
    assert told.validator().tokens == 9_800


def test_a_slash_that_burns_nothing_jails_and_takes_two_where_there_is_no_allowance() -> None:
    told = limits(staked(), slash=0)
    early = Slash("v1", "double-sign", NOW - HOUR, "e1")
    by_operator(told, early).then(ApprovalRequested)
    assert not told.validator().jailed


def test_a_kept_slash_left_no_trace_in_what_is_read() -> None:
    told = limits(staked(), slash=0)
    before = dict(told.book.states)
    request = asked(told, slash())
    assert {name: now for name, now in told.book.states.items() if before.get(name) != now} == {
        f"approvals:{ZONE}": state(told)
    }
    by_operator(told, Approve(request), "olga")
    assert isinstance(told.outcome, list)
    assert TokensSlashed("e1", "downtime", 100, NOW + HOUR) in told.outcome


# Approving


def test_another_operator_approves_and_it_is_done_at_once() -> None:
    told = limited_village(mint=100)
    request = asked(told, mint(500))
    by_operator(told, Approve(request), "olga").then(
        RequestApproved(request, "otto", "olga", NOW),
        TokensMinted(500, "wallet:ana", "budget", ""),
        Debited,
        Credited,
    )
    assert state(told).requests == {}


def test_what_was_approved_leaves_the_day_s_allowance_as_it_was() -> None:
    told = limited_village(mint=100)
    request = asked(told, mint(500))
    by_operator(told, Approve(request), "olga").then(RequestApproved, *MINTED)
    by_operator(told, mint(100)).then(*MINTED, AllowanceUsed)


def test_nobody_approves_what_he_asked_for_himself() -> None:
    told = limited_village(mint=100)
    request = asked(told, mint(500))
    by_operator(told, Approve(request)).refused_with(RequestIsYourOwn, request=request, by="otto")


@pytest.mark.parametrize("role", ["participant", "provider", "auditor", "worker"])
@pytest.mark.parametrize("decide", [Approve, lambda id: Reject(id, "no")], ids=["approve", "reject"])
def test_only_operators_decide_and_who_acts_for_another_is_none(decide: Any, role: str) -> None:
    told = limited_village(mint=100)
    request = asked(told, mint(500))
    told.when(decide(request), "olga", role).then(ApprovalIsForOperators)


def test_a_request_is_approved_once() -> None:
    told = limited_village(mint=100)
    request = asked(told, mint(500))
    by_operator(told, Approve(request), "olga").then(RequestApproved, *MINTED)
    by_operator(told, Approve(request), "olga").refused_with(RequestNotFound, request=request)
    by_operator(told, Approve("c999"), "olga").refused_with(RequestNotFound)


def test_it_is_decided_on_the_state_of_now_and_its_own_rules_still_hold() -> None:
    told = story(village).and_then(DefineAsset("GOLD", 0, 50)).and_then(SetLimit("mint", 10, "GOLD"))
    gold = MintTokens("wallet:ana", 45, "budget", "", "GOLD")
    request = asked(told, gold)
    by_operator(told, MintTokens("wallet:ana", 10, "more", "", "GOLD")).then(*MINTED, AllowanceUsed)
    by_operator(told, Approve(request), "olga").refused_with(CapExceeded, supply=10)
    assert list(state(told).requests) == [request]
    told.and_then(Transfer("wallet:ana", "treasury", 10, "GOLD"), "ana")
    by_operator(told, Reject(request, "too late"), "olga").then(RequestRejected)


def test_what_came_to_nothing_meanwhile_is_approved_and_changes_nothing() -> None:
    told = limited_village(freeze=1)
    by_operator(told, freeze("ben")).then(WalletFrozen, AllowanceUsed)
    request = asked(told, freeze())
    told.later(DAY)
    by_operator(told, freeze()).then(WalletFrozen, AllowanceUsed)
    by_operator(told, Approve(request), "olga").then(RequestApproved)


def test_an_approved_unfreezing_of_what_is_not_frozen_is_refused_by_that_rule() -> None:
    told = limited_village(freeze=1)
    by_operator(told, freeze()).then(WalletFrozen, AllowanceUsed)
    request = asked(told, UnfreezeWallet("wallet:ana", "sorry"))
    told.later(DAY)
    by_operator(told, UnfreezeWallet("wallet:ana", "sorry")).then(WalletUnfrozen, AllowanceUsed)
    by_operator(told, Approve(request), "olga").refused_with(WalletIsNotFrozen)


def test_a_request_lives_for_a_week() -> None:
    told = limited_village(mint=100)
    request, other = asked(told, mint(500)), asked(told, mint(501))
    told.later(REQUEST_LIFE - timedelta(microseconds=1))
    by_operator(told, Approve(request), "olga").then(RequestApproved, *MINTED)
    told.later(timedelta(microseconds=1))
    by_operator(told, Approve(other), "olga").refused_with(RequestNotFound, request=other)
    by_operator(told, Reject(other, "too late"), "olga").refused_with(RequestNotFound)


@pytest.mark.parametrize("by", ["otto", "olga"])
def test_a_request_is_rejected_by_another_or_taken_back(by: str) -> None:
    told = limited_village(mint=100)
    request = asked(told, mint(500))
    by_operator(told, Reject(request, "not now"), by).then(RequestRejected(request, by, "not now", NOW))
    by_operator(told, Approve(request), "olga").refused_with(RequestNotFound)
    by_operator(told, Reject(request, "not now"), by).refused_with(RequestNotFound)


def test_the_same_is_asked_for_once_at_a_time() -> None:
    told = limited_village(mint=100)
    request = asked(told, mint(500))
    by_operator(told, mint(500)).refused_with(RequestIsOpen, request=request)
    assert asked(told, mint(500), "olga") != request
    told.later(REQUEST_LIFE)
    assert asked(told, mint(500)) != request


def test_open_requests_are_bounded_and_those_that_expired_make_room() -> None:
    told = limited_village(mint=0)
    for number in range(MOST_OPEN_REQUESTS):
        asked(told, mint(1, reference=f"r{number}"))
    by_operator(told, mint(1, reference="more")).refused_with(TooManyRequests, limit=MOST_OPEN_REQUESTS)
    told.later(REQUEST_LIFE)
    asked(told, mint(1, reference="more"))
    assert len(state(told).requests) == 1


@pytest.mark.parametrize(
    ("command", "body"),
    [
        ("ledger/print-money", "{}"),
        ("ledger/mint-tokens", '{"to":"wallet:ana"}'),
        ("ledger/mint-tokens", '{"gone":"1"}'),
        ("ledger/mint-tokens", "no JSON"),
        ("approvals/set-limit", '{"act":"mint","limit":"many"}'),
    ],
)
def test_what_an_older_version_kept_and_this_one_does_not_know_is_refused(command: str, body: str) -> None:
    kept = ApprovalRequested("c9", command, body, "otto", "mint", FOG, 1, 0, 0, NOW, NOW + DAY)
    told = story([(approvals(ZONE), kept)])
    by_operator(told, Approve("c9"), "olga").refused_with(RequestIsOutdated, command=command)


# What is limited, and how it is kept


def test_every_limited_command_is_an_operator_s_and_is_read_back_as_it_was() -> None:
    load_routes()
    examples = {
        "ledger/mint-tokens": MintTokens("wallet:ana", 10**37, 'a "word"', "ä", "GOLD"),
        "ledger/freeze-wallet": freeze(),
        "ledger/unfreeze-wallet": UnfreezeWallet("wallet:ana", ""),
        "staking/slash": Slash("v1", "downtime", NOW + timedelta(microseconds=5), "e1"),
        "approvals/set-limit": SetLimit("slash", None),
    }
    assert set(LIMITED) == set(examples)
    for name, command in examples.items():
        kind, _ = LIMITED[name]
        assert ROUTES[name].command is kind is type(command)
        assert ROUTES[name].roles == OPERATOR
        assert not ROUTES[name].personal
        assert read_back(kind, written(command)) == command
        assert command_from(kind, json.loads(written(command))) == command


def test_what_is_kept_holds_kinds_of_fields_that_are_read_back() -> None:
    for kind, _ in LIMITED.values():
        hints = get_type_hints(kind)
        assert {hints[f.name] for f in fields(kind)} <= {str, int, int | None, type(NOW)}


def test_all_that_mints_freezes_or_slashes_by_an_operator_s_command_is_limited() -> None:
    """A new way to do so has to be limited too, or named here with the reason why it need not be."""
    load_routes()
    powers = {"TokensMinted", "WalletFrozen", "WalletUnfrozen", "TokensSlashed", "ApprovalLimitSet"}
    found = set()
    for name, route in ROUTES.items():
        decision = decision_of(route.command)
        module = modules()[decision.__module__.partition(".")[2]]
        if powers & set(events_of(module, decision.__name__)):
            found.add(name)
    # Vouchers come and come back by packets that another zone signed: whoever brings one chooses nothing of it.
    packets = {
        f"settlement/{name}" for name in ("receive-transfer", "record-acknowledgement", "timeout-transfer")
    }
    assert found - packets == set(LIMITED)


def test_what_is_foreseen_reads_what_it_decided_and_touches_nothing_else() -> None:
    told = story(village)
    before = dict(told.book.states)
    issued = Issued("ana", NOW)
    pay = Transfer("wallet:ana", "wallet:ben", 7)
    decided = foresee(lambda ahead: decision_of(Transfer)(pay, issued, ahead), told.book.read)
    assert [type(event) for _, event in decided] == [Debited, Credited]
    assert told.book.states == before
    with pytest.raises(Rejected):
        foresee(lambda ahead: decision_of(Transfer)(pay, Issued("ben", NOW), ahead), told.book.read)
    assert _kernel.balance(decided) == {}
