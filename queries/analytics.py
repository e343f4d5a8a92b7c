"""What the economy comes to: markets, harvest, staking, settlement and refusals by hour and by day; who leads; and an
overview in one call.

Buckets are hours or days (UTC; `size` is hour or day) of what was recorded in them. Shares and rates are whole basis
points, averages whole units, each rounded down once, at the end of its formula. Averages over time are exact: they
weigh each level by the microseconds that it stood, in the running bucket up to the last event that the answer reflects.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from commands._codec import EPOCH
from domain._kernel import BASIS_POINTS, FOG, AssetCode, Count, Id
from domain.harvest import Work, reward_for
from projections._tables import Money, Total
from queries._query import FOR_EVER, SEES_ALL, Context

MOST_BUCKETS = 1_000
YEAR_US = 365 * 86_400_000_000
MOST_RATE = 9_007_199_254_740_991
"""What JSON's numbers hold; no rate is shown larger."""

analytics = Context(__name__)

# Series: a row for each bucket, whether or not anything happened in it

_UNITS = """
(SELECT CASE WHEN %(size)s = 'day' THEN 'day' ELSE 'hour' END AS unit,
        CASE WHEN %(size)s = 'day' THEN interval '24 hours' ELSE interval '1 hour' END AS width,
        CASE WHEN %(size)s = 'day' THEN 86400000000 ELSE 3600000000 END AS width_us) units
"""


def _buckets(as_of: str) -> str:
    """The last buckets before `until`, up to the one that a time is in; behind FROM, after what gives that time."""
    return f"""
    CROSS JOIN {_UNITS}
    CROSS JOIN LATERAL (
        SELECT date_trunc(unit, least({as_of}, %(until)s - interval '1 microsecond'), 'UTC') AS newest
    ) span
    CROSS JOIN LATERAL generate_series(
        newest - (least(greatest(%(buckets)s, 1), {MOST_BUCKETS}) - 1) * width, newest, width
    ) AS bucket(start)
    """


_SERIES = f"""
(SELECT live.zone, live.generation, bucket.start, width_us,
        round(1000000 * extract(epoch FROM least(bucket.start + width, live.as_of) - bucket.start)) AS elapsed_us
 FROM live {_buckets("live.as_of")}
 WHERE %(size)s IN ('hour', 'day')) b
"""  # noqa: S608 - made of our own text only


def _level(measure: str, place: str) -> str:
    """A level in bucket `b`: at its end (`closing`), and summed over its time (`total`, in unit-microseconds)."""
    return f"""
    LATERAL (
        SELECT s.closing, s.position, s.incomplete,
               CASE WHEN s.start = b.start
                    THEN s.opening * width_us + s.moment - s.closing * (width_us - elapsed_us)
                    ELSE s.closing * elapsed_us END AS total
        FROM read.analytics_steps s
        WHERE (s.zone, s.generation, s.measure, s.service_type, s.region, s.tier, s.size)
            = (b.zone, b.generation, {measure}, {place}, %(size)s) AND s.start <= b.start
        ORDER BY s.start DESC LIMIT 1
    )
    """  # noqa: S608 - made of our own text only


def _rate(part: str, whole: str, scale: int = BASIS_POINTS) -> str:
    """floor(scale * part / whole); 0 where the whole is 0."""
    return f"least(coalesce(div({scale} * ({part}), nullif({whole}, 0)), 0), {MOST_RATE})::bigint"


_ROLLED_UP = """
CASE WHEN %(by)s IN ('lane', 'service_type') THEN {0}.service_type ELSE '' END AS service_type,
CASE WHEN %(by)s IN ('lane', 'region') THEN {0}.region ELSE '' END AS region,
CASE WHEN %(by)s IN ('lane', 'tier') THEN {0}.tier ELSE '' END AS tier
"""
_PLACED = """
(%(service_type)s = '' OR {0}.service_type = %(service_type)s)
AND (%(region)s = '' OR {0}.region = %(region)s) AND (%(tier)s = '' OR {0}.tier = %(tier)s)
"""
_GROUPED = _PLACED + "AND %(by)s IN ('lane', 'service_type', 'region', 'tier', 'all')"

# Markets


@dataclass(frozen=True, slots=True)
class OfMarket:
    size: Id = "hour"
    buckets: Count = 24
    """How many, the newest first; at most 1,000."""
    until: datetime = FOR_EVER
    service_type: Id = ""
    region: Id = ""
    tier: Id = ""
    by: Id = "lane"
    """What a row is about: a lane, a service_type, a region, a tier, or all of it."""


