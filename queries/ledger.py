"""What people ask of the ledger.

Shares and rates are whole basis points, rounded down once at the end of their formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from commands._codec import EPOCH
from domain._kernel import FOG, AccountId, Amount, AssetCode, Id, Text
from domain.ledger import PUBLIC_FUNDS
from projections._tables import Money, Total
from queries._query import FOR_EVER, SEES_ALL, Context

ledger = Context(__name__)


@dataclass(frozen=True, slots=True)
class OfAccount:
    account: AccountId = ""


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account holds per asset: posted, held and available (posted less held)."""

    account: str
    asset: str
    posted: Money
    held: Money
    available: Money
    version: int
    incomplete: bool


ledger.get(
    "balance",
    Balance,
    """
    SELECT account, asset, posted, held, posted - held AS available, b.position AS version, incomplete
    FROM read.ledger_balances b JOIN live USING (zone, generation)
    WHERE account = %(account)s
    """,
    key=("account", "asset"),
    parameters=OfAccount,
    own="account",
)


@dataclass(frozen=True, slots=True)
class OfStatement:
    account: AccountId = ""
    asset: AssetCode = ""
    since: datetime = EPOCH
    until: datetime = FOR_EVER
    after_position: int = 0
    """Only lines behind this position of the log."""


@dataclass(frozen=True, slots=True)
class StatementLine:
    """A posting of an account, newest first. `line` is its position in the log, `amount` what the account gained,
    `posted` its balance in that asset afterwards; `since` is included, `until` is not."""

    account: str
    line: int
    asset: str
    amount: Money
    posted: Money
    counterparty: str
    purpose: str
    reference: str
    memo: str
    transaction: str
    at: datetime
    version: int
    incomplete: bool


ledger.get(
    "statement",
    StatementLine,
    """
    SELECT account, line, asset, amount, posted, counterparty, purpose, reference, memo, transaction, at,
           s.position AS version, incomplete
    FROM read.ledger_statement s JOIN live USING (zone, generation)
    WHERE account = %(account)s AND line > %(after_position)s AND (%(asset)s = '' OR asset = %(asset)s)
      AND at >= %(since)s AND at < %(until)s
    """,
    key=("line",),
    descending=True,
    parameters=OfStatement,
    own="account",
)


@dataclass(frozen=True, slots=True)
class OfPayment:
    amount: Amount
    account: AccountId = ""
    asset: AssetCode = FOG
    to: AccountId = ""


@dataclass(frozen=True, slots=True)
class CanPay:
    """Could this wallet pay now, and if not, which rules refuse it? `reasons` are the names of those rules, as the
    problems of `transfer` name them; `short_by` is what is missing."""

    account: str
    asset: str
    amount: Money
    target: str
    can_pay: bool
    reasons: list[str]
    available: Money
    short_by: Money
    version: int
    incomplete: bool


ledger.get(
    "can-pay",
    CanPay,
    """
    SELECT account, asset, amount, target, cardinality(reasons) = 0 AS can_pay, to_jsonb(reasons) AS reasons,
           available, greatest(amount - available, 0) AS short_by, version, incomplete
    FROM (
        SELECT asked.*, coalesce(b.posted - b.held, 0) AS available,
               greatest(coalesce(b.position, 0), coalesce(payer.position, 0)) AS version,
               coalesce(b.incomplete, false) OR coalesce(payer.incomplete, false) AS incomplete,
               array_remove(ARRAY[
                   CASE WHEN payer.status IS NULL OR payer.status = 'closed' THEN 'wallet-not-found' END,
                   CASE WHEN payer.status = 'frozen' THEN 'wallet-is-frozen' END,
                   CASE WHEN known.asset IS NULL THEN 'asset-is-unknown' END,
                   CASE WHEN coalesce(b.posted - b.held, 0) < asked.amount THEN 'insufficient-funds' END,
                   CASE WHEN target = asked.account THEN 'transfer-to-itself' END,
                   CASE WHEN target LIKE 'wallet:%%' AND coalesce(payee.status, 'closed') = 'closed'
                        THEN 'account-is-not-open' END,
                   CASE WHEN target NOT LIKE 'wallet:%%' AND target <> '' AND target <> ALL (%(funds)s)
                        THEN 'account-is-reserved' END
               ], NULL) AS reasons
        FROM (SELECT zone, generation, %(account)s::text COLLATE "C" AS account, %(asset)s::text COLLATE "C" AS asset,
                     %(amount)s::numeric AS amount, %(to)s::text COLLATE "C" AS target
              FROM live) asked
        LEFT JOIN read.ledger_balances b USING (zone, generation, account, asset)
        LEFT JOIN read.ledger_accounts payer USING (zone, generation, account)
        LEFT JOIN read.ledger_assets known USING (zone, generation, asset)
        LEFT JOIN read.ledger_accounts payee
               ON (payee.zone, payee.generation, payee.account) = (asked.zone, asked.generation, asked.target)
    ) found
    """.replace("%(funds)s", "'{" + ",".join(sorted(PUBLIC_FUNDS)) + "}'::text[]"),
    key=("account",),
    parameters=OfPayment,
    own="account",
)


