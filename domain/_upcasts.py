"""What the events of types that are gone have become.

An event is stored for ever, under the name and in the shape of its day. A field may be added to a type, with a default
that says what older events mean. For any other change the new shape gets a name of its own, the old class goes, and
a pure function here turns the stored fields of the old type into those of the new one:

    @upcast("TokensTaken", into="Debited")
    def tokens_taken(stored: Fields) -> Fields:
        return {"asset": FOG, "amount": stored["quantity"], "transaction": stored["tx"]}

Folds, projections and queries meet the new class only; what is stored stays as it was hashed. The new type may be gone
as well by now: then its own function goes on from there. One event becomes one event, on the stream that it is on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Fields = dict[str, Any]
"""An event's data as it is stored: amounts are strings there, times as well."""
Turn = Callable[[Fields], Fields]


class Upcast(NamedTuple):
    into: str
    turn: Turn


UPCASTS: dict[str, Upcast] = {}
"""By the name of the type that is gone."""


def upcast(old: str, *, into: str) -> Callable[[Turn], Turn]:
    def register(turn: Turn) -> Turn:
        if old in UPCASTS:
            raise TypeError(f"{old} is upcast twice")
        if old in (into, *(step.into for step in steps_from(into))):
            raise TypeError(f"{old} would become itself")
        UPCASTS[old] = Upcast(into, turn)
        return turn

    return register


def steps_from(name: str) -> list[Upcast]:
    """From a type to what it is today; nothing for a type of today. It ends, since no type becomes itself."""
    steps = []
    while name in UPCASTS:
        steps.append(UPCASTS[name])
        name = steps[-1].into
    return steps


def former_names(name: str) -> list[str]:
    """The types that have become this one."""
    return [old for old in UPCASTS if steps_from(old)[-1].into == name]
