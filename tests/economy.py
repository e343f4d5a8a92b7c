"""All contexts together: an economy in memory whose timers and reactions run, and a plain model that watches it.

The model folds events into plain numbers and sets, apart from the domain's own states, and knows what must always
hold. `act` makes one thing happen by chance; what the rules refuse is as welcome as what they accept.
"""

from __future__ import annotations

import copy
import functools
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any, TypeVar

from commands._codec import encode_json, event_encoder
from commands._models import command_from
from commands._routes import ROUTES
from commands.api import load_routes
from domain import devices, harvest, ledger, staking
from domain._kernel import FOG, Rejected
from domain.marketplace import contracts, offerings, requests
from domain.platform import CreateZone
from domain.principals import CommandSigned
from domain.settlement import disputes, windows
from projections._engine import HistoryRows, Record, all_projections, fold
from projections._timers import Timer, timers
from tests.scenario import Book

PEOPLE = ("ana", "ben", "cleo")
DEVICES = ("d1", "d2", "d3")
OWNER = dict(zip(DEVICES, PEOPLE, strict=True))
TIERS = ("bronze", "silver", "gold")
WORKERS = ("vera", "vito", "vlad")
"""They run validators and devices that check what others contribute."""
FUNDS = 10**9
SIZE = devices.Capabilities(4_000, 8_000, 50_000, 50_000, 1)
MOST_TIMERS = 200
MOST_REACTIONS = 6
Pair = tuple[str, str]


class Violation(AssertionError):
    """Something that must always hold does not."""


def must(holds: bool, *what: Any) -> None:
    if not holds:
        raise Violation(*what)


class Model:
    """What the events say, in plain numbers."""

    def __init__(self) -> None:
        self.balance: defaultdict[Pair, int] = defaultdict(int)
        self.held: defaultdict[Pair, int] = defaultdict(int)
        self.minted: defaultdict[str, int] = defaultdict(int)
        self.touched: set[Pair] = set()
        self.bonded: defaultdict[str, int] = defaultdict(int)
        self.unbonding: defaultdict[Pair, int] = defaultdict(int)
        self.escrow: defaultdict[str, int] = defaultdict(int)
        """By contract: deposited less paid, fees, penalties, refunded."""
        self.terms: dict[str, Any] = {}
        self.periods: dict[Pair, str] = {}
        self.windows_reported: set[Pair] = set()
        self.usage: defaultdict[str, int] = defaultdict(int)
        self.capacity: dict[str, int] = {}
        self.bookings: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self.winner: dict[str, str] = {}
        self.opened_for: dict[str, str] = {}
        self.session_of: dict[str, str] = {}
        self.seq: defaultdict[str, int] = defaultdict(int)
        self.contributions: dict[str, str] = {}
        self.evidence: set[str] = set()
        self.obligations: dict[str, str] = {}
        self.nets: defaultdict[Pair, int] = defaultdict(int)
        """Of the command at hand: by window and asset."""

    def apply(self, stream: str, event: Any) -> None:
        fold_one = _FOLDS.get(type(event).__name__)
        if fold_one is not None:
            fold_one(self, stream, stream.partition(":")[2], event)

    def check(self) -> None:
        """What holds at the end of every command."""
        for account, asset in self.touched:
            available = self.balance[account, asset] - self.held[account, asset]
            must(account == "world" or available >= 0, account, asset, available)
            must(self.held[account, asset] >= 0, account, asset)
            if account.startswith("escrow:"):
                contract = account.partition(":")[2]
                must(self.balance[account, asset] == self.escrow[contract], account)
        self.touched.clear()
        for key, net in self.nets.items():
            must(net == 0, "net positions add up to zero", key, net)
        self.nets.clear()

    def check_all(self) -> None:
        """What holds over everything."""
        sums: defaultdict[str, int] = defaultdict(int)
        for (_, asset), amount in self.balance.items():
            sums[asset] += amount
        must(not any(sums.values()), "conservation", dict(sums))
        must(-self.balance["world", FOG] == self.minted[FOG], "supply")
        must(self.balance["pool:bonded", FOG] == sum(self.bonded.values()), "pool:bonded")
        must(self.balance["pool:unbonding", FOG] == sum(self.unbonding.values()), "pool:unbonding")
        for contract, left in self.escrow.items():
            must(self.balance[f"escrow:{contract}", FOG] == left >= 0, "escrow", contract)
        for offering, booked in self.bookings.items():
            must(0 <= sum(booked.values()) <= self.capacity[offering], "capacity", offering, booked)