@dataclass(frozen=True, slots=True)
class TrialBalance:
    """The sum of all accounts of an asset, `world` included: `total` is 0, whatever happened. `world` is what
    was minted and not burned, as a negative amount; `accounts` counts those that hold something."""

    asset: str
    accounts: int
    wallets: Total
    funds: Total
    """Everything that is neither a wallet nor world."""
    world: Total
    total: Total
    version: int
    incomplete: bool


ledger.get(
    "trial-balance",
    TrialBalance,
    """
    SELECT asset, count(*) FILTER (WHERE posted <> 0) AS accounts,
           coalesce(sum(posted) FILTER (WHERE account LIKE 'wallet:%%'), 0) AS wallets,
           coalesce(sum(posted) FILTER (WHERE account NOT LIKE 'wallet:%%' AND account <> 'world'), 0) AS funds,
           coalesce(sum(posted) FILTER (WHERE account = 'world'), 0) AS world,
           sum(posted) AS total, max(b.position) AS version, bool_or(incomplete) AS incomplete
    FROM read.ledger_balances b JOIN live USING (zone, generation)
    GROUP BY asset
    """,
    key=("asset",),
    roles=SEES_ALL,
)


@dataclass(frozen=True, slots=True)
class OfAsset:
    asset: AssetCode = FOG


@dataclass(frozen=True, slots=True)
class AnyAsset:
    asset: AssetCode = ""


@dataclass(frozen=True, slots=True)
class AccountLine:
    """An account's line of the trial balance; `status` is that of a wallet, and empty for the system's accounts."""

    asset: str
    account: str
    owner: str
    status: str
    posted: Money
    held: Money
    available: Money
    version: int
    incomplete: bool


ledger.get(
    "accounts",
    AccountLine,
    """
    SELECT asset, account, coalesce(a.owner, '') AS owner, coalesce(a.status, '') AS status, posted, held,
           posted - held AS available, b.position AS version, b.incomplete
    FROM read.ledger_balances b JOIN live USING (zone, generation)
    LEFT JOIN read.ledger_accounts a USING (zone, generation, account)
    WHERE %(asset)s = '' OR asset = %(asset)s
    """,
    key=("asset", "account"),
    parameters=AnyAsset,
    roles=SEES_ALL,
)


@dataclass(frozen=True, slots=True)
class Supply:
    """How much of an asset exists: minted less burned. `cap` is the most that may (0: no cap of its own), `scale`
    its decimal places."""

    asset: str
    scale: int
    cap: Money
    minted: Total
    burned: Total
    supply: Total
    version: int
    incomplete: bool


ledger.get(
    "supply",
    Supply,
    """
    SELECT asset, scale, cap, minted, burned, minted - burned AS supply, a.position AS version, incomplete
    FROM read.ledger_assets a JOIN live USING (zone, generation)
    WHERE %(asset)s = '' OR asset = %(asset)s
    """,
    key=("asset",),
    parameters=AnyAsset,
)