@dataclass(frozen=True, slots=True)
class Market:
    """What happened in a market in an hour or a day, newest first; without a row, nothing did. A name is empty where
    the row is about all of them.

    Of the contracts opened in it: `unit_hours` = floor(unit_minutes / 60) booked, `turnover` what they cost when all
    of it is used, and the price of one unit for one hour: of the first (`open`), the highest, the lowest, the last
    (`close`), and `average` = floor(60 * turnover / unit_minutes); null where none was opened.
    Of the periods settled or netted: what was used (`unit_ms`), charged, given back as penalty, kept as fee, `paid` to
    providers (of netted periods: owed to them, the fee taken off), and not covered by the escrow.
    Of the service levels reported: `attainment` = floor(10000 * (windows - excused - missed) / (windows - excused)) in
    basis points, null where there is nothing to judge; windows without a report do not count.
    """

    start: datetime
    service_type: str
    region: str
    tier: str
    contracts: int
    unit_hours: Total
    unit_minutes: Total
    turnover: Total
    open: Money | None
    high: Money | None
    low: Money | None
    close: Money | None
    average: Money | None
    periods: int
    unit_ms: Total
    charge: Total
    penalties: Total
    fees: Total
    paid: Total
    unpaid: Total
    windows: int
    missed: int
    excused: int
    breaches: int
    attainment: int | None
    version: int
    incomplete: bool


_ATTAINMENT = "div(10000 * (windows - excused - missed), nullif(windows - excused, 0))::bigint"

analytics.get(
    "market",
    Market,
    f"""
    SELECT *, div(unit_minutes, 60) AS unit_hours, div(60 * turnover, nullif(unit_minutes, 0)) AS average,
           {_ATTAINMENT} AS attainment
    FROM (
        SELECT m.start, {_ROLLED_UP.format("m")}, sum(contracts)::bigint AS contracts,
               sum(unit_minutes) AS unit_minutes, sum(turnover) AS turnover,
               (array_agg(open ORDER BY first) FILTER (WHERE open IS NOT NULL))[1] AS open,
               max(high) FILTER (WHERE open IS NOT NULL) AS high,
               min(low) FILTER (WHERE open IS NOT NULL) AS low,
               (array_agg(close ORDER BY last DESC) FILTER (WHERE open IS NOT NULL))[1] AS close,
               sum(periods)::bigint AS periods, sum(unit_ms) AS unit_ms, sum(charge) AS charge,
               sum(penalties) AS penalties, sum(fees) AS fees, sum(paid) AS paid, sum(unpaid) AS unpaid,
               sum(windows)::bigint AS windows, sum(missed)::bigint AS missed, sum(excused)::bigint AS excused,
               sum(breaches)::bigint AS breaches, max(m.position) AS version, bool_or(incomplete) AS incomplete
        FROM {_SERIES} JOIN read.analytics_market m USING (zone, generation, start)
        WHERE m.size = %(size)s AND {_GROUPED.format("m")}
        GROUP BY 1, 2, 3, 4
    ) rolled_up
    """,  # noqa: S608 - made of our own text only
    key=("start", "service_type", "region", "tier"),
    descending=True,
    parameters=OfMarket,
)


@dataclass(frozen=True, slots=True)
class Utilisation:
    """How much of the units on offer was reserved in an hour or a day, newest first: a row for each since the first
    offering. `offered` and `used` are the units at its end, `offered_ms` and `used_ms` = floor(unit-microseconds /
    1000) those over its time, `utilisation` = floor(10000 * used / offered) over its time in basis points.

    An offering that takes nothing new, being paused or withdrawn, offers what is still in use of it. Units kept for a
    won request are used. Whether a device is online is not looked at.
    """

    start: datetime
    service_type: str
    region: str
    tier: str
    offered: Total
    used: Total
    offered_ms: Total
    used_ms: Total
    utilisation: int
    version: int
    incomplete: bool


_LANE = "l.service_type, l.region, l.tier"

