"""Analytics' folds against a second, naive account of the same history.

Flows are recomputed by picking events out of the log; what stands is read off the streams' own states after every
command. Neither shares a line with the projection.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest

from commands._codec import streams
from domain.devices import (
    Capabilities,
    Heartbeat,
    MarkOffline,
    RegisterDevice,
    RelocateDevice,
    ResumeDevice,
    RetireDevice,
    SuspendDevice,
)
from domain.harvest import (
    ApproveReward,
    DecideContribution,
    DisputeContribution,
    EnrolHarvester,
    RecordContribution,
    ReportDeviceState,
    Result,
    StartHarvestSession,
    StopHarvestSession,
    TaskResult,
    ValidateContribution,
)
from domain.ledger import BurnTokens, DefineAsset, MintTokens, OpenWallet, Transfer
from domain.marketplace.contracts import (
    ExpireContract,
    MeterUsage,
    OpenContract,
    PauseContract,
    RenewContract,
    ReportServiceLevel,
    SettlePeriod,
    StartService,
    TerminateContract,
)
from domain.marketplace.offerings import (
    PauseOffering,
    RegisterOffering,
    ResumeOffering,
    WithdrawOffering,
)
from domain.marketplace.requests import (
    AcceptBid,
    AllocateBurst,
    CloseBidding,
    ExpireRequest,
    MatchRequest,
    PlaceBid,
    RequestService,
    Requirement,
    WithdrawRequest,
)
from domain.platform import CreateZone
from domain.settlement.disputes import OpenDispute, ResolveDispute
from domain.settlement.windows import (
    CloseWindow,
    FinaliseSettlement,
    OpenWindow,
    RecordObligation,
    ReservePositions,
)
from domain.staking import (
    AllocateRewards,
    AppealSlash,
    BeginUnbonding,
    ClaimRewards,
    CompleteUnbonding,
    DecideAppeal,
    Delegate,
    RegisterValidator,
    Slash,
    Unjail,
)
from projections import analytics
from projections.analytics import Bucket
from tests.scenario import START
from tests.unit.test_projections import History, cuts, folded, shown

PEOPLE = ("ana", "ben", "pia", "pol")
DEVICES = {"d1": ("pia", "eu"), "d2": ("pol", "us"), "d3": ("pia", "us"), "d4": ("ben", "eu")}
OFFERINGS = {
    "o1": ("d1", "pia", "bronze", "pay_as_you_go"),
    "o2": ("d2", "pol", "gold", "reserved"),
    "o3": ("d3", "pia", "silver", "spot"),
    "o4": ("d1", "pia", "silver", "flat_rate"),
}
RICH = 10**12
BIG = Capabilities(64_000, 256_000, 1_000_000, 1_000_000, 8)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SPANS = {"hour": timedelta(hours=1), "day": timedelta(hours=24)}
STEPS = 900


# A history of all contexts


class Told(History):
    """A history that can be told again: when everything was tried, by whom, and whether it was accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.tried: list[tuple[datetime, Any, str, str, bool]] = []

    def issue(self, command: Any, by: str = "admin", role: str | None = None) -> bool:
        role = role or ("operator" if by == "admin" else "participant")
        accepted = super().issue(command, by, role)
        self.tried.append((self.book.now, command, by, role, accepted))
        return accepted


def village() -> Told:
    made = Told()
    made.issue(CreateZone("main", "manual"))
    made.issue(DefineAsset("GOLD", 2, 0))
    for name in (*PEOPLE, "vera"):
        made.issue(OpenWallet(f"wallet:{name}"), name)
        made.issue(MintTokens(f"wallet:{name}", RICH, "start", name))
        made.issue(MintTokens(f"wallet:{name}", 1_000, "start", f"{name}-gold", "GOLD"))
    for fund in ("pool:rewards", "treasury"):
        made.issue(MintTokens(fund, RICH, "budget", fund))
    made.issue(RegisterValidator("v1", 1_000_000, 700, 500), "vera")
    for device, (owner, region) in DEVICES.items():
        assert made.issue(RegisterDevice(device, "phone", BIG, region), owner)
        assert made.issue(EnrolHarvester(device, BIG), owner)
    for offering, (device, owner, tier, pricing) in OFFERINGS.items():
        offer = RegisterOffering(offering, device, "web", tier, 1_000, 1_000, 0, 20, 1_000_000, pricing)
        assert made.issue(offer, owner)
    return made