@dataclass(frozen=True, slots=True)
class Asset:
    """An asset that the zone knows; `voucher_of` is the zone that it is a claim on, empty for the zone's own."""

    asset: str
    scale: int
    cap: Money
    voucher_of: str
    defined_at: datetime
    version: int
    incomplete: bool


ledger.get(
    "assets",
    Asset,
    """
    SELECT asset, scale, cap, CASE WHEN asset LIKE '%%/%%' THEN split_part(asset, '/', 1) ELSE '' END AS voucher_of,
           defined_at, a.position AS version, incomplete
    FROM read.ledger_assets a JOIN live USING (zone, generation)
    """,
    key=("asset",),
)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds an asset, the largest first; `world` and empty accounts are left out. `share` is in basis points
    of the supply: floor(posted * 10000 / supply)."""

    account: str
    posted: Money
    held: Money
    share: int
    version: int
    incomplete: bool


ledger.get(
    "holders",
    Holder,
    """
    SELECT account, posted, held, div(posted * 10000, nullif(minted - burned, 0))::bigint AS share,
           b.position AS version, b.incomplete
    FROM read.ledger_balances b JOIN live USING (zone, generation)
    JOIN read.ledger_assets a USING (zone, generation, asset)
    WHERE asset = %(asset)s AND posted > 0
    """,
    key=("posted", "account"),
    descending=True,
    parameters=OfAsset,
    roles=SEES_ALL,
)

_MINE = "account LIKE 'wallet:%%' AND split_part(account, ':', 2) = %(principal)s"


# A line is found by its position, since its account is the stream of the event there. `public` says that the command is
# looked up as it is now, whatever position is asked of: where its events lie never changes.
_POSITIONS = """ARRAY(
    SELECT generate_series(c.position - c.events + 1, c.position) FROM public.commands c
    WHERE c.zone = %(zone)s AND c.number = substring(%(transaction)s FROM '^c([1-9][0-9]{0,17})$')::bigint
)"""


@dataclass(frozen=True, slots=True)
class OfTransaction:
    transaction: Id


@dataclass(frozen=True, slots=True)
class Posting:
    """A posting of a transaction. A transaction is what one command moved; its id is the command's. Participants
    see the postings of their own accounts. `reverses` and `reversed_by` are transactions, or empty."""

    transaction: str
    line: int
    account: str
    asset: str
    amount: Money
    counterparty: str
    purpose: str
    reference: str
    memo: str
    at: datetime
    reverses: str
    reversed_by: str
    reversal_reason: str
    version: int
    incomplete: bool


ledger.get(
    "transaction",
    Posting,
    f"""
    SELECT s.transaction, line, account, asset, amount, counterparty, purpose, reference, memo, s.at,
           coalesce(original.transaction, '') AS reverses, coalesce(r.reversed_by, '') AS reversed_by,
           coalesce(r.reason, original.reason, '') AS reversal_reason,
           greatest(s.position, r.position) AS version, s.incomplete
    FROM read.ledger_statement s JOIN live USING (zone, generation)
    LEFT JOIN read.ledger_reversals r USING (zone, generation, transaction)
    LEFT JOIN LATERAL (
        SELECT o.transaction, o.reason FROM read.ledger_reversals o
        WHERE (o.zone, o.generation, o.reversed_by) = (s.zone, s.generation, s.transaction) LIMIT 1
    ) original ON true
    JOIN events e ON (e.zone, e.stream, e.position) = (s.zone, s.account, s.line)
    WHERE e.zone = %(zone)s AND e.position = ANY ({_POSITIONS}) AND s.transaction = %(transaction)s
      AND (%(sees_all)s OR {_MINE})
    """,  # noqa: S608 - made of our own text only
    key=("line",),
    parameters=OfTransaction,
    single=True,
)


@dataclass(frozen=True, slots=True)
class OfReference:
    reference: Text


@dataclass(frozen=True, slots=True)
class Referenced:
    """A move that names this reference, newest first; participants see those that touch their own accounts."""

    reference: str
    line: int
    transaction: str
    source: str
    target: str
    asset: str
    amount: Money
    purpose: str
    memo: str
    at: datetime
    reversed_by: str
    version: int
    incomplete: bool


ledger.get(
    "transactions-by-reference",
    Referenced,
    """
    SELECT n.reference, n.line, n.transaction, d.account AS source, d.counterparty AS target, d.asset,
           -d.amount AS amount, d.purpose, d.memo, d.at, coalesce(r.reversed_by, '') AS reversed_by,
           greatest(d.position, r.position) AS version, d.incomplete
    FROM read.ledger_references n JOIN live USING (zone, generation)
    JOIN events e ON (e.zone, e.position) = (n.zone, n.line)
    JOIN read.ledger_statement d
      ON (d.zone, d.generation, d.account, d.line) = (n.zone, n.generation, e.stream, n.line)
    LEFT JOIN read.ledger_reversals r
      ON (r.zone, r.generation, r.transaction) = (n.zone, n.generation, n.transaction)
    WHERE n.reference = %(reference)s AND (
        %(sees_all)s
        OR d.account LIKE 'wallet:%%' AND split_part(d.account, ':', 2) = %(principal)s
        OR d.counterparty LIKE 'wallet:%%' AND split_part(d.counterparty, ':', 2) = %(principal)s)
    """,
    key=("line",),
    descending=True,
    parameters=OfReference,
)


@dataclass(frozen=True, slots=True)
class OfHolds:
    wallet: AccountId = ""
    payee: Id = ""
    status: Id = ""
    """open, captured, released or expired."""


@dataclass(frozen=True, slots=True)
class Hold:
    """What is set aside for a payee. amount = captured + released + expired + remaining; `status` says what ended
    it, or open. Participants see the holds on their wallets and those that they are the payee of."""

    hold: str
    wallet: str
    payee: str
    asset: str
    amount: Money
    captured: Money
    released: Money
    expired: Money
    remaining: Money
    purpose: str
    status: str
    placed_at: datetime
    expires_at: datetime
    version: int
    incomplete: bool


_HOLD = """
SELECT hold, wallet, payee, asset, amount, captured, released, expired,
       amount - captured - released - expired AS remaining, purpose, status, placed_at, expires_at,
       h.position AS version, incomplete
