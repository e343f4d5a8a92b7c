"""A type of event that is gone, for as long as a test lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from commands._codec import event_decoder, event_types, stored_types
from domain._upcasts import UPCASTS, Turn, upcast
from ops.parquet import _has_posting
from projections._engine import all_projections


@contextmanager
def becomes(old: str, into: str, turn: Turn) -> Iterator[None]:
    """Events of the old type are of another one today."""
    upcast(old, into=into)(turn)
    _forget()
    try:
        yield
    finally:
        del UPCASTS[old]
        _forget()


def _forget() -> None:
    for known in (stored_types, event_decoder, _has_posting):
        known.cache_clear()  # type: ignore[attr-defined]


def learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare all handlers once more, as a process does that starts with these upcasts."""
    for projection in all_projections().values():
        declared = projection.parts
        monkeypatch.setattr(projection, "handlers", {})
        monkeypatch.setattr(projection, "parts", {})
        for name, handlers in declared.items():
            for handler in handlers:
                projection.on(event_types()[name])(handler)


def tokens_taken(debited: dict[str, Any]) -> dict[str, Any]:
    """How a `Debited` looked when it was called TokensTaken."""
    return {
        "coin": debited["asset"],
        "quantity": debited["amount"],
        "route": {"to": debited["to"], "purpose": debited["purpose"]},
        "note": [debited["reference"], debited["memo"]],
    }


def debited(taken: dict[str, Any]) -> dict[str, Any]:
    """Its upcast."""
    reference, memo = taken["note"]
    return {
        "asset": taken["coin"],
        "amount": taken["quantity"],
        "reference": reference,
        "memo": memo,
    } | taken["route"]