@cache
def lived(seed: int, steps: int = STEPS) -> Told:
    """A random but lively history."""
    rng, made = random.Random(seed), village()
    for step in range(steps):
        span = rng.choice((0, 7, 61, 600, 600, 900, 1800, 3600, 5000, 5000, 90_000 if step % 9 == 0 else 11))
        made.book.now += timedelta(seconds=span, microseconds=rng.randint(0, 999_999))
        if step == steps // 2:
            made.book.now += timedelta(days=40)
        for item in rng.choice(CONTEXTS)(rng, made, step):
            made.issue(*item)
        for timer in _due(rng, made):
            made.issue(*timer)
    return made


Steps = Iterable[tuple[Any, ...]]


def _of(made: History, category: str, *statuses: str) -> list[tuple[str, Any]]:
    """Ids and states of the streams of a category that stand so."""
    found = ((name.partition(":")[2], made.state(name)) for name in made.names(category))
    return [(id, state) for id, state in found if state.status in statuses]


def _ledger(rng: random.Random, made: History, step: int) -> Steps:
    who, other = rng.sample(PEOPLE, 2)
    asset = rng.choice(("FOG", "FOG", "GOLD"))
    yield Transfer(f"wallet:{who}", f"wallet:{other}", rng.randint(1, 50), asset=asset), who
    yield BurnTokens(f"wallet:{who}", rng.randint(1, 999), "old"), who
    yield (MintTokens("treasury", rng.randint(1, 10**6), "budget", f"m{step}"),)


def _staking(rng: random.Random, made: History, step: int) -> Steps:
    who = rng.choice(PEOPLE)
    yield Unjail("v1"), "vera"
    yield Delegate("v1", rng.randint(1, 10**6)), who
    if rng.random() < 0.5:
        yield (AllocateRewards(f"a{step}", rng.randint(1, 10**6)),)
    yield rng.choice(((BeginUnbonding("v1", rng.randint(1, 10**5)), who), (ClaimRewards("v1"), who)))
    if step % 5 == 0:
        yield (Slash("v1", "downtime", made.book.now, f"e{step}"),)
        yield AppealSlash(f"e{step}", "no"), "vera"
        yield (DecideAppeal(f"e{step}", rng.random() < 0.5, "so be it"),)


def _devices(rng: random.Random, made: History, step: int) -> Steps:
    device = rng.choice(list(DEVICES))
    owner = DEVICES[device][0]
    yield Heartbeat(device, step), owner
    if step % 6 == 0:
        yield MarkOffline(device), owner
    if device == "d4" or step > STEPS * 9 // 10:
        yield RelocateDevice(device, rng.choice(("eu", "us", "asia"))), owner
    if step % 11 == 0:
        yield SuspendDevice("d4", "asked"), "ben"
        yield ResumeDevice("d4"), "ben"
    if step > STEPS * 3 // 4:
        yield RetireDevice("d4"), "ben"


def _offerings(rng: random.Random, made: History, step: int) -> Steps:
    offering = rng.choice(list(OFFERINGS))
    owner = OFFERINGS[offering][1]
    yield rng.choice((PauseOffering, ResumeOffering, ResumeOffering))(offering), owner
    if step > STEPS * 3 // 4:
        yield WithdrawOffering("o4"), "pia"


