"""What all contexts together come to, by hour and by day: markets, harvest, staking, settlement, and who leads.

A bucket holds what was *recorded* in its hour or day (UTC), so a bucket that is over never changes. What flows (a
price, a payment) is added to its hour and its day. What stands (units in use, the supply) is a *level*: a step row
exists only for buckets in which the level changed, and holds it at the bucket's start and end with the *moment*, the
sum of each change times the microseconds from it to the bucket's end. So the level integrated over the bucket is
`opening * length + moment`, up to an earlier time `t` of it that less `closing * (end - t)`, and over a bucket without
a row it is the last `closing` times its length: exact, and one event touches one hour and one day, however long nothing
happened before.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from commands._codec import EPOCH
from domain._kernel import FOG
from domain.devices import (
    DeviceCameOnline,
    DeviceRegistered,
    DeviceRelocated,
    DeviceRetired,
    DeviceWentOffline,
)
from domain.harvest import (
    ContributionRecorded,
    ContributionRejected,
    ContributionValidated,
    HarvestSessionStarted,
    HarvestSessionStopped,
    RewardPaid,
)
from domain.ledger import WORLD, Debited, TokensBurned, TokensMinted
from domain.marketplace.contracts import (
    ContractBreached,
    ContractExpired,
    ContractOpened,
    ContractTerminated,
    EscrowSplit,
    PeriodNetted,
    PeriodSettled,
    ServiceLevelReported,
    ServiceStarted,
)
from domain.marketplace.offerings import (
    LaneDemandChanged,
    OfferingPaused,
    OfferingRegistered,
    OfferingResumed,
    OfferingWithdrawn,
    UnitsReserved,
    UnitsReturned,
)
from domain.settlement.windows import ObligationRecorded, ObligationsSettled
from domain.staking import (
    RewardsSettled,
    SharesBurned,
    SharesIssued,
    TokensRestored,
    TokensSlashed,
    ValidatorRewarded,
)
from projections._engine import Projection, Record, Rows
from projections._tables import Money, Row, Total, table

MICROSECOND = timedelta(microseconds=1)
MILLISECOND = timedelta(milliseconds=1)

Place = tuple[str, str, str]
"""Service type, region and tier; empty where that says nothing."""
ZONE: Place = ("", "", "")


@table("analytics_levels", key=("measure", "service_type", "region", "tier"))
class Level(Row):
    """What stands now.

    Of a lane: `offered` and `used` units, running `contracts`, open `requests` and the units they ask for
    (`requested`). Of a region: `devices` in service, those `online`, open harvest `sessions`. Of the zone: `supply`
    and `bonded` FOG.
    """

    measure: str
    service_type: str
    region: str
    tier: str
    level: Money = 0


@table("analytics_steps", key=("measure", "service_type", "region", "tier", "size", "start"))
class Step(Row):
    """A bucket in which a level changed."""

    measure: str
    service_type: str
    region: str
    tier: str
    size: str
    """hour or day."""
    start: datetime
    opening: Money | None = None
    closing: Money = 0
    moment: Total = 0
    """Unit-microseconds."""


@table("analytics_market", key=("size", "start", "service_type", "region", "tier"))
class Market(Row):
    """What happened in a lane. Prices are those of one unit for one hour."""

    size: str
    start: datetime
    service_type: str
    region: str
    tier: str
    contracts: int = 0
    """Opened."""
    unit_minutes: Total = 0
    """What those booked."""
    turnover: Total = 0
    """What those cost when all of it is used."""
    open: Money | None = None
    high: Money = 0
    low: Money = 0
    close: Money = 0
    first: int = 0
    """The positions of the first and the last of those contracts."""
    last: int = 0
    periods: int = 0
    """Settled or netted."""
    unit_ms: Total = 0
    charge: Total = 0
    penalties: Total = 0
    fees: Total = 0
    paid: Total = 0
    """To providers; of netted periods what became owed to them, the fee taken off."""
    unpaid: Total = 0
    windows: int = 0
    """Service levels reported."""
    missed: int = 0
    excused: int = 0
    breaches: int = 0


@table("analytics_prices", key=("service_type", "region", "tier"))
class LastPrice(Row):
    """What a unit-hour cost in a lane's newest contract; the row's position is that contract's."""

    service_type: str
    region: str
    tier: str
    price: Money = 0


