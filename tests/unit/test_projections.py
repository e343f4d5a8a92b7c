"""The projections' folds: they end up with what the streams' own states say, however the log is cut into batches."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from copy import deepcopy
from datetime import timedelta
from typing import Any

import pytest

from commands._codec import encode_json, event_encoder, streams
from domain._kernel import Rejected
from domain.ledger import (
    Allocation,
    BurnTokens,
    CaptureHold,
    DistributeRewards,
    ExpireHold,
    FreezeWallet,
    MintTokens,
    OpenWallet,
    PlaceHold,
    ReleaseHold,
    ReverseTransaction,
    Transfer,
    UnfreezeWallet,
)
from domain.platform import ClockAdvanced, CreateZone, ZoneCreated
from domain.staking import (
    RATIO_SCALE,
    AllocateRewards,
    AppealSlash,
    BeginUnbonding,
    CancelUnbonding,
    ClaimRewards,
    CompleteUnbonding,
    DecideAppeal,
    Delegate,
    EditValidator,
    ExpireLock,
    Jail,
    Redelegate,
    RegisterValidator,
    SetAutoCompound,
    Slash,
    Unjail,
    ValidatorJoined,
    WithdrawCommission,
)
from projections import ledger, staking
from projections._engine import Projection, Record, Rows, all_projections, fold, keys_of
from projections._tables import table_of
from projections._timers import Timer, timers
from tests.scenario import Book

PEOPLE = ("ana", "ben", "vera", "vito")
NO_READ_MODEL = {ValidatorJoined.__name__, ZoneCreated.__name__, ClockAdvanced.__name__}
STEPS = 600

all_projections()  # Every context may have something to say about timers.

Table = dict[tuple[Any, ...], Any]


# A history, and the tables that come out of it


class History:
    """A village's commands, and the records that the log would hold of them."""

    def __init__(self) -> None:
        self.book = Book()
        self.records: list[Record] = []
        self.versions: dict[str, int] = {}

    def issue(self, command: Any, by: str = "operator", role: str | None = None) -> bool:
        before = len(self.book.events)
        try:
            self.book.issue(command, by, role)
        except Rejected:
            return False
        events = self.book.events[before:]
        for i, (stream, event) in enumerate(events, 1):
            version = self.versions[stream] = self.versions.get(stream, 0) + 1
            meta = encode_json({"command": f"c{self.book.commands}", "by": by, "i": i, "n": len(events)})
            data = event_encoder(type(event))(event)
            name = type(event).__name__
            position = len(self.records) + 1
            self.records.append(Record(position, stream, version, name, data, meta, self.book.now))
        return True

    def state(self, name: str) -> Any:
        kind = streams()[name.partition(":")[0]]
        return self.book.states.get(name, kind.initial)

    def names(self, category: str) -> Iterator[str]:
        return (name for name in self.book.states if name.partition(":")[0] == category)


def village(seed: int) -> History:
    """A random but lively history of ledger and staking."""
    rng, made = random.Random(seed), History()
    made.issue(CreateZone("main", "manual"))
    for name in PEOPLE:
        made.issue(OpenWallet(f"wallet:{name}"), name)
        made.issue(MintTokens(f"wallet:{name}", 50_000, "start", name))
    for fund in ("pool:rewards", "treasury"):
        made.issue(MintTokens(fund, 100_000, "budget", fund))
    made.issue(RegisterValidator("v1", 2_000, 700, 500), "vera")
    made.issue(RegisterValidator("v2", 1_000, 0, 1), "vito")
    for step in range(STEPS):
        made.book.now += timedelta(hours=rng.choice((0, 1, 8, 30)))
        made.issue(*_something(rng, made, step))
    return made


