"""The authorisation matrix: what each command answers to whoever sends it, and what each query shows to whom.

The rows are in the order of a story: what one makes, the next ones use. Each is accepted from its owner (or refused by
the rule that is named), and before that everybody else has tried it. Which roles may send it at all is declared by the
route (`x-roles`); what a row adds is what becomes of those who may send it and do not own what it touches.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from commands._signatures import public_key, sign, zone_key
from domain.principals import key_statement
from domain.settlement.transfers import statement
from tests.acceptance.economy import (
    ANY,
    FAR,
    FAR_KEY,
    SIZE,
    WELL,
    Town,
    booked,
    burst,
    delivered,
    kept,
    owed,
    packet,
    wanted,
)
from tests.signers import Signer

OK = "ok"
"""Accepted: what it touches is the caller's own, or everybody's."""
Body = dict[str, Any]


@dataclass
class Story:
    town: Town
    ids: dict[str, str]
    """The ids of commands, by the names that rows give them."""

    def __getitem__(self, name: str) -> str:
        return self.ids[name]

    def at(self, **by: float) -> str:
        return self.town.at(**by)


@dataclass(frozen=True)
class Row:
    command: str
    owner: str
    body: Body | Callable[[Story], Body | Awaitable[Body]]
    stranger: str = OK
    """What a participant is told whom it does not concern: a rule, or ok."""
    thing: str = ""
    """The field that names what is somebody's: another name there, of which there is nothing, is answered alike."""
    operator: str = ""
    """What an operator is told who acts for himself; like a stranger where it is empty."""
    worker: str = ""
    """What a worker is told, where his role may send it; like a stranger where it is empty."""
    again: str = ""
    """What a stranger is told once the owner's was accepted: names are taken once."""
    accepted: str = OK
    """What the owner is told."""
    name: str = ""
    """What later rows call this command's id."""


@dataclass(frozen=True)
class Later:
    """Time passes."""

    minutes: float = 0
    days: float = 0


def made(command: str, owner: str, body: Any, exists: str, stranger: str = OK, **more: Any) -> Row:
    """A row of what is made under a name of its maker's choice."""
    return Row(command, owner, body, stranger, again=exists, **more)


def service(command: str, body: Any, **more: Any) -> Row:
    """A row of what only operators and workers send: they act for the system, and nothing of it is foreign."""
    return Row(command, "robot", body, operator=OK, **more)


def operators(command: str, body: Any, **more: Any) -> Row:
    return Row(command, "admin", body, **more)


STAKE = {"self_stake": "1000000", "commission": 0, "minimum_self_stake": "1000"}
LAPTOP = {"type": "laptop", "capabilities": SIZE, "region": "north"}
OFFER = {"service_type": "compute", "tier": "bronze", "cpu_millicores": 500, "memory_mb": 500, "gpu": 0}
OFFER |= {"capacity": 4, "base_price": "1000", "pricing": "reserved"}
CONTRACT = {"contract": "k1"}
FIRST = {"session": "s1", "seq": 1}
WIM = zone_key(b"wim", "wim")
WIMS_KEY = public_key(WIM)
ATTESTED = {"validator": "v2", "confirms": True}
MINT = {"reason": "start", "reference": "m"}
SIGNER = Signer("ana", zone="hostile")


async def _acknowledged(story: Story) -> Body:
    return await _told(story, 1, "received") | {"success": True}


async def _timed_out(story: Story) -> Body:
    return await _told(story, 2, "refused")


async def _told(story: Story, sequence: int, kind: str) -> Body:
    """What the zone `far` says of a packet that was sent there."""
    sent = (await story.town.state(f"packet:far:{sequence}")).packet
    at = story.town.now
    proof = sign(FAR, statement(kind, sent, at).encode())
    return {"target_zone": "far", "sequence": sequence, "at": at.isoformat(), "proof": proof}


def _proven(story: Story) -> Body:
    """Wim's key, and its signature of that it is his in this zone."""
    return {"key": WIMS_KEY, "proof": sign(WIM, key_statement(story.town.zone, "wim", WIMS_KEY))}


def _sent(story: Story) -> Body:
    whole = {"target_zone": "far", "recipient": "fay", "amount": "10", "timeout": story.at(days=1)}
    return whole | {"from": "wallet:ana"}


