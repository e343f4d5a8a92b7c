"""Two zones and whoever carries their messages, against a plain model.

The carrier is adversarial: it delays, reorders, repeats and drops packets and reports, alters them, signs them with
other keys, and comes at any time of two clocks that agree on nothing. In the model a token is in one wallet, or on
its way. `FOGBOOK_EXAMPLES` scales the number of histories.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from commands._signatures import public_key, sign, zone_key
from domain import ledger
from domain._kernel import FOG, Rejected
from domain.platform import CreateZone
from domain.settlement import transfers
from domain.settlement.transfers import Packet, bridge, home_of, landing_asset, statement
from tests.scenario import START, Book

EXAMPLES = int(os.environ.get("FOGBOOK_EXAMPLES", "100"))
ZONES = {"main": "village", "village": "main"}
"""Each zone and its peer."""
PEOPLE = ("ana", "ben", "vic")
ASSETS = {"main": (FOG, "GOLD"), "village": (FOG,)}
FUNDS = 1_000
CODES = (FOG, "GOLD", "main/FOG", "main/GOLD", "village/FOG")
FOREVER = timedelta(days=10_000)

zones = st.sampled_from(tuple(ZONES))
people = st.sampled_from(PEOPLE)
spans = st.sampled_from((timedelta(), timedelta(minutes=1), timedelta(hours=1), timedelta(days=30)))


@dataclass
class Flight:
    """What the model knows of a transfer."""

    packet: Packet
    fate: str = ""
    """Of its packet at the target: received, failed or refused."""
    at: datetime = START
    reason: str = ""
    settled: bool = False

    @property
    def is_on_its_way(self) -> bool:
        """It is in no wallet."""
        return self.fate != "received" and not self.settled

    @property
    def token(self) -> str:
        """The zone and the code of what crosses, wherever it is: `main/FOG`."""
        return (
            self.packet.asset if home_of(self.packet.asset) else f"{self.packet.source}/{self.packet.asset}"
        )


class Carried(RuleBasedStateMachine):
    @initialize(lag=st.sampled_from((timedelta(), timedelta(days=-400), timedelta(days=90))))
    def begin(self, lag: timedelta) -> None:
        self.books = {zone: Book(now=START + (lag if zone == "village" else timedelta())) for zone in ZONES}
        self.flights: list[Flight] = []
        self.wallets: Counter[tuple[str, str, str]] = Counter()
        self.open = {(zone, person): True for zone in ZONES for person in PEOPLE}
        self.suspended = dict.fromkeys(ZONES, False)
        """Whether this zone suspended its peer."""
        self.keys = dict.fromkeys(ZONES, 0)
        for zone, book in self.books.items():
            book.issue(CreateZone(zone, "manual"))
            for asset in ASSETS[zone]:
                if asset != FOG:
                    book.issue(ledger.DefineAsset(asset, 3))
            for person in PEOPLE:
                book.issue(ledger.OpenWallet(f"wallet:{person}"), person)
                for asset in ASSETS[zone]:
                    book.issue(ledger.MintTokens(f"wallet:{person}", FUNDS, "-", "-", asset))
                    self.wallets[zone, person, asset] = FUNDS
        for zone, peer in ZONES.items():
            self.books[zone].issue(transfers.RegisterPeer(peer, self.public(peer)))
        # Some of it went over before, so that vouchers go home from the first step on.
        for zone in ZONES:
            for person in PEOPLE:
                self.initiate(zone, person, "vic", FOG, 300, FOREVER)
                self.deliver(self.flights[-1])

    # Keys and proofs

    def public(self, zone: str) -> str:
        return public_key(zone_key(b"%d" % self.keys[zone], zone))

    def signed(self, zone: str, text: str, generation: int | None = None) -> str:
        number = self.keys[zone] if generation is None else generation
        return sign(zone_key(b"%d" % number, zone), text.encode())

    def packet_proof(self, flight: Flight) -> str:
        return self.signed(flight.packet.source, statement("packet", flight.packet))

    def report(self, flight: Flight) -> Any:
        """The target's report to the source."""
        packet, target = flight.packet, flight.packet.target
        proof = self.signed(target, statement(flight.fate, packet, flight.at, flight.reason))
        if flight.fate == "refused":
            return transfers.TimeoutTransfer(target, packet.sequence, flight.at, proof)
        return transfers.RecordAcknowledgement(
            target, packet.sequence, flight.fate == "received", flight.at, proof, flight.reason
        )

    def issue(self, zone: str, command: Any, by: str = "worker") -> list[Any] | str:
        """The events, or the rule that refused it; then nothing changed."""
        book = self.books[zone]
        states, before = dict(book.states), len(book.events)
        try:
            return book.issue(command, by)
        except Rejected as refused:
            assert (book.states, len(book.events)) == (states, before)
            return refused.rule()

    # What people do

    @rule(
        data=st.data(),
        zone=zones,
        to=st.sampled_from((*PEOPLE, "nobody")),
        amount=st.integers(1, 400),
        patience=st.sampled_from((timedelta(minutes=1), timedelta(days=1), FOREVER)),
        at_once=st.booleans(),
    )
    def send(
        self, data: st.DataObject, zone: str, to: str, amount: int, patience: timedelta, at_once: bool
    ) -> None:
        """Mostly what somebody has, sometimes what he has not."""
        holdings = sorted(key[1:] for key, held in self.wallets.items() if held and key[0] == zone)
        any_pair = st.tuples(people, st.sampled_from(CODES))
        person, code = data.draw(st.one_of(st.sampled_from(holdings), st.sampled_from(holdings), any_pair))
        self.initiate(zone, person, to, code, amount, patience)
        if at_once:
            self.deliver(self.flights[-1])

    def initiate(self, zone: str, person: str, to: str, code: str, amount: int, patience: timedelta) -> None:
        peer = ZONES[zone]
        timeout = max(self.books[zone].now, self.books[peer].now) + patience
        command = transfers.InitiateTransfer(peer, f"wallet:{to}", amount, timeout, code)
        outcome = self.issue(zone, command, person)
        if not self.open[zone, person] or self.wallets[zone, person, code] < amount:
            assert isinstance(outcome, str)
        elif self.suspended[zone]:
            assert outcome == "peer-is-suspended"
        else:
            assert isinstance(outcome, list)
            (sent,) = (event for event in outcome if isinstance(event, transfers.TransferInitiated))
            assert sent.packet.sequence == 1 + sum(f.packet.source == zone for f in self.flights)
            self.wallets[zone, person, code] -= amount
            self.flights.append(Flight(sent.packet))

    @rule(zone=zones, person=people, to=people, code=st.sampled_from(CODES), amount=st.integers(1, 400))
    def pay(self, zone: str, person: str, to: str, code: str, amount: int) -> None:
        outcome = self.issue(zone, ledger.Transfer(f"wallet:{person}", f"wallet:{to}", amount, code), person)
        if isinstance(outcome, list):
            self.wallets[zone, person, code] -= amount
            self.wallets[zone, to, code] += amount

    @rule(zone=zones, person=people)
    def leave(self, zone: str, person: str) -> None:
        """Give everything away and close the wallet: what is sent to it fails, what is refunded opens it again."""
        heir = PEOPLE[(PEOPLE.index(person) + 1) % len(PEOPLE)]
        for code in CODES:
            if has := self.wallets[zone, person, code]:
                self.pay(zone, person, heir, code, has)
        if isinstance(self.issue(zone, ledger.CloseWallet(f"wallet:{person}"), person), list):
            self.open[zone, person] = False

    @rule(zone=zones, person=people)
    def come_back(self, zone: str, person: str) -> None:
        if isinstance(self.issue(zone, ledger.OpenWallet(f"wallet:{person}"), person), list):
            self.open[zone, person] = True

    # What operators do

    @rule(data=st.data(), zone=zones)
    def suspend_for_a_while(self, data: st.DataObject, zone: str) -> None:
        assert self.issue(zone, transfers.SuspendPeer(ZONES[zone], "-"), "operator")
        self.suspended[zone] = True
        self.initiate(zone, "ana", "vic", FOG, 1, FOREVER)
        for step in (self.carry_a_packet, self.ask_to_refuse, self.carry_a_report):
            step(data)
        assert self.issue(zone, transfers.ResumePeer(ZONES[zone], "-"), "operator")
        self.suspended[zone] = False

    @rule(zone=zones)
    def rotate(self, zone: str) -> None:
        self.keys[zone] += 1
        assert self.issue(ZONES[zone], transfers.RotatePeerKey(zone, self.public(zone)), "operator")

    @rule(zone=zones, span=spans)
    def wait(self, zone: str, span: timedelta) -> None:
        self.books[zone].now += span

    # What the carrier does

    def some(self, data: st.DataObject, flights: list[Flight]) -> Flight:
        """Any of them, the last ones more often."""
        return data.draw(st.sampled_from(flights[-4:]) | st.sampled_from(flights))

    @rule(data=st.data())
    def carry_a_packet(self, data: st.DataObject) -> None:
        self.deliver(self.some(data, self.flights))

    @rule(data=st.data(), number=st.integers(1, 6))
    def carry_what_waits(self, data: st.DataObject, number: int) -> None:
        """Packets and reports, in any order."""
        for _ in range(number):
            waiting = [flight for flight in self.flights if not flight.settled]
            if waiting:
                flight = data.draw(st.sampled_from(waiting))
                self.bring_home(flight) if flight.fate else self.deliver(flight)

    @rule(data=st.data(), early=st.booleans(), refused=st.booleans())
    def come_late(self, data: st.DataObject, early: bool, refused: bool) -> None:
        """At the very moment of a timeout, or the one before."""
        waiting = [flight for flight in self.flights if not flight.fate] or self.flights
        flight = data.draw(st.sampled_from(waiting))
        book = self.books[flight.packet.target]
        moment = timedelta(microseconds=1) if early else timedelta()
        book.now = max(book.now, flight.packet.timeout - moment)
        self.refuse(flight) if refused else self.deliver(flight)

    def deliver(self, flight: Flight) -> None:
        target, packet = flight.packet.target, flight.packet
        outcome = self.issue(target, transfers.ReceiveTransfer(packet, self.packet_proof(flight)))
        if self.suspended[target]:
            assert outcome == "peer-is-suspended"
        elif flight.fate:
            assert outcome == [], "a packet has one fate"
        else:
            assert isinstance(outcome, list)
            self.decide(flight)
            kinds = {"received": "TransferReceived", "failed": "TransferFailed", "refused": "TransferRefused"}
            assert type(outcome[0]).__name__ == kinds[flight.fate]

    def decide(self, flight: Flight) -> None:
        target, packet = flight.packet.target, flight.packet
        person = ledger.owner_of(packet.recipient)
        flight.at = self.books[target].now
        if flight.at >= packet.timeout:
            flight.fate = "refused"
        elif not self.open.get((target, person), False):
            flight.fate, flight.reason = "failed", "account-is-not-open"
        else:
            flight.fate = "received"
            self.wallets[target, person, landing_asset(packet)] += packet.amount

    @rule(data=st.data())
    def ask_to_refuse(self, data: st.DataObject) -> None:
        self.refuse(self.some(data, self.flights))

    def refuse(self, flight: Flight) -> None:
        target = flight.packet.target
        outcome = self.issue(target, transfers.RefuseTransfer(flight.packet, self.packet_proof(flight)))
        if self.suspended[target]:
            assert outcome == "peer-is-suspended"
        elif flight.fate:
            assert outcome == []
        elif self.books[target].now < flight.packet.timeout:
            assert outcome == "transfer-has-not-timed-out"
        else:
            assert isinstance(outcome, list) and len(outcome) == 1
            flight.fate, flight.at = "refused", self.books[target].now

    @rule(data=st.data())
    def carry_a_report(self, data: st.DataObject) -> None:
        self.bring_home(self.some(data, [flight for flight in self.flights if flight.fate]))

    def bring_home(self, flight: Flight) -> None:
        source, packet = flight.packet.source, flight.packet
        outcome = self.issue(source, self.report(flight))
        if self.suspended[source]:
            assert outcome == "peer-is-suspended"
        elif flight.settled:
            assert outcome == [], "a transfer is settled once"
        else:
            assert isinstance(outcome, list)
            flight.settled = True
            if flight.fate != "received":
                person = ledger.owner_of(packet.sender)
                self.wallets[source, person, packet.asset] += packet.amount
                self.open[source, person] = True

    @rule(data=st.data(), what=st.sampled_from(("amount", "recipient", "timeout", "sequence", "zone", "key")))
    def forge_a_packet(self, data: st.DataObject, what: str) -> None:
        flight = self.some(data, self.flights)
        packet, proof = flight.packet, self.packet_proof(flight)
        match what:
            case "amount":
                packet = replace(packet, amount=packet.amount + 1)
            case "recipient":
                packet = replace(packet, recipient="wallet:mallory")
            case "timeout":
                packet = replace(packet, timeout=packet.timeout + timedelta(microseconds=1))
            case "sequence":
                packet = replace(packet, sequence=packet.sequence + 1_000)
            case "zone":
                proof = self.signed(packet.target, statement("packet", packet))
            case "key":
                proof = self.signed(packet.source, statement("packet", packet), self.keys[packet.source] + 1)
        command = data.draw(st.sampled_from((transfers.ReceiveTransfer, transfers.RefuseTransfer)))
        assert self.issue(packet.target, command(packet, proof)) in ("proof-is-invalid", "peer-is-suspended")

    @rule(
        data=st.data(),
        fate=st.sampled_from(("received", "failed", "refused")),
        late=st.sampled_from((timedelta(), timedelta(seconds=1))),
        by=st.sampled_from(("source", "target", "old")),
    )
    def forge_a_report(self, data: st.DataObject, fate: str, late: timedelta, by: str) -> None:
        """Another fate, another time, another signer; but never the truth."""
        flight = self.some(data, self.flights)
        told = Flight(flight.packet, fate, flight.at + late, flight.reason)
        command = self.report(told)
        if by == "source":
            text = statement(fate, flight.packet, told.at, told.reason)
            command = replace(command, proof=self.signed(flight.packet.source, text))
        elif by == "old":
            text = statement(fate, flight.packet, told.at, told.reason)
            command = replace(command, proof=self.signed(flight.packet.target, text, -1))
        elif flight.fate:
            # The target signed one statement on this packet; its signature is all that the carrier has.
            command = replace(command, proof=self.report(flight).proof)
            if (fate, late) == (flight.fate, timedelta()):
                return
        else:
            command = replace(command, proof=self.packet_proof(flight))
        assert self.issue(flight.packet.source, command) in ("proof-is-invalid", "peer-is-suspended")

    # What always holds

    @invariant()
    def wallets_hold_what_the_model_says(self) -> None:
        for zone, book in self.books.items():
            for person in PEOPLE:
                posted = book.read(ledger.accounts, f"wallet:{person}").posted
                assert posted == {c: a for c in CODES if (a := self.wallets[zone, person, c])}

    @invariant()
    def every_token_is_in_one_wallet_or_on_its_way(self) -> None:
        for zone, peer in ZONES.items():
            for asset in ASSETS[zone]:
                voucher = f"{zone}/{asset}"
                here = sum(self.wallets[zone, person, asset] for person in PEOPLE)
                there = sum(self.wallets[peer, person, voucher] for person in PEOPLE)
                moving = sum(f.packet.amount for f in self.flights if f.is_on_its_way and f.token == voucher)
                escrow = self.books[zone].read(ledger.accounts, bridge(peer)).posted.get(asset, 0)
                assert here + there + moving == FUNDS * len(PEOPLE)
                assert escrow == there + moving, "escrow = the peer's vouchers + what is in flight"
                assert self.books[zone].read(ledger.assets, asset).supply == FUNDS * len(PEOPLE)
                assert self.books[peer].read(ledger.assets, voucher).supply + moving == escrow

    @invariant()
    def each_transfer_is_acknowledged_or_refunded_or_neither(self) -> None:
        for flight in self.flights:
            packet = flight.packet
            at_source = self.books[packet.source].read(
                transfers.packets, f"{packet.target}:{packet.sequence}"
            )
            at_target = self.books[packet.target].read(
                transfers.receptions, f"{packet.source}:{packet.sequence}"
            )
            assert at_target.outcome == flight.fate
            assert at_source.outcome == (flight.fate if flight.settled else "")
        for zone, book in self.books.items():
            ends = Counter(
                stream
                for stream, event in book.events
                if isinstance(event, transfers.TransferAcknowledged | transfers.TransferRefunded)
            )
            assert all(count == 1 for count in ends.values())
            channel = book.read(transfers.channels, ZONES[zone])
            mine = [flight for flight in self.flights if flight.packet.source == zone]
            assert channel.sent == len(mine)
            assert channel.in_flight == sum(not flight.settled for flight in mine)
            announced = [sequence for flight in mine for sequence in flight.packet.settled]
            done = {flight.packet.sequence for flight in mine if flight.settled}
            assert sorted((*announced, *channel.settled)) == sorted(done), "announced once each"

    def teardown(self) -> None:
        """However the carrier behaved: once it carries everything, nothing is left on its way."""
        if not hasattr(self, "books"):
            return
        for flight in self.flights:
            self.deliver(flight)
            self.bring_home(flight)
        assert not any(flight.is_on_its_way for flight in self.flights)
        self.every_token_is_in_one_wallet_or_on_its_way()
        self.wallets_hold_what_the_model_says()