def _contracts(rng: random.Random, made: History, step: int) -> Steps:
    who, offering = rng.choice(PEOPLE), rng.choice(list(OFFERINGS))
    settlement = rng.choice(("escrow", "escrow", "netted"))
    minutes = rng.choice((45, 60, 150, 600))
    yield OpenContract(f"k{step}", offering, rng.randint(1, 3), minutes, None, True, settlement), who
    started = rng.random() < 0.8
    if started:
        yield StartService(f"k{step}"), OFFERINGS[offering][1]
    if step % 8 == 0:
        yield TerminateContract(f"k{step}", "asked"), who


def _serving(rng: random.Random, made: History, step: int) -> Steps:
    for id, contract in _of(made, "contract", "created"):
        if rng.random() < 0.3:
            yield StartService(id), contract.provider
    for id, contract in _of(made, "contract", "active", "paused", "terminated"):
        if contract.closed:
            continue
        ms = contract.terms.units * contract.usable_ms(made.book.now)
        yield MeterUsage(id, step + 1, ms // rng.randint(1, 3)), contract.provider
        match rng.randint(0, 12):
            case 0:
                yield TerminateContract(id, "asked"), contract.provider
            case 1:
                yield PauseContract(id), contract.customer
            case 2:
                yield RenewContract(id, f"n{step}.{id}"[:40], 60, None, True), contract.customer
            case 3:
                yield OpenDispute(f"q{id}", id, "bad"), contract.customer
                share = rng.randint(0, contract.remaining)
                yield (ResolveDispute(f"q{id}", share, contract.remaining - share, "so be it"),)


def _requests(rng: random.Random, made: History, step: int) -> Steps:
    who = rng.choice(PEOPLE)
    tier, region = rng.choice(("bronze", "silver")), rng.choice(("eu", "us", "asia"))
    mode = rng.choice(("match", "bids", "vickrey"))
    until = made.book.now + timedelta(seconds=rng.choice((600, 9_000, 90_000)))
    wanted = RequestService(
        f"r{step}", "web", region, tier, rng.randint(1, 2), 60, until, any_price=True, mode=mode
    )
    yield wanted, who
    for id, _ in _of(made, "request", "bidding"):
        for offering, (_, owner, _, _) in OFFERINGS.items():
            if rng.random() < 0.4:
                yield PlaceBid(id, offering, rng.randint(1, 10**6)), owner
    for id, request in _of(made, "request", "won"):
        yield (AcceptBid(id) if rng.random() < 0.6 else WithdrawRequest(id)), request.customer
    for id, request in _of(made, "request", "open"):
        if rng.random() < 0.3:
            yield rng.choice((WithdrawRequest(id), MatchRequest(id))), request.customer
    if step % 4 == 0:
        yield AllocateBurst(f"b{step}", (Requirement("web", "eu", "bronze", 4),), 10**9, 60), who


def _harvest(rng: random.Random, made: History, step: int) -> Steps:
    device = rng.choice(list(DEVICES))
    owner = DEVICES[device][0]
    yield ReportDeviceState(device, step, True, 90, 30, "wifi", False, 1, 1, 900), owner
    yield StartHarvestSession(f"s{step}", device), owner
    for id, session in _of(made, "harvest-session", "running"):
        tasks = (TaskResult(f"t{step}.{id}", "aa"),) if rng.random() < 0.7 else ()
        cpu, memory, moved, stored, gpu = (rng.randint(0, 10_000) for _ in range(5))
        yield RecordContribution(id, session.seq + 1, cpu, memory, moved, stored, gpu, tasks), session.owner
        if rng.random() < 0.3:
            yield StopHarvestSession(id), session.owner


def _validating(rng: random.Random, made: History, step: int) -> Steps:
    for name, found in _of(made, "contribution", "pending"):
        session, seq = name.split(":")
        digest = rng.choice(("aa", "aa", "bb"))
        results = tuple(
            Result(t.task, d, digest) for t in found.tasks for d in DEVICES if DEVICES[d][0] != found.owner
        )
        yield ValidateContribution(session, int(seq), results), "worker", "worker"
        if rng.random() < 0.2 or not found.tasks:
            yield (DisputeContribution(session, int(seq), "hm"),)
            verdict = rng.choice(("valid", "failure", "fraud"))
            yield (DecideContribution(session, int(seq), verdict, "seen"),)
    for name, _ in _of(made, "contribution", "rejected"):
        session, seq = name.split(":")
        if rng.random() < 0.1:
            yield (DisputeContribution(session, int(seq), "hm"),)
            yield (DecideContribution(session, int(seq), "valid", "seen"),)
    for name, _ in _of(made, "contribution", "validated"):
        session, seq = name.split(":")
        yield ApproveReward(session, int(seq)), "worker", "worker"


def _settlement(rng: random.Random, made: History, step: int) -> Steps:
    who, other = rng.sample(PEOPLE, 2)
    yield (OpenWindow(f"w{step}"),)
    asset = rng.choice(("FOG", "FOG", "GOLD"))
    for i in range(3):
        yield RecordObligation(who, other, rng.randint(1, 500), f"x{step}.{i}", asset=asset), who
    for id, _ in _of(made, "netting", "open"):
        if rng.random() < 0.3:
            yield (CloseWindow(id),)
    for id, _ in _of(made, "netting", "closed"):
        yield (ReservePositions(id),)
    for id, _ in _of(made, "netting", "settling"):
        yield (FinaliseSettlement(id),)


CONTEXTS = (
    _ledger,
    _staking,
    _devices,
    _offerings,
    _contracts,
    _contracts,
    _serving,
    _serving,
    _requests,
    _harvest,
    _harvest,
    _validating,
    _settlement,
)


def _due(rng: random.Random, made: History) -> Steps:
    """What timers would issue; now and then they are late."""
    worker = ("worker", "worker")
    for id, contract in _of(made, "contract", "active", "paused", "terminated"):
        ended = contract.ms_at(made.book.now) // contract.window_ms
        for window in range(max(ended - 4, 0), ended):
            poor = rng.random() < (0.9 if contract.offering == "o3" else 0.2)
            uptime, p95 = (9_000, rng.choice((300, 9_000))) if poor else (9_999, 300)
            if window not in contract.misses and rng.random() < 0.8:
                yield ReportServiceLevel(id, window, p95, uptime, 0), *worker
    if rng.random() < 0.4:
        return
    for id, contract in _of(made, "contract", "active", "paused", "terminated"):
        for period in range(contract.next_period, contract.last_period + 1):
            if not contract.closed and made.book.now >= contract.due_at(period):
                yield SettlePeriod(id, period), *worker
    for id, contract in _of(made, "contract", "created"):
        if made.book.now >= contract.start_by:
            yield ExpireContract(id), *worker
    for id, _ in _of(made, "request", "open", "won"):
        yield ExpireRequest(id), *worker
    for id, _ in _of(made, "request", "bidding"):
        yield CloseBidding(id), *worker
    for device in DEVICES:
        yield MarkOffline(device), *worker
    for id, _ in _of(made, "harvest-session", "running"):
        yield StopHarvestSession(id, "time-limit"), *worker
    for name in list(made.names("unbonding")):
        for entry in made.state(name).entries:
            yield CompleteUnbonding(name.partition(":")[2], entry), *worker


# The naive account


Logged = tuple[int, str, datetime, str, Any]
"""Position, stream, time, type and event."""


def logged(made: History) -> list[Logged]:
    return [
        (record.position, record.stream, record.recorded_at, record.type, event)
        for record, (_, event) in zip(made.records, made.book.events, strict=True)
    ]


def start_of(size: str, at: datetime) -> datetime:
    return EPOCH + (at - EPOCH) // SPANS[size] * SPANS[size]


def bucketed(
    log: list[Logged], types: str, place: Callable[[Logged], Any]
) -> dict[tuple[Any, ...], list[Logged]]:
    """Events of some types by size, start and place."""
    found: dict[tuple[Any, ...], list[Logged]] = defaultdict(list)
    for line in log:
        if line[3] in types.split():
            for size in SPANS:
                found[size, start_of(size, line[2]), *place(line)].append(line)
    return found


def values(rows: dict[tuple[Any, ...], Any], *names: str) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """The named columns of a table, without rows where all of them are nothing."""
    got = {key: tuple(getattr(row, name) for name in names) for key, row in rows.items()}
    return {key: row for key, row in got.items() if any(row)}


def nothing_else(expected: dict[Any, tuple[Any, ...]]) -> dict[Any, tuple[Any, ...]]:
    return {key: row for key, row in expected.items() if any(row)}


def lanes_of(log: list[Logged]) -> dict[str, tuple[str, str, str]]:
    return {
        stream: (event.service_type, event.region, event.terms.tier)
        for _, stream, _, kind, event in log
        if kind == "ContractOpened"
    }


@pytest.fixture(scope="module", params=[1, 2])
def story(request: pytest.FixtureRequest) -> History:
    return lived(request.param)


@pytest.fixture(scope="module")
def tables(story: History) -> dict[Any, Any]:
    return folded(analytics.analytics, [story.records])


def test_the_story_has_everything_that_analytics_folds(story: History) -> None:
    happened = {record.type for record in story.records}
    assert set(analytics.analytics.handlers) - happened == set()
    assert story.book.now - START > timedelta(days=60)


@pytest.mark.parametrize("seed", [1, 2])
def test_however_the_log_is_cut_into_batches_the_tables_are_the_same(seed: int) -> None:
    records = lived(seed).records
    whole = shown(folded(analytics.analytics, [records]))
    for most in (2, 40, 900):
        assert shown(folded(analytics.analytics, cuts(records, random.Random(most), most))) == whole


def test_markets_are_the_contracts_that_were_opened(story: History, tables: Any) -> None:
    log = logged(story)
    expected = {}
    for key, lines in bucketed(log, "ContractOpened", lambda line: lanes_of(log)[line[1]]).items():
        events = [line[4] for line in lines]
        prices = [event.terms.price for event in events]
        booked = sum(event.terms.units * event.terms.minutes for event in events)
        cost = sum(event.charge for event in events)
        ends = prices[0], max(prices), min(prices), prices[-1], lines[0][0], lines[-1][0]
        expected[key] = (len(events), booked, cost, *ends)
    names = ("contracts", "unit_minutes", "turnover", "open", "high", "low", "close", "first", "last")
    assert values(tables[analytics.Market], *names) == expected
    newest = {lanes_of(log)[line[1]]: line for line in log if line[3] == "ContractOpened"}
    assert {key: (row.price, row.position) for key, row in tables[analytics.LastPrice].items()} == {
        lane: (line[4].terms.price, line[0]) for lane, line in newest.items()
    }


def test_markets_are_the_periods_that_settled(story: History, tables: Any) -> None:
    def lane(line: Logged) -> tuple[str, str, str]:
        return line[4].service_type, line[4].region, line[4].tier

    expected = {}
    for key, lines in bucketed(logged(story), "PeriodSettled PeriodNetted", lane).items():
        escrowed = [event for *_, kind, event in lines if kind == "PeriodSettled"]
        netted = [event for *_, kind, event in lines if kind == "PeriodNetted"]
        both = escrowed + netted
        sums = [
            sum(getattr(event, name) for event in both) for name in ("unit_ms", "charge", "penalty", "fee")
        ]
        paid = sum(event.paid for event in escrowed) + sum(event.due - event.fee for event in netted)
        expected[key] = (len(both), *sums, paid, sum(event.unpaid for event in escrowed))
    names = ("periods", "unit_ms", "charge", "penalties", "fees", "paid", "unpaid")
    assert values(tables[analytics.Market], *names) == expected
    # Nothing is lost between what was charged and who got it.
    for row in tables[analytics.Market].values():
        assert row.charge == row.penalties + row.fees + row.paid + row.unpaid


def test_service_levels_are_the_windows_that_were_reported(story: History, tables: Any) -> None:
    log = logged(story)
    lanes = lanes_of(log)
    reports = bucketed(log, "ServiceLevelReported", lambda line: lanes[line[1]])
    breaches = bucketed(log, "ContractBreached", lambda line: lanes[line[1]])
    expected = {
        key: (
            len(reports.get(key, ())),
            sum(1 for line in reports.get(key, ()) if line[4].missed),
            sum(1 for line in reports.get(key, ()) if line[4].excused),
            len(breaches.get(key, ())),
        )
        for key in reports.keys() | breaches.keys()
    }
    assert values(tables[analytics.Market], "windows", "missed", "excused", "breaches") == expected
    assert any(row[1] for row in expected.values()) and any(row[3] for row in expected.values())


def test_harvest_is_what_sessions_gave_and_what_was_paid_for_it(story: History, tables: Any) -> None:
    log = logged(story)
    region = {
        stream: event.region
        for _, stream, _, kind, event in log
        if kind in ("HarvestSessionStarted", "ContributionRecorded")
    }
    work = {stream: event.work for _, stream, _, kind, event in log if kind == "ContributionRecorded"}
    validated = {stream: event for _, stream, _, kind, event in log if kind == "ContributionValidated"}
    kinds = "HarvestSessionStarted HarvestSessionStopped ContributionRecorded ContributionRejected RewardPaid"
    expected = {}
    for key, lines in bucketed(log, kinds, lambda line: (region[line[1]],)).items():
        by_kind = {kind: [line for line in lines if line[3] == kind] for kind in kinds.split()}
        paid = by_kind["RewardPaid"]
        expected[key] = (
            len(by_kind["HarvestSessionStarted"]),
            sum(line[4].running_ms for line in by_kind["HarvestSessionStopped"]),
            len(by_kind["ContributionRecorded"]),
            len(by_kind["ContributionRejected"]),
            len(paid),
            sum(validated[line[1]].tasks for line in paid),
            sum(line[4].amount for line in paid),
            sum(work[line[1]].cpu_ms for line in paid),
            sum(work[line[1]].memory_mb_ms for line in paid),
            sum(work[line[1]].bandwidth_bytes for line in paid),
            sum(work[line[1]].storage_mb_ms for line in paid),
            sum(work[line[1]].gpu_ms * validated[line[1]].gpu_tenths for line in paid),
        )
    names = (
        *("sessions", "running_ms", "contributions", "rejected", "paid", "tasks", "reward"),
        *("cpu_ms", "memory_mb_ms", "bandwidth_bytes", "storage_mb_ms", "gpu_tenths_ms"),
    )
    assert values(tables[analytics.Harvest], *names) == nothing_else(expected)
    assert sum(row[4] for row in expected.values()) > 10


def test_the_economy_is_what_moved_and_what_was_allocated(story: History, tables: Any) -> None:
    expected = {}
    kinds = "Debited TokensMinted TokensBurned ValidatorRewarded TokensSlashed"
    for key, lines in bucketed(logged(story), kinds, lambda line: ()).items():
        of = {kind: [line for line in lines if line[3] == kind] for kind in kinds.split()}
        fog = [
            line[4].amount
            for line in of["Debited"]
            if line[4].asset == "FOG" and line[1] != "world" and line[4].to != "world"
        ]
        rewards = [line[4] for line in of["ValidatorRewarded"]]
        expected[key] = (
            len(fog),
            sum(fog),
            sum(line[4].amount for line in of["TokensMinted"] if line[1] == "asset:FOG"),
            sum(line[4].amount for line in of["TokensBurned"] if line[1] == "asset:FOG"),
            sum(event.tokens - event.commission - event.community for event in rewards),
            sum(event.commission for event in rewards),
            sum(line[4].tokens for line in of["TokensSlashed"]),
        )
    names = ("transfers", "volume", "minted", "burned", "rewards", "commission", "slashed")
    assert values(tables[analytics.Economy], *names) == nothing_else(expected)


def test_settlement_is_what_was_recorded_and_how_old_it_was_when_it_settled(
    story: History, tables: Any
) -> None:
    log = logged(story)
    known = {
        stream.partition(":")[2]: (at, e) for _, stream, at, kind, e in log if kind == "ObligationRecorded"
    }
    expected: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * 6)
    settled = set()
    for _, _, at, kind, event in log:
        if kind == "ObligationRecorded":
            for size in SPANS:
                row = expected[size, start_of(size, at), event.asset]
                row[0], row[1] = row[0] + 1, row[1] + event.amount
        if kind == "ObligationsSettled":
            settled |= set(event.obligations)
            for size in SPANS:
                for name in event.obligations:
                    since, due = known[name]
                    row = expected[size, start_of(size, at), due.asset]
                    age = (at - since) // timedelta(milliseconds=1)
                    row[2:] = row[2] + 1, row[3] + due.amount, row[4] + age, max(row[5], age)
    names = ("recorded", "recorded_amount", "settled", "settled_amount", "settled_ms", "oldest_ms")
    assert values(tables[analytics.Settlement], *names) == {key: tuple(row) for key, row in expected.items()}
    assert {
        key[0]: (row.asset, row.amount, row.recorded_at) for key, row in tables[analytics.Obligation].items()
    } == {name: (due.asset, due.amount, at) for name, (at, due) in known.items() if name not in settled}
    assert settled and len(settled) < len(known)