analytics.get(
    "utilisation",
    Utilisation,
    f"""
    SELECT *, div(offered_us, 1000) AS offered_ms, div(used_us, 1000) AS used_ms,
           {_rate("used_us", "offered_us")} AS utilisation
    FROM (
        SELECT b.start, {_ROLLED_UP.format("l")}, sum(o.closing) AS offered, coalesce(sum(u.closing), 0) AS used,
               sum(o.total) AS offered_us, coalesce(sum(u.total), 0) AS used_us,
               max(greatest(o.position, u.position)) AS version,
               bool_or(o.incomplete OR coalesce(u.incomplete, false)) AS incomplete
        FROM {_SERIES} JOIN read.analytics_levels l USING (zone, generation)
        CROSS JOIN {_level("'offered'", _LANE)} o
        LEFT JOIN {_level("'used'", _LANE)} u ON true
        WHERE l.measure = 'offered' AND {_GROUPED.format("l")}
        GROUP BY 1, 2, 3, 4
    ) rolled_up
    """,  # noqa: S608 - made of our own text only
    key=("start", "service_type", "region", "tier"),
    descending=True,
    parameters=OfMarket,
)


@dataclass(frozen=True, slots=True)
class OfLevel:
    measure: Id
    """Of lanes: offered, used, contracts, requests, requested. Of regions: devices, online, sessions. Of the zone:
    supply, bonded."""
    size: Id = "hour"
    buckets: Count = 24
    """How many, the newest first; at most 1,000."""
    until: datetime = FOR_EVER
    service_type: Id = ""
    region: Id = ""
    tier: Id = ""


@dataclass(frozen=True, slots=True)
class Level:
    """How high something stood in an hour or a day, newest first: a row for each since it first stood anywhere.
    `closing` is the level at its end, `average` = floor(sum of level * time / time).

    Of a lane: units `offered` and `used`, running `contracts`, open `requests` and the units that they ask for
    (`requested`). Of a region: `devices` in service, those noted as `online`, open harvest `sessions`. Of the zone:
    `supply` and `bonded` FOG.
    """

    start: datetime
    service_type: str
    region: str
    tier: str
    closing: Money
    average: Money
    version: int
    incomplete: bool


analytics.get(
    "levels",
    Level,
    f"""
    SELECT b.start, l.service_type, l.region, l.tier, s.closing,
           coalesce(div(s.total, nullif(elapsed_us, 0)), s.closing) AS average, s.position AS version, s.incomplete
    FROM {_SERIES} JOIN read.analytics_levels l USING (zone, generation)
    CROSS JOIN {_level("l.measure", _LANE)} s
    WHERE l.measure = %(measure)s AND {_PLACED.format("l")}
    """,  # noqa: S608 - made of our own text only
    key=("start", "service_type", "region", "tier"),
    descending=True,
    parameters=OfLevel,
)

# Harvest


@dataclass(frozen=True, slots=True)
class OfHarvest:
    size: Id = "hour"
    since: datetime = EPOCH
    until: datetime = FOR_EVER
    region: Id = ""


@dataclass(frozen=True, slots=True)
class HarvestSums:
    start: datetime
    region: str
    sessions: int
    running_ms: Total
    contributions: int
    rejected: int
    paid: int
    tasks: int
    reward: Total
    cpu_ms: Total
    memory_mb_ms: Total
    bandwidth_bytes: Total
    storage_mb_ms: Total
    gpu_tenths_ms: Total
    version: int
    incomplete: bool


@dataclass(frozen=True, slots=True)
class Harvest:
    """What harvesting gave in a region in an hour or a day, newest first; without a row, nothing.

    `sessions` started, `running_ms` of those that stopped; `contributions` recorded, `rejected` and `paid`. Of the paid
    ones: their work (core-milliseconds, MB-milliseconds, bytes; MB = 10^6 bytes), the `tasks` that earned a bonus, the
    `reward` in smallest units of FOG, and `points`, in 1/10,000,000: what all that work is worth before any bonus, by
    the formula of rewards, rounded down once.
    """

    start: datetime
    region: str
    sessions: int
    running_ms: Total
    contributions: int
    rejected: int
    paid: int
    tasks: int
    points: Total
    reward: Total
    cpu_ms: Total
    memory_mb_ms: Total
    bandwidth_bytes: Total
    storage_mb_ms: Total
    version: int
    incomplete: bool


