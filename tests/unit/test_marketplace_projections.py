"""The marketplace's read models: they end up with what the streams' own states say, over a random history; and what
is due and what follows is known, and no more."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest

from commands._codec import streams
from commands._models import command_from
from commands._routes import ROUTES
from commands.api import load_routes
from domain._kernel import floor_div
from domain.devices import (
    Capabilities,
    RecordReputation,
    RegisterDevice,
    RelocateDevice,
    ResumeDevice,
    RetireDevice,
    SuspendDevice,
)
from domain.ledger import MintTokens, OpenWallet
from domain.marketplace.contracts import (
    Contract,
    ExpireContract,
    MeterUsage,
    OpenContract,
    P,
    PauseContract,
    PeriodNetted,
    PeriodSettled,
    ProviderReviewed,
    RenewContract,
    ReportServiceLevel,
    ResumeContract,
    ReviewProvider,
    SettlePeriod,
    StartService,
    TerminateContract,
    TopUpEscrow,
)
from domain.marketplace.offerings import (
    TIERS,
    PauseOffering,
    RegisterOffering,
    RepriceOffering,
    ResumeOffering,
    SetLaneBounds,
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
    WithdrawBid,
    WithdrawRequest,
)
from domain.platform import CreateZone
from domain.settlement.disputes import OpenDispute, ResolveDispute
from projections._engine import Projection
from projections._timers import Timer, timers
from projections.marketplace import contracts, offerings, requests
from tests.unit.test_projections import History, cuts, folded, shown

PROVIDERS = {"vera": ("d1", "d2"), "vito": ("d3",)}
CUSTOMERS = ("ana", "ben")
EVENTS = 3_000


# A history


class Market(History):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.numbers = Counter[str]()

    def new(self, kind: str) -> str:
        self.numbers[kind] += 1
        return f"{kind}{self.numbers[kind]}"

    def all(self, category: str, *statuses: str) -> list[str]:
        """Ids of all things with such a status."""
        ids = [name.partition(":")[2] for name in self.names(category)]
        return [id for id in ids if not statuses or self.state(f"{category}:{id}").status in statuses]

    def one(self, category: str, *statuses: str) -> str:
        """An id, of a thing with such a status if there is one."""
        return self.rng.choice(self.all(category, *statuses) or self.all(category) or ["none"])

    @property
    def late(self) -> bool:
        return len(self.records) > 0.9 * EVENTS


def market(seed: int) -> Market:
    """A random but lively history of offerings, requests and contracts."""
    made = Market(seed)
    made.issue(CreateZone("main", "manual"))
    for name in (*PROVIDERS, *CUSTOMERS):
        made.issue(OpenWallet(f"wallet:{name}"), name)
        made.issue(MintTokens(f"wallet:{name}", 10**9, "start", name))
    size = Capabilities(64_000, 256_000, 0, 0, 8)
    for provider, owned in PROVIDERS.items():
        for device in owned:
            made.issue(RegisterDevice(device, "server", size, "north"), provider)
    for number in range(8):
        _register(made, f"start{number}")
    _misfortunes(made)
    while len(made.records) < EVENTS:
        made.book.now += timedelta(minutes=made.rng.choice((0, 1, 7, 15, 20, 45)))
        for command in made.rng.choice(ACTS)(made):
            made.issue(*command)
    return made


def _misfortunes(made: Market) -> None:
    """What rarely happens by chance: three windows in a row miss their levels, and an escrow does not suffice."""
    made.issue(RegisterOffering("s1", "d1", "render", "gold", 500, 1_000, 0, 5, 400, "spot"), "vera")
    made.issue(OpenContract("s1", "s1", 1, 60, any_price=True, deposit=1_000, period_minutes=30), "ana")
    made.issue(StartService("s1"), "vera")
    made.book.now += timedelta(minutes=45)
    for window in range(3):
        made.issue(ReportServiceLevel("s1", window, 9_000, 0, 500), "worker", "worker")
    made.issue(SettlePeriod("s1", 0), "worker", "worker")
    made.book.now += timedelta(minutes=25)
    made.issue(SettlePeriod("s1", 1), "worker", "worker")


def _register(made: Market, offering: str) -> None:
    provider = made.rng.choice(tuple(PROVIDERS))
    made.issue(_offering(made, offering, provider), provider)


def _offering(made: Market, offering: str, provider: str) -> RegisterOffering:
    rng = made.rng
    pricing = rng.choice(("pay_as_you_go", "reserved", "spot", "flat_rate"))
    device = rng.choice(PROVIDERS[provider])
    tier = rng.choice(tuple(TIERS))
    return RegisterOffering(
        offering, device, "render", tier, 500, 1_000, 0, rng.randint(2, 9), rng.randint(1, 3_000), pricing
    )


Commands = list[tuple[Any, ...]]


def _offer(made: Market) -> Commands:
    """Providers change what they offer."""
    rng = made.rng
    offering = made.one("offering", "active", "paused")
    state = made.state(f"offering:{offering}")
    price = max(1, state.base_price * rng.choice((92, 95, 104, 108)) // 100)
    return [
        rng.choice(
            (
                (_offering(made, made.new("o"), state.provider), state.provider),
                (RepriceOffering(offering, price), state.provider),
                (RepriceOffering(offering, price), state.provider),
                (PauseOffering(offering), state.provider),
                (ResumeOffering(made.one("offering", "paused")), state.provider),
                (SetLaneBounds("render", "north", rng.choice(tuple(TIERS)), 10, rng.choice((0, 9_000))),),
                (WithdrawOffering(offering if len(made.records) % 3 == 0 else "o1"), state.provider),
            )
        )
    ]


def _device(made: Market) -> Commands:
    """Devices fail, move and come back, or not."""
    rng = made.rng
    device, owner = rng.choice((("d1", "vera"), ("d2", "vera"), ("d3", "vito")))
    suspended = (SuspendDevice(device, "odd"), rng.choice((owner, "operator")))
    back = [(ResumeDevice(device), owner), (ResumeDevice(device),), (RelocateDevice("d1", "north"), "vera")]
    return [
        rng.choice((suspended, (RelocateDevice("d1", "south"), "vera"), *back)),
        *(back if rng.random() < 0.7 else []),
        *([(RetireDevice("d3"), "vito")] if made.late else []),
        (RecordReputation(device, "render", rng.choice(("success", "failure")), made.new("e")),),
    ]


def _open(made: Market) -> Commands:
    rng = made.rng
    contract, offering = made.new("k"), made.one("offering", "active")
    opening = OpenContract(
        contract,
        offering,
        rng.randint(1, 3),
        rng.choice((30, 50, 120, 400)),
        any_price=True,
        settlement=rng.choice(("escrow", "escrow", "netted")),
        deposit=rng.choice((0, 0, 40_000)),
        period_minutes=30,
        window_minutes=15,
    )
    started = [(StartService(contract), made.state(f"offering:{offering}").provider)]
    return [(opening, rng.choice(CUSTOMERS)), *(started if rng.random() < 0.8 else [])]


def _run(made: Market) -> Commands:
    """What happens to contracts that run: usage, reports of their last window, pauses, money, renewals."""
    rng, now = made.rng, made.book.now
    happens: Commands = []
    for id in made.all("contract", "active", "paused"):
        contract: Contract = made.state(f"contract:{id}")
        used = contract.terms.units * contract.usable_ms(now)
        most = rng.choice((used, used, (used + contract.unit_ms) // 2))
        happens.append((MeterUsage(id, contract.meter_seq + 1, most), contract.provider))
        ended = floor_div(contract.ms_at(now), 15 * 60_000)
        for window in range(max(ended - 3, 0), ended):
            report = rng.choice(((100, 10_000, 0), (9_000, 9_000, 0), (100, 0, 500)))
            happens.append((ReportServiceLevel(id, window, *report), "worker", "worker"))
        about = rng.choice((PauseContract(id), ResumeContract(id), ResumeContract(id)))
        happens.append((about, contract.customer))
        happens.append((TopUpEscrow(id, rng.randint(1, 500)), contract.customer))
        happens.append((RenewContract(id, made.new("k"), 60, any_price=True), contract.customer))
    return [each for each in happens if rng.random() < 0.6]


def _end(made: Market) -> Commands:
    rng = made.rng
    contract = made.one("contract", "active", "paused", "created")
    state = made.state(f"contract:{contract}")
    over = made.one("contract", "completed", "terminated", "overdrawn")
    review = (ReviewProvider(over, rng.randint(1, 5), "so"), made.state(f"contract:{over}").customer)
    dispute = made.one("dispute", "open")
    disputed = made.state(f"dispute:{dispute}")
    left = made.state(f"contract:{disputed.contract}").remaining if disputed.contract else 0
    share = rng.randint(0, left)
    return [
        rng.choice(
            (
                (TerminateContract(contract, "enough"), rng.choice((state.customer, state.provider))),
                review,
                review,
                (OpenDispute(made.new("q"), contract, "bad"), state.customer),
                (ResolveDispute(dispute, share, left - share, "heard"),),
                (ResolveDispute(dispute, share, left - share, "heard"),),
                (StartService(made.one("contract", "created")), rng.choice(tuple(PROVIDERS))),
            )
        )
    ]


def _time_passes(made: Market) -> Commands:
    """What the timers would issue, of all that may be due."""
    due: Commands = []
    for id in made.all("contract"):
        state = made.state(f"contract:{id}")
        if state.started and not state.closed and made.book.now >= state.due_at(state.next_period):
            due.append((SettlePeriod(id, state.next_period), "worker", "worker"))
        if state.status == "created" and made.book.now >= state.start_by:
            due.append((ExpireContract(id), "worker", "worker"))
    for id in made.all("request", "open", "bidding", "won"):
        due += [(CloseBidding(id), "worker", "worker"), (ExpireRequest(id), "worker", "worker")]
    return made.rng.sample(due, min(len(due), 12))


def _ask(made: Market) -> Commands:
    rng = made.rng
    asked = RequestService(
        made.new("r"),
        "render",
        "north",
        rng.choice(tuple(TIERS)),
        rng.choice((1, 2, 30)),
        60,
        made.book.now + timedelta(minutes=rng.choice((10, 40, 300))),
        price_cap=rng.choice((500, 5_000, 50_000)),
        mode=rng.choice(("match", "bids", "vickrey", "bids")),
        settlement=rng.choice(("escrow", "netted")),
    )
    return [(asked, rng.choice(CUSTOMERS))]


def _bid(made: Market) -> Commands:
    """Both providers bid on what takes bids; some take theirs back."""
    rng, request = made.rng, made.one("request", "bidding")
    happens = []
    for provider in PROVIDERS:
        mine = [
            id for id in made.all("offering", "active") if made.state(f"offering:{id}").provider == provider
        ]
        bid = (PlaceBid(request, rng.choice(mine or ["none"]), rng.randint(1, 9_000)), provider)
        happens.append(bid if rng.random() < 0.8 else (WithdrawBid(request), provider))
    return happens


def _buy(made: Market) -> Commands:
    rng = made.rng
    won, open_one = made.one("request", "won"), made.one("request", "open", "bidding")
    needs = (Requirement("render", "north", "bronze", rng.choice((1, 4))),)
    customer = made.state(f"request:{open_one}").customer
    return [
        rng.choice(
            (
                (AcceptBid(won), made.state(f"request:{won}").customer),
                (AcceptBid(won), made.state(f"request:{won}").customer),
                (MatchRequest(open_one), customer),
                (WithdrawRequest(open_one), customer),
                (WithdrawRequest(won), made.state(f"request:{won}").customer),
                (AllocateBurst(made.new("b"), needs, 10**7, 45), rng.choice(CUSTOMERS)),
            )
        )
    ]


ACTS = (_offer, _device, _open, _run, _run, _run, _end, _time_passes, _time_passes, _ask, _bid, _bid, _buy)


@pytest.fixture(scope="module", params=[1, 2, 3])
def lived(request: pytest.FixtureRequest) -> Market:
    return market(request.param)


def test_nothing_that_can_happen_is_missing_from_the_histories() -> None:
    happened = {type(event) for seed in (1, 2, 3) for _, event in market(seed).book.events}
    known = {
        event
        for stream in streams().values()
        for event in stream.events
        if event.__module__.startswith("domain.marketplace.")
    }
    assert known <= happened, known - happened


# What holds


@pytest.mark.parametrize(
    "projection",
    [offerings.offerings, requests.requests, contracts.contracts, timers],
    ids=lambda p: str(p.name),
)
def test_however_the_log_is_cut_into_batches_the_tables_are_the_same(
    lived: Market, projection: Projection
) -> None:
    whole = shown(folded(projection, [lived.records]))
    assert shown(folded(projection, ([record] for record in lived.records))) == whole
    for seed, most in enumerate((3, 90)):
        assert shown(folded(projection, cuts(lived.records, random.Random(seed), most))) == whole


def test_offerings_say_what_their_streams_say(lived: Market) -> None:
    tables = folded(offerings.offerings, [lived.records])
    assert {f"offering:{id}" for (id,) in tables[offerings.Offering]} == set(lived.names("offering"))
    for (id,), row in tables[offerings.Offering].items():
        state = lived.state(f"offering:{id}")
        names = "provider device service_type region tier cpu_millicores memory_mb gpu capacity pricing"
        for name in (*names.split(), "base_price", "status", "used", "repriced_at"):
            assert getattr(row, name) == getattr(state, name)
        assert row.tier_rank == TIERS[row.tier].rank
        assert row.rate == -(-row.base_price * TIERS[row.tier].price_bp // 10_000)
    for stream in lived.names("commitments"):
        device = stream.partition(":")[2]
        rows = {key[1]: row for key, row in tables[offerings.Commitment].items() if key[0] == device}
        state = lived.state(stream)
        assert {id: (row.units, row.cpu_millicores, row.memory_mb, row.gpu) for id, row in rows.items()} == {
            id: (each.units, each.cpu_millicores, each.memory_mb, each.gpu)
            for id, each in state.offerings.items()
        }
    for device in ("d1", "d2", "d3"):
        row, state = tables[offerings.Device][device,], lived.state(f"device:{device}")
        serves = not (row.suspended_by_owner or row.suspended_by_operator or row.retired)
        assert (row.region, serves) == (state.region, state.status == "active")
    for stream in lived.names("reputation"):
        device, service = stream.split(":")[1:]
        row, state = tables[offerings.Reputation][device, service], lived.state(stream)
        assert (row.alpha, row.beta, row.day, row.evidence) == (
            state.alpha,
            state.beta,
            state.day,
            state.evidence,
        )
        assert row.last_score == state.score


def test_lanes_say_what_their_streams_say_and_their_hours_add_up(lived: Market) -> None:
    tables = folded(offerings.offerings, [lived.records])
    opened = [event for _, event in lived.book.events if type(event).__name__ == "ContractOpened"]
    for stream in lived.names("lane"):
        key, state = tuple(stream.split(":")[1:]), lived.state(stream)
        row = tables[offerings.Lane][key]
        assert (row.listed, row.supply, row.demand) == (len(state.listings), state.supply, state.demand)
        assert (row.market, row.market_at) == (state.market, state.market_at)
        assert (row.floor, row.ceiling) == (state.floor, state.ceiling)
        assert row.supply == sum(listing.free for listing in state.listings.values())
        hours = [hour for at, hour in tables[offerings.Hour].items() if at[:3] == key]
        mine = [e for e in opened if (e.service_type, e.region, e.terms.tier) == key]
        assert sum(hour.contracts for hour in hours) == len(mine)
        assert sum(hour.value for hour in hours) == sum(e.charge for e in mine)
        assert sum(hour.unit_minutes for hour in hours) == sum(e.terms.units * e.terms.minutes for e in mine)
        for hour in hours:
            prices = [
                e.terms.price for e in mine if hour.hour <= e.opened_at < hour.hour + timedelta(hours=1)
            ]
            shown = (hour.first, hour.last, hour.low, hour.high)
            assert shown == ((prices[0], prices[-1], min(prices), max(prices)) if prices else (0, 0, 0, 0))
        if hours:
            latest = max(hours, key=lambda hour: hour.hour)
            assert (latest.supply, latest.demand, latest.market) == (row.supply, row.demand, row.market)


def test_time_in_use_is_the_sum_over_all_bookings(lived: Market) -> None:
    tables = folded(offerings.offerings, [lived.records])
    spent: Counter[str] = Counter()
    since: dict[tuple[str, str], tuple[int, datetime]] = {}
    for stream, event in lived.book.events:
        if type(event).__name__ == "UnitsReserved":
            since[stream, event.reference] = event.units, event.at
        elif type(event).__name__ == "UnitsReturned":
            units, at = since.pop((stream, event.reference))
            spent[stream] += units * ((event.at - at) // timedelta(microseconds=1))
    for (stream, _), (units, at) in since.items():
        spent[stream] += units * ((lived.book.now - at) // timedelta(microseconds=1))
    for (id,), row in tables[offerings.Offering].items():
        uncounted = row.used * ((lived.book.now - row.counted_at) // timedelta(microseconds=1))
        assert row.booked_us + uncounted == spent[f"offering:{id}"]


def test_requests_and_bids_say_what_their_streams_say(lived: Market) -> None:
    tables = folded(requests.requests, [lived.records])
    assert {f"request:{id}" for (id,) in tables[requests.Request]} == set(lived.names("request"))
    for (id,), row in tables[requests.Request].items():
        state = lived.state(f"request:{id}")
        assert (row.customer, row.status, row.mode) == (state.customer, state.status, state.mode)
        assert (row.units, row.minutes, row.expires_at) == (state.need.units, state.minutes, state.expires_at)
        assert (row.price_cap, row.budget, row.accept_by) == (state.price_cap, state.budget, state.accept_by)
        standing = {
            key[1]: bid for key, bid in tables[requests.Bid].items() if key[0] == id and not bid.withdrawn
        }
        assert row.bids == len(standing)
        if row.status == "bidding":
            assert {who: (bid.offering, bid.ask, bid.deposit) for who, bid in standing.items()} == {
                who: (bid.offering, bid.ask, bid.deposit) for who, bid in state.bids.items()
            }
            assert not any(bid.opened for bid in standing.values())
        if row.status == "won":
            assert (row.provider, row.price) == (state.winner, state.price)
        if row.contract:
            assert lived.state(f"contract:{row.contract}").terms.price == row.price
        assert row.unmatched is (
            row.status in ("open", "unsold") or (row.status == "expired" and not row.provider)
        )


def test_contracts_say_what_their_streams_say(lived: Market) -> None:
    tables = folded(contracts.contracts, [lived.records])
    assert {f"contract:{id}" for (id,) in tables[contracts.Contract]} == set(lived.names("contract"))
    for (id,), row in tables[contracts.Contract].items():
        state: Contract = lived.state(f"contract:{id}")
        names = """customer provider offering device service_type region status start_by ended_at ended_by notice
            paused_at paused_ms meter_seq next_period deposited paid fees penalties refunded dispute renewal renews
            capacity_ref holds_capacity"""
        for name in names.split():
            assert getattr(row, name) == getattr(state, name), name
        for name in state.terms.__slots__:
            assert getattr(row, name) == getattr(state.terms, name), name
        assert row.pauses == state.number_of_pauses and (row.rating > 0) == state.reviewed
        assert (row.metered_ms, row.charged_ms) == (state.unit_ms, state.charged_unit_ms)
        assert (row.breached_at is not None) == state.breached
        left = row.deposited - row.paid - row.fees - row.penalties - row.refunded
        account = lived.state(f"escrow:{id}")
        assert left == state.remaining == (account.posted.get("FOG", 0) if account else 0)
        if state.started:
            assert (row.started_at, row.ends_at) == (state.started_at, state.ends_at)
        settles = state.started and not state.closed
        assert row.due_at == (state.due_at(state.next_period) if settles else None)


def test_periods_windows_and_days_add_up_to_their_contracts(lived: Market) -> None:
    tables = folded(contracts.contracts, [lived.records])
    periods, windows = tables[contracts.Period].values(), tables[contracts.Window].values()
    for (id,), row in tables[contracts.Contract].items():
        mine = [each for each in periods if each.contract == id]
        assert [each.period for each in sorted(mine, key=lambda each: each.period)] == list(
            range(row.next_period)
        )
        assert sum(each.charge for each in mine) == row.charged
        assert sum(each.unit_ms for each in mine) == row.charged_ms
        assert sum(each.penalty for each in mine) == row.penalties + row.owed_penalties
        assert sum(each.owed for each in mine) == row.owed
        assert sum(each.unpaid for each in mine) == row.unpaid
        assert {each.settlement for each in mine} <= {row.settlement}
        for each in mine:
            fee = each.fee if each.settlement == "escrow" else 0
            assert each.charge == each.penalty + fee + each.paid + each.unpaid + each.owed
        reports = [each for each in windows if each.contract == id]
        assert len(reports) == row.windows and sum(each.excused for each in reports) == row.excused
        assert row.missed == sum(
            each.missed_p95 or each.missed_uptime or each.missed_errors for each in reports
        )
    for (provider, service_type), card in tables[contracts.Scorecard].items():
        own = [
            each
            for each in tables[contracts.Contract].values()
            if (each.provider, each.service_type) == (provider, service_type)
        ]
        assert card.contracts == len(own)
        for name in (
            "windows",
            "excused",
            "missed",
            "missed_p95",
            "missed_uptime",
            "missed_errors",
            "charged",
        ):
            assert getattr(card, name) == sum(getattr(each, name) for each in own)
        assert card.penalties == sum(each.penalties + each.owed_penalties for each in own)
        assert card.ratings == sum(each.rating for each in own)
    days = tables[contracts.Revenue].values()
    by_provider = {each.provider for each in days}
    for provider in by_provider:
        own = [each for each in tables[contracts.Contract].values() if each.provider == provider]
        mine = [each for each in days if each.provider == provider]
        assert sum(day.charge for day in mine) == sum(each.charged for each in own)
        assert sum(day.paid + day.disputes for day in mine) == sum(each.paid for each in own)
        assert sum(day.owed for day in mine) == sum(each.owed for each in own)
        assert sum(day.fees for day in mine) == sum(each.fees for each in own)


# Timers and reactions


def due(made: Market) -> dict[str, Any]:
    return {key[0]: row for key, row in folded(timers, [made.records])[Timer].items()}


def test_there_is_a_timer_for_whatever_is_still_due(lived: Market) -> None:
    expected: dict[tuple[str, str], tuple[datetime, dict[str, Any]]] = {}
    for stream in lived.names("contract"):
        id, contract = stream.partition(":")[2], lived.state(stream)
        if contract.status == "created":
            expected["expire-contract", id] = contract.start_by, {"contract": id}
        elif contract.started and not contract.closed:
            body = {"contract": id, "period": contract.next_period}
            expected["settle-period", id] = contract.due_at(contract.next_period), body
    for stream in lived.names("request"):
        id, request = stream.partition(":")[2], lived.state(stream)
        if request.status == "bidding":
            expected["close-bidding", id] = request.expires_at, {"request": id}
        elif request.status in ("open", "won"):
            until = request.expires_at if request.status == "open" else request.accept_by
            expected["expire-request", id] = until, {"request": id}
    found = {
        (row.command, row.body.get("contract") or row.body.get("request")): (row.due_at, row.body)
        for row in due(lived).values()
        if row.context == "marketplace"
    }
    assert found == expected


def test_reactions_name_commands_that_the_routes_take(lived: Market) -> None:
    load_routes()
    for name, row in due(lived).items():
        route = ROUTES[f"{row.context}/{row.command}"]
        assert "worker" in route.roles, name
        command_from(route.command, row.body)


def test_each_netted_period_becomes_two_obligations_and_no_paid_one_does(lived: Market) -> None:
    reactions = {name: row for name, row in due(lived).items() if row.command == "record-obligation"}
    expected = {}
    for stream, event in lived.book.events:
        if isinstance(event, PeriodNetted):
            source = f"{stream.partition(':')[2]}.{event.period}"
            if event.due:
                expected[f"obligation:{source}"] = (event.customer, event.provider, str(event.due), source)
            if event.fee:
                fee = f"{source}.fee"
                expected[f"obligation:{fee}"] = (event.provider, "fees", str(event.fee), fee)
    assert expected
    names = ("debtor", "creditor", "amount", "source")
    assert {name: tuple(row.body[n] for n in names) for name, row in reactions.items()} == expected


def test_there_is_one_piece_of_evidence_a_period_and_a_review(lived: Market) -> None:
    reactions = {name: row.body for name, row in due(lived).items() if row.command == "record-reputation"}
    expected, said = {}, Counter[Any]()
    for stream, event in lived.book.events:
        id = stream.partition(":")[2]
        if isinstance(event, PeriodSettled | PeriodNetted) and event.charge:
            whose = (event.customer, event.device, event.at.replace(minute=0))
            if event.penalty:
                expected[f"reputation:period.{id}.{event.period}"] = ("failure", 0)
            elif not getattr(event, "unpaid", 0) and said[whose] < contracts.MOST_SUCCESSES_AN_HOUR:
                expected[f"reputation:period.{id}.{event.period}"] = ("success", 0)
                said[whose] += 1
        if isinstance(event, ProviderReviewed) and not said[event.customer, event.device, event.at.date()]:
            expected[f"reputation:review.{id}"] = ("peer", event.rating * 2_000)
            said[event.customer, event.device, event.at.date()] += 1
    assert {name: (body["kind"], body["quality"]) for name, body in reactions.items()} == expected
    assert {kind for kind, _ in expected.values()} == {"failure", "success", "peer"}
    for name, body in reactions.items():
        assert name == f"reputation:{body['evidence_id']}" and len(body["evidence_id"]) <= 64


def test_nobody_makes_a_reputation_by_buying_from_himself() -> None:
    """Ana and Vera are one: twenty contracts at next to nothing, each with a clean period and five stars."""
    made = Market(1)
    made.issue(CreateZone("main", "manual"))
    for name in ("ana", "ben", "vera"):
        made.issue(OpenWallet(f"wallet:{name}"), name)
        made.issue(MintTokens(f"wallet:{name}", 10**6, "start", name))
    made.issue(RegisterDevice("d1", "server", Capabilities(64_000, 256_000), "north"), "vera")
    made.issue(RegisterOffering("o1", "d1", "render", "gold", 500, 1_000, 0, 40, 1, "spot"), "vera")
    customers = {f"k{number}": "ben" if number == 20 else "ana" for number in range(21)}
    for id, customer in customers.items():
        made.issue(OpenContract(id, "o1", 1, 30, any_price=True, period_minutes=30), customer)
        made.issue(StartService(id), "vera")
    made.book.now += timedelta(minutes=40)
    for id, customer in customers.items():
        made.issue(SettlePeriod(id, 0), "worker", "worker")
        made.issue(ReviewProvider(id, 5, "so"), customer)
    said = Counter(
        (row.body["kind"], row.body["evidence_id"] in ("period.k20.0", "review.k20"))
        for row in due(made).values()
        if row.command == "record-reputation"
    )
    assert said == {("success", False): 4, ("peer", False): 1, ("success", True): 1, ("peer", True): 1}


def test_the_longest_contract_id_leaves_room_for_the_ids_made_of_it() -> None:
    periods = floor_div(P.most_minutes, P.least_period_minutes)
    assert len(contracts.evidence_of_period("k" * P.longest_id, periods)) <= 64
    assert len(contracts.evidence_of_review("k" * P.longest_id)) <= 64
    assert len(f"{'k' * P.longest_id}.{periods}.fee") <= 64