# The model's folds: (model, stream, id, event)

_FOLDS: dict[str, Callable[[Model, str, str, Any], None]] = {}


def on(*names: str) -> Callable[[Callable[[Model, str, str, Any], None]], Any]:
    def register(function: Callable[[Model, str, str, Any], None]) -> Any:
        for name in names:
            _FOLDS[name] = function
        return function

    return register


@on("Debited", "Credited")
def _posted(m: Model, stream: str, id: str, e: Any) -> None:
    sign = -1 if type(e).__name__ == "Debited" else 1
    must(e.amount > 0, "amounts are positive", e)
    m.balance[stream, e.asset] += sign * e.amount
    m.touched.add((stream, e.asset))


@on("FundsHeld", "FundsUnheld")
def _held(m: Model, stream: str, id: str, e: Any) -> None:
    m.held[stream, e.asset] += e.amount if type(e).__name__ == "FundsHeld" else -e.amount
    m.touched.add((stream, e.asset))


@on("TokensMinted", "TokensBurned")
def _minted(m: Model, stream: str, id: str, e: Any) -> None:
    m.minted[id] += e.amount if type(e).__name__ == "TokensMinted" else -e.amount


@on("SharesIssued", "TokensRestored")
def _bonded(m: Model, stream: str, id: str, e: Any) -> None:
    m.bonded[id] += e.tokens


@on("SharesBurned", "TokensSlashed")
def _unbonded(m: Model, stream: str, id: str, e: Any) -> None:
    m.bonded[id] -= e.tokens


@on("UnbondingBegan")
def _unbonding(m: Model, stream: str, id: str, e: Any) -> None:
    m.unbonding[id, e.entry] += e.tokens


@on("UnbondingCancelled", "UnbondingCompleted", "UnbondingSlashed")
def _unbonding_less(m: Model, stream: str, id: str, e: Any) -> None:
    m.unbonding[id, e.entry] -= e.tokens
    must(m.unbonding[id, e.entry] >= 0, "an entry pays what it holds", id, e)


@on("ContractOpened")
def _contract(m: Model, stream: str, id: str, e: Any) -> None:
    must(id not in m.terms, "a contract opens once", id)
    m.terms[id] = e.terms
    m.escrow[id] += e.deposit
    if e.request:
        must(e.request not in m.opened_for, "one contract a request", e.request)
        m.opened_for[e.request] = id


@on("EscrowToppedUp")
def _topped_up(m: Model, stream: str, id: str, e: Any) -> None:
    m.escrow[id] += e.amount


@on("EscrowReturned")
def _returned(m: Model, stream: str, id: str, e: Any) -> None:
    m.escrow[id] -= e.amount
    must(m.escrow[id] == 0, "what is left goes back whole", id)


@on("EscrowSplit")
def _split(m: Model, stream: str, id: str, e: Any) -> None:
    must(e.to_customer + e.to_provider == m.escrow[id], "a split is what remained", id)
    m.escrow[id] = 0


@on("PeriodSettled")
def _settled(m: Model, stream: str, id: str, e: Any) -> None:
    must((id, e.period) not in m.periods, "a period settles once", id, e.period)
    must(e.penalty + e.fee + e.paid + e.unpaid == e.charge, "a period's parts add up", e)
    m.periods[id, e.period] = "paid"
    m.escrow[id] -= e.penalty + e.fee + e.paid


@on("PeriodNetted")
def _netted(m: Model, stream: str, id: str, e: Any) -> None:
    must((id, e.period) not in m.periods, "no period is both paid and owed", id, e.period)
    m.periods[id, e.period] = "owed"


@on("ServiceLevelReported")
def _reported(m: Model, stream: str, id: str, e: Any) -> None:
    must((id, e.window) not in m.windows_reported, "one report, so one penalty, a window", id, e.window)
    must((id, e.period) not in m.periods, "nothing is reported of a settled period", id, e.period)
    m.windows_reported.add((id, e.window))


