"""What each query shows to whom, over the world that the story made; and what lies beside commands and queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

NOTHING = "nothing"
"""A stranger who asks for the same gets no items: what there are is not his."""
LESS = "less"
"""A stranger who asks for the same gets the items that are nobody's own."""
NOT_FOUND = "not-found"
"""A stranger who asks for the same is told that there is no such thing."""
SAME = "same"
"""It is nobody's own: everybody who may ask gets the same."""


@dataclass(frozen=True)
class Sight:
    owner: str
    """Who sees something."""
    stranger: str
    asked: dict[str, Any] = field(default_factory=dict)
    empty: bool = False
    """In the story's world there is nothing of it."""
    ticking: tuple[str, ...] = ()
    """Members that tell of the clock on the wall: they are others with each look."""


def public(empty: bool = False, **asked: Any) -> Sight:
    return Sight("ana", SAME, asked, empty)


def nobody(empty: bool = False, ticking: tuple[str, ...] = (), **asked: Any) -> Sight:
    """For operators and auditors (and workers, where the route says so); its roles keep everybody else out."""
    return Sight("olga", SAME, asked, empty, ticking)


def own(owner: str, /, empty: bool = False, **asked: Any) -> Sight:
    """A thing that is somebody's, or what is his who is named by a parameter."""
    return Sight(owner, NOT_FOUND, asked, empty)


def part(owner: str, /, **asked: Any) -> Sight:
    """Rows of a thing that is somebody's."""
    return Sight(owner, NOTHING, asked)


ANA = {"account": "wallet:ana"}
NORTH = {"region": "north"}
QUERY_ROWS: dict[str, Sight] = {
    "analytics/market": public(empty=True),
    "analytics/utilisation": public(),
    "analytics/levels": public(measure="devices"),
    "analytics/harvest": public(),
    "analytics/staking": public(),
    "analytics/economy": nobody(),
    "analytics/settlement": nobody(),
    "analytics/ageing": nobody(empty=True),
    "analytics/leaderboard": public(empty=True, board="rewards"),
    "analytics/wealth": nobody(),
    "analytics/stake-concentration": public(),
    "analytics/concentration": public(empty=True, board="rewards"),
    "analytics/rejections": nobody(empty=True),
    "analytics/overview": public(),
    "approvals/limits": nobody(),
    "approvals/requests": nobody(empty=True),
    "devices/devices": public(),
    "devices/suitability": public(empty=True, service="compute"),
    "devices/card": own("ben", device="d1"),
    "devices/online-history": part("ben", device="d1"),
    "devices/reputation": public(device="d9"),
    "devices/reputation-history": part("dee", device="d9"),
    "devices/coverage": public(),
    "harvest/harvesters": own("ben", owner="ben"),
    "harvest/eligible-harvesters": nobody(empty=True),
    "harvest/readiness": own("ben", device="d1"),
    "harvest/sessions": own("ben", owner="ben"),
    "harvest/live-sessions": own("ben", empty=True, owner="ben"),
    "harvest/stop-reasons": own("ben", owner="ben"),
    "harvest/contributions": own("ben", owner="ben"),
    "harvest/contribution-results": part("ben", session="s1", seq=1),
    "harvest/pending-contributions": nobody(empty=True),
    "harvest/task-results": nobody(empty=True, task="t1"),
    "harvest/rewards": own("ben", owner="ben"),
    "harvest/estimate": own("ben", device="d1", cpu_ms=1),
    "harvest/regions": public(),
    "ledger/balance": own("ana", **ANA),
    "ledger/statement": own("ana", **ANA),
    "ledger/can-pay": own("ana", amount="1", **ANA),
    "ledger/trial-balance": nobody(),
    "ledger/accounts": nobody(),
    "ledger/supply": public(),
    "ledger/assets": public(),
    "ledger/holders": nobody(),
    "ledger/transaction": own("ana", transaction="@paid"),
    "ledger/transactions-by-reference": part("ana", reference="m"),
    "ledger/holds": part("ana", wallet="wallet:ana"),
    "ledger/hold": own("ana", hold="h1"),
    "ledger/reward-history": own("ana", **ANA),
    "ledger/distributions": nobody(),
    "ledger/economics": nobody(),
    "ledger/concentration": nobody(),
    "marketplace/contract": own("ana", contract="k1"),
    "marketplace/contracts": own("ana", party="ana"),
    "marketplace/periods": part("ana", contract="k1"),
    "marketplace/service-levels": own("ana", contract="k1", party="ana"),
    "marketplace/windows": part("ana", contract="k1"),
    "marketplace/scorecards": public(),
    "marketplace/reviews": public(),
    "marketplace/revenue": own("ben", provider="ben"),
    "marketplace/search": public(),
    "marketplace/facets": public(),
    "marketplace/quote": public(offering="o1"),
    "marketplace/lanes": public(),
    "marketplace/price-history": public(service_type="compute", region="north", tier="bronze"),
    "marketplace/statistics": public(),
    "marketplace/utilisation": own("ben", provider="ben"),
    "marketplace/commitments": part("ben", device="d1"),
    "marketplace/open-requests": public(empty=True),
    "marketplace/requests": own("ana", customer="ana"),
    "marketplace/unmatched-demand": public(),
    "marketplace/bids": public(request="r2"),  # Sealed while bidding lasts, opened to all with its end.
    "marketplace/bursts": own("ana", customer="ana"),
    "principals/profile": own("ana", subject="ana"),
    "principals/erasures": nobody(),
    "principals/signing-keys": own("ana", subject="ana"),
    "principals/signer": own("ana", subject="ana"),
    "settlement/disputes": own("ana", party="ana"),
    "settlement/dispute": own("ana", dispute="q1"),
    "settlement/dispute-evidence": part("ana", dispute="q1"),
    "operations/attention": nobody(ticking=("seconds",)),
    "operations/projections": nobody(),
    "operations/quarantine": nobody(empty=True),
    "operations/timers": nobody(empty=True),
    "operations/checkpoints": nobody(ticking=("age_s",)),
    "operations/acts": nobody(),
    "operations/discarded": nobody(),
    "operations/keys": nobody(),
    "operations/pace": nobody(),
    "operations/throughput": nobody(),
    "operations/queues": nobody(),
    "operations/workers": nobody(empty=True),
    "operations/settings": nobody(),
    "operations/parameters": public(),
    "settlement/peers": public(),
    "settlement/transfers": own("ana", owner="ana"),
    "settlement/transfer-trace": own("ana", peer="far", sequence=1),
    "settlement/stuck-transfers": own("ana", empty=True, owner="ana"),
    "settlement/bridge-liability": public(),
    "settlement/clearing": public(),
    "settlement/windows": public(),
    "settlement/net-positions": own("ana", window="n1", party="ana"),
    "settlement/departures": own("ana", empty=True, window="n1", party="ana"),
    "settlement/obligations": own("ben", party="ben"),
    "settlement/obligation": own("ben", obligation="ben:y1"),
    "settlement/obligation-trace": own("ben", obligation="ben:y1"),
    "settlement/ageing": own("ben", empty=True, party="ben"),
    "staking/validators": public(),
    "staking/positions": own("ana", delegator="ana"),
    "staking/delegators": nobody(validator="v1"),
    "staking/unbonding-calendar": own("ana", empty=True, delegator="ana"),
    "staking/redelegations": own("ana", delegator="ana"),
    "staking/slash-log": public(),
    "staking/slash-victims": Sight("ana", LESS, {"evidence_id": "x1"}),
    "staking/jail-log": public(),
    "staking/apr-history": public(validator="v1"),
    "staking/allocations": public(),
    "staking/leaderboard": public(),
    "staking/validator-leaderboard": public(),
}

