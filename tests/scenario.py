"""given(history).when(command, by=...).then(events or a rule): how the domain's tests are written.

`Book` is the smallest possible system: it keeps folded states in a dictionary and applies decisions to it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from commands._signatures import verify
from domain._kernel import Issued, Ref, Rejected, Stream, balance, snake
from domain.principals import CommandSigned, may_act_unsigned, signed

START = datetime(2026, 1, 1, tzinfo=UTC)


def decision_of(command: Any) -> Any:
    """The function of the same name beside the command's class."""
    return getattr(sys.modules[type(command).__module__], snake(type(command).__name__))


@dataclass
class Book:
    states: dict[str, Any] = field(default_factory=dict)
    events: list[tuple[str, Any]] = field(default_factory=list)
    by_command: dict[str, list[Any]] = field(default_factory=dict)
    commands: int = 0
    now: datetime = START

    def read(self, stream: Stream[Any], id: str) -> Any:
        name = stream.name(id)
        if name in self.states:
            return self.states[name]
        state = stream.initial
        if stream.of_command:
            for event in self.by_command.get(id, ()):
                state = stream.evolve(state, event)
        return state

    def apply(self, where: Ref, event: Any) -> None:
        id = where.name if where.stream.whole_names else where.name.split(":", 1)[1]
        self.states[where.name] = where.stream.evolve(self.read(where.stream, id), event)
        self.events.append((where.name, event))

    def issue(
        self,
        command: Any,
        by: str = "operator",
        role: str | None = None,
        signature: CommandSigned | None = None,
    ) -> list[Any]:
        """Decide and apply; on a rule everything is as it was. Returns the events."""
        decide = decision_of(command)
        if signature is not None:
            decide = signed(decide, signature)
        role = role or ("operator" if by == "operator" else "participant")
        issued = Issued(by, self.now, role, f"c{self.commands + 1}", verify)
        states, events = dict(self.states), list(self.events)
        decided: list[tuple[Ref, Any]] = []
        try:
            if signature is None:
                may_act_unsigned(type(command), issued, self.read)
            for where, event in decide(command, issued, self.read):
                decided.append((where, event))
                self.apply(where, event)
        except Rejected:
            self.states, self.events = states, events
            raise
        assert not balance(decided), "the postings of a command add up to zero"
        self.commands += 1
        self.by_command[issued.command_id] = [event for _, event in decided]
        return [event for _, event in decided]


@dataclass
class Scenario:
    book: Book
    outcome: list[Any] | Rejected | None = None

    def when(
        self,
        command: Any,
        by: str = "operator",
        role: str | None = None,
        after: timedelta | None = None,
        signature: CommandSigned | None = None,
    ) -> Scenario:
        self.book.now += after or timedelta()
        try:
            self.outcome = self.book.issue(command, by, role, signature)
        except Rejected as rule:
            self.outcome = rule
        return self

    def then(self, *expected: Any) -> Scenario:
        """Either one rule (its class), or all the events in order (values or classes)."""
        if len(expected) == 1 and isinstance(expected[0], type) and issubclass(expected[0], Rejected):
            assert type(self.outcome) is expected[0], f"expected {expected[0].__name__}, got {self.outcome!r}"
            return self
        assert isinstance(self.outcome, list), f"refused by {self.outcome!r}"
        got = [type(e) if isinstance(x, type) else e for e, x in zip(self.outcome, expected, strict=False)]
        assert (got, len(self.outcome)) == (list(expected), len(expected)), self.outcome
        return self


def given(*history: Any) -> Scenario:
    """History: `(ref, event)` pairs, or `(command, by)` pairs, or iterables of either."""
    book = Book()
    for item in history:
        _apply(book, item)
    return Scenario(book)


def _apply(book: Book, item: Any) -> None:
    match item:
        case (Ref() as where, event):
            book.apply(where, event)
        case (command, str() as by):
            book.issue(command, by)
        case Iterable():
            for each in item:
                _apply(book, each)
        case _:
            book.issue(item)