def _late(story: Story) -> Body:
    return delivered(packet(story.town, 2, timeout=story.town.now - timedelta(minutes=1)))


LEDGER: list[Row | Later] = [
    operators("ledger/define-asset", {"asset": "GOLD", "scale": 0, "cap": "1000"}),
    operators("ledger/mint-tokens", {"to": "wallet:ana", "amount": "7", "asset": "GOLD"} | MINT),
    made("ledger/open-wallet", "ana", {"wallet": "ana:savings"}, "wallet-belongs-to-another",
         "wallet-belongs-to-another"),
    Row("ledger/transfer", "ana", {"from": "wallet:ana", "to": "wallet:ben", "amount": "5"},
        "wallet-not-found", "from", name="paid"),
    Row("ledger/burn-tokens", "ana", {"from": "wallet:ana", "amount": "5", "reason": "mine"},
        "wallet-not-found", "from"),
    made("ledger/place-hold", "ana", lambda s: kept(s.town, "h1"), "wallet-not-found", "wallet-not-found",
         thing="wallet"),
    made("ledger/place-hold", "ana", lambda s: kept(s.town, "h2"), "wallet-not-found", "wallet-not-found"),
    Row("ledger/capture-hold", "ben", {"hold": "h1", "amount": "10", "to": "wallet:ben", "final": False},
        "hold-not-found", "hold"),
    Row("ledger/release-hold", "ben", {"hold": "h1"}, "hold-not-found", "hold",
        operator="hold-has-not-expired"),
    operators("ledger/freeze-wallet", {"wallet": "ana:savings", "reason": "looked into"}),
    operators("ledger/unfreeze-wallet", {"wallet": "ana:savings", "reason": "all is well"}),
    Row("ledger/close-wallet", "ana", {"wallet": "ana:savings"}, "wallet-not-found", "wallet"),
    operators("ledger/reverse-transaction", lambda s: {"transaction": s["paid"], "reason": "mistake"}),
    operators("ledger/distribute-rewards", {"distribution": "t1", "kind": "gift", "pool": "treasury",
                                            "allocations": [{"to": "wallet:ana", "amount": "3"}]}),
]  # fmt: skip

STAKING: list[Row | Later] = [
    made("staking/register-validator", "val", {"validator": "v1"} | STAKE, "validator-exists"),
    made("staking/register-validator", "wim", {"validator": "v2"} | STAKE, "validator-exists"),
    Row("staking/edit-validator", "val", {"validator": "v1", "commission": 0, "description": "the first"},
        "validator-not-found", "validator"),
    Row("staking/delegate", "ana", {"validator": "v1", "amount": "10000"}),
    Row("staking/delegate", "ana", {"validator": "v1", "amount": "10000", "lock_days": 30}, name="lot"),
    Row("staking/begin-unbonding", "ana", {"validator": "v1", "amount": "1000"}, "position-not-found",
        name="first"),
    Row("staking/cancel-unbonding", "ana", lambda s: {"validator": "v1", "entry": s["first"]},
        "entry-not-found", "entry"),
    Row("staking/begin-unbonding", "ana", {"validator": "v1", "amount": "1000"}, "position-not-found",
        name="entry"),
    Row("staking/redelegate", "ana", {"source": "v1", "target": "v2", "amount": "1000"},
        "position-not-found"),
    Row("staking/set-auto-compound", "ana", {"validator": "v1", "enabled": True}, "position-not-found"),
    operators("staking/allocate-rewards", {"reference": "a1", "amount": "100000"}),
    Row("staking/claim-rewards", "ana", {"validator": "v1"}, "position-not-found"),
    Row("staking/claim-rewards", "robot", {"validator": "v1", "delegator": "ana"}, "position-not-found",
        "delegator", operator=OK),
    Row("staking/withdraw-commission", "val", {"validator": "v1"}, "validator-not-found", "validator"),
    operators("staking/slash", lambda s: {"validator": "v1", "kind": "downtime", "infraction_at": s.at(),
                                          "evidence_id": "x1"}),
    Row("staking/appeal-slash", "ana", {"evidence_id": "x1", "grounds": "it was up"}, "slash-not-found",
        "evidence_id"),
    operators("staking/decide-appeal", {"evidence_id": "x1", "won": False, "reason": "it was not"}),
]  # fmt: skip