BESIDE: dict[str, tuple[str, Sight]] = {
    "/history/access": ("/history/access", nobody()),
    "/history/events": ("/history/events", nobody()),
    "/history/events/{position}": ("/history/events/1", nobody()),
    "/history/streams/{stream}": ("/history/streams/wallet:ana", nobody()),
    "/history/streams/{stream}/state": ("/history/streams/wallet:ana/state", nobody()),
    "/history/commands/{id}": ("/history/commands/c1", nobody()),
    "/history/trial-balance": ("/history/trial-balance", nobody()),
    "/history/rows/{table}": ("/history/rows/ledger_balances?key=wallet:ana&key=FOG", nobody()),
    "/history/correlations/{id}": ("/history/correlations/c1", nobody()),
    "/history/checkpoint": ("/history/checkpoint", nobody()),
    "/history/tile/{name}": ("/history/tile/0/000", nobody()),
    "/history/proof/{position}": ("/history/proof/1", nobody()),
    "/history/consistency": ("/history/consistency?from=1", nobody()),
    "/history/fates/checkpoint": ("/history/fates/checkpoint", nobody()),
    "/history/fates/tile/{name}": ("/history/fates/tile/0/000.p/1", nobody()),
    "/history/fates/proof/{number}": ("/history/fates/proof/1", nobody()),
    "/history/fates/consistency": ("/history/fates/consistency?from=1", nobody()),
    "/history/keys": ("/history/keys", public()),
    "/history/cosignatures": ("/history/cosignatures", nobody()),
    "/history/receipts/{id}": ("/history/receipts/@paid", own("ana")),
}
"""Beside commands and queries: the template of a path, a path that it stands for, and who sees something there."""

PUBLIC = {"/problems/{name}", "/healthz", "/readyz", "/metrics"}
"""They need no key: they say nothing of a zone that is somebody's."""

BATCH = "/commands"
"""Many commands at once: each line is judged like a command of its own."""