@table("analytics_harvest", key=("size", "start", "region"))
class Harvest(Row):
    """What harvesting gave in a region; work and rewards count when they are paid."""

    size: str
    start: datetime
    region: str
    sessions: int = 0
    """Started."""
    running_ms: Total = 0
    """Of sessions that stopped."""
    contributions: int = 0
    rejected: int = 0
    paid: int = 0
    tasks: int = 0
    reward: Total = 0
    cpu_ms: Total = 0
    memory_mb_ms: Total = 0
    bandwidth_bytes: Total = 0
    storage_mb_ms: Total = 0
    gpu_tenths_ms: Total = 0
    """GPU-milliseconds times the tenths of a point that an hour of them was worth when they were validated."""


@table("analytics_economy", key=("size", "start"))
class Economy(Row):
    """What happened to FOG in the zone."""

    size: str
    start: datetime
    transfers: int = 0
    """Moves between two accounts of the zone; minting and burning are none."""
    volume: Total = 0
    """What those moved."""
    minted: Total = 0
    burned: Total = 0
    rewards: Total = 0
    """Allocated to delegators: commission, and what went to the community pool, left out."""
    commission: Total = 0
    slashed: Total = 0


@table("analytics_settlement", key=("size", "start", "asset"))
class Settlement(Row):
    size: str
    start: datetime
    asset: str
    recorded: int = 0
    recorded_amount: Total = 0
    settled: int = 0
    settled_amount: Total = 0
    settled_ms: Total = 0
    """Sum of their ages when they settled."""
    oldest_ms: Total = 0


@table(
    "analytics_leaders",
    key=("board", "size", "start", "principal"),
    indexes=("board, size, start, amount DESC, principal DESC",),
)
class Leader(Row):
    board: str
    """harvest, providers, staking (what they earned) or customers (what they spent)."""
    size: str
    """day, or all: of all time."""
    start: datetime
    principal: str
    amount: Total = 0
    number: int = 0
    """Of payments."""


# What later events of the same subject do not say themselves.


@table("analytics_offerings", key=("offering",))
class Offering(Row):
    offering: str
    service_type: str = ""
    region: str = ""
    tier: str = ""
    capacity: int = 0
    used: int = 0
    active: bool = False

    @property
    def offered(self) -> int:
        """An offering that takes nothing new still offers what is in use."""
        return self.capacity if self.active else self.used


@table("analytics_contracts", key=("contract",))
class Contract(Row):
    """A contract that has periods to settle."""

    contract: str
    service_type: str = ""
    region: str = ""
    tier: str = ""
    running: bool = False


@table("analytics_devices", key=("device",))
class Device(Row):
    device: str
    region: str = ""
    online: bool = False
    in_service: bool = False


@table("analytics_sessions", key=("session",))
class Session(Row):
    """An open harvest session."""

    session: str
    region: str = ""


@table("analytics_contributions", key=("session", "seq"))
class Contribution(Row):
    """A contribution that was not paid."""

    session: str
    seq: str
    region: str = ""
    cpu_ms: int = 0
    memory_mb_ms: int = 0
    bandwidth_bytes: int = 0
    storage_mb_ms: int = 0
    gpu_ms: int = 0
    tasks: int = 0
    gpu_tenths: int = 0


@table("analytics_obligations", key=("obligation",), indexes=("asset, recorded_at",))
class Obligation(Row):
    """What is owed: recorded, and not settled."""

    obligation: str
    asset: str = ""
    amount: Money = 0
    recorded_at: datetime = EPOCH


