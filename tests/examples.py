"""Shared examples: the people, the wallets and the validators that the domain's tests speak of.

Ana delegates, Ben delegates too, Val runs the validator `v1` and Wim runs `v2`. Amounts are smallest units.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from domain._kernel import FOG, Rejected
from domain.ledger import (
    REWARDS,
    TREASURY,
    Account,
    Asset,
    Hold,
    MintTokens,
    OpenWallet,
    accounts,
    assets,
    holds,
)
from domain.platform import CreateZone
from domain.staking import (
    Position,
    RegisterValidator,
    Unbondings,
    Validator,
    positions,
    unbondings,
    validators,
)
from tests.scenario import START, Book, Scenario, given

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WEEK = timedelta(days=7)
NOW = START

FUNDS = 1_000_000
"""What everybody in the village owns, and what is in each public fund."""

zone_created = CreateZone("main", "manual")


def wallet(owner: str, amount: int = 0) -> list[Any]:
    """The owner's wallet, with some FOG in it."""
    history: list[Any] = [(OpenWallet(f"wallet:{owner}"), owner)]
    if amount:
        history.append((MintTokens(f"wallet:{owner}", amount, "start", ""), "operator"))
    return history


def fund(account: str, amount: int) -> Any:
    return (MintTokens(account, amount, "budget", ""), "operator")


def funded(*owners: str) -> list[Any]:
    return [wallet(owner, FUNDS) for owner in owners]


village = [zone_created, funded("ana", "ben"), fund(REWARDS, FUNDS), fund(TREASURY, FUNDS)]
"""A zone where Ana and Ben own something and the public funds are filled."""


def validator(
    name: str, operator: str, stake: int = 1_000, commission: int = 0, minimum: int = 1
) -> list[Any]:
    """A validator with exactly this self-stake; nothing is left in its operator's wallet."""
    return [wallet(operator, stake), (RegisterValidator(name, stake, commission, minimum), operator)]


class Story(Scenario):
    """A scenario that goes on: steps that must succeed, time that passes, and looks at what came of it."""

    def and_then(self, command: Any, by: str = "operator", role: str | None = None) -> Story:
        """One more piece of history; a rule that it breaks is an error of the test."""
        self.book.issue(command, by, role)
        return self

    def later(self, span: timedelta) -> Story:
        self.book.now += span
        return self

    def refused_with(self, rule: type[Rejected], **facts: Any) -> Story:
        assert type(self.outcome) is rule, f"expected {rule.__name__}, got {self.outcome!r}"
        assert isinstance(self.outcome, Rejected)
        assert {name: self.outcome.facts[name] for name in facts} == facts
        return self

    def account(self, name: str) -> Account:
        return self.book.read(accounts, name)

    def posted(self, name: str, asset: str = FOG) -> int:
        return self.account(name).posted.get(asset, 0)

    def asset(self, code: str = FOG) -> Asset:
        return self.book.read(assets, code)

    def hold(self, name: str) -> Hold:
        return self.book.read(holds, name)

    def validator(self, name: str = "v1") -> Validator:
        return self.book.read(validators, name)

    def position(self, delegator: str, at: str = "v1") -> Position:
        return self.book.read(positions, f"{at}:{delegator}")

    def entries(self, at: str = "v1") -> dict[str, Any]:
        kept: Unbondings = self.book.read(unbondings, at)
        return dict(kept.entries)

    def worth(self, delegator: str, at: str = "v1") -> int:
        return self.validator(at).worth(self.position(delegator, at).shares)

    def pending(self, delegator: str, at: str = "v1") -> int:
        return self.position(delegator, at).earned(self.validator(at).ratio)

    @property
    def last_command(self) -> str:
        """The id of the last command that was accepted; lots, entries and transactions are named so."""
        return f"c{self.book.commands}"


def story(*history: Any) -> Story:
    return Story(given(*history).book)


def system_total(book: Book, asset: str = FOG) -> int:
    """The sum of all accounts, `world` included: always zero."""
    return sum(account.posted.get(asset, 0) for account in _accounts(book))


def _accounts(book: Book) -> Iterable[Account]:
    return (state for state in book.states.values() if isinstance(state, Account))
