"""What people ask of transfers between zones.

Each zone answers for itself: what its peer did is known by what the peer proved. Times of the peer's clock are
named so (`peer_at`, `timeout`); all others are this zone's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain._kernel import AssetCode, Count, Id
from projections._tables import Money, Total
from queries._query import Context

settlement = Context("settlement")


@dataclass(frozen=True, slots=True)
class OfPeer:
    peer: Id = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another zone, its Ed25519 public key, and the traffic with it in packets. Out: sent = delivered + refunded +
    in_flight. In: `received` were delivered here, `failed` could not be, `refused` came too late. `vouchers` counts
    its assets that came here, `peer_time` is the latest time of its clock that is known here."""

    peer: str
    key: str
    status: str
    reason: str
    registered_at: datetime
    key_since: datetime
    sent: int
    delivered: int
    refunded: int
    in_flight: int
    received: int
    failed: int
    refused: int
    vouchers: int
    peer_time: datetime | None
    version: int
    incomplete: bool


settlement.get(
    "peers",
    Peer,
    """
    SELECT peer, key, status, reason, registered_at, key_since, sent, delivered, refunded, in_flight, received,
           failed, refused, vouchers, peer_time, p.position AS version, incomplete
    FROM read.settlement_peers p JOIN live USING (zone, generation)
    WHERE %(peer)s = '' OR peer = %(peer)s
    """,
    key=("peer",),
    parameters=OfPeer,
    projection="transfers",
)


