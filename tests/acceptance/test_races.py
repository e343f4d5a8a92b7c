"""Who comes first when several come at once: exactly one, and of what the others tried nothing is left over.

Each race is run in one batch of one server, in both orders, and across two servers that share the log.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from commands._signatures import sign
from domain.settlement.transfers import statement
from ops.servers import Servers
from tests.acceptance.economy import (
    ANY,
    FAR,
    FAR_KEY,
    FUNDS,
    SIZE,
    Town,
    Towns,
    booked,
    burst,
    delivered,
    kept,
    owed,
    packet,
    problem,
    rule_of,
    towns_of,
    wanted,
)


@pytest.fixture(scope="module")
def towns(servers: Servers, _template: str) -> Iterator[Towns]:
    with towns_of(servers, _template, "races") as made:
        yield made


Sent = tuple[str, str, Any]
"""Who sends which command with which body."""


@dataclass
class Race:
    """How those that start together are arranged."""

    name: str
    servers: int
    reverse: bool

    async def answers(self, t: Town, *sent: Sent, **headers: str | None) -> list[httpx.Response]:
        async def one(number: int) -> httpx.Response:
            who, path, body = sent[number]
            return await t.people[who].send_to(number % self.servers, path, body, **headers)

        numbers = list(range(len(sent)))
        order = numbers[::-1] if self.reverse else numbers
        answered = dict(zip(order, await asyncio.gather(*map(one, order)), strict=True))
        return [answered[number] for number in numbers]

    async def __call__(self, t: Town, *sent: Sent) -> list[str]:
        """Send all at once; what became of each: `ok`, `same` for what changed nothing, or the rule against it."""
        return [fate(response) for response in await self.answers(t, *sent)]


RACES = (Race("a batch", 1, False), Race("a batch, turned round", 1, True), Race("two servers", 2, False))


def fate(response: httpx.Response) -> str:
    rule = rule_of(response)
    return rule if rule != "ok" or response.json()["events"] else "same"


def raced(scenario: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test from a scenario `(town, race)`: it is played in each arrangement, and nothing is ever left over."""

    def test(towns: Towns, **more: Any) -> None:
        for race in RACES:

            async def play(t: Town, race: Race = race) -> None:
                await scenario(t, race, **more)
                await nothing_is_left_over(t)

            towns.run(play)

    _, _, *others = inspect.signature(scenario).parameters.values()
    first = inspect.Parameter("towns", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    test.__signature__ = inspect.Signature([first, *others])  # type: ignore[attr-defined]
    test.__name__, test.__doc__, test.__module__ = scenario.__name__, scenario.__doc__, scenario.__module__
    return test


def one_of(fates: list[str], *others: str, winner: str = "ok") -> None:
    """Exactly one won; all others were told one of these rules."""
    assert Counter(fates)[winner] == 1, fates
    assert set(fates) - {winner} <= set(others), fates


# What must add up, whoever won.


async def nothing_is_left_over(t: Town) -> None:
    contracts, requests = await t.all_of("contract"), await t.all_of("request")
    for id in contracts:
        contract = await t.escrow_adds_up(id)
        if contract.closed:
            assert not (contract.remaining or contract.holds_capacity), id
    for id, offering in (await t.all_of("offering")).items():
        booked = {
            contract.capacity_ref: contract.terms.units
            for contract in contracts.values()
            if contract.holds_capacity and contract.offering == id
        }
        booked |= {
            f"request:{name}": request.need.units
            for name, request in requests.items()
            if request.status == "won" and request.bids[request.winner].offering == id
        }
        assert offering.bookings == booked
        assert 0 <= offering.used <= offering.capacity
    for id, lane in (await t.all_of("lane")).items():
        wanted = [r for r in requests.values() if r.status in ("open", "bidding") and r.lane == id]
        assert lane.demand == sum(request.need.units for request in wanted)
        assert lane.supply == sum(listing.free for listing in lane.listings.values())
    await holds_add_up(t, requests)
    await stakes_add_up(t)


async def holds_add_up(t: Town, requests: dict[str, Any]) -> None:
    """What is held in a wallet is its open holds, the deposits of its owner's bids, and what a window reserved."""
    expected: defaultdict[str, int] = defaultdict(int)
    for hold in (await t.all_of("hold")).values():
        assert hold.amount == hold.captured + hold.released + hold.expired + hold.remaining
        assert hold.closed == (hold.remaining == 0)
        expected[hold.wallet] += hold.remaining
    for request in requests.values():
        for provider, bid in request.bids.items():
            expected[f"wallet:{provider}"] += bid.deposit
    for id, window in (await t.all_of("netting")).items():
        assert t.balance(f"window:{id}") == 0
        if window.status == "settling":
            nets: defaultdict[str, int] = defaultdict(int)
            for due in (await t.state(f"netting-page:{id}:0")).dues:
                nets[due.debtor] -= due.amount
                nets[due.creditor] += due.amount
            for party, net in nets.items():
                expected[f"wallet:{party}"] += max(-net, 0)
    for owner, wallet in (await t.all_of("wallet")).items():
        assert wallet.held.get("FOG", 0) == expected[f"wallet:{owner}"], owner
        assert wallet.available("FOG") >= 0


async def stakes_add_up(t: Town) -> None:
    validators = await t.all_of("validator")
    unbonding = await t.all_of("unbonding")
    assert t.balance("pool:bonded") == sum(validator.tokens for validator in validators.values())
    entries = [entry.balance for each in unbonding.values() for entry in each.entries.values()]
    assert t.balance("pool:unbonding") == sum(entries)
    shares: defaultdict[str, int] = defaultdict(int)
    for id, position in (await t.all_of("position")).items():
        shares[id.partition(":")[0]] += position.shares
    assert {id: validator.shares for id, validator in validators.items()} == dict(shares)


# The ledger.


def captured(amount: str = "100", **more: Any) -> dict[str, Any]:
    return {"hold": "h1", "amount": amount, "to": "wallet:ben"} | more


@raced
async def test_eight_capture_one_hold(t: Town, race: Race) -> None:
    await t.people.ana.ok("place-hold", kept(t))
    fates = await race(t, *[("ben", "capture-hold", captured())] * 8)
    one_of(fates, "hold-is-closed")
    assert t.balance("wallet:ben") == FUNDS + 100


@raced
async def test_parts_of_a_hold_are_never_more_than_the_whole(t: Town, race: Race) -> None:
    await t.people.ana.ok("place-hold", kept(t))
    fates = await race(t, *[("ben", "capture-hold", captured("30", final=False))] * 8)
    assert Counter(fates) == {"ok": 3, "capture-exceeds-hold": 5}
    assert t.balance("wallet:ben") == FUNDS + 90


@raced
async def test_capture_against_release(t: Town, race: Race) -> None:
    await t.people.ana.ok("place-hold", kept(t))
    fates = await race(t, ("ben", "capture-hold", captured()), ("ben", "release-hold", {"hold": "h1"}))
    one_of(fates, "hold-is-closed")
    assert t.balance("wallet:ben") == FUNDS + 100 * (fates[0] == "ok")


@raced
async def test_capture_against_expiry(t: Town, race: Race) -> None:
    await t.people.ana.ok("place-hold", kept(t))
    await t.later(hours=1)
    fates = await race(
        t,
        ("ben", "capture-hold", captured()),
        ("robot", "expire-hold", {"hold": "h1"}),
        ("ana", "release-hold", {"hold": "h1"}),
    )
    assert fates[0] in ("hold-has-expired", "hold-is-closed")
    assert fates[1:] in (["ok", "hold-is-closed"], ["same", "ok"])
    assert t.balance("wallet:ben") == FUNDS


@raced
async def test_a_transaction_is_reversed_once_by_eight(t: Town, race: Race) -> None:
    paid = await t.people.ana.ok("transfer", {"from": "wallet:ana", "to": "wallet:ben", "amount": "5"})
    body = {"transaction": paid["command_id"], "reason": "mistake"}
    one_of(await race(t, *[("admin", "reverse-transaction", body)] * 8), "transaction-is-reversed")
    assert t.balance("wallet:ana") == FUNDS


@raced
async def test_the_same_money_is_spent_in_one_context_only(t: Town, race: Race) -> None:
    await t.with_validators()
    await t.with_offerings()
    await t.people.admin.ok("register-peer", {"zone": "far", "key": FAR_KEY})
    await t.people.cy.ok("request-service", wanted(t, "r1", mode="bids") | ANY)
    elsewhere = {"target_zone": "far", "recipient": "fay", "amount": "2000", "timeout": t.at(days=1)}
    await t.people.ana.ok("transfer", {"from": "wallet:ana", "to": "wallet:cy", "amount": str(FUNDS - 2_000)})
    fates = await race(
        t,
        ("ana", "transfer", {"from": "wallet:ana", "to": "wallet:ben", "amount": "2000"}),
        ("ana", "burn-tokens", {"from": "wallet:ana", "amount": "2000", "reason": ""}),
        ("ana", "place-hold", kept(t, amount="2000")),
        ("ana", "delegate", {"validator": "v1", "amount": "2000"}),
        ("ana", "register-validator", {"validator": "v9", "self_stake": "2000"}),
        ("ana", "open-contract", booked("k1")),
        ("ana", "request-service", wanted(t, "r2", minutes=120) | ANY),
        ("ana", "initiate-transfer", elsewhere),
    )
    one_of(fates, "insufficient-funds")
    wallet = await t.state("wallet:ana")
    assert wallet.available("FOG") == 0


@raced
async def test_one_key_with_two_bodies_means_one_of_them(t: Town, race: Race) -> None:
    await t.with_offerings()
    sent = [("ana", "open-contract", booked("k1", minutes=60 + number % 2)) for number in range(8)]
    answers = await race.answers(t, *sent, idempotency_key="once")
    done = [answer for answer in answers if answer.status_code == 200]
    assert len(done) == 4
    assert len({answer.content for answer in done}) == 1
    assert sum("idempotency-hit" in answer.headers for answer in done) == 3
    assert len({number % 2 for number, answer in enumerate(answers) if answer.status_code == 200}) == 1
    for answer in answers:
        if answer.status_code != 200:
            problem(answer, "idempotency-key-reused")


@raced
async def test_one_key_refused_is_refused_eight_times_the_same(t: Town, race: Race) -> None:
    await t.with_offerings()
    fates = t.counts()[1]
    sent = [("ana", "open-contract", booked("k1", any_price=False))] * 8
    answers = await race.answers(t, *sent, idempotency_key="once")
    assert len({answer.content for answer in answers}) == 1
    problem(answers[0], "price-cap-is-missing")
    assert t.counts()[1] == fates + 1


@pytest.mark.parametrize(
    ("path", "body", "rule"),
    [
        (
            "register-device",
            {"device": "d9", "type": "x", "capabilities": SIZE, "region": "north"},
            "device-exists",
        ),
        ("register-validator", {"validator": "v9", "self_stake": "1000"}, "validator-exists"),
        ("place-hold", {"hold": "h9", "payee": "val", "amount": "5"}, "hold-exists"),
        (
            "open-contract",
            {"contract": "k9", "offering": "o1", "units": 1, "minutes": 60} | ANY,
            "contract-exists",
        ),
        ("request-service", {"request": "r9"}, "request-exists"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith("exists") else "",
)
@raced
async def test_an_id_is_the_first_ones(
    t: Town, race: Race, path: str, body: dict[str, Any], rule: str
) -> None:
    """Two people choose the same id; what the second tried costs him nothing."""
    await t.with_offerings()
    sent: list[Sent] = []
    for who in ("ana", "cy"):
        own = dict(body)
        if path == "place-hold":
            own |= {"wallet": who, "expires_at": t.at(hours=1)}
        if path == "request-service":
            own = wanted(t, "r9") | ANY
        sent.append((who, path, own))
    fates = await race(t, *sent)
    one_of(fates, rule)
    loser = sent[fates.index(rule)][0]
    assert (await t.state(f"wallet:{loser}")).available("FOG") == FUNDS


# Staking.


@raced
async def test_what_is_bonded_is_withdrawn_once(t: Town, race: Race) -> None:
    await t.with_validators()
    await t.people.ana.ok("delegate", {"validator": "v1", "amount": "1000"})
    fates = await race(
        t,
        ("ana", "begin-unbonding", {"validator": "v1", "amount": "1000"}),
        ("ana", "redelegate", {"source": "v1", "target": "v2", "amount": "1000"}),
        ("ana", "begin-unbonding", {"validator": "v1", "amount": "600"}),
        ("ana", "redelegate", {"source": "v1", "target": "v2", "amount": "600"}),
    )
    one_of(fates, "position-not-found", "insufficient-stake")


@raced
async def test_an_entry_is_paid_once_or_put_back(t: Town, race: Race) -> None:
    await t.with_validators()
    await t.people.ana.ok("delegate", {"validator": "v1", "amount": "1000"})
    begun = await t.people.ana.ok("begin-unbonding", {"validator": "v1", "amount": "1000"})
    entry = {"validator": "v1", "entry": begun["command_id"]}
    one_of(await race(t, *[("ana", "cancel-unbonding", entry)] * 2), "entry-not-found")
    begun = await t.people.ana.ok("begin-unbonding", {"validator": "v1", "amount": "1000"})
    entry = {"validator": "v1", "entry": begun["command_id"]}
    await t.later(days=21)
    fates = await race(
        t,
        ("ana", "complete-unbonding", entry),
        ("robot", "complete-unbonding", entry),
        ("ana", "cancel-unbonding", entry),
    )
    one_of(fates[:2], "same", "entry-not-found")
    assert fates[2] in ("unbonding-has-matured", "entry-not-found")
    assert t.balance("wallet:ana") == FUNDS


@raced
async def test_rewards_are_claimed_and_evidence_slashes_once(t: Town, race: Race) -> None:
    await t.with_validators()
    allocate = {"reference": "a1", "amount": "1000"}
    one_of(await race(t, *[("admin", "allocate-rewards", allocate)] * 4), "allocation-exists")
    one_of(await race(t, *[("val", "claim-rewards", {"validator": "v1"})] * 4), "same")
    assert t.balance("wallet:val") == FUNDS - 1_000_000 + 500
    slash = {"validator": "v1", "kind": "downtime", "infraction_at": t.at(), "evidence_id": "x1"}
    one_of(await race(t, *[("admin", "slash", slash)] * 4), "evidence-was-used")
    assert t.balance("pool:bonded") == 2_000_000 - 10_000
    one_of(
        await race(t, *[("val", "appeal-slash", {"evidence_id": "x1", "grounds": ""})] * 2), "appeal-exists"
    )
    decide = {"evidence_id": "x1", "won": True, "reason": ""}
    one_of(await race(t, *[("admin", "decide-appeal", decide)] * 2), "appeal-is-not-open")
    assert t.balance("treasury") == FUNDS - 10_000


@raced
async def test_delegating_against_a_slash_adds_up_in_either_order(t: Town, race: Race) -> None:
    await t.with_validators()
    slash = {"validator": "v1", "kind": "downtime", "infraction_at": t.at(), "evidence_id": "x1"}
    fates = await race(
        t,
        ("ana", "delegate", {"validator": "v1", "amount": "1000"}),
        ("admin", "slash", slash),
        ("val", "begin-unbonding", {"validator": "v1", "amount": "5000"}),
    )
    assert fates[0] in ("ok", "validator-is-jailed")
    assert fates[1:] == ["ok", "ok"]


# Devices and harvest.


async def harvesting(t: Town, *tasks: str) -> dict[str, Any]:
    """An hour's work of Ben's device in session `s1`; returns what names it."""
    await t.with_harvesters()
    await t.people.ben.ok("start-harvest-session", {"session": "s1", "device": "d1"})
    await t.later(hours=1)
    claimed = [{"task": task, "result_digest": "aa"} for task in tasks]
    work = {"session": "s1", "seq": 1, "cpu_ms": 3_600_000, "tasks": claimed}
    await t.people.ben.ok("record-contribution", work)
    return {"session": "s1", "seq": 1}


def found(*devices: str, digest: str = "aa") -> dict[str, Any]:
    return {"results": [{"task": "t1", "device": each, "result_digest": digest} for each in devices]}


@raced
async def test_one_session_a_device_and_one_device_a_session(t: Town, race: Race) -> None:
    await t.with_harvesters()
    fates = await race(
        t,
        ("ben", "start-harvest-session", {"session": "s1", "device": "d1"}),
        ("dee", "start-harvest-session", {"session": "s1", "device": "d2"}),
        ("ben", "start-harvest-session", {"session": "s1", "device": "d1"}),
        ("ben", "start-harvest-session", {"session": "s2", "device": "d1"}),
    )
    sessions = await t.all_of("harvest-session")
    of_device = {device: (await t.state(f"harvester:{device}")).session for device in ("d1", "d2")}
    assert {id: session.device for id, session in sessions.items()} == {
        session: device for device, session in of_device.items() if session
    }
    assert of_device["d1"]
    assert fates.count("ok") == len(sessions)
    assert set(fates) <= {"ok", "harvest-session-exists", "harvest-session-is-open"}


@pytest.mark.parametrize("second", ["same", "another"])
@raced
async def test_a_device_starts_one_session(t: Town, race: Race, second: str) -> None:
    await t.with_harvesters()
    other = "s1" if second == "same" else "s2"
    fates = await race(
        t,
        *[("ben", "start-harvest-session", {"session": "s1", "device": "d1"})] * 4,
        *[("ben", "start-harvest-session", {"session": other, "device": "d1"})] * 4,
    )
    one_of(fates, "harvest-session-exists", "harvest-session-is-open")
    assert len(await t.all_of("harvest-session")) == 1


@raced
async def test_a_session_of_two_owners_is_the_first_ones(t: Town, race: Race) -> None:
    await t.with_harvesters()
    fates = await race(
        t,
        ("ben", "start-harvest-session", {"session": "s1", "device": "d1"}),
        ("dee", "start-harvest-session", {"session": "s1", "device": "d2"}),
    )
    one_of(fates, "harvest-session-exists")
    open_sessions = [(await t.state(f"harvester:{device}")).session for device in ("d1", "d2")]
    assert open_sessions == ["s1" if each == "ok" else "" for each in fates]


@raced
async def test_an_hour_is_contributed_once(t: Town, race: Race) -> None:
    await t.with_harvesters()
    await t.people.ben.ok("start-harvest-session", {"session": "s1", "device": "d1"})
    await t.later(hours=1)
    work = [{"session": "s1", "seq": seq, "cpu_ms": 4 * 3_600_000} for seq in (1, 1, 2, 3)]
    fates = await race(t, *[("ben", "record-contribution", each) for each in work])
    one_of(fates, "contribution-sequence-must-increase", "contribution-exceeds-capability")


@raced
async def test_eight_validate_at_once_and_each_owner_counts_once(t: Town, race: Race) -> None:
    work = await harvesting(t, "t1")
    votes = [found("w1"), found("w2"), found("d2"), found("w1", digest="bb")] * 2
    fates = await race(t, *[("robot", "validate-contribution", work | vote) for vote in votes])
    assert set(fates) <= {"ok", "same"}
    contribution = await t.state("contribution:s1:1")
    voters = [vote.voter for vote in contribution.votes]
    assert len(voters) == len(set(voters))
    assert contribution.status in ("validated", "pending")


@raced
async def test_a_reward_is_approved_by_eight_and_paid_once(t: Town, race: Race) -> None:
    work = await harvesting(t, "t1")
    votes = [("robot", "validate-contribution", work | found("w1", "w2"))] * 4
    one_of(await race(t, *votes), "same")
    one_of(await race(t, *[("robot", "approve-reward", work)] * 8), "same")
    reward = (await t.state("contribution:s1:1")).reward
    assert t.balance("wallet:ben") - FUNDS == FUNDS - t.balance("pool:rewards") == reward > 0


@raced
async def test_a_dispute_against_the_payment(t: Town, race: Race) -> None:
    work = await harvesting(t, "t1")
    await t.people.robot.ok("validate-contribution", work | found("w1", "w2"))
    fates = await race(
        t, ("robot", "approve-reward", work), ("val", "dispute-contribution", work | {"reason": "odd"})
    )
    one_of(fates, "contribution-is-disputed", "contribution-is-paid")
    assert (t.balance("wallet:ben") > FUNDS) == (fates[0] == "ok")


@raced
async def test_a_verdict_stands(t: Town, race: Race) -> None:
    work = await harvesting(t, "t1")
    await t.people.ben.ok("dispute-contribution", work | {"reason": "odd"})
    verdicts = ("valid", "fraud", "failure", "valid")
    sent = [("admin", "decide-contribution", work | {"verdict": v, "reason": ""}) for v in verdicts]
    fates = await race(t, *sent)
    one_of(fates, "contribution-is-not-disputed")
    decided = await t.state("contribution:s1:1")
    assert (decided.status == "validated") == (verdicts[fates.index("ok")] == "valid")


@raced
async def test_evidence_counts_once(t: Town, race: Race) -> None:
    await t.with_devices()
    body = {"device": "d1", "service": "harvest", "kind": "success", "evidence_id": "x1"}
    one_of(await race(t, *[("robot", "record-reputation", body)] * 8), "same")
    body |= {"evidence_id": "x2"}
    kinds = ("failure", "fraud", "failure", "success")
    fates = await race(t, *[("robot", "record-reputation", body | {"kind": kind}) for kind in kinds])
    one_of(fates, "same", "evidence-was-counted")
    assert (await t.state("reputation:d1:harvest")).evidence == 2


# The marketplace.


async def only_ben_sells(t: Town) -> None:
    await t.with_offerings()
    await t.people.dee.ok("withdraw-offering", {"offering": "o2"})


@raced
async def test_eight_want_the_last_two_units(t: Town, race: Race) -> None:
    await t.with_offerings()
    buyers = ("ana", "cy", "dee", "val") * 2
    fates = await race(t, *[(who, "open-contract", booked(f"k{n}")) for n, who in enumerate(buyers)])
    assert Counter(fates) == {"ok": 2, "capacity-is-taken": 6}
    assert (await t.state("offering:o1")).used == 2
    spent = {who: FUNDS - t.balance(f"wallet:{who}") for who in set(buyers)}
    won = Counter(who for who, each in zip(buyers, fates, strict=True) if each == "ok")
    assert spent == {who: 2_000 * won[who] for who in spent}


@raced
async def test_eight_requests_are_matched_with_the_last_two_units(t: Town, race: Race) -> None:
    await only_ben_sells(t)
    buyers = ("ana", "cy") * 4
    sent = [(who, "request-service", wanted(t, f"r{n}") | ANY) for n, who in enumerate(buyers)]
    assert await race(t, *sent) == ["ok"] * 8
    statuses = Counter(request.status for request in (await t.all_of("request")).values())
    assert statuses == {"matched": 2, "open": 6}
    assert len(await t.all_of("contract")) == (await t.state("offering:o1")).used == 2


@raced
async def test_all_ways_to_the_last_units(t: Town, race: Race) -> None:
    await only_ben_sells(t)
    p = t.people
    await p.ana.ok("request-service", wanted(t, "r1", mode="bids") | ANY)
    await p.ben.ok("place-bid", {"request": "r1", "offering": "o1", "ask": "900"})
    await t.later(hours=2)
    await race(
        t,
        ("robot", "close-bidding", {"request": "r1"}),
        ("ana", "open-contract", booked("k1")),
        ("cy", "allocate-burst", burst("b1", 2)),
        ("cy", "request-service", wanted(t, "r2") | ANY),
        ("ana", "allocate-burst", burst("b2", 1)),
        ("val", "open-contract", booked("k2", units=2)),
        ("ben", "pause-offering", {"offering": "o1"}),
        ("wim", "request-service", wanted(t, "r3", units=2) | ANY),
    )
    offering = await t.state("offering:o1")
    assert offering.used == 2 or offering.status == "paused"


@raced
async def test_one_bid_a_provider(t: Town, race: Race) -> None:
    await t.with_offerings()
    await t.people.ana.ok("request-service", wanted(t, "r1", mode="bids") | ANY)
    bid = {"request": "r1", "offering": "o1", "ask": "900"}
    fates = await race(
        t,
        *[("ben", "place-bid", bid)] * 3,
        *[("ben", "place-bid", bid | {"ask": "700"})] * 3,
        ("dee", "place-bid", bid | {"offering": "o2", "ask": "800"}),
    )
    one_of(fates[:6], "bid-exists")
    assert fates[6] == "ok"
    request = await t.state("request:r1")
    assert set(request.bids) == {"ben", "dee"}
    one_of(await race(t, *[("ben", "withdraw-bid", {"request": "r1"})] * 2), "bid-not-found")
    await t.later(hours=2)
    one_of(await race(t, *[("robot", "close-bidding", {"request": "r1"})] * 4), "same")
    assert (await t.state("request:r1")).winner == "dee"


@raced
async def test_a_bid_against_the_close(t: Town, race: Race) -> None:
    await t.with_offerings()
    await t.people.ana.ok("request-service", wanted(t, "r1", mode="bids") | ANY)
    await t.later(hours=2)
    fates = await race(
        t,
        ("ben", "place-bid", {"request": "r1", "offering": "o1", "ask": "1"}),
        ("robot", "close-bidding", {"request": "r1"}),
        ("ana", "withdraw-request", {"request": "r1"}),
    )
    assert fates[0] == "bidding-is-closed"
    assert fates[1:] in (["ok", "request-is-closed"], ["same", "ok"])


async def won(t: Town) -> None:
    """Ben won Ana's request `r1`."""
    await t.with_offerings()
    await t.people.ana.ok("request-service", wanted(t, "r1", mode="bids") | ANY)
    await t.people.ben.ok("place-bid", {"request": "r1", "offering": "o1", "ask": "900"})
    await t.later(hours=2)
    await t.people.robot.ok("close-bidding", {"request": "r1"})


@pytest.mark.parametrize("hours", [23, 24])
@raced
async def test_accept_against_expiry(t: Town, race: Race, hours: int) -> None:
    await won(t)
    await t.later(hours=hours)
    accepted, expired = await race(
        t, ("ana", "accept-bid", {"request": "r1"}), ("robot", "expire-request", {"request": "r1"})
    )
    if hours < 24:
        assert (accepted, expired in ("same", "request-has-not-expired")) == ("ok", True)
    else:
        assert (accepted in ("acceptance-is-too-late", "request-is-closed"), expired) == (True, "ok")
    assert (await t.state("offering:o1")).used == (hours < 24)
    assert await t.held("ben") == 0


@raced
async def test_accept_against_accept_and_decline(t: Town, race: Race) -> None:
    await won(t)
    fates = await race(
        t,
        ("ana", "accept-bid", {"request": "r1"}),
        ("ana", "accept-bid", {"request": "r1", "contract": "k1"}),
        ("ana", "withdraw-request", {"request": "r1"}),
    )
    one_of(fates, "request-is-closed")
    assert len(await t.all_of("contract")) == (fates[2] != "ok")


@pytest.mark.parametrize("hours", [23, 24])
@raced
async def test_expiry_against_the_start(t: Town, race: Race, hours: int) -> None:
    await t.with_offerings()
    await t.opens("k1")
    await t.later(hours=hours)
    started, expired = await race(
        t, ("ben", "start-service", {"contract": "k1"}), ("robot", "expire-contract", {"contract": "k1"})
    )
    if hours < 24:
        assert (started, expired in ("same", "contract-has-not-expired")) == ("ok", True)
    else:
        assert (started, expired) == ("contract-has-expired", "ok")
    contract = await t.state("contract:k1")
    assert contract.refunded == (0 if hours < 24 else 2_000)


@raced
async def test_start_against_termination(t: Town, race: Race) -> None:
    """A service that starts first is ended at once, with its notice; one that does not start costs nothing."""
    await t.with_offerings()
    await t.opens("k1")
    started, ended = await race(
        t,
        ("ben", "start-service", {"contract": "k1"}),
        ("ana", "terminate-contract", {"contract": "k1", "reason": ""}),
    )
    assert (started in ("ok", "contract-has-ended"), ended) == (True, "ok")
    contract = await t.state("contract:k1")
    assert contract.remaining == (2_000 if started == "ok" else 0)
    assert (await t.state("offering:o1")).used == 0


@raced
async def test_both_sides_terminate_at_once(t: Town, race: Race) -> None:
    await t.with_offerings()
    await t.starts("k1")
    await t.later(minutes=30)
    body = {"contract": "k1", "reason": "enough"}
    fates = await race(t, *[("ana", "terminate-contract", body), ("ben", "terminate-contract", body)] * 4)
    one_of(fates, "contract-has-ended")
    assert (await t.state("offering:o1")).used == 0
    await t.later(minutes=10)
    one_of(await race(t, *[("robot", "settle-period", {"contract": "k1", "period": 0})] * 4), "same")
    by_ana = fates.index("ok") % 2 == 0
    contract = await t.state("contract:k1")
    # Half an hour was used; whoever left owes the other the next hour, the provider at most what he would get.
    assert (contract.paid, contract.fees, contract.penalties) == ((1_485, 15, 0) if by_ana else (0, 0, 500))


@raced
async def test_completion_against_termination(t: Town, race: Race) -> None:
    await t.with_offerings()
    await t.starts("k1", minutes=60)
    await t.later(minutes=70)
    fates = await race(
        t,
        *[("robot", "settle-period", {"contract": "k1", "period": 0})] * 2,
        ("ana", "terminate-contract", {"contract": "k1", "reason": ""}),
        ("ben", "terminate-contract", {"contract": "k1", "reason": ""}),
    )
    one_of(fates[:2], "same")
    assert fates[2:] == ["contract-has-ended"] * 2
    contract = await t.state("contract:k1")
    assert (contract.status, contract.paid, contract.fees) == ("completed", 990, 10)


@raced
async def test_a_period_settles_once_while_the_contract_ends(t: Town, race: Race) -> None:
    """In either order: the first hour is paid, and what was used of the second is still to come."""
    await t.with_offerings()
    await t.starts("k1")
    await t.later(minutes=70)
    fates = await race(
        t,
        ("robot", "settle-period", {"contract": "k1", "period": 0}),
        ("ana", "terminate-contract", {"contract": "k1", "reason": ""}),
        ("robot", "settle-period", {"contract": "k1", "period": 0}),
        ("ana", "top-up-escrow", {"contract": "k1", "amount": "5"}),
    )
    one_of([fates[0], fates[2]], "same")
    assert (fates[1], fates[3]) == ("ok", "ok")
    await t.later(minutes=10)
    await t.people.robot.ok("settle-period", {"contract": "k1", "period": 1})
    contract = await t.state("contract:k1")
    # Ten minutes of the second hour, and the rest of it for the notice.
    assert (contract.paid + contract.fees, contract.refunded, contract.closed) == (2_000, 5, True)


@raced
async def test_a_window_is_reported_once(t: Town, race: Race) -> None:
    await t.with_offerings()
    await t.starts("k1")
    await t.later(minutes=15)
    body = {"contract": "k1", "window": 0, "p95_ms": 9_999, "uptime_bp": 0, "errors_bp": 10_000}
    one_of(await race(t, *[("robot", "report-service-level", body)] * 8), "window-was-reported")
    assert (await t.state("contract:k1")).misses == {0: 3}


@raced
async def test_usage_of_one_sequence_has_one_value(t: Town, race: Race) -> None:
    await t.with_offerings("pay_as_you_go")
    await t.starts("k1")
    await t.later(minutes=30)
    meters = [{"contract": "k1", "seq": 1, "unit_ms": str(60_000 * n)} for n in (5, 10, 5, 10)]
    fates = await race(t, *[("ben", "meter-usage", meter) for meter in meters])
    one_of(fates, "same", "meter-is-outdated")


@raced
async def test_renewing_twice_renews_once(t: Town, race: Race) -> None:
    await t.with_offerings()
    await t.starts("k1")
    sent = [
        ("ana", "renew-contract", {"contract": "k1", "renewal": f"k{n}", "minutes": 60} | ANY)
        for n in (2, 3, 2, 3)
    ]
    one_of(await race(t, *sent), "contract-was-renewed", "contract-exists")
    assert (await t.state("offering:o1")).used == 1


# Settlement.


def about(dispute: str = "q1", **more: Any) -> dict[str, Any]:
    return {"dispute": dispute, "contract": "k1", "reason": "it is slow"} | more


@pytest.mark.parametrize("minutes", [60, 120])
@raced
async def test_a_dispute_against_settlement(t: Town, race: Race, minutes: int) -> None:
    """Whichever is first: of a settled period nothing is disputed, and nothing disputed is settled."""
    await t.with_offerings()
    await t.starts("k1", minutes=minutes)
    await t.later(minutes=70)
    settled, disputed = await race(
        t, ("robot", "settle-period", {"contract": "k1", "period": 0}), ("ana", "open-dispute", about())
    )
    contract = await t.state("contract:k1")
    if contract.paid:
        assert (settled, disputed) == ("ok", "ok" if minutes == 120 else "escrow-is-empty")
        assert contract.remaining == (1_000 if minutes == 120 else 0)
    else:
        # The units of a service that is over do not wait for the decision.
        assert (settled, disputed) == ("ok" if minutes == 60 else "contract-is-in-dispute", "ok")
        assert contract.remaining == minutes * 1_000 // 60
        assert contract.holds_capacity == (minutes == 120)


@raced
async def test_both_sides_dispute_or_leave_at_once(t: Town, race: Race) -> None:
    await t.with_offerings()
    await t.opens("k1")
    fates = await race(
        t,
        ("ana", "open-dispute", about()),
        ("ben", "open-dispute", about()),
        ("ben", "open-dispute", about("q2")),
        ("ana", "terminate-contract", {"contract": "k1", "reason": ""}),
    )
    one_of(fates, "dispute-exists", "contract-is-in-dispute", "contract-has-ended", "escrow-is-empty")
    assert (await t.state("contract:k1")).remaining == (0 if fates[3] == "ok" else 2_000)


@raced
async def test_two_decisions_of_one_dispute(t: Town, race: Race) -> None:
    await t.with_offerings()
    await t.opens("k1")
    await t.people.ana.ok("open-dispute", about())
    splits = [(0, 2_000), (2_000, 0), (1_000, 1_000), (500, 1_500)]
    sent: list[Sent] = [
        ("admin", "resolve-dispute", {"dispute": "q1", "to_payer": str(a), "to_payee": str(b), "reason": ""})
        for a, b in splits
    ]
    fates = await race(t, *sent)
    one_of(fates, "dispute-is-resolved")
    contract = await t.state("contract:k1")
    assert (contract.refunded, contract.paid) == splits[fates.index("ok")]
    assert (await t.state("offering:o1")).used == 0


@raced
async def test_the_same_evidence_for_a_dispute_twice(t: Town, race: Race) -> None:
    await t.with_offerings()
    await t.opens("k1")
    await t.people.ana.ok("open-dispute", about())
    evidence = {"dispute": "q1", "digest": "ff"}
    one_of(await race(t, *[("ana", "submit-evidence", evidence)] * 4), "same")
    last = {"dispute": "q1", "to_payer": "2000", "to_payee": "0", "reason": ""}
    fates = await race(
        t,
        ("ben", "submit-evidence", evidence),
        ("admin", "resolve-dispute", last),
        ("ana", "submit-evidence", evidence),
    )
    assert (fates[0] in ("ok", "dispute-is-resolved"), *fates[1:]) == (True, "ok", "same")


@raced
async def test_a_source_means_one_obligation(t: Town, race: Race) -> None:
    await t.people.admin.ok("open-window", {"window": "n1"})
    dues = [owed("ana", "ben"), owed("ana", "ben", "99"), owed("ana", "cy"), owed("ana", "ben", memo="x")] * 2
    fates = await race(t, *[("robot", "record-obligation", due) for due in dues])
    assert Counter(fates) == {"ok": 1, "same": 1, "obligation-exists": 6}
    # A debtor's own source is another one, whoever is first.
    own = owed("ana", "ben", source="s2")
    fates = await race(t, ("ana", "record-obligation", own), ("robot", "record-obligation", own))
    assert fates == ["ok", "ok"]
    assert (await t.state("netting:n1")).listed == 3


@raced
async def test_recording_against_the_close(t: Town, race: Race) -> None:
    await t.people.admin.ok("open-window", {"window": "n1"})
    closed, named, unnamed, again = await race(
        t,
        ("admin", "close-window", {"window": "n1"}),
        ("ana", "record-obligation", owed("ana", "ben", window="n1")),
        ("cy", "record-obligation", owed("cy", "ben")),
        ("admin", "close-window", {"window": "n1"}),
    )
    one_of([closed, again], "window-is-not-open")
    assert named in ("ok", "window-is-not-open")
    assert unnamed in ("ok", "no-window-is-open")
    recorded = [named, unnamed].count("ok")
    assert (await t.state("netting:n1")).listed == recorded == len(await t.all_of("obligation"))
    await t.people.robot.ok("reserve-positions", {"window": "n1"})
    await t.people.robot.ok("finalise-settlement", {"window": "n1"})
    assert t.balance("wallet:ben") == FUNDS + 100 * recorded


async def reserving(t: Town, amount: int = 100) -> None:
    """A closed window in which Ana owes Ben."""
    await t.people.admin.ok("open-window", {"window": "n1"})
    await t.people.ana.ok("record-obligation", owed("ana", "ben", str(amount)))
    await t.people.admin.ok("close-window", {"window": "n1"})


@raced
async def test_a_window_is_reserved_and_settled_once(t: Town, race: Race) -> None:
    await reserving(t)
    one_of(await race(t, *[("robot", "reserve-positions", {"window": "n1"})] * 4), "same")
    assert await t.held("ana") == 100
    one_of(await race(t, *[("robot", "finalise-settlement", {"window": "n1"})] * 4), "same")
    assert (t.balance("wallet:ben"), await t.held("ana")) == (FUNDS + 100, 0)


@raced
async def test_finalising_against_an_abort(t: Town, race: Race) -> None:
    await reserving(t)
    await t.people.robot.ok("reserve-positions", {"window": "n1"})
    fates = await race(
        t,
        ("robot", "finalise-settlement", {"window": "n1"}),
        ("admin", "abort-window", {"window": "n1", "reason": "asked"}),
    )
    assert fates in (["ok", "window-has-ended"], ["same", "ok"])
    assert t.balance("wallet:ben") == FUNDS + (100 if fates[0] == "ok" else 0)
    assert await t.held("ana") == 0


@raced
async def test_a_reservation_against_a_payment_of_the_same_money(t: Town, race: Race) -> None:
    await reserving(t, FUNDS)
    fates = await race(
        t,
        ("robot", "reserve-positions", {"window": "n1"}),
        ("ana", "transfer", {"from": "wallet:ana", "to": "wallet:cy", "amount": "1"}),
    )
    assert (fates[0], fates[1] in ("ok", "insufficient-funds")) == ("ok", True)
    window = await t.state("netting:n1")
    assert (window.status, await t.held("ana")) == (
        ("aborted", 0) if fates[1] == "ok" else ("settling", FUNDS)
    )


@raced
async def test_two_windows_open_at_once(t: Town, race: Race) -> None:
    sent = [("admin", "open-window", {"window": f"n{number % 2}"}) for number in range(4)]
    one_of(await race(t, *sent), "window-exists", "another-window-is-open")


@raced
async def test_a_packet_arrives_once(t: Town, race: Race) -> None:
    await t.people.admin.ok("register-peer", {"zone": "far", "key": FAR_KEY})
    first, other = delivered(packet(t)), delivered(packet(t, amount=51))
    fates = await race(t, *[("robot", "receive-transfer", first), ("robot", "receive-transfer", other)] * 4)
    assert Counter(fates) == {"ok": 1, "same": 3, "packet-differs": 4}
    amount = 50 if fates[0] in ("ok", "same") else 51
    assert t.balance("wallet:ana", "far/FOG") == amount == (await t.state("asset:far/FOG")).supply


@raced
async def test_a_packet_is_received_or_refused(t: Town, race: Race) -> None:
    await t.people.admin.ok("register-peer", {"zone": "far", "key": FAR_KEY})
    body = delivered(packet(t))
    await t.later(days=1)
    fates = await race(t, *[("robot", "receive-transfer", body), ("robot", "refuse-transfer", body)] * 2)
    one_of(fates, "same")
    assert t.balance("wallet:ana", "far/FOG") == 0


@raced
async def test_a_transfer_has_one_outcome_even_if_its_peer_signs_two(t: Town, race: Race) -> None:
    await t.people.admin.ok("register-peer", {"zone": "far", "key": FAR_KEY})
    out = {"target_zone": "far", "recipient": "fay", "amount": "100", "timeout": t.at(days=1)}
    await t.people.ana.ok("initiate-transfer", out)
    sent = (await t.state("packet:far:1")).packet

    def outcome(kind: str) -> dict[str, Any]:
        proof = sign(FAR, statement(kind, sent, t.now).encode())
        body = {"target_zone": "far", "sequence": 1, "at": t.at(), "proof": proof}
        return body if kind == "refused" else body | {"success": kind == "received"}

    acknowledge, timeout = "record-acknowledgement", "timeout-transfer"
    fates = await race(
        t,
        ("robot", acknowledge, outcome("received")),
        ("robot", acknowledge, outcome("failed")),
        ("robot", timeout, outcome("refused")),
        ("robot", acknowledge, outcome("received")),
        ("robot", timeout, outcome("refused")),
    )
    one_of(fates, "same", "transfer-is-settled")
    kept_there = fates[0] in ("ok", "same")
    assert (t.balance("bridge:far"), t.balance("wallet:ana")) == (
        (100, FUNDS - 100) if kept_there else (0, FUNDS)
    )