analytics = Projection(
    "analytics",
    Level,
    Step,
    Market,
    LastPrice,
    Harvest,
    Economy,
    Settlement,
    Leader,
    Offering,
    Contract,
    Device,
    Session,
    Contribution,
    Obligation,
)

# Buckets


class Bucket(NamedTuple):
    size: str
    start: datetime
    left_us: int
    """Microseconds until its end."""


@lru_cache(maxsize=1024)
def _buckets(at: datetime) -> tuple[Bucket, Bucket]:
    """The hour and the day that a time is in."""
    at = at.astimezone(UTC)
    hour = at.replace(minute=0, second=0, microsecond=0)
    day = hour.replace(hour=0)
    return (
        Bucket("hour", hour, (hour + timedelta(hours=1) - at) // MICROSECOND),
        Bucket("day", day, (day + timedelta(hours=24) - at) // MICROSECOND),
    )


def _change(rows: Rows, record: Record, measure: str, place: Place, delta: int) -> None:
    """A level rises or falls."""
    if not delta:
        return
    level = rows.of(Level, measure, *place)
    for size, start, left_us in _buckets(record.recorded_at):
        step = rows.of(Step, measure, *place, size, start)
        if step.opening is None:
            step.opening = level.level
        step.closing = level.level + delta
        step.moment += delta * left_us
    level.level += delta


def _earn(rows: Rows, record: Record, board: str, principal: str, amount: int) -> None:
    if not amount:
        return
    day = _buckets(record.recorded_at)[1]
    for size, start in (("day", day.start), ("all", EPOCH)):
        leader = rows.of(Leader, board, size, start, principal)
        leader.amount += amount
        leader.number += 1


# The zone's FOG


@analytics.on(Debited)
def debited(rows: Rows, event: Debited, record: Record) -> None:
    if event.asset == FOG and WORLD not in (record.stream, event.to):
        for size, start, _ in _buckets(record.recorded_at):
            row = rows.of(Economy, size, start)
            row.transfers += 1
            row.volume += event.amount


@analytics.on(TokensMinted)
def tokens_minted(rows: Rows, event: TokensMinted, record: Record) -> None:
    if record.id == FOG:
        for size, start, _ in _buckets(record.recorded_at):
            rows.of(Economy, size, start).minted += event.amount
        _change(rows, record, "supply", ZONE, event.amount)


@analytics.on(TokensBurned)
def tokens_burned(rows: Rows, event: TokensBurned, record: Record) -> None:
    if record.id == FOG:
        for size, start, _ in _buckets(record.recorded_at):
            rows.of(Economy, size, start).burned += event.amount
        _change(rows, record, "supply", ZONE, -event.amount)


# Staking


@analytics.on(SharesIssued)
def shares_issued(rows: Rows, event: SharesIssued, record: Record) -> None:
    _change(rows, record, "bonded", ZONE, event.tokens)


@analytics.on(SharesBurned)
def shares_burned(rows: Rows, event: SharesBurned, record: Record) -> None:
    _change(rows, record, "bonded", ZONE, -event.tokens)


@analytics.on(TokensSlashed)
def tokens_slashed(rows: Rows, event: TokensSlashed, record: Record) -> None:
    for size, start, _ in _buckets(record.recorded_at):
        rows.of(Economy, size, start).slashed += event.tokens
    _change(rows, record, "bonded", ZONE, -event.tokens)


@analytics.on(TokensRestored)
def tokens_restored(rows: Rows, event: TokensRestored, record: Record) -> None:
    _change(rows, record, "bonded", ZONE, event.tokens)


@analytics.on(ValidatorRewarded)
def validator_rewarded(rows: Rows, event: ValidatorRewarded, record: Record) -> None:
    for size, start, _ in _buckets(record.recorded_at):
        row = rows.of(Economy, size, start)
        row.rewards += event.tokens - event.commission - event.community
        row.commission += event.commission


@analytics.on(RewardsSettled)
def rewards_settled(rows: Rows, event: RewardsSettled, record: Record) -> None:
    _earn(rows, record, "staking", record.id.partition(":")[2], event.tokens)


# Offerings and requests


def _lane(row: Offering | Contract) -> Place:
    return row.service_type, row.region, row.tier


def _resize(
    rows: Rows, record: Record, row: Offering, used: int | None = None, active: bool | None = None
) -> None:
    """An offering's units in use, or whether it takes anything new, become something else."""
    offered_before, used_before = row.offered, row.used
    row.used = row.used if used is None else used
    row.active = row.active if active is None else active
    _change(rows, record, "offered", _lane(row), row.offered - offered_before)
    _change(rows, record, "used", _lane(row), row.used - used_before)


@analytics.on(OfferingRegistered)
def offering_registered(rows: Rows, event: OfferingRegistered, record: Record) -> None:
    row = rows.of(Offering, record.id)
    row.service_type, row.region, row.tier = event.service_type, event.region, event.tier
    row.capacity = event.capacity
    _resize(rows, record, row, active=True)


@analytics.on(OfferingPaused)
def offering_paused(rows: Rows, event: OfferingPaused, record: Record) -> None:
    _resize(rows, record, rows.of(Offering, record.id), active=False)


@analytics.on(OfferingResumed)
def offering_resumed(rows: Rows, event: OfferingResumed, record: Record) -> None:
    _resize(rows, record, rows.of(Offering, record.id), active=True)


@analytics.on(OfferingWithdrawn)
def offering_withdrawn(rows: Rows, event: OfferingWithdrawn, record: Record) -> None:
    _resize(rows, record, rows.of(Offering, record.id), active=False)


@analytics.on(UnitsReserved)
def units_reserved(rows: Rows, event: UnitsReserved, record: Record) -> None:
    _resize(rows, record, rows.of(Offering, record.id), used=event.used)


@analytics.on(UnitsReturned)
def units_returned(rows: Rows, event: UnitsReturned, record: Record) -> None:
    _resize(rows, record, rows.of(Offering, record.id), used=event.used)


@analytics.on(LaneDemandChanged)
def lane_demand_changed(rows: Rows, event: LaneDemandChanged, record: Record) -> None:
    """A request's units come and go as a whole."""
    service_type, region, tier = record.id.split(":")
    _change(rows, record, "requested", (service_type, region, tier), event.units)
    _change(rows, record, "requests", (service_type, region, tier), 1 if event.units > 0 else -1)


# Contracts


@analytics.on(ContractOpened)
def contract_opened(rows: Rows, event: ContractOpened, record: Record) -> None:
    contract = rows.of(Contract, record.id)
    contract.service_type, contract.region, contract.tier = (
        event.service_type,
        event.region,
        event.terms.tier,
    )
    price = event.terms.price
    rows.of(LastPrice, *_lane(contract)).price = price
    for size, start, _ in _buckets(record.recorded_at):
        row = rows.of(Market, size, start, *_lane(contract))
        if row.open is None:
            row.open, row.low, row.first = price, price, record.position
        row.high, row.low, row.close = max(row.high, price), min(row.low, price), price
        row.last = record.position
        row.contracts += 1
        row.unit_minutes += event.terms.units * event.terms.minutes
        row.turnover += event.charge


@analytics.on(ServiceStarted)
def service_started(rows: Rows, event: ServiceStarted, record: Record) -> None:
    row = rows.of(Contract, record.id)
    row.running = True
    _change(rows, record, "contracts", _lane(row), 1)


def _stop(rows: Rows, record: Record, *, for_good: bool) -> None:
    """A contract's service ends; for good when nothing of it is left to settle."""
    row = rows.of(Contract, record.id)
    if row.running:
        row.running = False
        _change(rows, record, "contracts", _lane(row), -1)
    if for_good:
        rows.delete(Contract, record.id)


@analytics.on(ContractTerminated)
def contract_terminated(rows: Rows, event: ContractTerminated, record: Record) -> None:
    _stop(rows, record, for_good=not event.started)


@analytics.on(ContractExpired)
def contract_expired(rows: Rows, event: ContractExpired, record: Record) -> None:
    _stop(rows, record, for_good=True)


@analytics.on(EscrowSplit)
def escrow_split(rows: Rows, event: EscrowSplit, record: Record) -> None:
    _stop(rows, record, for_good=True)
    _earn(rows, record, "providers", event.provider, event.to_provider)
    _earn(rows, record, "customers", event.customer, event.to_provider)


@analytics.on(PeriodSettled)
def period_settled(rows: Rows, event: PeriodSettled, record: Record) -> None:
    _settle(rows, record, event, event.paid, event.unpaid)


@analytics.on(PeriodNetted)
def period_netted(rows: Rows, event: PeriodNetted, record: Record) -> None:
    _settle(rows, record, event, event.due - event.fee, 0)


def _settle(rows: Rows, record: Record, event: PeriodSettled | PeriodNetted, paid: int, unpaid: int) -> None:
    for size, start, _ in _buckets(record.recorded_at):
        row = rows.of(Market, size, start, event.service_type, event.region, event.tier)
        row.periods += 1
        row.unit_ms += event.unit_ms
        row.charge += event.charge
        row.penalties += event.penalty
        row.fees += event.fee
        row.paid += paid
        row.unpaid += unpaid
    _earn(rows, record, "providers", event.provider, paid)
    _earn(rows, record, "customers", event.customer, paid + event.fee)
    if event.last:
        _stop(rows, record, for_good=True)


@analytics.on(ServiceLevelReported)
def service_level_reported(rows: Rows, event: ServiceLevelReported, record: Record) -> None:
    lane = _lane(rows.of(Contract, record.id))
    for size, start, _ in _buckets(record.recorded_at):
        row = rows.of(Market, size, start, *lane)
        row.windows += 1
        row.missed += bool(event.missed)
        row.excused += event.excused


@analytics.on(ContractBreached)
def contract_breached(rows: Rows, event: ContractBreached, record: Record) -> None:
    lane = _lane(rows.of(Contract, record.id))
    for size, start, _ in _buckets(record.recorded_at):
        rows.of(Market, size, start, *lane).breaches += 1


# Devices


def _stand(
    rows: Rows,
    record: Record,
    region: str | None = None,
    online: bool | None = None,
    in_service: bool | None = None,
) -> None:
    """A device is somewhere else, comes or goes."""
    row = rows.of(Device, record.id)
    before, was_online, was_in_service = ("", row.region, ""), row.online, row.in_service
    row.region = row.region if region is None else region
    row.online = row.online if online is None else online
    row.in_service = row.in_service if in_service is None else in_service
    after = ("", row.region, "")
    for measure, was, now in (
        ("devices", was_in_service, row.in_service),
        ("online", was_online, row.online),
    ):
        if before == after:
            _change(rows, record, measure, after, now - was)
        else:
            _change(rows, record, measure, before, -was)
            _change(rows, record, measure, after, +now)


@analytics.on(DeviceRegistered)
def device_registered(rows: Rows, event: DeviceRegistered, record: Record) -> None:
    _stand(rows, record, region=event.region, in_service=True)


@analytics.on(DeviceRelocated)
def device_relocated(rows: Rows, event: DeviceRelocated, record: Record) -> None:
    _stand(rows, record, region=event.region)


@analytics.on(DeviceCameOnline)
def device_came_online(rows: Rows, event: DeviceCameOnline, record: Record) -> None:
    _stand(rows, record, online=True)


@analytics.on(DeviceWentOffline)
def device_went_offline(rows: Rows, event: DeviceWentOffline, record: Record) -> None:
    _stand(rows, record, online=False)


@analytics.on(DeviceRetired)
def device_retired(rows: Rows, event: DeviceRetired, record: Record) -> None:
    _stand(rows, record, online=False, in_service=False)


# Harvest


@analytics.on(HarvestSessionStarted)
def harvest_session_started(rows: Rows, event: HarvestSessionStarted, record: Record) -> None:
    rows.of(Session, record.id).region = event.region
    for size, start, _ in _buckets(record.recorded_at):
        rows.of(Harvest, size, start, event.region).sessions += 1
    _change(rows, record, "sessions", ("", event.region, ""), 1)


@analytics.on(HarvestSessionStopped)
def harvest_session_stopped(rows: Rows, event: HarvestSessionStopped, record: Record) -> None:
    region = rows.of(Session, record.id).region
    for size, start, _ in _buckets(record.recorded_at):
        rows.of(Harvest, size, start, region).running_ms += event.running_ms
    _change(rows, record, "sessions", ("", region, ""), -1)
    rows.delete(Session, record.id)


def _contribution(rows: Rows, record: Record) -> Contribution:
    session, _, seq = record.id.partition(":")
    return rows.of(Contribution, session, seq)


@analytics.on(ContributionRecorded)
def contribution_recorded(rows: Rows, event: ContributionRecorded, record: Record) -> None:
    row, work = _contribution(rows, record), event.work
    row.region, row.cpu_ms, row.memory_mb_ms = event.region, work.cpu_ms, work.memory_mb_ms
    row.bandwidth_bytes, row.storage_mb_ms = work.bandwidth_bytes, work.storage_mb_ms
    row.gpu_ms = work.gpu_ms
    for size, start, _ in _buckets(record.recorded_at):
        rows.of(Harvest, size, start, event.region).contributions += 1


@analytics.on(ContributionValidated)
def contribution_validated(rows: Rows, event: ContributionValidated, record: Record) -> None:
    row = _contribution(rows, record)
    row.tasks, row.gpu_tenths = event.tasks, event.gpu_tenths


@analytics.on(ContributionRejected)
def contribution_rejected(rows: Rows, event: ContributionRejected, record: Record) -> None:
    region = _contribution(rows, record).region
    for size, start, _ in _buckets(record.recorded_at):
        rows.of(Harvest, size, start, region).rejected += 1


@analytics.on(RewardPaid)
def reward_paid(rows: Rows, event: RewardPaid, record: Record) -> None:
    work = _contribution(rows, record)
    for size, start, _ in _buckets(record.recorded_at):
        row = rows.of(Harvest, size, start, work.region)
        row.paid += 1
        row.tasks += work.tasks
        row.reward += event.amount
        row.cpu_ms += work.cpu_ms
        row.memory_mb_ms += work.memory_mb_ms
        row.bandwidth_bytes += work.bandwidth_bytes
        row.storage_mb_ms += work.storage_mb_ms
        row.gpu_tenths_ms += work.gpu_ms * work.gpu_tenths
    _earn(rows, record, "harvest", event.owner, event.amount)
    rows.delete(Contribution, work.session, work.seq)


# Settlement


@analytics.on(ObligationRecorded)
def obligation_recorded(rows: Rows, event: ObligationRecorded, record: Record) -> None:
    row = rows.of(Obligation, record.id)
    row.asset, row.amount, row.recorded_at = event.asset, event.amount, record.recorded_at
    for size, start, _ in _buckets(record.recorded_at):
        bucket = rows.of(Settlement, size, start, event.asset)
        bucket.recorded += 1
        bucket.recorded_amount += event.amount


@analytics.on(ObligationsSettled)
def obligations_settled(rows: Rows, event: ObligationsSettled, record: Record) -> None:
    for obligation in event.obligations:
        row = rows.of(Obligation, obligation)
        age_ms = (record.recorded_at - row.recorded_at) // MILLISECOND
        for size, start, _ in _buckets(record.recorded_at):
            bucket = rows.of(Settlement, size, start, row.asset)
            bucket.settled += 1
            bucket.settled_amount += row.amount
            bucket.settled_ms += age_ms
            bucket.oldest_ms = max(bucket.oldest_ms, age_ms)
        rows.delete(Obligation, obligation)