def _harvest(sums: HarvestSums, parameters: dict[str, Any]) -> Harvest:
    # A point earns 10 FOG, which is 10,000,000 smallest units: a reward without tasks and bonuses counts points. The
    # worth of GPU hours is in the sum already.
    work = Work(sums.cpu_ms, sums.memory_mb_ms, sums.bandwidth_bytes, sums.storage_mb_ms, sums.gpu_tenths_ms)
    return Harvest(
        sums.start,
        sums.region,
        sums.sessions,
        sums.running_ms,
        sums.contributions,
        sums.rejected,
        sums.paid,
        sums.tasks,
        reward_for(work, 0, 0, BASIS_POINTS, gpu_tenths=1),
        sums.reward,
        sums.cpu_ms,
        sums.memory_mb_ms,
        sums.bandwidth_bytes,
        sums.storage_mb_ms,
        sums.version,
        sums.incomplete,
    )


analytics.get(
    "harvest",
    Harvest,
    """
    SELECT h.start, region, sessions, running_ms, contributions, rejected, paid, tasks, reward, cpu_ms, memory_mb_ms,
           bandwidth_bytes, storage_mb_ms, gpu_tenths_ms, h.position AS version, incomplete
    FROM read.analytics_harvest h JOIN live USING (zone, generation)
    WHERE h.size = %(size)s AND h.start >= %(since)s AND h.start < %(until)s
      AND (%(region)s = '' OR region = %(region)s)
    """,
    key=("start", "region"),
    descending=True,
    parameters=OfHarvest,
    inputs=HarvestSums,
    derive=_harvest,
)

# The zone's FOG


@dataclass(frozen=True, slots=True)
class OfSeries:
    size: Id = "hour"
    buckets: Count = 24
    """How many, the newest first; at most 1,000."""
    until: datetime = FOR_EVER


@dataclass(frozen=True, slots=True)
class Staking:
    """How much of the zone's FOG is bonded, and what that earns, in an hour or a day; newest first, a row for each
    since FOG exists. `supply` and `bonded` are those at its end, `staking_ratio` = floor(10000 * bonded / supply),
    `average_bonded` = floor(bonded * time / time).

    `rewards` is what delegators were allocated in it (`commission` and the community pool's part left out), `apr` =
    floor(10000 * rewards * year / (bonded * time)): what that would be in 365 days, of the average bonded; at most
    2^53 - 1. All rates are in basis points, 0 where nothing is bonded.
    """

    start: datetime
    supply: Money
    bonded: Money
    staking_ratio: int
    average_bonded: Money
    rewards: Total
    commission: Total
    slashed: Total
    apr: int
    version: int
    incomplete: bool


@dataclass(frozen=True, slots=True)
class Economy:
    """How the zone's FOG moved in an hour or a day; newest first, a row for each since FOG exists. `volume` is what
    moved between two accounts of the zone, in `transfers` moves (minting and burning are none); `average_supply` =
    floor(supply * time / time), `velocity` = floor(10000 * volume / average supply, unrounded), in basis points and at
    most 2^53 - 1."""

    start: datetime
    supply: Money
    average_supply: Money
    transfers: int
    volume: Total
    velocity: int
    minted: Total
    burned: Total
    version: int
    incomplete: bool


_NOWHERE = "'', '', ''"
_FOG = f"""
FROM (
    SELECT b.start, elapsed_us, s.closing AS supply, s.total AS supply_us, coalesce(k.closing, 0) AS bonded,
           coalesce(k.total, 0) AS bonded_us, coalesce(transfers, 0) AS transfers, coalesce(volume, 0) AS volume,
           coalesce(minted, 0) AS minted, coalesce(burned, 0) AS burned, coalesce(rewards, 0) AS rewards,
           coalesce(commission, 0) AS commission, coalesce(slashed, 0) AS slashed,
           greatest(e.position, s.position, k.position) AS version,
           s.incomplete OR coalesce(k.incomplete, false) OR coalesce(e.incomplete, false) AS incomplete
    FROM {_SERIES} CROSS JOIN {_level("'supply'", _NOWHERE)} s
    LEFT JOIN {_level("'bonded'", _NOWHERE)} k ON true
    LEFT JOIN read.analytics_economy e
           ON (e.zone, e.generation, e.size, e.start) = (b.zone, b.generation, %(size)s, b.start)
) found
"""  # noqa: S608 - made of our own text only

analytics.get(
    "staking",
    Staking,
    f"""
    SELECT *, {_rate("bonded", "supply")} AS staking_ratio,
           coalesce(div(bonded_us, nullif(elapsed_us, 0)), bonded) AS average_bonded,
           {_rate("rewards", "bonded_us", BASIS_POINTS * YEAR_US)} AS apr
    {_FOG}
    """,
    key=("start",),
    descending=True,
    parameters=OfSeries,
)

