"""Who calls, and what he may do: a role, the zones that he may enter, and scopes.

Scopes are of two kinds. `act-as` and `act-at` allow what a role alone does not. `commands`, `commands:<context>`,
`queries`, `queries:<context>` and `history` restrict: whoever has one of them may do only what his say; whoever has
none may do all that his role may.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from domain.ledger import NAMES_OF_THE_ZONE
from ops.problems import Problem

ROLES = ("operator", "participant", "provider", "auditor", "worker")
ACTING = frozenset({"act-as", "act-at"})
SCOPES = "act-as, act-at, commands, commands:<context>, queries, queries:<context>, history"
LIMIT = re.compile(r"(?:commands|queries)(?::[a-z][a-z0-9-]{0,62})?\Z|history\Z")


@dataclass(frozen=True, slots=True)
class Caller:
    key_id: str
    """An API key's id; `token:<subject>` where the caller came with a token."""
    principal: str
    role: str
    scopes: frozenset[str]
    zones: frozenset[str]
    issuer: str = ""
    """Of the token; empty where there is none."""
    limits: frozenset[str] = field(init=False, compare=False)
    """His scopes that restrict."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", self.scopes - ACTING)

    def may_enter(self, zone: str) -> bool:
        return zone in self.zones or "*" in self.zones

    def needs(self, scope: str) -> None:
        """Raises Problem 403 where he is restricted to other scopes."""
        limits = self.limits
        if limits and scope not in limits and scope.partition(":")[0] not in limits:
            raise self._lacks(scope)

    def needs_some(self, kind: str) -> None:
        """The same where any scope of a kind (`commands`) is enough to begin with."""
        if self.limits and not any(limit.partition(":")[0] == kind for limit in self.limits):
            raise self._lacks(kind)

    def _lacks(self, scope: str) -> Problem:
        return Problem(
            403,
            "scope-missing",
            "The key is restricted to other scopes than the one that this needs.",
            headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
            scope=scope,
            scopes=sorted(self.limits),
        )


def is_scope(text: str) -> bool:
    return text in ACTING or LIMIT.match(text) is not None


def is_reserved(principal: str) -> bool:
    """Whether a name is that of an account of the zone's own, so that nobody may bear it."""
    return principal in NAMES_OF_THE_ZONE


class Unauthenticated(Problem):
    """It is not known who calls. `reason` and `key_id` are for the record; the answer tells neither."""

    def __init__(self, reason: str, detail: str, *, key_id: str = "", challenge: str = "Bearer") -> None:
        super().__init__(401, "unauthenticated", detail, headers={"WWW-Authenticate": challenge})
        self.reason = reason
        self.key_id = key_id