def _something(rng: random.Random, made: History, step: int) -> tuple[Any, ...]:
    who, other = rng.sample(PEOPLE, 2)
    validator, second = rng.sample(("v1", "v2"), 2)
    amount = rng.randint(1, 900)
    lots = list(made.state(f"position:{validator}:{who}").lots) or ["0"]
    lot = rng.choice(lots)
    entries = list(made.state(f"unbonding:{validator}").entries) or ["c0"]
    holds = [name for name in made.names("hold") if not made.state(name).closed] or ["hold:h0"]
    hold = rng.choice(holds).partition(":")[2]
    payee = made.state(f"hold:{hold}").payee
    evidence = f"e{step // 20}"
    now = made.book.now
    return rng.choice(
        (
            (Transfer(f"wallet:{who}", f"wallet:{other}", amount, reference=f"r{step % 7}"), who),
            (BurnTokens(f"wallet:{who}", 1, "old"), who),
            (PlaceHold(f"h{step}", f"wallet:{who}", other, amount, now + timedelta(hours=200)), who),
            (CaptureHold(hold, rng.randint(1, 200), f"wallet:{payee}", final=rng.random() < 0.5), payee),
            (ReleaseHold(hold), payee),
            (ExpireHold(hold), "worker", "worker"),
            (ReverseTransaction(f"c{rng.randint(1, made.book.commands)}", "why not"),),
            (Delegate(validator, amount, rng.choice((0, 0, 30, 90))), who),
            (Delegate(validator, amount, rng.choice((0, 0, 30, 90))), who),
            (BeginUnbonding(validator, amount, lot), who),
            (CancelUnbonding(validator, rng.choice(entries)), who),
            (CompleteUnbonding(validator, rng.choice(entries)), "worker", "worker"),
            (ExpireLock(validator, who, lot), "worker", "worker"),
            (Redelegate(validator, second, amount, lot), who),
            (ClaimRewards(validator), who),
            (ClaimRewards(validator, who), "worker", "worker"),
            (SetAutoCompound(validator, rng.random() < 0.7), who),
            (WithdrawCommission("v1"), "vera"),
            (AllocateRewards(f"a{step}", amount),),
            (Slash(validator, "downtime", now - timedelta(hours=rng.randint(0, 200)), evidence),)
            if step % 3 == 0
            else (Delegate(validator, amount), who),
            (EditValidator("v1", 700, f"d{step}"), "vera"),
            (AppealSlash(evidence, "no"), "vera"),
            (DecideAppeal(evidence, rng.random() < 0.8, "so be it"),),
            (FreezeWallet(f"wallet:{who}", "asked") if step % 3 == 0 else Jail(validator, "asked"),),
            (UnfreezeWallet(f"wallet:{who}", "asked"),),
            (UnfreezeWallet(f"wallet:{other}", "asked"),),
            (
                DistributeRewards(
                    f"d{step}", "bonus", "pool:rewards", (Allocation(f"wallet:{who}", amount),), amount + 1
                ),
            ),
            (Unjail("v1"), "vera"),
            (Unjail("v2"), "vito"),
        )
    )


class _Loading(Rows):
    """Rows over a store in memory, as the engine's are over a database."""

    store: dict[type, Table]

    def _take(self, row: type[Any], key: tuple[Any, ...]) -> Any:
        kept = self.kept[row]
        if key not in kept:
            kept[key] = deepcopy(self.store[row].get(key))
        return kept[key]


def folded(projection: Projection, batches: Iterable[list[Record]]) -> dict[type, Table]:
    """Fold batch by batch, and keep nothing in memory from one to the next but what was stored."""
    store: dict[type, Table] = {row: {} for row in projection.rows}
    for batch in batches:
        rows = _Loading(projection, "main", 1)
        rows.store = store
        for row, keys in keys_of(rows, batch).items():
            for key in keys:
                rows._take(row, key)
        fold(rows, batch)
        for row in projection.rows:
            names = table_of(row).key
            for key in rows.deleted[row]:
                store[row].pop(key, None)
            store[row] |= rows.changed[row]
            for added in rows.added[row]:
                key = tuple(getattr(added, name) for name in names)
                assert key not in store[row], f"{row.__name__} {key} was added twice"
                store[row][key] = added
    return store


def shown(store: dict[type, Table]) -> dict[str, list[str]]:
    """Everything that counts for a digest."""
    return {
        row.__name__: sorted(f"{value!r} {value.position} {value.incomplete}" for value in rows.values())
        for row, rows in store.items()
    }


def cuts(records: list[Record], rng: random.Random, most: int) -> Iterator[list[Record]]:
    while records:
        size = rng.randint(1, most)
        yield records[:size]
        records = records[size:]


@pytest.fixture(scope="module", params=[1, 2, 3])
def lived(request: pytest.FixtureRequest) -> History:
    made = village(request.param)
    assert len(made.records) > 800
    return made


# What holds


@pytest.mark.parametrize("projection", [ledger.ledger, staking.staking, timers], ids=lambda p: str(p.name))
def test_however_the_log_is_cut_into_batches_the_tables_are_the_same(
    lived: History, projection: Projection
) -> None:
    whole = shown(folded(projection, [lived.records]))
    singly = shown(folded(projection, ([record] for record in lived.records)))
    assert singly == whole
    for seed, most in enumerate((3, 17, 90)):
        assert shown(folded(projection, cuts(lived.records, random.Random(seed), most))) == whole


def test_the_ledgers_tables_say_what_its_streams_say(lived: History) -> None:
    tables = folded(ledger.ledger, [lived.records])
    for row in tables[ledger.Balance].values():
        account = lived.state(row.account)
        assert (row.posted, row.held) == (account.posted.get(row.asset, 0), account.held.get(row.asset, 0))
    assert {key[0] for key in tables[ledger.Balance]} >= {f"wallet:{name}" for name in PEOPLE}
    assert sum(row.posted for row in tables[ledger.Balance].values()) == 0
    for row in tables[ledger.Hold].values():
        hold = lived.state(f"hold:{row.hold}")
        assert (row.captured, row.released, row.expired) == (hold.captured, hold.released, hold.expired)
        assert (row.status == "open") is not hold.closed
    asset = lived.state("asset:FOG")
    fog = tables[ledger.Asset]["FOG",]
    assert (fog.minted, fog.burned) == (asset.minted, asset.burned)
    days = tables[ledger.Day].values()
    assert sum(day.minted - day.burned for day in days) == asset.supply
    last: dict[str, int] = {}
    for key in sorted(tables[ledger.StatementLine], key=lambda key: key[1]):
        line = tables[ledger.StatementLine][key]
        assert line.posted == last.get(line.account, 0) + line.amount
        last[line.account] = line.posted