def _earned(log: list[Logged]) -> Iterator[tuple[datetime, str, str, int]]:
    """Time, board, principal and amount of each payment that a leaderboard counts."""
    for _, stream, at, kind, event in log:
        match kind:
            case "RewardPaid":
                yield at, "harvest", event.owner, event.amount
            case "RewardsSettled":
                yield at, "staking", stream.split(":")[2], event.tokens
            case "PeriodSettled":
                yield at, "providers", event.provider, event.paid
                yield at, "customers", event.customer, event.charge - event.penalty - event.unpaid
            case "PeriodNetted":
                yield at, "providers", event.provider, event.due - event.fee
                yield at, "customers", event.customer, event.due
            case "EscrowSplit":
                yield at, "providers", event.provider, event.to_provider
                yield at, "customers", event.customer, event.to_provider


def test_leaders_are_who_was_paid_and_who_paid(story: History, tables: Any) -> None:
    expected: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for at, board, principal, amount in _earned(logged(story)):
        if amount:
            expected[board, "day", start_of("day", at), principal].append(amount)
            expected[board, "all", EPOCH, principal].append(amount)
    assert values(tables[analytics.Leader], "amount", "number") == {
        key: (sum(amounts), len(amounts)) for key, amounts in expected.items()
    }
    assert {key[0] for key in expected} == {"harvest", "staking", "providers", "customers"}


