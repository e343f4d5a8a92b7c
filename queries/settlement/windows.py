"""What people ask of netting: the windows, which everybody sees, and their own positions and obligations.

Amounts are smallest units of the asset. A net position is what a party is owed less what he owes in the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain._kernel import Id, Path
from projections._tables import Money, Total
from queries._query import Context

settlement = Context("settlement")


@dataclass(frozen=True, slots=True)
class Clearing:
    """Which windows are at work: the open one, the one that is being settled, and those in which obligations wait
    for the next one to open."""

    name: str
    open: str
    settling: str
    carried: list[str]
    version: int
    incomplete: bool


settlement.get(
    "clearing",
    Clearing,
    """
    SELECT name, open, settling, carried, c.position AS version, incomplete
    FROM read.settlement_clearing c JOIN live USING (zone, generation)
    """,
    key=("name",),
    projection="windows",
)


@dataclass(frozen=True, slots=True)
class OfWindows:
    window: Id = ""
    status: Id = ""


@dataclass(frozen=True, slots=True)
class Window:
    """A netting window, newest first. `status` is open, closed, settling, settled or aborted. `obligations` are those
    in it (at the end: those that it settled), `taken_over` those that came from other windows, `left_it` those that
    left because somebody could not pay or it was aborted; they went to `moved_to`, if they do not wait, and `lapsed`
    ones stay behind. `totals` tell per asset the `gross` sum of its obligations and the `net` sum that was paid, or is
    to be; `saved` = gross - net is what netting spared (0 until the close, and where nothing was paid)."""

    opened_at: datetime
    window: str
    status: str
    series: str
    number: int
    every_s: int
    closes_at: datetime | None
    closed_at: datetime | None
    ended_at: datetime | None
    following: str
    obligations: int
    taken_over: int
    left_it: int
    lapsed: int
    moved_to: str
    parties: int
    totals: list[dict[str, Any]]
    reason: str
    transaction: str
    version: int
    incomplete: bool


settlement.get(
    "windows",
    Window,
    """
    SELECT opened_at, w.window_id AS window, status, series, number, every_s, closes_at, closed_at, ended_at, following,
           w.obligations, taken_over, left_it, lapsed, moved_to, parties, totals, reason, transaction,
           greatest(w.position, t.position) AS version, w.incomplete OR t.incomplete AS incomplete
    FROM read.settlement_windows w JOIN live USING (zone, generation)
    CROSS JOIN LATERAL (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
                   'asset', asset, 'obligations', x.obligations, 'gross', gross::text,
                   'net', CASE w.status WHEN 'aborted' THEN 0 ELSE net END::text,
                   'saved', CASE WHEN w.status IN ('open', 'aborted') THEN 0 ELSE gross - net END::text,
                   'left_it', x.left_it::text
               ) ORDER BY asset), '[]') AS totals,
               coalesce(max(x.position), 0) AS position, coalesce(bool_or(x.incomplete), false) AS incomplete
        FROM read.settlement_window_totals x
        WHERE (x.zone, x.generation, x.window_id) = (w.zone, w.generation, w.window_id)
    ) t
    CROSS JOIN LATERAL (
        SELECT count(DISTINCT party) AS parties FROM read.settlement_positions p
        WHERE (p.zone, p.generation, p.window_id) = (w.zone, w.generation, w.window_id) AND p.obligations > 0
    ) p
    WHERE (%(window)s = '' OR w.window_id = %(window)s) AND (%(status)s = '' OR status = %(status)s)
    """,
    key=("opened_at", "window"),
    descending=True,
    parameters=OfWindows,
    projection="windows",
)


@dataclass(frozen=True, slots=True)
class OfPositions:
    window: Id = ""
    party: Id = ""


@dataclass(frozen=True, slots=True)
class Position:
    """What a party owes and is owed in a window, and `net` = owed - owes. From the close on, `pays` and `receives`
    are what the window nets that to, and 0 where it was aborted. `status` is the window's, or `left` where the party
    could not settle and left.
    Participants see their own, operators and auditors everybody's."""

    window: str
    party: str
    asset: str
    status: str
    obligations: int
    owes: Total
    owed: Total
    net: Total
    pays: Total
    receives: Total
    version: int
    incomplete: bool


settlement.get(
    "net-positions",
    Position,
    """
    SELECT p.window_id AS window, p.party, p.asset, CASE WHEN d.party IS NULL THEN w.status ELSE 'left' END AS status,
           p.obligations, owes, owed, owed - owes AS net,
           CASE w.status WHEN 'aborted' THEN 0 ELSE pays END AS pays,
           CASE w.status WHEN 'aborted' THEN 0 ELSE receives END AS receives,
           greatest(p.position, w.position, d.position) AS version,
           p.incomplete OR w.incomplete OR coalesce(d.incomplete, false) AS incomplete
    FROM read.settlement_positions p JOIN live USING (zone, generation)
    JOIN read.settlement_windows w USING (zone, generation, window_id)
    LEFT JOIN read.settlement_departures d
        ON (d.zone, d.generation, d.window_id, d.party) = (p.zone, p.generation, p.window_id, p.party)
    WHERE (%(sees_all)s OR p.party = %(principal)s) AND (%(party)s = '' OR p.party = %(party)s)
      AND (%(window)s = '' OR p.window_id = %(window)s)
    """,
    key=("window", "party", "asset"),
    parameters=OfPositions,
    own="party",
    projection="windows",
)