analytics.get(
    "economy",
    Economy,
    f"""
    SELECT *, coalesce(div(supply_us, nullif(elapsed_us, 0)), supply) AS average_supply,
           {_rate("volume * elapsed_us", "supply_us")} AS velocity
    {_FOG}
    """,
    key=("start",),
    descending=True,
    parameters=OfSeries,
    roles=SEES_ALL,
)

# Settlement


@dataclass(frozen=True, slots=True)
class OfSettlement:
    size: Id = "hour"
    since: datetime = EPOCH
    until: datetime = FOR_EVER
    asset: AssetCode = ""


@dataclass(frozen=True, slots=True)
class Settlement:
    """Obligations that were recorded, and those that settled, in an hour or a day, newest first; without a row, none.
    `average_ms` = floor(sum of ages / number) is how old they were when they settled, `oldest_ms` the oldest."""

    start: datetime
    asset: str
    recorded: int
    recorded_amount: Total
    settled: int
    settled_amount: Total
    average_ms: int
    oldest_ms: Total
    version: int
    incomplete: bool


analytics.get(
    "settlement",
    Settlement,
    """
    SELECT s.start, asset, recorded, recorded_amount, settled, settled_amount,
           coalesce(div(settled_ms, nullif(settled, 0)), 0)::bigint AS average_ms, oldest_ms,
           s.position AS version, incomplete
    FROM read.analytics_settlement s JOIN live USING (zone, generation)
    WHERE s.size = %(size)s AND s.start >= %(since)s AND s.start < %(until)s
      AND (%(asset)s = '' OR asset = %(asset)s)
    """,
    key=("start", "asset"),
    descending=True,
    parameters=OfSettlement,
    roles=SEES_ALL,
)


@dataclass(frozen=True, slots=True)
class OfAsset:
    asset: AssetCode = ""


@dataclass(frozen=True, slots=True)
class Ageing:
    """What is owed and not settled, by how long ago it was recorded: less than an hour, a day, a week, 30 days, or
    longer (`under` is 1h, 1d, 7d, 30d or empty). Obligations keep their age when they move from window to window."""

    asset: str
    age_class: int
    """1 to 5, the youngest first."""
    under: str
    number: int
    amount: Total
    oldest_at: datetime
    version: int
    incomplete: bool


analytics.get(
    "ageing",
    Ageing,
    """
    SELECT asset, age_class, (ARRAY['1h', '1d', '7d', '30d', ''])[age_class] AS under, count(*) AS number,
           sum(amount) AS amount, min(recorded_at) AS oldest_at, max(position) AS version,
           bool_or(incomplete) AS incomplete
    FROM (
        SELECT asset, amount, o.recorded_at, o.position, incomplete,
               1 + (age >= interval '1 hour')::int + (age >= interval '24 hours')::int
                 + (age >= interval '168 hours')::int + (age >= interval '720 hours')::int AS age_class
        FROM read.analytics_obligations o JOIN live USING (zone, generation)
        CROSS JOIN LATERAL (SELECT live.as_of - o.recorded_at AS age) a
        WHERE %(asset)s = '' OR asset = %(asset)s
    ) aged
    GROUP BY asset, age_class
    """,
    key=("asset", "age_class"),
    parameters=OfAsset,
    roles=SEES_ALL,
)

# Who leads


@dataclass(frozen=True, slots=True)
class OfBoard:
    board: Id
    """harvest, providers, staking or customers."""
    days: Count = 0
    """How many days (UTC), today included; 0 for all time."""


@dataclass(frozen=True, slots=True)
class Leader:
    """Who earned most, or spent most, the largest amount of FOG first; of equal ones the last name comes first.

    `harvest`: rewards paid to owners. `providers`: what periods paid them (of netted ones: what became owed to them),
    the fee taken off, and disputes' decisions. `staking`: rewards paid to delegators or compounded; how much they have
    bonded is `staking/leaderboard`. `customers`: what periods cost them, and disputes' decisions. `payments` says how
    many there were, `share` is floor(10000 * amount / everybody's) in basis points.
    """

    amount: Total
    principal: str
    rank: int
    share: int
    payments: int
    version: int
    incomplete: bool