DEVICES: list[Row | Later] = [
    made("devices/register-device", "ben", {"device": "d1"} | LAPTOP, "device-exists"),
    made("devices/register-device", "dee", {"device": "d9"} | LAPTOP, "device-exists"),
    Row("devices/update-capabilities", "ben", {"device": "d1", "capabilities": SIZE}, "device-not-found",
        "device"),
    Row("devices/relocate-device", "dee", {"device": "d9", "region": "north", "asn": 0}, "device-not-found",
        "device"),
    Row("devices/heartbeat", "ben", {"device": "d1", "seq": 1}, "device-not-found", "device"),
    Row("devices/mark-offline", "ben", {"device": "d1"}, "device-not-found", "device",
        operator="device-is-still-heard", worker="device-is-still-heard"),
    Row("devices/suspend-device", "dee", {"device": "d9", "reason": "mine"}, "device-not-found", "device",
        operator=OK),
    Row("devices/resume-device", "dee", {"device": "d9"}, "device-not-found", "device",
        operator="suspension-is-not-yours"),
    service("devices/record-reputation", {"device": "d9", "service": "compute", "kind": "success",
                                          "evidence_id": "e1"}),
    Row("devices/retire-device", "dee", {"device": "d9"}, "device-not-found", "device", operator=OK),
]  # fmt: skip

HARVEST: list[Row | Later] = [
    Row("harvest/enrol-harvester", "ben", {"device": "d1", "capabilities": SIZE}, "device-not-found",
        "device"),
    Row("harvest/update-harvest-policy", "ben", {"device": "d1", "policy": {}}, "device-not-found",
        "device"),
    Row("harvest/report-device-state", "ben", {"device": "d1", "seq": 1} | WELL, "device-not-found",
        "device"),
    made("harvest/start-harvest-session", "ben", {"session": "s1", "device": "d1"}, "device-not-found",
         "device-not-found", thing="device"),
    Later(minutes=5),
    Row("harvest/record-contribution", "ben", FIRST | {"cpu_ms": 60_000}, "harvest-session-not-found",
        "session"),
    Row("harvest/pause-harvest-session", "ben", {"session": "s1"}, "harvest-session-not-found", "session"),
    Row("harvest/resume-harvest-session", "ben", {"session": "s1"}, "harvest-session-not-found",
        "session"),
    service("harvest/validate-contribution", FIRST | {"attestations": [ATTESTED]}),
    Row("harvest/dispute-contribution", "ben", FIRST | {"reason": "slow"}, "contribution-not-found",
        "session", operator=OK, worker=OK),
    operators("harvest/decide-contribution", FIRST | {"verdict": "valid", "reason": "it is"}),
    service("harvest/approve-reward", FIRST),
    Row("harvest/stop-harvest-session", "ben", {"session": "s1"}, "harvest-session-not-found", "session",
        operator=OK, worker=OK),
]  # fmt: skip

MARKET: list[Row | Later] = [
    operators("marketplace/set-lane-bounds", {"service_type": "compute", "region": "north",
                                              "tier": "bronze", "floor": "1", "ceiling": "100000"}),
    made("marketplace/request-service", "ana", lambda s: wanted(s.town, "r1", any_price=True),
         "request-exists"),
    made("marketplace/register-offering", "ben", {"offering": "o1", "device": "d1"} | OFFER,
         "offering-exists", "device-not-found", thing="device"),
    made("marketplace/register-offering", "ben", {"offering": "o2", "device": "d1"} | OFFER,
         "offering-exists", "device-not-found"),
    Row("marketplace/pause-offering", "ben", {"offering": "o2"}, "offering-not-found", "offering"),
    Row("marketplace/resume-offering", "ben", {"offering": "o2"}, "offering-not-found", "offering"),
    Row("marketplace/withdraw-offering", "ben", {"offering": "o2"}, "offering-not-found", "offering"),
    Later(minutes=70),
    Row("marketplace/reprice-offering", "ben", {"offering": "o1", "base_price": "1050"},
        "offering-not-found", "offering"),
    Row("marketplace/match-request", "ana", {"request": "r1", "contract": "k5"}, "request-not-found",
        "request"),
    made("marketplace/request-service", "ana",
         lambda s: wanted(s.town, "r2", mode="bids", price_cap="5000"), "request-exists"),
    Row("marketplace/place-bid", "ben", {"request": "r2", "offering": "o1", "ask": "900"},
        "offering-not-found", "offering"),
    Row("marketplace/withdraw-bid", "ben", {"request": "r2"}, "bid-not-found"),
    Row("marketplace/place-bid", "ben", {"request": "r2", "offering": "o1", "ask": "900"},
        "offering-not-found"),
    made("marketplace/request-service", "ana",
         lambda s: wanted(s.town, "r3", region="nowhere", any_price=True), "request-exists"),
    Row("marketplace/withdraw-request", "ana", {"request": "r3"}, "request-not-found", "request"),
    made("marketplace/request-service", "ana",
         lambda s: wanted(s.town, "r4", region="nowhere", any_price=True), "request-exists"),
    made("marketplace/allocate-burst", "ana", burst("b1"), "burst-exists"),
    made("marketplace/open-contract", "ana", booked("k1"), "contract-exists"),
    made("marketplace/open-contract", "ana", booked("k2"), "contract-exists"),
]  # fmt: skip