TestCarried = Carried.TestCase
TestCarried.settings = settings(max_examples=2 * EXAMPLES, stateful_step_count=40, deadline=None)


# A peer that cheats: it signs whatever it likes


lies = st.tuples(
    st.sampled_from(("in", "received", "failed", "refused")),
    st.integers(1, 4),
    st.integers(1, 150),
    st.sampled_from((FOG, "main/FOG", "main/GOLD", "hamlet/FOG", "village/FOG")),
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(lies, max_size=25))
def test_a_cheating_peer_takes_out_at_most_what_was_sent_to_it(told: list[tuple[str, int, int, str]]) -> None:
    key = zone_key(b"0", "village")
    book = Book()
    book.issue(CreateZone("main", "manual"))
    book.issue(ledger.OpenWallet("wallet:ana"), "ana")
    book.issue(ledger.MintTokens("wallet:ana", FUNDS, "-", "-"))
    book.issue(ledger.OpenWallet("wallet:vic"), "vic")
    book.issue(transfers.RegisterPeer("village", public_key(key)))
    sent: list[Packet] = []
    for _ in range(3):
        out = transfers.InitiateTransfer("village", "wallet:vic", 100, START + FOREVER)
        sent += [e.packet for e in book.issue(out, "ana") if isinstance(e, transfers.TransferInitiated)]
    outcomes: dict[int, set[str]] = {}
    for kind, sequence, amount, code in told:
        packet = Packet(
            "village", "main", sequence, code, 6, amount, "wallet:vic", "wallet:vic", START + FOREVER
        )
        command: Any
        if kind == "in":
            command = transfers.ReceiveTransfer(packet, sign(key, statement("packet", packet).encode()))
        elif sequence > len(sent):
            continue
        else:
            proof = sign(key, statement(kind, sent[sequence - 1], START).encode())
            if kind == "refused":
                command = transfers.TimeoutTransfer("village", sequence, START, proof)
            else:
                command = transfers.RecordAcknowledgement(
                    "village", sequence, kind == "received", START, proof
                )
        try:
            events = book.issue(command, "worker")
        except Rejected:
            continue
        if kind != "in" and events:
            outcomes.setdefault(sequence, set()).add(kind)
    assert all(len(kinds) == 1 for kinds in outcomes.values())
    posted = {
        name: book.read(ledger.accounts, name).posted.get(FOG, 0) for name in ("wallet:ana", "wallet:vic")
    }
    escrow = book.read(ledger.accounts, bridge("village")).posted.get(FOG, 0)
    assert escrow >= 0 and posted["wallet:ana"] >= FUNDS - 300
    assert (
        posted["wallet:ana"] + posted["wallet:vic"] + escrow == FUNDS == book.read(ledger.assets, FOG).supply
    )


@pytest.mark.parametrize("kind", ["packet", "received", "failed", "refused"])
@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_no_two_packets_share_a_statement(kind: str, data: st.DataObject) -> None:
    texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)
    some = st.builds(
        Packet,
        zones,
        zones,
        st.integers(1, 20),
        st.sampled_from(CODES),
        st.integers(0, 18),
        st.integers(1, 20),
        st.sampled_from(("wallet:a", "wallet:a:b")),
        st.sampled_from(("wallet:a", "wallet:b")),
        st.datetimes(START.replace(tzinfo=None), timezones=st.just(UTC)),
        texts,
        st.lists(st.integers(1, 20), max_size=3).map(tuple),
    )
    one, other = data.draw(some), data.draw(some)
    other = data.draw(
        st.sampled_from((other, replace(one, memo=other.memo), replace(one, settled=other.settled)))
    )
    assert (statement(kind, one) == statement(kind, other)) == (one == other)
    assert statement(kind, one) != statement("another", one)
    assert statement(kind, one).isascii()
