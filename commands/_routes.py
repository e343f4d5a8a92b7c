"""Which commands there are in HTTP: a line a command in the file of each context (`commands/ledger.py`, ...)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from commands._subjects import personal_fields
from domain._kernel import Ref, kebab

Main = Callable[[Any, str], Ref]

PARTICIPANT = frozenset({"operator", "participant", "provider"})
"""Whoever acts for himself; an operator too, for himself or, with act-as, for another."""
OPERATOR = frozenset({"operator"})
SERVICE = frozenset({"operator", "worker"})
ANYONE = PARTICIPANT | SERVICE


@dataclass(frozen=True, slots=True)
class Route:
    """One command's place in HTTP."""

    context: str
    command: type
    roles: frozenset[str]
    main: Main | None
    """The stream that If-Match speaks of, from the command and the principal."""
    name: str
    """`ledger/transfer`"""
    personal: tuple[str, ...]
    """Its fields that are sealed before anything stores them."""

    scope: str
    """What a key that is restricted to scopes needs one of: this, or `commands`."""

    @property
    def path(self) -> str:
        return f"/commands/{self.name}"


ROUTES: dict[str, Route] = {}


class Context:
    """The routes of one context: a line a command."""

    def __init__(self, name: str) -> None:
        self.name = name.rpartition(".")[2]

    def post(self, command: type, roles: frozenset[str], main: Main | None = None) -> None:
        name = f"{self.name}/{kebab(command.__name__)}"
        fields, scope = personal_fields(command), f"commands:{self.name}"
        ROUTES[name] = Route(self.name, command, roles, main, name, fields, scope)
