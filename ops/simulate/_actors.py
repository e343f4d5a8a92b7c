"""Who lives in the zone. A kind of actor is a class with a `plan`; a further context adds its kinds to `cast`.

What an actor wants in a step depends on the seed, the step and the log as of the step's beginning, and on nothing
else: that makes an interrupted simulation go on as if nothing had happened. Devices, the market and settlement have
files of their own; here are money and stake, and who plays which parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from ops.simulate import _devices, _market, _settlement
from ops.simulate._api import Wish, rfc3339
from ops.simulate._book import BASE_LOT, FOG, Pool
from ops.simulate._devices import Household
from ops.simulate._market import Customer, Provider
from ops.simulate._settlement import Party
from ops.simulate._view import UNIT, Actor, Gadget, View, Village, wallet, wish

# fmt: off
PEOPLE = [
    "ana", "ben", "cleo", "dan", "eva", "finn", "gita", "hugo", "ida", "jan", "kim", "leo", "mia", "nils", "olga",
    "pia", "quinn", "rosa", "sam", "tara", "udo", "vera", "wim", "xena", "yann", "zoe",
]
# fmt: on
VALIDATORS = ["oak", "birch", "cedar", "maple", "alder", "rowan", "linden", "hazel", "willow", "aspen"]
MOVED_AWAY = "drifter"
"""Somebody of whom nothing is to be kept."""
AWAKE = (1, 0, 0, 0, 0, 1, 3, 8, 11, 13, 13, 12, 15, 13, 11, 11, 12, 15, 19, 21, 19, 15, 8, 3)
"""How many of a hundred people do something, by hour of the day."""
UNBONDING_HOUR, COMPOUND_HOUR = 19, 21
"""What falls due later is begun at two hours of the day, so that few steps wait for timers."""
HOLDS_END_AT = (0, 12)
PURCHASES = (
    ("coffee", "two, please"),
    ("rent", "thank you"),
    ("bread", ""),
    ("bandwidth", "last week's"),
    ("lunch", "my share"),
    ("repair", "the bicycle"),
    ("gift", "happy birthday"),
)
FEWEST_PEOPLE, DEVICES_A_PERSON = 8, 4
FEWEST_PROVIDERS, DEVICES_A_PROVIDER = 3, 50
FEWEST_VALIDATORS, DEVICES_A_VALIDATOR = 4, 100
SMALL = 100
"""A village of fewer devices stands in two regions and lends most of them; a larger one, in all regions, some."""
MOST_DEBTORS, MOST_CREDITORS = 60, 30
"""People and providers who settle by netting windows, which take 200 parties; the rest pays in advance."""
REWARDS_A_DEVICE = 400 * UNIT
"""What the budget for harvest rewards holds for each device at least, when a day begins."""


def cast(run: str, devices: int) -> tuple[Village, list[Actor]]:
    """The village, and everybody in it but the operator, who acts first in each step."""
    people = _names(PEOPLE, max(FEWEST_PEOPLE, devices // DEVICES_A_PERSON))
    providers = _market.names(max(FEWEST_PROVIDERS, devices // DEVICES_A_PROVIDER))
    validators = _names(VALIDATORS, max(FEWEST_VALIDATORS, devices // DEVICES_A_VALIDATOR))
    regions, lent = (2, 75) if devices < SMALL else (len(_devices.REGIONS), 26)
    owned: dict[str, list[Gadget]] = {name: [] for name in people}
    for place in range(max(devices - len(providers), 1)):
        owner = people[place % len(people)]
        owned[owner].append(_devices.gadget(run, owner, place // len(people) + 1, place, regions))
    gadgets = {each.id: each for mine in owned.values() for each in mine}
    debtors, creditors = people[:MOST_DEBTORS], providers[:MOST_CREDITORS]
    everybody = [*people, *providers, *validators]
    village = Village(
        run, everybody, people, providers, gadgets, lent, debtors, frozenset((*debtors, *creditors))
    )
    return village, [
        *(Validator(name) for name in validators),
        *(Provider(name, place, 1, regions) for place, name in enumerate(providers)),
        *(Participant(name, owned[name]) for name in people),
    ]


def _names(names: Sequence[str], number: int) -> list[str]:
    return [
        names[i % len(names)] + (str(i // len(names) + 1) if i >= len(names) else "") for i in range(number)
    ]


# The operator


class Operator:
    """Mints, pays wages and rewards, freezes, reverses, slashes and decides appeals."""

    name = ""
    wallets = ("treasury", "fees", "pool:rewards", "pool:community", "pool:staking")

    def plan(self, view: View) -> list[Wish]:
        wishes = []
        if view.step == 0:
            wishes.append(self._mint(view, "treasury", 2_000 * UNIT * len(view.people)))
        if view.step == 1:
            wishes += [
                wish(
                    "ledger/transfer",
                    from_="treasury",
                    to=wallet(p),
                    amount=view.fog(400, 900),
                    purpose="welcome",
                )
                for p in view.people
            ]
            wishes.append(wish("principals/erase-subject", principal=MOVED_AWAY))
        duties = {3: self._budgets, 9: self._wages, 20: self._contributions, 22: self._staking_rewards}
        wishes += duties.get(view.hour, lambda v: [])(view)
        wishes += self._fund_rewards(view)
        if view.step > 1:
            wishes += [*self._justice(view), *self._order(view)]
        others = (_devices.operate, _market.operate, _settlement.operate)
        return [*wishes, *(wish for each in others for wish in each(view))]

    def _fund_rewards(self, view: View) -> list[Wish]:
        """The budget for rewards never runs dry: what was earned waits for nobody."""
        enough = REWARDS_A_DEVICE * max(len(view.village.gadgets), 10)
        return (
            [self._mint(view, "pool:rewards", enough)] if view.book.available("pool:rewards") < enough else []
        )

    def _mint(self, view: View, to: str, amount: int) -> Wish:
        day = view.at.date().isoformat()
        return wish("ledger/mint-tokens", to=to, amount=amount, reason="budget", reference=f"budget-{day}")

    def _budgets(self, view: View) -> list[Wish]:
        """The day's salaries and rewards are minted into public funds; what fees earned is burned."""
        wishes = [self._mint(view, "treasury", 60 * UNIT * len(view.people))]
        fees = view.book.available("fees")
        if fees:
            wishes.append(wish("ledger/burn-tokens", from_="fees", amount=fees, reason="fees are burned"))
        return wishes

    def _wages(self, view: View) -> list[Wish]:
        """Everybody is paid on every second day."""
        day = view.at.date().isoformat()
        return [
            wish(
                "ledger/transfer",
                from_="treasury",
                to=wallet(name),
                amount=view.fog(60, 120),
                purpose="salary",
                reference=f"salary-{day}",
                memo=f"Salary of {day}",
            )
            for name in view.people[view.day % 2 :: 2]
        ]

    def _contributions(self, view: View) -> list[Wish]:
        earners = view.rng.sample(list(view.people), min(len(view.people), view.rng.randint(3, 8)))
        amounts = [{"to": wallet(name), "amount": str(view.fog(1, 9))} for name in earners]
        total = sum(int(each["amount"]) for each in amounts) + view.rng.randrange(1000)
        return [
            wish(
                "ledger/distribute-rewards",
                distribution=view.id("d"),
                kind="contribution",
                pool="pool:rewards",
                allocations=amounts,
                total=total,
            )
        ]

    def _staking_rewards(self, view: View) -> list[Wish]:
        amount = min(view.fog(80, 160), view.book.available("pool:rewards"))
        return [wish("staking/allocate-rewards", reference=view.id("r"), amount=amount)] if amount else []

    def _justice(self, view: View) -> list[Wish]:
        """Slashes, now and then; a double-sign is rare. Appeals are decided in the afternoon."""
        wishes = []
        live = view.pools()
        if live and view.hour == 13 and view.chance(40):
            wishes.append(self._slash(view, view.rng.choice(live), "downtime"))
        if len(live) > 2 and view.hour == 11 and view.day % 12 == 1:
            wishes.append(self._slash(view, view.rng.choice(live), "double-sign"))
        if view.hour == 16:
            wishes += [
                wish(
                    "staking/decide-appeal",
                    evidence_id=id,
                    won=view.chance(50),
                    reason="The evidence was heard again.",
                )
                for id, slashing in view.book.slashings.items()
                if slashing.appealed and not slashing.decided
            ]
        return wishes

    def _slash(self, view: View, validator: str, kind: str) -> Wish:
        since = min(view.rng.randint(0, 20), view.step)
        at = view.at - timedelta(hours=since)
        evidence = view.id("e", validator)
        return wish(
            "staking/slash", validator=validator, kind=kind, infraction_at=rfc3339(at), evidence_id=evidence
        )

    def _order(self, view: View) -> list[Wish]:
        """Wallets are frozen for some hours; payments made by mistake are reversed; slips are refused."""
        wishes = []
        if view.hour == 10 and view.chance(30):
            name = view.rng.choice(view.people)
            wishes.append(wish("ledger/freeze-wallet", wallet=wallet(name), reason="A card was lost."))
        if view.hour == 18:
            wishes += [
                wish("ledger/unfreeze-wallet", wallet=account, reason="The card was found.")
                for account, status in view.book.status.items()
                if status == "frozen"
            ]
        if view.hour in (14, 17) and view.book.paid:
            paid = view.rng.choice(list(view.book.paid))
            wishes.append(
                wish("ledger/reverse-transaction", transaction=paid.transaction, reason="Paid by mistake.")
            )
        if view.hour == 23:
            wishes.append(wish("ledger/unfreeze-wallet", wallet=wallet(view.people[0]), reason="To be sure."))
        return wishes


