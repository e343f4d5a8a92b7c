"""What attackers and broken clients send, context by context: each trap gets the name of a rule and changes nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime, timedelta
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import httpx
import pytest

from commands._routes import ROUTES
from commands._signatures import sign
from domain.settlement.transfers import statement
from ops.servers import Servers
from ops.web import MOST_BODY_BYTES
from tests.acceptance.economy import (
    ANY,
    FAR,
    FAR_KEY,
    FUNDS,
    PATHS,
    SIZE,
    WELL,
    Town,
    Towns,
    booked,
    burst,
    delivered,
    kept,
    owed,
    packet,
    played,
    problem,
    rule_of,
    towns_of,
    wanted,
)


@pytest.fixture(scope="module")
def towns(servers: Servers, _template: str) -> Iterator[Towns]:
    with towns_of(servers, _template, "traps") as made:
        yield made


# Everywhere: what a field may hold, for every field of every command.


def either(text: str) -> list[str]:
    """JSON values between bars; `<65>` stands for so many letters, `<10^38>` for the first amount that is too large."""
    for n in (65, 257, 2_049):
        text = text.replace(f"<{n}>", n * "x")
    text = text.replace("<10^38>", str(10**38))
    return [each.strip() for each in text.split("|")]


KINDS: dict[Any, tuple[Any, list[str]]] = {
    "amount": (
        "5",
        either(r"""
            -50 | "-50" | 0 | "0" | "05" | "+5" | "1_000" | "5.0" | " 5" | "" | "\u0665" | "1e3" | "<10^38>"
            | 9007199254740993 | true | "true" | [5] | {"units":5}
        """),
    ),
    "quantity": (
        "0",
        either(r'-1 | "-1" | "05" | "5.0" | "" | "<10^38>" | 9007199254740993 | false | []'),
    ),
    "count": (1, either('-1 | 2147483648 | true | "5" | "" | [1]')),
    "basis_points": (1, either('-1 | 10001 | true | "5" | [1]')),
    "small_int": (1, either('-2147483648 | 2147483648 | true | "5" | [1]')),
    int: (1, either('-1 | 9007199254740992 | true | "5" | [1]')),
    "id": (
        "x1",
        either(r"""
            "" | " " | "a b" | "a:b" | "a/b" | "../a" | "a\u0000" | "\ud800" | "b\u0435n" | "a\nb" | "<65>"
            | 5 | true | ["x1"]
        """),
    ),
    "account": (
        "wallet:x1",
        either(r"""
            "" | "wallet:" | ":x1" | "wallet::x1" | "wallet:a:b:c" | "wallet:a b" | "wallet:\u0000" | "wallet:<65>"
            | "\ud800" | "hold:h1" | "contract:k1" | "ana" | 5 | true
        """),
    ),
    "path": (
        "x1:y1",
        either(r'"" | ":" | "a:b:c:d" | "a::b" | "a b" | "\ud800" | "\u0000" | 5 | true | []'),
    ),
    "wallet": (
        "wallet:x1",
        either(r'"" | "wallet:" | "a:b:c" | "wallet:a:b:c" | "a b" | "wallet:\ud800" | "\u0000" | 5 | true'),
    ),
    "asset": (
        "FOG",
        either(r'"fog" | "F" | "F1234567890123456" | "/FOG" | "a/" | "a/b/FOG" | "F\u0000G" | 5'),
    ),
    "text": ("x", either(r'"<257>" | "a\u0000b" | "\ud800" | "a\nb" | "a\u202eb" | 5 | true | []')),
    "personal": ("x", either(r'"<257>" | "a\u0000b" | "\ud800" | "a\nb" | "a\u202eb" | 5 | true | []')),
    "sealed": ("x", either(r'"<2049>" | "a\u0000b" | "\ud800" | "a\nb" | 5 | true | []')),
    str: ("x", either(r'"<257>" | "\u0000" | "\ud800" | 5')),
    datetime: (
        "2027-01-01T00:00:00Z",
        either(r"""
            "2027-01-01T00:00:00" | "2027-01-01" | "2027-02-30T00:00:00Z" | "2027-01-01 00:00:00Z" | "soon" | ""
            | "2027-01-01T00:00:00+25:00" | "9999-12-31T23:59:59Z" | "0001-01-01T00:00:00+01:00" | 1798761600 | true
        """),
    ),
    bool: (True, either('0 | 1 | "true" | "false" | []')),
}
"""By kind a value that is taken, and those that are not, as JSON."""
NO_NUMBERS = [*either("5.0 | 0.1 | -0.0 | 1e999 | -1e999 | 1e2 | NaN | Infinity | -Infinity"), "9" * 5_000]
"""Numbers of which no two readers need to understand the same: no field takes them, and no nested one."""
FORGED = ("by", "at", "issued_at", "owner", "principal", "role", "as", "command_id", "__class__")
"""Who asks, and when, never comes in the body; where one of these is a field, it says something else."""
HOLE = '"@@"'

Path = tuple[str | int, ...]


def kind_of(hint: Any) -> tuple[Any, bool]:
    """What a field's type is, and whether it may be left empty."""
    if get_origin(hint) in (Union, UnionType):
        (inner,) = (part for part in get_args(hint) if part is not NoneType)
        return kind_of(inner)[0], True
    if get_origin(hint) is Annotated:
        return hint.__metadata__[0], False
    return hint, False


def hints_of(command: type) -> dict[str, Any]:
    hints = get_type_hints(command, include_extras=True)
    return {f.name.removesuffix("_"): hints[f.name] for f in fields(command)}


def sample(hint: Any, of: Any = None) -> Any:
    """A value that the kind takes."""
    kind, _ = kind_of(hint)
    if get_origin(kind) is tuple:
        return [sample(get_args(kind)[0], of)]
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return {name: sample(inner, of) for name, inner in hints_of(kind).items()}
    return of[kind] if of else KINDS[kind][0]