@on("UsageMetered")
def _metered(m: Model, stream: str, id: str, e: Any) -> None:
    must(e.unit_ms >= m.usage[id], "usage never falls", id)
    m.usage[id] = e.unit_ms


@on("OfferingRegistered")
def _offering(m: Model, stream: str, id: str, e: Any) -> None:
    m.capacity[id] = e.capacity


@on("UnitsReserved")
def _reserved(m: Model, stream: str, id: str, e: Any) -> None:
    must(e.reference not in m.bookings[id], "reserved once", id, e.reference)
    m.bookings[id][e.reference] = e.units
    must(sum(m.bookings[id].values()) <= m.capacity[id], "used <= capacity", id)


@on("UnitsReturned")
def _units_returned(m: Model, stream: str, id: str, e: Any) -> None:
    must(m.bookings[id].pop(e.reference, 0) == e.units, "returned once, and what was taken", id, e)


@on("RequestMatched", "BiddingClosed")
def _won(m: Model, stream: str, id: str, e: Any) -> None:
    must(id not in m.winner, "one winner a request", id)
    m.winner[id] = e.offering


@on("HarvestSessionStarted")
def _session(m: Model, stream: str, id: str, e: Any) -> None:
    must(e.device not in m.session_of, "one open session a device", e.device)
    m.session_of[e.device] = id


@on("HarvestSessionStopped")
def _session_over(m: Model, stream: str, id: str, e: Any) -> None:
    must(m.session_of.pop(e.device, "") == id, "the open session stops", e.device)


@on("ContributionRecorded")
def _contribution(m: Model, stream: str, id: str, e: Any) -> None:
    session, _, seq = id.partition(":")
    must(int(seq) > m.seq[session], "numbers of contributions grow", id)
    m.seq[session] = int(seq)
    m.contributions[id] = "pending"
    must(e.work.cpu_ms * 1_000 <= e.elapsed_ms * SIZE.cpu_millicores + 1_000_000, "within capability", e)


@on("ContributionValidated", "ContributionRejected")
def _validated(m: Model, stream: str, id: str, e: Any) -> None:
    must(m.contributions[id] != "paid", "what was paid is decided", id)
    m.contributions[id] = "valid" if type(e).__name__ == "ContributionValidated" else "rejected"


@on("RewardPaid")
def _rewarded(m: Model, stream: str, id: str, e: Any) -> None:
    must(m.contributions[id] == "valid", "paid once, and only after validation", id)
    m.contributions[id] = "paid"


@on("EvidenceCounted")
def _evidence(m: Model, stream: str, id: str, e: Any) -> None:
    must(id not in m.evidence, "evidence counts once", id)
    m.evidence.add(id)


@on("ObligationRecorded")
def _obligation(m: Model, stream: str, id: str, e: Any) -> None:
    must(id not in m.obligations, "an obligation is recorded once", id)
    m.obligations[id] = "owed"


@on("ObligationsSettled")
def _obligations_settled(m: Model, stream: str, id: str, e: Any) -> None:
    for obligation in e.obligations:
        must(m.obligations[obligation] == "owed", "an obligation settles once", obligation)
        m.obligations[obligation] = "settled"


@on("PositionsNetted")
def _nets(m: Model, stream: str, id: str, e: Any) -> None:
    for each in e.positions:
        m.nets[id, each.asset] += each.receives - each.pays


@on("WindowSettled")
def _window_settled(m: Model, stream: str, id: str, e: Any) -> None:
    must(not any(amount for (a, _), amount in m.balance.items() if a == f"window:{id}"), "a window ends at 0")


# The economy