@dataclass(frozen=True, slots=True)
class Departure:
    """A party that left a window with all its obligations, newest first: it could not pay what it `needed` (there was
    only as much `available`), or its wallet could not receive another asset. Participants see their own."""

    at: datetime
    window: str
    party: str
    reason: str
    asset: str
    needed: Total
    available: Total
    version: int
    incomplete: bool


settlement.get(
    "departures",
    Departure,
    """
    SELECT at, window_id AS window, party, reason, asset, needed, available, d.position AS version, incomplete
    FROM read.settlement_departures d JOIN live USING (zone, generation)
    WHERE (%(sees_all)s OR party = %(principal)s) AND (%(party)s = '' OR party = %(party)s)
      AND (%(window)s = '' OR window_id = %(window)s)
    """,
    key=("at", "window", "party"),
    descending=True,
    parameters=OfPositions,
    own="party",
    projection="windows",
)


@dataclass(frozen=True, slots=True)
class OfObligations:
    party: Id = ""
    """Its debtor or its creditor."""
    status: Id = ""
    window: Id = ""


@dataclass(frozen=True, slots=True)
class Obligation:
    """An obligation, newest first. `status` is recorded (it is in `window`), waiting (it left that one, and none was
    open), lapsed (it left too many, and is still owed) or settled. `carries` are the windows that it left because
    somebody could not pay. Participants see those they owe or are owed."""

    recorded_at: datetime
    obligation: str
    debtor: str
    creditor: str
    asset: str
    amount: Money
    memo: str
    status: str
    window: str
    carries: int
    recorded_by: str
    settled_at: datetime | None
    transaction: str
    version: int
    incomplete: bool


_OBLIGATIONS = """
SELECT recorded_at, obligation, debtor, creditor, asset, amount, memo, status, window_id AS window, carries,
       recorded_by, settled_at, transaction, o.position AS version, incomplete
FROM read.settlement_obligations o JOIN live USING (zone, generation)
WHERE (%(sees_all)s OR %(principal)s IN (debtor, creditor))
"""

settlement.get(
    "obligations",
    Obligation,
    _OBLIGATIONS
    + """
      AND (%(party)s = '' OR debtor = %(party)s OR creditor = %(party)s)
      AND (%(status)s = '' OR status = %(status)s) AND (%(window)s = '' OR window_id = %(window)s)
    """,
    key=("recorded_at", "obligation"),
    descending=True,
    parameters=OfObligations,
    own="party",
    projection="windows",
)


@dataclass(frozen=True, slots=True)
class OfObligation:
    obligation: Path


settlement.get(
    "obligation",
    Obligation,
    _OBLIGATIONS + "AND obligation = %(obligation)s",
    key=("recorded_at", "obligation"),
    parameters=OfObligation,
    single=True,
    projection="windows",
)


@dataclass(frozen=True, slots=True)
class Step:
    """A moment on an obligation's way, in order: recorded, entered a window, left it, lapsed there, renewed, settled;
    `transaction` is the command that did it, which for `settled` is the ledger transaction that paid."""

    step: int
    obligation: str
    what: str
    window: str
    at: datetime
    transaction: str
    version: int
    incomplete: bool


settlement.get(
    "obligation-trace",
    Step,
    """
    SELECT step, s.obligation, what, s.window_id AS window, at, s.transaction, s.position AS version,
           s.incomplete OR o.incomplete AS incomplete
    FROM read.settlement_steps s JOIN live USING (zone, generation)
    JOIN read.settlement_obligations o USING (zone, generation, obligation)
    WHERE s.obligation = %(obligation)s AND (%(sees_all)s OR %(principal)s IN (debtor, creditor))
    """,
    key=("step",),
    parameters=OfObligation,
    single=True,
    projection="windows",
)


@dataclass(frozen=True, slots=True)
class OfParty:
    party: Id = ""


@dataclass(frozen=True, slots=True)
class Age:
    """What is not settled, by age in whole days at the last event that the answer reflects: from `from_days` (0, 1, 7,
    30) to below `to_days` (null: no end). `owes` and `owed` are the party's; over the whole zone both are `amount`.
    Participants see their own."""

    asset: str
    from_days: int
    to_days: int | None
    obligations: int
    lapsed: int
    amount: Total
    owes: Total
    owed: Total
    oldest_at: datetime
    version: int
    incomplete: bool


settlement.get(
    "ageing",
    Age,
    """
    SELECT asset, from_days, to_days, count(*) AS obligations, count(*) FILTER (WHERE status = 'lapsed') AS lapsed,
           sum(amount) AS amount, coalesce(sum(amount) FILTER (WHERE %(party)s IN ('', debtor)), 0) AS owes,
           coalesce(sum(amount) FILTER (WHERE %(party)s IN ('', creditor)), 0) AS owed,
           min(recorded_at) AS oldest_at, max(o.position) AS version, bool_or(incomplete) AS incomplete
    FROM read.settlement_obligations o JOIN live USING (zone, generation)
    JOIN (VALUES (0, 1), (1, 7), (7, 30), (30, NULL)) AS bucket(from_days, to_days)
      ON live.as_of - recorded_at >= make_interval(days => from_days)
     AND (to_days IS NULL OR live.as_of - recorded_at < make_interval(days => to_days))
    WHERE status IN ('recorded', 'waiting', 'lapsed') AND (%(sees_all)s OR %(principal)s IN (debtor, creditor))
      AND (%(party)s = '' OR debtor = %(party)s OR creditor = %(party)s)
    GROUP BY asset, from_days, to_days
    """,
    key=("asset", "from_days"),
    parameters=OfParty,
    own="party",
    projection="windows",
)