FROM read.ledger_holds h JOIN live USING (zone, generation)
WHERE (%(sees_all)s OR owner = %(principal)s OR payee = %(principal)s)
"""

ledger.get(
    "holds",
    Hold,
    _HOLD
    + """
    AND (%(wallet)s = '' OR wallet = %(wallet)s) AND (%(payee)s = '' OR payee = %(payee)s)
    AND (%(status)s = '' OR status = %(status)s)
    """,
    key=("hold",),
    parameters=OfHolds,
)


@dataclass(frozen=True, slots=True)
class OneHold:
    hold: Id


ledger.get("hold", Hold, _HOLD + "AND hold = %(hold)s", key=("hold",), parameters=OneHold, single=True)


@dataclass(frozen=True, slots=True)
class OfRewards:
    account: AccountId = ""
    kind: Text = ""


@dataclass(frozen=True, slots=True)
class Reward:
    """What a wallet got by a distribution or out of a reward pool, newest first. `distribution` is empty for what
    was claimed (staking) or paid singly; `total` is what the wallet got of that asset up to this line."""

    account: str
    line: int
    asset: str
    amount: Money
    total: Total
    kind: str
    pool: str
    distribution: str
    transaction: str
    at: datetime
    version: int
    incomplete: bool


ledger.get(
    "reward-history",
    Reward,
    """
    SELECT account, line, asset, amount, sum(amount) OVER (PARTITION BY asset ORDER BY line) AS total, kind, pool,
           distribution, transaction, at, r.position AS version, incomplete
    FROM read.ledger_rewards r JOIN live USING (zone, generation)
    WHERE account = %(account)s AND (%(kind)s = '' OR kind = %(kind)s)
    """,
    key=("line",),
    descending=True,
    parameters=OfRewards,
    own="account",
)


@dataclass(frozen=True, slots=True)
class OfDistribution:
    distribution: Id = ""


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution of rewards: allocated + dust is what left the pool."""

    distribution: str
    kind: str
    pool: str
    asset: str
    allocated: Money
    dust: Money
    recipients: int
    transaction: str
    at: datetime
    version: int
    incomplete: bool