class Economy:
    """A book whose timers and reactions are issued, with the keys and rules of the worker, as time passes."""

    def __init__(self) -> None:
        self.book = Book()
        self.model = Model()
        self.rows = HistoryRows(timers, "main", 1, lambda rows, row: lambda each: None)
        self.versions: defaultdict[str, int] = defaultdict(int)
        self.position = 0
        self.done: set[str] = set()
        """Timers whose command was accepted."""
        self.accepted: defaultdict[str, int] = defaultdict(int)
        self.refused: defaultdict[str, int] = defaultdict(int)
        self.numbers: defaultdict[str, int] = defaultdict(int)

    def copy(self) -> Economy:
        made = copy.copy(self)
        made.book = Book(
            dict(self.book.states), [], dict(self.book.by_command), self.book.commands, self.book.now
        )
        for name in ("model", "versions", "done", "accepted", "refused", "numbers"):
            setattr(made, name, copy.deepcopy(getattr(self, name)))
        made.rows = HistoryRows(timers, "main", 1, lambda rows, row: lambda each: None)
        made.rows.kept = copy.deepcopy(self.rows.kept)
        return made

    def issue(
        self,
        command: Any,
        by: str = "operator",
        role: str | None = None,
        signature: CommandSigned | None = None,
    ) -> Rejected | None:
        """Issue a command; returns the rule that refused it."""
        self.book.events.clear()
        name = type(command).__name__
        try:
            self.book.issue(command, by, role, signature)
        except Rejected as rule:
            self.refused[f"{name}: {rule.rule()}"] += 1
            return rule
        self.accepted[name] += 1
        for stream, event in self.book.events:
            self.position += 1
            self.model.apply(stream, event)
            if type(event).__name__ in timers.handlers:
                fold(self.rows, [self._record(stream, event)])
        self.model.check()
        return None

    def _record(self, stream: str, event: Any) -> Record:
        data = event_encoder(type(event))(event)
        meta = encode_json({"command": f"c{self.book.commands}", "by": "", "i": 1, "n": 1})
        return Record(self.position, stream, 0, type(event).__name__, data, meta, self.book.now)

    def due(self) -> list[Timer]:
        rows = self.rows.kept[Timer].values()
        found = [row for row in rows if isinstance(row, Timer) and row.due_at <= self.book.now]
        return sorted(
            (row for row in found if row.timer not in self.done), key=lambda row: (row.due_at, row.timer)
        )

    def work(self) -> None:
        """Issue what is due, and what follows from it, as the worker does."""
        for _ in range(MOST_REACTIONS):
            settled = 0
            for timer in self.due()[:MOST_TIMERS]:
                kind = ROUTES[f"{timer.context}/{timer.command}"].command
                command = command_from(kind, timer.body)
                refused = self.issue(command, "worker", "worker")
                if refused is None:
                    self.done.add(timer.timer)
                    settled += 1
            if not settled:
                return

    def pass_time(self, span: timedelta, work: bool = True) -> None:
        self.book.now += span
        if work:
            self.work()

    def new(self, kind: str) -> str:
        self.numbers[kind] += 1
        return f"{kind}{self.numbers[kind]}"

    def next(self, kind: str) -> int:
        self.numbers[kind] += 1
        return self.numbers[kind]

    def one(self, rng: Random, kind: str) -> str:
        """One of the latest of a kind, seldom an older one or one that there is not."""
        return f"{kind}{max(1, self.numbers[kind] - rng.choice((0, 0, 0, 0, 1, 1, 2, 3, -1)))}"


E = TypeVar("E", bound=Economy)


def found(kind: type[E]) -> E:
    """A village that has everything: wallets, validators, devices, offerings and an open window."""
    load_routes()
    all_projections()
    made = kind()

    def do(command: Any, by: str = "operator") -> None:
        rule = made.issue(command, by)
        assert rule is None, (command, rule, rule.facts)

    do(CreateZone("main", "manual"))
    for person in (*PEOPLE, *WORKERS):
        do(ledger.OpenWallet(f"wallet:{person}"), person)
        do(ledger.MintTokens(f"wallet:{person}", FUNDS, "start", ""))
    for fund in (ledger.REWARDS, ledger.TREASURY):
        do(ledger.MintTokens(fund, FUNDS, "budget", ""))
    for number, person in enumerate(WORKERS, 1):
        do(staking.RegisterValidator(f"v{number}", 10**6, 500, 10**5), person)
        do(devices.RegisterDevice(f"w{number}", "server", SIZE, "north"), person)
    for device, owner in OWNER.items():
        do(devices.RegisterDevice(device, "laptop", SIZE, "north" if device != "d3" else "south"), owner)
        do(devices.Heartbeat(device, 1), owner)
        do(harvest.EnrolHarvester(device, SIZE), owner)
    made.numbers["o"] = 2 * len(DEVICES)
    pricings = ("pay_as_you_go", "reserved", "spot", "flat_rate", "pay_as_you_go", "reserved")
    for number in range(2 * len(DEVICES)):
        device = DEVICES[number % len(DEVICES)]
        offer = offerings.RegisterOffering(
            f"o{number + 1}", device, "compute", TIERS[number % 3], 500, 500, 0, 3, 1_000, pricings[number]
        )
        do(offer, OWNER[device])
    do(windows.OpenWindow(made.new("n"), None, 0))
    for settlement, customer, offering in (
        ("escrow", "ana", "o2"),
        ("netted", "ben", "o3"),
        ("escrow", "cleo", "o1"),
    ):
        contract = made.new("k")
        terms = {"any_price": True, "settlement": settlement, "period_minutes": 30}
        do(contracts.OpenContract(contract, offering, 1, 150, **terms), customer)
        do(contracts.StartService(contract), OWNER[f"d{offering[1]}"])
    for number, device in enumerate(DEVICES, 1):
        do(staking.Delegate(f"v{number}", 10**6, 30 * (number % 2)), OWNER[device])
        do(well(device, made.next("seq")), OWNER[device])
        do(harvest.StartHarvestSession(made.new("s"), device), OWNER[device])
    return made