# Validators


class Validator:
    """Runs a validator: registers, sets its commission, takes what it earned, comes back from jail, appeals."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wallets = (wallet(name),)

    def plan(self, view: View) -> list[Wish]:
        if wallet(self.name) not in view.book.status:
            return [wish("ledger/open-wallet", wallet=wallet(self.name))]
        mine = {id: pool for id, pool in view.book.pools.items() if pool.operator == self.name}
        running = [id for id, pool in mine.items() if not pool.tombstoned]
        if not running:
            return self._register(view, f"v-{self.name}" + (f"-{len(mine) + 1}" if mine else ""))
        return [*self._run(view, running[0], mine[running[0]]), *self._appeal(view, mine)]

    def _register(self, view: View, id: str) -> list[Wish]:
        stake = view.book.available(wallet(self.name)) * 2 // 3
        if stake < UNIT or (view.step > 2 and view.hour != 8):
            return []
        return [
            wish(
                "staking/register-validator",
                validator=id,
                self_stake=stake,
                commission=view.rng.randrange(100, 1200),
                minimum_self_stake=stake // 2,
                description=f"{self.name.title()}, always on",
            )
        ]

    def _run(self, view: View, id: str, pool: Pool) -> list[Wish]:
        wishes = []
        if pool.jailed_until is not None and (pool.jailed_until <= view.at or view.chance(60)):
            wishes.append(wish("staking/unjail", validator=id))
        if view.hour == 7:
            wishes += [
                wish("staking/withdraw-commission", validator=id),
                wish("staking/claim-rewards", validator=id),
            ]
        if view.hour == 15 and view.chance(40):
            change = view.rng.choice((-80, -30, 20, 60, 100, 300))  # The last is more than a day allows.
            commission = min(max(pool.commission + change, 0), 2_000)
            wishes.append(wish("staking/edit-validator", validator=id, commission=commission))
        return wishes

    def _appeal(self, view: View, mine: dict[str, Pool]) -> list[Wish]:
        return [
            wish("staking/appeal-slash", evidence_id=id, grounds="Our clock was wrong, our keys were not.")
            for id, slashing in view.book.slashings.items()
            if slashing.validator in mine
            and slashing.at == view.at - timedelta(hours=2)
            and not slashing.appealed
        ]


# Participants

Deed = Callable[["Participant", View], list[Wish]]


class Participant:
    """Somebody with devices: is paid, pays, saves, stakes, buys compute, and makes mistakes."""

    def __init__(self, name: str, gadgets: Sequence[Gadget]) -> None:
        self.name = name
        self.household = Household(name, gadgets)
        self.customer = Customer(name)
        self.party = Party(name)
        self.wallet = wallet(name)
        self.savings = f"{self.wallet}:savings"
        self.wallets = (self.wallet, self.savings)

    def plan(self, view: View) -> list[Wish]:
        if self.wallet not in view.book.status:
            contact = f"{self.name}@village.example"
            profile = wish("principals/set-profile", display_name=self.name.title(), contact=contact)
            return [wish("ledger/open-wallet", wallet=self.wallet), profile]
        wishes = [*self.household.plan(view), *self.customer.plan(view), *self.party.plan(view)]
        if view.turn("stake", UNBONDING_HOUR - 1):
            wishes += self.delegate(view)
        if view.turn("stake", UNBONDING_HOUR):
            wishes += self._unbond(view, 100)
        if view.turn("stake", UNBONDING_HOUR + 1):
            wishes += self.redelegate(view)
        if view.step >= 2 and AWAKE[view.hour] and view.chance(AWAKE[view.hour]):
            wishes += self._day(view)
        return wishes

    def _day(self, view: View) -> list[Wish]:
        deeds = view.rng.choices(
            [d for _, d in DEEDS], [weight for weight, _ in DEEDS], k=view.rng.randint(1, 3)
        )
        wishes = [wish for deed in dict.fromkeys(deeds) for wish in deed(self, view)]
        if view.hour == UNBONDING_HOUR:
            wishes += self._unbond(view, 35)
        if view.hour == COMPOUND_HOUR and view.chance(50):
            wishes += self._compound(view)
        return wishes

    # Money

    def _some(self, view: View, parts: int = 8) -> int:
        """A part of what is available; 0 when there is hardly anything."""
        most = view.book.available(self.wallet) // parts
        return view.rng.randrange(most // 20, most) if most > UNIT else 0

    def _somebody(self, view: View) -> str:
        return view.rng.choice([name for name in view.people if name != self.name] or ["nobody"])

    def _transfer(self, view: View, to: str, amount: int, purpose: str, memo: str = "") -> list[Wish]:
        if not amount:
            return []
        return [wish("ledger/transfer", from_=self.wallet, to=to, amount=amount, purpose=purpose, memo=memo)]

    def pay(self, view: View) -> list[Wish]:
        purpose, memo = view.rng.choice(PURCHASES)
        return self._transfer(view, wallet(self._somebody(view)), self._some(view), purpose, memo)

    def pay_fees(self, view: View) -> list[Wish]:
        return self._transfer(view, "fees", self._some(view, 100), "fee")

    def burn(self, view: View) -> list[Wish]:
        amount = self._some(view, 200)
        return (
            [wish("ledger/burn-tokens", from_=self.wallet, amount=amount, reason="for good luck")]
            if amount
            else []
        )

    def save(self, view: View) -> list[Wish]:
        """Opens a savings wallet, puts something in, takes all of it out, closes it."""
        saved = view.book.available(self.savings)
        if view.book.status.get(self.savings) != "open":
            return [wish("ledger/open-wallet", wallet=self.savings)]
        if saved and view.chance(50):
            out = wish("ledger/transfer", from_=self.savings, to=self.wallet, amount=saved, purpose="savings")
            return [out, wish("ledger/close-wallet", wallet=self.savings)]
        return self._transfer(view, self.savings, self._some(view), "savings")

    def hold(self, view: View) -> list[Wish]:
        amount = self._some(view)
        if not amount:
            return []
        end = view.at + timedelta(hours=view.rng.randint(3, 30))
        while end.hour not in HOLDS_END_AT:
            end += timedelta(hours=1)
        return [
            wish(
                "ledger/place-hold",
                hold=view.id("h", self.name),
                wallet=self.wallet,
                payee=self._somebody(view),
                amount=amount,
                expires_at=rfc3339(end),
                purpose="order",
            )
        ]

    def take(self, view: View) -> list[Wish]:
        """As a payee: captures some or all of a hold, or lets it go."""
        mine = [
            (id, hold)
            for id, hold in view.book.holds.items()
            if hold.payee == self.name and hold.expires_at > view.at and hold.remaining
        ]
        if not mine:
            return []
        id, hold = view.rng.choice(mine)
        if view.chance(20):
            return [wish("ledger/release-hold", hold=id)]
        amount = hold.remaining if view.chance(60) else view.rng.randint(1, hold.remaining)
        return [wish("ledger/capture-hold", hold=id, amount=amount, to=self.wallet, final=view.chance(70))]

    # Stake

    def _position(self, view: View) -> tuple[str, str, int] | None:
        """One lot of mine: its validator, its id and what it is worth."""
        found = [
            (validator, id, view.book.pools[validator].worth(lot.shares))
            for validator in view.book.delegates_to[self.name]
            for id, lot in view.book.lots[validator, self.name].items()
        ]
        found = [each for each in found if each[2]]
        return view.rng.choice(found) if found else None

    def delegate(self, view: View) -> list[Wish]:
        amount, pools = self._some(view, 3), view.pools()
        if not amount or not pools:
            return []
        lock_days = view.rng.choice((0, 0, 0, 0, 30, 90, 180, 365))
        return [
            wish("staking/delegate", validator=view.rng.choice(pools), amount=amount, lock_days=lock_days)
        ]

    def claim(self, view: View) -> list[Wish]:
        position = self._position(view)
        return [wish("staking/claim-rewards", validator=position[0])] if position else []

    def redelegate(self, view: View) -> list[Wish]:
        position = self._position(view)
        if position is None:
            return []
        source, lot, worth = position
        targets = [id for id in view.pools() if id != source]
        if not targets:
            return []
        amount, target = view.rng.randint(1, worth), view.rng.choice(targets)
        return [wish("staking/redelegate", source=source, target=target, amount=amount, lot=lot)]

    def _unbond(self, view: View, percent: int) -> list[Wish]:
        """Begins to unbond, sometimes out of a lock; now and then thinks better of it."""
        mine = [key for key, entry in view.book.entries.items() if entry.delegator == self.name]
        if mine and percent < 100 and view.chance(25):
            validator, entry = view.rng.choice(mine)
            return [wish("staking/cancel-unbonding", validator=validator, entry=entry)]
        position = self._position(view)
        if position is None or not view.chance(percent):
            return []
        validator, lot, worth = position
        if lot != BASE_LOT and view.chance(80):
            return []
        amount = worth if view.chance(30) else view.rng.randint(1, worth)
        return [wish("staking/begin-unbonding", validator=validator, amount=amount, lot=lot)]

    def _compound(self, view: View) -> list[Wish]:
        position = self._position(view)
        if position is None:
            return []
        enabled = (position[0], self.name) not in view.book.compounds
        return [wish("staking/set-auto-compound", validator=position[0], enabled=enabled)]

    # Compute

    def shop(self, view: View) -> list[Wish]:
        return self.customer.shop(view) if view.step > 2 else []

    def owe(self, view: View) -> list[Wish]:
        return self.party.owe(view) if self.name in view.village.circle and view.step > 2 else []

    # Mistakes, all of them refused

    def blunder(self, view: View) -> list[Wish]:
        other = wallet(self._somebody(view))
        much = view.book.posted[self.wallet, FOG] * 10 + 1_000 * UNIT
        past = rfc3339(view.at - timedelta(hours=1))
        pay = "ledger/transfer"
        return [
            view.rng.choice(
                [
                    wish(pay, from_=self.wallet, to=other, amount=much),
                    wish(pay, from_=other, to=self.wallet, amount=UNIT, memo="It said so in the mail."),
                    wish(pay, from_="pool:rewards:mine", to=self.wallet, amount=UNIT),
                    wish(pay, from_=self.wallet, to=self.wallet, amount=1),
                    wish(pay, from_=self.wallet, to="wallet:nobody", amount=1),
                    wish(pay, from_=self.wallet, to="pool:bonded", amount=1),
                    wish("ledger/open-wallet", wallet=self.wallet),
                    wish("ledger/open-wallet", wallet="wallet:nobody"),
                    wish("ledger/close-wallet", wallet=self.wallet),
                    wish("ledger/release-hold", hold=view.id("none")),
                    wish(
                        "ledger/place-hold",
                        hold=view.id("x", self.name),
                        wallet=self.wallet,
                        payee="ana",
                        amount=1,
                        expires_at=past,
                    ),
                    wish("staking/delegate", validator="v-nobody", amount=UNIT),
                    wish("staking/delegate", validator=view.rng.choice(view.pools() or ["v"]), amount=much),
                    wish("staking/delegate", validator="v-oak", amount=UNIT, lock_days=7),
                    wish("devices/retire-device", device="nobody-phone-1"),
                    wish("harvest/stop-harvest-session", session=view.id("none")),
                    wish("marketplace/start-service", contract=view.id("none")),
                    wish("marketplace/accept-bid", request=view.id("none")),
                    wish(
                        "settlement/record-obligation",
                        debtor="nobody",
                        creditor=self.name,
                        amount=5,
                        source="x",
                    ),
                ]
            )
        ]


DEEDS: tuple[tuple[int, Deed], ...] = (
    (40, Participant.pay),
    (4, Participant.pay_fees),
    (1, Participant.burn),
    (6, Participant.save),
    (12, Participant.hold),
    (14, Participant.take),
    (12, Participant.delegate),
    (6, Participant.claim),
    (3, Participant.redelegate),
    (6, Participant.blunder),
    (12, Participant.shop),
    (3, Participant.owe),
)