_ON_BOARD = """
board = %(board)s AND l.size = CASE WHEN %(days)s = 0 THEN 'all' ELSE 'day' END
AND (%(days)s = 0 OR l.start > live.as_of - %(days)s * interval '24 hours')
"""

analytics.get(
    "leaderboard",
    Leader,
    f"""
    SELECT amount, principal, row_number() OVER (ORDER BY amount DESC, principal DESC) AS rank,
           {_rate("amount", "sum(amount) OVER ()")} AS share, payments, version, incomplete
    FROM (
        SELECT sum(amount) AS amount, principal, sum(number)::bigint AS payments, max(l.position) AS version,
               bool_or(incomplete) AS incomplete
        FROM read.analytics_leaders l JOIN live USING (zone, generation)
        WHERE {_ON_BOARD}
        GROUP BY principal
    ) earned
    """,  # noqa: S608 - made of our own text only
    key=("amount", "principal"),
    descending=True,
    parameters=OfBoard,
)


@dataclass(frozen=True, slots=True)
class Concentration:
    """How evenly something is shared. Of `number` holders with `total` together, `top_1` and `top_10` are the parts of
    the largest ones, and gini = floor(10000 * (2 * sum(i * x_i) - (n + 1) * sum(x_i)) / (n * sum(x_i))) over the n
    holdings x_i in ascending order; all in basis points. Who has nothing does not count."""

    of: str
    """An asset, `bonded`, a day (YYYY-MM-DD), or `all` for all time."""
    number: int
    total: Total
    top_1: int
    top_10: int
    gini: int
    version: int
    incomplete: bool


def _concentration(holdings: str) -> str:
    """The row for each `of` in holdings (of, holder, x > 0, version, incomplete)."""
    return f"""
    SELECT of, count(*) AS number, sum(x) AS total,
           div(10000 * sum(x) FILTER (WHERE n - i < 1), sum(x))::bigint AS top_1,
           div(10000 * sum(x) FILTER (WHERE n - i < 10), sum(x))::bigint AS top_10,
           div(10000 * (2 * sum(i * x) - (max(n) + 1) * sum(x)), max(n) * sum(x))::bigint AS gini,
           max(version) AS version, bool_or(incomplete) AS incomplete
    FROM (
        SELECT *, row_number() OVER (PARTITION BY of ORDER BY x, holder) AS i, count(*) OVER (PARTITION BY of) AS n
        FROM ({holdings}) holdings
    ) ranked
    GROUP BY of
    """  # noqa: S608 - made of our own text only


@dataclass(frozen=True, slots=True)
class OfWealth:
    asset: AssetCode = FOG


analytics.get(
    "wealth",
    Concentration,
    _concentration("""
        SELECT asset AS of, split_part(account, ':', 2) AS holder, sum(posted) AS x, max(b.position) AS version,
               bool_or(incomplete) AS incomplete
        FROM read.ledger_balances b JOIN live USING (zone, generation)
        WHERE asset = %(asset)s AND posted > 0 AND account LIKE 'wallet:%%'
        GROUP BY 1, 2
    """),
    key=("of",),
    parameters=OfWealth,
    roles=SEES_ALL,
    projection="ledger",
)

analytics.get(
    "stake-concentration",
    Concentration,
    _concentration("""
        SELECT 'bonded' AS of, delegator AS holder, sum(div(p.shares * v.tokens, v.shares)) AS x,
               max(greatest(p.position, v.position)) AS version, bool_or(p.incomplete OR v.incomplete) AS incomplete
        FROM read.staking_positions p JOIN live USING (zone, generation)
        JOIN read.staking_validators v USING (zone, generation, validator)
        WHERE p.shares > 0 AND v.shares > 0
        GROUP BY delegator HAVING sum(div(p.shares * v.tokens, v.shares)) > 0
    """),
    key=("of",),
    projection="staking",
)


@dataclass(frozen=True, slots=True)
class OfEarnings:
    board: Id
    """harvest, providers, staking or customers."""
    days: Count = 30
    """How many days (UTC), today included, each for itself; 0 for all time."""


analytics.get(
    "concentration",
    Concentration,
    _concentration(f"""
        SELECT CASE WHEN l.size = 'all' THEN 'all' ELSE to_char(l.start AT TIME ZONE 'UTC', 'YYYY-MM-DD') END AS of,
               principal AS holder, amount AS x, l.position AS version, incomplete
        FROM read.analytics_leaders l JOIN live USING (zone, generation)
        WHERE {_ON_BOARD}
    """),  # noqa: S608 - made of our own text only
    key=("of",),
    descending=True,
    parameters=OfEarnings,
)