def well(device: str, seq: int) -> harvest.ReportDeviceState:
    """A report that lets a device be harvested."""
    return harvest.ReportDeviceState(device, seq, True, 90, 30, "ethernet", False, 5, 10, 3_600)


@functools.cache
def _founded() -> Economy:
    return found(Economy)


def founded() -> Economy:
    return _founded().copy()


# What may happen. Each takes the economy and chance, and gives the choices: commands with who issues them.

Deeds = tuple[Callable[[], list[tuple[Any, ...]]], ...]
Deed = Callable[[Economy, Random], Deeds]
_DEEDS: list[tuple[int, Deed]] = []


def deed(weight: int) -> Callable[[Deed], Deed]:
    def register(function: Deed) -> Deed:
        _DEEDS.append((weight, function))
        return function

    return register


def act(economy: Economy, rng: Random) -> None:
    """Let something happen, or time pass."""
    (chosen,) = rng.choices([d for _, d in _DEEDS], [w for w, _ in _DEEDS])
    choices = chosen(economy, rng)
    if choices:
        for command, *who in rng.choice(choices)():
            economy.issue(command, *who)


def someone(rng: Random) -> str:
    return rng.choice(PEOPLE)


@deed(16)
def _time(e: Economy, rng: Random) -> Deeds:
    minutes = rng.choice(
        (1, 5, 10, 16, 16, 16, 30, 30, 45, 45, 61, 75, 130, 600, rng.choice((1_440, 32_000)))
    )
    e.pass_time(timedelta(minutes=minutes), work=rng.random() < 0.8)
    return ()


@deed(4)
def _worker(e: Economy, rng: Random) -> Deeds:
    e.work()
    return ()