# Levels


Levels = dict[tuple[str, str, str, str], int]


def standing(made: History) -> Levels:
    """What stands now, by the streams' own states."""
    found: Levels = defaultdict(int)
    for name, state in made.book.states.items():
        match name.partition(":")[0]:
            case "offering":
                lane = state.service_type, state.region, state.tier
                used = sum(state.bookings.values())
                found["used", *lane] += used
                found["offered", *lane] += state.capacity if state.status == "active" else used
            case "contract" if state.status in ("active", "paused") and not state.closed:
                found["contracts", state.service_type, state.region, state.terms.tier] += 1
            case "request" if state.status in ("open", "bidding"):
                lane = state.need.service_type, state.need.region, state.need.tier
                found["requests", *lane] += 1
                found["requested", *lane] += state.need.units
            case "device" if state.status != "retired":
                found["devices", "", state.region, ""] += 1
                found["online", "", state.region, ""] += state.online
            case "harvest-session" if state.status in ("running", "paused"):
                found["sessions", "", state.region, ""] += 1
            case "validator":
                found["bonded", "", "", ""] += state.tokens
    found["supply", "", "", ""] = made.state("asset:FOG").supply
    return found


@cache
def watched(seed: int, steps: int = STEPS) -> tuple[History, list[tuple[datetime, Levels]]]:
    """A history, and what stood after each of its commands."""
    story, now = lived(seed, steps), History()
    levels = []
    for record, (name, event) in zip(story.records, story.book.events, strict=True):
        stream = streams()[name.partition(":")[0]]
        now.book.states[name] = stream.evolve(now.state(name), event)
        if record.ends_command:
            levels.append((record.recorded_at, standing(now)))
    return story, levels