@dataclass(frozen=True, slots=True)
class OfTransfers:
    owner: Id = ""
    peer: Id = ""
    direction: Id = ""
    """out or in; both where it is left out."""
    status: Id = ""
    asset: AssetCode = ""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer to or from another zone, newest first; `line` is the position where it began here. Out, `status` is
    in-flight, delivered or refunded; in, it is delivered, failed (could not be delivered) or refused (too late).
    `asset` is as this zone names it, `reason` the rule that stood against it. Participants see what they sent and
    what was sent to them, operators and auditors that of the whole zone."""

    line: int
    direction: str
    peer: str
    sequence: int
    asset: str
    amount: Money
    sender: str
    recipient: str
    status: str
    reason: str
    memo: str
    timeout: datetime
    begun_at: datetime
    settled_at: datetime | None
    peer_at: datetime | None
    version: int
    incomplete: bool


settlement.get(
    "transfers",
    Transfer,
    """
    SELECT line, direction, peer, sequence, asset, amount, sender, recipient, status, reason, memo, timeout,
           begun_at, settled_at, peer_at, t.position AS version, incomplete
    FROM read.settlement_transfers t JOIN live USING (zone, generation)
    WHERE (%(sees_all)s OR owner = %(principal)s) AND (%(owner)s = '' OR owner = %(owner)s)
      AND (%(peer)s = '' OR peer = %(peer)s) AND (%(direction)s = '' OR direction = %(direction)s)
      AND (%(status)s = '' OR status = %(status)s) AND (%(asset)s = '' OR asset = %(asset)s)
    """,
    key=("line",),
    descending=True,
    parameters=OfTransfers,
    own="owner",
    projection="transfers",
)


@dataclass(frozen=True, slots=True)
class OfTrace:
    peer: Id
    sequence: int
    direction: Id = "out"


@dataclass(frozen=True, slots=True)
class Trace:
    """One transfer and what happened to it here, step by step. Each step names the position of its event, and the
    command: what it moved is the ledger's transaction of that name. The other half of the trace is the same
    question asked of the peer, with the other direction."""

    direction: str
    peer: str
    sequence: int
    asset: str
    amount: Money
    sender: str
    recipient: str
    status: str
    reason: str
    memo: str
    timeout: datetime
    steps: list[dict[str, Any]]
    version: int
    incomplete: bool


settlement.get(
    "transfer-trace",
    Trace,
    """
    SELECT direction, peer, sequence, asset, amount, sender, recipient, status, reason, memo, timeout, s.steps,
           t.position AS version, t.incomplete OR s.incomplete AS incomplete
    FROM read.settlement_transfers t JOIN live USING (zone, generation)
    CROSS JOIN LATERAL (
        SELECT coalesce(bool_or(x.incomplete), false) AS incomplete,
               coalesce(jsonb_agg(jsonb_build_object(
                   'position', line, 'step', step, 'reason', x.reason, 'transaction', transaction,
                   'at', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                   'peer_at', to_char(x.peer_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
               ) ORDER BY line), '[]') AS steps
        FROM read.settlement_transfer_steps x
        WHERE (x.zone, x.generation, x.direction, x.peer, x.sequence)
            = (t.zone, t.generation, t.direction, t.peer, t.sequence)
    ) s
    WHERE direction = %(direction)s AND peer = %(peer)s AND sequence = %(sequence)s
      AND (%(sees_all)s OR owner = %(principal)s)
    """,
    key=("sequence",),
    parameters=OfTrace,
    single=True,
    projection="transfers",
)


@dataclass(frozen=True, slots=True)
class OfStuck:
    owner: Id = ""
    peer: Id = ""
    older_than_s: Count = 600


@dataclass(frozen=True, slots=True)
class Stuck:
    """A transfer that is in flight for longer than `older_than_s`, or whose timeout has passed by this zone's clock;
    oldest first. `attempts` are those to deliver it that the peer answered, `problem` its last refusal. Participants
    see their own."""

    line: int
    peer: str
    sequence: int
    asset: str
    amount: Money
    sender: str
    recipient: str
    begun_at: datetime
    age_s: int
    timeout: datetime
    timed_out: bool
    attempts: int
    problem: str
    version: int
    incomplete: bool


settlement.get(
    "stuck-transfers",
    Stuck,
    """
    SELECT line, peer, sequence, asset, amount, sender, recipient, begun_at,
           floor(extract(epoch FROM now.at - begun_at))::bigint AS age_s, timeout, timeout <= now.at AS timed_out,
           coalesce(f.attempts, 0) AS attempts, coalesce(f.problem, '') AS problem, t.position AS version, incomplete
    FROM read.settlement_transfers t JOIN live USING (zone, generation)
    JOIN heads h USING (zone)
    CROSS JOIN LATERAL (SELECT CASE h.clock WHEN 'manual' THEN h.recorded_at ELSE clock_timestamp() END AS at) now
    LEFT JOIN timer_fates f ON f.zone = t.zone AND f.timer = 'transfer:' || peer || ':' || sequence
    WHERE status = 'in-flight' AND (%(sees_all)s OR owner = %(principal)s)
      AND (%(owner)s = '' OR owner = %(owner)s) AND (%(peer)s = '' OR peer = %(peer)s)
      AND (timeout <= now.at OR begun_at <= now.at - make_interval(secs => %(older_than_s)s))
    """,
    key=("line",),
    parameters=OfStuck,
    own="owner",
    timeless=False,
    projection="transfers",
)


@dataclass(frozen=True, slots=True)
class OfBridge:
    peer: Id = ""
    asset: AssetCode = ""


@dataclass(frozen=True, slots=True)
class Bridge:
    """What stands between this zone and a peer in one asset, an asset of this zone or a voucher of the peer's.

    Of an asset of this zone, `escrowed` is what `bridge:<peer>` holds: what the peer's vouchers claim, with what is
    in flight. Of a voucher, `vouchers` is its supply here: a claim on what the peer has in escrow. `in_flight` went
    out and has no recorded outcome; `sent`, `refunded` and `received` are sums over time.
    """

    peer: str
    asset: str
    escrowed: Money
    vouchers: Money
    in_flight: Money
    transfers_in_flight: int
    sent: Total
    refunded: Total
    received: Total
    version: int
    incomplete: bool


settlement.get(
    "bridge-liability",
    Bridge,
    """
    SELECT peer, asset, escrowed, vouchers, in_flight, transfers_in_flight, sent, refunded, received,
           b.position AS version, incomplete
    FROM read.settlement_bridges b JOIN live USING (zone, generation)
    WHERE (%(peer)s = '' OR peer = %(peer)s) AND (%(asset)s = '' OR asset = %(asset)s)
    """,
    key=("peer", "asset"),
    parameters=OfBridge,
    projection="transfers",
)