ledger.get(
    "distributions",
    Distribution,
    """
    SELECT distribution, kind, pool, asset, allocated, dust, recipients, transaction, at, d.position AS version,
           incomplete
    FROM read.ledger_distributions d JOIN live USING (zone, generation)
    WHERE %(distribution)s = '' OR distribution = %(distribution)s
    """,
    key=("distribution",),
    parameters=OfDistribution,
    roles=SEES_ALL,
)


@dataclass(frozen=True, slots=True)
class Economics:
    """An asset's day (UTC), newest first; days without any movement are left out. `volume` is what moved between
    accounts of the zone, in `transfers` moves; `supply` is that at the day's end; `velocity` = floor(volume *
    10000 / supply) and `burn_rate` = floor(burned * 10000 / supply) are in basis points: 0 without supply, and at
    most 2**53 - 1."""

    day: str
    asset: str
    transfers: int
    volume: Total
    minted: Total
    burned: Total
    supply: Total
    velocity: int
    burn_rate: int
    version: int
    incomplete: bool


ledger.get(
    "economics",
    Economics,
    """
    SELECT day, asset, transfers, volume, minted, burned, supply,
           least(coalesce(div(volume * 10000, nullif(supply, 0)), 0), 9007199254740991)::bigint AS velocity,
           least(coalesce(div(burned * 10000, nullif(supply, 0)), 0), 9007199254740991)::bigint AS burn_rate,
           version, incomplete
    FROM (
        SELECT day, asset, transfers, volume, minted, burned, d.position AS version, incomplete,
               sum(minted - burned) OVER (ORDER BY day) AS supply
        FROM read.ledger_days d JOIN live USING (zone, generation)
        WHERE asset = %(asset)s
    ) days
    """,
    key=("day",),
    descending=True,
    parameters=OfAsset,
    roles=SEES_ALL,
)


@dataclass(frozen=True, slots=True)
class Concentration:
    """How evenly an asset is spread over the owners of wallets, now. `top_1`, `top_10` and `gini` are in basis
    points of what wallets hold together: gini = floor(10000 * (2 * sum(i * x_i) - (n + 1) * sum(x_i)) /
    (n * sum(x_i))) over the n owners' holdings x_i in ascending order."""

    asset: str
    owners: int
    held_by_owners: Total
    top_1: int
    top_10: int
    gini: int
    version: int
    incomplete: bool


ledger.get(
    "concentration",
    Concentration,
    """
    SELECT asset, count(*) AS owners, sum(x) AS held_by_owners,
           div(10000 * sum(x) FILTER (WHERE n - i < 1), sum(x))::bigint AS top_1,
           div(10000 * sum(x) FILTER (WHERE n - i < 10), sum(x))::bigint AS top_10,
           div(10000 * (2 * sum(i * x) - (max(n) + 1) * sum(x)), max(n) * sum(x))::bigint AS gini,
           max(version) AS version, bool_or(incomplete) AS incomplete
    FROM (
        SELECT asset, x, version, incomplete, row_number() OVER (PARTITION BY asset ORDER BY x, owner) AS i,
               count(*) OVER (PARTITION BY asset) AS n
        FROM (
            SELECT asset, split_part(account, ':', 2) AS owner, sum(posted) AS x, max(b.position) AS version,
                   bool_or(incomplete) AS incomplete
            FROM read.ledger_balances b JOIN live USING (zone, generation)
            WHERE asset = %(asset)s AND posted > 0 AND account LIKE 'wallet:%%'
            GROUP BY 1, 2
        ) owners
    ) ranked
    GROUP BY asset
    """,
    key=("asset",),
    parameters=OfAsset,
    roles=SEES_ALL,
)