def leaves(hint: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every field of a command, its parts and the items of its lists, with its type."""
    kind, _ = kind_of(hint)
    if path:
        yield path, hint
    if get_origin(kind) is tuple:
        yield from leaves(get_args(kind)[0], (*path, 0))
    elif is_dataclass(kind):
        assert isinstance(kind, type)
        for name, inner in hints_of(kind).items():
            yield from leaves(inner, (*path, name))


def with_hole(body: Any, path: Path) -> str:
    """The body as JSON, with a hole at the path."""
    copied = json.loads(json.dumps(body))
    place = copied
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = "@@"
    return json.dumps(copied)


def bad_values(hint: Any) -> Iterator[tuple[str, int]]:
    """JSON that the field does not take, with the status of the answer."""
    kind, optional = kind_of(hint)
    if get_origin(kind) is tuple:
        item = json.dumps(sample(get_args(kind)[0]))
        wrong = ['"x"', "{}", "5", "true", f"[{','.join([item] * 1_001)}]"]
    elif is_dataclass(kind):
        wrong = ['"x"', "[]", "5", "true"]
    else:
        wrong = KINDS[kind][1]
    for value in wrong if optional else [*wrong, "null"]:
        yield value, 422
    for value in NO_NUMBERS:
        yield value, 400


def line(name: str, key: str, body: str) -> bytes:
    context, command = name.split("/")
    return f'{{"context":"{context}","command":"{command}","key":{json.dumps(key)},"body":{body}}}'.encode()


def faulty(name: str, command: type) -> Iterator[tuple[str, int, str]]:
    """Bodies with one thing wrong: the JSON, the status of the answer, and the field that it names."""
    body = sample(command)
    for path, hint in leaves(command):
        with_a_hole = with_hole(body, path)
        for value, status in bad_values(hint):
            yield with_a_hole.replace(HOLE, value), status, ".".join(map(str, path))
    for path, hint in [((), command), *leaves(command)]:
        kind, _ = kind_of(hint)
        if is_dataclass(kind) and isinstance(kind, type):
            yield from faulty_object(body, path, kind)


def faulty_object(body: Any, path: Path, kind: type) -> Iterator[tuple[str, int, str]]:
    """An object with a field too many, one too few, or one twice."""
    part = sample(kind)
    prefix = "".join(f"{each}." for each in path)
    shell = with_hole(body, path) if path else HOLE
    for name in (each for each in FORGED if each not in part):
        yield shell.replace(HOLE, json.dumps(part | {name: "x"})), 422, f"{prefix}{name}"
    for f in fields(kind):
        name = f.name.removesuffix("_")
        if f.default is MISSING and f.default_factory is MISSING:
            rest = {key: value for key, value in part.items() if key != name}
            yield shell.replace(HOLE, json.dumps(rest)), 422, f"{prefix}{name}"
        twice = json.dumps(part)[:-1] + f", {json.dumps(name)}: {json.dumps(part[name])}}}"
        yield shell.replace(HOLE, twice), 400, ""


@played
async def test_whatever_is_wrong_with_a_body_is_named_and_changes_nothing(t: Town) -> None:
    sent = [(name, *each) for name, route in ROUTES.items() for each in faulty(name, route.command)]
    assert len(sent) > 5_000
    numbers = itertools.count(1)
    with t.nothing_changes():
        fates = t.counts()[1]
        lines = [line(name, f"bad-{next(numbers)}", body) for name, body, _, _ in sent]
        answers = await t.many("admin", lines)
        assert t.counts()[1] == fates
    for (name, body, status, field), sent_line, answer in zip(sent, lines, answers, strict=True):
        told = (name, body[:300], answer)
        if len(sent_line) > MOST_BODY_BYTES:
            assert (answer["status"], answer["body"]["type"]) == (413, "/problems/body-too-large"), told
            continue
        assert answer["status"] == status, told
        assert answer["body"]["type"] == f"/problems/{'malformed' if status == 400 else 'invalid'}-body", told
        if status == 422:
            assert [e["field"] for e in answer["body"]["facts"]["errors"]] == [field], told


def test_a_body_that_is_wrong_is_refused_alone_as_in_a_batch(towns: Towns) -> None:
    offering = json.dumps(sample(ROUTES["marketplace/register-offering"].command))
    bodies = {
        b"": 400,
        b"[]": 422,
        b"null": 422,
        b'"k1"': 422,
        b"{": 400,
        b"\xff": 400,
        b"[" * 30_000: 400,
        offering.replace('"base_price": "5"', '"base_price": 1e999').encode(): 400,
        offering.replace('"base_price": "5"', '"base_price": -5').encode(): 422,
        offering.replace('"base_price": "5"', '"base_price": true').encode(): 422,
        offering.replace('"x1"', '"\\ud800"').encode(): 422,
        offering.encode("utf-16"): 400,
    }

    async def scenario(t: Town) -> None:
        with t.nothing_changes():
            for body, status in bodies.items():
                kind = "malformed-body" if status == 400 else "invalid-body"
                await t.refuses("ben", "register-offering", body, kind)

    towns.run(scenario)


# Everywhere: whose it is, and who may.


async def everything(t: Town) -> dict[str, str]:
    """A town with one of each thing; who owns it is not Cy. Returns ids that are only known when it is made."""
    await t.with_validators()
    await t.with_harvesters()
    await t.with_offerings(capacity=4)
    made: dict[str, str] = {}
    p = t.people
    await p.admin.ok("open-window", {"window": "n1"})
    await p.admin.ok("register-peer", {"zone": "far", "key": FAR_KEY})
    await t.all_ok(
        ("ben", "start-harvest-session", {"session": "s1", "device": "d1"}),
        ("ben", "record-obligation", owed("ben", "ana", source="y1")),
    )
    hold = {"hold": "h1", "wallet": "ana", "payee": "ben", "amount": "100", "expires_at": t.at(hours=1)}
    await p.ana.ok("place-hold", hold)
    await p.ana.ok("delegate", {"validator": "v1", "amount": "10000"})
    locked = await p.ana.ok("delegate", {"validator": "v1", "amount": "10000", "lock_days": 30})
    unbonded = await p.ana.ok("begin-unbonding", {"validator": "v1", "amount": "1000"})
    made |= {"lot": locked["command_id"], "entry": unbonded["command_id"]}
    fact = {"validator": "v1", "kind": "downtime", "infraction_at": t.at(), "evidence_id": "x1"}
    await p.admin.ok("slash", fact)
    await t.starts("k1")
    await t.opens("k2")
    await p.ana.ok("open-dispute", {"dispute": "q1", "contract": "k2", "reason": "it is late"})
    await p.ana.ok("request-service", wanted(t, "r1", mode="bids", price_cap="5000"))
    await p.ben.ok("place-bid", {"request": "r1", "offering": "o1", "ask": "900"})
    await p.ana.ok("request-service", wanted(t, "r2", region="nowhere", any_price=True))
    await t.later(minutes=10)
    await p.ben.ok("record-contribution", {"session": "s1", "seq": 1, "cpu_ms": 600_000})
    return made


def laptop(device: str) -> dict[str, Any]:
    return {"device": device, "type": "laptop", "capabilities": SIZE, "region": "north"}


STRANGERS: list[tuple[str, dict[str, Any], str, str]] = [
    ("transfer", {"from": "wallet:ana", "to": "wallet:cy", "amount": "1"}, "from", "wallet"),
    ("burn-tokens", {"from": "wallet:ana", "amount": "1", "reason": "spite"}, "from", "wallet"),
    ("close-wallet", {"wallet": "wallet:ana"}, "wallet", "wallet"),
    ("place-hold", {"wallet": "wallet:ana", "hold": "h9", "payee": "cy", "amount": "1"}, "wallet", "wallet"),
    ("capture-hold", {"hold": "h1", "amount": "1", "to": "wallet:cy"}, "hold", "hold"),
    ("release-hold", {"hold": "h1"}, "hold", "hold"),
    ("edit-validator", {"validator": "v1", "commission": 1}, "validator", "validator"),
    ("withdraw-commission", {"validator": "v1"}, "validator", "validator"),
    ("unjail", {"validator": "v1"}, "validator", "validator"),
    ("begin-unbonding", {"validator": "v1", "amount": "1"}, "", "position"),
    ("redelegate", {"source": "v1", "target": "v2", "amount": "1"}, "", "position"),
    ("cancel-unbonding", {"validator": "v1", "entry": "@entry"}, "entry", "entry"),
    ("complete-unbonding", {"validator": "v1", "entry": "@entry"}, "entry", "entry"),
    ("expire-lock", {"validator": "v1", "delegator": "ana", "lot": "@lot"}, "lot", "position"),
    ("claim-rewards", {"validator": "v1", "delegator": "ana"}, "delegator", "position"),
    ("set-auto-compound", {"validator": "v1", "enabled": True}, "", "position"),
    ("appeal-slash", {"evidence_id": "x1", "grounds": "no"}, "evidence_id", "slash"),
    ("update-capabilities", {"device": "d1", "capabilities": SIZE}, "device", "device"),
    ("relocate-device", {"device": "d1", "region": "south"}, "device", "device"),
    ("heartbeat", {"device": "d1", "seq": 9}, "device", "device"),
    ("mark-offline", {"device": "d1"}, "device", "device"),
    ("suspend-device", {"device": "d1", "reason": "spite"}, "device", "device"),
    ("resume-device", {"device": "d1"}, "device", "device"),
    ("retire-device", {"device": "d1"}, "device", "device"),
    ("enrol-harvester", {"device": "w1", "capabilities": SIZE}, "device", "device"),
    ("update-harvest-policy", {"device": "d1", "policy": {}}, "device", "device"),
    ("report-device-state", {"device": "d1", "seq": 9, "charging": False}, "device", "device"),
    ("start-harvest-session", {"session": "s9", "device": "d1"}, "device", "device"),
    ("record-contribution", {"session": "s1", "seq": 9, "cpu_ms": 1}, "session", "harvest-session"),
    ("pause-harvest-session", {"session": "s1"}, "session", "harvest-session"),
    ("resume-harvest-session", {"session": "s1"}, "session", "harvest-session"),
    ("stop-harvest-session", {"session": "s1"}, "session", "harvest-session"),
    ("dispute-contribution", {"session": "s1", "seq": 1, "reason": "spite"}, "session", "contribution"),
    ("reprice-offering", {"offering": "o1", "base_price": "1"}, "offering", "offering"),
    ("pause-offering", {"offering": "o1"}, "offering", "offering"),
    ("resume-offering", {"offering": "o1"}, "offering", "offering"),
    ("withdraw-offering", {"offering": "o1"}, "offering", "offering"),
    ("place-bid", {"request": "r1", "offering": "o1", "ask": "1"}, "offering", "offering"),
    ("withdraw-bid", {"request": "r1"}, "", "bid"),
    ("match-request", {"request": "r2"}, "request", "request"),
    ("withdraw-request", {"request": "r1"}, "request", "request"),
    ("accept-bid", {"request": "r1"}, "request", "request"),
    ("start-service", {"contract": "k1"}, "contract", "contract"),
    ("meter-usage", {"contract": "k1", "seq": 9, "unit_ms": "1"}, "contract", "contract"),
    ("pause-contract", {"contract": "k1"}, "contract", "contract"),
    ("resume-contract", {"contract": "k1"}, "contract", "contract"),
    ("top-up-escrow", {"contract": "k1", "amount": "1"}, "contract", "contract"),
    ("renew-contract", {"contract": "k1", "renewal": "k9", "minutes": 60}, "contract", "contract"),
    ("terminate-contract", {"contract": "k1", "reason": "spite"}, "contract", "contract"),
    ("review-provider", {"contract": "k1", "rating": 1}, "contract", "contract"),
    ("renew-obligation", {"obligation": "ben:y1", "window": "n1"}, "obligation", "obligation"),
    ("open-dispute", {"dispute": "q9", "contract": "k1", "reason": "spite"}, "contract", "contract"),
    ("submit-evidence", {"dispute": "q1", "digest": "ff"}, "dispute", "dispute"),
]
"""What Cy, whom none of it concerns, sends; which field names the thing (empty: nothing else is said of one that
there is not); and what he is told that there is not."""


@played
async def test_what_belongs_to_others_is_answered_like_what_is_not_there(t: Town) -> None:
    made = await everything(t)
    register = {"offering": "o9", "device": "d1", "service_type": "compute", "tier": "bronze", "capacity": 1}
    register |= {"cpu_millicores": 1, "memory_mb": 1, "gpu": 0, "base_price": "1"}
    strangers = [*STRANGERS, ("register-offering", register, "device", "device")]
    with t.nothing_changes():
        for path, body, key, thing in strangers:
            body = {name: made.get(str(value).strip("@"), value) for name, value in body.items()}
            if path == "place-hold":
                body["expires_at"] = t.at(hours=1)
            foreign = await t.refuses("cy", path, body, f"{thing}-not-found")
            if key:
                unknown = "wallet:nope" if thing == "wallet" else "nope"
                missing = await t.refuses("cy", path, body | {key: unknown}, f"{thing}-not-found")
                assert missing["detail"] == foreign["detail"]
                assert set(missing["facts"]) == set(foreign["facts"])


@played
async def test_each_side_of_a_contract_does_only_its_own_part(t: Town) -> None:
    """The provider meters and starts, the customer pauses, tops up, renews and reviews."""
    await t.with_offerings()
    await t.starts("k1")
    with t.nothing_changes():
        for who, path, more in (
            ("ana", "meter-usage", {"seq": 1, "unit_ms": "0"}),
            ("ana", "start-service", {}),
            ("ben", "pause-contract", {}),
            ("ben", "resume-contract", {}),
            ("ben", "top-up-escrow", {"amount": "1"}),
            ("ben", "renew-contract", {"renewal": "k9", "minutes": 60} | ANY),
            ("ben", "review-provider", {"rating": 5}),
        ):
            await t.refuses(who, path, {"contract": "k1"} | more, "contract-not-found")


def names(text: str) -> list[str]:
    return text.split()


OPERATORS = names("""
    ledger/freeze-wallet ledger/unfreeze-wallet ledger/mint-tokens ledger/define-asset ledger/reverse-transaction
    ledger/distribute-rewards staking/allocate-rewards staking/slash staking/jail staking/decide-appeal
    harvest/decide-contribution marketplace/set-lane-bounds settlement/open-window settlement/abort-window
    settlement/resolve-dispute settlement/register-peer settlement/rotate-peer-key settlement/suspend-peer
    settlement/resume-peer platform/advance-clock approvals/set-limit approvals/approve approvals/reject
    operations/pause-projection operations/resume-projection operations/rebuild-projection operations/cancel-rebuild
    operations/retry-quarantined operations/repair-quarantined operations/discard-quarantined
    operations/reinstate-discarded
""")
"""Minting, reversal, slashing, windows, deciding disputes, and what the zone itself is."""
SYSTEMS = names("""
    ledger/expire-hold devices/record-reputation harvest/validate-contribution harvest/approve-reward
    marketplace/report-service-level marketplace/settle-period marketplace/expire-contract
    marketplace/expire-request marketplace/close-bidding settlement/close-window settlement/reserve-positions
    settlement/finalise-settlement settlement/receive-transfer settlement/refuse-transfer
    settlement/record-acknowledgement settlement/timeout-transfer
""")
"""Service levels, validation, reputation, and what timers and reactions do."""
EITHER = names("""
    ledger/release-hold staking/complete-unbonding staking/expire-lock staking/claim-rewards devices/mark-offline
    harvest/stop-harvest-session harvest/dispute-contribution settlement/record-obligation settlement/renew-obligation
""")
"""What people do for themselves and the system does when it is due."""


@played
async def test_nobody_does_what_his_role_is_not_for(t: Town) -> None:
    assert {*OPERATORS, *SYSTEMS, *EITHER} <= set(ROUTES)
    with t.nothing_changes():
        for name, route in ROUTES.items():
            body = sample(route.command)
            refused = ["olga"]
            if name in (*OPERATORS, *SYSTEMS):
                refused += ["ana"]
            if name not in (*SYSTEMS, *EITHER):
                refused += ["robot"]
            for who in refused:
                await t.refuses(who, name, body, "role-not-allowed")
                await t.refuses(who, name, b"{", "role-not-allowed")


@played
async def test_a_key_opens_no_other_zone(t: Town) -> None:
    with t.nothing_changes():
        for path, body in (("transfer", pay("1")), ("open-wallet", {"wallet": "ana:loot"})):
            response = await t.village.ana.send(PATHS[path], body, fogbook_zone=t.zone)
            problem(response, "zone-not-allowed")
        response = await t.people.ana.send("transfer", pay("1"), fogbook_zone="nowhere")
        problem(response, "zone-not-found")


@played
async def test_a_version_that_is_not_there_stops_every_command_that_has_a_main_stream(t: Town) -> None:
    await everything(t)
    with t.nothing_changes():
        for name, route in ROUTES.items():
            response = await t.people.admin.send(name, sample(route.command), if_match='"999"')
            problem(response, "stale-version" if route.main else "no-main-stream")


@played
async def test_who_acts_for_another_has_no_more_authority_than_he(t: Town) -> None:
    made = await everything(t)
    with t.nothing_changes():
        for path, body, rule in (
            ("record-obligation", owed("ben", "cy"), "obligation-needs-its-debtor"),
            ("open-dispute", {"dispute": "q9", "contract": "k1", "reason": ""}, "contract-not-found"),
            ("stop-harvest-session", {"session": "s1"}, "harvest-session-not-found"),
            ("dispute-contribution", {"session": "s1", "seq": 1, "reason": ""}, "contribution-not-found"),
            ("suspend-device", {"device": "d1", "reason": ""}, "device-not-found"),
            ("retire-device", {"device": "d1"}, "device-not-found"),
            ("release-hold", {"hold": "h1"}, "hold-not-found"),
            ("transfer", {"from": "treasury", "to": "wallet:cy", "amount": "1"}, "wallet-not-found"),
            ("burn-tokens", {"from": "fees", "amount": "1", "reason": ""}, "wallet-not-found"),
            ("claim-rewards", {"validator": "v1", "delegator": "ana"}, "position-not-found"),
            ("complete-unbonding", {"validator": "v1", "entry": made["entry"]}, "entry-not-found"),
        ):
            response = await t.people.admin.send(path, body, fogbook_act_as="cy")
            problem(response, rule)


@played
async def test_an_operator_owns_nothing_of_others(t: Town) -> None:
    made = await everything(t)
    with t.nothing_changes():
        for path, body, thing in (
            ("transfer", {"from": "wallet:ana", "to": "wallet:ben", "amount": "1"}, "wallet"),
            ("burn-tokens", {"from": "wallet:ana", "amount": "1", "reason": ""}, "wallet"),
            ("capture-hold", {"hold": "h1", "amount": "1", "to": "wallet:admin"}, "hold"),
            ("begin-unbonding", {"validator": "v1", "amount": "1"}, "position"),
            ("cancel-unbonding", {"validator": "v1", "entry": made["entry"]}, "entry"),
            ("withdraw-commission", {"validator": "v1"}, "validator"),
            ("heartbeat", {"device": "d1", "seq": 9}, "device"),
            ("start-harvest-session", {"session": "s9", "device": "d1"}, "device"),
            ("record-contribution", {"session": "s1", "seq": 9, "cpu_ms": 1}, "harvest-session"),
            ("meter-usage", {"contract": "k1", "seq": 1, "unit_ms": "1"}, "contract"),
            ("top-up-escrow", {"contract": "k1", "amount": "1"}, "contract"),
            ("terminate-contract", {"contract": "k1", "reason": ""}, "contract"),
            ("accept-bid", {"request": "r1"}, "request"),
            ("withdraw-offering", {"offering": "o1"}, "offering"),
            ("submit-evidence", {"dispute": "q1", "digest": "ff"}, "dispute"),
            ("initiate-transfer", abroad(t, "1") | {"from": "wallet:ana"}, "wallet"),
        ):
            await t.refuses("admin", path, body, f"{thing}-not-found")


def abroad(t: Town, amount: str, **more: Any) -> dict[str, Any]:
    return {"target_zone": "far", "recipient": "fay", "amount": amount, "timeout": t.at(days=1)} | more


SPENDING: list[tuple[str, str, dict[str, Any]]] = [
    ("ben", "place-bid", {"request": "r5", "offering": "o1", "ask": "900"}),
    ("ana", "transfer", {"from": "wallet:ana", "to": "wallet:ben", "amount": "1"}),
    ("ana", "burn-tokens", {"from": "wallet:ana", "amount": "1", "reason": ""}),
    ("ana", "place-hold", {"hold": "h9", "wallet": "ana", "payee": "ben", "amount": "1"}),
    ("ana", "delegate", {"validator": "v1", "amount": "1000"}),
    ("ana", "register-validator", {"validator": "v9", "self_stake": "1000"}),
    ("ana", "open-contract", {"contract": "k9", "offering": "o1", "units": 1, "minutes": 60}),
    ("ana", "renew-contract", {"contract": "k1", "renewal": "k8", "minutes": 60}),
    ("ana", "top-up-escrow", {"contract": "k1", "amount": "1"}),
    ("ana", "request-service", {"request": "r9"}),
    ("ana", "match-request", {"request": "r3"}),
    ("ana", "accept-bid", {"request": "r4"}),
    ("ana", "allocate-burst", {"burst": "b9"}),
    ("ana", "initiate-transfer", {"target_zone": "far", "recipient": "fay", "amount": "1"}),
]
"""All ways to pay; Ana's wallet is frozen, and Ben's."""


async def about_to_pay(t: Town, settlement: str = "escrow") -> None:
    """Ana has a contract `k1`, an open request `r3` that can be matched, `r4` that Ben won; `r5` takes bids."""
    p = t.people
    await t.with_validators()
    await t.with_devices()
    await p.ana.ok("request-service", wanted(t, "r3", any_price=True, settlement=settlement))
    await t.with_offerings(capacity=4)
    await t.starts("k1", settlement=settlement)
    for request in ("r4", "r5"):
        hours = 1 if request == "r4" else 2
        more = {"mode": "bids", "any_price": True, "settlement": settlement, "expires_at": t.at(hours=hours)}
        await p.ana.ok("request-service", wanted(t, request, **more))
    await p.ben.ok("place-bid", {"request": "r4", "offering": "o1", "ask": "900"})
    await t.later(hours=1)
    await p.robot.ok("close-bidding", {"request": "r4"})
    await p.admin.ok("register-peer", {"zone": "far", "key": FAR_KEY})


def spending(t: Town, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The body with what depends on the time, or is long."""
    match path:
        case "place-hold":
            return body | {"expires_at": t.at(hours=1)}
        case "request-service":
            return wanted(t, body["request"], any_price=True)
        case "allocate-burst":
            return burst(body["burst"])
        case "initiate-transfer":
            return body | {"timeout": t.at(days=1)}
        case "open-contract" | "renew-contract":
            return body | {} | ANY
    return body


@played
async def test_a_frozen_wallet_starts_no_payment_in_any_context(t: Town) -> None:
    await about_to_pay(t)
    for who in ("ana", "ben"):
        await t.people.admin.ok("freeze-wallet", {"wallet": who, "reason": "asked"})
    with t.nothing_changes():
        for who, path, body in SPENDING:
            await t.refuses(who, path, spending(t, path, body), "wallet-is-frozen")
    for who in ("ana", "ben"):
        await t.people.admin.ok("unfreeze-wallet", {"wallet": who, "reason": "asked"})
    for who, path, body in SPENDING:
        # The freeze was all that stood against them.
        await t.people[who].ok(path, spending(t, path, body))


@pytest.mark.parametrize("way", ["obligation", "contract", "renewal", "match", "bid", "burst"])
@played
async def test_a_frozen_owner_owes_nothing_new(t: Town, way: str) -> None:
    """What is netted is paid as well, only later: else a frozen owner pays by owing."""
    await about_to_pay(t, "netted")
    await t.people.admin.ok("open-window", {"window": "n1"})
    await t.people.admin.ok("freeze-wallet", {"wallet": "ana", "reason": "asked"})
    netted = {"settlement": "netted"} | ANY
    path, body = {
        "obligation": ("record-obligation", owed("ana", "ben", str(FUNDS // 2))),
        "contract": (
            "open-contract",
            {"contract": "k9", "offering": "o1", "units": 1, "minutes": 60} | netted,
        ),
        "renewal": ("renew-contract", {"contract": "k1", "renewal": "k9", "minutes": 60} | ANY),
        "match": ("request-service", wanted(t, "r9", **netted)),
        "bid": ("accept-bid", {"request": "r4"}),
        "burst": ("allocate-burst", burst("b9", settlement="netted")),
    }[way]
    await t.refuses("ana", path, body, "wallet-is-frozen")


@played
async def test_what_was_committed_before_a_freeze_goes_on(t: Town) -> None:
    p = t.people
    await t.with_validators()
    await t.with_offerings()
    await t.starts("k1")
    await p.admin.ok("open-window", {"window": "n1"})
    await p.ana.ok("record-obligation", owed("ana", "ben"))
    hold = {"hold": "h1", "wallet": "ana", "payee": "ben", "amount": "100", "expires_at": t.at(hours=9)}
    await p.ana.ok("place-hold", hold)
    await p.ana.ok("delegate", {"validator": "v1", "amount": "10000"})
    await p.admin.ok("freeze-wallet", {"wallet": "ana", "reason": "asked"})
    before = t.balance("wallet:ben")
    await p.ben.ok("capture-hold", {"hold": "h1", "amount": "100", "to": "wallet:ben"})
    fact = {"validator": "v1", "kind": "downtime", "infraction_at": t.at(), "evidence_id": "x1"}
    await p.admin.ok("slash", fact)
    await p.admin.ok("close-window", {"window": "n1"})
    await p.robot.ok("reserve-positions", {"window": "n1"})
    await p.robot.ok("finalise-settlement", {"window": "n1"})
    await t.later(minutes=70)
    await p.robot.ok("settle-period", {"contract": "k1", "period": 0})
    assert t.balance("wallet:ben") - before == 100 + 100 + 990
    assert (await t.state("validator:v1")).tokens == 1_010_000 - 10_100
    await t.escrow_adds_up("k1")


# Everywhere: ids and times.


@played
async def test_two_spellings_of_an_id_are_one_in_every_context(t: Town) -> None:
    await everything(t)
    p = t.people
    register = {"type": "laptop", "capabilities": SIZE, "region": "north"}
    offer = {"device": " D1 ", "service_type": "compute", "tier": "bronze", "capacity": 1}
    offer |= {"cpu_millicores": 1, "memory_mb": 1, "gpu": 0, "base_price": "1"}
    contract = {"contract": "\tK1\n", "offering": "O1 ", "units": 1, "minutes": 60} | ANY
    hold = {"hold": "H1", "wallet": " ANA ", "payee": "BEN", "amount": "1", "expires_at": t.at(hours=1)}
    slash = {"validator": "V1", "kind": "DownTime", "infraction_at": t.at(), "evidence_id": " X1"}
    for who, path, body, rule in (
        ("ana", "open-wallet", {"wallet": " Wallet:ANA "}, "wallet-exists"),
        ("ana", "place-hold", hold, "hold-exists"),
        ("ana", "transfer", {"from": "WALLET:ana", "to": "wallet: Ana", "amount": "1"}, "transfer-to-itself"),
        ("val", "register-validator", {"validator": " V1 ", "self_stake": "1000"}, "validator-exists"),
        ("admin", "slash", slash, "evidence-was-used"),
        ("ana", "redelegate", {"source": "v1", "target": "V1", "amount": "1"}, "redelegation-to-itself"),
        ("cy", "register-device", {"device": "D1"} | register, "device-exists"),
        ("ben", "enrol-harvester", {"device": "D1 ", "capabilities": SIZE}, "harvester-exists"),
        ("dee", "start-harvest-session", {"session": "S1", "device": "d2"}, "harvest-session-exists"),
        ("ben", "register-offering", {"offering": " o1"} | offer, "offering-exists"),
        ("ana", "open-contract", contract, "contract-exists"),
        ("ana", "request-service", wanted(t, "R1", any_price=True), "request-exists"),
        ("ben", "place-bid", {"request": "R1", "offering": "O1", "ask": "1"}, "bid-exists"),
        ("ana", "open-dispute", {"dispute": "Q1", "contract": "k1", "reason": ""}, "dispute-exists"),
        ("admin", "open-window", {"window": " N1 "}, "window-exists"),
        ("ben", "record-obligation", owed("BEN", "Ana", "7", " Y1"), "obligation-exists"),
        ("ben", "record-obligation", owed("BEN", " ben "), "debtor-is-creditor"),
        ("admin", "register-peer", {"zone": "FAR ", "key": FAR_KEY}, "peer-exists"),
    ):
        await t.refuses(who, path, body, rule)
    with t.nothing_changes():
        # The same again, spelled otherwise, is the same again.
        await p.ben.ok("record-obligation", owed(" BEN", "ANA ", source="Y1"))
        await p.ana.ok("claim-rewards", {"validator": " V1 "})
        await p.ana.ok("claim-rewards", {"validator": "v1", "delegator": " ANA "})


@played
async def test_an_idempotency_key_is_bound_to_what_a_body_means(t: Town) -> None:
    await t.with_offerings()
    p = t.people
    body = {"contract": "k1", "offering": "o1", "units": 1, "minutes": 60, "price_cap": "5000"}
    first = await p.ana.send("open-contract", body, idempotency_key="once")
    assert first.status_code == 200
    with t.nothing_changes():
        same = body | {"contract": " K1", "price_cap": 5000, "period_minutes": 60, "any_price": False}
        again = await p.ana.send("open-contract", same, idempotency_key="once")
        assert (again.content, again.headers["idempotency-hit"]) == (first.content, "true")
        for other in ({"units": 2}, {"price_cap": "5001"}, {"price_cap": None}, {"settlement": "netted"}):
            response = await p.ana.send("open-contract", body | other, idempotency_key="once")
            problem(response, "idempotency-key-reused")
        response = await p.ana.send("start-service", {"contract": "k1"}, idempotency_key="once")
        problem(response, "idempotency-key-reused")


NO_ACCOUNTS = names("""
    hold:h9 validator:v9 position:v9:ana unbonding:v9 slash:x9 device:d9 reputation:d9:harvest
    evidence:x9 harvester:d9 harvest-session:s9 contribution:s9:1 harvest-claim:t9:ben offering:o9
    commitments:d9 request:r9 burst:b9 contract:k9 dispute:q9 clearing:all netting:n9 netting-page:n9:0
    obligation:ana:y9 peer:near channel:far packet:far:1 reception:far:1 zone:self transaction:c1
    asset:fog distribution:t9 allocation:a9 lane:compute:north:bronze nothing:at-all wallet pool bank
""")
"""Names that stand for other things than accounts, or for nothing."""


@played
async def test_an_account_that_is_no_account_breaks_nothing(t: Town) -> None:
    """A server must not take what it read under such a name for what really has the name."""
    p = t.people
    with t.nothing_changes():
        for name in NO_ACCOUNTS:
            for who in ("ana", "ana", "admin", "admin"):  # Both servers.
                allocations = [{"to": name, "amount": "1"}]
                for path, body in (
                    ("transfer", {"from": name, "to": "wallet:ben", "amount": "1"}),
                    ("transfer", {"from": f"wallet:{who}", "to": name, "amount": "1"}),
                    ("burn-tokens", {"from": name, "amount": "1", "reason": ""}),
                    ("mint-tokens", {"to": name, "amount": "1", "reason": "", "reference": ""}),
                    (
                        "distribute-rewards",
                        {"distribution": "t8", "kind": "", "pool": name, "allocations": allocations},
                    ),
                ):
                    response = await p[who].send(path, body, if_match='"99"' if "to" in body else None)
                    assert 400 <= response.status_code < 500, (name, path, response.text)
                    rule_of(response)
    await everything(t)
    await t.later(minutes=50)
    for who, path, sent in (
        ("ana", "place-hold", kept(t, "h9", "1")),
        ("ben", "capture-hold", {"hold": "h9", "amount": "1", "to": "wallet:ben"}),
        ("ana", "register-validator", {"validator": "v9", "self_stake": "1000"}),
        ("ben", "register-device", laptop("d9")),
        ("ben", "enrol-harvester", {"device": "d9", "capabilities": SIZE}),
        ("ben", "report-device-state", {"device": "d9", "seq": 1} | WELL),
        ("ben", "start-harvest-session", {"session": "s9", "device": "d9"}),
        ("robot", "record-reputation", {"device": "d9", "service": "harvest", "kind": "success", "evidence_id": "x9"}),
        ("ana", "request-service", wanted(t, "r9", any_price=True)),
        ("ana", "open-contract", {"contract": "k9", "offering": "o2", "units": 1, "minutes": 60} | ANY),
        ("ana", "open-dispute", {"dispute": "q9", "contract": "k9", "reason": ""}),
        ("ana", "record-obligation", owed("ana", "ben", source="y9")),
        ("admin", "close-window", {"window": "n1", "next": "n9"}),
        ("ana", "initiate-transfer", abroad(t, "1")),
        ("admin", "register-peer", {"zone": "near", "key": FAR_KEY}),
        ("admin", "allocate-rewards", {"reference": "a9", "amount": "1000"}),
    ):  # fmt: skip
        await p[who].ok(path, sent)


EDGES: list[dict[Any, Any]] = [
    {
        "amount": "9" * 38,
        "quantity": "9" * 38,
        "count": 2**31 - 1,
        "basis_points": 10_000,
        "small_int": 2**31 - 1,
        int: 2**53 - 1,
        "id": "z" * 64,
        "account": "wallet:" + ":".join(["z" * 64] * 2),
        "wallet": "wallet:" + ":".join(["z" * 64] * 2),
        "path": ":".join(["z" * 64] * 3),
        "asset": "z" * 64 + "/ZZZZZZZZZZZZZZZZ",
        "text": "\U0001f600" * 256,
        "personal": "\U0001f600" * 256,
        "sealed": "\U0001f600" * 2_048,
        str: "\U0001f600" * 256,
        datetime: "8999-12-31T23:59:59.999999Z",
        bool: True,
    },
    {
        "amount": "1",
        "quantity": "0",
        "count": 0,
        "basis_points": 0,
        "small_int": -(2**31) + 1,
        int: 0,
        "id": ".",
        "account": "world",
        "wallet": "ana",
        "path": ".",
        "asset": "FOG",
        "text": "",
        "personal": "",
        "sealed": "",
        str: "",
        datetime: "0001-01-01T00:00:00Z",
        bool: False,
    },
]
"""The largest and the smallest of each kind."""
KNOWN = {
    "hold": "h1",
    "validator": "v1",
    "source": "v1",
    "target": "v2",
    "evidence_id": "x1",
    "device": "d1",
    "session": "s1",
    "offering": "o1",
    "request": "r1",
    "contract": "k1",
    "dispute": "q1",
    "window": "n1",
    "target_zone": "far",
    "service_type": "compute",
    "region": "north",
    "tier": "bronze",
    "delegator": "ana",
    "lot": "0",
    "wallet": "ana",
    "from": "wallet:ana",
    "to": "wallet:ben",
    "asset": "FOG",
    "pool": "pool:rewards",
    "mode": "match",
    "kind": "success",
    "service": "harvest",
}
"""What the fields are called by which things are found that there are."""


def known_things(kind: Any, body: Any) -> Any:
    """The body, about things that there are, as far as there are such things."""
    if isinstance(body, list):
        return [known_things(get_args(kind)[0], each) for each in body]
    if not is_dataclass(kind):
        return body
    assert isinstance(kind, type)
    hints = hints_of(kind)
    return {
        name: KNOWN.get(name, value)
        if isinstance(value, str)
        else known_things(kind_of(hints[name])[0], value)
        for name, value in body.items()
    }


@played
async def test_no_value_that_a_field_takes_breaks_a_command(t: Town) -> None:
    """Neither of nothing nor of what there is, whoever sends it: it is done, or a rule says why not."""
    await everything(t)
    lines = []
    for name, route in ROUTES.items():
        for kinds in (None, *EDGES):
            body = sample(route.command, kinds)
            of_things = known_things(route.command, body)
            given = {key: value for key, value in of_things.items() if value not in (0, "0", "", False)}
            for each in (body, of_things, of_things | {"seq": 1} if "seq" in body else given):
                lines.append(line(name, "", json.dumps(each)))
    with t.nothing_changes():
        for who in ("ana", "ben", "admin"):
            answers = await t.many(who, lines, dry_run=True)
            for sent, answer in zip(lines, answers, strict=True):
                if answer["status"] == 422:  # Something was left out that is needed.
                    continue
                assert answer["status"] in (200, 403, 404, 409), (who, sent[:500], answer)
            assert {200, 404, 409} <= {answer["status"] for answer in answers}


@played
async def test_time_is_nobodys_to_choose(t: Town) -> None:
    await t.later(days=1)
    pay = {"from": "wallet:ana", "to": "wallet:ben", "amount": "1"}
    with t.nothing_changes():
        for who, path, body in (("ana", "transfer", pay), ("robot", "expire-contract", {"contract": "k1"})):
            for at in (t.at(days=30), t.at(days=-30)):
                response = await t.people[who].send(path, body, fogbook_at=at)
                problem(response, "act-at-not-allowed")
        for at in ("2026-01-03T00:00:00", "2026-01-03", "soon", "2026-01-03T00:00:00+99:00", "1767225600"):
            response = await t.people.admin.send("advance-clock", fogbook_at=at)
            problem(response, "malformed-time")
        response = await t.people.admin.send("advance-clock", fogbook_at=t.at(seconds=-1))
        problem(response, "time-goes-backwards")


@played
async def test_a_clock_is_not_named_beyond_all_calendars(t: Town) -> None:
    """It cannot be taken back, and then no deadline could ever be computed again."""
    await t.with_validators()
    with t.nothing_changes():
        late = "9999-12-31T23:59:59Z"
        response = await t.people.admin.send("advance-clock", fogbook_at=late)
        assert response.status_code in (400, 409), response.text
    await t.people.val.ok("begin-unbonding", {"validator": "v1", "amount": "1"})


def repeated(path: str, bodies: Iterable[dict[str, Any]]) -> list[bytes]:
    return [line(PATHS[path], f"{path}-{n}", json.dumps(body)) for n, body in enumerate(bodies)]


@pytest.mark.parametrize(
    "rule",
    ["too-many-lots", "too-many-pauses", "too-many-offerings-of-device", "debtor-has-too-many-obligations"],
)
@played
async def test_whatever_grows_has_a_bound(t: Town, rule: str) -> None:
    """Up to some number all are taken, and then none, with the rule's name."""
    await t.with_validators()
    await t.with_offerings()
    await t.starts("k1")
    await t.people.admin.ok("open-window", {"window": "n1"})
    small = offered("o", "w1", cpu_millicores=1, memory_mb=1)
    names = [f"n{number}" for number in range(120)]
    match rule:
        case "too-many-lots":
            who, lines = (
                "ana",
                repeated("delegate", [{"validator": "v1", "amount": "10", "lock_days": 30}] * 120),
            )
        case "too-many-pauses":
            both = [repeated(f"{each}-contract", [{"contract": "k1"}] * 120) for each in ("pause", "resume")]
            who, lines = "ana", [each for pair in zip(*both, strict=True) for each in pair]
        case "too-many-offerings-of-device":
            who, lines = "val", repeated("register-offering", [small | {"offering": name} for name in names])
        case _:
            who, lines = (
                "ana",
                repeated("record-obligation", [owed("ana", "ben", "1", name) for name in names]),
            )
    answers = await t.many(who, lines)
    taken = [answer["status"] for answer in answers].index(409)
    assert 10 < taken <= 200
    assert {answer["status"] for answer in answers[:taken]} == {200}
    assert answers[taken]["body"]["type"] == f"/problems/{rule}"
    assert 200 not in {answer["status"] for answer in answers[taken:]}


@played
async def test_a_server_that_has_nothing_in_memory_decides_the_same(t: Town) -> None:
    """A decision that needs many histories gets them, however few of them are there at first."""
    p = t.people
    await t.with_validators()
    await harvesting(t)
    small = offered("o", "w1", cpu_millicores=1, memory_mb=1)
    many = [f"n{number}" for number in range(50)]
    paid = {"distribution": "many", "kind": "gift", "pool": "treasury"}
    await p.admin.ok("open-window", {"window": "n1"})
    for who, lines in (
        ("val", repeated("register-offering", [small | {"offering": name} for name in many])),
        ("cy", repeated("register-device", [laptop(name) for name in many])),
        ("robot", repeated("record-obligation", [owed("ana", name, source=name) for name in many])),
    ):
        assert {answer["status"] for answer in await t.many(who, lines)} == {200}
    await t.later(hours=1)
    listed = [f"t{number}" for number in range(20)]
    await p.ben.ok("record-contribution", work(tasks=tasks(*listed)))
    results = [each for task, name in zip(listed * 3, many, strict=False) for each in found(task, name)]
    every = burst("b1")["requirements"] * 5
    for who, path, body in (
        (
            "admin",
            "distribute-rewards",
            paid | {"allocations": [{"to": f"wallet:{n}", "amount": "1"} for n in many]},
        ),
        ("ana", "allocate-burst", burst("b1", requirements=[need | {"units": 10} for need in every])),
        ("admin", "close-window", {"window": "n1"}),
        ("robot", "reserve-positions", {"window": "n1"}),
        ("robot", "finalise-settlement", {"window": "n1"}),
        ("robot", "validate-contribution", {"session": "s1", "seq": 1, "results": results}),
    ):
        await t.restart()
        await p[who].ok(path, body)
    assert {t.balance(f"wallet:{name}") for name in many} == {101}


@played
async def test_nobody_takes_all_places_of_a_bounded_set_alone(t: Town) -> None:
    """A zone has room for 300 validators; one person fills it for the price of 300 smallest units."""
    lines = repeated(
        "register-validator", ({"validator": f"mine-{n}", "self_stake": "1"} for n in range(300))
    )
    answers = await t.many("ana", lines)
    assert {answer["status"] for answer in answers} <= {200, 409}
    await t.people.val.ok("register-validator", {"validator": "v1", "self_stake": "1000000"})


@played
async def test_what_may_be_asked_for_is_asked_for_in_time(t: Town) -> None:
    """Appeals, disputes and reviews have their deadlines, and what an operator decided is decided."""
    await t.with_validators()
    await harvesting(t)
    await t.with_offerings()
    await t.starts("k1", minutes=60)
    p = t.people
    slash = {"validator": "v1", "kind": "downtime", "infraction_at": t.at(), "evidence_id": "x1"}
    await p.admin.ok("slash", slash)
    await t.later(hours=1)
    for seq in (1, 2):
        await p.ben.ok("record-contribution", work(seq, cpu_ms=1, tasks=tasks(f"t{seq}")))
        denied = {"session": "s1", "seq": seq, "results": found(f"t{seq}", "w1", "w2", "d2", digest="bb")}
        await p.robot.ok("validate-contribution", denied)
        if seq == 1:
            await t.later(minutes=1)
    first, second = ({"session": "s1", "seq": seq, "reason": ""} for seq in (1, 2))
    await p.ben.ok("dispute-contribution", first)
    await t.refuses("ben", "dispute-contribution", first, "contribution-is-disputed")
    await p.admin.ok("decide-contribution", first | {"verdict": "failure"})
    await t.refuses("ben", "dispute-contribution", first, "contribution-is-final")
    await t.later(minutes=9)
    await p.robot.ok("settle-period", {"contract": "k1", "period": 0})
    await t.later(days=14, seconds=1)
    await t.refuses("ben", "dispute-contribution", second, "contribution-dispute-is-too-late")
    await t.refuses("val", "appeal-slash", {"evidence_id": "x1", "grounds": ""}, "appeal-is-too-late")
    await t.later(days=16)
    await t.refuses("ana", "review-provider", {"contract": "k1", "rating": 1}, "review-is-too-late")


# The ledger.


def pay(amount: str, to: str = "wallet:ben", **more: Any) -> dict[str, Any]:
    return {"from": "wallet:ana", "to": to, "amount": amount} | more


@played
async def test_a_transfer_of_less_than_nothing_steals_nothing(t: Town) -> None:
    with t.nothing_changes():
        for amount in ("-50", -50, "0", 0, "-0", "1e3", True):
            for body in (
                pay("1") | {"amount": amount},
                {"from": "wallet:ben", "to": "wallet:ana", "amount": amount},
            ):
                await t.refuses("ana", "transfer", body, "invalid-body")


@played
async def test_who_pays_all_that_he_has_has_nothing_left_and_not_less(t: Town) -> None:
    """A fee that nobody checked for once took such a balance below zero."""
    await t.people.ana.ok("transfer", pay(str(FUNDS)))
    assert (t.balance("wallet:ana"), t.balance("wallet:ben")) == (0, 2 * FUNDS)
    for path, body in (
        ("transfer", pay("1")),
        ("burn-tokens", {"from": "wallet:ana", "amount": "1", "reason": ""}),
        ("place-hold", kept(t, amount="1")),
    ):
        await t.refuses("ana", path, body, "insufficient-funds")


@played
async def test_opening_a_wallet_mints_nothing_and_is_for_its_owner_alone(t: Town) -> None:
    before = t.balances()
    for name in ("ana:savings", "wallet:ana:more"):
        await t.people.ana.ok("open-wallet", {"wallet": name})
    assert t.balances() == before
    assert (await t.state("asset:FOG")).supply == 8 * FUNDS
    for name, rule in (
        ("ana", "wallet-exists"),
        ("ana:savings", "wallet-exists"),
        ("ben", "wallet-belongs-to-another"),
        ("ben:loot", "wallet-belongs-to-another"),
        ("fees", "wallet-belongs-to-another"),
    ):
        await t.refuses("ana", "open-wallet", {"wallet": name}, rule)


@played
async def test_a_transaction_is_reversed_once_however_its_id_is_spelled(t: Town) -> None:
    before = t.balances()
    paid = (await t.people.ana.ok("transfer", pay("5")))["command_id"]
    back = await t.people.admin.ok("reverse-transaction", {"transaction": paid, "reason": "mistake"})
    assert t.balances() == before
    with t.nothing_changes():
        number = paid.removeprefix("c")
        for spelling in (
            paid,
            paid.upper(),
            f" {paid} ",
            number,
            f"0{number}",
            f"c0{number}",
            f"c00{number}",
            f"cc{number}",
            f"c{number}.",
            f"c-{number}",
        ):
            body = {"transaction": spelling, "reason": "again"}
            response = await t.people.admin.send("reverse-transaction", body)
            same = spelling.strip().lower() == paid
            problem(response, "transaction-is-reversed" if same else "transaction-not-found")
        body = {"transaction": back["command_id"], "reason": "and forth"}
        await t.refuses("admin", "reverse-transaction", body, "transaction-is-reversed")


@played
async def test_what_did_more_than_move_money_is_not_reversed(t: Town) -> None:
    await t.with_validators()
    await t.with_offerings()
    p = t.people
    done = [
        await p.ana.ok("delegate", {"validator": "v1", "amount": "1000"}),
        await p.ana.ok("place-hold", kept(t)),
        await p.ben.ok("capture-hold", {"hold": "h1", "amount": "100", "to": "wallet:ben"}),
        await t.opens("k1"),
        await p.admin.ok("mint-tokens", {"to": "fees", "amount": "1", "reason": "", "reference": ""}),
    ]
    with t.nothing_changes():
        for answer in done:
            body = {"transaction": answer["command_id"], "reason": "regret"}
            response = await p.admin.send("reverse-transaction", body)
            assert rule_of(response) in ("transaction-cannot-be-reversed", "transaction-not-found")


@played
async def test_what_is_held_is_not_available_to_any_context(t: Town) -> None:
    await about_to_pay(t)
    p = t.people
    for who in ("ana", "ben"):
        rest = t.balance(f"wallet:{who}") - await t.held(who)
        body = kept(t, f"all-of-{who}", str(rest), wallet=who, payee="cy")
        await p[who].ok("place-hold", body)
    with t.nothing_changes():
        for who, path, body in SPENDING:
            await t.refuses(who, path, spending(t, path, body), "insufficient-funds")


@played
async def test_a_hold_that_was_refused_holds_nothing_to_capture(t: Town) -> None:
    capture = {"hold": "h1", "amount": "1", "to": "wallet:ben"}
    for more, rule in (
        ({"amount": str(FUNDS + 1)}, "insufficient-funds"),
        ({"expires_at": t.at()}, "expiry-is-past"),
        ({"expires_at": t.at(hours=-1)}, "expiry-is-past"),
        ({"asset": "GOLD"}, "insufficient-funds"),
    ):
        await t.refuses("ana", "place-hold", kept(t) | more, rule)
        await t.refuses("ben", "capture-hold", capture, "hold-not-found")
    assert await t.held("ana") == 0


@played
async def test_a_hold_is_the_payees_to_himself_and_ends_once(t: Town) -> None:
    p = t.people
    for number in range(1, 5):
        await p.ana.ok("place-hold", kept(t, f"h{number}"))
    with t.nothing_changes():
        for who, body, rule in (
            ("ben", {"hold": "h1", "amount": "100", "to": "wallet:cy"}, "capture-goes-to-the-payee"),
            ("ben", {"hold": "h1", "amount": "100", "to": "fees"}, "capture-goes-to-the-payee"),
            ("ana", {"hold": "h1", "amount": "100", "to": "wallet:ana"}, "capture-goes-to-the-payee"),
            ("ana", {"hold": "h1", "amount": "100", "to": "wallet:ben"}, "capture-goes-to-the-payee"),
            ("ben", {"hold": "h1", "amount": "101", "to": "wallet:ben"}, "capture-exceeds-hold"),
            ("ben", {"hold": "h1", "amount": "1", "to": "wallet:ben:none"}, "account-is-not-open"),
        ):
            await t.refuses(who, "capture-hold", body, rule)
        await t.refuses("ana", "release-hold", {"hold": "h1"}, "hold-has-not-expired")
        await t.refuses("robot", "expire-hold", {"hold": "h1"}, "hold-has-not-expired")
        await t.refuses("ana", "place-hold", kept(t), "hold-exists")
        await t.refuses("ana", "close-wallet", {"wallet": "ana"}, "wallet-is-not-empty")
    some = {"hold": "h1", "amount": "60", "to": "wallet:ben", "final": False}
    await p.ben.ok("capture-hold", some)
    await t.refuses("ben", "capture-hold", some, "capture-exceeds-hold")
    await p.ben.ok("capture-hold", some | {"amount": "1", "final": True})
    await p.ben.ok("release-hold", {"hold": "h2"})
    assert (t.balance("wallet:ben"), await t.held("ana")) == (FUNDS + 61, 200)
    await t.later(hours=1)
    all_of = {"hold": "h3", "amount": "100", "to": "wallet:ben"}
    # It has expired, whether or not the timer has run.
    await t.refuses("ben", "capture-hold", all_of, "hold-has-expired")
    await p.ana.ok("release-hold", {"hold": "h3"})
    await p.robot.ok("expire-hold", {"hold": "h4"})
    assert (t.balance("wallet:ben"), await t.held("ana")) == (FUNDS + 61, 0)
    with t.nothing_changes():
        for hold in ("h1", "h2", "h3", "h4"):
            await t.refuses("ben", "capture-hold", all_of | {"hold": hold, "amount": "1"}, "hold-is-closed")
            await t.refuses("ben", "release-hold", {"hold": hold}, "hold-is-closed")
            await p.robot.ok("expire-hold", {"hold": hold})


@played
async def test_every_mint_counts_in_the_supply_and_stops_at_the_cap(t: Town) -> None:
    p = t.people
    await p.admin.ok("define-asset", {"asset": "GOLD", "scale": 0, "cap": "10"})
    mint = {"to": "wallet:ana", "reason": "", "reference": "", "asset": "GOLD"}
    for amount, rule in (("11", "cap-exceeded"), ("10", ""), ("1", "cap-exceeded")):
        if rule:
            await t.refuses("admin", "mint-tokens", mint | {"amount": amount}, rule)
        else:
            await p.admin.ok("mint-tokens", mint | {"amount": amount})
    await p.ana.ok("burn-tokens", {"from": "wallet:ana", "amount": "4", "reason": "", "asset": "GOLD"})
    assert (await t.state("asset:GOLD")).supply == 6 == -t.balance("world", "GOLD")
    for amount, rule in (("5", "cap-exceeded"), ("4", "")):
        if rule:
            await t.refuses("admin", "mint-tokens", mint | {"amount": amount}, rule)
        else:
            await p.admin.ok("mint-tokens", mint | {"amount": amount})
    huge = {"to": "wallet:ana", "amount": "9" * 38, "reason": "", "reference": ""}
    await t.refuses("admin", "mint-tokens", huge, "cap-exceeded")
    for more, rule in (
        ({"asset": "SILVER"}, "asset-is-unknown"),
        ({"asset": "far/FOG"}, "voucher-of-another-zone"),
        ({"to": "wallet:nobody"}, "account-is-not-open"),
    ):
        await t.refuses("admin", "mint-tokens", mint | {"amount": "1"} | more, rule)
    for body, rule in (
        ({"asset": "GOLD", "scale": 0}, "asset-exists"),
        ({"asset": "FOG", "scale": 6}, "asset-exists"),
        ({"asset": "SILVER", "scale": 19}, "scale-is-too-large"),
    ):
        await t.refuses("admin", "define-asset", body, rule)


@pytest.mark.parametrize(
    "account",
    [
        "world",
        "pool:bonded",
        "pool:unbonding",
        "pool:staking",
        "escrow:k1",
        "window:n1",
        "bridge:far",
        "pool:mine",
    ],
)
@played
async def test_value_enters_and_leaves_such_accounts_by_their_own_rules_only(t: Town, account: str) -> None:
    out = {"from": account, "to": "wallet:ana", "amount": "1"}
    mint = {"to": account, "amount": "1", "reason": "", "reference": ""}
    pool = {
        "distribution": "t1",
        "kind": "",
        "pool": account,
        "allocations": [{"to": "wallet:ana", "amount": "1"}],
    }
    with t.nothing_changes():
        await t.refuses("ana", "transfer", out, "wallet-not-found")
        await t.refuses("ana", "transfer", pay("1", account), "account-is-reserved")
        for path, body in (
            ("transfer", out),
            ("transfer", out | {"from": "treasury", "to": account}),
            ("burn-tokens", {"from": account, "amount": "1", "reason": ""}),
            ("mint-tokens", mint),
            ("distribute-rewards", pool),
            (
                "distribute-rewards",
                pool | {"pool": "treasury", "allocations": [{"to": account, "amount": "1"}]},
            ),
        ):
            await t.refuses("admin", path, body, "account-is-reserved")


@played
async def test_a_distribution_pays_once_and_never_more_than_its_total(t: Town) -> None:
    p = t.people
    body: dict[str, Any] = {"distribution": "t1", "kind": "airdrop", "pool": "treasury", "total": "10"}
    body["allocations"] = [{"to": "wallet:ana", "amount": "4"}, {"to": "wallet:nobody", "amount": "5"}]
    for more, rule in (
        ({"total": "8"}, "allocations-exceed-total"),
        ({"allocations": []}, "number-of-allocations-is-out-of-range"),
        ({"allocations": body["allocations"][:1] * 501}, "number-of-allocations-is-out-of-range"),
        ({"total": str(FUNDS + 1)}, "insufficient-funds"),
        ({"allocations": [{"to": "fees", "amount": "1"}]}, "account-is-reserved"),
    ):
        await t.refuses("admin", "distribute-rewards", body | more, rule)
    await p.admin.ok("distribute-rewards", body)
    assert (t.balance("treasury"), t.balance("pool:community")) == (FUNDS - 10, 1)
    assert (t.balance("wallet:ana"), t.balance("wallet:nobody")) == (FUNDS + 4, 5)
    with t.nothing_changes():
        await t.refuses("admin", "distribute-rewards", body, "distribution-exists")
        await t.refuses("admin", "distribute-rewards", body | {"total": "9"}, "distribution-exists")


@played
async def test_a_wallet_closes_empty_and_what_is_owed_opens_it_again(t: Town) -> None:
    p = t.people
    await t.refuses("ana", "close-wallet", {"wallet": "ana"}, "wallet-is-not-empty")
    await p.ana.ok("transfer", pay(str(FUNDS)))
    await p.ana.ok("close-wallet", {"wallet": "ana"})
    with t.nothing_changes():
        await t.refuses("ana", "close-wallet", {"wallet": "ana"}, "wallet-not-found")
        await t.refuses("ana", "transfer", pay("1"), "wallet-not-found")
        back = {"from": "wallet:ben", "to": "wallet:ana", "amount": "1"}
        await t.refuses("ben", "transfer", back, "account-is-not-open")
        await t.refuses("admin", "freeze-wallet", {"wallet": "ana", "reason": ""}, "wallet-not-found")
    owed_to_her = {
        "distribution": "t1",
        "kind": "",
        "pool": "treasury",
        "allocations": [{"to": "wallet:ana", "amount": "7"}],
    }
    await p.admin.ok("distribute-rewards", owed_to_her)
    await p.ana.ok("transfer", pay("7"))


# Staking.


async def staked(t: Town, amount: int = 1_000_000) -> None:
    """Ana has delegated to `v1`, of which she then has as much as Val."""
    await t.with_validators()
    await t.people.ana.ok("delegate", {"validator": "v1", "amount": str(amount)})


async def allocated(t: Town, reference: str, amount: int) -> None:
    body = {"reference": reference, "amount": str(amount)}
    await t.people.admin.ok("allocate-rewards", body)


async def pools_add_up(t: Town) -> None:
    """pool:bonded is what stands behind the validators, pool:unbonding what unbonds."""
    bonded = unbonding = 0
    for validator in ("v1", "v2"):
        bonded += (await t.state(f"validator:{validator}")).tokens
        entries = (await t.state(f"unbonding:{validator}")).entries
        unbonding += sum(entry.balance for entry in entries.values())
    assert (t.balance("pool:bonded"), t.balance("pool:unbonding")) == (bonded, unbonding)


@played
async def test_staking_again_while_unbonding_loses_no_entry(t: Town) -> None:
    await staked(t, 10_000)
    p = t.people
    unbond = {"validator": "v1", "amount": "1000"}
    first = await p.ana.ok("begin-unbonding", unbond)
    await t.later(days=1)
    await p.ana.ok("delegate", {"validator": "v1", "amount": "5000"})
    second = await p.ana.ok("begin-unbonding", unbond)
    entries = (await t.state("unbonding:v1")).entries
    assert {id: entry.balance for id, entry in entries.items()} == {
        first["command_id"]: 1_000,
        second["command_id"]: 1_000,
    }
    await t.later(days=20)
    done = {"validator": "v1", "entry": first["command_id"]}
    await p.ana.ok("complete-unbonding", done)
    too_early = {"validator": "v1", "entry": second["command_id"]}
    await t.refuses("ana", "complete-unbonding", too_early, "unbonding-has-not-matured")
    with t.nothing_changes():
        await p.robot.ok("complete-unbonding", done)
        await t.refuses("ana", "complete-unbonding", done, "entry-not-found")
        await t.refuses("ana", "cancel-unbonding", done, "entry-not-found")
    assert t.balance("wallet:ana") == FUNDS - 10_000 - 5_000 + 1_000
    await pools_add_up(t)


@played
async def test_stake_that_is_added_earns_nothing_of_the_past(t: Town) -> None:
    await staked(t)
    p = t.people
    await allocated(t, "a1", 1_000_000)
    await p.cy.ok("delegate", {"validator": "v1", "amount": str(FUNDS // 2)})
    await p.cy.ok("claim-rewards", {"validator": "v1"})
    assert t.balance("wallet:cy") == FUNDS - FUNDS // 2
    # v1 has two thirds of all, Ana half of it: what she had earned is settled before her stake grows.
    before = t.balance("wallet:ana")
    await p.ana.ok("delegate", {"validator": "v1", "amount": "1000000"})
    assert t.balance("wallet:ana") == before - 1_000_000 + 333_333
    with t.nothing_changes():
        await p.ana.ok("claim-rewards", {"validator": "v1"})


@played
async def test_a_claim_moves_no_clock(t: Town) -> None:
    await staked(t)
    p = t.people
    lot = (await p.ana.ok("delegate", {"validator": "v1", "amount": "1000", "lock_days": 30}))["command_id"]
    entry = (await p.ana.ok("begin-unbonding", {"validator": "v1", "amount": "500"}))["command_id"]
    for day in range(1, 21):
        await t.later(days=1)
        if day % 5 == 0:
            await allocated(t, f"a{day}", 1_000)
            await p.ana.ok("claim-rewards", {"validator": "v1"})
    await t.later(days=1)
    await p.ana.ok("complete-unbonding", {"validator": "v1", "entry": entry})
    await t.refuses(
        "ana", "expire-lock", {"validator": "v1", "delegator": "ana", "lot": lot}, "lock-has-not-expired"
    )
    await t.later(days=9)
    await p.ana.ok("expire-lock", {"validator": "v1", "delegator": "ana", "lot": lot})


@played
async def test_nothing_is_debited_for_a_delegation_that_fails(t: Town) -> None:
    await t.with_validators()
    await t.people.admin.ok("jail", {"validator": "v2", "reason": "asked"})
    with t.nothing_changes():
        for body, rule in (
            ({"validator": "v9", "amount": "5"}, "validator-not-found"),
            ({"validator": "v2", "amount": "5"}, "validator-is-jailed"),
            ({"validator": "v1", "amount": str(FUNDS + 1)}, "insufficient-funds"),
            ({"validator": "v1", "amount": "5", "lock_days": 29}, "lock-term-is-out-of-range"),
            ({"validator": "v1", "amount": "5", "lock_days": 1_461}, "lock-term-is-out-of-range"),
            ({"validator": "v1", "amount": "0"}, "invalid-body"),
            ({"validator": "v1", "amount": "-5"}, "invalid-body"),
            ({"validator": "v1", "amount": "5", "lock_days": -30}, "invalid-body"),
        ):
            await t.refuses("ana", "delegate", body, rule)


@played
async def test_a_validator_slashed_below_its_minimum_comes_back(t: Town) -> None:
    p = t.people
    body = {"validator": "v1", "self_stake": "1000", "minimum_self_stake": "1000"}
    await p.val.ok("register-validator", body)
    slash = {"validator": "v1", "kind": "downtime", "infraction_at": t.at(), "evidence_id": "x1"}
    await p.admin.ok("slash", slash)
    await t.refuses("val", "unjail", {"validator": "v1"}, "jail-time-is-not-over")
    await t.later(minutes=10)
    await t.refuses("val", "unjail", {"validator": "v1"}, "self-stake-is-too-low")
    await t.refuses("ana", "delegate", {"validator": "v1", "amount": "10"}, "validator-is-jailed")
    await p.val.ok("delegate", {"validator": "v1", "amount": "20"})
    await p.val.ok("unjail", {"validator": "v1"})
    await t.refuses("val", "unjail", {"validator": "v1"}, "validator-is-not-jailed")


@played
async def test_what_unbonds_earns_nothing_and_dilutes_nobody(t: Town) -> None:
    await staked(t)
    p = t.people
    await p.ana.ok("begin-unbonding", {"validator": "v1", "amount": "1000000"})
    await allocated(t, "a1", 1_000_000)
    await t.refuses("ana", "claim-rewards", {"validator": "v1"}, "position-not-found")
    before = {who: t.balance(f"wallet:{who}") for who in ("val", "wim")}
    await p.val.ok("claim-rewards", {"validator": "v1"})
    await p.wim.ok("claim-rewards", {"validator": "v2"})
    earned = {who: t.balance(f"wallet:{who}") - amount for who, amount in before.items()}
    assert earned == {"val": 500_000, "wim": 500_000}
    # It stays slashable: 1 % of each half.
    slash = {"validator": "v1", "kind": "downtime", "infraction_at": t.at(), "evidence_id": "x1"}
    await p.admin.ok("slash", slash)
    (entry,) = (await t.state("unbonding:v1")).entries.values()
    assert entry.balance == 990_000
    await pools_add_up(t)


@played
async def test_stake_leaves_by_its_rules_only(t: Town) -> None:
    await staked(t)
    p = t.people
    unbond = {"validator": "v1", "amount": "1"}
    for path, body, rule in (
        ("begin-unbonding", unbond | {"amount": "1000001"}, "insufficient-stake"),
        ("begin-unbonding", unbond | {"lot": "c1"}, "position-not-found"),
        ("redelegate", {"source": "v1", "target": "v1", "amount": "1"}, "redelegation-to-itself"),
        ("redelegate", {"source": "v1", "target": "v9", "amount": "1"}, "validator-not-found"),
        ("redelegate", {"source": "v1", "target": "v2", "amount": "1000001"}, "insufficient-stake"),
    ):
        await t.refuses("ana", path, body, rule)
    await p.ana.ok("redelegate", {"source": "v1", "target": "v2", "amount": "1000"})
    body = {"source": "v2", "target": "v1", "amount": "1000"}
    await t.refuses("ana", "redelegate", body, "redelegation-is-transitive")
    for _ in range(7):
        await p.ana.ok("begin-unbonding", unbond)
    await t.refuses("ana", "begin-unbonding", unbond, "too-many-entries")
    entry = next(iter((await t.state("unbonding:v1")).entries))
    await t.later(days=21)
    # It has matured, whether or not the timer has run.
    await t.refuses("ana", "cancel-unbonding", {"validator": "v1", "entry": entry}, "unbonding-has-matured")
    await pools_add_up(t)


@played
async def test_a_lock_left_early_pays_a_quarter_rounded_up(t: Town) -> None:
    await t.with_validators()
    p = t.people
    lot = (await p.ana.ok("delegate", {"validator": "v1", "amount": "1001", "lock_days": 90}))["command_id"]
    # In the base lot there is nothing: a lock is not left by forgetting to name it.
    await t.refuses("ana", "begin-unbonding", {"validator": "v1", "amount": "1001"}, "position-not-found")
    body = {"validator": "v1", "amount": "1", "lot": lot}
    await t.refuses("ana", "begin-unbonding", body, "amount-is-too-small")
    await p.ana.ok("begin-unbonding", body | {"amount": "1001"})
    assert (t.balance("pool:community"), t.balance("pool:unbonding")) == (251, 750)


@played
async def test_a_slash_needs_its_own_evidence_of_something_recent(t: Town) -> None:
    await staked(t)
    await t.later(days=30)
    p = t.people
    body = {"validator": "v1", "kind": "downtime", "infraction_at": t.at(), "evidence_id": "x1"}
    for more, rule in (
        ({"infraction_at": t.at(seconds=1)}, "infraction-is-in-the-future"),
        ({"infraction_at": t.at(days=-21, seconds=-1)}, "infraction-is-too-old"),
        ({"infraction_at": "2026-01-31T00:00:00"}, "invalid-body"),
        ({"kind": "rudeness"}, "slash-kind-is-unknown"),
        ({"validator": "v9"}, "validator-not-found"),
    ):
        await t.refuses("admin", "slash", body | more, rule)
    await p.admin.ok("slash", body)
    assert (await t.state("validator:v1")).tokens == 1_980_000
    with t.nothing_changes():
        for more in ({}, {"kind": "double-sign"}, {"validator": "v2"}, {"infraction_at": t.at(days=-1)}):
            await t.refuses("admin", "slash", body | more, "evidence-was-used")
    appeal = {"evidence_id": "x1", "grounds": "a storm"}
    await t.refuses(
        "admin", "decide-appeal", {"evidence_id": "x1", "won": True, "reason": ""}, "appeal-is-not-open"
    )
    await p.val.ok("appeal-slash", appeal)
    await t.refuses("ana", "appeal-slash", appeal, "appeal-exists")
    await p.admin.ok("decide-appeal", {"evidence_id": "x1", "won": True, "reason": ""})
    await t.refuses(
        "admin", "decide-appeal", {"evidence_id": "x1", "won": True, "reason": ""}, "appeal-is-not-open"
    )
    assert ((await t.state("validator:v1")).tokens, t.balance("treasury")) == (2_000_000, FUNDS - 20_000)
    await pools_add_up(t)


@played
async def test_who_signed_twice_never_comes_back(t: Town) -> None:
    await t.with_validators()
    body = {"validator": "v1", "kind": "double-sign", "infraction_at": t.at(), "evidence_id": "x1"}
    await t.people.admin.ok("slash", body)
    await t.later(days=1)
    await t.refuses("val", "unjail", {"validator": "v1"}, "validator-is-tombstoned")
    await t.refuses("val", "delegate", {"validator": "v1", "amount": "5"}, "validator-is-jailed")


@played
async def test_commissions_and_rewards_have_their_bounds(t: Town) -> None:
    await t.with_validators()
    stake = {"validator": "v3", "self_stake": "1000"}
    for who, path, body, rule in (
        ("ana", "register-validator", stake | {"commission": 2_001}, "commission-is-too-high"),
        ("ana", "register-validator", stake | {"minimum_self_stake": "1001"}, "self-stake-is-too-low"),
        ("ana", "register-validator", stake | {"validator": "v1"}, "validator-exists"),
        ("val", "edit-validator", {"validator": "v1", "commission": 2_001}, "commission-is-too-high"),
        ("val", "edit-validator", {"validator": "v1", "commission": 1}, "commission-changes-too-fast"),
        ("admin", "allocate-rewards", {"reference": "a1", "amount": str(FUNDS + 1)}, "insufficient-funds"),
    ):
        await t.refuses(who, path, body, rule)
    await t.later(days=1)
    await t.refuses(
        "val", "edit-validator", {"validator": "v1", "commission": 101}, "commission-changes-too-fast"
    )
    await allocated(t, "a1", 1_000)
    await t.refuses("admin", "allocate-rewards", {"reference": "a1", "amount": "1000"}, "allocation-exists")
    with t.nothing_changes():
        # A commission of nothing pays nothing, as often as it is asked for.
        await t.people.val.ok("withdraw-commission", {"validator": "v1"})


# Devices and reputation.


def fact(kind: str, evidence: str, device: str = "d1", **more: Any) -> dict[str, Any]:
    return {"device": device, "service": "harvest", "kind": kind, "evidence_id": evidence} | more


@played
async def test_evidence_counts_once_and_means_one_thing(t: Town) -> None:
    await t.with_devices()
    robot = t.people.robot
    await robot.ok("record-reputation", fact("failure", "x1"))
    counted = await t.state("reputation:d1:harvest")
    assert (counted.evidence, counted.score) == (1, 3_333)
    with t.nothing_changes():
        await robot.ok("record-reputation", fact("failure", " X1"))
        for more in (
            {"kind": "fraud"},
            {"device": "d2"},
            {"service": "compute"},
            {"kind": "peer", "quality": 1},
        ):
            body = fact("failure", "x1") | more
            await t.refuses("robot", "record-reputation", body, "evidence-was-counted")
        for body, rule in (
            (fact("kindness", "x2"), "evidence-kind-is-unknown"),
            (fact("failure", "x2", quality=1), "quality-needs-a-success"),
            (fact("fraud", "x2", quality=10_000), "quality-needs-a-success"),
            (fact("quality", "x2", quality=10_001), "invalid-body"),
            (fact("quality", "x2", quality=-1), "invalid-body"),
            (fact("success", "x2", device="d9"), "device-not-found"),
            (fact("success", "x2", service="validation"), "device-not-found"),
        ):
            await t.refuses("robot", "record-reputation", body, rule)
        for who in ("ana", "ben"):
            body = fact("success", "x3")
            await t.refuses(who, "record-reputation", body, "role-not-allowed")
    assert await t.state("reputation:d1:harvest") == counted


@played
async def test_heartbeats_only_go_forward_and_seldom_leave_anything(t: Town) -> None:
    await t.with_devices()
    ben = t.people.ben
    await ben.ok("heartbeat", {"device": "d1", "seq": 5})
    with t.nothing_changes():
        for seq in (6, 7, 8):
            await ben.ok("heartbeat", {"device": "d1", "seq": seq})
        for seq in (5, 4, 0):
            await t.refuses("ben", "heartbeat", {"device": "d1", "seq": seq}, "heartbeat-is-old")
        await t.refuses("ben", "heartbeat", {"device": "d1", "seq": -1}, "invalid-body")
        await t.refuses("robot", "mark-offline", {"device": "d1"}, "device-is-still-heard")
    await t.later(minutes=10)
    await t.people.robot.ok("mark-offline", {"device": "d1"})
    with t.nothing_changes():
        await t.people.robot.ok("mark-offline", {"device": "d1"})


@played
async def test_a_device_has_one_owner_and_sensible_parts(t: Town) -> None:
    await t.with_devices()
    body = laptop("d3")
    with t.nothing_changes():
        for more, rule in (
            ({"device": "d1"}, "device-exists"),
            ({"asn": 2**32 - 1}, "asn-is-out-of-range"),
            ({"asn": -1}, "invalid-body"),
            ({"capabilities": SIZE | {"cpu_millicores": 0}}, "capabilities-are-empty"),
            ({"capabilities": SIZE | {"memory_mb": 0}}, "capabilities-are-empty"),
            ({"capabilities": SIZE | {"gpu": -1}}, "invalid-body"),
            ({"capabilities": SIZE | {"gpus": 1}}, "invalid-body"),
            ({"capabilities": {}}, "invalid-body"),
            ({"owner": "ana"}, "invalid-body"),
        ):
            await t.refuses("cy", "register-device", body | more, rule)
        for path, more, rule in (
            ("relocate-device", {"region": "south"}, "device-moved-recently"),
            ("update-capabilities", {"capabilities": SIZE | {"memory_mb": 0}}, "capabilities-are-empty"),
        ):
            await t.refuses("ben", path, {"device": "d1"} | more, rule)


def using(t: Town, device: str = "d1") -> list[tuple[str, dict[str, Any]]]:
    """All that a device can be used for."""
    offer = {"offering": "o9", "device": device, "service_type": "compute", "tier": "bronze", "capacity": 1}
    offer |= {"cpu_millicores": 1, "memory_mb": 1, "gpu": 0, "base_price": "1"}
    return [
        ("enrol-harvester", {"device": device, "capabilities": SIZE}),
        ("update-harvest-policy", {"device": device, "policy": {}}),
        ("report-device-state", {"device": device, "seq": 99} | WELL),
        ("start-harvest-session", {"session": "s9", "device": device}),
        ("record-contribution", {"session": "s1", "seq": 9, "cpu_ms": 1}),
        ("resume-harvest-session", {"session": "s1"}),
        ("register-offering", offer),
        ("resume-offering", {"offering": "o1"}),
        ("place-bid", {"request": "r1", "offering": "o1", "ask": "900"}),
        ("start-service", {"contract": "k2"}),
    ]


@pytest.mark.parametrize("status", ["suspended", "retired"])
@played
async def test_a_device_that_is_suspended_or_retired_serves_nothing(t: Town, status: str) -> None:
    await t.with_harvesters()
    await t.with_offerings(capacity=4)
    p = t.people
    await p.ben.ok("start-harvest-session", {"session": "s1", "device": "d1"})
    await t.starts("k1")
    await t.opens("k2")
    await p.ana.ok("request-service", wanted(t, "r1", mode="bids", any_price=True))
    command = "suspend" if status == "suspended" else "retire"
    await p.admin.ok(f"{command}-device", {"device": "d1", "reason": "asked"})
    with t.nothing_changes():
        for path, body in using(t):
            await t.refuses("ben", path, body, f"device-is-{status}")
        body = {"contract": "k9", "offering": "o1", "units": 1, "minutes": 60} | ANY
        await t.refuses("ana", "open-contract", body, f"device-is-{status}")
        vote = {"session": "s1", "seq": 1, "results": [{"task": "t1", "device": "d1", "result_digest": "aa"}]}
        await t.refuses("robot", "validate-contribution", vote, "contribution-not-found")
        if status == "suspended":
            await t.refuses("ben", "resume-device", {"device": "d1"}, "suspension-is-not-yours")
        else:
            for path, more in (
                ("heartbeat", {"seq": 99}),
                ("resume-device", {}),
                ("suspend-device", {"reason": ""}),
            ):
                await t.refuses("ben", path, {"device": "d1"} | more, "device-is-retired")
            again = laptop("d1")
            await t.refuses("ben", "register-device", again, "device-exists")
    # It is passed over by what looks for devices: Dee's is the one that is left.
    await p.ana.ok("request-service", wanted(t, "r9", any_price=True))
    assert (await t.state("contract:r9")).offering == "o2"


# Harvest.


async def harvesting(t: Town, **readings: Any) -> None:
    """Ben's device works in session `s1`."""
    await t.with_harvesters()
    await t.people.ben.ok("start-harvest-session", {"session": "s1", "device": "d1"})


async def reports(t: Town, seq: int, **readings: Any) -> None:
    body = {"device": "d1", "seq": seq} | WELL | readings
    await t.people.ben.ok("report-device-state", body)


def work(seq: int = 1, cpu_ms: int = 3_600_000, **more: Any) -> dict[str, Any]:
    """What one core does in an hour."""
    return {"session": "s1", "seq": seq, "cpu_ms": cpu_ms} | more


def tasks(*names: str, digest: str = "aa") -> list[dict[str, str]]:
    return [{"task": name, "result_digest": digest} for name in names]


def found(task: str, *devices: str, digest: str = "aa") -> list[dict[str, str]]:
    return [{"task": task, "device": device, "result_digest": digest} for device in devices]


async def validated(t: Town, seq: int = 1) -> None:
    """Two others found the same for task `t<seq>`."""
    body = {"session": "s1", "seq": seq, "results": found(f"t{seq}", "w1", "w2")}
    await t.people.robot.ok("validate-contribution", body)


UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"charging": False}, "device-is-not-charging"),
    ({"charging": None}, "device-is-not-charging"),
    ({"battery_percent": 19}, "battery-is-too-low"),
    ({"battery_percent": None}, "battery-is-too-low"),
    ({"temperature_c": 46}, "device-is-too-hot"),
    ({"temperature_c": None}, "device-is-too-hot"),
    ({"network": "cellular"}, "network-is-metered"),
    ({"network": None}, "network-is-metered"),
    ({"screen_on": True}, "screen-is-on"),
    ({"screen_on": None}, "screen-is-on"),
    ({"cpu_percent": 51}, "cpu-is-busy"),
    ({"cpu_percent": None}, "cpu-is-busy"),
    ({"ram_percent": 31}, "memory-is-busy"),
    ({"ram_percent": None}, "memory-is-busy"),
    ({"idle_seconds": 299}, "device-is-not-idle"),
    ({"idle_seconds": None}, "device-is-not-idle"),
    ({"charging": False, "battery_percent": 1, "screen_on": True}, "device-is-not-charging"),
    ({"temperature_c": 99, "network": "cellular", "idle_seconds": 0}, "device-is-too-hot"),
]
FIT: list[dict[str, Any]] = [
    {"battery_percent": 20, "temperature_c": 45, "cpu_percent": 50, "ram_percent": 30, "idle_seconds": 300},
    {"network": "ethernet"},
    {"network": " WiFi "},
    {"temperature_c": -40},
]


@played
async def test_only_a_device_that_is_known_to_be_fit_is_harvested(t: Town) -> None:
    await t.with_harvesters()
    seq = itertools.count(2)
    start = {"session": "s1", "device": "d1"}
    for readings, rule in UNFIT:
        await reports(t, next(seq), **readings)
        await t.refuses("ben", "start-harvest-session", start, rule)
    for readings in FIT:
        await reports(t, next(seq), **readings)
        response = await t.people.ben.send("start-harvest-session?dry_run=true", start)
        assert response.status_code == 200, (readings, response.text)
    for reading in ({"battery_percent": 101}, {"cpu_percent": 101}, {"ram_percent": 101}):
        body = {"device": "d1", "seq": next(seq)} | WELL | reading
        await t.refuses("ben", "report-device-state", body, "reading-is-out-of-range")
    old = {"device": "d1", "seq": 2} | WELL
    await t.refuses("ben", "report-device-state", old, "report-is-outdated")
    await t.later(minutes=15)
    await t.refuses("ben", "start-harvest-session", start, "device-state-is-stale")


@played
async def test_an_owner_tightens_the_limits_and_never_loosens_them(t: Town) -> None:
    await harvesting(t)
    loose = {
        "minimum_battery_percent": 19,
        "most_temperature_c": 46,
        "throttle_above_c": 56,
        "stop_above_c": 66,
        "from_minute": 1_440,
        "until_minute": 1_440,
        "utc_offset_minutes": 841,
        "most_cpu_percent": 51,
        "most_ram_percent": 31,
        "least_idle_seconds": 299,
        "cooldown_minutes": 29,
        "most_session_minutes": 481,
    }
    with t.nothing_changes():
        for name, value in loose.items():
            for path, more in (("update-harvest-policy", {}), ("enrol-harvester", {"capabilities": SIZE})):
                device = "d1" if path == "update-harvest-policy" else "d3"
                body = {"device": device, "policy": {name: value}} | more
                if device == "d1":
                    await t.refuses("ben", path, body, "policy-is-too-loose")
                await t.refuses("ben", path, body | {"policy": {name: 1.5}}, "malformed-body")
        bigger = {"device": "w1", "capabilities": SIZE | {"gpu": 2}}
        await t.refuses("val", "enrol-harvester", bigger, "harvester-exceeds-device")
        unknown = {"device": "w1", "capabilities": SIZE, "policy": {"always": True}}
        await t.refuses("val", "enrol-harvester", unknown, "invalid-body")
    # The session keeps the policy that it began with.
    await t.people.ben.ok("update-harvest-policy", {"device": "d1", "policy": {"most_session_minutes": 1}})
    session = await t.state("harvest-session:s1")
    assert session.policy.most_session_minutes == 480
    assert session.ends_at - session.started_at == timedelta(hours=8)


@played
async def test_a_session_is_eight_hours_and_then_the_device_rests(t: Town) -> None:
    await harvesting(t)
    for seq in range(2, 6):
        await t.later(hours=2)
        await reports(t, seq)
    await t.refuses("ben", "pause-harvest-session", {"session": "s1"}, "harvest-session-is-over")
    await t.later(minutes=29)
    await reports(t, 6)
    start = {"session": "s2", "device": "d1"}
    await t.refuses("ben", "start-harvest-session", start, "cooldown-is-not-over")
    await t.later(minutes=1)
    await t.people.ben.ok("start-harvest-session", start)
    # The work of 8 h and 30 min does not fit into 8 h, of which it is.
    late = work(cpu_ms=4 * 3_600_000 * 17 // 2)
    await t.refuses("ben", "record-contribution", late, "contribution-exceeds-capability")
    await t.people.ben.ok("record-contribution", work(cpu_ms=4 * 3_600_000 * 8))


@played
async def test_a_session_of_200_hours_earns_nothing_of_them(t: Town) -> None:
    await harvesting(t)
    await t.later(hours=200)
    with t.nothing_changes():
        for hours in (200, 8, 1):
            body = work(cpu_ms=4 * hours * 3_600_000)
            await t.refuses("ben", "record-contribution", body, "contribution-is-too-late")
    # A timer that comes late ends it when it was over.
    await t.people.robot.ok("stop-harvest-session", {"session": "s1", "reason": "time-limit"})
    assert (await t.state("harvester:d1")).totals.running_ms == 3 * 3_600_000


METRICS = ("cpu_ms", "memory_mb_ms", "bandwidth_bytes", "storage_mb_ms", "gpu_ms")


@played
async def test_a_contribution_is_at_most_what_the_device_could_do_since_the_last(t: Town) -> None:
    await harvesting(t)
    await t.later(hours=1)
    hour = 3_600_000
    most = {
        "cpu_ms": 4 * hour,
        "memory_mb_ms": 8_000 * hour,
        "bandwidth_bytes": 50_000 * hour // 8,
        "storage_mb_ms": 50_000 * hour,
        "gpu_ms": hour,
    }
    body = {"session": "s1", "seq": 1}
    with t.nothing_changes():
        for metric in METRICS:
            for value, rule in (
                (most[metric] + 1, "contribution-exceeds-capability"),
                (-1, "invalid-body"),
                (True, "invalid-body"),
                (str(hour), "invalid-body"),
                (0.5, "malformed-body"),
            ):
                await t.refuses("ben", "record-contribution", body | {metric: value}, rule)
        await t.refuses("ben", "record-contribution", body, "contribution-is-empty")
    await t.people.ben.ok("record-contribution", body | most)
    for seq, rule in (
        (1, "contribution-sequence-must-increase"),
        (0, "contribution-sequence-must-increase"),
        (2, "contribution-exceeds-capability"),
    ):
        more = body | {"seq": seq, "cpu_ms": 1}
        await t.refuses("ben", "record-contribution", more, rule)


@played
async def test_two_hours_without_a_report_are_paid_and_counted_for_life(t: Town) -> None:
    await harvesting(t)
    await t.later(hours=2)
    await t.people.ben.ok("record-contribution", work(cpu_ms=2 * 3_600_000, tasks=tasks("t1")))
    await validated(t)
    await t.people.robot.ok("approve-reward", {"session": "s1", "seq": 1})
    # (2 points * 10 + 0.1) FOG, 11 % more for a reputation of which nothing is known, twice since it is scarce.
    earned = 44_622_000
    assert t.balance("wallet:ben") == FUNDS + earned
    totals = (await t.state("harvester:d1")).totals
    assert (totals.paid, totals.tasks, totals.reward, totals.work.cpu_ms) == (1, 1, earned, 7_200_000)


@played
async def test_a_reward_is_paid_once_and_only_after_validation(t: Town) -> None:
    await harvesting(t)
    p = t.people
    await t.later(hours=1)
    await p.ben.ok("record-contribution", work(tasks=tasks("t1")))
    reward = {"session": "s1", "seq": 1}
    with t.nothing_changes():
        await t.refuses("robot", "approve-reward", reward, "contribution-is-not-validated")
        await t.refuses("robot", "approve-reward", reward | {"seq": 2}, "contribution-not-found")
        for path in ("approve-reward", "validate-contribution", "decide-contribution"):
            body = reward | ({"verdict": "valid", "reason": ""} if path.startswith("decide") else {})
            await t.refuses("ben", path, body, "role-not-allowed")
        decide = reward | {"verdict": "valid", "reason": ""}
        await t.refuses("admin", "decide-contribution", decide, "contribution-is-not-disputed")
        await t.refuses("admin", "decide-contribution", decide | {"verdict": "fine"}, "verdict-is-unknown")
    await validated(t)
    await p.ben.ok("dispute-contribution", reward | {"reason": "too little"})
    await t.refuses("robot", "approve-reward", reward, "contribution-is-disputed")
    await p.admin.ok("decide-contribution", decide)
    await p.robot.ok("approve-reward", reward)
    with t.nothing_changes():
        await p.robot.ok("approve-reward", reward)
        await validated(t)
        await t.refuses("ben", "dispute-contribution", reward | {"reason": ""}, "contribution-is-paid")
    assert FUNDS - t.balance("pool:rewards") == t.balance("wallet:ben") - FUNDS > 0


@played
async def test_nobody_confirms_his_own_work_nor_anybody_twice(t: Town) -> None:
    await harvesting(t)
    p = t.people
    for who, device in (("ben", "d3"), ("val", "w3")):
        await p[who].ok("register-device", laptop(device))
    await t.later(hours=1)
    await p.ben.ok("record-contribution", work(tasks=tasks("t1")))
    validate = {"session": "s1", "seq": 1}
    with t.nothing_changes():
        body = validate | {"results": found("t1", "d1", "d3", "d1")}
        await p.robot.ok("validate-contribution", body)
        for more, rule in (
            ({"results": found("t2", "w1")}, "task-is-not-in-contribution"),
            ({"results": found("t1", "w9")}, "device-not-found"),
            ({"attestations": [{"validator": "v1", "confirms": True}]}, "contribution-needs-results"),
            ({"results": [{"task": "t1", "device": "w1", "result_digest": ""}]}, "invalid-body"),
            ({"results": [{"task": "t1", "device": "w1"}]}, "invalid-body"),
            ({"results": found("t1", "w1") * 1_001}, "invalid-body"),
        ):
            await t.refuses("robot", "validate-contribution", validate | more, rule)
    # Val has two devices, and one vote.
    for devices in (("w1", "w3"), ("w1",), ("w3",)):
        body = validate | {"results": found("t1", *devices)}
        await p.robot.ok("validate-contribution", body)
    contribution = await t.state("contribution:s1:1")
    assert (contribution.status, len(contribution.votes)) == ("pending", 1)
    body = validate | {"results": found("t1", "w2")}
    await p.robot.ok("validate-contribution", body)
    assert (await t.state("contribution:s1:1")).status == "validated"


@played
async def test_work_units_of_less_than_a_second_earn_nothing_and_raise_the_quorum(t: Town) -> None:
    await harvesting(t)
    p = t.people
    await t.later(hours=1)
    names = [f"t{number}" for number in range(20)]
    with t.nothing_changes():
        for listed, rule in (
            ([*names, "t20"], "too-many-tasks-in-contribution"),
            (["t1", "t2", " T1 "], "task-is-listed-twice"),
        ):
            body = work(cpu_ms=1, tasks=tasks(*listed))
            await t.refuses("ben", "record-contribution", body, rule)
    await p.ben.ok("record-contribution", work(cpu_ms=999, tasks=tasks(*names)))
    again = work(2, cpu_ms=0, gpu_ms=1, tasks=tasks("t3"))
    await t.refuses("ben", "record-contribution", again, "contribution-exceeds-capability")
    await t.later(minutes=1)
    await t.refuses("ben", "record-contribution", again, "task-was-claimed")
    validate = {"session": "s1", "seq": 1}
    for devices, status in ((("w1", "w2"), "pending"), (("d2",), "validated")):
        results = [result for name in names for result in found(name, *devices)]
        await p.robot.ok("validate-contribution", validate | {"results": results})
        contribution = await t.state("contribution:s1:1")
        assert contribution.status == status
    assert contribution.bonus_tasks == 0
    assert contribution.reward == 999 * 10**7 * 222 // (3_600_000 * 100)


@played
async def test_a_faulty_host_gets_no_more_work(t: Town) -> None:
    await harvesting(t)
    p = t.people
    await t.later(hours=1)
    await p.ben.ok("record-contribution", work(tasks=tasks("t1")))
    outvoted = {"session": "s1", "seq": 1, "results": found("t1", "w1", "w2", digest="bb")}
    await p.robot.ok("validate-contribution", outvoted)
    assert (await t.state("contribution:s1:1")).status == "rejected"
    await t.refuses("robot", "approve-reward", {"session": "s1", "seq": 1}, "contribution-is-not-validated")
    await p.ben.ok("stop-harvest-session", {"session": "s1"})
    start = {"session": "s2", "device": "d1"}
    await t.later(minutes=59)
    await reports(t, 2)
    # The rest doubles with what was rejected.
    await t.refuses("ben", "start-harvest-session", start, "cooldown-is-not-over")
    await t.later(minutes=1)
    for number in range(2):
        await p.robot.ok("record-reputation", fact("fraud", f"x{number}"))
    await t.refuses("ben", "start-harvest-session", start, "harvest-reputation-is-too-low")
    assert t.balance("wallet:ben") == FUNDS


@played
async def test_only_validators_at_large_attest_work_without_tasks(t: Town) -> None:
    await t.with_validators()
    await harvesting(t)
    p = t.people
    await t.later(hours=1)
    await p.ben.ok("record-contribution", work())
    await p.admin.ok("jail", {"validator": "v2", "reason": "asked"})
    validate = {"session": "s1", "seq": 1}

    def attested(validator: str, confirms: Any = True) -> dict[str, Any]:
        return validate | {"attestations": [{"validator": validator, "confirms": confirms}]}

    with t.nothing_changes():
        for body, rule in (
            (attested("v2"), "jailed-validators-attest-nothing"),
            (attested("v9"), "validator-not-found"),
            (attested("v1", 1), "invalid-body"),
            (attested("v1", "true"), "invalid-body"),
            (validate | {"results": found("t1", "w1")}, "contribution-needs-results"),
        ):
            await t.refuses("robot", "validate-contribution", body, rule)
    for _ in range(3):
        await p.robot.ok("validate-contribution", attested("v1"))
    assert (await t.state("contribution:s1:1")).status == "pending"


@played
async def test_a_device_that_grows_hot_or_is_unplugged_stops(t: Town) -> None:
    await harvesting(t)
    await reports(t, 2, temperature_c=56)
    assert (await t.state("harvest-session:s1")).throttled
    await reports(t, 3, temperature_c=66)
    assert (await t.state("harvest-session:s1")).status == "stopped"
    with t.nothing_changes():
        for path in ("pause", "resume"):
            await t.refuses("ben", f"{path}-harvest-session", {"session": "s1"}, "harvest-session-is-over")
        await t.people.ben.ok("stop-harvest-session", {"session": "s1"})
        for body, rule in (
            ({"session": "s1", "device": "d1"}, "harvest-session-exists"),
            ({"session": "s2", "device": "d1"}, "device-is-too-hot"),
        ):
            await t.refuses("ben", "start-harvest-session", body, rule)
        one = {"device": "d1", "capabilities": SIZE}
        await t.refuses("ben", "enrol-harvester", one, "harvester-exists")


@played
async def test_a_session_ends_for_a_deadline_only_when_it_is_due(t: Town) -> None:
    await harvesting(t)
    with t.nothing_changes():
        for reason in ("time-limit", "no-report", "outside-allowed-hours"):
            for who in ("robot", "ben"):
                body = {"session": "s1", "reason": reason}
                await t.refuses(who, "stop-harvest-session", body, "harvest-session-is-not-over")
        second = {"session": "s2", "device": "d1"}
        await t.refuses("ben", "start-harvest-session", second, "harvest-session-is-open")
    await t.later(hours=3)
    # Nothing was heard for three hours: it is over, whether or not the timer has run.
    await t.refuses("ben", "pause-harvest-session", {"session": "s1"}, "harvest-session-is-over")


# The marketplace.


def offered(offering: str, device: str, **more: Any) -> dict[str, Any]:
    offer = {
        "offering": offering,
        "device": device,
        "service_type": "compute",
        "tier": "bronze",
        "capacity": 1,
    }
    offer |= {"cpu_millicores": 500, "memory_mb": 500, "gpu": 0, "base_price": "1000", "pricing": "reserved"}
    return offer | more


async def used(t: Town, offering: str = "o1") -> int:
    units: int = (await t.state(f"offering:{offering}")).used
    return units


@played
async def test_gold_is_not_less_than_silver_because_of_the_alphabet(t: Town) -> None:
    await t.with_offerings()
    p = t.people
    await p.val.ok("register-offering", offered("o3", "w1", tier="gold", capacity=3))
    for tier in ("silver", "gold"):
        await p.ana.ok("request-service", wanted(t, f"r-{tier}", tier=tier) | ANY)
        assert (await t.state(f"contract:r-{tier}")).offering == "o3"
    await p.ana.ok("request-service", wanted(t, "r1", tier="silver", mode="bids", any_price=True))
    body = {"request": "r1", "offering": "o1", "ask": "1"}
    refusal = await t.refuses("ben", "place-bid", body, "offering-does-not-fit")
    assert refusal["facts"]["misses"] == "tier"
    await p.val.ok("place-bid", {"request": "r1", "offering": "o3", "ask": "1"})
    for tier in ("platinum", "GOLDEN", "1"):
        body = wanted(t, "r9", tier=tier, any_price=True)
        await t.refuses("ana", "request-service", body, "tier-is-unknown")
        await t.refuses("ben", "register-offering", offered("o9", "d1", tier=tier), "tier-is-unknown")


@played
async def test_no_price_cap_is_not_any_price(t: Town) -> None:
    await t.with_offerings()
    for path, body, rule in (
        ("open-contract", booked(any_price=False), "price-cap-is-missing"),
        ("open-contract", booked(any_price=False, price_cap=None), "price-cap-is-missing"),
        ("open-contract", booked(any_price=False, price_cap="999"), "price-is-above-cap"),
        ("open-contract", booked(price_cap="999"), "price-is-above-cap"),
        ("open-contract", booked(any_price=False, price_cap="0"), "invalid-body"),
        ("request-service", wanted(t, "r1"), "price-limit-is-missing"),
        ("request-service", wanted(t, "r1", price_cap=None, budget=None), "price-limit-is-missing"),
        ("request-service", wanted(t, "r1", price_cap="1", any_price=True), "price-limit-is-contradictory"),
    ):
        await t.refuses("ana", path, body, rule)
    # What is wanted for less than it costs stays open, and books nothing.
    for request, limit in (("r1", {"price_cap": "999"}), ("r2", {"budget": "999"})):
        await t.people.ana.ok("request-service", wanted(t, request, **limit))
        await t.refuses("ana", "match-request", {"request": request}, "nothing-fits")
    assert (await used(t, "o1"), await used(t, "o2")) == (0, 0)


@played
async def test_prices_move_by_a_tenth_an_hour(t: Town) -> None:
    await t.with_offerings()
    for price in ("1101", "899", "1", "9" * 38):
        body = {"offering": "o1", "base_price": price}
        rule = "price-is-too-high" if len(price) > 20 else "price-moves-too-fast"
        await t.refuses("ben", "reprice-offering", body, rule)
    body = {"offering": "o1", "base_price": "1100"}
    await t.people.ben.ok("reprice-offering", body)
    await t.later(minutes=59)
    await t.refuses("ben", "reprice-offering", body | {"base_price": "1101"}, "price-moves-too-fast")
    bounds = {"service_type": "compute", "region": "north", "tier": "bronze"}
    for more, rule in (
        ({"floor": "2", "ceiling": "1"}, "floor-is-above-ceiling"),
        ({"floor": "0", "ceiling": "9" * 38}, "price-is-too-high"),
    ):
        await t.refuses("admin", "set-lane-bounds", bounds | more, rule)


@played
async def test_nobody_sells_what_his_device_has_not(t: Town) -> None:
    await t.with_offerings()  # Each takes half of its device's processor.
    for more, rule in (
        ({"capacity": 5}, "device-cannot-serve-this"),
        ({"cpu_millicores": 2_001}, "device-cannot-serve-this"),
        ({"gpu": 2}, "device-cannot-serve-this"),
        ({"capacity": 1_001}, "capacity-is-out-of-range"),
        ({"capacity": 0}, "offering-is-empty"),
        ({"cpu_millicores": 0, "memory_mb": 0}, "offering-is-empty"),
        ({"pricing": "free"}, "pricing-is-unknown"),
        ({"service_type": " Harvest "}, "service-type-is-reserved"),
        ({"service_type": "validation"}, "service-type-is-reserved"),
        ({"base_price": "9" * 38}, "price-is-too-high"),
        ({"offering": "o2"}, "offering-exists"),
    ):
        await t.refuses("ben", "register-offering", offered("o9", "d1") | more, rule)
    for more, rule in (
        ({"units": 0}, "units-must-be-positive"),
        ({"units": 3}, "capacity-is-taken"),
        ({"minutes": 0}, "minutes-are-out-of-range"),
        ({"minutes": 525_601}, "minutes-are-out-of-range"),
        ({"period_minutes": 14}, "period-is-out-of-range"),
        ({"window_minutes": 0}, "period-is-out-of-range"),
        ({"window_minutes": 7}, "period-is-out-of-range"),
        ({"settlement": "barter"}, "settlement-is-unknown"),
        ({"deposit": "999"}, "deposit-is-out-of-range"),
        ({"deposit": "2001"}, "deposit-is-out-of-range"),
        ({"deposit": "1000", "settlement": "netted"}, "deposit-is-out-of-range"),
        ({"contract": "k" * 49}, "contract-id-is-too-long"),
    ):
        await t.refuses("ana", "open-contract", booked() | more, rule)
    await t.refuses("ben", "open-contract", booked(), "contract-with-yourself")
    assert await used(t) == 0


async def reported(t: Town, window: int, bad: bool = True) -> httpx.Response:
    """A service level of a contract `k1`: very slow, or fine."""
    body = {
        "contract": "k1",
        "window": window,
        "p95_ms": 9_999 if bad else 1,
        "uptime_bp": 10_000,
        "errors_bp": 0,
    }
    return await t.people.robot.send("report-service-level", body)


@played
async def test_twelve_reports_of_one_breach_are_one_penalty(t: Town) -> None:
    await t.with_offerings()
    await t.starts("k1")
    problem(await reported(t, 0), "window-has-not-ended")
    problem(await reported(t, 99), "window-is-out-of-range")
    await t.later(minutes=15)
    answers = [rule_of(await reported(t, 0, bad)) for bad in [True, False] * 6]
    assert answers == ["ok"] + ["window-was-reported"] * 11
    await t.later(minutes=55)
    problem(await reported(t, 1), "report-is-too-late")
    settle = {"contract": "k1", "period": 0}
    await t.people.robot.ok("settle-period", settle)
    contract = await t.escrow_adds_up("k1")
    # A tenth of a quarter of an hour's 1,000 for the one indicator that was missed.
    assert (contract.penalties, contract.paid, contract.fees) == (25, 965, 10)
    with t.nothing_changes():
        await t.people.robot.ok("settle-period", settle)
        problem(await reported(t, 0), "report-is-too-late")
    for who in ("ana", "ben"):
        body = {"contract": "k1", "window": 4, "p95_ms": 9_999, "uptime_bp": 0, "errors_bp": 10_000}
        await t.refuses(who, "report-service-level", body, "role-not-allowed")


@played
async def test_terminating_twice_returns_units_and_money_once(t: Town) -> None:
    await t.with_offerings()
    await t.opens("k1")
    await t.starts("k2")
    assert await used(t) == 2
    for contract in ("k1", "k2"):
        body = {"contract": contract, "reason": "enough"}
        await t.people.ana.ok("terminate-contract", body)
        with t.nothing_changes():
            for who in ("ana", "ben"):
                await t.refuses(who, "terminate-contract", body, "contract-has-ended")
    assert await used(t) == 0
    assert t.balance("wallet:ana") == FUNDS - 2_000
    await t.later(minutes=10)
    await t.people.robot.ok("settle-period", {"contract": "k2", "period": 0})
    with t.nothing_changes():
        await t.people.robot.ok("settle-period", {"contract": "k2", "period": 0})
        await t.people.robot.ok("settle-period", {"contract": "k2", "period": 1})
        await t.people.robot.ok("expire-contract", {"contract": "k1"})
        meter = {"contract": "k1", "seq": 1, "unit_ms": "1"}
        await t.refuses("ben", "start-service", {"contract": "k1"}, "contract-has-ended")
        await t.refuses("ben", "meter-usage", meter, "service-has-not-started")
        for path, more in (
            ("top-up-escrow", {"amount": "1"}),
            ("pause-contract", {}),
            ("resume-contract", {}),
            ("renew-contract", {"renewal": "k3", "minutes": 60} | ANY),
        ):
            await t.refuses("ana", path, {"contract": "k2"} | more, "contract-has-ended")
        await t.refuses(
            "ben", "meter-usage", {"contract": "k2", "seq": 1, "unit_ms": "1"}, "contract-has-ended"
        )
    # A customer who leaves a reserved hour at once owes the next one.
    contract = await t.escrow_adds_up("k2")
    assert (contract.paid, contract.fees, contract.refunded) == (990, 10, 1_000)


@played
async def test_a_bid_beyond_the_limit_never_wins(t: Town) -> None:
    """A reverse auction once accepted 5,000 against a reserve of 10."""
    await t.with_offerings()
    p = t.people
    for request, mode, limit in (("r1", "bids", {"price_cap": "10"}), ("r2", "vickrey", {"budget": "10"})):
        await p.ana.ok("request-service", wanted(t, request, mode=mode, **limit))
        await p.ben.ok("place-bid", {"request": request, "offering": "o1", "ask": "5000"})
    for request in ("r1", "r2"):
        await t.refuses("ana", "accept-bid", {"request": request}, "bidding-is-open")
    await t.later(hours=2)
    for request in ("r1", "r2"):
        await p.robot.ok("close-bidding", {"request": request})
        await t.refuses("ana", "accept-bid", {"request": request}, "nobody-won")
    assert (await t.held("ben"), await used(t), t.balance("wallet:ana")) == (0, 0, FUNDS)


@played
async def test_an_auction_keeps_its_rules_until_it_closes(t: Town) -> None:
    await t.with_offerings()
    p = t.people
    await p.ana.ok("request-service", wanted(t, "r1", mode="bids", any_price=True))
    await p.ana.ok("request-service", wanted(t, "r2", region="nowhere", any_price=True))
    bid = {"request": "r1", "offering": "o1", "ask": "777"}
    for who, path, body, rule in (
        ("ana", "place-bid", bid, "bid-on-own-request"),
        ("ben", "place-bid", bid | {"ask": "0"}, "invalid-body"),
        ("ben", "place-bid", bid | {"ask": "-5"}, "invalid-body"),
        ("ben", "place-bid", bid | {"ask": "9" * 38}, "price-is-too-high"),
        ("ben", "place-bid", bid | {"ask": str(10**18)}, "insufficient-funds"),
        ("ben", "place-bid", bid | {"request": "r2"}, "request-takes-no-bids"),
        ("ben", "place-bid", bid | {"offering": "o2"}, "offering-not-found"),
        ("ana", "match-request", {"request": "r1"}, "request-takes-bids"),
        ("ana", "accept-bid", {"request": "r2"}, "request-takes-no-bids"),
        ("robot", "close-bidding", {"request": "r2"}, "request-takes-no-bids"),
        ("robot", "close-bidding", {"request": "r1"}, "bidding-is-open"),
        ("robot", "expire-request", {"request": "r1"}, "bidding-is-open"),
        ("robot", "expire-request", {"request": "r2"}, "request-has-not-expired"),
    ):
        await t.refuses(who, path, body, rule)
    await p.dee.ok("register-device", laptop("a1"))
    await p.ben.ok("place-bid", bid)
    await t.refuses("ben", "place-bid", bid, "bid-exists")
    await t.refuses("ben", "place-bid", bid | {"ask": "1"}, "bid-exists")
    await t.refuses("ana", "withdraw-request", {"request": "r1"}, "request-has-sealed-bids")
    await t.later(hours=2)
    # Bidding is over, whether or not the timer has run.
    for who in ("ben", "dee"):
        late = {"request": "r1", "offering": "o1" if who == "ben" else "o2", "ask": "1"}
        await t.refuses(who, "place-bid", late, "bidding-is-closed")
    await t.refuses("ben", "withdraw-bid", {"request": "r1"}, "bidding-is-closed")
    await t.refuses("ana", "match-request", {"request": "r2"}, "request-has-expired")
    await p.robot.ok("close-bidding", {"request": "r1"})
    with t.nothing_changes():
        await p.robot.ok("close-bidding", {"request": "r1"})
        # The winner's units are kept, so his offering stays.
        for path in ("pause-offering", "withdraw-offering"):
            await t.refuses("ben", path, {"offering": "o1"}, "offering-is-promised")
    await p.ana.ok("accept-bid", {"request": "r1"})
    with t.nothing_changes():
        for path in ("accept-bid", "withdraw-request"):
            await t.refuses("ana", path, {"request": "r1"}, "request-is-closed")
        await p.robot.ok("expire-request", {"request": "r1"})
    assert (await t.held("ben"), await used(t)) == (0, 1)


@played
async def test_sealed_asks_are_shown_to_nobody_in_any_answer(t: Town) -> None:
    await t.with_offerings()
    p = t.people
    await p.ana.ok("request-service", wanted(t, "r1", mode="vickrey", any_price=True))
    await p.ben.ok("place-bid", {"request": "r1", "offering": "o1", "ask": "76540"})
    with t.nothing_changes():
        for who in ("ana", "dee", "cy"):
            for path, body in (
                ("withdraw-request", {"request": "r1"}),
                ("accept-bid", {"request": "r1"}),
                ("withdraw-bid", {"request": "r1"}),
                ("close-bidding", {"request": "r1"}),
                ("expire-request", {"request": "r1"}),
                ("match-request", {"request": "r1"}),
                ("request-service", wanted(t, "r1", any_price=True)),
                ("place-bid", {"request": "r1", "offering": "o2", "ask": "1"}),
                ("place-bid", {"request": "r1", "offering": "o1", "ask": "1"}),
            ):
                response = await p[who].send(f"{path}?dry_run=true", body)
                assert response.status_code in (200, 403, 404, 409)
                # Neither the ask nor its deposit, a tenth of it.
                assert "7654" not in response.text, (who, path)


@played
async def test_a_lease_that_is_not_paid_ends_without_its_provider(t: Town) -> None:
    """Overdrawn leases once ran free, because settlement waited for a meter that nobody sent."""
    await t.with_offerings()
    await t.starts("k1", deposit="1000")
    robot = t.people.robot
    await t.refuses("robot", "settle-period", {"contract": "k1", "period": 1}, "periods-settle-in-order")
    await t.refuses("robot", "settle-period", {"contract": "k1", "period": 0}, "period-has-not-closed")
    await t.later(minutes=70)
    await robot.ok("settle-period", {"contract": "k1", "period": 0})
    assert (await t.escrow_adds_up("k1")).paid == 990
    await t.later(minutes=60)
    await robot.ok("settle-period", {"contract": "k1", "period": 1})
    contract = await t.escrow_adds_up("k1")
    assert (contract.status, contract.remaining, await used(t)) == ("overdrawn", 0, 0)
    with t.nothing_changes():
        await t.refuses(
            "ben", "meter-usage", {"contract": "k1", "seq": 1, "unit_ms": "1"}, "contract-has-ended"
        )
        await t.refuses("ana", "top-up-escrow", {"contract": "k1", "amount": "1000"}, "contract-has-ended")


@played
async def test_what_is_delivered_after_its_expiry_is_not(t: Town) -> None:
    await t.with_offerings()
    await t.opens("k1")
    await t.refuses("robot", "expire-contract", {"contract": "k1"}, "contract-has-not-expired")
    await t.later(hours=24)
    await t.refuses("ben", "start-service", {"contract": "k1"}, "contract-has-expired")
    await t.people.robot.ok("expire-contract", {"contract": "k1"})
    await t.refuses("ben", "start-service", {"contract": "k1"}, "contract-has-expired")
    assert (await t.escrow_adds_up("k1")).refunded == 2_000
    assert (t.balance("wallet:ana"), await used(t)) == (FUNDS, 0)


@played
async def test_usage_is_a_total_that_never_falls_and_fits_into_time(t: Town) -> None:
    await t.with_offerings("pay_as_you_go")
    meter = {"contract": "k1", "seq": 1, "unit_ms": "600000"}
    await t.opens("k1")
    await t.refuses("ben", "meter-usage", meter, "service-has-not-started")
    await t.people.ben.ok("start-service", {"contract": "k1"})
    await t.refuses("ben", "start-service", {"contract": "k1"}, "service-has-started")
    await t.refuses("ben", "meter-usage", meter, "usage-exceeds-time")
    await t.later(minutes=10)
    await t.people.ben.ok("meter-usage", meter)
    with t.nothing_changes():
        await t.people.ben.ok("meter-usage", meter)
        for more, rule in (
            ({"unit_ms": "599999"}, "meter-is-outdated"),
            ({"seq": 0}, "meter-is-outdated"),
            ({"seq": 2, "unit_ms": "599999"}, "usage-fell"),
            ({"seq": 2, "unit_ms": "600001"}, "usage-exceeds-time"),
            ({"seq": 2, "unit_ms": "-1"}, "invalid-body"),
            ({"seq": -1}, "invalid-body"),
        ):
            await t.refuses("ben", "meter-usage", meter | more, rule)
    await t.people.ana.ok("pause-contract", {"contract": "k1"})
    await t.refuses("ana", "pause-contract", {"contract": "k1"}, "contract-is-paused")
    await t.later(minutes=10)
    await t.refuses("ben", "meter-usage", meter | {"seq": 2, "unit_ms": "600001"}, "usage-exceeds-time")
    await t.people.ana.ok("resume-contract", {"contract": "k1"})
    await t.refuses("ana", "resume-contract", {"contract": "k1"}, "contract-is-not-paused")
    await t.later(minutes=110)
    late = meter | {"seq": 3, "unit_ms": "700000"}
    await t.refuses("ben", "meter-usage", late, "meter-is-too-late")
    for period in (0, 1):
        await t.people.robot.ok("settle-period", {"contract": "k1", "period": period})
    # Ten minutes were used, however often they were reported: 166.7, rounded up once.
    contract = await t.escrow_adds_up("k1")
    assert (contract.paid + contract.fees, contract.refunded) == (167, 1_833)


@played
async def test_a_burst_books_all_or_nothing(t: Town) -> None:
    await t.with_offerings()  # Two times two units.
    north = burst("b1")["requirements"]
    for body, rule in (
        (burst("b1", 5), "burst-finds-no-capacity"),
        (burst("b1", 3, budget="2999"), "burst-exceeds-budget"),
        (burst("b1", 0), "burst-is-out-of-range"),
        (burst("b1", 1_001), "burst-is-out-of-range"),
        (burst("b1", requirements=[]), "burst-is-out-of-range"),
        (burst("b1", requirements=north * 6), "burst-is-out-of-range"),
        (burst("b1", requirements=north * 5), "burst-finds-no-capacity"),
        (burst("b1", minutes=0), "burst-is-out-of-range"),
        (burst("b1", settlement="barter"), "settlement-is-unknown"),
        (burst("b" * 47), "contract-id-is-too-long"),
    ):
        await t.refuses("ana", "allocate-burst", body, rule)
    await t.opens("b1.2", "cy")
    await t.refuses("ana", "allocate-burst", burst("b1", 3), "contract-exists")
    assert ((await t.state("contract:b1.1")).status, await used(t)) == ("absent", 1)
    await t.people.ana.ok("allocate-burst", burst("b2", 3))
    assert (await used(t), await used(t, "o2")) == (2, 2)
    with t.nothing_changes():
        await t.refuses("ana", "allocate-burst", burst("b2"), "burst-exists")
        await t.refuses("ana", "allocate-burst", burst("b3"), "burst-finds-no-capacity")


@played
async def test_requests_have_their_bounds(t: Town) -> None:
    await t.with_offerings()
    for more, rule in (
        ({"units": 0}, "request-is-out-of-range"),
        ({"units": 1_001}, "request-is-out-of-range"),
        ({"minutes": 0}, "request-is-out-of-range"),
        ({"mode": "raffle"}, "request-mode-is-unknown"),
        ({"settlement": "barter"}, "settlement-is-unknown"),
        ({"expires_at": t.at()}, "expiry-is-out-of-range"),
        ({"expires_at": t.at(days=30, seconds=1)}, "expiry-is-out-of-range"),
        ({"expires_at": "2026-01-02T00:00:00"}, "invalid-body"),
    ):
        body = wanted(t, "r1", any_price=True) | more
        await t.refuses("ana", "request-service", body, rule)
    await t.people.ana.ok("request-service", wanted(t, "r1", any_price=True))
    with t.nothing_changes():
        for who in ("ana", "cy"):
            body = wanted(t, "r1", any_price=True)
            await t.refuses(who, "request-service", body, "request-exists")


@played
async def test_a_provider_is_reviewed_once_by_whom_he_served(t: Town) -> None:
    await t.with_offerings()
    await t.starts("k1")
    review = {"contract": "k1", "rating": 5}
    await t.refuses("ana", "review-provider", review, "contract-has-not-ended")
    await t.people.ben.ok("terminate-contract", {"contract": "k1", "reason": "rest"})
    for rating in (0, 6):
        await t.refuses("ana", "review-provider", review | {"rating": rating}, "rating-is-out-of-range")
    await t.people.ana.ok("review-provider", review)
    await t.refuses("ana", "review-provider", review | {"rating": 1}, "review-exists")
    await t.opens("k2")
    await t.people.ana.ok("terminate-contract", {"contract": "k2", "reason": "no"})
    await t.refuses("ana", "review-provider", review | {"contract": "k2"}, "service-has-not-started")


@played
async def test_what_is_paused_or_withdrawn_takes_nothing_new(t: Town) -> None:
    await t.with_offerings()
    await t.starts("k1")
    await t.people.ana.ok("request-service", wanted(t, "r1", mode="bids") | ANY)
    for command, rule in (
        ("pause-offering", "offering-is-paused"),
        ("withdraw-offering", "offering-is-withdrawn"),
    ):
        await t.people.ben.ok(command, {"offering": "o1"})
        with t.nothing_changes():
            await t.refuses("ana", "open-contract", booked("k9"), rule)
            await t.refuses(
                "ana", "renew-contract", {"contract": "k1", "renewal": "k9", "minutes": 60} | ANY, rule
            )
            await t.refuses("ben", "place-bid", {"request": "r1", "offering": "o1", "ask": "1"}, rule)
            if command == "pause-offering":
                await t.people.ben.ok(command, {"offering": "o1"})
            else:
                for again in ("pause-offering", "resume-offering", "withdraw-offering"):
                    await t.refuses("ben", again, {"offering": "o1"}, rule)
                await t.refuses("ben", "reprice-offering", {"offering": "o1", "base_price": "999"}, rule)
    # What runs goes on.
    await t.later(minutes=70)
    await t.people.robot.ok("settle-period", {"contract": "k1", "period": 0})


@played
async def test_a_renewal_needs_a_limit_and_waits_for_its_turn(t: Town) -> None:
    await t.with_offerings()
    await t.starts("k1")
    renew = {"contract": "k1", "renewal": "k2", "minutes": 60}
    await t.refuses("ana", "renew-contract", renew, "price-cap-is-missing")
    await t.refuses("ana", "renew-contract", renew | {"price_cap": "1"}, "price-is-above-cap")
    await t.refuses("ana", "renew-contract", renew | ANY | {"renewal": "k1"}, "contract-exists")
    await t.people.ana.ok("renew-contract", renew | ANY)
    with t.nothing_changes():
        await t.refuses("ana", "renew-contract", renew | ANY | {"renewal": "k3"}, "contract-was-renewed")
        await t.refuses("ben", "start-service", {"contract": "k2"}, "renewed-contract-still-runs")
    assert await used(t) == 1


@played
async def test_a_device_that_moved_sells_nothing_where_it_was(t: Town) -> None:
    await t.with_offerings()
    await t.later(days=1)
    await t.people.ben.ok("relocate-device", {"device": "d1", "region": "south"})
    with t.nothing_changes():
        await t.refuses("ana", "open-contract", booked(), "device-has-moved")
        await t.refuses("ben", "resume-offering", {"offering": "o1"}, "device-has-moved")


# Settlement: windows.


async def moved(t: Town, window: str, status: str) -> None:
    """Bring an open window on to a status."""
    if status == "open":
        return
    if status == "aborted":
        await t.people.admin.ok("abort-window", {"window": window, "reason": "asked"})
        return
    await t.people.admin.ok("close-window", {"window": window})
    for step, reached in (("reserve-positions", "settling"), ("finalise-settlement", "settled")):
        if status == "closed":
            return
        await t.people.robot.ok(step, {"window": window})
        if status == reached:
            return


STEPS = ("record-obligation", "close-window", "reserve-positions", "finalise-settlement", "abort-window")
NOT_NOW = {
    "open": ("", "", "window-is-not-closed", "positions-are-not-reserved", ""),
    "closed": ("window-is-not-open", "window-is-not-open", "", "positions-are-not-reserved", ""),
    "settling": ("window-is-not-open", "window-is-not-open", "same", "", ""),
    "settled": ("window-is-not-open", "window-is-not-open", "same", "same", "window-has-ended"),
    "aborted": ("window-is-not-open", "window-is-not-open", "same", "same", "window-has-ended"),
}
"""By a window's status the rule that stands against each step; `same` for what decides nothing any more."""


@pytest.mark.parametrize("status", NOT_NOW)
@played
async def test_a_window_takes_each_step_in_its_place_only(t: Town, status: str) -> None:
    p = t.people
    await p.admin.ok("open-window", {"window": "n1"})
    await p.ana.ok("record-obligation", owed("ana", "ben"))
    await moved(t, "n1", status)
    assert (await t.state("netting:n1")).status == status
    with t.nothing_changes():
        for step, rule in zip(STEPS, NOT_NOW[status], strict=True):
            body = owed("admin", "ben", window="n1") if step == "record-obligation" else {"window": "n1"}
            if step == "abort-window":
                body["reason"] = "asked"
            if rule == "same":
                await p.admin.ok(step, body)
            elif rule:
                await t.refuses("admin", step, body, rule)
            missing = body | {"window": "n9"}
            await t.refuses("admin", step, missing, "window-not-found")
        await t.refuses("admin", "open-window", {"window": "n1"}, "window-exists")
        if status == "open":
            await t.refuses("robot", "close-window", {"window": "n1"}, "window-is-not-due")
            await t.refuses("admin", "open-window", {"window": "n2"}, "another-window-is-open")
        else:
            await t.refuses("ana", "record-obligation", owed("ana", "ben", source="y9"), "no-window-is-open")


@played
async def test_one_window_is_settled_at_a_time(t: Town) -> None:
    p = t.people
    await p.admin.ok("open-window", {"window": "n1"})
    await p.ana.ok("record-obligation", owed("ana", "ben"))
    await p.admin.ok("close-window", {"window": "n1", "next": "n2"})
    await t.refuses("admin", "close-window", {"window": "n2"}, "settlement-is-under-way")


@played
async def test_obligations_are_the_debtors_word_and_are_recorded_once(t: Town) -> None:
    p = t.people
    await t.refuses("ana", "record-obligation", owed("ana", "ben"), "no-window-is-open")
    await p.admin.ok("open-window", {"window": "n1"})
    await p.ana.ok("record-obligation", owed("ana", "ben"))
    await p.robot.ok("record-obligation", owed("cy", "ben", source="k1.0"))
    with t.nothing_changes():
        await p.ana.ok("record-obligation", owed("ana", "ben"))
        await p.robot.ok("record-obligation", owed("cy", "ben", source="k1.0"))
        for who, body, rule in (
            ("ben", owed("ana", "ben"), "obligation-needs-its-debtor"),
            ("ben", owed("ana", "ben", source="s9"), "obligation-needs-its-debtor"),
            ("ana", owed("ana", "ben", "99"), "obligation-exists"),
            ("ana", owed("ana", "cy"), "obligation-exists"),
            ("ana", owed("ana", "ben", memo="more"), "obligation-exists"),
            ("robot", owed("cy", "ben", "101", "k1.0"), "obligation-exists"),
            ("robot", owed("ben", "cy", source="k1.0"), "obligation-exists"),
            ("ana", owed("ana", "ana", source="s2"), "debtor-is-creditor"),
            ("robot", owed("fees", "ana", source="s2"), "zone-is-no-debtor"),
            ("ana", owed("ana", "nobody", source="s2"), "account-is-not-open"),
            ("ana", owed("ana", "ben", source="s2", asset="GOLD"), "asset-is-unknown"),
            ("ana", owed("ana", "ben", "0", "s2"), "invalid-body"),
            ("ana", owed("ana", "ben", "-5", "s2"), "invalid-body"),
            ("ana", owed("ana", "ben", source="s:2"), "invalid-body"),
            ("cy", {"obligation": "ana:s1", "window": "n1"}, "obligation-not-found"),
            ("ana", {"obligation": "ana:s1", "window": "n1"}, "obligation-has-not-lapsed"),
        ):
            command = "renew" if "obligation" in body else "record"
            await t.refuses(who, f"{command}-obligation", body, rule)
        for body, rule in (
            ({"window": "n2", "every_s": 59}, "window-is-too-short"),
            ({"window": "n2", "closes_at": t.at()}, "window-closes-in-the-past"),
            ({"window": "n" * 57, "every_s": 60}, "window-name-is-too-long"),
            ({"window": "n2"}, "another-window-is-open"),
        ):
            await t.refuses("admin", "open-window", body, rule)


@played
async def test_who_cannot_pay_takes_nobody_else_with_him_and_ends_not_below_zero(t: Town) -> None:
    p = t.people
    await p.admin.ok("open-window", {"window": "n1"})
    for who, to, amount in (
        ("ana", "ben", FUNDS + 1),
        ("ben", "cy", FUNDS + 1),
        ("cy", "dee", 7),
        ("dee", "val", 3),
    ):
        await p[who].ok("record-obligation", owed(who, to, str(amount)))
    await p.admin.ok("close-window", {"window": "n1", "next": "n2"})
    await p.robot.ok("reserve-positions", {"window": "n1"})
    # What was reserved is not available, whatever else they try.
    await t.refuses(
        "cy",
        "transfer",
        {"from": "wallet:cy", "to": "wallet:ana", "amount": str(FUNDS - 6)},
        "insufficient-funds",
    )
    await p.robot.ok("finalise-settlement", {"window": "n1"})
    balances = [t.balance(f"wallet:{who}") - FUNDS for who in ("ana", "ben", "cy", "dee", "val")]
    assert (balances, t.balance("window:n1")) == ([0, 0, -7, 4, 3], 0)
    assert [await t.held(who) for who in ("ana", "ben", "cy", "dee")] == [0, 0, 0, 0]
    dues = (await t.state("netting-page:n2:0")).dues
    assert {due.obligation for due in dues} == {"ana:s1", "ben:s1"}
    # The second window of the same two ends the same way, and leaves nothing held.
    await moved(t, "n2", "closed")
    await p.robot.ok("reserve-positions", {"window": "n2"})
    assert (await t.state("netting:n2")).status == "aborted"
    assert [await t.held(who) for who in ("ana", "ben")] == [0, 0]


# Settlement: disputes.


@played
async def test_a_refund_after_a_dispute_pays_nothing_twice(t: Town) -> None:
    """Once 199.5 of 102.5 was paid."""
    await t.with_offerings()
    await t.starts("k1")
    p = t.people
    await t.later(minutes=70)
    await p.robot.ok("settle-period", {"contract": "k1", "period": 0})
    left = (await t.escrow_adds_up("k1")).remaining
    await p.ana.ok("open-dispute", {"dispute": "q1", "contract": "k1", "reason": "it is slow"})
    split = {"dispute": "q1", "reason": "half and half"}
    with t.nothing_changes():
        for who, path, more, rule in (
            ("ana", "terminate-contract", {"reason": ""}, "contract-is-in-dispute"),
            ("ben", "terminate-contract", {"reason": ""}, "contract-is-in-dispute"),
            ("ana", "top-up-escrow", {"amount": "1"}, "contract-is-in-dispute"),
            ("ana", "renew-contract", {"renewal": "k2", "minutes": 60} | ANY, "contract-is-in-dispute"),
            ("ben", "open-dispute", {"dispute": "q2", "reason": ""}, "contract-is-in-dispute"),
            ("ben", "open-dispute", {"dispute": "q1", "reason": ""}, "dispute-exists"),
        ):
            await t.refuses(who, path, {"contract": "k1"} | more, rule)
        for to_payer, to_payee in ((left, left), (left, 1), (0, 0), (left - 1, 0), (1_025, 970)):
            body: dict[str, Any] = split | {"to_payer": str(to_payer), "to_payee": str(to_payee)}
            await t.refuses("admin", "resolve-dispute", body, "split-is-not-what-remains")
        for to_nobody in (-5, "-5", None):
            body = split | {"to_payer": str(left + 5), "to_payee": to_nobody}
            await t.refuses("admin", "resolve-dispute", body, "invalid-body")
        halves = split | {"to_payer": left / 2, "to_payee": left / 2}
        await t.refuses("admin", "resolve-dispute", halves, "malformed-body")
        fair = split | {"to_payer": str(left), "to_payee": "0"}
        for who in ("ana", "ben", "robot"):
            await t.refuses(who, "resolve-dispute", fair, "role-not-allowed")
        acting = await p.admin.send("resolve-dispute", fair, fogbook_act_as="ana")
        problem(acting, "role-not-allowed")
        await t.refuses("admin", "resolve-dispute", fair | {"dispute": "q9"}, "dispute-not-found")
        await t.refuses(
            "cy", "open-dispute", {"dispute": "q9", "contract": "k1", "reason": ""}, "contract-not-found"
        )
    await t.later(minutes=60)
    # A disputed escrow settles no period; the units of a service that is over do not wait.
    await p.robot.ok("settle-period", {"contract": "k1", "period": 1})
    assert ((await t.escrow_adds_up("k1")).remaining, await used(t)) == (left, 0)
    await p.admin.ok("resolve-dispute", split | {"to_payer": str(left - 400), "to_payee": "400"})
    contract = await t.escrow_adds_up("k1")
    assert (contract.remaining, contract.paid, contract.refunded, contract.fees) == (
        0,
        990 + 400,
        left - 400,
        10,
    )
    with t.nothing_changes():
        for period in (0, 1):
            await p.robot.ok("settle-period", {"contract": "k1", "period": period})
        await t.refuses(
            "admin", "resolve-dispute", split | {"to_payer": "0", "to_payee": "0"}, "dispute-is-resolved"
        )
        await t.refuses("ana", "terminate-contract", {"contract": "k1", "reason": ""}, "contract-has-ended")
        await t.refuses(
            "ana", "open-dispute", {"dispute": "q2", "contract": "k1", "reason": ""}, "escrow-is-empty"
        )
        await t.refuses("ana", "submit-evidence", {"dispute": "q1", "digest": "ff"}, "dispute-is-resolved")
    assert t.balance("wallet:ana") + t.balance("wallet:ben") + t.balance("fees") == 2 * FUNDS


@played
async def test_a_dispute_is_about_an_escrow_and_its_evidence_is_bounded(t: Town) -> None:
    await t.with_offerings()
    await t.opens("k1")
    await t.opens("k2", settlement="netted")
    p = t.people
    about = {"dispute": "q1", "contract": "k2", "reason": ""}
    await t.refuses("ana", "open-dispute", about, "contract-is-netted")
    await t.refuses("ana", "top-up-escrow", {"contract": "k2", "amount": "1"}, "contract-is-netted")
    await p.ben.ok("open-dispute", about | {"contract": "k1"})
    evidence = {"dispute": "q1"}
    for number in range(20):
        await p.ana.ok("submit-evidence", evidence | {"digest": f"a{number}"})
    with t.nothing_changes():
        await p.ana.ok("submit-evidence", evidence | {"digest": " A0 "})
        await t.refuses("ana", "submit-evidence", evidence | {"digest": "b0"}, "too-much-evidence")
        await t.refuses("admin", "submit-evidence", evidence | {"digest": "b0"}, "dispute-not-found")
        await t.refuses("ben", "start-service", {"contract": "k1"}, "contract-is-in-dispute")
    await t.later(days=1)
    # The units of what was never started do not wait for the decision; what was paid for them does.
    await p.robot.ok("expire-contract", {"contract": "k1"})
    await t.refuses("robot", "expire-contract", {"contract": "k1"}, "contract-is-in-dispute")
    assert ((await t.escrow_adds_up("k1")).remaining, await used(t)) == (2_000, 1)


@played
async def test_a_fee_is_taken_once_and_out_of_the_providers_share(t: Town) -> None:
    await t.with_offerings()
    await t.starts("k1")
    await t.later(minutes=70)
    await t.people.robot.ok("settle-period", {"contract": "k1", "period": 0})
    await t.later(minutes=60)
    await t.people.robot.ok("settle-period", {"contract": "k1", "period": 1})
    spent, got = FUNDS - t.balance("wallet:ana"), t.balance("wallet:ben") - FUNDS
    assert (spent, got, t.balance("fees")) == (2_000, 1_980, 20)
    # Owed periods: the customer owes the whole, the provider the fee of it, and nobody anything else.
    await t.people.admin.ok("open-window", {"window": "n1"})
    await t.starts("k2", settlement="netted", minutes=60)
    await t.later(minutes=70)
    answer = await t.people.robot.ok("settle-period", {"contract": "k2", "period": 0})
    (netted,) = [e["data"] for e in answer["events"] if e["type"] == "PeriodNetted"]
    # The market moved by a tenth since.
    assert (netted["charge"], netted["due"], netted["fee"]) == ("900", "900", "9")
    assert (t.balance("wallet:ana"), t.balance("fees")) == (FUNDS - 2_000, 20)


# Settlement: between zones.


async def with_far(t: Town) -> None:
    await t.people.admin.ok("register-peer", {"zone": "far", "key": FAR_KEY})


@played
async def test_a_message_counts_once_under_however_many_keys_it_comes(t: Town) -> None:
    await with_far(t)
    robot = t.people.robot
    first = packet(t)
    await robot.ok("receive-transfer", delivered(first))
    assert t.balance("wallet:ana", "far/FOG") == 50
    with t.nothing_changes():
        for _ in range(3):
            await robot.ok("receive-transfer", delivered(first))
        await robot.ok("refuse-transfer", delivered(first))
        for more in (
            {"amount": 51},
            {"recipient": "wallet:ben"},
            {"memo": "again"},
            {"timeout": first.timeout + timedelta(1)},
        ):
            other = packet(t, **more)
            await t.refuses("robot", "receive-transfer", delivered(other), "packet-differs")
            await t.refuses("robot", "receive-transfer", delivered(other, first), "proof-is-invalid")
    spelled = delivered(packet(t, 2))
    spelled["packet"] |= {"recipient": " ANA ", "source": "FAR", "sender": "Wallet:Fay", "amount": 50}
    await robot.ok("receive-transfer", spelled)
    assert t.balance("wallet:ana", "far/FOG") == 100


@played
async def test_only_what_the_other_zone_signed_for_this_one_is_believed(t: Town) -> None:
    await with_far(t)
    good = packet(t)
    elsewhere = packet(t, target="elsewhere")
    unknown = packet(t, source="near")
    with t.nothing_changes():
        for body, rule in (
            (delivered(good) | {"proof": ""}, "proof-is-invalid"),
            (delivered(good) | {"proof": "00" * 64}, "proof-is-invalid"),
            (delivered(good) | {"proof": delivered(good)["proof"].upper()}, "proof-is-invalid"),
            (delivered(good) | {"proof": "x" * 257}, "invalid-body"),
            (delivered(elsewhere), "packet-is-for-another-zone"),
            (delivered(good, elsewhere), "proof-is-invalid"),
            (delivered(unknown), "peer-not-found"),
        ):
            for command in ("receive-transfer", "refuse-transfer"):
                await t.refuses("robot", command, body, rule)
        await t.refuses("robot", "refuse-transfer", delivered(good), "transfer-has-not-timed-out")
        for field, value in (
            ("amount", "0"),
            ("amount", -5),
            ("sequence", -1),
            ("settled", [-1]),
            ("fee", "1"),
        ):
            body = delivered(good)
            body["packet"][field] = value
            await t.refuses("robot", "receive-transfer", body, "invalid-body")
    await t.people.admin.ok("suspend-peer", {"zone": "far", "reason": "asked"})
    with t.nothing_changes():
        await t.refuses("robot", "receive-transfer", delivered(good), "peer-is-suspended")
        await t.refuses("ana", "initiate-transfer", abroad(t, "1"), "peer-is-suspended")
    await t.people.admin.ok("resume-peer", {"zone": "far", "reason": "asked"})
    for body, rule in (
        ({"zone": "far", "key": FAR_KEY}, "peer-exists"),
        ({"zone": t.zone, "key": FAR_KEY}, "peer-is-this-zone"),
        ({"zone": ".near", "key": FAR_KEY}, "peer-name-is-malformed"),
        ({"zone": "n" * 64, "key": FAR_KEY}, "peer-name-is-malformed"),
        ({"zone": "near", "key": FAR_KEY[:-2]}, "peer-key-is-malformed"),
        ({"zone": "near", "key": "g" * 64}, "peer-key-is-malformed"),
    ):
        await t.refuses("admin", "register-peer", body, rule)


@played
async def test_what_comes_home_is_at_most_what_left(t: Town) -> None:
    await with_far(t)
    p = t.people
    await p.ana.ok("initiate-transfer", abroad(t, "40"))
    for sequence, amount, outcome in (
        (1, 41, "TransferFailed"),
        (2, 40, "TransferReceived"),
        (3, 1, "TransferFailed"),
    ):
        home = packet(t, sequence, amount, asset=f"{t.zone}/FOG", recipient="wallet:ben")
        answer = await p.robot.ok("receive-transfer", delivered(home))
        assert outcome in [event["type"] for event in answer["events"]]
    assert (t.balance("bridge:far"), t.balance("wallet:ben")) == (0, FUNDS + 40)
    # Nothing of a third zone comes, and nothing to nobody; both are told to the other zone, which refunds.
    for sequence, more in (
        (4, {"asset": "near/FOG"}),
        (5, {"recipient": "wallet:nobody"}),
        (6, {"scale": 19, "asset": "GOLD"}),
    ):
        answer = await p.robot.ok("receive-transfer", delivered(packet(t, sequence, **more)))
        assert [event["type"] for event in answer["events"]] == ["TransferFailed"]


@played
async def test_a_transfer_has_one_outcome_and_a_refund_one_payment(t: Town) -> None:
    await with_far(t)
    p = t.people
    for _ in range(3):
        await p.ana.ok("initiate-transfer", abroad(t, "100"))
    assert t.balance("bridge:far") == 300
    sent = [(await t.state(f"packet:far:{sequence}")).packet for sequence in (1, 2, 3)]

    def outcome(kind: str, sequence: int, reason: str = "", *, of: int = 0) -> dict[str, Any]:
        text = statement(kind, sent[(of or sequence) - 1], t.now, reason)
        body = {"target_zone": "far", "sequence": sequence, "at": t.at(), "proof": sign(FAR, text.encode())}
        return body if kind == "refused" else body | {"success": kind == "received", "reason": reason}

    ack, timeout = "record-acknowledgement", "timeout-transfer"
    with t.nothing_changes():
        for path, body, rule in (
            (ack, outcome("received", 1, of=2), "proof-is-invalid"),
            (ack, outcome("received", 1) | {"success": False}, "proof-is-invalid"),
            (ack, outcome("failed", 1, "x") | {"reason": "y"}, "proof-is-invalid"),
            (ack, outcome("received", 1) | {"at": t.at(seconds=1)}, "proof-is-invalid"),
            (ack, outcome("received", 1) | {"sequence": 9}, "transfer-not-found"),
            (ack, outcome("received", 1) | {"target_zone": "near"}, "transfer-not-found"),
            (timeout, {**outcome("refused", 1, of=2)}, "proof-is-invalid"),
            (timeout, {**outcome("refused", 1)} | {"sequence": 0}, "transfer-not-found"),
        ):
            await t.refuses("robot", path, body, rule)
    for first, body in (
        (ack, outcome("received", 1)),
        (ack, outcome("failed", 2, "account-is-not-open")),
        (timeout, outcome("refused", 3)),
    ):
        await p.robot.ok(first, body)
        with t.nothing_changes():
            await p.robot.ok(first, body)
            sequence = body["sequence"]
            for path, other in (
                (ack, outcome("received", sequence)),
                (ack, outcome("failed", sequence, "account-is-not-open")),
                (timeout, outcome("refused", sequence)),
            ):
                if other != body:
                    await t.refuses("robot", path, other, "transfer-is-settled")
    assert (t.balance("bridge:far"), t.balance("wallet:ana")) == (100, FUNDS - 100)


@played
async def test_what_may_not_cross_stays(t: Town) -> None:
    await with_far(t)
    await t.people.robot.ok("receive-transfer", delivered(packet(t)))
    with t.nothing_changes():
        for more, rule in (
            ({"target_zone": "near"}, "peer-not-found"),
            ({"target_zone": t.zone}, "peer-not-found"),
            ({"timeout": t.at()}, "timeout-is-past"),
            ({"timeout": t.at(days=-1)}, "timeout-is-past"),
            ({"amount": "0"}, "invalid-body"),
            ({"amount": "-5"}, "invalid-body"),
            ({"amount": str(FUNDS + 1)}, "insufficient-funds"),
            ({"asset": "far/FOG", "amount": "51"}, "insufficient-funds"),
            ({"asset": "near/FOG"}, "asset-may-not-cross"),
            ({"asset": "GOLD"}, "asset-is-unknown"),
            ({"from": "wallet:ben"}, "wallet-not-found"),
            ({"from": "wallet:ana:none"}, "wallet-not-found"),
        ):
            await t.refuses("ana", "initiate-transfer", abroad(t, "1") | more, rule)
        # Vouchers are made and destroyed by transfers between zones only.
        voucher = {"asset": "far/FOG", "amount": "1", "reason": "", "reference": ""}
        for who, path, body in (
            ("admin", "mint-tokens", voucher | {"to": "wallet:ana"}),
            ("ana", "burn-tokens", voucher | {"from": "wallet:ana"}),
            ("admin", "define-asset", {"asset": "far/GOLD", "scale": 6}),
        ):
            await t.refuses(who, path, body, "voucher-of-another-zone")


@played
async def test_at_its_timeout_a_packet_is_refused_for_good(t: Town) -> None:
    await with_far(t)
    robot = t.people.robot
    late = [packet(t, 1), packet(t, 2)]
    await t.later(days=1)
    await robot.ok("receive-transfer", delivered(late[0]))
    await robot.ok("refuse-transfer", delivered(late[1]))
    with t.nothing_changes():
        for each in late:
            await robot.ok("receive-transfer", delivered(each))
            await robot.ok("refuse-transfer", delivered(each))
    assert t.balance("wallet:ana", "far/FOG") == 0