# Refusals


@dataclass(frozen=True, slots=True)
class OfRefusals:
    size: Id = "hour"
    buckets: Count = 24
    """How many, the newest first; at most 1,000."""
    until: datetime = FOR_EVER
    rule: Id = ""


@dataclass(frozen=True, slots=True)
class Rejections:
    """How often a rule refused commands in an hour or a day, newest first, and by which commands.

    `refused` by this rule, `all_refused` by any, `accepted` all commands that were; `rate` = floor(10000 * refused /
    (accepted + all_refused)) in basis points. What was not found, not allowed or malformed was never recorded, so it is
    not counted. This is counted from the record of commands itself, as of now: it has everything up to the answer's
    position, and what was refused since, which moves no position.
    """

    start: datetime
    rule: str
    refused: int
    all_refused: int
    accepted: int
    rate: int
    commands: dict[str, Any]
    """How many of each."""
    version: int
    incomplete: bool


def number_before(time: str) -> str:
    """The number of the zone's last command before a time; numbers are gapless and in the order of time."""
    return f"""
    coalesce((
        SELECT c.number FROM commands c
        WHERE c.zone = %(zone)s AND c.recorded_at < {time} AND c.number >= m.number AND c.number < m.number + 1000
        ORDER BY c.number DESC LIMIT 1
    ), 0)
    FROM (SELECT coalesce((
        SELECT c.number FROM commands c
        WHERE c.zone = %(zone)s AND c.recorded_at < {time} AND c.number %% 1000 = 0
        ORDER BY c.recorded_at DESC, c.number DESC LIMIT 1
    ), 0) AS number) m
    """  # noqa: S608 - made of our own text only


analytics.get(
    "rejections",
    Rejections,
    f"""
    WITH b AS (
        SELECT bucket.start, bucket.start + width AS ends, unit
        FROM heads {_buckets("heads.recorded_at")}
        WHERE heads.zone = %(zone)s AND %(size)s IN ('hour', 'day')
    ), refusals AS (
        SELECT date_trunc(unit, recorded_at, 'UTC') AS start,
               replace(convert_from(answer, 'UTF8')::json ->> 'type', '/problems/', '') AS rule,
               convert_from(request, 'UTF8')::json ->> 'command' AS command, count(*) AS number,
               max(position) AS version
        FROM (SELECT min(start) AS since, max(ends) AS until, min(unit) AS unit FROM b) span
        JOIN commands ON zone = %(zone)s AND status <> 200 AND recorded_at >= since AND recorded_at < until
        GROUP BY 1, 2, 3
    ), rules AS (
        SELECT start, rule, sum(number)::bigint AS refused, jsonb_object_agg(command, number) AS commands,
               max(version) AS version, (sum(sum(number)) OVER (PARTITION BY start))::bigint AS all_refused
        FROM refusals GROUP BY start, rule
    ), issued AS (
        SELECT start, (SELECT {number_before("ends")}) - (SELECT {number_before("start")}) AS number
        FROM b WHERE start IN (SELECT start FROM rules)
    )
    SELECT start, rule, refused, all_refused, issued.number - all_refused AS accepted,
           {_rate("refused", "issued.number")} AS rate, commands, version, false AS incomplete
    FROM rules JOIN issued USING (start)
    WHERE %(rule)s = '' OR rule = %(rule)s
    """,  # noqa: S608 - made of our own text only
    key=("start", "rule"),
    descending=True,
    parameters=OfRefusals,
    roles=SEES_ALL,
    timeless=False,
)

# Everything at a glance


