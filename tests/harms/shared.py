"""What harms to the log have in common."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import Any

from commands._codec import fate_leaf, microseconds, zone_prefix

PREFIX = zone_prefix("main")
EVENT = "WHERE zone = 'main' AND position = %s"
FATE = "WHERE zone = 'main' AND number = %s"
FATE_COLUMNS = (
    "number, principal, act_as, key, request, if_match, status, answer, position, events, recorded_at, leaf"
)


def leaf_of(fate: list[Any]) -> bytes:
    values = [*fate[:10], microseconds(fate[10])]
    return fate_leaf(PREFIX, *values)


def some_time(rng: Random) -> timedelta:
    return timedelta(microseconds=rng.choice((1, 10**3, 10**6, 10**9, 86_400 * 10**6)))
