"""What a verification saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

MOST_NAMED = 100

Tick = Callable[[int, int], None]
"""Takes how much is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be."""

    zone: str
    what: str
    position: int | None = None
    command: int | None = None
    stream: str | None = None
    table: str | None = None
    row: list[Any] | None = None
    field: str | None = None

    def __str__(self) -> str:
        where = [f"zone {self.zone}"] if self.zone else []
        if self.table is not None:
            row = "/".join(map(str, self.row)) if self.row else ""
            where.append(f"{self.table} row {row}" if row else self.table)
        for name in ("field", "stream", "command", "position"):
            if (value := getattr(self, name)) is not None:
                where.append(f"{name} {value}")
        return f"{', '.join(where)}: {self.what}"


@dataclass
class Found:
    """The first differences by name, all of them by number; and how much was looked at."""

    problems: list[Difference] = field(default_factory=list)
    count: int = 0
    events: int = 0
    commands: int = 0
    rows: int = 0
    attestations: int = 0
    signatures: int = 0
    """Of checkpoints, witnesses and packets between zones."""
    snapshots: int = 0
    unread: int = 0
    """What other code made (snapshots, attestations, past rows): this one never reads it, and cannot check it."""
    set_aside: int = 0
    """Events that a live read model lacks, because its handlers fail at them or operators discarded them."""
    unproven: list[str] = field(default_factory=list)
    """What is unread and set aside, by name."""

    def add(self, zone: str, what: str, position: int | None = None, **where: Any) -> None:
        self.count += 1
        if len(self.problems) < MOST_NAMED:
            self.problems.append(Difference(zone, what, position, **where))

    def leave(self, zone: str, what: str, count: int = 1) -> None:
        """Something cannot be checked here."""
        self.unread += count
        self._say(zone, what)

    def leave_aside(self, zone: str, what: str, count: int) -> None:
        """Events are rightly missing in a read model: it does not say all that the log does."""
        self.set_aside += count
        self._say(zone, what)

    def _say(self, zone: str, what: str) -> None:
        if len(self.unproven) < MOST_NAMED:
            self.unproven.append(f"zone {zone}: {what}")

    def take(self, other: Found) -> None:
        """Add what somebody else found."""
        self.unproven.extend(other.unproven[: MOST_NAMED - len(self.unproven)])
        self.problems.extend(other.problems[: MOST_NAMED - len(self.problems)])
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_json(self) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in COUNTS if name != "count"}
        return {
            "ok": not self.count,
            "differences": self.count,
            **counts,
            "named": [asdict(each) for each in self.problems],
            "unproven": self.unproven,
        }


COUNTS = (
    *(
        "count",
        "events",
        "commands",
        "rows",
        "attestations",
        "signatures",
        "snapshots",
        "unread",
        "set_aside",
    ),
)