def integral(changes: list[tuple[datetime, int]], begin: datetime, end: datetime) -> int:
    """Sum of level times microseconds, change by change."""
    total, level, since = 0, 0, begin
    for at, value in changes:
        if at >= end:
            break
        if at > begin:
            total += level * ((at - since) // timedelta(microseconds=1))
            since = at
        level = value
    return total + level * ((end - since) // timedelta(microseconds=1))


def level_of(step: Any, at: datetime) -> int:
    """What the rows of a level say of the bucket that begins then."""
    span = SPANS[step.size] // timedelta(microseconds=1)
    return int(step.opening * span + step.moment if step.start == at else step.closing * span)


@pytest.mark.parametrize("seed", [1, 2])
def test_levels_are_what_stood_integrated_over_every_bucket(seed: int) -> None:
    story, levels = watched(seed)
    tables = folded(analytics.analytics, [story.records])
    places = {place for _, found in levels for place in found}
    assert {place[0] for place in places} == {
        *("offered", "used", "contracts", "requests", "requested"),
        *("devices", "online", "sessions", "supply", "bonded"),
    }
    last = levels[-1][1]
    assert {key: row.level for key, row in tables[analytics.Level].items() if row.level} == {
        place: level for place, level in last.items() if level
    }
    steps: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for key in sorted(tables[analytics.Step], key=lambda key: key[5]):
        steps[key[:5]].append(tables[analytics.Step][key])
    for place in places:
        changes = [(at, found.get(place, 0)) for at, found in levels]
        changes = [c for i, c in enumerate(changes) if i == 0 or c[1] != changes[i - 1][1]]
        for size, span in SPANS.items():
            start, rows = start_of(size, START), steps[(*place, size)]
            while start < levels[-1][0]:
                before = [row for row in rows if row.start <= start]
                got = level_of(before[-1], start) if before else 0
                assert got == integral(changes, start, start + span), (place, size, start)
                start += span


def test_a_level_that_changes_after_a_long_time_touches_one_hour_and_one_day() -> None:
    made = village()
    made.book.now += timedelta(days=365, minutes=30)
    before = len(made.records)
    made.issue(PauseOffering("o1"), "pia")
    store = folded(analytics.analytics, [made.records[:before], made.records[before:]])
    steps = [row for row in store[analytics.Step].values() if row.position > before]
    lane = ("offered", "web", "eu", "bronze")
    assert [(row.measure, row.service_type, row.region, row.tier, row.size) for row in steps] == [
        (*lane, "hour"),
        (*lane, "day"),
    ]
    half_an_hour = 30 * 60 * 1_000_000
    assert [(row.opening, row.closing, row.moment) for row in steps] == [
        (20, 0, -20 * half_an_hour),
        (20, 0, -20 * (half_an_hour + 23 * 2 * half_an_hour)),
    ]


def test_buckets_are_hours_and_days_of_utc() -> None:
    east = datetime(2026, 3, 29, 2, 59, 59, 999_999, tzinfo=UTC)
    hour, day = analytics._buckets(east)
    assert hour == Bucket("hour", datetime(2026, 3, 29, 2, tzinfo=UTC), 1)
    assert day == Bucket("day", datetime(2026, 3, 29, tzinfo=UTC), 21 * 3_600_000_000 + 1)
    hour, day = analytics._buckets(datetime(2026, 3, 29, tzinfo=UTC))
    assert (hour.left_us, day.left_us) == (3_600_000_000, 86_400_000_000)