@dataclass(frozen=True, slots=True)
class Overview:
    """The market at a glance, as of the last event that the answer reflects. Shares are in basis points.

    What stands: `supply` and `staked` FOG, and their `staking_ratio`; `devices` in service and those noted as online,
    open harvest `sessions`; units `offered` and `used`, and their `utilisation`; `open_requests` and the units they ask
    for; running contracts; obligations that are not settled and their amount of FOG.
    What happened in the last 24 hours, the running one and the 23 before it: contracts opened, the `unit_hours` they
    booked and their `turnover`; FOG moved between accounts; service levels reported, and the `attainment` of those
    that count (null: none); what harvesting paid.
    `prices` has for each service type the `last` price of a unit-hour, the `median` of its lanes' last prices (the
    lower one of two in the middle), and how many lanes those are.
    """

    zone: str
    at: datetime
    supply: Money
    staked: Money
    staking_ratio: int
    devices: int
    devices_online: int
    sessions: int
    offered: Total
    used: Total
    utilisation: int
    open_requests: int
    requested: Total
    contracts_active: int
    contracts_24h: int
    unit_hours_24h: Total
    turnover_24h: Total
    volume_24h: Total
    windows_24h: int
    attainment_24h: int | None
    harvest_payout_24h: Total
    open_obligations: int
    owed: Total
    prices: dict[str, Any]
    version: int
    incomplete: bool


def _standing(measure: str) -> str:
    return f"coalesce(sum(level) FILTER (WHERE measure = '{measure}'), 0) AS {measure}"


def _last_day(columns: str, table: str) -> str:
    return f"""
    (SELECT {columns}, coalesce(bool_or(incomplete), false) AS incomplete
     FROM read.analytics_{table} x JOIN live USING (zone, generation)
     WHERE x.size = 'hour' AND x.start > date_trunc('hour', live.as_of, 'UTC') - interval '24 hours') {table}
    """  # noqa: S608 - made of our own text only


_MEASURES = (
    "supply",
    "bonded",
    "devices",
    "online",
    "sessions",
    "offered",
    "used",
    "requests",
    "requested",
    "contracts",
)
_STANDING = ", ".join(map(_standing, _MEASURES))
_TRADED = (
    "coalesce(sum(contracts), 0) AS opened, coalesce(sum(unit_minutes), 0) AS unit_minutes,"
    " coalesce(sum(turnover), 0) AS turnover, coalesce(sum(windows), 0) AS windows,"
    " coalesce(sum(missed), 0) AS missed, coalesce(sum(excused), 0) AS excused"
)

analytics.get(
    "overview",
    Overview,
    f"""
    SELECT live.zone, live.as_of AS at, supply, bonded AS staked, {_rate("bonded", "supply")} AS staking_ratio,
           devices::bigint AS devices, online::bigint AS devices_online, sessions::bigint AS sessions, offered, used,
           {_rate("used", "offered")} AS utilisation, requests::bigint AS open_requests, requested,
           contracts::bigint AS contracts_active, opened::bigint AS contracts_24h,
           div(unit_minutes, 60) AS unit_hours_24h, turnover AS turnover_24h, volume AS volume_24h,
           windows::bigint AS windows_24h, {_ATTAINMENT} AS attainment_24h, reward AS harvest_payout_24h,
           open_obligations, owed, prices, live.position AS version,
           levels.incomplete OR market.incomplete OR economy.incomplete OR harvest.incomplete
           OR obligations.incomplete OR last_prices.incomplete AS incomplete
    FROM live
    CROSS JOIN (
        SELECT {_STANDING}, coalesce(bool_or(incomplete), false) AS incomplete
        FROM read.analytics_levels JOIN live USING (zone, generation)
    ) levels
    CROSS JOIN {_last_day(_TRADED, "market")}
    CROSS JOIN {_last_day("coalesce(sum(volume), 0) AS volume", "economy")}
    CROSS JOIN {_last_day("coalesce(sum(reward), 0) AS reward", "harvest")}
    CROSS JOIN (
        SELECT count(*) AS open_obligations, coalesce(sum(amount) FILTER (WHERE asset = '{FOG}'), 0) AS owed,
               coalesce(bool_or(incomplete), false) AS incomplete
        FROM read.analytics_obligations JOIN live USING (zone, generation)
    ) obligations
    CROSS JOIN (
        SELECT coalesce(jsonb_object_agg(service_type, price), '{{}}') AS prices,
               coalesce(bool_or(incomplete), false) AS incomplete
        FROM (
            SELECT service_type, bool_or(incomplete) AS incomplete, jsonb_build_object(
                'last', (array_agg(price ORDER BY p.position DESC))[1]::text,
                'median', (percentile_disc(0.5) WITHIN GROUP (ORDER BY price))::text,
                'lanes', count(*)) AS price
            FROM read.analytics_prices p JOIN live USING (zone, generation)
            GROUP BY service_type
        ) by_service
    ) last_prices
    """,  # noqa: S608 - made of our own text only
    key=("zone",),
)