def test_stakings_tables_say_what_its_streams_say(lived: History) -> None:
    tables = folded(staking.staking, [lived.records])
    for (name,), row in tables[staking.Validator].items():
        pool = lived.state(f"validator:{name}")
        fields = (
            "tokens",
            "shares",
            "weight",
            "ratio",
            "commission",
            "commission_due",
            "jailed",
            "tombstoned",
        )
        assert [getattr(row, f) for f in fields] == [getattr(pool, f) for f in fields]
    for stream in lived.names("position"):
        _, validator, delegator = stream.split(":")
        position = lived.state(stream)
        row = tables[staking.Position][validator, delegator]
        lots = {key[2]: lot for key, lot in tables[staking.Lot].items() if key[:2] == (validator, delegator)}
        assert set(lots) == set(position.lots)
        assert row.shares == position.shares and row.auto_compound == position.auto_compound
        assert row.redelegated_until == position.redelegated_until
        for id, lot in position.lots.items():
            assert (lots[id].shares, lots[id].multiplier, lots[id].unlocks_at, row.ratio) == (
                lot.shares,
                lot.multiplier,
                lot.unlocks_at,
                lot.ratio,
            )
        pool = tables[staking.Validator][validator,]
        pending = sum(
            lot.shares * lot.multiplier * (pool.ratio - row.ratio) // RATIO_SCALE for lot in lots.values()
        )
        assert pending == position.earned(lived.state(f"validator:{validator}").ratio)
    for stream in lived.names("unbonding"):
        validator = stream.partition(":")[2]
        entries = {
            entry: (row.initial, row.balance, row.matures_at)
            for (name, entry), row in tables[staking.Unbonding].items()
            if name == validator and row.status == "open"
        }
        assert entries == {
            id: (entry.initial, entry.balance, entry.matures_at)
            for id, entry in lived.state(stream).entries.items()
        }
    bonded = sum(row.tokens for row in tables[staking.Validator].values())
    assert bonded == lived.state("pool:bonded").posted["FOG"]


def test_there_is_a_timer_for_whatever_is_still_due(lived: History) -> None:
    open_timers = {key[0]: row for key, row in folded(timers, [lived.records])[Timer].items()}
    expected = {}
    for stream in lived.names("hold"):
        hold = lived.state(stream)
        if not hold.closed:
            expected[stream] = hold.expires_at
    for stream in lived.names("unbonding"):
        for entry, unbonding in lived.state(stream).entries.items():
            expected[f"{stream}:{entry}"] = unbonding.matures_at
    for stream in lived.names("position"):
        for id, lot in lived.state(stream).lots.items():
            if lot.unlocks_at is not None:
                expected[f"lock:{stream.partition(':')[2]}:{id}"] = lot.unlocks_at
    for stream in lived.names("slash"):
        expected[f"reputation:slash.{stream.partition(':')[2]}"] = lived.state(stream).at
    due = {name: row.due_at for name, row in open_timers.items() if not name.startswith("compound:")}
    # The lock of a lot that was withdrawn leaves a timer behind, which will come to nothing.
    assert {
        name: at for name, at in due.items() if name in expected or not name.startswith("lock:")
    } == expected
    compounding = {
        f"compound:{stream.partition(':')[2]}"
        for stream in lived.names("position")
        if lived.state(stream).auto_compound
    }
    subjects = [name.split(":20")[0] for name in open_timers if name.startswith("compound:")]
    assert sorted(subjects) == sorted(compounding)


def test_every_event_has_a_handler_in_a_read_model() -> None:
    followed = (
        p.handlers for p in all_projections().values() if p.name not in ("timers", "analytics", "lineage")
    )
    known = {event.__name__ for stream in streams().values() for event in stream.events}
    assert known - set().union(*followed) == NO_READ_MODEL


def test_a_recurring_timer_has_a_name_of_its_own_each_time() -> None:
    made = History()
    made.issue(CreateZone("main", "manual"))
    made.issue(OpenWallet("wallet:ana"), "ana")
    made.issue(MintTokens("wallet:ana", 5_000, "start", "s"))
    made.issue(RegisterValidator("v1", 1_000), "ana")
    made.issue(SetAutoCompound("v1", True), "ana")
    names = []
    for _ in range(3):
        (name,) = (key[0] for key in folded(timers, [made.records])[Timer])
        names.append(name)
        made.book.now += timedelta(days=1)
        assert made.issue(ClaimRewards("v1", "ana"), "worker", "worker")
    assert len(set(names)) == 3
    made.issue(SetAutoCompound("v1", False), "ana")
    assert folded(timers, [made.records])[Timer] == {}