CONTRACTS: list[Row | Later] = [
    Row("marketplace/start-service", "ben", CONTRACT, "contract-not-found", "contract"),
    Row("marketplace/pause-contract", "ana", CONTRACT, "contract-not-found", "contract"),
    Row("marketplace/resume-contract", "ana", CONTRACT, "contract-not-found", "contract"),
    Row("marketplace/top-up-escrow", "ana", CONTRACT | {"amount": "1"}, "contract-not-found", "contract"),
    Row("marketplace/renew-contract", "ana", CONTRACT | {"renewal": "k6", "minutes": 60} | ANY,
        "contract-not-found", "contract"),
    Later(minutes=15),
    Row("marketplace/meter-usage", "ben", CONTRACT | {"seq": 1, "unit_ms": "0"}, "contract-not-found",
        "contract"),
    service("marketplace/report-service-level", CONTRACT | {"window": 0, "p95_ms": 1, "uptime_bp": 10_000,
                                                            "errors_bp": 0}),
    Later(minutes=60),
    service("marketplace/settle-period", CONTRACT | {"period": 0}),
    service("ledger/expire-hold", {"hold": "h2"}),
    made("settlement/open-dispute", "ana", {"dispute": "q1", "contract": "k2", "reason": "it is late"},
         "dispute-exists", "contract-not-found", thing="contract", operator=OK),
    Row("settlement/submit-evidence", "ben", {"dispute": "q1", "digest": "ff"}, "dispute-not-found",
        "dispute"),
    operators("settlement/resolve-dispute", {"dispute": "q1", "to_payer": "1890", "to_payee": "0",
                                             "reason": "it was"}),
    Later(minutes=60),
    service("marketplace/close-bidding", {"request": "r2"}),
    Row("marketplace/accept-bid", "ana", {"request": "r2", "contract": "k7"}, "request-not-found",
        "request"),
    service("marketplace/expire-request", {"request": "r4"}),
    Row("marketplace/terminate-contract", "ana", {"contract": "k7", "reason": "no more need"},
        "contract-not-found", "contract"),
    Later(days=1),
    service("marketplace/expire-contract", {"contract": "k5"}),
    service("marketplace/settle-period", CONTRACT | {"period": 1}),
    Row("marketplace/review-provider", "ana", CONTRACT | {"rating": 5, "comment": "fine"},
        "contract-not-found", "contract"),
]  # fmt: skip