@deed(5)
def _pay(e: Economy, rng: Random) -> Deeds:
    who, other = rng.sample(PEOPLE, 2)
    wallet, amount = f"wallet:{who}", rng.choice((1, 100, 10**5, FUNDS // 3, FUNDS))
    until = e.book.now + timedelta(hours=2)
    hold = e.book.read(ledger.holds, e.one(rng, "h"))
    return (
        lambda: [(ledger.Transfer(wallet, f"wallet:{other}", amount), who)],
        lambda: [(ledger.PlaceHold(e.new("h"), wallet, other, amount, until), who)],
        lambda: [(ledger.CaptureHold(e.one(rng, "h"), 10, f"wallet:{other}"), hold.payee or other)],
        lambda: [(ledger.FreezeWallet(wallet, "asked"),)],
        lambda: [(ledger.UnfreezeWallet(f"wallet:{each}", "asked"),) for each in PEOPLE],
        lambda: [(ledger.ReverseTransaction(f"c{rng.randint(1, e.book.commands)}", "mistake"),)],
    )


@deed(8)
def _stake(e: Economy, rng: Random) -> Deeds:
    who, (validator, other) = someone(rng), rng.sample(("v1", "v2", "v3"), 2)
    held = e.book.read(staking.positions, f"{validator}:{who}").lots
    if not held and rng.random() < 0.8:
        validator, other = other, validator
        held = e.book.read(staking.positions, f"{validator}:{who}").lots
    operator, lot, amount = (
        WORKERS[int(validator[1]) - 1],
        rng.choice(list(held) or ["0"]),
        rng.choice((1, 10**5)),
    )
    since = e.book.now - timedelta(hours=rng.choice((0, 1, 30)))
    kind = rng.choice(("downtime", "downtime", "double-sign"))
    return (
        lambda: [(staking.Delegate(validator, amount, rng.choice((0, 30))), who)],
        lambda: [(staking.BeginUnbonding(validator, amount, lot), who)],
        lambda: [(staking.BeginUnbonding(validator, amount, lot), who)],
        lambda: [(staking.Redelegate(validator, other, amount, lot), who)],
        lambda: [(staking.ClaimRewards(validator), who)],
        lambda: [(staking.SetAutoCompound(validator, rng.random() < 0.7), who)],
        lambda: [(staking.AllocateRewards(e.new("a"), amount),)],
        lambda: [(staking.Slash(validator, kind, since, e.new("x")),)],
        lambda: [(staking.AppealSlash(e.one(rng, "x"), "no"), operator)],
        lambda: [(staking.DecideAppeal(e.one(rng, "x"), rng.random() < 0.6, "heard"),)],
        lambda: [(staking.Unjail(validator), operator)],
    )


@deed(16)
def _harvest(e: Economy, rng: Random) -> Deeds:
    """A device reports, starts, works, rests and stops."""
    device = rng.choice(DEVICES)
    owner, seq = OWNER[device], e.next("seq")
    report = (well(device, seq), owner)
    ill = harvest.ReportDeviceState(
        device,
        seq,
        rng.random() < 0.8,
        60,
        rng.choice((25, 40, 44, 58, 70, None)),
        rng.choice(("wifi", "lte")),
        False,
        5,
        10,
        3_600,
    )
    session = e.book.read(harvest.harvesters, device).session or e.one(rng, "s")
    work = harvest.RecordContribution(
        session,
        rng.choice((seq, seq, seq, 1)),
        rng.choice((1, 1_000, 60_000, 10**9)),
        memory_mb_ms=rng.choice((0, 10**6)),
        tasks=tuple(harvest.TaskResult(f"t{seq}.{i}", "good") for i in range(rng.choice((0, 1, 2)))),
    )
    return (
        lambda: [report, (harvest.StartHarvestSession(e.new("s"), device), owner)],
        lambda: [report, (harvest.StartHarvestSession(e.new("s"), device), owner)],
        lambda: [report, (harvest.StartHarvestSession(e.one(rng, "s"), device), someone(rng))],
        lambda: [report, (work, owner)],
        lambda: [(work, owner)],
        lambda: [(work, owner)],
        lambda: [(work, someone(rng))],
        lambda: [(ill, owner)],
        lambda: [(harvest.PauseHarvestSession(session), owner)],
        lambda: [(harvest.ResumeHarvestSession(session), owner)],
        lambda: [(harvest.StopHarvestSession(session), owner)],
        lambda: [(devices.Heartbeat(device, seq), owner)],
    )


@deed(14)
def _validate(e: Economy, rng: Random) -> Deeds:
    """What was contributed is validated by others' results, disputed, decided, and paid."""
    pending = [id for id, status in e.model.contributions.items() if status == "pending"]
    every = (pending if rng.random() < 0.7 else []) or list(e.model.contributions)
    if not every:
        return ()
    session, _, number = rng.choice(every[-4:]).partition(":")
    seq = int(number)
    found = e.book.read(harvest.contributions, f"{session}:{seq}")
    workers = rng.sample(("w1", "w2", "w3"), rng.choice((1, 2, 3, 3)))
    digest, said = rng.choice(("good", "good", "good", "bad")), rng.random() < 0.9
    results = tuple(harvest.Result(task.task, w, digest) for task in found.tasks for w in workers)
    attested = () if found.tasks else tuple(harvest.Attestation(f"v{w[1]}", said) for w in workers)
    validate = (harvest.ValidateContribution(session, seq, results, attested), "worker", "worker")
    dispute = harvest.DisputeContribution(session, seq, "odd")
    verdict = rng.choice(("valid", "failure", "fraud"))
    return (
        lambda: [validate],
        lambda: [validate],
        lambda: [validate],
        lambda: [(harvest.ApproveReward(session, seq), "worker", "worker")],
        lambda: [(dispute, rng.choice((found.owner, "vera", "ben")))],
        lambda: [(dispute, found.owner), (harvest.DecideContribution(session, seq, verdict, "heard"),)],
        lambda: [(harvest.DecideContribution(session, seq, verdict, "heard"),)],
    )


@deed(20)
def _market(e: Economy, rng: Random) -> Deeds:
    """Contracts open, are used and end."""
    who, offering, contract = someone(rng), f"o{rng.randint(1, 6)}", e.one(rng, "k")
    found = e.book.read(contracts.contracts, contract)
    customer, provider = found.customer or who, found.provider or who
    served = found.terms.units * found.usable_ms(e.book.now) if found.started else 0
    unit_ms = rng.choice((served, served, served // 2, found.unit_ms, served + 1, 0))
    last = max(0, found.ms_at(e.book.now) // (15 * 60_000) - 1) if found.started else 0
    window = rng.choice((last, last, max(0, last - 1), last + 1))
    levels = rng.choice(((100, 10_000, 0), (9_999, 5_000, 0), (9_999, 5_000, 9_999)))
    meter = (contracts.MeterUsage(contract, e.next("seq"), unit_ms), provider)
    report = (contracts.ReportServiceLevel(contract, window, *levels), "worker", "worker")

    def opening() -> list[tuple[Any, ...]]:
        terms = {
            "settlement": rng.choice(("escrow", "escrow", "netted")),
            "deposit": rng.choice((0, 0, 0, 10_000)),
            "period_minutes": 30,
        }
        units, minutes = rng.choice((1, 1, 2, 4)), rng.choice((30, 60, 150, 600))
        open = contracts.OpenContract(e.new("k"), offering, units, minutes, any_price=True, **terms)
        started = (contracts.StartService(open.contract), OWNER[DEVICES[(int(offering[1]) - 1) % 3]])
        return [(open, who), started] if rng.random() < 0.6 else [(open, who)]

    return (
        opening,
        opening,
        opening,
        lambda: [(contracts.OpenContract(contract, offering, 1, 60, any_price=True), who)],
        lambda: [(contracts.StartService(contract), provider)],
        lambda: [meter],
        lambda: [meter],
        lambda: [report],
        lambda: [report],
        lambda: [report, report],
        lambda: [(contracts.SettlePeriod(contract, found.next_period), "worker", "worker")],
        lambda: [(contracts.TopUpEscrow(contract, 10_000), customer)],
        lambda: [(contracts.PauseContract(contract), customer)],
        lambda: [(contracts.ResumeContract(contract), customer)],
        lambda: [(contracts.RenewContract(contract, e.new("k"), 60, any_price=True), customer)],
        lambda: [(contracts.TerminateContract(contract, "enough"), rng.choice((customer, provider)))],
        lambda: [(contracts.ReviewProvider(contract, rng.randint(0, 6)), customer)],
    )


@deed(14)
def _request(e: Economy, rng: Random) -> Deeds:
    """Requests are matched or take bids; bursts book several offerings or none."""
    who, offering, request = someone(rng), rng.randint(1, 6), e.one(rng, "r")
    found = e.book.read(requests.requests, request)
    owner, customer = OWNER[DEVICES[(offering - 1) % 3]], found.customer or who
    region = rng.choice(("north", "north", "south"))

    def asking(mode: str) -> requests.RequestService:
        return requests.RequestService(
            e.new("r"),
            "compute",
            region,
            rng.choice(("bronze", "bronze", "silver", "gold")),
            rng.choice((1, 2)),
            60,
            e.book.now + timedelta(minutes=rng.choice((10, 60, 600))),
            price_cap=rng.choice((500, 5_000, 50_000)),
            mode=mode,
            settlement=rng.choice(("escrow", "netted")),
        )

    def bids() -> list[tuple[Any, ...]]:
        return [
            (
                requests.PlaceBid(request, f"o{number}", rng.choice((1, 400, 4_000, 5_000))),
                OWNER[f"d{number}"],
            )
            for number in (1, 2, 3)
        ]

    def burst() -> list[tuple[Any, ...]]:
        needs = tuple(requests.Requirement("compute", region, "bronze", rng.choice((1, 2))) for _ in range(2))
        budget = rng.choice((1, 10**6, 10**6))
        return [
            (requests.AllocateBurst(e.new("b"), needs, budget, 60, rng.choice(("escrow", "netted"))), who)
        ]

    return (
        lambda: [(asking("match"), who)],
        lambda: [(asking(rng.choice(("bids", "vickrey"))), who), *bids()],
        lambda: [(asking(rng.choice(("bids", "vickrey"))), who), *bids()],
        bids,
        lambda: [(requests.RequestService(request, "compute", region, "bronze", 1, 60, e.book.now), who)],
        lambda: [(requests.WithdrawBid(request), owner)],
        lambda: [(requests.CloseBidding(request), "worker", "worker")],
        lambda: [(requests.AcceptBid(request), customer)],
        lambda: [
            (requests.AcceptBid(request), customer),
            (requests.AcceptBid(request, e.new("k")), customer),
        ],
        lambda: [(requests.MatchRequest(request), customer)],
        lambda: [(requests.WithdrawRequest(request), customer)],
        burst,
    )


@deed(4)
def _offer(e: Economy, rng: Random) -> Deeds:
    """Providers change what they offer, devices fail and come back."""
    number = rng.randint(1, 6)
    offering, device = f"o{number}", DEVICES[(number - 1) % 3]
    price = e.book.read(offerings.offerings, offering).base_price
    reprice = offerings.RepriceOffering(offering, max(1, price * rng.choice((95, 105, 130)) // 100))
    return (
        lambda: [(reprice, OWNER[device])],
        lambda: [(offerings.PauseOffering(offering), OWNER[device])],
        lambda: [(offerings.ResumeOffering(f"o{i}"), OWNER[DEVICES[(i - 1) % 3]]) for i in range(1, 7)],
        lambda: [(offerings.SetLaneBounds("compute", "north", "bronze", 500, rng.choice((0, 2_000))),)],
        lambda: [(devices.SuspendDevice(device, "odd"),)],
        lambda: [(devices.ResumeDevice(each),) for each in DEVICES],
    )


@deed(12)
def _settle(e: Economy, rng: Random) -> Deeds:
    """Dues are recorded and netted; escrows are disputed."""
    debtor, creditor = rng.sample(PEOPLE, 2)
    window, dispute, contract = e.one(rng, "n"), e.one(rng, "q"), e.one(rng, "k")
    amount = rng.choice((1, 1_000, 10**6, 10 * FUNDS))
    party = rng.choice((e.book.read(contracts.contracts, contract).customer, creditor)) or debtor
    left = e.book.read(contracts.contracts, e.book.read(disputes.disputes, dispute).contract).remaining
    part = rng.choice((left, left // 2, 0))

    def obligations() -> list[tuple[Any, ...]]:
        return [
            (
                windows.RecordObligation(*rng.sample(PEOPLE, 2), rng.choice((1, 10**6)), e.new("y")),
                "worker",
                "worker",
            )
            for _ in range(3)
        ]

    def resolved() -> list[tuple[Any, ...]]:
        return [(disputes.ResolveDispute(dispute, part, left - part + rng.choice((0, 0, 1)), "so be it"),)]

    return (
        obligations,
        lambda: [(windows.RecordObligation(debtor, creditor, amount, e.new("y")), debtor)],
        lambda: [(windows.RecordObligation(debtor, "fees", 5, e.one(rng, "y")), "worker", "worker")],
        lambda: [(windows.RecordObligation(debtor, creditor, amount, e.new("y")), creditor)],
        lambda: [(windows.CloseWindow(window, e.new("n")),)],
        lambda: [*obligations(), (windows.CloseWindow(window),)],
        lambda: [(windows.OpenWindow(e.new("n"), None, 0),)],
        lambda: [(windows.ReservePositions(window), "worker", "worker")],
        lambda: [(windows.FinaliseSettlement(window), "worker", "worker")],
        lambda: [(windows.AbortWindow(window, "asked"),)],
        lambda: [(disputes.OpenDispute(e.new("q"), contract, "it did not work"), party)],
        lambda: [(disputes.OpenDispute(e.new("q"), contract, "it did not work"), party)],
        resolved,
        resolved,
    )