SETTLEMENT: list[Row | Later] = [
    operators("settlement/open-window", {"window": "n1"}),
    Row("settlement/record-obligation", "ben", owed("ben", "ana", source="y1"),
        "obligation-needs-its-debtor", operator=OK, worker=OK),
    Row("settlement/renew-obligation", "ben", {"obligation": "ben:y1", "window": "n1"},
        "obligation-not-found", "obligation", operator="obligation-has-not-lapsed",
        worker="obligation-has-not-lapsed", accepted="obligation-has-not-lapsed"),
    Row("settlement/close-window", "admin", {"window": "n1", "next": "n2"}, worker="window-is-not-due"),
    service("settlement/reserve-positions", {"window": "n1"}),
    service("settlement/finalise-settlement", {"window": "n1"}),
    operators("settlement/abort-window", {"window": "n2", "reason": "a mistake"}),
    operators("settlement/register-peer", {"zone": "far", "key": FAR_KEY}),
    operators("settlement/rotate-peer-key", {"zone": "far", "key": FAR_KEY}),
    operators("settlement/suspend-peer", {"zone": "far", "reason": "looked into"}),
    operators("settlement/resume-peer", {"zone": "far", "reason": "all is well"}),
    Row("settlement/initiate-transfer", "ana", _sent, "wallet-not-found", "from"),
    Row("settlement/initiate-transfer", "ana", _sent, "wallet-not-found"),
    service("settlement/record-acknowledgement", _acknowledged),
    service("settlement/timeout-transfer", _timed_out),
    service("settlement/receive-transfer", lambda s: delivered(packet(s.town, 1))),
    service("settlement/refuse-transfer", _late),
]  # fmt: skip

AFTERWARDS: list[Row | Later] = [
    Later(days=3),
    operators("staking/jail", {"validator": "v2", "reason": "looked into"}),
    Row("staking/unjail", "val", {"validator": "v1"}, "validator-not-found", "validator"),
    Later(days=30),
    Row("staking/complete-unbonding", "ana", lambda s: {"validator": "v1", "entry": s["entry"]},
        "entry-not-found", "entry", operator=OK, worker=OK),
    Row("staking/expire-lock", "ana", lambda s: {"validator": "v1", "delegator": "ana", "lot": s["lot"]},
        "position-not-found", "delegator", operator=OK, worker=OK),
    operators("platform/advance-clock", {}),
    Row("principals/set-profile", "ana", {"display_name": "Ana", "contact": "ana@example.org"}),
    Row("principals/register-signing-key", "ana", {"key": SIGNER.key, "proof": SIGNER.registration().proof},
        "key-is-not-proven"),
    Row("principals/require-signatures", "ana", {}, "signature-is-required", accepted="signature-is-required"),
    Row("principals/revoke-signing-key", "admin", {"key": SIGNER.key, "principal": "ana"},
        "signing-key-not-found", "principal", operator=OK),
    Row("principals/erase-subject", "dee", {"principal": "dee"}, "principal-not-found", "principal",
        operator=OK),
]  # fmt: skip

SIGNERS: list[Row | Later] = [
    Row("principals/register-signing-key", "wim", _proven, "key-is-not-proven"),
    Row("principals/revoke-signing-key", "wim", {"key": WIMS_KEY, "principal": "wim"},
        "signing-key-not-found", "principal", operator=OK, accepted="signature-is-required"),
    Row("principals/require-signatures", "wim", {}, "signature-is-required",
        accepted="signature-is-required"),
]  # fmt: skip

APPROVALS: list[Row | Later] = [
    operators("approvals/set-limit", {"act": "mint", "limit": "5"}),
    operators("ledger/mint-tokens", {"to": "wallet:ana", "amount": "10"} | MINT, name="asked"),
    Row("approvals/approve", "olaf", lambda s: {"request": s["asked"]}, operator="request-is-your-own"),
    operators("ledger/mint-tokens", {"to": "wallet:ana", "amount": "11"} | MINT, name="asked again"),
    Row("approvals/reject", "olaf", lambda s: {"request": s["asked again"], "reason": "too much"}),
]  # fmt: skip

ABOUT = {"projection": "analytics", "reason": "to be sure"}

OPERATIONS: list[Row | Later] = [
    operators("operations/pause-projection", ABOUT),
    operators("operations/resume-projection", {"projection": "analytics"}),
    operators("operations/rebuild-projection", ABOUT, name="rebuild"),
    operators("operations/cancel-rebuild", lambda s: ABOUT | {"act": s["rebuild"]}),
    operators("operations/retry-quarantined", {"projection": "analytics", "position": 1}),
    operators("operations/repair-quarantined", ABOUT),
    operators("operations/discard-quarantined", ABOUT | {"position": 1}),
    operators("operations/reinstate-discarded", ABOUT | {"position": 1}),
]

STORY = [
    *LEDGER,
    *STAKING,
    *DEVICES,
    *HARVEST,
    *MARKET,
    *CONTRACTS,
    *SETTLEMENT,
    *SIGNERS,
    *APPROVALS,
    *OPERATIONS,
    *AFTERWARDS,
]
